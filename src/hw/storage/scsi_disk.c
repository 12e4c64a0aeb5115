/*
 * "scsi-hd" and "scsi-cd": a disk and a CD/DVD drive. Sources: SPC-4 (INQUIRY and its pages, MODE SENSE),
 * SBC-3 (disks), MMC-5 (CD-ROM).
 *
 * Left out: write protection by software, reservations that last, audio, writing to discs, raw CD sectors,
 * changes of the medium while the guest runs. Requests are asynchronous; their completions come in the
 * adapter's loop and take its HomeLock. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "hw/storage/scsi.h"
#include "trace/trace.h"

#include <errno.h>
#include <string.h>

TRACE_EVENT(scsi_disk_io,
            "lun %d operation 0x%02x offset %" G_GINT64_MODIFIER "u bytes %" G_GINT64_MODIFIER "u")

#define TYPE_SCSI_DISK   "scsi-disk" /* abstract */
#define SERIAL_MAX       36
#define MAX_TRANSFER     (64u << 20) /* bytes of a request */
#define MAX_UNMAP        (1u << 30)  /* bytes of a range of UNMAP and WRITE SAME */
#define MAX_UNMAP_RANGES 255u
#define CD_SECTOR        2048u
#define CD_MAX_SECTORS   (80 * 60 * 75)
#define LEAD_OUT         0xaa

enum {
    TEST_UNIT_READY = 0x00,
    READ_6 = 0x08,
    WRITE_6 = 0x0a,
    INQUIRY = 0x12,
    MODE_SELECT = 0x15,
    RESERVE = 0x16,
    RELEASE = 0x17,
    MODE_SENSE = 0x1a,
    START_STOP = 0x1b,
    PREVENT_REMOVAL = 0x1e,
    READ_CAPACITY = 0x25,
    READ_10 = 0x28,
    WRITE_10 = 0x2a,
    SEEK_10 = 0x2b,
    WRITE_VERIFY_10 = 0x2e,
    VERIFY_10 = 0x2f,
    SYNCHRONIZE_10 = 0x35,
    WRITE_SAME_10 = 0x41,
    UNMAP = 0x42,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFORMATION = 0x51,
    MODE_SELECT_10 = 0x55,
    MODE_SENSE_10 = 0x5a,
    READ_16 = 0x88,
    WRITE_16 = 0x8a,
    WRITE_VERIFY_16 = 0x8e,
    VERIFY_16 = 0x8f,
    SYNCHRONIZE_16 = 0x91,
    WRITE_SAME_16 = 0x93,
    SERVICE_ACTION_IN = 0x9e,
    READ_12 = 0xa8,
    WRITE_12 = 0xaa,
    MECHANISM_STATUS = 0xbd,
};
enum { NOT_READY = 2, MEDIUM_ERROR = 3, ILLEGAL_REQUEST = 5, DATA_PROTECT = 7 };
enum {
    ASC_WRITE_ERROR = 0x0c,
    ASC_READ_ERROR = 0x11,
    ASC_PARAMETER_LENGTH = 0x1a,
    ASC_INVALID_COMMAND = 0x20,
    ASC_LBA_RANGE = 0x21,
    ASC_INVALID_FIELD = 0x24,
    ASC_INVALID_PARAMETER = 0x26,
    ASC_WRITE_PROTECTED = 0x27,
    ASC_SAVING_UNSUPPORTED = 0x39,
    ASC_NO_MEDIUM = 0x3a,
    ASC_REMOVAL_PREVENTED = 0x53,
};

typedef struct ScsiDisk {
    ScsiDevice parent_obj;
    /* saved */
    bool open, locked; /* the tray */
    bool write_cache;  /* as the guest has it */
    /* from properties */
    BlockBackend *bb;
    char *serial, *vendor, *product, *version, *device_id;
    uint64_t wwn, logical_block_size, physical_block_size, discard_granularity;
    int32_t bootindex;
    uint16_t rotation_rate;
    bool share_rw, removable;
    int on_read_error, on_write_error, initial_cache;
    /* derived */
    bool initial_write_cache;
} ScsiDisk;
#define SCSI_DISK(obj) OBJECT_CHECK(ScsiDisk, obj, TYPE_SCSI_DISK)

typedef struct ScsiDiskClass {
    ScsiDeviceClass parent_class;
    bool cd;
} ScsiDiskClass;
#define SCSI_DISK_GET_CLASS(obj) OBJECT_GET_CLASS(ScsiDiskClass, obj)

static bool is_cd(const ScsiDisk *s)
{
    return SCSI_DISK_GET_CLASS(s)->cd;
}

static bool has_medium(const ScsiDisk *s)
{
    return s->bb && bb_has_medium(s->bb) && !s->open;
}

static uint32_t unit_block(const ScsiDisk *s)
{
    return is_cd(s) ? CD_SECTOR : (uint32_t)s->logical_block_size;
}

