# The JVM: interpreted, compiled by each of its compilers, collected by each of its collectors.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 400
set -e
javac -d . "$FILES/Work.java"
for options in "" "-Xint" "-XX:TieredStopAtLevel=1" "-XX:-TieredCompilation" "-Xcomp" "-XX:+UseSerialGC" "-XX:+UseParallelGC" "-XX:+UseZGC -Xmx300m" "-XX:+UseShenandoahGC -Xmx200m" "-XX:+UseG1GC -Xmx64m"; do
    echo "== $options"
    # shellcheck disable=SC2086
    java $options -Xshare:off -cp . Work
done
