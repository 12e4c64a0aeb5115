#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Installs what a bare Debian 12 lacks for building, running and (with --test) testing Rhea, (with --bench) for
# `make bench-cpu`, (with --programs) for `make soak-programs`, and (with --disks) for tests with a whole Debian.
set -eu

build="gcc libc6-dev meson ninja-build pkg-config python3 libglib2.0-dev liburing-dev liburcu-dev libjson-c-dev
       libslirp-dev libzydis-dev zlib1g-dev libbz2-dev libdeflate-dev libzstd-dev nettle-dev libgnutls28-dev libnbd-dev
       libvncserver-dev"
run="cpio gzip ca-certificates"
test="clang clang-format clang-tidy libclang-rt-14-dev qemu-system-x86 qemu-utils seabios ipxe-qemu grub-common grub-pc-bin e2fsprogs iproute2 passt
      libvirt-daemon-system libvirt-clients socat procps binutils nasm gdb gnutls-bin libnbd-bin nbdkit fio libguestfs-tools novnc"
programs="mmdebstrap e2fsprogs util-linux openssl"
disks="mmdebstrap e2fsprogs mtools grub-common grub-pc-bin grub-efi-amd64-bin seabios ovmf ipxe-qemu"
bench="qemu-system-x86 seabios openssl perl sqlite3 zstd xz-utils bzip2 bc mawk dash"
want="$build $run"
case ${1-} in
--test) want="$want $test" ;;
--disks) want="$want $disks" ;;
--bench) want="$want $bench" ;;
--programs) want="$want $programs" ;;
esac

missing=
for package in $want; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null; then
        sudo=sudo
    else
        echo "These packages are missing:$missing" >&2
        echo "Install them as root: apt-get install$missing" >&2
        exit 1
    fi
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# Services that packages bring must not start here.
${sudo-} apt-get update -qq >&2
# shellcheck disable=SC2086
${sudo-} env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
