/*
 * "ich9-ahci": the SATA controller of the ICH9 in AHCI mode, six ports with a drive each. Sources: Serial ATA
 * Advanced Host Controller Interface (AHCI) 1.3.1, chapters 3 (registers), 4 (command structures), 5.3 (port
 * states), 6.2 (errors), 9.1 (native command queuing); Serial ATA 3.0, chapter 10 (frame information
 * structures), 13.6 (queued commands).
 *
 * Left out on purpose: IDE mode, port multipliers, hot-plug and power states of links, command completion
 * coalescing, enclosure management, the index/data pair.
 *
 * Threads: registers in vCPUs' threads; commands are fetched and run in the main loop; all under the
 * HomeLock, which the drives share. Data of queued commands goes through memory of the request's own in
 * pieces, so that a reset just forgets a request, and a guest cannot make us keep more than 32 pieces a port.
 *
 * Invariants:
 *  1. slot >= 0 exactly while a command that is not queued is with the drive, and its bit in CI is set.
 *  2. bit t of queued is set exactly while requests[t] is under way or waits for the machine to run again, or
 * is to be made again after a load; it is set in SACT too. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/storage/ahci.h"
#include "base/error.h"
#include "base/log.h"
#include "hw/pci/pci.h"
#include "hw/storage/ide.h"
#include "trace/trace.h"

#include <errno.h>
#include <string.h>

TRACE_EVENT(ahci_read, "offset 0x%03x value 0x%08x");
TRACE_EVENT(ahci_write, "offset 0x%03x value 0x%08x");
TRACE_EVENT(ahci_command, "port %u slot %u command 0x%02x flags 0x%08x");
TRACE_EVENT(ahci_queued, "port %u tag %u write %d block %" G_GINT64_MODIFIER "u count %u");
TRACE_EVENT(ahci_done, "port %u slot %d status 0x%02x error 0x%02x bytes %u");
TRACE_EVENT(ahci_queued_done, "port %u tag %u result %d");
TRACE_EVENT(ahci_reset, "port %d");

#define PORTS    6u
#define SLOTS    32u
#define BAR_SIZE 4096u
#define AHCI_BAR 5
#define PIECE    (256u << 10)

/* Generic host control (3.1). */
enum { HBA_CAP = 0x00, HBA_GHC = 0x04, HBA_IS = 0x08, HBA_PI = 0x0c, HBA_VS = 0x10, HBA_PORTS = 0x100 };
#define CAP_QUEUING     (1u << 30)
#define CAP_64BIT       (1u << 31)
#define CAP_CLO         (1u << 24)
#define CAP_AHCI_ONLY   (1u << 18)
#define CAP_SPEED_SHIFT 20
#define CAP_SLOTS_SHIFT 8
#define GHC_RESET       (1u << 0)
#define GHC_INTERRUPT   (1u << 1)
#define GHC_ENABLE      (1u << 31)
#define AHCI_VERSION    0x00010300u
/* A port's registers (3.3). */
enum {
    PORT_SIZE = 0x80,
    PORT_CLB = 0x00,
    PORT_CLBU = 0x04,
    PORT_FB = 0x08,
    PORT_FBU = 0x0c,
    PORT_IS = 0x10,
    PORT_IE = 0x14,
    PORT_CMD = 0x18,
    PORT_TFD = 0x20,
    PORT_SIG = 0x24,
    PORT_SSTS = 0x28,
    PORT_SCTL = 0x2c,
    PORT_SERR = 0x30,
    PORT_SACT = 0x34,
    PORT_CI = 0x38,
};
enum {
    IS_REGISTERS = 1u << 0,
    IS_PIO_SETUP = 1u << 1,
    IS_DEVICE_BITS = 1u << 3,
    IS_CONNECT = 1u << 6,
    IS_FATAL_BUS = 1u << 29,
    IS_TASK_FILE = 1u << 30,
    IS_MASK = 0xfdc000ff & ~IS_CONNECT, /* what a written 1 clears; CONNECT follows SERR */
    IE_MASK = 0x7dc0007f,
};
enum {
    CMD_START = 1u << 0,
    CMD_SPIN_UP = 1u << 1,
    CMD_POWER_ON = 1u << 2,
    CMD_CLO = 1u << 3,
    CMD_FIS_ENABLE = 1u << 4,
    CMD_SLOT_SHIFT = 8,
    CMD_FIS_RUNNING = 1u << 14,
    CMD_RUNNING = 1u << 15,
    CMD_WRITABLE = CMD_START | CMD_SPIN_UP | CMD_POWER_ON | CMD_FIS_ENABLE | 3u << 24 | 3u << 26,
};
enum { SCTL_DET = 0xf, SCTL_RESET = 1, SCTL_OFFLINE = 4, SCTL_MASK = 0xfff };
enum { SSTS_ACTIVE = 0x113 }; /* device there, 1.5 Gb/s, active */
#define SERR_EXCHANGED  (1u << 26)
#define SIGNATURE_ATA   0x00000101u
#define SIGNATURE_ATAPI 0xeb140101u
#define NO_SIGNATURE    0xffffffffu
#define NO_DEVICE_TFD   0x7fu
/* Command header and table (4.2.2, 4.2.3). */
enum {
    HEADER_SIZE = 32,
    HEADER_FIS_LENGTH = 0x1f,
    HEADER_ATAPI = 1u << 5,
    TABLE_PACKET = 0x40,
    TABLE_PRDT = 0x80,
    PRD_ENTRY = 16,
    PACKET_SIZE = 12,
};
#define PRD_BYTES 0x3fffffu
/* Frame information structures, and where received ones go (4.2.1). */
enum { FIS_HOST = 0x27, FIS_DEVICE = 0x34, FIS_DEVICE_BITS = 0xa1, FIS_PIO_SETUP = 0x5f, FIS_SIZE = 20 };
enum { FIS_COMMAND = 0x80, FIS_INTERRUPT = 0x40, FIS_TO_HOST = 0x20 };
enum { RX_PIO_SETUP = 0x20, RX_DEVICE = 0x40, RX_DEVICE_BITS = 0x58 };
enum { CONTROL_RESET = 0x04 };
enum { ATA_PACKET = 0xa0, ATA_READ_QUEUED = 0x60, ATA_WRITE_QUEUED = 0x61 };
enum { DEVICE_FUA = 0x80 };

