/*
 * The local APIC (SDM vol. 3 chapter 10), xAPIC and x2APIC, and the bus that carries interrupt messages
 * between I/O APICs, MSIs, other local APICs, and the 8259. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_APIC_H
#define RHEA_ARCH_X86_APIC_H

#include "arch/x86/cpu.h"

typedef enum ApicDeliveryMode {
    APIC_FIXED,
    APIC_LOWEST,
    APIC_SMI,
    APIC_RESERVED,
    APIC_NMI,
    APIC_INIT,
    APIC_SIPI,
    APIC_EXTINT,
} ApicDeliveryMode;

typedef struct ApicMessage {
    uint32_t destination; /* 8 bits, or 32 where wide */
    bool wide;            /* from an x2APIC: the broadcast address has 32 bits, too */
    bool logical;
    ApicDeliveryMode mode;
    uint8_t vector;
    bool level;   /* trigger mode */
    bool assert_; /* INIT level de-assert is ignored */
} ApicMessage;

/* Up to this many local APICs on a bus. */
#define APIC_BUS_MAX 1024

ApicBus *apic_bus_new(void);
void apic_bus_free(ApicBus *bus);
/* Delivers to every local APIC that accepts. [any thread]; leaf lock. */
void apic_bus_deliver(ApicBus *bus, const ApicMessage *message);
/* An MSI write's address and data (SDM vol. 3 10.11). [any thread] */
void apic_bus_msi(ApicBus *bus, uint64_t address, uint32_t data);
/* The I/O APIC wants to know of EOIs of level-triggered vectors. Called in the vCPU's thread, no locks held.
 */
void apic_bus_add_eoi_handler(ApicBus *bus, void (*fn)(void *opaque, uint8_t vector), void *opaque);
/* The 8259 pair: acknowledge gives the vector to an APIC in ExtINT mode (or with the APIC off). */
void apic_bus_set_pic(ApicBus *bus, int (*acknowledge)(void *opaque), void *opaque);
/* The 8259's INTR line, wired to the BSP's LINT0. [any thread] */
void apic_bus_set_pic_line(ApicBus *bus, bool level);
/* NMI through LINT1 of every CPU ("inject-nmi"). */
void apic_bus_nmi(ApicBus *bus);

/* ---- local APICs that are somebody else's (accel/kvm: the kernel's) ---- */
/* X86Apic then only holds state while its vCPU stands still: messages go where this says, and no timer runs
 * here. */
typedef struct ApicRoute ApicRoute; /* a way for one message that is sent again and again */
typedef struct ApicRemote {
    void (*deliver)(void *opaque, const ApicMessage *message); /* [any thread] */
    /* What an I/O APIC's pin sends from now on (NULL: it is masked); for EOIs of level-triggered ones. */
    void (*pin)(void *opaque, unsigned pin, const ApicMessage *message);
    /* Behind apic_bus_route_*; NULL: there are no routes. */
    ApicRoute *(*route_new)(void *opaque);
    bool (*route_send)(ApicRoute *route, uint64_t address, uint32_t data);
    void (*route_free)(ApicRoute *route);
    /* The other controllers, where they are somebody else's, too (arch/x86/chips.h); NULL: they are here. */
    const struct X86Chips *chips;
    void *opaque;
} ApicRemote;
/* Before CPUs are made. NULL: they are here. remote is borrowed. */
void apic_bus_set_remote(ApicBus *bus, const ApicRemote *remote);
void apic_bus_pin(ApicBus *bus, unsigned pin, const ApicMessage *message); /* nothing where APICs are here */
/* A route for an MSI-X vector, say; NULL: there is none to be had, and apic_bus_msi() does it. Owned; freed
 * before the bus is. [any thread] */
ApicRoute *apic_bus_route_new(ApicBus *bus);
/* Sends this MSI; cheap while address and data stay what they were. false: it was not sent. [one thread at a
 * time] */
