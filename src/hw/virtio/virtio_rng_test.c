/* virtio-rng, and through it queues, the MMIO transport and the device's life. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "hw/virtio/rng_backend.h"
#include "hw/virtio/virtio_test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void start(VirtioTest *t, uint64_t features)
{
    g_autoptr(GError) error = NULL;
    vt_new(t, "virtio-rng-device");
    g_assert_true(vt_realize(t, &error));
    vt_start(t, features, 1);
}

static bool all_zero(VirtioTest *t, uint32_t addr, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        if (vt_ram(t, addr + i, 1)) {
            return false;
        }
    }
    return true;
}

static void test_registers(void)
{
    VirtioTest t;
    vt_new(&t, "virtio-rng-device");
    g_assert_cmphex(vt_read(&t, 0x000), ==, 0x74726976);
    g_assert_cmphex(vt_read(&t, 0x008), ==, 0); /* nothing there yet */
    g_assert_true(vt_realize(&t, NULL));
    g_assert_cmphex(vt_read(&t, 0x004), ==, 2);
    g_assert_cmphex(vt_read(&t, 0x008), ==, VIRTIO_ID_ENTROPY);
    vt_write(&t, 0x030, 0);
    g_assert_cmpuint(vt_read(&t, 0x034), ==, 8);
    vt_write(&t, 0x030, 1);
    g_assert_cmpuint(vt_read(&t, 0x034), ==, 0);
    /* A driver that does not accept VERSION_1, or accepts what was not offered, does not get FEATURES_OK. */
    vt_write(&t, 0x070, 3);
    vt_write(&t, 0x070, 3 | VIRTIO_STATUS_FEATURES_OK);
    g_assert_cmphex(vt_read(&t, 0x070), ==, 3);
    vt_write(&t, 0x024, 1);
    vt_write(&t, 0x020, 0x80000001);
    vt_write(&t, 0x070, 3 | VIRTIO_STATUS_FEATURES_OK);
    g_assert_cmphex(vt_read(&t, 0x070), ==, 3);
    vt_write(&t, 0x070, 0);
    g_assert_cmphex(vt_read(&t, 0x070), ==, 0);
    vt_free(&t);
}

static void test_fill(void)
{
    VirtioTest t;
    start(&t, 0);
    uint32_t written, a = vt_alloc(&t, NULL, 64), b = vt_alloc(&t, NULL, 64);
    vt_add(&t, 0, 3, (VtBuffer[]){ { a, 64, true }, { b, 32, true } }, 2);
    vt_settle(&t);
    g_assert_cmpuint(vt_used_idx(&t, 0), ==, 0); /* not before it is told */
    vt_kick(&t, 0);
    g_assert_cmpuint(vt_take(&t, 0, &written), ==, 3);
    g_assert_cmpuint(written, ==, 96);
    g_assert_false(all_zero(&t, a, 64));
    g_assert_false(all_zero(&t, b, 32));
    g_assert_true(all_zero(&t, b + 32, 32));
    g_assert_true(t.irq_level);
    g_assert_cmphex(vt_read(&t, 0x060), ==, VIRTIO_ISR_QUEUE);
    vt_write(&t, 0x064, VIRTIO_ISR_QUEUE);
    g_assert_false(t.irq_level);
    /* No interrupt wanted: none given. */
    vt_set_ram(&t, vt_avail(0), 2, 1);
    vt_add(&t, 0, 0, (VtBuffer[]){ { a, 64, true } }, 1);
    vt_kick(&t, 0);
    vt_take(&t, 0, NULL);
    g_assert_false(t.irq_level);
    /* The machine's reset takes it back to the start. */
    device_reset(t.transport);
    g_assert_cmphex(vt_read(&t, 0x070), ==, 0);
    vt_write(&t, 0x030, 0);
    g_assert_cmpuint(vt_read(&t, 0x044), ==, 0);
    vt_free(&t);
}

