/* Packed virtqueues, with a driver of our own on the other side. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/virtio/virtio_test.h"

#define ENTRIES    8u /* of virtio-rng's queue */
#define PACKED     VIRTIO_BIT(VIRTIO_F_RING_PACKED)
#define F_NEXT     1u
#define F_WRITE    2u
#define F_INDIRECT 4u
#define F_AVAIL    (1u << 7)
#define F_USED     (1u << 15)

/* A machine with virtio-rng, whose queue the tests work on themselves, and where its driver is in the ring.
 */
typedef struct Bench {
    VirtioTest t;
    VirtQueue *vq;
    uint16_t size, next, used;
    bool next_wrap, used_wrap;
    uint32_t buffer;
} Bench;

static void bench_new(Bench *b, uint64_t features, bool start)
{
    g_autoptr(GError) error = NULL;
    memset(b, 0, sizeof(*b));
    vt_new(&b->t, "virtio-rng-device");
    g_assert_true(object_property_set_bool(b->t.device, "packed", true, &error));
    g_assert_true(vt_realize(&b->t, &error));
    b->vq = virtio_get_queue(VIRTIO_DEVICE(b->t.device), 0);
    b->size = ENTRIES;
    b->next_wrap = b->used_wrap = true;
    if (start) {
        vt_start(&b->t, features | PACKED, 1);
        g_assert_true(b->t.features & PACKED);
    }
    b->buffer = vt_alloc(&b->t, NULL, 4096);
}

static void put(Bench *b, uint64_t addr, uint32_t length, uint16_t id, unsigned flags)
{
    flags |= b->next_wrap ? F_AVAIL : F_USED;
    vt_put_desc(&b->t, vt_desc(0) + 16u * b->next, addr, length, id, (uint16_t)flags);
    if (++b->next == b->size) {
        b->next = 0;
        b->next_wrap = !b->next_wrap;
    }
}

/* A chain of `count` buffers of 16 bytes each; the last is `last` bytes long, by which the tests know it
 * again. */
static void add_chain(Bench *b, uint16_t id, unsigned count, uint32_t last)
{
    for (unsigned i = 0; i < count; i++) {
        bool end = i + 1 == count;
        put(b, b->buffer + 16u * i, end ? last : 16, end ? id : 0xdead, F_WRITE | (end ? 0 : F_NEXT));
    }
}

/* The next used descriptor; false: there is none. */
static bool take(Bench *b, uint16_t *id, uint32_t *written)
{
    uint32_t at = vt_desc(0) + 16u * b->used;
    unsigned flags = (unsigned)vt_ram(&b->t, at + 14, 2);
    if (!!(flags & F_AVAIL) != b->used_wrap || !!(flags & F_USED) != b->used_wrap) {
        return false;
    }
    *id = (uint16_t)vt_ram(&b->t, at + 12, 2);
    *written = (uint32_t)vt_ram(&b->t, at + 8, 4);
    g_assert_cmpint(!!(flags & F_WRITE), ==, *written != 0);
    return true;
}

static void pass(Bench *b, unsigned slots)
{
    b->used = (uint16_t)(b->used + slots);
    if (b->used >= b->size) {
        b->used = (uint16_t)(b->used - b->size);
        b->used_wrap = !b->used_wrap;
    }
}

static void test_features(void)
{
    VirtioTest t;
    vt_new(&t, "virtio-rng-device");
    g_assert_true(vt_realize(&t, NULL));
    vt_start(&t, PACKED, 1); /* not offered by default */
    g_assert_false(t.features & PACKED);
    vt_free(&t);
}

/* The whole way: the device fills what a driver hands it, in a chain. */
static void test_device(void)
{
    Bench b;
    uint16_t id;
    uint32_t written;
    bench_new(&b, 0, true);
    add_chain(&b, 77, 3, 8);
    vt_kick(&b.t, 0);
    for (int i = 0; i < 100 && !take(&b, &id, &written); i++) {
        vt_settle(&b.t);
    }
    g_assert_true(take(&b, &id, &written));
    g_assert_cmpuint(id, ==, 77);
    g_assert_cmpuint(written, ==, 40);
    g_assert_true(b.t.irq_level);
    vt_free(&b.t);
}

