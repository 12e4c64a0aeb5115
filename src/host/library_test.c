/* Libraries loaded late. SPDX-License-Identifier: GPL-2.0-or-later */
#include "host/library.h"

#include "base/error.h"

#include <math.h>

/* What is not there is declared here only. */
void no_such_function(void);
extern const int no_such_data;

#define MATH_SYMBOLS(X, P) X(P, hypot) X(P, signgam)
LIBRARY_TABLE(math, , MATH_SYMBOLS, "libm.so.6", "libc6", "This test");
LIBRARY_TABLE(shared, , MATH_SYMBOLS, "libm.so.6", "libc6", "This test");
#define WRONG_SYMBOLS(X, P) X(P, hypot) X(P, no_such_function)
LIBRARY_TABLE(wrong, , WRONG_SYMBOLS, "libm.so.6", "libc6", "This test");
#define ABSENT_SYMBOLS(X, P) X(P, _data)
LIBRARY_TABLE(absent, no_such, ABSENT_SYMBOLS, "libno-such-library.so.1", "libno-such1", "This test");

static void test_load(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(math.hypot);
    g_assert_true(library_load(&math_library, &error));
    g_assert_no_error(error);
    g_assert_cmpfloat(math.hypot(3, 4), ==, 5);
    g_assert_nonnull(math.signgam);
    void *before = (void *)math.hypot;
    g_assert_true(library_load(&math_library, NULL));
    g_assert_true((void *)math.hypot == before);
}

static void expect_failure(Library *library, const char *why, const char *package)
{
    for (int i = 0; i < 2; i++) { /* it fails again, and the lock is free */
        g_autoptr(GError) error = NULL;

        g_assert_false(library_load(library, &error));
        g_autofree char *message = error_message(error), *hint = error_hint(error);
        g_assert_nonnull(strstr(message, "This test needs a library"));
        g_assert_nonnull(strstr(message, why));
        g_assert_nonnull(strstr(hint, package));
    }
}

static void test_missing(void)
{
    expect_failure(&wrong_library, "libm.so.6 has no no_such_function", "libc6");
    expect_failure(&absent_library, "libno-such-library.so.1", "libno-such1");
}

static gpointer loader(gpointer result)
{
    *(bool *)result = library_load(&shared_library, NULL) && shared.hypot(6, 8) > 9.9;
    return NULL;
}

static void test_threads(void)
{
    GThread *threads[8];
    bool results[8] = { false };

    for (int i = 0; i < 8; i++) {
        threads[i] = g_thread_new("loader", loader, &results[i]);
    }
    for (int i = 0; i < 8; i++) {
        g_thread_join(threads[i]);
        g_assert_true(results[i]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/host/library/load", test_load);
    g_test_add_func("/host/library/missing", test_missing);
    g_test_add_func("/host/library/threads", test_threads);
    return g_test_run();
}
