#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make test`: the layer check, the unit tests plainly and under AddressSanitizer (with its leak check) and UBSan, and
the tests that drive the built programs; whole runs of the sanitized program come last, for their leaks. The last line reads 'N passed, N failed' (', N skipped')."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent


def said_of(output, case):
    """What a test of the Test Anything Protocol says, in comments behind "not ok", of the case that failed."""
    match = re.search(r"^not ok " + re.escape(case) + r"\b.*\n((?:#.*\n)*)", output, re.MULTILINE)
    return "\n" + match.group(1)[:4000].rstrip() if match and match.group(1) else ""


class Totals:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.problems = []

    def add(self, name, ok, why=""):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            self.problems.append(name + why)

    def add_junit(self, path, label):
        # A crashed test's output may hold bytes that XML has no place for.
        text = re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd]", "?", path.read_text(errors="replace"))
        for suite in ElementTree.fromstring(text).iter("testsuite"):
            output = "".join(element.text or "" for element in suite.iter("system-out"))
            for case in suite.iter("testcase"):
                name = f"{label} {suite.get('name')}: {case.get('name')}"
                if case.find("skipped") is not None:
                    self.skipped += 1
                    reason = case.find("skipped").get("message") or ""
                    print(f"skipped: {name} {reason}".rstrip())
                else:
                    self.add(name, case.find("failure") is None and case.find("error") is None,
                             said_of(output, case.get("name")))


def meson_test(build, label, totals, options, environment=None):
    """Runs Meson's tests of one build directory; sub-tests count one by one."""
    junit = build / "meson-logs" / "testlog.junit.xml"
    junit.unlink(missing_ok=True)
    print(f"== {label}", flush=True)
    started = time.monotonic()
    done = subprocess.run(["meson", "test", "-C", str(build), "--no-rebuild", "--print-errorlogs", *options],
                          env={**os.environ, **(environment or {})})
    before = totals.failed
    if junit.exists():
        totals.add_junit(junit, label)
    if done.returncode and totals.failed == before:
        totals.add(f"{label}: meson test exited with {done.returncode}", False)
    print(f"== {label}: {time.monotonic() - started:.0f} s", flush=True)


class SanitizedBuild:
    """Made beside the tests that mostly wait for their guests, and after them in their way."""

    def __init__(self, directory, jobs):
        self.log = directory.with_suffix(".log")
        self.setup = 0
        if not (directory / "build.ninja").exists():
            self.setup = subprocess.run(["meson", "setup", str(directory), "-Db_sanitize=address,undefined", "-Dbuildtype=debug",
                                         "-Doptimization=1", "-Db_lundef=false"], cwd=ROOT, stdout=subprocess.DEVNULL).returncode
        with self.log.open("wb") as log:
            self.ninja = subprocess.Popen(["nice", "-n", "15", "ninja", "-C", str(directory), "-j", str(jobs)], stdout=log,
                                          stderr=subprocess.STDOUT)

    def wait(self):
        """What went wrong, or nothing."""
        if self.setup:
            return "meson setup failed"
        if self.ninja.wait():
            return "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-40:])
        return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--asan", type=pathlib.Path, default=ROOT / "build-asan")
    parser.add_argument("--guest", type=pathlib.Path, default=ROOT / "build/guest")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    totals = Totals()

    layers = subprocess.run([str(ROOT / "tools/check_layers.py"), "--build", str(args.build)])
    totals.add("layers", layers.returncode == 0)

    sanitizers = {
        "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    where = {"RHEA_GUEST": str(args.guest.resolve())}
    meson_test(args.build, "unit", totals, ["--suite", "unit"])
    sanitized = SanitizedBuild(args.asan.resolve(), args.jobs)
    others = [word for suite in ("unit", "long", "leaks") for word in ("--no-suite", suite)]
    meson_test(args.build, "programs", totals, [*others, "--num-processes", str(max(2, args.jobs // 2))], where)
    started = time.monotonic()
    problem = sanitized.wait()
    print(f"== the rest of the sanitizers' build: {time.monotonic() - started:.0f} s", flush=True)
    if problem:
        totals.add(f"sanitizer build: {problem}", False)
    else:
        meson_test(args.asan, "unit under ASan and UBSan", totals,
                   ["--suite", "unit", "--timeout-multiplier", "4"], sanitizers)
        meson_test(args.asan, "fuzz seeds under ASan and UBSan", totals,
                   ["--suite", "fuzz", "--timeout-multiplier", "4"], sanitizers)
        meson_test(args.asan, "whole runs without leaks", totals, ["--suite", "leaks"], {**sanitizers, **where})

    for problem in totals.problems:
        print(f"FAILED: {problem}")
    skipped = f", {totals.skipped} skipped" if totals.skipped else ""
    print(f"{totals.passed} passed, {totals.failed} failed{skipped}")
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
