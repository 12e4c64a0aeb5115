/*
 * Types 0 (BIOS) is the firmware's own; here are 1 (system), 3 (chassis), 4 (processors), 16, 17 and 19
 * (memory), 32 (boot status) and 127 (end). Source: DMTF DSP0134 version 3.0, chapters 5.2.1 and 7.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/smbios.h"

#include "base/error.h"

#include <string.h>

#define MANUFACTURER "Rhea"
#define ANCHOR_SIZE  31
#define DIMM_MAX     (UINT64_C(16) << 30)

typedef struct Builder {
    GByteArray *tables;
    unsigned count, largest;
    guint start; /* of the structure that is being built */
    char *strings[8];
    unsigned string_count;
} Builder;

static void put(Builder *b, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = value >> (8 * i);
        g_byte_array_append(b->tables, &byte, 1);
    }
}

static void begin(Builder *b, uint8_t type, uint16_t handle)
{
    b->start = b->tables->len;
    put(b, type, 1);
    put(b, 0, 1); /* its length, when it is known */
    put(b, handle, 2);
}

/* A string's number in its structure; NULL: none. */
static void put_string(Builder *b, const char *text)
{
    if (!text || !*text) {
        put(b, 0, 1);
        return;
    }
    g_assert(b->string_count < G_N_ELEMENTS(b->strings));
    b->strings[b->string_count++] = g_strdup(text);
    put(b, b->string_count, 1);
}

static void end(Builder *b)
{
    b->tables->data[b->start + 1] = b->tables->len - b->start;
    for (unsigned i = 0; i < b->string_count; i++) {
        g_byte_array_append(b->tables, (const guint8 *)b->strings[i], strlen(b->strings[i]) + 1);
        g_free(b->strings[i]);
    }
    put(b, 0, b->string_count ? 1 : 2);
    b->string_count = 0;
    b->count++;
    b->largest = MAX(b->largest, b->tables->len - b->start);
}

static void put_uuid(Builder *b, const uint8_t uuid[16])
{
    /* The first three fields are little-endian (7.2.1). */
    static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
    for (int i = 0; i < 16; i++) {
        put(b, uuid[order[i]], 1);
    }
}

static void system_and_chassis(Builder *b, const Machine *machine)
{
    const MachineClass *mc = MACHINE_GET_CLASS(machine);
    begin(b, 1, 0x100);
    put_string(b, MANUFACTURER);
    put_string(b, mc->description);
    put_string(b, mc->name);
    put_string(b, NULL);
    put_uuid(b, machine->uuid);
    put(b, 6, 1); /* woken by the power switch */
    put_string(b, NULL);
    put_string(b, NULL);
    end(b);

    begin(b, 3, 0x300);
    put_string(b, MANUFACTURER);
    put(b, 1, 1); /* "other" */
    put_string(b, mc->name);
    put_string(b, NULL);
    put_string(b, NULL);
    put(b, 0x03030303, 4); /* boot-up, power and thermal state safe; security none */
    put(b, 0, 4);
    put(b, 0, 4); /* height, cords, contained elements */
    put_string(b, NULL);
    end(b);
}

static void processors(Builder *b, const Machine *machine)
{
    unsigned sockets = machine->smp.sockets ? machine->smp.sockets : 1;
    for (unsigned i = 0; i < sockets; i++) {
        g_autofree char *socket = g_strdup_printf("CPU %u", i);
        unsigned cores = MIN(machine->smp.cores * machine->smp.dies, 255u);
        unsigned threads = MIN(machine->smp.threads * cores, 255u);
        begin(b, 4, 0x400 + i);
        put_string(b, socket);
        put(b, 3, 1); /* central processor */
        put(b, 1, 1); /* family "other" */
        put_string(b, MANUFACTURER);
        put(b, 0, 8); /* id */
        put_string(b, MACHINE_GET_CLASS(machine)->name);
        put(b, 0, 1);    /* voltage */
        put(b, 0, 2);    /* external clock */
        put(b, 2000, 2); /* speeds in MHz */
        put(b, 2000, 2);
        put(b, 0x41, 1); /* populated, enabled */
        put(b, 1, 1);
        put(b, 0xffffffff, 4); /* no cache handles */
        put(b, 0xffff, 2);
        put_string(b, NULL);
        put_string(b, NULL);
        put_string(b, NULL);
        put(b, cores, 1);
        put(b, cores, 1);
        put(b, threads, 1);
        put(b, 2, 2); /* characteristics unknown */
        put(b, 1, 2);
        end(b);
    }
}

