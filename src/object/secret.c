/*
 * "secret": a password or key that other objects name by its id (-object
 * secret,id=s0,file=key.bin,format=base64).
 *
 * The value comes from data= or from a file, raw or in base64. Values that are encrypted with another secret
 * (keyid=, iv=) are refused: nothing here can decrypt yet. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "object/secret.h"

#include "base/error.h"
#include "object/property.h"

#include <string.h>

#define SECRET_MAX_BYTES (1u << 20)

typedef enum SecretFormat { SECRET_RAW, SECRET_BASE64 } SecretFormat;
static const char *const format_names[] = { "raw", "base64" };
static const EnumLookup format_lookup = { .name = "QCryptoSecretFormat", .names = format_names, .count = 2 };

typedef struct Secret {
    Object parent_obj;
    char *data, *file, *keyid, *iv;
    int format;
    guchar *value; /* once complete */
    gsize size;
} Secret;

static bool value_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                      GError **error)
{
    return error_set(error, "Property '%s.%s' is not readable", object_get_typename(obj), name);
}

static bool value_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                      GError **error)
{
    return property_type_str.set(obj, v, name, prop, field, error);
}

static void value_release(Object *obj, const Property *prop, void *field)
{
    char *text = *(char **)field;
    if (text) {
        explicit_bzero(text, strlen(text));
    }
    property_type_str.release(obj, prop, field);
}

/* A string that can be written but not read back. */
static const PropertyType property_type_hidden = {
    .name = "string", .get = value_get, .set = value_set, .release = value_release
};

static const Property secret_properties[] = {
    PROP_TYPED("data", Secret, data, property_type_hidden, "the value itself"),
    PROP_STR("file", Secret, file, NULL, "a file that holds it"),
    PROP_ENUM("format", Secret, format, format_lookup, SECRET_RAW, "how it is written there"),
    PROP_STR("keyid", Secret, keyid, NULL, "the secret that it is encrypted with (not supported)"),
    PROP_STR("iv", Secret, iv, NULL, "the initialisation vector of that encryption"),
    PROP_END,
};

static bool secret_complete(Object *obj, GError **error)
{
    Secret *s = (Secret *)obj;
    g_autofree char *text = NULL;
    gsize length = 0;
    if (s->keyid || s->iv) {
        return error_set(error, "encrypted secrets (keyid, iv) are not supported");
    }
    if (s->data && s->file) {
        return error_set(error, "'file' and 'data' are mutually exclusive");
    }
    if (s->file) {
        g_autoptr(GError) why = NULL;
        if (!g_file_get_contents(s->file, &text, &length, &why)) {
            return error_set(error, "Unable to read %s: %s", s->file, why->message);
        }
    } else if (s->data) {
        text = g_strdup(s->data);
        length = strlen(text);
    } else {
        return error_set(error, "Must provide 'file' or 'data'");
    }
    bool ok = true;
    if (length > SECRET_MAX_BYTES) {
        ok = error_set(error, "the secret is too large (%zu bytes)", length);
    } else if (s->format == SECRET_BASE64) {
        g_strchomp(text);
        s->value = g_base64_decode(text, &s->size);
        /* GLib skips what it does not know; a value that does not come back the same was no base64. */
        g_autofree char *back = g_base64_encode(s->value, s->size);
        if (strcmp(back, text) != 0) {
            ok = error_set(error, "the secret is not valid base64");
        }
        explicit_bzero(back, strlen(back));
    } else {
        s->value = (guchar *)g_memdup2(text, length);
        s->size = length;
    }
    explicit_bzero(text, length);
    return ok;
}

bool secret_value(Object *root, const char *id, const uint8_t **value, size_t *size, GError **error)
{
    Object *obj = object_resolve_path_component(container_get(root, "/objects"), id);
    Secret *s = object_dynamic_cast(obj, TYPE_SECRET);
    if (!s) {
        return error_set(error, obj ? "Object with id '%s' is not a secret" : "No secret with id '%s'", id);
    }
    *value = s->value;
    *size = s->size;
    return true;
}

static void secret_finalize(Object *obj)
{
    Secret *s = (Secret *)obj;
    if (s->value) {
        explicit_bzero(s->value, s->size);
    }
    g_free(s->value);
}

static const UserCreatableOps secret_ops = { .complete = secret_complete };

static void secret_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, secret_properties);
    user_creatable_class_set(klass, &secret_ops);
}

static const TypeInfo secret_info = {
    .name = TYPE_SECRET,
    .parent = TYPE_OBJECT,
    .description = "a password or key",
    .instance_size = sizeof(Secret),
    .class_init = secret_class_init,
    .instance_finalize = secret_finalize,
    .interfaces = (const char *const[]){ TYPE_USER_CREATABLE, NULL },
};
TYPE_REGISTER(secret_info);
