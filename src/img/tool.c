/* What the image tools share. SPDX-License-Identifier: GPL-2.0-or-later */
#include "img/tool.h"

#include "base/error.h"
#include "base/log.h"
#include "qapi/json_text.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void (*img_help)(void);

void img_tool_start(ImgTool *tool, const char *argv0)
{
    const char *slash = argv0 ? strrchr(argv0, '/') : NULL;
    *tool = (ImgTool){ .program = slash ? slash + 1 : argv0 ? argv0 : "rhea-img" };
    log_set_program(tool->program);
    signal(SIGPIPE, SIG_IGN);
    g_autoptr(GError) error = NULL;
    tool->loop = loop_new(NULL, &error);
    if (tool->loop) {
        loop_set_inline_writes(tool->loop, true);
    }
    if (!tool->loop) {
        error_report(error);
        exit(EXIT_FAILURE);
    }
    loop_make_current(tool->loop);
    tool->root = object_new(TYPE_CONTAINER, &error);
    tool->graph = block_graph_new(tool->loop, NULL);
    block_graph_set_objects(tool->graph, tool->root); /* secrets */
}

void img_tool_end(ImgTool *tool)
{
    block_graph_free(tool->graph);
    object_unref(tool->root);
    loop_make_current(NULL);
    loop_free(tool->loop);
}

void img_usage_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    log_error("%s", text);
    g_free(text);
    log_hint("Try '%s --help' for more information", g_get_prgname());
    exit(EXIT_FAILURE);
}

/* ---- options ---- */

static GPtrArray *pending_objects; /* text of --object, until all options are read */

bool img_object_add(ImgTool *tool, const char *text)
{
    g_autoptr(GError) error = NULL;
    if (!user_creatable_add_text(tool->root, text, &error)) {
        error_report(error);
        return false;
    }
    return true;
}

int img_args_next(ImgArgs *args)
{
    int c;
    while ((c = getopt_long(args->argc, args->argv, args->shorts, args->longs, NULL)) != -1) {
        switch (c) {
        case ':':
            img_usage_error("missing argument for option '%s'", args->argv[optind - 1]);
        case '?':
            img_usage_error("unrecognized option '%s'", args->argv[optind - 1]);
        case 'h':
            img_help();
            exit(EXIT_SUCCESS);
        case 'f':
            args->format = optarg;
            break;
        case 't':
            args->cache = optarg;
            break;
        case 'T':
            args->src_cache = optarg;
            break;
        case 'U':
            args->force_share = true;
            break;
        case 'q':
            args->quiet = true;
            break;
        case 'p':
            args->progress = true;
            break;
        case IMG_OPT_IMAGE_OPTS:
            args->image_opts = true;
            break;
        case IMG_OPT_OUTPUT:
            if (g_str_equal(optarg, "json")) {
                args->json = true;
            } else if (g_str_equal(optarg, "human")) {
                args->json = false;
            } else {
                log_error("--output must be used with human or json as argument.");
                exit(EXIT_FAILURE);
            }
            break;
        case IMG_OPT_OBJECT:
            if (!pending_objects) {
                pending_objects = g_ptr_array_new();
            }
            g_ptr_array_add(pending_objects, optarg);
            break;
        default:
            return c;
        }
    }
    if (args->quiet) {
        args->progress = false;
    }
    return -1;
}

bool img_args_finish(ImgArgs *args)
{
    bool ok = true;
    for (guint i = 0; pending_objects && ok && i < pending_objects->len; i++) {
        ok = img_object_add(args->tool, pending_objects->pdata[i]);
    }
    g_clear_pointer(&pending_objects, g_ptr_array_unref);
    return ok;
}

/* ---- images ---- */

bool img_cache_parse(const char *name, ImgCache *cache)
{
    static const struct {
        const char *name;
        ImgCache mode;
    } modes[] = {
        { "none", { .direct = true } },
        { "off", { .direct = true } },
        { "directsync", { .direct = true, .writethrough = true } },
        { "writeback", { .direct = false } },
        { "unsafe", { .no_flush = true } },
        { "writethrough", { .writethrough = true } },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (g_str_equal(name, modes[i].name)) {
            *cache = modes[i].mode;
            return true;
        }
    }
    return false;
}

static char *tool_describe(void *opaque)
{
    ImgDisk *disk = opaque;
    return g_strdup_printf("image '%s'", disk->name);
}

