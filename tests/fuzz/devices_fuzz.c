/*
 * A guest that does anything it likes with the registers of a PC's devices: the input is a list of port,
 * memory and configuration accesses, of time that passes, and of resets. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "tests/machine/test_board.h"

#include "block/block.h"
#include "chardev/chardev.h"
#include "display/display.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/char/serial.h"
#include "hw/firmware/fw_cfg.h"
#include "hw/input/i8042.h"
#include "hw/intc/gsi.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "hw/isa/i8257.h"
#include "hw/isa/piix3.h"
#include "hw/misc/port92.h"
#include "hw/pci/i440fx.h"
#include "hw/storage/fdc.h"
#include "hw/storage/piix3_ide.h"
#include "hw/timer/hpet.h"
#include "hw/timer/i8254.h"
#include "hw/timer/mc146818rtc.h"
#include "input/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static TestBoard *board;
static MemoryRegion pci_memory;
static DisplaySurface surface;
static PciBus *bus;
static Device *cards[3]; /* that have screens */
static struct {
    bool io;
    uint64_t addr, size;
} bars[64];
static unsigned bar_count;

static Device *add_pci(const char *type, const char *addr)
{
    return test_board_add(board, type, BUS(bus), "addr", addr, "multifunction", "on", NULL);
}

/* A disk and a CD-ROM that read as zeros and take what is written. */
static BlockRegistry *add_ide(void)
{
    GError *error = NULL;
    BlockRegistry *blocks = block_registry_new(board->loop, NULL);
    block_property_set_registry(blocks);
    blockdev_add_text(blocks, "driver=null-co,node-name=disk,size=1M,read-zeroes=on", &error);
    blockdev_add_text(blocks, "driver=null-co,node-name=cd,size=1M,read-zeroes=on,read-only=on", &error);
    Device *ide = test_board_add(board, TYPE_PIIX3_IDE, BUS(bus), "addr", "1.1", "multifunction", "on",
                                 "firmware-preset", "on", NULL);
    test_board_add(board, "ide-hd", bus_find(board->root, "IDE", "ide.0", &error), "drive", "disk", NULL);
    test_board_add(board, "ide-cd", bus_find(board->root, "IDE", "ide.0", &error), "drive", "cd", NULL);
    g_assert_no_error(error);
    device_reset(ide);
    return blocks;
}

static void look_at_screens(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cards); i++) {
        g_autofree char *path = object_get_canonical_path(OBJECT(cards[i]));
        DisplayConsole *console = display_console_find(board->env.displays, path, NULL);
        display_console_render(console, &surface);
        g_free(display_console_text(console));
    }
}

static void raise_gpe(Device *pm, unsigned event)
{
}

