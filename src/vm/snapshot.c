/*
 * Snapshots of the whole machine: its state goes into one qcow2 image, behind the disk, and each disk keeps
 * its content under the same tag.
 *
 * 1. Between the collecting of the state and the last disk's snapshot the machine stands still, so that all
 * belong to one moment.
 * 2. The long part (reading or writing the state) runs in a coroutine; the disks' tables are changed outside
 * one. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "block/operate.h"
#include "vm/vm_internal.h"

#include "block/graph/node.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define CHUNK (1u << 20)

typedef struct Snapshot {
    Vm *vm;
    VmSnapshotAction action;
    char *tag;
    GPtrArray *nodes;  /* of BlockNode *: that keep snapshots */
    BlockNode *holder; /* of the state */
    SavedState *state;
    uint64_t size;          /* of the stream, once written or as the image says */
    bool frozen, disturbed; /* disturbed: it cannot go on as it was */
    GError *error;
    bool ok;
    /* the stream's place in the image */
    uint8_t *chunk;
    uint64_t offset;
    size_t fill, at;
} Snapshot;

/* ---- where it goes ---- */

/* Below filters and raw: who keeps snapshots; NULL. */
static BlockNode *keeper(BlockNode *node)
{
    while (node && !node->driver->snapshot_create) {
        node = node->driver->is_filter                               ? block_filtered(node)
               : node->driver->needs_snapshot_children && node->file ? node->file->node
                                                                     : NULL;
    }
    return node;
}

static bool add_node(Snapshot *s, BlockNode *node, const char *what, GError **error)
{
    BlockNode *own = keeper(node);

    if (!own) {
        error_set(error, "Device '%s' is writable but does not support snapshots", what);
        error_append_hint(error, "Only qcow2 images keep snapshots; migrate to file:PATH saves to a file.");
        return false;
    }
    if (!g_ptr_array_find(s->nodes, own, NULL)) {
        g_ptr_array_add(s->nodes, own);
    }
    return true;
}

/* All disks that the guest may write. */
static bool all_disks(Snapshot *s, GError **error)
{
    GPtrArray *backends = block_backends(s->vm->blocks);

    for (guint i = 0; i < backends->len; i++) {
        BlockBackend *bb = backends->pdata[i];
        const char *name = bb_name(bb);
        if (!bb_has_medium(bb) || bb_read_only(bb)) {
            continue;
        }
        if (!add_node(s, bb_node(bb), name && *name ? name : bb_node_name(bb), error)) {
            return false;
        }
    }
    if (!s->nodes->len) {
        return error_set(error, "No block device can accept snapshots");
    }
    s->holder = s->nodes->pdata[0];
    return true;
}

static bool named_disks(Snapshot *s, const char *vmstate, GPtrArray *devices, GError **error)
{
    for (guint i = 0; i < devices->len; i++) {
        BlockNode *node = block_lookup(s->vm->blocks, NULL, devices->pdata[i], error);
        if (!node || !add_node(s, node, devices->pdata[i], error)) {
            return false;
        }
    }
    if (!vmstate) {
        return true;
    }
    BlockNode *node = block_lookup(s->vm->blocks, NULL, vmstate, error);
    if (!node) {
        return false;
    }
    s->holder = keeper(node);
    if (!s->holder || !s->holder->driver->co_save_vmstate) {
        return error_set(error, "vmstate block device '%s' does not support snapshots", vmstate);
    }
    if (!g_ptr_array_find(s->nodes, s->holder, NULL)) {
        return error_set(error, "vmstate block device '%s' is not among the devices", vmstate);
    }
    return true;
}

/* By tag; false with no error where there is none. */
static bool find(BlockNode *node, const char *tag, BlockSnapshotInfo *info)
{
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));

    if (!node->driver->snapshot_list(node, list, NULL)) {
        return false;
    }
    for (guint i = 0; i < list->len; i++) {
        *info = g_array_index(list, BlockSnapshotInfo, i);
        if (strcmp(info->name, tag) == 0) {
            return true;
        }
    }
    return false;
}

static Snapshot *snapshot_new(Vm *vm, VmSnapshotAction action, const char *tag)
{
    Snapshot *s = g_new0(Snapshot, 1);

    s->vm = vm;
    s->action = action;
    s->tag = g_strdup(tag);
    s->nodes = g_ptr_array_new();
    s->chunk = g_malloc(CHUNK);
    return s;
}

static void snapshot_free(Snapshot *s)
{
    saved_state_free(s->state);
    g_clear_error(&s->error);
    g_ptr_array_unref(s->nodes);
    g_free(s->chunk);
    g_free(s->tag);
    g_free(s);
}

