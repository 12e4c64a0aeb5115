/* The commands of rhea-io. SPDX-License-Identifier: GPL-2.0-or-later */
#include "img/io.h"

#include "base/error.h"
#include "base/log.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What one request may name: requests above BLOCK_MAX_REQUEST are made in pieces here. */
#define MAX_BYTES 2147483136u

typedef struct IoCommand IoCommand;
struct IoCommand {
    const char *name, *alias;
    int (*run)(IoSession *s, int argc, char **argv); /* 0 or negative */
    int min, max;                                    /* arguments; max -1: any number */
    unsigned perm;                                   /* that it needs */
    bool no_file;
    const char *args, *what;
    const char *more; /* of `help NAME` */
};

static const IoCommand *find_command(const char *name);

static int usage(const char *name)
{
    const IoCommand *c = find_command(name);
    printf("%s %s -- %s\n", c->name, c->args ? c->args : "", c->what);
    return -EINVAL;
}

/* ---- numbers ---- */

/* A byte count or offset; -EINVAL or -ERANGE after saying so. */
static int64_t number(const char *text)
{
    uint64_t value = 0;
    int r = img_size_value(text, 1, &value);
    if (r == 0 && value > INT64_MAX) {
        r = -ERANGE;
    }
    if (r == 0) {
        return (int64_t)value;
    }
    if (r == -EINVAL) {
        printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text);
    } else {
        printf("Parsing error: argument too large -- %s\n", text);
    }
    return r;
}

static int pattern_byte(const char *text)
{
    char *end;
    long value = strtol(text, &end, 0);
    if (end == text || *end || value < 0 || value > 255) {
        printf("%s is not a valid pattern byte\n", text);
        return -1;
    }
    return (int)value;
}

