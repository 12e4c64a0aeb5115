/*
 * FP and SIMD instructions of the guest by the host's own: for each form (not for each use: registers are
 * parameters) a small stub of host code is generated once. It loads the operands from the guest's XSAVE image
 * into fixed host registers, runs the very instruction, and stores what it wrote. No software floating point
 * anywhere.
 *
 * Invariants:
 *  1. The stub region is never writable and executable through one mapping (two mappings of one memfd).
 *  2. Only forms of the decode table get here; bytes of the guest are never copied, forms are re-encoded.
 *  3. Outside a stub the host's MXCSR and x87 control word have their default values.
 *  4. A stub that ends in SIGFPE (an unmasked SIMD exception, a pending x87 one) has changed nothing of the
 * guest but MXCSR's flags.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_INTERP_NATIVE_H
#define RHEA_ACCEL_SOFT_INTERP_NATIVE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Offsets in the XSAVE image, SDM vol. 1 13.4. The AVX component's place is the host's (CPUID leaf 0xD). */
#define XSAVE_FCW        0
#define XSAVE_FSW        2
#define XSAVE_FTW        4
#define XSAVE_FOP        6
#define XSAVE_FIP        8
#define XSAVE_FDP        16
#define XSAVE_MXCSR      24
#define XSAVE_MXCSR_MASK 28
#define XSAVE_ST         32
#define XSAVE_XMM        160
#define XSAVE_HEADER     512
#define XSAVE_AVX        576

/* What lies behind a stub: how host registers are filled and what is stored. */
typedef enum NativeOperand {
    NATIVE_NONE,
    NATIVE_VEC, /* XMM or YMM */
    NATIVE_MMX,
    NATIVE_GPR,
    NATIVE_MEM, /* ModRM.rm only */
    NATIVE_EXT, /* ModRM.reg only: part of the opcode */
    NATIVE_ST,  /* ModRM.rm only: x87 register or further opcode */
} NativeOperand;

enum {
    NATIVE_OUT_REG = 1 << 0,   /* writes the operand in ModRM.reg */
    NATIVE_OUT_RM = 1 << 1,    /* ... ModRM.rm (memory: through the pointer) */
    NATIVE_OUT_VVVV = 1 << 2,  /* ... VEX.vvvv */
    NATIVE_OUT_FLAGS = 1 << 3, /* ... RFLAGS */
    NATIVE_OUT_XMM0 = 1 << 4,  /* ... XMM0, implied */
    NATIVE_IN_XMM0 = 1 << 5,   /* reads XMM0, implied */
    NATIVE_IN_AX_DX = 1 << 6,  /* reads RAX and RDX, implied: args 1 and 2 */
    NATIVE_OUT_CX = 1 << 7,    /* writes RCX, implied: args 3 */
    NATIVE_FP = 1 << 8,        /* reads or writes MXCSR */
    NATIVE_IS4 = 1 << 9,       /* bits 7:4 of the immediate name a register */
    NATIVE_X87 = 1 << 10,      /* the x87 or MMX state takes part */
    NATIVE_IN_FLAGS = 1 << 11, /* reads RFLAGS; args->flags holds arithmetic flags and bit 1 only */
};

typedef struct NativeForm {
    uint8_t map; /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
    uint8_t opcode;
    uint8_t prefix; /* mandatory: 0, 0x66, 0xf3, 0xf2 */
    bool vex;
    uint8_t l, w;
    uint8_t reg; /* NATIVE_EXT: the extension; NATIVE_MMX: the register; else not part of the form */
    uint8_t rm;  /* NATIVE_ST, NATIVE_MMX: the register */
    bool has_imm;
    uint8_t imm;
    NativeOperand reg_kind, vvvv_kind, rm_kind;
    uint32_t flags;
} NativeForm;

/* In and out besides the XSAVE image. gpr: the one general register that the form names. */
typedef struct NativeArgs {
    uint64_t gpr, ax, dx, cx, flags;
} NativeArgs;

/* xsave: the guest's image, 64-byte aligned. reg, vvvv, rm, is4: 16 times the register's number. mem: the
 * operand. Returns 0, or the vector of the exception that ended it: 16 (#MF) or 19 (#XM). */
typedef int NativeStub(uint8_t *xsave, uint64_t reg, uint64_t vvvv, uint64_t rm, void *mem, NativeArgs *args,
                       uint64_t is4);

/* ---- AVX-512: EVEX forms, and VEX forms on mask registers ---- */
/* Vector operands come in 64-byte buffers, since registers 0 to 15 are in three places of the image and 16 to
 * 31 in one; so do memory operands. A form that may be masked always is: with all ones where it has no mask.
 */
typedef enum NativeEvexOperand {
    NATIVE_E_NONE,
    NATIVE_E_VEC,
    NATIVE_E_MASK,
    NATIVE_E_GPR,
    NATIVE_E_MEM,   /* ModRM.rm only: in NativeEvexArgs.rm */
    NATIVE_E_DIGIT, /* ModRM.reg only: part of the opcode */
} NativeEvexOperand;

enum {
    NATIVE_E_OUT_REG = 1 << 0,
    NATIVE_E_OUT_VVVV = 1 << 1,
    NATIVE_E_OUT_RM = 1 << 2,
    NATIVE_E_OUT_FLAGS = 1 << 3,
    NATIVE_E_FP = 1 << 4, /* reads or writes MXCSR */
};

typedef struct NativeEvexForm {
    bool evex; /* else VEX */
    uint8_t map, opcode, prefix;
    uint8_t ll, w, digit;
    bool b, z, masked;
    bool has_imm;
    uint8_t imm;
    uint8_t reg_kind, vvvv_kind, rm_kind; /* NativeEvexOperand */
    uint8_t flags;
} NativeEvexForm;

typedef struct NativeEvexArgs {
    uint8_t reg[64], vvvv[64], rm[64];
    uint64_t mask;                         /* the one that EVEX.aaa names */
    uint64_t reg_mask, vvvv_mask, rm_mask; /* operands that are masks */
    uint64_t gpr, flags;
} NativeEvexArgs;

/* Returns as NativeStub does. Of xsave only MXCSR takes part. */
typedef int NativeEvexStub(uint8_t *xsave, NativeEvexArgs *args);
/* As native_stub(). The host has AVX-512. */
NativeEvexStub *native_evex_stub(const NativeEvexForm *form);

/* Maps the region and takes SIGFPE (others' SIGFPEs keep their handler). Idempotent. [any thread] */
bool native_init(GError **error);
/* The stub of a form, made at first use; it lives for ever. NULL where the host lacks the instruction. [any
 * thread] */
NativeStub *native_stub(const NativeForm *form);
/* Bytes of stubs made so far, for statistics. */
size_t native_size(void);
/* Whether an address lies in the stub region: how a host FIP is told from a guest's. */
bool native_contains(uint64_t address);

#endif
