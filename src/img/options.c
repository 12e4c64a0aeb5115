/* -o: the options of create, convert, measure and amend, as tables of drivers describe them. Texts and order
 * are those that scripts know. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "base/log.h"
#include "img/tool.h"

#include <stdio.h>
#include <string.h>

/* A list of options does not begin with a comma nor end with a lone one: "-o a,-o b" glued together stay two.
 */
static bool list_is_valid(const char *text)
{
    size_t length = strlen(text);
    if (length == 0 || text[0] == ',') {
        return false;
    }
    size_t commas = 0;
    while (commas < length && text[length - 1 - commas] == ',') {
        commas++;
    }
    return commas % 2 == 0;
}

bool img_options_add(char **list, const char *text)
{
    if (!list_is_valid(text)) {
        log_error("Invalid option list: %s", text);
        return false;
    }
    char *joined = *list ? g_strconcat(*list, ",", text, NULL) : g_strdup(text);
    g_free(*list);
    *list = joined;
    return true;
}

/* The next "name=value" of text; moves it on. false at the end. Both are new strings; value NULL: a flag. */
static bool next_option(const char **text, char **name, char **value)
{
    if (!**text) {
        return false;
    }
    GString *item = g_string_new(NULL);
    const char *p = *text;
    gssize equals = -1;
    while (*p) {
        if (*p == ',') {
            if (equals < 0 || p[1] != ',') {
                p++;
                break;
            }
            p++;
        } else if (*p == '=' && equals < 0) {
            equals = (gssize)item->len;
        }
        g_string_append_c(item, *p++);
    }
    *text = p;
    if (equals >= 0) {
        *name = g_strndup(item->str, (gsize)equals);
        *value = g_strdup(item->str + equals + 1);
        g_string_free(item, TRUE);
    } else {
        *name = g_string_free(item, FALSE);
        *value = NULL;
    }
    return true;
}

bool img_options_want_help(const char *list)
{
    char *name, *value;
    bool want = false;
    while (list && next_option(&list, &name, &value)) {
        want = want || (!value && (g_str_equal(name, "help") || g_str_equal(name, "?")));
        g_free(name);
        g_free(value);
    }
    return want;
}

static const BlockOption *find_option(const BlockOption *const *tables, const char *name)
{
    for (; *tables; tables++) {
        for (const BlockOption *o = *tables; o->name; o++) {
            if (g_str_equal(o->name, name) && !o->amend_only) {
                return o;
            }
        }
    }
    return NULL;
}

static bool parse_bool(const char *text, bool *value)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };
    *value = g_strv_contains(yes, text);
    return *value || g_strv_contains(no, text);
}

