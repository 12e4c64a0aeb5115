/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/home_lock.h"

#include <glib.h>

static __thread char thread_mark;

void home_lock_init(HomeLock *lock)
{
    pthread_mutex_init(&lock->mutex, NULL);
    lock->holder = NULL;
}

void home_lock_destroy(HomeLock *lock)
{
    pthread_mutex_destroy(&lock->mutex);
}

bool home_lock_held(const HomeLock *lock)
{
    return __atomic_load_n(&lock->holder, __ATOMIC_RELAXED) == &thread_mark;
}

bool home_lock_enter(HomeLock *lock)
{
    if (home_lock_held(lock)) {
        return false;
    }
    pthread_mutex_lock(&lock->mutex);
    __atomic_store_n(&lock->holder, &thread_mark, __ATOMIC_RELAXED);
    return true;
}

void home_lock(HomeLock *lock)
{
    if (!home_lock_enter(lock)) {
        g_error("home lock %p taken twice by one thread", (void *)lock);
    }
}

void home_unlock(HomeLock *lock)
{
    __atomic_store_n(&lock->holder, NULL, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lock->mutex);
}
