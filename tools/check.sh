#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# `make check`: layers, formatting, headers that compile alone, clang-tidy. check.sh BUILD
set -u
build=$1
cd "$(dirname "$0")/.."
bad=0

tools/check_layers.py --build "$build" || bad=1

files=$(git ls-files --cached --others --exclude-standard '*.c' '*.h')
# shellcheck disable=SC2086
if clang-format --dry-run -Werror $files >"$build/format.log" 2>&1; then
    echo "format: clean"
else
    grep -E '^[^ ]+:[0-9]+' "$build/format.log" | cut -d: -f1 | sort | uniq -c
    echo "format: run make format"
    bad=1
fi

# Each header must compile on its own.
flags=$(python3 - "$build" <<'P'
import json, shlex, sys
for entry in json.load(open(sys.argv[1] + "/compile_commands.json")):
    words = shlex.split(entry["command"])
    print(" ".join(w for w in words if w.startswith(("-I", "-D", "-isystem", "-std="))))
    break
P
)
failed=0
for header in $(git ls-files 'src/*.h'); do
    # Paths in the flags are relative to the build directory.
    if ! (cd "$build" && echo "#include \"${header#src/}\"" | cc $flags -fsyntax-only -Wall -x c - 2>header.log); then
        echo "header does not compile alone: $header"
        head -n 5 "$build/header.log"
        failed=1
    fi
done
[ $failed = 0 ] && echo "headers: each compiles alone" || bad=1

# clang-tidy on what the change touches (everything with TIDY=all); sources only.
if [ "${TIDY-}" = all ]; then
    tidy=$(git ls-files 'src/*.c')
else
    tidy=$(git diff --name-only --diff-filter=d "$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse HEAD)" -- 'src/*.c')
fi
if [ -n "$tidy" ]; then
    # shellcheck disable=SC2086
    if clang-tidy -p "$build" --quiet $tidy >"$build/tidy.log" 2>/dev/null; then
        echo "clang-tidy: clean"
    else
        grep -E 'error|warning' "$build/tidy.log" | head -n 40
        bad=1
    fi
fi
exit $bad