static void test_indirect_and_event_index(void)
{
    VirtioTest t;
    start(&t, VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) | VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
    uint32_t written, a = vt_alloc(&t, NULL, 64);
    for (unsigned i = 0; i < 4; i++) {
        vt_put_desc(&t, VT_INDIRECT + 16 * i, a + 16 * i, 16, 2 | (i < 3), (uint16_t)(i + 1));
    }
    vt_put_desc(&t, vt_desc(0), VT_INDIRECT, 64, 4, 0);
    vt_make_available(&t, 0, 0);
    vt_set_ram(&t, vt_avail(0) + 4 + 2 * 8, 2,
               1); /* used_event (the queue has 8 entries): tell me at the second */
    vt_kick(&t, 0);
    g_assert_cmpuint(vt_take(&t, 0, &written), ==, 0);
    g_assert_cmpuint(written, ==, 64);
    g_assert_false(all_zero(&t, a + 48, 16));
    vt_write(&t, 0x064, 3);
    vt_make_available(&t, 0, 0); /* the second */
    vt_kick(&t, 0);
    vt_take(&t, 0, NULL);
    g_assert_true(t.irq_level);
    vt_write(&t, 0x064, 3);
    vt_make_available(&t, 0, 0); /* the third: the event is past */
    vt_kick(&t, 0);
    vt_take(&t, 0, NULL);
    vt_settle(&t);
    g_assert_false(t.irq_level);
    g_assert_cmpuint(vt_ram(&t, vt_used(0) + 4 + 8 * 8, 2), ==, 3); /* avail_event: at the fourth, please */
    vt_free(&t);
}

/* What a guest can do wrong. Each stops the device, tells the driver, and a reset mends it. */
static void broken(void (*make)(VirtioTest *t, uint32_t buffer))
{
    VirtioTest t;
    start(&t, VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC));
    uint32_t a = vt_alloc(&t, NULL, 64);
    make(&t, a);
    vt_kick(&t, 0);
    vt_settle(&t);
    g_assert_true(vt_read(&t, 0x070) & VIRTIO_STATUS_NEEDS_RESET);
    g_assert_cmphex(vt_read(&t, 0x060), ==, VIRTIO_ISR_CONFIG);
    g_assert_cmpuint(vt_used_idx(&t, 0), ==, 0);
    vt_kick(&t, 0);
    vt_settle(&t);
    vt_start(&t, 0, 1);
    vt_add(&t, 0, 0, (VtBuffer[]){ { a, 64, true } }, 1);
    vt_kick(&t, 0);
    vt_take(&t, 0, NULL);
    vt_free(&t);
}

static void make_head(VirtioTest *t, uint32_t a)
{
    vt_make_available(t, 0, 8);
}

static void make_index(VirtioTest *t, uint32_t a)
{
    vt_set_ram(t, vt_avail(0) + 2, 2, 9);
}

static void make_loop(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), a, 16, 3, 1);
    vt_put_desc(t, vt_desc(0) + 16, a, 16, 3, 0);
    vt_make_available(t, 0, 0);
}

static void make_next(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), a, 16, 3, 0x100);
    vt_make_available(t, 0, 0);
}

static void make_no_ram(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), VT_MMIO, 16, 2, 0);
    vt_make_available(t, 0, 0);
}

static void make_ram_end(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), VT_RAM_SIZE - 8, 16, 2, 0);
    vt_make_available(t, 0, 0);
}

static void make_wrap(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), UINT64_MAX - 3, 16, 2, 0);
    vt_make_available(t, 0, 0);
}

static void make_empty_buffer(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), a, 0, 2, 0);
    vt_make_available(t, 0, 0);
}

static void make_order(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), a, 16, 3, 1);
    vt_put_desc(t, vt_desc(0) + 16, a, 16, 0, 0);
    vt_make_available(t, 0, 0);
}

static void make_nested_indirect(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, VT_INDIRECT, VT_INDIRECT, 16, 4, 0);
    vt_put_desc(t, vt_desc(0), VT_INDIRECT, 16, 4, 0);
    vt_make_available(t, 0, 0);
}

