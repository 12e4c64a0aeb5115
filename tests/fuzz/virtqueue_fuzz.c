/*
 * Virtqueues, split and packed, and virtio registers: the input is what a hostile driver does to virtio-rng,
 * -blk, -net (with several queue pairs), -serial, -vsock and -balloon on the MMIO transport: register writes,
 * descriptors, ring entries, notifications, resets. Whatever comes, the devices neither crash nor touch
 * memory that is not theirs. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block.h"
#include "chardev/chardev.h"
#include "hw/virtio/virtio_test.h"
#include "net/net.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DEVICES = 6, MAX_STEPS = 300 };
enum { VSOCK = 4 };

typedef struct Input {
    const uint8_t *at, *end;
} Input;

static VirtioTest benches[DEVICES];
static int net_peer, vsock_peer = -1;
static char *vsock_path;

static uint64_t take(Input *in, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && in->at < in->end; i++) {
        value |= (uint64_t)*in->at++ << (8 * i);
    }
    return value;
}

static void must(bool done, GError *error)
{
    if (!done) {
        g_error("%s", error ? error->message : "set-up failed");
    }
}

static void setup_blk(VirtioTest *t)
{
    g_autoptr(GError) error = NULL;
    vt_new(t, "virtio-blk-device");
    BlockRegistry *blocks = block_registry_new(t->loop, NULL);
    block_property_set_registry(blocks);
    must(blockdev_add_text(blocks, "driver=null-co,node-name=disk,size=1048576", &error), error);
    must(object_property_set_str(t->device, "drive", "disk", &error), error);
    must(object_property_set_uint(t->device, "num-queues", 2, &error), error);
    must(vt_realize(t, &error), error);
}

static void setup_net(VirtioTest *t)
{
    g_autoptr(GError) error = NULL;
    int pair[2];
    vt_new(t, "virtio-net-device");
    NetRegistry *nets = net_registry_new(t->loop, NULL);
    net_property_set_registry(nets);
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0, NULL);
    net_peer = pair[1];
    g_autofree char *text = g_strdup_printf("stream,id=s0,queues=2,addr.type=fd,addr.str=%d", pair[0]);
    must(net_client_add_text(nets, text, &error) != NULL, error);
    must(object_property_set_str(t->device, "netdev", "s0", &error), error);
    must(object_property_set_bool(t->device, "mq", true, &error), error);
    must(object_property_set_bool(t->device, "packed", true, &error), error);
    must(vt_realize(t, &error), error);
}

static void setup_serial(VirtioTest *t)
{
    g_autoptr(GError) error = NULL;
    vt_new(t, "virtio-serial-device");
    must(object_property_set_uint(t->device, "max_ports", 3, &error), error);
    ChardevRegistry *chardevs = chardev_registry_new(t->loop, NULL);
    chardev_property_set_registry(chardevs);
    must(chardev_add_text(chardevs, "ringbuf,id=c0,size=1024", &error) != NULL, error);
    must(vt_realize(t, &error), error);
    Device *console = device_new_unattached(t->root, "virtconsole", NULL);
    must(object_property_set_str(OBJECT(console), "chardev", "c0", &error), error);
    must(device_realize(console, DEVICE(t->device)->child_buses->pdata[0], NULL, &error), error);
}

static void remove_socket(void)
{
    unlink(vsock_path);
}

/* Nobody listens for the guest's connections, but for the host's program on port 5 that the fuzzer plays. */
static void setup_vsock(VirtioTest *t)
{
    g_autoptr(GError) error = NULL;
    vt_new(t, "virtio-vsock-device");
    vsock_path = g_strdup_printf("%s/rhea-fuzz-vsock-%d", g_get_tmp_dir(), (int)getpid());
    must(object_property_set_uint(t->device, "guest-cid", 3, &error), error);
    must(object_property_set_str(t->device, "socket", vsock_path, &error), error);
    must(vt_realize(t, &error), error);
    atexit(remove_socket);
}

static void setup_balloon(VirtioTest *t)
{
    g_autoptr(GError) error = NULL;
    vt_new(t, "virtio-balloon-device");
    must(object_property_set_bool(t->device, "packed", true, &error), error);
    must(object_property_set_bool(t->device, "free-page-reporting", true, &error), error);
    must(vt_realize(t, &error), error);
}

/* Connects and says hello, or goes. */
static void host_program(VirtioTest *t, uint8_t what)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    uint8_t bytes[256] = "CONNECT 5\n";
    if (t != &benches[VSOCK]) {
        return;
    }
    if (vsock_peer < 0) {
        g_strlcpy(addr.sun_path, vsock_path, sizeof(addr.sun_path));
        vsock_peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)!connect(vsock_peer, (struct sockaddr *)&addr, sizeof(addr));
        (void)!send(vsock_peer, bytes, 10, MSG_NOSIGNAL);
    } else if (what & 1) {
        close(vsock_peer);
        vsock_peer = -1;
    } else {
        (void)!send(vsock_peer, bytes, what, MSG_NOSIGNAL);
        while (recv(vsock_peer, bytes, sizeof(bytes), 0) > 0) {}
    }
}

