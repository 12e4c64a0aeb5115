/*
 * virtio-gpu: pictures that the guest draws in its memory, shown on up to 16 screens. Source: VIRTIO 1.2,
 * section 5.7.
 *
 * The 2D part: resources, backing, scanouts, transfers, EDID, and the cursor queue. Left out: 3D contexts
 * (virgl), blobs, resource UUIDs. A screen shows what its resource holds whenever somebody looks, so that
 * RESOURCE_FLUSH is only checked; the cursor is drawn into the picture. A reset of the driver lets everything
 * go.
 *
 * Threads: queues in the main loop with the home lock held; rendering in the main loop, which takes it.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/display/virtio_gpu.h"

#include "base/error.h"
#include "base/log.h"
#include "hw/display/edid.h"
#include "hw/display/virtio_gpu_resource.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtio_gpu_command, "type 0x%04x response 0x%04x");
TRACE_EVENT(virtio_gpu_resource, "id %u format %u %ux%u");
TRACE_EVENT(virtio_gpu_scanout, "number %u resource %u %ux%u at %u,%u");

enum { F_EDID = 1 };
enum { CONTROL_QUEUE_SIZE = 64, CURSOR_QUEUE_SIZE = 16, COMMANDS_AT_ONCE = 256 };
#define MAX_SCANOUTS      16u
#define CURSOR_SIDE       64u
#define DEFAULT_HOSTMEM   (256ull << 20)
#define BLANK_WIDTH       640
#define BLANK_HEIGHT      480
#define HEADER_FLAG_FENCE 1u

/* 5.7.6.7 */
enum {
    CMD_GET_DISPLAY_INFO = 0x100,
    CMD_RESOURCE_CREATE_2D,
    CMD_RESOURCE_UNREF,
    CMD_SET_SCANOUT,
    CMD_RESOURCE_FLUSH,
    CMD_TRANSFER_TO_HOST_2D,
    CMD_RESOURCE_ATTACH_BACKING,
    CMD_RESOURCE_DETACH_BACKING,
    CMD_GET_EDID = 0x10a,
    CMD_UPDATE_CURSOR = 0x300,
    CMD_MOVE_CURSOR,
};
enum {
    OK_NODATA = 0x1100,
    OK_DISPLAY_INFO = 0x1101,
    OK_EDID = 0x1104,
    ERR_UNSPEC = 0x1200,
    ERR_OUT_OF_MEMORY,
    ERR_INVALID_SCANOUT_ID,
    ERR_INVALID_RESOURCE_ID,
    ERR_INVALID_CONTEXT_ID,
    ERR_INVALID_PARAMETER,
};

/* All little-endian. */
typedef struct __attribute__((packed)) Header {
    uint32_t type, flags;
    uint64_t fence_id;
    uint32_t context, ring;
} Header;
typedef struct __attribute__((packed)) GpuConfig {
    uint32_t events_read, events_clear, num_scanouts, num_capsets;
} GpuConfig;
typedef struct __attribute__((packed)) DisplayInfo {
    Header header;
    struct __attribute__((packed)) {
        GpuRect rect;
        uint32_t enabled, flags;
    } modes[MAX_SCANOUTS];
} DisplayInfo;
typedef struct __attribute__((packed)) EdidResponse {
    Header header;
    uint32_t size, padding;
    uint8_t edid[1024];
} EdidResponse;
/* What commands have behind their headers. */
typedef struct __attribute__((packed)) Create2d {
    uint32_t resource, format, width, height;
} Create2d;
typedef struct __attribute__((packed)) OneNumber {
    uint32_t number, padding;
} OneNumber;
typedef struct __attribute__((packed)) SetScanout {
    GpuRect rect;
    uint32_t scanout, resource;
} SetScanout;
typedef struct __attribute__((packed)) Flush {
    GpuRect rect;
    uint32_t resource, padding;
} Flush;
typedef struct __attribute__((packed)) Transfer {
    GpuRect rect;
    uint64_t offset;
    uint32_t resource, padding;
} Transfer;
typedef struct __attribute__((packed)) Attach {
    uint32_t resource, entries;
} Attach;
typedef struct __attribute__((packed)) AttachEntry {
    uint64_t gpa;
    uint32_t length, padding;
} AttachEntry;
typedef struct __attribute__((packed)) Cursor {
    uint32_t scanout, x, y, padding;
    uint32_t resource, hot_x, hot_y, padding2;
} Cursor;

