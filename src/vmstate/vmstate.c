/*
 * The encoding of state tables (all numbers little-endian):
 *
 *     table   = 'T' name u32 version  field*  ('S' table)*  'E'
 *     field   = 'F' name u8 kind u32 size u32 count u32 length  <length bytes>
 *     name    = u8 length, bytes
 *
 * Fields come in the order of the table. A struct's bytes are its elements' tables; a timer's are u8 armed,
 * u64 deadline. The reader walks its own table, never the stream's structure, so what a stream can cause is
 * bounded by the code: each record must match the next field in name, kind, size and count, and lies within
 * its parent's length. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vmstate/vmstate.h"

#include "base/error.h"
#include "loop/loop.h"

#include <inttypes.h>
#include <string.h>

struct VmStateWriter {
    GByteArray *bytes;
};

struct VmStateReader {
    const uint8_t *at, *end;
};

static const char *const kind_names[] = {
    [VMS_KIND_UINT] = "integer",  [VMS_KIND_BOOL] = "boolean",  [VMS_KIND_BUFFER] = "buffer",
    [VMS_KIND_VBUFFER] = "bytes", [VMS_KIND_STRUCT] = "struct", [VMS_KIND_VSTRUCT] = "array of structs",
    [VMS_KIND_TIMER] = "timer",   [VMS_KIND_CUSTOM] = "custom",
};

/* ---- writing ---- */

void vmstate_put(VmStateWriter *w, const void *data, size_t length)
{
    g_byte_array_append(w->bytes, data, (guint)length);
}

static void put_u8(VmStateWriter *w, uint8_t value)
{
    vmstate_put(w, &value, 1);
}

static void put_u32(VmStateWriter *w, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    vmstate_put(w, &value, sizeof(value));
}

void vmstate_put_u64(VmStateWriter *w, uint64_t value)
{
    value = GUINT64_TO_LE(value);
    vmstate_put(w, &value, sizeof(value));
}

static void put_name(VmStateWriter *w, const char *name)
{
    size_t length = strlen(name);
    g_assert(length < 256);
    put_u8(w, (uint8_t)length);
    vmstate_put(w, name, length);
}

/* The host is little-endian (x86-64 only), so integers and arrays of them are stored as they lie in memory.
 */
G_STATIC_ASSERT(G_BYTE_ORDER == G_LITTLE_ENDIAN);

static bool put_table(VmStateWriter *w, const VmState *vms, const void *opaque, GError **error);

static uint32_t element_count(const VmStateField *f, const void *state)
{
    if (f->kind == VMS_KIND_VBUFFER || f->kind == VMS_KIND_VSTRUCT) {
        uint32_t count;
        memcpy(&count, (const uint8_t *)state + f->size_offset, sizeof(count));
        return count;
    }
    return (uint32_t)f->count;
}

static uint32_t element_size(const VmStateField *f)
{
    switch (f->kind) {
    case VMS_KIND_UINT:
    case VMS_KIND_BUFFER:
        return (uint32_t)f->size;
    case VMS_KIND_BOOL:
    case VMS_KIND_VBUFFER:
        return 1;
    default:
        return 0; /* the size in memory is nobody else's business */
    }
}

static bool put_payload(VmStateWriter *w, const VmStateField *f, const void *state, uint32_t count,
                        GError **error)
{
    const uint8_t *field = (const uint8_t *)state + f->offset;
    switch (f->kind) {
    case VMS_KIND_UINT:
    case VMS_KIND_BUFFER:
        vmstate_put(w, field, f->size * count);
        return true;
    case VMS_KIND_BOOL:
        for (uint32_t i = 0; i < count; i++) {
            put_u8(w, field[i] != 0);
        }
        return true;
    case VMS_KIND_VBUFFER: {
        const void *bytes;
        memcpy(&bytes, field, sizeof(bytes));
        if (count > f->size || (count && !bytes)) {
            return error_set(error, "holds %u bytes, at most %zu are allowed", count, f->size);
        }
        vmstate_put(w, bytes, count);
        return true;
    }
    case VMS_KIND_VSTRUCT:
        memcpy(&field, field, sizeof(field));
        if (count && !field) {
            return error_set(error, "is not set up");
        }
        /* fall through */
    case VMS_KIND_STRUCT:
        for (uint32_t i = 0; i < count; i++) {
            if (!put_table(w, f->sub, field + i * f->size, error)) {
                return false;
            }
        }
        return true;
    case VMS_KIND_TIMER: {
        int64_t expire_ns = timer_expire_ns((const Timer *)(const void *)field);
        put_u8(w, expire_ns >= 0);
        vmstate_put_u64(w, expire_ns >= 0 ? (uint64_t)expire_ns : 0);
        return true;
    }
    case VMS_KIND_CUSTOM:
        return f->save(w, field, error);
    }
    g_assert_not_reached();
}

