/*
 * "ide-hd": an ATA disk. Source: ATA/ATAPI-7 (T13 1532D) volume 1, chapter 6: commands; ACS-2 for DATA SET
 * MANAGEMENT.
 *
 * Reads and writes go through the buffer in pieces of at most 128 KiB; what the guest writes there is
 * acknowledged block by block and reaches the back end when a piece is complete. Left out: SMART, security,
 * the host protected area, streaming and queued commands. Threads: see ide_bus.c. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/storage/ide.h"

#include <errno.h>
#include <string.h>

#define TYPE_IDE_HD "ide-hd"

enum {
    CMD_NOP = 0x00,
    CMD_DATA_SET_MANAGEMENT = 0x06,
    CMD_RECALIBRATE = 0x10, /* to 0x1f */
    CMD_READ = 0x20,
    CMD_READ_ONCE = 0x21,
    CMD_READ_EXT = 0x24,
    CMD_READ_DMA_EXT = 0x25,
    CMD_READ_NATIVE_MAX_EXT = 0x27,
    CMD_READ_MULTIPLE_EXT = 0x29,
    CMD_READ_LOG_EXT = 0x2f,
    CMD_WRITE = 0x30,
    CMD_WRITE_ONCE = 0x31,
    CMD_WRITE_EXT = 0x34,
    CMD_WRITE_DMA_EXT = 0x35,
    CMD_WRITE_MULTIPLE_EXT = 0x39,
    CMD_WRITE_VERIFY = 0x3c,
    CMD_WRITE_DMA_FUA_EXT = 0x3d,
    CMD_VERIFY = 0x40,
    CMD_VERIFY_ONCE = 0x41,
    CMD_VERIFY_EXT = 0x42,
    CMD_SEEK = 0x70,
    CMD_SET_GEOMETRY = 0x91, /* initialize device parameters */
    CMD_STANDBY_NOW_OLD = 0x94,
    CMD_CHECK_POWER_OLD = 0x98,
    CMD_SLEEP_OLD = 0x99,
    CMD_READ_MULTIPLE = 0xc4,
    CMD_WRITE_MULTIPLE = 0xc5,
    CMD_SET_MULTIPLE = 0xc6,
    CMD_READ_DMA = 0xc8,
    CMD_READ_DMA_ONCE = 0xc9,
    CMD_WRITE_DMA = 0xca,
    CMD_WRITE_DMA_ONCE = 0xcb,
    CMD_WRITE_MULTIPLE_FUA_EXT = 0xce,
    CMD_STANDBY_NOW = 0xe0,
    CMD_IDLE_NOW = 0xe1,
    CMD_STANDBY = 0xe2,
    CMD_IDLE = 0xe3,
    CMD_CHECK_POWER = 0xe5,
    CMD_SLEEP = 0xe6,
    CMD_FLUSH = 0xe7,
    CMD_FLUSH_EXT = 0xea,
    CMD_IDENTIFY = 0xec,
    CMD_SET_FEATURES = 0xef,
    CMD_READ_NATIVE_MAX = 0xf8,
};
enum { FEATURE_WRITE_CACHE = 0x02, FEATURE_TRANSFER_MODE = 0x03, FEATURE_NO_WRITE_CACHE = 0x82 };
enum { DSM_TRIM = 0x01, POWER_ACTIVE = 0xff };

/* What a request is for. */
enum { OP_NONE, OP_READ, OP_READ_DMA, OP_WRITE, OP_WRITE_DMA, OP_FLUSH, OP_TRIM, OP_COUNT };

#define MAX_CHUNK     (IDE_BUFFER_SIZE / IDE_SECTOR)
#define MAX_MULTIPLE  16
#define LBA28_LIMIT   (1u << 28)
#define LBA48_LIMIT   (UINT64_C(1) << 48)
#define SIGNATURE_MID 0x00

