/*
 * Direct start of kernels. Sources: the Linux kernel's Documentation/arch/x86/boot.rst and zero-page.rst;
 * Xen's public header description of the PVH start structure (hvm_start_info); the Multiboot specification
 * 0.6.96; ELF (gABI).
 *
 * Nothing of the images is kept in memory: they are read from their files straight into guest RAM at each
 * reset.
 *
 * Low memory as it is used here:
 *     0x00500  GDT              0x07000  boot_params / hvm_start_info / multiboot_info and their lists
 *     0x09000  page tables (six pages)   0x20000  command line
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/direct_boot.h"

#include "arch/x86/apic.h"
#include "base/error.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GDT_ADDR         0x500
#define INFO_ADDR        0x7000
#define PAGE_TABLES      0x9000
#define CMDLINE_ADDR     0x20000
#define CMDLINE_MAX      0x10000
#define LOW_LIMIT        0x9fc00
#define HIGH_LOAD        0x100000
#define PAGE             4096u
#define MAX_IMAGE_HEADER 8192

/* The setup header's fields, boot.rst "The Real-Mode Kernel Header" (offsets in the image and in
 * boot_params). */
enum {
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP = 0x200,
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_END = 0x290,
    BP_ACPI_RSDP = 0x070,
    BP_E820_ENTRIES = 0x1e8,
    BP_E820_TABLE = 0x2d0,
};
#define LOADFLAG_LOADED_HIGH 1
#define XLF_KERNEL_64        1

#define MULTIBOOT_MAGIC       0x1badb002u
#define MULTIBOOT_ENTRY_EAX   0x2badb002u
#define MULTIBOOT_AOUT        (1u << 16)
#define MULTIBOOT_INFO_SIZE   88
#define PVH_MAGIC             0x336ec578u
#define XEN_NOTE_PHYS32_ENTRY 18

typedef struct BootBlob {
    uint64_t gpa;
    GBytes *bytes; /* NULL: from the file */
    int fd;        /* borrowed from files; -1 with bytes */
    uint64_t offset, size;
    uint64_t zero;    /* bytes to clear behind it */
    const char *name; /* of the file, for errors; borrowed from files */
} BootBlob;

typedef struct BootFile {
    char *name;
    int fd;
    uint64_t size;
} BootFile;

struct DirectBoot {
    DirectBootKind kind;
    uint64_t entry;
    GPtrArray *files; /* of BootFile */
    GPtrArray *blobs; /* of BootBlob */
    bool applied;     /* once: then memory is not fresh any more */
};

