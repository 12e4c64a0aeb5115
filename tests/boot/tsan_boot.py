#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots the guest of boot_test.py with two vCPUs under ThreadSanitizer (a build with -Db_sanitize=thread), lets it use
its disk, network and random numbers, and fails on any report. Guest memory is known to race (src/mem/ram.c); nothing
else is. Interpreted unless --accel says otherwise, which takes minutes."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build-tsan")
    parser.add_argument("--guest", type=pathlib.Path, default=ROOT / "build/guest")
    parser.add_argument("--machine", default="pc")
    parser.add_argument("--accel", default="tcg,jit=off")
    parser.add_argument("--timeout", type=int, default=1800)
    args = parser.parse_args()
    binary = args.build / "rhea-system-x86_64"
    if b"__tsan_init" not in binary.read_bytes():
        sys.exit(f"{binary} is not built with -Db_sanitize=thread")
    if not (args.guest / "vmlinuz").exists():
        sys.exit(f"no guest in {args.guest}: run make guest")
    with tempfile.TemporaryDirectory(prefix="rhea-tsan-") as directory:
        reports = pathlib.Path(directory) / "report"
        environment = dict(os.environ, G_SLICE="always-malloc",
                           TSAN_OPTIONS=f"suppressions={ROOT}/tests/tsan.supp log_path={reports} exitcode=0")
        status = subprocess.run([ROOT / "tests/boot/boot_test.py", "--build", args.build, "--guest", args.guest,
                                 "--machine", args.machine, "--smp", "2", "--accel", args.accel, "--tests",
                                 "disk,net,rng,cpus", "--timeout", str(args.timeout), "--summary"],
                                env=environment).returncode
        text = "".join(path.read_text(errors="replace") for path in pathlib.Path(directory).glob("report*"))
    found = re.findall(r"^SUMMARY: ThreadSanitizer: (.*)$", text, re.M)
    if text:
        print(text[:20000])
    print(f"tsan: {len(found)} reports" + "".join(f"\n  {line}" for line in sorted(set(found))))
    sys.exit(1 if status or text else 0)


if __name__ == "__main__":
    main()