/* Chains of random length are given back in random order for many rounds of the ring. */
static void random_order(uint16_t size, unsigned steps)
{
    Bench b;
    VirtQueueElement *out[ENTRIES] = { 0 };
    unsigned out_count = 0, room = size, waiting = 0, slots_of[ENTRIES] = { 0 };
    bool busy[ENTRIES] = { false };
    uint16_t id;
    uint32_t written;
    bench_new(&b, 0, false);
    vt_try_start(&b.t, PACKED, 0);
    vt_write(&b.t, 0x030, 0);
    vt_write(&b.t, 0x038, size);
    vt_write(&b.t, 0x080, vt_desc(0));
    vt_write(&b.t, 0x090, vt_avail(0));
    vt_write(&b.t, 0x0a0, vt_used(0));
    vt_write(&b.t, 0x044, 1);
    b.size = size;
    for (unsigned step = 0; step < steps; step++) {
        unsigned count = (unsigned)g_test_rand_int_range(1, 4), pick;
        switch (g_test_rand_int_range(0, 4)) {
        case 0:
            for (id = 0; id < ENTRIES && busy[id]; id++) {}
            if (id < ENTRIES && count <= room) {
                add_chain(&b, id, count, 20u + id);
                busy[id] = true;
                slots_of[id] = count;
                room -= count;
                waiting++;
            }
            break;
        case 1: {
            g_assert_cmpint(virtqueue_empty(b.vq), ==, waiting == 0);
            VirtQueueElement *e = virtqueue_pop(b.vq, sizeof(*e));
            g_assert_cmpint(e != NULL, ==, waiting != 0);
            if (e) {
                g_assert_cmpuint(e->slots, ==, slots_of[e->head]);
                g_assert_cmpuint(e->in[e->in_count - 1].iov_len, ==, 20u + e->head);
                waiting--;
                if (g_test_rand_int_range(0, 4) == 0) {
                    virtqueue_unpop(b.vq, e);
                    waiting++;
                } else {
                    out[out_count++] = e;
                }
            }
            break;
        }
        case 2:
            pick = out_count ? (unsigned)g_test_rand_int_range(1, (int)out_count + 1) : 0;
            for (unsigned i = 0; i < pick; i++) { /* several appear at once */
                VirtQueueElement *e = out[--out_count];
                g_assert(e != NULL);
                virtqueue_fill(b.vq, e, e->head + 1u);
            }
            virtqueue_flush(b.vq);
            break;
        default:
            if (take(&b, &id, &written)) {
                g_assert_cmpuint(id, <, ENTRIES);
                g_assert_true(busy[id]);
                g_assert_cmpuint(written, ==, id + 1u);
                busy[id] = false;
                room += slots_of[id];
                pass(&b, slots_of[id]);
            }
        }
        g_assert_false(VIRTIO_DEVICE(b.t.device)->broken);
        if (out_count > 1) { /* whichever */
            pick = (unsigned)g_test_rand_int_range(0, (int)out_count);
            VirtQueueElement *last = out[out_count - 1];
            out[out_count - 1] = out[pick];
            out[pick] = last;
        }
    }
    while (out_count) {
        virtqueue_discard(out[--out_count]);
    }
    vt_free(&b.t);
}

static void test_order(void)
{
    random_order(8, 20000);
    random_order(7, 20000); /* 2.8.1 asks for no power of two */
    random_order(4, 5000);
}

static void test_indirect(void)
{
    Bench b;
    bench_new(&b, VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC), true);
    for (unsigned i = 0; i < 12; i++) { /* more than the ring has; NEXT and ids mean nothing here */
        vt_put_desc(&b.t, VT_INDIRECT + 16 * i, b.buffer + 16 * i, 16, 5, i < 4 ? 0 : F_WRITE | F_NEXT);
    }
    put(&b, VT_INDIRECT, 12 * 16, 3, F_INDIRECT);
    VirtQueueElement *e = virtqueue_pop(b.vq, sizeof(*e));
    g_assert_nonnull(e);
    g_assert_cmpuint(e->head, ==, 3);
    g_assert_cmpuint(e->slots, ==, 1);
    g_assert_cmpuint(e->out_count, ==, 4);
    g_assert_cmpuint(e->in_size, ==, 8 * 16);
    virtqueue_push(b.vq, e, 5);
    vt_free(&b.t);
}

static bool notifies(Bench *b)
{
    vt_write(&b->t, 0x064, 3);
    add_chain(b, 1, 1, 16);
    VirtQueueElement *e = virtqueue_pop(b->vq, sizeof(*e));
    g_assert_nonnull(e);
    virtqueue_push(b->vq, e, 1);
    virtqueue_notify(b->vq);
    return b->t.irq_level;
}

