/*
 * throttle: holds requests back so that all nodes of a group together keep to its limits (-object
 * throttle-group).
 *
 * Each limit is a bucket that leaks at its average rate. A request takes its place when it comes (what it
 * fills the bucket with counts for those behind it) and waits until what was there before has leaked to what
 * is allowed: a tenth of a second's worth, or with max what max allows for max-length seconds. A drained node
 * lets all pass. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"
#include "object/object.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <string.h>

#define TYPE_THROTTLE_GROUP "throttle-group"
#define MAX_VALUE           1000000000000000.0
#define SLICE_NS            5000000 /* how soon a drain is seen */

enum { BPS_TOTAL, BPS_READ, BPS_WRITE, IOPS_TOTAL, IOPS_READ, IOPS_WRITE, BUCKETS };
static const char *const bucket_names[BUCKETS] = { "bps-total",  "bps-read",  "bps-write",
                                                   "iops-total", "iops-read", "iops-write" };

typedef struct Bucket {
    double average, max; /* a second; 0: none */
    double max_length;   /* seconds that max may last */
    double level, burst_level;
} Bucket;

typedef struct ThrottleGroup {
    Object parent;
    pthread_mutex_t lock;
    Bucket buckets[BUCKETS];
    uint64_t iops_size; /* larger requests count as several; 0: not */
    int64_t leaked_ns;  /* until when the levels are right */
    int users;          /* nodes; control plane */
    bool complete;
} ThrottleGroup;

/* ---- the buckets ---- */

static void leak(double *level, double rate, double seconds)
{
    *level = MAX(0, *level - rate * seconds);
}

/* Nanoseconds until a request may begin that comes now. */
static int64_t reserve(ThrottleGroup *g, bool is_write, uint64_t bytes)
{
    const int mine[4] = { BPS_TOTAL, is_write ? BPS_WRITE : BPS_READ, IOPS_TOTAL,
                          is_write ? IOPS_WRITE : IOPS_READ };
    int64_t now_ns = clock_now_ns(NULL, CLOCK_TYPE_REALTIME);
    double wait_s = 0, passed_s;

    pthread_mutex_lock(&g->lock);
    passed_s = g->leaked_ns ? (double)(now_ns - g->leaked_ns) / 1e9 : 0;
    g->leaked_ns = now_ns;
    for (int i = 0; i < BUCKETS; i++) {
        leak(&g->buckets[i].level, g->buckets[i].average, passed_s);
        leak(&g->buckets[i].burst_level, g->buckets[i].max, passed_s);
    }
    for (int i = 0; i < 4; i++) {
        Bucket *b = &g->buckets[mine[i]];
        double units = (double)bytes, allowed;

        if (!b->average) {
            continue;
        }
        if (mine[i] >= IOPS_TOTAL) {
            units = g->iops_size && bytes > g->iops_size ? (double)bytes / (double)g->iops_size : 1;
        }
        allowed = b->max ? b->max * b->max_length : b->average / 10;
        wait_s = MAX(wait_s, (b->level - allowed) / b->average);
        if (b->max && b->max_length > 1) {
            wait_s = MAX(wait_s, (b->burst_level - b->max / 10) / b->max);
        }
        b->level += units;
        b->burst_level += units;
    }
    pthread_mutex_unlock(&g->lock);
    return (int64_t)(wait_s * 1e9);
}

/* ---- the object ---- */

static bool check_buckets(const Bucket *b, GError **error)
{
    if ((b[BPS_TOTAL].average && (b[BPS_READ].average || b[BPS_WRITE].average)) ||
        (b[IOPS_TOTAL].average && (b[IOPS_READ].average || b[IOPS_WRITE].average)) ||
        (b[BPS_TOTAL].max && (b[BPS_READ].max || b[BPS_WRITE].max)) ||
        (b[IOPS_TOTAL].max && (b[IOPS_READ].max || b[IOPS_WRITE].max))) {
        return error_set(error,
                         "bps/iops/max total values and read/write values cannot be used at the same time");
    }
    for (int i = 0; i < BUCKETS; i++) {
        if (b[i].average < 0 || b[i].max < 0 || b[i].average > MAX_VALUE || b[i].max > MAX_VALUE) {
            return error_set(error, "bps/iops/max values must be within [0, %.0f]", MAX_VALUE);
        }
        if (b[i].max_length < 1 || b[i].max_length > 1e6) {
            return error_set(error, "the burst length cannot be 0, nor more than a million seconds");
        }
        if (b[i].max_length > 1 && !b[i].max) {
            return error_set(error, "burst length set without burst rate");
        }
        if (b[i].max && !b[i].average) {
            return error_set(error, "bps_max/iops_max require corresponding bps/iops values");
        }
        if (b[i].max && b[i].max < b[i].average) {
            return error_set(error, "bps_max/iops_max cannot be lower than bps/iops");
        }
    }
    return true;
}

