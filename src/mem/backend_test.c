/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "mem/memory_backend.h"
#include "mem/rcu.h"

#include <string.h>
#include <unistd.h>

static Object *make(Object *root, const char *text, GError **error)
{
    g_autofree char *whole = g_strdup_printf("%s,id=mem0", text);
    return user_creatable_add_text(root, whole, error);
}

static void refused(const char *text, const char *why)
{
    g_autoptr(GError) error = NULL;
    Object *root = object_root_new();
    g_assert_null(make(root, text, &error));
    g_assert_nonnull(error);
    if (!strstr(error->message, why)) {
        g_error("'%s' lacks '%s'", error->message, why);
    }
    object_unref(root);
}

static void test_made(void)
{
    g_autoptr(GError) error = NULL;
    Object *root = object_root_new();
    Object *mem = make(root, "memory-backend-memfd,size=4M,prealloc=on,prealloc-threads=2", &error);
    g_assert_no_error(error);
    RamBlock *block = memory_backend_block(mem);
    g_assert_cmpuint(block->size, ==, 4 << 20);
    g_assert_true(block->shared);
    g_assert_cmpint(block->fd, >=, 0);
    g_assert_cmpstr(block->id, ==, "/objects/mem0");
    g_assert_false(object_property_set_bool(mem, "share", false, &error));
    g_clear_error(&error);
    ram_block_ref(block);
    g_assert_false(user_creatable_del(root, "mem0", &error)); /* in use */
    g_clear_error(&error);
    ram_block_unref(block);
    g_assert_true(user_creatable_del(root, "mem0", &error));
    mem = make(root, "memory-backend-ram,size=1M,policy=bind,host-nodes=0,merge=off,dump=off", &error);
    if (!mem) { /* a host without NUMA support in its kernel */
        g_test_message("%s", error->message);
        g_clear_error(&error);
    }
    object_unref(root);
}

static void test_refusals(void)
{
    refused("memory-backend-ram", "size");
    refused("memory-backend-ram,size=16E", "size");
    refused("memory-backend-ram,size=1M,pmem=on", "pmem");
    refused("memory-backend-file,size=1M,mem-path=/tmp,pmem=on", "pmem");
    refused("memory-backend-file,size=1M", "mem-path");
    refused("memory-backend-file,size=1M,mem-path=/nonexistent/x", "/nonexistent/x");
    refused("memory-backend-ram,size=1M,policy=bind", "host-nodes");
    refused("memory-backend-ram,size=1M,host-nodes=0", "host-nodes");
    refused("memory-backend-ram,size=1M,host-nodes=5000,policy=bind", "host-nodes");
    refused("memory-backend-memfd,size=1M,hugetlb=on,hugetlbsize=3M", "power of two");
    refused("memory-backend-ram,size=1M,prealloc=on,reserve=off", "prealloc");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memory-backend/made", test_made);
    g_test_add_func("/memory-backend/refusals", test_refusals);
    return g_test_run();
}
