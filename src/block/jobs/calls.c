/* Jobs whose work is another subsystem's (snapshots of a whole machine). SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "block/jobs/job_internal.h"

typedef struct CallsJob {
    Job job;
    const JobCalls *calls;
    void *opaque;
} CallsJob;

static int calls_run(Job *job, GError **error)
{
    CallsJob *c = (CallsJob *)job;

    job->total = 1;
    int ret = c->calls->run(c->opaque, error);
    job->current = ret >= 0;
    return ret;
}

static bool calls_prepare(Job *job, GError **error)
{
    CallsJob *c = (CallsJob *)job;

    return !c->calls->prepare || c->calls->prepare(c->opaque, error);
}

static void calls_clean(Job *job, bool ok)
{
    CallsJob *c = (CallsJob *)job;

    c->calls->clean(c->opaque, ok);
}

bool job_calls_start(JobManager *jobs, const JobCalls *calls, const char *id, void *opaque, GError **error)
{
    /* One driver a type, since a job's type is its driver's; there are a handful. */
    static GHashTable *drivers;
    JobStart start = { .id = id, .auto_finalize = true, .auto_dismiss = false };

    if (!drivers) {
        drivers = g_hash_table_new(g_str_hash, g_str_equal);
    }
    JobDriver *driver = g_hash_table_lookup(drivers, calls->type);
    if (!driver) {
        driver = g_new0(JobDriver, 1);
        *driver = (JobDriver){ .instance_size = sizeof(CallsJob),
                               .type = calls->type,
                               .run = calls_run,
                               .prepare = calls_prepare,
                               .clean = calls_clean };
        g_hash_table_insert(drivers, (void *)(uintptr_t)calls->type, driver);
    }
    CallsJob *c = (CallsJob *)job_new(jobs, driver, NULL, &start, error);
    if (!c) {
        return false;
    }
    c->calls = calls;
    c->opaque = opaque;
    job_run(&c->job);
    return true;
}
