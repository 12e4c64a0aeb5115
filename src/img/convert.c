/*
 * convert: one image or several, one behind the other, into another.
 *
 * Workers (coroutines, -m of them) take piece after piece from a cursor that walks the sources by their block
 * status, so that holes and zeroes cost nothing. A worker reads its piece and writes what is not zero. Unless
 * -W, writes begin in the order of the image, which keeps what a format allocates in order too; they do not
 * wait for each other to end. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "img/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR      512u
#define PIECE_BYTES (2u << 20)
/* Between the page caches of two files: what a worker read is still in the processor's cache when it is
 * written. */
#define PIECE_CACHED (256u << 10)
#define PIECE_MAX    (16u << 20)
#define MAX_WORKERS  16

typedef enum PieceKind { PIECE_DATA, PIECE_ZERO, PIECE_BACKING } PieceKind;

typedef struct Source {
    ImgDisk *disk;
    uint64_t start, size; /* in the target; size is a multiple of a sector */
    uint64_t align;
} Source;

typedef struct Convert {
    ImgTool *tool;
    Source *sources;
    size_t source_count;
    ImgDisk *target;
    uint64_t total, piece_bytes, cluster, align, sparse;
    uint64_t backing_size; /* of the target's backing image; UINT64_MAX: none or unknown */
    bool compressed, has_backing, zero_init, any_order, salvage, copy_range, quiet, count_first;
    bool strict; /* a write ends before the next begins: what a format allocates stays in one run */
    int workers;
    int64_t rate;
    /* the cursor; looking at the status may yield */
    CoMutex cursor_lock;
    uint64_t cursor, status_end;
    PieceKind status;
    /* turns of writing */
    uint64_t next_ticket, turn;
    CoQueue turns;
    uint64_t done, data_total; /* bytes of data; data_total 0: not counted, progress is by position */
    uint64_t throttle_bytes;
    int64_t throttle_start;
    int result;
} Convert;

static Source *source_at(Convert *c, uint64_t offset)
{
    size_t i = 0;
    while (i + 1 < c->source_count && offset >= c->sources[i].start + c->sources[i].size) {
        i++;
    }
    return &c->sources[i];
}

/* Reads that may pass a source's odd end or go on in the next source. */
static int read_piece(Convert *c, uint64_t offset, uint64_t bytes, uint8_t *buf)
{
    uint64_t single_until = 0;
    while (bytes > 0) {
        Source *s = source_at(c, offset);
        uint64_t at = offset - s->start, n = MIN(bytes, s->size - at);
        if (offset < single_until) {
            n = MIN(n, SECTOR);
        }
        uint64_t real = block_size(s->disk->root), inside = at < real ? MIN(n, real - at) : 0;
        int r = inside ? block_co_pread(s->disk->root, at, inside, buf, 0) : 0;
        memset(buf + inside, 0, n - inside);
        if (r < 0) {
            if (!c->salvage) {
                log_error("error while reading at byte %" PRIu64 ": %s", offset, g_strerror(-r));
                return r;
            }
            if (n > SECTOR) {
                single_until = offset + n;
                continue;
            }
            if (!c->quiet) {
                log_warning("error while reading offset %" PRIu64 ": %s", at, g_strerror(-r));
            }
            memset(buf, 0, n);
        }
        offset += n;
        bytes -= n;
        buf += n;
    }
    return 0;
}

