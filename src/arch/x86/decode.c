/*
 * The instruction decoder. Works on bytes alone: no CPU state, no faults; the caller fetches and raises.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "arch/x86/decode.h"

#include "arch/x86/cpu.h"
#include "arch/x86/decode_quick.h"

#include <string.h>

/* The bytes of one instruction, read in order. */
typedef struct Reader {
    const uint8_t *bytes;
    size_t available;
    size_t pos;
    X86DecodeStatus status; /* OK until a read fails */
} Reader;

static inline bool reader_has(Reader *r, unsigned count)
{
    if (r->pos + count > X86_INSN_MAX) {
        r->status = r->available >= X86_INSN_MAX ? X86_DECODE_TOO_LONG : X86_DECODE_MORE;
        if (r->available >= X86_INSN_MAX || r->pos >= X86_INSN_MAX) {
            r->status = X86_DECODE_TOO_LONG;
        }
        return false;
    }
    if (r->pos + count > r->available) {
        r->status = X86_DECODE_MORE;
        return false;
    }
    return true;
}

/* The next byte, or 0 with the status set. */
static inline uint8_t reader_byte(Reader *r)
{
    return reader_has(r, 1) ? r->bytes[r->pos++] : 0;
}

static uint64_t reader_unsigned(Reader *r, unsigned count)
{
    uint64_t value = 0;
    uint32_t v32;
    uint16_t v16;
    if (!reader_has(r, count)) {
        return 0;
    }
    const uint8_t *from = r->bytes + r->pos;
    r->pos += count;
    /* Copies whose size the compiler knows. */
    switch (count) {
    case 1:
        return *from;
    case 2:
        memcpy(&v16, from, 2);
        return v16;
    case 4:
        memcpy(&v32, from, 4);
        return v32;
    case 8:
        memcpy(&value, from, 8);
        return value;
    default:
        memcpy(&value, from, count);
        return value;
    }
}

static int64_t sign_extend(uint64_t value, unsigned bytes)
{
    unsigned shift = 64 - bytes * 8;
    return (int64_t)(value << shift) >> shift;
}

/* Prefixes as they were seen, before the form is known. */
typedef struct Prefixes {
    uint8_t rex; /* the whole byte, or 0; of VEX the same bits, positive */
    bool has_66, has_67, lock;
    uint8_t rep;           /* 0, F2 or F3: the last one */
    int segment;           /* -1: none */
    bool evex_r2, evex_v2; /* EVEX.R' and V', positive */
} Prefixes;

static void read_legacy_prefixes(const X86DecodeMode *mode, Reader *r, Prefixes *p)
{
    p->segment = -1;
    while (reader_has(r, 1)) {
        uint8_t b = r->bytes[r->pos];
        switch (b) {
        case 0x66:
            p->has_66 = true;
            break;
        case 0x67:
            p->has_67 = true;
            break;
        case 0xf0:
            p->lock = true;
            break;
        case 0xf2:
        case 0xf3:
            p->rep = b;
            break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            if (mode->code_size != 8) {
                p->segment = (b >> 3) & 3;
            }
            break;
        case 0x64:
        case 0x65:
            p->segment = b - 0x64 + SEG_FS;
            break;
        default:
            if (mode->code_size == 8 && (b & 0xf0) == 0x40) {
                p->rex = b;
                r->pos++;
                /* A REX counts only right before the opcode: another prefix behind it makes it void. */
                if (reader_has(r, 1)) {
                    uint8_t next = r->bytes[r->pos];
                    switch (next) {
                    case 0x66:
                    case 0x67:
                    case 0xf0:
                    case 0xf2:
                    case 0xf3:
                    case 0x26:
                    case 0x2e:
                    case 0x36:
                    case 0x3e:
                    case 0x64:
                    case 0x65:
                        p->rex = 0;
                        continue;
                    default:
                        if ((next & 0xf0) == 0x40) {
                            p->rex = 0;
                            continue;
                        }
                        return;
                    }
                }
                return;
            }
            return;
        }
        r->pos++;
    }
}

/* Where C4, C5 or 62 opens a VEX or EVEX prefix rather than LES, LDS or BOUND. */
static bool opens_vex(const X86DecodeMode *mode, Reader *r, uint8_t b)
{
    if (b != 0xc4 && b != 0xc5 && b != 0x62) {
        return false;
    }
    if (mode->code_size == 8) {
        return true;
    }
    if (!mode->vex || !reader_has(r, 1)) {
        return false;
    }
    return (r->bytes[r->pos] & 0xc0) == 0xc0;
}

