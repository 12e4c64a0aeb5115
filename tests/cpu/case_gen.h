/*
 * Test cases for the oracle, made from the decode table. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_TESTS_CPU_CASE_GEN_H
#define RHEA_TESTS_CPU_CASE_GEN_H

#include "arch/x86/decode.h"
#include "native_run.h"

typedef struct Rng {
    uint64_t s[2];
} Rng;
void rng_seed(Rng *rng, uint64_t seed);
uint64_t rng_next(Rng *rng);
static inline unsigned rng_below(Rng *rng, unsigned n)
{
    return (unsigned)((rng_next(rng) >> 33) % n);
}
static inline bool rng_one_in(Rng *rng, unsigned n)
{
    return rng_below(rng, n) == 0;
}

typedef struct Case {
    X86Insn insn;
    uint8_t bytes[16];
    CaseMode mode;
    CaseState state;
    uint64_t operand; /* linear address of the memory operand; 0: none */
} Case;

/* Whether the oracle can run a form at all: why not, or NULL. */
const char *case_form_unfit(const X86Form *form);
/* Makes a case of the form. false: this draw has no valid encoding in the mode; draw again. */
bool case_make(Rng *rng, const X86Form *form, CaseMode mode, Case *c);
/* Byte at (a multiple of 16) of a vector register, and a mask register, in a state. */
static inline uint8_t *case_vector(CaseState *s, unsigned number, unsigned at)
{
    const CaseLayout *l = native_layout();
    return s->xsave + (number >= 16 ? l->hi16 + (number - 16) * 64 + at
                       : at < 16    ? 160 + number * 16 + at
                       : at < 32    ? CASE_XSAVE_AVX + number * 16 + at - 16
                                    : l->zmm_hi + number * 32 + at - 32);
}
static inline uint8_t *case_mask(CaseState *s, unsigned number)
{
    return s->xsave + native_layout()->opmask + number * 8;
}
/* Random bytes around the data area: what memory holds before the case. */
void case_fill_memory(Rng *rng, uint8_t *data);

#endif
