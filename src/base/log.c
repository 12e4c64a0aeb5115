/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/log.h"

#include "base/error.h"
#include "base/nearest.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

unsigned log_mask;

static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static LogSink *sink;
static void *sink_opaque;
static const char *program = "rhea";
static bool timestamps;
static FILE *log_file;

static const struct {
    const char *name;
    unsigned mask;
    const char *description;
} classes[] = {
    { "guest_errors", LOG_GUEST_ERROR, "what the guest does against a device's rules" },
    { "unimp", LOG_UNIMP, "what the guest asks for and is not modelled" },
    { "int", LOG_INT, "interrupts and exceptions" },
    { "in_asm", LOG_IN_ASM, "guest code as it is translated" },
    { "out_asm", LOG_OUT_ASM, "the same beside its host code, and at the end what ran most" },
    { "cpu_reset", LOG_CPU_RESET, "the CPU state before each reset" },
    { "mmu", LOG_MMU, "page walks and TLB flushes" },
    { "exec", LOG_EXEC, "each block before it runs" },
    { "cpu", LOG_CPU, "the CPU state before each block" },
};

void log_set_sink(LogSink *new_sink, void *opaque)
{
    pthread_mutex_lock(&sink_lock);
    sink = new_sink;
    sink_opaque = opaque;
    pthread_mutex_unlock(&sink_lock);
}

void log_set_program(const char *name)
{
    program = name;
}

void log_set_timestamps(bool on)
{
    timestamps = on;
}

static void emit(LogLevel level, const char *prefix, const char *fmt, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    pthread_mutex_lock(&sink_lock);
    if (sink) {
        sink(level, text, sink_opaque);
    } else {
        if (timestamps) {
            struct timespec now;
            clock_gettime(CLOCK_REALTIME, &now);
            struct tm tm;
            gmtime_r(&now.tv_sec, &tm);
            fprintf(stderr, "%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ ", tm.tm_year + 1900, tm.tm_mon + 1,
                    tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000);
        }
        if (level == LOG_LEVEL_HINT) {
            fprintf(stderr, "%s\n", text);
        } else {
            fprintf(stderr, "%s: %s%s\n", program, prefix, text);
        }
        fflush(stderr);
    }
    pthread_mutex_unlock(&sink_lock);
}

#define DEFINE_LOG(fn, level, prefix) \
    void fn(const char *fmt, ...)     \
    {                                 \
        va_list ap;                   \
        va_start(ap, fmt);            \
        emit(level, prefix, fmt, ap); \
        va_end(ap);                   \
    }

DEFINE_LOG(log_error, LOG_LEVEL_ERROR, "")
DEFINE_LOG(log_warning, LOG_LEVEL_WARNING, "warning: ")
DEFINE_LOG(log_info, LOG_LEVEL_INFO, "info: ")
DEFINE_LOG(log_hint, LOG_LEVEL_HINT, "")

void log_set_mask(unsigned mask)
{
    __atomic_store_n(&log_mask, mask, __ATOMIC_RELAXED);
}

bool log_set_file(const char *path, GError **error)
{
    FILE *file = NULL;
    if (path) {
        const char *percent = strstr(path, "%d");
        g_autofree char *name =
            percent ? g_strdup_printf("%.*s%d%s", (int)(percent - path), path, (int)getpid(), percent + 2)
                    : g_strdup(path);
        file = fopen(name, "we");
        if (!file) {
            return error_set_errno(error, errno, "Could not open log file '%s'", name);
        }
        setvbuf(file, NULL, _IOLBF, 0);
    }
    pthread_mutex_lock(&sink_lock);
    if (log_file) {
        fclose(log_file);
    }
    log_file = file;
    pthread_mutex_unlock(&sink_lock);
    return true;
}

bool log_parse_mask(const char *names, unsigned *mask, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(names, ",", -1);
    unsigned result = 0;
    for (char **part = parts; *part; part++) {
        bool found = strcmp(*part, "none") == 0 || **part == '\0';
        const char *known[G_N_ELEMENTS(classes) + 1] = { NULL };
        for (size_t i = 0; i < G_N_ELEMENTS(classes); i++) {
            known[i] = classes[i].name;
            if (strcmp(*part, classes[i].name) == 0) {
                result |= classes[i].mask;
                found = true;
            }
        }
        if (!found) {
            error_set(error, "Unknown log item '%s'", *part);
            nearest_hint(error, *part, known);
            return false;
        }
    }
    *mask = result;
    return true;
}

char *log_class_help(void)
{
    GString *help = g_string_new(NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(classes); i++) {
        g_string_append_printf(help, "%-16s %s\n", classes[i].name, classes[i].description);
    }
    return g_string_free(help, FALSE);
}

void log_write(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    size_t length = strlen(text);
    pthread_mutex_lock(&sink_lock);
    FILE *out = log_file ? log_file : stderr;
    fputs(text, out);
    if (!length || text[length - 1] != '\n') {
        fputc('\n', out);
    }
    pthread_mutex_unlock(&sink_lock);
}
