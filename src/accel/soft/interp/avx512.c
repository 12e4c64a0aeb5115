/*
 * AVX-512: EVEX-encoded instructions and those on mask registers. Operands, masks of memory operands and
 * faults here, the computation in native.c's stubs, which see registers only. Exception classes after SDM
 * vol. 2 2.8: an element of a memory operand whose mask is clear is not accessed, unless the table says nf.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/fpu.h"
#include "arch/x86/system.h"

/* InterpNative.aux. A memory operand is so many lanes (1 << AUX_LANES) of 1 << AUX_LANE bytes; the mask has 1
 * << AUX_BITS bits, of which several stand for one lane where memory is broadcast. */
#define AUX_SIZE        0x7fu /* of the memory operand in bytes; 0: none */
#define AUX_WRITE       (1u << 7)
#define AUX_LANE_SHIFT  8          /* 3 bits */
#define AUX_LANES_SHIFT 11         /* 3 bits */
#define AUX_BITS_SHIFT  14         /* 3 bits */
#define AUX_PACKED      (1u << 17) /* compress, expand: as many elements as the mask has bits, side by side */
#define AUX_WHOLE       (1u << 18) /* whatever the mask says */
#define AUX_BROADCAST   (1u << 19)
#define AUX_ALIGN       (1u << 20)
#define AUX_GPR         (1u << 21) /* the memory operand stands for a general register */
#define AUX_VEC_SHIFT   24         /* reg, vvvv, rm are vectors */
#define AUX_K_SHIFT     27         /* ... masks */

static void check_avx512(X86Cpu *cpu)
{
    if (G_LIKELY(cpu->mode & MODE_AVX512_OK)) {
        return;
    }
    /* XCR0 comes before CR0.TS. */
    if ((cpu->xcr0 & (XCR0_AVX512 | 6)) != (XCR0_AVX512 | 6)) {
        x86_raise(cpu, EXC_UD);
    }
    fpu_unavailable_avx(cpu);
}

/* ---- registers ---- */

static uint8_t *vec_at(X86Cpu *cpu, unsigned number, unsigned at)
{
    if (number >= 16) {
        return cpu->xsave + cpu->xsave_hi16 + (number - 16) * 64 + at;
    }
    return at < 16   ? cpu->xsave + XSAVE_XMM + number * 16 + at
           : at < 32 ? cpu->xsave + XSAVE_AVX + number * 16 + at - 16
                     : cpu->xsave + cpu->xsave_zmm_hi + number * 32 + at - 32;
}

static void vec_get(X86Cpu *cpu, unsigned number, uint8_t out[64])
{
    if (number >= 16) {
        memcpy(out, vec_at(cpu, number, 0), 64);
    } else {
        memcpy(out, vec_at(cpu, number, 0), 16);
        memcpy(out + 16, vec_at(cpu, number, 16), 16);
        memcpy(out + 32, vec_at(cpu, number, 32), 32);
    }
}

static void vec_put(X86Cpu *cpu, unsigned number, const uint8_t in[64])
{
    if (number >= 16) {
        memcpy(vec_at(cpu, number, 0), in, 64);
    } else {
        memcpy(vec_at(cpu, number, 0), in, 16);
        memcpy(vec_at(cpu, number, 16), in + 16, 16);
        memcpy(vec_at(cpu, number, 32), in + 32, 32);
    }
}

static uint64_t mask_get(const X86Cpu *cpu, unsigned number)
{
    return xsave_get64(cpu->xsave, cpu->xsave_opmask + number * 8u);
}

static void mask_put(X86Cpu *cpu, unsigned number, uint64_t value)
{
    xsave_put64(cpu->xsave, cpu->xsave_opmask + number * 8u, value);
}

static uint64_t low_bits(unsigned n)
{
    return n >= 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1;
}

/* ---- memory operands ---- */

