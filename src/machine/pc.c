/*
 * The PC with an i440FX host bridge and a PIIX3/PIIX4 south bridge, in versions that differ only by tables of
 * compatibility properties. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/firmware.h"

#include "base/error.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/input/i8042.h"
#include "hw/isa/i8257.h"
#include "hw/isa/isa.h"
#include "hw/isa/piix3.h"
#include "hw/misc/port92.h"
#include "hw/pci/i440fx.h"
#include "hw/storage/piix3_ide.h"
#include "object/property.h"

#define TYPE_PC_MACHINE "generic-pc-machine"
#define GIB             (UINT64_C(1) << 30)
#define PCI_IO_START    0xc000
#define PCI_IO_END      0x10000
#define PCI_MEM_END     0xfea00000u /* below the I/O APIC and what firmware keeps */
#define PCI_MEM_START   0xc0000000u
/* In segment 0xf000, where PC firmware has always had them. */
#define TIMER_HANDLER  0xfea5
#define DUMMY_HANDLER  0xff53
#define PCI_MEM64_SIZE (32 * GIB)

typedef struct PcMachine {
    X86Machine parent_obj;
    bool hpet, i8042, smbus, sata;
    int vmport; /* OnOffAuto */
    MemoryRegion pci_memory;
    Device *host;
} PcMachine;
#define PC_MACHINE(obj) OBJECT_CHECK(PcMachine, obj, TYPE_PC_MACHINE)

/* Whether devices come out of reset as PC firmware leaves them, since there is none. */
static const char *pc_preset(X86Machine *x86)
{
    return x86->firmware ? "off" : "on";
}

static Device *pc_new_pci(X86Machine *x86, const char *type, const char *addr, GError **error)
{
    Machine *machine = MACHINE(x86);
    Device *dev = device_new_unattached(machine->config.root, type, NULL);

    if (!object_apply_globals(OBJECT(dev), machine->config.globals, error) ||
        !object_property_parse(OBJECT(dev), "addr", addr, error) ||
        !object_property_parse(OBJECT(dev), "multifunction", "on", error) ||
        !object_property_parse(OBJECT(dev), "firmware-preset", pc_preset(x86), error)) {
        return NULL;
    }
    return dev;
}

static bool pc_init_isa(PcMachine *pc, Bus *isa, GError **error)
{
    X86Machine *x86 = X86_MACHINE(pc);
    Machine *machine = MACHINE(pc);

    if (pc->i8042) {
        Device *kbd = device_new_unattached(machine->config.root, TYPE_I8042, NULL);
        i8042_set_a20(kbd, x86->a20);
        if (!device_realize(kbd, isa, NULL, error)) {
            return false;
        }
    }
    Device *port92 = device_new_unattached(machine->config.root, TYPE_PORT92, NULL);
    port92_set_a20(port92, x86->a20);
    return device_realize(port92, isa, NULL, error) &&
           x86_machine_add_device(x86, TYPE_I8257, isa, error, NULL) &&
           x86_machine_init_serial(x86, isa, error);
}

static bool pc_init(Machine *machine, GError **error)
{
    PcMachine *pc = PC_MACHINE(machine);
    X86Machine *x86 = X86_MACHINE(machine);

    if (machine->ram_size < 1 << 20) {
        return error_set(error, "machine '%s' needs at least 1 MiB of memory",
                         MACHINE_GET_CLASS(machine)->name);
    }
    x86->firmware = !machine->kernel;
    machine->env.firmware = x86->firmware;
    x86_machine_init_memory(x86);
    memory_region_init(&pc->pci_memory, pc, "pci", UINT64_MAX);
    memory_region_add_overlap(&machine->system_memory, 0, &pc->pci_memory, -1);
    if ((x86->firmware && !x86_firmware_map(x86, &pc->pci_memory, error)) ||
        !x86_machine_init_cpus(x86, error) ||
        !x86_machine_init_interrupts(x86, on_off_auto(x86->pic, true), !x86->firmware, error) ||
        !x86_machine_init_fw_cfg(x86, error)) {
        return false;
    }
    pc->host = device_new_unattached(machine->config.root, TYPE_I440FX_HOST, NULL);
    i440fx_set_memory(pc->host, &machine->ram, &pc->pci_memory, x86->smram ? &x86->smram_root : NULL);
    if (!object_property_parse(OBJECT(pc->host), "firmware-preset", pc_preset(x86), error) ||
        !device_realize(pc->host, NULL, &machine->env, error)) {
        return false;
    }
    Bus *pci = BUS(i440fx_bus(pc->host));
    Device *piix3 = pc_new_pci(x86, TYPE_PIIX3, "01.0", error);
    if (!piix3) {
        return false;
    }
    if (!device_realize(piix3, pci, NULL, error) ||
        !x86_machine_init_timers(x86, on_off_auto(x86->pit, true), true, pc->hpet, error) ||
        !pc_init_isa(pc, piix3_isa_bus(piix3), error)) {
        return false;
    }
    if (x86->pit_dev &&
        !object_property_parse(OBJECT(x86->pit_dev), "firmware-preset", pc_preset(x86), error)) {
        return false;
    }
    Device *ide = pc_new_pci(x86, TYPE_PIIX3_IDE, "01.1", error);
    if (!ide || !device_realize(ide, pci, NULL, error)) {
        return false;
    }
    if (on_off_auto(x86->acpi, true)) {
        Device *pm = pc_new_pci(x86, TYPE_PIIX4_PM, "01.3", error);
        if (!pm ||
            !object_property_parse(OBJECT(pm), "smm-enabled", on_off_auto(x86->smm, true) ? "on" : "off",
                                   error) ||
            !device_realize(pm, pci, NULL, error)) {
            return false;
        }
    }
    return true;
}

