/* Vector and x87 registers between host and guest. SPDX-License-Identifier: GPL-2.0-or-later */
#include "arch/x86/cpu.h"

#define HOST_MXCSR        0x1f80u
#define MXCSR_MASK_OFFSET 28

void x86_fpu_save(X86Cpu *cpu)
{
    uint32_t mxcsr = HOST_MXCSR, guest_mask = 0xffff, components = cpu->fpu_mask;

    if (components & XCR0_AVX512) {
        /* What is in its initial state, and was so when it was loaded, is zero in the image already. */
        uint32_t in_use, high;
        __asm__ volatile("xgetbv" : "=a"(in_use), "=d"(high) : "c"(1));
        components &= XCR0_BASE | in_use | cpu->fpu_bv;
        cpu->fpu_bv = XCR0_BASE | (in_use & components);
    }
    __asm__ volatile("xsave64 %0\n\tfninit\n\tldmxcsr %1\n\tvzeroupper"
                     : "=m"(cpu->xsave)
                     : "m"(mxcsr), "a"(components), "d"(0)
                     : "memory");
    /* MXCSR_MASK is the guest's. */
    __builtin_memcpy(cpu->xsave + MXCSR_MASK_OFFSET, &guest_mask, sizeof(guest_mask));
    cpu->fpu_stale = 1;
}
