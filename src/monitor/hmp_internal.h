/* What the files of the monitor for people share. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_MONITOR_HMP_INTERNAL_H
#define RHEA_MONITOR_HMP_INTERNAL_H

#include "monitor/monitor_internal.h"

typedef struct HmpContext {
    MonitorSet *set;
    Vm *vm;
    Monitor *mon;        /* NULL for human-monitor-command */
    unsigned *cpu_index; /* of the CPU that commands look at */
    GString *out;
    const char *format; /* what followed the command's name as "/4xw"; "" if nothing did */
} HmpContext;

typedef struct HmpCommand {
    const char *name; /* "quit|q": alternatives */
    const char *params;
    const char *help;
    /* args is the rest of the line, without blanks at its ends. An error is printed by the caller. */
    bool (*run)(HmpContext *ctx, const char *args, GError **error);
} HmpCommand;

extern const HmpCommand hmp_commands[];      /* ends with a NULL name */
extern const HmpCommand hmp_info_commands[]; /* what "info" knows */

/* The command of a name in a table; NULL with an error that names the nearest. */
const HmpCommand *hmp_find(const HmpCommand *table, const char *name, const char *what, GError **error);
void hmp_list(HmpContext *ctx, const HmpCommand *table, const char *prefix, const char *only);

void hmp_print(HmpContext *ctx, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* Calls a QMP command's table entry and prints nothing: the result is the caller's, or NULL with an error. */
json_object *hmp_qmp(HmpContext *ctx, const char *command, json_object *args, GError **error);
/* The CPU of the context. */
X86Cpu *hmp_cpu(HmpContext *ctx, GError **error);
/* One word of a line; *rest is moved behind it and following blanks. NULL at the end. Caller frees. */
char *hmp_word(const char **rest);
/* "on" or "off" (also yes, no, true, false, 1, 0). */
bool hmp_on_off(const char *word, bool *on, GError **error);

/* An expression with numbers, $registers, + - * / % & | ^ ~ and parentheses. */
bool hmp_expression(HmpContext *ctx, const char *text, uint64_t *value, GError **error);

/* hmp_input.c */
bool hmp_sendkey(HmpContext *ctx, const char *args, GError **error);
bool hmp_mouse_move(HmpContext *ctx, const char *args, GError **error);
bool hmp_mouse_button(HmpContext *ctx, const char *args, GError **error);
bool hmp_mouse_set(HmpContext *ctx, const char *args, GError **error);
bool hmp_set_password(HmpContext *ctx, const char *args, GError **error);
bool hmp_expire_password(HmpContext *ctx, const char *args, GError **error);
bool hmp_info_vnc(HmpContext *ctx, const char *args, GError **error);
bool hmp_info_mice(HmpContext *ctx, const char *args, GError **error);

/* hmp_memory.c */
bool hmp_x(HmpContext *ctx, const char *args, GError **error);
bool hmp_xp(HmpContext *ctx, const char *args, GError **error);
bool hmp_p(HmpContext *ctx, const char *args, GError **error);
bool hmp_sum(HmpContext *ctx, const char *args, GError **error);
bool hmp_gva2gpa(HmpContext *ctx, const char *args, GError **error);

/* hmp_migration.c */
bool hmp_migrate(HmpContext *ctx, const char *args, GError **error);
bool hmp_migrate_cancel(HmpContext *ctx, const char *args, GError **error);
bool hmp_migrate_incoming(HmpContext *ctx, const char *args, GError **error);
bool hmp_migrate_set_capability(HmpContext *ctx, const char *args, GError **error);
bool hmp_migrate_set_parameter(HmpContext *ctx, const char *args, GError **error);
bool hmp_savevm(HmpContext *ctx, const char *args, GError **error);
bool hmp_loadvm(HmpContext *ctx, const char *args, GError **error);
bool hmp_delvm(HmpContext *ctx, const char *args, GError **error);
bool hmp_info_snapshots(HmpContext *ctx, const char *args, GError **error);
bool hmp_info_migrate(HmpContext *ctx, const char *args, GError **error);
bool hmp_info_migrate_capabilities(HmpContext *ctx, const char *args, GError **error);
bool hmp_info_migrate_parameters(HmpContext *ctx, const char *args, GError **error);

#endif
