/* See decode_quick.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "arch/x86/decode_quick.h"

#include "arch/x86/cpu.h"

#include <string.h>

enum { MAP_UNKNOWN, MAP_SLOW, MAP_PLAIN, MAP_MODRM }; /* by map and opcode */
enum { NOTE_SIGNED = 1, NOTE_FEATURE = 2 }; /* of the immediate; the form's feature is to be there */

/* form + 1, operand size << 16, bytes of immediate << 20, NOTE_* << 24; 0: not known. An opcode's are one
 * cache line. */
static uint32_t notes[2][4][2][256][16] __attribute__((aligned(64)));
static uint8_t kinds[2][256];

static const uint8_t prefix_of_pp[4] = { X86_PREFIX_NP, X86_PREFIX_66, X86_PREFIX_F3, X86_PREFIX_F2 };
static const uint8_t flag_of_pp[4] = { 0, X86_INSN_66, X86_INSN_REP, X86_INSN_REPNE };

/* Whether an opcode has a ModRM byte and is one of those that the notes' key describes. */
static unsigned kind_of(unsigned map, unsigned opcode)
{
    const X86FormIndex *index = &x86_form_index[X86_SPACE_LEGACY][map][opcode];
    unsigned kind = MAP_UNKNOWN;

    if ((map == 0 && (opcode == 0x90 || opcode == 0x0f)) ||
        (map == 1 && ((opcode & 0xfc) == 0x20 || opcode == 0x38 || opcode == 0x3a))) {
        return MAP_SLOW; /* REX.B tells PAUSE from XCHG; ModRM.mod of MOV CR is ignored; other maps */
    }
    for (unsigned i = 0; i < index->count; i++) {
        const X86Form *form = &x86_forms[x86_form_lists[index->start + i]];
        unsigned immediates = 0;
        if (form->attrs & X86_ATTR_NO64) {
            continue;
        }
        for (unsigned n = 0; n < form->operand_count; n++) {
            switch (form->operands[n].kind) {
            case X86_OPERAND_I:
            case X86_OPERAND_J:
                immediates++;
                break;
            case X86_OPERAND_O:
            case X86_OPERAND_A:
            case X86_OPERAND_L:
                immediates = 2;
                break;
            default:
                break;
            }
        }
        unsigned this = form->has_modrm ? MAP_MODRM : MAP_PLAIN;
        if (form->exact_modrm >= 0 || immediates > 1 || (kind != MAP_UNKNOWN && kind != this)) {
            return MAP_SLOW;
        }
        kind = this;
    }
    return kind == MAP_UNKNOWN ? MAP_SLOW : kind;
}

static __attribute__((noinline)) unsigned kind_find(unsigned map, unsigned opcode)
{
    unsigned kind = kind_of(map, opcode);
    __atomic_store_n(&kinds[map][opcode], (uint8_t)kind, __ATOMIC_RELAXED);
    return kind;
}

static inline unsigned kind_at(unsigned map, unsigned opcode)
{
    unsigned kind = __atomic_load_n(&kinds[map][opcode], __ATOMIC_RELAXED);
    return G_LIKELY(kind != MAP_UNKNOWN) ? kind : kind_find(map, opcode);
}

void x86_decode_note(const X86Insn *insn)
{
    const X86Form *form = insn->form;
    unsigned flags = form->feature == X86_FEATURE_NONE ? 0 : NOTE_FEATURE;
    unsigned prefixes = insn->prefixes & (X86_INSN_REP | X86_INSN_REPNE | X86_INSN_66);
    unsigned opcode = insn->bytes[insn->opcode_offset], pp = 0;

    if (form->space != X86_SPACE_LEGACY || form->map > 1 || insn->address_size != 8 ||
        (insn->prefixes & X86_INSN_LOCK) || kind_at(form->map, opcode) == MAP_SLOW) {
        return;
    }
    while (pp < 4 && flag_of_pp[pp] != prefixes) {
        pp++;
    }
    if (pp == 4) {
        return; /* two of them */
    }
    for (unsigned n = 0; n < form->operand_count; n++) {
        const X86Operand *operand = &form->operands[n];
        if (operand->kind == X86_OPERAND_J ||
            (operand->kind == X86_OPERAND_I &&
             (operand->size == X86_SIZE_BS || operand->size == X86_SIZE_ZS ||
              operand->size == X86_SIZE_DS))) {
            flags |= NOTE_SIGNED;
        }
    }
    unsigned detail = form->has_modrm ? (insn->mod == 3 ? 8u : 0) | (insn->modrm >> 3 & 7) : 0;
    uint32_t note = (uint32_t)(form - x86_forms + 1) | (uint32_t)insn->operand_size << 16 |
                    (uint32_t)insn->imm_size << 20 | (uint32_t)flags << 24;
    __atomic_store_n(&notes[form->map][pp][insn->rex_w][opcode][detail], note, __ATOMIC_RELAXED);
}

