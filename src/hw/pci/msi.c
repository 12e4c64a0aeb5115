/*
 * Message-signalled interrupts: MSI and MSI-X (PCI Local Bus Specification 3.0, chapter 6.8).
 *
 * Left out on purpose: MSI's optional per-vector masking.
 *
 * Threads: pci_msix_notify() comes from any thread (a queue's I/O thread), so table and pending bits have a
 * lock of their own, below every HomeLock; messages leave with it held, and local APICs take only leaf locks.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "hw/pci/pci_internal.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(pci_msi_send, "%s address 0x%" G_GINT64_MODIFIER "x data 0x%x");
TRACE_EVENT(pci_msix_write, "%s vector %u entry offset %u value 0x%x");

#define MSIX_MAX_VECTORS 2048
#define MSIX_MIN_BAR     4096u

struct PciMsix {
    PciDevice *dev;
    pthread_mutex_t lock; /* of all below */
    unsigned vectors;
    uint8_t *table; /* as the guest reads it, 16 bytes a vector */
    uint8_t *pending;
    uint32_t pba_offset, pba_bytes;
    bool enabled, function_masked; /* mirror message control */
    ApicRoute **routes;            /* a vector's own way, from its first message on; NULL: it has none */
    MemoryRegion bar, table_io, pba_io;
};

static bool is_apic_address(uint64_t address)
{
    return (address & ~0xfffffull) == 0xfee00000u;
}

void pci_msi_send(PciDevice *dev, uint64_t address, uint32_t data)
{
    const DeviceEnv *env = dev->parent_obj.env;
    TRACE(pci_msi_send, object_get_typename(OBJECT(dev)), address, data);
    if (!__atomic_load_n(&dev->bus_master, __ATOMIC_RELAXED) || !env) {
        return; /* a function that may not be bus master cannot send messages either */
    }
    if (is_apic_address(address)) {
        if (env->apic_bus) {
            apic_bus_msi(env->apic_bus, address, data);
        }
    } else if (dev->dma_as) {
        address_space_store(dev->dma_as, address, 4, data, MEMTXATTRS_DMA);
    }
}