/* What is at the cursor, and for how far. With cursor_lock. */
static int look(Convert *c)
{
    Source *s = source_at(c, c->cursor);
    uint64_t at = c->cursor - s->start, bytes = MIN(s->size - at, UINT64_C(1) << 40);
    bool behind_backing = c->has_backing && c->backing_size != UINT64_MAX && c->cursor >= c->backing_size;
    if (c->has_backing && c->backing_size != UINT64_MAX && !behind_backing) {
        bytes = MIN(bytes, c->backing_size - c->cursor);
    }
    BlockStatus st = { 0 };
    BlockNode *base = c->has_backing ? block_cow_child(block_skip_filters(s->disk->node)) : NULL;
    for (;;) {
        uint64_t real = block_size(s->disk->root);
        if (at >= real) {
            st.flags = BLOCK_STATUS_ZERO;
            st.bytes = bytes;
            break;
        }
        int r = block_co_status_above(s->disk->node, base, at, MIN(bytes, real - at), &st);
        if (r >= 0) {
            break;
        }
        if (!c->salvage) {
            log_error("error while reading block status at offset %" PRIu64 ": %s", at, g_strerror(-r));
            return r;
        }
        if (bytes <= SECTOR) {
            if (!c->quiet) {
                log_warning("error while reading block status at offset %" PRIu64 ": %s", at, g_strerror(-r));
            }
            st.flags = BLOCK_STATUS_DATA; /* try to read it, then */
            st.bytes = SECTOR;
            break;
        }
        bytes = ROUND_UP_SECTOR(bytes / 4);
    }
    uint64_t n = MIN(ROUND_UP_SECTOR(st.bytes), bytes);
    /* An end in the middle of a source's block would make the next reads crooked. */
    uint64_t tail = (at + n) % s->align;
    if (n > tail && at + n < s->size) {
        n -= tail;
    }
    if (st.flags & BLOCK_STATUS_ZERO) {
        c->status = behind_backing ? PIECE_BACKING : PIECE_ZERO;
    } else if (st.flags & BLOCK_STATUS_DATA) {
        c->status = PIECE_DATA;
    } else {
        c->status = c->has_backing ? PIECE_BACKING : PIECE_DATA;
    }
    c->status_end = c->cursor + n;
    return 0;
}

/* The next piece: 1, 0 at the end, or a negative errno. */
static int next_piece(Convert *c, uint64_t *offset, uint64_t *bytes, PieceKind *kind, uint64_t *ticket)
{
    int r = 0;
    co_mutex_lock(&c->cursor_lock);
    if (c->result == 0 && c->cursor < c->total) {
        if (c->status_end <= c->cursor) {
            r = look(c);
        }
        if (r == 0) {
            uint64_t n = c->status_end - c->cursor;
            *kind = c->status;
            if (*kind == PIECE_DATA) {
                n = MIN(n, c->piece_bytes);
            }
            if (c->compressed) {
                /* Compressed clusters are written whole: a hole within one is data. */
                if (n < c->cluster) {
                    n = MIN(c->cluster, c->total - c->cursor);
                    *kind = PIECE_DATA;
                } else {
                    n -= n % c->cluster;
                }
            }
            *offset = c->cursor;
            *bytes = n;
            *ticket = c->next_ticket++;
            c->cursor += n;
            r = 1;
        }
    }
    co_mutex_unlock(&c->cursor_lock);
    return r;
}

/* The first run of buf that is all data or all zero, in blocks of c->align. */
static uint64_t first_run(const Convert *c, const uint8_t *buf, uint64_t bytes, uint64_t offset,
                          bool *is_zero)
{
    uint64_t at = 0, zero_start = UINT64_MAX;
    while (at < bytes) {
        uint64_t n = MIN(c->align - (offset + at) % c->align, bytes - at);
        bool zero = block_buffer_is_zero(buf + at, n);
        if (zero && zero_start == UINT64_MAX) {
            zero_start = at;
        } else if (!zero && zero_start != UINT64_MAX) {
            if (at - zero_start >= c->sparse || zero_start == 0) {
                break;
            }
            zero_start = UINT64_MAX; /* too short a hole to leave out */
        }
        at += n;
    }
    if (zero_start == UINT64_MAX) {
        *is_zero = false;
        return at;
    }
    if (at - zero_start < c->sparse && at < bytes) {
        /* A short hole at the beginning: it goes with the data behind it. */
        *is_zero = false;
        while (at < bytes) {
            uint64_t n = MIN(c->align - (offset + at) % c->align, bytes - at);
            if (block_buffer_is_zero(buf + at, n)) {
                break;
            }
            at += n;
        }
        return at;
    }
    *is_zero = zero_start == 0;
    return *is_zero ? at : zero_start;
}

