/*
 * The bus and what all devices have in common: ports, the standard requests of chapter 9 of the Universal
 * Serial Bus Specification 2.0, control transfers that come packet by packet (8.5.3).
 *
 * Left out on purpose: hubs, other interfaces than the first alternate setting, suspend.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/usb/usb.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(usb_control, "%s type 0x%02x request 0x%02x value 0x%04x index 0x%04x length %u");
TRACE_EVENT(usb_control_refused, "%s request 0x%02x value 0x%04x");
TRACE_EVENT(usb_port, "%s port %u attached %d");

enum {
    REQUEST_GET_STATUS = 0,
    REQUEST_CLEAR_FEATURE = 1,
    REQUEST_SET_FEATURE = 3,
    REQUEST_SET_ADDRESS = 5,
    REQUEST_GET_DESCRIPTOR = 6,
    REQUEST_GET_CONFIGURATION = 8,
    REQUEST_SET_CONFIGURATION = 9,
    REQUEST_GET_INTERFACE = 10,
    REQUEST_SET_INTERFACE = 11,
};
enum { TYPE_IN = 0x80, TYPE_MASK = 0x60, TO_DEVICE = 0, TO_INTERFACE = 1, TO_ENDPOINT = 2 };
enum { DESCRIPTOR_DEVICE = 1, DESCRIPTOR_CONFIGURATION = 2, DESCRIPTOR_STRING = 3 };
enum { FEATURE_ENDPOINT_HALT = 0, FEATURE_REMOTE_WAKEUP = 1 };
#define DEVICE_DESCRIPTOR_SIZE 18
#define LANGUAGE_US            0x0409
#define ATTRIBUTES_AT          7 /* of a configuration descriptor */
#define SELF_POWERED           0x40

static const char *name_of(const UsbDevice *dev)
{
    return object_get_typename(OBJECT(dev));
}

/* ---- standard requests ---- */

static uint32_t halt_bit(unsigned endpoint, bool in)
{
    return 1u << ((endpoint & 15) + (in ? 16 : 0));
}

static uint32_t string_descriptor(UsbDevice *dev, unsigned number, uint8_t *to)
{
    const UsbDescriptors *d = USB_DEVICE_GET_CLASS(dev)->descriptors(dev);
    unsigned count = 0;

    to[1] = DESCRIPTOR_STRING;
    if (number == 0) {
        to[0] = 4;
        to[2] = LANGUAGE_US & 0xff;
        to[3] = LANGUAGE_US >> 8;
        return 4;
    }
    while (d->strings[count]) {
        count++;
    }
    if (number > count) {
        return 0;
    }
    /* The third is the serial number by our own convention. */
    const char *text = number == 3 && dev->serial ? dev->serial : d->strings[number - 1];
    size_t length = MIN(strlen(text), 126u);
    to[0] = (uint8_t)(2 + 2 * length);
    for (size_t i = 0; i < length; i++) {
        to[2 + 2 * i] = (uint8_t)text[i];
        to[3 + 2 * i] = 0;
    }
    return to[0];
}

static UsbStatus get_descriptor(UsbDevice *dev, const UsbSetup *s, uint8_t *data, uint32_t *actual)
{
    const UsbDescriptors *d = USB_DEVICE_GET_CLASS(dev)->descriptors(dev);
    uint8_t text[256];
    const uint8_t *from = NULL;
    uint32_t size = 0;

    switch (s->value >> 8) {
    case DESCRIPTOR_DEVICE:
        from = d->device;
        size = DEVICE_DESCRIPTOR_SIZE;
        break;
    case DESCRIPTOR_CONFIGURATION:
        from = s->value & 0xff ? NULL : d->configuration;
        size = d->configuration_size;
        break;
    case DESCRIPTOR_STRING:
        size = string_descriptor(dev, s->value & 0xff, text);
        from = size ? text : NULL;
        break;
    }
    if (!from) {
        return USB_STALL;
    }
    *actual = MIN(size, s->length);
    memcpy(data, from, *actual);
    return USB_OK;
}

