/*
 * "isa-fdc", the PC's floppy disk controller, with its bus "floppy-bus" and drives "floppy". Sources: Intel
 * 82078 data sheet (order number 290468), NEC uPD765A data sheet; ECMA-125 and its kin for what formats there
 * are.
 *
 * Ports 3f2h to 3f5h and 3f7h, IRQ 6, DMA channel 2; also transfers by the processor (non-DMA mode). Sectors
 * of 512 bytes, the only ones that image files of PCs have: others are "not found". Left out on purpose:
 * status registers A and B (of PS/2 machines), the SCAN commands (invalid, as for 82078 parts without them),
 * tape drives, delays: heads and motors move at once.
 *
 * Everything is under the controller's HomeLock; the medium is read and written from the main loop, a sector
 * at a time. While the machine stands still nothing moves. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/storage/fdc.h"

#include "base/error.h"
#include "base/log.h"
#include "block/block.h"
#include "hw/isa/i8257.h"
#include "hw/isa/isa.h"
#include "trace/trace.h"

#include <errno.h>
#include <string.h>

TRACE_EVENT(fdc_read, "port %u value 0x%02x");
TRACE_EVENT(fdc_write, "port %u value 0x%02x");
TRACE_EVENT(fdc_command, "command 0x%02x drive %u");
TRACE_EVENT(fdc_sector, "drive %u cylinder %u head %u sector %u write %d");
TRACE_EVENT(fdc_result, "st0 0x%02x st1 0x%02x st2 0x%02x");

#define SECTOR   512u
#define FIFO_MAX 16

/* Offsets from the base, 3f0h. */
enum { PORT_DOR = 2, PORT_TDR = 3, PORT_MSR = 4, PORT_FIFO = 5, PORT_DIR = 7 };
enum { DOR_SELECT = 0x03, DOR_NOT_RESET = 0x04, DOR_DMA_GATE = 0x08 };
enum { MSR_BUSY = 0x10, MSR_NON_DMA = 0x20, MSR_DIO = 0x40, MSR_RQM = 0x80 };
enum { DSR_RATE = 0x03, DSR_RESET = 0x80 };
enum { DIR_CHANGED = 0x80 };

/* Commands, without their modifiers. */
enum {
    CMD_READ_TRACK = 0x02,
    CMD_SPECIFY = 0x03,
    CMD_SENSE_DRIVE = 0x04,
    CMD_WRITE = 0x05,
    CMD_READ = 0x06,
    CMD_RECALIBRATE = 0x07,
    CMD_SENSE_INTERRUPT = 0x08,
    CMD_WRITE_DELETED = 0x09,
    CMD_READ_ID = 0x0a,
    CMD_READ_DELETED = 0x0c,
    CMD_FORMAT = 0x0d,
    CMD_DUMP = 0x0e,
    CMD_SEEK = 0x0f,
    CMD_VERSION = 0x10,
    CMD_PERPENDICULAR = 0x12,
    CMD_CONFIGURE = 0x13,
    CMD_LOCK = 0x14,
    CMD_VERIFY = 0x16,
    CMD_PART_ID = 0x18,
    CMD_SAVE = 0x2e,
    CMD_OPTION = 0x33,
    CMD_RESTORE = 0x4e,
    CMD_RELATIVE_SEEK = 0x8f,
    CMD_DRIVE_SPECIFICATION = 0x8e,
};
enum { MODIFIER_MT = 0x80, LOCK_BIT = 0x80, RELATIVE_IN = 0x40, VERIFY_EC = 0x80 };

enum {
    ST0_ABNORMAL = 0x40,
    ST0_INVALID = 0x80,
    ST0_POLLING = 0xc0,
    ST0_SEEK_END = 0x20,
    ST0_EQUIPMENT = 0x10
};
enum {
    ST1_MISSING_MARK = 0x01,
    ST1_READ_ONLY = 0x02,
    ST1_NO_DATA = 0x04,
    ST1_OVERRUN = 0x10,
    ST1_DATA_ERROR = 0x20,
    ST1_END = 0x80
};
enum { ST2_WRONG_CYLINDER = 0x10, ST2_DATA_ERROR = 0x20 };
enum { ST3_TWO_SIDED = 0x08, ST3_TRACK_0 = 0x10, ST3_READY = 0x20, ST3_WRITE_PROTECTED = 0x40 };
enum { CONFIG_IMPLIED_SEEK = 0x40, CONFIG_DEFAULT = 0x20 }; /* FIFO off */

#define VERSION_82078 0x90
#define PART_82078    0x41

/* ---- formats ---- */

enum { DRIVE_NONE, DRIVE_288, DRIVE_144, DRIVE_120, DRIVE_AUTO };
static const char *const drive_type_names[] = { "none", "288", "144", "120", "auto" };
static const EnumLookup drive_type_lookup = { "FloppyDriveType", drive_type_names, 5 };
enum { RATE_500K, RATE_300K, RATE_250K, RATE_1M };

typedef struct Format {
    uint8_t drive; /* that takes it */
    uint8_t cylinders, heads, sectors;
    uint8_t rate;
} Format;

/* The first of a drive's is its usual one. A size that several have means the first of them. */
static const Format formats[] = {
    { DRIVE_144, 80, 2, 18, RATE_500K }, { DRIVE_144, 80, 2, 20, RATE_500K },
    { DRIVE_144, 80, 2, 21, RATE_500K }, { DRIVE_144, 82, 2, 21, RATE_500K },
    { DRIVE_144, 83, 2, 21, RATE_500K }, { DRIVE_144, 80, 2, 22, RATE_500K },
    { DRIVE_144, 80, 2, 23, RATE_500K }, { DRIVE_144, 80, 2, 24, RATE_500K },
    { DRIVE_288, 80, 2, 36, RATE_1M },   { DRIVE_288, 80, 2, 39, RATE_1M },
    { DRIVE_288, 80, 2, 40, RATE_1M },   { DRIVE_288, 80, 2, 44, RATE_1M },
    { DRIVE_288, 80, 2, 48, RATE_1M },   { DRIVE_144, 80, 2, 9, RATE_250K },
    { DRIVE_144, 80, 2, 10, RATE_250K }, { DRIVE_144, 82, 2, 10, RATE_250K },
    { DRIVE_144, 83, 2, 10, RATE_250K }, { DRIVE_144, 80, 2, 13, RATE_250K },
    { DRIVE_144, 80, 2, 14, RATE_250K }, { DRIVE_120, 80, 2, 15, RATE_500K },
    { DRIVE_120, 80, 2, 18, RATE_500K }, { DRIVE_120, 82, 2, 18, RATE_500K },
    { DRIVE_120, 80, 2, 9, RATE_300K },  { DRIVE_120, 40, 2, 9, RATE_300K },
    { DRIVE_120, 40, 2, 8, RATE_300K },  { DRIVE_120, 40, 1, 9, RATE_300K },
    { DRIVE_120, 40, 1, 8, RATE_300K },
};