static int write_zeroes(Convert *c, uint64_t offset, uint64_t bytes)
{
    if (c->zero_init) {
        return 0;
    }
    while (bytes > 0) {
        uint64_t n = MIN(bytes, UINT64_C(1) << 30);
        int r =
            block_co_pwrite_zeroes(c->target->root, offset, n, BLOCK_REQ_MAY_UNMAP | c->target->write_flags);
        if (r < 0) {
            return r;
        }
        offset += n;
        bytes -= n;
    }
    return 0;
}

static int write_piece(Convert *c, uint64_t offset, uint64_t bytes, const uint8_t *buf, PieceKind kind)
{
    if (kind == PIECE_BACKING) {
        return 0;
    }
    if (kind == PIECE_ZERO) {
        return write_zeroes(c, offset, bytes);
    }
    if (c->compressed) {
        if (c->sparse && block_buffer_is_zero(buf, bytes)) {
            return write_zeroes(c, offset, bytes);
        }
        return block_co_pwrite(c->target->root, offset, bytes, buf,
                               BLOCK_REQ_WRITE_COMPRESSED | c->target->write_flags);
    }
    while (bytes > 0) {
        bool is_zero = false;
        uint64_t n = c->sparse ? first_run(c, buf, bytes, offset, &is_zero) : bytes;
        int r = is_zero ? write_zeroes(c, offset, n)
                        : block_co_pwrite(c->target->root, offset, n, buf, c->target->write_flags);
        if (r < 0) {
            return r;
        }
        offset += n;
        bytes -= n;
        buf += n;
    }
    return 0;
}

static int copy_range(Convert *c, uint64_t offset, uint64_t bytes)
{
    while (bytes > 0) {
        Source *s = source_at(c, offset);
        uint64_t at = offset - s->start, n = MIN(bytes, s->size - at);
        uint64_t real = block_size(s->disk->root);
        if (at + n > real) {
            return -ENOTSUP; /* the odd end */
        }
        int r = block_co_copy_range(s->disk->root, at, c->target->root, offset, n, 0);
        if (r < 0) {
            return r;
        }
        offset += n;
        bytes -= n;
    }
    return 0;
}

static void keep_rate(Convert *c, uint64_t bytes)
{
    if (c->rate <= 0) {
        return;
    }
    c->throttle_bytes += bytes;
    int64_t due = c->throttle_start + (int64_t)((double)c->throttle_bytes / (double)c->rate * 1e9);
    int64_t now = g_get_monotonic_time() * 1000;
    if (due > now) {
        co_sleep_ns(c->tool->loop, due - now);
    }
}