static uint64_t blocks(const ScsiDisk *s)
{
    return has_medium(s) ? bb_size(s->bb) / unit_block(s) : 0;
}

static bool read_only(const ScsiDisk *s)
{
    return is_cd(s) || !s->bb || bb_read_only(s->bb);
}

/* ---- numbers ---- */

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)be16(p) << 16 | be16(p + 2);
}

static uint64_t be64(const uint8_t *p)
{
    return (uint64_t)be32(p) << 32 | be32(p + 4);
}

static void put_be16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static void put_be32(uint8_t *p, uint32_t value)
{
    put_be16(p, value >> 16);
    put_be16(p + 2, value);
}

static void put_be64(uint8_t *p, uint64_t value)
{
    put_be32(p, (uint32_t)(value >> 32));
    put_be32(p + 4, (uint32_t)value);
}

static void put_text(uint8_t *p, const char *text, size_t size)
{
    memset(p, ' ', size);
    memcpy(p, text, MIN(strlen(text), size));
}

static void invalid_field(ScsiRequest *req)
{
    scsi_failed(req, ILLEGAL_REQUEST, ASC_INVALID_FIELD, 0);
}

/* ---- INQUIRY ---- */

static unsigned inquiry_page(ScsiDisk *s, uint8_t page, uint8_t *r)
{
    static const uint8_t disk_pages[] = { 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2 },
                         cd_pages[] = { 0x00, 0x80, 0x83 };
    unsigned length = 4;

    r[1] = page;
    switch (page) {
    case 0x00:
        length += is_cd(s) ? sizeof(cd_pages) : sizeof(disk_pages);
        memcpy(r + 4, is_cd(s) ? cd_pages : disk_pages, length - 4);
        break;
    case 0x80: /* serial number */
        length += s->serial ? (unsigned)strlen(s->serial) : 0;
        put_text(r + 4, s->serial ? s->serial : "", length - 4);
        break;
    case 0x83: { /* designators: the vendor's text, a name */
        const char *id = s->device_id ? s->device_id : s->serial ? s->serial : "";
        unsigned size = (unsigned)MIN(strlen(id), 255u - 8);
        if (size) {
            r[length] = 2; /* ASCII */
            r[length + 3] = (uint8_t)size;
            put_text(r + length + 4, id, size);
            length += 4 + size;
        }
        if (s->wwn) {
            r[length] = 1;
            r[length + 1] = 3; /* NAA */
            r[length + 3] = 8;
            put_be64(r + length + 4, s->wwn);
            length += 12;
        }
        break;
    }
    case 0xb0: /* limits */
        if (is_cd(s)) {
            return 0;
        }
        length = 64;
        put_be32(r + 8, MAX_TRANSFER / unit_block(s));
        put_be32(r + 20, MAX_UNMAP / unit_block(s));
        put_be32(r + 24, MAX_UNMAP_RANGES);
        put_be32(r + 28, (uint32_t)(s->discard_granularity / unit_block(s)));
        put_be64(r + 36, MAX_UNMAP / unit_block(s));
        break;
    case 0xb1: /* characteristics */
        if (is_cd(s)) {
            return 0;
        }
        length = 64;
        put_be16(r + 4, s->rotation_rate);
        break;
    case 0xb2: /* provisioning: UNMAP, WRITE SAME with UNMAP */
        if (is_cd(s)) {
            return 0;
        }
        length = 8;
        r[5] = 0xe0;
        r[6] = 2; /* thin */
        break;
    default:
        return 0;
    }
    put_be16(r + 2, length - 4);
    return length;
}

static void inquiry(ScsiDisk *s, ScsiRequest *req)
{
    uint8_t r[320] = { is_cd(s) ? 5 : 0 };
    unsigned length;

    if (req->cdb[1] & 1) {
        length = inquiry_page(s, req->cdb[2], r);
    } else {
        length = req->cdb[2] ? 0 : 36;
        r[1] = is_cd(s) || s->removable ? 0x80 : 0;
        r[2] = 5; /* SPC-3 */
        r[3] = 0x12;
        r[4] = 31;
        r[7] = 0x02; /* commands are queued */
        put_text(r + 8, s->vendor, 8);
        put_text(r + 16, s->product, 16);
        put_text(r + 32, s->version, 4);
    }
    if (!length) {
        invalid_field(req);
    } else {
        scsi_reply(req, r, length, be16(req->cdb + 3));
    }
}

/* ---- MODE SENSE and MODE SELECT ---- */

