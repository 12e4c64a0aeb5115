/*
 * virtio-serial: consoles and byte channels. Source: VIRTIO 1.2, section 5.3 (console device).
 *
 * The device has a bus for ports: "virtconsole" (a console, port 0 as a rule) and "virtserialport" (a named
 * channel). Queues 0 and 1 are port 0's, 2 and 3 carry control messages, 4 and 5 are port 1's, and so on.
 * Left out: the size of the console (F_SIZE).
 *
 * Runs in the main loop: queues and the chardevs' handlers, all with the home lock held.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "chardev/chardev.h"
#include "hw/virtio/virtio_device.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtio_serial_control, "to %s port %u event %u value %u")
TRACE_EVENT(virtio_serial_data, "port %u %s %zu")

#define TYPE_VIRTIO_SERIAL  "virtio-serial-device"
#define TYPE_SERIAL_BUS     "virtio-serial-bus"
#define TYPE_SERIAL_PORT    "virtio-serial-port" /* abstract */
#define TYPE_VIRTCONSOLE    "virtconsole"
#define TYPE_VIRTSERIALPORT "virtserialport"

/* Features and configuration (5.3.3, 5.3.4). */
enum { F_MULTIPORT = 1, F_EMERG_WRITE = 2 };
typedef struct __attribute__((packed)) SerialConfig {
    uint16_t cols, rows;
    uint32_t max_nr_ports, emerg_wr;
} SerialConfig;

/* Control messages (5.3.6.2). */
typedef struct __attribute__((packed)) ControlMessage {
    uint32_t id;
    uint16_t event, value;
} ControlMessage;
enum {
    EVENT_DEVICE_READY = 0,
    EVENT_DEVICE_ADD = 1,
    EVENT_DEVICE_REMOVE = 2,
    EVENT_PORT_READY = 3,
    EVENT_CONSOLE_PORT = 4,
    EVENT_PORT_OPEN = 6,
    EVENT_PORT_NAME = 7,
};

#define QUEUE_SIZE    128
#define CONTROL_SIZE  32
#define MAX_PORTS     511  /* two queues each, and two for control */
#define MAX_PENDING   4096 /* control messages that wait for the driver's buffers */
#define PORT_UNSET    UINT32_MAX
#define RECEIVE_CHUNK 4096

typedef struct VirtioSerial {
    VirtioDevice parent_obj;
    /* saved */
    bool driver_ready; /* its control queues work: it has said DEVICE_READY */
    /* from properties */
    uint32_t max_ports;
    bool emergency_write;
    /* derived */
    Bus *ports;
    VirtQueue *control_in, *control_out;
    GQueue pending; /* of GBytes *: control messages in order */
} VirtioSerial;
#define VIRTIO_SERIAL(obj) OBJECT_CHECK(VirtioSerial, obj, TYPE_VIRTIO_SERIAL)

typedef struct SerialPort {
    Device parent_obj;
    /* saved */
    bool guest_connected; /* a process in the guest has it open */
    bool host_connected;  /* as the guest was told */
    uint32_t sent;        /* bytes of the chain under way that the host has */
    /* from properties */
    uint32_t number;
    char *name;
    ChardevFrontend chr;
    /* derived */
    bool is_console;
    VirtioSerial *serial;
    VirtQueue *in, *out; /* as the guest sees them: in is what it receives */
    VirtQueueElement *sending;
} SerialPort;
#define SERIAL_PORT(obj) OBJECT_CHECK(SerialPort, obj, TYPE_SERIAL_PORT)

static SerialPort *port_by_number(VirtioSerial *s, uint32_t number)
{
    for (guint i = 0; i < s->ports->children->len; i++) {
        SerialPort *port = s->ports->children->pdata[i];
        if (port->number == number && port->serial) {
            return port;
        }
    }
    return NULL;
}

