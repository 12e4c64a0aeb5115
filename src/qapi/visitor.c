/*
 * The visitors: JSON or text in, JSON out. SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An input visitor walks a JSON value with a stack of frames, one for each open struct or list. Each struct
 * frame remembers which of its members were visited, so that visit_check_struct can name a stranger. A value
 * from key=value text is the same tree with strings as its leaves, which are parsed when a number or a bool
 * is asked for. A key that was typed several times is a list there: its last element to whom asks for a
 * scalar.
 */
#include "qapi/visitor.h"

#include "base/error.h"
#include "base/nearest.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HINT_MAX_VALUES 24   /* a longer list of accepted values is no hint */
#define MAX_RANGE       4096 /* elements that "0-4095" in text makes */

typedef struct Frame {
    char *name;          /* how the parent calls it; NULL at the top and in lists */
    json_object *value;  /* borrowed from the root, or from owned */
    json_object *owned;  /* input from text: made for this frame; or NULL */
    size_t index;        /* list: the next element */
    GHashTable *visited; /* input struct: names seen, borrowed from the dict */
    GPtrArray *known;    /* input struct: every name that was asked for, for the hint; owned */
} Frame;

struct Visitor {
    bool input;
    bool keyval;
    bool has_root; /* output: the root is set (it may be JSON's null) */
    json_object *root;
    GPtrArray *frames; /* Frame *, outermost first */
};

static void frame_free(void *opaque)
{
    Frame *f = opaque;
    g_free(f->name);
    g_clear_pointer(&f->visited, g_hash_table_unref);
    g_clear_pointer(&f->known, g_ptr_array_unref);
    json_object_put(f->owned);
    g_free(f);
}

static Visitor *visitor_new(bool input)
{
    Visitor *v = g_new0(Visitor, 1);
    v->input = input;
    v->frames = g_ptr_array_new_with_free_func(frame_free);
    return v;
}

Visitor *visitor_new_input(json_object *value, bool keyval)
{
    Visitor *v = visitor_new(true);
    v->root = json_object_get(value);
    v->keyval = keyval;
    return v;
}

Visitor *visitor_new_text_input(const char *text)
{
    Visitor *v = visitor_new(true);
    v->root = json_object_new_string(text);
    v->keyval = true;
    return v;
}

Visitor *visitor_new_output(void)
{
    return visitor_new(false);
}

json_object *visitor_output_take(Visitor *v)
{
    g_assert(!v->input && v->frames->len == 0);
    json_object *value = v->root;
    v->root = NULL;
    v->has_root = false;
    return value;
}

void visitor_free(Visitor *v)
{
    if (v) {
        g_ptr_array_unref(v->frames);
        json_object_put(v->root);
        g_free(v);
    }
}

bool visitor_is_input(const Visitor *v)
{
    return v->input;
}

static Frame *top_frame(const Visitor *v)
{
    return v->frames->len ? g_ptr_array_index(v->frames, v->frames->len - 1) : NULL;
}

/* "file.cache.direct" or "opts[2]": where a member is, for messages. Caller frees. */
static char *full_name(const Visitor *v, const char *name)
{
    GString *s = g_string_new(NULL);
    for (guint i = 0; i < v->frames->len; i++) {
        const Frame *f = g_ptr_array_index(v->frames, i);
        if (f->name) {
            g_string_append_printf(s, "%s%s", s->len ? "." : "", f->name);
        } else if (i > 0) {
            const Frame *list = g_ptr_array_index(v->frames, i - 1);
            g_string_append_printf(s, "[%zu]", list->index ? list->index - 1 : 0);
        }
    }
    const Frame *last = top_frame(v);
    if (name && (!last || json_object_is_type(last->value, json_type_object))) {
        g_string_append_printf(s, "%s%s", s->len ? "." : "", name);
    } else if (last && json_object_is_type(last->value, json_type_array)) {
        g_string_append_printf(s, "[%zu]", last->index ? last->index - 1 : 0);
    }
    if (!s->len) {
        g_string_append(s, name ? name : "value");
    }
    return g_string_free(s, FALSE);
}

