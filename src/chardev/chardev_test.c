/* Tests of chardevs. SPDX-License-Identifier: GPL-2.0-or-later */
#include "chardev/chardev.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

typedef struct User {
    ChardevFrontend fe;
    HomeLock lock;
    GString *got;
    size_t room;
    int opened, closed, mux_in, mux_out, breaks, writable;
} User;

static size_t user_room(void *opaque)
{
    User *u = opaque;

    g_assert_true(home_lock_held(&u->lock));
    return u->room;
}

static void user_receive(void *opaque, const uint8_t *data, size_t size)
{
    User *u = opaque;

    g_assert_true(home_lock_held(&u->lock));
    g_assert_cmpint(size, <=, u->room);
    g_string_append_len(u->got, (const char *)data, (gssize)size);
    u->room -= size;
}

static void user_event(void *opaque, ChardevEvent event)
{
    User *u = opaque;

    u->opened += event == CHARDEV_EVENT_OPENED;
    u->closed += event == CHARDEV_EVENT_CLOSED;
    u->mux_in += event == CHARDEV_EVENT_MUX_IN;
    u->mux_out += event == CHARDEV_EVENT_MUX_OUT;
    u->breaks += event == CHARDEV_EVENT_BREAK;
}

static void user_writable(void *opaque)
{
    ((User *)opaque)->writable++;
}

static const ChardevFrontendOps user_ops = { user_room, user_receive, user_event, user_writable };

static void user_attach(User *u, Chardev *chr)
{
    g_autoptr(GError) error = NULL;

    memset(u, 0, sizeof(*u));
    home_lock_init(&u->lock);
    u->got = g_string_new(NULL);
    u->room = 1 << 20;
    chardev_fe_init(&u->fe, chr, &error);
    g_assert_no_error(error);
    chardev_fe_set_handlers(&u->fe, &user_ops, u, &u->lock);
}

static void user_end(User *u)
{
    chardev_fe_deinit(&u->fe);
    g_string_free(u->got, TRUE);
    home_lock_destroy(&u->lock);
}

static Loop *loop;
static ChardevRegistry *reg;
static char *dir;

static void begin(void)
{
    loop = loop_new(NULL, NULL);
    reg = chardev_registry_new(loop, NULL);
    dir = g_dir_make_tmp("rhea-chr-XXXXXX", NULL);
}

static void end(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);

    chardev_registry_free(reg);
    loop_free(loop);
    g_assert_cmpint(system(command), ==, 0);
    g_free(dir);
}

static void run_for_ms(int ms)
{
    int64_t until = g_get_monotonic_time() + ms * 1000;

    while (g_get_monotonic_time() < until) {
        if (!loop_iterate(loop, false)) {
            g_usleep(200);
        }
    }
}

#define RUN_UNTIL(condition)                                   \
    do {                                                       \
        int64_t until = g_get_monotonic_time() + 5000000;      \
        while (!(condition)) {                                 \
            g_assert_cmpint(g_get_monotonic_time(), <, until); \
            if (!loop_iterate(loop, false)) {                  \
                g_usleep(100);                                 \
            }                                                  \
        }                                                      \
    } while (0)

static Chardev *add(const char *fmt, ...)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    Chardev *chr;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    chr = chardev_add_text(reg, text, &error);
    g_assert_no_error(error);
    return chr;
}

static int connect_to(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    return fd;
}

static void test_file(void)
{
    g_autofree char *path = NULL, *log = NULL, *text = NULL, *logged = NULL, *filename = NULL;
    User u;
    Chardev *chr;

    begin();
    path = g_build_filename(dir, "out", NULL);
    log = g_build_filename(dir, "log", NULL);
    chr = add("file,id=f0,path=%s,logfile=%s", path, log);
    user_attach(&u, chr);
    g_assert_cmpint(chardev_fe_write(&u.fe, "hello\n", 6), ==, 6);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "hello\n");
    g_assert_true(g_file_get_contents(log, &logged, NULL, NULL));
    g_assert_cmpstr(logged, ==, "hello\n");
    RUN_UNTIL(u.opened == 1);
    filename = chardev_filename(chr);
    g_assert_cmpstr(filename, ==, "file");
    user_end(&u);
    end();
}

