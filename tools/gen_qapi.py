#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes C code, introspection data and the reference page from the schema of QMP and of structured options.

Grammar (one entity starts in the first column, its members are indented by two spaces):

    # comment                                   ## heading of the reference page
    #: documentation of the entity that follows
    enum NAME                                   values, one a line
    struct NAME [: BASE] [open]                 members:  name[?]: TYPE   (? marks an optional one)
    union NAME tag MEMBER                       members, then:  case VALUE: STRUCT
    alternate NAME                              branches, told apart by their JSON type:  name: TYPE
    command NAME [-> TYPE]  [flags]             members are its arguments
    event NAME                                  members are its data
    option NAME TYPE MEMBER                     -NAME of the command line: text or JSON of that struct or union, whose
                                                MEMBER a bare first word means
    need NAME                                   C code uses that type, though no command or option takes it

An open struct takes any other members too; its C form has them as JSON (`more`), for a receiver that knows their types.
Everything after "  -- " on a member's line is its documentation. TYPE is str, bool, int, int8 .. uint64, size, number,
any, null (in alternates), the name of an entity, or [TYPE] for a list. Flags of commands:

    raw-return     the body gives JSON
    args=NAME      the arguments are that struct or union, which the body gets as one; no members then
    allow-oob      may be sent with exec-oob
    allow-preconfig  has a meaning before the machine is built
    feature=NAME   shown by introspection
"""
import json
import re
import sys

BUILTIN = {
    "str": ("char *", "string"), "bool": ("bool ", "boolean"), "number": ("double ", "number"),
    "int": ("int64_t ", "int"), "int8": ("int8_t ", "int"), "int16": ("int16_t ", "int"), "int32": ("int32_t ", "int"),
    "int64": ("int64_t ", "int"), "uint8": ("uint8_t ", "int"), "uint16": ("uint16_t ", "int"),
    "uint32": ("uint32_t ", "int"), "uint64": ("uint64_t ", "int"), "size": ("uint64_t ", "int"),
    "any": ("json_object *", "value"), "null": ("", "null"),
}
INTEGERS = {name for name, (_, json_type) in BUILTIN.items() if json_type == "int"}
VISIT = {"int": "int64"}
CASTS = {"enum", "struct", "union", "alternate", "command", "event", "option"}
FLAGS = {"raw-return", "allow-oob", "allow-preconfig"}
# Keywords of C, and a macro, that the protocol uses as names.
RESERVED = {"auto", "bool", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "errno",
            "extern",
            "float", "for", "goto", "if", "in", "inline", "int", "long", "null", "register", "restrict", "return", "short",
            "signed", "sizeof", "static", "struct", "switch", "typedef", "union", "unix", "unsigned", "void", "volatile",
            "while"}


class SchemaError(Exception):
    pass


class Member:
    def __init__(self, name, type_, optional, doc, where):
        self.name, self.type, self.optional, self.doc, self.where = name, type_, optional, doc, where


class Entity:
    def __init__(self, kind, name, doc, where, section):
        self.kind, self.name, self.doc, self.where, self.section = kind, name, doc, where, section
        self.members = []      # Member; of an enum: Member with type None
        self.cases = []        # (value, struct name, doc)
        self.base = self.tag = self.returns = self.args = self.implied = None
        self.open = False
        self.flags, self.features = set(), []


def c_part(name):
    """A name as a part of one in C: of u_NAME, has_NAME."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def c_name(name):
    name = c_part(name)
    return name + "_" if name in RESERVED or name[0].isdigit() else name


def c_upper(name):
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


