/*
 * PCI: the bus, configuration space, BARs, INTx routing, capabilities, MSI and MSI-X.
 * Sources: PCI Local Bus Specification 3.0 (chapters 6 and 2), PCI Express Base Specification for the
 * extended space.
 *
 * Configuration accesses of vCPUs hold the device's HomeLock. BAR changes take the memory topology lock
 * inside. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_PCI_PCI_H
#define RHEA_HW_PCI_PCI_H

#include "hw/core/device.h"
#include "hw/pci/pci_regs.h"

#define TYPE_PCI_BUS    "PCI"
#define TYPE_PCIE_BUS   "PCIE" /* a PCI bus of PCI Express functions */
#define TYPE_PCI_DEVICE "pci-device"

#define PCI_DEVFN(slot, function) ((((slot)&0x1f) << 3) | ((function)&7))
#define PCI_SLOT(devfn)           (((devfn) >> 3) & 0x1f)
#define PCI_FUNC(devfn)           ((devfn)&7)
#define PCI_CONFIG_SIZE           256
#define PCI_EXPRESS_CONFIG_SIZE   4096
#define PCI_NUM_REGIONS           7 /* six BARs and the expansion ROM */
#define PCI_ROM_SLOT              6

typedef struct PciBus PciBus;
typedef struct PciDevice PciDevice;

typedef struct PciRegion {
    MemoryRegion *memory; /* NULL: no such BAR; borrowed from the device */
    uint64_t size;        /* a power of two */
    uint64_t addr;        /* UINT64_MAX: not mapped */
    uint8_t type;         /* PCI_BAR_* */
} PciRegion;
#define PCI_BAR_MEM32    0x00
#define PCI_BAR_IO       0x01
#define PCI_BAR_MEM64    0x04
#define PCI_BAR_PREFETCH 0x08

struct PciDevice {
    Device parent_obj;
    int32_t devfn; /* property "addr" ("slot.function"); -1: first free */
    bool multifunction;
    char *romfile;
    int32_t rombar;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t wmask[PCI_CONFIG_SIZE];   /* bits the guest may write */
    uint8_t w1cmask[PCI_CONFIG_SIZE]; /* bits that a written 1 clears */
    uint8_t used[PCI_CONFIG_SIZE];    /* allocated to a capability */
    PciRegion regions[PCI_NUM_REGIONS];
    MemoryRegion bus_master_root, bus_master_alias;
    AddressSpace *dma_as;      /* system memory while bus mastering is on: use it for all DMA */
    bool bus_master;           /* atomic: PCI_COMMAND_MASTER, for messages from any thread */
    uint8_t irq_pin_level;     /* INTx as the device drives it */
    uint8_t msi_cap, msix_cap; /* offsets; 0: none */
    uint8_t express_cap;       /* same */
    PciBus *secondary;         /* of a bridge; borrowed, set before vCPUs run */
    struct PciMsix *msix;
    MemoryRegion *rom; /* of a ROM file; owned, or NULL */
};

typedef struct PciDeviceClass {
    DeviceClass parent_class;
    uint16_t vendor_id, device_id, subsystem_vendor_id, subsystem_id, class_id;
    uint8_t revision;
    bool is_bridge;
    /* The firmware file of its expansion ROM, where romfile says nothing and the machine starts through
     * firmware. Required: it is an error if it is missing. */
    const char *default_rom;
    bool default_rom_required;
    bool (*realize)(PciDevice *dev, GError **error); /* config header is set up; register BARs here */
    void (*unrealize)(PciDevice *dev);
    /* NULL: the default does BARs, command register, INTx disable, MSI. Overriders call pci_default_*. */
    uint32_t (*config_read)(PciDevice *dev, uint32_t address, unsigned size);
    void (*config_write)(PciDevice *dev, uint32_t address, uint32_t value, unsigned size);
} PciDeviceClass;
#define PCI_DEVICE(obj)           OBJECT_CHECK(PciDevice, obj, TYPE_PCI_DEVICE)
#define PCI_DEVICE_CLASS(klass)   ((PciDeviceClass *)(klass))
#define PCI_DEVICE_GET_CLASS(obj) OBJECT_GET_CLASS(PciDeviceClass, obj)

/* Who brings functions to the guest and takes them away while it runs (ACPI, a PCI Express port). Main loop's
 * thread. */
typedef struct PciHotplugOps {
    /* A function has come; the guest is to find it. */
    void (*plugged)(void *opaque, PciDevice *dev);
    /* Asks the guest to let go of it; ends with device_unplug_done(). */
    bool (*unplug_request)(void *opaque, PciDevice *dev, GError **error);
} PciHotplugOps;

struct PciBus {
    Bus parent_obj;
    uint8_t number;               /* as configured; 0 for a root bus. Atomic. */
    PciDevice *bridge;            /* what it hangs on; NULL: a root bus. Borrowed */
    bool single_slot;             /* below a PCI Express port: there is slot 0 only */
    const PciHotplugOps *hotplug; /* NULL: functions come and go without the guest's consent */
    void *hotplug_opaque;
    PciDevice *devices[256];
    MemoryRegion *memory, *io; /* address spaces that BARs map into */
    AddressSpace *dma;
    /* The board's routing: which of its inputs slot/pin reaches, and the inputs. */
    int (*map_irq)(void *opaque, unsigned slot, int pin);
    void (*set_irq)(void *opaque, int input, bool level);
    void *irq_opaque;
    /* Of a root bus: how many functions hold each slot's pins, and the inputs that the board makes of them.
     */
    uint16_t pin_count[32][4];
    int irq_count[8];
    HomeLock irq_lock;
    pthread_mutex_t devices_lock; /* of devices[]; taken before a device's lock */
};
#define PCI_BUS(obj) OBJECT_CHECK(PciBus, obj, TYPE_PCI_BUS)

