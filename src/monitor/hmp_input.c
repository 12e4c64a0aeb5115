/* HMP: keys, mice and who looks. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "monitor/hmp_internal.h"

#include <stdlib.h>
#include <string.h>

static json_object *key_value(const char *name)
{
    json_object *value = json_object_new_object();
    char *end;
    long number = strtol(name, &end, 16);
    bool is_number = g_str_has_prefix(name, "0x") && !*end;

    json_object_object_add(value, "type", json_object_new_string(is_number ? "number" : "qcode"));
    json_object_object_add(value, "data",
                           is_number ? json_object_new_int64(number) : json_object_new_string(name));
    return value;
}

/* Names that people use beside QMP's. */
static const char *key_alias(const char *name)
{
    static const char *const aliases[][2] = {
        { "<", "less" },     { "-", "minus" },     { "=", "equal" },   { "return", "ret" },
        { "enter", "ret" },  { " ", "spc" },       { ".", "dot" },     { ",", "comma" },
        { "/", "slash" },    { ";", "semicolon" }, { "space", "spc" }, { "escape", "esc" },
        { "del", "delete" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(aliases); i++) {
        if (strcmp(name, aliases[i][0]) == 0) {
            return aliases[i][1];
        }
    }
    return name;
}

bool hmp_sendkey(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *names = hmp_word(&args), *hold = hmp_word(&args);
    guint64 hold_ms;

    if (!names) {
        return error_set(error, "sendkey KEYS [HOLD_MS]: the keys are missing");
    }
    if (hold && !g_ascii_string_to_unsigned(hold, 10, 0, G_MAXINT32, &hold_ms, NULL)) {
        return error_set(error, "'%s' is no time in milliseconds", hold);
    }
    json_object *qmp_args = json_object_new_object(), *keys = json_object_new_array();
    json_object_object_add(qmp_args, "keys", keys);
    if (strcmp(names, "-") == 0) {
        json_object_array_add(keys, key_value("minus"));
    } else {
        g_auto(GStrv) parts = g_strsplit(names, "-", -1);
        for (char **part = parts; *part; part++) {
            json_object_array_add(keys, key_value(**part ? key_alias(*part) : "minus"));
        }
    }
    if (hold) {
        json_object_object_add(qmp_args, "hold-time", json_object_new_int64((int64_t)hold_ms));
    }
    json_object *result = hmp_qmp(ctx, "send-key", qmp_args, error);
    json_object_put(result);
    return result != NULL;
}

static bool whole_number(char *word, int *value, GError **error)
{
    gint64 number;

    if (!word || !g_ascii_string_to_signed(word, 10, -INPUT_ABS_MAX, INPUT_ABS_MAX, &number, NULL)) {
        return error_set(error, "'%s' is no whole number from %d to %d", word ? word : "", -INPUT_ABS_MAX,
                         INPUT_ABS_MAX);
    }
    *value = (int)number;
    return true;
}

static void click(InputRegistry *reg, InputButton button)
{
    input_send(reg, &(InputEvent){ INPUT_BUTTON, (uint16_t)button, 1 }, 1);
    input_send(reg, &(InputEvent){ INPUT_BUTTON, (uint16_t)button, 0 }, 1);
}

bool hmp_mouse_move(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *first = hmp_word(&args), *second = hmp_word(&args), *third = hmp_word(&args);
    InputRegistry *reg = vm_inputs(ctx->vm);
    int x, y, z = 0;

    if (!whole_number(first, &x, error) || !whole_number(second, &y, error) ||
        (third && !whole_number(third, &z, error))) {
        return false;
    }
    InputEvent events[] = { { INPUT_REL, INPUT_AXIS_X, x }, { INPUT_REL, INPUT_AXIS_Y, y } };
    input_send(reg, events, G_N_ELEMENTS(events));
    if (z) {
        click(reg, z > 0 ? INPUT_BUTTON_WHEEL_UP : INPUT_BUTTON_WHEEL_DOWN);
    }
    return true;
}

bool hmp_mouse_button(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *word = hmp_word(&args);
    static const InputButton order[] = { INPUT_BUTTON_LEFT, INPUT_BUTTON_RIGHT, INPUT_BUTTON_MIDDLE };
    InputEvent events[G_N_ELEMENTS(order)];
    int mask;

    if (!whole_number(word, &mask, error)) {
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(order); i++) {
        events[i] = (InputEvent){ INPUT_BUTTON, (uint16_t)order[i], mask >> i & 1 };
    }
    input_send(vm_inputs(ctx->vm), events, G_N_ELEMENTS(events));
    return true;
}

bool hmp_mouse_set(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *word = hmp_word(&args);
    int index;

    return whole_number(word, &index, error) && input_pointer_select(vm_inputs(ctx->vm), index, error);
}

bool hmp_info_mice(HmpContext *ctx, const char *args, GError **error)
{
    g_autoptr(GArray) pointers = input_pointers(vm_inputs(ctx->vm));

    for (guint i = 0; i < pointers->len; i++) {
        const InputPointerInfo *p = &g_array_index(pointers, InputPointerInfo, i);
        hmp_print(ctx, "%c Mouse #%d: %s%s\n", p->current ? '*' : ' ', p->index, p->name,
                  p->absolute ? " (absolute)" : "");
    }
    if (!pointers->len) {
        hmp_print(ctx, "No mouse devices connected\n");
    }
    return true;
}

/* ---- VNC ---- */

static bool only_vnc(const char *protocol, GError **error)
{
    return g_strcmp0(protocol, "vnc") == 0 ||
           error_set(error, "Passwords are vnc's, not '%s''s", protocol ? protocol : "");
}

bool hmp_set_password(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *protocol = hmp_word(&args), *password = hmp_word(&args), *connected = hmp_word(&args);

    return only_vnc(protocol, error) &&
           vnc_set_password(vm_vnc(ctx->vm), NULL, password ? password : "", connected, error);
}

bool hmp_expire_password(HmpContext *ctx, const char *args, GError **error)
{
    g_autofree char *protocol = hmp_word(&args), *time = hmp_word(&args);

    return only_vnc(protocol, error) && vnc_expire_password(vm_vnc(ctx->vm), NULL, time ? time : "", error);
}

static const char *field(json_object *info, const char *name)
{
    return json_object_get_string(json_object_object_get(info, name));
}

bool hmp_info_vnc(HmpContext *ctx, const char *args, GError **error)
{
    json_object *servers = vnc_query_servers(vm_vnc(ctx->vm));

    for (size_t i = 0; i < json_object_array_length(servers); i++) {
        json_object *server = json_object_array_get_idx(servers, i);
        json_object *addresses = json_object_object_get(server, "server"),
                    *clients = json_object_object_get(server, "clients");
        hmp_print(ctx, "%s: (password: %s)\n", field(server, "id"),
                  strcmp(field(server, "auth"), "vnc") == 0 ? "yes" : "no");
        for (size_t n = 0; n < json_object_array_length(addresses); n++) {
            json_object *a = json_object_array_get_idx(addresses, n);
            hmp_print(ctx, "  Server: %s:%s (%s%s)\n", field(a, "host"), field(a, "service"),
                      field(a, "family"),
                      json_object_get_boolean(json_object_object_get(a, "websocket")) ? ", websocket" : "");
        }
        for (size_t n = 0; n < json_object_array_length(clients); n++) {
            json_object *c = json_object_array_get_idx(clients, n);
            hmp_print(ctx, "  Client: %s:%s (%s)\n", field(c, "host"), field(c, "service"),
                      field(c, "family"));
        }
    }
    if (!json_object_array_length(servers)) {
        hmp_print(ctx, "None\n");
    }
    json_object_put(servers);
    return true;
}
