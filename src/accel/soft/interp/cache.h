/*
 * The cache of decoded blocks, one a vCPU. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_INTERP_CACHE_H
#define RHEA_ACCEL_SOFT_INTERP_CACHE_H

#include <stddef.h>

/* Memory that lives until the whole cache is flushed. 32-byte aligned; never fails (aborts as GLib does). */
void *interp_cache_alloc(struct Interp *d, size_t size);

#endif
