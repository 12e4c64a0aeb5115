/*
 * The inside of back ends and drives. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_BLOCK_INTERNAL_H
#define RHEA_BLOCK_BLOCK_INTERNAL_H

#include "block/block.h"

FdTable *block_registry_fds(BlockRegistry *reg);
/* node may be NULL: no medium. NULL with an error where the node's permissions are not to be had. */
BlockBackend *block_backend_new(BlockRegistry *reg, const char *name, BlockNode *node, GError **error);
bool block_on_error_parse(const char *text, const char *what, bool is_read, BlockOnError *value,
                          GError **error);
void block_backend_configure(BlockBackend *bb, bool write_cache, BlockOnError on_read, BlockOnError on_write,
                             const char *serial);
/* The root of a back end by its id or its device's; NULL with an error. */
BlockChild *block_backend_root(BlockRegistry *reg, const char *id, GError **error);
GPtrArray *block_registry_drive_list(BlockRegistry *reg);

#endif
