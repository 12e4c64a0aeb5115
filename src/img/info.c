/* Describing images: `info`, `map`, `check`, `measure`, `snapshot`. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "img/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- info ---- */

static bool add_snapshots(BlockNode *node, json_object *info, GError **error)
{
    if (!node->driver->snapshot_list) {
        return true;
    }
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));
    if (!node->driver->snapshot_list(node, list, error)) {
        return false;
    }
    if (list->len == 0) {
        return true;
    }
    json_object *snapshots = json_object_new_array();
    for (guint i = 0; i < list->len; i++) {
        const BlockSnapshotInfo *s = &g_array_index(list, BlockSnapshotInfo, i);
        json_object *one = json_object_new_object();
        json_object_object_add(one, "id", json_object_new_string(s->id));
        json_object_object_add(one, "name", json_object_new_string(s->name));
        json_object_object_add(one, "vm-state-size", json_object_new_uint64(s->vm_state_size));
        json_object_object_add(one, "date-sec", json_object_new_uint64(s->date_s));
        json_object_object_add(one, "date-nsec", json_object_new_uint64(s->date_ns));
        json_object_object_add(one, "vm-clock-sec", json_object_new_uint64(s->vm_clock_ns / 1000000000));
        json_object_object_add(one, "vm-clock-nsec", json_object_new_uint64(s->vm_clock_ns % 1000000000));
        if (s->icount != UINT64_MAX) {
            json_object_object_add(one, "icount", json_object_new_uint64(s->icount));
        }
        json_object_array_add(snapshots, one);
    }
    json_object_object_add(info, "snapshots", snapshots);
    return true;
}

/* A name that says all that the image needs to be opened: its file's alone, or json: with the id of its
 * secret. */
static char *full_name(BlockNode *node)
{
    json_object *encrypt = NULL, *secret = NULL;
    if (node->file && g_str_has_prefix(node->filename, "json:")) {
        json_object *o = block_node_json(node);
        char *whole =
            g_strconcat("json:", json_object_to_json_string_ext(o, JSON_C_TO_STRING_NOSLASHESCAPE), NULL);
        json_object_put(o);
        return whole;
    }
    bool nested = json_object_object_get_ex(node->options, "encrypt", &encrypt);
    if (!node->encrypted || !node->file ||
        !json_object_object_get_ex(nested ? encrypt : node->options, "key-secret", &secret)) {
        return g_strdup(node->filename);
    }
    json_object *name = json_object_new_string(node->file->node->filename);
    /* In the order in which QEMU's tools print it. */
    g_autofree char *key =
        g_strdup_printf("\"%skey-secret\": %s", nested ? "encrypt." : "", json_object_to_json_string(secret));
    char *text = g_strdup_printf(
        "json:{%s%s\"driver\": \"%s\", \"file\": {\"driver\": \"%s\", \"filename\": %s}%s%s}",
        nested ? key : "", nested ? ", " : "", node->driver->name, node->file->node->driver->name,
        json_object_to_json_string_ext(name, JSON_C_TO_STRING_NOSLASHESCAPE), nested ? "" : ", ",
        nested ? "" : key);
    json_object_put(name);
    return text;
}

json_object *img_info_query(BlockNode *node, GError **error)
{
    json_object *info = json_object_new_object();
    g_autofree char *shown = full_name(node);
    json_object_object_add(info, "filename", json_object_new_string(shown));
    json_object_object_add(info, "format", json_object_new_string(node->driver->name));
    json_object_object_add(
        info, "virtual-size",
        json_object_new_uint64(ROUND_UP_SECTOR(__atomic_load_n(&node->size, __ATOMIC_RELAXED))));
    int64_t allocated = block_node_allocated(node);
    if (allocated >= 0) {
        json_object_object_add(info, "actual-size", json_object_new_int64(allocated));
    }
    json_object *specific = block_node_specific_info(node);
    if (node->encrypted) {
        json_object_object_add(info, "encrypted", json_object_new_boolean(true));
    }
    BlockInfo block = { 0 };
    if (block_node_info(node, &block, NULL)) {
        if (block.cluster_size) {
            json_object_object_add(info, "cluster-size", json_object_new_uint64(block.cluster_size));
        }
        json_object_object_add(info, "dirty-flag", json_object_new_boolean(block.is_dirty));
    }
    if (specific) {
        json_object_object_add(info, "format-specific", specific);
    }
    if (node->backing_file && *node->backing_file) {
        json_object_object_add(info, "backing-filename", json_object_new_string(node->backing_file));
        g_autofree char *full = block_backing_full_name(node, NULL);
        if (full) {
            json_object_object_add(info, "full-backing-filename", json_object_new_string(full));
        }
        if (node->backing_format && *node->backing_format) {
            json_object_object_add(info, "backing-filename-format",
                                   json_object_new_string(node->backing_format));
        }
    }
    if (!add_snapshots(node, info, error)) {
        json_object_put(info);
        return NULL;
    }
    return info;
}

