/*
 * What the executors of FPU and SIMD instructions share (simd.c, x87.c, xsave.c). Private to this folder.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_INTERP_FPU_H
#define RHEA_ACCEL_SOFT_INTERP_FPU_H

#include "accel/soft/interp/interp.h"
#include "accel/soft/interp/native.h"
#include "arch/x86/flags.h"
#include "arch/x86/mmu.h"

#include <string.h>

typedef void FpuExec(X86Cpu *cpu, const InterpNative *native);

/* Bits of MXCSR that a guest may set: MM (misaligned mask) is not offered. */
#define MXCSR_VALID   0xffffu
#define MXCSR_INIT    0x1f80u
#define FCW_INIT      0x37fu
#define FSW_ES        (1u << 7)
#define FSW_B         (1u << 15)
#define FSW_TOP_SHIFT 11

static inline uint16_t xsave_get16(const uint8_t *image, unsigned offset)
{
    uint16_t v;
    memcpy(&v, image + offset, 2);
    return v;
}

static inline uint32_t xsave_get32(const uint8_t *image, unsigned offset)
{
    uint32_t v;
    memcpy(&v, image + offset, 4);
    return v;
}

static inline uint64_t xsave_get64(const uint8_t *image, unsigned offset)
{
    uint64_t v;
    memcpy(&v, image + offset, 8);
    return v;
}

static inline void xsave_put16(uint8_t *image, unsigned offset, uint16_t v)
{
    memcpy(image + offset, &v, 2);
}

static inline void xsave_put32(uint8_t *image, unsigned offset, uint32_t v)
{
    memcpy(image + offset, &v, 4);
}

static inline void xsave_put64(uint8_t *image, unsigned offset, uint64_t v)
{
    memcpy(image + offset, &v, 8);
}

/* Raise #UD or #NM where CR0, CR4 and XCR0 do not let instructions of the kind run (SDM vol. 3 tables 2-1 and
 * 14-1 to 14-3; vol. 2 2.7). */
G_NORETURN void fpu_unavailable_sse(X86Cpu *cpu);
G_NORETURN void fpu_unavailable_avx(X86Cpu *cpu);
G_NORETURN void fpu_unavailable_mmx(X86Cpu *cpu);
static inline void fpu_check_x87(X86Cpu *cpu)
{
    if (!(cpu->mode & MODE_FPU_OK)) {
        x86_raise(cpu, EXC_NM);
    }
}
static inline void fpu_check_sse(X86Cpu *cpu)
{
    if (G_UNLIKELY(!(cpu->mode & MODE_SSE_OK))) {
        fpu_unavailable_sse(cpu);
    }
}
static inline void fpu_check_avx(X86Cpu *cpu)
{
    if (G_UNLIKELY(!(cpu->mode & MODE_AVX_OK))) {
        fpu_unavailable_avx(cpu);
    }
}

/* Sets FSW's ES and B as its flags and FCW's masks say. */
static inline void fpu_update_summary(uint8_t *image)
{
    uint16_t fsw = (uint16_t)(xsave_get16(image, XSAVE_FSW) & ~(FSW_ES | FSW_B));
    if (fsw & ~xsave_get16(image, XSAVE_FCW) & 0x3f) {
        fsw |= FSW_ES | FSW_B;
    }
    xsave_put16(image, XSAVE_FSW, fsw);
}

/* Raises #MF where an unmasked x87 exception is pending: at the start of every waiting instruction. */
static inline void fpu_check_pending(X86Cpu *cpu)
{
    if (xsave_get16(cpu->xsave, XSAVE_FSW) & FSW_ES) {
        x86_raise(cpu, EXC_MF);
    }
}

/* #AC where alignment is checked; alignment in bytes. */
static inline void fpu_check_ac(X86Cpu *cpu, uint64_t linear, unsigned alignment)
{
    if (G_UNLIKELY(cpu->mode & MODE_AC) && (linear & (alignment - 1))) {
        x86_raise_error(cpu, EXC_AC, 0);
    }
}

/* What a stub ended with. */
G_NORETURN static inline void fpu_raise_native(X86Cpu *cpu, int vector)
{
    if (vector == EXC_XM && !(cpu->cr4 & CR4_OSXMMEXCPT)) {
        vector = EXC_UD;
    }
    x86_raise(cpu, vector);
}

/* An instruction with VEX prefix zeroes a vector register that it writes up to the greatest length there is.
 */
static inline void fpu_zero_zmm_high(X86Cpu *cpu, unsigned first, unsigned count)
{
    if (G_UNLIKELY(cpu->fpu_mask & XCR0_AVX512)) {
        memset(cpu->xsave + cpu->xsave_zmm_hi + first * 32u, 0, count * 32u);
    }
}

/* The stub and its description of a form marked native; NULL where the host cannot. */
NativeStub *simd_make_stub(const X86Cpu *cpu, const X86Insn *insn, NativeForm *form);

/* The executor of one form, or NULL. */
FpuExec *simd_bind(X86Cpu *cpu, InterpNative *native);
FpuExec *avx512_bind(X86Cpu *cpu, InterpNative *native);
FpuExec *x87_bind(X86Cpu *cpu, InterpNative *native);
FpuExec *xsave_bind(X86Cpu *cpu, InterpNative *native);

#endif
