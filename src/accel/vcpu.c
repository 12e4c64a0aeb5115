/*
 * The threads of vCPUs: one each. A thread runs guest code through its accelerator, sleeps while the vCPU is
 * halted, stands still while the machine is paused, and does work that others hand to it.
 *
 * 1. A thread is "parked" only between two instructions, with the vCPU's state complete and the set's mutex
 * held.
 * 2. Whoever wants the thread's attention first publishes why (interrupt_request, paused, quit, work), then
 * calls vcpu_wake(); the thread first publishes that it sleeps, then looks at all of these. So no wake-up is
 * lost.
 * 3. The APIC timer is a POSIX timer that signals the vCPU's own thread: no other thread is woken for a
 * guest's tick. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/accel.h"
#include "arch/x86/apic.h"
#include "base/error.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define VCPU_SIGNAL SIGUSR1
/* A halted vCPU looks for work this long before it sleeps, if its last sleeps were that short. */
#define SPIN_MAX_NS 50000

typedef struct VcpuWork {
    struct VcpuWork *next;
    void (*fn)(X86Cpu *cpu, void *opaque);
    void *opaque;
    bool done;
} VcpuWork;

typedef struct Vcpu {
    VcpuSet *set;
    X86Cpu *cpu;
    pthread_t thread;
    pid_t tid;
    bool started, parked;
    bool held;         /* under the set's mutex */
    VcpuWork *work;    /* under the set's mutex; read without it only to see whether there is any */
    uint32_t sleeping; /* futex; 1 while the thread sleeps or is about to */
    int64_t spin_ns;
    timer_t timer;
    bool has_timer;
} Vcpu;

struct VcpuSet {
    Accel *accel;
    AccelClass *klass;
    ClockSet *clocks;
    GPtrArray *vcpus; /* of Vcpu * */
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* parked, work, paused or quit changed */
    int pause_count;
    bool paused, quit; /* written under the mutex, read atomically */
};

static __thread Vcpu *current_vcpu;

