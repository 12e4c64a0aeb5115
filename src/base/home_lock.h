/*
 * The lock of a home: what protects the state of one device, block node or connection
 * (docs/internals/threads.md).
 *
 * A HomeLock is not recursive. It knows its holder, so that an access which comes back to a device that is
 * already on the stack (a guest that points a device's DMA at its own registers) can be refused instead of
 * deadlocking. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BASE_HOME_LOCK_H
#define RHEA_BASE_HOME_LOCK_H

#include <pthread.h>
#include <stdbool.h>

typedef struct HomeLock {
    pthread_mutex_t mutex;
    const void *holder; /* an address that is unique to the holding thread; atomic */
} HomeLock;

void home_lock_init(HomeLock *lock);
void home_lock_destroy(HomeLock *lock);
/* Takes the lock; a thread that holds it already is a programming error and aborts. */
void home_lock(HomeLock *lock);
void home_unlock(HomeLock *lock);
/* Takes the lock, or returns false at once where this very thread holds it already (the access is
 * re-entrant). */
bool home_lock_enter(HomeLock *lock);
/* Whether the calling thread holds the lock. */
bool home_lock_held(const HomeLock *lock);

#endif
