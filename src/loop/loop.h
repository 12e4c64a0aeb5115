/*
 * The event loop: one kind for the main thread and every I/O thread. It owns file descriptor handlers,
 * timers, bottom halves and io_uring requests. io_uring drives it where the host allows it, epoll otherwise;
 * the cost of an iteration depends on what is ready, not on what exists.
 *
 * Threads: a loop belongs to the thread that runs it. Only the functions marked [any thread] may be called
 * from elsewhere. Handlers run in the loop's thread with the HomeLock they were registered with held (NULL:
 * none), so that vCPU threads and handlers exclude each other per device (docs/internals/threads.md).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_LOOP_LOOP_H
#define RHEA_LOOP_LOOP_H

#include "base/home_lock.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef struct Loop Loop;
typedef struct LoopFd LoopFd;
typedef struct BottomHalf BottomHalf;

/* A loop for the calling program; which monitor ("io_uring", "epoll") it got is told by loop_backend().
 * backend: NULL for the best, or a name. NULL on error. */
Loop *loop_new(const char *backend, GError **error);
/* The loop must not be running and must have no handlers left that others own. */
void loop_free(Loop *loop);
const char *loop_backend(const Loop *loop);
/* Runs until loop_quit(). The calling thread becomes the loop's thread. */
void loop_run(Loop *loop);
/* One iteration: handles what is ready; blocks for it first if asked to. Returns whether anything ran. */
bool loop_iterate(Loop *loop, bool block);
void loop_quit(Loop *loop); /* [any thread] */
/* Runs only completions of host I/O (loop_submit_*), waiting for one if asked to; nothing else of the loop
 * runs, but for coroutines that wait for each other or sleep. For draining requests. Returns whether any ran.
 */
bool loop_iterate_io(Loop *loop, bool block);
/* The loop whose iteration the calling thread is in; NULL outside. */
Loop *loop_current(void);
/* For who runs coroutines outside an iteration: makes it the current one (the thread becomes the loop's) and
 * returns what was, to be put back with the same call. */
Loop *loop_make_current(Loop *loop);
/* Whether the calling thread is the one that runs (or last ran) the loop. [any thread] */
bool loop_is_current(const Loop *loop);
/* Adaptive busy polling before blocking: at most max_ns (0: off); grows by `grow` and shrinks by `shrink` (0:
 * defaults 2 and "to zero"). */
void loop_set_polling(Loop *loop, int64_t max_ns, int64_t grow, int64_t shrink);

/* ---- file descriptors (loop's thread only, or before it runs) ---- */
typedef void LoopFdHandler(void *opaque);
/* Watches fd for reading and/or writing; poll (may be NULL) looks without a system call whether there is
 * work, and is used while polling. A second call for the same fd is an error of the program. The fd stays the
 * caller's. */
LoopFd *loop_add_fd(Loop *loop, int fd, LoopFdHandler *on_read, LoopFdHandler *on_write,
                    bool (*poll)(void *opaque), void *opaque, HomeLock *lock);
/* Changes which handlers are on; NULL switches one off. */
void loop_fd_set(LoopFd *lfd, LoopFdHandler *on_read, LoopFdHandler *on_write);
/* Safe inside its own handler. */
void loop_remove_fd(LoopFd *lfd);

/* ---- event notifiers: an eventfd that any thread may ring ---- */
typedef struct EventNotifier {
    int fd; /* -1: none */
} EventNotifier;
bool event_notifier_init(EventNotifier *e, GError **error);
void event_notifier_destroy(EventNotifier *e);
void event_notifier_set(EventNotifier *e);            /* [any thread] */
bool event_notifier_test_and_clear(EventNotifier *e); /* [any thread] */

/* ---- bottom halves ---- */
typedef void BottomHalfFunc(void *opaque);
BottomHalf *bh_new(Loop *loop, BottomHalfFunc *fn, void *opaque, HomeLock *lock);
void bh_schedule(BottomHalf *bh); /* [any thread]; many calls before it runs are one */
void bh_cancel(BottomHalf *bh);   /* [any thread] */
void bh_free(BottomHalf *bh);     /* [any thread]; it will not run any more unless it is running right now */
/* Runs fn once in the loop's thread. [any thread] */
void loop_call(Loop *loop, BottomHalfFunc *fn, void *opaque);
/* The same, and waits until it has run (runs it at once in the loop's own thread). Hold no HomeLock. [any
 * thread] */
void loop_call_sync(Loop *loop, BottomHalfFunc *fn, void *opaque);

