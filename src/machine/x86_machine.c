/*
 * The common part of the PC-like boards.
 *
 * There is no firmware between reset and the kernel, so this file also leaves behind what a kernel expects of
 * it: local APICs in virtual wire mode, MTRRs that make RAM write-back (SDM vol. 3 chapters 11 and 12),
 * tables in low memory. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/x86_machine.h"

#include "base/error.h"
#include "base/log.h"
#include "hw/acpi/acpi_part.h"
#include "hw/char/serial.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "hw/storage/fdc.h"
#include "hw/timer/hpet.h"
#include "hw/timer/i8254.h"
#include "hw/timer/mc146818rtc.h"
#include "machine/firmware.h"
#include "object/property.h"

#include <string.h>

#define GIB (UINT64_C(1) << 30)

static const char *const on_off_auto_names[] = {
    [ON_OFF_AUTO_AUTO] = "auto", [ON_OFF_AUTO_ON] = "on", [ON_OFF_AUTO_OFF] = "off"
};
const EnumLookup on_off_auto_lookup = { .name = "OnOffAuto", .names = on_off_auto_names, .count = 3 };

/* ---- memory ---- */

void x86_machine_add_e820(X86Machine *x86, uint64_t base, uint64_t end, uint32_t type)
{
    if (base < end && x86->e820_count < E820_MAX_ENTRIES) {
        x86->e820[x86->e820_count++] = (E820Entry){ .base = base, .size = end - base, .type = type };
    }
}

static uint64_t msi_read(void *opaque, hwaddr offset, unsigned size)
{
    return UINT64_MAX; /* nobody answers: the bus floats */
}

static void msi_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Machine *machine = opaque;

    apic_bus_msi(machine->apic_bus, X86_MSI_ADDRESS + offset, value);
}

static const MemoryRegionOps msi_ops = {
    .read = msi_read,
    .write = msi_write,
    .endian = MEMORY_LITTLE_ENDIAN,
    .valid = { .min = 4, .max = 4 },
    .impl = { .min = 4, .max = 4 },
    .dma_ok = true,
};

void x86_machine_init_memory(X86Machine *x86)
{
    Machine *machine = MACHINE(x86);
    /* Where the hole has to be large, RAM below 4 GiB ends at a whole GiB, so that huge pages fit. */
    uint64_t low = x86->max_ram_below_4g ? x86->max_ram_below_4g
                   : x86->low_ram_limit  ? x86->low_ram_limit
                                         : 0xe0000000u;

    if (machine->ram_size >= low) {
        low = MIN(low, x86->low_ram_split ? x86->low_ram_split : 3 * GIB);
    }
    machine->below_4g = MIN(machine->ram_size, low);
    machine->above_4g = machine->ram_size - machine->below_4g;
    memory_region_init_alias(&x86->ram_below_4g, x86, "ram-below-4g", &machine->ram, 0, machine->below_4g);
    memory_region_add(&machine->system_memory, 0, &x86->ram_below_4g);
    if (machine->above_4g) {
        memory_region_init_alias(&x86->ram_above_4g, x86, "ram-above-4g", &machine->ram, machine->below_4g,
                                 machine->above_4g);
        memory_region_add(&machine->system_memory, 4 * GIB, &x86->ram_above_4g);
    }
    memory_region_init_io(&x86->msi, x86, &msi_ops, machine, "apic-msi", 0x100000, NULL);
    memory_region_add_overlap(&machine->system_memory, X86_MSI_ADDRESS, &x86->msi, 4096);

    memory_region_init(&x86->smram_root, x86, "smram", UINT64_MAX);
    memory_region_init_alias(&x86->smram_view, x86, "system-in-smm", &machine->system_memory, 0, UINT64_MAX);
    memory_region_add(&x86->smram_root, 0, &x86->smram_view);
    if (on_off_auto(x86->smm, true)) {
        x86->smram = address_space_new(&x86->smram_root, "cpu-smm");
    }
    if (x86->firmware) { /* it takes its own places out */
        x86_machine_add_e820(x86, 0, machine->below_4g, E820_RAM);
        x86_machine_add_e820(x86, 4 * GIB, 4 * GIB + machine->above_4g, E820_RAM);
        return;
    }
    x86_machine_add_e820(x86, 0, 0x9fc00, E820_RAM);
    x86_machine_add_e820(x86, 0x9fc00, 0xa0000, E820_RESERVED);
    x86_machine_add_e820(x86, X86_ACPI_ADDRESS, X86_ACPI_LIMIT, E820_RESERVED);
    x86_machine_add_e820(x86, 0x100000, machine->below_4g, E820_RAM);
    x86_machine_add_e820(x86, 4 * GIB, 4 * GIB + machine->above_4g, E820_RAM);
}