static void mapped_range(Builder *b, uint16_t handle, uint64_t start, uint64_t size)
{
    begin(b, 19, handle);
    uint64_t first_kib = start >> 10, last_kib = ((start + size) >> 10) - 1;
    bool extended = last_kib >= UINT32_MAX;
    put(b, extended ? UINT32_MAX : first_kib, 4);
    put(b, extended ? UINT32_MAX : last_kib, 4);
    put(b, 0x1000, 2);
    put(b, 1, 1);
    put(b, extended ? start : 0, 8);
    put(b, extended ? start + size - 1 : 0, 8);
    end(b);
}

static void memory(Builder *b, const Machine *machine)
{
    uint64_t size = machine->ram_size;
    unsigned dimms = (size + DIMM_MAX - 1) / DIMM_MAX;
    uint64_t kib = size >> 10;

    begin(b, 16, 0x1000);
    put(b, 1, 1); /* "other" place */
    put(b, 3, 1); /* system memory */
    put(b, 6, 1); /* multi-bit ECC */
    put(b, kib < 0x80000000u ? kib : 0x80000000u, 4);
    put(b, 0xfffe, 2);
    put(b, dimms, 2);
    put(b, kib < 0x80000000u ? 0 : size, 8);
    end(b);
    for (unsigned i = 0; i < dimms; i++) {
        g_autofree char *locator = g_strdup_printf("DIMM %u", i);
        uint64_t part = MIN(DIMM_MAX, size - i * DIMM_MAX) >> 20;
        begin(b, 17, 0x1100 + i);
        put(b, 0x1000, 2);
        put(b, 0xfffe, 2);
        put(b, 0xffff, 2); /* widths unknown */
        put(b, 0xffff, 2);
        put(b, part < 0x7fff ? part : 0x7fff, 2);
        put(b, 9, 1); /* DIMM */
        put(b, 0, 1);
        put_string(b, locator);
        put_string(b, NULL);
        put(b, 7, 1); /* RAM */
        put(b, 2, 2);
        put(b, 0, 2);
        put_string(b, MANUFACTURER);
        put_string(b, NULL);
        put_string(b, NULL);
        put_string(b, NULL);
        put(b, 0, 1);
        put(b, part < 0x7fff ? 0 : part, 4);
        put(b, 0, 2);
        put(b, 0, 6); /* voltages */
        end(b);
    }
    mapped_range(b, 0x1300, 0, machine->below_4g);
    if (machine->above_4g) {
        mapped_range(b, 0x1301, UINT64_C(1) << 32, machine->above_4g);
    }
}

GByteArray *smbios_build(const Machine *machine, unsigned *count, unsigned *largest)
{
    Builder b = { .tables = g_byte_array_new() };

    system_and_chassis(&b, machine);
    processors(&b, machine);
    memory(&b, machine);
    begin(&b, 32, 0x2000);
    put(&b, 0, 6);
    put(&b, 0, 1); /* no errors detected */
    end(&b);
    begin(&b, 127, 0x7f00);
    end(&b);
    *count = b.count;
    *largest = b.largest;
    return b.tables;
}

bool smbios_publish(Machine *machine, GError **error)
{
    unsigned count, largest;
    g_autoptr(GByteArray) tables = smbios_build(machine, &count, &largest);

    if (tables->len > UINT16_MAX) {
        return error_set(error, "this machine's SMBIOS tables are too large (%u bytes)", tables->len);
    }
    /* The entry point of 5.2.1; firmware fills in address and checksums. */
    uint8_t anchor[ANCHOR_SIZE] = "_SM_";
    anchor[5] = sizeof(anchor);
    anchor[6] = 2; /* version 2.8 */
    anchor[7] = 8;
    anchor[8] = largest;
    anchor[9] = largest >> 8;
    memcpy(anchor + 16, "_DMI_", 5);
    anchor[22] = tables->len;
    anchor[23] = tables->len >> 8;
    anchor[28] = count;
    anchor[29] = count >> 8;
    anchor[30] = 0x28;
    return fw_cfg_add_file(machine->fw_cfg, "etc/smbios/smbios-tables", tables->data, tables->len, error) &&
           fw_cfg_add_file(machine->fw_cfg, "etc/smbios/smbios-anchor", anchor, sizeof(anchor), error);
}
