/* Configuration mechanism 1: see pci_host.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/pci/pci_host.h"

enum { CONFIG_ADDRESS_PORT = 0xcf8, CONFIG_DATA_PORT = 0xcfc, CONFIG_ENABLE = 1 };

static uint64_t address_read(void *opaque, hwaddr offset, unsigned size)
{
    PciHostPorts *h = opaque;
    /* Only a whole dword is the address register; anything else goes on to ISA, where nobody answers. */
    if (offset != 0 || size != 4) {
        return UINT64_MAX;
    }
    return __atomic_load_n(&h->config_address, __ATOMIC_RELAXED);
}

static void address_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PciHostPorts *h = opaque;
    if (offset == 0 && size == 4) {
        __atomic_store_n(&h->config_address, (uint32_t)value, __ATOMIC_RELAXED);
    }
}

static const MemoryRegionOps address_ops = {
    .read = address_read,
    .write = address_write,
    .valid = { .min = 1, .max = 4, .unaligned = true },
    .impl = { .min = 1, .max = 4, .unaligned = true },
};

/* Whether the latch is enabled; what it selects then. */
static bool config_target(PciHostPorts *h, hwaddr offset, unsigned *number, unsigned *devfn, uint32_t *reg)
{
    uint32_t address = __atomic_load_n(&h->config_address, __ATOMIC_RELAXED);
    *number = (address >> 16) & 0xff;
    *devfn = (address >> 8) & 0xff;
    *reg = (address & 0xfc) + offset;
    return address >> 31 == CONFIG_ENABLE;
}

static uint64_t data_read(void *opaque, hwaddr offset, unsigned size)
{
    PciHostPorts *h = opaque;
    unsigned number, devfn;
    uint32_t reg;
    if (!config_target(h, offset, &number, &devfn, &reg)) {
        return UINT64_MAX;
    }
    return pci_root_config_read(h->bus, number, devfn, reg, size);
}

static void data_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PciHostPorts *h = opaque;
    unsigned number, devfn;
    uint32_t reg;
    if (config_target(h, offset, &number, &devfn, &reg)) {
        pci_root_config_write(h->bus, number, devfn, reg, value, size);
    }
}

static const MemoryRegionOps data_ops = {
    .read = data_read,
    .write = data_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

void pci_host_ports_init(PciHostPorts *ports, void *owner, PciBus *bus, MemoryRegion *io)
{
    ports->bus = bus;
    memory_region_init_io(&ports->address_io, owner, &address_ops, ports, "pci-conf-idx", 4, NULL);
    memory_region_init_io(&ports->data_io, owner, &data_ops, ports, "pci-conf-data", 4, NULL);
    memory_region_add(io, CONFIG_ADDRESS_PORT, &ports->address_io);
    memory_region_add(io, CONFIG_DATA_PORT, &ports->data_io);
}

void pci_host_ports_destroy(PciHostPorts *ports, MemoryRegion *io)
{
    memory_region_del(io, &ports->address_io);
    memory_region_del(io, &ports->data_io);
    memory_region_destroy(&ports->address_io);
    memory_region_destroy(&ports->data_io);
    ports->bus = NULL;
}
