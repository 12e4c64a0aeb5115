#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Time as a Linux guest sees it over stop and cont, and over save and start: none passes while the machine stands still,
whatever clock the guest reads; its RTC shows the host's time of day; sleeping takes as long as it should afterwards."""
import argparse
import os
import pathlib
import re
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect  # noqa: E402

SOURCE = "/sys/devices/system/clocksource/clocksource0"
STAND_STILL = 3.0


class Guest:
    def __init__(self, args, board, directory):
        self.args, self.board, self.directory = args, board, pathlib.Path(directory)
        self.count = self.serial = 0
        self.vm = None

    def start(self, *more):
        self.count += 1
        qmp = self.directory / f"qmp{self.count}"
        self.vm = Machine(self.args.build / "rhea-system-x86_64", [
            "-M", self.board, "-accel", "tcg", "-cpu", self.args.cpu, "-smp", "2", "-m", "256", "-nodefaults", "-display", "none",
            "-serial", "stdio", "-kernel", self.args.guest / "vmlinuz", "-initrd", self.args.guest / "initrd.gz",
            "-append", "console=ttyS0 quiet tsc=reliable", "-qmp", f"unix:{qmp},server=on,wait=off", *more], self.directory)
        self.vm.qmp_path = qmp

    def run(self, command, timeout=30):
        """What a command prints."""
        self.serial += 1
        mark = f"mark{self.serial}"
        self.vm.type(f"echo {mark}; {command}; echo {mark}-end\n")
        match = self.vm.wait_text(rf"(?s)\n{mark}\r?\n(.*?){mark}-end\r?\n", timeout)
        return match.group(1).replace("\r", "").strip()

    def uptime(self):
        return float(self.run("cut -d' ' -f1 /proc/uptime"))

    def save_and_start(self, pause):
        state = self.directory / "state"
        self.vm.qmp.command("migrate", uri=f"file:{state}")
        while self.vm.qmp.command("query-migrate")["status"] != "completed":
            time.sleep(0.01)
        self.vm.close()
        time.sleep(pause)
        self.start("-incoming", f"file:{state}")
        while self.vm.qmp.command("query-status")["status"] != "running":
            time.sleep(0.01)

    def stop_and_cont(self, pause):
        self.vm.qmp.command("stop")
        time.sleep(pause)
        self.vm.qmp.command("cont")


def check(guest, how):
    """Around a pause: clocks that stand still do, the one that does not does not, and timers go on."""
    host_before = time.monotonic()
    before = guest.uptime()
    how(STAND_STILL)
    after = guest.uptime()
    host = time.monotonic() - host_before
    passed = after - before
    expect(0 <= passed <= host - STAND_STILL + 0.1, f"{passed:.2f} s passed in the guest, {host:.2f} s on the host")
    started = time.monotonic()
    guest.run("sleep 1")
    took = time.monotonic() - started
    expect(0.95 < took < 3, f"sleep 1 took {took:.2f} s")
    started, before = time.monotonic(), guest.uptime()
    guest.run("usleep 700000")
    guest_took, took = guest.uptime() - before, time.monotonic() - started
    expect(0.69 < guest_took <= took + 0.05, f"0.7 s were {guest_took:.2f} s in the guest and {took:.2f} s on the host")


def check_rtc(guest, how):
    how(STAND_STILL)
    shown = guest.run("cat /sys/class/rtc/rtc0/since_epoch")
    expect(abs(int(shown) - time.time()) < 2.5, f"the RTC shows {shown}, the host {time.time():.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--machine", default="q35,microvm")
    parser.add_argument("--cpu", default="max")
    args = parser.parse_args()
    args.guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    tap = Tap()
    for board in args.machine.split(","):
        with tempfile.TemporaryDirectory(prefix="rhea-time-") as directory:
            guest = Guest(args, board, directory)
            sources = []

            def boots():
                if not (args.guest / "vmlinuz").exists():
                    raise Tap.Skip(f"no guest in {args.guest}: run make guest")
                guest.start()
                guest.vm.wait_text("a busybox shell", 120)
                sources.extend(guest.run(f"cat {SOURCE}/available_clocksource").split())
                expect("kvm-clock" in sources and "tsc" in sources, f"clocks {sources}")

            tap.test(f"{board}: boots", boots)
            for source in sources:
                def choose(source=source):
                    guest.run(f"echo {source} >{SOURCE}/current_clocksource")
                    expect(guest.run(f"cat {SOURCE}/current_clocksource") == source, "it does not take it")
                tap.test(f"{board}: clock {source}", choose)
                tap.test(f"{board}: {source} over stop and cont", check, guest, guest.stop_and_cont)
                tap.test(f"{board}: {source} over save and start", check, guest, guest.save_and_start)
            if sources:
                tap.test(f"{board}: RTC over stop and cont", check_rtc, guest, guest.stop_and_cont)
                tap.test(f"{board}: RTC over save and start", check_rtc, guest, guest.save_and_start)
                expect(not re.search("BUG|stall|lockup|Watchdog", guest.vm.text()), guest.vm.tail())
                guest.vm.close()
    tap.finish()


if __name__ == "__main__":
    main()
