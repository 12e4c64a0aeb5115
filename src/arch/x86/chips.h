/*
 * A PC's interrupt controllers and timer beside the local APICs, where an accelerator models them (KVM's
 * "kernel-irqchip=on"): the devices of hw/intc and hw/timer then pass their inputs on, and fetch and give
 * back the state for whoever asks them (a saved machine, a reset, an access that comes here after all).
 *
 * The structures are what such a chip consists of, in terms of its data sheet; devices keep theirs in them.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_CHIPS_H
#define RHEA_ARCH_X86_CHIPS_H

#include <stdbool.h>
#include <stdint.h>

/* What an 8259 expects next at its odd port. A chip that was never initialised does not interrupt: nobody
 * gave it a vector. */
enum { PIC_INIT_DONE, PIC_INIT_ICW2, PIC_INIT_ICW3, PIC_INIT_ICW4, PIC_INIT_NEVER };

typedef struct PicChip {
    uint8_t irr, imr, isr;
    uint8_t inputs; /* levels, for edge detection */
    uint8_t elcr;
    uint8_t vector_base;
    uint8_t lowest; /* the input of lowest priority */
    uint8_t init_step;
    bool wants_icw4, single, level_mode;
    bool auto_eoi, rotate_auto_eoi, special_fully_nested;
    bool special_mask, read_isr, poll;
} PicChip;

#define X86_IOAPIC_PINS 24
typedef struct IoapicChip {
    uint64_t redir[X86_IOAPIC_PINS]; /* as its registers show them */
    uint32_t levels;                 /* of the pins */
    uint8_t id, select;
} IoapicChip;

typedef struct PitChannel {
    uint32_t count;   /* what was loaded: 1 to 65536 */
    int64_t start_ns; /* when counting began; virtual time */
    uint64_t frozen;  /* ticks counted before the gate closed */
    uint16_t latch;   /* latched counter, low byte first */
    uint8_t latched;  /* bytes of it that are still to be read */
    uint8_t status, write_low;
    uint8_t mode, rw, bcd;
    bool status_latched, write_high, read_high;
    bool loaded; /* a count has been written since the control word */
    bool gate, triggered;
} PitChannel;

typedef struct PitChip {
    PitChannel channel[3];
    int64_t now_ns; /* virtual time: given to get, and to put */
    bool speaker_data;
    bool silenced; /* the HPET replaces channel 0 */
} PitChip;

/* Those of one machine. false: the accelerator could not do it and has said why. */
typedef struct X86Chips {
    /* Inputs of the 8259 pair (0 to 15) and the I/O APIC. [any thread] */
    void (*pic_input)(void *opaque, unsigned input, bool level);
    void (*ioapic_input)(void *opaque, unsigned pin, bool level);
    bool (*pic_get)(void *opaque, PicChip chips[2]);
    bool (*pic_put)(void *opaque, const PicChip chips[2]);
    bool (*ioapic_get)(void *opaque, IoapicChip *chip); /* all but the levels, which its device knows */
    bool (*ioapic_put)(void *opaque, const IoapicChip *chip, uint64_t base);
    /* The timer comes with its device, with port 0x61; false: the device is to model it. */
    bool (*pit_create)(void *opaque);
    bool (*pit_get)(void *opaque, PitChip *chip);
    bool (*pit_put)(void *opaque, const PitChip *chip);
    void *opaque;
} X86Chips;

#endif