static uint64_t format_bytes(const Format *f)
{
    return (uint64_t)f->cylinders * f->heads * f->sectors * SECTOR;
}

/* What an image of that size is in a drive of a type (AUTO: in any); NULL: nothing that fits. */
static const Format *format_find(int drive, uint64_t bytes)
{
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        const Format *f = &formats[i];
        /* A drive of 2.88 MB takes what one of 1.44 MB does. */
        bool takes =
            drive == DRIVE_AUTO || drive == f->drive || (drive == DRIVE_288 && f->drive == DRIVE_144);
        if (takes && format_bytes(f) == bytes) {
            return f;
        }
    }
    return NULL;
}

/* ---- state ---- */

typedef struct FloppyBus {
    Bus parent_obj;
    struct Fdc *fdc;
} FloppyBus;
#define FLOPPY_BUS(obj) OBJECT_CHECK(FloppyBus, obj, TYPE_FLOPPY_BUS)

typedef struct Floppy {
    Device parent_obj;
    /* saved */
    uint8_t track;
    bool changed; /* the medium, since the heads moved last */
    /* from properties */
    BlockBackend *bb;
    int32_t unit, bootindex;
    int drive_type, on_read_error, on_write_error;
    bool share_rw;
    /* derived */
    const Format *format; /* of the medium; NULL: none */
} Floppy;
#define FLOPPY(obj) OBJECT_CHECK(Floppy, obj, TYPE_FLOPPY)

typedef enum FdcPhase { PHASE_COMMAND, PHASE_EXECUTE, PHASE_RESULT, PHASE_COUNT } FdcPhase;
typedef enum FdcOp { OP_READ, OP_WRITE, OP_VERIFY, OP_FORMAT, OP_COUNT } FdcOp;

typedef struct FdcRequest {
    struct Fdc *fdc; /* NULL: cancelled */
    HomeLock *home;
    struct iovec iov;
    uint8_t data[SECTOR];
} FdcRequest;

typedef struct Fdc {
    Device parent_obj;
    /* saved: registers */
    uint8_t dor, tdr, rate;
    uint8_t specify[2], config[2], perpendicular; /* config: third and fourth byte of CONFIGURE */
    bool lock;
    bool irq;               /* wanted; DOR's DMA gate lets it through */
    uint8_t reset_senses;   /* "polling" interrupts after a reset that were not sensed yet */
    uint8_t seek_status[4]; /* ST0 of a seek that has ended; 0: none */
    uint8_t pcn[4];         /* the cylinder that each drive is believed to be on */
    /* saved: the command */
    uint8_t phase;          /* FdcPhase */
    uint8_t fifo[FIFO_MAX]; /* a command or a result */
    uint8_t fifo_pos, fifo_length;
    uint8_t op, drive, head;     /* head: that is selected */
    bool multi_track, ignore_id; /* ignore_id: READ TRACK */
    uint8_t id[4];               /* cylinder, head, sector, size code of the present sector */
    uint8_t last_sector;         /* EOT */
    uint8_t count, fill;         /* sectors left to format or verify (0: up to EOT); what to fill with */
    bool counted;
    bool full;    /* buffer has a sector that was read, or that is to be written */
    bool last;    /* terminal count came */
    uint16_t pos; /* in buffer */
    uint8_t buffer[SECTOR];
    /* from properties */
    uint32_t iobase, irq_number;
    int32_t dma;
    int fd_type[FDC_DRIVES], fallback;
    /* derived */
    Floppy *drives[FDC_DRIVES];
    Device *dma_dev; /* NULL: there is none */
    IrqLine *irq_line;
    FloppyBus *bus;
    FdcRequest *request;
    BottomHalf *bh;
    bool stopped; /* the machine stands still, or a request failed and waits for it to run again */
    MemoryRegion ports, dir_port;
} Fdc;
#define FDC(obj) OBJECT_CHECK(Fdc, obj, TYPE_ISA_FDC)

static Floppy *drive_at(Fdc *s, unsigned n)
{
    return n < FDC_DRIVES ? s->drives[n] : NULL;
}

static void update_irq(Fdc *s)
{
    irq_set(s->irq_line, s->irq && (s->dor & DOR_DMA_GATE));
}

static void set_irq(Fdc *s, bool level)
{
    s->irq = level;
    update_irq(s);
}

static bool non_dma(const Fdc *s)
{
    return s->specify[1] & 1;
}

/* ---- how commands end ---- */

static void to_command(Fdc *s)
{
    s->phase = PHASE_COMMAND;
    s->fifo_pos = s->fifo_length = 0;
}

static void to_result(Fdc *s, const uint8_t *bytes, uint8_t count)
{
    memcpy(s->fifo, bytes, count);
    s->phase = PHASE_RESULT;
    s->fifo_pos = 0;
    s->fifo_length = count;
}

/* Of commands that transfer, with an interrupt. */
static void finish(Fdc *s, uint8_t st0, uint8_t st1, uint8_t st2)
{
    uint8_t result[7] = {
        st0 | (uint8_t)(s->head << 2) | s->drive, st1, st2, s->id[0], s->id[1], s->id[2], s->id[3]
    };
    TRACE(fdc_result, result[0], st1, st2);
    to_result(s, result, sizeof(result));
    set_irq(s, true);
}

static void fail(Fdc *s, uint8_t st1, uint8_t st2)
{
    finish(s, ST0_ABNORMAL, st1, st2);
}

static void forget_request(Fdc *s)
{
    if (s->request) {
        s->request->fdc = NULL;
        s->request = NULL;
    }
}

/* Back to the state after the RESET pin or, for what LOCK keeps, after a reset by software. */
static void controller_reset(Fdc *s, bool by_software)
{
    forget_request(s);
    to_command(s);
    s->full = s->last = false;
    s->pos = 0;
    s->irq = false;
    s->reset_senses = 0;
    memset(s->seek_status, 0, sizeof(s->seek_status));
    memset(s->pcn, 0, sizeof(s->pcn));
    s->perpendicular &= by_software ? 0x3c : 0;
    if (!by_software || !s->lock) {
        s->config[0] = CONFIG_DEFAULT;
        s->config[1] = 0;
    }
    if (!by_software) {
        s->lock = false;
    }
}

