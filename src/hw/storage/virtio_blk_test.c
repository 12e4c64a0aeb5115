/* virtio-blk: requests of every kind through its queues, on a file. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block.h"
#include "hw/virtio/virtio_test.h"
#include "loop/iothread.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPP = 2 };
#define ALL_FEATURES (UINT64_MAX & ~(1ull << VIRTIO_F_ACCESS_PLATFORM))
#define DISK_SIZE    (1u << 20)

typedef struct Bench {
    VirtioTest t;
    BlockRegistry *blocks;
    char *path;
    uint16_t head;
} Bench;

/* options: ",readonly=on" and the like for the block node. */
static void bench_new(Bench *b, const char *options, GError **error)
{
    memset(b, 0, sizeof(*b));
    vt_new(&b->t, "virtio-blk-device");
    b->path = g_strdup_printf("%s/rhea-blk-test-%d", g_get_tmp_dir(), (int)getpid());
    int fd = open(b->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_assert_cmpint(ftruncate(fd, DISK_SIZE), ==, 0);
    g_assert_cmpint(pwrite(fd, "the first sector", 16, 0), ==, 16);
    close(fd);
    b->blocks = block_registry_new(b->t.loop, NULL);
    block_property_set_registry(b->blocks);
    g_autofree char *text = g_strdup_printf("driver=file,node-name=disk,filename=%s%s", b->path, options);
    if (!blockdev_add_text(b->blocks, text, error)) {
        g_error("%s", (*error)->message);
    }
    g_assert_true(object_property_set_str(b->t.device, "drive", "disk", error));
}

static void bench_start(Bench *b, uint64_t features, unsigned queues)
{
    g_autoptr(GError) error = NULL;
    vt_realize(&b->t, &error);
    g_assert_no_error(error);
    vt_start(&b->t, features, queues);
}

static void bench_free(Bench *b)
{
    device_unrealize(DEVICE(b->t.device));
    block_property_set_registry(NULL);
    device_unrealize(b->t.transport);
    irq_free(b->t.irq);
    object_unref(b->t.root);
    b->t.root = NULL;
    block_registry_free(b->blocks);
    b->t.root = object_root_new();
    vt_machine_free(&b->t);
    unlink(b->path);
    g_free(b->path);
}

/* Makes a request and waits; data is read or written in place. Returns the status byte. */
static uint8_t request(Bench *b, unsigned queue, uint32_t type, uint64_t sector, uint32_t data, uint32_t size,
                       bool in)
{
    VirtioTest *t = &b->t;
    uint8_t header[16] = { 0 };
    memcpy(header, &type, 4);
    memcpy(header + 8, &sector, 8);
    uint32_t header_at = vt_alloc(t, header, sizeof(header)), status = vt_alloc(t, "\xff", 1), written;
    VtBuffer buffers[3] = { { header_at, 16, false }, { data, size, in }, { status, 1, true } };
    if (!size) {
        buffers[1] = buffers[2];
    }
    vt_add(t, queue, 0, buffers, size ? 3 : 2);
    vt_kick(t, queue);
    g_assert_cmpuint(vt_take(t, queue, &written), ==, 0);
    g_assert_cmpuint(written, >=, 1);
    return (uint8_t)vt_ram(t, status, 1);
}

static void test_transfer(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, "", &error);
    bench_start(&b, ALL_FEATURES, 1);
    VirtioTest *t = &b.t;
    g_assert_cmpuint(vt_config(t, 0, 8), ==, DISK_SIZE / 512);
    g_assert_cmpuint(vt_config(t, 20, 4), ==, 512);
    g_assert_cmpuint(vt_config(t, 34, 2), ==, 1);
    char text[16];
    uint32_t data = vt_alloc(t, NULL, 4096);
    g_assert_cmpuint(request(&b, 0, IN, 0, data, 4096, true), ==, OK);
    address_space_read(t->as, data, MEMTXATTRS_NONE, text, 16);
    g_assert_cmpmem(text, 16, "the first sector", 16);
    address_space_write(t->as, data, MEMTXATTRS_NONE, "written by guest", 16);
    g_assert_cmpuint(request(&b, 0, OUT, 8, data, 4096, false), ==, OK);
    g_assert_cmpuint(request(&b, 0, FLUSH, 0, 0, 0, false), ==, OK);
    int fd = open(b.path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(pread(fd, text, 16, 4096), ==, 16);
    g_assert_cmpmem(text, 16, "written by guest", 16);
    close(fd);
    /* Beyond the end, half sectors, unknown requests. */
    g_assert_cmpuint(request(&b, 0, IN, DISK_SIZE / 512 - 1, data, 1024, true), ==, IOERR);
    g_assert_cmpuint(request(&b, 0, OUT, DISK_SIZE / 512, data, 512, false), ==, IOERR);
    g_assert_cmpuint(request(&b, 0, IN, UINT64_MAX, data, 512, true), ==, IOERR);
    g_assert_cmpuint(request(&b, 0, IN, UINT64_MAX / 512, data, 512, true), ==, IOERR);
    g_assert_cmpuint(request(&b, 0, IN, 0, data, 100, true), ==, IOERR);
    g_assert_cmpuint(request(&b, 0, 77, 0, data, 512, true), ==, UNSUPP);
    bench_free(&b);
}

static void test_id_and_properties(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, "", &error);
    object_property_set_str(b.t.device, "serial", "S3R1AL", &error);
    object_property_set_uint(b.t.device, "num-queues", 3, &error);
    object_property_parse(b.t.device, "logical_block_size", "4096", &error);
    object_property_parse(b.t.device, "opt_io_size", "64k", &error);
    g_assert_no_error(error);
    bench_start(&b, ALL_FEATURES, 3);
    VirtioTest *t = &b.t;
    uint32_t data = vt_alloc(t, NULL, 4096);
    g_assert_cmpuint(request(&b, 2, GET_ID, 0, data, 20, true), ==, OK);
    char id[20];
    address_space_read(t->as, data, MEMTXATTRS_NONE, id, sizeof(id));
    g_assert_cmpstr(id, ==, "S3R1AL");
    g_assert_cmpuint(request(&b, 2, GET_ID, 0, data, 10, true), ==, IOERR);
    g_assert_cmpuint(vt_config(t, 34, 2), ==, 3);
    g_assert_cmpuint(vt_config(t, 20, 4), ==, 4096);
    g_assert_cmpuint(vt_config(t, 28, 4), ==, 16);
    g_assert_cmpuint(request(&b, 1, IN, 1, data, 4096, true), ==, IOERR); /* not at a block's start */
    g_assert_cmpuint(request(&b, 1, IN, 8, data, 4096, true), ==, OK);
    /* The write cache is switched through the configuration space. */
    g_assert_cmpuint(vt_config(t, 32, 1), ==, 1);
    address_space_store(t->as, VT_MMIO + 0x100 + 32, 1, 0, MEMTXATTRS_NONE);
    g_assert_cmpuint(vt_config(t, 32, 1), ==, 0);
    vt_write(t, 0x070, 0);
    g_assert_cmpuint(vt_config(t, 32, 1), ==, 1);
    bench_free(&b);
}

