/*
 * fw_cfg on I/O ports: a selector, a data port, and a DMA interface. Source: QEMU's documentation, "QEMU
 * Firmware Configuration (fw_cfg) Device" (docs/specs/fw_cfg).
 *
 * Left out on purpose: writable items, the memory-mapped variant.
 *
 * Threads: boards add items before the guest runs; ports in vCPUs' threads under the HomeLock. DMA reaches
 * RAM only. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/firmware/fw_cfg.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(fw_cfg_select, "key 0x%04x");
TRACE_EVENT(fw_cfg_dma, "control 0x%08x length %u address 0x%" G_GINT64_MODIFIER "x");
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
    char *name; /* of a file */
    FwCfgMake *make;
    void *make_opaque;
} FwCfgItem;

struct FwCfg {
    Device parent_obj;
    /* saved */
    uint16_t key;
    uint32_t offset; /* in the selected item */
    uint64_t dma_address;
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

bool fw_cfg_add_file(FwCfg *s, const char *name, const void *data, size_t length, GError **error)
{
    if (!*name || strlen(name) >= FILE_NAME_BYTES) {
        return error_set(error, "fw_cfg file name '%s' must have 1 to %d characters", name,
                         FILE_NAME_BYTES - 1);
    }
    if (length > ITEM_MAX_LENGTH) {
        return error_set(error, "fw_cfg file '%s' is larger than %u bytes", name, ITEM_MAX_LENGTH);
    }
    home_lock(&s->parent_obj.lock);
    uint16_t key = FILE_FIRST;
    while (key < s->next_file && strcmp(item_find(s, key)->name, name) != 0) {
        key++;
    }
    bool ok = key <= FILE_LAST;
    if (ok) {
        TRACE(fw_cfg_add_file, key, name, length);
        item_set(s, key, data, length)->name = g_strdup(name);
        s->next_file = MAX(s->next_file, key + 1);
        rebuild_directory(s);
    }
    home_unlock(&s->parent_obj.lock);
    return ok || error_set(error, "fw_cfg has no room for file '%s'", name);
}

void fw_cfg_set_make(FwCfg *s, const char *name, FwCfgMake *make, void *opaque)
{
    home_lock(&s->parent_obj.lock);
    for (uint16_t key = FILE_FIRST; key < s->next_file; key++) {
        FwCfgItem *item = item_find(s, key);
        if (!strcmp(item->name, name)) {
            item->make = make;
            item->make_opaque = opaque;
        }
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

static bool dma_transfer(FwCfg *s, uint32_t control, uint64_t address, uint32_t length)
{
    AddressSpace *as = s->parent_obj.env->memory;
    const FwCfgItem *item = item_find(s, s->key);
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
        return false; /* nothing is writable */
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

/* ---- life ---- */
static void fw_cfg_reset(Device *dev)
{
    FwCfg *s = FW_CFG(dev);
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
}

static const VmStateField fw_cfg_fields[] = {
    VMS_UINT16(key, FwCfg),
    VMS_UINT32(offset, FwCfg),
    VMS_UINT64(dma_address, FwCfg),
    VMS_END,
};
static const VmState fw_cfg_vmstate = {
    .name = "fw_cfg",
    .version = 1,
    .minimum_version = 1,
    .fields = fw_cfg_fields,
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
