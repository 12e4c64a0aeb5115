/*
 * The SCSI bus: addresses, sense data, requests under way, what any target answers. Sources: SAM-5; SPC-4
 * (sense data 4.5, REPORT LUNS 6.33, INQUIRY 6.6). SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/storage/scsi.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(scsi_command, "target %d lun %d operation 0x%02x");
TRACE_EVENT(scsi_end, "target %d lun %d operation 0x%02x status 0x%02x moved %zu sense %02x/%02x");

enum { INQUIRY = 0x12, REQUEST_SENSE = 0x03, REPORT_LUNS = 0xa0 };
enum { ILLEGAL_REQUEST = 5, UNIT_ATTENTION = 6 };
enum { ASC_INVALID_COMMAND = 0x20, ASC_LUN_NOT_SUPPORTED = 0x25, ASC_POWER_ON = 0x29 };
#define MAX_UNITS 256u

static void put_be32(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 24);
    p[1] = (uint8_t)(value >> 16);
    p[2] = (uint8_t)(value >> 8);
    p[3] = (uint8_t)value;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

ScsiBus *scsi_bus_of(ScsiDevice *dev)
{
    return SCSI_BUS(DEVICE(dev)->bus);
}

unsigned scsi_cdb_size(uint8_t operation)
{
    static const uint8_t sizes[8] = { 6, 10, 10, 0, 16, 12, 0, 0 };

    return sizes[operation >> 5];
}

/* ---- how requests end ---- */

static void finish(ScsiRequest *req)
{
    ScsiDevice *dev = req->dev;

    if (dev) {
        TRACE(scsi_end, dev->target, dev->lun, req->cdb[0], req->status, req->moved, req->sense[2],
              req->sense[12]);
        g_queue_unlink(&dev->under_way, &req->link);
    }
    req->done(req);
}

void scsi_done(ScsiRequest *req)
{
    req->status = SCSI_GOOD;
    if (req->dev && req->cdb[0] != REQUEST_SENSE) {
        req->dev->sense_key = req->dev->asc = req->dev->ascq = 0;
    }
    finish(req);
}

static void fill_sense(uint8_t *sense, uint8_t key, uint8_t asc, uint8_t ascq)
{
    memset(sense, 0, SCSI_SENSE_SIZE);
    sense[0] = 0x70;
    sense[2] = key;
    sense[7] = SCSI_SENSE_SIZE - 8;
    sense[12] = asc;
    sense[13] = ascq;
}

void scsi_failed(ScsiRequest *req, uint8_t key, uint8_t asc, uint8_t ascq)
{
    req->status = SCSI_CHECK_CONDITION;
    req->moved = 0;
    fill_sense(req->sense, key, asc, ascq);
    req->sense_size = SCSI_SENSE_SIZE;
    if (req->dev) {
        req->dev->sense_key = key;
        req->dev->asc = asc;
        req->dev->ascq = ascq;
    }
    finish(req);
}

void scsi_reply(ScsiRequest *req, const void *data, size_t size, size_t allocated)
{
    size_t left = MIN(MIN(size, allocated), req->in_size);

    for (unsigned i = 0; i < req->in_count && left; i++) {
        size_t part = MIN(req->in[i].iov_len, left);
        memcpy(req->in[i].iov_base, (const uint8_t *)data + req->moved, part);
        req->moved += part;
        left -= part;
    }
    scsi_done(req);
}

/* ---- addresses ---- */

ScsiDevice *scsi_find(ScsiBus *bus, unsigned target, unsigned lun, bool *target_there)
{
    GPtrArray *children = bus->units;

    *target_there = false;
    for (guint i = 0; i < children->len; i++) {
        ScsiDevice *dev = SCSI_DEVICE(children->pdata[i]);
        if (dev->target == (int)target) {
            *target_there = true;
            if (dev->lun == (int)lun) {
                return dev;
            }
        }
    }
    return NULL;
}