/* How far a transfer has come in a guest's table of memory regions. */
typedef struct PrdCursor {
    uint64_t table;
    uint32_t entries, index, offset; /* bytes of the entry that are done */
} PrdCursor;

typedef struct AhciQueued {
    struct AhciPort *port; /* NULL: forgotten */
    HomeLock *home;
    IdeDrive *drive;
    uint8_t tag;
    bool write, fua;
    uint64_t lba;
    uint32_t left, piece; /* sectors */
    PrdCursor prd;
    struct iovec iov;
    uint8_t *data;
} AhciQueued;

typedef struct AhciPort {
    /* saved */
    uint64_t clb, fb;
    uint32_t is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;
    int32_t slot;   /* of the command that is with the drive; -1: none */
    bool halted;    /* by an error, until the guest stops the port */
    bool packet;    /* the drive waits for the command's packet */
    bool in_reset;  /* software reset: the first of its two frames has come */
    uint32_t moved; /* bytes of the command */
    PrdCursor prd;
    uint32_t queued;
    /* derived */
    struct Ahci *owner;
    unsigned number;
    IdeBus *bus;
    BottomHalf *bh;
    AhciQueued *requests[SLOTS];
    uint32_t stopped; /* of queued: failed, wait for the machine to run again */
} AhciPort;

typedef struct Ahci {
    PciDevice parent_obj;
    /* saved */
    uint32_t ghc, is;
    AhciPort ports[PORTS];
    /* derived and configured */
    bool firmware_preset;
    MemoryRegion mem;
} Ahci;
#define AHCI(obj) OBJECT_CHECK(Ahci, obj, TYPE_ICH9_AHCI)

static IdeDrive *drive_of(const AhciPort *p)
{
    return p->bus ? p->bus->drives[0] : NULL;
}

static AddressSpace *dma_of(const AhciPort *p)
{
    return p->owner->parent_obj.dma_as;
}

/* ---- interrupts ---- */

/* fresh: something has happened, which MSI tells each time. */
static void update_irq(Ahci *s, bool fresh)
{
    for (unsigned i = 0; i < PORTS; i++) {
        if (s->ports[i].is & s->ports[i].ie) {
            s->is |= 1u << i;
        }
    }
    bool level = s->is && (s->ghc & GHC_INTERRUPT);
    if (pci_msi_enabled(&s->parent_obj)) {
        if (level && fresh) {
            pci_msi_notify(&s->parent_obj, 0);
        }
        level = false;
    }
    pci_set_irq(&s->parent_obj, level);
}

static void port_event(AhciPort *p, uint32_t bits)
{
    p->is |= bits;
    update_irq(p->owner, (bits & p->ie) != 0);
}

/* ---- frames to the guest ---- */

static bool fis_post(AhciPort *p, unsigned offset, const uint8_t *fis, unsigned size)
{
    return (p->cmd & CMD_FIS_RUNNING) &&
           address_space_write(dma_of(p), p->fb + offset, MEMTXATTRS_DMA, fis, size) == MEMTX_OK;
}

static void fill_task_file(uint8_t *fis, const IdeDrive *d)
{
    fis[2] = d->status;
    fis[3] = d->error;
    fis[4] = d->lba_low;
    fis[5] = d->lba_mid;
    fis[6] = d->lba_high;
    fis[7] = d->device;
    fis[8] = d->old_low;
    fis[9] = d->old_mid;
    fis[10] = d->old_high;
    fis[12] = d->count;
    fis[13] = d->old_count;
}

static void set_task_file(AhciPort *p, const IdeDrive *d)
{
    p->tfd = (uint32_t)d->error << 8 | d->status;
}

static void post_registers(AhciPort *p, const IdeDrive *d, bool interrupt)
{
    uint8_t fis[FIS_SIZE] = { FIS_DEVICE, interrupt ? FIS_INTERRUPT : 0 };

    fill_task_file(fis, d);
    fis_post(p, RX_DEVICE, fis, sizeof(fis));
    set_task_file(p, d);
}

static void post_pio_setup(AhciPort *p, const IdeDrive *d, bool to_host, uint32_t bytes)
{
    uint8_t fis[FIS_SIZE] = { FIS_PIO_SETUP, FIS_INTERRUPT | (to_host ? FIS_TO_HOST : 0) };

    fill_task_file(fis, d);
    fis[15] = IDE_DRDY | IDE_DSC; /* what the status becomes */
    fis[16] = bytes;
    fis[17] = bytes >> 8;
    fis_post(p, RX_PIO_SETUP, fis, sizeof(fis));
    port_event(p, IS_PIO_SETUP);
}