static uint16_t get16(const uint8_t *p)
{
    return p[0] | p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void put16(uint8_t *p, uint16_t value)
{
    p[0] = value;
    p[1] = value >> 8;
}

static void put32(uint8_t *p, uint32_t value)
{
    put16(p, value);
    put16(p + 2, value >> 16);
}

static void put64(uint8_t *p, uint64_t value)
{
    put32(p, value);
    put32(p + 4, value >> 32);
}

/* ---- files and blobs ---- */

static void boot_file_free(void *opaque)
{
    BootFile *file = opaque;

    close(file->fd);
    g_free(file->name);
    g_free(file);
}

static void boot_blob_free(void *opaque)
{
    BootBlob *blob = opaque;

    g_clear_pointer(&blob->bytes, g_bytes_unref);
    g_free(blob);
}

static BootFile *boot_open(DirectBoot *boot, const char *what, const char *name, GError **error)
{
    struct stat st;
    int fd = open(name, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0) {
        int saved = errno;
        if (fd >= 0) {
            close(fd);
        }
        error_set_errno(error, saved, "could not open %s '%s'", what, name);
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        error_set(error, "could not load %s '%s': not a regular file", what, name);
        return NULL;
    }
    BootFile *file = g_new0(BootFile, 1);
    file->name = g_strdup(name);
    file->fd = fd;
    file->size = st.st_size;
    g_ptr_array_add(boot->files, file);
    return file;
}

/* Reads exactly size bytes; false where the file is too short. */
static bool boot_read(const BootFile *file, uint64_t offset, void *buffer, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = pread(file->fd, (char *)buffer + done, size - done, offset + done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        done += n;
    }
    return true;
}

static BootBlob *boot_add_file(DirectBoot *boot, uint64_t gpa, const BootFile *file, uint64_t offset,
                               uint64_t size)
{
    BootBlob *blob = g_new0(BootBlob, 1);

    blob->gpa = gpa;
    blob->fd = file->fd;
    blob->offset = offset;
    blob->size = size;
    blob->name = file->name;
    g_ptr_array_add(boot->blobs, blob);
    return blob;
}

static void boot_add_bytes(DirectBoot *boot, uint64_t gpa, const void *data, size_t size)
{
    BootBlob *blob = g_new0(BootBlob, 1);

    blob->gpa = gpa;
    blob->fd = -1;
    blob->bytes = g_bytes_new(data, size);
    blob->size = size;
    g_ptr_array_add(boot->blobs, blob);
}

/* Where the highest byte of an image lies, so that modules and the initrd go beyond. */
static uint64_t boot_end(const DirectBoot *boot)
{
    uint64_t end = HIGH_LOAD;

    for (guint i = 0; i < boot->blobs->len; i++) {
        const BootBlob *blob = boot->blobs->pdata[i];
        end = MAX(end, blob->gpa + blob->size + blob->zero);
    }
    return end;
}

static bool boot_add_cmdline(DirectBoot *boot, const char *cmdline, uint32_t max, GError **error)
{
    size_t length = strlen(cmdline);

    if (length > max || length >= CMDLINE_MAX) {
        return error_set(error, "the kernel command line has %zu bytes; this kernel takes %u", length,
                         MIN(max, CMDLINE_MAX - 1));
    }
    boot_add_bytes(boot, CMDLINE_ADDR, cmdline, length + 1);
    return true;
}

/* ---- bzImage ---- */

static bool linux_place_initrd(DirectBoot *boot, const DirectBootInfo *info, uint64_t kernel_end,
                               uint64_t max, uint64_t *gpa, uint64_t *size, GError **error)
{
    *gpa = *size = 0;
    if (!info->initrd) {
        return true;
    }
    BootFile *file = boot_open(boot, "initrd", info->initrd, error);
    if (!file) {
        return false;
    }
    uint64_t limit = MIN(max + 1, info->below_4g);
    if (file->size > limit || ((limit - file->size) & ~(uint64_t)(PAGE - 1)) < kernel_end) {
        return error_set(error, "initrd '%s' (%" PRIu64 " bytes) does not fit into the guest's memory",
                         info->initrd, file->size);
    }
    *gpa = (limit - file->size) & ~(uint64_t)(PAGE - 1);
    *size = file->size;
    boot_add_file(boot, *gpa, file, 0, file->size);
    return true;
}

static bool linux_load(DirectBoot *boot, const DirectBootInfo *info, const BootFile *file,
                       const uint8_t *image, GError **error)
{
    unsigned version = get16(image + HDR_VERSION);
    unsigned setup_sectors = image[HDR_SETUP_SECTS] ? image[HDR_SETUP_SECTS] : 4;
    uint64_t setup_size = (setup_sectors + 1) * 512;
    uint64_t stated = setup_size + (uint64_t)get32(image + HDR_SYSSIZE) * 16;

    if (version < 0x0204 || !(image[HDR_LOADFLAGS] & LOADFLAG_LOADED_HIGH)) {
        return error_set(error, "kernel '%s' is too old: boot protocol %u.%02u, 2.04 is needed", file->name,
                         version >> 8, version & 0xff);
    }
    /* Images round the size up to 16 bytes and count a checksum that some leave out. */
    if (file->size <= setup_size || file->size + 32 < stated) {
        return error_set(error,
                         "kernel '%s' is truncated: it has %" PRIu64 " bytes, its header says %" PRIu64,
                         file->name, file->size, stated);
    }
    uint64_t body = file->size - setup_size;
    bool is_64 = version >= 0x020c && (get16(image + HDR_XLOADFLAGS) & XLF_KERNEL_64);
    uint32_t cmdline_max = version >= 0x0206 ? get32(image + HDR_CMDLINE_SIZE) : 255;
    uint64_t init_end = HIGH_LOAD + body;
    if (version >= 0x020a) {
        uint64_t pref = get64(image + HDR_PREF_ADDRESS);
        init_end = MAX(init_end,
                       (pref < UINT32_MAX ? MAX(pref, HIGH_LOAD) : HIGH_LOAD) + get32(image + HDR_INIT_SIZE));
    }
    if (init_end > info->below_4g) {
        return error_set(error, "kernel '%s' does not fit into the guest's memory: it needs %" PRIu64 " MiB",
                         file->name, (init_end + 0xfffff) >> 20);
    }
    uint64_t initrd, initrd_size;
    if (!linux_place_initrd(boot, info, init_end, get32(image + HDR_INITRD_ADDR_MAX), &initrd, &initrd_size,
                            error) ||
        !boot_add_cmdline(boot, info->cmdline ? info->cmdline : "", cmdline_max ? cmdline_max : 255, error)) {
        return false;
    }

    uint8_t params[PAGE] = { 0 };
    size_t header_end = MIN((size_t)0x202 + image[HDR_JUMP + 1], (size_t)HDR_END);
    memcpy(params + HDR_SETUP_SECTS, image + HDR_SETUP_SECTS, header_end - HDR_SETUP_SECTS);
    params[HDR_TYPE_OF_LOADER] = 0xff;
    put16(params + 0x1fa, 0xffff); /* vid_mode: normal */
    put32(params + HDR_CODE32_START, HIGH_LOAD);
    put32(params + HDR_CMD_LINE_PTR, CMDLINE_ADDR);
    put32(params + HDR_RAMDISK_IMAGE, initrd);
    put32(params + HDR_RAMDISK_SIZE, initrd_size);
    put64(params + BP_ACPI_RSDP, info->rsdp);
    unsigned count = MIN(info->e820_count, E820_MAX_ENTRIES);
    params[BP_E820_ENTRIES] = count;
    for (unsigned i = 0; i < count; i++) {
        uint8_t *entry = params + BP_E820_TABLE + i * 20;
        put64(entry, info->e820[i].base);
        put64(entry + 8, info->e820[i].size);
        put32(entry + 16, info->e820[i].type);
    }
    /* The older ways to tell the memory's size. */
    uint64_t extended_kib = (info->below_4g - HIGH_LOAD) >> 10;
    put16(params + 0x002, MIN(extended_kib, 0xfc00));
    put32(params + 0x1e0, extended_kib);
    boot_add_bytes(boot, INFO_ADDR, params, sizeof(params));
    boot_add_file(boot, HIGH_LOAD, file, setup_size, body);
    boot->kind = is_64 ? DIRECT_BOOT_LINUX64 : DIRECT_BOOT_LINUX32;
    boot->entry = is_64 ? HIGH_LOAD + 0x200 : HIGH_LOAD;
    return true;
}

/* ---- ELF ---- */

typedef struct ElfImage {
    bool is_64;
    uint64_t entry, program_headers;
    unsigned count, entry_size;
} ElfImage;

typedef struct ElfSegment {
    uint32_t type;
    uint64_t offset, paddr, file_size, mem_size, align;
} ElfSegment;

static bool elf_parse(const BootFile *file, const uint8_t *image, size_t have, ElfImage *elf, GError **error)
{
    if (have < 64) {
        return error_set(error, "kernel '%s' is truncated: it ends inside its ELF header", file->name);
    }
    elf->is_64 = image[EI_CLASS] == ELFCLASS64;
    if (image[EI_DATA] != ELFDATA2LSB || (!elf->is_64 && image[EI_CLASS] != ELFCLASS32) ||
        get16(image + 18) != (elf->is_64 ? EM_X86_64 : EM_386)) {
        return error_set(error, "kernel '%s' is an ELF file of another architecture", file->name);
    }
    elf->entry = elf->is_64 ? get64(image + 24) : get32(image + 24);
    elf->program_headers = elf->is_64 ? get64(image + 32) : get32(image + 28);
    elf->entry_size = get16(image + (elf->is_64 ? 54 : 42));
    elf->count = get16(image + (elf->is_64 ? 56 : 44));
    if (elf->entry_size != (elf->is_64 ? 56 : 32) || elf->count == 0 || elf->count > 256) {
        return error_set(error, "kernel '%s' has a malformed ELF header", file->name);
    }
    return true;
}

static bool elf_segment(const BootFile *file, const ElfImage *elf, unsigned n, ElfSegment *s, GError **error)
{
    uint8_t raw[56];

    if (elf->program_headers > file->size ||
        !boot_read(file, elf->program_headers + (uint64_t)n * elf->entry_size, raw, elf->entry_size)) {
        return error_set(error, "kernel '%s' is truncated: its program headers are missing", file->name);
    }
    s->type = get32(raw);
    if (elf->is_64) {
        s->offset = get64(raw + 8);
        s->paddr = get64(raw + 24);
        s->file_size = get64(raw + 32);
        s->mem_size = get64(raw + 40);
        s->align = get64(raw + 48);
    } else {
        s->offset = get32(raw + 4);
        s->paddr = get32(raw + 12);
        s->file_size = get32(raw + 16);
        s->mem_size = get32(raw + 20);
        s->align = get32(raw + 28);
    }
    if ((s->type == PT_LOAD || s->type == PT_NOTE) &&
        (s->offset > file->size || s->file_size > file->size - s->offset)) {
        return error_set(error, "kernel '%s' is truncated: segment %u reaches beyond its end", file->name, n);
    }
    return true;
}

static bool elf_load(DirectBoot *boot, const DirectBootInfo *info, const BootFile *file, const ElfImage *elf,
                     GError **error)
{
    bool any = false;

    for (unsigned i = 0; i < elf->count; i++) {
        ElfSegment s;
        if (!elf_segment(file, elf, i, &s, error)) {
            return false;
        }
        if (s.type != PT_LOAD || s.mem_size == 0) {
            continue;
        }
        if (s.file_size > s.mem_size || s.mem_size > info->below_4g ||
            s.paddr > info->below_4g - s.mem_size) {
            return error_set(error, "kernel '%s' does not fit into the guest's memory", file->name);
        }
        boot_add_file(boot, s.paddr, file, s.offset, s.file_size)->zero = s.mem_size - s.file_size;
        any = true;
    }
    return any || error_set(error, "kernel '%s' has nothing to load", file->name);
}

/* The PVH entry from the notes: a 32-bit physical address, or 0. */
static bool elf_pvh_entry(const BootFile *file, const ElfImage *elf, uint32_t *entry, GError **error)
{
    *entry = 0;
    for (unsigned i = 0; i < elf->count; i++) {
        ElfSegment s;
        if (!elf_segment(file, elf, i, &s, error)) {
            return false;
        }
        if (s.type != PT_NOTE || s.file_size > 65536) {
            continue;
        }
        g_autofree uint8_t *notes = g_malloc(s.file_size + 1);
        if (!boot_read(file, s.offset, notes, s.file_size)) {
            return error_set(error, "kernel '%s' is truncated: its notes are missing", file->name);
        }
        for (uint64_t at = 0; at + 12 <= s.file_size;) {
            uint64_t name_size = get32(notes + at), size = get32(notes + at + 4);
            uint64_t name = at + 12, data = name + ((name_size + 3) & ~UINT64_C(3));
            if (data + size > s.file_size) {
                break;
            }
            if (get32(notes + at + 8) == XEN_NOTE_PHYS32_ENTRY && name_size == 4 &&
                memcmp(notes + name, "Xen", 4) == 0 && size >= 4) {
                *entry = get32(notes + data);
                return true;
            }
            at = data + ((size + 3) & ~UINT64_C(3));
        }
    }
    return true;
}

/* ---- PVH ---- */

static bool pvh_load(DirectBoot *boot, const DirectBootInfo *info, const BootFile *file, const ElfImage *elf,
                     uint32_t entry, GError **error)
{
    /* hvm_start_info (56 bytes), one module entry (32), the memory map (24 each) */
    enum { MODULE = 56, MAP = MODULE + 32 };
    uint8_t start[MAP + 24 * E820_MAX_ENTRIES] = { 0 };
    unsigned count = MIN(info->e820_count, E820_MAX_ENTRIES);

    if (!elf_load(boot, info, file, elf, error) ||
        !boot_add_cmdline(boot, info->cmdline ? info->cmdline : "", CMDLINE_MAX - 1, error)) {
        return false;
    }
    uint64_t initrd, initrd_size;
    if (!linux_place_initrd(boot, info, boot_end(boot), UINT32_MAX, &initrd, &initrd_size, error)) {
        return false;
    }
    put32(start, PVH_MAGIC);
    put32(start + 4, 1);
    put32(start + 12, info->initrd ? 1 : 0);
    put64(start + 16, info->initrd ? INFO_ADDR + MODULE : 0);
    put64(start + 24, CMDLINE_ADDR);
    put64(start + 32, info->rsdp);
    put64(start + 40, INFO_ADDR + MAP);
    put32(start + 48, count);
    put64(start + MODULE, initrd);
    put64(start + MODULE + 8, initrd_size);
    for (unsigned i = 0; i < count; i++) {
        put64(start + MAP + i * 24, info->e820[i].base);
        put64(start + MAP + i * 24 + 8, info->e820[i].size);
        put32(start + MAP + i * 24 + 16, info->e820[i].type);
    }
    boot_add_bytes(boot, INFO_ADDR, start, MAP + 24 * count);
    boot->kind = DIRECT_BOOT_PVH;
    boot->entry = entry;
    return true;
}

/* ---- multiboot ---- */

/* The header's offset in the first 8 KiB, or -1. */
static int multiboot_find(const uint8_t *image, size_t have)
{
    for (size_t i = 0; i + 12 <= have; i += 4) {
        if (get32(image + i) == MULTIBOOT_MAGIC &&
            (uint32_t)(MULTIBOOT_MAGIC + get32(image + i + 4) + get32(image + i + 8)) == 0) {
            return i;
        }
    }
    return -1;
}

static bool multiboot_load_flat(DirectBoot *boot, const DirectBootInfo *info, const BootFile *file,
                                const uint8_t *header, size_t at, size_t have, GError **error)
{
    if (at + 32 > have) {
        return error_set(error, "kernel '%s' is truncated: it ends inside its multiboot header", file->name);
    }
    uint32_t header_addr = get32(header + 12), load_addr = get32(header + 16), load_end = get32(header + 20),
             bss_end = get32(header + 24);
    if (load_addr > header_addr || header_addr - load_addr > at) {
        return error_set(error, "kernel '%s' has a malformed multiboot header", file->name);
    }
    uint64_t offset = at - (header_addr - load_addr);
    uint64_t size = load_end ? (uint64_t)load_end - load_addr : file->size - offset;
    if ((load_end && load_end < load_addr) || size > file->size - offset) {
        return error_set(error, "kernel '%s' is truncated: its multiboot header says %" PRIu64 " bytes",
                         file->name, size + offset);
    }
    uint64_t total = bss_end ? (uint64_t)bss_end - load_addr : size;
    if ((bss_end && bss_end < load_addr) || total < size || load_addr + total > info->below_4g) {
        return error_set(error, "kernel '%s' does not fit into the guest's memory", file->name);
    }
    boot_add_file(boot, load_addr, file, offset, size)->zero = total - size;
    boot->entry = get32(header + 28);
    return true;
}

static bool multiboot_load_modules(DirectBoot *boot, const DirectBootInfo *info, GByteArray *area,
                                   uint32_t *list, unsigned *count, GError **error)
{
    g_auto(GStrv) modules = g_strsplit(info->initrd ? info->initrd : "", ",", -1);
    unsigned n = g_strv_length(modules);

    *count = 0;
    if (!info->initrd) {
        return true;
    }
    /* Strings first, then the list: 16 bytes each. */
    g_autofree uint8_t *entries = g_malloc0(n * 16 + 1);
    for (unsigned i = 0; i < n; i++) {
        char *text = g_strchug(modules[i]);
        g_autofree char *name = g_strndup(text, strcspn(text, " "));
        BootFile *file = boot_open(boot, "module", name, error);
        if (!file) {
            return false;
        }
        uint64_t gpa = (boot_end(boot) + PAGE - 1) & ~(uint64_t)(PAGE - 1);
        if (file->size > info->below_4g || gpa > info->below_4g - file->size) {
            return error_set(error, "module '%s' does not fit into the guest's memory", name);
        }
        boot_add_file(boot, gpa, file, 0, file->size);
        put32(entries + i * 16, gpa);
        put32(entries + i * 16 + 4, gpa + file->size);
        put32(entries + i * 16 + 8, CMDLINE_ADDR + area->len);
        g_byte_array_append(area, (const uint8_t *)text, strlen(text) + 1);
    }
    while (area->len & 3) {
        g_byte_array_append(area, (const uint8_t *)"", 1);
    }
    *list = CMDLINE_ADDR + area->len;
    *count = n;
    g_byte_array_append(area, entries, n * 16);
    return true;
}

static bool multiboot_load(DirectBoot *boot, const DirectBootInfo *info, const BootFile *file,
                           const uint8_t *image, size_t have, int at, GError **error)
{
    const uint8_t *header = image + at;

    if (get32(header + 4) & MULTIBOOT_AOUT) {
        if (!multiboot_load_flat(boot, info, file, header, at, have, error)) {
            return false;
        }
    } else {
        ElfImage elf;
        if (memcmp(image, ELFMAG, SELFMAG) != 0) {
            return error_set(
                error, "kernel '%s' has a multiboot header, but is neither ELF nor says where to load it",
                file->name);
        }
        if (!elf_parse(file, image, have, &elf, error)) {
            return false;
        }
        if (elf.is_64) {
            return error_set(error, "kernel '%s' is a 64-bit multiboot image; multiboot needs a 32-bit one",
                             file->name);
        }
        if (!elf_load(boot, info, file, &elf, error)) {
            return false;
        }
        boot->entry = elf.entry;
    }
    g_autoptr(GByteArray) area = g_byte_array_new();
    g_autofree char *cmdline = info->cmdline && *info->cmdline
                                   ? g_strdup_printf("%s %s", file->name, info->cmdline)
                                   : g_strdup(file->name);
    uint32_t modules = 0;
    unsigned module_count;
    g_byte_array_append(area, (const uint8_t *)cmdline, strlen(cmdline) + 1);
    static const char loader_name[] = "rhea";
    uint32_t loader = CMDLINE_ADDR + area->len;
    g_byte_array_append(area, (const uint8_t *)loader_name, sizeof(loader_name));
    if (!multiboot_load_modules(boot, info, area, &modules, &module_count, error)) {
        return false;
    }
    if (area->len > LOW_LIMIT - CMDLINE_ADDR) {
        return error_set(error, "the kernel command line and modules have %u bytes; there is room for %u",
                         area->len, LOW_LIMIT - CMDLINE_ADDR);
    }
    boot_add_bytes(boot, CMDLINE_ADDR, area->data, area->len);

    uint8_t start[MULTIBOOT_INFO_SIZE + 24 * E820_MAX_ENTRIES] = { 0 };
    unsigned count = MIN(info->e820_count, E820_MAX_ENTRIES);
    /* flags: memory, boot device, command line, modules, memory map, loader's name */
    put32(start, 1u << 0 | 1u << 1 | 1u << 2 | 1u << 3 | 1u << 6 | 1u << 9);
    put32(start + 4, 640);
    put32(start + 8, (info->below_4g - HIGH_LOAD) >> 10);
    put32(start + 12, 0x8000ffff); /* first hard disk */
    put32(start + 16, CMDLINE_ADDR);
    put32(start + 20, module_count);
    put32(start + 24, modules);
    put32(start + 44, 24 * count);
    put32(start + 48, INFO_ADDR + MULTIBOOT_INFO_SIZE);
    put32(start + 64, loader);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *entry = start + MULTIBOOT_INFO_SIZE + 24 * i;
        put32(entry, 20); /* the size of what follows */
        put64(entry + 4, info->e820[i].base);
        put64(entry + 12, info->e820[i].size);
        put32(entry + 20, info->e820[i].type);
    }
    boot_add_bytes(boot, INFO_ADDR, start, MULTIBOOT_INFO_SIZE + 24 * count);
    boot->kind = DIRECT_BOOT_MULTIBOOT;
    return true;
}

