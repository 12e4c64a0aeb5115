/* Tests of the loop, with each monitor. SPDX-License-Identifier: GPL-2.0-or-later */
#include "loop/loop_internal.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static Loop *make_loop(gconstpointer backend)
{
    g_autoptr(GError) error = NULL;
    Loop *loop = loop_new(backend, &error);

    if (!loop && strcmp(backend, "io_uring") == 0) {
        g_test_skip("no io_uring here");
        return NULL;
    }
    g_assert_no_error(error);
    g_assert_cmpstr(loop_backend(loop), ==, backend);
    return loop;
}

static void count(void *opaque)
{
    (*(int *)opaque)++;
}

/* ---- timers ---- */

static GString *order;
static void note_a(void *opaque)
{
    g_string_append(order, opaque);
}

static void test_timer_order(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    static char names[64][4];
    Timer timers[64];
    int64_t now_ns;
    g_autoptr(GString) expected = g_string_new(NULL);

    if (!loop) {
        return;
    }
    order = g_string_new(NULL);
    now_ns = clock_now_ns(NULL, CLOCK_TYPE_REALTIME);
    for (int i = 0; i < 64; i++) {
        int rank = i * 37 % 64;

        g_snprintf(names[rank], sizeof(names[rank]), "%02d ", rank);
        timer_init(&timers[i], loop, NULL, CLOCK_TYPE_REALTIME, note_a, names[rank], NULL);
        timer_set(&timers[i], now_ns + 1000000 + rank * 10000);
    }
    for (int rank = 0; rank < 64; rank++) {
        if (rank * 5 % 64 != 3) {
            g_string_append_printf(expected, "%02d ", rank);
        }
    }
    for (int i = 0; i < 64; i++) { /* one of them is cancelled, wherever it is in the heap */
        if (i * 37 % 64 * 5 % 64 == 3) {
            timer_cancel(&timers[i]);
            g_assert_false(timer_pending(&timers[i]));
        }
    }
    while (order->len < expected->len) {
        loop_iterate(loop, true);
    }
    g_assert_cmpstr(order->str, ==, expected->str);
    for (int i = 0; i < 64; i++) {
        g_assert_cmpint(timer_expire_ns(&timers[i]), ==, -1);
        timer_destroy(&timers[i]);
    }
    g_string_free(order, TRUE);
    loop_free(loop);
}

static void test_timer_accuracy(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    int64_t errors[200];
    int fired = 0, late = 0;
    Timer t;

    if (!loop) {
        return;
    }
    timer_init(&t, loop, NULL, CLOCK_TYPE_REALTIME, count, &fired, NULL);
    for (int i = 0; i < 200; i++) {
        int64_t due_ns = clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + 300000;
        int before = fired;

        timer_set(&t, due_ns);
        while (fired == before) {
            loop_iterate(loop, true);
        }
        errors[i] = clock_now_ns(NULL, CLOCK_TYPE_REALTIME) - due_ns;
        g_assert_cmpint(errors[i], >=, 0);
        late += errors[i] > 1000000;
    }
    for (int i = 1; i < 200; i++) {
        for (int k = i; k > 0 && errors[k - 1] > errors[k]; k--) {
            int64_t swap = errors[k];

            errors[k] = errors[k - 1];
            errors[k - 1] = swap;
        }
    }
    g_test_message("timer error: median %" G_GINT64_FORMAT " ns, p99 %" G_GINT64_FORMAT " ns", errors[100],
                   errors[198]);
    g_assert_cmpint(errors[100], <, 500000); /* loose: other work shares this host */
    timer_destroy(&t);
    loop_free(loop);
}

