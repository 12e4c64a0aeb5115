/*
 * x87 instructions, SDM vol. 1 chapter 8. Arithmetic runs in native.c's stubs on the host's x87 unit, with
 * the guest's whole x87 state loaded; control and environment instructions work on the image here.
 *
 * The image keeps ST(i) relative to the top, an abridged tag word (bit i: physical register i is in use), and
 * 64-bit instruction and operand pointers; selectors are not kept (CPUID.7:EBX.13, deprecated FCS and FDS).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/fpu.h"
#include "arch/x86/system.h"

/* InterpNative.aux */
#define AUX_SIZE      0x3fu
#define AUX_STORE     (1u << 6)
#define AUX_FLAGS_IN  (1u << 7)
#define AUX_FLAGS_OUT (1u << 8)

static void exec_x87(X86Cpu *cpu, const InterpNative *n)
{
    uint8_t bounce[64] __attribute__((aligned(64)));
    uint32_t aux = n->aux;
    unsigned size = aux & AUX_SIZE;
    uint64_t linear = 0;
    NativeArgs args;
    uint8_t *image = cpu->xsave;

    fpu_check_x87(cpu);
    fpu_check_pending(cpu); /* #MF comes before memory faults */
    if (size) {
        linear = interp_linear(cpu, n, size, aux & AUX_STORE);
        fpu_check_ac(cpu, linear, size == 10 ? 8 : size);
        if (aux & AUX_STORE) {
            x86_probe(cpu, linear, size, MMU_WRITE);
        } else {
            x86_read_bytes(cpu, linear, bounce, size);
        }
    }
    if (aux & AUX_FLAGS_IN) {
        args.flags = x86_get_arith(cpu) | FLAG_ONE;
    }
    uint16_t fop = (uint16_t)((n->insn.bytes[n->insn.opcode_offset] & 7) << 8 | n->insn.modrm);
    int vector = ((NativeStub *)n->data)(image, 0, 0, 0, bounce, &args, 0);
    if (G_UNLIKELY(vector)) {
        x86_raise(cpu, vector);
    }
    /* What the host keeps of pointers are the stub's own: give the guest's. */
    if (native_contains(xsave_get64(image, XSAVE_FIP))) {
        xsave_put64(image, XSAVE_FIP, interp_insn_rip(cpu, n));
        if (xsave_get16(image, XSAVE_FOP)) {
            xsave_put16(image, XSAVE_FOP, fop);
        }
    }
    if (xsave_get64(image, XSAVE_FDP) == (uint64_t)(uintptr_t)bounce) {
        xsave_put64(image, XSAVE_FDP, interp_effective(cpu, n));
    }
    if (aux & AUX_STORE) {
        /* With an unmasked exception other than precision nothing is stored. ES was clear before, so that
         * what is unmasked and set now is this instruction's. */
        uint16_t unmasked = xsave_get16(image, XSAVE_FSW) & (uint16_t)~xsave_get16(image, XSAVE_FCW);
        if (!(unmasked & 0x1f)) {
            x86_write_bytes(cpu, linear, bounce, size);
        }
    }
    if (aux & AUX_FLAGS_OUT) {
        x86_set_arith(cpu, (uint32_t)args.flags);
    }
}

/* ---- control ---- */

static void init_x87(uint8_t *image)
{
    /* FNINIT leaves the registers' contents. */
    xsave_put16(image, XSAVE_FCW, FCW_INIT);
    xsave_put16(image, XSAVE_FSW, 0);
    image[XSAVE_FTW] = 0;
    xsave_put16(image, XSAVE_FOP, 0);
    xsave_put64(image, XSAVE_FIP, 0);
    xsave_put64(image, XSAVE_FDP, 0);
}

/* Brings the image's ST(i) slots (relative to the top) to a new top, so that physical registers keep their
 * contents. */