static void print_value(json_object *value, int indent);

static void print_members(json_object *dict, int indent)
{
    json_object *ordered = img_json_ordered(dict);
    json_object_object_foreach(ordered, key, value)
    {
        bool composite =
            json_object_is_type(value, json_type_object) || json_object_is_type(value, json_type_array);
        g_autofree char *name = g_strdelimit(g_strdup(key), "-", ' ');
        printf("%*s%s:%c", indent * 4, "", name, composite ? '\n' : ' ');
        print_value(value, indent + 1);
    }
    json_object_put(ordered);
}

static void print_value(json_object *value, int indent)
{
    switch (json_object_get_type(value)) {
    case json_type_object:
        print_members(value, indent);
        break;
    case json_type_array:
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            json_object *item = json_object_array_get_idx(value, i);
            bool composite =
                json_object_is_type(item, json_type_object) || json_object_is_type(item, json_type_array);
            printf("%*s[%zu]:%c", indent * 4, "", i, composite ? '\n' : ' ');
            print_value(item, indent + 1);
        }
        break;
    default:
        printf("%s\n", json_object_get_string(value));
    }
}

void img_info_print_specific(json_object *specific)
{
    json_object *data = NULL;
    if (json_object_object_get_ex(specific, "data", &data)) {
        print_members(data, 1);
    }
}

void img_snapshot_header(void)
{
    printf("%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
}

void img_snapshot_print(const BlockSnapshotInfo *info)
{
    char date[64] = "", clock[64], icount[32] = "";
    time_t when = (time_t)info->date_s;
    struct tm tm;
    if (localtime_r(&when, &tm)) {
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    }
    uint64_t seconds = info->vm_clock_ns / 1000000000;
    snprintf(clock, sizeof(clock), "%02u:%02u:%02u.%03u", (unsigned)(seconds / 3600),
             (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60),
             (unsigned)(info->vm_clock_ns / 1000000 % 1000));
    if (info->icount != UINT64_MAX) {
        snprintf(icount, sizeof(icount), "%" PRIu64, info->icount);
    }
    g_autofree char *size = img_size_text(info->vm_state_size);
    printf("%-9s %-16s %8s%20s%13s%11s\n", info->id, info->name, size, date, clock, icount);
}

static const char *text_of(json_object *info, const char *name)
{
    json_object *value = NULL;
    return json_object_object_get_ex(info, name, &value) ? json_object_get_string(value) : NULL;
}

static uint64_t number_of(json_object *info, const char *name)
{
    json_object *value = NULL;
    return json_object_object_get_ex(info, name, &value) ? json_object_get_uint64(value) : 0;
}

static bool bool_of(json_object *info, const char *name)
{
    json_object *value = NULL;
    return json_object_object_get_ex(info, name, &value) && json_object_get_boolean(value);
}

void img_info_print(json_object *info)
{
    uint64_t size = number_of(info, "virtual-size");
    g_autofree char *size_text = img_size_text(size);
    g_autofree char *disk_text = text_of(info, "actual-size") ? img_size_text(number_of(info, "actual-size"))
                                                              : g_strdup("unavailable");
    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64 " bytes)\ndisk size: %s\n",
           text_of(info, "filename"), text_of(info, "format"), size_text, size, disk_text);
    if (bool_of(info, "encrypted")) {
        printf("encrypted: yes\n");
    }
    if (text_of(info, "cluster-size")) {
        printf("cluster_size: %" PRIu64 "\n", number_of(info, "cluster-size"));
    }
    if (bool_of(info, "dirty-flag")) {
        printf("cleanly shut down: no\n");
    }
    const char *backing = text_of(info, "backing-filename"), *full = text_of(info, "full-backing-filename");
    if (backing) {
        printf("backing file: %s", backing);
        if (!full) {
            printf(" (cannot determine actual path)");
        } else if (!g_str_equal(backing, full)) {
            printf(" (actual path: %s)", full);
        }
        printf("\n");
        if (text_of(info, "backing-filename-format")) {
            printf("backing file format: %s\n", text_of(info, "backing-filename-format"));
        }
    }
    json_object *snapshots = NULL, *specific = NULL;
    if (json_object_object_get_ex(info, "snapshots", &snapshots)) {
        printf("Snapshot list:\n");
        img_snapshot_header();
        for (size_t i = 0; i < json_object_array_length(snapshots); i++) {
            json_object *one = json_object_array_get_idx(snapshots, i);
            BlockSnapshotInfo s = {
                .vm_state_size = number_of(one, "vm-state-size"),
                .date_s = number_of(one, "date-sec"),
                .vm_clock_ns = number_of(one, "vm-clock-sec") * 1000000000 + number_of(one, "vm-clock-nsec"),
                .icount = text_of(one, "icount") ? number_of(one, "icount") : UINT64_MAX,
            };
            g_strlcpy(s.id, text_of(one, "id"), sizeof(s.id));
            g_strlcpy(s.name, text_of(one, "name"), sizeof(s.name));
            img_snapshot_print(&s);
        }
    }
    if (json_object_object_get_ex(info, "format-specific", &specific)) {
        printf("Format specific information:\n");
        img_info_print_specific(specific);
    }
}