static bool error_type(Visitor *v, const char *name, const char *expected, GError **error)
{
    g_autofree char *full = full_name(v, name);
    return error_set(error, "Invalid parameter type for '%s', expected: %s", full, expected);
}

static bool error_expects(Visitor *v, const char *name, const char *expected, GError **error)
{
    g_autofree char *full = full_name(v, name);
    return error_set(error, "Parameter '%s' expects %s", full, expected);
}

static bool input_lookup(const Visitor *v, const char *name, json_object **value)
{
    const Frame *f = top_frame(v);
    if (!f) {
        *value = v->root;
        return true;
    }
    if (json_object_is_type(f->value, json_type_object)) {
        if (f->known && name && !g_ptr_array_find_with_equal_func(f->known, name, g_str_equal, NULL)) {
            g_ptr_array_add(f->known, g_strdup(name));
        }
        return name && json_object_object_get_ex(f->value, name, value);
    }
    if (f->index >= json_object_array_length(f->value)) {
        return false;
    }
    *value = json_object_array_get_idx(f->value, f->index);
    return true;
}

/* The next value to read; marks it as visited. */
static bool input_take(Visitor *v, const char *name, json_object **value, GError **error)
{
    if (!input_lookup(v, name, value)) {
        g_autofree char *full = full_name(v, name);
        return error_set(error, "Parameter '%s' is missing", full);
    }
    Frame *f = top_frame(v);
    if (f) {
        if (f->visited) {
            g_hash_table_add(f->visited, g_strdup(name));
        } else {
            f->index++;
        }
    }
    return true;
}

/* The next value where no struct and no list is wanted: of a repeated key, the one that was typed last. */
static bool input_scalar(Visitor *v, const char *name, json_object **value, GError **error)
{
    if (!input_take(v, name, value, error)) {
        return false;
    }
    if (v->keyval && json_object_is_type(*value, json_type_array)) {
        size_t count = json_object_array_length(*value);
        json_object *last = count ? json_object_array_get_idx(*value, count - 1) : NULL;
        if (json_object_is_type(last, json_type_string)) {
            *value = last;
        }
    }
    return true;
}

/* Puts a value, whose reference it takes, into the open struct or list. */
static void output_put(Visitor *v, const char *name, json_object *value)
{
    Frame *f = top_frame(v);
    if (!f) {
        g_assert(!v->has_root);
        v->root = value;
        v->has_root = true;
    } else if (json_object_is_type(f->value, json_type_object)) {
        json_object_object_add(f->value, name, value);
    } else {
        json_object_array_add(f->value, value);
        f->index++;
    }
}

/* ---- scalars ---- */

static const char *as_text(const Visitor *v, json_object *value)
{
    return v->keyval && json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static bool parse_bool(const char *s, bool *value)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };
    *value = g_strv_contains(yes, s);
    return *value || g_strv_contains(no, s);
}

static bool parse_size(const char *s, uint64_t *value)
{
    static const char suffixes[] = "bkmgtpe";
    char *end;
    if (!g_ascii_isdigit(*s)) {
        return false;
    }
    errno = 0;
    uint64_t whole = g_ascii_strtoull(s, &end, 0);
    if (errno || end == s) {
        return false;
    }
    double fraction = 0;
    if (*end == '.') {
        const char *dot = end;
        fraction = g_ascii_strtod(dot, &end);
        if (end == dot || end == dot + 1 || fraction >= 1) {
            return false;
        }
        for (const char *p = dot + 1; p < end; p++) {
            if (!g_ascii_isdigit(*p)) {
                return false; /* 1.5e3 */
            }
        }
    }
    unsigned shift = 0;
    if (*end) {
        const char *suffix = strchr(suffixes, g_ascii_tolower(*end));
        if (!suffix || end[1]) {
            return false;
        }
        shift = 10 * (unsigned)(suffix - suffixes);
    }
    if (shift == 0 && fraction > 0) {
        return false;
    }
    if (shift && whole >> (64 - shift)) {
        return false;
    }
    *value = (whole << shift) + (uint64_t)(fraction * (double)((uint64_t)1 << shift));
    return true;
}