/* ---- CPUs ---- */

bool x86_machine_init_cpus(X86Machine *x86, GError **error)
{
    Machine *machine = MACHINE(x86);

    for (unsigned i = 0; i < machine->smp.cpus; i++) {
        if (!machine_add_cpu(machine, i, x86->smram, error)) {
            return false;
        }
    }
    return true;
}

static void x86_set_a20(void *opaque, int n, bool level)
{
    Machine *machine = opaque;

    for (unsigned i = 0; i < machine->smp.cpus; i++) {
        if (machine->cpu_slots[i].cpu) {
            x86_cpu_set_a20(machine->cpu_slots[i].cpu, level);
        }
    }
}

/* ---- the board's devices ---- */

Device *x86_machine_add_device(X86Machine *x86, const char *type, Bus *bus, GError **error, ...)
{
    Machine *machine = MACHINE(x86);
    Device *dev = device_new_unattached(machine->config.root, type, NULL);
    va_list pairs;
    const char *name;
    bool ok = object_apply_globals(OBJECT(dev), machine->config.globals, error);

    va_start(pairs, error);
    while (ok && (name = va_arg(pairs, const char *))) {
        ok = object_property_parse(OBJECT(dev), name, va_arg(pairs, const char *), error);
    }
    va_end(pairs);
    return ok && device_realize(dev, bus, bus ? NULL : &machine->env, error) ? dev : NULL;
}

bool x86_machine_init_interrupts(X86Machine *x86, bool pic, bool preset, GError **error)
{
    Machine *machine = MACHINE(x86);

    x86->lines = gsi_lines_new();
    machine->env.isa_irqs = x86->lines->isa;
    machine->env.gsi = x86->lines->gsi;
    x86->a20 = irq_new(x86_set_a20, machine, 0);
    if (pic) {
        x86->pic_dev = x86_machine_add_device(x86, TYPE_I8259, NULL, error, "firmware-preset",
                                              preset ? "on" : "off", NULL);
        if (!x86->pic_dev) {
            return false;
        }
    }
    x86->ioapic = x86_machine_add_device(x86, TYPE_IOAPIC, NULL, error, NULL);
    if (!x86->ioapic) {
        return false;
    }
    gsi_lines_connect(x86->lines, x86->pic_dev, x86->ioapic);
    return true;
}

