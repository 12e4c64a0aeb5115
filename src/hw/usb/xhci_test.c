/* An xHCI driver in small: slots, a control transfer, reports of a tablet, and rings that are wrong.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/pci/pci.h"
#include "hw/usb/xhci_internal.h"
#include "input/input.h"

#define MEM      0xe0000000u
#define DCBAA    0x10000
#define COMMANDS 0x11000
#define EVENTS   0x12000
#define SEGMENTS 0x13000
#define CONTEXT  0x14000 /* of the device */
#define INPUT    0x15000
#define EP0_RING 0x16000
#define EP1_RING 0x17000
#define DATA     0x18000

static TestBoard *b;
static MemoryRegion pci_memory;
static InputRegistry *inputs;
static unsigned commands, events, ep0, ep1;
static bool irq;

static int no_irq(void *opaque, unsigned slot, int pin)
{
    return 0;
}

static void set_irq(void *opaque, int input, bool level)
{
    irq = level;
}

static uint32_t reg(unsigned offset)
{
    return (uint32_t)test_read(b, MEM + offset, 4);
}

static void set_reg(unsigned offset, uint64_t value)
{
    test_write(b, MEM + offset, 4, value);
}

static Device *setup(void)
{
    GError *error = NULL;
    b = test_board_new();
    inputs = input_registry_new(b->loop, b->clocks);
    b->env.inputs = inputs;
    memory_region_init(&pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&b->memory_root, 0, &pci_memory, -1);
    PciBus *bus =
        pci_root_bus_new(NULL, "pci.0", &b->env, &pci_memory, &b->io_root, b->memory, no_irq, set_irq, NULL);
    test_board_add(b, "qemu-xhci", BUS(bus), "addr", "2", NULL);
    Device *dev = test_board_add(b, "usb-tablet", bus_find(b->root, "usb-bus", NULL, &error), NULL);
    g_assert_no_error(error);
    device_reset_all(b->root);
    pci_bus_config_write(bus, 0x10, 0x10, MEM, 4);
    pci_bus_config_write(bus, 0x10, PCI_COMMAND, 6, 2);
    g_assert_cmphex(reg(0), ==, 0x01000040);
    address_space_set(b->memory, DCBAA, 0, 0x10000, MEMTXATTRS_NONE);
    commands = events = ep0 = ep1 = 0;
    set_reg(0x40, 2);
    set_reg(0x78, 8);
    set_reg(0x70, DCBAA);
    set_reg(0x58, COMMANDS | 1);
    set_reg(0x5c, 0);
    test_write(b, SEGMENTS, 8, EVENTS);
    test_write(b, SEGMENTS + 8, 4, 64);
    set_reg(0x1028, 1);
    set_reg(0x1030, SEGMENTS);
    set_reg(0x1034, 0);
    set_reg(0x1038, EVENTS);
    set_reg(0x103c, 0);
    set_reg(0x1020, 2);
    set_reg(0x40, 5);
    return dev;
}

static void teardown(void)
{
    device_unrealize_all(b->root);
    input_registry_free(inputs);
    memory_region_del(&b->memory_root, &pci_memory);
    test_board_free(b);
    memory_region_destroy(&pci_memory);
}

static void put_trb(uint64_t at, uint64_t parameter, uint32_t status, uint32_t control)
{
    test_write(b, at, 8, parameter);
    test_write(b, at + 8, 4, status);
    test_write(b, at + 12, 4, control | 1);
}

/* The next event: its code; type and fields where wanted. */
static unsigned take_event(unsigned type, uint32_t *control, uint64_t *parameter)
{
    uint64_t at = EVENTS + 16 * (events % 64);
    uint32_t word = (uint32_t)test_read(b, at + 12, 4);
    g_assert_cmpuint(word & 1, ==, !(events / 64 % 2));
    g_assert_cmpuint(word >> 10 & 63, ==, type);
    events++;
    set_reg(0x1038, (EVENTS + 16 * (events % 64)) | 8);
    if (control) {
        *control = word;
    }
    if (parameter) {
        *parameter = test_read(b, at, 8);
    }
    return (unsigned)test_read(b, at + 8, 4) >> 24;
}

static unsigned command(uint64_t parameter, uint32_t control, unsigned *slot)
{
    uint32_t word;
    put_trb(COMMANDS + 16 * commands++, parameter, 0, control);
    set_reg(0x2000, 0);
    unsigned code = take_event(TRB_COMMAND_EVENT, &word, NULL);
    if (slot) {
        *slot = word >> 24;
    }
    return code;
}

