/* What emulated Ethernet cards share. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/net/ethernet.h"

#include "base/error.h"

#include <inttypes.h>
#include <string.h>
#include <zlib.h>

enum { IPV4_TOTAL_LENGTH = 2, IPV4_ID = 4, IPV4_MIN = 20, IPV6_PAYLOAD_LENGTH = 4, IPV6_SIZE = 40 };
enum { TCP_SEQUENCE = 4, TCP_FLAGS = 13, TCP_MIN = 20, UDP_LENGTH = 4, UDP_SIZE = 8 };
enum { TCP_FIN = 0x01, TCP_PSH = 0x08 };

uint32_t eth_fcs(const uint8_t *frame, size_t size)
{
    return (uint32_t)crc32(0, frame, (uInt)size);
}

unsigned eth_multicast_hash(const uint8_t mac[6])
{
    uint32_t crc = UINT32_MAX;
    for (int i = 0; i < 6; i++) {
        for (int bit = 0; bit < 8; bit++) {
            uint32_t carry = (crc >> 31) ^ ((uint32_t)mac[i] >> bit & 1);
            crc = crc << 1 ^ (carry ? 0x04c11db7u : 0);
        }
    }
    return crc >> 26;
}

uint16_t eth_sum(const uint8_t *data, size_t size, uint32_t start)
{
    uint64_t sum = start;
    for (size_t i = 0; i + 1 < size; i += 2) {
        sum += eth_get16(data + i);
    }
    if (size & 1) {
        sum += (uint32_t)data[size - 1] << 8;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)sum;
}

void eth_put_checksum(uint8_t *frame, size_t size, size_t start, size_t end, size_t offset)
{
    if (end > size || start > end || offset + 2 > size) {
        return;
    }
    eth_put16(frame + offset, (uint16_t)~eth_sum(frame + start, end - start, 0));
}

size_t eth_segment(const uint8_t *packet, size_t size, const EthSegment *g, uint8_t *out)
{
    size_t ip_size = g->ipv4 ? IPV4_MIN : IPV6_SIZE, transport_size = g->tcp ? TCP_MIN : UDP_SIZE;
    if (g->header > size || g->payload_at > size - g->header || g->bytes > size - g->header - g->payload_at ||
        g->ip + ip_size > g->header || g->transport + transport_size > g->header) {
        return 0;
    }
    size_t total = g->header + g->bytes;
    memcpy(out, packet, g->header);
    memcpy(out + g->header, packet + g->header + g->payload_at, g->bytes);
    uint8_t *ip = out + g->ip, *transport = out + g->transport;
    if (g->ipv4) {
        eth_put16(ip + IPV4_TOTAL_LENGTH, (uint16_t)(total - g->ip));
        eth_put16(ip + IPV4_ID, (uint16_t)(eth_get16(ip + IPV4_ID) + g->number));
    } else {
        eth_put16(ip + IPV6_PAYLOAD_LENGTH, (uint16_t)(total - g->ip - IPV6_SIZE));
    }
    if (g->tcp) {
        uint8_t *field = transport + TCP_SEQUENCE;
        uint32_t sequence =
            ((uint32_t)eth_get16(field) << 16 | eth_get16(field + 2)) + (uint32_t)g->payload_at;
        eth_put16(field, (uint16_t)(sequence >> 16));
        eth_put16(field + 2, (uint16_t)sequence);
        if (!g->last) {
            transport[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        }
    } else {
        eth_put16(transport + UDP_LENGTH, (uint16_t)(total - g->transport));
    }
    return total;
}

bool eth_packet_save(VmStateWriter *w, const void *field, GError **error)
{
    const EthPacket *packet = field;

    vmstate_put_u64(w, packet->size);
    vmstate_put(w, packet->bytes, packet->size);
    return true;
}

bool eth_packet_load(VmStateReader *r, void *field, GError **error)
{
    EthPacket *packet = field;
    uint64_t size;

    packet->size = 0;
    if (!vmstate_get_u64(r, &size, error)) {
        return false;
    }
    if (size > ETH_PACKET_MAX) {
        return error_set(error, "a packet of %" PRIu64 " bytes, at most %u are possible", size,
                         ETH_PACKET_MAX);
    }
    if (!vmstate_get(r, packet->bytes, size, error)) {
        return false;
    }
    packet->size = (uint32_t)size;
    return true;
}