/* Reads what follows C4 or C5. False: reserved map. */
static bool read_vex(const X86DecodeMode *mode, Reader *r, uint8_t first, X86Insn *insn, Prefixes *p,
                     unsigned *map)
{
    static const uint8_t prefix_of_pp[4] = { X86_PREFIX_NP, X86_PREFIX_66, X86_PREFIX_F3, X86_PREFIX_F2 };
    uint8_t b1 = reader_byte(r), b2;
    bool r_bit = !(b1 & 0x80), x_bit = false, b_bit = false;
    *map = 1;
    insn->rex_w = 0;
    if (first == 0xc4) {
        x_bit = !(b1 & 0x40);
        b_bit = !(b1 & 0x20);
        *map = b1 & 0x1f;
        b2 = reader_byte(r);
        insn->rex_w = b2 >> 7;
        insn->vex_size = 3;
    } else {
        b2 = b1;
        insn->vex_size = 2;
    }
    insn->vvvv = (uint8_t)((~b2 >> 3) & 15);
    if (mode->code_size != 8) {
        b_bit = false;
    }
    insn->vex_l = (b2 >> 2) & 1;
    insn->mandatory = prefix_of_pp[b2 & 3];
    p->rex = (uint8_t)(0x40 | insn->rex_w << 3 | r_bit << 2 | x_bit << 1 | b_bit);
    return *map >= 1 && *map <= 3;
}

/* Reads what follows 62, SDM vol. 2 2.7.1. False: a reserved map or bit. */
static bool read_evex(const X86DecodeMode *mode, Reader *r, X86Insn *insn, Prefixes *p, unsigned *map)
{
    static const uint8_t prefix_of_pp[4] = { X86_PREFIX_NP, X86_PREFIX_66, X86_PREFIX_F3, X86_PREFIX_F2 };
    uint8_t p0 = reader_byte(r), p1 = reader_byte(r), p2 = reader_byte(r);
    bool b_bit = !(p0 & 0x20);
    *map = p0 & 7;
    insn->vex_size = 4;
    insn->rex_w = p1 >> 7;
    insn->vvvv = (uint8_t)((~p1 >> 3) & 15);
    insn->mandatory = prefix_of_pp[p1 & 3];
    insn->evex_z = p2 >> 7;
    insn->evex_ll = (p2 >> 5) & 3;
    insn->vex_l = insn->evex_ll;
    insn->evex_b = (p2 >> 4) & 1;
    insn->opmask = p2 & 7;
    p->evex_r2 = !(p0 & 0x10);
    p->evex_v2 = !(p2 & 8);
    if (mode->code_size != 8) {
        b_bit = p->evex_r2 = false; /* ignored; R and X are 1, or it would be BOUND */
    }
    p->rex = (uint8_t)(0x40 | insn->rex_w << 3 | (p0 & 0x80 ? 0 : 4) | (p0 & 0x40 ? 0 : 2) | b_bit);
    return *map >= 1 && *map <= 3 && !(p0 & 8) && (p1 & 4) && (mode->code_size == 8 || !p->evex_v2);
}

static bool feature_present(const X86DecodeMode *mode, unsigned feature)
{
    return feature == X86_FEATURE_NONE || (mode->features[feature / 64] >> (feature % 64) & 1);
}

static bool form_uses_vvvv(const X86Form *form)
{
    for (unsigned i = 0; i < form->operand_count; i++) {
        switch (form->operands[i].kind) {
        case X86_OPERAND_B:
        case X86_OPERAND_H:
        case X86_OPERAND_KV:
            return true;
        }
    }
    return false;
}

/* Whether EVEX.b of a form without memory operand asks for a rounding mode or no exceptions: the length is
 * 512 then. */
static bool evex_rounds(const X86Form *form, const X86Insn *insn, uint8_t modrm)
{
    return insn->evex_b && modrm >= 0xc0 && (form->evex & (X86_EVEX_ER | X86_EVEX_SAE));
}

static uint8_t form_operand_size(const X86DecodeMode *mode, const X86Form *form, const Prefixes *p,
                                 const X86Insn *insn)
{
    bool use_66 = p->has_66 && form->space == X86_SPACE_LEGACY;
    if (mode->code_size == 8) {
        if (form->attrs & X86_ATTR_F64) {
            return 8;
        }
        if (insn->rex_w) {
            return 8;
        }
        if (form->attrs & X86_ATTR_D64) {
            return use_66 ? 2 : 8;
        }
        return use_66 ? 2 : 4;
    }
    return (mode->code_size == 4) != use_66 ? 4 : 2;
}

