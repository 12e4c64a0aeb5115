/*
 * What the PC-like boards share: RAM around the 4 GiB hole, CPUs, the MSI doorbell, tables, and the start of
 * a kernel. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MACHINE_X86_MACHINE_H
#define RHEA_MACHINE_X86_MACHINE_H

#include "hw/intc/gsi.h"
#include "machine/acpi_tables.h"
#include "machine/direct_boot.h"
#include "machine/machine.h"

#define TYPE_X86_MACHINE "x86-machine" /* abstract */

typedef enum OnOffAuto { ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON, ON_OFF_AUTO_OFF } OnOffAuto;
extern const EnumLookup on_off_auto_lookup;

#define PFLASH_UNITS 2

typedef struct X86Machine {
    Machine parent_obj;
    /* Set by a board before x86_machine_init_memory(): RAM below 4 GiB ends here where all of it fits; where
     * not, it ends there. */
    uint64_t low_ram_limit, low_ram_split;
    int acpi, smm, pit, pic; /* OnOffAuto */
    uint64_t max_ram_below_4g;
    char *pflash[PFLASH_UNITS]; /* drives or block nodes of a board that has flash */

    bool firmware;    /* starts through firmware, which sets up everything itself */
    bool booted_once; /* has been reset before */

    MemoryRegion ram_below_4g, ram_above_4g, smram_root, smram_view, msi, bios, isa_bios;
    AddressSpace *smram; /* what CPUs see in SMM */
    GsiLines *lines;
    IrqLine *a20;
    Device *pic_dev, *ioapic, *pit_dev, *hpet_dev;
    unsigned serial_ports;
    E820Entry e820[E820_MAX_ENTRIES];
    unsigned e820_count;
    GByteArray *acpi_tables;
    AcpiBoard acpi_board; /* from x86_machine_ready() on */
    uint32_t *apic_ids;   /* owned; of it */
    /* Of a board whose tables depend on what firmware has done; NULL: they do not. Called in any thread. */
    void (*acpi_update)(struct X86Machine *x86, AcpiBoard *board);
    DirectBoot *boot;
} X86Machine;
#define X86_MACHINE(obj) OBJECT_CHECK(X86Machine, obj, TYPE_X86_MACHINE)

/* Where the ACPI image lies; the memory map keeps its 128 KiB from the guest's allocator. */
#define X86_ACPI_ADDRESS 0xe0000u
#define X86_ACPI_LIMIT   0xff000u /* above: what pc.c leaves of a firmware */
#define X86_RESET_STUB   0xffff0u
#define X86_MSI_ADDRESS  0xfee00000u

/* Splits RAM around the hole, maps it, makes the doorbell and, with smm, the CPUs' other view. */
void x86_machine_init_memory(X86Machine *x86);
/* One more entry of the map that kernels get; before x86_machine_init_fw_cfg(). */
void x86_machine_add_e820(X86Machine *x86, uint64_t base, uint64_t end, uint32_t type);
bool x86_machine_init_cpus(X86Machine *x86, GError **error);
/* The interrupt lines (into env), the 8259 pair where wanted, and the I/O APIC. preset: the pair comes out of
 * reset as PC firmware leaves it, with the timer's interrupt on; else it is silent until the guest programs
 * it. */
bool x86_machine_init_interrupts(X86Machine *x86, bool pic, bool preset, GError **error);
/* 8254 and RTC, behind an HPET if there is one. */
bool x86_machine_init_timers(X86Machine *x86, bool pit, bool rtc, bool hpet, GError **error);
bool x86_machine_init_fw_cfg(X86Machine *x86, GError **error);
/* isa-serial for each -serial. */
bool x86_machine_init_serial(X86Machine *x86, Bus *isa, GError **error);
/* Makes a device of the board, sets text properties (NULL-terminated pairs) and realizes it. NULL on error.
 */
Device *x86_machine_add_device(X86Machine *x86, const char *type, Bus *bus, GError **error,
                               ...) G_GNUC_NULL_TERMINATED;
/* Finishes `board` (kept as acpi_board) with what is known here (CPUs), builds tables unless acpi=off, and
 * loads the kernel or tells firmware. extra_cmdline (may be NULL) goes behind -append. */
bool x86_machine_ready(X86Machine *x86, const AcpiBoard *board, const char *extra_cmdline, GError **error);
/* What firmware would have left in CPUs and memory, then the kernel's entry state. */
void x86_machine_reset(X86Machine *x86);
void x86_machine_fini(X86Machine *x86);
static inline bool on_off_auto(int value, bool automatic)
{
    return value == ON_OFF_AUTO_AUTO ? automatic : value == ON_OFF_AUTO_ON;
}

#endif
