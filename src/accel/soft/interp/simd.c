/*
 * MMX, SSE and AVX instructions: operands and faults here, the computation in native.c's stubs. Exception
 * order and alignment rules after SDM vol. 2 2.5 (types 1 to 12) for VEX forms and vol. 3 chapters 12 and 13
 * for legacy ones. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/fpu.h"
#include "arch/x86/system.h"

#include <stddef.h>

/* InterpNative.aux of forms that run through a stub. */
#define AUX_SIZE        0x3fu /* of the memory operand in bytes; 0: none */
#define AUX_READ        (1u << 6)
#define AUX_WRITE       (1u << 7)
#define AUX_ALIGN_SHIFT 8 /* 5 bits: a mask of address bits that must be 0, or else #GP(0) */
#define AUX_GPR_IN      (1u << 13)
#define AUX_GPR_OUT     (1u << 14)
#define AUX_GPR_SHIFT   15 /* 4 bits */
#define AUX_FLAGS_OUT   (1u << 19)
#define AUX_STRING      (1u << 20) /* PCMPxSTRx: AX and DX in */
#define AUX_CX_OUT      (1u << 21)
#define AUX_AVX         (1u << 22)
#define AUX_SSE         (1u << 23)
#define AUX_MMX         (1u << 24)
#define AUX_L           (1u << 26) /* 256 bits */
#define AUX_PENDING     (1u << 25) /* a pending x87 exception comes first */
#define AUX_OUT_REG     (1u << 27) /* a VEX form writes a vector register in ModRM.reg, rm, vvvv, or XMM0 */
#define AUX_OUT_RM      (1u << 28)
#define AUX_OUT_VVVV    (1u << 29)
#define AUX_OUT_XMM0    (1u << 30)
#define AUX_OUT         (AUX_OUT_REG | AUX_OUT_RM | AUX_OUT_VVVV | AUX_OUT_XMM0)
#define AUX_FLAGS       (AUX_FLAGS_OUT | AUX_STRING | AUX_CX_OUT | AUX_GPR_IN | AUX_GPR_OUT)

void fpu_unavailable_sse(X86Cpu *cpu)
{
    if ((cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR)) {
        x86_raise(cpu, EXC_UD);
    }
    x86_raise(cpu, EXC_NM);
}

void fpu_unavailable_avx(X86Cpu *cpu)
{
    if (!(cpu->mode & MODE_PE) || (cpu->mode & MODE_VM86) || !(cpu->cr4 & CR4_OSXSAVE) ||
        (cpu->xcr0 & 6) != 6) {
        x86_raise(cpu, EXC_UD);
    }
    x86_raise(cpu, EXC_NM);
}

void fpu_unavailable_mmx(X86Cpu *cpu)
{
    x86_raise(cpu, cpu->cr0 & CR0_EM ? EXC_UD : EXC_NM);
}

/* ---- binding ---- */

static bool form_has_size(const X86Form *form, unsigned size)
{
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operands[i].size == size) {
            return true;
        }
    }
    return false;
}

