/*
 * What the unit tests of the block layer share: a graph and a directory for its files. Header only, since a
 * unit test is one file. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_TEST_GRAPH_H
#define RHEA_BLOCK_TEST_GRAPH_H

#include "block/graph/graph.h"

#include "loop/loop.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static Loop *loop;
static BlockGraph *graph;
static char *dir;

static inline void begin(void)
{
    loop = loop_new(NULL, NULL);
    graph = block_graph_new(loop, NULL);
    dir = g_dir_make_tmp("rhea-block-XXXXXX", NULL);
}

static inline void end(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);

    block_graph_free(graph);
    loop_free(loop);
    g_assert_cmpint(system(command), ==, 0);
    g_free(dir);
}

/* A file of the directory, each byte of which is fill; its path is the caller's. */
static inline char *make_file(const char *name, size_t size, int fill)
{
    char *path = g_build_filename(dir, name, NULL);
    g_autofree char *data = g_malloc(size + 1);

    memset(data, fill, size);
    g_assert_true(g_file_set_contents(path, data, (gssize)size, NULL));
    return path;
}

/* Adds the node that -blockdev's text describes. */
static inline BlockNode *add(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
static inline BlockNode *add(const char *fmt, ...)
{
    g_autoptr(QapiBlockdevOptions) options = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    BlockNode *node;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_assert_true(qapi_option_blockdev(text, &options, &error));
    node = block_node_open(graph, options, false, 0, &error);
    g_assert_no_error(error);
    return node;
}

#endif