/* ---- clocks and timers ---- */
typedef enum ClockType {
    CLOCK_TYPE_REALTIME,   /* monotonic host time; runs always */
    CLOCK_TYPE_VIRTUAL,    /* guest time: runs only while the guest does */
    CLOCK_TYPE_HOST,       /* the host's wall clock; may jump */
    CLOCK_TYPE_VIRTUAL_RT, /* like REALTIME, for what must not count as guest time (warp) */
    CLOCK_TYPE_MAX,
} ClockType;

/* The clocks of one virtual machine. */
typedef struct ClockSet ClockSet;
ClockSet *clock_set_new(void); /* virtual time stands at 0 until clock_set_run(true) */
void clock_set_free(ClockSet *clocks);
int64_t clock_now_ns(const ClockSet *clocks, ClockType type); /* [any thread] */
/* Starts or stops the virtual clock and tells every loop with virtual timers. [any thread] */
void clock_set_run(ClockSet *clocks, bool running);
bool clock_set_running(const ClockSet *clocks);
/* Sets virtual time while stopped (after a state was loaded). */
void clock_set_virtual_ns(ClockSet *clocks, int64_t now_ns);

/* A timer is embedded in its owner's state (VMS_TIMER saves it). */
typedef struct Timer {
    Loop *loop;
    ClockSet *clocks;
    ClockType type;
    void (*fn)(void *opaque);
    void *opaque;
    HomeLock *lock;
    int64_t expire_ns; /* -1: not armed */
    int heap_index;    /* the loop's */
} Timer;
void timer_init(Timer *t, Loop *loop, ClockSet *clocks, ClockType type, void (*fn)(void *opaque),
                void *opaque, HomeLock *lock);
/* Arms it for an absolute time of its clock, replacing an earlier deadline. [any thread] */
void timer_set(Timer *t, int64_t expire_ns);
/* [any thread]; after it returns in the loop's thread or with the timer's lock held, fn does not run. */
void timer_cancel(Timer *t);
bool timer_pending(const Timer *t);
int64_t timer_expire_ns(const Timer *t); /* -1: not armed */
void timer_destroy(Timer *t);

/* ---- asynchronous host I/O, straight to io_uring or the thread pool ---- */
typedef void LoopIoDone(void *opaque, ssize_t result); /* result: bytes, or a negative errno */
typedef enum LoopIoOp {
    LOOP_IO_READV,
    LOOP_IO_WRITEV,
    LOOP_IO_FSYNC,
    LOOP_IO_FDATASYNC,
    LOOP_IO_FALLOCATE
} LoopIoOp;
/* Of a write: only this one is stable when it is done, without a flush of the rest of the file. */
#define LOOP_IO_STABLE 1
/* Of a write: it only copies into the page cache, as a rule; see loop_set_inline_writes. */
#define LOOP_IO_CACHED 2
typedef enum LoopIoEngine { LOOP_IO_AUTO, LOOP_IO_URING, LOOP_IO_THREADS } LoopIoEngine;
/* Submits from the loop's thread; iov must stay until done runs, in the loop's thread, with no lock held.
 * Short reads and writes are the caller's to continue. mode: fallocate's mode, for which offset and length
 * are offset and length; of a write a mask of LOOP_IO_STABLE and LOOP_IO_CACHED. */
void loop_submit_io(Loop *loop, LoopIoEngine engine, LoopIoOp op, int fd, const struct iovec *iov,
                    int iov_count, off_t offset, off_t length, int mode, LoopIoDone *done, void *opaque);
/* Runs fn in a pool thread, then done in the loop's thread with fn's result. */
void loop_submit_work(Loop *loop, ssize_t (*fn)(void *opaque), LoopIoDone *done, void *opaque);
/* Calls done with that result later, from the loop, as if it were host I/O. From the loop's thread. */
void loop_complete_later(Loop *loop, LoopIoDone *done, void *opaque, ssize_t result);
/* The same from another thread: it does not count as host I/O under way. [any thread] */
void loop_complete_from(Loop *loop, LoopIoDone *done, void *opaque, ssize_t result);
/* Limits of the loop's own share of the thread pool (thread-pool-min/max of -object iothread). */
void loop_set_thread_pool(Loop *loop, int min_threads, int max_threads);
/* Short LOOP_IO_CACHED writes are done at once, by the loop's thread: most file systems let io_uring do none
 * without a worker thread, and waking one costs more than the copy. Where the host makes a writer wait
 * (memory full of what is to be written), the loop waits once and then leaves it to workers for a while. For
 * loops whose thread has no guest to serve. */
void loop_set_inline_writes(Loop *loop, bool on);
/* How many requests may gather before they are given to the kernel at once (aio-max-batch; 0: the default).
 */
void loop_set_io_batch(Loop *loop, int max_batch);

#endif
