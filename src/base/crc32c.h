/* CRC-32C (Castagnoli, RFC 3720 appendix B.4). SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_BASE_CRC32C_H
#define RHEA_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Goes on with crc (0 at the start) over more bytes; the result of the pieces is that of the whole. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
/* The same without the CPU's instruction for it; for tests. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
