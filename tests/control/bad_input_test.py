#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the system program says to mistakes: one clear line each (and at most one hint), exit status 1, nothing written."""
import argparse
import json
import os
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect, run  # noqa: E402

QUIET = ["-nodefaults", "-no-user-config", "-display", "none"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    binary = args.build / "rhea-system-x86_64"
    tap = Tap()
    directory = tempfile.TemporaryDirectory(prefix="rhea-bad-")
    base = pathlib.Path(directory.name)

    def refused(arguments, *parts, status=1):
        code, out, err = run([binary, *QUIET, *arguments], timeout=30)
        expect(code == status, f"exit status {code}, stderr: {err}")
        lines = [line for line in err.strip().splitlines() if line]
        expect(1 <= len(lines) <= 2, f"{len(lines)} lines where one (and a hint) belong:\n{err}")
        for part in parts:
            expect(part in err, f"{part!r} is not in: {err}")
        expect(out == "", f"standard output says: {out[:200]}")

    odd = base / "odd.img"
    odd.write_bytes(bytes(10240))
    cases = [
        ("unknown option", ["-mahcine", "pc"], "-mahcine", "-machine"),
        ("unknown machine", ["-M", "pcc"], "pcc"),
        ("machine named with the nearest", ["-M", "microvn"], "microvm"),
        ("unknown machine property", ["-M", "pc,kernal=x"], "kernal"),
        ("unknown device", ["-M", "pc", "-device", "virtio-bkl-pci"], "virtio-bkl-pci", "virtio-blk-pci"),
        ("unknown device property", ["-M", "pc", "-device", "virtio-rng-pci,max-bites=1"], "max-bites"),
        ("bad property value", ["-M", "pc", "-device", "virtio-rng-pci,max-bytes=lots"], "max-bytes"),
        ("unknown bus", ["-M", "pc", "-device", "virtio-rng-pci,bus=pci.7"], "pci.7"),
        ("slot in use", ["-M", "pc", "-device", "virtio-rng-pci,addr=0x0"], "in use"),
        ("unknown accelerator", ["-accel", "tgc"], "tgc"),
        ("unknown CPU model", ["-M", "pc", "-cpu", "Nehalen"], "Nehalen"),
        ("unknown CPU feature", ["-M", "pc", "-cpu", "qemu64,+avx3000"], "avx3000"),
        ("missing kernel", ["-M", "pc", "-kernel", base / "nothing"], "nothing", "No such file"),
        ("no such drive", ["-M", "pc", "-device", "virtio-blk-pci,drive=d9"], "d9"),
        ("unreadable disk", ["-M", "pc", "-drive", f"file={base}/gone.img,format=raw,if=none,id=d"], "gone.img"),
        ("wrong JSON", ["-M", "pc", "-device", '{"driver":"virtio-rng-pci",}'], "JSON"),
        ("JSON of the wrong type", ["-M", "pc", "-device", '{"driver":"virtio-rng-pci","max-bytes":"x"}'], "max-bytes"),
        ("16 EiB of memory", ["-M", "pc", "-m", "16E"], ""),
        ("too much memory", ["-M", "pc", "-m", "8E"], ""),
        ("no memory", ["-M", "pc", "-m", "0"], ""),
        ("no CPUs", ["-M", "pc", "-smp", "0"], ""),
        ("too many CPUs", ["-M", "pc", "-smp", "5000"], ""),
        ("topology that does not add up", ["-M", "pc", "-smp", "4,sockets=1,cores=3,threads=1"], ""),
        ("unknown chardev", ["-M", "pc", "-serial", "chardev:nobody"], "nobody"),
        ("unknown netdev type", ["-M", "pc", "-netdev", "usre,id=n"], "usre"),
        ("duplicate id", ["-M", "pc", "-device", "virtio-rng-pci,id=a", "-device", "virtio-rng-pci,id=a"], "a"),
        ("missing argument", ["-M"], "-M"),
        ("a floppy disk of no known size", ["-M", "pc", "-fda", odd], "10240", "no floppy disk"),
        ("a third floppy disk", ["-M", "pc", "-drive", "if=floppy,index=2"], "unit 2"),
        ("two disks in a floppy drive", ["-M", "pc", "-drive", "if=floppy,index=0", "-drive", "if=floppy,index=0"], "in use"),
        ("a parallel port too many", ["-M", "pc"] + 4 * ["-parallel", "null"], "parallel ports"),
        ("vsock without an address", ["-M", "pc", "-device", "virtio-vsock-pci,socket=x"], "guest-cid"),
        ("vsock without a socket", ["-M", "pc", "-device", "virtio-vsock-pci,guest-cid=3"], "'socket' is missing"),
        ("vsock where there is no place", ["-M", "pc", "-device", f"virtio-vsock-pci,guest-cid=3,socket={base}/no/such"], "no/such"),
        ("legacy interface of a newer device", ["-M", "pc", "-device", "virtio-tablet-pci,disable-legacy=off"], "no legacy interface"),
        ("no interface at all", ["-M", "pc", "-device", "virtio-tablet-pci,disable-modern=on"], "disable-modern"),
        ("more queues than there may be", ["-M", "pc", "-netdev", "user,id=n,queues=99"], "'queues'", "16"),
    ]
    # The structured options say the same to the same mistake in either spelling: an unknown key with its nearest, a
    # value of the wrong type with its key, what is missing, and what is not among the accepted values.
    options = {
        "-device": [("virtio-rng-pci,max-bytse=1", {"driver": "virtio-rng-pci", "max-bytse": 1}, "max-bytse", "max-bytes"),
                    ("virtio-rng-pci,max-bytes=x", {"driver": "virtio-rng-pci", "max-bytes": "x"}, "max-bytes"),
                    ("id=d", {"id": "d"}, "'driver' is missing"),
                    (None, {"driver": "virtio-rng-pci", "bus": 1}, "'bus'", "string")],
        "-netdev": [("user,id=n,hostfwt=1", {"type": "user", "id": "n", "hostfwt": 1}, "hostfwt", "'hostfwd'"),
                    ("user,id=n,restrict=x", {"type": "user", "id": "n", "restrict": "x"}, "'restrict'"),
                    ("user", {"type": "user"}, "'id' is missing"),
                    ("vhost-user,id=n", {"type": "vhost-user", "id": "n"}, "'vhost-user'", "stream"),
                    ("stream,id=n,addr.type=inet,addr.prot=1", {"type": "stream", "id": "n", "addr": {"type": "inet", "prot": 1}},
                     "'addr.host' is missing")],
        "-blockdev": [("null-co,node-name=a,sise=1", {"driver": "null-co", "node-name": "a", "sise": 1}, "'sise'", "'size'"),
                      ("null-co,node-name=a,size=x", {"driver": "null-co", "node-name": "a", "size": "x"}, "'size'"),
                      ("raw,node-name=a", {"driver": "raw", "node-name": "a"}, "'file' is missing"),
                      ("rwa,node-name=a", {"driver": "rwa", "node-name": "a"}, "'rwa'", "'raw'"),
                      ("raw,node-name=a,file.driver=null-co,file.latency=1",
                       {"driver": "raw", "node-name": "a", "file": {"driver": "null-co", "latency": 1}}, "'file.latency'")],
        "-chardev": [("pty,id=c,paht=x", {"backend": "pty", "id": "c", "paht": "x"}, "'paht'", "'path'"),
                     ("ringbuf,id=c,size=x", {"backend": "ringbuf", "id": "c", "size": "x"}, "'size'"),
                     ("null", {"backend": "null"}, "'id' is missing"),
                     ("soket,id=c", {"backend": "soket", "id": "c"}, "'soket'", "'socket'"),
                     ("socket,id=c,port=1,to=x", {"backend": "socket", "id": "c", "port": "1", "to": "x"}, "'to'")],
        "-object": [("iothread,id=i,poll-mx-ns=1", {"qom-type": "iothread", "id": "i", "poll-mx-ns": 1}, "'poll-mx-ns'",
                     "'poll-max-ns'"),
                    ("iothread,id=i,poll-max-ns=x", {"qom-type": "iothread", "id": "i", "poll-max-ns": "x"}, "'poll-max-ns'"),
                    ("iothread", {"qom-type": "iothread"}, "'id' is missing"),
                    ("iothraed,id=i", {"qom-type": "iothraed", "id": "i"}, "'iothraed'", "'iothread'")],
    }
    for option, mistakes in options.items():
        for text, json_form, *parts in mistakes:
            if text is not None:
                cases.append((f"{option} {text}", ["-M", "pc", option, text], f"{option} {text}: ", *parts))
            cases.append((f"{option} {json.dumps(json_form)}", ["-M", "pc", option, json.dumps(json_form)], f"{option} {{",
                          *parts))
    for name, arguments, *parts in cases:
        tap.test(name, refused, arguments, *parts)

    def truncated_kernel():
        short = base / "short"
        guest = pathlib.Path(os.environ.get("RHEA_GUEST", args.build / "guest")) / "vmlinuz"
        if not guest.exists():
            raise Tap.Skip("no guest kernel: run make guest")
        for size in (10, 0x210, 4096, 1 << 20):
            short.write_bytes(guest.read_bytes()[:size])
            refused(["-M", "pc", "-kernel", short], "short")

    def kernel_of_garbage():
        garbage = base / "garbage"
        garbage.write_bytes(bytes(range(256)) * 64)
        refused(["-M", "pc", "-kernel", garbage], "garbage")

    def held_disk():
        disk = base / "held.img"
        disk.write_bytes(b"\0" * (1 << 20))
        kernel = pathlib.Path(os.environ.get("RHEA_GUEST", args.build / "guest")) / "vmlinuz"
        if not kernel.exists():
            raise Tap.Skip("no guest kernel: run make guest")
        drive = ["-S", "-M", "pc", "-kernel", kernel, "-drive", f"file={disk},format=raw,if=none,id=d",
                 "-device", "virtio-blk-pci,drive=d"]
        with Machine(binary, [*QUIET, *drive, "-qmp", f"unix:{base}/qmp,server=on,wait=off"], base) as first:
            first.qmp.command("query-status")
            before = disk.read_bytes()
            refused(drive, "held.img", str(first.process.pid))
            expect(disk.read_bytes() == before, "the disk was changed")

    def qmp_garbage():
        with Machine(binary, [*QUIET, "-M", "none", "-qmp", f"unix:{base}/qmp,server=on,wait=off"], base) as vm:
            vm.qmp.command("query-status")
            for garbage in (b"}{\r\n", b"\xff\xfe\x00\r\n", b'{"execute": 5}\r\n', b"[" * 5000 + b"\r\n",
                            b'{"execute":"query-status","arguments":[]}\r\n', b'{"no":"execute"}\r\n'):
                vm.qmp.send_raw(garbage)
                reply = vm.qmp.read()
                expect(reply.get("error", {}).get("class") == "GenericError", f"{garbage!r}: {reply}")
                # Wait until it speaks sense again: one broken line may give several errors.
                vm.qmp.socket.settimeout(5)
                while "error" in vm.qmp.execute("query-status"):
                    pass

    def qmp_client_that_never_reads():
        import socket
        with Machine(binary, [*QUIET, "-M", "none", "-qmp", f"unix:{base}/qmp,server=on,wait=off",
                              "-qmp", f"unix:{base}/other,server=on,wait=off"], base) as vm:
            deaf = socket.socket(socket.AF_UNIX)
            deadline = time.monotonic() + 10
            while True:
                try:
                    deaf.connect(f"{base}/other")
                    break
                except OSError:
                    expect(time.monotonic() < deadline, "no second QMP server")
                    time.sleep(0.02)
            deaf.setblocking(False)
            sent = 0
            request = b'{"execute":"qmp_capabilities"}\r\n' + b'{"execute":"query-qmp-schema"}\r\n' * 200
            try:
                while sent < 64 << 20:
                    sent += deaf.send(request)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
            began = time.monotonic()
            vm.qmp.command("query-status")
            expect(time.monotonic() - began < 2, "the other client had to wait")
            rss = int(next(line.split()[1] for line in
                           pathlib.Path(f"/proc/{vm.process.pid}/status").read_text().splitlines()
                           if line.startswith("VmRSS")))
            expect(rss < 300 * 1024, f"{rss} KiB resident: replies pile up")
            deaf.close()

    for function in (truncated_kernel, kernel_of_garbage, held_disk, qmp_garbage, qmp_client_that_never_reads):
        tap.test(function.__name__.replace("_", " "), function)
    directory.cleanup()
    tap.finish()


if __name__ == "__main__":
    main()