static void set_top(uint8_t *image, unsigned top)
{
    uint16_t fsw = xsave_get16(image, XSAVE_FSW);
    unsigned old = fsw >> FSW_TOP_SHIFT & 7;
    if (old != top) {
        uint8_t st[128];
        for (unsigned i = 0; i < 8; i++) {
            memcpy(st + i * 16, image + XSAVE_ST + ((top + i - old) & 7) * 16, 16);
        }
        memcpy(image + XSAVE_ST, st, sizeof(st));
        xsave_put16(image, XSAVE_FSW, (uint16_t)((fsw & ~(7u << FSW_TOP_SHIFT)) | top << FSW_TOP_SHIFT));
    }
}

static void exec_fninit(X86Cpu *cpu, const InterpNative *n)
{
    fpu_check_x87(cpu);
    set_top(cpu->xsave, 0);
    init_x87(cpu->xsave);
}

static void exec_fnclex(X86Cpu *cpu, const InterpNative *n)
{
    fpu_check_x87(cpu);
    xsave_put16(cpu->xsave, XSAVE_FSW, xsave_get16(cpu->xsave, XSAVE_FSW) & 0x7f00);
}

static void exec_nothing(X86Cpu *cpu, const InterpNative *n)
{
    fpu_check_x87(cpu);
}

static void exec_fwait(X86Cpu *cpu, const InterpNative *n)
{
    if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS)) {
        x86_raise(cpu, EXC_NM);
    }
    fpu_check_pending(cpu);
}

static void exec_fnstsw_ax(X86Cpu *cpu, const InterpNative *n)
{
    fpu_check_x87(cpu);
    cpu->regs[R_RAX] = (cpu->regs[R_RAX] & ~UINT64_C(0xffff)) | xsave_get16(cpu->xsave, XSAVE_FSW);
}

/* FNSTCW and FNSTSW to memory; aux: the word's offset in the image. */
static void exec_store_word(X86Cpu *cpu, const InterpNative *n)
{
    fpu_check_x87(cpu);
    uint64_t linear = interp_linear(cpu, n, 2, true);
    fpu_check_ac(cpu, linear, 2);
    x86_st16(cpu, linear, xsave_get16(cpu->xsave, n->aux));
}

static void exec_fldcw(X86Cpu *cpu, const InterpNative *n)
{
    fpu_check_x87(cpu);
    fpu_check_pending(cpu);
    uint64_t linear = interp_linear(cpu, n, 2, false);
    fpu_check_ac(cpu, linear, 2);
    xsave_put16(cpu->xsave, XSAVE_FCW, (uint16_t)((x86_ld16(cpu, linear) & 0x1f7f) | 0x40));
    fpu_update_summary(cpu->xsave);
}

/* ---- environment: SDM vol. 1 figures 8-9 to 8-12 ---- */

/* The two tag bits of physical register i. */
static unsigned full_tag(const uint8_t *image, unsigned i)
{
    if (!(image[XSAVE_FTW] >> i & 1)) {
        return 3;
    }
    unsigned top = xsave_get16(image, XSAVE_FSW) >> FSW_TOP_SHIFT & 7;
    const uint8_t *st = image + XSAVE_ST + ((i - top) & 7) * 16;
    uint64_t significand = xsave_get64(st, 0);
    unsigned exponent = xsave_get16(st, 8) & 0x7fff;
    if (exponent == 0x7fff) {
        return 2;
    }
    if (exponent == 0) {
        return significand ? 2 : 1;
    }
    return significand >> 63 ? 0 : 2;
}

