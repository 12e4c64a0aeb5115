/*
 * Devices: making, realizing, resetting, removing and printing them.
 *
 * Invariants:
 *  1. A realized device is in the composition tree, has its env, and is among its bus's children (who hold a
 * reference).
 *  2. device_realize() either does all of it or leaves the device as it was.
 *  3. What is below a device's buses is unrealized before the device itself.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/core/device.h"

#include "base/error.h"
#include "base/nearest.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(device_realize, "path %s type %s");
TRACE_EVENT(device_unrealize, "path %s type %s");
TRACE_EVENT(device_reset, "type %s id %s");

char *device_describe(const Device *dev)
{
    const char *type = object_get_typename(OBJECT(dev));
    if (dev->id) {
        return g_strdup_printf("%s (%s)", dev->id, type);
    }
    g_autofree char *path = object_get_canonical_path(OBJECT(dev));
    return g_strdup_printf("%s (%s)", path, type);
}

/* ---- realize and unrealize ---- */
bool device_realize(Device *dev, Bus *bus, const DeviceEnv *env, GError **error)
{
    DeviceClass *dc = DEVICE_GET_CLASS(dev);
    if (dev->realized) {
        return error_set(error, "Device '%s' is realized already", object_get_typename(OBJECT(dev)));
    }
    if (bus && dc->bus_type && !object_dynamic_cast(OBJECT(bus), dc->bus_type)) {
        return error_set(error, "Device '%s' can't go on %s bus", object_get_typename(OBJECT(dev)),
                         object_get_typename(OBJECT(bus)));
    }
    if (bus) {
        unsigned max = bus_max_devices(bus);
        if (max && bus->children->len >= max) {
            return error_set(error, "Bus '%s' is full", bus->name);
        }
        if (BUS_GET_CLASS(bus)->check_address && !BUS_GET_CLASS(bus)->check_address(bus, dev, error)) {
            return false;
        }
    }
    dev->bus = bus;
    dev->env = env ? env : bus ? bus->env : NULL;
    if (dc->realize && !dc->realize(dev, error)) {
        while (dev->child_buses->len) {
            Bus *child = dev->child_buses->pdata[dev->child_buses->len - 1];
            g_ptr_array_remove_index(dev->child_buses, dev->child_buses->len - 1);
            object_unparent(OBJECT(child));
        }
        dev->bus = NULL;
        dev->env = NULL;
        return false;
    }
    if (bus) {
        g_ptr_array_add(bus->children, object_ref(OBJECT(dev)));
    }
    dev->realized = true;
    if (TRACE_ENABLED(device_realize)) {
        g_autofree char *path = object_get_canonical_path(OBJECT(dev));
        TRACE(device_realize, path, object_get_typename(OBJECT(dev)));
    }
    if (dev->hotplugged) {
        device_reset(dev);
    }
    if (bus && BUS_GET_CLASS(bus)->plugged) {
        BUS_GET_CLASS(bus)->plugged(bus, dev);
    }
    return true;
}

void device_unrealize(Device *dev)
{
    if (!dev->realized) {
        return;
    }
    object_ref(OBJECT(dev));
    if (TRACE_ENABLED(device_unrealize)) {
        g_autofree char *path = object_get_canonical_path(OBJECT(dev));
        TRACE(device_unrealize, path, object_get_typename(OBJECT(dev)));
    }
    while (dev->child_buses->len) {
        Bus *bus = dev->child_buses->pdata[dev->child_buses->len - 1];
        while (bus->children->len) {
            Device *child = bus->children->pdata[bus->children->len - 1];
            object_ref(OBJECT(child));
            device_unrealize(child);
            object_unparent(OBJECT(child));
            object_unref(OBJECT(child));
        }
        g_ptr_array_remove_index(dev->child_buses, dev->child_buses->len - 1);
        if (OBJECT(bus)->parent) {
            object_unparent(OBJECT(bus));
        }
    }
    dev->realized = false;
    if (DEVICE_GET_CLASS(dev)->unrealize) {
        DEVICE_GET_CLASS(dev)->unrealize(dev);
    }
    if (dev->env && dev->env->vm && dev->env->vm->remove_handlers) {
        dev->env->vm->remove_handlers(dev->env->vm->opaque, dev);
    }
    if (dev->bus) {
        g_ptr_array_remove(dev->bus->children, dev);
    }
    dev->bus = NULL;
    dev->env = NULL;
    object_unref(OBJECT(dev));
}

