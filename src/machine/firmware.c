/*
 * Sources: QEMU's "fw_cfg" and SeaBIOS's docs/Runtime_config (names of files), IEEE 1275 PCI binding (paths
 * of the boot order), Phoenix CMOS map (bytes 0x38 and 0x3d). SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/firmware.h"

#include "base/error.h"
#include "hw/acpi/acpi_part.h"
#include "hw/core/firmware_file.h"
#include "hw/storage/pflash_cfi01.h"
#include "hw/timer/mc146818rtc.h"
#include "machine/smbios.h"

#include <string.h>

#define BIOS_MAX_SIZE  (8u << 20)
#define ISA_BIOS_SIZE  (128u << 10)
#define FOUR_GIB       (UINT64_C(1) << 32)
#define OPTION_ROM_MAX (128u << 10)

enum { CMOS_BOOT_FLAGS = 0x38, CMOS_BOOT_ORDER = 0x3d };

/* ---- the image ---- */

/* The last 128 KiB also below 1 MiB, where CPUs in real mode find them. */
static bool map_low(X86Machine *x86, MemoryRegion *container, const uint8_t *end, uint32_t size,
                    GError **error)
{
    uint32_t low = MIN(size, ISA_BIOS_SIZE);
    if (!memory_region_init_rom(&x86->isa_bios, x86, "isa-bios", low, error)) {
        return false;
    }
    memcpy(x86->isa_bios.ram->host, end - low, low);
    ram_written(x86->isa_bios.ram, 0, low);
    memory_region_add_overlap(container, 0x100000 - low, &x86->isa_bios, 1);
    return true;
}

static bool map_image(X86Machine *x86, MemoryRegion *container, GError **error)
{
    Machine *machine = MACHINE(x86);
    const char *name = machine->firmware ? machine->firmware : FIRMWARE_DEFAULT;
    g_autoptr(GByteArray) image =
        firmware_file_load(machine->config.firmware_dirs, name, BIOS_MAX_SIZE, error);

    if (!image) {
        return false;
    }
    if (image->len % 0x10000) {
        return error_set(error, "firmware '%s' has %u bytes, which are not whole 64 KiB", name, image->len);
    }
    if (!memory_region_init_rom(&x86->bios, x86, "pc.bios", image->len, error)) {
        return false;
    }
    memcpy(x86->bios.ram->host, image->data, image->len);
    ram_written(x86->bios.ram, 0, image->len);
    memory_region_add_overlap(container, FOUR_GIB - image->len, &x86->bios, 1);
    return map_low(x86, container, image->data + image->len, image->len, error);
}

/* ---- flash ---- */

/* What a unit holds: by the machine's property, or a drive with if=pflash. NULL: nothing. */
static const char *pflash_drive(X86Machine *x86, int unit)
{
    GPtrArray *drives = block_drives(MACHINE(x86)->config.blocks);
    int next = 0;

    if (x86->pflash[unit]) {
        return x86->pflash[unit];
    }
    for (guint i = 0; i < drives->len; i++) {
        const BlockDrive *drive = drives->pdata[i];
        if (strcmp(drive->interface, "pflash") != 0) {
            continue;
        }
        int place = drive->unit >= 0 ? drive->unit : drive->index >= 0 ? drive->index : next;
        next = place + 1;
        if (place == unit) {
            return bb_name(drive->bb);
        }
    }
    return NULL;
}

/* Unit 0 ends at 4 GiB, where CPUs start; unit 1 lies below it. */
static bool map_flash(X86Machine *x86, MemoryRegion *container, GError **error)
{
    Machine *machine = MACHINE(x86);
    uint64_t at = FOUR_GIB;

    for (int unit = 0; unit < PFLASH_UNITS; unit++) {
        const char *drive = pflash_drive(x86, unit);
        g_autofree char *name = g_strdup_printf("system.flash%d", unit);
        if (!drive) {
            break;
        }
        Device *dev = device_new_unattached(machine->config.root, TYPE_PFLASH_CFI01, name);
        if (!object_apply_globals(OBJECT(dev), machine->config.globals, error) ||
            !object_property_parse(OBJECT(dev), "name", name, error) ||
            !object_property_parse(OBJECT(dev), "drive", drive, error) ||
            !device_realize(dev, NULL, &machine->env, error)) {
            error_prefix(error, "pflash unit %d: ", unit);
            return false;
        }
        MemoryRegion *mr = pflash_cfi01_region(dev);
        if (FOUR_GIB - at + mr->size > BIOS_MAX_SIZE) {
            return error_set(error, "pflash unit %d: all units together may have %u MiB", unit,
                             BIOS_MAX_SIZE >> 20);
        }
        at -= mr->size;
        memory_region_add_overlap(container, at, mr, 1);
        if (unit == 0 && !map_low(x86, container, mr->ram->host + mr->size, (uint32_t)mr->size, error)) {
            return false;
        }
    }
    return true;
}

