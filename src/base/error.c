/* SPDX-License-Identifier: GPL-2.0-or-later */
#define RHEA_BASE_ERROR_C
#include "base/error.h"

#include "base/log.h"

#include <string.h>

/* Separates a message from its hint inside GError.message; never part of either. */
#define HINT_MARK "\x1f"

G_DEFINE_QUARK(rhea - error - quark, rhea_error)

const char *error_class_name(ErrorClass error_class)
{
    switch (error_class) {
    case ERROR_CLASS_COMMAND_NOT_FOUND:
        return "CommandNotFound";
    case ERROR_CLASS_DEVICE_NOT_ACTIVE:
        return "DeviceNotActive";
    case ERROR_CLASS_DEVICE_NOT_FOUND:
        return "DeviceNotFound";
    case ERROR_CLASS_KVM_MISSING_CAP:
        return "KVMMissingCap";
    case ERROR_CLASS_MIGRATION_EXPECTED:
        return "MigrationExpected";
    case ERROR_CLASS_GENERIC:
        break;
    }
    return "GenericError";
}

static void set_va(GError **error, ErrorClass error_class, int errnum, const char *fmt, va_list ap)
{
    if (!error) {
        return;
    }
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    if (errnum) {
        *error = g_error_new(RHEA_ERROR, (int)error_class, "%s: %s", text, g_strerror(errnum));
    } else {
        *error = g_error_new_literal(RHEA_ERROR, (int)error_class, text);
    }
}

bool error_set(GError **error, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_va(error, ERROR_CLASS_GENERIC, 0, fmt, ap);
    va_end(ap);
    return false;
}

bool error_set_class(GError **error, ErrorClass error_class, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_va(error, error_class, 0, fmt, ap);
    va_end(ap);
    return false;
}

bool error_set_errno(GError **error, int errnum, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_va(error, ERROR_CLASS_GENERIC, errnum, fmt, ap);
    va_end(ap);
    return false;
}

void error_append_hint(GError **error, const char *fmt, ...)
{
    if (!error || !*error) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *hint = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    char *old = (*error)->message;
    (*error)->message = g_strconcat(old, strstr(old, HINT_MARK) ? "\n" : HINT_MARK, hint, NULL);
    g_free(old);
}

void error_prefix(GError **error, const char *fmt, ...)
{
    if (!error || !*error) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *prefix = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    char *old = (*error)->message;
    (*error)->message = g_strconcat(prefix, old, NULL);
    g_free(old);
}

char *error_message(const GError *error)
{
    const char *mark = strstr(error->message, HINT_MARK);
    return mark ? g_strndup(error->message, mark - error->message) : g_strdup(error->message);
}

char *error_hint(const GError *error)
{
    const char *mark = strstr(error->message, HINT_MARK);
    return mark ? g_strdup(mark + strlen(HINT_MARK)) : NULL;
}

void error_report(const GError *error)
{
    g_autofree char *message = error_message(error);
    g_autofree char *hint = error_hint(error);
    log_error("%s", message);
    if (hint) {
        log_hint("%s", hint);
    }
}