static bool multiport(const VirtioSerial *s)
{
    return virtio_has_feature(&s->parent_obj, F_MULTIPORT);
}

/* ---- control messages to the guest ---- */

static void flush_control(VirtioSerial *s)
{
    bool pushed = false;
    while (!g_queue_is_empty(&s->pending)) {
        VirtQueueElement *e = virtqueue_pop(s->control_in, sizeof(*e));
        if (!e) {
            break;
        }
        GBytes *message = g_queue_pop_head(&s->pending);
        gsize size;
        const void *data = g_bytes_get_data(message, &size);
        size_t written = iov_write(e->in, e->in_count, 0, data, size);
        g_bytes_unref(message);
        virtqueue_push(s->control_in, e, written);
        pushed = true;
    }
    if (pushed) {
        virtqueue_notify(s->control_in);
    }
}

static void send_control(VirtioSerial *s, uint32_t id, uint16_t event, uint16_t value, const char *text)
{
    if (!s->driver_ready || !multiport(s) || g_queue_get_length(&s->pending) >= MAX_PENDING) {
        return;
    }
    TRACE(virtio_serial_control, "guest", id, event, value);
    ControlMessage message = { .id = id, .event = event, .value = value };
    size_t text_size = text ? strlen(text) + 1 : 0;
    uint8_t *bytes = g_malloc(sizeof(message) + text_size);
    memcpy(bytes, &message, sizeof(message));
    if (text) {
        memcpy(bytes + sizeof(message), text, text_size);
    }
    g_queue_push_tail(&s->pending, g_bytes_new_take(bytes, sizeof(message) + text_size));
    flush_control(s);
}

/* ---- control messages from the guest ---- */

static void set_guest_connected(SerialPort *port, bool connected)
{
    const VmServices *vm = DEVICE(port->serial)->env->vm;
    const char *id = port->parent_obj.id;
    if (port->guest_connected == connected) {
        return;
    }
    port->guest_connected = connected;
    chardev_fe_set_open(&port->chr, connected);
    if (connected) {
        chardev_fe_accept_input(&port->chr);
    }
    if (id && !port->is_console && vm && vm->emit_event) {
        json_object *data = json_object_new_object();
        json_object_object_add(data, "id", json_object_new_string(id));
        json_object_object_add(data, "open", json_object_new_boolean(connected));
        vm->emit_event(vm->opaque, "VSERPORT_CHANGE", data);
    }
}

static void port_ready(SerialPort *port)
{
    VirtioSerial *s = port->serial;
    if (port->is_console) {
        send_control(s, port->number, EVENT_CONSOLE_PORT, 1, NULL);
    }
    if (port->name) {
        send_control(s, port->number, EVENT_PORT_NAME, 1, port->name);
    }
    if (port->host_connected) {
        send_control(s, port->number, EVENT_PORT_OPEN, 1, NULL);
    }
}

static void control_message(VirtioSerial *s, const ControlMessage *message)
{
    TRACE(virtio_serial_control, "host", message->id, message->event, message->value);
    if (message->event == EVENT_DEVICE_READY) {
        s->driver_ready = message->value;
        for (guint i = 0; message->value && i < s->ports->children->len; i++) {
            SerialPort *port = s->ports->children->pdata[i];
            send_control(s, port->number, EVENT_DEVICE_ADD, 1, NULL);
        }
        return;
    }
    SerialPort *port = port_by_number(s, message->id);
    if (!port) {
        LOG(LOG_GUEST_ERROR, "virtio-serial: control message for port %u, which is not there", message->id);
        return;
    }
    if (message->event == EVENT_PORT_READY && message->value) {
        port_ready(port);
    } else if (message->event == EVENT_PORT_OPEN) {
        set_guest_connected(port, message->value);
    }
}