bool visit_bool(Visitor *v, const char *name, bool *value, GError **error)
{
    if (!v->input) {
        output_put(v, name, json_object_new_boolean(*value));
        return true;
    }
    json_object *j;
    if (!input_scalar(v, name, &j, error)) {
        return false;
    }
    const char *text = as_text(v, j);
    if (text) {
        return parse_bool(text, value) || error_expects(v, name, "'on' or 'off'", error);
    }
    if (!json_object_is_type(j, json_type_boolean)) {
        return error_type(v, name, "boolean", error);
    }
    *value = json_object_get_boolean(j);
    return true;
}

static bool input_signed(Visitor *v, const char *name, int64_t *value, int64_t min, int64_t max,
                         const char *type, GError **error)
{
    json_object *j;
    if (!input_scalar(v, name, &j, error)) {
        return false;
    }
    const char *text = as_text(v, j);
    int64_t got;
    if (text) {
        char *end;
        errno = 0;
        got = g_ascii_strtoll(text, &end, 0);
        if (end == text || *end || g_ascii_isspace(*text)) {
            return error_expects(v, name, "integer", error);
        }
        if (errno) {
            return error_expects(v, name, type, error);
        }
    } else if (!json_object_is_type(j, json_type_int)) {
        return error_type(v, name, "integer", error);
    } else {
        got = json_object_get_int64(j);
        if (got == INT64_MAX && json_object_get_uint64(j) > INT64_MAX) {
            return error_expects(v, name, type, error);
        }
    }
    if (got < min || got > max) {
        return error_expects(v, name, type, error);
    }
    *value = got;
    return true;
}

static bool input_unsigned(Visitor *v, const char *name, uint64_t *value, uint64_t max, const char *type,
                           GError **error)
{
    json_object *j;
    if (!input_scalar(v, name, &j, error)) {
        return false;
    }
    const char *text = as_text(v, j);
    uint64_t got;
    if (text) {
        char *end;
        errno = 0;
        got = g_ascii_strtoull(text, &end, 0);
        if (end == text || *end || g_ascii_isspace(*text)) {
            return error_expects(v, name, "integer", error);
        }
        if (errno || *text == '-') {
            return error_expects(v, name, type, error);
        }
    } else if (!json_object_is_type(j, json_type_int)) {
        return error_type(v, name, "integer", error);
    } else {
        if (json_object_get_int64(j) < 0) {
            return error_expects(v, name, type, error);
        }
        got = json_object_get_uint64(j);
    }
    if (got > max) {
        return error_expects(v, name, type, error);
    }
    *value = got;
    return true;
}

