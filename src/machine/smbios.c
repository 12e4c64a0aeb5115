/*
 * Type 0 (BIOS) is the firmware's own unless -smbios describes it; here are 1 (system), 3 (chassis), 4
 * (processors), 16, 17 and 19 (memory), 32 (boot status) and 127 (end), and where -smbios asks for them 2
 * (board), 11 (strings) and structures from a file. Source: DMTF DSP0134 version 3.0, chapters 5.2.1 and 7.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/smbios.h"

#include "base/error.h"
#include "io/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANUFACTURER "Rhea"
#define ANCHOR_SIZE  31
#define DIMM_MAX     (UINT64_C(16) << 30)

typedef struct Builder {
    GByteArray *tables;
    unsigned count, largest;
    guint start;          /* of the structure that is being built */
    GPtrArray *strings;   /* of char *, owned: of the structure that is being built */
    json_object *options; /* what -smbios said: an array, or NULL */
    unsigned type;
} Builder;

/* ---- what -smbios says ---- */

static const struct {
    unsigned type;
    const char *keys[12];
} known_options[] = {
    { 0, { "vendor", "version", "date", "release", "uefi" } },
    { 1, { "manufacturer", "product", "version", "serial", "uuid", "sku", "family" } },
    { 2, { "manufacturer", "product", "version", "serial", "asset", "location" } },
    { 3, { "manufacturer", "version", "serial", "asset", "sku" } },
    { 4, { "sock_pfx", "manufacturer", "version", "serial", "asset", "part", "max-speed", "current-speed" } },
    { 11, { "value", "path" } },
    { 17, { "loc_pfx", "bank", "manufacturer", "serial", "asset", "part", "speed" } },
};

static const char *text_of(json_object *options, const char *key)
{
    json_object *value = NULL;

    json_object_object_get_ex(options, key, &value);
    if (json_object_is_type(value, json_type_array)) { /* given several times: the last counts */
        size_t count = json_object_array_length(value);
        value = count ? json_object_array_get_idx(value, count - 1) : NULL;
    }
    return json_object_get_string(value);
}

static bool number_ok(json_object *options, const char *key, GError **error)
{
    const char *text = text_of(options, key);
    guint64 number;

    return !text || g_ascii_string_to_unsigned(text, 10, 0, 65535, &number, NULL) ||
           error_set(error, "%s=%s is no number from 0 to 65535", key, text);
}

static bool parse_release(const char *text, unsigned *major, unsigned *minor)
{
    return sscanf(text, "%u.%u", major, minor) == 2 && *major < 256 && *minor < 256;
}

static bool parse_uuid(const char *text, uint8_t uuid[16])
{
    if (!g_uuid_string_is_valid(text)) {
        return false;
    }
    for (unsigned i = 0; i < 16; text++) {
        if (*text != '-') {
            uuid[i++] = (uint8_t)(g_ascii_xdigit_value(text[0]) << 4 | g_ascii_xdigit_value(text[1]));
            text++;
        }
    }
    return true;
}

static bool check_values(json_object *options, unsigned type, GError **error)
{
    const char *uuid = text_of(options, "uuid"), *release = text_of(options, "release");
    uint8_t bytes[16];
    unsigned major, minor;

    if (uuid && !parse_uuid(uuid, bytes)) {
        return error_set(error, "uuid=%s is no UUID", uuid);
    }
    if (release && !parse_release(release, &major, &minor)) {
        return error_set(error, "release=%s is not MAJOR.MINOR, each from 0 to 255", release);
    }
    return number_ok(options, "max-speed", error) && number_ok(options, "current-speed", error) &&
           number_ok(options, "speed", error);
}

