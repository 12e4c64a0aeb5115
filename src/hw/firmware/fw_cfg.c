/*
 * fw_cfg on I/O ports: a selector, a data port, and a DMA interface. Source: QEMU's documentation, "QEMU
 * Firmware Configuration (fw_cfg) Device" (docs/specs/fw_cfg).
 *
 * Left out on purpose: the memory-mapped variant.
 *
 * Threads: boards add items before the guest runs; ports in vCPUs' threads under the HomeLock. DMA reaches
 * RAM only. What a guest writes into a file stays here, saved with this device, and is read by whom it
 * concerns when he needs it. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/firmware/fw_cfg.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(fw_cfg_select, "key 0x%04x");
TRACE_EVENT(fw_cfg_dma, "control 0x%08x length %u address 0x%" G_GINT64_MODIFIER "x");
TRACE_EVENT(fw_cfg_written, "key 0x%04x offset %u length %u");
TRACE_EVENT(fw_cfg_add_file, "key 0x%04x name %s, %zu bytes");

enum { FW_CFG_PORT = 0x510, DMA_PORT = 0x514 };
enum { FILE_FIRST = 0x20, FILE_LAST = 0x3fff, FILE_NAME_BYTES = 56, FILE_ENTRY_BYTES = 64 };
enum { KEY_WRITE = 0x4000 };
enum { ID_TRADITIONAL = 1, ID_DMA = 2 };
enum { DMA_ERROR = 0x01, DMA_READ = 0x02, DMA_SKIP = 0x04, DMA_SELECT = 0x08, DMA_WRITE = 0x10 };
#define DMA_SIGNATURE   0x51454d5520434647ull /* "QEMU CFG" */
#define ITEM_MAX_LENGTH (1u << 30)

typedef struct FwCfgItem {
    uint8_t *data;
    uint32_t length;
    char *name;       /* of a file */
    uint8_t *initial; /* of a file that the guest may write: what it holds after a reset; else NULL */
    FwCfgMake *make;
    void *make_opaque;
} FwCfgItem;

struct FwCfg {
    Device parent_obj;
    /* saved */
    uint16_t key;
    uint32_t offset; /* in the selected item */
    uint64_t dma_address;
    uint8_t
        *written; /* the contents of all writable files, one behind the other; while being saved or loaded */
    uint32_t written_bytes;
    /* derived: the same on both sides of a migration, the boards see to it */
    GHashTable *items; /* key to FwCfgItem */
    uint16_t next_file;
    MemoryRegion port_io, dma_io;
};

/* ---- items ---- */
static void item_free(gpointer data)
{
    FwCfgItem *item = data;
    g_free(item->data);
    g_free(item->name);
    g_free(item->initial);
    g_free(item);
}

static FwCfgItem *item_find(FwCfg *s, uint16_t key)
{
    return g_hash_table_lookup(s->items, GUINT_TO_POINTER((key & ~KEY_WRITE)));
}

static FwCfgItem *item_set(FwCfg *s, uint16_t key, const void *data, size_t length)
{
    FwCfgItem *item = g_new0(FwCfgItem, 1);
    item->data = g_memdup2(data, length);
    item->length = length;
    g_hash_table_replace(s->items, GUINT_TO_POINTER(key), item);
    return item;
}

void fw_cfg_add_bytes(FwCfg *s, uint16_t key, const void *data, size_t length)
{
    g_assert(length <= ITEM_MAX_LENGTH && !(key & KEY_WRITE));
    home_lock(&s->parent_obj.lock);
    item_set(s, key, data, length);
    home_unlock(&s->parent_obj.lock);
}

void fw_cfg_add_u16(FwCfg *s, uint16_t key, uint16_t value)
{
    value = GUINT16_TO_LE(value);
    fw_cfg_add_bytes(s, key, &value, sizeof(value));
}

void fw_cfg_add_u32(FwCfg *s, uint16_t key, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    fw_cfg_add_bytes(s, key, &value, sizeof(value));
}

void fw_cfg_add_u64(FwCfg *s, uint16_t key, uint64_t value)
{
    value = GUINT64_TO_LE(value);
    fw_cfg_add_bytes(s, key, &value, sizeof(value));
}

void fw_cfg_add_string(FwCfg *s, uint16_t key, const char *value)
{
    fw_cfg_add_bytes(s, key, value, strlen(value) + 1);
}