typedef struct IdeHd {
    IdeDrive parent_obj;
    /* saved */
    uint8_t heads, sectors; /* as the guest set them */
    uint8_t transfer_mode;
    bool ext; /* the command has 48-bit registers */
    bool fua;
    /* from properties */
    uint32_t cylinders_property, heads_property, sectors_property;
    uint16_t rotation_rate;
} IdeHd;
#define IDE_HD(obj) OBJECT_CHECK(IdeHd, obj, TYPE_IDE_HD)

/* ---- where on the disk ---- */

static uint64_t disk_sectors(const IdeHd *s)
{
    return MIN(bb_size(s->parent_obj.bb) / IDE_SECTOR, LBA48_LIMIT - 1);
}

static unsigned default_heads(const IdeHd *s)
{
    return s->heads_property ? s->heads_property : 16;
}

static unsigned default_sectors(const IdeHd *s)
{
    return s->sectors_property ? s->sectors_property : 63;
}

static unsigned default_cylinders(const IdeHd *s)
{
    if (s->cylinders_property) {
        return s->cylinders_property;
    }
    uint64_t cylinders = disk_sectors(s) / (default_heads(s) * default_sectors(s));
    return (unsigned)CLAMP(cylinders, 2, 16383);
}

/* Reads first block and count from the registers; false where they are not on the disk. */
static bool get_range(IdeHd *s)
{
    IdeDrive *d = &s->parent_obj;

    if (s->ext) {
        d->lba = (uint64_t)d->old_high << 40 | (uint64_t)d->old_mid << 32 | (uint64_t)d->old_low << 24 |
                 (uint32_t)d->lba_high << 16 | (uint32_t)d->lba_mid << 8 | d->lba_low;
        d->left = (uint32_t)d->old_count << 8 | d->count;
        d->left = d->left ? d->left : 65536;
    } else {
        d->left = d->count ? d->count : 256;
        if (d->device & IDE_DEVICE_LBA) {
            d->lba = (uint32_t)(d->device & 15) << 24 | (uint32_t)d->lba_high << 16 |
                     (uint32_t)d->lba_mid << 8 | d->lba_low;
        } else {
            uint32_t cylinder = (uint32_t)d->lba_high << 8 | d->lba_mid;
            if (d->lba_low == 0 || d->lba_low > s->sectors || (d->device & 15) >= s->heads) {
                return false;
            }
            d->lba = ((uint64_t)cylinder * s->heads + (d->device & 15)) * s->sectors + d->lba_low - 1;
        }
    }
    uint64_t total = disk_sectors(s);
    return d->lba < total && d->left <= total - d->lba;
}

/* Tells in the registers which sector was last, or failed. */
static void put_lba(IdeHd *s, uint64_t lba)
{
    IdeDrive *d = &s->parent_obj;

    if (s->ext) {
        d->old_high = lba >> 40;
        d->old_mid = lba >> 32;
        d->old_low = lba >> 24;
    } else if (d->device & IDE_DEVICE_LBA) {
        d->device = (d->device & 0xf0) | ((lba >> 24) & 15);
    } else {
        uint64_t track = lba / s->sectors, cylinder = track / s->heads;
        d->device = (d->device & 0xf0) | (uint8_t)(track % s->heads);
        d->lba_high = cylinder >> 8;
        d->lba_mid = cylinder;
        d->lba_low = lba % s->sectors + 1;
        return;
    }
    d->lba_high = lba >> 16;
    d->lba_mid = lba >> 8;
    d->lba_low = lba;
}

/* ---- transfers ---- */

static void start_transfer(IdeHd *s, uint8_t op, uint32_t block)
{
    IdeDrive *d = &s->parent_obj;

    d->op = op;
    if (!get_range(s)) {
        ide_abort(d, IDE_ERROR_ID | IDE_ERROR_ABORT);
        return;
    }
    if ((op == OP_WRITE || op == OP_WRITE_DMA) && bb_read_only(d->bb)) {
        ide_abort(d, IDE_ERROR_ABORT);
        return;
    }
    d->chunk = MIN(d->left, MAX_CHUNK);
    d->block = block * IDE_SECTOR;
    switch (op) {
    case OP_READ:
        ide_start_submit(d);
        break;
    case OP_WRITE:
        ide_start_out(d, d->chunk * IDE_SECTOR, d->block, false);
        break;
    default:
        ide_start_dma(d);
    }
}

