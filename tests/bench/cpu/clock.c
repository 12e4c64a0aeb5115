/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "time": reading clocks, and sleeping for short whiles. */
#include "bench.h"

#include <time.h>
#include <x86intrin.h>

static uint64_t run_clock_gettime(uint64_t count)
{
    struct timespec last = { 0 }, now;
    uint64_t backwards = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        backwards += now.tv_sec < last.tv_sec || (now.tv_sec == last.tv_sec && now.tv_nsec < last.tv_nsec);
        last = now;
    }
    bench_stop();
    return backwards;
}

static uint64_t run_rdtsc(uint64_t count)
{
    uint64_t last = 0, backwards = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t now = __rdtsc();
        backwards += now < last;
        last = now;
    }
    bench_stop();
    return backwards;
}

static uint64_t run_sleep(uint64_t count)
{
    uint64_t early = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        struct timespec while_ = { 0, 1000000 };
        uint64_t before = bench_now_ns();
        nanosleep(&while_, NULL);
        early += bench_now_ns() - before < 1000000;
    }
    bench_stop();
    return early;
}

const BenchProgram time_programs[] = {
    { "clock_gettime", "time", run_clock_gettime, 8200000 },
    { "rdtsc", "time", run_rdtsc, 19000000 },
    { "sleep", "time", run_sleep, 180 },
    { 0 },
};
