/*
 * The generic event device: tells a hardware-reduced ACPI guest of the power button and takes its power-off
 * and reset.
 *
 * ACPI 6.4 sections 4.8.3.7 (sleep control and status registers) and 5.6.9 (interrupt-signalled events).
 * Memory and CPU hot-plug events are left out: no board that uses this device has them. All of it runs under
 * the device's lock. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/acpi/ged.h"

#include "base/log.h"
#include "trace/trace.h"

#define SLEEP_ENABLE  0x20
#define SLEEP_TYPE(v) (((v) >> 2) & 7)
#define SLEEP_TYPE_S5 5
#define WAKE_STATUS   0x80

typedef struct AcpiGed {
    Device parent_obj;
    uint32_t selector; /* events that _EVT has not read yet */
    uint8_t sleep_control;
    MemoryRegion region;
    IrqLine *irq; /* borrowed from the board */
} AcpiGed;

#define ACPI_GED(obj) OBJECT_CHECK(AcpiGed, obj, TYPE_ACPI_GED)

TRACE_EVENT(acpi_ged_event, "selector 0x%x")
TRACE_EVENT(acpi_ged_write, "offset 0x%" G_GINT64_MODIFIER "x value 0x%" G_GINT64_MODIFIER "x")

static void ged_event(AcpiGed *s, uint32_t event)
{
    s->selector |= event;
    TRACE(acpi_ged_event, s->selector);
    irq_pulse(s->irq);
}

static uint64_t ged_read(void *opaque, hwaddr offset, unsigned size)
{
    AcpiGed *s = opaque;
    uint64_t value = 0;
    if (offset == 0 && size == 4) {
        value = s->selector;
        s->selector = 0;
    } else if (offset == GED_SLEEP_CONTROL) {
        value = s->sleep_control;
    } else if (offset != GED_SLEEP_STATUS && offset != GED_RESET) {
        LOG(LOG_GUEST_ERROR, "acpi-ged: read of %u bytes at 0x%" G_GINT64_MODIFIER "x", size, offset);
    }
    return value;
}

static void ged_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    AcpiGed *s = opaque;
    const VmServices *vm = DEVICE(s)->env->vm;
    TRACE(acpi_ged_write, offset, value);
    switch (offset) {
    case GED_SLEEP_CONTROL:
        s->sleep_control = value & ~SLEEP_ENABLE;
        if (value & SLEEP_ENABLE) {
            if (SLEEP_TYPE(value) == SLEEP_TYPE_S5) {
                vm->request_shutdown(vm->opaque, SHUTDOWN_GUEST_SHUTDOWN);
            } else {
                LOG(LOG_GUEST_ERROR, "acpi-ged: sleep type %u is not supported", (unsigned)SLEEP_TYPE(value));
            }
        }
        break;
    case GED_SLEEP_STATUS:
        break; /* the wake status bit is never set: nothing to clear */
    case GED_RESET:
        if ((value & 0xff) == GED_RESET_VALUE) {
            vm->request_reset(vm->opaque, SHUTDOWN_GUEST_RESET);
        }
        break;
    default:
        LOG(LOG_GUEST_ERROR, "acpi-ged: write of 0x%" G_GINT64_MODIFIER "x at 0x%" G_GINT64_MODIFIER "x",
            value, offset);
    }
}

static const MemoryRegionOps ged_ops = {
    .read = ged_read,
    .write = ged_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

static void ged_powerdown(void *opaque)
{
    AcpiGed *s = opaque;
    home_lock(&DEVICE(s)->lock);
    ged_event(s, GED_EVENT_POWER_BUTTON);
    home_unlock(&DEVICE(s)->lock);
}

void acpi_ged_set_irq(Device *dev, IrqLine *line)
{
    ACPI_GED(dev)->irq = line;
}

MemoryRegion *acpi_ged_region(Device *dev)
{
    return &ACPI_GED(dev)->region;
}

static void ged_reset(Device *dev)
{
    AcpiGed *s = ACPI_GED(dev);
    s->selector = 0;
    s->sleep_control = 0;
}

static bool ged_realize(Device *dev, GError **error)
{
    AcpiGed *s = ACPI_GED(dev);
    memory_region_init_io(&s->region, s, &ged_ops, s, "acpi-ged", GED_SIZE, &dev->lock);
    dev->env->vm->add_powerdown_handler(dev->env->vm->opaque, ged_powerdown, s);
    return true;
}

static void ged_unrealize(Device *dev)
{
    AcpiGed *s = ACPI_GED(dev);
    dev->env->vm->remove_handlers(dev->env->vm->opaque, s);
    memory_region_destroy(&s->region);
}

static const VmStateField ged_fields[] = {
    VMS_UINT32(selector, AcpiGed),
    VMS_UINT8(sleep_control, AcpiGed),
    VMS_END,
};

static const VmState ged_vmstate = {
    .name = TYPE_ACPI_GED,
    .version = 1,
    .minimum_version = 1,
    .fields = ged_fields,
};

static void ged_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->category = "Misc";
    dc->vmstate = &ged_vmstate;
    dc->realize = ged_realize;
    dc->unrealize = ged_unrealize;
    dc->reset = ged_reset;
}

static const TypeInfo ged_info = {
    .name = TYPE_ACPI_GED,
    .parent = TYPE_DEVICE,
    .description = "Generic event device of hardware-reduced ACPI",
    .instance_size = sizeof(AcpiGed),
    .class_init = ged_class_init,
};
TYPE_REGISTER(ged_info);
