#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Saving and loading as a client of QMP drives it: channels, events, run states, cancel, refusals, damaged streams,
snapshots. The guest only halts: tests/migration/soak_state.py has one that works."""
import argparse
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect, tiny_kernel  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
args = parser.parse_args()
binary = args.build / "rhea-system-x86_64"
directory = pathlib.Path(tempfile.mkdtemp(prefix="rhea-migrate-"))
kernel = tiny_kernel(directory)
count = 0


def machine(*more, board="pc", memory="32", wait=True):
    global count
    count += 1
    qmp = directory / f"qmp{count}"
    vm = Machine(binary, ["-M", board, "-m", memory, "-nodefaults", "-display", "none", "-kernel", kernel,
                          "-qmp", f"unix:{qmp},server=on,wait=off", *more], directory)
    vm.qmp_path = qmp
    return vm


def wait_status(vm, wanted, timeout=30):
    deadline = time.monotonic() + timeout
    while True:
        info = vm.qmp.command("query-migrate")
        if info.get("status") in wanted:
            return info
        expect(time.monotonic() < deadline, f"migration {info}, wanted {wanted}")
        time.sleep(0.01)


def wait_run_state(vm, wanted, timeout=30):
    deadline = time.monotonic() + timeout
    while True:
        state = vm.qmp.command("query-status")["status"]
        if state == wanted:
            return
        expect(time.monotonic() < deadline, f"run state {state}, wanted {wanted}")
        time.sleep(0.01)


def saved(name="state", *more, board="pc", stopped=False):
    """The file of a machine that was saved."""
    state = directory / name
    with machine(*more, board=board) as vm:
        if stopped:
            vm.qmp.command("stop")
        vm.qmp.command("migrate", uri=f"file:{state}")
        wait_status(vm, ("completed",))
    return state


def events_and_states():
    with machine() as vm:
        expect(vm.qmp.command("query-migrate") == {}, "a status before the first migration")
        vm.qmp.command("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        vm.qmp.command("migrate", uri=f"file:{directory / 'events'}")
        info = wait_status(vm, ("completed",))
        expect(info["ram"]["total"] >= 32 << 20 and info["ram"]["remaining"] == 0, f"{info}")
        expect(info["ram"]["duplicate"] > info["ram"]["normal"] > 0 and info["ram"]["page-size"] == 4096, f"{info}")
        vm.qmp.command("query-status")
        names = [(e["event"], e.get("data", {}).get("status")) for e in vm.qmp.events]
        expect(names == [("MIGRATION", "setup"), ("STOP", None), ("MIGRATION", "active"), ("MIGRATION", "completed")],
               f"events {names}")
        wait_run_state(vm, "postmigrate")
        error = vm.qmp.execute("migrate", uri=f"file:{directory / 'events'}")["error"]["desc"]
        expect("paused due to previous migration" in error, error)
        vm.qmp.command("cont")
        wait_run_state(vm, "running")


def comes_back(uri_out, uri_in):
    with machine() as vm:
        vm.qmp.command("migrate", uri=uri_out)
        wait_status(vm, ("completed",))
    with machine("-incoming", uri_in) as vm:
        vm.qmp.command("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        wait_run_state(vm, "running")
        expect(vm.qmp.command("query-migrate")["status"] == "completed", "not completed")


def stopped_stays_stopped():
    state = saved("stopped", stopped=True)
    with machine("-incoming", f"file:{state}") as vm:
        wait_run_state(vm, "paused")
        vm.qmp.command("cont")
        wait_run_state(vm, "running")
    with machine("-incoming", f"file:{saved()}", "-S") as vm:
        wait_run_state(vm, "paused")


def over_a_socket():
    disk = directory / "shared.qcow2"
    subprocess.run([str(args.build / "rhea-img"), "create", "-q", "-f", "qcow2", str(disk), "8M"], check=True)
    drive = ["-drive", f"file={disk},if=none,id=d", "-device", "virtio-blk-pci,drive=d"]
    with machine(*drive) as old, machine(*drive, "-incoming", "defer") as new:
        old.qmp.command("query-status")
        wait_run_state(new, "inmigrate")
        uri = f"unix:{directory / 'socket'}"
        new.qmp.command("migrate-incoming", uri=uri)
        expect("already been started" in new.qmp.execute("migrate-incoming", uri=uri)["error"]["desc"], "twice")
        old.qmp.command("migrate", uri=uri)
        wait_status(old, ("completed",))
        wait_run_state(new, "running")
        error = old.qmp.execute("cont")["error"]["desc"]  # the disk is the other one's now
        expect("in use" in error or "permission" in error, error)
        new.qmp.command("quit")
        new.wait(10)
        old.qmp.command("cont")
        wait_run_state(old, "running")


def cancel():
    path = directory / "slow.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)
    with machine() as vm:
        vm.qmp.command("migrate-set-parameters", max_bandwidth=1000)
        vm.qmp.command("migrate", uri=f"unix:{path}")
        peer, _ = server.accept()
        wait_status(vm, ("active",))
        expect("in progress" in vm.qmp.execute("migrate", uri=f"unix:{path}")["error"]["desc"], "two at once")
        expect("not finalized" in vm.qmp.execute("cont")["error"]["desc"], "cont while it is saved")
        vm.qmp.command("system_reset")
        vm.qmp.command("migrate_cancel")
        wait_status(vm, ("cancelled",))
        wait_run_state(vm, "running")
        vm.qmp.wait_event("RESET")
        peer.close()
        # The other end goes away: the machine goes on, too.
        vm.qmp.command("migrate-set-parameters", max_bandwidth=0)
        vm.qmp.command("migrate", uri="exec:false")
        info = wait_status(vm, ("failed",))
        expect("exec:false" in info["error-desc"], f"{info}")
        wait_run_state(vm, "running")
        vm.qmp.command("migrate", uri="exec:cat >/dev/null; exit 3")
        expect("status 3" in wait_status(vm, ("failed",))["error-desc"], "a command's status")
        vm.qmp.command("migrate", uri=f"unix:{directory / 'nobody'}")
        wait_status(vm, ("failed",))
        wait_run_state(vm, "running")
    server.close()


def fails(state, wanted, *more, board="pc", memory="32"):
    with machine("-incoming", f"file:{state}", *more, board=board, memory=memory) as vm:
        status = vm.wait(30)
        expect(status == 1, f"exit status {status}\n{vm.text()}")
        expect(all(word in vm.text() for word in wanted), f"'{vm.text()}' lacks {wanted}")


def refusals():
    state = saved("plain", "-device", "virtio-rng-pci,addr=5")
    same = ["-device", "virtio-rng-pci,addr=5"]
    fails(state, ["'type' differs"], *same, board="q35")
    fails(state, ["'memory' differs"], *same, memory="64")
    fails(state, ["'cpus' differs"], *same, "-smp", "2")
    fails(state, ["'cpu-features' differs", "'sse4.2'"], *same, "-cpu", "qemu64,+sse4.2")
    fails(state, ["virtio-rng-pci"])
    fails(state, ["virtio-balloon-pci"], *same, "-device", "virtio-balloon-pci")
    fails(state, ["virtio-rng"], "-device", "virtio-rng-pci,addr=6")
    fails(directory / "none", ["No such file"], *same)
    fails(kernel, ["not the state of a machine"], *same)


def damage():
    state = saved("whole")
    data = state.read_bytes()
    broken = directory / "broken"
    for cut in (0, 10, 24, 1000, len(data) // 2, len(data) - 1):
        broken.write_bytes(data[:cut])
        fails(broken, ["ends too early"])
    for at in (3, 9, 26, 40, len(data) // 2, len(data) - 20):
        broken.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:])
        fails(broken, ["load of migration failed"])


def from_the_monitor():
    """HMP's migrate takes a URI in quotes, as scripts write it, or the rest of the line."""
    for n, line in enumerate(['migrate -d "exec:cat > %s"', "migrate exec:cat > %s"]):
        state = directory / f"hmp{n}"
        with machine() as vm:
            for wrong, word in (('migrate ""', "missing"), ('migrate "file:x" y', "behind the URI")):
                reply = vm.qmp.command("human-monitor-command", command_line=wrong)
                expect(word in reply, f"{wrong}: {reply}")
            expect(vm.qmp.command("human-monitor-command", command_line=line % state) == "", line)
            wait_status(vm, ("completed",))
        with machine("-incoming", f"file:{state}") as vm:
            wait_run_state(vm, "running")