static bool address_taken(ScsiBus *bus, const ScsiDevice *self, int target, int lun)
{
    GPtrArray *children = BUS(bus)->children;

    for (guint i = 0; i < children->len; i++) {
        const ScsiDevice *dev = children->pdata[i];
        if (dev != self && dev->target == target && dev->lun == lun) {
            return true;
        }
    }
    return false;
}

static bool scsi_check_address(Bus *parent, Device *device, GError **error)
{
    ScsiBus *bus = SCSI_BUS(parent);
    ScsiDevice *dev = SCSI_DEVICE(device);

    if (dev->channel != 0) {
        return error_set(error, "bad scsi channel id: %d (there is 0 only)", dev->channel);
    }
    if (dev->target > (int)bus->max_target || dev->target < -1) {
        return error_set(error, "bad scsi device id: %d (0 to %u)", dev->target, bus->max_target);
    }
    if (dev->lun > (int)bus->max_lun || dev->lun < -1) {
        return error_set(error, "bad scsi device lun: %d (0 to %u)", dev->lun, bus->max_lun);
    }
    int lun = MAX(dev->lun, 0);
    if (dev->target < 0) {
        for (int target = 0; target <= (int)bus->max_target && dev->target < 0; target++) {
            dev->target = address_taken(bus, dev, target, lun) ? -1 : target;
        }
        if (dev->target < 0) {
            return error_set(error, "no free target on %s", parent->name);
        }
    } else if (dev->lun < 0) {
        while (lun <= (int)bus->max_lun && address_taken(bus, dev, dev->target, lun)) {
            lun++;
        }
        if (lun > (int)bus->max_lun) {
            return error_set(error, "no free lun at target %d of %s", dev->target, parent->name);
        }
    }
    if (address_taken(bus, dev, dev->target, lun)) {
        return error_set(error, "lun %d of target %d on %s is in use", lun, dev->target, parent->name);
    }
    dev->lun = lun;
    return true;
}

/* ---- what any target answers ---- */

static void report_luns(ScsiBus *bus, unsigned target, ScsiRequest *req)
{
    GPtrArray *children = bus->units;
    g_autofree uint8_t *data = g_malloc0(8 + 8 * MAX_UNITS);
    unsigned count = 0;

    for (int pass = 0; pass < 2; pass++) { /* unit 0 first */
        for (guint i = 0; i < children->len && count < MAX_UNITS; i++) {
            const ScsiDevice *dev = children->pdata[i];
            if (dev->target == (int)target && (dev->lun == 0) == (pass == 0)) {
                uint8_t *entry = data + 8 + 8 * count++;
                entry[0] = dev->lun < 256 ? 0 : (uint8_t)(0x40 | dev->lun >> 8);
                entry[1] = (uint8_t)dev->lun;
            }
        }
    }
    put_be32(data, 8 * count);
    scsi_reply(req, data, 8 + 8 * count, be32(req->cdb + 6));
}

void scsi_submit_no_unit(ScsiBus *bus, unsigned target, ScsiRequest *req)
{
    req->dev = NULL;
    req->moved = 0;
    req->sense_size = 0;
    if (req->cdb[0] == REPORT_LUNS) {
        report_luns(bus, target, req);
    } else if (req->cdb[0] == INQUIRY && !(req->cdb[1] & 1)) {
        uint8_t data[36] = { 0x7f, 0, 5, 2, 31 }; /* no unit there */
        scsi_reply(req, data, sizeof(data), (size_t)req->cdb[3] << 8 | req->cdb[4]);
    } else if (req->cdb[0] == REQUEST_SENSE) {
        uint8_t sense[SCSI_SENSE_SIZE];
        fill_sense(sense, ILLEGAL_REQUEST, ASC_LUN_NOT_SUPPORTED, 0);
        scsi_reply(req, sense, sizeof(sense), req->cdb[4]);
    } else {
        scsi_failed(req, ILLEGAL_REQUEST, ASC_LUN_NOT_SUPPORTED, 0);
    }
}