/* A single value: bucket * 3 + which of its three, or the size of an I/O operation. */
#define IOPS_SIZE_PROPERTY (BUCKETS * 3)

static double *value_of(Bucket *buckets, int n)
{
    Bucket *b = &buckets[n / 3];

    return n % 3 == 0 ? &b->average : n % 3 == 1 ? &b->max : &b->max_length;
}

static bool value_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    ThrottleGroup *g = (ThrottleGroup *)obj;
    int n = GPOINTER_TO_INT(opaque);
    int64_t value = n == IOPS_SIZE_PROPERTY ? (int64_t)g->iops_size : (int64_t)*value_of(g->buckets, n);

    return visit_int64(v, name, &value, error);
}

static bool value_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    ThrottleGroup *g = (ThrottleGroup *)obj;
    int n = GPOINTER_TO_INT(opaque);
    int64_t value;

    if (g->complete) {
        return error_set(error, "Property '%s' cannot be set any more: use 'limits'", name);
    }
    if (!visit_int64(v, name, &value, error)) {
        return false;
    }
    if (value < 0) {
        return error_set(error, "Property values cannot be negative");
    }
    if (n == IOPS_SIZE_PROPERTY) {
        g->iops_size = (uint64_t)value;
    } else {
        *value_of(g->buckets, n) = (double)value;
    }
    return true;
}

/* "bps-total", "bps-total-max", "bps-total-max-length" */
static char *value_name(int n)
{
    static const char *const suffix[] = { "", "-max", "-max-length" };

    return n == IOPS_SIZE_PROPERTY ? g_strdup("iops-size")
                                   : g_strconcat(bucket_names[n / 3], suffix[n % 3], NULL);
}

static bool limits_get(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    ThrottleGroup *g = (ThrottleGroup *)obj;
    bool ok = visit_start_struct(v, name, error);

    for (int n = 0; ok && n <= IOPS_SIZE_PROPERTY; n++) {
        g_autofree char *member = value_name(n);

        ok = value_get(obj, v, member, GINT_TO_POINTER(n), error);
    }
    if (ok) {
        visit_end_struct(v);
    }
    (void)g;
    return ok;
}

/* All at once; what is not named keeps its value. */
static bool limits_set(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    ThrottleGroup *g = (ThrottleGroup *)obj;
    Bucket buckets[BUCKETS];
    uint64_t iops_size = g->iops_size;
    bool ok = visit_start_struct(v, name, error);

    if (!ok) {
        return false;
    }
    memcpy(buckets, g->buckets, sizeof(buckets));
    for (int n = 0; ok && n <= IOPS_SIZE_PROPERTY; n++) {
        g_autofree char *member = value_name(n);
        bool there;
        int64_t value = 0;

        if (!visit_optional(v, member, &there) || !there) {
            continue;
        }
        ok = visit_int64(v, member, &value, error) &&
             (value >= 0 || error_set(error, "Property values cannot be negative"));
        if (n == IOPS_SIZE_PROPERTY) {
            iops_size = (uint64_t)value;
        } else {
            *value_of(buckets, n) = (double)value;
        }
    }
    ok = ok && visit_check_struct(v, error);
    visit_end_struct(v);
    if (!ok || !check_buckets(buckets, error)) {
        return false;
    }
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < BUCKETS; i++) { /* from now on, without what was used before */
        buckets[i].level = buckets[i].burst_level = 0;
    }
    memcpy(g->buckets, buckets, sizeof(buckets));
    g->iops_size = iops_size;
    pthread_mutex_unlock(&g->lock);
    return true;
}

static void group_init(Object *obj)
{
    ThrottleGroup *g = (ThrottleGroup *)obj;

    pthread_mutex_init(&g->lock, NULL);
    for (int i = 0; i < BUCKETS; i++) {
        g->buckets[i].max_length = 1;
    }
}

static void group_finalize(Object *obj)
{
    pthread_mutex_destroy(&((ThrottleGroup *)obj)->lock);
}

