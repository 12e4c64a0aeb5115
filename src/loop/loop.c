/*
 * The loop itself: descriptors, bottom halves, polling, and one iteration. See loop_internal.h for its
 * invariants. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "loop/loop_internal.h"

#include "base/error.h"
#include "rhea_config.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define POLL_START_NS   4000
#define POLL_IDLE_NS    (100 * 1000 * 1000) /* a source without work for so long is no longer polled */
#define READY_PER_ROUND 1024
#define IO_PER_ROUND    4096

static __thread char thread_mark;
static __thread Loop *current_loop;

int64_t monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* ---- life ---- */

Loop *loop_new(const char *backend, GError **error)
{
    static const LoopMonitor *const monitors[] = {
#ifdef CONFIG_IO_URING
        &loop_monitor_uring,
#endif
        &loop_monitor_epoll,
    };
    Loop *loop = g_new0(Loop, 1);
    bool known = false;

    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0) {
        error_set_errno(error, errno, "Cannot make an event loop: eventfd");
        g_free(loop);
        return NULL;
    }
    loop->owner = &thread_mark;
    loop->io_done_tail = &loop->io_done;
    loop->ready_tail = &loop->ready;
    loop->polled = g_ptr_array_new();
    loop->pool_max = 64;
    loop->io_max_batch = 32;
    loop->poll_grow = 2;
    loop_timers_init(loop);
    for (size_t i = 0; i < G_N_ELEMENTS(monitors) && !loop->monitor; i++) {
        g_autoptr(GError) local = NULL;

        if (backend && strcmp(backend, monitors[i]->name) != 0) {
            continue;
        }
        known = true;
        loop->monitor = monitors[i];
        if (!monitors[i]->init(loop, &local)) {
            loop->monitor = NULL;
            if (backend || i == G_N_ELEMENTS(monitors) - 1) {
                g_propagate_error(error, g_steal_pointer(&local));
                known = true;
                break;
            }
        }
    }
    if (!loop->monitor) {
        if (!known) {
            error_set(error, "Unknown event loop back end '%s'", backend);
        }
        loop_timers_destroy(loop);
        g_ptr_array_unref(loop->polled);
        close(loop->wake_fd);
        g_free(loop);
        return NULL;
    }
    return loop;
}

static BottomHalf *bh_take_all(Loop *loop);
static void bh_dispose(BottomHalf *bh);
static BottomHalf *bh_next(BottomHalf *bh);

void loop_free(Loop *loop)
{
    if (!loop) {
        return;
    }
    if (loop->pool) {
        thread_pool_free(loop->pool);
    }
    while (loop->io_in_flight) { /* what the kernel still has must not outlive its buffers */
        loop_iterate_io(loop, true);
    }
    loop->monitor->destroy(loop);
    for (BottomHalf *bh = bh_take_all(loop); bh;) {
        BottomHalf *next = bh_next(bh);

        bh_dispose(bh);
        bh = next;
    }
    while (loop->fds) {
        LoopFd *lfd = loop->fds;

        loop->fds = lfd->next;
        g_free(lfd);
    }
    loop_timers_destroy(loop);
    g_ptr_array_unref(loop->polled);
    close(loop->wake_fd);
    if (current_loop == loop) {
        current_loop = NULL;
    }
    g_free(loop);
}

const char *loop_backend(const Loop *loop)
{
    return loop->monitor->name;
}

bool loop_is_current(const Loop *loop)
{
    return __atomic_load_n(&loop->owner, __ATOMIC_ACQUIRE) == &thread_mark;
}

Loop *loop_current(void)
{
    return current_loop;
}

Loop *loop_make_current(Loop *loop)
{
    Loop *outer = current_loop;

    if (loop) {
        __atomic_store_n(&loop->owner, &thread_mark, __ATOMIC_RELEASE);
    }
    current_loop = loop;
    return outer;
}