static void address(void)
{
    unsigned slot;
    g_assert_cmpuint(take_event(TRB_PORT_EVENT, NULL, NULL), ==, CC_SUCCESS);
    g_assert_true(irq);
    set_reg(0x1020, 3);
    g_assert_false(irq);
    g_assert_cmphex(reg(0x440) & 0x20001, ==, 0x20001);
    set_reg(0x440, 0x20200 | 0x10); /* reset the port */
    g_assert_cmphex(reg(0x440) & 0x200003, ==, 0x200003);
    g_assert_cmpuint(take_event(TRB_PORT_EVENT, NULL, NULL), ==, CC_SUCCESS);
    g_assert_cmpuint(command(0, TRB_ENABLE_SLOT << 10, &slot), ==, CC_SUCCESS);
    g_assert_cmpuint(slot, ==, 1);
    test_write(b, DCBAA + 8, 8, CONTEXT);
    test_write(b, INPUT + 4, 4, 3);
    test_write(b, INPUT + 32, 4, 1u << 27 | 1u << 20);
    test_write(b, INPUT + 36, 4, 1u << 16); /* port 1 */
    test_write(b, INPUT + 64 + 4, 4, 8u << 16 | 4u << 3);
    test_write(b, INPUT + 64 + 8, 8, EP0_RING | 1);
    g_assert_cmpuint(command(INPUT, TRB_ADDRESS_DEVICE << 10 | 1u << 24, NULL), ==, CC_SUCCESS);
    g_assert_cmphex(test_read(b, CONTEXT + 12, 4), ==, SLOT_ADDRESSED << 27 | 1);
    g_assert_cmpuint(test_read(b, CONTEXT + 32, 4) & 7, ==, EP_RUNNING);
}

static unsigned control_transfer(uint64_t request, unsigned length, bool in, uint64_t data)
{
    put_trb(EP0_RING + 16 * ep0++, request, 8,
            TRB_SETUP << 10 | TRB_IMMEDIATE | (length ? in ? 3u << 16 : 2u << 16 : 0));
    if (length) {
        put_trb(EP0_RING + 16 * ep0++, data, length, TRB_DATA << 10 | (in ? TRB_DIR_IN : 0) | TRB_ISP);
    }
    put_trb(EP0_RING + 16 * ep0++, 0, 0, TRB_STATUS << 10 | TRB_IOC | (in ? 0 : TRB_DIR_IN));
    set_reg(0x2004, 1);
    return take_event(TRB_TRANSFER_EVENT, NULL, NULL);
}

static void configure(void)
{
    g_assert_cmpuint(control_transfer(0x0000000000010900, 0, false, 0), ==, CC_SUCCESS);
    test_write(b, INPUT + 4, 4, 1 | 8);
    test_write(b, INPUT + 32, 4, 3u << 27 | 1u << 20);
    test_write(b, INPUT + 32 * 4 + 4, 4, 8u << 16 | 7u << 3); /* interrupt IN */
    test_write(b, INPUT + 32 * 4 + 8, 8, EP1_RING | 1);
    g_assert_cmpuint(command(INPUT, TRB_CONFIGURE_ENDPOINT << 10 | 1u << 24, NULL), ==, CC_SUCCESS);
    g_assert_cmphex(test_read(b, CONTEXT + 12, 4) >> 27, ==, SLOT_CONFIGURED);
}

