/*
 * Starting a kernel without firmware: bzImage, PVH and multiboot v1. What firmware would have left behind (a
 * memory map, a command line, CPU state) is made here. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MACHINE_DIRECT_BOOT_H
#define RHEA_MACHINE_DIRECT_BOOT_H

#include "arch/x86/cpu.h"
#include "mem/memory.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct DirectBoot DirectBoot;

/* Types of the PC's memory map (ACPI 6.4, table 15.2). */
enum { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };
typedef struct E820Entry {
    uint64_t base, size;
    uint32_t type;
} E820Entry;
#define E820_MAX_ENTRIES 32

/* What a kernel is told; borrowed for the call. */
typedef struct DirectBootInfo {
    const char *kernel;  /* file names */
    const char *initrd;  /* NULL: none; for multiboot a list "file args,file args" of modules */
    const char *cmdline; /* NULL: empty */
    const E820Entry *e820;
    unsigned e820_count;
    uint64_t below_4g; /* bytes of RAM from address 0 */
    uint32_t rsdp;     /* address of the ACPI root pointer; 0: none */
} DirectBootInfo;

typedef enum DirectBootKind {
    DIRECT_BOOT_LINUX64, /* bzImage, entered in long mode (boot protocol 2.12) */
    DIRECT_BOOT_LINUX32, /* bzImage, entered in protected mode */
    DIRECT_BOOT_PVH,
    DIRECT_BOOT_MULTIBOOT,
} DirectBootKind;

/* Checks the files and plans where everything goes; nothing is written yet. NULL with one clear line on a
 * missing, truncated, too large or unknown file. */
DirectBoot *direct_boot_new(const DirectBootInfo *info, GError **error);
void direct_boot_free(DirectBoot *boot);
DirectBootKind direct_boot_kind(const DirectBoot *boot);
/* Whether all that it places ends below a limit (for tests). */
bool direct_boot_inside(const DirectBoot *boot, uint64_t limit);
uint64_t direct_boot_entry(const DirectBoot *boot);
/* Puts the images into memory and the first CPU at the kernel's entry; after every reset of the machine.
 * vCPUs stand still. */
bool direct_boot_apply(DirectBoot *boot, AddressSpace *memory, X86Cpu *cpu, GError **error);

#endif
