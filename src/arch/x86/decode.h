/*
 * The instruction decoder, driven by the tables insns*.tab (tools/gen_decode.py makes x86_forms from them).
 * What is not in the table is #UD. Sources: SDM vol. 2 chapter 2 (formats), appendix A (the letters of the
 * operand kinds). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_DECODE_H
#define RHEA_ARCH_X86_DECODE_H

#include "arch/x86/x86_insns.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { X86_SPACE_LEGACY, X86_SPACE_VEX, X86_SPACE_EVEX };
enum { X86_PREFIX_ANY, X86_PREFIX_NP, X86_PREFIX_66, X86_PREFIX_F3, X86_PREFIX_F2 };
enum { X86_BIT_0, X86_BIT_1, X86_BIT_2, X86_BIT_ANY };
enum { X86_MOD_ANY, X86_MOD_REG, X86_MOD_MEM };
enum { X86_ACCESS_R = 1, X86_ACCESS_W = 2, X86_ACCESS_RW = 3, X86_ACCESS_N = 0 };

typedef struct X86Operand {
    uint8_t kind;   /* X86_OPERAND_* : the letter, or GPR, CONST, SEG, ST, XMM (fixed, see number), VSIBX/Y,
                       KR/KV/KM */
    uint8_t size;   /* X86_SIZE_* : the letters behind it */
    uint8_t access; /* X86_ACCESS_*; N: the address only (LEA, INVLPG, PREFETCH) */
    uint8_t number; /* of a fixed register or constant */
} X86Operand;

/* One row of the table. */
typedef struct X86Form {
    uint16_t mnemonic; /* X86_ADD ... */
    uint8_t space, map, opcode, prefix, w, l;
    int8_t digit;        /* of /digit; -1 */
    int16_t exact_modrm; /* -1: any */
    uint8_t mod;         /* X86_MOD_* */
    bool has_modrm, plus_r;
    uint8_t operand_size, address_size; /* only in this one (bytes); 0: any */
    uint8_t operand_count;
    uint16_t feature;                                    /* X86_FEATURE_* */
    uint32_t attrs;                                      /* X86_ATTR_* */
    uint16_t flags_read, flags_written, flags_undefined; /* masks in RFLAGS layout */
    uint16_t evex;                                       /* X86_EVEX_* */
    uint8_t element;   /* EVEX: bytes of what one bit of the mask stands for */
    uint8_t broadcast; /* EVEX: bytes of what a memory operand may be broadcast from; 0: it may not */
    X86Operand operands[5];
    const char *source; /* "insns.tab:123" */
} X86Form;

typedef struct X86FormIndex {
    uint16_t start, count; /* in x86_form_lists */
} X86FormIndex;

/* For test generators and the decoder. */
extern const X86Form x86_forms[X86_FORM_COUNT];
extern const uint16_t x86_form_lists[];
extern const X86FormIndex x86_form_index[3][4][256];
extern const char *const x86_mnemonic_names[X86_MNEMONIC_COUNT];
extern const char *const x86_feature_names[X86_FEATURE_COUNT];

#define X86_INSN_MAX 15
/* Pseudo-registers in X86Insn.base and .index. */
#define X86_REG_RIP  16
#define X86_REG_NONE 17

enum {
    X86_INSN_LOCK = 1,
    X86_INSN_REP = 2,
    X86_INSN_REPNE = 4,
    X86_INSN_66 = 8,
    X86_INSN_67 = 16,
    X86_INSN_REX = 32
};

/* A decoded instruction. Everything a re-encoder needs is here: positions are byte offsets in bytes[], 0
 * where absent (an instruction's opcode is never at ... unless it has no prefix, hence has_* flags). */
typedef struct X86Insn {
    const X86Form *form;
    uint8_t bytes[16];
    uint8_t length;
    uint8_t opcode_offset; /* of the opcode byte itself (behind prefixes, escapes and VEX) */
    uint8_t modrm_offset;  /* 0: none */
    uint8_t disp_offset, disp_size;
    uint8_t imm_offset, imm_size; /* imm_size in bytes: 0 none; of ENTER 3, of far pointers 4 or 6 */
    uint8_t vex_offset;           /* of the byte C4, C5 or 62; vex_size 0: none */
    uint8_t vex_size;
    uint8_t prefixes;     /* X86_INSN_* */
    uint8_t operand_size; /* 2, 4, 8: of "v" operands */
    uint8_t address_size; /* 2, 4, 8 */
    uint8_t mandatory;    /* X86_PREFIX_NP, _66, _F3, _F2 as present or as VEX.pp says */
    uint8_t rex_w, vex_l; /* W of REX, VEX or EVEX; L (0, 1, 2; 2 where EVEX.L'L is a rounding mode) */
    uint8_t vvvv;         /* 0-15 (EVEX: 0-31) */
    uint8_t opmask, evex_b, evex_z; /* EVEX.aaa, b, z */
    uint8_t evex_ll; /* EVEX.L'L as it is: a length, or with evex_b and registers the rounding mode */
    uint8_t modrm, mod;
    uint8_t reg, rm; /* with REX/VEX bits (EVEX: vector registers to 31); rm only where mod is 3 (or the
                        opcode's register in a +r form) */
    bool is_memory;
    uint8_t segment; /* SEG_*: effective, with overrides and the defaults of BP/SP; overrides ignored in
                        64-bit mode but FS, GS */
    bool segment_override;
    uint8_t base, index; /* 0-15, X86_REG_RIP, X86_REG_NONE; VSIB: index is a vector register, 0-31 */
    uint8_t scale;       /* a shift: 0-3 */
    int32_t disp;
    uint64_t
        imm; /* sign-extended where the form says so; of far pointers the offset; of ENTER the frame size */
    uint64_t imm2; /* of far pointers the selector; of ENTER the level; of is4 forms unused */
} X86Insn;

typedef enum X86DecodeStatus {
    X86_DECODE_OK,
    X86_DECODE_UD,       /* raise #UD */
    X86_DECODE_TOO_LONG, /* raise #GP(0) */
    X86_DECODE_MORE,     /* the bytes end before the instruction does */
} X86DecodeStatus;

typedef struct X86DecodeMode {
    uint8_t code_size;   /* 2, 4, 8 bytes: 16-bit, 32-bit, 64-bit code */
    bool protected_mode; /* CR0.PE and not VM86: rows marked prot are valid */
    bool vex;            /* VEX and EVEX encodings exist (protected mode, not VM86) */
    uint64_t features[(X86_FEATURE_COUNT + 63) /
                      64]; /* by X86_FEATURE_*; NONE's bit is set by x86_decode itself */
} X86DecodeMode;

/* Decodes one instruction from available bytes (at most 15 are looked at). On UD, insn->length counts what
 * was read. */
X86DecodeStatus x86_decode(const X86DecodeMode *mode, const uint8_t *bytes, size_t available, X86Insn *insn);
/* Says that every feature of the table is there (tests). */
void x86_decode_all_features(X86DecodeMode *mode);
/* The size in bytes of an operand in a decoded instruction; 0 where the size letter does not say ("s", "a",
 * none). */
unsigned x86_operand_bytes(const X86Insn *insn, const X86Operand *operand);
/* The same of the memory operand, as far as it is accessed: one element where EVEX.b broadcasts it. */
unsigned x86_memory_bytes(const X86Insn *insn, const X86Operand *operand);
/* Whether the form has a VSIB operand. */
bool x86_form_has_vsib(const X86Form *form);

#endif
