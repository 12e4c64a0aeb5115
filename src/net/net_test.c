/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/net.h"

#include "base/error.h"

#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct Card {
    NetNic nic;
    HomeLock lock;
    GPtrArray *frames; /* of GBytes * */
    bool full, link_up;
    int writable;
} Card;

static bool card_can_receive(void *opaque, int queue)
{
    Card *c = opaque;
    g_assert_true(home_lock_held(&c->lock));
    return !c->full;
}

static ssize_t card_receive(void *opaque, int queue, const struct iovec *iov, int iov_count)
{
    Card *c = opaque;
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    for (int i = 0; i < iov_count; i++) {
        g_byte_array_append(bytes, iov[i].iov_base, iov[i].iov_len);
    }
    g_ptr_array_add(c->frames, g_bytes_new(bytes->data, bytes->len));
    return bytes->len;
}

static void card_link(void *opaque, bool up)
{
    ((Card *)opaque)->link_up = up;
}

static void card_writable(void *opaque, int queue)
{
    ((Card *)opaque)->writable++;
}

static const NetNicOps card_ops = { card_can_receive, card_receive, card_link, card_writable };

typedef struct Fixture {
    Loop *loop;
    FdTable *fds;
    NetRegistry *reg;
    Card card;
} Fixture;

static void setup(Fixture *f, gconstpointer data)
{
    f->loop = loop_new(NULL, NULL);
    f->fds = fd_table_new();
    f->reg = net_registry_new(f->loop, f->fds);
    net_property_set_registry(f->reg);
    home_lock_init(&f->card.lock);
    f->card.frames = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    f->card.link_up = true;
}

static void teardown(Fixture *f, gconstpointer data)
{
    net_nic_deinit(&f->card.nic);
    net_registry_free(f->reg);
    fd_table_free(f->fds);
    loop_free(f->loop);
    g_ptr_array_unref(f->card.frames);
    home_lock_destroy(&f->card.lock);
}

/* Puts the card on a client as the property does. */
static void plug(Fixture *f, const char *id)
{
    Object *holder = object_new_known(TYPE_CONTAINER);
    json_object *text = json_object_new_string(id);
    g_autoptr(Visitor) v = visitor_new_input(text, false);
    g_autoptr(GError) error = NULL;
    const Property prop = { .name = "netdev", .type = &property_type_netdev };
    g_assert_true(property_type_netdev.set(holder, v, NULL, &prop, &f->card.nic, &error));
    g_assert_no_error(error);
    MacAddr mac = { { 0 } };
    net_macaddr_default_if_unset(&mac);
    g_assert_true(
        net_nic_init(&f->card.nic, &card_ops, &f->card, &f->card.lock, &mac, "test-card", NULL, &error));
    json_object_put(text);
    object_unref(holder);
}

static void run_until(Fixture *f, guint frames)
{
    gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;
    while (f->card.frames->len < frames && g_get_monotonic_time() < end) {
        if (!loop_iterate(f->loop, false)) {
            g_usleep(200);
        }
    }
}

static void run_a_while(Fixture *f)
{
    for (int i = 0; i < 50; i++) {
        loop_iterate(f->loop, false);
        g_usleep(200);
    }
}

/* Sends as a device does: with its lock held. */
static ssize_t card_send(Card *c, const void *data, size_t size)
{
    const struct iovec iov = { .iov_base = (void *)data, .iov_len = size };
    home_lock(&c->lock);
    ssize_t sent = net_nic_send(&c->nic, 0, &iov, 1);
    home_unlock(&c->lock);
    return sent;
}

