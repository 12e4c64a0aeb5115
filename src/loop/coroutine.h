/*
 * Coroutines: a request's code in a straight line. A coroutine runs in one loop's thread; it yields while
 * something asynchronous is under way and is entered again from there. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_LOOP_COROUTINE_H
#define RHEA_LOOP_COROUTINE_H

#include "loop/loop.h"

typedef struct Coroutine Coroutine;
typedef void CoroutineFunc(void *opaque);

/* A coroutine that is not yet running; pooled per thread. */
Coroutine *coroutine_new(CoroutineFunc *fn, void *opaque);
/* Runs it until it yields or ends; it must be in no other thread's hands. From outside or inside coroutines.
 */
void coroutine_enter(Coroutine *co);
/* Enters it from that loop, whose coroutine it is, as a completion of I/O (loop_iterate_io runs it). [any
 * thread] */
void coroutine_wake(Loop *loop, Coroutine *co);
/* Inside a coroutine only: back to whoever entered it. */
void coroutine_yield(void);
Coroutine *coroutine_self(void); /* NULL outside */
bool in_coroutine(void);

/*
 * Queues and locks between coroutines, of one loop or of several: who waits is woken in its own loop. In the
 * order of arrival.
 */
typedef struct CoQueue {
    int lock; /* a spin lock of a few instructions */
    GQueue waiting;
} CoQueue;
void co_queue_init(CoQueue *q);
void co_queue_wait(CoQueue *q);     /* yields until woken */
bool co_queue_wake_one(CoQueue *q); /* false: nobody waited */
void co_queue_wake_all(CoQueue *q);
/* Where loops share what is waited for: waits only if still(opaque), which is asked with the queue locked, so
 * that no wake-up after it is lost. Returns whether it waited. */
bool co_queue_wait_if(CoQueue *q, bool (*still)(void *opaque), void *opaque);
/* Or under the caller's mutex, which protects the queue: unlocked while it waits, and not taken again. Wake
 * it with the mutex held. */
void co_queue_wait_unlock(CoQueue *q, pthread_mutex_t *mutex);

typedef struct CoMutex {
    Coroutine *holder; /* atomic */
    CoQueue queue;
} CoMutex;
void co_mutex_init(CoMutex *m);
void co_mutex_lock(CoMutex *m);
bool co_mutex_trylock(CoMutex *m);
void co_mutex_unlock(CoMutex *m);

/* Many readers or one writer. A writer that waits keeps later readers out. Not recursive. */
typedef struct CoRwlock {
    int lock;
    int readers;
    bool writer;
    GQueue waiting;
} CoRwlock;
void co_rwlock_init(CoRwlock *l);
void co_rwlock_rdlock(CoRwlock *l);
void co_rwlock_wrlock(CoRwlock *l);
/* The only holder's side of both. */
void co_rwlock_unlock(CoRwlock *l);
/* A writer goes on as a reader, without a gap. */
void co_rwlock_downgrade(CoRwlock *l);

/* In a coroutine: waits for host I/O (see loop_submit_io) or a time of the real clock. */
ssize_t co_io(Loop *loop, LoopIoEngine engine, LoopIoOp op, int fd, const struct iovec *iov, int iov_count,
              off_t offset, off_t length, int mode);
ssize_t co_work(Loop *loop, ssize_t (*fn)(void *opaque), void *opaque);
/* The sleep also ends when somebody of this loop enters the coroutine. */
void co_sleep_ns(Loop *loop, int64_t ns);

/* In a coroutine: runs fn(opaque, 0) to fn(opaque, count - 1), each in a coroutine of its own in this loop,
 * and waits for all of them. */
void co_parallel(size_t count, void (*fn)(void *opaque, size_t index), void *opaque);

#endif
