/*
 * blkdebug: a filter that fails, stops or reshapes requests by rules, to test what stands above it.
 *
 * A format tells at which point it is (block_debug_event). inject-error: a rule becomes active when its event
 * comes while the state is its own (0: any), and fails requests of its kinds from then on (once: one).
 * set-state: the event moves the state. Breakpoints hold requests at an event until they are resumed. The
 * event "none" is always. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include "base/error.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_TYPES ((1u << QAPI_BLKDEBUG_IOTYPE_BLOCK_STATUS) - 1) /* all but that one */

typedef enum Action { INJECT, SET_STATE, SUSPEND } Action;

typedef struct Rule {
    Action action;
    QapiBlkdebugEvent event;
    int state, new_state; /* state 0: any */
    unsigned types;       /* 1 << QapiBlkdebugIOType */
    int error;
    int64_t offset; /* -1: anywhere */
    bool once, immediately, active;
    char *tag;
} Rule;

typedef struct Suspended {
    Coroutine *co;
    Loop *loop;
    char *tag;
} Suspended;

typedef struct BlkdebugNode {
    BlockNode node;
    pthread_mutex_t lock;
    int state;
    GPtrArray *rules;     /* of Rule * */
    GPtrArray *suspended; /* of Suspended * */
    uint64_t align, max_transfer, opt_write_zero, max_write_zero, opt_discard, max_discard;
} BlkdebugNode;

static void rule_free(gpointer p)
{
    g_free(((Rule *)p)->tag);
    g_free(p);
}

/* ---- rules ---- */

static void add_inject(BlkdebugNode *b, const QapiBlkdebugInjectErrorOptions *o)
{
    Rule *r = g_new0(Rule, 1);

    r->action = INJECT;
    r->event = o->event;
    r->state = o->has_state ? (int)o->state : 0;
    r->types = o->has_iotype ? 1u << o->iotype : DEFAULT_TYPES;
    r->error = o->has_errno ? (int)o->errno_ : EIO;
    r->offset = o->has_sector && o->sector >= 0 ? o->sector * 512 : -1;
    r->once = o->has_once && o->once;
    r->immediately = o->has_immediately && o->immediately;
    r->active = o->event == QAPI_BLKDEBUG_EVENT_NONE;
    g_ptr_array_add(b->rules, r);
}

static void add_set_state(BlkdebugNode *b, const QapiBlkdebugSetStateOptions *o)
{
    Rule *r = g_new0(Rule, 1);

    r->action = SET_STATE;
    r->event = o->event;
    r->state = o->has_state ? (int)o->state : 0;
    r->new_state = (int)o->new_state;
    g_ptr_array_add(b->rules, r);
}

/* A file of [inject-error] and [set-state] sections with key = "value" lines. */
static bool read_config(BlkdebugNode *b, const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    json_object *section = NULL;
    const char *kind = NULL;
    bool ok = true;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return error_set_errno(error, errno, "Could not read blkdebug config file '%s'", path);
    }
    lines = g_strsplit(text, "\n", -1);
    for (size_t i = 0; ok; i++) {
        char *line = lines[i] ? g_strstrip(lines[i]) : NULL, *equals;

        if (!line || *line == '[') { /* the end of a section */
            if (section) {
                g_autoptr(Visitor) v = visitor_new_input(section, true);
                g_autoptr(QapiBlkdebugInjectErrorOptions) inject = NULL;
                g_autoptr(QapiBlkdebugSetStateOptions) set = NULL;

                if (strcmp(kind, "[inject-error]") == 0) {
                    ok = qapi_visit_BlkdebugInjectErrorOptions(v, NULL, &inject, error);
                    if (ok) {
                        add_inject(b, inject);
                    }
                } else {
                    ok = qapi_visit_BlkdebugSetStateOptions(v, NULL, &set, error);
                    if (ok) {
                        add_set_state(b, set);
                    }
                }
                g_clear_pointer(&section, json_object_put);
                if (!ok) {
                    error_prefix(error, "%s: ", path);
                }
            }
            if (!line || !ok) {
                break;
            }
            if (strcmp(line, "[inject-error]") != 0 && strcmp(line, "[set-state]") != 0) {
                return error_set(error, "%s:%zu: unknown section %s", path, i + 1, line);
            }
            kind = line;
            section = json_object_new_object();
            continue;
        }
        if (!*line || *line == '#') {
            continue;
        }
        equals = strchr(line, '=');
        if (!equals || !section) {
            ok = error_set(error, "%s:%zu: expected key = \"value\"", path, i + 1);
            break;
        }
        *equals = '\0';
        char *value = g_strstrip(equals + 1);
        size_t n = strlen(value);
        if (n >= 2 && *value == '"' && value[n - 1] == '"') {
            value[n - 1] = '\0';
            value++;
        }
        json_object_object_add(section, g_strchomp(line), json_object_new_string(value));
    }
    json_object_put(section);
    return ok;
}

