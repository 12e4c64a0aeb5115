/*
 * For unit tests: a machine of RAM and one virtio-mmio transport without a CPU, and a small driver that sets
 * a device up through its registers and feeds its queues from RAM. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_VIRTIO_VIRTIO_TEST_H
#define RHEA_HW_VIRTIO_VIRTIO_TEST_H

#include "base/error.h"
#include "hw/virtio/virtio_device.h"
#include "hw/virtio/virtio_mmio.h"

#include <string.h>

#define VT_RAM_SIZE   (4u << 20)
#define VT_MMIO       0x10000000u
#define VT_QUEUE_SIZE 16u
#define VT_QUEUES     8u
#define VT_RINGS      0x1000u   /* a page for each queue's rings */
#define VT_DATA       0x100000u /* buffers from here on */
#define VT_INDIRECT   0x80000u

typedef struct VirtioTest {
    Loop *loop;
    ClockSet *clocks;
    Object *root;
    MemoryRegion memory, ram;
    AddressSpace *as;
    DeviceEnv env;
    Device *transport;
    Object *device;
    IrqLine *irq;
    bool irq_level;
    unsigned irq_count;
    uint16_t avail[VT_QUEUES], used[VT_QUEUES];
    uint32_t data_next;
    uint64_t features;
} VirtioTest;

typedef struct VtBuffer {
    uint32_t addr, size;
    bool write;
} VtBuffer;

static inline void vt_irq(void *opaque, int n, bool level)
{
    VirtioTest *t = opaque;
    t->irq_count += level && !t->irq_level;
    t->irq_level = level;
}

static inline void vt_machine_init(VirtioTest *t)
{
    g_autoptr(GError) error = NULL;
    memset(t, 0, sizeof(*t));
    t->loop = loop_new(NULL, &error);
    g_assert_no_error(error);
    t->clocks = clock_set_new();
    clock_set_run(t->clocks, true);
    t->root = object_root_new();
    memory_region_init(&t->memory, NULL, "system", UINT64_MAX);
    g_assert_true(memory_region_init_ram(&t->ram, NULL, "ram", VT_RAM_SIZE, &error));
    memory_region_add(&t->memory, 0, &t->ram);
    t->as = address_space_new(&t->memory, "memory");
    t->env = (DeviceEnv){
        .memory = t->as, .system_memory = &t->memory, .clocks = t->clocks, .loop = t->loop, .root = t->root
    };
    t->data_next = VT_DATA;
}

/* A device that still wants its properties; realize it with vt_realize. */
static inline Object *vt_new(VirtioTest *t, const char *type)
{
    g_autoptr(GError) error = NULL;
    vt_machine_init(t);
    t->transport = device_new_unattached(t->root, TYPE_VIRTIO_MMIO, NULL);
    t->irq = irq_new(vt_irq, t, 0);
    virtio_mmio_set_irq(t->transport, t->irq);
    g_assert_true(device_realize(t->transport, NULL, &t->env, &error));
    memory_region_add(&t->memory, VT_MMIO, virtio_mmio_region(t->transport));
    t->device = OBJECT(device_new_unattached(t->root, type, NULL));
    return t->device;
}

static inline bool vt_realize(VirtioTest *t, GError **error)
{
    if (!device_realize(DEVICE(t->device), t->transport->child_buses->pdata[0], &t->env, error)) {
        return false;
    }
    device_reset(t->transport);
    return true;
}

static inline void vt_machine_free(VirtioTest *t)
{
    object_unref(t->root);
    memory_region_destroy(&t->ram);
    address_space_free(t->as);
    memory_region_destroy(&t->memory);
    clock_set_free(t->clocks);
    loop_free(t->loop);
}

static inline void vt_free(VirtioTest *t)
{
    device_unrealize(DEVICE(t->device));
    device_unrealize(t->transport);
    irq_free(t->irq);
    vt_machine_free(t);
}

static inline uint32_t vt_read(VirtioTest *t, uint32_t reg)
{
    return (uint32_t)address_space_ld(t->as, VT_MMIO + reg, 4, MEMTXATTRS_NONE);
}

static inline void vt_write(VirtioTest *t, uint32_t reg, uint32_t value)
{
    address_space_store(t->as, VT_MMIO + reg, 4, value, MEMTXATTRS_NONE);
}

static inline uint64_t vt_config(VirtioTest *t, uint32_t offset, unsigned size)
{
    return address_space_ld(t->as, VT_MMIO + 0x100 + offset, size, MEMTXATTRS_NONE);
}

static inline uint64_t vt_ram(VirtioTest *t, uint32_t addr, unsigned size)
{
    return address_space_ld(t->as, addr, size, MEMTXATTRS_NONE);
}

static inline void vt_set_ram(VirtioTest *t, uint32_t addr, unsigned size, uint64_t value)
{
    address_space_store(t->as, addr, size, value, MEMTXATTRS_NONE);
}

/* Where the parts of a queue's rings lie. */
static inline uint32_t vt_desc(unsigned queue)
{
    return VT_RINGS + queue * 0x1000;
}
static inline uint32_t vt_avail(unsigned queue)
{
    return vt_desc(queue) + 0x400;
}
static inline uint32_t vt_used(unsigned queue)
{
    return vt_desc(queue) + 0x800;
}