static void convert_worker(void *opaque)
{
    Convert *c = opaque;
    uint8_t *buf = NULL;
    for (;;) {
        uint64_t offset = 0, bytes = 0, ticket = 0;
        PieceKind kind = PIECE_DATA;
        int r = next_piece(c, &offset, &bytes, &kind, &ticket);
        if (r <= 0) {
            if (r < 0 && c->result == 0) {
                c->result = r;
            }
            break;
        }
        r = 0;
        if (!c->sparse && kind == PIECE_ZERO) {
            kind = PIECE_DATA; /* -S 0: everything is to be allocated */
        }
        /* A huge zero run with -S 0 is written piece by piece. */
        for (uint64_t done = 0; done < bytes && r == 0;) {
            uint64_t n = kind == PIECE_DATA ? MIN(bytes - done, c->piece_bytes) : bytes - done;
            bool copied = false;
            if (kind == PIECE_DATA && c->copy_range) {
                r = copy_range(c, offset + done, n);
                copied = r == 0;
                if (!copied) {
                    c->copy_range = r != -ENOTSUP && r != -EXDEV && r != -EINVAL ? c->copy_range : false;
                    r = 0;
                }
            }
            if (kind == PIECE_DATA && !copied) {
                if (!buf) {
                    buf = img_buffer(c->target->root, c->piece_bytes);
                }
                r = read_piece(c, offset + done, n, buf);
            }
            if (done == 0 && !c->any_order) {
                while (c->turn != ticket && c->result == 0) {
                    co_queue_wait(&c->turns);
                }
                if (!c->strict) {
                    c->turn++;
                    co_queue_wake_all(&c->turns);
                }
            }
            if (r == 0 && c->result == 0 && !copied) {
                r = write_piece(c, offset + done, n, buf, kind);
                if (r < 0) {
                    log_error("error while writing at byte %" PRIu64 ": %s", offset + done, g_strerror(-r));
                }
            }
            done += n;
            if (kind == PIECE_DATA) {
                keep_rate(c, n);
            }
        }
        if (c->strict) {
            c->turn++;
            co_queue_wake_all(&c->turns);
        }
        if (r < 0) {
            if (c->result == 0) {
                c->result = r;
            }
            co_queue_wake_all(&c->turns);
            break;
        }
        if (c->result != 0) {
            break;
        }
        if (!c->data_total) {
            c->done += bytes;
            img_progress_ratio(c->done, c->total);
        } else if (kind == PIECE_DATA) {
            c->done += bytes;
            img_progress_ratio(c->done, c->data_total);
        }
    }
    img_buffer_free(buf);
}

/* How much data there is: for who wants to see progress (or what cannot be read) before anything is written.
 */
static void co_count(void *opaque)
{
    Convert *c = opaque;
    uint64_t data = 0, offset, bytes, ticket;
    PieceKind kind;
    int r;
    while ((r = next_piece(c, &offset, &bytes, &kind, &ticket)) > 0) {
        data += kind == PIECE_DATA || (!c->sparse && kind == PIECE_ZERO) ? bytes : 0;
    }
    c->result = r;
    c->data_total = data;
    c->cursor = c->status_end = c->next_ticket = 0;
}

typedef struct ZeroQuery {
    ImgDisk *disk;
    bool zero;
} ZeroQuery;

static void co_is_zero(void *opaque)
{
    ZeroQuery *q = opaque;
    q->zero = block_co_is_zero(q->disk->node, 0, block_size(q->disk->root)) == 1;
}

/* Whether a new image reads as zeroes where nothing was written: files do; for the rest, their status says.
 */
static bool reads_as_zeroes(Convert *c)
{
    BlockNode *protocol = block_protocol_node(c->target->node);
    if (protocol && g_str_equal(protocol->driver->name, "file")) {
        return true;
    }
    ZeroQuery q = { .disk = c->target };
    block_run(c->tool->graph, co_is_zero, &q);
    return q.zero;
}

static int do_copy(Convert *c, bool target_is_new)
{
    if (!c->zero_init && target_is_new && c->sparse && !c->has_backing) {
        c->zero_init = reads_as_zeroes(c);
    }
    if (c->compressed) {
        if (c->cluster == 0 || c->cluster > c->piece_bytes) {
            log_error("invalid cluster size");
            return -EINVAL;
        }
        c->piece_bytes = c->cluster;
    }
    c->strict = !c->any_order && !c->compressed && c->cluster > 0;
    co_mutex_init(&c->cursor_lock);
    co_queue_init(&c->turns);
    c->throttle_start = g_get_monotonic_time() * 1000;
    if (c->count_first && c->total > 0) {
        block_run(c->tool->graph, co_count, c);
    }
    if (c->total > 0 && c->result == 0) {
        img_run_parallel(c->tool, convert_worker, c, c->workers);
    }
    if (c->result == 0) {
        c->result = blk_flush(c->target->root);
        if (c->result < 0) {
            log_error("error while flushing the output image: %s", g_strerror(-c->result));
        }
    }
    return c->result;
}

