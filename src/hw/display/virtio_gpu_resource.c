/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/display/virtio_gpu_resource.h"

#include "base/error.h"

#include <string.h>

#define PIXEL         4u
#define OVERHEAD      512u /* what a resource costs beside its pixels, or a little more */
#define MAX_RESOURCES (1u << 20)

/* Which byte has red, green and blue, and alpha (-1: none). 5.7.6.8, enum virtio_gpu_formats. */
typedef struct GpuFormat {
    uint32_t number;
    uint8_t red, green, blue;
    int8_t alpha;
} GpuFormat;
static const GpuFormat formats[] = {
    { 1, 2, 1, 0, 3 },  { 2, 2, 1, 0, -1 },  { 3, 1, 2, 3, 0 },   { 4, 1, 2, 3, -1 },
    { 67, 0, 1, 2, 3 }, { 68, 3, 2, 1, -1 }, { 121, 3, 2, 1, 0 }, { 134, 0, 1, 2, -1 },
};

static const GpuFormat *format_find(uint32_t number)
{
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (formats[i].number == number) {
            return &formats[i];
        }
    }
    return NULL;
}

static uint64_t pixel_bytes(const GpuResource *res)
{
    return (uint64_t)res->width * res->height * PIXEL;
}

static void resource_free(gpointer data)
{
    GpuResource *res = data;
    g_free(res->pixels);
    g_free(res->backing);
    g_free(res);
}

void gpu_resources_init(GpuResources *all, uint64_t limit_bytes)
{
    all->table = g_hash_table_new_full(NULL, NULL, NULL, resource_free);
    all->used = 0;
    all->limit = limit_bytes;
}

void gpu_resources_clear(GpuResources *all)
{
    g_hash_table_remove_all(all->table);
    all->used = 0;
}

void gpu_resources_destroy(GpuResources *all)
{
    g_clear_pointer(&all->table, g_hash_table_unref);
}

static bool take_memory(GpuResources *all, uint64_t bytes)
{
    if (bytes > all->limit || all->used > all->limit - bytes) {
        return false;
    }
    all->used += bytes;
    return true;
}

GpuResource *gpu_resource_find(GpuResources *all, uint32_t id)
{
    return g_hash_table_lookup(all->table, GUINT_TO_POINTER(id));
}

GpuMake gpu_resource_make(GpuResources *all, uint32_t id, uint32_t format, uint32_t width, uint32_t height)
{
    const GpuResource wanted = { .id = id, .format = format, .width = width, .height = height };
    if (!id || !format_find(format) || !width || !height || width > GPU_MAX_SIDE || height > GPU_MAX_SIDE) {
        return GPU_MAKE_BAD;
    }
    if (gpu_resource_find(all, id)) {
        return GPU_MAKE_EXISTS;
    }
    uint64_t bytes = pixel_bytes(&wanted);
    if (g_hash_table_size(all->table) >= MAX_RESOURCES || !take_memory(all, bytes + OVERHEAD)) {
        return GPU_MAKE_NO_MEMORY;
    }
    uint8_t *pixels = g_try_malloc0(bytes);
    if (!pixels) {
        all->used -= bytes + OVERHEAD;
        return GPU_MAKE_NO_MEMORY;
    }
    GpuResource *res = g_memdup2(&wanted, sizeof(wanted));
    res->pixels = pixels;
    g_hash_table_insert(all->table, GUINT_TO_POINTER(id), res);
    return GPU_MADE;
}

void gpu_resource_drop(GpuResources *all, GpuResource *res)
{
    gpu_resource_detach(all, res);
    all->used -= pixel_bytes(res) + OVERHEAD;
    g_hash_table_remove(all->table, GUINT_TO_POINTER(res->id));
}

bool gpu_resource_attach(GpuResources *all, GpuResource *res, GpuBacking *entries, uint32_t count)
{
    uint64_t offset = 0;
    if (!take_memory(all, count * sizeof(*entries))) {
        g_free(entries);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        entries[i].offset = offset;
        offset += entries[i].length;
    }
    res->backing = entries;
    res->backing_count = count;
    return true;
}

void gpu_resource_detach(GpuResources *all, GpuResource *res)
{
    all->used -= res->backing_count * sizeof(*res->backing);
    g_clear_pointer(&res->backing, g_free);
    res->backing_count = 0;
}

bool gpu_resource_contains(const GpuResource *res, const GpuRect *rect)
{
    return rect->width && rect->height && rect->x < res->width && rect->y < res->height &&
           rect->width <= res->width - rect->x && rect->height <= res->height - rect->y;
}

