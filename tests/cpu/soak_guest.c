/*
 * The first process of a guest, for cpu_guest_test.py. What it does, by "soak=" on the kernel's command line:
 *  work: programs of many kinds whose results are known (compared with the same program on the host)
 *  smp:  two threads: x86-TSO litmus tests, self- and cross-modifying code, TLB shootdowns; with four CPUs
 * also litmus tests of four threads Prints "soak: NAME RESULT" lines and "soak: done". On the host:
 * soak_guest work. SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void say(const char *name, unsigned long long result)
{
    printf("soak: %s %llx\n", name, result);
    fflush(stdout);
}

/* ---- work ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
    return h * 0xff51afd7ed558ccdu;
}

static uint32_t state = 12345;
static uint32_t next(void)
{
    return state = state * 1664525u + 1013904223u;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t sorting(void)
{
    static uint32_t values[3000];
    uint64_t h = 0;
    for (unsigned i = 0; i < 3000; i++) {
        values[i] = next();
    }
    qsort(values, 3000, sizeof(values[0]), compare);
    for (unsigned i = 0; i < 3000; i++) {
        h = mix(h, values[i]);
    }
    return h;
}

/* Moves and fills of all sizes and alignments, also over page ends. */
static uint64_t moving(void)
{
    static uint8_t a[3 * 4096], b[3 * 4096];
    uint64_t h = 0;
    for (unsigned i = 0; i < sizeof(a); i++) {
        a[i] = (uint8_t)next();
    }
    for (unsigned i = 0; i < 400; i++) {
        unsigned n = next() >> 20, from = next() >> 20, to = next() >> 20;
        memcpy(b + to, a + from, n);
        memmove(a + to, a + from, n);
        memset(b + from, (int)i, n / 2);
        uint8_t *destination = b + from, *source = a + to;
        size_t count = n / 3;
        __asm__ volatile("rep movsb" : "+D"(destination), "+S"(source), "+c"(count) : : "memory");
    }
    for (unsigned i = 0; i < sizeof(a); i++) {
        h = mix(h, (uint64_t)a[i] << 8 | b[i]);
    }
    return h;
}

static uint64_t floating(void)
{
    double sum = 0;
    long double wide = 1;
    for (unsigned i = 1; i < 2000; i++) {
        sum += sqrt(i) / (1 + (double)i * i);
        wide = wide * (1 + 1.0L / i) - (long double)i / 7;
    }
    double d = (double)wide;
    uint64_t h, k;
    memcpy(&h, &sum, 8);
    memcpy(&k, &d, 8);
    return mix(h, k);
}

/* Arguments on the stack, pushed through memory; the stack's page ends lie anywhere. */
struct large {
    uint64_t v[9];
};
static __attribute__((noinline)) uint64_t passed(struct large l, unsigned depth)
{
    uint64_t pad[depth % 7 + 1];
    for (unsigned i = 0; i < depth % 7 + 1; i++) {
        pad[i] = l.v[i];
    }
    l.v[depth % 9] += pad[depth % (depth % 7 + 1)];
    return depth ? mix(passed(l, depth - 1), l.v[depth % 9]) : l.v[0];
}

/* push [rsp + d] and call [rsp + d] at every place of two pages. */
static uint64_t pushing(void)
{
    uint8_t *stack = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t h = 0;
    for (unsigned i = 0; i < 4 * 4096; i++) {
        stack[i] = (uint8_t)next();
    }
    for (unsigned at = 4096 - 64; at < 4096 + 64; at += 8) {
        uint64_t *top = (uint64_t *)(void *)(stack + 4096 + at), out, out2;
        __asm__ volatile("mov %%rsp, %%r12\n\t"
                         "mov %2, %%rsp\n\t"
                         "push 16(%%rsp)\n\t"
                         "push 0x808(%%rsp)\n\t"
                         "lea 1f(%%rip), %%rax\n\t"
                         "mov %%rax, 40(%%rsp)\n\t"
                         "call *40(%%rsp)\n"
                         "1:\tpop %%rax\n\t" /* the return address, or (behind RET) what was pushed */
                         "pop %0\n\t"
                         "pop %1\n\t"
                         "mov %%r12, %%rsp"
                         : "=&r"(out), "=&r"(out2)
                         : "r"(top)
                         : "rax", "r12", "memory");
        h = mix(mix(h, out), out2);
    }
    for (unsigned i = 0; i < 4 * 4096; i++) {
        if (i % 8 == 0 && *(uint64_t *)(void *)(stack + i) >> 40) {
            h = mix(h, stack[i]); /* not the addresses of code */
        }
    }
    munmap(stack, 4 * 4096);
    return h;
}