/* ---- bitmaps ---- */

static bool check_bitmaps(BlockNode *node, bool skip_broken)
{
    bool any = false;
    for (guint i = node->bitmaps ? node->bitmaps->len : 0; i-- > 0;) {
        const DirtyBitmap *b = node->bitmaps->pdata[i];
        any = any || b->persistent;
        if (b->persistent && b->inconsistent && !skip_broken) {
            log_error("Cannot copy inconsistent bitmap '%s'", b->name);
            log_hint("Try --skip-broken-bitmaps, or use '%s bitmap --remove' to delete it", g_get_prgname());
            return false;
        }
    }
    if (!any && !node->driver->bitmap_can_store) {
        log_error("Source lacks bitmap support");
        return false;
    }
    return true;
}

static bool copy_bitmaps(BlockNode *from, BlockNode *to, bool skip_broken)
{
    for (guint i = from->bitmaps ? from->bitmaps->len : 0; i-- > 0;) {
        const DirtyBitmap *b = from->bitmaps->pdata[i];
        if (b->persistent && b->inconsistent && skip_broken) {
            log_warning("Skipping inconsistent bitmap '%s'", b->name);
        }
    }
    for (guint i = 0; from->bitmaps && i < from->bitmaps->len; i++) {
        const DirtyBitmap *b = from->bitmaps->pdata[i];
        g_autoptr(GError) error = NULL;
        if (!b->persistent || !b->name || b->inconsistent) {
            continue;
        }
        DirtyBitmap *copy = NULL;
        if (to->driver->bitmap_can_store(to, b->name, b->granularity, &error)) {
            copy = dirty_bitmap_new(to, b->name, b->granularity, &error);
        }
        if (!copy) {
            error_prefix(&error, "Failed to create bitmap %s: ", b->name);
            error_report(error);
            return false;
        }
        copy->persistent = true;
        copy->enabled = b->enabled;
        dirty_bitmap_merge(copy, b);
    }
    return true;
}

/* ---- the command ---- */

static const char *option_text(json_object *options, const char *name)
{
    json_object *value = NULL;
    return options && json_object_object_get_ex(options, name, &value) ? json_object_get_string(value) : NULL;
}

/* What encryption needs of -o when the new image is opened. */
static json_object *key_secrets(json_object *options)
{
    json_object *more = json_object_new_object();
    if (options) {
        json_object_object_foreach(options, key, value)
        {
            if (g_str_has_suffix(key, "key-secret")) {
                json_object_object_add(more, key, json_object_get(value));
            }
        }
        const char *format = option_text(options, "encrypt.format");
        if (format) {
            json_object_object_add(more, "encrypt.format", json_object_new_string(format));
        }
    }
    return more;
}

enum { OPT_TARGET_IMAGE_OPTS = IMG_OPT_FIRST, OPT_SALVAGE, OPT_TARGET_IS_ZERO, OPT_BITMAPS, OPT_SKIP_BROKEN };

static bool in_page_cache(const ImgDisk *disk)
{
    const BlockNode *protocol = block_protocol_node(disk->node);
    return protocol && g_str_equal(protocol->driver->name, "file") && !protocol->cache_direct;
}

static bool all_in_page_cache(const Convert *c)
{
    bool all = in_page_cache(c->target);
    for (size_t i = 0; i < c->source_count; i++) {
        all = all && in_page_cache(c->sources[i].disk);
    }
    return all;
}

static uint64_t floor_power_of_2(uint64_t n)
{
    return n ? UINT64_C(1) << (63 - __builtin_clzll(n)) : 0;
}

