/*
 * The smallest guest: a PVH kernel that writes one byte to the first serial port and halts for ever. What
 * `make bench` starts to time exec to first serial byte, and the idle costs of a machine.
 * PVH: xen/include/public/arch-x86/hvm/start_info.h describes the entry (32-bit protected mode, paging off).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
        .section .note.pvh, "a", @note
        .long 4, 4, 18                  /* name size, value size, type XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz "Xen"
        .long _start

        .text
        .code32
        .globl _start
_start: mov     $0x3f8, %dx
        mov     $'R', %al
        out     %al, %dx
        mov     $'\n', %al
        out     %al, %dx
1:      cli
        hlt
        jmp     1b