/* The controller comes out of a reset: it polls the four drives and says so. */
static void controller_ready(Fdc *s)
{
    s->reset_senses = 4;
    set_irq(s, true);
}

/* ---- sectors ---- */

static void step(void *opaque);

/* Finds the present sector on the medium; false: the command has failed. */
static bool find_sector(Fdc *s, uint64_t *offset)
{
    Floppy *f = drive_at(s, s->drive);
    const Format *m = f ? f->format : NULL;
    if (!m || m->rate != s->rate || s->head >= m->heads || f->track >= m->cylinders) {
        fail(s, ST1_MISSING_MARK, 0);
        return false;
    }
    if (s->ignore_id) {
        s->id[0] = f->track;
        s->id[1] = s->head;
    }
    if (s->id[0] != f->track) {
        fail(s, ST1_NO_DATA, ST2_WRONG_CYLINDER);
        return false;
    }
    if (s->id[1] != s->head || s->id[2] == 0 || s->id[2] > m->sectors || s->id[3] != 2) {
        fail(s, ST1_NO_DATA, 0);
        return false;
    }
    *offset = (((uint64_t)f->track * m->heads + s->head) * m->sectors + s->id[2] - 1) * SECTOR;
    return true;
}

/* Goes on to the next sector as the result phase names it (82078, table 6-2); false: that was the last. */
static bool next_sector(Fdc *s)
{
    if (s->id[2] != s->last_sector) {
        s->id[2]++;
        return true;
    }
    s->id[2] = 1;
    if (s->multi_track && s->head == 0) {
        s->head = s->id[1] = 1;
        return true;
    }
    if (s->multi_track) {
        s->id[1] = 0;
    }
    s->id[0]++;
    return false;
}

/* A sector has been moved as a whole. */
static void sector_done(Fdc *s)
{
    uint8_t head = s->head;
    bool more = next_sector(s);
    s->full = false;
    s->pos = 0;
    if (s->last || (s->counted && --s->count == 0)) {
        s->head = head; /* of the sector that was moved */
        finish(s, 0, 0, 0);
    } else if (more) {
        bh_schedule(s->bh);
    } else if (s->op == OP_VERIFY && !s->counted) {
        finish(s, 0, 0, 0);
    } else {
        fail(s, ST1_END, 0); /* nobody said that it was the last */
    }
}

/* ---- the medium ---- */

static bool request_failed(Fdc *s, Floppy *f, bool is_read, int result)
{
    BlockErrorAction action = result < 0 ? bb_error(f->bb, is_read, -result) : BLOCK_ERROR_IGNORE;
    if (action == BLOCK_ERROR_STOP) {
        s->stopped = true; /* made again when the machine runs */
    } else if (action == BLOCK_ERROR_REPORT) {
        fail(s, ST1_DATA_ERROR, ST2_DATA_ERROR);
    }
    return action != BLOCK_ERROR_IGNORE;
}

/* In the main loop, no lock held. */
static void request_done(void *opaque, int result)
{
    FdcRequest *req = opaque;
    home_lock(req->home);
    Fdc *s = req->fdc;
    if (s) {
        bool is_read = s->op == OP_READ || s->op == OP_VERIFY;
        Floppy *f = drive_at(s, s->drive);
        s->request = NULL;
        if (f && !request_failed(s, f, is_read, result)) {
            if (is_read) {
                memcpy(s->buffer, req->data, SECTOR);
                s->full = true;
                bh_schedule(s->bh);
            } else {
                sector_done(s);
            }
        }
    }
    home_unlock(req->home);
    g_free(req);
}

static void submit(Fdc *s, uint64_t offset)
{
    bool write = s->op == OP_WRITE || s->op == OP_FORMAT;
    Floppy *f = s->drives[s->drive];
    FdcRequest *req = g_new(FdcRequest, 1);
    TRACE(fdc_sector, s->drive, s->id[0], s->head, s->id[2], write);
    req->fdc = s;
    req->home = &s->parent_obj.lock;
    req->iov = (struct iovec){ req->data, SECTOR };
    s->request = req;
    if (!write) {
        bb_readv(f->bb, s->parent_obj.env->loop, offset, &req->iov, 1, request_done, req);
        return;
    }
    if (s->op == OP_FORMAT) {
        memset(req->data, s->fill, SECTOR);
    } else {
        memcpy(req->data, s->buffer, SECTOR);
    }
    bb_writev(f->bb, s->parent_obj.env->loop, offset, &req->iov, 1, 0, request_done, req);
}

/* ---- execution ---- */

/* By DMA between buffer[pos] and memory, up to `end`; false: nobody took it in time. */
static bool move_by_dma(Fdc *s, uint16_t end)
{
    bool done = false;
    uint32_t moved = 0;
    if (s->dma_dev && s->dma >= 0) {
        moved = i8257_transfer(s->dma_dev, (unsigned)s->dma, s->buffer + s->pos, end - s->pos, &done);
    }
    s->pos = (uint16_t)(s->pos + moved);
    s->last = s->last || done;
    if (s->pos < end && !s->last) {
        fail(s, ST1_OVERRUN, 0);
        return false;
    }
    return true;
}

static void step_read(Fdc *s)
{
    uint64_t offset;
    if (!s->full) {
        if (find_sector(s, &offset)) {
            submit(s, offset);
        }
    } else if (s->op == OP_VERIFY) {
        sector_done(s);
    } else if (non_dma(s)) {
        set_irq(s, true); /* the processor fetches it */
    } else if (move_by_dma(s, SECTOR)) {
        sector_done(s);
    }
}

static void step_write(Fdc *s)
{
    uint64_t offset;
    if (s->full) {
        if (find_sector(s, &offset)) {
            submit(s, offset);
        }
        return;
    }
    if (!find_sector(s, &offset)) {
        return;
    }
    if (bb_read_only(s->drives[s->drive]->bb)) {
        fail(s, ST1_READ_ONLY, 0);
    } else if (non_dma(s)) {
        set_irq(s, true);
    } else if (move_by_dma(s, SECTOR)) {
        memset(s->buffer + s->pos, 0, SECTOR - s->pos);
        s->full = true;
        bh_schedule(s->bh);
    }
}

