#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make soak-guest-disk`: a Debian guest on a qcow2 disk with its journal on writes transactions, each followed by fsync,
and says on its console which are done; the virtual machine is killed (SIGKILL) at random. After each kill the image must
open at once, check clean, and hold every transaction that the guest was told of, whole; the next guest goes on with it, on
the same image or on a new overlay over it. The everyday test kills twice."""
import argparse
import os
import pathlib
import random
import re
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect, run  # noqa: E402

BLOCK, SLOTS = 4096, 2000
SPREAD = 7919  # neighbouring transactions lie far apart
# A transaction: its number on every line of a block, written to its slot and synced. What was synced is told.
LOAD = ("n={first}; while :; do yes \"t $n\" | head -c 4096 | "
        "dd of=/dev/vda bs=4096 seek=$(((n * {spread}) % {slots})) conv=notrunc,fsync 2>/dev/null && echo \"do\"\"ne $n.\"; "
        "n=$((n + 1)); done &\n")


def slot(n):
    return n * SPREAD % SLOTS


def content(n):
    line = f"t {n}\n".encode()
    return (line * (BLOCK // len(line) + 1))[:BLOCK]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=4, help="the longest life of a guest under load")
    args = parser.parse_args()
    build = args.build.resolve()
    guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    generator = random.Random(args.seed)
    tap = Tap()

    def tool(*argv):
        status, out, err = run([build / "rhea-img", *argv])
        expect(status == 0, f"rhea-img {' '.join(map(str, argv))}: status {status}: {out}{err}")
        return out

    def kill_under_load(directory, image, first):
        """A guest's life; the highest transaction that was acknowledged and the highest that may have begun."""
        with Machine(build / "rhea-system-x86_64",
                     ["-M", "pc", "-accel", "tcg", "-m", "256", "-smp", "2", "-nodefaults", "-display", "none", "-serial",
                      "stdio", "-kernel", guest / "vmlinuz", "-initrd", guest / "initrd.gz", "-append",
                      "console=ttyS0 quiet", "-drive", f"file={image},format=qcow2,if=none,id=d",
                      "-device", "virtio-blk-pci,drive=d"], directory) as vm:
            vm.wait_text(r"init: Linux \S+ is up", 180)
            vm.type("until [ -b /dev/vda ]; do sleep 0.1; done; stty -echo; echo rea''dy\n")
            vm.wait_text("ready", 60)
            vm.type(LOAD.format(first=first, spread=SPREAD, slots=SLOTS))
            vm.wait_text(rf"done {first}\.", 60)
            time.sleep(generator.uniform(0.05, args.seconds))
            vm.process.kill()
            vm.process.wait()
            vm.reader.join(10)
            done = [int(n) for n in re.findall(r"done (\d+)\.", vm.text())]
        expect(done == list(range(first, first + len(done))), f"acknowledged out of order: {done[:5]}...")
        return done[-1]

    def soak():
        if not (guest / "vmlinuz").exists():
            raise Tap.Skip(f"no guest in {guest}: run make guest")
        acknowledged = {}  # slot: the newest transaction there that fsync covered
        next_number, layers = 1, 0
        with tempfile.TemporaryDirectory(prefix="rhea-soak-guest-") as name:
            directory = pathlib.Path(name)
            image = directory / "disk0.qcow2"
            tool("create", "-q", "-f", "qcow2", "-o", "journal=auto", image, "16M")
            for kill in range(args.kills):
                last = kill_under_load(directory, image, next_number)
                for n in range(next_number, last + 1):
                    acknowledged[slot(n)] = n
                start = time.monotonic()
                tool("check", "-q", "-r", "leaks", "-f", "qcow2", image)  # opened for writing: the journal first
                tool("check", "-f", "qcow2", image)
                took = time.monotonic() - start
                raw = directory / "raw"
                tool("convert", "-f", "qcow2", "-O", "raw", image, raw)
                data = raw.read_bytes()
                for where, n in acknowledged.items():
                    block = data[where * BLOCK:(where + 1) * BLOCK]
                    # The one that was under way may be there instead, whole or not: nobody was told of it.
                    if block != content(n) and where != slot(last + 1):
                        raise AssertionError(f"kill {kill} (seed {args.seed}): transaction {n} of {last} is lost: "
                                             f"{block[:24]!r}")
                print(f"# kill {kill + 1}: {last - next_number + 1} transactions, {len(acknowledged)} blocks looked at, "
                      f"checked in {took:.2f} s", flush=True)
                next_number = last + 2
                acknowledged.pop(slot(last + 1), None)
                if kill % 4 == 3:  # first writes over a backing file from here on
                    layers += 1
                    over = directory / f"disk{layers}.qcow2"
                    tool("create", "-q", "-f", "qcow2", "-o", "journal=auto", "-b", image, "-F", "qcow2", over)
                    image = over

    tap.test(f"a guest is killed {args.kills} times under fsync load (seed {args.seed})", soak)
    tap.finish()


if __name__ == "__main__":
    main()
