/*
 * An IDE channel: the task files of its two drives, data transfer through the data register, and requests to
 * the back end. Source: ATA/ATAPI-7 (T13 1532D) volumes 1 and 2: registers, resets, the PIO and DMA
 * protocols.
 *
 * Left out on purpose: queued commands, power-up in standby, host protected area, security.
 *
 * Threads: registers in vCPUs' threads, requests in the main loop, all under the controller's HomeLock. A
 * request has memory of its own, so that a reset just forgets it.
 *
 * Invariants:
 *  1. Outside of IDE_PHASE_SUBMIT, drive->request is NULL.
 *  2. position <= block_end <= end <= IDE_BUFFER_SIZE.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "hw/storage/ide.h"
#include "trace/trace.h"

#include <errno.h>
#include <string.h>

TRACE_EVENT(ide_command, "channel %u unit %u command 0x%02x");
TRACE_EVENT(ide_done, "channel %u unit %u status 0x%02x error 0x%02x");
TRACE_EVENT(ide_reset, "channel %u");
TRACE_EVENT(ide_request, "channel %u unit %u op %u block %" G_GINT64_MODIFIER "u count %u");

enum { REG_DATA, REG_FEATURE, REG_COUNT, REG_LOW, REG_MID, REG_HIGH, REG_DEVICE, REG_COMMAND };
enum { CONTROL_NO_IRQ = 0x02, CONTROL_RESET = 0x04, CONTROL_OLD = 0x80 };
enum { COMMAND_DEVICE_RESET = 0x08, COMMAND_DIAGNOSTIC = 0x90, COMMAND_PACKET = 0xa0 };

IdeBus *ide_bus_of(IdeDrive *s)
{
    return IDE_BUS(s->parent_obj.bus);
}

static unsigned unit_of(const IdeDrive *s)
{
    return (unsigned)s->unit;
}

static IdeDrive *selected(IdeBus *bus)
{
    return bus->drives[bus->select & IDE_DEVICE_UNIT ? 1 : 0];
}

/* ---- interrupts ---- */

void ide_bus_update_irq(IdeBus *bus)
{
    bus->ops->set_irq(bus->opaque, bus->channel, bus->irq && !(bus->control & CONTROL_NO_IRQ));
}

static void set_irq(IdeBus *bus, bool level)
{
    bus->irq = level;
    ide_bus_update_irq(bus);
}

void ide_raise_irq(IdeDrive *s)
{
    set_irq(ide_bus_of(s), true);
}

/* ---- the course of a command ---- */

static void forget_request(IdeDrive *s)
{
    if (s->request) {
        s->request->drive = NULL;
        s->request = NULL;
    }
    s->stopped = false;
}

static void set_idle(IdeDrive *s)
{
    forget_request(s);
    s->phase = IDE_PHASE_IDLE;
    s->position = s->block_end = s->end = 0;
    s->left = 0;
}

void ide_done(IdeDrive *s)
{
    set_idle(s);
    s->status = IDE_DRDY | IDE_DSC;
    s->error = 0;
    TRACE(ide_done, ide_bus_of(s)->channel, unit_of(s), s->status, s->error);
    ide_raise_irq(s);
}

void ide_abort(IdeDrive *s, uint8_t error)
{
    set_idle(s);
    s->status = IDE_DRDY | IDE_DSC | IDE_ERR;
    s->error = error;
    TRACE(ide_done, ide_bus_of(s)->channel, unit_of(s), s->status, s->error);
    ide_raise_irq(s);
}

static void next_block(IdeDrive *s, bool irq)
{
    const IdeDriveClass *klass = IDE_DRIVE_GET_CLASS(s);
    uint32_t size = MIN(s->block, s->end - s->position);

    s->block_end = s->position + size;
    if (klass->block_begin) {
        klass->block_begin(s, size);
    }
    s->status = IDE_DRDY | IDE_DSC | IDE_DRQ;
    if (irq) {
        ide_raise_irq(s);
    }
}

