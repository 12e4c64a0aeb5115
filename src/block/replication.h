/*
 * Replication of disks to a second machine (the block part of COLO): drives `replication` nodes, of which the
 * primary's sends writes on and the secondary's keeps what happened since the last checkpoint apart. The
 * secondary starts first. Control plane. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_REPLICATION_H
#define RHEA_BLOCK_REPLICATION_H

#include "block/graph/graph.h"

/* All nodes of the graph; all must have that mode. Those that started are stopped again on failure. */
bool replication_start_all(BlockGraph *graph, QapiReplicationMode mode, GError **error);
/* The machines are the same at this moment: what was kept apart is thrown away. */
bool replication_checkpoint_all(BlockGraph *graph, GError **error);
/* false: some write could not be sent on or saved since the start. */
bool replication_check_all(BlockGraph *graph, GError **error);
/* failover: the other machine is gone; the secondary's own state becomes its disk. */
bool replication_stop_all(BlockGraph *graph, bool failover, GError **error);

#endif
