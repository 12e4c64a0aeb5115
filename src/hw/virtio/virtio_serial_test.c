/* virtio-serial: ports, control messages and bytes in both directions. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "chardev/chardev.h"
#include "hw/virtio/virtio_test.h"

#include <unistd.h>

enum { READY = 0, ADD = 1, REMOVE = 2, PORT_READY = 3, CONSOLE = 4, OPEN = 6, NAME = 7 };
enum { IN0, OUT0, CTRL_IN, CTRL_OUT, IN1, OUT1 };

typedef struct Bench {
    VirtioTest t;
    ChardevRegistry *chardevs;
    Device *console, *port;
    GString *events;
    VmServices vm;
} Bench;

static void on_event(void *opaque, const char *event, json_object *data)
{
    Bench *b = opaque;
    g_string_append_printf(b->events, "%s %s;", event,
                           json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN));
    json_object_put(data);
}

static void bench_init(Bench *b)
{
    g_autoptr(GError) error = NULL;
    memset(b, 0, sizeof(*b));
    vt_new(&b->t, "virtio-serial-device");
    b->events = g_string_new(NULL);
    b->vm = (VmServices){ .emit_event = on_event, .opaque = b };
    b->t.env.vm = &b->vm;
    b->chardevs = chardev_registry_new(b->t.loop, NULL);
    chardev_property_set_registry(b->chardevs);
    g_assert_nonnull(chardev_add_text(b->chardevs, "ringbuf,id=c0,size=1024", &error));
    g_assert_nonnull(chardev_add_text(b->chardevs, "ringbuf,id=c1,size=1024", &error));
    g_assert_no_error(error);
    g_assert_true(vt_realize(&b->t, &error));
    Bus *bus = DEVICE(b->t.device)->child_buses->pdata[0];
    b->console = device_new_unattached(b->t.root, "virtconsole", NULL);
    g_assert_true(object_property_set_str(OBJECT(b->console), "chardev", "c0", &error));
    g_assert_true(device_realize(b->console, bus, NULL, &error));
    b->port = device_new_unattached(b->t.root, "virtserialport", NULL);
    b->port->id = g_strdup("channel0");
    g_assert_true(object_property_set_str(OBJECT(b->port), "chardev", "c1", &error));
    g_assert_true(object_property_set_str(OBJECT(b->port), "name", "org.example.0", &error));
    g_assert_true(device_realize(b->port, bus, NULL, &error));
    g_assert_no_error(error);
}

static void bench_free(Bench *b)
{
    vt_free(&b->t);
    chardev_property_set_registry(NULL);
    g_string_free(b->events, TRUE);
}

/* Gives the device n buffers for control messages, once. */
static uint32_t control_buffers(Bench *b)
{
    uint32_t base = vt_alloc(&b->t, NULL, 64 * VT_QUEUE_SIZE);
    for (uint16_t i = 0; i < VT_QUEUE_SIZE; i++) {
        vt_add(&b->t, CTRL_IN, i, (VtBuffer[]){ { base + 64u * i, 64, true } }, 1);
    }
    vt_kick(&b->t, CTRL_IN);
    return base;
}

static void expect_control(Bench *b, uint32_t base, uint32_t id, uint16_t event, uint16_t value,
                           const char *text)
{
    uint32_t written, at = base + 64 * vt_take(&b->t, CTRL_IN, &written);
    g_assert_cmpuint(vt_ram(&b->t, at, 4), ==, id);
    g_assert_cmpuint(vt_ram(&b->t, at + 4, 2), ==, event);
    g_assert_cmpuint(vt_ram(&b->t, at + 6, 2), ==, value);
    if (text) {
        char buffer[56] = { 0 };
        address_space_read(b->t.as, at + 8, MEMTXATTRS_NONE, buffer, written - 8);
        g_assert_cmpstr(buffer, ==, text);
    } else {
        g_assert_cmpuint(written, ==, 8);
    }
}

static void send_control(Bench *b, uint32_t id, uint16_t event, uint16_t value)
{
    uint8_t bytes[8];
    memcpy(bytes, &id, 4);
    memcpy(bytes + 4, &event, 2);
    memcpy(bytes + 6, &value, 2);
    uint32_t at = vt_alloc(&b->t, bytes, 8);
    vt_add(&b->t, CTRL_OUT, 0, (VtBuffer[]){ { at, 8, false } }, 1);
    vt_kick(&b->t, CTRL_OUT);
    vt_take(&b->t, CTRL_OUT, NULL);
}