static void test_socket(void)
{
    g_autofree char *path = NULL, *name = NULL, *name2 = NULL;
    User u;
    Chardev *chr;
    int fd;
    char buf[16] = { 0 };

    begin();
    path = g_build_filename(dir, "sock", NULL);
    chr = add("socket,id=s0,path=%s,server=on,wait=off", path);
    user_attach(&u, chr);
    name = chardev_filename(chr);
    g_assert_true(g_str_has_prefix(name, "disconnected:unix:"));
    g_assert_cmpint(chardev_fe_write(&u.fe, "lost", 4), ==, 4); /* nobody is there */
    for (int round = 1; round <= 2; round++) {                  /* a second client comes after the first */
        g_string_truncate(u.got, 0);
        fd = connect_to(path);
        RUN_UNTIL(u.opened == round);
        g_assert_true(chardev_fe_backend_open(&u.fe));
        g_assert_cmpint(write(fd, "abcdef", 6), ==, 6);
        RUN_UNTIL(u.got->len == 6);
        g_assert_cmpstr(u.got->str, ==, "abcdef");
        g_assert_cmpint(chardev_fe_write(&u.fe, "reply", 5), ==, 5);
        g_assert_cmpint(read(fd, buf, sizeof(buf)), ==, 5);
        close(fd);
        RUN_UNTIL(u.closed == round);
    }
    name2 = chardev_filename(chr);
    g_assert_true(g_str_has_suffix(name2, "/sock,server=on"));
    user_end(&u);
    end();
    g_assert_cmpint(access(path, F_OK), ==, -1);
}

/* The front end takes three bytes at a time, and says when it has room again. */
static void test_flow_in(void)
{
    g_autofree char *path = NULL;
    User u;
    int fd;

    begin();
    path = g_build_filename(dir, "sock", NULL);
    user_attach(&u, add("socket,id=s0,path=%s,server=on,wait=off", path));
    u.room = 3;
    fd = connect_to(path);
    g_assert_cmpint(write(fd, "0123456789", 10), ==, 10);
    RUN_UNTIL(u.got->len == 3);
    run_for_ms(20);
    g_assert_cmpint(u.got->len, ==, 3);
    g_assert_false(loop_iterate(loop, false)); /* and the loop is quiet meanwhile */
    while (u.got->len < 10) {
        home_lock(&u.lock);
        u.room = 3;
        chardev_fe_accept_input(&u.fe);
        home_unlock(&u.lock);
        loop_iterate(loop, false);
    }
    g_assert_cmpstr(u.got->str, ==, "0123456789");
    close(fd);
    user_end(&u);
    end();
}

/* A peer that does not read: output is bounded, and the front end hears when there is room again. */
static void test_flow_out(void)
{
    g_autofree char *path = NULL;
    static char block[16384], sink[65536];
    size_t sent = 0, got = 0;
    User u;
    int fd;

    begin();
    path = g_build_filename(dir, "sock", NULL);
    user_attach(&u, add("socket,id=s0,path=%s,server=on,wait=off", path));
    fd = connect_to(path);
    RUN_UNTIL(u.opened);
    for (;;) {
        size_t n;

        for (size_t i = 0; i < sizeof(block); i++) {
            block[i] = (char)((sent + i) % 251);
        }
        n = chardev_fe_write(&u.fe, block, sizeof(block));
        sent += n;
        if (n < sizeof(block)) {
            break;
        }
        g_assert_cmpint(sent, <, 8 << 20);
    }
    g_assert_cmpint(chardev_fe_pending(&u.fe), <=, 65536);
    run_for_ms(10);
    g_assert_cmpint(u.writable, ==, 0);
    g_assert_true(
        chardev_fe_write_all(&u.fe, block, 100000 - 100000 % 16384 ? 16384 : 1)); /* replies may go beyond */
    sent += 16384;
    for (;;) {
        ssize_t n = read(fd, sink, sizeof(sink));

        if (n > 0) {
            for (ssize_t i = 0; i < n && got + (size_t)i < sent - 16384; i++) {
                g_assert_cmpint((uint8_t)sink[i], ==, (got + (size_t)i) % 251);
            }
            got += (size_t)n;
        }
        if (got == sent) {
            break;
        }
        loop_iterate(loop, false);
    }
    RUN_UNTIL(u.writable == 1);
    close(fd);
    user_end(&u);
    end();
}

