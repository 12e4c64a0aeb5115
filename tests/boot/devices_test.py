#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest's own drivers with devices that a machine has only when asked: network cards, packed and legacy virtio, floppy disks,
a printer, sockets to the host, the balloon."""
import argparse
import hashlib
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, cpio, expect, run  # noqa: E402


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

    def check(self, directory, checks, arguments, append="", machine="pc", during=None, files=None):
        """Boots a guest that makes these checks and powers off; all must pass. files: more of them for the guest."""
        initrd = pathlib.Path(directory) / "initrd"
        packed = (self.guest / "initrd.gz").read_bytes() + (self.guest / "ide.gz").read_bytes()
        if files:
            packed += bytes(-len(packed) % 4) + cpio(files)
        initrd.write_bytes(packed)
        qmp = pathlib.Path(directory) / "qmp"
        command = ["-M", machine, "-accel", self.args.accel, "-m", "512", "-nodefaults", "-no-reboot", "-display",
                   "none", "-serial", "stdio", "-kernel", self.guest / "vmlinuz", "-initrd", initrd,
                   "-qmp", f"unix:{qmp},server=on,wait=off", "-d", "guest_errors",
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


def blank_disk(directory, size=8 << 20):
    path = pathlib.Path(directory) / "disk.img"
    path.write_bytes(bytes(size))
    return path


def virtio(guests, options, features, disk="virtio-blk-pci", card="virtio-net-pci", machine="pc"):
    """A disk and a network card with these options move data; features: bits that the drivers have (or not:N, have not)."""
    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory, Echo() as echo:
        text = guests.check(directory, "disk,fs,tcp,features",
                            ["-drive", f"file={blank_disk(directory)},format=raw,if=none,id=b0", "-device", f"{disk},drive=b0{options}",
                             "-netdev", "user,id=n", "-device", f"{card},netdev=n{options}"],
                            f"rhea.driver=virtio_net rhea.tcp={echo.port} rhea.features={features}", machine)
        expect(echo.bytes == 4 << 20, f"{echo.bytes} bytes came")
        expect(not re.search(r"virtio\S*: .*queue \d+", text), text)


def queue_pairs(guests):
    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory, Echo() as echo:
        guests.check(directory, "queues,tcp", ["-smp", "3", "-netdev", "user,id=n,queues=3", "-device",
                                               "virtio-net-pci,netdev=n,mq=on,vectors=8"],
                     f"rhea.queues=3 rhea.driver=virtio_net rhea.tcp={echo.port}")


def floppy(guests, machine):
    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
        path = pathlib.Path(directory) / "floppy.img"
        path.write_bytes(random.Random(7).randbytes(1474560))
        guests.check(directory, "floppy", ["-drive", f"file={path},format=raw,if=floppy"],
                     f"rhea.floppy={hashlib.sha256(path.read_bytes()).hexdigest()}", machine)
        image = path.read_bytes()
        expect(len(image) == 1474560 and image[0x438:0x43a] == b"\x53\xef", "no file system came onto the disk")


def floppy_boot(guests):
    """SeaBIOS starts a boot sector, which reads the disk's last sector through the BIOS and prints it."""
    code = bytes.fromhex("31c08ed88ec0"    # xor ax, ax; mov ds, ax; mov es, ax
                         "b80102bb007e"    # mov ax, 0201h; mov bx, 7e00h
                         "b9124fba0001"    # mov cx, 4f12h; mov dx, 0100h: cylinder 79, sector 18, head 1, drive 0
                         "cd13"            # int 13h
                         "be007ebaf803"    # mov si, 7e00h; mov dx, 3f8h
                         "ac84c07403eeebf8"  # lodsb; test al, al; jz +3; out dx, al; jmp lodsb
                         "f4ebfd")         # hlt; jmp hlt
    image = bytearray(1474560)
    image[:len(code)] = code
    image[510:512] = b"\x55\xaa"
    image[-512:] = b"read from the last sector\0".ljust(512, b"\0")
    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
        path = pathlib.Path(directory) / "floppy.img"
        path.write_bytes(image)
        command = ["-M", "pc", "-accel", guests.args.accel, "-m", "32", "-nodefaults", "-display", "none", "-serial", "stdio", "-fda",
                   path]
        with Machine(guests.args.build / "rhea-system-x86_64", command, directory) as vm:
            vm.wait_text("read from the last sector", guests.args.timeout)


def printer(guests):
    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
        path = pathlib.Path(directory) / "paper"
        busybox = pathlib.Path(guests.guest / "ramfs/bin/busybox").read_bytes()
        guests.check(directory, "printer", ["-parallel", f"file:{path}"])
        expect(path.read_bytes() == busybox[:100000], f"{path.stat().st_size} bytes were printed")


