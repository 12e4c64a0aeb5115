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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/coroutine/switch", test_switch);
    g_test_add_func("/coroutine/nested", test_nested);
    g_test_add_func("/coroutine/mutex", test_mutex);
    g_test_add_func("/coroutine/queue", test_queue);
    g_test_add_func("/coroutine/io", test_io);
    g_test_add_func("/coroutine/many", test_many);
    return g_test_run();
}
