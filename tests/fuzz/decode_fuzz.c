/*
 * The instruction decoder on any bytes in any mode: it stays within what it was given, and what it says of
 * lengths and places holds together. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/decode.h"

#include <glib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    static const uint8_t code_sizes[4] = { 8, 4, 2, 8 };
    X86DecodeMode mode = { .code_size = code_sizes[data[0] & 3],
                           .protected_mode = data[0] & 4,
                           .vex = data[0] & 8 };
    if (data[0] & 16) {
        x86_decode_all_features(&mode);
    }
    /* A copy of just the size, so that the sanitizer sees a read behind it. */
    size_t available = MIN(size - 1, 20);
    g_autofree uint8_t *bytes = g_memdup2(data + 1, available);
    X86Insn insn, shorter;
    X86DecodeStatus status = x86_decode(&mode, bytes, available, &insn);
    if (status == X86_DECODE_OK) {
        g_assert(insn.length >= 1 && insn.length <= X86_INSN_MAX && insn.length <= available);
        g_assert(insn.form && insn.opcode_offset < insn.length);
        g_assert(insn.disp_offset + insn.disp_size <= insn.length);
        g_assert(insn.imm_offset + insn.imm_size <= insn.length);
        /* Its own bytes are enough, and less of them is not. */
        g_assert(x86_decode(&mode, bytes, insn.length, &shorter) == X86_DECODE_OK &&
                 shorter.length == insn.length);
        for (unsigned n = 0; n < insn.length; n++) {
            g_assert(x86_decode(&mode, bytes, n, &shorter) == X86_DECODE_MORE);
        }
    } else if (status == X86_DECODE_MORE) {
        g_assert(available < X86_INSN_MAX);
    }
    return 0;
}
