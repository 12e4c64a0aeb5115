/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/acpi_tables.h"

#include "base/error.h"
#include "hw/acpi/acpi_part.h"
#include "hw/acpi/aml.h"
#include "hw/acpi/ged.h"
#include "hw/acpi/pci_hotplug.h"
#include "hw/isa/ich9_lpc.h"

#include <string.h>

#define TABLE_HEADER_SIZE 36
#define OEM_ID            "RHEA  "
#define OEM_TABLE_ID      "RHEA    "
#define MAX_CPUS          4096

/* FADT flags, ACPI 6.4 table 5.10 */
#define FADT_WBINVD        (1u << 0)
#define FADT_PROC_C1       (1u << 2)
#define FADT_SLP_BUTTON    (1u << 5)
#define FADT_RTC_S4        (1u << 7)
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_HW_REDUCED    (1u << 20)

static void put(GByteArray *t, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = value >> (8 * i);
        g_byte_array_append(t, &byte, 1);
    }
}

static void put_text(GByteArray *t, const char *text, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        put(t, i < strlen(text) ? text[i] : ' ', 1);
    }
}

static void patch32(GByteArray *t, guint offset, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        t->data[offset + i] = value >> (8 * i);
    }
}

static uint8_t checksum(const uint8_t *data, guint length)
{
    uint8_t sum = 0;
    for (guint i = 0; i < length; i++) {
        sum += data[i];
    }
    return -sum;
}

static guint table_begin(GByteArray *t, const char *signature, uint8_t revision)
{
    while (t->len % 16) {
        put(t, 0, 1);
    }
    guint start = t->len;
    put_text(t, signature, 4);
    put(t, 0, 4); /* length */
    put(t, revision, 1);
    put(t, 0, 1); /* checksum */
    put_text(t, OEM_ID, 6);
    put_text(t, OEM_TABLE_ID, 8);
    put(t, 1, 4);
    put_text(t, "RHEA", 4);
    put(t, 1, 4);
    return start;
}

static void table_end(GByteArray *t, guint start)
{
    patch32(t, start + 4, t->len - start);
    t->data[start + 9] = checksum(t->data + start, t->len - start);
}

/* A generic address structure (5.2.3.2). */
static void put_gas(GByteArray *t, uint8_t space, uint8_t width, uint8_t access, uint64_t address)
{
    put(t, space, 1);
    put(t, address ? width : 0, 1);
    put(t, 0, 1);
    put(t, address ? access : 0, 1);
    put(t, address, 8);
}
#define GAS_MEMORY 0
#define GAS_IO     1

/* ---- DSDT ---- */
static void dsdt_named_device(GByteArray *t, const char *name, const char *eisa_id, unsigned uid,
                              GByteArray *resources)
{
    AmlMark device = aml_device(t, name);
    aml_name_eisa_id(t, "_HID", eisa_id);
    aml_name_integer(t, "_UID", uid);
    aml_name_integer(t, "_STA", 0xf);
    if (resources) {
        resource_end(resources);
        aml_name_buffer(t, "_CRS", resources);
        g_byte_array_unref(resources);
    }
    aml_end(t, device);
}

static void dsdt_cpus(GByteArray *t, const AcpiBoard *board)
{
    for (unsigned i = 0; i < board->cpus; i++) {
        char name[5];
        g_snprintf(name, sizeof(name), "C%03X", i);
        AmlMark device = aml_device(t, name);
        aml_name_string(t, "_HID", "ACPI0007");
        aml_name_integer(t, "_UID", i);
        aml_end(t, device);
    }
}

/* The interrupt link of one PIRQ register of the PIIX3 (82371SB data sheet, section 2.2.7) or ICH9 (316972,
 * 13.1.17). */
