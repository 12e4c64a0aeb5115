/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/acpi_tables.h"

#include "base/error.h"
#include "hw/acpi/acpi_part.h"

#include <string.h>

#define ADDRESS 0xe0000u

static const uint32_t apic_ids[] = { 0, 1, 2, 3 };

static AcpiBoard pc_board(void)
{
    return (AcpiBoard){
        .apic_ids = apic_ids,
        .cpus = 2,
        .max_cpus = 4,
        .ioapic_address = 0xfec00000,
        .irq0_override = true,
        .pic = true,
        .sci_irq = 9,
        .pm_base = 0x600,
        .gpe0_base = 0xafe0,
        .gpe0_length = 4,
        .reset_register = true,
        .hpet = true,
        .rtc = true,
        .i8042 = true,
        .serial_ports = 2,
        .pci = true,
        .pci_mem32 = { 0xc0000000, 0x3ec00000 },
        .pci_mem64 = { UINT64_C(0x800000000), UINT64_C(0x800000000) },
    };
}

static AcpiBoard microvm_board(void)
{
    return (AcpiBoard){
        .apic_ids = apic_ids,
        .cpus = 1,
        .max_cpus = 1,
        .ioapic_address = 0xfec00000,
        .ged = { 0xfea00000, 0x210 },
        .ged_gsi = 9,
        .serial_ports = 1,
        .virtio_mmio = { 0xfeb00000, 0x1000 },
        .virtio_mmio_slots = 8,
        .virtio_mmio_gsi = 16,
        .legacy_free = true,
    };
}

static uint32_t get32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint8_t sum(const uint8_t *p, unsigned length)
{
    uint8_t total = 0;
    while (length--) {
        total += *p++;
    }
    return total;
}

/* The table of a signature, found through RSDP and XSDT as a kernel does, with its checksum verified. */
static const uint8_t *find_table(GByteArray *image, const char *signature)
{
    g_assert_cmpmem(image->data, 8, "RSD PTR ", 8);
    g_assert_cmpuint(sum(image->data, 20), ==, 0);
    g_assert_cmpuint(sum(image->data, 36), ==, 0);
    const uint8_t *xsdt = image->data + (get32(image->data + 24) - ADDRESS);
    g_assert_cmpmem(xsdt, 4, "XSDT", 4);
    g_assert_cmpuint(sum(xsdt, get32(xsdt + 4)), ==, 0);
    for (unsigned i = 36; i < get32(xsdt + 4); i += 8) {
        const uint8_t *table = image->data + (get32(xsdt + i) - ADDRESS);
        g_assert_cmpuint(table + get32(table + 4) - image->data, <=, image->len);
        g_assert_cmpuint(sum(table, get32(table + 4)), ==, 0);
        if (memcmp(table, signature, 4) == 0) {
            return table;
        }
    }
    return NULL;
}

static const uint8_t *the_table(GByteArray *image, const char *signature)
{
    const uint8_t *table = find_table(image, signature);
    if (!table) {
        g_error("no table %s", signature);
    }
    return table;
}

static void test_pc(void)
{
    AcpiBoard board = pc_board();
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) image = acpi_build(&board, ADDRESS, NULL, &error);
    g_assert_no_error(error);

    const uint8_t *fadt = the_table(image, "FACP");
    g_assert_nonnull(fadt);
    g_assert_cmpuint(get32(fadt + 4), ==, 276);
    g_assert_cmpuint(get32(fadt + 56), ==, 0x600);
    g_assert_cmpuint(get32(fadt + 64), ==, 0x604);
    g_assert_cmpuint(get32(fadt + 76), ==, 0x608);
    g_assert_cmpuint(fadt[108], ==, 0x32);
    g_assert_cmpuint(get32(fadt + 112) & (1u << 20), ==, 0);
    const uint8_t *facs = image->data + (get32(fadt + 36) - ADDRESS);
    g_assert_cmpmem(facs, 4, "FACS", 4);
    g_assert_cmpuint(get32(fadt + 36) % 64, ==, 0);
    const uint8_t *dsdt = image->data + (get32(fadt + 40) - ADDRESS);
    g_assert_cmpmem(dsdt, 4, "DSDT", 4);
    g_assert_cmpuint(sum(dsdt, get32(dsdt + 4)), ==, 0);

    /* The MADT: two CPUs enabled, two not, one I/O APIC, overrides of IRQ 0 and the level ones. */
    const uint8_t *madt = the_table(image, "APIC");
    unsigned enabled = 0, cpus = 0, ioapics = 0, overrides = 0;
    for (unsigned i = 44; i < get32(madt + 4); i += madt[i + 1]) {
        g_assert_cmpuint(madt[i + 1], >, 0);
        cpus += madt[i] == 0;
        enabled += madt[i] == 0 && (madt[i + 4] & 1);
        ioapics += madt[i] == 1;
        overrides += madt[i] == 2;
    }
    g_assert_cmpuint(cpus, ==, 4);
    g_assert_cmpuint(enabled, ==, 2);
    g_assert_cmpuint(ioapics, ==, 1);
    g_assert_cmpuint(overrides, ==, 5);
    g_assert_nonnull(find_table(image, "HPET"));
}