typedef struct VirtioGpu VirtioGpu;
typedef struct GpuScanout {
    /* saved */
    uint32_t resource; /* 0: nothing is shown */
    GpuRect rect;
    bool cursor_on;
    uint32_t cursor_x, cursor_y, hot_x, hot_y;
    uint32_t cursor[CURSOR_SIDE * CURSOR_SIDE]; /* 0xAARRGGBB, colours premultiplied */
    /* derived */
    VirtioGpu *gpu;
    DisplayConsole *console;
} GpuScanout;

struct VirtioGpu {
    VirtioDevice parent_obj;
    /* saved */
    GpuResources resources;
    GpuScanout scanouts[MAX_SCANOUTS];
    /* from properties */
    uint32_t max_outputs, xres, yres;
    uint64_t max_hostmem;
    bool edid;
    /* derived */
    const DisplayConsoleOps *fallback;
    void *fallback_opaque;
};
#define VIRTIO_GPU(obj) OBJECT_CHECK(VirtioGpu, obj, TYPE_VIRTIO_GPU)

/* ---- the screens ---- */

static uint32_t blend(uint32_t under, uint32_t over)
{
    uint32_t alpha = over >> 24, out = 0;
    for (unsigned shift = 0; shift < 24; shift += 8) {
        uint32_t c = (over >> shift & 0xff) + (under >> shift & 0xff) * (255 - alpha) / 255;
        out |= MIN(c, 255u) << shift;
    }
    return out;
}

static void draw_cursor(const GpuScanout *scanout, DisplaySurface *surface)
{
    for (uint32_t y = 0; y < CURSOR_SIDE; y++) {
        for (uint32_t x = 0; x < CURSOR_SIDE; x++) {
            int64_t to_x = (int64_t)scanout->cursor_x - scanout->hot_x + x,
                    to_y = (int64_t)scanout->cursor_y - scanout->hot_y + y;
            if (to_x >= 0 && to_y >= 0 && to_x < surface->width && to_y < surface->height) {
                uint32_t *pixel = &surface->pixels[to_y * surface->width + to_x];
                *pixel = blend(*pixel, scanout->cursor[y * CURSOR_SIDE + x]);
            }
        }
    }
}

/* False: the driver shows nothing there. The lock is held. */
static bool draw_scanout(const GpuScanout *scanout, DisplaySurface *surface)
{
    const GpuResource *res = gpu_resource_find(&scanout->gpu->resources, scanout->resource);
    if (!res || !gpu_resource_contains(
                    res, &scanout->rect)) { /* the latter after a state that was refused half-way */
        return false;
    }
    gpu_resource_draw(res, &scanout->rect, surface);
    if (scanout->cursor_on) {
        draw_cursor(scanout, surface);
    }
    return true;
}

static void scanout_render(void *opaque, DisplaySurface *surface)
{
    GpuScanout *scanout = opaque;
    VirtioGpu *s = scanout->gpu;
    home_lock(s->parent_obj.home);
    bool drawn = draw_scanout(scanout, surface);
    home_unlock(s->parent_obj.home);
    if (drawn) {
        return;
    }
    if (scanout == s->scanouts && s->fallback) {
        s->fallback->render(s->fallback_opaque, surface);
        return;
    }
    display_surface_resize(surface, BLANK_WIDTH, BLANK_HEIGHT);
    memset(surface->pixels, 0, (size_t)BLANK_WIDTH * BLANK_HEIGHT * sizeof(uint32_t));
}

static char *scanout_text(void *opaque)
{
    GpuScanout *scanout = opaque;
    VirtioGpu *s = scanout->gpu;
    home_lock(s->parent_obj.home);
    bool drawn = scanout->resource != 0;
    home_unlock(s->parent_obj.home);
    return !drawn && scanout == s->scanouts && s->fallback ? s->fallback->text(s->fallback_opaque) : NULL;
}

static const DisplayConsoleOps scanout_ops = { .render = scanout_render, .text = scanout_text };

