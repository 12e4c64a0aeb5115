/*
 * IDE: a channel with two drives, as a controller and the drives see it (ide_bus.c). The drives' task files
 * are under the controller's HomeLock. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_STORAGE_IDE_H
#define RHEA_HW_STORAGE_IDE_H

#include "block/block.h"
#include "hw/core/device.h"

#define TYPE_IDE_BUS   "IDE"
#define TYPE_IDE_DRIVE "ide-device" /* abstract */

#define IDE_SECTOR      512u
#define IDE_BUFFER_SIZE (128u << 10)

/* Status and error registers (ATA/ATAPI-7 vol. 1, 5.14 and 6.14). */
enum { IDE_ERR = 0x01, IDE_DRQ = 0x08, IDE_DSC = 0x10, IDE_DF = 0x20, IDE_DRDY = 0x40, IDE_BSY = 0x80 };
enum { IDE_ERROR_ABORT = 0x04, IDE_ERROR_ID = 0x10, IDE_ERROR_UNCORRECTABLE = 0x40 };
/* Device register. */
enum { IDE_DEVICE_UNIT = 0x10, IDE_DEVICE_LBA = 0x40 };

typedef struct IdeDrive IdeDrive;
typedef struct IdeBus IdeBus;

/* What a controller offers to its channels. The HomeLock is held. */
typedef struct IdeBusOps {
    void (*set_irq)(void *opaque, unsigned channel, bool level);
    /* Whether the guest has started bus mastering. */
    bool (*dma_started)(void *opaque, unsigned channel);
    /* Moves bytes to or from the guest's memory, as far as its list goes. The number moved, or a negative
     * errno. */
    int64_t (*dma_move)(void *opaque, unsigned channel, uint8_t *buffer, uint32_t size, bool to_memory);
    /* The drive has nothing more to move. */
    void (*dma_end)(void *opaque, unsigned channel, bool ok);
} IdeBusOps;

struct IdeBus {
    Bus parent_obj;
    const IdeBusOps *ops;
    void *opaque;
    HomeLock *home;
    unsigned channel;
    bool sata; /* a port with one drive: no cable, and disks take queued commands (ahci.c) */
    IdeDrive *drives[2];
    /* saved by the controller */
    uint8_t select;  /* the device register as written last */
    uint8_t control; /* the device control register */
    bool irq;        /* a drive wants an interrupt */
};
#define IDE_BUS(obj) OBJECT_CHECK(IdeBus, obj, TYPE_IDE_BUS)

/* What a drive is doing. */
typedef enum IdePhase {
    IDE_PHASE_IDLE,
    IDE_PHASE_IN,     /* the guest reads buffer[position..end) through the data register */
    IDE_PHASE_OUT,    /* it writes there */
    IDE_PHASE_SUBMIT, /* a request to the back end is to be made, or under way */
    IDE_PHASE_DMA,    /* waits for the guest to start bus mastering */
    IDE_PHASE_COUNT,
} IdePhase;

typedef struct IdeRequest {
    IdeDrive *drive; /* NULL: cancelled */
    HomeLock *home;
    uint32_t size;
    struct iovec iov;
    uint8_t data[];
} IdeRequest;

/* What failed among a disk's queued commands: log 10h (Serial ATA 3.0, 13.7.3.1). */
typedef struct IdeQueuedError {
    bool valid;
    uint8_t tag, status, error;
    uint64_t lba;
    uint16_t count;
} IdeQueuedError;

struct IdeDrive {
    Device parent_obj;
    /* saved: registers, each with what was written before (48-bit commands) */
    uint8_t feature, count, lba_low, lba_mid, lba_high;
    uint8_t old_feature, old_count, old_low, old_mid, old_high;
    uint8_t device, status, error;
    /* saved: the command */
    uint8_t phase; /* IdePhase */
    uint8_t op;    /* the class's */
    uint64_t lba;  /* next block of the medium */
    uint32_t left; /* blocks not yet moved */
    uint32_t position, block_end, end, block;
    uint32_t chunk; /* blocks that the present request is about */
    uint8_t multiple;
    uint8_t buffer[IDE_BUFFER_SIZE];
    IdeQueuedError queued_error;
    /* from properties */
    BlockBackend *bb;
    int32_t unit, bootindex;
    char *serial, *model, *version;
    int on_read_error, on_write_error;
    bool share_rw;
    /* derived */
    IdeRequest *request;
    BottomHalf *bh;
    bool stopped; /* a request failed, and waits for the machine to run again */
    bool initial_write_cache;
};
#define IDE_DRIVE(obj) OBJECT_CHECK(IdeDrive, obj, TYPE_IDE_DRIVE)

