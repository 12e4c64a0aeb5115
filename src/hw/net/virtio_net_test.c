/* virtio-net: frames in both directions over a socket pair, offload, filters. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "hw/virtio/virtio_test.h"
#include "net/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    F_CSUM = 0,
    F_MRG = 15,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_CTRL_RX = 18,
    F_CTRL_VLAN = 19,
    F_MQ = 22,
    F_CTRL_MAC = 23
};
enum { RX, TX, CTRL };
#define BASIC (1ull << F_STATUS)
#define CTRL_FEATURES \
    (BASIC | 1ull << F_MRG | 1ull << F_CTRL_VQ | 1ull << F_CTRL_RX | 1ull << F_CTRL_VLAN | 1ull << F_CTRL_MAC)

typedef struct Bench {
    VirtioTest t;
    NetRegistry *nets;
    int peer;
} Bench;

static void bench_new_mq(Bench *b, uint64_t features, unsigned queues, unsigned pairs)
{
    g_autoptr(GError) error = NULL;
    int pair[2];
    memset(b, 0, sizeof(*b));
    vt_new(&b->t, "virtio-net-device");
    b->nets = net_registry_new(b->t.loop, NULL);
    net_property_set_registry(b->nets);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    fcntl(pair[1], F_SETFL, O_NONBLOCK);
    b->peer = pair[1];
    g_autofree char *text =
        g_strdup_printf("stream,id=s0,queues=%u,addr.type=fd,addr.str=%d", pairs, pair[0]);
    if (!net_client_add_text(b->nets, text, &error)) {
        g_error("%s", error->message);
    }
    object_property_set_str(b->t.device, "mac", "52:54:00:aa:bb:cc", &error);
    object_property_set_str(b->t.device, "netdev", "s0", &error);
    object_property_set_bool(b->t.device, "mq", pairs > 1, &error);
    g_assert_no_error(error);
    vt_realize(&b->t, &error);
    g_assert_no_error(error);
    vt_start(&b->t, features, queues);
}

static void bench_new(Bench *b, uint64_t features, unsigned queues)
{
    bench_new_mq(b, features, queues, 1);
}

static void bench_free(Bench *b)
{
    close(b->peer);
    device_unrealize(DEVICE(b->t.device));
    device_unrealize(b->t.transport);
    irq_free(b->t.irq);
    net_property_set_registry(NULL);
    net_registry_free(b->nets);
    vt_machine_free(&b->t);
}

static const uint8_t guest_mac[6] = { 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc };

/* A frame of `size` bytes to an address, with a pattern. */
static void make_frame(uint8_t *frame, unsigned size, const uint8_t *to)
{
    for (unsigned i = 0; i < size; i++) {
        frame[i] = (uint8_t)(i * 7);
    }
    memcpy(frame, to, 6);
    memcpy(frame + 6, "\x02\0\0\0\0\1", 6);
    frame[12] = 8;
    frame[13] = 0;
}

static void peer_send(Bench *b, const uint8_t *frame, uint32_t size)
{
    uint32_t prefix = htonl(size);
    g_assert_cmpint(write(b->peer, &prefix, 4), ==, 4);
    g_assert_cmpint(write(b->peer, frame, size), ==, (ssize_t)size);
}

/* The next frame that the host gets, or -1. */
static int peer_receive(Bench *b, uint8_t *frame, unsigned size)
{
    uint32_t prefix;
    vt_settle(&b->t);
    if (read(b->peer, &prefix, 4) != 4) {
        return -1;
    }
    g_assert_cmpuint(ntohl(prefix), <=, size);
    g_assert_cmpint(read(b->peer, frame, ntohl(prefix)), ==, (ssize_t)ntohl(prefix));
    return (int)ntohl(prefix);
}