static void start_flush(IdeHd *s)
{
    s->parent_obj.op = OP_FLUSH;
    s->parent_obj.chunk = 0;
    ide_start_submit(&s->parent_obj);
}

/* A piece has been moved: the next one, or the end. */
static void next_chunk(IdeHd *s)
{
    IdeDrive *d = &s->parent_obj;

    d->end = d->block_end = d->position = 0;
    d->lba += d->chunk;
    d->left -= MIN(d->chunk, d->left);
    if (!d->left) {
        put_lba(s, d->lba - 1);
        if (d->op == OP_READ_DMA || d->op == OP_WRITE_DMA) {
            IdeBus *bus = ide_bus_of(d);
            bus->ops->dma_end(bus->opaque, bus->channel, true);
        }
        if (d->op == OP_READ) {
            d->status = IDE_DRDY | IDE_DSC; /* the last block had its interrupt before it was read */
        } else {
            ide_done(d);
        }
        return;
    }
    d->chunk = MIN(d->left, MAX_CHUNK);
    if (d->op == OP_WRITE) {
        ide_start_out(d, d->chunk * IDE_SECTOR, d->block, true);
    } else {
        ide_start_submit(d);
    }
}

static void hd_data_done(IdeDrive *d)
{
    IdeHd *s = IDE_HD(d);

    switch (d->op) {
    case OP_READ:
        next_chunk(s);
        break;
    case OP_WRITE:
        ide_start_submit(d);
        break;
    default:
        d->status = IDE_DRDY | IDE_DSC; /* IDENTIFY */
    }
}

static void fail_dma(IdeDrive *d, uint8_t error)
{
    IdeBus *bus = ide_bus_of(d);

    bus->ops->dma_end(bus->opaque, bus->channel, false);
    ide_abort(d, error);
}

static void submit_trim(IdeDrive *d)
{
    IdeBus *bus = ide_bus_of(d);
    uint64_t entry = 0, total = disk_sectors(IDE_HD(d));
    Loop *loop = DEVICE(d)->env->loop;

    /* Ranges of 8 bytes: 48 bits of LBA, 16 of length. A request each; those of length 0 are skipped. */
    while (d->position + 8 <= d->end) {
        memcpy(&entry, d->buffer + d->position, 8);
        d->position += 8;
        uint64_t lba = entry & (LBA48_LIMIT - 1), count = entry >> 48;
        if (!count) {
            continue;
        }
        if (lba >= total || count > total - lba) {
            fail_dma(d, IDE_ERROR_ABORT);
            return;
        }
        d->block_end = d->end;
        bb_discard(d->bb, loop, lba * IDE_SECTOR, count * IDE_SECTOR, ide_request_done,
                   ide_request_new(d, 0));
        return;
    }
    bus->ops->dma_end(bus->opaque, bus->channel, true);
    ide_done(d);
}