/* The linear address of size bytes at offset at of the operand. */
static uint64_t part_linear(X86Cpu *cpu, const InterpNative *n, uint64_t effective, unsigned at,
                            unsigned size, bool write)
{
    const X86Insn *insn = &n->insn;
    uint64_t offset = effective + at;
    if (insn->address_size != 8) {
        offset &= insn->address_size == 4 ? 0xffffffffu : 0xffffu;
    }
    return x86_linear(cpu, insn->segment, offset, size, write);
}

/* Which lanes the mask selects. */
static uint64_t selected_lanes(uint32_t aux, uint64_t mask)
{
    unsigned bits = 1u << (aux >> AUX_BITS_SHIFT & 7), lanes = 1u << (aux >> AUX_LANES_SHIFT & 7);
    mask &= low_bits(bits);
    while (bits > lanes) {
        bits /= 2;
        mask |= mask >> bits;
        mask &= low_bits(bits);
    }
    return mask;
}

static void check_operand_alignment(X86Cpu *cpu, uint64_t linear, uint32_t aux, unsigned size)
{
    if ((aux & AUX_ALIGN) && (linear & (size - 1))) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
}

/* A run of lanes that are all selected: from *from on; returns how many. */
static unsigned next_run(uint64_t selected, unsigned lanes, unsigned *from)
{
    unsigned i = *from, start;
    while (i < lanes && !(selected >> i & 1)) {
        i++;
    }
    start = i;
    while (i < lanes && (selected >> i & 1)) {
        i++;
    }
    *from = start;
    return i - start;
}

/* Reads (or probes for writing) what is selected of the operand into buffer, which is at the operand's start.
 */
static void operand_access(X86Cpu *cpu, const InterpNative *n, uint64_t selected, uint8_t *buffer)
{
    uint32_t aux = n->aux;
    unsigned size = aux & AUX_SIZE, lane = 1u << (aux >> AUX_LANE_SHIFT & 7),
             lanes = 1u << (aux >> AUX_LANES_SHIFT & 7);
    bool write = aux & AUX_WRITE;
    if (!write) {
        memset(buffer, 0, 64);
    }
    if ((aux & AUX_WHOLE) || (!n->insn.opmask && !((aux & AUX_PACKED) && write))) {
        uint64_t linear = interp_linear(cpu, n, size, write);
        check_operand_alignment(cpu, linear, aux, size);
        fpu_check_ac(cpu, linear, MIN(size, 16u));
        if (write) {
            x86_probe(cpu, linear, size, MMU_WRITE);
        } else {
            x86_read_bytes(cpu, linear, buffer, size);
        }
        return;
    }
    uint64_t effective = interp_effective(cpu, n);
    if (aux & AUX_PACKED) {
        lanes = (unsigned)__builtin_popcountll(selected);
        selected = low_bits(lanes);
    }
    if (selected && (aux & AUX_ALIGN)) {
        check_operand_alignment(cpu, part_linear(cpu, n, effective, 0, 1, write), aux, size);
    }
    for (unsigned at = 0, count; (count = next_run(selected, lanes, &at)) > 0; at += count) {
        uint64_t linear = part_linear(cpu, n, effective, at * lane, count * lane, write);
        fpu_check_ac(cpu, linear, lane);
        if (write) {
            x86_probe(cpu, linear, count * lane, MMU_WRITE);
        } else {
            x86_read_bytes(cpu, linear, buffer + at * lane, count * lane);
        }
    }
}

/* Writes it: every page was probed. */
static void operand_write(X86Cpu *cpu, const InterpNative *n, uint64_t selected, const uint8_t *buffer)
{
    uint32_t aux = n->aux;
    unsigned lane = 1u << (aux >> AUX_LANE_SHIFT & 7), lanes = 1u << (aux >> AUX_LANES_SHIFT & 7);
    uint64_t effective = interp_effective(cpu, n);
    if (aux & AUX_PACKED) {
        lanes = (unsigned)__builtin_popcountll(selected);
        selected = low_bits(lanes);
    }
    for (unsigned at = 0, count; (count = next_run(selected, lanes, &at)) > 0; at += count) {
        uint64_t linear = part_linear(cpu, n, effective, at * lane, count * lane, true);
        x86_write_bytes(cpu, linear, buffer + at * lane, count * lane);
    }
}

