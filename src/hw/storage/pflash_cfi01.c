/*
 * "cfi.pflash01": NOR flash with the Intel command set, as firmware keeps its variables in. Sources: JEDEC
 * JESD68.01 (Common Flash Interface), Intel "Common Flash Interface (CFI) and Command Sets" (292204),
 * chapters 3 and 4.
 *
 * Chips of one byte's width; a wider access programs as many bytes. The content is read at realize; what the
 * guest writes reaches the drive a moment later, in whole sectors, and before the device goes away. The ready
 * bit of the status register falls with "clear status", as no chip's does: it is how OVMF tells flash from
 * ROM. Left out on purpose: suspended erases, protection of single blocks (accepted), the protection
 * register.
 *
 * Threads: registers in vCPUs' threads, writes to the drive in the main loop, all under the HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/storage/pflash_cfi01.h"

#include "base/error.h"
#include "base/log.h"
#include "block/block.h"
#include "trace/trace.h"

#include <errno.h>
#include <string.h>

TRACE_EVENT(pflash_read, "offset 0x%06x command 0x%02x value 0x%02x");
TRACE_EVENT(pflash_command, "offset 0x%06x command 0x%02x");
TRACE_EVENT(pflash_program, "offset 0x%06x size %u value 0x%x");
TRACE_EVENT(pflash_erase, "offset 0x%06x size %u");
TRACE_EVENT(pflash_store, "offset 0x%06x size %u");

enum {
    CMD_READ_ARRAY = 0xff,
    CMD_PROGRAM = 0x40,
    CMD_PROGRAM_OLD = 0x10,
    CMD_ERASE = 0x20,
    CMD_CLEAR_STATUS = 0x50,
    CMD_LOCK = 0x60,
    CMD_READ_STATUS = 0x70,
    CMD_READ_ID = 0x90,
    CMD_QUERY = 0x98,
    CMD_BUFFER = 0xe8,
    CMD_CONFIRM = 0xd0,
    CMD_LOCK_SET = 0x01,
    CMD_ARRAY_OLD = 0xf0,
    CMD_NOP = 0x00,
};
enum { STATUS_READY = 0x80, STATUS_ERASE_ERROR = 0x20, STATUS_PROGRAM_ERROR = 0x10 };
enum { MANUFACTURER_INTEL = 0x89, DEVICE_CODE = 0x18 };
#define BUFFER_LOG2  11
#define BUFFER_SIZE  (1u << BUFFER_LOG2)
#define MAX_SIZE     (64u << 20)
#define QUERY_LENGTH 0x40

/* What the next write means. */
enum { STEP_COMMAND, STEP_PROGRAM, STEP_ERASE, STEP_LOCK, STEP_COUNT_BYTE, STEP_DATA, STEP_CONFIRM, STEPS };

typedef struct PflashCfi01 {
    Device parent_obj;
    /* saved */
    uint8_t step, command, status;
    uint32_t buffer_at, buffer_left;
    uint8_t buffer[BUFFER_SIZE];
    uint8_t touched[BUFFER_SIZE / 8]; /* of buffer */
    /* from properties */
    BlockBackend *bb;
    char *name;
    uint32_t sector_length;
    bool secure;
    /* derived */
    bool read_only, romd;
    uint32_t size;
    uint8_t query[QUERY_LENGTH];
    MemoryRegion mem;
    unsigned long *dirty; /* a bit a sector: to be stored */
    uint32_t sectors;
    bool storing;
    uint8_t *store; /* of the sector that is being stored */
    struct iovec iov;
    BottomHalf *bh;
} PflashCfi01;
#define PFLASH(obj) OBJECT_CHECK(PflashCfi01, obj, TYPE_PFLASH_CFI01)

static uint8_t *content(PflashCfi01 *s)
{
    return s->mem.ram->host;
}

/* Reads come straight from memory while no command is under way. */
static void update_romd(PflashCfi01 *s)
{
    bool romd = s->step == STEP_COMMAND && s->command == CMD_READ_ARRAY;
    if (romd != s->romd) {
        s->romd = romd;
        memory_region_set_romd(&s->mem, romd);
    }
}

static void to_array(PflashCfi01 *s)
{
    s->step = STEP_COMMAND;
    s->command = CMD_READ_ARRAY;
}