static int64_t monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void vcpu_wake(Vcpu *v)
{
    if (__atomic_exchange_n(&v->sleeping, 0, __ATOMIC_SEQ_CST)) {
        syscall(SYS_futex, &v->sleeping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    if (v->set->klass->vcpu_kick && current_vcpu != v) {
        v->set->klass->vcpu_kick(v->set->accel, v->cpu);
    }
}

static void vcpu_on_interrupt(X86Cpu *cpu)
{
    if (cpu->vcpu) {
        vcpu_wake(cpu->vcpu);
    }
}

/* The APIC timer's time has come; runs on the vCPU's own thread, in the middle of anything. */
static void vcpu_signal_handler(int signal_number)
{
    Vcpu *v = current_vcpu;

    if (v) {
        int saved = errno;
        __atomic_or_fetch(&v->cpu->interrupt_request, CPU_INTERRUPT_TIMER, __ATOMIC_SEQ_CST);
        __atomic_store_n(&v->sleeping, 0, __ATOMIC_SEQ_CST);
        if (v->set->klass->vcpu_kick) {
            v->set->klass->vcpu_kick(v->set->accel, v->cpu);
        }
        errno = saved;
    }
}

static int64_t vcpu_deadline_ns(const X86Cpu *cpu)
{
    return cpu->apic ? apic_timer_deadline_ns(cpu->apic) : INT64_MAX;
}

static void vcpu_arm_timer(X86Cpu *cpu)
{
    Vcpu *v = cpu->vcpu;
    struct itimerspec spec = { 0 };

    if (!v || v != current_vcpu || !v->has_timer) {
        return; /* at reset from the main loop: the thread arms it when it goes on */
    }
    int64_t deadline = vcpu_deadline_ns(cpu);
    if (deadline != INT64_MAX) {
        int64_t wait = deadline - clock_now_ns(v->set->clocks, CLOCK_TYPE_VIRTUAL);
        if (wait <= 0) {
            wait = 1;
        }
        spec.it_value.tv_sec = wait / 1000000000;
        spec.it_value.tv_nsec = wait % 1000000000;
    }
    timer_settime(v->timer, 0, &spec, NULL);
}

static bool vcpu_has_work(const Vcpu *v)
{
    const AccelClass *klass = v->set->klass;

    return klass->vcpu_wakes ? klass->vcpu_wakes(v->set->accel, v->cpu) : x86_has_work(v->cpu);
}

static bool vcpu_wanted(const Vcpu *v)
{
    return (__atomic_load_n(&v->cpu->interrupt_request, __ATOMIC_SEQ_CST) &
            (CPU_INTERRUPT_EXIT | CPU_INTERRUPT_TIMER)) ||
           vcpu_has_work(v);
}

/* Sleeps in HLT until there is a reason to go on. */
static void vcpu_sleep(Vcpu *v)
{
    int64_t start = monotonic_ns(), now = start;

    while (now - start < v->spin_ns) {
        if (vcpu_wanted(v)) {
            v->spin_ns = SPIN_MAX_NS;
            return;
        }
        for (int i = 0; i < 16; i++) {
            __builtin_ia32_pause();
        }
        now = monotonic_ns();
    }
    for (;;) {
        __atomic_store_n(&v->sleeping, 1, __ATOMIC_SEQ_CST);
        if (vcpu_wanted(v)) {
            break;
        }
        struct timespec timeout, *wait = NULL;
        int64_t deadline = vcpu_deadline_ns(v->cpu);
        if (deadline != INT64_MAX) {
            int64_t left = deadline - clock_now_ns(v->set->clocks, CLOCK_TYPE_VIRTUAL);
            if (left <= 0) {
                __atomic_or_fetch(&v->cpu->interrupt_request, CPU_INTERRUPT_TIMER, __ATOMIC_SEQ_CST);
                break;
            }
            timeout.tv_sec = left / 1000000000;
            timeout.tv_nsec = left % 1000000000;
            wait = &timeout;
        }
        syscall(SYS_futex, &v->sleeping, FUTEX_WAIT_PRIVATE, 1, wait, NULL, 0);
    }
    __atomic_store_n(&v->sleeping, 0, __ATOMIC_SEQ_CST);
    v->spin_ns = monotonic_ns() - start <= SPIN_MAX_NS ? SPIN_MAX_NS : v->spin_ns / 2;
    if (v->spin_ns < 2000) {
        v->spin_ns = 0;
    }
}

static void vcpu_do_work(Vcpu *v) /* the mutex is held, and let go of while work runs */
{
    while (v->work) {
        VcpuWork *w = v->work;
        __atomic_store_n(&v->work, w->next, __ATOMIC_RELAXED);
        bool parked = v->parked;
        v->parked = false; /* a pause waits until this is over */
        pthread_mutex_unlock(&v->set->mutex);
        w->fn(v->cpu, w->opaque);
        pthread_mutex_lock(&v->set->mutex);
        v->parked = parked;
        w->done = true;
        pthread_cond_broadcast(&v->set->changed);
    }
}

static void *vcpu_main(void *opaque)
{
    Vcpu *v = opaque;
    VcpuSet *set = v->set;
    X86Cpu *cpu = v->cpu;
    sigset_t signals;
    char name[16];

    current_vcpu = v;
    apic_set_thread(cpu->apic);
    sigfillset(&signals);
    sigdelset(&signals, SIGSEGV);
    sigdelset(&signals, SIGBUS);
    sigdelset(&signals, SIGFPE);
    sigdelset(&signals, SIGILL);
    sigdelset(&signals, SIGTRAP);
    sigdelset(&signals, SIGABRT);
    sigdelset(&signals, VCPU_SIGNAL);
    pthread_sigmask(SIG_SETMASK, &signals, NULL);
    g_snprintf(name, sizeof(name), "CPU %u/%.3s", cpu->index, set->klass->name ? set->klass->name : "?");
    for (char *p = strchr(name, '/'); *p; p++) {
        *p = g_ascii_toupper(*p);
    }
    pthread_setname_np(pthread_self(), name);

    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = VCPU_SIGNAL };
    event._sigev_un._tid = gettid();
    v->has_timer = timer_create(CLOCK_MONOTONIC, &event, &v->timer) == 0;

    pthread_mutex_lock(&set->mutex);
    v->tid = gettid();
    v->started = true;
    pthread_cond_broadcast(&set->changed);
    for (;;) {
        /* Cleared first: whoever sets it afterwards has published its reason, which is looked at now. */
        cpu_interrupt_clear(cpu, CPU_INTERRUPT_EXIT);
        vcpu_do_work(v);
        if (set->quit) {
            break;
        }
        if (set->paused || v->held) {
            while ((set->paused || v->held) && !set->quit && !v->work) {
                if (!v->parked) { /* a resume and a new pause may both come before this thread wakes */
                    v->parked = true;
                    pthread_cond_broadcast(&set->changed);
                }
                pthread_cond_wait(&set->changed, &set->mutex);
            }
            if (!set->paused && !v->held) {
                vcpu_arm_timer(cpu); /* virtual time stood still */
            }
            continue;
        }
        v->parked = false;
        pthread_mutex_unlock(&set->mutex);
        while (!(__atomic_load_n(&cpu->interrupt_request, __ATOMIC_ACQUIRE) & CPU_INTERRUPT_EXIT)) {
            if (cpu->halted) {
                if (!set->klass->vcpu_wakes) {
                    x86_handle_interrupts(cpu);
                }
                if (cpu->halted && !vcpu_has_work(v)) {
                    vcpu_sleep(v);
                    continue;
                }
            }
            set->klass->vcpu_exec(set->accel, cpu);
        }
        if (set->klass->vcpu_sync) {
            set->klass->vcpu_sync(set->accel, cpu);
        }
        pthread_mutex_lock(&set->mutex);
    }
    v->parked = true;
    pthread_cond_broadcast(&set->changed);
    pthread_mutex_unlock(&set->mutex);
    if (v->has_timer) {
        timer_delete(v->timer);
    }
    return NULL;
}

VcpuSet *vcpu_set_new(Accel *accel, ClockSet *clocks)
{
    VcpuSet *set = g_new0(VcpuSet, 1);
    struct sigaction action = { .sa_handler = vcpu_signal_handler, .sa_flags = SA_RESTART };

    set->accel = accel;
    set->klass = ACCEL_GET_CLASS(accel);
    set->clocks = clocks;
    set->vcpus = g_ptr_array_new();
    set->pause_count = 1;
    set->paused = true;
    pthread_mutex_init(&set->mutex, NULL);
    pthread_cond_init(&set->changed, NULL);
    sigfillset(&action.sa_mask);
    sigaction(VCPU_SIGNAL, &action, NULL);
    cpu_wake_hook = vcpu_on_interrupt;
    cpu_timer_hook = vcpu_arm_timer;
    return set;
}

static void vcpu_set_attention(VcpuSet *set)
{
    for (guint i = 0; i < set->vcpus->len; i++) {
        cpu_interrupt(((Vcpu *)set->vcpus->pdata[i])->cpu, CPU_INTERRUPT_EXIT);
    }
}

void vcpu_set_free(VcpuSet *set)
{
    if (!set) {
        return;
    }
    pthread_mutex_lock(&set->mutex);
    __atomic_store_n(&set->quit, true, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&set->changed);
    pthread_mutex_unlock(&set->mutex);
    vcpu_set_attention(set);
    for (guint i = 0; i < set->vcpus->len; i++) {
        Vcpu *v = set->vcpus->pdata[i];
        pthread_join(v->thread, NULL);
        v->cpu->vcpu = NULL;
        g_free(v);
    }
    g_ptr_array_unref(set->vcpus);
    pthread_cond_destroy(&set->changed);
    pthread_mutex_destroy(&set->mutex);
    g_free(set);
}

bool vcpu_set_add(VcpuSet *set, X86Cpu *cpu, GError **error)
{
    Vcpu *v = g_new0(Vcpu, 1);
    pthread_attr_t attr;

    v->set = set;
    v->cpu = cpu;
    cpu->vcpu = v;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 1024 * 1024);
    int result = pthread_create(&v->thread, &attr, vcpu_main, v);
    pthread_attr_destroy(&attr);
    if (result) {
        cpu->vcpu = NULL;
        g_free(v);
        return error_set_errno(error, result, "cannot start the thread of CPU %u", cpu->index);
    }
    pthread_mutex_lock(&set->mutex);
    while (!v->started) {
        pthread_cond_wait(&set->changed, &set->mutex);
    }
    g_ptr_array_add(set->vcpus, v);
    pthread_mutex_unlock(&set->mutex);
    return true;
}