static void broadcast(uint8_t *buffer, unsigned size)
{
    for (unsigned at = size; at < 64; at += size) {
        memcpy(buffer + at, buffer, size);
    }
}

/* ---- execution through a stub ---- */

static void exec_evex(X86Cpu *cpu, const InterpNative *n)
{
    NativeEvexArgs args __attribute__((aligned(64)));
    const X86Insn *insn = &n->insn;
    const X86Form *form = insn->form;
    uint32_t aux = n->aux;
    uint64_t selected = 0;
    uint8_t *memory = args.rm;

    check_avx512(cpu);
    args.mask = insn->opmask ? mask_get(cpu, insn->opmask) : UINT64_MAX;
    if (aux & AUX_SIZE) {
        selected = selected_lanes(aux, args.mask);
        operand_access(cpu, n, selected, memory);
        if (aux & AUX_BROADCAST) {
            broadcast(memory, aux & AUX_SIZE);
        }
        if (!(aux & AUX_WRITE)) {
            args.gpr = xsave_get64(memory, 0);
        }
    } else {
        if (aux & (4u << AUX_VEC_SHIFT)) {
            vec_get(cpu, insn->rm, args.rm);
        } else if (aux & (4u << AUX_K_SHIFT)) {
            args.rm_mask = mask_get(cpu, insn->rm);
        } else {
            args.gpr = cpu->regs[insn->rm & 15]; /* where it is one */
        }
    }
    if (aux & (1u << AUX_VEC_SHIFT)) {
        vec_get(cpu, insn->reg, args.reg);
    } else if (aux & (1u << AUX_K_SHIFT)) {
        args.reg_mask = mask_get(cpu, insn->reg);
    }
    if (aux & (2u << AUX_VEC_SHIFT)) {
        vec_get(cpu, insn->vvvv, args.vvvv);
    } else if (aux & (2u << AUX_K_SHIFT)) {
        args.vvvv_mask = mask_get(cpu, insn->vvvv & 7);
    }
    int vector = ((NativeEvexStub *)n->data)(cpu->xsave, &args);
    if (G_UNLIKELY(vector)) {
        fpu_raise_native(cpu, vector);
    }
    if (aux & AUX_WRITE) {
        if (aux & AUX_GPR) {
            xsave_put64(memory, 0, args.gpr);
        }
        operand_write(cpu, n, selected, memory);
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        const X86Operand *o = &form->operands[i];
        if (!(o->access & X86_ACCESS_W)) {
            continue;
        }
        switch (o->kind) {
        case X86_OPERAND_V:
            vec_put(cpu, insn->reg, args.reg);
            break;
        case X86_OPERAND_H:
            vec_put(cpu, insn->vvvv, args.vvvv);
            break;
        case X86_OPERAND_W:
        case X86_OPERAND_U:
            if (!insn->is_memory) {
                vec_put(cpu, insn->rm, args.rm);
            }
            break;
        case X86_OPERAND_KR:
            mask_put(cpu, insn->reg, args.reg_mask);
            break;
        case X86_OPERAND_KM:
            if (!insn->is_memory) {
                mask_put(cpu, insn->rm, args.rm_mask);
            }
            break;
        case X86_OPERAND_G:
            cpu->regs[insn->reg] = args.gpr;
            break;
        case X86_OPERAND_E:
        case X86_OPERAND_R:
            if (!insn->is_memory) {
                cpu->regs[insn->rm] = args.gpr;
            }
            break;
        default:
            break;
        }
    }
    if (form->flags_written & FLAGS_ARITH) {
        x86_set_arith(cpu, (uint32_t)args.flags);
    }
    cpu->fpu_bv |= cpu->fpu_mask;
}

/* ---- moves of whole registers to memory that bypass the caches, and back ---- */

