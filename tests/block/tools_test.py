#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The image tools as scripts call them: rhea-img, rhea-io and rhea-nbd, beside qemu-img, qemu-io, nbdinfo, nbdcopy and
qemu-nbd where the host has them. Every comparison runs the same command line of both programs."""
import argparse
import base64
import bz2
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Tap, expect, run  # noqa: E402


class Bench:
    """A directory of its own, and the two sets of tools under the same names."""

    def __init__(self, build):
        self.temporary = tempfile.TemporaryDirectory(prefix="rhea-tools-")
        self.dir = pathlib.Path(self.temporary.name)
        self.bin = self.dir / "bin"
        self.bin.mkdir()
        for ours, theirs in (("rhea-img", "qemu-img"), ("rhea-io", "qemu-io"), ("rhea-nbd", "qemu-nbd")):
            (self.bin / theirs).symlink_to((build / ours).resolve())
        status, out, err = self.ours("qemu-img", "--help")
        expect(status == 0, err)
        self.formats = out.split("Supported formats:")[1].split()

    def ours(self, tool, *arguments, **options):
        return run([self.bin / tool, *arguments], cwd=self.dir, **options)

    def theirs(self, tool, *arguments, **options):
        path = shutil.which(tool)
        if not path:
            raise Tap.Skip(f"the host has no {tool}")
        return run([path, *arguments], cwd=self.dir, **options)

    def ok(self, tool, *arguments):
        status, out, err = self.ours(tool, *arguments)
        expect(status == 0, f"{tool} {' '.join(map(str, arguments))}: status {status}: {out}{err}")
        return out

    def same(self, tool, *arguments, prepare=None, stdout=True):
        """Both programs answer a command line alike: status, stdout, stderr. prepare() makes the input anew."""
        answers = []
        for runner in (self.theirs, self.ours):
            if prepare:
                prepare()
            answers.append(runner(tool, *arguments))
        (status, out, err), (our_status, our_out, our_err) = [
            (s, o, re.sub(r"[^\s`]*/(qemu-\w+) --help", r"\1 --help", e)) for s, o, e in answers]
        line = f"{tool} {' '.join(map(str, arguments))}"
        expect(our_status == status, f"{line}: status {our_status}, not {status}: {our_err}")
        if stdout:
            expect(our_out == out, f"{line}: said\n{our_out}\nnot\n{out}")
        expect(our_err == err, f"{line}: complained\n{our_err}\nnot\n{err}")

    def need(self, name):
        if name not in self.formats:
            raise Tap.Skip(f"this build has no {name} driver")


def no_rates(text):
    """The lines of qemu-io but for what depends on time."""
    return re.sub(r"ops; [^\n]*", "ops", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    bench = Bench(args.build)
    tap = Tap()
    helpers = {"helper"}

    def helper(function):
        helpers.add(function.__name__)
        return function

    @helper
    def fresh(name="t.raw", size=4 << 20, data=True):
        path = bench.dir / name
        path.unlink(missing_ok=True)
        with open(path, "wb") as file:
            file.truncate(size)
            if data:
                file.seek(1 << 20)
                file.write(b"\x11" * 65536)
                file.seek(3 << 20)
                file.write(b"\x22" * 4096)
        return path

    @helper
    def wait_for(condition, what, seconds=10):
        deadline = time.monotonic() + seconds
        while not condition():
            expect(time.monotonic() < deadline, f"{what} did not happen within {seconds} s")
            time.sleep(0.02)

    class Server:
        """rhea-nbd --fork on a unix socket."""

        def __init__(self, *arguments, tool=None):
            self.socket = bench.dir / "nbd.sock"
            self.pid_file = bench.dir / "nbd.pid"
            self.uri = f"nbd+unix:///?socket={self.socket}"
            command = ["--fork", f"--pid-file={self.pid_file}", "-k", self.socket, *arguments]
            status, out, err = (tool or bench.ours)("qemu-nbd", *command)
            expect(status == 0, f"the server did not start: {out}{err}")
            self.pid = int(self.pid_file.read_text())

        def alive(self):
            try:
                os.kill(self.pid, 0)
                return "Z" not in pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except (ProcessLookupError, FileNotFoundError):
                return False

        def __enter__(self):
            return self

        def __exit__(self, *_):
            if self.alive():
                os.kill(self.pid, signal.SIGTERM)
            wait_for(lambda: not self.alive(), "the server's end")

    helpers.add("Server")

    # ---- names, help, mistakes ----

    def called_by_its_own_name():
        status, out, err = run([args.build / "rhea-img", "--version"])
        expect(status == 0 and out.startswith("rhea-img version 7.2.0 "), out + err)
        expect(bench.ok("qemu-img", "--version").startswith("qemu-img version 7.2.0 "), "the link's name is not used")
        _, _, err = run([args.build / "rhea-img", "nonsense"])
        expect(err.startswith("rhea-img: Command not found: nonsense"), err)

    def mistakes_on_the_command_line():
        for line in (["nonsense"], ["create"], ["info"], ["info", "--nonsense", "x"], ["create", "-f"], ["resize", "x"],
                     ["compare", "a"], ["check", "-r", "some", "x"], ["snapshot", "-l", "-c", "x", "y"],
                     ["create", "-f", "raw", "t.raw", "1Q"], ["create", "-f", "raw", "t.raw", "-1"],
                     ["create", "-f", "raw", "t.raw"], ["create", "-f", "raw", "-o", "foo=1", "t.raw", "1M"],
                     ["create", "-f", "raw", "-o", "size=1,,2", "t.raw"], ["create", "-f", "raw", "-o", ",", "t.raw", "1M"],
                     ["create", "-f", "raw", "-b", "x", "t.raw", "1M"], ["create", "-f", "nonsense", "t.raw", "1M"],
                     ["convert"], ["convert", "-O", "raw", "x"], ["convert", "-m", "0", "a", "b"],
                     ["convert", "-S", "3", "a", "b"], ["convert", "-c", "-C", "a", "b"], ["rebase", "x"],
                     ["amend", "x"], ["bitmap", "x", "y"], ["bitmap", "--clear", "-g", "64k", "x", "y"],
                     ["measure"], ["measure", "--size", "1M", "x"], ["dd", "if=a"], ["dd", "if=a", "of=b", "nonsense"],
                     ["info", "--output=yaml", "x"], ["bench", "-c", "x", "y"], ["map", "-s", "-1", "x"]):
            bench.same("qemu-img", *line)

    def missing_files():
        for line in (["info", "none.raw"], ["map", "none.raw"], ["compare", "none.raw", "none.raw"],
                     ["convert", "none.raw", "b.raw"], ["check", "none.raw"]):
            status, _, err = bench.ours("qemu-img", *line)
            expect(status == (2 if line[0] == "compare" else 1), f"{line}: {status}")
            expect("Could not open 'none.raw'" in err and "No such file or directory" in err, err)

    # ---- raw images ----

    def create_raw():
        def remove():
            (bench.dir / "c.raw").unlink(missing_ok=True)
        bench.same("qemu-img", "create", "-f", "raw", "c.raw", "10M", prepare=remove)
        expect((bench.dir / "c.raw").stat().st_size == 10 << 20, "wrong size")
        bench.same("qemu-img", "create", "-f", "raw", "-o", "size=1.5k", "c.raw", prepare=remove)
        bench.same("qemu-img", "create", "-q", "-f", "raw", "c.raw", "0", prepare=remove)

    def info_raw():
        fresh()
        bench.same("qemu-img", "info", "-f", "raw", "t.raw")
        bench.same("qemu-img", "info", "-f", "raw", "--output=json", "t.raw")
        bench.same("qemu-img", "info", "-f", "raw", "--output=json", "--backing-chain", "t.raw")
        bench.same("qemu-img", "info", "--output=json", "--image-opts", "driver=raw,file.driver=file,file.filename=t.raw")

    def map_raw():
        fresh()
        for options in ([], ["--output=json"], ["--output=json", "-s", "1M", "-l", "128k"]):
            bench.same("qemu-img", "map", "-f", "raw", *options, "t.raw")

    def check_raw():
        fresh()
        bench.same("qemu-img", "check", "-f", "raw", "t.raw")

    def resize_raw():
        for size in ("8M", "+1M", "+512", "-1M", "1M", "0", "-100M", "banana"):
            bench.same("qemu-img", "resize", "-f", "raw", "t.raw", size, prepare=fresh)
        bench.same("qemu-img", "resize", "-f", "raw", "--shrink", "t.raw", "1M", prepare=fresh)
        expect((bench.dir / "t.raw").stat().st_size == 1 << 20, "not shrunk")
        bench.same("qemu-img", "resize", "-q", "-f", "raw", "--preallocation=full", "t.raw", "6M", prepare=fresh)
        bench.same("qemu-img", "resize", "-f", "raw", "--preallocation=some", "t.raw", "6M", prepare=fresh)

    def convert_raw():
        source = fresh().read_bytes()
        bench.ok("qemu-img", "convert", "-f", "raw", "-O", "raw", "t.raw", "out.raw")
        out = bench.dir / "out.raw"
        expect(out.read_bytes() == source, "contents differ")
        expect(out.stat().st_blocks <= 160, f"holes were written: {out.stat().st_blocks} blocks")
        bench.ok("qemu-img", "convert", "-S", "0", "-O", "raw", "-f", "raw", "t.raw", "full.raw")
        expect((bench.dir / "full.raw").stat().st_blocks >= 8192, "-S 0 left holes")
        out.write_bytes(b"\xff" * len(source))  # an existing target: zeroes must be written
        bench.ok("qemu-img", "convert", "-n", "-W", "-m", "3", "-f", "raw", "-O", "raw", "t.raw", "out.raw")
        expect(out.read_bytes() == source, "contents differ with -n")
        bench.ok("qemu-img", "convert", "-f", "raw", "-O", "raw", "t.raw", "t.raw", "twice.raw")
        expect((bench.dir / "twice.raw").read_bytes() == source * 2, "two sources do not follow each other")
        text = bench.ok("qemu-img", "convert", "-p", "-f", "raw", "-O", "raw", "t.raw", "out.raw")
        expect(text.startswith("    (0.00/100%)\n") and text.endswith("(100.00/100%)\n"), repr(text))  # \r reads as \n

    def convert_random_extents():
        generator = random.Random(3)
        path = fresh("random.raw", 8 << 20, data=False)
        with open(path, "r+b") as file:
            for _ in range(300):
                file.seek(generator.randrange(0, (8 << 20) - 9000))
                file.write(bytes([generator.randrange(0, 3)]) * generator.randrange(1, 9000))
        for options in ([], ["-S", "512"], ["-S", "64k"], ["-m", "1"], ["-W", "-m", "16"], ["-C"]):
            bench.ok("qemu-img", "convert", *options, "-f", "raw", "-O", "raw", "random.raw", "out.raw")
            expect((bench.dir / "out.raw").read_bytes() == path.read_bytes(), f"contents differ with {options}")

    def compare_raw():
        fresh("a.raw")
        fresh("b.raw")
        bench.same("qemu-img", "compare", "-f", "raw", "-F", "raw", "a.raw", "b.raw")
        bench.same("qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", "a.raw", "b.raw")
        with open(bench.dir / "b.raw", "r+b") as file:
            file.seek((1 << 20) + 7)
            file.write(b"!")
        bench.same("qemu-img", "compare", "-f", "raw", "-F", "raw", "a.raw", "b.raw")
        fresh("b.raw", 5 << 20)
        bench.same("qemu-img", "compare", "-f", "raw", "-F", "raw", "a.raw", "b.raw")
        bench.same("qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", "a.raw", "b.raw")
        with open(bench.dir / "b.raw", "r+b") as file:
            file.seek((4 << 20) + 4096)
            file.write(b"!")
        bench.same("qemu-img", "compare", "-f", "raw", "-F", "raw", "a.raw", "b.raw")

    def dd_raw():
        source = fresh().read_bytes()
        # As the manual says: skip blocks, then count blocks (QEMU 7.2 counts what it skips).
        bench.ok("qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=512", "skip=2048", "count=200", "if=t.raw", "of=dd.raw")
        expect((bench.dir / "dd.raw").read_bytes() == source[2048 * 512:2248 * 512], "dd with skip and count")
        for operands in (["bs=64k"], ["bs=1M", "count=1"], ["bs=3000", "skip=300"],
                         ["bs=1M", "skip=3"]):
            outputs = []
            for runner in (bench.theirs, bench.ours):
                (bench.dir / "dd.raw").unlink(missing_ok=True)
                status, out, err = runner("qemu-img", "dd", "-f", "raw", "-O", "raw", *operands, "if=t.raw", "of=dd.raw")
                outputs.append((status, out, err, (bench.dir / "dd.raw").read_bytes()))
            expect(outputs[0] == outputs[1], f"dd {operands}: {outputs[0][:3]} and {outputs[1][:3]}, "
                   f"{len(outputs[0][3])} and {len(outputs[1][3])} bytes")

    def bench_raw():
        fresh()
        text = bench.ok("qemu-img", "bench", "-f", "raw", "-c", "500", "-d", "8", "-w", "--flush-interval=64", "t.raw")
        expect(text.startswith("Sending 500 write requests, 4096 bytes each, 8 in parallel (starting at offset 0, "
                               "step size 4096)\nSending flush every 64 requests\nRun completed in "), text)

    def progress_on_sigusr1():
        source = fresh("big.raw", 256 << 20, data=False)
        with open(source, "r+b") as file:
            file.write(os.urandom(64 << 20))
        child = subprocess.Popen([bench.bin / "qemu-img", "convert", "-r", "32M", "-f", "raw", "-O", "raw", "big.raw",
                                  "out.raw"], cwd=bench.dir, stderr=subprocess.PIPE, text=True)
        time.sleep(0.5)
        child.send_signal(signal.SIGUSR1)
        _, err = child.communicate(timeout=60)
        expect(child.returncode == 0, err)
        expect(re.fullmatch(r"    \(\d+\.\d\d/100%\)\n", err), repr(err))
        source.unlink()
        (bench.dir / "out.raw").unlink()

    # ---- rhea-io ----

    @helper
    def same_io(*commands, options=("-f", "raw")):
        arguments = [word for command in commands for word in ("-c", command)]
        answers = []
        for runner in (bench.theirs, bench.ours):
            fresh()
            status, out, err = runner("qemu-io", *options, *arguments, "t.raw")
            answers.append((status, no_rates(out), err, (bench.dir / "t.raw").read_bytes()))
        expect(answers[0][:3] == answers[1][:3], f"qemu-io {commands}: {answers[1][:3]}\nnot\n{answers[0][:3]}")
        expect(answers[0][3] == answers[1][3], f"qemu-io {commands}: the images differ")

    def io_reads_and_writes():
        same_io("read 0 4k", "read -P 0x11 1M 64k", "read -P 0x12 1M 64k", "read -P 0x11 -s 512 -l 1k 1M 4k")
        same_io("write -P 5 0 512", "write 1k 3k", "write -z 1M 32k", "write -zu 3M 4k", "writev -P 9 2M 512 1k 512",
                "readv -P 9 2M 1k 1k", "flush", "length", "discard -q 0 64k")
        same_io("read -v 1048570 40", "read 0 512", "write -q -P 1 100 3", "read -v 96 16")
        same_io("aio_write -P 3 0 64k", "aio_flush", "aio_read -P 3 0 64k", "aio_flush", "truncate 5M", "length")

    def io_mistakes():
        same_io("read", "read 0", "read x 1k", "read 0 1Z", "nonsense", "read -P 300 0 1k", "read -s 1 0 1k", "help nonsense",
                "write -u 0 1k", "write -z -P 1 0 1k", "write -n 0 1k", "read 100M 1k", "read 0 3G", "alloc", "sleep x",
                "close", "read 0 1k")
        same_io("write 0 1k", options=("-f", "raw", "-r"))

    def io_stdin():
        fresh()
        (bench.dir / "commands").write_text("read 0 512\nlength\nnonsense\nquit\n")
        answers = [runner("qemu-io", "-f", "raw", "t.raw", stdin=open(bench.dir / "commands"))
                   for runner in (bench.theirs, bench.ours)]
        answers = [(status, no_rates(out), err) for status, out, err in answers]
        expect(answers[0] == answers[1], f"{answers[1]} not {answers[0]}")

    # ---- rhea-nbd ----

    def nbd_info():
        if not shutil.which("nbdinfo"):
            raise Tap.Skip("the host has no nbdinfo (libnbd-bin)")
        fresh()
        with Server("-f", "raw", "-t", "-e", "0", "-x", "disk", "-D", "some text", "t.raw") as server:
            status, out, err = run(["nbdinfo", "--json", f"nbd+unix:///disk?socket={server.socket}"])
            expect(status == 0, err)
            export = json.loads(out)["exports"][0]
            expect(export["export-name"] == "disk" and export["description"] == "some text", out)
            expect(export["export-size"] == 4 << 20 and not export["is_read_only"] and export["can_multi_conn"], out)
            expect("base:allocation" in export["contexts"], out)
            status, out, err = run(["nbdinfo", "--map", f"nbd+unix:///disk?socket={server.socket}"])
            expect(status == 0 and "hole,zero" in out and "data" in out, out + err)
            status, _, err = run(["nbdinfo", f"nbd+unix:///other?socket={server.socket}"])
            expect(status != 0 and "other" in err, err)

    def nbd_copies():
        if not shutil.which("nbdcopy"):
            raise Tap.Skip("the host has no nbdcopy (libnbd-bin)")
        source = fresh()
        (bench.dir / "new.raw").write_bytes(os.urandom(4 << 20))
        with Server("-f", "raw", "-t", "-e", "0", "t.raw") as server:
            status, _, err = run(["nbdcopy", server.uri, bench.dir / "copy.raw"])
            expect(status == 0, err)
            expect((bench.dir / "copy.raw").read_bytes() == source.read_bytes(), "what was read differs")
            status, _, err = run(["nbdcopy", bench.dir / "new.raw", server.uri])
            expect(status == 0, err)
        expect(source.read_bytes() == (bench.dir / "new.raw").read_bytes(), "what was written differs")

    def nbd_with_qemus_client():
        source = fresh()
        with Server("-f", "raw", "-t", "-e", "2", "t.raw") as server:
            status, out, err = bench.theirs("qemu-io", "-f", "raw", "-c", "write -P 7 64k 64k", "-c", "write -z 1M 4k", "-c",
                                            "discard 2M 64k", "-c", "read -P 7 64k 64k", "-c", "flush", server.uri)
            expect(status == 0 and "failed" not in out, out + err)
            status, _, err = bench.theirs("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri, "copy.raw")
            expect(status == 0, err)
        expect((bench.dir / "copy.raw").read_bytes() == source.read_bytes(), "what was read differs")
        expect(source.read_bytes()[65536:131072] == b"\7" * 65536, "what was written is not there")

    def nbd_lists_like_qemu():
        fresh()
        with Server("-f", "raw", "-t", "-e", "0", "-A", "-D", "text", "t.raw") as server:
            theirs = bench.theirs("qemu-nbd", "-L", "-k", server.socket)
            ours = bench.ours("qemu-nbd", "-L", "-k", server.socket)
            expect(ours == theirs, f"{ours} not {theirs}")
        with Server("-f", "raw", "-t", "t.raw", tool=bench.theirs) as server:
            theirs = bench.theirs("qemu-nbd", "-L", "-k", server.socket)
            ours = bench.ours("qemu-nbd", "-L", "-k", server.socket)
            expect(ours == theirs, f"of QEMU's server: {ours} not {theirs}")

    def nbd_read_only_and_offset():
        source = fresh()
        with Server("-f", "raw", "-r", "-t", "-o", "1M", "t.raw") as server:
            status, out, _ = bench.theirs("qemu-io", "-r", "-f", "raw", "-c", "read -P 0x11 0 64k", "-c", "length", server.uri)
            expect(status == 0 and "3 MiB" in out, out)
            status, _, err = bench.theirs("qemu-io", "-f", "raw", "-c", "write 0 64k", server.uri)
            expect(status != 0, "a write went through")
        expect(source.read_bytes()[1 << 20:(1 << 20) + 4] == b"\x11" * 4, "the image changed")

    def nbd_ends_with_its_last_client():
        fresh()
        server = Server("-f", "raw", "t.raw")
        with socket.socket(socket.AF_UNIX) as stranger:  # goes without having chosen an export
            stranger.connect(str(server.socket))
            expect(stranger.recv(18).startswith(b"NBDMAGIC"), "no greeting")
        time.sleep(0.2)
        expect(server.alive(), "a client that chose nothing ended it")
        bench.theirs("qemu-io", "-f", "raw", "-c", "read 0 512", server.uri)
        wait_for(lambda: not server.alive(), "the server's end")
        expect(not server.socket.exists() and not server.pid_file.exists(), "files were left behind")

    def nbd_socket_activation():
        fresh()
        path = bench.dir / "activated.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()

            def adopt():
                os.dup2(listener.fileno(), 3)
                os.set_inheritable(3, True)
            script = 'import os,sys\nos.environ["LISTEN_PID"]=str(os.getpid())\nos.execv(sys.argv[1],sys.argv[1:])'
            child = subprocess.Popen([sys.executable, "-c", script, bench.bin / "qemu-nbd", "-f", "raw", "t.raw"],
                                     cwd=bench.dir, env=dict(os.environ, LISTEN_FDS="1"), preexec_fn=adopt,
                                     close_fds=False)
            status, out, err = bench.theirs("qemu-io", "-f", "raw", "-c", "read -P 0x11 1M 64k",
                                            f"nbd+unix:///?socket={path}")
            expect(status == 0, out + err)
            expect(child.wait(timeout=10) == 0, "the server failed")

    def nbd_mistakes():
        for line in (["-k", "relative", "x"], ["-e", "-1", "x"], ["--cache=some", "x"], ["--aio=some", "x"], ["-L", "x"], [],
                     ["--discard=some", "x"], ["--detect-zeroes=unmap", "x"], ["-o", "x", "y"], ["--image-opts", "-f", "raw", "x"]):
            bench.same("qemu-nbd", *line)
        status, _, err = bench.ours("qemu-nbd", "--fork", "-k", bench.dir / "x.sock", "-f", "raw", "none.raw")
        expect(status == 1 and "none.raw" in err and "No such file" in err, f"{status} {err}")

    # ---- qcow2 ----

    @helper
    def pattern(image, *commands, fmt="qcow2"):
        bench.ok("qemu-io", "-f", fmt, *[word for command in commands for word in ("-c", command)], image)

    @helper
    def both_see(image, fmt="qcow2"):
        """The same bytes for both programs."""
        bench.ok("qemu-img", "convert", "-f", fmt, "-O", "raw", image, "ours.raw")
        status, _, err = bench.theirs("qemu-img", "convert", "-f", fmt, "-O", "raw", image, "theirs.raw")
        expect(status == 0, err)
        expect((bench.dir / "ours.raw").read_bytes() == (bench.dir / "theirs.raw").read_bytes(), f"{image} reads differently")

    @helper
    def chain():
        for name in ("base.q", "mid.q", "top.q"):
            (bench.dir / name).unlink(missing_ok=True)
        bench.ok("qemu-img", "create", "-q", "-f", "qcow2", "base.q", "8M")
        pattern("base.q", "write -P 1 0 2M")
        bench.ok("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.q", "-F", "qcow2", "mid.q")
        pattern("mid.q", "write -P 2 1M 2M")
        bench.ok("qemu-img", "create", "-q", "-f", "qcow2", "-b", "mid.q", "-F", "qcow2", "top.q")
        pattern("top.q", "write -P 3 2M 2M", "write -z 6M 64k")

    def qcow2_create_and_info():
        bench.need("qcow2")

        def remove():
            (bench.dir / "c.q").unlink(missing_ok=True)
        for options in ([], ["-o", "cluster_size=4k"], ["-o", "compat=v2"], ["-o", "lazy_refcounts=on,refcount_bits=32"]):
            bench.same("qemu-img", "create", "-f", "qcow2", *options, "c.q", "64M", prepare=remove)
            status, out, _ = bench.theirs("qemu-img", "check", "-f", "qcow2", "c.q")
            expect(status == 0, out)
        for line in (["-o", "cluster_size=3k"], ["-o", "refcount_bits=7"], ["-b", "none.q"],
                     ["-o", "preallocation=some"]):
            bench.same("qemu-img", "create", "-f", "qcow2", *line, "c.q", "64M", prepare=remove)

    def qcow2_chain_is_described():
        bench.need("qcow2")
        chain()
        for options in (["info"], ["info", "--backing-chain"], ["info", "--backing-chain", "--output=json"]):
            bench.same("qemu-img", *options, "top.q")
        bench.same("qemu-img", "map", "--output=json", "top.q")
        bench.same("qemu-img", "check", "top.q")
        both_see("top.q")

    def qcow2_convert():
        bench.need("qcow2")
        source = fresh("t.raw").read_bytes()
        for options in ([], ["-c"], ["-W", "-m", "16"], ["-o", "cluster_size=512"], ["-c", "-o", "compression_type=zstd"]):
            bench.ok("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, "t.raw", "c.q")
            status, out, err = bench.theirs("qemu-img", "check", "c.q")
            expect(status == 0, out + err)
            both_see("c.q")
            expect((bench.dir / "ours.raw").read_bytes() == source, f"contents differ with {options}")

    def qcow2_rebase_and_commit():
        bench.need("qcow2")
        chain()
        bench.ok("qemu-img", "convert", "-O", "raw", "top.q", "before.raw")
        bench.ok("qemu-img", "rebase", "-b", "base.q", "-F", "qcow2", "top.q")
        bench.ok("qemu-img", "convert", "-O", "raw", "top.q", "after.raw")
        expect((bench.dir / "before.raw").read_bytes() == (bench.dir / "after.raw").read_bytes(), "rebase changed the contents")
        bench.ok("qemu-img", "rebase", "-b", "", "top.q")
        both_see("top.q")
        expect((bench.dir / "before.raw").read_bytes() == (bench.dir / "ours.raw").read_bytes(), "rebase to nothing changed it")
        chain()
        expect(bench.ok("qemu-img", "commit", "top.q") == "Image committed.\n", "another message")
        both_see("mid.q")
        expect((bench.dir / "before.raw").read_bytes() == (bench.dir / "ours.raw").read_bytes(), "commit lost something")
        chain()
        bench.ok("qemu-img", "commit", "-b", "base.q", "top.q")
        both_see("base.q")
        expect((bench.dir / "before.raw").read_bytes() == (bench.dir / "ours.raw").read_bytes(), "commit -b lost something")

    def qcow2_snapshots():
        bench.need("qcow2")
        (bench.dir / "s.q").unlink(missing_ok=True)
        bench.ok("qemu-img", "create", "-q", "-f", "qcow2", "s.q", "4M")
        pattern("s.q", "write -P 1 0 1M")
        bench.ok("qemu-img", "snapshot", "-c", "one", "s.q")
        pattern("s.q", "write -P 2 0 1M")
        bench.same("qemu-img", "snapshot", "-l", "s.q")
        bench.ok("qemu-img", "convert", "-l", "one", "-O", "raw", "s.q", "one.raw")
        expect((bench.dir / "one.raw").read_bytes()[:4] == b"\1\1\1\1", "convert -l does not show the snapshot")
        bench.ok("qemu-img", "snapshot", "-a", "one", "s.q")
        pattern("s.q", "read -P 1 0 1M")
        bench.ok("qemu-img", "snapshot", "-d", "one", "s.q")
        bench.same("qemu-img", "check", "s.q")
        bench.same("qemu-img", "snapshot", "-d", "one", "s.q")

    def qcow2_measure():
        bench.need("qcow2")
        fresh()
        for line in (["--size", "1G"], ["-f", "raw", "t.raw"]):
            for output in ("human", "json"):
                bench.same("qemu-img", "measure", f"--output={output}", "-O", "qcow2", *line)

    def qcow2_bitmaps():
        bench.need("qcow2")

        def make():
            (bench.dir / "b.q").unlink(missing_ok=True)
            bench.ok("qemu-img", "create", "-q", "-f", "qcow2", "b.q", "4M")
        make()
        bench.ok("qemu-img", "bitmap", "--add", "-g", "64k", "b.q", "b0")
        bench.ok("qemu-io", "-f", "qcow2", "-c", "write 1M 128k", "b.q")
        bench.same("qemu-img", "info", "b.q")
        bench.ok("qemu-img", "bitmap", "--disable", "b.q", "b0")
        bench.same("qemu-img", "bitmap", "--add", "b.q", "b0")
        bench.ok("qemu-img", "bitmap", "--remove", "b.q", "b0")
        bench.same("qemu-img", "bitmap", "--remove", "b.q", "b0")

    def qcow2_amend():
        bench.need("qcow2")
        (bench.dir / "a.q").unlink(missing_ok=True)
        bench.ok("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "4M")
        bench.ok("qemu-img", "amend", "-o", "lazy_refcounts=on", "a.q")
        expect("lazy refcounts: true" in bench.ok("qemu-img", "info", "a.q"), "not amended")
        bench.same("qemu-img", "amend", "-o", "cluster_size=32k", "a.q")

    @helper
    def image_bytes(size):
        generator = random.Random(size)
        data = bytearray(size)
        for _ in range(50):
            offset, length = generator.randrange(size - 1), generator.randrange(1, 60000)
            data[offset:offset + length] = bytes([generator.randrange(1, 256)]) * min(length, size - offset)
        return bytes(data)

    @helper
    def small_format(name, options):
        """Converted to by one program, compared and written to by the other, both ways."""
        bench.need(name)
        (bench.dir / "s.raw").write_bytes(image_bytes(9 << 20))
        arguments = ["-o", options] if options else []
        for maker, reader in ((bench.theirs, bench.ours), (bench.ours, bench.theirs)):
            path = bench.dir / f"s.{name}"
            path.unlink(missing_ok=True)
            for tool, command in (
                    (maker, ["qemu-img", "convert", "-f", "raw", "-O", name, *arguments, "s.raw", path.name]),
                    (reader, ["qemu-img", "compare", "-f", "raw", "-F", name, "s.raw", path.name]),
                    (reader, ["qemu-io", "-f", name, "-c", "write -P 0x5a 1000 300k", "-c", "write -P 0x77 8M 513",
                              path.name]),
                    (maker, ["qemu-io", "-f", name, "-c", "read -P 0x5a 1000 300k", "-c", "read -P 0x77 8M 513",
                             path.name]),
                    (maker, ["qemu-img", "convert", "-f", name, "-O", "raw", path.name, "maker.raw"]),
                    (reader, ["qemu-img", "convert", "-f", name, "-O", "raw", path.name, "reader.raw"])):
                status, out, err = tool(*command)
                expect(status == 0 and "failed" not in out, f"{options}: {' '.join(map(str, command))}: {out}{err}")
            expect((bench.dir / "maker.raw").read_bytes() == (bench.dir / "reader.raw").read_bytes(),
                   f"{name} {options}: they read different bytes")
            bench.same("qemu-img", "info", path.name)
            status, out, err = bench.theirs("qemu-img", "check", "-f", name, path.name)
            expect(status in (0, 63), f"{name} {options}: {out}{err}")

    def vdi():
        for options in ("", "static=on"):
            small_format("vdi", options)

    def vhdx():
        for options in ("", "subformat=fixed", "block_size=1M,log_size=2M"):
            small_format("vhdx", options)
        # The table's sector cannot be written after its log entry is: the log is replayed by either program.
        bench.ok("qemu-img", "create", "-q", "-f", "vhdx", "log.vhdx", "100M")
        bench.ok("qemu-io", "-f", "vhdx", "-c", "write -q -P 1 0 1M", "log.vhdx")
        status, out, err = bench.ours("qemu-io", "-c", "write -P 9 20M 1M", "json:" + json.dumps(
            {"driver": "vhdx", "file": {"driver": "blkdebug", "image": {"driver": "file", "filename": "log.vhdx"},
                                        "inject-error": [{"event": "none", "iotype": "write", "sector": 3 * 2048}]}}))
        expect("write failed" in out + err, out + err)
        shutil.copy(bench.dir / "log.vhdx", bench.dir / "log2.vhdx")
        status, out, err = bench.ours("qemu-img", "info", "-f", "vhdx", "log.vhdx")
        expect(status == 1 and "needs to be replayed" in err, out + err)
        for runner, image in ((bench.ours, "log.vhdx"), (bench.theirs, "log2.vhdx")):
            status, out, err = runner("qemu-img", "check", "-r", "all", "-f", "vhdx", image)
            expect(status == 0 and "1 corruptions" in out, out + err)
            bench.ok("qemu-io", "-r", "-f", "vhdx", "-c", "read -P 9 20M 1M", "-c", "read -P 1 0 1M", image)

    def checks_of_small_formats():
        """Two blocks in one place, and one behind the end: found by ours where QEMU's has a check too."""
        for name, table, width in (("vdi", 512, 4), ("parallels", 64, 4), ("qed", None, 8), ("vhdx", 3 << 20, 8)):
            bench.need(name)
            path = bench.dir / f"c.{name}"
            path.unlink(missing_ok=True)
            bench.ok("qemu-img", "create", "-q", "-f", name, path.name, "64M")
            bench.ok("qemu-io", "-f", name, "-c", "write -q 0 64k", "-c", "write -q 40M 64k", path.name)
            out = bench.ok("qemu-img", "check", "-f", name, path.name)
            expect("No errors" in out, f"{name}: {out}")
            data = bytearray(path.read_bytes())
            if table is None:  # QED: the directory's first entry leads to the table
                directory = struct.unpack_from("<Q", data, 40)[0]
                table = struct.unpack_from("<Q", data, directory)[0]
            free = {"vdi": b"\xff" * width, "vhdx": b"\2" + bytes(width - 1)}.get(name, bytes(width))
            entries = [i for i in range(table, table + (1024 if name == "qed" else 64) * width, width) if data[i:i + width] != free]
            expect(len(entries) >= 2, f"{name}: {entries}")
            data[entries[1]:entries[1] + width] = data[entries[0]:entries[0] + width]
            path.write_bytes(bytes(data))
            status, out, err = bench.ours("qemu-img", "check", "-f", name, path.name)
            expect(status == 2 and "errors were found" in out, f"{name}, twice: status {status} {out}{err}")
            data[entries[1] + width - 1] = 0x10
            path.write_bytes(bytes(data))
            status, out, err = bench.ours("qemu-img", "check", "-f", name, path.name)
            expect(status == 2, f"{name}, outside: status {status} {out}{err}")
        path = bench.dir / "leak.parallels"
        bench.ok("qemu-img", "create", "-q", "-f", "parallels", path.name, "8M")
        bench.ok("qemu-io", "-f", "parallels", "-c", "write -q 0 64k", path.name)
        with open(path, "ab") as file:
            file.write(bytes(3 << 20))
        status, out, err = bench.ours("qemu-img", "check", "-f", "parallels", path.name)
        expect(status == 3, f"leaks: status {status} {out}{err}")
        bench.ok("qemu-img", "check", "-r", "leaks", "-f", "parallels", path.name)
        bench.ok("qemu-img", "check", "-f", "parallels", path.name)

    def vpc():
        for options in ("", "subformat=fixed", "force_size=on", "subformat=fixed,force_size=on"):
            small_format("vpc", options)

    def vmdk():
        small_format("vmdk", "")
        (bench.dir / "stream.vmdk").unlink(missing_ok=True)
        status, out, err = bench.theirs("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o",
                                        "subformat=streamOptimized", "s.raw", "stream.vmdk")
        expect(status == 0, out + err)
        bench.ok("qemu-img", "compare", "-f", "raw", "-F", "vmdk", "s.raw", "stream.vmdk")
        bench.same("qemu-img", "info", "stream.vmdk")
        # An overlay of QEMU's is read while its parent is what it was, and refused from then on.
        for arguments in (("create", "-q", "-f", "vmdk", "parent.vmdk", "1M"),
                          ("create", "-q", "-f", "vmdk", "-b", "parent.vmdk", "-F", "vmdk", "over.vmdk")):
            status, out, err = bench.theirs("qemu-img", *arguments)
            expect(status == 0, out + err)
        bench.ok("qemu-io", "-r", "-c", "read 0 4k", "over.vmdk")
        status, out, err = bench.theirs("qemu-io", "-c", "write -P 3 0 4k", "parent.vmdk")
        expect(status == 0, out + err)
        status, out, err = bench.ours("qemu-io", "-r", "-c", "read 0 4k", "over.vmdk")
        expect("since this VMDK overlay was made" in out + err, out + err)

    def vmdk_of_several_files():
        bench.need("vmdk")
        (bench.dir / "s.raw").write_bytes(image_bytes(9 << 20))
        for subformat in ("monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"):
            for path in bench.dir.glob("several*"):
                path.unlink()
            status, out, err = bench.theirs("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}",
                                            "s.raw", "several.vmdk")
            expect(status == 0, out + err)
            bench.ok("qemu-img", "compare", "-f", "raw", "-F", "vmdk", "s.raw", "several.vmdk")
            bench.ok("qemu-io", "-f", "vmdk", "-c", "write -q -P 7 5M 100k", "several.vmdk")
            bench.ok("qemu-img", "check", "several.vmdk")
            status, out, err = bench.theirs("qemu-io", "-f", "vmdk", "-c", "read -P 7 5M 100k", "several.vmdk")
            expect(status == 0 and "failed" not in out, out + err)
        bench.ok("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", "s.raw", "ours.vmdk")
        status, out, err = bench.theirs("qemu-img", "compare", "-f", "raw", "-F", "vmdk", "s.raw", "ours.vmdk")
        expect(status == 0, out + err)
        # A descriptor reaches files beside it only, and only as large as they are.
        text = (bench.dir / "ours.vmdk").read_text()
        for wrong, reason in (("/etc/passwd", "beside"), ("../x", "beside"), ("nbd:x", "beside"), ("nosuch", "No such file")):
            (bench.dir / "bad.vmdk").write_text(text.replace("ours-flat.vmdk", wrong))
            status, out, err = bench.ours("qemu-img", "info", "-f", "vmdk", "bad.vmdk")
            expect(status == 1 and reason in err, f"{wrong}: {out}{err}")
        (bench.dir / "bad.vmdk").write_text(re.sub(r"RW \d+", "RW 18433", text))
        status, out, err = bench.ours("qemu-img", "info", "-f", "vmdk", "bad.vmdk")
        expect(status == 1 and "bytes, not" in err, out + err)
        (bench.dir / "bad.vmdk").write_text(text.replace("ours-flat.vmdk", "bad.vmdk").replace("FLAT", "SPARSE").replace(" 0\n", "\n"))
        status, out, err = bench.ours("qemu-img", "info", "-f", "vmdk", "bad.vmdk")  # its own extent
        expect(status == 1, out + err)

    def vmdk_overlay():
        bench.need("vmdk")
        bench.ok("qemu-img", "create", "-q", "-f", "vmdk", "base.vmdk", "8M")
        bench.ok("qemu-io", "-f", "vmdk", "-c", "write -q -P 3 0 64k", "base.vmdk")
        bench.ok("qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "top.vmdk")
        status, out, err = bench.theirs("qemu-io", "-f", "vmdk", "-c", "read -P 3 0 64k", "-c", "write -P 4 1M 64k", "top.vmdk")
        expect(status == 0 and "failed" not in out, out + err)
        bench.ok("qemu-io", "-f", "vmdk", "-c", "read -P 3 0 64k", "-c", "read -P 4 1M 64k", "top.vmdk")
        status, out, err = bench.ours("qemu-img", "create", "-f", "vmdk", "-b", "s.raw", "-F", "raw", "no.vmdk")
        expect(status == 1 and "must be a vmdk image" in err, out + err)

    def parallels():
        for options in ("", "cluster_size=64k"):
            small_format("parallels", options)

    def qcow():
        small_format("qcow", "")

    def qed():
        for options in ("", "cluster_size=64k,table_size=2"):
            small_format("qed", options)

    def overlays_of_old_formats():
        """A backing image under qcow and qed, and clusters that QEMU compressed."""
        (bench.dir / "base.raw").write_bytes(image_bytes(4 << 20))
        for name in ("qcow", "qed"):
            for maker, reader in ((bench.theirs, bench.ours), (bench.ours, bench.theirs)):
                path = f"o.{name}"
                (bench.dir / path).unlink(missing_ok=True)
                for tool, command in ((maker, ["qemu-img", "create", "-q", "-f", name, "-b", "base.raw", "-F", "raw", path]),
                                      (reader, ["qemu-io", "-f", name, "-c", "write -P 9 70000 1000", path]),
                                      (maker, ["qemu-img", "convert", "-f", name, "-O", "raw", path, "o.raw"])):
                    status, out, err = tool(*command)
                    expect(status == 0, f"{' '.join(command)}: {out}{err}")
                want = bytearray(image_bytes(4 << 20))
                want[70000:71000] = b"\x09" * 1000
                expect((bench.dir / "o.raw").read_bytes() == bytes(want), f"{name}: not the base with what was written")
        (bench.dir / "c.qcow").unlink(missing_ok=True)
        status, out, err = bench.theirs("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow", "base.raw", "c.qcow")
        expect(not err, out + err)  # (7.2 ends with status 1 and no word, and a whole image)
        bench.ok("qemu-img", "compare", "-f", "raw", "-F", "qcow", "base.raw", "c.qcow")
        bench.ok("qemu-io", "-f", "qcow", "-c", "write -P 9 70000 1000", "c.qcow")
        status, out, err = bench.theirs("qemu-io", "-f", "qcow", "-c", "read -P 9 70000 1000", "c.qcow")
        expect(status == 0 and "failed" not in out, out + err)

    def bochs():
        """An image made here by the format's rules: extents of 64 KiB, of which the third and the first are there."""
        extent, bitmap = 65536, 512
        catalog = [1, 0xffffffff, 0, 0xffffffff]
        header = struct.pack("<32s16s16sIIIIIIQ", b"Bochs Virtual HD Image", b"Redolog", b"Growing", 0x20000, 512,
                             len(catalog), bitmap, extent, 0, 4 * extent)
        model, blocks = bytearray(4 * extent), {}
        for position in (2, 0):
            bits, data = bytearray(bitmap), bytearray(extent)
            for sector in (0, 3, 127):
                bits[sector // 8] |= 1 << sector % 8
                data[sector * 512:sector * 512 + 512] = bytes([position + sector + 1]) * 512
                start = position * extent + sector * 512
                model[start:start + 512] = bytes([position + sector + 1]) * 512
            blocks[catalog[position]] = bytes(bits) + bytes(data)
        (bench.dir / "b.bochs").write_bytes(header.ljust(512, b"\0") + struct.pack("<4I", *catalog) + blocks[0] + blocks[1])
        (bench.dir / "b.raw").write_bytes(bytes(model))
        bench.ok("qemu-img", "compare", "-f", "raw", "-F", "bochs", "b.raw", "b.bochs")
        status, out, err = bench.theirs("qemu-img", "compare", "-f", "raw", "-F", "bochs", "b.raw", "b.bochs")
        expect(status == 0, "QEMU reads it otherwise: " + out + err)
        expect("file format: bochs" in bench.ok("qemu-img", "info", "b.bochs"), "not recognised")

    def cloop():
        block, data = 4096, image_bytes(50 * 4096)
        packed = [zlib.compress(data[i:i + block]) for i in range(0, len(data), block)]
        text = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
        places = [136 + 8 * (len(packed) + 1)]
        for piece in packed:
            places.append(places[-1] + len(piece))
        (bench.dir / "c.cloop").write_bytes(text.ljust(128, b"\0") + struct.pack(">II", block, len(packed)) +
                                            struct.pack(f">{len(places)}Q", *places) + b"".join(packed))
        (bench.dir / "c.raw").write_bytes(data)
        bench.ok("qemu-img", "compare", "-f", "raw", "-F", "cloop", "c.raw", "c.cloop")
        status, out, err = bench.theirs("qemu-img", "compare", "-f", "raw", "-F", "cloop", "c.raw", "c.cloop")
        expect(status == 0, "QEMU reads it otherwise: " + out + err)
        status, out, err = bench.ours("qemu-io", "-f", "cloop", "-c", "write 0 512", "c.cloop")
        expect("does not support writing" in err, f"written to: {out}{err}")

    @helper
    def make_dmg(path, chunks, fork=False, first=0):
        """chunks: [(type, sectors, bytes in the file)]; the list of them in XML, or in a resource fork."""
        body, entries, sector = b"", b"", 0
        for kind, sectors, stored in chunks:
            entries += struct.pack(">IIQQQQ", kind, 0, sector, sectors, len(body), len(stored))
            body, sector = body + stored, sector + sectors
        entries += struct.pack(">IIQQQQ", 0xffffffff, 0, sector, 0, len(body), 0)
        table = (b"mish" + struct.pack(">IQQQII", 1, first, sector, 0, 0, 0)).ljust(200, b"\0") + \
            struct.pack(">I", len(chunks) + 1) + entries
        xml = b'<?xml version="1.0"?><plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict><key>Data' \
            b"</key>\n<data>\n" + base64.encodebytes(table) + b"</data></dict></array><key>plst</key><array><dict>" \
            b"<data>AAAA</data></dict></array></dict></dict></plist>"
        resource = struct.pack(">I", len(table)) + table
        resources = struct.pack(">IIII", 256, 256 + len(resource), len(resource), 0).ljust(256, b"\0") + resource
        lists = resources if fork else xml
        trailer = b"koly" + struct.pack(">IIIQQQ", 4, 512, 1, 0, 0, len(body)) + \
            (struct.pack(">QQ", len(body), len(lists)) if fork else bytes(16)) + struct.pack(">II", 1, 1)
        trailer = trailer.ljust(216, b"\0") + (bytes(16) if fork else struct.pack(">QQ", len(body), len(lists)))
        (bench.dir / path).write_bytes(body + lists + trailer.ljust(492, b"\0") + struct.pack(">Q", sector) + bytes(12))

    def dmg():
        bench.need("dmg")
        data = image_bytes(1 << 20)
        pieces = [data[i:i + (128 << 10)] for i in range(0, len(data), 128 << 10)]
        kinds = [(0x80000005, zlib.compress), (0x80000006, bz2.compress), (1, bytes), (0, None), (2, None)]
        chunks, without_bzip2, plain = [], [], b""  # QEMU's bzip2 is in a package of its own
        for i, piece in enumerate(pieces):
            kind, pack = kinds[i % len(kinds)]
            chunks.append((kind, len(piece) // 512, pack(piece) if pack else b""))
            without_bzip2.append(chunks[-1] if kind != 0x80000006 else (1, len(piece) // 512, piece))
            plain += piece if pack else bytes(len(piece))
        (bench.dir / "d.raw").write_bytes(plain)
        for fork in (False, True):
            make_dmg("d.dmg", chunks, fork)
            bench.ok("qemu-img", "compare", "-f", "raw", "-F", "dmg", "d.raw", "d.dmg")
            make_dmg("q.dmg", without_bzip2, fork)
            bench.ok("qemu-img", "compare", "-f", "raw", "-F", "dmg", "d.raw", "q.dmg")
            status, out, err = bench.theirs("qemu-img", "compare", "-f", "raw", "-F", "dmg", "d.raw", "q.dmg")
            expect(status == 0, "QEMU reads it otherwise: " + out + err)
            expect("file format: dmg" in bench.ok("qemu-img", "info", "d.dmg"), "not recognised")
            bench.ok("qemu-io", "-r", "-f", "dmg", "-c", "read 1000 70000", "-c", "read 130000 300000", "d.dmg")
        for chunk, reason in (((0x80000007, 8, b"x"), "LZFSE"), ((0x80000008, 8, b"x"), "LZMA"), ((0x80000004, 8, b"x"), "ADC"),
                              ((77, 8, b"x"), "unknown type"), ((1, 8, b"x"), "shorter than its sectors"),
                              ((0x80000005, 1 << 20, b"x"), "larger than 64 MiB"), ((0, 1 << 60, b""), "largest disk")):
            make_dmg("bad.dmg", [(0, 8, b""), chunk])
            status, out, err = bench.ours("qemu-img", "info", "-f", "dmg", "bad.dmg")
            expect(status == 1 and reason in err, f"{chunk}: {out}{err}")
        make_dmg("bad.dmg", [(0x80000005, 8, zlib.compress(bytes(2048)))])  # half of its sectors
        status, out, err = bench.ours("qemu-io", "-r", "-f", "dmg", "-c", "read 0 512", "bad.dmg")
        expect("read failed" in out + err, out + err)
        (bench.dir / "bad.dmg").write_bytes((bench.dir / "d.dmg").read_bytes()[:-512])
        status, out, err = bench.ours("qemu-img", "info", "-f", "dmg", "bad.dmg")
        expect(status == 1 and "has no trailer" in err, out + err)

    @helper
    def encrypted(maker, reader, driver, options, path):
        """Made and written by one program, read, rewritten and described alike by the other."""
        prefix = "" if driver == "luks" else "encrypt."
        secret = ("--object", "secret,id=s,data=open sesame")
        spec = f"driver={driver},file.filename={path},{prefix}key-secret=s"
        (bench.dir / path).unlink(missing_ok=True)
        for attempt in range(5):  # QEMU fails now and then where a password's cost is measured in few milliseconds
            status, out, err = maker("qemu-img", "create", "-q", *secret, "-f", driver, "-o",
                                     f"{prefix}key-secret=s" + options, path, "1M")
            if status and ("not supported" in err or "No available" in err):
                raise Tap.Skip(f"QEMU here: {err.strip()}")
            if status == 0:
                break
        expect(status == 0, f"create {options}: {out}{err}")
        for tool, command in ((maker, "write -P 0x5a 3k 200k"), (reader, "read -P 0x5a 3k 200k"),
                              (reader, "write -P 0x66 100k 7"), (maker, "read -P 0x66 100k 7"),
                              (maker, "read -P 0x5a 3k 97k")):
            status, out, err = tool("qemu-io", *secret, "-c", command, "--image-opts", spec)
            expect(status == 0 and "failed" not in out, f"{options}: {command}: {out}{err}")
        bench.same("qemu-img", "info", *secret, "--image-opts", spec)
        if driver == "qcow2":
            bench.same("qemu-img", "check", *secret, "--image-opts", spec)

    LUKS = (",{0}iter-time=50", ",{0}iter-time=50,{0}cipher-alg=aes-128,{0}hash-alg=sha1",
            ",{0}iter-time=50,{0}cipher-mode=cbc,{0}ivgen-alg=essiv,{0}ivgen-hash-alg=sha256,{0}hash-alg=sha512",
            ",{0}iter-time=50,{0}cipher-mode=cbc,{0}ivgen-alg=plain,{0}hash-alg=ripemd160",
            ",{0}iter-time=50,{0}cipher-alg=serpent-256", ",{0}iter-time=50,{0}cipher-alg=twofish-256",
            ",{0}iter-time=50,{0}cipher-alg=cast5-128,{0}cipher-mode=cbc,{0}ivgen-alg=plain64")

    def luks_made_by_qemu():
        for options in LUKS:
            encrypted(bench.theirs, bench.ours, "luks", options.format(""), "e.luks")

    def luks_read_by_qemu():
        for options in LUKS:
            encrypted(bench.ours, bench.theirs, "luks", options.format(""), "e.luks")

    def qcow2_luks():
        for options in (",encrypt.format=luks,encrypt.iter-time=50",
                        ",encrypt.format=luks,encrypt.iter-time=50,cluster_size=512",
                        ",encrypt.format=luks,encrypt.iter-time=50,extended_l2=on,cluster_size=128k"):
            encrypted(bench.theirs, bench.ours, "qcow2", options, "e.q")
            encrypted(bench.ours, bench.theirs, "qcow2", options, "e.q")

    def qcow2_aes():
        for pair in ((bench.theirs, bench.ours), (bench.ours, bench.theirs)):
            encrypted(*pair, "qcow2", ",encrypt.format=aes", "e.q")

    def luks_passwords():
        """Slots that one program fills and the other opens and empties."""
        names = ("--object", "secret,id=s0,data=one", "--object", "secret,id=s1,data=two")
        (bench.dir / "p.luks").unlink(missing_ok=True)
        bench.ok("qemu-img", "create", "-q", *names, "-f", "luks", "-o", "key-secret=s0,iter-time=50", "p.luks", "64k")
        for tool, key, change in ((bench.theirs, "s0", "state=active,new-secret=s1,iter-time=50"),
                                  (bench.ours, "s1", "state=inactive,old-secret=s0"),
                                  (bench.ours, "s1", "state=active,new-secret=s0,keyslot=7,iter-time=50"),
                                  (bench.theirs, "s0", "state=inactive,old-secret=s1")):
            status, out, err = tool("qemu-img", "amend", *names, "-o", change, "--image-opts",
                                    f"driver=luks,file.filename=p.luks,key-secret={key}")
            expect(status == 0, f"{change}: {out}{err}")
        for key in ("s0", "s1"):
            bench.same("qemu-io", *names, "-c", "length", "--image-opts",
                       f"driver=luks,file.filename=p.luks,key-secret={key}")

    def qcow2_random_operations():
        """The same image, changed by either program in turn; a file of bytes says what it must hold."""
        bench.need("qcow2")
        generator = random.Random(int(os.environ.get("RHEA_SEED", "20")))
        size = 4 << 20
        model = bytearray(size)
        (bench.dir / "r.q").unlink(missing_ok=True)
        bench.ok("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "r.q", str(size))
        for turn in range(24):
            runner = bench.ours if turn % 2 else bench.theirs
            commands = []
            for _ in range(12):
                offset = generator.randrange(0, size)
                length = min(generator.randrange(1, 70000), size - offset)
                kind, byte = generator.choice(("write", "zero", "discard")), generator.randrange(1, 256)
                if kind == "write":
                    commands.append(f"write -q -P {byte} {offset} {length}")
                    model[offset:offset + length] = bytes([byte]) * length
                elif kind == "zero":
                    commands.append(f"write -q -z {offset} {length}")
                    model[offset:offset + length] = bytes(length)
            status, out, err = runner("qemu-io", "-f", "qcow2", *[w for c in commands for w in ("-c", c)], "r.q")
            expect(status == 0, f"turn {turn}: {out}{err}")
            status, out, err = (bench.theirs if turn % 2 else bench.ours)("qemu-img", "check", "-f", "qcow2", "r.q")
            expect(status == 0, f"turn {turn}: {out}{err}")
            both_see("r.q")
            expect((bench.dir / "ours.raw").read_bytes() == bytes(model), f"turn {turn}: not what was written")

    for name, function in list(locals().items()):
        if callable(function) and getattr(function, "__name__", None) == name and name not in helpers:
            tap.test(name.replace("_", " "), function)
    tap.finish()


if __name__ == "__main__":
    main()