static void post_device_bits(AhciPort *p, uint32_t tags, uint8_t status, uint8_t error)
{
    uint8_t fis[8] = { FIS_DEVICE_BITS, FIS_INTERRUPT, status & 0x77, error };

    pci_set_long(fis + 4, tags);
    fis_post(p, RX_DEVICE_BITS, fis, sizeof(fis));
    p->sact &= ~tags;
    p->tfd = (p->tfd & 0x88) | (uint32_t)error << 8 | (status & 0x77);
}

/* ---- data ---- */

/* Moves bytes as far as the table goes: the number moved, or -EIO. */
static int64_t prd_move(AhciPort *p, PrdCursor *c, uint8_t *buffer, uint32_t size, bool to_memory)
{
    AddressSpace *as = dma_of(p);
    uint32_t done = 0;

    while (done < size && c->index < c->entries) {
        uint8_t entry[PRD_ENTRY];
        if (address_space_read(as, c->table + (uint64_t)c->index * PRD_ENTRY, MEMTXATTRS_DMA, entry,
                               sizeof(entry)) != MEMTX_OK) {
            return -EIO;
        }
        uint64_t at = pci_get_long(entry) | (uint64_t)pci_get_long(entry + 4) << 32;
        uint32_t length = (pci_get_long(entry + 12) & PRD_BYTES) + 1;
        if (c->offset >= length) {
            c->offset = 0;
            c->index++;
            continue;
        }
        uint32_t part = MIN(length - c->offset, size - done);
        MemTxResult result =
            to_memory ? address_space_write(as, at + c->offset, MEMTXATTRS_DMA, buffer + done, part)
                      : address_space_read(as, at + c->offset, MEMTXATTRS_DMA, buffer + done, part);
        if (result != MEMTX_OK) {
            return -EIO;
        }
        done += part;
        c->offset += part;
    }
    return done;
}

/* ---- queued commands ---- */

static void queued_free(AhciQueued *q)
{
    g_free(q->data);
    g_free(q);
}

static void queued_forget(AhciPort *p, uint32_t tags)
{
    for (unsigned tag = 0; tag < SLOTS; tag++) {
        AhciQueued *q = tags & 1u << tag ? p->requests[tag] : NULL;
        if (!q) {
            continue;
        }
        p->requests[tag] = NULL;
        if (p->stopped & 1u << tag) {
            queued_free(q);
        } else {
            q->port = NULL; /* whoever completes it frees it */
        }
    }
    p->queued &= ~tags;
    p->stopped &= ~tags;
}

static void queued_submit(AhciQueued *q);

/* An error ends all queued commands; the log tells which one it was (13.6.3.2 of Serial ATA). */
static void queued_fail(AhciPort *p, unsigned tag, uint64_t lba, uint32_t count, uint8_t error)
{
    IdeDrive *d = drive_of(p);

    TRACE(ahci_queued_done, p->number, tag, -1);
    d->queued_error = (IdeQueuedError){ .valid = true,
                                        .tag = (uint8_t)tag,
                                        .status = IDE_DRDY | IDE_DSC | IDE_ERR,
                                        .error = error,
                                        .lba = lba,
                                        .count = (uint16_t)count };
    queued_forget(p, p->queued);
    post_device_bits(p, 0, IDE_DRDY | IDE_DSC | IDE_ERR, error);
    p->halted = true;
    port_event(p, IS_DEVICE_BITS | IS_TASK_FILE);
}

static void queued_done(AhciPort *p, AhciQueued *q)
{
    uint32_t bit = 1u << q->tag;

    TRACE(ahci_queued_done, p->number, q->tag, 0);
    p->requests[q->tag] = NULL;
    p->queued &= ~bit;
    queued_free(q);
    post_device_bits(p, bit, IDE_DRDY | IDE_DSC, 0);
    port_event(p, IS_DEVICE_BITS);
}

/* A piece is done; in the main loop, no lock held. */
static void queued_complete(void *opaque, int result)
{
    AhciQueued *q = opaque;
    HomeLock *home = q->home;

    home_lock(home);
    AhciPort *p = q->port;
    if (!p || !q->drive || drive_of(p) != q->drive) {
        if (p) {
            p->requests[q->tag] = NULL;
            p->queued &= ~(1u << q->tag);
        }
        queued_free(q);
        home_unlock(home);
        return;
    }
    if (result < 0) {
        switch (bb_error(q->drive->bb, !q->write, -result)) {
        case BLOCK_ERROR_IGNORE:
            result = 0;
            break;
        case BLOCK_ERROR_STOP:
            p->stopped |= 1u << q->tag;
            home_unlock(home);
            return;
        case BLOCK_ERROR_REPORT:
            break;
        }
    }
    uint32_t size = q->piece * IDE_SECTOR;
    if (result < 0) {
        queued_forget(p, p->queued & ~(1u << q->tag));
        p->requests[q->tag] = NULL;
        queued_fail(p, q->tag, q->lba, q->left, q->write ? IDE_ERROR_ABORT : IDE_ERROR_UNCORRECTABLE);
        queued_free(q);
    } else if (!q->write && prd_move(p, &q->prd, q->data, size, true) != (int64_t)size) {
        p->requests[q->tag] = NULL;
        queued_fail(p, q->tag, q->lba, q->left, IDE_ERROR_ABORT);
        queued_free(q);
    } else {
        q->lba += q->piece;
        q->left -= q->piece;
        if (q->left) {
            queued_submit(q);
        } else {
            queued_done(p, q);
        }
    }
    home_unlock(home);
}

