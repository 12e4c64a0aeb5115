/*
 * The interpreter's side of the oracle: a bare vCPU at CPL 3 whose pages are laid out as native_run.h says.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_TESTS_CPU_SOFT_RUN_H
#define RHEA_TESTS_CPU_SOFT_RUN_H

#include "arch/x86/decode.h"
#include "native_run.h"

/* Builds the vCPU. Returns NULL, or why it cannot. Once. */
typedef enum SoftKind {
    SOFT_INTERPRETED,
    SOFT_TRANSLATED, /* 64-bit code */
    SOFT_WINDOWS,    /* the same, with its memory in windows */
} SoftKind;
const char *soft_setup(SoftKind kind);
/* The guest's RAM behind CASE_CODE_BASE and CASE_DATA_BASE. */
uint8_t *soft_code(void);
uint8_t *soft_data(void);
/* Maps a page of the data (-1: none) at another address, and has the vCPU forget what was there. */
void soft_map(uint64_t linear, int data_page, bool writable);
/* The guest's RAM, and where the data lies in it. */
struct RamBlock *soft_ram(uint64_t *data_offset);
/* Tells the vCPU that its code page was written. */
void soft_code_written(void);
/* The vCPU, for tests that change its control registers. */
struct X86Cpu *soft_cpu(void);
/* Executes one instruction at in->rip. */
void soft_run(const CaseState *in, CaseMode mode, CaseOutcome *out);

#endif