static void dsdt_pci_link(GByteArray *t, unsigned number)
{
    char link[] = { 'L', 'N', 'K', 'A' + number, 0 };
    g_autofree char *route = g_strdup_printf("\\_SB_.PCI0.ISA_.PRQ%u", number);
    static const uint32_t choices[] = { 5, 10, 11 };

    AmlMark device = aml_device(t, link);
    aml_name_eisa_id(t, "_HID", "PNP0C0F");
    aml_name_integer(t, "_UID", number);
    GByteArray *possible = g_byte_array_new();
    resource_interrupts(possible, true, true, choices, G_N_ELEMENTS(choices));
    resource_end(possible);
    aml_name_buffer(t, "_PRS", possible);
    g_byte_array_unref(possible);

    /* Present; enabled unless bit 7 of the route is set. */
    AmlMark method = aml_method(t, "_STA", 0, false);
    AmlMark branch = aml_if(t);
    aml_byte(t, AML_AND);
    aml_name_path(t, route);
    aml_integer(t, 0x80);
    aml_byte(t, AML_NULL_NAME);
    aml_byte(t, AML_RETURN);
    aml_integer(t, 0x09);
    aml_end(t, branch);
    aml_byte(t, AML_RETURN);
    aml_integer(t, 0x0b);
    aml_end(t, method);

    method = aml_method(t, "_DIS", 0, false);
    aml_byte(t, AML_OR);
    aml_name_path(t, route);
    aml_integer(t, 0x80);
    aml_name_path(t, route);
    aml_end(t, method);

    /* The interrupt number stands at byte 5 of an extended interrupt descriptor. */
    method = aml_method(t, "_CRS", 0, true);
    static const uint32_t none[] = { 0 };
    GByteArray *current = g_byte_array_new();
    resource_interrupts(current, true, true, none, 1);
    resource_end(current);
    aml_name_buffer(t, "RBUF", current);
    g_byte_array_unref(current);
    aml_byte(t, AML_CREATE_DWORD_FIELD);
    aml_name_path(t, "RBUF");
    aml_integer(t, 5);
    aml_name_path(t, "RIRQ");
    branch = aml_if(t);
    aml_byte(t, AML_LLESS);
    aml_name_path(t, route);
    aml_integer(t, 0x80);
    aml_byte(t, AML_STORE);
    aml_name_path(t, route);
    aml_name_path(t, "RIRQ");
    aml_end(t, branch);
    aml_byte(t, AML_RETURN);
    aml_name_path(t, "RBUF");
    aml_end(t, method);

    method = aml_method(t, "_SRS", 1, true);
    aml_byte(t, AML_CREATE_DWORD_FIELD);
    aml_byte(t, AML_ARG0);
    aml_integer(t, 5);
    aml_name_path(t, "SIRQ");
    aml_byte(t, AML_STORE);
    aml_name_path(t, "SIRQ");
    aml_name_path(t, route);
    aml_end(t, method);
    aml_end(t, device);
}

/* An entry of _PRT: through a link, or (link NULL) straight to a global system interrupt. */
static void dsdt_route(GByteArray *t, unsigned slot, unsigned pin, const char *link, unsigned gsi)
{
    AmlMark entry = aml_package(t, 4);
    aml_integer(t, slot << 16 | 0xffff);
    aml_integer(t, pin);
    if (link) {
        aml_name_path(t, link);
    } else {
        aml_integer(t, 0);
    }
    aml_integer(t, gsi);
    aml_end(t, entry);
}

static void dsdt_piix_routing(GByteArray *t)
{
    /* Slot s, pin p reaches PIRQ (s - 1 + p) mod 4 on the i440FX board. */
    aml_name(t, "_PRT");
    AmlMark table = aml_package(t, 31 * 4);
    for (unsigned slot = 1; slot < 32; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            g_autofree char *path = g_strdup_printf("\\_SB_.PCI0.LNK%c", 'A' + (slot - 1 + pin) % 4);
            dsdt_route(t, slot, pin, path, 0);
        }
    }
    aml_end(t, table);
}

/* One table for the 8259 pair, by links; one for the I/O APIC, whose inputs 16 to 23 are PIRQ A to H. */
static void dsdt_ich9_routing(GByteArray *t)
{
    for (int apic = 0; apic < 2; apic++) {
        aml_name(t, apic ? "PRTA" : "PRTP");
        AmlMark table = aml_package(t, 32 * 4);
        for (unsigned slot = 0; slot < 32; slot++) {
            for (unsigned pin = 0; pin < 4; pin++) {
                unsigned pirq = ich9_default_pirq(slot, (int)pin);
                g_autofree char *path = g_strdup_printf("\\_SB_.PCI0.LNK%c", 'A' + pirq);
                dsdt_route(t, slot, pin, apic ? NULL : path, apic ? ICH9_PIRQ_GSI + pirq : 0);
            }
        }
        aml_end(t, table);
    }
    AmlMark method = aml_method(t, "_PRT", 0, false);
    AmlMark branch = aml_if(t);
    aml_byte(t, AML_LEQUAL);
    aml_name_path(t, "\\PICF");
    aml_integer(t, 0);
    aml_byte(t, AML_RETURN);
    aml_name_path(t, "PRTP");
    aml_end(t, branch);
    aml_byte(t, AML_RETURN);
    aml_name_path(t, "PRTA");
    aml_end(t, method);
}

/* Which interrupt controller the system uses (5.8.1). */
static void dsdt_pic_mode(GByteArray *t)
{
    aml_name_integer(t, "\\PICF", 0);
    AmlMark method = aml_method(t, "\\_PIC", 1, false);
    aml_byte(t, AML_STORE);
    aml_byte(t, AML_ARG0);
    aml_name_path(t, "\\PICF");
    aml_end(t, method);
}