void vcpu_set_pause(VcpuSet *set)
{
    pthread_mutex_lock(&set->mutex);
    set->pause_count++;
    __atomic_store_n(&set->paused, true, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&set->mutex);
    vcpu_set_attention(set);
    pthread_mutex_lock(&set->mutex);
    for (guint i = 0; i < set->vcpus->len; i++) {
        Vcpu *v = set->vcpus->pdata[i];
        while (!v->parked && v != current_vcpu) {
            pthread_cond_wait(&set->changed, &set->mutex);
        }
    }
    pthread_mutex_unlock(&set->mutex);
}

void vcpu_set_resume(VcpuSet *set)
{
    pthread_mutex_lock(&set->mutex);
    if (set->pause_count > 0 && --set->pause_count == 0) {
        __atomic_store_n(&set->paused, false, __ATOMIC_SEQ_CST);
        for (guint i = 0; i < set->vcpus->len; i++) {
            /* Else a pause right after this could take the old mark for a new stop. */
            ((Vcpu *)set->vcpus->pdata[i])->parked = false;
        }
        pthread_cond_broadcast(&set->changed);
    }
    pthread_mutex_unlock(&set->mutex);
}

bool vcpu_set_running(const VcpuSet *set)
{
    return !__atomic_load_n(&set->paused, __ATOMIC_SEQ_CST);
}