static UsbStatus set_configuration(UsbDevice *dev, unsigned number)
{
    const UsbDescriptors *d = USB_DEVICE_GET_CLASS(dev)->descriptors(dev);

    if (number && number != d->configuration[5]) {
        return USB_STALL;
    }
    dev->configuration = (uint8_t)number;
    dev->halted = 0;
    if (USB_DEVICE_GET_CLASS(dev)->configured) {
        USB_DEVICE_GET_CLASS(dev)->configured(dev);
    }
    return USB_OK;
}

static UsbStatus endpoint_feature(UsbDevice *dev, const UsbSetup *s, bool set)
{
    unsigned endpoint = s->index & 15;
    bool in = s->index & TYPE_IN;

    if (s->value != FEATURE_ENDPOINT_HALT) {
        return USB_STALL;
    }
    if (set) {
        dev->halted |= endpoint ? halt_bit(endpoint, in) : 0;
    } else {
        dev->halted &= ~halt_bit(endpoint, in);
        if (USB_DEVICE_GET_CLASS(dev)->halt_cleared) {
            USB_DEVICE_GET_CLASS(dev)->halt_cleared(dev, endpoint, in);
        }
    }
    return USB_OK;
}

static UsbStatus get_status(UsbDevice *dev, const UsbSetup *s, uint8_t *data, uint32_t *actual)
{
    const UsbDescriptors *d = USB_DEVICE_GET_CLASS(dev)->descriptors(dev);
    unsigned value = 0;

    if (s->length < 2) {
        return USB_STALL;
    }
    if ((s->request_type & 0x1f) == TO_DEVICE) {
        value = (d->configuration[ATTRIBUTES_AT] & SELF_POWERED ? 1 : 0) | (dev->remote_wakeup ? 2 : 0);
    } else if ((s->request_type & 0x1f) == TO_ENDPOINT) {
        value = dev->halted & halt_bit(s->index & 15, s->index & TYPE_IN) ? 1 : 0;
    }
    data[0] = (uint8_t)value;
    data[1] = 0;
    *actual = 2;
    return USB_OK;
}

static UsbStatus standard_in(UsbDevice *dev, const UsbSetup *s, uint8_t *data, uint32_t *actual)
{
    switch (s->request) {
    case REQUEST_GET_STATUS:
        return get_status(dev, s, data, actual);
    case REQUEST_GET_DESCRIPTOR:
        return (s->request_type & 0x1f) == TO_DEVICE ? get_descriptor(dev, s, data, actual) : USB_STALL;
    case REQUEST_GET_CONFIGURATION:
    case REQUEST_GET_INTERFACE:
        *actual = MIN(s->length, 1u);
        data[0] = s->request == REQUEST_GET_CONFIGURATION ? dev->configuration : 0;
        return USB_OK;
    default:
        return USB_STALL;
    }
}

static UsbStatus standard_out(UsbDevice *dev, const UsbSetup *s)
{
    unsigned to = s->request_type & 0x1f;

    switch (s->request) {
    case REQUEST_SET_ADDRESS:
        dev->address = s->value & 0x7f;
        return USB_OK;
    case REQUEST_SET_CONFIGURATION:
        return set_configuration(dev, s->value & 0xff);
    case REQUEST_SET_INTERFACE:
        return s->value == 0 ? USB_OK : USB_STALL;
    case REQUEST_CLEAR_FEATURE:
    case REQUEST_SET_FEATURE:
        if (to == TO_ENDPOINT) {
            return endpoint_feature(dev, s, s->request == REQUEST_SET_FEATURE);
        }
        if (to == TO_DEVICE && s->value == FEATURE_REMOTE_WAKEUP) {
            dev->remote_wakeup = s->request == REQUEST_SET_FEATURE;
            return USB_OK;
        }
        return USB_STALL;
    default:
        return USB_STALL;
    }
}