NativeStub *simd_make_stub(const X86Cpu *cpu, const X86Insn *insn, NativeForm *f)
{
    const X86Form *form = insn->form;
    memset(f, 0, sizeof(*f));
    f->map = form->map;
    f->opcode = form->opcode;
    f->vex = form->space == X86_SPACE_VEX;
    switch (form->prefix) {
    case X86_PREFIX_66:
        f->prefix = 0x66;
        break;
    case X86_PREFIX_F3:
        f->prefix = 0xf3;
        break;
    case X86_PREFIX_F2:
        f->prefix = 0xf2;
        break;
    }
    if (f->vex) {
        f->l = form->l == X86_BIT_1 ||
               (form->l == X86_BIT_ANY && form_has_size(form, X86_SIZE_X) && insn->vex_l);
    }
    f->w = form->w == X86_BIT_1;
    f->rm = insn->rm & 7;
    if (form->digit >= 0) {
        f->reg_kind = NATIVE_EXT;
        f->reg = (uint8_t)form->digit;
    }
    bool w_matters = false;
    for (unsigned i = 0; i < form->operand_count; i++) {
        const X86Operand *o = &form->operands[i];
        bool out = o->access & X86_ACCESS_W;
        bool is_mem = false;
        switch (o->kind) {
        case X86_OPERAND_V:
            f->reg_kind = NATIVE_VEC;
            f->flags |= out ? NATIVE_OUT_REG : 0;
            break;
        case X86_OPERAND_P:
            f->reg_kind = NATIVE_MMX;
            f->reg = insn->reg & 7;
            f->flags |= NATIVE_X87;
            break;
        case X86_OPERAND_G:
            f->reg_kind = NATIVE_GPR;
            f->flags |= out ? NATIVE_OUT_REG : 0;
            w_matters = o->size == X86_SIZE_Y;
            break;
        case X86_OPERAND_H:
            f->vvvv_kind = NATIVE_VEC;
            f->flags |= out ? NATIVE_OUT_VVVV : 0;
            break;
        case X86_OPERAND_W:
        case X86_OPERAND_U:
            is_mem = insn->is_memory;
            if (!is_mem) {
                f->rm_kind = NATIVE_VEC;
                f->flags |= out ? NATIVE_OUT_RM : 0;
            }
            break;
        case X86_OPERAND_Q:
        case X86_OPERAND_N:
            is_mem = insn->is_memory;
            if (!is_mem) {
                f->rm_kind = NATIVE_MMX;
                f->flags |= NATIVE_X87;
            }
            break;
        case X86_OPERAND_E:
        case X86_OPERAND_R:
            w_matters |= o->size == X86_SIZE_Y;
            is_mem = insn->is_memory;
            if (!is_mem) {
                f->rm_kind = NATIVE_GPR;
                f->flags |= out ? NATIVE_OUT_RM : 0;
            }
            break;
        case X86_OPERAND_M:
            is_mem = true;
            break;
        case X86_OPERAND_T:
            f->rm_kind = NATIVE_ST;
            break;
        case X86_OPERAND_I:
            f->has_imm = true;
            f->imm = (uint8_t)insn->imm;
            break;
        case X86_OPERAND_L:
            f->has_imm = true;
            f->flags |= NATIVE_IS4;
            break;
        case X86_OPERAND_XMM:
            f->flags |= NATIVE_IN_XMM0;
            break;
        default:
            break;
        }
        if (is_mem) {
            f->rm_kind = NATIVE_MEM;
        }
    }
    if (form->exact_modrm >= 0) {
        f->reg_kind = NATIVE_EXT;
        f->reg = (form->exact_modrm >> 3) & 7;
        f->rm_kind = NATIVE_ST;
    }
    if (form->attrs & X86_ATTR_FP) {
        f->flags |= NATIVE_FP;
    }
    if (form->attrs & (X86_ATTR_X87 | X86_ATTR_MMX)) {
        f->flags |= NATIVE_X87;
    }
    if (form->flags_written & FLAGS_ARITH) {
        f->flags |= NATIVE_OUT_FLAGS;
    }
    if (form->flags_read & FLAGS_ARITH) {
        f->flags |= NATIVE_IN_FLAGS;
    }
    switch (form->mnemonic) {
    case X86_PCMPESTRI:
    case X86_VPCMPESTRI:
        f->flags |= NATIVE_IN_AX_DX | NATIVE_OUT_CX;
        w_matters = true;
        break;
    case X86_PCMPISTRI:
    case X86_VPCMPISTRI:
        f->flags |= NATIVE_OUT_CX;
        break;
    case X86_PCMPESTRM:
    case X86_VPCMPESTRM:
        f->flags |= NATIVE_IN_AX_DX | NATIVE_OUT_XMM0;
        w_matters = true;
        break;
    case X86_PCMPISTRM:
    case X86_VPCMPISTRM:
        f->flags |= NATIVE_OUT_XMM0;
        break;
    }
    if (w_matters && form->w == X86_BIT_ANY && (cpu->mode & MODE_CS64)) {
        f->w = insn->rex_w;
    }
    return native_stub(f);
}

/* ---- execution through a stub ---- */

static inline void check_mode(X86Cpu *cpu, uint32_t aux)
{
    if (aux & AUX_AVX) {
        fpu_check_avx(cpu);
    } else if (aux & AUX_SSE) {
        fpu_check_sse(cpu);
    } else if (G_UNLIKELY(!(cpu->mode & MODE_FPU_OK))) {
        fpu_unavailable_mmx(cpu);
    }
}

static inline void check_alignment(X86Cpu *cpu, uint64_t linear, uint32_t aux)
{
    if (G_UNLIKELY(linear & ((aux >> AUX_ALIGN_SHIFT) & 0x1f))) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    if (G_UNLIKELY(cpu->mode & MODE_AC)) {
        unsigned size = MIN(aux & AUX_SIZE, 16u); /* of 32-byte operands 16 suffice */
        if (linear & (size - 1)) {
            x86_raise_error(cpu, EXC_AC, 0);
        }
    }
}

