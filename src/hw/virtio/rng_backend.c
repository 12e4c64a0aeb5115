/* Sources of random numbers: see rng_backend.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/virtio/rng_backend.h"

#include "base/error.h"
#include "object/property.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

typedef struct RngBackendClass {
    ObjectClass parent_class;
    bool (*open)(RngBackend *b, GError **error);
    ssize_t (*read)(RngBackend *b, void *buffer, size_t size);
} RngBackendClass;

typedef struct RngRandom {
    RngBackend parent_obj;
    char *filename;
} RngRandom;

bool rng_backend_open(RngBackend *b, GError **error)
{
    RngBackendClass *klass = OBJECT_GET_CLASS(RngBackendClass, b);
    return !klass->open || b->fd >= 0 || klass->open(b, error);
}

ssize_t rng_backend_read(RngBackend *b, void *buffer, size_t size)
{
    ssize_t result = OBJECT_GET_CLASS(RngBackendClass, b)->read(b, buffer, size);
    return result < 0 ? -errno : result;
}

static bool backend_complete(Object *obj, GError **error)
{
    return rng_backend_open(RNG_BACKEND(obj), error);
}

static bool backend_can_be_deleted(Object *obj)
{
    return !RNG_BACKEND(obj)->used;
}

static const UserCreatableOps backend_ops = { .complete = backend_complete,
                                              .can_be_deleted = backend_can_be_deleted };

static void backend_class_init(ObjectClass *klass, const void *data)
{
    user_creatable_class_set(klass, &backend_ops);
}

static void backend_init(Object *obj)
{
    ((RngBackend *)obj)->fd = -1;
}

static void backend_finalize(Object *obj)
{
    RngBackend *b = (RngBackend *)obj;
    if (b->fd >= 0) {
        close(b->fd);
    }
}

static const char *const user_creatable[] = { TYPE_USER_CREATABLE, NULL };
static const TypeInfo backend_info = {
    .name = TYPE_RNG_BACKEND,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(RngBackend),
    .class_size = sizeof(RngBackendClass),
    .abstract = true,
    .class_init = backend_class_init,
    .instance_init = backend_init,
    .instance_finalize = backend_finalize,
    .interfaces = user_creatable,
};
TYPE_REGISTER(backend_info);

static ssize_t builtin_read(RngBackend *b, void *buffer, size_t size)
{
    return getrandom(buffer, size, GRND_NONBLOCK);
}

static void builtin_class_init(ObjectClass *klass, const void *data)
{
    ((RngBackendClass *)klass)->read = builtin_read;
    user_creatable_class_set(klass, &backend_ops);
}

static const TypeInfo builtin_info = {
    .name = TYPE_RNG_BUILTIN,
    .parent = TYPE_RNG_BACKEND,
    .description = "random numbers of the host kernel",
    .class_init = builtin_class_init,
};
TYPE_REGISTER(builtin_info);

static bool random_open(RngBackend *b, GError **error)
{
    const char *filename = ((RngRandom *)b)->filename;
    b->fd = open(filename, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (b->fd < 0) {
        return error_set_errno(error, errno, "Could not open '%s'", filename);
    }
    return true;
}

static ssize_t random_read(RngBackend *b, void *buffer, size_t size)
{
    return read(b->fd, buffer, size);
}

static const Property random_properties[] = {
    PROP_STR("filename", RngRandom, filename, "/dev/urandom", "the device or FIFO to read"),
    PROP_END,
};

static void random_class_init(ObjectClass *klass, const void *data)
{
    ((RngBackendClass *)klass)->open = random_open;
    ((RngBackendClass *)klass)->read = random_read;
    user_creatable_class_set(klass, &backend_ops);
    object_class_add_properties(klass, random_properties);
}

static const TypeInfo random_info = {
    .name = TYPE_RNG_RANDOM,
    .parent = TYPE_RNG_BACKEND,
    .description = "random numbers from a host file",
    .instance_size = sizeof(RngRandom),
    .class_init = random_class_init,
};
TYPE_REGISTER(random_info);