/* ---- the whole ---- */

static bool direct_boot_load(DirectBoot *boot, const DirectBootInfo *info, GError **error)
{
    g_autofree uint8_t *image = g_malloc0(MAX_IMAGE_HEADER);
    BootFile *file = boot_open(boot, "kernel", info->kernel, error);

    if (!file) {
        return false;
    }
    size_t have = MIN(file->size, MAX_IMAGE_HEADER);
    if (have < 4 || !boot_read(file, 0, image, have)) {
        return error_set(error, "kernel '%s' is truncated: it has only %" PRIu64 " bytes", file->name,
                         file->size);
    }
    int at = multiboot_find(image, have);
    if (at >= 0) {
        return multiboot_load(boot, info, file, image, have, at, error);
    }
    if (memcmp(image, ELFMAG, SELFMAG) == 0) {
        ElfImage elf;
        uint32_t entry;
        if (!elf_parse(file, image, have, &elf, error) || !elf_pvh_entry(file, &elf, &entry, error)) {
            return false;
        }
        if (!entry) {
            return error_set(error, "kernel '%s' is an ELF file without a PVH note or a multiboot header",
                             file->name);
        }
        return pvh_load(boot, info, file, &elf, entry, error);
    }
    if (have >= HDR_END && get16(image + HDR_BOOT_FLAG) == 0xaa55 &&
        memcmp(image + HDR_MAGIC, "HdrS", 4) == 0) {
        return linux_load(boot, info, file, image, error);
    }
    if (have < HDR_END) {
        return error_set(error, "kernel '%s' is truncated: it has only %" PRIu64 " bytes", file->name,
                         file->size);
    }
    return error_set(error,
                     "kernel '%s' is no kernel that can be started: neither bzImage, PVH ELF nor multiboot",
                     file->name);
}