static void hd_submit(IdeDrive *d)
{
    IdeHd *s = IDE_HD(d);
    IdeBus *bus = ide_bus_of(d);
    Loop *loop = DEVICE(d)->env->loop;
    uint32_t size = d->chunk * IDE_SECTOR;
    IdeRequest *req;

    if (d->chunk > MAX_CHUNK) {
        ide_abort(d, IDE_ERROR_ABORT);
        return;
    }
    switch (d->op) {
    case OP_READ:
    case OP_READ_DMA:
        req = ide_request_new(d, size);
        bb_readv(d->bb, loop, d->lba * IDE_SECTOR, &req->iov, 1, ide_request_done, req);
        break;
    case OP_WRITE:
        req = ide_request_new(d, size);
        memcpy(req->data, d->buffer, size);
        bb_writev(d->bb, loop, d->lba * IDE_SECTOR, &req->iov, 1, s->fua ? BLOCK_REQ_FUA : 0,
                  ide_request_done, req);
        break;
    case OP_WRITE_DMA:
        /* Fetched once, however often the request is made: it may be put off, or made again after a load. */
        if (!d->end &&
            bus->ops->dma_move(bus->opaque, bus->channel, d->buffer, size, false) != (int64_t)size) {
            fail_dma(d, IDE_ERROR_ABORT);
            return;
        }
        d->end = size;
        req = ide_request_new(d, size);
        memcpy(req->data, d->buffer, size);
        bb_writev(d->bb, loop, d->lba * IDE_SECTOR, &req->iov, 1, s->fua ? BLOCK_REQ_FUA : 0,
                  ide_request_done, req);
        break;
    case OP_FLUSH:
        bb_flush(d->bb, loop, ide_request_done, ide_request_new(d, 0));
        break;
    case OP_TRIM:
        if (!d->end) { /* the list has still to come from the guest's memory */
            d->end = d->left * IDE_SECTOR;
            if (d->end > IDE_BUFFER_SIZE ||
                bus->ops->dma_move(bus->opaque, bus->channel, d->buffer, d->end, false) != (int64_t)d->end) {
                fail_dma(d, IDE_ERROR_ABORT);
                return;
            }
        }
        submit_trim(d);
        break;
    default:
        ide_abort(d, IDE_ERROR_ABORT);
    }
}

static void hd_complete(IdeDrive *d, IdeRequest *req, int result)
{
    IdeHd *s = IDE_HD(d);
    IdeBus *bus = ide_bus_of(d);
    bool is_read = d->op == OP_READ || d->op == OP_READ_DMA,
         dma = d->op == OP_READ_DMA || d->op == OP_WRITE_DMA;

    if (d->op == OP_TRIM && result == -ENOTSUP) {
        result = 0; /* a hint that nobody needs */
    }
    if (ide_request_failed(d, is_read, &result)) {
        return;
    }
    if (result < 0) {
        put_lba(s, d->lba);
        uint8_t error = is_read ? IDE_ERROR_UNCORRECTABLE : IDE_ERROR_ABORT;
        if (dma || d->op == OP_TRIM) {
            fail_dma(d, error);
        } else {
            ide_abort(d, error);
        }
        return;
    }
    switch (d->op) {
    case OP_READ:
        memcpy(d->buffer, req->data, req->size);
        ide_start_in(d, req->size, d->block);
        break;
    case OP_READ_DMA:
        if (bus->ops->dma_move(bus->opaque, bus->channel, req->data, req->size, true) != (int64_t)req->size) {
            fail_dma(d, IDE_ERROR_ABORT);
        } else {
            next_chunk(s);
        }
        break;
    case OP_WRITE:
    case OP_WRITE_DMA:
        next_chunk(s);
        break;
    case OP_TRIM:
        bh_schedule(d->bh); /* the next range */
        break;
    default:
        ide_done(d);
    }
}

/* ---- what the disk tells of itself ---- */

