# V8 makes code, makes it anew, and throws it away.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
set -e
for options in "" "--always-opt" "--no-opt" "--jitless" "--stress-compaction" "--gc-interval=500"; do
    echo "== $options"
    # shellcheck disable=SC2086
    node $options "$FILES/work.js"
done
for options in "" "--liftoff-only" "--no-liftoff" "--no-wasm-tier-up"; do
    echo "== wasm $options"
    # shellcheck disable=SC2086
    node $options "$FILES/wasm.js" 
done
node "$FILES/threads.js"
