/* The inside of jobs. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_BLOCK_JOBS_JOB_INTERNAL_H
#define RHEA_BLOCK_JOBS_JOB_INTERNAL_H

#include "block/jobs/job.h"

#define JOB_MAX_OPS 16
#define JOB_CHUNK   (1u << 20)

typedef enum JobStatus {
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_STANDBY,
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL,
} JobStatus;

typedef struct JobDriver {
    size_t instance_size;
    const char *type; /* "mirror", ... as clients know it */
    bool is_block_job;
    /* In a coroutine. 0, or a negative errno, for which *error may say more. */
    int (*run)(Job *job, GError **error);
    /* Afterwards, outside: the last step of what went well; then what either way has to go. */
    bool (*prepare)(Job *job, GError **error);
    void (*clean)(Job *job, bool ok);
    bool (*complete)(Job *job, GError **error); /* NULL: it ends by itself */
} JobDriver;

/* Drivers embed it first. */
struct Job {
    const JobDriver *driver;
    JobManager *jobs;
    BlockGraph *graph;
    Loop *loop;
    char *id;
    JobStatus status;
    uint64_t speed, current, total;
    bool auto_finalize, auto_dismiss;
    JobOnError on_source_error, on_target_error;
    bool cancelled, forced; /* forced: end at once */
    bool user_paused, ready;
    bool busy;    /* its coroutine runs or has requests under way */
    bool waiting; /* in job_wait or job_sleep_ns */
    int ret;
    char *error_text;
    int io_error; /* 0, or the errno that stopped it */
    Coroutine *co;
    Timer timer;
    int64_t limit_ns; /* when the speed allows the next piece */
    int ops;          /* coroutines of job_op_start under way */
};

/* A job of that driver, in the list and not yet started. NULL with an error. */
Job *job_new(JobManager *jobs, const JobDriver *driver, const char *default_id, const JobStart *start,
             GError **error);
void job_run(Job *job);
/* Before job_run: it never was. */
void job_drop(Job *job);

/* ---- in its coroutine ---- */
/* Waits while paused. True: it is to end (cancelled). */
bool job_pause_point(Job *job);
void job_sleep_ns(Job *job, int64_t ns); /* or until woken */
void job_wait(Job *job);                 /* until woken */
void job_enter(Job *job);                /* wakes it; from anywhere in its loop */
/* Accounts for n bytes and waits as the speed says. */
void job_limit(Job *job, uint64_t n);
/* Starts fn in a coroutine of its own when fewer than JOB_MAX_OPS are under way; fn ends with job_op_end. */
void job_op_start(Job *job, CoroutineFunc *fn, void *opaque);
void job_op_end(Job *job);
void job_ops_wait(Job *job); /* until all are through */
void job_set_ready(Job *job);
/* What to do about a failed request: true: fail; false: go on (it may be paused first). Tells clients. */
bool job_failed(Job *job, bool is_read, int error);

/* Of all jobs' roots; opaque is the Job. */
extern const BlockRootOps block_job_root_ops;
/* A filter that only has other permissions, for the time that an image and its backing image are made one. */
extern const BlockDriver block_mirror_top;
/* commit of the active image; the chain was looked at. */
bool job_active_commit_start(JobManager *jobs, BlockNode *active, BlockNode *base, const char *filter_name,
                             const JobStart *start, GError **error);

#endif