DirectBoot *direct_boot_new(const DirectBootInfo *info, GError **error)
{
    DirectBoot *boot = g_new0(DirectBoot, 1);

    boot->files = g_ptr_array_new_with_free_func(boot_file_free);
    boot->blobs = g_ptr_array_new_with_free_func(boot_blob_free);
    if (!direct_boot_load(boot, info, error)) {
        direct_boot_free(boot);
        return NULL;
    }
    return boot;
}

void direct_boot_free(DirectBoot *boot)
{
    if (boot) {
        g_ptr_array_unref(boot->blobs);
        g_ptr_array_unref(boot->files);
        g_free(boot);
    }
}

DirectBootKind direct_boot_kind(const DirectBoot *boot)
{
    return boot->kind;
}

bool direct_boot_inside(const DirectBoot *boot, uint64_t limit)
{
    for (guint i = 0; i < boot->blobs->len; i++) {
        const BootBlob *blob = boot->blobs->pdata[i];
        uint64_t end;
        if (__builtin_add_overflow(blob->gpa, blob->size, &end) ||
            __builtin_add_overflow(end, blob->zero, &end) || end > limit) {
            return false;
        }
    }
    return true;
}

uint64_t direct_boot_entry(const DirectBoot *boot)
{
    return boot->entry;
}