static void make_odd_indirect(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), VT_INDIRECT, 17, 4, 0);
    vt_make_available(t, 0, 0);
}

static void make_indirect_nowhere(VirtioTest *t, uint32_t a)
{
    vt_put_desc(t, vt_desc(0), 0x7000000000, 64, 4, 0);
    vt_make_available(t, 0, 0);
}

/* 65,536 entries that all point on: bounded. */
static void make_endless_indirect(VirtioTest *t, uint32_t a)
{
    for (unsigned i = 0; i < 4096; i++) {
        vt_put_desc(t, 0x200000 + 16 * i, a, 1, 3, (uint16_t)((i + 1) % 4096));
    }
    vt_put_desc(t, vt_desc(0), 0x200000, 65536, 4, 0);
    vt_make_available(t, 0, 0);
}

static void test_broken(void)
{
    broken(make_head);
    broken(make_index);
    broken(make_loop);
    broken(make_next);
    broken(make_no_ram);
    broken(make_ram_end);
    broken(make_wrap);
    broken(make_empty_buffer);
    broken(make_order);
    broken(make_nested_indirect);
    broken(make_odd_indirect);
    broken(make_indirect_nowhere);
    broken(make_endless_indirect);
}

/* Rings that lie where there is no RAM, and RAM that goes away under a ring. */
static void test_ring_memory(void)
{
    VirtioTest t;
    start(&t, 0);
    uint32_t a = vt_alloc(&t, NULL, 64);
    vt_add(&t, 0, 0, (VtBuffer[]){ { a, 64, true } }, 1);
    vt_kick(&t, 0);
    vt_take(&t, 0, NULL);
    memory_region_set_enabled(&t.ram, false);
    vt_kick(&t, 0);
    vt_settle(&t);
    g_assert_true(vt_read(&t, 0x070) & VIRTIO_STATUS_NEEDS_RESET);
    memory_region_set_enabled(&t.ram, true);
    vt_start(&t, 0, 1);
    vt_add(&t, 0, 0, (VtBuffer[]){ { a, 64, true } }, 1);
    vt_kick(&t, 0);
    vt_take(&t, 0, NULL);
    vt_write(&t, 0x070, 0);
    vt_write(&t, 0x030, 0);
    vt_write(&t, 0x080, 8); /* not aligned to 16 */
    vt_write(&t, 0x044, 1);
    g_assert_cmpuint(vt_read(&t, 0x044), ==, 0);
    vt_free(&t);
}

static void test_rate(void)
{
    VirtioTest t;
    g_autoptr(GError) error = NULL;
    vt_new(&t, "virtio-rng-device");
    object_property_set_uint(t.device, "max-bytes", 40, &error);
    object_property_set_uint(t.device, "period", 400, &error);
    g_assert_no_error(error);
    gint64 begin = g_get_monotonic_time(); /* before the first period */
    g_assert_true(vt_realize(&t, &error));
    vt_start(&t, 0, 1);
    uint32_t written, a = vt_alloc(&t, NULL, 64);
    for (uint16_t i = 0; i < 3; i++) {
        vt_add(&t, 0, i, (VtBuffer[]){ { a, 32, true } }, 1);
    }
    vt_kick(&t, 0);
    vt_take(&t, 0, &written);
    g_assert_cmpuint(written, ==, 32);
    vt_take(&t, 0, &written);
    g_assert_cmpuint(written, ==, 8); /* what was left of the period */
    vt_take(&t, 0, &written);
    g_assert_cmpuint(written, ==, 32);
    g_assert_cmpint(g_get_monotonic_time() - begin, >, 380000);
    vt_free(&t);
}