void virtio_gpu_set_fallback(VirtioDevice *vdev, const DisplayConsoleOps *ops, void *opaque)
{
    VirtioGpu *s = VIRTIO_GPU(vdev);
    s->fallback = ops;
    s->fallback_opaque = opaque;
}

/* ---- commands: each gives its response's type ---- */

typedef struct Request {
    VirtQueueElement element;
    Header header;
    size_t written;
} Request;

static GpuRect rect_from_guest(GpuRect r)
{
    return (GpuRect){ GUINT32_FROM_LE(r.x), GUINT32_FROM_LE(r.y), GUINT32_FROM_LE(r.width),
                      GUINT32_FROM_LE(r.height) };
}

static bool get_body(const Request *rq, void *body, size_t size)
{
    return iov_read(rq->element.out, rq->element.out_count, sizeof(Header), body, size) == size;
}

/* Puts a response whose header is completed here. */
static void respond(Request *rq, uint32_t type, void *response, size_t size)
{
    Header *header = response;
    memset(header, 0, sizeof(*header));
    header->type = GUINT32_TO_LE(type);
    if (GUINT32_FROM_LE(rq->header.flags) & HEADER_FLAG_FENCE) {
        header->flags = GUINT32_TO_LE(HEADER_FLAG_FENCE);
        header->fence_id = rq->header.fence_id;
        header->context = rq->header.context;
    }
    rq->written = iov_write(rq->element.in, rq->element.in_count, 0, response, size);
}

static uint32_t get_display_info(VirtioGpu *s, Request *rq)
{
    DisplayInfo info = { 0 };
    for (uint32_t i = 0; i < s->max_outputs; i++) {
        info.modes[i].rect.width = GUINT32_TO_LE(s->xres);
        info.modes[i].rect.height = GUINT32_TO_LE(s->yres);
        info.modes[i].enabled = GUINT32_TO_LE(1u);
    }
    respond(rq, OK_DISPLAY_INFO, &info, sizeof(info));
    return OK_DISPLAY_INFO;
}

static uint32_t get_edid(VirtioGpu *s, Request *rq)
{
    EdidResponse response = { .size = GUINT32_TO_LE(EDID_SIZE) };
    OneNumber body;
    if (!s->edid) {
        return ERR_UNSPEC;
    }
    if (!get_body(rq, &body, sizeof(body)) || GUINT32_FROM_LE(body.number) >= s->max_outputs) {
        return ERR_INVALID_PARAMETER;
    }
    edid_fill(response.edid, s->xres, s->yres);
    respond(rq, OK_EDID, &response, sizeof(response));
    return OK_EDID;
}

static uint32_t resource_create(VirtioGpu *s, Request *rq)
{
    Create2d body;
    if (!get_body(rq, &body, sizeof(body))) {
        return ERR_INVALID_PARAMETER;
    }
    uint32_t id = GUINT32_FROM_LE(body.resource), format = GUINT32_FROM_LE(body.format),
             width = GUINT32_FROM_LE(body.width), height = GUINT32_FROM_LE(body.height);
    TRACE(virtio_gpu_resource, id, format, width, height);
    switch (gpu_resource_make(&s->resources, id, format, width, height)) {
    case GPU_MADE:
        return OK_NODATA;
    case GPU_MAKE_NO_MEMORY:
        return ERR_OUT_OF_MEMORY;
    case GPU_MAKE_EXISTS:
        return ERR_INVALID_RESOURCE_ID;
    default:
        return id ? ERR_INVALID_PARAMETER : ERR_INVALID_RESOURCE_ID;
    }
}

static void scanout_off(GpuScanout *scanout)
{
    scanout->resource = 0;
    memset(&scanout->rect, 0, sizeof(scanout->rect));
}

static uint32_t resource_unref(VirtioGpu *s, Request *rq)
{
    OneNumber body;
    if (!get_body(rq, &body, sizeof(body))) {
        return ERR_INVALID_PARAMETER;
    }
    GpuResource *res = gpu_resource_find(&s->resources, GUINT32_FROM_LE(body.number));
    if (!res) {
        return ERR_INVALID_RESOURCE_ID;
    }
    for (uint32_t i = 0; i < s->max_outputs; i++) {
        if (s->scanouts[i].resource == res->id) {
            scanout_off(&s->scanouts[i]);
        }
    }
    gpu_resource_drop(&s->resources, res);
    return OK_NODATA;
}

