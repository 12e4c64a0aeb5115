/*
 * "ide-cd": an ATAPI CD/DVD drive. Sources: ATA/ATAPI-7 (T13 1532D) volume 2 chapter 11 (PACKET protocol);
 * MMC-5 and SPC-3 (T10) for the commands.
 *
 * A medium is one data track of 2048-byte sectors. Left out: audio, raw sectors but user data, writing,
 * changers, region codes. Threads: see ide_bus.c. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "hw/storage/ide.h"

#include <errno.h>
#include <string.h>

#define TYPE_IDE_CD "ide-cd"

#define CD_SECTOR      2048u
#define PACKET_SIZE    12u
#define MAX_CHUNK      (IDE_BUFFER_SIZE / CD_SECTOR)
#define SIGNATURE_MID  0x14
#define SIGNATURE_HIGH 0xeb
#define CD_MAX_SECTORS (80 * 60 * 75) /* more is a DVD */
#define DEFAULT_BLOCK  0xfffeu
#define LEAD_OUT       0xaa

enum {
    CMD_DEVICE_RESET = 0x08,
    CMD_PACKET = 0xa0,
    CMD_IDENTIFY_PACKET = 0xa1,
    CMD_READ = 0x20,
    CMD_IDENTIFY = 0xec,
    CMD_CHECK_POWER = 0xe5,
    CMD_SET_FEATURES = 0xef,
};
/* Packet commands. */
enum {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    INQUIRY = 0x12,
    START_STOP = 0x1b,
    PREVENT_REMOVAL = 0x1e,
    READ_CAPACITY = 0x25,
    READ_10 = 0x28,
    SEEK_10 = 0x2b,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFORMATION = 0x51,
    MODE_SENSE_10 = 0x5a,
    READ_12 = 0xa8,
    READ_DVD_STRUCTURE = 0xad,
    SET_SPEED = 0xbb,
    MECHANISM_STATUS = 0xbd,
    READ_CD = 0xbe,
};
/* Sense keys and additional codes (SPC-3 4.5). */
enum { KEY_NONE = 0, NOT_READY = 2, MEDIUM_ERROR = 3, ILLEGAL_REQUEST = 5, UNIT_ATTENTION = 6 };
enum {
    ASC_READ_ERROR = 0x11,
    ASC_INVALID_COMMAND = 0x20,
    ASC_LBA_RANGE = 0x21,
    ASC_INVALID_FIELD = 0x24,
    ASC_RESET = 0x29,
    ASC_SAVING_UNSUPPORTED = 0x39,
    ASC_NO_MEDIUM = 0x3a,
    ASC_REMOVAL_PREVENTED = 0x53,
};
/* Interrupt reason: the count register of a packet command. */
enum { REASON_COMMAND = 1, REASON_IN = 2 };

enum { OP_NONE, OP_PACKET, OP_REPLY, OP_REPLY_DMA, OP_READ, OP_READ_DMA, OP_COUNT };
enum { PROFILE_NONE = 0, PROFILE_CD = 0x08, PROFILE_DVD = 0x10 };

typedef struct IdeCd {
    IdeDrive parent_obj;
    /* saved */
    uint8_t sense_key, asc;
    uint8_t attention; /* an additional code that the next command gets; 0: none */
    bool locked, open, dma;
    uint32_t limit;        /* bytes of a block as the guest asked for */
    uint32_t reply_length; /* in the buffer, for DMA */
} IdeCd;
#define IDE_CD(obj) OBJECT_CHECK(IdeCd, obj, TYPE_IDE_CD)

static bool has_medium(const IdeCd *s)
{
    return s->parent_obj.bb && bb_has_medium(s->parent_obj.bb) && !s->open;
}

static uint32_t medium_sectors(const IdeCd *s)
{
    return has_medium(s) ? (uint32_t)MIN(bb_size(s->parent_obj.bb) / CD_SECTOR, UINT32_MAX) : 0;
}