bool smbios_check_options(json_object *options, GError **error)
{
    static const char *const file_keys[] = { "file", NULL };
    const char *text = text_of(options, "type");
    guint64 number;

    if (text_of(options, "file")) {
        return options_known(options, "smbios", file_keys, error);
    }
    if (!text || !g_ascii_string_to_unsigned(text, 10, 0, 255, &number, NULL)) {
        return error_set(error, "type=N or file=FILE is needed");
    }
    for (size_t i = 0; i < G_N_ELEMENTS(known_options); i++) {
        if (known_options[i].type == number) {
            const char *keys[16] = { "type" };
            for (size_t k = 0; known_options[i].keys[k]; k++) {
                keys[k + 1] = known_options[i].keys[k];
            }
            return options_known(options, "smbios", keys, error) &&
                   check_values(options, (unsigned)number, error);
        }
    }
    return error_set(error, "structures of type %u are not supported; 0, 1, 2, 3, 4, 11 and 17 are",
                     (unsigned)number);
}

/* The value that -smbios gave for a field of the structure's type, or the default. The last option wins. */
static const char *field(const Builder *b, const char *key, const char *fallback)
{
    for (size_t i = b->options ? json_object_array_length(b->options) : 0; i-- > 0;) {
        json_object *options = json_object_array_get_idx(b->options, i);
        const char *type = text_of(options, "type"), *value = text_of(options, key);
        if (type && value && strtoul(type, NULL, 10) == b->type) {
            return value;
        }
    }
    return fallback;
}

static bool asked_for(const Builder *b, unsigned wanted)
{
    for (size_t i = 0; b->options && i < json_object_array_length(b->options); i++) {
        const char *type = text_of(json_object_array_get_idx(b->options, i), "type");
        if (type && strtoul(type, NULL, 10) == wanted) {
            return true;
        }
    }
    return false;
}

/* ---- building ---- */

static void put(Builder *b, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = value >> (8 * i);
        g_byte_array_append(b->tables, &byte, 1);
    }
}

static void begin(Builder *b, uint8_t type, uint16_t handle)
{
    b->start = b->tables->len;
    b->type = type;
    put(b, type, 1);
    put(b, 0, 1); /* its length, when it is known */
    put(b, handle, 2);
}

/* A string's number in its structure; NULL: none. */
static void put_string(Builder *b, const char *text)
{
    if (!text || !*text) {
        put(b, 0, 1);
        return;
    }
    g_ptr_array_add(b->strings, g_strdup(text));
    put(b, b->strings->len, 1);
}

static void end(Builder *b)
{
    b->tables->data[b->start + 1] = b->tables->len - b->start;
    for (guint i = 0; i < b->strings->len; i++) {
        const char *text = b->strings->pdata[i];
        g_byte_array_append(b->tables, (const guint8 *)text, strlen(text) + 1);
    }
    put(b, 0, b->strings->len ? 1 : 2);
    g_ptr_array_set_size(b->strings, 0);
    b->count++;
    b->largest = MAX(b->largest, b->tables->len - b->start);
}

static void put_uuid(Builder *b, const uint8_t uuid[16])
{
    /* The first three fields are little-endian (7.2.1). */
    static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
    for (int i = 0; i < 16; i++) {
        put(b, uuid[order[i]], 1);
    }
}

/* Type 0, which firmware else makes itself. */
static void bios(Builder *b)
{
    unsigned major = 0, minor = 0;

    if (!asked_for(b, 0)) {
        return;
    }
    begin(b, 0, 0);
    put_string(b, field(b, "vendor", NULL));
    put_string(b, field(b, "version", NULL));
    put(b, 0xe800, 2); /* where it begins */
    put_string(b, field(b, "date", NULL));
    put(b, 0, 1);
    put(b, 0x08, 8); /* no characteristics are told */
    put(b, 0, 1);
    put(b, strcmp(field(b, "uefi", "off"), "on") == 0 ? 0x1c : 0x14, 1); /* a virtual machine; UEFI */
    parse_release(field(b, "release", "0.0"), &major, &minor);
    put(b, major, 1);
    put(b, minor, 1);
    put(b, 0xffff, 2); /* no embedded controller */
    end(b);
}

