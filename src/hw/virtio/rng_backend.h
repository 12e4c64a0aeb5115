/*
 * Where a guest's random numbers come from (-object rng-random, rng-builtin). SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_HW_VIRTIO_RNG_BACKEND_H
#define RHEA_HW_VIRTIO_RNG_BACKEND_H

#include "object/object.h"

#include <sys/types.h>

#define TYPE_RNG_BACKEND "rng-backend" /* abstract */
#define TYPE_RNG_BUILTIN "rng-builtin" /* the host kernel's getrandom(2) */
#define TYPE_RNG_RANDOM  "rng-random"  /* a device or FIFO; property "filename" */

typedef struct RngBackend {
    Object parent_obj;
    int fd; /* -1: none */
    bool used;
} RngBackend;
#define RNG_BACKEND(obj) OBJECT_CHECK(RngBackend, obj, TYPE_RNG_BACKEND)

/* Makes the back end ready (opens its file); harmless where it is already. */
bool rng_backend_open(RngBackend *b, GError **error);
/* Up to size bytes without blocking; 0 at the end of a file, -EAGAIN where none are there now: wait until
 * b->fd is readable. Of one user at a time. */
ssize_t rng_backend_read(RngBackend *b, void *buffer, size_t size);

#endif
