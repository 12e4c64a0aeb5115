/* Reading images through: `compare`, `dd`, `bench`. SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/error.h"
#include "base/log.h"
#include "img/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_BYTES (2u << 20)

/* ---- compare ---- */

typedef struct Compare {
    ImgDisk *disk[2];
    const char *filename[2];
    bool strict, quiet;
    int status; /* the exit status */
} Compare;

static int status_of(Compare *cmp, int which, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    uint64_t size = block_size(cmp->disk[which]->root);
    if (offset >= size) { /* the padding of an odd end */
        *st = (BlockStatus){ .flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED, .bytes = bytes };
        return 0;
    }
    int r = block_co_status_above(cmp->disk[which]->node, NULL, offset, MIN(bytes, size - offset), st);
    if (r < 0) {
        log_error("Sector allocation test failed for %s", cmp->filename[which]);
        cmp->status = 3;
    }
    return r;
}

static int read_one(Compare *cmp, int which, uint64_t offset, uint64_t bytes, uint8_t *buf)
{
    uint64_t size = block_size(cmp->disk[which]->root),
             inside = offset < size ? MIN(bytes, size - offset) : 0;
    memset(buf + inside, 0, bytes - inside);
    int r = inside ? block_co_pread(cmp->disk[which]->root, offset, inside, buf, 0) : 0;
    if (r < 0) {
        log_error("Error while reading offset %" PRIu64 " of %s: %s", offset, cmp->filename[which],
                  g_strerror(-r));
        cmp->status = 4;
    }
    return r;
}

static void mismatch(Compare *cmp, uint64_t offset)
{
    if (!cmp->quiet) {
        printf("Content mismatch at offset %" PRIu64 "!\n", offset);
    }
    cmp->status = 1;
}

/* False: the comparison ends here, with cmp->status. */
static bool expect_zero(Compare *cmp, int which, uint64_t offset, uint64_t bytes, uint8_t *buf)
{
    if (read_one(cmp, which, offset, bytes, buf) < 0) {
        return false;
    }
    if (block_buffer_is_zero(buf, bytes)) {
        return true;
    }
    uint64_t at = 0;
    while (block_buffer_is_zero(buf + at, MIN(512, bytes - at))) {
        at += 512;
    }
    mismatch(cmp, offset + at);
    return false;
}

static bool is_data(const BlockStatus *st)
{
    return st->flags & BLOCK_STATUS_ALLOCATED && !(st->flags & BLOCK_STATUS_ZERO);
}

static bool compare_range(Compare *cmp, uint64_t offset, uint64_t *bytes, uint8_t *buf[2])
{
    BlockStatus st[2] = { { 0 }, { 0 } };
    if (status_of(cmp, 0, offset, *bytes, &st[0]) < 0 || status_of(cmp, 1, offset, *bytes, &st[1]) < 0) {
        return false;
    }
    uint64_t n = MIN(*bytes, MIN(st[0].bytes, st[1].bytes));
    bool data0 = is_data(&st[0]), data1 = is_data(&st[1]);
    unsigned kinds = BLOCK_STATUS_DATA | BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
    if (cmp->strict &&
        (st[0].flags & kinds & ~BLOCK_STATUS_DATA) != (st[1].flags & kinds & ~BLOCK_STATUS_DATA)) {
        if (!cmp->quiet) {
            printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", offset);
        }
        cmp->status = 1;
        return false;
    }
    if (data0 || data1) {
        n = MIN(n, READ_BYTES);
    }
    *bytes = n;
    if (data0 != data1) {
        return expect_zero(cmp, data0 ? 0 : 1, offset, n, buf[0]);
    }
    if (!data0) {
        return true;
    }
    if (read_one(cmp, 0, offset, n, buf[0]) < 0 || read_one(cmp, 1, offset, n, buf[1]) < 0) {
        return false;
    }
    if (memcmp(buf[0], buf[1], n) == 0) {
        return true;
    }
    uint64_t at = 0;
    while (memcmp(buf[0] + at, buf[1] + at, MIN(512, n - at)) == 0) {
        at += 512;
    }
    mismatch(cmp, offset + at);
    return false;
}