static void aml_or_into(GByteArray *t, const char *name, unsigned bits)
{
    aml_byte(t, AML_OR);
    aml_name_path(t, name);
    aml_integer(t, bits);
    aml_name_path(t, name);
}

/* Who controls PCI Express features: the system may have native hot-plug, PME, AER and the capability
 * structure, all that it asks for (6.2.11.3; PCI Firmware Specification 3.2, 4.5). */
static void dsdt_pci_osc(GByteArray *t)
{
    static const uint8_t uuid[16] = { 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
                                      0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66 };
    enum { UNKNOWN_UUID = 4, UNKNOWN_REVISION = 8, MASKED = 16, GRANTED = 0x1f };

    AmlMark method = aml_method(t, "_OSC", 4, true);
    aml_create_dword_field(t, AML_ARG3, 0, "CDW1");
    AmlMark known = aml_if(t);
    aml_byte(t, AML_LEQUAL);
    aml_byte(t, AML_ARG0);
    aml_buffer(t, uuid, sizeof(uuid));
    aml_create_dword_field(t, AML_ARG3, 8, "CDW3");
    aml_byte(t, AML_AND);
    aml_name_path(t, "CDW3");
    aml_integer(t, GRANTED);
    aml_byte(t, AML_LOCAL0);
    AmlMark branch = aml_if(t);
    aml_byte(t, AML_LNOT);
    aml_byte(t, AML_LEQUAL);
    aml_byte(t, AML_ARG1);
    aml_integer(t, 1);
    aml_or_into(t, "CDW1", UNKNOWN_REVISION);
    aml_end(t, branch);
    branch = aml_if(t);
    aml_byte(t, AML_LNOT);
    aml_byte(t, AML_LEQUAL);
    aml_name_path(t, "CDW3");
    aml_byte(t, AML_LOCAL0);
    aml_or_into(t, "CDW1", MASKED);
    aml_end(t, branch);
    aml_byte(t, AML_STORE);
    aml_byte(t, AML_LOCAL0);
    aml_name_path(t, "CDW3");
    aml_end(t, known);
    AmlMark otherwise = aml_else(t);
    aml_or_into(t, "CDW1", UNKNOWN_UUID);
    aml_end(t, otherwise);
    aml_byte(t, AML_RETURN);
    aml_byte(t, AML_ARG3);
    aml_end(t, method);
}

static void put_window(GByteArray *r, uint64_t first, uint64_t end)
{
    if (first < end) {
        resource_dword_memory(r, first, end - 1);
    }
}

static void dsdt_pci_windows(GByteArray *t, const AcpiBoard *board)
{
    uint64_t first = board->pci_mem32.base, end = first + board->pci_mem32.size;
    uint64_t hole = CLAMP(board->ecam.base, first, end),
             hole_end = CLAMP(board->ecam.base + board->ecam.size, first, end);
    GByteArray *windows = g_byte_array_new();
    resource_word_bus(windows, 0, 0xff);
    resource_io(windows, 0xcf8, 8);
    resource_word_io(windows, 0, 0xcf7);
    resource_word_io(windows, 0xd00, 0xffff);
    resource_dword_memory(windows, 0xa0000, 0xbffff);
    if (board->ecam.size) {
        put_window(windows, first, hole);
        put_window(windows, hole_end, end);
    } else {
        put_window(windows, first, end);
    }
    if (board->pci_mem64.size) {
        resource_qword_memory(windows, board->pci_mem64.base,
                              board->pci_mem64.base + board->pci_mem64.size - 1);
    }
    resource_end(windows);
    aml_name_buffer(t, "_CRS", windows);
    g_byte_array_unref(windows);
}

static void dsdt_pci_isa(GByteArray *t, const AcpiBoard *board)
{
    AmlMark isa = aml_device(t, "ISA_");
    aml_name_integer(t, "_ADR", board->ich9 ? 0x001f0000 : 0x00010000);
    aml_operation_region(t, "PIRQ", AML_SPACE_PCI_CONFIG, 0x60, board->ich9 ? 12 : 4);
    AmlMark field = aml_field(t, "PIRQ", 1);
    for (unsigned i = 0; i < (board->ich9 ? 8 : 4); i++) {
        char name[] = { 'P', 'R', 'Q', '0' + i, 0 };
        if (i == 4) {
            aml_field_skip(t, 32);
        }
        aml_field_unit(t, name, 8);
    }
    aml_end(t, field);
    aml_end(t, isa);
    for (unsigned i = 0; i < (board->ich9 ? 8 : 4); i++) {
        dsdt_pci_link(t, i);
    }
}

