#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's edges as a person meets them: the terminal (shell, monitor behind Ctrl-A C, Ctrl-A X, the terminal as it
was), a forwarded port, a file over HTTP, a pseudo-terminal, a serial line on a socket, and a disk that is in use."""
import argparse
import fcntl
import hashlib
import http.server
import os
import pathlib
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Failure, Machine, Tap, expect, run  # noqa: E402

BOOT_TIMEOUT = 120


class Terminal:
    """A program on a terminal of its own, as a person has it."""

    def __init__(self, argv):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.output = b""

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen([str(a) for a in argv], stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, preexec_fn=own_terminal)

    def wait(self, pattern, timeout=20):
        """Waits for output since the last call that matches; returns the match, and forgets the output up to it."""
        deadline = time.monotonic() + timeout
        while True:
            match = re.search(pattern, self.output)
            if match:
                self.output = self.output[match.end():]
                return match
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failure(f"no output matching {pattern!r}; it said {self.output[-1500:]!r}")
            if select.select([self.master], [], [], min(left, 0.5))[0]:
                self.output += os.read(self.master, 65536)
            elif self.process.poll() is not None:
                raise Failure(f"ended with {self.process.returncode} before {pattern!r}; it said {self.output[-1500:]!r}")

    def type(self, data):
        os.write(self.master, data)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve(content):
    """An HTTP server on the host's loopback; returns it."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    args = parser.parse_args()
    guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    binary = (args.build / "rhea-system-x86_64").resolve()
    directory = tempfile.TemporaryDirectory(prefix="rhea-console-")
    work = pathlib.Path(directory.name)
    disk = work / "disk.img"
    with open(disk, "wb") as image:
        image.truncate(32 << 20)
    tap = Tap()
    kernel = ["-kernel", guest / "vmlinuz", "-initrd", guest / "initrd.gz", "-append", "console=ttyS0 quiet"]
    port = free_port()
    vm = None

    def need_guest():
        if not (guest / "vmlinuz").exists():
            raise Tap.Skip(f"no guest in {guest}: run make guest")

    def shell():
        nonlocal vm
        need_guest()
        vm = Terminal([binary, "-M", "pc", "-smp", "2", "-m", "512", "-nographic", "-no-reboot", *kernel,
                       "-drive", f"file={disk},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d",
                       "-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:2222", "-device", "virtio-net-pci,netdev=n"])
        vm.wait(rb"/ # ", BOOT_TIMEOUT)
        expect(b"(qemu)" not in vm.output, "the monitor spoke without being asked")
        modes = termios.tcgetattr(vm.slave)[3]
        expect(not modes & (termios.ECHO | termios.ICANON | termios.ISIG), "the terminal is not raw")
        vm.type(b"echo $((6*7))'x'\r")
        vm.wait(rb"\r\n42x\r")

    def need_vm():
        if vm is None or vm.process.poll() is not None:
            raise Tap.Skip("the machine did not come up")

    def interrupt_key():
        need_vm()
        vm.type(b"sleep 1000\r")
        time.sleep(1)
        vm.type(b"\x03")
        vm.wait(rb"(?s)\^C.*/ # ")

    def monitor():
        need_vm()
        vm.type(b"\x01c")
        vm.wait(rb"\(qemu\) ")
        vm.type(b"info status\r")
        vm.wait(rb"VM status: running")
        vm.type(b"info block\r")
        vm.wait(re.escape(str(disk)).encode())
        vm.type(b"info network\r")
        vm.wait(rb"virtio-net-pci")
        vm.type(b"info chardev\r")
        vm.wait(rb"filename=stdio")
        vm.wait(rb"\(qemu\) ")
        vm.type(b"\x01c")
        vm.type(b"echo back'again'\r")
        vm.wait(rb"\r\nbackagain")

    def long_output():
        need_vm()
        vm.type(b"i=0; while [ $i -lt 3000 ]; do echo line-$i-of-many-more; i=$((i+1)); done; echo all'done'\r")
        for i in range(0, 3000, 97):
            vm.wait(rb"line-%d-of-many-more\r" % i, 60)
        vm.wait(rb"alldone", 60)

    def forwarded_port():
        need_vm()
        data = os.urandom(2 << 20)
        # The shell's prompt says nothing of the background job: wait for the port itself.
        vm.type(b"nc -l -p 2222 >/tmp/got & until netstat -ltn | grep :2222; do :; done; echo port'open'\r")
        vm.wait(rb"portopen", 60)
        with socket.create_connection(("127.0.0.1", port), 10) as s:
            s.settimeout(60)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            s.recv(1)
        vm.type(b"md5sum /tmp/got; rm /tmp/got\r")
        vm.wait(hashlib.md5(data).hexdigest().encode(), 30)

    def fetch():
        need_vm()
        data = os.urandom(3 << 20)
        server = serve(data)
        vm.type(b"wget -q -O /tmp/w http://10.0.2.2:%d/x && md5sum /tmp/w; rm /tmp/w\r" % server.server_address[1])
        vm.wait(hashlib.md5(data).hexdigest().encode(), 60)
        server.shutdown()

    def disk_in_use():
        need_vm()
        status, _, err = run([binary, "-M", "pc", "-nodefaults", "-display", "none", *kernel,
                              "-drive", f"file={disk},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d"])
        expect(status == 1, f"exit status {status}: {err}")
        expect(str(vm.process.pid) in err and str(disk) in err, f"the holder is not named: {err!r}")

    def leave():
        need_vm()
        vm.type(b"\x01x")
        vm.process.wait(10)
        expect(vm.process.returncode == 0, f"exit status {vm.process.returncode}")
        expect(termios.tcgetattr(vm.slave)[:4] == vm.before[:4], "the terminal is not as it was")

    def pseudo_terminal():
        need_guest()
        with Machine(binary, ["-M", "microvm", "-m", "256", "-nodefaults", "-display", "none", *kernel,
                              "-qmp", "unix:qmp,server=on,wait=off".replace("qmp,", f"{work}/qmp,"),
                              "-chardev", "pty,id=p", "-serial", "chardev:p"], directory=work) as machine:
            entry = [c for c in machine.qmp.command("query-chardev") if c["label"] == "p"][0]
            expect(entry["filename"].startswith("pty:/dev/pts/"), str(entry))
            fd = os.open(entry["filename"][4:], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            seen, deadline = b"", time.monotonic() + BOOT_TIMEOUT
            while b"/ # " not in seen:
                expect(time.monotonic() < deadline, f"no shell on the pty: {seen[-500:]!r}")
                if select.select([fd], [], [], 1)[0]:
                    seen += os.read(fd, 4096)
                os.write(fd, b"\r" if not seen else b"")
            os.close(fd)
            machine.qmp.command("quit")
            expect(machine.wait(20) == 0, "exit status")

    def socket_line():
        need_guest()
        path = work / "serial"
        with Machine(binary, ["-M", "microvm", "-m", "256", "-nodefaults", "-display", "none", *kernel,
                              "-serial", f"unix:{path},server=on,wait=off"], directory=work) as machine:
            deadline = time.monotonic() + BOOT_TIMEOUT
            s = socket.socket(socket.AF_UNIX)
            while True:
                try:
                    s.connect(str(path))
                    break
                except OSError:
                    expect(time.monotonic() < deadline and machine.process.poll() is None, machine.tail())
                    time.sleep(0.02)
            s.settimeout(BOOT_TIMEOUT)
            seen = b""
            while b"/ # " not in seen:
                seen += s.recv(4096)
            s.close()
            s = socket.socket(socket.AF_UNIX)  # a second client finds the same line
            s.connect(str(path))
            s.settimeout(20)
            s.sendall(b"poweroff -f\r")
            machine.wait(60)
            s.close()

    try:
        tap.test("a shell on the terminal", shell)
        tap.test("Ctrl-C is the guest's", interrupt_key)
        tap.test("the monitor behind Ctrl-A C", monitor)
        tap.test("long output comes whole", long_output)
        tap.test("a forwarded port", forwarded_port)
        tap.test("a file from the host over HTTP", fetch)
        tap.test("a disk in use names its holder", disk_in_use)
        tap.test("Ctrl-A X ends it and restores the terminal", leave)
        tap.test("a pseudo-terminal", pseudo_terminal)
        tap.test("a serial line on a socket", socket_line)
    finally:
        if vm:
            vm.close()
        directory.cleanup()
    tap.finish()


if __name__ == "__main__":
    main()
