/*
 * The local APIC, driven as a vCPU's thread drives it, on CPUs that have nothing else.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/apic.h"

#include "arch/x86/cpuid.h"
#include "vmstate/vmstate.h"

#include <string.h>

#define CPUS 3

typedef struct Fixture {
    ApicBus *bus;
    ClockSet *clocks;
    X86Cpu *cpu[CPUS];
    X86Apic *apic[CPUS];
} Fixture;

static void setup(Fixture *f, gconstpointer data)
{
    f->bus = apic_bus_new();
    f->clocks = clock_set_new();
    for (int i = 0; i < CPUS; i++) {
        X86Cpu *cpu = g_aligned_alloc0(1, sizeof(X86Cpu), 64);
        cpu->index = cpu->apic_id = i;
        cpu->phys_bits = 40;
        cpu->env.clocks = f->clocks;
        cpu->cpuid_features[FEAT_1_ECX] = CPUID_EXT_X2APIC;
        f->cpu[i] = cpu;
        f->apic[i] = cpu->apic = apic_new(cpu, f->bus);
        apic_reset(cpu->apic, false);
        apic_mmio_write(cpu->apic, 0xf0, 0x1ff); /* software enable */
    }
}

static void teardown(Fixture *f, gconstpointer data)
{
    for (int i = 0; i < CPUS; i++) {
        apic_free(f->apic[i]);
        g_aligned_free(f->cpu[i]);
    }
    apic_bus_free(f->bus);
    clock_set_free(f->clocks);
}

static bool pending(const Fixture *f, int cpu)
{
    return f->cpu[cpu]->interrupt_request & CPU_INTERRUPT_HARD;
}

static void send(Fixture *f, uint32_t destination, bool logical, uint8_t vector)
{
    const ApicMessage m = {
        .destination = destination, .logical = logical, .mode = APIC_FIXED, .vector = vector
    };
    apic_bus_deliver(f->bus, &m);
}

/* Higher vectors first; one of the same class waits for the EOI; TPR holds back what is not above it. */
static void test_priority(Fixture *f, gconstpointer data)
{
    X86Apic *s = f->apic[0];
    send(f, 0, false, 0x41);
    send(f, 0, false, 0x45);
    send(f, 0, false, 0x62);
    g_assert_true(pending(f, 0));
    g_assert_cmpint(apic_acknowledge(s), ==, 0x62);
    g_assert_cmphex(apic_mmio_read(s, 0xa0), ==, 0x60); /* PPR */
    g_assert_cmpint(apic_acknowledge(s), ==, -1);
    g_assert_false(pending(f, 0));
    apic_mmio_write(s, 0xb0, 0);
    g_assert_true(pending(f, 0));
    g_assert_cmpint(apic_acknowledge(s), ==, 0x45);
    g_assert_cmpint(apic_acknowledge(s), ==, -1); /* 0x41 is of the same class */
    apic_mmio_write(s, 0xb0, 0);
    apic_mmio_write(s, 0x80, 0x50);
    g_assert_cmpint(f->cpu[0]->cr8, ==, 5);
    g_assert_false(apic_has_interrupt(s));
    apic_set_tpr(s, 0x30);
    g_assert_cmpint(apic_acknowledge(s), ==, 0x41);
}

static void test_destinations(Fixture *f, gconstpointer data)
{
    for (int i = 0; i < CPUS; i++) {
        apic_mmio_write(f->apic[i], 0xd0, 1u << (24 + i)); /* LDR, flat model */
    }
    send(f, 2, false, 0x50);
    g_assert_true(pending(f, 2) && !pending(f, 0) && !pending(f, 1));
    send(f, 0x3, true, 0x51);
    g_assert_cmpint(apic_acknowledge(f->apic[0]), ==, 0x51);
    g_assert_cmpint(apic_acknowledge(f->apic[1]), ==, 0x51);
    g_assert_cmpint(apic_acknowledge(f->apic[2]), ==, 0x50);
    apic_mmio_write(f->apic[2], 0xb0, 0);
    send(f, 0xff, false, 0x70);
    for (int i = 0; i < CPUS; i++) {
        g_assert_cmpint(apic_acknowledge(f->apic[i]), ==, 0x70);
    }
}

