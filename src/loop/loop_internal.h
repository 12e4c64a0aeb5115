/*
 * The inside of a loop, shared by the files of this folder.
 *
 * Invariants:
 *  1. `bh_head` and `io_head` are stacks that any thread pushes to and only the loop's thread takes (whole,
 * by exchange).
 *  2. A producer pushes, then looks at `sleeping`; the loop sets `sleeping`, then looks at the stacks. Both
 * with sequential consistency, so that at least one of them sees the other: no wake-up is lost, and none is
 * paid for while the loop is awake.
 *  3. Monitors only collect: ready descriptors go to `ready`, finished I/O to `io_done`. Handlers run in
 * loop.c.
 *  4. A LoopFd is freed only when it is off every list and no request of the kernel names it.
 *  5. `timer_lock` protects all heaps and each Timer's fields; it is never held while a handler runs, and it
 * is below every HomeLock. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_LOOP_LOOP_INTERNAL_H
#define RHEA_LOOP_LOOP_INTERNAL_H

#include "loop/loop.h"

enum { LOOP_READ = 1, LOOP_WRITE = 2 };

struct LoopFd {
    Loop *loop;
    int fd;
    LoopFdHandler *on_read, *on_write;
    bool (*poll)(void *opaque);
    void *opaque;
    HomeLock *lock;
    LoopFd *next, *prev; /* all of the loop */
    LoopFd *ready_next;  /* on `ready` */
    LoopFd *arm_next;    /* on the monitor's list of those to look at before it waits */
    int64_t poll_hit_ns; /* when it last had work: idle ones leave the polled set */
    uint8_t ready;       /* events not yet handled */
    uint8_t armed;       /* io_uring: requests under way; epoll: what it watches */
    bool on_ready, on_arm, polled;
    bool removed, dispatching;
    bool always_ready; /* a regular file: epoll refuses it, and it never waits */
    bool in_set;       /* epoll knows it */
};

typedef struct LoopIo LoopIo;
struct LoopIo {
    LoopIo *next;
    LoopIoDone *done;
    void *opaque;
    ssize_t result;
    LoopIoOp op;
    int fd;
    const struct iovec *iov;
    int iov_count;
    off_t offset, length;
    int mode;
    ssize_t (*work)(void *opaque); /* of loop_submit_work; then op means nothing */
    Loop *loop;
    bool from_outside; /* not counted in io_in_flight */
};

/* A coroutine in co_sleep_ns: on the loop's list, so that loop_iterate_io sees it too. */
typedef struct LoopSleeper LoopSleeper;
struct LoopSleeper {
    LoopSleeper *next, *prev;
    Timer timer;
    int64_t until_ns;
};

typedef struct TimerList {
    ClockSet *clocks;
    ClockType type;
    GPtrArray *heap;
    int64_t slept_until; /* the deadline that the loop took into account when it went to sleep */
} TimerList;

typedef struct LoopMonitor {
    const char *name;
    bool (*init)(Loop *loop, GError **error);
    void (*destroy)(Loop *loop);
    void (*changed)(LoopFd *lfd); /* handlers were switched, or it was handled and wants watching again */
    void (*removed)(LoopFd *lfd);
    void (*wait)(Loop *loop, int64_t timeout_ns); /* -1: for ever; 0: only look */
    void (*wait_io)(Loop *loop);                  /* for finished I/O or a wake-up only */
    bool (*has_ready)(Loop *loop);                /* without a system call */
    bool (*submit)(Loop *loop, LoopIo *io);       /* false: use the thread pool. NULL: always */
} LoopMonitor;

typedef struct ThreadPool ThreadPool;

struct Loop {
    const LoopMonitor *monitor;
    void *monitor_data;
    const void *owner; /* the running thread's mark; atomic */
    int wake_fd;
    int sleeping;           /* atomic */
    int quit;               /* atomic */
    BottomHalf *bh_head;    /* atomic stack */
    BottomHalf *bh_running; /* atomic */
    LoopIo *io_head;        /* atomic stack: finished in other threads */
    LoopIo *io_done, **io_done_tail;
    unsigned io_in_flight; /* the loop's thread only */
    LoopSleeper *sleepers; /* the loop's thread only */
    LoopFd *fds;
    LoopFd *ready, **ready_tail;
    pthread_mutex_t timer_lock;
    pthread_cond_t timer_idle;
    GPtrArray *timer_lists; /* of TimerList * */
    Timer *timer_firing;
    bool timer_firing_cancelled;
    int64_t poll_max_ns, poll_grow, poll_shrink, poll_ns;
    GPtrArray *polled; /* of LoopFd * */
    ThreadPool *pool;
    int pool_min, pool_max;
    int io_max_batch;
    bool inline_writes;
    int64_t no_inline_until_ns;
    bool slack_set;
};

extern const LoopMonitor loop_monitor_uring, loop_monitor_epoll;

void loop_wake(Loop *loop); /* [any thread] */
void loop_fd_ready(LoopFd *lfd, uint8_t events);
void loop_fd_maybe_free(LoopFd *lfd);
void loop_io_finished(LoopIo *io, ssize_t result); /* in the loop's thread: queues its done */
int64_t monotonic_ns(void);

/* timer.c */
void loop_timers_init(Loop *loop);
void loop_timers_destroy(Loop *loop);
/* ns until the next deadline, -1: none; notes what it said (slept_until). */
int64_t loop_timers_timeout(Loop *loop);
bool loop_timers_run(Loop *loop);

/* thread_pool.c */
ThreadPool *thread_pool_new(int min_threads, int max_threads);
void thread_pool_set_limits(ThreadPool *pool, int min_threads, int max_threads);
/* Runs io->work, or io's host call, in a thread, then gives it back through io_head. */
void thread_pool_submit(ThreadPool *pool, LoopIo *io);
/* Waits for the threads; what is queued is done first. */
void thread_pool_free(ThreadPool *pool);
ssize_t loop_io_run(LoopIo *io);

#endif
