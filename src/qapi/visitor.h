/*
 * Visitors: one walk over a value, whatever its form. Input visitors fill C variables from JSON or from
 * key=value text; output visitors make JSON or text from them. Generated code for the schema's types and the
 * object model's properties are both written against this.
 *
 * Inside a struct, name is the member's name; inside a list, NULL. Input visitors check ranges and reject
 * members that nobody visited (visit_check_struct). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_QAPI_VISITOR_H
#define RHEA_QAPI_VISITOR_H

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Visitor Visitor;

/* Names of an enumeration's values: names[value]; holes are NULL. */
typedef struct EnumLookup {
    const char *name; /* of the enumeration type */
    const char *const *names;
    int count;
} EnumLookup;
/* The value of a name, or -1 with an error that names the nearest one. */
int enum_parse(const EnumLookup *lookup, const char *name, GError **error);
const char *enum_name(const EnumLookup *lookup, int value);

bool visitor_is_input(const Visitor *v);

bool visit_bool(Visitor *v, const char *name, bool *value, GError **error);
bool visit_int64(Visitor *v, const char *name, int64_t *value, GError **error);
bool visit_uint64(Visitor *v, const char *name, uint64_t *value, GError **error);
bool visit_int32(Visitor *v, const char *name, int32_t *value, GError **error);
bool visit_int16(Visitor *v, const char *name, int16_t *value, GError **error);
bool visit_int8(Visitor *v, const char *name, int8_t *value, GError **error);
bool visit_uint32(Visitor *v, const char *name, uint32_t *value, GError **error);
bool visit_uint16(Visitor *v, const char *name, uint16_t *value, GError **error);
bool visit_uint8(Visitor *v, const char *name, uint8_t *value, GError **error);
bool visit_number(Visitor *v, const char *name, double *value, GError **error);
/* A byte count; text input takes suffixes k M G T P E (powers of 1024), JSON a number. */
bool visit_size(Visitor *v, const char *name, uint64_t *value, GError **error);
/* A string that the receiver owns; input replaces *value without freeing what was there. */
bool visit_str(Visitor *v, const char *name, char **value, GError **error);
bool visit_enum(Visitor *v, const char *name, int *value, const EnumLookup *lookup, GError **error);
bool visit_null(Visitor *v, const char *name, GError **error);
/* Any JSON value; input gives a new reference. */
bool visit_any(Visitor *v, const char *name, json_object **value, GError **error);

bool visit_start_struct(Visitor *v, const char *name, GError **error);
/* Input: fails where the struct has members that were not visited. Call before visit_end_struct on success.
 */
bool visit_check_struct(Visitor *v, GError **error);
void visit_end_struct(Visitor *v);
/* As visit_start_struct, of a struct whose only member is `only`: text forms may give that member's value in
 * its place (hostfwd=RULE where JSON has {"str": "RULE"}). */
bool visit_start_wrapper(Visitor *v, const char *name, const char *only, GError **error);
/* For structs that take any member besides their own. Input: those of the open struct that nobody visited, as
 * a dict that the caller owns; they count as visited then. *is_text: it holds text that is still to be parsed
 * (visitor_new_input's keyval). Output: writes them. */
json_object *visit_rest(Visitor *v, bool *is_text);
void visit_put_rest(Visitor *v, json_object *rest);
/* Input: the members of the open struct that nobody visited yet, in their order; for receivers that take any
 * name (properties of an object). Free with g_strfreev. */
char **visit_member_names(Visitor *v);
/* Input: *present tells whether the member is there. Output: *present says whether it will be written. */
bool visit_optional(Visitor *v, const char *name, bool *present);
/* Lists: input, *count elements are there; output, *count of them follow. Then visit each with name NULL. */
bool visit_start_list(Visitor *v, const char *name, size_t *count, GError **error);
void visit_end_list(Visitor *v);
/* The same for integers: text forms may give ranges ("0-3"). */
bool visit_start_int_list(Visitor *v, const char *name, size_t *count, GError **error);
/* Input: the JSON type of a member; json_type_null where it is missing. Text forms answer json_type_string.
 */
json_type visit_peek_type(Visitor *v, const char *name);
/* Input: the JSON type of a member (which must be there), to choose an alternate's branch. Text forms answer
 * json_type_string for every scalar. */
bool visit_alternate(Visitor *v, const char *name, json_type *type, GError **error);
/* Sets the error that says which types a member may have. Always false. */
bool visit_wrong_type(Visitor *v, const char *name, const char *expected, GError **error);

/* ---- the visitors ---- */
/* Reads a JSON value, which it takes a reference to. keyval: scalars arrive as strings and are parsed ("on",
 * "64M"), as -device key=value and human input need. */
Visitor *visitor_new_input(json_object *value, bool keyval);
/* Reads one scalar from text. */
Visitor *visitor_new_text_input(const char *text);
/* Reads an option of the command line: key=value text (a repeated key is a list) or, where it begins with
 * '{', JSON. implied_key: see keyval_parse. NULL on error. */
Visitor *visitor_new_options(const char *text, const char *implied_key, GError **error);
/* Builds JSON; visitor_output_take gives the value (caller owns it) once the walk is over. */
Visitor *visitor_new_output(void);
json_object *visitor_output_take(Visitor *v);
void visitor_free(Visitor *v);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Visitor, visitor_free)

/* Parses QEMU's key=value text ("driver=virtio-blk-pci,addr=0x4,file.driver=file,list.0=a"; ",," is a comma;
 * a bare first word gets implied_key where that is not NULL; a bare later word "x" is x=on, "nox" is x=off)
 * into a JSON dict of strings, nested at dots. NULL on error. Where the text begins with '{' it is parsed as
 * JSON and *is_json (may be NULL) is set. Free with json_object_put. */
json_object *keyval_parse(const char *text, const char *implied_key, bool *is_json, GError **error);
/* The same, but a key that comes several times becomes a list of its values; keyval_parse keeps the last. */
json_object *keyval_parse_repeated(const char *text, const char *implied_key, bool *is_json, GError **error);

#endif
