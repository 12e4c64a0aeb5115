#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole runs of a program that was built with AddressSanitizer: from the command line over a guest, hot-plug and QMP to
the end, nothing may be left behind. Skipped where the program was built without it."""
import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402
from harness import expect  # noqa: E402


def is_sanitized(binary):
    with open(binary, "rb") as file:
        return b"__asan_init" in file.read()


def ended(machine, timeout, status=0):
    """Waits for the end; whatever a sanitizer reports is the failure's text."""
    got = machine.wait(timeout)
    machine.reader.join(timeout)
    text = machine.text()
    expect("Sanitizer" not in text and "runtime error" not in text, text[-20000:])
    expect(got == status, f"exit status {got}: {machine.tail()}")


def start(binary, *arguments):
    directory = pathlib.Path(harness.tempfile.mkdtemp(prefix="rhea-leak-"))
    arguments = [word.replace("@DIR@", str(directory)) for word in arguments]
    (directory / "disk").write_bytes(bytes(1 << 20))
    (directory / "disk2").write_bytes(bytes(1 << 20))
    if "pc" in arguments or "microvm" in arguments:
        arguments += ["-kernel", str(harness.tiny_kernel(directory))]
    machine = harness.Machine(binary, ["-nodefaults", "-display", "none", *arguments, "-qmp",
                                       f"unix:{directory}/qmp,server=on,wait=off"], directory)
    machine.own_directory = True
    return machine


EVERYTHING = [
    "-m", "64", "-smp", "2", "-accel", "tcg,stress=evict+flush", "-object", "iothread,id=io0", "-object", "rng-random,id=rng0,filename=/dev/urandom", "-object",
    "secret,id=s0,data=x", "-object", "memory-backend-memfd,id=m0,size=2M", "-netdev",
    "user,id=n0,hostfwd=tcp:127.0.0.1:0-:22,dnssearch=a.example", "-drive", "file=@DIR@/disk,format=raw,if=none,id=d0",
    "-blockdev", "raw,node-name=b0,file.driver=file,file.filename=@DIR@/disk2", "-chardev", "pty,id=p0", "-chardev",
    "socket,id=c0,path=@DIR@/c0,server=on,wait=off,logfile=@DIR@/log", "-chardev", "ringbuf,id=r0,size=4k", "-chardev",
    "file,id=f0,path=@DIR@/f0,mux=on", "-mon", "chardev=f0,mode=readline", "-serial", "chardev:f0", "-name", "x,process=y",
    "-uuid", "01234567-89ab-cdef-0123-456789abcdef", "-rtc", "base=utc,clock=vm", "-global", "virtio-rng-pci.period=500",
    "-monitor", "unix:@DIR@/hmp,server=on,wait=off"]
PCI = ["-device", "virtio-net-pci,netdev=n0,id=net0,mac=52:54:00:11:22:33", "-device", "virtio-blk-pci,drive=d0,id=blk0",
       "-device", "virtio-blk-pci,drive=b0,iothread=io0,id=blk1", "-device", "virtio-rng-pci,rng=rng0,id=rng1",
       "-device", "virtio-serial-pci,id=vs0", "-device", "virtserialport,chardev=c0,id=port0,name=org.a", "-device",
       "virtconsole,chardev=r0,id=con0", "-device", "virtio-balloon-pci,id=bal0", "-device", "isa-serial,chardev=p0,id=ser1",
       "-device", "pvpanic,id=panic0"]
MMIO = ["-device", "virtio-net-device,netdev=n0", "-device", "virtio-blk-device,drive=d0", "-device",
        "virtio-blk-device,drive=b0", "-device", "virtio-rng-device,rng=rng0", "-device", "virtio-serial-device,id=vs0",
        "-device", "virtserialport,chardev=c0,id=port0,name=org.a"]


def test_run(binary, *arguments):
    """A machine that runs (its guest halts), is asked everything, reset, and ended by QMP."""
    with start(binary, *arguments) as machine:
        qmp = machine.qmp
        for name in [entry["name"] for entry in qmp.command("query-commands")]:
            if name.startswith("query-"):
                qmp.execute(name)
        qmp.command("system_reset")
        qmp.wait_event("RESET")
        for entry in qmp.command("qom-list-types", abstract=True):
            qmp.execute("qom-list-properties", typename=entry["name"])
            qmp.execute("device-list-properties", typename=entry["name"])
        for line in ("info registers", "info mtree", "info mtree -f", "info qtree", "info qom-tree", "info cpus", "info network",
                     "info usernet", "info block", "info chardev", "info pci", "info status", "xp/4xw 0xffff0", "help", "nonsense"):
            qmp.execute("human-monitor-command", command_line=line)
        qmp.command("stop")
        qmp.command("cont")
        qmp.command("quit")
        ended(machine, 60)


