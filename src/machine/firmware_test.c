/* What firmware is told: the ACPI loader's script, carried out here as firmware does, and SMBIOS.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/firmware.h"

#include "hw/acpi/acpi_part.h"
#include "machine/smbios.h"

#include <string.h>

#define RSDP_AT   0x000f5a00u
#define TABLES_AT 0x1ffe0000u

static const uint32_t apic_ids[] = { 0, 1, 2, 3 };

static uint32_t get32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, 4);
    return GUINT32_FROM_LE(value);
}

static uint8_t sum(const uint8_t *p, uint32_t length)
{
    uint8_t total = 0;
    for (uint32_t i = 0; i < length; i++) {
        total += p[i];
    }
    return total;
}

typedef struct Placed {
    GByteArray *tables;
    uint8_t rsdp[ACPI_RSDP_SIZE];
} Placed;

static uint8_t *file_of(Placed *p, const char *name, uint32_t *size)
{
    if (!strcmp(name, "etc/acpi/rsdp")) {
        *size = ACPI_RSDP_SIZE;
        return p->rsdp;
    }
    g_assert_cmpstr(name, ==, "etc/acpi/tables");
    *size = p->tables->len;
    return p->tables->data;
}

static void carry_out(Placed *p, const GByteArray *script)
{
    unsigned allocated = 0;
    g_assert_cmpuint(script->len % 128, ==, 0);
    for (guint at = 0; at < script->len; at += 128) {
        const uint8_t *entry = script->data + at;
        uint32_t size;
        uint8_t *file = file_of(p, (const char *)entry + 4, &size);
        switch (get32(entry)) {
        case 1:
            allocated++;
            g_assert_cmpuint(get32(entry + 60) & (get32(entry + 60) - 1), ==, 0);
            break;
        case 2: {
            g_assert_cmpuint(allocated, ==, 2);
            g_assert_cmpstr((const char *)entry + 60, ==, "etc/acpi/tables");
            uint32_t offset = get32(entry + 116), width = entry[120];
            uint64_t value = 0;
            g_assert_cmpuint(offset + width, <=, size);
            memcpy(&value, file + offset, width);
            value += TABLES_AT;
            memcpy(file + offset, &value, width);
            break;
        }
        case 3: {
            uint32_t offset = get32(entry + 60), start = get32(entry + 64), length = get32(entry + 68);
            g_assert_cmpuint(start + length, <=, size);
            file[offset] -= sum(file + start, length);
            break;
        }
        default:
            g_assert_not_reached();
        }
    }
}

/* The table at an address; its checksum must be right, but for FACS. */
static const uint8_t *table_at(Placed *p, uint64_t address, const char *signature)
{
    g_assert_cmpuint(address, >=, TABLES_AT);
    uint32_t offset = address - TABLES_AT;
    g_assert_cmpuint(offset, <, p->tables->len);
    const uint8_t *table = p->tables->data + offset;
    g_assert_cmpmem(table, 4, signature, 4);
    uint32_t length = get32(table + 4);
    g_assert_cmpuint(offset + length, <=, p->tables->len);
    if (strcmp(signature, "FACS") != 0) {
        g_assert_cmphex(sum(table, length), ==, 0);
    }
    return table;
}

