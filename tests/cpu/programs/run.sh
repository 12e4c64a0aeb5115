#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs the jobs (programs/jobs/NAME.sh) that it is told, on the host and in the guest alike: run.sh FACTOR NAME...
# Standard output of a job is its result (/work/out/NAME, compared); standard error goes to /work/log/NAME, and is not.
# Prints "job NAME STATUS SHA256 SECONDS". A job may run for as long as its line "# timeout: SECONDS" says, times FACTOR.
export LC_ALL=C TZ=UTC HOME=/work/home TMPDIR=/work/tmp PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/jvm/java-17-openjdk-amd64/bin
# Alternatives that only an installed system points to.
export LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/blas:/usr/lib/x86_64-linux-gnu/lapack
unset LANG LANGUAGE MAKEFLAGS
factor=$1
shift
cd /work || exit 1
mkdir -p home tmp out log
for job in "$@"; do
    limit=$(sed -n 's/^# timeout: //p' "jobs/$job.sh")
    echo "start $job"
    mkdir -p "tmp/$job"
    begun=$(cut -d' ' -f1 /proc/uptime)
    (cd "tmp/$job" && FILES=/work/files timeout -k 10 "$((limit * factor))" bash "/work/jobs/$job.sh") \
        >"out/$job" 2>"log/$job" </dev/null
    status=$?
    ended=$(cut -d' ' -f1 /proc/uptime)
    rm -rf "tmp/$job"
    sum=$(sha256sum <"out/$job")
    echo "job $job $status ${sum%% *} $(awk "BEGIN { print $ended - $begun }")"
done