class Schema:
    def __init__(self):
        self.entities = {}
        self.options = []      # entities too; their names are a space of their own
        self.sections = []
        self.needs = []        # (type, where)

    def error(self, where, text):
        raise SchemaError(f"{where}: {text}")

    def parse(self, path, text):
        entity, doc, section = None, [], None
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{path}:{number}"
            if line.startswith("## "):
                section = line[3:].strip()
                self.sections.append(section)
            elif line.startswith("#:"):
                doc.append(line[2:].strip())
            elif line.startswith("#") or not line.strip():
                continue
            elif line.startswith("need "):
                self.needs.append((line[5:].strip(), where))
                entity = None
            elif not line.startswith(" "):
                entity = self.parse_head(where, line, " ".join(doc), section)
                doc = []
            elif entity is None:
                self.error(where, "a member without an entity")
            else:
                self.parse_member(where, entity, line.strip())

    def parse_head(self, where, line, doc, section):
        words = line.split()
        if words[0] not in CASTS or len(words) < 2:
            self.error(where, f"expected one of {', '.join(sorted(CASTS))}")
        entity = Entity(words[0], words[1], doc, where, section)
        rest = words[2:]
        if entity.kind == "struct":
            if rest[:1] == [":"] and len(rest) > 1:
                entity.base, rest = rest[1], rest[2:]
            if rest[:1] == ["open"]:
                entity.open, rest = True, rest[1:]
        elif entity.kind == "option":
            if len(rest) != 2:
                self.error(where, "an option needs a type and the member that a bare first word means")
            (entity.args, entity.implied), rest = rest, []
        elif entity.kind == "union":
            if len(rest) != 2 or rest[0] != "tag":
                self.error(where, "a union needs 'tag MEMBER'")
            entity.tag, rest = rest[1], []
        elif entity.kind == "command":
            if rest[:1] == ["->"]:
                entity.returns, rest = rest[1], rest[2:]
            for flag in rest:
                if flag.startswith("args="):
                    entity.args = flag[5:]
                elif flag.startswith("feature="):
                    entity.features.append(flag[8:])
                elif flag in FLAGS:
                    entity.flags.add(flag)
                else:
                    self.error(where, f"unknown flag '{flag}'")
            rest = []
        if rest:
            self.error(where, f"unexpected '{' '.join(rest)}'")
        if entity.kind == "option":
            if any(o.name == entity.name for o in self.options):
                self.error(where, f"option '{entity.name}' is there twice")
            self.options.append(entity)
            return entity
        if entity.name in self.entities or entity.name in BUILTIN:
            self.error(where, f"'{entity.name}' is there twice")
        self.entities[entity.name] = entity
        return entity

    def parse_member(self, where, entity, line):
        if entity.kind == "option":
            self.error(where, "an option has no members of its own")
        line, _, doc = (part.strip() for part in line.partition("  -- "))
        if entity.kind == "enum":
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", line):
                self.error(where, f"'{line}' is no name of a value")
            entity.members.append(Member(line, None, False, doc, where))
            return
        match = re.fullmatch(r"case ([A-Za-z0-9_-]+): (\w+)", line)
        if match and entity.kind == "union":
            entity.cases.append((match[1], match[2], doc))
            return
        match = re.fullmatch(r"([A-Za-z0-9_-]+)(\??): (\[?\w+\]?)", line)
        if not match:
            self.error(where, f"cannot read '{line}'")
        if any(m.name == match[1] for m in entity.members):
            self.error(where, f"member '{match[1]}' is there twice")
        entity.members.append(Member(match[1], match[3], bool(match[2]), doc, where))

    def check(self):
        for name, where in self.needs:
            self.check_type(where, name)
        for e in self.entities.values():
            for m in e.members:
                if m.type:
                    self.check_type(m.where, m.type)
                    if m.type.strip("[]") == "null" and (e.kind != "alternate" or m.type != "null"):
                        self.error(m.where, "null is for the branches of alternates")
            if e.returns:
                self.check_type(e.where, e.returns)
            if e.base and self.kind(e.base) != "struct":
                self.error(e.where, f"base '{e.base}' is no struct")
            if e.args:
                if self.kind(e.args) not in ("struct", "union") or e.members:
                    self.error(e.where, "args= needs a struct or union, and no members")
            if e.kind == "alternate":
                self.check_alternate(e)
            if e.kind == "union":
                tag = next((m for m in e.members if m.name == e.tag), None)
                if not tag or self.kind(tag.type) != "enum":
                    self.error(e.where, f"tag '{e.tag}' is no member that is an enum")
                values = [m.name for m in self.entities[tag.type].members]
                for value, struct, _ in e.cases:
                    if value not in values:
                        self.error(e.where, f"case '{value}' is no value of {tag.type}")
                    if self.kind(struct) not in ("struct", "union"):
                        self.error(e.where, f"case '{value}': '{struct}' is no struct")

        for o in self.options:
            if self.kind(o.args) not in ("struct", "union"):
                self.error(o.where, f"'{o.args}' is no struct or union")
            if o.implied not in [m.name for m in self.all_members(self.entities[o.args])]:
                self.error(o.where, f"'{o.implied}' is no member of '{o.args}'")

    def check_alternate(self, e):
        seen = {}
        for m in e.members:
            json_type = self.json_type(m.type)
            if json_type == "any" or json_type in seen:
                self.error(m.where, f"branch '{m.name}' cannot be told apart from the others")
            seen[json_type] = m
        if not seen:
            self.error(e.where, "an alternate needs branches")

    def json_type(self, type_):
        """json-c's name for what a value of a type is."""
        if type_.startswith("["):
            return "array"
        if type_ in BUILTIN:
            return {"number": "double", "value": "any"}.get(BUILTIN[type_][1], BUILTIN[type_][1])
        return {"enum": "string", "struct": "object", "union": "object"}.get(self.kind(type_), "any")

    def kind(self, name):
        return "builtin" if name in BUILTIN else self.entities[name].kind if name in self.entities else None

    def check_type(self, where, type_):
        name = type_.strip("[]")
        if self.kind(name) in (None, "command", "event"):
            self.error(where, f"unknown type '{name}'")

    def of_kind(self, *kinds):
        return sorted((e for e in self.entities.values() if e.kind in kinds), key=lambda e: e.name)

    def all_members(self, entity):
        return (self.all_members(self.entities[entity.base]) if entity.base else []) + entity.members


