#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make soak-io`: an image server that is killed (SIGKILL) at random while a client writes and flushes. After each kill the
image must open within a second, hold every write that a completed flush covers, with nothing torn, and check clean; then
the load goes on with it. --power (root): the image lies on ext4 on a loop device in memory, and instead of a kill alone the
device's contents are copied as they are, without what the page cache still held, and the copy is mounted and looked at: what
a power cut leaves. The everyday test is the default: three kills of each kind of image.
"""
import argparse
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

BLOCK = 4096
SIZE = 96 << 20
KINDS = [("new", "journal=auto", False), ("overlay", "journal=auto", True), ("plain", "", False),
         ("small-clusters", "journal=on,cluster_size=4k", True)]
READ, WRITE, DISCONNECT, FLUSH, TRIM = 0, 1, 2, 3, 4


class Failure(Exception):
    pass


def run(argv, ok=(0,)):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    if done.returncode not in ok:
        raise Failure(f"{' '.join(str(a) for a in argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Nbd:
    """The client's side of fixed newstyle NBD with simple replies; requests may be under way together."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.sock.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Failure("the server does not listen") from None
                time.sleep(0.005)
        self.exactly(18)
        self.sock.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 0))
        self.size = struct.unpack(">QH", self.exactly(10))[0]
        self.next = 0

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise ConnectionError("the server is gone")
            data += part
        return data

    def send(self, kind, offset=0, length=0, data=b""):
        self.next += 1
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, self.next, offset, length) + data)
        return self.next

    def reply(self, length=0):
        magic, error, cookie = struct.unpack(">IIQ", self.exactly(16))
        if magic != 0x67446698 or error:
            raise Failure(f"reply {magic:#x} with error {error}")
        return cookie, self.exactly(length)

    def read(self, offset, length):
        self.send(READ, offset, length)
        return self.reply(length)[1]