void ide_start_in(IdeDrive *s, uint32_t size, uint32_t block)
{
    s->phase = IDE_PHASE_IN;
    s->position = 0;
    s->end = MIN(size, IDE_BUFFER_SIZE);
    s->block = MAX(block, 2u);
    next_block(s, true);
}

void ide_start_out(IdeDrive *s, uint32_t size, uint32_t block, bool irq)
{
    s->phase = IDE_PHASE_OUT;
    s->position = 0;
    s->end = MIN(size, IDE_BUFFER_SIZE);
    s->block = MAX(block, 2u);
    next_block(s, irq);
}

void ide_start_submit(IdeDrive *s)
{
    s->phase = IDE_PHASE_SUBMIT;
    s->status = IDE_DRDY | IDE_DSC | IDE_BSY;
    s->position = s->block_end = 0;
    bh_schedule(s->bh);
}

void ide_start_dma(IdeDrive *s)
{
    IdeBus *bus = ide_bus_of(s);

    if (bus->ops->dma_started(bus->opaque, bus->channel)) {
        ide_start_submit(s);
    } else {
        s->phase = IDE_PHASE_DMA;
        s->status = IDE_DRDY | IDE_DSC | IDE_DRQ;
    }
}

void ide_bus_dma_changed(IdeBus *bus, bool started)
{
    for (unsigned unit = 0; unit < 2; unit++) {
        IdeDrive *s = bus->drives[unit];
        if (s && started && s->phase == IDE_PHASE_DMA) {
            ide_start_submit(s);
        }
    }
}

void ide_cancel(IdeDrive *s)
{
    set_idle(s);
    s->status = IDE_DRDY | IDE_DSC;
}

void ide_block_moved(IdeDrive *s)
{
    s->position = s->block_end;
    if (s->position == s->end) {
        s->phase = IDE_PHASE_IDLE;
        IDE_DRIVE_GET_CLASS(s)->data_done(s);
    } else {
        next_block(s, true);
    }
}

/* One word through the data register. */
static uint32_t data_read(IdeDrive *s, unsigned size)
{
    uint32_t value = 0;

    if (s->phase != IDE_PHASE_IN || s->position >= s->block_end || s->block_end > IDE_BUFFER_SIZE) {
        return 0;
    }
    unsigned part = MIN(size, s->block_end - s->position);
    memcpy(&value, s->buffer + s->position, part);
    s->position += part;
    if (s->position == s->block_end) {
        ide_block_moved(s);
    }
    return value;
}

static void data_write(IdeDrive *s, uint32_t value, unsigned size)
{
    if (s->phase != IDE_PHASE_OUT || s->position >= s->block_end || s->block_end > IDE_BUFFER_SIZE) {
        return;
    }
    unsigned part = MIN(size, s->block_end - s->position);
    memcpy(s->buffer + s->position, &value, part);
    s->position += part;
    if (s->position == s->block_end) {
        ide_block_moved(s);
    }
}

/* ---- requests ---- */

IdeRequest *ide_request_new(IdeDrive *s, uint32_t size)
{
    IdeRequest *req = g_malloc(sizeof(*req) + size);

    *req = (IdeRequest){ .drive = s, .home = ide_bus_of(s)->home, .size = size };
    req->iov = (struct iovec){ req->data, size };
    s->request = req;
    TRACE(ide_request, ide_bus_of(s)->channel, unit_of(s), s->op, s->lba, s->chunk);
    return req;
}

/* In the main loop, no lock held. */
void ide_request_done(void *opaque, int result)
{
    IdeRequest *req = opaque;

    home_lock(req->home);
    IdeDrive *s = req->drive;
    if (s) {
        s->request = NULL;
        IDE_DRIVE_GET_CLASS(s)->complete(s, req, result);
    }
    home_unlock(req->home);
    g_free(req);
}

bool ide_request_failed(IdeDrive *s, bool is_read, int *result)
{
    if (*result >= 0) {
        return false;
    }
    switch (bb_error(s->bb, is_read, -*result)) {
    case BLOCK_ERROR_IGNORE:
        *result = 0;
        return false;
    case BLOCK_ERROR_STOP:
        s->stopped = true;
        return true;
    case BLOCK_ERROR_REPORT:
        break;
    }
    return false;
}

