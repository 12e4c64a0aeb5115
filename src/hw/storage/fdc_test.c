/* The floppy controller with a disk of 1.44 MB: registers, transfers by DMA and by the processor, formats,
 * errors, state. SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "block/block.h"
#include "hw/isa/i8257.h"
#include "hw/isa/isa.h"
#include "hw/storage/fdc.h"
#include "vmstate/vmstate.h"

#include <stdarg.h>
#include <unistd.h>

enum { DOR = 0x3f2, MSR = 0x3f4, FIFO = 0x3f5, DIR_PORT = 0x3f7 };
enum { RUN = 0x0c }; /* out of reset, with interrupts and DMA */
#define BYTES  (80u * 2 * 18 * 512)
#define MEMORY 0x10000u

typedef struct Bench {
    TestBoard *b;
    Device *fdc, *floppy;
    Bus *isa;
    BlockRegistry *blocks;
    char *path;
    uint8_t result[16];
    unsigned results;
} Bench;

static uint8_t content(uint32_t at)
{
    return (uint8_t)(at / 512 * 7 + at);
}

static void bench_open(Bench *n, uint32_t bytes, const char *options)
{
    GError *error = NULL;
    memset(n, 0, sizeof(*n));
    n->b = test_board_new();
    n->path = g_strdup_printf("%s/rhea-fdc-%d", g_get_tmp_dir(), (int)getpid());
    g_autofree uint8_t *data = g_malloc(bytes);
    for (uint32_t i = 0; i < bytes; i++) {
        data[i] = content(i);
    }
    g_assert_true(g_file_set_contents(n->path, (const char *)data, bytes, NULL));
    n->blocks = block_registry_new(n->b->loop, NULL);
    block_property_set_registry(n->blocks);
    g_autofree char *node = g_strdup_printf("driver=file,node-name=disk,filename=%s%s", n->path, options);
    blockdev_add_text(n->blocks, node, &error);
    g_assert_no_error(error);
    n->isa = isa_bus_new(NULL, &n->b->env);
    test_board_add(n->b, TYPE_I8257, n->isa, NULL);
    n->fdc = test_board_add(n->b, TYPE_ISA_FDC, n->isa, NULL);
    n->floppy = device_new_unattached(n->b->root, TYPE_FLOPPY, NULL);
    object_property_parse(OBJECT(n->floppy), "drive", "disk", &error);
    g_assert_no_error(error);
}

static void bench_new(Bench *n)
{
    GError *error = NULL;
    bench_open(n, BYTES, "");
    device_realize(n->floppy, n->fdc->child_buses->pdata[0], NULL, &error);
    g_assert_no_error(error);
    test_outb(n->b, DIR_PORT, 0); /* 500 kbit/s */
}

static void bench_free(Bench *n)
{
    device_unrealize_all(n->b->root);
    block_property_set_registry(NULL);
    block_registry_free(n->blocks);
    test_board_free(n->b);
    unlink(n->path);
    g_free(n->path);
}

static void settle(Bench *n)
{
    for (int i = 0; i < 2000; i++) {
        if (!loop_iterate(n->b->loop, false)) {
            if ((test_inb(n->b, MSR) & 0x90) != 0x10) {
                return;
            }
            g_usleep(100);
        }
    }
}

static void put(Bench *n, uint8_t byte)
{
    g_assert_cmphex(test_inb(n->b, MSR) & 0xc0, ==, 0x80);
    test_outb(n->b, FIFO, byte);
}

static void fetch_results(Bench *n)
{
    n->results = 0;
    while ((test_inb(n->b, MSR) & 0xf0) == 0xd0) {
        g_assert_cmpuint(n->results, <, sizeof(n->result));
        n->result[n->results++] = test_inb(n->b, FIFO);
    }
}

