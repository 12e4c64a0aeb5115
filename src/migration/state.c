/*
 * Saving and loading a machine: see state.h; the bytes are described in docs/formats/state-stream.md.
 *
 * Invariants:
 *  1. Memory is written only where the block is one of ours and the range lies within it; devices are touched
 *     only after the whole stream was read and its end record seen.
 *  2. Pages that the stream leaves out are zero afterwards: every block is emptied before the first page.
 *  3. What a stream can make us allocate is bounded: a record by its length, parts by PARTS_MAX_BYTES.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/state.h"

#include "arch/x86/apic.h"
#include "base/error.h"
#include "hw/core/device.h"
#include "vmstate/vmstate.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    RECORD_MACHINE = 1,
    RECORD_MEMORY = 2,
    RECORD_PAGES = 3,
    RECORD_ZERO = 4,
    RECORD_CLOCK = 5,
    RECORD_PART = 6,
    RECORD_END = 7,
};

#define PAGES_PER_RECORD 256
#define FACTS_MAX        256
#define PARTS_MAX        4096
#define PARTS_MAX_BYTES  (256u << 20)
#define BLOCK_READ_ONLY  1u /* of a block's flags: its content is not sent */

static void part_free(void *opaque)
{
    StatePart *part = opaque;

    g_free(part->name);
    g_free(part->type);
    if (part->bytes) {
        g_byte_array_unref(part->bytes);
    }
    g_free(part);
}

static void block_put(void *block)
{
    ram_block_unref(block);
}

void saved_state_free(SavedState *state)
{
    if (state) {
        g_ptr_array_unref(state->facts);
        g_ptr_array_unref(state->blocks);
        g_ptr_array_unref(state->names);
        g_ptr_array_unref(state->parts);
        g_free(state->run_state);
        g_free(state);
    }
}

/* ---- what the machine is ---- */

static void add_block(RamBlock *block, void *opaque)
{
    SavedState *s = opaque;
    unsigned same = 1;

    for (guint i = 0; i < s->blocks->len; i++) {
        same += strcmp(((RamBlock *)s->blocks->pdata[i])->id, block->id) == 0;
    }
    g_ptr_array_add(s->blocks, ram_block_ref(block));
    g_ptr_array_add(s->names, same > 1 ? g_strdup_printf("%s#%u", block->id, same) : g_strdup(block->id));
}

SavedState *state_expect(const StateMachine *machine)
{
    SavedState *s = g_new0(SavedState, 1);

    s->facts = g_ptr_array_new_with_free_func(g_free);
    s->blocks = g_ptr_array_new_with_free_func(block_put);
    s->names = g_ptr_array_new_with_free_func(g_free);
    s->parts = g_ptr_array_new_with_free_func(part_free);
    for (guint i = 0; machine->facts && i < machine->facts->len && machine->facts->pdata[i]; i++) {
        g_ptr_array_add(s->facts, g_strdup(machine->facts->pdata[i]));
    }
    ram_block_foreach(add_block, s);
    return s;
}

/* ---- collecting ---- */

typedef struct Walk {
    SavedState *state;
    GPtrArray *devices; /* of Device *, when they are looked for */
    GHashTable *seen;
    GError *error;
} Walk;

static StatePart *add_part(SavedState *s, char *name, const char *type, const VmState *vms, void *opaque,
                           GError **error)
{
    GByteArray *bytes = NULL;

    if (vms) {
        bytes = vmstate_save(vms, opaque, error);
        if (!bytes) {
            error_prefix(error, "%s (%s): ", name, type);
            g_free(name);
            return NULL;
        }
    }
    StatePart *part = g_new0(StatePart, 1);
    part->name = name;
    part->type = g_strdup(type);
    part->bytes = bytes;
    g_ptr_array_add(s->parts, part);
    return part;
}

/* The same on both sides for the same place of a machine: where it sits on buses that number their places,
 * else its place in the object tree. */
