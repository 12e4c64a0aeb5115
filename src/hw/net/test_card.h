/*
 * What the unit tests of network cards on a PCI bus share: a board with the card in slot 3 and a socket pair
 * for a network. Header only, since a unit test is one file. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_NET_TEST_CARD_H
#define RHEA_HW_NET_TEST_CARD_H

#include "tests/machine/test_board.h"

#include "hw/pci/pci.h"
#include "net/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEM 0xe0000000u /* of the card's registers */

static TestBoard *b;
static MemoryRegion pci_memory;
static PciBus *bus;
static NetRegistry *nets;
static Device *card;
static int peer;
static bool irq;
static unsigned rises; /* of irq */

static inline int no_irq(void *opaque, unsigned slot, int pin)
{
    return 0;
}

static inline void set_irq(void *opaque, int input, bool level)
{
    rises += level && !irq;
    irq = level;
}

/* The card at MEM by its BAR, a configuration register, as bus master. */
static inline void setup_card(const char *type, unsigned bar)
{
    GError *error = NULL;
    int pair[2];
    b = test_board_new();
    nets = net_registry_new(b->loop, NULL);
    net_property_set_registry(nets);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    fcntl(pair[1], F_SETFL, O_NONBLOCK);
    peer = pair[1];
    g_autofree char *text = g_strdup_printf("stream,id=s0,addr.type=fd,addr.str=%d", pair[0]);
    net_client_add_text(nets, text, &error);
    g_assert_no_error(error);
    memory_region_init(&pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&b->memory_root, 0, &pci_memory, -1);
    bus =
        pci_root_bus_new(NULL, "pci.0", &b->env, &pci_memory, &b->io_root, b->memory, no_irq, set_irq, NULL);
    card = test_board_add(b, type, BUS(bus), "addr", "3", "netdev", "s0", "mac", "52:54:00:aa:bb:cc", NULL);
    rises = 0;
    irq = false;
    pci_bus_config_write(bus, 0x18, bar, MEM, 4);
    pci_bus_config_write(bus, 0x18, PCI_COMMAND, 6, 2);
}

static inline void teardown(void)
{
    device_unrealize_all(b->root);
    net_property_set_registry(NULL);
    net_registry_free(nets);
    close(peer);
    memory_region_del(&b->memory_root, &pci_memory);
    test_board_free(b);
    memory_region_destroy(&pci_memory);
}

static inline void settle(void)
{
    while (loop_iterate(b->loop, false)) {}
}

/* A frame that came out at the other end; its size, 0: none. */
static inline size_t take_frame(uint8_t *frame, size_t room)
{
    uint32_t length;
    settle();
    if (read(peer, &length, 4) != 4) {
        return 0;
    }
    length = ntohl(length);
    g_assert_cmpuint(length, <=, room);
    g_assert_cmpint(read(peer, frame, length), ==, length);
    return length;
}

static inline void give_frame(const uint8_t *frame, size_t size)
{
    uint32_t length = htonl((uint32_t)size);
    g_assert_cmpint(write(peer, &length, 4), ==, 4);
    g_assert_cmpint(write(peer, frame, size), ==, (ssize_t)size);
    settle();
}

#endif
