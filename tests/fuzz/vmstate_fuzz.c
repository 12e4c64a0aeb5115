/* Saved state as a hostile stream: any byte may differ. SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmstate/vmstate.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Part {
    uint16_t a;
    bool b;
} Part;
typedef struct State {
    uint8_t u8;
    uint32_t u32[5];
    uint64_t u64;
    bool flag;
    uint8_t buffer[16];
    Part parts[3];
    uint32_t length;
    uint8_t *bytes;
} State;

static const VmStateField part_fields[] = { VMS_UINT16(a, Part), VMS_BOOL(b, Part), VMS_END };
static const VmState part_vms = { .name = "part", .version = 1, .minimum_version = 1, .fields = part_fields };
static const VmStateField fields[] = {
    VMS_UINT8(u8, State),
    VMS_UINT32(u32, State),
    VMS_UINT64(u64, State),
    VMS_BOOL(flag, State),
    VMS_BUFFER(buffer, State),
    VMS_STRUCT_ARRAY(parts, State, 3, part_vms),
    VMS_VBUFFER(bytes, State, length, 64),
    VMS_END,
};
static const VmState vms = { .name = "fuzz", .version = 2, .minimum_version = 1, .fields = fields };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Loading may take the bytes for others of another length: they are the state's own. */
    State state = { .length = 8, .bytes = g_malloc0(8) };
    /* Half of the inputs are a good stream with some bytes changed, so that the inner layers are reached. */
    if (size > 0 && data[0] & 1) {
        g_autoptr(GByteArray) stream = vmstate_save(&vms, &state, NULL);
        g_assert_nonnull(stream);
        for (size_t i = 1; i + 2 < size && i < 60; i += 3) {
            stream->data[(data[i] | data[i + 1] << 8) % stream->len] = data[i + 2];
        }
        vmstate_load(&vms, &state, stream->data, stream->len - (data[0] >> 1) % stream->len, NULL);
    } else {
        vmstate_load(&vms, &state, data, size, NULL);
    }
    g_free(state.bytes);
    return 0;
}