static char *device_place(const Device *dev)
{
    if (dev->bus && BUS_GET_CLASS(dev->bus)->device_path) {
        g_autofree char *path = BUS_GET_CLASS(dev->bus)->device_path((Device *)(uintptr_t)dev);
        if (path) {
            return g_strdup_printf("%s:%s", dev->bus->name, path);
        }
    }
    if (dev->bus && dev->bus->owner && bus_max_devices(dev->bus) == 1) {
        g_autofree char *above = device_place(dev->bus->owner);
        return g_strdup_printf("%s/%s", above, dev->bus->name);
    }
    return object_get_canonical_path(OBJECT(dev));
}

static void collect_device(Device *dev, void *opaque)
{
    Walk *walk = opaque;

    if (walk->error) {
        return;
    }
    home_lock(&dev->lock);
    add_part(walk->state, device_place(dev), object_get_typename(OBJECT(dev)), DEVICE_GET_CLASS(dev)->vmstate,
             dev, &walk->error);
    home_unlock(&dev->lock);
}

static bool collect_cpus(const StateMachine *machine, SavedState *s, GError **error)
{
    for (unsigned i = 0; machine->vcpus && i < vcpu_set_count(machine->vcpus); i++) {
        X86Cpu *cpu = vcpu_set_get(machine->vcpus, i);

        if (!add_part(s, g_strdup_printf("cpu%u", cpu->index), object_get_typename(OBJECT(cpu)),
                      &x86_cpu_vmstate, cpu, error) ||
            !add_part(s, g_strdup_printf("cpu%u/apic", cpu->index), TYPE_APIC, &apic_vmstate, cpu->apic,
                      error)) {
            return false;
        }
    }
    return true;
}

SavedState *state_collect(const StateMachine *machine, const char *run_state, GError **error)
{
    SavedState *s = state_expect(machine);
    Walk walk = { .state = s };

    s->run_state = g_strdup(run_state);
    s->virtual_ns = clock_now_ns(machine->clocks, CLOCK_TYPE_VIRTUAL);
    s->host_ns = clock_now_ns(machine->clocks, CLOCK_TYPE_HOST);
    if (!collect_cpus(machine, s, error)) {
        saved_state_free(s);
        return NULL;
    }
    device_foreach(machine->root, collect_device, &walk);
    if (walk.error) {
        g_propagate_error(error, walk.error);
        saved_state_free(s);
        return NULL;
    }
    return s;
}

/* ---- writing ---- */

static bool page_is_zero(const uint8_t *page)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;

    for (size_t i = 0; i < RAM_PAGE_SIZE / 8; i += 8) {
        if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] |
            words[i + 6] | words[i + 7]) {
            return false;
        }
    }
    return true;
}

static uint32_t block_flags(const RamBlock *block)
{
    return block->readonly ? BLOCK_READ_ONLY : 0;
}

/* Where the next byte lies that the host has memory for: reading a hole of a memory file would fill it. */
static uint64_t skip_hole(const RamBlock *block, uint64_t offset)
{
    if (block->fd < 0 || !block->shared) {
        return offset;
    }
    off_t data = lseek(block->fd, (off_t)(block->fd_offset + offset), SEEK_DATA);
    if (data < 0) {
        return errno == ENXIO ? block->size : offset;
    }
    uint64_t at = (uint64_t)data - block->fd_offset;
    return at < offset ? offset : MIN(at & ~(uint64_t)(RAM_PAGE_SIZE - 1), block->size);
}

static void count(uint64_t *counter, uint64_t value)
{
    __atomic_fetch_add(counter, value, __ATOMIC_RELAXED);
}

static bool write_pages(Stream *s, unsigned index, const RamBlock *block, uint64_t offset, unsigned pages,
                        StateProgress *progress, GError **error)
{
    g_autoptr(GByteArray) head = g_byte_array_new();

    if (!pages) {
        return true;
    }
    put_u16(head, (uint16_t)index);
    put_u16(head, 0);
    put_u32(head, pages);
    put_u64(head, offset >> RAM_PAGE_BITS);
    bool ok = stream_write(s, RECORD_PAGES, head->data, head->len, block->host + offset,
                           (size_t)pages << RAM_PAGE_BITS, error);
    count(&progress->normal_pages, pages);
    __atomic_store_n(&progress->sent, s->bytes, __ATOMIC_RELAXED);
    return ok;
}