static bool group_complete(Object *obj, GError **error)
{
    ThrottleGroup *g = (ThrottleGroup *)obj;

    g->complete = true;
    return check_buckets(g->buckets, error);
}

static bool group_can_be_deleted(Object *obj)
{
    return ((ThrottleGroup *)obj)->users == 0;
}

static const UserCreatableOps group_creatable = { .complete = group_complete,
                                                  .can_be_deleted = group_can_be_deleted };

static void group_class_init(ObjectClass *klass, const void *class_data)
{
    user_creatable_class_set(klass, &group_creatable);
    object_class_property_add(klass, "limits", "ThrottleLimits", limits_get, limits_set, NULL);
    for (int n = 0; n <= IOPS_SIZE_PROPERTY; n++) {
        g_autofree char *plain = value_name(n), *name = g_strconcat("x-", plain, NULL);

        object_class_property_add(klass, name, "int", value_get, value_set, GINT_TO_POINTER(n));
    }
}

static const char *const group_interfaces[] = { TYPE_USER_CREATABLE, NULL };
static const TypeInfo group_info = {
    .name = TYPE_THROTTLE_GROUP,
    .parent = TYPE_OBJECT,
    .description = "limits that several disks share",
    .instance_size = sizeof(ThrottleGroup),
    .class_init = group_class_init,
    .instance_init = group_init,
    .instance_finalize = group_finalize,
    .interfaces = group_interfaces,
};
TYPE_REGISTER(group_info);

/* ---- the filter ---- */

typedef struct ThrottleNode {
    BlockNode node;
    ThrottleGroup *group; /* counted */
} ThrottleNode;

static bool throttle_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    ThrottleNode *t = (ThrottleNode *)node;
    const QapiBlockdevOptionsThrottle *o = options->u_throttle;
    Object *root = block_graph_objects(node->graph);
    Object *found =
        root ? object_resolve_path_component(container_get(root, "/objects"), o->throttle_group) : NULL;

    found = found ? object_dynamic_cast(found, TYPE_THROTTLE_GROUP) : NULL;
    if (!found) {
        error_set(error, "Throttle group '%s' does not exist", o->throttle_group);
        error_append_hint(error, "Make it first: -object throttle-group,id=%s,x-iops-total=...",
                          o->throttle_group);
        return false;
    }
    if (!block_filter_open(node, "file", options, o->file, error)) {
        return false;
    }
    t->group = (ThrottleGroup *)object_ref(found);
    t->group->users++;
    return true;
}

static void throttle_close(BlockNode *node)
{
    ThrottleNode *t = (ThrottleNode *)node;

    if (t->group) {
        t->group->users--;
        object_unref(OBJECT(t->group));
    }
}

static void hold_back(BlockNode *node, bool is_write, uint64_t bytes)
{
    int64_t wait_ns = reserve(((ThrottleNode *)node)->group, is_write, bytes);
    int64_t until_ns = clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + wait_ns;

    while (wait_ns > 0 && !__atomic_load_n(&node->quiesced, __ATOMIC_SEQ_CST)) {
        co_sleep_ns(loop_current(), MIN(wait_ns, SLICE_NS));
        wait_ns = until_ns - clock_now_ns(NULL, CLOCK_TYPE_REALTIME);
    }
}

static int throttle_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                              uint64_t from, unsigned flags)
{
    hold_back(node, false, bytes);
    return block_co_preadv(node->file, offset, bytes, vec, from, flags);
}

static int throttle_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                               uint64_t from, unsigned flags)
{
    hold_back(node, true, bytes);
    return block_co_pwritev(node->file, offset, bytes, vec, from, flags);
}

static int throttle_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    hold_back(node, true, bytes);
    return block_co_pwrite_zeroes(node->file, offset, bytes, flags);
}

static int throttle_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    hold_back(node, true, bytes);
    return block_co_pdiscard(node->file, offset, bytes);
}

static const BlockDriver throttle_driver = {
    .name = "throttle",
    .instance_size = sizeof(ThrottleNode),
    .is_filter = true,
    .any_alignment = true,
    .open = throttle_open,
    .close = throttle_close,
    .co_preadv = throttle_co_preadv,
    .co_pwritev = throttle_co_pwritev,
    .co_pwrite_zeroes = throttle_co_pwrite_zeroes,
    .co_pdiscard = throttle_co_pdiscard,
};
BLOCK_DRIVER(throttle_driver);