static void open_stream(Fixture *f, int *peer)
{
    int pair[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    g_autofree char *text = g_strdup_printf("stream,id=s0,addr.type=fd,addr.str=%d", pair[0]);
    g_autoptr(GError) error = NULL;
    g_assert_nonnull(net_client_add_text(f->reg, text, &error));
    g_assert_no_error(error);
    *peer = pair[1];
    plug(f, "s0");
}

static void assert_frame(const Card *c, guint i, const char *want)
{
    gsize size;
    const char *data = g_bytes_get_data(c->frames->pdata[i], &size);
    g_assert_cmpmem(data, size, want, strlen(want));
}

static void test_stream(Fixture *f, gconstpointer data)
{
    int peer;
    open_stream(f, &peer);

    g_assert_cmpint(card_send(&f->card, "to the peer", 11), ==, 11);
    run_a_while(f);
    char got[64];
    g_assert_cmpint(read(peer, got, sizeof(got)), ==, 15);
    g_assert_cmpmem(got, 15, "\0\0\0\x0bto the peer", 15);

    /* Two frames, the second one cut; then its rest. */
    g_assert_cmpint(write(peer, "\0\0\0\3one\0\0\0\5th", 13), ==, 13);
    run_until(f, 1);
    run_a_while(f);
    g_assert_cmpuint(f->card.frames->len, ==, 1);
    assert_frame(&f->card, 0, "one");
    g_assert_cmpint(write(peer, "ree", 3), ==, 3);
    run_until(f, 2);
    assert_frame(&f->card, 1, "three");

    /* A full card gets nothing until it says so, and then loses nothing. */
    f->card.full = true;
    g_assert_cmpint(write(peer, "\0\0\0\1a\0\0\0\1b", 10), ==, 10);
    run_a_while(f);
    g_assert_cmpuint(f->card.frames->len, ==, 2);
    f->card.full = false;
    net_nic_accept_input(&f->card.nic, 0);
    run_until(f, 4);
    g_assert_cmpuint(f->card.frames->len, ==, 4);
    assert_frame(&f->card, 3, "b");

    /* A length that no frame has ends the connection; sending goes nowhere, and that is no error. */
    g_assert_cmpint(write(peer, "\xff\xff\xff\xff", 4), ==, 4);
    run_a_while(f);
    g_assert_cmpint(read(peer, got, sizeof(got)), ==, 0);
    g_assert_cmpint(card_send(&f->card, "x", 1), ==, 1);
    close(peer);
}

static void test_stream_backpressure(Fixture *f, gconstpointer data)
{
    int peer;
    open_stream(f, &peer);
    static const uint8_t frame[1500];
    int taken = 0;
    while (card_send(&f->card, frame, sizeof(frame)) > 0) {
        g_assert_cmpint(++taken, <, 100000);
        loop_iterate(f->loop, false);
    }
    run_a_while(f);
    g_assert_cmpint(f->card.writable, ==, 0); /* nobody reads */
    uint8_t sink[65536];
    gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;
    while (f->card.writable == 0 && g_get_monotonic_time() < end) {
        (void)!recv(peer, sink, sizeof(sink), MSG_DONTWAIT);
        loop_iterate(f->loop, false);
    }
    g_assert_cmpint(f->card.writable, >, 0);
    close(peer);
}

static void test_link_and_removal(Fixture *f, gconstpointer data)
{
    int peer;
    open_stream(f, &peer);
    g_autoptr(GError) error = NULL;
    g_assert_true(net_set_link(f->reg, "test-card.0", false, &error));
    g_assert_false(f->card.link_up);
    g_assert_cmpint(card_send(&f->card, "lost", 4), ==, 4);
    run_a_while(f);
    char got[8];
    g_assert_cmpint(recv(peer, got, sizeof(got), MSG_DONTWAIT), ==, -1);
    g_assert_true(net_set_link(f->reg, "test-card.0", true, &error));
    g_assert_true(f->card.link_up);
    g_assert_false(net_set_link(f->reg, "nobody", true, &error));
    g_assert_error(error, RHEA_ERROR, ERROR_CLASS_DEVICE_NOT_FOUND);
    g_clear_error(&error);

    g_autofree char *info = net_info(f->reg);
    g_assert_nonnull(strstr(info, "test-card.0: index=0,type=nic,model=test-card,macaddr=52:54:00:12:34:56"));
    g_assert_nonnull(strstr(info, "s0: index=0,type=stream"));

    g_assert_true(net_client_remove(f->reg, "s0", &error));
    g_assert_false(f->card.link_up);
    g_assert_cmpint(card_send(&f->card, "gone", 4), ==, 4);
    close(peer);
}

static void test_bad_options(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        { "usre,id=n", "usre" },
        { "stream,id=n", "addr" },
        { "user", "id" },
        { "user,id=n,hostfwd=tcp::x-:22", "tcp::x-:22" },
        { "user,id=n,net=10.0.0", "10.0.0" },
        { "user,id=n,dns=1.2.3.4", "dns" },
        { "user,id=n,hostfwt=1", "hostfwt" },
        { "tap,id=n,fd=9999", "9999" },
        { "vhost-user,id=n", "vhost-user" },
        { "dgram,id=n", "Supported: " },
        { "id=n", "'type' is missing" },
        { "user,id=n,restrict=perhaps", "'restrict' expects" },
        { "user,id=n,hostfwt=1", "Did you mean 'hostfwd'" },
        { "tap,id=n,queues=some", "'queues' expects integer" },
        { "tap,id=n,queues=0", "'queues' must be between 1 and 16" },
        { "user,id=n,queues=17", "'queues' must be between 1 and 16" },
        { "tap,id=n,fds=9998:9999,queues=2", "do not go with" },
        { "tap,id=n,fds=9998:9999", "9998" },
        { "stream,id=n,addr.type=unix", "'addr.path' is missing" },
        { "stream,id=n,addr.type=unix,addr.path=/nonexistent/s", "/nonexistent/s" },
        { "{\"type\":\"user\",\"id\":\"n\",\"restrict\":\"on\"}", "'restrict', expected: boolean" },
        { "{\"type\":\"user\",\"id\":\"n\",\"hostfwd\":[\"tcp::0-:22\"]}", "'hostfwd[0]', expected: object" },
        { "{\"type\":\"user\",\"id\":\"n\",\"hsotname\":\"x\"}", "Did you mean 'hostname'" },
        { "{\"type\":\"user\",\"id\":7}", "'id', expected: string" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(net_client_add_text(f->reg, cases[i].text, &error));
        g_assert_nonnull(error);
        g_assert_nonnull(strstr(error->message, cases[i].part));
    }
}

static void test_mac(void)
{
    MacAddr mac;
    g_assert_true(net_parse_mac("52:54:00:ab:cd:EF", &mac, NULL));
    g_autofree char *text = net_format_mac(&mac);
    g_assert_cmpstr(text, ==, "52:54:00:ab:cd:ef");
    g_assert_false(net_parse_mac("52:54:00:ab:cd", &mac, NULL));
    g_assert_false(net_parse_mac("52:54:00:ab:cd:ef:", &mac, NULL));
    g_assert_false(net_parse_mac("52:54:00:ab:cd:e", &mac, NULL));
}

static void test_checksum(void)
{
    /* RFC 1071's own example, behind two bytes that do not count: the sum is ddf2. */
    uint8_t frame[] = { 0xaa, 0xaa, 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0x00, 0x00 };
    g_assert_true(net_finish_checksum(frame, sizeof(frame), 2, 8));
    g_assert_cmphex(frame[10] << 8 | frame[11], ==, 0xffff & ~0xddf2);
    g_assert_false(net_finish_checksum(frame, sizeof(frame), 2, 9));
    g_assert_false(net_finish_checksum(frame, sizeof(frame), 13, 0));
    g_assert_false(net_finish_checksum(frame, sizeof(frame), 0xffff, 0xffff));
}

/* The gateway answers ARP, and a forwarded host port reaches the guest as a SYN. */
static void test_user(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    if (!g_strv_contains(net_client_types(), "user")) {
        g_test_skip("libslirp is not built in");
        return;
    }
    g_assert_nonnull(net_client_add_text(f->reg, "user,id=u0,net=192.168.76.0/24", &error));
    g_assert_no_error(error);
    plug(f, "u0");
    static const uint8_t arp[42] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x08, 0x06,
        0x00, 0x01, 0x08, 0x00, 6,    4,    0x00, 0x01, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56,
        192,  168,  76,   15,   0,    0,    0,    0,    0,    0,    192,  168,  76,   2,
    };
    g_assert_cmpint(card_send(&f->card, arp, sizeof(arp)), ==, sizeof(arp));
    run_until(f, 1);
    g_assert_cmpuint(f->card.frames->len, >=, 1);
    gsize size;
    const uint8_t *reply = g_bytes_get_data(f->card.frames->pdata[0], &size);
    g_assert_cmpuint(size, >=, 42);
    g_assert_cmphex(reply[12] << 8 | reply[13], ==, 0x0806);
    g_assert_cmpuint(reply[21], ==, 2);          /* a reply */
    g_assert_cmpmem(reply + 28, 4, arp + 38, 4); /* from whom was asked for */
    g_autofree char *info = net_info_usernet(f->reg);
    g_assert_nonnull(strstr(info, "u0"));
}

