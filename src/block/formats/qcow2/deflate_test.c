/* Tests of the deflate encoder: zlib, told to keep 4 KiB only, reads back what it makes.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/formats/qcow2/deflate.h"

#include <glib.h>
#include <string.h>
#include <zlib.h>

#define ROOM (3u << 20)

static Deflater *deflater;
static uint8_t *packed;

/* In pieces of 300 bytes, so that zlib looks back into its own window and not into the output. */
static void check_stream(const uint8_t *in, size_t size, size_t packed_size)
{
    uint8_t piece[300];
    size_t at = 0;
    z_stream z = { .next_in = packed, .avail_in = (uInt)packed_size };
    int ret;

    g_assert_cmpint(inflateInit2(&z, -12), ==, Z_OK);
    do {
        size_t n;

        z.next_out = piece;
        z.avail_out = sizeof(piece);
        ret = inflate(&z, Z_NO_FLUSH);
        g_assert_true(ret == Z_OK || ret == Z_STREAM_END);
        n = sizeof(piece) - z.avail_out;
        g_assert_cmpuint(n, <=, size - at);
        g_assert_cmpmem(piece, n, in + at, n);
        at += n;
    } while (ret == Z_OK);
    g_assert_cmpuint(at, ==, size);
    g_assert_cmpuint(z.avail_in, ==, 0);
    inflateEnd(&z);
}

/* Its compressed size, read back. */
static size_t round_trip(const uint8_t *in, size_t size)
{
    size_t n = deflater_run(deflater, in, size, packed, ROOM);

    g_assert_cmpuint(n, >, 0);
    check_stream(in, size, n);
    return n;
}

static size_t zlib_size(const uint8_t *in, size_t size)
{
    z_stream z = { .next_in = (Bytef *)in, .avail_in = (uInt)size, .next_out = packed, .avail_out = ROOM };

    g_assert_cmpint(deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), ==,
                    Z_OK);
    g_assert_cmpint(deflate(&z, Z_FINISH), ==, Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

/* Words of a small vocabulary with numbers between them: something like a log. */
static void fill_text(GRand *r, uint8_t *out, size_t size)
{
    static const char *const words[] = { "error ", "block ",   "node\n", "the ",
                                         "of ",    "request ", "is ",    "done: " };

    for (size_t at = 0; at < size;) {
        char number[16];
        const char *word = words[g_rand_int_range(r, 0, G_N_ELEMENTS(words))];

        if (g_rand_int_range(r, 0, 5) == 0) {
            g_snprintf(number, sizeof(number), "%u ", (unsigned)g_rand_int_range(r, 0, 100000));
            word = number;
        }
        size_t n = MIN(strlen(word), size - at);

        memcpy(out + at, word, n);
        at += n;
    }
}

static void fill_random(GRand *r, uint8_t *out, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        out[i] = (uint8_t)g_rand_int(r);
    }
}

/* Each byte half as likely as the one before it: words longer than the standard allows. */
static void fill_skewed(GRand *r, uint8_t *out, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        guint32 v = g_rand_int(r) | 1u << 27;

        out[i] = (uint8_t)(__builtin_ctz(v) * 9 + (i & 1 ? 3 : 0));
    }
}

static void test_contents(void)
{
    static const size_t sizes[] = { 512, 4096, 65536, 65537, 1u << 20, 2u << 20 };
    static void (*const fills[])(GRand *, uint8_t *, size_t) = { fill_text, fill_random, fill_skewed };
    g_autoptr(GRand) r = g_rand_new_with_seed(3);
    g_autofree uint8_t *in = g_malloc0(2u << 20);

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        memset(in, 0, sizes[i]);
        g_assert_cmpuint(round_trip(in, sizes[i]), <, sizes[i] / 100 + 20);
        for (size_t k = 0; k < G_N_ELEMENTS(fills); k++) {
            fills[k](r, in, sizes[i]);
            g_assert_cmpuint(round_trip(in, sizes[i]), <=, sizes[i] + 5 * (sizes[i] / 1024 + 2));
        }
    }
}

static void test_short(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(4);
    uint8_t in[600];

    for (size_t size = 1; size <= sizeof(in); size++) {
        fill_text(r, in, size);
        round_trip(in, size);
        memset(in, 'x', size);
        round_trip(in, size);
    }
}

/* What repeats is found up to the window, and not asked for beyond it. */
static void test_window(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(5);
    g_autofree uint8_t *in = g_malloc(65536);

    for (unsigned period = 4080; period <= 4100; period++) {
        size_t n;

        fill_random(r, in, period);
        for (unsigned i = period; i < 65536; i++) {
            in[i] = in[i - period];
        }
        n = round_trip(in, 65536);
        if (period < 4096) {
            g_assert_cmpuint(n, <, 6000);
        } else {
            g_assert_cmpuint(n, >, 60000);
        }
    }
}

/* Parts of different kinds: several blocks, of each form. */
static void test_mixture(void)
{
    static void (*const fills[])(GRand *, uint8_t *, size_t) = { fill_text, fill_random, fill_skewed };
    g_autoptr(GRand) r = g_rand_new_with_seed(6);
    g_autofree uint8_t *in = g_malloc(256u << 10);

    for (int round = 0; round < 40; round++) {
        size_t size = (size_t)g_rand_int_range(r, 1000, 256 << 10);

        for (size_t at = 0; at < size;) {
            size_t n = MIN((size_t)g_rand_int_range(r, 1, 20000), size - at);
            int kind = g_rand_int_range(r, 0, 4);

            if (kind == 3) {
                memset(in + at, g_rand_int_range(r, 0, 256), n);
            } else {
                fills[kind](r, in + at, n);
            }
            at += n;
        }
        round_trip(in, size);
    }
}

/* As small as zlib's with that window. */
static void test_size(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(7);
    g_autofree uint8_t *in = g_malloc(65536);

    fill_text(r, in, 65536);
    g_assert_cmpuint(round_trip(in, 65536), <=, zlib_size(in, 65536));
    fill_skewed(r, in, 65536);
    g_assert_cmpuint(round_trip(in, 65536), <=, zlib_size(in, 65536) * 101 / 100);
}

/* What does not fit says so, and writes nothing behind the end. */
static void test_room(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(8);
    g_autofree uint8_t *in = g_malloc(65536);
    size_t full;

    fill_random(r, in, 65536);
    g_assert_cmpuint(deflater_run(deflater, in, 65536, packed, 65535), ==, 0);
    fill_text(r, in, 65536);
    full = round_trip(in, 65536);
    for (size_t room = 0; room < full + 16; room += room + 40 < full || room > full + 9 ? 37 : 1) {
        size_t n;

        memset(packed, 0x5a, full + 64);
        n = deflater_run(deflater, in, 65536, packed, room);
        g_assert_cmpuint(n, ==, room < full ? 0 : n);
        if (room >= full + 8) {
            g_assert_cmpuint(n, ==, full);
        }
        for (size_t i = room; i < full + 64; i++) {
            g_assert_cmphex(packed[i], ==, 0x5a);
        }
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    deflater = deflater_new();
    packed = g_malloc(ROOM);
    g_test_add_func("/qcow2/deflate/contents", test_contents);
    g_test_add_func("/qcow2/deflate/short", test_short);
    g_test_add_func("/qcow2/deflate/window", test_window);
    g_test_add_func("/qcow2/deflate/mixture", test_mixture);
    g_test_add_func("/qcow2/deflate/size", test_size);
    g_test_add_func("/qcow2/deflate/room", test_room);
    ret = g_test_run();
    deflater_free(deflater);
    g_free(packed);
    return ret;
}
