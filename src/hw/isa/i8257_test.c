/* The DMA controllers: registers, both widths, terminal count, auto-initialisation. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/isa/i8257.h"

typedef struct Bench {
    TestBoard *b;
    Device *dma;
} Bench;

static void bench_new(Bench *n)
{
    n->b = test_board_new();
    n->dma = test_board_add(n->b, TYPE_I8257, isa_bus_new(NULL, &n->b->env), NULL);
}

static void set_word(Bench *n, uint16_t port, uint16_t value)
{
    test_outb(n->b, port, value);
    test_outb(n->b, port, value >> 8);
}

static void test_registers(void)
{
    Bench n;
    bench_new(&n);
    test_outb(n.b, 0x0c, 0);
    set_word(&n, 0x02, 0x1234);
    set_word(&n, 0x03, 0x00ff);
    g_assert_cmphex(test_inb(n.b, 0x02), ==, 0x34);
    g_assert_cmphex(test_inb(n.b, 0x02), ==, 0x12);
    test_outb(n.b, 0x83, 0x5a);
    g_assert_cmphex(test_inb(n.b, 0x83), ==, 0x5a);
    g_assert_cmphex(test_inb(n.b, 0x0f), ==, 0xff); /* all masked after reset */
    test_outb(n.b, 0x0a, 1);
    g_assert_cmphex(test_inb(n.b, 0x0f), ==, 0xfd);
    test_outb(n.b, 0x0d, 0);
    g_assert_cmphex(test_inb(n.b, 0x0f), ==, 0xff);
    set_word(&n, 0xc4, 0xabcd); /* channel 5's address */
    g_assert_cmphex(test_inb(n.b, 0xc4), ==, 0xcd);
    test_board_free(n.b);
}

static void test_bytes(void)
{
    Bench n;
    uint8_t data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    bool done;
    bench_new(&n);
    set_word(&n, 0x04, 0x8000);
    set_word(&n, 0x05, 5); /* six bytes */
    test_outb(n.b, 0x81, 0x01);
    test_outb(n.b, 0x0b, 0x46); /* channel 2, single, device to memory */
    g_assert_cmpuint(i8257_transfer(n.dma, 2, data, 8, &done), ==, 0); /* masked */
    test_outb(n.b, 0x0a, 2);
    g_assert_cmpuint(i8257_transfer(n.dma, 2, data, 4, &done), ==, 4);
    g_assert_false(done);
    g_assert_cmpuint(i8257_transfer(n.dma, 2, data + 4, 4, &done), ==, 2);
    g_assert_true(done);
    g_assert_cmphex(test_read(n.b, 0x18000, 4), ==, 0x04030201);
    g_assert_cmphex(test_read(n.b, 0x18004, 4), ==, 0x00000605);
    g_assert_cmphex(test_inb(n.b, 0x08), ==, 0x04); /* terminal count, once */
    g_assert_cmphex(test_inb(n.b, 0x08), ==, 0x00);
    g_assert_cmpuint(i8257_transfer(n.dma, 2, data, 8, &done), ==, 0);
    /* Back, downwards, starting over by itself. */
    test_outb(n.b, 0x0c, 0);
    set_word(&n, 0x04, 0x8002);
    set_word(&n, 0x05, 2);
    test_outb(n.b, 0x0b, 0x7a);
    test_outb(n.b, 0x0a, 2);
    memset(data, 0, sizeof(data));
    g_assert_cmpuint(i8257_transfer(n.dma, 2, data, 8, &done), ==, 3);
    g_assert_true(done);
    g_assert_cmpmem(data, 3, "\x03\x02\x01", 3);
    g_assert_cmpuint(i8257_transfer(n.dma, 2, data, 8, &done), ==, 3);
    test_outb(n.b, 0x08, 0x04); /* the controller is switched off */
    g_assert_cmpuint(i8257_transfer(n.dma, 2, data, 8, &done), ==, 0);
    test_board_free(n.b);
}

static void test_words(void)
{
    Bench n;
    uint8_t data[8] = { 0 };
    bool done;
    bench_new(&n);
    test_write(n.b, 0x18000, 8, UINT64_C(0x8877665544332211));
    set_word(&n, 0xc4, 0x4000 + 0x8000); /* words: 0x18000 */
    set_word(&n, 0xc6, 1);
    test_outb(n.b, 0x8b, 0x01); /* bit 0 does not count */
    test_outb(n.b, 0xd6, 0x49);
    test_outb(n.b, 0xd4, 1);
    g_assert_cmpuint(i8257_transfer(n.dma, 5, data, 8, &done), ==, 4);
    g_assert_true(done);
    g_assert_cmpmem(data, 4, "\x11\x22\x33\x44", 4);
    test_board_free(n.b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/i8257/registers", test_registers);
    g_test_add_func("/i8257/bytes", test_bytes);
    g_test_add_func("/i8257/words", test_words);
    return g_test_run();
}