/* What keeps the operating system's hands off the configuration window. */
static void dsdt_ecam(GByteArray *t, const AcpiBoard *board)
{
    AmlMark device = aml_device(t, "DRAC");
    aml_name_eisa_id(t, "_HID", "PNP0C01");
    GByteArray *r = g_byte_array_new();
    resource_memory32(r, board->ecam.base, board->ecam.size);
    resource_end(r);
    aml_name_buffer(t, "_CRS", r);
    g_byte_array_unref(r);
    aml_end(t, device);
}

/* ---- hot-plug ---- */
#define HOTPLUG_FIRST 2 /* what is below is the board's */
enum { NOTIFY_CHECK = 1, NOTIFY_EJECT = 3 };

static void slot_name(char *name, unsigned slot)
{
    g_snprintf(name, 5, "S%02X_", slot << 3);
}

/* Notifies the devices of the slots whose bits are set in a local variable. */
static void dsdt_notify_slots(GByteArray *t, uint8_t local, unsigned what)
{
    for (unsigned slot = HOTPLUG_FIRST; slot < 32; slot++) {
        char name[5];
        slot_name(name, slot);
        AmlMark branch = aml_if(t);
        aml_byte(t, AML_AND);
        aml_byte(t, local);
        aml_integer(t, UINT32_C(1) << slot);
        aml_byte(t, AML_NULL_NAME);
        aml_byte(t, AML_NOTIFY);
        aml_name_path(t, name);
        aml_integer(t, what);
        aml_end(t, branch);
    }
}

/* Inside PCI0: a device a slot with an eject method, and the method that the general purpose event calls. */
static void dsdt_pci_hotplug(GByteArray *t, const AcpiBoard *board)
{
    aml_operation_region(t, "PCST", AML_SPACE_IO, board->pci_hotplug, 12);
    AmlMark field = aml_field(t, "PCST", 3);
    aml_field_unit(t, "PCIU", 32);
    aml_field_unit(t, "PCID", 32);
    aml_field_unit(t, "B0EJ", 32);
    aml_end(t, field);
    for (unsigned slot = HOTPLUG_FIRST; slot < 32; slot++) {
        char name[5];
        slot_name(name, slot);
        AmlMark device = aml_device(t, name);
        aml_name_integer(t, "_ADR", slot << 16);
        aml_name_integer(t, "_SUN", slot);
        AmlMark method = aml_method(t, "_EJ0", 1, false);
        aml_byte(t, AML_STORE);
        aml_integer(t, UINT32_C(1) << slot);
        aml_name_path(t, "B0EJ");
        aml_end(t, method);
        aml_end(t, device);
    }
    AmlMark method = aml_method(t, "PCNT", 0, true);
    aml_byte(t, AML_STORE);
    aml_name_path(t, "PCIU");
    aml_byte(t, AML_LOCAL0);
    aml_byte(t, AML_STORE);
    aml_name_path(t, "PCID");
    aml_byte(t, AML_LOCAL1);
    dsdt_notify_slots(t, AML_LOCAL0, NOTIFY_CHECK);
    dsdt_notify_slots(t, AML_LOCAL1, NOTIFY_EJECT);
    aml_end(t, method);
}

static void dsdt_hotplug_event(GByteArray *t)
{
    char name[8];
    AmlMark scope = aml_scope(t, "\\_GPE");
    g_snprintf(name, sizeof(name), "_E%02X", ACPI_PCI_HOTPLUG_EVENT);
    AmlMark method = aml_method(t, name, 0, false);
    aml_name_path(t, "\\_SB_.PCI0.PCNT");
    aml_end(t, method);
    aml_end(t, scope);
}

static void dsdt_pci(GByteArray *t, const AcpiBoard *board)
{
    if (board->ich9) {
        dsdt_pic_mode(t);
    }
    AmlMark bridge = aml_device(t, "PCI0");
    aml_name_eisa_id(t, "_HID", board->ich9 ? "PNP0A08" : "PNP0A03");
    if (board->ich9) {
        aml_name_eisa_id(t, "_CID", "PNP0A03");
    }
    aml_name_integer(t, "_UID", 0);
    aml_name_integer(t, "_BBN", 0);
    dsdt_pci_windows(t, board);
    dsdt_pci_isa(t, board);
    if (board->ich9) {
        dsdt_ich9_routing(t);
        dsdt_pci_osc(t);
    } else {
        dsdt_piix_routing(t);
    }
    if (board->pci_hotplug) {
        dsdt_pci_hotplug(t, board);
    }
    aml_end(t, bridge);
    if (board->ecam.size) {
        dsdt_ecam(t, board);
    }
}