static void setup(void)
{
    GError *error = NULL;
    board = test_board_new();
    board->env.displays = display_registry_new();
    ChardevRegistry *chardevs = chardev_registry_new(board->loop, NULL);
    chardev_property_set_registry(chardevs);
    chardev_add_text(chardevs, "null,id=null0", &error);
    GsiLines *lines = gsi_lines_new();
    board->env.isa_irqs = lines->isa;
    board->env.gsi = lines->gsi;
    gsi_lines_connect(lines, test_board_add(board, TYPE_I8259, NULL, NULL),
                      test_board_add(board, TYPE_IOAPIC, NULL, NULL));
    board->env.fw_cfg = FW_CFG(test_board_add(board, TYPE_FW_CFG_IO, NULL, NULL));
    board->env.acpi_parts = g_ptr_array_new();
    board->env.raise_gpe = raise_gpe;
    static const char *const file_types[] = { "ramfb", "vmcoreinfo", "vmgenid" };
    for (size_t i = 0; i < G_N_ELEMENTS(file_types); i++) {
        Device *dev = test_board_add(board, file_types[i], NULL, NULL);
        cards[0] = i == 0 ? dev : cards[0];
    }
    memory_region_init(&pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&board->memory_root, 0, &pci_memory, -1);
    Device *host = device_new_unattached(board->root, TYPE_I440FX_HOST, NULL);
    i440fx_set_memory(host, &board->ram, &pci_memory, NULL);
    device_realize(host, NULL, &board->env, &error);
    bus = i440fx_bus(host);
    Bus *isa = piix3_isa_bus(add_pci(TYPE_PIIX3, "1.0"));
    add_pci(TYPE_PIIX4_PM, "1.3");
    BlockRegistry *blocks = add_ide();
    cards[1] = test_board_add(board, "VGA", BUS(bus), "addr", "2", "vgamem_mb", "1", NULL);
    add_pci("virtio-rng-pci", "3");
    add_pci("virtio-net-pci", "4");
    add_pci("virtio-serial-pci", "5");
    board->env.inputs = input_registry_new(board->loop, board->clocks);
    add_pci("virtio-tablet-pci", "6");
    Device *scsi = add_pci("virtio-scsi-pci", "8");
    blockdev_add_text(blocks, "driver=null-co,node-name=scsi,size=1M,read-zeroes=on", &error);
    test_board_add(board, "scsi-hd", bus_find(board->root, "SCSI", NULL, &error), "drive", "scsi", NULL);
    device_reset(scsi);
    test_board_add(board, "usb-kbd", BUS(add_pci("piix3-usb-uhci", "1.2")->child_buses->pdata[0]), NULL);
    Bus *usb = BUS(add_pci("qemu-xhci", "7")->child_buses->pdata[0]);
    test_board_add(board, "usb-tablet", usb, NULL);
    test_board_add(board, "usb-mouse", usb, NULL);
    blockdev_add_text(blocks, "driver=null-co,node-name=stick,size=1M,read-zeroes=on", &error);
    test_board_add(board, "usb-storage", usb, "drive", "stick", NULL);
    static const char *const pci_types[] = {
        "virtio-keyboard-pci", "virtio-mouse-pci", "i6300esb", "pci-serial", "e1000", "rtl8139"
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(pci_types); i++) {
        g_autofree char *addr = g_strdup_printf("%x", 9 + i);
        add_pci(pci_types[i], addr);
    }
    cards[2] = add_pci("virtio-gpu-pci", "f");
    Device *hpet = test_board_add(board, TYPE_HPET, NULL, NULL);
    Device *pit = device_new_unattached(board->root, TYPE_I8254, NULL);
    i8254_set_irq(pit, hpet_legacy_line(hpet, 0));
    device_realize(pit, NULL, &board->env, &error);
    hpet_set_pit_control(hpet, i8254_control_line(pit));
    test_board_add(board, TYPE_MC146818_RTC, NULL, NULL);
    static const char *const isa_types[] = { TYPE_I8042,   TYPE_PORT92,      TYPE_I8257,
                                             "pc-testdev", "isa-debug-exit", "pvpanic" };
    for (size_t i = 0; i < G_N_ELEMENTS(isa_types); i++) {
        test_board_add(board, isa_types[i], isa, NULL);
    }
    test_board_add(board, TYPE_ISA_SERIAL, isa, "chardev", "null0", NULL);
    chardev_add_text(chardevs, "null,id=null1", &error);
    test_board_add(board, "isa-parallel", isa, "chardev", "null1", NULL);
    blockdev_add_text(blocks, "driver=null-co,node-name=floppy,size=1474560,read-zeroes=on", &error);
    Device *fdc = test_board_add(board, TYPE_ISA_FDC, isa, NULL);
    test_board_add(board, TYPE_FLOPPY, fdc->child_buses->pdata[0], "drive", "floppy", NULL);
    g_assert_no_error(error);
}

/* What firmware does after a reset: addresses, and leave to be a bus master; finds out where the BARs are. */
static void assign(void)
{
    pci_bus_assign_resources(bus, 0xc000, 0x10000, 0xe0000000, 0xf0000000, NULL);
    bar_count = 0;
    for (unsigned devfn = 0; devfn < G_N_ELEMENTS(bus->devices); devfn++) {
        const PciDevice *dev = bus->devices[devfn];
        if (!dev) {
            continue;
        }
        pci_bus_config_write(bus, devfn, PCI_COMMAND, pci_get_word(dev->config + PCI_COMMAND) | 4, 2);
        for (unsigned i = 0; i < PCI_ROM_SLOT && bar_count < G_N_ELEMENTS(bars); i++) {
            if (dev->regions[i].memory && dev->regions[i].addr != UINT64_MAX) {
                bars[bar_count].io = dev->regions[i].type & PCI_BAR_IO;
                bars[bar_count].addr = dev->regions[i].addr;
                bars[bar_count++].size = dev->regions[i].size;
            }
        }
    }
}

/* One access somewhere in one of the BARs. */
static void access_bar(unsigned number, uint16_t offset, unsigned bytes, bool write, uint64_t value)
{
    uint64_t addr = bars[number].addr + offset % bars[number].size;
    if (bars[number].io) {
        if (write) {
            test_out(board, (uint16_t)addr, MIN(bytes, 4), (uint32_t)value);
        } else {
            test_in(board, (uint16_t)addr, MIN(bytes, 4));
        }
    } else if (write) {
        test_write(board, addr & ~(uint64_t)(bytes - 1), bytes, value);
    } else {
        test_read(board, addr & ~(uint64_t)(bytes - 1), bytes);
    }
}