static void system_and_chassis(Builder *b, const Machine *machine)
{
    const MachineClass *mc = MACHINE_GET_CLASS(machine);
    uint8_t uuid[16];

    begin(b, 1, 0x100);
    put_string(b, field(b, "manufacturer", MANUFACTURER));
    put_string(b, field(b, "product", mc->description));
    put_string(b, field(b, "version", mc->name));
    put_string(b, field(b, "serial", NULL));
    memcpy(uuid, machine->uuid, sizeof(uuid));
    if (field(b, "uuid", NULL)) {
        parse_uuid(field(b, "uuid", NULL), uuid);
    }
    put_uuid(b, uuid);
    put(b, 6, 1); /* woken by the power switch */
    put_string(b, field(b, "sku", NULL));
    put_string(b, field(b, "family", NULL));
    end(b);

    if (asked_for(b, 2)) {
        begin(b, 2, 0x200);
        put_string(b, field(b, "manufacturer", MANUFACTURER));
        put_string(b, field(b, "product", mc->description));
        put_string(b, field(b, "version", mc->name));
        put_string(b, field(b, "serial", NULL));
        put_string(b, field(b, "asset", NULL));
        put(b, 1, 1); /* a hosting board */
        put_string(b, field(b, "location", NULL));
        put(b, 0x300, 2);
        put(b, 0x0a, 1); /* a motherboard */
        put(b, 0, 1);
        end(b);
    }

    begin(b, 3, 0x300);
    put_string(b, field(b, "manufacturer", MANUFACTURER));
    put(b, 1, 1); /* "other" */
    put_string(b, field(b, "version", mc->name));
    put_string(b, field(b, "serial", NULL));
    put_string(b, field(b, "asset", NULL));
    put(b, 0x03030303, 4); /* boot-up, power and thermal state safe; security none */
    put(b, 0, 4);
    put(b, 0, 4); /* height, cords, contained elements */
    put_string(b, field(b, "sku", NULL));
    end(b);
}

/* Type 11: strings for whoever looks for them (systemd's credentials, cloud-init). */
static bool oem_strings(Builder *b, GError **error)
{
    g_autoptr(GPtrArray) values = g_ptr_array_new_with_free_func(g_free);

    for (size_t i = 0; b->options && i < json_object_array_length(b->options); i++) {
        json_object *options = json_object_array_get_idx(b->options, i), *value = NULL;
        const char *type = text_of(options, "type"), *path = text_of(options, "path");
        if (g_strcmp0(type, "11") != 0) {
            continue;
        }
        json_object_object_get_ex(options, "value", &value);
        bool several = json_object_is_type(value, json_type_array);
        for (size_t n = 0; n < (several ? json_object_array_length(value) : value != NULL); n++) {
            json_object *one = several ? json_object_array_get_idx(value, n) : value;
            g_ptr_array_add(values, g_strdup(json_object_get_string(one)));
        }
        g_autofree char *content = NULL;
        g_autoptr(GError) local = NULL;
        if (path && !g_file_get_contents(path, &content, NULL, &local)) {
            return error_set(error, "-smbios type=11: %s", local->message);
        }
        if (content) {
            g_ptr_array_add(values, g_steal_pointer(&content));
        }
    }
    if (values->len > 255) {
        return error_set(error, "-smbios type=11: %u strings are more than 255", values->len);
    }
    if (values->len) {
        begin(b, 11, 0xe00);
        put(b, values->len, 1);
        for (guint i = 0; i < values->len; i++) {
            const char *text = values->pdata[i];
            g_ptr_array_add(b->strings, g_strdup(*text ? text : " ")); /* an empty one would end them all */
        }
        end(b);
    }
    return true;
}

