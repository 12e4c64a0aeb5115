/* The QMP server over a socket pair, the dispatcher, and the monitor for people. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "monitor/monitor.h"

#include "base/error.h"
#include "qapi/json_text.h"
#include "qapi/qapi_commands.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct Fixture {
    Vm *vm;
    MonitorSet *set;
    int fd;
    GString *in; /* received and not yet looked at */
    int clients;
} Fixture;

static int add_client(Fixture *f, MonitorMode mode)
{
    g_autoptr(GError) error = NULL;
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), ==, 0);
    g_autofree char *text = g_strdup_printf("socket,id=mon%d,fd=%d", f->clients, ends[1]);
    f->clients++;
    Chardev *chr = chardev_add_text(vm_chardevs(f->vm), text, &error);
    g_assert_no_error(error);
    g_assert_true(monitor_set_add(f->set, chr, mode, false, NULL, &error));
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    return ends[0];
}

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    f->vm = vm_new(&error);
    g_assert_no_error(error);
    f->set = monitor_set_new(f->vm);
    f->fd = add_client(f, MONITOR_QMP);
    f->in = g_string_new(NULL);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    close(f->fd);
    monitor_set_free(f->set);
    vm_free(f->vm);
    g_string_free(f->in, TRUE);
}

static void turn(Fixture *f)
{
    for (int i = 0; i < 8; i++) {
        loop_iterate(vm_loop(f->vm), false);
    }
}

/* What has arrived so far; false at the end of the stream. */
static bool pull(Fixture *f, int fd)
{
    char buffer[65536];
    turn(f);
    ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n > 0) {
        g_string_append_len(f->in, buffer, n);
    }
    return n != 0;
}

/* One line, which must end in CR LF, as JSON. */
static json_object *receive(Fixture *f)
{
    char *end;
    int64_t deadline = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;
    while (!(end = strstr(f->in->str, "\r\n"))) {
        g_assert_null(strchr(f->in->str, '\n'));
        g_assert_true(pull(f, f->fd));
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
    *end = '\0';
    json_object *j = json_tokener_parse(f->in->str);
    g_assert_nonnull(j);
    g_string_erase(f->in, 0, end + 2 - f->in->str);
    return j;
}

static void send_bytes(Fixture *f, const char *data, size_t size)
{
    while (size) {
        ssize_t n = write(f->fd, data, size);
        g_assert_true(n > 0 || errno == EAGAIN);
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
        turn(f);
    }
}

static void send_text(Fixture *f, const char *text)
{
    send_bytes(f, text, strlen(text));
}

static void expect(Fixture *f, const char *text)
{
    json_object *j = receive(f);
    g_autoptr(GString) got = g_string_new(NULL);
    json_text_append(got, j, false);
    g_assert_cmpstr(got->str, ==, text);
    json_object_put(j);
}

static void expect_error(Fixture *f, const char *error_class, const char *part)
{
    json_object *j = receive(f), *error;
    g_assert_true(json_object_object_get_ex(j, "error", &error));
    g_assert_cmpstr(json_object_get_string(json_object_object_get(error, "class")), ==, error_class);
    const char *desc = json_object_get_string(json_object_object_get(error, "desc"));
    if (!strstr(desc, part)) {
        g_error("'%s' is not in '%s'", part, desc);
    }
    json_object_put(j);
}

static void negotiate(Fixture *f)
{
    json_object *greeting = receive(f), *qmp;
    g_assert_true(json_object_object_get_ex(greeting, "QMP", &qmp));
    g_assert_cmpstr(json_object_to_json_string_ext(json_object_object_get(qmp, "capabilities"), 0), ==,
                    "[\"oob\"]");
    json_object_put(greeting);
    send_text(f, "{\"execute\":\"qmp_capabilities\"}\r\n");
    expect(f, "{\"return\": {}}");
}

static void test_negotiation(Fixture *f, gconstpointer data)
{
    /* Without waiting for the greeting, and with a command too early. */
    send_text(f, "{\"execute\":\"query-version\",\"id\":[1,{\"a\":null}]}");
    json_object_put(receive(f));
    expect(f,
           "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities negotiation with "
           "'qmp_capabilities'\"}, \"id\": [1, {\"a\": null}]}");
    send_text(f, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"bob\"]}}");
    expect_error(f, "GenericError", "does not accept value 'bob'");
    send_text(f, "{\"exec-oob\":\"quit\"}");
    expect_error(f, "GenericError", "QMP input member 'exec-oob' is unexpected");
    send_text(f, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},\"id\":\"x\"}\n");
    expect(f, "{\"return\": {}, \"id\": \"x\"}");
    send_text(f, "{\"execute\":\"qmp_capabilities\"}");
    expect_error(f, "CommandNotFound", "already complete");
    send_text(f, "{\"exec-oob\":\"query-status\"}");
    expect_error(f, "GenericError", "does not support OOB");
}

