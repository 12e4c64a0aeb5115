/* Tests of the qcow2 format's arithmetic. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/formats/qcow2/format.h"

#include <string.h>

static Qcow2Header plain(uint32_t cluster_bits)
{
    return (Qcow2Header){ .version = 3,
                          .cluster_bits = cluster_bits,
                          .size = 1u << 30,
                          .refcount_order = 4,
                          .l1_size = 65536,
                          .l1_offset = 4u << cluster_bits,
                          .reftable_offset = 1u << cluster_bits,
                          .reftable_clusters = 1 };
}

static void test_header(void)
{
    Qcow2Header h = plain(16), back;
    g_autofree uint8_t *data = g_malloc0(65536);
    GError *error = NULL;

    h.backing_file = g_strdup("base.img");
    h.backing_format = g_strdup("raw");
    h.incompatible = QCOW2_INCOMPAT_EXTENDED_L2;
    h.journal = (Qcow2JournalExt){ .present = true, .wish = 1u << 20, .uuid = { 1, 2, 3 } };
    h.l1_size = 64;
    g_assert_true(qcow2_header_encode(&h, data, 65536, NULL));
    g_assert_cmpint(qcow2_header_probe(data, 65536, NULL), ==, 100);
    g_assert_cmpuint(qcow2_header_cluster_size(data, 65536), ==, 65536);
    g_assert_true(qcow2_header_decode(&back, data, 65536, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(back.backing_file, ==, "base.img");
    g_assert_cmpstr(back.backing_format, ==, "raw");
    g_assert_cmpuint(back.size, ==, h.size);
    g_assert_cmpuint(back.journal.wish, ==, 1u << 20);
    g_assert_cmpuint(back.journal.uuid[2], ==, 3);
    g_assert_cmphex(back.incompatible, ==, QCOW2_INCOMPAT_EXTENDED_L2);
    qcow2_header_clear(&back);
    qcow2_header_clear(&h);
}

static void expect(uint8_t *data, size_t at, int bytes, uint64_t value, const char *message)
{
    g_autofree uint8_t *bad = g_memdup2(data, 65536);
    GError *error = NULL;
    Qcow2Header h;

    for (int i = 0; i < bytes; i++) {
        bad[at + (size_t)i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
    g_assert_false(qcow2_header_decode(&h, bad, 65536, &error));
    g_assert_nonnull(error);
    if (!strstr(error->message, message)) {
        g_error("'%s' does not say '%s'", error->message, message);
    }
    g_clear_error(&error);
    qcow2_header_clear(&h);
}

static void test_bad_headers(void)
{
    Qcow2Header h = plain(16);
    g_autofree uint8_t *data = g_malloc0(65536);
    GError *error = NULL;

    h.l1_size = 64;
    g_assert_true(qcow2_header_encode(&h, data, 65536, NULL));
    expect(data, 0, 4, 0, "not in qcow2 format");
    expect(data, 4, 4, 4, "Unsupported qcow2 version 4");
    expect(data, 20, 4, 8, "Unsupported cluster size: 2^8");
    expect(data, 20, 4, 22, "Unsupported cluster size: 2^22");
    expect(data, 24, 8, INT64_MAX, "too large");
    expect(data, 24, 8, UINT64_C(1) << 60, "too big");
    expect(data, 24, 8, UINT64_C(1) << 40, "L1 table is too small");
    expect(data, 32, 4, 3, "Unsupported encryption method 3");
    expect(data, 36, 4, 0x7fffffff, "Active L1 table too large");
    expect(data, 40, 8, 12345, "Active L1 table offset invalid");
    expect(data, 48, 8, 1, "Reference count table offset invalid");
    expect(data, 56, 4, 0, "does not contain a reference count table");
    expect(data, 56, 4, 1000, "Reference count table too large");
    put_be32(data + 60, 70000); /* a check may mend it: told apart */
    g_assert_true(qcow2_header_decode(&h, data, 65536, NULL));
    g_assert_false(qcow2_header_check_snapshots(&h, &error));
    g_assert_cmpstr(error->message, ==, "Snapshot table too large");
    g_clear_error(&error);
    qcow2_header_clear(&h);
    put_be32(data + 60, 0);
    expect(data, 72, 8, UINT64_C(1) << 40, "Unknown incompatible feature: 10000000000");
    expect(data, 72, 8, QCOW2_INCOMPAT_JOURNAL, "header extension is missing");
    expect(data, 72, 8, QCOW2_INCOMPAT_COMPRESSION, "ompression type");
    expect(data, 96, 4, 7, "Reference count entry width too large");
    expect(data, 100, 4, 80, "header too short");
    expect(data, 100, 4, 70000, "exceeds cluster size");
    expect(data, 8, 8, 70000, "Invalid backing file offset");
}