/* Builds the directory (item 0x19) anew: a count, then size, key and name of each file, big-endian. */
static void rebuild_directory(FwCfg *s)
{
    unsigned count = s->next_file - FILE_FIRST;
    g_autofree uint8_t *directory = g_malloc0(4 + count * FILE_ENTRY_BYTES);
    uint32_t count_be = GUINT32_TO_BE(count);
    memcpy(directory, &count_be, 4);
    for (unsigned i = 0; i < count; i++) {
        const FwCfgItem *item = item_find(s, FILE_FIRST + i);
        uint8_t *entry = directory + 4 + i * FILE_ENTRY_BYTES;
        uint32_t size_be = GUINT32_TO_BE(item->length);
        uint16_t key_be = GUINT16_TO_BE((uint16_t)(FILE_FIRST + i));
        memcpy(entry, &size_be, 4);
        memcpy(entry + 4, &key_be, 2);
        strncpy((char *)entry + 8, item->name, FILE_NAME_BYTES - 1);
    }
    item_set(s, FW_CFG_FILE_DIR, directory, 4 + count * FILE_ENTRY_BYTES);
}

/* The lock is held. 0: there is no file of that name. */
static uint16_t file_key(FwCfg *s, const char *name)
{
    for (uint16_t key = FILE_FIRST; key < s->next_file; key++) {
        if (!strcmp(item_find(s, key)->name, name)) {
            return key;
        }
    }
    return 0;
}

static bool add_file(FwCfg *s, const char *name, const void *data, size_t length, bool writable,
                     GError **error)
{
    if (!*name || strlen(name) >= FILE_NAME_BYTES) {
        return error_set(error, "fw_cfg file name '%s' must have 1 to %d characters", name,
                         FILE_NAME_BYTES - 1);
    }
    if (length > ITEM_MAX_LENGTH) {
        return error_set(error, "fw_cfg file '%s' is larger than %u bytes", name, ITEM_MAX_LENGTH);
    }
    home_lock(&s->parent_obj.lock);
    uint16_t old = file_key(s, name), key = old ? old : s->next_file;
    bool taken = old && (writable || item_find(s, old)->initial), ok = key <= FILE_LAST && !taken;
    if (ok) {
        TRACE(fw_cfg_add_file, key, name, length);
        FwCfgItem *item = item_set(s, key, data, length);
        item->name = g_strdup(name);
        item->initial = writable ? g_memdup2(data, length) : NULL;
        s->next_file = MAX(s->next_file, key + 1);
        rebuild_directory(s);
    }
    home_unlock(&s->parent_obj.lock);
    return ok ||
           error_set(error, taken ? "fw_cfg has a file '%s' already" : "fw_cfg has no room for file '%s'",
                     name);
}

bool fw_cfg_add_file(FwCfg *s, const char *name, const void *data, size_t length, GError **error)
{
    return add_file(s, name, data, length, false, error);
}

bool fw_cfg_add_writable_file(FwCfg *s, const char *name, const void *data, size_t length, GError **error)
{
    g_assert(length && length <= FW_CFG_WRITABLE_MAX);
    return add_file(s, name, data, length, true, error);
}

bool fw_cfg_read_file(FwCfg *s, const char *name, void *buffer, size_t length)
{
    home_lock(&s->parent_obj.lock);
    uint16_t key = file_key(s, name);
    const FwCfgItem *item = key ? item_find(s, key) : NULL;
    bool ok = item && item->length == length;
    if (ok) {
        memcpy(buffer, item->data, length);
    }
    home_unlock(&s->parent_obj.lock);
    return ok;
}

void fw_cfg_write_file(FwCfg *s, const char *name, const void *data, size_t length)
{
    home_lock(&s->parent_obj.lock);
    uint16_t key = file_key(s, name);
    g_assert(key && item_find(s, key)->initial && item_find(s, key)->length == length);
    memcpy(item_find(s, key)->data, data, length);
    home_unlock(&s->parent_obj.lock);
}

void fw_cfg_set_make(FwCfg *s, const char *name, FwCfgMake *make, void *opaque)
{
    home_lock(&s->parent_obj.lock);
    uint16_t key = file_key(s, name);
    if (key) {
        FwCfgItem *item = item_find(s, key);
        item->make = make;
        item->make_opaque = opaque;
    }
    home_unlock(&s->parent_obj.lock);
}

/* ---- the selected item; the lock is held ---- */
static void select_item(FwCfg *s, uint16_t key)
{
    TRACE(fw_cfg_select, key);
    s->key = key;
    s->offset = 0;
    FwCfgItem *item = item_find(s, key);
    g_autoptr(GByteArray) made = item && item->make ? item->make(item->make_opaque, item->name) : NULL;
    if (made) {
        uint32_t length = MIN(made->len, item->length);
        memcpy(item->data, made->data, length);
        memset(item->data + length, 0, item->length - length);
    }
}

static uint8_t next_byte(FwCfg *s)
{
    const FwCfgItem *item = item_find(s, s->key);
    return item && s->offset < item->length ? item->data[s->offset++] : 0;
}