/* The usual operand of 64-bit code, without calls. */
static inline uint64_t operand_linear(X86Cpu *cpu, const InterpNative *n, unsigned size, bool write)
{
    const X86Insn *insn = &n->insn;
    if (G_LIKELY((cpu->mode & MODE_CS64) && insn->address_size == 8 && insn->segment < SEG_FS)) {
        uint64_t linear = (uint64_t)(int64_t)insn->disp;
        if (insn->base < 16) {
            linear += cpu->regs[insn->base];
        } else if (insn->base == X86_REG_RIP) {
            linear += interp_insn_rip(cpu, n) + insn->length;
        }
        if (insn->index < 16) {
            linear += cpu->regs[insn->index] << insn->scale;
        }
        /* In the lower or upper half, not at its very end: canonical. */
        if (G_LIKELY(((linear + (UINT64_C(1) << 47)) >> 48) == 0 &&
                     ((linear + 64 + (UINT64_C(1) << 47)) >> 48) == 0)) {
            return linear;
        }
    }
    return interp_linear(cpu, n, size, write);
}

/* ---- plain moves, without a stub ---- */

static inline __attribute__((always_inline)) void move_load(X86Cpu *cpu, const InterpNative *n, unsigned size,
                                                            bool vex)
{
    uint8_t bounce[32];
    uint32_t aux = n->aux;
    check_mode(cpu, aux);
    uint64_t linear = operand_linear(cpu, n, size, false);
    check_alignment(cpu, linear, aux);
    TlbEntry *e = mmu_entry_now(cpu, linear);
    const uint8_t *from = bounce;
    if (G_LIKELY(linear - e->tag[MMU_READ] <= 4096 - size)) {
        from = (const uint8_t *)(linear + (uint64_t)e->addend);
    } else {
        x86_read_bytes(cpu, linear, bounce, size);
    }
    uint8_t *low = cpu->xsave + XSAVE_XMM + n->insn.reg * 16,
            *high = cpu->xsave + XSAVE_AVX + n->insn.reg * 16;
    if (size < 16) {
        memset(low + size, 0, 16 - size);
    }
    memcpy(low, from, MIN(size, 16));
    if (size == 32) {
        memcpy(high, from + 16, 16);
    } else if (vex) {
        memset(high, 0, 16);
    }
    if (vex) {
        fpu_zero_zmm_high(cpu, n->insn.reg, 1);
    }
}

static inline __attribute__((always_inline)) void move_store(X86Cpu *cpu, const InterpNative *n,
                                                             unsigned size)
{
    uint32_t aux = n->aux;
    check_mode(cpu, aux);
    uint64_t linear = operand_linear(cpu, n, size, true);
    check_alignment(cpu, linear, aux);
    const uint8_t *low = cpu->xsave + XSAVE_XMM + n->insn.reg * 16,
                  *high = cpu->xsave + XSAVE_AVX + n->insn.reg * 16;
    TlbEntry *e = mmu_entry_now(cpu, linear);
    if (G_LIKELY(linear - e->tag[MMU_WRITE] <= 4096 - size)) {
        uint8_t *to = (uint8_t *)(linear + (uint64_t)e->addend);
        memcpy(to, low, MIN(size, 16));
        if (size == 32) {
            memcpy(to + 16, high, 16);
        }
    } else {
        uint8_t bounce[32];
        memcpy(bounce, low, 16);
        memcpy(bounce + 16, high, 16);
        x86_write_bytes(cpu, linear, bounce, size);
    }
}

#define MOVES(size)                                                  \
    static void exec_load##size(X86Cpu *cpu, const InterpNative *n)  \
    {                                                                \
        move_load(cpu, n, size, false);                              \
    }                                                                \
    static void exec_vload##size(X86Cpu *cpu, const InterpNative *n) \
    {                                                                \
        move_load(cpu, n, size, true);                               \
    }                                                                \
    static void exec_store##size(X86Cpu *cpu, const InterpNative *n) \
    {                                                                \
        move_store(cpu, n, size);                                    \
    }
MOVES(4)
MOVES(8)
MOVES(16)
MOVES(32)

