/*
 * FXSAVE, FXRSTOR and the XSAVE family, SDM vol. 1 chapters 10.5 and 13, between cpu->xsave and guest memory.
 * Guest state components: x87 (0), SSE (1), AVX (2), AVX-512's opmask (5), ZMM_Hi256 (6), Hi16_ZMM (7), PKRU
 * (9); where a guest sees these is the same on every host, where cpu->xsave has them is the host's business.
 * XINUSE is computed from the contents: a component is in use when it differs from its initial configuration
 * (13.6 leaves that to the processor). Nothing is changed before every byte has been read, or every page
 * probed. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/fpu.h"
#include "arch/x86/system.h"

#define COMPONENT_X87 1u
#define COMPONENT_SSE 2u
#define COMPONENT_AVX 4u
#define COMPONENTS    (XCR0_BASE | XCR0_AVX512 | XCR0_PKRU)
#define XCOMP_COMPACT (UINT64_C(1) << 63)
#define LEGACY_END    576u
#define EXTENDED_MAX  (256u + XSAVE_AVX512_SIZE + XSAVE_PKRU_SIZE)

/* An extended component: in cpu->xsave, and in a guest's area of the standard format. */
typedef struct Extended {
    unsigned bit, size, guest;
    unsigned used; /* bytes that the mode has registers for */
    uint8_t *image;
    unsigned stored; /* bytes of the image */
} Extended;
#define EXTENDED_COUNT 5
#define EXTENDED_PKRU  4

static void extended_components(X86Cpu *cpu, Extended e[EXTENDED_COUNT])
{
    bool wide = cpu->mode & MODE_CS64;
    e[0] = (Extended){ COMPONENT_AVX, 256, XSAVE_AVX, wide ? 256 : 128, cpu->xsave + XSAVE_AVX, 256 };
    e[1] = (Extended){ 1u << 5,
                       XSAVE_OPMASK_SIZE,
                       XSAVE_GUEST_OPMASK,
                       XSAVE_OPMASK_SIZE,
                       cpu->xsave + cpu->xsave_opmask,
                       XSAVE_OPMASK_SIZE };
    e[2] = (Extended){ 1u << 6,
                       XSAVE_ZMM_HI_SIZE,
                       XSAVE_GUEST_ZMM_HI,
                       wide ? XSAVE_ZMM_HI_SIZE : XSAVE_ZMM_HI_SIZE / 2,
                       cpu->xsave + cpu->xsave_zmm_hi,
                       XSAVE_ZMM_HI_SIZE };
    e[3] = (Extended){ 1u << 7,
                       XSAVE_HI16_SIZE,
                       XSAVE_GUEST_HI16,
                       wide ? XSAVE_HI16_SIZE : 0,
                       cpu->xsave + cpu->xsave_hi16,
                       XSAVE_HI16_SIZE };
    e[EXTENDED_PKRU] =
        (Extended){ XCR0_PKRU, XSAVE_PKRU_SIZE, XSAVE_GUEST_PKRU, 4, (uint8_t *)&cpu->pkru, 4 };
}

/* Where the area has the component. compact: XCOMP_BV, or 0 for the standard format. */
static unsigned extended_offset(const Extended e[EXTENDED_COUNT], unsigned which, uint64_t compact)
{
    unsigned at = LEGACY_END;
    if (!compact) {
        return e[which].guest;
    }
    for (unsigned i = 0; i < which; i++) {
        at += compact & e[i].bit ? e[i].size : 0;
    }
    return at;
}

static bool all_zero(const uint8_t *p, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        if (p[i]) {
            return false;
        }
    }
    return true;
}

static void init_x87(uint8_t *image)
{
    memset(image, 0, XSAVE_MXCSR);
    xsave_put16(image, XSAVE_FCW, FCW_INIT);
    memset(image + XSAVE_ST, 0, 128);
}