static bool form_matches(const X86DecodeMode *mode, const X86Form *form, const Prefixes *p,
                         const X86Insn *insn, uint8_t modrm, uint8_t operand_size)
{
    if ((form->attrs & X86_ATTR_NO64) && mode->code_size == 8) {
        return false;
    }
    if ((form->attrs & X86_ATTR_ONLY64) && mode->code_size != 8) {
        return false;
    }
    if ((form->attrs & X86_ATTR_PROT) && !mode->protected_mode) {
        return false;
    }
    if (form->prefix != X86_PREFIX_ANY && form->prefix != insn->mandatory) {
        return false;
    }
    if (form->mnemonic == X86_PAUSE && (p->rex & 1)) {
        return false; /* F3 41 90 is XCHG r8, rAX */
    }
    if (form->w != X86_BIT_ANY && form->w != insn->rex_w) {
        return false;
    }
    if (form->space == X86_SPACE_EVEX) {
        unsigned l = evex_rounds(form, insn, modrm) ? 2 : insn->evex_ll;
        if (l == 3 || (form->l != X86_BIT_ANY && form->l != l)) {
            return false;
        }
        if ((form->evex & X86_EVEX_VL) && l < 2 && !feature_present(mode, X86_FEATURE_AVX512VL)) {
            return false;
        }
    } else if (form->l != X86_BIT_ANY && form->l != insn->vex_l) {
        return false;
    }
    if (form->has_modrm) {
        bool is_register = modrm >= 0xc0;
        if (form->exact_modrm >= 0 && form->exact_modrm != modrm) {
            return false;
        }
        if (form->digit >= 0 && form->digit != ((modrm >> 3) & 7)) {
            return false;
        }
        if ((form->mod == X86_MOD_MEM && is_register) || (form->mod == X86_MOD_REG && !is_register)) {
            return false;
        }
    }
    if (form->operand_size && form->operand_size != operand_size) {
        return false;
    }
    if (form->address_size && form->address_size != insn->address_size) {
        return false;
    }
    return feature_present(mode, form->feature);
}

bool x86_form_has_vsib(const X86Form *form)
{
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operands[i].kind == X86_OPERAND_VSIBX || form->operands[i].kind == X86_OPERAND_VSIBY) {
            return true;
        }
    }
    return false;
}

static void read_displacement(Reader *r, X86Insn *insn, unsigned size)
{
    insn->disp_offset = (uint8_t)r->pos;
    insn->disp_size = (uint8_t)size;
    insn->disp = (int32_t)sign_extend(reader_unsigned(r, size), size);
}

/* SDM vol. 2 table 2-1. */
static void read_memory_16(Reader *r, X86Insn *insn)
{
    static const uint8_t base[8] = { R_RBX, R_RBX, R_RBP, R_RBP, R_RSI, R_RDI, R_RBP, R_RBX };
    static const uint8_t index[8] = { R_RSI,        R_RDI,        R_RSI,        R_RDI,
                                      X86_REG_NONE, X86_REG_NONE, X86_REG_NONE, X86_REG_NONE };
    unsigned rm = insn->modrm & 7;
    insn->base = base[rm];
    insn->index = index[rm];
    if (insn->mod == 0 && rm == 6) {
        insn->base = X86_REG_NONE;
        read_displacement(r, insn, 2);
    } else if (insn->mod) {
        read_displacement(r, insn, insn->mod == 1 ? 1 : 2);
    }
}

/* SDM vol. 2 tables 2-2 and 2-3, with REX. */
static void read_memory_32(const X86DecodeMode *mode, Reader *r, X86Insn *insn, uint8_t rex, bool vsib)
{
    unsigned rm = insn->modrm & 7;
    if (rm == 4) {
        uint8_t sib = reader_byte(r);
        uint8_t index = (uint8_t)(((sib >> 3) & 7) | (rex & 2) << 2);
        insn->scale = sib >> 6;
        insn->index = index == 4 && !vsib ? X86_REG_NONE : index;
        insn->base = (uint8_t)((sib & 7) | (rex & 1) << 3);
        if ((sib & 7) == 5 && insn->mod == 0) {
            insn->base = X86_REG_NONE;
            read_displacement(r, insn, 4);
        }
    } else if (rm == 5 && insn->mod == 0) {
        insn->base = mode->code_size == 8 ? X86_REG_RIP : X86_REG_NONE;
        read_displacement(r, insn, 4);
    } else {
        insn->base = (uint8_t)(rm | (rex & 1) << 3);
    }
    if (insn->mod) {
        read_displacement(r, insn, insn->mod == 1 ? 1 : 4);
    }
}