/* Whole registers: to is the number of the one that is written. */
static inline __attribute__((always_inline)) void move_register(X86Cpu *cpu, unsigned to, unsigned from,
                                                                uint32_t aux)
{
    check_mode(cpu, aux);
    memcpy(cpu->xsave + XSAVE_XMM + to * 16, cpu->xsave + XSAVE_XMM + from * 16, 16);
    if (aux & AUX_AVX) {
        if (aux & AUX_L) {
            memcpy(cpu->xsave + XSAVE_AVX + to * 16, cpu->xsave + XSAVE_AVX + from * 16, 16);
        } else {
            memset(cpu->xsave + XSAVE_AVX + to * 16, 0, 16);
        }
        fpu_zero_zmm_high(cpu, to, 1);
    }
}

static void exec_move_from_rm(X86Cpu *cpu, const InterpNative *n)
{
    move_register(cpu, n->insn.reg, n->insn.rm, n->aux);
}

static void exec_move_to_rm(X86Cpu *cpu, const InterpNative *n)
{
    move_register(cpu, n->insn.rm, n->insn.reg, n->aux);
}

/* Exclusive or of a register with itself. */
static void exec_zero(X86Cpu *cpu, const InterpNative *n)
{
    check_mode(cpu, n->aux);
    memset(cpu->xsave + XSAVE_XMM + n->insn.reg * 16, 0, 16);
    if (n->aux & AUX_AVX) {
        memset(cpu->xsave + XSAVE_AVX + n->insn.reg * 16, 0, 16);
        fpu_zero_zmm_high(cpu, n->insn.reg, 1);
    }
}

/* The executor without a stub of a form that only moves bytes; NULL: it does more. */
static FpuExec *bind_move(const X86Insn *insn, const NativeForm *f, uint32_t aux)
{
    static FpuExec *const loads[2][4] = { { exec_load4, exec_load8, exec_load16, exec_load32 },
                                          { exec_vload4, exec_vload8, exec_vload16, exec_vload32 } };
    static FpuExec *const stores[4] = { exec_store4, exec_store8, exec_store16, exec_store32 };
    bool memory = insn->is_memory;
    switch (insn->form->mnemonic) {
    case X86_MOVAPS:
    case X86_MOVAPD:
    case X86_MOVUPS:
    case X86_MOVUPD:
    case X86_MOVDQA:
    case X86_MOVDQU:
    case X86_LDDQU:
    case X86_MOVNTDQA:
    case X86_MOVNTPS:
    case X86_MOVNTPD:
    case X86_MOVNTDQ:
    case X86_VMOVAPS:
    case X86_VMOVAPD:
    case X86_VMOVUPS:
    case X86_VMOVUPD:
    case X86_VMOVDQA:
    case X86_VMOVDQU:
    case X86_VLDDQU:
    case X86_VMOVNTDQA:
    case X86_VMOVNTPS:
    case X86_VMOVNTPD:
    case X86_VMOVNTDQ:
        if (!memory) {
            return f->flags & NATIVE_OUT_REG ? exec_move_from_rm : exec_move_to_rm;
        }
        break;
    case X86_MOVSS:
    case X86_MOVSD:
    case X86_MOVQ:
    case X86_MOVD:
    case X86_VMOVSS:
    case X86_VMOVSD:
    case X86_VMOVQ:
    case X86_VMOVD:
        if (!memory || f->reg_kind != NATIVE_VEC) {
            return NULL;
        }
        break;
    case X86_PXOR:
    case X86_XORPS:
    case X86_XORPD:
        return !memory && f->reg_kind == NATIVE_VEC && insn->reg == insn->rm ? exec_zero : NULL;
    case X86_VPXOR:
    case X86_VXORPS:
    case X86_VXORPD:
        return !memory && insn->vvvv == insn->rm ? exec_zero : NULL;
    default:
        return NULL;
    }
    unsigned size = aux & AUX_SIZE;
    unsigned which = size == 4 ? 0 : size == 8 ? 1 : size == 16 ? 2 : 3;
    return aux & AUX_WRITE ? stores[which] : loads[f->vex][which];
}

/* ---- everything else ---- */

