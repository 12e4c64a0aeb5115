#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real programs (programs/jobs/*.sh: compilers, codecs, cryptography, run-time translators, test suites) in a Linux guest
whose disk holds Debian's packages: each job's output is compared with what the same job in the same tree prints on the
host. `make soak-programs` runs all of them; --jobs some, --accel other settings of the translator, --long more settings."""
import argparse
import difflib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from harness import ROOT, Machine, Tap, cpio, expect  # noqa: E402

# What the job "compile" compiles, by gcc -E of this build's own commands.
SOURCES = ["src/accel/soft/jit/translate.c", "src/accel/soft/jit/varying.c", "src/arch/x86/decode.c",
           "src/accel/soft/interp/string.c", "src/hw/virtio/virtio_pci.c"]
LONG = ["tcg,windows=off", "tcg,stress=windows", "tcg,stress=evict+flush+poll", "tcg,elide=off,sites=off,loops=off"]


def all_jobs():
    return sorted(path.stem for path in (HERE / "programs/jobs").glob("*.sh"))


def limit_of(job):
    return int(re.search(r"^# timeout: (\d+)$", (HERE / f"programs/jobs/{job}.sh").read_text(), re.M).group(1))


def work_make(work, build):
    """What both sides find in /work."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "files").mkdir(parents=True)
    shutil.copytree(HERE / "programs/jobs", work / "jobs")
    shutil.copytree(HERE / "programs/files", work / "files", dirs_exist_ok=True)
    shutil.copy(HERE / "programs/run.sh", work)
    shutil.copy(HERE / "soak_guest.c", work / "files")
    subprocess.run(["openssl", "genrsa", "-out", work / "files/rsa.pem", "2048"], check=True, capture_output=True)
    commands = {os.path.realpath(build / c["file"]): c for c in json.loads((build / "compile_commands.json").read_text())}
    for source in SOURCES:
        command = commands.get(str(ROOT / source))
        expect(command, f"{build}/compile_commands.json does not tell how {source} is compiled")
        words = [w for w in shlex.split(command["command"]) if w.startswith(("-I", "-D", "-std", "-isystem"))]
        subprocess.run(["gcc", "-E", *words, ROOT / source, "-o", work / "files" / (pathlib.Path(source).stem + ".i")],
                       cwd=build, check=True)


def parse(text):
    """Job to (status, sum, seconds), of what run.sh prints."""
    return {name: (int(status), digest, float(seconds)) for name, status, digest, seconds in
            re.findall(r"^job (\S+) (\d+) ([0-9a-f]{64}) (\S+)$", text.replace("\r", ""), re.M)}


