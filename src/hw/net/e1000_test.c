/* The e1000 as its driver uses it, with a socket pair for a network. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "hw/net/test_card.h"

#include "hw/net/ethernet.h"

#define TX_RING   0x10000u
#define RX_RING   0x11000u
#define BUFFERS   0x20000u
#define RX_BUFFER 0x80000u
#define RING      32u

enum { CTRL = 0, EECD = 0x10, EERD = 0x14, MDIC = 0x20, ICR = 0xc0, ITR = 0xc4, IMS = 0xd0, IMC = 0xd8 };
enum { RCTL = 0x100, TCTL = 0x400, RDBAL = 0x2800, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818 };
enum {
    TDBAL = 0x3800,
    TDLEN = 0x3808,
    TDH = 0x3810,
    TDT = 0x3818,
    GPTC = 0x4080,
    RA = 0x5400,
    VFTA = 0x5600
};

static void put(unsigned offset, uint32_t value)
{
    test_write(b, MEM + offset, 4, value);
}

static uint32_t get(unsigned offset)
{
    return (uint32_t)test_read(b, MEM + offset, 4);
}

static void rings(void)
{
    put(TDBAL, TX_RING);
    put(TDLEN, RING * 16);
    put(TCTL, 2);
    put(RDBAL, RX_RING);
    put(RDLEN, RING * 16);
    for (unsigned i = 0; i < RING; i++) {
        test_write(b, RX_RING + 16 * i, 8, RX_BUFFER + 2048 * i);
        test_write(b, RX_RING + 16 * i + 8, 8, 0);
    }
    put(RDT, RING - 1);
    put(RCTL, 0x04008002); /* on, broadcasts, without check sequence */
}

static void setup(void)
{
    setup_card("e1000", 0x10);
    rings();
}

static unsigned tail;

static void descriptor(uint64_t address, uint32_t low, uint32_t high)
{
    test_write(b, TX_RING + 16 * tail, 8, address);
    test_write(b, TX_RING + 16 * tail + 8, 4, low);
    test_write(b, TX_RING + 16 * tail + 12, 4, high);
    tail = (tail + 1) % RING;
}

static void fill(uint32_t gpa, const uint8_t *data, size_t size)
{
    address_space_write(b->memory, gpa, MEMTXATTRS_NONE, data, size);
}

static void test_legacy(void)
{
    uint8_t frame[200], got[300];
    setup();
    tail = 0;
    for (unsigned i = 0; i < sizeof(frame); i++) {
        frame[i] = (uint8_t)i;
    }
    fill(BUFFERS, frame, sizeof(frame));
    put(IMS, 1);
    descriptor(BUFFERS, 100, 0); /* two parts */
    descriptor(BUFFERS + 100, 100 | 0x09u << 24, 0);
    put(TDT, tail);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 200);
    g_assert_cmpmem(got, 200, frame, 200);
    g_assert_cmpuint(get(TDH), ==, 2);
    g_assert_true(irq);
    g_assert_cmphex(test_read(b, TX_RING + 16 + 12, 1), ==, 1); /* done */
    g_assert_cmphex(get(ICR), ==, 3);
    g_assert_false(irq);
    g_assert_cmphex(get(ICR), ==, 0);
    g_assert_cmpuint(get(GPTC), ==, 1);
    g_assert_cmpuint(get(GPTC), ==, 0); /* cleared by reading */

    /* A checksum from byte 20 on, put at 50; then with a VLAN tag. */
    frame[50] = frame[51] = 0;
    fill(BUFFERS, frame, sizeof(frame));
    descriptor(BUFFERS, 200 | 50u << 16 | 0x0du << 24, 20u << 8);
    put(TDT, tail);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 200);
    g_assert_cmphex(eth_sum(got + 20, 180, 0), ==, 0xffff);
    put(CTRL, get(CTRL) | 1u << 30);
    descriptor(BUFFERS, 200 | 0x49u << 24, 0x0123u << 16);
    put(TDT, tail);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 204);
    static const uint8_t tag[] = { 0x81, 0x00, 0x01, 0x23, 12, 13 };
    g_assert_cmpmem(got + 12, 6, tag, 6);

    /* Nothing goes out with an index outside of the ring, from no memory, or of a size that no frame has. */
    put(TDT, 5000);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 0);
    descriptor(BUFFERS, 5 | 0x09u << 24, 0);
    put(TDT, tail);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 0);
    g_assert_cmpuint(get(TDH), ==, tail);
    teardown();
}