static uint32_t set_scanout(VirtioGpu *s, Request *rq)
{
    SetScanout body;
    if (!get_body(rq, &body, sizeof(body))) {
        return ERR_INVALID_PARAMETER;
    }
    uint32_t number = GUINT32_FROM_LE(body.scanout), id = GUINT32_FROM_LE(body.resource);
    GpuRect rect = rect_from_guest(body.rect);
    if (number >= s->max_outputs) {
        return ERR_INVALID_SCANOUT_ID;
    }
    TRACE(virtio_gpu_scanout, number, id, rect.width, rect.height, rect.x, rect.y);
    if (!id) {
        scanout_off(&s->scanouts[number]);
        return OK_NODATA;
    }
    const GpuResource *res = gpu_resource_find(&s->resources, id);
    if (!res) {
        return ERR_INVALID_RESOURCE_ID;
    }
    if (!gpu_resource_contains(res, &rect)) {
        return ERR_INVALID_PARAMETER;
    }
    s->scanouts[number].resource = id;
    s->scanouts[number].rect = rect;
    return OK_NODATA;
}

static uint32_t resource_flush(VirtioGpu *s, Request *rq)
{
    Flush body;
    if (!get_body(rq, &body, sizeof(body))) {
        return ERR_INVALID_PARAMETER;
    }
    GpuRect rect = rect_from_guest(body.rect);
    const GpuResource *res = gpu_resource_find(&s->resources, GUINT32_FROM_LE(body.resource));
    return !res                                ? ERR_INVALID_RESOURCE_ID
           : gpu_resource_contains(res, &rect) ? OK_NODATA
                                               : ERR_INVALID_PARAMETER;
}

static uint32_t transfer_to_host(VirtioGpu *s, Request *rq)
{
    Transfer body;
    if (!get_body(rq, &body, sizeof(body))) {
        return ERR_INVALID_PARAMETER;
    }
    GpuRect rect = rect_from_guest(body.rect);
    GpuResource *res = gpu_resource_find(&s->resources, GUINT32_FROM_LE(body.resource));
    if (!res) {
        return ERR_INVALID_RESOURCE_ID;
    }
    if (!gpu_resource_contains(res, &rect)) {
        return ERR_INVALID_PARAMETER;
    }
    return gpu_resource_transfer(res, s->parent_obj.dma_as, &rect, GUINT64_FROM_LE(body.offset)) ? OK_NODATA
                                                                                                 : ERR_UNSPEC;
}

/* NULL: the guest gave fewer entries than it says. */
static GpuBacking *read_entries(const Request *rq, uint32_t count)
{
    size_t bytes = count * sizeof(AttachEntry);
    g_autofree AttachEntry *from = g_new(AttachEntry, count);
    if (iov_read(rq->element.out, rq->element.out_count, sizeof(Header) + sizeof(Attach), from, bytes) !=
        bytes) {
        return NULL;
    }
    GpuBacking *entries = g_new0(GpuBacking, count);
    for (uint32_t i = 0; i < count; i++) {
        entries[i].gpa = GUINT64_FROM_LE(from[i].gpa);
        entries[i].length = GUINT32_FROM_LE(from[i].length);
    }
    return entries;
}

static uint32_t attach_backing(VirtioGpu *s, Request *rq)
{
    Attach body;
    if (!get_body(rq, &body, sizeof(body))) {
        return ERR_INVALID_PARAMETER;
    }
    uint32_t count = GUINT32_FROM_LE(body.entries);
    GpuResource *res = gpu_resource_find(&s->resources, GUINT32_FROM_LE(body.resource));
    if (!res) {
        return ERR_INVALID_RESOURCE_ID;
    }
    if (res->backing_count || !count || count > GPU_MAX_ENTRIES) {
        return ERR_UNSPEC;
    }
    GpuBacking *entries = read_entries(rq, count);
    if (!entries) {
        return ERR_INVALID_PARAMETER;
    }
    return gpu_resource_attach(&s->resources, res, entries, count) ? OK_NODATA : ERR_OUT_OF_MEMORY;
}

