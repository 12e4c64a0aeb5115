#!/usr/bin/env python3
# Turns the instruction tables (src/arch/x86/insns*.tab) into C: the form table with its look-up index for the decoder,
# and the enumerations of mnemonics and features. The notation is described at the top of insns.tab.
# SPDX-License-Identifier: GPL-2.0-or-later
import re
import sys

PREFIXES = ("NP", "66", "F3", "F2")
# Sizes in bytes of operand-size letters; 0 where it depends on the instruction or its prefixes.
SIZES = {
    "b": "B", "bs": "BS", "w": "W", "d": "D", "q": "Q", "t": "T", "dq": "DQ", "qq": "QQ", "x": "X", "h": "H",
    "f": "F", "e": "E", "v": "V", "z": "Z", "y": "Y", "p": "P", "s": "S", "": "NONE", "a": "A", "2w": "D", "ss": "D",
    "sd": "Q", "ps": "X", "pd": "X", "zs": "ZS", "ds": "DS",
}
KINDS = "E G M R B I J O A S C D V W H U L P Q N X Y Z T K".split()
FIXED = {
    "AL": ("GPR", 0, "B"), "CL": ("GPR", 1, "B"), "AX": ("GPR", 0, "W"), "DX": ("GPR", 2, "W"), "rAX": ("GPR", 0, "V"),
    "eAX": ("GPR", 0, "D"), "RAX": ("GPR", 0, "Q"), "RCX": ("GPR", 1, "Q"), "RDX": ("GPR", 2, "Q"), "eDX": ("GPR", 2, "D"), "eCX": ("GPR", 1, "D"),
    "1": ("CONST", 1, "B"), "3": ("CONST", 3, "B"), "ES": ("SEG", 0, "W"), "CS": ("SEG", 1, "W"),
    "SS": ("SEG", 2, "W"), "DS": ("SEG", 3, "W"), "FS": ("SEG", 4, "W"), "GS": ("SEG", 5, "W"), "ST0": ("ST", 0, "T"),
    "XMM0": ("XMM", 0, "DQ"),
}
ATTRS = ["lock", "no64", "only64", "cpl0", "d64", "f64", "rep", "prot", "native", "x87", "mmx", "end", "notvm86",
         "branch", "string", "sse", "avx", "system", "novex", "fp", "align", "unal", "avx512"]
# Of EVEX forms: see the head of insns_avx512.tab.
EVEX_ATTRS = ["k", "z", "kk", "one", "er", "sae", "nf", "t1s", "me", "vl"]
OPMASKS = {"kr": "KR", "kv": "KV", "km": "KM", "ku": "KM"}
FLAGBITS = {"o": 1 << 11, "s": 1 << 7, "z": 1 << 6, "a": 1 << 4, "p": 1 << 2, "c": 1, "d": 1 << 10, "i": 1 << 9}


class Form:
    pass


def fail(where, text):
    sys.exit("%s: %s" % (where, text))


def parse_encoding(form, text, where):
    form.space, form.pfx, form.w, form.l, form.digit, form.mod, form.exact = "LEGACY", "ANY", "ANY", "ANY", -1, "ANY", -1
    form.modrm, form.plus_r, form.opsize, form.addrsize, form.needs_rep = False, False, 0, 0, False
    opcode = []
    tokens = text.split()
    for position, token in enumerate(tokens):
        if token.startswith(("VEX.", "EVEX.")):
            parts = token.split(".")
            form.space = parts[0]
            form.pfx = "NP"
            form.map = None
            for part in parts[1:]:
                if part in ("128", "L0", "LZ"):
                    form.l = "0"
                elif part in ("256", "L1"):
                    form.l = "1"
                elif part in ("512", "L2"):
                    form.l = "2"
                elif part in ("LIG", "L", "x"):
                    form.l = "ANY"
                elif part in PREFIXES:
                    form.pfx = part
                elif part in ("0F", "0F38", "0F3A"):
                    form.map = {"0F": 1, "0F38": 2, "0F3A": 3}[part]
                elif part in ("W0", "W1"):
                    form.w = part[1]
                elif part == "WIG":
                    pass
                elif part in ("NDS", "NDD", "DDS"):
                    pass
                else:
                    fail(where, "unknown part %s" % token)
            if form.map is None:
                fail(where, "no map")
        elif position == 0 and token in PREFIXES and len(tokens) > 1 and tokens[1] not in ("ib", "/r"):
            form.pfx = token
        elif token == "REX.W":
            form.w = "1"
        elif token == "W0":
            form.w = "0"
        elif token == "/r":
            form.modrm = True
        elif re.fullmatch(r"/[0-7]", token):
            form.modrm, form.digit = True, int(token[1])
        elif token == "reg":
            form.mod = "REG"
        elif token == "mem":
            form.mod = "MEM"
        elif re.fullmatch(r"=[0-9A-F]{2}", token):
            form.modrm, form.exact, form.mod = True, int(token[1:], 16), "REG"
        elif token in ("o16", "o32", "o64"):
            form.opsize = int(token[1:]) // 8
        elif token in ("a16", "a32", "a64"):
            form.addrsize = int(token[1:]) // 8
        elif token in ("ib", "iw", "id", "iq", "iz", "iv", "cb", "cz", "/is4", "mo", "cp"):
            pass  # for the reader: operands tell
        elif re.fullmatch(r"[0-9A-F]{2}(\+r)?", token):
            if token.endswith("+r"):
                form.plus_r = True
            opcode.append(int(token[:2], 16))
        else:
            fail(where, "unknown encoding token %s" % token)
    if form.space == "LEGACY" and opcode:
        form.map = 0
        if len(opcode) > 1 and opcode[0] == 0x0F:
            form.map, opcode = 1, opcode[1:]
            if opcode[0] in (0x38, 0x3A) and len(opcode) > 1:
                form.map, opcode = {0x38: 2, 0x3A: 3}[opcode[0]], opcode[1:]
    if len(opcode) != 1:
        fail(where, "need one opcode byte after the map")
    form.opcode = opcode[0]


