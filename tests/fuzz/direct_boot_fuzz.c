/* Kernel images that nobody meant: the loaders refuse or place them, inside RAM. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "machine/direct_boot.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char name[32];
    static const E820Entry map[] = { { 0, 0x9fc00, E820_RAM } };

    if (fd < 0) {
        fd = memfd_create("kernel", MFD_CLOEXEC);
        g_snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    }
    /* Random bytes hardly ever begin with a magic number: the first byte chooses one to put in. */
    g_autofree uint8_t *image = g_malloc0(size + 1024);
    size_t length = size;
    if (size) {
        memcpy(image, data + 1, size - 1);
        uint32_t multiboot[3] = { 0x1badb002, (data[0] & 16) ? 1u << 16 : 0, 0 };
        multiboot[2] = -(multiboot[0] + multiboot[1]);
        switch (data[0] & 3) {
        case 0:
            memcpy(image, "\177ELF", 4);
            image[4] = 1 + ((data[0] >> 2) & 1);
            image[5] = 1;
            image[18] = image[4] == 1 ? 3 : 62;
            image[19] = 0;
            break;
        case 1:
            memcpy(image + 0x1fe, "\x55\xaa", 2);
            memcpy(image + 0x202, "HdrS", 4);
            image[0x211] |= 1;
            length = MAX(length, (size_t)0x290);
            break;
        case 2:
            memcpy(image + (data[0] >> 2 & 4), multiboot, sizeof(multiboot));
            break;
        }
    }
    if (ftruncate(fd, 0) < 0 || pwrite(fd, image, length, 0) != (ssize_t)length) {
        return 0;
    }
    DirectBootInfo info = { .kernel = name,
                            .initrd = size & 1 ? name : NULL,
                            .cmdline = "console=ttyS0",
                            .e820 = map,
                            .e820_count = 1,
                            .below_4g = 64u << 20 };
    g_autoptr(GError) error = NULL;
    DirectBoot *boot = direct_boot_new(&info, &error);
    g_assert_true((boot != NULL) == (error == NULL));
    if (boot) {
        g_assert_true(direct_boot_inside(boot, info.below_4g));
    }
    direct_boot_free(boot);
    return 0;
}
