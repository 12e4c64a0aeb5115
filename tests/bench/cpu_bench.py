#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench-cpu`: what the software CPU costs, beside QEMU's translator and the bare host in the same run.

The same static programs (tests/bench/cpu) and the same programs of Debian run on the host, in a guest of QEMU and in a
guest of Rhea, one at a time in turn, on one core; the guests idle in between. Printed are medians: the host's time, how
many times longer each guest took, and the classes' geometric means beside their limits. A result that differs from the
host's is an error and no figure; a program that takes longer than --timeout is stopped and counts with that time.
"""
import argparse
import json
import math
import os
import pathlib
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE / "cpu"))
import real  # noqa: E402

# Slowdowns that the translator must not exceed (geometric means of classes).
LIMITS = {"integer": 1.5, "control": 1.8, "memory": 2.0, "float": 1.5, "x87": 1.6, "sse": 1.5, "avx2": 1.6,
          "special": 1.5, "atomics": None, "code": 12, "system": 4.5, "time": None, "real": 2.2, "all": 2.1}

# A run during which others had more of the core than this is left out where there are better ones.
DISTURBED = 0.1

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Werror"]
# Flags of the class, behind -O2: they are the measurement's, so the project's own are not used.
SOURCES = {"main": [], "driver": [], "integer": [], "control": [], "memory": ["-fno-tree-vectorize"],
           "float": ["-fno-tree-vectorize"], "x87": ["-mfpmath=387"], "sse": ["-msse4.1"], "avx2": ["-mavx2", "-mfma"],
           "special": ["-msse4.2", "-mssse3", "-mpclmul", "-maes", "-mpopcnt"], "atomics": [], "code": [],
           "system": [], "clock": []}

SCALING_JOBS = ["queens", "lz", "matrix", "malloc", "chase_1m", "page_faults", "open_stat", "code_once"]


class Failure(Exception):
    pass


class Program:
    def __init__(self, name, group, command):
        self.name, self.group, self.command = name, group, command

    def request(self, scale, timeout):
        """The driver's line; see tests/bench/cpu/driver.c."""
        milliseconds = str(int(timeout * 1000))
        if isinstance(self.command, real.Real):
            it = self.command
            return ["exec", milliseconds, it.stdin, it.out, *it.argv]
        return ["run", milliseconds, self.name, f"{scale:.9g}"]


class Result:
    """One run: `ns` and `checksum`, or what went wrong in `error`. `others` is the share of the core's time that went
    to processes that are not the target's."""

    def __init__(self, ns=0, checksum="", note="", error=None, timeout=False):
        self.ns, self.checksum, self.note = ns, checksum, note
        self.error, self.timeout = error, timeout
        self.others = 0.0


