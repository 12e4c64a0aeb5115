#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench-io`: what storage costs. rhea-nbd beside qemu-nbd (fio's nbd engine is the client of both) beside fio on
the bare file, and rhea-img beside qemu-img and cp: in the same run, in turn, so that what else the machine does meets
all of them alike. Printed are medians; a verdict goes by the median of the ratios of one round.

Each figure has a name (--list); --only takes names or beginnings of names. System calls, host flushes and bytes are
counted in runs of their own: by perf's tracepoints (in io_uring's queue too, where strace sees nothing) and by the
block device's counter below a file system that nobody else uses (ext4 on a loop device in memory: needs root; without
it by what the process wrote).
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = {"fio": "fio", "qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils", "nbdkit": "nbdkit"}
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


class Failure(Exception):
    pass


def run(argv, **more):
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        raise Failure(f"{' '.join(str(a) for a in argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def first_in_line():
    """Before everything else that wants the processors, where that is allowed: others' work is the noise here."""
    try:
        os.setsid()
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        with open("/proc/self/autogroup", "w", encoding="ascii") as group:
            group.write("-15")
    except (PermissionError, FileNotFoundError, OSError):
        pass


# ---- counting ----

# Where ext4 says so, every time that it is asked to make something stable: fdatasync, fsync, io_uring's, and writes that
# are stable when they are done. Otherwise what the program asks for, which leaves those writes out.
SYNCS = ["ext4:ext4_sync_file_enter"]
FLUSHES = ["syscalls:sys_enter_fdatasync", "syscalls:sys_enter_fsync", "io_uring:io_uring_submit_req"]


class Perf:
    """Counts what a process asks of the kernel, from outside."""

    def __init__(self):
        self.ok = bool(shutil.which("perf"))
        if self.ok:
            self.ok = self.knows(["raw_syscalls:sys_enter", *FLUSHES])
            self.events = SYNCS if self.ok and self.knows(SYNCS) else FLUSHES

    @staticmethod
    def knows(events):
        argv = ["perf", "stat", *(word for name in events for word in ("-e", name)), "--", "true"]
        probe = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        return probe.returncode == 0 and events[0] in probe.stderr

    def start(self, pid, where):
        self.out = where / "perf.txt"
        argv = ["perf", "stat", "-x", ";", "-o", self.out, "-p", pid, "-e", "raw_syscalls:sys_enter"]
        for name in self.events:
            argv += ["-e", name] + (["--filter", "opcode == 3"] if name.startswith("io_uring") else [])
        self.process = subprocess.Popen([str(a) for a in argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.4)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        counts = {}
        for line in self.out.read_text().splitlines():
            fields = line.split(";")
            if len(fields) > 2 and fields[0].isdigit():
                counts[fields[2]] = int(fields[0])
        return {"syscalls": counts.get("raw_syscalls:sys_enter"), "flushes": sum(counts.get(n, 0) for n in self.events)}


class MemoryDisk:
    """ext4 on a loop device whose file lies in memory; .bytes() is what was written to the device."""

    def __init__(self, gib, where):
        self.mount = self.device = None
        self.image = pathlib.Path("/dev/shm") / f"rhea-io-bench.{os.getpid()}"
        try:
            with open(self.image, "wb") as f:
                f.truncate(gib * GIB)
            self.device = run(["losetup", "-f", "--show", self.image]).strip()
            run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.device])
            point = where / "memory-disk"
            point.mkdir()
            run(["mount", self.device, point])
            self.mount = point
        except (Failure, OSError):
            self.close()

    def bytes(self):
        with open(f"/sys/block/{os.path.basename(self.device)}/stat", encoding="ascii") as f:
            return int(f.read().split()[6]) * 512

    def close(self):
        if self.mount:
            subprocess.run(["umount", str(self.mount)], check=False)
        if self.device:
            subprocess.run(["losetup", "-d", self.device], check=False)
        self.mount = self.device = None
        self.image.unlink(missing_ok=True)


# ---- servers and load ----

