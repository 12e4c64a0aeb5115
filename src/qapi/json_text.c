/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qapi/json_text.h"

#include <math.h>
#include <string.h>

static void append_string(GString *out, const char *s, size_t length)
{
    g_string_append_c(out, '"');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)s[i];
        switch (c) {
        case '"':
            g_string_append(out, "\\\"");
            break;
        case '\\':
            g_string_append(out, "\\\\");
            break;
        case '\n':
            g_string_append(out, "\\n");
            break;
        case '\r':
            g_string_append(out, "\\r");
            break;
        case '\t':
            g_string_append(out, "\\t");
            break;
        default:
            if (c < 0x20 || c == 0x7f) {
                g_string_append_printf(out, "\\u%04x", c);
            } else {
                g_string_append_c(out, (char)c);
            }
        }
    }
    g_string_append_c(out, '"');
}

/* Text from the host (file names, messages) need not be UTF-8, but JSON must be. */
static void append_utf8(GString *out, const char *s, size_t length)
{
    if (g_utf8_validate_len(s, length, NULL)) {
        append_string(out, s, length);
    } else {
        g_autofree char *valid = g_utf8_make_valid(s, (gssize)length);
        append_string(out, valid, strlen(valid));
    }
}

static void append_double(GString *out, double value)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];
    if (!isfinite(value)) {
        value = 0;
    }
    for (int digits = 15; digits <= 17; digits++) {
        char format[8];
        g_snprintf(format, sizeof(format), "%%.%dg", digits);
        g_ascii_formatd(text, sizeof(text), format, value);
        if (g_ascii_strtod(text, NULL) == value) {
            break;
        }
    }
    g_string_append(out, text);
    if (!strpbrk(text, ".en")) {
        g_string_append(out, ".0");
    }
}

static void newline(GString *out, bool pretty, int depth)
{
    if (pretty) {
        g_string_append_printf(out, "\n%*s", depth * 4, "");
    }
}

static void append(GString *out, json_object *value, bool pretty, int depth)
{
    const char *separator = pretty ? "," : ", ";
    bool first = true;
    switch (json_object_get_type(value)) {
    case json_type_null:
        g_string_append(out, "null");
        break;
    case json_type_boolean:
        g_string_append(out, json_object_get_boolean(value) ? "true" : "false");
        break;
    case json_type_double:
        append_double(out, json_object_get_double(value));
        break;
    case json_type_int:
        if (json_object_get_int64(value) < 0) {
            g_string_append_printf(out, "%" G_GINT64_FORMAT, json_object_get_int64(value));
        } else {
            g_string_append_printf(out, "%" G_GUINT64_FORMAT, json_object_get_uint64(value));
        }
        break;
    case json_type_string:
        append_utf8(out, json_object_get_string(value), (size_t)json_object_get_string_len(value));
        break;
    case json_type_object:
        g_string_append_c(out, '{');
        json_object_object_foreach(value, key, member)
        {
            if (!first) {
                g_string_append(out, separator);
            }
            first = false;
            newline(out, pretty, depth + 1);
            append_utf8(out, key, strlen(key));
            g_string_append(out, ": ");
            append(out, member, pretty, depth + 1);
        }
        if (!first) {
            newline(out, pretty, depth);
        }
        g_string_append_c(out, '}');
        break;
    case json_type_array:
        g_string_append_c(out, '[');
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            if (i) {
                g_string_append(out, separator);
            }
            newline(out, pretty, depth + 1);
            append(out, json_object_array_get_idx(value, i), pretty, depth + 1);
        }
        if (json_object_array_length(value)) {
            newline(out, pretty, depth);
        }
        g_string_append_c(out, ']');
        break;
    }
}

void json_text_append(GString *out, json_object *value, bool pretty)
{
    append(out, value, pretty, 0);
}