void loop_set_polling(Loop *loop, int64_t max_ns, int64_t grow, int64_t shrink)
{
    __atomic_store_n(&loop->poll_max_ns, MAX(max_ns, 0), __ATOMIC_RELAXED);
    __atomic_store_n(&loop->poll_grow, grow > 1 ? grow : 2, __ATOMIC_RELAXED);
    __atomic_store_n(&loop->poll_shrink, MAX(shrink, 0), __ATOMIC_RELAXED);
}

void loop_set_io_batch(Loop *loop, int max_batch)
{
    __atomic_store_n(&loop->io_max_batch, max_batch > 0 ? max_batch : 32, __ATOMIC_RELAXED);
}

void loop_wake(Loop *loop)
{
    if (__atomic_load_n(&loop->sleeping, __ATOMIC_SEQ_CST) &&
        __atomic_exchange_n(&loop->sleeping, 0, __ATOMIC_SEQ_CST)) {
        uint64_t one = 1;
        ssize_t n = write(loop->wake_fd, &one, sizeof(one));

        (void)n; /* a full counter wakes just as well */
    }
}

void loop_quit(Loop *loop)
{
    __atomic_store_n(&loop->quit, 1, __ATOMIC_SEQ_CST);
    loop_wake(loop);
}

/* ---- file descriptors ---- */

LoopFd *loop_add_fd(Loop *loop, int fd, LoopFdHandler *on_read, LoopFdHandler *on_write,
                    bool (*poll)(void *opaque), void *opaque, HomeLock *lock)
{
    LoopFd *lfd = g_new0(LoopFd, 1);

    g_assert(fd >= 0);
    lfd->loop = loop;
    lfd->fd = fd;
    lfd->on_read = on_read;
    lfd->on_write = on_write;
    lfd->poll = poll;
    lfd->opaque = opaque;
    lfd->lock = lock;
    lfd->next = loop->fds;
    if (lfd->next) {
        lfd->next->prev = lfd;
    }
    loop->fds = lfd;
    loop->monitor->changed(lfd);
    return lfd;
}

void loop_fd_set(LoopFd *lfd, LoopFdHandler *on_read, LoopFdHandler *on_write)
{
    if (lfd->on_read == on_read && lfd->on_write == on_write) {
        return;
    }
    lfd->on_read = on_read;
    lfd->on_write = on_write;
    lfd->loop->monitor->changed(lfd);
}

void loop_fd_maybe_free(LoopFd *lfd)
{
    if (!lfd->removed || lfd->armed || lfd->on_ready || lfd->on_arm || lfd->dispatching) {
        return;
    }
    if (lfd->next) {
        lfd->next->prev = lfd->prev;
    }
    if (lfd->prev) {
        lfd->prev->next = lfd->next;
    } else {
        lfd->loop->fds = lfd->next;
    }
    g_free(lfd);
}

void loop_remove_fd(LoopFd *lfd)
{
    if (!lfd) {
        return;
    }
    lfd->removed = true;
    lfd->on_read = lfd->on_write = NULL;
    if (lfd->polled) {
        g_ptr_array_remove_fast(lfd->loop->polled, lfd);
        lfd->polled = false;
    }
    lfd->loop->monitor->removed(lfd);
    loop_fd_maybe_free(lfd);
}

void loop_fd_ready(LoopFd *lfd, uint8_t events)
{
    lfd->ready |= events;
    if (!lfd->on_ready) {
        Loop *loop = lfd->loop;

        lfd->on_ready = true;
        lfd->ready_next = NULL;
        *loop->ready_tail = lfd;
        loop->ready_tail = &lfd->ready_next;
    }
}

