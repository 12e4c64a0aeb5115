#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A static program (soak_guest.c) as the first process of a Linux guest. --lockstep: the kernel's boot and programs of many
kinds, with translated blocks compared with the interpreter, and with the translator's stress switches; results are compared
with the host's. --smp: two CPUs and four do litmus tests, modify code, and take pages from each other; a count of what must not be
is to be 0. --long: more of both (`make soak-cpu`)."""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from harness import ROOT, Machine, Tap, cpio, expect  # noqa: E402


def results(text):
    return dict(re.findall(r"^soak: (\S+) ([0-9a-f]+)$", text.replace("\r", ""), re.M))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--timeout", type=int, default=150)
    parser.add_argument("--lockstep", action="store_true")
    parser.add_argument("--smp", action="store_true")
    parser.add_argument("--long", action="store_true")
    args = parser.parse_args()
    if args.long:
        args.lockstep = args.smp = True
        args.timeout = 3600
    guest = pathlib.Path(os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    compiler = shutil.which("cc") or shutil.which("gcc")
    tap = Tap()
    reason = (f"no guest in {guest}: run make guest" if not (guest / "vmlinuz").exists()
              else "no C compiler" if not compiler else None)
    if reason:
        def missing():
            raise Tap.Skip(reason)
        tap.test("programs in a guest", missing)
        tap.finish()
    with tempfile.TemporaryDirectory(prefix="rhea-soak-") as directory:
        program = pathlib.Path(directory) / "program"
        subprocess.run([compiler, "-O2", "-static", "-pthread", "-o", program, HERE / "soak_guest.c", "-lm"], check=True)
        image = pathlib.Path(directory) / "initrd"
        image.write_bytes(cpio({"init": (0o100755, program.read_bytes())}))

        def boot(accel, what, cpus):
            arguments = ["-M", "microvm", "-accel", accel, "-cpu", "max", "-smp", cpus, "-m", "256", "-nodefaults",
                         "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", guest / "vmlinuz", "-initrd", image,
                         "-append", f"console=ttyS0 quiet panic=-1 soak={what}"]
            with Machine(args.build / "rhea-system-x86_64", arguments, directory) as vm:
                vm.wait_text(r"soak: done", args.timeout)
                expect(vm.wait(60) == 0, f"exit status {vm.process.returncode}\n{vm.tail()}")
                return results(vm.text())

        host = results(subprocess.run([program, "work"], stdout=subprocess.PIPE, check=True, text=True).stdout)

        def work(accel):
            got = boot(accel, "work", 1)
            expect(len(host) >= 8 and got == host, f"host: {host}\nguest: {got}")

        def smp(accel, cpus):
            got = boot(accel, "smp", cpus)
            expect(got.pop("cpus", None) == str(cpus), f"{cpus} CPUs: {got}")
            expect(len(got) >= (17 if cpus >= 4 else 9) and set(got.values()) == {"0"}, f"seen what must not be: {got}")

        lockstep = ["tcg,lockstep=on,lockstep-every=100", "tcg,stress=evict+flush+poll", "tcg", "tcg,stress=windows"]
        two, four = ["tcg"], ["tcg"]
        if args.long:
            lockstep += ["tcg,lockstep=on", "tcg,lockstep=on,elide=off", "tcg,lockstep=on,lockstep-every=5,stress=evict+flush",
                         "tcg,lockstep=on,lockstep-every=5,max-insns=3"]
            two += ["tcg,stress=evict+flush+poll", "tcg,chain=off", "tcg,jit=off"] + ["tcg"] * 10
            four += ["tcg,stress=evict+flush+poll", "tcg,jit=off", "tcg,windows=off"] + ["tcg"] * 3
        for accel in lockstep if args.lockstep else []:
            tap.test(f"-accel {accel}", work, accel)
        for accel in two if args.smp else []:
            tap.test(f"-accel {accel} -smp 2", smp, accel, 2)
        for accel in four if args.smp else []:
            tap.test(f"-accel {accel} -smp 4", smp, accel, 4)
    tap.finish()


if __name__ == "__main__":
    main()