static void co_compare(void *opaque)
{
    Compare *cmp = opaque;
    uint64_t size[2] = { ROUND_UP_SECTOR(block_size(cmp->disk[0]->root)),
                         ROUND_UP_SECTOR(block_size(cmp->disk[1]->root)) };
    uint64_t common = MIN(size[0], size[1]), all = MAX(size[0], size[1]), offset = 0;
    if (cmp->strict && size[0] != size[1]) {
        if (!cmp->quiet) {
            printf("Strict mode: Image size mismatch!\n");
        }
        cmp->status = 1;
        return;
    }
    uint8_t *buf[2] = { img_buffer(cmp->disk[0]->root, READ_BYTES),
                        img_buffer(cmp->disk[1]->root, READ_BYTES) };
    bool same = true;
    while (same && offset < common) {
        uint64_t n = common - offset;
        same = compare_range(cmp, offset, &n, buf);
        offset += n;
        img_progress_ratio(offset, all);
    }
    if (same && size[0] != size[1]) {
        if (!cmp->quiet) {
            printf("Warning: Image size mismatch!\n");
        }
        int longer = size[0] > size[1] ? 0 : 1;
        while (same && offset < all) {
            BlockStatus st = { 0 };
            uint64_t n = all - offset;
            if (status_of(cmp, longer, offset, n, &st) < 0) {
                same = false;
                break;
            }
            n = MIN(n, st.bytes);
            if (is_data(&st)) {
                n = MIN(n, READ_BYTES);
                same = expect_zero(cmp, longer, offset, n, buf[0]);
            }
            offset += n;
            img_progress_ratio(offset, all);
        }
    }
    if (same && !cmp->quiet) {
        printf("Images are identical.\n");
    }
    img_buffer_free(buf[0]);
    img_buffer_free(buf[1]);
}

int img_cmd_compare(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP, IMG_LONG_OBJECT, IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_FORCE_SHARE, IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":hf:F:T:pqsU", .longs = longs };
    Compare cmp = { 0 };
    const char *format2 = NULL;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        if (c == 'F') {
            format2 = optarg;
        } else {
            cmp.strict = true;
        }
    }
    cmp.quiet = args.quiet;
    if (optind != argc - 2) {
        img_usage_error("Expecting two image file names");
    }
    if (!img_args_finish(&args)) {
        return 2;
    }
    ImgCache cache = { 0 };
    if (args.src_cache && !img_cache_parse(args.src_cache, &cache)) {
        log_error("Invalid source cache option: %s", args.src_cache);
        return 2;
    }
    img_progress_start(args.progress, 2.0);
    cmp.status = 2;
    for (int i = 0; i < 2; i++) {
        cmp.filename[i] = argv[optind + i];
        cmp.disk[i] = img_open(tool, args.image_opts, cmp.filename[i], i ? format2 : args.format, 0, &cache,
                               args.force_share, NULL);
        if (!cmp.disk[i]) {
            goto out;
        }
    }
    cmp.status = 0;
    block_run(tool->graph, co_compare, &cmp);
out:
    img_progress_end();
    img_close(cmp.disk[1]);
    img_close(cmp.disk[0]);
    return cmp.status;
}

/* ---- dd ---- */

typedef struct Dd {
    ImgDisk *in, *out;
    uint64_t from, size, block;
    int result;
} Dd;

