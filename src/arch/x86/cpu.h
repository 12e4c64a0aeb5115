/*
 * The state of one x86-64 vCPU, and what the parts of the software CPU offer to each other.
 *
 * Sources: Intel 64 and IA-32 Architectures Software Developer's Manual (SDM) volumes 2 and 3; AMD64
 * Architecture Programmer's Manual volume 2 for SYSCALL and SVM-era details.
 *
 * Threads: everything here belongs to the vCPU's thread while it runs; other threads use cpu_interrupt(), the
 * APIC's message interface and, for the rest, run work in the vCPU's thread or stop it first (accel/vcpu.h).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ARCH_X86_CPU_H
#define RHEA_ARCH_X86_CPU_H

#include "loop/loop.h"
#include "mem/memory.h"
#include "object/object.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#define TYPE_X86_CPU "x86_64-cpu" /* abstract; models are "qemu64-x86_64-cpu", "max-x86_64-cpu", ... */

typedef struct X86Cpu X86Cpu;
typedef struct X86Apic X86Apic; /* arch/x86/apic.h */
typedef struct ApicBus ApicBus; /* arch/x86/apic.h */
typedef struct X86Mmu X86Mmu;   /* arch/x86/mmu.h: TLBs */

enum {
    R_RAX,
    R_RCX,
    R_RDX,
    R_RBX,
    R_RSP,
    R_RBP,
    R_RSI,
    R_RDI,
    R_R8,
    R_R9,
    R_R10,
    R_R11,
    R_R12,
    R_R13,
    R_R14,
    R_R15
};
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT, SEG_LDTR = SEG_COUNT, SEG_TR, SEG_ALL };

/* RFLAGS, SDM vol. 1 3.4.3 */
#define FLAG_CF     (1u << 0)
#define FLAG_ONE    (1u << 1)
#define FLAG_PF     (1u << 2)
#define FLAG_AF     (1u << 4)
#define FLAG_ZF     (1u << 6)
#define FLAG_SF     (1u << 7)
#define FLAG_TF     (1u << 8)
#define FLAG_IF     (1u << 9)
#define FLAG_DF     (1u << 10)
#define FLAG_OF     (1u << 11)
#define FLAG_IOPL   (3u << 12)
#define FLAG_NT     (1u << 14)
#define FLAG_RF     (1u << 16)
#define FLAG_VM     (1u << 17)
#define FLAG_AC     (1u << 18)
#define FLAG_VIF    (1u << 19)
#define FLAG_VIP    (1u << 20)
#define FLAG_ID     (1u << 21)
#define FLAGS_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR4_VME        (1u << 0)
#define CR4_PVI        (1u << 1)
#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_MCE        (1u << 6)
#define CR4_PGE        (1u << 7)
#define CR4_PCE        (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_LA57       (1u << 12)
#define CR4_VMXE       (1u << 13)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)
#define CR4_PKE        (1u << 22)
#define CR4_PKS        (1u << 24)

#define EFER_SCE   (1u << 0)
#define EFER_LME   (1u << 8)
#define EFER_LMA   (1u << 10)
#define EFER_NXE   (1u << 11)
#define EFER_SVME  (1u << 12)
#define EFER_FFXSR (1u << 14)

enum {
    EXC_DE = 0,
    EXC_DB = 1,
    EXC_NMI = 2,
    EXC_BP = 3,
    EXC_OF = 4,
    EXC_BR = 5,
    EXC_UD = 6,
    EXC_NM = 7,
    EXC_DF = 8,
    EXC_TS = 10,
    EXC_NP = 11,
    EXC_SS = 12,
    EXC_GP = 13,
    EXC_PF = 14,
    EXC_MF = 16,
    EXC_AC = 17,
    EXC_MC = 18,
    EXC_XM = 19,
};

/* A segment register with its hidden part. attr is the descriptor's second doubleword, bits 8 to 23, in place
 * (SDM vol. 3 figure 3-8), so that type, S, DPL, P, AVL, L, D/B and G are tested with the masks below. */