# ---- C ----

class CWriter:
    def __init__(self, schema):
        self.s = schema
        self.needed = []       # names of entities that need C types, dependencies first
        self.lists = []        # element types of lists
        self.visiting = set()  # entities may refer to each other
        for e in schema.of_kind("command"):
            for m in e.members:
                self.need(m.type)
            if e.args:
                self.need(e.args)
            if e.returns and "raw-return" not in e.flags:
                self.need(e.returns)
        for o in schema.options:
            self.need(o.args)
        for name, _ in schema.needs:
            self.need(name)

    def need(self, type_):
        if type_.startswith("["):
            element = type_[1:-1]
            self.need(element)
            if element not in self.lists:
                self.lists.append(element)
            return
        if type_ in BUILTIN or type_ in self.needed:
            return
        e = self.s.entities[type_]
        if type_ in self.visiting:
            return
        self.visiting.add(type_)
        if e.kind != "enum":
            if e.base:
                self.need(e.base)
            for m in self.s.all_members(e):
                self.need(m.type)
            for _, struct, _ in e.cases:
                self.need(struct)
        self.needed.append(type_)

    def is_pointer(self, type_):
        return type_ in ("str", "any") or type_.startswith("[") or self.s.kind(type_) in ("struct", "union", "alternate")

    def by_value(self, element):
        """Whether a list of it is a GArray of values instead of a GPtrArray."""
        return not self.is_pointer(element)

    def c_type(self, type_):
        if type_.startswith("["):
            return "GArray *" if self.by_value(type_[1:-1]) else "GPtrArray *"
        if type_ in BUILTIN:
            return BUILTIN[type_][0]
        return f"Qapi{type_} " if self.s.kind(type_) == "enum" else f"Qapi{type_} *"

    def fields(self, members, out):
        for m in members:
            if m.optional and not self.is_pointer(m.type):
                out.append(f"    bool has_{c_part(m.name)};")
            comment = f" /* of {m.type[1:-1]} */" if m.type.startswith("[") else ""
            out.append(f"    {self.c_type(m.type)}{c_name(m.name)};{comment}")

    def visit_one(self, type_, name, lvalue, error="error"):
        """An expression that visits one value."""
        if type_.startswith("["):
            return f"qapi_visit_list_{type_[1:-1]}(v, {name}, &{lvalue}, {error})"
        if type_ in BUILTIN:
            return f"visit_{VISIT.get(type_, type_)}(v, {name}, &{lvalue}, {error})"
        if self.s.kind(type_) == "enum":
            return f"visit_enum(v, {name}, (int *)&{lvalue}, &qapi_{type_}_lookup, {error})"
        return f"qapi_visit_{type_}(v, {name}, &{lvalue}, {error})"

    def free_one(self, type_, value):
        if type_.startswith("["):
            return f"g_clear_pointer(&{value}, {'g_array_unref' if self.by_value(type_[1:-1]) else 'g_ptr_array_unref'});"
        if type_ == "str":
            return f"g_clear_pointer(&{value}, g_free);"
        if type_ == "any":
            return f"json_object_put({value});"
        return f"qapi_{type_}_free({value});"

    def member_code(self, members, obj, out):
        for m in members:
            field = f"{obj}->{c_name(m.name)}"
            name = json.dumps(m.name)
            visit = self.visit_one(m.type, name, field)
            if m.optional:
                has = f"{obj}->has_{c_part(m.name)}"
                if self.is_pointer(m.type):
                    out.append(f"    has = {field} != NULL;")
                    out.append(f"    if (visit_optional(v, {name}, &has) && !{visit}) {{")
                else:
                    out.append(f"    if (visit_optional(v, {name}, &{has}) && !{visit}) {{")
            else:
                out.append(f"    if (!{visit}) {{")
            out.append("        return false;")
            out.append("    }")

    def types_h(self):
        out = ["/* Generated by gen_qapi.py. Do not edit. */", "#ifndef RHEA_QAPI_TYPES_H", "#define RHEA_QAPI_TYPES_H",
               "", '#include "qapi/visitor.h"', ""]
        for name in self.needed:
            if self.s.kind(name) == "enum":
                e = self.s.entities[name]
                out.append(f"typedef enum Qapi{name} {{")
                for m in e.members:
                    out.append(f"    QAPI_{c_upper(name)}_{c_upper(m.name)},")
                out += [f"    QAPI_{c_upper(name)}__COUNT,", f"}} Qapi{name};",
                        f"extern const EnumLookup qapi_{name}_lookup;", ""]
            else:
                out.append(f"typedef struct Qapi{name} Qapi{name};")
        for name in self.needed:
            e = self.s.entities[name]
            if e.kind == "enum":
                continue
            if e.kind == "alternate":
                self.alternate_h(e, out)
                continue
            out += ["", f"/* {e.doc} */"] if e.doc else [""]
            out.append(f"struct Qapi{name} {{")
            members = self.s.all_members(e)
            self.fields(members, out)
            for value, struct, _ in e.cases:
                out.append(f"    Qapi{struct} *u_{c_part(value)}; /* where {e.tag} is {value} */")
            if e.open:
                out += ["    json_object *more; /* the other members */",
                        "    bool more_is_text; /* they are text that is still to be parsed */"]
            elif not members and not e.cases:
                out.append("    char unused;")
            out += ["};",
                    f"bool qapi_visit_{name}(Visitor *v, const char *name, Qapi{name} **obj, GError **error);",
                    f"bool qapi_visit_{name}_members(Visitor *v, Qapi{name} *obj, GError **error);",
                    f"void qapi_{name}_free(Qapi{name} *obj);",
                    f"G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qapi{name}, qapi_{name}_free)"]
            if e.base:
                out += [f"/* The members that it has from {e.base}, which come first. */",
                        f"static inline Qapi{e.base} *qapi_{name}_base(const Qapi{name} *obj)", "{",
                        f"    return (Qapi{e.base} *)obj;", "}"]
        for o in self.s.options:
            out += ["", f"/* Reads -{o.name}: key=value text, whose bare first word means {o.implied}, or JSON. */",
                    self.option_prototype(o) + ";"]
        for element in self.lists:
            kind = "GArray" if self.by_value(element) else "GPtrArray"
            out += ["", f"/* Lists of {element}; an empty one to append to. */", f"{kind} *qapi_list_{element}_new(void);",
                    f"bool qapi_visit_list_{element}(Visitor *v, const char *name, {kind} **list, GError **error);"]
        return "\n".join(out + ["", "#endif", ""])

    def option_prototype(self, o):
        return f"bool qapi_option_{c_name(o.name)}(const char *text, Qapi{o.args} **options, GError **error)"

    def option_code(self, o, out):
        out += [self.option_prototype(o), "{",
                f"    Visitor *v = visitor_new_options(text, {json.dumps(o.implied)}, error);",
                f"    bool ok = v && qapi_visit_{o.args}(v, NULL, options, error);",
                "    visitor_free(v);", "    return ok;", "}", ""]

    def alternate_h(self, e, out):
        name = e.name
        out += ["", f"typedef enum Qapi{name}Kind {{"]
        out += [f"    QAPI_{c_upper(name)}_{c_upper(m.name)}," for m in e.members]
        out += [f"}} Qapi{name}Kind;"]
        out += [f"/* {e.doc} */"] if e.doc else []
        out += [f"struct Qapi{name} {{", f"    Qapi{name}Kind kind;"]
        out += [f"    {self.c_type(m.type)}u_{c_part(m.name)};" for m in e.members if m.type != "null"]
        out += ["};", f"bool qapi_visit_{name}(Visitor *v, const char *name, Qapi{name} **obj, GError **error);",
                f"void qapi_{name}_free(Qapi{name} *obj);", f"G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qapi{name}, qapi_{name}_free)"]

    def alternate_c(self, e, out):
        name = e.name
        branches = {self.s.json_type(m.type): m for m in e.members}
        kind = {json_type: f"QAPI_{c_upper(name)}_{c_upper(m.name)}" for json_type, m in branches.items()}
        # Text gives a string for every scalar: the one scalar branch is meant then.
        scalars = [t for t in branches if t not in ("object", "array", "null")]
        if "string" not in branches and scalars:
            kind["string"] = kind[scalars[0]]
        if "double" in branches and "int" not in branches:
            kind["int"] = kind["double"]
        expected = " or ".join({"int": "integer", "double": "number"}.get(t, t) for t in branches)
        out += [f"bool qapi_visit_{name}(Visitor *v, const char *name, Qapi{name} **obj, GError **error)", "{",
                "    json_type type = json_type_null;",
                "    if (visitor_is_input(v) && !visit_alternate(v, name, &type, error)) {", "        return false;", "    }",
                f"    Qapi{name} *o = visitor_is_input(v) ? g_new0(Qapi{name}, 1) : *obj;", "    bool ok = true;",
                "    if (visitor_is_input(v)) {", "        switch (type) {"]
        for json_type, value in kind.items():
            out += [f"        case json_type_{json_type}:", f"            o->kind = {value};", "            break;"]
        out += ["        default:", f"            ok = visit_wrong_type(v, name, {json.dumps(expected)}, error);",
                "        }", "    }", "    if (ok) {", "        switch (o->kind) {"]
        for m in e.members:
            visit = "visit_null(v, name, error)" if m.type == "null" else self.visit_one(m.type, "name",
                                                                                         f"o->u_{c_part(m.name)}")
            out += [f"        case QAPI_{c_upper(name)}_{c_upper(m.name)}:", f"            ok = {visit};",
                    "            break;"]
        out += ["        }", "    }", "    if (visitor_is_input(v)) {", "        if (ok) {", "            *obj = o;",
                "        } else {", f"            qapi_{name}_free(o);", "        }", "    }", "    return ok;", "}", "",
                f"void qapi_{name}_free(Qapi{name} *obj)", "{", "    if (!obj) {", "        return;", "    }"]
        for m in e.members:
            if self.is_pointer(m.type):
                out.append(f"    {self.free_one(m.type, 'obj->u_' + c_part(m.name))}")
        out += ["    g_free(obj);", "}", ""]

    def only_string(self, e):
        """The name of a struct's member, where that is its only one and a string."""
        members = self.s.all_members(e)
        one = e.kind == "struct" and not e.open and len(members) == 1 and members[0].type == "str"
        return members[0].name if one and not members[0].optional else None

    def types_c(self):
        out = ["/* Generated by gen_qapi.py. Do not edit. */", '#include "qapi/qapi_types.h"', ""]
        for name in self.needed:
            e = self.s.entities[name]
            if e.kind == "enum":
                names = ", ".join(f"[{i}] = {json.dumps(m.name)}" for i, m in enumerate(e.members))
                out += [f"static const char *const {name}_names[] = {{ {names} }};",
                        f"const EnumLookup qapi_{name}_lookup = {{ .name = \"{name}\", .names = {name}_names, "
                        f".count = {len(e.members)} }};", ""]
        for name in self.needed:
            e = self.s.entities[name]
            if e.kind == "enum":
                continue
            if e.kind == "alternate":
                self.alternate_c(e, out)
                continue
            members = self.s.all_members(e)
            out += [f"bool qapi_visit_{name}_members(Visitor *v, Qapi{name} *obj, GError **error)", "{"]
            if any(m.optional and self.is_pointer(m.type) for m in members):
                out.append("    bool has;")
            self.member_code(members, "obj", out)
            if e.kind == "union":
                tag = c_name(e.tag)
                tag_type = next(m.type for m in members if m.name == e.tag)
                out.append(f"    switch (obj->{tag}) {{")
                for value, struct, _ in e.cases:
                    field = f"obj->u_{c_part(value)}"
                    out += [f"    case QAPI_{c_upper(tag_type)}_{c_upper(value)}:",
                            "        if (visitor_is_input(v)) {",
                            f"            {field} = g_new0(Qapi{struct}, 1);",
                            "        }",
                            f"        return qapi_visit_{struct}_members(v, {field}, error);"]
                out += ["    default:", "        break;", "    }"]
            if e.open:
                out += ["    if (visitor_is_input(v)) {", "        obj->more = visit_rest(v, &obj->more_is_text);",
                        "    } else {", "        visit_put_rest(v, obj->more);", "    }"]
            out += ["    return true;", "}", ""]
            only = self.only_string(e)
            start = f"visit_start_wrapper(v, name, {json.dumps(only)}, error)" if only else \
                "visit_start_struct(v, name, error)"
            out += [f"bool qapi_visit_{name}(Visitor *v, const char *name, Qapi{name} **obj, GError **error)", "{",
                    f"    if (!{start}) {{", "        return false;", "    }",
                    f"    Qapi{name} *o = visitor_is_input(v) ? g_new0(Qapi{name}, 1) : *obj;",
                    f"    bool ok = qapi_visit_{name}_members(v, o, error) && visit_check_struct(v, error);",
                    "    visit_end_struct(v);", "    if (visitor_is_input(v)) {", "        if (ok) {",
                    "            *obj = o;", "        } else {", f"            qapi_{name}_free(o);", "        }", "    }",
                    "    return ok;", "}", "",
                    f"void qapi_{name}_free(Qapi{name} *obj)", "{", "    if (!obj) {", "        return;", "    }"]
            for m in members:
                if self.is_pointer(m.type):
                    out.append(f"    {self.free_one(m.type, 'obj->' + c_name(m.name))}")
            for value, struct, _ in e.cases:
                out.append(f"    qapi_{struct}_free(obj->u_{c_part(value)});")
            if e.open:
                out.append("    json_object_put(obj->more);")
            out += ["    g_free(obj);", "}", ""]
        for element in self.lists:
            self.list_code(element, out)
        for o in self.s.options:
            self.option_code(o, out)
        return "\n".join(out)

    def list_code(self, element, out):
        start = "visit_start_int_list" if element in INTEGERS else "visit_start_list"
        if self.by_value(element):
            c = self.c_type(element).strip()
            out += [f"GArray *qapi_list_{element}_new(void)", "{",
                    f"    return g_array_new(FALSE, TRUE, sizeof({c}));", "}", "",
                    f"bool qapi_visit_list_{element}(Visitor *v, const char *name, GArray **list, GError **error)", "{",
                    "    size_t count = visitor_is_input(v) ? 0 : (*list)->len;",
                    f"    if (!{start}(v, name, &count, error)) {{", "        return false;", "    }",
                    f"    GArray *a = visitor_is_input(v) ? qapi_list_{element}_new() : *list;", "    bool ok = true;",
                    "    for (size_t i = 0; i < count && ok; i++) {",
                    f"        {c} value = {{ 0 }};", "        if (!visitor_is_input(v)) {",
                    f"            value = g_array_index(a, {c}, i);", "        }",
                    f"        ok = {self.visit_one(element, 'NULL', 'value')};",
                    "        if (ok && visitor_is_input(v)) {", "            g_array_append_val(a, value);", "        }",
                    "    }", "    visit_end_list(v);"]
        else:
            c = self.c_type(element)
            free = {"str": "g_free"}.get(element, f"qapi_{element}_free")
            if element == "any":
                out += ["static void free_any(void *value)", "{", "    json_object_put(value);", "}", ""]
                free = "free_any"
            out += [f"GPtrArray *qapi_list_{element}_new(void)", "{",
                    f"    return g_ptr_array_new_with_free_func((GDestroyNotify){free});", "}", "",
                    f"bool qapi_visit_list_{element}(Visitor *v, const char *name, GPtrArray **list, GError **error)",
                    "{", "    size_t count = visitor_is_input(v) ? 0 : (*list)->len;",
                    f"    if (!{start}(v, name, &count, error)) {{", "        return false;", "    }",
                    f"    GPtrArray *a = visitor_is_input(v) ? qapi_list_{element}_new() : *list;", "    bool ok = true;",
                    "    for (size_t i = 0; i < count && ok; i++) {",
                    f"        {c}value = visitor_is_input(v) ? NULL : g_ptr_array_index(a, i);",
                    f"        ok = {self.visit_one(element, 'NULL', 'value')};",
                    "        if (ok && visitor_is_input(v)) {", "            g_ptr_array_add(a, value);", "        }",
                    "    }", "    visit_end_list(v);"]
        unref = "g_array_unref" if self.by_value(element) else "g_ptr_array_unref"
        out += ["    if (visitor_is_input(v)) {", "        if (ok) {", "            *list = a;", "        } else {",
                f"            {unref}(a);", "        }", "    }", "    return ok;", "}", ""]

    def prototype(self, e):
        args = ["QmpContext *ctx"]
        if e.args:
            args.append(f"Qapi{e.args} *args")
        for m in e.members:
            if m.optional and not self.is_pointer(m.type):
                args.append(f"bool has_{c_part(m.name)}")
            const = "const " if m.type == "str" else ""
            args.append(f"{const}{self.c_type(m.type)}{c_name(m.name)}")
        if e.returns:
            c = "json_object *" if "raw-return" in e.flags else self.c_type(e.returns)
            args.append(f"{c}*ret")
        args.append("GError **error")
        return f"bool qmp_{c_name(e.name)}({', '.join(args)})"

    def commands_h(self):
        out = ["/* Generated by gen_qapi.py. Do not edit. */", "#ifndef RHEA_QAPI_COMMANDS_H",
               "#define RHEA_QAPI_COMMANDS_H", "", '#include "qapi/qapi_types.h"', "",
               "/* What a command's body gets to know of who asks; defined by the monitor. */",
               "typedef struct QmpContext QmpContext;", "",
               "/* A command of the table, sorted by name. run checks args (borrowed, may be NULL: none), calls the body",
               " * and makes the reply, which the caller owns. */",
               "typedef struct QmpCommand {", "    const char *name;",
               "    bool (*run)(QmpContext *ctx, json_object *args, json_object **ret, GError **error);",
               "    bool allow_oob;", "    bool allow_preconfig;", "} QmpCommand;",
               "extern const QmpCommand qmp_commands[];", "extern const unsigned qmp_commands_count;", "",
               "/* The bodies. Arguments are borrowed; what they put into *ret is the caller's. */"]
        for e in self.s.of_kind("command"):
            if e.doc:
                out.append(f"/* {e.doc} */")
            out.append(self.prototype(e) + ";")
        return "\n".join(out + ["", "#endif", ""])

    def dispatch_c(self):
        out = ["/* Generated by gen_qapi.py. Do not edit. */", '#include "qapi/qapi_commands.h"', "",
               "static json_object *no_arguments(void)", "{", "    return json_object_new_object();", "}", ""]
        for e in self.s.of_kind("command"):
            self.marshal(e, out)
        commands = self.s.of_kind("command")
        out.append("const QmpCommand qmp_commands[] = {")
        for e in sorted(commands, key=lambda c: c.name):
            out.append(f"    {{ {json.dumps(e.name)}, run_{c_name(e.name)}, {'true' if 'allow-oob' in e.flags else 'false'}"
                       f", {'true' if 'allow-preconfig' in e.flags else 'false'} }},")
        out += ["};", f"const unsigned qmp_commands_count = {len(commands)};", ""]
        return "\n".join(out)

    def marshal(self, e, out):
        name = c_name(e.name)
        out += [f"static bool run_{name}(QmpContext *ctx, json_object *args, json_object **ret, GError **error)", "{",
                "    json_object *dict = args ? json_object_get(args) : no_arguments();", "    bool ok = true;"]
        call = ["ctx"]
        if e.args:
            out += [f"    Qapi{e.args} *a = NULL;", "    Visitor *v = visitor_new_input(dict, false);",
                    f"    ok = qapi_visit_{e.args}(v, NULL, &a, error);"]
            call.append("a")
        else:
            self.marshal_members(e, out)
            for m in e.members:
                if m.optional and not self.is_pointer(m.type):
                    call.append(f"a->has_{c_part(m.name)}")
                call.append(f"a->{c_name(m.name)}")
        out.append("    visitor_free(v);")
        if e.returns:
            if "raw-return" in e.flags:
                out.append("    json_object *got = NULL;")
            else:
                initial = "NULL" if self.is_pointer(e.returns) else "0"
                out.append(f"    {self.c_type(e.returns)}got = {initial};")
            call.append("&got")
        call.append("error")
        out.append(f"    ok = ok && qmp_{name}({', '.join(call)});")
        if e.returns:
            out.append("    if (ok) {")
            if "raw-return" in e.flags:
                out.append("        *ret = got;")
            else:
                out += ["        v = visitor_new_output();",
                        f"        ok = {self.visit_one(e.returns, 'NULL', 'got')};",
                        "        if (ok) {", "            *ret = visitor_output_take(v);", "        }",
                        "        visitor_free(v);"]
                if self.is_pointer(e.returns):
                    out.append(f"        {self.free_one(e.returns, 'got')}")
            out.append("    }")
        else:
            out += ["    if (ok) {", "        *ret = json_object_new_object();", "    }"]
        if e.args:
            out.append(f"    qapi_{e.args}_free(a);")
        for m in e.members:
            if self.is_pointer(m.type):
                out.append(f"    {self.free_one(m.type, 'a->' + c_name(m.name))}")
        out += ["    json_object_put(dict);", "    return ok;", "}", ""]

    def marshal_members(self, e, out):
        out.append("    struct {")
        self.fields(e.members, out)
        out += ["        char unused;", "    } storage = { 0 }, *a = &storage;", "    (void)a;",
                "    Visitor *v = visitor_new_input(dict, false);",
                "    ok = visit_start_struct(v, NULL, error);"]
        for m in e.members:
            field, key = f"a->{c_name(m.name)}", json.dumps(m.name)
            visit = self.visit_one(m.type, key, field)
            if m.optional:
                has = "has" if self.is_pointer(m.type) else f"a->has_{c_part(m.name)}"
                out.append("    if (ok) {")
                if has == "has":
                    out.append("        bool has = false;")
                out += [f"        ok = !visit_optional(v, {key}, &{has}) || {visit};", "    }"]
            else:
                out.append(f"    ok = ok && {visit};")
        out.append("    ok = ok && visit_check_struct(v, error);")