bool x86_machine_init_timers(X86Machine *x86, bool pit, bool rtc, bool hpet, GError **error)
{
    Machine *machine = MACHINE(x86);

    if (hpet) {
        x86->hpet_dev = x86_machine_add_device(x86, TYPE_HPET, NULL, error, NULL);
        if (!x86->hpet_dev) {
            return false;
        }
    }
    if (pit) {
        x86->pit_dev = device_new_unattached(machine->config.root, TYPE_I8254, NULL);
        if (x86->hpet_dev) {
            i8254_set_irq(x86->pit_dev, hpet_legacy_line(x86->hpet_dev, 0));
        }
        if (!object_apply_globals(OBJECT(x86->pit_dev), machine->config.globals, error) ||
            !device_realize(x86->pit_dev, NULL, &machine->env, error)) {
            return false;
        }
        if (x86->hpet_dev) {
            hpet_set_pit_control(x86->hpet_dev, i8254_control_line(x86->pit_dev));
        }
    }
    if (!rtc) {
        return true;
    }
    const MachineConfig *config = &machine->config;
    machine->rtc = device_new_unattached(machine->config.root, TYPE_MC146818_RTC, NULL);
    if (x86->hpet_dev) {
        mc146818rtc_set_irq(machine->rtc, hpet_legacy_line(x86->hpet_dev, 1));
    }
    Object *obj = OBJECT(machine->rtc);
    if (!object_apply_globals(obj, config->globals, error) ||
        (config->rtc_base && !object_property_parse(obj, "base", config->rtc_base, error)) ||
        (config->rtc_clock && !object_property_parse(obj, "clock", config->rtc_clock, error)) ||
        (config->rtc_driftfix &&
         !object_property_parse(obj, "lost_tick_policy",
                                strcmp(config->rtc_driftfix, "slew") == 0 ? "slew" : "discard", error)) ||
        !device_realize(machine->rtc, NULL, &machine->env, error)) {
        return false;
    }
    /* CMOS RAM as PC firmware fills it: base and extended memory, memory above 16 MiB in 64 KiB units. */
    uint64_t extended = machine->below_4g > 0x100000 ? (machine->below_4g - 0x100000) >> 10 : 0;
    uint64_t above_16m = machine->below_4g > 0x1000000 ? (machine->below_4g - 0x1000000) >> 16 : 0;
    uint64_t above_4g = machine->above_4g >> 16;
    extended = MIN(extended, 0xffff);
    above_16m = MIN(above_16m, 0xffff);
    const uint8_t cmos[][2] = {
        { 0x15, 640 & 0xff },
        { 0x16, 640 >> 8 },
        { 0x17, extended & 0xff },
        { 0x18, extended >> 8 },
        { 0x30, extended & 0xff },
        { 0x31, extended >> 8 },
        { 0x34, above_16m & 0xff },
        { 0x35, above_16m >> 8 },
        { 0x5b, above_4g & 0xff },
        { 0x5c, above_4g >> 8 },
        { 0x5d, above_4g >> 16 },
        { 0x5f, machine->smp.cpus - 1 },
        { 0x14, 0x06 },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cmos); i++) {
        mc146818rtc_set_cmos(machine->rtc, cmos[i][0], cmos[i][1]);
    }
    return true;
}

/* CMOS says what floppy disk drives there are, and the equipment byte how many. */
static bool describe_floppies(Object *child, void *opaque)
{
    Machine *machine = opaque;
    Device *fdc = object_dynamic_cast(child, TYPE_ISA_FDC);

    if (!fdc || !fdc->realized || !machine->rtc) {
        return true;
    }
    uint8_t types = isa_fdc_cmos_types(fdc);
    unsigned drives = (types >> 4 != 0) + ((types & 15) != 0);
    mc146818rtc_set_cmos(machine->rtc, 0x10, types);
    mc146818rtc_set_cmos(machine->rtc, 0x14, (uint8_t)(0x06 | (drives ? 0x01 | (drives - 1) << 6 : 0)));
    return false;
}