static void run_submit(void *opaque)
{
    IdeDrive *s = opaque;

    if (s->phase == IDE_PHASE_SUBMIT && !s->request && !s->stopped) {
        IDE_DRIVE_GET_CLASS(s)->submit(s);
    }
}

static void run_changed(void *opaque, bool running)
{
    IdeDrive *s = opaque;
    HomeLock *home = ide_bus_of(s)->home;

    home_lock(home);
    if (running && s->stopped) {
        s->stopped = false;
        bh_schedule(s->bh);
    }
    home_unlock(home);
}

/* ---- registers ---- */

static void drive_reset(IdeDrive *s)
{
    set_idle(s);
    s->feature = s->old_feature = s->old_count = s->old_low = s->old_mid = s->old_high = 0;
    s->multiple = 0;
    s->queued_error = (IdeQueuedError){ 0 };
    IDE_DRIVE_GET_CLASS(s)->reset(s);
}

static void bus_reset_drives(IdeBus *bus)
{
    TRACE(ide_reset, bus->channel);
    for (unsigned unit = 0; unit < 2; unit++) {
        if (bus->drives[unit]) {
            drive_reset(bus->drives[unit]);
        }
    }
    bus->select = 0;
    set_irq(bus, false);
}

void ide_bus_power_reset(IdeBus *bus)
{
    bus->control = 0;
    bus_reset_drives(bus);
}

uint32_t ide_bus_read(IdeBus *bus, unsigned offset, unsigned size)
{
    IdeDrive *s = selected(bus);
    bool old = bus->control & CONTROL_OLD;

    if (!bus->drives[0] && !bus->drives[1]) {
        return 0;
    }
    switch (offset) {
    case REG_DATA:
        return s ? data_read(s, size) : 0;
    case REG_FEATURE:
        return s ? s->error : 0;
    case REG_COUNT:
        return s ? (old ? s->old_count : s->count) : 0;
    case REG_LOW:
        return s ? (old ? s->old_low : s->lba_low) : 0;
    case REG_MID:
        return s ? (old ? s->old_mid : s->lba_mid) : 0;
    case REG_HIGH:
        return s ? (old ? s->old_high : s->lba_high) : 0;
    case REG_DEVICE:
        return s ? ((s->device & 0x4f) | (bus->select & IDE_DEVICE_UNIT) | 0xa0) : 0;
    default:
        if (s) {
            set_irq(bus, false);
        }
        return s ? s->status : 0;
    }
}

uint8_t ide_bus_alternate_status(IdeBus *bus)
{
    IdeDrive *s = selected(bus);

    return s ? s->status : 0;
}

static void command_write(IdeBus *bus, uint8_t command)
{
    IdeDrive *s = selected(bus);

    if (!s) {
        return;
    }
    TRACE(ide_command, bus->channel, unit_of(s), command);
    set_irq(bus, false);
    if ((s->status & (IDE_BSY | IDE_DRQ)) && command != COMMAND_DEVICE_RESET) {
        LOG(LOG_GUEST_ERROR, "ide: command 0x%02x while another is under way", command);
        return;
    }
    if (command == COMMAND_DIAGNOSTIC) {
        for (unsigned unit = 0; unit < 2; unit++) {
            if (bus->drives[unit]) {
                drive_reset(bus->drives[unit]);
            }
        }
        bus->select &= (uint8_t)~IDE_DEVICE_UNIT;
        set_irq(bus, true);
        return;
    }
    set_idle(s);
    s->status = IDE_DRDY | IDE_DSC;
    s->error = 0;
    IDE_DRIVE_GET_CLASS(s)->command(s, command);
}

static void set_register(uint8_t *reg, uint8_t *old, uint8_t value)
{
    *old = *reg;
    *reg = value;
}