class Target:
    """Something that runs the driver and answers its requests line by line."""

    def __init__(self, name, argv, cores, nice, cwd=None, boot_timeout=0):
        self.name, self.argv, self.cores, self.nice, self.cwd = name, argv, cores, nice, cwd
        self.boot_timeout = boot_timeout
        self.process = None
        self.pending = b""
        self.log = []

    def prepare(self):
        """In the new process: its core, and before everything else that wants it (where that is allowed)."""
        os.sched_setaffinity(0, self.cores)
        os.setsid()
        try:
            os.setpriority(os.PRIO_PROCESS, 0, self.nice)
            # Where the scheduler groups sessions, the session's own priority is what counts.
            with open("/proc/self/autogroup", "w") as group:
                group.write(str(self.nice))
        except (PermissionError, FileNotFoundError):
            pass

    def start(self):
        self.pending, self.log = b"", []
        began = time.monotonic()
        self.process = subprocess.Popen([str(a) for a in self.argv], cwd=self.cwd, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        preexec_fn=self.prepare)
        if self.boot_timeout:
            self.answer("ready", self.boot_timeout)
        return time.monotonic() - began

    def answer(self, word, timeout):
        """The fields behind "@@ WORD" of the next answer."""
        deadline = time.monotonic() + timeout
        while True:
            while b"\n" in self.pending:
                line, self.pending = self.pending.split(b"\n", 1)
                text = line.decode(errors="replace").strip("\r")
                mark = text.find("@@ ")
                if mark >= 0:
                    kind, _, rest = text[mark + 3:].partition(" ")
                    if kind != word:
                        raise Failure(f"{self.name}: '{text}' where '{word}' was expected")
                    return rest
                self.log.append(text)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failure(f"{self.name}: no answer within {timeout:.0f} s{self.tail()}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Failure(f"{self.name}: ended with status {self.process.wait()}{self.tail()}")
            self.pending += data

    def tail(self):
        lines = (self.log + [self.pending.decode(errors="replace")])[-12:]
        return "".join(f"\n    | {line}" for line in lines if line.strip())

    def ask(self, fields, timeout):
        try:
            self.process.stdin.write(("\t".join(fields) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failure(f"{self.name}: ended with status {self.process.wait()}{self.tail()}")
        return self.answer(fields[0], timeout)

    def run(self, program, scale, timeout):
        try:
            if self.process is None:
                self.start()
            rest = self.ask(program.request(scale, timeout), timeout * 1.5 + 30)
        except Failure as problem:
            # Hung or gone: the next program gets a new one.
            self.stop()
            return Result(error=str(problem))
        status, _, rest = rest.partition(" ")
        if status == "timeout":
            return Result(ns=int(timeout * 1e9), timeout=True)
        fields = rest.split()
        if status != "ok" or len(fields) < 3 - isinstance(program.command, real.Real) * 1:
            return Result(error=rest or status)
        if isinstance(program.command, real.Real):
            return Result(int(fields[0]), f"{fields[1]}/{fields[2]}")
        return Result(int(fields[1]), fields[2], " ".join(fields[3:]))

    def used_ticks(self):
        """(busy ticks of the core, ticks of them that this target and its children used)."""
        busy = own = 0
        for line in pathlib.Path("/proc/stat").read_text().splitlines():
            if line.startswith("cpu") and line.split()[0][3:] in {str(core) for core in self.cores}:
                fields = [int(field) for field in line.split()[1:]]
                busy += sum(fields[:3]) + sum(fields[5:8])
        if self.process is not None:
            fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            own = sum(int(field) for field in fields[11:15])
        return busy, own

    def run_watched(self, program, scale, timeout):
        """run(), with the share of the core that others had meanwhile."""
        pid = self.process.pid if self.process else None
        (busy, own), began = self.used_ticks(), time.monotonic()
        result = self.run(program, scale, timeout)
        if self.process is not None and self.process.pid == pid and len(self.cores) == 1:
            (busy_after, own_after), passed = self.used_ticks(), time.monotonic() - began
            ticks = passed * os.sysconf("SC_CLK_TCK")
            if ticks >= 5:
                result.others = max(0, (busy_after - busy) - (own_after - own) - 1) / ticks
        return result

    def check_clock(self):
        """The guest's clock against the host's, idle and busy; a complaint or None."""
        host = time.monotonic_ns()
        guest = int(self.ask(["clock"], 20))
        time.sleep(1.5)
        guest = int(self.ask(["clock"], 20)) - guest
        host = time.monotonic_ns() - host
        busy = time.monotonic()
        if not self.ask(["run", "30000", "spin", "1000"], 60).startswith("ok"):
            return "the program that spins for a second failed"
        busy = time.monotonic() - busy
        self.clock = f"idle {guest / host:.3f}, a busy second took {busy:.3f} s"
        if abs(guest / host - 1) > 0.03 or not 0.97 < busy < 1.4:
            return f"its clock is not the host's: {self.clock}"
        return None

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)  # what it says at its end (-d out_asm) is wanted
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def compile_programs(out, with_real):
    """The static program, and for the real programs the one that uses libcrypto."""
    out.mkdir(parents=True, exist_ok=True)
    sources = HERE / "cpu"
    headers = max(path.stat().st_mtime for path in [*sources.glob("*.h"), pathlib.Path(__file__)])
    objects = []
    for name, flags in SOURCES.items():
        source, result = sources / f"{name}.c", out / f"{name}.o"
        objects.append(result)
        if not result.exists() or result.stat().st_mtime < max(headers, source.stat().st_mtime):
            subprocess.run(["gcc", "-O2", *WARNINGS, *flags, "-c", source, "-o", result], check=True)
    binary = out / "cpubench"
    if not binary.exists() or binary.stat().st_mtime < max(path.stat().st_mtime for path in objects):
        subprocess.run(["gcc", "-static", "-o", binary, *objects, "-lm"], check=True)
    crypto = out / "crypto"
    source = sources / "crypto.c"
    if with_real and (not crypto.exists() or crypto.stat().st_mtime < max(headers, source.stat().st_mtime)):
        subprocess.run(["gcc", "-O2", *WARNINGS, "-o", crypto, source, "-l:libcrypto.so.3"], check=True)
    return binary, crypto


def make_work(out, crypto, with_real):
    """The directory that the programs run in, on the host and (copied) in guests."""
    work = out / "work"
    work.mkdir(exist_ok=True)
    stamp = work / "data" / ".done"
    sources = HERE / "cpu"
    if not with_real:
        return work
    shutil.copy2(crypto, work / "crypto")
    if (not stamp.exists() or
            stamp.stat().st_mtime < max((sources / n).stat().st_mtime for n in ("real.py", "integer.c"))):
        real.make_data(work / "data", sources)
        stamp.touch()
    return work


def make_image(out, binary, crypto, work, with_real):
    """An initramfs, not compressed: unpacking would be measured nowhere and waited for everywhere."""
    root = out / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("dev", "proc", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        (root / name).mkdir(parents=True)
    shutil.copy2(binary, root / "init")
    if with_real:
        real.copy_into(root, real.host_files(crypto))
        shutil.copytree(work, root / "work", symlinks=True)
    else:
        (root / "work").mkdir()
    image = out / ("image-real.cpio" if with_real else "image.cpio")
    names = subprocess.run(["find", "."], cwd=root, check=True, capture_output=True).stdout
    with open(image, "wb") as to:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, input=names, stdout=to,
                       check=True)
    shutil.rmtree(root)
    return image


def guest_argv(binary, accel, options, image, smp):
    return [binary, "-accel", accel, "-cpu", "max", "-M", "pc", "-m", options.memory, "-smp", str(smp), "-nodefaults",
            "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", options.guest / "vmlinuz", "-initrd",
            image, "-append", "console=ttyS0 quiet panic=-1 rdinit=/init " + options.append]


def geometric_mean(values):
    return math.exp(sum(math.log(value) for value in values) / len(values))


def choose(programs, only):
    """--only takes names and classes; an unknown one is an error."""
    if not only:
        return programs
    wanted = [word for item in only for word in item.split(",") if word]
    known = {program.name for program in programs} | {program.group for program in programs}
    for word in wanted:
        if word not in known:
            raise Failure(f"--only {word}: no such program or class; classes: "
                          f"{' '.join(dict.fromkeys(program.group for program in programs))}")
    return [program for program in programs if program.name in wanted or program.group in wanted]


def ratio_text(value, bound):
    if value is None:
        return "-"
    digits = 2 if value < 100 else 0
    return f"{'>' if bound else ''}{value:.{digits}f}"


class Table:
    """Medians of all runs, and the means of classes."""

    def __init__(self, targets):
        self.names = [target.name for target in targets]
        self.samples = {}  # program -> target -> [Result]
        self.programs = []

    def add(self, program, target, result):
        if program.name not in self.samples:
            self.samples[program.name] = {name: [] for name in self.names}
            self.programs.append(program)
        self.samples[program.name][target].append(result)

    def good(self, program, target):
        return [r for r in self.samples[program.name].get(target, []) if r.error is None]

    def median(self, program, target):
        """Of the runs that had the core to themselves; where there is none, of all."""
        good = self.good(program, target)
        quiet = [r for r in good if r.others <= DISTURBED]
        return statistics.median(r.ns for r in quiet or good) if good else None

    def disturbed(self, target):
        """(runs whose core others used too, runs)."""
        runs = [r for p in self.programs for r in self.good(p, target)]
        return sum(r.others > DISTURBED for r in runs), len(runs)

    def bound(self, program, target):
        return any(r.timeout for r in self.good(program, target))

    def slowdown(self, program, target):
        mine, host = self.median(program, target), self.median(program, "host")
        return mine / host if mine and host else None

    def columns(self, program):
        host = self.median(program, "host")
        texts = [f"{host / 1e6:.1f}" if host else "-"]
        for name in self.names[1:]:
            texts.append(ratio_text(self.slowdown(program, name), self.bound(program, name)))
        if "QEMU" in self.names and "Rhea" in self.names:
            qemu, rhea = self.slowdown(program, "QEMU"), self.slowdown(program, "Rhea")
            texts.append(ratio_text(rhea / qemu if rhea and qemu else None, False))
        return texts

    def heading(self):
        ratio = ["Rhea/QEMU"] if "QEMU" in self.names and "Rhea" in self.names else []
        return ["host ms", *self.names[1:], *ratio]

    def classes(self):
        """(class, number of programs, {target: (mean, bound)}) in the programs' order, "all" last."""
        groups = list(dict.fromkeys(program.group for program in self.programs))
        rows = []
        for group in [*groups, "all"]:
            members = [p for p in self.programs if group in (p.group, "all")]
            means = {}
            for name in self.names[1:]:
                values = [self.slowdown(p, name) for p in members]
                values = [value for value in values if value]
                if values:
                    means[name] = (geometric_mean(values), any(self.bound(p, name) for p in members), len(values))
            rows.append((group, len(members), means))
        return rows

    def print(self):
        for name in self.names:
            disturbed, runs = self.disturbed(name)
            if disturbed:
                print(f"{name}: {disturbed} of {runs} runs shared the core with other processes "
                      f"(over {DISTURBED:.0%} of its time); their times are too long")
        print(f"\n{'program':<20}" + "".join(f"{text:>12}" for text in self.heading()))
        group = None
        for program in sorted(self.programs, key=lambda p: list(LIMITS).index(p.group)):
            if program.group != group:
                group = program.group
                print(f"[{group}]")
            print(f"{program.name:<20}" + "".join(f"{text:>12}" for text in self.columns(program)))
        print(f"\n{'class':<12}{'programs':>9}" + "".join(f"{name:>12}" for name in self.names[1:]) +
              f"{'limit':>9}  verdict   (slowdown, geometric mean)")
        for group, number, means in self.classes():
            limit = LIMITS[group]
            texts = [ratio_text(*means[name][:2]) if name in means else "-" for name in self.names[1:]]
            verdict = ""
            if limit and "Rhea" in means:
                verdict = "met" if means["Rhea"][0] <= limit and not means["Rhea"][1] else "missed"
                if means["Rhea"][2] < number:
                    verdict += f", {number - means['Rhea'][2]} without a figure"
            print(f"{group:<12}{number:>9}" + "".join(f"{text:>12}" for text in texts) +
                  f"{limit if limit else '-':>9}  {verdict}")

    def json(self):
        return {"programs": [{"name": p.name, "class": p.group,
                              "ns": {t: [r.ns for r in self.good(p, t)] for t in self.names},
                              "others": {t: [round(r.others, 3) for r in self.good(p, t)] for t in self.names},
                              "timeout": [t for t in self.names if self.bound(p, t)],
                              "errors": {t: [r.error for r in self.samples[p.name][t] if r.error] for t in self.names},
                              "slowdown": {t: self.slowdown(p, t) for t in self.names[1:]}} for p in self.programs],
                "classes": [{"class": group, "programs": number, "limit": LIMITS[group],
                             "slowdown": {name: mean[0] for name, mean in means.items()},
                             "lower_bound": [name for name, mean in means.items() if mean[1]]}
                            for group, number, means in self.classes()]}


def measure(targets, programs, options):
    """Rounds over all programs, all targets in turn; (table, complaints)."""
    table, wrong = Table(targets), []
    spent, dead = {}, set()
    for number in range(options.rounds):
        for program in programs:
            line = []
            for target in targets:
                key = (program.name, target.name)
                if key in dead or (number > 0 and spent[key] > options.enough):
                    continue
                result = target.run_watched(program, options.scale, options.timeout)
                host = table.good(program, "host") if program.name in table.samples else []
                if result.error is None and not result.timeout and host and result.checksum != host[0].checksum:
                    result.error = f"result {result.checksum} instead of the host's {host[0].checksum}"
                table.add(program, target.name, result)
                spent[key] = spent.get(key, 0) + result.ns / 1e9
                if result.error:
                    wrong.append(f"{program.name} on {target.name}: {result.error}")
                    dead.add(key)
                if result.timeout:
                    dead.add(key)
                what = "error" if result.error else ">timeout" if result.timeout else f"{result.ns / 1e6:.1f}"
                line.append(f"{target.name} {what}")
            if options.verbose and line:
                print(f"  {number + 1}/{options.rounds} {program.name}: {', '.join(line)}", file=sys.stderr, flush=True)
    return table, wrong


def host_mhz():
    match = re.search(r"cpu MHz\s*:\s*([\d.]+)", pathlib.Path("/proc/cpuinfo").read_text())
    return float(match.group(1)) if match else 0


def measure_translation(targets, options):
    """New code run once and once more: nanoseconds and cycles for each guest instruction."""
    program, rows = Program("translate", "extra", None), []
    for target in targets:
        first, second, instructions = [], [], 0
        for _ in range(options.rounds):
            result = target.run(program, options.scale, options.timeout * 5)
            if result.error or result.timeout:
                raise Failure(f"translate on {target.name}: {result.error or 'timeout'}")
            note = dict(item.split("=") for item in result.note.split())
            instructions = int(note["instructions"])
            first.append(int(note["first_ns"]) / instructions)
            second.append(int(note["second_ns"]) / instructions)
        rows.append((target.name, instructions, statistics.median(first), statistics.median(second)))
    mhz = host_mhz()
    print(f"\nnew code, {rows[0][1]} instructions: ns (cycles at {mhz:.0f} MHz) per guest instruction")
    print(f"{'':<8}{'run once':>20}{'run again':>20}{'so translated for':>20}")
    for name, _, first, second in rows:
        print(f"{name:<8}" + "".join(f"{f'{ns:.2f} ({ns * mhz / 1000:.0f})':>20}" for ns in
                                     (first, second, max(first - second, 0))))
    return [{"target": name, "instructions": n, "first_ns": first, "second_ns": second}
            for name, n, first, second in rows]


def measure_scaling(single, double, options):
    """Two processes on two vCPUs against one process on one vCPU: 2.00 is perfect."""
    rows = []
    for job in options.jobs or SCALING_JOBS:
        row = {"job": job}
        for one, two in zip(single, double):
            ratios = []
            for _ in range(options.rounds):
                times = []
                for target, n in ((one, 1), (two, 2)):
                    try:
                        answer = target.ask(["run", str(int(options.timeout * 1000)), "parallel", str(n), job,
                                             f"{options.scale:.9g}"], options.timeout * 1.5 + 30).split()
                    except Failure as problem:
                        raise Failure(f"scaling, {job}: {problem}")
                    if answer[0] != "ok":
                        raise Failure(f"scaling, {job} on {target.name}: {' '.join(answer)}")
                    times.append(int(answer[2]))
                ratios.append(2 * times[0] / times[1])
            row[one.name] = statistics.median(ratios)
        rows.append(row)
    names = [target.name for target in single]
    print("\ntwo vCPUs: work done by two processes in the time of one on one vCPU (2.00 is perfect)")
    print(f"{'job':<20}" + "".join(f"{name:>12}" for name in names))
    for row in rows:
        print(f"{row['job']:<20}" + "".join(f"{row[name]:>12.2f}" for name in names))
    print(f"{'geometric mean':<20}" +
          "".join(f"{geometric_mean([row[name] for row in rows]):>12.2f}" for name in names))
    return rows


def check_results(host, guest, programs, options):
    """Test Anything Protocol: every program at a small scale, guest against host; results only, no times."""
    failed = 0
    print(f"1..{len(programs)}")
    for number, program in enumerate(programs, 1):
        want = host.run(program, options.scale, options.timeout)
        got = guest.run(program, options.scale, options.timeout)
        problem = want.error or got.error or ("timeout" if want.timeout or got.timeout else None)
        if not problem and want.checksum != got.checksum:
            problem = f"result {got.checksum} instead of the host's {want.checksum}"
        failed += problem is not None
        print(f"{'not ' if problem else ''}ok {number} {program.name}", flush=True)
        for line in (problem or "").splitlines():
            print(f"# {line}", flush=True)
    return failed


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path, help="directory that tools/guest.sh made (default BUILD/guest)")
    parser.add_argument("--out", type=pathlib.Path, help="where programs and images are made (default BUILD/bench-cpu)")
    parser.add_argument("--only", action="append", metavar="NAME|CLASS[,...]", help="these programs or classes only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the work of our own programs")
    parser.add_argument("--timeout", type=float, default=60, help="seconds after which a program is stopped")
    parser.add_argument("--enough", type=float, default=10, metavar="SECONDS",
                        help="no further rounds of a program that took so long already on that target")
    parser.add_argument("--qemu", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rhea", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--qemu-binary", default="qemu-system-x86_64")
    parser.add_argument("--rhea-binary", help="default BUILD/rhea-system-x86_64")
    parser.add_argument("--accel-args", default="tcg", help="Rhea's -accel, for example tcg,elide=off")
    parser.add_argument("--qemu-accel-args", default="tcg")
    parser.add_argument("--memory", default="1G")
    parser.add_argument("--smp", type=int, default=1, help="vCPUs of the guests")
    parser.add_argument("--append", default="", help="more words for the kernel's command line")
    parser.add_argument("--core", type=int, help="host core that all run on (default the last one)")
    parser.add_argument("--nice", type=int, default=-20, help="priority of host, QEMU and Rhea (root may lower it; "
                        "default -20: other work on the machine waits)")
    parser.add_argument("--json", type=pathlib.Path, help="all samples as JSON")
    parser.add_argument("--translation", action="store_true", help="only: what translating new code costs")
    parser.add_argument("--scaling", action="store_true", help="only: two vCPUs against one")
    parser.add_argument("--jobs", action="append", help="programs for --scaling instead of the usual ones")
    parser.add_argument("--check", action="store_true", help="only: results in Rhea against the host's (a test)")
    parser.add_argument("--list", action="store_true", help="programs and their classes")
    parser.add_argument("--verbose", action="store_true", help="each run as it happens")
    options = parser.parse_args(argv)
    options.guest = options.guest or pathlib.Path(os.environ.get("RHEA_GUEST") or options.build / "guest")
    options.out = (options.out or options.build / "bench-cpu").resolve()
    options.rhea_binary = options.rhea_binary or options.build / "rhea-system-x86_64"
    if options.check:
        options.nice = 0
        options.scale = 0.003 if options.scale == 1.0 else options.scale
    return options


def main(argv=None):
    options = parse(argv)
    binary, _ = compile_programs(options.out, False)
    listed = [line.split() for line in real.output([binary, "list"]).splitlines()]
    programs = [Program(name, group, None) for name, group in listed if group != "extra"]
    programs += [Program(it.name, "real", it) for it in real.PROGRAMS]
    if options.list:
        for program in programs:
            print(program.name, program.group)
        return 0
    programs = choose(programs, options.only)
    if options.check and not options.only:
        programs = [program for program in programs if program.group != "real"]
    with_real = any(program.group == "real" for program in programs) and not (options.scaling or options.translation)

    binary, crypto = compile_programs(options.out, with_real)
    if options.qemu and not options.check and not shutil.which(options.qemu_binary):
        raise Failure(f"no {options.qemu_binary}: install qemu-system-x86, or use --no-qemu")
    work = make_work(options.out, crypto, with_real)
    image = make_image(options.out, binary, crypto, work, with_real)
    available = sorted(os.sched_getaffinity(0))
    core = {options.core if options.core is not None else available[-1]}
    report, wrong, targets = {}, [], []
    # The host runs in memory too: what a guest has in its initramfs is here in /dev/shm.
    shared = tempfile.mkdtemp(prefix="rhea-bench-cpu-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        shutil.copytree(work, shared, dirs_exist_ok=True)

        def make_targets(smp, cores):
            made = [Target("host", [binary, "serve"], cores, options.nice, cwd=shared)]
            if options.qemu and not options.check:
                argv = guest_argv(options.qemu_binary, options.qemu_accel_args, options, image, smp)
                made.append(Target("QEMU", argv, cores, options.nice, boot_timeout=120))
            if options.rhea:
                argv = guest_argv(options.rhea_binary, options.accel_args, options, image, smp)
                made.append(Target("Rhea", argv, cores, options.nice, boot_timeout=120))
            for target in made:
                targets.append(target)
                seconds = target.start()
                if options.check or target.name == "host":
                    continue
                problem = target.check_clock()
                print(f"{target.name}: {smp} vCPU, ready after {seconds:.1f} s; clock: {target.clock}", flush=True)
                if problem:
                    wrong.append(f"{target.name}: {problem}")
            return made

        if options.check:
            if not (options.guest / "vmlinuz").exists():
                print(f"1..0 # SKIP no guest in {options.guest}: run make guest")
                return 0
            made = make_targets(options.smp, set(available))
            return 1 if check_results(made[0], made[-1], programs, options) else 0
        if options.scaling:
            report["scaling"] = measure_scaling(make_targets(1, core), make_targets(2, set(available)), options)
        elif options.translation:
            report["translation"] = measure_translation(make_targets(options.smp, core), options)
        else:
            cores = core if options.smp == 1 else set(available)
            table, problems = measure(make_targets(options.smp, cores), programs, options)
            wrong += problems
            table.print()
            report = table.json()
    finally:
        for target in targets:
            target.stop()
        shutil.rmtree(shared, ignore_errors=True)
    report["wrong"] = wrong
    report["options"] = {key: str(value) for key, value in vars(options).items()}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    for line in wrong:
        print(f"WRONG {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no guest is left behind
    try:
        sys.exit(main())
    except Failure as problem:
        sys.exit(f"cpu_bench: {problem}")