/* Reads a part of a file straight into guest RAM. */
static bool boot_blob_from_file(const BootBlob *blob, AddressSpace *memory, GError **error)
{
    BootFile file = { .fd = blob->fd };

    for (uint64_t done = 0; done < blob->size;) {
        hwaddr length = blob->size - done;
        void *host = address_space_map(memory, blob->gpa + done, &length, true, MEMTXATTRS_NONE);
        if (!host || length == 0) {
            return error_set(error, "'%s' does not lie in RAM at 0x%" PRIx64, blob->name, blob->gpa + done);
        }
        bool ok = boot_read(&file, blob->offset + done, host, length);
        address_space_unmap(memory, host, length, true, length);
        if (!ok) {
            return error_set(error, "'%s' cannot be read (has it become shorter?)", blob->name);
        }
        done += length;
    }
    return true;
}

static void set_segment(X86Cpu *cpu, int seg, uint16_t selector, uint32_t attr)
{
    cpu->segs[seg] = (X86Segment){ .selector = selector, .attr = attr, .limit = UINT32_MAX, .base = 0 };
}

/* Flat code at 0x10 and data at 0x18, as Linux wants them; also good for PVH and multiboot. */
static void boot_flat_segments(X86Cpu *cpu, bool long_mode)
{
    const uint32_t code =
        DESC_P | DESC_S | DESC_CODE | DESC_R | DESC_A | DESC_G | (long_mode ? DESC_L : DESC_B);
    const uint32_t data = DESC_P | DESC_S | DESC_W | DESC_A | DESC_G | DESC_B;

    set_segment(cpu, SEG_CS, 0x10, code);
    for (int seg = SEG_ES; seg < SEG_COUNT; seg++) {
        if (seg != SEG_CS) {
            set_segment(cpu, seg, 0x18, data);
        }
    }
    cpu->segs[SEG_TR] =
        (X86Segment){ .selector = 0x20, .attr = DESC_P | 0xb << DESC_TYPE_SHIFT, .limit = 0x67 };
    cpu->segs[SEG_LDTR] = (X86Segment){ .attr = DESC_P | 0x2 << DESC_TYPE_SHIFT };
    cpu->gdt = (X86Table){ .base = GDT_ADDR, .limit = 5 * 8 - 1 };
    cpu->idt = (X86Table){ .base = 0, .limit = 0 };
}

