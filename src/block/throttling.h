/*
 * Limits of a -drive or a disk: what throttling.* and block_set_io_throttle say, as a throttle-group object
 * and a throttle node over the disk's node. Control plane. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_THROTTLING_H
#define RHEA_BLOCK_THROTTLING_H

#include "block/block.h"

/* Whether that option of -drive is a limit (throttling.iops-total, or its older name iops). */
bool block_throttle_is_option(const char *key);
/* The limits among the options of a drive, by the names of ThrottleLimits, and the group (borrowed; NULL: of
 * its own). NULL: there are none. The caller's. */
json_object *block_throttle_options(json_object *options, const char **group);
/* Puts the limits over node: makes the group or sets its limits. `what` names the group where `group` is
 * NULL. The new top node, implicit; NULL with an error. */
BlockNode *block_throttle_over(BlockGraph *graph, BlockNode *node, json_object *limits, const char *group,
                               const char *what, GError **error);
/* block_set_io_throttle. */
bool block_set_throttle(BlockRegistry *reg, const QapiBlockIOThrottle *args, GError **error);

#endif