def host_run(tree, work, jobs):
    script = ('mount --bind "$1" "$2/work" && mount -t proc proc "$2/proc" && mount -t sysfs sysfs "$2/sys" && '
              'mount --rbind /dev "$2/dev" && mount -t tmpfs tmpfs "$2/tmp" && mount -t tmpfs tmpfs "$2/var/tmp" && '
              'mount -t tmpfs tmpfs "$2/run" && tree=$2 && shift 2 && exec chroot "$tree" /bin/sh /work/run.sh 3 "$@"')
    done = subprocess.run(["unshare", "-m", "-p", "-f", "sh", "-c", script, "sh", work, tree, *jobs], check=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return parse(done.stdout)


class Guest:
    """One boot that runs the jobs; results as host_run's, outputs and logs below `results`."""

    def __init__(self, args, guest, directory, work, accel):
        self.results = directory / "results"
        self.results.mkdir()
        init = directory / "init"
        packed = (guest / "initrd.gz").read_bytes()
        init.write_bytes(packed + bytes(-len(packed) % 4) +
                         cpio({"programs-init": (0o100755, (HERE / "programs/guest-init").read_bytes())}))
        disk = directory / "work.ext4"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", work, disk, "3G"], check=True, stdout=subprocess.DEVNULL)
        jobs = args.jobs
        arguments = ["-M", args.machine, "-accel", accel, "-cpu", args.cpu, "-smp", args.smp, "-m", args.memory, "-nodefaults",
                     "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", guest / "vmlinuz", "-initrd", init,
                     "-append", f"console=ttyS0 quiet panic=-1 rdinit=/programs-init programs.factor={args.factor} "
                                f"programs.jobs={','.join(jobs)}"]
        bus = "device" if args.machine == "microvm" else "pci"
        for serial, image, more in ("tree", args.tree / "tree.ext4", ",readonly=on"), ("work", disk, ",cache=unsafe"):
            arguments += ["-drive", f"file={image},format=raw,if=none,id={serial}{more}",
                          "-device", f"virtio-blk-{bus},drive={serial},serial={serial}"]
        self.arguments = [*arguments, *shlex.split(args.extra)]
        limit = sum(limit_of(job) for job in jobs) * args.factor + 300
        with Machine(args.build / "rhea-system-x86_64", self.arguments, directory) as vm:
            self.trouble = None
            try:
                vm.wait_text(r"programs: done", limit)
                expect(vm.wait(60) == 0, f"exit status {vm.process.returncode}\n{vm.tail()}")
            except Exception as problem:  # what was done so far is compared nevertheless
                self.trouble = problem
            self.text = vm.text().replace("\r", "")
        self.jobs = parse(self.text)
        for what in "out", "log":
            subprocess.run(["debugfs", "-R", f"rdump /{what} {self.results}", disk], capture_output=True)


def read(path):
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--guest", type=pathlib.Path)
    parser.add_argument("--tree", type=pathlib.Path, help="what programs/tree.sh made; default: BUILD/programs")
    parser.add_argument("--jobs", type=lambda text: text.split(","), default=all_jobs(), help=f"of {', '.join(all_jobs())}")
    parser.add_argument("--accel", action="append", help="as -accel takes it; may be repeated")
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--machine", default="pc")
    parser.add_argument("--smp", type=int, default=2)
    parser.add_argument("--memory", default="2048")
    parser.add_argument("--extra", default="", help="more options of Rhea")
    parser.add_argument("--factor", type=int, default=10, help="how much longer than on a quiet host a job may take")
    parser.add_argument("--long", action="store_true", help=f"also {', '.join(LONG)}")
    args = parser.parse_args()
    args.tree = (args.tree or args.build / "programs").resolve()
    args.build = args.build.resolve()
    guest = pathlib.Path(args.guest or os.environ.get("RHEA_GUEST") or args.build / "guest").resolve()
    tap = Tap()
    lacking = [p for p in ("mkfs.ext4", "debugfs", "unshare", "openssl", "gcc") if not shutil.which(p)]
    reason = (f"no guest in {guest}: run make guest" if not (guest / "vmlinuz").exists()
              else f"no {args.tree}/tree.ext4: run tests/cpu/programs/tree.sh" if not (args.tree / "tree.ext4").exists()
              else f"programs are missing: {', '.join(lacking)}" if lacking
              else "the host's part (chroot) needs root" if os.geteuid() else None)
    if reason:
        def missing():
            raise Tap.Skip(reason)
        tap.test("programs in a guest", missing)
        tap.finish()
    unknown = set(args.jobs) - set(all_jobs())
    if unknown:
        parser.error(f"no such job: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="rhea-programs-", dir=args.tree) as directory:
        directory = pathlib.Path(directory)
        pristine, work = directory / "pristine", directory / "host"
        work_make(pristine, args.build)
        shutil.copytree(pristine, work)
        host = host_run(args.tree / "tree", work, args.jobs)
        kept = args.tree / "results"
        shutil.rmtree(kept, ignore_errors=True)
        for what in "out", "log":
            shutil.copytree(work / what, kept / "host" / what)

        def host_job(job):
            expect(job in host, "did not end")
            expect(host[job][0] == 0, f"status {host[job][0]}\n" + "\n".join(read(work / "log" / job)[-20:]))
            expect((work / "out" / job).stat().st_size > 0, "printed nothing")

        for job in args.jobs:
            tap.test(f"host: {job}", host_job, job)
        for accel in args.accel or ["tcg", *(LONG if args.long else [])]:
            place = directory / "guest"
            place.mkdir()
            run = Guest(args, guest, place, pristine, accel)
            mine = kept / re.sub(r"[^a-z0-9=+]+", "-", accel)
            shutil.copytree(run.results, mine)
            (mine / "console").write_text(run.text)

            def guest_job(job):
                log = "\n".join(read(mine / "log" / job)[-25:])
                expect(job in run.jobs, f"did not end{' (started)' if f'start {job}' in run.text else ''}\n{log}")
                differences = list(difflib.unified_diff(read(work / "out" / job), read(mine / "out" / job), "host", "guest",
                                                        lineterm="", n=1))
                status, digest, seconds = run.jobs[job]
                print(f"# {job}: {host[job][2]:.1f} s on the host, {seconds:.1f} s in the guest")
                expect((status, digest) == host[job][:2], f"status {status}, on the host {host[job][0]}\n" +
                       "\n".join(differences[:40]) + f"\n{log}")

            def whole():
                if run.trouble:
                    raise run.trouble
                cpus = re.search(r"^programs: (\d+) CPUs$", run.text, re.M)
                expect(cpus and int(cpus.group(1)) == args.smp, "the guest does not have its CPUs")
                kernel = re.findall(r"^kernel: .*$", run.text, re.M)
                expect(not kernel, "\n".join(kernel[:20]))

            for job in args.jobs:
                tap.test(f"-accel {accel}: {job}", guest_job, job)
            tap.test(f"-accel {accel}: the guest itself", whole)
            shutil.rmtree(place)
    tap.finish()


if __name__ == "__main__":
    main()
