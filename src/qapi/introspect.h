/* What query-qmp-schema answers, generated from the schema. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_QAPI_INTROSPECT_H
#define RHEA_QAPI_INTROSPECT_H

/* One JSON text (a SchemaInfo) each; NULL-terminated. */
extern const char *const qapi_schema_entries[];

#endif