def parse_operand(form, text, where):
    access = "R"
    if ":" in text:
        text, access = text.split(":")
        if access not in ("r", "w", "rw", "n"):
            fail(where, "access %s" % access)
        access = access.upper()
    if text in FIXED:
        kind, number, size = FIXED[text]
        return (kind, size, access, number)
    if text in ("vmx", "vmy"):
        form.modrm, form.mod = True, "MEM"
        return ("VSIBX" if text == "vmx" else "VSIBY", "NONE", access, 0)
    if text[:2] in OPMASKS and text[2:] in ("", "b", "w", "d", "q"):
        form.modrm = True
        if text[:2] == "ku":
            form.mod = "REG"
        return (OPMASKS[text[:2]], SIZES[text[2:]], access, 0)
    kind, size = text[0], text[1:]
    if kind not in KINDS or size not in SIZES:
        fail(where, "operand %s" % text)
    if kind in "EGMRVWUPQNCDS" or (kind == "T"):
        form.modrm = True
    if kind == "M":
        if form.mod == "REG":
            fail(where, "M and reg")
        form.mod = "MEM"
    if kind in "RUN":
        form.mod = "REG"
    return (kind, SIZES[size], access, 0)


def parse_flags(text, where):
    mask = 0
    for letter in text:
        if letter not in FLAGBITS:
            fail(where, "flag %s" % letter)
        mask |= FLAGBITS[letter]
    return mask


def parse_line(line, where):
    cols = [c.strip() for c in line.split("|")]
    if len(cols) != 4:
        fail(where, "need four columns")
    form = Form()
    form.where = where
    form.text = line
    parse_encoding(form, cols[0], where)
    words = cols[1].split(None, 1)
    form.name = words[0]
    form.operands = []
    if len(words) > 1:
        form.operands = [parse_operand(form, o.strip(), where) for o in words[1].split(",")]
    if len(form.operands) > 5:
        fail(where, "too many operands")
    form.feature = cols[2].replace("-", "NONE").replace(".", "_").upper()
    form.attrs = []
    form.evex, form.element, form.broadcast = [], 0, 0
    form.fread = form.fwritten = form.fundef = 0
    for word in cols[3].split():
        if word.startswith("r="):
            form.fread = parse_flags(word[2:], where)
        elif word.startswith("w="):
            form.fwritten = parse_flags(word[2:], where)
        elif word.startswith("u="):
            form.fundef = parse_flags(word[2:], where)
        elif word in ATTRS:
            form.attrs.append(word)
        elif word == "kz":
            form.evex += ["k", "z"]
        elif word in EVEX_ATTRS:
            form.evex.append(word)
        elif re.fullmatch(r"e(8|16|32|64)", word):
            form.element = int(word[1:]) // 8
        elif re.fullmatch(r"b(16|32|64)", word):
            form.broadcast = int(word[1:]) // 8
        elif word == "-":
            pass
        else:
            fail(where, "attribute %s" % word)
    if form.space == "EVEX" and "x" in cols[0].split()[0].split("."):
        form.evex.append("vl")
    if form.evex and form.space != "EVEX":
        fail(where, "EVEX attributes of another form")
    if set(form.evex) & {"k", "kk"} and not form.element:
        fail(where, "a mask of which elements?")
    return form


def specificity(form):
    """Rows that ask for more come first, so that a general row never hides a special one."""
    return -((form.exact >= 0) * 64 + (form.pfx != "ANY") * 32 + (form.pfx in ("F3", "F2")) * 4 + (form.digit >= 0) * 8
             + (form.mod != "ANY") * 2 + (form.w != "ANY") + (form.l != "ANY") + (form.opsize != 0) * 2
             + (form.addrsize != 0) * 2)