static bool quit_asked;
static void quit(void *opaque)
{
    quit_asked = true;
}

static void test_mux(void)
{
    g_autofree char *path = NULL;
    User serial, monitor, third;
    Chardev *chr;
    char buf[1024];
    int fd;

    begin();
    chardev_registry_set_quit(reg, quit, NULL);
    path = g_build_filename(dir, "sock", NULL);
    chr = add("socket,id=m0,path=%s,server=on,wait=off,mux=on", path);
    g_assert_true(chardev_is_mux(chr));
    user_attach(&monitor, chr);
    monitor.fe.yields_focus = true;
    user_attach(&serial, chr); /* takes the focus from one that yields it */
    fd = connect_to(path);
    RUN_UNTIL(serial.opened && monitor.opened);
    RUN_UNTIL(serial.mux_in == 1);
    g_assert_cmpint(write(fd, "to serial\1c", 11), ==, 11);
    RUN_UNTIL(monitor.mux_in == 1 && serial.mux_out == 1);
    g_assert_cmpstr(serial.got->str, ==, "to serial");
    g_assert_cmpint(write(fd, "info\1\1x", 7), ==, 7);
    RUN_UNTIL(monitor.got->len == 6);
    g_assert_cmpstr(monitor.got->str, ==, "info\1x");
    g_assert_cmpint(write(fd, "\1c\1b\1h\1z", 8), ==, 8);
    RUN_UNTIL(serial.breaks == 1);
    RUN_UNTIL(read(fd, buf, sizeof(buf)) > 50); /* the help text */
    g_assert_false(quit_asked);
    g_assert_cmpint(write(fd, "\1x", 2), ==, 2);
    RUN_UNTIL(quit_asked);
    /* Commands work while the guest takes nothing. */
    serial.room = 0;
    quit_asked = false;
    g_assert_cmpint(write(fd, "typed ahead\1x", 13), ==, 13);
    RUN_UNTIL(quit_asked);
    g_assert_cmpstr(serial.got->str, ==, "to serial");
    home_lock(&serial.lock);
    serial.room = 100;
    chardev_fe_accept_input(&serial.fe);
    home_unlock(&serial.lock);
    RUN_UNTIL(serial.got->len == 20);
    chardev_fe_write(&serial.fe, "A", 1);
    chardev_fe_write(&monitor.fe, "B", 1);
    memset(buf, 0, sizeof(buf));
    run_for_ms(5);
    g_assert_cmpint(read(fd, buf, sizeof(buf)), >=, 2);
    g_assert_nonnull(strstr(buf, "AB"));
    user_attach(&third, chr);
    user_end(&third);
    close(fd);
    RUN_UNTIL(serial.closed && monitor.closed);
    user_end(&serial);
    user_end(&monitor);
    end();
}

/* As chardev-add does it. */
static Chardev *add_qmp(const char *id, const char *json, GError **error)
{
    json_object *j = json_tokener_parse(json);
    g_autoptr(Visitor) v = visitor_new_input(j, false);
    g_autoptr(QapiChardevBackend) backend = NULL;
    Chardev *chr = NULL;

    g_assert_nonnull(j);
    if (qapi_visit_ChardevBackend(v, "backend", &backend, error)) {
        chr = chardev_add(reg, id, backend, error);
    }
    json_object_put(j);
    return chr;
}

