#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The name by which the loader finds a library of the linker's: soname.sh LIBRARY COMPILER... (nettle: libnettle.so.8)
set -eu
library=$1
shift
file=$("$@" "-print-file-name=lib$library.so")
name=$(objdump -p "$file" | sed -n 's/^ *SONAME *//p')
[ -n "$name" ] || { echo "$file has no name for the loader" >&2; exit 1; }
echo "$name"