def main():
    header, table, inputs = sys.argv[1], sys.argv[2], sys.argv[3:]
    forms = []
    for path in inputs:
        name = path.rsplit("/", 1)[-1]
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                line = line.split("#", 1)[0].strip()
                if line:
                    forms.append(parse_line(line, "%s:%d" % (name, number)))
    spaces = ["LEGACY", "VEX", "EVEX"]
    # +r rows take eight opcodes.
    index = {}
    forms.sort(key=lambda f: (spaces.index(f.space), f.map, f.opcode, specificity(f)))
    seen = {}
    for i, form in enumerate(forms):
        key = (form.space, form.map, form.opcode, form.pfx, form.w, form.l, form.digit, form.mod, form.exact,
               form.opsize, form.addrsize, tuple(a for a in form.attrs if a in ("no64", "only64")), form.feature)
        if key in seen:
            fail(form.where, "the same encoding as %s" % seen[key])
        seen[key] = form.where
        for opcode in range(form.opcode, form.opcode + (8 if form.plus_r else 1)):
            index.setdefault((spaces.index(form.space), form.map, opcode), []).append(i)
    mnemonics = sorted({f.name for f in forms})
    features = ["NONE"] + sorted({f.feature for f in forms} - {"NONE"} | {"AVX512VL"})
    kinds = KINDS + ["GPR", "CONST", "SEG", "ST", "XMM", "VSIBX", "VSIBY", "KR", "KV", "KM"]
    sizes = sorted(set(SIZES.values()))

    def enum(out, prefix, names, count):
        out.append("enum {\n" + "".join("    %s%s,\n" % (prefix, n) for n in names) + "    %s\n};\n" % count)

    out = ["/* Made by tools/gen_decode.py. */", "#ifndef RHEA_X86_INSNS_H", "#define RHEA_X86_INSNS_H"]
    enum(out, "X86_", mnemonics, "X86_MNEMONIC_COUNT")
    enum(out, "X86_FEATURE_", features, "X86_FEATURE_COUNT")
    enum(out, "X86_OPERAND_", ["NONE"] + kinds, "X86_OPERAND_KIND_COUNT")
    enum(out, "X86_SIZE_", sizes, "X86_SIZE_COUNT")
    for i, attr in enumerate(ATTRS):
        out.append("#define X86_ATTR_%s (1u << %d)" % (attr.upper(), i))
    for i, attr in enumerate(EVEX_ATTRS):
        out.append("#define X86_EVEX_%s (1u << %d)" % (attr.upper(), i))
    out.append("#define X86_FORM_COUNT %d" % len(forms))
    out.append("#endif")
    with open(header, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")

    out = ["/* Made by tools/gen_decode.py. */", '#include "arch/x86/decode.h"', ""]
    out.append("const char *const x86_mnemonic_names[X86_MNEMONIC_COUNT] = {")
    out += ['    "%s",' % m.lower() for m in mnemonics]
    out.append("};")
    out.append("const char *const x86_feature_names[X86_FEATURE_COUNT] = {")
    out += ['    "%s",' % m.lower() for m in features]
    out.append("};")
    out.append("const X86Form x86_forms[X86_FORM_COUNT] = {")
    for form in forms:
        ops = ", ".join("{ X86_OPERAND_%s, X86_SIZE_%s, X86_ACCESS_%s, %d }" % o for o in form.operands)
        attrs = " | ".join("X86_ATTR_%s" % a.upper() for a in form.attrs) or "0"
        evex = " | ".join("X86_EVEX_%s" % a.upper() for a in form.evex) or "0"
        out.append("    { .mnemonic = X86_%s, .space = X86_SPACE_%s, .map = %d, .opcode = 0x%02x, .prefix = X86_PREFIX_%s, "
                   ".w = X86_BIT_%s, .l = X86_BIT_%s, .digit = %d, .exact_modrm = %d, .mod = X86_MOD_%s, .has_modrm = %d, "
                   ".plus_r = %d, .operand_size = %d, .address_size = %d, .feature = X86_FEATURE_%s, .attrs = %s, "
                   ".evex = %s, .element = %d, .broadcast = %d, "
                   ".flags_read = 0x%x, .flags_written = 0x%x, .flags_undefined = 0x%x, .operand_count = %d, "
                   ".operands = { %s }, .source = \"%s\" },"
                   % (form.name, form.space, form.map, form.opcode, form.pfx, form.w, form.l, form.digit, form.exact,
                      form.mod, form.modrm, form.plus_r, form.opsize, form.addrsize, form.feature, attrs, evex, form.element,
                      form.broadcast, form.fread,
                      form.fwritten, form.fundef, len(form.operands), ops or "{ 0 }", form.where))
    out.append("};")
    lists = []
    starts = {}
    for key in sorted(index):
        starts[key] = (len(lists), len(index[key]))
        lists += index[key]
    out.append("const uint16_t x86_form_lists[] = {")
    for i in range(0, len(lists), 16):
        out.append("    " + " ".join("%d," % n for n in lists[i:i + 16]))
    out.append("};")
    out.append("const X86FormIndex x86_form_index[3][4][256] = {")
    for key in sorted(starts):
        out.append("    [%d][%d][0x%02x] = { %d, %d }," % (key + starts[key]))
    out.append("};")
    with open(table, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


main()