int img_cmd_convert(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP,
                                           IMG_LONG_OBJECT,
                                           { "source-image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_FORCE_SHARE,
                                           { "target-image-opts", no_argument, NULL, OPT_TARGET_IMAGE_OPTS },
                                           { "salvage", no_argument, NULL, OPT_SALVAGE },
                                           { "target-is-zero", no_argument, NULL, OPT_TARGET_IS_ZERO },
                                           { "bitmaps", no_argument, NULL, OPT_BITMAPS },
                                           { "skip-broken-bitmaps", no_argument, NULL, OPT_SKIP_BROKEN },
                                           IMG_LONG_END };
    ImgArgs args = {
        .tool = tool, .argc = argc, .argv = argv, .shorts = ":hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:", .longs = longs
    };
    Convert c = { .tool = tool, .sparse = 8 * SECTOR, .workers = 8, .backing_size = UINT64_MAX };
    const char *out_format = NULL, *backing = NULL, *backing_format = NULL, *snapshot = NULL;
    bool skip_create = false, target_opts = false, bitmaps = false, skip_broken = false,
         explicit_sparse = false;
    g_autofree char *text = NULL;
    int opt;
    while ((opt = img_args_next(&args)) != -1) {
        switch (opt) {
        case 'O':
            out_format = optarg;
            break;
        case 'B':
            backing = optarg;
            break;
        case 'F':
            backing_format = optarg;
            break;
        case 'C':
            c.copy_range = true;
            break;
        case 'c':
            c.compressed = true;
            break;
        case 'o':
            if (!img_options_add(&text, optarg)) {
                return EXIT_FAILURE;
            }
            break;
        case 'l':
            snapshot = optarg;
            if (!img_snapshot_param_is_valid(snapshot)) {
                log_error("Failed in parsing snapshot param '%s'", snapshot);
                return EXIT_FAILURE;
            }
            break;
        case 'S': {
            int64_t value = img_size_parse(optarg, "buffer size for sparse output", 0, INT64_MAX);
            if (value < 0) {
                return EXIT_FAILURE;
            }
            if (value % SECTOR || value > PIECE_MAX) {
                log_error(
                    "Invalid buffer size for sparse output specified. Valid sizes are multiples of %u up to "
                    "%u. Select 0 to disable sparse detection (fully allocates output).",
                    SECTOR, PIECE_MAX);
                return EXIT_FAILURE;
            }
            c.sparse = (uint64_t)value;
            explicit_sparse = true;
            break;
        }
        case 'n':
            skip_create = true;
            break;
        case 'm': {
            uint64_t workers;
            if (!img_ulong(optarg, MAX_WORKERS, &workers) || workers < 1) {
                log_error("Invalid number of coroutines. Allowed number of coroutines is between 1 and %d",
                          MAX_WORKERS);
                return EXIT_FAILURE;
            }
            c.workers = (int)workers;
            break;
        }
        case 'W':
            c.any_order = true;
            break;
        case 'r':
            c.rate = img_size_parse(optarg, "rate limit", 0, INT64_MAX);
            if (c.rate < 0) {
                return EXIT_FAILURE;
            }
            break;
        case OPT_TARGET_IMAGE_OPTS:
            target_opts = true;
            break;
        case OPT_SALVAGE:
            c.salvage = true;
            break;
        case OPT_TARGET_IS_ZERO:
            c.zero_init = true;
            break;
        case OPT_BITMAPS:
            bitmaps = true;
            break;
        case OPT_SKIP_BROKEN:
            skip_broken = true;
            break;
        }
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    c.quiet = args.quiet;
    c.count_first = args.progress || c.salvage;
    const char *conflict = skip_broken && !bitmaps        ? "Use of --skip-broken-bitmaps requires --bitmaps"
                           : c.compressed && c.copy_range ? "Cannot enable copy offloading when -c is used"
                           : explicit_sparse && c.copy_range ? "Cannot enable copy offloading when -S is used"
                           : c.salvage && c.copy_range       ? "Cannot use copy offloading in salvaging mode"
                           : target_opts && !skip_create     ? "--target-image-opts requires use of -n flag"
                           : skip_create && text             ? "-o has no effect when skipping image creation"
                           : c.zero_init && !skip_create     ? "--target-is-zero requires use of -n flag"
                                                             : NULL;
    if (conflict) {
        log_error("%s", conflict);
        return EXIT_FAILURE;
    }
    if (!out_format && !target_opts) {
        out_format = "raw";
    }
    int source_count = argc - optind - 1;
    const char *out_name = source_count >= 1 ? argv[argc - 1] : NULL;
    if (text && img_options_want_help(text)) {
        if (!out_format) {
            log_error("Option help requires a format be specified");
            return EXIT_FAILURE;
        }
        return img_create_help(tool, out_format, out_name) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    if (source_count < 1) {
        log_error("Must specify image file name");
        return EXIT_FAILURE;
    }
    ImgCache src_cache = { 0 }, cache = { .no_flush = true };
    if (args.src_cache && !img_cache_parse(args.src_cache, &src_cache)) {
        log_error("Invalid source cache option: %s", args.src_cache);
        return EXIT_FAILURE;
    }
    img_progress_start(args.progress, 1.0);

    int status = EXIT_FAILURE;
    g_autoptr(GError) error = NULL;
    json_object *options = NULL;
    const BlockDriver *driver = NULL;
    const BlockOption *tables[3];
    c.sources = g_new0(Source, (size_t)source_count);
    for (int i = 0; i < source_count; i++) {
        Source *s = &c.sources[i];
        s->disk = img_open(tool, args.image_opts, argv[optind + i], args.format, 0, &src_cache,
                           args.force_share, NULL);
        if (!s->disk) {
            goto out;
        }
        c.source_count++;
        s->start = c.total;
        s->size = ROUND_UP_SECTOR(block_size(s->disk->root));
        s->align = MAX(SECTOR, s->disk->node->limits.request_alignment);
        BlockInfo info = { 0 };
        if (block_node_info(s->disk->node, &info, NULL)) {
            s->align = MAX(s->align, info.cluster_size);
        }
        c.total += s->size;
    }
    if (snapshot) {
        if (source_count > 1) {
            log_error("No support for concatenating multiple snapshot");
            goto out;
        }
        if (!img_snapshot_load(c.sources[0].disk->node, snapshot, &error)) {
            error_prefix(&error, "Failed to load snapshot: ");
            error_report(error);
            goto out;
        }
        c.total = c.sources[0].size = ROUND_UP_SECTOR(block_size(c.sources[0].disk->root));
    }
    if (!skip_create) {
        if (!img_create_tables(out_format, out_name, &driver, tables, &error)) {
            error_report(error);
            goto out;
        }
        options = img_options_parse(tables, text, &error);
        if (!options) {
            error_report(error);
            goto out;
        }
        json_object_object_add(options, "size", json_object_new_uint64(c.total));
        bool has_backing_option = false, has_format_option = false;
        for (const BlockOption *o = driver->create_options; o->name; o++) {
            has_backing_option = has_backing_option || g_str_equal(o->name, "backing_file");
            has_format_option = has_format_option || g_str_equal(o->name, "backing_fmt");
        }
        if (backing && !has_backing_option) {
            log_error("Backing file not supported for file format '%s'", out_format);
            goto out;
        }
        if (backing_format && !has_format_option) {
            log_error("Backing file format not supported for file format '%s'", out_format);
            goto out;
        }
        if (backing) {
            json_object_object_add(options, "backing_file", json_object_new_string(backing));
        }
        if (backing_format) {
            json_object_object_add(options, "backing_fmt", json_object_new_string(backing_format));
        }
    }
    const char *backing_param = option_text(options, "backing_file");
    backing = backing_param ? backing_param : backing;
    c.has_backing = backing != NULL;
    if (c.zero_init && c.has_backing) {
        log_error("Cannot use --target-is-zero when the destination image has a backing file");
        goto out;
    }
    if (source_count > 1 && backing) {
        log_error(
            "Having a backing file for the target makes no sense when concatenating multiple input images");
        goto out;
    }
    if (backing_param && !option_text(options, "backing_fmt")) {
        log_error("Use of backing file requires explicit backing format");
        goto out;
    }
    if (c.compressed) {
        const char *preallocation = option_text(options, "preallocation");
        json_object *encryption = NULL;
        if (driver && !driver->co_pwritev_compressed) {
            log_error("Compression not supported for this file format");
            goto out;
        }
        if (option_text(options, "encrypt.format") ||
            (options && json_object_object_get_ex(options, "encryption", &encryption) &&
             json_object_get_boolean(encryption))) {
            log_error("Compression and encryption not supported at the same time");
            goto out;
        }
        if (preallocation && !g_str_equal(preallocation, "off")) {
            log_error("Compression and preallocation not supported at the same time");
            goto out;
        }
    }
    if (bitmaps) {
        if (source_count > 1) {
            log_error("Copying bitmaps only possible with single source");
            goto out;
        }
        if (!check_bitmaps(c.sources[0].disk->node, skip_broken)) {
            goto out;
        }
    }
    json_object *secrets = key_secrets(options);
    if (!skip_create && !img_create_image(tool, driver, out_name, options, &error)) {
        json_object_put(secrets);
        error_prefix(&error, "%s: error while converting %s: ", out_name, out_format);
        error_report(error);
        goto out;
    }
    if (args.cache && !img_cache_parse(args.cache, &cache)) {
        json_object_put(secrets);
        log_error("Invalid cache option: %s", args.cache);
        goto out;
    }
    c.target =
        img_open(tool, skip_create && target_opts, out_name, out_format,
                 IMG_OPEN_WRITE | (c.sparse ? IMG_OPEN_UNMAP : 0) | (cache.direct ? IMG_OPEN_RESIZE : 0),
                 &cache, false, secrets);
    if (!c.target) {
        goto out;
    }
    if (bitmaps && !c.target->node->driver->bitmap_can_store) {
        log_error("Format driver '%s' does not support bitmaps", c.target->node->driver->name);
        goto out;
    }
    if (c.compressed && !block_skip_filters(c.target->node)->driver->co_pwritev_compressed) {
        log_error("Compression not supported for this file format");
        goto out;
    }
    c.piece_bytes = all_in_page_cache(&c) ? PIECE_CACHED : PIECE_BYTES;
    const BlockLimits *limits = &c.target->node->limits;
    c.piece_bytes = MIN(PIECE_MAX, MAX(c.piece_bytes, limits->discard_granularity));
    c.align = MAX(floor_power_of_2(c.sparse), MAX(SECTOR, limits->request_alignment));
    if (skip_create) {
        if (ROUND_UP_SECTOR(block_size(c.target->root)) < c.total) {
            log_error("output file is smaller than input file");
            goto out;
        }
    } else if (c.has_backing) {
        BlockNode *below = block_cow_child(block_skip_filters(c.target->node));
        c.backing_size = below ? ROUND_UP_SECTOR(below->size) : UINT64_MAX;
    }
    BlockInfo info = { 0 };
    if (block_node_info(c.target->node, &info, NULL)) {
        c.compressed = c.compressed || info.needs_compressed_writes;
        c.cluster = info.cluster_size;
        c.piece_bytes = MIN(PIECE_MAX, MAX(c.piece_bytes, c.cluster));
    } else if (c.compressed) {
        log_error("could not get block driver info");
        goto out;
    }
    if (do_copy(&c, !skip_create) == 0) {
        status = EXIT_SUCCESS;
        if (bitmaps && !copy_bitmaps(c.sources[0].disk->node, c.target->node, skip_broken)) {
            status = EXIT_FAILURE;
        }
    }
    if (status == EXIT_SUCCESS) {
        img_progress(100);
    }
out:
    img_progress_end();
    json_object_put(options);
    img_close(c.target);
    for (size_t i = 0; i < c.source_count; i++) {
        img_close(c.sources[i].disk);
    }
    g_free(c.sources);
    return status;
}