/* As guests' drivers look for it (QEMU's docs/specs/fw_cfg): selector, data and DMA ports. */
static void dsdt_fw_cfg(GByteArray *t)
{
    AmlMark device = aml_device(t, "FWCF");
    aml_name_string(t, "_HID", "QEMU0002");
    aml_name_integer(t, "_STA", 0x0b);
    GByteArray *r = g_byte_array_new();
    resource_io(r, 0x510, 12);
    resource_end(r);
    aml_name_buffer(t, "_CRS", r);
    g_byte_array_unref(r);
    aml_end(t, device);
}

static void dsdt_legacy(GByteArray *t, const AcpiBoard *board)
{
    static const struct {
        uint16_t base;
        unsigned irq;
    } ports[4] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };

    for (unsigned i = 0; i < MIN(board->serial_ports, 4u); i++) {
        char name[] = { 'C', 'O', 'M', '1' + i, 0 };
        GByteArray *r = g_byte_array_new();
        resource_io(r, ports[i].base, 8);
        resource_irq_edge(r, ports[i].irq);
        dsdt_named_device(t, name, "PNP0501", i + 1, r);
    }
    if (board->rtc) {
        GByteArray *r = g_byte_array_new();
        resource_io(r, 0x70, 8);
        resource_irq_edge(r, 8);
        dsdt_named_device(t, "RTC_", "PNP0B00", 0, r);
    }
    if (board->i8042) {
        GByteArray *r = g_byte_array_new();
        resource_io(r, 0x60, 1);
        resource_io(r, 0x64, 1);
        resource_irq_edge(r, 1);
        dsdt_named_device(t, "KBD_", "PNP0303", 0, r);
        r = g_byte_array_new();
        resource_irq_edge(r, 12);
        dsdt_named_device(t, "MOU_", "PNP0F13", 0, r);
    }
    if (board->hpet) {
        GByteArray *r = g_byte_array_new();
        resource_memory32(r, 0xfed00000, 0x400);
        dsdt_named_device(t, "HPET", "PNP0103", 0, r);
    }
    if (board->fw_cfg) {
        dsdt_fw_cfg(t);
    }
}

static void dsdt_virtio_mmio(GByteArray *t, const AcpiBoard *board)
{
    for (unsigned i = 0; i < board->virtio_mmio_slots; i++) {
        char name[5];
        g_snprintf(name, sizeof(name), "VR%02u", i);
        uint32_t gsi = board->virtio_mmio_gsi + i;
        AmlMark device = aml_device(t, name);
        aml_name_string(t, "_HID", "LNRO0005");
        aml_name_integer(t, "_UID", i);
        aml_name_integer(t, "_CCA", 1);
        GByteArray *r = g_byte_array_new();
        resource_memory32(r, board->virtio_mmio.base + 0x200 * i, 0x200);
        resource_interrupts(r, false, false, &gsi, 1);
        resource_end(r);
        aml_name_buffer(t, "_CRS", r);
        g_byte_array_unref(r);
        aml_end(t, device);
    }
}

static void dsdt_ged(GByteArray *t, const AcpiBoard *board)
{
    uint32_t gsi = board->ged_gsi;
    AmlMark device = aml_device(t, "GED_");
    aml_name_string(t, "_HID", "ACPI0013");
    aml_name_integer(t, "_UID", 0);
    GByteArray *r = g_byte_array_new();
    resource_interrupts(r, false, false, &gsi, 1);
    resource_end(r);
    aml_name_buffer(t, "_CRS", r);
    g_byte_array_unref(r);
    aml_operation_region(t, "EREG", AML_SPACE_MEMORY, board->ged.base, 4);
    AmlMark field = aml_field(t, "EREG", 3);
    aml_field_unit(t, "ESEL", 32);
    aml_end(t, field);
    AmlMark method = aml_method(t, "_EVT", 1, true);
    aml_byte(t, AML_STORE);
    aml_name_path(t, "ESEL");
    aml_byte(t, AML_LOCAL0);
    AmlMark branch = aml_if(t);
    aml_byte(t, AML_AND);
    aml_byte(t, AML_LOCAL0);
    aml_integer(t, GED_EVENT_POWER_BUTTON);
    aml_byte(t, AML_NULL_NAME);
    aml_byte(t, AML_NOTIFY);
    aml_name_path(t, "\\_SB_.PWRB");
    aml_integer(t, 0x80);
    aml_end(t, branch);
    aml_end(t, method);
    aml_end(t, device);

    dsdt_named_device(t, "PWRB", "PNP0C0C", 0, NULL);
}

