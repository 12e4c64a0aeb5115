/*
 * What an event costs, and whether sources that have nothing to do add to it: one busy source alone, then
 * beside 1,000 idle descriptors, timers and bottom halves, with both monitors; then requests on a disk that
 * holds nothing.
 *
 *     loop_bench [SECONDS-PER-MEASUREMENT]
 *
 * Rounds of both kinds alternate, and the median of their ratios is printed, since other work shares the
 * host. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block.h"
#include "loop/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDLE   1000
#define ROUNDS 15

static double seconds = 0.1;

static double now(void)
{
    return (double)clock_now_ns(NULL, CLOCK_TYPE_REALTIME) / 1e9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof(*v), compare);
    return v[n / 2];
}

typedef struct Busy {
    EventNotifier e;
    uint64_t events;
} Busy;

static void on_busy(void *opaque)
{
    Busy *b = opaque;

    event_notifier_test_and_clear(&b->e);
    b->events++;
    event_notifier_set(&b->e);
}

static void never(void *opaque)
{
    abort();
}

static void nothing(void *opaque)
{
}

static bool no_work(void *opaque)
{
    return false;
}

typedef struct Bed {
    Loop *loop;
    Busy busy;
    EventNotifier idle[IDLE];
    LoopFd *fds[IDLE], *busy_fd;
    Timer timers[IDLE], far;
    BottomHalf *bhs[IDLE];
    int idle_count;
} Bed;

static Bed *bed_new(const char *backend, int idle)
{
    Bed *bed = g_new0(Bed, 1);

    bed->loop = loop_new(backend, NULL);
    if (!bed->loop) {
        g_free(bed);
        return NULL;
    }
    bed->idle_count = idle;
    for (int i = 0; i < idle; i++) {
        event_notifier_init(&bed->idle[i], NULL);
        bed->fds[i] = loop_add_fd(bed->loop, bed->idle[i].fd, never, NULL, no_work, bed, NULL);
        timer_init(&bed->timers[i], bed->loop, NULL, CLOCK_TYPE_REALTIME, never, bed, NULL);
        timer_set(&bed->timers[i], clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + INT64_C(1000000000000) + i);
        bed->bhs[i] = bh_new(bed->loop, never, bed, NULL);
    }
    /* A loop with any timer at all has a deadline to look at: both have one. */
    timer_init(&bed->far, bed->loop, NULL, CLOCK_TYPE_REALTIME, never, bed, NULL);
    timer_set(&bed->far, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + INT64_C(900000000000));
    event_notifier_init(&bed->busy.e, NULL);
    bed->busy_fd = loop_add_fd(bed->loop, bed->busy.e.fd, on_busy, NULL, NULL, &bed->busy, NULL);
    event_notifier_set(&bed->busy.e);
    return bed;
}

static void bed_free(Bed *bed)
{
    for (int i = 0; i < bed->idle_count; i++) {
        loop_remove_fd(bed->fds[i]);
        event_notifier_destroy(&bed->idle[i]);
        timer_destroy(&bed->timers[i]);
        bh_free(bed->bhs[i]);
    }
    timer_destroy(&bed->far);
    loop_remove_fd(bed->busy_fd);
    loop_free(bed->loop);
    event_notifier_destroy(&bed->busy.e);
    g_free(bed);
}

/* ns for an event. */
static double bed_run(Bed *bed, double for_seconds)
{
    double start = now(), end;
    uint64_t before = bed->busy.events;

    do {
        for (int i = 0; i < 200; i++) {
            loop_iterate(bed->loop, true);
        }
        end = now();
    } while (end - start < for_seconds);
    return (end - start) * 1e9 / (double)(bed->busy.events - before);
}

static void bench_idle(const char *backend)
{
    Bed *alone = bed_new(backend, 0), *crowded = bed_new(backend, IDLE);
    double one[ROUNDS], many[ROUNDS], ratio[ROUNDS];

    if (!alone) {
        printf("loop %-8s not available here\n", backend);
        return;
    }
    bed_run(alone, seconds);
    bed_run(crowded, seconds);
    for (int i = 0; i < ROUNDS; i++) {
        one[i] = bed_run(alone, seconds);
        many[i] = bed_run(crowded, seconds);
        ratio[i] = many[i] / one[i];
    }
    printf("loop %-8s one busy source: %.0f ns an event; beside %d idle ones: %.0f ns; ratio %.3f\n", backend,
           median(one, ROUNDS), IDLE, median(many, ROUNDS), median(ratio, ROUNDS));
    bed_free(alone);
    bed_free(crowded);
}

static void bench_timers(const char *backend)
{
    Bed *bed = bed_new(backend, 0);
    static double late[500];
    Timer t;

    if (!bed) {
        return;
    }
    event_notifier_test_and_clear(&bed->busy.e);
    timer_init(&t, bed->loop, NULL, CLOCK_TYPE_REALTIME, nothing, NULL, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(late); i++) {
        int64_t due_ns = clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + 200000;

        timer_set(&t, due_ns);
        while (timer_pending(&t)) {
            loop_iterate(bed->loop, true);
        }
        late[i] = (double)(clock_now_ns(NULL, CLOCK_TYPE_REALTIME) - due_ns);
    }
    qsort(late, G_N_ELEMENTS(late), sizeof(*late), compare);
    printf("loop %-8s timers late by: median %.1f us, p99 %.1f us\n", backend,
           late[G_N_ELEMENTS(late) / 2] / 1000, late[G_N_ELEMENTS(late) * 99 / 100] / 1000);
    timer_destroy(&t);
    bed_free(bed);
}

typedef struct Requests {
    BlockBackend *bb;
    Loop *loop;
    struct iovec iov;
    uint64_t done;
} Requests;

static void next_request(void *opaque, int result)
{
    Requests *r = opaque;

    r->done++;
    bb_readv(r->bb, r->loop, (r->done * 4096) & 0xffff000, &r->iov, 1, next_request, r);
}

static void bench_null(void)
{
    Loop *loop = loop_new(NULL, NULL);
    BlockRegistry *reg = block_registry_new(loop, NULL);
    BlockDrive *drive = block_drive_add_text(reg, "driver=null-co,id=n", "none", NULL);
    static uint8_t buf[4096];
    Requests *r = g_new0(Requests, 1);
    double start, end;

    *r = (Requests){ .bb = drive->bb, .loop = loop, .iov = { buf, sizeof(buf) } };
    next_request(r, 0);
    r->done = 0;
    start = now();
    do {
        for (int i = 0; i < 10; i++) {
            loop_iterate(loop, true);
        }
        end = now();
    } while (end - start < 5 * seconds);
    printf("block null-co 4K reads, one at a time: %.0f a second\n", (double)r->done / (end - start));
    /* The last request is still under way: leave the registry to the end of the process. */
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        seconds = atof(argv[1]);
    }
    bench_idle("io_uring");
    bench_idle("epoll");
    bench_timers("io_uring");
    bench_timers("epoll");
    bench_null();
    return 0;
}