static uint64_t carrying(void)
{
    uint64_t a[40], b[40], h = 0;
    for (unsigned i = 0; i < 40; i++) {
        a[i] = mix(i, next());
        b[i] = mix(next(), i);
    }
    for (unsigned round = 0; round < 200; round++) {
        unsigned char carry = 0;
        for (unsigned i = 0; i < 40; i++) {
            unsigned long long sum;
            carry = __builtin_ia32_addcarryx_u64(carry, a[i], b[(i + round) % 40], &sum);
            a[i] = sum;
            unsigned __int128 wide = (unsigned __int128)sum * b[i] + round;
            h = mix(h, (uint64_t)(wide >> 64) ^ (uint64_t)wide % (b[i] | 1));
        }
    }
    return h;
}

/* ---- returns: those that a processor (or a translator) predicts, and all the others ---- */

static __attribute__((noinline)) uint64_t deep(unsigned n)
{
    return n ? mix(deep(n - 1), n) : 1;
}

static jmp_buf out_of_it;
static __attribute__((noinline)) uint64_t jumping(unsigned n)
{
    static volatile bool always = true;
    if (n == 0 && always) {
        longjmp(out_of_it, 1);
    }
    return n ? mix(jumping(n - 1), n) : 0;
}

/* A function in a page of its own: calls what it is given and returns `result`. */
static uint8_t *caller;
static void caller_make(uint8_t *at, uint32_t result)
{
    static const uint8_t code[] = { 0x53, 0xff, 0xd7, 0xb8, 0, 0, 0, 0, 0x5b, 0xc3 };
    uint8_t made[sizeof(code)];
    memcpy(made, code, sizeof(code)); /* push rbx; call rdi; mov eax, result; pop rbx; ret */
    memcpy(made + 4, &result, 4);
    memcpy(at, made, sizeof(made));
}
static uint32_t caller_next;
static void caller_written(void)
{
    caller_make(caller, caller_next);
}
static void caller_moved(void)
{
    uint8_t *other = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    caller_make(other, caller_next);
    mremap(other, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, caller);
}
static void caller_left(void)
{
}

static sigjmp_buf returned_badly;
static void on_bad_return(int sig)
{
    siglongjmp(returned_badly, sig);
}

static uint64_t returning(void)
{
    volatile uint64_t h = 0;
    for (unsigned i = 0; i < 20; i++) {
        h = mix(h, deep(i * 500)); /* more than anybody predicts */
    }
    for (volatile unsigned i = 0; i < 200; i++) {
        if (setjmp(out_of_it) == 0) {
            h = mix(h, jumping(i % 40 + 1));
        }
        h = mix(h, deep(20));
    }
    /* Calls without returns, and returns without calls. */
    uint64_t count = 0, at;
    __asm__ volatile("mov $100000, %%ecx\n"
                     "1:\tcall 2f\n"
                     "2:\tpop %1\n\t"
                     "add $1, %0\n\t"
                     "lea 3f(%%rip), %1\n\t"
                     "push %1\n\t"
                     "ret\n\t"
                     "int3\n"
                     "3:\tsub $1, %%ecx\n\t"
                     "jnz 1b"
                     : "+r"(count), "=&r"(at)
                     :
                     : "rcx", "memory", "cc");
    h = mix(h, count + deep(50));
    /* The code behind the call changes before it is returned to. */
    caller = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    caller_make(caller, 1);
    static void (*const callees[])(void) = { caller_left, caller_written, caller_moved };
    for (unsigned i = 0; i < 300; i++) {
        uint32_t (*call)(void (*)(void));
        memcpy(&call, &caller, sizeof(call));
        caller_next = i + 2;
        h = mix(h, call(callees[i < 100 ? 0 : i % 3]));
    }
    munmap(caller, 4096);
    /* No address at all. */
    struct sigaction action = { .sa_handler = on_bad_return, .sa_flags = SA_NODEFER };
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    for (volatile unsigned i = 0; i < 20; i++) {
        uint64_t to = UINT64_C(0x8000000000000000) >> (i % 3);
        int sig = sigsetjmp(returned_badly, 1);
        if (sig == 0) {
            __asm__ volatile("push %0; ret" : : "r"(to) : "memory");
        }
        h = mix(h, (uint64_t)sig + deep(10));
    }
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    return h;
}

