/*
 * The log sink: where messages for the user, and about what a guest did wrong, go.
 * The default sink writes to stderr; the monitor and the command line may install their own.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BASE_LOG_H
#define RHEA_BASE_LOG_H

#include <glib.h>
#include <stdbool.h>

typedef enum LogLevel { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_HINT } LogLevel;

/* Called with one complete line without its newline; from any thread, one at a time. */
typedef void LogSink(LogLevel level, const char *line, void *opaque);

void log_set_sink(LogSink *sink, void *opaque); /* NULL: back to stderr */
void log_set_program(const char *name);         /* the "NAME: " before messages; borrowed, must stay */
void log_set_timestamps(bool on);               /* -msg timestamp=on */

void log_error(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
void log_warning(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
void log_info(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
void log_hint(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/* What a guest did wrong or what is not modelled (-d guest_errors, -d unimp): off unless asked for, and never
 * more than one predictable branch when off. The classes form a mask. */
typedef enum LogClass {
    LOG_GUEST_ERROR = 1u << 0, /* -d guest_errors */
    LOG_UNIMP = 1u << 1,       /* -d unimp */
    LOG_INT = 1u << 2,         /* -d int: interrupts and exceptions */
    LOG_IN_ASM = 1u << 3,      /* -d in_asm: guest code as it is decoded */
    LOG_CPU_RESET = 1u << 4,   /* -d cpu_reset */
    LOG_MMU = 1u << 5,         /* -d mmu */
    LOG_EXEC = 1u << 6,        /* -d exec */
    LOG_CPU = 1u << 7,         /* -d cpu */
    LOG_OUT_ASM = 1u << 9,     /* -d out_asm: host code made of it */
    LOG_TRACE = 1u << 8,       /* trace points of the log back end */
} LogClass;

extern unsigned log_mask; /* read directly by LOG(); set with log_set_mask() */
void log_set_mask(unsigned mask);
/* Where LOG() lines go: a file name (%d becomes the pid), or NULL for stderr. */
bool log_set_file(const char *path, GError **error);
/* Parses "guest_errors,unimp,..." into a mask. An unknown name is an error that names the nearest one. */
bool log_parse_mask(const char *names, unsigned *mask, GError **error);
/* One "name  description" line per class, for -d help. Caller frees. */
char *log_class_help(void);
void log_write(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

#define LOG(log_class, ...)                       \
    do {                                          \
        if (G_UNLIKELY(log_mask & (log_class))) { \
            log_write(__VA_ARGS__);               \
        }                                         \
    } while (0)

#endif
