/*
 * "usb-storage": a USB disk or CD-ROM drive. Sources: USB Mass Storage Class, Bulk-Only Transport 1.0; its
 * unit is a scsi-hd or scsi-cd on a bus of its own.
 *
 * A command's data is gathered (or read) as a whole, then its request is made in the main loop. What a unit
 * gives less than the host expects is filled with zeros, and the residue told. Left out: UAS, several units.
 *
 * Threads: the USB controller's lock; requests in the main loop. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "hw/storage/scsi.h"
#include "hw/usb/usb.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(usb_storage_command, "operation 0x%02x length %u in %d");
TRACE_EVENT(usb_storage_status, "status %u residue %u");

#define TYPE_USB_STORAGE "usb-storage"
#define COMMAND_SIZE     31u
#define STATUS_SIZE      13u
#define COMMAND_MAGIC    0x43425355u
#define STATUS_MAGIC     0x53425355u
#define MAX_DATA         (16u << 20)
#define ENDPOINT_IN      1
#define ENDPOINT_OUT     2
enum { REQUEST_RESET = 0xff, REQUEST_MAX_LUN = 0xfe };

typedef enum StorageMode {
    MODE_COMMAND, /* waits for a command */
    MODE_OUT,     /* gathers its data */
    MODE_BUSY,    /* its request is to be made, or under way */
    MODE_IN,      /* gives its data */
    MODE_STATUS,
    MODE_COUNT,
} StorageMode;

typedef struct StorageJob StorageJob;

typedef struct UsbStorage {
    UsbDevice parent_obj;
    /* saved */
    uint8_t mode, status, lun;
    uint8_t cdb[16];
    bool in, broken; /* a command made no sense: nothing but a reset helps */
    uint32_t tag, residue;
    uint32_t size, at; /* of the data */
    uint8_t *data;
    /* from properties */
    char *drive;
    bool removable, cd;
    int32_t bootindex;
    /* derived */
    ScsiBus *scsi;
    StorageJob *job; /* the request under way */
    BottomHalf *bh;
} UsbStorage;
#define USB_STORAGE(obj) OBJECT_CHECK(UsbStorage, obj, TYPE_USB_STORAGE)

struct StorageJob {
    ScsiRequest scsi;
    UsbStorage *owner; /* NULL: it was reset meanwhile */
    uint8_t *data;     /* then: its own */
    struct iovec iov;
};

/* ---- requests ---- */

static void job_done(ScsiRequest *req)
{
    StorageJob *job = (StorageJob *)((uint8_t *)req - offsetof(StorageJob, scsi));
    UsbStorage *s = job->owner;

    if (s) {
        s->job = NULL;
        s->status = req->status != SCSI_GOOD;
        s->residue = s->size - (uint32_t)MIN(req->moved, s->size);
        s->at = 0;
        s->mode = s->in && s->size ? MODE_IN : MODE_STATUS;
        TRACE(usb_storage_status, s->status, s->residue);
        usb_wakeup(&s->parent_obj, ENDPOINT_IN, true);
    }
    g_free(job->data);
    g_free(job);
}

/* In the main loop, under the lock. */
static void make_request(void *opaque)
{
    UsbStorage *s = opaque;
    bool target_there;

    if (s->mode != MODE_BUSY || s->job) {
        return;
    }
    StorageJob *job = s->job = g_new0(StorageJob, 1);
    job->owner = s;
    job->iov = (struct iovec){ s->data, s->size };
    memcpy(job->scsi.cdb, s->cdb, sizeof(s->cdb));
    job->scsi.loop = DEVICE(s)->env->loop;
    job->scsi.done = job_done;
    if (s->size && s->in) {
        job->scsi.in = &job->iov;
        job->scsi.in_count = 1;
        job->scsi.in_size = s->size;
    } else if (s->size) {
        job->scsi.out = &job->iov;
        job->scsi.out_count = 1;
        job->scsi.out_size = s->size;
    }
    ScsiDevice *unit = scsi_find(s->scsi, 0, s->lun, &target_there);
    if (unit) {
        scsi_submit(unit, &job->scsi);
    } else {
        scsi_submit_no_unit(s->scsi, 0, &job->scsi);
    }
}