static unsigned mode_page(const ScsiDisk *s, uint8_t page, bool changeable, uint8_t *p)
{
    switch (page) {
    case 0x01: /* error recovery */
        p[0] = page;
        p[1] = is_cd(s) ? 6 : 10;
        if (!changeable) {
            p[2] = is_cd(s) ? 0 : 0x80;
            p[3] = is_cd(s) ? 5 : 0;
        }
        return p[1] + 2u;
    case 0x08: /* caching */
        if (is_cd(s)) {
            return 0;
        }
        p[0] = page;
        p[1] = 18;
        p[2] = changeable || s->write_cache ? 4 : 0;
        return 20;
    case 0x0a: /* control */
        p[0] = page;
        p[1] = 10;
        p[3] = changeable ? 0 : 0x10; /* any order of commands */
        return 12;
    case 0x2a: /* capabilities */
        if (!is_cd(s)) {
            return 0;
        }
        p[0] = page;
        p[1] = 18;
        if (!changeable) {
            p[2] = 0x3b;
            p[4] = 0x70;
            p[6] = (uint8_t)(0x29 | (s->locked ? 2 : 0));
            put_be16(p + 8, 706);
            put_be16(p + 12, 512);
            put_be16(p + 14, 706);
        }
        return 20;
    default:
        return 0;
    }
}

static void mode_sense(ScsiDisk *s, ScsiRequest *req)
{
    static const uint8_t all[] = { 0x01, 0x08, 0x0a, 0x2a };
    bool ten = req->cdb[0] == MODE_SENSE_10;
    uint8_t r[256] = { 0 }, page = req->cdb[2] & 63;
    unsigned control = req->cdb[2] >> 6, head = ten ? 8 : 4, length = head, pages = 0;

    if (control == 3) {
        scsi_failed(req, ILLEGAL_REQUEST, ASC_SAVING_UNSUPPORTED, 0);
        return;
    }
    r[ten ? 3 : 2] = is_cd(s) ? 0 : (uint8_t)(0x10 | (read_only(s) ? 0x80 : 0)); /* DPO and FUA; protected */
    r[ten ? 2 : 1] = is_cd(s) && ten ? (has_medium(s) ? 1 : 0x70) : 0;
    if (!is_cd(s) && !(req->cdb[1] & 8)) { /* a block descriptor */
        uint8_t *d = r + length;
        put_be32(d, (uint32_t)MIN(blocks(s), 0xffffffu));
        d[0] = 0;
        put_be32(d + 4, unit_block(s));
        r[ten ? 7 : 3] = 8;
        length += 8;
    }
    for (size_t i = 0; i < sizeof(all); i++) {
        if (page == 63 || page == all[i]) {
            unsigned size = mode_page(s, all[i], control == 1, r + length);
            length += size;
            pages += size != 0;
        }
    }
    if (!pages) {
        invalid_field(req);
        return;
    }
    if (ten) {
        put_be16(r, length - 2);
        scsi_reply(req, r, length, be16(req->cdb + 7));
    } else {
        r[0] = (uint8_t)(length - 1);
        scsi_reply(req, r, length, req->cdb[4]);
    }
}

static size_t gather(const ScsiRequest *req, void *buffer, size_t size)
{
    size_t done = 0;

    for (unsigned i = 0; i < req->out_count && done < size; i++) {
        size_t part = MIN(req->out[i].iov_len, size - done);
        memcpy((uint8_t *)buffer + done, req->out[i].iov_base, part);
        done += part;
    }
    return done;
}

static void mode_select(ScsiDisk *s, ScsiRequest *req)
{
    bool ten = req->cdb[0] == MODE_SELECT_10;
    uint8_t p[256];
    unsigned wanted = ten ? be16(req->cdb + 7) : req->cdb[4], head = ten ? 8 : 4;
    unsigned length = (unsigned)gather(req, p, MIN(wanted, sizeof(p)));

    if (length == 0) {
        scsi_done(req);
        return;
    }
    if (length < head) {
        scsi_failed(req, ILLEGAL_REQUEST, ASC_PARAMETER_LENGTH, 0);
        return;
    }
    unsigned at = head + (ten ? be16(p + 6) : p[3]);
    while (at + 2 <= length) {
        unsigned size = p[at + 1] + 2u;
        if (at + size > length || !(req->cdb[1] & 0x10)) {
            scsi_failed(req, ILLEGAL_REQUEST, ASC_INVALID_PARAMETER, 0);
            return;
        }
        if (p[at] == 0x08 && size >= 3 && !is_cd(s)) {
            s->write_cache = p[at + 2] & 4;
            bb_set_write_cache(s->bb, s->write_cache);
        }
        at += size;
    }
    req->moved = length;
    scsi_done(req);
}

/* ---- sizes ---- */

