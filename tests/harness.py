# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests that drive the real programs share: starting a virtual machine, its serial console, its QMP."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Failure(Exception):
    """A check that did not hold."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


def tiny_kernel(directory):
    """A Multiboot image (specification 0.6.96, section 3.1) whose code only halts."""
    base, code = 0x100000, bytes([0xF4, 0xEB, 0xFD])  # hlt; jmp to it
    magic, flags = 0x1BADB002, 0x00010000
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, base, base, 0, 0, base + 32)
    path = pathlib.Path(directory) / "kernel"
    path.write_bytes(header + code + bytes(64))
    return path


def cpio(files):
    """An archive in the "newc" format of cpio(5): name -> (mode, contents)."""
    out = bytearray()
    for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        encoded = name.encode() + b"\0"
        fields = [number + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


class Qmp:
    """One QMP client. Replies are matched by id; events are kept in order."""

    def __init__(self, path, timeout=30, negotiate=True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise Failure(f"no QMP server at {path}")
                time.sleep(0.01)
        self.file = self.socket.makefile("rwb")
        self.events = []
        self.next_id = 0
        self.greeting = self.read()
        if negotiate:
            self.command("qmp_capabilities")

    def read(self):
        line = self.file.readline()
        if not line:
            raise Failure("the QMP connection was closed")
        expect(line.endswith(b"\r\n"), f"QMP line does not end in CR LF: {line!r}")
        return json.loads(line)

    def send_raw(self, data):
        self.file.write(data)
        self.file.flush()

    def execute(self, name, /, **arguments):
        """The whole reply, error or not."""
        self.next_id += 1
        request = {"execute": name, "id": self.next_id}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.send_raw(json.dumps(request).encode() + b"\r\n")
        while True:
            message = self.read()
            if "event" in message:
                self.events.append(message)
            elif message.get("id") == self.next_id:
                return message

    def command(self, name, /, **arguments):
        reply = self.execute(name, **arguments)
        if "error" in reply:
            raise Failure(f"{name}: {reply['error']}")
        return reply["return"]

    def wait_event(self, name, timeout=30):
        deadline = time.monotonic() + timeout
        while True:
            for index, event in enumerate(self.events):
                if event["event"] == name:
                    del self.events[:index + 1]
                    return event
            self.socket.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                message = self.read()
            except TimeoutError:
                raise Failure(f"no event {name} within {timeout} s")
            finally:
                self.socket.settimeout(30)
            if "event" in message:
                self.events.append(message)

    def close(self):
        self.file.close()
        self.socket.close()


class Machine:
    """A running rhea-system-x86_64: its serial output is collected, its QMP socket connected on demand."""

    def __init__(self, binary, arguments, directory=None, stdin=None):
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix="rhea-test-"))
        self.own_directory = directory is None
        self.qmp_path = self.directory / "qmp"
        self.output = b""
        self.condition = threading.Condition()
        self.process = subprocess.Popen([str(binary)] + [str(a) for a in arguments], stdin=stdin or subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self._qmp = None

    def _read(self):
        while True:
            data = os.read(self.process.stdout.fileno(), 65536)
            with self.condition:
                self.output += data
                self.condition.notify_all()
            if not data:
                return

    @property
    def qmp(self):
        if self._qmp is None:
            self._qmp = Qmp(self.qmp_path)
        return self._qmp

    def text(self):
        return self.output.decode(errors="replace")

    def wait_text(self, pattern, timeout):
        """Waits until the console output matches; returns the match."""
        deadline = time.monotonic() + timeout
        with self.condition:
            while True:
                match = re.search(pattern, self.output.decode(errors="replace"))
                if match:
                    return match
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Failure(f"no output matching {pattern!r} within {timeout} s; last lines:\n{self.tail()}")
                if self.process.poll() is not None and not self.reader.is_alive():
                    raise Failure(f"exited with {self.process.returncode} before {pattern!r}; last lines:\n"
                                  f"{self.tail()}")
                self.condition.wait(min(left, 0.2))

    def tail(self, lines=25):
        return "\n".join(self.text().splitlines()[-lines:])

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait(self, timeout):
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"still running after {timeout} s; last lines:\n{self.tail()}")
        self.reader.join(5)
        return status

    def close(self):
        if self._qmp:
            self._qmp.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def run(argv, timeout=60, **options):
    """Runs a program to its end; (exit status, standard output, standard error) as text."""
    done = subprocess.run([str(a) for a in argv], timeout=timeout, capture_output=True, text=True,
                          stdin=options.pop("stdin", subprocess.DEVNULL), **options)
    return done.returncode, done.stdout, done.stderr


class Tap:
    """Test Anything Protocol: each function is one test; a Failure or time-out fails it, Skip skips it."""

    class Skip(Exception):
        pass

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def test(self, name, function, *arguments):
        number = self.passed + self.failed + self.skipped + 1
        try:
            function(*arguments)
        except Tap.Skip as reason:
            self.skipped += 1
            print(f"ok {number} {name} # SKIP {reason}", flush=True)
        except Exception as problem:  # a broken test is a failed one
            self.failed += 1
            print(f"not ok {number} {name}", flush=True)
            kind = "" if isinstance(problem, Failure) else f"{type(problem).__name__}: "
            for line in f"{kind}{problem}".splitlines():
                print(f"# {line}", flush=True)
        else:
            self.passed += 1
            print(f"ok {number} {name}", flush=True)

    def finish(self, summary=False):
        print(f"1..{self.passed + self.failed + self.skipped}")
        if summary:
            skipped = f", {self.skipped} skipped" if self.skipped else ""
            print(f"{self.passed} passed, {self.failed} failed{skipped}")
        sys.exit(1 if self.failed else 0)
