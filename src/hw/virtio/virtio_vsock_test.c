/* virtio-vsock: connections both ways, flow control, what is broken, state. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "hw/virtio/virtio_test.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { RX, TX, EVENT };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
#define CID    7u
#define HEADER 44u
#define BUFFER (256u << 10)
#define PIECE  8192u

typedef struct __attribute__((packed)) Packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} Packet;

typedef struct Bench {
    VirtioTest t;
    char *path;
    uint32_t rx_at[VT_QUEUE_SIZE];
    uint16_t rx_next;
    uint32_t tx_at;
    uint32_t buf_alloc, fwd_cnt; /* what the guest tells */
} Bench;

static void add_rx(Bench *b)
{
    unsigned slot = b->rx_next++ % VT_QUEUE_SIZE;
    vt_add(&b->t, RX, (uint16_t)slot, (VtBuffer[]){ { b->rx_at[slot], HEADER + PIECE, true } }, 1);
}

static void bench_new(Bench *b, bool start)
{
    g_autoptr(GError) error = NULL;
    memset(b, 0, sizeof(*b));
    static unsigned number;
    b->path = g_strdup_printf("%s/rhea-vsock-%d-%u", g_get_tmp_dir(), (int)getpid(), number++);
    vt_new(&b->t, "virtio-vsock-device");
    object_property_set_str(b->t.device, "socket", b->path, &error);
    object_property_set_uint(b->t.device, "guest-cid", CID, &error);
    g_assert_no_error(error);
    vt_realize(&b->t, &error);
    g_assert_no_error(error);
    b->buf_alloc = 1 << 20;
    b->tx_at = vt_alloc(&b->t, NULL, 70000);
    for (unsigned i = 0; i < VT_QUEUE_SIZE; i++) {
        b->rx_at[i] = vt_alloc(&b->t, NULL, HEADER + PIECE);
    }
    if (start) {
        vt_start(&b->t, 0, 3);
        for (unsigned i = 0; i < VT_QUEUE_SIZE; i++) {
            add_rx(b);
        }
        vt_kick(&b->t, RX);
    }
}

static void bench_free(Bench *b)
{
    vt_free(&b->t);
    g_assert_false(g_file_test(b->path, G_FILE_TEST_EXISTS));
    g_free(b->path);
}

static void send_raw(Bench *b, const Packet *p, const void *data, uint32_t size)
{
    address_space_write(b->t.as, b->tx_at, MEMTXATTRS_NONE, p, sizeof(*p));
    if (size) {
        address_space_write(b->t.as, b->tx_at + HEADER, MEMTXATTRS_NONE, data, size);
    }
    vt_add(&b->t, TX, 0, (VtBuffer[]){ { b->tx_at, HEADER + size, false } }, 1);
    vt_kick(&b->t, TX);
    vt_take(&b->t, TX, NULL);
}

static void guest_send(Bench *b, uint32_t guest_port, uint32_t host_port, uint16_t op, uint32_t flags,
                       const void *data, uint32_t size)
{
    Packet p = { CID, 2, guest_port, host_port, size, 1, op, flags, b->buf_alloc, b->fwd_cnt };
    send_raw(b, &p, data, size);
}

/* The next packet for the guest; false: none comes. */
static bool guest_receive(Bench *b, Packet *p, uint8_t *data)
{
    uint32_t written;
    vt_settle(&b->t);
    if (vt_used_idx(&b->t, RX) == b->t.used[RX]) {
        return false;
    }
    uint32_t at = b->rx_at[vt_take(&b->t, RX, &written)];
    address_space_read(b->t.as, at, MEMTXATTRS_NONE, p, sizeof(*p));
    g_assert_cmpuint(written, ==, HEADER + p->len);
    g_assert_cmpuint(p->src_cid, ==, 2);
    g_assert_cmpuint(p->dst_cid, ==, CID);
    g_assert_cmpuint(p->type, ==, 1);
    if (data) {
        address_space_read(b->t.as, at + HEADER, MEMTXATTRS_NONE, data, p->len);
    }
    add_rx(b);
    vt_kick(&b->t, RX);
    return true;
}

static void expect_op(Bench *b, uint16_t op, Packet *p)
{
    Packet own;
    p = p ? p : &own;
    g_assert_true(guest_receive(b, p, NULL));
    g_assert_cmpuint(p->op, ==, op);
}

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    return addr;
}

static int host_listen(Bench *b, uint32_t port)
{
    g_autofree char *path = g_strdup_printf("%s_%u", b->path, port);
    struct sockaddr_un addr = address_of(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 8), ==, 0);
    return fd;
}