/* Structures that a file has, as they are: each with its strings behind it (6.1.3). */
static bool add_file(Builder *b, const char *name, GError **error)
{
    g_autofree char *content = NULL;
    g_autoptr(GError) local = NULL;
    gsize size, at = 0;

    if (!g_file_get_contents(name, &content, &size, &local)) {
        return error_set(error, "-smbios file: %s", local->message);
    }
    while (at < size) {
        gsize end_at = size - at >= 4 ? at + (uint8_t)content[at + 1] : size;
        if (size - at < 4 || (uint8_t)content[at + 1] < 4 || end_at > size) {
            return error_set(error, "-smbios file=%s: no structure at byte %zu", name, (size_t)at);
        }
        while (end_at + 2 <= size && (content[end_at] || content[end_at + 1])) {
            end_at++;
        }
        if (end_at + 2 > size) {
            return error_set(error, "-smbios file=%s: the structure at byte %zu has no end", name,
                             (size_t)at);
        }
        end_at += 2;
        g_byte_array_append(b->tables, (const guint8 *)content + at, (guint)(end_at - at));
        b->count++;
        b->largest = MAX(b->largest, (unsigned)(end_at - at));
        at = end_at;
    }
    return true;
}

static bool add_files(Builder *b, GError **error)
{
    for (size_t i = 0; b->options && i < json_object_array_length(b->options); i++) {
        const char *file = text_of(json_object_array_get_idx(b->options, i), "file");
        if (file && !add_file(b, file, error)) {
            return false;
        }
    }
    return true;
}

static unsigned speed(const Builder *b, const char *key, const char *fallback)
{
    return (unsigned)strtoul(field(b, key, fallback), NULL, 10);
}

static void processors(Builder *b, const Machine *machine)
{
    unsigned sockets = machine->smp.sockets ? machine->smp.sockets : 1;
    for (unsigned i = 0; i < sockets; i++) {
        unsigned cores = MIN(machine->smp.cores * machine->smp.dies, 255u);
        unsigned threads = MIN(machine->smp.threads * cores, 255u);
        begin(b, 4, 0x400 + i);
        g_autofree char *socket =
            g_strdup_printf("%s%s%u", field(b, "sock_pfx", "CPU"), field(b, "sock_pfx", NULL) ? "" : " ", i);
        put_string(b, socket);
        put(b, 3, 1); /* central processor */
        put(b, 1, 1); /* family "other" */
        put_string(b, field(b, "manufacturer", MANUFACTURER));
        put(b, 0, 8); /* id */
        put_string(b, field(b, "version", MACHINE_GET_CLASS(machine)->name));
        put(b, 0, 1);                             /* voltage */
        put(b, 0, 2);                             /* external clock */
        put(b, speed(b, "max-speed", "2000"), 2); /* in MHz */
        put(b, speed(b, "current-speed", "2000"), 2);
        put(b, 0x41, 1); /* populated, enabled */
        put(b, 1, 1);
        put(b, 0xffffffff, 4); /* no cache handles */
        put(b, 0xffff, 2);
        put_string(b, field(b, "serial", NULL));
        put_string(b, field(b, "asset", NULL));
        put_string(b, field(b, "part", NULL));
        put(b, cores, 1);
        put(b, cores, 1);
        put(b, threads, 1);
        put(b, 2, 2); /* characteristics unknown */
        put(b, 1, 2);
        end(b);
    }
}

static void mapped_range(Builder *b, uint16_t handle, uint64_t start, uint64_t size)
{
    begin(b, 19, handle);
    uint64_t first_kib = start >> 10, last_kib = ((start + size) >> 10) - 1;
    bool extended = last_kib >= UINT32_MAX;
    put(b, extended ? UINT32_MAX : first_kib, 4);
    put(b, extended ? UINT32_MAX : last_kib, 4);
    put(b, 0x1000, 2);
    put(b, 1, 1);
    put(b, extended ? start : 0, 8);
    put(b, extended ? start + size - 1 : 0, 8);
    end(b);
}