/* Reads or writes the next piece; a write's data is fetched here, once. */
static void queued_submit(AhciQueued *q)
{
    AhciPort *p = q->port;
    Loop *loop = DEVICE(q->drive)->env->loop;

    q->piece = MIN(q->left, PIECE / IDE_SECTOR);
    uint32_t size = q->piece * IDE_SECTOR;
    q->iov = (struct iovec){ q->data, size };
    if (!q->write) {
        bb_readv(q->drive->bb, loop, q->lba * IDE_SECTOR, &q->iov, 1, queued_complete, q);
        return;
    }
    if (prd_move(p, &q->prd, q->data, size, false) != (int64_t)size) {
        p->requests[q->tag] = NULL;
        queued_fail(p, q->tag, q->lba, q->left, IDE_ERROR_ABORT);
        queued_free(q);
        return;
    }
    bb_writev(q->drive->bb, loop, q->lba * IDE_SECTOR, &q->iov, 1, q->fua ? BLOCK_REQ_FUA : 0,
              queued_complete, q);
}

static void queued_start(AhciPort *p, unsigned slot, const uint8_t *fis, const PrdCursor *prd)
{
    IdeDrive *d = drive_of(p);
    unsigned tag = fis[12] >> 3;
    uint32_t count = fis[3] | (uint32_t)fis[11] << 8;
    uint64_t lba = fis[4] | (uint64_t)fis[5] << 8 | (uint64_t)fis[6] << 16 | (uint64_t)fis[8] << 24 |
                   (uint64_t)fis[9] << 32 | (uint64_t)fis[10] << 40;
    bool write = fis[2] == ATA_WRITE_QUEUED;
    uint64_t total = bb_size(d->bb) / IDE_SECTOR;

    count = count ? count : 65536;
    TRACE(ahci_queued, p->number, tag, write, lba, count);
    p->ci &= ~(1u << slot);
    if (tag != slot || !(p->sact & 1u << slot) || (p->queued & 1u << slot)) {
        LOG(LOG_GUEST_ERROR, "ahci: port %u: queued command with tag %u in slot %u", p->number, tag, slot);
        queued_fail(p, slot, lba, count, IDE_ERROR_ABORT);
        return;
    }
    if (lba >= total || count > total - lba || (write && bb_read_only(d->bb))) {
        queued_fail(p, slot, lba, count, IDE_ERROR_ID | IDE_ERROR_ABORT);
        return;
    }
    AhciQueued *q = g_new(AhciQueued, 1);
    *q = (AhciQueued){ .port = p,
                       .home = &DEVICE(p->owner)->lock,
                       .drive = d,
                       .tag = (uint8_t)slot,
                       .write = write,
                       .fua = fis[7] & DEVICE_FUA,
                       .lba = lba,
                       .left = count,
                       .prd = *prd,
                       .data = g_malloc0(MIN(count * IDE_SECTOR, PIECE)) };
    p->requests[slot] = q;
    p->queued |= 1u << slot;
    post_registers(p, d, false);
    queued_submit(q);
}

/* ---- commands ---- */

static void port_signature(AhciPort *p)
{
    IdeDrive *d = drive_of(p);

    p->ssts = d ? SSTS_ACTIVE : 0;
    p->sig =
        d ? d->count | (uint32_t)d->lba_low << 8 | (uint32_t)d->lba_mid << 16 | (uint32_t)d->lba_high << 24
          : NO_SIGNATURE;
    p->tfd = d ? (uint32_t)d->error << 8 | d->status : NO_DEVICE_TFD;
}

/* What was under way is forgotten. */
static void port_abort(AhciPort *p)
{
    IdeDrive *d = drive_of(p);

    queued_forget(p, p->queued);
    if (d && p->slot >= 0) {
        ide_cancel(d);
    }
    p->slot = -1;
    p->packet = p->halted = p->in_reset = false;
    p->ci = p->sact = 0;
    p->moved = 0;
}

/* COMRESET, or a reset of all: the drive starts anew and sends its signature. */
static void port_comreset(AhciPort *p)
{
    TRACE(ahci_reset, (int)p->number);
    port_abort(p);
    ide_bus_power_reset(p->bus);
    port_signature(p);
    if (drive_of(p)) {
        p->serr |= SERR_EXCHANGED;
        p->is |= IS_CONNECT;
        post_registers(p, drive_of(p), false);
    }
    update_irq(p->owner, true);
}

/* Which of a command's bytes were moved goes to its header (4.2.2). */
static void write_byte_count(AhciPort *p)
{
    uint32_t bytes = GUINT32_TO_LE(p->moved);

    address_space_write(dma_of(p), p->clb + (uint32_t)p->slot * HEADER_SIZE + 4, MEMTXATTRS_DMA, &bytes,
                        sizeof(bytes));
}

static void command_done(AhciPort *p, const IdeDrive *d)
{
    bool failed = d->status & (IDE_ERR | IDE_DF);

    TRACE(ahci_done, p->number, p->slot, d->status, d->error, p->moved);
    write_byte_count(p);
    if (failed) {
        p->halted = true; /* its bit stays, for the guest to see (6.2.2.1) */
    } else {
        p->ci &= ~(1u << (unsigned)p->slot);
    }
    p->slot = -1;
    p->packet = false;
    p->bus->irq = false;
    post_registers(p, d, true);
    port_event(p, IS_REGISTERS | (failed ? IS_TASK_FILE : 0));
}