/* Several queues of a tap interface that the kernel makes for us: frames leave on each of them. Where that is
 * not allowed, nothing is tested. */
static void test_tap_queues(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    uint8_t frame[60] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x88, 0xb5
    };
    if (!net_client_add_text(f->reg, "tap,id=t0,queues=3", &error)) {
        g_test_skip(error->message);
        return;
    }
    plug(f, "t0");
    g_assert_cmpint(net_nic_queues(&f->card.nic), ==, 3);
    g_autofree char *info = net_info(f->reg);
    g_assert_nonnull(strstr(info, ",queues=3"));
    char name[IFNAMSIZ] = { 0 };
    g_assert_cmpint(sscanf(strstr(info, "ifname="), "ifname=%15[^,\n]", name), ==, 1);
    g_autofree char *command = g_strdup_printf("/sys/class/net/%s/statistics/rx_packets", name);
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = { .ifr_flags = IFF_UP };
    memcpy(request.ifr_name, name, sizeof(name));
    g_assert_cmpint(ioctl(sock, SIOCSIFFLAGS, &request), ==, 0);
    close(sock);
    net_nic_set_active_queues(&f->card.nic, 2);
    g_assert_true(net_nic_set_vnet_header(&f->card.nic, 0, &error));
    for (int queue = 0; queue < 2; queue++) {
        const struct iovec iov = { frame, sizeof(frame) };
        g_assert_cmpint(net_nic_send(&f->card.nic, queue, &iov, 1), ==, sizeof(frame));
    }
    g_autofree char *count = NULL;
    g_assert_true(g_file_get_contents(command, &count, NULL, NULL));
    g_assert_cmpint(atoi(count), ==, 2);
    /* One queue more, and one less, than is attached. */
    net_nic_set_active_queues(&f->card.nic, 3);
    net_nic_set_active_queues(&f->card.nic, 1);
    run_a_while(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, fn) g_test_add("/net/" name, Fixture, NULL, setup, fn, teardown)
    ADD("stream", test_stream);
    ADD("stream-backpressure", test_stream_backpressure);
    ADD("link-and-removal", test_link_and_removal);
    ADD("bad-options", test_bad_options);
    ADD("user", test_user);
    ADD("tap-queues", test_tap_queues);
    g_test_add_func("/net/mac", test_mac);
    g_test_add_func("/net/checksum", test_checksum);
    return g_test_run();
}