static void memory(Builder *b, const Machine *machine)
{
    uint64_t size = machine->ram_size;
    unsigned dimms = (size + DIMM_MAX - 1) / DIMM_MAX;
    uint64_t kib = size >> 10;

    begin(b, 16, 0x1000);
    put(b, 1, 1); /* "other" place */
    put(b, 3, 1); /* system memory */
    put(b, 6, 1); /* multi-bit ECC */
    put(b, kib < 0x80000000u ? kib : 0x80000000u, 4);
    put(b, 0xfffe, 2);
    put(b, dimms, 2);
    put(b, kib < 0x80000000u ? 0 : size, 8);
    end(b);
    for (unsigned i = 0; i < dimms; i++) {
        uint64_t part = MIN(DIMM_MAX, size - i * DIMM_MAX) >> 20;
        begin(b, 17, 0x1100 + i);
        g_autofree char *locator =
            g_strdup_printf("%s%s%u", field(b, "loc_pfx", "DIMM"), field(b, "loc_pfx", NULL) ? "" : " ", i);
        put(b, 0x1000, 2);
        put(b, 0xfffe, 2);
        put(b, 0xffff, 2); /* widths unknown */
        put(b, 0xffff, 2);
        put(b, part < 0x7fff ? part : 0x7fff, 2);
        put(b, 9, 1); /* DIMM */
        put(b, 0, 1);
        put_string(b, locator);
        put_string(b, field(b, "bank", NULL));
        put(b, 7, 1); /* RAM */
        put(b, 2, 2);
        put(b, speed(b, "speed", "0"), 2);
        put_string(b, field(b, "manufacturer", MANUFACTURER));
        put_string(b, field(b, "serial", NULL));
        put_string(b, field(b, "asset", NULL));
        put_string(b, field(b, "part", NULL));
        put(b, 0, 1);
        put(b, part < 0x7fff ? 0 : part, 4);
        put(b, speed(b, "speed", "0"), 2);
        put(b, 0, 6); /* voltages */
        end(b);
    }
    mapped_range(b, 0x1300, 0, machine->below_4g);
    if (machine->above_4g) {
        mapped_range(b, 0x1301, UINT64_C(1) << 32, machine->above_4g);
    }
}

GByteArray *smbios_build(const Machine *machine, unsigned *count, unsigned *largest, GError **error)
{
    Builder b = { .tables = g_byte_array_new(), .strings = g_ptr_array_new_with_free_func(g_free) };

    b.options = machine->smbios ? json_tokener_parse(machine->smbios) : NULL;
    if (!json_object_is_type(b.options, json_type_array)) {
        json_object_put(b.options);
        b.options = NULL;
    }
    bool ok = add_files(&b, error);
    bios(&b);
    system_and_chassis(&b, machine);
    processors(&b, machine);
    ok = ok && oem_strings(&b, error);
    memory(&b, machine);
    begin(&b, 32, 0x2000);
    put(&b, 0, 6);
    put(&b, 0, 1); /* no errors detected */
    end(&b);
    begin(&b, 127, 0x7f00);
    end(&b);
    *count = b.count;
    *largest = b.largest;
    json_object_put(b.options);
    g_ptr_array_unref(b.strings);
    if (!ok) {
        g_byte_array_unref(b.tables);
        return NULL;
    }
    return b.tables;
}

bool smbios_publish(Machine *machine, GError **error)
{
    unsigned count, largest;
    g_autoptr(GByteArray) tables = smbios_build(machine, &count, &largest, error);

    if (!tables) {
        return false;
    }
    if (tables->len > UINT16_MAX) {
        return error_set(error, "this machine's SMBIOS tables are too large (%u bytes)", tables->len);
    }
    /* The entry point of 5.2.1; firmware fills in address and checksums. */
    uint8_t anchor[ANCHOR_SIZE] = "_SM_";
    anchor[5] = sizeof(anchor);
    anchor[6] = 2; /* version 2.8 */
    anchor[7] = 8;
    anchor[8] = largest;
    anchor[9] = largest >> 8;
    memcpy(anchor + 16, "_DMI_", 5);
    anchor[22] = tables->len;
    anchor[23] = tables->len >> 8;
    anchor[28] = count;
    anchor[29] = count >> 8;
    anchor[30] = 0x28;
    return fw_cfg_add_file(machine->fw_cfg, "etc/smbios/smbios-tables", tables->data, tables->len, error) &&
           fw_cfg_add_file(machine->fw_cfg, "etc/smbios/smbios-anchor", anchor, sizeof(anchor), error);
}
