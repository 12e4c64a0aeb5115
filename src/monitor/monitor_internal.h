/* What the files of the monitor share. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_MONITOR_MONITOR_INTERNAL_H
#define RHEA_MONITOR_MONITOR_INTERNAL_H

#include "monitor/monitor.h"
#include "qapi/qapi_commands.h"

#define MONITOR_VERSION_MAJOR 8
#define MONITOR_VERSION_MINOR 1
#define MONITOR_VERSION_MICRO 0

/* Limits of what a client may send. */
#define QMP_MAX_REQUEST_BYTES (16u << 20)
#define QMP_MAX_DEPTH         128
#define HMP_MAX_LINE          4096
#define HMP_HISTORY           64

struct MonitorSet {
    Vm *vm;
    GPtrArray *monitors; /* of Monitor *, owned */
    json_object *command_line_options;
    struct GdbStub *gdb;     /* or NULL */
    const char *const *only; /* the commands that are there; NULL: all */
};

typedef struct HmpEditor {
    GString *line;
    size_t cursor;
    GPtrArray *history; /* of char * */
    guint history_at;
    int escape; /* 0: none, 1: after ESC, 2: after ESC [ */
    unsigned escape_value;
} HmpEditor;

struct Monitor {
    MonitorSet *set;
    char *id;
    MonitorMode mode;
    ChardevFrontend fe;
    bool attached;
    bool open;
    bool pretty;

    /* QMP */
    json_tokener *tokener;
    size_t request_bytes; /* of the value that is being read */
    bool in_value;
    bool skipping; /* after garbage: up to the end of the line */
    bool negotiated, oob;
    int id_counter;

    /* HMP */
    HmpEditor edit;
    unsigned cpu_index;
    bool prompt_shown;
};

struct QmpContext {
    MonitorSet *set;
    Vm *vm;       /* NULL only in tests of the dispatcher */
    Monitor *mon; /* who asks; NULL: the program itself */
};

/* ---- monitor.c ---- */
void monitor_send_json(Monitor *mon, json_object *value);
void monitor_write(Monitor *mon, const char *text, size_t size);

/* ---- qmp.c ---- */
void qmp_monitor_init(Monitor *mon);
void qmp_monitor_free(Monitor *mon);
void qmp_monitor_opened(Monitor *mon);
void qmp_monitor_receive(Monitor *mon, const uint8_t *data, size_t size);
void qmp_monitor_event(Monitor *mon, json_object *message);
const QmpCommand *qmp_command_find(const char *name);
bool qmp_command_is_there(const MonitorSet *set, const char *name);
/* The reply to a request, or NULL where none is due. negotiated tells which commands are allowed. */
json_object *qmp_dispatch(QmpContext *ctx, json_object *request, bool negotiated, bool oob);
json_object *qmp_error_reply(const GError *error, json_object *id);

/* ---- hmp.c ---- */
void hmp_monitor_init(Monitor *mon);
void hmp_monitor_free(Monitor *mon);
void hmp_monitor_opened(Monitor *mon);
void hmp_monitor_receive(Monitor *mon, const uint8_t *data, size_t size);
/* Runs a line; what it prints goes to out. */
void hmp_run(MonitorSet *set, Monitor *mon, unsigned *cpu_index, const char *line, GString *out);

/* The vCPU of an index, or NULL with an error. */
X86Cpu *monitor_cpu(MonitorSet *set, uint64_t index, GError **error);

/* What info jit shows; the caller frees it. NULL: there is nothing to show. (hmp_info.c) */
char *monitor_info_jit(Vm *vm);

/* Reads guest-virtual memory without side effects; false where something is not mapped. The vCPU stands
 * still. */
bool monitor_read_virtual(Vm *vm, X86Cpu *cpu, uint64_t address, void *buffer, size_t size);

#endif
