/* Passwords and keys as objects. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_OBJECT_SECRET_H
#define RHEA_OBJECT_SECRET_H

#include "object/object.h"

#define TYPE_SECRET "secret"

/* The value of /objects/ID; borrowed, stays while the object does. */
bool secret_value(Object *root, const char *id, const uint8_t **value, size_t *size, GError **error);

#endif