/* Bytes of a command up to -1; waits for its results. */
static void command(Bench *n, ...)
{
    va_list bytes;
    va_start(bytes, n);
    for (int byte; (byte = va_arg(bytes, int)) >= 0;) {
        put(n, (uint8_t)byte);
    }
    va_end(bytes);
    settle(n);
    fetch_results(n);
}

/* Channel 2 of the DMA controller; mode 46h writes memory, 4ah reads it. */
static void program_dma(Bench *n, uint8_t mode, uint32_t count)
{
    test_outb(n->b, 0x0a, 6);
    test_outb(n->b, 0x0c, 0);
    test_outb(n->b, 0x0b, mode);
    test_outb(n->b, 0x04, (uint8_t)MEMORY);
    test_outb(n->b, 0x04, (uint8_t)(MEMORY >> 8));
    test_outb(n->b, 0x81, (uint8_t)(MEMORY >> 16));
    test_outb(n->b, 0x05, (uint8_t)(count - 1));
    test_outb(n->b, 0x05, (uint8_t)((count - 1) >> 8));
    test_outb(n->b, 0x0a, 2);
}

static void transfer(Bench *n, uint8_t what, unsigned c, unsigned h, unsigned r, unsigned eot)
{
    command(n, what, (int)(h << 2), (int)c, (int)h, (int)r, 2, (int)eot, 0x1b, 0xff, -1);
}

static void sense(Bench *n)
{
    command(n, 0x08, -1);
}

static void seek(Bench *n, unsigned cylinder)
{
    command(n, 0x0f, 0, (int)cylinder, -1);
    g_assert_true(n->b->isa[6].level);
    sense(n);
    g_assert_false(n->b->isa[6].level);
    g_assert_cmphex(n->result[0], ==, 0x20);
    g_assert_cmpuint(n->result[1], ==, cylinder);
}

static void expect_result(Bench *n, unsigned st0, unsigned st1, unsigned c, unsigned h, unsigned r)
{
    g_assert_cmpuint(n->results, ==, 7);
    g_assert_cmphex(n->result[0], ==, st0);
    g_assert_cmphex(n->result[1], ==, st1);
    g_assert_cmpuint(n->result[3], ==, c);
    g_assert_cmpuint(n->result[4], ==, h);
    g_assert_cmpuint(n->result[5], ==, r);
    g_assert_cmpuint(n->result[6], ==, 2);
}

static uint32_t place(unsigned c, unsigned h, unsigned r)
{
    return ((c * 2 + h) * 18 + r - 1) * 512;
}

static void expect_memory(Bench *n, uint32_t from, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        g_assert_cmphex(test_read(n->b, MEMORY + i, 1), ==, content(from + i));
    }
}

