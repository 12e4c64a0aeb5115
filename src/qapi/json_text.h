/* JSON values as text, in the spacing that QMP's users know. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_QAPI_JSON_TEXT_H
#define RHEA_QAPI_JSON_TEXT_H

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

/* Appends {"return": {"a": [1, 2]}}; pretty: one member a line, indented by four. The text is valid UTF-8 on
 * one line (unless pretty). NULL is JSON's null. */
void json_text_append(GString *out, json_object *value, bool pretty);

#endif
