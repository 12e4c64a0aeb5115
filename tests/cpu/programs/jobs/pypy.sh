# A tracing compiler for Python; the same program by CPython, and both under a checksum.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 200
set -e
pypy3 "$FILES/work.py"
pypy3 --jit threshold=5,trace_eagerness=3 "$FILES/work.py"
python3 "$FILES/work.py"