void scsi_submit(ScsiDevice *dev, ScsiRequest *req)
{
    uint8_t operation = req->cdb[0];

    req->dev = dev;
    req->moved = 0;
    req->sense_size = 0;
    req->link = (GList){ .data = req };
    g_queue_push_tail_link(&dev->under_way, &req->link);
    TRACE(scsi_command, dev->target, dev->lun, operation);
    if (operation == REPORT_LUNS) {
        report_luns(scsi_bus_of(dev), (unsigned)dev->target, req);
    } else if (operation == REQUEST_SENSE) {
        uint8_t sense[SCSI_SENSE_SIZE];
        if (dev->attention) {
            fill_sense(sense, UNIT_ATTENTION, dev->attention, 0);
            dev->attention = 0;
        } else {
            fill_sense(sense, dev->sense_key, dev->asc, dev->ascq);
        }
        dev->sense_key = dev->asc = dev->ascq = 0;
        scsi_reply(req, sense, sizeof(sense), req->cdb[4]);
    } else if (dev->attention && operation != INQUIRY) {
        uint8_t asc = dev->attention;
        dev->attention = 0;
        scsi_failed(req, UNIT_ATTENTION, asc, 0);
    } else if (!scsi_cdb_size(operation)) {
        scsi_failed(req, ILLEGAL_REQUEST, ASC_INVALID_COMMAND, 0);
    } else {
        SCSI_DEVICE_GET_CLASS(dev)->command(dev, req);
    }
}

/* ---- requests that wait ---- */

void scsi_device_abort_stopped(ScsiDevice *dev)
{
    ScsiRequest *req;

    while ((req = g_queue_pop_head(&dev->stopped))) {
        req->status = SCSI_TASK_ABORTED;
        finish(req);
    }
}

void scsi_bus_abort_stopped(ScsiBus *bus)
{
    for (guint i = 0; i < bus->units->len; i++) {
        scsi_device_abort_stopped(bus->units->pdata[i]);
    }
}

void scsi_bus_resume(ScsiBus *bus)
{
    for (guint i = 0; i < bus->units->len; i++) {
        ScsiDevice *dev = bus->units->pdata[i];
        GQueue again = dev->stopped;
        ScsiRequest *req;
        g_queue_init(&dev->stopped);
        while ((req = g_queue_pop_head(&again))) {
            req->moved = 0;
            SCSI_DEVICE_GET_CLASS(dev)->command(dev, req);
        }
    }
}

void scsi_device_reset_unit(ScsiDevice *dev)
{
    dev->sense_key = dev->asc = dev->ascq = 0;
    dev->attention = ASC_POWER_ON;
    if (SCSI_DEVICE_GET_CLASS(dev)->reset) {
        SCSI_DEVICE_GET_CLASS(dev)->reset(dev);
    }
}

void scsi_bus_drain(ScsiBus *bus, Loop *loop)
{
    for (guint i = 0; i < bus->units->len; i++) {
        ScsiDevice *dev = bus->units->pdata[i];
        if (SCSI_DEVICE_GET_CLASS(dev)->drain) {
            SCSI_DEVICE_GET_CLASS(dev)->drain(dev, loop);
        }
    }
}

/* ---- life ---- */

ScsiBus *scsi_bus_new(Device *owner, const char *name, const DeviceEnv *env, HomeLock *home, Loop *loop,
                      unsigned max_target, unsigned max_lun, const ScsiBusOps *ops, void *opaque)
{
    ScsiBus *bus = SCSI_BUS(bus_new(TYPE_SCSI_BUS, owner, name, env));

    bus->home = home;
    bus->loop = loop;
    bus->max_target = max_target;
    bus->max_lun = max_lun;
    bus->ops = ops;
    bus->opaque = opaque;
    return bus;
}

static void scsi_plugged(Bus *parent, Device *device)
{
    ScsiBus *bus = SCSI_BUS(parent);

    home_lock(bus->home);
    g_ptr_array_add(bus->units, device);
    if (bus->ops && bus->ops->changed) {
        bus->ops->changed(bus->opaque, SCSI_DEVICE(device), true);
    }
    home_unlock(bus->home);
}

