/* An SMBus host controller with SPD EEPROMs. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/acpi/smbus.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(smbus_transfer, "address 0x%02x protocol %u command 0x%02x status 0x%02x");

enum { STATUS = 0, CONTROL = 2, COMMAND = 3, ADDRESS = 4, DATA0 = 5, DATA1 = 6, BLOCK = 7 };
enum { STATUS_INTR = 0x02, STATUS_DEV_ERR = 0x04, STATUS_FAILED = 0x10, STATUS_CLEARABLE = 0x1e };
enum { CONTROL_KILL = 0x02, CONTROL_START = 0x40, CONTROL_KEPT = 0x1f };
enum { QUICK, BYTE, BYTE_DATA, WORD_DATA, BLOCK_DATA = 5 };

#define MIB (1ull << 20)
#define GIB (1ull << 30)

/* One bank of chips, four banks within them, 64 bits wide. */
static void fill_spd(uint8_t *spd, uint64_t size)
{
    unsigned bits =
        (unsigned)__builtin_ctzll(size) - 5; /* without the chips' banks and the bytes of a word */
    unsigned rows = MIN(13u, bits - 8);
    unsigned density = (unsigned)__builtin_ctzll(size >= GIB ? size / GIB : size / (4 * MIB));
    const uint8_t head[] = { 128,
                             8,
                             4,
                             (uint8_t)rows,
                             (uint8_t)(bits - rows),
                             1,
                             64,
                             0,
                             1,
                             0x75,
                             0x54,
                             0,
                             0x82,
                             8,
                             0,
                             1,
                             0x8f,
                             4,
                             6,
                             1,
                             1,
                             0,
                             0x0e };

    memset(spd, 0, SMBUS_SPD_SIZE);
    memcpy(spd, head, sizeof(head));
    spd[27] = spd[28] = spd[29] = 20; /* ns: precharge, row to row, row to column */
    spd[30] = 45;                     /* ns a row is active */
    spd[31] = (uint8_t)(1u << density);
    spd[62] = 0x12; /* revision */
    for (unsigned i = 0; i < 63; i++) {
        spd[63] = (uint8_t)(spd[63] + spd[i]);
    }
}

void smbus_set_memory(SmbusHost *s, uint64_t size_bytes)
{
    s->modules = 0;
    while (s->modules < SMBUS_MODULES && size_bytes >= 4 * MIB) {
        uint64_t size = MIN(1ull << (63 - __builtin_clzll(size_bytes)), 4 * GIB);
        fill_spd(s->spd[s->modules++], size);
        size_bytes -= size;
    }
}

void smbus_reset(SmbusHost *s)
{
    s->status = s->control = s->command = s->address = s->block_at = 0;
    memset(s->data, 0, sizeof(s->data));
    memset(s->block, 0, sizeof(s->block));
    memset(s->pointer, 0, sizeof(s->pointer));
}

static uint8_t next_byte(SmbusHost *s, unsigned module)
{
    return s->spd[module][s->pointer[module]++];
}

/* False: nobody answers, or the transfer cannot be. */
static bool transfer(SmbusHost *s)
{
    unsigned module = (unsigned)(s->address >> 1) - SMBUS_SPD_ADDRESS, protocol = s->control >> 2 & 7;
    bool reads = s->address & 1;

    if (module >= s->modules) {
        return false;
    }
    if (protocol != QUICK && !(protocol == BYTE && reads)) {
        s->pointer[module] = s->command;
    }
    switch (protocol) {
    case QUICK:
        return true;
    case BYTE:
    case BYTE_DATA:
        s->data[0] = reads ? next_byte(s, module) : s->data[0];
        return true;
    case WORD_DATA:
        if (reads) {
            s->data[0] = next_byte(s, module);
            s->data[1] = next_byte(s, module);
        }
        return true;
    case BLOCK_DATA:
        s->block_at = 0;
        if (!reads) {
            return true;
        }
        s->data[0] = next_byte(s, module); /* the device's first byte says how many follow */
        if (s->data[0] < 1 || s->data[0] > sizeof(s->block)) {
            return false;
        }
        for (unsigned i = 0; i < s->data[0]; i++) {
            s->block[i] = next_byte(s, module);
        }
        return true;
    default:
        return false;
    }
}

static uint64_t smbus_read(void *opaque, hwaddr offset, unsigned size)
{
    SmbusHost *s = opaque;

    switch (offset) {
    case STATUS:
        return s->status;
    case CONTROL:
        s->block_at = 0; /* 7.3.3: reading it begins the block anew */
        return s->control;
    case COMMAND:
        return s->command;
    case ADDRESS:
        return s->address;
    case DATA0:
    case DATA1:
        return s->data[offset - DATA0];
    case BLOCK: {
        uint8_t value = s->block[s->block_at];
        s->block_at = (uint8_t)((s->block_at + 1) % sizeof(s->block));
        return value;
    }
    default:
        return 0;
    }
}

static void control_write(SmbusHost *s, uint8_t value)
{
    s->control = value & CONTROL_KEPT;
    if (value & CONTROL_KILL) {
        s->status |= STATUS_FAILED;
    } else if (value & CONTROL_START) {
        s->status |= transfer(s) ? STATUS_INTR : STATUS_DEV_ERR;
        TRACE(smbus_transfer, s->address >> 1, s->control >> 2 & 7, s->command, s->status);
    }
}

static void smbus_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    SmbusHost *s = opaque;

    switch (offset) {
    case STATUS:
        s->status &= (uint8_t) ~(value & STATUS_CLEARABLE);
        break;
    case CONTROL:
        control_write(s, (uint8_t)value);
        break;
    case COMMAND:
        s->command = (uint8_t)value;
        break;
    case ADDRESS:
        s->address = (uint8_t)value;
        break;
    case DATA0:
    case DATA1:
        s->data[offset - DATA0] = (uint8_t)value;
        break;
    case BLOCK:
        s->block[s->block_at] = (uint8_t)value;
        s->block_at = (uint8_t)((s->block_at + 1) % sizeof(s->block));
        break;
    }
}

const MemoryRegionOps smbus_ops = {
    .read = smbus_read,
    .write = smbus_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};

static bool smbus_post_load(void *opaque, int version, GError **error)
{
    SmbusHost *s = opaque;

    if (s->block_at >= sizeof(s->block)) {
        s->block_at = 0;
        return error_set(error, "SMBus: a block has at most %zu bytes", sizeof(s->block));
    }
    return true;
}

static const VmStateField smbus_fields[] = {
    VMS_UINT8(status, SmbusHost),   VMS_UINT8(control, SmbusHost),  VMS_UINT8(command, SmbusHost),
    VMS_UINT8(address, SmbusHost),  VMS_BUFFER(data, SmbusHost),    VMS_BUFFER(block, SmbusHost),
    VMS_UINT8(block_at, SmbusHost), VMS_BUFFER(pointer, SmbusHost), VMS_END,
};
const VmState smbus_vmstate = {
    .name = "smbus", .version = 1, .minimum_version = 1, .fields = smbus_fields, .post_load = smbus_post_load
};