static void handle_control_out(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioSerial *s = VIRTIO_SERIAL(vdev);
    VirtQueueElement *e;
    while ((e = virtqueue_pop(vq, sizeof(*e)))) {
        ControlMessage message;
        if (iov_read(e->out, e->out_count, 0, &message, sizeof(message)) == sizeof(message)) {
            control_message(s, &message);
        }
        virtqueue_push(vq, e, 0);
        virtqueue_notify(vq);
    }
}

static void handle_control_in(VirtioDevice *vdev, VirtQueue *vq)
{
    flush_control(VIRTIO_SERIAL(vdev));
}

/* ---- bytes from the guest ---- */

/* Passes what is left of the chain under way on; false where the host takes no more now. */
static bool send_chain(SerialPort *port)
{
    VirtQueueElement *e = port->sending;
    size_t offset = port->sent;
    for (unsigned i = 0; i < e->out_count; i++) {
        if (offset >= e->out[i].iov_len) {
            offset -= e->out[i].iov_len;
            continue;
        }
        size_t size = e->out[i].iov_len - offset;
        size_t taken = size;
        if (chardev_fe_connected(&port->chr)) {
            taken = chardev_fe_write(&port->chr, (uint8_t *)e->out[i].iov_base + offset, size);
        }
        TRACE(virtio_serial_data, port->number, "to host", taken);
        port->sent += (uint32_t)taken;
        if (taken < size) {
            return false;
        }
        offset = 0;
    }
    return true;
}

static void flush_out(SerialPort *port)
{
    bool pushed = false;
    while (virtio_device_active(&port->serial->parent_obj)) {
        if (!port->sending) {
            port->sending = virtqueue_pop(port->out, sizeof(*port->sending));
        }
        if (!port->sending || !send_chain(port)) {
            break;
        }
        virtqueue_push(port->out, g_steal_pointer(&port->sending), 0);
        port->sent = 0;
        pushed = true;
    }
    if (pushed) {
        virtqueue_notify(port->out);
    }
}

static void handle_port_out(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioSerial *s = VIRTIO_SERIAL(vdev);
    uint32_t number = vq->index < 2 ? 0 : vq->index / 2u - 1;
    SerialPort *port = port_by_number(s, number);
    if (port) {
        flush_out(port);
        return;
    }
    VirtQueueElement *e; /* nobody is there: thrown away */
    while ((e = virtqueue_pop(vq, sizeof(*e)))) {
        virtqueue_push(vq, e, 0);
    }
    virtqueue_notify(vq);
}

static void port_writable(void *opaque)
{
    flush_out(opaque);
}

/* ---- bytes for the guest ---- */

static void handle_port_in(VirtioDevice *vdev, VirtQueue *vq)
{
    SerialPort *port = port_by_number(VIRTIO_SERIAL(vdev), vq->index < 2 ? 0 : vq->index / 2u - 1);
    if (port) {
        chardev_fe_accept_input(&port->chr);
    }
}

static size_t port_can_receive(void *opaque)
{
    SerialPort *port = opaque;
    VirtioSerial *s = port->serial;
    if (!virtio_device_active(&s->parent_obj) || (multiport(s) && !port->guest_connected)) {
        return 0;
    }
    for (size_t size = RECEIVE_CHUNK; size; size /= 16) {
        if (virtqueue_has_room(port->in, size)) {
            return size;
        }
    }
    return 0;
}

static void port_receive(void *opaque, const uint8_t *data, size_t size)
{
    SerialPort *port = opaque;
    bool pushed = false;
    TRACE(virtio_serial_data, port->number, "to guest", size);
    while (size) {
        VirtQueueElement *e = virtqueue_pop(port->in, sizeof(*e));
        if (!e) {
            break; /* the guest took its buffers back: its loss */
        }
        size_t part = iov_write(e->in, e->in_count, 0, data, size);
        virtqueue_push(port->in, e, part);
        pushed = true;
        data += part;
        size -= part;
    }
    if (pushed) {
        virtqueue_notify(port->in);
    }
}

