/*
 * virtio-balloon: memory that the guest gives back. Source: VIRTIO 1.2, section 5.5.
 *
 * Inflate and deflate queues, statistics, free page reporting, deflate on OOM. Left out: free page hints
 * (they serve migration) and page poisoning.
 *
 * Pages that come in are dropped from the host's memory; they read as zero when the guest takes them again.
 * Runs in the main loop with the home lock held. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/virtio/virtio_balloon.h"

#include "base/error.h"
#include "hw/virtio/virtio_device.h"
#include "mem/rcu.h"
#include "trace/trace.h"

#include <string.h>
#include <sys/mman.h>

TRACE_EVENT(virtio_balloon_page, "gpa 0x%" G_GINT64_MODIFIER "x dropped %d")
TRACE_EVENT(virtio_balloon_config, "target %u actual %u")

#define TYPE_VIRTIO_BALLOON "virtio-balloon-device"
#define QUEUE_SIZE          128
#define REPORT_SIZE         32
#define PAGE_BITS           12 /* of a balloon page (5.5.6), whatever the guest's are */

enum { F_STATS_VQ = 1, F_DEFLATE_ON_OOM = 2, F_REPORTING = 5 };

typedef struct __attribute__((packed)) BalloonConfig {
    uint32_t num_pages, actual;
} BalloonConfig;

/* Statistics (5.5.6.4), by tag. */
static const char *const stat_names[] = {
    "stat-swap-in",      "stat-swap-out",     "stat-major-faults",     "stat-minor-faults",
    "stat-free-memory",  "stat-total-memory", "stat-available-memory", "stat-disk-caches",
    "stat-htlb-pgalloc", "stat-htlb-pgfail",
};
#define STATS G_N_ELEMENTS(stat_names)
typedef struct __attribute__((packed)) Stat {
    uint16_t tag;
    uint64_t value;
} Stat;

typedef struct VirtioBalloon {
    VirtioDevice parent_obj;
    /* saved */
    uint32_t num_pages, actual;
    /* from properties */
    bool deflate_on_oom, reporting;
    int64_t polling_s; /* 0: statistics are not asked for */
    /* derived */
    uint64_t ram_size; /* as the monitor last told; 0: unknown */
    VirtQueue *stats_queue;
    VirtQueueElement *stats_buffer; /* the guest's, given back when new numbers are wanted */
    uint64_t stats[STATS];
    int64_t stats_time_s; /* of the host's wall clock; 0: none came yet */
    Timer stats_timer;
} VirtioBalloon;
#define VIRTIO_BALLOON(obj) OBJECT_CHECK(VirtioBalloon, obj, TYPE_VIRTIO_BALLOON)

/* ---- pages ---- */

/* Gives whole host pages of a block back to the host. */
static bool drop(RamBlock *block, uint64_t offset, uint64_t length)
{
    if (block->page_size != RAM_PAGE_SIZE || ((offset | length) & (RAM_PAGE_SIZE - 1)) ||
        offset > block->size || length > block->size - offset) {
        return false;
    }
    int advice = block->fd >= 0 && block->shared ? MADV_REMOVE : MADV_DONTNEED;
    if (block->fd >= 0 && !block->shared) {
        return false; /* a private file mapping would show the file's bytes */
    }
    if (madvise(block->host + offset, length, advice) != 0) {
        return false;
    }
    ram_written(block, offset, length);
    return true;
}

static void inflate_page(VirtioBalloon *s, uint32_t pfn)
{
    MemoryTarget target;
    uint64_t gpa = (uint64_t)pfn << PAGE_BITS;
    memory_rcu_lock();
    address_space_translate(s->parent_obj.dma_as, gpa, &target);
    bool dropped = target.host && target.writable && target.length >= 1u << PAGE_BITS &&
                   drop(target.ram, target.ram_offset, 1u << PAGE_BITS);
    memory_rcu_unlock();
    TRACE(virtio_balloon_page, gpa, dropped);
}