static void read_capacity(ScsiDisk *s, ScsiRequest *req, bool sixteen)
{
    uint8_t r[32] = { 0 };
    uint64_t last = blocks(s) ? blocks(s) - 1 : 0;

    if (!sixteen) {
        put_be32(r, (uint32_t)MIN(last, UINT32_MAX));
        put_be32(r + 4, unit_block(s));
        scsi_reply(req, r, 8, 8);
        return;
    }
    put_be64(r, last);
    put_be32(r + 8, unit_block(s));
    if (!is_cd(s)) {
        r[13] = (uint8_t)__builtin_ctzll(s->physical_block_size / s->logical_block_size);
        r[14] = read_only(s) ? 0 : 0x80; /* thin */
    }
    scsi_reply(req, r, 32, be32(req->cdb + 10));
}

/* ---- reading and writing ---- */

/* In the adapter's loop, no lock held. */
static void io_done(void *opaque, int result)
{
    ScsiRequest *req = opaque;
    ScsiDisk *s = SCSI_DISK(req->dev);
    HomeLock *home = scsi_bus_of(req->dev)->home;
    BlockErrorAction action = result < 0 ? bb_error(s->bb, req->is_read, -result) : BLOCK_ERROR_IGNORE;

    home_lock(home);
    if (action == BLOCK_ERROR_STOP) {
        g_queue_push_tail(&req->dev->stopped, req);
    } else if (action == BLOCK_ERROR_REPORT) {
        scsi_failed(req, MEDIUM_ERROR, req->is_read ? ASC_READ_ERROR : ASC_WRITE_ERROR, 0);
    } else {
        scsi_done(req);
    }
    home_unlock(home);
}

/* Iovecs cut off after `size` bytes. */
static int trim(const struct iovec *from, unsigned count, size_t size, struct iovec *to)
{
    int n = 0;

    for (unsigned i = 0; i < count && size; i++) {
        size_t part = MIN(from[i].iov_len, size);
        to[n++] = (struct iovec){ from[i].iov_base, part };
        size -= part;
    }
    return n;
}

/* Where a command of that size has its address and count. */
static void command_range(const ScsiRequest *req, uint64_t *lba, uint64_t *count)
{
    const uint8_t *c = req->cdb;

    switch (scsi_cdb_size(c[0])) {
    case 6:
        *lba = (uint32_t)(c[1] & 31) << 16 | be16(c + 2);
        *count = c[4] ? c[4] : 256;
        break;
    case 10:
        *lba = be32(c + 2);
        *count = be16(c + 7);
        break;
    case 12:
        *lba = be32(c + 2);
        *count = be32(c + 6);
        break;
    default:
        *lba = be64(c + 2);
        *count = be32(c + 10);
        break;
    }
}

static bool range_ok(ScsiDisk *s, ScsiRequest *req, uint64_t lba, uint64_t count)
{
    uint64_t total = blocks(s);

    if (lba > total || count > total - lba) {
        scsi_failed(req, ILLEGAL_REQUEST, ASC_LBA_RANGE, 0);
        return false;
    }
    return true;
}

static bool writable(ScsiDisk *s, ScsiRequest *req)
{
    if (read_only(s)) {
        scsi_failed(req, DATA_PROTECT, ASC_WRITE_PROTECTED, 0);
        return false;
    }
    return true;
}

static void transfer(ScsiDisk *s, ScsiRequest *req, bool write)
{
    uint64_t lba, count;

    command_range(req, &lba, &count);
    if ((write && !writable(s, req)) || !range_ok(s, req, lba, count)) {
        return;
    }
    uint64_t bytes = count * unit_block(s), offset = lba * unit_block(s);
    size_t have = write ? req->out_size : req->in_size;
    TRACE(scsi_disk_io, req->dev->lun, req->cdb[0], offset, bytes);
    bytes = MIN(bytes, have - have % unit_block(s)); /* the adapter tells what is missing */
    if (bytes > MAX_TRANSFER) {
        invalid_field(req);
        return;
    }
    req->is_read = !write;
    req->moved = bytes;
    if (!bytes) {
        scsi_done(req);
        return;
    }
    unsigned pieces = write ? req->out_count : req->in_count;
    g_autofree struct iovec *iov = g_new(struct iovec, pieces);
    int n = trim(write ? req->out : req->in, pieces, bytes, iov);
    bool fua = write && scsi_cdb_size(req->cdb[0]) > 6 && (req->cdb[1] & 8);
    if (write) {
        bb_writev(s->bb, req->loop, offset, iov, n, fua ? BLOCK_REQ_FUA : 0, io_done, req);
    } else {
        bb_readv(s->bb, req->loop, offset, iov, n, io_done, req);
    }
}

static void verify(ScsiDisk *s, ScsiRequest *req)
{
    uint64_t lba, count;

    command_range(req, &lba, &count);
    if (req->cdb[1] & 6) { /* against the guest's data */
        invalid_field(req);
    } else if (range_ok(s, req, lba, count)) {
        scsi_done(req);
    }
}