static void test_registers(void)
{
    Bench n;
    bench_new(&n);
    test_outb(n.b, DOR, 0);
    test_outb(n.b, DOR, RUN | 0x10);
    g_assert_true(n.b->isa[6].level); /* the reset's polling */
    for (unsigned i = 0; i < 4; i++) {
        sense(&n);
        g_assert_cmpuint(n.results, ==, 2);
        g_assert_cmphex(n.result[0], ==, 0xc0 | i);
        g_assert_false(n.b->isa[6].level);
    }
    sense(&n);
    g_assert_cmpuint(n.results, ==, 1);
    g_assert_cmphex(n.result[0], ==, 0x80);
    command(&n, 0x10, -1);
    g_assert_cmphex(n.result[0], ==, 0x90);
    command(&n, 0x18, -1);
    g_assert_cmphex(n.result[0], ==, 0x41);
    command(&n, 0x1f, -1); /* there is no such command */
    g_assert_cmpuint(n.results, ==, 1);
    g_assert_cmphex(n.result[0], ==, 0x80);
    command(&n, 0x03, 0xaf, 0x02, -1);
    command(&n, 0x13, 0, 0x57, 0x21, -1);
    command(&n, 0x94, -1);
    g_assert_cmphex(n.result[0], ==, 0x10);
    test_outb(n.b, MSR, 0x80); /* a reset by software, which LOCK outlives */
    command(&n, 0x0e, -1);
    g_assert_cmpuint(n.results, ==, 10);
    g_assert_cmphex(n.result[4], ==, 0xaf);
    g_assert_cmphex(n.result[7], ==, 0x80);
    g_assert_cmphex(n.result[8], ==, 0x57);
    g_assert_cmphex(n.result[9], ==, 0x21);
    command(&n, 0x04, 0, -1);
    g_assert_cmphex(n.result[0], ==, 0x38); /* ready, on track 0, two-sided */
    command(&n, 0x4e, 0, 0, 1, 2, 3, 4, 0x11, 0x22, 9, 0x81, 0x33, 0x44, 0, 0, 0, 0, -1);
    command(&n, 0x2e, -1);
    g_assert_cmpuint(n.results, ==, 16);
    g_assert_cmphex(n.result[2], ==, 1);
    g_assert_cmphex(n.result[6], ==, 0x11);
    g_assert_cmphex(n.result[11], ==, 0x44);
    g_assert_cmphex(isa_fdc_cmos_types(n.fdc), ==, 0x40);
    test_outb(n.b, DOR, 0);
    g_assert_cmphex(test_inb(n.b, MSR), ==, 0);
    bench_free(&n);
}

static void test_reading(void)
{
    Bench n;
    bench_new(&n);
    program_dma(&n, 0x46, 512);
    transfer(&n, 0x46, 0, 0, 1, 18);
    expect_result(&n, 0, 0, 0, 0, 2);
    expect_memory(&n, 0, 512);
    seek(&n, 40);
    program_dma(&n, 0x46, 36 * 512); /* both sides of a track */
    transfer(&n, 0xc6, 40, 0, 1, 18);
    g_assert_true(n.result[0] == 0x04);
    g_assert_cmpuint(n.result[3], ==, 41);
    g_assert_cmpuint(n.result[4], ==, 0);
    g_assert_cmpuint(n.result[5], ==, 1);
    expect_memory(&n, place(40, 0, 1), 36 * 512);
    program_dma(&n, 0x46, 700); /* ends in the middle of a sector */
    transfer(&n, 0x46, 40, 1, 5, 18);
    g_assert_cmphex(n.result[0], ==, 0x04);
    g_assert_cmpuint(n.result[5], ==, 7);
    expect_memory(&n, place(40, 1, 5), 700);
    command(&n, 0x4a, 4, -1); /* READ ID */
    expect_result(&n, 0x04, 0, 40, 1, 1);
    program_dma(&n, 0x46, 1024); /* READ TRACK, whatever the ids say */
    command(&n, 0x42, 0, 99, 0, 9, 2, 18, 0x1b, 0xff, -1);
    g_assert_cmphex(n.result[0], ==, 0);
    expect_memory(&n, place(40, 0, 1), 1024);
    bench_free(&n);
}

