#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's gdb at the machine: a small program without an operating system, then Linux with two CPUs."""
import argparse
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Failure, Machine, Tap, expect  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
parser.add_argument("--guest", type=pathlib.Path)
args = parser.parse_args()
guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
binary = args.build / "rhea-system-x86_64"
directory = pathlib.Path(tempfile.mkdtemp(prefix="rhea-gdb-"))

# Multiboot; long mode, so that translated code runs: pages of 2 MiB map the first GiB as they are.
PROGRAM = r"""
.code32
.globl _start, again, add, counter, table
header: .long 0x1BADB002, 0x00010000, -(0x1BADB002 + 0x00010000), header, header, 0, 0, _start
_start:
    mov $0x200000, %esp
    mov $0x300000, %edi
    lea 0x1003(%edi), %eax
    mov %eax, (%edi)
    lea 0x2003(%edi), %eax
    mov %eax, 0x1000(%edi)
    xor %ecx, %ecx
    mov $0x83, %eax
1:  mov %eax, 0x2000(%edi,%ecx,8)
    add $0x200000, %eax
    inc %ecx
    cmp $512, %ecx
    jne 1b
    mov %edi, %cr3
    mov $0x40620, %eax
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    bts $8, %eax
    wrmsr
    mov %cr0, %eax
    bts $31, %eax
    mov %eax, %cr0
    lgdt pointer
    ljmp $8, $long
.code64
long:
    xor %ecx, %ecx
    mov $7, %eax
    xor %edx, %edx
    xsetbv
    vpcmpeqd %ymm3, %ymm3, %ymm3
    xor %eax, %eax
again:
    call add
    jmp again
add:
    inc %rax
    mov %rax, counter(%rip)
    mov table(%rip), %rbx
    ret
.balign 8
gdt: .quad 0, 0x00af9b000000ffff
pointer: .word 15
    .long gdt
.balign 8
counter: .quad 0
table: .quad 0x1234
"""


def build_program():
    source, elf, image = (directory / f"program.{suffix}" for suffix in ("S", "elf", "bin"))
    source.write_text(PROGRAM)
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-Wl,-Ttext=0x100000", "-Wl,--build-id=none", "-Wl,-N", "-o", elf,
                    source], check=True)
    subprocess.run(["objcopy", "-O", "binary", elf, image], check=True)
    symbols = {}
    for line in subprocess.run(["nm", elf], check=True, capture_output=True, text=True).stdout.splitlines():
        address, _, name = line.split()
        symbols[name] = int(address, 16)
    return image, symbols


