/*
 * How threads read what the memory map publishes: liburcu's "bp" flavour behind four inline functions. It
 * needs no thread registration (a thread registers itself at its first read lock), its read side costs a
 * load, a store and a compiler barrier where the kernel has membarrier(2), and signals and forks are taken
 * care of.
 *
 * liburcu is not instrumented for ThreadSanitizer, so the two annotations below tell it what a grace period
 * orders: everything before an unlock happens before a reclamation. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MEM_RCU_H
#define RHEA_MEM_RCU_H

#if defined(__SANITIZE_THREAD__)
#define RHEA_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RHEA_TSAN 1
#endif
#endif
#ifndef RHEA_TSAN
#define RHEA_TSAN 0
#endif

/* Inlines the read side; not where sanitizers would trip over liburcu's own alignment of its reader records.
 */
#if !defined(_LGPL_SOURCE) && !RHEA_TSAN && !defined(__SANITIZE_ADDRESS__) && !defined(__clang_analyzer__)
#define _LGPL_SOURCE
#endif
#include <urcu-bp.h>

#include <stdbool.h>

#if RHEA_TSAN
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
extern char memory_rcu_tsan_clock;
#define RCU_TSAN_RELEASE() __tsan_release(&memory_rcu_tsan_clock)
#define RCU_TSAN_ACQUIRE() __tsan_acquire(&memory_rcu_tsan_clock)
#else
#define RCU_TSAN_RELEASE() ((void)0)
#define RCU_TSAN_ACQUIRE() ((void)0)
#endif

/* A read section: views, targets and regions seen inside stay valid until the unlock. Sections nest; they may
 * take locks and run device operations, but must not wait for a grace period (memory_rcu_synchronize). [any
 * thread] */
static inline void memory_rcu_lock(void)
{
    rcu_read_lock();
}

static inline void memory_rcu_unlock(void)
{
    RCU_TSAN_RELEASE();
    rcu_read_unlock();
}

static inline bool memory_rcu_held(void)
{
    return rcu_read_ongoing();
}

/* Waits until every read section that was under way has ended. Hold no lock that a reader may take. */
static inline void memory_rcu_synchronize(void)
{
    RCU_TSAN_RELEASE();
    synchronize_rcu();
    RCU_TSAN_ACQUIRE();
}

/* Runs fn after a grace period, in liburcu's thread; fn begins with RCU_TSAN_ACQUIRE(). [any thread] */
static inline void memory_rcu_call(struct rcu_head *head, void (*fn)(struct rcu_head *head))
{
    RCU_TSAN_RELEASE();
    call_rcu(head, fn);
}

/* Publishes and reads a pointer. */
#define rcu_publish(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)
#define rcu_fetch(pointer)          __atomic_load_n((pointer), __ATOMIC_ACQUIRE)

#endif