# ---- introspection ----

def introspect(schema):
    entries, done = [], set()
    empty = "q_empty"

    def type_name(type_):
        if type_.startswith("["):
            name = f"[{type_name(type_[1:-1])}]"
            if name not in done:
                done.add(name)
                entries.append({"name": name, "meta-type": "array", "element-type": name[1:-1]})
            return name
        if type_ in BUILTIN:
            json_type = BUILTIN[type_][1]
            name = "int" if json_type == "int" else type_
            if name not in done:
                done.add(name)
                entries.append({"name": name, "meta-type": "builtin", "json-type": json_type})
            return name
        add(schema.entities[type_])
        return type_

    def members(list_):
        result = []
        for m in list_:
            entry = {"name": m.name, "type": type_name(m.type)}
            if m.optional:
                entry["default"] = None
            result.append(entry)
        return result

    def add(e):
        if e.name in done:
            return
        done.add(e.name)
        if e.kind == "enum":
            entries.append({"name": e.name, "meta-type": "enum", "members": [{"name": m.name} for m in e.members],
                            "values": [m.name for m in e.members]})
        elif e.kind == "alternate":
            entries.append({"name": e.name, "meta-type": "alternate",
                            "members": [{"type": type_name(m.type)} for m in e.members]})
        else:
            entry = {"name": e.name, "meta-type": "object", "members": members(schema.all_members(e))}
            if e.kind == "union":
                entry["tag"] = e.tag
                cases = {value: struct for value, struct, _ in e.cases}
                tag_type = next(m.type for m in e.members if m.name == e.tag)
                entry["variants"] = [{"case": m.name, "type": type_name(cases[m.name]) if m.name in cases else empty}
                                     for m in schema.entities[tag_type].members]
            entries.append(entry)

    def arguments(e):
        if e.args:
            return type_name(e.args)
        if not e.members:
            return empty
        name = f"q_{e.name}_arg"
        entries.append({"name": name, "meta-type": "object", "members": members(e.members)})
        return name

    entries.append({"name": empty, "meta-type": "object", "members": []})
    for e in schema.of_kind("command"):
        entry = {"name": e.name, "meta-type": "command", "arg-type": arguments(e),
                 "ret-type": type_name(e.returns) if e.returns else empty}
        if "allow-oob" in e.flags:
            entry["allow-oob"] = True
        if e.features:
            entry["features"] = e.features
        entries.append(entry)
    for e in schema.of_kind("event"):
        entries.append({"name": e.name, "meta-type": "event", "arg-type": arguments(e)})
    return entries


