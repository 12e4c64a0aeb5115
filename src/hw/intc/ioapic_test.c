/* The I/O APIC with a local APIC behind it, and the wiring of a PC's lines. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "arch/x86/chips.h"
#include "hw/intc/gsi.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"

typedef struct Fixture {
    TestBoard *board;
    X86Cpu *cpu;
    Device *ioapic;
} Fixture;

static Fixture *setup(void)
{
    Fixture *f = g_new0(Fixture, 1);
    f->board = test_board_new();
    f->cpu = g_aligned_alloc0(1, sizeof(X86Cpu), 64);
    f->cpu->env.clocks = f->board->clocks;
    f->cpu->apic = apic_new(f->cpu, f->board->apic_bus);
    apic_reset(f->cpu->apic, false);
    apic_mmio_write(f->cpu->apic, 0xf0, 0x1ff);
    f->ioapic = test_board_add(f->board, TYPE_IOAPIC, NULL, NULL);
    return f;
}

static void teardown(Fixture *f)
{
    device_unrealize_all(f->board->root);
    apic_free(f->cpu->apic);
    g_aligned_free(f->cpu);
    test_board_free(f->board);
    g_free(f);
}

static void set(Fixture *f, uint8_t reg, uint32_t value)
{
    test_write(f->board, IOAPIC_ADDRESS, 4, reg);
    test_write(f->board, IOAPIC_ADDRESS + 0x10, 4, value);
}

static uint32_t get(Fixture *f, uint8_t reg)
{
    test_write(f->board, IOAPIC_ADDRESS, 4, reg);
    return test_read(f->board, IOAPIC_ADDRESS + 0x10, 4);
}

static void eoi(Fixture *f)
{
    apic_mmio_write(f->cpu->apic, 0xb0, 0);
}

static void test_registers(void)
{
    Fixture *f = setup();
    g_assert_cmphex(get(f, 1), ==, 0x00170020);
    set(f, 0, 0xff000000);
    g_assert_cmphex(get(f, 0), ==, 0x0f000000);
    g_assert_cmphex(get(f, 0x10), ==, 0x00010000); /* masked */
    set(f, 0x10, 0xffffffff);
    g_assert_cmphex(get(f, 0x10), ==, 0x0001afff); /* status bits are read-only */
    set(f, 0x11, 0xffffffff);
    g_assert_cmphex(get(f, 0x11), ==, 0xff000000);
    g_assert_cmphex(get(f, 0x40), ==, 0);
    teardown(f);
}

static void test_edge(void)
{
    Fixture *f = setup();
    ioapic_set_input(f->ioapic, 4, true); /* masked: lost */
    set(f, 0x18, 0x34);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, -1);
    ioapic_set_input(f->ioapic, 4, true); /* no edge */
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, -1);
    ioapic_set_input(f->ioapic, 4, false);
    ioapic_set_input(f->ioapic, 4, true);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, 0x34);
    eoi(f);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, -1);
    teardown(f);
}

static void test_level(void)
{
    Fixture *f = setup();
    ioapic_set_input(f->ioapic, 9, true);
    set(f, 0x22, 0x8039); /* level triggered; fires as it is unmasked */
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, 0x39);
    g_assert_cmphex(get(f, 0x22), ==, 0xc039); /* remote IRR */
    ioapic_set_input(f->ioapic, 9, true);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, -1);
    eoi(f);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, 0x39); /* still high */
    ioapic_set_input(f->ioapic, 9, false);
    eoi(f);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, -1);
    g_assert_cmphex(get(f, 0x22), ==, 0x8039);
    /* The EOI register, and the change to edge, clear remote IRR too. */
    ioapic_set_input(f->ioapic, 9, true);
    ioapic_set_input(f->ioapic, 9, false);
    g_assert_cmphex(get(f, 0x22), ==, 0xc039);
    test_write(f->board, IOAPIC_ADDRESS + 0x40, 4, 0x39);
    g_assert_cmphex(get(f, 0x22), ==, 0x8039);
    ioapic_set_input(f->ioapic, 9, true);
    set(f, 0x22, 0x10039);
    g_assert_cmphex(get(f, 0x22), ==, 0x10039);
    teardown(f);
}