UsbStatus usb_device_control(UsbDevice *dev, const uint8_t setup[USB_SETUP_SIZE], uint8_t *data,
                             uint32_t *actual)
{
    UsbSetup s = { setup[0], setup[1], (uint16_t)(setup[2] | setup[3] << 8),
                   (uint16_t)(setup[4] | setup[5] << 8), (uint16_t)(setup[6] | setup[7] << 8) };
    UsbStatus status = USB_STALL;

    *actual = 0;
    TRACE(usb_control, name_of(dev), s.request_type, s.request, s.value, s.index, s.length);
    if (s.length <= USB_CONTROL_MAX) {
        if ((s.request_type & TYPE_MASK) == 0) {
            status = s.request_type & TYPE_IN ? standard_in(dev, &s, data, actual) : standard_out(dev, &s);
        }
        if (status == USB_STALL && USB_DEVICE_GET_CLASS(dev)->control) {
            status = USB_DEVICE_GET_CLASS(dev)->control(dev, &s, data, actual);
        }
    }
    *actual = status == USB_OK ? MIN(*actual, s.length) : 0;
    if (status != USB_OK) {
        TRACE(usb_control_refused, name_of(dev), s.request, s.value);
    }
    return status;
}

/* ---- control transfers packet by packet ---- */

static UsbStatus control_setup(UsbDevice *dev, UsbPacket *p)
{
    if (p->size != USB_SETUP_SIZE) {
        return USB_STALL;
    }
    memcpy(dev->setup, p->data, USB_SETUP_SIZE);
    p->actual = USB_SETUP_SIZE;
    dev->control_at = dev->control_size = 0;
    dev->control_state = USB_CONTROL_DATA;
    if (dev->setup[0] & TYPE_IN &&
        usb_device_control(dev, dev->setup, dev->control, &dev->control_size) != USB_OK) {
        dev->control_state = USB_CONTROL_STALLED;
    }
    return USB_OK;
}

static UsbStatus control_data(UsbDevice *dev, UsbPacket *p)
{
    bool in = dev->setup[0] & TYPE_IN;
    uint32_t length = dev->setup[6] | (uint32_t)dev->setup[7] << 8;

    if (dev->control_state != USB_CONTROL_DATA) {
        return USB_STALL;
    }
    if (in && p->pid == USB_PID_IN) { /* data */
        p->actual = MIN(p->size, dev->control_size - dev->control_at);
        memcpy(p->data, dev->control + dev->control_at, p->actual);
        dev->control_at += p->actual;
        return USB_OK;
    }
    if (!in && p->pid == USB_PID_OUT) {
        if (length > USB_CONTROL_MAX || p->size > length - dev->control_at) {
            dev->control_state = USB_CONTROL_STALLED;
            return USB_STALL;
        }
        memcpy(dev->control + dev->control_at, p->data, p->size);
        dev->control_at += p->size;
        p->actual = p->size;
        return USB_OK;
    }
    /* The status stage, in the other direction. */
    dev->control_state = USB_CONTROL_IDLE;
    if (in) {
        return USB_OK;
    }
    if (dev->control_at != length) {
        return USB_STALL;
    }
    return usb_device_control(dev, dev->setup, dev->control, &dev->control_size);
}

UsbStatus usb_device_packet(UsbDevice *dev, UsbPacket *p)
{
    p->actual = 0;
    if (p->endpoint == 0) {
        return p->pid == USB_PID_SETUP ? control_setup(dev, p) : control_data(dev, p);
    }
    if (p->pid == USB_PID_SETUP || !dev->configuration ||
        dev->halted & halt_bit(p->endpoint, p->pid == USB_PID_IN)) {
        return USB_STALL;
    }
    UsbStatus status = USB_DEVICE_GET_CLASS(dev)->transfer(dev, p);
    if (status == USB_STALL) {
        usb_device_halt(dev, p->endpoint, p->pid == USB_PID_IN);
    }
    return status;
}