static void forget(UsbStorage *s)
{
    if (s->job) { /* its data stays until it is done */
        s->job->owner = NULL;
        s->job->data = g_steal_pointer(&s->data);
        s->job = NULL;
    }
    g_clear_pointer(&s->data, g_free);
    s->size = s->at = 0;
    s->mode = MODE_COMMAND;
}

/* ---- the protocol ---- */

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_le32(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
    p[2] = (uint8_t)(value >> 16);
    p[3] = (uint8_t)(value >> 24);
}

static UsbStatus take_command(UsbStorage *s, UsbPacket *p)
{
    const uint8_t *c = p->data;
    unsigned cdb_size = p->size == COMMAND_SIZE ? c[14] & 31 : 0;

    if (p->size != COMMAND_SIZE || le32(c) != COMMAND_MAGIC || !cdb_size || cdb_size > sizeof(s->cdb) ||
        le32(c + 8) > MAX_DATA) {
        LOG(LOG_GUEST_ERROR, "usb-storage: a command of %u bytes that is none", p->size);
        s->broken = true; /* both directions are refused until a reset (6.6.1) */
        usb_device_halt(&s->parent_obj, ENDPOINT_IN, true);
        return USB_STALL;
    }
    s->tag = le32(c + 4);
    s->size = le32(c + 8);
    s->at = 0;
    s->in = c[12] & 0x80;
    s->lun = c[13] & 15;
    memset(s->cdb, 0, sizeof(s->cdb));
    memcpy(s->cdb, c + 15, cdb_size);
    g_free(s->data);
    s->data = s->size ? g_malloc0(s->size) : NULL;
    TRACE(usb_storage_command, s->cdb[0], s->size, s->in);
    s->mode = s->size && !s->in ? MODE_OUT : MODE_BUSY;
    if (s->mode == MODE_BUSY) {
        bh_schedule(s->bh);
    }
    p->actual = p->size;
    return USB_OK;
}

static UsbStatus take_data(UsbStorage *s, UsbPacket *p)
{
    if (p->size > s->size - s->at) {
        return USB_STALL;
    }
    memcpy(s->data + s->at, p->data, p->size);
    s->at += p->size;
    p->actual = p->size;
    if (s->at == s->size) {
        s->mode = MODE_BUSY;
        bh_schedule(s->bh);
    }
    return USB_OK;
}

static UsbStatus give_status(UsbStorage *s, UsbPacket *p)
{
    uint8_t c[STATUS_SIZE];

    if (p->size < STATUS_SIZE) {
        return USB_STALL;
    }
    put_le32(c, STATUS_MAGIC);
    put_le32(c + 4, s->tag);
    put_le32(c + 8, s->residue);
    c[12] = s->status;
    memcpy(p->data, c, STATUS_SIZE);
    p->actual = STATUS_SIZE;
    forget(s);
    return USB_OK;
}

static UsbStatus give_data(UsbStorage *s, UsbPacket *p)
{
    p->actual = MIN(p->size, s->size - s->at);
    memcpy(p->data, s->data + s->at, p->actual);
    s->at += p->actual;
    if (s->at == s->size) {
        s->mode = MODE_STATUS;
    }
    return USB_OK;
}