static void exec_stub(X86Cpu *cpu, const InterpNative *n)
{
    uint8_t bounce[64] __attribute__((aligned(64)));
    uint32_t aux = n->aux;
    const X86Insn *insn = &n->insn;
    unsigned size = aux & AUX_SIZE;
    uint64_t linear = 0;
    void *mem = NULL;
    bool write_back = false;
    NativeArgs args;

    check_mode(cpu, aux);
    if (aux & AUX_PENDING) {
        fpu_check_pending(cpu);
    }
    if (size) {
        bool write = aux & AUX_WRITE;
        linear = operand_linear(cpu, n, size, write);
        check_alignment(cpu, linear, aux);
        TlbEntry *e = mmu_entry_now(cpu, linear);
        if (G_LIKELY(linear - e->tag[write ? MMU_WRITE : MMU_READ] <= 4096 - size)) {
            mem = (void *)(linear + (uint64_t)e->addend);
        } else {
            mem = bounce;
            if (write) {
                x86_probe(cpu, linear, size, MMU_WRITE);
                write_back = true;
            } else {
                x86_read_bytes(cpu, linear, bounce, size);
            }
        }
    }
    if (aux & AUX_FLAGS) {
        args.gpr = cpu->regs[(aux >> AUX_GPR_SHIFT) & 15];
        args.ax = cpu->regs[R_RAX];
        args.dx = cpu->regs[R_RDX];
    }
    unsigned is4 = insn->imm >> 4 & (cpu->mode & MODE_CS64 ? 15 : 7);
    int vector = ((NativeStub *)n->data)(cpu->xsave, insn->reg * 16u, insn->vvvv * 16u, insn->rm * 16u, mem,
                                         &args, is4 * 16u);
    if (G_UNLIKELY(vector)) {
        fpu_raise_native(cpu, vector);
    }
    if (G_UNLIKELY(write_back)) {
        x86_write_bytes(cpu, linear, bounce, size);
    }
    if (G_UNLIKELY(aux & AUX_OUT) && G_UNLIKELY(cpu->fpu_mask & XCR0_AVX512)) {
        fpu_zero_zmm_high(cpu,
                          aux & AUX_OUT_REG    ? insn->reg
                          : aux & AUX_OUT_RM   ? insn->rm
                          : aux & AUX_OUT_VVVV ? insn->vvvv
                                               : 0,
                          1);
    }
    if (aux & AUX_FLAGS) {
        if (aux & AUX_GPR_OUT) {
            cpu->regs[(aux >> AUX_GPR_SHIFT) & 15] = args.gpr;
        }
        if (aux & AUX_CX_OUT) {
            cpu->regs[R_RCX] = args.cx;
        }
        if (aux & AUX_FLAGS_OUT) {
            x86_set_arith(cpu, (uint32_t)args.flags);
        }
    }
}

/* ---- masked moves: SDM vol. 2 VMASKMOV, VPMASKMOV, MASKMOVDQU. Elements whose mask is clear do not fault
 * ---- */

static void vec_get(const X86Cpu *cpu, unsigned number, uint8_t out[32])
{
    memcpy(out, cpu->xsave + XSAVE_XMM + number * 16, 16);
    memcpy(out + 16, cpu->xsave + XSAVE_AVX + number * 16, 16);
}

/* Writes size (16 or 32) bytes; what is above is zeroed, as every VEX instruction does. */
static void vec_put(X86Cpu *cpu, unsigned number, const uint8_t *value, unsigned size)
{
    memcpy(cpu->xsave + XSAVE_XMM + number * 16, value, 16);
    if (size == 32) {
        memcpy(cpu->xsave + XSAVE_AVX + number * 16, value + 16, 16);
    } else {
        memset(cpu->xsave + XSAVE_AVX + number * 16, 0, 16);
    }
    fpu_zero_zmm_high(cpu, number, 1);
}

/* aux: the element's size. */
static void exec_vmaskmov(X86Cpu *cpu, const InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    unsigned size = 16u << insn->vex_l, element = n->aux & 0xff;
    bool store = insn->form->operands[0].kind == X86_OPERAND_M;
    uint8_t mask[32], value[32];
    fpu_check_avx(cpu);
    uint64_t offset = interp_effective(cpu, n);
    uint64_t address_mask = insn->address_size == 8   ? UINT64_MAX
                            : insn->address_size == 4 ? 0xffffffffu
                                                      : 0xffffu;
    uint64_t linear[8] = { 0 };
    vec_get(cpu, insn->vvvv, mask);
    if (store) {
        vec_get(cpu, insn->reg, value);
    } else {
        memset(value, 0, sizeof(value));
    }
    for (unsigned i = 0; i < size; i += element) {
        if (mask[i + element - 1] & 0x80) {
            linear[i / element] = x86_linear(cpu, insn->segment, (offset + i) & address_mask, element, store);
            if (store) {
                x86_probe(cpu, linear[i / element], element, MMU_WRITE);
            } else {
                x86_read_bytes(cpu, linear[i / element], value + i, element);
            }
        }
    }
    if (!store) {
        vec_put(cpu, insn->reg, value, size);
        return;
    }
    for (unsigned i = 0; i < size; i += element) {
        if (mask[i + element - 1] & 0x80) {
            x86_write_bytes(cpu, linear[i / element], value + i, element);
        }
    }
}

