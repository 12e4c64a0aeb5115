/* Libraries loaded late: see library.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "host/library.h"

#include "base/error.h"

#include <dlfcn.h>
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* NULL: it is there; else why not, a new string. */
static char *load(Library *l)
{
    void *file = dlopen(l->file, RTLD_NOW | RTLD_LOCAL);

    if (!file) {
        return g_strdup(dlerror());
    }
    for (size_t i = 0; i < l->count; i++) {
        void *symbol = dlsym(file, l->names[i]);

        if (!symbol) {
            dlclose(file);
            return g_strdup_printf("%s has no %s", l->file, l->names[i]);
        }
        l->symbols[i] = symbol;
    }
    return NULL;
}

bool library_load(Library *l, GError **error)
{
    g_autofree char *why = NULL;

    if (__atomic_load_n(&l->loaded, __ATOMIC_ACQUIRE)) {
        return true;
    }
    pthread_mutex_lock(&lock);
    if (!l->loaded) {
        why = load(l);
        __atomic_store_n(&l->loaded, !why, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
    if (why) {
        error_set(error, "%s needs a library that cannot be loaded: %s", l->what, why);
        error_append_hint(error, "Install the package %s.", l->package);
    }
    return !why;
}
