/*
 * Clocks and timers: a heap per loop and clock, ordered by deadline.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "loop/loop_internal.h"

#include <time.h>

/* A wall clock may be set while the loop sleeps: look at least this often while a timer hangs on it. */
#define HOST_CLOCK_CHECK_NS INT64_C(1000000000)

struct ClockSet {
    unsigned seq; /* even: stable (a sequence lock around the two below) */
    bool running;
    int64_t base_ns; /* running: virtual minus monotonic time; stopped: virtual time */
    pthread_mutex_t lock;
    GPtrArray *loops; /* of Loop *: those with a list of virtual timers */
};

ClockSet *clock_set_new(void)
{
    ClockSet *clocks = g_new0(ClockSet, 1);

    pthread_mutex_init(&clocks->lock, NULL);
    clocks->loops = g_ptr_array_new();
    return clocks;
}

void clock_set_free(ClockSet *clocks)
{
    if (!clocks) {
        return;
    }
    for (guint i = 0; i < clocks->loops->len; i++) {
        Loop *loop = g_ptr_array_index(clocks->loops, i);

        pthread_mutex_lock(&loop->timer_lock);
        for (guint k = loop->timer_lists->len; k-- > 0;) {
            TimerList *list = g_ptr_array_index(loop->timer_lists, k);

            if (list->clocks == clocks) {
                g_ptr_array_remove_index(loop->timer_lists, k);
            }
        }
        pthread_mutex_unlock(&loop->timer_lock);
    }
    g_ptr_array_unref(clocks->loops);
    pthread_mutex_destroy(&clocks->lock);
    g_free(clocks);
}

static void virtual_read(const ClockSet *clocks, bool *running, int64_t *base_ns)
{
    unsigned seq;

    do {
        seq = __atomic_load_n(&clocks->seq, __ATOMIC_ACQUIRE);
        *running = __atomic_load_n(&clocks->running, __ATOMIC_ACQUIRE);
        *base_ns = __atomic_load_n(&clocks->base_ns, __ATOMIC_ACQUIRE);
    } while ((seq & 1) || __atomic_load_n(&clocks->seq, __ATOMIC_RELAXED) != seq);
}

/* With the lock held. */
static void virtual_write(ClockSet *clocks, bool running, int64_t base_ns)
{
    __atomic_fetch_add(&clocks->seq, 1, __ATOMIC_ACQ_REL);
    __atomic_store_n(&clocks->running, running, __ATOMIC_RELEASE);
    __atomic_store_n(&clocks->base_ns, base_ns, __ATOMIC_RELEASE);
    __atomic_fetch_add(&clocks->seq, 1, __ATOMIC_RELEASE);
}

int64_t clock_now_ns(const ClockSet *clocks, ClockType type)
{
    switch (type) {
    case CLOCK_TYPE_VIRTUAL: {
        bool running;
        int64_t base_ns;

        virtual_read(clocks, &running, &base_ns);
        return running ? base_ns + monotonic_ns() : base_ns;
    }
    case CLOCK_TYPE_HOST: {
        struct timespec ts;

        clock_gettime(CLOCK_REALTIME, &ts);
        return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
    }
    default:
        return monotonic_ns();
    }
}

bool clock_set_running(const ClockSet *clocks)
{
    return __atomic_load_n(&clocks->running, __ATOMIC_ACQUIRE);
}

static void wake_loops(ClockSet *clocks)
{
    for (guint i = 0; i < clocks->loops->len; i++) {
        loop_wake(g_ptr_array_index(clocks->loops, i));
    }
}

void clock_set_run(ClockSet *clocks, bool running)
{
    pthread_mutex_lock(&clocks->lock);
    if (clocks->running != running) {
        int64_t mono_ns = monotonic_ns();

        virtual_write(clocks, running, running ? clocks->base_ns - mono_ns : clocks->base_ns + mono_ns);
        wake_loops(clocks);
    }
    pthread_mutex_unlock(&clocks->lock);
}

void clock_set_virtual_ns(ClockSet *clocks, int64_t now_ns)
{
    pthread_mutex_lock(&clocks->lock);
    virtual_write(clocks, clocks->running, clocks->running ? now_ns - monotonic_ns() : now_ns);
    wake_loops(clocks);
    pthread_mutex_unlock(&clocks->lock);
}

/* ---- the heap ---- */

static Timer *heap_at(GPtrArray *heap, guint i)
{
    return g_ptr_array_index(heap, i);
}

static void heap_put(GPtrArray *heap, guint i, Timer *t)
{
    g_ptr_array_index(heap, i) = t;
    t->heap_index = (int)i;
}

static void heap_up(GPtrArray *heap, guint i)
{
    Timer *t = heap_at(heap, i);

    while (i > 0 && heap_at(heap, (i - 1) / 2)->expire_ns > t->expire_ns) {
        heap_put(heap, i, heap_at(heap, (i - 1) / 2));
        i = (i - 1) / 2;
    }
    heap_put(heap, i, t);
}