static bool put_field(VmStateWriter *w, const VmStateField *f, const void *state, GError **error)
{
    uint32_t count = element_count(f, state);
    put_u8(w, 'F');
    put_name(w, f->name);
    put_u8(w, (uint8_t)f->kind);
    put_u32(w, element_size(f));
    put_u32(w, count);
    guint length_at = w->bytes->len;
    put_u32(w, 0);
    if (!put_payload(w, f, state, count, error)) {
        error_prefix(error, "field '%s': ", f->name);
        return false;
    }
    uint32_t length = GUINT32_TO_LE(w->bytes->len - length_at - 4);
    memcpy(w->bytes->data + length_at, &length, sizeof(length));
    return true;
}

static bool put_table(VmStateWriter *w, const VmState *vms, const void *opaque, GError **error)
{
    if (vms->unmigratable) {
        return error_set(error, "State of '%s' cannot be saved", vms->name);
    }
    if (vms->pre_save && !vms->pre_save((void *)(uintptr_t)opaque, error)) {
        return false;
    }
    put_u8(w, 'T');
    put_name(w, vms->name);
    put_u32(w, (uint32_t)vms->version);
    for (const VmStateField *f = vms->fields; f && f->name; f++) {
        if (!put_field(w, f, opaque, error)) {
            error_prefix(error, "%s: ", vms->name);
            return false;
        }
    }
    for (const VmState *const *sub = vms->subsections; sub && *sub; sub++) {
        if ((*sub)->needed && !(*sub)->needed(opaque)) {
            continue;
        }
        put_u8(w, 'S');
        if (!put_table(w, *sub, opaque, error)) {
            return false;
        }
    }
    put_u8(w, 'E');
    return true;
}

GByteArray *vmstate_save(const VmState *vms, void *opaque, GError **error)
{
    VmStateWriter w = { .bytes = g_byte_array_new() };
    if (!put_table(&w, vms, opaque, error)) {
        g_byte_array_unref(w.bytes);
        return NULL;
    }
    return w.bytes;
}

/* ---- reading ---- */

bool vmstate_get(VmStateReader *r, void *data, size_t length, GError **error)
{
    if ((size_t)(r->end - r->at) < length) {
        return error_set(error, "state ends too early: %zu bytes needed, %zu left", length,
                         (size_t)(r->end - r->at));
    }
    if (length) {
        memcpy(data, r->at, length);
    }
    r->at += length;
    return true;
}

static bool get_u32(VmStateReader *r, uint32_t *value, GError **error)
{
    return vmstate_get(r, value, sizeof(*value), error);
}

bool vmstate_get_u64(VmStateReader *r, uint64_t *value, GError **error)
{
    return vmstate_get(r, value, sizeof(*value), error);
}

static bool get_name(VmStateReader *r, char name[256], GError **error)
{
    uint8_t length = 0;
    if (!vmstate_get(r, &length, 1, error) || !vmstate_get(r, name, length, error)) {
        return false;
    }
    name[length] = '\0';
    for (uint8_t i = 0; i < length; i++) {
        if (name[i] < 0x20 || name[i] > 0x7e) { /* it may end up in a message */
            return error_set(error, "malformed name in the state");
        }
    }
    return true;
}

static bool get_table(VmStateReader *r, const VmState *vms, void *opaque, GError **error);