static void test_pty(void)
{
    g_autoptr(GError) error = NULL;
    const char *pty;
    struct termios t;
    Chardev *chr;
    char buf[32] = { 0 };
    User u;
    int fd;

    begin();
    chr = add_qmp("p0", "{'type':'pty','data':{}}", &error);
    g_assert_no_error(error);
    pty = chardev_pty_name(chr);
    g_assert_true(g_str_has_prefix(pty, "/dev/pts/"));
    user_attach(&u, chr);
    run_for_ms(20);
    g_assert_cmpint(u.opened, ==, 0);
    g_assert_cmpint(chardev_fe_write(&u.fe, "nobody\n", 7), ==, 7);
    fd = open(pty, O_RDWR | O_NOCTTY | O_NONBLOCK);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(tcgetattr(fd, &t), ==, 0);
    g_assert_cmpint(t.c_lflag & (ECHO | ICANON), ==, 0);
    RUN_UNTIL(u.opened == 1);
    g_assert_cmpint(write(fd, "ls\n", 3), ==, 3);
    RUN_UNTIL(u.got->len == 3);
    g_assert_cmpint(chardev_fe_write(&u.fe, "a\nb", 3), ==, 3);
    g_assert_cmpint(read(fd, buf, sizeof(buf)), ==, 3);
    g_assert_cmpstr(buf, ==, "a\nb");
    close(fd);
    RUN_UNTIL(u.closed == 1);
    fd = open(pty, O_RDWR | O_NOCTTY | O_NONBLOCK);
    RUN_UNTIL(u.opened == 2);
    close(fd);
    user_end(&u);
    end();
}

static void test_reconnect(void)
{
    g_autofree char *path = NULL;
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    User u;
    int server, fd;

    begin();
    path = g_build_filename(dir, "late", NULL);
    user_attach(&u, add("socket,id=c0,path=%s,reconnect=1", path));
    run_for_ms(10);
    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    g_assert_cmpint(bind(server, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    g_assert_cmpint(listen(server, 1), ==, 0);
    RUN_UNTIL(u.opened == 1);
    fd = accept(server, NULL, NULL);
    g_assert_cmpint(write(fd, "x", 1), ==, 1);
    RUN_UNTIL(u.got->len == 1);
    close(fd);
    RUN_UNTIL(u.closed == 1);
    close(server);
    user_end(&u);
    end();
}

static void test_ringbuf_and_query(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    json_object *list;
    size_t n;
    User u;

    begin();
    user_attach(&u, add("ringbuf,id=r0,size=8"));
    add("null,id=n0");
    chardev_fe_write(&u.fe, "0123456789", 10);
    text = chardev_ringbuf_read(reg, "r0", 100, &n, &error);
    g_assert_cmpstr(text, ==, "23456789");
    chardev_fe_set_open(&u.fe, true);
    list = chardev_query(reg);
    g_assert_cmpstr(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN), ==,
                    "[{\"frontend-open\":true,\"filename\":\"ringbuf\",\"label\":\"r0\"},"
                    "{\"frontend-open\":false,\"filename\":\"null\",\"label\":\"n0\"}]");
    json_object_put(list);
    g_assert_false(chardev_remove(reg, "r0", &error));
    g_clear_error(&error);
    g_assert_true(chardev_remove(reg, "n0", &error));
    user_end(&u);
    end();
}

/* What the error must say, its hint included. */
static void expect_error(GError **error, const char *part)
{
    g_assert_error(*error, RHEA_ERROR, ERROR_CLASS_GENERIC);
    if (!strstr((*error)->message, part)) {
        g_error("'%s' is not in: %s", part, (*error)->message);
    }
    g_clear_error(error);
}

static void test_errors(void)
{
    static const struct {
        const char *text, *part;
    } wrong[] = {
        { "stdoi,id=x", "Did you mean 'stdio'" },
        { "null", "'id'" },
        { "id=x", "'backend' is missing" },
        { "null,id=1x", "1x" },
        { "file,id=x", "'path' is missing" },
        { "file,id=x,path=/nonexistent/dir/file", "/nonexistent/dir/file" },
        { "file,id=x,path=/dev/null,logfile=/nonexistent/log", "/nonexistent/log" },
        { "socket,id=x", "'path'" },
        { "socket,id=x,path=/a,port=1", "one of" },
        { "socket,id=x,host=h", "'port' is missing" },
        { "socket,id=x,port=99,to=98,server=on", "'to'" },
        { "socket,id=x,path=/a,server=on,telnet=on", "telnet" },
        { "socket,id=x,path=/a,wait=on", "'wait'" },
        { "socket,id=x,path=/a,reconnect=-1", "'reconnect'" },
        { "socket,id=x,path=/nonexistent/sock", "/nonexistent/sock" },
        { "socket,id=x,fd=77", "77" },
        { "socket,id=x,path=/tmp/a,server=perhaps", "'server' expects 'on' or 'off'" },
        { "ringbuf,id=x,size=3", "power of two" },
        { "null,id=x,paht=1", "'paht' is unexpected" },
        { "pty,id=x,paht=1", "Did you mean 'path'" },
        { "{\"backend\":\"null\",\"id\":5}", "'id', expected: string" },
        { "{\"backend\":\"ringbuf\",\"id\":\"x\",\"size\":\"big\"}", "'size', expected" },
        { "{\"backend\":\"socket\",\"id\":\"x\",\"path\":\"/a\",\"sevrer\":true}", "Did you mean 'server'" },
    };
    static const struct {
        const char *json, *part;
    } wrong_qmp[] = {
        { "{'type':'soket','data':{}}", "Did you mean 'socket'" },
        { "{'type':'pty'}", "'backend.data' is missing" },
        { "{'type':'socket','data':{'addr':{'type':'unix','data':{}}}}",
          "'backend.data.addr.data.path' is missing" },
        { "{'type':'ringbuf','data':{'size':true}}", "'backend.data.size', expected" },
        { "{'type':'null','data':{'logfil':'x'}}", "Did you mean 'logfile'" },
        { "{'type':'mux','data':{'chardev':'nobody'}}", "nobody" },
    };
    GError *error = NULL;

    begin();
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_assert_null(chardev_add_text(reg, wrong[i].text, &error));
        expect_error(&error, wrong[i].part);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(wrong_qmp); i++) {
        g_assert_null(add_qmp("x", wrong_qmp[i].json, &error));
        expect_error(&error, wrong_qmp[i].part);
    }
    end();
}