static void driver_event(Bench *b, unsigned place, bool wrap, unsigned flags)
{
    vt_set_ram(&b->t, vt_avail(0), 2, place | (wrap ? 1u << 15 : 0));
    vt_set_ram(&b->t, vt_avail(0) + 2, 2, flags);
}

static void test_driver_events(void)
{
    Bench b;
    bench_new(&b, 0, true);
    g_assert_true(notifies(&b));
    driver_event(&b, 0, false, 1);
    g_assert_false(notifies(&b));
    driver_event(&b, 0, false, 2); /* not agreed on: as if enabled */
    g_assert_true(notifies(&b));
    vt_free(&b.t);

    bench_new(&b, VIRTIO_BIT(VIRTIO_F_EVENT_IDX), true);
    driver_event(&b, 2, true, 2);
    notifies(&b); /* the first may be spurious */
    g_assert_false(notifies(&b));
    g_assert_true(notifies(&b)); /* that with number 2 */
    g_assert_false(notifies(&b));
    driver_event(&b, 1, false, 2); /* of the next round */
    for (int i = 4; i < 8; i++) {
        if (i < 7) {
            g_assert_false(notifies(&b));
        } else {
            notifies(&b); /* the round ends: may be spurious */
        }
    }
    notifies(&b); /* 0 */
    g_assert_true(notifies(&b));
    g_assert_false(notifies(&b));
    driver_event(&b, 0, false, 1);
    g_assert_false(notifies(&b));
    vt_free(&b.t);
}

static void test_device_events(void)
{
    Bench b;
    bench_new(&b, VIRTIO_BIT(VIRTIO_F_EVENT_IDX), true);
    virtqueue_set_notification(b.vq, false);
    g_assert_cmphex(vt_ram(&b.t, vt_used(0) + 2, 2), ==, 1);
    add_chain(&b, 0, 2, 16);
    add_chain(&b, 1, 1, 16);
    virtqueue_set_notification(b.vq, true); /* behind what is there */
    g_assert_cmphex(vt_ram(&b.t, vt_used(0), 4), ==, 2u << 16 | 1u << 15 | 3);
    virtqueue_push(b.vq, virtqueue_pop(b.vq, sizeof(VirtQueueElement)), 0);
    g_assert_cmphex(vt_ram(&b.t, vt_used(0), 4), ==, 2u << 16 | 1u << 15 | 2);
    add_chain(&b, 2, 3, 16);
    add_chain(&b, 3, 2, 16);
    virtqueue_set_notification(b.vq, true);
    g_assert_cmphex(vt_ram(&b.t, vt_used(0), 4), ==, 2u << 16); /* the start of the next round */
    g_assert_true(virtqueue_has_room(b.vq, 16 + 48 + 32));
    g_assert_false(virtqueue_has_room(b.vq, 16 + 48 + 32 + 1));
    vt_free(&b.t);
    bench_new(&b, 0, true);
    virtqueue_set_notification(b.vq, false);
    g_assert_cmphex(vt_ram(&b.t, vt_used(0) + 2, 2), ==, 1);
    virtqueue_set_notification(b.vq, true);
    g_assert_cmphex(vt_ram(&b.t, vt_used(0) + 2, 2), ==, 0);
    vt_free(&b.t);
}

/* ---- what a driver can do wrong ---- */

static void broken(void (*make)(Bench *b))
{
    Bench b;
    bench_new(&b, VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC), true);
    make(&b);
    g_assert_null(virtqueue_pop(b.vq, sizeof(VirtQueueElement)));
    g_assert_true(vt_read(&b.t, 0x070) & VIRTIO_STATUS_NEEDS_RESET);
    vt_start(&b.t, 0, 1); /* and now split: a reset mends everything */
    vt_add(&b.t, 0, 0, (VtBuffer[]){ { b.buffer, 64, true } }, 1);
    vt_kick(&b.t, 0);
    vt_take(&b.t, 0, NULL);
    vt_free(&b.t);
}

