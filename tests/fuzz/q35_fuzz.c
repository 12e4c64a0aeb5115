/*
 * A guest that does anything it likes with the registers of a Q35 board: bridges and root ports with their
 * windows, the LPC bridge, AHCI with its lists in memory, flash. The input is a list of accesses, of time
 * that passes, of cards that come and go, and of resets. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tests/machine/test_board.h"

#include "block/block.h"
#include "hw/intc/gsi.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "hw/isa/ich9_lpc.h"
#include "hw/pci/q35.h"
#include "hw/storage/ahci.h"
#include "hw/storage/pflash_cfi01.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define AHCI_BAR 0xe0000000u
#define FLASH    0xff000000u

static TestBoard *board;
static MemoryRegion pci_memory, smram;
static PciBus *bus;

static void setup(void)
{
    GError *error = NULL;
    board = test_board_new();
    BlockRegistry *blocks = block_registry_new(board->loop, NULL);
    block_property_set_registry(blocks);
    blockdev_add_text(blocks, "driver=null-co,node-name=disk,size=1M,read-zeroes=on", &error);
    blockdev_add_text(blocks, "driver=null-co,node-name=cd,size=1M,read-zeroes=on,read-only=on", &error);
    blockdev_add_text(blocks, "driver=null-co,node-name=flash,size=64K,read-zeroes=on", &error);
    GsiLines *lines = gsi_lines_new();
    board->env.isa_irqs = lines->isa;
    board->env.gsi = lines->gsi;
    gsi_lines_connect(lines, test_board_add(board, TYPE_I8259, NULL, NULL),
                      test_board_add(board, TYPE_IOAPIC, NULL, NULL));
    memory_region_init(&pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&board->memory_root, 0, &pci_memory, -1);
    memory_region_init(&smram, NULL, "smram", UINT64_MAX);
    Device *host = device_new_unattached(board->root, TYPE_Q35_HOST, NULL);
    q35_set_memory(host, &board->ram, TEST_RAM_SIZE, &pci_memory, &smram);
    object_property_parse(OBJECT(host), "firmware-preset", "on", &error);
    device_realize(host, NULL, &board->env, &error);
    bus = q35_bus(host);
    test_board_add(board, TYPE_ICH9_LPC, BUS(bus), "addr", "1f.0", "multifunction", "on", "firmware-preset",
                   "on", NULL);
    test_board_add(board, TYPE_ICH9_AHCI, BUS(bus), "addr", "1f.2", NULL);
    test_board_add(board, "ide-hd", bus_lookup(board->root, "ide.0"), "drive", "disk", NULL);
    test_board_add(board, "ide-cd", bus_lookup(board->root, "ide.1"), "drive", "cd", NULL);
    for (unsigned i = 0; i < 2; i++) {
        Device *port = device_new_unattached(board->root, i ? "ioh3420" : "pcie-root-port", NULL);
        port->id = g_strdup_printf("port%u", i);
        device_realize(port, BUS(bus), NULL, &error);
    }
    test_board_add(board, "virtio-rng-pci", bus_lookup(board->root, "port0"), NULL);
    Device *flash = test_board_add(board, TYPE_PFLASH_CFI01, NULL, "drive", "flash", NULL);
    memory_region_add(&board->memory_root, FLASH, pflash_cfi01_region(flash));
    g_assert_no_error(error);
}

/* What a driver does first, so that what follows reaches more than closed doors. */
static void start(void)
{
    device_reset_all(board->root);
    pci_bus_config_write(bus, PCI_DEVFN(0x1f, 2), 0x24, AHCI_BAR, 4);
    pci_bus_config_write(bus, PCI_DEVFN(0x1f, 2), PCI_COMMAND, 6, 2);
    for (unsigned port = 0; port < 2; port++) {
        uint32_t at = AHCI_BAR + 0x100 + port * 0x80;
        test_write(board, at, 4, 0x1000);
        test_write(board, at + 8, 4, 0x2000);
        test_write(board, at + 0x14, 4, 0xffffffff);
        test_write(board, at + 0x18, 4, 0x11);
        pci_bus_config_write(bus, PCI_DEVFN(1 + port, 0), PCI_PRIMARY_BUS, 0x010100 + 0x010100 * port, 4);
        pci_bus_config_write(bus, PCI_DEVFN(1 + port, 0), PCI_MEMORY_BASE, 0xe100e100, 4);
        pci_bus_config_write(bus, PCI_DEVFN(1 + port, 0), PCI_COMMAND, 7, 2);
    }
}

