/* The life of jobs. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/jobs/job_internal.h"

#include "base/error.h"
#include "io/options.h"

#include <errno.h>
#include <string.h>

#define SLICE_NS 100000000 /* a limit on speed is kept over tenths of a second */

struct JobManager {
    BlockGraph *graph;
    GPtrArray *list; /* of Job * */
};

static const char *const status_names[] = { "created", "running", "paused",   "ready",     "standby",
                                            "waiting", "pending", "aborting", "concluded", "null" };

/* ---- the list ---- */

JobManager *job_manager_new(BlockGraph *graph)
{
    JobManager *jobs = g_new0(JobManager, 1);

    jobs->graph = graph;
    jobs->list = g_ptr_array_new();
    return jobs;
}

void job_manager_free(JobManager *jobs)
{
    if (!jobs) {
        return;
    }
    block_graph_set_event_hook(jobs->graph, NULL, NULL);
    while (jobs->list->len) {
        Job *job = g_ptr_array_index(jobs->list, 0);

        switch (job->status) {
        case JOB_CONCLUDED:
            job_dismiss(job, NULL);
            break;
        case JOB_PENDING:
            job_finalize(job, NULL);
            break;
        default:
            job->user_paused = false;
            job_cancel(job, true, NULL);
            loop_iterate(block_graph_loop(jobs->graph), true);
        }
    }
    g_ptr_array_unref(jobs->list);
    g_free(jobs);
}

Job *job_find(JobManager *jobs, const char *id, bool block_job, GError **error)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        Job *job = g_ptr_array_index(jobs->list, i);

        if (strcmp(job->id, id) == 0 && (!block_job || job->driver->is_block_job)) {
            return job;
        }
    }
    if (block_job) {
        error_set_class(error, ERROR_CLASS_DEVICE_NOT_ACTIVE, "Block job '%s' not found", id);
    } else {
        error_set(error, "Job not found");
    }
    return NULL;
}

static void put(json_object *o, const char *name, const char *value)
{
    json_object_object_add(o, name, json_object_new_string(value));
}

static void put_u64(json_object *o, const char *name, uint64_t value)
{
    json_object_object_add(o, name, json_object_new_uint64(value));
}

static void put_bool(json_object *o, const char *name, bool value)
{
    json_object_object_add(o, name, json_object_new_boolean(value));
}

json_object *jobs_query(JobManager *jobs)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < jobs->list->len; i++) {
        Job *job = g_ptr_array_index(jobs->list, i);
        json_object *o = json_object_new_object();

        put(o, "id", job->id);
        put(o, "type", job->driver->type);
        put(o, "status", status_names[job->status]);
        put_u64(o, "current-progress", job->current);
        put_u64(o, "total-progress", job->total);
        if (job->error_text) {
            put(o, "error", job->error_text);
        }
        json_object_array_add(list, o);
    }
    return list;
}

json_object *jobs_query_block(JobManager *jobs)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < jobs->list->len; i++) {
        Job *job = g_ptr_array_index(jobs->list, i);
        json_object *o;

        if (!job->driver->is_block_job) {
            continue;
        }
        o = json_object_new_object();
        put(o, "type", job->driver->type);
        put(o, "device", job->id);
        put_u64(o, "len", job->total);
        put_u64(o, "offset", job->current);
        put_bool(o, "busy", job->busy);
        put_bool(o, "paused", job->user_paused);
        put_u64(o, "speed", job->speed);
        put(o, "io-status", !job->io_error ? "ok" : job->io_error == ENOSPC ? "nospace" : "failed");
        put_bool(o, "ready", job->ready);
        put(o, "status", status_names[job->status]);
        put_bool(o, "auto-finalize", job->auto_finalize);
        put_bool(o, "auto-dismiss", job->auto_dismiss);
        if (job->error_text) {
            put(o, "error", job->error_text);
        }
        json_object_array_add(list, o);
    }
    return list;
}

/* ---- events and states ---- */

static void set_status(Job *job, JobStatus status)
{
    json_object *data;

    if (job->status == status) {
        return;
    }
    job->status = status;
    data = json_object_new_object();
    put(data, "id", job->id);
    put(data, "status", status_names[status]);
    block_graph_emit(job->graph, "JOB_STATUS_CHANGE", data);
}

static json_object *block_event(Job *job)
{
    json_object *data = json_object_new_object();

    put(data, "type", job->driver->type);
    put(data, "device", job->id);
    put_u64(data, "len", job->total);
    put_u64(data, "offset", job->current);
    put_u64(data, "speed", job->speed);
    return data;
}

/* ---- making ---- */

static void timer_fired(void *opaque)
{
    job_enter(opaque);
}

