/* The rtl8139 in both of its modes, with a socket pair for a network. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "hw/net/test_card.h"

#include "hw/net/ethernet.h"

#define TX_RING   0x10000u
#define RX_RING   0x11000u
#define BUFFERS   0x20000u
#define RX_BUFFER 0x80000u

enum {
    TSD0 = 0x10,
    TSAD0 = 0x20,
    RBSTART = 0x30,
    CR = 0x37,
    CAPR = 0x38,
    CBR = 0x3a,
    IMR = 0x3c,
    ISR = 0x3e
};
enum {
    TCR = 0x40,
    RCR = 0x44,
    TCTR = 0x48,
    EE = 0x50,
    TIMER = 0x54,
    TPPOLL = 0xd9,
    CPCR = 0xe0,
    RDSAR = 0xe4
};

static void put(unsigned offset, unsigned size, uint32_t value)
{
    test_write(b, MEM + offset, size, value);
}

static uint32_t get(unsigned offset, unsigned size)
{
    return (uint32_t)test_read(b, MEM + offset, size);
}

static void setup(void)
{
    setup_card("rtl8139", 0x14);
}

static void fill(uint32_t gpa, const uint8_t *data, size_t size)
{
    address_space_write(b->memory, gpa, MEMTXATTRS_NONE, data, size);
}

static void test_old_sending(void)
{
    uint8_t frame[100], got[200];
    setup();
    memset(frame, 0x33, sizeof(frame));
    fill(BUFFERS, frame, sizeof(frame));
    put(CR, 1, 0x0c);
    put(IMR, 2, 4);
    for (unsigned i = 0; i < 6; i++) { /* round and round */
        put(TSAD0 + 4 * (i & 3), 4, BUFFERS);
        put(TSD0 + 4 * (i & 3), 4, 90 + i);
        g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 90 + i);
        g_assert_cmpmem(got, 90 + i, frame, 90 + i);
        g_assert_cmphex(get(TSD0 + 4 * (i & 3), 4) & 0xa000, ==, 0xa000);
        g_assert_true(irq);
        put(ISR, 2, 4);
        g_assert_false(irq);
    }
    put(TSD0, 4, 60); /* not its turn: 2 is next */
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 0);
    put(TSAD0 + 8, 4, 0xfffffff0); /* from no memory */
    put(TSD0 + 8, 4, 0x1fff);
    uint8_t longest[0x2000];
    g_assert_cmpuint(take_frame(longest, sizeof(longest)), ==, 0x1fff);
    g_assert_cmpuint(longest[0] | longest[89] | longest[0x1ffe], ==, 0); /* nothing of an older packet */
    teardown();
}

static void test_old_receiving(void)
{
    uint8_t frame[1514] = { 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc };
    setup();
    memset(frame + 6, 0x44, sizeof(frame) - 6);
    put(RBSTART, 4, RX_BUFFER);
    put(RCR, 4, 0x0a); /* 8 KiB, our address, broadcasts, wrapping */
    put(CR, 1, 0x0c);
    put(IMR, 2, 1);
    g_assert_cmphex(get(CR, 1) & 1, ==, 1);
    give_frame(frame, 100);
    g_assert_true(irq);
    g_assert_cmphex(get(CR, 1) & 1, ==, 0);
    g_assert_cmphex(test_read(b, RX_BUFFER, 4), ==, 104u << 16 | 0x4001);
    g_assert_cmphex(test_read(b, RX_BUFFER + 4 + 100, 4), ==, eth_fcs(frame, 100));
    g_assert_cmphex(get(CBR, 2), ==, 108);
    /* It fills up, keeps the rest at the back end, and goes on around the ring's end when there is room. */
    for (unsigned i = 0; i < 6; i++) {
        give_frame(frame, sizeof(frame));
    }
    unsigned full = get(CBR, 2);
    g_assert_cmphex(full, ==, 108 + 5 * 1524);
    put(CAPR, 2, 108 + 3 * 1524 - 16);
    settle();
    g_assert_cmphex(get(CBR, 2), ==, (full + 1524) % 8192);
    g_assert_cmphex(test_read(b, RX_BUFFER + full, 4), ==, 1518u << 16 | 0x4001);
    g_assert_cmphex(test_read(b, RX_BUFFER + (full + 4 + 1514) % 8192, 4), ==, eth_fcs(frame, sizeof(frame)));
    frame[0] = 0x01; /* a multicast address that nobody asked for, then somebody does */
    unsigned before = get(CBR, 2);
    put(CAPR, 2, before - 16);
    give_frame(frame, 60);
    g_assert_cmphex(get(CBR, 2), ==, before);
    put(RCR, 4, 0x0e);
    unsigned hash = eth_multicast_hash(frame);
    put(8 + hash / 32 * 4, 4, 1u << (hash % 32));
    give_frame(frame, 60);
    g_assert_cmphex(get(CBR, 2), ==, (before + 68) % 8192);
    teardown();
}

static unsigned slot;

static void descriptor(uint32_t first, uint32_t second, uint64_t address)
{
    test_write(b, TX_RING + 16 * slot, 4, first);
    test_write(b, TX_RING + 16 * slot + 4, 4, second);
    test_write(b, TX_RING + 16 * slot + 8, 8, address);
    slot++;
}