static char *scsi_device_path(Device *device)
{
    const ScsiDevice *dev = SCSI_DEVICE(device);

    return g_strdup_printf("channel@%x/disk@%x,%x", dev->channel, dev->target, dev->lun);
}

static void scsi_bus_instance_init(Object *obj)
{
    SCSI_BUS(obj)->units = g_ptr_array_new();
}

static void scsi_bus_instance_finalize(Object *obj)
{
    g_ptr_array_unref(SCSI_BUS(obj)->units);
}

static void scsi_bus_class_init(ObjectClass *klass, const void *data)
{
    BusClass *bc = (BusClass *)klass;
    bc->hotplug = true;
    bc->check_address = scsi_check_address;
    bc->plugged = scsi_plugged;
    bc->device_path = scsi_device_path;
}

static const TypeInfo scsi_bus_info = {
    .name = TYPE_SCSI_BUS,
    .parent = TYPE_BUS,
    .instance_size = sizeof(ScsiBus),
    .class_init = scsi_bus_class_init,
    .instance_init = scsi_bus_instance_init,
    .instance_finalize = scsi_bus_instance_finalize,
};
TYPE_REGISTER(scsi_bus_info);

static bool scsi_device_realize(Device *device, GError **error)
{
    ScsiDevice *dev = SCSI_DEVICE(device);

    g_queue_init(&dev->under_way);
    g_queue_init(&dev->stopped);
    dev->attention = ASC_POWER_ON;
    return !SCSI_DEVICE_GET_CLASS(dev)->realize || SCSI_DEVICE_GET_CLASS(dev)->realize(dev, error);
}

static void scsi_device_unrealize(Device *device)
{
    ScsiDevice *dev = SCSI_DEVICE(device);
    ScsiBus *bus = scsi_bus_of(dev);

    home_lock(bus->home);
    g_ptr_array_remove(bus->units, dev);
    if (bus->ops && bus->ops->changed) {
        bus->ops->changed(bus->opaque, dev, false);
    }
    scsi_device_abort_stopped(dev);
    home_unlock(bus->home);
    if (SCSI_DEVICE_GET_CLASS(dev)->drain) {
        SCSI_DEVICE_GET_CLASS(dev)->drain(dev, device->env->loop);
    }
    if (SCSI_DEVICE_GET_CLASS(dev)->unrealize) {
        SCSI_DEVICE_GET_CLASS(dev)->unrealize(dev);
    }
}

static void scsi_device_power_reset(Device *device)
{
    scsi_device_reset_unit(SCSI_DEVICE(device));
}

static const Property scsi_device_properties[] = {
    PROP_INT32("channel", ScsiDevice, channel, 0, "the channel; 0"),
    PROP_INT32("scsi-id", ScsiDevice, target, -1, "the target (-1: the first that is free)"),
    PROP_INT32("lun", ScsiDevice, lun, -1, "the logical unit (-1: the first that is free)"),
    PROP_END,
};

static const VmStateField scsi_device_fields[] = {
    VMS_UINT8(sense_key, ScsiDevice),
    VMS_UINT8(asc, ScsiDevice),
    VMS_UINT8(ascq, ScsiDevice),
    VMS_UINT8(attention, ScsiDevice),
    VMS_END,
};
const VmState scsi_device_vmstate = { .name = "scsi-device", .version = 1, .fields = scsi_device_fields };

static void scsi_device_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->bus_type = TYPE_SCSI_BUS;
    dc->realize = scsi_device_realize;
    dc->unrealize = scsi_device_unrealize;
    dc->reset = scsi_device_power_reset;
    dc->user_creatable = true;
    dc->hotpluggable = true;
    dc->category = "Storage";
    object_class_add_properties(klass, scsi_device_properties);
}

static const TypeInfo scsi_device_info = {
    .name = TYPE_SCSI_DEVICE,
    .parent = TYPE_DEVICE,
    .abstract = true,
    .instance_size = sizeof(ScsiDevice),
    .class_size = sizeof(ScsiDeviceClass),
    .class_init = scsi_device_class_init,
};
TYPE_REGISTER(scsi_device_info);
