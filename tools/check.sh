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

# clang-tidy: on all that is compiled with TIDY=all, else on what changed since the branch left main, the working tree
# included; on main itself since TIDY_BASE or twenty commits ago, so that there always is something to look at. A
# header is looked at through the source beside it. Where history does not go back that far: on all.
base=${TIDY_BASE-}
if [ -z "$base" ]; then
    base=$(git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD main 2>/dev/null || true)
    if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
        base=HEAD~20
    fi
fi
if [ "${TIDY-}" != all ] && git rev-parse --quiet --verify "$base^{commit}" >/dev/null; then
    wanted=$({ git diff --name-only --diff-filter=d "$base" -- '*.c' '*.h'
               git ls-files --others --exclude-standard '*.c' '*.h'; } | sed 's/\.h$/.c/' | sort -u)
    what="since $(git rev-parse --short "$base")"
else
    wanted=$(git ls-files --cached --others --exclude-standard '*.c')
    what="everything"
fi
tidy=$(echo "$wanted" | python3 -c '
import json, os, sys
build = sys.argv[1]
compiled = {os.path.relpath(os.path.join(e["directory"], e["file"])) for e in
            json.load(open(build + "/compile_commands.json"))}
print("\n".join(name for name in sys.stdin.read().split() if name in compiled))' "$build")
if [ -z "$tidy" ]; then
    echo "clang-tidy: nothing to look at, $what"
else
    rm -rf "$build/tidy"
    mkdir -p "$build/tidy"
    # What clang does not know of gcc's options ends its run.
    sed -E 's/ -mmem(cpy|set)-strategy=[^ "]*//g' "$build/compile_commands.json" >"$build/tidy/compile_commands.json"
    # shellcheck disable=SC2016
    if echo "$tidy" | xargs -P "${JOBS:-$(nproc)}" -I {} sh -c \
        'clang-tidy -p "$1/tidy" --quiet "$2" >"$1/tidy/$(echo "$2" | tr / _).log" 2>/dev/null' - "$build" {}; then
        echo "clang-tidy: $(echo "$tidy" | wc -l) sources clean, $what"
    else
        cat "$build"/tidy/*.log | grep -E '(error|warning):' | sort -u | head -n 60
        echo "clang-tidy: the whole of it is in $build/tidy"
        bad=1
    fi
fi
exit $bad
