/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "atomics": locked instructions, and a lock that two threads want. */
#include "bench.h"

#include <pthread.h>
#include <sched.h>

static uint64_t run_xadd(uint64_t count)
{
    uint64_t counters[8] = { 0 };

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        __atomic_fetch_add(&counters[i & 7], i, __ATOMIC_SEQ_CST);
        __atomic_fetch_sub(&counters[(i + 3) & 7], 1, __ATOMIC_SEQ_CST);
    }
    bench_stop();
    return bench_mix_bytes(0, counters, sizeof counters);
}

static uint64_t run_cmpxchg(uint64_t count)
{
    uint64_t word = 1, other = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t old = __atomic_load_n(&word, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&word, &old, old * 5 + i, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            ;
        other ^= __atomic_exchange_n(&word, old + 1, __ATOMIC_SEQ_CST);
        __atomic_or_fetch(&word, 1, __ATOMIC_SEQ_CST);
    }
    bench_stop();
    return bench_mix(word, other);
}

/* Two threads hand a lock to and fro: half of the turns sleep on a futex and are woken. */
typedef struct Shared {
    pthread_mutex_t lock;
    pthread_cond_t turned;
    uint64_t rounds, turn, total;
} Shared;

static void play(Shared *shared, uint64_t self)
{
    pthread_mutex_lock(&shared->lock);
    for (;;) {
        while (shared->turn % 2 != self && shared->turn < shared->rounds)
            pthread_cond_wait(&shared->turned, &shared->lock);
        if (shared->turn >= shared->rounds)
            break;
        shared->total = bench_mix(shared->total, shared->turn);
        shared->turn++;
        pthread_cond_signal(&shared->turned);
        for (unsigned i = 0; i < 20; i++) { /* the uncontended case */
            pthread_mutex_unlock(&shared->lock);
            pthread_mutex_lock(&shared->lock);
        }
    }
    pthread_mutex_unlock(&shared->lock);
}

static void *play_second(void *shared)
{
    play(shared, 1);
    return NULL;
}

static uint64_t run_mutex(uint64_t count)
{
    Shared shared = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, count, 0, 0 };
    pthread_t second;

    bench_start();
    if (pthread_create(&second, NULL, play_second, &shared) != 0)
        bench_fail("no thread");
    play(&shared, 0);
    pthread_join(second, NULL);
    bench_stop();
    return shared.total;
}

const BenchProgram atomic_programs[] = {
    { "xadd", "atomics", run_xadd, 36000000 },
    { "cmpxchg", "atomics", run_cmpxchg, 24000000 },
    { "mutex", "atomics", run_mutex, 40000 },
    { 0 },
};