class Server:
    """A disk image behind a unix socket."""

    def __init__(self, bench, who, image, fmt, cache="writeback", aio=None):
        program = bench.build / "rhea-nbd" if who == "rhea" else "qemu-nbd"
        self.socket = bench.work / "nbd.sock"
        self.socket.unlink(missing_ok=True)
        argv = [str(program), "-t", "-k", str(self.socket), "-f", fmt, f"--cache={cache}"]
        argv += [f"--aio={aio}"] if aio else []
        self.log = open(bench.work / "server.log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(argv + [str(image)], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise Failure(f"{who}: no server for {image}: {self.log.read()}")
            time.sleep(0.01)
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def written(self):
        with open(f"/proc/{self.process.pid}/io", encoding="ascii") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("write_bytes"))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure("the server does not end") from None
        self.log.close()


def fio(where, job):
    """One fio run: iops, mb_s, requests, flushes, seconds."""
    argv = ["fio", "--name=bench", "--output-format=json", "--group_reporting", "--randrepeat=1", "--thread"]
    argv += [f"--{key}={value}" for key, value in job.items()]
    text = run(argv, cwd=where)
    it = json.loads(text[text.index("{"):])["jobs"][0]
    if it.get("error"):
        raise Failure(f"fio: error {it['error']}: {' '.join(argv)}")
    ios = it["read"]["total_ios"] + it["write"]["total_ios"]
    seconds = max(it["read"]["runtime"], it["write"]["runtime"]) / 1000
    if not ios or not seconds:
        raise Failure(f"fio did nothing: {' '.join(argv)}")
    return {"iops": ios / seconds, "mb_s": (it["read"]["io_bytes"] + it["write"]["io_bytes"]) / seconds / 1e6,
            "ios": ios, "flushes": it.get("sync", {}).get("total_ios", 0), "seconds": seconds}