#define VISIT_SIGNED(bits)                                                                             \
    bool visit_int##bits(Visitor *v, const char *name, int##bits##_t *value, GError **error)           \
    {                                                                                                  \
        if (!v->input) {                                                                               \
            output_put(v, name, json_object_new_int64(*value));                                        \
            return true;                                                                               \
        }                                                                                              \
        int64_t got;                                                                                   \
        if (!input_signed(v, name, &got, INT##bits##_MIN, INT##bits##_MAX, "int" #bits "_t", error)) { \
            return false;                                                                              \
        }                                                                                              \
        *value = (int##bits##_t)got;                                                                   \
        return true;                                                                                   \
    }
VISIT_SIGNED(8)
VISIT_SIGNED(16)
VISIT_SIGNED(32)
VISIT_SIGNED(64)

#define VISIT_UNSIGNED(bits)                                                                   \
    bool visit_uint##bits(Visitor *v, const char *name, uint##bits##_t *value, GError **error) \
    {                                                                                          \
        if (!v->input) {                                                                       \
            output_put(v, name, json_object_new_uint64(*value));                               \
            return true;                                                                       \
        }                                                                                      \
        uint64_t got;                                                                          \
        if (!input_unsigned(v, name, &got, UINT##bits##_MAX, "uint" #bits "_t", error)) {      \
            return false;                                                                      \
        }                                                                                      \
        *value = (uint##bits##_t)got;                                                          \
        return true;                                                                           \
    }
VISIT_UNSIGNED(8)
VISIT_UNSIGNED(16)
VISIT_UNSIGNED(32)
VISIT_UNSIGNED(64)

bool visit_size(Visitor *v, const char *name, uint64_t *value, GError **error)
{
    json_object *j;
    if (!v->input) {
        output_put(v, name, json_object_new_uint64(*value));
        return true;
    }
    if (v->keyval && input_lookup(v, name, &j) && json_object_is_type(j, json_type_string)) {
        if (!input_scalar(v, name, &j, error)) {
            return false;
        }
        return parse_size(json_object_get_string(j), value) ||
               error_expects(v, name, "a size value representible as a 64-bit number", error);
    }
    return input_unsigned(v, name, value, UINT64_MAX, "uint64_t", error);
}

bool visit_number(Visitor *v, const char *name, double *value, GError **error)
{
    if (!v->input) {
        output_put(v, name, isfinite(*value) ? json_object_new_double(*value) : json_object_new_int(0));
        return true;
    }
    json_object *j;
    if (!input_scalar(v, name, &j, error)) {
        return false;
    }
    const char *text = as_text(v, j);
    if (text) {
        char *end;
        *value = g_ascii_strtod(text, &end);
        return (end != text && !*end && isfinite(*value)) || error_expects(v, name, "number", error);
    }
    if (!json_object_is_type(j, json_type_double) && !json_object_is_type(j, json_type_int)) {
        return error_type(v, name, "number", error);
    }
    *value = json_object_get_double(j);
    return true;
}

bool visit_str(Visitor *v, const char *name, char **value, GError **error)
{
    if (!v->input) {
        output_put(v, name, json_object_new_string(*value ? *value : ""));
        return true;
    }
    json_object *j;
    if (!input_scalar(v, name, &j, error)) {
        return false;
    }
    if (!json_object_is_type(j, json_type_string)) {
        return error_type(v, name, "string", error);
    }
    const char *s = json_object_get_string(j);
    if (strlen(s) != (size_t)json_object_get_string_len(j)) {
        return error_expects(v, name, "a string without NUL characters", error);
    }
    *value = g_strdup(s);
    return true;
}

int enum_parse(const EnumLookup *lookup, const char *name, GError **error)
{
    for (int i = 0; i < lookup->count; i++) {
        if (lookup->names[i] && strcmp(lookup->names[i], name) == 0) {
            return i;
        }
    }
    error_set(error, "Value '%s' is not one of %s", name, lookup->name);
    g_autoptr(GPtrArray) known = g_ptr_array_new();
    for (int i = 0; i < lookup->count; i++) {
        if (lookup->names[i]) {
            g_ptr_array_add(known, (void *)lookup->names[i]);
        }
    }
    g_ptr_array_add(known, NULL);
    if (nearest_match(name, (const char *const *)known->pdata)) {
        nearest_hint(error, name, (const char *const *)known->pdata);
    } else if (known->len <= HINT_MAX_VALUES) {
        g_autofree char *all = g_strjoinv(", ", (char **)known->pdata);
        error_append_hint(error, "Accepted values: %s.", all);
    }
    return -1;
}

const char *enum_name(const EnumLookup *lookup, int value)
{
    const char *name = value >= 0 && value < lookup->count ? lookup->names[value] : NULL;
    return name ? name : "?";
}

bool visit_enum(Visitor *v, const char *name, int *value, const EnumLookup *lookup, GError **error)
{
    if (!v->input) {
        output_put(v, name, json_object_new_string(enum_name(lookup, *value)));
        return true;
    }
    json_object *j;
    if (!input_scalar(v, name, &j, error)) {
        return false;
    }
    if (!json_object_is_type(j, json_type_string)) {
        return error_type(v, name, "string", error);
    }
    const char *text = json_object_get_string(j);
    g_autoptr(GError) why = NULL;
    int got = enum_parse(lookup, text, &why);
    if (got < 0) {
        g_autofree char *full = full_name(v, name);
        g_autofree char *hint = error_hint(why);
        error_set(error, "Parameter '%s' does not accept value '%s'", full, text);
        if (hint) {
            error_append_hint(error, "%s", hint);
        }
        return false;
    }
    *value = got;
    return true;
}

bool visit_null(Visitor *v, const char *name, GError **error)
{
    if (!v->input) {
        output_put(v, name, NULL);
        return true;
    }
    json_object *j;
    if (!input_scalar(v, name, &j, error)) {
        return false;
    }
    return json_object_is_type(j, json_type_null) || error_type(v, name, "null", error);
}

bool visit_any(Visitor *v, const char *name, json_object **value, GError **error)
{
    if (!v->input) {
        output_put(v, name, json_object_get(*value));
        return true;
    }
    json_object *j;
    if (!input_take(v, name, &j, error)) {
        return false;
    }
    *value = json_object_get(j);
    return true;
}

/* ---- structs and lists ---- */

static void push(Visitor *v, const char *name, json_object *value, json_object *owned, bool is_struct)
{
    Frame *parent = top_frame(v);
    Frame *f = g_new0(Frame, 1);
    f->value = value;
    f->owned = owned;
    if (name && (!parent || json_object_is_type(parent->value, json_type_object))) {
        f->name = g_strdup(name);
    }
    if (v->input && is_struct) {
        f->visited = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        f->known = g_ptr_array_new_with_free_func(g_free);
    }
    g_ptr_array_add(v->frames, f);
}

static bool start_struct(Visitor *v, const char *name, const char *only, GError **error)
{
    json_object *j, *owned = NULL;
    if (!v->input) {
        j = json_object_new_object();
        output_put(v, name, j);
    } else {
        if (!input_take(v, name, &j, error)) {
            return false;
        }
        if (only && v->keyval && json_object_is_type(j, json_type_string)) {
            owned = json_object_new_object();
            json_object_object_add(owned, only, json_object_get(j));
            j = owned;
        }
        if (!json_object_is_type(j, json_type_object)) {
            return error_type(v, name, "object", error);
        }
    }
    push(v, name, j, owned, true);
    return true;
}

bool visit_start_struct(Visitor *v, const char *name, GError **error)
{
    return start_struct(v, name, NULL, error);
}

bool visit_start_wrapper(Visitor *v, const char *name, const char *only, GError **error)
{
    return start_struct(v, name, only, error);
}

bool visit_check_struct(Visitor *v, GError **error)
{
    if (!v->input) {
        return true;
    }
    Frame *f = top_frame(v);
    json_object_object_foreach(f->value, key, member)
    {
        (void)member;
        if (!g_hash_table_contains(f->visited, key)) {
            g_autofree char *full = full_name(v, key);
            error_set(error, "Parameter '%s' is unexpected", full);
            g_ptr_array_add(f->known, NULL);
            nearest_hint(error, key, (const char *const *)f->known->pdata);
            g_ptr_array_set_size(f->known, (int)f->known->len - 1);
            return false;
        }
    }
    return true;
}

json_object *visit_rest(Visitor *v, bool *is_text)
{
    json_object *rest = json_object_new_object();
    Frame *f = top_frame(v);
    g_assert(v->input && f && f->visited);
    json_object_object_foreach(f->value, key, member)
    {
        if (!g_hash_table_contains(f->visited, key)) {
            g_hash_table_add(f->visited, g_strdup(key));
            json_object_object_add(rest, key, json_object_get(member));
        }
    }
    *is_text = v->keyval;
    return rest;
}

void visit_put_rest(Visitor *v, json_object *rest)
{
    g_assert(!v->input);
    if (rest) {
        json_object_object_foreach(rest, key, member)
        {
            output_put(v, key, json_object_get(member));
        }
    }
}

char **visit_member_names(Visitor *v)
{
    GPtrArray *names = g_ptr_array_new();
    Frame *f = top_frame(v);
    if (v->input && f && f->visited) {
        json_object_object_foreach(f->value, key, member)
        {
            (void)member;
            if (!g_hash_table_contains(f->visited, key)) {
                g_ptr_array_add(names, g_strdup(key));
            }
        }
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

void visit_end_struct(Visitor *v)
{
    g_ptr_array_set_size(v->frames, (int)v->frames->len - 1);
}

bool visit_optional(Visitor *v, const char *name, bool *present)
{
    if (v->input) {
        json_object *j;
        *present = input_lookup(v, name, &j);
    }
    return *present;
}

/* "3-5" as ["3", "4", "5"]; other text as a list of one. */
static json_object *list_of_text(json_object *text, bool ranges)
{
    const char *s = json_object_get_string(text), *dash = strchr(s, '-');
    json_object *list = json_object_new_array();
    guint64 first, last;
    if (ranges && dash && g_ascii_string_to_unsigned(dash + 1, 10, 0, UINT32_MAX, &last, NULL)) {
        g_autofree char *head = g_strndup(s, dash - s);
        if (g_ascii_string_to_unsigned(head, 10, 0, last, &first, NULL) && last - first < MAX_RANGE) {
            for (guint64 n = first; n <= last; n++) {
                g_autofree char *number = g_strdup_printf("%" G_GUINT64_FORMAT, n);
                json_object_array_add(list, json_object_new_string(number));
            }
            return list;
        }
    }
    json_object_array_add(list, json_object_get(text));
    return list;
}

static bool start_list(Visitor *v, const char *name, bool ranges, size_t *count, GError **error)
{
    json_object *j, *owned = NULL;
    if (!v->input) {
        j = json_object_new_array();
        output_put(v, name, j);
    } else {
        if (!input_take(v, name, &j, error)) {
            return false;
        }
        if (v->keyval && json_object_is_type(j, json_type_string)) {
            j = owned = list_of_text(j, ranges);
        } else if (v->keyval && json_object_is_type(j, json_type_object)) {
            json_object *only = json_object_get(j); /* the only element may be given without its number */
            j = owned = json_object_new_array();
            json_object_array_add(owned, only);
        }
        if (!json_object_is_type(j, json_type_array)) {
            return error_type(v, name, "array", error);
        }
        *count = json_object_array_length(j);
    }
    push(v, name, j, owned, false);
    return true;
}

bool visit_start_list(Visitor *v, const char *name, size_t *count, GError **error)
{
    return start_list(v, name, false, count, error);
}

bool visit_start_int_list(Visitor *v, const char *name, size_t *count, GError **error)
{
    return start_list(v, name, true, count, error);
}

void visit_end_list(Visitor *v)
{
    g_ptr_array_set_size(v->frames, (int)v->frames->len - 1);
}

json_type visit_peek_type(Visitor *v, const char *name)
{
    json_object *j;
    return input_lookup(v, name, &j) ? json_object_get_type(j) : json_type_null;
}

bool visit_alternate(Visitor *v, const char *name, json_type *type, GError **error)
{
    json_object *j;
    if (!input_lookup(v, name, &j)) {
        g_autofree char *full = full_name(v, name);
        return error_set(error, "Parameter '%s' is missing", full);
    }
    *type = json_object_get_type(j);
    return true;
}

bool visit_wrong_type(Visitor *v, const char *name, const char *expected, GError **error)
{
    return error_type(v, name, expected, error);
}

Visitor *visitor_new_options(const char *text, const char *implied_key, GError **error)
{
    bool is_json = false;
    json_object *value = keyval_parse_repeated(text, implied_key, &is_json, error);
    if (!value) {
        return NULL;
    }
    Visitor *v = visitor_new_input(value, !is_json);
    json_object_put(value);
    return v;
}