static void test_config(void)
{
    Bench b;
    bench_new(&b, UINT64_MAX & ~(1ull << VIRTIO_F_ACCESS_PLATFORM), 3);
    g_assert_cmphex(vt_config(&b.t, 0, 4), ==, 0xaa005452);
    g_assert_cmphex(vt_config(&b.t, 4, 2), ==, 0xccbb);
    g_assert_cmpuint(vt_config(&b.t, 6, 2), ==, 1);
    /* No virtio-net header on this back end: no segmentation, but the guest's checksums are finished here. */
    g_assert_true(b.t.features & (1ull << F_CSUM));
    g_assert_false(b.t.features & (1ull << 11 | 1ull << 7 | 1ull << 1));
    g_assert_true(net_set_link(b.nets, "s0", false, NULL));
    vt_settle(&b.t);
    g_assert_cmpuint(vt_config(&b.t, 6, 2), ==, 0);
    g_assert_cmphex(vt_read(&b.t, 0x060), ==, VIRTIO_ISR_CONFIG);
    bench_free(&b);
}

static void test_send(void)
{
    Bench b;
    uint8_t frame[100], got[2048], header[12] = { 0 };
    bench_new(&b, BASIC, 2);
    VirtioTest *t = &b.t;
    make_frame(frame, sizeof(frame), (const uint8_t *)"\x02\0\0\0\0\1");
    uint32_t header_at = vt_alloc(t, header, 12), at = vt_alloc(t, frame, 100);
    vt_add(t, TX, 0, (VtBuffer[]){ { header_at, 12, false }, { at, 40, false }, { at + 40, 60, false } }, 3);
    vt_kick(t, TX);
    vt_take(t, TX, NULL);
    g_assert_cmpint(peer_receive(&b, got, sizeof(got)), ==, 100);
    g_assert_cmpmem(got, 100, frame, 100);
    /* Header and frame in one buffer. */
    uint8_t both[112] = { 0 };
    memcpy(both + 12, frame, 100);
    at = vt_alloc(t, both, 112);
    vt_add(t, TX, 0, (VtBuffer[]){ { at, 112, false } }, 1);
    vt_kick(t, TX);
    vt_take(t, TX, NULL);
    g_assert_cmpint(peer_receive(&b, got, sizeof(got)), ==, 100);
    g_assert_cmpmem(got, 100, frame, 100);
    /* A header and nothing behind it breaks the rules. */
    vt_add(t, TX, 0, (VtBuffer[]){ { header_at, 12, false } }, 1);
    vt_kick(t, TX);
    vt_settle(t);
    g_assert_true(vt_read(t, 0x070) & VIRTIO_STATUS_NEEDS_RESET);
    bench_free(&b);
}