/* DEVICE_DELETED of a device and what sits on its buses, which goes with it, from the leaves on. */
static void collect_deleted(Device *dev, GPtrArray *events)
{
    for (guint i = 0; i < dev->child_buses->len; i++) {
        Bus *bus = dev->child_buses->pdata[i];
        for (guint j = 0; j < bus->children->len; j++) {
            collect_deleted(bus->children->pdata[j], events);
        }
    }
    json_object *data = json_object_new_object();
    g_autofree char *path = object_get_canonical_path(OBJECT(dev));
    if (dev->id) {
        json_object_object_add(data, "device", json_object_new_string(dev->id));
    }
    json_object_object_add(data, "path", json_object_new_string(path));
    g_ptr_array_add(events, data);
}

void device_unplug_done(Device *dev)
{
    const VmServices *vm = dev->env ? dev->env->vm : NULL;
    g_autoptr(GPtrArray) events = g_ptr_array_new();
    collect_deleted(dev, events);
    dev->pending_unplug = false;
    object_ref(OBJECT(dev));
    device_unrealize(dev);
    if (OBJECT(dev)->parent) {
        object_unparent(OBJECT(dev));
    }
    object_unref(OBJECT(dev));
    for (guint i = 0; i < events->len; i++) {
        if (vm && vm->emit_event) {
            vm->emit_event(vm->opaque, "DEVICE_DELETED", events->pdata[i]);
        } else {
            json_object_put(events->pdata[i]);
        }
    }
}

/* ---- reset and walks ---- */
void device_reset(Device *dev)
{
    if (!dev->realized) {
        return;
    }
    for (guint i = 0; i < dev->child_buses->len; i++) {
        bus_reset(dev->child_buses->pdata[i]);
    }
    TRACE(device_reset, object_get_typename(OBJECT(dev)), dev->id ? dev->id : "");
    if (DEVICE_GET_CLASS(dev)->reset) {
        home_lock(&dev->lock);
        DEVICE_GET_CLASS(dev)->reset(dev);
        home_unlock(&dev->lock);
    }
}

static bool collect_roots(Object *child, void *opaque)
{
    Device *dev = object_dynamic_cast(child, TYPE_DEVICE);
    Bus *bus = dev ? NULL : object_dynamic_cast(child, TYPE_BUS);
    if ((dev && dev->realized && !dev->bus) || (bus && !bus->owner)) {
        g_ptr_array_add(opaque, child);
    }
    return true;
}

/* The devices that sit on no bus, and the buses that belong to no device. Borrowed entries. */
static GPtrArray *device_roots(Object *root)
{
    GPtrArray *roots = g_ptr_array_new();
    object_child_foreach(root, true, collect_roots, roots);
    return roots;
}

void device_reset_all(Object *root)
{
    g_autoptr(GPtrArray) roots = device_roots(root);
    for (guint i = 0; i < roots->len; i++) {
        Device *dev = object_dynamic_cast(roots->pdata[i], TYPE_DEVICE);
        if (dev) {
            device_reset(dev);
        } else {
            bus_reset(BUS(roots->pdata[i]));
        }
    }
}

void device_unrealize_all(Object *root)
{
    g_autoptr(GPtrArray) roots = device_roots(root);
    for (guint i = roots->len; i-- > 0;) {
        Device *dev = object_dynamic_cast(roots->pdata[i], TYPE_DEVICE);
        Bus *bus = dev ? NULL : BUS(roots->pdata[i]);
        if (dev) {
            device_unrealize(dev);
        }
        while (bus && bus->children->len) {
            device_unrealize(bus->children->pdata[bus->children->len - 1]);
        }
    }
}

void device_foreach(Object *root, void (*fn)(Device *dev, void *opaque), void *opaque)
{
    g_autoptr(GPtrArray) roots = device_roots(root);
    for (guint i = 0; i < roots->len; i++) {
        Device *dev = object_dynamic_cast(roots->pdata[i], TYPE_DEVICE);
        if (!dev) {
            bus_foreach(BUS(roots->pdata[i]), fn, opaque);
            continue;
        }
        fn(dev, opaque);
        for (guint j = 0; j < dev->child_buses->len; j++) {
            bus_foreach(dev->child_buses->pdata[j], fn, opaque);
        }
    }
}

