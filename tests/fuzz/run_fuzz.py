#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make fuzz`: every fuzz target in turn, each for a number of seconds, under AddressSanitizer and UBSan."""
import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from run_tests import build_sanitized  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build-asan")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--only", help="names joined by commas")
    args = parser.parse_args()
    build = args.build.resolve()
    build_sanitized(build, os.cpu_count())
    passed = failed = 0
    targets = sorted(path for path in (build / "tests/fuzz").glob("fuzz_*") if os.access(path, os.X_OK)
                     and path.is_file())
    # The native oracle and the decoder check take the same option; 77: this host cannot.
    targets += [path for path in (build / "tests/cpu/oracle", build / "tests/cpu/decode_zydis") if path.is_file()]
    for target in targets:
        if args.only and target.name.removeprefix("fuzz_") not in args.only.split(","):
            continue
        done = subprocess.run([str(target), "--seconds", str(args.seconds)]
                              + (["--seed", "0"] if target.parent.name == "cpu" else []),
                              env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1",
                                   "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1"})
        if done.returncode in (0, 77):
            passed += 1
        else:
            failed += 1
            print(f"FAILED: {target.name}: exit status {done.returncode}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