typedef struct X86Segment {
    uint16_t selector;
    uint32_t attr;
    uint32_t limit; /* in bytes, granularity applied */
    uint64_t base;
} X86Segment;
#define DESC_TYPE_SHIFT 8
#define DESC_A          (1u << 8)
#define DESC_W          (1u << 9)  /* data: writable */
#define DESC_R          (1u << 9)  /* code: readable */
#define DESC_E          (1u << 10) /* data: expand down */
#define DESC_C          (1u << 10) /* code: conforming */
#define DESC_CODE       (1u << 11)
#define DESC_S          (1u << 12)
#define DESC_DPL_SHIFT  13
#define DESC_P          (1u << 15)
#define DESC_AVL        (1u << 20)
#define DESC_L          (1u << 21)
#define DESC_B          (1u << 22) /* D/B */
#define DESC_G          (1u << 23)

typedef struct X86Table {
    uint64_t base;
    uint16_t limit;
} X86Table;

/* The FPU and SIMD state is one XSAVE area in the standard (non-compacted) format of this host, SDM vol.
 * 1 13.4, so that stubs, FXSAVE and migration use it as it is. 64-byte aligned. */
#define X86_XSAVE_SIZE 4096
/* State components, bits of XCR0. */
#define XCR0_BASE   7u    /* x87, SSE, AVX */
#define XCR0_AVX512 0xe0u /* opmask, ZMM_Hi256, Hi16_ZMM: all or none */
#define XCR0_PKRU   0x200u
/* Their sizes, and where a guest's XSAVE has them in the standard format: the same on every host. */
#define XSAVE_OPMASK_SIZE      64u
#define XSAVE_ZMM_HI_SIZE      512u
#define XSAVE_HI16_SIZE        1024u
#define XSAVE_AVX512_SIZE      (XSAVE_OPMASK_SIZE + XSAVE_ZMM_HI_SIZE + XSAVE_HI16_SIZE)
#define XSAVE_GUEST_OPMASK     1088u
#define XSAVE_GUEST_ZMM_HI     1152u
#define XSAVE_GUEST_HI16       1664u
#define XSAVE_GUEST_AVX512_END 2688u
#define XSAVE_PKRU_SIZE        8u
#define XSAVE_GUEST_PKRU       2688u

/* What may be pending for a vCPU; bits of X86Cpu.interrupt_request. */
#define CPU_INTERRUPT_HARD  (1u << 0) /* the APIC or PIC has a vector */
#define CPU_INTERRUPT_NMI   (1u << 1)
#define CPU_INTERRUPT_SMI   (1u << 2)
#define CPU_INTERRUPT_INIT  (1u << 3)
#define CPU_INTERRUPT_SIPI  (1u << 4)
#define CPU_INTERRUPT_TIMER (1u << 5) /* the APIC timer's deadline passed: let it fire */
#define CPU_INTERRUPT_TLB   (1u << 6) /* drop the TLB (topology changed, dirty bits cleared) */
#define CPU_INTERRUPT_EXIT  (1u << 7) /* leave vcpu_exec: stop, reset, work to do */
#define CPU_INTERRUPT_KICK  (1u << 9) /* another vCPU's paravirtual kick: ends HLT */
#define CPU_INTERRUPT_CODE  (1u << 8) /* drop cached blocks: code was written by somebody else */

/* Why CPL, mode and so on matter to decoded code: blocks are looked up by (physical address, mode). Kept up
 * to date by x86_update_mode() after every change of CS, SS, CR0, CR4, EFER, RFLAGS.VM/TF/AC or CPL. */
#define MODE_CS32      (1u << 0) /* CS.D */
#define MODE_CS64      (1u << 1) /* long mode and CS.L */
#define MODE_SS32      (1u << 2) /* SS.B; never with MODE_CS64 */
#define MODE_PE        (1u << 3)
#define MODE_VM86      (1u << 4)
#define MODE_LMA       (1u << 5) /* EFER.LMA */
#define MODE_CPL_SHIFT 6         /* 2 bits */
#define MODE_FLAT                                                                            \
    (1u << 8) /* CS, DS, ES, SS: base 0, limit 4 GiB, usable and writable/readable as needed \
               */