/* ---- MSI ---- */
bool pci_msi_init(PciDevice *dev, unsigned vectors, bool addr64, GError **error)
{
    if (vectors == 0 || vectors > 32 || (vectors & (vectors - 1))) {
        return error_set(error, "MSI allows 1, 2, 4, 8, 16 or 32 vectors, not %u", vectors);
    }
    uint8_t at = pci_add_capability(dev, PCI_CAP_MSI, 0, addr64 ? 14 : 10, error);
    if (!at) {
        return false;
    }
    unsigned log2 = __builtin_ctz(vectors);
    pci_set_word(dev->config + at + PCI_MSI_CONTROL,
                 (log2 << PCI_MSI_MULTIPLE_CAPABLE_SHIFT) | (addr64 ? PCI_MSI_64BIT : 0));
    pci_set_word(dev->wmask + at + PCI_MSI_CONTROL, PCI_MSI_ENABLE | (7u << PCI_MSI_MULTIPLE_ENABLE_SHIFT));
    pci_set_long(dev->wmask + at + PCI_MSI_ADDRESS, 0xfffffffcu);
    if (addr64) {
        pci_set_long(dev->wmask + at + PCI_MSI_ADDRESS_HIGH, 0xffffffffu);
    }
    pci_set_word(dev->wmask + at + (addr64 ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 0xffff);
    dev->msi_cap = at;
    return true;
}

bool pci_msi_enabled(const PciDevice *dev)
{
    return dev->msi_cap && (pci_get_word(dev->config + dev->msi_cap + PCI_MSI_CONTROL) & PCI_MSI_ENABLE);
}

void pci_msi_notify(PciDevice *dev, unsigned vector)
{
    if (!pci_msi_enabled(dev)) {
        return;
    }
    const uint8_t *cap = dev->config + dev->msi_cap;
    uint16_t control = pci_get_word(cap + PCI_MSI_CONTROL);
    unsigned capable = 1u << ((control >> PCI_MSI_MULTIPLE_CAPABLE_SHIFT) & 7);
    unsigned granted = 1u << ((control >> PCI_MSI_MULTIPLE_ENABLE_SHIFT) & 7);
    granted = MIN(granted, capable);
    uint64_t address = pci_get_long(cap + PCI_MSI_ADDRESS);
    uint32_t data;
    if (control & PCI_MSI_64BIT) {
        address |= (uint64_t)pci_get_long(cap + PCI_MSI_ADDRESS_HIGH) << 32;
        data = pci_get_word(cap + PCI_MSI_DATA_64);
    } else {
        data = pci_get_word(cap + PCI_MSI_DATA_32);
    }
    if (granted > 1) {
        data = (data & ~(granted - 1)) | (vector & (granted - 1));
    }
    pci_msi_send(dev, address, data);
}

void pci_msi_reset(PciDevice *dev)
{
    if (dev->msi_cap) {
        for (unsigned i = PCI_MSI_CONTROL; i < 16; i++) {
            dev->config[dev->msi_cap + i] &= ~dev->wmask[dev->msi_cap + i];
        }
    }
}

/* ---- MSI-X ---- */
typedef struct PciMsix PciMsix;

/* The caller holds m->lock in the functions down to notify. */
static bool vector_masked(const PciMsix *m, unsigned vector)
{
    return m->function_masked || (m->table[vector * PCI_MSIX_ENTRY_SIZE + 12] & PCI_MSIX_ENTRY_MASKED);
}

/* Where an accelerator has routes for messages (KVM); false: the message goes as any other. */
static bool vector_send_routed(PciMsix *m, unsigned vector, uint64_t address, uint32_t data)
{
    const DeviceEnv *env = m->dev->parent_obj.env;
    ApicRoute **route = &m->routes[vector];
    if (!env || !env->apic_bus || !is_apic_address(address) ||
        !__atomic_load_n(&m->dev->bus_master, __ATOMIC_RELAXED)) {
        return false;
    }
    if (!*route) {
        *route = apic_bus_route_new(env->apic_bus);
    }
    return *route && apic_bus_route_send(env->apic_bus, *route, address, data);
}

static void vector_send(PciMsix *m, unsigned vector)
{
    const uint8_t *entry = m->table + vector * PCI_MSIX_ENTRY_SIZE;
    uint64_t address = pci_get_long(entry) | (uint64_t)pci_get_long(entry + 4) << 32;
    uint32_t data = pci_get_long(entry + 8);
    if (!vector_send_routed(m, vector, address, data)) {
        pci_msi_send(m->dev, address, data);
    }
}

static void free_routes(PciMsix *m)
{
    for (unsigned i = 0; i < m->vectors; i++) {
        if (m->routes[i]) {
            apic_bus_route_free(m->dev->parent_obj.env->apic_bus, m->routes[i]);
        }
    }
    g_free(m->routes);
}

static void vector_flush_pending(PciMsix *m, unsigned vector)
{
    uint8_t bit = 1u << (vector % 8);
    if (m->enabled && (m->pending[vector / 8] & bit) && !vector_masked(m, vector)) {
        m->pending[vector / 8] &= ~bit;
        vector_send(m, vector);
    }
}

void pci_msix_notify(PciDevice *dev, unsigned vector)
{
    PciMsix *m = dev->msix;
    if (!m || vector >= m->vectors) {
        return;
    }
    pthread_mutex_lock(&m->lock);
    if (m->enabled) {
        if (vector_masked(m, vector)) {
            m->pending[vector / 8] |= 1u << (vector % 8);
        } else {
            vector_send(m, vector);
        }
    }
    pthread_mutex_unlock(&m->lock);
}

bool pci_msix_enabled(const PciDevice *dev)
{
    return dev->msix && __atomic_load_n(&dev->msix->enabled, __ATOMIC_RELAXED);
}

static void sync_control(PciMsix *m)
{
    uint16_t control = pci_get_word(m->dev->config + m->dev->msix_cap + PCI_MSIX_CONTROL);
    __atomic_store_n(&m->enabled, (control & PCI_MSIX_ENABLE) != 0, __ATOMIC_RELAXED);
    m->function_masked = control & PCI_MSIX_FUNCTION_MASK;
}

void pci_msix_config_written(PciDevice *dev, uint32_t address, unsigned size)
{
    PciMsix *m = dev->msix;
    unsigned control = dev->msix_cap + PCI_MSIX_CONTROL;
    if (!m || address >= control + 2 || address + size <= control) {
        return;
    }
    pthread_mutex_lock(&m->lock);
    sync_control(m);
    for (unsigned i = 0; i < m->vectors; i++) {
        vector_flush_pending(m, i);
    }
    bool enabled = m->enabled;
    pthread_mutex_unlock(&m->lock);
    if (enabled) {
        pci_set_irq(dev, false); /* a function with MSI-X on must not use INTx */
    }
}

static uint64_t table_read(void *opaque, hwaddr offset, unsigned size)
{
    PciMsix *m = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)m->table[offset + i] << (8 * i);
    }
    pthread_mutex_unlock(&m->lock);
    return value;
}

