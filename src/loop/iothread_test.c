/* Tests of -object iothread. SPDX-License-Identifier: GPL-2.0-or-later */
#include "loop/iothread.h"

#include <unistd.h>

static void note_thread(void *opaque)
{
    *(pid_t *)opaque = gettid();
}

static void test_life(void)
{
    g_autoptr(GError) error = NULL;
    Object *root = object_root_new();
    json_object *props = json_tokener_parse("{'poll-max-ns':'10000','thread-pool-max':'4'}"), *list;
    Visitor *v = visitor_new_input(props, true);
    Object *obj = user_creatable_add(root, "iothread", "io1", v, &error);
    pid_t ran_in = 0;
    int64_t value = 0;
    IoThread *t;

    g_assert_no_error(error);
    t = (IoThread *)obj;
    loop_call_sync(iothread_get_loop(t), note_thread, &ran_in);
    g_assert_cmpint(ran_in, ==, iothread_thread_id(t));
    g_assert_cmpint(ran_in, !=, gettid());
    g_assert_true(object_property_get_int(obj, "poll-max-ns", &value, &error));
    g_assert_cmpint(value, ==, 10000);
    g_assert_true(object_property_set_int(obj, "poll-max-ns", 0, &error));
    g_assert_true(object_property_set_int(obj, "thread-pool-min", 2, &error));
    g_assert_false(object_property_set_int(obj, "thread-pool-min", 5, &error)); /* more than the maximum */
    g_clear_error(&error);
    g_assert_false(object_property_set_int(obj, "poll-max-ns", -1, &error));
    g_clear_error(&error);
    list = iothread_query(root);
    g_assert_cmpint(json_object_array_length(list), ==, 1);
    json_object_put(list);
    g_assert_true(user_creatable_del(root, "io1", &error));
    g_assert_no_error(error);
    visitor_free(v);
    json_object_put(props);
    object_unref(root);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/iothread/life", test_life);
    return g_test_run();
}