/* Builds the environment; returns its size, 14 or 28. */
static unsigned env_build(X86Cpu *cpu, const InterpNative *n, uint8_t *out)
{
    const uint8_t *image = cpu->xsave;
    uint16_t tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        tags = (uint16_t)(tags | full_tag(image, i) << i * 2);
    }
    uint16_t fcw = xsave_get16(image, XSAVE_FCW), fsw = xsave_get16(image, XSAVE_FSW);
    uint16_t fop = xsave_get16(image, XSAVE_FOP) & 0x7ff;
    uint32_t fip = xsave_get32(image, XSAVE_FIP), fdp = xsave_get32(image, XSAVE_FDP);
    bool real = !(cpu->mode & MODE_PE) || (cpu->mode & MODE_VM86);
    if (n->insn.operand_size == 2) {
        uint16_t words[7] = { fcw, fsw, tags, (uint16_t)fip, 0, (uint16_t)fdp, 0 };
        if (real) {
            words[4] = (uint16_t)((fip >> 16 & 0xf) << 12 | fop);
            words[6] = (uint16_t)((fdp >> 16 & 0xf) << 12);
        }
        memcpy(out, words, 14);
        return 14;
    }
    uint32_t dwords[7] = {
        fcw | 0xffff0000u, fsw | 0xffff0000u, tags | 0xffff0000u, fip, (uint32_t)fop << 16, fdp, 0xffff0000u
    };
    if (real) {
        dwords[3] = (fip & 0xffff) | 0xffff0000u;
        dwords[4] = (fip >> 16) << 12 | fop;
        dwords[5] = (fdp & 0xffff) | 0xffff0000u;
        dwords[6] = (fdp >> 16) << 12;
    }
    memcpy(out, dwords, 28);
    return 28;
}

static unsigned env_size(const InterpNative *n)
{
    return n->insn.operand_size == 2 ? 14 : 28;
}

static void env_load(X86Cpu *cpu, const InterpNative *n, const uint8_t *in)
{
    uint8_t *image = cpu->xsave;
    uint16_t fcw, fsw, tags, fop;
    uint32_t fip, fdp;
    bool real = !(cpu->mode & MODE_PE) || (cpu->mode & MODE_VM86);
    if (n->insn.operand_size == 2) {
        uint16_t w[7];
        memcpy(w, in, 14);
        fcw = w[0];
        fsw = w[1];
        tags = w[2];
        fip = w[3];
        fdp = w[5];
        fop = xsave_get16(image, XSAVE_FOP);
        if (real) {
            fip |= (uint32_t)(w[4] >> 12) << 16;
            fdp |= (uint32_t)(w[6] >> 12) << 16;
            fop = w[4] & 0x7ff;
        }
    } else {
        uint32_t d[7];
        memcpy(d, in, 28);
        fcw = (uint16_t)d[0];
        fsw = (uint16_t)d[1];
        tags = (uint16_t)d[2];
        fip = d[3];
        fop = d[4] >> 16 & 0x7ff;
        fdp = d[5];
        if (real) {
            fip = (d[3] & 0xffff) | (d[4] >> 12 & 0xffff) << 16;
            fop = d[4] & 0x7ff;
            fdp = (d[5] & 0xffff) | (d[6] >> 12 & 0xffff) << 16;
        }
    }
    set_top(image, fsw >> FSW_TOP_SHIFT & 7);
    xsave_put16(image, XSAVE_FCW, (uint16_t)((fcw & 0x1f7f) | 0x40));
    xsave_put16(image, XSAVE_FSW, fsw);
    uint8_t abridged = 0;
    for (unsigned i = 0; i < 8; i++) {
        abridged = (uint8_t)(abridged | ((tags >> i * 2 & 3) != 3) << i);
    }
    image[XSAVE_FTW] = abridged;
    xsave_put16(image, XSAVE_FOP, fop);
    xsave_put64(image, XSAVE_FIP, fip);
    xsave_put64(image, XSAVE_FDP, fdp);
    fpu_update_summary(image);
}