static void expect_output(Bench *b, const char *id, const char *text)
{
    g_autoptr(GError) error = NULL;
    size_t size;
    g_autofree char *got = chardev_ringbuf_read(b->chardevs, id, 100, &size, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(got, size, text, strlen(text));
}

static void write_port(Bench *b, unsigned queue, const char *text)
{
    uint32_t at = vt_alloc(&b->t, text, (uint32_t)strlen(text));
    vt_add(&b->t, queue, 0, (VtBuffer[]){ { at, (uint32_t)strlen(text), false } }, 1);
    vt_kick(&b->t, queue);
    vt_take(&b->t, queue, NULL);
}

static void test_multiport(void)
{
    Bench b;
    bench_init(&b);
    VirtioTest *t = &b.t;
    g_assert_cmpuint(vt_config(t, 4, 4), ==, 31);
    vt_start(t, VIRTIO_BIT(1), 6);
    uint32_t base = control_buffers(&b);
    send_control(&b, 0, READY, 1);
    expect_control(&b, base, 0, ADD, 1, NULL);
    expect_control(&b, base, 1, ADD, 1, NULL);
    send_control(&b, 0, PORT_READY, 1);
    expect_control(&b, base, 0, CONSOLE, 1, NULL);
    expect_control(&b, base, 0, OPEN, 1, NULL);
    send_control(&b, 1, PORT_READY, 1);
    expect_control(&b, base, 1, NAME, 1, "org.example.0");
    expect_control(&b, base, 1, OPEN, 1, NULL); /* a ring buffer is always there */
    send_control(&b, 1, OPEN, 1);
    send_control(&b, 7, OPEN, 1); /* no such port */
    g_assert_cmpstr(b.events->str, ==, "VSERPORT_CHANGE {\"id\":\"channel0\",\"open\":true};");
    write_port(&b, OUT0, "console\n");
    write_port(&b, OUT1, "channel\n");
    expect_output(&b, "c0", "console\n");
    expect_output(&b, "c1", "channel\n");
    device_reset(t->transport);
    g_assert_nonnull(strstr(b.events->str, "\"open\":false"));
    bench_free(&b);
}

static void test_single_and_emergency(void)
{
    Bench b;
    bench_init(&b);
    address_space_store(b.t.as, VT_MMIO + 0x108, 4, 'E', MEMTXATTRS_NONE); /* before anything is set up */
    expect_output(&b, "c0", "E");
    vt_start(&b.t, 0, 2);
    write_port(&b, OUT0, "plain");
    expect_output(&b, "c0", "plain");
    bench_free(&b);
}

static void test_input(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    int pipe_fds[2];
    bench_init(&b);
    g_assert_cmpint(pipe(pipe_fds), ==, 0);
    g_autofree char *path =
        g_strdup_printf("file,id=c2,path=/dev/null,input-path=/proc/self/fd/%d", pipe_fds[0]);
    Chardev *chr = chardev_add_text(b.chardevs, path, &error);
    if (!chr) {
        g_test_skip(error->message);
        bench_free(&b);
        return;
    }
    Device *port = device_new_unattached(b.t.root, "virtserialport", NULL);
    g_assert_true(object_property_set_str(OBJECT(port), "chardev", "c2", &error));
    g_assert_true(object_property_set_uint(OBJECT(port), "nr", 2, &error));
    g_assert_true(device_realize(port, DEVICE(b.t.device)->child_buses->pdata[0], NULL, &error));
    vt_start(&b.t, VIRTIO_BIT(1), 8);
    g_assert_cmpint(write(pipe_fds[1], "hello", 5), ==, 5);
    uint32_t written, at = vt_alloc(&b.t, NULL, 64);
    vt_add(&b.t, 6, 0, (VtBuffer[]){ { at, 64, true } }, 1);
    vt_kick(&b.t, 6);
    vt_settle(&b.t);
    g_assert_cmpuint(vt_used_idx(&b.t, 6), ==, 0); /* nobody in the guest has it open: kept */
    send_control(&b, 2, OPEN, 1);
    vt_take(&b.t, 6, &written);
    g_assert_cmpuint(written, ==, 5);
    char text[5];
    address_space_read(b.t.as, at, MEMTXATTRS_NONE, text, 5);
    g_assert_cmpmem(text, 5, "hello", 5);
    close(pipe_fds[1]);
    bench_free(&b);
}

static void refused(Bench *b, const char *type, const char *property, const char *value, const char *why)
{
    g_autoptr(GError) error = NULL;
    Device *port = device_new_unattached(b->t.root, type, NULL);
    g_assert_true(object_property_parse(OBJECT(port), property, value, &error));
    g_assert_false(device_realize(port, DEVICE(b->t.device)->child_buses->pdata[0], NULL, &error));
    g_assert_nonnull(strstr(error->message, why));
    object_unparent(OBJECT(port));
}

static void test_refusals(void)
{
    Bench b;
    bench_init(&b);
    refused(&b, "virtserialport", "nr", "0", "reserved");
    refused(&b, "virtserialport", "nr", "1", "already exists at id 1");
    refused(&b, "virtserialport", "nr", "31", "max. allowed: 30");
    refused(&b, "virtserialport", "name", "org.example.0", "already exists by name");
    bench_free(&b);
}

static void test_hotplug(void)
{
    g_autoptr(GError) error = NULL;
    Bench b;
    bench_init(&b);
    vt_start(&b.t, VIRTIO_BIT(1), 6);
    uint32_t base = control_buffers(&b);
    send_control(&b, 0, READY, 1);
    expect_control(&b, base, 0, ADD, 1, NULL);
    expect_control(&b, base, 1, ADD, 1, NULL);
    Device *port = device_new_unattached(b.t.root, "virtserialport", NULL);
    g_assert_true(device_realize(port, DEVICE(b.t.device)->child_buses->pdata[0], NULL, &error));
    expect_control(&b, base, 2, ADD, 1, NULL);
    device_unrealize(port);
    expect_control(&b, base, 2, REMOVE, 1, NULL);
    object_unparent(OBJECT(port));
    bench_free(&b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-serial/multiport", test_multiport);
    g_test_add_func("/virtio-serial/single-and-emergency", test_single_and_emergency);
    g_test_add_func("/virtio-serial/input", test_input);
    g_test_add_func("/virtio-serial/refusals", test_refusals);
    g_test_add_func("/virtio-serial/hotplug", test_hotplug);
    return g_test_run();
}
