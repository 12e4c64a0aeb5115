/* CRC-32C against RFC 3720's examples. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/crc32c.h"

#include <glib.h>

static void test_examples(void)
{
    uint8_t zeros[32] = { 0 }, ones[32], up[32];

    for (int i = 0; i < 32; i++) {
        ones[i] = 0xff;
        up[i] = (uint8_t)i;
    }
    g_assert_cmphex(crc32c(0, zeros, 32), ==, 0x8a9136aa);
    g_assert_cmphex(crc32c(0, ones, 32), ==, 0x62a8ab43);
    g_assert_cmphex(crc32c(0, up, 32), ==, 0x46dd794e);
    g_assert_cmphex(crc32c(0, "123456789", 9), ==, 0xe3069283);
}

static void test_pieces(void)
{
    uint8_t data[300];

    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7);
    }
    uint32_t whole = crc32c(0, data, sizeof(data));
    g_assert_cmphex(whole, ==, crc32c_portable(0, data, sizeof(data)));
    for (size_t cut = 0; cut <= sizeof(data); cut++) {
        g_assert_cmphex(crc32c(crc32c(0, data, cut), data + cut, sizeof(data) - cut), ==, whole);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/crc32c/examples", test_examples);
    g_test_add_func("/base/crc32c/pieces", test_pieces);
    return g_test_run();
}