static void test_writing(void)
{
    Bench n;
    g_autofree char *file = NULL;
    gsize size;
    bench_new(&n);
    seek(&n, 79);
    for (uint32_t i = 0; i < 1024; i++) {
        address_space_store(n.b->memory, MEMORY + i, 1, (uint8_t)(i * 3), MEMTXATTRS_NONE);
    }
    program_dma(&n, 0x4a, 1000); /* the rest of the second sector is zero */
    transfer(&n, 0x45, 79, 0, 17, 18);
    expect_result(&n, 0, 0, 80, 0, 1);
    g_assert_true(g_file_get_contents(n.path, &file, &size, NULL));
    for (uint32_t i = 0; i < 1024; i++) {
        g_assert_cmphex((uint8_t)file[place(79, 0, 17) + i], ==, i < 1000 ? (uint8_t)(i * 3) : 0);
    }
    g_assert_cmphex((uint8_t)file[place(79, 0, 17) - 1], ==, content(place(79, 0, 17) - 1));
    /* FORMAT TRACK in an order of its own. */
    for (uint32_t i = 0; i < 18; i++) {
        const uint8_t id[4] = { 79, 1, (uint8_t)(i * 5 % 18 + 1), 2 };
        address_space_write(n.b->memory, MEMORY + 4 * i, MEMTXATTRS_NONE, id, 4);
    }
    program_dma(&n, 0x4a, 18 * 4);
    command(&n, 0x4d, 4, 2, 18, 0x50, 0xf6, -1);
    g_assert_cmphex(n.result[0], ==, 0x04);
    g_assert_cmphex(n.result[1], ==, 0);
    g_free(g_steal_pointer(&file));
    g_assert_true(g_file_get_contents(n.path, &file, &size, NULL));
    g_assert_cmpuint(size, ==, BYTES);
    for (uint32_t i = 0; i < 18 * 512; i++) {
        g_assert_cmphex((uint8_t)file[place(79, 1, 1) + i], ==, 0xf6);
    }
    bench_free(&n);
}

/* Without DMA: the processor is told of each sector, and moves it. */
static void test_by_processor(void)
{
    Bench n;
    bench_new(&n);
    command(&n, 0x03, 0xaf, 0x03, -1); /* non-DMA */
    sense(&n);
    transfer(&n, 0x46, 0, 0, 17, 18);
    for (uint32_t i = 0; i < 1024; i++) {
        if (i % 512 == 0) {
            settle(&n);
            g_assert_true(n.b->isa[6].level);
        }
        g_assert_cmphex(test_inb(n.b, MSR), ==, 0xf0);
        g_assert_cmphex(test_inb(n.b, FIFO), ==, content(place(0, 0, 17) + i));
    }
    settle(&n);
    fetch_results(&n);
    expect_result(&n, 0x40, 0x80, 1, 0, 1); /* nobody says that it was the last: "end of cylinder" */
    transfer(&n, 0x45, 0, 0, 18, 18);
    for (uint32_t i = 0; i < 512; i++) {
        g_assert_cmphex(test_inb(n.b, MSR), ==, 0xb0);
        test_outb(n.b, FIFO, (uint8_t)~i);
    }
    settle(&n);
    fetch_results(&n);
    g_assert_cmphex(n.result[0], ==, 0x40);
    command(&n, 0x03, 0xaf, 0x02, -1);
    program_dma(&n, 0x46, 512);
    transfer(&n, 0x46, 0, 0, 18, 18);
    for (uint32_t i = 0; i < 512; i++) {
        g_assert_cmphex(test_read(n.b, MEMORY + i, 1), ==, (uint8_t)~i);
    }
    bench_free(&n);
}

static void test_errors(void)
{
    Bench n;
    bench_new(&n);
    program_dma(&n, 0x46, 512);
    transfer(&n, 0x46, 0, 0, 19, 19); /* no such sector */
    expect_result(&n, 0x40, 0x04, 0, 0, 19);
    transfer(&n, 0x46, 3, 0, 1, 18); /* another cylinder than the heads are on */
    g_assert_cmphex(n.result[1], ==, 0x04);
    g_assert_cmphex(n.result[2], ==, 0x10);
    command(&n, 0x46, 0, 0, 0, 1, 3, 18, 0x1b, 0xff, -1); /* sectors of 1024 bytes */
    g_assert_cmphex(n.result[1], ==, 0x04);
    command(&n, 0x46, 1, 0, 0, 1, 2, 18, 0x1b, 0xff, -1); /* a drive that is not there */
    g_assert_cmphex(n.result[0], ==, 0x41);
    g_assert_cmphex(n.result[1], ==, 0x01);
    test_outb(n.b, DIR_PORT, 2); /* 250 kbit/s */
    transfer(&n, 0x46, 0, 0, 1, 18);
    g_assert_cmphex(n.result[1], ==, 0x01);
    test_outb(n.b, DIR_PORT, 0);
    program_dma(&n, 0x46, 1024);
    transfer(&n, 0x46, 0, 0, 18, 18); /* the cylinder ends before the transfer */
    expect_result(&n, 0x40, 0x80, 1, 0, 1);
    test_outb(n.b, 0x0a, 6); /* the channel is masked */
    transfer(&n, 0x46, 0, 0, 1, 18);
    g_assert_cmphex(n.result[1], ==, 0x10);
    command(&n, 0x07, 1, -1); /* no drive, no track 0 */
    sense(&n);
    g_assert_cmphex(n.result[0], ==, 0x71);
    seek(&n, 200); /* further than there are tracks */
    program_dma(&n, 0x46, 512);
    transfer(&n, 0x46, 200, 0, 1, 18);
    g_assert_cmphex(n.result[1], ==, 0x01);
    bench_free(&n);
}