static uint32_t detach_backing(VirtioGpu *s, Request *rq)
{
    OneNumber body;
    if (!get_body(rq, &body, sizeof(body))) {
        return ERR_INVALID_PARAMETER;
    }
    GpuResource *res = gpu_resource_find(&s->resources, GUINT32_FROM_LE(body.number));
    if (!res) {
        return ERR_INVALID_RESOURCE_ID;
    }
    if (!res->backing_count) {
        return ERR_UNSPEC;
    }
    gpu_resource_detach(&s->resources, res);
    return OK_NODATA;
}

/* The picture is copied: its resource may change or go while the cursor shows it (5.7.6.10). */
static uint32_t take_cursor(VirtioGpu *s, GpuScanout *scanout, const Cursor *body)
{
    uint32_t id = GUINT32_FROM_LE(body->resource);
    const GpuResource *res = gpu_resource_find(&s->resources, id);
    scanout->cursor_on = false;
    if (!id) {
        return OK_NODATA;
    }
    if (!res) {
        return ERR_INVALID_RESOURCE_ID;
    }
    if (res->width != CURSOR_SIDE || res->height != CURSOR_SIDE) {
        return ERR_INVALID_PARAMETER;
    }
    for (uint32_t i = 0; i < CURSOR_SIDE * CURSOR_SIDE; i++) {
        scanout->cursor[i] = gpu_resource_pixel(res, i % CURSOR_SIDE, i / CURSOR_SIDE);
    }
    scanout->hot_x = GUINT32_FROM_LE(body->hot_x);
    scanout->hot_y = GUINT32_FROM_LE(body->hot_y);
    scanout->cursor_on = true;
    return OK_NODATA;
}

static uint32_t move_cursor(VirtioGpu *s, Request *rq, bool update)
{
    Cursor body;
    if (!get_body(rq, &body, sizeof(body))) {
        return ERR_INVALID_PARAMETER;
    }
    if (GUINT32_FROM_LE(body.scanout) >= s->max_outputs) {
        return ERR_INVALID_SCANOUT_ID;
    }
    GpuScanout *scanout = &s->scanouts[GUINT32_FROM_LE(body.scanout)];
    scanout->cursor_x = GUINT32_FROM_LE(body.x);
    scanout->cursor_y = GUINT32_FROM_LE(body.y);
    return update ? take_cursor(s, scanout, &body) : OK_NODATA;
}

static uint32_t control_command(VirtioGpu *s, Request *rq)
{
    switch (GUINT32_FROM_LE(rq->header.type)) {
    case CMD_GET_DISPLAY_INFO:
        return get_display_info(s, rq);
    case CMD_GET_EDID:
        return get_edid(s, rq);
    case CMD_RESOURCE_CREATE_2D:
        return resource_create(s, rq);
    case CMD_RESOURCE_UNREF:
        return resource_unref(s, rq);
    case CMD_SET_SCANOUT:
        return set_scanout(s, rq);
    case CMD_RESOURCE_FLUSH:
        return resource_flush(s, rq);
    case CMD_TRANSFER_TO_HOST_2D:
        return transfer_to_host(s, rq);
    case CMD_RESOURCE_ATTACH_BACKING:
        return attach_backing(s, rq);
    case CMD_RESOURCE_DETACH_BACKING:
        return detach_backing(s, rq);
    default:
        return ERR_UNSPEC;
    }
}

static uint32_t cursor_command(VirtioGpu *s, Request *rq)
{
    uint32_t type = GUINT32_FROM_LE(rq->header.type);
    return type == CMD_UPDATE_CURSOR || type == CMD_MOVE_CURSOR
               ? move_cursor(s, rq, type == CMD_UPDATE_CURSOR)
               : ERR_UNSPEC;
}

/* ---- queues ---- */