static void port_event(void *opaque, ChardevEvent event)
{
    SerialPort *port = opaque;
    bool open = event == CHARDEV_EVENT_OPENED;
    if (port->is_console || (event != CHARDEV_EVENT_OPENED && event != CHARDEV_EVENT_CLOSED) ||
        port->host_connected == open) {
        return;
    }
    port->host_connected = open;
    send_control(port->serial, port->number, EVENT_PORT_OPEN, open, NULL);
}

static const ChardevFrontendOps port_ops = {
    .can_receive = port_can_receive,
    .receive = port_receive,
    .event = port_event,
    .writable = port_writable,
};

/* ---- the device ---- */

static uint64_t serial_get_features(VirtioDevice *vdev)
{
    VirtioSerial *s = VIRTIO_SERIAL(vdev);
    return (s->max_ports > 1 ? VIRTIO_BIT(F_MULTIPORT) : 0) |
           (s->emergency_write ? VIRTIO_BIT(F_EMERG_WRITE) : 0);
}

static void serial_get_config(VirtioDevice *vdev, uint8_t *config)
{
    SerialConfig c = { .max_nr_ports = VIRTIO_SERIAL(vdev)->max_ports };
    memcpy(config, &c, sizeof(c));
}

/* 5.3.4: a byte for the console before any queue is set up. */
static void serial_set_config(VirtioDevice *vdev, uint32_t offset, const uint8_t *data, unsigned size)
{
    VirtioSerial *s = VIRTIO_SERIAL(vdev);
    SerialPort *port = port_by_number(s, 0);
    if (offset == offsetof(SerialConfig, emerg_wr) && s->emergency_write && port && port->is_console) {
        chardev_fe_write(&port->chr, data, 1);
    }
}

static void drop_pending(VirtioSerial *s)
{
    GBytes *message;
    while ((message = g_queue_pop_head(&s->pending))) {
        g_bytes_unref(message);
    }
}

static void port_forget_chain(SerialPort *port)
{
    if (port->sending) {
        virtqueue_discard(g_steal_pointer(&port->sending));
    }
}

static void serial_reset(VirtioDevice *vdev)
{
    VirtioSerial *s = VIRTIO_SERIAL(vdev);
    drop_pending(s);
    s->driver_ready = false;
    for (guint i = 0; i < s->ports->children->len; i++) {
        SerialPort *port = s->ports->children->pdata[i];
        port_forget_chain(port);
        port->sent = 0;
        set_guest_connected(port, false);
    }
}

/* A driver without multiport has its one console open from the start. */
static void serial_start(VirtioDevice *vdev)
{
    VirtioSerial *s = VIRTIO_SERIAL(vdev);
    SerialPort *port = port_by_number(s, 0);
    if (!multiport(s) && port) {
        set_guest_connected(port, true);
    }
}

static bool serial_realize(VirtioDevice *vdev, GError **error)
{
    VirtioSerial *s = VIRTIO_SERIAL(vdev);
    const Device *proxy = vdev->bus->parent_obj.owner;
    if (s->max_ports == 0 || s->max_ports > MAX_PORTS) {
        return error_set(error, "maximum ports supported: %u", MAX_PORTS);
    }
    g_autofree char *bus_name = proxy && proxy->id ? g_strdup_printf("%s.0", proxy->id) : NULL;
    s->ports = bus_new(TYPE_SERIAL_BUS, DEVICE(vdev), bus_name, DEVICE(vdev)->env);
    g_queue_init(&s->pending);
    vdev->config_size = sizeof(SerialConfig);
    virtio_queue_add(vdev, QUEUE_SIZE, handle_port_in, NULL);
    virtio_queue_add(vdev, QUEUE_SIZE, handle_port_out, NULL);
    if (s->max_ports > 1) {
        s->control_in = virtio_queue_add(vdev, CONTROL_SIZE, handle_control_in, NULL);
        s->control_out = virtio_queue_add(vdev, CONTROL_SIZE, handle_control_out, NULL);
        for (uint32_t i = 1; i < s->max_ports; i++) {
            virtio_queue_add(vdev, QUEUE_SIZE, handle_port_in, NULL);
            virtio_queue_add(vdev, QUEUE_SIZE, handle_port_out, NULL);
        }
    }
    return true;
}

