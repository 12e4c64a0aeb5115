#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# run_guest.sh BUILD GUEST: what `make run` does once all is built.
set -eu
build=$1 guest=$2
disk=$guest/disk.qcow2
[ -e "$disk" ] || "$build/rhea-img" create -q -f qcow2 -o journal=auto "$disk" 1G
if [ -t 0 ] && [ -t 1 ]; then
    exec "$build/rhea" run --kernel "$guest/vmlinuz" --initrd "$guest/initrd.gz" "$disk"
fi
exec "$(dirname "$0")/../tests/boot/boot_test.py" --build "$build" --guest "$guest" --machine pc --smp 2 --summary