/* FORMAT TRACK is told the ids of the sectors; a sector is found by its number on the track of its own head.
 */
static void step_format(Fdc *s)
{
    Floppy *f = drive_at(s, s->drive);
    uint64_t offset;
    if (f && f->format && bb_read_only(f->bb)) {
        fail(s, ST1_READ_ONLY, 0);
        return;
    }
    if (!s->full) {
        if (non_dma(s)) {
            set_irq(s, true);
            return;
        }
        if (!move_by_dma(s, sizeof(s->id))) {
            return;
        }
        s->full = true;
    }
    memcpy(s->id, s->buffer, sizeof(s->id));
    s->last = false; /* the count of sectors ends it */
    if (find_sector(s, &offset)) {
        submit(s, offset);
    }
}

/* In the main loop. */
static void step(void *opaque)
{
    Fdc *s = opaque;
    if (s->phase != PHASE_EXECUTE || s->request || s->stopped) {
        return;
    }
    switch (s->op) {
    case OP_READ:
    case OP_VERIFY:
        step_read(s);
        break;
    case OP_WRITE:
        step_write(s);
        break;
    default:
        step_format(s);
    }
}

static void begin(Fdc *s, FdcOp op)
{
    s->op = op;
    s->full = s->last = false;
    s->pos = 0;
    s->phase = PHASE_EXECUTE;
    bh_schedule(s->bh);
}

/* ---- commands: fifo has them with their parameters ---- */

static void select_drive(Fdc *s)
{
    s->drive = s->fifo[1] & 3;
    s->head = s->fifo[1] >> 2 & 1;
}

/* Moves the heads; a step with a medium in the drive says that it was seen. */
static void seek(Floppy *f, uint8_t track)
{
    if (f->track != track && f->format) {
        f->changed = false;
    }
    f->track = track;
}

static void cmd_transfer(Fdc *s)
{
    uint8_t command = s->fifo[0] & 0x1f;
    FdcOp op = command == CMD_WRITE || command == CMD_WRITE_DELETED ? OP_WRITE
               : command == CMD_VERIFY                              ? OP_VERIFY
                                                                    : OP_READ;
    select_drive(s);
    s->multi_track = (s->fifo[0] & MODIFIER_MT) && command != CMD_READ_TRACK;
    s->ignore_id = command == CMD_READ_TRACK;
    memcpy(s->id, s->fifo + 2, sizeof(s->id));
    s->last_sector = s->fifo[6];
    s->counted = op == OP_VERIFY && (s->fifo[1] & VERIFY_EC);
    s->count = s->fifo[8];
    if (s->ignore_id) {
        s->id[2] = 1;
    }
    Floppy *f = drive_at(s, s->drive);
    if ((s->config[0] & CONFIG_IMPLIED_SEEK) && f) {
        seek(f, s->id[0]);
        s->pcn[s->drive] = s->id[0];
    }
    begin(s, op);
}

static void cmd_format(Fdc *s)
{
    select_drive(s);
    s->multi_track = s->ignore_id = false;
    s->count = s->fifo[3];
    s->counted = true;
    s->last_sector = UINT8_MAX;
    s->fill = s->fifo[5];
    memset(s->id, 0, sizeof(s->id));
    if (s->fifo[2] != 2 || s->count == 0) {
        fail(s, ST1_NO_DATA, 0);
        return;
    }
    begin(s, OP_FORMAT);
}

/* The first id that comes by. */
static void cmd_read_id(Fdc *s)
{
    select_drive(s);
    Floppy *f = drive_at(s, s->drive);
    s->id[0] = f ? f->track : 0;
    s->id[1] = s->head;
    s->id[2] = 1;
    s->id[3] = 2;
    uint64_t offset;
    s->ignore_id = false;
    if (find_sector(s, &offset)) {
        finish(s, 0, 0, 0);
    }
}

static void seek_ended(Fdc *s, uint8_t status)
{
    s->seek_status[s->drive] = ST0_SEEK_END | status | s->drive;
    to_command(s);
    set_irq(s, true);
}

static void cmd_recalibrate(Fdc *s)
{
    select_drive(s);
    Floppy *f = drive_at(s, s->drive);
    s->pcn[s->drive] = 0;
    if (f) {
        seek(f, 0);
    }
    seek_ended(s, f ? 0 : ST0_ABNORMAL | ST0_EQUIPMENT); /* track 0 was never seen */
}

static void seek_to(Fdc *s, unsigned track)
{
    Floppy *f = drive_at(s, s->drive);
    s->pcn[s->drive] = (uint8_t)track;
    if (f) {
        seek(f, (uint8_t)track);
    }
    seek_ended(s, (uint8_t)(s->head << 2));
}

static void cmd_seek(Fdc *s)
{
    select_drive(s);
    seek_to(s, s->fifo[2]);
}

static void cmd_relative_seek(Fdc *s)
{
    select_drive(s);
    int by = s->fifo[0] & RELATIVE_IN ? s->fifo[2] : -s->fifo[2];
    seek_to(s, (unsigned)CLAMP(s->pcn[s->drive] + by, 0, UINT8_MAX));
}

static void cmd_sense_interrupt(Fdc *s)
{
    uint8_t result[2] = { ST0_INVALID, 0 };
    bool more = false;
    set_irq(s, false);
    if (s->reset_senses) {
        unsigned drive = 4u - s->reset_senses--;
        result[0] = ST0_POLLING | (uint8_t)drive;
        result[1] = s->pcn[drive];
        to_result(s, result, 2);
        return;
    }
    for (unsigned i = 0; i < 4; i++) {
        if (!s->seek_status[i]) {
            continue;
        }
        if (result[0] != ST0_INVALID) {
            more = true;
            continue;
        }
        result[0] = s->seek_status[i];
        result[1] = s->pcn[i];
        s->seek_status[i] = 0;
    }
    to_result(s, result, result[0] == ST0_INVALID ? 1 : 2);
    set_irq(s, more);
}

static void cmd_sense_drive(Fdc *s)
{
    select_drive(s);
    Floppy *f = drive_at(s, s->drive);
    uint8_t st3 = (uint8_t)(s->head << 2) | s->drive | ST3_TWO_SIDED | ST3_READY;
    if (f) {
        st3 |=
            (f->track == 0 ? ST3_TRACK_0 : 0) | (f->format && bb_read_only(f->bb) ? ST3_WRITE_PROTECTED : 0);
    }
    to_result(s, &st3, 1);
}