static void write_same(ScsiDisk *s, ScsiRequest *req)
{
    uint64_t lba, count;
    bool unmap = req->cdb[1] & 8, no_data = (req->cdb[1] & 1) && req->cdb[0] == WRITE_SAME_16;
    g_autofree uint8_t *data = g_malloc0(unit_block(s));

    command_range(req, &lba, &count);
    count = count ? count : blocks(s) - MIN(lba, blocks(s));
    if (!writable(s, req) || !range_ok(s, req, lba, count)) {
        return;
    }
    if (count > MAX_UNMAP / unit_block(s)) {
        invalid_field(req);
        return;
    }
    if (!no_data && gather(req, data, unit_block(s)) < unit_block(s)) {
        invalid_field(req);
        return;
    }
    for (uint32_t i = 0; i < unit_block(s); i++) {
        if (data[i]) { /* only zeroes are written without moving them */
            invalid_field(req);
            return;
        }
    }
    req->is_read = false;
    req->moved = no_data ? 0 : unit_block(s);
    if (!count) {
        scsi_done(req);
        return;
    }
    bb_write_zeroes(s->bb, req->loop, lba * unit_block(s), count * unit_block(s),
                    unmap ? BLOCK_REQ_MAY_UNMAP : 0, io_done, req);
}

/* UNMAP's ranges go one after the other. */
typedef struct Unmap {
    ScsiRequest *req;
    uint8_t data[8 + 16 * MAX_UNMAP_RANGES];
    unsigned at, count;
} Unmap;

static void unmap_next(void *opaque, int result)
{
    Unmap *u = opaque;
    ScsiDisk *s = SCSI_DISK(u->req->dev);

    while (result >= 0 && u->at < u->count && !be32(u->data + 8 + 16 * u->at + 8)) {
        u->at++;
    }
    if (result < 0 || u->at == u->count) {
        ScsiRequest *req = u->req;
        g_free(u);
        io_done(req, result == -ENOTSUP ? 0 : result);
        return;
    }
    const uint8_t *range = u->data + 8 + 16 * u->at++;
    bb_discard(s->bb, u->req->loop, be64(range) * unit_block(s), (uint64_t)be32(range + 8) * unit_block(s),
               unmap_next, u);
}

static void unmap_later(void *opaque, ssize_t result)
{
    unmap_next(opaque, 0);
}

static void unmap(ScsiDisk *s, ScsiRequest *req)
{
    if (!writable(s, req)) {
        return;
    }
    Unmap *u = g_new0(Unmap, 1);
    size_t size = gather(req, u->data, MIN(sizeof(u->data), be16(req->cdb + 7)));
    u->req = req;
    u->count = size >= 8 ? MIN(be16(u->data + 2), (unsigned)(size - 8)) / 16 : 0;
    for (unsigned i = 0; i < u->count; i++) {
        const uint8_t *range = u->data + 8 + 16 * i;
        uint64_t lba = be64(range), count = be32(range + 8);
        if (count > MAX_UNMAP / unit_block(s)) {
            g_free(u);
            scsi_failed(req, ILLEGAL_REQUEST, ASC_INVALID_PARAMETER, 0);
            return;
        }
        if (!range_ok(s, req, lba, count)) {
            g_free(u);
            return;
        }
    }
    req->is_read = false;
    req->moved = size;
    /* Its end takes the lock, which is held here. */
    loop_complete_later(req->loop, unmap_later, u, 0);
}

/* ---- CD-ROM ---- */

static void put_msf(uint8_t *p, uint32_t lba)
{
    lba += 150;
    p[0] = (uint8_t)(lba / 75 / 60);
    p[1] = (uint8_t)(lba / 75 % 60);
    p[2] = (uint8_t)(lba % 75);
}

static void read_toc(ScsiDisk *s, ScsiRequest *req)
{
    uint8_t r[32] = { 0, 0, 1, 1 };
    bool msf = req->cdb[1] & 2;
    unsigned format = req->cdb[2] & 15, start = req->cdb[6], length = 4;
    uint32_t points[][2] = { { 1, 0 }, { LEAD_OUT, (uint32_t)MIN(blocks(s), UINT32_MAX) } };

    if (format > 1 || (format == 0 && start > 1 && start != LEAD_OUT)) {
        invalid_field(req);
        return;
    }
    for (unsigned i = format == 0 && start > 1 ? 1 : 0; i < (format == 0 ? 2u : 1u); i++) {
        uint8_t *entry = r + length;
        entry[1] = 0x14; /* data */
        entry[2] = (uint8_t)points[i][0];
        if (msf) {
            put_msf(entry + 5, points[i][1]);
        } else {
            put_be32(entry + 4, points[i][1]);
        }
        length += 8;
    }
    put_be16(r, length - 2);
    scsi_reply(req, r, length, be16(req->cdb + 7));
}