/* Runs of pages with something in them, up to PAGES_PER_RECORD. */
static bool write_block(Stream *s, unsigned index, const RamBlock *block, StateProgress *progress,
                        GError **error)
{
    uint64_t offset = 0, start = 0;
    unsigned run = 0, since_hole = 0;

    if (block->readonly) {
        count(&progress->done, block->size);
        return true;
    }
    while (offset < block->size) {
        if (run == 0 && since_hole == 0) {
            uint64_t data = skip_hole(block, offset);
            count(&progress->done, data - offset);
            count(&progress->zero_pages, (data - offset) >> RAM_PAGE_BITS);
            offset = data;
            if (offset >= block->size) {
                break;
            }
        }
        since_hole = (since_hole + 1) % PAGES_PER_RECORD;
        if (page_is_zero(block->host + offset)) {
            if (!write_pages(s, index, block, start, run, progress, error)) {
                return false;
            }
            run = 0;
            count(&progress->zero_pages, 1);
        } else {
            start = run ? start : offset;
            if (++run == PAGES_PER_RECORD) {
                if (!write_pages(s, index, block, start, run, progress, error)) {
                    return false;
                }
                run = 0;
            }
        }
        offset += RAM_PAGE_SIZE;
        count(&progress->done, RAM_PAGE_SIZE);
    }
    return write_pages(s, index, block, start, run, progress, error);
}

static bool write_machine(Stream *s, const SavedState *state, GError **error)
{
    g_autoptr(GByteArray) to = g_byte_array_new();

    for (guint i = 0; i + 1 < state->facts->len; i += 2) {
        const char *value = state->facts->pdata[i + 1];
        size_t length = MIN(strlen(value), UINT16_MAX);
        put_name(to, state->facts->pdata[i]);
        put_u16(to, (uint16_t)length);
        g_byte_array_append(to, (const uint8_t *)value, (guint)length);
    }
    return stream_write(s, RECORD_MACHINE, to->data, to->len, NULL, 0, error);
}

static bool write_memory(Stream *s, const SavedState *state, GError **error)
{
    g_autoptr(GByteArray) to = g_byte_array_new();

    for (guint i = 0; i < state->blocks->len; i++) {
        const RamBlock *block = state->blocks->pdata[i];
        put_name(to, state->names->pdata[i]);
        put_u64(to, block->size);
        put_u32(to, block_flags(block));
    }
    return stream_write(s, RECORD_MEMORY, to->data, to->len, NULL, 0, error);
}

static bool write_clock(Stream *s, const SavedState *state, GError **error)
{
    g_autoptr(GByteArray) to = g_byte_array_new();

    put_u64(to, (uint64_t)state->virtual_ns);
    put_u64(to, (uint64_t)state->host_ns);
    put_name(to, state->run_state);
    return stream_write(s, RECORD_CLOCK, to->data, to->len, NULL, 0, error);
}

static bool write_part(Stream *s, const StatePart *part, GError **error)
{
    g_autoptr(GByteArray) head = g_byte_array_new();

    put_name(head, part->name);
    put_name(head, part->type);
    put_u8(head, part->bytes != NULL);
    return stream_write(s, RECORD_PART, head->data, head->len, part->bytes ? part->bytes->data : NULL,
                        part->bytes ? part->bytes->len : 0, error);
}