class Gdb:
    """gdb with its lines in and out."""

    def __init__(self):
        self.process = subprocess.Popen(["gdb", "-nx", "-q"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, bufsize=1, start_new_session=True)
        self.count = 0
        for line in ("set pagination off", "set confirm off", "set width 0", "set architecture i386:x86-64"):
            self.run(line)

    def send(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def run(self, line):
        """What a command prints, without gdb's prompts."""
        self.send(line)
        return self.answer()

    def answer(self):
        self.count += 1
        mark = f"mark-{self.count}-end"
        self.send(f"echo {mark}\\n")
        text = ""
        while True:
            timer = threading.Timer(60, self.process.kill)
            timer.start()
            got = self.process.stdout.readline()
            timer.cancel()
            if not got:
                raise Failure(f"gdb has ended, or has said nothing for a minute: {text}")
            if mark in got:
                return re.sub(r"\(gdb\) ", "", text + got.split(mark)[0])
            text += got

    def value(self, expression):
        return int(re.search(r"= (0x[0-9a-f]+|\d+)", self.run(f"p/x {expression}")).group(1), 0)

    def interrupt(self):
        os.kill(self.process.pid, signal.SIGINT)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def started(*more, image, smp=1):
    vm = Machine(binary, ["-M", "pc", "-m", "64", "-smp", smp, "-cpu", "max", "-nodefaults", "-display", "none", "-kernel", image,
                          "-gdb", f"unix:{directory / 'gdb'}", "-qmp", f"unix:{directory / 'qmp'},server=on,wait=off", *more],
                 directory)
    vm.qmp.command("query-status")
    return vm


def bare_machine():
    image, at = build_program()
    with started("-S", image=image) as vm:
        gdb = Gdb()
        try:
            said = gdb.run(f"target remote {directory / 'gdb'}")
            expect("0x00000000001000" in said, said)
            expect(gdb.value("$pc") == at["_start"], "it does not stand at the entry")
            # A breakpoint in code that is in no long mode yet, then one that translated code would run over.
            said = gdb.run(f"hbreak *{at['again']}") + gdb.run("continue")
            expect("Breakpoint 1" in said and gdb.value("$pc") == at["again"], said)
            expect(gdb.value("$ymm3.v8_int32[7]") & 0xffffffff == 0xffffffff, "ymm3")
            expect("LMA" in gdb.run("p $efer") and "PG" in gdb.run("p $cr0"), "control registers")
            for step, place in enumerate(("add", None, None, None)):
                gdb.run("stepi")
                expect(place is None or gdb.value("$pc") == at[place], f"step {step}")
            expect(gdb.value("$rax") == 1 and gdb.value(f"*(long*){at['counter']}") == 1, "counter")
            expect(gdb.value("$rbx") == 0x1234, "table")
            gdb.run("delete")
            said = gdb.run(f"watch *(long*){at['counter']}") + gdb.run("continue")
            expect("Old value = 1" in said and "New value = 2" in said, said)
            said = gdb.run("continue")
            expect("New value = 3" in said, said)
            gdb.run("delete")
            said = gdb.run(f"rwatch *(long*){at['table']}") + gdb.run("continue")
            expect("Hardware read watchpoint" in said and "0x1234" in said or "4660" in said, said)
            gdb.run("delete")
            # Registers and memory are set.
            gdb.run(f"set var *(long*){at['table']} = 0x55")
            gdb.run("set var $rax = 1000")
            gdb.run("set var $xmm3.v2_int64[0] = 0x123456789")
            gdb.run(f"break *{at['add']}")
            gdb.run("continue")
            expect(gdb.value("$rax") == 1000, "what was set is not there")
            gdb.run("continue")
            expect(gdb.value("$rax") == 1001 and gdb.value("$rbx") == 0x55, "what was set is not there")
            expect(gdb.value("$xmm3.v2_int64[0]") == 0x123456789, "xmm3")
            expect(gdb.value("$ymm3.v4_int64[3]") & (1 << 64) - 1 == (1 << 64) - 1, "the high half of ymm3")
            gdb.run("set var $eflags = 0x8d7")
            expect(all(flag in gdb.run("p $eflags") for flag in ("CF", "ZF", "SF", "OF")), gdb.run("p $eflags"))
            # Physical memory, and the monitor.
            gdb.run("maintenance packet Qqemu.PhyMemMode:1")
            expect(gdb.value(f"*(long*){at['table']}") == 0x55, "physical memory")
            gdb.run("maintenance packet Qqemu.PhyMemMode:0")
            expect("paused (debug)" in gdb.run("monitor info status"), "monitor")
            expect("Cannot access memory" in gdb.run("x/gx 0x7000000000"), "memory that is not mapped")
            # Everything off: it runs translated, until Ctrl-C.
            gdb.run("delete")
            before = gdb.value("$rax")
            gdb.send("continue")
            time.sleep(0.5)
            expect(vm.qmp.command("query-status")["running"], "it does not run")
            gdb.interrupt()
            said = gdb.answer()
            expect("SIGINT" in said, said)
            ran = gdb.value("$rax") - before
            expect(ran > 1000000, f"only {ran} rounds in half a second")
            gdb.run("detach")
            time.sleep(0.1)
            expect(vm.qmp.command("query-status")["running"], "it does not run after detach")
            # Another one comes, by the monitor, elsewhere.
            said = vm.qmp.command("human-monitor-command", command_line=f"gdbserver unix:{directory / 'other'}")
            expect("Waiting" in said, said)
            gdb.run(f"target remote {directory / 'other'}")
            expect(not vm.qmp.command("query-status")["running"], "it runs on")
            expect("Disabled" in vm.qmp.command("human-monitor-command", command_line="gdbserver none"), "none")
        finally:
            gdb.close()


def hostile_client():
    """Whatever comes is answered or refused."""
    image, _ = build_program()
    with started(image=image, smp=2) as vm:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(directory / "gdb"))
        client.settimeout(10)

        def packet(text):
            data = text if isinstance(text, bytes) else text.encode()
            client.sendall(b"$" + data + b"#%02x" % (sum(data) & 255))

        def reply():
            data = b""
            while not re.search(rb"\$[^#]*#..", data):
                got = client.recv(65536)
                expect(got, "it hung up")
                data += got
            return re.search(rb"\$([^#]*)#..", data).group(1).decode()

        for text, wanted in (("m0,4", r"[0-9a-f]{8}"), ("m", "E22"), ("m0", "E22"), ("mffffffffffffffffff,1", "E22"),
                             ("p999", "E14"), ("P10=12", "E14"), ("P10", "E22"), ("Z9,0,1", ""), ("Z2,0,0", "E22"),
                             ("Z2,ffffffffffffffff,8", "E22"), ("Z0,12", "E22"), ("z0,1234,1", "E22"), ("Hg99", "E22"),
                             ("Hg-1", "OK"), ("Hg2", "OK"), ("T3", "E22"), ("qfThreadInfo", "m1,2"), ("vCont;x", "E22"),
                             ("vCont;s:9", "E22"), ("M0,4:12", "E22"), ("X0,4:12", "E22"), ("G00", "E22"),
                             ("qXfer:features:read:target.xml:fffffff,10", "l"), ("qXfer:features:read:x:0,1", "E00"),
                             ("qRcmd,zz", "E22"), ("qThreadExtraInfo,0", "E22"), ("unknown", ""), ("?", "T02thread:2;")):
            packet(text)
            got = reply()
            expect(re.fullmatch(wanted, got), f"{text}: {got}, not {wanted}")
        client.sendall(b"$" + b"m" * 100000 + b"#00")
        client.sendall(b"$bad#zz$m0,4#00" + bytes(range(256)))
        packet("m0,4")
        got = reply()
        expect(re.fullmatch("[0-9a-f]{8}", got), got)
        client.close()
        time.sleep(0.1)
        vm.qmp.command("cont")
        expect(vm.qmp.command("query-status")["running"], "it does not go on")


def linux():
    if not (guest / "vmlinuz").exists():
        raise Tap.Skip(f"no guest in {guest}: run make guest")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    vm = Machine(binary, ["-M", "q35", "-m", "256", "-smp", "2", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio",
                          "-kernel", guest / "vmlinuz", "-initrd", guest / "initrd.gz", "-append", "console=ttyS0 quiet",
                          "-gdb", f"tcp:127.0.0.1:{port}", "-qmp", f"unix:{directory / 'qmp3'},server=on,wait=off"],
                 directory)
    vm.qmp_path = directory / "qmp3"
    with vm:
        vm.wait_text("a busybox shell", 120)
        vm.type("grep -w -e __x64_sys_newuname -e linux_banner /proc/kallsyms; echo sym''bols\n")
        text = vm.wait_text(r"(?s)(ffffffff.*)symbols", 30).group(1)
        symbols = {name: int(address, 16) for address, name in re.findall(r"([0-9a-f]{16}) \w (\w+)", text)}
        gdb = Gdb()
        try:
            gdb.run(f"target remote 127.0.0.1:{port}")
            said = gdb.run("info threads")
            expect("CPU#0" in said and "CPU#1" in said, said)
            banner = gdb.run(f"x/s {symbols['linux_banner']:#x}")
            expect("Linux version" in banner, banner)
            gdb.run(f"break *{symbols['__x64_sys_newuname']:#x}")
            gdb.send("continue")
            time.sleep(0.3)
            for cpu in (0, 1):
                vm.type(f"taskset -c {cpu} uname -m\n")
                said = gdb.answer()
                expect("Breakpoint 1" in said, said)
                expect(gdb.value("$pc") == symbols["__x64_sys_newuname"] and gdb.value("$cs") & 3 == 0, "pc")
                expect(f"* {cpu + 1} " in gdb.run("info threads"), f"not on CPU {cpu}: " + gdb.run("info threads"))
                expect(gdb.value("$gs_base") >> 63 == 1 and gdb.value("$k_gs_base") >> 63 == 0, "bases of GS")
                for _ in range(50):
                    gdb.run("stepi")
                expect(gdb.value("$pc") >> 40 == 0xffffff, "stepping leaves the kernel")
                gdb.send("continue")
            time.sleep(0.5)
            gdb.interrupt()
            expect("SIGINT" in gdb.answer(), "Ctrl-C")
            gdb.run("delete")
            gdb.run("detach")
        finally:
            gdb.close()
        vm.type("uname -m; echo back''again\n")
        vm.wait_text(r"x86_64\r?\nbackagain", 30)
        expect(not re.search("BUG|Oops|lockup", vm.text()), vm.tail())


tap = Tap()
missing = [tool for tool in ("gdb", "gcc", "objcopy") if not shutil.which(tool)]


def tested(function):
    if missing:
        raise Tap.Skip(f"{', '.join(missing)} missing: run tools/install-deps.sh --test")
    function()


tap.test("a program without an operating system", tested, bare_machine)
tap.test("a client that sends anything", tested, hostile_client)
tap.test("Linux with two CPUs", tested, linux)
shutil.rmtree(directory, ignore_errors=True)
tap.finish()
