# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a disk that a PC's BIOS starts: GRUB in the master boot record, a kernel and an initial ramdisk in an ext2
partition, with free space behind it for the guest's own checks. No root rights, no loop devices."""
import pathlib
import shutil
import struct
import subprocess
import tempfile

SECTOR = 512
GRUB = pathlib.Path("/usr/lib/grub/i386-pc")
FIRST = 2048  # where the partition begins; GRUB's core lies in front of it
MODULES = "biosdisk part_msdos ext2 linux serial terminal normal echo configfile".split()
CONFIG = """serial --unit=0 --speed=115200
terminal_output serial console
set timeout=0
echo "grub: started"
linux /vmlinuz {line}
initrd /initrd.gz
echo "grub: boots Linux"
boot
"""


def missing_tools():
    """What has to be installed, as text; None: nothing."""
    wanted = {"grub-mkimage": "grub-common", "mke2fs": "e2fsprogs"}
    packages = [package for tool, package in wanted.items() if not shutil.which(tool)]
    if not (GRUB / "boot.img").exists():
        packages.append("grub-pc-bin")
    if not pathlib.Path("/usr/share/seabios/bios-256k.bin").exists():
        packages.append("seabios")
    return f"not installed: {' '.join(packages)}" if packages else None


def grub_core(directory, prefix):
    early = directory / "early.cfg"
    early.write_text("serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n"
                     f"set root=hd0,msdos1\nset prefix={prefix}\nconfigfile {prefix}/grub.cfg\n")
    core = directory / "core.img"
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-p", prefix, "-c", str(early), "-o", str(core), *MODULES],
                   check=True)
    return core.read_bytes()


def make_disk(path, guest, line, size_mb=96):
    """A disk image at path that boots guest/vmlinuz with guest/initrd.gz and the given command line. The first
    partition ends in the middle; a second one of raw space follows."""
    sectors = size_mb * 2048
    first_size = sectors // 2 - FIRST
    with tempfile.TemporaryDirectory(prefix="rhea-disk-") as name:
        directory = pathlib.Path(name)
        core = grub_core(directory, "(hd0,msdos1)/boot/grub")
        if len(core) > (FIRST - 1) * SECTOR:
            raise ValueError("GRUB's core does not fit in front of the partition")
        tree = directory / "tree"
        (tree / "boot/grub").mkdir(parents=True)
        (tree / "boot/grub/grub.cfg").write_text(CONFIG.format(line=line))
        shutil.copy(guest / "vmlinuz", tree / "vmlinuz")
        shutil.copy(guest / "initrd.gz", tree / "initrd.gz")
        partition = directory / "partition"
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", "-d", str(tree), str(partition), f"{first_size // 2}k"],
                       check=True, capture_output=True)
        boot = bytearray((GRUB / "boot.img").read_bytes()[:SECTOR])
        boot[446:510] = bytes(64)  # there it has code for floppies
        boot[440:444] = struct.pack("<I", 0x52686561)
        for index, (start, count) in enumerate([(FIRST, first_size), (sectors // 2, sectors - sectors // 2)]):
            entry = struct.pack("<B3sB3sII", 0x80 if index == 0 else 0, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", start,
                                count)
            boot[446 + 16 * index:462 + 16 * index] = entry
        boot[510:512] = b"\x55\xaa"
        with open(path, "wb") as image:
            image.truncate(sectors * SECTOR)
            image.write(boot)
            image.write(core)
            image.seek(FIRST * SECTOR)
            with open(partition, "rb") as source:
                shutil.copyfileobj(source, image)
    return path


if __name__ == "__main__":
    import sys
    make_disk(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), " ".join(sys.argv[3:]))
