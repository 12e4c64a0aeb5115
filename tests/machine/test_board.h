/*
 * The least board that a device can be realized on, for tests: memory, ports, clocks that stand still,
 * recorded interrupt lines and VM requests. Header only, since a unit test is one file.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_TESTS_MACHINE_TEST_BOARD_H
#define RHEA_TESTS_MACHINE_TEST_BOARD_H

#include "base/error.h"
#include "hw/core/device.h"
#include "loop/loop.h"
#include "mem/memory.h"

#include <glib.h>
#include <string.h>

#define TEST_RAM_SIZE (2u << 20)

typedef struct TestLine {
    IrqLine line;
    bool level;
    unsigned rises; /* how often it went from low to high */
} TestLine;

typedef struct TestBoard {
    Object *root;
    Loop *loop;
    ClockSet *clocks;
    MemoryRegion memory_root, io_root, ram;
    AddressSpace *memory, *io;
    ApicBus *apic_bus;
    TestLine isa[16], gsi[24];
    IrqLine *isa_lines[16], *gsi_lines[24];
    VmServices vm;
    DeviceEnv env;
    /* what devices asked for */
    unsigned resets, shutdowns, suspends, events;
    int exit_status;
    ShutdownCause cause;
    char last_event[64];
    char deleted[64]; /* the ids of DEVICE_DELETED, each with a space behind it */
    void (*power_button)(void *dev);
    void *power_button_dev;
} TestBoard;

static inline void test_line_set(void *opaque, int n, bool level)
{
    TestLine *line = opaque;
    line->rises += level && !line->level;
    line->level = level;
}

static inline void test_request_reset(void *opaque, ShutdownCause cause)
{
    TestBoard *b = opaque;
    b->resets++;
    b->cause = cause;
}

static inline void test_request_shutdown(void *opaque, ShutdownCause cause)
{
    TestBoard *b = opaque;
    b->shutdowns++;
    b->cause = cause;
}

static inline void test_request_exit(void *opaque, int status)
{
    ((TestBoard *)opaque)->exit_status = status;
}

static inline void test_request_suspend(void *opaque)
{
    ((TestBoard *)opaque)->suspends++;
}

static inline void test_add_powerdown_handler(void *opaque, void (*fn)(void *dev), void *dev)
{
    TestBoard *b = opaque;
    b->power_button = fn;
    b->power_button_dev = dev;
}

static inline void test_add_run_handler(void *opaque, void (*fn)(void *dev, bool running), void *dev)
{
}

static inline void test_remove_handlers(void *opaque, void *dev)
{
    TestBoard *b = opaque;
    if (b->power_button_dev == dev) {
        b->power_button = NULL;
    }
}

static inline void test_emit_event(void *opaque, const char *event, json_object *data)
{
    TestBoard *b = opaque;
    b->events++;
    g_strlcpy(b->last_event, event, sizeof(b->last_event));
    json_object *id;
    if (!strcmp(event, "DEVICE_DELETED") && json_object_object_get_ex(data, "device", &id)) {
        g_strlcat(b->deleted, json_object_get_string(id), sizeof(b->deleted));
        g_strlcat(b->deleted, " ", sizeof(b->deleted));
    }
    json_object_put(data);
}