static void test_reduced(void)
{
    AcpiBoard board = microvm_board();
    g_autoptr(GByteArray) image = acpi_build(&board, ADDRESS, NULL, NULL);
    const uint8_t *fadt = the_table(image, "FACP");
    g_assert_cmpuint(get32(fadt + 112) & (1u << 20), !=, 0);
    g_assert_cmpuint(get32(fadt + 36), ==, 0);
    g_assert_cmpuint(get32(fadt + 244 + 4), ==, 0xfea00200); /* sleep control register */
    g_assert_null(find_table(image, "HPET"));
}

static void test_too_many_cpus(void)
{
    AcpiBoard board = pc_board();
    board.cpus = 5;
    g_autoptr(GError) error = NULL;
    g_assert_null(acpi_build(&board, ADDRESS, NULL, &error));
    g_assert_error(error, RHEA_ERROR, ERROR_CLASS_GENERIC);
}

/* Writes each table to a file of a directory, so that a disassembler can judge it: --dump DIR. */
static int dump(const char *directory, const char *name, AcpiBoard board)
{
    g_autoptr(GByteArray) image = acpi_build(&board, ADDRESS, NULL, NULL);
    const uint8_t *fadt = the_table(image, "FACP");
    const uint8_t *dsdt = image->data + (get32(fadt + 40) - ADDRESS);
    const struct {
        const char *suffix;
        const uint8_t *table;
    } all[] = { { "facp", fadt }, { "apic", the_table(image, "APIC") }, { "dsdt", dsdt } };
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        g_autofree char *path = g_strdup_printf("%s/%s-%s.aml", directory, name, all[i].suffix);
        if (!g_file_set_contents(path, (const char *)all[i].table, get32(all[i].table + 4), NULL)) {
            return 1;
        }
    }
    return 0;
}

/* A device's table, with and without firmware that places its page. */
static void test_part(void)
{
    static const uint8_t body[] = { 0x08, 'V', 'G', 'I', 'A', 0x0c, 0, 0, 0, 0 };
    AcpiPart part = { .address_at = 6, .page_file = "etc/page", .address_file = "etc/address", .told = 40 };
    AcpiBoard board = pc_board();
    part.aml = g_byte_array_append(g_byte_array_new(), body, sizeof(body));
    g_autoptr(GPtrArray) parts = g_ptr_array_new();
    g_ptr_array_add(parts, &part);
    board.parts = parts;
    g_autoptr(GByteArray) image = acpi_build(&board, ADDRESS, NULL, NULL);
    const uint8_t *table = find_table(image, "SSDT");
    g_assert_nonnull(table);
    g_assert_cmphex(get32(table + 36 + 6), ==, part.page_gpa);
    g_assert_cmphex(part.page_gpa % 4096, ==, 0);
    g_assert_cmphex(part.page_gpa + 4096, <=, ADDRESS + image->len);
    AcpiLinks *links = acpi_links_new();
    g_autoptr(GByteArray) placed = acpi_build(&board, 0, links, NULL);
    unsigned found = 0;
    for (guint i = 0; i < links->pointers->len; i++) {
        const AcpiPointer *p = &g_array_index(links->pointers, AcpiPointer, i);
        if (p->file) {
            g_assert_cmpstr(p->file, ==, "etc/page");
            g_assert_cmpuint(p->size, ==, 4);
            g_assert_cmphex(get32(placed->data + p->offset), ==, 0);
            found++;
        }
    }
    g_assert_cmpuint(found, ==, 1);
    g_assert_cmpuint(placed->len, <, image->len);
    acpi_links_free(links);
    for (unsigned i = 0; i < ACPI_MAX_PARTS; i++) {
        g_ptr_array_add(parts, &part);
    }
    GError *error = NULL;
    g_assert_null(acpi_build(&board, 0, NULL, &error));
    g_clear_error(&error);
    g_byte_array_unref(part.aml);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--dump") == 0) {
        return dump(argv[2], "pc", pc_board()) || dump(argv[2], "microvm", microvm_board());
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/acpi/pc", test_pc);
    g_test_add_func("/acpi/hardware-reduced", test_reduced);
    g_test_add_func("/acpi/too-many-cpus", test_too_many_cpus);
    g_test_add_func("/acpi/part", test_part);
    return g_test_run();
}
