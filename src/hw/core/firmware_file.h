/*
 * Firmware images of the host: BIOS, VGA BIOS, network boot ROMs. They come from the distribution's packages
 * and are looked for when the machine starts. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_CORE_FIRMWARE_FILE_H
#define RHEA_HW_CORE_FIRMWARE_FILE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* The path of a firmware file: `name` itself where it is one that exists, else in the directories of dirs (of
 * -L; NULL-terminated, may be NULL), then in those of Debian's packages. NULL with an error that names the
 * package. Caller frees. */
char *firmware_file_find(const char *const *dirs, const char *name, GError **error);
/* Finds and reads it; at most max_bytes (an error names file and limit), never empty. Caller owns. */
GByteArray *firmware_file_load(const char *const *dirs, const char *name, size_t max_bytes, GError **error);

#endif
