/*
 * What the image tools share: a program without a guest that has a block graph, the options that most
 * commands know, opening images as -f, --image-opts, -t and -T say, progress, and sizes as people read and
 * write them.
 *
 * Everything runs in the main thread: a command is a straight line that uses the blocking forms of the block
 * layer, or coroutines where several requests are to be under way. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_IMG_TOOL_H
#define RHEA_IMG_TOOL_H

#include "block/graph/dirty_bitmap.h"
#include "block/graph/graph.h"
#include "io/tls.h"
#include "object/object.h"

#include <getopt.h>

typedef struct ImgTool {
    const char *program; /* the name it was called by */
    Loop *loop;
    BlockGraph *graph;
    Object *root; /* secrets and TLS credentials are below it */
} ImgTool;

/* Names the program by argv[0]'s base name, so that a link called qemu-img answers as its callers expect.
 * Exits where the host refuses a loop. */
void img_tool_start(ImgTool *tool, const char *argv0);
void img_tool_end(ImgTool *tool);

/* ---- options ---- */
enum {
    IMG_OPT_OBJECT = 1000,
    IMG_OPT_IMAGE_OPTS,
    IMG_OPT_OUTPUT,
    IMG_OPT_FIRST, /* a command's own begin here */
};
#define IMG_LONG_OBJECT                                   \
    {                                                     \
        "object", required_argument, NULL, IMG_OPT_OBJECT \
    }