/* ---- opening ---- */

static bool power_of_two(uint64_t n)
{
    return n && !(n & (n - 1));
}

/* Rules in its options are a part of what it is called; those of a file are not. */
static char *full_name(BlockNode *node, bool inline_rules)
{
    json_object *o = NULL;
    char *name;

    if (!inline_rules || !node->options || json_object_deep_copy(node->options, &o, NULL) != 0) {
        return g_strdup(node->file->node->filename);
    }
    json_object_object_del(o, "node-name");
    json_object_object_add(o, "image", block_node_json(node->file->node));
    name = g_strconcat("json:", json_object_to_json_string_ext(o, JSON_C_TO_STRING_NOSLASHESCAPE), NULL);
    json_object_put(o);
    return name;
}

static bool blkdebug_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    BlkdebugNode *b = (BlkdebugNode *)node;
    const QapiBlockdevOptionsBlkdebug *o = options->u_blkdebug;

    pthread_mutex_init(&b->lock, NULL);
    b->state = 1;
    b->rules = g_ptr_array_new_with_free_func(rule_free);
    b->suspended = g_ptr_array_new();
    if (o->config && *o->config && !read_config(b, o->config, error)) {
        return false;
    }
    for (guint i = 0; o->inject_error && i < o->inject_error->len; i++) {
        add_inject(b, g_ptr_array_index(o->inject_error, i));
    }
    for (guint i = 0; o->set_state && i < o->set_state->len; i++) {
        add_set_state(b, g_ptr_array_index(o->set_state, i));
    }
    if (!block_filter_open(node, "image", options, o->image, error)) {
        return false;
    }
    b->align = o->has_align ? o->align : 0;
    if (o->has_align && (b->align >= G_MAXINT32 || !power_of_two(b->align))) {
        return error_set(error, "Cannot meet constraints with align %" PRIu64, o->align);
    }
    uint64_t align = MAX(b->align, 1);
    b->max_transfer = o->has_max_transfer ? o->max_transfer : 0;
    b->opt_write_zero = o->has_opt_write_zero ? o->opt_write_zero : 0;
    b->max_write_zero = o->has_max_write_zero ? o->max_write_zero : 0;
    b->opt_discard = o->has_opt_discard ? o->opt_discard : 0;
    b->max_discard = o->has_max_discard ? o->max_discard : 0;
    if (b->max_transfer % align) {
        return error_set(error, "Cannot meet constraints with max-transfer %" PRIu64, b->max_transfer);
    }
    if (b->opt_write_zero % align) {
        return error_set(error, "Cannot meet constraints with opt-write-zero %" PRIu64, b->opt_write_zero);
    }
    if (b->max_write_zero % MAX(b->opt_write_zero, align)) {
        return error_set(error, "Cannot meet constraints with max-write-zero %" PRIu64, b->max_write_zero);
    }
    if (b->opt_discard % align) {
        return error_set(error, "Cannot meet constraints with opt-discard %" PRIu64, b->opt_discard);
    }
    if (b->max_discard % MAX(b->opt_discard, align)) {
        return error_set(error, "Cannot meet constraints with max-discard %" PRIu64, b->max_discard);
    }
    node->filename = full_name(node, o->inject_error || o->set_state);
    return true;
}

static void blkdebug_close(BlockNode *node)
{
    BlkdebugNode *b = (BlkdebugNode *)node;

    g_clear_pointer(&b->rules, g_ptr_array_unref);
    g_clear_pointer(&b->suspended, g_ptr_array_unref);
    pthread_mutex_destroy(&b->lock);
}

/* "blkdebug:[config]:image" */
static bool blkdebug_parse_filename(const char *filename, json_object *options, GError **error)
{
    const char *config = filename + strlen("blkdebug:"), *colon;

    if (!g_str_has_prefix(filename, "blkdebug:")) {
        json_object_object_add(options, "image.filename", json_object_new_string(filename));
        return true;
    }
    colon = strchr(config, ':');
    if (!colon) {
        return error_set(error, "blkdebug requires both config file and image path");
    }
    if (colon != config) {
        json_object_object_add(options, "config", json_object_new_string_len(config, (int)(colon - config)));
    }
    json_object_object_add(options, "image.filename", json_object_new_string(colon + 1));
    return true;
}