static void test_discard_and_zeroes(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, ",discard=unmap", &error);
    bench_start(&b, ALL_FEATURES, 1);
    VirtioTest *t = &b.t;
    uint32_t data = vt_alloc(t, NULL, 4096);
    address_space_set(t->as, data, 0x5a, 4096, MEMTXATTRS_NONE);
    g_assert_cmpuint(request(&b, 0, OUT, 16, data, 4096, false), ==, OK);
    struct {
        uint64_t sector;
        uint32_t sectors, flags;
    } segment = { 16, 4, 1 };
    uint32_t at = vt_alloc(t, &segment, 16);
    g_assert_cmpuint(request(&b, 0, WRITE_ZEROES, 0, at, 16, false), ==, OK);
    g_assert_cmpuint(request(&b, 0, IN, 16, data, 4096, true), ==, OK);
    g_assert_cmphex(vt_ram(t, data + 2047, 1), ==, 0);
    g_assert_cmphex(vt_ram(t, data + 2048, 1), ==, 0x5a);
    segment.flags = 0;
    at = vt_alloc(t, &segment, 16);
    g_assert_cmpuint(request(&b, 0, DISCARD, 0, at, 16, false), ==, OK);
    g_assert_cmpuint(request(&b, 0, DISCARD, 0, at, 15, false), ==, UNSUPP);
    segment.flags = 1; /* unmap belongs to write-zeroes */
    at = vt_alloc(t, &segment, 16);
    g_assert_cmpuint(request(&b, 0, DISCARD, 0, at, 16, false), ==, UNSUPP);
    segment.flags = 4;
    at = vt_alloc(t, &segment, 16);
    g_assert_cmpuint(request(&b, 0, WRITE_ZEROES, 0, at, 16, false), ==, UNSUPP);
    segment.flags = 0;
    segment.sector = DISK_SIZE / 512 - 1;
    at = vt_alloc(t, &segment, 16);
    g_assert_cmpuint(request(&b, 0, WRITE_ZEROES, 0, at, 16, false), ==, IOERR);
    segment.sector = UINT64_MAX;
    at = vt_alloc(t, &segment, 16);
    g_assert_cmpuint(request(&b, 0, WRITE_ZEROES, 0, at, 16, false), ==, IOERR);
    bench_free(&b);
}