#define IMG_LONG_IMAGE_OPTS                                 \
    {                                                       \
        "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS \
    }
#define IMG_LONG_OUTPUT                                   \
    {                                                     \
        "output", required_argument, NULL, IMG_OPT_OUTPUT \
    }
#define IMG_LONG_HELP                  \
    {                                  \
        "help", no_argument, NULL, 'h' \
    }
#define IMG_LONG_FORCE_SHARE                  \
    {                                         \
        "force-share", no_argument, NULL, 'U' \
    }
#define IMG_LONG_END     \
    {                    \
        NULL, 0, NULL, 0 \
    }

/* The options of one command and what the common ones were set to. */
typedef struct ImgArgs {
    ImgTool *tool;
    int argc;
    char **argv;
    const char *shorts; /* getopt's, beginning with ':' */
    const struct option *longs;
    const char *format, *cache, *src_cache;
    bool image_opts, force_share, quiet, progress, json;
} ImgArgs;

/* The next option that is not a common one (then optarg is its argument), or -1 when all were read. Prints
 * help, and exits on what is no option of the command. */
int img_args_next(ImgArgs *args);
/* Makes the --object options real. Call after the last img_args_next(); false: reported. */
bool img_args_finish(ImgArgs *args);
/* "PROGRAM: message", a line that names --help, exit status 1. */
void img_usage_error(const char *fmt, ...) G_GNUC_PRINTF(1, 2) __attribute__((noreturn));
/* Set by the program: what -h prints. */
extern void (*img_help)(void);

/* -object or --object's text, at once. False: reported. */
bool img_object_add(ImgTool *tool, const char *text);

/* ---- images ---- */
typedef struct ImgCache {
    bool direct, no_flush, writethrough;
} ImgCache;
/* "none", "writeback", ...; false for another name. */
bool img_cache_parse(const char *name, ImgCache *cache);

enum {
    IMG_OPEN_WRITE = 1u << 0,
    IMG_OPEN_RESIZE = 1u << 1,
    IMG_OPEN_UNMAP = 1u << 2,
    IMG_OPEN_NO_BACKING = 1u << 3,
    IMG_OPEN_NO_IO = 1u << 4,
    IMG_OPEN_CHECK = 1u << 5,
};

typedef struct ImgDisk {
    BlockChild *root;
    BlockNode *node;      /* root's */
    char *name;           /* as the user gave it */
    unsigned write_flags; /* BLOCK_REQ_FUA where the cache mode writes through */
} ImgDisk;

/* Opens what filename and format say, or with image_opts what filename's key=value text says; cache may be
 * NULL (writeback). more: further options as text values, or NULL; consumed. NULL: reported. */
ImgDisk *img_open(ImgTool *tool, bool image_opts, const char *filename, const char *format, unsigned flags,
                  const ImgCache *cache, bool force_share, json_object *more);
/* The same with an error in place of a report, which does not name the image. */
ImgDisk *img_try_open(ImgTool *tool, bool image_opts, const char *filename, const char *format,
                      unsigned flags, const ImgCache *cache, bool force_share, json_object *more,
                      GError **error);
void img_close(ImgDisk *disk); /* NULL is fine */
/* Opens it anew with other options: changes (borrowed; text values, nested) go over what it has. */
bool img_reopen(ImgDisk *disk, json_object *changes, bool writable, GError **error);

/* The node that has internal snapshots: through raw and filters to who has them. NULL: none. */
BlockNode *img_snapshot_node(BlockNode *node);
/* By id or else by name (id_or_name), or by either or both of id and name. false: an error. */
bool img_snapshot_find(BlockNode *node, const char *id_or_name, const char *id, const char *name,
                       BlockSnapshotInfo *info, GError **error);
/* "snapshot.id=1,snapshot.name=x" or an id or name: shows the disk as it was. */
bool img_snapshot_load(BlockNode *node, const char *param, GError **error);
bool img_snapshot_param_is_valid(const char *param);

/* ---- reading numbers ---- */
/* A size with an optional suffix (b k M G T P E); -1: not one. */
int64_t img_size_parse(const char *text, const char *what, int64_t min, int64_t max);
/* The same without a report: 0, or -EINVAL or -ERANGE. default_unit: 1, or what a bare number counts. */
int img_size_value(const char *text, uint64_t default_unit, uint64_t *value);
bool img_ulong(const char *text, uint64_t max, uint64_t *value);

/* ---- writing them ---- */
char *img_size_text(uint64_t bytes); /* "64 KiB", "1.46 TiB"; caller frees */
/* JSON in the order in which QEMU's tools print members. Printed with a newline. */
void img_print_json(json_object *value);
/* A copy with every dict in that order; caller owns. */
json_object *img_json_ordered(json_object *value);

/* ---- progress: -p, and SIGUSR1 ---- */
void img_progress_start(bool enabled, double min_skip_percent);
void img_progress(double percent);
void img_progress_ratio(uint64_t done, uint64_t total);
void img_progress_end(void);

/* ---- -o ---- */
/* Appends an -o option's text to *list; false: reported. */
bool img_options_add(char **list, const char *text);
bool img_options_want_help(const char *list);
/* The options of a format and of the protocol below it: tables, NULL-terminated array of them. */
json_object *img_options_parse(const BlockOption *const *tables, const char *text, GError **error);
/* "a=1 b=2 " with the defaults of what is not set. Caller frees. */
char *img_options_text(const BlockOption *const *tables, const char *format, json_object *options);
void img_options_help(const BlockOption *const *tables, bool amend);

/* ---- making images ---- */
typedef struct ImgCreate {
    const char *filename, *format, *backing_file, *backing_format;
    const char *options; /* -o */
    uint64_t size;       /* UINT64_MAX: the backing image's */
    bool no_backing_check, quiet;
} ImgCreate;
bool img_create(ImgTool *tool, const ImgCreate *create, GError **error);
/* "-o help" of create and convert; filename may be NULL. Reports errors. */
bool img_create_help(ImgTool *tool, const char *format, const char *filename);
/* Finds the drivers and tables for an image to be made; tables has room for 3. */
bool img_create_tables(const char *format, const char *filename, const BlockDriver **driver,
                       const BlockOption **tables, GError **error);
/* Makes the image: options are typed, with size. */
bool img_create_image(ImgTool *tool, const BlockDriver *driver, const char *filename, json_object *options,
                      GError **error);

/* The name of a new, empty overlay over an image, for writes that are to be thrown away; the caller opens and
 * unlinks it. NULL: reported. */
char *img_temporary_overlay(ImgTool *tool, const char *filename, const char *format);

/* ---- describing images ---- */
/* ImageInfo of one node. NULL on error. Caller owns. */
json_object *img_info_query(BlockNode *node, GError **error);
void img_info_print(json_object *info);
void img_info_print_specific(json_object *specific);
void img_snapshot_header(void);
void img_snapshot_print(const BlockSnapshotInfo *info);

/* Sizes count in sectors of 512 bytes: a file's odd end is padded with zeroes. */
#define ROUND_UP_SECTOR(n) (((n) + 511) & ~(uint64_t)511)

/* The errno whose text an error ends with; 0: none. */
int img_errno_of(const GError *error);

/* ---- running ---- */
/* fn in `count` coroutines at a time, each with the same opaque; returns when all ended. */
void img_run_parallel(ImgTool *tool, CoroutineFunc *fn, void *opaque, int count);
/* Memory that suits direct I/O; exits with a message where there is none. img_buffer_free(). */
void *img_buffer(BlockChild *child, uint64_t bytes);
void img_buffer_free(void *buf);

/* qemu-nbd --list: what a server at fd (blocking, owned) exports. False: reported. */
bool img_nbd_list(int fd, TlsCreds *creds, const char *hostname);

/* ---- the commands of rhea-img; each returns the exit status ---- */
typedef struct ImgCommand {
    const char *name;
    int (*run)(ImgTool *tool, int argc, char **argv);
    const char *usage;
} ImgCommand;
int img_cmd_amend(ImgTool *tool, int argc, char **argv);
int img_cmd_bench(ImgTool *tool, int argc, char **argv);
int img_cmd_bitmap(ImgTool *tool, int argc, char **argv);
int img_cmd_check(ImgTool *tool, int argc, char **argv);
int img_cmd_commit(ImgTool *tool, int argc, char **argv);
int img_cmd_compare(ImgTool *tool, int argc, char **argv);
int img_cmd_convert(ImgTool *tool, int argc, char **argv);
int img_cmd_create(ImgTool *tool, int argc, char **argv);
int img_cmd_dd(ImgTool *tool, int argc, char **argv);
int img_cmd_info(ImgTool *tool, int argc, char **argv);
int img_cmd_map(ImgTool *tool, int argc, char **argv);
int img_cmd_measure(ImgTool *tool, int argc, char **argv);
int img_cmd_snapshot(ImgTool *tool, int argc, char **argv);
int img_cmd_rebase(ImgTool *tool, int argc, char **argv);
int img_cmd_resize(ImgTool *tool, int argc, char **argv);

#endif