def test_hotplug(binary):
    with start(binary, "-machine", "pc", "-m", "64") as machine:
        qmp = machine.qmp
        for _ in range(2):
            qmp.command("object-add", qom_type="iothread", id="io1")
            qmp.command("object-add", qom_type="memory-backend-ram", id="m1", size=1 << 20, host_nodes=[])
            qmp.command("chardev-add", id="c1", backend={"type": "pty", "data": {}})
            qmp.command("blockdev-add", driver="raw", node_name="b1", read_only=True, cache={"direct": False}, file={
                "driver": "file", "filename": f"{machine.directory}/disk"})
            qmp.command("netdev_add", type="user", id="n1", hostfwd=[{"str": "tcp:127.0.0.1:0-:22"}])
            for wrong in ({"driver": "virtio-blk-pci", "drive": "b1", "id": "x", "nothing": 1},
                          {"driver": "virtio-blk-pci", "drive": "nobody"}, {"driver": "virtio-net-pci", "mac": "x"}):
                expect("error" in qmp.execute("device_add", **wrong), f"{wrong}")
            for command, wrong in (("netdev_add", {"type": "user", "id": "n1"}), ("netdev_add", {"type": "user", "id": 5}),
                                   ("blockdev-add", {"driver": "raw", "node-name": "y", "file": {"driver": "file", "filename": "/x"}}),
                                   ("blockdev-add", {"driver": "raw", "node-name": "y", "file": {"driver": "file"}}),
                                   ("chardev-add", {"id": "z", "backend": {"type": "socket", "data": {"addr": {"type": "unix"}}}}),
                                   ("object-add", {"qom-type": "secret", "id": "s", "data": "a", "file": "b"})):
                expect("error" in qmp.execute(command, **wrong), f"{command} {wrong}")
            qmp.command("netdev_del", id="n1")
            qmp.command("blockdev-del", node_name="b1")
            qmp.command("chardev-remove", id="c1")
            qmp.command("object-del", id="m1")
            qmp.command("object-del", id="io1")
        qmp.command("blockdev-add", driver="null-co", node_name="b2")
        qmp.command("netdev_add", type="user", id="n2")
        qmp.command("device_add", driver="virtio-blk-pci", drive="b2", id="blk2")
        qmp.command("device_add", driver="virtio-net-pci", netdev="n2", id="net2")
        qmp.execute("device_del", id="net2")
        qmp.send_raw(b'{"execute": \r\n[{}}\r\n')
        machine.process.terminate()
        ended(machine, 60)


def test_guest(binary, guest, machine_type):
    """Debian's kernel and its shell, which powers the machine off."""
    if not (guest / "vmlinuz").exists():
        raise harness.Tap.Skip(f"no guest in {guest} (make guest)")
    devices = "device" if machine_type == "microvm" else "pci"
    with harness.Machine(binary, [
            "-machine", machine_type, "-m", "256", "-nographic", "-kernel", guest / "vmlinuz", "-initrd", guest / "initrd.gz",
            "-append", "console=ttyS0 panic=-1", "-no-reboot", "-netdev", "user,id=n", "-device",
            f"virtio-net-{devices},netdev=n", "-object", "rng-builtin,id=r", "-device", f"virtio-rng-{devices},rng=r"]) as machine:
        machine.wait_text(r"init: Linux \S+ is up", 900)
        machine.wait_text(r"built-in shell[\s\S]*[#$] ", 300)
        machine.type("poweroff -f\r")
        ended(machine, 300)


def test_refused(binary):
    """Starts that fail half way."""
    cases = (["-machine", "pc", "-device", "virtio-blk-pci,drive=nobody"], ["-machine", "pc", "-m", "1Z"],
             ["-machine", "pc", "-smp", "2,cores=3"], ["-machine", "pc", "-cpu", "nobody"], ["-machine", "nobody"],
             ["-machine", "pc", "-netdev", "user,id=n,hostfwt=1"], ["-machine", "pc", "-netdev", "user,id=n,hostfwd=x"],
             ["-machine", "pc", "-blockdev", "raw,node-name=a,file.driver=file,file.filename=/nonexistent"],
             ["-machine", "pc", "-chardev", "socket,id=c,path=/nonexistent/c"], ["-machine", "pc", "-object", "iothread,id=0"],
             ["-machine", "pc", "-drive", "file=/nonexistent,format=raw"], ["-machine", "pc", "-mon", "chardev=c"],
             ["-machine", "microvm", "-device", "virtio-rng-pci"], ["-nonsense"], ["-device", "help"], ["-help"], ["-version"],
             ["-machine", "pc", "-device", "virtio-rng-pci,addr=99"], ["-machine", "pc,kernel=/nonexistent"],
             ["-machine", "pc", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,id=a", "-device", "foo"])
    for arguments in cases:
        machine = harness.Machine(binary, ["-display", "none", "-nodefaults", *arguments])
        with machine:
            ended(machine, 60, 0 if arguments[-1] in ("-help", "-version", "help") else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build")
    options = parser.parse_args()
    binary = pathlib.Path(options.build) / "rhea-system-x86_64"
    guest = pathlib.Path(os.environ.get("RHEA_GUEST", harness.ROOT / "build/guest"))
    tap = harness.Tap()
    if not is_sanitized(binary):
        print("1..0 # SKIP built without AddressSanitizer")
        return
    os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=1:exitcode=99"
    tap.test("no machine", test_run, binary, "-machine", "none")
    tap.test("pc with everything", test_run, binary, "-machine", "pc", *EVERYTHING, *PCI)
    tap.test("microvm with everything", test_run, binary, "-machine", "microvm", *EVERYTHING, *MMIO)
    tap.test("hot-plug", test_hotplug, binary)
    tap.test("refused command lines", test_refused, binary)
    tap.test("Linux on pc", test_guest, binary, guest, "pc")
    tap.test("Linux on microvm", test_guest, binary, guest, "microvm")
    tap.finish()


main()