static bool is_dvd(const IdeCd *s)
{
    return medium_sectors(s) > CD_MAX_SECTORS;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put_be16(uint8_t *p, uint32_t value)
{
    p[0] = value >> 8;
    p[1] = value;
}

static void put_be32(uint8_t *p, uint32_t value)
{
    put_be16(p, value >> 16);
    put_be16(p + 2, value);
}

/* Minutes, seconds and frames of a sector. */
static void put_msf(uint8_t *p, uint32_t lba)
{
    lba += 150;
    p[0] = lba / 75 / 60;
    p[1] = lba / 75 % 60;
    p[2] = lba % 75;
}

/* ---- how packet commands end ---- */

static void packet_done(IdeCd *s)
{
    IdeDrive *d = &s->parent_obj;

    s->sense_key = KEY_NONE;
    s->asc = 0;
    d->count = REASON_IN | REASON_COMMAND;
    ide_done(d);
}

static void packet_failed(IdeCd *s, uint8_t key, uint8_t asc)
{
    IdeDrive *d = &s->parent_obj;

    s->sense_key = key;
    s->asc = asc;
    d->count = REASON_IN | REASON_COMMAND;
    ide_abort(d, (uint8_t)(key << 4));
}

static void invalid_field(IdeCd *s)
{
    packet_failed(s, ILLEGAL_REQUEST, ASC_INVALID_FIELD);
}

/* The size of the blocks in which data reaches the guest: even, but for the last. */
static uint32_t cd_block_size(const IdeCd *s)
{
    uint32_t limit = s->limit ? s->limit : DEFAULT_BLOCK;
    limit = MIN(limit, DEFAULT_BLOCK);
    return limit > 1 ? limit & ~1u : 2;
}

/* Sends what the buffer has, at most as much as the guest made room for. */
static void reply(IdeCd *s, uint32_t length, uint32_t allocated)
{
    IdeDrive *d = &s->parent_obj;

    length = MIN(length, allocated);
    if (!length) {
        packet_done(s);
        return;
    }
    if (s->dma) {
        s->reply_length = length;
        d->op = OP_REPLY_DMA;
        ide_start_dma(d);
    } else {
        d->op = OP_REPLY;
        ide_start_in(d, length, cd_block_size(s));
    }
}

/* ---- commands with a short reply ---- */

static void request_sense(IdeCd *s, const uint8_t *packet)
{
    uint8_t *r = s->parent_obj.buffer;

    memset(r, 0, 18);
    r[0] = 0x70;
    r[2] = s->sense_key;
    r[7] = 10;
    r[12] = s->asc;
    reply(s, 18, packet[4]);
}

static void inquiry(IdeCd *s, const uint8_t *packet)
{
    IdeDrive *d = &s->parent_obj;
    uint8_t *r = d->buffer;

    if (packet[1] & 1) {
        invalid_field(s);
        return;
    }
    memset(r, ' ', 36);
    r[0] = 5;    /* CD-ROM */
    r[1] = 0x80; /* removable */
    r[2] = 0;
    r[3] = 0x21;
    r[4] = 31;
    r[5] = r[6] = r[7] = 0;
    memcpy(r + 8, "QEMU", 4);
    memcpy(r + 16, d->model, MIN(strlen(d->model), 16));
    memcpy(r + 32, d->version, MIN(strlen(d->version), 4));
    reply(s, 36, packet[4]);
}

static void read_toc(IdeCd *s, const uint8_t *packet)
{
    uint8_t *r = s->parent_obj.buffer;
    bool msf = packet[1] & 2;
    unsigned format = packet[2] & 15, start = packet[6], length = 4;

    format = format ? format : packet[9] >> 6;
    memset(r, 0, 64);
    r[2] = r[3] = 1; /* first and last track or session */
    if (format == 0) {
        if (start > 1 && start != LEAD_OUT) {
            invalid_field(s);
            return;
        }
        const struct {
            uint8_t track;
            uint32_t lba;
        } points[] = { { 1, 0 }, { LEAD_OUT, medium_sectors(s) } };
        for (unsigned i = start > 1 ? 1 : 0; i < 2; i++) {
            uint8_t *entry = r + length;
            entry[1] = 0x14; /* data */
            entry[2] = points[i].track;
            if (msf) {
                put_msf(entry + 5, points[i].lba);
            } else {
                put_be32(entry + 4, points[i].lba);
            }
            length += 8;
        }
    } else if (format == 1) {
        r[5] = 0x14;
        r[6] = 1;
        if (msf) {
            put_msf(r + 9, 0);
        }
        length = 12;
    } else if (format == 2) {
        static const uint8_t full_points[] = { 0xa0, 0xa1, 0xa2, 1 };
        for (unsigned i = 0; i < sizeof(full_points); i++) {
            uint8_t *entry = r + length;
            entry[0] = 1;
            entry[1] = 0x14;
            entry[3] = full_points[i];
            if (full_points[i] == 0xa0 || full_points[i] == 0xa1) {
                entry[8] = 1;
            } else {
                put_msf(entry + 8, full_points[i] == 0xa2 ? medium_sectors(s) : 0);
            }
            length += 11;
        }
    } else {
        invalid_field(s);
        return;
    }
    put_be16(r, length - 2);
    reply(s, length, be16(packet + 7));
}

static void get_configuration(IdeCd *s, const uint8_t *packet)
{
    uint8_t *r = s->parent_obj.buffer;
    unsigned kind = packet[1] & 3, first = be16(packet + 2), length = 8;
    uint16_t current = !has_medium(s) ? PROFILE_NONE : is_dvd(s) ? PROFILE_DVD : PROFILE_CD;
    /* Feature, version/persistent/current bits, data. */
    const struct {
        uint16_t code;
        uint8_t flags, size;
        uint8_t data[12];
    } features[] = {
        { 0x0000,
          0x03,
          8,
          { 0, PROFILE_DVD, current == PROFILE_DVD, 0, 0, PROFILE_CD, current == PROFILE_CD, 0 } },
        { 0x0001, 0x0b, 8, { 0, 0, 0, 2, 1, 0, 0, 0 } },            /* core: ATAPI */
        { 0x0003, 0x03, 4, { 0x29, 0, 0, 0 } },                     /* removable medium in a tray */
        { 0x0010, current ? 1 : 0, 8, { 0, 0, 8, 0, 0, 1, 0, 0 } }, /* random reads */
        { 0x001e, current == PROFILE_CD ? 1 : 0, 4, { 0 } },
        { 0x001f, current == PROFILE_DVD ? 1 : 0, 4, { 0 } },
    };

    if (kind == 3) {
        invalid_field(s);
        return;
    }
    memset(r, 0, 128);
    put_be16(r + 6, current);
    for (unsigned i = 0; i < G_N_ELEMENTS(features); i++) {
        bool wanted = kind == 2 ? features[i].code == first
                                : features[i].code >= first && (kind == 0 || (features[i].flags & 1));
        if (wanted) {
            put_be16(r + length, features[i].code);
            r[length + 2] = features[i].flags;
            r[length + 3] = features[i].size;
            memcpy(r + length + 4, features[i].data, features[i].size);
            length += 4u + features[i].size;
        }
    }
    put_be32(r, length - 4);
    reply(s, length, be16(packet + 7));
}

static void get_event_status(IdeCd *s, const uint8_t *packet)
{
    uint8_t *r = s->parent_obj.buffer;

    if (!(packet[1] & 1)) { /* asynchronous notification */
        invalid_field(s);
        return;
    }
    memset(r, 0, 8);
    r[3] = 1u << 4; /* the media class is there */
    if (!(packet[4] & 1u << 4)) {
        r[2] = 0x80; /* no such class */
        reply(s, 4, be16(packet + 7));
        return;
    }
    put_be16(r, 6);
    r[2] = 4;
    r[5] = (uint8_t)((has_medium(s) ? 2 : 0) | (s->open ? 1 : 0));
    reply(s, 8, be16(packet + 7));
}

static void mode_sense(IdeCd *s, const uint8_t *packet)
{
    uint8_t *r = s->parent_obj.buffer;
    unsigned page = packet[2] & 63, length = 8;
    bool all = page == 63;

    if (packet[2] >> 6 == 3) {
        packet_failed(s, ILLEGAL_REQUEST, ASC_SAVING_UNSUPPORTED);
        return;
    }
    memset(r, 0, 64);
    if (page == 1 || all) { /* error recovery */
        r[length] = 1;
        r[length + 1] = 6;
        r[length + 3] = 5; /* retries */
        length += 8;
    }
    if (page == 0x2a || all) { /* capabilities */
        uint8_t *p = r + length;
        p[0] = 0x2a;
        p[1] = 18;
        p[2] = 0x3b; /* reads CD-R, CD-RW, method 2, DVD */
        p[4] = 0x70; /* mode 2 form 1 and 2, multi-session */
        p[6] = (uint8_t)(0x29 | (s->locked ? 2 : 0));
        put_be16(p + 8, 706); /* kB/s */
        put_be16(p + 12, 512);
        put_be16(p + 14, 706);
        length += 20;
    }
    if (length == 8) {
        invalid_field(s);
        return;
    }
    put_be16(r, length - 2);
    r[2] = !has_medium(s) ? 0x70 : 1;
    reply(s, length, be16(packet + 7));
}

static void read_disc_information(IdeCd *s, const uint8_t *packet)
{
    uint8_t *r = s->parent_obj.buffer;

    if (packet[1] & 7) {
        invalid_field(s);
        return;
    }
    memset(r, 0, 34);
    put_be16(r, 32);
    r[2] = 0x0e; /* complete */
    r[3] = r[4] = r[5] = r[6] = 1;
    r[7] = 0x20;
    reply(s, 34, be16(packet + 7));
}

static void mechanism_status(IdeCd *s, const uint8_t *packet)
{
    uint8_t *r = s->parent_obj.buffer;

    memset(r, 0, 8);
    r[1] = s->open ? 0x10 : 0;
    r[5] = 1;
    reply(s, 8, be16(packet + 8));
}

static void read_dvd_structure(IdeCd *s, const uint8_t *packet)
{
    uint8_t *r = s->parent_obj.buffer;

    if (!is_dvd(s) || packet[7] != 0 || packet[6] != 0) {
        invalid_field(s);
        return;
    }
    memset(r, 0, 2052); /* the physical format of layer 0 */
    put_be16(r, 2050);
    r[4] = 0x01; /* DVD-ROM, part version 1 */
    r[5] = 0x0f; /* 120 mm, no rate told */
    r[6] = 0x01;
    put_be32(r + 8, 0x30000);
    put_be32(r + 12, 0x30000 + medium_sectors(s) - 1);
    reply(s, 2052, be16(packet + 8));
}

static void start_stop(IdeCd *s, const uint8_t *packet)
{
    bool eject = packet[4] & 2, start = packet[4] & 1;

    if (eject && !start && s->locked) {
        packet_failed(s, has_medium(s) ? ILLEGAL_REQUEST : NOT_READY, ASC_REMOVAL_PREVENTED);
        return;
    }
    if (eject) {
        s->open = !start;
    }
    packet_done(s);
}

/* ---- reading ---- */

static void start_read(IdeCd *s, uint32_t lba, uint32_t count)
{
    IdeDrive *d = &s->parent_obj;

    if (!count) {
        packet_done(s);
        return;
    }
    uint32_t total = medium_sectors(s);
    if (lba >= total || count > total - lba) {
        packet_failed(s, ILLEGAL_REQUEST, ASC_LBA_RANGE);
        return;
    }
    d->lba = lba;
    d->left = count;
    d->chunk = MIN(count, MAX_CHUNK);
    if (s->dma) {
        d->op = OP_READ_DMA;
        ide_start_dma(d);
    } else {
        d->op = OP_READ;
        ide_start_submit(d);
    }
}

static void next_chunk(IdeCd *s)
{
    IdeDrive *d = &s->parent_obj;

    d->lba += d->chunk;
    d->left -= MIN(d->chunk, d->left);
    d->chunk = MIN(d->left, MAX_CHUNK);
    if (d->left) {
        ide_start_submit(d);
        return;
    }
    if (d->op == OP_READ_DMA) {
        IdeBus *bus = ide_bus_of(d);
        bus->ops->dma_end(bus->opaque, bus->channel, true);
    }
    packet_done(s);
}

static void fail_dma(IdeCd *s, uint8_t key, uint8_t asc)
{
    IdeBus *bus = ide_bus_of(&s->parent_obj);

    bus->ops->dma_end(bus->opaque, bus->channel, false);
    packet_failed(s, key, asc);
}

static void cd_submit(IdeDrive *d)
{
    IdeCd *s = IDE_CD(d);
    IdeBus *bus = ide_bus_of(d);

    if (d->op == OP_REPLY_DMA) {
        uint32_t length = MIN(s->reply_length, IDE_BUFFER_SIZE);
        bool ok = bus->ops->dma_move(bus->opaque, bus->channel, d->buffer, length, true) == (int64_t)length;
        if (ok) {
            bus->ops->dma_end(bus->opaque, bus->channel, true);
            packet_done(s);
        } else {
            fail_dma(s, MEDIUM_ERROR, ASC_READ_ERROR);
        }
        return;
    }
    if ((d->op != OP_READ && d->op != OP_READ_DMA) || !has_medium(s) || d->chunk > MAX_CHUNK) {
        packet_failed(s, NOT_READY, ASC_NO_MEDIUM);
        return;
    }
    IdeRequest *req = ide_request_new(d, d->chunk * CD_SECTOR);
    bb_readv(d->bb, DEVICE(d)->env->loop, d->lba * CD_SECTOR, &req->iov, 1, ide_request_done, req);
}

static void cd_complete(IdeDrive *d, IdeRequest *req, int result)
{
    IdeCd *s = IDE_CD(d);
    IdeBus *bus = ide_bus_of(d);

    if (ide_request_failed(d, true, &result)) {
        return;
    }
    if (d->op == OP_READ) {
        if (result < 0) {
            packet_failed(s, MEDIUM_ERROR, ASC_READ_ERROR);
            return;
        }
        memcpy(d->buffer, req->data, req->size);
        ide_start_in(d, req->size, cd_block_size(s));
        return;
    }
    if (result < 0 ||
        bus->ops->dma_move(bus->opaque, bus->channel, req->data, req->size, true) != (int64_t)req->size) {
        fail_dma(s, MEDIUM_ERROR, ASC_READ_ERROR);
        return;
    }
    next_chunk(s);
}

static void read_cd(IdeCd *s, const uint8_t *packet)
{
    uint32_t count = (uint32_t)packet[6] << 16 | be16(packet + 7);

    if (!(packet[9] & 0xf8)) {
        packet_done(s); /* nothing of the sectors is wanted */
    } else if ((packet[9] & 0xf8) == 0x10) {
        start_read(s, be32(packet + 2), count);
    } else {
        invalid_field(s);
    }
}

/* ---- packets ---- */

/* Commands that work, and report, whatever is going on. */
static bool always_allowed(uint8_t command)
{
    return command == INQUIRY || command == REQUEST_SENSE || command == GET_CONFIGURATION ||
           command == GET_EVENT_STATUS;
}

static bool needs_medium(uint8_t command)
{
    static const uint8_t commands[] = { TEST_UNIT_READY,       READ_CAPACITY,      READ_10, SEEK_10, READ_TOC,
                                        READ_DISC_INFORMATION, READ_DVD_STRUCTURE, READ_12, READ_CD };
    return memchr(commands, command, sizeof(commands)) != NULL;
}

static void run_packet(IdeCd *s)
{
    IdeDrive *d = &s->parent_obj;
    uint8_t packet[PACKET_SIZE];

    memcpy(packet, d->buffer, sizeof(packet));
    if (s->attention && !always_allowed(packet[0])) {
        uint8_t asc = s->attention;
        s->attention = 0;
        packet_failed(s, UNIT_ATTENTION, asc);
        return;
    }
    if (needs_medium(packet[0]) && !has_medium(s)) {
        packet_failed(s, NOT_READY, ASC_NO_MEDIUM);
        return;
    }
    switch (packet[0]) {
    case TEST_UNIT_READY:
    case SET_SPEED:
        packet_done(s);
        break;
    case REQUEST_SENSE:
        request_sense(s, packet);
        break;
    case INQUIRY:
        inquiry(s, packet);
        break;
    case START_STOP:
        start_stop(s, packet);
        break;
    case PREVENT_REMOVAL:
        s->locked = packet[4] & 1;
        packet_done(s);
        break;
    case READ_CAPACITY:
        put_be32(d->buffer, medium_sectors(s) - 1);
        put_be32(d->buffer + 4, CD_SECTOR);
        reply(s, 8, 8);
        break;
    case READ_10:
        start_read(s, be32(packet + 2), be16(packet + 7));
        break;
    case READ_12:
        start_read(s, be32(packet + 2), be32(packet + 6));
        break;
    case READ_CD:
        read_cd(s, packet);
        break;
    case SEEK_10:
        if (be32(packet + 2) >= medium_sectors(s)) {
            packet_failed(s, ILLEGAL_REQUEST, ASC_LBA_RANGE);
        } else {
            packet_done(s);
        }
        break;
    case READ_TOC:
        read_toc(s, packet);
        break;
    case GET_CONFIGURATION:
        get_configuration(s, packet);
        break;
    case GET_EVENT_STATUS:
        get_event_status(s, packet);
        break;
    case READ_DISC_INFORMATION:
        read_disc_information(s, packet);
        break;
    case MODE_SENSE_10:
        mode_sense(s, packet);
        break;
    case MECHANISM_STATUS:
        mechanism_status(s, packet);
        break;
    case READ_DVD_STRUCTURE:
        read_dvd_structure(s, packet);
        break;
    default:
        LOG(LOG_UNIMP, "ide-cd: packet command 0x%02x", packet[0]);
        packet_failed(s, ILLEGAL_REQUEST, ASC_INVALID_COMMAND);
    }
}

static void cd_data_done(IdeDrive *d)
{
    IdeCd *s = IDE_CD(d);

    switch (d->op) {
    case OP_PACKET:
        d->status = IDE_DRDY | IDE_DSC;
        run_packet(s);
        break;
    case OP_REPLY:
        packet_done(s);
        break;
    case OP_READ:
        next_chunk(s);
        break;
    default:
        d->status = IDE_DRDY | IDE_DSC; /* IDENTIFY */
    }
}

static void cd_block_begin(IdeDrive *d, uint32_t size)
{
    if (d->op == OP_PACKET) {
        d->count = REASON_COMMAND;
    } else if (d->op != OP_NONE) {
        d->count = REASON_IN;
        d->lba_mid = size;
        d->lba_high = size >> 8;
    }
}

/* ---- ATA commands ---- */

static void set_signature(IdeDrive *d)
{
    d->count = d->lba_low = 1;
    d->lba_mid = SIGNATURE_MID;
    d->lba_high = SIGNATURE_HIGH;
    d->device &= IDE_DEVICE_UNIT;
}

static void identify(IdeCd *s)
{
    IdeDrive *d = &s->parent_obj;
    uint16_t w[256] = { 0 };

    w[0] = 0x85c0; /* ATAPI CD-ROM, removable, 12-byte packets, DRQ within 50 us */
    ide_put_text(w + 10, 10, d->serial);
    ide_put_text(w + 23, 4, d->version);
    ide_put_text(w + 27, 20, d->model);
    w[49] = 0x0f00;
    w[53] = 7;
    w[62] = 0;
    w[63] = 7;
    w[64] = 3;
    w[65] = w[66] = w[67] = w[68] = 120;
    w[80] = 0xf0;
    w[82] = 1u << 14 | 1u << 9 | 1u << 4; /* NOP, DEVICE RESET, PACKET */
    w[83] = w[84] = w[87] = 1u << 14;
    w[85] = w[82];
    w[88] = 0x3f;
    for (int i = 0; i < 256; i++) {
        d->buffer[2 * i] = w[i];
        d->buffer[2 * i + 1] = w[i] >> 8;
    }
}

static void cd_command(IdeDrive *d, uint8_t command)
{
    IdeCd *s = IDE_CD(d);

    d->op = OP_NONE;
    switch (command) {
    case CMD_PACKET:
        s->dma = d->feature & 1;
        s->limit = (uint32_t)d->lba_high << 8 | d->lba_mid;
        d->op = OP_PACKET;
        ide_start_out(d, PACKET_SIZE, PACKET_SIZE, false);
        break;
    case CMD_IDENTIFY_PACKET:
        identify(s);
        ide_start_in(d, IDE_SECTOR, IDE_SECTOR);
        break;
    case CMD_DEVICE_RESET:
        set_signature(d);
        d->status = 0; /* no interrupt, and not DRDY until a packet comes (9.4) */
        d->error = 1;
        break;
    case CMD_READ:
    case CMD_IDENTIFY:
        set_signature(d); /* how a driver finds out (9.1.3) */
        ide_abort(d, IDE_ERROR_ABORT);
        break;
    case CMD_SET_FEATURES:
    case 0xe0: /* power modes */
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xe6:
        ide_done(d);
        break;
    case CMD_CHECK_POWER:
        d->count = 0xff;
        ide_done(d);
        break;
    default:
        ide_abort(d, IDE_ERROR_ABORT);
    }
}

/* ---- life ---- */

static void cd_reset(IdeDrive *d)
{
    IdeCd *s = IDE_CD(d);

    d->device = 0;
    set_signature(d);
    d->status = 0;
    d->error = 1;
    d->op = OP_NONE;
    s->sense_key = KEY_NONE;
    s->asc = 0;
    s->attention = ASC_RESET;
    s->locked = s->open = s->dma = false;
    s->limit = s->reply_length = 0;
}

static bool cd_realize(IdeDrive *d, GError **error)
{
    if (!d->serial) {
        const char *given = d->bb ? bb_serial(d->bb) : NULL;
        d->serial = given ? g_strdup(given)
                          : g_strdup_printf("QM%05u", ide_bus_of(d)->channel * 2 + (unsigned)d->unit + 1);
    }
    if (strlen(d->serial) > 20) {
        return error_set(error, "serial '%s' is longer than 20 bytes", d->serial);
    }
    if (d->bb && bb_has_medium(d->bb) && !bb_read_only(d->bb)) {
        error_set(error, "a CD-ROM's medium must be read-only");
        error_append_hint(error, "Use media=cdrom or readonly=on with -drive, read-only=on with -blockdev.");
        return false;
    }
    if (!d->model) {
        d->model = g_strdup("QEMU DVD-ROM");
    }
    return true;
}

static bool cd_post_load(void *opaque, int version, GError **error)
{
    IdeCd *s = opaque;

    if (s->parent_obj.op >= OP_COUNT || s->parent_obj.chunk > MAX_CHUNK || s->limit > 0xffff ||
        s->reply_length > IDE_BUFFER_SIZE) {
        s->parent_obj.op = OP_NONE;
        s->parent_obj.phase = IDE_PHASE_IDLE;
        return error_set(error, "%s: impossible state of a command", TYPE_IDE_CD);
    }
    return true;
}

static const VmStateField cd_fields[] = {
    VMS_STRUCT(parent_obj, IdeCd, ide_drive_vmstate),
    VMS_UINT8(sense_key, IdeCd),
    VMS_UINT8(asc, IdeCd),
    VMS_UINT8(attention, IdeCd),
    VMS_BOOL(locked, IdeCd),
    VMS_BOOL(open, IdeCd),
    VMS_BOOL(dma, IdeCd),
    VMS_UINT32(limit, IdeCd),
    VMS_UINT32(reply_length, IdeCd),
    VMS_END,
};
static const VmState cd_vmstate = {
    .name = TYPE_IDE_CD,
    .version = 1,
    .minimum_version = 1,
    .fields = cd_fields,
    .post_load = cd_post_load,
};

static void cd_class_init(ObjectClass *klass, const void *data)
{
    IdeDriveClass *ic = (IdeDriveClass *)klass;
    DEVICE_CLASS(klass)->vmstate = &cd_vmstate;
    ic->realize = cd_realize;
    ic->reset = cd_reset;
    ic->command = cd_command;
    ic->data_done = cd_data_done;
    ic->block_begin = cd_block_begin;
    ic->submit = cd_submit;
    ic->complete = cd_complete;
}

static const TypeInfo cd_info = {
    .name = TYPE_IDE_CD,
    .parent = TYPE_IDE_DRIVE,
    .description = "IDE CD-ROM drive",
    .instance_size = sizeof(IdeCd),
    .class_init = cd_class_init,
};
TYPE_REGISTER(cd_info);
