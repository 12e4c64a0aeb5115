/*
 * "i6300esb": the PCI watchdog of Intel's 6300ESB. Source: Intel 6300ESB I/O Controller Hub data sheet,
 * chapter 15 (watchdog timer).
 *
 * Two stages: when the first ends an interrupt is raised (where the guest chose one), when the second ends
 * the machine does what -watchdog-action says. In the free-running mode the first stage alone counts, over
 * and over. Left out on purpose: SMI as the first stage's interrupt, the WDT_TOUT# pin.
 *
 * Threads: registers in vCPUs' threads, the timer in the main loop's, under the HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/pci/pci.h"
#include "trace/trace.h"

TRACE_EVENT(i6300esb_write, "offset 0x%x size %u value 0x%x");
TRACE_EVENT(i6300esb_expired, "stage %u");

#define TYPE_I6300ESB "i6300esb"
#define MEM_SIZE      0x10
#define PRELOAD_MASK  0xfffffu
#define CLOCK_HZ      33000000ull
#define NS_PER_SECOND 1000000000ull
#define CONFIG_AT     0x60 /* configuration space: configuration, lock */
#define LOCK_AT       0x68

enum { REG_TIMER1 = 0x00, REG_TIMER2 = 0x04, REG_INTERRUPT = 0x08, REG_RELOAD = 0x0c };
enum { CONFIG_INTERRUPT = 0x03, CONFIG_FAST = 0x04, CONFIG_NO_REBOOT = 0x20, CONFIG_WRITABLE = 0x27 };
enum { INTERRUPT_IRQ = 0 }; /* 1: SMI, 3: none */
enum { LOCK_LOCKED = 1, LOCK_ENABLED = 2, LOCK_FREE_RUN = 4, LOCK_WRITABLE = 7 };
enum { RELOAD_NOW = 0x100, RELOAD_TIMED_OUT = 0x200 };
enum { UNLOCK_FIRST = 0x80, UNLOCK_SECOND = 0x86 };

typedef struct I6300esb {
    PciDevice parent_obj;
    /* saved */
    uint32_t preload[2];
    uint8_t unlock; /* how many bytes of the key came: with two, one register may be written */
    uint8_t stage;  /* 1 or 2 */
    bool interrupt, timed_out;
    Timer timer;
    /* derived */
    MemoryRegion mem;
} I6300esb;
#define I6300ESB(obj) OBJECT_CHECK(I6300esb, obj, TYPE_I6300ESB)

static uint8_t config_of(const I6300esb *s)
{
    return s->parent_obj.config[CONFIG_AT];
}

static uint8_t lock_of(const I6300esb *s)
{
    return s->parent_obj.config[LOCK_AT];
}

/* A preload value's time: it is loaded into the counter from bit 15 on, or from bit 5 on. */
static int64_t stage_ns(const I6300esb *s, unsigned stage)
{
    uint64_t ticks = (uint64_t)s->preload[stage - 1] << (config_of(s) & CONFIG_FAST ? 5 : 15);

    return (int64_t)((unsigned __int128)MAX(ticks, 1u) * NS_PER_SECOND / CLOCK_HZ);
}

static void start_stage(I6300esb *s, unsigned stage)
{
    s->stage = (uint8_t)stage;
    timer_set(&s->timer, clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL) + stage_ns(s, stage));
}

static void update_irq(I6300esb *s)
{
    pci_set_irq(&s->parent_obj, s->interrupt);
}

static void on_timer(void *opaque)
{
    I6300esb *s = opaque;
    const VmServices *vm = DEVICE(s)->env->vm;

    TRACE(i6300esb_expired, s->stage);
    if (s->stage == 1) {
        if ((config_of(s) & CONFIG_INTERRUPT) == INTERRUPT_IRQ) {
            s->interrupt = true;
            update_irq(s);
        }
        start_stage(s, lock_of(s) & LOCK_FREE_RUN ? 1 : 2);
        return;
    }
    s->timed_out = true;
    if (!(config_of(s) & CONFIG_NO_REBOOT) && vm && vm->watchdog_expired) {
        vm->watchdog_expired(vm->opaque);
    }
    start_stage(s, 1);
}

/* ---- registers ---- */

static uint64_t mem_read(void *opaque, hwaddr offset, unsigned size)
{
    const I6300esb *s = opaque;

    switch (offset & ~3u) {
    case REG_TIMER1:
    case REG_TIMER2:
        return s->preload[offset / 4] >> (8 * (offset & 3));
    case REG_INTERRUPT:
        return offset & 3 ? 0 : s->interrupt;
    default:
        return offset == REG_RELOAD && s->timed_out ? RELOAD_TIMED_OUT : 0;
    }
}

