/*
 * key=value text to a JSON tree, as the command line's structured options are typed.
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Grammar: words separated by single commas (",," is a literal comma inside a value). A word is key=value or
 * a bare flag. A key is made of parts separated by dots; each part names a member of the dict of the one
 * before it. Of a key that comes several times the last value counts, or all do, as a list: the caller says.
 * A dict whose keys are all decimal numbers becomes a list at the end; the numbers must then be 0, 1, 2, ...
 * without a gap.
 */
#include "base/error.h"
#include "qapi/visitor.h"

#include <string.h>

#define MAX_DEPTH   16
#define MAX_KEY_LEN 128

/* Reads up to the next single comma, undoubling ",,". *text is moved behind it. Caller frees. */
static char *take_word(const char **text)
{
    GString *s = g_string_new(NULL);
    const char *p = *text;
    for (; *p; p++) {
        if (*p == ',') {
            if (p[1] != ',') {
                p++;
                break;
            }
            p++;
        }
        g_string_append_c(s, *p);
    }
    *text = p;
    return g_string_free(s, FALSE);
}

static bool part_ok(const char *part)
{
    if (!*part || strlen(part) > MAX_KEY_LEN) {
        return false;
    }
    for (const char *p = part; *p; p++) {
        if (!g_ascii_isalnum(*p) && *p != '-' && *p != '_' && *p != '[' && *p != ']' && *p != '/') {
            return false;
        }
    }
    return true;
}

static bool put(json_object *root, const char *key, const char *value, bool repeated, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", MAX_DEPTH + 1);
    guint count = g_strv_length(parts);
    if (!count) {
        return error_set(error, "Invalid parameter ''");
    }
    if (count > MAX_DEPTH) {
        return error_set(error, "Parameter '%s' is nested too deeply", key);
    }
    json_object *dict = root;
    for (guint i = 0; i < count; i++) {
        json_object *member;
        if (!part_ok(parts[i])) {
            return error_set(error, "Invalid parameter '%s'", key);
        }
        bool there = json_object_object_get_ex(dict, parts[i], &member);
        if (i + 1 == count) {
            if (there && json_object_is_type(member, json_type_object)) {
                return error_set(error, "Parameters '%s.*' used inconsistently", key);
            }
            json_object *text = json_object_new_string(value);
            if (!there || !repeated) {
                json_object_object_add(dict, parts[i], text);
            } else if (json_object_is_type(member, json_type_array)) {
                json_object_array_add(member, text);
            } else {
                json_object *list = json_object_new_array();
                json_object_array_add(list, json_object_get(member));
                json_object_array_add(list, text);
                json_object_object_add(dict, parts[i], list);
            }
        } else {
            if (!there) {
                member = json_object_new_object();
                json_object_object_add(dict, parts[i], member);
            } else if (!json_object_is_type(member, json_type_object)) {
                g_autofree char *prefix =
                    g_strndup(key, (gsize)(strstr(key, parts[i]) - key) + strlen(parts[i]));
                return error_set(error, "Parameters '%s.*' used inconsistently", prefix);
            }
            dict = member;
        }
    }
    return true;
}

static bool is_index(const char *key)
{
    if (!*key || strlen(key) > 6) {
        return false;
    }
    for (const char *p = key; *p; p++) {
        if (!g_ascii_isdigit(*p)) {
            return false;
        }
    }
    return true;
}

/* Turns dicts with numeric keys into lists, innermost first. *value is replaced in its parent by the caller.
 */
