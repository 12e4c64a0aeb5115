#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts PCs through SeaBIOS and OVMF: from a disk that the test makes (GRUB, Debian's kernel), as an IDE, SATA and virtio
disk, whose guest then checks itself; from a CD-ROM; and what firmware is told and prints."""
import argparse
import hashlib
import os
import pathlib
import random
import re
import sys
import tempfile
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from boot_disk import make_cd, make_disk, make_efi_disk, missing_efi_tools, missing_tools  # noqa: E402
from harness import ROOT, Machine, Tap, expect, run  # noqa: E402

QUIET = ["-M", "pc", "-nodefaults", "-no-reboot", "-display", "none"]
OVMF = pathlib.Path("/usr/share/OVMF")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--generic", type=pathlib.Path, help="a guest with SATA's drivers")
    parser.add_argument("--accel", default="tcg", help="as -accel takes it")
    parser.add_argument("--timeout", type=int, default=240)
    parser.add_argument("--only", help="a regular expression: which tests")
    args = parser.parse_args()
    guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    generic = pathlib.Path(args.generic or args.build / "guest-generic").resolve()
    binary = args.build / "rhea-system-x86_64"
    tap = Tap()

    def test(name, function, *arguments):
        if not args.only or re.search(args.only, name):
            tap.test(name, function, *arguments)

    missing = missing_tools()
    if not (guest / "ide.gz").exists():
        missing = f"no guest in {guest}: run make guest"
    if missing:
        def skipped():
            raise Tap.Skip(missing)
        tap.test("firmware", skipped)
        tap.finish()

    with tempfile.TemporaryDirectory(prefix="rhea-firmware-") as name:
        directory = pathlib.Path(name)

        def boot(label, line, drive, extra=(), expected=2, machine="pc", make=make_disk, kernel=guest, size_mb=96):
            """Boots a fresh disk; the guest's checks must pass, and the machine must power off."""
            disk = make(directory / "disk.img", kernel, f"console=ttyS0 quiet rhea.cpus=2 {line}", size_mb)
            start = time.monotonic()
            debug = directory / "debug"
            arguments = ["-M", machine, *QUIET[2:], "-accel", args.accel, "-m", "512", "-smp", "2", "-serial", "stdio",
                         "-chardev", f"file,id=debug,path={debug}",
                         "-device", "isa-debugcon,iobase=0x402,chardev=debug",
                         *[argument.format(disk=disk) for argument in drive], *extra]
            with Machine(binary, arguments, directory) as vm:
                vm.wait_text("grub: boots Linux", args.timeout)
                grub = time.monotonic()
                vm.wait_text(r"init: Linux \S+ is up", args.timeout)
                up = time.monotonic()
                result = vm.wait_text(r"guest: (\d+) passed, (\d+) failed", args.timeout)
                expect(result.group(2) == "0" and int(result.group(1)) == expected, vm.tail(40))
                expect(vm.wait(60) == 0, f"exit status {vm.process.returncode}")
            print(f"# {label}: GRUB after {grub - start:.2f} s, init after {up - start:.2f} s, "
                  f"off after {time.monotonic() - start:.2f} s")
            return debug.read_text(errors="replace")

        def boots_from_ide():
            content = random.Random(5).randbytes(3 << 20)
            cd = directory / "cd.img"
            cd.write_bytes(content)
            checksum = hashlib.sha256(content).hexdigest()
            log = boot("IDE", f"rhea.test=cpus,clock,disk,fs,cd rhea.disk=sd rhea.cd={checksum}",
                       ["-hda", "{disk}"], ["-cdrom", cd], expected=5)
            expect("ata0-0: QEMU HARDDISK ATA-7 Hard-Disk" in log, "SeaBIOS did not see the disk:\n" + log)
            expect(re.search(r"DVD/CD \[ata1-0: QEMU DVD-ROM", log), "SeaBIOS did not see the CD-ROM:\n" + log)

        def boots_from_virtio():
            log = boot("virtio-blk", "rhea.test=cpus,disk,fs", ["-drive", "file={disk},format=raw,if=virtio"],
                       expected=3)
            expect("found virtio-blk at 00:02.0" in log, log)
            expect(re.search(r"table\(50434146\)=0x\w+ \(via xsdt\)", log), "no ACPI tables:\n" + log)
            expect("Found 2 cpu(s) max supported 2 cpu(s)" in log, log)

        def boots_from_scsi():
            content = random.Random(9).randbytes(3 << 20)
            cd = directory / "cd.img"
            cd.write_bytes(content)
            log = boot("virtio-scsi", f"rhea.test=cpus,disk,fs,cd rhea.disk=sd rhea.cd={hashlib.sha256(content).hexdigest()}",
                       ["-drive", "file={disk},format=raw,if=none,id=d"],
                       ["-device", "virtio-scsi-pci,id=scsi0", "-device", "scsi-hd,drive=d,bootindex=1",
                        "-drive", f"file={cd},format=raw,if=none,id=c,readonly=on", "-device", "scsi-cd,drive=c"],
                       expected=4)
            expect("/pci@i0cf8/scsi@2/channel@0/disk@0,0" in log, log)
            expect("QEMU HARDDISK" in log and "QEMU CD-ROM" in log, "SeaBIOS did not see the units:\n" + log)

        def no_generic():
            if not (generic / "ide.gz").exists():
                raise Tap.Skip(f"no guest in {generic}: run tools/guest.sh -k generic")

        def boots_from_xhci():
            no_generic()
            log = boot("usb-storage, qemu-xhci", "rhea.test=cpus,disk,fs rhea.disk=sd rhea.blocks=16",
                       ["-drive", "file={disk},format=raw,if=none,id=d"],
                       ["-device", "qemu-xhci", "-device", "usb-storage,drive=d,bootindex=1,serial=stick"], expected=3,
                       kernel=generic, size_mb=128)
            expect(re.search(r"/pci@i0cf8/usb@\S+/storage@1/channel@0/disk@0,0", log), log)
            expect("USB MSC vendor='QEMU' product='QEMU HARDDISK'" in log, "SeaBIOS did not see the disk:\n" + log)

        def boots_from_uhci():
            """USB 1.1 moves a megabyte a second: SeaBIOS starts GRUB from there, which reads its configuration; the kernel that
            then reads and writes such a disk is started directly."""
            no_generic()
            disk = make_disk(directory / "disk.img", generic, "quiet", 128)
            usb = ["-usb", "-drive", f"file={disk},format=raw,if=none,id=d", "-device",
                   "usb-storage,drive=d,bootindex=1,serial=stick"]
            debug = directory / "debug"
            with Machine(binary, [*QUIET, "-accel", args.accel, "-m", "512", "-serial", "stdio", "-chardev",
                                  f"file,id=debug,path={debug}", "-device", "isa-debugcon,iobase=0x402,chardev=debug", *usb],
                         directory) as vm:
                vm.wait_text("grub: boots Linux", args.timeout)
            log = debug.read_text(errors="replace")
            expect(re.search(r"/pci@i0cf8/usb@\S+/storage@1/channel@0/disk@0,0", log), log)
            expect("USB MSC vendor='QEMU' product='QEMU HARDDISK'" in log, "SeaBIOS did not see the disk:\n" + log)
            initrd = directory / "initrd"
            initrd.write_bytes((generic / "initrd.gz").read_bytes() + (generic / "ide.gz").read_bytes())
            with Machine(binary, [*QUIET, "-accel", args.accel, "-m", "512", "-smp", "2", "-serial", "stdio", "-kernel",
                                  generic / "vmlinuz", "-initrd", initrd, "-append",
                                  "console=ttyS0 quiet rhea.cpus=2 rhea.test=cpus,disk rhea.disk=sd rhea.blocks=8", *usb],
                         directory) as vm:
                result = vm.wait_text(r"guest: (\d+) passed, (\d+) failed", args.timeout)
                expect(result.group(1, 2) == ("2", "0"), vm.tail(40))

        def boots_q35_from_virtio():
            log = boot("q35, virtio-blk behind a root port", "rhea.test=cpus,clock,disk,fs",
                       ["-drive", "file={disk},format=raw,if=none,id=d"],
                       ["-device", "pcie-root-port,id=port,slot=1", "-device", "virtio-blk-pci,drive=d,bus=port"],
                       expected=4, machine="q35")
            expect("PCIe: using q35 mmconfig at 0xb0000000" in log, log)
            expect("found virtio-blk at 01:00.0" in log, log)

        def boots_q35_from_sata():
            if not (generic / "ide.gz").exists():
                raise Tap.Skip(f"no guest in {generic}: run tools/guest.sh -k generic")
            content = random.Random(7).randbytes(3 << 20)
            cd = directory / "cd.img"
            cd.write_bytes(content)
            checksum = hashlib.sha256(content).hexdigest()
            log = boot("q35, AHCI", f"rhea.test=cpus,disk,fs,cd rhea.disk=sd rhea.cd={checksum}",
                       ["-hda", "{disk}"], ["-cdrom", cd], expected=4, machine="q35", kernel=generic, size_mb=128)
            expect("AHCI/0: QEMU HARDDISK ATA-8 Hard-Disk" in log, "SeaBIOS did not see the disk:\n" + log)
            expect("AHCI/2: QEMU DVD-ROM" in log, "SeaBIOS did not see the CD-ROM:\n" + log)

        def flash(variables):
            return ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
                    "-drive", f"if=pflash,unit=1,format=raw,file={variables}"]

        def boots_through_ovmf(machine):
            """Firmware finds GRUB on the EFI partition; what it writes to its variables is there at the next start."""
            variables = directory / "vars.fd"
            blank = (OVMF / "OVMF_VARS_4M.fd").read_bytes()
            variables.write_bytes(blank)
            drive = ["-drive", "file={disk},format=raw,if=virtio"]
            boot(f"{machine}, OVMF", "rhea.test=cpus,disk", drive, flash(variables), expected=2,
                 machine=machine, make=make_efi_disk)
            first = variables.read_bytes()
            expect(first != blank and len(first) == len(blank), "OVMF kept no variables")
            expect("Boot0000".encode("utf-16-le") in first, "no boot option among the variables")
            boot(f"{machine}, OVMF again", "rhea.test=cpus", drive, flash(variables), expected=1, machine=machine,
                 make=make_efi_disk)
            expect("Boot0000".encode("utf-16-le") in variables.read_bytes(), "the variables are gone")

        def wrong_flash():
            status, _, err = run([binary, *QUIET, *flash(OVMF / "OVMF_VARS_4M.fd")[2:]])
            expect(status == 1 and "unit 0" in err, err)
            (directory / "odd.fd").write_bytes(bytes(5000))
            status, _, err = run([binary, *QUIET, "-drive", f"if=pflash,format=raw,file={directory}/odd.fd"])
            expect(status == 1 and "5120 bytes" in err and "whole sectors" in err, err)
            status, _, err = run([binary, *QUIET, "-machine", "pflash0=none"])
            expect(status == 1 and "'none'" in err, err)
            status, _, err = run([binary, "-M", "microvm", *QUIET[2:], "-drive",
                                  f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd"])
            expect(status == 1 and ("no flash" in err or "needs a kernel" in err), err)

        def serial_of(arguments, pattern, timeout=60):
            """The debug port's output, once it matches."""
            with Machine(binary, [*QUIET, "-accel", args.accel, "-m", "64", "-chardev", "stdio,id=debug",
                                  "-device", "isa-debugcon,iobase=0x402,chardev=debug", *arguments],
                         directory) as vm:
                vm.wait_text(pattern, timeout)
                return vm.text()

        def boots_from_cd():
            cd = make_cd(directory / "boot.iso")
            with Machine(binary, [*QUIET, "-accel", args.accel, "-m", "64", "-serial", "stdio", "-cdrom", cd, "-boot", "d"],
                         directory) as vm:
                vm.wait_text("grub: started from the CD-ROM", 60)

        def boot_order():
            for name in ["a", "b"]:
                (directory / name).write_bytes(bytes(1 << 20))
            log = serial_of(["-drive", f"file={directory}/a,format=raw,if=none,id=a", "-device",
                             "ide-hd,drive=a,bus=ide.1,unit=1,bootindex=2",
                             "-drive", f"file={directory}/b,format=raw,if=none,id=b", "-device",
                             "virtio-blk-pci,drive=b,addr=7,bootindex=1", "-boot", "strict=on,reboot-timeout=100"],
                            "No bootable device")
            order = re.search(r"boot order:\n((?:\d+: .*\n)+)", log.replace("\r", ""))
            expect(order, "SeaBIOS was given no boot order:\n" + log)
            lines = [line.split(": ")[1] for line in order.group(1).splitlines()]
            expect(lines == ["/pci@i0cf8/scsi@7/disk@0,0", "/pci@i0cf8/ide@1,1/drive@1/disk@1", "HALT"], f"{lines}")
            first, second = log.find("drive 0x"), log.find("Booting from")
            expect(0 < first < second, log)

        def boot_once():
            """The CD-ROM comes first at the first start only."""
            cd = make_cd(directory / "boot.iso")
            disk = directory / "blank"
            disk.write_bytes(bytes(1 << 20))
            with Machine(binary, ["-M", "pc", "-nodefaults", "-display", "none", "-accel", args.accel, "-m", "64",
                                  "-chardev", "stdio,id=debug", "-device", "isa-debugcon,iobase=0x402,chardev=debug",
                                  "-qmp", f"unix:{directory}/qmp,server=on,wait=off",
                                  "-hda", disk, "-cdrom", cd, "-boot", "once=d,order=c"], directory) as vm:
                vm.wait_text("Booting from DVD/CD", 60)
                expect("Booting from Hard Disk" not in vm.text(), vm.text())
                vm.qmp.command("system_reset")
                vm.wait_text("Booting from Hard Disk", 60)

        def restarts():
            """With nothing to boot, firmware resets the machine, which must start again from its ROM."""
            with Machine(binary, ["-M", "pc", "-nodefaults", "-display", "none", "-accel", args.accel, "-m", "64",
                                  "-chardev", "stdio,id=debug", "-device", "isa-debugcon,iobase=0x402,chardev=debug",
                                  "-boot", "reboot-timeout=1"], directory) as vm:
                vm.wait_text(r"(?s)(SeaBIOS \(version.*){5}", 90)

        def screen():
            """The VGA BIOS sets a text mode, firmware writes there, and pictures of it are right."""
            with Machine(binary, ["-M", "pc", "-nodefaults", "-display", "none", "-accel", args.accel, "-m", "64",
                                  "-vga", "std", "-qmp", f"unix:{directory}/qmp,server=on,wait=off"], directory) as vm:
                deadline = time.monotonic() + 60
                while True:
                    text = vm.qmp.command("human-monitor-command", command_line="info screen")
                    if "No bootable device" in text or time.monotonic() > deadline:
                        break
                    time.sleep(0.1)
                expect("SeaBIOS (version" in text and "No bootable device" in text, text)
                ppm, png = directory / "screen.ppm", directory / "screen.png"
                vm.qmp.command("stop")
                vm.qmp.command("screendump", filename=str(ppm))
                vm.qmp.command("screendump", filename=str(png), format="png")
                reply = vm.qmp.execute("screendump", filename="/nonexistent/x.ppm")
                expect("error" in reply and "/nonexistent/x.ppm" in reply["error"]["desc"], str(reply))
            head, rest = ppm.read_bytes().split(b"\n255\n", 1)
            expect(head == b"P6\n720 400" and len(rest) == 720 * 400 * 3, str(head))
            pixels = {rest[i:i + 3] for i in range(0, len(rest), 3)}
            expect(pixels == {b"\0\0\0", b"\xaa\xaa\xaa"}, f"black and grey, not {len(pixels)} colours")
            data, at, parts = png.read_bytes(), 8, b""
            expect(data[:8] == b"\x89PNG\r\n\x1a\n", "no PNG")
            while at < len(data):
                size, kind = int.from_bytes(data[at:at + 4], "big"), data[at + 4:at + 8]
                body = data[at + 4:at + 8 + size]
                expect(zlib.crc32(body) == int.from_bytes(data[at + 8 + size:at + 12 + size], "big"), f"CRC of {kind}")
                parts += body[4:] if kind == b"IDAT" else b""
                at += 12 + size
            lines = zlib.decompress(parts)
            unfiltered = b"".join(lines[y * 2161 + 1:(y + 1) * 2161] for y in range(400))
            expect(unfiltered == rest, "the two pictures differ")

        def network_boot():
            with Machine(binary, ["-M", "pc", "-nodefaults", "-display", "none", "-accel", args.accel, "-m", "128",
                                  "-machine", "graphics=off", "-serial", "stdio", "-netdev", "user,id=n",
                                  "-device", "virtio-net-pci,netdev=n,bootindex=0"], directory) as vm:
                vm.wait_text(r"net0: [0-9a-f:]{17} using virtio-net on", 60)
                vm.wait_text(r"net0: 10\.0\.2\.15/255\.255\.255\.0", 90)

        def missing_firmware():
            status, _, err = run([binary, *QUIET, "-bios", "bios-none.bin"])
            expect(status == 1 and "firmware file 'bios-none.bin' was not found" in err and "'seabios'" in err, err)
            status, _, err = run([binary, *QUIET, "-bios", binary.parent / "no-such-file"])
            expect(status == 1 and "was not found" in err, err)
            (directory / "odd.bin").write_bytes(bytes(1000))
            status, _, err = run([binary, *QUIET, "-L", directory, "-bios", "odd.bin"])
            expect(status == 1 and "not whole 64 KiB" in err, err)
            status, _, err = run([binary, *QUIET, "-boot", "order=cx"])
            expect(status == 1 and "no boot device 'x'" in err, err)
            status, _, err = run([binary, *QUIET, "-append", "console=ttyS0"])
            expect(status == 1 and "only allowed with -kernel" in err, err)

        test("boots from an IDE disk, reads a CD-ROM", boots_from_ide)
        test("boots from a SCSI disk, reads a SCSI CD-ROM", boots_from_scsi)
        test("boots from a USB disk at an xHCI", boots_from_xhci)
        test("boots from a USB disk at a UHCI", boots_from_uhci)
        test("boots from a virtio disk", boots_from_virtio)
        test("q35 boots from a virtio disk behind a root port", boots_q35_from_virtio)
        test("q35 boots from a SATA disk, reads a CD-ROM", boots_q35_from_sata)
        efi = missing_efi_tools()
        if efi:
            def no_efi():
                raise Tap.Skip(efi)
            test("OVMF", no_efi)
        else:
            test("q35 boots through OVMF from flash, which keeps variables", boots_through_ovmf, "q35")
            test("pc boots through OVMF from flash", boots_through_ovmf, "pc")
            test("wrong flash", wrong_flash)
        test("boots from a CD-ROM", boots_from_cd)
        test("bootindex and -boot strict reach firmware", boot_order)
        test("-boot once", boot_once)
        test("restarts through firmware", restarts)
        test("shows itself on the screen", screen)
        if pathlib.Path("/usr/lib/ipxe/qemu/efi-virtio.rom").exists():
            test("starts the network card's ROM, which gets an address", network_boot)
        test("clear errors", missing_firmware)
    tap.finish()


if __name__ == "__main__":
    main()