/* A page of code that stands at two addresses jumps to whatever page comes behind it, by each kind of branch,
 * with its flags; and that page is replaced by another one. */
static uint64_t neighbours(void)
{
    /* At the end of the first page, entries at 0xf00, 0xf20 and 0xf40: of the arguments, jump and fall
     * through or not. */
    static const uint8_t jumps[] = {
        0x39, 0xf7, 0xe9, 0xf9, 0x00, 0x00, 0x00
    }; /* cmp edi, esi; jmp +0x1000 */
    static const uint8_t branches[] = { 0x39, 0xf7, 0x0f, 0x82, 0xd8, 0x00,
                                        0x00, 0x00,                           /* cmp edi, esi; jb +0x1000 */
                                        0xb8, 0x63, 0x00, 0x00, 0x00, 0xc3 }; /* mov eax, 99; ret */
    static const uint8_t calls[] = { 0x39, 0xf7, 0xe8, 0xb9,
                                     0x00, 0x00, 0x00,         /* cmp edi, esi; call +0x1000 */
                                     0x83, 0xc0, 0x64, 0xc3 }; /* add eax, 100; ret */
    /* setb al; movzx eax, al; add eax, N; ret */
    uint8_t target[] = { 0x0f, 0x92, 0xc0, 0x0f, 0xb6, 0xc0, 0x83, 0xc0, 0, 0xc3 };
    enum { PAGES = 3 };
    int fd = memfd_create("neighbours", 0);
    if (fd < 0 || ftruncate(fd, PAGES * 4096) < 0) {
        return 0;
    }
    uint8_t *file = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    memcpy(file + 0xf00, jumps, sizeof(jumps));
    memcpy(file + 0xf20, branches, sizeof(branches));
    memcpy(file + 0xf40, calls, sizeof(calls));
    for (unsigned n = 1; n < PAGES; n++) {
        target[8] = (uint8_t)(10 * n);
        memcpy(file + n * 4096, target, sizeof(target));
    }
    uint8_t *at[2];
    for (unsigned k = 0; k < 2; k++) {
        at[k] = mmap(NULL, 2 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mmap(at[k], 4096, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
        mmap(at[k] + 4096, 4096, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, (k + 1) * 4096);
    }
    uint64_t h = 0;
    for (unsigned round = 0; round < 12; round++) {
        /* Long at the one address, then by turns. */
        for (unsigned i = 0; i < 3000; i++) {
            unsigned k = round < 2 ? round : i & 1;
            for (unsigned entry = 0; entry < 3; entry++) {
                uint32_t (*call)(uint32_t, uint32_t);
                const uint8_t *code = at[k] + 0xf00 + entry * 0x20;
                memcpy(&call, &code, sizeof(call));
                h = mix(h, call(i % 5, 2));
            }
        }
        if (round > 3) {
            mmap(at[round & 1] + 4096, 4096, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd,
                 (round / 2 % 2 + 1) * 4096);
        }
    }
    return h;
}

/* Memory in more TiBs than anybody has windows for, as V8's heap is. It may be slower than other memory, but
 * not by orders of magnitude. */
enum { PLACES = 24, SCATTERED_ROUNDS = 40000 };
static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double walk(volatile uint64_t *const *at, uint64_t *h)
{
    double best = 1e9;
    for (unsigned n = 0; n < 3; n++) { /* the host may be busy with something else */
        double begun = seconds();
        for (unsigned i = 0; i < SCATTERED_ROUNDS; i++) {
            for (unsigned k = 0; k < PLACES; k++) {
                *at[k] = *at[(k + i) % PLACES] * 5 + i;
            }
        }
        double took = seconds() - begun;
        best = took < best ? took : best;
    }
    for (unsigned k = 0; k < PLACES; k++) {
        *h = mix(*h, *at[k]);
    }
    return best;
}

static uint64_t scattered(void)
{
    volatile uint64_t *near[PLACES], *far[PLACES];
    uint8_t *one = mmap(NULL, PLACES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t h = 0;
    for (unsigned k = 0; k < PLACES; k++) {
        void *want = (void *)(uintptr_t)((2 * k + 3) * (UINT64_C(1) << 40) + 0x123000);
        uint8_t *page = mmap(want, 4096, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (page == MAP_FAILED || one == MAP_FAILED) {
            return 0;
        }
        near[k] = (volatile uint64_t *)(void *)(one + k * 4096);
        far[k] = (volatile uint64_t *)(void *)page;
        *near[k] = *far[k] = k;
    }
    for (double begun = seconds(); seconds() - begun < 0.1;) {} /* it has run for long */
    double fast = walk(near, &h), slow = walk(far, &h);
    for (unsigned k = 0; k < PLACES; k++) {
        munmap((void *)(uintptr_t)far[k], 4096);
    }
    munmap(one, PLACES * 4096);
    return mix(h, slow > 30 * fast + 0.2);
}

/* Protection keys, where the processor has them: memory that is used much is locked and unlocked by its key.
 * What should not have worked is counted. */
static sigjmp_buf denied;
static void on_denied(int sig, siginfo_t *info, void *context)
{
    (void)context;
    siglongjmp(denied, info->si_code == SEGV_PKUERR ? 1 : sig);
}

static void key_rights(int key, unsigned rights)
{
    __asm__ volatile("wrpkru" : : "a"(rights << (2 * key)), "c"(0), "d"(0) : "memory");
}

/* Whether the memory could be read or written; changes nothing else. */
static bool reaches(volatile uint64_t *at, bool write)
{
    int why = sigsetjmp(denied, 1);
    if (why == 0) {
        for (unsigned i = 0; i < 64; i++) {
            if (write) {
                at[i] = i;
            } else {
                (void)at[i];
            }
        }
    }
    return why != 1;
}

static uint64_t use_keys(void)
{
    unsigned a, b, c, d;
    uint64_t wrong = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(c & 16)) {
        return 0; /* OSPKE */
    }
    struct sigaction catch = { .sa_sigaction = on_denied, .sa_flags = SA_SIGINFO }, before;
    sigaction(SIGSEGV, &catch, &before);
    int key = pkey_alloc(0, 0);
    uint64_t *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (key < 0 || memory == MAP_FAILED || pkey_mprotect(memory, 4096, PROT_READ | PROT_WRITE, key) < 0) {
        return 1000;
    }
    for (double begun = seconds(); seconds() - begun < 0.05;) {
        wrong += !reaches(memory, true);
    }
    for (unsigned n = 0; n < 300; n++) {
        unsigned rights = n % 3;
        key_rights(key, rights);
        wrong += reaches(memory, false) != (rights != 1);
        key_rights(key, rights); /* a signal's handler has rights of its own, and siglongjmp keeps them */
        wrong += reaches(memory, true) != (rights == 0);
        key_rights(key, 0);
        wrong += !reaches(memory, true);
    }
    pkey_mprotect(memory, 4096, PROT_READ | PROT_WRITE, 0);
    pkey_free(key);
    munmap(memory, 4096);
    sigaction(SIGSEGV, &before, NULL);
    return wrong;
}

/* Not by process 1, whose faults the kernel reports. */
static uint64_t keys(void)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        uint64_t wrong = use_keys();
        _exit(wrong > 100 ? 100 : (int)wrong);
    }
    waitpid(child, &status, 0);
    return (uint64_t)status;
}

static uint64_t processes(void)
{
    uint64_t h = 0;
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            uint8_t *p = malloc(300000);
            memset(p, i, 300000);
            _exit(p[299999] + 3);
        }
        int status = 0;
        waitpid(child, &status, 0);
        h = mix(h, (uint64_t)WEXITSTATUS(status));
    }
    return h;
}

