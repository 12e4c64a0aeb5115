/* The rules of -smp, and the class list. SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/machine.h"

#include <string.h>

static void expect_smp(MachineSmp in, unsigned cpus, unsigned max, unsigned sockets, unsigned dies,
                       unsigned cores, unsigned threads)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(machine_smp_complete(&in, 255, "m", &error));
    g_assert_no_error(error);
    g_assert_cmpuint(in.cpus, ==, cpus);
    g_assert_cmpuint(in.max_cpus, ==, max);
    g_assert_cmpuint(in.sockets, ==, sockets);
    g_assert_cmpuint(in.dies, ==, dies);
    g_assert_cmpuint(in.cores, ==, cores);
    g_assert_cmpuint(in.threads, ==, threads);
}

static void expect_refused(MachineSmp in, const char *part)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(machine_smp_complete(&in, 255, "m", &error));
    g_assert_nonnull(strstr(error->message, part));
}

static void test_smp(void)
{
    expect_smp((MachineSmp){ 0 }, 1, 1, 1, 1, 1, 1);
    expect_smp((MachineSmp){ .cpus = 4 }, 4, 4, 1, 1, 4, 1);
    expect_smp((MachineSmp){ .cpus = 2, .max_cpus = 8, .sockets = 2 }, 2, 8, 2, 1, 4, 1);
    expect_smp((MachineSmp){ .cpus = 8, .cores = 2 }, 8, 8, 4, 1, 2, 1);
    expect_smp((MachineSmp){ .cpus = 8, .cores = 2, .sockets = 2 }, 8, 8, 2, 1, 2, 2);
    expect_smp((MachineSmp){ .sockets = 2, .dies = 2, .cores = 2, .threads = 2 }, 16, 16, 2, 2, 2, 2);
    expect_smp((MachineSmp){ .max_cpus = 3 }, 3, 3, 1, 1, 3, 1);
    expect_refused((MachineSmp){ .cpus = 3, .sockets = 2 }, "must match maxcpus");
    expect_refused((MachineSmp){ .cpus = 4, .max_cpus = 2 }, "maxcpus must be equal to or greater");
    expect_refused((MachineSmp){ .cpus = 256 }, "The max CPUs supported by machine 'm' is 255");
    expect_refused((MachineSmp){ .sockets = 0x7fffffff, .cores = 0x7fffffff, .threads = 0x7fffffff },
                   "The max CPUs");
    expect_refused((MachineSmp){ .cpus = 1, .sockets = 0x7fffffff, .threads = 0x7fffffff, .cores = 1 },
                   "must match maxcpus");
}

static void test_classes(void)
{
    g_autoptr(GError) error = NULL;
    MachineClass *pc = machine_class_find("pc", &error);

    g_assert_no_error(error);
    g_assert_cmpstr(pc->name, ==, "pc-i440fx-8.1");
    g_assert_true(pc->is_default);
    g_assert_true(machine_class_default() == pc);
    MachineClass *old = machine_class_find("pc-i440fx-8.0", &error);
    g_assert_false(old->is_default);
    g_assert_null(old->alias);
    /* Versions differ by tables alone. */
    g_assert_true(old->init == pc->init && old->ready == pc->ready && old->reset == pc->reset);
    GPtrArray *compat = g_ptr_array_new();
    machine_append_compat(pc, compat);
    g_assert_cmpuint(compat->len, ==, 0);
    machine_append_compat(old, compat);
    g_assert_cmpuint(compat->len, >, 0);
    g_ptr_array_unref(compat);
    g_assert_nonnull(machine_class_find("none", NULL));
    g_assert_null(machine_class_find("pc-i440fx-8.2", &error));
    g_assert_nonnull(strstr(error->message, "unsupported machine type 'pc-i440fx-8.2'"));
    g_assert_nonnull(strstr(error->message, "pc-i440fx-8."));

    g_autofree char *help = machine_help();
    g_assert_nonnull(strstr(help, "(alias of pc-i440fx-8.1)"));
    GPtrArray *list = machine_class_list();
    for (guint i = 0; i < list->len; i++) {
        const MachineClass *mc = list->pdata[i];
        g_assert_nonnull(mc->name);
        g_assert_nonnull(mc->description);
        g_assert_cmpuint(mc->max_cpus, >=, 1);
    }
    g_ptr_array_unref(list);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/machine/smp", test_smp);
    g_test_add_func("/machine/classes", test_classes);
    return g_test_run();
}