static void test_ipis(Fixture *f, gconstpointer data)
{
    /* All but self, then self, by shorthand. */
    apic_mmio_write(f->apic[1], 0x300, 3u << 18 | 0x80);
    g_assert_true(pending(f, 0) && !pending(f, 1) && pending(f, 2));
    apic_mmio_write(f->apic[1], 0x300, 1u << 18 | 0x81);
    g_assert_cmpint(apic_acknowledge(f->apic[1]), ==, 0x81);
    /* INIT, its de-assert, and SIPI. */
    apic_mmio_write(f->apic[0], 0x310, 2u << 24);
    apic_mmio_write(f->apic[0], 0x300, 0xc500);
    g_assert_true(f->cpu[2]->interrupt_request & CPU_INTERRUPT_INIT);
    cpu_interrupt_clear(f->cpu[2], CPU_INTERRUPT_INIT);
    apic_mmio_write(f->apic[0], 0x300, 0x8500);
    g_assert_false(f->cpu[2]->interrupt_request & CPU_INTERRUPT_INIT);
    apic_mmio_write(f->apic[0], 0x300, 0x4699);
    g_assert_true(f->cpu[2]->interrupt_request & CPU_INTERRUPT_SIPI);
    g_assert_cmphex(apic_sipi_vector(f->apic[2]), ==, 0x99);
    /* A vector below 16 is an error at both ends, and no interrupt. */
    apic_mmio_write(f->apic[0], 0x300, 5);
    apic_mmio_write(f->apic[0], 0x280, 0);
    g_assert_cmphex(apic_mmio_read(f->apic[0], 0x280), ==, 0x20);
    apic_mmio_write(f->apic[2], 0x280, 0);
    g_assert_cmphex(apic_mmio_read(f->apic[2], 0x280), ==, 0x40);
}

static unsigned eoi_vector;

static void note_eoi(void *opaque, uint8_t vector)
{
    eoi_vector = vector;
}

static void test_level_eoi(Fixture *f, gconstpointer data)
{
    apic_bus_add_eoi_handler(f->bus, note_eoi, NULL);
    eoi_vector = 0;
    const ApicMessage level = {
        .destination = 0, .mode = APIC_FIXED, .vector = 0x33, .level = true, .assert_ = true
    };
    apic_bus_deliver(f->bus, &level);
    g_assert_cmpint(apic_acknowledge(f->apic[0]), ==, 0x33);
    apic_mmio_write(f->apic[0], 0xb0, 0);
    g_assert_cmphex(eoi_vector, ==, 0x33);
    eoi_vector = 0;
    send(f, 0, false, 0x33); /* an edge this time: the I/O APIC is not told */
    g_assert_cmpint(apic_acknowledge(f->apic[0]), ==, 0x33);
    apic_mmio_write(f->apic[0], 0xb0, 0);
    g_assert_cmphex(eoi_vector, ==, 0);
}

static int pic_vector(void *opaque)
{
    ++*(int *)opaque;
    return 0x20;
}

static void test_pic(Fixture *f, gconstpointer data)
{
    int asked = 0;
    apic_bus_set_pic(f->bus, pic_vector, &asked);
    apic_bus_set_pic_line(f->bus, true);
    g_assert_true(pending(f, 0) && !pending(f, 1));
    g_assert_cmpint(apic_acknowledge(f->apic[0]), ==, 0x20);
    g_assert_cmpint(asked, ==, 1);
    apic_mmio_write(f->apic[0], 0x350, 0x10700); /* LINT0 masked */
    g_assert_cmpint(apic_acknowledge(f->apic[0]), ==, -1);
    apic_bus_set_pic_line(f->bus, false);
}