/* The two frames with which a guest resets the drive (11.4 of Serial ATA). */
static void control_frame(AhciPort *p, unsigned slot, uint8_t control)
{
    p->ci &= ~(1u << slot);
    if (control & CONTROL_RESET) {
        p->in_reset = true;
        return;
    }
    if (p->in_reset) {
        p->in_reset = false;
        ide_bus_power_reset(p->bus);
        port_signature(p);
        post_registers(p, drive_of(p), false);
        port_event(p, IS_REGISTERS);
    }
}

static void write_task_file(IdeBus *bus, const uint8_t *fis)
{
    /* Each register takes what was written first for the upper half of 48-bit commands. */
    static const uint8_t from[][2] = { { 1, 11 }, { 2, 13 }, { 3, 8 }, { 4, 9 }, { 5, 10 },
                                       { 1, 3 },  { 2, 12 }, { 3, 4 }, { 4, 5 }, { 5, 6 } };

    for (size_t i = 0; i < G_N_ELEMENTS(from); i++) {
        ide_bus_write(bus, from[i][0], fis[from[i][1]], 1);
    }
    ide_bus_write(bus, 6, fis[7] & ~IDE_DEVICE_UNIT, 1);
}

static bool fetch(AhciPort *p, unsigned slot, uint8_t *header, uint64_t *table, uint8_t *fis)
{
    AddressSpace *as = dma_of(p);

    if (address_space_read(as, p->clb + slot * HEADER_SIZE, MEMTXATTRS_DMA, header, HEADER_SIZE) !=
        MEMTX_OK) {
        return false;
    }
    *table = (pci_get_long(header + 8) & ~0x7fu) | (uint64_t)pci_get_long(header + 12) << 32;
    return address_space_read(as, *table, MEMTXATTRS_DMA, fis, FIS_SIZE) == MEMTX_OK;
}

/* Takes a command to the drive. False: the port has stopped. */
static bool start_command(AhciPort *p, unsigned slot)
{
    IdeDrive *d = drive_of(p);
    uint8_t header[HEADER_SIZE], fis[FIS_SIZE];
    uint64_t table;

    if (!fetch(p, slot, header, &table, fis)) {
        p->halted = true;
        port_event(p, IS_FATAL_BUS);
        return false;
    }
    uint32_t flags = pci_get_long(header);
    const PrdCursor prd = { .table = table + TABLE_PRDT, .entries = flags >> 16 };
    TRACE(ahci_command, p->number, slot, fis[2], flags);
    if (!d || fis[0] != FIS_HOST || (flags & HEADER_FIS_LENGTH) < 2) {
        LOG(LOG_GUEST_ERROR, "ahci: port %u: no command in slot %u", p->number, slot);
        p->halted = true;
        port_event(p, IS_FATAL_BUS);
        return false;
    }
    if (!(fis[1] & FIS_COMMAND)) {
        control_frame(p, slot, fis[15]);
        return true;
    }
    if ((fis[2] == ATA_READ_QUEUED || fis[2] == ATA_WRITE_QUEUED) && ide_is_disk(d)) {
        queued_start(p, slot, fis, &prd);
        return !p->halted;
    }
    p->slot = (int32_t)slot;
    p->prd = prd;
    p->moved = 0;
    p->packet = fis[2] == ATA_PACKET && !ide_is_disk(d);
    p->cmd = (p->cmd & ~(0x1fu << CMD_SLOT_SHIFT)) | slot << CMD_SLOT_SHIFT;
    write_task_file(p->bus, fis);
    ide_bus_write(p->bus, 7, fis[2], 1);
    set_task_file(p, d);
    return true;
}

static void send_packet(AhciPort *p, IdeDrive *d)
{
    uint8_t packet[PACKET_SIZE];
    AddressSpace *as = dma_of(p);

    p->packet = false;
    if (address_space_read(as, p->prd.table - TABLE_PRDT + TABLE_PACKET, MEMTXATTRS_DMA, packet,
                           sizeof(packet)) != MEMTX_OK) {
        memset(packet, 0xff, sizeof(packet)); /* no command */
    }
    for (unsigned i = 0; i < PACKET_SIZE && d->phase == IDE_PHASE_OUT; i += 2) {
        ide_bus_write(p->bus, 0, pci_get_word(packet + i), 2);
    }
}

/* The block of data that the drive has or wants. */
static void move_block(AhciPort *p, IdeDrive *d)
{
    bool to_memory = d->phase == IDE_PHASE_IN;
    uint32_t size = d->block_end - d->position;

    post_pio_setup(p, d, to_memory, size);
    int64_t moved = prd_move(p, &p->prd, d->buffer + d->position, size, to_memory);
    if (moved < 0) {
        moved = 0;
    }
    if (!to_memory) { /* what the guest has no memory for reads as zeros */
        memset(d->buffer + d->position + moved, 0, size - (uint32_t)moved);
    }
    p->moved += (uint32_t)moved;
    ide_block_moved(d);
}

/* What was under way when the state was saved is taken from its slots again: until a command is done, a guest
 * leaves its table alone. */
static void queued_restart(AhciPort *p)
{
    for (unsigned slot = 0; slot < SLOTS && !p->halted; slot++) {
        if ((p->queued & 1u << slot) && !p->requests[slot]) {
            p->queued &= ~(1u << slot);
            start_command(p, slot);
        }
    }
}