static void serial_unrealize(VirtioDevice *vdev)
{
    drop_pending(VIRTIO_SERIAL(vdev));
}

static const Property serial_properties[] = {
    PROP_UINT32("max_ports", VirtioSerial, max_ports, 31, "how many ports there may be"),
    PROP_BOOL("emergency-write", VirtioSerial, emergency_write, true, "offer the early console register"),
    PROP_END,
};

static const VmStateField serial_fields[] = {
    VMS_STRUCT(parent_obj, VirtioSerial, virtio_device_vmstate),
    VMS_BOOL(driver_ready, VirtioSerial),
    VMS_END,
};
static const VmState serial_vmstate = { .name = "virtio-serial", .version = 1, .fields = serial_fields };

static void serial_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &serial_vmstate;
    DEVICE_CLASS(klass)->category = "Input";
    vc->virtio_id = VIRTIO_ID_CONSOLE;
    vc->realize = serial_realize;
    vc->unrealize = serial_unrealize;
    vc->get_features = serial_get_features;
    vc->get_config = serial_get_config;
    vc->set_config = serial_set_config;
    vc->start = serial_start;
    vc->reset = serial_reset;
    object_class_add_properties(klass, serial_properties);
}

static const TypeInfo serial_info = {
    .name = TYPE_VIRTIO_SERIAL,
    .parent = TYPE_VIRTIO_DEVICE,
    .description = "virtio consoles and channels",
    .instance_size = sizeof(VirtioSerial),
    .class_init = serial_class_init,
};
TYPE_REGISTER(serial_info);

static void serial_bus_print(Device *dev, GString *out, int indent)
{
    const SerialPort *port = SERIAL_PORT(dev);
    g_string_append_printf(out, "%*sport %u, guest %s, host %s\n", indent, "", port->number,
                           port->guest_connected ? "on" : "off", port->host_connected ? "on" : "off");
}

static void serial_bus_class_init(ObjectClass *klass, const void *data)
{
    ((BusClass *)klass)->hotplug = true;
    ((BusClass *)klass)->print_device = serial_bus_print;
}

static const TypeInfo serial_bus_info = {
    .name = TYPE_SERIAL_BUS,
    .parent = TYPE_BUS,
    .class_init = serial_bus_class_init,
};
TYPE_REGISTER(serial_bus_info);

/* ---- ports ---- */

static bool choose_number(SerialPort *port, VirtioSerial *s, GError **error)
{
    if (port->number == PORT_UNSET) {
        uint32_t number = port->is_console ? 0 : 1;
        while (number < s->max_ports && port_by_number(s, number)) {
            number++;
        }
        if (number >= s->max_ports) {
            return error_set(error, "virtio-serial-bus: Maximum port limit for this device reached");
        }
        port->number = number;
        return true;
    }
    if (port->number >= s->max_ports) {
        return error_set(error, "virtio-serial-bus: Out-of-range port id specified, max. allowed: %u",
                         s->max_ports - 1);
    }
    if (port->number == 0 && !port->is_console) {
        error_set(error, "virtio-serial-bus: Port number 0 is reserved for virtconsole devices");
        error_append_hint(error, "use nr=1 or more, or leave it out");
        return false;
    }
    if (port_by_number(s, port->number)) {
        return error_set(error, "virtio-serial-bus: A port already exists at id %u", port->number);
    }
    return true;
}