def block(number, version):
    """A block of that version: 0 is what the image had at first."""
    return struct.pack("<QQ", number, version) * (BLOCK // 16)


class Soak:
    def __init__(self, args, name, options, backing, seed):
        self.args, self.name, self.options, self.backing = args, name, options, backing
        self.rand = random.Random(seed)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="rhea-soak."))
        self.disk = self.dir
        self.device = self.memory = None
        self.stable = {}     # block to version: covered by a completed flush
        self.possible = {}   # block to versions that were written since
        self.version = self.flushes = 0

    # -- the machine below --

    def mount(self):
        self.memory = pathlib.Path("/dev/shm") / f"rhea-soak.{os.getpid()}.{self.name}"
        with open(self.memory, "wb") as f:
            f.truncate(1 << 30)
        self.device = run(["losetup", "-f", "--show", self.memory]).strip()
        run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.device])
        self.disk = self.dir / "disk"
        self.disk.mkdir()
        run(["mount", self.device, self.disk])

    def cut_power(self):
        """What the device holds now becomes what there is."""
        after = self.memory.with_suffix(".after")
        run(["cp", "--sparse=always", self.memory, after])
        run(["umount", self.disk])
        run(["losetup", "-d", self.device])
        os.replace(after, self.memory)
        self.device = run(["losetup", "-f", "--show", self.memory]).strip()
        run(["mount", self.device, self.disk])

    def close(self):
        if self.device:
            subprocess.run(["umount", self.disk], check=False)
            subprocess.run(["losetup", "-d", self.device], check=False)
            self.memory.unlink(missing_ok=True)
        shutil.rmtree(self.dir)

    # -- the image --

    def tool(self, name):
        return self.args.build / name

    def create(self):
        self.image = self.disk / "image.qcow2"
        argv = [self.tool("rhea-img"), "create", "-q", "-f", "qcow2"]
        argv += ["-o", self.options] if self.options else []
        if self.backing:
            base = self.disk / "base.raw"
            with open(base, "wb") as f:
                for number in range(SIZE // BLOCK):
                    f.write(block(number, 0))
                f.flush()
                os.fsync(f.fileno())
            run([*argv, "-b", base, "-F", "raw", self.image])
        else:
            run([*argv, self.image, SIZE])
        run(["sync", "-f", self.disk])

    def serve(self):
        self.socket = self.dir / "nbd.sock"
        self.socket.unlink(missing_ok=True)
        self.server = subprocess.Popen([str(self.tool("rhea-nbd")), "-t", "-k", str(self.socket), "-f", "qcow2",
                                        str(self.image)])
        return Nbd(self.socket)

    def content(self, number, version):
        return bytes(BLOCK) if version == 0 and not self.backing else block(number, version)

    # -- the load --

    def transaction(self, nbd):
        hot = self.rand.random() < 0.3
        numbers = {self.rand.randrange(64 if hot else SIZE // BLOCK) for _ in range(self.rand.choice((1, 1, 2, 8, 16, 90)))}
        written = {}
        for number in numbers:
            self.version += 1
            written[number] = self.version
            self.possible.setdefault(number, set()).add(self.version)
            nbd.send(WRITE, number * BLOCK, BLOCK, block(number, self.version))
        for _ in numbers:
            nbd.reply()
        if self.rand.random() < 0.1:  # a part goes back to nothing
            first = self.rand.randrange(SIZE // 65536) * 16
            if not any(number in self.stable or number in self.possible for number in range(first, first + 16)):
                nbd.send(TRIM, first * BLOCK, 16 * BLOCK)
                nbd.reply()
        flushed = self.rand.random() < 0.9
        if flushed:
            nbd.send(FLUSH)
            nbd.reply()
            self.flushes += 1
        self.pending.update(written)
        if flushed:
            for number, version in self.pending.items():
                self.stable[number] = version
                self.possible.pop(number, None)
            self.pending = {}

    def load_until_killed(self):
        nbd = self.serve()
        self.pending = {}
        delay = self.rand.uniform(0.05, self.args.longest)
        timer = threading.Timer(delay, self.server.kill)
        timer.start()
        try:
            while True:
                self.transaction(nbd)
        except (ConnectionError, BrokenPipeError):
            pass
        finally:
            timer.cancel()
        self.server.wait()

    # -- afterwards --

    def verify(self):
        began = time.monotonic()
        run([self.tool("rhea-io"), "-f", "qcow2", "-c", "read 0 4k", self.image])
        opened = time.monotonic() - began
        if opened > 1 + self.args.slack:
            raise Failure(f"the image took {opened:.2f} s to open")
        leaks_are_fine = "journal" not in self.options  # without one a crash may leave them, as with QEMU
        run([self.tool("rhea-img"), "check", "-q", "-f", "qcow2", self.image], (0, 3) if leaks_are_fine else (0,))
        nbd = self.serve()
        for number in sorted(self.stable.keys() | self.possible.keys()):
            data = nbd.read(number * BLOCK, BLOCK)
            allowed = {self.stable.get(number, 0), *self.possible.get(number, ())}
            version = struct.unpack_from("<Q", data, 8)[0]
            if version not in allowed or data != self.content(number, version):
                raise Failure(f"block {number} holds version {version}, allowed: {sorted(allowed)}")
            self.stable[number] = version  # it is what the next load starts from
        nbd.send(FLUSH)
        nbd.reply()
        nbd.send(DISCONNECT)
        self.possible = {}
        self.server.terminate()
        if self.server.wait(30):
            raise Failure(f"the server ended with status {self.server.returncode}")

    def go(self, kills):
        if self.args.power:
            self.mount()
        self.create()
        for number in range(kills):
            self.load_until_killed()
            if self.args.power:
                self.cut_power()
            try:
                self.verify()
            except Failure as problem:
                kept = pathlib.Path(tempfile.gettempdir()) / f"rhea-soak-failed-{self.name}.qcow2"
                shutil.copy(self.image, kept)
                raise Failure(f"after kill {number + 1} and {self.flushes} flushes: {problem} (image: {kept})") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=3, help="of each kind of image")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds from start to kill, at most")
    parser.add_argument("--power", action="store_true", help="cut the power: lose the page cache too (root)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--slack", type=float, default=2.0, help="seconds that a busy machine may take for starting programs")
    parser.add_argument("--only", help="one kind of image")
    args = parser.parse_args()
    args.build = args.build.resolve()
    kinds = [k for k in KINDS if args.only in (None, k[0])]
    print(f"# seed {args.seed}")
    print(f"1..{len(kinds)}", flush=True)
    failed = 0
    for i, (name, options, backing) in enumerate(kinds):
        soak = Soak(args, name, options, backing, args.seed + i)
        try:
            soak.go(args.kills)
            print(f"ok {i + 1} {name}: {args.kills} kills, {soak.flushes} flushes", flush=True)
        except Failure as problem:
            failed += 1
            print(f"not ok {i + 1} {name}: {problem}", flush=True)
        finally:
            if getattr(soak, "server", None) and soak.server.poll() is None:
                soak.server.kill()
                soak.server.wait()
            soak.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
