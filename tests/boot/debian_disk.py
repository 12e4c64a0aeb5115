# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes disks with a whole Debian 12 from Debian's packages, kept in build/debian for the next run: one that a PC's BIOS
starts (GRUB in the master boot record), one that EFI firmware starts (GPT, GRUB in the EFI system partition). No loop
devices and no mounts; who is not root needs fakeroot and user namespaces."""
import hashlib
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import uuid
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from screen_text import kernel_font  # noqa: E402

SECTOR = 512
FIRST = 2048
GRUB = pathlib.Path("/usr/lib/grub")
ROOT_UUID = "5268656a-0000-4000-8000-646562693132"
ROOT_MB, ESP_MB = 1600, 64
PASSWORD = "debian"
PACKAGES = ("systemd-sysv udev dbus linux-image-amd64 initramfs-tools kmod procps iproute2 ifupdown isc-dhcp-client pciutils "
            "zstd e2fsprogs login gcc libc6-dev")
NO_DOCS = [f"path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man", "info")]

# Runs in the new system's tree ($1) when all packages are there.
CUSTOMIZE = f"""set -eu
echo debian >"$1/etc/hostname"
echo "127.0.0.1 localhost debian" >"$1/etc/hosts"
echo "root:{PASSWORD}" | chroot "$1" chpasswd
echo "UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1" >"$1/etc/fstab"
printf 'auto lo\\niface lo inet loopback\\n' >"$1/etc/network/interfaces"
rm -f "$1"/var/lib/apt/lists/*_* "$1"/var/cache/apt/*.bin
"""

# As Debian's grub-mkconfig writes it, with the serial line beside the graphical screen.
CONFIG = f"""insmod part_msdos
insmod part_gpt
insmod ext2
insmod all_video
serial --unit=0 --speed=115200
search --no-floppy --fs-uuid --set=root {ROOT_UUID}
if loadfont /boot/grub/unicode.pf2; then
    set gfxmode=auto
    insmod gfxterm
    terminal_output gfxterm serial
else
    terminal_output console serial
fi
set timeout=1
echo "grub: menu"
menuentry 'Debian GNU/Linux' {{
    set gfxpayload=keep
    insmod gzio
    echo 'Loading Linux ...'
    linux /vmlinuz root=UUID={ROOT_UUID} ro console=tty0 console=ttyS0
    echo 'Loading initial ramdisk ...'
    initrd /initrd.img
}}
"""
EARLY = f"search --no-floppy --fs-uuid --set=root {ROOT_UUID}\nset prefix=($root)/boot/grub\n"


def missing_tools():
    """What has to be installed to make the disks, as text; None: nothing."""
    wanted = {"mmdebstrap": "mmdebstrap", "grub-mkimage": "grub-common", "mke2fs": "e2fsprogs", "mformat": "mtools"}
    if os.getuid() != 0:
        wanted["fakeroot"] = "fakeroot"
    packages = [package for tool, package in wanted.items() if not shutil.which(tool)]
    for kind, package in (("i386-pc", "grub-pc-bin"), ("x86_64-efi", "grub-efi-amd64-bin")):
        if not (GRUB / kind / "normal.mod").exists():
            packages.append(package)
    return f"not installed: {' '.join(packages)} (tools/install-deps.sh --disks)" if packages else None


def host_apt_options():
    """The host's way to its mirror: proxies, and whether dates are looked at."""
    text = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    wanted = re.findall(r'^(Acquire::(?:https?::Proxy\S*|Check-Date|Check-Valid-Until)) "(.+)";$', text, re.MULTILINE)
    return [f'--aptopt={name} "{value}"' for name, value in wanted]


def make_tree(path):
    """A tar file of an installed system."""
    with tempfile.TemporaryDirectory(prefix="rhea-debian-") as name:
        hook = pathlib.Path(name) / "customize"
        hook.write_text(CUSTOMIZE)
        partial = path.with_suffix(".part.tar")
        mirror = os.environ.get("RHEA_DEBIAN_MIRROR", "http://deb.debian.org/debian")
        done = subprocess.run(["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES.split())}",
                               *host_apt_options(), *[f"--dpkgopt={line}" for line in NO_DOCS],
                               f'--customize-hook=sh {hook} "$1"', "bookworm", str(partial), mirror],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError("mmdebstrap failed:\n" + "\n".join(done.stdout.splitlines()[-15:]))
        partial.rename(path)


def make_root(tree, path):
    """The root partition: the tree, GRUB's modules for both kinds of firmware and its menu, in ext4."""
    with tempfile.TemporaryDirectory(prefix="rhea-debian-", dir=path.parent) as name:
        script = f"""set -eu
mkdir "{name}/root" && tar -C "{name}/root" --numeric-owner -xpf "{tree}"
mkdir -p "{name}/root/boot/grub"
cp -r "{GRUB}/i386-pc" "{GRUB}/x86_64-efi" /usr/share/grub/unicode.pf2 "{name}/root/boot/grub/"
cp "{name}/grub.cfg" "{name}/root/boot/grub/grub.cfg"
mke2fs -q -F -t ext4 -U {ROOT_UUID} -L debian -E root_owner=0:0 -d "{name}/root" "{path}" {ROOT_MB}M
"""
        (pathlib.Path(name) / "grub.cfg").write_text(CONFIG)
        wrap = [] if os.getuid() == 0 else ["fakeroot"]
        subprocess.run([*wrap, "sh", "-c", script], check=True, stdin=subprocess.DEVNULL)


def copy_sparse(source, target, offset):
    """The data of a sparse file into another, from an offset on."""
    with open(source, "rb") as data:
        at, size = 0, os.fstat(data.fileno()).st_size
        while at < size:
            try:
                at = os.lseek(data.fileno(), at, os.SEEK_DATA)
            except OSError:  # a hole to the end
                return
            end = os.lseek(data.fileno(), at, os.SEEK_HOLE)
            data.seek(at)
            target.seek(offset + at)
            while at < end:
                part = data.read(min(end - at, 1 << 20))
                target.write(part)
                at += len(part)


def grub_image(kind, directory, modules, output):
    early = directory / "early.cfg"
    early.write_text(EARLY)
    subprocess.run(["grub-mkimage", "-O", kind, "-p", "/boot/grub", "-c", str(early), "-o", str(output),
                    *modules.split()], check=True)
    return output


def make_bios_disk(root, path):
    """GRUB's first stage in the MBR, its core behind it; one partition."""
    with tempfile.TemporaryDirectory(prefix="rhea-debian-") as name:
        directory = pathlib.Path(name)
        core = grub_image("i386-pc", directory, "biosdisk part_msdos ext2 search search_fs_uuid normal configfile",
                          directory / "core.img").read_bytes()
        if len(core) > (FIRST - 1) * SECTOR:
            raise ValueError("GRUB's core does not fit in front of the partition")
        boot = bytearray((GRUB / "i386-pc/boot.img").read_bytes()[:SECTOR])
        boot[440:446] = struct.pack("<IH", 0x52686564, 0)
        boot[446:510] = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", FIRST,
                                    ROOT_MB * 2048).ljust(64, b"\0")
        boot[510:512] = b"\x55\xaa"
        with open(path, "wb") as image:
            image.truncate(FIRST * SECTOR + (ROOT_MB << 20))
            image.write(boot)
            image.write(core)
            copy_sparse(root, image, FIRST * SECTOR)


def gpt(sectors, partitions):
    """Primary part (LBA 0 to 33) and backup part (the last 33) of a GUID partition table (UEFI 2.9, chapter 5)."""
    disk = uuid.UUID("52686564-0000-4000-8000-000000000001")
    table = b""
    for number, (kind, first, last, label) in enumerate(partitions):
        table += (uuid.UUID(kind).bytes_le + uuid.UUID(int=disk.int + 1 + number).bytes_le +
                  struct.pack("<QQQ", first, last, 0) + label.encode("utf-16-le").ljust(72, b"\0"))
    table = table.ljust(128 * 128, b"\0")

    def header(at, other, table_at):
        def packed(check):
            return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, check, 0, at, other, 34, sectors - 34,
                               disk.bytes_le, table_at, 128, 128, zlib.crc32(table))
        return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")
    protective = bytearray(SECTOR)
    protective[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, sectors - 1)
    protective[510:512] = b"\x55\xaa"
    return bytes(protective) + header(1, sectors - 1, 2) + table, table + header(sectors - 1, 1, sectors - 33)


def make_efi_disk(root, path):
    """A GPT with an EFI system partition (GRUB where firmware looks for it) and the root partition."""
    esp_first, root_first = FIRST, FIRST + ESP_MB * 2048
    sectors = root_first + ROOT_MB * 2048 + 2048
    head, tail = gpt(sectors, [("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", esp_first, root_first - 1, "EFI"),
                               ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", root_first, root_first + ROOT_MB * 2048 - 1,
                                "root")])
    with tempfile.TemporaryDirectory(prefix="rhea-debian-") as name:
        directory = pathlib.Path(name)
        grub = grub_image("x86_64-efi", directory, "part_gpt ext2 search search_fs_uuid normal configfile",
                          directory / "bootx64.efi")
        esp = directory / "esp"
        with open(esp, "wb") as image:
            image.truncate(ESP_MB << 20)
        for command in (["mformat", "-F", "-v", "EFI", "::"], ["mmd", "::/EFI"], ["mmd", "::/EFI/BOOT"],
                        ["mcopy", str(grub), "::/EFI/BOOT/BOOTX64.EFI"]):
            subprocess.run([command[0], "-i", str(esp), *command[1:]], check=True, capture_output=True)
        with open(path, "wb") as image:
            image.truncate(sectors * SECTOR)
            image.write(head)
            copy_sparse(esp, image, esp_first * SECTOR)
            copy_sparse(root, image, root_first * SECTOR)
            image.seek(sectors * SECTOR - len(tail))
            image.write(tail)


def unpack_package(package, directory):
    """Fetches one of Debian's packages and unpacks it, without installing it, into directory/package."""
    target = directory / package
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix="rhea-package-", dir=directory) as name:
            subprocess.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], check=True, cwd=name)
            subprocess.run(["dpkg-deb", "-x", *[str(deb) for deb in pathlib.Path(name).glob("*.deb")], f"{name}/tree"],
                           check=True)
            (pathlib.Path(name) / "tree").rename(target)
    return target


def key_of(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def make_disks(directory):
    """(BIOS disk, EFI disk, the kernel's console font), made where they are missing or what goes into them changed."""
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    tree, root = directory / "root.tar", directory / "root.ext4"
    disks = directory / "bios.img", directory / "efi.img"
    font = directory / "console.font"
    tree_key = key_of(PACKAGES, NO_DOCS, CUSTOMIZE)
    disk_key = key_of(tree_key, CONFIG, EARLY, ROOT_UUID, ROOT_MB, ESP_MB)

    def fresh(key, *paths):
        note = paths[0].with_suffix(".key")
        return all(path.exists() for path in paths) and note.exists() and note.read_text() == key
    if not fresh(disk_key, *disks, font):
        if not fresh(tree_key, tree):
            print("# making Debian's system tree: some minutes", flush=True)
            make_tree(tree)
            tree.with_suffix(".key").write_text(tree_key)
        with tarfile.open(tree) as archive:
            kernel = next(m for m in archive if re.fullmatch(r"(\./)?boot/vmlinuz-.*", m.name))
            font.write_bytes(kernel_font(archive.extractfile(kernel).read()))
        make_root(tree, root)
        for disk, make in zip(disks, (make_bios_disk, make_efi_disk)):
            make(root, disk)
        root.unlink()
        disks[0].with_suffix(".key").write_text(disk_key)
    return *disks, font


if __name__ == "__main__":
    print(*make_disks(pathlib.Path(sys.argv[1])))
