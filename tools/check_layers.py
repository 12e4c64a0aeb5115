#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks the order of the floors (layers.toml): what each folder of src/ includes and, given a build directory,
whose symbols its static library uses. Prints one line per violation; exit status 1 where there is one."""
import argparse
import pathlib
import re
import subprocess
import sys
import tomllib

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def folder_of(path, folders):
    """The longest folder of the plan that a path lies in, or None."""
    parts = pathlib.PurePosixPath(path).parts[:-1]
    for n in range(len(parts), 0, -1):
        name = "/".join(parts[:n])
        if name in folders:
            return name
    return None


class Plan:
    def __init__(self, text):
        data = tomllib.loads(text)
        self.floors = data["floors"]
        self.edges = data.get("edges", {})
        for folder, siblings in self.edges.items():
            for other in siblings:
                if self.floors[folder] != self.floors[other]:
                    raise SystemExit(f"layers.toml: edge {folder} -> {other} joins different floors")
        self.reject_cycles()

    def reject_cycles(self):
        done, path = set(), []

        def visit(folder):
            if folder in path:
                raise SystemExit("layers.toml: cycle " + " -> ".join(path[path.index(folder):] + [folder]))
            if folder in done:
                return
            path.append(folder)
            for other in self.edges.get(folder, []):
                visit(other)
            path.pop()
            done.add(folder)

        for folder in self.floors:
            visit(folder)

    def allows(self, user, used):
        return user == used or self.floors[used] < self.floors[user] or used in self.edges.get(user, [])


def check_includes(plan, src):
    bad = []
    for path in sorted(src.rglob("*.[ch]")):
        relative = path.relative_to(src).as_posix()
        user = folder_of(relative, plan.floors)
        if user is None:
            bad.append(f"src/{relative}: its folder is not in layers.toml")
            continue
        for include in INCLUDE.findall(path.read_text(errors="replace")):
            used = folder_of(include, plan.floors)
            if used and not plan.allows(user, used):
                bad.append(f"src/{relative}: {user} (floor {plan.floors[user]}) must not include {include} "
                           f"(floor {plan.floors[used]})")
    return bad


def symbols(library, kind):
    """The defined (kind 'D') or undefined ('U') global symbols of a static library."""
    flag = "--defined-only" if kind == "D" else "--undefined-only"
    out = subprocess.run(["nm", "--extern-only", flag, "--format=posix", str(library)], capture_output=True, text=True,
                         check=True).stdout
    return {line.split()[0] for line in out.splitlines() if line and not line.endswith(":")}


def check_symbols(plan, build):
    bad, owner, libraries = [], {}, {}
    for folder in plan.floors:
        library = build / "src" / f"librhea_{folder.replace('/', '_')}.a"
        if library.exists():
            libraries[folder] = library
            for symbol in symbols(library, "D"):
                owner.setdefault(symbol, folder)
    for folder, library in libraries.items():
        for symbol in sorted(symbols(library, "U")):
            used = owner.get(symbol)
            if used and not plan.allows(folder, used):
                bad.append(f"{library.name}: {folder} must not use {symbol} of {used}")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--build", type=pathlib.Path, help="build directory, to check symbols too")
    args = parser.parse_args()
    plan = Plan((args.root / "layers.toml").read_text())
    bad = check_includes(plan, args.root / "src")
    if args.build:
        bad += check_symbols(plan, args.build)
    print("\n".join(bad) if bad else "layers: every folder keeps to its floor")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
