/*
 * What a QMP client may send: bytes into the server of a machine without a board, in bites of several sizes,
 * before and after negotiation. The server must answer or refuse, and end up able to serve.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "monitor/monitor.h"
#include "qapi/qapi_commands.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Vm *vm;
static MonitorSet *set;
static int client;

static void start(void)
{
    g_autoptr(GError) error = NULL;
    int ends[2];
    vm = vm_new(&error);
    g_assert_no_error(error);
    set = monitor_set_new(vm);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), ==, 0);
    g_autofree char *text = g_strdup_printf("socket,id=fuzz,fd=%d", ends[1]);
    Chardev *chr = chardev_add_text(vm_chardevs(vm), text, &error);
    g_assert_no_error(error);
    g_assert_true(monitor_set_add(set, chr, MONITOR_QMP, false, NULL, &error));
    client = ends[0];
    fcntl(client, F_SETFL, O_NONBLOCK);
}

static void stop(void)
{
    close(client);
    monitor_set_free(set);
    vm_free(vm);
}

static void turn(void)
{
    char sink[65536];
    while (loop_iterate(vm_loop(vm), false)) {}
    while (read(client, sink, sizeof(sink)) > 0) {}
}

static void put(const void *data, size_t size)
{
    const char *p = data;
    while (size) {
        ssize_t n = write(client, p, size);
        if (n > 0) {
            p += n;
            size -= (size_t)n;
        }
        turn();
    }
}

/* Random bytes are hardly ever JSON: they choose pieces of it instead. */
static void put_pieces(const uint8_t *data, size_t size)
{
    static const char *const pieces[] = {
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "null",
        "true",
        "-1",
        "1e999",
        "\"id\"",
        "\"execute\"",
        "\"arguments\"",
        "\n",
        "\"exec-oob\"",
        "\"path\"",
        "\"/\"",
        "\"name\"",
        "\"driver\"",
        "\"qom-type\"",
        "\"secret\"",
        "\"data\"",
        "\"backend\"",
        "\"type\"",
        "\"property\"",
        "18446744073709551616",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "'",
        "\\",
        " ",
    };
    g_autoptr(GString) text = g_string_new(NULL);
    for (size_t i = 0; i < size; i++) {
        if (data[i] & 0x80) {
            const char *name = qmp_commands[data[i] % qmp_commands_count].name;
            if (strcmp(name, "quit") != 0 && !g_str_has_suffix(name, "memsave")) {
                g_string_append_printf(text, "\n{\"execute\": \"%s\", \"arguments\": {", name);
            }
        } else if (data[i] & 0x40) {
            g_string_append_c(text, (char)data[i]);
        } else {
            g_string_append(text, pieces[data[i] % G_N_ELEMENTS(pieces)]);
        }
    }
    put(text->str, text->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned inputs;
    if (inputs++ % 64 == 0) {
        if (vm) {
            stop();
        }
        start();
        put("{\"execute\":\"qmp_capabilities\"}", 30);
    }
    if (!size) {
        return 0;
    }
    if (data[0] & 1) {
        put_pieces(data + 1, size - 1);
    } else {
        put(data + 1, size - 1);
    }
    /* Ends whatever was begun. */
    put("\xff\n\"\n\xff\n", 6);
    return 0;
}