static void cmd_specify(Fdc *s)
{
    memcpy(s->specify, s->fifo + 1, sizeof(s->specify));
    to_command(s);
}

static void cmd_configure(Fdc *s)
{
    memcpy(s->config, s->fifo + 2, sizeof(s->config));
    to_command(s);
}

static void cmd_perpendicular(Fdc *s)
{
    s->perpendicular = s->fifo[1] & 0x80 ? s->fifo[1] & 0x3f : (s->perpendicular & 0x3c) | (s->fifo[1] & 3);
    to_command(s);
}

static void cmd_lock(Fdc *s)
{
    s->lock = s->fifo[0] & LOCK_BIT;
    uint8_t result = s->lock ? 0x10 : 0;
    to_result(s, &result, 1);
}

static void cmd_dump(Fdc *s)
{
    uint8_t result[10] = { s->pcn[0],      s->pcn[1],
                           s->pcn[2],      s->pcn[3],
                           s->specify[0],  s->specify[1],
                           s->last_sector, (uint8_t)(s->lock ? 0x80 : 0) | s->perpendicular,
                           s->config[0],   s->config[1] };
    to_result(s, result, sizeof(result));
}

static void cmd_version(Fdc *s)
{
    to_result(s, &(uint8_t){ VERSION_82078 }, 1);
}

static void cmd_part_id(Fdc *s)
{
    to_result(s, &(uint8_t){ PART_82078 }, 1);
}

static void cmd_save(Fdc *s)
{
    uint8_t result[16] = { 0,
                           0,
                           s->pcn[0],
                           s->pcn[1],
                           s->pcn[2],
                           s->pcn[3],
                           s->specify[0],
                           s->specify[1],
                           s->last_sector,
                           (uint8_t)(s->lock ? 0x80 : 0) | s->perpendicular,
                           s->config[0],
                           s->config[1] };
    to_result(s, result, sizeof(result));
}

static void cmd_restore(Fdc *s)
{
    memcpy(s->pcn, s->fifo + 3, sizeof(s->pcn));
    memcpy(s->specify, s->fifo + 7, sizeof(s->specify));
    s->last_sector = s->fifo[9];
    s->lock = s->fifo[10] & 0x80;
    s->perpendicular = s->fifo[10] & 0x3f;
    memcpy(s->config, s->fifo + 11, sizeof(s->config));
    to_command(s);
}

/* The drives are what they are: up to the byte with DONE, which may want an answer. */
static void cmd_drive_specification(Fdc *s)
{
    uint8_t last = s->fifo[s->fifo_pos - 1];
    if (!(last & 0x80) && s->fifo_pos < 6) {
        s->fifo_length = s->fifo_pos + 1;
        return;
    }
    if (last & 0x40) {
        to_command(s);
    } else {
        to_result(s, (const uint8_t[4]){ 0 }, 4);
    }
}

static void cmd_nothing(Fdc *s)
{
    to_command(s);
}

static void cmd_invalid(Fdc *s)
{
    LOG(LOG_GUEST_ERROR, "isa-fdc: command 0x%02x", s->fifo[0]);
    to_result(s, &(uint8_t){ ST0_INVALID }, 1);
}

static const struct Command {
    uint8_t value, mask; /* of the bits that tell it */
    uint8_t bytes;       /* with its parameters */
    void (*run)(Fdc *s);
} commands[] = {
    { CMD_READ, 0x1f, 9, cmd_transfer },
    { CMD_WRITE, 0x3f, 9, cmd_transfer },
    { CMD_SEEK, 0xff, 3, cmd_seek },
    { CMD_SENSE_INTERRUPT, 0xff, 1, cmd_sense_interrupt },
    { CMD_RECALIBRATE, 0xff, 2, cmd_recalibrate },
    { CMD_FORMAT, 0xbf, 6, cmd_format },
    { CMD_READ_TRACK, 0x9f, 9, cmd_transfer },
    { CMD_RESTORE, 0xff, 17, cmd_restore },
    { CMD_SAVE, 0xff, 1, cmd_save },
    { CMD_READ_DELETED, 0x1f, 9, cmd_transfer },
    { CMD_VERIFY, 0x1f, 9, cmd_transfer },
    { CMD_WRITE_DELETED, 0x3f, 9, cmd_transfer },
    { CMD_READ_ID, 0xbf, 2, cmd_read_id },
    { CMD_SPECIFY, 0xff, 3, cmd_specify },
    { CMD_SENSE_DRIVE, 0xff, 2, cmd_sense_drive },
    { CMD_PERPENDICULAR, 0xff, 2, cmd_perpendicular },
    { CMD_CONFIGURE, 0xff, 4, cmd_configure },
    { CMD_OPTION, 0xff, 2, cmd_nothing },
    { CMD_DRIVE_SPECIFICATION, 0xff, 2, cmd_drive_specification },
    { CMD_RELATIVE_SEEK, 0xbf, 3, cmd_relative_seek },
    { CMD_VERSION, 0xff, 1, cmd_version },
    { CMD_DUMP, 0xff, 1, cmd_dump },
    { CMD_PART_ID, 0xff, 1, cmd_part_id },
    { CMD_LOCK, 0x7f, 1, cmd_lock },
};

static const struct Command *command_find(uint8_t byte)
{
    static const struct Command invalid = { .bytes = 1, .run = cmd_invalid };
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if ((byte & commands[i].mask) == commands[i].value) {
            return &commands[i];
        }
    }
    return &invalid;
}

/* ---- the FIFO ---- */

static void command_byte(Fdc *s, uint8_t byte)
{
    if (s->fifo_pos == 0) {
        s->fifo_length = command_find(byte)->bytes;
    }
    /* RESTORE's last parameters mean nothing. */
    s->fifo[MIN(s->fifo_pos, FIFO_MAX - 1)] = byte;
    if (++s->fifo_pos == s->fifo_length) {
        TRACE(fdc_command, s->fifo[0], s->fifo[1] & 3u);
        command_find(s->fifo[0])->run(s);
    }
}

/* Whether the processor moves bytes now, and to which side. */
static bool data_phase(const Fdc *s, bool *to_processor)
{
    *to_processor = s->op == OP_READ;
    return s->phase == PHASE_EXECUTE && non_dma(s) && s->op != OP_VERIFY && s->full == *to_processor &&
           !s->request;
}

