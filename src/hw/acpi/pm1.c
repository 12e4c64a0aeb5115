/*
 * PM1 blocks and PM timer: see pm1.h.
 *
 * Left out on purpose: bus master status, the global lock's event, resume from S3.
 *
 * Threads: registers under the device's HomeLock in vCPUs' threads; the PM timer is read without any lock;
 * its overflow comes from the main loop. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/acpi/pm1.h"

#include "trace/trace.h"

TRACE_EVENT(acpi_pm1_read, "offset 0x%02x size %u value 0x%x");
TRACE_EVENT(acpi_pm1_write, "offset 0x%02x size %u value 0x%x");

enum { PM1_STATUS = 0, PM1_ENABLE = 2, PM1_CONTROL = 4, PM_TIMER = 8 };
enum {
    PM1_TMR = 1u << 0,
    PM1_GBL = 1u << 5,
    PM1_PWRBTN = 1u << 8,
    PM1_RTC = 1u << 10,
    PM1_STATUS_MASK = 0x8731,
    PM1_ENABLE_MASK = 0x0721,
};
enum { PM1_SLP_TYP_SHIFT = 10, PM1_SLP_EN = 1u << 13, PM1_CONTROL_MASK = 0x1c03 };
#define PM_TIMER_HZ   3579545u
#define PM_TIMER_MASK 0xffffffu
#define NS_PER_SECOND 1000000000ll

/* ---- the PM timer ---- */
static uint64_t timer_ticks(const AcpiPm1 *s)
{
    int64_t now_ns = clock_now_ns(s->dev->env->clocks, CLOCK_TYPE_VIRTUAL);
    return (unsigned __int128)(uint64_t)now_ns * PM_TIMER_HZ / NS_PER_SECOND;
}

static uint16_t current_status(const AcpiPm1 *s)
{
    return s->status | ((timer_ticks(s) >> 23) != s->timer_half ? PM1_TMR : 0);
}

bool acpi_pm1_pending(AcpiPm1 *s)
{
    uint16_t status = current_status(s);
    if ((s->enable & PM1_TMR) && !(status & PM1_TMR)) {
        uint64_t next = (s->timer_half + 1) << 23;
        timer_set(&s->overflow, (unsigned __int128)next * NS_PER_SECOND / PM_TIMER_HZ + 1);
    } else {
        timer_cancel(&s->overflow);
    }
    return status & s->enable & (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_RTC);
}

static void timer_overflowed(void *opaque)
{
    AcpiPm1 *s = opaque;
    s->changed(s->opaque);
}

static uint64_t timer_read(void *opaque, hwaddr offset, unsigned size)
{
    return (timer_ticks(opaque) & PM_TIMER_MASK) >> (8 * offset);
}

static void timer_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    /* read-only */
}

static const MemoryRegionOps timer_ops = {
    .read = timer_read,
    .write = timer_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* ---- events and control ---- */
static void sleep_enter(AcpiPm1 *s, unsigned type)
{
    const VmServices *vm = s->dev->env->vm;
    if (!vm) {
        return;
    }
    if (type == ACPI_SLP_TYP_S5) {
        vm->request_shutdown(vm->opaque, SHUTDOWN_GUEST_SHUTDOWN);
    } else if (type == ACPI_SLP_TYP_S3 && !s->disable_s3) {
        if (vm->request_suspend) {
            vm->request_suspend(vm->opaque);
        }
    } else if (type == s->s4_val && !s->disable_s4) {
        if (vm->emit_event) {
            vm->emit_event(vm->opaque, "SUSPEND_DISK", NULL);
        }
        vm->request_shutdown(vm->opaque, SHUTDOWN_GUEST_SHUTDOWN);
    }
}

/* Registers are 16 bits wide; narrower accesses take their half, a dword two neighbours. */
static uint16_t block_get(AcpiPm1 *s, unsigned reg)
{
    switch (reg) {
    case PM1_STATUS:
        return current_status(s);
    case PM1_ENABLE:
        return s->enable;
    case PM1_CONTROL:
        return s->control;
    default:
        return 0;
    }
}

static void block_set(AcpiPm1 *s, unsigned reg, uint16_t value, uint16_t mask)
{
    switch (reg) {
    case PM1_STATUS:
        value &= mask & PM1_STATUS_MASK;
        s->status &= ~value;
        if (value & PM1_TMR) {
            s->timer_half = timer_ticks(s) >> 23;
        }
        s->changed(s->opaque);
        break;
    case PM1_ENABLE:
        s->enable = ((s->enable & ~mask) | (value & mask)) & PM1_ENABLE_MASK;
        s->changed(s->opaque);
        break;
    case PM1_CONTROL:
        s->control = ((s->control & ~mask) | (value & mask)) & PM1_CONTROL_MASK;
        if (value & mask & PM1_SLP_EN) {
            sleep_enter(s, (s->control >> PM1_SLP_TYP_SHIFT) & 7);
        }
        break;
    default:
        break;
    }
}

static uint64_t block_read(void *opaque, hwaddr offset, unsigned size)
{
    AcpiPm1 *s = opaque;
    uint32_t pair = block_get(s, offset & ~1ull);
    if (size == 4) {
        pair |= (uint32_t)block_get(s, offset + 2) << 16;
    }
    uint32_t value = pair >> (8 * (offset & 1));
    TRACE(acpi_pm1_read, (unsigned)offset, size, value);
    return value;
}

static void block_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    AcpiPm1 *s = opaque;
    TRACE(acpi_pm1_write, (unsigned)offset, size, (uint32_t)value);
    if (size == 1) {
        unsigned shift = 8 * (offset & 1);
        block_set(s, offset & ~1ull, value << shift, 0xff << shift);
        return;
    }
    block_set(s, offset, value, 0xffff);
    if (size == 4) {
        block_set(s, offset + 2, value >> 16, 0xffff);
    }
}