static UsbStatus storage_transfer(UsbDevice *dev, UsbPacket *p)
{
    UsbStorage *s = USB_STORAGE(dev);

    if (s->broken) {
        return USB_STALL;
    }
    if (p->pid == USB_PID_OUT && p->endpoint == ENDPOINT_OUT) {
        return s->mode == MODE_COMMAND ? take_command(s, p)
               : s->mode == MODE_OUT   ? take_data(s, p)
                                       : USB_STALL;
    }
    if (p->pid != USB_PID_IN || p->endpoint != ENDPOINT_IN) {
        return USB_STALL;
    }
    switch (s->mode) {
    case MODE_BUSY:
        return USB_NAK;
    case MODE_IN:
        return give_data(s, p);
    case MODE_STATUS:
        return give_status(s, p);
    default:
        return USB_STALL;
    }
}

static UsbStatus storage_control(UsbDevice *dev, const UsbSetup *setup, uint8_t *data, uint32_t *actual)
{
    UsbStorage *s = USB_STORAGE(dev);

    switch (setup->request_type << 8 | setup->request) {
    case 0x2100 | REQUEST_RESET:
        s->broken = false;
        forget(s);
        return USB_OK;
    case 0xa100 | REQUEST_MAX_LUN:
        data[0] = 0;
        *actual = MIN(setup->length, 1u);
        return USB_OK;
    default:
        return USB_STALL;
    }
}

static void storage_reset(UsbDevice *dev)
{
    UsbStorage *s = USB_STORAGE(dev);

    s->broken = false;
    forget(s);
}

/* ---- descriptors ---- */

static const uint8_t device_descriptor[] = { 18,   1,    0x00, 0x02, 0, 0, 0, 64, 0xf4,
                                             0x46, 0x01, 0x00, 0,    0, 1, 2, 3,  1 };
/* Configuration 1, a SCSI interface with bulk-only transport, two bulk endpoints. */
#define CONFIGURATION(low, high)                                                                             \
    {                                                                                                        \
        9, 2, 32, 0, 1, 1, 0, 0xc0, 0, 9, 4, 0, 0, 2, 8, 6, 0x50, 0, 7, 5, 0x80 | ENDPOINT_IN, 2, low, high, \
            0, 7, 5, ENDPOINT_OUT, 2, low, high, 0                                                           \
    }
static const uint8_t full_speed[] = CONFIGURATION(64, 0), high_speed[] = CONFIGURATION(0, 2);
static const char *const strings[] = { "QEMU", "QEMU USB HARDDRIVE", "1", NULL };

static const UsbDescriptors *storage_descriptors(UsbDevice *dev)
{
    static const UsbDescriptors full = { device_descriptor, full_speed, sizeof(full_speed), strings },
                                high = { device_descriptor, high_speed, sizeof(high_speed), strings };

    return dev->speed == USB_SPEED_HIGH ? &high : &full;
}

/* ---- life ---- */

static void run_changed(void *opaque, bool running)
{
    UsbStorage *s = opaque;

    if (running) {
        home_lock(s->scsi->home);
        scsi_bus_resume(s->scsi);
        home_unlock(s->scsi->home);
    }
}

/* The unit that the bus is for. */
static bool add_unit(UsbStorage *s, GError **error)
{
    Object *unit = object_new(s->cd ? "scsi-cd" : "scsi-hd", error);

    if (!unit) {
        return false;
    }
    object_property_add_child(OBJECT(s), "unit", unit, NULL);
    object_unref(unit); /* the tree keeps it */
    if (object_property_parse(unit, "drive", s->drive, error) &&
        object_property_parse(unit, "scsi-id", "0", error) &&
        object_property_parse(unit, "lun", "0", error) &&
        (s->cd || object_property_parse(unit, "removable", s->removable ? "on" : "off", error)) &&
        (!s->parent_obj.serial || object_property_parse(unit, "serial", s->parent_obj.serial, error)) &&
        device_realize(DEVICE(unit), BUS(s->scsi), NULL, error)) {
        return true;
    }
    object_unparent(unit);
    return false;
}

