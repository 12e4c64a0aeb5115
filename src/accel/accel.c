/* Choosing an accelerator. SPDX-License-Identifier: GPL-2.0-or-later */
#include "accel/accel.h"

#include "base/error.h"
#include "base/nearest.h"

static const TypeInfo accel_info = {
    .name = TYPE_ACCEL,
    .parent = TYPE_OBJECT,
    .description = "how virtual CPUs run",
    .instance_size = sizeof(Accel),
    .class_size = sizeof(AccelClass),
    .abstract = true,
};
TYPE_REGISTER(accel_info);

static AccelClass *accel_find(const char *name, GError **error)
{
    GPtrArray *classes = object_class_list(TYPE_ACCEL, false);
    GPtrArray *names = g_ptr_array_new();
    AccelClass *found = NULL;

    for (guint i = 0; i < classes->len && !found; i++) {
        AccelClass *klass = classes->pdata[i];
        if (g_strcmp0(klass->name, name) == 0 || g_strcmp0(klass->alias, name) == 0) {
            found = klass;
        } else if (klass->name) {
            g_ptr_array_add(names, (void *)klass->name);
        }
    }
    if (!found) {
        error_set(error, "invalid accelerator %s", name);
        g_ptr_array_add(names, NULL);
        nearest_hint(error, name, (const char *const *)names->pdata);
    }
    g_ptr_array_unref(names);
    g_ptr_array_unref(classes);
    return found;
}

/* What "auto" is here. Borrowed. */
static const char *accel_best(void)
{
    GPtrArray *classes = object_class_list(TYPE_ACCEL, false);
    const char *best = "tcg";

    for (guint i = 0; i < classes->len; i++) {
        const AccelClass *klass = classes->pdata[i];
        if (klass->name && klass->preferred && (!klass->available || klass->available(NULL)) &&
            klass->preferred(NULL)) {
            best = klass->name;
            break;
        }
    }
    g_ptr_array_unref(classes);
    return best;
}

Accel *accel_new(const char *names, json_object *properties, GError **error)
{
    g_auto(GStrv) list = g_strsplit(names, ":", -1);
    g_autoptr(GError) last = NULL;

    for (char **name = list; *name; name++) {
        g_clear_error(&last);
        AccelClass *klass = accel_find(strcmp(*name, "auto") == 0 ? accel_best() : *name, &last);
        if (!klass || (klass->available && !klass->available(&last))) {
            continue;
        }
        Object *accel = object_new(object_class_get_name(OBJECT_CLASS(klass)), error);
        if (!accel) {
            return NULL;
        }
        if (properties) {
            json_object_object_foreach(properties, key, value)
            {
                if (g_strv_length(list) > 1 && !object_property_find(accel, key)) {
                    continue; /* of another one of the list */
                }
                if (!object_property_parse(accel, key, json_object_get_string(value), error)) {
                    object_unref(accel);
                    return NULL;
                }
            }
        }
        return (Accel *)accel;
    }
    if (last) {
        g_propagate_error(error, g_steal_pointer(&last));
    } else {
        error_set(error, "no accelerator is named");
    }
    return NULL;
}