static guint build_dsdt(GByteArray *t, const AcpiBoard *board)
{
    guint start = table_begin(t, "DSDT", 2);
    AmlMark scope = aml_scope(t, "\\_SB_");
    dsdt_cpus(t, board);
    if (board->pci) {
        dsdt_pci(t, board);
    }
    dsdt_legacy(t, board);
    if (board->virtio_mmio.size) {
        dsdt_virtio_mmio(t, board);
    }
    if (board->ged.size) {
        dsdt_ged(t, board);
    }
    aml_end(t, scope);
    if (board->pci && board->pci_hotplug) {
        dsdt_hotplug_event(t);
    }
    /* \_S5: SLP_TYP 0 on PIIX4 and 5 for the sleep control register of the event device. */
    aml_name(t, "\\_S5_");
    AmlMark package = aml_package(t, 4);
    aml_integer(t, board->ged.size ? 5 : 0);
    aml_integer(t, board->ged.size ? 5 : 0);
    aml_integer(t, 0);
    aml_integer(t, 0);
    aml_end(t, package);
    table_end(t, start);
    return start;
}

/* ---- the fixed tables ---- */
static guint build_facs(GByteArray *t)
{
    while (t->len % 64) {
        put(t, 0, 1);
    }
    guint start = t->len;
    put_text(t, "FACS", 4);
    put(t, 64, 4);
    for (int i = 0; i < 7; i++) {
        put(t, 0, 8);
    }
    t->data[start + 32] = 1; /* version */
    return start;
}

static guint build_fadt(GByteArray *t, const AcpiBoard *board, uint32_t facs, uint32_t dsdt)
{
    bool reduced = board->pm_base == 0;
    uint32_t flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_RTC_S4;
    if (reduced) {
        flags = FADT_WBINVD | FADT_PROC_C1 | FADT_HW_REDUCED;
    }
    if (board->reset_register || board->ged.size) {
        flags |= FADT_RESET_REG_SUP;
    }
    uint16_t boot_flags = 0;
    if (!board->legacy_free) {
        boot_flags |= 1; /* ISA devices */
    }
    if (board->i8042) {
        boot_flags |= 2;
    }
    if (board->legacy_free) {
        boot_flags |= 4; /* no VGA to probe */
    }
    if (!board->rtc) {
        boot_flags |= 0x20; /* no CMOS RTC */
    }

    guint start = table_begin(t, "FACP", 6);
    put(t, reduced ? 0 : facs, 4);
    put(t, dsdt, 4);
    put(t, 0, 1);
    put(t, 0, 1); /* preferred profile: unspecified */
    put(t, board->sci_irq, 2);
    put(t, board->smi_command, 4);
    put(t, board->acpi_enable, 1);
    put(t, board->acpi_disable, 1);
    put(t, 0, 2);
    put(t, board->pm_base, 4); /* PM1a event */
    put(t, 0, 4);
    put(t, reduced ? 0 : board->pm_base + 4, 4); /* PM1a control */
    put(t, 0, 4);
    put(t, 0, 4);
    put(t, reduced ? 0 : board->pm_base + 8, 4); /* PM timer */
    put(t, board->gpe0_base, 4);
    put(t, 0, 4);
    put(t, reduced ? 0 : 4, 1);
    put(t, reduced ? 0 : 2, 1);
    put(t, 0, 1);
    put(t, reduced ? 0 : 4, 1);
    put(t, board->gpe0_base ? board->gpe0_length : 0, 1);
    put(t, 0, 3);
    put(t, 0xfff, 2);                 /* no C2 */
    put(t, 0xfff, 2);                 /* no C3 */
    put(t, 0, 4);                     /* flush size and stride */
    put(t, 0, 2);                     /* duty cycle */
    put(t, 0, 2);                     /* day and month alarms */
    put(t, board->rtc ? 0x32 : 0, 1); /* the CMOS byte of the century */
    put(t, boot_flags, 2);
    put(t, 0, 1);
    put(t, flags, 4);
    if (board->ged.size) {
        put_gas(t, GAS_MEMORY, 8, 1, board->ged.base + GED_RESET);
        put(t, GED_RESET_VALUE, 1);
    } else {
        put_gas(t, GAS_IO, 8, 1, board->reset_register ? 0xcf9 : 0);
        put(t, 0x0f, 1);
    }
    put(t, 0, 2); /* ARM boot flags */
    put(t, 4, 1); /* minor revision */
    put(t, 0, 8); /* X_FIRMWARE_CTRL: the 32-bit one counts */
    put(t, dsdt, 8);
    put_gas(t, GAS_IO, 32, 2, board->pm_base);
    put_gas(t, GAS_IO, 0, 0, 0);
    put_gas(t, GAS_IO, 16, 2, reduced ? 0 : board->pm_base + 4);
    put_gas(t, GAS_IO, 0, 0, 0);
    put_gas(t, GAS_IO, 0, 0, 0);
    put_gas(t, GAS_IO, 32, 3, reduced ? 0 : board->pm_base + 8);
    put_gas(t, GAS_IO, board->gpe0_length * 8, 1, board->gpe0_base);
    put_gas(t, GAS_IO, 0, 0, 0);
    put_gas(t, GAS_MEMORY, 8, 1, board->ged.size ? board->ged.base + GED_SLEEP_CONTROL : 0);
    put_gas(t, GAS_MEMORY, 8, 1, board->ged.size ? board->ged.base + GED_SLEEP_STATUS : 0);
    put_text(t, "RHEA", 8); /* hypervisor vendor identity */
    table_end(t, start);
    return start;
}

