/* Vector and x87 registers between host and guest. SPDX-License-Identifier: GPL-2.0-or-later */
#include "arch/x86/cpu.h"

#define HOST_MXCSR        0x1f80u
#define MXCSR_MASK_OFFSET 28

void x86_fpu_save(X86Cpu *cpu)
{
    uint32_t mxcsr = HOST_MXCSR, guest_mask = 0xffff;

    __asm__ volatile("xsave64 %0\n\tfninit\n\tldmxcsr %1\n\tvzeroupper"
                     : "=m"(cpu->xsave)
                     : "m"(mxcsr), "a"(7), "d"(0)
                     : "memory");
    /* MXCSR_MASK is the guest's. */
    __builtin_memcpy(cpu->xsave + MXCSR_MASK_OFFSET, &guest_mask, sizeof(guest_mask));
    cpu->fpu_stale = 1;
}
