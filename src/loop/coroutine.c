/*
 * Coroutines: stacks of their own, and a switch that saves what the x86-64 System V ABI asks a callee to
 * keep. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "loop/coroutine.h"

#include "loop/loop_internal.h"

#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#define STACK_BYTES (256 * 1024)
#define GUARD_BYTES 4096
#if defined(__SANITIZE_THREAD__)
#define POOL_MAX 0 /* a fiber that never returns from its entry must not be used again */
#else
#define POOL_MAX 64
#endif

struct Coroutine {
    CoroutineFunc *fn;
    void *opaque;
    Coroutine *caller; /* who entered it; NULL: it is not running */
    void *sp;
    char *stack;
    Coroutine *pool_next;
    GList link; /* of the queue it waits in */
    Loop *waiting_loop;
    bool ended, waits_to_write;
    void *fake_stack;      /* AddressSanitizer's */
    const void *asan_base; /* the thread's own stack, in the leader */
    size_t asan_size;
    void *fiber; /* ThreadSanitizer's */
};

/* Saves the callee-saved registers, the SSE control word and the x87 one; stores the stack pointer at *save
 * and goes on with `load`, where the same was done. */
void coroutine_switch_stack(void **save, void *load);
__asm__(".text\n"
        ".globl coroutine_switch_stack\n"
        ".hidden coroutine_switch_stack\n"
        ".type coroutine_switch_stack, @function\n"
        "coroutine_switch_stack:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    subq $8, %rsp\n"
        "    stmxcsr (%rsp)\n"
        "    fnstcw 4(%rsp)\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    ldmxcsr (%rsp)\n"
        "    fldcw 4(%rsp)\n"
        "    addq $8, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size coroutine_switch_stack, . - coroutine_switch_stack\n");

static __thread Coroutine leader; /* stands for the thread's own stack */
static __thread Coroutine *current;
static __thread Coroutine *pool;
static __thread int pool_size;

static void coroutine_free(Coroutine *co)
{
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(co->fiber);
#endif
    munmap(co->stack, STACK_BYTES + GUARD_BYTES);
    g_free(co);
}

static pthread_key_t pool_key;

static void pool_drop(void *unused)
{
    while (pool) {
        Coroutine *co = pool;

        pool = co->pool_next;
        coroutine_free(co);
    }
    pool_size = 0;
}

__attribute__((constructor)) static void make_pool_key(void)
{
    pthread_key_create(&pool_key, pool_drop);
}

#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline)) /* its entry and exit would be booked on two fibers */
#endif
static void
switch_to(Coroutine *from, Coroutine *to)
{
#if defined(__SANITIZE_ADDRESS__)
    const char *base = to == &leader ? to->asan_base : to->stack + GUARD_BYTES;
    size_t size = to == &leader ? to->asan_size : STACK_BYTES;

    __sanitizer_start_switch_fiber(from->ended ? NULL : &from->fake_stack, base, size);
#endif
#if defined(__SANITIZE_THREAD__)
    if (!leader.fiber) {
        leader.fiber = __tsan_get_current_fiber();
    }
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
    coroutine_switch_stack(&from->sp, to->sp);
#if defined(__SANITIZE_ADDRESS__)
    /* We are `from` again, come back from whoever it was. */
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

__attribute__((noreturn, noinline)) static void coroutine_entry(void)
{
    Coroutine *co = current;

#if defined(__SANITIZE_ADDRESS__)
    const void *base;
    size_t size;

    __sanitizer_finish_switch_fiber(NULL, &base, &size);
    if (co->caller == &leader) {
        leader.asan_base = base;
        leader.asan_size = size;
    }
#endif
    for (;;) {
        Coroutine *caller;

        co->fn(co->opaque);
        co->ended = true;
        caller = co->caller;
        co->caller = NULL;
        current = caller;
        switch_to(co, caller);
        co = current;
    }
}

static void prepare_stack(Coroutine *co)
{
    uint64_t *sp = (uint64_t *)(co->stack + GUARD_BYTES + STACK_BYTES);
    uint32_t mxcsr = __builtin_ia32_stmxcsr();
    uint16_t cw;

    __asm__("fnstcw %0" : "=m"(cw));
    /* At entry the stack pointer is 8 off a multiple of 16, as after a call. */
    *--sp = 0;
    *--sp = (uintptr_t)coroutine_entry;
    sp -= 6;
    memset(sp, 0, 6 * sizeof(*sp));
    *--sp = mxcsr | (uint64_t)cw << 32;
    co->sp = sp;
}

Coroutine *coroutine_new(CoroutineFunc *fn, void *opaque)
{
    Coroutine *co = pool;

    if (co) {
        pool = co->pool_next;
        pool_size--;
    } else {
        co = g_new0(Coroutine, 1);
        co->stack = mmap(NULL, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
        if (co->stack == MAP_FAILED) {
            g_error("no memory for a coroutine's stack");
        }
        mprotect(co->stack, GUARD_BYTES, PROT_NONE);
#if defined(__SANITIZE_THREAD__)
        co->fiber = __tsan_create_fiber(0);
#endif
    }
    prepare_stack(co);
    co->fn = fn;
    co->opaque = opaque;
    co->caller = NULL;
    co->ended = false;
    co->fake_stack = NULL;
    return co;
}

void coroutine_enter(Coroutine *co)
{
    Coroutine *self = current ? current : &leader;

    g_assert(!co->caller);
    co->caller = self;
    current = co;
    switch_to(self, co);
    if (co->ended) {
        if (pool_size < POOL_MAX) {
            if (!pool) {
                pthread_setspecific(pool_key, &pool);
            }
            co->pool_next = pool;
            pool = co;
            pool_size++;
        } else {
            coroutine_free(co);
        }
    }
}

void coroutine_yield(void)
{
    Coroutine *self = current, *caller = self->caller;

    g_assert(caller);
    self->caller = NULL;
    current = caller;
    switch_to(self, caller);
}

Coroutine *coroutine_self(void)
{
    return current == &leader ? NULL : current;
}

bool in_coroutine(void)
{
    return coroutine_self() != NULL;
}

static void woken(void *opaque, ssize_t result)
{
    coroutine_enter(opaque);
}

void coroutine_wake(Loop *loop, Coroutine *co)
{
    loop_complete_from(loop, woken, co, 0);
}

/* ---- queues and locks ---- */

static void spin_lock(int *lock)
{
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE)) {
        __builtin_ia32_pause();
    }
}

