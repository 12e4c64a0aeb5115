/* The nearest known name to a mistyped one. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_BASE_NEAREST_H
#define RHEA_BASE_NEAREST_H

#include <glib.h>

/* The entry of a NULL-terminated list that is nearest to name by edit distance (a swap of neighbours counts
 * one), or NULL where none is near enough to be meant. Borrowed from the list. */
const char *nearest_match(const char *name, const char *const *known);

/* Appends "did you mean 'X'?" to *error where there is a near match. */
void nearest_hint(GError **error, const char *name, const char *const *known);

#endif