static void hotplug(bool come)
{
    if (come) {
        g_autoptr(QapiDeviceOptions) options = g_new0(QapiDeviceOptions, 1);
        options->driver = g_strdup("virtio-rng-pci");
        options->id = g_strdup("card");
        options->bus = g_strdup("port1");
        device_create(board->root, NULL, options, true, NULL, NULL);
    } else {
        device_delete(board->root, "card", NULL);
    }
}

static const uint16_t ports[] = { 0xb2, 0xcf8, 0xcf9, 0xcfc, 0x600, 0x620, 0x628, 0x630, 0x4d0, 0x20 };
static const uint32_t addresses[] = { AHCI_BAR,   AHCI_BAR + 0x100, AHCI_BAR + 0x180, AHCI_BAR + 0x138,
                                      FLASH,      FLASH + 0x1000,   0xb0000000,       0xb0008000,
                                      0xb00fa000, 0xfed1f100,       0xb0100000,       0xa0000,
                                      0xf0000,    0x1ff000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!board) {
        setup();
    }
    start();
    for (unsigned i = 0; i < 2000 && size >= 12; i++, data += 12, size -= 12) {
        unsigned bytes = 1u << (data[1] & 3);
        uint64_t value, small = data[2] | data[3] << 8;
        memcpy(&value, data + 4, 8);
        switch (data[0] % 10) {
        case 0:
        case 1:
            small = ports[data[2] % G_N_ELEMENTS(ports)] + (data[3] & 0x1f);
            if (data[0] & 1) {
                test_out(board, small, MIN(bytes, 4), value);
            } else {
                test_in(board, small, MIN(bytes, 4));
            }
            break;
        case 2:
        case 3:
        case 4:
            small = addresses[data[2] % G_N_ELEMENTS(addresses)] + data[3];
            if (data[0] & 1) {
                test_read(board, small, bytes);
            } else {
                test_write(board, small, bytes, value);
            }
            break;
        case 5: /* configuration: the board's functions, and those behind its ports */
            small = data[2] & 1 ? PCI_DEVFN(0x1f, data[2] & 2) : PCI_DEVFN(data[2] >> 1 & 3, 0);
            pci_root_config_write(bus, data[1] >> 4 & 3, small, data[3] & ~(MIN(bytes, 4) - 1), value,
                                  MIN(bytes, 4));
            break;
        case 6:
            test_board_advance(board, value % 10000000);
            break;
        case 7: /* a command: its header, frame and first region */
            test_write(board, 0x1000 + (data[2] & 31) * 32, 8, 5 | (data[3] & 0x60) | (value & 3) << 16);
            test_write(board, 0x1008 + (data[2] & 31) * 32, 8, 0x4000 + (data[2] & 31) * 0x100);
            test_write(board, 0x4000 + (data[2] & 31) * 0x100, 8, (value & ~0xffffull) | 0x8027);
            test_write(board, 0x4080 + (data[2] & 31) * 0x100, 8, 0x8000);
            test_write(board, 0x4088 + (data[2] & 31) * 0x100, 8, value & 0x3fffff00000000);
            test_write(board, AHCI_BAR + (data[3] & 1 ? 0x134 : 0x1b4), 4, 1u << (data[2] & 31));
            test_write(board, AHCI_BAR + (data[3] & 1 ? 0x138 : 0x1b8), 4, 1u << (data[2] & 31));
            break;
        case 8:
            hotplug(data[1] & 1);
            break;
        default:
            test_write(board, small << 3 & (TEST_RAM_SIZE - 8), 8, value);
            break;
        }
    }
    test_board_advance(board, 1000);
    return 0;
}