static void madt_override(GByteArray *t, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    put(t, 2, 1);
    put(t, 10, 1);
    put(t, 0, 1);
    put(t, irq, 1);
    put(t, gsi, 4);
    put(t, flags, 2);
}

static guint build_madt(GByteArray *t, const AcpiBoard *board)
{
    guint start = table_begin(t, "APIC", 5);
    put(t, 0xfee00000, 4);
    put(t, board->pic ? 1 : 0, 4);
    for (unsigned i = 0; i < board->max_cpus; i++) {
        bool present = i < board->cpus;
        uint32_t flags = present ? 1 : 0;
        if (board->apic_ids[i] < 255) {
            put(t, 0, 1);
            put(t, 8, 1);
            put(t, MIN(i, 255u), 1);
            put(t, board->apic_ids[i], 1);
            put(t, flags, 4);
        } else {
            put(t, 9, 1);
            put(t, 16, 1);
            put(t, 0, 2);
            put(t, board->apic_ids[i], 4);
            put(t, flags, 4);
            put(t, i, 4);
        }
    }
    if (board->ioapic_address) {
        put(t, 1, 1);
        put(t, 12, 1);
        put(t, 0, 1); /* its id */
        put(t, 0, 1);
        put(t, board->ioapic_address, 4);
        put(t, 0, 4);
    }
    if (board->irq0_override) {
        madt_override(t, 0, 2, 0);
    }
    if (board->pci) {
        /* The SCI and the PCI links' choices: active high, level. */
        static const uint8_t level_irqs[] = { 5, 9, 10, 11 };
        for (unsigned i = 0; i < G_N_ELEMENTS(level_irqs); i++) {
            madt_override(t, level_irqs[i], level_irqs[i], 0x0d);
        }
    }
    put(t, 4, 1); /* LINT1 of every CPU is NMI */
    put(t, 6, 1);
    put(t, 0xff, 1);
    put(t, 0, 2);
    put(t, 1, 1);
    table_end(t, start);
    return start;
}

static guint build_hpet(GByteArray *t)
{
    guint start = table_begin(t, "HPET", 1);
    put(t, 0x8086a201, 4);
    put_gas(t, GAS_MEMORY, 64, 0, 0xfed00000);
    put(t, 0, 1);
    put(t, 0, 2);
    put(t, 0, 1);
    table_end(t, start);
    return start;
}

/* PCI Firmware Specification 3.2, 4.1.2. */
static guint build_mcfg(GByteArray *t, const AcpiBoard *board)
{
    guint start = table_begin(t, "MCFG", 1);
    put(t, 0, 8);
    put(t, board->ecam.base, 8);
    put(t, 0, 2); /* segment */
    put(t, 0, 1);
    put(t, (board->ecam.size >> 20) - 1, 1);
    put(t, 0, 4);
    table_end(t, start);
    return start;
}

AcpiLinks *acpi_links_new(void)
{
    AcpiLinks *links = g_new0(AcpiLinks, 1);
    links->pointers = g_array_new(false, false, sizeof(AcpiPointer));
    links->checksums = g_array_new(false, false, sizeof(AcpiChecksum));
    return links;
}

void acpi_links_free(AcpiLinks *links)
{
    g_array_unref(links->pointers);
    g_array_unref(links->checksums);
    g_free(links);
}

static void link_pointer(AcpiLinks *links, guint offset, uint8_t size, const char *file)
{
    AcpiPointer pointer = { offset, size, file };
    if (links) {
        g_array_append_val(links->pointers, pointer);
    }
}

/* The byte is zero until firmware puts the sum there: OVMF sums it too. */
static void link_checksum(GByteArray *t, AcpiLinks *links, guint offset, guint start, guint length)
{
    AcpiChecksum sum = { offset, start, length };
    if (links) {
        t->data[offset] = 0;
        g_array_append_val(links->checksums, sum);
    }
}