static const BlockRootOps tool_root_ops = { .kind = "tool", .describe = tool_describe };

static void set_default(json_object *options, const char *name, const char *value)
{
    if (!json_object_object_get_ex(options, name, NULL)) {
        json_object_object_add(options, name, json_object_new_string(value));
    }
}

/* cache.direct and cache.no-flush, which may stand nested or dotted already. */
static void set_cache_default(json_object *options, const char *member, bool value)
{
    g_autofree char *dotted = g_strconcat("cache.", member, NULL);
    json_object *cache = NULL;
    if (json_object_object_get_ex(options, dotted, NULL)) {
        return;
    }
    if (!json_object_object_get_ex(options, "cache", &cache)) {
        cache = json_object_new_object();
        json_object_object_add(options, "cache", cache);
    }
    if (json_object_is_type(cache, json_type_object)) {
        set_default(cache, member, value ? "on" : "off");
    }
}

int img_errno_of(const GError *error)
{
    for (int e = 1; error && e < 134; e++) {
        if (g_str_has_suffix(error->message, g_strerror(e)) && !g_str_has_prefix(g_strerror(e), "Unknown")) {
            return e;
        }
    }
    return 0;
}

/* The graph names the image in front of what a driver says; the callers here do that themselves. What the
 * host says of a file ("Could not open 'x': No such file or directory") stays as it is. */
static void drop_name(GError **error, const char *filename)
{
    g_autofree char *head = g_strdup_printf("Could not open '%s': ", filename);
    if (!error || !*error || !g_str_has_prefix((*error)->message, head)) {
        return;
    }
    const char *rest = (*error)->message + strlen(head);
    bool from_host = g_str_has_prefix(rest, "it is no file") || g_str_has_prefix(rest, "character devices");
    for (int e = 1; e < 134 && !from_host; e++) {
        from_host = g_str_equal(rest, g_strerror(e));
    }
    if (!from_host) {
        char *text = g_strdup(rest);
        g_free((*error)->message);
        (*error)->message = text;
    }
}

ImgDisk *img_try_open(ImgTool *tool, bool image_opts, const char *filename, const char *format,
                      unsigned flags, const ImgCache *cache, bool force_share, json_object *more,
                      GError **error)
{
    json_object *options = more ? more : json_object_new_object();
    if (image_opts) {
        bool is_json = false;
        json_object *given = keyval_parse(filename, "file", &is_json, error);
        if (!given) {
            json_object_put(options);
            return NULL;
        }
        if (force_share && json_object_object_get_ex(given, "force-share", NULL)) {
            json_object_put(given);
            json_object_put(options);
            error_set(error, "--force-share/-U conflicts with image options");
            return NULL;
        }
        json_object_object_foreach(given, key, value)
        {
            json_object_object_add(options, key, json_object_get(value));
        }
        json_object_put(given);
    } else if (format) {
        json_object_object_add(options, "driver", json_object_new_string(format));
    }
    if (force_share) {
        json_object_object_add(options, "force-share", json_object_new_string("on"));
    }
    set_default(options, "read-only", flags & IMG_OPEN_WRITE ? "off" : "on");
    if (flags & IMG_OPEN_UNMAP) {
        set_default(options, "discard", "unmap");
    }
    if (cache && (cache->direct || cache->no_flush)) {
        set_cache_default(options, "direct", cache->direct);
        set_cache_default(options, "no-flush", cache->no_flush);
    }
    unsigned open_flags = (flags & IMG_OPEN_NO_BACKING ? BLOCK_OPEN_NO_BACKING : 0) |
                          (flags & IMG_OPEN_NO_IO ? BLOCK_OPEN_NO_IO : 0) |
                          (flags & IMG_OPEN_CHECK ? BLOCK_OPEN_CHECK : 0) |
                          (flags & IMG_OPEN_RESIZE ? BLOCK_OPEN_RESIZE : 0);
    BlockNode *node =
        block_node_open_image(tool->graph, image_opts ? NULL : filename, options, open_flags, error);
    json_object_put(options);
    if (!node) {
        drop_name(error, filename);
        return NULL;
    }
    ImgDisk *disk = g_new0(ImgDisk, 1);
    disk->name = g_strdup(filename);
    disk->node = node;
    disk->write_flags = cache && cache->writethrough ? BLOCK_REQ_FUA : 0;
    unsigned perm = flags & IMG_OPEN_NO_IO ? 0 : BLOCK_PERM_CONSISTENT_READ;
    if (flags & IMG_OPEN_WRITE && !node->read_only) {
        perm |= BLOCK_PERM_WRITE | (flags & IMG_OPEN_RESIZE ? BLOCK_PERM_RESIZE : 0);
    }
    disk->root = block_root_new(node, "tool", perm, BLOCK_PERM_ALL, &tool_root_ops, disk, error);
    if (!disk->root) {
        g_free(disk->name);
        g_free(disk);
        return NULL;
    }
    return disk;
}

