/* Kernels that are whole, truncated or foreign. SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/direct_boot.h"

#include <elf.h>
#include <string.h>
#include <unistd.h>

static char *write_file(const void *data, size_t size)
{
    char *name = NULL;
    int fd = g_file_open_tmp("rhea-kernel-XXXXXX", &name, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, data, size), ==, size);
    close(fd);
    return name;
}

static DirectBoot *try_file(const char *name, const char *initrd, const char *cmdline, uint64_t ram,
                            char **message)
{
    static const E820Entry map[] = { { 0, 0x9fc00, E820_RAM } };
    DirectBootInfo info = {
        .kernel = name, .initrd = initrd, .cmdline = cmdline, .e820 = map, .e820_count = 1, .below_4g = ram
    };
    g_autoptr(GError) error = NULL;
    DirectBoot *boot = direct_boot_new(&info, &error);

    g_assert_true((boot != NULL) == (error == NULL));
    g_free(*message);
    *message = error ? g_strdup(error->message) : NULL;
    return boot;
}

static void expect_error(const void *data, size_t size, uint64_t ram, const char *part)
{
    g_autofree char *name = write_file(data, size);
    g_autofree char *message = NULL;

    g_assert_null(try_file(name, NULL, NULL, ram, &message));
    if (!strstr(message, part) || strchr(message, '\n')) {
        g_error("\"%s\" lacks \"%s\"", message, part);
    }
    unlink(name);
}

#define RAM (64u << 20)

static void make_linux(uint8_t *image, size_t size, unsigned version, unsigned xloadflags)
{
    memset(image, 0, size);
    image[0x1f1] = 1; /* two sectors of setup */
    uint32_t paragraphs = (size - 1024) / 16;
    memcpy(image + 0x1f4, &paragraphs, 4);
    image[0x1fe] = 0x55;
    image[0x1ff] = 0xaa;
    image[0x200] = 0xeb;
    image[0x201] = 0x66;
    memcpy(image + 0x202, "HdrS", 4);
    image[0x206] = version;
    image[0x207] = version >> 8;
    image[0x211] = 1;
    memset(image + 0x22c, 0xff, 3); /* initrd below 16 MiB */
    image[0x236] = xloadflags;
    image[0x238] = 100;  /* command line */
    image[0x25a] = 0x10; /* preferred address 1 MiB */
    image[0x262] = 0x20; /* 2 MiB of work space */
}

static void test_linux(void)
{
    uint8_t image[4096];
    g_autofree char *message = NULL;

    make_linux(image, sizeof(image), 0x20f, 1);
    g_autofree char *name = write_file(image, sizeof(image));
    DirectBoot *boot = try_file(name, NULL, "console=ttyS0", RAM, &message);
    g_assert_nonnull(boot);
    g_assert_cmpint(direct_boot_kind(boot), ==, DIRECT_BOOT_LINUX64);
    g_assert_cmphex(direct_boot_entry(boot), ==, 0x100200);
    direct_boot_free(boot);

    g_autofree char *long_line = g_strnfill(101, 'x');
    g_assert_null(try_file(name, NULL, long_line, RAM, &message));
    g_assert_nonnull(strstr(message, "command line"));
    g_assert_null(try_file(name, "/nonexistent/initrd", NULL, RAM, &message));
    g_assert_nonnull(strstr(message, "could not open initrd '/nonexistent/initrd': No such file"));
    unlink(name);

    make_linux(image, sizeof(image), 0x20f, 0);
    g_free(name);
    name = write_file(image, sizeof(image));
    boot = try_file(name, NULL, NULL, RAM, &message);
    g_assert_cmpint(direct_boot_kind(boot), ==, DIRECT_BOOT_LINUX32);
    g_assert_cmphex(direct_boot_entry(boot), ==, 0x100000);
    direct_boot_free(boot);
    unlink(name);

    make_linux(image, sizeof(image), 0x20f, 1);
    expect_error(image, 3000, RAM, "truncated: it has 3000 bytes, its header says 4096");
    expect_error(image, 600, RAM, "truncated");
    expect_error(image, 100, RAM, "truncated");
    expect_error(image, 0, RAM, "truncated");
    expect_error(image, sizeof(image), 2u << 20, "does not fit");
    make_linux(image, sizeof(image), 0x200, 1);
    expect_error(image, sizeof(image), RAM, "too old");
    memset(image, 'A', sizeof(image));
    expect_error(image, sizeof(image), RAM, "neither bzImage");
}