bool x86_firmware_map(X86Machine *x86, MemoryRegion *container, GError **error)
{
    if (pflash_drive(x86, 0)) {
        return map_flash(x86, container, error);
    }
    if (pflash_drive(x86, 1)) {
        error_set(error, "pflash unit 1 is given, but not unit 0, which has the firmware's code");
        error_append_hint(error, "Use -drive if=pflash,unit=0,readonly=on,file=FILE.");
        return false;
    }
    return map_image(x86, container, error);
}

void x86_firmware_fini(X86Machine *x86)
{
    memory_region_destroy(&x86->isa_bios);
    memory_region_destroy(&x86->bios);
}

/* ---- ACPI ---- */

enum { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3, LOADER_WRITE_POINTER = 4 };
enum { LOADER_ENTRY_SIZE = 128, LOADER_FILE_SIZE = 56 };
enum { ZONE_HIGH = 1, ZONE_FSEG = 2 };
#define TABLES_FILE  "etc/acpi/tables"
#define RSDP_FILE    "etc/acpi/rsdp"
#define LOADER_FILE  "etc/table-loader"
#define TABLES_SLACK 4096u

static void put_le32(uint8_t *p, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    memcpy(p, &value, 4);
}

static uint8_t *loader_entry(GByteArray *script, uint32_t command, const char *file)
{
    guint at = script->len;
    g_byte_array_set_size(script, at + LOADER_ENTRY_SIZE);
    uint8_t *entry = script->data + at;
    memset(entry, 0, LOADER_ENTRY_SIZE);
    put_le32(entry, command);
    g_strlcpy((char *)entry + 4, file, LOADER_FILE_SIZE);
    return entry;
}

static void loader_allocate(GByteArray *script, const char *file, uint32_t align, uint8_t zone)
{
    uint8_t *entry = loader_entry(script, LOADER_ALLOCATE, file);
    put_le32(entry + 60, align);
    entry[64] = zone;
}

static void loader_pointer(GByteArray *script, const char *file, uint32_t offset, uint8_t size,
                           const char *to)
{
    uint8_t *entry = loader_entry(script, LOADER_ADD_POINTER, file);
    g_strlcpy((char *)entry + 60, to, LOADER_FILE_SIZE);
    put_le32(entry + 116, offset);
    entry[120] = size;
}

static void loader_checksum(GByteArray *script, const char *file, uint32_t offset, uint32_t start,
                            uint32_t length)
{
    uint8_t *entry = loader_entry(script, LOADER_ADD_CHECKSUM, file);
    put_le32(entry + 60, offset);
    put_le32(entry + 64, start);
    put_le32(entry + 68, length);
}

/* Firmware writes an address back: of `offset` in `of`, 8 bytes at the start of `file`. */
static void loader_write_pointer(GByteArray *script, const char *file, const char *of, uint32_t offset)
{
    uint8_t *entry = loader_entry(script, LOADER_WRITE_POINTER, file);
    g_strlcpy((char *)entry + 60, of, LOADER_FILE_SIZE);
    put_le32(entry + 116, 0);
    put_le32(entry + 120, offset);
    entry[124] = 8;
}

GByteArray *acpi_loader_script(const AcpiLinks *links, const GPtrArray *parts)
{
    GByteArray *script = g_byte_array_new();

    loader_allocate(script, RSDP_FILE, 16, ZONE_FSEG);
    loader_allocate(script, TABLES_FILE, 64, ZONE_HIGH);
    for (guint i = 0; parts && i < parts->len; i++) {
        const AcpiPart *part = parts->pdata[i];
        loader_allocate(script, part->page_file, ACPI_PART_PAGE_SIZE, ZONE_HIGH);
        loader_write_pointer(script, part->address_file, part->page_file, part->told);
    }
    for (guint i = 0; i < links->pointers->len; i++) {
        const AcpiPointer *p = &g_array_index(links->pointers, AcpiPointer, i);
        bool root = p->offset < ACPI_RSDP_SIZE;
        loader_pointer(script, root ? RSDP_FILE : TABLES_FILE, p->offset, p->size,
                       p->file ? p->file : TABLES_FILE);
    }
    for (guint i = 0; i < links->checksums->len; i++) {
        const AcpiChecksum *c = &g_array_index(links->checksums, AcpiChecksum, i);
        bool root = c->offset < ACPI_RSDP_SIZE;
        loader_checksum(script, root ? RSDP_FILE : TABLES_FILE, c->offset, c->start, c->length);
    }
    return script;
}

typedef struct AcpiFiles {
    GByteArray *rsdp, *tables, *script;
} AcpiFiles;