class Bench:
    def __init__(self, args):
        self.args, self.build, self.quick = args, args.build.resolve(), args.quick
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="rhea-io-bench.", dir=args.dir))
        os.chmod(self.work, 0o755)
        self.perf = Perf()
        self.memory = None
        self.results = []
        self.size = 2 * GIB if args.quick else 8 * GIB

    def img(self, who):
        return self.build / "rhea-img" if who == "rhea" else pathlib.Path("qemu-img")

    def rounds(self):
        return self.args.rounds or (3 if self.quick else 5)

    def ios(self, full):
        return full // 4 if self.quick else full

    # -- images --

    def base(self):
        """A full raw image (once)."""
        path = self.work / "base.raw"
        if not path.exists():
            block = random.Random(7).randbytes(4 * MIB)
            with open(path, "wb") as f:
                for _ in range(self.size // len(block)):
                    f.write(block)
                f.flush()
                os.fsync(f.fileno())
        return path

    def image(self, who, kind, where=None):
        """A new image: its path and format."""
        where = where or self.work
        path = where / f"{who}-{kind}.img"
        path.unlink(missing_ok=True)
        journal = ["-o", "journal=auto"] if who == "rhea" and kind.endswith("+j") else []
        plain = kind.removesuffix("+j")
        create = [self.img(who), "create", "-q", "-f"]
        if plain == "raw":
            run([*create, "raw", path, self.size])
        elif plain == "rawfull":
            run([*create, "raw", "-o", "preallocation=full", path, self.size])
        elif plain == "empty":
            run([*create, "qcow2", *journal, path, self.size])
        elif plain == "prealloc":
            run([*create, "qcow2", "-o", "preallocation=full", *journal, path, self.size])
        elif plain == "cow":
            run([*create, "qcow2", *journal, "-b", self.base(), "-F", "raw", path])
        elif plain == "subcow":
            run([*create, "qcow2", "-o", "extended_l2=on,cluster_size=128k", "-b", self.base(), "-F", "raw", path])
        else:
            raise Failure(kind)
        return path, "raw" if plain.startswith("raw") else "qcow2"

    def serve(self, who, path, fmt, job, cache="writeback", aio=None, count=False):
        """fio against a server; with what it cost."""
        direct = cache in ("none", "directsync")
        run(["sync", "-f", path])  # what making the image left behind is not this run's
        if who == "file":
            engine = {"ioengine": "io_uring", "direct": 1} if direct else {"ioengine": "io_uring"}
            return fio(self.work, {**engine, "filename": path, "size": self.size, "allow_file_create": 0, **job})
        server = Server(self, who, path, fmt, cache, aio)
        try:
            before = server.cpu_s(), server.written(), self.memory.bytes() if self.memory else 0
            if count:
                self.perf.start(server.process.pid, self.work)
            it = fio(self.work, {"ioengine": "nbd", "uri": server.uri, "size": self.size, **job})
            if count:
                it.update(self.perf.stop())
            it["cpu_us"] = (server.cpu_s() - before[0]) * 1e6 / it["ios"]
            if self.memory:
                run(["sync", "-f", self.memory.mount])
                it["written"] = self.memory.bytes() - before[2]
            else:
                it["written"] = server.written() - before[1]
            return it
        finally:
            server.stop()

    # -- results --

    def report(self, name, what, value, limit, above, text=""):
        """One line of the table. above: value must be at least the limit."""
        good = None if limit is None or value is None else (value >= limit if above else value <= limit)
        self.results.append({"name": name, "what": what, "value": value, "limit": limit, "ok": good, "detail": text})
        bound = "" if limit is None else f"  ({'>=' if above else '<='} {limit:g})"
        verdict = {True: "good", False: "MISSED", None: ""}[good]
        shown = "none" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        print(f"{name:<24} {what:<58} {shown:>8}{bound:<12} {verdict:<7} {text}", flush=True)

    def rates(self, rows, key):
        return " ".join(f"{name} {statistics.median(r[key] for r in runs):.0f}" for name, runs in rows.items())

    def interleave(self, targets):
        """targets: name to a function that does one run. Every round runs each once; the order turns."""
        rows = {name: [] for name in targets}
        names = list(targets)
        for turn in range(self.rounds()):
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                rows[name].append(targets[name]())
        return rows

    def verdict(self, name, what, rows, over, under, key, limit, above=True, text=None):
        ratios = [a[key] / b[key] for a, b in zip(rows[over], rows[under])]
        self.report(name, what, statistics.median(ratios), limit, above,
                    self.rates(rows, key) if text is None else text)


# ---- the figures ----

RANDOM_WRITE = {"rw": "randwrite", "bs": "4k"}
FIGURES = {}


def figure(name):
    def keep(fn):
        FIGURES[name] = fn
        return fn
    return keep


@figure("flush.count")
def flush_count(b):
    """Host flushes per guest flush, and bytes on the disk per byte written."""
    if not b.perf.ok:
        print("flush.count: perf with tracepoints is needed (linux-perf): left out")
        return
    small, b.size = b.size, 1 * GIB if b.quick else 2 * GIB
    b.base()
    b.memory = MemoryDisk(8 if not b.quick else 4, b.work)
    try:
        if not b.memory.mount:
            b.memory = None
        where = b.memory.mount if b.memory else b.work
        for kind in ("rawfull", "empty+j", "cow+j"):
            for who in ("rhea", "qemu"):
                path, fmt = b.image(who, kind, where)
                job = {**RANDOM_WRITE, "iodepth": 1, "fsync": 1, "number_ios": b.ios(8000)}
                it = b.serve(who, path, fmt, job, count=True)
                path.unlink()
                ours = who == "rhea" and kind != "rawfull"
                b.report(f"flush.count.{kind}", f"{who}: host flushes per guest flush", it["flushes"] / it["ios"],
                         1.05 if ours else None, False, f"{it['syscalls'] / it['ios']:.1f} system calls each")
                b.report(f"flush.bytes.{kind}", f"{who}: bytes on the disk per byte written",
                         it["written"] / it["ios"] / 4096, 4 if ours else None, False)
    finally:
        if b.memory:
            b.memory.close()
        b.memory = None
        b.size = small
        (b.work / "base.raw").unlink(missing_ok=True)


def flush_rate(b, name, depth, every, limit, ios):
    job = {**RANDOM_WRITE, "iodepth": depth, "fsync": every, "number_ios": b.ios(ios)}

    def one(who, kind):
        def go():
            path, fmt = b.image(who, kind)
            try:
                return b.serve(who, path, fmt, job)
            finally:
                path.unlink()
        return go

    b.base()
    raw, _ = b.image("rhea", "rawfull")  # its blocks are there, as in an image that has been in use
    rows = b.interleave({"file": lambda: b.serve("file", raw, "raw", job), "raw": lambda: b.serve("rhea", raw, "raw", job),
                         "new": one("rhea", "empty+j"), "cow": one("rhea", "cow+j"),
                         "qemu-raw": lambda: b.serve("qemu", raw, "raw", job), "qemu-new": one("qemu", "empty"),
                         "qemu-cow": one("qemu", "cow")})
    raw.unlink()
    print(f"{'':24} IOPS: {b.rates(rows, 'iops')}")
    b.verdict(f"{name}.new", "new image, of raw through the same server", rows, "new", "raw", "iops", limit, text="")
    b.verdict(f"{name}.cow", "over a backing file, of raw through the same server", rows, "cow", "raw", "iops", limit, text="")
    b.verdict(f"{name}.new.qemu", "new image, times QEMU", rows, "new", "qemu-new", "iops", None, text="")
    b.verdict(f"{name}.cow.qemu", "over a backing file, times QEMU", rows, "cow", "qemu-cow", "iops", None, text="")
    b.verdict(f"{name}.qemu", "QEMU: new image, of raw", rows, "qemu-new", "qemu-raw", "iops", None, text="")


@figure("flush.1")
def flush_1(b):
    """4 KiB random writes, a flush after every one."""
    flush_rate(b, "flush.1", 1, 1, 0.9, 6000)


@figure("flush.16")
def flush_16(b):
    """4 KiB random writes at depth 16, a flush after every 16."""
    flush_rate(b, "flush.16", 16, 16, 0.8, 24000)


@figure("cow")
def cow(b):
    """First writes over a full backing file, images made without any option."""
    b.base()
    for depth, limit in ((1, 5), (16, 4)):
        job = {**RANDOM_WRITE, "iodepth": depth, "number_ios": b.ios(24000)}

        def one(who, kind, job=job):
            def go():
                path, fmt = b.image(who, kind)
                try:
                    return b.serve(who, path, fmt, job)
                finally:
                    path.unlink()
            return go
        rows = b.interleave({"rhea": one("rhea", "cow"), "qemu": one("qemu", "cow"), "qemu-sub": one("qemu", "subcow"),
                             "rhea-sub": one("rhea", "subcow"), "raw": one("rhea", "raw")})
        b.verdict(f"cow.{depth}", f"4 KiB first writes over a full base, depth {depth}, times QEMU", rows, "rhea",
                  "qemu", "iops", limit)


@figure("cost")
def cost(b):
    """Rate, CPU time and system calls per request of raw and preallocated images."""
    images = {(who, kind): b.image(who, kind) for who in ("rhea", "qemu") for kind in ("rawfull", "prealloc")}
    for cache, aio in (("none", "io_uring"), ("none", "native"), ("writeback", "io_uring"), ("writeback", None)):
        for depth in (1, 16):
            ios = b.ios((40000 if depth == 16 else 16000) if cache == "none" else 80000)
            job = {**RANDOM_WRITE, "iodepth": depth, "number_ios": ios}

            def one(who, kind, job=job, cache=cache, aio=aio, count=False):
                def go():
                    path, fmt = images["rhea" if who == "file" else who, kind]
                    return b.serve(who, path, fmt, job, cache=cache, aio=aio, count=count)
                return go
            rows = b.interleave({"file": one("file", "rawfull"), "raw": one("rhea", "rawfull"),
                                 "prealloc": one("rhea", "prealloc"), "qemu-raw": one("qemu", "rawfull"),
                                 "qemu-prealloc": one("qemu", "prealloc")})
            name = f"cost.{cache}.{aio or 'default'}.{depth}"
            print(f"{name:24} IOPS: {b.rates(rows, 'iops')}")
            bound = 0.92 if cache == "none" and depth == 16 else None
            counted = {}
            if b.perf.ok:
                counted = {(who, kind): one(who, kind, job={**job, "number_ios": ios // 2}, count=True)()
                           for who in ("rhea", "qemu") for kind in ("rawfull", "prealloc")}
            for kind, full in (("raw", "rawfull"), ("prealloc", "prealloc")):
                b.verdict(f"{name}.{kind}", "IOPS, of the bare file", rows, kind, "file", "iops", bound, text="")
                us = {w: statistics.median(r["cpu_us"] for r in rows[w]) for w in (kind, f"qemu-{kind}")}
                b.verdict(f"{name}.{kind}.cpu", "CPU per request, of QEMU's", rows, kind, f"qemu-{kind}", "cpu_us",
                          0.5, False, f"{us[kind]:.1f} us, QEMU {us['qemu-' + kind]:.1f} us")
                if counted:
                    ours, theirs = (counted[w, full]["syscalls"] / counted[w, full]["ios"] for w in ("rhea", "qemu"))
                    b.report(f"{name}.{kind}.calls", "system calls per request, of QEMU's", ours / theirs, 0.5, False,
                             f"{ours:.2f}, QEMU {theirs:.2f}")
    for path, _ in images.values():
        path.unlink()


@figure("read")
def read(b):
    """Random reads of full images beside raw, at two sizes."""
    kept = b.size
    for size, label in ((8 * GIB, "8g"), (1 * TIB, "1t")):
        b.size = size
        raw = b.work / "read.raw"
        with open(raw, "wb") as f:
            f.truncate(size)
        images = {"raw": (raw, "raw")}
        for who in ("rhea", "qemu"):
            path = b.work / f"{who}-read.qcow2"
            run([b.img(who), "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, size])
            images[who] = (path, "qcow2")
        job = {"rw": "randread", "bs": "4k", "iodepth": 16, "number_ios": b.ios(200000), "norandommap": 1}

        def one(who, what, job=job, images=images):
            return lambda: b.serve(who, *images[what], job)
        rows = b.interleave({"raw": one("rhea", "raw"), "qcow2": one("rhea", "rhea"), "qemu-raw": one("qemu", "raw"),
                             "qemu-qcow2": one("qemu", "qemu")})
        b.verdict(f"read.{label}", f"4 KiB random reads, full image of {size // GIB} GiB, of raw", rows, "qcow2", "raw",
                  "iops", 0.95)
        for path, _ in images.values():
            path.unlink()
    b.size = kept


@figure("chain")
def chain(b):
    """Random reads through 500 overlays beside one."""
    count = 100 if b.quick else 500
    kept, b.size = b.size, 1 * GIB
    where = b.work / "chain"
    where.mkdir()
    base = where / "base.raw"
    with open(base, "wb") as f:
        f.truncate(b.size)
    img = b.img("rhea")
    run([img, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", where / "one.qcow2"])
    last, form = base, "raw"
    for i in range(count):
        layer = where / f"{i}.qcow2"
        run([img, "create", "-q", "-f", "qcow2", "-b", last, "-F", form, layer, b.size])
        if i % 10 == 0:  # some data in the layers
            run([b.build / "rhea-io", "-f", "qcow2", "-c", f"write {i * MIB} 64k", layer])
        last, form = layer, "qcow2"
    job = {"rw": "randread", "bs": "4k", "iodepth": 16, "number_ios": b.ios(100000), "norandommap": 1}
    rows = b.interleave({"one": lambda: b.serve("rhea", where / "one.qcow2", "qcow2", job),
                         "chain": lambda: b.serve("rhea", last, "qcow2", job),
                         "qemu-one": lambda: b.serve("qemu", where / "one.qcow2", "qcow2", job),
                         "qemu-chain": lambda: b.serve("qemu", last, "qcow2", job)})
    b.verdict("chain", f"4 KiB random reads through {count} overlays, of one", rows, "chain", "one", "iops", 0.9)
    shutil.rmtree(where)
    b.size = kept


@figure("sequential")
def sequential(b):
    """1 MiB, in order."""
    images = {(who, kind): b.image(who, kind) for who in ("rhea", "qemu") for kind in ("rawfull", "prealloc")}
    for rw in ("write", "read"):
        job = {"rw": rw, "bs": "1m", "iodepth": 8, "io_size": min(b.size, 4 * GIB) // (2 if b.quick else 1)}

        def one(who, kind, job=job):
            return lambda: b.serve(who, *images["rhea" if who == "file" else who, kind], job, cache="none",
                                   aio="io_uring")
        rows = b.interleave({"file": one("file", "rawfull"), "raw": one("rhea", "rawfull"),
                             "prealloc": one("rhea", "prealloc"), "qemu-raw": one("qemu", "rawfull"),
                             "qemu-prealloc": one("qemu", "prealloc")})
        for kind in ("raw", "prealloc"):
            b.verdict(f"sequential.{rw}.{kind}", "1 MiB in order, of the bare file", rows, kind, "file", "mb_s", 0.95)
    for path, _ in images.values():
        path.unlink()


def mixed_data(path, size, seed=11):
    """About 0.72 of it data: text-like, random and zero runs; the rest holes."""
    r = random.Random(seed)
    words = [r.randbytes(r.randint(3, 9)) for _ in range(4000)]
    with open(path, "wb") as f:
        at = 0
        while at < size:
            n = min(size - at, r.choice((64, 128, 256, 1024, 4096)) * KIB)
            kind = r.random()
            if kind < 0.28:
                f.seek(n, 1)
            elif kind < 0.50:
                f.write(r.randbytes(n))
            elif kind < 0.55:
                f.write(bytes(n))
            else:
                text = b" ".join(r.choices(words, k=n // 6))[:n]
                f.write(text + bytes(n - len(text)))
            at += n
        f.truncate(size)


def timed(argv):
    """One run of a tool: its seconds, its CPU seconds, as a rate too (runs per second, so that more is better)."""
    began, cpu = time.monotonic(), os.times()
    run(argv)
    seconds, end = time.monotonic() - began, os.times()
    spent = end.children_user + end.children_system - cpu.children_user - cpu.children_system
    return {"seconds": seconds, "rate": 1 / max(seconds, 1e-6), "cpu": spent}


def in_memory(b, need):
    """A folder in memory where there is room, so that the disk is not what is measured."""
    shm = pathlib.Path("/dev/shm")
    if shm.is_dir() and shutil.disk_usage(shm).free > 2 * need:
        return pathlib.Path(tempfile.mkdtemp(prefix="rhea-io-bench.", dir=shm))
    return pathlib.Path(tempfile.mkdtemp(dir=b.work))


def seconds_of(rows):
    return " ".join(f"{n} {statistics.median(r['seconds'] for r in runs):.2f}s/{statistics.median(r['cpu'] for r in runs):.2f}"
                    for n, runs in rows.items())


@figure("convert")
def convert(b):
    """convert beside cp --sparse=always, and compressed both ways."""
    size = 1 * GIB if b.quick else 4 * GIB
    where = in_memory(b, 3 * size)
    try:
        source = where / "source.raw"
        mixed_data(source, size)
        targets = {who: where / f"{who}.qcow2" for who in ("rhea", "qemu")}

        def to_qcow2(who, *more):
            def go():
                targets[who].unlink(missing_ok=True)
                return timed([b.img(who), "convert", *more, "-f", "raw", "-O", "qcow2", source, targets[who]])
            return go

        def to_raw(who):
            def go():
                (where / f"{who}.raw").unlink(missing_ok=True)
                it = timed([b.img(who), "convert", "-f", "qcow2", "-O", "raw", targets[who], where / f"{who}.raw"])
                return it
            return go

        def copy():
            (where / "cp.raw").unlink(missing_ok=True)
            return timed(["cp", "--sparse=always", source, where / "cp.raw"])

        rows = b.interleave({"cp": copy, "rhea": to_qcow2("rhea"), "qemu": to_qcow2("qemu"),
                             "qemu-W16": to_qcow2("qemu", "-W", "-m", "16")})
        b.verdict("convert.qcow2", "raw to qcow2, times cp --sparse=always", rows, "rhea", "cp", "rate", 1.1,
                  text=seconds_of(rows))
        rows = b.interleave({"cp": copy, "rhea": to_raw("rhea"), "qemu": to_raw("qemu")})
        b.verdict("convert.raw", "qcow2 to raw, times cp --sparse=always", rows, "rhea", "cp", "rate", 1.1,
                  text=seconds_of(rows))
        run(["cmp", source, where / "rhea.raw"])
        for path in where.glob("*.*"):
            if path != source:
                path.unlink()
        keep, b.args.rounds = b.args.rounds, b.args.rounds or (2 if b.quick else 3)
        small = source
        if not b.quick:  # a quarter is enough for a compressor
            small = where / "small.raw"
            mixed_data(small, 1 * GIB, 12)
        source = small
        for method in ("zlib", "zstd"):
            rows = b.interleave({who: to_qcow2(who, "-c", "-o", f"compression_type={method}") for who in targets})
            b.verdict(f"convert.{method}", f"compressed with {method}, times QEMU", rows, "rhea", "qemu", "rate", 1.8,
                      text=seconds_of(rows))
            sizes = {who: path.stat().st_blocks for who, path in targets.items()}
            b.report(f"convert.{method}.size", "size, of QEMU's", sizes["rhea"] / sizes["qemu"], 1.01, False)
            rows = b.interleave({who: to_raw(who) for who in targets})
            b.verdict(f"convert.un{method}", f"decompressed with {method}, times QEMU", rows, "rhea", "qemu", "rate",
                      1.8, text=seconds_of(rows))
            for who in targets:
                run(["cmp", source, where / f"{who}.raw"])
        b.args.rounds = keep
    finally:
        shutil.rmtree(where)


@figure("tools")
def tools(b):
    """open, info, check and create of 1 TiB."""
    made = {who: b.work / f"{who}-1t.qcow2" for who in ("rhea", "qemu")}
    full = {who: b.work / f"{who}-1t-full.qcow2" for who in ("rhea", "qemu")}
    keep, b.args.rounds = b.args.rounds, 4 * b.rounds()

    def create(who):
        made[who].unlink(missing_ok=True)
        return timed([b.img(who), "create", "-q", "-f", "qcow2", made[who], "1T"])

    def times(name, what, argv_of):
        rows = b.interleave({who: lambda who=who: argv_of(who) for who in made})
        b.verdict(name, what, rows, "rhea", "qemu", "seconds", 1.0, False,
                  " ".join(f"{n} {statistics.median(r['seconds'] for r in runs) * 1000:.1f} ms" for n, runs in rows.items()))

    times("tools.create", "create 1 TiB, time of QEMU's", create)
    times("tools.info", "info of it", lambda who: timed([b.img(who), "info", made[who]]))
    times("tools.check", "check of it", lambda who: timed([b.img(who), "check", "-q", made[who]]))
    io = {"rhea": b.build / "rhea-io", "qemu": "qemu-io"}
    times("tools.open", "open, read 4 KiB, close", lambda who: timed([io[who], "-r", "-f", "qcow2", "-c", "read 512G 4k",
                                                                     made[who]]))
    b.args.rounds = keep
    for who in full:
        run([b.img(who), "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", full[who], "1T"])
    times("tools.info.full", "info of a full one", lambda who: timed([b.img(who), "info", full[who]]))
    times("tools.check.full", "check of a full one", lambda who: timed([b.img(who), "check", "-q", full[who]]))
    for path in [*made.values(), *full.values()]:
        path.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "build",
                        help="folder for the images, on the disk that is measured (needs 40 GiB; --quick: 12)")
    parser.add_argument("--only", nargs="+", default=[], help="names of figures, or how they begin")
    parser.add_argument("--rounds", type=int, help="how often each is run (5; --quick: 3)")
    parser.add_argument("--quick", action="store_true", help="smaller images, fewer requests")
    parser.add_argument("--json", type=pathlib.Path, help="the results into this file too")
    parser.add_argument("--list", action="store_true", help="name the figures and end")
    args = parser.parse_args()
    if args.list:
        for name, fn in FIGURES.items():
            print(f"{name:<14} {fn.__doc__}")
        return 0
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if missing:
        print(f"Install what is missing, as root: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 1
    for program in ("rhea-nbd", "rhea-img", "rhea-io"):
        if not (args.build / program).exists():
            print(f"{args.build / program} is not there: build first (make)", file=sys.stderr)
            return 1
    chosen = [n for n in FIGURES if not args.only or any(n.startswith(o) or o.startswith(n + ".") for o in args.only)]
    if not chosen:
        parser.error("no such figure; --list names them")
    first_in_line()
    bench = Bench(args)
    failed = False
    try:
        for name in chosen:
            try:
                FIGURES[name](bench)
            except Failure as problem:
                failed = True
                print(f"{name}: FAILED: {problem}", flush=True)
    finally:
        shutil.rmtree(bench.work, ignore_errors=True)
    missed = [r["name"] for r in bench.results if r["ok"] is False]
    judged = sum(r["ok"] is not None for r in bench.results)
    print(f"{judged - len(missed)} of {judged} within their limits" + (f"; missed: {' '.join(missed)}" if missed else ""))
    if args.json:
        args.json.write_text(json.dumps(bench.results, indent=1) + "\n")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
