/*
 * Reading a dict of options whose values are text (command line) or typed (QMP): the same names either way.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_IO_OPTIONS_H
#define RHEA_IO_OPTIONS_H

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

/* The text of a member, or NULL. Numbers and booleans give their JSON text. Borrowed from the dict. */
const char *options_str(json_object *options, const char *name);
bool options_contains(json_object *options, const char *name);
/* These leave *value alone where the member is missing, and fail where it is not of that kind. what: "chardev
 * 'c0'". */
bool options_bool(json_object *options, const char *what, const char *name, bool *value, GError **error);
bool options_int(json_object *options, const char *what, const char *name, int64_t min, int64_t max,
                 int64_t *value, GError **error);
/* Fails on a member that is not in the NULL-terminated list, naming the nearest. */
bool options_known(json_object *options, const char *what, const char *const *known, GError **error);
/* An id: letters, digits, '-', '.', '_', beginning with a letter. */
bool options_id_ok(const char *id);

#endif
