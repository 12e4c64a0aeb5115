/*
 * The PC with a Q35 host bridge and an ICH9: PCI Express, AHCI, LPC. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "machine/pc.h"

#include "base/error.h"
#include "hw/acpi/ich9_smb.h"
#include "hw/isa/ich9_lpc.h"
#include "hw/pci/q35.h"
#include "hw/storage/ahci.h"
#include "machine/firmware.h"
#include "object/property.h"

/* RAM below 4 GiB ends where the configuration window begins; where RAM is larger, at 2 GiB, so that there is
 * room for BARs too. */
#define LOW_RAM_LIMIT 0xb0000000u
#define LOW_RAM_SPLIT 0x80000000u

static void q35_raise_gpe(Device *pm, unsigned event)
{
    ich9_lpc_set_gpe(pm, event, true);
}

static bool q35_init_devices(PcMachine *pc, GError **error)
{
    X86Machine *x86 = X86_MACHINE(pc);
    Bus *pcie = BUS(q35_bus(pc->host));
    const char *smm = on_off_auto(x86->smm, true) ? "on" : "off";
    Device *lpc = pc_new_pci(x86, TYPE_ICH9_LPC, "1f.0", error);

    if (!lpc || !object_property_parse(OBJECT(lpc), "smm-enabled", smm, error) ||
        !device_realize(lpc, pcie, NULL, error) ||
        !x86_machine_init_timers(x86, on_off_auto(x86->pit, true), true, pc->hpet, error) ||
        !pc_init_isa(pc, ich9_lpc_isa_bus(lpc), error)) {
        return false;
    }
    pc->pm = lpc;
    MACHINE(pc)->env.gpe_device = lpc;
    MACHINE(pc)->env.raise_gpe = q35_raise_gpe;
    if (pc->sata) {
        Device *ahci = pc_new_pci(x86, TYPE_ICH9_AHCI, "1f.2", error);
        if (!ahci || !device_realize(ahci, pcie, NULL, error)) {
            return false;
        }
    }
    if (pc->smbus) {
        Device *smb = pc_new_pci(x86, TYPE_ICH9_SMB, "1f.3", error);
        if (!smb || !object_property_set_uint(OBJECT(smb), "memory-size", MACHINE(pc)->ram_size, error) ||
            !device_realize(smb, pcie, NULL, error)) {
            return false;
        }
    }
    static const char *const uhcis[][2] = { { "ich9-usb-uhci1", "1d.0" },
                                            { "ich9-usb-uhci2", "1d.1" },
                                            { "ich9-usb-uhci3", "1d.2" } };
    for (size_t i = 0; MACHINE(pc)->usb && i < G_N_ELEMENTS(uhcis); i++) {
        Device *usb = pc_new_pci(x86, uhcis[i][0], uhcis[i][1], error);
        if (!usb || !device_realize(usb, pcie, NULL, error)) {
            return false;
        }
    }
    return !x86->pit_dev ||
           object_property_parse(OBJECT(x86->pit_dev), "firmware-preset", pc_preset(x86), error);
}

static bool q35_init(Machine *machine, GError **error)
{
    PcMachine *pc = PC_MACHINE(machine);
    X86Machine *x86 = X86_MACHINE(machine);

    if (machine->ram_size < 1 << 20) {
        return error_set(error, "machine '%s' needs at least 1 MiB of memory",
                         MACHINE_GET_CLASS(machine)->name);
    }
    x86->firmware = !machine->kernel;
    machine->env.firmware = x86->firmware;
    x86->low_ram_limit = LOW_RAM_LIMIT;
    x86->low_ram_split = LOW_RAM_SPLIT;
    x86_machine_init_memory(x86);
    if (!x86->firmware) {
        x86_machine_add_e820(x86, Q35_ECAM_PRESET, Q35_ECAM_PRESET + Q35_ECAM_SIZE, E820_RESERVED);
    }
    memory_region_init(&pc->pci_memory, pc, "pci", UINT64_MAX);
    memory_region_add_overlap(&machine->system_memory, 0, &pc->pci_memory, -1);
    if ((x86->firmware && !x86_firmware_map(x86, &pc->pci_memory, error)) ||
        !x86_machine_init_cpus(x86, error) ||
        !x86_machine_init_interrupts(x86, on_off_auto(x86->pic, true), !x86->firmware, error) ||
        !x86_machine_init_fw_cfg(x86, error)) {
        return false;
    }
    pc->host = device_new_unattached(machine->config.root, TYPE_Q35_HOST, NULL);
    q35_set_memory(pc->host, &machine->ram, machine->below_4g, &pc->pci_memory,
                   x86->smram ? &x86->smram_root : NULL);
    return object_apply_globals(OBJECT(pc->host), machine->config.globals, error) &&
           object_property_parse(OBJECT(pc->host), "firmware-preset", pc_preset(x86), error) &&
           device_realize(pc->host, NULL, &machine->env, error) && q35_init_devices(pc, error);
}