static void co_dd(void *opaque)
{
    Dd *dd = opaque;
    uint64_t step = MAX(dd->block, READ_BYTES / dd->block * dd->block);
    step = MIN(step, BLOCK_MAX_REQUEST / 2);
    uint8_t *buf = img_buffer(dd->in->root, step);
    uint64_t in_size = block_size(dd->in->root), out_size = block_size(dd->out->root);
    for (uint64_t at = 0; at < dd->size && dd->result >= 0; at += step) {
        uint64_t n = MIN(step, dd->size - at), source = dd->from + at;
        uint64_t inside = source < in_size ? MIN(n, in_size - source) : 0;
        memset(buf + inside, 0, n - inside);
        int r = inside ? block_co_pread(dd->in->root, source, inside, buf, 0) : 0;
        if (r < 0) {
            log_error("error while reading from input image file: %s", g_strerror(-r));
            dd->result = r;
            break;
        }
        n = at < out_size ? MIN(n, out_size - at) : 0;
        r = n ? block_co_pwrite(dd->out->root, at, n, buf, 0) : 0;
        if (r < 0) {
            log_error("error while writing to output image file: %s", g_strerror(-r));
            dd->result = r;
        }
    }
    img_buffer_free(buf);
    if (dd->result >= 0) {
        dd->result = block_co_flush(dd->out->root);
    }
}

int img_cmd_dd(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP, IMG_LONG_OBJECT, IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_FORCE_SHARE, IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":hf:O:U", .longs = longs };
    const char *out_format = "raw", *in_name = NULL, *out_name = NULL;
    while (img_args_next(&args) != -1) {
        out_format = optarg;
    }
    int64_t block = 512, count = -1, skip = 0;
    for (int i = optind; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        if (!equals) {
            log_error("unrecognized operand %s", argv[i]);
            return EXIT_FAILURE;
        }
        g_autofree char *name = g_strndup(argv[i], (gsize)(equals - argv[i]));
        const char *value = equals + 1;
        int64_t *number = NULL;
        int64_t min = 0, max = INT64_MAX;
        if (g_str_equal(name, "if")) {
            in_name = value;
        } else if (g_str_equal(name, "of")) {
            out_name = value;
        } else if (g_str_equal(name, "bs")) {
            number = &block;
            min = 1;
            max = INT32_MAX;
        } else if (g_str_equal(name, "count")) {
            number = &count;
        } else if (g_str_equal(name, "skip")) {
            number = &skip;
        } else {
            log_error("unrecognized operand %s", name);
            return EXIT_FAILURE;
        }
        if (number) {
            *number = img_size_parse(value, name, min, max);
            if (*number < 0) {
                return EXIT_FAILURE;
            }
        }
    }
    if (!in_name || !out_name) {
        log_error("Must specify both input and output files");
        return EXIT_FAILURE;
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    int status = EXIT_FAILURE;
    g_autoptr(GError) error = NULL;
    json_object *options = NULL;
    Dd dd = { .block = (uint64_t)block };
    dd.in = img_open(tool, args.image_opts, in_name, args.format, 0, NULL, args.force_share, NULL);
    if (!dd.in) {
        return EXIT_FAILURE;
    }
    const BlockDriver *driver;
    const BlockOption *tables[3];
    if (!img_create_tables(out_format, out_name, &driver, tables, &error)) {
        if (g_str_has_prefix(error->message, "Unknown file format")) {
            log_error("Unknown file format");
        } else {
            error_report(error);
        }
        goto out;
    }
    uint64_t size = ROUND_UP_SECTOR(block_size(dd.in->root));
    if (count >= 0 && (block > INT64_MAX / MAX(count, 1) ? false : (uint64_t)(count * block) < size)) {
        size = (uint64_t)(count * block); /* skip comes on top of it */
        uint64_t in_size = ROUND_UP_SECTOR(block_size(dd.in->root));
        uint64_t begin = skip > INT64_MAX / block ? UINT64_MAX : (uint64_t)(skip * block);
        size = begin >= in_size ? 0 : MIN(size, in_size - begin);
        dd.size = size;
    } else {
        uint64_t begin = skip > INT64_MAX / block ? UINT64_MAX : (uint64_t)(skip * block);
        dd.size = begin >= size ? 0 : size - begin;
    }
    uint64_t in_size = ROUND_UP_SECTOR(block_size(dd.in->root));
    bool beyond = skip > INT64_MAX / block || (uint64_t)(skip * block) > in_size;
    dd.from = beyond ? in_size : (uint64_t)(skip * block);
    options = json_object_new_object();
    json_object_object_add(options, "size", json_object_new_uint64(dd.size));
    if (!img_create_image(tool, driver, out_name, options, &error)) {
        error_prefix(&error, "%s: error while creating output image: ", out_name);
        error_report(error);
        goto out;
    }
    dd.out = img_open(tool, false, out_name, out_format, IMG_OPEN_WRITE | IMG_OPEN_RESIZE, NULL, false, NULL);
    if (!dd.out) {
        goto out;
    }
    if (beyond) {
        log_error("%s: cannot skip to specified offset", in_name);
        status = EXIT_SUCCESS;
        goto out;
    }
    block_run(tool->graph, co_dd, &dd);
    status = dd.result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
out:
    json_object_put(options);
    img_close(dd.out);
    img_close(dd.in);
    return status;
}

