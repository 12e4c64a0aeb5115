/*
 * RAM that the user describes: -object memory-backend-ram, -file, -memfd. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_MEM_MEMORY_BACKEND_H
#define RHEA_MEM_MEMORY_BACKEND_H

#include "mem/memory.h"
#include "object/object.h"

#define TYPE_MEMORY_BACKEND       "memory-backend" /* abstract */
#define TYPE_MEMORY_BACKEND_RAM   "memory-backend-ram"
#define TYPE_MEMORY_BACKEND_FILE  "memory-backend-file"
#define TYPE_MEMORY_BACKEND_MEMFD "memory-backend-memfd"

/* Its block; borrowed (take a reference to use it: a backend that is in use cannot be deleted). NULL before
 * it is complete. */
RamBlock *memory_backend_block(Object *backend);

#endif
