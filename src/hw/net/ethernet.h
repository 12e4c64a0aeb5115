/*
 * What emulated Ethernet cards share: the frame check sequence, the hash of multicast filters, Internet
 * checksums and TCP segmentation. Sources: IEEE 802.3 (clause 3.2.9), RFC 1071, RFC 793.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_NET_ETHERNET_H
#define RHEA_HW_NET_ETHERNET_H

#include "vmstate/vmstate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ETH_MIN_FRAME 60 /* without the frame check sequence */
#define ETH_FCS       4
#define ETH_MAX_FRAME 1514
#define ETH_VLAN_TYPE 0x8100

/* The frame check sequence, as its four bytes stand (little-endian) behind the frame. */
uint32_t eth_fcs(const uint8_t *frame, size_t size);
/* The upper six bits of the address's CRC, as cards hash multicast addresses (most significant bit first). */
unsigned eth_multicast_hash(const uint8_t mac[6]);

/* The sum of RFC 1071, folded to 16 bits but not complemented. */
uint16_t eth_sum(const uint8_t *data, size_t size, uint32_t start);
/* Writes the complemented sum over frame[start..end) big-endian at offset. Nothing happens where these are
 * not inside of the frame. */
void eth_put_checksum(uint8_t *frame, size_t size, size_t start, size_t end, size_t offset);

/* One segment of a large TCP or UDP packet. */
typedef struct EthSegment {
    size_t header;            /* bytes of headers, which every segment begins with */
    size_t ip, transport;     /* where these headers begin */
    bool ipv4, tcp;           /* else IPv6, UDP */
    size_t payload_at, bytes; /* which part of the payload */
    unsigned number;          /* 0: the first */
    bool last;
} EthSegment;
/* Copies the headers and that part of a packet, with lengths, identification, sequence number and flags of
 * this segment; checksums are the caller's. out has room for header + bytes, which it returns; 0: the headers
 * do not hold what they should. */
size_t eth_segment(const uint8_t *packet, size_t size, const EthSegment *segment, uint8_t *out);

/* What a card's descriptors put together, at most a packet to be segmented with its headers; saved by
 * VMS_CUSTOM(field, Card, eth_packet_save, eth_packet_load), which refuses what is larger. */
#define ETH_PACKET_MAX (65536u + 256)
typedef struct EthPacket {
    uint32_t size;
    uint8_t bytes[ETH_PACKET_MAX];
} EthPacket;
bool eth_packet_save(VmStateWriter *w, const void *field, GError **error);
bool eth_packet_load(VmStateReader *r, void *field, GError **error);

static inline uint16_t eth_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}
static inline void eth_put16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

#endif