static void test_wiring(void)
{
    Fixture *f = setup();
    Device *pic = test_board_add(f->board, TYPE_I8259, NULL, "firmware-preset", "on", NULL);
    GsiLines *lines = gsi_lines_new();
    gsi_lines_connect(lines, pic, f->ioapic);
    set(f, 0x14, 0x50); /* pin 2 */
    set(f, 0x10, 0x51);
    irq_pulse(lines->isa[0]);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, 0x50);
    eoi(f);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, -1);
    test_outb(f->board, 0x21, 0xfe);
    g_assert_cmphex(i8259_acknowledge(pic), ==, 0x08);
    set(f, 0x30, 0x52); /* pin 16 */
    irq_pulse(lines->gsi[16]);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, 0x52);
    eoi(f);
    set(f, 0x24, 0x53); /* pin 10 */
    irq_pulse(lines->isa[10]);
    g_assert_cmpint(apic_acknowledge(f->cpu->apic), ==, 0x53);
    gsi_lines_free(lines);
    teardown(f);
}

/* ---- where an accelerator models it ---- */

typedef struct FakeIoapic {
    IoapicChip chip;
    uint64_t base;
    uint32_t lines;
} FakeIoapic;

static void fake_input(void *opaque, unsigned pin, bool level)
{
    FakeIoapic *f = opaque;
    f->lines = level ? f->lines | 1u << pin : f->lines & ~(1u << pin);
}

static bool fake_get(void *opaque, IoapicChip *chip)
{
    uint32_t levels = chip->levels;
    *chip = ((FakeIoapic *)opaque)->chip;
    chip->levels = levels;
    return true;
}

static bool fake_put(void *opaque, const IoapicChip *chip, uint64_t base)
{
    ((FakeIoapic *)opaque)->chip = *chip;
    ((FakeIoapic *)opaque)->base = base;
    return true;
}

static void fake_deliver(void *opaque, const ApicMessage *message)
{
    g_assert_not_reached();
}

static void test_remote(void)
{
    FakeIoapic fake = { .lines = 0 };
    X86Chips chips = {
        .ioapic_input = fake_input, .ioapic_get = fake_get, .ioapic_put = fake_put, .opaque = &fake
    };
    ApicRemote remote = { .deliver = fake_deliver, .chips = &chips };
    Fixture f = { .board = test_board_new() };
    apic_bus_set_remote(f.board->apic_bus, &remote);
    f.ioapic = test_board_add(f.board, TYPE_IOAPIC, NULL, NULL);
    g_assert_cmphex(fake.base, ==, IOAPIC_ADDRESS);
    g_assert_cmphex(fake.chip.redir[5], ==, 0x10000);
    set(&f, 0x10 + 2 * 5, 0x8061); /* an access that comes here: level-triggered */
    g_assert_cmphex(fake.chip.redir[5], ==, 0x8061);
    ioapic_set_input(f.ioapic, 5, true); /* the accelerator sends, not we */
    g_assert_cmphex(fake.lines, ==, 1u << 5);
    fake.chip.redir[5] |= 1u << 14;
    g_assert_cmphex(get(&f, 0x10 + 2 * 5), ==, 0xc061);
    const VmState *state = DEVICE_GET_CLASS(f.ioapic)->vmstate;
    g_assert_true(state->pre_save(f.ioapic, NULL));
    fake.chip = (IoapicChip){ .id = 0 };
    g_assert_true(state->post_load(f.ioapic, 1, NULL));
    g_assert_cmphex(fake.chip.redir[5], ==, 0xc061);
    g_assert_cmphex(fake.chip.levels, ==, 1u << 5);
    test_board_free(f.board);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ioapic/registers", test_registers);
    g_test_add_func("/ioapic/edge", test_edge);
    g_test_add_func("/ioapic/level", test_level);
    g_test_add_func("/ioapic/wiring", test_wiring);
    g_test_add_func("/ioapic/remote", test_remote);
    return g_test_run();
}