static void test_commands(Fixture *f, gconstpointer data)
{
    negotiate(f);
    send_text(f, "{\"execute\":\"query-status\"}{\"execute\":\"query-name\",\"id\":2}");
    expect(f, "{\"return\": {\"running\": false, \"singlestep\": false, \"status\": \"prelaunch\"}}");
    expect(f, "{\"return\": {}, \"id\": 2}");
    send_text(f, "{\"execute\":\"query-targte\"}");
    expect_error(f, "CommandNotFound", "The command query-targte has not been found");
    send_text(f, "{\"execute\":\"qom-get\",\"arguments\":{\"path\":\"/nowhere\",\"property\":\"x\"}}");
    expect_error(f, "DeviceNotFound", "Device '/nowhere' not found");
    send_text(f, "{\"execute\":\"query-status\",\"arguments\":{\"x\":1}}");
    expect_error(f, "GenericError", "Parameter 'x' is unexpected");
    send_text(f, "{\"execute\":\"qom-list\"}");
    expect_error(f, "GenericError", "Parameter 'path' is missing");
    send_text(f, "{\"execute\":\"device_add\",\"arguments\":{}}");
    expect_error(f, "GenericError", "Parameter 'driver' is missing");
    send_text(f, "{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"no-such\"}}");
    expect_error(f, "GenericError", "'no-such' is not a valid device model name");
    send_text(f, "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"x\"}}");
    expect_error(f, "DeviceNotFound", "Device 'x' not found");
    send_text(f, "{\"execute\":\"query-balloon\"}");
    expect_error(f, "DeviceNotActive", "balloon");
    send_text(f, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}");
    expect_error(f, "GenericError", "SCM_RIGHTS");
    send_text(
        f,
        "{\"execute\":\"object-add\",\"arguments\":{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"x\"}}");
    expect(f, "{\"return\": {}}");
    send_text(f, "{\"execute\":\"qom-list\",\"arguments\":{\"path\":\"/objects\"}}");
    expect(f, "{\"return\": [{\"name\": \"type\", \"type\": \"string\"}, {\"name\": \"s\", \"type\": "
              "\"child<secret>\"}]}");
    send_text(f, "{\"execute\":\"object-del\",\"arguments\":{\"id\":\"s\"}}");
    expect(f, "{\"return\": {}}");
    send_text(f, "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info status\"}}");
    expect(f, "{\"return\": \"VM status: paused (prelaunch)\\n\"}");
    send_text(f, "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[{\"capability\":"
                 "\"events\",\"state\":true}]}}");
    expect(f, "{\"return\": {}}");
    send_text(f, "{\"execute\":\"query-migrate-capabilities\"}");
    expect(f, "{\"return\": [{\"capability\": \"events\", \"state\": true}]}");
}