ImgDisk *img_open(ImgTool *tool, bool image_opts, const char *filename, const char *format, unsigned flags,
                  const ImgCache *cache, bool force_share, json_object *more)
{
    g_autoptr(GError) error = NULL;
    if (image_opts && format) {
        json_object_put(more);
        log_error("--image-opts and --format are mutually exclusive");
        return NULL;
    }
    ImgDisk *disk = img_try_open(tool, image_opts, filename, format, flags, cache, force_share, more, &error);
    if (!disk) {
        if (!strstr(error->message, "conflicts with image options")) {
            error_prefix(&error, "Could not open '%s': ", filename);
        }
        error_report(error);
    }
    return disk;
}

void img_close(ImgDisk *disk)
{
    if (disk) {
        block_root_free(disk->root);
        g_free(disk->name);
        g_free(disk);
    }
}

/* Scalars as text: what the visitors read as key=value. Caller owns. */
static json_object *as_text(json_object *value)
{
    switch (json_object_get_type(value)) {
    case json_type_object: {
        json_object *dict = json_object_new_object();
        json_object_object_foreach(value, key, member)
        {
            json_object_object_add(dict, key, as_text(member));
        }
        return dict;
    }
    case json_type_array: {
        json_object *list = json_object_new_array();
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            json_object_array_add(list, as_text(json_object_array_get_idx(value, i)));
        }
        return list;
    }
    case json_type_boolean:
        return json_object_new_string(json_object_get_boolean(value) ? "on" : "off");
    case json_type_null:
        return NULL;
    default:
        return json_object_new_string(json_object_get_string(value));
    }
}

static void merge_over(json_object *to, json_object *from)
{
    json_object_object_foreach(from, key, value)
    {
        json_object *have = NULL;
        if (json_object_object_get_ex(to, key, &have) && json_object_is_type(have, json_type_object) &&
            json_object_is_type(value, json_type_object)) {
            merge_over(have, value);
        } else {
            json_object_object_add(to, key, json_object_get(value));
        }
    }
}

/* Adds node, and below it what changes speak of or what must become (un)writable with it, to a list of
 * options. */
static bool collect_reopen(BlockNode *node, json_object *changes, GPtrArray *list, GError **error)
{
    static const char *const inherited[] = { "read-only", "cache", "discard", NULL };
    json_object *fixed = NULL;
    if ((json_object_object_get_ex(changes, "node-name", &fixed) &&
         !g_str_equal(json_object_get_string(fixed), node->name)) ||
        (json_object_object_get_ex(changes, "driver", &fixed) &&
         !g_str_equal(json_object_get_string(fixed), node->driver->name))) {
        bool driver = fixed == json_object_object_get(changes, "driver");
        return error_set(error, "Cannot change the option '%s'", driver ? "driver" : "node-name");
    }
    json_object *options = as_text(node->options);
    json_object_object_add(options, "node-name", json_object_new_string(node->name));
    for (guint i = 0; i < node->children->len; i++) {
        BlockChild *child = node->children->pdata[i];
        json_object *below = NULL, *own = NULL;
        if (json_object_object_get_ex(changes, child->name, &own) &&
            json_object_is_type(own, json_type_object)) {
            below = as_text(own);
        } else if (own) {
            continue; /* another node shall take its place */
        } else {
            below = json_object_new_object();
        }
        for (const char *const *name = inherited; *name && child->role & BLOCK_ROLE_PRIMARY; name++) {
            json_object *value = NULL;
            if (json_object_object_get_ex(changes, *name, &value) &&
                !json_object_object_get_ex(below, *name, NULL)) {
                json_object_object_add(below, *name, json_object_get(value));
            }
        }
        bool ok = json_object_object_length(below) == 0 || collect_reopen(child->node, below, list, error);
        json_object_put(below);
        if (!ok) {
            json_object_put(options);
            return false;
        }
        json_object_object_add(options, child->name, json_object_new_string(child->node->name));
        json_object_object_del(changes, child->name);
    }
    merge_over(options, changes);
    Visitor *v = visitor_new_input(options, true);
    QapiBlockdevOptions *typed = NULL;
    bool ok = qapi_visit_BlockdevOptions(v, NULL, &typed, error);
    visitor_free(v);
    json_object_put(options);
    if (ok) {
        g_ptr_array_add(list, typed);
    }
    return ok;
}