#define MODE_TF        (1u << 9)
#define MODE_FPU_OK    (1u << 10) /* neither CR0.EM nor CR0.TS */
#define MODE_SSE_OK    (1u << 11) /* CR4.OSFXSR and not CR0.EM/TS */
#define MODE_AVX_OK    (1u << 12) /* CR4.OSXSAVE, XCR0[2:1] = 3, not CR0.TS, protected mode */
#define MODE_AVX512_OK (1u << 13) /* MODE_AVX_OK and XCR0[7:5] = 7 */
#define MODE_IOPL_OK   (1u << 14) /* CPL <= IOPL */
#define MODE_SMM       (1u << 15)
#define MODE_BP        (1u << 16) /* DR7 enables something, or the debugger has breakpoints */
#define MODE_AC        (1u << 17) /* alignment checks are on: CR0.AM, RFLAGS.AC, CPL 3 */

/* What the machine gives to a CPU; borrowed, set before realize. */
typedef struct X86CpuEnv {
    AddressSpace *memory; /* as seen outside SMM */
    AddressSpace *smram;  /* as seen in SMM; may be the same */
    AddressSpace *io;
    ApicBus *apic_bus;
    ClockSet *clocks;
    Loop *main_loop;
    /* A triple fault or INIT shutdown: ask for a reset. Any thread. */
    void (*request_reset)(void *opaque);
    /* The accelerator cannot run it any more: the machine stops ("internal-error"). Any thread. May be NULL.
     */
    void (*failed)(void *opaque);
    void *opaque;
} X86CpuEnv;

struct X86Cpu {
    Object parent_obj;

    /* ---- the rest of the registers: those that are used most are at the end ---- */
    uint64_t jit[512];  /* what generated code keeps (accel/soft/jit/jit.h) */
    uint32_t nmi_count; /* atomic: NMIs that wait; one is latched while another is served, so at most two */
    bool event_by_instruction; /* INT n and its like: no single-step trap follows */
    X86Segment segs[SEG_ALL];
    X86Table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8; /* cr8 mirrors the APIC's TPR >> 4 */
    uint64_t dr[8];
    uint64_t debug_pending; /* DR6 bits of data and I/O breakpoints that the running instruction hit */
    uint64_t xcr0, xss;
    uint64_t efer, star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, spec_ctrl, smbase, tsc_adjust, debugctl;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
    uint64_t saved_rflags; /* the whole of RFLAGS, for the state table only */
    uint64_t mcg_status, mcg_ctl, mc_banks[40];
    uint64_t bios_sign_id, arch_capabilities, platform_info, kvm_int, kvm_migration;
    uint64_t feature_control, hwcr, de_cfg;
    uint64_t kvm_system_time, kvm_wall_clock, kvm_pv_eoi, kvm_steal_time, kvm_poll_control, kvm_async_pf;
    int64_t tsc_offset;  /* guest TSC = scaled host TSC + offset */
    uint32_t pkru, pkrs; /* rights of protection keys, of users' and supervisors' pages: mmu_set_keys */
    uint8_t xsave[X86_XSAVE_SIZE] __attribute__((aligned(64)));
    /* Where xsave has the components of AVX-512 on this host (CPUID leaf 0xD); 0: it has none. */
    uint16_t xsave_opmask, xsave_zmm_hi, xsave_hi16;
    uint32_t fpu_mask; /* components that go between xsave and the host's registers: what XCR0 enables */
    uint32_t fpu_bv;   /* of all components; one that is clear here is zero in xsave */
    bool avx512_loaded;
    uint8_t saved_avx512[XSAVE_AVX512_SIZE]; /* the three components, for the state table only */
    struct {
        uint64_t tag, delta;
    } jit_sites[2][256]
        __attribute__((aligned(64))); /* translations by place in translated code: supervisor, user; those of
                                         readers have even numbers, those of writers odd ones */
    uint32_t jit_budget[2][256];      /* how many more misses make a place use the TLB alone */

    /* ---- the exception in flight: x86_raise() fills it ---- */
    struct {
        int vector; /* -1: none */
        bool has_error, is_int;
        uint32_t error_code;
        uint64_t next_rip; /* where INT n, INT3, INTO return to; for faults unused */
        /* A #GP(0) because linear is not canonical: the executor makes it #SS(0) where the access was through
         * SS. */
        bool noncanonical;
        uint64_t linear;
    } exc;
    sigjmp_buf *fault_return; /* where x86_raise() lands: set by the running executor */
    /* The executor's view of the instruction that runs, so that a fault finds its rip
     * (accel/soft/interp/interp.h); NULL: rip is right as it is. */
    const void *current_op;

