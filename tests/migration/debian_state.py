#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make soak-state`, second part: a whole Debian compiles a program over and over; each time a new process takes it over, at a
random moment, and every program that comes out must be the same, byte by byte, as those from before. Then the guest switches
itself off, and its file system and its image are whole."""
import argparse
import pathlib
import random
import re
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "boot"))
from debian_guest import OVMF, TROUBLE, Debian, add_arguments, prepare  # noqa: E402
from harness import Failure, Tap, expect, run  # noqa: E402
from soak_state import hand_over  # noqa: E402

CASES = {
    "pc": ("SeaBIOS", "ide", "file,snapshot,unix,exec,rewind,tcp"),
    "q35": ("OVMF", "virtio-blk", "file,exec,unix,tcp"),  # its flash is a raw file, which takes no snapshots
}
# A program of some size, with a result of its own; built and run for ever, with a line for each.
SCRIPT = r"""
mkdir -p /root/build && cd /root/build || exit
awk 'BEGIN {
    print "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>"
    for (i = 0; i < 60; i++)
        printf "static unsigned f%d(unsigned a, const char *t)\n{\n    switch (a %% 7) {\n    case 0: return a * %du + strlen(t);\n" \
               "    case 3: for (unsigned i = 0; i < %d; i++) a = (a << 3 ^ a >> 5) + i; return a;\n    default: return a ^ %du;\n    }\n}\n", \
               i, i * 2654435761 % 65521, i + 9, i * 40503 % 65521
    print "int main(void)\n{\n    unsigned a = 1;\n    for (unsigned i = 0; i < 20000; i++) {"
    for (i = 0; i < 60; i++) printf "        a = f%d(a, \"text %d\");\n", i, i * i
    print "    }\n    printf(\"%u\\n\", a);\n    return 0;\n}"
}' >program.c
n=0
while [ ! -e stop ]; do
    n=$((n+1)); echo "begin $n."
    gcc -O2 -g -o program program.c && echo "built $n $(sha256sum <program | cut -c1-64) $(./program)." || echo "failed $n."
    sync; rm -f program
done
echo "all done."
"""
BUILT = r"built (\d+) ([0-9a-f]{64}) (\d+)\."


class Guest:
    """Debian and the processes that it ran in, as hand_over() wants it."""

    def __init__(self, args, machine, directory):
        self.args, self.machine, self.directory = args, machine, directory
        self.firmware, self.bus, _ = CASES[machine]
        self.count, self.text = 0, ""
        self.debian = None
        self.vm = self.start()

    def start(self, *more):
        self.count += 1
        self.debian = Debian(self.args, self.machine, self.firmware, self.bus, self.directory, more, str(self.count))
        return self.debian.vm

    def end(self, vm):
        self.text += vm.text()
        vm.close()

    def said(self):
        text = (self.text + self.vm.text()).replace("\r", "")
        problem = re.search(rf"(?m)^.*({TROUBLE}|Segmentation fault|internal compiler error|failed \d+\.).*$", text)
        expect(not problem, f"the guest says: {problem and problem.group(0)}")
        return re.findall(BUILT, text)

    def wait_built(self, count, timeout):
        deadline = time.monotonic() + timeout
        while len(self.said()) < count:
            expect(time.monotonic() < deadline, f"not built {count} times after {timeout} s:\n{self.vm.tail()}")
            expect(self.vm.process.poll() is None, f"exited with {self.vm.process.returncode}:\n{self.vm.tail()}")
            time.sleep(0.1)


def soak(args, machine, directory):
    seed = args.seed or random.randrange(1 << 30)
    rand, ways = random.Random(seed), (args.how or CASES[machine][2]).split(",")
    guest = Guest(args, machine, directory)
    done = 0
    try:
        guest.debian.login()
        guest.vm.type(f"cat >/root/build.sh <<'END'\n{SCRIPT}END\n")
        guest.debian.command("rm -rf /root/build; true")
        guest.vm.type("sh /root/build.sh\n")
        guest.wait_built(2, args.timeout)
        begin = time.monotonic()
        pace = max(1.0, args.pause)
        while done < args.times:
            time.sleep(rand.uniform(0.02, pace))
            hand_over(guest, ways[done % len(ways)])
            done += 1
            guest.said()
        took = time.monotonic() - begin
        guest.wait_built(len(guest.said()) + 2, args.timeout)
        built = guest.said()
        expect(len({result[1:] for result in built}) == 1, f"programs differ: {built}")
        numbers = [int(result[0]) for result in built if "rewind" not in ways]
        expect(numbers == sorted(set(numbers)), f"builds are missing or came twice: {numbers}")
        guest.vm.type("\x03")
        guest.debian.command("cd /root; mount -o remount,ro / 2>&1 || true; e2fsck -fn $(findmnt -no SOURCE /) 2>&1", 120)
        guest.debian.power_button()
    except Exception as problem:
        raise Failure(f"{type(problem).__name__}: {problem} (seed {seed}, after {done} times, {ways})\n{guest.vm.tail(12)}")
    finally:
        guest.end(guest.vm)
    status, out, err = run([args.build / "rhea-img", "check", "-f", "qcow2", directory / "disk.qcow2"])
    expect(status == 0, out + err)
    print(f"# {machine}: {done} times in {took:.0f} s, while {len(built)} programs were built; seed {seed}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--pause", type=float, default=6.0, help="seconds at most between two times")
    parser.add_argument("--how", help="ways of soak_state.py that take turns (default: all that the machine can)")
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    missing = prepare(args)
    tap = Tap()

    def saved(machine):
        if missing:
            raise Tap.Skip(missing)
        if CASES[machine][0] == "OVMF" and not (OVMF / "OVMF_CODE_4M.fd").exists():
            raise Tap.Skip("not installed: ovmf")
        with tempfile.TemporaryDirectory(prefix="rhea-state-") as name:
            soak(args, machine, pathlib.Path(name))

    for machine in CASES:
        name = f"{machine}: Debian compiles a program while it is saved and started {args.times} times"
        if not args.only or re.search(args.only, name):
            tap.test(name, saved, machine)
    tap.finish()


if __name__ == "__main__":
    main()
