/*
 * kernel-irqchip=on: the 8259 pair, the I/O APIC and the 8254 are the kernel's, too. Their devices stay in
 * the tree (arch/x86/chips.h): they pass inputs on, and hold the state while a machine stands still.
 *
 * What the kernel's models lack is lost on the way: an 8259's single and level-triggered modes, how far a
 * counter of the 8254 had come (it starts its period anew). SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "base/error.h"
#include "base/log.h"

#include <string.h>
#include <time.h>

enum { MASTER, SLAVE };
enum { CASCADE_INPUT = 2, PIC_INPUTS = 16, TIMER_INPUT = 0, TIMER_PIN = 2 };
enum { FIRST_IOAPIC_GSI = 24 };
enum { READ_LSB = 1, READ_MSB, READ_WORD_LOW, READ_WORD_HIGH }; /* where the kernel's 8254 is in a count */
#define NEVER_PROGRAMMED 0xff                                   /* the mode of its counters after a reset */
#define PIT_HZ           1193182u

static bool done(int result, const char *what)
{
    if (result < 0) {
        log_error("KVM: %s: %s", what, g_strerror(-result));
    }
    return result >= 0;
}

/* ---- inputs ---- */

static void line(KvmAccel *kvm, unsigned gsi, bool level)
{
    struct kvm_irq_level request = { .irq = gsi, .level = level };

    done(kvm_ioctl(kvm->vm_fd, KVM_IRQ_LINE, &request), "does not take an interrupt line's level");
}

static void pic_input(void *opaque, unsigned input, bool level)
{
    line(opaque, input, level);
}

/* The kernel's 8254 raises number 0, which goes to both controllers. */
static unsigned ioapic_gsi(unsigned pin)
{
    return pin == TIMER_PIN ? TIMER_INPUT : FIRST_IOAPIC_GSI + pin;
}

static void ioapic_input(void *opaque, unsigned pin, bool level)
{
    line(opaque, ioapic_gsi(pin), level);
}

static void route_add(KvmAccel *kvm, unsigned gsi, unsigned chip, unsigned pin)
{
    kvm->routes->entries[kvm->routes->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { .irqchip = chip, .pin = pin }
    };
}

static bool write_routes(KvmAccel *kvm, GError **error)
{
    if (!kvm_routes_start(kvm, PIC_INPUTS - 1 + X86_IOAPIC_PINS, error)) {
        return false;
    }
    kvm->routes->nr = 0;
    for (unsigned input = 0; input < PIC_INPUTS; input++) {
        if (input != CASCADE_INPUT) {
            route_add(kvm, input, input < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, input & 7);
        }
    }
    for (unsigned pin = 0; pin < X86_IOAPIC_PINS; pin++) {
        route_add(kvm, ioapic_gsi(pin), KVM_IRQCHIP_IOAPIC, pin);
    }
    int result = kvm_routes_write(kvm);
    return result >= 0 || error_set_errno(error, -result, "KVM does not take interrupt routes");
}

/* ---- the 8259 pair ---- */

static void pic_from_kernel(PicChip *c, const struct kvm_pic_state *k)
{
    static const uint8_t steps[] = { PIC_INIT_DONE, PIC_INIT_ICW2, PIC_INIT_ICW3, PIC_INIT_ICW4 };

    *c = (PicChip){
        .irr = k->irr,
        .imr = k->imr,
        .isr = k->isr,
        .inputs = k->last_irr,
        .elcr = k->elcr,
        .vector_base = k->irq_base & 0xf8,
        .lowest = (k->priority_add + 7) & 7,
        .init_step = steps[k->init_state & 3],
        .wants_icw4 = k->init4,
        .auto_eoi = k->auto_eoi,
        .rotate_auto_eoi = k->rotate_on_auto_eoi,
        .special_fully_nested = k->special_fully_nested_mode,
        .special_mask = k->special_mask,
        .read_isr = k->read_reg_select,
        .poll = k->poll,
    };
}