def wrong_names():
    with machine() as vm:
        for uri, word in (("gopher:x", "unknown migration protocol"), ("tcp:nowhere", "HOST:PORT"), ("file:", "no file"),
                          ("exec:", "no command"), ("file:/nonexistent/x", "cannot open"), ("fd:nobody", "nobody")):
            error = vm.qmp.execute("migrate", uri=uri)["error"]["desc"]
            expect(word in error, f"{uri}: {error}")
            expect(vm.qmp.command("query-status")["running"], "it stopped")
        expect("-incoming" in vm.qmp.execute("migrate-incoming", uri="tcp:127.0.0.1:0")["error"]["desc"], "no -incoming")
        expect("must be false" in vm.qmp.execute("migrate", uri="file:x", blk=True)["error"]["desc"], "blk")


def snapshots():
    disks = []
    for name in ("a", "b"):
        path = directory / f"{name}.qcow2"
        subprocess.run([str(args.build / "rhea-img"), "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
        disks += ["-blockdev", f"qcow2,node-name={name},file.driver=file,file.filename={path}",
                  "-device", f"virtio-blk-pci,drive={name}"]

    def hmp(vm, line):
        return vm.qmp.command("human-monitor-command", command_line=line)

    def job(vm, name, **arguments):
        vm.qmp.command(name, job_id="j", tag="byjob", **arguments)
        deadline = time.monotonic() + 30
        while (info := vm.qmp.command("query-jobs")[0])["status"] != "concluded":
            expect(time.monotonic() < deadline, f"{info}")
            time.sleep(0.01)
        vm.qmp.command("job-dismiss", id="j")
        return info.get("error")

    with machine(*disks) as vm:
        expect("no snapshot" in hmp(vm, "info snapshots"), "there is one")
        expect(hmp(vm, "savevm one") == "", "savevm")
        expect("one" in hmp(vm, "info snapshots"), "it is not listed")
        expect("does not exist" in hmp(vm, "loadvm two"), "loadvm of nothing")
        expect(hmp(vm, "loadvm one") == "", "loadvm")
        wait_run_state(vm, "running")
        expect(job(vm, "snapshot-save", vmstate="b", devices=["a", "b"]) is None, "snapshot-save")
        expect(job(vm, "snapshot-load", vmstate="b", devices=["a", "b"]) is None, "snapshot-load")
        error = vm.qmp.execute("snapshot-load", job_id="j", tag="byjob", vmstate="a", devices=["a", "b"])["error"]["desc"]
        expect("disks only" in error, error)
        wait_run_state(vm, "running")
        expect(job(vm, "snapshot-delete", devices=["a", "b"]) is None, "snapshot-delete")
        expect("byjob" not in hmp(vm, "info snapshots"), "still there")
    with machine(*disks, "-loadvm", "one") as vm:
        wait_run_state(vm, "running")
        expect(hmp(vm, "delvm one") == "" and "does not exist" in hmp(vm, "delvm one"), "delvm")
    with machine(*disks, "-loadvm", "one") as vm:
        expect(vm.wait(10) == 1 and "does not exist" in vm.text(), vm.text())
    raw = directory / "raw.img"
    raw.write_bytes(bytes(1 << 20))
    with machine(*disks, "-drive", f"file={raw},format=raw,if=virtio") as vm:
        expect("does not support snapshots" in hmp(vm, "savevm x"), "savevm with a raw disk")
        wait_run_state(vm, "running")


tap = Tap()
tap.test("events, statistics, run states", events_and_states)
tap.test("through a file", comes_back, f"file:{directory / 'f'}", f"file:{directory / 'f'}")
tap.test("through a command", comes_back, f"exec:gzip >{directory / 'g'}", f"exec:gzip -dc {directory / 'g'}")
tap.test("a stopped machine stays stopped", stopped_stays_stopped)
tap.test("over a socket, with a disk that both have open", over_a_socket)
tap.test("cancelled, and other ends that fail", cancel)
tap.test("other machines are refused by name", refusals)
tap.test("cut off and changed streams are refused", damage)
tap.test("from the monitor", from_the_monitor)
tap.test("names that lead nowhere", wrong_names)
tap.test("snapshots in qcow2 images", snapshots)
subprocess.run(["rm", "-rf", str(directory)])
tap.finish()