/* The immediates that the operands name, in their order. */
static void read_immediates(const X86DecodeMode *mode, Reader *r, X86Insn *insn)
{
    bool first = true;
    for (unsigned i = 0; i < insn->form->operand_count; i++) {
        const X86Operand *operand = &insn->form->operands[i];
        unsigned size;
        bool sign = false;
        switch (operand->kind) {
        case X86_OPERAND_I:
            size = x86_operand_bytes(insn, operand);
            sign =
                operand->size == X86_SIZE_BS || operand->size == X86_SIZE_ZS || operand->size == X86_SIZE_DS;
            if (operand->size == X86_SIZE_BS) {
                size = 1;
            }
            break;
        case X86_OPERAND_J:
            size = operand->size == X86_SIZE_B ? 1 : insn->operand_size == 2 ? 2 : 4;
            sign = true;
            break;
        case X86_OPERAND_O:
            size = insn->address_size;
            break;
        case X86_OPERAND_A:
            insn->imm_offset = (uint8_t)r->pos;
            insn->imm = reader_unsigned(r, insn->operand_size);
            insn->imm2 = reader_unsigned(r, 2);
            insn->imm_size = insn->operand_size + 2;
            continue;
        case X86_OPERAND_L:
            size = 1;
            break;
        default:
            continue;
        }
        if (first) {
            insn->imm_offset = (uint8_t)r->pos;
        }
        uint64_t value = reader_unsigned(r, size);
        if (sign) {
            value = (uint64_t)sign_extend(value, size);
        }
        *(first ? &insn->imm : &insn->imm2) = value;
        insn->imm_size = (uint8_t)(insn->imm_size + size);
        first = false;
    }
}

/* Adds EVEX.R', X and V' to register numbers, and refuses what no form allows: SDM vol. 2 2.7.11. */
static bool finish_evex(const Prefixes *p, X86Insn *insn)
{
    const X86Form *form = insn->form;
    bool vsib = x86_form_has_vsib(form), mask_result = false;
    const X86Operand *memory = NULL;
    insn->vex_l = evex_rounds(form, insn, insn->modrm) ? 2 : insn->evex_ll;
    if (vsib) {
        insn->index |= (uint8_t)(p->evex_v2 << 4);
        if (!insn->opmask || insn->evex_z || insn->evex_b) {
            return false;
        }
    } else if (form_uses_vvvv(form)) {
        insn->vvvv |= (uint8_t)(p->evex_v2 << 4);
    } else if (p->evex_v2) {
        return false;
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        const X86Operand *operand = &form->operands[i];
        switch (operand->kind) {
        case X86_OPERAND_V:
            insn->reg |= (uint8_t)(p->evex_r2 << 4);
            break;
        case X86_OPERAND_G:
            if (p->evex_r2) {
                return false;
            }
            break;
        case X86_OPERAND_KR:
            if (p->evex_r2 || insn->reg > 7) {
                return false;
            }
            mask_result |= i == 0;
            break;
        case X86_OPERAND_KM:
            insn->rm &= 7;
            break;
        case X86_OPERAND_W:
        case X86_OPERAND_U:
            if (!insn->is_memory) {
                insn->rm |= (uint8_t)((p->rex & 2) << 3);
            }
            memory = operand;
            break;
        case X86_OPERAND_E:
        case X86_OPERAND_M:
            memory = operand;
            break;
        default:
            break;
        }
    }
    if (insn->opmask && !(form->evex & (X86_EVEX_K | X86_EVEX_KK))) {
        return false;
    }
    if (insn->evex_z && (!insn->opmask || !(form->evex & X86_EVEX_Z) || mask_result ||
                         (insn->is_memory && memory && (memory->access & X86_ACCESS_W)))) {
        return false;
    }
    if (insn->evex_b && (insn->is_memory ? form->broadcast == 0 : !evex_rounds(form, insn, insn->modrm))) {
        return false;
    }
    if (insn->is_memory && insn->disp_size == 1) {
        unsigned scale = form->evex & X86_EVEX_T1S ? form->element
                         : memory                  ? x86_memory_bytes(insn, memory)
                                                   : 1;
        insn->disp *= (int32_t)scale;
    }
    return true;
}

