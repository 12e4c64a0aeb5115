/* Trace points and the log back end. SPDX-License-Identifier: GPL-2.0-or-later */
#include "trace/trace.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

SECTION_DECLARE(rhea_trace_events, TraceEvent);

void trace_emit(const TraceEvent *event, ...)
{
    va_list ap;
    va_start(ap, event);
    g_autofree char *text = g_strdup_vprintf(event->format, ap);
    va_end(ap);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    log_write("%ld@%lld.%06ld:%s%s%s", (long)syscall(SYS_gettid), (long long)now.tv_sec, now.tv_nsec / 1000,
              event->name, *text ? " " : "", text);
}

unsigned trace_set(const char *pattern, bool on)
{
    unsigned count = 0;
    GPatternSpec *spec = g_pattern_spec_new(pattern);
    SECTION_FOREACH(rhea_trace_events, TraceEvent, it)
    {
        if (g_pattern_spec_match_string(spec, (*it)->name)) {
            __atomic_store_n(&(*it)->enabled, on, __ATOMIC_RELAXED);
            count++;
        }
    }
    g_pattern_spec_free(spec);
    return count;
}

static int compare_names(const void *a, const void *b)
{
    const TraceEvent *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

void trace_foreach(void (*fn)(TraceEvent *event, void *opaque), void *opaque)
{
    g_autoptr(GPtrArray) events = g_ptr_array_new();
    SECTION_FOREACH(rhea_trace_events, TraceEvent, it)
    {
        g_ptr_array_add(events, *it);
    }
    g_ptr_array_sort(events, compare_names);
    for (unsigned i = 0; i < events->len; i++) {
        fn(events->pdata[i], opaque);
    }
}