static bool get_bools(VmStateReader *r, uint8_t *field, uint32_t count, GError **error)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t byte = 0;
        if (!vmstate_get(r, &byte, 1, error)) {
            return false;
        }
        if (byte > 1) {
            return error_set(error, "boolean is %u", byte);
        }
        field[i] = byte;
    }
    return true;
}

static bool get_bytes(VmStateReader *r, const VmStateField *f, void *state, uint32_t count, GError **error)
{
    uint8_t *field = (uint8_t *)state + f->offset;
    uint8_t *bytes;
    memcpy(&bytes, field, sizeof(bytes));
    if (count > f->size || count > (size_t)(r->end - r->at)) {
        return error_set(error, "%u bytes, at most %zu are allowed", count, f->size);
    }
    if (count != element_count(f, state) || (count && !bytes)) {
        g_free(bytes);
        bytes = count ? g_malloc(count) : NULL;
        memcpy(field, &bytes, sizeof(bytes));
        memcpy((uint8_t *)state + f->size_offset, &count, sizeof(count));
    }
    return vmstate_get(r, bytes, count, error);
}

static bool get_timer(VmStateReader *r, Timer *timer, GError **error)
{
    uint8_t armed = 0;
    uint64_t expire_ns = 0;
    if (!vmstate_get(r, &armed, 1, error) || !vmstate_get_u64(r, &expire_ns, error)) {
        return false;
    }
    if (armed > 1 || expire_ns > INT64_MAX) {
        return error_set(error, "deadline %" PRIu64 " is out of range", expire_ns);
    }
    if (armed) {
        timer_set(timer, (int64_t)expire_ns);
    } else {
        timer_cancel(timer);
    }
    return true;
}

static bool get_payload(VmStateReader *r, const VmStateField *f, void *state, uint32_t count, GError **error)
{
    uint8_t *field = (uint8_t *)state + f->offset;
    switch (f->kind) {
    case VMS_KIND_UINT:
    case VMS_KIND_BUFFER:
        return vmstate_get(r, field, f->size * count, error);
    case VMS_KIND_BOOL:
        return get_bools(r, field, count, error);
    case VMS_KIND_VBUFFER:
        return get_bytes(r, f, state, count, error);
    case VMS_KIND_VSTRUCT:
        memcpy(&field, field, sizeof(field));
        /* fall through */
    case VMS_KIND_STRUCT:
        for (uint32_t i = 0; i < count; i++) {
            if (!get_table(r, f->sub, field + i * f->size, error)) {
                return false;
            }
        }
        return true;
    case VMS_KIND_TIMER:
        return get_timer(r, (Timer *)(void *)field, error);
    case VMS_KIND_CUSTOM:
        return f->load(r, field, error);
    }
    g_assert_not_reached();
}

static bool get_field(VmStateReader *r, const VmStateField *f, void *state, GError **error)
{
    char name[256];
    uint8_t tag = 0, kind = 0;
    uint32_t size = 0, count = 0, length = 0;
    if (!vmstate_get(r, &tag, 1, error)) {
        return false;
    }
    if (tag != 'F') {
        return error_set(error, "is missing");
    }
    if (!get_name(r, name, error)) {
        return false;
    }
    if (strcmp(name, f->name) != 0) {
        return error_set(error, "expected, but '%s' was found", name);
    }
    if (!vmstate_get(r, &kind, 1, error) || !get_u32(r, &size, error) || !get_u32(r, &count, error) ||
        !get_u32(r, &length, error)) {
        return false;
    }
    if (kind != f->kind) {
        return error_set(error, "expected %s, found %s", kind_names[f->kind],
                         kind < G_N_ELEMENTS(kind_names) ? kind_names[kind] : "something unknown");
    }
    if (size != element_size(f)) {
        return error_set(error, "expected elements of %u bytes, found %u", element_size(f), size);
    }
    if (f->kind != VMS_KIND_VBUFFER && count != element_count(f, state)) {
        return error_set(error, "expected %u elements, found %u", element_count(f, state), count);
    }
    if (length > (size_t)(r->end - r->at)) {
        return error_set(error, "length %u goes beyond the end of the state", length);
    }
    VmStateReader payload = { .at = r->at, .end = r->at + length };
    if (!get_payload(&payload, f, state, count, error)) {
        return false;
    }
    if (payload.at != payload.end) {
        return error_set(error, "%zu bytes too many", (size_t)(payload.end - payload.at));
    }
    r->at = payload.end;
    return true;
}