/* Reads SIB and displacement of a memory operand from *p on. SDM vol. 2 tables 2-2 and 2-3. */
static inline const uint8_t *memory_operand(X86Insn *insn, const uint8_t *bytes, const uint8_t *p,
                                            unsigned rex)
{
    unsigned rm = insn->modrm & 7, size = insn->mod == 1 ? 1 : insn->mod == 2 ? 4 : 0;

    insn->is_memory = true;
    insn->index = X86_REG_NONE;
    if (rm == 4) {
        unsigned sib = *p++, index = (sib >> 3 & 7) | (rex & 2) << 2;
        insn->scale = (uint8_t)(sib >> 6);
        insn->index = (uint8_t)(index == 4 ? X86_REG_NONE : index);
        insn->base = (uint8_t)((sib & 7) | (rex & 1) << 3);
        if ((sib & 7) == 5 && insn->mod == 0) {
            insn->base = X86_REG_NONE;
            size = 4;
        }
    } else if (rm == 5 && insn->mod == 0) {
        insn->base = X86_REG_RIP;
        size = 4;
    } else {
        insn->base = (uint8_t)(rm | (rex & 1) << 3);
    }
    if (insn->base == R_RSP || insn->base == R_RBP) {
        insn->segment = SEG_SS;
    }
    if (size) {
        insn->disp_offset = (uint8_t)(p - bytes);
        insn->disp_size = (uint8_t)size;
        if (size == 1) {
            insn->disp = (int8_t)*p;
        } else {
            memcpy(&insn->disp, p, 4);
        }
    }
    return p + size;
}

static inline const uint8_t *immediate(X86Insn *insn, const uint8_t *bytes, const uint8_t *p, unsigned size,
                                       bool is_signed)
{
    uint16_t v16;
    uint32_t v32;

    insn->imm_offset = (uint8_t)(p - bytes);
    insn->imm_size = (uint8_t)size;
    switch (size) {
    case 1:
        insn->imm = is_signed ? (uint64_t)(int8_t)*p : *p;
        break;
    case 2:
        memcpy(&v16, p, 2);
        insn->imm = is_signed ? (uint64_t)(int16_t)v16 : v16;
        break;
    case 4:
        memcpy(&v32, p, 4);
        insn->imm = is_signed ? (uint64_t)(int32_t)v32 : v32;
        break;
    default:
        memcpy(&insn->imm, p, 8);
        break;
    }
    return p + size;
}

bool x86_decode_quick(const X86DecodeMode *mode, const uint8_t *bytes, X86Insn *insn)
{
    const uint8_t *p = bytes;
    unsigned b = *p, pp = 0, rex = 0, map = 0, segment = 0, detail = 0;

    if ((b & 0xfe) == 0x64) {
        segment = b - 0x64 + SEG_FS;
        b = *++p;
    }
    if (b == 0x66) {
        pp = 1;
        b = *++p;
    } else if ((b & 0xfe) == 0xf2) {
        pp = b == 0xf3 ? 2 : 3;
        b = *++p;
    }
    if ((b & 0xf0) == 0x40) {
        rex = b;
        b = *++p;
    }
    if (b == 0x0f) {
        map = 1;
        b = *++p;
    }
    /* What is no opcode (another prefix, VEX) has no note. */
    unsigned kind = kind_at(map, b);
    if (kind == MAP_SLOW) {
        return false;
    }
    unsigned modrm = p[1];
    if (kind == MAP_MODRM) {
        detail = (modrm >= 0xc0 ? 8u : 0) | (modrm >> 3 & 7);
    }
    uint32_t note = __atomic_load_n(&notes[map][pp][rex >> 3 & 1][b][detail], __ATOMIC_RELAXED);
    if (!note) {
        return false;
    }
    const X86Form *form = &x86_forms[(note & 0xffff) - 1];
    if (G_UNLIKELY(note >> 24 & NOTE_FEATURE) &&
        !(mode->features[form->feature / 64] >> (form->feature % 64) & 1)) {
        return false;
    }

    memset(insn, 0, sizeof(*insn));
    memcpy(insn->bytes, bytes, sizeof(insn->bytes));
    insn->form = form;
    insn->base = insn->index = X86_REG_NONE;
    insn->segment = SEG_DS;
    insn->prefixes = (uint8_t)(flag_of_pp[pp] | (rex ? X86_INSN_REX : 0));
    insn->mandatory = prefix_of_pp[pp];
    insn->rex_w = rex >> 3 & 1;
    insn->address_size = 8;
    insn->operand_size = note >> 16 & 15;
    insn->opcode_offset = (uint8_t)(p - bytes);
    p++;
    if (kind == MAP_MODRM) {
        insn->modrm_offset = (uint8_t)(p - bytes);
        insn->modrm = (uint8_t)modrm;
        insn->mod = (uint8_t)(modrm >> 6);
        insn->reg = (uint8_t)((modrm >> 3 & 7) | (rex & 4) << 1);
        insn->rm = (uint8_t)((modrm & 7) | (rex & 1) << 3);
        p++;
        if (modrm < 0xc0) {
            p = memory_operand(insn, bytes, p, rex);
        }
    } else if (form->plus_r) {
        insn->rm = (uint8_t)((b & 7) | (rex & 1) << 3);
    }
    if (segment) {
        insn->segment = (uint8_t)segment;
        insn->segment_override = true;
    }
    unsigned size = note >> 20 & 15;
    if (size) {
        p = immediate(insn, bytes, p, size, note >> 24 & NOTE_SIGNED);
    }
    insn->length = (uint8_t)(p - bytes);
    return true;
}