    /* ---- parts ---- */
    X86Mmu *mmu;   /* owned; arch/x86/mmu.c */
    X86Apic *apic; /* owned; arch/x86/apic.c */
    X86CpuEnv env;
    void *kvm;                    /* accel/kvm's part; it frees it */
    void *accel_data;             /* the accelerator's; it frees it */
    void *vcpu;                   /* accel/vcpu.c's thread state */
    struct X86Debugger *debugger; /* system.h; borrowed; NULL: none looks at this CPU */

    /* ---- identity ---- */
    uint32_t index; /* 0 .. n-1; unique in a machine */
    uint32_t apic_id;
    int32_t socket_id, die_id, core_id, thread_id;
    uint32_t sockets, dies, cores, threads; /* the topology that CPUID shows */
    uint32_t
        cpuid_features[64]; /* FeatureWord values after model, user and host filtering: arch/x86/cpuid.h */
    uint32_t phys_bits;     /* of a guest physical address; reserved bits of page-table entries follow it */
    uint64_t tsc_khz;
    bool realized;
    struct X86CpuidState *cpuid; /* cpuid.c's */

    /* ---- registers ---- */
    uint64_t regs[16] __attribute__((aligned(64)));
    /* Of the next instruction between instructions, and of the running one inside system.h's functions.
     * Elsewhere, while a block runs, the address of its first instruction (interp/interp.h). Right behind
     * regs: pseudo-register 16. */
    uint64_t rip;
    uint64_t zero; /* always 0: pseudo-register 17, of addresses without base or index */
    void *tlb;     /* mmu->table[mmu->index]: kept by mmu_select() and context switches */
    /* The arithmetic flags are in cc (arch/x86/flags.h); rflags holds all the other bits, FLAG_ONE included,
     * never FLAGS_ARITH. Read and write the whole through x86_get_rflags()/x86_set_rflags(). */
    uint64_t rflags;
    uint16_t cc;
    uint32_t mode; /* MODE_* */
    uint8_t cpl;
    bool inhibit_interrupts; /* for one instruction boundary: after STI, MOV SS, POP SS */
    bool inhibit_debug;      /* MOV SS / POP SS also hold back #DB traps */
    bool nmi_blocked, in_smm, halted, a20_masked;
    bool mwait;
    bool wait_sipi; /* after INIT: only SIPI (and INIT) gets it going; halted is set too */
    bool smm_saved_nmi_blocked;
    bool pv_kicked;             /* a kick came while it ran: the next HLT does not wait */
    bool shutdown;              /* after a triple fault: nothing but reset or INIT helps; halted is set too */
    bool executing;             /* atomic: guest code may use cached translations right now; see mmu.c */
    uint32_t interrupt_request; /* atomic */
    /* Atomic: set with every new request; what runs looks at it often. Clear where the requests that there
     * are have been looked at, and can only be served once something (IF, say) changes. */
    uint32_t interrupt_poll __attribute__((aligned(8)));
    /* Next to interrupt_poll, so that one compare looks at both. 0: the guest's vector and x87 registers are
     * in the host's, and xsave is not up to date: only while generated code runs. */
    uint32_t fpu_stale;
    /* What generated code uses most (accel/soft/jit/jit.h): last in the structure, with X86_CPU_GUARD bytes
     * of nothing behind it. */
    uint64_t jit_hot[7 + 256];
};
G_STATIC_ASSERT(sizeof(X86Cpu) == offsetof(X86Cpu, jit_hot) + sizeof(((X86Cpu *)0)->jit_hot));
/* Bytes of address space behind every X86Cpu that cannot be accessed: what a table of words at its end
 * reaches with an index of 24 bits. */
#define X86_CPU_GUARD ((size_t)8 << 24)

typedef struct X86CpuClass {
    ObjectClass parent_class;
    const struct X86CpuModel *model;
} X86CpuClass;
#define X86_CPU(obj) OBJECT_CHECK(X86Cpu, obj, TYPE_X86_CPU)

/* ---- life (cpu.c) ---- */
/* Builds parts from env and topology; checks features against the host. */
bool x86_cpu_realize(X86Cpu *cpu, const X86CpuEnv *env, GError **error);
void x86_cpu_unrealize(X86Cpu *cpu);
/* Power-on state, SDM vol. 3 table 10-1. is_init: INIT, which keeps caches, FPU, MSRs. The BSP starts, APs
 * wait for SIPI (halted). */