/* The images of a chain, top first: a JSON list, or NULL (reported). */
static json_object *collect_chain(ImgTool *tool, bool image_opts, const char *filename, const char *format,
                                  bool chain, bool force_share)
{
    json_object *list = json_object_new_array();
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autofree char *name = g_strdup(filename), *fmt = g_strdup(format);
    while (name) {
        if (!g_hash_table_add(seen, g_strdup(name))) {
            log_error("Backing file '%s' creates an infinite loop.", name);
            json_object_put(list);
            return NULL;
        }
        ImgDisk *disk = img_open(tool, image_opts, name, fmt, IMG_OPEN_NO_BACKING | IMG_OPEN_NO_IO, NULL,
                                 force_share, NULL);
        g_autoptr(GError) error = NULL;
        json_object *info = disk ? img_info_query(disk->node, &error) : NULL;
        img_close(disk);
        if (!info) {
            if (error) {
                error_report(error);
            }
            json_object_put(list);
            return NULL;
        }
        json_object_array_add(list, info);
        g_clear_pointer(&name, g_free);
        g_clear_pointer(&fmt, g_free);
        image_opts = false;
        if (chain) {
            name = g_strdup(text_of(info, "full-backing-filename"));
            fmt = g_strdup(text_of(info, "backing-filename-format"));
            if (!name && text_of(info, "backing-filename")) {
                log_error("Could not determine absolute backing filename, but backing filename '%s' present",
                          text_of(info, "backing-filename"));
                json_object_put(list);
                return NULL;
            }
        }
    }
    return list;
}

int img_cmd_info(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = {
        IMG_LONG_HELP,        { "format", required_argument, NULL, 'f' },
        IMG_LONG_OUTPUT,      { "backing-chain", no_argument, NULL, IMG_OPT_FIRST },
        IMG_LONG_OBJECT,      IMG_LONG_IMAGE_OPTS,
        IMG_LONG_FORCE_SHARE, IMG_LONG_END
    };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":f:hU", .longs = longs };
    bool chain = false;
    while (img_args_next(&args) != -1) {
        chain = true;
    }
    if (optind != argc - 1) {
        img_usage_error("Expecting one image file name");
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    json_object *list =
        collect_chain(tool, args.image_opts, argv[optind], args.format, chain, args.force_share);
    if (!list) {
        return EXIT_FAILURE;
    }
    if (args.json) {
        img_print_json(chain ? list : json_object_array_get_idx(list, 0));
    } else {
        for (size_t i = 0; i < json_object_array_length(list); i++) {
            printf("%s", i ? "\n" : "");
            img_info_print(json_object_array_get_idx(list, i));
        }
    }
    json_object_put(list);
    return EXIT_SUCCESS;
}

