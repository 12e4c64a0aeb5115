/*
 * -d in_asm, out_asm: guest code, beside the host code that was made of it, and how often it ran.
 *
 * A block is written when it is made. With out_asm it counts how often it is entered; the blocks that ran
 * most are listed when the machine ends (rounds within a fast loop are not counted: see loop.c).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/block.h"
#include "base/log.h"

#include "rhea_config.h"
#ifdef CONFIG_ZYDIS
#include <Zydis/Zydis.h>
#endif

/* So many of the blocks that ran most are listed. */
#define HOT_BLOCKS 200

/* One instruction as text: "  48 8b 03             mov rax, [rbx]". address: what relative operands are
 * computed from. Returns its length; 0: it cannot be decoded. */
static unsigned disassemble(GString *text, const uint8_t *code, size_t size, uint64_t address)
{
    unsigned length = 0;
    char line[160] = "";
#ifdef CONFIG_ZYDIS
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, size, &insn, operands))) {
        length = insn.length;
        if (!ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &insn, operands,
                                                          insn.operand_count_visible, line, sizeof(line),
                                                          address, NULL))) {
            line[0] = 0;
        }
    }
#else
    X86DecodeMode mode = { .code_size = 8, .protected_mode = true, .vex = true };
    X86Insn insn;
    if (x86_decode(&mode, code, size, &insn) == X86_DECODE_OK) {
        length = insn.length;
        g_strlcpy(line, x86_mnemonic_names[insn.form->mnemonic], sizeof(line));
    }
#endif
    for (unsigned i = 0; i < (length ? length : MIN(size, 1u)); i++) {
        g_string_append_printf(text, "%02x ", code[i]);
    }
    g_string_append_printf(text, "%*s%s", length < 10 ? (int)(10 - length) * 3 : 0, "",
                           length ? line : "(bad)");
    return length;
}

static void append_host(GString *text, const Jit *jit, const uint8_t *from, const uint8_t *to)
{
    while (from < to) {
        uint64_t address = (uint64_t)(uintptr_t)jit_rx(jit, from);
        g_string_append_printf(text, "\n        %012" G_GINT64_MODIFIER "x  ", address);
        unsigned length = disassemble(text, from, (size_t)(to - from), address);
        from += length ? length : 1;
    }
}

void jit_dump_block(const T *t)
{
    const JitBlock *b = t->b;
    const Jit *jit = t->jit;
    bool host = log_mask & LOG_OUT_ASM;
    uint64_t page_va = t->cpu->rip & PAGE_MASK_4K;
    g_autoptr(GString) text = g_string_new(NULL);

    g_string_append_printf(text,
                           "block at %016" G_GINT64_MODIFIER "x: %u instructions in %u bytes, mode %x%s, "
                           "%u bytes of host code",
                           page_va + b->offset, b->count, b->length, b->key & ~KEY_CAREFUL,
                           b->key & KEY_CAREFUL ? ", careful" : "", b->code_size);
    if (host && b->pc_count) {
        append_host(text, jit, b->code, b->code + b->pcs[0].host);
    }
    bool fast = false;
    for (unsigned k = 0; k < b->pc_count; k++) {
        unsigned n = k % t->count;
        const TInsn *i = &t->insns[n];
        if (b->pcs[k].fast && !host) {
            break;
        }
        if (b->pcs[k].fast && !fast) {
            g_string_append(text, "\n  the same as a loop that is checked once a page:");
            fast = true;
        }
        g_string_append_printf(text, "\n    %016" G_GINT64_MODIFIER "x  ", page_va + i->offset);
        uint8_t bytes[X86_INSN_MAX];
        unsigned first = MIN(4096u - i->offset, i->insn.length);
        memcpy(bytes, b->page + i->offset, first);
        if (first < i->insn.length && b->second) {
            memcpy(bytes + first, b->second, i->insn.length - first);
        }
        disassemble(text, bytes, i->insn.length, page_va + i->offset);
        if (host) {
            uint32_t end = k + 1 < b->pc_count ? b->pcs[k + 1].host : t->body_end;
            append_host(text, jit, b->code + b->pcs[k].host, b->code + end);
        }
    }
    if (host) {
        g_string_append(text, "\n  ways out:");
        append_host(text, jit, b->code + t->body_end, b->code + b->code_size);
        append_host(text, jit, b->cold, b->cold + b->cold_size);
    }
    log_write("%s\n", text->str);
}

static gint by_runs(gconstpointer a, gconstpointer b)
{
    const JitBlock *x = *(JitBlock *const *)a, *y = *(JitBlock *const *)b;
    return x->runs < y->runs ? 1 : x->runs > y->runs ? -1 : 0;
}

void jit_dump_hot(const Jit *jit)
{
    g_autoptr(GPtrArray) blocks = g_ptr_array_new();
    uint64_t all = 0;

    for (unsigned i = 0; i < JIT_REGIONS; i++) {
        for (guint k = 0; k < jit->regions[i].blocks->len; k++) {
            JitBlock *b = jit->regions[i].blocks->pdata[k];
            all += b->runs;
            if (b->runs) {
                g_ptr_array_add(blocks, b);
            }
        }
    }
    g_ptr_array_sort(blocks, by_runs);
    log_write("%u blocks were entered %" G_GUINT64_FORMAT " times; those that ran most:\n", blocks->len, all);
    for (guint i = 0; i < MIN(blocks->len, HOT_BLOCKS); i++) {
        const JitBlock *b = blocks->pdata[i];
        log_write("%14" G_GUINT64_FORMAT " times  %016" G_GINT64_MODIFIER
                  "x  %3u instructions, %5u bytes of host "
                  "code%s%s\n",
                  b->runs, b->va, b->count, b->code_size, b->key & KEY_CAREFUL ? ", careful" : "",
                  b->stale ? ", stale" : "");
    }
}
