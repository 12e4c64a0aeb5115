#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP of the real program: negotiation, every query against the schema, devices and objects, several clients, abuse."""
import argparse
import array
import json
import os
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402
from harness import Failure, Qmp, expect  # noqa: E402


class Checker:
    """Compares values with what query-qmp-schema says of their types."""

    def __init__(self, entries):
        self.entries = {entry["name"]: entry for entry in entries}

    def check(self, type_name, value, where):
        entry = self.entries.get(type_name)
        expect(entry is not None, f"{where}: type {type_name} is not in the schema")
        getattr(self, "check_" + entry["meta-type"])(entry, value, where)

    def check_builtin(self, entry, value, where):
        kinds = {"string": str, "int": int, "boolean": bool, "number": (int, float)}
        kind = kinds.get(entry["json-type"])
        if kind:
            is_bool = isinstance(value, bool)
            expect(isinstance(value, kind) and is_bool == (kind is bool), f"{where}: {value!r} is no {entry['name']}")

    def check_enum(self, entry, value, where):
        expect(value in entry["values"], f"{where}: {value!r} is no {entry['name']}")

    def check_array(self, entry, value, where):
        expect(isinstance(value, list), f"{where}: {value!r} is no list")
        for index, element in enumerate(value):
            self.check(entry["element-type"], element, f"{where}[{index}]")

    def check_alternate(self, entry, value, where):
        for member in entry["members"]:
            try:
                self.check(member["type"], value, where)
                return
            except Failure:
                pass
        raise Failure(f"{where}: {value!r} fits no branch of {entry['name']}")

    def check_object(self, entry, value, where):
        expect(isinstance(value, dict), f"{where}: {value!r} is no object")
        left = set(value)
        self.check_members(entry, value, where, left)
        expect(not left, f"{where}: {sorted(left)} are not in {entry['name']}")

    def check_members(self, entry, value, where, left):
        for member in entry["members"]:
            name = member["name"]
            if name in value:
                left.discard(name)
                self.check(member["type"], value[name], f"{where}.{name}")
            else:
                expect("default" in member, f"{where}: member {name} of {entry['name']} is missing")
        for variant in entry.get("variants", []):
            if variant["case"] == value.get(entry["tag"]):
                self.check_members(self.entries[variant["type"]], value, where, left)


def start(binary, *arguments):
    directory = pathlib.Path(harness.tempfile.mkdtemp(prefix="rhea-qmp-"))
    if "pc" in arguments:
        arguments += ("-kernel", harness.tiny_kernel(directory))
    machine = harness.Machine(binary, ["-nodefaults", "-display", "none", "-S", *arguments, "-qmp",
                                       f"unix:{directory}/qmp,server=on,wait=off"], directory)
    machine.own_directory = True
    return machine


def test_greeting(binary):
    with start(binary, "-machine", "none") as machine:
        qmp = Qmp(machine.qmp_path, negotiate=False)
        version = qmp.greeting["QMP"]["version"]["qemu"]
        expect((version["major"], version["minor"]) >= (4, 2), "libvirt wants 4.2 at least")
        expect(qmp.greeting["QMP"]["capabilities"] == ["oob"], "the greeting offers oob")
        expect(qmp.execute("query-status")["error"]["class"] == "CommandNotFound", "negotiation comes first")
        qmp.command("qmp_capabilities", enable=["oob"])
        qmp.send_raw(b'{"exec-oob": "quit", "id": 7}\r\n')
        expect(qmp.read() == {"return": {}, "id": 7}, "out of band quit")
        expect(machine.process.wait(20) == 0, "quit ends the process with status 0")