/* ---- making and deleting by a user's wish ---- */
Device *device_new_unattached(Object *root, const char *type_name, const char *name)
{
    Object *obj = object_new_known(type_name);
    Device *dev = DEVICE(obj);
    g_autoptr(GError) error = NULL;
    if (!object_property_add_child(container_get(root, "/machine/unattached"), name ? name : "device[*]", obj,
                                   &error)) {
        g_error("device '%s': %s", type_name, error->message);
    }
    object_unref(obj);
    return dev;
}

Device *device_find(Object *root, const char *id_or_path)
{
    Object *obj = NULL;
    if (id_or_path[0] != '/') {
        obj = object_resolve_path_component(container_get(root, "/machine/peripheral"), id_or_path);
    }
    if (!obj) {
        obj = object_resolve_path(root, id_or_path, NULL);
    }
    return obj ? object_dynamic_cast(obj, TYPE_DEVICE) : NULL;
}

/* The short names that users know; what they mean depends on the machine's buses, and ours are PCI. */
static const struct {
    const char *alias, *type;
} aliases[] = {
    { "virtio-blk", "virtio-blk-pci" },
    { "virtio-net", "virtio-net-pci" },
    { "virtio-rng", "virtio-rng-pci" },
    { "virtio-serial", "virtio-serial-pci" },
    { "virtio-balloon", "virtio-balloon-pci" },
    { "virtio-scsi", "virtio-scsi-pci" },
    { "virtio-9p", "virtio-9p-pci" },
    { "virtio-gpu", "virtio-gpu-pci" },
    { "virtio-keyboard", "virtio-keyboard-pci" },
    { "virtio-mouse", "virtio-mouse-pci" },
    { "virtio-tablet", "virtio-tablet-pci" },
};

static DeviceClass *device_class_find(const char *driver, bool hotplug, GError **error)
{
    ObjectClass *klass = object_class_by_name(driver);
    if (!klass) {
        for (size_t i = 0; i < G_N_ELEMENTS(aliases) && !klass; i++) {
            if (!strcmp(aliases[i].alias, driver)) {
                klass = object_class_by_name(aliases[i].type);
            }
        }
    }
    klass = klass ? object_class_cast(klass, TYPE_DEVICE) : NULL;
    if (!klass) {
        error_set(error, "'%s' is not a valid device model name", driver);
        g_autoptr(GPtrArray) classes = object_class_list(TYPE_DEVICE, false);
        g_autoptr(GPtrArray) names = g_ptr_array_new();
        for (guint i = 0; i < classes->len; i++) {
            if (DEVICE_CLASS(classes->pdata[i])->user_creatable) {
                g_ptr_array_add(names, (char *)object_class_get_name(classes->pdata[i]));
            }
        }
        g_ptr_array_add(names, NULL);
        nearest_hint(error, driver, (const char *const *)names->pdata);
        return NULL;
    }
    DeviceClass *dc = DEVICE_CLASS(klass);
    if (object_class_is_abstract(klass)) {
        error_set(error, "Parameter 'driver' expects a non-abstract device type");
        return NULL;
    }
    if (!dc->user_creatable) {
        error_set(error, "Parameter 'driver' expects a pluggable device type");
        return NULL;
    }
    if (hotplug && !dc->hotpluggable) {
        error_set(error, "Parameter 'driver' expects a hotpluggable device type");
        return NULL;
    }
    return dc;
}

static bool device_set_options(Device *dev, const QapiDeviceOptions *options, GError **error)
{
    if (!options->more) {
        return true;
    }
    g_autoptr(Visitor) v = visitor_new_input(options->more, options->more_is_text);
    if (!visit_start_struct(v, NULL, error)) {
        return false;
    }
    bool ok = true;
    json_object_object_foreach(options->more, key, value)
    {
        (void)value;
        ok = object_property_set(OBJECT(dev), key, v, error);
        if (!ok) {
            break;
        }
    }
    visit_end_struct(v);
    return ok;
}