static bool storage_realize(UsbDevice *dev, GError **error)
{
    UsbStorage *s = USB_STORAGE(dev);
    const DeviceEnv *env = DEVICE(dev)->env;

    if (!s->drive) {
        return error_set(error, "drive property not set");
    }
    s->bh = bh_new(env->loop, make_request, s, dev->bus->home);
    s->scsi = scsi_bus_new(DEVICE(dev), NULL, env, dev->bus->home, env->loop, 0, 0, NULL, NULL);
    if (!add_unit(s, error)) {
        bh_free(s->bh);
        s->bh = NULL;
        object_unparent(OBJECT(s->scsi));
        g_ptr_array_remove(DEVICE(dev)->child_buses, s->scsi);
        return false;
    }
    if (env->vm && env->vm->add_run_handler) {
        env->vm->add_run_handler(env->vm->opaque, run_changed, s);
    }
    return true;
}

static void storage_unrealize(UsbDevice *dev)
{
    UsbStorage *s = USB_STORAGE(dev);
    const VmServices *vm = DEVICE(dev)->env->vm;

    if (vm && vm->remove_handlers) {
        vm->remove_handlers(vm->opaque, s);
    }
    bh_free(s->bh);
    s->bh = NULL;
    forget(s);
}

static bool storage_post_load(void *opaque, int version, GError **error)
{
    UsbStorage *s = opaque;

    if (s->mode >= MODE_COUNT || s->at > s->size || (s->size && !s->data)) {
        s->size = s->at = 0;
        s->mode = MODE_COMMAND;
        return error_set(error, "%s: impossible state of a command", TYPE_USB_STORAGE);
    }
    bh_schedule(s->bh); /* a request that was under way is made again */
    return true;
}

static bool storage_pre_load(void *opaque, GError **error)
{
    forget(opaque);
    return true;
}

static const Property storage_properties[] = {
    PROP_STR("drive", UsbStorage, drive, NULL, "the disk: a drive's id or a block node's name"),
    PROP_BOOL("removable", UsbStorage, removable, false, "tell that the medium can be taken out"),
    PROP_BOOL("x-cdrom", UsbStorage, cd, false, "a CD-ROM drive instead of a disk"),
    PROP_INT32("bootindex", UsbStorage, bootindex, -1, "place in the boot order (-1: none)"),
    PROP_END,
};

static const VmStateField storage_fields[] = {
    VMS_STRUCT(parent_obj, UsbStorage, usb_device_vmstate),
    VMS_UINT8(mode, UsbStorage),
    VMS_UINT8(status, UsbStorage),
    VMS_UINT8(lun, UsbStorage),
    VMS_BUFFER(cdb, UsbStorage),
    VMS_BOOL(in, UsbStorage),
    VMS_BOOL(broken, UsbStorage),
    VMS_UINT32(tag, UsbStorage),
    VMS_UINT32(residue, UsbStorage),
    VMS_VBUFFER(data, UsbStorage, size, MAX_DATA),
    VMS_UINT32(at, UsbStorage),
    VMS_END,
};
static const VmState storage_vmstate = {
    .name = TYPE_USB_STORAGE,
    .version = 1,
    .minimum_version = 1,
    .fields = storage_fields,
    .pre_load = storage_pre_load,
    .post_load = storage_post_load,
};

static void storage_class_init(ObjectClass *klass, const void *data)
{
    UsbDeviceClass *uc = USB_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &storage_vmstate;
    DEVICE_CLASS(klass)->category = "Storage";
    uc->speed = USB_SPEED_HIGH;
    uc->realize = storage_realize;
    uc->unrealize = storage_unrealize;
    uc->descriptors = storage_descriptors;
    uc->reset = storage_reset;
    uc->control = storage_control;
    uc->transfer = storage_transfer;
    object_class_add_properties(klass, storage_properties);
}

static const TypeInfo storage_info = {
    .name = TYPE_USB_STORAGE,
    .parent = TYPE_USB_DEVICE,
    .description = "USB disk",
    .instance_size = sizeof(UsbStorage),
    .class_init = storage_class_init,
};
TYPE_REGISTER(storage_info);