static void table_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PciMsix *m = opaque;
    unsigned vector = offset / PCI_MSIX_ENTRY_SIZE;
    TRACE(pci_msix_write, object_get_typename(OBJECT(m->dev)), vector,
          (unsigned)(offset % PCI_MSIX_ENTRY_SIZE), (uint32_t)value);
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < size; i++) {
        m->table[offset + i] = value >> (8 * i);
    }
    vector_flush_pending(m, vector);
    pthread_mutex_unlock(&m->lock);
}

static const MemoryRegionOps table_ops = {
    .read = table_read,
    .write = table_write,
    .valid = { .min = 4, .max = 8 },
    .impl = { .min = 4, .max = 4 },
};

static uint64_t pba_read(void *opaque, hwaddr offset, unsigned size)
{
    PciMsix *m = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)m->pending[offset + i] << (8 * i);
    }
    pthread_mutex_unlock(&m->lock);
    return value;
}

static void pba_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    /* read-only */
}

static const MemoryRegionOps pba_ops = {
    .read = pba_read,
    .write = pba_write,
    .valid = { .min = 4, .max = 8 },
    .impl = { .min = 4, .max = 8 },
};

bool pci_msix_init_exclusive(PciDevice *dev, unsigned vectors, int bar, GError **error)
{
    if (vectors == 0 || vectors > MSIX_MAX_VECTORS) {
        return error_set(error, "MSI-X allows 1 to %u vectors, not %u", MSIX_MAX_VECTORS, vectors);
    }
    uint8_t at = pci_add_capability(dev, PCI_CAP_MSIX, 0, PCI_MSIX_CAP_SIZE, error);
    if (!at) {
        return false;
    }
    PciMsix *m = g_new0(PciMsix, 1);
    m->dev = dev;
    m->vectors = vectors;
    pthread_mutex_init(&m->lock, NULL);
    uint32_t table_bytes = vectors * PCI_MSIX_ENTRY_SIZE;
    m->pba_bytes = (vectors + 63) / 64 * 8;
    m->pba_offset = MAX(MSIX_MIN_BAR / 2, table_bytes);
    uint32_t size = MSIX_MIN_BAR;
    while (size < m->pba_offset + m->pba_bytes) {
        size *= 2;
    }
    m->table = g_malloc0(table_bytes);
    m->pending = g_malloc0(m->pba_bytes);
    m->routes = g_new0(ApicRoute *, vectors);
    g_autofree char *name = g_strdup_printf("%s-msix", object_get_typename(OBJECT(dev)));
    memory_region_init(&m->bar, dev, name, size);
    memory_region_init_io(&m->table_io, dev, &table_ops, m, "msix-table", table_bytes, NULL);
    memory_region_init_io(&m->pba_io, dev, &pba_ops, m, "msix-pba", m->pba_bytes, NULL);
    memory_region_add(&m->bar, 0, &m->table_io);
    memory_region_add(&m->bar, m->pba_offset, &m->pba_io);
    pci_register_bar(dev, bar, PCI_BAR_MEM32, &m->bar);

    uint8_t *config = dev->config + at;
    pci_set_word(config + PCI_MSIX_CONTROL, vectors - 1);
    pci_set_word(dev->wmask + at + PCI_MSIX_CONTROL, PCI_MSIX_ENABLE | PCI_MSIX_FUNCTION_MASK);
    pci_set_long(config + PCI_MSIX_TABLE, bar);
    pci_set_long(config + PCI_MSIX_PBA, m->pba_offset | bar);
    dev->msix_cap = at;
    dev->msix = m;
    pci_msix_reset(dev);
    return true;
}