/* Everything that can go on now; in the main loop with the lock held. */
static void port_run(void *opaque)
{
    AhciPort *p = opaque;

    if (p->cmd & CMD_RUNNING) {
        queued_restart(p);
    }
    while ((p->cmd & CMD_RUNNING) && !p->halted) {
        IdeDrive *d = drive_of(p);
        if (p->slot >= 0) {
            if (!d) {
                p->slot = -1;
            } else if (d->phase == IDE_PHASE_OUT && p->packet) {
                send_packet(p, d);
            } else if (d->phase == IDE_PHASE_IN || d->phase == IDE_PHASE_OUT) {
                move_block(p, d);
            } else if (d->phase == IDE_PHASE_IDLE && !(d->status & (IDE_BSY | IDE_DRQ))) {
                command_done(p, d);
            } else {
                return; /* with the drive's back end */
            }
            continue;
        }
        uint32_t ready = p->ci;
        if (!ready) {
            return;
        }
        if (!start_command(p, (unsigned)__builtin_ctz(ready))) {
            return;
        }
    }
}

/* ---- for the drives ---- */

static void drive_set_irq(void *opaque, unsigned channel, bool level)
{
    Ahci *s = opaque;
    if (level && s->ports[channel].bh) {
        bh_schedule(s->ports[channel].bh);
    }
}

static bool drive_dma_started(void *opaque, unsigned channel)
{
    return true;
}

static int64_t drive_dma_move(void *opaque, unsigned channel, uint8_t *buffer, uint32_t size, bool to_memory)
{
    Ahci *s = opaque;
    AhciPort *p = &s->ports[channel];

    if (p->slot < 0) {
        return -EIO;
    }
    int64_t moved = prd_move(p, &p->prd, buffer, size, to_memory);
    p->moved += moved > 0 ? (uint32_t)moved : 0;
    return moved;
}

static void drive_dma_end(void *opaque, unsigned channel, bool ok)
{
}

static const IdeBusOps drive_ops = {
    .set_irq = drive_set_irq,
    .dma_started = drive_dma_started,
    .dma_move = drive_dma_move,
    .dma_end = drive_dma_end,
};

/* ---- registers ---- */

static uint32_t port_read(const AhciPort *p, unsigned reg)
{
    switch (reg) {
    case PORT_CLB:
        return (uint32_t)p->clb;
    case PORT_CLBU:
        return p->clb >> 32;
    case PORT_FB:
        return (uint32_t)p->fb;
    case PORT_FBU:
        return p->fb >> 32;
    case PORT_IS:
        return p->is;
    case PORT_IE:
        return p->ie;
    case PORT_CMD:
        return p->cmd;
    case PORT_TFD:
        return p->tfd;
    case PORT_SIG:
        return p->sig;
    case PORT_SSTS:
        return p->ssts;
    case PORT_SCTL:
        return p->sctl;
    case PORT_SERR:
        return p->serr;
    case PORT_SACT:
        return p->sact;
    case PORT_CI:
        return p->ci;
    default:
        return 0;
    }
}

static void set_low(uint64_t *address, uint32_t value, uint32_t align)
{
    *address = (*address & ~(uint64_t)UINT32_MAX) | (value & ~(align - 1));
}

static void set_high(uint64_t *address, uint32_t value)
{
    *address = (*address & UINT32_MAX) | (uint64_t)value << 32;
}

static void command_write(AhciPort *p, uint32_t value)
{
    bool was_running = p->cmd & CMD_START;

    p->cmd = (p->cmd & ~CMD_WRITABLE) | (value & CMD_WRITABLE);
    if (value & CMD_CLO) {
        p->tfd &= ~(uint32_t)(IDE_BSY | IDE_DRQ);
    }
    p->cmd = p->cmd & CMD_FIS_ENABLE ? p->cmd | CMD_FIS_RUNNING : p->cmd & ~CMD_FIS_RUNNING;
    if (p->cmd & CMD_START) {
        p->cmd |= CMD_RUNNING;
    } else {
        p->cmd &= ~(CMD_RUNNING | 0x1fu << CMD_SLOT_SHIFT);
        if (was_running) {
            port_abort(p);
        }
    }
}

static void control_write(AhciPort *p, uint32_t value)
{
    uint32_t was = p->sctl & SCTL_DET, det = value & SCTL_DET;

    p->sctl = value & SCTL_MASK;
    if (det == SCTL_RESET || det == SCTL_OFFLINE) {
        if (was != det) {
            port_abort(p);
            p->ssts = 0;
            p->sig = NO_SIGNATURE;
            p->tfd = NO_DEVICE_TFD;
        }
    } else if (was == SCTL_RESET || was == SCTL_OFFLINE) {
        port_comreset(p);
    }
}

static void port_write(AhciPort *p, unsigned reg, uint32_t value)
{
    switch (reg) {
    case PORT_CLB:
        set_low(&p->clb, value, 1024);
        break;
    case PORT_CLBU:
        set_high(&p->clb, value);
        break;
    case PORT_FB:
        set_low(&p->fb, value, 256);
        break;
    case PORT_FBU:
        set_high(&p->fb, value);
        break;
    case PORT_IS:
        p->is &= ~(value & IS_MASK);
        update_irq(p->owner, false);
        break;
    case PORT_IE:
        p->ie = value & IE_MASK;
        update_irq(p->owner, true);
        break;
    case PORT_CMD:
        command_write(p, value);
        break;
    case PORT_SCTL:
        control_write(p, value);
        break;
    case PORT_SERR:
        p->serr &= ~value;
        if (!(p->serr & SERR_EXCHANGED)) {
            p->is &= ~(uint32_t)IS_CONNECT;
        }
        update_irq(p->owner, false);
        break;
    case PORT_SACT:
        if (p->cmd & CMD_START) {
            p->sact |= value;
        }
        break;
    case PORT_CI:
        if (p->cmd & CMD_START) {
            p->ci |= value;
            bh_schedule(p->bh);
        }
        break;
    default:
        break;
    }
}

