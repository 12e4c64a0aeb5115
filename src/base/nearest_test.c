/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/nearest.h"

static const char *const names[] = { "virtio-blk-pci", "virtio-net-pci", "isa-serial", "hpet", NULL };

static void test_match(void)
{
    g_assert_cmpstr(nearest_match("virtio-blk-pcie", names), ==, "virtio-blk-pci");
    g_assert_cmpstr(nearest_match("virtio-bkl-pci", names), ==, "virtio-blk-pci");
    g_assert_cmpstr(nearest_match("virtio-net", names), ==, "virtio-net-pci");
    g_assert_cmpstr(nearest_match("ISA-serial", names), ==, "isa-serial");
    g_assert_null(nearest_match("zzzzzz", names));
    g_assert_null(nearest_match("", names));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nearest/match", test_match);
    return g_test_run();
}