void pci_msix_uninit(PciDevice *dev)
{
    PciMsix *m = dev->msix;
    if (!m) {
        return;
    }
    for (int i = 0; i < PCI_NUM_REGIONS; i++) {
        if (dev->regions[i].memory == &m->bar) {
            dev->regions[i].memory = NULL;
        }
    }
    dev->msix = NULL;
    dev->msix_cap = 0;
    memory_region_destroy(&m->table_io);
    memory_region_destroy(&m->pba_io);
    memory_region_destroy(&m->bar);
    free_routes(m);
    pthread_mutex_destroy(&m->lock);
    g_free(m->table);
    g_free(m->pending);
    g_free(m);
}

void pci_msix_reset(PciDevice *dev)
{
    PciMsix *m = dev->msix;
    if (!m) {
        return;
    }
    uint8_t *control = dev->config + dev->msix_cap + PCI_MSIX_CONTROL;
    pthread_mutex_lock(&m->lock);
    pci_set_word(control, pci_get_word(control) & 0x7ff);
    sync_control(m);
    memset(m->table, 0, m->vectors * PCI_MSIX_ENTRY_SIZE);
    memset(m->pending, 0, m->pba_bytes);
    for (unsigned i = 0; i < m->vectors; i++) {
        m->table[i * PCI_MSIX_ENTRY_SIZE + 12] = PCI_MSIX_ENTRY_MASKED;
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- state: the number of vectors, the table, the pending bits ---- */
bool pci_msix_save(VmStateWriter *w, const void *field, GError **error)
{
    PciMsix *m = *(PciMsix *const *)field;
    vmstate_put_u64(w, m ? m->vectors : 0);
    if (m) {
        pthread_mutex_lock(&m->lock);
        vmstate_put(w, m->table, m->vectors * PCI_MSIX_ENTRY_SIZE);
        vmstate_put(w, m->pending, m->pba_bytes);
        pthread_mutex_unlock(&m->lock);
    }
    return true;
}

bool pci_msix_load(VmStateReader *r, void *field, GError **error)
{
    PciMsix *m = *(PciMsix **)field;
    uint64_t vectors;
    if (!vmstate_get_u64(r, &vectors, error)) {
        return false;
    }
    if (vectors != (m ? m->vectors : 0)) {
        return error_set(error, "the saved device has %" PRIu64 " MSI-X vectors, this one %u", vectors,
                         m ? m->vectors : 0);
    }
    if (!m) {
        return true;
    }
    pthread_mutex_lock(&m->lock);
    bool ok = vmstate_get(r, m->table, m->vectors * PCI_MSIX_ENTRY_SIZE, error) &&
              vmstate_get(r, m->pending, m->pba_bytes, error);
    sync_control(m); /* config was loaded before */
    pthread_mutex_unlock(&m->lock);
    return ok;
}
