#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""rhea-storage by its command line and QMP, TLS at both ends of NBD, replication between two processes, and the clients
that people have: libnbd's tools, nbdkit, fio, guestfish, and QEMU's programs on the other end of a mirror."""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Qmp, Tap, expect, run  # noqa: E402

MIB = 1 << 20


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Tap.Skip(f"the host has no {program}")


class Server:
    """A program of ours (or another's) that runs until it is told to end; with a directory for its sockets."""

    def __init__(self, argv, cwd, ready):
        self.process = subprocess.Popen([str(a) for a in argv], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 30
        while not ready.exists():
            if self.process.poll() is not None:
                raise AssertionError(f"{argv[0]} ended: {self.process.stdout.read()}")
            expect(time.monotonic() < deadline, f"{argv[0]} does not listen at {ready}")
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.output = self.process.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.output = self.process.communicate()[0]
            raise AssertionError("the server did not end on SIGTERM")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    args = parser.parse_args()
    build = args.build.resolve()
    tap = Tap()
    temporary = tempfile.TemporaryDirectory(prefix="rhea-storage-")
    top = pathlib.Path(temporary.name)
    storage, nbd, img, io = (build / name for name in ("rhea-storage", "rhea-nbd", "rhea-img", "rhea-io"))

    def place(name):
        where = top / name
        where.mkdir()
        return where

    def ok(*argv, cwd, **options):
        status, out, err = run(argv, cwd=cwd, **options)
        expect(status == 0, f"{' '.join(map(str, argv))}: status {status}: {out}{err}")
        return out

    def fails(reason, *argv, cwd):
        status, out, err = run(argv, cwd=cwd)
        expect(status != 0 and reason in out + err, f"{' '.join(map(str, argv))}: status {status}: {out}{err}")

    def noise(path, size, seed=1):
        path.write_bytes(random.Random(seed).randbytes(size))

    def daemon(cwd, *options):
        """rhea-storage with QMP; gives the server and its monitor."""
        server = Server([storage, *options, "--chardev", "socket,id=qmp,path=qmp.sock,server=on,wait=off", "--monitor",
                         "chardev=qmp"], cwd, cwd / "qmp.sock")
        return server, Qmp(cwd / "qmp.sock")

    def uri(cwd, export="disk", sock="nbd.sock"):
        return f"nbd+unix:///{export}?socket={cwd / sock}"

    def unix_server(cwd, extra=""):
        return f"addr.type=unix,addr.path={cwd / 'nbd.sock'}{extra}"

    def certificates(cwd):
        need("certtool")
        if (cwd / "ca-cert.pem").exists():
            return
        for name, template in (("ca", "cn=Test CA\nca\ncert_signing_key\n"),
                               ("server", "cn=localhost\ndns_name=localhost\nip_address=127.0.0.1\ntls_www_server\n"
                                          "signing_key\nencryption_key\n"),
                               ("client", "cn=alice\norganization=Rhea\ntls_www_client\nsigning_key\nencryption_key\n")):
            (cwd / f"{name}.info").write_text(template + "expiration_days=30\n")
            ok("certtool", "--generate-privkey", "--outfile", f"{name}-key.pem", "--key-type=ecdsa", cwd=cwd)
            sign = ["--generate-self-signed", "--load-privkey", "ca-key.pem"] if name == "ca" else \
                ["--generate-certificate", "--load-ca-certificate", "ca-cert.pem", "--load-ca-privkey", "ca-key.pem",
                 "--load-privkey", f"{name}-key.pem"]
            ok("certtool", *sign, "--template", f"{name}.info", "--outfile", f"{name}-cert.pem", cwd=cwd)

    helpers = set(locals())

    # ---- rhea-storage ----

    def help_and_man():
        cwd = place("help")
        out = ok(storage, "--help", cwd=cwd)
        for option in ("--blockdev", "--export", "--nbd-server", "--chardev", "--monitor", "--object", "--pidfile",
                       "--daemonize"):
            expect(option in out, f"--help does not tell of {option}")
        expect("rhea-storage version 7.2.0" in ok(storage, "--version", cwd=cwd), "version")
        expect(".SH OPTIONS" in (build / "rhea-storage.1").read_text(), "man page")

    def bad_command_lines():
        cwd = place("bad")
        fails("Unexpected argument: disk.raw", storage, "disk.raw", cwd=cwd)
        fails("unrecognized option", storage, "--nosuch", cwd=cwd)
        fails("No such file", storage, "--blockdev", "driver=file,node-name=f,filename=nosuch", cwd=cwd)
        fails("NBD server not running", storage, "--blockdev", "null-co,node-name=n", "--export", "nbd,id=e,node-name=n",
              cwd=cwd)
        fails("chardev \"x\" not found", storage, "--monitor", "x", cwd=cwd)
        fails("mode=control", storage, "--chardev", "null,id=c", "--monitor", "c,mode=readline", cwd=cwd)
        fails("No such file", storage, "--daemonize", "--blockdev", "driver=file,node-name=f,filename=nosuch", cwd=cwd)
        fails("No TLS credentials", storage, "--nbd-server", unix_server(cwd, ",tls-creds=nosuch"), cwd=cwd)

    def daemonize_and_pidfile():
        cwd = place("daemon")
        ok(img, "create", "-f", "qcow2", "d.qcow2", "16M", cwd=cwd)
        ok(storage, "--blockdev", "driver=file,node-name=f,filename=d.qcow2", "--blockdev", "qcow2,node-name=d,file=f",
           "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--export", "nbd,id=e,node-name=d,name=disk,writable=on",
           "--pidfile", "pid", "--daemonize", cwd=cwd)
        pid = int((cwd / "pid").read_text())
        ok(io, "-f", "raw", "-c", "write -P 7 0 64k", "-c", "flush", uri(cwd), cwd=cwd)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while (cwd / "pid").exists():
            expect(time.monotonic() < deadline, "the pid file stays")
            time.sleep(0.01)
        expect(not (cwd / "nbd.sock").exists(), "the socket stays")
        ok(io, "-f", "qcow2", "-c", "read -P 7 0 64k", "d.qcow2", cwd=cwd)
        ok(img, "check", "d.qcow2", cwd=cwd)

    def create_of_small_formats():
        """blockdev-create: into a node that is there (and not empty), or one that it describes; as -o would do it."""
        cwd = place("create")
        cases = (("vdi", {}, ""), ("vdi", {"preallocation": "metadata"}, "static=on"),
                 ("vhdx", {"log-size": 2 << 20, "block-size": 1 << 20, "subformat": "fixed"},
                  "log_size=2M,block_size=1M,subformat=fixed"),
                 ("vpc", {"subformat": "fixed", "force-size": True}, "subformat=fixed,force_size=on"), ("vpc", {}, ""),
                 ("parallels", {"cluster-size": 65536}, "cluster_size=64k"), ("qcow", {}, ""),
                 ("qed", {"cluster-size": 4096, "table-size": 2}, "cluster_size=4096,table_size=2"),
                 ("vmdk", {"adapter-type": "lsilogic", "hwversion": "6"}, "adapter_type=lsilogic,hwversion=6"),
                 ("luks", {"key-secret": "s", "iter-time": 10, "cipher-alg": "aes-128"},
                  "key-secret=s,iter-time=10,cipher-alg=aes-128"))
        server, qmp = daemon(cwd, "--object", "secret,id=s,data=open")
        secret = ["--object", "secret,id=s,data=open"]

        def create(**options):
            qmp.command("blockdev-create", job_id="j", options=options)
            while qmp.command("query-jobs")[0]["status"] != "concluded":
                time.sleep(0.005)
            answer = qmp.command("query-jobs")[0].get("error")
            qmp.command("job-dismiss", id="j")
            return answer

        def told(path, form):
            spec = f"driver={form},file.filename={path}" + (",key-secret=s" if form == "luks" else "")
            text = ok(img, "info", *secret, "--image-opts", spec, cwd=cwd)
            return [line for line in text.splitlines()
                    if not re.search(r"image: |uuid|cid:|filename|disk size|salt|iters|virtual size: .*bytes", line, re.I)]

        with server:
            for form, options, text in cases:
                (cwd / "there").write_bytes(b"\xff" * 100000)
                (cwd / "other").write_bytes(b"")
                qmp.command("blockdev-add", driver="file", node_name="f", filename=str(cwd / "there"))
                answer = create(driver=form, file="f", size=8 << 20, **options)
                expect(answer is None, f"{form} {options}: {answer}")
                qmp.command("blockdev-del", node_name="f")
                answer = create(driver=form, file={"driver": "file", "filename": str(cwd / "other")}, size=8 << 20, **options)
                expect(answer is None, f"{form} {options}: {answer}")
                ok(img, "create", "-q", *secret, "-f", form, *(["-o", text] if text else []), "named", "8M", cwd=cwd)
                for path in ("there", "other"):
                    expect(told(path, form) == told("named", form), f"{form} {options}: {told(path, form)}, {told('named', form)}")
                    spec = f"driver={form},file.filename={path}" + (",key-secret=s" if form == "luks" else "")
                    ok(io, *secret, "-c", "read -P 0 0 1M" if form != "luks" else "read 0 1M", "-c", "write -P 5 3M 70000",
                       "-c", "read -P 5 3M 70000", "--image-opts", spec, cwd=cwd)
                expect("node" not in str(qmp.command("query-named-block-nodes")), "nodes are left")
            (cwd / "flat").write_bytes(b"")
            file, extent = ({"driver": "file", "filename": str(cwd / name)} for name in ("there", "flat"))
            expect("one extent" in create(driver="vmdk", file=file, size=1 << 20, subformat="monolithicFlat"), "no extent")
            answer = create(driver="vmdk", file=file, size=1 << 20, subformat="monolithicFlat", extents=[extent])
            expect(answer is None, answer)
            ok(io, "-f", "vmdk", "-c", "write -P 5 1000 70000", "there", cwd=cwd)
            ok(io, "-f", "raw", "-c", "read -P 5 1000 70000", "flat", cwd=cwd)
            expect("is not supported for VDI" in create(driver="vdi", file=file, size=1, preallocation="full"), "full")
            expect("No such file" in create(driver="vdi", file={"driver": "file", "filename": "/no/such"}, size=1), "file")
            reply = qmp.execute("blockdev-create", job_id="j", options={"driver": "bochs"})
            expect("error" in reply, reply)

    def qmp_of_exports():
        cwd = place("exports")
        server, qmp = daemon(cwd, "--blockdev", "null-co,node-name=n,size=1048576,read-zeroes=on")
        with server:
            names = {c["name"] for c in qmp.command("query-commands")}
            expect("block-export-add" in names and "system_reset" not in names, names)
            schema = {e["name"] for e in qmp.command("query-qmp-schema") if e["meta-type"] == "command"}
            expect(schema == names, schema ^ names)
            expect(qmp.execute("cont")["error"]["class"] == "CommandNotFound", "a machine's command is there")
            expect("not running" in qmp.execute("nbd-server-stop")["error"]["desc"], "stop without a server")
            addr = {"type": "unix", "data": {"path": str(cwd / "nbd.sock")}}
            qmp.command("nbd-server-start", addr=addr, max_connections=2)
            expect("already running" in qmp.execute("nbd-server-start", addr=addr)["error"]["desc"], "two servers")
            qmp.command("block-export-add", type="nbd", id="e0", node_name="n", name="disk", writable=True)
            reply = qmp.execute("block-export-add", type="nbd", id="e0", node_name="n", name="other")
            expect("already in use" in reply["error"]["desc"], reply)
            reply = qmp.execute("block-export-add", type="nbd", id="e1", node_name="n", name="disk")
            expect("already has export" in reply["error"]["desc"], reply)
            qmp.command("nbd-server-add", device="n", name="ro")
            expect([e["id"] for e in qmp.command("query-block-exports")] == ["e0", "ro"], "the list")
            expect("in use" in qmp.execute("blockdev-del", node_name="n")["error"]["desc"], "deleted in use")
            # One client is there: safe refuses, hard ends its connection.
            client = subprocess.Popen([str(io), "-f", "raw", uri(cwd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True)
            client.stdin.write("read 0 512\n")
            client.stdin.flush()
            expect("512/512" in client.stdout.readline() + client.stdout.readline(), "the client reads")
            expect("still in use" in qmp.execute("block-export-del", id="e0")["error"]["desc"], "safe")
            qmp.command("block-export-del", id="e0", mode="hard")
            expect(qmp.wait_event("BLOCK_EXPORT_DELETED")["data"]["id"] == "e0", "the event")
            out = client.communicate("read 0 512\nquit\n", timeout=30)[0]
            expect("read failed" in out, out)
            qmp.command("nbd-server-remove", name="ro")
            qmp.command("nbd-server-stop")
            qmp.command("blockdev-del", node_name="n")
            qmp.command("quit")
            expect(server.process.wait(timeout=30) == 0, "quit")

    def jobs_and_bitmaps():
        cwd = place("jobs")
        noise(cwd / "a.raw", 8 * MIB)
        ok(img, "create", "-f", "qcow2", "b.qcow2", "8M", cwd=cwd)
        server, qmp = daemon(cwd, "--blockdev", "driver=file,node-name=a,filename=a.raw", "--blockdev",
                             "driver=file,node-name=bf,filename=b.qcow2", "--blockdev", "qcow2,node-name=b,file=bf",
                             "--nbd-server", unix_server(cwd))
        with server:
            qmp.command("blockdev-mirror", job_id="m", device="a", target="b", sync="full")
            qmp.wait_event("BLOCK_JOB_READY")
            qmp.command("job-complete", id="m")
            qmp.wait_event("BLOCK_JOB_COMPLETED")
            qmp.command("block-dirty-bitmap-add", node="b", name="bm")
            qmp.command("block-export-add", type="nbd", id="e", node_name="b", name="disk", bitmaps=["bm"])
            out = ok(img, "map", "--output=json", "--image-opts",
                     f"driver=nbd,server.type=unix,server.path={cwd / 'nbd.sock'},export=disk,x-dirty-bitmap=qemu:dirty-bitmap:bm",
                     cwd=cwd)
            expect(json.loads(out)[0]["length"] == 8 * MIB, out)
        ok(img, "compare", "-f", "raw", "-F", "qcow2", "a.raw", "b.qcow2", cwd=cwd)

    def point_in_time_export():
        """copy-before-write and snapshot-access: a client reads the disk as it was while another writes it."""
        cwd = place("fleecing")
        noise(cwd / "a.raw", 4 * MIB)
        before = (cwd / "a.raw").read_bytes()
        ok(img, "create", "-f", "qcow2", "old.qcow2", "4M", cwd=cwd)
        server, _ = daemon(cwd, "--blockdev", "driver=file,node-name=a,filename=a.raw", "--blockdev",
                           "driver=file,node-name=of,filename=old.qcow2", "--blockdev", "qcow2,node-name=old,file=of",
                           "--blockdev", "copy-before-write,node-name=cbw,file=a,target=old",
                           "--blockdev", "snapshot-access,node-name=snap,file=cbw", "--nbd-server", unix_server(cwd),
                           "--export", "nbd,id=w,node-name=cbw,name=disk,writable=on", "--export",
                           "nbd,id=s,node-name=snap,name=snap")
        with server:
            ok(io, "-f", "raw", *[w for i in range(20) for w in ("-c", f"write -P {i} {i * 200000} 1000")], uri(cwd), cwd=cwd)
            ok(img, "convert", "-f", "raw", "-O", "raw", uri(cwd, "snap"), "snap.raw", cwd=cwd)
        expect((cwd / "snap.raw").read_bytes() == before, "the snapshot changed")
        expect((cwd / "a.raw").read_bytes() != before, "nothing was written")

    def replication_over_nbd():
        """QEMU's docs/block-replication.txt with two processes; the primary dies, the secondary has the checkpoint."""
        one, two = place("primary"), place("secondary")
        for cwd in (one, two):
            noise(cwd / "disk.raw", 4 * MIB, seed=5)
        for name in ("active", "hidden"):
            ok(img, "create", "-f", "qcow2", f"{name}.qcow2", "4M", cwd=two)
        primary, pq = daemon(one, "--blockdev", "driver=file,node-name=local,filename=disk.raw", "--blockdev",
                             "quorum,node-name=colo,read-pattern=fifo,vote-threshold=1,children.0=local", "--nbd-server",
                             unix_server(one), "--export", "nbd,id=e,node-name=colo,name=disk,writable=on")
        secondary, sq = daemon(two, "--blockdev", "driver=file,node-name=disk,filename=disk.raw",
                               "--blockdev", "driver=file,node-name=hf,filename=hidden.qcow2",
                               "--blockdev", "qcow2,node-name=hidden,file=hf,backing=disk",
                               "--blockdev", "driver=file,node-name=af,filename=active.qcow2",
                               "--blockdev", "qcow2,node-name=active,file=af,backing=hidden", "--blockdev",
                               "replication,node-name=r,mode=secondary,top-id=top,file=active", "--blockdev",
                               "quorum,node-name=top,read-pattern=fifo,vote-threshold=1,children.0=r",
                               "--nbd-server", unix_server(two))
        with primary, secondary:
            sq.command("nbd-server-add", device="disk", writable=True)
            sq.command("nbd-server-add", device="top", writable=True)  # stands for the secondary's guest
            sq.command("xen-set-replication", enable=True, primary=False)
            late = sq.execute("nbd-server-add", device="disk", name="late", writable=True)
            expect("Permission conflict" in late["error"]["desc"], late)
            pq.command("blockdev-add", driver="nbd", node_name="far", server={"type": "unix", "path": str(two / "nbd.sock")},
                       export="disk")
            pq.command("blockdev-add", driver="replication", node_name="rp", mode="primary", file="far")
            pq.command("x-blockdev-change", parent="colo", node="rp")
            pq.command("xen-set-replication", enable=True, primary=True)
            guest, twin = uri(one), uri(two, "top")
            ok(io, "-f", "raw", "-c", "write -P 1 0 1M", guest, cwd=one)
            ok(io, "-f", "raw", "-c", "write -P 2 2M 64k", twin, cwd=two)
            status, out, err = run([io, "-f", "raw", "-c", "read -P 1 0 64k", twin], cwd=two)
            expect("verification failed" in out, f"the secondary sees what it must not yet: {out}{err}")
            sq.command("xen-colo-do-checkpoint")
            ok(io, "-f", "raw", "-c", "read -P 1 0 1M", twin, cwd=two)
            expect(pq.command("query-xen-replication-status") == {"error": False}, "the primary's status")
            checkpoint = (one / "disk.raw").read_bytes()
            ok(io, "-f", "raw", "-c", "write -P 3 0 64k", guest, cwd=one)  # lost with the primary
            ok(io, "-f", "raw", "-c", "write -P 4 3M 64k", twin, cwd=two)
            primary.process.kill()
            primary.process.wait()
            sq.command("nbd-server-remove", name="disk", mode="hard")
            sq.command("xen-set-replication", enable=False, primary=False, failover=True)
            ok(io, "-f", "raw", "-c", "read -P 1 0 1M", "-c", "read -P 4 3M 64k", twin, cwd=two)
            sq.command("nbd-server-stop")
        after = bytearray(checkpoint)
        after[3 * MIB:3 * MIB + 65536] = bytes([4]) * 65536
        expect((two / "disk.raw").read_bytes() == bytes(after), "the secondary's disk after the failover")

    # ---- TLS ----

    def tls_with_certificates():
        cwd = place("x509")
        certificates(cwd)
        noise(cwd / "a.raw", MIB)
        creds = f"tls-creds-x509,id=tls0,dir={cwd},endpoint="
        with Server([nbd, "-t", "-k", cwd / "nbd.sock", "-x", "disk", "-f", "raw", "-e", "0", "--object", creds + "server",
                     "--tls-creds", "tls0", "a.raw"], cwd, cwd / "nbd.sock"):
            plain = f"driver=nbd,server.type=unix,server.path={cwd / 'nbd.sock'},export=disk"
            out = ok(img, "info", "--object", creds + "client", "--image-opts", plain + ",tls-creds=tls0", cwd=cwd)
            expect("virtual size: 1 MiB" in out, out)
            fails("", img, "info", "--image-opts", plain, cwd=cwd)
            ok(img, "info", "--object", creds + "client", "--image-opts",  # as QEMU's tools have it too
               f"driver=nbd,path={cwd / 'nbd.sock'},export=disk,tls-creds=tls0", cwd=cwd)
            ok(io, "--object", creds + "client", "--image-opts", "-c", "write -P 9 0 1M", "-c", "read -P 9 0 1M",
               plain + ",tls-creds=tls0", cwd=cwd)
            fails("client endpoint", img, "info", "--object", creds + "server",
                  "--image-opts", plain + ",tls-creds=tls0", cwd=cwd)
            if shutil.which("nbdinfo"):
                out = ok("nbdinfo", f"nbds+unix://alice@/disk?socket={cwd / 'nbd.sock'}&tls-certificates={cwd}", cwd=cwd)
                expect("with TLS" in out, out)
            if shutil.which("qemu-img"):
                out = ok("qemu-img", "info", "--object", creds + "client", "--image-opts", plain + ",tls-creds=tls0,tls-hostname=localhost",
                         cwd=cwd)
                expect("virtual size: 1 MiB" in out, out)
        expect((cwd / "a.raw").read_bytes() == bytes([9]) * MIB, "what was written through TLS")

    def tls_tells_who_comes_in():
        cwd = place("authz")
        certificates(cwd)
        (cwd / "a.raw").write_bytes(bytes(MIB))
        creds = f"tls-creds-x509,id=tls0,dir={cwd},endpoint="
        plain = f"driver=nbd,server.type=unix,server.path={cwd / 'nbd.sock'},export=disk,tls-creds=tls0"
        for identity, wanted in (("O=Rhea,CN=alice", True), ("CN=alice,O=Rhea", True), ("CN=bob", False)):
            with Server([nbd, "-t", "-k", cwd / "nbd.sock", "-x", "disk", "-f", "raw", "--object", creds + "server",
                         "--object", json.dumps({"qom-type": "authz-list", "id": "who", "rules": [
                             {"match": identity, "policy": "allow"}]}), "--tls-creds", "tls0", "--tls-authz", "who", "a.raw"],
                        cwd, cwd / "nbd.sock"):
                status, out, err = run([img, "info", "--object", creds + "client", "--image-opts", plain], cwd=cwd)
            if identity == "O=Rhea,CN=alice":
                first = status
            elif wanted:
                expect((first == 0) != (status == 0), "a distinguished name is compared as a whole, in one order")
            else:
                expect(status != 0, "bob was let in")
        # A client without a certificate.
        bare = cwd / "bare"
        bare.mkdir()
        shutil.copy(cwd / "ca-cert.pem", bare)
        with Server([nbd, "-t", "-k", cwd / "nbd.sock", "-x", "disk", "-f", "raw", "--object", creds + "server", "--tls-creds",
                     "tls0", "a.raw"], cwd, cwd / "nbd.sock"):
            fails("", img, "info", "--object", f"tls-creds-x509,id=tls0,dir={bare},endpoint=client", "--image-opts", plain,
                  cwd=cwd)

    def tls_lists_and_hostname():
        cwd = place("list")
        certificates(cwd)
        creds = f"tls-creds-x509,id=tls0,dir={cwd},endpoint="
        server, qmp = daemon(cwd, "--object", creds + "server", "--blockdev", "null-co,node-name=n,size=65536",
                             "--nbd-server", unix_server(cwd, ",tls-creds=tls0"), "--export", "nbd,id=e,node-name=n,name=disk")
        with server:
            listing = ["-L", "-k", cwd / "nbd.sock"]
            fails("", nbd, *listing, cwd=cwd)
            out = ok(nbd, *listing, "--object", creds + "client", "--tls-creds", "tls0", "--tls-hostname", "localhost", cwd=cwd)
            expect("export: 'disk'" in out and "exports available: 1" in out, out)
            fails("", nbd, *listing, "--object", creds + "client", "--tls-creds", "tls0", "--tls-hostname", "elsewhere",
                  cwd=cwd)
            if shutil.which("qemu-nbd"):
                out = ok("qemu-nbd", *listing, "--object", creds + "client", "--tls-creds", "tls0", "--tls-hostname",
                         "localhost", cwd=cwd)
                expect("export: 'disk'" in out, out)

    def tls_with_keys():
        cwd = place("psk")
        (cwd / "keys.psk").write_text("alice:00112233445566778899aabbccddeeff\n")
        noise(cwd / "a.raw", MIB)
        with Server([nbd, "-t", "-k", cwd / "nbd.sock", "-x", "disk", "-f", "raw", "-e", "0", "--object",
                     f"tls-creds-psk,id=k,endpoint=server,dir={cwd}", "--tls-creds", "k", "a.raw"], cwd, cwd / "nbd.sock"):
            client = ["--object", f"tls-creds-psk,id=k,endpoint=client,dir={cwd},username=alice"]
            disk = f"driver=nbd,server.type=unix,server.path={cwd / 'nbd.sock'},export=disk,tls-creds=k"
            ok(img, "convert", *client, "--image-opts", disk, "-O", "raw", "b.raw", cwd=cwd)
            expect((cwd / "a.raw").read_bytes() == (cwd / "b.raw").read_bytes(), "read through TLS")
            if shutil.which("nbdcopy"):
                ok("nbdcopy", f"nbds+unix://alice@/disk?socket={cwd / 'nbd.sock'}&tls-psk-file={cwd / 'keys.psk'}", "c.raw", cwd=cwd)
                expect((cwd / "a.raw").read_bytes() == (cwd / "c.raw").read_bytes(), "read by nbdcopy")

    def tls_of_other_servers():
        need("qemu-nbd")
        cwd = place("theirs")
        (cwd / "keys.psk").write_text("alice:00112233445566778899aabbccddeeff\n")
        noise(cwd / "a.raw", MIB)
        with Server(["qemu-nbd", "-t", "-k", cwd / "nbd.sock", "-x", "disk", "-f", "raw", "--object",
                     f"tls-creds-psk,id=k,endpoint=server,dir={cwd}", "--tls-creds", "k", "a.raw"], cwd, cwd / "nbd.sock"):
            ok(img, "convert", "--object", f"tls-creds-psk,id=k,endpoint=client,dir={cwd},username=alice", "--image-opts",
               f"driver=nbd,server.type=unix,server.path={cwd / 'nbd.sock'},export=disk,tls-creds=k", "-O", "raw", "b.raw", cwd=cwd)
            expect((cwd / "a.raw").read_bytes() == (cwd / "b.raw").read_bytes(), "read from qemu-nbd")

    # ---- clients that people have ----

    def serve(cwd, *options, image="d.qcow2", fmt="qcow2"):
        return Server([nbd, "-t", "-k", cwd / "nbd.sock", "-x", "disk", "-e", "0", "-f", fmt, *options, image], cwd,
                      cwd / "nbd.sock")

    def libnbd_tools():
        need("nbdinfo", "nbdcopy")
        cwd = place("libnbd")
        noise(cwd / "a.raw", 8 * MIB)
        ok(img, "create", "-f", "qcow2", "d.qcow2", "8M", cwd=cwd)
        with serve(cwd, "-A"):
            ok("nbdcopy", "a.raw", uri(cwd), cwd=cwd)
            ok("nbdcopy", uri(cwd), "b.raw", cwd=cwd)
            out = json.loads(ok("nbdinfo", "--json", uri(cwd), cwd=cwd))["exports"][0]
            expect(out["export-size"] == 8 * MIB and out["can_multi_conn"] and out["can_zero"], out)
            expect("qemu:allocation-depth" in out["contexts"], out)
            regions = json.loads(ok("nbdinfo", "--map", "--json", uri(cwd), cwd=cwd))
            expect(sum(r["length"] for r in regions) == 8 * MIB and all(r["type"] == 0 for r in regions), regions)
        expect((cwd / "a.raw").read_bytes() == (cwd / "b.raw").read_bytes(), "nbdcopy there and back")
        ok(img, "compare", "a.raw", "d.qcow2", cwd=cwd)

    def nbdsh_script():
        need("nbdsh")
        cwd = place("nbdsh")
        ok(img, "create", "-f", "qcow2", "d.qcow2", "8M", cwd=cwd)
        script = "h.pwrite(b'x' * 70000, 1000); h.flush(); h.zero(4096, 65536); h.trim(1 << 20, 1 << 22); " \
                 "assert h.pread(10, 1000) == bytearray(b'x' * 10); assert h.pread(4096, 65536) == bytearray(4096); " \
                 "print(h.get_size(), h.can_df())"
        with serve(cwd, "--discard=unmap"):
            # Of the distribution's Python, for which its module is.
            environment = dict(os.environ, PATH="/usr/bin:/bin:" + os.environ.get("PATH", ""))
            status, out, err = run(["nbdsh", "-u", uri(cwd), "-c", script], cwd=cwd, env=environment)
            if "No module named nbd" in err:
                raise Tap.Skip("nbdsh has no Python module here")
            expect(status == 0, out + err)
            expect(out.split() == [str(8 * MIB), "True"], out)
        ok(img, "check", "d.qcow2", cwd=cwd)

    def nbdkit_both_ways():
        need("nbdkit")
        cwd = place("nbdkit")
        noise(cwd / "a.raw", 4 * MIB)
        with Server(["nbdkit", "-f", "-U", cwd / "kit.sock", "file", cwd / "a.raw"], cwd, cwd / "kit.sock"):
            ok(img, "convert", "-f", "raw", "-O", "qcow2", uri(cwd, "", "kit.sock"), "d.qcow2", cwd=cwd)
            ok(img, "compare", "-f", "raw", "-F", "qcow2", uri(cwd, "", "kit.sock"), "d.qcow2", cwd=cwd)
        status, out, _ = run(["nbdkit", "--dump-plugin", "nbd"])
        if status:
            raise Tap.Skip("this nbdkit has no nbd plugin; as a server it was tested")
        with serve(cwd), Server(["nbdkit", "-f", "-U", cwd / "kit2.sock", "nbd", f"uri={uri(cwd)}"], cwd, cwd / "kit2.sock"):
            ok(io, "-f", "raw", "-c", "write -P 8 1M 1M", "-c", "flush", "-c", "read -P 8 1M 1M", uri(cwd, "", "kit2.sock"),
               cwd=cwd)
        ok(io, "-f", "qcow2", "-c", "read -P 8 1M 1M", "d.qcow2", cwd=cwd)

    def fio_over_nbd():
        need("fio")
        cwd = place("fio")
        if "nbd" not in ok("fio", "--enghelp", cwd=cwd):
            raise Tap.Skip("this fio has no nbd engine")
        ok(img, "create", "-f", "qcow2", "d.qcow2", "16M", cwd=cwd)
        with serve(cwd):
            ok("fio", "--name=t", "--ioengine=nbd", f"--uri={uri(cwd)}", "--rw=randwrite", "--bs=4k", "--size=16m", "--iodepth=16",
               "--verify=crc32c", "--do_verify=1", "--randseed=3", "--fsync=64", "--output-format=terse", cwd=cwd, timeout=120)
        ok(img, "check", "d.qcow2", cwd=cwd)

    def guestfish_filesystem():
        need("guestfish")
        cwd = place("guestfs")
        ok(img, "create", "-f", "qcow2", "d.qcow2", "64M", cwd=cwd)
        with serve(cwd):
            environment = dict(os.environ, LIBGUESTFS_BACKEND="direct")
            try:
                status, out, err = run(["guestfish", "--format=raw", "-a", f"nbd://?socket={cwd / 'nbd.sock'}", "run", ":",
                                        "list-devices"], cwd=cwd, env=environment, timeout=240)
            except subprocess.TimeoutExpired:
                raise Tap.Skip("guestfish's appliance does not start in time here")
            if status and ("supermin" in err or "kernel" in err or "appliance" in err or "launch" in err):
                raise Tap.Skip(f"guestfish has no appliance here: {err.strip().splitlines()[-1]}")
            expect(status == 0 and "/dev/sda" in out, out + err)

    def mirror_between_programs():
        """qemu-nbd and rhea-nbd at the two ends of a mirror, either way round."""
        need("qemu-nbd", "qemu-img")
        for source_server, target_server in ((nbd, "qemu-nbd"), ("qemu-nbd", nbd)):
            cwd = place("mirror-" + pathlib.Path(str(source_server)).name)
            noise(cwd / "a.raw", 8 * MIB)
            ok(img, "create", "-f", "qcow2", "b.qcow2", "8M", cwd=cwd)
            with Server([source_server, "-t", "-k", cwd / "a.sock", "-x", "a", "-f", "raw", "-e", "4", "a.raw"], cwd, cwd / "a.sock"), \
                    Server([target_server, "-t", "-k", cwd / "b.sock", "-x", "b", "-f", "qcow2", "-e", "4", "b.qcow2"], cwd,
                           cwd / "b.sock"):
                server, qmp = daemon(cwd, *[w for n in "ab" for w in (
                    "--blockdev", f"nbd,node-name={n},server.type=unix,server.path={cwd / n}.sock,export={n}")],
                    "--nbd-server", unix_server(cwd), "--export", "nbd,id=e,node-name=a,name=disk,writable=on")
                with server:
                    qmp.command("blockdev-mirror", job_id="m", device="a", target="b", sync="full")
                    qmp.wait_event("BLOCK_JOB_READY")
                    ok(io, "-f", "raw", "-c", "write -P 5 3M 1M", "-c", "flush", uri(cwd), cwd=cwd)
                    qmp.command("job-complete", id="m")
                    qmp.wait_event("BLOCK_JOB_COMPLETED")
                    ok(io, "-f", "raw", "-c", "write -P 6 5M 64k", "-c", "flush", uri(cwd), cwd=cwd)  # to the target only
            ok(io, "-f", "qcow2", "-c", "read -P 5 3M 1M", "-c", "read -P 6 5M 64k", "b.qcow2", cwd=cwd)
            ok("qemu-img", "check", "b.qcow2", cwd=cwd)

    for name, function in list(locals().items()):
        if callable(function) and getattr(function, "__name__", None) == name and name not in helpers and name != "serve":
            tap.test(name.replace("_", " "), function)
    tap.finish()


if __name__ == "__main__":
    main()