static inline void vt_queue(VirtioTest *t, unsigned queue)
{
    vt_write(t, 0x030, queue);
    vt_write(t, 0x038, MIN(VT_QUEUE_SIZE, vt_read(t, 0x034)));
    vt_write(t, 0x080, vt_desc(queue));
    vt_write(t, 0x084, 0);
    vt_write(t, 0x090, vt_avail(queue));
    vt_write(t, 0x094, 0);
    vt_write(t, 0x0a0, vt_used(queue));
    vt_write(t, 0x0a4, 0);
    address_space_set(t->as, vt_desc(queue), 0, 0x1000, MEMTXATTRS_NONE);
    t->avail[queue] = t->used[queue] = 0;
    vt_write(t, 0x044, 1);
}

/* Lets everything that is ready run. */
static inline void vt_settle(VirtioTest *t)
{
    for (int i = 0; i < 20; i++) {
        if (!loop_iterate(t->loop, false)) {
            g_usleep(100);
        }
    }
}

/* The driver's start (3.1): takes those of `wanted` that are offered (VERSION_1 always), sets `queues` queues
 * up. False where the device does not agree. */
static inline bool vt_try_start(VirtioTest *t, uint64_t wanted, unsigned queues)
{
    vt_write(t, 0x070, 0);
    vt_write(t, 0x070, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    vt_write(t, 0x014, 0);
    uint64_t offered = vt_read(t, 0x010);
    vt_write(t, 0x014, 1);
    offered |= (uint64_t)vt_read(t, 0x010) << 32;
    t->features = offered & (wanted | VIRTIO_BIT(VIRTIO_F_VERSION_1));
    vt_write(t, 0x024, 0);
    vt_write(t, 0x020, (uint32_t)t->features);
    vt_write(t, 0x024, 1);
    vt_write(t, 0x020, (uint32_t)(t->features >> 32));
    vt_write(t, 0x070, vt_read(t, 0x070) | VIRTIO_STATUS_FEATURES_OK);
    bool agreed = vt_read(t, 0x070) & VIRTIO_STATUS_FEATURES_OK;
    for (unsigned i = 0; i < queues; i++) {
        vt_queue(t, i);
    }
    vt_write(t, 0x070, vt_read(t, 0x070) | VIRTIO_STATUS_DRIVER_OK);
    return agreed;
}

static inline void vt_start(VirtioTest *t, uint64_t wanted, unsigned queues)
{
    g_assert_true(vt_try_start(t, wanted, queues));
    vt_settle(t);
}

/* Room in RAM, filled with bytes (NULL: zero). */
static inline uint32_t vt_alloc(VirtioTest *t, const void *bytes, uint32_t size)
{
    uint32_t addr = t->data_next;
    t->data_next += (size + 15) & ~15u;
    g_assert_cmpuint(t->data_next, <=, VT_RAM_SIZE);
    if (bytes) {
        address_space_write(t->as, addr, MEMTXATTRS_NONE, bytes, size);
    } else {
        address_space_set(t->as, addr, 0, size, MEMTXATTRS_NONE);
    }
    return addr;
}

static inline void vt_put_desc(VirtioTest *t, uint32_t at, uint64_t addr, uint32_t size, uint16_t flags,
                               uint16_t next)
{
    vt_set_ram(t, at, 8, addr);
    vt_set_ram(t, at + 8, 4, size);
    vt_set_ram(t, at + 12, 2, flags);
    vt_set_ram(t, at + 14, 2, next);
}

static inline void vt_make_available(VirtioTest *t, unsigned queue, uint16_t head)
{
    vt_set_ram(t, vt_avail(queue) + 4 + 2 * (t->avail[queue] % VT_QUEUE_SIZE), 2, head);
    vt_set_ram(t, vt_avail(queue) + 2, 2, ++t->avail[queue]);
}

/* Adds a chain whose descriptors begin at `head`; the caller keeps chains apart. */
static inline void vt_add(VirtioTest *t, unsigned queue, uint16_t head, const VtBuffer *buffers,
                          unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = (buffers[i].write ? 2 : 0) | (i + 1 < count ? 1 : 0);
        vt_put_desc(t, vt_desc(queue) + 16u * (head + i), buffers[i].addr, buffers[i].size, flags,
                    (uint16_t)(head + i + 1));
    }
    vt_make_available(t, queue, head);
}

static inline void vt_kick(VirtioTest *t, unsigned queue)
{
    vt_write(t, 0x050, queue);
}

static inline uint16_t vt_used_idx(VirtioTest *t, unsigned queue)
{
    return (uint16_t)vt_ram(t, vt_used(queue) + 2, 2);
}

/* Runs the loop for a while, or until a queue has a used chain that was not yet seen. */
static inline bool vt_wait(VirtioTest *t, unsigned queue, unsigned timeout_ms)
{
    gint64 end = g_get_monotonic_time() + timeout_ms * 1000ll;
    while (vt_used_idx(t, queue) == t->used[queue]) {
        if (g_get_monotonic_time() > end) {
            return false;
        }
        if (!loop_iterate(t->loop, false)) {
            g_usleep(200);
        }
    }
    return true;
}

/* Waits for the next used chain; its head, and how many bytes were written. */
static inline uint32_t vt_take(VirtioTest *t, unsigned queue, uint32_t *written)
{
    g_assert_true(vt_wait(t, queue, 5000));
    uint32_t entry = vt_used(queue) + 4 + 8 * (t->used[queue]++ % VT_QUEUE_SIZE);
    if (written) {
        *written = (uint32_t)vt_ram(t, entry + 4, 4);
    }
    return (uint32_t)vt_ram(t, entry, 4);
}

#endif