/* ---- map ---- */

typedef struct MapEntry {
    uint64_t start, length, offset;
    bool data, zero, present, has_offset;
    int depth;
    BlockNode *file;
} MapEntry;

static int map_status(BlockNode *node, uint64_t offset, uint64_t bytes, MapEntry *e)
{
    BlockStatus st = { 0 };
    int depth = 0;
    /* A layer that says neither "data" nor "zeroes" leaves it to the one below. */
    for (BlockNode *layer = block_skip_filters(node); layer;
         layer = block_skip_filters(block_cow_child(layer))) {
        int r = blk_status(layer, offset, bytes, &st);
        if (r < 0) {
            return r;
        }
        if (st.bytes > 0) {
            bytes = MIN(bytes, st.bytes);
        }
        if (st.flags & (BLOCK_STATUS_ZERO | BLOCK_STATUS_DATA)) {
            break;
        }
        if (!block_cow_child(layer)) {
            st.flags = 0;
            break;
        }
        if (st.bytes == 0) { /* behind the end of a shorter layer */
            st.flags = BLOCK_STATUS_ZERO;
            break;
        }
        depth++;
    }
    *e = (MapEntry){ .start = offset,
                     .length = bytes,
                     .data = st.flags & BLOCK_STATUS_DATA,
                     .zero = st.flags & BLOCK_STATUS_ZERO,
                     .present = st.flags & BLOCK_STATUS_ALLOCATED,
                     .has_offset = st.flags & BLOCK_STATUS_OFFSET_VALID && st.file,
                     .offset = st.map,
                     .depth = depth };
    e->file = e->has_offset ? st.file : NULL;
    return 0;
}

static bool map_print(const MapEntry *e, bool last, bool json)
{
    if (!json) {
        if (e->data && !e->zero) {
            if (!e->has_offset) {
                log_error("File contains external, encrypted or compressed clusters.");
                return false;
            }
            printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start, e->length, e->offset,
                   e->file ? e->file->filename : "");
        }
        return true;
    }
    printf("{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
           ", \"depth\": %d, \"present\": %s, \"zero\": %s, \"data\": %s",
           e->start, e->length, e->depth, e->present ? "true" : "false", e->zero ? "true" : "false",
           e->data ? "true" : "false");
    if (e->has_offset) {
        printf(", \"offset\": %" PRIu64, e->offset);
    }
    printf("}%s", last ? "" : ",\n");
    return true;
}

static bool map_continues(const MapEntry *a, const MapEntry *b)
{
    return a->length > 0 && a->zero == b->zero && a->data == b->data && a->present == b->present &&
           a->depth == b->depth && a->has_offset == b->has_offset && a->file == b->file &&
           (!a->has_offset || a->offset + a->length == b->offset);
}

