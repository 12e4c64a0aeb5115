/*
 * virtio-rng: random numbers for the guest. Source: VIRTIO 1.2, section 5.4.
 *
 * One queue of writable buffers, which are filled from an rng-backend (its own rng-builtin where none is
 * given), at most max-bytes in each period. Runs in the main loop. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/virtio/rng_backend.h"
#include "hw/virtio/virtio_device.h"
#include "trace/trace.h"

#include <errno.h>

TRACE_EVENT(virtio_rng_fill, "asked %zu given %zd quota %" G_GINT64_MODIFIER "u")

#define TYPE_VIRTIO_RNG "virtio-rng-device"
#define QUEUE_SIZE      8
#define MAX_FILL        65536 /* of one buffer: the driver asks again */

typedef struct VirtioRng {
    VirtioDevice parent_obj;
    /* saved */
    uint64_t quota; /* bytes left in this period */
    Timer period_timer;
    /* from properties */
    RngBackend *rng;
    uint64_t max_bytes;
    uint32_t period_ms;
    /* derived */
    RngBackend *own; /* made where the user gave none */
    RngBackend *source;
    VirtQueue *vq;
    LoopFd *waiting; /* for the source's descriptor */
} VirtioRng;
#define VIRTIO_RNG(obj) OBJECT_CHECK(VirtioRng, obj, TYPE_VIRTIO_RNG)

static void process(VirtioRng *s);

static void source_readable(void *opaque)
{
    VirtioRng *s = opaque;
    loop_fd_set(s->waiting, NULL, NULL);
    process(s);
}

static void wait_for_source(VirtioRng *s)
{
    if (s->source->fd < 0) {
        return;
    }
    if (s->waiting) {
        loop_fd_set(s->waiting, source_readable, NULL);
    } else {
        s->waiting =
            loop_add_fd(s->vq->loop, s->source->fd, source_readable, NULL, NULL, s, s->parent_obj.home);
    }
}

static int64_t now_ns(const VirtioRng *s)
{
    return clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL);
}

static void process(VirtioRng *s)
{
    bool pushed = false;
    if (!virtio_device_active(&s->parent_obj)) {
        return;
    }
    if (!timer_pending(&s->period_timer) && s->max_bytes < INT64_MAX) {
        timer_set(&s->period_timer, now_ns(s) + (int64_t)s->period_ms * 1000000);
    }
    while (s->quota > 0) {
        VirtQueueElement *e = virtqueue_pop(s->vq, sizeof(*e));
        if (!e) {
            break;
        }
        uint8_t bytes[MAX_FILL];
        size_t size = MIN(MIN(e->in_size, s->quota), sizeof(bytes));
        ssize_t got = size ? rng_backend_read(s->source, bytes, size) : 0;
        TRACE(virtio_rng_fill, size, got, s->quota);
        if (got == -EAGAIN || got == -EINTR || (got == 0 && size)) {
            virtqueue_unpop(s->vq, e);
            if (got == -EAGAIN) {
                wait_for_source(s);
            } else if (got == -EINTR) {
                continue;
            }
            break;
        }
        got = MAX(got, 0);
        iov_write(e->in, e->in_count, 0, bytes, (size_t)got);
        s->quota -= (uint64_t)got;
        virtqueue_push(s->vq, e, (size_t)got);
        pushed = true;
    }
    if (pushed) {
        virtqueue_notify(s->vq);
    }
}

static void handle_queue(VirtioDevice *vdev, VirtQueue *vq)
{
    process(VIRTIO_RNG(vdev));
}

static void period_over(void *opaque)
{
    VirtioRng *s = opaque;
    s->quota = s->max_bytes;
    process(s);
}

static bool rng_realize(VirtioDevice *vdev, GError **error)
{
    VirtioRng *s = VIRTIO_RNG(vdev);
    if (s->period_ms == 0 || s->max_bytes == 0) {
        return error_set(error, "'max-bytes' and 'period' must be positive");
    }
    if (s->max_bytes > INT64_MAX) {
        return error_set(error, "'max-bytes' parameter must be non-negative, and less than 2^63");
    }
    s->source = s->rng;
    if (!s->source) {
        s->own = RNG_BACKEND(object_new_known(TYPE_RNG_BUILTIN));
        object_property_add_child(OBJECT(s), "default-backend", OBJECT(s->own), NULL);
        object_unref(OBJECT(s->own));
        s->source = s->own;
    }
    if (s->source->used) {
        error_set(error, "rng backend is in use by another device");
        goto fail;
    }
    if (!rng_backend_open(s->source, error)) {
        goto fail;
    }
    s->source->used = true;
    s->quota = s->max_bytes;
    timer_init(&s->period_timer, DEVICE(vdev)->env->loop, DEVICE(vdev)->env->clocks, CLOCK_TYPE_VIRTUAL,
               period_over, s, vdev->home);
    s->vq = virtio_queue_add(vdev, QUEUE_SIZE, handle_queue, NULL);
    return true;
fail:
    if (s->own) {
        object_unparent(OBJECT(s->own));
        s->own = NULL;
    }
    return false;
}

static void rng_unrealize(VirtioDevice *vdev)
{
    VirtioRng *s = VIRTIO_RNG(vdev);
    timer_destroy(&s->period_timer);
    if (s->waiting) {
        loop_remove_fd(s->waiting);
        s->waiting = NULL;
    }
    s->source->used = false;
    if (s->own) {
        object_unparent(OBJECT(s->own));
        s->own = NULL;
    }
}

static void rng_reset(VirtioDevice *vdev)
{
    VirtioRng *s = VIRTIO_RNG(vdev);
    s->quota = s->max_bytes;
    timer_cancel(&s->period_timer);
}

static const Property rng_properties[] = {
    PROP_LINK("rng", VirtioRng, rng, TYPE_RNG_BACKEND,
              "where random numbers come from (default: the host kernel)"),
    PROP_UINT64("max-bytes", VirtioRng, max_bytes, INT64_MAX, "bytes that the guest gets in each period"),
    PROP_UINT32("period", VirtioRng, period_ms, 65536, "length of a period in ms"),
    PROP_END,
};

static const VmStateField rng_fields[] = {
    VMS_STRUCT(parent_obj, VirtioRng, virtio_device_vmstate),
    VMS_UINT64(quota, VirtioRng),
    VMS_TIMER(period_timer, VirtioRng),
    VMS_END,
};
static const VmState rng_vmstate = { .name = "virtio-rng", .version = 1, .fields = rng_fields };

static void rng_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &rng_vmstate;
    DEVICE_CLASS(klass)->category = "Misc";
    vc->virtio_id = VIRTIO_ID_ENTROPY;
    vc->realize = rng_realize;
    vc->unrealize = rng_unrealize;
    vc->reset = rng_reset;
    object_class_add_properties(klass, rng_properties);
}

static const TypeInfo rng_info = {
    .name = TYPE_VIRTIO_RNG,
    .parent = TYPE_VIRTIO_DEVICE,
    .description = "virtio random numbers",
    .instance_size = sizeof(VirtioRng),
    .class_init = rng_class_init,
};
TYPE_REGISTER(rng_info);
