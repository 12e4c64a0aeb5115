/* The generation ID: what ACPI's tables and the guest's memory get, and what follows a load.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/acpi/acpi_part.h"
#include "hw/acpi/vmgenid.h"
#include "hw/firmware/fw_cfg.h"

#define GUID "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"
#define GPA  0x5028u
static const uint8_t guid_bytes[16] = { 0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b,
                                        0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91, 0xfb, 0x87 };

static TestBoard *b;
static FwCfg *fw_cfg;
static unsigned raised, last_event;

static void raise_gpe(Device *pm, unsigned event)
{
    raised++;
    last_event = event;
}

static void setup(void)
{
    b = test_board_new();
    fw_cfg = FW_CFG(test_board_add(b, TYPE_FW_CFG_IO, NULL, NULL));
    b->env.fw_cfg = fw_cfg;
    b->env.acpi_parts = g_ptr_array_new();
    b->env.raise_gpe = raise_gpe;
    raised = 0;
}

static void teardown(void)
{
    device_unrealize_all(b->root);
    g_assert_cmpuint(b->env.acpi_parts->len, ==, 0);
    g_ptr_array_unref(b->env.acpi_parts);
    test_board_free(b);
}

/* Firmware's part: the page to memory, the address back. */
static void place(uint64_t gpa)
{
    uint8_t page[ACPI_PART_PAGE_SIZE];
    g_assert_true(fw_cfg_read_file(fw_cfg, "etc/vmgenid_guid", page, sizeof(page)));
    address_space_write(b->memory, gpa, MEMTXATTRS_NONE, page + 40, 16);
    gpa = GUINT64_TO_LE(gpa);
    fw_cfg_write_file(fw_cfg, "etc/vmgenid_addr", &gpa, sizeof(gpa));
}

static void load_again(Device *dev)
{
    GError *error = NULL;
    const VmState *vms = DEVICE_GET_CLASS(dev)->vmstate;
    g_autoptr(GByteArray) state = vmstate_save(vms, dev, &error);
    g_assert_true(vmstate_load(vms, dev, state->data, state->len, &error));
    test_board_advance(b, 1000);
}

static void test_fixed(void)
{
    GError *error = NULL;
    setup();
    g_assert_null(vmgenid_query(b->root, &error));
    g_assert_true(g_str_has_prefix(error->message, "VM Generation ID device not found"));
    g_clear_error(&error);
    Device *dev = test_board_add(b, "vmgenid", NULL, "guid", GUID, NULL);
    g_autofree char *guid = vmgenid_query(b->root, &error);
    g_assert_cmpstr(guid, ==, GUID);
    place(GPA);
    uint8_t *memory = b->ram.ram->host + GPA;
    g_assert_cmpmem(memory, 16, guid_bytes, 16);
    load_again(dev); /* the state has the same ID */
    g_assert_cmpuint(raised, ==, 0);
    memory[0] ^= 1;
    load_again(dev);
    g_assert_cmpuint(raised, ==, 1);
    g_assert_cmpuint(last_event, ==, 5);
    g_assert_cmpmem(memory, 16, guid_bytes, 16);
    /* Whatever address a guest tells, memory alone is written. */
    static const uint64_t bad[] = { 0, 0xfffffffffffffff8, 0xfffff0000000, TEST_RAM_SIZE - 8 };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint64_t gpa = GUINT64_TO_LE(bad[i]);
        fw_cfg_write_file(fw_cfg, "etc/vmgenid_addr", &gpa, sizeof(gpa));
        load_again(dev);
        g_assert_cmpuint(raised, ==, 1);
    }
    teardown();
}

static void test_auto(void)
{
    setup();
    Device *dev = test_board_add(b, "vmgenid", NULL, NULL);
    g_autofree char *first = vmgenid_query(b->root, NULL);
    place(GPA);
    uint8_t before[16];
    memcpy(before, b->ram.ram->host + GPA, 16);
    load_again(dev);
    g_autofree char *second = vmgenid_query(b->root, NULL);
    g_assert_cmpstr(first, !=, second);
    g_assert_cmpuint(raised, ==, 1);
    g_assert_cmpint(memcmp(before, b->ram.ram->host + GPA, 16), !=, 0);
    teardown();
}

static void test_refused(void)
{
    GError *error = NULL;
    setup();
    Device *dev = device_new_unattached(b->root, "vmgenid", NULL);
    g_assert_true(object_property_parse(OBJECT(dev), "guid", "324e6eaf", NULL));
    g_assert_false(device_realize(dev, NULL, &b->env, &error));
    g_assert_nonnull(strstr(error->message, "'324e6eaf'"));
    g_clear_error(&error);
    b->env.raise_gpe = NULL; /* microvm */
    g_assert_true(object_property_parse(OBJECT(dev), "guid", "auto", NULL));
    g_assert_false(device_realize(dev, NULL, &b->env, &error));
    g_assert_nonnull(strstr(error->message, "general purpose events"));
    g_clear_error(&error);
    b->env.raise_gpe = raise_gpe;
    test_board_add(b, "vmgenid", NULL, NULL);
    g_assert_false(device_realize(dev, NULL, &b->env, &error)); /* a second one */
    g_assert_nonnull(strstr(error->message, "etc/vmgenid_addr"));
    g_clear_error(&error);
    teardown();
}

static void test_aml(void)
{
    setup();
    test_board_add(b, "vmgenid", NULL, NULL);
    g_assert_cmpuint(b->env.acpi_parts->len, ==, 1);
    const AcpiPart *part = b->env.acpi_parts->pdata[0];
    static const uint8_t head[] = { 0x08, '\\', 'V', 'G', 'I', 'A', 0x0c, 0, 0, 0, 0 };
    g_assert_cmpmem(part->aml->data, sizeof(head), head, sizeof(head));
    g_assert_cmpuint(part->address_at, ==, 7);
    g_assert_cmpuint(part->told, ==, 40);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmgenid/fixed", test_fixed);
    g_test_add_func("/vmgenid/auto", test_auto);
    g_test_add_func("/vmgenid/refused", test_refused);
    g_test_add_func("/vmgenid/aml", test_aml);
    return g_test_run();
}