static void make_endless(Bench *b)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        put(b, b->buffer, 16, 0, F_WRITE | F_NEXT);
    }
}
static void make_indirect_inside(Bench *b)
{
    put(b, b->buffer, 16, 0, F_WRITE | F_NEXT);
    put(b, VT_INDIRECT, 16, 0, F_INDIRECT);
}
static void make_indirect_next(Bench *b)
{
    vt_put_desc(&b->t, VT_INDIRECT, b->buffer, 16, 0, F_WRITE);
    put(b, VT_INDIRECT, 16, 0, F_INDIRECT | F_NEXT);
    put(b, b->buffer, 16, 0, F_WRITE);
}
static void make_odd_indirect(Bench *b)
{
    put(b, VT_INDIRECT, 17, 0, F_INDIRECT);
}
static void make_empty_indirect(Bench *b)
{
    put(b, VT_INDIRECT, 0, 0, F_INDIRECT);
}
static void make_long_indirect(Bench *b)
{
    put(b, VT_INDIRECT, 1025 * 16, 0, F_INDIRECT);
}
static void make_indirect_nowhere(Bench *b)
{
    put(b, 0x7000000000, 64, 0, F_INDIRECT);
}
static void make_empty_buffer(Bench *b)
{
    put(b, b->buffer, 0, 0, F_WRITE);
}
static void make_order(Bench *b)
{
    put(b, b->buffer, 16, 0, F_WRITE | F_NEXT);
    put(b, b->buffer, 16, 0, 0);
}
static void make_nowhere(Bench *b)
{
    put(b, VT_MMIO, 16, 0, F_WRITE);
}

static void test_broken(void)
{
    broken(make_endless);
    broken(make_indirect_inside);
    broken(make_indirect_next);
    broken(make_odd_indirect);
    broken(make_empty_indirect);
    broken(make_long_indirect);
    broken(make_indirect_nowhere);
    broken(make_empty_buffer);
    broken(make_order);
    broken(make_nowhere);
}

/* More chains than entries: the driver makes descriptors available again that it has not got back. */
static void test_too_many(void)
{
    Bench b;
    VirtQueueElement *out[ENTRIES] = { 0 };
    bench_new(&b, 0, true);
    for (unsigned i = 0; i < ENTRIES; i++) {
        add_chain(&b, (uint16_t)i, 1, 16);
        out[i] = virtqueue_pop(b.vq, sizeof(VirtQueueElement));
        g_assert_nonnull(out[i]);
    }
    add_chain(&b, 0, 1, 16);
    g_assert_null(virtqueue_pop(b.vq, sizeof(VirtQueueElement)));
    g_assert_true(VIRTIO_DEVICE(b.t.device)->broken);
    for (unsigned i = 0; i < ENTRIES; i++) {
        virtqueue_push(b.vq, out[i], 0);
    }
    vt_free(&b.t);
}

/* A reset while chains are out: they mean nothing to the queue that is set up then. */
static void test_reset(void)
{
    Bench b;
    uint16_t id;
    uint32_t written;
    bench_new(&b, 0, true);
    add_chain(&b, 5, 3, 16);
    VirtQueueElement *old = virtqueue_pop(b.vq, sizeof(*old));
    g_assert_nonnull(old);
    vt_start(&b.t, PACKED, 1);
    b.next = b.used = 0;
    b.next_wrap = b.used_wrap = true;
    virtqueue_push(b.vq, old, 16);
    g_assert_false(take(&b, &id, &written));
    add_chain(&b, 6, 1, 16);
    virtqueue_push(b.vq, virtqueue_pop(b.vq, sizeof(*old)), 1);
    g_assert_true(take(&b, &id, &written));
    g_assert_cmpuint(id, ==, 6);
    vt_free(&b.t);
}

/* ---- state ---- */

static GByteArray *save(Bench *b)
{
    g_autoptr(GError) error = NULL;
    GByteArray *state = vmstate_save(DEVICE_GET_CLASS(b->t.device)->vmstate, b->t.device, &error);
    g_assert_no_error(error);
    return state;
}

static bool load(Bench *to, Bench *from, GByteArray *state)
{
    bench_new(to, 0, false);
    memcpy(to->t.ram.ram->host, from->t.ram.ram->host, VT_RAM_SIZE);
    to->next = from->next;
    to->next_wrap = from->next_wrap;
    to->used = from->used;
    to->used_wrap = from->used_wrap;
    to->buffer = from->buffer;
    return vmstate_load(DEVICE_GET_CLASS(to->t.device)->vmstate, to->t.device, state->data, state->len, NULL);
}