static void test_read_only(void)
{
    Bench n;
    GError *error = NULL;
    bench_open(&n, BYTES, ",read-only=on");
    device_realize(n.floppy, n.fdc->child_buses->pdata[0], NULL, &error);
    g_assert_no_error(error);
    test_outb(n.b, DIR_PORT, 0);
    program_dma(&n, 0x4a, 512);
    transfer(&n, 0x45, 0, 0, 1, 18);
    g_assert_cmphex(n.result[1], ==, 0x02);
    command(&n, 0x4d, 0, 2, 18, 0x50, 0xf6, -1);
    g_assert_cmphex(n.result[1], ==, 0x02);
    command(&n, 0x04, 0, -1);
    g_assert_cmphex(n.result[0] & 0x40, ==, 0x40);
    bench_free(&n);
}

/* The disk change line: until the heads move with a disk in the drive. */
static void test_changed(void)
{
    Bench n;
    bench_new(&n);
    g_assert_cmphex(test_inb(n.b, DIR_PORT) & 0x80, ==, 0x80);
    command(&n, 0x07, 0, -1);
    g_assert_cmphex(test_inb(n.b, DIR_PORT) & 0x80, ==, 0x80); /* they were on track 0 */
    sense(&n);
    seek(&n, 1);
    g_assert_cmphex(test_inb(n.b, DIR_PORT) & 0x80, ==, 0);
    bench_free(&n);
}

static void test_formats(void)
{
    static const struct {
        uint32_t bytes;
        uint8_t cmos;
        const char *type;
    } good[] = { { 1474560, 4, "auto" }, { 2949120, 5, "auto" }, { 1228800, 2, "auto" },
                 { 737280, 4, "auto" },  { 1474560, 5, "288" },  { 368640, 2, "120" } };
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        Bench n;
        GError *error = NULL;
        bench_open(&n, good[i].bytes, "");
        object_property_parse(OBJECT(n.floppy), "drive-type", good[i].type, &error);
        device_realize(n.floppy, n.fdc->child_buses->pdata[0], NULL, &error);
        g_assert_no_error(error);
        g_assert_cmphex(isa_fdc_cmos_types(n.fdc), ==, good[i].cmos << 4);
        bench_free(&n);
    }
    static const struct {
        uint32_t bytes;
        const char *type;
    } bad[] = { { 1474560 + 512, "auto" }, { 512, "auto" }, { 2949120, "144" }, { 1474560, "none" } };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        Bench n;
        GError *error = NULL;
        bench_open(&n, bad[i].bytes, "");
        g_assert_true(object_property_parse(OBJECT(n.floppy), "drive-type", bad[i].type, &error));
        g_assert_false(device_realize(n.floppy, n.fdc->child_buses->pdata[0], NULL, &error));
        g_clear_error(&error);
        bench_free(&n);
    }
}