static void host_unlisten(Bench *b, int fd, uint32_t port)
{
    g_autofree char *path = g_strdup_printf("%s_%u", b->path, port);
    close(fd);
    unlink(path);
}

static int host_connect(Bench *b)
{
    struct sockaddr_un addr = address_of(b->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    vt_settle(&b->t);
    return fd;
}

/* Up to `size` bytes that are there now; 0 at the end, -1: none. */
static ssize_t host_read(Bench *b, int fd, void *data, size_t size)
{
    vt_settle(&b->t);
    return recv(fd, data, size, MSG_DONTWAIT);
}

/* A connection from the guest's port 1000 to 52 of the host; its end here. */
static int guest_connection(Bench *b)
{
    int listener = host_listen(b, 52);
    guest_send(b, 1000, 52, REQUEST, 0, NULL, 0);
    expect_op(b, RESPONSE, NULL);
    int fd = accept(listener, NULL, NULL);
    g_assert_cmpint(fd, >=, 0);
    host_unlisten(b, listener, 52);
    return fd;
}

static void test_config(void)
{
    Bench b;
    bench_new(&b, true);
    g_assert_cmpuint(vt_config(&b.t, 0, 8), ==, CID);
    bench_free(&b);
    VirtioTest t;
    g_autoptr(GError) error = NULL;
    vt_new(&t, "virtio-vsock-device");
    g_assert_false(vt_realize(&t, &error));
    g_assert_nonnull(strstr(error->message, "guest-cid"));
    device_unrealize(t.transport);
    irq_free(t.irq);
    vt_machine_free(&t);
}

static void test_from_guest(void)
{
    Bench b;
    Packet p;
    char text[16];
    uint8_t data[PIECE];
    bench_new(&b, true);
    int fd = guest_connection(&b);
    guest_send(&b, 1000, 52, RW, 0, "hello", 5);
    g_assert_cmpint(host_read(&b, fd, text, sizeof(text)), ==, 5);
    g_assert_cmpmem(text, 5, "hello", 5);
    g_assert_cmpint(write(fd, "welcome", 7), ==, 7);
    g_assert_true(guest_receive(&b, &p, data));
    g_assert_cmpuint(p.op, ==, RW);
    g_assert_cmpuint(p.src_port, ==, 52);
    g_assert_cmpuint(p.dst_port, ==, 1000);
    g_assert_cmpuint(p.buf_alloc, ==, BUFFER);
    g_assert_cmpuint(p.fwd_cnt, ==, 5);
    g_assert_cmpmem(data, p.len, "welcome", 7);
    /* Half closed by the guest, then whole. */
    guest_send(&b, 1000, 52, SHUTDOWN, 2, NULL, 0);
    g_assert_cmpint(host_read(&b, fd, text, sizeof(text)), ==, 0);
    g_assert_cmpint(write(fd, "more", 4), ==, 4);
    expect_op(&b, RW, NULL);
    guest_send(&b, 1000, 52, SHUTDOWN, 3, NULL, 0);
    expect_op(&b, RST, NULL);
    g_assert_false(guest_receive(&b, &p, NULL));
    close(fd);
    /* Nobody listens. */
    guest_send(&b, 1000, 53, REQUEST, 0, NULL, 0);
    expect_op(&b, RST, &p);
    g_assert_cmpuint(p.src_port, ==, 53);
    bench_free(&b);
}

static void test_from_host(void)
{
    Bench b;
    Packet p;
    char text[64];
    bench_new(&b, true);
    int fd = host_connect(&b);
    g_assert_cmpint(write(fd, "CONN", 4), ==, 4);
    vt_settle(&b.t);
    g_assert_cmpint(write(fd, "ECT 5000\nearly", 14), ==, 14); /* what follows is data */
    expect_op(&b, REQUEST, &p);
    g_assert_cmpuint(p.dst_port, ==, 5000);
    g_assert_cmpint(host_read(&b, fd, text, sizeof(text)), ==, -1);
    guest_send(&b, 5000, p.src_port, RESPONSE, 0, NULL, 0);
    ssize_t size = host_read(&b, fd, text, sizeof(text) - 1);
    g_assert_cmpint(size, >, 0);
    text[size] = 0;
    g_autofree char *want = g_strdup_printf("OK %u\n", p.src_port);
    g_assert_cmpstr(text, ==, want);
    uint8_t data[PIECE];
    g_assert_true(guest_receive(&b, &p, data));
    g_assert_cmpmem(data, p.len, "early", 5);
    close(fd); /* altogether */
    expect_op(&b, SHUTDOWN, &p);
    g_assert_cmpuint(p.flags, ==, 3);
    guest_send(&b, 5000, p.src_port, RST, 0, NULL, 0);
    g_assert_false(guest_receive(&b, &p, NULL));
    /* The guest refuses: its end is closed. */
    fd = host_connect(&b);
    g_assert_cmpint(write(fd, "CONNECT 6\n", 10), ==, 10);
    expect_op(&b, REQUEST, &p);
    guest_send(&b, 6, p.src_port, RST, 0, NULL, 0);
    g_assert_cmpint(host_read(&b, fd, text, sizeof(text)), ==, 0);
    close(fd);
    bench_free(&b);
}

/* Greetings that are none end the connection, and the guest hears nothing of it. */
static void test_greetings(void)
{
    static const char *const bad[] = { "CONNECT\n",
                                       "CONNECT -5\n",
                                       "CONNECT 5 \n",
                                       "HELLO 5\n",
                                       "connect 5\n",
                                       "\n",
                                       "CONNECT 00000000000000000000000000000000000000005\n" };
    Bench b;
    Packet p;
    char text[16];
    bench_new(&b, true);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        int fd = host_connect(&b);
        g_assert_cmpint(write(fd, bad[i], strlen(bad[i])), ==, (ssize_t)strlen(bad[i]));
        ssize_t n = host_read(&b, fd, text, sizeof(text));
        g_assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
        g_assert_false(guest_receive(&b, &p, NULL));
        close(fd);
    }
    bench_free(&b);
}