static bool get_fields(VmStateReader *r, const VmState *vms, int version, void *opaque, GError **error)
{
    for (const VmStateField *f = vms->fields; f && f->name; f++) {
        if (f->since_version > version) {
            continue;
        }
        if (!get_field(r, f, opaque, error)) {
            error_prefix(error, "field '%s': ", f->name);
            return false;
        }
    }
    return true;
}

/* The name of the table that comes next, without moving on. */
static bool peek_table(const VmStateReader *r, char name[256], GError **error)
{
    VmStateReader ahead = *r;
    uint8_t tag = 0;
    if (!vmstate_get(&ahead, &tag, 1, error)) {
        return false;
    }
    if (tag != 'T') {
        return error_set(error, "state table expected, found tag 0x%02x", tag);
    }
    return get_name(&ahead, name, error);
}

static bool get_subsections(VmStateReader *r, const VmState *vms, void *opaque, GError **error)
{
    uint64_t seen = 0;
    for (;;) {
        uint8_t tag = 0;
        char name[256];
        if (!vmstate_get(r, &tag, 1, error)) {
            return false;
        }
        if (tag == 'E') {
            return true;
        }
        if (tag != 'S') {
            return error_set(error, tag == 'F' ? "more fields than expected" : "malformed state");
        }
        if (!peek_table(r, name, error)) {
            return false;
        }
        unsigned i = 0;
        while (vms->subsections && vms->subsections[i] && strcmp(vms->subsections[i]->name, name) != 0) {
            i++;
        }
        if (!vms->subsections || !vms->subsections[i]) {
            return error_set(error, "unknown subsection '%s'", name);
        }
        if (i < 64 && (seen & (1ull << i))) {
            return error_set(error, "subsection '%s' comes twice", name);
        }
        seen |= i < 64 ? 1ull << i : 0;
        if (!get_table(r, vms->subsections[i], opaque, error)) {
            return false;
        }
    }
}

static bool get_table_body(VmStateReader *r, const VmState *vms, void *opaque, GError **error)
{
    char name[256];
    uint32_t version = 0;
    if (!peek_table(r, name, error)) {
        return false;
    }
    if (strcmp(name, vms->name) != 0) {
        return error_set(error, "found the state of '%s' instead", name);
    }
    r->at += 2 + strlen(name);
    if (!get_u32(r, &version, error)) {
        return false;
    }
    if (version > (uint32_t)vms->version || version < (uint32_t)vms->minimum_version) {
        return error_set(error, "version %u is not supported (%d to %d are)", version, vms->minimum_version,
                         vms->version);
    }
    if (vms->pre_load && !vms->pre_load(opaque, error)) {
        return false;
    }
    return get_fields(r, vms, (int)version, opaque, error) && get_subsections(r, vms, opaque, error) &&
           (!vms->post_load || vms->post_load(opaque, (int)version, error));
}

static bool get_table(VmStateReader *r, const VmState *vms, void *opaque, GError **error)
{
    GError *local = NULL;
    if (get_table_body(r, vms, opaque, &local)) {
        return true;
    }
    if (!local) {
        error_set(&local, "refused");
    }
    error_prefix(&local, "%s: ", vms->name);
    g_propagate_error(error, local);
    return false;
}

bool vmstate_load(const VmState *vms, void *opaque, const uint8_t *data, size_t length, GError **error)
{
    VmStateReader r = { .at = data, .end = data + length };
    if (!get_table(&r, vms, opaque, error)) {
        return false;
    }
    if (r.at != r.end) {
        return error_set(error, "%s: %zu bytes after the end of the state", vms->name,
                         (size_t)(r.end - r.at));
    }
    return true;
}