static uint8_t fifo_read(Fdc *s)
{
    bool to_processor;
    if (data_phase(s, &to_processor) && to_processor && s->pos < SECTOR) {
        uint8_t byte = s->buffer[s->pos++];
        set_irq(s, false);
        if (s->pos == SECTOR) {
            sector_done(s);
        }
        return byte;
    }
    if (s->phase != PHASE_RESULT) {
        return 0;
    }
    uint8_t byte = s->fifo[s->fifo_pos++];
    if (s->fifo_pos == 1 && !s->reset_senses) {
        bool seeks = false;
        for (unsigned i = 0; i < 4; i++) {
            seeks = seeks || s->seek_status[i];
        }
        set_irq(s, seeks);
    }
    if (s->fifo_pos == s->fifo_length) {
        to_command(s);
    }
    return byte;
}

static void fifo_write(Fdc *s, uint8_t byte)
{
    bool to_processor;
    if (s->phase == PHASE_COMMAND) {
        command_byte(s, byte);
    } else if (data_phase(s, &to_processor) && !to_processor && s->pos < SECTOR) {
        unsigned end = s->op == OP_FORMAT ? sizeof(s->id) : SECTOR;
        s->buffer[s->pos++] = byte;
        set_irq(s, false);
        if (s->pos == end) {
            s->full = true;
            bh_schedule(s->bh);
        }
    }
}

static uint8_t main_status(const Fdc *s)
{
    bool to_processor;
    if (!(s->dor & DOR_NOT_RESET)) {
        return 0;
    }
    switch (s->phase) {
    case PHASE_COMMAND:
        return MSR_RQM | (s->fifo_pos ? MSR_BUSY : 0);
    case PHASE_RESULT:
        return MSR_RQM | MSR_DIO | MSR_BUSY;
    }
    if (data_phase(s, &to_processor)) {
        return MSR_BUSY | MSR_NON_DMA | MSR_RQM | (to_processor ? MSR_DIO : 0);
    }
    return MSR_BUSY | (non_dma(s) ? MSR_NON_DMA : 0);
}

/* ---- ports ---- */

static void write_dor(Fdc *s, uint8_t value)
{
    uint8_t old = s->dor;
    s->dor = value;
    if ((old & DOR_NOT_RESET) && !(value & DOR_NOT_RESET)) {
        controller_reset(s, true);
    } else if (!(old & DOR_NOT_RESET) && (value & DOR_NOT_RESET)) {
        controller_ready(s);
    }
    update_irq(s);
}

static void write_dsr(Fdc *s, uint8_t value)
{
    s->rate = value & DSR_RATE;
    if (value & DSR_RESET) {
        controller_reset(s, true);
        controller_ready(s);
    }
}

static uint8_t read_dir(Fdc *s)
{
    Floppy *f = drive_at(s, s->dor & DOR_SELECT);
    return f && (f->changed || !f->format) ? DIR_CHANGED : 0;
}

static uint64_t port_read(Fdc *s, unsigned port)
{
    switch (port) {
    case PORT_DOR:
        return s->dor;
    case PORT_TDR:
        return s->tdr;
    case PORT_MSR:
        return main_status(s);
    case PORT_FIFO:
        return s->dor & DOR_NOT_RESET ? fifo_read(s) : 0;
    case PORT_DIR:
        return read_dir(s);
    }
    return 0xff;
}

static void port_write(Fdc *s, unsigned port, uint8_t value)
{
    TRACE(fdc_write, port, value);
    switch (port) {
    case PORT_DOR:
        write_dor(s, value);
        break;
    case PORT_TDR:
        s->tdr = value & 3;
        break;
    case PORT_MSR:
        write_dsr(s, value);
        break;
    case PORT_FIFO:
        if (s->dor & DOR_NOT_RESET) {
            fifo_write(s, value);
        }
        break;
    case PORT_DIR: /* CCR when it is written */
        s->rate = value & DSR_RATE;
        break;
    }
}

static uint64_t ports_read(void *opaque, hwaddr offset, unsigned size)
{
    uint64_t value = port_read(opaque, (unsigned)offset + PORT_DOR);
    TRACE(fdc_read, (unsigned)offset + PORT_DOR, (unsigned)value);
    return value;
}

static void ports_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    port_write(opaque, (unsigned)offset + PORT_DOR, (uint8_t)value);
}

static uint64_t dir_read(void *opaque, hwaddr offset, unsigned size)
{
    return port_read(opaque, PORT_DIR);
}

static void dir_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    port_write(opaque, PORT_DIR, (uint8_t)value);
}

static const MemoryRegionOps ports_ops = {
    .read = ports_read,
    .write = ports_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};