static size_t make_elf64(uint8_t *image, bool note)
{
    Elf64_Ehdr *eh = (Elf64_Ehdr *)image;
    Elf64_Phdr *ph = (Elf64_Phdr *)(image + sizeof(*eh));

    memset(image, 0, 1024);
    memcpy(eh->e_ident, ELFMAG, SELFMAG);
    eh->e_ident[EI_CLASS] = ELFCLASS64;
    eh->e_ident[EI_DATA] = ELFDATA2LSB;
    eh->e_machine = EM_X86_64;
    eh->e_phoff = sizeof(*eh);
    eh->e_phentsize = sizeof(*ph);
    eh->e_phnum = 2;
    ph[0] = (Elf64_Phdr){
        .p_type = PT_LOAD, .p_offset = 512, .p_paddr = 0x200000, .p_filesz = 512, .p_memsz = 8192
    };
    ph[1] = (Elf64_Phdr){ .p_type = note ? PT_NOTE : PT_NULL, .p_offset = 512, .p_filesz = 20 };
    uint32_t *n = (uint32_t *)(image + 512);
    n[0] = 4;
    n[1] = 4;
    n[2] = 18;
    memcpy(&n[3], "Xen", 4);
    n[4] = 0x200040;
    return 1024;
}

static void test_pvh(void)
{
    _Alignas(8) uint8_t image[1024];
    g_autofree char *message = NULL;
    size_t size = make_elf64(image, true);
    g_autofree char *name = write_file(image, size);
    DirectBoot *boot = try_file(name, name, NULL, RAM, &message);

    g_assert_nonnull(boot);
    g_assert_cmpint(direct_boot_kind(boot), ==, DIRECT_BOOT_PVH);
    g_assert_cmphex(direct_boot_entry(boot), ==, 0x200040);
    direct_boot_free(boot);
    unlink(name);
    expect_error(image, 700, RAM, "truncated: segment 0");
    expect_error(image, 80, RAM, "truncated: its program headers");
    expect_error(image, 20, RAM, "truncated");
    expect_error(image, size, 2u << 20, "does not fit");
    make_elf64(image, false);
    expect_error(image, size, RAM, "without a PVH note");
    ((Elf64_Ehdr *)image)->e_machine = EM_AARCH64;
    expect_error(image, size, RAM, "another architecture");
}

static void test_multiboot(void)
{
    _Alignas(8) uint8_t image[1024] = { 0 };
    uint32_t *header = (uint32_t *)(image + 64);
    g_autofree char *message = NULL;

    header[0] = 0x1badb002;
    header[1] = 1u << 16;
    header[2] = -(header[0] + header[1]);
    header[3] = 0x400040; /* this header's own address */
    header[4] = 0x400000;
    header[5] = 0;
    header[6] = 0x500000;
    header[7] = 0x400100;
    g_autofree char *name = write_file(image, sizeof(image));
    DirectBoot *boot = try_file(name, name, "a b", RAM, &message);
    g_assert_nonnull(boot);
    g_assert_cmpint(direct_boot_kind(boot), ==, DIRECT_BOOT_MULTIBOOT);
    g_assert_cmphex(direct_boot_entry(boot), ==, 0x400100);
    direct_boot_free(boot);
    g_assert_null(try_file(name, "/nonexistent/m arg", NULL, RAM, &message));
    g_assert_nonnull(strstr(message, "module '/nonexistent/m'"));
    unlink(name);
    header[5] = 0x400800; /* ends 2 KiB on: the file has one */
    expect_error(image, sizeof(image), RAM, "truncated");
    header[5] = 0;
    expect_error(image, sizeof(image), 2u << 20, "does not fit");
    header[4] = 0x400080;
    expect_error(image, sizeof(image), RAM, "malformed multiboot");
    header[1] = 0;
    header[2] = -header[0];
    expect_error(image, sizeof(image), RAM, "neither ELF");
    /* ELF with the header inside: 64-bit ones are refused */
    make_elf64(image, false);
    header = (uint32_t *)(image + 600);
    header[0] = 0x1badb002;
    header[1] = 0;
    header[2] = -header[0];
    expect_error(image, sizeof(image), RAM, "64-bit multiboot");
}

static void test_missing(void)
{
    g_autofree char *message = NULL;

    g_assert_null(try_file("/nonexistent/kernel", NULL, NULL, RAM, &message));
    g_assert_cmpstr(message, ==, "could not open kernel '/nonexistent/kernel': No such file or directory");
    g_assert_null(try_file("/", NULL, NULL, RAM, &message));
    g_assert_nonnull(strstr(message, "not a regular file"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/direct_boot/linux", test_linux);
    g_test_add_func("/direct_boot/pvh", test_pvh);
    g_test_add_func("/direct_boot/multiboot", test_multiboot);
    g_test_add_func("/direct_boot/missing", test_missing);
    return g_test_run();
}
