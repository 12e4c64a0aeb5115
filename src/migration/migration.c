/*
 * Migrations: see migration.h.
 *
 * 1. status changes in the main loop's thread only.
 * 2. The thread uses channel, state and progress; the main loop's thread touches the first two only before it
 * starts and after it has ended (but for channel_cancel).
 * 3. The thread's last act is to schedule `done`, where the main loop's thread joins it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/migration.h"

#include "base/error.h"
#include "migration/channel.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#define PACE_NS INT64_C(100000000)

struct Migration {
    MigrationHost host;
    MigrationStatus status;
    bool incoming, running, completed_once;
    Channel *channel;
    SavedState *state;
    StateProgress progress;
    GThread *thread;
    BottomHalf *done, *connected;
    GError *thread_error;
    char *error_text;
    int64_t begin_ns, active_ns, frozen_ns, end_ns;
    uint64_t bandwidth; /* atomic */
    /* the thread's, for the bandwidth */
    int64_t slice_ns;
    uint64_t slice_bytes;
};

const char *migration_status_name(MigrationStatus status)
{
    static const char *const names[] = { "none",   "setup",     "cancelling", "cancelled",
                                         "active", "completed", "failed",     "device" };
    return names[status];
}

static int64_t now_ns(void)
{
    return clock_now_ns(NULL, CLOCK_TYPE_REALTIME);
}

static void set_status(Migration *m, MigrationStatus status)
{
    if (m->status != status) {
        m->status = status;
        m->host.status_changed(m->host.opaque, status);
    }
}

/* ---- the thread ---- */

static bool paced_write(void *opaque, const void *data, size_t size, GError **error)
{
    Migration *m = opaque;
    uint64_t limit = __atomic_load_n(&m->bandwidth, __ATOMIC_RELAXED);

    if (limit) {
        uint64_t per_slice = MAX(limit / (1000000000 / PACE_NS), 1);
        int64_t now = now_ns();
        if (now - m->slice_ns >= PACE_NS) {
            m->slice_ns = now;
            m->slice_bytes = 0;
        }
        while (m->slice_bytes >= per_slice) {
            int64_t left = m->slice_ns + PACE_NS - now_ns();
            if (left > 0 && !channel_sleep_ms(m->channel, (int)(left / 1000000 + 1))) {
                return error_set(error, "migration: cancelled");
            }
            m->slice_ns = now_ns();
            m->slice_bytes -= MIN(m->slice_bytes, per_slice);
        }
        m->slice_bytes += size;
    }
    return channel_write(m->channel, data, size, error);
}

static bool plain_read(void *opaque, void *data, size_t size, GError **error)
{
    return channel_read(((Migration *)opaque)->channel, data, size, error);
}

static void *migration_thread(void *opaque)
{
    Migration *m = opaque;
    StreamIo io = { .write = paced_write, .read = plain_read, .opaque = m };
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    bool ok = channel_connect(m->channel, &m->thread_error);
    if (ok) {
        bh_schedule(m->connected);
        ok = m->incoming ? state_read(m->state, &io, &m->progress, false, &m->thread_error)
                         : state_write(m->state, &io, &m->progress, &m->thread_error);
    }
    ok = ok && channel_finish(m->channel, &m->thread_error);
    bh_schedule(m->done);
    return NULL;
}

/* ---- the main loop's side ---- */

static void on_connected(void *opaque)
{
    Migration *m = opaque;

    if (m->running && m->status == MIGRATION_SETUP) {
        m->active_ns = now_ns();
        set_status(m, MIGRATION_ACTIVE);
    }
}

static void release(Migration *m)
{
    channel_free(m->channel);
    m->channel = NULL;
    saved_state_free(m->state);
    m->state = NULL;
    m->running = false;
}

static void finish_outgoing(Migration *m, GError *error)
{
    bool cancelled = m->status == MIGRATION_CANCELLING && error;

    release(m);
    if (error) {
        m->error_text = cancelled ? NULL : error_message(error);
    }
    m->host.thaw(m->host.opaque, !error);
    m->end_ns = now_ns();
    set_status(m, cancelled ? MIGRATION_CANCELLED : error ? MIGRATION_FAILED : MIGRATION_COMPLETED);
}

static void finish_incoming(Migration *m, GError *error)
{
    GError *local = NULL;
    bool cancelled = m->status == MIGRATION_CANCELLING && error;

    if (!error && !m->host.arrive(m->host.opaque, m->state, &local)) {
        error = local;
    }
    release(m);
    m->end_ns = now_ns();
    if (error) {
        m->error_text = error_message(error);
        set_status(m, cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED);
        if (!cancelled) {
            m->host.lost(m->host.opaque, error);
        }
    } else {
        set_status(m, MIGRATION_COMPLETED);
    }
    g_clear_error(&local);
}