static unsigned xinuse(X86Cpu *cpu)
{
    const uint8_t *image = cpu->xsave;
    unsigned used = 0;
    Extended e[EXTENDED_COUNT];
    if (xsave_get16(image, XSAVE_FCW) != FCW_INIT || !all_zero(image + XSAVE_FSW, XSAVE_MXCSR - XSAVE_FSW) ||
        !all_zero(image + XSAVE_ST, 128)) {
        used |= COMPONENT_X87;
    }
    if (!all_zero(image + XSAVE_XMM, 256)) {
        used |= COMPONENT_SSE;
    }
    extended_components(cpu, e);
    for (unsigned i = 0; i < EXTENDED_COUNT; i++) {
        if ((cpu->xcr0 & e[i].bit) && !all_zero(e[i].image, e[i].stored)) {
            used |= e[i].bit;
        }
    }
    return used;
}

/* The x87 part of a legacy area as the instruction lays it out: bytes 0 to 23 and the registers. */
static void legacy_x87(const uint8_t *image, bool wide, uint8_t *area)
{
    memcpy(area, image, XSAVE_MXCSR);
    area[5] = 0;
    if (!wide) {
        /* 32-bit offsets; selectors are 0 */
        memset(area + XSAVE_FIP + 4, 0, 4);
        memset(area + XSAVE_FDP + 4, 0, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(area + XSAVE_ST + i * 16, image + XSAVE_ST + i * 16, 10);
        memset(area + XSAVE_ST + i * 16 + 10, 0, 6);
    }
}

static void load_legacy_x87(uint8_t *image, bool wide, const uint8_t *area)
{
    memcpy(image, area, XSAVE_MXCSR);
    image[5] = 0;
    xsave_put16(image, XSAVE_FCW, (uint16_t)((xsave_get16(area, XSAVE_FCW) & 0x1f7f) | 0x40));
    xsave_put16(image, XSAVE_FOP, xsave_get16(area, XSAVE_FOP) & 0x7ff);
    if (!wide) {
        memset(image + XSAVE_FIP + 4, 0, 4);
        memset(image + XSAVE_FDP + 4, 0, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(image + XSAVE_ST + i * 16, area + XSAVE_ST + i * 16, 10);
        memset(image + XSAVE_ST + i * 16 + 10, 0, 6);
    }
    fpu_update_summary(image);
}

static unsigned xmm_bytes(const X86Cpu *cpu)
{
    return cpu->mode & MODE_CS64 ? 256 : 128;
}

/* ---- FXSAVE, FXRSTOR ---- */

static uint64_t fx_begin(X86Cpu *cpu, const InterpNative *n, bool write)
{
    fpu_check_x87(cpu);
    uint64_t linear = interp_linear(cpu, n, 512, write);
    if (linear & 15) {
        fpu_check_ac(cpu, linear, 4); /* #AC may be raised instead, SDM vol. 2 FXSAVE */
        x86_raise_error(cpu, EXC_GP, 0);
    }
    return linear;
}

/* EFER.FFXSR: at CPL 0 in 64-bit mode the XMM registers are left out (AMD64 APM vol. 2 11.4.4). */
static bool fx_has_sse(const X86Cpu *cpu)
{
    bool fast = (cpu->efer & EFER_FFXSR) && (cpu->mode & MODE_CS64) && cpu->cpl == 0;
    return (cpu->cr4 & CR4_OSFXSR) && !fast;
}

static void exec_fxsave(X86Cpu *cpu, const InterpNative *n)
{
    uint8_t area[416];
    uint64_t linear = fx_begin(cpu, n, true);
    bool sse = fx_has_sse(cpu);
    legacy_x87(cpu->xsave, n->insn.rex_w && (cpu->mode & MODE_CS64), area);
    xsave_put32(area, XSAVE_MXCSR, xsave_get32(cpu->xsave, XSAVE_MXCSR));
    xsave_put32(area, XSAVE_MXCSR_MASK, MXCSR_VALID);
    memcpy(area + XSAVE_XMM, cpu->xsave + XSAVE_XMM, 256);
    x86_probe(cpu, linear, 512, MMU_WRITE);
    x86_write_bytes(cpu, linear, area, XSAVE_XMM + (sse ? xmm_bytes(cpu) : 0));
}

static void exec_fxrstor(X86Cpu *cpu, const InterpNative *n)
{
    uint8_t area[512];
    uint64_t linear = fx_begin(cpu, n, false);
    x86_read_bytes(cpu, linear, area, 512);
    uint32_t mxcsr = xsave_get32(area, XSAVE_MXCSR);
    if (mxcsr & ~MXCSR_VALID) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    load_legacy_x87(cpu->xsave, n->insn.rex_w && (cpu->mode & MODE_CS64), area);
    xsave_put32(cpu->xsave, XSAVE_MXCSR, mxcsr);
    if (fx_has_sse(cpu)) {
        memcpy(cpu->xsave + XSAVE_XMM, area + XSAVE_XMM, xmm_bytes(cpu));
    }
}

/* ---- XSAVE, XSAVEOPT, XSAVEC, XRSTOR ---- */

static uint64_t xsave_begin(X86Cpu *cpu, const InterpNative *n, bool write, unsigned *rfbm)
{
    if (!(cpu->cr4 & CR4_OSXSAVE)) {
        x86_raise(cpu, EXC_UD);
    }
    if (cpu->cr0 & CR0_TS) {
        x86_raise(cpu, EXC_NM);
    }
    uint64_t requested = (uint32_t)cpu->regs[R_RAX] | cpu->regs[R_RDX] << 32;
    *rfbm = (unsigned)(requested & cpu->xcr0 & COMPONENTS);
    uint64_t linear = interp_linear(cpu, n, 576, write);
    if (linear & 63) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    return linear;
}

/* aux: 0 XSAVE, 1 XSAVEOPT, 2 XSAVEC */
enum { VARIANT_XSAVE, VARIANT_XSAVEOPT, VARIANT_XSAVEC };

static void exec_xsave(X86Cpu *cpu, const InterpNative *n)
{
    unsigned rfbm;
    uint64_t linear = xsave_begin(cpu, n, true, &rfbm);
    const uint8_t *image = cpu->xsave;
    bool compact = n->aux == VARIANT_XSAVEC;
    unsigned used = xinuse(cpu) & rfbm;
    uint32_t mxcsr = xsave_get32(image, XSAVE_MXCSR);
    if (compact && mxcsr != MXCSR_INIT) {
        used |= COMPONENT_SSE & rfbm; /* 13.10: MXCSR counts as part of SSE there */
    }
    unsigned write = n->aux == VARIANT_XSAVE ? rfbm : used;
    bool write_mxcsr = compact ? (write & COMPONENT_SSE) != 0 : (rfbm & (COMPONENT_SSE | COMPONENT_AVX)) != 0;
    uint8_t legacy[416];
    uint64_t format = compact ? rfbm | XCOMP_COMPACT : 0;
    Extended e[EXTENDED_COUNT];
    extended_components(cpu, e);
    legacy_x87(image, n->insn.rex_w && (cpu->mode & MODE_CS64), legacy);
    xsave_put32(legacy, XSAVE_MXCSR, mxcsr);
    xsave_put32(legacy, XSAVE_MXCSR_MASK, MXCSR_VALID);

    x86_probe(cpu, linear, 512 + 64, MMU_WRITE);
    for (unsigned i = 0; i < EXTENDED_COUNT; i++) {
        if (write & e[i].bit) {
            x86_probe(cpu, linear + extended_offset(e, i, format), e[i].size, MMU_WRITE);
        }
    }
    if (write & COMPONENT_X87) {
        x86_write_bytes(cpu, linear, legacy, XSAVE_MXCSR);
        x86_write_bytes(cpu, linear + XSAVE_ST, legacy + XSAVE_ST, 128);
    }
    if (write_mxcsr) {
        x86_write_bytes(cpu, linear + XSAVE_MXCSR, legacy + XSAVE_MXCSR, 8);
    }
    if (write & COMPONENT_SSE) {
        x86_write_bytes(cpu, linear + XSAVE_XMM, image + XSAVE_XMM, xmm_bytes(cpu));
    }
    for (unsigned i = 0; i < EXTENDED_COUNT; i++) {
        if ((write & e[i].bit) && e[i].used) {
            x86_write_bytes(cpu, linear + extended_offset(e, i, format), e[i].image, e[i].used);
        }
    }
    if (compact) {
        uint8_t header[16];
        xsave_put64(header, 0, used);
        xsave_put64(header, 8, format);
        x86_write_bytes(cpu, linear + XSAVE_HEADER, header, 16);
    } else {
        uint64_t bv = x86_ld64(cpu, linear + XSAVE_HEADER);
        x86_st64(cpu, linear + XSAVE_HEADER, (bv & ~(uint64_t)rfbm) | used);
    }
}

static void exec_xrstor(X86Cpu *cpu, const InterpNative *n)
{
    unsigned rfbm;
    uint64_t linear = xsave_begin(cpu, n, false, &rfbm);
    uint8_t *image = cpu->xsave;
    uint8_t header[64], legacy[512], extended[EXTENDED_MAX];
    Extended e[EXTENDED_COUNT];
    x86_read_bytes(cpu, linear + XSAVE_HEADER, header, 64);
    uint64_t bv = xsave_get64(header, 0), comp = xsave_get64(header, 8);
    bool compact = comp & XCOMP_COMPACT;
    bool bad = (bv & ~cpu->xcr0) != 0;
    if (compact) {
        bad |= (comp & ~XCOMP_COMPACT & ~cpu->xcr0) || (bv & ~comp) || !all_zero(header + 16, 48);
    } else {
        bad |= comp || !all_zero(header + 16, 8);
    }
    if (bad) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    unsigned load = (unsigned)bv & rfbm, init = rfbm & ~(unsigned)bv;
    extended_components(cpu, e);
    bool load_mxcsr = compact ? (load & COMPONENT_SSE) != 0 : (rfbm & (COMPONENT_SSE | COMPONENT_AVX)) != 0;
    if ((load & (COMPONENT_X87 | COMPONENT_SSE)) || load_mxcsr) {
        x86_read_bytes(cpu, linear, legacy, 512);
    }
    for (unsigned i = 0, at = 0; i < EXTENDED_COUNT; at += e[i++].size) {
        if (load & e[i].bit) {
            x86_read_bytes(cpu, linear + extended_offset(e, i, compact ? comp : 0), extended + at, e[i].size);
        }
    }
    if (load_mxcsr && (xsave_get32(legacy, XSAVE_MXCSR) & ~MXCSR_VALID)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    unsigned bytes = xmm_bytes(cpu);
    if (load & COMPONENT_X87) {
        load_legacy_x87(image, n->insn.rex_w && (cpu->mode & MODE_CS64), legacy);
    } else if (init & COMPONENT_X87) {
        init_x87(image);
    }
    if (load_mxcsr) {
        xsave_put32(image, XSAVE_MXCSR, xsave_get32(legacy, XSAVE_MXCSR));
    } else if (compact && (init & COMPONENT_SSE)) {
        xsave_put32(image, XSAVE_MXCSR, MXCSR_INIT);
    }
    if (load & COMPONENT_SSE) {
        memcpy(image + XSAVE_XMM, legacy + XSAVE_XMM, bytes);
    } else if (init & COMPONENT_SSE) {
        memset(image + XSAVE_XMM, 0, bytes);
    }
    unsigned at = 0;
    for (unsigned i = 0; i < EXTENDED_PKRU; at += e[i++].size) {
        if (load & e[i].bit) {
            memcpy(e[i].image, extended + at, e[i].used);
            cpu->fpu_bv |= e[i].bit;
        } else if (init & e[i].bit) {
            memset(e[i].image, 0, e[i].used);
            cpu->fpu_bv &= (e[i].used == e[i].size ? ~e[i].bit : UINT32_MAX) | XCR0_BASE;
        }
    }
    if ((load | init) & XCR0_PKRU) {
        mmu_set_keys(cpu, true, load & XCR0_PKRU ? xsave_get32(extended, at) : 0);
    }
}

FpuExec *xsave_bind(X86Cpu *cpu, InterpNative *n)
{
    switch (n->insn.form->mnemonic) {
    case X86_FXSAVE:
        return exec_fxsave;
    case X86_FXRSTOR:
        return exec_fxrstor;
    case X86_XSAVE:
        n->aux = VARIANT_XSAVE;
        return exec_xsave;
    case X86_XSAVEOPT:
        n->aux = VARIANT_XSAVEOPT;
        return exec_xsave;
    case X86_XSAVEC:
        n->aux = VARIANT_XSAVEC;
        return exec_xsave;
    case X86_XRSTOR:
        return exec_xrstor;
    }
    return NULL;
}