static bool port_realize(Device *dev, GError **error)
{
    SerialPort *port = SERIAL_PORT(dev);
    VirtioSerial *s = VIRTIO_SERIAL(dev->bus->owner);
    for (guint i = 0; port->name && i < s->ports->children->len; i++) {
        const SerialPort *other = s->ports->children->pdata[i];
        if (other->name && strcmp(other->name, port->name) == 0) {
            return error_set(error, "virtio-serial-bus: A port already exists by name %s", port->name);
        }
    }
    if (port->is_console && port->name) {
        return error_set(error, "virtconsole has no name; use virtserialport");
    }
    if (!choose_number(port, s, error)) {
        return false;
    }
    unsigned first = port->number ? 2 * (port->number + 1) : 0;
    port->in = virtio_get_queue(&s->parent_obj, first);
    port->out = virtio_get_queue(&s->parent_obj, first + 1);
    port->host_connected = port->is_console;
    port->serial = s;
    chardev_fe_set_handlers(&port->chr, &port_ops, port, s->parent_obj.home);
    home_lock(s->parent_obj.home);
    send_control(s, port->number, EVENT_DEVICE_ADD, 1, NULL);
    home_unlock(s->parent_obj.home);
    return true;
}

static void port_unrealize(Device *dev)
{
    SerialPort *port = SERIAL_PORT(dev);
    VirtioSerial *s = port->serial;
    chardev_fe_set_handlers(&port->chr, NULL, NULL, NULL);
    chardev_fe_deinit(&port->chr);
    home_lock(s->parent_obj.home);
    send_control(s, port->number, EVENT_DEVICE_REMOVE, 1, NULL);
    port_forget_chain(port);
    port->serial = NULL;
    home_unlock(s->parent_obj.home);
}

static const Property port_properties[] = {
    PROP_UINT32("nr", SerialPort, number, PORT_UNSET, "the port's number (default: the first free)"),
    PROP_STR("name", SerialPort, name, NULL, "name that the guest sees"),
    PROP_TYPED("chardev", SerialPort, chr, property_type_chardev, "host end of the channel"),
    PROP_END,
};

static bool port_post_load(void *opaque, int version, GError **error)
{
    SerialPort *port = opaque;
    port_forget_chain(port); /* it is taken again, from where it had come to */
    chardev_fe_set_open(&port->chr, port->guest_connected);
    return true;
}

static const VmStateField port_fields[] = {
    VMS_BOOL(guest_connected, SerialPort),
    VMS_BOOL(host_connected, SerialPort),
    VMS_UINT32(sent, SerialPort),
    VMS_END,
};
static const VmState port_vmstate = {
    .name = "virtio-serial-port", .version = 1, .fields = port_fields, .post_load = port_post_load
};

static void port_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->bus_type = TYPE_SERIAL_BUS;
    dc->user_creatable = true;
    dc->category = "Input";
    dc->hotpluggable = true;
    dc->vmstate = &port_vmstate;
    dc->realize = port_realize;
    dc->unrealize = port_unrealize;
    object_class_add_properties(klass, port_properties);
}

static const TypeInfo port_info = {
    .name = TYPE_SERIAL_PORT,
    .parent = TYPE_DEVICE,
    .instance_size = sizeof(SerialPort),
    .abstract = true,
    .class_init = port_class_init,
};
TYPE_REGISTER(port_info);

static void console_init(Object *obj)
{
    ((SerialPort *)obj)->is_console = true;
}

static const TypeInfo virtconsole_info = {
    .name = TYPE_VIRTCONSOLE,
    .parent = TYPE_SERIAL_PORT,
    .description = "console of a virtio-serial device",
    .instance_init = console_init,
};
TYPE_REGISTER(virtconsole_info);

static const TypeInfo virtserialport_info = {
    .name = TYPE_VIRTSERIALPORT,
    .parent = TYPE_SERIAL_PORT,
    .description = "named channel of a virtio-serial device",
};
TYPE_REGISTER(virtserialport_info);