/* A write is whole or not at all: one beyond the end changes nothing. */
static bool dma_write_item(FwCfg *s, FwCfgItem *item, uint64_t address, uint32_t length)
{
    if (!item || !item->initial || s->offset > item->length || length > item->length - s->offset) {
        return false;
    }
    TRACE(fw_cfg_written, s->key, s->offset, length);
    g_autofree uint8_t *bytes = g_malloc(length);
    if (address_space_read(s->parent_obj.env->memory, address, MEMTXATTRS_DMA, bytes, length) != MEMTX_OK) {
        return false;
    }
    memcpy(item->data + s->offset, bytes, length);
    return true;
}

static bool dma_transfer(FwCfg *s, uint32_t control, uint64_t address, uint32_t length)
{
    AddressSpace *as = s->parent_obj.env->memory;
    FwCfgItem *item = item_find(s, s->key);
    uint32_t left = item ? item->length - MIN(s->offset, item->length) : 0;
    uint32_t real = MIN(left, length);
    if (control & DMA_READ) {
        if (real &&
            address_space_write(as, address, MEMTXATTRS_DMA, item->data + s->offset, real) != MEMTX_OK) {
            return false;
        }
        /* Beyond its end an item reads as zeros. */
        if (length > real &&
            address_space_set(as, address + real, 0, length - real, MEMTXATTRS_DMA) != MEMTX_OK) {
            return false;
        }
    } else if (control & DMA_WRITE) {
        if (!dma_write_item(s, item, address, length)) {
            return false;
        }
    } else if (!(control & DMA_SKIP)) {
        return true;
    }
    s->offset += real;
    return true;
}

/* The descriptor in guest memory: control and length (32 bits each), address (64 bits), big-endian. */
static void dma_run(FwCfg *s)
{
    AddressSpace *as = s->parent_obj.env->memory;
    uint8_t descriptor[16];
    uint64_t at = s->dma_address, address;
    uint32_t control, length;
    s->dma_address = 0;
    if (address_space_read(as, at, MEMTXATTRS_DMA, descriptor, sizeof(descriptor)) != MEMTX_OK) {
        control = GUINT32_TO_BE((uint32_t)DMA_ERROR);
        address_space_write(as, at, MEMTXATTRS_DMA, &control, sizeof(control));
        return;
    }
    memcpy(&control, descriptor, 4);
    memcpy(&length, descriptor + 4, 4);
    memcpy(&address, descriptor + 8, 8);
    control = GUINT32_FROM_BE(control);
    length = GUINT32_FROM_BE(length);
    address = GUINT64_FROM_BE(address);
    TRACE(fw_cfg_dma, control, length, address);
    if (control & DMA_SELECT) {
        select_item(s, control >> 16);
    }
    uint32_t result = dma_transfer(s, control, address, length) ? 0 : GUINT32_TO_BE((uint32_t)DMA_ERROR);
    address_space_write(as, at, MEMTXATTRS_DMA, &result, sizeof(result));
}

/* ---- ports ---- */
/* The selector is a word at 0x510, and its upper byte's port is the data port. */
static uint64_t port_read(void *opaque, hwaddr offset, unsigned size)
{
    return size == 1 ? next_byte(opaque) : UINT64_MAX;
}

static void port_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    if (size == 2) {
        select_item(opaque, value);
    } /* bytes once wrote items, which has no effect since QEMU 2.4 */
}

static uint64_t dma_read(void *opaque, hwaddr offset, unsigned size)
{
    return DMA_SIGNATURE >> (8 * (8 - offset - size));
}

static void dma_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    FwCfg *s = opaque;
    if (size == 8) {
        s->dma_address = value;
        dma_run(s);
    } else if (size == 4 && offset == 0) {
        s->dma_address = value << 32;
    } else if (size == 4 && offset == 4) {
        s->dma_address |= value;
        dma_run(s); /* the low half starts it */
    }
}

static const MemoryRegionOps port_ops = {
    .read = port_read,
    .write = port_write,
    .valid = { .min = 1, .max = 2 },
    .impl = { .min = 1, .max = 2 },
};
static const MemoryRegionOps dma_ops = {
    .read = dma_read,
    .write = dma_write,
    .endian = MEMORY_BIG_ENDIAN,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 1, .max = 8 },
};

/* ---- what the guest has written, as state ---- */
static uint32_t writable_bytes(FwCfg *s)
{
    uint32_t bytes = 0;
    for (uint16_t key = FILE_FIRST; key < s->next_file; key++) {
        const FwCfgItem *item = item_find(s, key);
        bytes += item->initial ? item->length : 0;
    }
    return bytes;
}

