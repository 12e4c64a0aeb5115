/* Tests of coroutines. SPDX-License-Identifier: GPL-2.0-or-later */
#include "loop/coroutine.h"

#include <string.h>
#include <unistd.h>

typedef struct Steps {
    GString *log;
    char tag;
    int rounds;
    CoMutex *mutex;
    CoQueue *queue;
    Loop *loop;
} Steps;

static void stepper(void *opaque)
{
    Steps *s = opaque;

    g_assert_true(in_coroutine());
    for (int i = 0; i < s->rounds; i++) {
        g_string_append_c(s->log, s->tag);
        coroutine_yield();
    }
    g_string_append_c(s->log, '.');
}

static void test_switch(void)
{
    g_autoptr(GString) log = g_string_new(NULL);
    Steps a = { .log = log, .tag = 'a', .rounds = 3 }, b = { .log = log, .tag = 'b', .rounds = 2 };
    Coroutine *ca = coroutine_new(stepper, &a), *cb = coroutine_new(stepper, &b);

    g_assert_false(in_coroutine());
    coroutine_enter(ca);
    coroutine_enter(cb);
    coroutine_enter(ca);
    coroutine_enter(cb);
    coroutine_enter(ca);
    coroutine_enter(cb);
    coroutine_enter(ca);
    g_assert_cmpstr(log->str, ==, "ababa..");
    g_assert_false(in_coroutine());
}

static double spin(int depth)
{
    volatile char waste[512];

    memset((char *)waste, depth, sizeof(waste));
    if (depth == 0) {
        coroutine_yield();
        return 1.5;
    }
    return spin(depth - 1) + waste[0] * 0.0 + 0.5;
}

static void deep(void *opaque)
{
    *(double *)opaque = spin(100);
}

static void nested_outer(void *opaque)
{
    Coroutine *inner = coroutine_new(deep, opaque);

    coroutine_enter(inner);
    coroutine_yield();
    coroutine_enter(inner);
}

static void test_nested(void)
{
    double value = 0;
    Coroutine *co = coroutine_new(nested_outer, &value);

    coroutine_enter(co);
    g_assert_cmpfloat(value, ==, 0);
    coroutine_enter(co);
    g_assert_cmpfloat(value, ==, 51.5);
}

static void locker(void *opaque)
{
    Steps *s = opaque;

    co_mutex_lock(s->mutex);
    g_string_append_c(s->log, s->tag);
    co_sleep_ns(s->loop, 1000000);
    g_string_append_c(s->log, g_ascii_toupper(s->tag));
    co_mutex_unlock(s->mutex);
}

static void test_mutex(void)
{
    Loop *loop = loop_new(NULL, NULL);
    g_autoptr(GString) log = g_string_new(NULL);
    CoMutex mutex;
    Steps s[4];

    co_mutex_init(&mutex);
    for (int i = 0; i < 4; i++) {
        s[i] = (Steps){ .log = log, .tag = (char)('a' + i), .mutex = &mutex, .loop = loop };
        coroutine_wake(loop, coroutine_new(locker, &s[i]));
    }
    while (log->len < 8) {
        loop_iterate(loop, true);
    }
    g_assert_cmpstr(log->str, ==, "aAbBcCdD");
    g_assert_null(mutex.holder);
    loop_free(loop);
}

static void waiter(void *opaque)
{
    Steps *s = opaque;

    co_queue_wait(s->queue);
    g_string_append_c(s->log, s->tag);
}

static void test_queue(void)
{
    g_autoptr(GString) log = g_string_new(NULL);
    CoQueue queue;
    Steps s[3];

    co_queue_init(&queue);
    for (int i = 0; i < 3; i++) {
        s[i] = (Steps){ .log = log, .tag = (char)('x' + i), .queue = &queue };
        coroutine_enter(coroutine_new(waiter, &s[i]));
    }
    g_assert_cmpstr(log->str, ==, "");
    g_assert_true(co_queue_wake_one(&queue));
    g_assert_cmpstr(log->str, ==, "x");
    co_queue_wake_all(&queue);
    g_assert_cmpstr(log->str, ==, "xyz");
    g_assert_false(co_queue_wake_one(&queue));
}

/* ---- locks between loops of several threads ---- */

#define SHARED_THREADS    4
#define SHARED_COROUTINES 8

typedef struct Shared {
    CoMutex mutex;
    CoRwlock rwlock;
    int inside, readers_inside, writers_inside; /* atomic */
    int counter;                                /* under the mutex, not atomic on purpose */
    int written;                                /* under the rwlock */
    int rounds;
} Shared;

typedef struct SharedWorker {
    Shared *shared;
    Loop *loop;
    int number, left;
} SharedWorker;