static void setup(void)
{
    vt_new(&benches[0], "virtio-rng-device");
    must(object_property_set_bool(benches[0].device, "packed", true, NULL), NULL);
    must(vt_realize(&benches[0], NULL), NULL);
    setup_vsock(&benches[VSOCK]);
    setup_balloon(&benches[5]);
    setup_blk(&benches[1]);
    setup_net(&benches[2]);
    setup_serial(&benches[3]);
}

static void run(VirtioTest *t)
{
    for (int i = 0; i < 4; i++) {
        loop_iterate(t->loop, false);
    }
}

/* An address that is usually in RAM, sometimes at its end, sometimes anything. */
static uint64_t take_addr(Input *in)
{
    uint8_t kind = (uint8_t)take(in, 1);
    if (kind < 200) {
        return VT_DATA + take(in, 2);
    }
    return kind < 230 ? VT_RAM_SIZE - take(in, 1) : kind < 240 ? VT_MMIO + take(in, 1) : take(in, 8);
}

static void put_descriptor(VirtioTest *t, Input *in)
{
    uint32_t table = vt_desc((unsigned)take(in, 1) % VT_QUEUES);
    if (take(in, 1) < 64) {
        table = VT_INDIRECT;
    }
    uint32_t at = table + 16 * (uint32_t)(take(in, 1) % (2 * VT_QUEUE_SIZE));
    uint64_t addr = take_addr(in);
    uint32_t length = (uint32_t)take(in, 2);
    uint16_t flags = (uint16_t)take(in, 1);
    if (flags & 4) {
        addr = VT_INDIRECT;
        length = (length & 0xf0) | (length & 0x8000 ? length : 0);
    }
    vt_put_desc(t, at, addr, length, flags & 0x87 ? flags & 7 : flags, (uint16_t)take(in, 1) % 18);
}

/* A descriptor of a packed ring, mostly as it would be made available, and where the queue is looked at. */
static void put_packed(VirtioTest *t, Input *in)
{
    unsigned queue = (unsigned)take(in, 1) % VT_QUEUES, slot = (unsigned)take(in, 1) % VT_QUEUE_SIZE;
    uint64_t addr = take_addr(in);
    uint32_t length = (uint32_t)take(in, 2);
    unsigned kind = (unsigned)take(in, 1);
    uint16_t flags = (uint16_t)((kind & 7) | (kind & 8 ? 1u << 15 : 1u << 7));
    if (flags & 4) {
        addr = VT_INDIRECT;
        length &= 0xff0;
    }
    vt_put_desc(t, vt_desc(queue) + 16 * slot, addr, length, (uint16_t)take(in, 1), flags);
    if (kind & 16) {
        vt_kick(t, queue);
    }
}

static void step(VirtioTest *t, Input *in)
{
    unsigned queue;
    switch (take(in, 1) % 14) {
    case 0:
        vt_write(t, 4 * (uint32_t)take(in, 1) % 0x100, (uint32_t)take(in, 4));
        break;
    case 1:
        (void)vt_try_start(t, take(in, 8) | take(in, 1) << 28 | (take(in, 1) & 1) << VIRTIO_F_RING_PACKED,
                           1 + (unsigned)take(in, 1) % VT_QUEUES);
        break;
    case 2:
        address_space_store(t->as, VT_MMIO + 0x100 + take(in, 1), 1u << take(in, 1) % 4, take(in, 4),
                            MEMTXATTRS_NONE);
        break;
    case 3:
        address_space_ld(t->as, VT_MMIO + take(in, 2) % 0x200, 1u << take(in, 1) % 4, MEMTXATTRS_NONE);
        break;
    case 4:
        vt_set_ram(t, VT_RINGS + (uint32_t)take(in, 2) % 0x8000, 1u << take(in, 1) % 4, take(in, 8));
        break;
    case 5:
    case 6:
        queue = (unsigned)take(in, 1) % VT_QUEUES;
        vt_make_available(t, queue, (uint16_t)take(in, 1) % 17);
        vt_kick(t, queue);
        run(t);
        break;
    case 7:
        if (net_peer >= 0 && take(in, 1) < 128) {
            uint8_t frame[64] = { 0, 0, 0, (uint8_t)take(in, 1) % 60 };
            (void)!write(net_peer, frame, 4u + frame[3]);
            while (read(net_peer, frame, sizeof(frame)) > 0) {}
        }
        run(t);
        break;
    case 8:
        vt_set_ram(t, VT_DATA + (uint32_t)take(in, 2), 8, take(in, 8));
        break;
    case 9:
        put_packed(t, in);
        run(t);
        break;
    case 10:
        host_program(t, (uint8_t)take(in, 1));
        run(t);
        break;
    default:
        put_descriptor(t, in);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool ready;
    if (!ready) {
        setup();
        ready = true;
    }
    Input in = { data, data + size };
    VirtioTest *t = &benches[take(&in, 1) % DEVICES];
    device_reset(t->transport);
    memset(t->avail, 0, sizeof(t->avail));
    memset(t->used, 0, sizeof(t->used));
    address_space_set(t->as, 0, 0, VT_DATA + 0x11000, MEMTXATTRS_NONE);
    (void)vt_try_start(t, take(&in, 4) | take(&in, 1) << 28 | (take(&in, 1) & 1) << VIRTIO_F_RING_PACKED,
                       VT_QUEUES);
    for (unsigned i = 0; i < MAX_STEPS && in.at < in.end; i++) {
        step(t, &in);
    }
    run(t);
    return 0;
}
