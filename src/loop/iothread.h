/*
 * -object iothread: a thread with a loop of its own, for devices and disks to live in.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_LOOP_IOTHREAD_H
#define RHEA_LOOP_IOTHREAD_H

#include "loop/loop.h"
#include "object/object.h"

#define TYPE_IOTHREAD "iothread"

typedef struct IoThread IoThread;

/* Its loop, which runs from the completion of the object until the object goes. Borrowed. */
Loop *iothread_get_loop(IoThread *iothread);
/* The kernel's id of its thread. */
pid_t iothread_thread_id(const IoThread *iothread);
/* query-iothreads: a JSON list of those below root's /objects, that the caller owns. */
json_object *iothread_query(Object *root);

#endif