static bool pc_ready(Machine *machine, GError **error)
{
    PcMachine *pc = PC_MACHINE(machine);
    X86Machine *x86 = X86_MACHINE(machine);
    uint64_t above = 4 * GIB + ((machine->above_4g + GIB - 1) & ~(GIB - 1));
    /* Firmware gives addresses as it likes; here it is ours to keep the hole small. */
    uint64_t hole = x86->firmware ? machine->below_4g : MAX(machine->below_4g, PCI_MEM_START);
    AcpiBoard board = {
        .sci_irq = PIIX4_SCI_IRQ,
        .pm_base = PIIX4_PM_BASE,
        .gpe0_base = PIIX4_GPE0_BASE,
        .gpe0_length = PIIX4_GPE0_LENGTH,
        .smi_command = PIIX4_SMI_COMMAND,
        .acpi_enable = PIIX4_ACPI_ENABLE,
        .acpi_disable = PIIX4_ACPI_DISABLE,
        .reset_register = true,
        .i8042 = pc->i8042,
        .pci = true,
        .pci_mem32 = { hole, 0xfec00000u - hole },
        .pci_mem64 = { above, PCI_MEM64_SIZE },
    };
    return x86_machine_ready(x86, &board, NULL, error);
}

/* The PIIX3's preset sends PIRQ A to D to 10, 10, 11, 11; slot n's pin p is PIRQ (n + p - 1) mod 4. */
static uint8_t pc_interrupt_line(PciDevice *dev, int pin)
{
    static const uint8_t lines[4] = { 10, 10, 11, 11 };

    return lines[(PCI_SLOT(dev->devfn) + pin - 1) & 3];
}

/* What PC firmware leaves in the interrupt vector table: everything returns at once, and the timer's
 * interrupt, which is not masked, counts ticks at 0040:006c and ends itself. Real-mode programs that wait
 * with HLT rely on it. */
static void pc_write_vectors(Machine *machine)
{
    static const uint8_t timer_handler[] = {
        0x50, 0x1e,                   /* push ax; push ds */
        0xb8, 0x40, 0x00, 0x8e, 0xd8, /* mov ax, 0x40; mov ds, ax */
        0x66, 0xff, 0x06, 0x6c, 0x00, /* inc dword [0x6c] */
        0xb0, 0x20, 0xe6, 0x20,       /* mov al, 0x20; out 0x20, al */
        0x1f, 0x58, 0xcf,             /* pop ds; pop ax; iret */
    };
    static const uint8_t iret = 0xcf;
    uint32_t vectors[256];

    for (int i = 0; i < 256; i++) {
        vectors[i] = 0xf0000000u | (i == 8 ? TIMER_HANDLER : DUMMY_HANDLER);
    }
    address_space_write(machine->memory, 0, MEMTXATTRS_NONE, vectors, sizeof(vectors));
    address_space_write(machine->memory, 0xf0000 + DUMMY_HANDLER, MEMTXATTRS_NONE, &iret, 1);
    address_space_write(machine->memory, 0xf0000 + TIMER_HANDLER, MEMTXATTRS_NONE, timer_handler,
                        sizeof(timer_handler));
    if (X86_MACHINE(machine)->pic_dev) {
        address_space_store(machine->io, 0x21, 1, 0xfa,
                            MEMTXATTRS_NONE); /* all masked but timer and cascade */
    }
}