/* The VEX-encoded instructions on mask registers. */
static bool finish_opmask(const X86DecodeMode *mode, X86Insn *insn)
{
    const X86Form *form = insn->form;
    for (unsigned i = 0; i < form->operand_count; i++) {
        switch (form->operands[i].kind) {
        case X86_OPERAND_KR:
            if (insn->reg > 7) {
                return false;
            }
            break;
        case X86_OPERAND_KV:
            if (insn->vvvv > 7 && mode->code_size == 8) {
                return false;
            }
            break;
        case X86_OPERAND_KM:
            insn->rm &= 7;
            break;
        default:
            break;
        }
    }
    return true;
}

static bool lock_allowed(const X86Insn *insn)
{
    return (insn->form->attrs & X86_ATTR_LOCK) && insn->is_memory;
}

/* Apart, so that the short way needs no room for what this keeps. */
static __attribute__((noinline)) X86DecodeStatus decode(const X86DecodeMode *mode, const uint8_t *bytes,
                                                        size_t available, X86Insn *insn)
{
    Reader r = { .bytes = bytes, .available = available < X86_INSN_MAX ? available : X86_INSN_MAX };
    Prefixes p = { 0 };
    unsigned map = 0, space = X86_SPACE_LEGACY;
    memset(insn, 0, sizeof(*insn));
    if (available >= sizeof(insn->bytes)) {
        memcpy(insn->bytes, bytes, sizeof(insn->bytes)); /* of a size that the compiler knows */
    } else {
        memcpy(insn->bytes, bytes, r.available);
    }
    insn->base = insn->index = X86_REG_NONE;
    read_legacy_prefixes(mode, &r, &p);
    uint8_t opcode = reader_byte(&r);
    if (r.status != X86_DECODE_OK) {
        return r.status;
    }
    insn->prefixes = (uint8_t)((p.lock ? X86_INSN_LOCK : 0) | (p.rep == 0xf3 ? X86_INSN_REP : 0) |
                               (p.rep == 0xf2 ? X86_INSN_REPNE : 0) | (p.has_66 ? X86_INSN_66 : 0) |
                               (p.has_67 ? X86_INSN_67 : 0) | (p.rex ? X86_INSN_REX : 0));
    insn->mandatory = p.rep == 0xf3   ? X86_PREFIX_F3
                      : p.rep == 0xf2 ? X86_PREFIX_F2
                      : p.has_66      ? X86_PREFIX_66
                                      : X86_PREFIX_NP;
    insn->rex_w = (p.rex >> 3) & 1;
    insn->address_size = mode->code_size == 8                 ? (p.has_67 ? 4 : 8)
                         : (mode->code_size == 4) != p.has_67 ? 4
                                                              : 2;
    insn->length = (uint8_t)r.pos;
    if (opens_vex(mode, &r, opcode)) {
        bool evex = opcode == 0x62;
        insn->vex_offset = (uint8_t)(r.pos - 1);
        bool known_map =
            evex ? read_evex(mode, &r, insn, &p, &map) : read_vex(mode, &r, opcode, insn, &p, &map);
        opcode = reader_byte(&r);
        if (r.status != X86_DECODE_OK) {
            return r.status;
        }
        if (!known_map || !mode->vex || p.has_66 || p.rep || p.lock || (insn->prefixes & X86_INSN_REX)) {
            return X86_DECODE_UD;
        }
        space = evex ? X86_SPACE_EVEX : X86_SPACE_VEX;
    } else if (opcode == 0x0f) {
        map = 1;
        opcode = reader_byte(&r);
        if (opcode == 0x38 || opcode == 0x3a) {
            map = opcode == 0x38 ? 2 : 3;
            opcode = reader_byte(&r);
        }
    }
    insn->opcode_offset = (uint8_t)(r.pos - 1);
    if (r.status != X86_DECODE_OK) {
        return r.status;
    }
    const X86FormIndex *index = &x86_form_index[space][map][opcode];
    const X86Form *form = NULL;
    uint8_t modrm = 0;
    for (unsigned i = 0; i < index->count; i++) {
        const X86Form *candidate = &x86_forms[x86_form_lists[index->start + i]];
        if (candidate->has_modrm) {
            if (!reader_has(&r, 1)) {
                return r.status;
            }
            modrm = r.bytes[r.pos];
            if (space == X86_SPACE_LEGACY && map == 1 && (opcode & 0xfc) == 0x20) {
                modrm |= 0xc0; /* MOV CRn, DRn: mod is ignored */
            }
        }
        uint8_t operand_size = form_operand_size(mode, candidate, &p, insn);
        if (form_matches(mode, candidate, &p, insn, modrm, operand_size)) {
            form = candidate;
            insn->operand_size = operand_size;
            break;
        }
    }
    insn->length = (uint8_t)r.pos;
    if (!form) {
        return X86_DECODE_UD;
    }
    insn->form = form;
    insn->segment = SEG_DS;
    if (form->has_modrm) {
        insn->modrm_offset = (uint8_t)r.pos++;
        insn->modrm = modrm;
        insn->mod = modrm >> 6;
        insn->reg = (uint8_t)(((modrm >> 3) & 7) | (p.rex & 4) << 1);
        insn->rm = (uint8_t)((modrm & 7) | (p.rex & 1) << 3);
        if (insn->mod != 3) {
            bool vsib = x86_form_has_vsib(form);
            insn->is_memory = true;
            if (vsib && (insn->address_size == 2 || (modrm & 7) != 4)) {
                return X86_DECODE_UD;
            }
            if (insn->address_size == 2) {
                read_memory_16(&r, insn);
            } else {
                read_memory_32(mode, &r, insn, p.rex, vsib);
            }
            if (insn->base == R_RSP || insn->base == R_RBP) {
                insn->segment = SEG_SS;
            }
        }
    } else if (form->plus_r) {
        insn->rm = (uint8_t)((opcode & 7) | (p.rex & 1) << 3);
    }
    if (p.segment >= 0) {
        insn->segment = (uint8_t)p.segment;
        insn->segment_override = true;
    }
    read_immediates(mode, &r, insn);
    if (r.status != X86_DECODE_OK) {
        return r.status;
    }
    insn->length = (uint8_t)r.pos;
    if (p.lock && !lock_allowed(insn)) {
        return X86_DECODE_UD;
    }
    if (space != X86_SPACE_LEGACY && insn->vvvv && !form_uses_vvvv(form)) {
        return X86_DECODE_UD;
    }
    if (space == X86_SPACE_EVEX && !finish_evex(&p, insn)) {
        return X86_DECODE_UD;
    }
    if (space == X86_SPACE_VEX && (form->attrs & X86_ATTR_AVX512) && !finish_opmask(mode, insn)) {
        return X86_DECODE_UD;
    }
    if (mode->code_size != 8) {
        insn->vvvv &= 7; /* the high bit counts only where it must be 1 for "none" */
    }
    return X86_DECODE_OK;
}