static void identify(IdeHd *s)
{
    IdeDrive *d = &s->parent_obj;
    uint16_t w[256] = { 0 };
    uint64_t total = disk_sectors(s), total28 = MIN(total, LBA28_LIMIT - 1);
    unsigned cylinders = default_cylinders(s), heads = default_heads(s), sectors = default_sectors(s);
    uint32_t old_capacity = MIN((uint64_t)cylinders * heads * sectors, UINT32_MAX);
    BlockLimits limits;

    bb_limits(d->bb, &limits);
    w[0] = 0x0040; /* fixed */
    w[1] = cylinders;
    w[3] = heads;
    w[6] = sectors;
    ide_put_text(w + 10, 10, d->serial);
    ide_put_text(w + 23, 4, d->version);
    ide_put_text(w + 27, 20, d->model);
    w[47] = 0x8000 | MAX_MULTIPLE;
    w[48] = 1;      /* 32-bit data */
    w[49] = 0x0f00; /* standby timers, IORDY, LBA, DMA */
    w[50] = 0x4000;
    w[51] = w[52] = 0x0200;
    w[53] = 7; /* words 54 to 58, 64 to 70 and 88 are valid */
    w[54] = cylinders;
    w[55] = s->heads;
    w[56] = s->sectors;
    w[57] = old_capacity;
    w[58] = old_capacity >> 16;
    w[59] = d->multiple ? 0x100 | d->multiple : 0;
    w[60] = total28;
    w[61] = total28 >> 16;
    w[63] = 7;
    w[64] = 3; /* PIO 3 and 4 */
    w[65] = w[66] = w[67] = w[68] = 120;
    if (limits.can_discard) {
        w[69] = 1u << 14; /* trimmed blocks read as before or as zeros, but always the same */
        w[105] = 1;
        w[169] = 1;
    }
    w[80] = 0xf0; /* ATA-4 to ATA-7 */
    w[81] = 0x16;
    w[82] = 1u << 14 | 1u << 5;                        /* NOP, write cache */
    w[83] = 1u << 14 | 1u << 13 | 1u << 12 | 1u << 10; /* FLUSH EXT, FLUSH, 48 bits */
    w[84] = 1u << 14 | 1u << 6;                        /* FUA commands */
    w[85] = 1u << 14 | (bb_write_cache(d->bb) ? 1u << 5 : 0);
    w[86] = 1u << 13 | 1u << 12 | 1u << 10;
    w[87] = 1u << 14 | 1u << 6;
    w[88] = 0x3f;
    if ((s->transfer_mode & 0xf8) == 0x40) { /* ultra DMA */
        w[88] |= 1u << (8 + (s->transfer_mode & 7));
    } else if ((s->transfer_mode & 0xf8) == 0x20) {
        w[63] |= 1u << (8 + (s->transfer_mode & 7));
    }
    w[93] = d->unit == 0 ? 0x6001 | 1u << 3 : 0x6001 | 1u << 11; /* 80 wires */
    for (int i = 0; i < 4; i++) {
        w[100 + i] = total >> (16 * i);
    }
    if (limits.physical_block_size > IDE_SECTOR) {
        w[106] = 0x6000 | (uint16_t)(__builtin_ctz(limits.physical_block_size / IDE_SECTOR) & 15);
    }
    w[217] = s->rotation_rate;
    if (ide_bus_of(d)->sata) {
        w[75] = 31;             /* 32 queued commands */
        w[76] = 1u << 8 | 0x06; /* native queuing; 1.5 and 3 Gb/s */
        w[80] = 0x1f0;          /* to ATA8-ACS */
        w[84] |= 1u << 5;       /* general purpose logs */
        w[87] |= 1u << 5;
        w[93] = 0; /* there is no cable to look at */
        w[222] = 0x1010;
    }
    for (int i = 0; i < 256; i++) {
        d->buffer[2 * i] = w[i];
        d->buffer[2 * i + 1] = w[i] >> 8;
    }
}

/* ---- commands ---- */

static void set_features(IdeHd *s)
{
    IdeDrive *d = &s->parent_obj;

    switch (d->feature) {
    case FEATURE_WRITE_CACHE:
        bb_set_write_cache(d->bb, true);
        ide_done(d);
        break;
    case FEATURE_NO_WRITE_CACHE:
        bb_set_write_cache(d->bb, false);
        start_flush(s);
        break;
    case FEATURE_TRANSFER_MODE: {
        uint8_t kind = d->count >> 3, mode = d->count & 7;
        bool known = kind == 0 || (kind == 1 && mode <= 4) || (kind == 2 && mode <= 2) ||
                     (kind == 4 && mode <= 2) || (kind == 8 && mode <= 5);
        if (known) {
            s->transfer_mode = d->count;
            ide_done(d);
        } else {
            ide_abort(d, IDE_ERROR_ABORT);
        }
        break;
    }
    case 0x05: /* advanced power management, and what else has nothing to switch here */
    case 0x42:
    case 0x55:
    case 0x66:
    case 0x69:
    case 0x67:
    case 0x96:
    case 0x9a:
    case 0xaa:
    case 0xcc:
    case 0xc2:
    case 0x85:
        ide_done(d);
        break;
    default:
        ide_abort(d, IDE_ERROR_ABORT);
    }
}