static bool dispatch_fds(Loop *loop)
{
    bool progress = false;

    for (int n = 0; loop->ready && n < READY_PER_ROUND; n++) {
        LoopFd *lfd = loop->ready;
        HomeLock *lock = lfd->lock;
        uint8_t events = lfd->ready;

        loop->ready = lfd->ready_next;
        if (!loop->ready) {
            loop->ready_tail = &loop->ready;
        }
        lfd->on_ready = false;
        lfd->ready = 0;
        lfd->dispatching = true;
        if (lock && !lfd->removed) {
            home_lock(lock);
        } else {
            lock = NULL;
        }
        if ((events & LOOP_READ) && lfd->on_read) {
            progress = true;
            lfd->on_read(lfd->opaque);
        }
        if ((events & LOOP_WRITE) && lfd->on_write) {
            progress = true;
            lfd->on_write(lfd->opaque);
        }
        if (lock) {
            home_unlock(lock);
        }
        lfd->dispatching = false;
        if (lfd->removed) {
            loop_fd_maybe_free(lfd);
            continue;
        }
        if (lfd->poll) {
            lfd->poll_hit_ns = monotonic_ns();
            if (!lfd->polled && __atomic_load_n(&loop->poll_max_ns, __ATOMIC_RELAXED)) {
                lfd->polled = true;
                g_ptr_array_add(loop->polled, lfd);
            }
        }
        loop->monitor->changed(lfd);
    }
    return progress;
}

/* ---- event notifiers ---- */

bool event_notifier_init(EventNotifier *e, GError **error)
{
    e->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return e->fd >= 0 || error_set_errno(error, errno, "eventfd");
}

void event_notifier_destroy(EventNotifier *e)
{
    if (e->fd >= 0) {
        close(e->fd);
        e->fd = -1;
    }
}

void event_notifier_set(EventNotifier *e)
{
    uint64_t one = 1;
    ssize_t n;

    do {
        n = write(e->fd, &one, sizeof(one));
    } while (n < 0 && errno == EINTR);
}

bool event_notifier_test_and_clear(EventNotifier *e)
{
    uint64_t value;
    ssize_t n;

    do {
        n = read(e->fd, &value, sizeof(value));
    } while (n < 0 && errno == EINTR);
    return n == sizeof(value);
}

/* ---- bottom halves ---- */

enum { BH_QUEUED = 1, BH_SCHEDULED = 2, BH_DELETED = 4, BH_ONE_SHOT = 8 };

struct BottomHalf {
    Loop *loop;
    BottomHalfFunc *fn;
    void *opaque;
    HomeLock *lock;
    BottomHalf *next;
    unsigned flags; /* atomic */
};

BottomHalf *bh_new(Loop *loop, BottomHalfFunc *fn, void *opaque, HomeLock *lock)
{
    BottomHalf *bh = g_new0(BottomHalf, 1);

    bh->loop = loop;
    bh->fn = fn;
    bh->opaque = opaque;
    bh->lock = lock;
    return bh;
}

static void bh_push(Loop *loop, BottomHalf *bh)
{
    bh->next = __atomic_load_n(&loop->bh_head, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&loop->bh_head, &bh->next, bh, true, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED)) {}
    loop_wake(loop);
}

static void bh_queue(BottomHalf *bh, unsigned flags)
{
    Loop *loop = bh->loop; /* after the push the bottom half may be gone */

    if (!(__atomic_fetch_or(&bh->flags, flags | BH_QUEUED, __ATOMIC_SEQ_CST) & BH_QUEUED)) {
        bh_push(loop, bh);
    }
}

void bh_schedule(BottomHalf *bh)
{
    bh_queue(bh, BH_SCHEDULED);
}

void bh_cancel(BottomHalf *bh)
{
    __atomic_fetch_and(&bh->flags, ~BH_SCHEDULED, __ATOMIC_SEQ_CST);
}