/* ---- to the drive ---- */

static bool is_dirty(const PflashCfi01 *s, uint32_t sector)
{
    return s->dirty[sector / 64] >> (sector % 64) & 1;
}

static void changed(PflashCfi01 *s, uint32_t offset, uint32_t length)
{
    ram_written(s->mem.ram, offset, length);
    if (!s->bb || s->read_only) {
        return;
    }
    for (uint32_t sector = offset / s->sector_length; sector <= (offset + length - 1) / s->sector_length;
         sector++) {
        s->dirty[sector / 64] |= 1ul << (sector % 64);
    }
    bh_schedule(s->bh);
}

static void store_next(PflashCfi01 *s);

static void store_done(void *opaque, int result)
{
    PflashCfi01 *s = opaque;
    home_lock(&s->parent_obj.lock);
    s->storing = false;
    if (result < 0) {
        log_warning("flash '%s': a write to its drive failed: %s", s->name, g_strerror(-result));
    }
    store_next(s);
    home_unlock(&s->parent_obj.lock);
}

/* One sector at a time: what the guest changes meanwhile is stored after it. */
static void store_next(PflashCfi01 *s)
{
    Loop *loop = s->parent_obj.env->loop;
    if (s->storing) {
        return;
    }
    for (uint32_t sector = 0; sector < s->sectors; sector++) {
        if (is_dirty(s, sector)) {
            uint32_t offset = sector * s->sector_length;
            s->dirty[sector / 64] &= ~(1ul << (sector % 64));
            memcpy(s->store, content(s) + offset, s->sector_length);
            TRACE(pflash_store, offset, s->sector_length);
            s->iov = (struct iovec){ s->store, s->sector_length };
            s->storing = true;
            bb_writev(s->bb, loop, offset, &s->iov, 1, BLOCK_REQ_FUA, store_done, s);
            return;
        }
    }
}

static void store_begin(void *opaque)
{
    store_next(opaque);
}

/* ---- programming ---- */

static void program(PflashCfi01 *s, uint32_t offset, const uint8_t *data, uint32_t length)
{
    uint8_t *to = content(s) + offset;
    if (s->read_only) {
        s->status |= STATUS_PROGRAM_ERROR;
        return;
    }
    for (uint32_t i = 0; i < length; i++) {
        to[i] &= data[i]; /* bits fall only; an erase raises them */
    }
    changed(s, offset, length);
}

static void erase(PflashCfi01 *s, uint32_t offset)
{
    offset -= offset % s->sector_length;
    TRACE(pflash_erase, offset, s->sector_length);
    if (s->read_only) {
        s->status |= STATUS_ERASE_ERROR;
        return;
    }
    memset(content(s) + offset, 0xff, s->sector_length);
    changed(s, offset, s->sector_length);
}

/* The buffer lies on the medium at its own size's boundaries, so that each byte has one place in it. */
static void buffer_put(PflashCfi01 *s, uint32_t offset, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size && s->buffer_left; i++, s->buffer_left--) {
        uint32_t at = offset + i - s->buffer_at;
        if (offset + i < s->buffer_at || at >= BUFFER_SIZE) {
            s->status |= STATUS_PROGRAM_ERROR;
            continue;
        }
        s->buffer[at] = value >> (8 * i);
        s->touched[at / 8] |= 1u << (at % 8);
    }
    if (!s->buffer_left) {
        s->step = STEP_CONFIRM;
    }
}

static void buffer_commit(PflashCfi01 *s)
{
    for (uint32_t at = 0; at < BUFFER_SIZE && s->buffer_at + at < s->size; at++) {
        if (s->touched[at / 8] & 1u << (at % 8)) {
            program(s, s->buffer_at + at, s->buffer + at, 1);
        }
    }
}

/* ---- commands ---- */