static void test_timer(Fixture *f, gconstpointer data)
{
    X86Apic *s = f->apic[0];
    apic_mmio_write(s, 0x3e0, 0xb); /* divide by 1: a tick a nanosecond */
    apic_mmio_write(s, 0x320, 0x1 << 17 | 0xec);
    apic_mmio_write(s, 0x380, 1000);
    g_assert_cmpint(apic_timer_deadline_ns(s), ==, 1000);
    clock_set_virtual_ns(f->clocks, 400);
    g_assert_cmpint(apic_mmio_read(s, 0x390), ==, 600);
    apic_timer_expired(s);
    g_assert_false(apic_has_interrupt(s)); /* too early */
    /* Three periods late: one interrupt, and the phase is kept. */
    clock_set_virtual_ns(f->clocks, 3100);
    apic_timer_expired(s);
    g_assert_cmpint(apic_acknowledge(s), ==, 0xec);
    g_assert_cmpint(apic_timer_deadline_ns(s), ==, 4000);
    apic_mmio_write(s, 0x3e0, 0x0); /* divide by 2 */
    apic_mmio_write(s, 0x320, 0xed);
    apic_mmio_write(s, 0x380, 1000);
    g_assert_cmpint(apic_timer_deadline_ns(s), ==, 3100 + 2000);
    apic_mmio_write(s, 0x380, 0);
    g_assert_cmpint(apic_timer_deadline_ns(s), ==, INT64_MAX);
}

static void test_x2apic(Fixture *f, gconstpointer data)
{
    X86Apic *s = f->apic[1];
    uint64_t value, base = apic_get_base(s);
    g_assert_false(apic_msr_read(s, 0x802, &value)); /* not in xAPIC mode */
    g_assert_false(apic_set_base(s, (base & ~UINT64_C(0x800)) | 0x400));
    g_assert_true(apic_set_base(s, base | 0x400));
    g_assert_false(apic_owns(s, 0xfee00020));
    g_assert_true(apic_msr_read(s, 0x802, &value));
    g_assert_cmpuint(value, ==, 1);
    g_assert_true(apic_msr_read(s, 0x80d, &value));
    g_assert_cmphex(value, ==, 2);
    g_assert_false(apic_msr_write(s, 0x802, 1));        /* read-only */
    g_assert_false(apic_msr_write(s, 0x80b, 1));        /* EOI takes zero only */
    g_assert_false(apic_msr_write(s, 0x80f, 1u << 12)); /* a reserved bit */
    g_assert_false(apic_msr_read(s, 0x80e, &value));    /* no DFR */
    g_assert_true(apic_msr_write(s, 0x83f, 0x66));      /* self IPI */
    g_assert_cmpint(apic_acknowledge(s), ==, 0x66);
    g_assert_true(apic_msr_write(s, 0x830, UINT64_C(2) << 32 | 0x67));
    g_assert_cmpint(apic_acknowledge(f->apic[2]), ==, 0x67);
    g_assert_false(apic_set_base(s, base));         /* not straight back to xAPIC */
    g_assert_false(apic_set_base(s, base | 0x401)); /* a reserved bit */
    g_assert_true(apic_set_base(s, base & ~UINT64_C(0x800)));
    g_assert_true(apic_set_base(s, base));
    g_assert_true(apic_owns(s, 0xfee00020));
}

static void test_state(Fixture *f, gconstpointer data)
{
    X86Apic *s = f->apic[0];
    send(f, 0, false, 0x55);
    apic_set_tpr(s, 0x20);
    g_autoptr(GByteArray) stream = vmstate_save(&apic_vmstate, s, NULL);
    g_assert_nonnull(stream);
    apic_reset(s, false);
    g_assert_false(apic_has_interrupt(s));
    g_autoptr(GError) error = NULL;
    g_assert_true(vmstate_load(&apic_vmstate, s, stream->data, stream->len, &error));
    g_assert_no_error(error);
    g_assert_cmpint(f->cpu[0]->cr8, ==, 2);
    g_assert_true(pending(f, 0));
    g_assert_cmpint(apic_acknowledge(s), ==, 0x55);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, fn) g_test_add("/apic/" name, Fixture, NULL, setup, fn, teardown)
    ADD("priority", test_priority);
    ADD("destinations", test_destinations);
    ADD("ipis", test_ipis);
    ADD("level-eoi", test_level_eoi);
    ADD("pic", test_pic);
    ADD("timer", test_timer);
    ADD("x2apic", test_x2apic);
    ADD("state", test_state);
    return g_test_run();
}