def test_schema(binary, machine_arguments):
    with start(binary, *machine_arguments) as machine:
        qmp = machine.qmp
        checker = Checker(qmp.command("query-qmp-schema"))
        commands = {entry["name"] for entry in qmp.command("query-commands")}
        known = {name for name, entry in checker.entries.items() if entry["meta-type"] == "command"}
        expect(commands == known, f"query-commands and the schema differ: {sorted(commands ^ known)}")
        answered = 0
        for name in sorted(commands):
            entry = checker.entries[name]
            arguments = checker.entries[entry["arg-type"]]
            if not name.startswith("query-") or any("default" not in m for m in arguments["members"]):
                continue
            reply = qmp.execute(name)
            if "error" in reply:
                expect(reply["error"]["class"] in ("GenericError", "DeviceNotActive"), f"{name}: {reply}")
                continue
            answered += 1
            checker.check(entry["ret-type"], reply["return"], name)
        expect(answered >= 25, f"only {answered} queries were answered")
        # What -object can make and what the schema says of it are the same.
        types = {entry["name"] for entry in qmp.command("qom-list-types", implements="user-creatable")}
        listed = set(checker.entries["ObjectType"]["values"])
        expect(listed == types, f"either there or listed: {sorted(listed ^ types)}")
        options = checker.entries["ObjectOptions"]
        for variant in options["variants"]:
            members = {m["name"] for m in checker.entries[variant["type"]]["members"]}
            properties = {p["name"] for p in qmp.command("qom-list-properties", typename=variant["case"])}
            own = {p for p in properties if p not in ("type",)}
            expect(members == own, f"{variant['case']}: either a property or listed: {sorted(members ^ own)}")


def test_types(binary):
    with start(binary, "-machine", "none") as machine:
        qmp = machine.qmp
        # Every type answers, for the types that libvirt looks at above all.
        for entry in qmp.command("qom-list-types", abstract=True):
            qmp.command("qom-list-properties", typename=entry["name"])
        for entry in qmp.command("qom-list-types", implements="device"):
            for prop in qmp.command("device-list-properties", typename=entry["name"]):
                expect(prop["name"] and prop["type"], f"{entry['name']}: {prop}")
        for name in ("memory-backend-file", "memory-backend-memfd", "none-machine", "max-x86_64-cpu"):
            qmp.command("qom-list-properties", typename=name)
        for name in ("tcg-accel", "isa-serial", "virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci", "rng-random",
                     "iothread", "secret", "pvpanic"):
            expect(any(e["name"] == name for e in qmp.command("qom-list-types")), f"type {name} is missing")
        reply = qmp.execute("device-list-properties", typename="no-such")
        expect(reply["error"]["class"] == "DeviceNotFound", f"{reply}")
        machines = {m["name"]: m for m in qmp.command("query-machines")}
        defaults = [m for m in machines.values() if m.get("is-default")]
        expect(len(defaults) == 1 and defaults[0].get("alias") == "pc", f"the default machine: {defaults}")
        names = [d["name"] for d in qmp.command("query-cpu-definitions")]
        for name in ("qemu64", "max"):
            expect(name in names, f"CPU model {name} is missing")
        expansion = qmp.command("query-cpu-model-expansion", type="static", model={"name": "max"})
        expect(expansion["model"]["props"]["sse2"] is True, "max has sse2")