static void free_options(void *options)
{
    qapi_BlockdevOptions_free(options);
}

bool img_reopen(ImgDisk *disk, json_object *changes, bool writable, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(free_options);
    json_object *copy = as_text(changes);
    unsigned perm = disk->root->perm;
    json_object *read_only = NULL;
    if (json_object_object_get_ex(copy, "read-only", &read_only) &&
        g_str_equal(json_object_get_string(read_only), "on")) {
        perm &= ~(unsigned)(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
        if (!block_root_set_perm(disk->root, perm, disk->root->shared, error)) {
            json_object_put(copy);
            return false;
        }
    }
    bool ok =
        collect_reopen(disk->node, copy, list, error) &&
        block_nodes_reopen(disk->node->graph, (QapiBlockdevOptions *const *)list->pdata, list->len, error);
    json_object_put(copy);
    if (ok && writable) {
        ok = block_root_set_perm(disk->root, perm | BLOCK_PERM_WRITE, disk->root->shared, error);
    }
    return ok;
}

BlockNode *img_snapshot_node(BlockNode *node)
{
    while (node && !node->driver->snapshot_list) {
        node = node->driver->is_filter                               ? block_filtered(node)
               : node->driver->needs_snapshot_children && node->file ? node->file->node
                                                                     : NULL;
    }
    return node;
}

bool img_snapshot_find(BlockNode *node, const char *id_or_name, const char *id, const char *name,
                       BlockSnapshotInfo *info, GError **error)
{
    node = img_snapshot_node(node);
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));
    if (!node) {
        return error_set(error, "Block format '%s' does not support internal snapshots",
                         node ? node->driver->name : "raw");
    }
    if (!node->driver->snapshot_list(node, list, error)) {
        return false;
    }
    for (int by_name = 0; by_name < (id_or_name ? 2 : 1); by_name++) {
        for (guint i = 0; i < list->len; i++) {
            const BlockSnapshotInfo *s = &g_array_index(list, BlockSnapshotInfo, i);
            bool match = id_or_name
                             ? g_str_equal(by_name ? s->name : s->id, id_or_name)
                             : (!id || g_str_equal(s->id, id)) && (!name || g_str_equal(s->name, name));
            if (match) {
                *info = *s;
                return true;
            }
        }
    }
    return error_set(error, "Can't find the snapshot");
}

/* id and name of "snapshot.id=..,snapshot.name=.."; false where it is not of that form. */
static bool snapshot_param_split(const char *param, char **id, char **name)
{
    *id = *name = NULL;
    if (!g_str_has_prefix(param, "snapshot.")) {
        return false;
    }
    g_auto(GStrv) parts = g_strsplit(param, ",", -1);
    for (char **p = parts; *p; p++) {
        if (g_str_has_prefix(*p, "snapshot.id=")) {
            g_free(*id);
            *id = g_strdup(*p + 12);
        } else if (g_str_has_prefix(*p, "snapshot.name=")) {
            g_free(*name);
            *name = g_strdup(*p + 14);
        } else {
            log_error("Invalid parameter '%.*s'", (int)strcspn(*p, "="), *p);
            g_clear_pointer(id, g_free);
            g_clear_pointer(name, g_free);
            return false;
        }
    }
    return true;
}

bool img_snapshot_param_is_valid(const char *param)
{
    g_autofree char *id = NULL, *name = NULL;
    return !g_str_has_prefix(param, "snapshot.") || snapshot_param_split(param, &id, &name);
}