static inline TestBoard *test_board_new(void)
{
    TestBoard *b = g_new0(TestBoard, 1);
    GError *error = NULL;
    b->root = object_root_new();
    b->loop = loop_new("epoll", &error);
    g_assert_no_error(error);
    b->clocks = clock_set_new();
    clock_set_virtual_ns(b->clocks, 1000000);
    memory_region_init(&b->memory_root, NULL, "system", UINT64_MAX);
    memory_region_init(&b->io_root, NULL, "io", 0x10000);
    g_assert_true(memory_region_init_ram(&b->ram, NULL, "ram", TEST_RAM_SIZE, &error));
    memory_region_add(&b->memory_root, 0, &b->ram);
    b->memory = address_space_new(&b->memory_root, "memory");
    b->io = address_space_new(&b->io_root, "io");
    b->apic_bus = apic_bus_new();
    for (int i = 0; i < 16; i++) {
        b->isa[i].line = (IrqLine){ .handler = test_line_set, .opaque = &b->isa[i], .n = i };
        b->isa_lines[i] = &b->isa[i].line;
    }
    for (int i = 0; i < 24; i++) {
        b->gsi[i].line = (IrqLine){ .handler = test_line_set, .opaque = &b->gsi[i], .n = i };
        b->gsi_lines[i] = &b->gsi[i].line;
    }
    b->exit_status = -1;
    b->vm = (VmServices){
        .request_reset = test_request_reset,
        .request_shutdown = test_request_shutdown,
        .request_exit = test_request_exit,
        .request_suspend = test_request_suspend,
        .add_powerdown_handler = test_add_powerdown_handler,
        .add_run_handler = test_add_run_handler,
        .remove_handlers = test_remove_handlers,
        .emit_event = test_emit_event,
        .opaque = b,
    };
    b->env = (DeviceEnv){
        .memory = b->memory,
        .io = b->io,
        .system_memory = &b->memory_root,
        .system_io = &b->io_root,
        .apic_bus = b->apic_bus,
        .clocks = b->clocks,
        .loop = b->loop,
        .vm = &b->vm,
        .root = b->root,
        .isa_irqs = b->isa_lines,
        .gsi = b->gsi_lines,
    };
    return b;
}

static inline void test_board_free(TestBoard *b)
{
    device_unrealize_all(b->root);
    object_unref(b->root);
    address_space_free(b->memory);
    address_space_free(b->io);
    memory_region_del(&b->memory_root, &b->ram);
    memory_region_destroy(&b->ram);
    memory_region_destroy(&b->memory_root);
    memory_region_destroy(&b->io_root);
    apic_bus_free(b->apic_bus);
    loop_free(b->loop);
    clock_set_free(b->clocks);
    g_free(b);
}

/* A device with properties ("name", "value", ..., NULL), realized and reset. */
static inline Device *test_board_add(TestBoard *b, const char *type, Bus *bus, ...)
{
    Device *dev = device_new_unattached(b->root, type, NULL);
    GError *error = NULL;
    va_list pairs;
    const char *name;
    va_start(pairs, bus);
    while ((name = va_arg(pairs, const char *))) {
        object_property_parse(OBJECT(dev), name, va_arg(pairs, const char *), &error);
        g_assert_no_error(error);
    }
    va_end(pairs);
    device_realize(dev, bus, bus ? NULL : &b->env, &error);
    g_assert_no_error(error);
    device_reset(dev);
    return dev;
}

/* Lets virtual time pass (to the nanosecond, as nearly as a host can) and runs the timers that come due on
 * the way. */
static inline void test_board_advance(TestBoard *b, int64_t ns)
{
    int64_t end = clock_now_ns(b->clocks, CLOCK_TYPE_VIRTUAL) + ns;
    clock_set_virtual_ns(b->clocks, end);
    clock_set_run(b->clocks, true);
    while (loop_iterate(b->loop, false)) {}
    clock_set_run(b->clocks, false);
    clock_set_virtual_ns(b->clocks, end);
}

static inline uint32_t test_in(TestBoard *b, uint16_t port, unsigned size)
{
    uint64_t value = 0;
    address_space_load(b->io, port, size, &value, MEMTXATTRS_NONE);
    return value;
}

static inline void test_out(TestBoard *b, uint16_t port, unsigned size, uint32_t value)
{
    address_space_store(b->io, port, size, value, MEMTXATTRS_NONE);
}

static inline uint8_t test_inb(TestBoard *b, uint16_t port)
{
    return test_in(b, port, 1);
}

static inline void test_outb(TestBoard *b, uint16_t port, uint8_t value)
{
    test_out(b, port, 1, value);
}

static inline uint64_t test_read(TestBoard *b, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;
    address_space_load(b->memory, gpa, size, &value, MEMTXATTRS_NONE);
    return value;
}

static inline void test_write(TestBoard *b, uint64_t gpa, unsigned size, uint64_t value)
{
    address_space_store(b->memory, gpa, size, value, MEMTXATTRS_NONE);
}

#endif
