#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs kvm-unit-tests (x86) that were built from their own source, with their own options.

    tests/machine/kvm_unit_tests.py --x86-64 DIR --i386 DIR [--accel tcg] [--only NAME,...]

DIR is a configured and built tree of the suite (one for each architecture); its x86/unittests.cfg names the tests.
The suite is not part of this project: without directories (options or KVM_UNIT_TESTS_X86_64 / _I386) all is skipped.
A test passes with exit status 1 (isa-debug-exit of 0) and, where it prints results, without a FAIL line.
"""
import argparse
import configparser
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Failure, Tap  # noqa: E402

# Groups that need what Rhea does not offer: nested virtualisation, Hyper-V, real PMU hardware.
LEFT_OUT_GROUPS = {"vmx", "svm", "hyperv", "nested_exception"}
LEFT_OUT = re.compile(r"^(vmx|svm|ept|hyperv|intel_iommu|vmware|pmu|asyncpf|tsx|cet|lam|pk[us]|la57)")
# Tests that end in seconds on real hardware and in minutes on an interpreter: left to --all.
SLOW = {"sieve", "access", "access_fep", "access-reduced-maxphyaddr", "vmexit_ple_round_robin"}

# The suite chooses codes that isa-debug-exit (code << 1 | 1) turns into the usual exit statuses.
SKIPPED = 77
STATUS = {0: "ended without a verdict (triple fault or reset)", 3: "failed", 127: "aborted (an assertion of the test)"}


def load(directory):
    """The tests of unittests.cfg as dictionaries, in order."""
    text = (directory / "x86/unittests.cfg").read_text()
    # Values may span lines in quotes """...""", which configparser does not know.
    text = re.sub(r'"""(.*?)"""', lambda m: " ".join(m.group(1).split()), text, flags=re.S)
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.read_string(text)
    return [(name, dict(parser[name])) for name in parser.sections()]


def run_one(binary, accel, directory, options, seconds):
    argv = [str(binary), "-accel", accel, "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-device", "pc-testdev",
            "-smp", options.get("smp", "1").replace("$MAX_SMP", "4")]
    extra = shlex.split(options.get("qemu_params", options.get("extra_params", "")))
    if "-cpu" not in extra:
        argv += ["-cpu", "max"]
    if "-m" not in extra:
        argv += ["-m", "512"]
    argv += extra + ["-kernel", str(directory / "x86" / options["file"])]
    arguments = options.get("test_args", "").strip()
    if "`" in arguments or "$(" in arguments:
        # The suite's own runner lets the shell expand them ("10000000 `date +%s`").
        arguments = subprocess.run(["sh", "-c", f"printf %s {arguments}"], capture_output=True, text=True,
                                   check=True).stdout
    arguments = arguments.strip("'\"")
    if arguments:
        argv += ["-append", arguments]
    began = time.monotonic()
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=seconds)
        status, output = done.returncode, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as late:
        status, output = None, (late.stdout or b"").decode(errors="replace")
    return status, output, time.monotonic() - began, argv


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument("--x86-64", type=pathlib.Path, default=os.environ.get("KVM_UNIT_TESTS_X86_64"))
    parser.add_argument("--i386", type=pathlib.Path, default=os.environ.get("KVM_UNIT_TESTS_I386"))
    parser.add_argument("--accel", default="tcg")
    parser.add_argument("--only", help="names joined by commas")
    parser.add_argument("--all", action="store_true", help="the slow and the unsupported ones too")
    parser.add_argument("--timeout", type=int, default=60)
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    binary = args.binary or args.build / "rhea-system-x86_64"
    only = set(args.only.split(",")) if args.only else None
    tap = Tap()

    for label, directory in (("x86_64", args.x86_64), ("i386", args.i386)):
        if not directory:
            def absent():
                raise Tap.Skip("no built kvm-unit-tests given")
            tap.test(f"kvm-unit-tests {label}", absent)
            continue
        directory = pathlib.Path(directory)
        for name, options in load(directory):
            # The i386 run takes the tests that are for it alone, and those that exist for both.
            if options.get("arch", label) != label or not (directory / "x86" / options["file"]).exists():
                continue
            if only and name not in only:
                continue
            groups = set(options.get("groups", "").split())
            if not only and not args.all and (LEFT_OUT.match(name) or groups & LEFT_OUT_GROUPS or name in SLOW or
                                              "nodefault" in groups):
                continue

            def judge(options=options):
                status, output, seconds, argv = run_one(binary, args.accel, directory, options, args.timeout)
                fails = re.findall(r"^FAIL.*$", output, re.M)
                if status == SKIPPED:
                    raise Tap.Skip(next(iter(re.findall(r"^SKIP.*$", output, re.M)), "the test skips itself"))
                if status == 1 and not fails:
                    print(f"# {seconds:.1f} s, {len(re.findall(r'^PASS', output, re.M))} PASS lines")
                    return
                reason = f"no end within {args.timeout} s" if status is None else STATUS.get(status,
                                                                                             f"exit status {status}")
                tail = "\n".join(output.splitlines()[-8:])
                raise Failure(f"{reason}; {len(fails)} FAIL lines {fails[:6]}\n{shlex.join(argv)}\n{tail}")
            tap.test(f"{name} ({label})", judge)
    tap.finish(args.summary)


if __name__ == "__main__":
    main()
