#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`rhea run` as a person uses it: on a terminal, to a shell; the monitor behind Ctrl-A C; Ctrl-A X ends it, and the
terminal is as it was before."""
import argparse
import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Failure, Tap, expect  # noqa: E402


class Terminal:
    def __init__(self, argv):
        self.master, slave = pty.openpty()
        self.slave_path = os.ttyname(slave)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen([str(a) for a in argv], stdin=slave, stdout=slave, stderr=slave,
                                        start_new_session=True)
        self.slave = slave
        self.text = ""
        self.seen = 0

    def wait_text(self, pattern, timeout=60):
        """Waits for a match in what came since the last one."""
        deadline = time.monotonic() + timeout
        while True:
            match = re.search(pattern, self.text[self.seen:])
            if match:
                self.seen += match.end()
                return match
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failure(f"no {pattern!r} within {timeout} s; last output:\n{self.text[-1500:]}")
            if select.select([self.master], [], [], min(left, 0.2))[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            elif self.process.poll() is not None:
                raise Failure(f"ended with {self.process.returncode}; last output:\n{self.text[-1500:]}")

    def type(self, text):
        os.write(self.master, text.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    guest = pathlib.Path(os.environ.get("RHEA_GUEST", args.build / "guest"))
    tap = Tap()
    if not (guest / "vmlinuz").exists():
        def missing():
            raise Tap.Skip(f"no guest in {guest}: run make guest")
        tap.test("shell on a terminal", missing)
        tap.finish()
    directory = tempfile.TemporaryDirectory(prefix="rhea-shell-")
    disk = pathlib.Path(directory.name) / "disk.img"
    with open(disk, "wb") as image:
        image.truncate(16 << 20)
    terminal = Terminal([args.build / "rhea", "run", "--kernel", guest / "vmlinuz", "--initrd", guest / "initrd.gz",
                         "--memory", "512", disk])

    def reaches_a_shell():
        terminal.wait_text(r"init: network up: 10\.0\.2\.15", 120)
        terminal.wait_text(r"init: disk /dev/vda")
        terminal.wait_text(r"[#$] ", 60)

    def runs_commands():
        terminal.type("echo $((6 * 7)); nproc\r")
        terminal.wait_text(r"\n42\r*\n[12]\r*\n")
        terminal.type("blockdev --getsize64 /dev/vda\r")
        terminal.wait_text(r"\n16777216\r*\n")

    def interrupts_a_command():
        terminal.type("sleep 1000\r")
        time.sleep(1)
        terminal.type("\x03")
        terminal.wait_text(r"[#$] ")
        terminal.type("echo back\r")
        terminal.wait_text(r"\nback\r*\n")

    def has_a_monitor():
        terminal.type("\x01c")
        terminal.wait_text(r"\(qemu\) ")
        terminal.type("info status\r")
        terminal.wait_text(r"VM status: running")
        terminal.type("stop\r")
        terminal.wait_text(r"\(qemu\) ")
        terminal.type("info status\r")
        terminal.wait_text(r"VM status: paused")
        terminal.type("cont\r")
        terminal.wait_text(r"\(qemu\) ")
        terminal.type("\x01c")
        terminal.type("echo again\r")
        terminal.wait_text(r"\nagain\r*\n")

    def ends_by_ctrl_a_x():
        terminal.type("\x01x")
        deadline = time.monotonic() + 20
        while terminal.process.poll() is None:
            expect(time.monotonic() < deadline, "still runs 20 s after Ctrl-A X")
            if select.select([terminal.master], [], [], 0.1)[0]:
                os.read(terminal.master, 65536)
        expect(terminal.process.returncode == 0, f"exit status {terminal.process.returncode}")

    def leaves_the_terminal_as_it_was():
        now = termios.tcgetattr(terminal.slave)
        expect(now[:4] == terminal.before[:4], f"terminal modes {now[:4]}, before {terminal.before[:4]}")

    try:
        for function in (reaches_a_shell, runs_commands, interrupts_a_command, has_a_monitor, ends_by_ctrl_a_x,
                         leaves_the_terminal_as_it_was):
            tap.test(function.__name__.replace("_", " "), function)
            if tap.failed:
                break
    finally:
        terminal.close()
        directory.cleanup()
    tap.finish()


if __name__ == "__main__":
    main()