void usb_device_halt(UsbDevice *dev, unsigned endpoint, bool in)
{
    dev->halted |= halt_bit(endpoint, in);
}

void usb_device_bus_reset(UsbDevice *dev)
{
    dev->address = dev->configuration = 0;
    dev->remote_wakeup = false;
    dev->halted = 0;
    dev->control_state = USB_CONTROL_IDLE;
    dev->control_at = dev->control_size = 0;
    if (USB_DEVICE_GET_CLASS(dev)->reset) {
        USB_DEVICE_GET_CLASS(dev)->reset(dev);
    }
}

/* ---- the bus ---- */

UsbDevice *usb_bus_port(UsbBus *bus, unsigned port)
{
    return port < bus->port_count && bus->ports[port] && bus->ports[port]->attached ? bus->ports[port] : NULL;
}

void usb_wakeup(UsbDevice *dev, unsigned endpoint, bool in)
{
    if (dev->attached && dev->bus->ops->wakeup) {
        dev->bus->ops->wakeup(dev->bus->opaque, dev->port, endpoint, in);
    }
}

UsbBus *usb_bus_new(Device *owner, const DeviceEnv *env, unsigned port_count, UsbSpeed max_speed,
                    const UsbBusOps *ops, void *opaque, HomeLock *home)
{
    UsbBus *bus = USB_BUS(bus_new(TYPE_USB_BUS, owner, NULL, env));

    bus->ops = ops;
    bus->opaque = opaque;
    bus->home = home;
    bus->max_speed = max_speed;
    bus->port_count = port_count;
    bus->parent_obj.max_devices = port_count;
    return bus;
}

/* Property "port", from 1, or the first that is free. */
static bool usb_check_address(Bus *parent, Device *device, GError **error)
{
    UsbBus *bus = USB_BUS(parent);
    UsbDevice *dev = USB_DEVICE(device);
    guint64 number;

    if (dev->port_name && *dev->port_name) {
        if (!g_ascii_string_to_unsigned(dev->port_name, 10, 1, bus->port_count, &number, NULL)) {
            return error_set(error, "USB port '%s' does not exist: %s has ports 1 to %u", dev->port_name,
                             parent->name, bus->port_count);
        }
        if (bus->ports[number - 1]) {
            return error_set(error, "USB port %u of %s is in use", (unsigned)number, parent->name);
        }
        dev->port = (unsigned)number - 1;
        return true;
    }
    for (unsigned i = 0; i < bus->port_count; i++) {
        if (!bus->ports[i]) {
            dev->port = i;
            return true;
        }
    }
    return error_set(error, "All %u ports of %s are in use", bus->port_count, parent->name);
}

static void usb_plugged(Bus *parent, Device *device)
{
    UsbBus *bus = USB_BUS(parent);
    UsbDevice *dev = USB_DEVICE(device);

    home_lock(bus->home);
    dev->attached = true;
    TRACE(usb_port, parent->name, dev->port, true);
    bus->ops->attached(bus->opaque, dev->port);
    home_unlock(bus->home);
}

/* Open Firmware's names; a disk's unit is behind it. */
static char *usb_device_path(Device *device)
{
    const UsbDevice *dev = USB_DEVICE(device);
    bool storage = g_strcmp0(DEVICE_GET_CLASS(device)->category, "Storage") == 0;

    return g_strdup_printf(storage ? "storage@%x/channel@0/disk@0,0" : "usb@%x", dev->port + 1);
}

static void usb_bus_class_init(ObjectClass *klass, const void *data)
{
    BusClass *bc = (BusClass *)klass;
    bc->hotplug = true;
    bc->check_address = usb_check_address;
    bc->plugged = usb_plugged;
    bc->device_path = usb_device_path;
}