/* MASKMOVQ and MASKMOVDQU: bytes of reg to [rDI] where rm's bytes have bit 7 set. aux: 8 or 16. */
static void exec_maskmovdqu(X86Cpu *cpu, const InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    unsigned size = n->aux & 0xff;
    uint8_t mask[16], value[16];
    uint64_t linear[16];
    if (insn->form->attrs & X86_ATTR_AVX) {
        fpu_check_avx(cpu);
    } else if (insn->form->attrs & X86_ATTR_SSE) {
        fpu_check_sse(cpu);
    } else {
        if (!(cpu->mode & MODE_FPU_OK)) {
            fpu_unavailable_mmx(cpu);
        }
        fpu_check_pending(cpu);
    }
    if (size == 16) {
        memcpy(mask, cpu->xsave + XSAVE_XMM + insn->rm * 16, 16);
        memcpy(value, cpu->xsave + XSAVE_XMM + insn->reg * 16, 16);
    } else {
        /* The image holds registers relative to the top of the x87 stack; MMX numbers are absolute. */
        unsigned top = xsave_get16(cpu->xsave, XSAVE_FSW) >> FSW_TOP_SHIFT & 7;
        memcpy(mask, cpu->xsave + XSAVE_ST + ((insn->rm - top) & 7) * 16, 8);
        memcpy(value, cpu->xsave + XSAVE_ST + ((insn->reg - top) & 7) * 16, 8);
    }
    uint64_t address_mask = insn->address_size == 8   ? UINT64_MAX
                            : insn->address_size == 4 ? 0xffffffffu
                                                      : 0xffffu;
    /* Faults come from the whole operand, even with nothing selected: SDM leaves that to the implementation.
     */
    uint64_t start = x86_linear(cpu, insn->segment, cpu->regs[R_RDI] & address_mask, size, true);
    fpu_check_ac(cpu, start, size);
    x86_probe(cpu, start, size, MMU_WRITE);
    for (unsigned i = 0; i < size; i++) {
        if (mask[i] & 0x80) {
            linear[i] = x86_linear(cpu, insn->segment, (cpu->regs[R_RDI] + i) & address_mask, 1, true);
        }
    }
    for (unsigned i = 0; i < size; i++) {
        if (mask[i] & 0x80) {
            x86_st8(cpu, linear[i], value[i]);
        }
    }
    if (size == 8) {
        /* An MMX instruction: the stack's top becomes 0 and every register valid. The image is relative to
         * the top, so it turns with it. */
        uint16_t fsw = xsave_get16(cpu->xsave, XSAVE_FSW);
        unsigned top = fsw >> FSW_TOP_SHIFT & 7;
        uint8_t st[128];
        for (unsigned i = 0; i < 8; i++) {
            memcpy(st + i * 16, cpu->xsave + XSAVE_ST + ((i - top) & 7) * 16, 16);
        }
        memcpy(cpu->xsave + XSAVE_ST, st, sizeof(st));
        xsave_put16(cpu->xsave, XSAVE_FSW, fsw & (uint16_t) ~(7u << FSW_TOP_SHIFT));
        cpu->xsave[XSAVE_FTW] = 0xff;
    }
}

/* ---- gathers: SDM vol. 2 VGATHERxPx, VPGATHERxx. aux: element size | index size << 8 | elements << 16 ----
 */

static uint8_t *vec_element(X86Cpu *cpu, unsigned number, unsigned at)
{
    return cpu->xsave + (at < 16 ? XSAVE_XMM : XSAVE_AVX - 16) + number * 16 + at;
}

/* A fault leaves the elements done so far in the registers with their masks cleared, and the rest as it was,
 * so that the instruction goes on from there. What lies above the gathered elements is zeroed at the end
 * only. */