PciBus *pci_root_bus_new(Device *owner, const char *name, const DeviceEnv *env, MemoryRegion *memory,
                         MemoryRegion *io, AddressSpace *dma, int (*map_irq)(void *, unsigned, int),
                         void (*set_irq)(void *, int, bool), void *irq_opaque);
/* Configuration cycles from a host bridge; addresses nothing answers read as all ones. */
PciBus *pci_root_express_bus_new(Device *owner, const char *name, const DeviceEnv *env, MemoryRegion *memory,
                                 MemoryRegion *io, AddressSpace *dma);
/* The bus behind a bridge, at its realize: what is on it decodes addresses of memory and io. */
PciBus *pci_secondary_bus_new(PciDevice *bridge, const char *type, const char *name, MemoryRegion *memory,
                              MemoryRegion *io);
static inline bool pci_bus_is_root(const PciBus *bus)
{
    return !bus->bridge;
}
bool pci_bus_is_express(const PciBus *bus);
/* The bus of a number, this root bus or one behind its bridges; NULL: none answers to it. [any thread] */
PciBus *pci_root_find_bus(PciBus *root, unsigned number);
uint32_t pci_root_config_read(PciBus *root, unsigned number, unsigned devfn, uint32_t address, unsigned size);
void pci_root_config_write(PciBus *root, unsigned number, unsigned devfn, uint32_t address, uint32_t value,
                           unsigned size);
uint32_t pci_bus_config_read(PciBus *bus, unsigned devfn, uint32_t address, unsigned size);
void pci_bus_config_write(PciBus *bus, unsigned devfn, uint32_t address, uint32_t value, unsigned size);

/* Who routes interrupts, where that is not the one who made the bus (a south bridge). Before the guest runs.
 */
void pci_bus_set_irq_routing(PciBus *bus, int (*map_irq)(void *, unsigned, int),
                             void (*set_irq)(void *, int, bool), void *irq_opaque);
/* The board's map_irq has changed: every input is driven anew. The caller holds the root bus's irq_lock. */
void pci_root_reroute(PciBus *root);
/* What firmware does, for boards that start a kernel directly: gives every BAR an address from the windows
 * (ends exclusive), switches decoding on, and writes interrupt lines (line_of may be NULL). Bridges are left
 * to the kernel. After a reset, vCPUs stand still. */
void pci_bus_assign_resources(PciBus *bus, uint32_t io_start, uint32_t io_end, uint64_t memory_start,
                              uint64_t memory_end, uint8_t (*line_of)(PciDevice *dev, int pin));
/* To power-on state; a subclass that overrides DeviceClass.reset calls it first. */
void pci_device_reset(Device *dev);
/* "0000:00:04.0"-like text of bus, slot and function. Caller frees. */
char *pci_device_address(const PciDevice *dev);

void pci_register_bar(PciDevice *dev, int number, uint8_t type, MemoryRegion *memory);
/* Adds a capability of size bytes at the first free offset (or at offset if not 0); its offset, or 0 with an
 * error. */
uint8_t pci_add_capability(PciDevice *dev, uint8_t id, uint8_t offset, uint8_t size, GError **error);
uint32_t pci_default_config_read(PciDevice *dev, uint32_t address, unsigned size);
void pci_default_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size);
/* INTx. [any thread, device's lock held] */
void pci_set_irq(PciDevice *dev, bool level);

/* MSI-X with its table and pending bits at the start of a BAR of its own (4 KiB per up to 128 vectors). */
bool pci_msix_init_exclusive(PciDevice *dev, unsigned vectors, int bar, GError **error);
bool pci_msix_enabled(const PciDevice *dev);
void pci_msix_notify(PciDevice *dev, unsigned vector); /* masked: sets the pending bit. [any thread] */
bool pci_msi_init(PciDevice *dev, unsigned vectors, bool addr64, GError **error);
bool pci_msi_enabled(const PciDevice *dev);
void pci_msi_notify(PciDevice *dev, unsigned vector);
void pci_msix_uninit(PciDevice *dev);

extern const VmState
    pci_device_vmstate; /* a device's table embeds it: VMS_STRUCT(parent_obj, State, pci_device_vmstate) */
extern const PropertyType property_type_pci_devfn;

/* Little-endian accessors of configuration bytes. */
static inline uint16_t pci_get_word(const uint8_t *config)
{
    return config[0] | config[1] << 8;
}
static inline uint32_t pci_get_long(const uint8_t *config)
{
    return config[0] | config[1] << 8 | config[2] << 16 | (uint32_t)config[3] << 24;
}
static inline void pci_set_word(uint8_t *config, uint16_t value)
{
    config[0] = value;
    config[1] = value >> 8;
}
static inline void pci_set_long(uint8_t *config, uint32_t value)
{
    pci_set_word(config, value);
    pci_set_word(config + 2, value >> 16);
}

#endif
