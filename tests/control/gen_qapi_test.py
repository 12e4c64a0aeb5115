#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The schema's generator: what it refuses, each with the place, and what it makes of a small schema."""
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402
from harness import expect  # noqa: E402

GENERATOR = harness.ROOT / "tools" / "gen_qapi.py"


def generate(text):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "x.schema"
        path.write_text(text)
        done = subprocess.run([sys.executable, str(GENERATOR), directory, str(path)], capture_output=True, text=True,
                              timeout=30)
        outputs = {p.name: p.read_text() for p in pathlib.Path(directory).iterdir() if p != path}
        return done.returncode, done.stderr.replace(directory + "/", ""), outputs


def test_refused():
    for text, line, part in (
            ("struct A\n  x: nothing\n", 2, "unknown type 'nothing'"),
            ("struct A\n  x: int\n  x: str\n", 3, "there twice"),
            ("enum A\n  x\nenum A\n  y\n", 3, "'A' is there twice"),
            ("thing A\n", 1, "expected one of"),
            ("  x: int\n", 1, "without an entity"),
            ("struct A\n  what is this\n", 2, "cannot read"),
            ("command a -> B\n", 1, "unknown type 'B'"),
            ("command a  no-such-flag\n", 1, "unknown flag"),
            ("enum K\n  a\nunion U tag k\n  k: K\n  case b: int\n", 3, "'b' is no value"),
            ("union U tag k\n  k: str\n", 1, "is no member that is an enum"),
            ("struct A : B\n", 1, "base 'B'"),
            ("struct A\n  x: int\ncommand a  args=A\n  y: int\n", 3, "no members"),
            ("enum A\n  x\ncommand a  args=A\n", 3, "struct or union"),
            ("alternate A\n  i: int\n  u: uint8\n", 3, "told apart"),
            ("alternate A\n", 1, "needs branches"),
            ("struct A\n  x: null\n", 2, "branches of alternates"),
            ("option a A x\n", 1, "'A' is no struct"),
            ("struct A\n  y: int\noption a A x\n", 3, "'x' is no member"),
            ("struct A\n  y: int\noption a A y\n  z: int\n", 4, "no members of its own"),
            ("struct A\n  y: int\noption a A y\noption a A y\n", 4, "there twice")):
        status, message, outputs = generate(text)
        expect(status == 1, f"{text!r} is accepted")
        expect(message.startswith(f"x.schema:{line}: ") and part in message, f"{text!r}: {message}")
        expect(not outputs, f"{text!r}: something was written")


def test_made():
    status, message, outputs = generate(
        "## Part\n#: A kind.\nenum Kind\n  a\n  b-c  -- the second\n"
        "struct Base\n  n?: uint8\nstruct Sub : Base\n  kinds: [Kind]\n  static: bool\n"
        "union U tag kind\n  kind: Kind\n  case a: Sub\n"
        "#: Does it.\ncommand do-it -> [U]  allow-oob feature=f\n  x?: Sub\n  y?: int\nevent IT\n  u: U\n")
    expect(status == 0, message)
    expect({"qapi_types.h", "qapi_types.c", "qapi_commands.h", "qapi_dispatch.c", "qapi_introspect.c",
            "qmp-reference.md"} == set(outputs), f"{sorted(outputs)}")
    types = outputs["qapi_types.h"]
    for part in ("QAPI_KIND_B_C", "bool has_n;", "GArray *kinds; /* of Kind */", "bool static_;", "QapiSub *u_a;"):
        expect(part in types, f"{part!r} is not in qapi_types.h:\n{types}")
    expect("bool qmp_do_it(QmpContext *ctx, QapiSub *x, bool has_y, int64_t y, GPtrArray **ret, GError **error)"
           in outputs["qapi_commands.h"], outputs["qapi_commands.h"])
    expect("Does it." in outputs["qmp-reference.md"] and "the second" in outputs["qmp-reference.md"], "the reference")
    introspection = outputs["qapi_introspect.c"]
    for part in (r'\"features\": [\"f\"]', r'\"allow-oob\": true', r'\"case\": \"b-c\", \"type\": \"q_empty\"',
                 r'\"name\": \"n\", \"type\": \"int\", \"default\": null'):
        expect(part in introspection, f"{part!r} is not in the introspection:\n{introspection}")


def test_options():
    """Options and commands of one description get the same C type and visitor."""
    status, message, outputs = generate(
        "## Part\nalternate Ref\n  whole: Node\n  name: str\n  none: null\n"
        "struct Base\n  id: str\nstruct Leaf : Base open\n  next?: Ref\n"
        "enum Kind\n  leaf\nunion Node tag kind\n  kind: Kind\n  case leaf: Leaf\n"
        "command node-add  args=Node\n#: Makes one.\noption node Node kind\n")
    expect(status == 0, message)
    for part in ("bool qapi_option_node(const char *text, QapiNode **options, GError **error);", "QapiRef *next;",
                 "QAPI_REF_NONE,", "json_object *more;", "QapiBase *qapi_Leaf_base(const QapiLeaf *obj)"):
        expect(part in outputs["qapi_types.h"], f"{part!r} is not in qapi_types.h:\n{outputs['qapi_types.h']}")
    expect("bool qmp_node_add(QmpContext *ctx, QapiNode *args, GError **error)" in outputs["qapi_commands.h"],
           outputs["qapi_commands.h"])
    expect("### -node" in outputs["qmp-reference.md"] and "Makes one." in outputs["qmp-reference.md"], "the reference")
    introspection = outputs["qapi_introspect.c"]
    for part in (r'\"arg-type\": \"Node\"', r'\"members\": [{\"type\": \"Node\"}, {\"type\": \"str\"}, {\"type\": \"null\"}]'):
        expect(part in introspection, f"{part!r} is not in the introspection:\n{introspection}")


def main():
    tap = harness.Tap()
    tap.test("bad schemas are refused with their place", test_refused)
    tap.test("what a schema becomes", test_made)
    tap.test("options of the command line", test_options)
    tap.finish()


main()