static void pic_to_kernel(struct kvm_pic_state *k, const PicChip *c, uint8_t elcr_mask)
{
    static const uint8_t steps[] = { [PIC_INIT_DONE] = 0,
                                     [PIC_INIT_ICW2] = 1,
                                     [PIC_INIT_ICW3] = 2,
                                     [PIC_INIT_ICW4] = 3,
                                     [PIC_INIT_NEVER] = 0 };

    *k = (struct kvm_pic_state){
        .last_irr = c->inputs,
        .irr = c->irr,
        .imr = c->init_step == PIC_INIT_NEVER ? 0xff : c->imr, /* it has no vector yet */
        .isr = c->isr,
        .priority_add = (c->lowest + 1) & 7,
        .irq_base = c->vector_base,
        .read_reg_select = c->read_isr,
        .poll = c->poll,
        .special_mask = c->special_mask,
        .init_state = steps[c->init_step],
        .auto_eoi = c->auto_eoi,
        .rotate_on_auto_eoi = c->rotate_auto_eoi,
        .special_fully_nested_mode = c->special_fully_nested,
        .init4 = c->wants_icw4,
        .elcr = c->elcr,
        .elcr_mask = elcr_mask,
    };
}

static int chip_get(KvmAccel *kvm, unsigned id, struct kvm_irqchip *chip)
{
    memset(chip, 0, sizeof(*chip));
    chip->chip_id = id;
    return kvm_ioctl(kvm->vm_fd, KVM_GET_IRQCHIP, chip);
}

static bool pic_get(void *opaque, PicChip chips[2])
{
    struct kvm_irqchip chip;

    for (unsigned i = MASTER; i <= SLAVE; i++) {
        if (!done(chip_get(opaque, i == MASTER ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, &chip),
                  "cannot read the 8259")) {
            return false;
        }
        pic_from_kernel(&chips[i], &chip.chip.pic);
    }
    return true;
}

static bool pic_put(void *opaque, const PicChip chips[2])
{
    KvmAccel *kvm = opaque;

    for (unsigned i = MASTER; i <= SLAVE; i++) {
        struct kvm_irqchip chip = { .chip_id = i == MASTER ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE };
        pic_to_kernel(&chip.chip.pic, &chips[i], i == MASTER ? 0xf8 : 0xde);
        if (!done(kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip), "does not take the 8259")) {
            return false;
        }
    }
    return true;
}

/* ---- the I/O APIC ---- */

#define REDIR_LEVEL  (1ull << 15)
#define REDIR_MASKED (1ull << 16)

static bool ioapic_get(void *opaque, IoapicChip *c)
{
    struct kvm_irqchip chip;

    if (!done(chip_get(opaque, KVM_IRQCHIP_IOAPIC, &chip), "cannot read the I/O APIC")) {
        return false;
    }
    c->id = chip.chip.ioapic.id & 15;
    c->select = (uint8_t)chip.chip.ioapic.ioregsel;
    for (unsigned i = 0; i < X86_IOAPIC_PINS; i++) {
        c->redir[i] = chip.chip.ioapic.redirtbl[i].bits;
    }
    return true;
}

/* What the kernel is given as pending, it sends where it may: of pins that are high those whose interrupt is
 * not an edge that has been sent already. */
static bool ioapic_put(void *opaque, const IoapicChip *c, uint64_t base)
{
    KvmAccel *kvm = opaque;
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

    chip.chip.ioapic.base_address = base;
    chip.chip.ioapic.id = c->id;
    chip.chip.ioapic.ioregsel = c->select;
    for (unsigned i = 0; i < X86_IOAPIC_PINS; i++) {
        chip.chip.ioapic.redirtbl[i].bits = c->redir[i];
        if ((c->levels >> i & 1) && (c->redir[i] & (REDIR_LEVEL | REDIR_MASKED))) {
            chip.chip.ioapic.irr |= 1u << i;
        }
    }
    return done(kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip), "does not take the I/O APIC");
}

/* ---- the 8254 ---- */

static int64_t monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* When the first channel's count was loaded the kernel does not say: it begins now, so that no tick is lost.
 */