static void verify(IdeHd *s)
{
    IdeDrive *d = &s->parent_obj;

    if (!get_range(s)) {
        ide_abort(d, IDE_ERROR_ID | IDE_ERROR_ABORT);
        return;
    }
    put_lba(s, d->lba + d->left - 1);
    ide_done(d);
}

static void trim(IdeHd *s)
{
    IdeDrive *d = &s->parent_obj;
    BlockLimits limits;

    bb_limits(d->bb, &limits);
    d->left = d->count ? d->count : 256;
    if (d->feature != DSM_TRIM || !limits.can_discard || bb_read_only(d->bb) ||
        d->left * IDE_SECTOR > IDE_BUFFER_SIZE) {
        ide_abort(d, IDE_ERROR_ABORT);
        return;
    }
    d->op = OP_TRIM;
    d->end = d->position = 0;
    d->chunk = 0;
    ide_start_dma(d);
}

static void read_native_max(IdeHd *s)
{
    uint64_t last = disk_sectors(s) - 1;

    put_lba(s, s->ext ? last : MIN(last, LBA28_LIMIT - 1));
    ide_done(&s->parent_obj);
}

/* The logs of a disk that takes queued commands: the directory, and which of them failed. */
static void read_log(IdeDrive *d)
{
    enum { LOG_DIRECTORY = 0x00, LOG_QUEUED_ERROR = 0x10, NOT_QUEUED = 0x80 };
    uint32_t page = (uint32_t)d->old_mid << 8 | d->lba_mid, count = (uint32_t)d->old_count << 8 | d->count;
    uint8_t *r = d->buffer, sum = 0;
    IdeQueuedError *e = &d->queued_error;

    if (!ide_bus_of(d)->sata || page != 0 || count != 1 ||
        (d->lba_low != LOG_DIRECTORY && d->lba_low != LOG_QUEUED_ERROR)) {
        ide_abort(d, IDE_ERROR_ABORT);
        return;
    }
    memset(r, 0, IDE_SECTOR);
    if (d->lba_low == LOG_DIRECTORY) {
        r[0] = 1; /* version */
        r[2 * LOG_QUEUED_ERROR] = 1;
    } else {
        r[0] = e->valid ? e->tag : NOT_QUEUED;
        r[2] = e->status;
        r[3] = e->error;
        for (int i = 0; i < 3; i++) {
            r[4 + i] = e->lba >> (8 * i);
            r[8 + i] = e->lba >> (8 * (i + 3));
        }
        r[7] = IDE_DEVICE_LBA;
        r[12] = e->count;
        r[13] = e->count >> 8;
        for (unsigned i = 0; i < IDE_SECTOR - 1; i++) {
            sum += r[i];
        }
        r[IDE_SECTOR - 1] = -sum;
        *e = (IdeQueuedError){ 0 };
    }
    ide_start_in(d, IDE_SECTOR, IDE_SECTOR);
}

static void set_multiple(IdeDrive *d)
{
    if (d->count > MAX_MULTIPLE || (d->count & (d->count - 1))) {
        ide_abort(d, IDE_ERROR_ABORT);
    } else {
        d->multiple = d->count;
        ide_done(d);
    }
}

static void multiple_transfer(IdeHd *s, uint8_t op)
{
    if (!s->parent_obj.multiple) {
        ide_abort(&s->parent_obj, IDE_ERROR_ABORT);
    } else {
        start_transfer(s, op, s->parent_obj.multiple);
    }
}