bool state_write(const SavedState *state, const StreamIo *io, StateProgress *progress, GError **error)
{
    Stream s;
    uint64_t total = 0;

    for (guint i = 0; i < state->blocks->len; i++) {
        total += ((const RamBlock *)state->blocks->pdata[i])->size;
    }
    __atomic_store_n(&progress->total, total, __ATOMIC_RELAXED);
    stream_init(&s, io);
    bool ok =
        stream_write_header(&s, error) && write_machine(&s, state, error) && write_memory(&s, state, error);
    for (guint i = 0; ok && i < state->blocks->len; i++) {
        ok = write_block(&s, i, state->blocks->pdata[i], progress, error);
    }
    ok = ok && write_clock(&s, state, error);
    for (guint i = 0; ok && i < state->parts->len; i++) {
        ok = write_part(&s, state->parts->pdata[i], error);
    }
    uint64_t records = s.records;
    ok = ok && stream_write(&s, RECORD_END, &records, sizeof(records), NULL, 0, error);
    __atomic_store_n(&progress->sent, s.bytes, __ATOMIC_RELAXED);
    stream_clear(&s);
    return ok;
}

/* ---- reading ---- */

static bool malformed(const char *what, GError **error)
{
    return error_set(error, "the state's %s record is malformed", what);
}

static bool words_contain(const char *text, const char *word, size_t length)
{
    for (const char *at = text; (at = strstr(at, word)); at += 1) {
        if ((at == text || at[-1] == ' ') && (at[length] == '\0' || at[length] == ' ')) {
            return true;
        }
    }
    return false;
}

/* The first word of one list that the other lacks; "" for none. */
static void first_missing(const char *from, const char *in, char word[64])
{
    g_auto(GStrv) words = g_strsplit(from, " ", -1);

    word[0] = '\0';
    for (char **w = words; *w; w++) {
        if (**w && !words_contain(in, *w, strlen(*w))) {
            g_strlcpy(word, *w, 64);
            return;
        }
    }
}

/* Long lists (of CPU features) name the first entry that makes the difference. */
static bool fact_differs(const char *key, const char *saved, const char *here, GError **error)
{
    char lacking[64], extra[64];

    if (!strchr(saved, ' ') && !strchr(here, ' ')) {
        error_set(error, "machine: field '%s' differs: the state has '%s', this machine has '%s'", key, saved,
                  here);
    } else {
        first_missing(saved, here, lacking);
        first_missing(here, saved, extra);
        if (lacking[0]) {
            error_set(error, "machine: field '%s' differs: the state has '%s', this machine has not", key,
                      lacking);
        } else {
            error_set(error, "machine: field '%s' differs: this machine has '%s', the state has not", key,
                      extra);
        }
    }
    error_append_hint(error, "Start it with the options of the machine that was saved.");
    return false;
}

static bool printable(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e) {
            return false;
        }
    }
    return true;
}

static bool read_machine(const SavedState *state, Cursor c, GError **error)
{
    guint n = 0;

    for (; cursor_left(&c) && n + 1 < FACTS_MAX * 2; n += 2) {
        char key[256];
        uint16_t length;
        if (!get_name(&c, key) || !get_u16(&c, &length) || cursor_left(&c) < length ||
            !printable((const char *)c.at, length)) {
            return malformed("machine", error);
        }
        g_autofree char *value = g_strndup((const char *)c.at, length);
        c.at += length;
        if (n + 1 >= state->facts->len || strcmp(state->facts->pdata[n], key) != 0) {
            return error_set(error, "machine: the state has a field '%s' that is not known here", key);
        }
        if (strcmp(state->facts->pdata[n + 1], value) != 0) {
            return fact_differs(key, value, state->facts->pdata[n + 1], error);
        }
    }
    if (n < state->facts->len) {
        return error_set(error, "machine: the state lacks field '%s'", (char *)state->facts->pdata[n]);
    }
    return !cursor_left(&c) || malformed("machine", error);
}