Job *job_new(JobManager *jobs, const JobDriver *driver, const char *default_id, const JobStart *start,
             GError **error)
{
    const char *id = start->id ? start->id : default_id;
    Job *job;

    if (!id || !*id) {
        error_set(error, "An explicit job ID is required for this node");
        return NULL;
    }
    if (!options_id_ok(id)) {
        error_set(error, "Invalid job ID '%s'", id);
        return NULL;
    }
    if (job_find(jobs, id, false, NULL)) {
        error_set(error, "Job ID '%s' already in use", id);
        return NULL;
    }
    job = g_malloc0(driver->instance_size);
    job->driver = driver;
    job->jobs = jobs;
    job->graph = jobs->graph;
    job->loop = block_graph_loop(jobs->graph);
    job->id = g_strdup(id);
    job->speed = start->speed;
    job->auto_finalize = start->auto_finalize;
    job->auto_dismiss = start->auto_dismiss;
    job->on_source_error = start->on_source_error;
    job->on_target_error = start->on_target_error;
    job->status = JOB_CREATED;
    timer_init(&job->timer, job->loop, NULL, CLOCK_TYPE_REALTIME, timer_fired, job, NULL);
    g_ptr_array_add(jobs->list, job);
    return job;
}

void job_drop(Job *job)
{
    g_ptr_array_remove(job->jobs->list, job);
    timer_destroy(&job->timer);
    g_free(job->id);
    g_free(job->error_text);
    g_free(job);
}

static void dismiss(Job *job)
{
    set_status(job, JOB_NULL);
    job_drop(job);
}

static void conclude(Job *job, bool ok)
{
    if (job->driver->clean) {
        job->driver->clean(job, ok);
    }
    if (job->driver->is_block_job) {
        json_object *data = block_event(job);
        bool cancelled = job->ret == -ECANCELED;

        if (job->ret && !cancelled) {
            put(data, "error", job->error_text);
        }
        block_graph_emit(job->graph, cancelled ? "BLOCK_JOB_CANCELLED" : "BLOCK_JOB_COMPLETED", data);
    }
    set_status(job, JOB_CONCLUDED);
    if (job->auto_dismiss) {
        dismiss(job);
    }
}

static void fail(Job *job, int ret, const char *text)
{
    job->ret = ret;
    g_free(job->error_text);
    job->error_text = g_strdup(text ? text : g_strerror(-ret));
    set_status(job, JOB_ABORTING);
    conclude(job, false);
}

static void finalize(Job *job)
{
    g_autoptr(GError) error = NULL;

    if (job->driver->prepare && !job->driver->prepare(job, &error)) {
        g_autofree char *text = error ? error_message(error) : NULL;

        fail(job, -EIO, text ? text : "the last step failed");
    } else {
        conclude(job, true);
    }
}

static void ended(void *opaque)
{
    Job *job = opaque;

    job->busy = false;
    job->co = NULL;
    if (job->cancelled && (job->forced || !job->ready) && !job->ret) {
        job->ret = -ECANCELED;
    }
    if (job->ret) {
        g_autofree char *text = g_steal_pointer(&job->error_text);

        fail(job, job->ret, text);
        return;
    }
    set_status(job, JOB_WAITING);
    set_status(job, JOB_PENDING);
    if (job->auto_finalize) {
        finalize(job);
        return;
    }
    if (job->driver->is_block_job) {
        json_object *data = json_object_new_object();

        put(data, "type", job->driver->type);
        put(data, "id", job->id);
        block_graph_emit(job->graph, "BLOCK_JOB_PENDING", data);
    }
}

static void job_entry(void *opaque)
{
    Job *job = opaque;
    g_autoptr(GError) error = NULL;

    job_pause_point(job);
    job->ret = job->driver->run(job, &error);
    job_ops_wait(job);
    if (error) {
        job->error_text = error_message(error);
    }
    loop_call(job->loop, ended, job); /* outside the coroutine */
}

void job_run(Job *job)
{
    set_status(job, JOB_RUNNING);
    job->busy = true;
    job->co = coroutine_new(job_entry, job);
    coroutine_wake(job->loop, job->co);
}

/* ---- in the coroutine ---- */

void job_wait(Job *job)
{
    job->waiting = true;
    coroutine_yield();
}

void job_sleep_ns(Job *job, int64_t ns)
{
    if (job->cancelled && job->forced) {
        return;
    }
    job->busy = false;
    timer_set(&job->timer, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + ns);
    job_wait(job);
    timer_cancel(&job->timer);
    job->busy = true;
}

void job_enter(Job *job)
{
    if (job->waiting) {
        job->waiting = false;
        coroutine_wake(job->loop, job->co);
    }
}

bool job_pause_point(Job *job)
{
    while (job->user_paused && !job->cancelled) {
        JobStatus was = job->status;

        job_ops_wait(job);
        if (!job->user_paused) {
            break;
        }
        set_status(job, was == JOB_READY ? JOB_STANDBY : JOB_PAUSED);
        job->busy = false;
        job_wait(job);
        job->busy = true;
        set_status(job, was);
    }
    return job->cancelled && (job->forced || !job->ready);
}