static void heap_down(GPtrArray *heap, guint i)
{
    Timer *t = heap_at(heap, i);

    for (;;) {
        guint child = 2 * i + 1;

        if (child >= heap->len) {
            break;
        }
        if (child + 1 < heap->len && heap_at(heap, child + 1)->expire_ns < heap_at(heap, child)->expire_ns) {
            child++;
        }
        if (heap_at(heap, child)->expire_ns >= t->expire_ns) {
            break;
        }
        heap_put(heap, i, heap_at(heap, child));
        i = child;
    }
    heap_put(heap, i, t);
}

static void heap_insert(GPtrArray *heap, Timer *t)
{
    g_ptr_array_add(heap, t);
    heap_up(heap, heap->len - 1);
}

static void heap_remove(GPtrArray *heap, Timer *t)
{
    guint i = (guint)t->heap_index;
    Timer *last = heap_at(heap, heap->len - 1);

    g_ptr_array_set_size(heap, (int)heap->len - 1);
    t->heap_index = -1;
    if (last != t) {
        heap_put(heap, i, last);
        heap_up(heap, i);
        heap_down(heap, (guint)last->heap_index);
    }
}

/* ---- lists ---- */

static void timer_list_free(gpointer p)
{
    TimerList *list = p;

    for (guint i = 0; i < list->heap->len; i++) {
        Timer *t = heap_at(list->heap, i);

        t->heap_index = -1;
        t->expire_ns = -1;
    }
    g_ptr_array_unref(list->heap);
    g_free(list);
}

void loop_timers_init(Loop *loop)
{
    pthread_mutex_init(&loop->timer_lock, NULL);
    pthread_cond_init(&loop->timer_idle, NULL);
    loop->timer_lists = g_ptr_array_new_with_free_func(timer_list_free);
}

void loop_timers_destroy(Loop *loop)
{
    for (guint i = 0; i < loop->timer_lists->len; i++) {
        TimerList *list = g_ptr_array_index(loop->timer_lists, i);

        if (list->clocks) {
            pthread_mutex_lock(&list->clocks->lock);
            g_ptr_array_remove_fast(list->clocks->loops, loop);
            pthread_mutex_unlock(&list->clocks->lock);
        }
    }
    g_ptr_array_unref(loop->timer_lists);
    pthread_cond_destroy(&loop->timer_idle);
    pthread_mutex_destroy(&loop->timer_lock);
}

/* With timer_lock held. */
static TimerList *list_find(Loop *loop, ClockSet *clocks, ClockType type)
{
    for (guint i = 0; i < loop->timer_lists->len; i++) {
        TimerList *list = g_ptr_array_index(loop->timer_lists, i);

        if (list->clocks == clocks && list->type == type) {
            return list;
        }
    }
    return NULL;
}

static bool list_runs(const TimerList *list)
{
    return list->type != CLOCK_TYPE_VIRTUAL || clock_set_running(list->clocks);
}

int64_t loop_timers_timeout(Loop *loop)
{
    int64_t timeout_ns = -1;

    pthread_mutex_lock(&loop->timer_lock);
    for (guint i = 0; i < loop->timer_lists->len; i++) {
        TimerList *list = g_ptr_array_index(loop->timer_lists, i);

        list->slept_until = G_MAXINT64;
        if (list->heap->len && list_runs(list)) {
            int64_t until_ns = heap_at(list->heap, 0)->expire_ns;
            int64_t left_ns = until_ns - clock_now_ns(list->clocks, list->type);

            list->slept_until = until_ns;
            if (list->type == CLOCK_TYPE_HOST) {
                left_ns = MIN(left_ns, HOST_CLOCK_CHECK_NS);
            }
            left_ns = MAX(left_ns, 0);
            if (timeout_ns < 0 || left_ns < timeout_ns) {
                timeout_ns = left_ns;
            }
        }
    }
    pthread_mutex_unlock(&loop->timer_lock);
    return timeout_ns;
}

/* With timer_lock held: the earliest timer that is due at now_ns. */
static Timer *list_due(TimerList *list, int64_t now_ns)
{
    Timer *t = list->heap->len ? heap_at(list->heap, 0) : NULL;

    return t && t->expire_ns <= now_ns ? t : NULL;
}