/* ---- the stream in the image ---- */

static bool put_chunk(Snapshot *s, GError **error)
{
    struct iovec iov = { .iov_base = s->chunk, .iov_len = s->fill };
    BlockVec vec = { .iov = &iov, .count = 1 };

    if (s->fill) {
        int ret = s->holder->driver->co_save_vmstate(s->holder, s->offset, s->fill, &vec);
        if (ret < 0) {
            return error_set_errno(error, -ret, "cannot write the state to '%s'", s->holder->name);
        }
        s->offset += s->fill;
        s->fill = 0;
    }
    return true;
}

static bool image_write(void *opaque, const void *data, size_t size, GError **error)
{
    Snapshot *s = opaque;
    const uint8_t *from = data;

    while (size) {
        size_t part = MIN(size, CHUNK - s->fill);
        memcpy(s->chunk + s->fill, from, part);
        s->fill += part;
        from += part;
        size -= part;
        if (s->fill == CHUNK && !put_chunk(s, error)) {
            return false;
        }
    }
    return true;
}

static bool image_read(void *opaque, void *data, size_t size, GError **error)
{
    Snapshot *s = opaque;
    uint8_t *to = data;

    while (size) {
        if (s->at == s->fill) {
            struct iovec iov = { .iov_base = s->chunk, .iov_len = (size_t)MIN(CHUNK, s->size - s->offset) };
            BlockVec vec = { .iov = &iov, .count = 1 };
            if (!iov.iov_len) {
                return error_set(error, "the state ends too early");
            }
            int ret = s->holder->driver->co_load_vmstate(s->holder, s->offset, iov.iov_len, &vec);
            if (ret < 0) {
                return error_set_errno(error, -ret, "cannot read the state from '%s'", s->holder->name);
            }
            s->offset += iov.iov_len;
            s->fill = iov.iov_len;
            s->at = 0;
        }
        size_t part = MIN(size, s->fill - s->at);
        memcpy(to, s->chunk + s->at, part);
        s->at += part;
        to += part;
        size -= part;
    }
    return true;
}

static void transfer(void *opaque)
{
    Snapshot *s = opaque;
    StreamIo io = { .write = image_write, .read = image_read, .opaque = s };
    StateProgress progress = { 0 };

    if (s->action == VM_SNAPSHOT_SAVE) {
        s->ok = state_write(s->state, &io, &progress, &s->error) && put_chunk(s, &s->error);
        s->size = s->offset;
    } else {
        s->ok = state_read(s->state, &io, &progress, false, &s->error);
    }
}

/* ---- the steps: begin, transfer (in a coroutine), finish, end ---- */

static void freeze(Snapshot *s, RunState state)
{
    vm_freeze(s->vm, state);
    s->frozen = true;
}

/* Requests that are still under way end; nothing new comes, since the machine stands still. */
static void settle(Snapshot *s)
{
    block_drain_end(block_drain_all_begin(block_registry_graph(s->vm->blocks)));
}

static bool delete_tag(BlockNode *node, const char *tag, GError **error)
{
    BlockSnapshotInfo info;

    if (!find(node, tag, &info)) {
        return true;
    }
    BlockDrain *drain = block_drain_begin(node);
    bool ok = node->driver->snapshot_delete(node, info.id, error);
    block_drain_end(drain);
    if (!ok) {
        error_prefix(error, "Error while deleting snapshot '%s' on '%s': ", tag, node->name);
    }
    return ok;
}

static bool delete_all(Snapshot *s, GError **error)
{
    for (guint i = 0; i < s->nodes->len; i++) {
        if (!delete_tag(s->nodes->pdata[i], s->tag, error)) {
            return false;
        }
    }
    return true;
}

static bool begin_save(Snapshot *s, GError **error)
{
    g_autoptr(GPtrArray) facts = vm_state_facts(s->vm);
    StateMachine machine = vm_describe_state(s->vm, facts);

    freeze(s, RUN_STATE_SAVE_VM);
    settle(s);
    s->state = state_collect(&machine, enum_name(&run_state_lookup, (int)s->vm->before_freeze), error);
    return s->state && delete_all(s, error);
}