bool apic_bus_route_send(ApicBus *bus, ApicRoute *route, uint64_t address, uint32_t data);
void apic_bus_route_free(ApicBus *bus, ApicRoute *route);
/* The controllers that are somebody else's; NULL: devices model them. */
const struct X86Chips *apic_bus_chips(const ApicBus *bus);
/* An EOI that a remote APIC tells of. */
void apic_bus_eoi(ApicBus *bus, uint8_t vector);
/* The 8259's line, and its vector (-1: none). */
bool apic_bus_pic_pending(ApicBus *bus);
int apic_bus_pic_acknowledge(ApicBus *bus);
/* The register page (1 KiB, each register 32 bits wide, 16 bytes apart), and back; of the current count what
 * is left now. The base is not in it. The vCPU stands still. */
#define APIC_IMAGE_SIZE    1024u
#define APIC_IMAGE_IRR     0x200u
#define APIC_IMAGE_CURRENT 0x390u
void apic_save_image(X86Apic *apic, uint8_t image[APIC_IMAGE_SIZE]);
void apic_load_image(X86Apic *apic, const uint8_t image[APIC_IMAGE_SIZE], uint64_t base,
                     uint64_t tsc_deadline);

/* The local APIC of the vCPU that the calling thread runs from now on; NULL: none. */
void apic_set_thread(X86Apic *apic);
/* A chipset's SMI: to the CPU whose thread this is (whose access has caused it), else to the one with id 0;
 * or to all. */
void apic_bus_smi(ApicBus *bus, bool all);
/* To the one local APIC with this (x2APIC) id; false: there is none. */
bool apic_bus_deliver_to_id(ApicBus *bus, uint32_t id, const ApicMessage *message);
/* KVM's paravirtual kick: ends that vCPU's HLT. */
void apic_bus_kick(ApicBus *bus, uint32_t id);

X86Apic *apic_new(X86Cpu *cpu, ApicBus *bus);
void apic_free(X86Apic *apic);
void apic_reset(X86Apic *apic, bool is_init);
/* The vector to deliver now, taken into service; -1: none (spurious or masked by TPR). vCPU's thread. */
int apic_acknowledge(X86Apic *apic);
bool apic_has_interrupt(X86Apic *apic); /* one that TPR lets through */
/* The vector of the last SIPI. */
uint8_t apic_sipi_vector(X86Apic *apic);
uint64_t apic_get_base(X86Apic *apic);
bool apic_set_base(X86Apic *apic, uint64_t value); /* false: #GP */
/* Accesses from the CPU's own page (gpa in [base, base + 4 KiB)); the mmu's slow path calls them. */
bool apic_owns(X86Apic *apic, uint64_t gpa);
uint32_t apic_mmio_read(X86Apic *apic, uint32_t offset);
void apic_mmio_write(X86Apic *apic, uint32_t offset, uint32_t value);
bool apic_msr_read(X86Apic *apic, uint32_t index, uint64_t *value);
bool apic_msr_write(X86Apic *apic, uint32_t index, uint64_t value);
/* IA32_TSC_DEADLINE (MSR 0x6e0), 10.5.4.1; false: #GP. */
bool apic_tsc_deadline_read(X86Apic *apic, uint64_t *value);
bool apic_tsc_deadline_write(X86Apic *apic, uint64_t value);
uint8_t apic_get_tpr(X86Apic *apic);
void apic_set_tpr(X86Apic *apic, uint8_t tpr);
/* The earliest time (virtual clock, ns) at which the timer wants CPU_INTERRUPT_TIMER; INT64_MAX: none. */
int64_t apic_timer_deadline_ns(X86Apic *apic);
void apic_timer_expired(X86Apic *apic); /* vCPU's thread */
/* Settles an interrupt that the guest may have ended in memory; before its address (MSR_KVM_PV_EOI_EN)
 * changes. */
void apic_pv_eoi_settle(X86Apic *apic);
/* IA32_TSC_DEADLINE. */
uint64_t apic_get_tsc_deadline(X86Apic *apic);
void apic_set_tsc_deadline(X86Apic *apic, uint64_t tsc);
/* The TSC was changed: a TSC deadline lies elsewhere in time now. */
void apic_tsc_changed(X86Apic *apic);
extern const struct VmState apic_vmstate;
/* The APIC as the bus's user: the type "apic" in the object tree below its CPU. */
#define TYPE_APIC "apic"

#endif