/* The name of a feature comes from the image's table. */
static void test_feature_names(void)
{
    Qcow2Header h = plain(16), back;
    g_autofree uint8_t *data = g_malloc0(65536);
    GError *error = NULL;

    h.l1_size = 64;
    h.incompatible = UINT64_C(1) << 20;
    g_assert_true(qcow2_header_encode(&h, data, 65536, NULL));
    for (size_t i = 104; i < 1024; i++) { /* rename "dirty bit" to be our bit's name */
        if (memcmp(data + i, "dirty bit", 9) == 0) {
            data[i - 1] = 20;
            memcpy(data + i, "time travel", 12);
            break;
        }
    }
    g_assert_false(qcow2_header_decode(&back, data, 65536, &error));
    g_assert_cmpstr(error->message, ==, "Unsupported qcow2 feature(s): time travel");
    g_clear_error(&error);
    qcow2_header_clear(&back);
}

static void test_refcounts(void)
{
    for (uint32_t order = 0; order <= 6; order++) {
        uint8_t block[512] = { 0 };
        uint64_t n = 4096u >> order, max = order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;

        for (uint64_t i = 0; i < n; i++) {
            qcow2_refcount_store(order, block, i, (i * 7 + 1) & max);
        }
        for (uint64_t i = 0; i < n; i++) {
            g_assert_cmpuint(qcow2_refcount_load(order, block, i), ==, (i * 7 + 1) & max);
        }
        qcow2_refcount_store(order, block, 3, max);
        qcow2_refcount_store(order, block, 3, 0);
        g_assert_cmpuint(qcow2_refcount_load(order, block, 2), ==, 15 & max);
        g_assert_cmpuint(qcow2_refcount_load(order, block, 3), ==, 0);
        g_assert_cmpuint(qcow2_refcount_load(order, block, 4), ==, 29 & max);
    }
    /* The bits of a byte count from the least significant one. */
    g_assert_cmpuint(qcow2_refcount_load(0, (const uint8_t[]){ 0x01 }, 0), ==, 1);
    g_assert_cmpuint(qcow2_refcount_load(2, (const uint8_t[]){ 0x5a }, 1), ==, 5);
    g_assert_cmpuint(qcow2_refcount_load(4, (const uint8_t[]){ 0x12, 0x34 }, 0), ==, 0x1234);
}