Device *device_create(Object *root, const DeviceEnv *env, const QapiDeviceOptions *options, bool hotplug,
                      GPtrArray *globals, GError **error)
{
    const char *driver = options->driver, *id = options->id, *bus_name = options->bus;
    DeviceClass *dc = device_class_find(driver, hotplug, error);
    if (!dc) {
        return NULL;
    }
    driver = object_class_get_name(OBJECT_CLASS(dc));
    if (id && !object_id_wellformed(id)) {
        error_set(error, "Parameter 'id' expects an identifier");
        error_append_hint(error,
                          "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.");
        return NULL;
    }
    if (id && object_resolve_path_component(container_get(root, "/machine/peripheral"), id)) {
        error_set(error, "Duplicate device ID '%s'", id);
        return NULL;
    }
    Bus *bus = NULL;
    if (bus_name && !dc->bus_type) {
        error_set(error, "Device '%s' sits on no bus", driver);
        return NULL;
    }
    if (dc->bus_type) {
        bus = bus_find(root, dc->bus_type, bus_name, error);
        if (!bus) {
            if (!bus_name && error && *error && g_str_has_prefix((*error)->message, "No '")) {
                g_clear_error(error);
                error_set(error, "No '%s' bus found for device '%s'", dc->bus_type, driver);
            }
            return NULL;
        }
        if (!object_dynamic_cast(OBJECT(bus), dc->bus_type)) {
            error_set(error, "Device '%s' can't go on %s bus", driver, object_get_typename(OBJECT(bus)));
            return NULL;
        }
        if (hotplug && !bus_can_hotplug(bus)) {
            error_set(error, "Bus '%s' does not support hotplugging", bus->name);
            return NULL;
        }
    }
    Object *obj = object_new(driver, error);
    if (!obj) {
        return NULL;
    }
    Device *dev = DEVICE(obj);
    dev->id = g_strdup(id);
    dev->hotplugged = hotplug;
    Object *parent = container_get(root, id ? "/machine/peripheral" : "/machine/peripheral-anon");
    /* Options come before the place in the tree, so that a failure leaves no trace; links resolve from the
     * root that the parent gives, so the place comes before them: enter the tree first and leave it on
     * failure. */
    if (!object_property_add_child(parent, id ? id : "device[*]", obj, error)) {
        object_unref(obj);
        return NULL;
    }
    bool ok = (!globals || object_apply_globals(obj, globals, error)) &&
              device_set_options(dev, options, error) && device_realize(dev, bus, bus ? NULL : env, error);
    if (!ok) {
        object_unparent(obj);
        object_unref(obj);
        return NULL;
    }
    object_unref(obj);
    return dev;
}

Device *device_create_text(Object *root, const DeviceEnv *env, const char *text, bool hotplug,
                           GPtrArray *globals, GError **error)
{
    g_autoptr(QapiDeviceOptions) options = NULL;
    return qapi_option_device(text, &options, error)
               ? device_create(root, env, options, hotplug, globals, error)
               : NULL;
}

bool device_delete(Object *root, const char *id, GError **error)
{
    Device *dev = device_find(root, id);
    if (!dev) {
        return error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    }
    DeviceClass *dc = DEVICE_GET_CLASS(dev);
    if (dev->pending_unplug && (!dev->unplug_retry_us || g_get_monotonic_time() < dev->unplug_retry_us)) {
        return error_set(error, "Device %s is already in the process of unplug", id);
    }
    if (dev->bus && !bus_can_hotplug(dev->bus)) {
        return error_set(error, "Bus '%s' does not support hotplugging", dev->bus->name);
    }
    if (!dc->hotpluggable) {
        return error_set(error, "Device '%s' does not support hotplugging", object_get_typename(OBJECT(dev)));
    }
    if (dc->unplug_request) {
        return dc->unplug_request(dev, error);
    }
    device_unplug_done(dev);
    return true;
}

/* ---- info qtree ---- */
static void print_device(Device *dev, GString *out, int indent);

static void print_bus(Bus *bus, GString *out, int indent)
{
    g_string_append_printf(out, "%*sbus: %s\n%*stype %s\n", indent, "", bus->name, indent + 2, "",
                           object_get_typename(OBJECT(bus)));
    for (guint i = 0; i < bus->children->len; i++) {
        print_device(bus->children->pdata[i], out, indent + 2);
    }
}