static const TypeInfo usb_bus_info = {
    .name = TYPE_USB_BUS,
    .parent = TYPE_BUS,
    .instance_size = sizeof(UsbBus),
    .class_init = usb_bus_class_init,
};
TYPE_REGISTER(usb_bus_info);

/* ---- devices ---- */

static bool usb_device_realize(Device *device, GError **error)
{
    UsbDevice *dev = USB_DEVICE(device);
    UsbDeviceClass *klass = USB_DEVICE_GET_CLASS(dev);

    dev->bus = USB_BUS(device->bus);
    dev->speed = MIN(klass->speed, dev->bus->max_speed);
    for (const char *c = dev->serial; c && *c; c++) {
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e) {
            return error_set(error, "Property 'serial' may have printable ASCII characters only");
        }
    }
    if (klass->realize && !klass->realize(dev, error)) {
        return false;
    }
    dev->bus->ports[dev->port] = dev;
    return true;
}

static void usb_device_unrealize(Device *device)
{
    UsbDevice *dev = USB_DEVICE(device);

    home_lock(dev->bus->home);
    if (dev->attached) {
        TRACE(usb_port, BUS(dev->bus)->name, dev->port, false);
        dev->attached = false;
        dev->bus->ops->detached(dev->bus->opaque, dev->port);
    }
    dev->bus->ports[dev->port] = NULL;
    home_unlock(dev->bus->home);
    if (USB_DEVICE_GET_CLASS(dev)->unrealize) {
        USB_DEVICE_GET_CLASS(dev)->unrealize(dev);
    }
}

static void usb_device_power_reset(Device *device)
{
    usb_device_bus_reset(USB_DEVICE(device));
}

static bool usb_device_post_load(void *opaque, int version, GError **error)
{
    UsbDevice *dev = opaque;

    if (dev->control_size > USB_CONTROL_MAX || dev->control_at > USB_CONTROL_MAX ||
        (dev->setup[0] & TYPE_IN && dev->control_at > dev->control_size) ||
        dev->control_state > USB_CONTROL_STALLED) {
        dev->control_size = dev->control_at = dev->control_state = 0;
        return error_set(error, "%s: impossible state of a control transfer", name_of(dev));
    }
    return true;
}

static const Property usb_device_properties[] = {
    PROP_STR("port", UsbDevice, port_name, NULL, "the root port, from 1 (default: the first that is free)"),
    PROP_STR("serial", UsbDevice, serial, NULL, "the serial number that the guest sees"),
    PROP_END,
};

static const VmStateField usb_device_fields[] = {
    VMS_UINT8(address, UsbDevice),       VMS_UINT8(configuration, UsbDevice),
    VMS_BOOL(remote_wakeup, UsbDevice),  VMS_UINT32(halted, UsbDevice),
    VMS_UINT8(control_state, UsbDevice), VMS_BUFFER(setup, UsbDevice),
    VMS_BUFFER(control, UsbDevice),      VMS_UINT32(control_size, UsbDevice),
    VMS_UINT32(control_at, UsbDevice),   VMS_END,
};
const VmState usb_device_vmstate = {
    .name = "usb-device",
    .version = 1,
    .minimum_version = 1,
    .fields = usb_device_fields,
    .post_load = usb_device_post_load,
};

static void usb_device_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->bus_type = TYPE_USB_BUS;
    dc->realize = usb_device_realize;
    dc->unrealize = usb_device_unrealize;
    dc->reset = usb_device_power_reset;
    dc->user_creatable = true;
    dc->hotpluggable = true;
    dc->category = "USB";
    object_class_add_properties(klass, usb_device_properties);
}

static const TypeInfo usb_device_info = {
    .name = TYPE_USB_DEVICE,
    .parent = TYPE_DEVICE,
    .abstract = true,
    .instance_size = sizeof(UsbDevice),
    .class_size = sizeof(UsbDeviceClass),
    .class_init = usb_device_class_init,
};
TYPE_REGISTER(usb_device_info);