/* Firmware puts the configuration window and the power management block where it likes. */
static void q35_acpi_update(X86Machine *x86, AcpiBoard *board)
{
    uint64_t base, size;

    if (q35_ecam(PC_MACHINE(x86)->host, &base, &size)) {
        board->ecam = (AcpiRange){ base, size };
    }
    uint16_t pm = ich9_lpc_pm_base(PC_MACHINE(x86)->pm);
    if (pm) {
        board->pm_base = pm;
        board->gpe0_base = pm + ICH9_GPE0_OFFSET;
    }
}

static bool q35_ready(Machine *machine, GError **error)
{
    PcMachine *pc = PC_MACHINE(machine);
    X86Machine *x86 = X86_MACHINE(machine);
    uint64_t above = 4 * GIB + ((machine->above_4g + GIB - 1) & ~(GIB - 1));
    uint64_t hole = x86->firmware ? machine->below_4g : PCI_MEM_START;
    const AcpiBoard board = {
        .sci_irq = ICH9_SCI_IRQ,
        .pm_base = ICH9_PM_BASE,
        .gpe0_base = ICH9_PM_BASE + ICH9_GPE0_OFFSET,
        .gpe0_length = ICH9_GPE0_LENGTH,
        .smi_command = ICH9_SMI_COMMAND,
        .acpi_enable = ICH9_ACPI_ENABLE,
        .acpi_disable = ICH9_ACPI_DISABLE,
        .reset_register = true,
        .i8042 = pc->i8042,
        .pci = true,
        .ich9 = true,
        .pci_mem32 = { hole, 0xfec00000u - hole },
        .pci_mem64 = { above, PCI_MEM64_SIZE },
        .ecam = { Q35_ECAM_PRESET, Q35_ECAM_SIZE },
    };

    x86->acpi_update = q35_acpi_update;
    return x86_machine_ready(x86, &board, NULL, error);
}

static void q35_reset(Machine *machine)
{
    PcMachine *pc = PC_MACHINE(machine);

    if (!X86_MACHINE(machine)->firmware) {
        pc_write_vectors(machine);
        pci_bus_assign_resources(q35_bus(pc->host), PCI_IO_START, PCI_IO_END, PCI_MEM_START, PCI_MEM_END,
                                 ich9_firmware_line);
    }
    x86_machine_reset(X86_MACHINE(machine));
}

#define Q35_BOARD \
    .init = q35_init, .ready = q35_ready, .reset = q35_reset, .description = "Standard PC (Q35 + ICH9, 2009)"
static const PcVersion q35_8_1 = { Q35_BOARD, .name = "pc-q35-8.1", .alias = "q35", .compat = { NULL } };
static const PcVersion q35_8_0 = { Q35_BOARD, .name = "pc-q35-8.0", .compat = { pc_compat_8_0, NULL } };
static const PcVersion q35_7_2 = { Q35_BOARD, .name = "pc-q35-7.2",
                                   .compat = { pc_compat_8_0, pc_compat_7_2, NULL } };
PC_VERSION_TYPE(q35_8_1, "pc-q35-8.1");
PC_VERSION_TYPE(q35_8_0, "pc-q35-8.0");
PC_VERSION_TYPE(q35_7_2, "pc-q35-7.2");