bool img_snapshot_load(BlockNode *node, const char *param, GError **error)
{
    g_autofree char *id = NULL, *name = NULL;
    BlockSnapshotInfo info;
    bool split = snapshot_param_split(param, &id, &name);
    BlockNode *owner = img_snapshot_node(node);
    if (!owner || !owner->driver->snapshot_load) {
        return error_set(error, "Device '%s' does not support internal snapshots", node->driver->name);
    }
    if (!img_snapshot_find(node, split ? NULL : param, id, name, &info, error)) {
        return false;
    }
    BlockDrain *drain = block_drain_begin(node);
    bool ok = owner->driver->snapshot_load(owner, info.id, error);
    block_drain_end(drain);
    return ok;
}

/* ---- numbers ---- */

int img_size_value(const char *text, uint64_t default_unit, uint64_t *value)
{
    char *end;
    static const char units[] = "bkmgtpe";
    if (strchr(text, '-')) {
        return -EINVAL;
    }
    errno = 0;
    double fraction = 0;
    bool hex = g_ascii_strncasecmp(text, "0x", 2) == 0;
    uint64_t whole = g_ascii_strtoull(text, &end, hex ? 16 : 10);
    if (end == text) {
        return -EINVAL;
    }
    if (errno == ERANGE) {
        return -ERANGE;
    }
    if (*end == '.' && !hex) {
        char *after;
        fraction = g_ascii_strtod(end, &after);
        if (after == end || strpbrk(end, "eE+") == end + 1) {
            return -EINVAL;
        }
        /* "1.5e3" is read as a number by strtod: an exponent is not taken, but E may be the suffix. */
        char *digits = end + 1;
        while (g_ascii_isdigit(*digits)) {
            digits++;
        }
        if (digits != after) {
            g_autofree char *part = g_strndup(end, (size_t)(digits - end));
            fraction = g_ascii_strtod(part, NULL);
            after = digits;
        }
        end = after;
    }
    uint64_t unit = default_unit;
    if (*end && !hex) {
        const char *u = strchr(units, g_ascii_tolower(*end));
        if (!u) {
            return -EINVAL;
        }
        unit = UINT64_C(1) << (10 * (u - units));
        end++;
    } else if (*end && hex) {
        return -EINVAL;
    }
    if (*end) {
        return -EINVAL;
    }
    if (fraction > 0 && unit == 1) {
        return -EINVAL;
    }
    unsigned __int128 product = (unsigned __int128)whole * unit + (uint64_t)llround(fraction * (double)unit);
    if (product > UINT64_MAX) {
        return -ERANGE;
    }
    *value = (uint64_t)product;
    return 0;
}

int64_t img_size_parse(const char *text, const char *what, int64_t min, int64_t max)
{
    uint64_t value = 0;
    int r = img_size_value(text, 1, &value);
    if (r == -ERANGE || (r == 0 && (value > (uint64_t)max || (int64_t)value < min))) {
        log_error("Invalid %s specified. Must be between %" PRId64 " and %" PRId64 ".", what, min, max);
        return -ERANGE;
    }
    if (r < 0) {
        log_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
        log_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
        return -EINVAL;
    }
    return (int64_t)value;
}

bool img_ulong(const char *text, uint64_t max, uint64_t *value)
{
    char *end;
    errno = 0;
    if (strchr(text, '-') || !*text) {
        return false;
    }
    *value = strtoull(text, &end, 0);
    return !*end && !errno && *value <= max;
}

char *img_size_text(uint64_t bytes)
{
    static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
    double value = (double)bytes;
    int unit = 0;
    /* At most three digits before the point: 1000 KiB is shown as 0.977 MiB. */
    while (value >= 1000 && unit < 6) {
        value /= 1024;
        unit++;
    }
    return g_strdup_printf("%0.3g %sB", value, units[unit]);
}

/* ---- JSON ---- */

/* QEMU prints a dict in the order of its hash table of 512 buckets: the function that spreads the names, and
 * in one bucket the newest first. Scripts compare whole outputs, so ours come in that order too. */
static unsigned member_bucket(const char *name)
{
    unsigned length = (unsigned)strlen(name), sum = 0x238f13afu * length;
    for (unsigned i = 0; i < length; i++) {
        sum += (unsigned)(uint8_t)name[i] << (i * 5 % 24);
    }
    return (sum * 1103515243u + 12345u) % 512;
}

typedef struct OrderedMember {
    const char *name;
    json_object *value;
    unsigned bucket, index;
} OrderedMember;