static void test_virtual_clock(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    ClockSet *clocks;
    int fired = 0;
    int64_t stopped_ns;
    Timer t;

    if (!loop) {
        return;
    }
    clocks = clock_set_new();
    timer_init(&t, loop, clocks, CLOCK_TYPE_VIRTUAL, count, &fired, NULL);
    timer_set(&t, 2000000);
    g_assert_cmpint(clock_now_ns(clocks, CLOCK_TYPE_VIRTUAL), ==, 0);
    g_usleep(5000);
    loop_iterate(loop, false);
    g_assert_cmpint(fired, ==, 0); /* guest time stands still */
    clock_set_run(clocks, true);
    while (!fired) {
        loop_iterate(loop, true);
    }
    g_assert_cmpint(clock_now_ns(clocks, CLOCK_TYPE_VIRTUAL), >=, 2000000);
    clock_set_run(clocks, false);
    stopped_ns = clock_now_ns(clocks, CLOCK_TYPE_VIRTUAL);
    g_usleep(2000);
    g_assert_cmpint(clock_now_ns(clocks, CLOCK_TYPE_VIRTUAL), ==, stopped_ns);
    clock_set_virtual_ns(clocks, 7000000000);
    timer_set(&t, 6000000000);
    loop_iterate(loop, false);
    g_assert_cmpint(fired, ==, 1);
    clock_set_run(clocks, true);
    loop_iterate(loop, true);
    g_assert_cmpint(fired, ==, 2);
    timer_destroy(&t);
    clock_set_free(clocks);
    loop_free(loop);
}

/* ---- across threads ---- */

static gpointer run_loop(gpointer loop)
{
    loop_run(loop);
    return NULL;
}

static void timer_from_elsewhere(void *opaque)
{
    __atomic_fetch_add((int *)opaque, 1, __ATOMIC_SEQ_CST);
}

static void test_cross_thread(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    GThread *thread;
    int bh_runs = 0, timer_runs = 0, calls = 0;
    BottomHalf *bh;
    Timer timer;
    HomeLock lock;

    if (!loop) {
        return;
    }
    home_lock_init(&lock);
    bh = bh_new(loop, timer_from_elsewhere, &bh_runs, &lock);
    timer_init(&timer, loop, NULL, CLOCK_TYPE_REALTIME, timer_from_elsewhere, &timer_runs, &lock);
    thread = g_thread_new("loop", run_loop, loop);
    while (loop_is_current(loop)) {
        g_usleep(100);
    }
    for (int i = 1; i <= 2000; i++) {
        bh_schedule(bh);
        timer_set(&timer, clock_now_ns(NULL, CLOCK_TYPE_REALTIME));
        while (__atomic_load_n(&bh_runs, __ATOMIC_SEQ_CST) < i ||
               __atomic_load_n(&timer_runs, __ATOMIC_SEQ_CST) < i) {
            g_thread_yield();
        }
        loop_call_sync(loop, timer_from_elsewhere, &calls);
        g_assert_cmpint(calls, ==, i);
    }
    g_assert_cmpint(bh_runs, ==, 2000); /* one run for each, none twice */
    /* A cancel with the lock held is final. */
    for (int i = 0; i < 2000; i++) {
        int before;

        timer_set(&timer, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + 1000);
        if (i & 1) {
            g_usleep(1);
        }
        home_lock(&lock);
        timer_cancel(&timer);
        before = __atomic_load_n(&timer_runs, __ATOMIC_SEQ_CST);
        g_assert_false(timer_pending(&timer));
        home_unlock(&lock);
        g_thread_yield();
        g_assert_cmpint(__atomic_load_n(&timer_runs, __ATOMIC_SEQ_CST), ==, before);
    }
    /* Bottom halves come and go while the loop runs. */
    for (int i = 0; i < 2000; i++) {
        int *runs = g_new0(int, 1);
        HomeLock *own = g_new0(HomeLock, 1);
        BottomHalf *one;

        home_lock_init(own);
        one = bh_new(loop, timer_from_elsewhere, runs, own);
        bh_schedule(one);
        bh_free(one);
        home_lock_destroy(own);
        g_free(own);
        g_free(runs);
    }
    timer_destroy(&timer);
    bh_free(bh);
    loop_quit(loop);
    g_thread_join(thread);
    loop_free(loop);
    home_lock_destroy(&lock);
}

/* ---- descriptors ---- */

typedef struct Pair {
    int fds[2];
    LoopFd *lfd;
    GString *got;
    bool closed, remove_self;
} Pair;

