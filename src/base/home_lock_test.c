/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/home_lock.h"

#include <glib.h>

static void test_reentry_is_refused(void)
{
    HomeLock a, b;
    home_lock_init(&a);
    home_lock_init(&b);
    g_assert_true(home_lock_enter(&a));
    g_assert_true(home_lock_held(&a));
    g_assert_false(home_lock_enter(&a));
    /* Another lock is another matter, and a refused entry leaves the first one held. */
    g_assert_true(home_lock_enter(&b));
    home_unlock(&b);
    g_assert_true(home_lock_held(&a));
    home_unlock(&a);
    g_assert_false(home_lock_held(&a));
    g_assert_true(home_lock_enter(&a));
    home_unlock(&a);
    home_lock_destroy(&a);
    home_lock_destroy(&b);
}

typedef struct Shared {
    HomeLock lock;
    int counter;
} Shared;

static gpointer count(gpointer opaque)
{
    Shared *s = opaque;
    for (int i = 0; i < 20000; i++) {
        g_assert_true(home_lock_enter(&s->lock));
        s->counter++;
        home_unlock(&s->lock);
    }
    return NULL;
}

static void test_excludes_threads(void)
{
    Shared s = { .counter = 0 };
    home_lock_init(&s.lock);
    GThread *threads[3];
    for (int i = 0; i < 3; i++) {
        threads[i] = g_thread_new("count", count, &s);
    }
    for (int i = 0; i < 3; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpint(s.counter, ==, 60000);
    home_lock_destroy(&s.lock);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/home-lock/reentry", test_reentry_is_refused);
    g_test_add_func("/home-lock/threads", test_excludes_threads);
    return g_test_run();
}
