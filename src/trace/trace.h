/*
 * Trace points, declared beside the code that has them:
 *
 *     TRACE_EVENT(serial_write, "addr 0x%02x val 0x%02x")          at file scope, once
 *     TRACE(serial_write, addr, val);                              where it happens
 *
 * Off, a trace point costs one load and one predictable branch. Events are found by name and glob pattern
 * (-trace serial_*, trace-event NAME on|off). The back end is the log; others will come behind the same
 * declaration. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_TRACE_TRACE_H
#define RHEA_TRACE_TRACE_H

#include "base/section.h"

#include <glib.h>
#include <stdbool.h>

typedef struct TraceEvent {
    const char *name;
    const char *format;
    bool enabled; /* read without a lock */
} TraceEvent;

#define TRACE_EVENT(event, fmt)                                                                  \
    static TraceEvent trace_event_##event = { .name = #event, .format = fmt, .enabled = false }; \
    SECTION_ENTRY(rhea_trace_events, TraceEvent, trace_event_##event);

#define TRACE(event, ...)                                    \
    do {                                                     \
        if (G_UNLIKELY(trace_event_##event.enabled)) {       \
            trace_emit(&trace_event_##event, ##__VA_ARGS__); \
        }                                                    \
    } while (0)
#define TRACE_ENABLED(event) (trace_event_##event.enabled)

void trace_emit(const TraceEvent *event, ...);

/* Switches every event whose name matches the glob pattern; returns how many there were. */
unsigned trace_set(const char *pattern, bool on);
/* Calls fn for each event, sorted by name. */
void trace_foreach(void (*fn)(TraceEvent *event, void *opaque), void *opaque);

#endif