void bh_free(BottomHalf *bh)
{
    Loop *loop;
    bool may_wait, queued;

    if (!bh) {
        return;
    }
    loop = bh->loop;
    /* Its owner, and the lock with it, may go away next: let a run that has begun come to its end. */
    may_wait = !loop_is_current(loop) && !(bh->lock && home_lock_held(bh->lock));
    /* If it was queued, the loop frees it when it takes it off; it must then not be touched here any more. */
    queued = __atomic_fetch_or(&bh->flags, BH_DELETED | BH_QUEUED, __ATOMIC_SEQ_CST) & BH_QUEUED;
    if (may_wait) {
        while (__atomic_load_n(&loop->bh_running, __ATOMIC_SEQ_CST) == bh) {
            sched_yield();
        }
    }
    if (!queued) {
        bh_push(loop, bh);
    }
}

void loop_call(Loop *loop, BottomHalfFunc *fn, void *opaque)
{
    BottomHalf *bh = bh_new(loop, fn, opaque, NULL);

    bh_queue(bh, BH_SCHEDULED | BH_ONE_SHOT);
}

typedef struct SyncCall {
    BottomHalfFunc *fn;
    void *opaque;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool done;
} SyncCall;

static void run_sync_call(void *opaque)
{
    SyncCall *call = opaque;

    call->fn(call->opaque);
    pthread_mutex_lock(&call->mutex);
    call->done = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->mutex);
}

void loop_call_sync(Loop *loop, BottomHalfFunc *fn, void *opaque)
{
    SyncCall call = { .fn = fn, .opaque = opaque };

    if (loop_is_current(loop)) {
        fn(opaque);
        return;
    }
    pthread_mutex_init(&call.mutex, NULL);
    pthread_cond_init(&call.cond, NULL);
    loop_call(loop, run_sync_call, &call);
    pthread_mutex_lock(&call.mutex);
    while (!call.done) {
        pthread_cond_wait(&call.cond, &call.mutex);
    }
    pthread_mutex_unlock(&call.mutex);
    pthread_cond_destroy(&call.cond);
    pthread_mutex_destroy(&call.mutex);
}

static BottomHalf *bh_take_all(Loop *loop)
{
    BottomHalf *stack = __atomic_exchange_n(&loop->bh_head, NULL, __ATOMIC_SEQ_CST);
    BottomHalf *list = NULL;

    while (stack) { /* oldest first */
        BottomHalf *next = stack->next;

        stack->next = list;
        list = stack;
        stack = next;
    }
    return list;
}

static BottomHalf *bh_next(BottomHalf *bh)
{
    return bh->next;
}

static void bh_dispose(BottomHalf *bh)
{
    if (__atomic_load_n(&bh->flags, __ATOMIC_SEQ_CST) & (BH_DELETED | BH_ONE_SHOT)) {
        g_free(bh);
    } else { /* its owner still has it */
        __atomic_fetch_and(&bh->flags, ~(BH_QUEUED | BH_SCHEDULED), __ATOMIC_SEQ_CST);
    }
}

static bool run_bhs(Loop *loop)
{
    bool progress = false;

    if (!__atomic_load_n(&loop->bh_head, __ATOMIC_RELAXED)) {
        return false;
    }
    for (BottomHalf *bh = bh_take_all(loop); bh;) {
        BottomHalf *next = bh->next;
        HomeLock *lock;
        unsigned flags;

        __atomic_store_n(&loop->bh_running, bh, __ATOMIC_SEQ_CST);
        flags = __atomic_load_n(&bh->flags, __ATOMIC_SEQ_CST);
        if (flags & BH_DELETED) {
            __atomic_store_n(&loop->bh_running, NULL, __ATOMIC_SEQ_CST);
            g_free(bh);
            bh = next;
            continue;
        }
        lock = bh->lock;
        if (lock) {
            home_lock(lock);
        }
        flags = __atomic_fetch_and(&bh->flags, ~(BH_QUEUED | BH_SCHEDULED), __ATOMIC_SEQ_CST);
        if ((flags & BH_SCHEDULED) && !(flags & BH_DELETED)) {
            progress = true;
            bh->fn(bh->opaque);
        }
        if (lock) {
            home_unlock(lock);
        }
        if (flags & (BH_ONE_SHOT | BH_DELETED)) { /* DELETED: between our two looks, while it was queued */
            g_free(bh);
        }
        __atomic_store_n(&loop->bh_running, NULL, __ATOMIC_SEQ_CST);
        bh = next;
    }
    return progress;
}

