/*
 * The monitor for people: line editing, running a line. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "monitor/hmp_internal.h"

#include "base/error.h"
#include "base/nearest.h"
#include "rhea_config.h"

#include <stdarg.h>
#include <string.h>

#define PROMPT "(qemu) " /* what scripts wait for */

/* ---- running a line ---- */

void hmp_print(HmpContext *ctx, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_string_append_vprintf(ctx->out, fmt, ap);
    va_end(ap);
}

json_object *hmp_qmp(HmpContext *ctx, const char *command, json_object *args, GError **error)
{
    QmpContext qmp = { .set = ctx->set, .vm = ctx->vm, .mon = ctx->mon };
    const QmpCommand *c = qmp_command_find(command);
    json_object *result = NULL;
    bool ok = c && c->run(&qmp, args, &result, error);
    json_object_put(args);
    return ok ? result : NULL;
}

X86Cpu *hmp_cpu(HmpContext *ctx, GError **error)
{
    return monitor_cpu(ctx->set, *ctx->cpu_index, error);
}

char *hmp_word(const char **rest)
{
    const char *p = *rest;
    while (g_ascii_isspace(*p)) {
        p++;
    }
    if (!*p) {
        *rest = p;
        return NULL;
    }
    GString *word = g_string_new(NULL);
    bool quoted = *p == '"';
    p += quoted;
    for (; *p && (quoted ? *p != '"' : !g_ascii_isspace(*p)); p++) {
        if (quoted && *p == '\\' && p[1]) {
            p++;
        }
        g_string_append_c(word, *p);
    }
    p += quoted && *p == '"';
    while (g_ascii_isspace(*p)) {
        p++;
    }
    *rest = p;
    return g_string_free(word, FALSE);
}

bool hmp_on_off(const char *word, bool *on, GError **error)
{
    if (!word) {
        return error_set(error, "expected on or off");
    }
    if (strcmp(word, "1") == 0 || strcmp(word, "0") == 0) {
        *on = *word == '1';
        return true;
    }
    g_autoptr(Visitor) v = visitor_new_text_input(word);
    return visit_bool(v, "on|off", on, error);
}

static bool name_matches(const char *names, const char *name)
{
    size_t length = strlen(name);
    for (const char *p = names; *p;) {
        size_t part = strcspn(p, "|");
        if (part == length && strncmp(p, name, part) == 0) {
            return true;
        }
        p += part;
        p += *p == '|';
    }
    return false;
}

const HmpCommand *hmp_find(const HmpCommand *table, const char *name, const char *what, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    for (const HmpCommand *c = table; c->name; c++) {
        if (name_matches(c->name, name)) {
            return c;
        }
        g_auto(GStrv) parts = g_strsplit(c->name, "|", 0);
        for (char **part = parts; *part; part++) {
            g_ptr_array_add(names, g_strdup(*part));
        }
    }
    g_ptr_array_add(names, NULL);
    error_set(error, "unknown %s: '%s'", what, name);
    nearest_hint(error, name, (const char *const *)names->pdata);
    return NULL;
}

void hmp_list(HmpContext *ctx, const HmpCommand *table, const char *prefix, const char *only)
{
    for (const HmpCommand *c = table; c->name; c++) {
        if (!only || name_matches(c->name, only)) {
            hmp_print(ctx, "%s%s%s%s -- %s\n", prefix, c->name, *c->params ? " " : "", c->params, c->help);
        }
    }
}

void hmp_run(MonitorSet *set, Monitor *mon, unsigned *cpu_index, const char *line, GString *out)
{
    g_autoptr(GError) error = NULL;
    HmpContext ctx = {
        .set = set, .vm = set->vm, .mon = mon, .cpu_index = cpu_index, .out = out, .format = ""
    };
    g_autofree char *text = g_strstrip(g_strdup(line));
    size_t length = strcspn(text, " \t/");
    if (!length && *text != '/') {
        return;
    }
    g_autofree char *name = g_strndup(text, length);
    const char *args = text + length;
    g_autofree char *format = NULL;
    if (*args == '/') {
        size_t format_length = strcspn(args + 1, " \t");
        format = g_strndup(args + 1, format_length);
        ctx.format = format;
        args += 1 + format_length;
    }
    while (g_ascii_isspace(*args)) {
        args++;
    }
    const HmpCommand *command = hmp_find(hmp_commands, name, "command", &error);
    if (!command || !command->run(&ctx, args, &error)) {
        if (error) {
            g_autofree char *message = error_message(error), *hint = error_hint(error);
            hmp_print(&ctx, "%s%s\n", command ? "Error: " : "", message);
            if (hint) {
                hmp_print(&ctx, "%s\n", hint);
            }
        }
    }
}