/* The flat form, its JSON, and chardev-add's nested form make the same. */
static void test_forms(void)
{
    static const char expected[] = "unix:%s/s,server=on";
    const char *texts[] = {
        "socket,id=c,path=%s/s,server,nowait",
        "{\"backend\":\"socket\",\"id\":\"c\",\"path\":\"%s/s\",\"server\":true,\"wait\":false}",
    };
    g_autoptr(GError) error = NULL;
    g_autofree char *nested = NULL, *name = NULL;

    begin();
    name = g_strdup_printf(expected, dir);
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autofree char *text = g_strdup_printf(texts[i], dir);
        g_autofree char *got = NULL;

        Chardev *chr = chardev_add_text(reg, text, &error);
        g_assert_no_error(error);
        got = chardev_filename(chr);
        g_assert_nonnull(strstr(got, name));
        g_assert_true(chardev_remove(reg, "c", &error));
    }
    /* There, a server is the default, and nobody waits for its client. */
    nested = g_strdup_printf("{'type':'socket','data':{'addr':{'type':'unix','data':{'path':'%s/s'}}}}", dir);
    g_autofree char *got = chardev_filename(add_qmp("c", nested, &error));
    g_assert_nonnull(strstr(got, name));
    /* tty and memory are other names; sizes have suffixes. */
    g_assert_nonnull(chardev_add_text(reg, "memory,id=m,size=4k,logfile=/dev/null,logappend=on", &error));
    g_assert_nonnull(chardev_add_text(reg, "tty,id=t,path=/dev/null", &error));
    /* A mux of one's own on a chardev that stays there. */
    g_assert_nonnull(add_qmp("x", "{'type':'mux','data':{'chardev':'m'}}", &error));
    g_assert_no_error(error);
    g_assert_false(chardev_remove(reg, "m", &error));
    g_clear_error(&error);
    g_assert_true(chardev_remove(reg, "x", &error));
    g_assert_true(chardev_remove(reg, "m", &error));
    end();
}