def test_running(binary):
    with start(binary, "-machine", "pc", "-m", "64", "-smp", "2") as machine:
        qmp = machine.qmp
        expect(qmp.command("query-status")["status"] == "prelaunch", "-S waits")
        cpus = qmp.command("query-cpus-fast")
        threads = {cpu["thread-id"] for cpu in cpus}
        expect(len(cpus) == 2 and len(threads) == 2 and machine.process.pid not in threads and 0 not in threads,
               f"{cpus}")
        names = qmp.command("qom-list", path=cpus[0]["qom-path"])
        bools = [p["name"] for p in names if p["type"] == "bool"]
        expect(len(bools) > 50, "a CPU shows its features")
        for name in bools:
            value = qmp.command("qom-get", path=cpus[0]["qom-path"], property=name)
            expect(isinstance(value, bool), f"{name}: {value!r}")
        missing = qmp.command("qom-get", path=cpus[0]["qom-path"], property="unavailable-features")
        expect(isinstance(missing, list), f"unavailable-features: {missing!r}")
        qmp.command("cont")
        qmp.wait_event("RESUME")
        expect(qmp.command("query-status")["running"], "it runs")
        qmp.command("stop")
        qmp.wait_event("STOP")
        expect(qmp.command("query-status")["status"] == "paused", "it is paused")
        qmp.command("cont")
        qmp.command("system_reset")
        event = qmp.wait_event("RESET")
        expect(event["data"] == {"guest": False, "reason": "host-qmp-system-reset"}, f"{event}")
        qmp.command("system_powerdown")
        qmp.wait_event("POWERDOWN")
        for line in ("info registers", "info mtree", "info mtree -f", "info qtree", "info qom-tree", "info cpus",
                     "info network", "info block", "info chardev", "info jit", "info pci", "xp/4xw 0xffff0",
                     "x/2i $rip", "p $rip", "info version"):
            text = qmp.execute("human-monitor-command", command_line=line)
            expect("return" in text, f"{line}: {text}")
        text = qmp.command("x-query-jit")["human-readable-text"]
        expect("cycles for each" in text and "CPU #0" in text, f"x-query-jit: {text}")
        expect("CPU" in qmp.command("human-monitor-command", command_line="info cpus"), "info cpus names them")
        expect("RIP=" in qmp.command("human-monitor-command", command_line="info registers").upper().replace(" ", ""),
               "info registers shows RIP")
        machine.process.terminate()
        event = qmp.wait_event("SHUTDOWN")
        expect(event["data"] == {"guest": False, "reason": "host-signal"}, f"{event}")
        expect(machine.process.wait(20) == 0, "SIGTERM ends it with status 0")


def test_objects(binary):
    with start(binary, "-machine", "pc", "-m", "64") as machine:
        qmp = machine.qmp
        qmp.command("object-add", qom_type="iothread", id="io0", poll_max_ns=1000)
        threads = qmp.command("query-iothreads")
        expect(len(threads) == 1 and threads[0]["id"] == "io0" and threads[0]["poll-max-ns"] == 1000 and
               threads[0]["thread-id"] > 0, f"{threads}")
        qmp.command("qom-set", path="/objects/io0", property="poll-max-ns", value=2000)
        expect(qmp.command("qom-get", path="/objects/io0", property="poll-max-ns") == 2000, "qom-set works")
        reply = qmp.execute("object-add", qom_type="iothread", id="io0")
        expect("duplicate" in reply["error"]["desc"], f"{reply}")
        qmp.command("object-del", id="io0")
        qmp.command("object-add", qom_type="rng-random", id="rng0", filename="/dev/urandom")
        qmp.command("device_add", driver="virtio-rng-pci", id="vrng", rng="rng0")
        listed = {p["name"]: p["type"] for p in qmp.command("qom-list", path="/machine/peripheral")}
        expect(listed.get("vrng") == "child<virtio-rng-pci>", f"{listed}")
        reply = qmp.execute("device_add", driver="virtio-rng-pci", id="vrng", rng="rng0")
        expect("uplicate" in reply["error"]["desc"], f"{reply}")
        reply = qmp.execute("device_add", driver="virtio-rng-pci", id="v2", rngg="rng0")
        expect("Property 'virtio-rng-pci.rngg' not found" == reply["error"]["desc"], f"{reply}")
        reply = qmp.execute("device_add", driver="virtio-rgn-pci")
        expect("'virtio-rgn-pci' is not a valid device model name" == reply["error"]["desc"], f"{reply}")
        reply = qmp.execute("device_del", id="nobody")
        expect(reply["error"]["class"] == "DeviceNotFound", f"{reply}")
        qmp.command("netdev_add", type="user", id="n0")
        qmp.command("device_add", driver="virtio-net-pci", netdev="n0", id="net0", mac="52:54:00:11:22:33")
        qmp.command("set_link", name="net0", up=False)
        qmp.command("set_link", name="net0", up=True)
        pty = qmp.command("chardev-add", id="c1", backend={"type": "pty", "data": {}})["pty"]
        expect(pathlib.Path(pty).exists(), f"{pty}")
        chardevs = {c["label"]: c for c in qmp.command("query-chardev")}
        expect(chardevs["c1"]["filename"] == f"pty:{pty}", f"{chardevs}")
        qmp.command("chardev-remove", id="c1")
        disk = machine.directory / "disk.raw"
        disk.write_bytes(bytes(1 << 20))
        qmp.command("blockdev-add", driver="file", filename=str(disk), node_name="storage")
        qmp.command("blockdev-add", driver="raw", file="storage", node_name="format")
        nodes = {n["node-name"]: n for n in qmp.command("query-named-block-nodes", flat=True)}
        expect(nodes["format"]["image"]["virtual-size"] == 1 << 20, f"{nodes}")
        qmp.command("blockdev-del", node_name="format")
        qmp.command("blockdev-del", node_name="storage")


