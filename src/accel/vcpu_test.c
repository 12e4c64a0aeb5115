/* Threads of vCPUs under a fake accelerator: stops, work, sleep, end. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "accel/accel.h"

#include "base/error.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#define TYPE_FAKE_ACCEL "fake-accel"
#define CPUS            3

static unsigned long executed[CPUS];

static void fake_exec(Accel *accel, X86Cpu *cpu)
{
    while (!cpu->halted &&
           !(__atomic_load_n(&cpu->interrupt_request, __ATOMIC_ACQUIRE) & CPU_INTERRUPT_EXIT)) {
        __atomic_add_fetch(&executed[cpu->index], 1, __ATOMIC_RELAXED);
    }
}

static bool fake_available(GError **error)
{
    return true;
}

static void fake_class_init(ObjectClass *klass, const void *data)
{
    AccelClass *ac = (AccelClass *)klass;

    ac->name = "fake";
    ac->alias = "sham";
    ac->available = fake_available;
    ac->vcpu_exec = fake_exec;
}

static const TypeInfo fake_info = {
    .name = TYPE_FAKE_ACCEL,
    .parent = TYPE_ACCEL,
    .class_init = fake_class_init,
};
TYPE_REGISTER(fake_info);

typedef struct Fixture {
    Accel *accel;
    ClockSet *clocks;
    VcpuSet *set;
    X86Cpu *cpus[CPUS];
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    GError *error = NULL;

    memset(executed, 0, sizeof(executed));
    f->accel = accel_new("kvm:fake", NULL, &error);
    g_assert_no_error(error);
    f->clocks = clock_set_new();
    f->set = vcpu_set_new(f->accel, f->clocks);
    for (unsigned i = 0; i < CPUS; i++) {
        f->cpus[i] = (X86Cpu *)object_new_known("qemu64-x86_64-cpu");
        f->cpus[i]->index = i;
        g_assert_true(vcpu_set_add(f->set, f->cpus[i], &error));
    }
}

static void tear_down(Fixture *f, gconstpointer data)
{
    vcpu_set_free(f->set);
    for (unsigned i = 0; i < CPUS; i++) {
        object_unref(OBJECT(f->cpus[i]));
    }
    clock_set_free(f->clocks);
    object_unref(OBJECT(f->accel));
}

static unsigned long count(unsigned i)
{
    return __atomic_load_n(&executed[i], __ATOMIC_RELAXED);
}

static void test_names(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(accel_new("nonsense", NULL, &error));
    g_assert_nonnull(strstr(error->message, "invalid accelerator nonsense"));
    g_clear_error(&error);
    g_assert_null(accel_new("fakf", NULL, &error));
    g_assert_nonnull(strstr(error->message, "fake"));
    Accel *accel = accel_new("sham", NULL, NULL);
    g_assert_cmpstr(object_get_typename(OBJECT(accel)), ==, TYPE_FAKE_ACCEL);
    object_unref(OBJECT(accel));
}

static void test_stop(Fixture *f, gconstpointer data)
{
    g_assert_false(vcpu_set_running(f->set));
    g_assert_cmpuint(vcpu_set_count(f->set), ==, CPUS);
    usleep(2000);
    for (unsigned i = 0; i < CPUS; i++) {
        g_assert_cmpuint(count(i), ==, 0);
        g_assert_cmpint(vcpu_thread_id(f->cpus[i]), >, 0);
        g_assert_cmpint(vcpu_thread_id(f->cpus[i]), !=, getpid());
    }
    g_assert_cmpint(vcpu_thread_id(f->cpus[0]), !=, vcpu_thread_id(f->cpus[1]));
    for (int round = 0; round < 200; round++) {
        vcpu_set_resume(f->set);
        g_assert_true(vcpu_set_running(f->set));
        if (round % 3 == 0) {
            usleep(100);
        }
        vcpu_set_pause(f->set);
        unsigned long before[CPUS];
        for (unsigned i = 0; i < CPUS; i++) {
            before[i] = count(i);
        }
        if (round % 10 == 0) {
            usleep(300);
        }
        for (unsigned i = 0; i < CPUS; i++) {
            g_assert_cmpuint(count(i), ==, before[i]);
        }
    }
    /* Pauses count. */
    vcpu_set_pause(f->set);
    vcpu_set_resume(f->set);
    g_assert_false(vcpu_set_running(f->set));
    vcpu_set_resume(f->set);
    for (int wait = 0; wait < 5000 && (!count(0) || !count(1) || !count(2)); wait++) {
        usleep(1000);
    }
    for (unsigned i = 0; i < CPUS; i++) {
        g_assert_cmpuint(count(i), >, 0);
    }
}

static void note_thread(X86Cpu *cpu, void *opaque)
{
    *(pid_t *)opaque = gettid();
}

static void test_work(Fixture *f, gconstpointer data)
{
    for (int running = 0; running < 2; running++) {
        for (int round = 0; round < 50; round++) {
            for (unsigned i = 0; i < CPUS; i++) {
                pid_t tid = 0;
                vcpu_run_on(f->cpus[i], note_thread, &tid);
                g_assert_cmpint(tid, ==, vcpu_thread_id(f->cpus[i]));
            }
        }
        if (running == 0) {
            g_assert_cmpuint(count(0), ==, 0); /* work did not let the guest run */
            vcpu_set_resume(f->set);
        }
    }
}

static void halt(X86Cpu *cpu, void *opaque)
{
    cpu->halted = true;
}

static void unhalt(X86Cpu *cpu, void *opaque)
{
    cpu->halted = false;
}

static void test_sleep(Fixture *f, gconstpointer data)
{
    vcpu_set_resume(f->set);
    for (unsigned i = 0; i < CPUS; i++) {
        vcpu_run_on(f->cpus[i], halt, NULL);
    }
    unsigned long before = count(1);
    int64_t cpu_before = clock();
    usleep(50000);
    g_assert_cmpuint(count(1), ==, before);
    /* Asleep, not spinning: 50 ms of three spinning threads would be 100 ms and more on two cores. */
    g_assert_cmpint((clock() - cpu_before) * 1000 / CLOCKS_PER_SEC, <, 25);
    vcpu_run_on(f->cpus[1], unhalt, NULL);
    for (int wait = 0; wait < 5000 && count(1) == before; wait++) {
        usleep(1000);
    }
    g_assert_cmpuint(count(1), >, before);
    /* A pause reaches a sleeper, and freeing ends it. */
    vcpu_set_pause(f->set);
    vcpu_set_resume(f->set);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vcpu/names", test_names);
    g_test_add("/vcpu/stop", Fixture, NULL, set_up, test_stop, tear_down);
    g_test_add("/vcpu/work", Fixture, NULL, set_up, test_work, tear_down);
    g_test_add("/vcpu/sleep", Fixture, NULL, set_up, test_sleep, tear_down);
    return g_test_run();
}