typedef struct IdeDriveClass {
    DeviceClass parent_class;
    bool is_disk; /* else it takes packets */
    bool (*realize)(IdeDrive *s, GError **error);
    /* Registers and command state as after power-on or a reset: sets the signature. */
    void (*reset)(IdeDrive *s);
    void (*command)(IdeDrive *s, uint8_t command);
    /* The guest has read or written all of the buffer. */
    void (*data_done)(IdeDrive *s);
    /* A block of data of that size is about to be moved through the data register; may be NULL. */
    void (*block_begin)(IdeDrive *s, uint32_t size);
    /* Makes the request of the phase IDE_PHASE_SUBMIT. */
    void (*submit)(IdeDrive *s);
    /* It is done. */
    void (*complete)(IdeDrive *s, IdeRequest *req, int result);
} IdeDriveClass;
#define IDE_DRIVE_GET_CLASS(obj) OBJECT_GET_CLASS(IdeDriveClass, obj)

IdeBus *ide_bus_new(Device *owner, const char *name, unsigned channel, const DeviceEnv *env,
                    const IdeBusOps *ops, void *opaque, HomeLock *home);
IdeBus *ide_bus_of(IdeDrive *s);

/* ---- registers: offset 0 is the data register (size 2 or 4), 1 to 7 the others ---- */
uint32_t ide_bus_read(IdeBus *bus, unsigned offset, unsigned size);
void ide_bus_write(IdeBus *bus, unsigned offset, uint32_t value, unsigned size);
uint8_t ide_bus_alternate_status(IdeBus *bus);
void ide_bus_control_write(IdeBus *bus, uint8_t value);
/* Power-on. */
void ide_bus_power_reset(IdeBus *bus);
/* The guest has started or stopped bus mastering. */
void ide_bus_dma_changed(IdeBus *bus, bool started);
/* Ends what a drive is doing, without a trace. */
void ide_cancel(IdeDrive *s);
/* In IDE_PHASE_IN and _OUT: bytes position to block_end of the buffer have been moved for the guest. */
void ide_block_moved(IdeDrive *s);
static inline bool ide_is_disk(const IdeDrive *s)
{
    return IDE_DRIVE_GET_CLASS(s)->is_disk;
}
/* After the controller's state came in. */
void ide_bus_update_irq(IdeBus *bus);

/* ---- for drives ---- */
void ide_raise_irq(IdeDrive *s);
/* Ends a command. */
void ide_done(IdeDrive *s);
void ide_abort(IdeDrive *s, uint8_t error);
/* Lets the guest read `size` bytes of the buffer in blocks of `block` bytes, each announced by an interrupt.
 */
void ide_start_in(IdeDrive *s, uint32_t size, uint32_t block);
/* Lets it write; irq: the first block is announced too. */
void ide_start_out(IdeDrive *s, uint32_t size, uint32_t block, bool irq);
/* Goes to IDE_PHASE_SUBMIT: class->submit follows in the loop. */
void ide_start_submit(IdeDrive *s);
/* Goes on with bus mastering, at once if the guest has started it. */
void ide_start_dma(IdeDrive *s);
/* For class->submit: a request of `size` bytes whose completion reaches class->complete. */
IdeRequest *ide_request_new(IdeDrive *s, uint32_t size);
void ide_request_done(void *opaque, int result);
/* For class->complete: what -drive's rerror and werror say; true: the request was put off. */
bool ide_request_failed(IdeDrive *s, bool is_read, int *result);
/* Words of an IDENTIFY block that hold text. */
void ide_put_text(uint16_t *words, unsigned count, const char *text);

extern const VmState ide_drive_vmstate;
#endif
