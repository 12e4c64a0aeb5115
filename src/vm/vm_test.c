/* Run states, requests and events of a machine without a board. SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/vm.h"

#include "base/error.h"

#include <string.h>

typedef struct Fixture {
    Vm *vm;
    GString *events;
} Fixture;

static void on_event(void *opaque, const char *event, json_object *data, int64_t seconds, int microseconds)
{
    Fixture *f = opaque;
    json_object *reason, *guest;

    g_assert_cmpint(seconds, >, 1000000000);
    g_assert_cmpint(microseconds, <, 1000000);
    g_string_append_printf(f->events, "%s%s", f->events->len ? " " : "", event);
    if (data && json_object_object_get_ex(data, "reason", &reason) &&
        json_object_object_get_ex(data, "guest", &guest)) {
        g_string_append_printf(f->events, "(%s,%s)", json_object_get_boolean(guest) ? "guest" : "host",
                               json_object_get_string(reason));
    }
}

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->vm = vm_new(&error);
    g_assert_no_error(error);
    f->events = g_string_new(NULL);
    vm_add_event_sink(f->vm, on_event, f);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    vm_remove_event_sink(f->vm, on_event, f);
    vm_free(f->vm);
    g_string_free(f->events, true);
}

static void turn(Fixture *f)
{
    while (loop_iterate(vm_loop(f->vm), false)) {}
}

static void expect_events(Fixture *f, const char *expected)
{
    turn(f);
    g_assert_cmpstr(f->events->str, ==, expected);
    g_string_truncate(f->events, 0);
}

static void test_start_stop(Fixture *f, gconstpointer data)
{
    GError *error = NULL;

    g_assert_cmpint(vm_run_state(f->vm), ==, RUN_STATE_PRELAUNCH);
    g_assert_cmpstr(enum_name(&run_state_lookup, vm_run_state(f->vm)), ==, "prelaunch");
    int64_t before = clock_now_ns(vm_clocks(f->vm), CLOCK_TYPE_VIRTUAL);
    g_assert_true(vm_start(f->vm, &error));
    g_assert_true(vm_running(f->vm));
    g_assert_true(vm_start(f->vm, &error)); /* harmless */
    expect_events(f, "RESUME");
    g_usleep(1000);
    vm_stop(f->vm, RUN_STATE_PAUSED);
    vm_stop(f->vm, RUN_STATE_PAUSED);
    expect_events(f, "STOP");
    int64_t stopped = clock_now_ns(vm_clocks(f->vm), CLOCK_TYPE_VIRTUAL);
    g_assert_cmpint(stopped, >, before);
    g_usleep(1000);
    g_assert_cmpint(clock_now_ns(vm_clocks(f->vm), CLOCK_TYPE_VIRTUAL), ==, stopped);
    g_assert_cmpint(vm_run_state(f->vm), ==, RUN_STATE_PAUSED);
}

