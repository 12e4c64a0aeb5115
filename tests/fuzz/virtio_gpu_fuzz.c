/*
 * virtio-gpu: the input is a list of commands with small numbers, so that many of them hit something, and now
 * and then a wild one; screens are looked at and the state is saved and loaded, also damaged, in between.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/virtio/virtio_test.h"

#include "hw/display/virtio_gpu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_STEPS = 200, WORDS = 16, SCREENS = 2 };

static VirtioTest t;
static DisplayRegistry *displays;
static DisplaySurface surface;

static void setup(void)
{
    Object *dev = vt_new(&t, TYPE_VIRTIO_GPU);
    GError *error = NULL;
    displays = display_registry_new();
    t.env.displays = displays;
    object_property_parse(dev, "max_hostmem", "4M", &error);
    object_property_parse(dev, "max_outputs", "2", &error);
    if (error || !vt_realize(&t, &error)) {
        g_error("%s", error->message);
    }
}

/* A byte becomes a number that is likely to be right, or any. */
static uint32_t number(uint8_t byte)
{
    static const uint32_t wild[] = { 0,      64,      1000,       0x3ff,      0x400,
                                     0x4000, 0x10000, 0x7fffffff, 0xffffffff, VT_RAM_SIZE - 4 };
    return byte < 200 ? byte % 9 : wild[byte % G_N_ELEMENTS(wild)];
}

static void command(const uint8_t *data)
{
    static const uint32_t types[] = { 0x100, 0x101, 0x101, 0x102, 0x103, 0x103, 0x104, 0x105,
                                      0x105, 0x106, 0x106, 0x107, 0x10a, 0x300, 0x301, 0x10c };
    uint32_t request[6 + WORDS] = { types[data[0] & 15], data[0] >> 4 & 1 };
    for (unsigned i = 0; i < WORDS; i++) {
        request[6 + i] = number(data[2 + i]);
    }
    unsigned queue = request[0] >= 0x300,
             size = data[1] & 1 ? sizeof(request) : data[1] % sizeof(request) + 1;
    t.data_next = VT_DATA;
    VtBuffer buffers[2] = { { vt_alloc(&t, request, sizeof(request)), size, false },
                            { vt_alloc(&t, NULL, 1200), 1200, true } };
    vt_add(&t, queue, 0, buffers, 1 + !(data[1] & 2));
    vt_kick(&t, queue);
    vt_settle(&t);
}

static void look(void)
{
    for (unsigned head = 0; head < SCREENS; head++) {
        display_console_render(display_console_find_head(displays, NULL, head, NULL), &surface);
    }
}

static void load_again(const uint8_t *data)
{
    const VmState *vms = DEVICE_GET_CLASS(t.device)->vmstate;
    g_autoptr(GByteArray) state = vmstate_save(vms, t.device, NULL);
    uint32_t at = data[2] | data[3] << 8 | data[4] << 16;
    if (data[1] & 1) {
        state->data[at % state->len] ^= data[5];
    }
    vmstate_load(vms, t.device, state->data, data[1] & 2 ? at % state->len : state->len, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!displays) {
        setup();
    }
    vt_start(&t, VIRTIO_BIT(1), 2);
    for (unsigned i = 0; i < MAX_STEPS && size >= 2 + WORDS; i++, data += 2 + WORDS, size -= 2 + WORDS) {
        if (data[0] < 0xe0) {
            command(data);
        } else if (data[0] < 0xf8) {
            look();
        } else {
            load_again(data);
        }
    }
    look();
    return 0;
}
