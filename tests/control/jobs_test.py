#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Block nodes and jobs over QMP, on qcow2 images, as libvirt does it: create, snapshot, commit, stream, mirror, backup,
dirty bitmaps, reopen. qemu-img makes and checks the images, so both programs must agree on them."""
import argparse
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402
from harness import expect  # noqa: E402

SIZE = 8 << 20


def qemu(*arguments):
    done = subprocess.run(["qemu-" + arguments[0], *map(str, arguments[1:])], capture_output=True, text=True)
    expect(done.returncode == 0, f"qemu-{' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
    return done.stdout


def write(path, pattern, offset, size, form="qcow2"):
    qemu("io", "-f", form, "-c", f"write -P {pattern} {offset} {size}", path)


def make_chain(directory):
    """base <- mid <- top, each with data of its own over what is below."""
    base, mid, top = (directory / f"{name}.qcow2" for name in ("base", "mid", "top"))
    qemu("img", "create", "-q", "-f", "qcow2", base, SIZE)
    write(base, 1, 0, 4 << 20)
    qemu("img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", mid)
    write(mid, 2, 1 << 20, 2 << 20)
    qemu("img", "create", "-q", "-f", "qcow2", "-b", mid, "-F", "qcow2", top)
    write(top, 3, 2 << 20, 3 << 20)
    qemu("img", "convert", "-O", "raw", top, directory / "want.raw")
    return base, mid, top


def same(directory, path, form="qcow2"):
    qemu("img", "compare", "-f", "raw", "-F", form, directory / "want.raw", path)
    if form == "qcow2":
        qemu("img", "check", "-q", path)


def file_node(path, **more):
    return {"driver": "file", "filename": str(path), **more}


def finish(qmp, event="BLOCK_JOB_COMPLETED"):
    data = qmp.wait_event(event)["data"]
    expect("error" not in data, f"the job failed: {data}")
    return data


def run(binary, directory, body, *arguments):
    with harness.Machine(binary, ["-machine", "none", "-nodefaults", "-display", "none", "-qmp",
                                  f"unix:{directory}/qmp,server=on,wait=off", *arguments], directory) as machine:
        body(machine.qmp)
        machine.qmp.command("quit")
        expect(machine.process.wait(20) == 0, "the program's exit")


def test_chain(binary, directory):
    base, mid, top = make_chain(directory)

    def body(qmp):
        qmp.command("blockdev-add", driver="qcow2", node_name="top", file=file_node(top))
        nodes = {n["file"]: n for n in qmp.command("query-named-block-nodes")}
        expect(nodes[str(top)]["backing_file_depth"] == 2, "the chain's depth")
        # The middle goes into the base, then the rest comes up.
        qmp.command("block-commit", job_id="c", device="top", top=str(mid), base=str(base))
        finish(qmp)
        expect(str(mid) not in {n["file"] for n in qmp.command("query-named-block-nodes")}, "mid is still open")
        qmp.command("block-stream", job_id="s", device="top")
        finish(qmp)
        expect(qmp.command("query-jobs") == [], "jobs are left")
        reply = qmp.execute("block-job-cancel", device="s")
        expect(reply["error"]["class"] == "DeviceNotActive", f"{reply}")

    run(binary, directory, body)
    same(directory, top)
    expect("backing file" not in qemu("img", "info", top), "top has a backing file")
    qemu("img", "check", "-q", base)


def test_snapshot_and_active_commit(binary, directory):
    base, mid, top = make_chain(directory)
    over = directory / "over.qcow2"

    def body(qmp):
        qmp.command("blockdev-add", driver="qcow2", node_name="top", file=file_node(top))
        qmp.command("blockdev-create", job_id="create", options={"driver": "file", "filename": str(over), "size": 0})
        while qmp.command("query-jobs")[0]["status"] != "concluded":
            pass
        qmp.command("job-dismiss", id="create")
        qmp.command("blockdev-add", driver="file", node_name="over-file", filename=str(over))
        qmp.command("blockdev-create", job_id="create", options={
            "driver": "qcow2", "file": "over-file", "size": SIZE, "backing-file": str(top), "backing-fmt": "qcow2"})
        while qmp.command("query-jobs")[0]["status"] != "concluded":
            pass
        expect("error" not in qmp.command("query-jobs")[0], f"{qmp.command('query-jobs')}")
        qmp.command("job-dismiss", id="create")
        qmp.command("blockdev-add", driver="qcow2", node_name="over", file="over-file", backing=None)
        qmp.command("transaction", actions=[{"type": "blockdev-snapshot", "data": {"node": "top", "overlay": "over"}}])
        qmp.command("block-commit", job_id="c", device="over", base_node="top", auto_dismiss=False)
        qmp.wait_event("BLOCK_JOB_READY")
        qmp.command("block-job-complete", device="c")
        finish(qmp)
        qmp.command("job-dismiss", id="c")
        qmp.command("blockdev-del", node_name="over")
        qmp.command("blockdev-del", node_name="top")

    run(binary, directory, body)
    same(directory, top)
    qemu("img", "check", "-q", over)


def test_mirror_and_backup(binary, directory):
    _, _, top = make_chain(directory)
    copy, backup = directory / "copy.qcow2", directory / "backup.raw"
    qemu("img", "create", "-q", "-f", "qcow2", copy, SIZE)
    qemu("img", "create", "-q", "-f", "raw", backup, SIZE)

    def body(qmp):
        qmp.command("blockdev-add", driver="qcow2", node_name="top", file=file_node(top))
        qmp.command("blockdev-add", driver="qcow2", node_name="copy", file=file_node(copy))
        qmp.command("blockdev-add", driver="raw", node_name="backup", file=file_node(backup))
        qmp.command("block-dirty-bitmap-add", node="top", name="b0", granularity=65536)
        qmp.command("blockdev-backup", job_id="b", device="top", target="backup", sync="full", compress=False)
        finish(qmp)
        qmp.command("blockdev-mirror", job_id="m", device="top", target="copy", sync="full", speed=1 << 30)
        qmp.wait_event("BLOCK_JOB_READY")
        job = qmp.command("query-block-jobs")[0]
        expect(job["ready"] and job["type"] == "mirror" and job["len"] == job["offset"], f"{job}")
        qmp.command("block-job-complete", device="m")
        finish(qmp)
        info = {n["node-name"]: n for n in qmp.command("query-named-block-nodes")}
        expect(info["top"]["dirty-bitmaps"][0]["count"] == 0, "nobody wrote")
        qmp.command("block-dirty-bitmap-remove", node="top", name="b0")
        for command, arguments, text in (
                ("blockdev-mirror", {"device": "top", "target": "top", "sync": "full"}, "into itself"),
                ("blockdev-mirror", {"device": "nope", "target": "copy", "sync": "full"}, "Cannot find"),
                ("blockdev-backup", {"device": "top", "target": "copy", "sync": "incremental"}, "bitmap"),
                ("blockdev-backup", {"device": "top", "target": "copy", "sync": "bitmap", "bitmap": "no",
                                     "bitmap-mode": "never"}, "could not be found"),
                ("block-commit", {"device": "copy"}, "itself"),
                ("block-dirty-bitmap-add", {"node": "top", "name": "x", "granularity": 100}, "Granularity"),
                ("blockdev-create", {"job-id": "j", "options": {"driver": "qcow2", "file": "nope", "size": 1}}, None)):
            reply = qmp.execute(command, **arguments)
            expect(text is None or text in reply.get("error", {}).get("desc", ""), f"{command}: {reply}")

    run(binary, directory, body)
    same(directory, copy)
    same(directory, backup, "raw")


def test_reopen(binary, directory):
    base, mid, top = make_chain(directory)

    def body(qmp):
        qmp.command("blockdev-add", driver="qcow2", node_name="mid", file=file_node(mid), read_only=True)
        qmp.command("blockdev-add", driver="file", node_name="top-file", filename=str(top))
        qmp.command("blockdev-add", driver="qcow2", node_name="top", file="top-file", backing=None)
        reply = qmp.execute("blockdev-reopen", options=[{"driver": "raw", "node-name": "top", "file": "top-file"}])
        expect("driver" in reply["error"]["desc"], f"{reply}")
        qmp.command("blockdev-reopen", options=[
            {"driver": "qcow2", "node-name": "top", "file": "top-file", "backing": "mid", "read-only": True}])
        node = {n["node-name"]: n for n in qmp.command("query-named-block-nodes")}["top"]
        expect(node["ro"] and node["backing_file_depth"] == 2, f"{node}")
        expect("in use" in qmp.execute("blockdev-del", node_name="mid")["error"]["desc"], "mid is in use")
        qmp.command("blockdev-reopen", options=[
            {"driver": "qcow2", "node-name": "top", "file": "top-file", "backing": None}])
        qmp.command("blockdev-del", node_name="mid")
        qmp.command("blockdev-del", node_name="top")
        qmp.command("blockdev-del", node_name="top-file")

    run(binary, directory, body)
    same(directory, top)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build")
    options = parser.parse_args()
    binary = pathlib.Path(options.build) / "rhea-system-x86_64"
    tap = harness.Tap()
    for name, test in (("commit and stream", test_chain), ("snapshot, create, active commit", test_snapshot_and_active_commit),
                       ("mirror and backup", test_mirror_and_backup), ("reopen", test_reopen)):
        with tempfile.TemporaryDirectory(prefix="rhea-jobs-") as directory:
            tap.test(name, test, binary, pathlib.Path(directory))
    tap.finish()


main()
