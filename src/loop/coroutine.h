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
/* Enters it from a bottom half of that loop. [any thread] */
void coroutine_wake(Loop *loop, Coroutine *co);
/* Inside a coroutine only: back to whoever entered it. */
void coroutine_yield(void);
Coroutine *coroutine_self(void); /* NULL outside */
bool in_coroutine(void);

typedef struct CoQueue {
    GQueue waiting;
} CoQueue;
void co_queue_init(CoQueue *q);
void co_queue_wait(CoQueue *q);     /* yields until woken */
bool co_queue_wake_one(CoQueue *q); /* false: nobody waited */
void co_queue_wake_all(CoQueue *q);

/* Between coroutines of one loop. */
typedef struct CoMutex {
    Coroutine *holder;
    CoQueue queue;
} CoMutex;
void co_mutex_init(CoMutex *m);
void co_mutex_lock(CoMutex *m);
void co_mutex_unlock(CoMutex *m);

/* In a coroutine: waits for host I/O (see loop_submit_io) or a time of the real clock. */
ssize_t co_io(Loop *loop, LoopIoEngine engine, LoopIoOp op, int fd, const struct iovec *iov, int iov_count,
              off_t offset, off_t length, int mode);
ssize_t co_work(Loop *loop, ssize_t (*fn)(void *opaque), void *opaque);
void co_sleep_ns(Loop *loop, int64_t ns);

#endif