bool x86_machine_init_fw_cfg(X86Machine *x86, GError **error)
{
    Machine *machine = MACHINE(x86);
    Device *dev = x86_machine_add_device(x86, TYPE_FW_CFG_IO, NULL, error, NULL);

    if (!dev) {
        return false;
    }
    FwCfg *fw_cfg = FW_CFG(dev);
    machine->fw_cfg = machine->env.fw_cfg = fw_cfg;
    fw_cfg_add_u16(fw_cfg, FW_CFG_NB_CPUS, machine->smp.cpus);
    fw_cfg_add_u16(fw_cfg, FW_CFG_MAX_CPUS, machine->cpu_slots[machine->smp.max_cpus - 1].apic_id + 1);
    fw_cfg_add_u64(fw_cfg, FW_CFG_RAM_SIZE, machine->ram_size);
    fw_cfg_add_u16(fw_cfg, FW_CFG_NOGRAPHIC, machine->config.graphics_off || !machine->graphics);
    fw_cfg_add_u16(fw_cfg, FW_CFG_BOOT_MENU, 0);
    fw_cfg_add_u32(fw_cfg, FW_CFG_IRQ0_OVERRIDE, 1);
    uint8_t e820[E820_MAX_ENTRIES * 20];
    for (unsigned i = 0; i < x86->e820_count; i++) {
        memcpy(e820 + i * 20, &x86->e820[i].base, 8);
        memcpy(e820 + i * 20 + 8, &x86->e820[i].size, 8);
        memcpy(e820 + i * 20 + 16, &x86->e820[i].type, 4);
    }
    if (machine->config.uuid) {
        uint8_t *uuid = machine->uuid;
        unsigned at = 0;
        for (const char *p = machine->config.uuid; *p && at < 32; p++) {
            int digit = g_ascii_xdigit_value(*p);
            if (digit >= 0) {
                uuid[at / 2] = at % 2 ? (uuid[at / 2] | digit) : (digit << 4);
                at++;
            }
        }
        fw_cfg_add_bytes(fw_cfg, FW_CFG_UUID, uuid, sizeof(machine->uuid));
    }
    return fw_cfg_add_file(fw_cfg, "etc/e820", e820, x86->e820_count * 20, error);
}

bool x86_machine_init_serial(X86Machine *x86, Bus *isa, GError **error)
{
    Machine *machine = MACHINE(x86);

    for (unsigned i = 0; i < MACHINE_MAX_SERIALS; i++) {
        if (machine->config.serial[i]) {
            char index[4];
            g_snprintf(index, sizeof(index), "%u", i);
            if (!x86_machine_add_device(x86, TYPE_ISA_SERIAL, isa, error, "index", index, "chardev",
                                        chardev_id(machine->config.serial[i]), NULL)) {
                return false;
            }
            x86->serial_ports = i + 1;
        }
    }
    return true;
}

/* ---- start ---- */

bool x86_machine_ready(X86Machine *x86, const AcpiBoard *described, const char *extra_cmdline, GError **error)
{
    Machine *machine = MACHINE(x86);
    bool acpi = on_off_auto(x86->acpi, true);
    AcpiBoard *board = &x86->acpi_board;

    object_child_foreach(machine->config.root, true, describe_floppies, machine);

    if (!machine->kernel && (machine->initrd || machine->append)) {
        return error_set(error, "-%s only allowed with -kernel option",
                         machine->initrd ? "initrd" : "append");
    }
    if (acpi) {
        x86->apic_ids = g_new(uint32_t, machine->smp.max_cpus);
        for (unsigned i = 0; i < machine->smp.max_cpus; i++) {
            x86->apic_ids[i] = machine->cpu_slots[i].apic_id;
        }
        *board = *described;
        board->apic_ids = x86->apic_ids;
        board->cpus = machine->smp.cpus;
        board->max_cpus = machine->smp.max_cpus;
        board->ioapic_address = IOAPIC_ADDRESS;
        board->irq0_override = true;
        board->pic = x86->pic_dev;
        board->hpet = x86->hpet_dev;
        board->rtc = machine->rtc;
        board->serial_ports = x86->serial_ports;
        board->fw_cfg = machine->fw_cfg;
        board->parts = machine->env.acpi_parts;
    }
    if (x86->firmware) {
        return x86_firmware_publish(x86, acpi, error);
    }
    if (acpi) {
        x86->acpi_tables = acpi_build(board, X86_ACPI_ADDRESS, NULL, error);
        if (!x86->acpi_tables) {
            return false;
        }
        if (x86->acpi_tables->len > X86_ACPI_LIMIT - X86_ACPI_ADDRESS) {
            return error_set(error, "the ACPI tables of this machine are too large (%u bytes)",
                             x86->acpi_tables->len);
        }
    }
    if (!machine->kernel) {
        error_set(error, "machine '%s' has no firmware: it needs a kernel", MACHINE_GET_CLASS(machine)->name);
        error_append_hint(error, "Give one with -kernel FILE.");
        return false;
    }
    if (machine->ram_size < 2 << 20) {
        return error_set(error, "machine '%s' needs at least 2 MiB of memory to start a kernel",
                         MACHINE_GET_CLASS(machine)->name);
    }
    const char *own = machine->append ? machine->append : "";
    g_autofree char *cmdline = extra_cmdline && *extra_cmdline
                                   ? g_strdup_printf("%s%s%s", own, *own ? " " : "", extra_cmdline)
                                   : g_strdup(own);
    DirectBootInfo info = {
        .kernel = machine->kernel,
        .initrd = machine->initrd,
        .cmdline = cmdline,
        .e820 = x86->e820,
        .e820_count = x86->e820_count,
        .below_4g = machine->below_4g,
        .rsdp = acpi ? X86_ACPI_ADDRESS : 0,
    };
    x86->boot = direct_boot_new(&info, error);
    return x86->boot != NULL;
}