/* "64 KiB", "1.500 MiB", "512 bytes". */
static void amount_text(double value, char *out, size_t size)
{
    static const char *const units[] = { " bytes", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB" };
    int unit = 0;
    while (value >= 1024 && unit < 6) {
        value /= 1024;
        unit++;
    }
    char text[64];
    snprintf(text, sizeof(text), unit ? "%.3f" : "%f", value);
    char *zeroes = strstr(text, ".000");
    if (zeroes) {
        *zeroes = 0;
    }
    snprintf(out, size, "%s%s", text, units[unit]);
}

static void time_text(double seconds, bool fixed, char *out, size_t size)
{
    unsigned whole = (unsigned)seconds;
    if (fixed || whole) {
        snprintf(out, size, "%u:%02u:%05.2f", whole / 3600, whole / 60 % 60, seconds - whole + whole % 60);
    } else {
        snprintf(out, size, "%05.2f sec", seconds);
    }
}

static void report(const char *verb, int64_t start_us, int64_t offset, int64_t count, int64_t total, int ops,
                   bool machine)
{
    double seconds = (double)(g_get_monotonic_time() - start_us) / 1e6;
    char amount[64], rate[64], time[64];
    double per_second = seconds > 0 ? 1 / seconds : 0;
    amount_text((double)total, amount, sizeof(amount));
    amount_text((double)total * per_second, rate, sizeof(rate));
    time_text(seconds, machine, time, sizeof(time));
    if (machine) {
        printf("%" PRId64 ",%d,%s,%.3f,%.3f\n", total, ops, time, (double)total * per_second,
               ops * per_second);
    } else {
        printf("%s %" PRId64 "/%" PRId64 " bytes at offset %" PRId64 "\n", verb, total, count, offset);
        printf("%s, %d ops; %s (%s/sec and %.4f ops/sec)\n", amount, ops, time, rate, ops * per_second);
    }
}

static void dump(const uint8_t *buf, int64_t offset, int64_t length)
{
    for (int64_t i = 0; i < length; i += 16) {
        int64_t n = MIN(16, length - i);
        printf("%08" PRIx64 ":  ", (uint64_t)(offset + i));
        for (int64_t j = 0; j < n; j++) {
            printf("%02x ", buf[i + j]);
        }
        printf(" ");
        for (int64_t j = 0; j < n; j++) {
            printf("%c", g_ascii_isalnum(buf[i + j]) ? buf[i + j] : '.');
        }
        printf("\n");
    }
}

/* ---- memory ---- */

typedef struct Buffer {
    uint8_t *base, *data;
} Buffer;

static Buffer buffer_new(IoSession *s, uint64_t bytes, int fill)
{
    /* -m shifts it, so that direct I/O has to copy. */
    Buffer b = { .base = img_buffer(s->disk->root, MAX(bytes, 1) + 16) };
    b.data = b.base + (s->misalign ? 16 : 0);
    memset(b.data, fill, bytes);
    return b;
}

static void buffer_free(Buffer *b)
{
    img_buffer_free(b->base);
    b->base = b->data = NULL;
}

/* bytes of data that repeat what is in a file. */
static bool buffer_from_file(const char *filename, uint8_t *data, uint64_t bytes)
{
    g_autofree char *content = NULL;
    gsize length = 0;
    g_autoptr(GError) error = NULL;
    if (!g_file_get_contents(filename, &content, &length, &error)) {
        fprintf(stderr, "%s: %s\n", filename, g_strerror(errno));
        return false;
    }
    if (length == 0) {
        fprintf(stderr, "%s: file is empty\n", filename);
        return false;
    }
    for (uint64_t at = 0; at < bytes; at += length) {
        memcpy(data + at, content, MIN(length, bytes - at));
    }
    return true;
}

static bool all_are(const uint8_t *data, uint64_t bytes, int pattern)
{
    return bytes == 0 || (data[0] == pattern && memcmp(data, data + 1, bytes - 1) == 0);
}

/* ---- one request ---- */

typedef enum IoKind { IO_READ, IO_WRITE, IO_COMPRESSED, IO_ZEROES, IO_DISCARD, IO_LOAD, IO_SAVE } IoKind;

typedef struct IoRequest {
    IoSession *s;
    IoKind kind;
    uint64_t offset, bytes;
    struct iovec *iov;
    int iov_count;
    unsigned flags;
    int result;
} IoRequest;

static int vmstate(IoRequest *r, const BlockVec *vec)
{
    BlockNode *node = img_snapshot_node(r->s->disk->node);
    if (!node) {
        return -ENOTSUP;
    }
    int (*fn)(BlockNode *, uint64_t, uint64_t, const BlockVec *) =
        r->kind == IO_LOAD ? node->driver->co_load_vmstate : node->driver->co_save_vmstate;
    return fn ? fn(node, r->offset, r->bytes, vec) : -ENOTSUP;
}

static void co_request(void *opaque)
{
    IoRequest *r = opaque;
    BlockChild *root = r->s->disk->root;
    BlockVec vec = { r->iov, r->iov_count };
    uint64_t done = 0;
    if (r->kind == IO_LOAD || r->kind == IO_SAVE) {
        r->result = vmstate(r, &vec);
        return;
    }
    do {
        uint64_t n = MIN(r->bytes - done, BLOCK_MAX_REQUEST), at = r->offset + done;
        switch (r->kind) {
        case IO_READ:
            r->result = block_co_preadv(root, at, n, &vec, done, r->flags);
            break;
        case IO_WRITE:
        case IO_COMPRESSED:
            r->result =
                block_co_pwritev(root, at, n, &vec, done,
                                 r->flags | (r->kind == IO_COMPRESSED ? BLOCK_REQ_WRITE_COMPRESSED : 0));
            break;
        case IO_ZEROES:
            r->result = block_co_pwrite_zeroes(root, at, n, r->flags);
            break;
        default:
            r->result = block_co_pdiscard(root, at, n);
            break;
        }
        done += n;
    } while (r->result >= 0 && done < r->bytes);
}

static int do_request(IoSession *s, IoKind kind, int64_t offset, int64_t bytes, uint8_t *data, unsigned flags)
{
    struct iovec iov = { data, (size_t)bytes };
    IoRequest r = { .s = s,
                    .kind = kind,
                    .offset = (uint64_t)offset,
                    .bytes = (uint64_t)bytes,
                    .iov = &iov,
                    .iov_count = 1,
                    .flags = flags };
    block_run(s->tool->graph, co_request, &r);
    return r.result;
}

/* ---- read, write ---- */

/* Offset and count of argv[optind] on; false: reported. */
static bool range_arguments(char **argv, int64_t *offset, int64_t *count)
{
    *offset = number(argv[optind]);
    if (*offset < 0) {
        return false;
    }
    *count = number(argv[optind + 1]);
    return *count >= 0;
}

static bool sector_aligned(int64_t value, const char *what)
{
    if (value % 512) {
        printf("%" PRId64 " is not a sector-aligned value for '%s'\n", value, what);
        return false;
    }
    return true;
}

static int cmd_read(IoSession *s, int argc, char **argv)
{
    bool machine = false, quiet = false, show = false, state = false, has_from = false, has_length = false;
    int pattern = -1, c;
    int64_t from = 0, length = 0, offset, count;
    while ((c = getopt(argc, argv, "bCl:pP:qs:v")) != -1) {
        switch (c) {
        case 'b':
            state = true;
            break;
        case 'C':
            machine = true;
            break;
        case 'l':
            has_length = true;
            length = number(optarg);
            if (length < 0) {
                return (int)length;
            }
            break;
        case 'p':
            break;
        case 'P':
            pattern = pattern_byte(optarg);
            if (pattern < 0) {
                return -EINVAL;
            }
            break;
        case 'q':
            quiet = true;
            break;
        case 's':
            has_from = true;
            from = number(optarg);
            if (from < 0) {
                return (int)from;
            }
            break;
        case 'v':
            show = true;
            break;
        default:
            return usage("read");
        }
    }
    if (optind != argc - 2) {
        return usage("read");
    }
    if (!range_arguments(argv, &offset, &count)) {
        return -EINVAL;
    }
    if (count > MAX_BYTES) {
        printf("length cannot exceed %u, given %s\n", MAX_BYTES, argv[optind + 1]);
        return -EINVAL;
    }
    if (pattern < 0 && (has_length || has_from)) {
        return usage("read");
    }
    if (!has_length) {
        length = count - from;
    }
    if (length < 0 || length + from > count) {
        printf("pattern verification range exceeds end of read data\n");
        return -EINVAL;
    }
    if (state && (!sector_aligned(offset, "offset") || !sector_aligned(count, "count"))) {
        return -EINVAL;
    }
    Buffer b = buffer_new(s, (uint64_t)count, 0xab);
    int64_t start = g_get_monotonic_time();
    int r = do_request(s, state ? IO_LOAD : IO_READ, offset, count, b.data, 0);
    if (r < 0) {
        printf("read failed: %s\n", g_strerror(-r));
        goto out;
    }
    r = 0;
    if (pattern >= 0 && !all_are(b.data + from, (uint64_t)length, pattern)) {
        printf("Pattern verification failed at offset %" PRId64 ", %" PRId64 " bytes\n", offset + from,
               length);
        r = -EINVAL;
    }
    if (!quiet) {
        if (show) {
            dump(b.data, offset, count);
        }
        report("read", start, offset, count, count, 1, machine);
    }
out:
    buffer_free(&b);
    return r;
}

static int cmd_write(IoSession *s, int argc, char **argv)
{
    bool machine = false, quiet = false, state = false, compressed = false, zero = false;
    unsigned flags = s->disk->write_flags;
    int pattern = -1, c;
    const char *file = NULL;
    int64_t offset, count;
    while ((c = getopt(argc, argv, "bcCfnpP:qs:uz")) != -1) {
        switch (c) {
        case 'b':
            state = true;
            break;
        case 'c':
            compressed = true;
            break;
        case 'C':
            machine = true;
            break;
        case 'f':
            flags |= BLOCK_REQ_FUA;
            break;
        case 'n':
            flags |= BLOCK_REQ_NO_FALLBACK;
            break;
        case 'p':
            break;
        case 'q':
            quiet = true;
            break;
        case 'u':
            flags |= BLOCK_REQ_MAY_UNMAP;
            break;
        case 'P':
            pattern = pattern_byte(optarg);
            if (pattern < 0) {
                return -EINVAL;
            }
            break;
        case 's':
            file = optarg;
            break;
        case 'z':
            zero = true;
            break;
        default:
            return usage("write");
        }
    }
    if (optind != argc - 2) {
        return usage("write");
    }
    const char *wrong = state && zero ? "-b and -z cannot be specified at the same time"
                        : flags & BLOCK_REQ_FUA & ~s->disk->write_flags && (state || compressed)
                            ? "-f and -b or -c cannot be specified at the same time"
                        : flags & BLOCK_REQ_NO_FALLBACK && !zero ? "-n requires -z to be specified"
                        : flags & BLOCK_REQ_MAY_UNMAP && !zero   ? "-u requires -z to be specified"
                        : zero + (pattern >= 0) + (file != NULL) > 1
                            ? "Only one of -z, -P, and -s can be specified at the same time"
                            : NULL;
    if (wrong) {
        printf("%s\n", wrong);
        return -EINVAL;
    }
    if (!range_arguments(argv, &offset, &count)) {
        return -EINVAL;
    }
    if (count > MAX_BYTES && !(flags & BLOCK_REQ_NO_FALLBACK)) {
        printf("length cannot exceed %u without -n, given %s\n", MAX_BYTES, argv[optind + 1]);
        return -EINVAL;
    }
    if ((state || compressed) && (!sector_aligned(offset, "offset") || !sector_aligned(count, "count"))) {
        return -EINVAL;
    }
    Buffer b = { NULL, NULL };
    int r = -EINVAL;
    if (!zero) {
        b = buffer_new(s, (uint64_t)count, pattern >= 0 ? pattern : 0xcd);
        if (file && !buffer_from_file(file, b.data, (uint64_t)count)) {
            goto out;
        }
    }
    int64_t start = g_get_monotonic_time();
    r = do_request(s,
                   state        ? IO_SAVE
                   : zero       ? IO_ZEROES
                   : compressed ? IO_COMPRESSED
                                : IO_WRITE,
                   offset, count, b.data, flags);
    if (r < 0) {
        printf("write failed: %s\n", g_strerror(-r));
    } else {
        r = 0;
        if (!quiet) {
            report("wrote", start, offset, count, count, 1, machine);
        }
    }
out:
    buffer_free(&b);
    return r;
}

/* ---- vectors, and requests that go on while the next command runs ---- */

typedef struct IoVector {
    IoRequest request;
    Buffer buffer;
    int64_t offset, bytes, start_us;
    int pattern; /* -1: none */
    bool quiet, machine, show, invalid, async;
} IoVector;

/* argv[optind] is the offset, lengths follow. NULL: reported. */
static IoVector *vector_new(IoSession *s, int argc, char **argv, int fill)
{
    int64_t offset = number(argv[optind++]), total = 0;
    if (offset < 0) {
        return NULL;
    }
    int n = argc - optind;
    g_autofree struct iovec *iov = g_new0(struct iovec, (gsize)n);
    for (int i = 0; i < n; i++) {
        int64_t length = number(argv[optind + i]);
        if (length < 0) {
            return NULL;
        }
        if (length > MAX_BYTES) {
            printf("Argument '%s' exceeds maximum size %u\n", argv[optind + i], MAX_BYTES);
            return NULL;
        }
        total += length;
        if (total > MAX_BYTES) {
            printf("The total number of bytes exceed the maximum size %u\n", MAX_BYTES);
            return NULL;
        }
        iov[i].iov_len = (size_t)length;
    }
    IoVector *v = g_new0(IoVector, 1);
    v->buffer = buffer_new(s, (uint64_t)total, fill);
    uint8_t *p = v->buffer.data;
    for (int i = 0; i < n; i++) {
        iov[i].iov_base = p;
        p += iov[i].iov_len;
    }
    v->offset = offset;
    v->bytes = total;
    v->start_us = g_get_monotonic_time();
    v->pattern = -1;
    v->request = (IoRequest){ .s = s,
                              .offset = (uint64_t)offset,
                              .bytes = (uint64_t)total,
                              .iov = g_steal_pointer(&iov),
                              .iov_count = n };
    return v;
}

static void vector_free(IoVector *v)
{
    buffer_free(&v->buffer);
    g_free(v->request.iov);
    g_free(v);
}

/* Says what came of it; 0 or a negative errno. Frees it. */
static int vector_finish(IoVector *v)
{
    bool is_read = v->request.kind == IO_READ;
    int r = v->request.result;
    if (r < 0) {
        printf("%s failed: %s\n", is_read ? "readv" : v->async ? "aio_write" : "writev", g_strerror(-r));
    } else {
        r = 0;
        if (is_read && v->pattern >= 0 && !all_are(v->buffer.data, (uint64_t)v->bytes, v->pattern)) {
            printf("Pattern verification failed at offset %" PRId64 ", %" PRId64 " bytes\n", v->offset,
                   v->bytes);
            r = -EINVAL;
        }
        if (!v->quiet) {
            if (v->show) {
                dump(v->buffer.data, v->offset, v->bytes);
            }
            report(is_read ? "read" : "wrote", v->start_us, v->offset, v->bytes, v->bytes, 1, v->machine);
        }
    }
    vector_free(v);
    return r;
}

static void co_async(void *opaque)
{
    IoVector *v = opaque;
    IoSession *s = v->request.s;
    co_request(&v->request);
    vector_finish(v);
    fflush(stdout);
    s->in_flight--;
}

static int vector_command(IoSession *s, int argc, char **argv, bool is_read, bool async)
{
    bool machine = false, quiet = false, show = false, invalid = false, zero = false;
    unsigned flags = is_read ? 0 : s->disk->write_flags;
    int pattern = -1, c;
    const char *letters = is_read ? async ? "CiP:qv" : "CP:qv" : async ? "CfiP:quz" : "CfqP:";
    while ((c = getopt(argc, argv, letters)) != -1) {
        switch (c) {
        case 'C':
            machine = true;
            break;
        case 'f':
            flags |= BLOCK_REQ_FUA;
            break;
        case 'i':
            invalid = true;
            break;
        case 'q':
            quiet = true;
            break;
        case 'u':
            flags |= BLOCK_REQ_MAY_UNMAP;
            break;
        case 'v':
            show = true;
            break;
        case 'z':
            zero = true;
            break;
        case 'P':
            pattern = pattern_byte(optarg);
            if (pattern < 0) {
                return -EINVAL;
            }
            break;
        default:
            return usage(argv[0]);
        }
    }
    if (optind > argc - 2) {
        return usage(argv[0]);
    }
    const char *wrong = zero && optind != argc - 2             ? "-z supports only a single length parameter"
                        : flags & BLOCK_REQ_MAY_UNMAP && !zero ? "-u requires -z to be specified"
                        : zero && pattern >= 0 ? "-z and -P cannot be specified at the same time"
                                               : NULL;
    if (wrong) {
        printf("%s\n", wrong);
        return -EINVAL;
    }
    if (invalid) {
        printf("injecting invalid %s request\n", is_read ? "read" : "write");
        return 0;
    }
    IoVector *v = vector_new(s, argc, argv, is_read ? 0xab : pattern >= 0 ? pattern : 0xcd);
    if (!v) {
        return -EINVAL;
    }
    v->request.kind = is_read ? IO_READ : zero ? IO_ZEROES : IO_WRITE;
    v->request.flags = flags;
    v->pattern = is_read ? pattern : -1;
    v->quiet = quiet;
    v->machine = machine;
    v->show = show;
    v->async = async;
    if (async) {
        s->in_flight++;
        coroutine_enter(coroutine_new(co_async, v));
        return 0;
    }
    block_run(s->tool->graph, co_request, &v->request);
    return vector_finish(v);
}

static int cmd_readv(IoSession *s, int argc, char **argv)
{
    return vector_command(s, argc, argv, true, false);
}

static int cmd_writev(IoSession *s, int argc, char **argv)
{
    return vector_command(s, argc, argv, false, false);
}

static int cmd_aio_read(IoSession *s, int argc, char **argv)
{
    return vector_command(s, argc, argv, true, true);
}

static int cmd_aio_write(IoSession *s, int argc, char **argv)
{
    return vector_command(s, argc, argv, false, true);
}

static int cmd_aio_flush(IoSession *s, int argc, char **argv)
{
    while (s->in_flight > 0) {
        loop_iterate(s->tool->loop, true);
    }
    return 0;
}

static int cmd_flush(IoSession *s, int argc, char **argv)
{
    return blk_flush(s->disk->root);
}

static int cmd_discard(IoSession *s, int argc, char **argv)
{
    bool machine = false, quiet = false;
    int64_t offset, bytes;
    int c;
    while ((c = getopt(argc, argv, "Cq")) != -1) {
        switch (c) {
        case 'C':
            machine = true;
            break;
        case 'q':
            quiet = true;
            break;
        default:
            return usage("discard");
        }
    }
    if (optind != argc - 2) {
        return usage("discard");
    }
    if (!range_arguments(argv, &offset, &bytes)) {
        return -EINVAL;
    }
    if (bytes > MAX_BYTES) {
        printf("length cannot exceed %u, given %s\n", MAX_BYTES, argv[optind + 1]);
        return -EINVAL;
    }
    int64_t start = g_get_monotonic_time();
    int r = do_request(s, IO_DISCARD, offset, bytes, NULL, 0);
    if (r < 0) {
        printf("discard failed: %s\n", g_strerror(-r));
        return r;
    }
    if (!quiet) {
        report("discard", start, offset, bytes, bytes, 1, machine);
    }
    return 0;
}

/* ---- looking at the image ---- */

static int cmd_length(IoSession *s, int argc, char **argv)
{
    char text[64];
    amount_text((double)ROUND_UP_SECTOR(block_size(s->disk->root)), text, sizeof(text));
    printf("%s\n", text);
    return 0;
}

static int cmd_truncate(IoSession *s, int argc, char **argv)
{
    QapiPreallocMode prealloc = QAPI_PREALLOC_MODE_OFF;
    int c;
    while ((c = getopt(argc, argv, "m:")) != -1) {
        if (c != 'm') {
            return usage("truncate");
        }
        int mode = enum_parse(&qapi_PreallocMode_lookup, optarg, NULL);
        if (mode < 0) {
            log_error("Invalid preallocation mode '%s'", optarg);
            return -EINVAL;
        }
        prealloc = (QapiPreallocMode)mode;
    }
    if (optind != argc - 1) {
        return usage("truncate");
    }
    int64_t size = number(argv[optind]);
    if (size < 0) {
        return (int)size;
    }
    g_autoptr(GError) error = NULL;
    if (!blk_truncate(s->disk->root, (uint64_t)size, false, prealloc, 0, &error)) {
        error_report(error);
        return -EIO;
    }
    return 0;
}

static int cmd_info(IoSession *s, int argc, char **argv)
{
    BlockNode *node = s->disk->node;
    BlockInfo info = { 0 };
    char cluster[64], state[64];
    printf("format name: %s\n", node->driver->name);
    if (node->driver->is_protocol) {
        printf("format name: %s\n", node->driver->name);
    }
    if ((!node->driver->get_info && g_str_has_prefix(node->driver->name, "null-")) ||
        !block_node_info(node, &info, NULL)) {
        return -ENOTSUP;
    }
    amount_text((double)info.cluster_size, cluster, sizeof(cluster));
    amount_text((double)info.vm_state_offset, state, sizeof(state));
    printf("cluster size: %s\nvm state offset: %s\n", cluster, state);
    json_object *specific = block_node_specific_info(node);
    if (specific) {
        printf("Format specific information:\n");
        img_info_print_specific(specific);
        json_object_put(specific);
    }
    return 0;
}

typedef struct AllocQuery {
    BlockNode *node;
    uint64_t offset, bytes, count;
    int result;
} AllocQuery;

static void co_allocated(void *opaque)
{
    AllocQuery *q = opaque;
    q->result =
        block_co_is_allocated_above(q->node, block_cow_child(q->node), false, q->offset, q->bytes, &q->count);
}

static int is_allocated(IoSession *s, uint64_t offset, uint64_t bytes, uint64_t *count)
{
    AllocQuery q = { .node = block_skip_filters(s->disk->node), .offset = offset, .bytes = bytes };
    block_run(s->tool->graph, co_allocated, &q);
    *count = q.count;
    return q.result;
}

static int cmd_alloc(IoSession *s, int argc, char **argv)
{
    int64_t offset = number(argv[1]), count = 512;
    if (offset < 0) {
        return (int)offset;
    }
    if (argc == 3) {
        count = number(argv[2]);
        if (count < 0) {
            return (int)count;
        }
    }
    uint64_t size = block_size(s->disk->root), sum = 0;

    count = (uint64_t)offset < size ? (int64_t)MIN((uint64_t)count, size - (uint64_t)offset) : 0;
    for (uint64_t at = (uint64_t)offset, left = (uint64_t)count; left > 0 && at < size;) {
        uint64_t n = 0;
        int r = is_allocated(s, at, MIN(left, size - at), &n);
        if (r < 0) {
            printf("is_allocated failed: %s\n", g_strerror(-r));
            return r;
        }
        if (n == 0) {
            break;
        }
        sum += r ? n : 0;
        at += n;
        left -= n;
    }
    char text[64];
    amount_text((double)offset, text, sizeof(text));
    printf("%" PRIu64 "/%" PRId64 " bytes allocated at offset %s\n", sum, count, text);
    return 0;
}

static int cmd_map(IoSession *s, int argc, char **argv)
{
    uint64_t size = block_size(s->disk->root), at = 0;
    while (at < size) {
        uint64_t n = 0, length = 0;
        int r = is_allocated(s, at, size - at, &length), next = r;
        while (r >= 0 && next == r && length > 0 && at + length < size) {
            next = is_allocated(s, at + length, size - at - length, &n);
            length += next == r ? n : 0;
        }
        if (r < 0 || next < 0) {
            log_error("Failed to get allocation status: %s", g_strerror(-MIN(r, next)));
            return MIN(r, next);
        }
        if (length == 0) {
            log_error("Unexpected end of image");
            return -EIO;
        }
        char amount[64], where[64];
        amount_text((double)length, amount, sizeof(amount));
        amount_text((double)at, where, sizeof(where));
        printf("%s (0x%" PRIx64 ") bytes %s at offset %s (0x%" PRIx64 ")\n", amount, length,
               r ? "    allocated" : "not allocated", where, at);
        at += length;
    }
    return 0;
}

/* ---- opening ---- */

static void put_nested(json_object *options, const char *outer, const char *name, const char *value)
{
    json_object *dict = NULL;
    if (!json_object_object_get_ex(options, outer, &dict)) {
        dict = json_object_new_object();
        json_object_object_add(options, outer, dict);
    }
    if (json_object_is_type(dict, json_type_object) && !json_object_object_get_ex(dict, name, NULL)) {
        json_object_object_add(dict, name, json_object_new_string(value));
    }
}

bool io_open(IoSession *s, const char *filename, const IoOpen *how, json_object *options)
{
    if (s->disk) {
        log_error("file open already, try 'help close'");
        json_object_put(options);
        return false;
    }
    g_autoptr(GError) error = NULL;
    if (s->image_opts && filename) { /* the name is all of the options */
        options = keyval_parse(filename, "file", NULL, &error);
        if (!options) {
            error_report(error);
            return false;
        }
        filename = NULL;
    } else if (!options) {
        options = json_object_new_object();
    }
    if (how->force_share && json_object_object_get_ex(options, "force-share", NULL)) {
        log_error("-U conflicts with image options");
        json_object_put(options);
        return false;
    }
    if (!json_object_object_get_ex(options, "discard", NULL)) { /* unlike elsewhere, on by default here */
        json_object_object_add(options, "discard",
                               json_object_new_string(how->discard ? how->discard : "unmap"));
    }
    json_object *driver = NULL;
    json_object_object_get_ex(options, "driver", &driver);
    g_autofree char *format = g_strdup(driver ? json_object_get_string(driver) : NULL);
    const BlockDriver *d = format ? block_driver_find(format, NULL) : NULL;
    if (how->aio && filename && (!d || !d->is_protocol) && block_protocol_of(filename, NULL) &&
        g_str_equal(block_protocol_of(filename, NULL)->name, "file")) {
        put_nested(options, "file", "aio", how->aio);
    } else if (how->aio && d && (g_str_equal(d->name, "file") || g_str_equal(d->name, "host_device"))) {
        json_object_object_add(options, "aio", json_object_new_string(how->aio));
    }
    if (how->copy_on_read && how->read_only) {
        log_error("can't open%s%s: Can't use copy-on-read on read-only device", filename ? " device " : "",
                  filename ? filename : "");
        json_object_put(options);
        return false;
    }
    g_autofree char *overlay = NULL;
    if (how->snapshot && filename) {
        overlay = img_temporary_overlay(s->tool, filename, format);
        if (!overlay) {
            json_object_put(options);
            return false;
        }
        json_object_object_add(options, "driver", json_object_new_string("qcow2"));
    }
    unsigned flags = how->read_only && !overlay ? 0 : IMG_OPEN_WRITE;
    s->disk = img_try_open(s->tool, false, overlay ? overlay : filename, NULL, flags, &how->cache,
                           how->force_share, options, &error);
    if (overlay) {
        unlink(overlay);
    }
    if (!s->disk) {
        error_prefix(&error, "can't open%s%s: ", filename ? " device " : "", filename ? filename : "");
        error_report(error);
        return false;
    }
    if (how->copy_on_read) {
        block_copy_on_read_enable(s->disk->node);
    }
    return true;
}

void io_close(IoSession *s)
{
    cmd_aio_flush(s, 0, NULL);
    img_close(s->disk);
    s->disk = NULL;
}

static int cmd_close(IoSession *s, int argc, char **argv)
{
    io_close(s);
    return 0;
}

static int cmd_open(IoSession *s, int argc, char **argv)
{
    IoOpen how = { .read_only = s->read_only };
    json_object *options = NULL;
    g_autofree char *text = NULL;
    int c;
    while ((c = getopt(argc, argv, "snCro:ki:t:d:U")) != -1) {
        switch (c) {
        case 's':
            how.snapshot = true;
            break;
        case 'n':
            how.cache = (ImgCache){ .direct = true };
            break;
        case 'C':
            how.copy_on_read = true;
            break;
        case 'r':
            how.read_only = true;
            break;
        case 'k':
            how.aio = "native";
            break;
        case 'i':
            how.aio = optarg;
            break;
        case 't':
            if (!img_cache_parse(optarg, &how.cache)) {
                log_error("Invalid cache option: %s", optarg);
                return -EINVAL;
            }
            break;
        case 'd':
            how.discard = g_str_equal(optarg, "unmap") || g_str_equal(optarg, "on") ? "unmap" : "ignore";
            break;
        case 'U':
            how.force_share = true;
            break;
        case 'o': {
            if (s->image_opts) {
                printf("--image-opts and 'open -o' are mutually exclusive\n");
                return -EINVAL;
            }
            char *joined = text ? g_strconcat(text, ",", optarg, NULL) : g_strdup(optarg);
            g_free(text);
            text = joined;
            break;
        }
        default:
            return usage("open");
        }
    }
    if (optind < argc - 1) {
        return usage("open");
    }
    const char *filename = optind < argc ? argv[optind] : NULL;
    g_autoptr(GError) error = NULL;
    if (text) {
        options = keyval_parse(text, NULL, NULL, &error);
        if (!options) {
            error_report(error);
            return -EINVAL;
        }
    }
    if (!filename && !options) {
        return usage("open");
    }
    return io_open(s, filename, &how, options) ? 0 : -EINVAL;
}

/* Whether these members, where they are given, are "on" or "off". */
static bool check_switches(json_object *changes, GError **error)
{
    static const char *const names[] = { "read-only", "auto-read-only", "cache.direct", "cache.no-flush",
                                         NULL };
    for (const char *const *name = names; *name; name++) {
        json_object *dict = changes, *value = NULL;
        const char *member = *name;
        if (g_str_has_prefix(member, "cache.")) {
            member += strlen("cache.");
            json_object_object_get_ex(changes, "cache", &dict);
        }
        if (json_object_is_type(dict, json_type_object) && json_object_object_get_ex(dict, member, &value) &&
            !g_str_equal(json_object_get_string(value), "on") &&
            !g_str_equal(json_object_get_string(value), "off")) {
            return error_set(error, "Parameter '%s' expects 'on' or 'off'", *name);
        }
    }
    return true;
}

static int cmd_reopen(IoSession *s, int argc, char **argv)
{
    bool has_cache = false;
    int access = 0, c;
    ImgCache cache = { 0 };
    g_autofree char *text = NULL;
    while ((c = getopt(argc, argv, "c:o:rw")) != -1) {
        switch (c) {
        case 'c':
            if (!img_cache_parse(optarg, &cache)) {
                log_error("Invalid cache option: %s", optarg);
                return -EINVAL;
            }
            has_cache = true;
            break;
        case 'o': {
            char *joined = text ? g_strconcat(text, ",", optarg, NULL) : g_strdup(optarg);
            g_free(text);
            text = joined;
            break;
        }
        case 'r':
        case 'w':
            if (access) {
                log_error("Only one -r/-w option may be given");
                return -EINVAL;
            }
            access = c;
            break;
        default:
            return usage("reopen");
        }
    }
    if (optind != argc) {
        return usage("reopen");
    }
    g_autoptr(GError) error = NULL;
    json_object *changes = text ? keyval_parse(text, NULL, NULL, &error) : json_object_new_object();
    if (!changes) {
        error_report(error);
        return -EINVAL;
    }
    json_object *ignored = NULL;
    if (access && json_object_object_get_ex(changes, "read-only", &ignored)) {
        log_error("Cannot set both -r/-w and 'read-only'");
        json_object_put(changes);
        return -EINVAL;
    }
    if (has_cache && json_object_object_get_ex(changes, "cache", &ignored)) {
        log_error("Cannot set both -c and the cache options");
        json_object_put(changes);
        return -EINVAL;
    }
    if (access) {
        json_object_object_add(changes, "read-only", json_object_new_string(access == 'r' ? "on" : "off"));
    }
    if (has_cache) {
        put_nested(changes, "cache", "direct", cache.direct ? "on" : "off");
        put_nested(changes, "cache", "no-flush", cache.no_flush ? "on" : "off");
    }
    bool ok = check_switches(changes, &error) && img_reopen(s->disk, changes, access == 'w', &error);
    json_object_put(changes);
    if (!ok) {
        error_report(error);
        return -EINVAL;
    }
    if (has_cache) {
        s->disk->write_flags = cache.writethrough ? BLOCK_REQ_FUA : 0;
    }
    return 0;
}

/* ---- the rest ---- */

static int cmd_sigraise(IoSession *s, int argc, char **argv)
{
    int64_t signum = number(argv[1]);
    if (signum < 0) {
        return (int)signum;
    }
    if (signum > NSIG) {
        printf("signal argument '%s' is too large to be a valid signal\n", argv[1]);
        return -EINVAL;
    }
    fflush(stdout); /* what was said before must not be lost with the program */
    raise((int)signum);
    return 0;
}

typedef struct Sleep {
    Loop *loop;
    int64_t ns;
} Sleep;

static void co_sleep(void *opaque)
{
    Sleep *sleep = opaque;
    co_sleep_ns(sleep->loop, sleep->ns);
}

static int cmd_sleep(IoSession *s, int argc, char **argv)
{
    char *end;
    errno = 0;
    long ms = strtol(argv[1], &end, 0);
    if (errno || *end || end == argv[1]) {
        printf("%s is not a valid number\n", argv[1]);
        return -EINVAL;
    }
    Sleep sleep = { s->tool->loop, ms * 1000000 };
    block_run(s->tool->graph, co_sleep, &sleep);
    return 0;
}

static int cmd_abort(IoSession *s, int argc, char **argv)
{
    fflush(stdout);
    abort();
}

static int cmd_quit(IoSession *s, int argc, char **argv)
{
    s->quit = true;
    return 0;
}

/* ---- blkdebug's breakpoints ---- */

static BlockNode *debug_node(IoSession *s)
{
    BlockNode *node = s->disk->node;
    while (node && !node->driver->debug_breakpoint) {
        node = node->file ? node->file->node : NULL;
    }
    return node;
}

static int cmd_break(IoSession *s, int argc, char **argv)
{
    BlockNode *node = debug_node(s);
    g_autoptr(GError) error = NULL;
    if (!node || !node->driver->debug_breakpoint(node, argv[1], argv[2], &error)) {
        printf("Could not set breakpoint: %s\n", node ? error->message : g_strerror(ENOTSUP));
        return -ENOTSUP;
    }
    return 0;
}

static int cmd_remove_break(IoSession *s, int argc, char **argv)
{
    BlockNode *node = debug_node(s);
    if (!node || !node->driver->debug_remove_breakpoint(node, argv[1])) {
        printf("Could not remove breakpoint %s: %s\n", argv[1], g_strerror(node ? ENOENT : ENOTSUP));
        return -ENOENT;
    }
    return 0;
}

static int cmd_resume(IoSession *s, int argc, char **argv)
{
    BlockNode *node = debug_node(s);
    if (!node || !node->driver->debug_resume(node, argv[1])) {
        printf("Could not resume request: %s\n", g_strerror(node ? ENOENT : ENOTSUP));
        return -ENOENT;
    }
    while (loop_iterate(s->tool->loop, false)) { /* it goes on before the next command begins */
    }
    return 0;
}

static int cmd_wait_break(IoSession *s, int argc, char **argv)
{
    BlockNode *node = debug_node(s);
    while (node && !node->driver->debug_is_suspended(node, argv[1])) {
        loop_iterate(s->tool->loop, true);
    }
    return 0;
}

static int cmd_help(IoSession *s, int argc, char **argv);

#define READ_PERM  BLOCK_PERM_CONSISTENT_READ
#define WRITE_PERM BLOCK_PERM_WRITE

/* clang-format off */
static const IoCommand commands[] = {
    { "abort", NULL, cmd_abort, 0, 0, 0, true, NULL, "simulate a program crash using abort(3)", NULL },
    { "aio_flush", NULL, cmd_aio_flush, 0, 0, 0, false, NULL, "completes all outstanding aio requests", NULL },
    { "aio_read", NULL, cmd_aio_read, 2, -1, READ_PERM, false, "[-Ciqv] [-P pattern] off len [len..]", "asynchronously reads a number of bytes",
      "The command ends when the request is under way; aio_flush waits for it.\n"
      " -C, -- report statistics in a machine parsable format\n -P, -- use a pattern to verify read data\n"
      " -i, -- treat request as invalid, for exercising stats\n -v, -- dump buffer to standard output\n"
      " -q, -- quiet mode, do not show I/O statistics\n" },
    { "aio_write", NULL, cmd_aio_write, 2, -1, WRITE_PERM, false, "[-Cfiquz] [-P pattern] off len [len..]", "asynchronously writes a number of bytes",
      "The command ends when the request is under way; aio_flush waits for it.\n"
      " -P, -- use different pattern to fill file\n -C, -- report statistics in a machine parsable format\n"
      " -f, -- use Force Unit Access semantics\n -i, -- treat request as invalid, for exercising stats\n"
      " -q, -- quiet mode, do not show I/O statistics\n -u, -- with -z, allow unmapping\n -z, -- write zeroes\n" },
    { "alloc", NULL, cmd_alloc, 1, 2, 0, false, "offset [count]", "checks if offset is allocated in the file", NULL },
    { "break", NULL, cmd_break, 2, 2, 0, false, "event tag", "sets a breakpoint on event and tags the stopped request as tag", NULL },
    { "close", "c", cmd_close, 0, 0, 0, false, NULL, "close the current open file", NULL },
    { "discard", "d", cmd_discard, 2, -1, WRITE_PERM, false, "[-Cq] off len", "discards a number of bytes at a specified offset",
      " -C, -- report statistics in a machine parsable format\n -q, -- quiet mode, do not show I/O statistics\n" },
    { "flush", "f", cmd_flush, 0, 0, 0, false, NULL, "flush all in-core file state to disk", NULL },
    { "help", "?", cmd_help, 0, 1, 0, true, "[command]", "help for one or all commands", NULL },
    { "info", "i", cmd_info, 0, 0, 0, false, NULL, "prints information about the current file", NULL },
    { "length", "l", cmd_length, 0, 0, 0, false, NULL, "gets the length of the current file", NULL },
    { "map", NULL, cmd_map, 0, 1, 0, false, "", "prints the allocated areas of a file", NULL },
    { "open", "o", cmd_open, 1, -1, 0, true, "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", "open the file specified by path",
      " -r, -- open file read-only\n -s, -- use snapshot file\n -C, -- use copy-on-read\n"
      " -n, -- disable host cache, short for -t none\n -U, -- force shared permissions\n"
      " -k, -- use kernel AIO implementation\n -i, -- use AIO mode (threads, native or io_uring)\n"
      " -t, -- use the given cache mode for the image\n -d, -- use the given discard mode for the image\n"
      " -o, -- options to be given to the block driver\n" },
    { "quit", "q", cmd_quit, 0, 0, 0, true, NULL, "exit the program", NULL },
    { "read", "r", cmd_read, 2, -1, READ_PERM, false, "[-abCqv] [-P pattern [-s off] [-l len]] off len", "reads a number of bytes at a specified offset",
      " -b, -- read from the VM state rather than the virtual disk\n -C, -- report statistics in a machine parsable format\n"
      " -l, -- length for pattern verification (only with -P)\n -p, -- ignored for backwards compatibility\n"
      " -P, -- use a pattern to verify read data\n -q, -- quiet mode, do not show I/O statistics\n"
      " -s, -- start offset for pattern verification (only with -P)\n -v, -- dump buffer to standard output\n" },
    { "readv", "rv", cmd_readv, 2, -1, READ_PERM, false, "[-Cqv] [-P pattern] off len [len..]", "reads a number of bytes at a specified offset",
      " -C, -- report statistics in a machine parsable format\n -P, -- use a pattern to verify read data\n"
      " -v, -- dump buffer to standard output\n -q, -- quiet mode, do not show I/O statistics\n" },
    { "remove_break", NULL, cmd_remove_break, 1, 1, 0, false, "tag", "remove a breakpoint by tag", NULL },
    { "reopen", NULL, cmd_reopen, 0, -1, 0, false, "[(-r|-w)] [-c cache] [-o options]", "reopens an image with new options",
      " -r, -- Reopen the image read-only\n -w, -- Reopen the image read-write\n"
      " -c, -- Change the cache mode to the given value\n -o, -- Changes block driver options (cf. 'open' command)\n" },
    { "resume", NULL, cmd_resume, 1, 1, 0, false, "tag", "resumes the request tagged as tag", NULL },
    { "sigraise", NULL, cmd_sigraise, 1, 1, 0, true, "signal", "raises a signal", NULL },
    { "sleep", NULL, cmd_sleep, 1, 1, 0, true, NULL, "waits for the given value in milliseconds", NULL },
    { "truncate", "t", cmd_truncate, 1, 3, WRITE_PERM | BLOCK_PERM_RESIZE, false, "[-m prealloc_mode] off", "truncates the current file at the given offset", NULL },
    { "wait_break", NULL, cmd_wait_break, 1, 1, 0, false, "tag", "waits for the suspension of a request", NULL },
    { "write", "w", cmd_write, 2, -1, WRITE_PERM, false, "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes a number of bytes at a specified offset",
      " -b, -- write to the VM state rather than the virtual disk\n -c, -- write compressed data\n"
      " -f, -- use Force Unit Access semantics\n -n, -- with -z, don't allow slow fallback\n"
      " -p, -- ignored for backwards compatibility\n -P, -- use different pattern to fill file\n"
      " -s, -- use a pattern file to fill the write buffer\n -C, -- report statistics in a machine parsable format\n"
      " -q, -- quiet mode, do not show I/O statistics\n -u, -- with -z, allow unmapping\n -z, -- write zeroes\n" },
    { "writev", "wv", cmd_writev, 2, -1, WRITE_PERM, false, "[-Cfq] [-P pattern] off len [len..]", "writes a number of bytes at a specified offset",
      " -P, -- use different pattern to fill file\n -C, -- report statistics in a machine parsable format\n"
      " -f, -- use Force Unit Access semantics\n -q, -- quiet mode, do not show I/O statistics\n" },
};
/* clang-format on */

static const IoCommand *find_command(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(name, commands[i].name) ||
            (commands[i].alias && g_str_equal(name, commands[i].alias))) {
            return &commands[i];
        }
    }
    return NULL;
}

