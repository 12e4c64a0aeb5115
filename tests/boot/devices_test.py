#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest's own drivers with devices that a machine has only when asked: network cards move data."""
import argparse
import pathlib
import re
import socket
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect  # noqa: E402


class Echo:
    """A TCP server on the loopback address that sends back what it gets once the other side is done."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.bytes = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                data = b""
                while piece := connection.recv(65536):
                    data += piece
                self.bytes += len(data)
                connection.sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


class Guests:
    def __init__(self, args):
        self.args = args
        self.guest = pathlib.Path(args.generic or args.build / "guest-generic").resolve()
        if not (self.guest / "ide.gz").exists():
            raise Tap.Skip(f"no guest in {self.guest}: run tools/guest.sh -k generic")

    def check(self, directory, checks, arguments, append="", machine="pc", during=None):
        """Boots a guest that makes these checks and powers off; all must pass."""
        initrd = pathlib.Path(directory) / "initrd"
        initrd.write_bytes((self.guest / "initrd.gz").read_bytes() + (self.guest / "ide.gz").read_bytes())
        qmp = pathlib.Path(directory) / "qmp"
        command = ["-M", machine, "-accel", self.args.accel, "-m", "512", "-nodefaults", "-no-reboot", "-display",
                   "none", "-serial", "stdio", "-kernel", self.guest / "vmlinuz", "-initrd", initrd,
                   "-qmp", f"unix:{qmp},server=on,wait=off",
                   "-append", f"console=ttyS0 quiet rhea.test={checks} {append}", *arguments]
        with Machine(self.args.build / "rhea-system-x86_64", command, directory) as vm:
            if during:
                during(vm)
            done = vm.wait_text(r"guest: (\d+) passed, (\d+) failed", self.args.timeout)
            if self.args.verbose:
                print("".join(f"# {line}\n" for line in vm.text().replace("\r", "").splitlines()))
            expect(int(done[1]) == len(checks.split(",")) and int(done[2]) == 0, vm.tail(40))
            expect(vm.wait(60) == 0, f"exit status {vm.process.returncode}\n{vm.tail()}")
            return vm.text()


def network_card(guests, card, driver, module):
    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory, Echo() as echo:
        text = guests.check(directory, "net,tcp", ["-netdev", "user,id=n0", "-device", f"{card},netdev=n0"],
                            f"rhea.modules={module} rhea.driver={driver} rhea.tcp={echo.port}")
        expect(echo.bytes == 4 << 20, f"{echo.bytes} bytes came")
        expect(not re.search(r"(?i)transmit timed out|tx hang|netdev watchdog", text), text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--generic", type=pathlib.Path, help="a guest with a PC's drivers")
    parser.add_argument("--accel", default="tcg", help="as -accel takes it")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--only", default="", help="a regular expression over the tests' names")
    parser.add_argument("--verbose", action="store_true", help="show the guest's console")
    args = parser.parse_args()
    tap = Tap()

    def test(name, function, *arguments):
        if re.search(args.only, name):
            tap.test(name, lambda: function(Guests(args), *arguments))

    for card, driver, module in (("e1000", "e1000", "e1000"), ("e1000-82545em", "e1000", "e1000"),
                                 ("rtl8139", "8139cp", "8139cp")):
        test(f"{card}: Linux's driver {driver} moves 4 MiB over TCP", network_card, card, driver, module)

    def spd(guests):
        with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
            guests.check(directory, "spd", [], "rhea.modules=i2c-dev,i2c-piix4")

    test("smbus: Linux's driver i2c-piix4 reads a memory module's EEPROM", spd)
    tap.finish()


if __name__ == "__main__":
    main()
