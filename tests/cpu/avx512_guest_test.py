#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that uses AVX-512 (avx512_guest.c) has the same results in a Linux guest as on the host: translated and
interpreted, and as several processes that take turns; and a guest that is not offered it does not see it."""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from harness import ROOT, Machine, Tap, cpio, expect  # noqa: E402


def lines_of(text):
    return re.findall(r"^avx512: .*$", text.replace("\r", ""), re.M)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--timeout", type=int, default=300)
    args = parser.parse_args()
    guest = pathlib.Path(os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    compiler = shutil.which("cc") or shutil.which("gcc")
    flags = re.search(r"^flags.*$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    needed = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
    tap = Tap()
    reason = (f"no guest in {guest}: run make guest" if not (guest / "vmlinuz").exists()
              else "no C compiler" if not compiler
              else "this host lacks AVX-512" if not flags or not needed <= set(flags.group().split()) else None)
    if reason:
        def missing():
            raise Tap.Skip(reason)
        tap.test("AVX-512 in a guest", missing)
        tap.finish()
    with tempfile.TemporaryDirectory(prefix="rhea-avx512-") as directory:
        program = pathlib.Path(directory) / "program"
        subprocess.run([compiler, "-O2", "-static", "-o", program, HERE / "avx512_guest.c"], check=True)
        host = lines_of(subprocess.run([program], stdout=subprocess.PIPE, check=True, text=True).stdout)
        image = pathlib.Path(directory) / "initrd"
        image.write_bytes(cpio({"init": (0o100755, program.read_bytes())}))

        def boot(accel, cpu, smp=1):
            arguments = ["-M", "microvm", "-accel", accel, "-cpu", cpu, "-smp", smp, "-m", "256", "-nodefaults", "-no-reboot",
                         "-display", "none", "-serial", "stdio", "-kernel", guest / "vmlinuz", "-initrd", image,
                         "-append", "console=ttyS0 quiet panic=-1"]
            with Machine(args.build / "rhea-system-x86_64", arguments, directory) as vm:
                vm.wait_text(r"avx512: done", args.timeout)
                expect(vm.wait(60) == 0, f"exit status {vm.process.returncode}\n{vm.tail()}")
                return lines_of(vm.text())

        def same(accel, cpu, smp=1):
            got = boot(accel, cpu, smp)
            expect(len(host) >= 7 and got == host, f"host: {host}\nguest: {got}")

        def first_sets(cpu):
            want = [line for line in host if "later-sets" not in line]
            got = boot("tcg", cpu)
            expect(got == want, f"host: {want}\nguest: {got}")

        def hidden(cpu):
            got = boot("tcg", cpu)
            expect(got == ["avx512: none", "avx512: done"], f"guest: {got}")

        tap.test("translated", same, "tcg", "max")
        tap.test("translated, -cpu host, two CPUs", same, "tcg", "host", 2)
        tap.test("interpreted", same, "tcg,jit=off", "max")
        tap.test("-cpu Skylake-Server: what that has", first_sets, "Skylake-Server")
        tap.test("-cpu max,-avx512f: not there", hidden, "max,-avx512f")
    tap.finish()


if __name__ == "__main__":
    main()