static void blkdebug_refresh_limits(BlockNode *node)
{
    BlkdebugNode *b = (BlkdebugNode *)node;
    BlockLimits *l = &node->limits;

    l->request_alignment = b->align ? (uint32_t)b->align : 1;
    if (b->max_transfer) {
        l->max_transfer = b->max_transfer;
    }
    if (b->opt_write_zero) {
        l->write_zeroes_alignment = (uint32_t)b->opt_write_zero;
    }
    if (b->max_write_zero) {
        l->max_write_zeroes = b->max_write_zero;
    }
    if (b->opt_discard) {
        l->discard_granularity = (uint32_t)b->opt_discard;
    }
    if (b->max_discard) {
        l->max_discard = b->max_discard;
    }
}

/* ---- events ---- */

bool block_debug_tells;

/* Scripts that drive rhea-io wait for these lines. */
static void tell(const char *what, const char *tag)
{
    if (block_debug_tells) {
        printf("blkdebug: %s request '%s'\n", what, tag);
        fflush(stdout);
    }
}

static void suspend(BlkdebugNode *b, const char *tag)
{
    Suspended s = { coroutine_self(), loop_current(), g_strdup(tag) };

    g_ptr_array_add(b->suspended, &s);
    pthread_mutex_unlock(&b->lock);
    tell("Suspended", s.tag);
    coroutine_yield();
    tell("Resuming", s.tag);
    pthread_mutex_lock(&b->lock);
    g_free(s.tag);
}

static void blkdebug_co_event(BlockNode *node, QapiBlkdebugEvent event)
{
    BlkdebugNode *b = (BlkdebugNode *)node;
    bool injected = false;
    g_autofree char *tag = NULL;
    int new_state;

    pthread_mutex_lock(&b->lock);
    new_state = b->state;
    for (guint i = 0; i < b->rules->len; i++) {
        Rule *r = g_ptr_array_index(b->rules, i);

        if (r->event != event || event == QAPI_BLKDEBUG_EVENT_NONE || (r->state && r->state != b->state)) {
            continue;
        }
        switch (r->action) {
        case INJECT:
            for (guint k = 0; k < b->rules->len && !injected; k++) { /* the last event's rules end */
                Rule *other = g_ptr_array_index(b->rules, k);

                other->active = false;
            }
            injected = r->active = true;
            break;
        case SET_STATE:
            new_state = r->new_state;
            break;
        case SUSPEND:
            g_free(tag);
            tag = g_strdup(r->tag);
            g_ptr_array_remove_index(b->rules, i--); /* a breakpoint holds one request */
            break;
        }
    }
    b->state = new_state;
    if (tag) {
        suspend(b, tag);
    }
    pthread_mutex_unlock(&b->lock);
}

static bool blkdebug_breakpoint(BlockNode *node, const char *event, const char *tag, GError **error)
{
    BlkdebugNode *b = (BlkdebugNode *)node;
    int n = enum_parse(&qapi_BlkdebugEvent_lookup, event, error);
    Rule *r;

    if (n < 0) {
        return false;
    }
    r = g_new0(Rule, 1);
    r->action = SUSPEND;
    r->event = (QapiBlkdebugEvent)n;
    r->tag = g_strdup(tag);
    pthread_mutex_lock(&b->lock);
    g_ptr_array_add(b->rules, r);
    pthread_mutex_unlock(&b->lock);
    return true;
}

static bool blkdebug_resume(BlockNode *node, const char *tag)
{
    BlkdebugNode *b = (BlkdebugNode *)node;
    bool found = false;

    pthread_mutex_lock(&b->lock);
    for (guint i = 0; i < b->suspended->len; i++) {
        Suspended *s = g_ptr_array_index(b->suspended, i);

        if (strcmp(s->tag, tag) == 0) {
            g_ptr_array_remove_index(b->suspended, i--);
            coroutine_wake(s->loop, s->co);
            found = true;
        }
    }
    pthread_mutex_unlock(&b->lock);
    return found;
}

static bool blkdebug_remove_breakpoint(BlockNode *node, const char *tag)
{
    BlkdebugNode *b = (BlkdebugNode *)node;
    bool found = false;

    pthread_mutex_lock(&b->lock);
    for (guint i = 0; i < b->rules->len; i++) {
        Rule *r = g_ptr_array_index(b->rules, i);

        if (r->action == SUSPEND && strcmp(r->tag, tag) == 0) {
            g_ptr_array_remove_index(b->rules, i--);
            found = true;
        }
    }
    pthread_mutex_unlock(&b->lock);
    return blkdebug_resume(node, tag) || found;
}

static bool blkdebug_is_suspended(BlockNode *node, const char *tag)
{
    BlkdebugNode *b = (BlkdebugNode *)node;
    bool found = false;

    pthread_mutex_lock(&b->lock);
    for (guint i = 0; i < b->suspended->len; i++) {
        found = found || strcmp(((Suspended *)g_ptr_array_index(b->suspended, i))->tag, tag) == 0;
    }
    pthread_mutex_unlock(&b->lock);
    return found;
}