static void test_entries(void)
{
    Qcow2Header h = plain(16);
    Qcow2Geometry g;
    Qcow2Kind kind;
    Qcow2Entry e;
    uint64_t at;
    uint32_t bytes;

    qcow2_geometry_init(&g, &h);
    g_assert_cmpuint(g.l2_bits, ==, 13);
    g_assert_cmpuint(qcow2_l1_entries(&g, 0), ==, 0);
    g_assert_cmpuint(qcow2_l1_entries(&g, 1), ==, 1);
    g_assert_cmpuint(qcow2_l1_entries(&g, (UINT64_C(1) << 29) + 1), ==, 2);
    e = (Qcow2Entry){ 0x50000 | QCOW2_COPIED, 0 };
    g_assert_cmpint(qcow2_entry_kind(&g, e, 0), ==, QCOW2_KIND_DATA);
    qcow2_entry_set_zero(&g, &e, 0, 1);
    g_assert_cmpint(qcow2_entry_kind(&g, e, 0), ==, QCOW2_KIND_ZERO_HOST);
    g_assert_cmpint(qcow2_entry_kind(&g, (Qcow2Entry){ 1, 0 }, 0), ==, QCOW2_KIND_ZERO);
    g_assert_cmpint(qcow2_entry_kind(&g, (Qcow2Entry){ 0, 0 }, 0), ==, QCOW2_KIND_UNALLOCATED);
    g_assert_cmpint(qcow2_entry_kind(&g, (Qcow2Entry){ 0x50200, 0 }, 0), ==, QCOW2_KIND_INVALID);
    /* Compressed: the sectors after the first are counted. */
    e.word = qcow2_compressed_word(&g, 0x12345, 700);
    g_assert_cmpint(qcow2_entry_kind(&g, e, 0), ==, QCOW2_KIND_COMPRESSED);
    qcow2_compressed_span(&g, e.word, &at, &bytes);
    g_assert_cmphex(at, ==, 0x12345);
    g_assert_cmpuint(bytes, >=, 700);
    g_assert_cmpuint((at + bytes) % 512, ==, 0);
    g_assert_cmphex(e.word >> 54 & 0xff, ==, 2);
    g_assert_cmphex(qcow2_compressed_word(&g, UINT64_C(1) << 57, 700), ==, 0);
    /* Subclusters. */
    h.incompatible = QCOW2_INCOMPAT_EXTENDED_L2;
    qcow2_geometry_init(&g, &h);
    g_assert_cmpuint(g.l2_bits, ==, 12);
    g_assert_cmpuint(g.sub_size, ==, 2048);
    e = (Qcow2Entry){ 0x50000 | QCOW2_COPIED, 0 };
    qcow2_entry_set_data(&g, &e, 4, 3);
    qcow2_entry_set_zero(&g, &e, 6, 2);
    g_assert_cmphex(e.bitmap, ==, UINT64_C(0x000000c000000030));
    g_assert_cmpuint(qcow2_entry_run(&g, e, 0, &kind), ==, 4);
    g_assert_cmpint(kind, ==, QCOW2_KIND_UNALLOCATED_HOST);
    g_assert_cmpuint(qcow2_entry_run(&g, e, 4, &kind), ==, 2);
    g_assert_cmpint(kind, ==, QCOW2_KIND_DATA);
    g_assert_cmpuint(qcow2_entry_run(&g, e, 6, &kind), ==, 2);
    g_assert_cmpint(kind, ==, QCOW2_KIND_ZERO_HOST);
    g_assert_cmpuint(qcow2_entry_run(&g, e, 8, &kind), ==, 24);
    qcow2_entry_set_data(&g, &e, 0, 32);
    g_assert_cmphex(e.bitmap, ==, UINT32_MAX);
    /* Both bits of a subcluster, or data without a cluster, cannot be. */
    g_assert_cmpint(qcow2_entry_kind(&g, (Qcow2Entry){ 0x50000, UINT64_C(0x100000001) }, 5), ==,
                    QCOW2_KIND_INVALID);
    g_assert_cmpint(qcow2_entry_kind(&g, (Qcow2Entry){ 0, 1 }, 0), ==, QCOW2_KIND_INVALID);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/format/header", test_header);
    g_test_add_func("/qcow2/format/bad-headers", test_bad_headers);
    g_test_add_func("/qcow2/format/feature-names", test_feature_names);
    g_test_add_func("/qcow2/format/refcounts", test_refcounts);
    g_test_add_func("/qcow2/format/entries", test_entries);
    return g_test_run();
}
