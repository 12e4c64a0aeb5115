#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`rhea run --web` as a user has it: Chromium opens the address that it prints, shows the guest's text console, and what is
typed there reaches the guest. --picture FILE keeps what the browser shows."""
import argparse
import base64
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from boot_disk import make_disk, missing_tools  # noqa: E402
from harness import ROOT, Failure, Machine, Tap, expect  # noqa: E402
from vnc_client import Vnc  # noqa: E402


class Browser:
    """Chromium without a screen, driven through its DevTools protocol."""

    def __init__(self, program, directory):
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
             "--remote-debugging-port=0", f"--user-data-dir={directory}/browser", "--window-size=1000,760", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.lines = []
        found = threading.Event()

        def read():
            for line in self.process.stderr:
                self.lines.append(line)
                if "DevTools listening on" in line:
                    self.address = re.search(r"ws://([\d.]+):(\d+)(/\S+)", line).groups()
                    found.set()
        threading.Thread(target=read, daemon=True).start()
        expect(found.wait(60), "Chromium does not start:\n" + "".join(self.lines[-10:]))
        host, port, path = self.address
        self.socket = socket.create_connection((host, int(port)), 60)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(1)
        expect(b" 101 " in answer, str(answer))
        self.number, self.session = 0, None

    def exactly(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            expect(part, "Chromium closed its connection")
            data += part
        return data

    def message(self):
        text = b""
        while True:
            head = self.exactly(2)
            length = head[1] & 127
            if length == 126:
                length, = struct.unpack(">H", self.exactly(2))
            elif length == 127:
                length, = struct.unpack(">Q", self.exactly(8))
            text += self.exactly(length)
            if head[0] & 0x80:
                return json.loads(text)

    def call(self, method, **parameters):
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        data = json.dumps(request).encode()
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        self.socket.sendall(b"\x81" + size + bytes(4) + data)  # a mask of zeros changes nothing
        while True:
            reply = self.message()
            if reply.get("id") == self.number:
                expect("error" not in reply, f"{method}: {reply.get('error')}")
                return reply["result"]

    def open(self, url):
        target = self.call("Target.createTarget", url=url)["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def evaluate(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def type(self, text):
        for c in text:
            key, code = ("Enter", "Enter") if c == "\n" else (c, {" ": "Space", ">": "Period", "/": "Slash", "_": "Minus"}.get(
                c, f"Key{c.upper()}" if c.isalpha() else f"Digit{c}"))
            shift = c in ">_" or c.isupper()
            base = {"key": key, "code": code, "modifiers": 8 if shift else 0}
            if shift:
                self.call("Input.dispatchKeyEvent", type="rawKeyDown", key="Shift", code="ShiftLeft", modifiers=8)
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", **base)
            self.call("Input.dispatchKeyEvent", type="keyUp", **base)
            if shift:
                self.call("Input.dispatchKeyEvent", type="keyUp", key="Shift", code="ShiftLeft")

    def picture(self):
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self):
        self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--timeout", type=int, default=240)
    parser.add_argument("--picture", type=pathlib.Path)
    args = parser.parse_args()
    guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    tap = Tap()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    missing = missing_tools()
    if not chromium:
        missing = "not installed: chromium"
    elif not pathlib.Path("/usr/share/novnc/vnc.html").exists():
        missing = "not installed: novnc"
    elif not (guest / "ide.gz").exists():
        missing = f"no guest in {guest}: run make guest"
    elif "#define CONFIG_VNC\n" not in (args.build / "rhea_config.h").read_text():
        missing = "built without LibVNCServer"
    if missing:
        def skipped():
            raise Tap.Skip(missing)
        tap.test("web", skipped)
        tap.finish()

    def sees_and_types():
        with tempfile.TemporaryDirectory(prefix="rhea-web-", ignore_cleanup_errors=True) as name:
            directory = pathlib.Path(name)
            disk = make_disk(directory / "disk.img", guest, "console=ttyS0 console=tty0 quiet", 96)
            with Machine(args.build / "rhea", ["run", "--web", "-m", "512", "--no-network", disk, "--", "-qmp",
                                               f"unix:{directory}/qmp,server=on,wait=off"], directory) as vm:
                url = vm.wait_text(r"Screen: (http://\S+)", 30).group(1)
                vm.wait_text("grub: boots Linux", args.timeout)
                vm.qmp.command("query-status")
                browser = Browser(chromium, directory)
                try:
                    browser.open(url)
                    deadline = time.monotonic() + 60
                    while browser.evaluate("document.querySelector('#noVNC_container canvas')?.width") != 720:
                        expect(time.monotonic() < deadline, "noVNC shows no text console: " + str(browser.evaluate(
                            "document.querySelector('#noVNC_status')?.innerText")))
                        time.sleep(0.2)
                    deadline = time.monotonic() + args.timeout
                    while not re.search(r"(?m)[#$] *$", screen(vm)):
                        expect(time.monotonic() < deadline, screen(vm))
                        time.sleep(0.2)
                    browser.evaluate("document.querySelector('#noVNC_container canvas').focus()")
                    browser.type("echo Typed_in_Chromium >/dev/ttyS0\n")
                    vm.wait_text("Typed_in_Chromium", 30)
                    browser.type("uname\n")
                    deadline = time.monotonic() + 30
                    while not re.search(r"(?m)^Linux *$", screen(vm)):
                        expect(time.monotonic() < deadline, screen(vm))
                        time.sleep(0.2)
                    same_picture(vm, browser, directory)
                    if args.picture:
                        args.picture.write_bytes(browser.picture())
                finally:
                    browser.close()
                # Who does not know the address's password sees nothing.
                port = int(re.search(r":(\d+)/", url).group(1))
                try:
                    Vnc(("127.0.0.1", port), websocket=True, password="wrong")
                    raise Failure("the page's socket let somebody in")
                except PermissionError:
                    pass

    def screen(vm):
        return vm.qmp.command("human-monitor-command", command_line="info screen")

    def same_picture(vm, browser, directory):
        """The canvas has what screendump has, but for a cursor that blinks."""
        time.sleep(1)
        vm.qmp.command("screendump", filename=f"{directory}/screen.ppm")
        wanted = (directory / "screen.ppm").read_bytes().split(b"\n255\n", 1)[1]
        raw = browser.evaluate("""(() => { const c = document.querySelector('#noVNC_container canvas');
            const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let s = '';
            for (let i = 0; i < d.length; i += 4) s += String.fromCharCode(d[i], d[i + 1], d[i + 2]);
            return btoa(s); })()""")
        got = base64.b64decode(raw)
        expect(len(got) == len(wanted), f"{len(got)} and {len(wanted)} bytes of pixels")
        differ = sum(max(abs(a - b) for a, b in zip(got[i:i + 3], wanted[i:i + 3])) > 24 for i in range(0, len(got), 3))
        expect(differ <= 9 * 16, f"{differ} pixels of the browser's picture are others")
        lit = sum(got[i] > 100 for i in range(0, len(got), 3))
        expect(lit > 500, "the browser's picture is black")

    tap.test("Chromium shows the console and types into it", sees_and_types)
    tap.finish()


if __name__ == "__main__":
    main()
