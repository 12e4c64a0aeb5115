#!/usr/bin/env python3
# Random operations on one qcow2 image, by QEMU's tools and Rhea's in turn, against a copy in memory; both check it and
# read it back. SPDX-License-Identifier: GPL-2.0-or-later
import argparse, os, random, shutil, subprocess, sys, tempfile

SIZE = 8 << 20
KINDS = ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "refcount_bits=1",
         "refcount_bits=64,cluster_size=4k", "lazy_refcounts=on", "compression_type=zstd", "journal=on"]


def run(*args):
    p = subprocess.run(args, capture_output=True, text=True)
    if p.returncode:
        raise AssertionError(f"{' '.join(args)}: exit status {p.returncode}: {p.stdout}{p.stderr}")
    return p.stdout


class Image:
    def __init__(self, directory, tools, options, seed):
        self.path = os.path.join(directory, "image.qcow2")
        self.dump = os.path.join(directory, "dump.raw")
        self.tools, self.rand = tools, random.Random(seed)
        self.options, self.touched, self.packed = options, set(), set()
        self.model = bytearray(SIZE)
        self.snapshot = None
        self.cluster = {"512": 512, "4k": 4096, "2M": 2 << 20}.get(options.split("cluster_size=")[-1], 65536)
        maker = tools[1] if "journal" in options else self.rand.choice(tools)
        run(maker["img"], "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), self.path, str(SIZE))

    def commands(self, tool):
        # QEMU 7.2 goes on in the host cluster that it last compressed into, after a write has freed it and another has
        # taken it: its next compressed write in that run destroys the other's data. So it compresses no more then.
        out, squeezed, stale = [], set(), False
        for _ in range(self.rand.randrange(1, 12)):
            unit = self.rand.choice([512, 4096, 65536])
            at = self.rand.randrange(SIZE // unit) * unit
            size = min(self.rand.randrange(1, 12) * unit, SIZE - at)
            kind = self.rand.choice(["write", "write", "zero", "compressed", "flush"])
            covered = range(at // self.cluster, (at + size - 1) // self.cluster + 1)
            if kind == "zero" and tool is self.tools[0] and self.packed.intersection(covered):
                kind = "flush"  # QEMU 7.2 loses count of references when it zeroes compressed clusters
            if kind == "write":
                value = self.rand.randrange(1, 256)
                out.append(f"write -P {value} {at} {size}")
                self.model[at:at + size] = bytes([value]) * size
                stale = stale or (tool is self.tools[0] and not squeezed.isdisjoint(covered))
            elif kind == "zero":
                out.append(f"write -z {'-u ' if self.rand.random() < .5 else ''}{at} {size}")
                self.model[at:at + size] = bytes(size)
            elif kind == "flush":
                out.append("flush")
            else:
                at = at // self.cluster * self.cluster
                # An allocated cluster cannot be compressed by every version of QEMU: only empty ones.
                if not stale and not any(self.model[at:at + self.cluster]) and self.fresh(at):
                    value = self.rand.randrange(1, 256)
                    out.append(f"write -c -P {value} {at} {self.cluster}")
                    self.model[at:at + self.cluster] = bytes([value]) * self.cluster
                    self.packed.add(at // self.cluster)
                    squeezed.add(at // self.cluster)
            self.touched.add(at // self.cluster)
            self.touched.update(range(at // self.cluster, (at + size) // self.cluster + 1))
        return out

    def fresh(self, at):
        return at // self.cluster not in self.touched

    def step(self):
        tool = self.rand.choice(self.tools)
        args = [a for c in self.commands(tool) for a in ("-c", c)]
        if args:
            run(tool["io"], "-f", "qcow2", *args, self.path)
        # A snapshot takes a second reference.
        if self.rand.random() < .15 and "refcount_bits=1" not in self.options:
            if self.snapshot is None:
                run(self.rand.choice(self.tools)["img"], "snapshot", "-c", "s", self.path)
                self.snapshot = bytes(self.model)
            else:
                if self.rand.random() < .5:
                    run(self.rand.choice(self.tools)["img"], "snapshot", "-a", "s", self.path)
                    self.model = bytearray(self.snapshot)
                run(self.rand.choice(self.tools)["img"], "snapshot", "-d", "s", self.path)
                self.snapshot = None

    def agree(self):
        for tool in self.tools:
            run(tool["img"], "check", "-q", "-f", "qcow2", self.path)
            run(tool["img"], "convert", "-f", "qcow2", "-O", "raw", self.path, self.dump)
            with open(self.dump, "rb") as f:
                got = f.read()
            if got != self.model:
                first = next(i for i in range(SIZE) if got[i:i + 1] != self.model[i:i + 1])
                raise AssertionError(f"{tool['img']} reads {got[first]:#x} at {first:#x}, not {self.model[first]:#x}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--kind", type=int, choices=range(1, len(KINDS) + 1), help="only the test of this number")
    args = parser.parse_args()
    tools = [{"img": shutil.which("qemu-img"), "io": shutil.which("qemu-io")},
             {"img": os.path.join(args.build, "rhea-img"), "io": os.path.join(args.build, "rhea-io")}]
    if not all(tools[0].values()):
        print("1..0 # SKIP qemu-img and qemu-io (package qemu-utils) are not installed")
        return 0
    if not all(os.path.exists(t) for t in tools[1].values()):
        print("1..0 # SKIP this build has no rhea-img and rhea-io")
        return 0
    print(f"1..{len(KINDS)}\n# seed {args.seed}")
    failed = 0
    for n, options in enumerate(KINDS):
        if args.kind not in (None, n + 1):
            print(f"ok {n + 1} {options or 'default'} # SKIP not asked for")
            continue
        with tempfile.TemporaryDirectory() as directory:
            try:
                image = Image(directory, tools, options, args.seed + n)
                for i in range(args.steps):
                    image.step()
                    if i % 5 == 4:
                        image.agree()
                print(f"ok {n + 1} {options or 'default'}")
            except AssertionError as e:
                failed += 1
                print(f"not ok {n + 1} {options or 'default'}")
                print("\n".join("# " + line for line in str(e).splitlines()))
    return 1 if failed else 0


sys.exit(main())
