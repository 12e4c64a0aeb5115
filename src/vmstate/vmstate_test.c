/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmstate/vmstate.h"

#include "base/error.h"
#include "loop/loop.h"

#include <string.h>

typedef struct Part {
    uint16_t a;
    bool b;
} Part;

typedef struct State {
    uint8_t u8;
    uint16_t u16[3];
    uint32_t u32;
    int64_t i64;
    bool flag, flags[2];
    uint8_t raw[5];
    uint8_t *bytes;
    uint32_t bytes_length;
    Part part, parts[2];
    Part *many;
    uint32_t many_count;
    Timer timer;
    char text[8];
    uint32_t extra;
    bool has_extra;
    uint32_t newer;
    int loads;
} State;

static const VmStateField part_fields[] = { VMS_UINT16(a, Part), VMS_BOOL(b, Part), VMS_END };
static const VmState part_vmstate = { .name = "part", .version = 1, .fields = part_fields };

static bool save_text(VmStateWriter *w, const void *field, GError **error)
{
    vmstate_put_u64(w, strlen(field));
    vmstate_put(w, field, strlen(field));
    return true;
}

static bool load_text(VmStateReader *r, void *field, GError **error)
{
    uint64_t length;
    if (!vmstate_get_u64(r, &length, error)) {
        return false;
    }
    if (length > 7) {
        return error_set(error, "text too long");
    }
    memset(field, 0, 8);
    return vmstate_get(r, field, length, error);
}

static bool extra_needed(const void *opaque)
{
    return ((const State *)opaque)->has_extra;
}

static bool extra_loaded(void *opaque, int version, GError **error)
{
    ((State *)opaque)->has_extra = true;
    return true;
}

static bool check_state(void *opaque, int version, GError **error)
{
    State *s = opaque;
    s->loads++;
    return s->u8 < 200 || error_set(error, "u8 is %u", s->u8);
}

static const VmStateField extra_fields[] = { VMS_UINT32(extra, State), VMS_END };
static const VmState extra_vmstate = { .name = "test/extra",
                                       .version = 1,
                                       .fields = extra_fields,
                                       .needed = extra_needed,
                                       .post_load = extra_loaded };
static const VmState *const subsections[] = { &extra_vmstate, NULL };
#define FIELDS                                                                                   \
    VMS_UINT8(u8, State), VMS_UINT16(u16, State), VMS_UINT32(u32, State), VMS_INT64(i64, State), \
        VMS_BOOL(flag, State), VMS_BOOL(flags, State), VMS_BUFFER(raw, State),                   \
        VMS_VBUFFER(bytes, State, bytes_length, 16), VMS_STRUCT(part, State, part_vmstate),      \
        VMS_STRUCT_ARRAY(parts, State, 2, part_vmstate),                                         \
        VMS_VSTRUCT(many, State, Part, many_count, part_vmstate), VMS_TIMER(timer, State),       \
        VMS_CUSTOM(text, State, save_text, load_text)
static const VmStateField fields[] = { FIELDS, VMS_END };
static const VmState vmstate = {
    .name = "test", .version = 1, .fields = fields, .subsections = subsections, .post_load = check_state
};
static const VmStateField fields2[] = { FIELDS,
                                        { .name = "newer",
                                          .offset = offsetof(State, newer),
                                          .kind = VMS_KIND_UINT,
                                          .size = 4,
                                          .count = 1,
                                          .since_version = 2 },
                                        VMS_END };
static const VmState vmstate2 = { .name = "test",
                                  .version = 2,
                                  .minimum_version = 1,
                                  .fields = fields2,
                                  .subsections = subsections,
                                  .post_load = check_state };

static Loop *loop;
static ClockSet *clocks;

static void nothing(void *opaque)
{
}

static State *state_new(void)
{
    State *s = g_new0(State, 1);
    s->many_count = 3;
    s->many = g_new0(Part, 3);
    timer_init(&s->timer, loop, clocks, CLOCK_TYPE_VIRTUAL, nothing, s, NULL);
    return s;
}

static void state_free(State *s)
{
    timer_destroy(&s->timer);
    g_free(s->many);
    g_free(s->bytes);
    g_free(s);
}

static State *state_filled(void)
{
    State *s = state_new();
    s->u8 = 17;
    s->u16[0] = 1;
    s->u16[2] = 0xfedc;
    s->u32 = 0xdeadbeef;
    s->i64 = -5;
    s->flag = true;
    s->flags[1] = true;
    memcpy(s->raw, "raw!!", 5);
    s->bytes = g_memdup2("0123456789", 10);
    s->bytes_length = 10;
    s->part = (Part){ 7, true };
    s->parts[1] = (Part){ 8, false };
    s->many[2] = (Part){ 9, true };
    timer_set(&s->timer, 123456789012);
    strcpy(s->text, "hello");
    return s;
}

static void assert_same(const State *a, const State *b)
{
    g_assert_cmpmem(&a->u8, offsetof(State, bytes), &b->u8, offsetof(State, bytes));
    g_assert_cmpmem(a->bytes, a->bytes_length, b->bytes, b->bytes_length);
    g_assert_cmpuint(a->part.a, ==, b->part.a);
    g_assert_cmpuint(a->parts[1].a, ==, b->parts[1].a);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpuint(a->many[i].a, ==, b->many[i].a);
        g_assert_cmpuint(a->many[i].b, ==, b->many[i].b);
    }
    g_assert_cmpint(timer_expire_ns(&a->timer), ==, timer_expire_ns(&b->timer));
    g_assert_cmpstr(a->text, ==, b->text);
}

