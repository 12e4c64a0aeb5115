/*
 * Runs one instruction on the host's own CPU with every register chosen by the caller: rt_sigreturn loads
 * GPRs, RIP, RFLAGS (TF set) and the extended state, the instruction runs, and the signal that follows (#DB
 * from TF, or the fault) brings the result. 64-bit code, and 32-bit code through the kernel's
 * compatibility-mode code segment. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_TESTS_CPU_NATIVE_RUN_H
#define RHEA_TESTS_CPU_NATIVE_RUN_H

#include <stdbool.h>
#include <stdint.h>

/* The linear addresses that both sides map alike. Data: [none][rw][rw][ro][none], one page each. */
#define CASE_CODE_BASE  UINT64_C(0x10000000)
#define CASE_DATA_BASE  UINT64_C(0x20000000)
#define CASE_PAGE       4096u
#define CASE_DATA_PAGES 5

/* The extended state in the host's XSAVE standard format, as far as a guest has it: legacy area, header, AVX,
 * and where the host has it AVX-512. */
#define CASE_XSAVE_BASE 832
#define CASE_XSAVE_SIZE 4096
#define CASE_XSAVE_AVX  576

/* What code segment the instruction runs in, and whether data go through segments with a base and a limit. */
typedef enum CaseMode {
    CASE_64,
    CASE_32,           /* flat */
    CASE_16,           /* CS: base CASE_CODE_BASE, 64 KiB; DS and ES: the data pages; SS: flat, 32 bits */
    CASE_32_SEGMENTED, /* CS and SS flat; DS and ES: the data pages */
    CASE_MODES,
} CaseMode;
static inline bool case_mode_segmented(CaseMode mode)
{
    return mode == CASE_16 || mode == CASE_32_SEGMENTED;
}

typedef struct CaseState {
    uint64_t regs[16]; /* R_RAX, R_RCX, ... order */
    uint64_t rip, rflags;
    uint64_t fs_base, gs_base;
    uint8_t xsave[CASE_XSAVE_SIZE] __attribute__((aligned(64)));
} CaseState;

typedef struct CaseOutcome {
    CaseState state;
    int vector; /* -1: the instruction completed */
    uint32_t error_code;
    uint64_t cr2;
} CaseOutcome;

/* Maps the pages, installs the handlers, and makes the segments. Returns NULL, or why this host cannot. Once.
 */
const char *native_setup(void);
/* Where the state has AVX-512's opmask, ZMM_Hi256 and Hi16_ZMM; 0: the host has none. */
typedef struct CaseLayout {
    unsigned opmask, zmm_hi, hi16;
} CaseLayout;
const CaseLayout *native_layout(void);
/* Whether segments of our own could be made: modes CASE_16 and CASE_32_SEGMENTED. */
bool native_has_segments(void);
/* Writable aliases of the mapped pages. */
uint8_t *native_code(void); /* CASE_PAGE bytes */
uint8_t *native_data(void); /* CASE_DATA_PAGES pages; those without a mapping are there too, unused */
/* Runs one instruction at in->rip (a linear address in every mode). */
void native_run(const CaseState *in, CaseMode mode, CaseOutcome *out);

#endif