static bool begin_load(Snapshot *s, GError **error)
{
    BlockSnapshotInfo info;

    g_assert(s->holder); /* every load names one */
    for (guint i = 0; i < s->nodes->len; i++) {
        BlockNode *node = s->nodes->pdata[i];
        if (!find(node, s->tag, &info)) {
            return error_set(error, "Snapshot '%s' does not exist in one or more devices ('%s')", s->tag,
                             node->name);
        }
        if (node == s->holder) {
            s->size = info.vm_state_size;
        }
    }
    if (!s->size) {
        error_set(error, "Snapshot '%s' holds the disks only, not the machine's state", s->tag);
        error_append_hint(error, "Go back to it with rhea-img snapshot -a while no machine runs.");
        return false;
    }
    g_autoptr(GPtrArray) facts = vm_state_facts(s->vm);
    StateMachine machine = vm_describe_state(s->vm, facts);
    freeze(s, RUN_STATE_RESTORE_VM);
    settle(s);
    s->disturbed = true;
    for (guint i = 0; i < s->nodes->len; i++) {
        BlockNode *node = s->nodes->pdata[i];
        g_assert(node);
        find(node, s->tag, &info);
        BlockDrain *drain = block_drain_begin(node);
        bool ok = node->driver->snapshot_goto(node, info.id, error);
        block_drain_end(drain);
        if (!ok) {
            error_prefix(error, "Could not load snapshot '%s' on '%s': ", s->tag, node->name);
            return false;
        }
    }
    machine_reset(s->vm->machine);
    s->state = state_expect(&machine);
    return true;
}

static bool finish_save(Snapshot *s, GError **error)
{
    int64_t now_us = g_get_real_time();

    for (guint i = 0; i < s->nodes->len; i++) {
        BlockNode *node = s->nodes->pdata[i];
        BlockSnapshotInfo info = { .icount = UINT64_MAX,
                                   .date_s = (uint64_t)(now_us / 1000000),
                                   .date_ns = (uint64_t)(now_us % 1000000) * 1000,
                                   .vm_clock_ns = (uint64_t)s->state->virtual_ns,
                                   .size = node->size };
        info.vm_state_size = node == s->holder ? s->size : 0;
        g_strlcpy(info.name, s->tag, sizeof(info.name));
        BlockDrain *drain = block_drain_begin(node);
        bool ok = node->driver->snapshot_create(node, &info, error);
        block_drain_end(drain);
        if (!ok) {
            error_prefix(error, "Error while creating snapshot on '%s': ", node->name);
            while (i-- > 0) { /* all or none */
                delete_tag(s->nodes->pdata[i], s->tag, NULL);
            }
            return false;
        }
    }
    return true;
}

static bool finish(Snapshot *s, GError **error)
{
    if (s->action == VM_SNAPSHOT_SAVE) {
        return finish_save(s, error);
    }
    if (!vm_apply_state(s->vm, s->state, error)) {
        return false;
    }
    s->disturbed = false;
    return true;
}

static bool begin(Snapshot *s, GError **error)
{
    return s->action == VM_SNAPSHOT_SAVE ? begin_save(s, error) : begin_load(s, error);
}

/* The machine goes on as it was before; one whose loading failed needs a reset. */
static void end(Snapshot *s)
{
    if (!s->frozen) {
        return;
    }
    vm_unfreeze(s->vm);
    if (s->disturbed) {
        vm_set_run_state(s->vm, RUN_STATE_INTERNAL_ERROR);
    } else {
        vm_go_on(s->vm);
    }
}

static bool may_begin(Vm *vm, GError **error)
{
    if (vm->frozen || vm->incoming || vm_run_state(vm) == RUN_STATE_POSTMIGRATE) {
        return error_set(error, "the machine's state is being saved or loaded, or is elsewhere");
    }
    return vm->machine || error_set(error, "there is no machine");
}

/* ---- at once ---- */

static bool run_now(Snapshot *s, GError **error)
{
    bool ok = begin(s, error);

    if (ok) {
        block_run(block_registry_graph(s->vm->blocks), transfer, s);
        if (!s->ok) {
            g_propagate_error(error, g_steal_pointer(&s->error));
        }
        ok = s->ok && finish(s, error);
    }
    end(s);
    return ok;
}

bool vm_snapshot_save(Vm *vm, const char *tag, GError **error)
{
    g_autofree char *made = NULL;

    if (!tag) {
        g_autoptr(GDateTime) now = g_date_time_new_now_local();
        tag = made = g_date_time_format(now, "vm-%Y%m%d%H%M%S");
    }
    Snapshot *s = snapshot_new(vm, VM_SNAPSHOT_SAVE, tag);
    bool ok = may_begin(vm, error) && all_disks(s, error) && run_now(s, error);
    snapshot_free(s);
    return ok;
}

bool vm_snapshot_load(Vm *vm, const char *tag, GError **error)
{
    Snapshot *s = snapshot_new(vm, VM_SNAPSHOT_LOAD, tag);
    bool ok = may_begin(vm, error) && all_disks(s, error) && run_now(s, error);
    snapshot_free(s);
    return ok;
}