static const MemoryRegionOps dir_ops = {
    .read = dir_read,
    .write = dir_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- drives ---- */

static Fdc *fdc_of(Floppy *f)
{
    return FLOPPY_BUS(DEVICE(f)->bus)->fdc;
}

/* The type that the user or the medium gives a drive. */
static bool choose_type(Floppy *f, GError **error)
{
    Fdc *s = fdc_of(f);
    bool medium = f->bb && bb_has_medium(f->bb);
    if (f->drive_type == DRIVE_AUTO) {
        f->drive_type = s->fd_type[f->unit];
    }
    if (medium) {
        f->format = format_find(f->drive_type, bb_size(f->bb));
        if (!f->format) {
            error_set(error,
                      "drive '%s' has %" PRIu64
                      " bytes, and no floppy disk of a drive of type '%s' has that size",
                      bb_name(f->bb), bb_size(f->bb), drive_type_names[f->drive_type]);
            error_append_hint(error,
                              "Usual sizes: 1474560 (1.44 MB), 2949120, 1228800, 737280, 368640 bytes.");
            return false;
        }
    }
    if (f->drive_type == DRIVE_AUTO) {
        f->drive_type = f->format ? f->format->drive : s->fallback;
    }
    return true;
}

static bool floppy_attach(Floppy *f, GError **error)
{
    static const BlockDevOps ops = { NULL }; /* a floppy disk does not grow */
    g_autofree char *path = object_get_canonical_path(OBJECT(f));
    const char *name = DEVICE(f)->id ? DEVICE(f)->id : path;
    if (!bb_attach_device(f->bb, name, bb_read_only(f->bb), f->share_rw, &ops, f, error)) {
        return false;
    }
    bb_set_qdev_path(f->bb, path);
    bb_set_on_error(f->bb, (BlockOnError)f->on_read_error, (BlockOnError)f->on_write_error);
    return true;
}

static bool floppy_realize(Device *dev, GError **error)
{
    Floppy *f = FLOPPY(dev);
    Fdc *s = fdc_of(f);
    if (f->drive_type == DRIVE_NONE && f->bb) {
        return error_set(error, "a drive of type 'none' takes no medium");
    }
    if (!choose_type(f, error) || (f->bb && !floppy_attach(f, error))) {
        f->format = NULL;
        return false;
    }
    home_lock(&DEVICE(s)->lock);
    f->track = 0;
    f->changed = true;
    s->drives[f->unit] = f;
    home_unlock(&DEVICE(s)->lock);
    return true;
}

static void floppy_unrealize(Device *dev)
{
    Floppy *f = FLOPPY(dev);
    Fdc *s = fdc_of(f);
    home_lock(&DEVICE(s)->lock);
    s->drives[f->unit] = NULL;
    if (s->drive == f->unit) {
        forget_request(s);
        if (s->phase == PHASE_EXECUTE) {
            fail(s, ST1_MISSING_MARK, 0);
        }
    }
    home_unlock(&DEVICE(s)->lock);
    if (f->bb) {
        bb_drain(f->bb, dev->env->loop); /* what was forgotten ends */
        bb_detach_device(f->bb);
    }
    f->format = NULL;
}

static void floppy_reset(Device *dev)
{
    Floppy *f = FLOPPY(dev);
    home_lock(&DEVICE(fdc_of(f))->lock);
    f->track = 0;
    f->changed = true;
    home_unlock(&DEVICE(fdc_of(f))->lock);
}

static bool floppy_check_address(Bus *bus, Device *dev, GError **error)
{
    Floppy *f = FLOPPY(dev);
    Fdc *s = FLOPPY_BUS(bus)->fdc;
    for (int i = 0; f->unit < 0 && i < FDC_DRIVES; i++) {
        f->unit = s->drives[i] ? -1 : i;
    }
    if (f->unit < 0 || f->unit >= FDC_DRIVES) {
        return error_set(error, "Can't create floppy unit %d, bus supports only %d units", f->unit,
                         FDC_DRIVES);
    }
    if (s->drives[f->unit]) {
        return error_set(error, "Floppy unit %d is in use", f->unit);
    }
    return true;
}

static char *floppy_device_path(Device *dev)
{
    return g_strdup_printf("fdc@%04x/floppy@%x", fdc_of(FLOPPY(dev))->iobase, FLOPPY(dev)->unit);
}

static const Property floppy_properties[] = {
    PROP_TYPED("drive", Floppy, bb, property_type_drive, "the medium: a drive's id or a block node's name"),
    PROP_INT32("unit", Floppy, unit, -1, "0 or 1 (-1: the first free)"),
    PROP_ENUM("drive-type", Floppy, drive_type, drive_type_lookup, DRIVE_AUTO,
              "288, 144, 120 or none (auto: what the medium is)"),
    PROP_INT32("bootindex", Floppy, bootindex, -1, "place in the boot order (-1: none)"),
    PROP_BOOL("share-rw", Floppy, share_rw, false, "others may write to the medium too"),
    PROP_ENUM("rerror", Floppy, on_read_error, block_on_error_lookup, BLOCK_ON_ERROR_AUTO,
              "when a read fails"),
    PROP_ENUM("werror", Floppy, on_write_error, block_on_error_lookup, BLOCK_ON_ERROR_AUTO,
              "when a write fails"),
    PROP_END,
};

static const VmStateField floppy_fields[] = {
    VMS_UINT8(track, Floppy),
    VMS_BOOL(changed, Floppy),
    VMS_END,
};
static const VmState floppy_vmstate = { .name = TYPE_FLOPPY, .version = 1, .fields = floppy_fields };

static void floppy_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->bus_type = TYPE_FLOPPY_BUS;
    dc->user_creatable = true;
    dc->category = "Storage";
    dc->vmstate = &floppy_vmstate;
    dc->realize = floppy_realize;
    dc->unrealize = floppy_unrealize;
    dc->reset = floppy_reset;
    object_class_add_properties(klass, floppy_properties);
}

static const TypeInfo floppy_info = {
    .name = TYPE_FLOPPY,
    .parent = TYPE_DEVICE,
    .description = "floppy disk drive",
    .instance_size = sizeof(Floppy),
    .class_init = floppy_class_init,
};
TYPE_REGISTER(floppy_info);

static void floppy_bus_class_init(ObjectClass *klass, const void *data)
{
    BusClass *bc = (BusClass *)klass;
    bc->max_devices = FDC_DRIVES;
    bc->check_address = floppy_check_address;
    bc->device_path = floppy_device_path;
}

static const TypeInfo floppy_bus_info = {
    .name = TYPE_FLOPPY_BUS,
    .parent = TYPE_BUS,
    .description = "cable of floppy disk drives",
    .instance_size = sizeof(FloppyBus),
    .class_init = floppy_bus_class_init,
};
TYPE_REGISTER(floppy_bus_info);

/* ---- the controller's life ---- */

uint8_t isa_fdc_cmos_types(Device *dev)
{
    static const uint8_t codes[] = {
        [DRIVE_NONE] = 0, [DRIVE_288] = 5, [DRIVE_144] = 4, [DRIVE_120] = 2, [DRIVE_AUTO] = 0
    };
    Fdc *s = FDC(dev);
    uint8_t types = 0;
    for (unsigned i = 0; i < FDC_DRIVES; i++) {
        types |= (uint8_t)((s->drives[i] ? codes[s->drives[i]->drive_type] : 0) << (i ? 0 : 4));
    }
    return types;
}

static void run_changed(void *opaque, bool running)
{
    Fdc *s = opaque;
    home_lock(&DEVICE(s)->lock);
    s->stopped = !running;
    if (running && s->phase == PHASE_EXECUTE) {
        bh_schedule(s->bh);
    }
    home_unlock(&DEVICE(s)->lock);
    for (unsigned i = 0; !running && i < FDC_DRIVES; i++) {
        if (s->drives[i] && s->drives[i]->bb) {
            bb_drain(s->drives[i]->bb, DEVICE(s)->env->loop);
        }
    }
}

static void fdc_reset(Device *dev)
{
    Fdc *s = FDC(dev);
    controller_reset(s, false);
    s->dor = DOR_DMA_GATE | DOR_NOT_RESET;
    s->tdr = 0;
    s->rate = RATE_250K;
    s->perpendicular = 0;
    memset(s->specify, 0, sizeof(s->specify));
    update_irq(s);
}

