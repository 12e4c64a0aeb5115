/*
 * Shared libraries that are loaded when the first user wants them. Linking one costs every start: to find,
 * map and relocate it and what it stands on takes 0.1 to 2 ms, and up to some MiB stay resident.
 *
 *     #define ZSTD_SYMBOLS(X, P) X(P, isError) X(P, compress)
 *     LIBRARY_TABLE(zstd, ZSTD_, ZSTD_SYMBOLS, SONAME_ZSTD, "libzstd1", "zstd compression");
 *
 *     if (!library_load(&zstd_library, error)) {
 *         return false;
 *     }
 *     zstd.compress(...);
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HOST_LIBRARY_H
#define RHEA_HOST_LIBRARY_H

#include <glib.h>
#include <stdbool.h>

typedef struct Library {
    const char *file;    /* as the loader finds it: meson.build's SONAME_* */
    const char *package; /* Debian's, for the hint */
    const char *what;    /* wants it: "zstd compression" */
    const char *const *names;
    void **symbols; /* as many, in the same order */
    size_t count;
    gsize loaded;
} Library;

/* Fills the table of pointers; at once where that was done before. From any thread. What failed once is tried
 * again: a package may be installed meanwhile. A library stays loaded. */
bool library_load(Library *library, GError **error);

#define LIBRARY_MEMBER(prefix, symbol) __typeof__(prefix##symbol) *symbol;
#define LIBRARY_NAME(prefix, symbol)   #prefix #symbol,
/* A table `name` of pointers to functions or data, which library_load(&name_library) fills. */
#define LIBRARY_TABLE(name, prefix, SYMBOLS, file_, package_, what_)              \
    static struct {                                                               \
        SYMBOLS(LIBRARY_MEMBER, prefix)                                           \
    } name;                                                                       \
    static const char *const name##_names[] = { SYMBOLS(LIBRARY_NAME, prefix) };  \
    G_STATIC_ASSERT(sizeof(name) == G_N_ELEMENTS(name##_names) * sizeof(void *)); \
    static Library name##_library = { .file = file_,                              \
                                      .package = package_,                        \
                                      .what = what_,                              \
                                      .names = name##_names,                      \
                                      .symbols = (void **)(void *)&name,          \
                                      .count = G_N_ELEMENTS(name##_names) }

#endif