bool loop_timers_run(Loop *loop)
{
    bool progress = false;

    pthread_mutex_lock(&loop->timer_lock);
    for (guint i = 0; i < loop->timer_lists->len; i++) {
        TimerList *list = g_ptr_array_index(loop->timer_lists, i);
        guint budget = list->heap->len;
        int64_t now_ns;
        Timer *t;

        if (!budget || !list_runs(list)) {
            continue;
        }
        now_ns = clock_now_ns(list->clocks, list->type);
        while (budget-- > 0 && list_runs(list) && (t = list_due(list, now_ns))) {
            HomeLock *lock = t->lock;
            void (*fn)(void *opaque) = t->fn;
            void *opaque = t->opaque;

            /* The handler's lock comes before ours; whoever cancels meanwhile tells so. */
            loop->timer_firing = t;
            loop->timer_firing_cancelled = false;
            if (lock) {
                pthread_mutex_unlock(&loop->timer_lock);
                home_lock(lock);
                pthread_mutex_lock(&loop->timer_lock);
            }
            if (!loop->timer_firing_cancelled && t->heap_index >= 0 && t->expire_ns <= now_ns) {
                heap_remove(list->heap, t);
                __atomic_store_n(&t->expire_ns, -1, __ATOMIC_RELAXED);
                pthread_mutex_unlock(&loop->timer_lock);
                progress = true;
                fn(opaque);
                pthread_mutex_lock(&loop->timer_lock);
            }
            if (lock) {
                home_unlock(lock);
            }
            loop->timer_firing = NULL;
            pthread_cond_broadcast(&loop->timer_idle);
        }
    }
    pthread_mutex_unlock(&loop->timer_lock);
    return progress;
}

/* ---- timers ---- */

void timer_init(Timer *t, Loop *loop, ClockSet *clocks, ClockType type, void (*fn)(void *opaque),
                void *opaque, HomeLock *lock)
{
    bool made = false;

    g_assert(type != CLOCK_TYPE_VIRTUAL || clocks);
    if (type != CLOCK_TYPE_VIRTUAL) {
        clocks = NULL; /* these run the same for everybody */
    }
    *t = (Timer){ .loop = loop,
                  .clocks = clocks,
                  .type = type,
                  .fn = fn,
                  .opaque = opaque,
                  .lock = lock,
                  .expire_ns = -1,
                  .heap_index = -1 };
    pthread_mutex_lock(&loop->timer_lock);
    if (!list_find(loop, clocks, type)) {
        TimerList *list = g_new0(TimerList, 1);

        list->clocks = clocks;
        list->type = type;
        list->heap = g_ptr_array_new();
        list->slept_until = G_MAXINT64;
        g_ptr_array_add(loop->timer_lists, list);
        made = true;
    }
    pthread_mutex_unlock(&loop->timer_lock);
    if (made && clocks) {
        pthread_mutex_lock(&clocks->lock);
        g_ptr_array_add(clocks->loops, loop);
        pthread_mutex_unlock(&clocks->lock);
    }
}

void timer_set(Timer *t, int64_t expire_ns)
{
    Loop *loop = t->loop;
    TimerList *list;
    bool wake;

    expire_ns = MAX(expire_ns, 0);
    if (__atomic_load_n(&t->expire_ns, __ATOMIC_RELAXED) == expire_ns) {
        return;
    }
    pthread_mutex_lock(&loop->timer_lock);
    list = list_find(loop, t->clocks, t->type);
    __atomic_store_n(&t->expire_ns, expire_ns, __ATOMIC_RELAXED);
    if (t->heap_index >= 0) {
        heap_up(list->heap, (guint)t->heap_index);
        heap_down(list->heap, (guint)t->heap_index);
    } else {
        heap_insert(list->heap, t);
    }
    wake = expire_ns < list->slept_until && list_runs(list);
    pthread_mutex_unlock(&loop->timer_lock);
    if (wake) {
        loop_wake(loop);
    }
}

static void timer_take(Timer *t, bool wait)
{
    Loop *loop = t->loop;

    if (!loop) {
        return;
    }
    pthread_mutex_lock(&loop->timer_lock);
    if (t->heap_index >= 0) {
        TimerList *list = list_find(loop, t->clocks, t->type);

        heap_remove(list->heap, t);
    }
    __atomic_store_n(&t->expire_ns, -1, __ATOMIC_RELAXED);
    if (loop->timer_firing == t) {
        loop->timer_firing_cancelled = true;
        while (wait && loop->timer_firing == t) {
            pthread_cond_wait(&loop->timer_idle, &loop->timer_lock);
        }
    }
    pthread_mutex_unlock(&loop->timer_lock);
}

void timer_cancel(Timer *t)
{
    if (t->loop && __atomic_load_n(&t->expire_ns, __ATOMIC_RELAXED) >= 0) {
        timer_take(t, false);
    }
}

bool timer_pending(const Timer *t)
{
    return t->loop && __atomic_load_n(&t->expire_ns, __ATOMIC_RELAXED) >= 0;
}

int64_t timer_expire_ns(const Timer *t)
{
    return t->loop ? __atomic_load_n(&t->expire_ns, __ATOMIC_RELAXED) : -1;
}

void timer_destroy(Timer *t)
{
    if (t->loop) {
        /* Its memory goes away next: let a handler that has begun come to its end, unless that is us. */
        timer_take(t, !loop_is_current(t->loop) && !(t->lock && home_lock_held(t->lock)));
        t->loop = NULL;
    }
}