static void test_garbage(Fixture *f, gconstpointer data)
{
    negotiate(f);
    static const char *const lines[] = { "hello\n",
                                         "}\n",
                                         "{\"a\"}\n",
                                         "{\"execute\":}\n",
                                         "\xff\xfe\n",
                                         "{\"execute\": \"\xc3\x28\"}\n",
                                         "\"text\"\n",
                                         "12345\n",
                                         "{]\n",
                                         "<xml/>\r\n",
                                         "GET / HTTP/1.1\r\n" };
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        send_text(f, lines[i]);
        expect_error(f, "GenericError", "JSON parse error");
    }
    send_bytes(f, "{\"a\0b\"\n", 7);
    expect_error(f, "GenericError", "JSON parse error");
    send_text(f, "[]");
    expect_error(f, "GenericError", "QMP input must be a JSON object");
    static const struct {
        const char *request, *answer;
    } wrong[] = {
        { "{}", "lacks member 'execute'" },
        { "{\"execute\":1}", "must be a string" },
        { "{\"execute\":\"stop\",\"arguments\":[]}", "must be an object" },
        { "{\"execute\":\"stop\",\"extra\":1}", "'extra' is unexpected" },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        send_text(f, wrong[i].request);
        expect_error(f, "GenericError", wrong[i].answer);
    }
    /* Too deep, in a bite and byte by byte. */
    g_autoptr(GString) deep = g_string_new("{\"execute\":");
    for (int i = 0; i < 5000; i++) {
        g_string_append_c(deep, '[');
    }
    g_string_append_c(deep, '\n');
    send_text(f, deep->str);
    expect_error(f, "GenericError", "JSON parse error");
    for (size_t i = 0; i < 300; i++) {
        send_bytes(f, deep->str + i, 1);
    }
    send_text(f, "\n");
    expect_error(f, "GenericError", "JSON parse error");
    /* It goes on. */
    send_text(f, "{\"execute\":\"query-name\"}");
    expect(f, "{\"return\": {}}");
}

static void test_huge(Fixture *f, gconstpointer data)
{
    negotiate(f);
    g_autofree char *block = g_malloc(1 << 20);
    memset(block, 'a', 1 << 20);
    /* A large one is fine ... */
    send_text(f, "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"");
    send_bytes(f, block, 1 << 20);
    send_text(f, "\"}}");
    json_object_put(receive(f));
    /* ... one without an end is not kept for ever. */
    send_text(f, "{\"execute\":\"");
    for (int i = 0; i < 20; i++) {
        send_bytes(f, block, 1 << 20);
    }
    send_text(f, "\n{\"execute\":\"query-name\"}");
    expect_error(f, "GenericError", "too large");
    expect(f, "{\"return\": {}}");
}

static void test_never_reads(Fixture *f, gconstpointer data)
{
    negotiate(f);
    /* Another client is served all the while. */
    int other = add_client(f, MONITOR_QMP);
    static const char request[] = "{\"execute\":\"query-qmp-schema\"}\r\n";
    bool gone = false;
    for (int i = 0; i < 4000 && !gone; i++) {
        ssize_t n = send(f->fd, request, sizeof(request) - 1, MSG_NOSIGNAL);
        gone = n < 0 && (errno == EPIPE || errno == ECONNRESET);
        turn(f);
    }
    g_assert_true(gone);
    close(f->fd);
    f->fd = other;
    negotiate(f);
}

static void test_events(Fixture *f, gconstpointer data)
{
    /* Only to those who negotiated. */
    vm_emit_event(f->vm, "BEFORE", NULL);
    negotiate(f);
    json_object *body = json_object_new_object();
    json_object_object_add(body, "guest", json_object_new_boolean(true));
    vm_emit_event(f->vm, "AFTER", body);
    json_object *event = receive(f), *timestamp;
    g_assert_cmpstr(json_object_get_string(json_object_object_get(event, "event")), ==, "AFTER");
    g_assert_true(json_object_object_get_ex(event, "timestamp", &timestamp));
    g_assert_cmpint(json_object_get_int64(json_object_object_get(timestamp, "seconds")), >, 1000000000);
    g_assert_cmpint(json_object_get_int64(json_object_object_get(timestamp, "microseconds")), <, 1000000);
    g_assert_true(
        json_object_get_boolean(json_object_object_get(json_object_object_get(event, "data"), "guest")));
    json_object_put(event);
}

static void test_fd(Fixture *f, gconstpointer data)
{
    negotiate(f);
    int pipe_ends[2];
    g_assert_cmpint(pipe(pipe_ends), ==, 0);
    char text[] = "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"p\"}}\r\n";
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec iov = { text, sizeof(text) - 1 };
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &pipe_ends[1], sizeof(int));
    g_assert_cmpint(sendmsg(f->fd, &message, 0), ==, sizeof(text) - 1);
    expect(f, "{\"return\": {}}");
    close(pipe_ends[1]);
    int got = fd_table_take(vm_fds(f->vm), "p", NULL);
    g_assert_cmpint(got, >=, 0);
    g_assert_cmpint(write(got, "!", 1), ==, 1);
    char byte = 0;
    g_assert_cmpint(read(pipe_ends[0], &byte, 1), ==, 1);
    g_assert_true(byte == '!');
    close(got);
    close(pipe_ends[0]);
}

