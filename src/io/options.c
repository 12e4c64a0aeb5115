/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/options.h"

#include "base/error.h"
#include "base/nearest.h"

#include <string.h>

const char *options_str(json_object *options, const char *name)
{
    json_object *value;

    if (!json_object_object_get_ex(options, name, &value) || !value) {
        return NULL;
    }
    return json_object_get_string(value);
}

bool options_contains(json_object *options, const char *name)
{
    return json_object_object_get_ex(options, name, NULL);
}

bool options_bool(json_object *options, const char *what, const char *name, bool *value, GError **error)
{
    static const char *const on[] = { "on", "yes", "true", "y" }, *const off[] = { "off", "no", "false",
                                                                                   "n" };
    const char *text = options_str(options, name);

    if (!text) {
        return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(on); i++) {
        if (strcmp(text, on[i]) == 0) {
            *value = true;
            return true;
        }
        if (strcmp(text, off[i]) == 0) {
            *value = false;
            return true;
        }
    }
    return error_set(error, "%s: parameter '%s' expects 'on' or 'off', not '%s'", what, name, text);
}

bool options_int(json_object *options, const char *what, const char *name, int64_t min, int64_t max,
                 int64_t *value, GError **error)
{
    const char *text = options_str(options, name);
    gint64 number;
    char *end;

    if (!text) {
        return true;
    }
    number = g_ascii_strtoll(text, &end, 0);
    if (end == text || *end || number < min || number > max) {
        return error_set(error,
                         "%s: parameter '%s' expects a number from %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT
                         ", not '%s'",
                         what, name, min, max, text);
    }
    *value = number;
    return true;
}

bool options_known(json_object *options, const char *what, const char *const *known, GError **error)
{
    json_object_object_foreach(options, key, value)
    {
        (void)value;
        if (!g_strv_contains(known, key)) {
            error_set(error, "%s: parameter '%s' is unexpected", what, key);
            nearest_hint(error, key, known);
            return false;
        }
    }
    return true;
}

bool options_id_ok(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    for (const char *p = id; *p; p++) {
        if (!g_ascii_isalnum(*p) && !strchr("-._", *p)) {
            return false;
        }
    }
    return true;
}