/* Whoever drains must not wait for what nobody resumes. */
static void blkdebug_drain_begin(BlockNode *node)
{
    BlkdebugNode *b = (BlkdebugNode *)node;

    pthread_mutex_lock(&b->lock);
    while (b->suspended->len) {
        Suspended *s = g_ptr_array_index(b->suspended, 0);

        g_ptr_array_remove_index(b->suspended, 0);
        coroutine_wake(s->loop, s->co);
    }
    pthread_mutex_unlock(&b->lock);
}

/* ---- requests ---- */

static int check(BlockNode *node, QapiBlkdebugIOType type, uint64_t offset, uint64_t bytes)
{
    BlkdebugNode *b = (BlkdebugNode *)node;
    bool immediately = true;
    int ret = 0;

    pthread_mutex_lock(&b->lock);
    for (guint i = 0; i < b->rules->len && !ret; i++) {
        Rule *r = g_ptr_array_index(b->rules, i);

        if (r->action != INJECT || !r->active || !(r->types & 1u << type) ||
            (r->offset >= 0 && bytes &&
             ((uint64_t)r->offset < offset || (uint64_t)r->offset >= offset + bytes))) {
            continue;
        }
        ret = -r->error;
        immediately = r->immediately;
        if (!ret) {
            break; /* errno 0: lets it pass */
        }
        if (r->once) {
            g_ptr_array_remove_index(b->rules, i);
        }
    }
    pthread_mutex_unlock(&b->lock);
    if (ret && !immediately) {
        coroutine_wake(loop_current(), coroutine_self());
        coroutine_yield();
    }
    return ret;
}

static int blkdebug_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                              uint64_t from, unsigned flags)
{
    int ret = check(node, QAPI_BLKDEBUG_IOTYPE_READ, offset, bytes);

    return ret ? ret : block_co_preadv(node->file, offset, bytes, vec, from, flags);
}

static int blkdebug_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                               uint64_t from, unsigned flags)
{
    int ret = check(node, QAPI_BLKDEBUG_IOTYPE_WRITE, offset, bytes);

    return ret ? ret : block_co_pwritev(node->file, offset, bytes, vec, from, flags);
}

static int blkdebug_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    uint64_t align = MAX(node->limits.write_zeroes_alignment, node->limits.request_alignment);
    int ret;

    if (bytes < align) {
        return -ENOTSUP; /* an end that is to be written */
    }
    ret = check(node, QAPI_BLKDEBUG_IOTYPE_WRITE_ZEROES, offset, bytes);
    return ret ? ret : block_co_pwrite_zeroes(node->file, offset, bytes, flags);
}

static int blkdebug_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int ret;

    if (bytes < node->limits.request_alignment) {
        return -ENOTSUP;
    }
    ret = check(node, QAPI_BLKDEBUG_IOTYPE_DISCARD, offset, bytes);
    return ret ? ret : block_co_pdiscard(node->file, offset, bytes);
}

static int blkdebug_co_flush(BlockNode *node)
{
    int ret = check(node, QAPI_BLKDEBUG_IOTYPE_FLUSH, 0, 0);

    return ret ? ret : block_co_flush(node->file);
}

static int blkdebug_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                                    BlockStatus *st)
{
    int ret = check(node, QAPI_BLKDEBUG_IOTYPE_BLOCK_STATUS, offset, bytes);

    *st = (BlockStatus){ .flags = BLOCK_STATUS_RAW, .bytes = bytes, .map = offset, .file = node->file->node };
    return ret;
}

static const char *const blkdebug_prefixes[] = { "blkdebug", NULL };

static const BlockDriver blkdebug_driver = {
    .name = "blkdebug",
    .prefixes = blkdebug_prefixes,
    .instance_size = sizeof(BlkdebugNode),
    .is_filter = true,
    .parse_filename = blkdebug_parse_filename,
    .open = blkdebug_open,
    .close = blkdebug_close,
    .refresh_limits = blkdebug_refresh_limits,
    .drain_begin = blkdebug_drain_begin,
    .co_preadv = blkdebug_co_preadv,
    .co_pwritev = blkdebug_co_pwritev,
    .co_pwrite_zeroes = blkdebug_co_pwrite_zeroes,
    .co_pdiscard = blkdebug_co_pdiscard,
    .co_flush = blkdebug_co_flush,
    .co_block_status = blkdebug_co_block_status,
    .co_debug_event = blkdebug_co_event,
    .debug_breakpoint = blkdebug_breakpoint,
    .debug_remove_breakpoint = blkdebug_remove_breakpoint,
    .debug_resume = blkdebug_resume,
    .debug_is_suspended = blkdebug_is_suspended,
};
BLOCK_DRIVER(blkdebug_driver);
