#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPU benchmark's runner against guests that are none: scripts that run its driver, and lie, hang or die."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Tap, expect  # noqa: E402

RUNNER = ROOT / "tests" / "bench" / "cpu_bench.py"

# "Boots" at once; FILTER sees the driver's answers, one a line, and prints what the runner shall see.
FAKE = """#!/usr/bin/env python3
import os, subprocess, sys, time
print("[    0.1] kernel message before", flush=True)
print("@@ ready", flush=True)
driver = subprocess.Popen([{binary!r}, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          cwd={directory!r})
for request in sys.stdin:
    driver.stdin.write(request)
    driver.stdin.flush()
    line = driver.stdout.readline()
{filter}
    sys.stdout.write(line)
    sys.stdout.flush()
"""
HONEST = ""
LIAR = """
    if " bits " in line:
        fields = line.split()
        fields[5] = "00000000deadbeef"
        line = " ".join(fields) + chr(10)
"""
SLOW = """
    if " queens " in line:
        fields = line.split()
        fields[4] = str(int(fields[4]) * 10)
        line = " ".join(fields) + chr(10)
"""
DYING = """
    if " queens " in line:
        print("kernel panic", flush=True)
        os._exit(3)
"""


class Bench:
    def __init__(self, build, directory):
        self.build, self.directory = build, pathlib.Path(directory)

    def run(self, filter_, *arguments):
        fake = self.directory / "fake"
        fake.write_text(FAKE.format(binary=str(self.directory / "out" / "cpubench"), directory=str(self.directory),
                                    filter=filter_))
        fake.chmod(0o755)
        report = self.directory / "report.json"
        report.unlink(missing_ok=True)
        done = subprocess.run([RUNNER, "--build", self.build, "--out", self.directory / "out", "--rhea-binary", fake,
                               "--no-qemu", "--nice", "0", "--scale", "0.02", "--json", report, *arguments],
                              capture_output=True, text=True, timeout=300)
        data = json.loads(report.read_text()) if report.exists() else None
        return done.returncode, done.stdout, done.stderr, data

    def honest(self):
        status, text, error, data = self.run(HONEST, "--only", "bits,queens,x87", "--rounds", "2")
        expect(status == 0, f"status {status}: {text} {error}")
        expect(len(data["programs"]) == 5, f"{len(data['programs'])} programs")
        for program in data["programs"]:
            expect(len(program["ns"]["Rhea"]) == 2 and len(program["ns"]["host"]) == 2, f"not two rounds: {program}")
        names = [row["class"] for row in data["classes"]]
        expect(names == ["integer", "x87", "all"], f"classes {names}")

    def means(self):
        status, text, error, data = self.run(SLOW, "--only", "queens", "--rounds", "3")
        expect(status == 0, f"status {status}: {text} {error}")
        row = data["classes"][0]
        # Ten times the host's figure, give or take what the machine does.
        expect(3 < row["slowdown"]["Rhea"] < 33, f"slowdown {row}")
        expect("missed" in text, f"no limit was missed: {text}")

    def wrong_result(self):
        status, text, _, data = self.run(LIAR, "--only", "bits,queens", "--rounds", "2")
        expect(status == 1 and "WRONG bits on Rhea: result 00000000deadbeef" in text, f"status {status}: {text}")
        by_name = {program["name"]: program for program in data["programs"]}
        expect(by_name["bits"]["slowdown"]["Rhea"] is None, "a wrong result gave a figure")
        expect(by_name["queens"]["slowdown"]["Rhea"] is not None, "the right result gave none")
        expect("1 without a figure" in text, f"the class hides that a figure is missing: {text}")

    def too_slow(self):
        # Forty times the usual work does not fit into 0.3 s; on the host neither, so both are bounds.
        status, text, error, data = self.run(HONEST, "--only", "queens", "--scale", "40", "--timeout", "0.3")
        expect(status == 0, f"status {status}: {text} {error}")
        program = data["programs"][0]
        expect(program["timeout"] == ["host", "Rhea"], f"timeouts: {program['timeout']}")
        expect(program["ns"]["Rhea"] == [300000000], f"not repeated, and its time is the limit: {program['ns']}")
        expect(">1.00" in text, f"no lower bound: {text}")

    def dies(self):
        status, text, _, data = self.run(DYING, "--only", "queens,bits", "--rounds", "1")
        expect(status == 1 and "WRONG queens on Rhea: Rhea: ended with status 3" in text, f"status {status}: {text}")
        expect("| kernel panic" in text, f"its last words are missing: {text}")
        by_name = {program["name"]: program for program in data["programs"]}
        expect(by_name["bits"]["slowdown"]["Rhea"] is not None, "no new guest for the next program")

    def unknown(self):
        status, _, error, _ = self.run(HONEST, "--only", "quens")
        expect(status != 0 and "no such program or class" in error and "Traceback" not in error, error)

    def check_mode(self):
        status, text, _, _ = self.run(LIAR, "--check", "--only", "bits,hash")
        expect(status == 1 and "\nok 1 hash" in text and "\nnot ok 2 bits" in text, f"status {status}: {text}")
        status, text, _, _ = self.run(HONEST, "--check", "--only", "bits,hash")
        expect(status == 0 and text.count("\nok") == 2, f"status {status}: {text}")

    def scaling_and_translation(self):
        status, text, error, data = self.run(HONEST, "--scaling", "--rounds", "1", "--jobs", "queens")
        expect(status == 0 and data["scaling"][0]["Rhea"] > 0, f"status {status}: {text} {error}")
        status, text, error, data = self.run(HONEST, "--translation", "--rounds", "1")
        expect(status == 0 and data["translation"][1]["instructions"] > 1000, f"status {status}: {text} {error}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=ROOT / "build")
    options = parser.parse_args()
    tap = Tap()
    with tempfile.TemporaryDirectory(prefix="rhea-bench-test-") as directory:
        bench = Bench(options.build, directory)
        tap.test("medians of rounds, classes", bench.honest)
        tap.test("slowdown and limits", bench.means)
        tap.test("a wrong result is an error and no figure", bench.wrong_result)
        tap.test("a program that takes too long gives a lower bound", bench.too_slow)
        tap.test("a guest that dies is started again", bench.dies)
        tap.test("an unknown name", bench.unknown)
        tap.test("results only", bench.check_mode)
        tap.test("scaling and translation", bench.scaling_and_translation)
    tap.finish()


if __name__ == "__main__":
    main()