static const MemoryRegionOps block_ops = {
    .read = block_read,
    .write = block_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* ---- life ---- */
static void power_button(void *opaque)
{
    AcpiPm1 *s = opaque;
    home_lock(&s->dev->lock);
    s->status |= PM1_PWRBTN;
    s->changed(s->opaque);
    home_unlock(&s->dev->lock);
}

void acpi_pm1_set_mode(AcpiPm1 *s, bool acpi_mode)
{
    s->control = acpi_mode ? s->control | ACPI_SCI_EN : s->control & ~ACPI_SCI_EN;
}

void acpi_pm1_reset(AcpiPm1 *s, bool acpi_mode)
{
    s->status = s->enable = s->control = 0;
    s->timer_half = timer_ticks(s) >> 23;
    acpi_pm1_set_mode(s, acpi_mode);
}

void acpi_pm1_init(AcpiPm1 *s, Device *dev, MemoryRegion *container, void (*changed)(void *opaque),
                   void *opaque)
{
    const DeviceEnv *env = dev->env;
    s->dev = dev;
    s->changed = changed;
    s->opaque = opaque;
    timer_init(&s->overflow, env->loop, env->clocks, CLOCK_TYPE_VIRTUAL, timer_overflowed, s, &dev->lock);
    memory_region_init_io(&s->block, dev, &block_ops, s, "acpi-pm1", PM_TIMER, &dev->lock);
    memory_region_init_io(&s->timer_io, dev, &timer_ops, s, "acpi-tmr", 4, NULL);
    memory_region_add_overlap(container, 0, &s->block, 1);
    memory_region_add_overlap(container, PM_TIMER, &s->timer_io, 1);
    if (env->vm && env->vm->add_powerdown_handler) {
        env->vm->add_powerdown_handler(env->vm->opaque, power_button, s);
    }
}

void acpi_pm1_destroy(AcpiPm1 *s, MemoryRegion *container)
{
    const VmServices *vm = s->dev->env->vm;
    if (vm && vm->remove_handlers) {
        vm->remove_handlers(vm->opaque, s);
    }
    memory_region_del(container, &s->block);
    memory_region_del(container, &s->timer_io);
    memory_region_destroy(&s->block);
    memory_region_destroy(&s->timer_io);
    timer_destroy(&s->overflow);
}

static bool acpi_pm1_post_load(void *opaque, int version, GError **error)
{
    AcpiPm1 *s = opaque;
    s->status &= PM1_STATUS_MASK;
    s->enable &= PM1_ENABLE_MASK;
    s->control &= PM1_CONTROL_MASK;
    s->timer_half &= UINT64_MAX >> 24;
    return true;
}

static const VmStateField acpi_pm1_fields[] = {
    VMS_UINT16(status, AcpiPm1),     VMS_UINT16(enable, AcpiPm1),  VMS_UINT16(control, AcpiPm1),
    VMS_UINT64(timer_half, AcpiPm1), VMS_TIMER(overflow, AcpiPm1), VMS_END,
};

const VmState acpi_pm1_vmstate = {
    .name = "acpi-pm1",
    .version = 1,
    .minimum_version = 1,
    .fields = acpi_pm1_fields,
    .post_load = acpi_pm1_post_load,
};