static void shared_coroutine(void *opaque)
{
    SharedWorker *w = opaque;
    Shared *s = w->shared;
    int number = w->number++;

    for (int i = 0; i < s->rounds; i++) {
        co_mutex_lock(&s->mutex);
        g_assert_cmpint(__atomic_fetch_add(&s->inside, 1, __ATOMIC_SEQ_CST), ==, 0);
        s->counter++;
        if (i % 16 == number) {
            co_sleep_ns(w->loop, 1000); /* held over a yield */
        }
        __atomic_fetch_sub(&s->inside, 1, __ATOMIC_SEQ_CST);
        co_mutex_unlock(&s->mutex);
        if ((i + number) % 4 == 0) {
            co_rwlock_wrlock(&s->rwlock);
            g_assert_cmpint(__atomic_fetch_add(&s->writers_inside, 1, __ATOMIC_SEQ_CST), ==, 0);
            g_assert_cmpint(__atomic_load_n(&s->readers_inside, __ATOMIC_SEQ_CST), ==, 0);
            s->written++;
            __atomic_fetch_sub(&s->writers_inside, 1, __ATOMIC_SEQ_CST);
            if (i % 8 == 0) {
                co_rwlock_downgrade(&s->rwlock);
                g_assert_cmpint(__atomic_load_n(&s->writers_inside, __ATOMIC_SEQ_CST), ==, 0);
            }
            co_rwlock_unlock(&s->rwlock);
        } else {
            co_rwlock_rdlock(&s->rwlock);
            __atomic_fetch_add(&s->readers_inside, 1, __ATOMIC_SEQ_CST);
            g_assert_cmpint(__atomic_load_n(&s->writers_inside, __ATOMIC_SEQ_CST), ==, 0);
            if (i % 32 == number) {
                co_sleep_ns(w->loop, 1000);
            }
            __atomic_fetch_sub(&s->readers_inside, 1, __ATOMIC_SEQ_CST);
            co_rwlock_unlock(&s->rwlock);
        }
    }
    w->left--;
}

static void *shared_thread(void *opaque)
{
    SharedWorker *w = opaque;

    w->loop = loop_new(NULL, NULL);
    w->left = SHARED_COROUTINES;
    for (int i = 0; i < SHARED_COROUTINES; i++) {
        coroutine_wake(w->loop, coroutine_new(shared_coroutine, w));
    }
    while (w->left) {
        loop_iterate(w->loop, true);
    }
    loop_free(w->loop);
    return NULL;
}

static void test_across_loops(void)
{
#if defined(__SANITIZE_THREAD__)
    Shared s = { .rounds = 50 };
#else
    Shared s = { .rounds = 1000 };
#endif
    SharedWorker workers[SHARED_THREADS] = { 0 };
    pthread_t threads[SHARED_THREADS];
    int total = SHARED_THREADS * SHARED_COROUTINES * s.rounds;

    co_mutex_init(&s.mutex);
    co_rwlock_init(&s.rwlock);
    for (int i = 0; i < SHARED_THREADS; i++) {
        workers[i].shared = &s;
        pthread_create(&threads[i], NULL, shared_thread, &workers[i]);
    }
    for (int i = 0; i < SHARED_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    g_assert_cmpint(s.counter, ==, total);
    g_assert_cmpint(s.written, >, total / 5);
    g_assert_null(s.mutex.holder);
    g_assert_cmpint(s.rwlock.readers, ==, 0);
    g_assert_false(s.rwlock.writer);
}

/* A waiting writer keeps later readers out; readers that wait together go in together. */
static void rw_reader(void *opaque)
{
    Steps *s = opaque;

    co_rwlock_rdlock((CoRwlock *)s->mutex);
    g_string_append_c(s->log, s->tag);
    coroutine_yield();
    co_rwlock_unlock((CoRwlock *)s->mutex);
}

static void rw_writer(void *opaque)
{
    Steps *s = opaque;

    co_rwlock_wrlock((CoRwlock *)s->mutex);
    g_string_append_c(s->log, s->tag);
    coroutine_yield();
    co_rwlock_unlock((CoRwlock *)s->mutex);
}

static void test_rwlock_order(void)
{
    g_autoptr(GString) log = g_string_new(NULL);
    CoRwlock lock;
    Steps s[5];
    Coroutine *co[5];

    co_rwlock_init(&lock);
    for (int i = 0; i < 5; i++) {
        s[i] = (Steps){ .log = log, .tag = "rRWqQ"[i], .mutex = (CoMutex *)&lock };
        co[i] = coroutine_new(i == 2 ? rw_writer : rw_reader, &s[i]);
        coroutine_enter(co[i]);
    }
    g_assert_cmpstr(log->str, ==, "rR");
    coroutine_enter(co[0]);
    g_assert_cmpstr(log->str, ==, "rR");
    coroutine_enter(co[1]);
    g_assert_cmpstr(log->str, ==, "rRW");
    coroutine_enter(co[2]);
    g_assert_cmpint(log->len, ==, 5);
    g_assert_cmpint(lock.readers, ==, 2);
    coroutine_enter(co[3]);
    coroutine_enter(co[4]);
    g_assert_cmpint(lock.readers, ==, 0);
}

/* Where only completions of I/O run, sleepers and coroutines that wait for each other go on, nothing else. */
static void io_only_sleeper(void *opaque)
{
    Steps *s = opaque;

    locker(s);
    s->rounds--;
}

static void bh_runs(void *opaque)
{
    *(bool *)opaque = true;
}

static void test_io_only(void)
{
    Loop *loop = loop_new(NULL, NULL);
    g_autoptr(GString) log = g_string_new(NULL);
    CoMutex mutex;
    bool ran = false;
    Steps s[2];

    co_mutex_init(&mutex);
    for (int i = 0; i < 2; i++) {
        s[i] = (Steps){ .log = log, .tag = (char)('a' + i), .mutex = &mutex, .loop = loop, .rounds = 1 };
        coroutine_wake(loop, coroutine_new(io_only_sleeper, &s[i]));
    }
    loop_call(loop, bh_runs, &ran);
    while (s[0].rounds || s[1].rounds) {
        loop_iterate_io(loop, true);
    }
    g_assert_cmpstr(log->str, ==, "aAbB");
    g_assert_false(ran);
    loop_iterate(loop, false);
    g_assert_true(ran);
    loop_free(loop);
}

typedef struct File {
    Loop *loop;
    int fd;
    bool done;
    pid_t work_thread_ran;
} File;

static ssize_t work(void *opaque)
{
    File *f = opaque;

    f->work_thread_ran = gettid();
    return 7;
}

static void copier(void *opaque)
{
    File *f = opaque;
    char data[8192], back[8192];
    struct iovec w = { data, sizeof(data) }, r = { back, sizeof(back) };

    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (char)(i * 7);
    }
    g_assert_cmpint(co_io(f->loop, LOOP_IO_AUTO, LOOP_IO_WRITEV, f->fd, &w, 1, 0, 0, 0), ==, sizeof(data));
    g_assert_cmpint(co_io(f->loop, LOOP_IO_THREADS, LOOP_IO_FSYNC, f->fd, NULL, 0, 0, 0, 0), ==, 0);
    g_assert_cmpint(co_io(f->loop, LOOP_IO_AUTO, LOOP_IO_READV, f->fd, &r, 1, 0, 0, 0), ==, sizeof(back));
    g_assert_cmpint(memcmp(data, back, sizeof(data)), ==, 0);
    g_assert_cmpint(co_work(f->loop, work, f), ==, 7);
    f->done = true;
}

