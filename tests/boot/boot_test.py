#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots Debian's kernel (tools/guest.sh) on a machine and lets the guest check itself: CPUs, clock, random numbers,
disk, file system, network, power-off. Each of the guest's checks is one test here."""
import argparse
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect  # noqa: E402


def arguments_for(machine, smp, guest, disk, command_line, memory="512", accel="tcg"):
    bus = "device" if machine == "microvm" else "pci"
    return ["-M", machine, "-accel", accel, "-smp", smp, "-m", memory, "-nodefaults", "-no-reboot", "-display", "none",
            "-serial", "stdio", "-kernel", guest / "vmlinuz", "-initrd", guest / "initrd.gz",
            "-append", command_line,
            "-drive", f"file={disk},format=raw,if=none,id=disk0", "-device", f"virtio-blk-{bus},drive=disk0",
            "-netdev", "user,id=net0", "-device", f"virtio-net-{bus},netdev=net0",
            "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", f"virtio-rng-{bus},rng=rng0"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--machine", default="pc")
    parser.add_argument("--smp", type=int, default=2)
    parser.add_argument("--accel", default="tcg", help="as -accel takes it")
    parser.add_argument("--tests", default="all")
    parser.add_argument("--append", default="")
    parser.add_argument("--cpu", help="the model; else the machine's own")
    parser.add_argument("--flags", default="", help="of the guest's /proc/cpuinfo, by commas; not:NAME: absent")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--summary", action="store_true", help="end with a line 'N passed, N failed'")
    parser.add_argument("--verbose", action="store_true", help="show the guest's console")
    args = parser.parse_args()
    guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    binary = args.binary or args.build / "rhea-system-x86_64"
    tap = Tap()
    if not (guest / "vmlinuz").exists():
        def missing():
            raise Tap.Skip(f"no guest in {guest}: run make guest")
        tap.test(f"{args.machine}: boot", missing)
        tap.finish(args.summary)

    import tempfile
    with tempfile.TemporaryDirectory(prefix="rhea-boot-") as directory:
        disk = pathlib.Path(directory) / "disk.img"
        with open(disk, "wb") as image:
            image.truncate(64 << 20)
        checks = f"{args.tests},flags rhea.flags={args.flags}" if args.flags else args.tests
        line = f"console=ttyS0 quiet rhea.test={checks} rhea.cpus={args.smp} {args.append}".strip()
        arguments = arguments_for(args.machine, args.smp, guest, disk, line, accel=args.accel)
        if args.cpu:
            arguments += ["-cpu", args.cpu]
        with Machine(binary, arguments, directory) as vm:
            def boots():
                vm.wait_text(r"init: Linux \S+ is up", args.timeout)

            def checks_itself():
                vm.wait_text(r"guest: \d+ passed, \d+ failed", args.timeout)

            def powers_off():
                expect(vm.wait(60) == 0, f"exit status {vm.process.returncode}\n{vm.tail()}")

            tap.test(f"{args.machine} -smp {args.smp}: boots to init", boots)
            if tap.failed == 0:
                tap.test(f"{args.machine}: runs its checks", checks_itself)
            text = vm.text().replace("\r", "")
            if args.verbose:
                print("".join(f"# {line}\n" for line in text.splitlines()))
            for verdict, name in re.findall(r"^(ok|not ok) (.*)$", text, re.M):
                def judged(verdict=verdict):
                    expect(verdict == "ok", vm.tail(40))
                tap.test(f"{args.machine}: {name}", judged)
            if tap.failed == 0:
                tap.test(f"{args.machine}: powers off", powers_off)
    tap.finish(args.summary)


if __name__ == "__main__":
    main()
