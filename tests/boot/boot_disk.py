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
        with open(tree / "initrd.gz", "wb") as ramdisk:
            for part in ["initrd.gz", "ide.gz"]:
                ramdisk.write((guest / part).read_bytes())
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


def missing_efi_tools():
    """The same for make_efi_disk and OVMF."""
    wanted = {"grub-mkimage": "grub-common", "mformat": "mtools"}
    packages = [package for tool, package in wanted.items() if not shutil.which(tool)]
    if not pathlib.Path("/usr/lib/grub/x86_64-efi/linux.mod").exists():
        packages.append("grub-efi-amd64-bin")
    if not pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists():
        packages.append("ovmf")
    return f"not installed: {' '.join(packages)}" if packages else None


def make_efi_disk(path, guest, line, size_mb=96):
    """A disk image whose EFI system partition has GRUB where firmware looks for it, the kernel and its ramdisk; a
    second partition of raw space follows."""
    sectors = size_mb * 2048
    first_size = sectors // 2 - FIRST
    with tempfile.TemporaryDirectory(prefix="rhea-efi-") as name:
        directory = pathlib.Path(name)
        early = directory / "early.cfg"
        early.write_text("search --file --set=root /rhea-efi\nset prefix=($root)/grub\nconfigfile ($root)/grub/grub.cfg\n")
        subprocess.run(["grub-mkimage", "-O", "x86_64-efi", "-p", "/grub", "-c", str(early), "-o",
                        str(directory / "bootx64.efi"), "part_msdos", "fat", "linux", "serial", "terminal", "normal",
                        "echo", "configfile", "search"], check=True)
        (directory / "grub.cfg").write_text(CONFIG.format(line=line))
        (directory / "rhea-efi").write_text("")
        with open(directory / "initrd.gz", "wb") as ramdisk:
            for part in ["initrd.gz", "ide.gz"]:
                ramdisk.write((guest / part).read_bytes())
        partition = directory / "partition"
        with open(partition, "wb") as image:
            image.truncate(first_size * SECTOR)

        def mtool(*command):
            subprocess.run([command[0], "-i", str(partition), *command[1:]], check=True, capture_output=True)
        mtool("mformat", "-F", "-v", "RHEA", "::")
        for folder in ["::/EFI", "::/EFI/BOOT", "::/grub"]:
            mtool("mmd", folder)
        for source, target in [("bootx64.efi", "::/EFI/BOOT/BOOTX64.EFI"), ("grub.cfg", "::/grub/grub.cfg"),
                               ("rhea-efi", "::/rhea-efi"), ("initrd.gz", "::/initrd.gz")]:
            mtool("mcopy", str(directory / source), target)
        mtool("mcopy", str(guest / "vmlinuz"), "::/vmlinuz")
        boot = bytearray(SECTOR)
        boot[440:444] = struct.pack("<I", 0x52686562)
        for index, (kind, start, count) in enumerate([(0xEF, FIRST, first_size),
                                                      (0x83, sectors // 2, sectors - sectors // 2)]):
            entry = struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, count)
            boot[446 + 16 * index:462 + 16 * index] = entry
        boot[510:512] = b"\x55\xaa"
        with open(path, "wb") as image:
            image.truncate(sectors * SECTOR)
            image.write(boot)
            image.seek(FIRST * SECTOR)
            with open(partition, "rb") as source:
                shutil.copyfileobj(source, image)
    return path


def make_cd(path):
    """A CD-ROM image with an El Torito boot record (ISO 9660; El Torito 1.0) that starts GRUB, which says so."""
    with tempfile.TemporaryDirectory(prefix="rhea-cd-") as name:
        directory = pathlib.Path(name)
        early = directory / "early.cfg"
        early.write_text("serial --unit=0 --speed=115200\nterminal_output serial\n"
                         'echo "grub: started from the CD-ROM"\nsleep 60\n')
        image = directory / "core.img"
        subprocess.run(["grub-mkimage", "-O", "i386-pc-eltorito", "-p", "/boot/grub", "-c", str(early), "-o", str(image),
                        "biosdisk", "iso9660", "serial", "terminal", "echo", "sleep"], check=True)
        core = bytearray(image.read_bytes())
    block, catalogue, start = 2048, 19, 20
    sectors = start + (len(core) + block - 1) // block + 150
    # The boot information table, which GRUB's first stage reads: descriptor, image, length, checksum.
    padded = bytes(core) + bytes(-len(core) % 4)
    total = sum(struct.unpack(f"<{len(padded) // 4 - 16}I", padded[64:])) & 0xFFFFFFFF
    core[8:24] = struct.pack("<4I", 16, start, len(core), total)
    both = lambda value: struct.pack("<I", value) + struct.pack(">I", value)  # noqa: E731
    both16 = lambda value: struct.pack("<H", value) + struct.pack(">H", value)  # noqa: E731
    root = (bytes([34, 0]) + both(18) + both(block) + bytes(7) + bytes([2, 0, 0]) + both16(1) + bytes([1, 0]))
    primary = bytearray(block)
    primary[0:7] = b"\x01CD001\x01"
    primary[8:72] = b" " * 32 + b"RHEA".ljust(32)
    primary[80:88] = both(sectors)
    primary[120:132] = both16(1) + both16(1) + both16(block)
    primary[156:156 + len(root)] = root
    primary[881] = 1
    record = bytearray(block)
    record[0:7] = b"\x00CD001\x01"
    record[7:39] = b"EL TORITO SPECIFICATION".ljust(32, b"\0")
    record[71:75] = struct.pack("<I", catalogue)
    entries = bytearray(block)
    entries[0:4] = bytes([1, 0, 0, 0])
    entries[30:32] = b"\x55\xaa"
    check = -sum(struct.unpack("<16H", entries[0:32])) & 0xFFFF
    entries[28:30] = struct.pack("<H", check)
    entries[32:44] = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, start)
    with open(path, "wb") as cd:
        cd.write(bytes(16 * block) + primary + record)
        cd.write(b"\xffCD001\x01".ljust(block, b"\0"))
        cd.write(entries)
        cd.write(core)
        cd.truncate(sectors * block)
    return path


if __name__ == "__main__":
    import sys
    make_disk(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), " ".join(sys.argv[3:]))
