#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that was moved makes its address known on its network: its card asks it to."""
import argparse
import os
import pathlib
import socket
import struct
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect  # noqa: E402

ADDRESS = bytes([10, 9, 8, 7])


def frames(peer, timeout):
    """What comes over a stream back end: a length of four bytes, then a frame."""
    peer.settimeout(0.2)
    data, deadline = b"", time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            data += peer.recv(65536)
        except TimeoutError:
            pass
        while len(data) >= 4 and len(data) - 4 >= struct.unpack(">I", data[:4])[0]:
            size = struct.unpack(">I", data[:4])[0]
            yield data[4:4 + size]
            data = data[4 + size:]


def is_announcement(frame):
    """ARP (RFC 826, RFC 5227): who has its own address."""
    return frame[12:14] == b"\x08\x06" and frame[28:32] == ADDRESS and frame[38:42] == ADDRESS


def moved(args):
    if not (args.guest / "vmlinuz").exists():
        raise Tap.Skip(f"no guest in {args.guest}: run make guest")
    with tempfile.TemporaryDirectory(prefix="rhea-announce-") as name:
        directory = pathlib.Path(name)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(directory / "net"))
        server.listen(2)

        def start(count, *more):
            qmp = directory / f"qmp{count}"
            vm = Machine(args.build / "rhea-system-x86_64", [
                "-M", "q35", "-m", "256", "-nodefaults", "-display", "none", "-serial", "stdio", "-kernel", args.guest / "vmlinuz",
                "-initrd", args.guest / "initrd.gz", "-append", "console=ttyS0 quiet",
                "-netdev", f"stream,id=n,server=off,addr.type=unix,addr.path={directory / 'net'}",
                "-device", "virtio-net-pci,netdev=n", "-qmp", f"unix:{qmp},server=on,wait=off", *more], directory)
            vm.qmp_path = qmp
            return vm

        with start(1) as vm:
            peer, _ = server.accept()
            vm.wait_text("a busybox shell", 120)
            vm.type("ip link set eth0 up; ip addr add 10.9.8.7/24 dev eth0; sleep 1; echo con''figured\n")
            vm.wait_text("configured", 60)
            for _ in frames(peer, 1):
                pass
            vm.qmp.command("migrate", uri=f"file:{directory / 'state'}")
            while vm.qmp.command("query-migrate")["status"] != "completed":
                time.sleep(0.01)
            peer.close()
        with start(2, "-incoming", f"file:{directory / 'state'}") as vm:
            peer, _ = server.accept()
            seen = [frame for frame in frames(peer, 5)]
            expect(any(is_announcement(frame) for frame in seen), f"no announcement among {len(seen)} frames\n{vm.tail()}")
            peer.close()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
parser.add_argument("--guest", type=pathlib.Path)
arguments = parser.parse_args()
arguments.guest = pathlib.Path(arguments.guest or os.environ.get("RHEA_GUEST") or arguments.build / "guest").resolve()
tap = Tap()
tap.test("a moved guest announces itself", moved, arguments)
tap.finish()