static void boot_write_gdt(AddressSpace *memory, bool long_mode)
{
    uint8_t gdt[5 * 8] = { 0 };

    put64(gdt + 0x10, long_mode ? UINT64_C(0x00af9b000000ffff) : UINT64_C(0x00cf9b000000ffff));
    put64(gdt + 0x18, UINT64_C(0x00cf93000000ffff));
    put64(gdt + 0x20, UINT64_C(0x00008b0000000067));
    address_space_write(memory, GDT_ADDR, MEMTXATTRS_NONE, gdt, sizeof(gdt));
}

/* Four GiB of identity mapping in 2 MiB pages. */
static void boot_write_page_tables(AddressSpace *memory)
{
    g_autofree uint8_t *tables = g_malloc0(6 * PAGE);

    put64(tables, (PAGE_TABLES + PAGE) | 3);
    for (unsigned i = 0; i < 4; i++) {
        put64(tables + PAGE + i * 8, (PAGE_TABLES + (2 + i) * PAGE) | 3);
        for (unsigned j = 0; j < 512; j++) {
            put64(tables + (2 + i) * PAGE + j * 8, ((uint64_t)i << 30 | (uint64_t)j << 21) | 0x83);
        }
    }
    address_space_write(memory, PAGE_TABLES, MEMTXATTRS_NONE, tables, 6 * PAGE);
}

