/*
 * The resources of virtio-gpu: pictures in the host's memory, which a guest fills from its own
 * (VIRTIO 1.2, 5.7.6.8). Whatever a guest makes, all of it together stays below a limit.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_DISPLAY_VIRTIO_GPU_RESOURCE_H
#define RHEA_HW_DISPLAY_VIRTIO_GPU_RESOURCE_H

#include "display/display.h"
#include "mem/memory.h"
#include "vmstate/vmstate.h"

#define GPU_MAX_SIDE    16384u
#define GPU_MAX_ENTRIES 16384u /* of a backing */

typedef struct GpuRect {
    uint32_t x, y, width, height;
} GpuRect;

/* A piece of guest memory behind a resource. */
typedef struct GpuBacking {
    uint64_t gpa, offset; /* offset: where it begins among all pieces */
    uint32_t length;
} GpuBacking;

typedef struct GpuResource {
    uint32_t id, format, width, height;
    uint8_t *pixels; /* as the guest has them: 4 bytes each, lines without gaps */
    GpuBacking *backing;
    uint32_t backing_count; /* 0: none is attached */
} GpuResource;

typedef struct GpuResources {
    GHashTable *table; /* id to GpuResource */
    uint64_t used, limit;
} GpuResources;

typedef enum GpuMake { GPU_MADE, GPU_MAKE_EXISTS, GPU_MAKE_BAD, GPU_MAKE_NO_MEMORY } GpuMake;

void gpu_resources_init(GpuResources *all, uint64_t limit_bytes);
void gpu_resources_clear(GpuResources *all);   /* all resources go */
void gpu_resources_destroy(GpuResources *all); /* the table, too */

/* A black picture. Id 0 is none, formats are those of the specification. */
GpuMake gpu_resource_make(GpuResources *all, uint32_t id, uint32_t format, uint32_t width, uint32_t height);
GpuResource *gpu_resource_find(GpuResources *all, uint32_t id);
void gpu_resource_drop(GpuResources *all, GpuResource *res);
/* Takes entries over (g_free), count of them, where there is room; their offsets are set here. */
bool gpu_resource_attach(GpuResources *all, GpuResource *res, GpuBacking *entries, uint32_t count);
void gpu_resource_detach(GpuResources *all, GpuResource *res);
/* Whether a rectangle with at least a pixel lies within it. */
bool gpu_resource_contains(const GpuResource *res, const GpuRect *rect);
/* Copies a rectangle's lines from the backing, which has them at offset, a whole picture's line apart. False:
 * some of it has no memory behind it; what has is copied. */
bool gpu_resource_transfer(GpuResource *res, AddressSpace *as, const GpuRect *rect, uint64_t offset);
/* A pixel as 0xAARRGGBB, opaque where its format has no alpha. */
uint32_t gpu_resource_pixel(const GpuResource *res, uint32_t x, uint32_t y);
/* A rectangle that it contains, as what is on a screen of that size. */
void gpu_resource_draw(const GpuResource *res, const GpuRect *rect, DisplaySurface *surface);

/* For VMS_CUSTOM: `field` is the GpuResources. */
bool gpu_resources_save(VmStateWriter *w, const void *field, GError **error);
bool gpu_resources_load(VmStateReader *r, void *field, GError **error);

#endif
