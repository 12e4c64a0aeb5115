#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make soak-disks`: a whole Debian 12 on disks that the test makes starts through SeaBIOS and OVMF from each kind of disk, to
systemd's login on the serial line and on the screen (looked at and typed to by VNC); restarts; and powers off when the
button is pressed. --fast: one of each firmware."""
import argparse
import pathlib
import re
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from debian_disk import PASSWORD, make_disks, missing_tools  # noqa: E402
from harness import ROOT, Machine, Tap, expect, run  # noqa: E402
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
CASES = [("pc", "SeaBIOS", bus) for bus in ("ide", "ahci", "virtio-blk", "virtio-scsi")]
CASES += [("q35", "OVMF", bus) for bus in ("sata", "virtio-blk", "virtio-scsi")]
CASES += [("pc", "OVMF", "ide"), ("q35", "SeaBIOS", "sata"), ("q35", "SeaBIOS", "virtio-scsi")]
TROUBLE = r"(?i)\bBUG:|Call Trace|Kernel panic|lost interrupt|hung task|soft lockup|I/O error|link is slow|failed command"


class Debian:
    """A machine with one of the disks behind an overlay, and what a user does at its consoles."""

    def __init__(self, args, machine, firmware, bus, directory, extra=()):
        self.args, self.directory = args, directory
        self.overlay = directory / "disk.qcow2"
        if not self.overlay.exists():
            base = args.disks[0 if firmware == "SeaBIOS" else 1]
            status, _, err = run([args.build / "rhea-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw",
                                  self.overlay])
            expect(status == 0, err)
        flash = []
        if firmware == "OVMF":
            variables = directory / "vars.fd"
            if not variables.exists():
                shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
            flash = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
                     "-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
        drive, self.driver = BUSES[bus]
        self.vm = Machine(args.build / "rhea-system-x86_64",
                          ["-M", machine, "-accel", args.accel, "-m", "512", "-smp", args.smp, "-nodefaults", "-vga", "std",
                           "-display", "none", "-vnc", f"unix:{directory}/vnc", "-serial", "stdio",
                           "-qmp", f"unix:{directory}/qmp,server=on,wait=off", *flash,
                           *[word.format(disk=self.overlay) for word in drive], *extra], directory)
        self.step = 0
        self.start = time.monotonic()

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
            with Vnc(self.directory / "vnc") as vnc:
                rgb = vnc.picture()
                text = text_of(vnc.width, vnc.height, rgb)
            if re.search(pattern, text):
                return text
            time.sleep(0.3)
        expect(False, f"the screen never showed {pattern!r}; it shows\n{text}")

    def type_at_screen(self, text):
        with Vnc(self.directory / "vnc") as vnc:
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--disks", type=pathlib.Path, help="where the disks are kept (default: BUILD/debian)")
    parser.add_argument("--accel", default="tcg", help="as -accel takes it")
    parser.add_argument("--smp", default="2")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--fast", action="store_true", help="no more than one disk of each firmware")
    parser.add_argument("--only", help="a regular expression: which tests")
    args = parser.parse_args()
    args.build = args.build.resolve()
    directory = args.disks or args.build / "debian"
    tap = Tap()
    missing = missing_tools()

    def starts(machine, firmware, bus):
        if missing:
            raise Tap.Skip(missing)
        if firmware == "OVMF" and not (OVMF / "OVMF_CODE_4M.fd").exists():
            raise Tap.Skip("not installed: ovmf")
        with tempfile.TemporaryDirectory(prefix="rhea-debian-") as name:
            path = pathlib.Path(name)
            with Debian(args, machine, firmware, bus, path) as debian:
                first = debian.login()
                state = debian.command("systemctl is-system-running --wait || systemctl --failed --no-pager", 120)
                expect(state == "running", state)
                disk = debian.command("findmnt -no SOURCE / | xargs -n1 lsblk -nso NAME | tail -n1 | tr -cd 'a-z0-9'")
                driver = debian.command(f"readlink -f /sys/block/{disk}/device | tr / '\\n' | while read -r n; do :; done; "
                                        f"p=/sys/block/{disk}/device; p=$(readlink -f $p); while [ \"$p\" != / ]; do "
                                        "[ -e $p/driver ] && basename $(readlink $p/driver); p=$(dirname $p); done")
                expect(debian.driver in driver.split(), f"the disk is driven by {driver!r}, not {debian.driver}")
                errors = debian.command("dmesg --level=emerg,alert,crit,err || true")
                trouble = [line for line in debian.command("dmesg").splitlines() if re.search(TROUBLE, line)]
                expect(not trouble, "\n".join(trouble))
                debian.screen(r"(?m)^debian login:", 60)
                debian.command("dd if=/dev/urandom of=/root/kept bs=1M count=8 status=none && sync && "
                               "sha256sum /root/kept >/root/sum")
                debian.forget()
                debian.start = time.monotonic()
                debian.vm.type("reboot\n")
                debian.vm.wait_text("reboot: Restarting system", 120)
                debian.forget()
                debian.vm.wait_text("debian login: ", args.timeout)
                second = time.monotonic() - debian.start
                debian.screen(r"(?m)^debian login:", 60)
                debian.type_at_screen("root\n")
                debian.screen(r"(?m)^Password: *$", 60)
                debian.type_at_screen(f"{PASSWORD}\n")
                debian.screen(r"(?m)^root@debian:~#", 60)
                debian.forget()
                debian.type_at_screen("sha256sum -c sum | tee /dev/ttyS0\n")
                debian.vm.wait_text("/root/kept: OK", 60)
                debian.screen(r"(?m)^/root/kept: OK", 30)
                debian.power_button()
            status, out, err = run([args.build / "rhea-img", "check", "-f", "qcow2", debian.overlay])
            expect(status == 0, out + err)
        print(f"# {machine}, {firmware}, {bus}: login after {first:.1f} s, and {second:.1f} s after reboot")
        for line in errors.splitlines():
            print(f"# dmesg: {line}")

    if not missing:
        *args.disks, font = make_disks(directory)
        add_font(font.read_bytes())
    for machine, firmware, bus in CASES:
        name = f"Debian starts on {machine} through {firmware} from {bus}"
        if (not args.only or re.search(args.only, name)) and (not args.fast or bus == "virtio-blk"):
            tap.test(name, starts, machine, firmware, bus)
    tap.finish()


if __name__ == "__main__":
    main()
