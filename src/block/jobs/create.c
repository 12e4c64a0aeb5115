/* create: an image is made (blockdev-create). SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/jobs/job_internal.h"

#include "base/error.h"
#include "qapi/visitor.h"

#include <errno.h>

typedef struct CreateJob {
    Job job;
    const BlockDriver *target_driver;
    QapiBlockdevCreateOptions *options;
} CreateJob;

static int create_run(Job *job, GError **error)
{
    CreateJob *c = (CreateJob *)job;

    job->total = 1;
    if (!c->target_driver->co_create(job->graph, c->options, error)) {
        return -EIO;
    }
    job->current = 1;
    return 0;
}

static void create_clean(Job *job, bool ok)
{
    qapi_BlockdevCreateOptions_free(((CreateJob *)job)->options);
}

static const JobDriver create_driver = {
    .instance_size = sizeof(CreateJob),
    .type = "create",
    .run = create_run,
    .clean = create_clean,
};

bool job_create_start(JobManager *jobs, const char *id, QapiBlockdevCreateOptions *options, GError **error)
{
    const BlockDriver *driver =
        block_driver_find(enum_name(&qapi_BlockdevDriver_lookup, options->driver), error);
    JobStart start = { .id = id, .auto_finalize = true, .auto_dismiss = false };
    CreateJob *c = NULL;

    if (driver && !driver->co_create) {
        error_set(error, "Driver does not support blockdev-create");
    } else if (driver) {
        c = (CreateJob *)job_new(jobs, &create_driver, NULL, &start, error);
    }
    if (!c) {
        qapi_BlockdevCreateOptions_free(options);
        return false;
    }
    c->target_driver = driver;
    c->options = options;
    job_run(&c->job);
    return true;
}
