/*
 * The QMP server: a stream of JSON values in, replies and events out. SPDX-License-Identifier:
 * GPL-2.0-or-later
 *
 * Requests are answered in the order of their arrival, each before the next is looked at; so an "exec-oob"
 * command is never behind one that waits, since no command waits. Whatever a client sends, the worst it gets
 * is an error reply: after garbage the rest of the line is skipped; a value may have QMP_MAX_REQUEST_BYTES
 * and QMP_MAX_DEPTH.
 */
#include "base/error.h"
#include "base/nearest.h"
#include "monitor/monitor_internal.h"
#include "rhea_config.h"

#include <stdlib.h>
#include <string.h>

/* ---- replies ---- */

json_object *qmp_error_reply(const GError *error, json_object *id)
{
    json_object *reply = json_object_new_object(), *body = json_object_new_object();
    g_autofree char *message = error_message(error);
    int code = error->domain == RHEA_ERROR ? error->code : ERROR_CLASS_GENERIC;
    json_object_object_add(body, "class", json_object_new_string(error_class_name((ErrorClass)code)));
    json_object_object_add(body, "desc", json_object_new_string(message));
    json_object_object_add(reply, "error", body);
    if (id) {
        json_object_object_add(reply, "id", json_object_get(id));
    }
    return reply;
}

static void send_error(Monitor *mon, GError *error)
{
    json_object *reply = qmp_error_reply(error, NULL);
    monitor_send_json(mon, reply);
    json_object_put(reply);
    g_error_free(error);
}

/* ---- dispatch ---- */

static int command_compare(const void *key, const void *entry)
{
    return strcmp(key, ((const QmpCommand *)entry)->name);
}

const QmpCommand *qmp_command_find(const char *name)
{
    return bsearch(name, qmp_commands, qmp_commands_count, sizeof(qmp_commands[0]), command_compare);
}

bool qmp_command_is_there(const MonitorSet *set, const char *name)
{
    return !set || !set->only || g_strv_contains(set->only, name);
}

/* Checks the envelope and finds the command. */
static const QmpCommand *check_request(const MonitorSet *set, json_object *request, bool oob_enabled,
                                       json_object **args, bool *is_oob, GError **error)
{
    const char *name = NULL;
    *is_oob = false;
    *args = NULL;
    if (!json_object_is_type(request, json_type_object)) {
        error_set(error, "QMP input must be a JSON object");
        return NULL;
    }
    json_object_object_foreach(request, key, member)
    {
        if (strcmp(key, "execute") == 0 || (strcmp(key, "exec-oob") == 0 && oob_enabled)) {
            if (!json_object_is_type(member, json_type_string)) {
                error_set(error, "QMP input member '%s' must be a string", key);
                return NULL;
            }
            if (name) {
                error_set(error, "QMP input members 'execute' and 'exec-oob' exclude each other");
                return NULL;
            }
            *is_oob = key[4] == '-';
            name = json_object_get_string(member);
        } else if (strcmp(key, "arguments") == 0) {
            if (!json_object_is_type(member, json_type_object)) {
                error_set(error, "QMP input member 'arguments' must be an object");
                return NULL;
            }
            *args = member;
        } else if (strcmp(key, "id") != 0) {
            error_set(error, "QMP input member '%s' is unexpected", key);
            return NULL;
        }
    }
    if (!name) {
        error_set(error, "QMP input lacks member 'execute'");
        return NULL;
    }
    const QmpCommand *command = qmp_command_is_there(set, name) ? qmp_command_find(name) : NULL;
    if (!command) {
        error_set_class(error, ERROR_CLASS_COMMAND_NOT_FOUND, "The command %s has not been found", name);
    }
    return command;
}

json_object *qmp_dispatch(QmpContext *ctx, json_object *request, bool negotiated, bool oob)
{
    g_autoptr(GError) error = NULL;
    json_object *id = NULL, *args, *result = NULL;
    bool is_oob;
    if (json_object_is_type(request, json_type_object)) {
        json_object_object_get_ex(request, "id", &id);
    }
    const QmpCommand *command = check_request(ctx->set, request, oob, &args, &is_oob, &error);
    if (!command) {
        return qmp_error_reply(error, id);
    }
    bool is_negotiation = strcmp(command->name, "qmp_capabilities") == 0;
    if (!negotiated && !is_negotiation) {
        error_set_class(&error, ERROR_CLASS_COMMAND_NOT_FOUND,
                        "Expecting capabilities negotiation with 'qmp_capabilities'");
    } else if (is_oob && !command->allow_oob) {
        error_set(&error, "The command %s does not support OOB", command->name);
    } else if (command->run(ctx, args, &result, &error)) {
        json_object *reply = json_object_new_object();
        json_object_object_add(reply, "return", result);
        if (id) {
            json_object_object_add(reply, "id", json_object_get(id));
        }
        return reply;
    }
    return qmp_error_reply(error, id);
}

/* ---- the connection ---- */