static void acpi_files_clear(AcpiFiles *files)
{
    g_clear_pointer(&files->rsdp, g_byte_array_unref);
    g_clear_pointer(&files->tables, g_byte_array_unref);
    g_clear_pointer(&files->script, g_byte_array_unref);
}

static bool acpi_files_make(X86Machine *x86, AcpiFiles *files, GError **error)
{
    AcpiBoard board = x86->acpi_board;
    if (x86->acpi_update) {
        x86->acpi_update(x86, &board);
    }
    AcpiLinks *links = acpi_links_new();
    files->tables = acpi_build(&board, 0, links, error);
    if (files->tables) {
        files->script = acpi_loader_script(links, board.parts);
        files->rsdp = g_byte_array_new();
        g_byte_array_append(files->rsdp, files->tables->data, ACPI_RSDP_SIZE);
        memset(files->tables->data, 0, ACPI_RSDP_SIZE); /* it is the other file */
    }
    acpi_links_free(links);
    return files->tables != NULL;
}

/* When firmware reads them it has given addresses that the tables tell of. */
static GByteArray *acpi_file_remake(void *opaque, const char *name)
{
    AcpiFiles files = { NULL };
    GByteArray *wanted = NULL;
    if (acpi_files_make(opaque, &files, NULL)) {
        wanted = g_byte_array_ref(!strcmp(name, TABLES_FILE) ? files.tables
                                  : !strcmp(name, RSDP_FILE) ? files.rsdp
                                                             : files.script);
    }
    acpi_files_clear(&files);
    return wanted;
}

static bool publish_acpi(X86Machine *x86, GError **error)
{
    FwCfg *fw_cfg = MACHINE(x86)->fw_cfg;
    AcpiFiles files = { NULL };
    bool ok = acpi_files_make(x86, &files, error);

    if (ok) {
        if (x86->acpi_update) { /* the tables may grow by a few resource descriptors */
            guint from = files.tables->len;
            g_byte_array_set_size(files.tables, (from + 2 * TABLES_SLACK - 1) & ~(TABLES_SLACK - 1u));
            memset(files.tables->data + from, 0, files.tables->len - from);
        }
        const struct {
            const char *name;
            const GByteArray *content;
        } list[] = { { RSDP_FILE, files.rsdp },
                     { TABLES_FILE, files.tables },
                     { LOADER_FILE, files.script } };
        for (size_t i = 0; ok && i < G_N_ELEMENTS(list); i++) {
            ok = fw_cfg_add_file(fw_cfg, list[i].name, list[i].content->data, list[i].content->len, error);
            if (ok && x86->acpi_update) {
                fw_cfg_set_make(fw_cfg, list[i].name, acpi_file_remake, x86);
            }
        }
    }
    acpi_files_clear(&files);
    return ok;
}

/* ---- boot order ---- */

typedef struct BootEntry {
    int64_t index;
    char *path;
} BootEntry;

typedef struct BootList {
    GArray *entries;
    GError *error;
} BootList;

/* "/pci@i0cf8/scsi@4/disk@0,0": NULL where a bus on the way has no such names. A virtio back end between a
 * function and what hangs on it has none of its own, and a function that is an adapter is no disk. */
static char *boot_path(Device *dev, bool whole)
{
    if (!dev->bus) {
        return g_strdup("/pci@i0cf8");
    }
    const BusClass *bc = BUS_GET_CLASS(dev->bus);
    if (!dev->bus->owner || (!bc->device_path && whole)) {
        return NULL;
    }
    g_autofree char *parent = boot_path(dev->bus->owner, false);
    if (!bc->device_path) {
        return g_steal_pointer(&parent);
    }
    g_autofree char *own = parent ? bc->device_path(dev) : NULL;
    if (own && !whole && g_str_has_suffix(own, "/disk@0,0")) {
        own[strlen(own) - strlen("/disk@0,0")] = 0;
    }
    return own ? g_strdup_printf("%s/%s", parent, own) : NULL;
}

static void boot_list_add(Device *dev, void *opaque)
{
    BootList *list = opaque;
    int64_t index = -1;

    if (list->error || !object_property_find(OBJECT(dev), "bootindex") ||
        !object_property_get_int(OBJECT(dev), "bootindex", &index, NULL) || index < 0) {
        return;
    }
    char *path = boot_path(dev, true);
    if (!path) {
        return; /* a part of a device that is in the list itself */
    }
    for (guint i = 0; i < list->entries->len; i++) {
        const BootEntry *other = &g_array_index(list->entries, BootEntry, i);
        if (other->index == index) {
            error_set(&list->error, "The bootindex %" PRId64 " has already been used", index);
        }
    }
    BootEntry entry = { index, path };
    g_array_append_val(list->entries, entry);
}