static void test_round_trip(void)
{
    g_autoptr(GError) error = NULL;
    State *a = state_filled(), *b = state_new();
    timer_set(&b->timer, 5);
    g_autoptr(GByteArray) bytes = vmstate_save(&vmstate, a, &error);
    g_assert_no_error(error);
    g_assert_true(vmstate_load(&vmstate, b, bytes->data, bytes->len, &error));
    g_assert_no_error(error);
    assert_same(a, b);
    g_assert_cmpint(b->loads, ==, 1);
    g_assert_false(b->has_extra);
    timer_cancel(&a->timer);
    a->has_extra = true;
    a->extra = 77;
    g_autoptr(GByteArray) bytes2 = vmstate_save(&vmstate, a, &error);
    g_assert_true(vmstate_load(&vmstate, b, bytes2->data, bytes2->len, &error));
    assert_same(a, b);
    g_assert_cmpuint(b->extra, ==, 77);
    g_assert_true(b->has_extra);
    g_assert_false(timer_pending(&b->timer));
    state_free(a);
    state_free(b);
}

static void test_versions(void)
{
    g_autoptr(GError) error = NULL;
    State *a = state_filled(), *b = state_new();
    g_autoptr(GByteArray) old = vmstate_save(&vmstate, a, &error);
    b->newer = 42;
    g_assert_true(vmstate_load(&vmstate2, b, old->data, old->len, &error));
    g_assert_cmpuint(b->newer, ==, 42);
    a->newer = 43;
    g_autoptr(GByteArray) new = vmstate_save(&vmstate2, a, &error);
    g_assert_true(vmstate_load(&vmstate2, b, new->data, new->len, &error));
    g_assert_cmpuint(b->newer, ==, 43);
    g_assert_false(vmstate_load(&vmstate, b, new->data, new->len, &error));
    g_assert_nonnull(strstr(error->message, "test: version 2"));
    state_free(a);
    state_free(b);
}

static void test_refusals(void)
{
    g_autoptr(GError) error = NULL;
    State *a = state_filled(), *b = state_new();
    a->u8 = 201;
    g_autoptr(GByteArray) bad = vmstate_save(&vmstate, a, &error);
    g_assert_false(vmstate_load(&vmstate, b, bad->data, bad->len, &error));
    g_assert_cmpstr(error->message, ==, "test: u8 is 201");
    g_clear_error(&error);
    a->u8 = 1;
    a->many_count = 2;
    g_autoptr(GByteArray) fewer = vmstate_save(&vmstate, a, &error);
    g_assert_false(vmstate_load(&vmstate, b, fewer->data, fewer->len, &error));
    g_assert_nonnull(strstr(error->message, "field 'many': expected 3 elements, found 2"));
    g_clear_error(&error);
    g_byte_array_append(fewer, (const guint8 *)"x", 1);
    b->many_count = 2;
    g_assert_false(vmstate_load(&vmstate, b, fewer->data, fewer->len, &error));
    g_assert_nonnull(strstr(error->message, "after the end"));
    g_clear_error(&error);
    g_free(a->bytes);
    a->bytes = g_malloc0(17);
    a->bytes_length = 17;
    g_assert_null(vmstate_save(&vmstate, a, &error));
    g_assert_nonnull(strstr(error->message, "test: field 'bytes'"));
    state_free(a);
    state_free(b);
}

/* Every prefix is refused, and so is, or does no harm, every corruption (run under the sanitizers). */
static void test_hostile(void)
{
    State *a = state_filled(), *b = state_new();
    a->has_extra = true;
    g_autoptr(GByteArray) good = vmstate_save(&vmstate, a, NULL);
    for (guint length = 0; length < good->len; length++) {
        g_autoptr(GError) error = NULL;
        g_autofree uint8_t *prefix =
            g_memdup2(good->data, MAX(length, 1)); /* so that reading on is noticed */
        g_assert_false(vmstate_load(&vmstate, b, prefix, length, &error));
        g_assert_nonnull(error);
    }
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    unsigned refused = 0;
    for (int i = 0; i < 20000; i++) {
        g_autoptr(GError) error = NULL;
        g_autofree uint8_t *copy = g_memdup2(good->data, good->len);
        int changes = g_rand_int_range(rand, 1, 4);
        for (int j = 0; j < changes; j++) {
            copy[g_rand_int_range(rand, 0, (int)good->len)] = (uint8_t)g_rand_int_range(rand, 0, 256);
        }
        bool loaded = vmstate_load(&vmstate, b, copy, good->len, &error);
        g_assert_true(loaded == (error == NULL));
        g_assert_cmpuint(b->bytes_length, <=, 16);
        refused += !loaded;
    }
    g_assert_cmpuint(refused, >, 5000);
    state_free(a);
    state_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    loop = loop_new(NULL, NULL);
    clocks = clock_set_new();
    g_test_add_func("/vmstate/round-trip", test_round_trip);
    g_test_add_func("/vmstate/versions", test_versions);
    g_test_add_func("/vmstate/refusals", test_refusals);
    g_test_add_func("/vmstate/hostile", test_hostile);
    int status = g_test_run();
    clock_set_free(clocks);
    loop_free(loop);
    return status;
}
