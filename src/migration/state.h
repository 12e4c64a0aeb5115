/*
 * A whole machine as a stream: what it is, its memory, its clock, its CPUs and devices.
 *
 * Saving: state_collect() while the machine stands still (main loop's thread, cheap), then state_write() from
 * any thread, which takes as long as memory and the other end need. Loading is the reverse: state_read()
 * checks everything and fills memory, state_apply() gives CPUs and devices what they had.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MIGRATION_STATE_H
#define RHEA_MIGRATION_STATE_H

#include "accel/accel.h"
#include "migration/stream.h"
#include "object/object.h"

/* What of a machine is saved; borrowed, stays. */
typedef struct StateMachine {
    Object *root;
    ClockSet *clocks;
    VcpuSet *vcpus; /* NULL: has none */
    /* "key", "value", ..., NULL: what must be the same on both sides, besides memory, CPUs and devices. */
    GPtrArray *facts;
} StateMachine;

typedef struct StatePart {
    char *name, *type;
    GByteArray *bytes; /* NULL: keeps no state */
} StatePart;

/* Counted while others look at it (atomic). */
typedef struct StateProgress {
    uint64_t total, done; /* bytes of guest memory: all, and those that were looked at */
    uint64_t sent;        /* bytes of the stream so far */
    uint64_t zero_pages, normal_pages;
} StateProgress;

typedef struct SavedState {
    GPtrArray *facts;  /* of char *, in pairs */
    GPtrArray *blocks; /* of RamBlock *, counted */
    GPtrArray *names;  /* of char *: theirs */
    GPtrArray *parts;  /* of StatePart * */
    int64_t virtual_ns, host_ns;
    char *run_state; /* the one before it was stopped for saving */
} SavedState;

/* The machine as it stands; vCPUs are paused and nothing is in flight. NULL on error, which names the device
 * that cannot be saved. */
SavedState *state_collect(const StateMachine *machine, const char *run_state, GError **error);
/* For loading: what memory, facts and so on the machine here has; nothing is saved. */
SavedState *state_expect(const StateMachine *machine);
void saved_state_free(SavedState *state);

/* Writes it all, memory included. [any thread] */
bool state_write(const SavedState *state, const StreamIo *io, StateProgress *progress, GError **error);
/* Reads a whole stream into `state` (from state_expect()): refuses what is not this machine's, fills memory,
 * keeps the rest. check_only: memory stays as it is. [any thread; the machine stands still] */
bool state_read(SavedState *state, const StreamIo *io, StateProgress *progress, bool check_only,
                GError **error);
/* CPUs and devices, after a reset. On error the machine is not fit to run. */
bool state_apply(const StateMachine *machine, SavedState *state, GError **error);

#endif