static void read_one_byte(void *opaque)
{
    Pair *p = opaque;
    char c;
    ssize_t n = read(p->fds[0], &c, 1);

    if (n == 1) {
        g_string_append_c(p->got, c);
    } else if (n == 0) {
        p->closed = true;
        loop_remove_fd(p->lfd);
        p->lfd = NULL;
    }
    if (p->remove_self && p->lfd) {
        loop_remove_fd(p->lfd);
        p->lfd = NULL;
    }
}

static void test_fds(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    Pair p = { .got = g_string_new(NULL) };
    int writable = 0;
    LoopFd *w;
    char buf[4];

    if (!loop) {
        return;
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p.fds), ==, 0);
    p.lfd = loop_add_fd(loop, p.fds[0], read_one_byte, NULL, NULL, &p, NULL);
    g_assert_false(loop_iterate(loop, false));
    g_assert_cmpint(write(p.fds[1], "abc", 3), ==, 3);
    while (p.got->len < 3) { /* level-triggered: one byte each time */
        g_assert_true(loop_iterate(loop, true));
    }
    g_assert_cmpstr(p.got->str, ==, "abc");
    g_assert_false(loop_iterate(loop, false));
    /* switched off: nothing comes; on again: what waited does */
    loop_fd_set(p.lfd, NULL, NULL);
    g_assert_cmpint(write(p.fds[1], "d", 1), ==, 1);
    for (int i = 0; i < 5; i++) {
        loop_iterate(loop, false);
    }
    g_assert_cmpstr(p.got->str, ==, "abc");
    loop_fd_set(p.lfd, read_one_byte, NULL);
    while (p.got->len < 4) {
        loop_iterate(loop, true);
    }
    /* both directions on one descriptor */
    w = loop_add_fd(loop, p.fds[1], NULL, count, NULL, &writable, NULL);
    loop_iterate(loop, true);
    loop_iterate(loop, false);
    g_assert_cmpint(writable, >, 0);
    loop_remove_fd(w);
    /* removing itself from inside */
    p.remove_self = true;
    g_assert_cmpint(write(p.fds[1], "ef", 2), ==, 2);
    while (p.lfd) {
        loop_iterate(loop, true);
    }
    loop_iterate(loop, false);
    g_assert_cmpstr(p.got->str, ==, "abcde");
    /* hang-up */
    p.remove_self = false;
    p.lfd = loop_add_fd(loop, p.fds[0], read_one_byte, NULL, NULL, &p, NULL);
    close(p.fds[1]);
    while (!p.closed) {
        loop_iterate(loop, true);
    }
    g_assert_cmpstr(p.got->str, ==, "abcdef");
    close(p.fds[0]);
    /* after removal the file is really closed: the other end sees it without any iteration */
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p.fds), ==, 0);
    p.lfd = loop_add_fd(loop, p.fds[0], read_one_byte, NULL, NULL, &p, NULL);
    loop_iterate(loop, false);
    loop_remove_fd(p.lfd);
    close(p.fds[0]);
    g_assert_cmpint(read(p.fds[1], buf, 1), ==, 0);
    close(p.fds[1]);
    loop_free(loop);
    g_string_free(p.got, TRUE);
}

static void on_file(void *opaque)
{
    Pair *p = opaque;

    read_one_byte(p);
}

static void test_regular_file(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    Pair p = { .got = g_string_new(NULL) };
    char name[] = "/tmp/rhea-loop-XXXXXX";
    int fd;

    if (!loop) {
        return;
    }
    fd = mkstemp(name);
    g_assert_cmpint(write(fd, "xyz", 3), ==, 3);
    lseek(fd, 0, SEEK_SET);
    p.fds[0] = fd;
    p.lfd = loop_add_fd(loop, fd, on_file, NULL, NULL, &p, NULL);
    while (!p.closed) {
        loop_iterate(loop, true);
    }
    g_assert_cmpstr(p.got->str, ==, "xyz");
    close(fd);
    unlink(name);
    loop_free(loop);
    g_string_free(p.got, TRUE);
}

#define MANY 1000