/* ---- bench ---- */

typedef struct Bench {
    ImgDisk *disk;
    uint64_t size, offset, step, bytes;
    int left, issued, flush_interval, depth, since_flush;
    bool write, drain;
    uint8_t *buf;
    int result, writing;
    CoQueue idle;
    bool flushing;
} Bench;

static void bench_flush(Bench *b)
{
    if (b->drain) { /* what was written before is to be done before the flush begins */
        b->flushing = true;
        while (b->writing > 0) {
            co_queue_wait(&b->idle);
        }
    }
    int r = block_co_flush(b->disk->root);
    b->flushing = false;
    co_queue_wake_all(&b->idle);
    if (r < 0) {
        log_error("Failed flush request: %s", g_strerror(-r));
        b->result = r;
    }
}

static void bench_worker(void *opaque)
{
    Bench *b = opaque;
    while (b->result == 0) {
        while (b->flushing) {
            co_queue_wait(&b->idle);
        }
        if (b->left == 0 || b->result < 0) {
            break;
        }
        int slot = b->left-- % b->depth;
        uint64_t at = b->offset;
        b->offset += b->step;
        if (b->size <= b->bytes) {
            b->offset = 0;
        } else {
            b->offset %= b->size - b->bytes + 1;
        }
        uint8_t *buf = b->buf + (uint64_t)slot * b->bytes;
        b->writing++;
        int r = b->write ? block_co_pwrite(b->disk->root, at, b->bytes, buf, b->disk->write_flags)
                         : block_co_pread(b->disk->root, at, b->bytes, buf, 0);
        b->writing--;
        if (b->writing == 0) {
            co_queue_wake_all(&b->idle);
        }
        if (r < 0) {
            if (b->result == 0) {
                log_error("Failed request: %s", g_strerror(-r));
            }
            b->result = r;
            break;
        }
        if (b->flush_interval && ++b->since_flush == b->flush_interval) {
            b->since_flush = 0;
            bench_flush(b);
        }
    }
}