int img_cmd_map(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP,
                                           { "format", required_argument, NULL, 'f' },
                                           IMG_LONG_OUTPUT,
                                           IMG_LONG_OBJECT,
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_FORCE_SHARE,
                                           { "start-offset", required_argument, NULL, 's' },
                                           { "max-length", required_argument, NULL, 'l' },
                                           IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":f:s:l:hU", .longs = longs };
    int64_t start = 0, max_length = -1;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        int64_t *value = c == 's' ? &start : &max_length;
        *value = img_size_parse(optarg, c == 's' ? "start offset" : "max length", 0, INT64_MAX);
        if (*value < 0) {
            return EXIT_FAILURE;
        }
    }
    if (optind != argc - 1) {
        img_usage_error("Expecting one image file name");
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    ImgDisk *disk =
        img_open(tool, args.image_opts, argv[optind], args.format, 0, NULL, args.force_share, NULL);
    if (!disk) {
        return EXIT_FAILURE;
    }
    if (args.json) {
        printf("[");
    } else {
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    }
    uint64_t end = block_size(disk->root), at = (uint64_t)start;
    if (max_length >= 0) {
        end = MIN(end, at + (uint64_t)max_length);
    }
    MapEntry current = { 0 };
    bool ok = true;
    while (ok && at < end) {
        MapEntry next;
        int r = map_status(disk->node, at, MIN(end - at, UINT64_C(1) << 62), &next);
        if (r < 0) {
            log_error("Could not read file metadata: %s", g_strerror(-r));
            ok = false;
            break;
        }
        at += next.length;
        if (map_continues(&current, &next)) {
            current.length += next.length;
            continue;
        }
        if (current.length > 0) {
            ok = map_print(&current, false, args.json);
        }
        current = next;
    }
    if (ok && current.length > 0) {
        ok = map_print(&current, true, args.json);
    }
    if (ok && args.json) {
        puts("]");
    }
    img_close(disk);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- check ---- */

typedef struct CheckRun {
    BlockNode *node;
    BlockCheckResult *result;
    unsigned fix;
    GError *error;
    bool ok;
} CheckRun;

static void co_check(void *opaque)
{
    CheckRun *run = opaque;
    run->ok = run->node->driver->co_check(run->node, run->result, run->fix, &run->error);
}

static void print_check(const BlockCheckResult *r, bool quiet)
{
    if (quiet) {
        return;
    }
    if (!r->corruptions && !r->leaks && !r->check_errors) {
        printf("No errors were found on the image.\n");
    }
    if (r->corruptions) {
        printf("\n%" PRId64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               r->corruptions);
    }
    if (r->leaks) {
        printf("\n%" PRId64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               r->leaks);
    }
    if (r->check_errors) {
        printf("\n%" PRId64 " internal errors have occurred during the check.\n", r->check_errors);
    }
    if (r->total_clusters && r->allocated_clusters) {
        double total = (double)r->total_clusters, allocated = (double)r->allocated_clusters;
        printf("%" PRIu64 "/%" PRIu64
               " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               r->allocated_clusters, r->total_clusters, allocated * 100 / total,
               r->allocated_clusters ? (double)r->fragmented_clusters * 100 / allocated : 0.0,
               r->allocated_clusters ? (double)r->compressed_clusters * 100 / allocated : 0.0);
    }
    if (r->image_end_offset > 0) {
        printf("Image end offset: %" PRIu64 "\n", r->image_end_offset);
    }
}

static json_object *check_json(const BlockCheckResult *r, const char *filename, const char *format)
{
    const struct {
        const char *name;
        uint64_t value;
    } optional[] = {
        { "image-end-offset", r->image_end_offset },
        { "corruptions", (uint64_t)r->corruptions },
        { "leaks", (uint64_t)r->leaks },
        { "corruptions-fixed", (uint64_t)r->corruptions_fixed },
        { "leaks-fixed", (uint64_t)r->leaks_fixed },
        { "total-clusters", r->total_clusters },
        { "allocated-clusters", r->allocated_clusters },
        { "fragmented-clusters", r->fragmented_clusters },
        { "compressed-clusters", r->compressed_clusters },
    };
    json_object *dict = json_object_new_object();
    json_object_object_add(dict, "filename", json_object_new_string(filename));
    json_object_object_add(dict, "format", json_object_new_string(format));
    json_object_object_add(dict, "check-errors", json_object_new_int64(r->check_errors));
    for (size_t i = 0; i < G_N_ELEMENTS(optional); i++) {
        if (optional[i].value) {
            json_object_object_add(dict, optional[i].name, json_object_new_uint64(optional[i].value));
        }
    }
    return dict;
}

/* 0, or -ENOTSUP or another reason (reported). */
static int run_check(ImgTool *tool, ImgDisk *disk, BlockCheckResult *result, unsigned fix)
{
    BlockNode *node = block_skip_filters(disk->node);
    *result = (BlockCheckResult){ 0 };
    if (!node->driver->co_check) {
        return -ENOTSUP;
    }
    CheckRun run = { .node = node, .result = result, .fix = fix };
    block_run(tool->graph, co_check, &run);
    if (!run.ok) {
        int e = img_errno_of(run.error);

        if (!e) { /* otherwise "Check failed" says as much */
            error_report(run.error);
        }
        g_clear_error(&run.error);
        return e ? -e : -EIO;
    }
    return 0;
}

int img_cmd_check(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP,
                                           { "format", required_argument, NULL, 'f' },
                                           { "repair", required_argument, NULL, 'r' },
                                           IMG_LONG_OUTPUT,
                                           IMG_LONG_OBJECT,
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_FORCE_SHARE,
                                           IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":hf:r:T:qU", .longs = longs };
    unsigned fix = 0;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        if (g_str_equal(optarg, "leaks")) {
            fix = BLOCK_FIX_LEAKS;
        } else if (g_str_equal(optarg, "all")) {
            fix = BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS;
        } else {
            img_usage_error("Unknown option value for -r (expecting 'leaks' or 'all'): %s", optarg);
        }
    }
    if (optind != argc - 1) {
        img_usage_error("Expecting one image file name");
    }
    ImgCache cache = { 0 };
    if (args.src_cache && !img_cache_parse(args.src_cache, &cache)) {
        log_error("Invalid source cache option: %s", args.src_cache);
        return 1;
    }
    if (!img_args_finish(&args)) {
        return 1;
    }
    ImgDisk *disk = img_open(tool, args.image_opts, argv[optind], args.format,
                             IMG_OPEN_CHECK | (fix ? IMG_OPEN_WRITE | IMG_OPEN_RESIZE : 0), &cache,
                             args.force_share, NULL);
    if (!disk) {
        return 1;
    }
    BlockCheckResult result;
    int r = run_check(tool, disk, &result, fix);
    int status = 1;
    const char *format = block_skip_filters(disk->node)->driver->name;
    if (r == -ENOTSUP) {
        log_error("This image format does not support checks");
        status = 63;
        goto out;
    }
    if (!result.check_errors && r == 0 && (result.corruptions_fixed || result.leaks_fixed)) {
        int64_t corruptions_fixed = result.corruptions_fixed, leaks_fixed = result.leaks_fixed;
        bool had_fixes = true;
        if (!args.json && !args.quiet) {
            printf("The following inconsistencies were found and repaired:\n\n"
                   "    %" PRId64 " leaked clusters\n    %" PRId64 " corruptions\n\n"
                   "Double checking the fixed image now...\n",
                   leaks_fixed, corruptions_fixed);
        }
        r = run_check(tool, disk, &result, 0);
        if (had_fixes) {
            result.leaks_fixed = leaks_fixed;
            result.corruptions_fixed = corruptions_fixed;
        }
    }
    if (r == 0) {
        if (args.json) {
            json_object *dict = check_json(&result, argv[optind], format);
            if (!args.quiet) {
                img_print_json(dict);
            }
            json_object_put(dict);
        } else {
            print_check(&result, args.quiet);
        }
    }
    if (r < 0 || result.check_errors) {
        if (r < 0) {
            log_error("Check failed: %s", g_strerror(-r));
        } else {
            log_error("Check failed");
        }
        status = 1;
    } else if (result.corruptions) {
        status = 2;
    } else if (result.leaks) {
        status = 3;
    } else {
        status = 0;
    }
