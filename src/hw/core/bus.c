/*
 * Buses: who sits on them, looking them up, walking and resetting what is below.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/nearest.h"
#include "hw/core/device.h"

#include <string.h>

static bool count_type(Object *child, void *opaque)
{
    void **args = opaque;
    if (object_dynamic_cast(child, args[0])) {
        ++*(unsigned *)args[1];
    }
    return true;
}

static char *bus_default_name(const char *bus_type, Device *owner, const DeviceEnv *env)
{
    if (owner && owner->id) {
        return g_strdup_printf("%s.%u", owner->id, owner->child_buses->len);
    }
    unsigned n = 0;
    void *args[] = { (void *)bus_type, &n };
    if (env && env->root) {
        object_child_foreach(env->root, true, count_type, args);
    }
    g_autofree char *lower = g_ascii_strdown(bus_type, -1);
    return g_strdup_printf("%s.%u", lower, n);
}

Bus *bus_new(const char *bus_type, Device *owner, const char *name, const DeviceEnv *env)
{
    Object *obj = object_new_known(bus_type);
    Bus *bus = BUS(obj);
    bus->owner = owner;
    bus->env = env;
    bus->name = name ? g_strdup(name) : bus_default_name(bus_type, owner, env);
    Object *parent = owner              ? OBJECT(owner)
                     : env && env->root ? container_get(env->root, "/machine/unattached")
                                        : NULL;
    if (parent) {
        g_autoptr(GError) error = NULL;
        /* A user may call a bridge, and so its bus, by the name of one of its properties. */
        g_autofree char *other = g_strdup_printf("%s.bus", bus->name);
        const char *child = object_property_find(parent, bus->name) ? other : bus->name;
        if (!object_property_add_child(parent, child, obj, &error)) {
            g_error("bus '%s': %s", bus->name, error->message);
        }
        object_unref(obj); /* the parent has it now */
    }
    if (owner) {
        g_ptr_array_add(owner->child_buses, bus);
    }
    return bus;
}

void bus_reset(Bus *bus)
{
    for (guint i = 0; i < bus->children->len; i++) {
        device_reset(bus->children->pdata[i]);
    }
}

void bus_foreach(Bus *bus, void (*fn)(Device *dev, void *opaque), void *opaque)
{
    for (guint i = 0; i < bus->children->len; i++) {
        Device *dev = bus->children->pdata[i];
        fn(dev, opaque);
        for (guint j = 0; j < dev->child_buses->len; j++) {
            bus_foreach(dev->child_buses->pdata[j], fn, opaque);
        }
    }
}

typedef struct FindBus {
    const char *type, *name;
    Bus *by_name; /* of any type */
    Bus *free_one, *full_one;
    unsigned free_depth; /* how far free_one is from the root */
    GPtrArray *names;    /* of buses of the right type, for the hint */
} FindBus;

static unsigned bus_depth(const Bus *bus)
{
    unsigned depth = 0;
    for (; bus->owner && bus->owner->bus; bus = bus->owner->bus) {
        depth++;
    }
    return depth;
}

static bool find_bus_visit(Object *child, void *opaque)
{
    FindBus *f = opaque;
    Bus *bus = object_dynamic_cast(child, TYPE_BUS);
    if (!bus) {
        return true;
    }
    bool right_type = object_dynamic_cast(child, f->type) != NULL;
    if (f->name) {
        if (!strcmp(f->name, bus->name) && (!f->by_name || right_type)) {
            f->by_name = bus;
        }
        g_ptr_array_add(f->names, bus->name);
        return true;
    }
    if (right_type) {
        unsigned max = bus_max_devices(bus);
        if (max && bus->children->len >= max) {
            f->full_one = f->full_one ? f->full_one : bus;
        } else if (!f->free_one || bus_depth(bus) < f->free_depth) {
            f->free_one = bus;
            f->free_depth = bus_depth(bus);
        }
    }
    return true;
}

Bus *bus_lookup(Object *root, const char *name)
{
    FindBus f = { .type = TYPE_BUS, .name = name, .names = g_ptr_array_new() };
    object_child_foreach(root, true, find_bus_visit, &f);
    g_ptr_array_unref(f.names);
    return f.by_name;
}

Bus *bus_find(Object *root, const char *bus_type, const char *name, GError **error)
{
    FindBus f = { .type = bus_type, .name = name, .names = g_ptr_array_new() };
    Bus *result = NULL;
    if (name && name[0] == '/') {
        Object *obj = object_resolve_path(root, name, NULL);
        f.by_name = obj ? object_dynamic_cast(obj, TYPE_BUS) : NULL;
    } else {
        object_child_foreach(root, true, find_bus_visit, &f);
    }
    if (name && !f.by_name) {
        error_set(error, "Bus '%s' not found", name);
        g_ptr_array_add(f.names, NULL);
        nearest_hint(error, name, (const char *const *)f.names->pdata);
    } else if (name) {
        unsigned max = bus_max_devices(f.by_name);
        if (object_dynamic_cast(OBJECT(f.by_name), bus_type) && max && f.by_name->children->len >= max) {
            error_set(error, "Bus '%s' is full", name);
        } else {
            result =
                f.by_name; /* of a wrong type perhaps: the caller, who knows the device, words that error */
        }
    } else if (f.free_one) {
        result = f.free_one;
    } else if (f.full_one) {
        error_set(error, "Bus '%s' is full", f.full_one->name);
    } else {
        error_set(error, "No '%s' bus found", bus_type);
    }
    g_ptr_array_unref(f.names);
    return result;
}

static void bus_instance_init(Object *obj)
{
    Bus *bus = BUS(obj);
    bus->children = g_ptr_array_new_with_free_func((GDestroyNotify)object_unref);
}

static void bus_instance_finalize(Object *obj)
{
    Bus *bus = BUS(obj);
    g_ptr_array_unref(bus->children);
    g_free(bus->name);
}

static const TypeInfo bus_info = {
    .name = TYPE_BUS,
    .parent = TYPE_OBJECT,
    .description = "a bus",
    .instance_size = sizeof(Bus),
    .class_size = sizeof(BusClass),
    .abstract = true,
    .instance_init = bus_instance_init,
    .instance_finalize = bus_instance_finalize,
};
TYPE_REGISTER(bus_info);