void x86_cpu_reset(X86Cpu *cpu, bool is_init);
void x86_update_mode(X86Cpu *cpu);
extern const struct VmState x86_cpu_vmstate;
/* The names (borrowed) of a model's features that cannot be had here; free the array only. */
struct X86CpuModel;
GPtrArray *x86_cpu_unavailable_features(const struct X86CpuModel *model);
/* query-cpu-model-expansion: the properties of a model (without "-x86_64-cpu") after changes (a dict of
 * properties, or NULL), as they would be realized. full: those that are not migration ABI, too. Caller's
 * reference; NULL on error. */
json_object *x86_cpu_model_expand(const char *model_name, json_object *changes, bool full, GError **error);
/* The registers as text ("info registers"). Caller frees. The vCPU is stopped. */
char *x86_cpu_dump(X86Cpu *cpu);

/* The A20 gate (port 0x92, i8042). [any thread] */
void x86_cpu_set_a20(X86Cpu *cpu, bool enabled);
/* Sets interrupt_request bits and wakes the vCPU where it sleeps (through accel/vcpu). [any thread] */
void cpu_interrupt(X86Cpu *cpu, uint32_t mask);
void cpu_interrupt_clear(X86Cpu *cpu, uint32_t mask); /* [any thread] */
void x86_nmi_unblock(X86Cpu *cpu);                    /* IRET, in the vCPU's thread */
void cpu_nmi(X86Cpu *cpu);                            /* [any thread] */
/* Set by accel/vcpu.c: how to wake a vCPU that sleeps in HLT. */
extern void (*cpu_wake_hook)(X86Cpu *cpu);
/* Set by accel/vcpu.c: the APIC timer's deadline changed. Called in the vCPU's thread. */
extern void (*cpu_timer_hook)(X86Cpu *cpu);

/* ---- vector and x87 registers ---- */
/* Translated code leaves the guest's in the host's registers when it calls C. Code that runs then is compiled
 * without vector instructions (this folder and accel/soft are), and calls x86_fpu_leave before anything that
 * is not: the registers go to cpu->xsave, and the host's modes are as C expects them. [vCPU's thread] */
void x86_fpu_save(X86Cpu *cpu); /* fpu.c */
static inline void x86_fpu_leave(X86Cpu *cpu)
{
    if (__builtin_expect(!cpu->fpu_stale, 0)) {
        x86_fpu_save(cpu);
    }
}

/* ---- flags (flags.c) ---- */
uint64_t x86_get_rflags(const X86Cpu *cpu);
void x86_set_rflags(X86Cpu *cpu,
                    uint64_t value); /* all bits, no privilege checks; calls x86_update_mode as needed */

/* ---- exceptions (exception.c) ---- */
/* Ends the running instruction with an exception; never returns. Callers have changed no architectural state,
 * or have restored it. Vectors that push an error code: x86_raise_error. cpu->rip need not be valid: the
 * executor's fault_return recovers it. */
G_NORETURN void x86_raise(X86Cpu *cpu, int vector);
G_NORETURN void x86_raise_error(X86Cpu *cpu, int vector, uint32_t error_code);
/* #GP(0) because linear is not canonical; sets exc.noncanonical and exc.linear. */
G_NORETURN void x86_raise_noncanonical(X86Cpu *cpu, uint64_t linear);
/* Delivers an exception or interrupt through the IDT/IVT: the whole of SDM vol. 3 chapter 6: gates, stack
 * switches, IST, task gates, VM86, error code, double and triple fault. cpu->rip is the return address to
 * push. Never jumps out. */
typedef enum EventKind { EVENT_EXCEPTION, EVENT_SOFT_INT, EVENT_HARD_INT, EVENT_NMI, EVENT_ICEBP } EventKind;
void x86_deliver(X86Cpu *cpu, EventKind kind, int vector, bool has_error, uint32_t error_code);
/* Between instructions: takes the highest-priority pending event, if any may be taken now (SDM vol. 3 table
 * 6-2). Returns whether the vCPU's state changed. Handles SMI, INIT, SIPI, NMI and hardware interrupts. */
bool x86_handle_interrupts(X86Cpu *cpu);
/* Whether a halted vCPU has a reason to wake. */
bool x86_has_work(const X86Cpu *cpu);

#endif