static void test_descriptors(void)
{
    enum { HEADER = 14 + 20 + 20, MSS = 1000, PAYLOAD = 2500 };
    uint8_t packet[HEADER + PAYLOAD] = { 0x02, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc, 0x08, 0x00 };
    uint8_t got[2000], pseudo[12];
    static const uint8_t ip[] = { 0x45, 0, 0x09, 0xec, 0x12, 0x34, 0x40, 0, 64, 6,
                                  0,    0, 10,   0,    2,    15,   10,   0, 2,  2 };
    static const uint8_t tcp[] = { 0x10, 0, 0x00, 0x50, 0,    0, 0, 1, 0, 0,
                                   0,    0, 0x50, 0x18, 0x10, 0, 0, 0, 0, 0 };
    setup();
    slot = 0;
    memcpy(packet + 14, ip, 20);
    memcpy(packet + 34, tcp, 20);
    for (unsigned i = 0; i < PAYLOAD; i++) {
        packet[HEADER + i] = (uint8_t)(i * 7);
    }
    memcpy(pseudo, ip + 12, 8);
    memset(pseudo + 8, 0, 4);
    pseudo[9] = 6;
    fill(BUFFERS, packet, sizeof(packet));
    put(CPCR, 2, 3);
    put(0x20, 4, TX_RING);
    put(0x24, 4, 0);
    put(CR, 1, 0x0c);
    put(IMR, 2, 0x84);
    descriptor(0xb0000000 | 70, 0, BUFFERS);                                       /* whole */
    descriptor(0xa8000000 | MSS << 16 | 300, 0, BUFFERS);                          /* large, in two parts */
    descriptor(0xd8000000 | MSS << 16 | (sizeof(packet) - 300), 0, BUFFERS + 300); /* the ring's last */
    put(TPPOLL, 1, 0x40);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 70);
    for (unsigned i = 0; i < 3; i++) {
        unsigned bytes = i < 2 ? MSS : PAYLOAD - 2 * MSS;
        g_assert_cmpuint(take_frame(got, sizeof(got)), ==, HEADER + bytes);
        g_assert_cmpmem(got + HEADER, bytes, packet + HEADER + i * MSS, bytes);
        g_assert_cmpuint(eth_get16(got + 16), ==, 40 + bytes);
        g_assert_cmphex(eth_sum(got + 14, 20, 0), ==, 0xffff);
        pseudo[10] = (uint8_t)((20 + bytes) >> 8);
        pseudo[11] = (uint8_t)(20 + bytes);
        g_assert_cmphex(eth_sum(got + 34, 20 + bytes, eth_sum(pseudo, 12, 0)), ==, 0xffff);
    }
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 0);
    g_assert_cmphex(test_read(b, TX_RING + 35, 1), ==, 0x50); /* the guest's again */
    g_assert_true(irq);
    put(ISR, 2, 0xffff);

    /* Around the ring: checksums and a tag. */
    slot = 0;
    descriptor(0xb0050000 | 100, 1u << 17 | 0x2301, BUFFERS);
    put(TPPOLL, 1, 0x40);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 104);
    g_assert_cmphex(eth_get16(got + 12), ==, 0x8100);
    g_assert_cmphex(eth_get16(got + 14), ==, 0x0123);
    g_assert_cmphex(eth_sum(got + 18, 20, 0), ==, 0xffff);

    /* Receiving: no descriptor, then one. */
    memcpy(packet, "\x52\x54\x00\xaa\xbb\xcc", 6);
    put(RDSAR, 4, RX_RING);
    put(RCR, 4, 0x0a);
    put(IMR, 2, 0x11);
    give_frame(packet, 100);
    g_assert_false(irq);
    test_write(b, RX_RING, 4, 0xc0000000 | 1536);
    test_write(b, RX_RING + 8, 8, RX_BUFFER);
    test_board_advance(b, 2000000);
    g_assert_true(irq);
    g_assert_cmphex(test_read(b, RX_RING, 4), ==, 0x72000000 | 104);
    g_assert_cmphex(test_read(b, RX_BUFFER + 96, 8), ==,
                    (uint64_t)eth_fcs(packet, 100) << 32 | test_read(b, BUFFERS + 96, 4));
    teardown();
}

static unsigned eeprom_bit(unsigned in)
{
    put(EE, 1, 0x88 | in << 1);
    put(EE, 1, 0x8c | in << 1);
    return get(EE, 1) & 1;
}

static void test_eeprom_timer(void)
{
    setup();
    for (unsigned word = 0; word < 8; word += 7) {
        uint16_t value = 0;
        put(EE, 1, 0x80);
        for (int i = 8; i >= 0; i--) {
            eeprom_bit((0x180 | word) >> i & 1);
        }
        for (int i = 0; i < 16; i++) {
            value = (uint16_t)(value << 1 | eeprom_bit(0));
        }
        g_assert_cmphex(value, ==, word ? 0x5452 : 0x8129);
    }
    put(IMR, 2, 0x4000);
    put(TCTR, 4, 0);
    put(TIMER, 4, 33000);
    test_board_advance(b, 900000);
    g_assert_false(irq);
    g_assert_cmpuint(get(TCTR, 4), ==, 29700);
    test_board_advance(b, 200000);
    g_assert_true(irq);
    put(0x52, 1, 0xff); /* locked */
    g_assert_cmphex(get(0x52, 1), ==, 0x0c);
    put(EE, 1, 0xc0);
    put(0x52, 1, 0xcf);
    g_assert_cmphex(get(0x52, 1), ==, 0xcf);
    put(CR, 1, 0x10);
    g_assert_cmphex(get(CR, 1), ==, 1);
    g_assert_cmphex(get(IMR, 2), ==, 0);
    g_assert_cmphex(get(0, 4), ==, 0xaa005452);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/rtl8139/old-sending", test_old_sending);
    g_test_add_func("/rtl8139/old-receiving", test_old_receiving);
    g_test_add_func("/rtl8139/descriptors", test_descriptors);
    g_test_add_func("/rtl8139/eeprom-timer", test_eeprom_timer);
    return g_test_run();
}