X86DecodeStatus x86_decode(const X86DecodeMode *mode, const uint8_t *bytes, size_t available, X86Insn *insn)
{
    bool quick = mode->code_size == 8 && mode->protected_mode;

    if (quick && available >= sizeof(insn->bytes) && x86_decode_quick(mode, bytes, insn)) {
        return X86_DECODE_OK;
    }
    X86DecodeStatus status = decode(mode, bytes, available, insn);
    if (quick && status == X86_DECODE_OK) {
        x86_decode_note(insn);
    }
    return status;
}

void x86_decode_all_features(X86DecodeMode *mode)
{
    memset(mode->features, 0xff, sizeof(mode->features));
}

unsigned x86_operand_bytes(const X86Insn *insn, const X86Operand *operand)
{
    unsigned vl = 16u << insn->vex_l;
    switch (operand->size) {
    case X86_SIZE_B:
        return 1;
    case X86_SIZE_BS:
    case X86_SIZE_V:
        return insn->operand_size;
    case X86_SIZE_W:
        return 2;
    case X86_SIZE_D:
    case X86_SIZE_DS:
        return 4;
    case X86_SIZE_Q:
        return 8;
    case X86_SIZE_T:
        return 10;
    case X86_SIZE_DQ:
        return 16;
    case X86_SIZE_QQ:
        return 32;
    case X86_SIZE_X:
        return vl;
    case X86_SIZE_H:
        return vl / 2;
    case X86_SIZE_F:
        return vl / 4;
    case X86_SIZE_E:
        return vl / 8;
    case X86_SIZE_Z:
    case X86_SIZE_ZS:
        return insn->operand_size == 2 ? 2 : 4;
    case X86_SIZE_Y:
        return insn->operand_size == 8 ? 8 : 4;
    case X86_SIZE_P:
        return insn->operand_size + 2;
    default:
        return 0;
    }
}

unsigned x86_memory_bytes(const X86Insn *insn, const X86Operand *operand)
{
    return insn->evex_b && insn->is_memory ? insn->form->broadcast : x86_operand_bytes(insn, operand);
}