def test_spellings(binary):
    """The five structured options: as text, as JSON, and as the commands of QMP, each makes the same thing."""
    directory = pathlib.Path(harness.tempfile.mkdtemp(prefix="rhea-qmp-"))
    disk = directory / "a,b.raw"
    disk.write_bytes(bytes(1 << 20))
    comma = str(disk).replace(",", ",,")
    text = ["-object", "rng-random,id=rng0,filename=/dev/zero", "-object", "memory-backend-memfd,id=m0,size=2M,share=on",
            "-chardev", f"socket,id=c0,path={directory}/c0,server=on,wait=off", "-chardev", "ringbuf,id=r0,size=8k",
            "-blockdev", f"raw,node-name=b0,read-only=on,file.driver=file,file.filename={comma},file.aio=threads",
            "-netdev", "user,id=n0,net=10.7.0.0/16,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=udp:127.0.0.1:0-:53",
            "-device", "virtio-rng-pci,id=d0,rng=rng0,max-bytes=0x400,period=1000"]
    objects = [("-object", "object-add", {"qom-type": "rng-random", "id": "rng1", "filename": "/dev/zero"}),
               ("-object", "object-add", {"qom-type": "memory-backend-memfd", "id": "m1", "size": 2 << 20, "share": True}),
               ("-chardev", None, {"backend": "socket", "id": "c1", "path": f"{directory}/c1", "server": True, "wait": False}),
               ("-chardev", None, {"backend": "ringbuf", "id": "r1", "size": 8192}),
               ("-blockdev", "blockdev-add", {"driver": "raw", "node-name": "b1", "read-only": True, "file": {
                   "driver": "file", "filename": str(disk), "aio": "threads"}}),
               ("-netdev", "netdev_add", {"type": "user", "id": "n1", "net": "10.7.0.0/16", "hostfwd": [
                   {"str": "tcp:127.0.0.1:0-:22"}, {"str": "udp:127.0.0.1:0-:53"}]}),
               ("-device", "device_add", {"driver": "virtio-rng-pci", "id": "d1", "rng": "rng1", "max-bytes": 0x400,
                                          "period": 1000})]
    as_json = [word for option, _, value in objects for word in (option, json.dumps(value))]
    with start(binary, "-machine", "pc", "-m", "64", *text, *as_json) as machine:
        qmp = machine.qmp
        for _, command, value in objects:
            if command:
                again = {k: v.replace("1", "2") if k in ("id", "node-name", "rng") else v for k, v in value.items()}
                reply = qmp.execute(command, **again)
                expect("return" in reply, f"{command} {again}: {reply}")
        for data in ({"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": f"{directory}/c2"}},
                                                 "server": True, "wait": False}},
                     {"type": "ringbuf", "data": {"size": 8192}}):
            qmp.command("chardev-add", id=data["type"][0].replace("s", "c") + "2", backend=data)
        nodes = {n["node-name"]: n for n in qmp.command("query-named-block-nodes")}
        chardevs = {c["label"]: c["filename"] for c in qmp.command("query-chardev")}
        networks = qmp.command("human-monitor-command", command_line="info network")
        usernet = qmp.command("human-monitor-command", command_line="info usernet")
        for i in "012":
            for path, name, value in ((f"/objects/rng{i}", "filename", "/dev/zero"), (f"/objects/m{i}", "size", 2 << 20),
                                      (f"/objects/m{i}", "share", True), (f"/machine/peripheral/d{i}", "max-bytes", 1024),
                                      (f"/machine/peripheral/d{i}", "rng", f"/objects/rng{i}")):
                got = qmp.command("qom-get", path=path, property=name)
                expect(got == value, f"{path}.{name}: {got!r}")
            expect(nodes[f"b{i}"]["ro"] and nodes[f"b{i}"]["image"]["virtual-size"] == 1 << 20, f"{nodes[f'b{i}']}")
            expect(f"{directory}/c{i}" in chardevs[f"c{i}"] and chardevs[f"r{i}"] == "ringbuf", f"{chardevs}")
            expect(f"n{i}: index=0,type=user,net=10.7.0.0" in networks, networks)
            part = usernet.split(f"(n{i})")[1].split("Hub")[0]
            expect(part.count("[HOST_FORWARD]") == 2, usernet)
        # Mistakes in QMP's arguments are named with their place.
        for command, arguments, desc in (
                ("netdev_add", {"type": "user", "id": "x", "restrict": "on"},
                 "Invalid parameter type for 'restrict', expected: boolean"),
                ("netdev_add", {"type": "usre", "id": "x"}, "Parameter 'type' does not accept value 'usre'"),
                ("netdev_add", {"type": "user", "id": "x", "net": "10.7.0.0/16", "nte": 1}, "Parameter 'nte' is unexpected"),
                ("blockdev-add", {"driver": "raw", "node-name": "x", "file": {"driver": "file", "filename": 5}},
                 "Invalid parameter type for 'file.filename', expected: string"),
                ("blockdev-add", {"driver": "raw", "node-name": "x", "file": 5},
                 "Invalid parameter type for 'file', expected: object or string"),
                ("blockdev-add", {"driver": "null-co"}, "'node-name' must be specified for the root node"),
                ("chardev-add", {"id": "x", "backend": {"type": "socket", "data": {"addr": {"type": "inet", "data": {
                    "host": "h", "port": 5}}}}}, "Invalid parameter type for 'backend.data.addr.data.port', expected: string"),
                ("chardev-add", {"id": "x", "backend": {"type": "pty"}}, "Parameter 'backend.data' is missing"),
                ("object-add", {"qom-type": "iothread"}, "Parameter 'id' is missing"),
                ("object-add", {"qom-type": "iothread", "id": "x", "poll-max-ns": "9"},
                 "Invalid parameter type for 'poll-max-ns', expected: integer"),
                ("object-add", {"qom-type": "iothread", "id": "x", "foo": 9}, "Parameter 'foo' is unexpected"),
                ("device_add", {"driver": "virtio-rng-pci", "max-bytes": "9"},
                 "Invalid parameter type for 'max-bytes', expected: integer"),
                ("device_add", {"id": "x"}, "Parameter 'driver' is missing"),
                ("device_add", {"driver": "virtio-rng-pci", "id": 5}, "Invalid parameter type for 'id', expected: string")):
            reply = qmp.execute(command, **arguments)
            expect(reply.get("error", {}).get("desc") == desc, f"{command} {arguments}: {reply}")
        qmp.command("quit")
        expect(machine.process.wait(20) == 0, "quit")