static void spin_unlock(int *lock)
{
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

/* With what protects the queue held. */
static void enqueue(GQueue *waiting)
{
    Coroutine *self = coroutine_self();

    self->link = (GList){ .data = self };
    self->waiting_loop = loop_current();
    g_queue_push_tail_link(waiting, &self->link);
}

static void wake(Coroutine *co)
{
    if (co->waiting_loop) {
        coroutine_wake(co->waiting_loop, co);
    } else {
        coroutine_enter(co);
    }
}

void co_queue_init(CoQueue *q)
{
    q->lock = 0;
    g_queue_init(&q->waiting);
}

void co_queue_wait(CoQueue *q)
{
    spin_lock(&q->lock);
    enqueue(&q->waiting);
    spin_unlock(&q->lock);
    /* Whoever wakes it meanwhile does so through this thread's loop, so after the yield. */
    coroutine_yield();
}

bool co_queue_wait_if(CoQueue *q, bool (*still)(void *opaque), void *opaque)
{
    spin_lock(&q->lock);
    if (!still(opaque)) {
        spin_unlock(&q->lock);
        return false;
    }
    enqueue(&q->waiting);
    spin_unlock(&q->lock);
    coroutine_yield();
    return true;
}

void co_queue_wait_unlock(CoQueue *q, pthread_mutex_t *mutex)
{
    spin_lock(&q->lock);
    enqueue(&q->waiting);
    spin_unlock(&q->lock);
    pthread_mutex_unlock(mutex);
    coroutine_yield();
}

bool co_queue_wake_one(CoQueue *q)
{
    GList *link;

    spin_lock(&q->lock);
    link = g_queue_pop_head_link(&q->waiting);
    spin_unlock(&q->lock);
    if (!link) {
        return false;
    }
    wake(link->data);
    return true;
}

void co_queue_wake_all(CoQueue *q)
{
    guint n;

    spin_lock(&q->lock);
    n = g_queue_get_length(&q->waiting);
    spin_unlock(&q->lock);
    while (n-- && co_queue_wake_one(q)) {}
}

void co_mutex_init(CoMutex *m)
{
    m->holder = NULL;
    co_queue_init(&m->queue);
}

bool co_mutex_trylock(CoMutex *m)
{
    bool taken = false;

    spin_lock(&m->queue.lock);
    if (!m->holder) {
        __atomic_store_n(&m->holder, coroutine_self(), __ATOMIC_RELAXED);
        taken = true;
    }
    spin_unlock(&m->queue.lock);
    return taken;
}

void co_mutex_lock(CoMutex *m)
{
    Coroutine *self = coroutine_self();

    spin_lock(&m->queue.lock);
    if (!m->holder) {
        __atomic_store_n(&m->holder, self, __ATOMIC_RELAXED);
        spin_unlock(&m->queue.lock);
        return;
    }
    g_assert(m->holder != self);
    enqueue(&m->queue.waiting); /* whoever unlocks hands it over */
    spin_unlock(&m->queue.lock);
    coroutine_yield();
}

void co_mutex_unlock(CoMutex *m)
{
    GList *head;

    spin_lock(&m->queue.lock);
    g_assert(m->holder == coroutine_self());
    head = g_queue_pop_head_link(&m->queue.waiting);
    __atomic_store_n(&m->holder, head ? head->data : NULL, __ATOMIC_RELAXED);
    spin_unlock(&m->queue.lock);
    if (head) {
        wake(head->data);
    }
}

void co_rwlock_init(CoRwlock *l)
{
    *l = (CoRwlock){ 0 };
    g_queue_init(&l->waiting);
}

static void rwlock_take(CoRwlock *l, bool write)
{
    spin_lock(&l->lock);
    if (!l->writer && g_queue_is_empty(&l->waiting) && (!write || !l->readers)) {
        l->writer = write;
        l->readers += !write;
        spin_unlock(&l->lock);
        return;
    }
    coroutine_self()->waits_to_write = write;
    enqueue(&l->waiting);
    spin_unlock(&l->lock);
    coroutine_yield();
}

void co_rwlock_rdlock(CoRwlock *l)
{
    rwlock_take(l, false);
}

void co_rwlock_wrlock(CoRwlock *l)
{
    rwlock_take(l, true);
}

/* With l locked, which it unlocks: hands the lock to those who may have it now. */
static void rwlock_hand_over(CoRwlock *l)
{
    GList *granted = NULL, *head;

    while ((head = g_queue_peek_head_link(&l->waiting))) {
        bool write = ((Coroutine *)head->data)->waits_to_write;

        if (l->writer || (write && l->readers)) {
            break;
        }
        g_queue_unlink(&l->waiting, head);
        l->writer = write;
        l->readers += !write;
        head->next = granted;
        granted = head;
    }
    spin_unlock(&l->lock);
    while (granted) {
        GList *next = granted->next; /* read first: who is woken uses its link again */

        wake(granted->data);
        granted = next;
    }
}

void co_rwlock_unlock(CoRwlock *l)
{
    spin_lock(&l->lock);
    g_assert(l->writer || l->readers > 0);
    if (l->writer) {
        l->writer = false;
    } else {
        l->readers--;
    }
    rwlock_hand_over(l);
}

void co_rwlock_downgrade(CoRwlock *l)
{
    spin_lock(&l->lock);
    g_assert(l->writer);
    l->writer = false;
    l->readers = 1;
    rwlock_hand_over(l);
}

/* ---- waiting for the host ---- */

typedef struct CoWait {
    Coroutine *co;
    ssize_t result;
    ssize_t (*fn)(void *opaque);
    void *opaque;
} CoWait;

static void co_wait_done(void *opaque, ssize_t result)
{
    CoWait *wait = opaque;

    wait->result = result;
    coroutine_enter(wait->co);
}

ssize_t co_io(Loop *loop, LoopIoEngine engine, LoopIoOp op, int fd, const struct iovec *iov, int iov_count,
              off_t offset, off_t length, int mode)
{
    CoWait wait = { .co = coroutine_self() };

    loop_submit_io(loop, engine, op, fd, iov, iov_count, offset, length, mode, co_wait_done, &wait);
    coroutine_yield();
    return wait.result;
}

static ssize_t co_work_fn(void *opaque)
{
    CoWait *wait = opaque;

    return wait->fn(wait->opaque);
}

ssize_t co_work(Loop *loop, ssize_t (*fn)(void *opaque), void *opaque)
{
    CoWait wait = { .co = coroutine_self(), .fn = fn, .opaque = opaque };

    loop_submit_work(loop, co_work_fn, co_wait_done, &wait);
    coroutine_yield();
    return wait.result;
}

typedef struct CoSleep {
    LoopSleeper sleeper;
    Coroutine *co;
} CoSleep;

static void co_sleep_done(void *opaque)
{
    CoSleep *sleep = opaque;

    coroutine_enter(sleep->co);
}

void co_sleep_ns(Loop *loop, int64_t ns)
{
    CoSleep sleep = { .co = coroutine_self(), .sleeper.until_ns = monotonic_ns() + MAX(ns, 0) };
    LoopSleeper *s = &sleep.sleeper;

    s->next = loop->sleepers;
    if (s->next) {
        s->next->prev = s;
    }
    loop->sleepers = s;
    timer_init(&s->timer, loop, NULL, CLOCK_TYPE_REALTIME, co_sleep_done, &sleep, NULL);
    timer_set(&s->timer, s->until_ns);
    coroutine_yield();
    *(s->prev ? &s->prev->next : &loop->sleepers) = s->next;
    if (s->next) {
        s->next->prev = s->prev;
    }
    timer_destroy(&s->timer);
}

typedef struct CoParallel {
    void (*fn)(void *opaque, size_t index);
    void *opaque;
    size_t next, running;
    Coroutine *waiting;
} CoParallel;

static void co_parallel_part(void *opaque)
{
    CoParallel *all = opaque;

    all->fn(all->opaque, all->next++); /* the argument is taken before it can yield */
    if (--all->running == 0 && all->waiting) {
        coroutine_enter(all->waiting);
    }
}

void co_parallel(size_t count, void (*fn)(void *opaque, size_t index), void *opaque)
{
    CoParallel all = { .fn = fn, .opaque = opaque, .running = count };

    for (size_t i = 0; i < count; i++) {
        coroutine_enter(coroutine_new(co_parallel_part, &all));
    }
    if (all.running) {
        all.waiting = coroutine_self();
        coroutine_yield();
    }
}
