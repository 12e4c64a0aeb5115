#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU models against QEMU 7.2, where it is installed: names, aliases, identities, levels, the feature set of every version, the
text of -cpu help, and what is said of features that cannot be had. Differences that are meant are listed here, with reasons."""
import argparse
import pathlib
import re
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, Machine, Tap, expect, run, tiny_kernel  # noqa: E402

QEMU = "qemu-system-x86_64"
ANY = {"max", "host"}  # what the accelerator gives, which differs; "base" has none

# The software CPU has KVM's interfaces, and the x2APIC with them; QEMU adds them to its models under KVM only. (The last three
# are not among QEMU's defaults: vCPUs here share few cores.)
KVM = {"kvmclock", "kvm-nopiodelay", "kvm-steal-time", "kvm-pv-eoi", "kvmclock-stable-bit", "x2apic",
       "kvm-pv-unhalt", "kvm-pv-tlb-flush", "kvm-pv-ipi"}
# QEMU under KVM takes these away from its models, and Rhea everywhere; SVM's own features go with it.
NOT_KVM = {"acpi", "monitor", "svm", "npt", "nrip-save", "svme-addr-chk"}
# Nothing leaks between a guest's privileges: guests leave their mitigations off. Models with long mode say so.
SAFE_INTEL = {"spec-ctrl", "arch-capabilities", "rdctl-no", "ibrs-all", "skip-l1dfl-vmentry", "ssb-no", "mds-no",
              "pschange-mc-no", "taa-no", "sbdr-ssdp-no", "fbsdp-no", "psdp-no", "bhi-no", "pbrsb-no", "gds-no", "rfds-no"}
SAFE_AMD = {"arat", "osvw", "auto-ibrs", "srso-no", "amd-no-ssb", "btc-no", "ibpb", "lfence-always-serializing",
            "null-sel-clr-base", "no-nested-data-bp"}
# QEMU's translator has none, and its answers hide it in every model.
HIDDEN = {"vme"}


def safe(props):
    """What a model says besides QEMU's: features, and the levels that the leaves need which hold them."""
    if not props["lm"]:
        return set(), {}
    if props["vendor"] in ("AuthenticAMD", "HygonGenuine"):
        return SAFE_AMD, {"level": max(props["level"], 6), "xlevel": max(props["xlevel"], 0x80000021)}
    return SAFE_INTEL, {"level": max(props["level"], 7)}


def features(props):
    return {name for name, value in props.items() if value is True}


class Models:
    """What an emulator tells of its models."""

    def __init__(self, binary, machine):
        with tempfile.TemporaryDirectory(prefix="rhea-cpu-") as directory:
            with Machine(binary, ["-M", machine, "-accel", "tcg", "-nodefaults", "-display", "none", "-S",
                                  "-qmp", f"unix:{directory}/qmp,server=on,wait=off",
                                  *(["-kernel", tiny_kernel(directory)] if machine == "microvm" else [])], directory) as vm:
                version = vm.qmp.command("query-version")["qemu"]
                self.version = (version["major"], version["minor"])
                self.definitions = {d["name"]: d for d in vm.qmp.command("query-cpu-definitions")}
                self.static, self.full = {}, {}
                for name in self.definitions if machine == "pc" else ():
                    for kind, table in (("static", self.static), ("full", self.full)):
                        reply = vm.qmp.command("query-cpu-model-expansion", type=kind, model={"name": name})
                        table[name] = reply["model"]["props"]
                self.properties = {p["name"] for p in vm.qmp.command("qom-list-properties", typename="qemu64-x86_64-cpu")}


def help_of(binary):
    text = run([binary, "-cpu", "help"])[1]
    models, flags = text.split("Recognized CPUID flags:\n")
    models = dict(line.split(None, 2)[1:] if len(line.split(None, 2)) == 3 else (line.split()[1], "")
                  for line in models.splitlines() if line.startswith("x86 "))
    return {name: " ".join(text.split()) for name, text in models.items()}, set(flags.split())