static void clear_notifier(void *opaque)
{
    event_notifier_test_and_clear(opaque);
}

static void test_many_fds(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    g_autofree EventNotifier *e = g_new0(EventNotifier, MANY);
    g_autofree LoopFd **lfds = g_new0(LoopFd *, MANY);
    g_autofree int *seen = g_new0(int, MANY);

    if (!loop) {
        return;
    }
    for (int i = 0; i < MANY; i++) {
        g_assert_true(event_notifier_init(&e[i], NULL));
        lfds[i] = loop_add_fd(loop, e[i].fd, clear_notifier, NULL, NULL, &e[i], NULL);
    }
    for (int round = 0; round < 3; round++) {
        int left = MANY;

        for (int i = 0; i < MANY; i++) {
            event_notifier_set(&e[i]);
        }
        while (left) {
            g_assert_true(loop_iterate(loop, true));
            left = 0;
            for (int i = 0; i < MANY; i++) {
                uint64_t v;

                if (read(e[i].fd, &v, 8) == 8) {
                    left++;
                    event_notifier_set(&e[i]);
                }
            }
        }
    }
    g_assert_false(loop_iterate(loop, false));
    for (int i = 0; i < MANY; i++) {
        loop_remove_fd(lfds[i]);
        event_notifier_destroy(&e[i]);
    }
    loop_free(loop);
}

/* ---- polling ---- */

typedef struct Polled {
    int pending, handled, asked;
} Polled;

static bool look(void *opaque)
{
    Polled *p = opaque;

    p->asked++;
    return __atomic_load_n(&p->pending, __ATOMIC_SEQ_CST);
}

static void take(void *opaque)
{
    Polled *p = opaque;

    p->handled++;
    __atomic_store_n(&p->pending, 0, __ATOMIC_SEQ_CST);
}

static void test_polling(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    Polled p = { 0 };
    EventNotifier e;
    LoopFd *lfd;
    Timer t;
    int ticks = 0;

    if (!loop) {
        return;
    }
    g_assert_true(event_notifier_init(&e, NULL));
    loop_set_polling(loop, 1000000, 0, 0);
    lfd = loop_add_fd(loop, e.fd, take, NULL, look, &p, NULL);
    timer_init(&t, loop, NULL, CLOCK_TYPE_REALTIME, count, &ticks, NULL);
    /* A first event makes it a polled source; short waits make the loop poll. */
    event_notifier_set(&e);
    loop_iterate(loop, true);
    event_notifier_test_and_clear(&e);
    g_assert_cmpint(p.handled, >=, 1);
    for (int i = 0; i < 20; i++) {
        timer_set(&t, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + 50000);
        loop_iterate(loop, true);
    }
    g_assert_cmpint(p.asked, >, 0);
    p.handled = 0;
    p.pending = 1; /* no eventfd: only polling can find it */
    timer_set(&t, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + 500000000);
    loop_iterate(loop, true);
    g_assert_cmpint(p.handled, ==, 1);
    timer_destroy(&t);
    loop_remove_fd(lfd);
    event_notifier_destroy(&e);
    loop_free(loop);
}

/* ---- host I/O ---- */

typedef struct IoResult {
    int done;
    ssize_t result;
} IoResult;

static void io_done(void *opaque, ssize_t result)
{
    IoResult *r = opaque;

    r->done++;
    r->result = result;
}