static void print_device(Device *dev, GString *out, int indent)
{
    static const char *const hidden[] = {
        "type", "realized", "hotplugged", "hotpluggable", "parent_bus", NULL
    };
    g_string_append_printf(out, "%*sdev: %s, id \"%s\"\n", indent, "", object_get_typename(OBJECT(dev)),
                           dev->id ? dev->id : "");
    GPtrArray *properties = object_class_property_list(OBJECT(dev)->klass);
    for (guint i = 0; i < properties->len; i++) {
        ObjectProperty *p = properties->pdata[i];
        if (!p->get || g_strv_contains(hidden, p->name) || g_str_has_prefix(p->type, "child<")) {
            continue;
        }
        g_autofree char *text = object_property_print(OBJECT(dev), p->name, NULL);
        g_string_append_printf(out, "%*s%s = %s\n", indent + 2, "", p->name, text ? text : "<error>");
    }
    g_ptr_array_unref(properties);
    if (dev->bus && BUS_GET_CLASS(dev->bus)->print_device) {
        BUS_GET_CLASS(dev->bus)->print_device(dev, out, indent + 2);
    }
    for (guint i = 0; i < dev->child_buses->len; i++) {
        print_bus(dev->child_buses->pdata[i], out, indent + 2);
    }
}

char *device_print_tree(Object *root)
{
    GString *out = g_string_new("bus: main-system-bus\n  type System\n");
    g_autoptr(GPtrArray) roots = device_roots(root);
    for (guint i = 0; i < roots->len; i++) {
        Device *dev = object_dynamic_cast(roots->pdata[i], TYPE_DEVICE);
        if (dev) {
            print_device(dev, out, 2);
        }
    }
    for (guint i = 0; i < roots->len; i++) {
        if (object_dynamic_cast(roots->pdata[i], TYPE_BUS)) {
            print_bus(BUS(roots->pdata[i]), out, 0);
        }
    }
    return g_string_free(out, FALSE);
}

/* ---- the type ---- */
static bool get_realized(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    bool value = DEVICE(obj)->realized;
    return visit_bool(v, name, &value, error);
}

static bool get_hotplugged(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    bool value = DEVICE(obj)->hotplugged;
    return visit_bool(v, name, &value, error);
}

static bool get_hotpluggable(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    Device *dev = DEVICE(obj);
    bool value = DEVICE_GET_CLASS(dev)->hotpluggable && (!dev->bus || bus_can_hotplug(dev->bus));
    return visit_bool(v, name, &value, error);
}

static bool get_parent_bus(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    Device *dev = DEVICE(obj);
    g_autofree char *path = dev->bus ? object_get_canonical_path(OBJECT(dev->bus)) : g_strdup("");
    return visit_str(v, name, &path, error);
}

static bool device_may_set(Object *obj, const char *name, GError **error)
{
    const Device *dev = DEVICE(obj);
    return !dev->realized ||
           error_set(error, "Attempt to set property '%s' on device '%s' (type '%s') after it was realized",
                     name, dev->id ? dev->id : "", object_get_typename(obj));
}

bool device_property_any_time(Object *obj, const char *name, GError **error)
{
    return true;
}

static void device_instance_init(Object *obj)
{
    Device *dev = DEVICE(obj);
    home_lock_init(&dev->lock);
    dev->child_buses = g_ptr_array_new();
}

static void device_instance_finalize(Object *obj)
{
    Device *dev = DEVICE(obj);
    g_ptr_array_unref(dev->child_buses);
    home_lock_destroy(&dev->lock);
    g_free(dev->id);
}

static void device_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    klass->may_set = device_may_set;
    dc->hotpluggable = true;
    dc->category = "Misc";
    object_class_property_add(klass, "realized", "bool", get_realized, NULL, NULL);
    object_class_property_add(klass, "hotplugged", "bool", get_hotplugged, NULL, NULL);
    object_class_property_add(klass, "hotpluggable", "bool", get_hotpluggable, NULL, NULL);
    object_class_property_add(klass, "parent_bus", "link<bus>", get_parent_bus, NULL, NULL);
}

static const TypeInfo device_info = {
    .name = TYPE_DEVICE,
    .parent = TYPE_OBJECT,
    .description = "a device",
    .instance_size = sizeof(Device),
    .class_size = sizeof(DeviceClass),
    .abstract = true,
    .class_init = device_class_init,
    .instance_init = device_instance_init,
    .instance_finalize = device_instance_finalize,
};
TYPE_REGISTER(device_info);
