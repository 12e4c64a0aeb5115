/*
 * What the commands of QMP do with nodes: overlays, bitmaps, jobs. Control plane. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_OPERATE_H
#define RHEA_BLOCK_OPERATE_H

#include "block/block.h"
#include "block/jobs/job.h"

JobManager *block_registry_jobs(BlockRegistry *reg);

bool block_op_reopen(BlockRegistry *reg, GPtrArray *options /* of QapiBlockdevOptions * */, GError **error);
bool block_op_snapshot(BlockRegistry *reg, const char *node, const char *overlay, GError **error);
bool block_op_snapshot_sync(BlockRegistry *reg, const QapiBlockdevSnapshotSync *args, GError **error);
bool block_op_change_backing_file(BlockRegistry *reg, const char *device, const char *image_node,
                                  const char *backing_file, GError **error);
/* x-blockdev-change: either child (one that parent has) or node (one that it gets). */
bool block_op_change(BlockRegistry *reg, const char *parent, const char *child, const char *node,
                     GError **error);
bool block_op_write_threshold(BlockRegistry *reg, const char *node, uint64_t threshold, GError **error);

bool block_op_bitmap_add(BlockRegistry *reg, const QapiBlockDirtyBitmapAdd *args, GError **error);
bool block_op_bitmap_remove(BlockRegistry *reg, const QapiBlockDirtyBitmap *args, GError **error);
bool block_op_bitmap_clear(BlockRegistry *reg, const QapiBlockDirtyBitmap *args, GError **error);
bool block_op_bitmap_enable(BlockRegistry *reg, const QapiBlockDirtyBitmap *args, bool on, GError **error);
bool block_op_bitmap_merge(BlockRegistry *reg, const QapiBlockDirtyBitmapMerge *args, GError **error);

bool block_op_create(BlockRegistry *reg, const char *job_id, const QapiBlockdevCreateOptions *options,
                     GError **error);
bool block_op_mirror(BlockRegistry *reg, const QapiBlockdevMirror *args, GError **error);
bool block_op_commit(BlockRegistry *reg, const QapiBlockCommit *args, GError **error);
bool block_op_stream(BlockRegistry *reg, const QapiBlockStream *args, GError **error);
bool block_op_backup(BlockRegistry *reg, const QapiBlockdevBackup *args, GError **error);

/* Of QapiTransactionAction *: all at one moment, or none. */
bool block_op_transaction(BlockRegistry *reg, GPtrArray *actions, GError **error);

#endif