static void handle_request(VirtQueue *vq, Request *rq, uint32_t (*command)(VirtioGpu *s, Request *rq))
{
    Header response;
    bool whole = iov_read(rq->element.out, rq->element.out_count, 0, &rq->header, sizeof(rq->header)) ==
                 sizeof(rq->header);
    uint32_t result = whole ? command(VIRTIO_GPU(vq->vdev), rq) : ERR_UNSPEC;
    TRACE(virtio_gpu_command, GUINT32_FROM_LE(rq->header.type), result);
    if (result >= ERR_UNSPEC) {
        LOG(LOG_GUEST_ERROR, "virtio-gpu: command 0x%04x fails with 0x%04x", GUINT32_FROM_LE(rq->header.type),
            result);
    }
    if (!rq->written) {
        respond(rq, result, &response, sizeof(response));
    }
    virtqueue_push(vq, rq, rq->written);
}

/* A guest that adds commands as fast as they are done must not keep the loop. */
static void handle_queue(VirtQueue *vq, uint32_t (*command)(VirtioGpu *s, Request *rq))
{
    Request *rq;
    unsigned done = 0;
    while (done < COMMANDS_AT_ONCE && (rq = virtqueue_pop(vq, sizeof(*rq)))) {
        handle_request(vq, rq, command);
        done++;
    }
    if (done) {
        virtqueue_notify(vq);
    }
    if (done == COMMANDS_AT_ONCE) {
        event_notifier_set(&vq->notifier);
    }
}

static void handle_control(VirtioDevice *vdev, VirtQueue *vq)
{
    handle_queue(vq, control_command);
}

static void handle_cursor(VirtioDevice *vdev, VirtQueue *vq)
{
    handle_queue(vq, cursor_command);
}

/* ---- configuration and life ---- */

static uint64_t gpu_get_features(VirtioDevice *vdev)
{
    return VIRTIO_GPU(vdev)->edid ? VIRTIO_BIT(F_EDID) : 0;
}

static void gpu_get_config(VirtioDevice *vdev, uint8_t *config)
{
    GpuConfig c = { .num_scanouts = GUINT32_TO_LE(VIRTIO_GPU(vdev)->max_outputs) };
    memcpy(config, &c, sizeof(c));
}

/* events_clear can be written, but no event is ever there. */
static void gpu_set_config(VirtioDevice *vdev, uint32_t offset, const uint8_t *data, unsigned size)
{
}

static void gpu_reset(VirtioDevice *vdev)
{
    VirtioGpu *s = VIRTIO_GPU(vdev);
    for (uint32_t i = 0; i < MAX_SCANOUTS; i++) {
        memset(&s->scanouts[i], 0, offsetof(GpuScanout, gpu));
    }
    gpu_resources_clear(&s->resources);
}

static bool gpu_check_properties(VirtioGpu *s, GError **error)
{
    if (s->max_outputs < 1 || s->max_outputs > MAX_SCANOUTS) {
        return error_set(error, "Property 'max_outputs' is %u, from 1 to %u are possible", s->max_outputs,
                         MAX_SCANOUTS);
    }
    if (s->xres < 64 || s->yres < 64 || s->xres > GPU_MAX_SIDE || s->yres > DISPLAY_MAX_HEIGHT) {
        return error_set(error, "Properties 'xres' and 'yres' are %ux%u, from 64x64 to %ux%u is possible",
                         s->xres, s->yres, GPU_MAX_SIDE, DISPLAY_MAX_HEIGHT);
    }
    if ((uint64_t)s->xres * s->yres * 4 > s->max_hostmem) {
        return error_set(error,
                         "Property 'max_hostmem' is %" G_GUINT64_FORMAT
                         " bytes, which a picture of %ux%u needs more than",
                         s->max_hostmem, s->xres, s->yres);
    }
    return true;
}

static bool gpu_realize(VirtioDevice *vdev, GError **error)
{
    VirtioGpu *s = VIRTIO_GPU(vdev);
    DisplayRegistry *displays = DEVICE(vdev)->env->displays;
    Device *card = DEVICE(vdev)->bus->owner;
    if (!gpu_check_properties(s, error)) {
        return false;
    }
    vdev->config_size = sizeof(GpuConfig);
    virtio_queue_add(vdev, CONTROL_QUEUE_SIZE, handle_control, NULL);
    virtio_queue_add(vdev, CURSOR_QUEUE_SIZE, handle_cursor, NULL);
    gpu_resources_init(&s->resources, s->max_hostmem);
    for (uint32_t i = 0; i < s->max_outputs; i++) {
        s->scanouts[i].gpu = s;
        s->scanouts[i].console = displays ? display_console_new(displays, OBJECT(card ? card : DEVICE(vdev)),
                                                                &scanout_ops, &s->scanouts[i])
                                          : NULL;
    }
    return true;
}

