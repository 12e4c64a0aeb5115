/*
 * microvm: virtio over MMIO, an I/O APIC, and little else. Devices are described by ACPI (hardware-reduced)
 * or, without it, on the kernel's command line.
 *
 *     0xfea00000  generic event device (power button, sleep, reset)
 *     0xfeb00000  virtio-mmio transports, 512 bytes each; interrupts GSI 16 and up
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/x86_machine.h"

#include "base/error.h"
#include "hw/acpi/ged.h"
#include "hw/isa/isa.h"
#include "hw/virtio/virtio_mmio.h"
#include "object/property.h"

#define TYPE_MICROVM_MACHINE "microvm" MACHINE_TYPE_SUFFIX
#define GED_ADDRESS          0xfea00000u
#define GED_GSI              9
#define VIRTIO_MMIO_ADDRESS  0xfeb00000u
#define VIRTIO_MMIO_SLOTS    8
#define VIRTIO_MMIO_GSI      16

typedef struct MicrovmMachine {
    X86Machine parent_obj;
    int rtc, pcie, ioapic2; /* OnOffAuto */
    bool isa_serial, option_roms, auto_kernel_cmdline;
    Device *virtio[VIRTIO_MMIO_SLOTS];
} MicrovmMachine;
#define MICROVM_MACHINE(obj) OBJECT_CHECK(MicrovmMachine, obj, TYPE_MICROVM_MACHINE)

static bool microvm_init(Machine *machine, GError **error)
{
    MicrovmMachine *microvm = MICROVM_MACHINE(machine);
    X86Machine *x86 = X86_MACHINE(machine);

    if (machine->ram_size < 1 << 20) {
        return error_set(error, "machine 'microvm' needs at least 1 MiB of memory");
    }
    if (on_off_auto(microvm->pcie, false) || on_off_auto(microvm->ioapic2, false)) {
        return error_set(error, "machine 'microvm': pcie=on and ioapic2=on are not supported yet");
    }
    x86_machine_init_memory(x86);
    if (!x86_machine_init_cpus(x86, error) ||
        !x86_machine_init_interrupts(x86, on_off_auto(x86->pic, true), false, error) ||
        !x86_machine_init_fw_cfg(x86, error) ||
        !x86_machine_init_timers(x86, on_off_auto(x86->pit, true), on_off_auto(microvm->rtc, true), false,
                                 error)) {
        return false;
    }
    for (unsigned i = 0; i < VIRTIO_MMIO_SLOTS; i++) {
        Device *dev = device_new_unattached(machine->config.root, TYPE_VIRTIO_MMIO, NULL);
        virtio_mmio_set_irq(dev, x86->lines->gsi[VIRTIO_MMIO_GSI + i]);
        if (!object_apply_globals(OBJECT(dev), machine->config.globals, error) ||
            !device_realize(dev, NULL, &machine->env, error)) {
            return false;
        }
        memory_region_add(&machine->system_memory, VIRTIO_MMIO_ADDRESS + i * VIRTIO_MMIO_SIZE,
                          virtio_mmio_region(dev));
        microvm->virtio[i] = dev;
    }
    if (on_off_auto(x86->acpi, true)) {
        Device *ged = device_new_unattached(machine->config.root, TYPE_ACPI_GED, NULL);
        acpi_ged_set_irq(ged, x86->lines->gsi[GED_GSI]);
        if (!device_realize(ged, NULL, &machine->env, error)) {
            return false;
        }
        memory_region_add(&machine->system_memory, GED_ADDRESS, acpi_ged_region(ged));
    }
    Bus *isa = isa_bus_new(NULL, &machine->env);
    return !microvm->isa_serial || x86_machine_init_serial(x86, isa, error);
}