/* Both drives see writes to the task file; only the selected one takes commands and data. */
void ide_bus_write(IdeBus *bus, unsigned offset, uint32_t value, unsigned size)
{
    if (offset == REG_DATA) {
        if (selected(bus)) {
            data_write(selected(bus), value, size);
        }
        return;
    }
    if (offset == REG_COMMAND) {
        command_write(bus, value);
        return;
    }
    bus->control &= (uint8_t)~CONTROL_OLD;
    if (offset == REG_DEVICE) {
        bus->select = value;
    }
    for (unsigned unit = 0; unit < 2; unit++) {
        IdeDrive *s = bus->drives[unit];
        if (!s || (s->status & IDE_BSY)) {
            continue;
        }
        switch (offset) {
        case REG_FEATURE:
            set_register(&s->feature, &s->old_feature, value);
            break;
        case REG_COUNT:
            set_register(&s->count, &s->old_count, value);
            break;
        case REG_LOW:
            set_register(&s->lba_low, &s->old_low, value);
            break;
        case REG_MID:
            set_register(&s->lba_mid, &s->old_mid, value);
            break;
        case REG_HIGH:
            set_register(&s->lba_high, &s->old_high, value);
            break;
        case REG_DEVICE:
            s->device = value;
            break;
        }
    }
}

void ide_bus_control_write(IdeBus *bus, uint8_t value)
{
    uint8_t rose = value & ~bus->control;

    bus->control = value;
    if (rose & CONTROL_RESET) {
        bus_reset_drives(bus);
        for (unsigned unit = 0; unit < 2; unit++) {
            if (bus->drives[unit]) {
                bus->drives[unit]->status |= IDE_BSY;
            }
        }
    } else if (!(value & CONTROL_RESET)) {
        for (unsigned unit = 0; unit < 2; unit++) {
            IdeDrive *s = bus->drives[unit];
            if (s && s->phase == IDE_PHASE_IDLE) {
                s->status &= (uint8_t)~IDE_BSY;
            }
        }
    }
    ide_bus_update_irq(bus);
}

void ide_put_text(uint16_t *words, unsigned count, const char *text)
{
    size_t length = strlen(text);

    for (unsigned i = 0; i < count; i++) {
        uint8_t first = 2 * i < length ? text[2 * i] : ' ',
                second = 2 * i + 1 < length ? text[2 * i + 1] : ' ';
        words[i] = (uint16_t)(first << 8 | second);
    }
}

/* ---- the bus ---- */

IdeBus *ide_bus_new(Device *owner, const char *name, unsigned channel, const DeviceEnv *env,
                    const IdeBusOps *ops, void *opaque, HomeLock *home)
{
    IdeBus *bus = IDE_BUS(bus_new(TYPE_IDE_BUS, owner, name, env));

    bus->ops = ops;
    bus->opaque = opaque;
    bus->home = home;
    bus->channel = channel;
    return bus;
}

static bool ide_check_address(Bus *b, Device *dev, GError **error)
{
    IdeBus *bus = IDE_BUS(b);
    IdeDrive *s = IDE_DRIVE(dev);

    if (s->unit < 0) {
        s->unit = bus->drives[0] && !bus->sata ? 1 : 0;
    }
    if (bus->sata && s->unit > 0) {
        return error_set(error, "Can't create IDE unit %d, bus supports only 1 units", s->unit);
    }
    if (s->unit > 1) {
        return error_set(error, "Invalid IDE unit %d: a channel has 0 and 1", s->unit);
    }
    if (bus->drives[s->unit]) {
        return error_set(error, "IDE unit %d is in use", s->unit);
    }
    return true;
}

static char *ide_device_path(Device *dev)
{
    IdeDrive *s = IDE_DRIVE(dev);

    return g_strdup_printf("drive@%x/disk@%x", ide_bus_of(s)->channel, unit_of(s));
}

static void ide_bus_class_init(ObjectClass *klass, const void *data)
{
    BusClass *bc = (BusClass *)klass;
    bc->max_devices = 2;
    bc->check_address = ide_check_address;
    bc->device_path = ide_device_path;
}