def complaints(binary, cpu):
    """What is said of a CPU that cannot be had, without the program's name."""
    status, _, err = run([binary, "-M", "pc", "-accel", "tcg", "-nodefaults", "-display", "none",
                          "-S", "-cpu", cpu])
    return status, [re.sub(r"^\S*(qemu|rhea)-system-x86_64: ", "", line) for line in err.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    binary = args.build / "rhea-system-x86_64"
    tap = Tap()
    qemu = Models(QEMU, "pc") if shutil.which(QEMU) else None
    if qemu is None or qemu.version != (7, 2):
        def skipped():
            raise Tap.Skip(f"no {QEMU} 7.2")
        tap.test("cpu models", skipped)
        tap.finish()
    rhea = Models(binary, "pc")

    def names():
        expect(set(qemu.definitions) == set(rhea.definitions),
               f"names: {set(qemu.definitions) ^ set(rhea.definitions)}")
        for name, theirs in qemu.definitions.items():
            ours = rhea.definitions[name]
            for key in ("alias-of", "static", "migration-safe", "deprecated", "typename"):
                expect(theirs.get(key) == ours.get(key), f"{name}: {key}: {ours.get(key)}, not {theirs.get(key)}")

    def latest():
        theirs, ours = Models(QEMU, "microvm").definitions, Models(binary, "microvm").definitions
        expect(theirs["EPYC"]["alias-of"] != "EPYC-v1", "QEMU's microvm takes latest versions")
        for name, entry in theirs.items():
            expect(entry.get("alias-of") == ours[name].get("alias-of"), f"{name} is {ours[name].get('alias-of')}")

    def identities():
        for name, theirs in qemu.full.items():
            if name in ANY:
                continue
            ours = rhea.full[name]
            theirs = {**theirs, **safe(theirs)[1]}
            for key in ("vendor", "family", "model", "stepping", "model-id", "level", "xlevel"):
                expect(theirs[key] == ours[key], f"{name}: {key}: {ours[key]!r}, not {theirs[key]!r}")

    def feature_sets():
        for name, theirs in qemu.static.items():
            if name in ANY:
                continue
            missing = set(rhea.definitions[name]["unavailable-features"])
            shown = features(rhea.static[name])
            expect(not missing & shown, f"{name} shows what it cannot have: {missing & shown}")
            wanted = features(theirs)
            if name != "base":
                wanted = (wanted | KVM | safe(qemu.full[name])[0]) - NOT_KVM
            wrong = (wanted ^ (shown | missing)) - HIDDEN
            expect(not wrong, f"{name}: too many: {sorted(wrong - wanted)}, too few: {sorted(wrong & wanted)}")

    def help_text():
        (theirs, their_flags), (ours, our_flags) = help_of(QEMU), help_of(binary)
        expect(list(theirs) == list(ours), f"names or their order: {set(theirs) ^ set(ours)}")
        for name, text in theirs.items():
            expect(name in ANY or ours[name] == text, f"{name}: {ours[name]!r}, not {text!r}")
        expect(their_flags <= our_flags, f"flags: {sorted(their_flags - our_flags)}")
        expect(their_flags <= rhea.properties, f"properties: {sorted(their_flags - rhea.properties)}")

    def words():
        for cpu in ("qemu64,+rtm", "kvm64,+avx512-fp16,+hle", "qemu64,+amx-tile,+split-lock-detect,+core-capability",
                    "kvm64,+intel-pt,+sgx,+sgx1"):
            theirs, ours = complaints(QEMU, f"{cpu},enforce"), complaints(binary, f"{cpu},enforce")
            expect(theirs[0] == ours[0] == 1, f"{cpu}: {ours}")
            expect(set(theirs[1]) <= set(ours[1]), f"{cpu}: said {ours[1]}, not {theirs[1]}")
        status, lines = complaints(binary, "Skylake-Server-v6")
        expect(status == 1 and any("unable to find CPU model 'Skylake-Server-v6'" in line for line in lines), f"{lines}")

    tap.test("names, aliases and what is told of them", names)
    tap.test("microvm takes the latest versions", latest)
    tap.test("vendor, family, model, stepping, name and levels", identities)
    tap.test("features of every version", feature_sets)
    tap.test("-cpu help", help_text)
    tap.test("what is said of features that are missing", words)
    tap.finish()


if __name__ == "__main__":
    main()