/* The host's program sends more than the guest has room for. */
static void test_credit_of_guest(void)
{
    Bench b;
    Packet p;
    uint8_t data[PIECE];
    bench_new(&b, true);
    b.buf_alloc = 100;
    int fd = guest_connection(&b);
    memset(data, 0x5a, 1000);
    g_assert_cmpint(write(fd, data, 1000), ==, 1000);
    g_assert_true(guest_receive(&b, &p, data));
    g_assert_cmpuint(p.len, ==, 100);
    g_assert_false(guest_receive(&b, &p, data));
    b.fwd_cnt = 60;
    guest_send(&b, 1000, 52, CREDIT_UPDATE, 0, NULL, 0);
    g_assert_true(guest_receive(&b, &p, data));
    g_assert_cmpuint(p.len, ==, 60);
    b.fwd_cnt = 160;
    b.buf_alloc = 4096;
    guest_send(&b, 1000, 52, CREDIT_REQUEST, 0, NULL, 0);
    uint32_t got = 160;
    bool told = false;
    while (guest_receive(&b, &p, data)) {
        told = told || p.op == CREDIT_UPDATE || p.op == RW; /* both tell the room */
        got += p.len;
    }
    g_assert_cmpuint(got, ==, 1000);
    g_assert_true(told);
    close(fd);
    bench_free(&b);
}

/* The guest sends more than the host's program takes: it is told of every byte of room, and reset where it
 * ignores it. */
static void test_credit_of_host(void)
{
    Bench b;
    Packet p;
    static uint8_t data[60000], got[60000];
    bench_new(&b, true);
    int fd = guest_connection(&b);
    uint32_t sent = 0, read_bytes = 0, allowed = BUFFER;
    for (unsigned i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 13);
    }
    while (read_bytes < 3u * BUFFER) { /* far more than fits, by the rules */
        while (sent + sizeof(data) <= allowed) {
            guest_send(&b, 1000, 52, RW, 0, data, sizeof(data));
            sent += sizeof(data);
        }
        ssize_t n = host_read(&b, fd, got, sizeof(got));
        g_assert_cmpint(n, >, 0);
        for (ssize_t i = 0; i < n; i++) {
            g_assert_cmpuint(got[i], ==, (uint8_t)((read_bytes + (unsigned)i) % sizeof(data) * 13));
        }
        read_bytes += (uint32_t)n;
        while (guest_receive(&b, &p, NULL)) {
            g_assert_cmpuint(p.op, ==, CREDIT_UPDATE);
            allowed = p.fwd_cnt + BUFFER;
        }
    }
    bool reset = false;
    for (int i = 0; i < 20 && !reset; i++) { /* and against them */
        guest_send(&b, 1000, 52, RW, 0, data, sizeof(data));
        while (guest_receive(&b, &p, NULL)) {
            reset = reset || p.op == RST;
        }
    }
    g_assert_true(reset);
    close(fd);
    bench_free(&b);
}