static void test_io(void)
{
    char name[] = "/tmp/rhea-co-XXXXXX";
    File f = { .loop = loop_new(NULL, NULL) };

    f.fd = mkstemp(name);
    coroutine_enter(coroutine_new(copier, &f));
    while (!f.done) {
        loop_iterate(f.loop, true);
    }
    g_assert_cmpint(f.work_thread_ran, !=, gettid());
    g_assert_cmpint(f.work_thread_ran, !=, 0);
    close(f.fd);
    unlink(name);
    loop_free(f.loop);
}

static void nothing(void *opaque)
{
    (*(int *)opaque)++;
}

static void test_many(void)
{
    int runs = 0;
    gint64 start = g_get_monotonic_time();
#if defined(__SANITIZE_THREAD__)
    const int total = 1000; /* a fiber costs much there */
#else
    const int total = 200000;
#endif

    for (int i = 0; i < total; i++) {
        coroutine_enter(coroutine_new(nothing, &runs));
    }
    g_assert_cmpint(runs, ==, total);
    g_test_message("%.0f ns a coroutine", (g_get_monotonic_time() - start) * 1000.0 / runs);
}

typedef struct Parts {
    Loop *loop;
    unsigned started, ended;
    bool sleep;
} Parts;

static void one_part(void *opaque, size_t index)
{
    Parts *p = opaque;

    g_assert_cmpint(index, ==, p->started++);
    if (p->sleep && index % 3) {
        co_sleep_ns(p->loop, (int64_t)(10 - index) * 100000);
    }
    p->ended++;
}

static void all_parts(void *opaque)
{
    Parts *p = opaque;

    co_parallel(0, one_part, p);
    co_parallel(7, one_part, p);
    g_assert_cmpint(p->ended, ==, 7);
    p->started = p->ended = 0;
    p->sleep = true;
    co_parallel(9, one_part, p);
    g_assert_cmpint(p->ended, ==, 9); /* though they end in another order */
    p->ended = 100;
}

static void test_parallel(void)
{
    Parts p = { .loop = loop_new(NULL, NULL) };

    coroutine_enter(coroutine_new(all_parts, &p));
    while (p.ended != 100) {
        loop_iterate(p.loop, true);
    }
    loop_free(p.loop);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/coroutine/switch", test_switch);
    g_test_add_func("/coroutine/nested", test_nested);
    g_test_add_func("/coroutine/mutex", test_mutex);
    g_test_add_func("/coroutine/queue", test_queue);
    g_test_add_func("/coroutine/rwlock-order", test_rwlock_order);
    g_test_add_func("/coroutine/across-loops", test_across_loops);
    g_test_add_func("/coroutine/io-only", test_io_only);
    g_test_add_func("/coroutine/io", test_io);
    g_test_add_func("/coroutine/parallel", test_parallel);
    g_test_add_func("/coroutine/many", test_many);
    return g_test_run();
}
