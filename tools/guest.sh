#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes a guest from Debian's packages: kernel, its virtio modules, busybox, in a small initramfs.
#   tools/guest.sh [-k cloud|generic|rt] [-o DIRECTORY]
# Leaves DIRECTORY/vmlinuz, DIRECTORY/initrd.gz, DIRECTORY/kernel-release, and DIRECTORY/ide.gz: drivers of IDE, SCSI, USB
# and input as an initial ramdisk to put behind the other. The packages are unpacked below DIRECTORY and not installed. Nothing is done where the result is already there and newer than this script.
set -eu

flavour=cloud
out=build/guest
here=$(cd "$(dirname "$0")" && pwd)
while getopts k:o: option; do
    case $option in
    k) flavour=$OPTARG ;;
    o) out=$OPTARG ;;
    *) echo "usage: $0 [-k cloud|generic|rt] [-o DIRECTORY]" >&2; exit 2 ;;
    esac
done
case $flavour in
cloud) meta=linux-image-cloud-amd64 ;;
generic) meta=linux-image-amd64 ;;
rt) meta=linux-image-rt-amd64 ;;
*) echo "$0: unknown kernel flavour '$flavour': cloud, generic or rt" >&2; exit 2 ;;
esac

if [ -e "$out/initrd.gz" ] && [ "$out/initrd.gz" -nt "$0" ] && [ "$out/initrd.gz" -nt "$here/guest-init" ]; then
    exit 0
fi
mkdir -p "$out/packages" "$out/root"
out=$(cd "$out" && pwd)

# The metapackage names the kernel of today; a kernel that is already unpacked is used again.
package=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
if [ -z "$package" ]; then
    apt-get update >&2
    package=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
fi
[ -n "$package" ] || { echo "$0: Debian's package lists do not name a kernel for $meta" >&2; exit 1; }

fetch() { # fetch PACKAGE: unpacks it into $out/root
    if [ ! -e "$out/packages/$1.done" ]; then
        echo "guest: fetching $1" >&2
        (cd "$out/packages" && rm -f "$1"_*.deb && apt-get download -o APT::Sandbox::User=root "$1" >&2)
        dpkg-deb -x "$out/packages/$1"_*.deb "$out/root"
        rm -f "$out/packages/$1"_*.deb
        : >"$out/packages/$1.done"
    fi
}
fetch "$package"
fetch busybox-static

release=${package#linux-image-}
modules=$out/root/lib/modules/$release
cp "$out/root/boot/vmlinuz-$release" "$out/vmlinuz"
echo "$release" >"$out/kernel-release"

ram=$out/ramfs
rm -rf "$ram"
mkdir -p "$ram/bin" "$ram/dev" "$ram/proc" "$ram/sys" "$ram/tmp" "$ram/etc" "$ram/mnt" "$ram/lib/modules/$release"
cp "$out/root/bin/busybox" "$ram/bin/busybox"
for applet in sh mount umount mkdir cat ls modprobe depmod; do
    ln -s busybox "$ram/bin/$applet"
done
cp "$here/guest-init" "$ram/init"
chmod 755 "$ram/init"

# The modules that the machines need, with all that these depend on.
[ -e "$modules/modules.dep" ] || "$out/root/bin/busybox" depmod -b "$out/root" "$release"
copy_module() {
    for name in "$@"; do
        line=$(grep -E "(^|/)$name\.ko(\.[a-z]+)?:" "$modules/modules.dep" || true)
        for file in $(echo "$line" | tr -d ':'); do
            mkdir -p "$ram/lib/modules/$release/$(dirname "$file")"
            cp "$modules/$file" "$ram/lib/modules/$release/$file"
        done
    done
}
copy_module crc32c_generic virtio_pci virtio_mmio virtio_blk virtio_net virtio-rng virtio_console ext4 button evdev
cp "$modules/modules.builtin" "$modules/modules.order" "$ram/lib/modules/$release/" 2>/dev/null || true
"$out/root/bin/busybox" depmod -b "$ram" "$release"

(cd "$ram" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) | gzip -n -6 >"$out/initrd.gz.new"
# The drivers of IDE and SATA, what a screen's user may want, and of older or rarer devices, for a second ramdisk behind the first. The cloud kernel
# has no USB.
copy_module ata_piix ahci sd_mod sr_mod virtio_scsi virtio_input uhci-hcd xhci-pci usbhid hid-generic usb-storage
copy_module e1000 8139cp 8139too i2c-piix4 i2c-i801 i2c-dev floppy parport_pc ppdev lp virtio-gpu vmw_vsock_virtio_transport
copy_module virtio_balloon qemu_fw_cfg i6300esb
"$out/root/bin/busybox" depmod -b "$ram" "$release"
(cd "$ram" && find lib/modules | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) | gzip -n -6 >"$out/ide.gz"
mv "$out/initrd.gz.new" "$out/initrd.gz"
echo "guest: Linux $release with busybox in $out" >&2