static void handle_pages(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtQueueElement *e;
    while ((e = virtqueue_pop(vq, sizeof(*e)))) {
        uint32_t pfn;
        for (size_t at = 0; vq->index == 0 && iov_read(e->out, e->out_count, at, &pfn, 4) == 4; at += 4) {
            inflate_page(VIRTIO_BALLOON(vdev), pfn);
        }
        virtqueue_push(vq, e, 0);
        virtqueue_notify(vq);
    }
}

/* Free page reporting: the buffers themselves are the pages. */
static void handle_report(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtQueueElement *e;
    while ((e = virtqueue_pop(vq, sizeof(*e)))) {
        for (unsigned i = 0; i < e->in_count; i++) {
            drop(e->in_sg[i].ram, e->in_sg[i].ram_offset, e->in[i].iov_len);
        }
        virtqueue_push(vq, e, 0);
        virtqueue_notify(vq);
    }
}

/* ---- statistics ---- */

static void arm_stats(VirtioBalloon *s)
{
    if (s->polling_s && virtio_has_feature(&s->parent_obj, F_STATS_VQ)) {
        timer_set(&s->stats_timer,
                  clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL) + s->polling_s * 1000000000);
    }
}

static void forget_stats(VirtioBalloon *s)
{
    memset(s->stats, 0xff, sizeof(s->stats));
    s->stats_time_s = 0;
}

static void handle_stats(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioBalloon *s = VIRTIO_BALLOON(vdev);
    VirtQueueElement *e = virtqueue_pop(vq, sizeof(*e));
    if (!e) {
        return;
    }
    if (s->stats_buffer) { /* two at a time are against the rules (5.5.6.3) */
        virtqueue_push(vq, s->stats_buffer, 0);
        virtqueue_notify(vq);
    }
    s->stats_buffer = e;
    memset(s->stats, 0xff, sizeof(s->stats));
    Stat stat;
    for (size_t at = 0; iov_read(e->out, e->out_count, at, &stat, sizeof(stat)) == sizeof(stat);
         at += sizeof(stat)) {
        if (stat.tag < STATS) {
            s->stats[stat.tag] = stat.value;
        }
    }
    s->stats_time_s = g_get_real_time() / G_USEC_PER_SEC;
    arm_stats(s);
}

static void ask_for_stats(void *opaque)
{
    VirtioBalloon *s = opaque;
    if (s->stats_buffer && virtio_device_active(&s->parent_obj)) {
        virtqueue_push(s->stats_queue, g_steal_pointer(&s->stats_buffer), 0);
        virtqueue_notify(s->stats_queue);
    } else {
        arm_stats(s);
    }
}

static bool get_stats(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    VirtioBalloon *s = VIRTIO_BALLOON(obj);
    int64_t when = s->stats_time_s;
    if (!visit_start_struct(v, name, error)) {
        return false;
    }
    bool done = visit_int64(v, "last-update", &when, error) && visit_start_struct(v, "stats", error);
    if (done) {
        for (size_t i = 0; done && i < STATS; i++) {
            uint64_t value = s->stats[i];
            done = visit_uint64(v, stat_names[i], &value, error);
        }
        visit_end_struct(v);
    }
    visit_end_struct(v);
    return done;
}

static bool get_polling(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    return visit_int64(v, name, &VIRTIO_BALLOON(obj)->polling_s, error);
}

static bool set_polling(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    VirtioBalloon *s = VIRTIO_BALLOON(obj);
    int64_t seconds;
    if (!visit_int64(v, name, &seconds, error)) {
        return false;
    }
    if (seconds < 0 || seconds > UINT32_MAX) {
        return error_set(error, "timer value must be between 0 and %u", UINT32_MAX);
    }
    if (!DEVICE(obj)->realized) {
        s->polling_s = seconds;
        return true;
    }
    home_lock(s->parent_obj.home);
    s->polling_s = seconds;
    if (seconds) {
        arm_stats(s);
    } else {
        timer_cancel(&s->stats_timer);
    }
    home_unlock(s->parent_obj.home);
    return true;
}

