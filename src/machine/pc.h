/*
 * What the PC boards share (pc_common.c); "pc" is in pc.c, "q35" in q35.c. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_MACHINE_PC_H
#define RHEA_MACHINE_PC_H

#include "machine/x86_machine.h"

#define TYPE_PC_MACHINE "generic-pc-machine" /* abstract */
#define GIB             (UINT64_C(1) << 30)
/* Where BARs go that no firmware has given addresses. */
#define PCI_IO_START   0xc000
#define PCI_IO_END     0x10000
#define PCI_MEM_START  0xc0000000u
#define PCI_MEM_END    0xfea00000u /* below the I/O APIC and what firmware keeps */
#define PCI_MEM64_SIZE (32 * GIB)

typedef struct PcMachine {
    X86Machine parent_obj;
    bool hpet, i8042, smbus, sata;
    int vmport; /* OnOffAuto */
    MemoryRegion pci_memory;
    Device *host;
    Device *pm; /* with the power management block; NULL: none (acpi=off) */
} PcMachine;
#define PC_MACHINE(obj) OBJECT_CHECK(PcMachine, obj, TYPE_PC_MACHINE)

/* "on": devices come out of reset as PC firmware leaves them, since there is none; else "off". */
const char *pc_preset(X86Machine *x86);
/* A PCI function of the board at an address, to be given more properties and realized. NULL on error. */
Device *pc_new_pci(X86Machine *x86, const char *type, const char *addr, GError **error);
/* Keyboard controller, port 92h, DMA, serial ports. */
bool pc_init_isa(PcMachine *pc, Bus *isa, GError **error);
/* What PC firmware leaves in the interrupt vector table: everything returns at once, and the timer's
 * interrupt, which is not masked, counts ticks at 0040:006c and ends itself. Real-mode programs that wait
 * with HLT rely on it. */
void pc_write_vectors(Machine *machine);

/* ---- versions ---- */
typedef struct PcVersion {
    const char *name, *alias, *description;
    bool is_default;
    const GlobalProperty *compat[4]; /* ends with NULL */
    bool (*init)(Machine *machine, GError **error);
    bool (*ready)(Machine *machine, GError **error);
    void (*reset)(Machine *machine);
} PcVersion;
extern const GlobalProperty pc_compat_8_0[], pc_compat_7_2[];
void pc_version_class_init(ObjectClass *klass, const void *data);

#define PC_VERSION_TYPE(version, type_name)    \
    static const TypeInfo version##_info = {   \
        .name = type_name MACHINE_TYPE_SUFFIX, \
        .parent = TYPE_PC_MACHINE,             \
        .class_init = pc_version_class_init,   \
        .class_data = &(version),              \
    };                                         \
    TYPE_REGISTER(version##_info)

#endif
