#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs QEMU's own qemu-iotests from a source tree that the user names against Rhea's tools (or, with --reference,
against the host's QEMU) and says which pass. Nothing of that suite is part of Rhea.

    tests/block/iotests.py --source ~/qemu-7.2 --build build --format qcow2 [001 020 ...]

Without test names: those that judge the tools alone. What is expected to differ stands in iotests_differs.txt, with
the reason and, where that is not all of the test, the lines that may differ."""
import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TOOLS_ONLY = {
    "raw": "001 002 003 004 005 008 009 010 011 012 021 025 032 033 048 052 063 077 086 101 104 106 113 150 159 160 "
           "162 163 170 171 178 197 215 221 226 251 253 277 block-status-cache",
    "qcow2": "001 002 003 004 005 008 009 010 011 012 013 014 015 017 018 019 020 021 022 023 024 025 026 027 029 031 "
             "032 033 034 035 036 037 038 039 042 043 044 046 047 048 049 050 052 053 054 058 061 062 063 066 069 072 "
             "073 074 079 080 082 086 089 090 097 098 103 104 105 107 110 111 112 114 115 121 122 125 126 133 134 137 "
             "138 150 154 158 159 162 163 170 174 177 178 179 187 188 189 190 197 198 204 209 214 215 217 226 243 250 "
             "251 252 261 263 265 268 270 271 272 277 279 284 287 289 290 292 293 302 303 305 313 "
             "nbd-qemu-allocation nbd-reconnect-on-open qemu-img-bitmaps",
}

# What is expected to differ, for it is about QEMU's inside and not about what its tools do.
DIFFERS = pathlib.Path(__file__).with_name("iotests_differs.txt")


def read_differs(path):
    """format/test: reason, then indented regular expressions, one for each kind of line of the diff (with its - or +)
    that may be there; none: the whole test is excused. Returns {test: [compiled expressions]}."""
    tests, current = {}, None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            name, colon, reason = line.partition(": ")
            if not colon or not reason:
                sys.exit(f"{path}:{number}: expected FORMAT/TEST: REASON")
            current = tests[name] = []
        elif current is None:
            sys.exit(f"{path}:{number}: a line without its test")
        else:
            current.append(re.compile(line.strip()))
    return tests


def only_expected(text, allowed):
    """Whether all that differs is what may."""
    if not allowed:
        return True
    diff = text[text.find("\n--- ") + 1:].splitlines()
    lines = [line for line in diff[2:] if line[:1] in "+-" and line[1:].strip()]
    return bool(lines) and all(any(r.fullmatch(line.rstrip()) for r in allowed) for line in lines)


def prepare(source, work):
    """The suite expects to find itself at tests/qemu-iotests beside python/, and writes where it lies."""
    suite = work / "tests" / "qemu-iotests"
    shutil.copytree(source / "tests" / "qemu-iotests", suite, symlinks=True)
    shutil.copytree(source / "python", work / "python", symlinks=True)
    return suite


def link_tools(build, work, reference):
    """Links by the names that the suite's output filters know."""
    names = {"qemu-img": "rhea-img", "qemu-io": "rhea-io", "qemu-nbd": "rhea-nbd", "qemu-storage-daemon": "rhea-storage",
             "qemu-system-x86_64": None}
    bin_dir = work / "bin"
    bin_dir.mkdir()
    programs = {}
    for name, ours in names.items():
        target = build / ours if ours and not reference else None
        if not target or not target.exists():
            target = shutil.which(name)
        link = bin_dir / name
        if target:
            link.symlink_to(target)
        else:  # asked for -machine help only, by tests that need no machine
            link.write_text("#!/bin/sh\necho 'none  empty machine (default)'\n")
            link.chmod(0o755)
        programs[name] = str(link)
    return programs


def run_one(suite, env, fmt, test, timeout):
    start = time.monotonic()
    child = subprocess.Popen([sys.executable, "check", "-" + fmt, test], cwd=suite, env=env, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        text, _ = child.communicate(timeout=timeout)
        if "Not run: " + test in text or re.search(r"^%s\s+not run" % re.escape(test), text, re.M):
            verdict = "notrun"
        else:
            verdict = "pass" if child.returncode == 0 else "fail"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # with the tools that the test started
        text, _ = child.communicate()
        verdict = "timeout"
    return verdict, text, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="a QEMU source tree")
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--format", default="qcow2", choices=sorted(TOOLS_ONLY))
    parser.add_argument("--reference", action="store_true", help="judge the host's QEMU instead")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a test")
    parser.add_argument("--output", type=pathlib.Path, help="where the output of tests that fail is kept")
    parser.add_argument("--test-dir", type=pathlib.Path, help="TEST_DIR: put it on a fast file system")
    parser.add_argument("tests", nargs="*")
    args = parser.parse_args()
    tests = args.tests or TOOLS_ONLY[args.format].split()
    differs = read_differs(DIFFERS)
    counts = {"pass": 0, "fail": 0, "notrun": 0, "timeout": 0, "differs": 0}
    failed = []
    with tempfile.TemporaryDirectory(prefix="rhea-iotests-") as temporary:
        work = pathlib.Path(temporary)
        suite = prepare(args.source.resolve(), work)
        programs = link_tools(args.build.resolve(), work, args.reference)
        env = dict(os.environ, QEMU_PROG=programs["qemu-system-x86_64"], QEMU_IMG_PROG=programs["qemu-img"],
                   QEMU_IO_PROG=programs["qemu-io"], QEMU_NBD_PROG=programs["qemu-nbd"],
                   QSD_PROG=programs["qemu-storage-daemon"], TEST_DIR=str(args.test_dir or work / "scratch"),
                   SOCK_DIR=str(work / "sock"), TMPDIR=str(work))
        for test in tests:
            verdict, text, seconds = run_one(suite, env, args.format, test, args.timeout)
            name = f"{args.format}/{test}"
            if name in differs and (verdict == "fail" or verdict == "timeout" and not differs[name]):
                verdict = "differs" if only_expected(text, differs[name]) else verdict
            elif name in differs and verdict == "pass" and not args.reference:
                print(f"{name} passes: it need not stand in {DIFFERS.name}", flush=True)
            counts[verdict] += 1
            print(f"{verdict:8} {name} ({seconds:.1f} s)", flush=True)
            if verdict in ("fail", "timeout", "notrun"):
                failed.append(name)
                if args.output:
                    args.output.mkdir(parents=True, exist_ok=True)
                    (args.output / f"{args.format}-{test}.txt").write_text(text)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if failed:
        print("failed:", " ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