/* map: the stream's block numbers to ours. */
static bool read_memory(const SavedState *state, Cursor c, GArray *map, GError **error)
{
    while (cursor_left(&c)) {
        char name[256];
        uint64_t size;
        uint32_t flags;
        guint i = 0;
        if (!get_name(&c, name) || !get_u64(&c, &size) || !get_u32(&c, &flags) ||
            map->len >= state->names->len + 1) {
            return malformed("memory", error);
        }
        while (i < state->names->len && strcmp(state->names->pdata[i], name) != 0) {
            i++;
        }
        if (i == state->names->len) {
            return error_set(error, "memory: the state has a block '%s' that this machine has not", name);
        }
        const RamBlock *block = state->blocks->pdata[i];
        if (block->size != size) {
            return error_set(error, "memory: block '%s' has %" PRIu64 " bytes in the state, here %" PRIu64,
                             name, size, block->size);
        }
        if (block_flags(block) != flags) {
            return error_set(error, "memory: block '%s' is %s in the state, but not here", name,
                             flags & BLOCK_READ_ONLY ? "read-only" : "writable");
        }
        for (guint k = 0; k < map->len; k++) {
            if (g_array_index(map, guint, k) == i) {
                return error_set(error, "memory: block '%s' comes twice in the state", name);
            }
        }
        g_array_append_val(map, i);
    }
    if (map->len != state->names->len) {
        for (guint i = 0; i < state->names->len; i++) {
            guint k = 0;
            while (k < map->len && g_array_index(map, guint, k) != i) {
                k++;
            }
            if (k == map->len) {
                return error_set(error, "memory: the state lacks block '%s' of this machine",
                                 (char *)state->names->pdata[i]);
            }
        }
    }
    return true;
}

/* Zero from start to end; gives the host's memory back where it can. */
static void empty_block(RamBlock *block)
{
    if (block->readonly) {
        return;
    }
    int advice = block->fd < 0 ? MADV_DONTNEED : block->shared ? MADV_REMOVE : -1;
    if (advice >= 0 && madvise(block->host, block->size, advice) == 0) {
        return;
    }
    for (uint64_t at = 0; at < block->size; at += RAM_PAGE_SIZE) {
        if (!page_is_zero(block->host + at)) {
            memset(block->host + at, 0, RAM_PAGE_SIZE);
        }
    }
}

typedef struct Reader {
    SavedState *state;
    StateProgress *progress;
    GArray *map; /* of guint */
    bool check_only;
    uint64_t part_bytes;
    bool machine, memory, clock, end;
} Reader;

/* A range of pages of one of our blocks that may be written; NULL. */
static RamBlock *get_range(Reader *r, Cursor *c, uint64_t *offset, uint64_t *pages)
{
    uint16_t index, zero;
    uint32_t number;
    uint64_t first;

    if (!r->memory || !get_u16(c, &index) || !get_u16(c, &zero) || !get_u32(c, &number) ||
        !get_u64(c, &first) || zero || index >= r->map->len || number == 0) {
        return NULL;
    }
    RamBlock *block = r->state->blocks->pdata[g_array_index(r->map, guint, index)];
    uint64_t has = block->size >> RAM_PAGE_BITS;
    if (block->readonly || first >= has || number > has - first) {
        return NULL;
    }
    *offset = first << RAM_PAGE_BITS;
    *pages = number;
    return block;
}

static bool read_pages(Reader *r, Cursor c, GError **error)
{
    uint64_t offset, pages;
    RamBlock *block = get_range(r, &c, &offset, &pages);

    if (!block || cursor_left(&c) != pages << RAM_PAGE_BITS) {
        return malformed("pages", error);
    }
    if (!r->check_only) {
        memcpy(block->host + offset, c.at, pages << RAM_PAGE_BITS);
    }
    count(&r->progress->normal_pages, pages);
    count(&r->progress->done, pages << RAM_PAGE_BITS);
    return true;
}

static bool read_zero(Reader *r, Cursor c, GError **error)
{
    uint64_t offset, pages;
    RamBlock *block = get_range(r, &c, &offset, &pages);

    if (!block || cursor_left(&c)) {
        return malformed("zero pages", error);
    }
    if (!r->check_only) {
        memset(block->host + offset, 0, pages << RAM_PAGE_BITS);
    }
    count(&r->progress->zero_pages, pages);
    return true;
}