static void on_done(void *opaque)
{
    Migration *m = opaque;

    g_thread_join(m->thread);
    m->thread = NULL;
    g_autoptr(GError) error = g_steal_pointer(&m->thread_error);
    if (!error) {
        on_connected(m); /* both may have been scheduled at once */
    }
    if (m->incoming) {
        finish_incoming(m, error);
    } else {
        finish_outgoing(m, error);
    }
}

static void begin(Migration *m, bool incoming)
{
    m->incoming = incoming;
    m->running = true;
    g_clear_pointer(&m->error_text, g_free);
    memset(&m->progress, 0, sizeof(m->progress));
    m->begin_ns = now_ns();
    m->active_ns = m->frozen_ns = m->end_ns = 0;
    m->slice_ns = 0;
    m->slice_bytes = 0;
}

bool migration_start(Migration *m, const char *uri, GError **error)
{
    if (m->running) {
        return error_set(error, "There's a migration process in progress");
    }
    Channel *channel = channel_open(uri, false, m->host.fds, error);
    if (!channel) {
        return false;
    }
    begin(m, false);
    set_status(m, MIGRATION_SETUP);
    m->frozen_ns = now_ns();
    m->state = m->host.freeze(m->host.opaque, error);
    if (!m->state) {
        m->running = false;
        channel_free(channel);
        m->error_text = error && *error ? error_message(*error) : NULL;
        set_status(m, MIGRATION_FAILED);
        return false;
    }
    m->channel = channel;
    m->thread = g_thread_new("migration", migration_thread, m);
    return true;
}

bool migration_listen(Migration *m, const char *uri, GError **error)
{
    if (m->running) {
        return error_set(error, "There's a migration process in progress");
    }
    Channel *channel = channel_open(uri, true, m->host.fds, error);
    if (!channel) {
        return false;
    }
    begin(m, true);
    m->channel = channel;
    m->state = m->host.expect(m->host.opaque);
    set_status(m, MIGRATION_SETUP);
    m->thread = g_thread_new("migration", migration_thread, m);
    return true;
}

void migration_cancel(Migration *m)
{
    if (m->running && !m->incoming) {
        set_status(m, MIGRATION_CANCELLING);
        channel_cancel(m->channel);
    }
}

bool migration_busy(const Migration *m)
{
    return m->running;
}

char *migration_listening(const Migration *m)
{
    return m->running && m->incoming ? channel_listening(m->channel) : NULL;
}

void migration_set_bandwidth(Migration *m, uint64_t bytes_per_s)
{
    __atomic_store_n(&m->bandwidth, bytes_per_s, __ATOMIC_RELAXED);
}

uint64_t migration_bandwidth(const Migration *m)
{
    return m->bandwidth;
}

void migration_info(const Migration *m, MigrationInfo *info)
{
    int64_t end = m->end_ns ? m->end_ns : now_ns();

    *info = (MigrationInfo){ .status = m->status, .incoming = m->incoming, .error = m->error_text };
    if (m->begin_ns) {
        info->total_ms = (end - m->begin_ns) / 1000000;
        info->setup_ms = m->active_ns ? (m->active_ns - m->begin_ns) / 1000000 : 0;
        info->downtime_ms = m->frozen_ns ? (end - m->frozen_ns) / 1000000 : 0;
    }
    info->progress.total = __atomic_load_n(&m->progress.total, __ATOMIC_RELAXED);
    info->progress.done = __atomic_load_n(&m->progress.done, __ATOMIC_RELAXED);
    info->progress.sent = __atomic_load_n(&m->progress.sent, __ATOMIC_RELAXED);
    info->progress.zero_pages = __atomic_load_n(&m->progress.zero_pages, __ATOMIC_RELAXED);
    info->progress.normal_pages = __atomic_load_n(&m->progress.normal_pages, __ATOMIC_RELAXED);
}

Migration *migration_new(const MigrationHost *host)
{
    Migration *m = g_new0(Migration, 1);

    m->host = *host;
    m->done = bh_new(host->loop, on_done, m, NULL);
    m->connected = bh_new(host->loop, on_connected, m, NULL);
    return m;
}

void migration_free(Migration *m)
{
    if (!m) {
        return;
    }
    if (m->thread) {
        channel_cancel(m->channel);
        g_thread_join(m->thread);
    }
    g_clear_error(&m->thread_error);
    release(m);
    bh_free(m->done);
    bh_free(m->connected);
    g_free(m->error_text);
    g_free(m);
}
