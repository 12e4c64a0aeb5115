/*
 * Locks on image files, which QEMU respects too: one for each opening of a file. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_PROTOCOLS_LOCK_H
#define RHEA_BLOCK_PROTOCOLS_LOCK_H

#include "block/graph/node.h"

/* What is held, as BLOCK_PERM_* bits. All zero at first. */
typedef struct BlockLock {
    unsigned used, unshared;
    unsigned tried_used, tried_unshared; /* between prepare and commit or abort */
} BlockLock;

/* Takes what perm and shared need beyond what is held; what is held stays until commit. what names the file
 * in messages, which name the process that is in the way. After a failure nothing is to be aborted. */
bool block_lock_prepare(BlockLock *lock, int fd, const char *what, unsigned perm, unsigned shared,
                        GError **error);
void block_lock_commit(BlockLock *lock, int fd, unsigned perm, unsigned shared);
void block_lock_abort(BlockLock *lock, int fd);
/* The same on another descriptor of the same file, before the old one is closed. */
void block_lock_move(BlockLock *lock, int new_fd);

#endif
