#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The front door as a newcomer uses it: rhea run --print-command, rhea doctor, and what they say to mistakes."""
import argparse
import json
import pathlib
import re
import shlex
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Tap, expect, run  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    rhea = args.build / "rhea"
    tap = Tap()
    directory = tempfile.TemporaryDirectory(prefix="rhea-front-")
    raw = pathlib.Path(directory.name) / "a,b c.img"
    raw.write_bytes(b"\0" * 65536)
    qcow2 = pathlib.Path(directory.name) / "disk.qcow2"
    qcow2.write_bytes(b"QFI\xfb" + b"\0" * 1024)

    def one_line_error(status, err, *parts):
        expect(status == 1, f"exit status {status}")
        lines = err.strip().splitlines()
        expect(1 <= len(lines) <= 2, f"more than an error and a hint: {err}")
        for part in parts:
            expect(part in err, f"{part!r} is not in {err!r}")

    def print_command():
        status, out, err = run([rhea, "run", "--kernel", "/k", "--initrd", "/i", "-m", "300", "-p", "8080:80",
                                "--print-command", raw, "--", "-name", "x y"])
        expect(status == 0, err)
        words = shlex.split(out)
        expect(words[0].endswith("rhea-system-x86_64"), words[0])
        pairs = dict(zip(words, words[1:]))
        expect(pairs["-m"] == "300" and pairs["-kernel"] == "/k" and pairs["-initrd"] == "/i", out)
        expect(pairs["-drive"].startswith(f"file={str(raw).replace(',', ',,')},format=raw"), pairs["-drive"])
        expect("hostfwd=tcp:127.0.0.1:8080-:80" in pairs["-netdev"], pairs["-netdev"])
        expect(pairs["-name"] == "x y", "words after -- are not passed on")

    def doctor():
        status, out, _ = run([rhea, "doctor", "--json"])
        findings = json.loads(out)
        names = {entry["name"] for entry in findings}
        expect({"kvm", "io_uring", "host CPU", "memory"} <= names, f"looked at {names} only")
        expect(all(entry["verdict"] in ("ok", "note", "bad") for entry in findings), out)
        expect(status == any(entry["verdict"] == "bad" for entry in findings), f"exit status {status}")

    def unknown_command():
        status, _, err = run([rhea, "rnu"])
        one_line_error(status, err, "'rnu'", "'run'")

    def bad_forward():
        status, _, err = run([rhea, "run", "--kernel", "/k", "-p", "80:x", "--print-command"])
        one_line_error(status, err, "'80:x'")

    def missing_image():
        status, _, err = run([rhea, "run", "--kernel", "/k", "--print-command", "/nonexistent.img"])
        one_line_error(status, err, "/nonexistent.img", "No such file")

    def other_format():
        status, out, err = run([rhea, "run", "--kernel", "/k", "--print-command", qcow2])
        expect(status == 0 and f"file={qcow2},format=qcow2,if=none" in out, out + err)

    def web():
        status, out, err = run([rhea, "run", "--web", "--print-command", raw])
        words = shlex.split(out)
        pairs = dict(zip(words, words[1:]))
        expect(status == 0 and "web=on,password-secret=web-password" in pairs["-vnc"] and pairs["-vga"] == "std", out + err)
        expect("graphics=off" not in out, "firmware would not use the screen")
        status, out, err = run([rhea, "run", "--web=0.0.0.0:7000", "--print-command", raw])
        expect("websocket=0.0.0.0:7000," in out, out + err)
        status, out, err = run([rhea, "run", "--web=7001", "--print-command", raw])
        expect("websocket=127.0.0.1:7001," in out, out + err)

    def few_libraries():
        """What is linked costs every start: other libraries are loaded when somebody wants them (src/host/library.h)."""
        cheap = {"libc", "libglib-2.0", "libjson-c", "libm", "liburcu-bp", "liburing", "libz", "libZydis", "ld-linux-x86-64"}
        sanitizers = {"libasan", "libubsan", "libtsan", "libgcc_s", "libstdc++"}
        for program in ("rhea-system-x86_64", "rhea-img", "rhea-io", "rhea-nbd", "rhea-storage"):
            _, out, err = run(["objdump", "-p", args.build / program])
            needed = set(re.findall(r"NEEDED\s+(\S+?)\.so", out))
            expect("libglib-2.0" in needed, f"{program}: {out}{err}")
            expect(needed <= cheap | sanitizers, f"{program} is linked with {sorted(needed - cheap - sanitizers)}")

    for name, function in list(locals().items()):
        if callable(function) and function.__name__ == name and name not in ("one_line_error",):
            tap.test(name.replace("_", " "), function)
    directory.cleanup()
    tap.finish()


if __name__ == "__main__":
    main()