int img_cmd_bench(ImgTool *tool, int argc, char **argv)
{
    enum { OPT_PATTERN = IMG_OPT_FIRST, OPT_FLUSH, OPT_NO_DRAIN };
    static const struct option longs[] = { IMG_LONG_HELP,
                                           { "flush-interval", required_argument, NULL, OPT_FLUSH },
                                           IMG_LONG_IMAGE_OPTS,
                                           { "pattern", required_argument, NULL, OPT_PATTERN },
                                           { "no-drain", no_argument, NULL, OPT_NO_DRAIN },
                                           IMG_LONG_FORCE_SHARE,
                                           IMG_LONG_END };
    ImgArgs args = {
        .tool = tool, .argc = argc, .argv = argv, .shorts = ":hc:d:f:ni:o:qs:S:t:wU", .longs = longs
    };
    uint64_t count = 75000, depth = 64, flush_interval = 0, pattern = 0;
    int64_t offset = 0, bytes = 4096, step = 0;
    bool write = false, native = false, drain = true;
    const char *aio = NULL;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        switch (c) {
        case 'c':
            if (!img_ulong(optarg, INT32_MAX, &count)) {
                log_error("Invalid request count specified");
                return EXIT_FAILURE;
            }
            break;
        case 'd':
            if (!img_ulong(optarg, 65536, &depth) || depth == 0) {
                log_error("Invalid queue depth specified");
                return EXIT_FAILURE;
            }
            break;
        case 'n':
            native = true;
            break;
        case 'i':
            aio = optarg;
            if (!g_str_equal(aio, "threads") && !g_str_equal(aio, "native") &&
                !g_str_equal(aio, "io_uring")) {
                log_error("Invalid aio option: %s", aio);
                return EXIT_FAILURE;
            }
            break;
        case 'o':
            offset = img_size_parse(optarg, "offset", 0, INT64_MAX);
            if (offset < 0) {
                return EXIT_FAILURE;
            }
            break;
        case 's':
            bytes = img_size_parse(optarg, "buffer size", 1, INT32_MAX);
            if (bytes < 0) {
                return EXIT_FAILURE;
            }
            break;
        case 'S':
            step = img_size_parse(optarg, "step_size", 1, INT32_MAX);
            if (step < 0) {
                return EXIT_FAILURE;
            }
            break;
        case 'w':
            write = true;
            break;
        case OPT_PATTERN:
            if (!img_ulong(optarg, 255, &pattern)) {
                log_error("Invalid pattern byte specified");
                return EXIT_FAILURE;
            }
            break;
        case OPT_FLUSH:
            if (!img_ulong(optarg, INT32_MAX, &flush_interval)) {
                log_error("Invalid flush interval specified");
                return EXIT_FAILURE;
            }
            break;
        case OPT_NO_DRAIN:
            drain = false;
            break;
        }
    }
    if (optind != argc - 1) {
        img_usage_error("Expecting one image file name");
    }
    if (!write && flush_interval) {
        log_error("--flush-interval is only available in write tests");
        return EXIT_FAILURE;
    }
    if (flush_interval && flush_interval < depth) {
        log_error("Flush interval can't be smaller than depth");
        return EXIT_FAILURE;
    }
    ImgCache cache = { 0 };
    if (args.cache && !img_cache_parse(args.cache, &cache)) {
        log_error("Invalid cache mode");
        return EXIT_FAILURE;
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    json_object *more = json_object_new_object();
    if (native || aio) {
        json_object *file = json_object_new_object();
        json_object_object_add(file, "aio", json_object_new_string(aio ? aio : "native"));
        json_object_object_add(more, "file", file);
    }
    ImgDisk *disk = img_open(tool, args.image_opts, argv[optind], args.format, write ? IMG_OPEN_WRITE : 0,
                             &cache, args.force_share, more);
    if (!disk) {
        return EXIT_FAILURE;
    }
    Bench b = { .disk = disk,
                .size = block_size(disk->root),
                .offset = (uint64_t)offset,
                .bytes = (uint64_t)bytes,
                .step = (uint64_t)(step ? step : bytes),
                .left = (int)count,
                .depth = (int)depth,
                .write = write,
                .drain = drain,
                .flush_interval = (int)flush_interval };
    co_queue_init(&b.idle);
    if (!args.quiet) {
        printf("Sending %d %s requests, %" PRIu64 " bytes each, %d in parallel (starting at offset %" PRIu64
               ", step size %" PRIu64 ")\n",
               b.left, write ? "write" : "read", b.bytes, b.depth, b.offset, b.step);
        if (flush_interval) {
            printf("Sending flush every %d requests\n", b.flush_interval);
        }
        fflush(stdout);
    }
    b.buf = img_buffer(disk->root, b.bytes * depth);
    memset(b.buf, (int)pattern, b.bytes * depth);
    int64_t start = g_get_monotonic_time();
    if (count > 0) {
        img_run_parallel(tool, bench_worker, &b, b.depth);
    }
    double seconds = (double)(g_get_monotonic_time() - start) / 1e6;
    if (!args.quiet && b.result == 0) {
        printf("Run completed in %3.3f seconds.\n", seconds);
    }
    img_buffer_free(b.buf);
    img_close(disk);
    return b.result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