/* "virtio_mmio.device=512@0xfeb00000:16" for each transport that has a device. */
static char *microvm_cmdline(const MicrovmMachine *microvm)
{
    GString *text = g_string_new("");

    for (unsigned i = 0; i < VIRTIO_MMIO_SLOTS; i++) {
        const Bus *bus = microvm->virtio[i]->child_buses->pdata[0];
        if (bus->children->len) {
            g_string_append_printf(text, "%svirtio_mmio.device=%u@0x%x:%u", text->len ? " " : "",
                                   VIRTIO_MMIO_SIZE, VIRTIO_MMIO_ADDRESS + i * VIRTIO_MMIO_SIZE,
                                   VIRTIO_MMIO_GSI + i);
        }
    }
    return g_string_free(text, false);
}

static bool microvm_ready(Machine *machine, GError **error)
{
    MicrovmMachine *microvm = MICROVM_MACHINE(machine);
    X86Machine *x86 = X86_MACHINE(machine);
    bool acpi = on_off_auto(x86->acpi, true);
    g_autofree char *extra = !acpi && microvm->auto_kernel_cmdline ? microvm_cmdline(microvm) : NULL;
    AcpiBoard board = {
        .ged = { GED_ADDRESS, GED_SIZE },
        .ged_gsi = GED_GSI,
        .virtio_mmio = { VIRTIO_MMIO_ADDRESS, VIRTIO_MMIO_SLOTS * VIRTIO_MMIO_SIZE },
        .virtio_mmio_slots = VIRTIO_MMIO_SLOTS,
        .virtio_mmio_gsi = VIRTIO_MMIO_GSI,
        .legacy_free = true,
    };
    return x86_machine_ready(x86, &board, extra, error);
}

static void microvm_reset(Machine *machine)
{
    x86_machine_reset(X86_MACHINE(machine));
}

static void microvm_fini(Machine *machine)
{
    x86_machine_fini(X86_MACHINE(machine));
}

static const Property microvm_properties[] = {
    PROP_ENUM("rtc", MicrovmMachine, rtc, on_off_auto_lookup, ON_OFF_AUTO_AUTO, "real-time clock"),
    PROP_ENUM("pcie", MicrovmMachine, pcie, on_off_auto_lookup, ON_OFF_AUTO_AUTO, "PCI Express host bridge"),
    PROP_ENUM("ioapic2", MicrovmMachine, ioapic2, on_off_auto_lookup, ON_OFF_AUTO_AUTO, "a second I/O APIC"),
    PROP_BOOL("isa-serial", MicrovmMachine, isa_serial, true, "serial ports"),
    PROP_BOOL("x-option-roms", MicrovmMachine, option_roms, true,
              "option ROMs (there are none without firmware)"),
    PROP_BOOL("auto-kernel-cmdline", MicrovmMachine, auto_kernel_cmdline, true,
              "name virtio-mmio devices on the kernel command line, if ACPI is off"),
    PROP_END,
};

/* There is no timer here that could wake a CPU whose APIC timer stops in deep sleep; without ARAT (CPUID leaf
 * 6) Linux fears just that and keeps ticking when idle. */
static const GlobalProperty microvm_defaults[] = {
    { .driver = TYPE_X86_CPU, .property = "arat", .value = "on", .optional = true },
    { .driver = NULL },
};
static const GlobalProperty *const microvm_default_tables[] = { microvm_defaults, NULL };

static void microvm_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);

    object_class_add_properties(klass, microvm_properties);
    mc->name = "microvm";
    mc->description = "microvm (i386)";
    mc->init = microvm_init;
    mc->ready = microvm_ready;
    mc->reset = microvm_reset;
    mc->fini = microvm_fini;
    mc->compat_props = microvm_default_tables;
    mc->default_ram_id = "microvm.ram";
    mc->latest_cpu_models = true;
    mc->default_nic_model = "virtio-net-device";
    mc->default_disk_interface = "virtio";
}

static const TypeInfo microvm_info = {
    .name = TYPE_MICROVM_MACHINE,
    .parent = TYPE_X86_MACHINE,
    .instance_size = sizeof(MicrovmMachine),
    .class_init = microvm_class_init,
};
TYPE_REGISTER(microvm_info);