def introspect_c(schema):
    out = ["/* Generated by gen_qapi.py. Do not edit. */", '#include "qapi/introspect.h"', "",
           "const char *const qapi_schema_entries[] = {"]
    for entry in introspect(schema):
        out.append("    " + json.dumps(json.dumps(entry)) + ",")
    return "\n".join(out + ["    0,", "};", ""])


# ---- reference ----

def reference(schema):
    out = ["# QMP reference", "", "Generated from `qapi/*.schema`. A `?` marks optional members.", ""]
    for section in schema.sections:
        out += [f"## {section}", ""]
        for e in schema.entities.values():
            if e.section != section:
                continue
            head = f"### {e.name} ({e.kind})"
            out += [head, ""]
            if e.doc:
                out += [e.doc, ""]
            if e.base:
                out += [f"Has all members of `{e.base}`.", ""]
            if e.open:
                out += ["Takes other members too: see its text.", ""]
            if e.args:
                out += [f"Arguments: `{e.args}`.", ""]
            for m in e.members:
                what = f": `{m.type}`" if m.type else ""
                out.append(f"- `{m.name}`{'?' if m.optional else ''}{what}{' - ' + m.doc if m.doc else ''}")
            for value, struct, doc in e.cases:
                out.append(f"- where `{e.tag}` is `{value}`: the members of `{struct}`{' - ' + doc if doc else ''}")
            if e.members or e.cases:
                out.append("")
            if e.returns:
                out += [f"Returns `{e.returns}`.", ""]
        for o in schema.options:
            if o.section == section:
                out += [f"### -{o.name} (option of the command line)", "", o.doc, "",
                        f"Takes the members of `{o.args}` as `key=value,...` or as a JSON object. A bare first word means "
                        f"`{o.implied}`; a key with dots names a member of a member.", ""]
    return "\n".join(out)


def main(arguments):
    if len(arguments) < 3:
        sys.exit("usage: gen_qapi.py OUTPUT-DIRECTORY SCHEMA...")
    directory, *inputs = arguments[1:]
    schema = Schema()
    try:
        for path in sorted(inputs):
            with open(path, encoding="utf-8") as file:
                schema.parse(path, file.read())
        schema.check()
        writer = CWriter(schema)
        outputs = {"qapi_types.h": writer.types_h(), "qapi_types.c": writer.types_c(),
                   "qapi_commands.h": writer.commands_h(), "qapi_dispatch.c": writer.dispatch_c(),
                   "qapi_introspect.c": introspect_c(schema), "qmp-reference.md": reference(schema)}
    except SchemaError as error:
        sys.exit(str(error))
    for name, text in outputs.items():
        with open(f"{directory}/{name}", "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main(sys.argv)