/* MTRR and APIC state that firmware leaves in every CPU. */
static void x86_firmware_cpu_state(Machine *machine, X86Cpu *cpu)
{
    const uint8_t write_back = 6;

    cpu->mtrr_def_type = 3u << 10 | write_back; /* enabled, with the fixed ranges */
    for (int i = 0; i < 11; i++) {
        cpu->mtrr_fixed[i] = UINT64_C(0x0101010101010101) * write_back;
    }
    cpu->mtrr_fixed[2] = 0; /* 0xa0000: uncached */
    /* One variable range makes the hole below 4 GiB uncached; its size is a power of two. */
    uint64_t base = machine->below_4g <= 2 * GIB   ? 2 * GIB
                    : machine->below_4g <= 3 * GIB ? 3 * GIB
                                                   : 0xe0000000u;
    cpu->mtrr_var[0] = base;
    cpu->mtrr_var[1] = ((UINT64_C(1) << 40) - (4 * GIB - base)) | 1u << 11;

    /* Virtual wire mode: LINT0 takes the 8259, LINT1 is NMI; only the first CPU runs with the 8259. */
    apic_mmio_write(cpu->apic, 0xf0, 0x1ff);
    apic_mmio_write(cpu->apic, 0x350, cpu->index == 0 ? 0x8700 : 0x18700);
    apic_mmio_write(cpu->apic, 0x360, 0x400);
}

/* What firmware does with the pages that devices share with their tables. */
static void place_acpi_parts(Machine *machine)
{
    const GPtrArray *parts = machine->env.acpi_parts;
    for (guint i = 0; i < parts->len; i++) {
        const AcpiPart *part = parts->pdata[i];
        uint8_t page[ACPI_PART_PAGE_SIZE];
        uint64_t told = GUINT64_TO_LE((uint64_t)part->page_gpa + part->told);
        if (fw_cfg_read_file(machine->fw_cfg, part->page_file, page, sizeof(page))) {
            address_space_write(machine->memory, part->page_gpa, MEMTXATTRS_NONE, page, sizeof(page));
            fw_cfg_write_file(machine->fw_cfg, part->address_file, &told, sizeof(told));
        }
    }
}