static bool read_clock(Reader *r, Cursor c, GError **error)
{
    char name[256];
    uint64_t virtual_ns, host_ns;

    if (!get_u64(&c, &virtual_ns) || !get_u64(&c, &host_ns) || !get_name(&c, name) || cursor_left(&c) ||
        virtual_ns > INT64_MAX / 2 || host_ns > INT64_MAX) {
        return malformed("clock", error);
    }
    r->state->virtual_ns = (int64_t)virtual_ns;
    r->state->host_ns = (int64_t)host_ns;
    g_free(r->state->run_state);
    r->state->run_state = g_strdup(name);
    return true;
}

static bool read_part(Reader *r, Cursor c, GError **error)
{
    char name[256], type[256];
    uint8_t has;

    if (!get_name(&c, name) || !get_name(&c, type) || !get_u8(&c, &has) || has > 1 ||
        (!has && cursor_left(&c))) {
        return malformed("device", error);
    }
    r->part_bytes += cursor_left(&c);
    if (r->state->parts->len >= PARTS_MAX || r->part_bytes > PARTS_MAX_BYTES) {
        return error_set(error, "the state has more devices than any machine");
    }
    StatePart *part = g_new0(StatePart, 1);
    part->name = g_strdup(name);
    part->type = g_strdup(type);
    if (has) {
        part->bytes = g_byte_array_new();
        g_byte_array_append(part->bytes, c.at, (guint)cursor_left(&c));
    }
    g_ptr_array_add(r->state->parts, part);
    return true;
}

static bool read_end(Reader *r, Cursor c, uint64_t before, GError **error)
{
    uint64_t records;

    if (!get_u64(&c, &records) || cursor_left(&c) || records != before || !r->clock) {
        return malformed("end", error);
    }
    r->end = true;
    return true;
}

static bool read_memory_record(Reader *r, Cursor c, GError **error)
{
    if (!r->machine || r->memory) {
        return malformed("memory", error);
    }
    if (!read_memory(r->state, c, r->map, error)) {
        return false;
    }
    r->memory = true;
    for (guint i = 0; !r->check_only && i < r->state->blocks->len; i++) {
        empty_block(r->state->blocks->pdata[i]);
    }
    return true;
}

static bool read_record(Reader *r, const Stream *s, uint32_t type, GError **error)
{
    Cursor c = { .at = s->content->data, .end = s->content->data + s->content->len };

    switch (type) {
    case RECORD_MACHINE:
        if (r->machine) {
            return malformed("machine", error);
        }
        r->machine = read_machine(r->state, c, error);
        return r->machine;
    case RECORD_MEMORY:
        return read_memory_record(r, c, error);
    case RECORD_PAGES:
        return read_pages(r, c, error);
    case RECORD_ZERO:
        return read_zero(r, c, error);
    case RECORD_CLOCK:
        if (!r->memory || r->clock) {
            return malformed("clock", error);
        }
        r->clock = read_clock(r, c, error);
        return r->clock;
    case RECORD_PART:
        return r->clock ? read_part(r, c, error) : malformed("device", error);
    case RECORD_END:
        return read_end(r, c, s->records - 1, error);
    default:
        return error_set(error, "the state has a record of unknown type %u", type);
    }
}

bool state_read(SavedState *state, const StreamIo *io, StateProgress *progress, bool check_only,
                GError **error)
{
    Stream s;
    Reader r = { .state = state,
                 .progress = progress,
                 .map = g_array_new(FALSE, FALSE, sizeof(guint)),
                 .check_only = check_only };
    uint64_t total = 0;

    g_ptr_array_set_size(state->parts, 0);
    for (guint i = 0; i < state->blocks->len; i++) {
        total += ((const RamBlock *)state->blocks->pdata[i])->size;
    }
    __atomic_store_n(&progress->total, total, __ATOMIC_RELAXED);
    stream_init(&s, io);
    bool ok = stream_read_header(&s, error);
    while (ok && !r.end) {
        uint32_t type;
        ok = stream_read(&s, &type, error) && read_record(&r, &s, type, error);
        __atomic_store_n(&progress->sent, s.bytes, __ATOMIC_RELAXED);
    }
    stream_clear(&s);
    g_array_unref(r.map);
    return ok;
}

