/* QMP: character devices, network. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "base/error.h"
#include "monitor/monitor_internal.h"

#include <string.h>

/* ---- character devices ---- */

bool qmp_query_chardev(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = chardev_query(vm_chardevs(ctx->vm));
    return true;
}

bool qmp_query_chardev_backends(QmpContext *ctx, json_object **ret, GError **error)
{
    *ret = chardev_query_backends();
    return true;
}

bool qmp_chardev_add(QmpContext *ctx, const char *id, QapiChardevBackend *backend, QapiChardevReturn **ret,
                     GError **error)
{
    Chardev *chr = chardev_add(vm_chardevs(ctx->vm), id, backend, error);
    if (!chr) {
        return false;
    }
    *ret = g_new0(QapiChardevReturn, 1);
    (*ret)->pty = g_strdup(chardev_pty_name(chr));
    return true;
}

bool qmp_chardev_remove(QmpContext *ctx, const char *id, GError **error)
{
    return chardev_remove(vm_chardevs(ctx->vm), id, error);
}

bool qmp_chardev_send_break(QmpContext *ctx, const char *id, GError **error)
{
    return chardev_send_break(vm_chardevs(ctx->vm), id, error);
}

bool qmp_ringbuf_read(QmpContext *ctx, const char *device, int64_t size, bool has_format,
                      QapiDataFormat format, char **ret, GError **error)
{
    if (size <= 0) {
        return error_set(error, "size must be greater than zero");
    }
    size_t got = 0;
    g_autofree char *data = chardev_ringbuf_read(vm_chardevs(ctx->vm), device, (size_t)size, &got, error);
    if (!data) {
        return false;
    }
    if (has_format && format == QAPI_DATA_FORMAT_BASE64) {
        *ret = g_base64_encode((const guchar *)data, got);
    } else {
        *ret = g_utf8_make_valid(data, (gssize)got);
    }
    return true;
}

bool qmp_ringbuf_write(QmpContext *ctx, const char *device, const char *data, bool has_format,
                       QapiDataFormat format, GError **error)
{
    if (has_format && format == QAPI_DATA_FORMAT_BASE64) {
        gsize size;
        g_autofree guchar *raw = g_base64_decode(data, &size);
        return chardev_ringbuf_write(vm_chardevs(ctx->vm), device, raw, size, error);
    }
    return chardev_ringbuf_write(vm_chardevs(ctx->vm), device, data, strlen(data), error);
}

/* ---- network ---- */

bool qmp_netdev_add(QmpContext *ctx, QapiNetdev *args, GError **error)
{
    return net_client_add(vm_nets(ctx->vm), args, error) != NULL;
}

bool qmp_netdev_del(QmpContext *ctx, const char *id, GError **error)
{
    return net_client_remove(vm_nets(ctx->vm), id, error);
}

bool qmp_set_link(QmpContext *ctx, const char *name, bool up, GError **error)
{
    return net_set_link(vm_nets(ctx->vm), name, up, error);
}