static void test_tablet(void)
{
    setup();
    address();
    g_assert_cmpuint(control_transfer(0x0012000001000680, 18, true, DATA), ==, CC_SUCCESS);
    g_assert_cmphex(test_read(b, DATA, 4), ==, 0x02000112);
    g_assert_cmphex(test_read(b, DATA + 8, 4), ==, 0x00010627);
    /* Short: an event of the data stage, then that of the status stage. */
    g_assert_cmpuint(control_transfer(0x00ff000001000680, 255, true, DATA), ==, CC_SHORT_PACKET);
    g_assert_cmpuint(take_event(TRB_TRANSFER_EVENT, NULL, NULL), ==, CC_SUCCESS);
    configure();
    put_trb(EP1_RING + 16 * ep1++, DATA + 0x100, 8, TRB_NORMAL << 10 | TRB_IOC | TRB_ISP);
    set_reg(0x2004, 3); /* nothing yet */
    InputEvent move[] = { { INPUT_ABS, INPUT_AXIS_X, 0x1234 }, { INPUT_ABS, INPUT_AXIS_Y, 0x4321 } };
    input_send(inputs, move, 2);
    while (loop_iterate(b->loop, false)) {}
    uint64_t parameter;
    g_assert_cmpuint(take_event(TRB_TRANSFER_EVENT, NULL, &parameter), ==, CC_SHORT_PACKET);
    g_assert_cmphex(parameter, ==, EP1_RING);
    g_assert_cmphex(test_read(b, DATA + 0x101, 4), ==, 0x43211234);
    /* A request that is refused halts the endpoint until it is reset. */
    g_assert_cmpuint(control_transfer(0x0008000033000680, 8, true, DATA), ==, CC_STALL);
    g_assert_cmpuint(test_read(b, CONTEXT + 32, 4) & 7, ==, EP_HALTED);
    g_assert_cmpuint(command(0, TRB_STOP_ENDPOINT << 10 | 1u << 24 | 1u << 16, NULL), ==, CC_CONTEXT_STATE);
    g_assert_cmpuint(command(0, TRB_RESET_ENDPOINT << 10 | 1u << 24 | 1u << 16, NULL), ==, CC_SUCCESS);
    g_assert_cmpuint(command((EP0_RING + 16 * ep0) | 1, TRB_SET_DEQUEUE << 10 | 1u << 24 | 1u << 16, NULL),
                     ==, CC_SUCCESS);
    g_assert_cmpuint(control_transfer(0x0012000001000680, 18, true, DATA), ==, CC_SUCCESS);
    /* Stopped while it waits. */
    put_trb(EP1_RING + 16 * ep1++, DATA + 0x100, 8, TRB_NORMAL << 10 | TRB_IOC | TRB_ISP);
    set_reg(0x2004, 3);
    put_trb(COMMANDS + 16 * commands++, 0, 0, TRB_STOP_ENDPOINT << 10 | 1u << 24 | 3u << 16);
    set_reg(0x2000, 0);
    g_assert_cmpuint(take_event(TRB_TRANSFER_EVENT, NULL, NULL), ==, CC_STOPPED);
    g_assert_cmpuint(take_event(TRB_COMMAND_EVENT, NULL, NULL), ==, CC_SUCCESS);
    g_assert_cmpuint(command(0, TRB_DISABLE_SLOT << 10 | 1u << 24, NULL), ==, CC_SUCCESS);
    teardown();
}

static void test_refusals(void)
{
    setup();
    take_event(TRB_PORT_EVENT, NULL, NULL);
    g_assert_cmpuint(command(0, TRB_DISABLE_SLOT << 10 | 1u << 24, NULL), ==, CC_SLOT_NOT_ENABLED);
    g_assert_cmpuint(command(0, 45u << 10, NULL), ==, CC_TRB);
    for (unsigned i = 0; i < 8; i++) {
        g_assert_cmpuint(command(0, TRB_ENABLE_SLOT << 10, NULL), ==, CC_SUCCESS);
    }
    g_assert_cmpuint(command(0, TRB_ENABLE_SLOT << 10, NULL), ==, CC_NO_SLOTS);
    g_assert_cmpuint(command(INPUT, TRB_ADDRESS_DEVICE << 10 | 1u << 24, NULL), ==, CC_PARAMETER);
    g_assert_cmpuint(command(0xfffffff0, TRB_ADDRESS_DEVICE << 10 | 1u << 24, NULL), ==, CC_PARAMETER);
    g_assert_cmpuint(command(INPUT, TRB_CONFIGURE_ENDPOINT << 10 | 1u << 24, NULL), ==, CC_CONTEXT_STATE);
    g_assert_cmpuint(command(0, TRB_STOP_ENDPOINT << 10 | 1u << 24 | 5u << 16, NULL), ==,
                     CC_ENDPOINT_NOT_ENABLED);
    teardown();
}

/* Links in a circle, descriptors without an end, buffers that are no memory. */
static void test_hostile(void)
{
    setup();
    address();
    configure();
    for (unsigned i = 0; i < 300; i++) {
        put_trb(EP1_RING + 16 * i, DATA, 8, TRB_NORMAL << 10 | TRB_CHAIN);
    }
    set_reg(0x2004, 3);
    while (loop_iterate(b->loop, false)) {}
    g_assert_cmpuint(test_read(b, CONTEXT + 32 * 3, 4) & 7, ==, EP_HALTED);
    take_event(TRB_TRANSFER_EVENT, NULL, NULL);
    put_trb(EP0_RING + 16 * ep0, EP0_RING + 16 * ep0, 0, TRB_LINK << 10);
    set_reg(0x2004, 1);
    put_trb(COMMANDS + 16 * commands, 0xffffffff00000000, 0, TRB_LINK << 10);
    set_reg(0x2000, 0);
    g_assert_cmphex(reg(0x44) & 0x1001, ==, 0x1001); /* its error; it stands still */
    teardown();
    setup();
    address();
    g_assert_cmpuint(control_transfer(0x0012000001000680, 18, true, 0xfff0000000000000), ==, CC_DATA_BUFFER);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/xhci/tablet", test_tablet);
    g_test_add_func("/xhci/refusals", test_refusals);
    g_test_add_func("/xhci/hostile", test_hostile);
    return g_test_run();
}