static bool is_extended(uint8_t command)
{
    static const uint8_t commands[] = {
        CMD_READ_EXT,   CMD_READ_DMA_EXT,          CMD_READ_NATIVE_MAX_EXT, CMD_READ_MULTIPLE_EXT,
        CMD_WRITE_EXT,  CMD_WRITE_DMA_EXT,         CMD_WRITE_MULTIPLE_EXT,  CMD_WRITE_DMA_FUA_EXT,
        CMD_VERIFY_EXT, CMD_WRITE_MULTIPLE_FUA_EXT
    };
    return memchr(commands, command, sizeof(commands)) != NULL;
}

static void hd_command(IdeDrive *d, uint8_t command)
{
    IdeHd *s = IDE_HD(d);

    d->op = OP_NONE;
    s->ext = is_extended(command);
    s->fua = command == CMD_WRITE_DMA_FUA_EXT || command == CMD_WRITE_MULTIPLE_FUA_EXT;
    switch (command) {
    case CMD_READ:
    case CMD_READ_ONCE:
    case CMD_READ_EXT:
        start_transfer(s, OP_READ, 1);
        break;
    case CMD_READ_MULTIPLE:
    case CMD_READ_MULTIPLE_EXT:
        multiple_transfer(s, OP_READ);
        break;
    case CMD_WRITE:
    case CMD_WRITE_ONCE:
    case CMD_WRITE_EXT:
    case CMD_WRITE_VERIFY:
        start_transfer(s, OP_WRITE, 1);
        break;
    case CMD_WRITE_MULTIPLE:
    case CMD_WRITE_MULTIPLE_EXT:
    case CMD_WRITE_MULTIPLE_FUA_EXT:
        multiple_transfer(s, OP_WRITE);
        break;
    case CMD_READ_DMA:
    case CMD_READ_DMA_ONCE:
    case CMD_READ_DMA_EXT:
        start_transfer(s, OP_READ_DMA, 1);
        break;
    case CMD_WRITE_DMA:
    case CMD_WRITE_DMA_ONCE:
    case CMD_WRITE_DMA_EXT:
    case CMD_WRITE_DMA_FUA_EXT:
        start_transfer(s, OP_WRITE_DMA, 1);
        break;
    case CMD_VERIFY:
    case CMD_VERIFY_ONCE:
    case CMD_VERIFY_EXT:
        verify(s);
        break;
    case CMD_DATA_SET_MANAGEMENT:
        trim(s);
        break;
    case CMD_IDENTIFY:
        identify(s);
        ide_start_in(d, IDE_SECTOR, IDE_SECTOR);
        break;
    case CMD_FLUSH:
    case CMD_FLUSH_EXT:
        start_flush(s);
        break;
    case CMD_READ_LOG_EXT:
        read_log(d);
        break;
    case CMD_SET_MULTIPLE:
        set_multiple(d);
        break;
    case CMD_SET_FEATURES:
        set_features(s);
        break;
    case CMD_SET_GEOMETRY:
        if (!d->count) {
            ide_abort(d, IDE_ERROR_ABORT);
            break;
        }
        s->heads = (d->device & 15) + 1;
        s->sectors = d->count;
        ide_done(d);
        break;
    case CMD_READ_NATIVE_MAX:
    case CMD_READ_NATIVE_MAX_EXT:
        read_native_max(s);
        break;
    case CMD_CHECK_POWER:
    case CMD_CHECK_POWER_OLD:
        d->count = POWER_ACTIVE;
        ide_done(d);
        break;
    case CMD_SEEK:
    case CMD_STANDBY_NOW:
    case CMD_STANDBY_NOW_OLD:
    case CMD_IDLE_NOW:
    case 0x95: /* older codes of the three below */
    case 0x96:
    case 0x97:
    case CMD_STANDBY:
    case CMD_IDLE:
    case CMD_SLEEP:
    case CMD_SLEEP_OLD:
        ide_done(d);
        break;
    default:
        if ((command & 0xf0) == CMD_RECALIBRATE) {
            ide_done(d);
        } else {
            ide_abort(d, IDE_ERROR_ABORT);
        }
    }
}

/* ---- life ---- */

