#!/usr/bin/env python3
# mmu_refill() runs while the guest's vector registers are live and translated code waits for it: the machine code of its
# file must neither touch such registers nor call anything outside. SPDX-License-Identifier: GPL-2.0-or-later
import re
import shutil
import subprocess
import sys

ALLOWED = {"mmu_load_general", "mmu_store_general"}  # undefined symbols; where the interpreter's misses end


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def main():
    print("1..3")
    if not shutil.which("objdump") or not shutil.which("nm"):
        for n, name in enumerate(("defines mmu_refill", "calls nothing outside", "no vector registers"), 1):
            print("ok %d %s # SKIP no objdump" % (n, name))
        return 0
    library = sys.argv[1]
    defined = {line.split()[0] for line in output("nm", "--defined-only", "--format=posix", library).splitlines()
               if len(line.split()) > 1}
    undefined = {line.split()[0] for line in output("nm", "--undefined-only", "--format=posix", library).splitlines()
                 if len(line.split()) > 1}
    code = output("objdump", "-d", "--no-show-raw-insn", library)
    bad, function, count = set(), "", 0
    for line in code.splitlines():
        m = re.match(r"[0-9a-f]+ <([^>]+)>:", line)
        if m:
            function = m.group(1)
        elif "\t" in line:
            count += 1
            # %fs holds the host's thread pointer, or whatever translated code has put there
            if re.search(r"%([xyz]mm\d|mm\d|st\b|k[0-7]\b|fs:)", line):
                bad.add("%s: %s" % (function, line.strip()))
    ok = True
    for n, (name, problems) in enumerate((
            ("defines mmu_refill", set() if "mmu_refill" in defined and count > 100 else {"%d instructions" % count}),
            ("calls nothing outside", undefined - ALLOWED),
            ("no vector registers", bad)), 1):
        for problem in sorted(problems):
            print("# %s" % problem)
        print("%s %d %s" % ("not ok" if problems else "ok", n, name))
        ok = ok and not problems
    return 0 if ok else 1


sys.exit(main())