static void test_state(void)
{
    Bench a, b;
    uint16_t id;
    uint32_t written;
    VirtQueueElement *e[4];
    bench_new(&a, 0, true);
    for (unsigned i = 0; i < 3; i++) { /* somewhere in the ring */
        add_chain(&a, 9, 1, 16);
        virtqueue_push(a.vq, virtqueue_pop(a.vq, sizeof(VirtQueueElement)), 1);
        g_assert_true(take(&a, &id, &written));
        pass(&a, 1);
    }
    for (unsigned i = 0; i < 4; i++) {
        add_chain(&a, (uint16_t)(10 + i), i == 1 ? 3 : 1, 20 + i);
    }
    for (unsigned i = 0; i < 3; i++) {
        e[i] = virtqueue_pop(a.vq, sizeof(VirtQueueElement));
    }
    virtqueue_push(a.vq, e[2], 7); /* takes the place of the first one's descriptor */
    g_autoptr(GByteArray) state = save(&a);
    g_assert_true(load(&b, &a, state));
    g_autoptr(GByteArray) again = save(&b); /* before anything was taken again */
    g_assert_cmpmem(again->data, again->len, state->data, state->len);
    g_assert_true(take(&b, &id, &written));
    g_assert_cmpuint(id, ==, 12);
    pass(&b, 1);
    unsigned order[] = { 10, 11, 13 }, slots[] = { 1, 3, 1 };
    for (unsigned i = 0; i < 3; i++) {
        VirtQueueElement *r = virtqueue_pop(b.vq, sizeof(*r));
        g_assert_nonnull(r);
        if (i == 1) { /* back and once more */
            virtqueue_unpop(b.vq, r);
            r = virtqueue_pop(b.vq, sizeof(*r));
        }
        g_assert_cmpuint(r->head, ==, order[i]);
        g_assert_cmpuint(r->slots, ==, slots[i]);
        g_assert_cmpuint(r->in[r->in_count - 1].iov_len, ==, order[i] + 10);
        g_assert_cmpint(r->retaken, ==, i < 2);
        virtqueue_push(b.vq, r, 3);
        g_assert_true(take(&b, &id, &written));
        g_assert_cmpuint(id, ==, order[i]);
        pass(&b, slots[i]);
    }
    g_assert_null(virtqueue_pop(b.vq, sizeof(VirtQueueElement)));
    virtqueue_discard(e[0]);
    virtqueue_discard(e[1]);
    vt_free(&a.t);
    vt_free(&b.t);
}

/* States that no device could have saved are refused. */
static void test_bad_state(void)
{
    for (unsigned i = 0; i < 7; i++) {
        Bench a, b;
        bench_new(&a, 0, true);
        add_chain(&a, 1, 2, 16);
        VirtQueueElement *e = virtqueue_pop(a.vq, sizeof(*e));
        uint16_t *flags = (uint16_t *)(void *)(e->descs + 30);
        uint16_t good = *flags;
        switch (i) {
        case 0:
            a.vq->last_avail = ENTRIES;
            break;
        case 1:
            a.vq->used_idx = 3; /* behind last_avail */
            break;
        case 2:
            a.vq->used_wrap = false; /* last_avail is a whole round and two further */
            break;
        case 3:
            a.vq->desc |= 8;
            break;
        case 4:
            *flags |= F_NEXT; /* the last chain does not end */
            break;
        case 5:
            a.vq->used_idx = 1; /* fewer entries out than chains */
            break;
        }
        g_autoptr(GByteArray) state = save(&a);
        g_assert_cmpint(load(&b, &a, state), ==, i == 6);
        *flags = good;
        virtqueue_discard(e);
        vt_free(&a.t);
        vt_free(&b.t);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtqueue-packed/features", test_features);
    g_test_add_func("/virtqueue-packed/device", test_device);
    g_test_add_func("/virtqueue-packed/order", test_order);
    g_test_add_func("/virtqueue-packed/indirect", test_indirect);
    g_test_add_func("/virtqueue-packed/driver-events", test_driver_events);
    g_test_add_func("/virtqueue-packed/device-events", test_device_events);
    g_test_add_func("/virtqueue-packed/broken", test_broken);
    g_test_add_func("/virtqueue-packed/too-many", test_too_many);
    g_test_add_func("/virtqueue-packed/reset", test_reset);
    g_test_add_func("/virtqueue-packed/state", test_state);
    g_test_add_func("/virtqueue-packed/bad-state", test_bad_state);
    return g_test_run();
}