static void exec_gather(X86Cpu *cpu, const InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    unsigned element = n->aux & 0xff, index_size = n->aux >> 8 & 0xff, count = n->aux >> 16;
    fpu_check_avx(cpu);
    uint64_t address_mask = insn->address_size == 8 ? UINT64_MAX : 0xffffffffu;
    uint64_t base = insn->base < 16 ? cpu->regs[insn->base] : 0;
    MmuIndex access = (MmuIndex)cpu->mmu->index;
    if (access == MMU_USER_ALIGN) {
        access = MMU_USER; /* elements need not be aligned even where alignment is checked */
    }
    for (unsigned i = 0; i < count; i++) {
        uint8_t *mask = vec_element(cpu, insn->vvvv, i * element);
        if (mask[element - 1] & 0x80) {
            const uint8_t *index = vec_element(cpu, insn->index, i * index_size);
            int64_t at = index_size == 4 ? (int32_t)xsave_get32(index, 0) : (int64_t)xsave_get64(index, 0);
            uint64_t offset =
                (base + ((uint64_t)at << insn->scale) + (uint64_t)(int64_t)insn->disp) & address_mask;
            uint64_t linear = x86_linear(cpu, insn->segment, offset, element, false);
            if (element == 4) {
                xsave_put32(vec_element(cpu, insn->reg, i * 4), 0, x86_ld32_idx(cpu, linear, access));
            } else {
                xsave_put64(vec_element(cpu, insn->reg, i * 8), 0, x86_ld64_idx(cpu, linear, access));
            }
        }
        memset(mask, 0, element);
    }
    for (unsigned i = count * element; i < 32; i += 4) {
        xsave_put32(vec_element(cpu, insn->reg, i), 0, 0);
        xsave_put32(vec_element(cpu, insn->vvvv, i), 0, 0);
    }
    fpu_zero_zmm_high(cpu, insn->reg, 1);
    fpu_zero_zmm_high(cpu, insn->vvvv, 1);
}

/* ---- the rest ---- */

static void exec_vzeroall(X86Cpu *cpu, const InterpNative *n)
{
    fpu_check_avx(cpu);
    unsigned count = cpu->mode & MODE_CS64 ? 16 : 8;
    memset(cpu->xsave + XSAVE_XMM, 0, count * 16);
    memset(cpu->xsave + XSAVE_AVX, 0, count * 16);
    fpu_zero_zmm_high(cpu, 0, count);
}

static void exec_vzeroupper(X86Cpu *cpu, const InterpNative *n)
{
    fpu_check_avx(cpu);
    unsigned count = cpu->mode & MODE_CS64 ? 16 : 8;
    memset(cpu->xsave + XSAVE_AVX, 0, count * 16);
    fpu_zero_zmm_high(cpu, 0, count);
}

static void check_mxcsr_allowed(X86Cpu *cpu, const InterpNative *n)
{
    if (n->insn.form->attrs & X86_ATTR_AVX) {
        fpu_check_avx(cpu);
    } else {
        fpu_check_sse(cpu);
    }
}

static void exec_ldmxcsr(X86Cpu *cpu, const InterpNative *n)
{
    check_mxcsr_allowed(cpu, n);
    uint64_t linear = interp_linear(cpu, n, 4, false);
    fpu_check_ac(cpu, linear, 4);
    uint32_t value = x86_ld32(cpu, linear);
    if (value & ~MXCSR_VALID) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    xsave_put32(cpu->xsave, XSAVE_MXCSR, value);
}

static void exec_stmxcsr(X86Cpu *cpu, const InterpNative *n)
{
    check_mxcsr_allowed(cpu, n);
    uint64_t linear = interp_linear(cpu, n, 4, true);
    fpu_check_ac(cpu, linear, 4);
    x86_st32(cpu, linear, xsave_get32(cpu->xsave, XSAVE_MXCSR));
}