static void print_one(const IoCommand *c)
{
    printf("%s %s%s-- %s\n", c->name, c->args ? c->args : "", c->args ? " " : "", c->what);
}

void io_print_commands(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        print_one(&commands[i]);
    }
}

static int cmd_help(IoSession *s, int argc, char **argv)
{
    if (argc < 2) {
        io_print_commands();
        printf("\nUse 'help commandname' for extended help.\n");
        return 0;
    }
    const IoCommand *c = find_command(argv[1]);
    if (!c) {
        printf("command %s not found\n", argv[1]);
        return -EINVAL;
    }
    print_one(c);
    if (c->more) {
        printf("\n%s\n", c->more);
    }
    return 0;
}

static int run_command(IoSession *s, const IoCommand *c, int argc, char **argv)
{
    if (!c->no_file && !s->disk) {
        fprintf(stderr, "no file open, try 'help open'\n");
        return -EINVAL;
    }
    int given = argc - 1;
    if (given < c->min || (c->max != -1 && given > c->max)) {
        if (c->max == -1) {
            fprintf(stderr, "bad argument count %d to %s, expected at least %d arguments\n", given, argv[0],
                    c->min);
        } else if (c->min == c->max) {
            fprintf(stderr, "bad argument count %d to %s, expected %d arguments\n", given, argv[0], c->min);
        } else {
            fprintf(stderr, "bad argument count %d to %s, expected between %d and %d arguments\n", given,
                    argv[0], c->min, c->max);
        }
        return -EINVAL;
    }
    if (c->perm & (BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE) && s->disk && s->disk->node->read_only) {
        log_error("Block node is read-only");
        return -EPERM;
    }
    if (c->perm && s->disk && (s->disk->root->perm & c->perm) != c->perm) {
        g_autoptr(GError) error = NULL;
        if (!block_root_set_perm(s->disk->root, s->disk->root->perm | c->perm, s->disk->root->shared,
                                 &error)) {
            error_report(error);
            return -EINVAL;
        }
    }
    optind = 0;
    opterr = 1;
    return c->run(s, argc, argv);
}

bool io_command(IoSession *s, const char *line)
{
    g_auto(GStrv) words = g_strsplit(line, " ", -1);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    for (char **w = words; *w; w++) {
        if (**w) {
            g_ptr_array_add(argv, *w);
        }
    }
    if (argv->len == 0) {
        return true;
    }
    g_ptr_array_add(argv, NULL);
    char **args = (char **)argv->pdata;
    const IoCommand *c = find_command(args[0]);
    int r = -EINVAL;
    if (c) {
        r = run_command(s, c, (int)argv->len - 1, args);
    } else {
        fprintf(stderr, "command \"%s\" not found\n", args[0]);
    }
    fflush(stdout);
    return r >= 0;
}
