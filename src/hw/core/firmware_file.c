/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/core/firmware_file.h"

#include "base/error.h"
#include "rhea_config.h"

#include <string.h>

/* Where Debian's packages put them. */
static const char *const standard_dirs[] = {
    CONFIG_DATADIR, "/usr/share/seabios", "/usr/lib/ipxe/qemu", "/usr/share/qemu", NULL,
};

/* Which of Debian's packages has a file; the first match counts. */
static const struct {
    const char *pattern, *package;
} packages[] = {
    { "bios*.bin", "seabios" },   { "vgabios*.bin", "seabios" }, { "efi-*.rom", "ipxe-qemu" },
    { "pxe-*.rom", "ipxe-qemu" }, { "OVMF*", "ovmf" },
};

static char *find_in(const char *const *dirs, const char *name)
{
    for (; dirs && *dirs; dirs++) {
        char *path = g_build_filename(*dirs, name, NULL);
        if (g_file_test(path, G_FILE_TEST_EXISTS)) {
            return path;
        }
        g_free(path);
    }
    return NULL;
}

char *firmware_file_find(const char *const *dirs, const char *name, GError **error)
{
    if (g_file_test(name, G_FILE_TEST_IS_REGULAR)) {
        return g_strdup(name);
    }
    char *path = strchr(name, '/') ? NULL : find_in(dirs, name);
    if (!path && !strchr(name, '/')) {
        path = find_in(standard_dirs, name);
    }
    if (path) {
        return path;
    }
    error_set(error, "firmware file '%s' was not found", name);
    for (size_t i = 0; i < G_N_ELEMENTS(packages); i++) {
        if (g_pattern_match_simple(packages[i].pattern, name)) {
            error_append_hint(error, "It is in Debian's package '%s'; -L DIRECTORY names another place.",
                              packages[i].package);
            break;
        }
    }
    return NULL;
}

GByteArray *firmware_file_load(const char *const *dirs, const char *name, size_t max_bytes, GError **error)
{
    g_autofree char *path = firmware_file_find(dirs, name, error);
    g_autofree char *data = NULL;
    g_autoptr(GError) local = NULL;
    gsize length = 0;

    if (!path) {
        return NULL;
    }
    if (!g_file_get_contents(path, &data, &length, &local)) {
        error_set(error, "cannot read firmware: %s", local->message);
        return NULL;
    }
    if (length == 0 || length > max_bytes) {
        error_set(error, "firmware file '%s' has %zu bytes; 1 to %zu are possible", path, (size_t)length,
                  max_bytes);
        return NULL;
    }
    return g_byte_array_new_take((guint8 *)g_steal_pointer(&data), length);
}
