#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make soak-hotplug`, second part: a disk, a network card and a serial port come to a whole Debian and leave it, all three with
traffic until they are gone: by ACPI on pc, by PCI Express root ports on q35. Kinds of disk, card and port take turns."""
import argparse
import hashlib
import os
import pathlib
import re
import socket
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from debian_guest import OVMF, TROUBLE, Debian, add_arguments, prepare  # noqa: E402
from harness import Tap, expect  # noqa: E402

DISK_BYTES = 4 << 20
DISKS = ["virtio-blk", "virtio-scsi"]
CARDS = ["virtio-net-pci", "e1000", "rtl8139"]
PORTS = ["virtio-serial", "virtio-serial", "pci-serial"]
MAC = "52:54:00:52:68:65"
# Sourced by the guest's shell. What `come` starts ends when its device goes; `leave` waits for that.
SCRIPT = f"""
find_disk() {{ disk=$(readlink -e /dev/disk/by-id/*hot$1 | head -n 1); [ -b "$disk" ]; }}
find_card() {{ card=$(basename $(dirname $(grep -l {MAC} /sys/class/net/*/address)) 2>/dev/null); }}
until_true() {{ n=0; until "$@" 2>/dev/null; do n=$((n+1)); [ $n -lt 600 ] || {{ echo "never: $*"; return 1; }}; sleep 0.1; done; }}
disk_traffic() {{ while dd if=$disk of=/dev/null bs=64k iflag=direct && dd if=/dev/zero of=$disk bs=64k count=16 oflag=direct; do :; done; }}
card_traffic() {{ cat /dev/zero >/dev/tcp/10.0.2.2/$1 & cat </dev/tcp/10.0.2.2/$2 >/dev/null & }}
find_port() {{
    port=/dev/virtio-ports/hot
    [ -e $port ] || port=/dev/$(basename /sys/bus/pci/devices/*/tty/ttyS*)
    [ -c $port ]
}}
port_traffic() {{ case $port in */ttyS*) stty -F $port raw -echo clocal;; esac; exec 7<>$port; cat /dev/zero >&7 & cat <&7 >/dev/null & exec 7>&-; }}
come() {{
    until_true find_disk $1 && until_true find_card && until_true find_port || return
    echo "sum $(dd if=$disk bs=64k iflag=direct 2>/dev/null | sha256sum | cut -c1-64)"
    ip addr add 10.0.2.15/24 dev $card && ip link set $card up || return
    {{ disk_traffic & card_traffic $2 $3; port_traffic; }} 2>/dev/null
}}
no_disk() {{ ! ls /dev/disk/by-id/*hot*; }}
no_card() {{ ! grep -l {MAC} /sys/class/net/*/address; }}
no_port() {{ ! find_port; }}
leave() {{
    until_true no_disk >/dev/null && until_true no_card >/dev/null && until_true no_port || return
    kill $(jobs -p) 2>/dev/null; wait; lspci -n | sort >/run/left; cmp /run/cards /run/left
}}
lspci -n | sort >/run/cards
"""


class Peer:
    """The other end of the guest's traffic: two TCP servers, and the serial port's socket. Counts bytes."""

    def __init__(self, port_path):
        self.sent = self.received = self.port_sent = self.port_received = 0
        self.servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.numbers = [server.getsockname()[1] for server in self.servers]
        self.sockets = []
        self.port = socket.socket(socket.AF_UNIX)
        self.port.connect(str(port_path))
        for function, argument in ((self.sink, 0), (self.source, 1), (self.port_in, None), (self.port_out, None)):
            threading.Thread(target=self.quiet, args=(function, argument), daemon=True).start()

    @staticmethod
    def quiet(function, argument):
        try:
            function(*([] if argument is None else [argument]))
        except OSError:
            pass  # closed, or the machine let go

    def accept(self, number):
        peer, _ = self.servers[number].accept()
        self.sockets.append(peer)
        return peer

    def sink(self, number):
        peer = self.accept(number)
        while data := peer.recv(65536):
            self.received += len(data)

    def source(self, number):
        peer = self.accept(number)
        while True:
            self.sent += peer.send(bytes(4096))

    def port_in(self):
        while data := self.port.recv(65536):
            self.port_received += len(data)

    def port_out(self):
        while True:
            self.port_sent += self.port.send(bytes(1024))
            time.sleep(0.001)

    def counts(self):
        return self.sent, self.received, self.port_sent, self.port_received

    def close(self):
        for one in (*self.servers, *self.sockets, self.port):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()


class HotPlug:
    """What comes and goes, one round after the other."""

    def __init__(self, debian, directory, slots):
        self.debian, self.qmp, self.directory, self.slots = debian, debian.vm.qmp, directory, slots

    def plug(self, n, content):
        image, qmp = self.directory / "hot.img", self.qmp
        image.write_bytes(content)
        qmp.command("blockdev-add", driver="raw", node_name="node", file={"driver": "file", "filename": str(image)})
        if DISKS[n % len(DISKS)] == "virtio-blk":
            qmp.command("device_add", driver="virtio-blk-pci", id="disk", drive="node", serial=f"hot{n}", **self.slots[0])
            gone = ["disk"]
        else:
            qmp.command("device_add", driver="virtio-scsi-pci", id="disk", **self.slots[0])
            qmp.command("device_add", driver="scsi-hd", id="unit", bus="disk.0", drive="node", serial=f"hot{n}")
            gone = ["disk", "unit"]
        qmp.command("netdev_add", type="user", id="net")
        qmp.command("device_add", driver=CARDS[n % len(CARDS)], id="card", netdev="net", mac=MAC, **self.slots[1])
        qmp.command("chardev-add", id="line", backend={"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": str(self.directory / "line")}}, "server": True, "wait": False}})
        if PORTS[n % len(PORTS)] == "pci-serial":
            qmp.command("device_add", driver="pci-serial", id="serial", chardev="line", **self.slots[2])
            return {*gone, "card", "serial"}
        qmp.command("device_add", driver="virtio-serial-pci", id="serial", **self.slots[2])
        qmp.command("device_add", driver="virtserialport", id="port", bus="serial.0", chardev="line", name="hot")
        return {*gone, "card", "serial", "port"}

    def unplug(self, n, expected):
        """Each of them asked for, or going with what it sits on; each is told of once."""
        qmp = self.qmp
        if n % 2 and "port" in expected:
            qmp.command("device_del", id="port")
        for name in ("card", "disk", "serial"):
            qmp.command("device_del", id=name)
        gone = set()
        while gone != expected:
            name = qmp.wait_event("DEVICE_DELETED", 90)["data"].get("device")
            if name:
                expect(name in expected - gone, f"DEVICE_DELETED of {name!r}, which is not there; before: {gone}")
                gone.add(name)

    def release(self):
        self.qmp.command("blockdev-del", node_name="node")
        self.qmp.command("netdev_del", id="net")
        self.qmp.command("chardev-remove", id="line")

    def round(self, n, pause):
        content = os.urandom(DISK_BYTES // 8) * 8
        expected = self.plug(n, content)
        peer = Peer(self.directory / "line")
        try:
            said = self.debian.command(f"come {n} {peer.numbers[0]} {peer.numbers[1]}", 150)
            digest = hashlib.sha256(content).hexdigest()
            expect(f"sum {digest}" in said, f"the disk reads as something else: {said}")
            deadline = time.monotonic() + 60
            while not all(peer.counts()):
                expect(time.monotonic() < deadline, f"no traffic: {peer.counts()}")
                time.sleep(0.05)
            time.sleep(pause)
            self.unplug(n, expected)
        finally:
            peer.close()
        self.debian.command("leave", 150)
        self.release()
        return peer.counts()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    missing = prepare(args)
    tap = Tap()

    def come_and_go(machine, firmware):
        if missing:
            raise Tap.Skip(missing)
        if firmware == "OVMF" and not (OVMF / "OVMF_CODE_4M.fd").exists():
            raise Tap.Skip("not installed: ovmf")
        with tempfile.TemporaryDirectory(prefix="rhea-hotplug-") as name:
            directory = pathlib.Path(name)
            ports, slots = [], [{}, {}, {}]
            if machine == "q35":
                for n in (1, 2, 3):
                    ports += ["-device", f"pcie-root-port,id=port{n},slot={n}"]
                slots = [{"bus": f"port{n}"} for n in (1, 2, 3)]
            with Debian(args, machine, firmware, "virtio-blk", directory, ports) as debian:
                debian.login()
                debian.vm.type(f"cat >/root/hot.sh <<'END'\n{SCRIPT}END\n")
                debian.command("set +m; . /root/hot.sh")
                hot = HotPlug(debian, directory, slots)
                start, moved = time.monotonic(), (0, 0, 0, 0)
                for n in range(args.rounds):
                    moved = tuple(map(sum, zip(moved, hot.round(n, 0.2 + n % 3 / 4))))
                    if n == 5:
                        files = len(os.listdir(f"/proc/{debian.vm.process.pid}/fd"))
                took = time.monotonic() - start
                if args.rounds > 6:
                    now = len(os.listdir(f"/proc/{debian.vm.process.pid}/fd"))
                    expect(now <= files, f"{files} open files after five rounds, {now} at the end")
                trouble = [line for line in debian.command("dmesg").splitlines()
                           if re.search(TROUBLE, line) and not re.search(r"I/O error, dev (vdb|sd[a-z])", line)]
                expect(not trouble, "\n".join(trouble))
                debian.power_button()
            print(f"# {machine}: {args.rounds} rounds in {took:.0f} s; card: {moved[0] >> 20} MiB in, {moved[1] >> 20} MiB out; "
                  f"port: {moved[2] >> 10} KiB in, {moved[3] >> 20} MiB out")

    for machine, firmware in (("pc", "SeaBIOS"), ("q35", "OVMF")):
        name = f"{machine}: a disk, a card and a serial port come and go {args.rounds} times"
        if not args.only or re.search(args.only, name):
            tap.test(name, come_and_go, machine, firmware)
    tap.finish()


if __name__ == "__main__":
    main()