unsigned vcpu_set_count(const VcpuSet *set)
{
    return set->vcpus->len;
}

X86Cpu *vcpu_set_get(const VcpuSet *set, unsigned index)
{
    return index < set->vcpus->len ? ((Vcpu *)set->vcpus->pdata[index])->cpu : NULL;
}

pid_t vcpu_thread_id(const X86Cpu *cpu)
{
    return cpu->vcpu ? ((Vcpu *)cpu->vcpu)->tid : 0;
}

void vcpu_hold(X86Cpu *cpu, bool hold)
{
    Vcpu *v = cpu->vcpu;

    if (!v) {
        return;
    }
    pthread_mutex_lock(&v->set->mutex);
    v->held = hold;
    pthread_cond_broadcast(&v->set->changed);
    pthread_mutex_unlock(&v->set->mutex);
    if (hold) {
        cpu_interrupt(cpu, CPU_INTERRUPT_EXIT);
    }
}

void vcpu_run_on(X86Cpu *cpu, void (*fn)(X86Cpu *cpu, void *opaque), void *opaque)
{
    Vcpu *v = cpu->vcpu;
    VcpuWork work = { .fn = fn, .opaque = opaque };

    if (!v || v == current_vcpu) {
        fn(cpu, opaque);
        return;
    }
    pthread_mutex_lock(&v->set->mutex);
    VcpuWork **tail = &v->work;
    while (*tail) {
        tail = &(*tail)->next;
    }
    __atomic_store_n(tail, &work, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&v->set->changed);
    pthread_mutex_unlock(&v->set->mutex);
    cpu_interrupt(cpu, CPU_INTERRUPT_EXIT);
    pthread_mutex_lock(&v->set->mutex);
    while (!work.done) {
        pthread_cond_wait(&v->set->changed, &v->set->mutex);
    }
    pthread_mutex_unlock(&v->set->mutex);
}