static void hd_reset(IdeDrive *d)
{
    IdeHd *s = IDE_HD(d);

    d->count = d->lba_low = 1;
    d->lba_mid = d->lba_high = SIGNATURE_MID;
    d->device = 0;
    d->status = IDE_DRDY | IDE_DSC;
    d->error = 1; /* no error detected */
    d->op = OP_NONE;
    s->heads = default_heads(s);
    s->sectors = default_sectors(s);
    s->transfer_mode = 0;
}

static bool hd_realize(IdeDrive *d, GError **error)
{
    IdeHd *s = IDE_HD(d);

    if (!d->bb) {
        return error_set(error, "drive property not set");
    }
    if (!bb_has_medium(d->bb)) {
        return error_set(error, "Device needs media, but drive is empty");
    }
    if (s->heads_property > 16 || s->sectors_property > 255 || s->cylinders_property > 65535) {
        return error_set(error, "geometry: at most 65535 cylinders, 16 heads and 255 sectors");
    }
    if (!d->serial) {
        const char *given = bb_serial(d->bb);
        d->serial = given ? g_strdup(given)
                          : g_strdup_printf("QM%05u", ide_bus_of(d)->channel * 2 + (unsigned)d->unit + 1);
    }
    if (strlen(d->serial) > 20) {
        return error_set(error, "serial '%s' is longer than 20 bytes", d->serial);
    }
    if (!d->model) {
        d->model = g_strdup("QEMU HARDDISK");
    }
    return true;
}

static bool hd_post_load(void *opaque, int version, GError **error)
{
    IdeHd *s = opaque;

    if (!s->heads || !s->sectors || s->parent_obj.op >= OP_COUNT || s->parent_obj.chunk > MAX_CHUNK ||
        s->parent_obj.left > 65536) {
        s->heads = 16;
        s->sectors = 63;
        s->parent_obj.op = OP_NONE;
        s->parent_obj.phase = IDE_PHASE_IDLE;
        return error_set(error, "%s: impossible state of a command", TYPE_IDE_HD);
    }
    return true;
}

static const VmStateField hd_fields[] = {
    VMS_STRUCT(parent_obj, IdeHd, ide_drive_vmstate),
    VMS_UINT8(heads, IdeHd),
    VMS_UINT8(sectors, IdeHd),
    VMS_UINT8(transfer_mode, IdeHd),
    VMS_BOOL(ext, IdeHd),
    VMS_BOOL(fua, IdeHd),
    VMS_END,
};
static const VmState hd_vmstate = {
    .name = TYPE_IDE_HD,
    .version = 1,
    .minimum_version = 1,
    .fields = hd_fields,
    .post_load = hd_post_load,
};

static const Property hd_properties[] = {
    PROP_UINT32("cyls", IdeHd, cylinders_property, 0, "geometry: cylinders (0: made up)"),
    PROP_UINT32("heads", IdeHd, heads_property, 0, "geometry: heads (0: 16)"),
    PROP_UINT32("secs", IdeHd, sectors_property, 0, "geometry: sectors of a track (0: 63)"),
    PROP_UINT16("rotation_rate", IdeHd, rotation_rate, 0,
                "turns a minute (1: a solid-state disk, 0: not told)"),
    PROP_END,
};

static void hd_class_init(ObjectClass *klass, const void *data)
{
    IdeDriveClass *ic = (IdeDriveClass *)klass;
    DEVICE_CLASS(klass)->vmstate = &hd_vmstate;
    ic->is_disk = true;
    ic->realize = hd_realize;
    ic->reset = hd_reset;
    ic->command = hd_command;
    ic->data_done = hd_data_done;
    ic->submit = hd_submit;
    ic->complete = hd_complete;
    object_class_add_properties(klass, hd_properties);
}

static const TypeInfo hd_info = {
    .name = TYPE_IDE_HD,
    .parent = TYPE_IDE_DRIVE,
    .description = "IDE disk",
    .instance_size = sizeof(IdeHd),
    .class_init = hd_class_init,
};
TYPE_REGISTER(hd_info);