static void test_io(gconstpointer backend)
{
    static const LoopIoEngine engines[] = { LOOP_IO_AUTO, LOOP_IO_URING, LOOP_IO_THREADS };
    Loop *loop = make_loop(backend);
    char name[] = "/tmp/rhea-loop-XXXXXX";
    int fd;

    if (!loop) {
        return;
    }
    fd = mkstemp(name);
    for (size_t i = 0; i < G_N_ELEMENTS(engines); i++) {
        IoResult r = { 0 }, many = { 0 };
        char out[] = "hello, disk", in[12] = { 0 };
        struct iovec w[2] = { { out, 5 }, { out + 5, 7 } }, rd = { in, 12 };
        static char bytes[600];
        static struct iovec one[600];

        loop_submit_io(loop, engines[i], LOOP_IO_WRITEV, fd, w, 2, 4096, 0, 0, io_done, &r);
        g_assert_cmpint(r.done, ==, 0);
        while (!r.done) {
            loop_iterate(loop, true);
        }
        g_assert_cmpint(r.result, ==, 12);
        loop_submit_io(loop, engines[i], LOOP_IO_FDATASYNC, fd, NULL, 0, 0, 0, 0, io_done, &r);
        while (r.done < 2) {
            loop_iterate_io(loop, true);
        }
        g_assert_cmpint(r.result, ==, 0);
        loop_submit_io(loop, engines[i], LOOP_IO_READV, fd, &rd, 1, 4096, 0, 0, io_done, &r);
        while (r.done < 3) {
            loop_iterate_io(loop, true);
        }
        g_assert_cmpint(r.result, ==, 12);
        g_assert_cmpstr(in, ==, out);
        loop_submit_io(loop, engines[i], LOOP_IO_READV, -1, &rd, 1, 0, 0, 0, io_done, &r);
        while (r.done < 4) {
            loop_iterate(loop, true);
        }
        g_assert_cmpint(r.result, ==, -EBADF);
        loop_submit_io(loop, engines[i], LOOP_IO_FALLOCATE, fd, NULL, 0, 0, 1 << 20, FALLOC_FL_KEEP_SIZE,
                       io_done, &r);
        while (r.done < 5) {
            loop_iterate(loop, true);
        }
        g_assert_true(r.result == 0 || r.result == -EOPNOTSUPP);
        for (int k = 0; k < 600; k++) { /* more than fit into the ring at once */
            one[k] = (struct iovec){ &bytes[k], 1 };
            loop_submit_io(loop, engines[i], LOOP_IO_READV, fd, &one[k], 1, 4096 + k % 12, 0, 0, io_done,
                           &many);
        }
        while (many.done < 600) {
            loop_iterate(loop, true);
        }
        g_assert_true(bytes[599] == out[599 % 12]);
    }
    close(fd);
    unlink(name);
    loop_free(loop);
}

static ssize_t slow_work(void *opaque)
{
    g_usleep(20000);
    return 42;
}

static void test_work(gconstpointer backend)
{
    Loop *loop = make_loop(backend);
    IoResult r = { 0 };
    int64_t start_ns;

    if (!loop) {
        return;
    }
    start_ns = monotonic_ns();
    for (int i = 0; i < 20; i++) {
        loop_submit_work(loop, slow_work, io_done, &r);
    }
    while (r.done < 20) {
        loop_iterate(loop, true);
    }
    g_assert_cmpint(r.result, ==, 42);
    g_assert_cmpint(monotonic_ns() - start_ns, <, 20 * 20000000 / 2); /* side by side */
    loop_set_thread_pool(loop, 0, 2);
    loop_submit_work(loop, slow_work, io_done, &r);
    loop_free(loop); /* waits for it */
    g_assert_cmpint(r.done, ==, 21);
}

static void test_unknown(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(loop_new("kqueue", &error));
    g_assert_error(error, RHEA_ERROR, ERROR_CLASS_GENERIC);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*fn)(gconstpointer backend);
    } tests[] = {
        { "timer-order", test_timer_order },
        { "timer-accuracy", test_timer_accuracy },
        { "virtual-clock", test_virtual_clock },
        { "cross-thread", test_cross_thread },
        { "fds", test_fds },
        { "regular-file", test_regular_file },
        { "many-fds", test_many_fds },
        { "polling", test_polling },
        { "io", test_io },
        { "work", test_work },
    };
    static const char *const backends[] = { "io_uring", "epoll" };

    g_test_init(&argc, &argv, NULL);
    for (size_t b = 0; b < G_N_ELEMENTS(backends); b++) {
        for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
            g_autofree char *path = g_strdup_printf("/loop/%s/%s", backends[b], tests[i].name);

            g_test_add_data_func(path, backends[b], tests[i].fn);
        }
    }
    g_test_add_func("/loop/unknown", test_unknown);
    return g_test_run();
}
