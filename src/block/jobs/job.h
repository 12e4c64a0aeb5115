/*
 * Jobs: long work in the background, with progress, speed, pause, cancel, and a life that a client may steer
 * (finalize, dismiss). All of a job but its requests happens in the graph's loop, the control plane.
 *
 * Life: created, running (paused), ready (standby) for those that wait to be completed, then waiting and
 * pending until finalize, concluded until dismiss; aborting instead where it failed or was cancelled.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_JOBS_JOB_H
#define RHEA_BLOCK_JOBS_JOB_H

#include "block/graph/dirty_bitmap.h"
#include "block/graph/graph.h"

typedef struct JobManager JobManager;
typedef struct Job Job;

JobManager *job_manager_new(BlockGraph *graph);
/* Cancels what is left and waits for it. */
void job_manager_free(JobManager *jobs);
json_object *jobs_query(JobManager *jobs);       /* query-jobs; caller owns */
json_object *jobs_query_block(JobManager *jobs); /* query-block-jobs */
/* NULL with an error. block_job: the error of the older commands (class DeviceNotActive). */
Job *job_find(JobManager *jobs, const char *id, bool block_job, GError **error);
bool job_pause(Job *job, GError **error);
bool job_resume(Job *job, GError **error);
/* A ready mirror that is not forced ends well, without its last step. */
bool job_cancel(Job *job, bool force, GError **error);
bool job_complete(Job *job, GError **error);
bool job_finalize(Job *job, GError **error);
bool job_dismiss(Job *job, GError **error);
bool job_set_speed(Job *job, uint64_t bytes_per_s, GError **error);

typedef enum JobOnError {
    JOB_ON_ERROR_REPORT,
    JOB_ON_ERROR_IGNORE,
    JOB_ON_ERROR_ENOSPC,
    JOB_ON_ERROR_STOP
} JobOnError;

/* What every start has. id NULL: the name of the node's device, or an error. */
typedef struct JobStart {
    const char *id;
    uint64_t speed; /* bytes a second; 0: no limit */
    bool auto_finalize, auto_dismiss;
    JobOnError on_source_error, on_target_error;
} JobStart;

typedef enum JobSync {
    JOB_SYNC_TOP,
    JOB_SYNC_FULL,
    JOB_SYNC_NONE,
    JOB_SYNC_INCREMENTAL,
    JOB_SYNC_BITMAP
} JobSync;

/* ---- the jobs; each returns false with an error, or is running ---- */
typedef struct MirrorStart {
    JobStart start;
    JobSync sync;
    uint32_t granularity; /* 0: chosen */
    const char *replaces; /* the node that the target takes the place of; NULL: the source */
    bool unmap;
} MirrorStart;
bool job_mirror_start(JobManager *jobs, BlockNode *source, BlockNode *target, const MirrorStart *options,
                      GError **error);
/* top is the active image: like a mirror, it waits to be completed. backing_file: what the overlay of top is
 * told; NULL: base's name. filter_name: of the filter that it puts over top, or NULL. */
bool job_commit_start(JobManager *jobs, BlockNode *active, BlockNode *top, BlockNode *base,
                      const char *backing_file, const char *filter_name, const JobStart *start,
                      GError **error);
/* base NULL: all of the chain comes into node. */
bool job_stream_start(JobManager *jobs, BlockNode *node, BlockNode *base, const char *backing_file,
                      const JobStart *start, GError **error);
typedef struct BackupStart {
    JobStart start;
    JobSync sync;
    const char *bitmap; /* of the source */
    int bitmap_mode;    /* 0 on-success, 1 never, 2 always */
    bool compress;
    const char *filter_name;
} BackupStart;
bool job_backup_start(JobManager *jobs, BlockNode *source, BlockNode *target, const BackupStart *options,
                      GError **error);
/* Takes the options. */
bool job_create_start(JobManager *jobs, const char *id, QapiBlockdevCreateOptions *options, GError **error);

/* Work of another subsystem as a job. run: in a coroutine; 0 or a negative errno, for which *error may say
 * more. prepare: afterwards, outside, where that went well; may be NULL. clean: at the end, either way. The
 * struct stays; clients dismiss the job. */
typedef struct JobCalls {
    const char *type;
    int (*run)(void *opaque, GError **error);
    bool (*prepare)(void *opaque, GError **error);
    void (*clean)(void *opaque, bool ok);
} JobCalls;
bool job_calls_start(JobManager *jobs, const JobCalls *calls, const char *id, void *opaque, GError **error);

#endif