static int compare_members(const void *a, const void *b)
{
    const OrderedMember *x = a, *y = b;
    if (x->bucket != y->bucket) {
        return x->bucket < y->bucket ? -1 : 1;
    }
    return x->index > y->index ? -1 : 1;
}

json_object *img_json_ordered(json_object *value)
{
    if (json_object_is_type(value, json_type_array)) {
        json_object *list = json_object_new_array();
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            json_object_array_add(list, img_json_ordered(json_object_array_get_idx(value, i)));
        }
        return list;
    }
    if (!json_object_is_type(value, json_type_object)) {
        return json_object_get(value);
    }
    g_autoptr(GArray) members = g_array_new(FALSE, FALSE, sizeof(OrderedMember));
    json_object_object_foreach(value, key, member)
    {
        OrderedMember m = { key, member, member_bucket(key), members->len };
        g_array_append_val(members, m);
    }
    g_array_sort(members, compare_members);
    json_object *dict = json_object_new_object();
    for (guint i = 0; i < members->len; i++) {
        const OrderedMember *m = &g_array_index(members, OrderedMember, i);
        json_object_object_add(dict, m->name, img_json_ordered(m->value));
    }
    return dict;
}

void img_print_json(json_object *value)
{
    g_autoptr(GString) text = g_string_new(NULL);
    json_object *ordered = img_json_ordered(value);
    json_text_append(text, ordered, true);
    json_object_put(ordered);
    puts(text->str);
}

/* ---- progress ---- */

static struct {
    bool enabled;
    double percent, shown, min_skip;
} progress;
static volatile sig_atomic_t progress_wanted;

static void on_sigusr1(int signum)
{
    progress_wanted = 1;
}

void img_progress_start(bool enabled, double min_skip_percent)
{
    progress.enabled = enabled;
    progress.min_skip = min_skip_percent;
    progress.percent = 0;
    progress.shown = -1000;
    struct sigaction act = { .sa_handler = on_sigusr1, .sa_flags = SA_RESTART };
    sigaction(SIGUSR1, &act, NULL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    img_progress(0);
}

void img_progress(double percent)
{
    progress.percent = CLAMP(percent, 0, 100);
    if (progress_wanted) {
        progress_wanted = 0;
        fprintf(stderr, "    (%3.2f/100%%)\n", progress.percent);
    }
    if (progress.enabled && (progress.percent - progress.shown > progress.min_skip || progress.percent <= 0 ||
                             progress.percent >= 100)) {
        progress.shown = progress.percent;
        printf("    (%3.2f/100%%)\r", progress.percent);
        fflush(stdout);
    }
}

void img_progress_ratio(uint64_t done, uint64_t total)
{
    img_progress(total ? (double)done / (double)total * 100 : 100);
}

void img_progress_end(void)
{
    if (progress.enabled) {
        printf("\n");
        fflush(stdout);
    }
    progress.enabled = false;
}

/* ---- running ---- */

typedef struct Parallel {
    CoroutineFunc *fn;
    void *opaque;
    int count, running;
    CoQueue ended;
} Parallel;

static void parallel_one(void *opaque)
{
    Parallel *p = opaque;
    p->fn(p->opaque);
    if (--p->running == 0) {
        co_queue_wake_all(&p->ended);
    }
}

static void parallel_main(void *opaque)
{
    Parallel *p = opaque;
    co_queue_init(&p->ended);
    p->running = p->count;
    for (int i = 0; i < p->count; i++) {
        coroutine_enter(coroutine_new(parallel_one, p));
    }
    while (p->running > 0) {
        co_queue_wait(&p->ended);
    }
}

void img_run_parallel(ImgTool *tool, CoroutineFunc *fn, void *opaque, int count)
{
    Parallel p = { .fn = fn, .opaque = opaque, .count = count };
    block_run(tool->graph, count == 1 ? fn : parallel_main, count == 1 ? opaque : &p);
}

void *img_buffer(BlockChild *child, uint64_t bytes)
{
    void *buf = block_buffer_try(child, bytes);
    if (!buf) {
        log_error("cannot allocate %" PRIu64 " bytes", bytes);
        exit(EXIT_FAILURE);
    }
    return buf;
}

void img_buffer_free(void *buf)
{
    if (buf) {
        g_aligned_free(buf);
    }
}
