#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make soak-systems`: what else people start on a PC, from Debian's packages: memtest86+ runs its first pass, from a CD-ROM
through SeaBIOS and OVMF; Debian's installer comes by network (PXE) through both to its first dialogue. All is seen, and typed
to, through VNC; --pictures keeps what was seen at the end."""
import argparse
import pathlib
import re
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from debian_disk import unpack_package  # noqa: E402
from debian_guest import OVMF  # noqa: E402
from harness import ROOT, Machine, Tap, expect  # noqa: E402
from screen_text import VGA_BIOS, add_font, font_in, kernel_font, text_of  # noqa: E402
from vnc_client import Vnc  # noqa: E402

MEMTEST, INSTALLER = "memtest86+", "debian-installer-12-netboot-amd64"
NETBOOT = "usr/lib/debian-installer/images/12/amd64/text"
TAB = 0xff09


class Seen:
    """A machine with nothing but a screen, looked at through VNC."""

    def __init__(self, args, machine, directory, memory_mb, extra):
        self.directory, self.args = directory, args
        flash = []
        if machine == "q35":
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", directory / "vars.fd")
            flash = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
                     "-drive", f"if=pflash,unit=1,format=raw,file={directory}/vars.fd"]
        self.vm = Machine(args.build / "rhea-system-x86_64",
                          ["-M", machine, "-accel", args.accel, "-m", str(memory_mb), "-nodefaults", "-vga", "std", "-display",
                           "none", "-vnc", f"unix:{directory}/vnc", "-qmp", f"unix:{directory}/qmp,server=on,wait=off", *flash,
                           *extra], directory)
        self.vm.qmp  # the VNC server is there when QMP answers

    def look(self):
        """(width, height, text): the text starts in the middle of a line where 25 lines stand in the middle of the screen."""
        with Vnc(self.directory / "vnc", timeout=120) as vnc:
            rgb = vnc.picture(120)
            texts = [text_of(vnc.width, vnc.height, rgb, first) for first in {0, (vnc.height - 400) // 2 % 16}]
            return vnc.width, vnc.height, min(texts, key=lambda text: text.count("?"))

    def wait(self, pattern, timeout, wrong=None):
        deadline = time.monotonic() + timeout
        while True:
            text = self.look()[2]
            found = re.search(pattern, text)
            if found:
                return text
            expect(not wrong or not re.search(wrong, text), f"the screen shows\n{text}")
            expect(self.vm.process.poll() is None, f"exited with {self.vm.process.returncode}: {self.vm.tail()}")
            expect(time.monotonic() < deadline, f"the screen never showed {pattern!r}; it shows\n{text}")
            time.sleep(1)

    def press(self, *keys):
        with Vnc(self.directory / "vnc", timeout=120) as vnc:
            for key in keys:
                if isinstance(key, str):
                    vnc.type(key)
                else:
                    vnc.key(key, 1)
                    vnc.key(key, 0)
                time.sleep(0.1)
            vnc.picture(120)  # comes when all keys were taken

    def keep(self, name):
        if self.args.pictures:
            self.args.pictures.mkdir(parents=True, exist_ok=True)
            self.vm.qmp.command("screendump", filename=str((self.args.pictures / f"{name}.png").resolve()), format="png")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.vm.close()


def memtest(args, packages, machine, memory_mb, directory):
    tree = unpack_package(MEMTEST, packages)
    add_font(font_in((tree / "boot/memtest86+x64.efi").read_bytes(), "memtest86+"))
    cd = tree / "usr/lib/memtest86+/memtest86+x64.iso"
    with Seen(args, machine, directory, memory_mb, ["-drive", f"file={cd},format=raw,if=ide,media=cdrom,readonly=on"]) as seen:
        seen.wait(r"Test #\d+", args.timeout)
        start = time.monotonic()
        text = seen.wait(r"Pass: +1 +Errors:", 4 * args.timeout, r"Errors: *[1-9]|(?i:unexpected interrupt)")
        expect(re.search(r"Pass: +1 +Errors: 0", text), text)
        seen.keep(f"memtest-{machine}")
    print(f"# memtest86+ on {machine} with {memory_mb} MB: its first pass took {time.monotonic() - start:.0f} s")


def installer(args, packages, machine, directory):
    """The language is asked for first. Linux's text console is asked for, since its letters can be read here."""
    tree = unpack_package(INSTALLER, packages) / NETBOOT
    served = directory / "tftp"
    served.mkdir()
    shutil.copytree(tree / "debian-installer", served / "debian-installer", symlinks=True)
    for name in ("pxelinux.0", "pxelinux.cfg", "ldlinux.c32"):
        (served / name).symlink_to((tree / name).readlink())
    add_font(kernel_font((tree / "debian-installer/amd64/linux").read_bytes()))
    program = "pxelinux.0" if machine == "pc" else "debian-installer/amd64/bootnetx64.efi"
    if machine == "q35":  # the same words that are typed into PXELINUX's menu below
        menu = served / "debian-installer/amd64/grub/grub.cfg"
        text = menu.read_text()
        menu.write_text(re.sub(r"(linux +\S+/linux .*?)vga=788", r"\1fb=false", text) + "\nset timeout=2\n")
    net = ["-netdev", f"user,id=net,tftp={served},bootfile={program}", "-device", "virtio-net-pci,netdev=net,bootindex=1"]
    with Seen(args, machine, directory, 1024, net) as seen:
        start = time.monotonic()
        if machine == "pc":
            deadline = start + args.timeout
            while seen.look()[:2] != (640, 480):  # the menu is a picture
                expect(time.monotonic() < deadline, f"no menu; the screen shows\n{seen.look()[2]}")
                time.sleep(1)
            seen.keep("installer-menu")
            seen.press("i", TAB, *" fb=false\n")  # the BIOS keeps 15 keys
        seen.wait(r"(?s)Select a language.*English", 3 * args.timeout, r"Kernel panic")
        seen.keep(f"installer-{machine}")
        took = time.monotonic() - start
        seen.press("\n")
        seen.wait(r"Select your location", args.timeout)
    print(f"# Debian's installer on {machine}, by network: first dialogue after {took:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--packages", type=pathlib.Path, help="where packages are kept (default: BUILD/packages)")
    parser.add_argument("--accel", default="tcg", help="as -accel takes it")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder for what was seen")
    parser.add_argument("--only", help="a regular expression: which tests")
    args = parser.parse_args()
    args.build = args.build.resolve()
    packages = (args.packages or args.build / "packages").resolve()
    packages.mkdir(parents=True, exist_ok=True)
    tap = Tap()

    def test(name, firmware, function, *arguments):
        def body():
            if not VGA_BIOS.exists() or firmware == "OVMF" and not (OVMF / "OVMF_CODE_4M.fd").exists():
                raise Tap.Skip("not installed: seabios ovmf ipxe-qemu (tools/install-deps.sh --disks)")
            with tempfile.TemporaryDirectory(prefix="rhea-systems-") as directory:
                function(args, packages, *arguments, pathlib.Path(directory))
        if not args.only or re.search(args.only, name):
            tap.test(name, body)

    test("memtest86+ runs its first pass on pc", "SeaBIOS", memtest, "pc", 16)
    test("memtest86+ runs its first pass on q35", "OVMF", memtest, "q35", 128)
    test("Debian's installer starts by network on pc", "SeaBIOS", installer, "pc")
    test("Debian's installer starts by network on q35", "OVMF", installer, "q35")
    tap.finish()


if __name__ == "__main__":
    main()
