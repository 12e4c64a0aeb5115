#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Screen and input as a user has them: Linux at its text console, typed to through QMP and through VNC, looked at with
`info screen`, the serial line, pictures and a VNC client."""
import argparse
import os
import pathlib
import re
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from boot_disk import make_disk, missing_tools  # noqa: E402
from harness import ROOT, Machine, Tap, expect  # noqa: E402
from screen_text import add_font, kernel_font, text_of  # noqa: E402
from vnc_client import Vnc  # noqa: E402

OVMF = pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd")

NAMES = {" ": "spc", "/": "slash", "-": "minus", "=": "equal", "\n": "ret", ";": "semicolon", ".": "dot", ",": "comma"}
SHIFTED = {">": "dot", "<": "comma", "$": "4", "(": "9", ")": "0", "_": "minus", "|": "backslash", "!": "1", "?": "slash"}


def keys_of(text):
    """The keys of each character on a US keyboard."""
    for c in text:
        if c in SHIFTED:
            yield ["shift", SHIFTED[c]]
        elif c.isupper():
            yield ["shift", c.lower()]
        else:
            yield [NAMES.get(c, c)]


def send_text(qmp, text, hold_ms=5):
    for names in keys_of(text):
        qmp.command("send-key", keys=[{"type": "qcode", "data": name} for name in names], hold_time=hold_ms)


def screen_text(vm):
    return vm.qmp.command("human-monitor-command", command_line="info screen")


def wait_screen(vm, pattern, timeout):
    deadline = time.monotonic() + timeout
    while True:
        text = screen_text(vm)
        found = re.search(pattern, text)
        if found or time.monotonic() > deadline:
            expect(found, f"the screen never showed {pattern!r}; it shows\n{text}")
            return found
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--generic", type=pathlib.Path, help="a guest with USB's drivers")
    parser.add_argument("--accel", default="tcg", help="as -accel takes it")
    parser.add_argument("--timeout", type=int, default=240)
    parser.add_argument("--only", help="a regular expression: which tests")
    args = parser.parse_args()
    guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    generic = pathlib.Path(args.generic or args.build / "guest-generic").resolve()
    binary = args.build / "rhea-system-x86_64"
    tap = Tap()
    missing = missing_tools()
    if not (guest / "ide.gz").exists():
        missing = f"no guest in {guest}: run make guest"
    if missing:
        def skipped():
            raise Tap.Skip(missing)
        tap.test("screen", skipped)
        tap.finish()

    with tempfile.TemporaryDirectory(prefix="rhea-screen-") as name:
        directory = pathlib.Path(name)
        disk = make_disk(directory / "disk.img", guest, "console=ttyS0 console=tty0 quiet rhea.screen", 96)

        def console(*extra):
            """A machine whose guest has a shell on its text console; the serial line shows what is sent there."""
            return Machine(binary, ["-M", "pc", "-nodefaults", "-display", "none", "-accel", args.accel, "-m", "512",
                                    "-vga", "std", "-serial", "stdio", "-qmp", f"unix:{directory}/qmp,server=on,wait=off",
                                    "-drive", f"file={disk},format=raw,if=virtio,snapshot=off", *extra], directory)

        def up(vm):
            vm.wait_text("grub: boots Linux", args.timeout)
            wait_screen(vm, r"(?m)^.*[#$] *$", args.timeout)

        def types_through_qmp():
            with console() as vm:
                up(vm)
                send_text(vm.qmp, "echo Typed_$((6-2)) >/dev/ttyS0; echo Seen\n")
                vm.wait_text("Typed_4", 30)
                wait_screen(vm, r"(?m)^Seen", 30)
                vm.qmp.command("human-monitor-command", command_line="sendkey e 5")
                for key in ("c", "h", "o", "spc", "h", "m", "p", "ret"):
                    vm.qmp.command("human-monitor-command", command_line=f"sendkey {key} 5")
                wait_screen(vm, r"(?m)^hmp", 30)
                # A key that is held repeats; its release ends that.
                vm.qmp.command("input-send-event", events=[{"type": "key", "data": {
                    "down": True, "key": {"type": "qcode", "data": "z"}}}])
                wait_screen(vm, r"zzzz", 30)
                vm.qmp.command("input-send-event", events=[{"type": "key", "data": {
                    "down": False, "key": {"type": "number", "data": 0x2c}}}])
                time.sleep(0.5)
                first = screen_text(vm)
                time.sleep(0.7)
                expect(screen_text(vm) == first, "a key repeats after its release")
                reply = vm.qmp.execute("send-key", keys=[{"type": "number", "data": 5000}])
                expect("5000" in reply["error"]["desc"], str(reply))
                reply = vm.qmp.execute("send-key", keys=[{"type": "qcode", "data": "unmapped"}])
                expect("unmapped" in reply["error"]["desc"], str(reply))
                mice = vm.qmp.command("query-mice")
                expect(mice == [{"name": "PS/2 mouse", "index": 1, "current": True, "absolute": False}], str(mice))

        def types_through_vnc():
            with console("-vnc", f"unix:{directory}/vnc") as vm:
                up(vm)
                with Vnc(directory / "vnc") as vnc:
                    vnc.type("echo Via_VNC_$((3*4)) >/dev/ttyS0\n")
                    vm.wait_text("Via_VNC_12", 30)
                    vnc.picture()
                    expect(vnc.extended_keys, "no extended key messages are offered")
                    for number in (0x12, 0x2e, 0x23, 0x18, 0x39, 0x2d, 0x1c):  # echo x, by scan codes
                        vnc.key_number(number, 1)
                        vnc.key_number(number, 0)
                    wait_screen(vm, r"(?m)^x *$", 30)
                    vnc.type("clear; cat\n")
                    wait_screen(vm, r"\A\s*\Z", 30)
                    # The picture by VNC and by screendump are the same, but for a cursor that blinks.
                    vm.qmp.command("stop")
                    picture = vnc.picture()
                    vm.qmp.command("screendump", filename=f"{directory}/screen.ppm")
                    head, rest = (directory / "screen.ppm").read_bytes().split(b"\n255\n", 1)
                    expect(head == f"P6\n{vnc.width} {vnc.height}".encode(), str(head))
                    differ = sum(rest[i:i + 3] != picture[i:i + 3] for i in range(0, len(rest), 3))
                    expect(differ <= 9 * 16, f"{differ} pixels differ between VNC and screendump")
                    vm.qmp.command("cont")
                    # A small change is a small update.
                    vnc.request()
                    vnc.type("q")
                    area, deadline = 0, time.monotonic() + 5
                    while area == 0 and time.monotonic() < deadline:
                        area = sum(w * h for _, _, w, h in vnc.update())
                    expect(0 < area < vnc.width * vnc.height // 4, f"an update of {area} pixels for one letter")
                    # Who goes with a key held leaves nothing behind.
                    vnc.key(ord("k"), 1)
                wait_screen(vm, "k", 30)
                time.sleep(0.5)
                first = screen_text(vm)
                time.sleep(0.7)
                expect(screen_text(vm) == first, "the key of a client that left repeats for ever")

        def shell(kernel, *extra):
            """A guest with a shell on its serial line, its kernel entered at once."""
            initrd = directory / "initrd"
            initrd.write_bytes((kernel / "initrd.gz").read_bytes() + (kernel / "ide.gz").read_bytes())
            return Machine(binary, ["-M", "pc", "-nodefaults", "-display", "none", "-accel", args.accel, "-m", "512",
                                    "-serial", "stdio", "-qmp", f"unix:{directory}/qmp,server=on,wait=off",
                                    "-kernel", kernel / "vmlinuz", "-initrd", initrd, "-append", "console=ttyS0 quiet",
                                    *extra], directory)

        def enter(vm, line):
            """Types when the shell asks: it first asks the terminal where its cursor is, and eats what comes then."""
            deadline = time.monotonic() + 60
            while vm.output.count(b"\x1b[6n") <= getattr(vm, "prompts", 0) and time.monotonic() < deadline:
                time.sleep(0.05)
            vm.prompts = vm.output.count(b"\x1b[6n")
            time.sleep(0.1)
            vm.type(line)

        def reads_events(vm, name, events, expected):
            """What the guest's input layer gives for events, as 'type code value' behind the time: a struct is 12 words."""
            device = f"$(grep -l '{name}' /sys/class/input/event*/device/name | head -n 1 | cut -d/ -f5)"
            enter(vm, f"echo device {device}; hexdump -v -e '12/2 \"%d \" \"\\n\"' /dev/input/{device} &\n")
            found = vm.wait_text(r"device (event\d+)", 30)
            enter(vm, "echo Ready_$((1+1))\n")
            vm.wait_text("Ready_2", 30)
            time.sleep(0.3)
            for group in events:
                vm.qmp.command("input-send-event", events=group)
            for line in expected:
                vm.wait_text(rf"(?:-?\d+ ){{8}}{line} ", 20)
            enter(vm, "kill %1\n")
            return found

        def button(down, which="left"):
            return {"type": "btn", "data": {"down": down, "button": which}}

        def move(kind, axis, value):
            return {"type": kind, "data": {"axis": axis, "value": value}}

        def key(down, name):
            return {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": name}}}

        KEYS = ([[key(True, "a")], [key(False, "a")], [key(True, "kp_enter")], [key(False, "kp_enter")]],
                ["1 30 1", "1 30 0", "1 96 1", "1 96 0"])
        TABLET = ([[move("abs", "x", 1000), move("abs", "y", 2000)], [button(True)], [button(False)]],
                  ["3 0 1000", "3 1 2000", "1 272 1", "1 272 0"])
        MOUSE = ([[move("rel", "x", 5), move("rel", "y", -6)], [button(True, "right")], [button(False, "right")]],
                 ["2 0 5", "2 1 -6", "1 273 1", "1 273 0"])

        def virtio_input():
            with shell(guest, "-device", "virtio-keyboard-pci", "-device", "virtio-mouse-pci") as vm:
                vm.wait_text("built-in shell", args.timeout)
                enter(vm, "modprobe virtio_input; modprobe evdev; echo Loaded_$((1+1))\n")
                vm.wait_text("Loaded_2", 30)
                reads_events(vm, "Virtio Keyboard", *KEYS)
            with shell(guest, "-device", "virtio-mouse-pci", "-device", "virtio-tablet-pci") as vm:
                vm.wait_text("built-in shell", args.timeout)
                enter(vm, "modprobe virtio_input; modprobe evdev; echo Loaded_$((1+1))\n")
                vm.wait_text("Loaded_2", 30)
                current = [m["name"] for m in vm.qmp.command("query-mice") if m["current"]]
                expect(current == ["virtio tablet"] or current == ["virtio mouse"], str(current))
                indices = {m["name"]: m["index"] for m in vm.qmp.command("query-mice")}
                for name, label, (events, expected) in [("virtio tablet", "Virtio Tablet", TABLET),
                                                        ("virtio mouse", "Virtio Mouse", MOUSE)]:
                    vm.qmp.command("human-monitor-command", command_line=f"mouse_set {indices[name]}")
                    reads_events(vm, label, events, expected)

        def usb(controller, module):
            if not (generic / "ide.gz").exists():
                raise Tap.Skip(f"no guest in {generic}: run tools/guest.sh -k generic")
            for device, label, (events, expected) in [("usb-tablet", "USB Tablet", TABLET), ("usb-kbd", "USB Keyboard", KEYS),
                                                      ("usb-mouse", "USB Mouse", MOUSE)]:
                with shell(generic, *controller, "-device", device) as vm:
                    vm.wait_text("built-in shell", args.timeout)
                    enter(vm, f"modprobe {module}; modprobe usbhid; modprobe hid-generic; modprobe evdev; "
                            f"while ! grep -q '{label}' /sys/class/input/event*/device/name; do sleep 1; done; "
                            "echo Loaded_$((1+1))\n")
                    vm.wait_text("Loaded_2", 60)
                    reads_events(vm, label, events, expected)
                    if device == "usb-tablet":  # it comes and goes
                        vm.qmp.command("device_add", driver="usb-kbd", id="kbd1")
                        enter(vm, "while ! grep -q Keyboard /sys/class/input/event*/device/name; do sleep 1; done; "
                                "echo Came_$((1+1))\n")
                        vm.wait_text("Came_2", 60)
                        vm.qmp.command("device_del", id="kbd1")
                        vm.qmp.wait_event("DEVICE_DELETED")
                        enter(vm, "while grep -q 'USB Keyboard' /sys/class/input/event*/device/name; do sleep 1; done; "
                                "echo Went_$((1+1))\n")
                        vm.wait_text("Went_2", 60)

        def picture(vm, head=0):
            """Width, height and RGB bytes of a screendump."""
            vm.qmp.command("screendump", filename=f"{directory}/head.ppm", head=head)
            size, rest = (directory / "head.ppm").read_bytes().split(b"\n255\n", 1)
            width, height = (int(n) for n in size.split()[1:])
            return width, height, rest

        def wait_picture(vm, text, timeout):
            """Waits until the text is read off the picture, whose size is the result."""
            deadline = time.monotonic() + timeout
            while True:
                width, height, rgb = picture(vm)
                seen = text_of(width, height, rgb)
                if text in seen:
                    return width, height
                expect(time.monotonic() < deadline, f"{text!r} was never on the screen of {width}x{height}; it shows\n{seen}")
                time.sleep(1)

        def virtio_gpu(device):
            if not (generic / "ide.gz").exists():
                raise Tap.Skip(f"no guest in {generic}: run tools/guest.sh -k generic")
            add_font(kernel_font((generic / "vmlinuz").read_bytes()))
            with shell(generic, "-device", f"{device},xres=800,yres=600", "-vnc", f"unix:{directory}/vnc") as vm:
                vm.wait_text("built-in shell", args.timeout)
                enter(vm, "modprobe virtio-gpu; while ! [ -e /dev/fb0 ]; do sleep 1; done; echo Loaded_$((1+1))\n")
                vm.wait_text("Loaded_2", 90)
                enter(vm, "printf '\\033[2J\\033[HPainted by %s' virtio_gpu >/dev/tty1; cat /proc/fb\n")
                vm.wait_text("virtio_gpudrm", 30)
                expect(wait_picture(vm, "Painted by virtio_gpu", 60) == (800, 600), "the size is not that of EDID")
                with Vnc(directory / "vnc") as vnc:
                    rgb = vnc.picture()
                    expect("Painted by virtio_gpu" in text_of(vnc.width, vnc.height, rgb), "VNC shows something else")
                reply = vm.qmp.execute("screendump", filename=f"{directory}/none.ppm", head=1)
                expect("no head 1" in reply["error"]["desc"], str(reply))
                # The picture is part of the machine's state.
                before = picture(vm)[2]
                vm.qmp.command("stop")
                vm.qmp.command("migrate", uri=f"file:{directory}/state")
                deadline = time.monotonic() + 60
                while vm.qmp.command("query-migrate").get("status") != "completed" and time.monotonic() < deadline:
                    time.sleep(0.2)
            with shell(generic, "-device", f"{device},xres=800,yres=600", "-vnc", f"unix:{directory}/vnc", "-incoming",
                       f"file:{directory}/state", "-S") as vm:
                deadline = time.monotonic() + 60
                while vm.qmp.command("query-status")["status"] != "paused" and time.monotonic() < deadline:
                    time.sleep(0.2)
                after = picture(vm)[2]
                differ = sum(before[i:i + 3] != after[i:i + 3] for i in range(0, len(before), 3))
                expect(len(before) == len(after) and differ <= 8 * 16, f"{differ} pixels differ after the load")

        def firmware_screen(*options):
            """A machine that starts through firmware and finds nothing to start."""
            return Machine(binary, ["-nodefaults", "-display", "none", "-accel", args.accel, "-m", "256",
                                    "-qmp", f"unix:{directory}/qmp,server=on,wait=off", *options], directory)

        def vga_seabios():
            with firmware_screen("-M", "pc", "-vga", "virtio") as vm:
                wait_screen(vm, r"SeaBIOS \(version", 60)  # the VGA in it is in a text mode
                expect(picture(vm)[:2] == (720, 400), str(picture(vm)[:2]))

        def ramfb_seabios():
            with firmware_screen("-M", "pc", "-device", "ramfb") as vm:
                wait_picture(vm, "SeaBIOS (version", 60)

        def ramfb_ovmf():
            if not OVMF.exists():
                raise Tap.Skip(f"no {OVMF}: Debian's package ovmf")
            with firmware_screen("-M", "q35", "-vga", "none", "-device", "ramfb", "-drive",
                                 f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}") as vm:
                deadline = time.monotonic() + args.timeout
                while True:
                    width, height, rgb = picture(vm)
                    lit = sum(rgb[i] > 64 for i in range(0, len(rgb), 3))
                    if (width, height) != (640, 480) and lit > 1000:
                        break
                    expect(time.monotonic() < deadline, f"the firmware showed nothing: {lit} bright pixels of {width}x{height}")
                    time.sleep(1)

        tests = {"types through QMP": types_through_qmp, "types through VNC": types_through_vnc,
                 "virtio-input": virtio_input,
                 "USB: UHCI of the PIIX3": lambda: usb(["-usb"], "uhci-hcd"),
                 "virtio-gpu-pci: Linux's console": lambda: virtio_gpu("virtio-gpu-pci"),
                 "virtio-vga: Linux's console": lambda: virtio_gpu("virtio-vga"),
                 "virtio-vga: SeaBIOS": vga_seabios,
                 "ramfb: SeaBIOS": ramfb_seabios,
                 "ramfb: OVMF": ramfb_ovmf,
                 "USB: xHCI": lambda: usb(["-device", "qemu-xhci"], "xhci-pci")}
        for label, function in tests.items():
            if not args.only or re.search(args.only, label):
                tap.test(label, function)
    tap.finish()


if __name__ == "__main__":
    main()