static void test_fifo(void)
{
    VirtioTest t;
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_strdup_printf("%s/rhea-rng-%d", g_get_tmp_dir(), (int)getpid());
    unlink(path);
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    vt_new(&t, "virtio-rng-device");
    Object *rng = object_new_known(TYPE_RNG_RANDOM);
    g_assert_true(object_property_set_str(rng, "filename", path, &error));
    g_assert_true(object_property_add_child(container_get(t.root, "/objects"), "rng0", rng, &error));
    g_assert_true(object_property_set_link(t.device, "rng", rng, &error));
    g_assert_true(vt_realize(&t, &error));
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    vt_start(&t, 0, 1);
    uint32_t written, a = vt_alloc(&t, NULL, 64);
    vt_add(&t, 0, 0, (VtBuffer[]){ { a, 64, true } }, 1);
    vt_kick(&t, 0);
    vt_settle(&t);
    g_assert_cmpuint(vt_used_idx(&t, 0), ==, 0); /* nothing to read yet */
    g_assert_cmpint(write(fd, "0123456789", 10), ==, 10);
    vt_take(&t, 0, &written);
    g_assert_cmpuint(written, ==, 10);
    char text[10];
    address_space_read(t.as, a, MEMTXATTRS_NONE, text, 10);
    g_assert_cmpmem(text, 10, "0123456789", 10);
    close(fd);
    vt_free(&t);
    object_unref(rng);
    unlink(path);
}

static void test_errors(void)
{
    VirtioTest t;
    g_autoptr(GError) error = NULL;
    vt_new(&t, "virtio-rng-device");
    object_property_set_uint(t.device, "period", 0, NULL);
    g_assert_false(vt_realize(&t, &error));
    g_assert_nonnull(strstr(error->message, "period"));
    g_clear_error(&error);
    g_assert_true(object_property_set_uint(t.device, "period", 10, &error));
    g_assert_true(vt_realize(&t, &error));
    vt_free(&t);
}

/* The state goes over to another device in the middle of its work. */
static void test_state(void)
{
    VirtioTest a, b;
    g_autoptr(GError) error = NULL;
    start(&a, VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
    uint32_t buffer = vt_alloc(&a, NULL, 64);
    for (uint16_t i = 0; i < 3; i++) {
        vt_add(&a, 0, i, (VtBuffer[]){ { buffer, 64, true } }, 1);
    }
    vt_kick(&a, 0);
    vt_take(&a, 0, NULL);
    vt_take(&a, 0, NULL);
    vt_take(&a, 0, NULL);
    g_autoptr(GByteArray) state = vmstate_save(DEVICE_GET_CLASS(a.device)->vmstate, a.device, &error);
    g_assert_no_error(error);
    vt_new(&b, "virtio-rng-device");
    g_assert_true(vt_realize(&b, &error));
    memcpy(b.ram.ram->host, a.ram.ram->host, VT_RAM_SIZE);
    memcpy(b.avail, a.avail, sizeof(b.avail));
    memcpy(b.used, a.used, sizeof(b.used));
    g_assert_true(
        vmstate_load(DEVICE_GET_CLASS(b.device)->vmstate, b.device, state->data, state->len, &error));
    g_assert_no_error(error);
    g_assert_cmphex(vt_read(&b, 0x070), ==, vt_read(&a, 0x070));
    vt_add(&b, 0, 4, (VtBuffer[]){ { buffer, 64, true } }, 1);
    vt_kick(&b, 0);
    g_assert_cmpuint(vt_take(&b, 0, NULL), ==, 4);
    g_autoptr(GByteArray) again = vmstate_save(DEVICE_GET_CLASS(b.device)->vmstate, b.device, &error);
    g_assert_cmpuint(again->len, ==, state->len);
    vt_free(&a);
    vt_free(&b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-rng/registers", test_registers);
    g_test_add_func("/virtio-rng/fill", test_fill);
    g_test_add_func("/virtio-rng/indirect-and-event-index", test_indirect_and_event_index);
    g_test_add_func("/virtio-rng/broken", test_broken);
    g_test_add_func("/virtio-rng/ring-memory", test_ring_memory);
    g_test_add_func("/virtio-rng/rate", test_rate);
    g_test_add_func("/virtio-rng/fifo", test_fifo);
    g_test_add_func("/virtio-rng/errors", test_errors);
    g_test_add_func("/virtio-rng/state", test_state);
    return g_test_run();
}