def test_fds(binary):
    with start(binary, "-machine", "none") as machine:
        qmp = machine.qmp
        read_end, write_end = os.pipe()
        qmp.file.flush()
        qmp.socket.sendmsg([b'{"execute":"getfd","arguments":{"fdname":"x"}}\r\n'],
                           [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write_end]))])
        expect(qmp.read() == {"return": {}}, "getfd")
        qmp.command("closefd", fdname="x")
        os.close(write_end)
        expect(os.read(read_end, 1) == b"", "closefd closes it")
        os.close(read_end)
        null = os.open("/dev/null", os.O_RDWR)
        qmp.socket.sendmsg([b'{"execute":"add-fd","arguments":{"fdset-id":3,"opaque":"log"}}\r\n'],
                           [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null]))])
        os.close(null)
        expect(qmp.read()["return"]["fdset-id"] == 3, "add-fd")
        sets = qmp.command("query-fdsets")
        expect(sets[0]["fdset-id"] == 3 and sets[0]["fds"][0]["opaque"] == "log", f"{sets}")
        qmp.command("remove-fd", fdset_id=3)
        expect(qmp.command("query-fdsets") == [], "remove-fd")


def test_clients(binary):
    directory = pathlib.Path(harness.tempfile.mkdtemp(prefix="rhea-qmp-"))
    with start(binary, "-machine", "none", "-qmp", f"unix:{directory}/second,server=on,wait=off", "-chardev",
               f"socket,id=c,path={directory}/third,server=on,wait=off", "-mon",
               "chardev=c,mode=control,pretty=on") as machine:
        first, second = machine.qmp, Qmp(directory / "second")
        third = socket.socket(socket.AF_UNIX)
        third.settimeout(20)
        third.connect(str(directory / "third"))
        expect(b"\n    " in third.recv(4096), "pretty=on indents")
        third.close()
        first.command("cont")
        second.wait_event("RESUME")
        # A client that went makes room for the next, which is greeted again.
        for _ in range(3):
            second.close()
            second = Qmp(directory / "second")
            expect("QMP" in second.greeting, "greeted again")
        first.command("query-status")
        second.close()