/* A table with the addresses of others (XSDT and RSDT); its place in the image. */
static guint build_root(GByteArray *t, const char *signature, const uint32_t *tables, unsigned count,
                        uint8_t size, AcpiLinks *links)
{
    guint start = table_begin(t, signature, 1);
    for (unsigned i = 0; i < count; i++) {
        link_pointer(links, t->len, size, NULL);
        put(t, tables[i], size);
    }
    table_end(t, start);
    link_checksum(t, links, start + 9, start, t->len - start);
    return start;
}

static void link_fadt(GByteArray *t, AcpiLinks *links, guint fadt, guint end, bool facs)
{
    enum { FIRMWARE_CTRL = 36, DSDT = 40, X_DSDT = 140 };
    if (facs) {
        link_pointer(links, fadt + FIRMWARE_CTRL, 4, NULL);
    }
    link_pointer(links, fadt + DSDT, 4, NULL);
    link_pointer(links, fadt + X_DSDT, 8, NULL);
    link_checksum(t, links, fadt + 9, fadt, end - fadt);
}

/* The SSDT of a device, which knows a page that is not part of the image where firmware places it. */
static guint build_part(GByteArray *t, const AcpiPart *part, AcpiLinks *links)
{
    guint start = table_begin(t, "SSDT", 1), address = t->len + part->address_at;
    g_byte_array_append(t, part->aml->data, part->aml->len);
    patch32(t, address, links ? 0 : part->page_gpa);
    table_end(t, start);
    if (links) {
        link_pointer(links, address, 4, part->page_file);
        link_checksum(t, links, start + 9, start, t->len - start);
    }
    return start;
}

/* Room for the parts' pages. */
static void add_part_pages(GByteArray *t, const AcpiBoard *board, uint32_t address)
{
    for (guint i = 0; i < board->parts->len; i++) {
        AcpiPart *part = board->parts->pdata[i];
        while ((address + t->len) % ACPI_PART_PAGE_SIZE) {
            put(t, 0, 1);
        }
        part->page_gpa = address + t->len;
        g_byte_array_set_size(t, t->len + ACPI_PART_PAGE_SIZE);
        memset(t->data + t->len - ACPI_PART_PAGE_SIZE, 0, ACPI_PART_PAGE_SIZE);
    }
}

GByteArray *acpi_build(const AcpiBoard *board, uint32_t address, AcpiLinks *links, GError **error)
{
    if (board->cpus > board->max_cpus || board->max_cpus > MAX_CPUS) {
        error_set(error, "ACPI tables: %u of %u CPUs do not fit (at most %u)", board->cpus, board->max_cpus,
                  MAX_CPUS);
        return NULL;
    }
    guint parts = board->parts ? board->parts->len : 0;
    if (parts > ACPI_MAX_PARTS) {
        error_set(error, "ACPI tables: devices add %u tables, at most %d fit", parts, ACPI_MAX_PARTS);
        return NULL;
    }
    GByteArray *t = g_byte_array_new();
    /* RSDP of revision 2; filled in at the end. */
    for (int i = 0; i < ACPI_RSDP_SIZE; i++) {
        put(t, 0, 1);
    }
    uint32_t facs = board->pm_base ? address + build_facs(t) : 0;
    uint32_t dsdt = address + build_dsdt(t, board);
    uint32_t tables[4 + ACPI_MAX_PARTS];
    unsigned count = 0;
    guint fadt = build_fadt(t, board, facs, dsdt);
    link_fadt(t, links, fadt, t->len, board->pm_base != 0);
    tables[count++] = address + fadt;
    tables[count++] = address + build_madt(t, board);
    if (board->hpet) {
        tables[count++] = address + build_hpet(t);
    }
    if (board->ecam.size) {
        tables[count++] = address + build_mcfg(t, board);
    }
    if (parts && !links) {
        add_part_pages(t, board, address);
    }
    for (guint i = 0; i < parts; i++) {
        tables[count++] = address + build_part(t, board->parts->pdata[i], links);
    }
    guint xsdt = build_root(t, "XSDT", tables, count, 8, links);
    guint rsdt = build_root(t, "RSDT", tables, count, 4, links);

    uint8_t *rsdp = t->data;
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, OEM_ID, 6);
    rsdp[15] = 2;
    patch32(t, 16, address + rsdt);
    patch32(t, 20, ACPI_RSDP_SIZE);
    patch32(t, 24, address + xsdt);
    rsdp[8] = checksum(rsdp, 20);
    rsdp[32] = checksum(rsdp, ACPI_RSDP_SIZE);
    link_pointer(links, 16, 4, NULL);
    link_pointer(links, 24, 8, NULL);
    link_checksum(t, links, 8, 0, 20);
    link_checksum(t, links, 32, 0, ACPI_RSDP_SIZE);
    return t;
}