def vsock(guests):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise Tap.Skip("no C compiler")
    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
        program = pathlib.Path(directory) / "vsock-guest"
        subprocess.run([compiler, "-O1", "-static", "-o", program, pathlib.Path(__file__).parent / "vsock_guest.c"], check=True)
        path = f"{directory}/v"
        server = socket.socket(socket.AF_UNIX)
        server.bind(f"{path}_5000")
        server.listen()

        def echo():
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        threading.Thread(target=echo, daemon=True).start()

        def during(vm):
            vm.wait_text("vsock: 4194304 bytes to the host and back", guests.args.timeout)
            vm.wait_text("vsock: listening", guests.args.timeout)
            data = random.Random(5).randbytes(1 << 20)
            with socket.socket(socket.AF_UNIX) as refused:
                refused.settimeout(60)
                refused.connect(path)
                refused.sendall(b"CONNECT 6001\n")
                expect(refused.recv(64) == b"", "a port where nobody listens took a connection")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(120)
                client.connect(path)
                client.sendall(b"CONNECT 6000\n")
                line = b""
                while not line.endswith(b"\n"):
                    line += client.recv(1)
                expect(re.fullmatch(rb"OK \d+\n", line), f"greeting {line!r}")
                sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
                sender.start()
                got = b""
                while piece := client.recv(65536):
                    got += piece
                sender.join()
                expect(got == data, f"{len(got)} bytes came back, not all the same")

        guests.check(directory, "vsock", ["-device", f"virtio-vsock-pci,guest-cid=42,socket={path}"], during=during,
                     files={"bin/vsock-guest": (0o100755, program.read_bytes())})
        server.close()


def resident_kib(vm):
    status = pathlib.Path(f"/proc/{vm.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def wait_for(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < deadline, f"not within {seconds} s: {what}")
        time.sleep(0.2)


def balloon(guests):
    device = "/machine/peripheral/b0"

    def during(vm):
        qmp = vm.qmp
        qmp.command("qom-set", path=device, property="guest-stats-polling-interval", value=1)
        vm.wait_text("balloon: filled", guests.args.timeout)
        filled = resident_kib(vm)
        expect(filled > 150000, f"{filled} KiB resident")
        vm.wait_text("balloon: freed", guests.args.timeout)
        wait_for(lambda: resident_kib(vm) < filled - 100000, f"free pages come back to the host (from {filled} KiB)")
        stats = {}

        def told():
            stats.update(qmp.command("qom-get", path=device, property="guest-stats"))
            return stats["last-update"] > 0 and 0 < stats["stats"]["stat-free-memory"] < 512 << 20
        wait_for(told, f"statistics ({stats})")
        expect(400 << 20 < stats["stats"]["stat-total-memory"] < 512 << 20, f"{stats}")
        qmp.command("balloon", value=300 << 20)
        wait_for(lambda: qmp.command("query-balloon")["actual"] == 300 << 20, "the balloon grows")
        qmp.wait_event("BALLOON_CHANGE")
        vm.wait_text("balloon: shrunk", guests.args.timeout)
        qmp.command("balloon", value=512 << 20)
        vm.wait_text("ok memory given", guests.args.timeout)  # the guest has it again, and powers off

    with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
        guests.check(directory, "balloon", ["-device", "virtio-balloon-pci,id=b0,free-page-reporting=on"], during=during)


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
    parser.add_argument("--long", action="store_true", help="all of them, not only what the everyday run has time for")
    parser.add_argument("--verbose", action="store_true", help="show the guest's console")
    args = parser.parse_args()
    tap = Tap()

    def test(name, function, *arguments, long=False):
        if re.search(args.only, name) and (args.long or not long):
            tap.test(name, lambda: function(Guests(args), *arguments))

    for card, driver, module in (("e1000", "e1000", "e1000"), ("e1000-82545em", "e1000", "e1000"),
                                 ("rtl8139", "8139cp", "8139cp")):
        test(f"{card}: Linux's driver {driver} moves 4 MiB over TCP", network_card, card, driver, module)

    def spd(guests, machine, module):
        with tempfile.TemporaryDirectory(prefix="rhea-devices-") as directory:
            guests.check(directory, "spd", [], f"rhea.modules=i2c-dev,{module}", machine=machine)

    test("virtio-blk and virtio-net with packed rings", virtio, ",packed=on", "34,29,28,32", "virtio-blk-pci", "virtio-net-pci", "q35")
    test("virtio-blk and virtio-net with packed rings, without event index and indirect descriptors", virtio,
         ",packed=on,event_idx=off,indirect_desc=off", "34,not:29,not:28", long=True)
    test("virtio-blk and virtio-net, transitional", virtio, "", "32", "virtio-blk-pci-transitional", "virtio-net-pci-transitional",
         long=True)
    test("virtio-blk and virtio-net, legacy interface alone", virtio, ",disable-modern=on", "not:32,28", long=True)
    test("virtio-blk and virtio-net, legacy interface alone, with INTx and small headers", virtio, ",disable-modern=on,vectors=0",
         "not:32,not:15", "virtio-blk-pci", "virtio-net-pci,mrg_rxbuf=off")
    test("virtio-net with three queue pairs", queue_pairs)
    test("floppy: Linux reads and writes a disk (pc)", floppy, "pc")
    test("floppy: Linux reads and writes a disk (q35)", floppy, "q35", long=True)
    test("floppy: SeaBIOS boots from one", floppy_boot)
    test("parallel: Linux prints", printer, long=True)
    test("vsock: both ways", vsock)
    test("balloon: free page reporting, statistics, target", balloon)
    for machine, module in (("pc", "i2c-piix4"), ("q35", "i2c-i801")):
        test(f"smbus: Linux's driver {module} reads a memory module's EEPROM", spd, machine, module)
    test("vmcoreinfo: Linux tells where its crash note is", vmcoreinfo)
    test("vmgenid: Linux takes notice of a loaded state", generation_id)
    test("vmgenid: SeaBIOS places the ID", generation_id_firmware, args)
    tap.finish()


if __name__ == "__main__":
    main()