void qmp_monitor_init(Monitor *mon)
{
    mon->tokener = json_tokener_new_ex(QMP_MAX_DEPTH);
    json_tokener_set_flags(mon->tokener, JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS |
                                             JSON_TOKENER_VALIDATE_UTF8);
}

void qmp_monitor_free(Monitor *mon)
{
    json_tokener_free(mon->tokener);
}

static json_object *version_object(void)
{
    json_object *version = json_object_new_object(), *triple = json_object_new_object();
    json_object_object_add(triple, "micro", json_object_new_int(MONITOR_VERSION_MICRO));
    json_object_object_add(triple, "minor", json_object_new_int(MONITOR_VERSION_MINOR));
    json_object_object_add(triple, "major", json_object_new_int(MONITOR_VERSION_MAJOR));
    json_object_object_add(version, "qemu", triple);
    json_object_object_add(version, "package", json_object_new_string("Rhea " RHEA_VERSION));
    return version;
}

static void parser_reset(Monitor *mon)
{
    json_tokener_reset(mon->tokener);
    mon->request_bytes = 0;
    mon->in_value = false;
}

void qmp_monitor_opened(Monitor *mon)
{
    mon->negotiated = false;
    mon->oob = false;
    mon->skipping = false;
    parser_reset(mon);
    json_object *greeting = json_object_new_object(), *body = json_object_new_object();
    json_object *capabilities = json_object_new_array();
    json_object_array_add(capabilities, json_object_new_string("oob"));
    json_object_object_add(body, "version", version_object());
    json_object_object_add(body, "capabilities", capabilities);
    json_object_object_add(greeting, "QMP", body);
    monitor_send_json(mon, greeting);
    json_object_put(greeting);
}

void qmp_monitor_event(Monitor *mon, json_object *message)
{
    if (mon->open && mon->negotiated) {
        monitor_send_json(mon, message);
    }
}

bool qmp_qmp_capabilities(QmpContext *ctx, GArray *enable, GError **error)
{
    Monitor *mon = ctx->mon;
    if (!mon || mon->negotiated) {
        return error_set_class(error, ERROR_CLASS_COMMAND_NOT_FOUND,
                               "Capabilities negotiation is already complete, command ignored");
    }
    for (guint i = 0; enable && i < enable->len; i++) {
        mon->oob |= g_array_index(enable, QapiQMPCapability, i) == QAPI_QMPCAPABILITY_OOB;
    }
    mon->negotiated = true;
    return true;
}

static void handle_value(Monitor *mon, json_object *request)
{
    QmpContext ctx = { .set = mon->set, .vm = mon->set->vm, .mon = mon };
    json_object *reply = qmp_dispatch(&ctx, request, mon->negotiated, mon->oob);
    monitor_send_json(mon, reply);
    json_object_put(reply);
}

/* After garbage: an error reply, then everything up to the end of the line is thrown away. */
static void refuse(Monitor *mon, const char *why)
{
    GError *error = NULL;
    error_set(&error, "JSON parse error, %s", why);
    parser_reset(mon);
    mon->skipping = true;
    send_error(mon, error);
}

void qmp_monitor_receive(Monitor *mon, const uint8_t *data, size_t size)
{
    while (size && mon->open) {
        if (mon->skipping) {
            const uint8_t *newline = memchr(data, '\n', size);
            size_t skip = newline ? (size_t)(newline - data) + 1 : size;
            mon->skipping = !newline;
            data += skip;
            size -= skip;
            continue;
        }
        if (!mon->in_value) {
            if (g_ascii_isspace(*data)) {
                data++;
                size--;
                continue;
            }
            if (*data != '{' && *data != '[') {
                refuse(mon, "expecting an object");
                continue;
            }
            mon->in_value = true;
        }
        /* The parser takes a NUL for the end of its input. */
        const uint8_t *nul = memchr(data, 0, size);
        size_t chunk = nul ? (size_t)(nul - data) : size;
        if (chunk == 0) {
            refuse(mon, "NUL character");
            continue;
        }
        chunk = MIN(chunk, (size_t)1 << 20);
        json_object *value = json_tokener_parse_ex(mon->tokener, (const char *)data, (int)chunk);
        enum json_tokener_error status = json_tokener_get_error(mon->tokener);
        if (status == json_tokener_continue) {
            mon->request_bytes += chunk;
            data += chunk;
            size -= chunk;
            if (mon->request_bytes > QMP_MAX_REQUEST_BYTES) {
                refuse(mon, "the request is too large");
            }
            continue;
        }
        size_t used = MIN(json_tokener_get_parse_end(mon->tokener), chunk);
        data += used;
        size -= used;
        if (status != json_tokener_success) {
            g_autofree char *why = g_strdup(json_tokener_error_desc(status));
            json_object_put(value);
            refuse(mon, why);
            continue;
        }
        parser_reset(mon);
        handle_value(mon, value);
        json_object_put(value);
    }
}
