/* The parallel port with a chardev in memory as its printer. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "chardev/chardev.h"
#include "hw/isa/isa.h"
#include "vmstate/vmstate.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DATA = 0x378, STATUS, CONTROL };
enum { STROBE = 1, NOT_INIT = 4, SELECT = 8, IRQ = 16 };
#define IDLE (NOT_INIT | SELECT)

typedef struct Fixture {
    TestBoard *board;
    ChardevRegistry *chardevs;
    Bus *isa;
    Device *port;
} Fixture;

static void setup(Fixture *f, const char *chardev)
{
    GError *error = NULL;
    f->board = test_board_new();
    f->chardevs = chardev_registry_new(f->board->loop, NULL);
    chardev_property_set_registry(f->chardevs);
    g_assert_nonnull(chardev_add_text(f->chardevs, chardev, &error));
    g_assert_no_error(error);
    f->isa = isa_bus_new(NULL, &f->board->env);
    f->port = test_board_add(f->board, "isa-parallel", f->isa, "chardev", "c", NULL);
}

static void teardown(Fixture *f)
{
    device_unrealize_all(f->board->root);
    chardev_property_set_registry(NULL);
    chardev_registry_free(f->chardevs);
    test_board_free(f->board);
}

static void print(Fixture *f, uint8_t byte, uint8_t control)
{
    test_outb(f->board, DATA, byte);
    test_outb(f->board, CONTROL, control | STROBE);
    test_outb(f->board, CONTROL, control);
}

static void expect_output(Fixture *f, const char *want)
{
    size_t count = 0;
    GError *error = NULL;
    while (loop_iterate(f->board->loop, false)) {}
    g_autofree char *text = chardev_ringbuf_read(f->chardevs, "c", 1024, &count, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(text, count, want, strlen(want));
}

static void test_registers(void)
{
    Fixture f;
    setup(&f, "ringbuf,id=c,size=1024");
    g_assert_cmphex(test_inb(f.board, STATUS), ==, 0xdf); /* not busy, selected, with paper, no fault */
    g_assert_cmphex(test_inb(f.board, CONTROL), ==, 0xec);
    test_outb(f.board, DATA, 0xa5); /* what drivers look for a port by */
    g_assert_cmphex(test_inb(f.board, DATA), ==, 0xa5);
    test_outb(f.board, CONTROL, 0xff);
    g_assert_cmphex(test_inb(f.board, CONTROL), ==, 0xff);
    test_outb(f.board, CONTROL, 0);
    g_assert_cmphex(test_inb(f.board, CONTROL), ==, 0xe0);
    g_assert_cmphex(test_inb(f.board, 0x37b), ==, 0xff); /* no EPP registers */
    teardown(&f);
}

static void test_print(void)
{
    Fixture f;
    setup(&f, "ringbuf,id=c,size=1024");
    print(&f, 'A', IDLE);
    g_assert_cmpuint(f.board->isa[7].rises, ==, 0);
    print(&f, 'B', IDLE | IRQ);
    g_assert_true(f.board->isa[7].level);
    test_inb(f.board, STATUS);
    g_assert_false(f.board->isa[7].level);
    test_outb(f.board, CONTROL, IDLE | STROBE); /* a strobe that stays is one byte */
    test_outb(f.board, DATA, 'C');
    test_outb(f.board, CONTROL, IDLE | STROBE);
    expect_output(&f, "ABB");
    print(&f, 'D', IDLE | IRQ);
    device_reset(f.port);
    g_assert_false(f.board->isa[7].level);
    teardown(&f);
}

/* A host that takes nothing makes the printer busy; a byte waits, and comes out once there is room. */
static void test_busy(void)
{
    Fixture f;
    g_autofree char *path = g_strdup_printf("%s/rhea-parallel-%d", g_get_tmp_dir(), (int)getpid());
    g_autofree char *chardev = g_strdup_printf("pipe,id=c,path=%s", path);
    static uint8_t got[1 << 20];
    size_t count = 0, written = 0;
    g_autofree char *to_guest = g_strconcat(path, ".in", NULL), *from_guest = g_strconcat(path, ".out", NULL);
    g_assert_cmpint(mkfifo(to_guest, 0600), ==, 0);
    g_assert_cmpint(mkfifo(from_guest, 0600), ==, 0);
    int reader = open(from_guest, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    setup(&f, chardev);
    while (test_inb(f.board, STATUS) & 0x80) {
        print(&f, (uint8_t)written++, IDLE | IRQ);
        g_assert_cmpuint(written, <, sizeof(got));
        if (written % 4096 == 0) {
            while (loop_iterate(f.board->loop, false)) {}
        }
    }
    test_inb(f.board, STATUS);
    print(&f, 0xee, IDLE | IRQ); /* while it is busy a strobe means nothing */
    g_assert_false(f.board->isa[7].level);
    g_autoptr(GByteArray) state = vmstate_save(DEVICE_GET_CLASS(f.port)->vmstate, f.port, NULL);
    g_assert_true(vmstate_load(DEVICE_GET_CLASS(f.port)->vmstate, f.port, state->data, state->len, NULL));
    g_assert_false(test_inb(f.board, STATUS) & 0x80);
    for (int i = 0; i < 2000 && count < written; i++) {
        ssize_t n = read(reader, got + count, sizeof(got) - count);
        count += n > 0 ? (size_t)n : 0;
        if (!loop_iterate(f.board->loop, false) && n <= 0) {
            g_usleep(200);
        }
    }
    g_assert_cmpuint(count, ==, written);
    for (size_t i = 0; i < count; i++) {
        g_assert_cmphex(got[i], ==, (uint8_t)i);
    }
    g_assert_true(f.board->isa[7].level); /* acknowledged at last */
    g_assert_cmphex(test_inb(f.board, STATUS), ==, 0xdf);
    teardown(&f);
    close(reader);
    unlink(to_guest);
    unlink(from_guest);
}

static void test_places(void)
{
    Fixture f;
    g_autoptr(GError) error = NULL;
    setup(&f, "ringbuf,id=c,size=1024");
    g_assert_nonnull(chardev_add_text(f.chardevs, "null,id=n", NULL));
    test_board_add(f.board, "isa-parallel", f.isa, "chardev", "n", NULL);
    g_assert_cmphex(test_inb(f.board, 0x279), ==, 0xdf);
    Device *none = device_new_unattached(f.board->root, "isa-parallel", NULL);
    g_assert_false(device_realize(none, f.isa, NULL, &error));
    g_assert_cmpstr(error->message, ==, "Can't create parallel device, empty char device");
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/parallel/registers", test_registers);
    g_test_add_func("/parallel/print", test_print);
    g_test_add_func("/parallel/busy", test_busy);
    g_test_add_func("/parallel/places", test_places);
    return g_test_run();
}