/* ---- configuration and life ---- */

static uint64_t balloon_get_features(VirtioDevice *vdev)
{
    VirtioBalloon *s = VIRTIO_BALLOON(vdev);
    return VIRTIO_BIT(F_STATS_VQ) | (s->deflate_on_oom ? VIRTIO_BIT(F_DEFLATE_ON_OOM) : 0) |
           (s->reporting ? VIRTIO_BIT(F_REPORTING) : 0);
}

static void balloon_get_config(VirtioDevice *vdev, uint8_t *config)
{
    VirtioBalloon *s = VIRTIO_BALLOON(vdev);
    BalloonConfig c = { .num_pages = s->num_pages, .actual = s->actual };
    memcpy(config, &c, sizeof(c));
}

static int64_t actual_bytes(const VirtioBalloon *s, uint64_t ram_size)
{
    uint64_t held = (uint64_t)s->actual << PAGE_BITS;
    return (int64_t)(held < ram_size ? ram_size - held : 0);
}

static void balloon_set_config(VirtioDevice *vdev, uint32_t offset, const uint8_t *data, unsigned size)
{
    VirtioBalloon *s = VIRTIO_BALLOON(vdev);
    const VmServices *vm = DEVICE(vdev)->env->vm;
    uint32_t actual;
    if (offset != offsetof(BalloonConfig, actual) || size != sizeof(actual)) {
        return;
    }
    memcpy(&actual, data, sizeof(actual));
    TRACE(virtio_balloon_config, s->num_pages, actual);
    bool changed = actual != s->actual;
    s->actual = actual;
    if (changed && s->ram_size && vm && vm->emit_event) {
        json_object *event = json_object_new_object();
        json_object_object_add(event, "actual", json_object_new_int64(actual_bytes(s, s->ram_size)));
        vm->emit_event(vm->opaque, "BALLOON_CHANGE", event);
    }
}

static void balloon_reset(VirtioDevice *vdev)
{
    VirtioBalloon *s = VIRTIO_BALLOON(vdev);
    if (s->stats_buffer) {
        virtqueue_discard(g_steal_pointer(&s->stats_buffer));
    }
    timer_cancel(&s->stats_timer);
    s->actual = 0; /* a fresh guest holds nothing */
    forget_stats(s);
}

static bool balloon_realize(VirtioDevice *vdev, GError **error)
{
    VirtioBalloon *s = VIRTIO_BALLOON(vdev);
    const DeviceEnv *env = DEVICE(vdev)->env;
    vdev->config_size = sizeof(BalloonConfig);
    virtio_queue_add(vdev, QUEUE_SIZE, handle_pages, NULL);
    virtio_queue_add(vdev, QUEUE_SIZE, handle_pages, NULL);
    s->stats_queue = virtio_queue_add(vdev, QUEUE_SIZE, handle_stats, NULL);
    if (s->reporting) {
        virtio_queue_add(vdev, REPORT_SIZE, handle_report, NULL);
    }
    timer_init(&s->stats_timer, env->loop, env->clocks, CLOCK_TYPE_VIRTUAL, ask_for_stats, s, vdev->home);
    forget_stats(s);
    return true;
}

static void balloon_unrealize(VirtioDevice *vdev)
{
    VirtioBalloon *s = VIRTIO_BALLOON(vdev);
    timer_destroy(&s->stats_timer);
    if (s->stats_buffer) {
        virtqueue_discard(g_steal_pointer(&s->stats_buffer));
    }
}

/* ---- for monitors ---- */

static bool find_balloon(Object *child, void *opaque)
{
    VirtioBalloon **found = opaque;
    if (!object_dynamic_cast(child, TYPE_VIRTIO_BALLOON) || !DEVICE(child)->realized) {
        return true;
    }
    *found = VIRTIO_BALLOON(child);
    return false;
}