/* ---- finished I/O ---- */

void loop_io_finished(LoopIo *io, ssize_t result)
{
    Loop *loop = io->loop;

    io->result = result;
    io->next = NULL;
    *loop->io_done_tail = io;
    loop->io_done_tail = &io->next;
}

static void collect_io(Loop *loop)
{
    LoopIo *stack, *list = NULL;

    if (!__atomic_load_n(&loop->io_head, __ATOMIC_RELAXED)) {
        return;
    }
    stack = __atomic_exchange_n(&loop->io_head, NULL, __ATOMIC_SEQ_CST);
    while (stack) {
        LoopIo *next = stack->next;

        stack->next = list;
        list = stack;
        stack = next;
    }
    while (list) {
        LoopIo *next = list->next;

        loop_io_finished(list, list->result);
        list = next;
    }
}

static bool run_io_done(Loop *loop)
{
    bool progress = false;

    collect_io(loop);
    for (int n = 0; loop->io_done && n < IO_PER_ROUND; n++) { /* a done may submit what is done at once */
        LoopIo *io = loop->io_done;
        LoopIoDone *done = io->done;
        void *opaque = io->opaque;
        ssize_t result = io->result;

        loop->io_done = io->next;
        if (!loop->io_done) {
            loop->io_done_tail = &loop->io_done;
        }
        loop->io_in_flight -= !io->from_outside;
        g_slice_free(LoopIo, io);
        progress = true;
        done(opaque, result);
    }
    return progress;
}

/* ---- one iteration ---- */

static bool has_work(Loop *loop)
{
    return __atomic_load_n(&loop->bh_head, __ATOMIC_SEQ_CST) ||
           __atomic_load_n(&loop->io_head, __ATOMIC_SEQ_CST) || loop->ready || loop->io_done ||
           __atomic_load_n(&loop->quit, __ATOMIC_SEQ_CST);
}

/* Asks the polled sources; those with work become ready. */
static bool poll_sources(Loop *loop, int64_t now_ns)
{
    bool found = false;

    for (guint i = 0; i < loop->polled->len;) {
        LoopFd *lfd = g_ptr_array_index(loop->polled, i);
        bool work = false;

        if (lfd->on_read) {
            if (lfd->lock) {
                home_lock(lfd->lock);
            }
            work = lfd->poll(lfd->opaque);
            if (lfd->lock) {
                home_unlock(lfd->lock);
            }
        }
        if (work) {
            found = true;
            loop_fd_ready(lfd, LOOP_READ);
        } else if (now_ns - lfd->poll_hit_ns > POLL_IDLE_NS) {
            lfd->polled = false;
            g_ptr_array_remove_index_fast(loop->polled, i);
            continue;
        }
        i++;
    }
    return found;
}

/* Spins for up to poll_ns; true: there is work. */
static bool poll_for_work(Loop *loop, int64_t limit_ns)
{
    int64_t start_ns = monotonic_ns(), now_ns = start_ns;

    do {
        if (has_work(loop) || loop->monitor->has_ready(loop) || poll_sources(loop, now_ns)) {
            return true;
        }
        __builtin_ia32_pause();
        now_ns = monotonic_ns();
    } while (now_ns - start_ns < limit_ns);
    return false;
}

static void adapt_polling(Loop *loop, int64_t waited_ns)
{
    /* The knobs may change under way: each is looked at once. */
    int64_t max_ns = __atomic_load_n(&loop->poll_max_ns, __ATOMIC_RELAXED);
    int64_t grow = __atomic_load_n(&loop->poll_grow, __ATOMIC_RELAXED);
    int64_t shrink = __atomic_load_n(&loop->poll_shrink, __ATOMIC_RELAXED);

    if (waited_ns <= loop->poll_ns) {
        return;
    }
    if (waited_ns > max_ns) {
        loop->poll_ns = shrink ? loop->poll_ns / shrink : 0;
    } else {
        loop->poll_ns = MIN(loop->poll_ns ? loop->poll_ns * grow : POLL_START_NS, max_ns);
    }
}

