/* virtio-balloon: pages, the target, statistics. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/virtio/virtio_balloon.h"
#include "hw/virtio/virtio_test.h"

typedef struct Bench {
    VirtioTest t;
    VmServices vm;
    GString *events;
} Bench;

static void on_event(void *opaque, const char *event, json_object *data)
{
    Bench *b = opaque;
    g_string_append_printf(b->events, "%s %s;", event,
                           json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN));
    json_object_put(data);
}

static void bench_new(Bench *b, const char *property, uint64_t features, unsigned queues)
{
    g_autoptr(GError) error = NULL;
    memset(b, 0, sizeof(*b));
    vt_new(&b->t, "virtio-balloon-device");
    b->events = g_string_new(NULL);
    b->vm = (VmServices){ .emit_event = on_event, .opaque = b };
    b->t.env.vm = &b->vm;
    if (property) {
        g_assert_true(object_property_set_bool(b->t.device, property, true, &error));
    }
    vt_realize(&b->t, &error);
    g_assert_no_error(error);
    vt_start(&b->t, features, queues);
}

static void bench_free(Bench *b)
{
    vt_free(&b->t);
    g_string_free(b->events, TRUE);
}

static void test_inflate(void)
{
    Bench b;
    bench_new(&b, NULL, 0, 2);
    VirtioTest *t = &b.t;
    vt_set_ram(t, 0x200000, 8, 0x1234);
    vt_set_ram(t, 0x201000, 8, 0x5678);
    vt_set_ram(t, 0x202000, 8, 0x9abc);
    ram_test_and_clear_dirty(t->ram.ram, 0, VT_RAM_SIZE, DIRTY_MIGRATION);
    /* Two pages, and some that are not RAM. */
    uint32_t pfns[] = { 0x200, 0x202, VT_MMIO >> 12, 0xffffffff, VT_RAM_SIZE >> 12 };
    uint32_t at = vt_alloc(t, pfns, sizeof(pfns));
    vt_add(t, 0, 0, (VtBuffer[]){ { at, sizeof(pfns), false } }, 1);
    vt_kick(t, 0);
    vt_take(t, 0, NULL);
    g_assert_cmphex(vt_ram(t, 0x200000, 8), ==, 0);
    g_assert_cmphex(vt_ram(t, 0x201000, 8), ==, 0x5678);
    g_assert_cmphex(vt_ram(t, 0x202000, 8), ==, 0);
    g_assert_true(ram_test_and_clear_dirty(t->ram.ram, 0x202000, 1, DIRTY_MIGRATION));
    g_assert_false(ram_test_and_clear_dirty(t->ram.ram, 0x201000, 1, DIRTY_MIGRATION));
    vt_add(t, 1, 0, (VtBuffer[]){ { at, 8, false } }, 1); /* deflate */
    vt_kick(t, 1);
    vt_take(t, 1, NULL);
    bench_free(&b);
}

static void test_target(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    int64_t actual;
    bench_new(&b, NULL, 0, 2);
    VirtioTest *t = &b.t;
    g_assert_true(virtio_balloon_set_target(t->root, VT_RAM_SIZE, VT_RAM_SIZE - 0x8000, &error));
    g_assert_cmpuint(vt_config(t, 0, 4), ==, 8);
    g_assert_cmphex(vt_read(t, 0x060), ==, VIRTIO_ISR_CONFIG);
    address_space_store(t->as, VT_MMIO + 0x104, 4, 8, MEMTXATTRS_NONE);
    g_assert_cmpstr(b.events->str, ==, "BALLOON_CHANGE {\"actual\":4161536};");
    g_assert_true(virtio_balloon_query(t->root, VT_RAM_SIZE, &actual, &error));
    g_assert_cmpint(actual, ==, VT_RAM_SIZE - 0x8000);
    address_space_store(t->as, VT_MMIO + 0x104, 4, UINT32_MAX, MEMTXATTRS_NONE); /* a lie */
    g_assert_true(virtio_balloon_query(t->root, VT_RAM_SIZE, &actual, &error));
    g_assert_cmpint(actual, ==, 0);
    g_assert_false(virtio_balloon_set_target(t->root, VT_RAM_SIZE, 0, &error));
    g_clear_error(&error);
    device_unrealize(DEVICE(t->device));
    g_assert_false(virtio_balloon_query(t->root, VT_RAM_SIZE, &actual, &error));
    g_assert_cmpint(error->code, ==, ERROR_CLASS_DEVICE_NOT_ACTIVE);
    bench_free(&b);
}

static void test_stats(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_new(&b, NULL, 1u << 1, 3);
    VirtioTest *t = &b.t;
    struct __attribute__((packed)) {
        uint16_t tag;
        uint64_t value;
    } stats[] = { { 4, 1000 }, { 5, 5000 }, { 99, 1 } };
    uint32_t at = vt_alloc(t, stats, sizeof(stats));
    vt_add(t, 2, 0, (VtBuffer[]){ { at, sizeof(stats), false } }, 1);
    vt_kick(t, 2);
    vt_settle(t);
    g_assert_cmpuint(vt_used_idx(t, 2), ==, 0); /* kept until new numbers are wanted */
    g_autofree char *text = object_property_print(t->device, "guest-stats", &error);
    g_assert_no_error(error);
    g_assert_nonnull(strstr(text, "5000"));
    g_assert_true(object_property_set_int(t->device, "guest-stats-polling-interval", 1, &error));
    gint64 begin = g_get_monotonic_time();
    vt_take(t, 2, NULL);
    g_assert_cmpint(g_get_monotonic_time() - begin, >, 900000);
    g_assert_false(object_property_set_int(t->device, "guest-stats-polling-interval", -1, &error));
    bench_free(&b);
}

static void test_reporting(void)
{
    Bench b;
    bench_new(&b, "free-page-reporting", 1u << 1 | 1u << 5, 4);
    VirtioTest *t = &b.t;
    vt_set_ram(t, 0x200000, 8, 0x1234);
    vt_set_ram(t, 0x203ff8, 8, 0x5678);
    vt_set_ram(t, 0x204010, 8, 0x9abc);
    vt_add(t, 3, 0, (VtBuffer[]){ { 0x200000, 0x4000, true }, { 0x204010, 0x100, true } }, 2);
    vt_kick(t, 3);
    vt_take(t, 3, NULL);
    g_assert_cmphex(vt_ram(t, 0x200000, 8), ==, 0);
    g_assert_cmphex(vt_ram(t, 0x203ff8, 8), ==, 0);
    g_assert_cmphex(vt_ram(t, 0x204010, 8), ==, 0x9abc); /* not whole pages: left alone */
    bench_free(&b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-balloon/inflate", test_inflate);
    g_test_add_func("/virtio-balloon/target", test_target);
    g_test_add_func("/virtio-balloon/stats", test_stats);
    g_test_add_func("/virtio-balloon/reporting", test_reporting);
    return g_test_run();
}
