/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "loop/iothread.h"

#include "base/error.h"
#include "object/property.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#define POLL_MAX_NS_DEFAULT 32768 /* ns; QEMU's default, which users' figures are based on */

struct IoThread {
    Object parent;
    Loop *loop;
    GThread *thread;
    pid_t thread_id; /* atomic */
    int64_t poll_max_ns, poll_grow, poll_shrink;
    int64_t pool_min, pool_max, batch;
};

static void apply(IoThread *t)
{
    if (t->loop) {
        loop_set_polling(t->loop, t->poll_max_ns, t->poll_grow, t->poll_shrink);
        loop_set_io_batch(t->loop, (int)t->batch);
    }
}

static void apply_pool(void *opaque)
{
    IoThread *t = opaque;

    loop_set_thread_pool(t->loop, (int)t->pool_min, (int)t->pool_max);
}

/* ---- properties: all are numbers that may change while it runs ---- */

typedef struct Knob {
    const char *name;
    size_t offset;
    int64_t max;
    const char *default_json, *description;
} Knob;

static const Knob knobs[] = {
    { "poll-max-ns", offsetof(IoThread, poll_max_ns), G_MAXINT64, "32768",
      "longest busy polling, in ns; 0: none" },
    { "poll-grow", offsetof(IoThread, poll_grow), G_MAXINT64, "0", "factor by which polling grows; 0: 2" },
    { "poll-shrink", offsetof(IoThread, poll_shrink), G_MAXINT64, "0",
      "divisor by which polling shrinks; 0: to none" },
    { "thread-pool-min", offsetof(IoThread, pool_min), 4096, "0", "worker threads that stay" },
    { "thread-pool-max", offsetof(IoThread, pool_max), 4096, "64", "worker threads at most" },
    { "aio-max-batch", offsetof(IoThread, batch), 1 << 20, "0",
      "requests given to the kernel at once; 0: 32" },
};

static bool knob_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const Knob *knob = opaque;

    return visit_int64(v, name, (int64_t *)((char *)obj + knob->offset), error);
}

static bool knob_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    const Knob *knob = opaque;
    IoThread *t = (IoThread *)obj;
    int64_t *field = (int64_t *)((char *)obj + knob->offset), value, old = *field;

    if (!visit_int64(v, name, &value, error)) {
        return false;
    }
    if (value < 0 || value > knob->max) {
        return error_set(error, "%s value must be in range [0, %" G_GINT64_FORMAT "]", name, knob->max);
    }
    *field = value;
    if (t->pool_max < 1 || t->pool_min > t->pool_max) {
        *field = old;
        return error_set(error, "bad thread-pool-min/thread-pool-max values");
    }
    apply(t);
    if (t->loop && (field == &t->pool_min || field == &t->pool_max)) {
        loop_call_sync(t->loop, apply_pool, t);
    }
    return true;
}

/* ---- life ---- */

typedef struct Start {
    IoThread *t;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool running;
} Start;

static void started(void *opaque)
{
    Start *start = opaque;

    pthread_mutex_lock(&start->mutex);
    start->running = true;
    pthread_cond_signal(&start->cond);
    pthread_mutex_unlock(&start->mutex);
}

static gpointer iothread_main(gpointer opaque)
{
    IoThread *t = opaque;

    __atomic_store_n(&t->thread_id, gettid(), __ATOMIC_RELEASE);
    loop_run(t->loop);
    return NULL;
}

static bool iothread_complete(Object *obj, GError **error)
{
    IoThread *t = (IoThread *)obj;
    g_autofree char *name = NULL;
    Start start = { .t = t };
    sigset_t all, old;

    t->loop = loop_new(NULL, error);
    if (!t->loop) {
        return false;
    }
    apply(t);
    loop_set_thread_pool(t->loop, (int)t->pool_min, (int)t->pool_max);
    pthread_mutex_init(&start.mutex, NULL);
    pthread_cond_init(&start.cond, NULL);
    loop_call(t->loop, started, &start);
    name = g_strdup_printf("IO %s",
                           object_get_name_in_parent(obj) ? object_get_name_in_parent(obj) : "iothread");
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    t->thread = g_thread_new(name, iothread_main, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_mutex_lock(&start.mutex);
    while (!start.running) { /* so that calls into the loop find it running */
        pthread_cond_wait(&start.cond, &start.mutex);
    }
    pthread_mutex_unlock(&start.mutex);
    pthread_cond_destroy(&start.cond);
    pthread_mutex_destroy(&start.mutex);
    return true;
}

static void iothread_init(Object *obj)
{
    IoThread *t = (IoThread *)obj;

    t->poll_max_ns = POLL_MAX_NS_DEFAULT;
    t->pool_max = 64;
}

static void iothread_finalize(Object *obj)
{
    IoThread *t = (IoThread *)obj;

    if (t->thread) {
        loop_quit(t->loop);
        g_thread_join(t->thread);
    }
    loop_free(t->loop);
}

static const UserCreatableOps iothread_creatable = { .complete = iothread_complete };

static void iothread_class_init(ObjectClass *klass, const void *class_data)
{
    user_creatable_class_set(klass, &iothread_creatable);
    for (size_t i = 0; i < G_N_ELEMENTS(knobs); i++) {
        ObjectProperty *p =
            object_class_property_add(klass, knobs[i].name, "int", knob_get, knob_set, (void *)&knobs[i]);

        object_property_set_description(p, knobs[i].description);
        object_property_set_default_json(p, knobs[i].default_json);
    }
}

static const char *const iothread_interfaces[] = { TYPE_USER_CREATABLE, NULL };
static const TypeInfo iothread_info = {
    .name = TYPE_IOTHREAD,
    .parent = TYPE_OBJECT,
    .description = "a thread with an event loop of its own",
    .instance_size = sizeof(IoThread),
    .class_init = iothread_class_init,
    .instance_init = iothread_init,
    .instance_finalize = iothread_finalize,
    .interfaces = iothread_interfaces,
};
TYPE_REGISTER(iothread_info);

Loop *iothread_get_loop(IoThread *iothread)
{
    return iothread->loop;
}

pid_t iothread_thread_id(const IoThread *iothread)
{
    return __atomic_load_n(&iothread->thread_id, __ATOMIC_ACQUIRE);
}

static bool add_one(Object *child, void *opaque)
{
    IoThread *t = object_dynamic_cast(child, TYPE_IOTHREAD);
    json_object *o;

    if (t) {
        o = json_object_new_object();
        json_object_object_add(o, "poll-shrink", json_object_new_int64(t->poll_shrink));
        json_object_object_add(o, "thread-id", json_object_new_int64(iothread_thread_id(t)));
        json_object_object_add(o, "aio-max-batch", json_object_new_int64(t->batch));
        json_object_object_add(o, "poll-grow", json_object_new_int64(t->poll_grow));
        json_object_object_add(o, "poll-max-ns", json_object_new_int64(t->poll_max_ns));
        json_object_object_add(o, "id", json_object_new_string(object_get_name_in_parent(child)));
        json_object_array_add(opaque, o);
    }
    return true;
}

json_object *iothread_query(Object *root)
{
    json_object *list = json_object_new_array();

    object_child_foreach(container_get(root, "/objects"), false, add_one, list);
    return list;
}