static void get_configuration(ScsiDisk *s, ScsiRequest *req)
{
    bool dvd = blocks(s) > CD_MAX_SECTORS;
    uint16_t current = !has_medium(s) ? 0 : dvd ? 0x10 : 0x08;
    const struct {
        uint16_t code;
        uint8_t flags, size, data[8];
    } features[] = {
        { 0x0000, 0x03, 8, { 0, 0x10, current == 0x10, 0, 0, 0x08, current == 0x08, 0 } },
        { 0x0001, 0x0b, 8, { 0, 0, 0, 1, 1, 0, 0, 0 } },
        { 0x0003, 0x03, 4, { 0x29 } },
        { 0x0010, current ? 1 : 0, 8, { 0, 0, 8, 0, 0, 1, 0, 0 } },
    };
    uint8_t r[96] = { 0 };
    unsigned kind = req->cdb[1] & 3, first = be16(req->cdb + 2), length = 8;

    if (kind == 3) {
        invalid_field(req);
        return;
    }
    put_be16(r + 6, current);
    for (size_t i = 0; i < G_N_ELEMENTS(features); i++) {
        if (kind == 2 ? features[i].code == first
                      : features[i].code >= first && (kind == 0 || (features[i].flags & 1))) {
            put_be16(r + length, features[i].code);
            r[length + 2] = features[i].flags;
            r[length + 3] = features[i].size;
            memcpy(r + length + 4, features[i].data, features[i].size);
            length += 4u + features[i].size;
        }
    }
    put_be32(r, length - 4);
    scsi_reply(req, r, length, be16(req->cdb + 7));
}

static void get_event_status(ScsiDisk *s, ScsiRequest *req)
{
    uint8_t r[8] = { 0, 6, 4, 0x10, 0, (uint8_t)((has_medium(s) ? 2 : 0) | (s->open ? 1 : 0)) };

    if (!(req->cdb[1] & 1)) {
        invalid_field(req);
    } else if (!(req->cdb[4] & 0x10)) {
        r[1] = 0;
        r[2] = 0x80; /* no such class */
        scsi_reply(req, r, 4, be16(req->cdb + 7));
    } else {
        scsi_reply(req, r, 8, be16(req->cdb + 7));
    }
}

static void start_stop(ScsiDisk *s, ScsiRequest *req)
{
    bool eject = req->cdb[4] & 2, start = req->cdb[4] & 1;

    if (is_cd(s) && eject && !start && s->locked) {
        scsi_failed(req, has_medium(s) ? ILLEGAL_REQUEST : NOT_READY, ASC_REMOVAL_PREVENTED, 2);
        return;
    }
    if (is_cd(s) && eject) {
        s->open = !start;
    }
    scsi_done(req);
}

/* Those of a CD-ROM drive alone; false: no such command. */
static bool cd_command(ScsiDisk *s, ScsiRequest *req)
{
    static const uint8_t disc_information[34] = { 0, 32, 0x0e, 1, 1, 1, 1, 0x20 };
    uint8_t mechanism[8] = { 0, s->open ? 0x10 : 0, 0, 0, 0, 1 };

    switch (req->cdb[0]) {
    case READ_TOC:
        read_toc(s, req);
        return true;
    case READ_DISC_INFORMATION:
        scsi_reply(req, disc_information, sizeof(disc_information), be16(req->cdb + 7));
        return true;
    case GET_CONFIGURATION:
        get_configuration(s, req);
        return true;
    case GET_EVENT_STATUS:
        get_event_status(s, req);
        return true;
    case MECHANISM_STATUS:
        scsi_reply(req, mechanism, sizeof(mechanism), be16(req->cdb + 8));
        return true;
    default:
        return false;
    }
}

/* ---- commands ---- */

static bool needs_medium(uint8_t operation)
{
    switch (operation) {
    case INQUIRY:
    case START_STOP:
    case PREVENT_REMOVAL:
    case MODE_SENSE:
    case MODE_SENSE_10:
    case GET_CONFIGURATION:
    case GET_EVENT_STATUS:
    case MECHANISM_STATUS:
    case RESERVE:
    case RELEASE:
        return false;
    default:
        return true;
    }
}