/* ---- the terminal ---- */

static void emit(Monitor *mon, const char *text)
{
    monitor_write(mon, text, strlen(text));
}

/* Command output: a newline becomes CR LF, as terminals in raw mode need. */
static void emit_output(Monitor *mon, const GString *text)
{
    GString *out = g_string_sized_new(text->len + 64);
    for (gsize i = 0; i < text->len; i++) {
        if (text->str[i] == '\n') {
            g_string_append_c(out, '\r');
        }
        g_string_append_c(out, text->str[i]);
    }
    monitor_write(mon, out->str, out->len);
    g_string_free(out, TRUE);
}

/* Draws the line again from the prompt on and puts the cursor where it belongs. */
static void redraw(Monitor *mon)
{
    HmpEditor *e = &mon->edit;
    GString *s = g_string_new("\r" PROMPT);
    g_string_append(s, e->line->str);
    g_string_append(s, "\x1b[K");
    if (e->cursor < e->line->len) {
        g_string_append_printf(s, "\x1b[%zuD", e->line->len - e->cursor);
    }
    monitor_write(mon, s->str, s->len);
    g_string_free(s, TRUE);
}

static void set_line(Monitor *mon, const char *text)
{
    g_string_assign(mon->edit.line, text);
    mon->edit.cursor = mon->edit.line->len;
    redraw(mon);
}

static void history_move(Monitor *mon, int step)
{
    HmpEditor *e = &mon->edit;
    gint64 at = (gint64)e->history_at + step;
    if (at < 0 || at > (gint64)e->history->len) {
        return;
    }
    e->history_at = (guint)at;
    set_line(mon, at < (gint64)e->history->len ? g_ptr_array_index(e->history, at) : "");
}

static void history_add(HmpEditor *e, const char *line)
{
    if (*line &&
        (!e->history->len || strcmp(g_ptr_array_index(e->history, e->history->len - 1), line) != 0)) {
        if (e->history->len == HMP_HISTORY) {
            g_ptr_array_remove_index(e->history, 0);
        }
        g_ptr_array_add(e->history, g_strdup(line));
    }
    e->history_at = e->history->len;
}

static void complete(Monitor *mon)
{
    HmpEditor *e = &mon->edit;
    const HmpCommand *table = hmp_commands;
    const char *word = e->line->str;
    if (g_str_has_prefix(word, "info ")) {
        table = hmp_info_commands;
        word += 5;
    } else if (g_str_has_prefix(word, "help ")) {
        word += 5;
    }
    if (strchr(word, ' ') || e->cursor != e->line->len) {
        return;
    }
    g_autoptr(GPtrArray) matches = g_ptr_array_new_with_free_func(g_free);
    for (const HmpCommand *c = table; c->name; c++) {
        g_auto(GStrv) names = g_strsplit(c->name, "|", 0);
        for (char **name = names; *name; name++) {
            if (g_str_has_prefix(*name, word)) {
                g_ptr_array_add(matches, g_strdup(*name));
            }
        }
    }
    if (!matches->len) {
        return;
    }
    const char *first = g_ptr_array_index(matches, 0);
    size_t common = strlen(first);
    for (guint i = 1; i < matches->len; i++) {
        const char *other = g_ptr_array_index(matches, i);
        size_t k = 0;
        while (k < common && other[k] == first[k]) {
            k++;
        }
        common = k;
    }
    if (common > strlen(word)) {
        g_string_append_len(e->line, first + strlen(word), (gssize)(common - strlen(word)));
        if (matches->len == 1) {
            g_string_append_c(e->line, ' ');
        }
        e->cursor = e->line->len;
    } else if (matches->len > 1) {
        emit(mon, "\r\n");
        for (guint i = 0; i < matches->len; i++) {
            emit(mon, g_ptr_array_index(matches, i));
            emit(mon, i + 1 < matches->len ? " " : "\r\n");
        }
    }
    redraw(mon);
}

static void enter(Monitor *mon)
{
    HmpEditor *e = &mon->edit;
    g_autofree char *line = g_strdup(e->line->str);
    g_string_truncate(e->line, 0);
    e->cursor = 0;
    emit(mon, "\r\n");
    history_add(e, line);
    g_autoptr(GString) out = g_string_new(NULL);
    hmp_run(mon->set, mon, &mon->cpu_index, line, out);
    emit_output(mon, out);
    emit(mon, PROMPT);
}