static void first_write(PflashCfi01 *s, uint32_t offset, uint8_t command)
{
    TRACE(pflash_command, offset, command);
    s->command = command;
    switch (command) {
    case CMD_PROGRAM:
    case CMD_PROGRAM_OLD:
        s->step = STEP_PROGRAM;
        break;
    case CMD_ERASE:
        s->step = STEP_ERASE;
        break;
    case CMD_LOCK:
        s->step = STEP_LOCK;
        break;
    case CMD_BUFFER:
        s->status |= STATUS_READY; /* the buffer is free */
        s->step = STEP_COUNT_BYTE;
        break;
    case CMD_CLEAR_STATUS:
        s->status = 0;
        to_array(s);
        break;
    case CMD_READ_STATUS:
    case CMD_READ_ID:
    case CMD_QUERY:
        break;
    case CMD_READ_ARRAY:
    case CMD_ARRAY_OLD:
    case CMD_NOP:
        to_array(s);
        break;
    default:
        LOG(LOG_GUEST_ERROR, "flash '%s': command 0x%02x", s->name, command);
        to_array(s);
    }
}

static void later_write(PflashCfi01 *s, uint32_t offset, uint64_t value, unsigned size)
{
    uint8_t bytes[8];
    uint8_t low = value;

    for (unsigned i = 0; i < sizeof(bytes); i++) {
        bytes[i] = value >> (8 * i);
    }
    switch (s->step) {
    case STEP_PROGRAM:
        TRACE(pflash_program, offset, size, (unsigned)value);
        program(s, offset, bytes, size);
        s->status |= STATUS_READY;
        s->step = STEP_COMMAND; /* reads give the status from here on */
        break;
    case STEP_ERASE:
        if (low == CMD_CONFIRM) {
            erase(s, offset);
        } else if (low != CMD_READ_ARRAY) {
            s->status |= STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR;
        }
        s->status |= STATUS_READY;
        s->step = STEP_COMMAND;
        if (low == CMD_READ_ARRAY) {
            to_array(s);
        }
        break;
    case STEP_LOCK: /* blocks lock and unlock, which changes nothing */
        s->status |= low == CMD_CONFIRM || low == CMD_LOCK_SET
                         ? STATUS_READY
                         : STATUS_READY | STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR;
        s->step = STEP_COMMAND;
        if (low == CMD_READ_ARRAY) {
            to_array(s);
        }
        break;
    case STEP_COUNT_BYTE:
        s->buffer_left = MIN((value & 0xffff) + 1, BUFFER_SIZE);
        s->buffer_at = offset & ~(BUFFER_SIZE - 1);
        memset(s->touched, 0, sizeof(s->touched));
        s->step = STEP_DATA;
        break;
    case STEP_DATA:
        buffer_put(s, offset, value, size);
        break;
    default: /* STEP_CONFIRM */
        if (low == CMD_CONFIRM && !(s->status & STATUS_PROGRAM_ERROR)) {
            buffer_commit(s);
        } else {
            s->status |= STATUS_PROGRAM_ERROR;
        }
        s->status |= STATUS_READY;
        s->step = STEP_COMMAND;
        if (low == CMD_READ_ARRAY) {
            to_array(s);
        }
    }
}

static MemTxResult pflash_write(void *opaque, hwaddr offset, uint64_t value, unsigned size, MemTxAttrs attrs)
{
    PflashCfi01 *s = opaque;

    if (offset + size > s->size) {
        return MEMTX_DECODE_ERROR;
    }
    if (s->secure && !attrs.secure && s->step == STEP_COMMAND) {
        /* Whoever is not in SMM may look, no more. */
        uint8_t command = value;
        if (command != CMD_READ_ARRAY && command != CMD_READ_STATUS && command != CMD_READ_ID &&
            command != CMD_QUERY && command != CMD_CLEAR_STATUS) {
            LOG(LOG_GUEST_ERROR, "flash '%s': command 0x%02x from outside of SMM", s->name, command);
            return MEMTX_OK;
        }
    } else if (s->secure && !attrs.secure) {
        return MEMTX_OK;
    }
    if (s->step == STEP_COMMAND) {
        first_write(s, (uint32_t)offset, (uint8_t)value);
    } else {
        later_write(s, (uint32_t)offset, value, size);
    }
    update_romd(s);
    return MEMTX_OK;
}

static uint8_t identifier(const PflashCfi01 *s, uint32_t offset)
{
    switch (offset & 0xff) {
    case 0:
        return MANUFACTURER_INTEL;
    case 1:
        return DEVICE_CODE;
    default:
        return 0; /* no block is locked */
    }
}