/* Copies the contents of all writable files to or from s->written. */
static void copy_written(FwCfg *s, bool save)
{
    uint8_t *at = s->written;
    for (uint16_t key = FILE_FIRST; key < s->next_file; key++) {
        FwCfgItem *item = item_find(s, key);
        if (item->initial) {
            memcpy(save ? at : item->data, save ? item->data : at, item->length);
            at += item->length;
        }
    }
}

static bool fw_cfg_pre_save(void *opaque, GError **error)
{
    FwCfg *s = opaque;
    s->written_bytes = writable_bytes(s);
    s->written = g_realloc(s->written, s->written_bytes);
    copy_written(s, true);
    return true;
}

static bool fw_cfg_post_load(void *opaque, int version, GError **error)
{
    FwCfg *s = opaque;
    uint32_t wanted = writable_bytes(s);
    if (version >= 2 && s->written_bytes != wanted) {
        return error_set(error,
                         "%s: the files that a guest may write have %u bytes here, %u in the saved state",
                         TYPE_FW_CFG_IO, wanted, s->written_bytes);
    }
    if (version >= 2) {
        copy_written(s, false);
    }
    return true;
}

/* ---- life ---- */
static void fw_cfg_reset(Device *dev)
{
    FwCfg *s = FW_CFG(dev);
    for (uint16_t key = FILE_FIRST; key < s->next_file; key++) {
        FwCfgItem *item = item_find(s, key);
        if (item->initial) {
            memcpy(item->data, item->initial, item->length);
        }
    }
    select_item(s, 0);
    s->dma_address = 0;
}

static bool fw_cfg_realize(Device *dev, GError **error)
{
    FwCfg *s = FW_CFG(dev);
    const DeviceEnv *env = dev->env;
    if (!env || !env->system_io || !env->memory) {
        return error_set(error, "%s needs memory and I/O ports", TYPE_FW_CFG_IO);
    }
    fw_cfg_add_bytes(s, FW_CFG_SIGNATURE, "QEMU", 4);
    fw_cfg_add_u32(s, FW_CFG_ID, ID_TRADITIONAL | ID_DMA);
    rebuild_directory(s);
    memory_region_init_io(&s->port_io, s, &port_ops, s, "fwcfg", 2, &dev->lock);
    memory_region_init_io(&s->dma_io, s, &dma_ops, s, "fwcfg.dma", 8, &dev->lock);
    memory_region_add(env->system_io, FW_CFG_PORT, &s->port_io);
    memory_region_add(env->system_io, DMA_PORT, &s->dma_io);
    return true;
}

static void fw_cfg_unrealize(Device *dev)
{
    FwCfg *s = FW_CFG(dev);
    memory_region_del(dev->env->system_io, &s->port_io);
    memory_region_del(dev->env->system_io, &s->dma_io);
    memory_region_destroy(&s->port_io);
    memory_region_destroy(&s->dma_io);
}

static void fw_cfg_instance_init(Object *obj)
{
    FwCfg *s = FW_CFG(obj);
    s->items = g_hash_table_new_full(NULL, NULL, NULL, item_free);
    s->next_file = FILE_FIRST;
}

static void fw_cfg_instance_finalize(Object *obj)
{
    g_hash_table_unref(FW_CFG(obj)->items);
    g_free(FW_CFG(obj)->written);
}

static const VmStateField fw_cfg_fields[] = {
    VMS_UINT16(key, FwCfg),
    VMS_UINT32(offset, FwCfg),
    VMS_UINT64(dma_address, FwCfg),
    VMS_FIELD_(written, FwCfg, VMS_KIND_VBUFFER, .size = FW_CFG_WRITABLE_MAX * 16u, .count = 1,
               .size_offset = offsetof(FwCfg, written_bytes), .since_version = 2),
    VMS_END,
};
static const VmState fw_cfg_vmstate = {
    .name = "fw_cfg",
    .version = 2,
    .minimum_version = 1,
    .fields = fw_cfg_fields,
    .pre_save = fw_cfg_pre_save,
    .post_load = fw_cfg_post_load,
};

static void fw_cfg_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = fw_cfg_realize;
    dc->unrealize = fw_cfg_unrealize;
    dc->reset = fw_cfg_reset;
    dc->vmstate = &fw_cfg_vmstate;
    dc->hotpluggable = false;
}

static const TypeInfo fw_cfg_info = {
    .name = TYPE_FW_CFG_IO,
    .parent = TYPE_DEVICE,
    .description = "firmware configuration ports",
    .instance_size = sizeof(FwCfg),
    .class_init = fw_cfg_class_init,
    .instance_init = fw_cfg_instance_init,
    .instance_finalize = fw_cfg_instance_finalize,
};
TYPE_REGISTER(fw_cfg_info);