bool direct_boot_apply(DirectBoot *boot, AddressSpace *memory, X86Cpu *cpu, GError **error)
{
    bool long_mode = boot->kind == DIRECT_BOOT_LINUX64;

    for (guint i = 0; i < boot->blobs->len; i++) {
        const BootBlob *blob = boot->blobs->pdata[i];
        if (blob->bytes) {
            address_space_write(memory, blob->gpa, MEMTXATTRS_NONE, g_bytes_get_data(blob->bytes, NULL),
                                blob->size);
        } else if (!boot_blob_from_file(blob, memory, error)) {
            return false;
        }
        if (blob->zero && boot->applied) { /* fresh memory is zero, and better not touched */
            address_space_set(memory, blob->gpa + blob->size, 0, blob->zero, MEMTXATTRS_NONE);
        }
    }
    boot->applied = true;

    memset(cpu->regs, 0, sizeof(cpu->regs));
    boot_write_gdt(memory, long_mode);
    boot_flat_segments(cpu, long_mode);
    cpu->cr0 = CR0_PE | CR0_ET | CR0_NE;
    x86_set_rflags(cpu, FLAG_ONE);
    switch (boot->kind) {
    case DIRECT_BOOT_LINUX64:
        boot_write_page_tables(memory);
        cpu->cr3 = PAGE_TABLES;
        cpu->cr4 = CR4_PAE;
        cpu->efer = EFER_LME | EFER_LMA;
        cpu->cr0 |= CR0_PG;
        cpu->regs[R_RSI] = INFO_ADDR;
        break;
    case DIRECT_BOOT_LINUX32:
        cpu->regs[R_RSI] = INFO_ADDR;
        break;
    case DIRECT_BOOT_PVH:
        cpu->regs[R_RBX] = INFO_ADDR;
        break;
    case DIRECT_BOOT_MULTIBOOT:
        cpu->cr0 &= ~CR0_NE;
        cpu->regs[R_RAX] = MULTIBOOT_ENTRY_EAX;
        cpu->regs[R_RBX] = INFO_ADDR;
        break;
    }
    cpu->rip = boot->entry;
    cpu->halted = false;
    cpu->cpl = 0;
    x86_update_mode(cpu);
    return true;
}
