/*
 * A saved machine as a hostile stream, down to what devices make of it: a good stream is changed where the
 * input says, its checksums are made right again, and it is loaded into a board with devices. The first byte
 * says whether checksums are mended and whether memory pages are spared. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "migration/state.h"

#include "base/crc32c.h"
#include "base/error.h"
#include "tests/machine/test_board.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADER_BYTES 24

typedef struct Pipe {
    uint8_t *bytes;
    size_t size, at;
} Pipe;

static bool pipe_write(void *opaque, const void *data, size_t size, GError **error)
{
    g_byte_array_append(opaque, data, (guint)size);
    return true;
}

static bool pipe_read(void *opaque, void *data, size_t size, GError **error)
{
    Pipe *p = opaque;

    if (p->size - p->at < size) {
        return error_set(error, "ends too early");
    }
    memcpy(data, p->bytes + p->at, size);
    p->at += size;
    return true;
}

static TestBoard *board;
static GPtrArray *facts;
static GByteArray *good;

static void prepare(void)
{
    static const char *const pairs[] = { "type", "fuzz", "cpu-features", "sse avx" };
    GError *error = NULL;
    StateProgress progress = { 0 };

    board = test_board_new();
    static const char *const types[] = { "isa-pit", "mc146818rtc", "isa-pic", "ioapic", "hpet", "i8257" };
    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        if (object_class_by_name(types[i])) {
            test_board_add(board, types[i], NULL, NULL);
        }
    }
    test_write(board, 0x3000, 8, 7);
    facts = g_ptr_array_new();
    for (size_t i = 0; i < G_N_ELEMENTS(pairs); i++) {
        g_ptr_array_add(facts, (void *)(uintptr_t)pairs[i]);
    }
    StateMachine machine = { .root = board->root, .clocks = board->clocks, .facts = facts };
    SavedState *s = state_collect(&machine, "running", &error);
    g_assert_no_error(error);
    good = g_byte_array_new();
    StreamIo io = { .write = pipe_write, .opaque = good };
    g_assert_true(state_write(s, &io, &progress, &error));
    saved_state_free(s);
}

/* Right checksums for whatever the frames are now. */
static void mend(uint8_t *bytes, size_t size)
{
    uint64_t number = 0;
    uint32_t sum = crc32c(0, bytes, HEADER_BYTES - 4);

    memcpy(bytes + HEADER_BYTES - 4, &sum, 4);
    for (size_t at = HEADER_BYTES; size - at >= 12; number++) {
        uint32_t length;
        memcpy(&length, bytes + at + 4, 4);
        if (length > size - at - 12) {
            return;
        }
        sum = crc32c(crc32c(0, &number, 8), bytes + at, 8 + (size_t)length);
        memcpy(bytes + at + 8 + length, &sum, 4);
        at += 12 + (size_t)length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!board) {
        prepare();
    }
    if (size < 1) {
        return 0;
    }
    g_autofree uint8_t *copy = NULL;
    Pipe p = { 0 };
    if (data[0] & 1) {
        copy = g_memdup2(good->data, good->len);
        p = (Pipe){ .bytes = copy, .size = good->len };
        for (size_t i = 1; i + 3 < size && i < 40; i += 4) {
            size_t at = (data[i] | data[i + 1] << 8 | (size_t)data[i + 2] << 16) % good->len;
            copy[at] = data[i + 3];
        }
        if (data[0] & 2) {
            p.size -= data[0] >> 2;
        }
        mend(copy, p.size);
    } else { /* a stream of the input's own making behind a good header */
        copy = g_malloc(HEADER_BYTES + size);
        memcpy(copy, good->data, HEADER_BYTES);
        memcpy(copy + HEADER_BYTES, data + 1, size - 1);
        p = (Pipe){ .bytes = copy, .size = HEADER_BYTES + size - 1 };
        mend(copy, p.size);
    }
    StateMachine machine = { .root = board->root, .clocks = board->clocks, .facts = facts };
    StreamIo io = { .read = pipe_read, .opaque = &p };
    StateProgress progress = { 0 };
    SavedState *s = state_expect(&machine);
    if (state_read(s, &io, &progress, false, NULL) && state_apply(&machine, s, NULL)) {
        test_board_advance(board, 50000000); /* what has come in must run, too */
    }
    device_reset_all(board->root);
    saved_state_free(s);
    return 0;
}