static void port_power_reset(AhciPort *p)
{
    port_abort(p);
    p->clb = p->fb = 0;
    p->is = p->ie = p->serr = p->sctl = 0;
    p->cmd = CMD_SPIN_UP | CMD_POWER_ON;
    ide_bus_power_reset(p->bus);
    port_signature(p);
}

static void hba_reset(Ahci *s)
{
    TRACE(ahci_reset, -1);
    s->ghc = GHC_ENABLE;
    s->is = 0;
    for (unsigned i = 0; i < PORTS; i++) {
        port_power_reset(&s->ports[i]);
    }
    update_irq(s, false);
}

static uint64_t ahci_read(void *opaque, hwaddr offset, unsigned size)
{
    Ahci *s = opaque;
    uint32_t value = 0;

    if (offset >= HBA_PORTS) {
        unsigned port = (offset - HBA_PORTS) / PORT_SIZE;
        value = port < PORTS ? port_read(&s->ports[port], offset % PORT_SIZE) : 0;
    } else if (offset == HBA_CAP) {
        value = CAP_64BIT | CAP_QUEUING | CAP_CLO | 1u << CAP_SPEED_SHIFT | CAP_AHCI_ONLY |
                (SLOTS - 1) << CAP_SLOTS_SHIFT | (PORTS - 1);
    } else if (offset == HBA_GHC) {
        value = s->ghc;
    } else if (offset == HBA_IS) {
        value = s->is;
    } else if (offset == HBA_PI) {
        value = (1u << PORTS) - 1;
    } else if (offset == HBA_VS) {
        value = AHCI_VERSION;
    }
    TRACE(ahci_read, (unsigned)offset, value);
    return value;
}

static void ahci_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Ahci *s = opaque;

    TRACE(ahci_write, (unsigned)offset, (unsigned)value);
    if (offset >= HBA_PORTS) {
        unsigned port = (offset - HBA_PORTS) / PORT_SIZE;
        if (port < PORTS) {
            port_write(&s->ports[port], offset % PORT_SIZE, (uint32_t)value);
        }
    } else if (offset == HBA_GHC) {
        if (value & GHC_RESET) {
            hba_reset(s);
        } else {
            s->ghc = GHC_ENABLE | (value & GHC_INTERRUPT);
            update_irq(s, true);
        }
    } else if (offset == HBA_IS) {
        s->is &= ~(uint32_t)value;
        update_irq(s, true); /* what a port still has comes again */
    }
}

static const MemoryRegionOps ahci_ops = {
    .read = ahci_read,
    .write = ahci_write,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 4, .max = 4 },
};

/* ---- life ---- */

static void ahci_reset(Device *device)
{
    pci_device_reset(device);
    hba_reset(AHCI(device));
}

static void run_changed(void *opaque, bool running)
{
    Ahci *s = opaque;

    home_lock(&DEVICE(s)->lock);
    for (unsigned i = 0; i < PORTS && running; i++) {
        AhciPort *p = &s->ports[i];
        uint32_t again = p->stopped;
        p->stopped = 0;
        for (unsigned tag = 0; tag < SLOTS; tag++) {
            AhciQueued *q = again & 1u << tag ? p->requests[tag] : NULL;
            if (!q) {
                continue;
            }
            Loop *loop = DEVICE(q->drive)->env->loop;
            if (q->write) { /* its data has been fetched */
                bb_writev(q->drive->bb, loop, q->lba * IDE_SECTOR, &q->iov, 1, q->fua ? BLOCK_REQ_FUA : 0,
                          queued_complete, q);
            } else {
                bb_readv(q->drive->bb, loop, q->lba * IDE_SECTOR, &q->iov, 1, queued_complete, q);
            }
        }
    }
    home_unlock(&DEVICE(s)->lock);
}

static bool ahci_realize(PciDevice *dev, GError **error)
{
    Ahci *s = AHCI(dev);
    Device *device = DEVICE(dev);
    const DeviceEnv *env = device->env;

    if (!env || !env->loop || !dev->dma_as) {
        return error_set(error, "%s needs memory and a loop", TYPE_ICH9_AHCI);
    }
    if (!pci_msi_init(dev, 1, true, error)) {
        return false;
    }
    uint8_t sata = pci_add_capability(dev, PCI_CAP_SATA, 0, 8, error);
    if (!sata) {
        return false;
    }
    pci_set_word(dev->config + sata + 2, 0x0010); /* revision 1.0; no index/data pair */
    dev->config[PCI_CLASS_PROG] = 1;              /* AHCI */
    dev->config[PCI_INTERRUPT_PIN] = 1;
    pci_set_word(dev->config + PCI_STATUS,
                 pci_get_word(dev->config + PCI_STATUS) | PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MEDIUM);
    for (unsigned i = 0; i < PORTS; i++) {
        AhciPort *p = &s->ports[i];
        g_autofree char *name = g_strdup_printf("%s.%u", device->id ? device->id : "ide", i);
        p->owner = s;
        p->number = i;
        p->slot = -1;
        p->bus = ide_bus_new(device, name, i, env, &drive_ops, s, &device->lock);
        p->bus->sata = true;
        p->bus->parent_obj.max_devices = 1;
        p->bh = bh_new(env->loop, port_run, p, &device->lock);
    }
    memory_region_init_io(&s->mem, s, &ahci_ops, s, "ahci", BAR_SIZE, &device->lock);
    pci_register_bar(dev, AHCI_BAR, PCI_BAR_MEM32, &s->mem);
    if (env->vm && env->vm->add_run_handler) {
        env->vm->add_run_handler(env->vm->opaque, run_changed, s);
    }
    return true;
}