static void test_read_only(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, ",read-only=on", &error);
    bench_start(&b, ALL_FEATURES, 1);
    g_assert_true(b.t.features & (1u << 5));
    uint32_t data = vt_alloc(&b.t, NULL, 512);
    g_assert_cmpuint(request(&b, 0, IN, 0, data, 512, true), ==, OK);
    g_assert_cmpuint(request(&b, 0, OUT, 0, data, 512, false), ==, IOERR);
    bench_free(&b);
}

/* A reset while requests are under way ends when they do; nothing is written to the rings afterwards. */
static void test_reset_in_flight(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, "", &error);
    bench_start(&b, ALL_FEATURES, 1);
    VirtioTest *t = &b.t;
    uint8_t header[16] = { IN };
    uint32_t header_at = vt_alloc(t, header, sizeof(header)), data = vt_alloc(t, NULL, 512),
             status = vt_alloc(t, "\xff", 1);
    for (uint16_t i = 0; i < 4; i++) {
        vt_add(t, 0, 3 * i,
               (VtBuffer[]){ { header_at, 16, false }, { data, 512, true }, { status, 1, true } }, 3);
    }
    vt_kick(t, 0);
    while (VIRTIO_DEVICE(t->device)->in_flight == 0) {
        loop_iterate(t->loop, true);
        if (vt_used_idx(t, 0)) {
            break; /* they were too fast */
        }
    }
    uint16_t done = vt_used_idx(t, 0);
    vt_write(t, 0x070, 0);
    gint64 end = g_get_monotonic_time() + 5000000;
    while (vt_read(t, 0x070) && g_get_monotonic_time() < end) {
        loop_iterate(t->loop, false);
    }
    g_assert_cmphex(vt_read(t, 0x070), ==, 0);
    vt_settle(t);
    g_assert_cmpuint(vt_used_idx(t, 0), ==, done);
    vt_start(t, ALL_FEATURES, 1);
    g_assert_cmpuint(request(&b, 0, IN, 0, data, 512, true), ==, OK);
    bench_free(&b);
}

/* Chains that the device has when its state is saved are taken again, and just these, though they came back
 * in another order than they were taken in. */