out:
    img_close(disk);
    return status;
}

/* ---- measure ---- */

typedef struct MeasureRun {
    ImgTool *tool;
    const BlockDriver *driver;
    json_object *options;
    BlockNode *source;
    BlockMeasure measure;
    GError *error;
    bool ok;
} MeasureRun;

static void co_measure(void *opaque)
{
    MeasureRun *run = opaque;
    run->ok =
        run->driver->co_measure(run->tool->graph, run->options, run->source, &run->measure, &run->error);
}

int img_cmd_measure(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP,
                                           IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_OBJECT,
                                           IMG_LONG_OUTPUT,
                                           { "size", required_argument, NULL, IMG_OPT_FIRST },
                                           IMG_LONG_FORCE_SHARE,
                                           IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":hf:l:o:O:U", .longs = longs };
    const char *out_format = "raw", *snapshot = NULL;
    g_autofree char *text = NULL;
    uint64_t size = UINT64_MAX;
    int c;
    while ((c = img_args_next(&args)) != -1) {
        switch (c) {
        case 'l':
            snapshot = optarg;
            if (!img_snapshot_param_is_valid(snapshot)) {
                log_error("Failed in parsing snapshot param '%s'", snapshot);
                return EXIT_FAILURE;
            }
            break;
        case 'o':
            if (!img_options_add(&text, optarg)) {
                return EXIT_FAILURE;
            }
            break;
        case 'O':
            out_format = optarg;
            break;
        case IMG_OPT_FIRST: {
            int64_t value = img_size_parse(optarg, "image size", 0, INT64_MAX);
            if (value < 0) {
                return EXIT_FAILURE;
            }
            size = (uint64_t)value;
            break;
        }
        }
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    if (argc - optind > 1) {
        log_error("At most one filename argument is allowed.");
        return EXIT_FAILURE;
    }
    const char *filename = optind < argc ? argv[optind] : NULL;
    if (!filename && (args.image_opts || args.format || snapshot)) {
        log_error("--image-opts, -f, and -l require a filename argument.");
        return EXIT_FAILURE;
    }
    if (filename && size != UINT64_MAX) {
        log_error("--size N cannot be used together with a filename.");
        return EXIT_FAILURE;
    }
    if (!filename && size == UINT64_MAX) {
        log_error("Either --size N or one filename must be specified.");
        return EXIT_FAILURE;
    }
    ImgDisk *disk = NULL;
    g_autoptr(GError) error = NULL;
    int status = EXIT_FAILURE;
    MeasureRun run = { .tool = tool };
    if (filename) {
        disk = img_open(tool, args.image_opts, filename, args.format, 0, NULL, args.force_share, NULL);
        if (!disk) {
            return EXIT_FAILURE;
        }
        if (snapshot && !img_snapshot_load(disk->node, snapshot, &error)) {
            error_prefix(&error, "Failed to load snapshot: ");
            error_report(error);
            goto out;
        }
    }
    run.driver = block_driver_find(out_format, NULL);
    if (!run.driver) {
        log_error("Unknown file format '%s'", out_format);
        goto out;
    }
    if (!run.driver->create_options) {
        log_error("Format driver '%s' does not support image creation", run.driver->name);
        goto out;
    }
    /* Options of the file below do not matter to the size but may stand there. */
    const BlockDriver *file = block_driver_find("file", NULL);
    const BlockOption *tables[3] = { run.driver->create_options, file ? file->create_options : NULL, NULL };
    if (tables[1] == tables[0]) {
        tables[1] = NULL;
    }
    if (text && img_options_want_help(text)) {
        printf("Supported options:\n");
        img_options_help(tables, false);
        status = EXIT_SUCCESS;
        goto out;
    }
    run.options = img_options_parse(tables, text, &error);
    if (!run.options) {
        error_report(error);
        log_error("Invalid options for file format '%s'", out_format);
        goto out;
    }
    if (!filename) {
        json_object_object_add(run.options, "size", json_object_new_uint64(size));
    }
    if (!run.driver->co_measure) {
        log_error("Block driver '%s' does not support size measurement", run.driver->name);
        goto out;
    }
    run.source = disk ? disk->node : NULL;
    block_run(tool->graph, co_measure, &run);
    if (!run.ok) {
        error_report(run.error);
        g_clear_error(&run.error);
        goto out;
    }
    status = EXIT_SUCCESS;
    if (args.json) {
        json_object *dict = json_object_new_object();
        json_object_object_add(dict, "required", json_object_new_uint64(run.measure.required));
        json_object_object_add(dict, "fully-allocated", json_object_new_uint64(run.measure.fully_allocated));
        if (run.measure.has_bitmaps) {
            json_object_object_add(dict, "bitmaps", json_object_new_uint64(run.measure.bitmaps));
        }
        img_print_json(dict);
        json_object_put(dict);
    } else {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", run.measure.required,
               run.measure.fully_allocated);
        if (run.measure.has_bitmaps) {
            printf("bitmaps size: %" PRIu64 "\n", run.measure.bitmaps);
        }
    }
