/*
 * Boards. A machine is an object (/machine) whose properties are -machine's options; machine_init builds it
 * from a MachineConfig, which the VM fills in: there is nothing global. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_MACHINE_MACHINE_H
#define RHEA_MACHINE_MACHINE_H

#include "accel/accel.h"
#include "block/block.h"
#include "chardev/chardev.h"
#include "hw/core/device.h"
#include "hw/firmware/fw_cfg.h"
#include "net/net.h"

#define TYPE_MACHINE        "machine"
#define MACHINE_TYPE_SUFFIX "-machine"
#define MACHINE_MAX_SERIALS 4

typedef struct Machine Machine;
typedef struct MachineClass MachineClass;

/* -smp; all at least 1 once machine_smp_complete() has filled it in; 0 before: not given. */
typedef struct MachineSmp {
    unsigned cpus, max_cpus, sockets, dies, cores, threads;
} MachineSmp;

typedef struct MachineConfig {
    /* The VM's parts; borrowed, outlive the machine. */
    Object *root;
    Loop *loop;
    ClockSet *clocks;
    const VmServices *vm;
    Accel *accel;
    VcpuSet *vcpus;
    GPtrArray *globals;
    BlockRegistry *blocks;
    NetRegistry *nets;
    /* What the user asked for; strings are borrowed for the call. */
    uint64_t ram_size, max_ram_size; /* bytes; 0: the machine's default, none */
    unsigned ram_slots;
    const char *mem_path; /* -mem-path, or NULL */
    bool mem_prealloc, mem_lock;
    MachineSmp smp;
    const char *cpu_model;                /* -cpu: "max,+x2apic,-avx", or NULL for the machine's default */
    Chardev *serial[MACHINE_MAX_SERIALS]; /* -serial; NULL: no such port */
    const char *uuid;
    const char *rtc_base, *rtc_clock, *rtc_driftfix; /* of -rtc, as the RTC's properties take them; or NULL */
    bool graphics_off;                               /* -nographic: firmware talks to the serial port */
    struct DisplayRegistry *displays;                /* where video cards register; may be NULL */
    struct InputRegistry *inputs;                    /* where keyboards and mice register; may be NULL */
    const char *const *firmware_dirs;                /* of -L, NULL-terminated; kept by the VM */
} MachineConfig;

/* A CPU place of the machine, present or not (query-hotpluggable-cpus). */
typedef struct MachineCpuSlot {
    uint32_t apic_id;
    int32_t socket_id, die_id, core_id, thread_id;
    X86Cpu *cpu; /* NULL: not present */
} MachineCpuSlot;

struct Machine {
    Object parent_obj;

    /* ---- properties ---- */
    char *kernel, *initrd, *append, *dtb, *firmware;
    char *memory_backend; /* id of a memory-backend object */
    /* Of -boot, for firmware. */
    char *boot_order, *boot_once;
    bool boot_menu, boot_strict;
    int32_t boot_splash_time, boot_reboot_timeout; /* ms; -1: not given */
    char *option_roms;                             /* of -option-rom: names with newlines between */
    char *smbios;                                  /* of -smbios: a JSON array (smbios.h), or NULL */
    bool dump_guest_core, mem_merge, usb, graphics, suppress_vmdesc;

    /* ---- built ---- */
    MachineConfig config; /* strings in it are not kept */
    DeviceEnv env;        /* what devices of this board get */
    MemoryRegion system_memory, system_io;
    AddressSpace *memory, *io;
    MemoryRegion ram; /* all of it; the board aliases it to where it belongs */
    uint64_t ram_size;
    uint64_t below_4g, above_4g; /* how RAM is split around the hole */
    MachineSmp smp;
    uint8_t uuid[16];          /* in text order; zeros: none was given */
    MachineCpuSlot *cpu_slots; /* smp.max_cpus of them */
    ApicBus *apic_bus;
    FwCfg *fw_cfg;  /* or NULL */
    char *cpu_type; /* the QOM type of its CPUs */
    char *cpu_features;
    Device *rtc; /* or NULL */
    bool built;
};

struct MachineClass {
    ObjectClass parent_class;
    const char *name;  /* as -machine has it: "pc-i440fx-8.1" */
    const char *alias; /* "pc", or NULL */
    const char *description;
    bool is_default;
    const char *deprecation_reason; /* NULL: not deprecated */
    unsigned max_cpus;
    bool hotpluggable_cpus;
    bool numa_mem_supported;
    bool latest_cpu_models;       /* a CPU model's name without a version is its latest one, not the first */
    const char *default_cpu_type; /* a QOM type: "qemu64-x86_64-cpu" */
    const char *default_ram_id;   /* "pc.ram" */
    uint64_t default_ram_size;
    const char *default_nic_model;      /* of -nic without model=; NULL: none is made by default */
    const char *default_disk_interface; /* if= of -drive without one */
    bool default_nic;                   /* one is made unless the user says otherwise */
    bool has_usb;                       /* makes a controller for usb=on */
    bool no_serial;                     /* "none": has no serial ports by default */
    bool no_cpus;                       /* "none" */
    /* Tables that each end with driver NULL, the newest version's first; NULL-terminated. */
    const GlobalProperty *const *compat_props;
    bool (*init)(Machine *machine, GError **error);
    /* Boards' own part of a reset; devices and CPUs were reset just before. */
    void (*reset)(Machine *machine);
    /* After all devices are there: loads the kernel, builds tables. */
    bool (*ready)(Machine *machine, GError **error);
    void (*fini)(Machine *machine);
};
#define MACHINE(obj)           OBJECT_CHECK(Machine, obj, TYPE_MACHINE)
#define MACHINE_CLASS(klass)   ((MachineClass *)(klass))
#define MACHINE_GET_CLASS(obj) OBJECT_GET_CLASS(MachineClass, obj)

/* The class of a name as -machine has it, or of an alias; NULL with an error that names the nearest.
 * Borrowed. */
MachineClass *machine_class_find(const char *name, GError **error);
MachineClass *machine_class_default(void);
/* Every machine class (not abstract), sorted by name; of MachineClass *. Free with g_ptr_array_unref. */
GPtrArray *machine_class_list(void);
/* -machine help's text. Caller frees. */
char *machine_help(void);
/* Fills what was not given, as QEMU does (sockets over cores over threads since 6.2: cores), and checks. */
bool machine_smp_complete(MachineSmp *smp, unsigned machine_max, const char *machine_name, GError **error);
/* Appends the machine's compat properties to a list of GlobalProperty *, so that later entries win. */
void machine_append_compat(MachineClass *klass, GPtrArray *globals);

/* For boards' init: makes the CPU of a slot, with its thread. smram: what it sees in SMM, or NULL. */
bool machine_add_cpu(Machine *machine, unsigned index, AddressSpace *smram, GError **error);

bool machine_init(Machine *machine, const MachineConfig *config, GError **error);
bool machine_ready(Machine *machine, GError **error);
/* Everything to power-on state. vCPUs stand still. */
void machine_reset(Machine *machine);
/* Devices away, memory freed; the vCPU threads have ended. */
void machine_fini(Machine *machine);

#endif
