#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtio devices come and go over QMP, with their back ends, several times over; what is in use is not given twice."""
import argparse
import pathlib
import struct
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect  # noqa: E402


def multiboot_kernel():
    """An image with a multiboot header and one HLT: the least that a machine starts with."""
    magic, flags, load = 0x1BADB002, 0x10000, 0x100000
    header = struct.pack("<8I", magic, flags, (-magic - flags) & 0xffffffff, load, load, load + 64, load + 64, load + 32)
    return header + b"\xf4\xeb\xfd" + bytes(29)


def start(binary, directory, *more):
    qmp = pathlib.Path(directory) / "qmp"
    qmp.unlink(missing_ok=True)
    kernel = pathlib.Path(directory) / "kernel"
    kernel.write_bytes(multiboot_kernel())
    return Machine(binary, ["-kernel", kernel, "-M", "pc,acpi=off", "-m", "64", "-S", "-nodefaults", "-display", "none", "-qmp",
                            f"unix:{qmp},server=on,wait=off", *more], directory)


def test_rounds(binary, directory):
    with start(binary, directory) as machine:
        qmp = machine.qmp
        for _ in range(3):
            qmp.command("device_add", driver="virtio-rng-pci", id="r0")
            qmp.command("blockdev-add", driver="null-co", node_name="n0", size=1 << 20)
            qmp.command("device_add", driver="virtio-blk-pci", id="b0", drive="n0", **{"num-queues": 3})
            qmp.command("netdev_add", type="user", id="net0")
            qmp.command("device_add", driver="virtio-net-pci", id="e0", netdev="net0")
            qmp.command("device_add", driver="virtio-balloon-pci", id="m0")
            qmp.command("device_add", driver="virtio-serial-pci", id="vs")
            qmp.command("chardev-add", id="c0", backend={"type": "null", "data": {}})
            qmp.command("device_add", driver="virtserialport", id="p0", chardev="c0", bus="vs.0", name="org.example.0")
            error = qmp.execute("device_add", driver="virtio-blk-pci", id="b1", drive="n0")["error"]
            expect("n0" in error["desc"], f"a disk in use: {error}")
            qmp.execute("blockdev-del", node_name="n0")
            qmp.command("device_add", driver="virtserialport", id="p1", bus="vs.0")
            qmp.command("device_add", driver="virtio-scsi-pci", id="s0")
            qmp.command("blockdev-add", driver="null-co", node_name="n1", size=1 << 20)
            qmp.command("device_add", driver="scsi-hd", id="d0", bus="s0.0", drive="n1")
            qmp.command("chardev-add", id="c1", backend={"type": "null", "data": {}})
            qmp.command("device_add", driver="pci-serial", id="u0", chardev="c1")
            # What is on a card goes with it, and is told of before it; so is the virtio device inside it, which has no id.
            for name, before in (("p0", []), ("vs", ["p1"]), ("s0", ["d0"]), ("u0", []), ("m0", []), ("e0", []), ("b0", []),
                                 ("r0", [])):
                qmp.command("device_del", id=name)
                gone, paths = [], []
                while name not in gone:
                    data = qmp.wait_event("DEVICE_DELETED")["data"]
                    paths.append(data["path"])
                    gone += [data["device"]] if "device" in data else []
                expect(gone == [*before, name], f"{name}: gone are {gone}")
                inside = [path for path in paths if path.endswith("/virtio-backend")]
                expect(inside == ([] if name in ("p0", "u0") else [f"/machine/peripheral/{name}/virtio-backend"]), f"{paths}")
            qmp.command("blockdev-del", node_name="n1")
            qmp.command("chardev-remove", id="c1")
            qmp.command("netdev_del", id="net0")
            qmp.command("blockdev-del", node_name="n0")
            qmp.command("chardev-remove", id="c0")
        left = {child["name"] for child in qmp.command("qom-list", path="/machine/peripheral")}
        expect(left <= {"type"}, f"left behind: {left}")
        qmp.command("quit")
        expect(machine.process.wait(20) == 0, "exit status")


def test_balloon(binary, directory):
    with start(binary, directory, "-device", "virtio-balloon-pci,id=balloon0") as machine:
        qmp = machine.qmp
        expect(qmp.command("query-balloon")["actual"] == 64 << 20, "all memory is the guest's at first")
        qmp.command("balloon", value=32 << 20)
        names = {p["name"] for p in qmp.command("qom-list", path="/machine/peripheral/balloon0")}
        expect({"guest-stats", "guest-stats-polling-interval", "virtio-backend"} <= names, f"{names}")
        qmp.command("qom-set", path="/machine/peripheral/balloon0", property="guest-stats-polling-interval", value=2)
        stats = qmp.command("qom-get", path="/machine/peripheral/balloon0", property="guest-stats")
        expect(stats["last-update"] == 0 and "stat-free-memory" in stats["stats"], f"{stats}")
        expect(qmp.execute("balloon", value=0)["error"]["class"] == "GenericError", "no memory at all")
        qmp.command("device_del", id="balloon0")
        expect(qmp.execute("query-balloon")["error"]["class"] == "DeviceNotActive", "no balloon")
        qmp.command("quit")
        expect(machine.process.wait(20) == 0, "exit status")


def test_errors(binary, directory):
    cases = [
        ({"driver": "virtio-blk-pci"}, "drive"),
        ({"driver": "virtio-net-pci", "netdev": "none"}, "none"),
        ({"driver": "virtio-net-pci", "mac": "not:a:mac"}, "mac"),
        ({"driver": "virtio-rng-pci", "period": 0}, "period"),
        ({"driver": "virtio-rng-pci", "vectors": 5000}, "vectors"),
        ({"driver": "virtio-tablet-pci", "disable-legacy": "off"}, "disable-legacy"),
        ({"driver": "virtserialport"}, "bus"),
        ({"driver": "virtio-blk-device"}, ""),
    ]
    with start(binary, directory) as machine:
        for options, part in cases:
            reply = machine.qmp.execute("device_add", **options)
            expect("error" in reply and part in reply["error"]["desc"], f"{options}: {reply}")
        machine.qmp.command("quit")
        expect(machine.process.wait(20) == 0, "exit status")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    binary = parser.parse_args().build / "rhea-system-x86_64"
    tap = Tap()
    with tempfile.TemporaryDirectory(prefix="rhea-virtio-") as directory:
        tap.test("virtio devices come and go", test_rounds, binary, directory)
        tap.test("the balloon", test_balloon, binary, directory)
        tap.test("wrong options", test_errors, binary, directory)
    tap.finish()


main()
