/* A machine's state as a stream: what was saved comes back; what differs, is cut off or changed is refused by
 * name. SPDX-License-Identifier: GPL-2.0-or-later */
#include "migration/state.h"

#include "base/crc32c.h"
#include "base/error.h"
#include "tests/machine/test_board.h"

typedef struct Pipe {
    GByteArray *bytes;
    size_t at;
} Pipe;

static bool pipe_write(void *opaque, const void *data, size_t size, GError **error)
{
    g_byte_array_append(((Pipe *)opaque)->bytes, data, (guint)size);
    return true;
}

static bool pipe_read(void *opaque, void *data, size_t size, GError **error)
{
    Pipe *p = opaque;

    if (p->bytes->len - p->at < size) {
        return error_set(error, "ends too early");
    }
    memcpy(data, p->bytes->data + p->at, size);
    p->at += size;
    return true;
}

static TestBoard *board_new(void)
{
    TestBoard *b = test_board_new();

    test_board_add(b, "isa-pit", NULL, NULL);
    test_board_add(b, "mc146818rtc", NULL, NULL);
    return b;
}

static StateMachine machine_of(TestBoard *b, GPtrArray *facts)
{
    return (StateMachine){ .root = b->root, .clocks = b->clocks, .facts = facts };
}

static GPtrArray *facts_new(const char *features)
{
    GPtrArray *facts = g_ptr_array_new_with_free_func(g_free);

    g_ptr_array_add(facts, g_strdup("type"));
    g_ptr_array_add(facts, g_strdup("test"));
    g_ptr_array_add(facts, g_strdup("cpu-features"));
    g_ptr_array_add(facts, g_strdup(features));
    return facts;
}

static GByteArray *save_board(TestBoard *b, GPtrArray *facts)
{
    StateMachine machine = machine_of(b, facts);
    Pipe p = { .bytes = g_byte_array_new() };
    StreamIo io = { .write = pipe_write, .opaque = &p };
    StateProgress progress = { 0 };
    GError *error = NULL;
    SavedState *s = state_collect(&machine, "running", &error);

    g_assert_no_error(error);
    g_assert_true(state_write(s, &io, &progress, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(progress.done, ==, progress.total);
    saved_state_free(s);
    return p.bytes;
}

static bool load_board(TestBoard *b, GPtrArray *facts, GByteArray *bytes, bool check_only, GError **error)
{
    StateMachine machine = machine_of(b, facts);
    Pipe p = { .bytes = bytes };
    StreamIo io = { .read = pipe_read, .opaque = &p };
    StateProgress progress = { 0 };
    SavedState *s = state_expect(&machine);
    bool ok =
        state_read(s, &io, &progress, check_only, error) && (check_only || state_apply(&machine, s, error));

    saved_state_free(s);
    return ok;
}

/* A board with something in memory and in a timer, saved. */
static GByteArray *sample(GPtrArray *facts)
{
    TestBoard *b = board_new();

    test_write(b, 0x3000, 8, UINT64_C(0x1122334455667788));
    test_write(b, TEST_RAM_SIZE - 8, 8, 99);
    test_outb(b, 0x43, 0x34);
    test_outb(b, 0x40, 0x10);
    test_outb(b, 0x40, 0x27);
    test_board_advance(b, 123456789);
    GByteArray *bytes = save_board(b, facts);
    test_board_free(b);
    return bytes;
}

static void test_round_trip(void)
{
    g_autoptr(GPtrArray) facts = facts_new("sse avx");
    g_autoptr(GByteArray) bytes = sample(facts);
    TestBoard *b = board_new();
    GError *error = NULL;

    g_assert_cmpuint(bytes->len, <, 3 * RAM_PAGE_SIZE); /* zero pages are left out */
    test_write(b, 0x7000, 8, 5);                        /* what the stream leaves out is zero afterwards */
    g_assert_true(load_board(b, facts, bytes, false, &error));
    g_assert_no_error(error);
    g_assert_cmphex(test_read(b, 0x3000, 8), ==, 0x1122334455667788);
    g_assert_cmpuint(test_read(b, TEST_RAM_SIZE - 8, 8), ==, 99);
    g_assert_cmpuint(test_read(b, 0x7000, 8), ==, 0);
    g_assert_cmpint(clock_now_ns(b->clocks, CLOCK_TYPE_VIRTUAL), >=, 123456789);
    /* The same machine again, but for the wall clock. */
    g_autoptr(GByteArray) again = save_board(b, facts);
    g_assert_cmpuint(again->len, ==, bytes->len);
    test_board_free(b);
}

static void refused(TestBoard *b, GPtrArray *facts, GByteArray *bytes, const char *word)
{
    GError *error = NULL;

    g_assert_false(load_board(b, facts, bytes, false, &error));
    g_assert_nonnull(error);
    if (!strstr(error->message, word)) {
        g_error("'%s' does not name '%s'", error->message, word);
    }
    g_error_free(error);
}

static void test_differences(void)
{
    g_autoptr(GPtrArray) facts = facts_new("sse avx");
    g_autoptr(GPtrArray) more = facts_new("sse avx avx2");
    g_autoptr(GPtrArray) less = facts_new("sse");
    g_autoptr(GByteArray) bytes = sample(facts);
    TestBoard *b = board_new();

    refused(b, more, bytes, "'cpu-features' differs: this machine has 'avx2'");
    refused(b, less, bytes, "'cpu-features' differs: the state has 'avx'");
    test_board_add(b, "port92", NULL, NULL);
    refused(b, facts, bytes, "(port92): the state has no such device");
    test_board_free(b);
    b = test_board_new();
    test_board_add(b, "isa-pit", NULL, NULL);
    refused(b, facts, bytes, "(mc146818rtc): the state has this device, this machine has not");
    test_board_free(b);
    b = test_board_new();
    test_board_add(b, "mc146818rtc", NULL, NULL);
    test_board_add(b, "isa-pit", NULL, NULL);
    refused(b, facts, bytes, "this machine a 'mc146818rtc'");
    test_board_free(b);
    b = board_new();
    GError *error = NULL;
    MemoryRegion extra = { 0 };
    g_assert_true(memory_region_init_ram(&extra, NULL, "extra", 4096, &error));
    refused(b, facts, bytes, "lacks block 'extra'");
    memory_region_destroy(&extra);
    test_board_free(b);
}

static void test_damage(void)
{
    g_autoptr(GPtrArray) facts = facts_new("sse avx");
    g_autoptr(GByteArray) bytes = sample(facts);
    TestBoard *b = board_new();
    guint whole = bytes->len;

    g_assert_true(load_board(b, facts, bytes, true, NULL));
    for (guint cut = 0; cut < whole; cut++) {
        bytes->len = cut;
        g_assert_false(load_board(b, facts, bytes, true, NULL));
    }
    bytes->len = whole;
    for (guint i = 0; i < whole; i++) {
        uint8_t flip = (uint8_t)(1u << i % 8);
        bytes->data[i] ^= flip;
        g_assert_false(load_board(b, facts, bytes, true, NULL));
        bytes->data[i] ^= flip;
    }
    g_assert_true(load_board(b, facts, bytes, true, NULL));
    test_board_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/migration/state/round-trip", test_round_trip);
    g_test_add_func("/migration/state/differences", test_differences);
    g_test_add_func("/migration/state/damage", test_damage);
    return g_test_run();
}
