/* null and ringbuf: chardevs without a host side. SPDX-License-Identifier: GPL-2.0-or-later */
#include "chardev/chardev_internal.h"

#include "base/error.h"

#include <string.h>

static const ChardevDriver null_driver = {
    .name = "null",
    .instance_size = sizeof(Chardev),
};
CHARDEV_DRIVER(null_driver);

typedef struct RingBuf {
    Chardev chr;
    uint8_t *data;
    uint64_t size, produced, consumed;
} RingBuf;

static bool ringbuf_open(Chardev *chr, const QapiChardevBackend *backend, GError **error)
{
    RingBuf *r = (RingBuf *)chr;

    const QapiChardevRingbuf *o = backend->type == QAPI_CHARDEV_BACKEND_KIND_MEMORY
                                      ? backend->u_memory->data
                                      : backend->u_ringbuf->data;

    r->size = o->has_size ? o->size : 65536;
    if (!r->size || (r->size & (r->size - 1)) || r->size > (64u << 20)) {
        return error_set(error, "%s: the size of a ringbuf must be a power of two, at most 64M", chr->what);
    }
    r->data = g_malloc(r->size);
    chr->be_open = true;
    return true;
}

static void ringbuf_close(Chardev *chr)
{
    g_free(((RingBuf *)chr)->data);
}

static ssize_t ringbuf_put(Chardev *chr, const uint8_t *data, size_t size)
{
    RingBuf *r = (RingBuf *)chr;

    for (size_t i = 0; i < size; i++) {
        r->data[r->produced++ & (r->size - 1)] = data[i];
    }
    if (r->produced - r->consumed > r->size) {
        r->consumed = r->produced - r->size;
    }
    return (ssize_t)size;
}

static const ChardevDriver ringbuf_driver = {
    .name = "ringbuf",
    .instance_size = sizeof(RingBuf),
    .open = ringbuf_open,
    .close = ringbuf_close,
    .write = ringbuf_put,
};
CHARDEV_DRIVER(ringbuf_driver);

static Chardev *find_ringbuf(ChardevRegistry *reg, const char *id, GError **error)
{
    Chardev *chr = chardev_find(reg, id);

    if (!chr) {
        error_set(error, "Device '%s' not found", id);
        return NULL;
    }
    if (chr->driver != &ringbuf_driver) {
        error_set(error, "'%s' is not a ringbuf device", id);
        return NULL;
    }
    return chr;
}

char *chardev_ringbuf_read(ChardevRegistry *reg, const char *id, size_t size, size_t *read, GError **error)
{
    Chardev *chr = find_ringbuf(reg, id, error);
    RingBuf *r = (RingBuf *)chr;
    char *text;

    if (!chr) {
        return NULL;
    }
    pthread_mutex_lock(&chr->lock);
    *read = MIN(size, r->produced - r->consumed);
    text = g_malloc(*read + 1);
    for (size_t i = 0; i < *read; i++) {
        text[i] = (char)r->data[r->consumed++ & (r->size - 1)];
    }
    text[*read] = '\0';
    pthread_mutex_unlock(&chr->lock);
    return text;
}

bool chardev_ringbuf_write(ChardevRegistry *reg, const char *id, const void *data, size_t size,
                           GError **error)
{
    Chardev *chr = find_ringbuf(reg, id, error);

    if (!chr) {
        return false;
    }
    pthread_mutex_lock(&chr->lock);
    ringbuf_put(chr, data, size);
    pthread_mutex_unlock(&chr->lock);
    return true;
}