static void ahci_unrealize(PciDevice *dev)
{
    Ahci *s = AHCI(dev);
    const VmServices *vm = DEVICE(dev)->env->vm;

    if (vm && vm->remove_handlers) {
        vm->remove_handlers(vm->opaque, s);
    }
    home_lock(&DEVICE(dev)->lock);
    for (unsigned i = 0; i < PORTS; i++) {
        AhciPort *p = &s->ports[i];
        p->bus = NULL;
        queued_forget(p, p->queued);
        bh_free(p->bh);
        p->bh = NULL;
    }
    home_unlock(&DEVICE(dev)->lock);
    memory_region_destroy(&s->mem);
}

/* ---- state ---- */

static bool cursor_sane(const PrdCursor *c)
{
    return c->entries <= 0xffff && c->index <= c->entries && c->offset <= PRD_BYTES + 1;
}

static bool ahci_pre_load(void *opaque, GError **error)
{
    Ahci *s = opaque;
    for (unsigned i = 0; i < PORTS; i++) {
        queued_forget(&s->ports[i], s->ports[i].queued);
    }
    return true;
}

static bool ahci_post_load(void *opaque, int version, GError **error)
{
    Ahci *s = opaque;

    for (unsigned i = 0; i < PORTS; i++) {
        AhciPort *p = &s->ports[i];
        const IdeDrive *d = drive_of(p);
        if (p->slot < -1 || p->slot >= (int32_t)SLOTS || !cursor_sane(&p->prd) || (p->queued & ~p->sact) ||
            ((p->slot >= 0 || p->queued) && !d)) {
            port_power_reset(p);
            p->queued = 0;
            return error_set(error, "%s: impossible state of port %u", TYPE_ICH9_AHCI, i);
        }
        p->clb &= ~UINT64_C(1023);
        p->fb &= ~UINT64_C(255);
        p->ie &= IE_MASK;
        if (p->slot >= 0 || p->ci || p->queued) {
            bh_schedule(p->bh);
        }
    }
    s->ghc = GHC_ENABLE | (s->ghc & GHC_INTERRUPT);
    return true;
}

static const VmStateField cursor_fields[] = {
    VMS_UINT64(table, PrdCursor),
    VMS_UINT32(entries, PrdCursor),
    VMS_UINT32(index, PrdCursor),
    VMS_UINT32(offset, PrdCursor),
    VMS_END,
};
static const VmState cursor_vmstate = { .name = "ahci-prd", .version = 1, .fields = cursor_fields };

static const VmStateField port_fields[] = {
    VMS_UINT64(clb, AhciPort),    VMS_UINT64(fb, AhciPort),
    VMS_UINT32(is, AhciPort),     VMS_UINT32(ie, AhciPort),
    VMS_UINT32(cmd, AhciPort),    VMS_UINT32(tfd, AhciPort),
    VMS_UINT32(sig, AhciPort),    VMS_UINT32(ssts, AhciPort),
    VMS_UINT32(sctl, AhciPort),   VMS_UINT32(serr, AhciPort),
    VMS_UINT32(sact, AhciPort),   VMS_UINT32(ci, AhciPort),
    VMS_INT32(slot, AhciPort),    VMS_BOOL(halted, AhciPort),
    VMS_BOOL(packet, AhciPort),   VMS_BOOL(in_reset, AhciPort),
    VMS_UINT32(moved, AhciPort),  VMS_STRUCT(prd, AhciPort, cursor_vmstate),
    VMS_UINT32(queued, AhciPort), VMS_END,
};
static const VmState port_vmstate = { .name = "ahci-port", .version = 1, .fields = port_fields };

static const VmStateField ahci_fields[] = {
    VMS_STRUCT(parent_obj, Ahci, pci_device_vmstate),
    VMS_UINT32(ghc, Ahci),
    VMS_UINT32(is, Ahci),
    VMS_STRUCT_ARRAY(ports, Ahci, PORTS, port_vmstate),
    VMS_END,
};

static const VmState ahci_vmstate = {
    .name = TYPE_ICH9_AHCI,
    .version = 1,
    .minimum_version = 1,
    .fields = ahci_fields,
    .pre_load = ahci_pre_load,
    .post_load = ahci_post_load,
};

static const Property ahci_properties[] = {
    PROP_BOOL("firmware-preset", Ahci, firmware_preset, false, "accepted; firmware leaves nothing here"),
    PROP_END,
};

static void ahci_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x2922;
    pc->revision = 2;
    pc->class_id = PCI_CLASS_STORAGE_SATA;
    pc->realize = ahci_realize;
    pc->unrealize = ahci_unrealize;
    dc->reset = ahci_reset;
    dc->vmstate = &ahci_vmstate;
    dc->category = "Storage";
    dc->hotpluggable = false;
    object_class_add_properties(klass, ahci_properties);
}

static const TypeInfo ahci_info = {
    .name = TYPE_ICH9_AHCI,
    .parent = TYPE_PCI_DEVICE,
    .description = "ICH9 SATA controller (AHCI)",
    .instance_size = sizeof(Ahci),
    .class_init = ahci_class_init,
};
TYPE_REGISTER(ahci_info);
