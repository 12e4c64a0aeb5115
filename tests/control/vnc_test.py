#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The VNC server as its users and its abusers see it: passwords, sharing, WebSockets, the page, what QMP tells, and clients
that send nonsense, stall or leave."""
import argparse
import os
import pathlib
import random
import socket
import struct
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Failure, Machine, Tap, expect, run  # noqa: E402
from vnc_client import Vnc  # noqa: E402


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    binary = args.build / "rhea-system-x86_64"
    tap = Tap()
    if "#define CONFIG_VNC\n" not in (args.build / "rhea_config.h").read_text():
        def skipped():
            raise Tap.Skip("built without LibVNCServer")
        tap.test("vnc", skipped)
        tap.finish()

    with tempfile.TemporaryDirectory(prefix="rhea-vnc-") as name:
        directory = pathlib.Path(name)
        base = ["-M", "pc", "-nodefaults", "-display", "none", "-m", "32", "-vga", "std", "-S",
                "-qmp", f"unix:{directory}/qmp,server=on,wait=off"]

        def machine(*vnc):
            vm = Machine(binary, [*base, *vnc], directory)
            vm.qmp  # once it answers, VNC servers listen
            return vm

        def refused(text, *options):
            status, _, err = run([binary, *base, *options])
            expect(status == 1 and text in err, f"{options}: {status} {err}")

        def options():
            refused("not HOST:NUMBER", "-vnc", "nonsense")
            refused("not HOST:NUMBER", "-vnc", "127.0.0.1:99999")
            refused("'tls-creds' is not supported", "-vnc", ":0,tls-creds=x")
            refused("share='some'", "-vnc", ":0,share=some")
            refused("takes its port from the display's number", "-vnc", "none,websocket=on")
            refused("web=on serves its page on the websocket port", "-vnc", ":0,web=on")
            refused("There is no noVNC in '/nonexistent'", "-vnc", ":0,websocket=on,web=/nonexistent")
            refused("password and password-secret", "-object", "secret,id=s,data=x", "-vnc", ":0,password=on,password-secret=s")
            refused("'nosecret'", "-vnc", ":0,password-secret=nosecret")
            refused("'nodevice' is no display device", "-vnc", ":0,display=nodevice")
            refused("passwrd", "-vnc", ":0,passwrd=on")
            refused("VNC server 'default' already", "-vnc", f"unix:{directory}/a", "-vnc", f"unix:{directory}/b")
            with machine("-vnc", "none") as vm:
                expect(vm.qmp.command("query-vnc") == {"enabled": False}, "query-vnc without a server")
                reply = vm.qmp.execute("change-vnc-password", password="x")
                expect("no VNC server" in reply["error"]["desc"], str(reply))

        def told():
            with machine("-display", f"vnc=unix:{directory}/vnc", "-name", "guest") as vm:
                with Vnc(directory / "vnc") as vnc:
                    expect(vnc.name == "Rhea: guest" and (vnc.width, vnc.height) != (0, 0), vnc.name)
                    event = vm.qmp.wait_event("VNC_INITIALIZED")
                    expect(event["data"]["server"]["auth"] == "none" and event["data"]["client"]["family"] == "unix",
                           str(event))
                    info = vm.qmp.command("query-vnc")
                    expect(info["enabled"] and info["family"] == "unix" and info["service"] == f"{directory}/vnc"
                           and len(info["clients"]) == 1, str(info))
                    text = vm.qmp.command("human-monitor-command", command_line="info vnc")
                    expect("Client:" in text and "password: no" in text, text)
                vm.qmp.wait_event("VNC_DISCONNECTED")
                expect(vm.qmp.command("query-vnc-servers")[0]["clients"] == [], "a client that left is still told")
                vm.qmp.command("quit")
                expect(vm.wait(10) == 0 and not (directory / "vnc").exists(), "the socket stays behind")

        def denied(function):
            try:
                function()
            except (OSError, Failure):  # PermissionError is one
                return
            raise Failure("the server let somebody in")

        def passwords():
            path = directory / "vnc"
            with machine("-vnc", f"unix:{path},password=on") as vm:
                denied(lambda: Vnc(path, password=""))
                vm.qmp.command("change-vnc-password", password="open sesame")
                Vnc(path, password="open ses").close()  # 8 characters count
                Vnc(path, password="open ses", version=b"003.007").close()
                Vnc(path, password="open ses", version=b"003.003").close()
                denied(lambda: Vnc(path, password="open"))
                denied(lambda: Vnc(path))  # without one
                vm.qmp.command("set_password", protocol="vnc", password="other", connected="keep")
                denied(lambda: Vnc(path, password="open ses"))
                with Vnc(path, password="other") as vnc:
                    reply = vm.qmp.execute("set_password", protocol="vnc", password="x", connected="fail")
                    expect("stays" in reply["error"]["desc"], str(reply))
                    vm.qmp.command("set_password", protocol="vnc", password="third", connected="disconnect")
                    denied(lambda: vnc.picture(5))
                vm.qmp.command("expire_password", protocol="vnc", time="now")
                denied(lambda: Vnc(path, password="third"))
                vm.qmp.command("expire_password", protocol="vnc", time="+100")
                Vnc(path, password="third").close()
                expect("error" in vm.qmp.execute("expire_password", protocol="vnc", time="soon"), "a time 'soon'")
            with machine("-object", "secret,id=s,data=hidden", "-vnc", f"unix:{path},password-secret=s"):
                Vnc(path, password="hidden").close()
                denied(lambda: Vnc(path, password="hiddem"))

        def sharing():
            path = directory / "vnc"
            with machine("-vnc", f"unix:{path}"):
                with Vnc(path) as first, Vnc(path) as second:
                    expect(first.picture() == second.picture(), "two clients see two pictures")
                    with Vnc(path, shared=False) as alone:
                        denied(lambda: first.picture(5))
                        denied(lambda: second.picture(5))
                        alone.picture()
            with machine("-vnc", f"unix:{path},share=force-shared,connections=3"):
                with Vnc(path) as first, Vnc(path, shared=False) as second:
                    first.picture()
                    second.picture()
                    # A full house: who has not said who he is makes room.
                    silent = Vnc(path, start=False)
                    with Vnc(path) as third:
                        third.picture()
                    silent.close()

        def websockets():
            port, web = free_port(), free_port()
            display = port - 5900
            if display < 0:
                raise Tap.Skip(f"port {port} is no display")
            with machine("-vnc", f"127.0.0.1:{display},websocket={web}") as vm:
                with Vnc(("127.0.0.1", web), websocket=True) as vnc:
                    picture = vnc.picture()
                    vnc.key(ord("a"), 1)
                    vnc.pointer(5, 5, 1)
                    servers = vm.qmp.command("query-vnc-servers")
                    expect([s["websocket"] for s in servers[0]["server"]] == [False, True], str(servers))
                with Vnc(("127.0.0.1", port)) as vnc:
                    expect(vnc.picture() == picture, "the picture by WebSocket is another one")
                # Neither comes by the other's door.
                denied(lambda: Vnc(("127.0.0.1", port), websocket=True, timeout=5))
                denied(lambda: Vnc(("127.0.0.1", web), timeout=5))
                with Vnc(("127.0.0.1", web), websocket=True, shared=False) as vnc:
                    vnc.picture()

        def page():
            if not pathlib.Path("/usr/share/novnc/vnc.html").exists():
                raise Tap.Skip("not installed: novnc")
            web = free_port()
            with machine("-vnc", f"unix:{directory}/vnc,websocket=127.0.0.1:{web},web=on"):
                with urllib.request.urlopen(f"http://127.0.0.1:{web}/", timeout=10) as answer:
                    expect(b"noVNC" in answer.read() and "autoconnect=true" in answer.url, answer.url)
                with urllib.request.urlopen(f"http://127.0.0.1:{web}/core/rfb.js", timeout=10) as answer:
                    expect("javascript" in answer.headers["Content-Type"], str(answer.headers))
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{web}/../../../etc/passwd", timeout=10)
                    raise Failure("the page serves /etc/passwd")
                except urllib.error.HTTPError as error:
                    expect(error.code == 404, str(error))
                with Vnc(("127.0.0.1", web), websocket=True) as vnc:
                    vnc.picture()
                denied(lambda: Vnc(("127.0.0.1", web), websocket=True, origin="http://evil.example"))

        def hostile():
            path = directory / "vnc"
            rng = random.Random(11)
            messages = [
                struct.pack(">BxH", 2, 65535) + bytes(64),                       # encodings that do not come
                struct.pack(">BxxxI", 6, 0xffffffff),                            # 4 GiB of clipboard
                struct.pack(">BxxxI", 6, 0x7fffffff) + bytes(100000),
                struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 32, 0, 1, 0, 0, 0, 255, 255, 255),  # impossible pixels
                struct.pack(">BxxxBBBBHHHBBBxxx", 0, 7, 99, 1, 0, 65535, 65535, 65535, 40, 50, 60),
                struct.pack(">BBHHHH", 3, 0, 65535, 65535, 65535, 65535),        # a part that is not there
                struct.pack(">BBHH", 5, 255, 65535, 65535),                      # pointers outside
                struct.pack(">BBHII", 255, 0, 1, 0xffffffff, 0xffffffff),
                struct.pack(">BB", 255, 77), bytes([8, 0, 0, 0]), bytes([8, 255, 0, 0]), bytes([15, 0, 0, 0]),
                bytes([7, 5, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]), bytes([251, 0, 0, 0, 255, 255, 255, 0]),
                bytes([250, 0, 1, 2]), bytes([11, 0, 0, 0, 255, 255, 255, 254]), bytes([10, 1, 0, 0, 0, 0]), bytes([99]),
            ]
            with machine("-vnc", f"unix:{path}", "-vnc", f"unix:{path}2,id=second,password=on,connections=4") as vm:
                for message in messages:
                    vnc = Vnc(path)
                    try:
                        vnc.write(message)
                        vnc.write(struct.pack(">BBHHHH", 3, 0, 0, 0, 1, 1))
                    except OSError:
                        pass
                    vnc.close()
                for _ in range(150):  # anything, at any stage
                    vnc = Vnc(rng.choice([path, f"{path}2"]), start=False)
                    vnc.socket.settimeout(1)
                    try:
                        for piece in [b"RFB 003.008\n", b"\x01", b"\x01"][:rng.randrange(4)]:
                            vnc.write(piece)
                        kind = bytes([rng.choice([0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 250, 251, 255])])
                        vnc.write(kind + rng.randbytes(rng.randrange(200)))
                        if rng.random() < 0.5:
                            vnc.socket.recv(4096)
                    except OSError:
                        pass
                    vnc.close()
                # A flood of keys, and one that never reads: only they are stopped.
                flood, lazy = Vnc(path), Vnc(path)
                try:
                    for _ in range(2000):
                        flood.write(struct.pack(">BBxxI", 4, 1, 0x61) * 50)
                except OSError:
                    pass
                try:
                    for _ in range(200):
                        lazy.request(incremental=False)
                except OSError:
                    pass
                start = time.monotonic()
                with Vnc(path) as vnc:
                    vnc.picture()
                vm.qmp.command("query-status")
                expect(time.monotonic() - start < 5, "the others wait for a client that does not read")
                memory = int(pathlib.Path(f"/proc/{vm.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
                expect(memory < 400 << 20, f"{memory >> 20} MiB resident")
                flood.close()
                start = time.monotonic()
                vm.qmp.command("quit")
                expect(vm.wait(10) == 0, vm.tail())
                expect(time.monotonic() - start < 4, "the end waits for a client that does not read")
                lazy.close()

        def resize():
            """A mode that firmware sets is told as a new size; those that know no sizes are kept."""
            path = directory / "vnc"
            with machine("-vnc", f"unix:{path}") as vm:
                with Vnc(path) as vnc, Vnc(path) as plain:
                    plain.set_encodings([0])
                    vnc.picture()
                    before = vnc.width, vnc.height
                    vm.qmp.command("cont")
                    deadline = time.monotonic() + 60
                    while (vnc.width, vnc.height) == before and time.monotonic() < deadline:
                        vnc.request()
                        vnc.update()
                    expect((vnc.width, vnc.height) == (720, 400), f"{vnc.width} by {vnc.height}")
                    plain.picture()

        for label, function in {"options": options, "what is told": told, "passwords": passwords, "sharing": sharing,
                                "WebSockets": websockets, "the page": page, "sizes": resize,
                                "hostile clients": hostile}.items():
            tap.test(label, function)
    tap.finish()


if __name__ == "__main__":
    main()
