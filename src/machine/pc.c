/*
 * The PC with an i440FX host bridge and a PIIX3/PIIX4 south bridge. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/pc.h"

#include "base/error.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/isa/piix3.h"
#include "hw/pci/i440fx.h"
#include "hw/storage/fdc.h"
#include "hw/storage/piix3_ide.h"
#include "machine/firmware.h"
#include "object/property.h"

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
        !pc_init_isa(pc, piix3_isa_bus(piix3), error) ||
        !x86_machine_add_device(x86, TYPE_ISA_FDC, piix3_isa_bus(piix3), error, NULL)) {
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
    if (machine->usb) {
        Device *usb = pc_new_pci(x86, "piix3-usb-uhci", "01.2", error);
        if (!usb || !device_realize(usb, pci, NULL, error)) {
            return false;
        }
    }
    if (on_off_auto(x86->acpi, true)) {
        Device *pm = pc_new_pci(x86, TYPE_PIIX4_PM, "01.3", error);
        if (!pm ||
            !object_property_parse(OBJECT(pm), "smm-enabled", on_off_auto(x86->smm, true) ? "on" : "off",
                                   error) ||
            !object_property_set_uint(OBJECT(pm), "memory-size", machine->ram_size, error) ||
            !device_realize(pm, pci, NULL, error)) {
            return false;
        }
        pc->pm = pm;
        machine->env.gpe_device = pm;
        machine->env.raise_gpe = piix4_pm_raise_gpe;
    }
    return true;
}

/* Firmware puts the power management block where it likes. */
static void pc_acpi_update(X86Machine *x86, AcpiBoard *board)
{
    uint16_t base = piix4_pm_base(PC_MACHINE(x86)->pm);

    if (base) {
        board->pm_base = base;
    }
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
        .pci_hotplug = PIIX4_PCI_HOTPLUG,
        .pci_mem32 = { hole, 0xfec00000u - hole },
        .pci_mem64 = { above, PCI_MEM64_SIZE },
    };
    x86->acpi_update = pc->pm ? pc_acpi_update : NULL;
    return x86_machine_ready(x86, &board, NULL, error);
}

/* The PIIX3's preset sends PIRQ A to D to 10, 10, 11, 11; slot n's pin p is PIRQ (n + p - 1) mod 4. */
static uint8_t pc_interrupt_line(PciDevice *dev, int pin)
{
    static const uint8_t lines[4] = { 10, 10, 11, 11 };

    return lines[(PCI_SLOT(dev->devfn) + pin - 1) & 3];
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

#define PC_DESCRIPTION "Standard PC (i440FX + PIIX, 1996)"
#define PC_BOARD       .init = pc_init, .ready = pc_ready, .reset = pc_reset, .description = PC_DESCRIPTION
static const PcVersion pc_8_1 = { PC_BOARD, .name = "pc-i440fx-8.1", .alias = "pc", .is_default = true,
                                  .compat = { NULL } };
static const PcVersion pc_8_0 = { PC_BOARD, .name = "pc-i440fx-8.0", .compat = { pc_compat_8_0, NULL } };
static const PcVersion pc_7_2 = { PC_BOARD, .name = "pc-i440fx-7.2",
                                  .compat = { pc_compat_8_0, pc_compat_7_2, NULL } };
PC_VERSION_TYPE(pc_8_1, "pc-i440fx-8.1");
PC_VERSION_TYPE(pc_8_0, "pc-i440fx-8.0");
PC_VERSION_TYPE(pc_7_2, "pc-i440fx-7.2");
