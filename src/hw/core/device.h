/*
 * Devices and buses: the root of everything that a guest can see.
 *
 * A device is made (object_new), given properties, then realized: that is when it gets its DeviceEnv (from
 * its bus or, for the board's own devices, from the board), maps its regions, and becomes visible. Every
 * device has one HomeLock, which is held around its region operations, timers, bottom halves and back-end
 * callbacks (docs/internals/threads.md). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_CORE_DEVICE_H
#define RHEA_HW_CORE_DEVICE_H

#include "arch/x86/apic.h"
#include "hw/core/irq.h"
#include "loop/loop.h"
#include "mem/memory.h"
#include "object/object.h"
#include "object/property.h"
#include "vmstate/vmstate.h"

#define TYPE_DEVICE "device"
#define TYPE_BUS    "bus"

typedef struct Device Device;
typedef struct DeviceClass DeviceClass;
typedef struct Bus Bus;
typedef struct BusClass BusClass;

/* What a device may ask of the virtual machine; implemented by src/vm. All functions: any thread, they only
 * queue. */
typedef enum ShutdownCause {
    SHUTDOWN_NONE,
    SHUTDOWN_HOST_ERROR,
    SHUTDOWN_HOST_QMP_QUIT,
    SHUTDOWN_HOST_QMP_SYSTEM_RESET,
    SHUTDOWN_HOST_SIGNAL,
    SHUTDOWN_HOST_UI,
    SHUTDOWN_GUEST_SHUTDOWN,
    SHUTDOWN_GUEST_RESET,
    SHUTDOWN_GUEST_PANIC,
    SHUTDOWN_SUBSYSTEM_RESET,
} ShutdownCause;
typedef struct VmServices {
    void (*request_reset)(void *opaque, ShutdownCause cause);
    void (*request_shutdown)(void *opaque, ShutdownCause cause);
    void (*internal_error)(void *opaque);           /* a vCPU cannot go on: the machine stops in that state */
    void (*request_exit)(void *opaque, int status); /* isa-debug-exit: ends the process with that status */
    void (*request_suspend)(void *opaque);          /* ACPI S3 */
    void (*request_wakeup)(void *opaque);
    void (*watchdog_expired)(void *opaque); /* a watchdog ran out: -watchdog-action says what follows */
    /* ACPI power button and friends: the board's PM device registers; called in the main loop's thread. */
    void (*add_powerdown_handler)(void *opaque, void (*fn)(void *dev), void *dev);
    /* Called in the main loop's thread whenever the VM starts or stops running. */
    void (*add_run_handler)(void *opaque, void (*fn)(void *dev, bool running), void *dev);
    void (*remove_handlers)(void *opaque, void *dev);
    /* A QMP event: name and data (takes over the reference; may be NULL). */
    void (*emit_event)(void *opaque, const char *event, json_object *data);
    void *opaque;
} VmServices;

/* Where a device lives; borrowed, stays until unrealize. */
typedef struct DeviceEnv {
    AddressSpace *memory; /* for DMA by devices without a bus of their own */
    AddressSpace *io;
    MemoryRegion *system_memory, *system_io; /* roots, for the board's own devices */
    ApicBus *apic_bus;
    ClockSet *clocks;
    Loop *loop; /* the main loop: a device's home unless an iothread is named */
    const VmServices *vm;
    Object *root;         /* of the composition tree */
    struct FwCfg *fw_cfg; /* hw/firmware/fw_cfg.h; may be NULL */
    IrqLine **isa_irqs;   /* 16 ISA interrupt inputs, or NULL */
    IrqLine **gsi;        /* the global system interrupts (24), or NULL */
    /* Where firmware files are looked for first (hw/core/firmware_file.h); NULL-terminated, may be NULL. */
    const char *const *firmware_dirs;
    struct DisplayRegistry *displays; /* display/display.h; may be NULL */
    struct InputRegistry *inputs;     /* input/input.h; may be NULL */
    bool firmware;                    /* the machine starts through firmware: option ROMs are wanted */
    GPtrArray *acpi_parts; /* of AcpiPart *, borrowed (hw/acpi/acpi_part.h); NULL: no such tables */
    /* Raises a general purpose event of ACPI; NULL: the machine has none. Main loop's thread, no device's
     * lock held. */
    void (*raise_gpe)(Device *pm, unsigned event);
    Device *gpe_device;
} DeviceEnv;

struct Device {
    Object parent_obj;
    HomeLock lock;
    char *id;             /* from the user; NULL for built-in devices */
    Bus *bus;             /* parent bus; NULL for the board's own */
    const DeviceEnv *env; /* while realized */
    bool realized;
    bool hotplugged;
    bool pending_unplug;
    int64_t unplug_retry_us; /* with it, on the monotonic clock: from then on one may ask again; 0: never */
    GPtrArray *child_buses;  /* of Bus *, borrowed: they are children in the composition tree */
};

struct DeviceClass {
    ObjectClass parent_class;
    const char *bus_type; /* NULL: sits on no bus */
    bool user_creatable;  /* -device may make it; default true for types with a bus */
    bool hotpluggable;
    const char *category;   /* for -device help: "Storage", "Network", "Input", "Misc", ... */
    const VmState *vmstate; /* every device that keeps state has one; NULL: has none */
    /* Cannot be left half done: on error everything is undone. Main loop's thread. The lock is not held. */
    bool (*realize)(Device *dev, GError **error);
    void (*unrealize)(Device *dev);
    /* To power-on state; vCPUs stand still. The lock is held. A subclass that overrides calls its parent's.
     */
    void (*reset)(Device *dev);
    /* NULL: unplugged at once; else asks the guest first (ACPI, PCIe), sets pending_unplug, and ends with
     * device_unplug_done(). */
    bool (*unplug_request)(Device *dev, GError **error);
};
#define DEVICE(obj)           OBJECT_CHECK(Device, obj, TYPE_DEVICE)
#define DEVICE_CLASS(klass)   ((DeviceClass *)(klass))
#define DEVICE_GET_CLASS(obj) OBJECT_GET_CLASS(DeviceClass, obj)