static void mem_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    I6300esb *s = opaque;
    bool unlocked = s->unlock == 2;

    TRACE(i6300esb_write, (unsigned)offset, size, (unsigned)value);
    if (offset == REG_RELOAD && value == UNLOCK_FIRST) {
        s->unlock = 1;
        return;
    }
    if (offset == REG_RELOAD && value == UNLOCK_SECOND && s->unlock == 1) {
        s->unlock = 2;
        return;
    }
    s->unlock = 0;
    if (offset == REG_INTERRUPT) {
        s->interrupt = s->interrupt && !(value & 1);
        update_irq(s);
    } else if (unlocked && (offset == REG_TIMER1 || offset == REG_TIMER2)) {
        s->preload[offset / 4] = (uint32_t)value & PRELOAD_MASK;
    } else if (unlocked && offset == REG_RELOAD) {
        s->timed_out = s->timed_out && !(value & RELOAD_TIMED_OUT);
        if ((value & RELOAD_NOW) && (lock_of(s) & LOCK_ENABLED)) {
            start_stage(s, 1);
        }
    }
}

static const MemoryRegionOps mem_ops = {
    .read = mem_read,
    .write = mem_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* The lock register starts the timer, and keeps itself once it says so. */
static void esb_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    I6300esb *s = I6300ESB(dev);
    uint8_t old = lock_of(s);

    pci_default_config_write(dev, address, value, size);
    if (old & LOCK_LOCKED) {
        dev->config[LOCK_AT] = old;
    }
    uint8_t now = lock_of(s);
    if ((now & LOCK_ENABLED) && !(old & LOCK_ENABLED)) {
        start_stage(s, 1);
    } else if (!(now & LOCK_ENABLED) && (old & LOCK_ENABLED)) {
        timer_cancel(&s->timer);
    }
}

/* ---- life ---- */

static void esb_reset(Device *device)
{
    I6300esb *s = I6300ESB(device);

    pci_device_reset(device);
    s->parent_obj.config[CONFIG_AT] = s->parent_obj.config[LOCK_AT] = 0;
    timer_cancel(&s->timer);
    s->preload[0] = s->preload[1] = PRELOAD_MASK;
    s->unlock = 0;
    s->stage = 1;
    s->interrupt = false;
    update_irq(s);
    /* That it ran out is kept over the reset which it made: the next driver asks. */
}

static bool esb_realize(PciDevice *dev, GError **error)
{
    I6300esb *s = I6300ESB(dev);
    Device *device = DEVICE(dev);

    if (!device->env || !device->env->clocks || !device->env->loop) {
        return error_set(error, "%s needs a clock", TYPE_I6300ESB);
    }
    dev->config[PCI_INTERRUPT_PIN] = 1;
    dev->wmask[CONFIG_AT] = CONFIG_WRITABLE;
    dev->wmask[LOCK_AT] = LOCK_WRITABLE;
    memory_region_init_io(&s->mem, s, &mem_ops, s, TYPE_I6300ESB, MEM_SIZE, &device->lock);
    pci_register_bar(dev, 0, PCI_BAR_MEM32, &s->mem);
    timer_init(&s->timer, device->env->loop, device->env->clocks, CLOCK_TYPE_VIRTUAL, on_timer, s,
               &device->lock);
    s->stage = 1;
    return true;
}

static void esb_unrealize(PciDevice *dev)
{
    I6300esb *s = I6300ESB(dev);

    timer_destroy(&s->timer);
    memory_region_destroy(&s->mem);
}

static bool esb_post_load(void *opaque, int version, GError **error)
{
    I6300esb *s = opaque;

    if (s->stage < 1 || s->stage > 2 || (s->preload[0] | s->preload[1]) > PRELOAD_MASK) {
        s->stage = 1;
        s->preload[0] = s->preload[1] = PRELOAD_MASK;
        return error_set(error, "%s: impossible state of its stages", TYPE_I6300ESB);
    }
    return true;
}

static const VmStateField esb_fields[] = {
    VMS_STRUCT(parent_obj, I6300esb, pci_device_vmstate),
    VMS_UINT32(preload, I6300esb),
    VMS_UINT8(unlock, I6300esb),
    VMS_UINT8(stage, I6300esb),
    VMS_BOOL(interrupt, I6300esb),
    VMS_BOOL(timed_out, I6300esb),
    VMS_TIMER(timer, I6300esb),
    VMS_END,
};
static const VmState esb_vmstate = { .name = TYPE_I6300ESB,
                                     .version = 1,
                                     .minimum_version = 1,
                                     .fields = esb_fields,
                                     .post_load = esb_post_load };

static void esb_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x25ab;
    pc->class_id = 0x0880;
    pc->realize = esb_realize;
    pc->unrealize = esb_unrealize;
    pc->config_write = esb_config_write;
    dc->reset = esb_reset;
    dc->vmstate = &esb_vmstate;
    dc->category = "Watchdog";
}

static const TypeInfo esb_info = {
    .name = TYPE_I6300ESB,
    .parent = TYPE_PCI_DEVICE,
    .description = "Intel 6300ESB watchdog",
    .instance_size = sizeof(I6300esb),
    .class_init = esb_class_init,
};
TYPE_REGISTER(esb_info);
