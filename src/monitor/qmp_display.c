/* QMP: screens, keyboards and mice. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "monitor/monitor_internal.h"

#define DEFAULT_HOLD_MS 100
#define MAX_HOLD_MS     600000

/* ---- screens ---- */

bool qmp_screendump(QmpContext *ctx, const char *filename, const char *device, bool has_head, int64_t head,
                    bool has_format, QapiImageFormat format, GError **error)
{
    DisplayConsole *console =
        display_console_find_head(vm_displays(ctx->vm), device, has_head ? head : 0, error);
    DisplaySurface surface;
    g_autoptr(GError) local = NULL;

    if (!console) {
        return false;
    }
    display_surface_init(&surface);
    display_console_render(console, &surface);
    g_autoptr(GByteArray) image = display_surface_encode(
        &surface, has_format && format == QAPI_IMAGE_FORMAT_PNG ? DISPLAY_IMAGE_PNG : DISPLAY_IMAGE_PPM);
    display_surface_clear(&surface);
    if (!g_file_set_contents_full(filename, (const char *)image->data, image->len, G_FILE_SET_CONTENTS_NONE,
                                  0644, &local)) {
        return error_set(error, "failed to write '%s': %s", filename, local->message);
    }
    return true;
}

/* ---- input ---- */

static bool key_code(const QapiKeyValue *value, uint16_t *code, GError **error)
{
    const InputKey *key = NULL;

    if (value->type == QAPI_KEY_VALUE_KIND_NUMBER) {
        int64_t number = value->u_number->data;
        key = number >= 0 && number < 0x100 ? input_key_by_number((unsigned)number) : NULL;
        if (!key) {
            error_set(error, "There is no key with number %" PRId64, number);
            error_append_hint(error,
                              "Numbers are scan codes of set 1, with 0x80 for those with the prefix 0xe0.");
            return false;
        }
    } else {
        const char *name = enum_name(&qapi_QKeyCode_lookup, value->u_qcode->data);
        key = input_key_by_name(name);
        if (!key) {
            return error_set(error, "There is no key '%s' to press", name);
        }
    }
    *code = key->code;
    return true;
}

bool qmp_send_key(QmpContext *ctx, GPtrArray *keys, bool has_hold_time, int64_t hold_time, GError **error)
{
    g_autofree uint16_t *codes = g_new0(uint16_t, keys->len + 1);

    if (has_hold_time && (hold_time < 0 || hold_time > MAX_HOLD_MS)) {
        return error_set(error, "Parameter 'hold-time' expects milliseconds from 0 to %d", MAX_HOLD_MS);
    }
    for (guint i = 0; i < keys->len; i++) {
        if (!key_code(keys->pdata[i], &codes[i], error)) {
            return false;
        }
    }
    return input_type_keys(vm_inputs(ctx->vm), codes, keys->len,
                           has_hold_time ? (unsigned)hold_time : DEFAULT_HOLD_MS, error);
}

static bool input_event(const QapiInputEvent *from, InputEvent *to, GError **error)
{
    const QapiInputMoveEvent *move;

    switch (from->type) {
    case QAPI_INPUT_EVENT_KIND_KEY:
        to->kind = INPUT_KEY;
        to->value = from->u_key->data->down;
        return key_code(from->u_key->data->key, &to->code, error);
    case QAPI_INPUT_EVENT_KIND_BTN:
        to->kind = INPUT_BUTTON;
        to->code = (uint16_t)from->u_btn->data->button; /* both in QMP's order */
        to->value = from->u_btn->data->down;
        return true;
    default:
        to->kind = from->type == QAPI_INPUT_EVENT_KIND_REL ? INPUT_REL : INPUT_ABS;
        move = to->kind == INPUT_REL ? from->u_rel->data : from->u_abs->data;
        to->code = move->axis == QAPI_INPUT_AXIS_X ? INPUT_AXIS_X : INPUT_AXIS_Y;
        to->value = (int32_t)CLAMP(move->value, to->kind == INPUT_REL ? -INPUT_ABS_MAX : 0, INPUT_ABS_MAX);
        return true;
    }
}

bool qmp_input_send_event(QmpContext *ctx, const char *device, bool has_head, int64_t head, GPtrArray *events,
                          GError **error)
{
    g_autofree InputEvent *list = g_new0(InputEvent, events->len + 1);

    if (device && !display_console_find(vm_displays(ctx->vm), device, error)) {
        return false;
    }
    for (guint i = 0; i < events->len; i++) {
        if (!input_event(events->pdata[i], &list[i], error)) {
            return false;
        }
    }
    input_send(vm_inputs(ctx->vm), list, events->len);
    return true;
}

bool qmp_query_mice(QmpContext *ctx, GPtrArray **ret, GError **error)
{
    g_autoptr(GArray) pointers = input_pointers(vm_inputs(ctx->vm));

    *ret = qapi_list_MouseInfo_new();
    for (guint i = 0; i < pointers->len; i++) {
        const InputPointerInfo *p = &g_array_index(pointers, InputPointerInfo, i);
        QapiMouseInfo *info = g_new0(QapiMouseInfo, 1);
        info->name = g_strdup(p->name);
        info->index = p->index;
        info->current = p->current;
        info->absolute = p->absolute;
        g_ptr_array_add(*ret, info);
    }
    return true;
}

/* ---- VNC ---- */

bool qmp_query_vnc(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = vnc_query(vm_vnc(ctx->vm));
    return true;
}

bool qmp_query_vnc_servers(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = vnc_query_servers(vm_vnc(ctx->vm));
    return true;
}

bool qmp_change_vnc_password(QmpContext *ctx, const char *password, GError **error)
{
    return vnc_set_password(vm_vnc(ctx->vm), NULL, password, NULL, error);
}

bool qmp_set_password(QmpContext *ctx, QapiDisplayProtocol protocol, const char *password, bool has_connected,
                      QapiSetPasswordAction connected, const char *display, GError **error)
{
    return vnc_set_password(vm_vnc(ctx->vm), display, password,
                            has_connected ? enum_name(&qapi_SetPasswordAction_lookup, connected) : NULL,
                            error);
}

bool qmp_expire_password(QmpContext *ctx, QapiDisplayProtocol protocol, const char *time, const char *display,
                         GError **error)
{
    return vnc_expire_password(vm_vnc(ctx->vm), display, time, error);
}