static bool check_properties(const Fdc *s, GError **error)
{
    if (s->fallback == DRIVE_NONE || s->fallback == DRIVE_AUTO) {
        return error_set(error, "Property 'fallback' must be 288, 144 or 120");
    }
    if (s->dma > 3) {
        return error_set(error, "Property 'dma' must be a channel that moves bytes: 0 to 3, or -1");
    }
    return true;
}

static bool map_ports(Fdc *s, GError **error)
{
    Device *dev = DEVICE(s);
    memory_region_init_io(&s->ports, s, &ports_ops, s, "fdc", PORT_FIFO - PORT_DOR + 1, &dev->lock);
    memory_region_init_io(&s->dir_port, s, &dir_ops, s, "fdc-dir", 1, &dev->lock);
    if (!isa_map_port(dev, &s->ports, s->iobase + PORT_DOR, error)) {
        goto fail;
    }
    if (!isa_map_port(dev, &s->dir_port, s->iobase + PORT_DIR, error)) {
        memory_region_del(dev->env->system_io, &s->ports);
        goto fail;
    }
    return true;
fail:
    memory_region_destroy(&s->ports);
    memory_region_destroy(&s->dir_port);
    return false;
}

static bool fdc_realize(Device *dev, GError **error)
{
    Fdc *s = FDC(dev);
    const VmServices *vm = dev->env->vm;
    if (!check_properties(s, error) || !isa_get_irq(dev, s->irq_number, &s->irq_line, error) ||
        !map_ports(s, error)) {
        return false;
    }
    s->dma_dev = i8257_find(dev->bus);
    s->bus = FLOPPY_BUS(bus_new(TYPE_FLOPPY_BUS, dev, NULL, dev->env));
    s->bus->fdc = s;
    s->bh = bh_new(dev->env->loop, step, s, &dev->lock);
    if (vm && vm->add_run_handler) {
        vm->add_run_handler(vm->opaque, run_changed, s);
    }
    return true;
}

static void fdc_unrealize(Device *dev)
{
    Fdc *s = FDC(dev);
    if (dev->env->vm && dev->env->vm->remove_handlers) {
        dev->env->vm->remove_handlers(dev->env->vm->opaque, s);
    }
    memory_region_del(dev->env->system_io, &s->ports);
    memory_region_del(dev->env->system_io, &s->dir_port);
    memory_region_destroy(&s->ports);
    memory_region_destroy(&s->dir_port);
    bh_free(s->bh);
    s->bh = NULL;
}

static const Property fdc_properties[] = {
    PROP_UINT32("iobase", Fdc, iobase, 0x3f0, "first I/O port"),
    PROP_UINT32("irq", Fdc, irq_number, 6, "interrupt input"),
    PROP_INT32("dma", Fdc, dma, 2, "DMA channel (-1: none)"),
    PROP_ENUM("fdtypeA", Fdc, fd_type[0], drive_type_lookup, DRIVE_AUTO,
              "what the first drive is, where it does not say"),
    PROP_ENUM("fdtypeB", Fdc, fd_type[1], drive_type_lookup, DRIVE_AUTO, "what the second is"),
    PROP_ENUM("fallback", Fdc, fallback, drive_type_lookup, DRIVE_288, "what a drive without a medium is"),
    PROP_END,
};

/* What a hostile stream could say; every index is in bounds after it. */
static bool fdc_post_load(void *opaque, int version, GError **error)
{
    Fdc *s = opaque;
    forget_request(s);
    if (s->phase >= PHASE_COUNT || s->op >= OP_COUNT || s->drive > 3 || s->head > 1 || s->pos > SECTOR ||
        s->reset_senses > 4 || s->rate > 3 || s->fifo_length > 17 ||
        (s->phase == PHASE_COMMAND && s->fifo_length && s->fifo_pos >= s->fifo_length) ||
        (s->phase == PHASE_COMMAND && !s->fifo_length && s->fifo_pos) ||
        (s->phase == PHASE_RESULT && (s->fifo_length > FIFO_MAX || s->fifo_pos >= s->fifo_length)) ||
        (s->phase == PHASE_EXECUTE && !s->full && s->pos == SECTOR)) {
        controller_reset(s, false);
        return error_set(error, "%s: impossible state of a command", TYPE_ISA_FDC);
    }
    update_irq(s);
    if (s->phase == PHASE_EXECUTE) {
        bh_schedule(s->bh);
    }
    return true;
}

static const VmStateField fdc_fields[] = {
    VMS_UINT8(dor, Fdc),         VMS_UINT8(tdr, Fdc),      VMS_UINT8(rate, Fdc),
    VMS_UINT8(specify, Fdc),     VMS_UINT8(config, Fdc),   VMS_UINT8(perpendicular, Fdc),
    VMS_BOOL(lock, Fdc),         VMS_BOOL(irq, Fdc),       VMS_UINT8(reset_senses, Fdc),
    VMS_UINT8(seek_status, Fdc), VMS_UINT8(pcn, Fdc),      VMS_UINT8(phase, Fdc),
    VMS_UINT8(fifo, Fdc),        VMS_UINT8(fifo_pos, Fdc), VMS_UINT8(fifo_length, Fdc),
    VMS_UINT8(op, Fdc),          VMS_UINT8(drive, Fdc),    VMS_UINT8(head, Fdc),
    VMS_BOOL(multi_track, Fdc),  VMS_BOOL(ignore_id, Fdc), VMS_UINT8(id, Fdc),
    VMS_UINT8(last_sector, Fdc), VMS_UINT8(count, Fdc),    VMS_UINT8(fill, Fdc),
    VMS_BOOL(counted, Fdc),      VMS_BOOL(full, Fdc),      VMS_BOOL(last, Fdc),
    VMS_UINT16(pos, Fdc),        VMS_BUFFER(buffer, Fdc),  VMS_END,
};
static const VmState fdc_vmstate = {
    .name = TYPE_ISA_FDC, .version = 1, .fields = fdc_fields, .post_load = fdc_post_load
};

static void fdc_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->user_creatable = true;
    dc->category = "Storage";
    dc->vmstate = &fdc_vmstate;
    dc->realize = fdc_realize;
    dc->unrealize = fdc_unrealize;
    dc->reset = fdc_reset;
    object_class_add_properties(klass, fdc_properties);
}

static const TypeInfo fdc_info = {
    .name = TYPE_ISA_FDC,
    .parent = TYPE_ISA_DEVICE,
    .description = "floppy disk controller",
    .instance_size = sizeof(Fdc),
    .class_init = fdc_class_init,
};
TYPE_REGISTER(fdc_info);