static void exec_nontemporal(X86Cpu *cpu, const InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    unsigned size = n->aux & AUX_SIZE;
    bool write = n->aux & AUX_WRITE;
    uint8_t value[64] = { 0 };
    check_avx512(cpu);
    uint64_t linear = interp_linear(cpu, n, size, write);
    check_operand_alignment(cpu, linear, n->aux, size);
    if (write) {
        vec_get(cpu, insn->reg, value);
        x86_write_bytes(cpu, linear, value, size);
    } else {
        x86_read_bytes(cpu, linear, value, size);
        vec_put(cpu, insn->reg, value);
        cpu->fpu_bv |= cpu->fpu_mask;
    }
}

/* ---- gathers and scatters, SDM vol. 2 VGATHERDPS, VSCATTERDPS and theirs ---- */

static void zero_above(X86Cpu *cpu, unsigned number, unsigned from)
{
    for (unsigned i = from; i < 64; i += 8) {
        xsave_put64(vec_at(cpu, number, i), 0, 0);
    }
}

/* aux: element size | index size << 8 | elements << 16 | scatter << 24. What is done is done where a later
 * element faults: its bit of the mask is clear. */
static void exec_vsib(X86Cpu *cpu, const InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    unsigned element = n->aux & 0xff, index_size = n->aux >> 8 & 0xff, count = n->aux >> 16 & 0xff;
    bool scatter = n->aux >> 24;
    check_avx512(cpu);
    uint64_t address_mask = insn->address_size == 8 ? UINT64_MAX : 0xffffffffu;
    uint64_t base = insn->base < 16 ? cpu->regs[insn->base] : 0;
    MmuIndex access = (MmuIndex)cpu->mmu->index;
    if (access == MMU_USER_ALIGN) {
        access = MMU_USER; /* elements need not be aligned even where alignment is checked */
    }
    cpu->fpu_bv |= cpu->fpu_mask;
    uint64_t mask = mask_get(cpu, insn->opmask);
    for (unsigned i = 0, done = 0; i < count; i++) {
        if (mask >> i & 1) {
            const uint8_t *index = vec_at(cpu, insn->index, i * index_size);
            int64_t at = index_size == 4 ? (int32_t)xsave_get32(index, 0) : (int64_t)xsave_get64(index, 0);
            uint64_t offset =
                (base + ((uint64_t)at << insn->scale) + (uint64_t)(int64_t)insn->disp) & address_mask;
            uint64_t linear = x86_linear(cpu, insn->segment, offset, element, scatter);
            uint8_t *value = vec_at(cpu, insn->reg, i * element);
            if (scatter) {
                x86_probe_idx(cpu, linear, element, MMU_WRITE, access);
                x86_write_bytes(cpu, linear, value, element);
            } else if (element == 4) {
                xsave_put32(value, 0, x86_ld32_idx(cpu, linear, access));
            } else {
                xsave_put64(value, 0, x86_ld64_idx(cpu, linear, access));
            }
            mask &= ~(UINT64_C(1) << i);
            mask_put(cpu, insn->opmask, mask);
            if (!scatter && !done++) {
                zero_above(cpu, insn->reg, 16u << insn->vex_l);
            }
        }
    }
    mask_put(cpu, insn->opmask, 0);
    if (!scatter) {
        zero_above(cpu, insn->reg, count * element);
    }
}

static FpuExec *bind_vsib(InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    unsigned element = insn->form->element, index_size = 0, vl = 16u << insn->vex_l;
    bool scatter = false;
    switch (insn->form->mnemonic) {
    case X86_VPSCATTERDD:
    case X86_VPSCATTERDQ:
    case X86_VSCATTERDPS:
    case X86_VSCATTERDPD:
        scatter = true;
        index_size = 4;
        break;
    case X86_VPSCATTERQD:
    case X86_VPSCATTERQQ:
    case X86_VSCATTERQPS:
    case X86_VSCATTERQPD:
        scatter = true;
        index_size = 8;
        break;
    case X86_VPGATHERDD:
    case X86_VPGATHERDQ:
    case X86_VGATHERDPS:
    case X86_VGATHERDPD:
        index_size = 4;
        break;
    default:
        index_size = 8;
        break;
    }
    if (!scatter && insn->reg == insn->index) {
        return NULL;
    }
    n->aux = element | index_size << 8 | vl / MAX(element, index_size) << 16 | (scatter ? 1u << 24 : 0);
    return exec_vsib;
}