bool loop_iterate(Loop *loop, bool block)
{
    Loop *outer = current_loop;
    bool progress = false;
    int64_t start_ns = 0, timeout_ns = 0;

    __atomic_store_n(&loop->owner, &thread_mark, __ATOMIC_RELEASE);
    current_loop = loop;
    if (!loop->slack_set) {
        loop->slack_set = true;
        prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0); /* timers are as exact as the host can */
    }
    if (block && __atomic_load_n(&loop->poll_max_ns, __ATOMIC_RELAXED) && !has_work(loop)) {
        start_ns = monotonic_ns();
        timeout_ns = loop_timers_timeout(loop);
        if (timeout_ns != 0 && loop->poll_ns) {
            int64_t limit_ns = timeout_ns < 0 ? loop->poll_ns : MIN(loop->poll_ns, timeout_ns);

            block = !poll_for_work(loop, limit_ns);
        }
    }
    if (block) {
        __atomic_store_n(&loop->sleeping, 1, __ATOMIC_SEQ_CST);
        timeout_ns = has_work(loop) ? 0 : loop_timers_timeout(loop);
    } else {
        timeout_ns = 0;
    }
    loop->monitor->wait(loop, timeout_ns);
    __atomic_store_n(&loop->sleeping, 0, __ATOMIC_SEQ_CST);
    if (start_ns && __atomic_load_n(&loop->poll_max_ns, __ATOMIC_RELAXED)) {
        adapt_polling(loop, monotonic_ns() - start_ns);
    }
    progress |= run_io_done(loop);
    progress |= dispatch_fds(loop);
    progress |= run_bhs(loop);
    progress |= loop_timers_run(loop);
    current_loop = outer;
    return progress;
}

/* Coroutines whose sleep is over; the timer that would have woken them is taken back. */
static bool run_sleepers(Loop *loop)
{
    int64_t now_ns = loop->sleepers ? monotonic_ns() : 0;

    for (LoopSleeper *s = loop->sleepers; s; s = s->next) {
        if (s->until_ns <= now_ns) {
            timer_cancel(&s->timer);
            s->timer.fn(s->timer.opaque); /* the list may be another one now */
            return true;
        }
    }
    return false;
}

bool loop_iterate_io(Loop *loop, bool block)
{
    Loop *outer = current_loop;
    bool progress;

    __atomic_store_n(&loop->owner, &thread_mark, __ATOMIC_RELEASE);
    current_loop = loop;
    progress = run_io_done(loop) || run_sleepers(loop);
    if (progress || !loop->io_in_flight) {
        current_loop = outer;
        return progress;
    }
    if (!block || loop->sleepers) {
        loop->monitor->wait(loop, 0);
    } else {
        __atomic_store_n(&loop->sleeping, 1, __ATOMIC_SEQ_CST);
        if (!__atomic_load_n(&loop->io_head, __ATOMIC_SEQ_CST) && !loop->io_done) {
            loop->monitor->wait_io(loop);
        }
        __atomic_store_n(&loop->sleeping, 0, __ATOMIC_SEQ_CST);
    }
    progress = run_io_done(loop);
    current_loop = outer;
    return progress;
}

void loop_run(Loop *loop)
{
    __atomic_store_n(&loop->owner, &thread_mark, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&loop->quit, __ATOMIC_SEQ_CST)) {
        loop_iterate(loop, true);
    }
    __atomic_store_n(&loop->quit, 0, __ATOMIC_SEQ_CST);
}

/* ---- host I/O ---- */