static void test_segmentation(void)
{
    enum { HEADER = 14 + 20 + 20, MSS = 1000, PAYLOAD = 2500 };
    uint8_t packet[HEADER + PAYLOAD] = { 0x02, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc, 0x08, 0x00 };
    uint8_t got[2000];
    static const uint8_t ip[] = {
        0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2
    };
    static const uint8_t tcp[] = { 0x10, 0, 0x00, 0x50, 0xff, 0xff, 0xfe, 0x00, 0, 0,
                                   0,    0, 0x50, 0x19, 0x10, 0,    0,    0,    0, 0 };
    setup();
    tail = 0;
    memcpy(packet + 14, ip, 20);
    memcpy(packet + 34, tcp, 20);
    for (unsigned i = 0; i < PAYLOAD; i++) {
        packet[HEADER + i] = (uint8_t)(i * 7);
    }
    uint8_t pseudo[12];
    memcpy(pseudo, ip + 12, 8);
    memset(pseudo + 8, 0, 4);
    pseudo[9] = 6;
    eth_put16(packet + 34 + 16, eth_sum(pseudo, 12, 0));
    fill(BUFFERS, packet, sizeof(packet));
    /* ipcss 14, ipcso 24, ipcse 33; tucss 34, tucso 50; TCP, IPv4, segmentation, a context */
    descriptor(14 | 24u << 8 | 33u << 16 | (uint64_t)(34 | 50u << 8) << 32, PAYLOAD | 0x27u << 24,
               HEADER << 8 | MSS << 16);
    descriptor(BUFFERS, 300 | 1u << 20 | 0x26u << 24, 3u << 8);
    descriptor(BUFFERS + 300, (sizeof(packet) - 300) | 1u << 20 | 0x2fu << 24, 0);
    put(TDT, tail);
    for (unsigned i = 0; i < 3; i++) {
        unsigned bytes = i < 2 ? MSS : PAYLOAD - 2 * MSS;
        g_assert_cmpuint(take_frame(got, sizeof(got)), ==, HEADER + bytes);
        g_assert_cmpmem(got + HEADER, bytes, packet + HEADER + i * MSS, bytes);
        g_assert_cmpuint(eth_get16(got + 16), ==, 40 + bytes);
        g_assert_cmphex(eth_get16(got + 18), ==, 0x1234 + i);
        g_assert_cmphex(eth_sum(got + 14, 20, 0), ==, 0xffff);
        uint32_t sequence = (uint32_t)eth_get16(got + 38) << 16 | eth_get16(got + 40);
        g_assert_cmphex(sequence, ==, 0xfffffe00u + i * MSS);
        g_assert_cmphex(got[47], ==, i < 2 ? 0x10 : 0x19); /* only the last one pushes and ends */
        pseudo[10] = (uint8_t)((20 + bytes) >> 8);
        pseudo[11] = (uint8_t)(20 + bytes);
        g_assert_cmphex(eth_sum(got + 34, 20 + bytes, eth_sum(pseudo, 12, 0)), ==, 0xffff);
    }
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 0);

    /* Impossible contexts: no segment size; headers longer than the packet. */
    descriptor(14, PAYLOAD | 0x27u << 24, HEADER << 8);
    descriptor(BUFFERS, sizeof(packet) | 1u << 20 | 0x2fu << 24, 3u << 8);
    descriptor(14, PAYLOAD | 0x27u << 24, 255 << 8 | 1 << 16);
    descriptor(BUFFERS, 100 | 1u << 20 | 0x2fu << 24, 3u << 8);
    descriptor(~0ull, PAYLOAD | 0x27u << 24, 200u << 8 | 1 << 16);
    descriptor(BUFFERS, 300 | 1u << 20 | 0x2fu << 24, 3u << 8);
    put(TDT, tail);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 0);
    g_assert_cmpuint(get(TDH), ==, tail);
    teardown();
}

static void test_receive(void)
{
    uint8_t frame[3000] = { 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0x00, 0x05, 0x08 };
    setup();
    put(IMS, 0x80);
    give_frame(frame, 40); /* grows to the least size */
    g_assert_true(irq);
    g_assert_cmphex(get(ICR) & 0x80, ==, 0x80);
    g_assert_cmpuint(get(RDH), ==, 1);
    g_assert_cmpuint(test_read(b, RX_RING + 8, 2), ==, 60);
    g_assert_cmphex(test_read(b, RX_RING + 12, 1), ==, 7);

    frame[5] = 0; /* somebody else's */
    give_frame(frame, 100);
    g_assert_cmpuint(get(RDH), ==, 1);
    put(RCTL, get(RCTL) | 8); /* promiscuous; now with the check sequence and without the tag */
    put(RCTL, get(RCTL) & ~0x04000000u);
    put(CTRL, get(CTRL) | 1u << 30);
    give_frame(frame, 100);
    g_assert_cmpuint(get(RDH), ==, 2);
    g_assert_cmpuint(test_read(b, RX_RING + 16 + 8, 2), ==, 100);
    g_assert_cmphex(test_read(b, RX_RING + 16 + 12, 1), ==, 15);
    g_assert_cmphex(test_read(b, RX_RING + 16 + 14, 2), ==, 5);
    g_assert_cmphex(test_read(b, RX_BUFFER + 2048 + 12, 2), ==, 0x0008);
    g_assert_cmphex(test_read(b, RX_BUFFER + 2048 + 96, 4), ==, eth_fcs(frame, 100));

    put(RCTL, get(RCTL) | 1u << 18); /* VLANs, of which 5 is none */
    give_frame(frame, 100);
    g_assert_cmpuint(get(RDH), ==, 2);
    put(VFTA, 1u << 5);
    give_frame(frame, 100);
    g_assert_cmpuint(get(RDH), ==, 3);
    put(RCTL, get(RCTL) | 0x20); /* long ones: two buffers */
    put(CTRL, get(CTRL) & ~(1u << 30));
    give_frame(frame, sizeof(frame));
    g_assert_cmpuint(get(RDH), ==, 5);
    g_assert_cmphex(test_read(b, RX_RING + 3 * 16 + 12, 1), ==, 5);
    g_assert_cmphex(test_read(b, RX_RING + 4 * 16 + 12, 1), ==, 7);
    g_assert_cmpuint(test_read(b, RX_RING + 4 * 16 + 8, 2), ==, sizeof(frame) + 4 - 2048);

    /* Without room it waits at the back end. */
    put(RDT, get(RDH));
    give_frame(frame, 100);
    g_assert_cmpuint(get(RDH), ==, 5);
    put(RDT, 4);
    settle();
    g_assert_cmpuint(get(RDH), ==, 6);
    teardown();
}