static void pc_reset(Machine *machine)
{
    PcMachine *pc = PC_MACHINE(machine);

    if (X86_MACHINE(machine)->firmware) {
        x86_machine_reset(X86_MACHINE(machine));
        return;
    }
    pc_write_vectors(machine);
    pci_bus_assign_resources(i440fx_bus(pc->host), PCI_IO_START, PCI_IO_END,
                             MAX(machine->below_4g, PCI_MEM_START), PCI_MEM_END, pc_interrupt_line);
    x86_machine_reset(X86_MACHINE(machine));
}

static void pc_fini(Machine *machine)
{
    x86_machine_fini(X86_MACHINE(machine));
}

static const Property pc_properties[] = {
    PROP_BOOL("hpet", PcMachine, hpet, true, "high precision event timer"),
    PROP_BOOL("i8042", PcMachine, i8042, true, "keyboard controller"),
    PROP_BOOL("smbus", PcMachine, smbus, true, "SMBus controller (accepted; not modelled)"),
    PROP_BOOL("sata", PcMachine, sata, true, "SATA controller (accepted; i440FX has none)"),
    PROP_ENUM("vmport", PcMachine, vmport, on_off_auto_lookup, ON_OFF_AUTO_AUTO,
              "VMware's I/O port (accepted; not modelled)"),
    PROP_END,
};

static void pc_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);

    object_class_add_properties(klass, pc_properties);
    mc->init = pc_init;
    mc->ready = pc_ready;
    mc->reset = pc_reset;
    mc->fini = pc_fini;
    mc->default_ram_id = "pc.ram";
    mc->default_nic = true;
    mc->default_nic_model = "virtio-net-pci";
    mc->default_disk_interface = "ide";
}

static void pc_instance_finalize(Object *obj)
{
    memory_region_destroy(&PC_MACHINE(obj)->pci_memory);
}

static const TypeInfo pc_info = {
    .name = TYPE_PC_MACHINE,
    .parent = TYPE_X86_MACHINE,
    .description = "PC",
    .instance_size = sizeof(PcMachine),
    .abstract = true,
    .class_init = pc_class_init,
    .instance_finalize = pc_instance_finalize,
};
TYPE_REGISTER(pc_info);

/* ---- versions ---- */

/* What 8.1 changed, turned back. */
static const GlobalProperty pc_compat_8_0[] = {
    { .driver = "virtio-net-device", .property = "host_uso", .value = "off", .optional = true },
    { .driver = "virtio-net-device", .property = "guest_uso4", .value = "off", .optional = true },
    { .driver = "virtio-net-device", .property = "guest_uso6", .value = "off", .optional = true },
    { .driver = "pci-device", .property = "x-pcie-err-unc-mask", .value = "off", .optional = true },
    { .driver = NULL },
};

typedef struct PcVersion {
    const char *name, *alias, *description;
    bool is_default;
    const GlobalProperty *compat[4];
} PcVersion;

static void pc_version_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);
    const PcVersion *version = data;

    mc->name = version->name;
    mc->alias = version->alias;
    mc->description = version->description;
    mc->is_default = version->is_default;
    mc->compat_props = version->compat;
}

#define PC_DESCRIPTION "Standard PC (i440FX + PIIX, 1996)"
static const PcVersion pc_8_1 = { .name = "pc-i440fx-8.1",
                                  .alias = "pc",
                                  .description = PC_DESCRIPTION,
                                  .is_default = true,
                                  .compat = { NULL } };
static const PcVersion pc_8_0 = { .name = "pc-i440fx-8.0",
                                  .description = PC_DESCRIPTION,
                                  .compat = { pc_compat_8_0, NULL } };

static const TypeInfo pc_8_1_info = {
    .name = "pc-i440fx-8.1" MACHINE_TYPE_SUFFIX,
    .parent = TYPE_PC_MACHINE,
    .class_init = pc_version_class_init,
    .class_data = &pc_8_1,
};
TYPE_REGISTER(pc_8_1_info);

static const TypeInfo pc_8_0_info = {
    .name = "pc-i440fx-8.0" MACHINE_TYPE_SUFFIX,
    .parent = TYPE_PC_MACHINE,
    .class_init = pc_version_class_init,
    .class_data = &pc_8_0,
};
TYPE_REGISTER(pc_8_0_info);