static const TypeInfo ide_bus_info = {
    .name = TYPE_IDE_BUS,
    .parent = TYPE_BUS,
    .description = "IDE channel",
    .instance_size = sizeof(IdeBus),
    .class_init = ide_bus_class_init,
};
TYPE_REGISTER(ide_bus_info);

/* ---- the drives' common part ---- */

static bool attach(IdeDrive *s, const char *qdev, GError **error)
{
    static const BlockDevOps ops = { NULL }; /* a disk's size is asked for when the guest starts */

    return bb_attach_device(s->bb, qdev, bb_read_only(s->bb), s->share_rw, &ops, s, error);
}

static bool ide_drive_realize(Device *dev, GError **error)
{
    IdeDrive *s = IDE_DRIVE(dev);
    const IdeDriveClass *klass = IDE_DRIVE_GET_CLASS(s);
    IdeBus *bus = ide_bus_of(s);
    const VmServices *vm = dev->env ? dev->env->vm : NULL;

    if (!dev->env || !dev->env->loop) {
        return error_set(error, "Device '%s' needs a loop", object_get_typename(OBJECT(dev)));
    }
    if (klass->realize && !klass->realize(s, error)) {
        return false;
    }
    if (s->bb) {
        g_autofree char *path = object_get_canonical_path(OBJECT(dev));
        if (!attach(s, dev->id ? dev->id : path, error)) {
            return false;
        }
        bb_set_qdev_path(s->bb, path);
        bb_set_on_error(s->bb, (BlockOnError)s->on_read_error, (BlockOnError)s->on_write_error);
        s->initial_write_cache = bb_write_cache(s->bb);
        if (!s->serial && bb_serial(s->bb)) {
            s->serial = g_strdup(bb_serial(s->bb));
        }
    }
    s->bh = bh_new(dev->env->loop, run_submit, s, bus->home);
    if (vm && vm->add_run_handler) {
        vm->add_run_handler(vm->opaque, run_changed, s);
    }
    home_lock(bus->home);
    bus->drives[s->unit] = s;
    drive_reset(s);
    home_unlock(bus->home);
    return true;
}

static void ide_drive_unrealize(Device *dev)
{
    IdeDrive *s = IDE_DRIVE(dev);
    IdeBus *bus = ide_bus_of(s);
    const VmServices *vm = dev->env->vm;

    if (vm && vm->remove_handlers) {
        vm->remove_handlers(vm->opaque, s);
    }
    home_lock(bus->home);
    set_idle(s);
    bus->drives[s->unit] = NULL;
    home_unlock(bus->home);
    bh_free(s->bh);
    s->bh = NULL;
    if (s->bb) {
        bb_drain(s->bb, dev->env->loop); /* what was forgotten ends */
        bb_detach_device(s->bb);
    }
}

/* With the device's own lock held; the state is under the controller's. */
static void ide_drive_reset(Device *dev)
{
    IdeDrive *s = IDE_DRIVE(dev);
    HomeLock *home = ide_bus_of(s)->home;

    home_lock(home);
    if (s->bb) {
        bb_set_write_cache(s->bb, s->initial_write_cache);
    }
    drive_reset(s);
    home_unlock(home);
}

static const Property ide_drive_properties[] = {
    PROP_TYPED("drive", IdeDrive, bb, property_type_drive, "the medium: a drive's id or a block node's name"),
    PROP_INT32("unit", IdeDrive, unit, -1, "0 or 1 (-1: the first free)"),
    PROP_STR("serial", IdeDrive, serial, NULL, "serial number that the guest reads (20 bytes)"),
    PROP_STR("model", IdeDrive, model, NULL, "model name that it reads (40 bytes)"),
    PROP_STR("ver", IdeDrive, version, "2.5+", "firmware version that it reads (8 bytes)"),
    PROP_INT32("bootindex", IdeDrive, bootindex, -1, "place in the boot order (-1: none)"),
    PROP_BOOL("share-rw", IdeDrive, share_rw, false, "others may write to the medium too"),
    PROP_ENUM("rerror", IdeDrive, on_read_error, block_on_error_lookup, BLOCK_ON_ERROR_AUTO,
              "when a read fails"),
    PROP_ENUM("werror", IdeDrive, on_write_error, block_on_error_lookup, BLOCK_ON_ERROR_AUTO,
              "when a write fails"),
    PROP_END,
};