static void work(void)
{
    struct large l = { { 1, 2, 3, 4, 5, 6, 7, 8, 9 } };
    say("sorting", sorting());
    say("moving", moving());
    say("floating", floating());
    say("passed", passed(l, 300));
    say("pushing", pushing());
    say("carrying", carrying());
    say("returning", returning());
    say("neighbours", neighbours());
    say("scattered", scattered());
    say("keys", keys());
    say("processes", processes());
}

/* ---- two threads ---- */

static _Alignas(64) atomic_uint arrived;
static _Alignas(64) volatile uint32_t x;
static _Alignas(64) volatile uint32_t y;
static uint32_t seen[2][2];
static atomic_int stop;

static void meet(unsigned n)
{
    atomic_fetch_add(&arrived, 1);
    for (unsigned spins = 0; atomic_load(&arrived) < 2 * n;) {
        if (++spins % 4096 == 0) {
            sched_yield();
        }
    }
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

typedef struct Litmus {
    const char *name;
    void (*run[2])(uint32_t r[2]);
    bool (*forbidden)(void);
} Litmus;

#define LOAD(to, from)   __asm__ volatile("mov %1, %0" : "=r"(to) : "m"(from) : "memory")
#define STORE(to, value) __asm__ volatile("movl %1, %0" : "=m"(to) : "r"((uint32_t)(value)) : "memory")
#define FENCE()          __asm__ volatile("mfence" : : : "memory")
#define EXCHANGE(to, v)                                                     \
    do {                                                                    \
        uint32_t old = (v);                                                 \
        __asm__ volatile("xchg %0, %1" : "+r"(old), "+m"(to) : : "memory"); \
    } while (0)

static void sb_fence_0(uint32_t r[2])
{
    STORE(x, 1);
    FENCE();
    LOAD(r[0], y);
}
static void sb_fence_1(uint32_t r[2])
{
    STORE(y, 1);
    FENCE();
    LOAD(r[0], x);
}
static void sb_xchg_0(uint32_t r[2])
{
    EXCHANGE(x, 1);
    LOAD(r[0], y);
}
static void sb_xchg_1(uint32_t r[2])
{
    EXCHANGE(y, 1);
    LOAD(r[0], x);
}
static bool both_zero(void)
{
    return seen[0][0] == 0 && seen[1][0] == 0;
}
static void mp_0(uint32_t r[2])
{
    STORE(x, 1);
    STORE(y, 1);
    r[0] = 0;
}
static void mp_1(uint32_t r[2])
{
    LOAD(r[0], y);
    LOAD(r[1], x);
}
static bool mp_bad(void)
{
    return seen[1][0] == 1 && seen[1][1] == 0;
}
static void lb_0(uint32_t r[2])
{
    LOAD(r[0], x);
    STORE(y, 1);
}
static void lb_1(uint32_t r[2])
{
    LOAD(r[0], y);
    STORE(x, 1);
}
static bool both_one(void)
{
    return seen[0][0] == 1 && seen[1][0] == 1;
}
static void corr_0(uint32_t r[2])
{
    STORE(x, 1);
    STORE(x, 2);
    r[0] = 0;
}
static void corr_1(uint32_t r[2])
{
    LOAD(r[0], x);
    LOAD(r[1], x);
}
static bool backwards(void)
{
    return seen[1][1] < seen[1][0];
}
static void s_0(uint32_t r[2])
{
    STORE(x, 2);
    STORE(y, 1);
    r[0] = 0;
}
static void s_1(uint32_t r[2])
{
    LOAD(r[0], y);
    STORE(x, 1);
}
static bool s_bad(void)
{
    return seen[1][0] == 1 && x == 2;
}

static const Litmus litmus[] = {
    { "SB+mfences", { sb_fence_0, sb_fence_1 }, both_zero },
    { "SB+xchgs", { sb_xchg_0, sb_xchg_1 }, both_zero },
    { "MP", { mp_0, mp_1 }, mp_bad },
    { "LB", { lb_0, lb_1 }, both_one },
    { "CoRR", { corr_0, corr_1 }, backwards },
    { "S", { s_0, s_1 }, s_bad },
};
#define LITMUS_ROUNDS 20000

static const Litmus *current;

static void *litmus_other(void *unused)
{
    pin(1);
    for (unsigned n = 0; n < LITMUS_ROUNDS; n++) {
        meet(3 * n + 1);
        current->run[1](seen[1]);
        meet(3 * n + 2);
        meet(3 * n + 3);
    }
    return unused;
}

static void litmus_all(void)
{
    for (unsigned i = 0; i < sizeof(litmus) / sizeof(litmus[0]); i++) {
        pthread_t other;
        unsigned long long bad = 0;
        current = &litmus[i];
        atomic_store(&arrived, 0);
        pthread_create(&other, NULL, litmus_other, NULL);
        for (unsigned n = 0; n < LITMUS_ROUNDS; n++) {
            x = y = 0;
            meet(3 * n + 1);
            current->run[0](seen[0]);
            meet(3 * n + 2);
            bad += current->forbidden();
            meet(3 * n + 3);
        }
        pthread_join(other, NULL);
        say(litmus[i].name, bad);
    }
}

/* ---- four threads: many instances at once, each in cache lines of its own, so that they need not meet for
 * each ---- */

enum { THREADS = 4, INSTANCES = 256, BATCHES = 150 };
typedef struct Places {
    _Alignas(64) volatile uint32_t x;
    _Alignas(64) volatile uint32_t y;
} Places;
static Places places[INSTANCES];
static uint32_t read_by[THREADS][INSTANCES][2];

typedef struct Litmus4 {
    const char *name;
    void (*run[THREADS])(Places *p, uint32_t r[2]); /* NULL: fewer threads */
    bool (*forbidden)(const Places *p, unsigned i);
} Litmus4;

static void write_x(Places *p, uint32_t r[2])
{
    (void)r;
    STORE(p->x, 1);
}
static void write_y(Places *p, uint32_t r[2])
{
    (void)r;
    STORE(p->y, 1);
}
static void read_xy(Places *p, uint32_t r[2])
{
    LOAD(r[0], p->x);
    LOAD(r[1], p->y);
}
static void read_yx(Places *p, uint32_t r[2])
{
    LOAD(r[0], p->y);
    LOAD(r[1], p->x);
}
static void add_x(Places *p, uint32_t r[2])
{
    (void)r;
    __asm__ volatile("lock addl $1, %0" : "+m"(p->x) : : "memory");
}
static void pass_x_to_y(Places *p, uint32_t r[2])
{
    LOAD(r[0], p->x);
    STORE(p->y, 1);
}
static void write_y_fence_read_x(Places *p, uint32_t r[2])
{
    STORE(p->y, 1);
    FENCE();
    LOAD(r[0], p->x);
}
static void write_x_then_y(Places *p, uint32_t r[2])
{
    (void)r;
    STORE(p->x, 1);
    STORE(p->y, 2);
}
static void write_y_then_x(Places *p, uint32_t r[2])
{
    (void)r;
    STORE(p->y, 1);
    STORE(p->x, 2);
}
static void stream_x_then_y(Places *p, uint32_t r[2])
{
    (void)r;
    __asm__ volatile("movntil %1, %0\n\tsfence" : "=m"(p->x) : "r"(1) : "memory");
    STORE(p->y, 1);
}
static void two_x(Places *p, uint32_t r[2])
{
    LOAD(r[0], p->x);
    LOAD(r[1], p->x);
}
static void write_x_2(Places *p, uint32_t r[2])
{
    (void)r;
    STORE(p->x, 2);
}

/* Two readers see two writes in different orders. */
static bool iriw_bad(const Places *p, unsigned i)
{
    (void)p;
    return read_by[2][i][0] == 1 && read_by[2][i][1] == 0 && read_by[3][i][0] == 1 && read_by[3][i][1] == 0;
}
static bool wrc_bad(const Places *p, unsigned i)
{
    (void)p;
    return read_by[1][i][0] == 1 && read_by[2][i][0] == 1 && read_by[2][i][1] == 0;
}
static bool rwc_bad(const Places *p, unsigned i)
{
    (void)p;
    return read_by[1][i][0] == 1 && read_by[1][i][1] == 0 && read_by[2][i][0] == 0;
}
static bool twice_bad(const Places *p, unsigned i)
{
    (void)i;
    return p->x == 1 && p->y == 1;
}
static bool stream_bad(const Places *p, unsigned i)
{
    (void)p;
    return (read_by[1][i][0] == 1 && read_by[1][i][1] == 0) ||
           (read_by[2][i][0] == 1 && read_by[2][i][1] == 0);
}
static bool count_bad(const Places *p, unsigned i)
{
    (void)i;
    return p->x != THREADS;
}
static bool corr_bad(const Places *p, unsigned i)
{
    const uint32_t *a = read_by[2][i], *b = read_by[3][i];
    return (a[0] == 1 && a[1] == 2 && b[0] == 2 && b[1] == 1) ||
           (a[0] == 2 && a[1] == 1 && b[0] == 1 && b[1] == 2) || (a[0] && !a[1]) || (b[0] && !b[1]) ||
           (p->x != 1 && p->x != 2);
}

static const Litmus4 litmus4[] = {
    { "IRIW", { write_x, write_y, read_xy, read_yx }, iriw_bad },
    { "IRIW+locked", { add_x, write_y, read_xy, read_yx }, iriw_bad },
    { "WRC", { write_x, pass_x_to_y, read_yx, NULL }, wrc_bad },
    { "RWC+mfence", { write_x, read_xy, write_y_fence_read_x, NULL }, rwc_bad },
    { "2+2W", { write_x_then_y, write_y_then_x, NULL, NULL }, twice_bad },
    { "MP+movnti+sfence", { stream_x_then_y, read_yx, read_yx, NULL }, stream_bad },
    { "CoRR2", { write_x, write_x_2, two_x, two_x }, corr_bad },
    { "locked-adds", { add_x, add_x, add_x, add_x }, count_bad },
};
static const Litmus4 *current4;
static _Alignas(64) atomic_uint arrived4;

static void meet4(unsigned n)
{
    atomic_fetch_add(&arrived4, 1);
    for (unsigned spins = 0; atomic_load(&arrived4) < THREADS * n;) {
        if (++spins % 256 == 0) {
            usleep(1); /* gives the host's processor to a CPU that has something to do */
        }
    }
}

static unsigned long long found4;
static void *litmus4_thread(void *number)
{
    unsigned t = (unsigned)(uintptr_t)number;
    pin((int)t);
    for (unsigned n = 0; n < BATCHES; n++) {
        if (t == 0) {
            memset(places, 0, sizeof(places));
        }
        meet4(3 * n + 1);
        for (unsigned i = 0; i < INSTANCES && current4->run[t]; i++) {
            unsigned at = (t & n & 1) ? INSTANCES - 1 - i : i;
            current4->run[t](&places[at], read_by[t][at]);
        }
        meet4(3 * n + 2);
        for (unsigned i = 0; i < INSTANCES && t == 0; i++) {
            found4 += current4->forbidden(&places[i], i);
        }
        meet4(3 * n + 3);
    }
    return NULL;
}

static void litmus4_all(void)
{
    for (unsigned k = 0; k < sizeof(litmus4) / sizeof(litmus4[0]); k++) {
        pthread_t thread[THREADS];
        current4 = &litmus4[k];
        found4 = 0;
        atomic_store(&arrived4, 0);
        for (unsigned t = 1; t < THREADS; t++) {
            pthread_create(&thread[t], NULL, litmus4_thread, (void *)(uintptr_t)t);
        }
        litmus4_thread(NULL);
        for (unsigned t = 1; t < THREADS; t++) {
            pthread_join(thread[t], NULL);
        }
        say(litmus4[k].name, found4);
    }
}

static void serialize(void)
{
    uint32_t a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

/* mov eax, imm32; ret, with the constant aligned. */
static uint8_t *code;
static atomic_uint published;
typedef uint32_t Function(void);

static void code_make(void)
{
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(code, 0x90, 4096);
    code[3] = 0xb8;
    memset(code + 4, 0, 4);
    code[8] = 0xc3;
}

static unsigned long long self_modifying(void)
{
    unsigned long long bad = 0;
    Function *function = (Function *)(uintptr_t)code;
    for (uint32_t n = 1; n < 3000; n++) {
        *(volatile uint32_t *)(void *)(code + 4) = n;
        bad += function() != n;
    }
    /* mov [rdi], esi; mov eax, imm32; ret: the store changes what follows it */
    static const uint8_t ahead[] = { 0x89, 0x37, 0xb8, 0, 0, 0, 0, 0xc3 };
    memcpy(code + 64, ahead, sizeof(ahead));
    uint32_t (*ahead_function)(void *, uint32_t) = (uint32_t(*)(void *, uint32_t))(uintptr_t)(code + 64);
    for (uint32_t n = 1; n < 3000; n++) {
        bad += ahead_function(code + 67, n) != n;
    }
    return bad;
}

static void *patcher(void *unused)
{
    pin(1);
    for (uint32_t n = 1; n <= 4000; n++) {
        *(volatile uint32_t *)(void *)(code + 4) = n;
        atomic_store(&published, n);
        for (volatile unsigned spin = 0; spin < 200; spin++) {}
    }
    atomic_store(&stop, 1);
    return unused;
}

static unsigned long long cross_modifying(void)
{
    Function *function = (Function *)(uintptr_t)code;
    unsigned long long bad = 0;
    uint32_t last = 0;
    pthread_t other;
    *(volatile uint32_t *)(void *)(code + 4) = 0;
    atomic_store(&stop, 0);
    atomic_store(&published, 0);
    pthread_create(&other, NULL, patcher, NULL);
    while (!atomic_load(&stop)) {
        uint32_t at_least = atomic_load(&published);
        serialize();
        uint32_t got = function();
        bad += got < at_least || got < last || got > 4000;
        last = got;
    }
    pthread_join(other, NULL);
    serialize();
    bad += function() != 4000;
    return bad;
}

/* One thread writes to a page as fast as it can; the other makes it read-only, or takes it away. Once that is
 * done nothing may be written any more. */
static uint8_t *page;
static __thread sigjmp_buf fault;

static void on_fault(int sig)
{
    siglongjmp(fault, sig);
}

static void *writer(void *unused)
{
    volatile uint64_t count = 0;
    pin(1);
    while (!atomic_load(&stop)) {
        if (sigsetjmp(fault, 1) == 0) {
            for (unsigned i = 0; i < 100; i++) {
                *(volatile uint64_t *)(void *)page = ++count;
            }
        }
    }
    return unused;
}

static unsigned long long shootdown(void)
{
    unsigned long long bad = 0;
    pthread_t other;
    int fd = memfd_create("page", 0);
    if (fd < 0 || ftruncate(fd, 4096) < 0) {
        return 0xbad;
    }
    volatile uint64_t *view = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    signal(SIGSEGV, on_fault);
    atomic_store(&stop, 0);
    pthread_create(&other, NULL, writer, NULL);
    for (unsigned n = 0; n < 300; n++) {
        if (n & 1) {
            mprotect(page, 4096, PROT_READ);
        } else {
            mmap(page, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        }
        uint64_t then = *view;
        for (volatile unsigned spin = 0; spin < 3000; spin++) {}
        bad += *view != then;
        mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
        for (unsigned spin = 0; *view == then && spin < 2000; spin++) {
            sched_yield(); /* until it writes again */
        }
    }
    atomic_store(&stop, 1);
    pthread_join(other, NULL);
    return bad;
}

static void smp(void)
{
    pin(0);
    say("cpus", (unsigned long long)sysconf(_SC_NPROCESSORS_ONLN));
    if (sysconf(_SC_NPROCESSORS_ONLN) >= THREADS) {
        litmus4_all();
        pin(0);
    }
    litmus_all();
    code_make();
    say("self-modifying", self_modifying());
    say("cross-modifying", cross_modifying());
    say("shootdown", shootdown());
}

int main(int argc, char **argv)
{
    char line[1024] = "";
    if (getpid() == 1) {
        mkdir("/proc", 0755);
        mkdir("/sys", 0755);
        mount("proc", "/proc", "proc", 0, NULL);
        mount("sysfs", "/sys", "sysfs", 0, NULL);
        FILE *f = fopen("/proc/cmdline", "r");
        if (f) {
            (void)!fgets(line, sizeof(line), f);
            fclose(f);
        }
    } else if (argc > 1) {
        snprintf(line, sizeof(line), "soak=%s", argv[1]);
    }
    if (strstr(line, "soak=smp")) {
        smp();
    } else {
        work();
    }
    printf("soak: done\n");
    fflush(stdout);
    if (getpid() == 1) {
        sync();
        reboot(RB_POWER_OFF);
    }
    return 0;
}