static int compare_boot_entries(const void *a, const void *b)
{
    const BootEntry *x = a, *y = b;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void boot_entry_clear(void *entry)
{
    g_free(((BootEntry *)entry)->path);
}

static bool publish_boot_order(Machine *machine, GError **error)
{
    BootList list = { .entries = g_array_new(false, false, sizeof(BootEntry)) };
    g_autoptr(GString) text = g_string_new(NULL);
    bool ok = true;

    g_array_set_clear_func(list.entries, boot_entry_clear);
    device_foreach(machine->config.root, boot_list_add, &list);
    g_array_sort(list.entries, compare_boot_entries);
    for (guint i = 0; i < list.entries->len; i++) {
        g_string_append_printf(text, "%s%s", i ? "\n" : "", g_array_index(list.entries, BootEntry, i).path);
    }
    g_array_unref(list.entries);
    if (machine->boot_strict) {
        g_string_append_printf(text, "%sHALT", text->len ? "\n" : "");
    }
    if (list.error) {
        g_propagate_error(error, list.error);
        return false;
    }
    if (text->len) {
        ok = fw_cfg_add_file(machine->fw_cfg, "bootorder", text->str, text->len + 1, error);
    }
    if (ok && machine->boot_splash_time >= 0) {
        uint16_t wait = GUINT16_TO_LE((uint16_t)MIN(machine->boot_splash_time, 0xffff));
        ok = fw_cfg_add_file(machine->fw_cfg, "etc/boot-menu-wait", &wait, sizeof(wait), error);
    }
    if (ok && machine->boot_reboot_timeout >= 0) {
        uint32_t wait = GUINT32_TO_LE((uint32_t)machine->boot_reboot_timeout);
        ok = fw_cfg_add_file(machine->fw_cfg, "etc/boot-fail-wait", &wait, sizeof(wait), error);
    }
    fw_cfg_add_u16(machine->fw_cfg, FW_CFG_BOOT_MENU, machine->boot_menu);
    return ok;
}

/* The letters of -boot as CMOS has them: floppy, hard disk, CD, network. 0: no such letter. */
static uint8_t boot_device_code(char letter)
{
    switch (letter) {
    case 'a':
    case 'b':
        return 1;
    case 'c':
        return 2;
    case 'd':
        return 3;
    case 'n':
    case 'p':
        return 4;
    default:
        return 0;
    }
}

static bool boot_order_check(const char *option, const char *order, GError **error)
{
    unsigned seen = 0;

    for (const char *p = order ? order : ""; *p; p++) {
        if (!boot_device_code(*p)) {
            return error_set(error,
                             "-boot %s=%s: there is no boot device '%c' (a floppy, c disk, d CD-ROM, "
                             "n network)",
                             option, order, *p);
        }
        if (seen & 1u << (*p - 'a')) {
            return error_set(error, "-boot %s=%s: boot device '%c' was given twice", option, order, *p);
        }
        seen |= 1u << (*p - 'a');
    }
    return true;
}

void x86_firmware_reset(X86Machine *x86)
{
    Machine *machine = MACHINE(x86);
    const char *order = machine->boot_once && !x86->booted_once ? machine->boot_once : machine->boot_order;
    uint8_t codes[3] = { 0 };

    x86->booted_once = true;
    if (!order || !*order) {
        order = "cad";
    }
    for (unsigned i = 0; i < 3 && order[i]; i++) {
        codes[i] = boot_device_code(order[i]);
    }
    if (machine->rtc) {
        mc146818rtc_set_cmos(machine->rtc, CMOS_BOOT_ORDER, codes[1] << 4 | codes[0]);
        mc146818rtc_set_cmos(machine->rtc, CMOS_BOOT_FLAGS, codes[2] << 4);
    }
}

/* ---- all of it ---- */

static bool publish_option_roms(Machine *machine, GError **error)
{
    g_auto(GStrv) names = g_strsplit(machine->option_roms ? machine->option_roms : "", "\n", -1);

    for (char **name = names; *name; name++) {
        if (!**name) {
            continue;
        }
        g_autoptr(GByteArray) rom =
            firmware_file_load(machine->config.firmware_dirs, *name, OPTION_ROM_MAX, error);
        g_autofree char *base = g_path_get_basename(*name);
        g_autofree char *file = g_strdup_printf("genroms/%s", base);
        if (!rom || !fw_cfg_add_file(machine->fw_cfg, file, rom->data, rom->len, error)) {
            return false;
        }
    }
    return true;
}

bool x86_firmware_publish(X86Machine *x86, bool acpi, GError **error)
{
    Machine *machine = MACHINE(x86);

    return boot_order_check("order", machine->boot_order, error) &&
           boot_order_check("once", machine->boot_once, error) && (!acpi || publish_acpi(x86, error)) &&
           publish_boot_order(machine, error) && smbios_publish(machine, error) &&
           publish_option_roms(machine, error);
}