void job_limit(Job *job, uint64_t n)
{
    int64_t now = clock_now_ns(NULL, CLOCK_TYPE_REALTIME);

    if (!job->speed) {
        job->limit_ns = 0;
        return;
    }
    job->limit_ns = MAX(job->limit_ns, now) + (int64_t)((double)n * 1e9 / (double)job->speed);
    while (job->speed && job->limit_ns > now + SLICE_NS / 10 && !(job->cancelled && job->forced) &&
           !job->user_paused) {
        job_sleep_ns(job, MIN(job->limit_ns - now, SLICE_NS));
        now = clock_now_ns(NULL, CLOCK_TYPE_REALTIME);
    }
}

void job_op_start(Job *job, CoroutineFunc *fn, void *opaque)
{
    while (job->ops >= JOB_MAX_OPS) {
        job_wait(job);
    }
    job->ops++;
    coroutine_enter(coroutine_new(fn, opaque));
}

void job_op_end(Job *job)
{
    job->ops--;
    job_enter(job);
}

void job_ops_wait(Job *job)
{
    while (job->ops) {
        job_wait(job);
    }
}

void job_set_ready(Job *job)
{
    job->ready = true;
    set_status(job, JOB_READY);
    block_graph_emit(job->graph, "BLOCK_JOB_READY", block_event(job));
}

bool job_failed(Job *job, bool is_read, int error)
{
    JobOnError policy = is_read ? job->on_source_error : job->on_target_error;
    json_object *data = json_object_new_object();
    bool stop = policy == JOB_ON_ERROR_STOP || (policy == JOB_ON_ERROR_ENOSPC && error == ENOSPC);
    bool ignore = policy == JOB_ON_ERROR_IGNORE;

    put(data, "device", job->id);
    put(data, "operation", is_read ? "read" : "write");
    put(data, "action", stop ? "stop" : ignore ? "ignore" : "report");
    block_graph_emit(job->graph, "BLOCK_JOB_ERROR", data);
    if (stop) {
        job->user_paused = true;
        job->io_error = error;
    }
    return !stop && !ignore;
}

/* ---- what clients ask ---- */

static bool may(Job *job, const char *verb, unsigned states, GError **error)
{
    return (states & 1u << job->status) ||
           error_set(error, "Job '%s' in state '%s' cannot accept command verb '%s'", job->id,
                     status_names[job->status], verb);
}

#define ALIVE (1u << JOB_CREATED | 1u << JOB_RUNNING | 1u << JOB_PAUSED | 1u << JOB_READY | 1u << JOB_STANDBY)

bool job_pause(Job *job, GError **error)
{
    if (!may(job, "pause", ALIVE, error)) {
        return false;
    }
    if (job->user_paused) {
        return error_set(error, "Job is already paused");
    }
    job->user_paused = true;
    job_enter(job);
    return true;
}

bool job_resume(Job *job, GError **error)
{
    if (!job->user_paused) {
        return error_set(error, "Can't resume a job that was not paused");
    }
    if (!may(job, "resume", ALIVE, error)) {
        return false;
    }
    job->user_paused = false;
    job->io_error = 0;
    job_enter(job);
    return true;
}

bool job_cancel(Job *job, bool force, GError **error)
{
    if (!may(job, "cancel", ALIVE | 1u << JOB_WAITING | 1u << JOB_PENDING, error)) {
        return false;
    }
    if (job->user_paused && !force) {
        return error_set(error, "The block job for device '%s' is currently paused", job->id);
    }
    job->cancelled = true;
    job->forced = job->forced || force || !job->ready;
    if (job->status == JOB_PENDING || job->status == JOB_WAITING) {
        fail(job, -ECANCELED, NULL);
        return true;
    }
    job_enter(job);
    return true;
}

bool job_complete(Job *job, GError **error)
{
    if (!may(job, "complete", 1u << JOB_READY, error)) {
        return false;
    }
    if (job->user_paused || job->cancelled || !job->driver->complete) {
        return error_set(error, "The active block job '%s' cannot be completed", job->id);
    }
    return job->driver->complete(job, error);
}

bool job_finalize(Job *job, GError **error)
{
    if (!may(job, "finalize", 1u << JOB_PENDING, error)) {
        return false;
    }
    finalize(job);
    return true;
}

bool job_dismiss(Job *job, GError **error)
{
    if (!may(job, "dismiss", 1u << JOB_CONCLUDED, error)) {
        return false;
    }
    dismiss(job);
    return true;
}

bool job_set_speed(Job *job, uint64_t bytes_per_s, GError **error)
{
    if (!may(job, "set-speed", ALIVE, error)) {
        return false;
    }
    if (bytes_per_s > G_MAXINT64) {
        return error_set(error, "Parameter 'speed' expects a non-negative value");
    }
    job->speed = bytes_per_s;
    job->limit_ns = 0;
    job_enter(job);
    return true;
}