static void test_bad_packets(void)
{
    Bench b;
    Packet p;
    bench_new(&b, true);
    const Packet bad[] = {
        { CID, 2, 1, 52, 0, 2, REQUEST, 0, 0, 0 }, /* SEQPACKET was not offered */
        { CID, 2, 1, 52, 0, 1, 99, 0, 0, 0 },      /* no such operation */
        { CID, 2, 1, 52, 100, 1, RW, 0, 0, 0 },    /* more than there is, and no connection */
        { CID, 2, 1, 52, 0, 1, CREDIT_UPDATE, 0, 0, 0 },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        send_raw(&b, &bad[i], NULL, 0);
        expect_op(&b, RST, NULL);
    }
    const Packet ignored[] = {
        { CID, 9, 1, 52, 0, 1, REQUEST, 0, 0, 0 }, /* for another */
        { 8, 2, 1, 52, 0, 1, REQUEST, 0, 0, 0 },   /* from another */
        { CID, 2, 1, 52, 0, 1, RST, 0, 0, 0 },     /* a reset is not answered */
    };
    for (size_t i = 0; i < G_N_ELEMENTS(ignored); i++) {
        send_raw(&b, &ignored[i], NULL, 0);
        g_assert_false(guest_receive(&b, &p, NULL));
    }
    /* On a connection that is there. */
    int fd = guest_connection(&b);
    char byte;
    guest_send(&b, 1000, 52, RESPONSE, 0, NULL, 0);
    expect_op(&b, RST, NULL);
    g_assert_cmpint(host_read(&b, fd, &byte, 1), ==, 0);
    close(fd);
    fd = guest_connection(&b);
    const Packet lies = { CID, 2, 1000, 52, 60000, 1, RW, 0, 0, 0 };
    send_raw(&b, &lies, "x", 1);
    expect_op(&b, RST, NULL);
    close(fd);
    /* A packet without a whole header breaks the device's rules. */
    vt_add(&b.t, TX, 0, (VtBuffer[]){ { b.tx_at, 43, false } }, 1);
    vt_kick(&b.t, TX);
    vt_settle(&b.t);
    g_assert_true(vt_read(&b.t, 0x070) & VIRTIO_STATUS_NEEDS_RESET);
    bench_free(&b);
}

static void test_reset(void)
{
    Bench b;
    char byte;
    bench_new(&b, true);
    int fd = guest_connection(&b);
    vt_write(&b.t, 0x070, 0);
    g_assert_cmpint(host_read(&b, fd, &byte, 1), ==, 0);
    close(fd);
    bench_free(&b);
}

/* After a load connections are gone, and the guest hears of it. */
static void test_state(void)
{
    Bench a, b;
    g_autoptr(GError) error = NULL;
    bench_new(&a, true);
    uint32_t event = vt_alloc(&a.t, "\xff\xff\xff\xff", 4);
    vt_add(&a.t, EVENT, 0, (VtBuffer[]){ { event, 4, true } }, 1);
    vt_kick(&a.t, EVENT);
    int fd = guest_connection(&a);
    g_autoptr(GByteArray) state = vmstate_save(DEVICE_GET_CLASS(a.t.device)->vmstate, a.t.device, &error);
    g_assert_no_error(error);
    bench_new(&b, false);
    memcpy(b.t.ram.ram->host, a.t.ram.ram->host, VT_RAM_SIZE);
    memcpy(b.t.avail, a.t.avail, sizeof(b.t.avail));
    memcpy(b.t.used, a.t.used, sizeof(b.t.used));
    b.rx_next = a.rx_next;
    g_assert_true(
        vmstate_load(DEVICE_GET_CLASS(b.t.device)->vmstate, b.t.device, state->data, state->len, &error));
    g_assert_no_error(error);
    uint32_t written;
    vt_take(&b.t, EVENT, &written);
    g_assert_cmpuint(written, ==, 4);
    g_assert_cmpuint(vt_ram(&b.t, event, 4), ==, 0);
    guest_send(&b, 1000, 52, RW, 0, "x", 1);
    expect_op(&b, RST, NULL);
    close(fd);
    bench_free(&b);
    bench_free(&a);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-vsock/config", test_config);
    g_test_add_func("/virtio-vsock/from-guest", test_from_guest);
    g_test_add_func("/virtio-vsock/from-host", test_from_host);
    g_test_add_func("/virtio-vsock/greetings", test_greetings);
    g_test_add_func("/virtio-vsock/credit-of-guest", test_credit_of_guest);
    g_test_add_func("/virtio-vsock/credit-of-host", test_credit_of_host);
    g_test_add_func("/virtio-vsock/bad-packets", test_bad_packets);
    g_test_add_func("/virtio-vsock/reset", test_reset);
    g_test_add_func("/virtio-vsock/state", test_state);
    return g_test_run();
}
