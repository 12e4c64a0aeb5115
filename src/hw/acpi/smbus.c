/* An SMBus host controller with SPD EEPROMs. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/acpi/smbus.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(smbus_transfer, "address 0x%02x protocol %u command 0x%02x status 0x%02x");

enum { STATUS = 0, CONTROL = 2, COMMAND = 3, ADDRESS = 4, DATA0 = 5, DATA1 = 6, BLOCK = 7, AUX_CONTROL = 13 };
enum { STATUS_INTR = 0x02, STATUS_DEV_ERR = 0x04, STATUS_FAILED = 0x10, STATUS_CLEARABLE = 0x1e };
enum { STATUS_IN_USE = 0x40, STATUS_BYTE_DONE = 0x80, STATUS_ICH9_CLEARABLE = 0xfe, STATUS_ERRORS = 0x1c };
enum { CONTROL_INTERRUPT = 0x01, CONTROL_KILL = 0x02, CONTROL_LAST_BYTE = 0x20, CONTROL_START = 0x40 };
enum { CONTROL_KEPT = 0x1f, CONTROL_ICH9_KEPT = 0xbf };
enum { AUX_KEPT = 0x03, AUX_BLOCK_BUFFER = 0x02 };
enum { QUICK, BYTE, BYTE_DATA, WORD_DATA, BLOCK_DATA = 5, I2C_READ };
enum { STREAM_NONE, STREAM_COUNTED, STREAM_OPEN };

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
    s->auxiliary = s->streaming = 0;
}

bool smbus_interrupt(const SmbusHost *s)
{
    return (s->control & CONTROL_INTERRUPT) && (s->status & (STATUS_BYTE_DONE | STATUS_ERRORS | STATUS_INTR));
}

static uint8_t next_byte(SmbusHost *s, unsigned module)
{
    return s->spd[module][s->pointer[module]++];
}

static unsigned module_of(const SmbusHost *s)
{
    return (unsigned)(s->address >> 1) - SMBUS_SPD_ADDRESS;
}

/* The next byte of a block without its buffer lies where the buffer is read, and is told of. */
static void stream_byte(SmbusHost *s)
{
    if (s->streaming == STREAM_OPEN) {
        s->block[0] = next_byte(s, module_of(s));
    }
    s->status |= STATUS_BYTE_DONE;
}

/* The guest has cleared BYTE_DONE: it has taken (or given) the byte. */
static void stream_go_on(SmbusHost *s)
{
    bool counted = s->streaming == STREAM_COUNTED, last = s->control & CONTROL_LAST_BYTE;
    if (counted) {
        s->block_at++;
        last = s->block_at >= MIN(s->data[0], sizeof(s->block));
    }
    if (last) {
        s->streaming = STREAM_NONE;
        s->block_at = 0;
        s->status |= STATUS_INTR;
    } else {
        stream_byte(s);
    }
}

static bool byte_by_byte(const SmbusHost *s)
{
    return s->ich9 && !(s->auxiliary & AUX_BLOCK_BUFFER);
}

/* 19.2.1: from the offset in DATA1 on, as long as the guest wants. */
static bool i2c_read(SmbusHost *s, unsigned module)
{
    if (!s->ich9) {
        return false;
    }
    s->pointer[module] = s->data[1];
    s->block_at = 0;
    s->streaming = STREAM_OPEN;
    return true;
}

/* False: nobody answers, or the transfer cannot be. */
static bool transfer(SmbusHost *s)
{
    unsigned module = module_of(s), protocol = s->control >> 2 & 7;
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
        s->streaming = byte_by_byte(s) ? STREAM_COUNTED : STREAM_NONE;
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
    case I2C_READ:
        return i2c_read(s, module);
    default:
        return false;
    }
}

static uint64_t smbus_read(void *opaque, hwaddr offset, unsigned size)
{
    SmbusHost *s = opaque;

    switch (offset) {
    case STATUS: {
        uint8_t status = s->status;
        s->status |= s->ich9 ? STATUS_IN_USE : 0; /* 19.2.1: a semaphore; whoever reads 0 has it */
        return status;
    }
    case CONTROL:
        if (!s->streaming) {
            s->block_at = 0; /* 7.3.3: reading it begins the block anew */
        }
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
        if (!s->streaming) {
            s->block_at = (uint8_t)((s->block_at + 1) % sizeof(s->block));
        }
        return value;
    }
    case AUX_CONTROL:
        return s->auxiliary;
    default:
        return 0;
    }
}

static void control_write(SmbusHost *s, uint8_t value)
{
    s->control = value & (s->ich9 ? CONTROL_ICH9_KEPT : CONTROL_KEPT);
    if (value & CONTROL_KILL) {
        s->streaming = STREAM_NONE;
        s->block_at = 0;
        s->status |= STATUS_FAILED;
    } else if (value & CONTROL_START) {
        s->streaming = STREAM_NONE;
        if (!transfer(s)) {
            s->streaming = STREAM_NONE;
            s->status |= STATUS_DEV_ERR;
        } else if (s->streaming) {
            stream_byte(s);
        } else {
            s->status |= STATUS_INTR;
        }
        TRACE(smbus_transfer, s->address >> 1, s->control >> 2 & 7, s->command, s->status);
    }
}

static void smbus_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    SmbusHost *s = opaque;

    switch (offset) {
    case STATUS: {
        bool taken = value & s->status & STATUS_BYTE_DONE;
        s->status &= (uint8_t) ~(value & (s->ich9 ? STATUS_ICH9_CLEARABLE : STATUS_CLEARABLE));
        if (taken && s->streaming) {
            stream_go_on(s);
        }
        break;
    }
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
        if (!byte_by_byte(s)) {
            s->block_at = (uint8_t)((s->block_at + 1) % sizeof(s->block));
        }
        break;
    case AUX_CONTROL:
        s->auxiliary = s->ich9 ? value & AUX_KEPT : 0;
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
        s->block_at = s->streaming = 0;
        return error_set(error, "SMBus: a block has at most %zu bytes", sizeof(s->block));
    }
    if (s->streaming > STREAM_OPEN || (s->streaming && (!s->ich9 || module_of(s) >= s->modules))) {
        s->streaming = STREAM_NONE;
        return error_set(error, "SMBus: no such transfer can be under way");
    }
    return true;
}

static const VmStateField smbus_fields[] = {
    VMS_UINT8(status, SmbusHost),
    VMS_UINT8(control, SmbusHost),
    VMS_UINT8(command, SmbusHost),
    VMS_UINT8(address, SmbusHost),
    VMS_BUFFER(data, SmbusHost),
    VMS_BUFFER(block, SmbusHost),
    VMS_UINT8(block_at, SmbusHost),
    VMS_BUFFER(pointer, SmbusHost),
    VMS_UINT8(auxiliary, SmbusHost),
    VMS_UINT8(streaming, SmbusHost),
    VMS_END,
};
const VmState smbus_vmstate = {
    .name = "smbus", .version = 2, .minimum_version = 2, .fields = smbus_fields, .post_load = smbus_post_load
};