static void test_throttle(void)
{
    uint8_t frame[60] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    setup();
    put(IMS, 0x80);
    put(ITR, 4000); /* 1.024 ms */
    give_frame(frame, 60);
    g_assert_cmpuint(rises, ==, 1);
    get(ICR);
    give_frame(frame, 60);
    g_assert_false(irq);
    test_board_advance(b, 1100000);
    g_assert_true(irq);
    g_assert_cmpuint(rises, ==, 2);
    put(IMC, 0x80);
    g_assert_false(irq);
    teardown();
}

static unsigned eeprom_bit(unsigned in)
{
    put(EECD, 0x42 | in << 2);
    put(EECD, 0x43 | in << 2);
    unsigned out = get(EECD) >> 3 & 1;
    put(EECD, 0x42 | in << 2);
    return out;
}

static uint16_t eeprom_word(unsigned word)
{
    uint16_t value = 0;
    put(EECD, 0x40);
    g_assert_cmphex(get(EECD) & 0x80, ==, 0x80); /* granted */
    for (int i = 8; i >= 0; i--) {
        eeprom_bit((0x180 | word) >> i & 1);
    }
    for (int i = 0; i < 16; i++) {
        value = (uint16_t)(value << 1 | eeprom_bit(0));
    }
    put(EECD, 0);
    return value;
}

static void test_eeprom_phy(void)
{
    uint16_t sum = 0;
    setup();
    g_assert_cmphex(eeprom_word(0), ==, 0x5452);
    g_assert_cmphex(eeprom_word(2), ==, 0xccbb);
    for (unsigned i = 0; i < 64; i++) {
        sum = (uint16_t)(sum + eeprom_word(i));
    }
    g_assert_cmphex(sum, ==, 0xbaba);
    put(EERD, 1u << 8 | 1);
    g_assert_cmphex(get(EERD), ==, 0xaa000110);
    put(MDIC, 2u << 26 | 1u << 21 | 2u << 16);
    g_assert_cmphex(get(MDIC) & 0x5000ffff, ==, 0x10000141);
    put(MDIC, 2u << 26 | 7u << 21); /* there is no such PHY */
    g_assert_cmphex(get(MDIC) & 0x40000000, ==, 0x40000000);
    put(MDIC, 2u << 26 | 1u << 21 | 1u << 16);
    g_assert_cmphex(get(MDIC) & 4, ==, 4);
    put(IMS, 4);
    GError *error = NULL;
    net_set_link(nets, "s0", false, &error);
    g_assert_no_error(error);
    settle();
    g_assert_true(irq);
    g_assert_cmphex(get(8) & 2, ==, 0);
    put(CTRL, 1u << 26);
    g_assert_cmphex(get(IMS), ==, 0);
    g_assert_cmphex(get(RA + 4), ==, 0x8000ccbb);
    teardown();
}

/* A packet half sent, and the EEPROM amid a word, live on elsewhere. */
static void test_saved(void)
{
    uint8_t frame[200], got[300];
    GError *error = NULL;
    setup();
    tail = 0;
    memset(frame, 0x5a, sizeof(frame));
    fill(BUFFERS, frame, sizeof(frame));
    descriptor(BUFFERS, 100, 0);
    put(TDT, tail);
    settle();
    g_autoptr(GByteArray) state = vmstate_save(DEVICE_GET_CLASS(card)->vmstate, card, &error);
    g_assert_no_error(error);
    device_reset(card);
    g_assert_true(vmstate_load(DEVICE_GET_CLASS(card)->vmstate, card, state->data, state->len, &error));
    g_assert_no_error(error);
    descriptor(BUFFERS + 100, 100 | 0x09u << 24, 0);
    put(TDT, tail);
    g_assert_cmpuint(take_frame(got, sizeof(got)), ==, 200);
    g_assert_cmpmem(got, 200, frame, 200);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/e1000/legacy", test_legacy);
    g_test_add_func("/e1000/segmentation", test_segmentation);
    g_test_add_func("/e1000/receive", test_receive);
    g_test_add_func("/e1000/throttle", test_throttle);
    g_test_add_func("/e1000/eeprom-phy", test_eeprom_phy);
    g_test_add_func("/e1000/saved", test_saved);
    return g_test_run();
}