/* The last piece that begins at or before an offset. */
static uint32_t backing_at(const GpuResource *res, uint64_t offset)
{
    uint32_t low = 0, high = res->backing_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (res->backing[middle].offset <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool backing_read(const GpuResource *res, AddressSpace *as, uint64_t offset, uint8_t *to,
                         uint64_t length)
{
    for (uint32_t i = backing_at(res, offset); length && i < res->backing_count; i++) {
        const GpuBacking *piece = &res->backing[i];
        uint64_t skip = offset - piece->offset;
        if (skip >= piece->length) {
            continue; /* an empty one, or beyond the last */
        }
        uint64_t part = MIN(piece->length - skip, length);
        if (address_space_read(as, piece->gpa + skip, MEMTXATTRS_DMA, to, part) != MEMTX_OK) {
            return false;
        }
        offset += part;
        to += part;
        length -= part;
    }
    return length == 0;
}

bool gpu_resource_transfer(GpuResource *res, AddressSpace *as, const GpuRect *rect, uint64_t offset)
{
    uint32_t stride = res->width * PIXEL;
    bool whole = rect->width == res->width;
    uint32_t lines = whole ? 1 : rect->height;
    uint64_t length = (uint64_t)rect->width * PIXEL * (whole ? rect->height : 1);
    if (!res->backing_count || offset > UINT64_MAX - (uint64_t)stride * rect->height) {
        return false;
    }
    for (uint32_t line = 0; line < lines; line++) {
        uint8_t *to = res->pixels + (uint64_t)(rect->y + line) * stride + (uint64_t)rect->x * PIXEL;
        if (!backing_read(res, as, offset + (uint64_t)line * stride, to, length)) {
            return false;
        }
    }
    return true;
}

static uint32_t convert(const GpuFormat *f, const uint8_t *p)
{
    return (f->alpha < 0 ? 0xffu : p[f->alpha]) << 24 | (uint32_t)p[f->red] << 16 |
           (uint32_t)p[f->green] << 8 | p[f->blue];
}

uint32_t gpu_resource_pixel(const GpuResource *res, uint32_t x, uint32_t y)
{
    return convert(format_find(res->format), res->pixels + ((uint64_t)y * res->width + x) * PIXEL);
}

void gpu_resource_draw(const GpuResource *res, const GpuRect *rect, DisplaySurface *surface)
{
    const GpuFormat *f = format_find(res->format);
    display_surface_resize(surface, rect->width, rect->height);
    for (uint32_t y = 0; y < surface->height; y++) {
        const uint8_t *from = res->pixels + ((uint64_t)(rect->y + y) * res->width + rect->x) * PIXEL;
        uint32_t *to = surface->pixels + (size_t)y * surface->width;
        for (uint32_t x = 0; x < surface->width; x++, from += PIXEL) {
            to[x] = convert(f, from) & 0xffffff;
        }
    }
}

/* ---- as state: a count, then of each number, format, size, pieces and pixels ---- */

static gint compare_ids(gconstpointer a, gconstpointer b)
{
    guint x = GPOINTER_TO_UINT(a), y = GPOINTER_TO_UINT(b);
    return x < y ? -1 : x > y;
}

static void save_resource(VmStateWriter *w, const GpuResource *res)
{
    const uint32_t numbers[] = { res->id, res->format, res->width, res->height, res->backing_count };
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        vmstate_put_u64(w, numbers[i]);
    }
    for (uint32_t i = 0; i < res->backing_count; i++) {
        vmstate_put_u64(w, res->backing[i].gpa);
        vmstate_put_u64(w, res->backing[i].length);
    }
    vmstate_put(w, res->pixels, pixel_bytes(res));
}

bool gpu_resources_save(VmStateWriter *w, const void *field, GError **error)
{
    const GpuResources *all = field;
    g_autoptr(GList) ids = g_list_sort(g_hash_table_get_keys(all->table), compare_ids);
    vmstate_put_u64(w, g_hash_table_size(all->table));
    for (GList *i = ids; i; i = i->next) {
        save_resource(w, g_hash_table_lookup(all->table, i->data));
    }
    return true;
}

static bool load_backing(VmStateReader *r, GpuResources *all, GpuResource *res, uint32_t count,
                         GError **error)
{
    g_autofree GpuBacking *entries = g_new0(GpuBacking, count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t length;
        if (!vmstate_get_u64(r, &entries[i].gpa, error) || !vmstate_get_u64(r, &length, error)) {
            return false;
        }
        if (length > UINT32_MAX) {
            return error_set(error, "a piece of guest memory has %" G_GUINT64_FORMAT " bytes", length);
        }
        entries[i].length = (uint32_t)length;
    }
    return !count || gpu_resource_attach(all, res, g_steal_pointer(&entries), count) ||
           error_set(error, "resources need more than max_hostmem");
}

static bool load_resource(VmStateReader *r, GpuResources *all, GError **error)
{
    uint64_t n[5];
    for (size_t i = 0; i < G_N_ELEMENTS(n); i++) {
        if (!vmstate_get_u64(r, &n[i], error)) {
            return false;
        }
        if (n[i] > UINT32_MAX) {
            return error_set(error, "a resource's number or size is too large");
        }
    }
    if (n[4] > GPU_MAX_ENTRIES) {
        return error_set(error, "a resource has more than %u pieces of guest memory", GPU_MAX_ENTRIES);
    }
    GpuMake made = gpu_resource_make(all, (uint32_t)n[0], (uint32_t)n[1], (uint32_t)n[2], (uint32_t)n[3]);
    if (made != GPU_MADE) {
        return error_set(error, made == GPU_MAKE_NO_MEMORY ? "resources need more than max_hostmem"
                                                           : "a resource is impossible, or there twice");
    }
    GpuResource *res = gpu_resource_find(all, (uint32_t)n[0]);
    return load_backing(r, all, res, (uint32_t)n[4], error) &&
           vmstate_get(r, res->pixels, pixel_bytes(res), error);
}

bool gpu_resources_load(VmStateReader *r, void *field, GError **error)
{
    GpuResources *all = field;
    uint64_t count;
    gpu_resources_clear(all);
    if (!vmstate_get_u64(r, &count, error)) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (!load_resource(r, all, error)) {
            return false;
        }
    }
    return true;
}