static json_object *typed_value(const BlockOption *option, const char *text, GError **error)
{
    uint64_t number = 0;
    bool on;
    switch (option->type) {
    case BLOCK_OPTION_STRING:
        return json_object_new_string(text);
    case BLOCK_OPTION_BOOL:
        if (!parse_bool(text, &on)) {
            error_set(error, "Parameter '%s' expects 'on' or 'off'", option->name);
            return NULL;
        }
        return json_object_new_boolean(on);
    case BLOCK_OPTION_NUMBER:
        /* A negative number is a huge one, which the driver refuses in its own words. */
        if (!img_ulong(*text == '-' ? text + 1 : text, UINT64_MAX, &number)) {
            error_set(error, "Parameter '%s' expects a number", option->name);
            return NULL;
        }
        return json_object_new_uint64(*text == '-' ? -number : number);
    case BLOCK_OPTION_SIZE:
        switch (img_size_value(text, 1, &number)) {
        case 0:
            return json_object_new_uint64(number);
        case -ERANGE:
            error_set(error, "Value '%s' is out of range for parameter '%s'", text, option->name);
            return NULL;
        default:
            error_set(error, "Parameter '%s' expects a non-negative number below 2^64", option->name);
            error_append_hint(error,
                              "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                              "and exabytes, respectively.");
            return NULL;
        }
    }
    return NULL;
}

json_object *img_options_parse(const BlockOption *const *tables, const char *text, GError **error)
{
    json_object *options = json_object_new_object();
    char *name, *value;
    while (text && next_option(&text, &name, &value)) {
        const BlockOption *option = find_option(tables, name);
        const char *given = value ? value : "on";
        if (!option && !value && g_str_has_prefix(name, "no")) {
            option = find_option(tables, name + 2);
            given = "off";
        }
        json_object *typed = NULL;
        if (!option) {
            error_set(error, "Invalid parameter '%s'", name);
        } else {
            typed = typed_value(option, given, error);
        }
        if (typed) {
            json_object_object_add(options, option->name, typed);
        }
        g_free(name);
        g_free(value);
        if (!typed) {
            json_object_put(options);
            return NULL;
        }
    }
    return options;
}

static void append_escaped(GString *out, const char *text)
{
    for (; *text; text++) {
        g_string_append_c(out, *text);
        if (*text == ',') {
            g_string_append_c(out, ',');
        }
    }
}

static void append_option(GString *out, const BlockOption *o, json_object *value, const char *default_value)
{
    if (!value && !default_value) {
        return;
    }
    g_string_append_printf(out, "%s%s=", out->len ? " " : "", o->name);
    if (!value && o->type == BLOCK_OPTION_SIZE) {
        uint64_t bytes = 0;
        img_size_value(default_value, 1, &bytes);
        g_string_append_printf(out, "%" PRIu64, bytes);
    } else if (!value) {
        append_escaped(out, default_value);
    } else if (json_object_is_type(value, json_type_boolean)) {
        g_string_append(out, json_object_get_boolean(value) ? "on" : "off");
    } else {
        append_escaped(out, json_object_get_string(value));
    }
}

/* qcow2's options are shown in this order, and these with their defaults, where scripts expect them. */
static const struct {
    const char *name, *shown_default;
} qcow2_order[] = {
    { "encryption", NULL },
    { "encrypt.format", NULL },
    { "encrypt.key-secret", NULL },
    { "encrypt.cipher-alg", NULL },
    { "encrypt.cipher-mode", NULL },
    { "encrypt.ivgen-alg", NULL },
    { "encrypt.ivgen-hash-alg", NULL },
    { "encrypt.hash-alg", NULL },
    { "encrypt.iter-time", NULL },
    { "cluster_size", "65536" },
    { "extended_l2", "off" },
    { "preallocation", NULL },
    { "compression_type", "zlib" },
    { "size", NULL },
    { "compat", NULL },
    { "backing_file", NULL },
    { "backing_fmt", NULL },
    { "data_file", NULL },
    { "data_file_raw", NULL },
    { "lazy_refcounts", "off" },
    { "refcount_bits", "16" },
};

char *img_options_text(const BlockOption *const *tables, const char *format, json_object *options)
{
    GString *out = g_string_new(NULL);
    g_autoptr(GHashTable) done = g_hash_table_new(g_str_hash, g_str_equal);
    bool ordered = g_str_equal(format, "qcow2");
    /* With the journal's automatic choices the driver decides about subclusters. */
    bool automatic = json_object_object_get_ex(options, "journal", NULL);
    for (size_t i = 0; ordered && i < G_N_ELEMENTS(qcow2_order); i++) {
        const char *name = qcow2_order[i].name;
        const BlockOption *o = find_option(tables, name);
        json_object *value = NULL;
        if (o) {
            json_object_object_get_ex(options, name, &value);
            append_option(out, o, value,
                          automatic && g_str_equal(name, "extended_l2") ? NULL
                                                                        : qcow2_order[i].shown_default);
            g_hash_table_add(done, (void *)name);
        }
    }
    for (const BlockOption *const *t = tables; *t; t++) {
        for (const BlockOption *o = *t; o->name; o++) {
            json_object *value = NULL;
            if (g_hash_table_add(done, (void *)o->name)) { /* the format's stands before the protocol's */
                json_object_object_get_ex(options, o->name, &value);
                append_option(out, o, value, o->default_value);
            }
        }
    }
    return g_string_free(out, FALSE);
}

static gint compare_lines(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void img_options_help(const BlockOption *const *tables, bool amend)
{
    static const char *const types[] = { [BLOCK_OPTION_STRING] = "str",
                                         [BLOCK_OPTION_BOOL] = "bool (on/off)",
                                         [BLOCK_OPTION_NUMBER] = "num",
                                         [BLOCK_OPTION_SIZE] = "size" };
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    for (const BlockOption *const *t = tables; *t; t++) {
        for (const BlockOption *o = *t; o->name; o++) {
            if (find_option(tables, o->name) != o || (amend && !o->amendable)) {
                continue;
            }
            g_autofree char *head = g_strdup_printf("  %s=<%s>", o->name, types[o->type]);
            GString *line = g_string_new(head);
            if (o->help) {
                g_string_printf(line, "%-24s - %s", head, o->help);
            }
            g_ptr_array_add(lines, g_string_free(line, FALSE));
        }
    }
    g_ptr_array_sort(lines, compare_lines);
    for (guint i = 0; i < lines->len; i++) {
        printf("%s\n", (const char *)lines->pdata[i]);
    }
}