static void disk_command(ScsiDevice *dev, ScsiRequest *req)
{
    ScsiDisk *s = SCSI_DISK(dev);
    uint8_t operation = req->cdb[0];

    if (needs_medium(operation) && !has_medium(s)) {
        scsi_failed(req, NOT_READY, ASC_NO_MEDIUM, 0);
        return;
    }
    switch (operation) {
    case TEST_UNIT_READY:
    case RESERVE:
    case RELEASE:
    case SEEK_10:
        scsi_done(req);
        break;
    case INQUIRY:
        inquiry(s, req);
        break;
    case MODE_SENSE:
    case MODE_SENSE_10:
        mode_sense(s, req);
        break;
    case MODE_SELECT:
    case MODE_SELECT_10:
        mode_select(s, req);
        break;
    case START_STOP:
        start_stop(s, req);
        break;
    case PREVENT_REMOVAL:
        s->locked = is_cd(s) && (req->cdb[4] & 1);
        scsi_done(req);
        break;
    case READ_CAPACITY:
        read_capacity(s, req, false);
        break;
    case SERVICE_ACTION_IN:
        if ((req->cdb[1] & 31) == 0x10) {
            read_capacity(s, req, true);
        } else {
            invalid_field(req);
        }
        break;
    case READ_6:
    case READ_10:
    case READ_12:
    case READ_16:
        transfer(s, req, false);
        break;
    case WRITE_6:
    case WRITE_10:
    case WRITE_12:
    case WRITE_16:
    case WRITE_VERIFY_10:
    case WRITE_VERIFY_16:
        transfer(s, req, true);
        break;
    case VERIFY_10:
    case VERIFY_16:
        verify(s, req);
        break;
    case SYNCHRONIZE_10:
    case SYNCHRONIZE_16:
        req->is_read = false;
        bb_flush(s->bb, req->loop, io_done, req);
        break;
    case WRITE_SAME_10:
    case WRITE_SAME_16:
        write_same(s, req);
        break;
    case UNMAP:
        unmap(s, req);
        break;
    default:
        if (!is_cd(s) || !cd_command(s, req)) {
            LOG(LOG_UNIMP, "%s: command 0x%02x", object_get_typename(OBJECT(s)), operation);
            scsi_failed(req, ILLEGAL_REQUEST, ASC_INVALID_COMMAND, 0);
        }
    }
}

/* ---- life ---- */

static void disk_reset(ScsiDevice *dev)
{
    ScsiDisk *s = SCSI_DISK(dev);

    s->locked = s->open = false;
    s->write_cache = s->initial_write_cache;
    if (s->bb) {
        bb_set_write_cache(s->bb, s->write_cache);
    }
}

static void disk_drain(ScsiDevice *dev, Loop *loop)
{
    if (SCSI_DISK(dev)->bb) {
        bb_drain(SCSI_DISK(dev)->bb, loop);
    }
}

static bool power_of_two(const char *name, uint64_t size, GError **error)
{
    return (size >= 512 && size <= 32768 && !(size & (size - 1))) ||
           error_set(error, "Property '%s' must be a power of two between 512 and 32768", name);
}

static bool settle_sizes(ScsiDisk *s, GError **error)
{
    BlockLimits limits = { 0 };

    if (s->bb) {
        bb_limits(s->bb, &limits);
    }
    s->logical_block_size =
        s->logical_block_size ? s->logical_block_size : MAX(limits.logical_block_size, 512u);
    s->physical_block_size = s->physical_block_size ? s->physical_block_size
                                                    : MAX(limits.physical_block_size, s->logical_block_size);
    if (!power_of_two("logical_block_size", s->logical_block_size, error) ||
        !power_of_two("physical_block_size", s->physical_block_size, error)) {
        return false;
    }
    if (s->physical_block_size < s->logical_block_size) {
        return error_set(error, "physical_block_size is smaller than logical_block_size");
    }
    if (s->discard_granularity == UINT32_MAX) {
        s->discard_granularity = MAX(limits.discard_granularity, s->logical_block_size);
    }
    return true;
}

static bool disk_realize(ScsiDevice *dev, GError **error)
{
    ScsiDisk *s = SCSI_DISK(dev);
    g_autofree char *path = object_get_canonical_path(OBJECT(dev));

    if (!is_cd(s) && (!s->bb || !bb_has_medium(s->bb))) {
        return error_set(error, s->bb ? "Device needs media, but drive is empty" : "drive property not set");
    }
    if (!s->serial && s->bb && bb_serial(s->bb)) {
        s->serial = g_strdup(bb_serial(s->bb));
    }
    if (s->serial && strlen(s->serial) > SERIAL_MAX) {
        return error_set(error, "serial '%s' is longer than %d bytes", s->serial, SERIAL_MAX);
    }
    if (!settle_sizes(s, error)) {
        return false;
    }
    if (s->bb) {
        if (!bb_attach_device(s->bb, DEVICE(dev)->id ? DEVICE(dev)->id : path,
                              is_cd(s) || bb_read_only(s->bb), s->share_rw, NULL, s, error)) {
            return false;
        }
        bb_set_qdev_path(s->bb, path);
        bb_set_on_error(s->bb, (BlockOnError)s->on_read_error, (BlockOnError)s->on_write_error);
        if (s->initial_cache) {
            bb_set_write_cache(s->bb, s->initial_cache == 1);
        }
    }
    s->initial_write_cache = s->write_cache = s->bb && bb_write_cache(s->bb);
    return true;
}

static void disk_unrealize(ScsiDevice *dev)
{
    if (SCSI_DISK(dev)->bb) {
        bb_detach_device(SCSI_DISK(dev)->bb);
    }
}