out:
    json_object_put(run.options);
    img_close(disk);
    return status;
}

/* ---- snapshot ---- */

static bool list_snapshots(BlockNode *node)
{
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));
    BlockNode *owner = img_snapshot_node(node);
    if (!owner || !owner->driver->snapshot_list(owner, list, NULL) || list->len == 0) {
        return true;
    }
    printf("Snapshot list:\n");
    img_snapshot_header();
    for (guint i = 0; i < list->len; i++) {
        img_snapshot_print(&g_array_index(list, BlockSnapshotInfo, i));
    }
    return true;
}

static bool create_snapshot(BlockNode *node, const char *name)
{
    BlockNode *owner = img_snapshot_node(node);
    BlockSnapshotInfo info = { .icount = UINT64_MAX };
    g_strlcpy(info.name, name, sizeof(info.name));
    info.icount = 0;
    int64_t now_us = g_get_real_time();
    info.date_s = (uint64_t)(now_us / 1000000);
    info.date_ns = (uint64_t)(now_us % 1000000) * 1000;
    g_autoptr(GError) error = NULL;
    if (!owner || !owner->driver->snapshot_create) {
        log_error("Could not create snapshot '%s': %d (%s)", name, -ENOTSUP, g_strerror(ENOTSUP));
        return false;
    }
    info.size = node->size;
    BlockDrain *drain = block_drain_begin(node);
    bool ok = owner->driver->snapshot_create(owner, &info, &error);
    block_drain_end(drain);
    if (!ok) {
        int e = img_errno_of(error);
        if (e) { /* the form that scripts know */
            log_error("Could not create snapshot '%s': %d (%s)", name, -e, g_strerror(e));
        } else {
            error_prefix(&error, "Could not create snapshot '%s': ", name);
            error_report(error);
        }
    }
    return ok;
}