/* Ports that have something behind them are worth more tries than the other 65,000. */
static const uint16_t ports[] = { 0x20,   0x40,  0x60,  0x70,   0x92,  0xa0,  0xb2,  0xe0,   0xe8,
                                  0x3f8,  0x4d0, 0x501, 0x505,  0x510, 0x514, 0x600, 0xafe0, 0xc000,
                                  0xc020, 0xcf8, 0xcfc, 0x2000, 0x1f0, 0x1f0, 0x3f0, 0x3b0,  0x3c0,
                                  0x3cc,  0x1ce, 0x00,  0x80,   0xc0,  0x3f2, 0x378 };
static const uint32_t addresses[] = {
    HPET_ADDRESS, HPET_ADDRESS + 0x100, IOAPIC_ADDRESS, 0xff000000, 0xe0000000, 0xe0001000,
    0xe0004000,   0xe0008000,           0xe000c000,     0xc0000,    0xa0000,    0xb8000,
    0xe0010000,   0xe0014000,           0xe0018000,     0xe001c000, 0xe0016000, 0xe0017000
};

/* The command and what is likeliest to be seen of the others: drive, cylinder, head, sector. */
static void floppy_command(const uint8_t *data)
{
    static const uint8_t rest[] = { 2, 18, 0x1b, 0xff };
    test_out(board, 0x3f2, 1, 0x1c);
    test_out(board, 0x3f7, 1, 0);
    for (unsigned i = 0; i < 5; i++) {
        test_out(board, 0x3f5, 1, i == 1 ? data[i] & 5 : i > 1 ? data[i] & 0x1f : data[i]);
    }
    for (unsigned i = 0; i < sizeof(rest); i++) {
        test_out(board, 0x3f5, 1, rest[i]);
    }
    while (loop_iterate(board->loop, false)) {}
    for (unsigned i = 0; i < data[7]; i++) {
        test_in(board, 0x3f5, 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!board) {
        setup();
    }
    device_reset_all(board->root);
    assign();
    for (unsigned i = 0; i < 2000 && size >= 12; i++, data += 12, size -= 12) {
        unsigned bytes = 1u << (data[1] & 3);
        uint16_t small = data[2] | data[3] << 8;
        uint64_t value;
        memcpy(&value, data + 4, 8);
        switch (data[0] % 8) {
        case 0:
        case 1:
            if ((data[0] & 0x30) ==
                0x30) { /* a whole command for the floppy controller: single bytes rarely make one */
                floppy_command(data + 2);
                break;
            }
            bytes = MIN(bytes, 4);
            small = small & 0x8000 ? small : ports[data[2] % G_N_ELEMENTS(ports)] + (data[3] & 0x1f);
            if (data[0] & 1) {
                test_out(board, small, bytes, value);
            } else {
                test_in(board, small, bytes);
            }
            break;
        case 2:
        case 3:
            if ((data[0] & 8) && bar_count) {
                access_bar((data[1] >> 2) % bar_count, small, bytes, data[0] & 1, value);
            } else if (data[0] & 1) {
                test_write(board, addresses[data[2] % G_N_ELEMENTS(addresses)] + (data[3] << 2), bytes,
                           value);
            } else {
                test_read(board, addresses[data[2] % G_N_ELEMENTS(addresses)] + (data[3] << 2), bytes);
            }
            break;
        case 4:
        case 5: /* a configuration cycle */
            test_out(board, 0xcf8, 4,
                     0x80000000u | (data[2] & 15) << 11 | (data[2] >> 5) << 8 | (data[3] & 0xfc));
            if (data[0] & 1) {
                test_out(board, 0xcfc + (data[3] & 3 & ~(bytes - 1)), MIN(bytes, 4), value);
            } else {
                test_in(board, 0xcfc + (data[3] & 3 & ~(bytes - 1)), MIN(bytes, 4));
            }
            break;
        case 6:
            test_board_advance(board, value % 1000000000);
            if (data[1] == 0) {
                look_at_screens();
            }
            break;
        default: /* guest memory: descriptors, rings */
            test_write(board, small << 3 & (TEST_RAM_SIZE - 8), 8, value);
            break;
        }
    }
    test_board_advance(board, 1000);
    return 0;
}