/* In the middle of a command: its state goes into a second controller, which ends it. */
static void test_state(void)
{
    Bench n, m;
    GError *error = NULL;
    bench_new(&n);
    command(&n, 0x03, 0xaf, 0x03, -1);
    transfer(&n, 0x46, 0, 0, 3, 18);
    for (uint32_t i = 0; i < 100; i++) {
        g_assert_cmphex(test_inb(n.b, FIFO), ==, content(place(0, 0, 3) + i));
    }
    g_autoptr(GByteArray) state = vmstate_save(DEVICE_GET_CLASS(n.fdc)->vmstate, n.fdc, &error);
    g_assert_no_error(error);
    bench_free(&n);
    bench_new(&m);
    g_assert_true(vmstate_load(DEVICE_GET_CLASS(m.fdc)->vmstate, m.fdc, state->data, state->len, &error));
    for (uint32_t i = 100; i < 512; i++) {
        g_assert_cmphex(test_inb(m.b, FIFO), ==, content(place(0, 0, 3) + i));
    }
    settle(&m);
    g_assert_cmphex(test_inb(m.b, FIFO), ==, content(place(0, 0, 4)));
    /* Impossible ones are refused. Each field is told by its name and is a byte or two behind it. */
    static const char *const fields[] = { "phase", "drive", "head", "pos" };
    for (size_t i = 0; i < G_N_ELEMENTS(fields); i++) {
        g_autoptr(GByteArray) broken = vmstate_save(DEVICE_GET_CLASS(m.fdc)->vmstate, m.fdc, &error);
        bool refused = false;
        for (guint at = 0; !refused && at + strlen(fields[i]) < broken->len; at++) {
            if (memcmp(broken->data + at, fields[i], strlen(fields[i])) == 0) {
                for (guint k = at + (guint)strlen(fields[i]); k < MIN(at + 24, broken->len) && !refused;
                     k++) {
                    uint8_t good = broken->data[k];
                    broken->data[k] = 0xff;
                    refused = !vmstate_load(DEVICE_GET_CLASS(m.fdc)->vmstate, m.fdc, broken->data,
                                            broken->len, NULL);
                    broken->data[k] = good;
                }
            }
        }
        g_assert_true(refused);
        g_assert_true(vmstate_load(DEVICE_GET_CLASS(m.fdc)->vmstate, m.fdc, state->data, state->len, &error));
    }
    bench_free(&m);
}

/* A reset in the middle of a transfer: what comes from the disk then is nobody's. */
static void test_reset(void)
{
    Bench n;
    bench_new(&n);
    program_dma(&n, 0x46, 18 * 512);
    for (unsigned i = 0; i < 9; i++) {
        static const uint8_t bytes[9] = { 0x46, 0, 0, 0, 1, 2, 18, 0x1b, 0xff };
        put(&n, bytes[i]);
    }
    loop_iterate(n.b->loop, false);
    test_outb(n.b, DOR, 0);
    test_outb(n.b, DOR, RUN);
    for (int i = 0; i < 50; i++) {
        if (!loop_iterate(n.b->loop, false)) {
            g_usleep(100);
        }
    }
    sense(&n);
    g_assert_cmphex(n.result[0], ==, 0xc0);
    program_dma(&n, 0x46, 512);
    transfer(&n, 0x46, 0, 0, 2, 18);
    g_assert_cmphex(n.result[0], ==, 0);
    expect_memory(&n, 512, 512);
    bench_free(&n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fdc/registers", test_registers);
    g_test_add_func("/fdc/read", test_reading);
    g_test_add_func("/fdc/write", test_writing);
    g_test_add_func("/fdc/by-processor", test_by_processor);
    g_test_add_func("/fdc/errors", test_errors);
    g_test_add_func("/fdc/read-only", test_read_only);
    g_test_add_func("/fdc/changed", test_changed);
    g_test_add_func("/fdc/formats", test_formats);
    g_test_add_func("/fdc/state", test_state);
    g_test_add_func("/fdc/reset", test_reset);
    return g_test_run();
}