static void gpu_unrealize(VirtioDevice *vdev)
{
    VirtioGpu *s = VIRTIO_GPU(vdev);
    for (uint32_t i = 0; i < s->max_outputs; i++) {
        display_console_free(s->scanouts[i].console);
        s->scanouts[i].console = NULL;
    }
    gpu_resources_destroy(&s->resources);
}

static const Property gpu_properties[] = {
    PROP_UINT32("max_outputs", VirtioGpu, max_outputs, 1, "screens, 1 to 16"),
    PROP_UINT32("xres", VirtioGpu, xres, 1280, "pixels of the preferred mode"),
    PROP_UINT32("yres", VirtioGpu, yres, 800, "its lines"),
    PROP_SIZE("max_hostmem", VirtioGpu, max_hostmem, DEFAULT_HOSTMEM,
              "memory that the guest's pictures may take of the host"),
    PROP_BOOL("edid", VirtioGpu, edid, true, "screens tell what they are"),
    PROP_END,
};

static bool gpu_post_load(void *opaque, int version, GError **error)
{
    VirtioGpu *s = opaque;
    for (uint32_t i = 0; i < MAX_SCANOUTS; i++) {
        GpuScanout *scanout = &s->scanouts[i];
        const GpuResource *res = gpu_resource_find(&s->resources, scanout->resource);
        if (scanout->resource &&
            (i >= s->max_outputs || !res || !gpu_resource_contains(res, &scanout->rect))) {
            gpu_reset(&s->parent_obj);
            return error_set(error, "virtio-gpu: screen %u cannot show resource %u", i, scanout->resource);
        }
    }
    return true;
}

static const VmStateField rect_fields[] = {
    VMS_UINT32(x, GpuRect),
    VMS_UINT32(y, GpuRect),
    VMS_UINT32(width, GpuRect),
    VMS_UINT32(height, GpuRect),
    VMS_END,
};
static const VmState rect_vmstate = { .name = "rectangle", .version = 1, .fields = rect_fields };
static const VmStateField scanout_fields[] = {
    VMS_UINT32(resource, GpuScanout),
    VMS_STRUCT(rect, GpuScanout, rect_vmstate),
    VMS_BOOL(cursor_on, GpuScanout),
    VMS_UINT32(cursor_x, GpuScanout),
    VMS_UINT32(cursor_y, GpuScanout),
    VMS_UINT32(hot_x, GpuScanout),
    VMS_UINT32(hot_y, GpuScanout),
    VMS_UINT32(cursor, GpuScanout),
    VMS_END,
};
static const VmState scanout_vmstate = { .name = "scanout", .version = 1, .fields = scanout_fields };
static const VmStateField gpu_fields[] = {
    VMS_STRUCT(parent_obj, VirtioGpu, virtio_device_vmstate),
    VMS_CUSTOM(resources, VirtioGpu, gpu_resources_save, gpu_resources_load),
    VMS_STRUCT_ARRAY(scanouts, VirtioGpu, MAX_SCANOUTS, scanout_vmstate),
    VMS_END,
};
static const VmState gpu_vmstate = {
    .name = "virtio-gpu", .version = 1, .fields = gpu_fields, .post_load = gpu_post_load
};

static void gpu_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &gpu_vmstate;
    DEVICE_CLASS(klass)->category = "Display";
    vc->virtio_id = VIRTIO_ID_GPU;
    vc->realize = gpu_realize;
    vc->unrealize = gpu_unrealize;
    vc->get_features = gpu_get_features;
    vc->get_config = gpu_get_config;
    vc->set_config = gpu_set_config;
    vc->reset = gpu_reset;
    object_class_add_properties(klass, gpu_properties);
}

static const TypeInfo gpu_info = {
    .name = TYPE_VIRTIO_GPU,
    .parent = TYPE_VIRTIO_DEVICE,
    .description = "virtio graphics, 2D",
    .instance_size = sizeof(VirtioGpu),
    .class_init = gpu_class_init,
};
TYPE_REGISTER(gpu_info);