/* ---- binding ---- */

static unsigned log2_of(unsigned n)
{
    return (unsigned)__builtin_ctz(n);
}

/* What of aux describes the memory operand. */
static uint32_t memory_aux(const X86Insn *insn, const X86Operand *o)
{
    const X86Form *form = insn->form;
    unsigned vl = 16u << insn->vex_l, size = x86_memory_bytes(insn, o);
    bool relative =
        false; /* lanes go with the vector's; else the operand is repeated, or not masked by lanes */
    switch (o->size) {
    case X86_SIZE_Y:
        size = insn->operand_size == 8 ? 8 : 4;
        break;
    case X86_SIZE_X:
    case X86_SIZE_H:
    case X86_SIZE_F:
    case X86_SIZE_E:
        relative = true;
        break;
    default:
        break;
    }
    uint32_t aux = size | (o->access & X86_ACCESS_W ? AUX_WRITE : 0) |
                   (form->attrs & X86_ATTR_ALIGN ? AUX_ALIGN : 0) | (o->kind == X86_OPERAND_E ? AUX_GPR : 0) |
                   (insn->evex_b ? AUX_BROADCAST : 0);
    if (!(form->evex & X86_EVEX_K)) {
        return aux | AUX_WHOLE | log2_of(size) << AUX_LANE_SHIFT; /* one lane */
    }
    unsigned bits = vl / form->element, lane;
    if (form->evex & X86_EVEX_ONE) {
        bits = 1;
        lane = size;
    } else if (form->evex & X86_EVEX_ME) {
        bits = size / form->element;
        lane = form->element;
    } else if (insn->evex_b) {
        lane = size;
    } else {
        lane = relative ? size / bits : MIN(size, form->element);
    }
    aux |= log2_of(lane) << AUX_LANE_SHIFT | log2_of(size / lane) << AUX_LANES_SHIFT |
           log2_of(bits) << AUX_BITS_SHIFT;
    return aux | (form->evex & X86_EVEX_NF ? AUX_WHOLE : 0) | (form->evex & X86_EVEX_T1S ? AUX_PACKED : 0);
}

/* KMOV to and from memory. */
static void exec_kmov(X86Cpu *cpu, const InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    unsigned size = n->aux & AUX_SIZE;
    bool write = n->aux & AUX_WRITE;
    uint8_t value[8] = { 0 };
    check_avx512(cpu);
    uint64_t linear = interp_linear(cpu, n, size, write);
    fpu_check_ac(cpu, linear, size);
    if (write) {
        xsave_put64(value, 0, mask_get(cpu, insn->reg));
        x86_write_bytes(cpu, linear, value, size);
    } else {
        x86_read_bytes(cpu, linear, value, size);
        mask_put(cpu, insn->reg, xsave_get64(value, 0));
        cpu->fpu_bv |= cpu->fpu_mask;
    }
}

