#!/usr/bin/env python3
# The interpreter's handlers must go on to the next operation by a jump: a call would let a guest's loop overflow the
# stack. Looks at the machine code of the library. SPDX-License-Identifier: GPL-2.0-or-later
import re
import shutil
import subprocess
import sys


def main():
    print("1..1")
    if not shutil.which("objdump"):
        print("ok 1 handlers end with jumps # SKIP no objdump")
        return 0
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", sys.argv[1]], stdout=subprocess.PIPE, check=True,
                          text=True).stdout
    function, bad, jumps = "", [], 0
    for line in text.splitlines():
        m = re.match(r"[0-9a-f]+ <([^>]+)>:", line)
        if m:
            function = m.group(1)
        # An operation is 32 bytes and its handler comes first: the next handler is at 0x20.
        elif re.search(r"\bcall +\*0x20\(%r", line):
            bad.append(function)
        elif re.search(r"\bjmp +\*", line):
            jumps += 1
    for name in sorted(set(bad)):
        print("# calls the next operation: %s" % name)
    ok = not bad and jumps > 500
    print("%s 1 handlers end with jumps" % ("ok" if ok else "not ok"))
    return 0 if ok else 1


sys.exit(main())