static void test_loader(void)
{
    AcpiBoard board = {
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
        .serial_ports = 1,
        .pci = true,
        .pci_mem32 = { 0x20000000, 0xdec00000 },
    };
    AcpiLinks *links = acpi_links_new();
    Placed p;
    p.tables = acpi_build(&board, 0, links, NULL);
    g_assert_nonnull(p.tables);
    memcpy(p.rsdp, p.tables->data, ACPI_RSDP_SIZE);
    g_autoptr(GByteArray) script = acpi_loader_script(links, NULL);
    carry_out(&p, script);
    g_assert_cmpmem(p.rsdp, 8, "RSD PTR ", 8);
    g_assert_cmphex(sum(p.rsdp, 20), ==, 0);
    g_assert_cmphex(sum(p.rsdp, 36), ==, 0);
    const uint8_t *rsdt = table_at(&p, get32(p.rsdp + 16), "RSDT"),
                  *xsdt = table_at(&p, get32(p.rsdp + 24), "XSDT");
    static const char *const names[] = { "FACP", "APIC", "HPET" };
    g_assert_cmpuint(get32(rsdt + 4), ==, 36 + 3 * 4);
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *table = table_at(&p, get32(rsdt + 36 + 4 * i), names[i]);
        g_assert_true(table_at(&p, get32(xsdt + 36 + 8 * i), names[i]) == table);
    }
    const uint8_t *fadt = table_at(&p, get32(rsdt + 36), "FACP");
    table_at(&p, get32(fadt + 36), "FACS");
    g_assert_true(table_at(&p, get32(fadt + 40), "DSDT") == table_at(&p, get32(fadt + 140), "DSDT"));
    g_byte_array_unref(p.tables);
    acpi_links_free(links);
}

/* What firmware is told of a page: a place for it, and to write back where it is. */
static void test_loader_part(void)
{
    AcpiPart part = { .page_file = "etc/page", .address_file = "etc/address", .told = 40 };
    g_autoptr(GPtrArray) parts = g_ptr_array_new();
    g_ptr_array_add(parts, &part);
    AcpiLinks *links = acpi_links_new();
    g_autoptr(GByteArray) script = acpi_loader_script(links, parts);
    g_assert_cmpuint(script->len, ==, 4 * 128);
    const uint8_t *allocate = script->data + 2 * 128, *write = script->data + 3 * 128;
    g_assert_cmpuint(get32(allocate), ==, 1);
    g_assert_cmpstr((const char *)allocate + 4, ==, "etc/page");
    g_assert_cmpuint(get32(allocate + 60), ==, 4096);
    g_assert_cmpuint(get32(write), ==, 4);
    g_assert_cmpstr((const char *)write + 4, ==, "etc/address");
    g_assert_cmpstr((const char *)write + 60, ==, "etc/page");
    g_assert_cmpuint(get32(write + 116), ==, 0);
    g_assert_cmpuint(get32(write + 120), ==, 40);
    g_assert_cmpuint(write[124], ==, 8);
    acpi_links_free(links);
}

static void test_smbios(void)
{
    MachineClass *mc = machine_class_find("pc", NULL);
    Machine machine = { 0 };
    machine.parent_obj.klass = (ObjectClass *)mc;
    machine.smp = (MachineSmp){ .cpus = 2, .max_cpus = 2, .sockets = 2, .dies = 1, .cores = 1, .threads = 1 };
    machine.ram_size = UINT64_C(40) << 30;
    machine.below_4g = UINT64_C(3) << 30;
    machine.above_4g = machine.ram_size - machine.below_4g;
    memcpy(machine.uuid, "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10", 16);
    unsigned count, largest, seen = 0, biggest = 0, kinds[128] = { 0 };
    g_autoptr(GByteArray) t = smbios_build(&machine, &count, &largest, NULL);
    for (guint at = 0; at < t->len; seen++) {
        const uint8_t *s = t->data + at;
        g_assert_cmpuint(s[0], <, 128);
        kinds[s[0]]++;
        if (s[0] == 1) {
            g_assert_cmpmem(s + 8, 8, "\x04\x03\x02\x01\x06\x05\x08\x07", 8);
            g_assert_cmpstr((const char *)s + s[1], ==, "Rhea");
        }
        guint end = at + s[1];
        while (t->data[end] || t->data[end + 1]) {
            end++;
            g_assert_cmpuint(end + 1, <, t->len);
        }
        biggest = MAX(biggest, end + 2 - at);
        at = end + 2;
    }
    g_assert_cmpuint(seen, ==, count);
    g_assert_cmpuint(biggest, ==, largest);
    g_assert_cmpuint(kinds[4], ==, 2);
    g_assert_cmpuint(kinds[17], ==, 3); /* of at most 16 GiB */
    g_assert_cmpuint(kinds[19], ==, 2);
    g_assert_cmpuint(kinds[127], ==, 1);
}

