/*
 * A small writer of ACPI Machine Language (ACPI 6.4 chapter 20): terms are appended to a GByteArray, packages
 * with lengths are opened and closed. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_ACPI_AML_H
#define RHEA_HW_ACPI_AML_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Where a package began; aml_end() puts its length in. */
typedef guint AmlMark;

void aml_byte(GByteArray *a, uint8_t byte);
void aml_name_path(GByteArray *a, const char *path); /* "\\_SB_.PCI0", "_HID": segments padded with '_' */
void aml_integer(GByteArray *a, uint64_t value);     /* in the shortest form */
void aml_string(GByteArray *a, const char *text);
void aml_eisa_id(GByteArray *a, const char *id); /* "PNP0A03" */

AmlMark aml_scope(GByteArray *a, const char *path);
AmlMark aml_device(GByteArray *a, const char *name);
AmlMark aml_method(GByteArray *a, const char *name, unsigned arguments, bool serialized);
AmlMark aml_package(GByteArray *a, unsigned elements);
AmlMark aml_if(GByteArray *a);   /* the predicate and the body follow */
AmlMark aml_else(GByteArray *a); /* right behind the end of an If */
void aml_end(GByteArray *a, AmlMark mark);

void aml_name(GByteArray *a, const char *name); /* the value follows */
void aml_name_integer(GByteArray *a, const char *name, uint64_t value);
void aml_name_eisa_id(GByteArray *a, const char *name, const char *id);
void aml_name_string(GByteArray *a, const char *name, const char *text);
void aml_name_buffer(GByteArray *a, const char *name, const GByteArray *bytes);
void aml_operation_region(GByteArray *a, const char *name, uint8_t space, uint64_t offset, uint64_t length);
/* A Field with one access width (1 byte, 2 word, 3 dword); then aml_field_unit for each; end with aml_end. */
AmlMark aml_field(GByteArray *a, const char *region, uint8_t access);
void aml_field_unit(GByteArray *a, const char *name, unsigned bits);
void aml_field_skip(GByteArray *a, unsigned bits);
void aml_buffer(GByteArray *a, const void *bytes, unsigned length);
/* CreateDWordField(source, offset, name): source is an AML_ARG0-like byte. */
void aml_create_dword_field(GByteArray *a, uint8_t source, unsigned offset, const char *name);

#define AML_SPACE_MEMORY       0
#define AML_SPACE_IO           1
#define AML_SPACE_PCI_CONFIG   2
#define AML_ADD                0x72
#define AML_INDEX              0x88
#define AML_DWORD_PREFIX       0x0c
#define AML_RETURN             0xa4
#define AML_STORE              0x70
#define AML_AND                0x7b
#define AML_OR                 0x7d
#define AML_LNOT               0x92
#define AML_LEQUAL             0x93
#define AML_LLESS              0x95
#define AML_NOTIFY             0x86
#define AML_CREATE_DWORD_FIELD 0x8a
#define AML_NULL_NAME          0x00
#define AML_LOCAL0             0x60
#define AML_LOCAL1             0x61
#define AML_ARG0               0x68
#define AML_ARG1               0x69
#define AML_ARG3               0x6b

/* Resource descriptors (ACPI 6.4 section 6.4), appended to a resource template; close with resource_end. */
void resource_io(GByteArray *r, uint16_t base, uint8_t length);
void resource_irq_edge(GByteArray *r, unsigned irq);
void resource_interrupts(GByteArray *r, bool level, bool shared, const uint32_t *numbers, unsigned count);
void resource_memory32(GByteArray *r, uint32_t base, uint32_t size);
void resource_word_bus(GByteArray *r, uint16_t first, uint16_t last);
void resource_word_io(GByteArray *r, uint16_t first, uint16_t last);
void resource_dword_memory(GByteArray *r, uint32_t first, uint32_t last);
void resource_qword_memory(GByteArray *r, uint64_t first, uint64_t last);
void resource_end(GByteArray *r);

#endif
