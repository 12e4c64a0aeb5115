#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Saves and loads a machine whose guest works: chains of checksums over computation, disk and network (guest-init's check
"chain") must end with the same result as in a machine that nobody touched.

    soak_state.py [--machine pc,q35,microvm] [--smp 1,2] [--times 20] [--rounds 60] [--how file,exec,unix,tcp,cancel,snapshot,rewind]

Each time a new process takes the machine over, at a random moment (but for cancel, where it stays where it is, and rewind,
where it goes back half a second); the ways of --how take turns."""
import argparse
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Failure, Machine, Tap, expect  # noqa: E402

ERRORS = r"BUG:|Oops|Kernel panic|soft lockup|I/O error|dd failed|of the disk is wrong|exception Emask|EXT4-fs error|general protection|segfault"


class Chain:
    """A machine and those that follow it: one guest."""

    def __init__(self, args, machine, smp, directory, disk_format="raw"):
        self.args, self.machine, self.smp = args, machine, smp
        self.directory = pathlib.Path(directory)
        self.text = ""
        self.count = 0
        self.vm = None
        self.disk = self.directory / f"disk.{disk_format}"
        self.format = disk_format
        (self.directory / "tftp").mkdir(exist_ok=True)
        (self.directory / "tftp" / "chain.bin").write_bytes(bytes(i * 37 & 255 for i in range(20000)))
        if disk_format == "raw":
            with open(self.disk, "wb") as image:
                image.truncate(64 << 20)
        else:
            subprocess.run([str(args.build / "rhea-img"), "create", "-q", "-f", disk_format, str(self.disk), "64M"], check=True)

    def arguments(self):
        bus = "device" if self.machine == "microvm" else "pci"
        guest = self.args.guest
        initrd, append = guest / "initrd.gz", ""
        disk = f"virtio-blk-{bus},drive=disk0"
        if self.args.bus == "ide":
            initrd, append, disk = self.directory / "initrd", " rhea.disk=sd", "ide-hd,drive=disk0"
            if not initrd.exists():
                initrd.write_bytes((guest / "initrd.gz").read_bytes() + (guest / "ide.gz").read_bytes())
        return ["-M", self.machine, "-accel", self.args.accel, "-smp", self.smp, "-m", "256", "-nodefaults", "-no-reboot",
                "-display", "none", "-serial", "stdio", "-kernel", guest / "vmlinuz", "-initrd", initrd,
                "-append", f"console=ttyS0 quiet rhea.test=chain rhea.chain={self.args.rounds}{append}",
                "-drive", f"file={self.disk},format={self.format},if=none,id=disk0", "-device", disk,
                "-netdev", f"user,id=net0,tftp={self.directory / 'tftp'}", "-device", f"virtio-net-{bus},netdev=net0",
                "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", f"virtio-rng-{bus},rng=rng0",
                "-qmp", f"unix:{self.qmp()},server=on,wait=off"]

    def qmp(self):
        return self.directory / f"qmp{self.count}"

    def start(self, *more):
        self.count += 1
        vm = Machine(self.args.build / "rhea-system-x86_64", self.arguments() + list(more), self.directory)
        vm.qmp_path = self.qmp()
        return vm

    def end(self, vm):
        self.text += vm.text()
        try:
            vm.close()
        except OSError:
            expect(vm.process.poll() is not None, "it does not answer")  # it went by itself meanwhile

    def results(self):
        """What the chains printed at their end; None while one is missing."""
        text = (self.text + self.vm.text()).replace("\r", "")
        problem = re.search(f".*({ERRORS}).*", text)
        expect(not problem, f"the guest says: {problem and problem.group(0)}\n{self.vm.tail(30)}")
        found = dict(re.findall(r"chain (\d+) is ([0-9a-f]{64})", text))
        return found if len(found) == self.smp else None

    def wait_end(self, timeout):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self.results()
            if found:
                self.vm.wait_text(r"guest: 1 passed, 0 failed", 60)
                expect(self.vm.wait(60) == 0, f"exit status {self.vm.process.returncode}")
                return found
            if self.vm.process.poll() is not None:
                raise Failure(f"exited with {self.vm.process.returncode}\n{self.vm.tail(30)}")
            time.sleep(0.1)
        raise Failure(f"not at its end after {timeout} s\n{self.vm.tail(30)}")


def migrated(vm, timeout=60):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        info = vm.qmp.command("query-migrate")
        if info["status"] == "completed":
            return
        expect(info["status"] in ("setup", "active"), f"migration {info}")
        time.sleep(0.01)
    raise Failure("the migration does not end")


def hand_over(chain, how):
    """Another process goes on with the machine."""
    old, directory = chain.vm, chain.directory
    state = directory / "state"
    if how in ("file", "exec"):
        out = f"file:{state}" if how == "file" else f"exec:gzip -1 >{state}.gz"
        back = out if how == "file" else f"exec:gzip -dc {state}.gz"
        old.qmp.command("migrate", uri=out)
        migrated(old)
        expect(old.qmp.command("query-status")["status"] == "postmigrate", "the source is not in postmigrate")
        chain.end(old)
        chain.vm = chain.start("-incoming", back)
    elif how in ("unix", "tcp"):
        new = chain.start("-incoming", "defer")
        if how == "unix":
            uri = f"unix:{directory / 'state.sock'}"
            new.qmp.command("migrate-incoming", uri=uri)
        else:
            new.qmp.command("migrate-incoming", uri="tcp:127.0.0.1:0")
            listening = new.qmp.command("human-monitor-command", command_line="info migrate")
            uri = "tcp:" + re.search(r"tcp:(127\.0\.0\.1:\d+)", listening).group(1)
        expect(new.qmp.command("query-status")["status"] == "inmigrate", "the target is not in inmigrate")
        old.qmp.command("migrate", uri=uri)
        migrated(old)
        chain.end(old)
        chain.vm = new
    elif how == "cancel":
        path = directory / "slow.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen(1)
            old.qmp.command("migrate-set-parameters", max_bandwidth=20 << 20)
            old.qmp.command("migrate", uri=f"unix:{path}")
            peer, _ = server.accept()
            time.sleep(0.2)
            old.qmp.command("migrate_cancel")
            while (status := old.qmp.command("query-migrate")["status"]) != "cancelled":
                expect(status in ("active", "setup", "cancelling"), f"the migration is {status}")
                time.sleep(0.01)
            peer.close()
        old.qmp.command("migrate-set-parameters", max_bandwidth=0)
    elif how == "rewind":
        for line, pause in (("savevm soak", 0.5), ("loadvm soak", 0)):
            reply = old.qmp.command("human-monitor-command", command_line=line)
            expect(reply == "", f"{line}: {reply}")
            time.sleep(pause)
    elif how == "snapshot":
        reply = old.qmp.command("human-monitor-command", command_line="savevm soak")
        expect(reply == "", f"savevm: {reply}")
        old.qmp.command("quit")
        chain.end(old)
        chain.vm = chain.start("-loadvm", "soak")
    else:
        raise Failure(f"unknown way {how}")
    deadline = time.monotonic() + 60
    while chain.vm.qmp.command("query-status")["status"] != "running":
        expect(time.monotonic() < deadline, f"the machine does not run: {chain.vm.tail()}")
        time.sleep(0.01)


def soak(args, machine, smp, expected, tap):
    seed = args.seed or random.randrange(1 << 30)
    rand = random.Random(seed)
    ways = args.how.split(",")
    with tempfile.TemporaryDirectory(prefix="rhea-state-") as directory:
        chain = Chain(args, machine, smp, directory, "qcow2" if {"snapshot", "rewind"} & set(ways) else args.disk)
        chain.vm = chain.start()
        done = 0
        try:
            chain.vm.wait_text(args.begin, 120)
            while done < args.times:
                time.sleep(rand.uniform(0.02, args.pause))
                if chain.results() or re.search(r"guest: \d+ passed", chain.vm.text()):
                    break
                source = chain.vm
                try:
                    hand_over(chain, ways[done % len(ways)])
                except OSError:
                    # It has come to its end, and switched itself off, before the first word of this.
                    if chain.vm is not source or source.wait(20) != 0 or not chain.results():
                        raise
                    break
                done += 1
            found = chain.wait_end(args.timeout)
        except Exception as problem:
            raise Failure(f"{problem} (seed {seed}, after {done} times)\n{chain.vm.tail(8)}")
        finally:
            chain.end(chain.vm)
        if found != expected:
            rounds = re.findall(r"chain (\d+) round (\d+) (\w+)", chain.text)
            wrong = [r for r in rounds if r not in args.rounds_seen[smp]]
            raise Failure(f"seed {seed}, {done} times: first wrong rounds {wrong[:3]}")
        expect(found == expected, f"seed {seed}: other results after {done} times: {found}, not {expected}")
        expect(done >= min(args.times, args.least), f"only {done} times: give more --rounds")
        print(f"# {machine} -smp {smp}: {done} times, seed {seed}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--machine", default="pc,q35,microvm")
    parser.add_argument("--smp", default="1,2")
    parser.add_argument("--accel", default="tcg")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--least", type=int, default=3, help="fewer hand-overs than this before the end fail")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds at most between two times")
    parser.add_argument("--begin", default=r"chain \d+ round", help="what the guest prints before the first time")
    parser.add_argument("--how", default="file,exec,unix,cancel,tcp")
    parser.add_argument("--bus", choices=("virtio", "ide"), default="virtio", help="where the disk hangs; ide: SATA on q35")
    parser.add_argument("--disk", default="raw", help="format of the disk")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    args.guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    tap = Tap()
    expected = {}
    args.rounds_seen = {}

    def undisturbed(smp):
        if not (args.guest / "vmlinuz").exists():
            raise Tap.Skip(f"no guest in {args.guest}: run make guest")
        with tempfile.TemporaryDirectory(prefix="rhea-state-") as directory:
            chain = Chain(args, args.machine.split(",")[0], smp, directory)
            chain.vm = chain.start()
            try:
                expected[smp] = chain.wait_end(args.timeout)
                args.rounds_seen[smp] = re.findall(r"chain (\d+) round (\d+) (\w+)", chain.vm.text())
            finally:
                chain.end(chain.vm)

    for smp in [int(n) for n in args.smp.split(",")]:
        tap.test(f"-smp {smp}: undisturbed", undisturbed, smp)
        for machine in args.machine.split(",") if smp in expected else []:
            tap.test(f"{machine} -smp {smp}: saved and loaded {args.times} times", soak, args, machine, smp, expected[smp], tap)
    tap.finish()


if __name__ == "__main__":
    main()