def test_abuse(binary):
    directory = pathlib.Path(harness.tempfile.mkdtemp(prefix="rhea-qmp-"))
    with start(binary, "-machine", "none", "-qmp", f"unix:{directory}/second,server=on,wait=off") as machine:
        qmp = machine.qmp
        for garbage in (b"hello\r\n", b"{]}\r\n", b"\xff\xff\r\n", b"\x00\x01\x02\n", b"[" * 100000 + b"\n"):
            qmp.send_raw(garbage)
            expect("error" in qmp.read(), f"{garbage[:10]!r} is refused")
            qmp.command("query-status")
        # Asks and asks and never reads: the others do not notice, and it is thrown out in the end.
        deaf = socket.socket(socket.AF_UNIX)
        deaf.connect(str(directory / "second"))
        deaf.setblocking(False)
        request = b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-qmp-schema"}' * 100
        deadline, gone, slowest = time.monotonic() + 60, False, 0.0
        while not gone and time.monotonic() < deadline:
            try:
                deaf.send(request)
            except BlockingIOError:
                time.sleep(0.001)
            except (BrokenPipeError, ConnectionResetError):
                gone = True
            before = time.monotonic()
            qmp.command("query-status")
            slowest = max(slowest, time.monotonic() - before)
        expect(gone, "the deaf client was not disconnected")
        expect(slowest < 3, f"another client waited {slowest:.1f} s")
        Qmp(directory / "second").close()


def test_stdio(binary):
    with harness.Machine(binary, ["-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio"]) as machine:
        machine.wait_text(r"\(qemu\) ", 20)
        machine.process.stdin.write(b"info status\n")
        machine.process.stdin.flush()
        machine.wait_text(r"VM status: running", 20)
        machine.process.stdin.write(b"quti\n")
        machine.process.stdin.flush()
        machine.wait_text(r"Did you mean 'quit'", 20)
        machine.process.stdin.write(b"quit\n")
        machine.process.stdin.flush()
        expect(machine.process.wait(20) == 0, "quit")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build")
    options = parser.parse_args()
    binary = pathlib.Path(options.build) / "rhea-system-x86_64"
    tap = harness.Tap()
    tap.test("greeting and out-of-band quit", test_greeting, binary)
    tap.test("queries fit the schema (none)", test_schema, binary, ["-machine", "none"])
    tap.test("queries fit the schema (pc)", test_schema, binary,
             ["-machine", "pc", "-m", "64", "-smp", "2", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n",
              "-blockdev", "null-co,node-name=d,size=1M", "-device", "virtio-blk-pci,drive=d", "-object",
              "iothread,id=io", "-chardev", "pty,id=p", "-device", "isa-serial,chardev=p"])
    tap.test("types and properties", test_types, binary)
    tap.test("running, pausing, resetting, ending", test_running, binary)
    tap.test("objects, devices, back ends", test_objects, binary)
    tap.test("text, JSON and QMP", test_spellings, binary)
    tap.test("file descriptors", test_fds, binary)
    tap.test("several clients", test_clients, binary)
    tap.test("garbage and a client that never reads", test_abuse, binary)
    tap.test("the monitor on stdio", test_stdio, binary)
    tap.finish()


main()
