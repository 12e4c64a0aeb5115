/*
 * Windows: where a process of the guest runs for long, its pages are mapped into host memory at a constant
 * distance from their guest addresses, so that its code needs no look at the TLB: see window.c. Private to
 * this folder. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_JIT_WINDOW_H
#define RHEA_ACCEL_SOFT_JIT_WINDOW_H

#include "arch/x86/mmu.h"

#define WINDOW_SHIFT 40
#define WINDOW_SLOTS 256u /* by bits 40 to 47 of an address */
/* No page is in a window's surroundings of this size: an operand lies no farther than this from the address
 * whose window was looked up, which an index of 32 bits times eight and a displacement do not reach. */
#define WINDOW_GUARD (UINT64_C(40) << 30)
/* What [address + this] is where there is no window: the kernel's half, so that the host's page fault tells
 * the address. */
#define WINDOW_NONE UINT64_C(0xffff800000000000)

/* What it is for addresses of the kernel's half: not canonical. */
#define WINDOW_NEVER (UINT64_C(1) << 62)

typedef struct Windows Windows;

Windows *windows_new(X86Cpu *cpu);
void windows_free(Windows *w);
/* After an interrupt of the user's code: whether the current address space is to have windows is decided by
 * how long it runs. now: without waiting (for tests). Vector registers are the host's. */
void windows_sample(Windows *w, bool now);
/* Whether user code of the current address space runs with windows. Uses no vector registers. */
bool windows_on(const Windows *w);
/* Before code that relies on them, at a boundary: takes out what holds no more, and makes JitArea.windows
 * those of the current address space. Calls x86_fpu_leave where it has to do something. false: they are off
 * now. */
bool windows_refresh(Windows *w);
/* The host's page fault at this address in code that relies on windows: true: the page is there now. In the
 * signal's handler. */
bool windows_fault(Windows *w, uintptr_t host, bool write);
/* The user's page will be wanted at the next refresh: it was just mapped by the guest, perhaps. */
void windows_expect(Windows *w, uint64_t linear);

/* Whether [low, high) of host memory may be written through a window, but for pages that are just being
 * mapped and will be checked against the dirty bits. [any thread] */
bool windows_may_write(const Windows *w, const uint8_t *low, const uint8_t *high);

/* Whether the window of one address of the current address space lies, or would lie, as far from the guest's
 * addresses as that of the other one does. A guess. */
bool windows_near(uint64_t linear, uint64_t other);
/* Whether that is so for all windows that it has, and this address. */
bool windows_all_near(const Windows *w, uint64_t linear);

typedef struct WindowCounts {
    uint64_t spaces, mapped, faults, dropped, checked, given_up;
    unsigned pages;
} WindowCounts;
void windows_counts(const Windows *w, WindowCounts *counts);

#endif
