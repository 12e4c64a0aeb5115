/*
 * Shadow RAM and SMRAM: see pam.h. Threads: under the host bridge's HomeLock, and at realize.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/pci/pam.h"

#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(pam_area, "area 0x%05x mode %u");
TRACE_EVENT(pam_smram, "register 0x%02x");

enum { PAM_READ = 1, PAM_WRITE = 2 };

static void area_set(PamArea *area, uint8_t mode)
{
    TRACE(pam_area, area->start, mode);
    area->mode = mode;
    memory_region_set_enabled(&area->to_pci, mode == 0);
    memory_region_set_enabled(&area->read_only, mode == PAM_READ);
    memory_region_set_enabled(&area->window, mode == PAM_WRITE || mode == 0);
}

/* Area 0 is 0xf0000-0xfffff, in the high half of the first register; the others are 16 KiB each from 0xc0000.
 */
static uint8_t area_mode(const uint8_t *registers, int area)
{
    uint8_t half = area == 0    ? registers[0] >> 4
                   : (area & 1) ? registers[(area + 1) / 2]
                                : registers[area / 2] >> 4;
    return half & (PAM_READ | PAM_WRITE);
}

void pam_update(Pam *pam, const uint8_t *registers, uint8_t smram)
{
    memory_transaction_begin();
    for (int i = 0; i < PAM_AREAS; i++) {
        if (area_mode(registers, i) != pam->areas[i].mode) {
            area_set(&pam->areas[i], area_mode(registers, i));
        }
    }
    TRACE(pam_smram, smram);
    memory_region_set_enabled(&pam->vga_hole, !(smram & SMRAM_OPEN));
    memory_region_set_enabled(&pam->vga_nothing, !(smram & SMRAM_OPEN));
    if (pam->smram) {
        memory_region_set_enabled(&pam->smram_overlay, smram & SMRAM_ENABLE);
    }
    memory_transaction_commit();
}

uint8_t smram_written(uint8_t old, uint8_t value)
{
    if (old & SMRAM_LOCK) {
        value = old;
    } else if (value & SMRAM_LOCK) {
        value &= (uint8_t)~SMRAM_OPEN;
    }
    return value | SMRAM_BASE_SEG;
}

/* The RAM below an area, through whatever aliases the board put above the block. */
static uint8_t *ram_at(Pam *pam, hwaddr addr, RamBlock **block, uint64_t *offset)
{
    MemoryRegion *mr = pam->ram;
    while (mr->kind == MEMORY_ALIAS) {
        addr += mr->alias_offset;
        mr = mr->alias;
    }
    if (!mr->ram || addr >= mr->ram->size) {
        return NULL;
    }
    *block = mr->ram;
    *offset = addr;
    return mr->ram->host + addr;
}

static uint64_t window_read(void *opaque, hwaddr offset, unsigned size)
{
    PamArea *area = opaque;
    if (area->mode == 0) {
        return UINT64_MAX; /* a hole of PCI's */
    }
    return address_space_ld(area->pam->pci_as, area->start + offset, size, MEMTXATTRS_NONE);
}

static void window_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    PamArea *area = opaque;
    if (area->mode == 0) {
        return;
    }
    RamBlock *block;
    uint64_t at;
    uint8_t *host = ram_at(area->pam, area->start + offset, &block, &at);
    if (host && at + size <= block->size) {
        memcpy(host, &value, size); /* both sides are little-endian */
        ram_written(block, at, size);
    }
}

static const MemoryRegionOps window_ops = {
    .read = window_read,
    .write = window_write,
    .valid = { .min = 1, .max = 8, .unaligned = true },
    .impl = { .min = 1, .max = 8, .unaligned = true },
};

/* What answers where RAM is covered and PCI has nothing. */
static uint64_t nothing_read(void *opaque, hwaddr offset, unsigned size)
{
    return UINT64_MAX;
}

static void nothing_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
}

static const MemoryRegionOps nothing_ops = {
    .read = nothing_read,
    .write = nothing_write,
    .valid = { .min = 1, .max = 8, .unaligned = true },
    .impl = { .min = 1, .max = 8, .unaligned = true },
};

void pam_init(Pam *pam, void *owner, MemoryRegion *system, MemoryRegion *ram, MemoryRegion *pci,
              MemoryRegion *smram)
{
    *pam = (Pam){ .system = system, .ram = ram, .pci = pci, .smram = smram };
    pam->pci_as = address_space_new(pci, "pam-pci");
    memory_transaction_begin();
    for (int i = 0; i < PAM_AREAS; i++) {
        PamArea *area = &pam->areas[i];
        area->pam = pam;
        area->start = i == 0 ? 0xf0000 : 0xc0000 + (i - 1) * 0x4000;
        area->size = i == 0 ? 0x10000 : 0x4000;
        memory_region_init_alias(&area->to_pci, owner, "pam-pci", pci, area->start, area->size);
        memory_region_init_alias(&area->read_only, owner, "pam-rom", ram, area->start, area->size);
        memory_region_set_readonly(&area->read_only, true);
        memory_region_init_io(&area->window, owner, &window_ops, area, "pam-window", area->size, NULL);
        memory_region_set_enabled(&area->read_only, false);
        memory_region_add_overlap(system, area->start, &area->to_pci, 2);
        memory_region_add_overlap(system, area->start, &area->read_only, 1);
        memory_region_add_overlap(system, area->start, &area->window, 1);
    }
    memory_region_init_alias(&pam->vga_hole, owner, "smram-region", pci, SMRAM_START, SMRAM_LENGTH);
    memory_region_add_overlap(system, SMRAM_START, &pam->vga_hole, 2);
    memory_region_init_io(&pam->vga_nothing, owner, &nothing_ops, NULL, "vga-nothing", SMRAM_LENGTH, NULL);
    memory_region_add_overlap(system, SMRAM_START, &pam->vga_nothing, 1);
    if (smram) {
        memory_region_init_alias(&pam->smram_overlay, owner, "smram-low", ram, SMRAM_START, SMRAM_LENGTH);
        memory_region_set_enabled(&pam->smram_overlay, false);
        memory_region_add_overlap(smram, SMRAM_START, &pam->smram_overlay, 10);
    }
    memory_transaction_commit();
}

static void region_remove(MemoryRegion *container, MemoryRegion *mr)
{
    memory_region_del(container, mr);
    memory_region_destroy(mr);
}

void pam_destroy(Pam *pam)
{
    for (int i = 0; i < PAM_AREAS; i++) {
        region_remove(pam->system, &pam->areas[i].to_pci);
        region_remove(pam->system, &pam->areas[i].read_only);
        region_remove(pam->system, &pam->areas[i].window);
    }
    region_remove(pam->system, &pam->vga_hole);
    region_remove(pam->system, &pam->vga_nothing);
    if (pam->smram) {
        region_remove(pam->smram, &pam->smram_overlay);
    }
    address_space_free(pam->pci_as);
    *pam = (Pam){ 0 };
}