bool vm_snapshot_delete(Vm *vm, const char *tag, GError **error)
{
    Snapshot *s = snapshot_new(vm, VM_SNAPSHOT_DELETE, tag);
    BlockSnapshotInfo info;
    bool ok = may_begin(vm, error) && all_disks(s, error), any = false;

    for (guint i = 0; ok && i < s->nodes->len; i++) {
        any |= find(s->nodes->pdata[i], tag, &info);
    }
    ok = ok && (any || error_set(error, "Snapshot '%s' does not exist", tag)) && delete_all(s, error);
    snapshot_free(s);
    return ok;
}

/* ---- as jobs ---- */

static int job_transfer(void *opaque, GError **error)
{
    Snapshot *s = opaque;

    transfer(s);
    if (!s->ok) {
        g_propagate_error(error, g_steal_pointer(&s->error));
        return -EIO;
    }
    return 0;
}

static bool job_finish(void *opaque, GError **error)
{
    return finish(opaque, error);
}

static void job_end(void *opaque, bool ok)
{
    end(opaque);
    snapshot_free(opaque);
}

static int job_nothing(void *opaque, GError **error)
{
    return 0;
}

static bool job_delete(void *opaque, GError **error)
{
    return delete_all(opaque, error);
}

static const JobCalls save_calls = { "snapshot-save", job_transfer, job_finish, job_end };
static const JobCalls load_calls = { "snapshot-load", job_transfer, job_finish, job_end };
static const JobCalls delete_calls = { "snapshot-delete", job_nothing, job_delete, job_end };

bool vm_snapshot_job(Vm *vm, VmSnapshotAction action, const char *job_id, const char *tag,
                     const char *vmstate, GPtrArray *devices, GError **error)
{
    const JobCalls *calls = action == VM_SNAPSHOT_SAVE   ? &save_calls
                            : action == VM_SNAPSHOT_LOAD ? &load_calls
                                                         : &delete_calls;
    JobManager *jobs = block_registry_jobs(vm->blocks);
    Snapshot *s = snapshot_new(vm, action, tag);

    if (job_find(jobs, job_id, false, NULL)) {
        error_set(error, "Job ID '%s' already in use", job_id);
    } else if (may_begin(vm, error) && named_disks(s, vmstate, devices, error) &&
               (action == VM_SNAPSHOT_DELETE || begin(s, error)) &&
               job_calls_start(jobs, calls, job_id, s, error)) {
        return true;
    }
    end(s);
    snapshot_free(s);
    return false;
}

/* ---- info snapshots ---- */

static void print_size(GString *out, uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double value = (double)bytes;
    unsigned unit = 0;

    while (value >= 1000 && unit + 1 < G_N_ELEMENTS(units)) {
        value /= 1024;
        unit++;
    }
    g_autofree char *text = g_strdup_printf("%.3g %s", value, units[unit]);
    g_string_append_printf(out, "%8s", text);
}

static void print_info(GString *out, const BlockSnapshotInfo *info)
{
    g_autoptr(GDateTime) date = g_date_time_new_from_unix_local((gint64)info->date_s);
    g_autofree char *when = date ? g_date_time_format(date, "%Y-%m-%d %H:%M:%S") : g_strdup("?");
    uint64_t ms = info->vm_clock_ns / 1000000;

    g_string_append_printf(out, "%-9s %-16s ", "--", info->name);
    print_size(out, info->vm_state_size);
    g_string_append_printf(out, "%20s  %02u:%02u:%02u.%03u%11s\n", when, (unsigned)(ms / 3600000),
                           (unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60), (unsigned)(ms % 1000),
                           "");
}

char *vm_snapshot_list(Vm *vm, GError **error)
{
    Snapshot *s = snapshot_new(vm, VM_SNAPSHOT_LOAD, NULL);
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));
    GString *out = g_string_new(NULL);
    bool ok = all_disks(s, error) && s->holder->driver->snapshot_list(s->holder, list, error);

    for (guint i = 0; ok && i < list->len; i++) {
        const BlockSnapshotInfo *info = &g_array_index(list, BlockSnapshotInfo, i);
        BlockSnapshotInfo other;
        bool everywhere = info->vm_state_size > 0;
        for (guint n = 1; n < s->nodes->len; n++) {
            everywhere = everywhere && find(s->nodes->pdata[n], info->name, &other);
        }
        if (everywhere) {
            if (!out->len) {
                g_string_append_printf(out,
                                       "List of snapshots present on all disks:\n%-10s%-17s%8s%20s%13s%11s\n",
                                       "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
            }
            print_info(out, info);
        }
    }
    if (ok && !out->len) {
        g_string_append(out, "There is no snapshot available.\n");
    }
    snapshot_free(s);
    return g_string_free(out, !ok);
}
