/*
 * The decoder's short way for what 64-bit code is mostly made of: legacy encodings of the one-byte and the 0F
 * map with at most FS or GS, one of 66, F2 and F3, and a REX prefix in front. Private to decode.c.
 *
 * Which form it is depends, apart from the CPU's features, on the map, that prefix, REX.W, the opcode, and
 * ModRM's reg field and whether its mod is 3. What the table-driven decoder found for these is noted the
 * first time, and the next such instruction is put together from the note. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_DECODE_QUICK_H
#define RHEA_ARCH_X86_DECODE_QUICK_H

#include "arch/x86/decode.h"

/* True: done, *insn is complete. Needs 16 bytes. */
bool x86_decode_quick(const X86DecodeMode *mode, const uint8_t *bytes, X86Insn *insn);
/* Notes what an instruction in 64-bit code was decoded to. [any thread] */
void x86_decode_note(const X86Insn *insn);

#endif