static MemTxResult pflash_read(void *opaque, hwaddr offset, uint64_t *value, unsigned size, MemTxAttrs attrs)
{
    PflashCfi01 *s = opaque;

    if (offset + size > s->size) {
        return MEMTX_DECODE_ERROR;
    }
    switch (s->command) {
    case CMD_READ_ID:
        *value = identifier(s, (uint32_t)offset);
        break;
    case CMD_QUERY:
        *value = (offset & 0xff) < QUERY_LENGTH ? s->query[offset & 0xff] : 0;
        break;
    case CMD_READ_ARRAY:
        *value = 0;
        memcpy(value, content(s) + offset, size);
        break;
    default:
        *value = s->status;
        break;
    }
    TRACE(pflash_read, (unsigned)offset, s->command, (unsigned)*value);
    return MEMTX_OK;
}

static const MemoryRegionOps pflash_ops = {
    .read_with_attrs = pflash_read,
    .write_with_attrs = pflash_write,
    .valid = { .min = 1, .max = 8, .unaligned = true },
    .impl = { .min = 1, .max = 8, .unaligned = true },
};

/* ---- life ---- */

MemoryRegion *pflash_cfi01_region(Device *dev)
{
    return &PFLASH(dev)->mem;
}

/* JESD68.01, 2.1: identification, voltages and times, geometry, and the primary command set's table. */
static void fill_query(PflashCfi01 *s)
{
    uint8_t *q = s->query;
    uint32_t blocks = s->sectors - 1, unit = s->sector_length / 256;
    const uint8_t head[] = { 'Q', 'R', 'Y', 0x01, 0x00, 0x31, 0x00 };
    const uint8_t times[] = { 0x45, 0x55, 0x00, 0x00, 0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00 };
    const uint8_t table[] = { 'P', 'R', 'I', '1', '0' };

    memcpy(q + 0x10, head, sizeof(head));
    memcpy(q + 0x1b, times, sizeof(times));
    q[0x27] = (uint8_t)(31 - __builtin_clz(s->size));
    q[0x28] = 0x02; /* 8 and 16 bits, asynchronous */
    q[0x2a] = BUFFER_LOG2;
    q[0x2c] = 1; /* kind of block */
    q[0x2d] = blocks;
    q[0x2e] = blocks >> 8;
    q[0x2f] = unit;
    q[0x30] = unit >> 8;
    memcpy(q + 0x31, table, sizeof(table));
}

static void pflash_reset(Device *dev)
{
    PflashCfi01 *s = PFLASH(dev);
    s->status = STATUS_READY;
    s->buffer_left = 0;
    to_array(s);
    update_romd(s);
}

static bool attach(PflashCfi01 *s, GError **error)
{
    static const BlockDevOps ops = { NULL };
    Device *dev = DEVICE(s);
    g_autofree char *path = object_get_canonical_path(OBJECT(dev));

    s->read_only = bb_read_only(s->bb);
    if (!bb_attach_device(s->bb, path, s->read_only, false, &ops, s, error)) {
        return false;
    }
    bb_set_qdev_path(s->bb, path);
    int result = bb_pread(s->bb, 0, content(s), s->size);
    if (result < 0) {
        bb_detach_device(s->bb);
        return error_set_errno(error, -result, "flash '%s': cannot read its drive", s->name);
    }
    return true;
}

static bool pflash_realize(Device *dev, GError **error)
{
    PflashCfi01 *s = PFLASH(dev);

    if (!s->bb || !bb_has_medium(s->bb)) {
        return error_set(error, "%s: drive property not set, or it has no medium", TYPE_PFLASH_CFI01);
    }
    if (!dev->env || !dev->env->loop) {
        return error_set(error, "%s needs a loop", TYPE_PFLASH_CFI01);
    }
    uint64_t size = bb_size(s->bb);
    if (s->sector_length < 512 || s->sector_length > 1 << 20 || (s->sector_length & (s->sector_length - 1))) {
        return error_set(error, "Property 'sector-length' must be a power of two between 512 and 1 MiB");
    }
    if (!size || size > MAX_SIZE || size % MAX(s->sector_length, RAM_PAGE_SIZE)) {
        error_set(error,
                  "flash drive '%s' has %" PRIu64
                  " bytes: it must be whole sectors of %u, and at most %u MiB",
                  bb_name(s->bb), size, MAX(s->sector_length, RAM_PAGE_SIZE), MAX_SIZE >> 20);
        error_append_hint(error, "Firmware comes with images of the right size: copy those.");
        return false;
    }
    if (!s->name) {
        s->name = g_strdup("pflash");
    }
    s->size = (uint32_t)size;
    s->sectors = s->size / s->sector_length;
    if (s->sectors > 0x10000) {
        return error_set(error, "flash '%s' has more than 65536 sectors", s->name);
    }
    if (!memory_region_init_rom_device(&s->mem, s, &pflash_ops, s, s->name, s->size, &dev->lock, error)) {
        return false;
    }
    s->romd = true;
    if (!attach(s, error)) {
        memory_region_destroy(&s->mem);
        return false;
    }
    ram_written(s->mem.ram, 0, s->size);
    fill_query(s);
    s->dirty = g_new0(unsigned long, s->sectors / 64 + 1);
    s->store = g_malloc(s->sector_length);
    s->bh = bh_new(dev->env->loop, store_begin, s, &dev->lock);
    to_array(s);
    s->status = STATUS_READY;
    return true;
}