FpuExec *simd_bind(X86Cpu *cpu, InterpNative *n)
{
    const X86Insn *insn = &n->insn;
    const X86Form *form = insn->form;
    unsigned vl = 16u << insn->vex_l;
    if (form->attrs & X86_ATTR_AVX512) {
        return avx512_bind(cpu, n);
    }
    switch (form->mnemonic) {
    case X86_VZEROALL:
        return exec_vzeroall;
    case X86_VZEROUPPER:
        return exec_vzeroupper;
    case X86_LDMXCSR:
    case X86_VLDMXCSR:
        return exec_ldmxcsr;
    case X86_STMXCSR:
    case X86_VSTMXCSR:
        return exec_stmxcsr;
    case X86_MASKMOVQ:
        n->insn.reg &= 7;
        n->insn.rm &= 7;
        n->aux = 8;
        return exec_maskmovdqu;
    case X86_MASKMOVDQU:
    case X86_VMASKMOVDQU:
        n->aux = 16;
        return exec_maskmovdqu;
    case X86_VMASKMOVPS:
    case X86_VPMASKMOVD:
        n->aux = 4;
        return exec_vmaskmov;
    case X86_VMASKMOVPD:
    case X86_VPMASKMOVQ:
        n->aux = 8;
        return exec_vmaskmov;
    case X86_VPGATHERDD:
    case X86_VGATHERDPS:
        n->aux = 4 | 4 << 8 | (vl / 4) << 16;
        break;
    case X86_VPGATHERDQ:
    case X86_VGATHERDPD:
        n->aux = 8 | 4 << 8 | (vl / 8) << 16;
        break;
    case X86_VPGATHERQD:
    case X86_VGATHERQPS:
        n->aux = 4 | 8 << 8 | (vl / 8) << 16;
        break;
    case X86_VPGATHERQQ:
    case X86_VGATHERQPD:
        n->aux = 8 | 8 << 8 | (vl / 8) << 16;
        break;
    }
    if (n->aux) {
        /* Destination, mask and index must be three registers. */
        if (insn->reg == insn->vvvv || insn->reg == insn->index || insn->vvvv == insn->index) {
            return NULL;
        }
        return exec_gather;
    }
    if (!(form->attrs & X86_ATTR_NATIVE)) {
        return NULL;
    }
    NativeForm f;
    n->data = (void *)simd_make_stub(cpu, insn, &f);
    if (!n->data) {
        return NULL;
    }
    uint32_t aux = form->attrs & X86_ATTR_AVX ? AUX_AVX : form->attrs & X86_ATTR_SSE ? AUX_SSE : AUX_MMX;
    if (f.rm_kind == NATIVE_MEM) {
        for (unsigned i = 0; i < form->operand_count; i++) {
            const X86Operand *o = &form->operands[i];
            switch (o->kind) {
            case X86_OPERAND_W:
            case X86_OPERAND_Q:
            case X86_OPERAND_E:
            case X86_OPERAND_M: {
                unsigned size = o->size == X86_SIZE_Y ? (f.w ? 8 : 4) : x86_operand_bytes(insn, o);
                aux |= size;
                aux |= o->access & X86_ACCESS_W ? AUX_WRITE : AUX_READ;
                bool aligned = (form->attrs & X86_ATTR_ALIGN) ||
                               (size == 16 && !f.vex && !(form->attrs & X86_ATTR_UNAL));
                aux |= aligned ? (size - 1) << AUX_ALIGN_SHIFT : 0;
                break;
            }
            default:
                break;
            }
        }
    }
    if (f.reg_kind == NATIVE_GPR) {
        aux |= (uint32_t)insn->reg << AUX_GPR_SHIFT;
        aux |= f.flags & NATIVE_OUT_REG ? AUX_GPR_OUT : AUX_GPR_IN;
    } else if (f.rm_kind == NATIVE_GPR) {
        aux |= (uint32_t)insn->rm << AUX_GPR_SHIFT;
        aux |= f.flags & NATIVE_OUT_RM ? AUX_GPR_OUT : AUX_GPR_IN;
    }
    if (f.reg_kind == NATIVE_MMX || f.rm_kind == NATIVE_MMX || form->mnemonic == X86_EMMS) {
        aux |= AUX_PENDING; /* but not CVTPI2PS from memory, which leaves the MMX state alone */
    }
    aux |= f.flags & NATIVE_OUT_FLAGS ? AUX_FLAGS_OUT : 0;
    aux |= f.flags & NATIVE_OUT_CX ? AUX_CX_OUT : 0;
    aux |= f.flags & NATIVE_IN_AX_DX ? AUX_STRING : 0;
    aux |= f.l ? AUX_L : 0;
    if (f.vex) {
        aux |= f.reg_kind == NATIVE_VEC && (f.flags & NATIVE_OUT_REG)     ? AUX_OUT_REG
               : f.rm_kind == NATIVE_VEC && (f.flags & NATIVE_OUT_RM)     ? AUX_OUT_RM
               : f.vvvv_kind == NATIVE_VEC && (f.flags & NATIVE_OUT_VVVV) ? AUX_OUT_VVVV
               : f.flags & NATIVE_OUT_XMM0                                ? AUX_OUT_XMM0
                                                                          : 0;
    }
    n->aux = aux;
    FpuExec *move = bind_move(insn, &f, aux);
    return move ? move : exec_stub;
}

bool interp_native_bind(X86Cpu *cpu, InterpNative *native)
{
    uint32_t attrs = native->insn.form->attrs;
    native->data = NULL;
    native->aux = 0;
    native->exec = xsave_bind(cpu, native);
    if (!native->exec) {
        native->exec = attrs & X86_ATTR_X87 ? x87_bind(cpu, native) : simd_bind(cpu, native);
    }
    return native->exec != NULL;
}