static void expect_refused(const char *json, const char *part)
{
    GError *error = NULL;
    json_object *options = json_tokener_parse(json);
    g_assert_false(smbios_check_options(options, &error));
    g_assert_nonnull(strstr(error->message, part));
    g_clear_error(&error);
    json_object_put(options);
}

/* The string of a number behind a structure. */
static const char *string_of(const uint8_t *s, unsigned number)
{
    const char *text = (const char *)s + s[1];
    while (--number) {
        text += strlen(text) + 1;
    }
    return text;
}

static void test_smbios_options(void)
{
    static char said[] =
        "[{\"type\":\"1\",\"serial\":\"ds=nocloud\",\"uuid\":\"00112233-4455-6677-8899-aabbccddeeff\"},"
        "{\"type\":\"0\",\"vendor\":\"V\",\"release\":\"3.4\"},{\"type\":\"2\"},"
        "{\"type\":\"11\",\"value\":[\"one\",\"two\"]},{\"type\":\"11\",\"value\":\"three\"}]";
    Machine machine = { 0 };
    machine.parent_obj.klass = (ObjectClass *)machine_class_find("pc", NULL);
    machine.smp = (MachineSmp){ .cpus = 1, .max_cpus = 1, .sockets = 1, .dies = 1, .cores = 1, .threads = 1 };
    machine.ram_size = machine.below_4g = 64 << 20;
    machine.smbios = said;
    unsigned count, largest, kinds[128] = { 0 };
    g_autoptr(GByteArray) t = smbios_build(&machine, &count, &largest, NULL);
    for (guint at = 0; at < t->len;) {
        const uint8_t *s = t->data + at;
        kinds[s[0]]++;
        if (s[0] == 1) {
            g_assert_cmpstr(string_of(s, s[7]), ==, "ds=nocloud");
            g_assert_cmpmem(s + 8, 8, "\x33\x22\x11\x00\x55\x44\x77\x66", 8);
        } else if (s[0] == 0) {
            g_assert_cmpstr(string_of(s, s[4]), ==, "V");
            g_assert_cmpuint(s[20] << 8 | s[21], ==, 0x304);
        } else if (s[0] == 11) {
            g_assert_cmpuint(s[4], ==, 3);
            g_assert_cmpstr(string_of(s, 3), ==, "three");
        }
        at += s[1];
        while (t->data[at] || t->data[at + 1]) {
            at++;
        }
        at += 2;
    }
    g_assert_cmpuint(kinds[0], ==, 1);
    g_assert_cmpuint(kinds[2], ==, 1);
    g_assert_cmpuint(kinds[11], ==, 1);
    GError *error = NULL;
    static char missing[] = "[{\"file\":\"/nonexistent/smbios\"}]";
    machine.smbios = missing;
    g_assert_null(smbios_build(&machine, &count, &largest, &error));
    g_assert_nonnull(strstr(error->message, "/nonexistent/smbios"));
    g_clear_error(&error);
    expect_refused("{\"type\":\"1\",\"uuid\":\"x\"}", "is no UUID");
    expect_refused("{\"type\":\"0\",\"release\":\"1\"}", "MAJOR.MINOR");
    expect_refused("{\"type\":\"9\"}", "type 9");
    expect_refused("{\"type\":\"1\",\"sreial\":\"x\"}", "sreial");
    expect_refused("{\"serial\":\"x\"}", "type=N or file=FILE");
    expect_refused("{\"type\":\"17\",\"speed\":\"fast\"}", "speed=fast");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/firmware/loader", test_loader);
    g_test_add_func("/firmware/loader-part", test_loader_part);
    g_test_add_func("/firmware/smbios", test_smbios);
    g_test_add_func("/firmware/smbios-options", test_smbios_options);
    return g_test_run();
}
