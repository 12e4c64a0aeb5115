/*
 * State tables: what of an object is saved, as data. Every device has one from its first day; migration,
 * savevm and the generic device test walk them. The encoding is self-describing (names, sizes, versions), so
 * that a mismatch is refused with the name of the object and the field.
 *
 *     static const VmStateField serial_fields[] = {
 *         VMS_UINT8(ier, SerialState), VMS_UINT16(divider, SerialState), VMS_END,
 *     };
 *     static const VmState serial_vmstate = { .name = "serial", .version = 1, .fields = serial_fields };
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_VMSTATE_VMSTATE_H
#define RHEA_VMSTATE_VMSTATE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct VmState VmState;
typedef struct VmStateField VmStateField;

typedef enum VmStateKind {
    VMS_KIND_UINT,    /* size 1, 2, 4 or 8, an array of count of them */
    VMS_KIND_BOOL,    /* C bool, an array of count */
    VMS_KIND_BUFFER,  /* size bytes */
    VMS_KIND_VBUFFER, /* a pointer to bytes; the length is the uint32_t at size_offset, at most `size` (bounds
                         check) */
    VMS_KIND_STRUCT,  /* an embedded struct (or array of count, stride size) described by sub */
    VMS_KIND_VSTRUCT, /* a pointer to an array of structs; the count is the uint32_t at size_offset, set up by
                         realize */
    VMS_KIND_TIMER,   /* an embedded Timer (loop/timer.h): its deadline or none */
    VMS_KIND_CUSTOM,  /* save/load callbacks */
} VmStateKind;

/* Where a state table writes to and reads from (vmstate/stream). */
typedef struct VmStateWriter VmStateWriter;
typedef struct VmStateReader VmStateReader;

struct VmStateField {
    const char *name;
    size_t offset;
    VmStateKind kind;
    size_t size;
    size_t count;
    size_t size_offset;
    const VmState *sub;
    int since_version; /* 0: always */
    bool (*save)(VmStateWriter *w, const void *field, GError **error);
    bool (*load)(VmStateReader *r, void *field, GError **error);
};

struct VmState {
    const char *name;
    int version;         /* what this code writes */
    int minimum_version; /* what it still reads */
    const VmStateField *fields;
    const VmState *const *subsections; /* NULL-terminated; each has needed() */
    bool (*needed)(const void *opaque);
    bool (*pre_save)(void *opaque, GError **error);
    bool (*pre_load)(void *opaque, GError **error);
    /* Checks what came in (it is hostile) and rebuilds derived state. false refuses the stream. */
    bool (*post_load)(void *opaque, int version, GError **error);
    bool unmigratable; /* saving is refused with the object's name */
};

#define VMS_FIELD_(f, state, k, ...)                                       \
    {                                                                      \
        .name = #f, .offset = offsetof(state, f), .kind = (k), __VA_ARGS__ \
    }
#define VMS_SIZE_OF_(f, state) sizeof(((state *)0)->f)
#define VMS_UINT_(f, state, type)                             \
    VMS_FIELD_(f, state, VMS_KIND_UINT, .size = sizeof(type), \
               .count = (0 + VMS_SIZE_OF_(f, state)) / sizeof(type))
/* Scalars and arrays of them alike: the count comes from the field's own size. */
#define VMS_UINT8(f, state)  VMS_UINT_(f, state, uint8_t)
#define VMS_UINT16(f, state) VMS_UINT_(f, state, uint16_t)
#define VMS_UINT32(f, state) VMS_UINT_(f, state, uint32_t)
#define VMS_UINT64(f, state) VMS_UINT_(f, state, uint64_t)
#define VMS_INT32(f, state)  VMS_UINT_(f, state, int32_t)
#define VMS_INT64(f, state)  VMS_UINT_(f, state, int64_t)
#define VMS_BOOL(f, state)                                    \
    VMS_FIELD_(f, state, VMS_KIND_BOOL, .size = sizeof(bool), \
               .count = (0 + VMS_SIZE_OF_(f, state)) / sizeof(bool))
#define VMS_BUFFER(f, state) VMS_FIELD_(f, state, VMS_KIND_BUFFER, .size = VMS_SIZE_OF_(f, state), .count = 1)
#define VMS_VBUFFER(f, state, length_field, max)                      \
    VMS_FIELD_(f, state, VMS_KIND_VBUFFER, .size = (max), .count = 1, \
               .size_offset = offsetof(state, length_field))
#define VMS_STRUCT(f, state, vms) \
    VMS_FIELD_(f, state, VMS_KIND_STRUCT, .size = VMS_SIZE_OF_(f, state), .count = 1, .sub = &(vms))
#define VMS_STRUCT_ARRAY(f, state, n, vms) \
    VMS_FIELD_(f, state, VMS_KIND_STRUCT, .size = VMS_SIZE_OF_(f[0], state), .count = (n), .sub = &(vms))
#define VMS_VSTRUCT(f, state, type, count_field, vms)                        \
    VMS_FIELD_(f, state, VMS_KIND_VSTRUCT, .size = sizeof(type), .count = 1, \
               .size_offset = offsetof(state, count_field), .sub = &(vms))
#define VMS_TIMER(f, state) VMS_FIELD_(f, state, VMS_KIND_TIMER, .size = VMS_SIZE_OF_(f, state), .count = 1)
#define VMS_CUSTOM(f, state, save_fn, load_fn)                                                           \
    VMS_FIELD_(f, state, VMS_KIND_CUSTOM, .size = VMS_SIZE_OF_(f, state), .count = 1, .save = (save_fn), \
               .load = (load_fn))
#define VMS_END      \
    {                \
        .name = NULL \
    }

/* Encodes an object's state; the bytes are the caller's (NULL on error). */
GByteArray *vmstate_save(const VmState *vms, void *opaque, GError **error);
/* Decodes; every length and value is checked. Leaves the object in an undefined but safe state on error. */
bool vmstate_load(const VmState *vms, void *opaque, const uint8_t *data, size_t length, GError **error);

/* For custom fields. Reading past the end is an error. */
void vmstate_put(VmStateWriter *w, const void *data, size_t length);
bool vmstate_get(VmStateReader *r, void *data, size_t length, GError **error);
void vmstate_put_u64(VmStateWriter *w, uint64_t value);
bool vmstate_get_u64(VmStateReader *r, uint64_t *value, GError **error);

#endif
