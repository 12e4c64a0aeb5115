/*
 * Migrations: a machine's state on its way out or in, in a thread of its own, with its status as
 * query-migrate shows it. What only the virtual machine can do (stop, its disks, its run state) is asked of
 * it through MigrationHost, so that this folder knows no VM.
 *
 * Threads: main loop's, but where noted. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MIGRATION_MIGRATION_H
#define RHEA_MIGRATION_MIGRATION_H

#include "migration/state.h"

#include "io/fd_table.h"

typedef struct Migration Migration;

/* QEMU's MigrationStatus, those that there are here. */
typedef enum MigrationStatus {
    MIGRATION_NONE,
    MIGRATION_SETUP,
    MIGRATION_CANCELLING,
    MIGRATION_CANCELLED,
    MIGRATION_ACTIVE,
    MIGRATION_COMPLETED,
    MIGRATION_FAILED,
    MIGRATION_DEVICE,
} MigrationStatus;

typedef struct MigrationHost {
    Loop *loop;
    FdTable *fds;
    void *opaque;
    /* Outgoing: stops the machine, ends what is in flight, gives its disks up, and collects. NULL on error;
     * then it goes on as it was. */
    SavedState *(*freeze)(void *opaque, GError **error);
    /* The state has left (true: it is the other side's now), or the machine goes on as it was. */
    void (*thaw)(void *opaque, bool completed);
    /* Incoming: what the stream must fit; then what to do with it. */
    SavedState *(*expect)(void *opaque);
    bool (*arrive)(void *opaque, SavedState *state, GError **error);
    /* No state has come, or none that fits. */
    void (*lost)(void *opaque, const GError *error);
    void (*status_changed)(void *opaque, MigrationStatus status);
} MigrationHost;

typedef struct MigrationInfo {
    MigrationStatus status;
    bool incoming;
    int64_t total_ms, setup_ms, downtime_ms;
    StateProgress progress;
    const char *error; /* borrowed, until the next migration; or NULL */
} MigrationInfo;

Migration *migration_new(const MigrationHost *host); /* host is copied */
void migration_free(Migration *m);                   /* ends what is under way */

/* Begins to send the machine to a channel (channel.h); *status tells the rest. */
bool migration_start(Migration *m, const char *uri, GError **error);
/* Waits for a machine. */
bool migration_listen(Migration *m, const char *uri, GError **error);
void migration_cancel(Migration *m);
bool migration_busy(const Migration *m);
void migration_info(const Migration *m, MigrationInfo *info);
const char *migration_status_name(MigrationStatus status);
/* Where an incoming migration is listened for, or NULL. Caller frees. */
char *migration_listening(const Migration *m);
/* Bytes a second at most; 0: no limit. */
void migration_set_bandwidth(Migration *m, uint64_t bytes_per_s);
uint64_t migration_bandwidth(const Migration *m);

#endif