static bool listify(json_object *dict, const char *path, json_object **list, GError **error)
{
    size_t indices = 0, names = 0;
    /* Collected first: the dict must not change under its own iteration. */
    g_autoptr(GPtrArray) keys = g_ptr_array_new_with_free_func(g_free);
    json_object_object_foreach(dict, key, member)
    {
        (void)member;
        g_ptr_array_add(keys, g_strdup(key));
        if (is_index(key)) {
            indices++;
        } else {
            names++;
        }
    }
    for (guint i = 0; i < keys->len; i++) {
        const char *name = g_ptr_array_index(keys, i);
        json_object *value = json_object_object_get(dict, name);
        if (json_object_is_type(value, json_type_object)) {
            g_autofree char *sub = *path ? g_strdup_printf("%s.%s", path, name) : g_strdup(name);
            json_object *made = NULL;
            if (!listify(value, sub, &made, error)) {
                return false;
            }
            if (made) {
                json_object_object_add(dict, name, made);
            }
        }
    }
    if (!indices || !*path) {
        return true;
    }
    if (names) {
        return error_set(error, "Parameters '%s.*' used inconsistently", path);
    }
    json_object *array = json_object_new_array();
    for (size_t i = 0; i < indices; i++) {
        char number[24];
        g_snprintf(number, sizeof(number), "%zu", i);
        json_object *value;
        if (!json_object_object_get_ex(dict, number, &value)) {
            json_object_put(array);
            return error_set(error, "Parameter '%s.%zu' missing", path, i);
        }
        json_object_array_add(array, json_object_get(value));
    }
    *list = array;
    return true;
}

static json_object *parse_json(const char *text, GError **error)
{
    json_tokener *tokener = json_tokener_new_ex(64);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    json_object *value = json_tokener_parse_ex(tokener, text, -1);
    enum json_tokener_error status = json_tokener_get_error(tokener);
    if (status == json_tokener_success && text[json_tokener_get_parse_end(tokener)] != '\0') {
        status = json_tokener_error_parse_unexpected;
    }
    if (status == json_tokener_continue || status == json_tokener_error_parse_eof) {
        error_set(error, "JSON parse error, the text ends too early: %s", text);
    } else if (status != json_tokener_success) {
        error_set(error, "JSON parse error at character %zu, %s: %s", json_tokener_get_parse_end(tokener) + 1,
                  json_tokener_error_desc(status), text);
    } else if (!json_object_is_type(value, json_type_object)) {
        error_set(error, "JSON parse error, expecting an object: %s", text);
    } else {
        json_tokener_free(tokener);
        return value;
    }
    json_tokener_free(tokener);
    json_object_put(value);
    return NULL;
}

static json_object *parse(const char *text, const char *implied_key, bool repeated, bool *is_json,
                          GError **error)
{
    const char *start = text;
    while (g_ascii_isspace(*start)) {
        start++;
    }
    if (is_json) {
        *is_json = *start == '{';
    }
    if (*start == '{') {
        return parse_json(start, error);
    }
    json_object *root = json_object_new_object();
    bool first = true;
    while (*text) {
        g_autofree char *word = take_word(&text);
        const char *equals = strchr(word, '=');
        bool ok;
        if (equals) {
            g_autofree char *key = g_strndup(word, (gsize)(equals - word));
            ok = put(root, key, equals + 1, repeated, error);
        } else if (first && implied_key) {
            ok = put(root, implied_key, word, repeated, error);
        } else if (!*word) {
            ok = error_set(error, "Expected parameter before ',' or at the end");
        } else if (g_str_has_prefix(word, "no") && word[2] && strcmp(word, "nodelay") != 0) {
            ok = put(root, word + 2, "off", repeated, error);
        } else {
            ok = put(root, word, "on", repeated, error);
        }
        if (!ok) {
            json_object_put(root);
            return NULL;
        }
        first = false;
    }
    json_object *unused = NULL;
    if (!listify(root, "", &unused, error)) {
        json_object_put(root);
        return NULL;
    }
    return root;
}

json_object *keyval_parse(const char *text, const char *implied_key, bool *is_json, GError **error)
{
    return parse(text, implied_key, false, is_json, error);
}

json_object *keyval_parse_repeated(const char *text, const char *implied_key, bool *is_json, GError **error)
{
    return parse(text, implied_key, true, is_json, error);
}