FpuExec *avx512_bind(X86Cpu *cpu, InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    const X86Form *form = insn->form;
    NativeEvexForm f = { .evex = form->space == X86_SPACE_EVEX, .map = form->map, .opcode = form->opcode };
    uint32_t aux = 0;

    if (!cpu->xsave_opmask) {
        return NULL;
    }
    if (x86_form_has_vsib(form)) {
        return bind_vsib(n);
    }
    f.prefix = form->prefix == X86_PREFIX_66   ? 0x66
               : form->prefix == X86_PREFIX_F3 ? 0xf3
               : form->prefix == X86_PREFIX_F2 ? 0xf2
                                               : 0;
    f.w = form->w == X86_BIT_1;
    f.masked = f.evex && (form->evex & X86_EVEX_K);
    f.z = insn->evex_z;
    f.b = insn->evex_b && !insn->is_memory;
    /* One stub for all encodings that mean the same: L'L does not matter to scalars and behind {sae}. */
    bool sized = form->l != X86_BIT_ANY || (form->evex & X86_EVEX_VL);
    f.ll = f.b ? (form->evex & X86_EVEX_ER ? insn->evex_ll : 2) : sized ? insn->vex_l : 0;
    if (form->digit >= 0) {
        f.reg_kind = NATIVE_E_DIGIT;
        f.digit = (uint8_t)form->digit;
    }
    f.flags = (uint8_t)((form->attrs & X86_ATTR_FP ? NATIVE_E_FP : 0) |
                        (form->flags_written & FLAGS_ARITH ? NATIVE_E_OUT_FLAGS : 0));
    for (unsigned i = 0; i < form->operand_count; i++) {
        const X86Operand *o = &form->operands[i];
        bool out = o->access & X86_ACCESS_W;
        uint8_t rm_kind = 0;
        switch (o->kind) {
        case X86_OPERAND_V:
        case X86_OPERAND_G:
        case X86_OPERAND_KR:
            f.reg_kind = o->kind == X86_OPERAND_V    ? NATIVE_E_VEC
                         : o->kind == X86_OPERAND_KR ? NATIVE_E_MASK
                                                     : NATIVE_E_GPR;
            f.flags |= out ? NATIVE_E_OUT_REG : 0;
            break;
        case X86_OPERAND_H:
        case X86_OPERAND_KV:
            f.vvvv_kind = o->kind == X86_OPERAND_H ? NATIVE_E_VEC : NATIVE_E_MASK;
            f.flags |= out ? NATIVE_E_OUT_VVVV : 0;
            break;
        case X86_OPERAND_W:
        case X86_OPERAND_U:
            rm_kind = NATIVE_E_VEC;
            break;
        case X86_OPERAND_KM:
            rm_kind = NATIVE_E_MASK;
            break;
        case X86_OPERAND_E:
        case X86_OPERAND_R:
            rm_kind = NATIVE_E_GPR;
            break;
        case X86_OPERAND_M:
            rm_kind = NATIVE_E_MEM;
            break;
        case X86_OPERAND_I:
            f.has_imm = true;
            f.imm = (uint8_t)insn->imm;
            break;
        default:
            break;
        }
        if (o->size == X86_SIZE_Y && insn->operand_size == 8) {
            f.w = 1;
        }
        if (rm_kind) {
            f.rm_kind = rm_kind;
            f.flags |= out ? NATIVE_E_OUT_RM : 0;
            if (insn->is_memory) {
                aux |= memory_aux(insn, o);
                if (rm_kind == NATIVE_E_MASK) {
                    n->aux = aux;
                    return exec_kmov;
                }
            }
        }
    }
    if (aux & AUX_ALIGN && form->operand_count == 2 && !(form->evex & X86_EVEX_K)) {
        n->aux = aux; /* VMOVNTPS and its like, VMOVNTDQA */
        return exec_nontemporal;
    }
    if (f.rm_kind == NATIVE_E_MEM) {
        f.flags &= (uint8_t)~NATIVE_E_OUT_RM;
    }
    const uint8_t kinds[3] = { f.reg_kind, f.vvvv_kind, f.rm_kind };
    for (unsigned i = 0; i < 3; i++) {
        aux |= kinds[i] == NATIVE_E_VEC    ? 1u << (AUX_VEC_SHIFT + i)
               : kinds[i] == NATIVE_E_MASK ? 1u << (AUX_K_SHIFT + i)
                                           : 0;
    }
    n->aux = aux;
    n->data = (void *)native_evex_stub(&f);
    return n->data ? exec_evex : NULL;
}