static bool any_dirty(const PflashCfi01 *s)
{
    bool any = s->storing;
    for (uint32_t i = 0; i <= s->sectors / 64; i++) {
        any |= s->dirty[i] != 0;
    }
    return any;
}

static void pflash_unrealize(Device *dev)
{
    PflashCfi01 *s = PFLASH(dev);

    home_lock(&dev->lock);
    while (any_dirty(s)) { /* the guest is gone: what it wrote is not */
        store_next(s);
        home_unlock(&dev->lock);
        bb_drain(s->bb, dev->env->loop);
        home_lock(&dev->lock);
    }
    home_unlock(&dev->lock);
    bh_free(s->bh);
    s->bh = NULL;
    bb_detach_device(s->bb);
    memory_region_destroy(&s->mem);
    g_clear_pointer(&s->dirty, g_free);
    g_clear_pointer(&s->store, g_free);
}

static const Property pflash_properties[] = {
    PROP_TYPED("drive", PflashCfi01, bb, property_type_drive,
               "the content: a drive's id or a block node's name"),
    PROP_STR("name", PflashCfi01, name, NULL, "name of its memory region"),
    PROP_UINT32("sector-length", PflashCfi01, sector_length, 4096, "bytes that are erased together"),
    PROP_BOOL("secure", PflashCfi01, secure, false, "only CPUs in system management mode can write"),
    PROP_END,
};

static bool pflash_post_load(void *opaque, int version, GError **error)
{
    PflashCfi01 *s = opaque;
    if (s->step >= STEPS || s->buffer_left > BUFFER_SIZE || s->buffer_at >= MAX(s->size, 1) ||
        s->buffer_at % BUFFER_SIZE || (s->step == STEP_DATA && !s->buffer_left)) {
        to_array(s);
        s->buffer_left = s->buffer_at = 0;
        update_romd(s);
        return error_set(error, "%s: impossible state of a command", TYPE_PFLASH_CFI01);
    }
    update_romd(s);
    return true;
}

static const VmStateField pflash_fields[] = {
    VMS_UINT8(step, PflashCfi01),         VMS_UINT8(command, PflashCfi01),
    VMS_UINT8(status, PflashCfi01),       VMS_UINT32(buffer_at, PflashCfi01),
    VMS_UINT32(buffer_left, PflashCfi01), VMS_BUFFER(buffer, PflashCfi01),
    VMS_BUFFER(touched, PflashCfi01),     VMS_END,
};

static const VmState pflash_vmstate = {
    .name = TYPE_PFLASH_CFI01,
    .version = 1,
    .minimum_version = 1,
    .fields = pflash_fields,
    .post_load = pflash_post_load,
};

static void pflash_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = pflash_realize;
    dc->unrealize = pflash_unrealize;
    dc->reset = pflash_reset;
    dc->vmstate = &pflash_vmstate;
    dc->category = "Storage";
    dc->hotpluggable = false;
    object_class_add_properties(klass, pflash_properties);
}

static const TypeInfo pflash_info = {
    .name = TYPE_PFLASH_CFI01,
    .parent = TYPE_DEVICE,
    .description = "NOR flash with the Intel command set",
    .instance_size = sizeof(PflashCfi01),
    .class_init = pflash_class_init,
};
TYPE_REGISTER(pflash_info);
