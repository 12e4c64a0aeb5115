#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make soak-disks`: a whole Debian 12 on disks that the test makes starts through SeaBIOS and OVMF from each kind of disk, to
systemd's login on the serial line and on the screen (looked at and typed to by VNC); restarts; and powers off when the
button is pressed. --fast: one of each firmware."""
import argparse
import pathlib
import re
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from debian_disk import PASSWORD  # noqa: E402
from debian_guest import OVMF, TROUBLE, Debian, add_arguments, prepare  # noqa: E402
from harness import Tap, expect, run  # noqa: E402

CASES = [("pc", "SeaBIOS", bus) for bus in ("ide", "ahci", "virtio-blk", "virtio-scsi")]
CASES += [("q35", "OVMF", bus) for bus in ("sata", "virtio-blk", "virtio-scsi")]
CASES += [("pc", "OVMF", "ide"), ("q35", "SeaBIOS", "sata"), ("q35", "SeaBIOS", "virtio-scsi")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--fast", action="store_true", help="no more than one disk of each firmware")
    args = parser.parse_args()
    missing = prepare(args)
    tap = Tap()

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
                driver = debian.command(f"p=$(readlink -f /sys/block/{disk}/device); while [ \"$p\" != / ]; do "
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

    for machine, firmware, bus in CASES:
        name = f"Debian starts on {machine} through {firmware} from {bus}"
        if (not args.only or re.search(args.only, name)) and (not args.fast or bus == "virtio-blk"):
            tap.test(name, starts, machine, firmware, bus)
    tap.finish()


if __name__ == "__main__":
    main()
