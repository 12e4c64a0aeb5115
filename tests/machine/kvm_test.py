#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The accelerator "kvm" with small guests of our own: start, devices, several CPUs, stop and reset, state between
accelerators, instructions that the kernel cannot emulate; and what is said where it cannot be used. The guests need no
more of a host's KVM than any offers; without /dev/kvm they are skipped."""
import argparse
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Failure, Qmp, Tap, expect  # noqa: E402

BASE = 0x100000
SECONDS = 30
# mov dx, 0x3f8; mov al, 'K'; out dx, al; mov dx, 0xf4; xor eax, eax; out dx, eax; hlt
HELLO = "66baf803b04bee66baf40031c0eff4"
# 'R' to the serial port; then forever: count to 2^16, '.'
COUNT = "66baf803b052ee31db43f7c3ffff000075f7b02eeeebf2"
# Selects the I/O APIC's version register (0x00170020), loads it with FILD, which no KVM emulates, stores it with FISTP, adds
# 0x15 to its low byte: '5'.
FILD = "dbe3bf0000c0fec70701000000db4710be00800000db1e8b06041566baf803eef4ebfd"
# 'B'; copies 16 bytes of 16-bit code to 0x8000; INIT and SIPI to all others; that code prints 'A'.
SECOND = ("b04266baf803eebe65001000bf00800000b910000000f3a4bb0000e0fec783f0000000ff010000c7830003000000450c00b9400d0300"
          "e2fec7830003000008460c00f4ebfd" "b041baf803eef4ebfd")
# 'R'; the 8254 at 100 Hz through the 8259 to an interrupt handler, which prints '.'.
TICK = ("bc000009000f0115d5001000ea330010000800b8100000008ed88ed08ec0b8ad001000bf000008006689870001000066c7870201000008006"
        "6c78704010000008ec1e810668987060100000f011ddb001000b011e620e6a0b020e621b028e6a1b004e621b002e6a1b001e621e6a1b0fee621"
        "b0ffe6a1b034e643b09ce640b02ee64066baf803b052eefbf4ebfc505266baf803b02eeeb020e6205a58cf0000000000000000ffff0000009b"
        "cf00ffff00000093cf001700bd001000ff0700000800")
IRQCHIPS = ("split", "on", "off")


def kernel(directory, code):
    """A Multiboot image with this code."""
    magic, flags = 0x1BADB002, 0x00010000
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, BASE, BASE, 0, 0, BASE + 32)
    path = pathlib.Path(directory) / "guest"
    path.write_bytes(header + bytes.fromhex(code) + bytes(64))
    return path