/* ---- giving it to the machine ---- */

static void list_device(Device *dev, void *opaque)
{
    g_ptr_array_add(opaque, dev);
}

static const StatePart *take_part(GHashTable *parts, const char *name, const char *type, GError **error)
{
    StatePart *part = g_hash_table_lookup(parts, name);

    if (!part) {
        error_set(error, "%s (%s): the state has no such device", name, type);
        return NULL;
    }
    if (strcmp(part->type, type) != 0) {
        error_set(error, "%s: the state has a '%s' there, this machine a '%s'", name, part->type, type);
        return NULL;
    }
    g_hash_table_remove(parts, name);
    return part;
}

static bool load_part(const StatePart *part, const VmState *vms, void *opaque, GError **error)
{
    if (!vms != !part->bytes) {
        return error_set(error, "%s (%s): the state %s", part->name, part->type,
                         vms ? "has nothing of what this device keeps" : "is of a device that keeps some");
    }
    if (vms && !vmstate_load(vms, opaque, part->bytes->data, part->bytes->len, error)) {
        error_prefix(error, "%s (%s): ", part->name, part->type);
        return false;
    }
    return true;
}

static bool apply_cpus(const StateMachine *machine, GHashTable *parts, GError **error)
{
    for (unsigned i = 0; machine->vcpus && i < vcpu_set_count(machine->vcpus); i++) {
        X86Cpu *cpu = vcpu_set_get(machine->vcpus, i);
        g_autofree char *name = g_strdup_printf("cpu%u", cpu->index);
        g_autofree char *apic = g_strdup_printf("cpu%u/apic", cpu->index);
        const StatePart *part = take_part(parts, name, object_get_typename(OBJECT(cpu)), error);

        if (!part || !load_part(part, &x86_cpu_vmstate, cpu, error)) {
            return false;
        }
        part = take_part(parts, apic, TYPE_APIC, error);
        if (!part || !load_part(part, &apic_vmstate, cpu->apic, error)) {
            return false;
        }
    }
    return true;
}

static bool apply_devices(const StateMachine *machine, GHashTable *parts, GError **error)
{
    g_autoptr(GPtrArray) devices = g_ptr_array_new();
    bool ok = true;

    device_foreach(machine->root, list_device, devices);
    for (guint i = 0; ok && i < devices->len; i++) {
        Device *dev = devices->pdata[i];
        g_autofree char *name = device_place(dev);
        const StatePart *part = take_part(parts, name, object_get_typename(OBJECT(dev)), error);

        home_lock(&dev->lock);
        ok = part && load_part(part, DEVICE_GET_CLASS(dev)->vmstate, dev, error);
        home_unlock(&dev->lock);
    }
    return ok;
}

bool state_apply(const StateMachine *machine, SavedState *state, GError **error)
{
    g_autoptr(GHashTable) parts = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < state->parts->len; i++) {
        StatePart *part = state->parts->pdata[i];
        if (!g_hash_table_insert(parts, part->name, part)) {
            return error_set(error, "%s (%s): comes twice in the state", part->name, part->type);
        }
    }
    clock_set_virtual_ns(machine->clocks, state->virtual_ns);
    for (guint i = 0; i < state->blocks->len; i++) {
        RamBlock *block = state->blocks->pdata[i];
        if (!block->readonly) {
            ram_written(block, 0, block->size); /* translated code, screens */
        }
    }
    if (!apply_cpus(machine, parts, error) || !apply_devices(machine, parts, error)) {
        return false;
    }
    for (guint i = 0; i < state->parts->len; i++) {
        const StatePart *part = state->parts->pdata[i];
        if (g_hash_table_contains(parts, part->name)) {
            return error_set(error, "%s (%s): the state has this device, this machine has not", part->name,
                             part->type);
        }
    }
    return true;
}