/* Every command takes an empty dict, wrong members and wrong types without falling over. */
static void test_all_commands(Fixture *f, gconstpointer data)
{
    static const char *const arguments[] = {
        NULL,
        "{}",
        "{\"x\":1}",
        "{\"id\":1,\"path\":1,\"name\":[],\"driver\":null,\"backend\":3,\"type\":{}}",
        "{\"id\":\"\",\"path\":\"\",\"name\":\"\",\"driver\":\"\",\"qom-type\":\"\",\"type\":\"\","
        "\"backend\":{},"
        "\"node-name\":\"\",\"property\":\"\",\"typename\":\"\",\"fdname\":\"\",\"value\":null,\"size\":-1,"
        "\"val\":-1,"
        "\"filename\":\"\",\"device\":\"\"}",
    };
    for (unsigned i = 0; i < qmp_commands_count; i++) {
        if (strcmp(qmp_commands[i].name, "quit") == 0) {
            continue;
        }
        for (size_t k = 0; k < G_N_ELEMENTS(arguments); k++) {
            json_object *request = json_object_new_object();
            json_object_object_add(request, "execute", json_object_new_string(qmp_commands[i].name));
            if (arguments[k]) {
                json_object_object_add(request, "arguments", json_tokener_parse(arguments[k]));
            }
            json_object *reply = monitor_qmp_run(f->set, request), *part;
            g_assert_true(json_object_object_get_ex(reply, "return", NULL) !=
                          json_object_object_get_ex(reply, "error", &part));
            json_object_put(reply);
            json_object_put(request);
        }
    }
    for (unsigned i = 1; i < qmp_commands_count; i++) {
        g_assert_cmpint(strcmp(qmp_commands[i - 1].name, qmp_commands[i].name), <, 0);
    }
}

static void expect_hmp(Fixture *f, const char *line, const char *output)
{
    g_autofree char *got = monitor_hmp_run(f->set, line);
    g_assert_cmpstr(got, ==, output);
}