class Guest:
    """A started machine; its serial port goes to a file."""
    count = 0

    def __init__(self, binary, directory, code, accel, *more, machine="microvm"):
        Guest.count += 1
        self.serial = pathlib.Path(directory) / f"serial{Guest.count}"
        self.serial.write_text("")
        socket = pathlib.Path(directory) / f"qmp{Guest.count}"
        self.process = subprocess.Popen(
            [str(binary), "-accel", accel, "-M", machine, "-m", "64", "-nodefaults", "-display", "none", "-serial",
             f"file:{self.serial}", "-qmp", f"unix:{socket},server=on,wait=off", "-kernel", kernel(directory, code),
             *more], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.qmp = Qmp(socket, timeout=SECONDS)

    def text(self):
        return self.serial.read_text()

    def wait(self, condition, what):
        deadline = time.monotonic() + SECONDS
        while not condition():
            expect(time.monotonic() < deadline, f"{what}; the guest printed {self.text()[:80]!r}")
            time.sleep(0.01)

    def grows(self):
        before = len(self.text())
        self.wait(lambda: len(self.text()) > before, "the guest does not run")

    def save(self, path):
        self.qmp.command("stop")
        self.qmp.command("migrate", uri=f"exec:cat > {path}")
        self.wait(lambda: self.qmp.command("query-migrate").get("status") in ("completed", "failed"), "no end of migrate")
        expect(self.qmp.command("query-migrate")["status"] == "completed", "the state was not saved")

    def close(self):
        try:
            self.qmp.command("quit")
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    binary = args.build / "rhea-system-x86_64"
    directory = tempfile.mkdtemp(prefix="rhea-kvm-")
    tap = Tap()
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)

    def needs_kvm():
        if not usable:
            raise Tap.Skip("no /dev/kvm that one may use")

    def run(accel, machine="microvm"):
        done = subprocess.run([str(binary), "-accel", accel, "-M", machine, "-nodefaults", "-display", "none", "-serial",
                               "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel",
                               kernel(directory, HELLO)], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=SECONDS)
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def refusal(device, cause, cure):
        status, _, said = run(f"kvm,device={device}")
        if not usable and "/dev/kvm" in said:
            raise Tap.Skip("KVM itself is refused first")
        expect(status == 1 and cause in said and cure in said, f"status {status}, said: {said}")

    tap.test("a missing device: cause and cure", refusal, directory + "/none", "does not exist", "-accel tcg")
    tap.test("a device that is none: cause and cure", refusal, "/dev/null", "is no KVM device", "-accel tcg")

    def fallback(accel):
        status, printed, said = run(accel)
        expect(status == 1 and printed.startswith("K"), f"status {status}, printed {printed!r}, said {said}")

    tap.test("kvm:tcg runs on any host", fallback, "kvm:tcg")
    tap.test("auto runs on any host", fallback, "auto")

    def without():
        if usable:
            raise Tap.Skip("this host has /dev/kvm")
        status, _, said = run("kvm")
        expect(status == 1 and "cannot use KVM" in said and "-accel tcg" in said, f"status {status}, said {said}")

    tap.test("kvm alone is refused where it is not there", without)

    def hello(machine, irqchip):
        needs_kvm()
        status, printed, said = run(f"kvm,kernel-irqchip={irqchip}", machine)
        expect(status == 1 and printed.startswith("K"), f"status {status}, printed {printed!r}, said {said}")

    for machine in ("microvm", "pc", "q35"):
        for irqchip in IRQCHIPS:
            tap.test(f"a byte from {machine}, kernel-irqchip={irqchip}", hello, machine, irqchip)

    def control(irqchip):
        needs_kvm()
        guest = Guest(binary, directory, COUNT, f"kvm,kernel-irqchip={irqchip}")
        try:
            expect(guest.qmp.command("query-kvm")["enabled"], "query-kvm does not say that KVM runs it")
            guest.grows()
            guest.qmp.command("stop")
            before = guest.text()
            time.sleep(0.2)
            expect(guest.text() == before, "a stopped guest prints")
            registers = guest.qmp.command("human-monitor-command", **{"command-line": "info registers"})
            expect("RIP=00000000001000" in registers, f"not in the guest's code: {registers[:400]}")
            guest.qmp.command("cont")
            guest.grows()
            for _ in range(20):
                guest.qmp.command("stop")
                guest.qmp.command("cont")
            guest.grows()
            guest.qmp.command("system_reset")
            guest.wait(lambda: guest.text().count("R") == 2, "no second start after a reset")
            guest.grows()
        finally:
            guest.close()

    for irqchip in IRQCHIPS:
        tap.test(f"stop, cont, registers, reset, kernel-irqchip={irqchip}", control, irqchip)

    def ticks(machine, irqchip):
        needs_kvm()
        guest = Guest(binary, directory, TICK, f"kvm,kernel-irqchip={irqchip}", machine=machine)
        try:
            guest.grows()
            for _ in range(3):
                guest.qmp.command("stop")
                before = len(guest.text())
                time.sleep(0.3)
                expect(len(guest.text()) == before, "a stopped guest prints")
                guest.qmp.command("cont")
                guest.grows()
                expect(len(guest.text()) < before + 25, "the ticks of the time that it stood still came at once")
            guest.qmp.command("system_reset")
            guest.wait(lambda: guest.text().count("R") == 2, "no second start after a reset")
            guest.grows()
        finally:
            guest.close()

    for machine in ("pc", "q35", "microvm"):
        for irqchip in IRQCHIPS if machine == "pc" else ("on",):
            tap.test(f"a timer's interrupts on {machine}, kernel-irqchip={irqchip}", ticks, machine, irqchip)

    def second(irqchip, machine):
        needs_kvm()
        guest = Guest(binary, directory, SECOND, f"kvm,kernel-irqchip={irqchip}", "-smp", "2", machine=machine)
        try:
            guest.wait(lambda: guest.text() == "BA", "the second CPU did not start")
            guest.qmp.command("system_reset")
            guest.wait(lambda: guest.text() == "BABA", "the second CPU did not start after a reset")
        finally:
            guest.close()

    for irqchip in IRQCHIPS:
        tap.test(f"a second CPU, kernel-irqchip={irqchip}", second, irqchip, "pc")

    def rescue(irqchip):
        needs_kvm()
        guest = Guest(binary, directory, FILD, f"kvm,kernel-irqchip={irqchip}", machine="pc")
        try:
            guest.wait(lambda: guest.text() == "5", "FILD from device memory has a wrong result")
            kvm = guest.qmp.command("query-kvm")
            expect(kvm["rescued"] >= 1, f"no instruction was rescued: {kvm}")
            text = guest.qmp.command("human-monitor-command", **{"command-line": "info kvm"})
            expect("fild" in text, f"info kvm does not name it: {text}")
        finally:
            guest.close()

    for irqchip in IRQCHIPS:
        tap.test(f"an instruction that the kernel cannot emulate, kernel-irqchip={irqchip}", rescue, irqchip)

    def no_rescue():
        needs_kvm()
        guest = Guest(binary, directory, FILD, "kvm,rescue=off", machine="pc")
        try:
            guest.wait(lambda: guest.qmp.command("query-status")["status"] == "internal-error",
                       "the machine does not stop")
        finally:
            guest.close()

    tap.test("without rescue the machine stops with internal-error", no_rescue)

    def same_cpu():
        """-cpu for a CPU that both accelerators have: as KVM shows it, with the host's TSC rate."""
        guest = Guest(binary, directory, COUNT, "kvm")
        try:
            text = guest.qmp.command("human-monitor-command", **{"command-line": "info kvm"})
            hz = int(re.search(r"TSC: (\d+) kHz", text).group(1)) * 1000
            shown = guest.qmp.command("query-cpu-model-expansion", type="static", model={"name": "qemu64"})
            features = [f"{name}={'on' if value else 'off'}" for name, value in shown["model"]["props"].items()
                        if isinstance(value, bool) and not name.startswith("kvm")]
            return ",".join([f"qemu64,kvm=off,tsc-frequency={hz},vendor={shown['model']['props']['vendor']}"] + features)
        finally:
            guest.close()

    def state(first, then, code=COUNT, machine="microvm"):
        needs_kvm()
        path = pathlib.Path(directory) / "state"
        cpu = ["-cpu", same_cpu()] if "tcg" in (first, then) else []
        guest = Guest(binary, directory, code, first, *cpu, machine=machine)
        try:
            guest.grows()
            guest.save(path)
        finally:
            guest.close()
        guest = Guest(binary, directory, code, then, *cpu, "-incoming", f"exec:cat {path}", machine=machine)
        try:
            guest.wait(lambda: guest.qmp.command("query-status")["status"] == "paused", "the state is not read")
            guest.qmp.command("cont")
            guest.grows()
            guest.grows()
            expect("R" not in guest.text(), "the guest began anew")
        finally:
            guest.close()

    for first, then in (("kvm", "kvm"), ("kvm", "tcg"), ("tcg", "kvm"), ("kvm", "kvm,kernel-irqchip=off")):
        tap.test(f"state from {first} to {then}", state, first, then)
    on = "kvm,kernel-irqchip=on"
    for first, then in ((on, on), (on, "tcg"), ("tcg", on), (on, "kvm"), ("kvm", on)):
        tap.test(f"state with a timer from {first} to {then}", state, first, then, TICK, "pc")
    tap.finish()


if __name__ == "__main__":
    main()