void x86_machine_reset(X86Machine *x86)
{
    Machine *machine = MACHINE(x86);
    g_autoptr(GError) error = NULL;

    if (x86->firmware) {
        x86_firmware_reset(x86);
        return;
    }
    for (unsigned i = 0; i < machine->smp.cpus; i++) {
        x86_firmware_cpu_state(machine, machine->cpu_slots[i].cpu);
    }
    if (x86->acpi_tables) {
        address_space_write(machine->memory, X86_ACPI_ADDRESS, MEMTXATTRS_NONE, x86->acpi_tables->data,
                            x86->acpi_tables->len);
        place_acpi_parts(machine);
    }
    /* Where a kernel jumps that wants the firmware to restart the machine: an empty IDT and an exception do
     * it. */
    static const uint8_t restart[16] = {
        0x2e, 0x0f, 0x01, 0x1e, 0xf8, 0xff, /* lidt cs:[0xfff8] */
        0xcc,                               /* int3 */
    };
    address_space_write(machine->memory, X86_RESET_STUB, MEMTXATTRS_NONE, restart, sizeof(restart));
    if (x86->boot && !direct_boot_apply(x86->boot, machine->memory, machine->cpu_slots[0].cpu, &error)) {
        error_report(error);
        machine->config.vm->request_shutdown(machine->config.vm->opaque, SHUTDOWN_HOST_ERROR);
    }
}

void x86_machine_fini(X86Machine *x86)
{
    direct_boot_free(x86->boot);
    x86->boot = NULL;
    g_clear_pointer(&x86->acpi_tables, g_byte_array_unref);
    g_clear_pointer(&x86->apic_ids, g_free);
}

static void x86_machine_instance_finalize(Object *obj)
{
    X86Machine *x86 = X86_MACHINE(obj);

    x86_machine_fini(x86);
    x86_firmware_fini(x86);
    address_space_free(x86->smram);
    MemoryRegion *const regions[] = { &x86->smram_view, &x86->smram_root, &x86->msi, &x86->ram_above_4g,
                                      &x86->ram_below_4g };
    for (size_t i = 0; i < G_N_ELEMENTS(regions); i++) {
        memory_region_destroy(regions[i]);
    }
    if (x86->lines) {
        gsi_lines_free(x86->lines);
    }
    if (x86->a20) {
        irq_free(x86->a20);
    }
}

static const Property x86_machine_properties[] = {
    PROP_ENUM("acpi", X86Machine, acpi, on_off_auto_lookup, ON_OFF_AUTO_AUTO, "ACPI tables"),
    PROP_ENUM("smm", X86Machine, smm, on_off_auto_lookup, ON_OFF_AUTO_AUTO, "system management mode"),
    PROP_ENUM("pit", X86Machine, pit, on_off_auto_lookup, ON_OFF_AUTO_AUTO, "8254 interval timer"),
    PROP_ENUM("pic", X86Machine, pic, on_off_auto_lookup, ON_OFF_AUTO_AUTO,
              "pair of 8259 interrupt controllers"),
    PROP_SIZE("max-ram-below-4g", X86Machine, max_ram_below_4g, 0, "where RAM below 4 GiB ends at most"),

    PROP_END,
};

/* "rtc-time": the guest's time of day, as libvirt asks for it. */
static bool x86_get_rtc_time(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    Machine *machine = MACHINE(obj);
    if (!machine->rtc) {
        return error_set(error, "this machine has no real-time clock");
    }
    return object_property_get(OBJECT(machine->rtc), "date", v, error);
}

static void x86_machine_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);

    object_class_add_properties(klass, x86_machine_properties);
    object_class_property_add(klass, "rtc-time", "struct tm", x86_get_rtc_time, NULL, NULL);
    mc->max_cpus = 255;
    mc->default_cpu_type = "qemu64-x86_64-cpu";
}

static const TypeInfo x86_machine_info = {
    .name = TYPE_X86_MACHINE,
    .parent = TYPE_MACHINE,
    .description = "a PC-like board",
    .instance_size = sizeof(X86Machine),
    .abstract = true,
    .class_init = x86_machine_class_init,
    .instance_finalize = x86_machine_instance_finalize,
};
TYPE_REGISTER(x86_machine_info);
