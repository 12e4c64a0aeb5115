#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the tests of the accelerator "kvm" on a host without /dev/kvm: Debian's kernel with its KVM in a machine for which QEMU's
translator emulates AMD's SVM. That KVM runs kernel code natively, as on bare hardware, but some hundred times slower than
that. The host's files are seen read-only through 9p; /tmp and --share are writable. As root. With a COMMAND that one runs
instead, in --build's source directory."""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "kvm_amd", "virtio_rng")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host
mount -t tmpfs tmp /host/tmp
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=262144 share /host/mnt
for place in proc sys dev; do mount --bind /$place /host/$place; done
mount -t tmpfs shm /host/dev/shm
ip link set lo up
chroot /host /bin/sh /mnt/command
echo "nested status $?"
poweroff -f
"""


def modules_in_order(directory, release):
    """Files of MODULES and what they need, each after what it needs."""
    needs = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        needs[pathlib.Path(name).name.split(".")[0].replace("-", "_")] = [name] + others.split()
    order = []
    for module in MODULES:
        for file in reversed(needs[module]):
            if file not in order:
                order.append(file)
    return order


def make_initrd(guest, target):
    release = (guest / "kernel-release").read_text().strip()
    modules = guest / "root/lib/modules" / release
    with tempfile.TemporaryDirectory(prefix="rhea-nested-") as name:
        tree = pathlib.Path(name)
        for place in ("bin", "dev", "proc", "sys", "tmp", "host", "modules"):
            (tree / place).mkdir()
        shutil.copy(guest / "root/bin/busybox", tree / "bin/busybox")
        order = modules_in_order(modules, release)
        for file in order:
            shutil.copy(modules / file, tree / "modules")
        (tree / "modules/order").write_text("".join(f"{pathlib.Path(file).name}\n" for file in order))
        (tree / "init").write_text(INIT)
        (tree / "init").chmod(0o755)
        with open(target, "wb") as out:
            subprocess.run("find . | cpio --quiet -o -H newc -R 0:0 | gzip -1", shell=True, cwd=tree, stdout=out, check=True)


def share_options(tag, path, more=""):
    return ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap{more}", "-device",
            f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path, default=ROOT / "build/guest-generic", help="tools/guest.sh -k generic")
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--share", type=pathlib.Path, help="a directory that the commands see as /mnt, writable")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds (default 3600)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not shutil.which(args.qemu):
        sys.exit(f"{sys.argv[0]}: there is no {args.qemu}: install the package qemu-system-x86")
    if os.geteuid() != 0:
        sys.exit(f"{sys.argv[0]}: only root may show all of the host's files to the machine")
    build = args.build.resolve()
    command = " ".join(args.command) or (f"{build}/src/test_accel_kvm_kvm_test --tap && "
                                         f"python3 tests/machine/kvm_test.py --build {build}")
    with tempfile.TemporaryDirectory(prefix="rhea-nested-") as name:
        directory = pathlib.Path(name)
        share = args.share.resolve() if args.share else directory
        (share / "command").write_text(f"cd {ROOT} && {command}\n")
        make_initrd(args.guest.resolve(), directory / "initrd.gz")
        machine = [args.qemu, "-accel", "tcg,thread=multi", "-M", "pc", "-cpu", "EPYC,+svm,-nrip-save", "-smp", "2", "-m", "3G",
                   "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", args.guest / "vmlinuz",
                   "-initrd", directory / "initrd.gz", "-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1",
                   "-device", "virtio-rng-pci"] + share_options("host", "/", ",readonly=on") + share_options("share", share)
        process = subprocess.Popen(machine, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   text=True, errors="replace")
        limit = threading.Timer(args.timeout, process.kill)
        limit.start()
        status = None
        try:
            for line in process.stdout:
                if line.startswith("nested status "):
                    status = int(line.split()[2])
                else:
                    print(line.replace("\r", ""), end="", flush=True)
        finally:
            limit.cancel()
            process.kill()
            process.wait()
    if status is None:
        print(f"{sys.argv[0]}: the machine did not come to the command's end in {args.timeout} s", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