static void test_checksum(void)
{
    Bench b;
    uint8_t frame[112] = { 0 }, got[2048];
    bench_new(&b, BASIC | 1ull << F_CSUM, 2);
    VirtioTest *t = &b.t;
    make_frame(frame + 12, 100, (const uint8_t *)"\x02\0\0\0\0\1");
    frame[0] = 1;  /* NEEDS_CSUM */
    frame[6] = 34; /* csum_start */
    frame[8] = 16; /* csum_offset */
    frame[12 + 50] = frame[12 + 51] = 0;
    uint32_t at = vt_alloc(t, frame, 112);
    vt_add(t, TX, 0, (VtBuffer[]){ { at, 112, false } }, 1);
    vt_kick(t, TX);
    vt_take(t, TX, NULL);
    g_assert_cmpint(peer_receive(&b, got, sizeof(got)), ==, 100);
    uint32_t sum = 0;
    for (unsigned i = 34; i < 100; i += 2) {
        sum += (uint32_t)got[i] << 8 | got[i + 1];
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    g_assert_cmphex(sum, ==, 0xffff);
    frame[6] = 99; /* outside: dropped, and the next one is fine */
    at = vt_alloc(t, frame, 112);
    vt_add(t, TX, 0, (VtBuffer[]){ { at, 112, false } }, 1);
    vt_kick(t, TX);
    vt_take(t, TX, NULL);
    g_assert_cmpint(peer_receive(&b, got, sizeof(got)), ==, -1);
    bench_free(&b);
}

static void test_receive(void)
{
    Bench b;
    uint8_t frame[300], got[300];
    uint32_t written;
    bench_new(&b, BASIC, 2);
    VirtioTest *t = &b.t;
    make_frame(frame, sizeof(frame), guest_mac);
    peer_send(&b, frame, 300);
    vt_settle(t); /* no buffer yet: it waits */
    uint32_t at = vt_alloc(t, NULL, 2048);
    vt_add(t, RX, 5, (VtBuffer[]){ { at, 12, true }, { at + 12, 1000, true } }, 2);
    vt_kick(t, RX);
    g_assert_cmpuint(vt_take(t, RX, &written), ==, 5);
    g_assert_cmpuint(written, ==, 312);
    g_assert_cmpuint(vt_ram(t, at + 10, 2), ==, 1); /* num_buffers */
    address_space_read(t->as, at + 12, MEMTXATTRS_NONE, got, 300);
    g_assert_cmpmem(got, 300, frame, 300);
    bench_free(&b);
}

static void test_receive_broken(void)
{
    Bench b;
    uint8_t frame[60];
    bench_new(&b, BASIC, 2);
    VirtioTest *t = &b.t;
    uint32_t at = vt_alloc(t, NULL, 2048);
    vt_add(t, RX, 0, (VtBuffer[]){ { at, 1024, false } }, 1); /* for reading: no place for a frame */
    vt_kick(t, RX);
    make_frame(frame, sizeof(frame), guest_mac);
    peer_send(&b, frame, 60);
    vt_settle(t);
    g_assert_true(vt_read(t, 0x070) & VIRTIO_STATUS_NEEDS_RESET);
    vt_start(t, BASIC, 2);
    vt_add(t, RX, 0, (VtBuffer[]){ { at, 1024, true } }, 1);
    vt_kick(t, RX);
    peer_send(&b, frame, 60);
    vt_take(t, RX, NULL);
    bench_free(&b);
}

static void test_mergeable(void)
{
    Bench b;
    uint8_t frame[300], got[300];
    uint32_t written[4], at[4];
    bench_new(&b, BASIC | 1ull << F_MRG, 2);
    VirtioTest *t = &b.t;
    make_frame(frame, sizeof(frame), guest_mac);
    for (uint16_t i = 0; i < 2; i++) {
        at[i] = vt_alloc(t, NULL, 100);
        vt_add(t, RX, i, (VtBuffer[]){ { at[i], 100, true } }, 1);
    }
    vt_kick(t, RX);
    vt_settle(t);
    peer_send(&b, frame, 300);
    vt_settle(t);
    g_assert_cmpuint(vt_used_idx(t, RX), ==, 0); /* two are not enough, and it is not cut */
    for (uint16_t i = 2; i < 4; i++) {
        at[i] = vt_alloc(t, NULL, 100);
        vt_add(t, RX, i, (VtBuffer[]){ { at[i], 100, true } }, 1);
    }
    vt_kick(t, RX);
    for (uint16_t i = 0; i < 4; i++) {
        g_assert_cmpuint(vt_take(t, RX, &written[i]), ==, i);
    }
    g_assert_cmpuint(written[0], ==, 100);
    g_assert_cmpuint(written[3], ==, 12);
    g_assert_cmpuint(vt_ram(t, at[0] + 10, 2), ==, 4);
    address_space_read(t->as, at[0] + 12, MEMTXATTRS_NONE, got, 88);
    address_space_read(t->as, at[1], MEMTXATTRS_NONE, got + 88, 100);
    address_space_read(t->as, at[2], MEMTXATTRS_NONE, got + 188, 100);
    address_space_read(t->as, at[3], MEMTXATTRS_NONE, got + 288, 12);
    g_assert_cmpmem(got, 300, frame, 300);
    bench_free(&b);
}

static uint8_t control(Bench *b, uint8_t class, uint8_t command, const void *data, uint32_t size)
{
    uint8_t bytes[512] = { class, command };
    memcpy(bytes + 2, data, size);
    uint32_t at = vt_alloc(&b->t, bytes, size + 2), ack = vt_alloc(&b->t, "\xff", 1);
    vt_add(&b->t, CTRL, 0, (VtBuffer[]){ { at, size + 2, false }, { ack, 1, true } }, 2);
    vt_kick(&b->t, CTRL);
    vt_take(&b->t, CTRL, NULL);
    return (uint8_t)vt_ram(&b->t, ack, 1);
}

/* Whether a frame to an address comes through. */
static bool arrives(Bench *b, const uint8_t *to)
{
    uint8_t frame[60];
    uint32_t at = vt_alloc(&b->t, NULL, 128);
    static uint16_t head;
    if (vt_used_idx(&b->t, RX) == b->t.avail[RX]) {
        vt_add(&b->t, RX, head++ % 8, (VtBuffer[]){ { at, 128, true } }, 1);
        vt_kick(&b->t, RX);
    }
    make_frame(frame, sizeof(frame), to);
    uint16_t before = vt_used_idx(&b->t, RX);
    peer_send(b, frame, 60);
    vt_settle(&b->t);
    return vt_used_idx(&b->t, RX) != before;
}

static void test_filters(void)
{
    Bench b;
    static const uint8_t other[6] = { 2, 0, 0, 0, 0, 9 }, group[6] = { 1, 0, 0x5e, 0, 0, 1 },
                         all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    bench_new(&b, CTRL_FEATURES, 3);
    g_assert_true(arrives(&b, other)); /* promiscuous until told otherwise */
    g_assert_cmpuint(control(&b, 0, 0, "\0", 1), ==, 0);
    g_assert_false(arrives(&b, other));
    g_assert_true(arrives(&b, guest_mac));
    g_assert_true(arrives(&b, all));
    g_assert_false(arrives(&b, group));
    uint8_t tables[20] = { 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1 };
    g_assert_cmpuint(control(&b, 1, 0, tables, 20), ==, 0);
    g_assert_true(arrives(&b, other));
    g_assert_true(arrives(&b, group));
    g_assert_cmpuint(control(&b, 1, 0, tables, 19), ==, 1);
    g_assert_cmpuint(control(&b, 1, 0, "\xff\xff\xff\xff", 4), ==, 1);
    g_assert_cmpuint(control(&b, 1, 1, "\x02\0\0\0\0\x22", 6), ==, 0);
    g_assert_false(arrives(&b, guest_mac));
    g_assert_cmphex(vt_config(&b.t, 5, 1), ==, 0x22);
    g_assert_cmpuint(control(&b, 2, 0, "\x05\x00", 2), ==, 0);
    g_assert_cmpuint(control(&b, 2, 0, "\x00\x10", 2), ==, 1); /* VLAN 4096 */
    g_assert_cmpuint(control(&b, 9, 0, "", 0), ==, 1);
    vt_write(&b.t, 0x070, 0);
    g_assert_cmphex(vt_config(&b.t, 5, 1), ==, 0xcc); /* its own address again */
    bench_free(&b);
}

/* A command on queue 4, where the control queue of two pairs is. */
static uint8_t control_mq(Bench *b, uint8_t class, uint8_t command, const void *data, uint32_t size)
{
    uint8_t bytes[64] = { class, command };
    memcpy(bytes + 2, data, size);
    uint32_t at = vt_alloc(&b->t, bytes, size + 2), ack = vt_alloc(&b->t, "\xff", 1);
    vt_add(&b->t, 4, 0, (VtBuffer[]){ { at, size + 2, false }, { ack, 1, true } }, 2);
    vt_kick(&b->t, 4);
    vt_take(&b->t, 4, NULL);
    return (uint8_t)vt_ram(&b->t, ack, 1);
}

/* An UDP frame over IPv4 between a port of the guest and one of the peer. */
static void make_udp(uint8_t *frame, bool from_guest, uint16_t guest_port)
{
    static const uint8_t guest_ip[4] = { 10, 0, 0, 2 }, peer_ip[4] = { 10, 0, 0, 9 };
    uint16_t ports[2] = { htons(from_guest ? guest_port : 53), htons(from_guest ? 53 : guest_port) };
    memset(frame, 0, 60);
    memcpy(frame, from_guest ? (const uint8_t *)"\x02\0\0\0\0\1" : guest_mac, 6);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[23] = 17;
    memcpy(frame + 26, from_guest ? guest_ip : peer_ip, 4);
    memcpy(frame + 30, from_guest ? peer_ip : guest_ip, 4);
    memcpy(frame + 34, ports, 4);
}

static void guest_sends(Bench *b, unsigned pair, uint16_t port)
{
    uint8_t both[72] = { 0 }, got[128];
    make_udp(both + 12, true, port);
    uint32_t at = vt_alloc(&b->t, both, sizeof(both));
    vt_add(&b->t, 2 * pair + 1, 0, (VtBuffer[]){ { at, sizeof(both), false } }, 1);
    vt_kick(&b->t, 2 * pair + 1);
    vt_take(&b->t, 2 * pair + 1, NULL);
    g_assert_cmpint(peer_receive(b, got, sizeof(got)), ==, 60);
}

/* The pair on which an answer comes in, where both have buffers. */
static unsigned answer_arrives_on(Bench *b, uint16_t port)
{
    uint8_t frame[60];
    for (unsigned pair = 0; pair < 2; pair++) {
        if (vt_used_idx(&b->t, 2 * pair) == b->t.avail[2 * pair]) {
            uint32_t at = vt_alloc(&b->t, NULL, 128);
            vt_add(&b->t, 2 * pair, 0, (VtBuffer[]){ { at, 128, true } }, 1);
            vt_kick(&b->t, 2 * pair);
        }
    }
    vt_settle(&b->t);
    uint16_t before = vt_used_idx(&b->t, 2);
    make_udp(frame, false, port);
    peer_send(b, frame, 60);
    vt_settle(&b->t);
    return vt_used_idx(&b->t, 2) != before;
}

static void test_queue_pairs(void)
{
    Bench b;
    g_autoptr(GError) error = NULL;
    bench_new_mq(&b, CTRL_FEATURES | 1ull << F_MQ, 5, 2);
    g_assert_cmpuint(vt_config(&b.t, 8, 2), ==, 2);
    g_assert_cmpuint(answer_arrives_on(&b, 7), ==, 0); /* one pair until the driver says more */
    g_assert_cmpuint(control_mq(&b, 4, 0, "\x03\0", 2), ==, 1);
    g_assert_cmpuint(control_mq(&b, 4, 0, "\0\0", 2), ==, 1);
    g_assert_cmpuint(control_mq(&b, 4, 0, "\x02", 1), ==, 1);
    g_assert_cmpuint(control_mq(&b, 4, 0, "\x02\0", 2), ==, 0);
    for (uint16_t port = 1000; port < 1008; port++) { /* a flow's frames go where it was last sent on */
        guest_sends(&b, port & 1, port);
        g_assert_cmpuint(answer_arrives_on(&b, port), ==, port & 1);
    }
    guest_sends(&b, 0, 1001);
    g_assert_cmpuint(answer_arrives_on(&b, 1001), ==, 0);
    g_autoptr(GByteArray) state = vmstate_save(DEVICE_GET_CLASS(b.t.device)->vmstate, b.t.device, &error);
    guest_sends(&b, 1, 1001);
    g_assert_cmpuint(control_mq(&b, 4, 0, "\x01\0", 2), ==, 0);
    g_assert_cmpuint(answer_arrives_on(&b, 1001), ==, 0);
    bench_free(&b);
    /* The state of two pairs goes into such a card, but not into one with one pair. */
    bench_new_mq(&b, 0, 2, 1);
    g_assert_false(
        vmstate_load(DEVICE_GET_CLASS(b.t.device)->vmstate, b.t.device, state->data, state->len, NULL));
    bench_free(&b);
    /* Without MQ the control queue is number 2, whatever the back end could do. */
    bench_new_mq(&b, CTRL_FEATURES, 3, 2);
    g_assert_cmpuint(control(&b, 0, 0, "\0", 1), ==, 0);
    g_assert_cmpuint(control(&b, 4, 0, "\x01\0", 2), ==, 1);
    bench_free(&b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-net/config", test_config);
    g_test_add_func("/virtio-net/send", test_send);
    g_test_add_func("/virtio-net/checksum", test_checksum);
    g_test_add_func("/virtio-net/receive", test_receive);
    g_test_add_func("/virtio-net/receive-broken", test_receive_broken);
    g_test_add_func("/virtio-net/mergeable", test_mergeable);
    g_test_add_func("/virtio-net/filters", test_filters);
    g_test_add_func("/virtio-net/queue-pairs", test_queue_pairs);
    return g_test_run();
}