static void test_saved_in_flight(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, "", &error);
    bench_start(&b, ALL_FEATURES, 1);
    VirtioTest *t = &b.t;
    VirtioDevice *vdev = VIRTIO_DEVICE(t->device);
    VirtQueue *vq = virtio_get_queue(vdev, 0);
    uint32_t data = vt_alloc(t, NULL, 512), written;
    VirtQueueElement *e[4];
    home_lock(vdev->home); /* the handler does not run: the queue is this test's */
    for (uint16_t i = 0; i < 4; i++) {
        vt_add(t, 0, i, (VtBuffer[]){ { data, 512, true } }, 1);
        e[i] = i < 3 ? virtqueue_pop(vq, sizeof(*e[i])) : NULL;
        g_assert_true(i == 3 || (e[i] && e[i]->head == i));
    }
    virtqueue_push(vq, e[1], 512);
    const VmState *vms = DEVICE_GET_CLASS(t->device)->vmstate;
    g_autoptr(GByteArray) state = vmstate_save(vms, vdev, &error);
    g_assert_no_error(error);
    virtqueue_discard(e[0]);
    virtqueue_discard(e[2]);
    for (int round = 0; round < 2; round++) { /* also of one that was loaded and saved at once */
        g_assert_true(vmstate_load(vms, vdev, state->data, state->len, &error));
        g_assert_no_error(error);
        g_autoptr(GByteArray) again = vmstate_save(vms, vdev, &error);
        g_assert_cmpmem(again->data, again->len, state->data, state->len);
    }
    g_assert_false(virtqueue_empty(vq));
    static const uint16_t expected[] = { 0, 2, 3 };
    for (int i = 0; i < 3; i++) {
        e[i] = virtqueue_pop(vq, sizeof(*e[i]));
        g_assert_true(e[i] && e[i]->head == expected[i]);
        if (i == 0) { /* put back, it comes first again */
            virtqueue_unpop(vq, e[i]);
            e[i] = virtqueue_pop(vq, sizeof(*e[i]));
            g_assert_true(e[i] && e[i]->head == 0);
        }
    }
    g_assert_null(virtqueue_pop(vq, sizeof(*e[0])));
    for (int i = 0; i < 3; i++) {
        virtqueue_push(vq, e[i], 512);
    }
    home_unlock(vdev->home);
    static const uint32_t order[] = { 1, 0, 2, 3 };
    for (int i = 0; i < 4; i++) {
        g_assert_cmpuint(vt_take(t, 0, &written), ==, order[i]);
    }
    /* A chain that comes twice, or is none of the queue's, is refused. */
    uint8_t *heads, *name = memmem(state->data, state->len, "in_flight", 9);
    g_assert_nonnull(name);
    size_t left = (size_t)(state->data + state->len - name);
    heads = memmem(name, MIN(left, 32), "\x00\x00\x02\x00", 4);
    g_assert_nonnull(heads);
    heads[2] = 0;
    g_assert_false(vmstate_load(vms, vdev, state->data, state->len, &error));
    g_assert_nonnull(strstr(error->message, "in flight"));
    bench_free(&b);
}

static void test_iothread(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, "", &error);
    json_object *none = json_object_new_object();
    Visitor *v = visitor_new_input(none, true);
    Object *iothread = user_creatable_add(b.t.root, TYPE_IOTHREAD, "io0", v, &error);
    g_assert_no_error(error);
    visitor_free(v);
    json_object_put(none);
    object_property_set_link(b.t.device, "iothread", iothread, &error);
    g_assert_no_error(error);
    bench_start(&b, ALL_FEATURES, 1);
    uint32_t data = vt_alloc(&b.t, NULL, 4096);
    for (int i = 0; i < 50; i++) {
        g_assert_cmpuint(request(&b, 0, i & 1 ? OUT : IN, 8, data, 4096, !(i & 1)), ==, OK);
    }
    bench_free(&b);
}

static void test_errors(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, "", &error);
    object_property_set_uint(b.t.device, "queue-size", 100, &error);
    g_assert_false(vt_realize(&b.t, &error));
    g_assert_nonnull(strstr(error->message, "queue-size"));
    g_clear_error(&error);
    object_property_set_uint(b.t.device, "queue-size", 128, &error);
    object_property_set_str(b.t.device, "serial", "a serial that is much too long", &error);
    g_assert_false(vt_realize(&b.t, &error));
    g_assert_nonnull(strstr(error->message, "serial"));
    g_clear_error(&error);
    object_property_set_str(b.t.device, "serial", "ok", &error);
    g_assert_true(vt_realize(&b.t, &error));
    bench_free(&b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-blk/transfer", test_transfer);
    g_test_add_func("/virtio-blk/id-and-properties", test_id_and_properties);
    g_test_add_func("/virtio-blk/discard-and-zeroes", test_discard_and_zeroes);
    g_test_add_func("/virtio-blk/read-only", test_read_only);
    g_test_add_func("/virtio-blk/reset-in-flight", test_reset_in_flight);
    g_test_add_func("/virtio-blk/saved-in-flight", test_saved_in_flight);
    g_test_add_func("/virtio-blk/iothread", test_iothread);
    g_test_add_func("/virtio-blk/errors", test_errors);
    return g_test_run();
}
