# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with the disks of debian_disk.py, and what a user does at its consoles."""
import pathlib
import re
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from debian_disk import PASSWORD, make_disks, missing_tools  # noqa: E402
from harness import ROOT, Machine, expect, run  # noqa: E402
from screen_text import add_font, text_of  # noqa: E402
from vnc_client import Vnc  # noqa: E402

OVMF = pathlib.Path("/usr/share/OVMF")
# How a disk is connected, and the driver that Linux must have found it by.
BUSES = {
    "ide": (["-drive", "file={disk},format=qcow2,if=ide"], "ata_piix"),
    "ahci": (["-drive", "file={disk},format=qcow2,if=none,id=d", "-device", "ich9-ahci,id=sata", "-device",
              "ide-hd,drive=d,bus=sata.0,bootindex=1"], "ahci"),
    "sata": (["-drive", "file={disk},format=qcow2,if=ide"], "ahci"),
    "virtio-blk": (["-drive", "file={disk},format=qcow2,if=virtio"], "virtio_blk"),
    "virtio-scsi": (["-drive", "file={disk},format=qcow2,if=none,id=d", "-device", "virtio-scsi-pci,id=scsi", "-device",
                     "scsi-hd,drive=d,bus=scsi.0,bootindex=1"], "virtio_scsi"),
}
TROUBLE = r"(?i)\bBUG:|Call Trace|Kernel panic|lost interrupt|hung task|soft lockup|I/O error|link is slow|failed command"


def add_arguments(parser):
    """The options that every test with this guest takes."""
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--disks", type=pathlib.Path, help="where the disks are kept (default: BUILD/debian)")
    parser.add_argument("--accel", default="tcg", help="as -accel takes it")
    parser.add_argument("--smp", default="2")
    parser.add_argument("--timeout", type=int, default=300, help="seconds that a start may take")
    parser.add_argument("--only", help="a regular expression: which tests")


def prepare(args):
    """Makes the disks, with the name of each in args.disks; what is not installed, as text, or None."""
    args.build = args.build.resolve()
    missing = missing_tools()
    if not missing:
        *args.disks, font = make_disks(args.disks or args.build / "debian")
        add_font(font.read_bytes())
    return missing


class Debian:
    """A machine with one of the disks behind an overlay in the directory, and what a user does at its consoles."""

    def __init__(self, args, machine, firmware, bus, directory, extra=(), sockets=""):
        self.args, self.directory, self.sockets = args, directory, sockets
        drive, self.driver = BUSES[bus]
        arguments = ["-M", machine, "-accel", args.accel, "-m", "512", "-smp", args.smp, "-nodefaults", "-vga", "std",
                     "-display", "none", "-vnc", f"unix:{directory}/vnc{sockets}", "-serial", "stdio",
                     "-qmp", f"unix:{directory}/qmp{sockets},server=on,wait=off", *self.flash(firmware),
                     *[word.format(disk=self.disk(firmware)) for word in drive], *extra]
        self.vm = Machine(args.build / "rhea-system-x86_64", arguments, directory)
        self.vm.qmp_path = directory / f"qmp{sockets}"
        self.step = 0
        self.start = time.monotonic()

    def disk(self, firmware):
        self.overlay = self.directory / "disk.qcow2"
        if not self.overlay.exists():
            base = self.args.disks[0 if firmware == "SeaBIOS" else 1]
            status, _, err = run([self.args.build / "rhea-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw",
                                  self.overlay])
            expect(status == 0, err)
        return self.overlay

    def flash(self, firmware):
        if firmware != "OVMF":
            return []
        variables = self.directory / "vars.fd"
        if not variables.exists():
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
        return ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
                "-drive", f"if=pflash,unit=1,format=raw,file={variables}"]

    def forget(self):
        """What was said so far no longer matches."""
        with self.vm.condition:
            self.vm.output = b""

    def login(self):
        """Waits for the serial line's login, and logs in. The seconds until the prompt was there."""
        self.vm.wait_text("debian login: ", self.args.timeout)
        took = time.monotonic() - self.start
        self.vm.type("root\n")
        self.vm.wait_text("Password: ", 60)
        self.vm.type(f"{PASSWORD}\n")
        self.vm.wait_text(r"root@debian:~# ", 60)
        self.vm.type("stty -echo; export TERM=dumb; dmesg -n 4; bind 'set enable-bracketed-paste off'\n")
        self.command("true")
        return took

    def command(self, text, timeout=60):
        """What a command says at the serial console; it has to succeed."""
        self.step += 1
        mark = f"={self.step}="
        self.vm.type(f"echo ':{mark}'; {text}; echo \"$?{mark}\"\n")
        said = self.vm.wait_text(rf"(?s):{mark}\r?\n(.*?)(\d+){mark}", timeout)
        expect(said.group(2) == "0", f"{text}: status {said.group(2)}:\n{said.group(1)}")
        return said.group(1).replace("\r", "").strip()

    def screen(self, pattern, timeout):
        """Waits until the screen, as VNC shows it, has the text."""
        deadline = time.monotonic() + timeout
        text = ""
        while time.monotonic() < deadline:
            with Vnc(self.directory / f"vnc{self.sockets}") as vnc:
                rgb = vnc.picture()
                text = text_of(vnc.width, vnc.height, rgb)
            if re.search(pattern, text):
                return text
            time.sleep(0.3)
        expect(False, f"the screen never showed {pattern!r}; it shows\n{text}")

    def type_at_screen(self, text):
        with Vnc(self.directory / f"vnc{self.sockets}") as vnc:
            vnc.type(text)
            vnc.picture()  # comes when all keys were taken

    def power_button(self):
        self.forget()
        self.vm.qmp.command("system_powerdown")
        self.vm.wait_text(r"reboot: Power down", 120)
        expect(self.vm.wait(60) == 0, f"exit status {self.vm.process.returncode}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.vm.close()