/* A server that may choose takes the next port where one is in use. */
static void test_port_range(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *first = NULL, *text = NULL, *second = NULL;
    Chardev *chr;
    int port;

    begin();
    chr = chardev_add_text(reg, "socket,id=a,host=127.0.0.1,port=0,server=on,wait=off", &error);
    g_assert_no_error(error);
    first = chardev_filename(chr);
    port = atoi(strrchr(strchr(first, '1'), ':') + 1);
    text = g_strdup_printf("socket,id=b,host=127.0.0.1,port=%d,to=%d,server=on,wait=off", port,
                           MIN(port + 20, 65535));
    chr = chardev_add_text(reg, text, &error);
    g_assert_no_error(error);
    second = chardev_filename(chr);
    g_assert_cmpint(atoi(strrchr(strchr(second, '1'), ':') + 1), >, port);
    end();
}

static void test_legacy(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    bool monitor;
    Chardev *chr;

    begin();
    chr = chardev_add_legacy(reg, "serial0", "null", &monitor, &error);
    g_assert_no_error(error);
    g_assert_nonnull(chr);
    g_assert_false(monitor);
    g_assert_null(chardev_add_legacy(reg, "serial1", "none", NULL, &error));
    g_assert_no_error(error);
    text = g_strdup_printf("mon:unix:%s/s,server=on,wait=off", dir);
    chr = chardev_add_legacy(reg, "serial2", text, &monitor, &error);
    g_assert_no_error(error);
    g_assert_true(monitor);
    g_assert_true(chardev_is_mux(chr));
    g_assert_true(chardev_add_legacy(reg, "z", "chardev:serial2", NULL, &error) == chr);
    chr = chardev_add_legacy(reg, "serial3", "tcp:127.0.0.1:0,server,nowait", NULL, &error);
    g_assert_no_error(error);
    g_assert_nonnull(chr);
    g_assert_null(chardev_add_legacy(reg, "bad", "vc:80x25", NULL, &error));
    g_assert_error(error, RHEA_ERROR, ERROR_CLASS_GENERIC);
    end();
}

typedef struct Writer {
    User *u;
    size_t total;
} Writer;

static gpointer write_much(gpointer p)
{
    Writer *w = p;

    for (size_t sent = 0; sent < w->total;) {
        static const char line[] = "0123456789abcdef";
        size_t n;

        home_lock(&w->u->lock);
        n = chardev_fe_write(&w->u->fe, line + sent % 16, 16 - sent % 16);
        home_unlock(&w->u->lock);
        if (!n) {
            g_usleep(50);
        }
        sent += n;
    }
    return NULL;
}

/* A vCPU's thread writes while the loop's reads and flushes. */
static void test_threads(void)
{
    g_autofree char *path = NULL;
    static char sink[65536];
    size_t got = 0;
    GThread *thread;
    User u;
    Writer w = { .u = &u, .total = 1 << 20 };
    int fd;

    begin();
    path = g_build_filename(dir, "sock", NULL);
    user_attach(&u, add("socket,id=s0,path=%s,server=on,wait=off", path));
    fd = connect_to(path);
    RUN_UNTIL(u.opened);
    thread = g_thread_new("vcpu", write_much, &w);
    while (got < w.total) {
        ssize_t n = read(fd, sink, sizeof(sink));

        for (ssize_t i = 0; i < n; i++) {
            g_assert_true(sink[i] == "0123456789abcdef"[(got + (size_t)i) % 16]);
        }
        got += n > 0 ? (size_t)n : 0;
        if (got % 3 == 0 && write(fd, "x", 1) == 1) {
            loop_iterate(loop, false);
        }
        loop_iterate(loop, false);
    }
    g_thread_join(thread);
    close(fd);
    user_end(&u);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/chardev/file", test_file);
    g_test_add_func("/chardev/socket", test_socket);
    g_test_add_func("/chardev/flow-in", test_flow_in);
    g_test_add_func("/chardev/flow-out", test_flow_out);
    g_test_add_func("/chardev/mux", test_mux);
    g_test_add_func("/chardev/pty", test_pty);
    g_test_add_func("/chardev/reconnect", test_reconnect);
    g_test_add_func("/chardev/ringbuf", test_ringbuf_and_query);
    g_test_add_func("/chardev/errors", test_errors);
    g_test_add_func("/chardev/forms", test_forms);
    g_test_add_func("/chardev/port-range", test_port_range);
    g_test_add_func("/chardev/legacy", test_legacy);
    g_test_add_func("/chardev/threads", test_threads);
    return g_test_run();
}
