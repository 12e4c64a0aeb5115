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
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect, run  # noqa: E402


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


def vmcoreinfo(guests):
    def during(vm):
        path = "/machine/peripheral/core0"
        expect(vm.qmp.command("qom-get", path=path, property="note-size") == 0, "a note before there is a guest")
        vm.wait_text("init: waits", guests.args.timeout)
        note = {name: vm.qmp.command("qom-get", path=path, property=f"note-{name}") for name in ("format", "address", "size")}
        expect(note["format"] == 1 and 0 < note["size"] <= 1 << 20, str(note))
        file = vm.directory / "note"
        vm.qmp.command("pmemsave", val=note["address"], size=note["size"], filename=str(file))
        expect(b"VMCOREINFO\0" in file.read_bytes() and b"OSRELEASE=" in file.read_bytes(), "that is no crash note")
        vm.type("go\n")

    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
        guests.check(directory, "wait", ["-device", "vmcoreinfo,id=core0"], "rhea.modules=qemu_fw_cfg", during=during)


def generation_id(guests):
    """The state is loaded into the machine that saved it: only the ID says that time has gone back."""
    def during(vm):
        vm.wait_text("init: waits", guests.args.timeout)
        first = vm.qmp.command("query-vm-generation-id")["guid"]
        vm.qmp.command("human-monitor-command", command_line="savevm one")
        expect(not re.search("virtual machine fork", vm.text()), "the ID changed by itself")
        vm.qmp.command("human-monitor-command", command_line="loadvm one")
        second = vm.qmp.command("query-vm-generation-id")["guid"]
        expect(first != second, f"the ID stays {first}")
        shown = vm.qmp.command("human-monitor-command", command_line="info vm-generation-id").strip()
        expect(shown == second, f"{shown} is not {second}")
        vm.wait_text("crng reseeded due to virtual machine fork", 60)
        vm.type("go\n")

    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
        disk = pathlib.Path(directory) / "state.qcow2"
        run([guests.args.build / "rhea-img", "create", "-f", "qcow2", disk, "64M"])
        # RDRAND fills the kernel's random numbers at once: only then it says that it renews them.
        guests.check(directory, "wait", ["-cpu", "max", "-device", "vmgenid", "-drive", f"file={disk},if=virtio"], "loglevel=6",
                     during=during)


def generation_id_firmware(guests, args):
    """Without a guest: SeaBIOS copies the ID to where the tables say, and tells the device of the place."""
    guid = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"
    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as name:
        directory = pathlib.Path(name)
        with Machine(args.build / "rhea-system-x86_64",
                     ["-M", "pc", "-accel", args.accel, "-m", "16", "-nodefaults", "-display", "none", "-device",
                      f"vmgenid,guid={guid}", "-trace", f"fw_cfg_written,file={directory}/trace",
                      "-qmp", f"unix:{directory}/qmp,server=on,wait=off"], directory) as vm:
            deadline, found = time.monotonic() + 60, None
            while not found and time.monotonic() < deadline:
                time.sleep(0.5)
                vm.qmp.command("pmemsave", val=0, size=16 << 20, filename=str(directory / "memory"))
                found = re.search(re.escape(uuid.UUID(guid).bytes_le), (directory / "memory").read_bytes())
            expect(found and found.start() % 4096 == 40, "the ID is not in memory at offset 40 of a page")
            expect(vm.qmp.command("query-vm-generation-id")["guid"] == guid, "it is another ID")
        trace = (directory / "trace").read_text()
        expect(re.search(r"fw_cfg_written.* offset 0 length 8", trace), f"the address was not written: {trace}")


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

    def spd(guests, machine, module):
        with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
            guests.check(directory, "spd", [], f"rhea.modules=i2c-dev,{module}", machine=machine)

    for machine, module in (("pc", "i2c-piix4"), ("q35", "i2c-i801")):
        test(f"smbus: Linux's driver {module} reads a memory module's EEPROM", spd, machine, module)
    test("vmcoreinfo: Linux tells where its crash note is", vmcoreinfo)
    test("vmgenid: Linux takes notice of a loaded state", generation_id)
    test("vmgenid: SeaBIOS places the ID", generation_id_firmware, args)
    tap.finish()


if __name__ == "__main__":
    main()
