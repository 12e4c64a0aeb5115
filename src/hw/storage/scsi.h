/*
 * SCSI: a bus with logical units, and requests to them, as a host adapter sees it (virtio_scsi.c,
 * usb_storage.c). Sources: SAM-5, SPC-4. Everything under the adapter's HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_STORAGE_SCSI_H
#define RHEA_HW_STORAGE_SCSI_H

#include "block/block.h"
#include "hw/core/device.h"

#define TYPE_SCSI_BUS    "SCSI"
#define TYPE_SCSI_DEVICE "scsi-device" /* abstract */

#define SCSI_CDB_MAX    32
#define SCSI_SENSE_SIZE 18

/* Status (SAM-5, 5.3). */
enum { SCSI_GOOD = 0x00, SCSI_CHECK_CONDITION = 0x02, SCSI_BUSY = 0x08, SCSI_TASK_ABORTED = 0x40 };

typedef struct ScsiBus ScsiBus;
typedef struct ScsiDevice ScsiDevice;
typedef struct ScsiRequest ScsiRequest;

/* The adapter fills in the first part and owns the memory, from scsi_submit to done. */
struct ScsiRequest {
    uint8_t cdb[SCSI_CDB_MAX];
    const struct iovec *out, *in; /* data from the guest, room for data to it */
    unsigned out_count, in_count;
    size_t out_size, in_size;
    Loop *loop; /* the calling one */
    /* Called once, with the home lock held; perhaps before scsi_submit returns. */
    void (*done)(ScsiRequest *req);
    /* Filled in. */
    uint8_t status;
    uint8_t sense[SCSI_SENSE_SIZE];
    unsigned sense_size;
    size_t moved; /* bytes of data, either way */
    /* The device's. */
    ScsiDevice *dev;
    bool is_read;
    GList link; /* in the device's list of requests under way */
};

typedef struct ScsiBusOps {
    /* A unit came or goes, while the guest runs. May be NULL. */
    void (*changed)(void *opaque, ScsiDevice *dev, bool came);
} ScsiBusOps;

struct ScsiBus {
    Bus parent_obj;
    HomeLock *home;
    Loop *loop;
    unsigned max_target, max_lun;
    GPtrArray *units; /* of ScsiDevice *, those that answer; under the lock */
    const ScsiBusOps *ops;
    void *opaque;
};
#define SCSI_BUS(obj) OBJECT_CHECK(ScsiBus, obj, TYPE_SCSI_BUS)

struct ScsiDevice {
    Device parent_obj;
    /* from properties */
    int32_t channel, target, lun;
    /* saved */
    uint8_t sense_key, asc, ascq; /* for REQUEST SENSE */
    uint8_t attention;            /* additional code that the next command gets; 0: none */
    /* derived */
    GQueue under_way; /* of ScsiRequest *, by their links */
    GQueue stopped;   /* of ScsiRequest *: failed, wait for the machine to run again */
};
#define SCSI_DEVICE(obj) OBJECT_CHECK(ScsiDevice, obj, TYPE_SCSI_DEVICE)

typedef struct ScsiDeviceClass {
    DeviceClass parent_class;
    bool (*realize)(ScsiDevice *dev, GError **error);
    void (*unrealize)(ScsiDevice *dev);
    void (*reset)(ScsiDevice *dev);
    /* Ends with scsi_done or scsi_failed, now or later. */
    void (*command)(ScsiDevice *dev, ScsiRequest *req);
    /* Waits until no request is under way. Main loop's thread, no lock held. */
    void (*drain)(ScsiDevice *dev, Loop *loop);
} ScsiDeviceClass;
#define SCSI_DEVICE_CLASS(klass)   ((ScsiDeviceClass *)(klass))
#define SCSI_DEVICE_GET_CLASS(obj) OBJECT_GET_CLASS(ScsiDeviceClass, obj)

extern const VmState scsi_device_vmstate;

/* ---- for adapters ---- */
ScsiBus *scsi_bus_new(Device *owner, const char *name, const DeviceEnv *env, HomeLock *home, Loop *loop,
                      unsigned max_target, unsigned max_lun, const ScsiBusOps *ops, void *opaque);
/* The unit of an address; NULL: none. *target_there: whether there is another at that target. Borrowed. */
ScsiDevice *scsi_find(ScsiBus *bus, unsigned target, unsigned lun, bool *target_there);
void scsi_submit(ScsiDevice *dev, ScsiRequest *req);
/* Answers for a logical unit that is not there (INQUIRY, REPORT LUNS), through another of its target. */
void scsi_submit_no_unit(ScsiBus *bus, unsigned target, ScsiRequest *req);
/* Requests that wait for the machine to run again: makes them again, or ends them as aborted. */
void scsi_bus_resume(ScsiBus *bus);
void scsi_bus_abort_stopped(ScsiBus *bus);
void scsi_device_abort_stopped(ScsiDevice *dev);
/* As after power-on, and the next command is told so. */
void scsi_device_reset_unit(ScsiDevice *dev);
/* Main loop's thread, no lock held. */
void scsi_bus_drain(ScsiBus *bus, Loop *loop);
/* Bytes of a command by its first byte; 0: not known. */
unsigned scsi_cdb_size(uint8_t operation);

/* ---- for devices ---- */
void scsi_done(ScsiRequest *req);
void scsi_failed(ScsiRequest *req, uint8_t key, uint8_t asc, uint8_t ascq);
/* Ends a request with data for the guest, at most `allocated` bytes of it. */
void scsi_reply(ScsiRequest *req, const void *data, size_t size, size_t allocated);
ScsiBus *scsi_bus_of(ScsiDevice *dev);

#endif