static void escape_end(Monitor *mon, char c)
{
    HmpEditor *e = &mon->edit;
    switch (c) {
    case 'A':
        history_move(mon, -1);
        return;
    case 'B':
        history_move(mon, 1);
        return;
    case 'C':
        e->cursor += e->cursor < e->line->len;
        break;
    case 'D':
        e->cursor -= e->cursor > 0;
        break;
    case 'H':
        e->cursor = 0;
        break;
    case 'F':
        e->cursor = e->line->len;
        break;
    case '~':
        if (e->escape_value == 1 || e->escape_value == 7) {
            e->cursor = 0;
        } else if (e->escape_value == 4 || e->escape_value == 8) {
            e->cursor = e->line->len;
        } else if (e->escape_value == 3 && e->cursor < e->line->len) {
            g_string_erase(e->line, (gssize)e->cursor, 1);
        }
        break;
    default:
        return;
    }
    redraw(mon);
}

static void key(Monitor *mon, uint8_t c)
{
    HmpEditor *e = &mon->edit;
    if (e->escape == 1) {
        e->escape = c == '[' || c == 'O' ? 2 : 0;
        e->escape_value = 0;
        return;
    }
    if (e->escape == 2) {
        if (g_ascii_isdigit(c)) {
            e->escape_value = (e->escape_value * 10 + c - '0') % 1000;
            return;
        }
        e->escape = 0;
        escape_end(mon, (char)c);
        return;
    }
    switch (c) {
    case '\r':
    case '\n':
        enter(mon);
        return;
    case '\t':
        complete(mon);
        return;
    case 0x1b:
        e->escape = 1;
        return;
    case 1: /* Ctrl-A */
        e->cursor = 0;
        break;
    case 5: /* Ctrl-E */
        e->cursor = e->line->len;
        break;
    case 2: /* Ctrl-B */
        e->cursor -= e->cursor > 0;
        break;
    case 6: /* Ctrl-F */
        e->cursor += e->cursor < e->line->len;
        break;
    case 4: /* Ctrl-D */
        if (e->cursor < e->line->len) {
            g_string_erase(e->line, (gssize)e->cursor, 1);
        }
        break;
    case 8:
    case 0x7f:
        if (e->cursor) {
            g_string_erase(e->line, (gssize)--e->cursor, 1);
        }
        break;
    case 11: /* Ctrl-K */
        g_string_truncate(e->line, e->cursor);
        break;
    case 14: /* Ctrl-N */
        history_move(mon, 1);
        return;
    case 16: /* Ctrl-P */
        history_move(mon, -1);
        return;
    case 3:  /* Ctrl-C */
    case 21: /* Ctrl-U */
        g_string_truncate(e->line, 0);
        e->cursor = 0;
        break;
    case 23: /* Ctrl-W */
        while (e->cursor && e->line->str[e->cursor - 1] == ' ') {
            g_string_erase(e->line, (gssize)--e->cursor, 1);
        }
        while (e->cursor && e->line->str[e->cursor - 1] != ' ') {
            g_string_erase(e->line, (gssize)--e->cursor, 1);
        }
        break;
    default:
        if (c < 0x20 || e->line->len >= HMP_MAX_LINE) {
            return;
        }
        g_string_insert_c(e->line, (gssize)e->cursor++, (char)c);
        if (e->cursor == e->line->len) {
            monitor_write(mon, (const char *)&c, 1);
            return;
        }
    }
    redraw(mon);
}

void hmp_monitor_init(Monitor *mon)
{
    mon->edit.line = g_string_new(NULL);
    mon->edit.history = g_ptr_array_new_with_free_func(g_free);
}

void hmp_monitor_free(Monitor *mon)
{
    g_string_free(mon->edit.line, TRUE);
    g_ptr_array_unref(mon->edit.history);
}

void hmp_monitor_opened(Monitor *mon)
{
    if (!mon->prompt_shown) {
        emit(mon, "Rhea " RHEA_VERSION " monitor - type 'help' for more information\r\n");
        mon->prompt_shown = true;
    } else {
        emit(mon, "\r\n");
    }
    g_string_truncate(mon->edit.line, 0);
    mon->edit.cursor = 0;
    mon->edit.escape = 0;
    emit(mon, PROMPT);
}

void hmp_monitor_receive(Monitor *mon, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size && mon->open; i++) {
        key(mon, data[i]);
    }
}