static bool disk_post_load(void *opaque, int version, GError **error)
{
    ScsiDisk *s = opaque;

    if (s->bb) {
        bb_set_write_cache(s->bb, s->write_cache);
    }
    return true;
}

static const char *const on_off_auto_names[] = { "auto", "on", "off" };
static const EnumLookup on_off_auto_lookup = { "OnOffAuto", on_off_auto_names, 3 };

static const Property disk_properties[] = {
    PROP_TYPED("drive", ScsiDisk, bb, property_type_drive, "the disk: a drive's id or a block node's name"),
    PROP_STR("serial", ScsiDisk, serial, NULL, "the serial number (36 characters)"),
    PROP_STR("vendor", ScsiDisk, vendor, "QEMU", "the vendor (8 characters)"),
    PROP_STR("ver", ScsiDisk, version, "2.5+", "the revision (4 characters)"),
    PROP_STR("device_id", ScsiDisk, device_id, NULL, "the vendor's designator (default: the serial number)"),
    PROP_UINT64("wwn", ScsiDisk, wwn, 0, "a world-wide name (0: none)"),
    PROP_SIZE("logical_block_size", ScsiDisk, logical_block_size, 0, "bytes (0: the host's)"),
    PROP_SIZE("physical_block_size", ScsiDisk, physical_block_size, 0, "bytes (0: the host's)"),
    PROP_SIZE("discard_granularity", ScsiDisk, discard_granularity, UINT32_MAX,
              "bytes (4294967295: the host's)"),
    PROP_INT32("bootindex", ScsiDisk, bootindex, -1, "place in the boot order (-1: none)"),
    PROP_BOOL("share-rw", ScsiDisk, share_rw, false, "others may write to the disk too"),
    PROP_ENUM("rerror", ScsiDisk, on_read_error, block_on_error_lookup, BLOCK_ON_ERROR_AUTO,
              "when a read fails"),
    PROP_ENUM("werror", ScsiDisk, on_write_error, block_on_error_lookup, BLOCK_ON_ERROR_AUTO,
              "when a write fails"),
    PROP_ENUM("write-cache", ScsiDisk, initial_cache, on_off_auto_lookup, 0,
              "write-back caching as the guest finds it"),
    PROP_END,
};
static const Property hd_properties[] = {
    PROP_STR("product", ScsiDisk, product, "QEMU HARDDISK", "the product (16 characters)"),
    PROP_BOOL("removable", ScsiDisk, removable, false, "tell that the medium can be taken out"),
    PROP_UINT16("rotation_rate", ScsiDisk, rotation_rate, 0, "turns a minute; 1: none (a solid-state disk)"),
    PROP_END,
};
static const Property cd_properties[] = {
    PROP_STR("product", ScsiDisk, product, "QEMU CD-ROM", "the product (16 characters)"),
    PROP_END,
};

static const VmStateField disk_fields[] = {
    VMS_STRUCT(parent_obj, ScsiDisk, scsi_device_vmstate),
    VMS_BOOL(open, ScsiDisk),
    VMS_BOOL(locked, ScsiDisk),
    VMS_BOOL(write_cache, ScsiDisk),
    VMS_END,
};
static const VmState disk_vmstate = { .name = TYPE_SCSI_DISK,
                                      .version = 1,
                                      .minimum_version = 1,
                                      .fields = disk_fields,
                                      .post_load = disk_post_load };

static void disk_class_init(ObjectClass *klass, const void *data)
{
    ScsiDeviceClass *sc = SCSI_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &disk_vmstate;
    sc->realize = disk_realize;
    sc->unrealize = disk_unrealize;
    sc->reset = disk_reset;
    sc->command = disk_command;
    sc->drain = disk_drain;
    object_class_add_properties(klass, disk_properties);
}

static const TypeInfo disk_info = {
    .name = TYPE_SCSI_DISK,
    .parent = TYPE_SCSI_DEVICE,
    .abstract = true,
    .instance_size = sizeof(ScsiDisk),
    .class_size = sizeof(ScsiDiskClass),
    .class_init = disk_class_init,
};
TYPE_REGISTER(disk_info);

static void hd_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, hd_properties);
}

static void cd_class_init(ObjectClass *klass, const void *data)
{
    ((ScsiDiskClass *)klass)->cd = true;
    object_class_add_properties(klass, cd_properties);
}

static const TypeInfo hd_info = {
    .name = "scsi-hd", .parent = TYPE_SCSI_DISK, .description = "SCSI disk", .class_init = hd_class_init
};
TYPE_REGISTER(hd_info);
static const TypeInfo cd_info = {
    .name = "scsi-cd", .parent = TYPE_SCSI_DISK, .description = "SCSI CD-ROM", .class_init = cd_class_init
};
TYPE_REGISTER(cd_info);