static ThreadPool *loop_pool(Loop *loop)
{
    if (!loop->pool) {
        loop->pool = thread_pool_new(loop->pool_min, loop->pool_max);
    }
    return loop->pool;
}

void loop_set_thread_pool(Loop *loop, int min_threads, int max_threads)
{
    loop->pool_min = MAX(min_threads, 0);
    loop->pool_max = MAX(max_threads, 1);
    if (loop->pool) {
        thread_pool_set_limits(loop->pool, loop->pool_min, loop->pool_max);
    }
}

#define INLINE_BYTES   (64u << 10)
#define INLINE_SLOW_NS 500000
#define INLINE_OFF_NS  100000000

void loop_set_inline_writes(Loop *loop, bool on)
{
    loop->inline_writes = on;
}

static bool write_inline(Loop *loop, LoopIo *io)
{
    size_t bytes = 0;
    int64_t begun_ns, done_ns;
    ssize_t n;

    for (int i = 0; i < io->iov_count; i++) {
        bytes += io->iov[i].iov_len;
    }
    if (bytes > INLINE_BYTES || io->iov_count > 1024) {
        return false;
    }
    begun_ns = monotonic_ns();
    if (begun_ns < loop->no_inline_until_ns) {
        return false;
    }
    do {
        n = pwritev(io->fd, io->iov, io->iov_count, io->offset);
    } while (n < 0 && errno == EINTR);
    loop_io_finished(io, n < 0 ? -errno : n);
    done_ns = monotonic_ns();
    if (done_ns - begun_ns > INLINE_SLOW_NS) {
        loop->no_inline_until_ns = done_ns + INLINE_OFF_NS;
    }
    return true;
}

void loop_submit_io(Loop *loop, LoopIoEngine engine, LoopIoOp op, int fd, const struct iovec *iov,
                    int iov_count, off_t offset, off_t length, int mode, LoopIoDone *done, void *opaque)
{
    LoopIo *io = g_slice_new(LoopIo);

    *io = (LoopIo){ .done = done,
                    .opaque = opaque,
                    .op = op,
                    .fd = fd,
                    .iov = iov,
                    .iov_count = iov_count,
                    .offset = offset,
                    .length = length,
                    .mode = mode,
                    .loop = loop };
    loop->io_in_flight++;
    if (loop->inline_writes && op == LOOP_IO_WRITEV && mode == LOOP_IO_CACHED && engine != LOOP_IO_THREADS &&
        write_inline(loop, io)) {
        return;
    }
    if (engine != LOOP_IO_THREADS && loop->monitor->submit && loop->monitor->submit(loop, io)) {
        return;
    }
    thread_pool_submit(loop_pool(loop), io);
}

void loop_submit_work(Loop *loop, ssize_t (*fn)(void *opaque), LoopIoDone *done, void *opaque)
{
    LoopIo *io = g_slice_new(LoopIo);

    *io = (LoopIo){ .done = done, .opaque = opaque, .work = fn, .fd = -1, .loop = loop };
    loop->io_in_flight++;
    thread_pool_submit(loop_pool(loop), io);
}

void loop_complete_later(Loop *loop, LoopIoDone *done, void *opaque, ssize_t result)
{
    LoopIo *io = g_slice_new(LoopIo);

    *io = (LoopIo){ .done = done, .opaque = opaque, .fd = -1, .loop = loop };
    loop->io_in_flight++;
    loop_io_finished(io, result);
}

void loop_complete_from(Loop *loop, LoopIoDone *done, void *opaque, ssize_t result)
{
    LoopIo *io = g_slice_new(LoopIo), *head = __atomic_load_n(&loop->io_head, __ATOMIC_RELAXED);

    *io = (LoopIo){
        .done = done, .opaque = opaque, .fd = -1, .loop = loop, .result = result, .from_outside = true
    };
    do {
        io->next = head;
    } while (
        !__atomic_compare_exchange_n(&loop->io_head, &head, io, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    loop_wake(loop);
}