static VirtioBalloon *the_balloon(Object *root, GError **error)
{
    VirtioBalloon *s = NULL;
    object_child_foreach(root, true, find_balloon, &s);
    if (!s) {
        error_set_class(error, ERROR_CLASS_DEVICE_NOT_ACTIVE, "No balloon device has been activated");
    }
    return s;
}

bool virtio_balloon_query(Object *root, uint64_t ram_size, int64_t *bytes, GError **error)
{
    VirtioBalloon *s = the_balloon(root, error);
    if (!s) {
        return false;
    }
    home_lock(s->parent_obj.home);
    s->ram_size = ram_size;
    *bytes = actual_bytes(s, ram_size);
    home_unlock(s->parent_obj.home);
    return true;
}

bool virtio_balloon_set_target(Object *root, uint64_t ram_size, int64_t target_bytes, GError **error)
{
    VirtioBalloon *s = the_balloon(root, error);
    if (!s) {
        return false;
    }
    if (target_bytes <= 0) {
        return error_set(error, "Parameter 'target' expects a size");
    }
    uint64_t target = MIN((uint64_t)target_bytes, ram_size);
    home_lock(s->parent_obj.home);
    s->ram_size = ram_size;
    s->num_pages = (uint32_t)MIN((ram_size - target) >> PAGE_BITS, UINT32_MAX);
    virtio_notify_config(&s->parent_obj);
    home_unlock(s->parent_obj.home);
    return true;
}

/* ---- type ---- */

static const Property balloon_properties[] = {
    PROP_BOOL("deflate-on-oom", VirtioBalloon, deflate_on_oom, false,
              "the guest takes memory back before it kills"),
    PROP_BOOL("free-page-reporting", VirtioBalloon, reporting, false,
              "the guest reports free pages by itself"),
    PROP_END,
};

static const VmStateField balloon_fields[] = {
    VMS_STRUCT(parent_obj, VirtioBalloon, virtio_device_vmstate),
    VMS_UINT32(num_pages, VirtioBalloon),
    VMS_UINT32(actual, VirtioBalloon),
    VMS_END,
};

/* A statistics buffer that was held is taken again with the queue. */
static bool balloon_pre_load(void *opaque, GError **error)
{
    VirtioBalloon *s = opaque;
    if (s->stats_buffer) {
        virtqueue_discard(g_steal_pointer(&s->stats_buffer));
    }
    return true;
}

static const VmState balloon_vmstate = {
    .name = "virtio-balloon", .version = 1, .fields = balloon_fields, .pre_load = balloon_pre_load
};

static void balloon_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &balloon_vmstate;
    DEVICE_CLASS(klass)->category = "Misc";
    vc->virtio_id = VIRTIO_ID_BALLOON;
    vc->realize = balloon_realize;
    vc->unrealize = balloon_unrealize;
    vc->get_features = balloon_get_features;
    vc->get_config = balloon_get_config;
    vc->set_config = balloon_set_config;
    vc->reset = balloon_reset;
    object_class_add_properties(klass, balloon_properties);
    object_property_set_description(
        object_class_property_add(klass, "guest-stats", "guest statistics", get_stats, NULL, NULL),
        "what the guest last told of its memory");
    object_property_set_description(object_class_property_add(klass, "guest-stats-polling-interval", "int",
                                                              get_polling, set_polling, NULL),
                                    "seconds between two questions for statistics (0: none)");
}

static const TypeInfo balloon_info = {
    .name = TYPE_VIRTIO_BALLOON,
    .parent = TYPE_VIRTIO_DEVICE,
    .description = "virtio memory balloon",
    .instance_size = sizeof(VirtioBalloon),
    .class_init = balloon_class_init,
};
TYPE_REGISTER(balloon_info);