static void test_hmp(Fixture *f, gconstpointer data)
{
    expect_hmp(f, "p 1+2*3", "0x7\n");
    expect_hmp(f, "p/d (1 + 2) * -3", "-9\n");
    expect_hmp(f, "print/c 'A'", "'A'\n");
    expect_hmp(f, "p/u ~0", "18446744073709551615\n");
    expect_hmp(f, "p 1/0", "Error: division by zero\n");
    expect_hmp(f, "p 1+", "Error: unexpected end of expression\n");
    expect_hmp(f, "p/z 1", "Error: invalid char 'z' in format\n");
    expect_hmp(f, "", "");
    expect_hmp(f, "systme_reset", "unknown command: 'systme_reset'\nDid you mean 'system_reset'?\n");
    expect_hmp(f, "info verison", "Error: unknown info command: 'verison'\nDid you mean 'version'?\n");
    expect_hmp(f, "info status", "VM status: paused (prelaunch)\n");
    expect_hmp(f, "cpu 3", "Error: invalid CPU index\n");
    expect_hmp(f, "device_del nobody", "Error: Device 'nobody' not found\n");
    expect_hmp(f, "object_add secret,id=s1,data=x", "");
    expect_hmp(f, "qom-get /objects/s1 format", "\"raw\"\n");
    expect_hmp(f, "trace-event no_such_event on", "Error: unknown event \"no_such_event\"\n");
    g_autofree char *help = monitor_hmp_run(f->set, "help");
    g_assert_nonnull(strstr(help, "system_powerdown"));
    g_autofree char *info = monitor_hmp_run(f->set, "info");
    g_assert_nonnull(strstr(info, "info qom-tree"));
    g_autoptr(GString) nested = g_string_new("p ");
    for (int i = 0; i < 10000; i++) {
        g_string_append_c(nested, '(');
    }
    g_autofree char *deep = monitor_hmp_run(f->set, nested->str);
    g_assert_nonnull(strstr(deep, "nested too deeply"));
    /* Every info command says something sensible without a machine. */
    static const char *const commands[] = {
        "info registers", "info cpus",    "info mtree", "info qtree",    "info qom-tree /", "info network",
        "info block",     "info chardev", "info jit",   "info pci",      "info name",       "info uuid",
        "info kvm",       "x/4xb 0",      "xp/1i 0",    "info iothreads"
    };
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_free(monitor_hmp_run(f->set, commands[i]));
    }
}

static void wait_for(Fixture *f, int fd, const char *text)
{
    int64_t deadline = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;
    while (!strstr(f->in->str, text)) {
        g_assert_true(pull(f, fd));
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
    g_string_erase(f->in, 0, strstr(f->in->str, text) + strlen(text) - f->in->str);
}

static void test_editor(Fixture *f, gconstpointer data)
{
    int fd = add_client(f, MONITOR_HMP);
    wait_for(f, fd, "(qemu) ");
    static const struct {
        const char *keys, *answer;
    } typed[] = {
        { "p 1\r", "0x1\r\n(qemu) " },
        { "p 12\x7f"
          "3\r",
          "0xd\r\n(qemu) " },
        { "1\x01p \r", "0x1\r\n(qemu) " },             /* Ctrl-A: to the beginning */
        { "p 21\x1b[D\x1b[D5\r", "0x209\r\n(qemu) " }, /* cursor left twice: 521 */
        { "garbage\x15p 4\r", "0x4\r\n(qemu) " },      /* Ctrl-U */
        { "\x1b[A\r", "0x4\r\n(qemu) " },              /* the last line again */
        { "\x1b[A\x1b[A\r", "0x209\r\n(qemu) " },
        { "info stat\t\r", "VM status: paused (prelaunch)\r\n(qemu) " },
        { "\r", "\r\n(qemu) " },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(typed); i++) {
        g_assert_cmpint(write(fd, typed[i].keys, strlen(typed[i].keys)), ==, strlen(typed[i].keys));
        wait_for(f, fd, typed[i].answer);
    }
    close(fd);
    turn(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, fn) g_test_add("/monitor/" name, Fixture, NULL, set_up, fn, tear_down)
    ADD("negotiation", test_negotiation);
    ADD("commands", test_commands);
    ADD("garbage", test_garbage);
    ADD("huge", test_huge);
    ADD("never-reads", test_never_reads);
    ADD("events", test_events);
    ADD("fd", test_fd);
    ADD("all-commands", test_all_commands);
    ADD("hmp", test_hmp);
    ADD("editor", test_editor);
    return g_test_run();
}