static void channel_from_kernel(PitChannel *c, const struct kvm_pit_channel_state *k, int64_t now_ns,
                                bool first)
{
    int64_t age = first ? 0 : monotonic_ns() - k->count_load_time;
    bool word = k->rw_mode == 3;

    *c = (PitChannel){
        .count = k->count ? k->count : 0x10000,
        .start_ns = CLAMP(now_ns - MAX(age, 0), 0, now_ns),
        .latch = k->count_latched == READ_MSB ? k->latched_count >> 8 : k->latched_count,
        .latched = !k->count_latched                   ? 0
                   : k->count_latched == READ_WORD_LOW ? 2
                                                       : 1,
        .status = k->status,
        .write_low = k->write_latch,
        .mode = k->mode > 5 ? 3 : k->mode,
        .rw = k->rw_mode ? k->rw_mode & 3 : 3,
        .bcd = !!k->bcd,
        .status_latched = !!k->status_latched,
        .write_high = word && k->write_state == READ_WORD_HIGH,
        .read_high = word && k->read_state == READ_WORD_HIGH,
        .loaded = k->mode <= 5,
        .gate = !!k->gate,
        .triggered = !!k->gate,
    };
}

static void channel_to_kernel(struct kvm_pit_channel_state *k, const PitChannel *c)
{
    uint8_t position = c->rw == 3 ? READ_WORD_LOW : c->rw;

    *k = (struct kvm_pit_channel_state){
        .count = c->count,
        .latched_count = c->latched == 1 && c->rw != READ_LSB ? (uint16_t)(c->latch << 8) : c->latch,
        .count_latched = !c->latched         ? 0
                         : c->latched == 2   ? READ_WORD_LOW
                         : c->rw == READ_LSB ? READ_LSB
                                             : READ_MSB,
        .status_latched = c->status_latched,
        .status = c->status,
        .read_state = c->read_high ? READ_WORD_HIGH : position,
        .write_state = c->write_high ? READ_WORD_HIGH : position,
        .write_latch = c->write_low,
        .rw_mode = c->rw,
        .mode = c->loaded ? c->mode : NEVER_PROGRAMMED,
        .bcd = c->bcd,
        .gate = c->gate,
    };
}

static bool pit_create(void *opaque)
{
    KvmAccel *kvm = opaque;
    struct kvm_pit_config config = { .flags = KVM_PIT_SPEAKER_DUMMY };

    if (kvm_check(kvm->vm_fd, KVM_CAP_PIT2) <= 0 || kvm_check(kvm->vm_fd, KVM_CAP_PIT_STATE2) <= 0) {
        return false;
    }
    return done(kvm_ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &config), "cannot make an 8254");
}

static bool pit_get(void *opaque, PitChip *chip)
{
    KvmAccel *kvm = opaque;
    struct kvm_pit_state2 state = { 0 };

    if (!done(kvm_ioctl(kvm->vm_fd, KVM_GET_PIT2, &state), "cannot read the 8254")) {
        return false;
    }
    for (unsigned i = 0; i < 3; i++) {
        channel_from_kernel(&chip->channel[i], &state.channels[i], chip->now_ns, i == 0);
    }
    chip->speaker_data = !!(state.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON);
    chip->silenced = !!(state.flags & KVM_PIT_FLAGS_HPET_LEGACY);
    return true;
}

static bool pit_put(void *opaque, const PitChip *chip)
{
    KvmAccel *kvm = opaque;
    struct kvm_pit_state2 state = { .flags = (chip->silenced ? KVM_PIT_FLAGS_HPET_LEGACY : 0) |
                                             (chip->speaker_data ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0) };

    for (unsigned i = 0; i < 3; i++) {
        channel_to_kernel(&state.channels[i], &chip->channel[i]);
    }
    return done(kvm_ioctl(kvm->vm_fd, KVM_SET_PIT2, &state), "does not take the 8254");
}

/* ---- life ---- */

bool kvm_chips_setup(KvmAccel *kvm, GError **error)
{
    int result = kvm_check(kvm->vm_fd, KVM_CAP_IRQCHIP) > 0 ? kvm_ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, NULL)
                                                            : -ENOTTY;

    if (result < 0) {
        error_set_errno(error, -result, "kernel-irqchip=on: KVM cannot make an I/O APIC and an 8259");
        error_append_hint(error,
                          "This kernel may be built without them; kernel-irqchip=split works without.");
        return false;
    }
    kvm->chips = (X86Chips){ .pic_input = pic_input,
                             .ioapic_input = ioapic_input,
                             .pic_get = pic_get,
                             .pic_put = pic_put,
                             .ioapic_get = ioapic_get,
                             .ioapic_put = ioapic_put,
                             .pit_create = pit_create,
                             .pit_get = pit_get,
                             .pit_put = pit_put,
                             .opaque = kvm };
    return write_routes(kvm, error);
}