struct Bus {
    Object parent_obj;
    char *name;          /* "pci.0", "isa.0" */
    Device *owner;       /* the device that has this bus; may be NULL for a board's root bus */
    GPtrArray *children; /* of Device *, counted */
    int next_number;
    bool no_hotplug;      /* although its class would allow it */
    unsigned max_devices; /* 0: what the class says */
    const DeviceEnv *env; /* what its devices get at realize */
};
struct BusClass {
    ObjectClass parent_class;
    unsigned max_devices; /* 0: no limit */
    bool hotplug;         /* devices may come and go while the guest runs */
    /* Refuses or adjusts an address before realize (PCI slot in use, ...). */
    bool (*check_address)(Bus *bus, Device *dev, GError **error);
    void (*plugged)(Bus *bus, Device *dev); /* a device was realized on it; may be NULL */
    char *(*device_path)(Device *dev);      /* for info qtree and boot order; caller frees */
    void (*print_device)(Device *dev, GString *out, int indent); /* extra lines of info qtree */
};
#define BUS(obj)           OBJECT_CHECK(Bus, obj, TYPE_BUS)
#define BUS_GET_CLASS(obj) OBJECT_GET_CLASS(BusClass, obj)

/* Makes a bus below owner (child property of its name). Borrowed result: the owner has it. name NULL: "ID.n"
 * after the owner's id, else "type.n". owner NULL: a root bus, kept below /machine/unattached of env->root.
 */
Bus *bus_new(const char *bus_type, Device *owner, const char *name, const DeviceEnv *env);

/* Realizes dev on a bus (may be NULL) with an environment (NULL: the bus's). dev must already be in the
 * composition tree. On success the bus holds a reference. */
bool device_realize(Device *dev, Bus *bus, const DeviceEnv *env, GError **error);
void device_unrealize(Device *dev);
/* Takes a device, and what sits on its buses, out of bus and tree for good; DEVICE_DELETED of each, its own
 * last. Main loop's thread. */
void device_unplug_done(Device *dev);
/* A new device of a type that the program knows, for boards: placed below /machine/unattached as name (NULL:
 * "device[N]"). Borrowed result; set its properties and realize it. */
Device *device_new_unattached(Object *root, const char *type_name, const char *name);
/* Reset of one device and of everything below its buses (children first), or of a bus. */
void device_reset(Device *dev);
void bus_reset(Bus *bus);
/* Reset of every realized device of a machine, those with no bus first in the order in which they were made.
 * vCPUs stand still. */
void device_reset_all(Object *root);
/* Unrealizes every device of a machine, last made first; they stay in the composition tree. vCPUs stand
 * still. */
void device_unrealize_all(Object *root);
/* Calls fn for every realized device of a machine in that same order (devices on a bus follow the bus's
 * owner). */
void device_foreach(Object *root, void (*fn)(Device *dev, void *opaque), void *opaque);
/* Properties of a realized device cannot be changed; an entry with this as its may_set can at any time. */
bool device_property_any_time(Object *obj, const char *name, GError **error);
/* "name (type)" or the path, for messages. Caller frees. */
char *device_describe(const Device *dev);
/* Calls fn for a device and all below it, parents first. */
void bus_foreach(Bus *bus, void (*fn)(Device *dev, void *opaque), void *opaque);
static inline unsigned bus_max_devices(Bus *bus)
{
    return bus->max_devices ? bus->max_devices : BUS_GET_CLASS(bus)->max_devices;
}
static inline bool bus_can_hotplug(Bus *bus)
{
    return BUS_GET_CLASS(bus)->hotplug && !bus->no_hotplug;
}
/* A bus by name, whatever is on it; NULL: there is none. Borrowed. */
Bus *bus_lookup(Object *root, const char *name);
/* Finds a bus of a type with room for one more, by name or (name NULL) the first of those nearest to the
 * root. Borrowed. */
Bus *bus_find(Object *root, const char *bus_type, const char *name, GError **error);
/* A device by its user-given id or QOM path. Borrowed. */
Device *device_find(Object *root, const char *id_or_path);

/* -device and device_add: makes, applies globals, sets properties (what options has more than the schema
 * names), puts below /machine/peripheral (or peripheral-anon), realizes. env: the board's, of a device that
 * sits on no bus; NULL where there cannot be one (they are not hot-plugged). Borrowed result. Errors as QEMU
 * words them: "'x' is not a valid device model name", "Property 'virtio-blk-pci.foo' not found", "Duplicate
 * device ID". */
Device *device_create(Object *root, const DeviceEnv *env, const QapiDeviceOptions *options, bool hotplug,
                      GPtrArray *globals, GError **error);
/* The same from -device's text or JSON. */
Device *device_create_text(Object *root, const DeviceEnv *env, const char *text, bool hotplug,
                           GPtrArray *globals, GError **error);
/* device_del: id or path. */
bool device_delete(Object *root, const char *id, GError **error);

/* "info qtree" text below a bus or, with NULL, of all root buses. Caller frees. */
char *device_print_tree(Object *root);

#endif