static bool apply_or_delete_snapshot(BlockNode *node, const char *name, bool apply)
{
    g_autoptr(GError) error = NULL;
    BlockSnapshotInfo info;
    BlockNode *owner = img_snapshot_node(node);
    const char *verb = apply ? "apply" : "delete";
    if (!img_snapshot_find(node, name, NULL, NULL, &info, &error)) {
        if (apply) {
            log_error("Could not apply snapshot '%s': %s", name,
                      owner ? "Can't find snapshot" : "Device does not support internal snapshots");
        } else {
            log_error("Could not delete snapshot '%s': snapshot not found", name);
        }
        return false;
    }
    BlockDrain *drain = block_drain_begin(node);
    bool (*fn)(BlockNode *, const char *, GError **) =
        apply ? owner->driver->snapshot_goto : owner->driver->snapshot_delete;
    bool ok =
        fn ? fn(owner, info.id, &error)
           : error_set(&error, "Block format '%s' does not support internal snapshots", owner->driver->name);
    block_drain_end(drain);
    if (!ok) {
        error_prefix(&error, "Could not %s snapshot '%s': ", verb, name);
        error_report(error);
    }
    return ok;
}

int img_cmd_snapshot(ImgTool *tool, int argc, char **argv)
{
    static const struct option longs[] = { IMG_LONG_HELP, IMG_LONG_OBJECT, IMG_LONG_IMAGE_OPTS,
                                           IMG_LONG_FORCE_SHARE, IMG_LONG_END };
    ImgArgs args = { .tool = tool, .argc = argc, .argv = argv, .shorts = ":la:c:d:hqU", .longs = longs };
    int action = 0, c;
    const char *name = NULL;
    while ((c = img_args_next(&args)) != -1) {
        if (action) {
            img_usage_error("Cannot mix '-l', '-a', '-c', '-d'");
        }
        action = c;
        name = optarg;
    }
    if (optind != argc - 1) {
        img_usage_error("Expecting one image file name");
    }
    if (!img_args_finish(&args)) {
        return EXIT_FAILURE;
    }
    action = action ? action : 'l';
    ImgDisk *disk = img_open(tool, args.image_opts, argv[optind], NULL,
                             IMG_OPEN_UNMAP | (action == 'l' ? 0 : IMG_OPEN_WRITE | IMG_OPEN_RESIZE), NULL,
                             args.force_share, NULL);
    if (!disk) {
        return EXIT_FAILURE;
    }
    bool ok = action == 'l'   ? list_snapshots(disk->node)
              : action == 'c' ? create_snapshot(disk->node, name)
                              : apply_or_delete_snapshot(disk->node, name, action == 'a');
    img_close(disk);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