static void exec_fnstenv(X86Cpu *cpu, const InterpNative *n)
{
    uint8_t env[28];
    fpu_check_x87(cpu);
    uint64_t linear = interp_linear(cpu, n, env_size(n), true);
    fpu_check_ac(cpu, linear, n->insn.operand_size == 2 ? 2 : 4);
    unsigned size = env_build(cpu, n, env);
    x86_write_bytes(cpu, linear, env, size);
    /* All exceptions are masked after that. */
    xsave_put16(cpu->xsave, XSAVE_FCW, xsave_get16(cpu->xsave, XSAVE_FCW) | 0x3f);
    fpu_update_summary(cpu->xsave);
}

static void exec_fldenv(X86Cpu *cpu, const InterpNative *n)
{
    uint8_t env[28];
    fpu_check_x87(cpu);
    fpu_check_pending(cpu);
    uint64_t linear = interp_linear(cpu, n, env_size(n), false);
    fpu_check_ac(cpu, linear, n->insn.operand_size == 2 ? 2 : 4);
    x86_read_bytes(cpu, linear, env, env_size(n));
    env_load(cpu, n, env);
}

static void exec_fnsave(X86Cpu *cpu, const InterpNative *n)
{
    uint8_t area[108];
    fpu_check_x87(cpu);
    uint64_t linear = interp_linear(cpu, n, env_size(n) + 80, true);
    fpu_check_ac(cpu, linear, n->insn.operand_size == 2 ? 2 : 4);
    unsigned size = env_build(cpu, n, area);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(area + size + i * 10, cpu->xsave + XSAVE_ST + i * 16, 10);
    }
    x86_write_bytes(cpu, linear, area, size + 80);
    exec_fninit(cpu, n);
}

static void exec_frstor(X86Cpu *cpu, const InterpNative *n)
{
    uint8_t area[108];
    fpu_check_x87(cpu);
    fpu_check_pending(cpu);
    unsigned size = env_size(n);
    uint64_t linear = interp_linear(cpu, n, size + 80, false);
    fpu_check_ac(cpu, linear, n->insn.operand_size == 2 ? 2 : 4);
    x86_read_bytes(cpu, linear, area, size + 80);
    env_load(cpu, n, area);
    for (unsigned i = 0; i < 8; i++) {
        memset(cpu->xsave + XSAVE_ST + i * 16, 0, 16);
        memcpy(cpu->xsave + XSAVE_ST + i * 16, area + size + i * 10, 10);
    }
}

FpuExec *x87_bind(X86Cpu *cpu, InterpNative *n)
{
    const X86Form *form = n->insn.form;
    switch (form->mnemonic) {
    case X86_FNINIT:
        return exec_fninit;
    case X86_FNCLEX:
        return exec_fnclex;
    case X86_FNENI:
    case X86_FNDISI:
    case X86_FNSETPM:
        return exec_nothing;
    case X86_FWAIT:
        return exec_fwait;
    case X86_FNSTSW:
        n->aux = XSAVE_FSW;
        return n->insn.is_memory ? exec_store_word : exec_fnstsw_ax;
    case X86_FNSTCW:
        n->aux = XSAVE_FCW;
        return exec_store_word;
    case X86_FLDCW:
        return exec_fldcw;
    case X86_FNSTENV:
        return exec_fnstenv;
    case X86_FLDENV:
        return exec_fldenv;
    case X86_FNSAVE:
        return exec_fnsave;
    case X86_FRSTOR:
        return exec_frstor;
    }
    if (!(form->attrs & X86_ATTR_NATIVE)) {
        return NULL;
    }
    NativeForm f;
    n->data = (void *)simd_make_stub(cpu, &n->insn, &f);
    if (!n->data) {
        return NULL;
    }
    if (n->insn.is_memory) {
        n->aux |= x86_operand_bytes(&n->insn, &form->operands[0]);
        n->aux |= form->operands[0].access & X86_ACCESS_W ? AUX_STORE : 0;
    }
    n->aux |= f.flags & NATIVE_IN_FLAGS ? AUX_FLAGS_IN : 0;
    n->aux |= f.flags & NATIVE_OUT_FLAGS ? AUX_FLAGS_OUT : 0;
    return exec_x87;
}