static void test_shutdown_pause(Fixture *f, gconstpointer data)
{
    GError *error = NULL;

    g_assert_true(vm_set_action(f->vm, "shutdown", "pause", &error));
    vm_start(f->vm, NULL);
    vm_request_shutdown(f->vm, SHUTDOWN_GUEST_SHUTDOWN);
    expect_events(f, "RESUME SHUTDOWN(guest,guest-shutdown) STOP");
    g_assert_cmpint(vm_run_state(f->vm), ==, RUN_STATE_SHUTDOWN);
    g_assert_false(vm_start(f->vm, &error));
    g_assert_nonnull(strstr(error->message, "Resetting the Virtual Machine is required"));
    g_clear_error(&error);
    vm_request_reset(f->vm, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    expect_events(f, "RESET(host,host-qmp-system-reset)");
    g_assert_cmpint(vm_run_state(f->vm), ==, RUN_STATE_PRELAUNCH);
    g_assert_true(vm_start(f->vm, &error));
    expect_events(f, "RESUME");
}

static void test_shutdown_ends(Fixture *f, gconstpointer data)
{
    vm_set_action(f->vm, "shutdown", "pause", NULL);
    vm_start(f->vm, NULL);
    vm_request_shutdown(f->vm, SHUTDOWN_HOST_SIGNAL); /* what the host wants ends it all the same */
    g_assert_cmpint(vm_run(f->vm), ==, 0);
    expect_events(f, "RESUME SHUTDOWN(host,host-signal)");
}

static void test_no_reboot(Fixture *f, gconstpointer data)
{
    vm_set_action(f->vm, "reboot", "shutdown", NULL);
    vm_start(f->vm, NULL);
    vm_request_reset(f->vm, SHUTDOWN_GUEST_RESET);
    g_assert_cmpint(vm_run(f->vm), ==, 0);
    expect_events(f, "RESUME SHUTDOWN(guest,guest-reset)");
}

static void *request_from_thread(void *opaque)
{
    for (int i = 0; i < 1000; i++) {
        vm_request_reset(opaque, SHUTDOWN_GUEST_RESET);
    }
    return NULL;
}

static void test_coalesce(Fixture *f, gconstpointer data)
{
    GThread *thread = g_thread_new("requests", request_from_thread, f->vm);

    g_thread_join(thread);
    expect_events(f, "RESET(guest,guest-reset)");
    vm_request_powerdown(f->vm);
    vm_request_powerdown(f->vm);
    expect_events(f, "POWERDOWN");
}

static void test_panic(Fixture *f, gconstpointer data)
{
    vm_set_action(f->vm, "panic", "pause", NULL);
    vm_start(f->vm, NULL);
    vm_guest_panicked(f->vm, false);
    expect_events(f, "RESUME GUEST_PANICKED STOP");
    g_assert_cmpint(vm_run_state(f->vm), ==, RUN_STATE_GUEST_PANICKED);
    vm_request_reset(f->vm, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    expect_events(f, "RESET(host,host-qmp-system-reset)");
    vm_set_action(f->vm, "panic", "exit-failure", NULL);
    vm_start(f->vm, NULL);
    vm_guest_panicked(f->vm, false);
    g_assert_cmpint(vm_run(f->vm), ==, 1);
}

static void test_quit(Fixture *f, gconstpointer data)
{
    vm_start(f->vm, NULL);
    const VmServices *services = vm_services(f->vm);
    services->request_exit(services->opaque, 33);
    services->request_exit(services->opaque, 35); /* the first one counts */
    g_assert_cmpint(vm_run(f->vm), ==, 33);
}

static int run_calls, powerdown_calls;

static void on_run(void *opaque, bool running)
{
    run_calls += running ? 1 : 100;
}

static void on_powerdown(void *opaque)
{
    powerdown_calls++;
}

static void test_handlers(Fixture *f, gconstpointer data)
{
    const VmServices *services = vm_services(f->vm);

    run_calls = powerdown_calls = 0;
    services->add_run_handler(services->opaque, on_run, f);
    services->add_powerdown_handler(services->opaque, on_powerdown, f);
    vm_start(f->vm, NULL);
    g_assert_cmpint(run_calls, ==, 1);
    vm_stop(f->vm, RUN_STATE_PAUSED);
    g_assert_cmpint(run_calls, ==, 101);
    vm_request_powerdown(f->vm);
    turn(f);
    g_assert_cmpint(powerdown_calls, ==, 1);
    services->remove_handlers(services->opaque, f);
    vm_start(f->vm, NULL);
    vm_request_powerdown(f->vm);
    turn(f);
    g_assert_cmpint(run_calls, ==, 101);
    g_assert_cmpint(powerdown_calls, ==, 1);
}

static void test_settings(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(vm_set_action(f->vm, "reboot", "shutdwn", &error));
    g_assert_nonnull(strstr(error->message, "shutdown"));
    g_clear_error(&error);
    g_assert_false(vm_set_action(f->vm, "nothing", "pause", &error));
    g_clear_error(&error);
    g_assert_true(vm_set_uuid(f->vm, "11111111-2222-3333-4444-555555555555", &error));
    g_assert_cmpstr(vm_uuid(f->vm), ==, "11111111-2222-3333-4444-555555555555");
    g_assert_false(vm_set_uuid(f->vm, "nonsense", &error));
    g_clear_error(&error);
    g_assert_false(vm_create_machine(f->vm, "nonsense", &error));
    g_clear_error(&error);
    g_assert_true(vm_create_machine(f->vm, "none", &error));
    g_autofree char *path = object_get_canonical_path(OBJECT(vm_machine(f->vm)));
    g_assert_cmpstr(path, ==, "/machine");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add("/vm/" #name, Fixture, NULL, set_up, test_##name, tear_down)
    TEST(start_stop);
    TEST(shutdown_pause);
    TEST(shutdown_ends);
    TEST(no_reboot);
    TEST(coalesce);
    TEST(panic);
    TEST(quit);
    TEST(handlers);
    TEST(settings);
    return g_test_run();
}