static bool ide_drive_pre_load(void *opaque, GError **error)
{
    IdeDrive *s = opaque;
    forget_request(s);
    return true;
}

static bool ide_drive_post_load(void *opaque, int version, GError **error)
{
    IdeDrive *s = opaque;

    if (s->phase >= IDE_PHASE_COUNT || s->end > IDE_BUFFER_SIZE || s->block_end > s->end ||
        s->position > s->block_end ||
        ((s->phase == IDE_PHASE_IN || s->phase == IDE_PHASE_OUT) &&
         (s->block < 2 || s->position == s->block_end))) {
        set_idle(s);
        return error_set(error, "%s: impossible state of a command", object_get_typename(OBJECT(s)));
    }
    if (s->phase == IDE_PHASE_SUBMIT && s->bh) {
        bh_schedule(s->bh);
    }
    return true;
}

static const VmStateField queued_error_fields[] = {
    VMS_BOOL(valid, IdeQueuedError),
    VMS_UINT8(tag, IdeQueuedError),
    VMS_UINT8(status, IdeQueuedError),
    VMS_UINT8(error, IdeQueuedError),
    VMS_UINT64(lba, IdeQueuedError),
    VMS_UINT16(count, IdeQueuedError),
    VMS_END,
};
static const VmState queued_error_vmstate = { .name = "ide-queued-error",
                                              .version = 1,
                                              .fields = queued_error_fields };

static const VmStateField ide_drive_fields[] = {
    VMS_UINT8(feature, IdeDrive),
    VMS_UINT8(count, IdeDrive),
    VMS_UINT8(lba_low, IdeDrive),
    VMS_UINT8(lba_mid, IdeDrive),
    VMS_UINT8(lba_high, IdeDrive),
    VMS_UINT8(old_feature, IdeDrive),
    VMS_UINT8(old_count, IdeDrive),
    VMS_UINT8(old_low, IdeDrive),
    VMS_UINT8(old_mid, IdeDrive),
    VMS_UINT8(old_high, IdeDrive),
    VMS_UINT8(device, IdeDrive),
    VMS_UINT8(status, IdeDrive),
    VMS_UINT8(error, IdeDrive),
    VMS_UINT8(phase, IdeDrive),
    VMS_UINT8(op, IdeDrive),
    VMS_UINT64(lba, IdeDrive),
    VMS_UINT32(left, IdeDrive),
    VMS_UINT32(position, IdeDrive),
    VMS_UINT32(block_end, IdeDrive),
    VMS_UINT32(end, IdeDrive),
    VMS_UINT32(block, IdeDrive),
    VMS_UINT32(chunk, IdeDrive),
    VMS_UINT8(multiple, IdeDrive),
    VMS_BUFFER(buffer, IdeDrive),
    VMS_STRUCT(queued_error, IdeDrive, queued_error_vmstate),
    VMS_END,
};

const VmState ide_drive_vmstate = {
    .name = "ide-device",
    .version = 1,
    .minimum_version = 1,
    .fields = ide_drive_fields,
    .pre_load = ide_drive_pre_load,
    .post_load = ide_drive_post_load,
};

static void ide_drive_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->bus_type = TYPE_IDE_BUS;
    dc->user_creatable = true;
    dc->hotpluggable = false;
    dc->category = "Storage";
    dc->realize = ide_drive_realize;
    dc->unrealize = ide_drive_unrealize;
    dc->reset = ide_drive_reset;
    object_class_add_properties(klass, ide_drive_properties);
}

static const TypeInfo ide_drive_info = {
    .name = TYPE_IDE_DRIVE,
    .parent = TYPE_DEVICE,
    .description = "drive on an IDE channel",
    .instance_size = sizeof(IdeDrive),
    .class_size = sizeof(IdeDriveClass),
    .abstract = true,
    .class_init = ide_drive_class_init,
};
TYPE_REGISTER(ide_drive_info);
