/*
 * The registers as gdb numbers them, and the target description that tells it so (gdb's manual, appendix
 * "Target Descriptions", "i386 Features"). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_GDBSTUB_REGISTERS_H
#define RHEA_GDBSTUB_REGISTERS_H

#include "arch/x86/cpu.h"

#define GDB_MAX_REGISTER_BYTES 64

/* How many there are, and how many of them the "g" packet has. */
unsigned gdb_register_count(void);
/* A register's bytes as gdb takes them; the number of bytes, 0: there is no such register. The vCPU stands
 * still. */
unsigned gdb_register_read(const X86Cpu *cpu, unsigned number, uint8_t bytes[GDB_MAX_REGISTER_BYTES]);
/* Sets it; false: no such register, or not that many bytes. Registers that cannot be set so (segment
 * selectors) are left alone. */
bool gdb_register_write(X86Cpu *cpu, unsigned number, const uint8_t *bytes, unsigned size);
/* The description, whole. Caller frees. */
char *gdb_target_xml(void);

#endif
