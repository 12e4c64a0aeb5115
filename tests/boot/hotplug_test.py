#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk and a network card come to a running Debian guest and leave it again, with I/O on the disk: by ACPI on pc, by
PCI Express root ports on q35. The guest must find both, and let go of both before DEVICE_DELETED."""
import argparse
import os
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--accel", default="tcg", help="as -accel takes it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--machine", choices=["pc", "q35"], help="one of them only")
    args = parser.parse_args()
    guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    tap = Tap()

    def come_and_go(machine, directory):
        if not (guest / "vmlinuz").exists():
            raise Tap.Skip(f"no guest in {guest}: run make guest")
        disk = directory / "disk.img"
        disk.write_bytes(os.urandom(1 << 20) * 8)
        ports = []
        if machine == "q35":
            ports = ["-device", "pcie-root-port,id=port1,slot=1", "-device", "pcie-root-port,id=port2,slot=2"]
        with Machine(args.build / "rhea-system-x86_64",
                     ["-M", machine, "-accel", args.accel, "-m", "256", "-smp", "2", "-nodefaults", "-display", "none",
                      "-serial", "stdio", "-kernel", guest / "vmlinuz", "-initrd", guest / "initrd.gz", "-append",
                      "console=ttyS0 quiet", "-qmp", f"unix:{directory}/qmp,server=on,wait=off", *ports],
                     directory) as vm:
            vm.wait_text(r"init: Linux \S+ is up", 120)
            vm.type("modprobe virtio_blk; modprobe virtio_net; echo rea''dy\n")
            vm.wait_text("ready", 60)
            qmp = vm.qmp
            slots = ({"bus": "port1"}, {"bus": "port2"}) if machine == "q35" else ({}, {})
            start = time.monotonic()
            for n in range(args.rounds):
                qmp.command("blockdev-add", driver="raw", node_name="node",
                            file={"driver": "file", "filename": str(disk)})
                qmp.command("device_add", driver="virtio-blk-pci", id="disk", drive="node", **slots[0])
                qmp.command("netdev_add", type="user", id="net")
                qmp.command("device_add", driver="virtio-net-pci", id="card", netdev="net", **slots[1])
                # Reads go on until the disk is gone; the marker is split so that its echo does not match.
                vm.type("until [ -b /dev/vda ] && ls /sys/class/net | grep -q eth; do sleep 0.1; done; "
                        "(while dd if=/dev/vda of=/dev/null bs=64k iflag=direct; do :; done) 2>/dev/null & "
                        f"echo fou''nd-{n}\n")
                vm.wait_text(f"found-{n}\\b", 60)
                time.sleep(0.3)
                qmp.command("device_del", id="card")
                qmp.command("device_del", id="disk")
                again = qmp.execute("device_del", id="disk")
                expect("error" in again and "process of unplug" in again["error"]["desc"] or
                       "not found" in again.get("error", {}).get("desc", ""), str(again))
                gone = set()
                while gone != {"disk", "card"}:
                    data = qmp.wait_event("DEVICE_DELETED", 60)["data"]  # of what is inside of them, too: without an id
                    expect(data.get("device") in (None, "disk", "card"), str(data))
                    gone |= {data["device"]} if "device" in data else set()
                vm.type("wait; until [ ! -b /dev/vda ] && ! ls /sys/class/net | grep -q eth; do sleep 0.1; done; "
                        f"echo go''ne-{n}\n")
                vm.wait_text(f"gone-{n}\\b", 60)
                qmp.command("blockdev-del", node_name="node")
                qmp.command("netdev_del", id="net")
            print(f"# {machine}: {args.rounds} rounds in {time.monotonic() - start:.1f} s")
            expect("BUG" not in vm.text() and "Call Trace" not in vm.text(), vm.tail(40))
            vm.type("poweroff -f\n")
            expect(vm.wait(60) == 0, f"exit status {vm.process.returncode}")

    for machine in [args.machine] if args.machine else ["pc", "q35"]:
        with tempfile.TemporaryDirectory(prefix="rhea-hotplug-") as name:
            tap.test(f"{machine}: a disk and a card come and go {args.rounds} times", come_and_go, machine,
                     pathlib.Path(name))
    tap.finish()


if __name__ == "__main__":
    main()
