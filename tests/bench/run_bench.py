#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench`: what start-up, booting and idling cost, beside QEMU (Debian's package) in the same run.

Rounds of both programs alternate, since machines are noisy; medians and their ratio are printed. Sections:
  boot    exec to the first line of init, Debian's cloud kernel with `quiet`, 512 MiB, one vCPU, `pc`
  first   exec to the first serial byte: of a tiny guest kernel on `microvm`, of a disk's boot sector, which SeaBIOS
          starts, on `pc` and on `q35`
  memory  resident memory of those three, idle, besides guest RAM
  idle    CPU time of a booted, idle guest
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Failure, Machine  # noqa: E402

RAM_MIB = 64


class Program:
    def __init__(self, name, binary, cpu):
        self.name, self.binary, self.cpu = name, str(binary), cpu


def start(program, arguments):
    return Machine(program.binary, ["-accel", "tcg", "-cpu", program.cpu, "-nodefaults", "-no-reboot", "-display",
                                    "none", *arguments])


def boot(program, guest, machine="pc"):
    began = time.monotonic()
    arguments = ["-M", machine, "-m", "512", "-serial", "stdio", "-kernel", guest / "vmlinuz",
                 "-initrd", guest / "initrd.gz", "-append", "console=ttyS0 quiet rhea.test=boot"]
    with start(program, arguments) as vm:
        vm.wait_text(r"init: Linux", 120)
        return time.monotonic() - began


def tiny_guest(machine, directory):
    """The machine, and what makes it write R to its first serial port and halt."""
    if machine == "microvm":
        return ["-M", machine, "-kernel", directory / "first_byte.elf"]
    return ["-M", machine, "-drive", f"file={directory}/first_byte.img,format=raw,if=ide"]


def first_byte(program, guest):
    """Milliseconds from exec to the byte; read straight from the pipe, with no thread between."""
    argv = [program.binary, "-accel", "tcg", "-cpu", program.cpu, "-m", str(RAM_MIB), "-nodefaults", "-no-reboot", "-display",
            "none", "-serial", "stdio", *map(str, guest)]
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    data = os.read(process.stdout.fileno(), 64)
    elapsed = (time.perf_counter() - began) * 1000
    process.kill()
    rest = process.communicate()[0]
    if not data.startswith(b"R"):
        raise Failure(f"{program.name} said: {(data + rest).decode(errors='replace')[:300]}")
    return elapsed


def ram_kib(smaps, size_mib):
    """Resident KiB of the mappings that are guest RAM: by their size."""
    total, size = 0, 0
    for line in smaps.splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            size = (high - low) >> 20
        elif line.startswith("Rss:") and size >= size_mib:
            total += int(line.split()[1])
    return total


def idle_memory(program, guest):
    """MiB resident besides guest RAM, a second after the guest halted."""
    arguments = ["-m", str(RAM_MIB), "-serial", "stdio", *guest]
    with start(program, arguments) as vm:
        vm.wait_text("R", 20)
        time.sleep(1)
        smaps = pathlib.Path(f"/proc/{vm.process.pid}/smaps").read_text()
        rss = sum(int(line.split()[1]) for line in smaps.splitlines() if line.startswith("Rss:"))
        return (rss - ram_kib(smaps, RAM_MIB)) / 1024


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_cpu(program, guest, machine="pc", seconds=10):
    """Percent of a core that a booted guest with nothing to do costs."""
    arguments = ["-M", machine, "-m", "512", "-serial", "stdio", "-kernel", guest / "vmlinuz",
                 "-initrd", guest / "initrd.gz", "-append", "console=ttyS0 quiet"]
    with start(program, arguments) as vm:
        vm.wait_text(r"busybox shell", 120)
        time.sleep(5)
        before = cpu_seconds(vm.process.pid)
        time.sleep(seconds)
        return (cpu_seconds(vm.process.pid) - before) / seconds * 100


def build_tiny(directory):
    source = pathlib.Path(__file__).resolve().parent
    kernel = directory / "first_byte.elf"
    subprocess.run(["cc", "-m32", "-nostdlib", "-static", "-Wl,--build-id=none", f"-Wl,-T,{source / 'first_byte.ld'}",
                    "-o", kernel, source / "first_byte.S"], check=True)
    # A boot sector that does the same: mov dx, 3f8h; mov al, 'R'; out dx, al; mov al, 10; out dx, al; cli; hlt; jmp
    code = bytes([0xba, 0xf8, 0x03, 0xb0, ord("R"), 0xee, 0xb0, 10, 0xee, 0xfa, 0xf4, 0xeb, 0xfd])
    (directory / "first_byte.img").write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="comma-separated sections")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures there too")
    args = parser.parse_args()
    guest = (args.guest or args.build / "guest").resolve()
    programs = [Program("rhea", (args.build).resolve() / "rhea-system-x86_64", "max")]
    if shutil.which("qemu-system-x86_64"):
        programs.append(Program("qemu", "qemu-system-x86_64", "max"))
    else:
        print("qemu-system-x86_64 is not installed: no comparison", file=sys.stderr)
    directory = tempfile.TemporaryDirectory(prefix="rhea-bench-")
    tiny = {machine: tiny_guest(machine, pathlib.Path(directory.name)) for machine in ("microvm", "pc", "q35")}
    build_tiny(pathlib.Path(directory.name))
    sections = {
        "boot": ("boot to init, pc, cloud kernel (s)", args.rounds, lambda p: boot(p, guest)),
        **{f"first {machine}": (f"exec to first serial byte, {machine} (ms)", args.rounds * 4,
                                lambda p, machine=machine: first_byte(p, tiny[machine])) for machine in tiny},
        **{f"memory {machine}": (f"resident besides guest RAM, idle {machine} (MiB)", 3,
                                 lambda p, machine=machine: idle_memory(p, tiny[machine])) for machine in tiny},
        "idle": ("CPU of an idle booted guest, pc (% of a core)", 1, lambda p: idle_cpu(p, guest)),
    }
    chosen = args.only.split(",") if args.only else list(sections)
    unknown = [word for word in chosen if not any(word in (name, name.split()[0]) for name in sections)]
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(sections)}")
    results = {}
    for name, (title, rounds, measure) in sections.items():
        if name not in chosen and name.split()[0] not in chosen:
            continue
        figures = {program.name: [] for program in programs}
        for _ in range(rounds):
            for program in programs:
                try:
                    figures[program.name].append(measure(program))
                except Failure as problem:
                    print(f"{title}: {problem}", file=sys.stderr)
        medians = {who: statistics.median(values) for who, values in figures.items() if values}
        results[name] = {"title": title, "median": medians, "runs": figures}
        line = "  ".join(f"{who} {value:.2f} [{min(figures[who]):.2f}-{max(figures[who]):.2f}]"
                         for who, value in medians.items())
        ratio = f"  rhea/qemu {medians['rhea'] / medians['qemu']:.2f}" if len(medians) == 2 and medians["qemu"] else ""
        print(f"{title}: {line}{ratio}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))
    directory.cleanup()


if __name__ == "__main__":
    main()
