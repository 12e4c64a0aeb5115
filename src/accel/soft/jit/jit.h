/*
 * The block translator: private to this folder; tcg.h is what others use.
 *
 * The guest speaks the host's instruction set, so that translated code is mostly the guest's own instructions
 * with their memory operands rewritten. While translated code runs:
 *
 *   rax rcx rdx rbx rbp rsi rdi             the guest's registers of the same name
 *   r8 r9 r10                               the guest's r12, r13, r15 (jit_home)
 *   r15                                     the guest's rsp
 *   r12 (T0), r13 (T1)                      scratch
 *   r11 (SD)                                host minus guest address of the stack page: JitArea.stack_lo;
 * with KEY_WINDOW that of rsp's window r14 (BASE)                              the X86Cpu plus CPU_BIAS; the
 * guest's r11 to r15 live there. Processors rename memory behind a register and a constant, so that what goes
 * through there has no latency; they do not behind a segment base rsp                                     the
 * host's stack RFLAGS                                  the guest's arithmetic flags, or nothing, or they are
 * in cpu->cc xmm/ymm, x87, MXCSR                     the guest's, where cpu->fpu_stale is 0; else they are in
 *                                           cpu->xsave
 *
 * Invariants:
 *  1. Only instructions that insn.c allows by name are emitted; everything else is a call-out to the
 * interpreter.
 *  2. No guest state changes before the last point of an instruction that may leave translated code.
 *  3. A guest address is dereferenced only behind a check against a TLB entry (or the stack slot filled from
 * one).
 *  4. Blocks are found by the guest-physical code page and the key; addresses of the guest's code are
 * relative to JitArea.page_va, so that a block serves every mapping of its page.
 *  5. A direct link joins blocks of one page only. A direct branch to another page goes through a table of
 * the key (mode) and the MMU's context (JitFar), an indirect one through the look-up table of these; the MMU
 * tells when a page that was looked up there goes, and code that is run at two addresses of one context has
 * no far jumps.
 *  6. A stale block is never entered: links into it are cut, and its entry for the look-up tables is patched.
 *     Its memory is not used again before every vCPU has dropped its look-up tables.
 *     A page whose code is written often (code beside data, code that is made as it runs) is not protected
 * against writes: its blocks compare the guest's bytes with what they were made of each time they are
 * entered, and end behind every instruction that may write memory. Immediates that are patched all the
 * time are read from there instead (varying.c).
 *  7. C code never runs with the guest's vector or x87 state in the registers unless it is compiled without
 * them.
 *  8. In code where the flags are live they are in RFLAGS or in cpu->cc; probes are emitted only where RFLAGS
 * is free.
 *  9. Every cycle of direct links has an edge backwards in its page, and such an edge polls
 * cpu->interrupt_poll. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_JIT_JIT_H
#define RHEA_ACCEL_SOFT_JIT_JIT_H

#include "accel/soft/interp/ops.h"
#include "accel/soft/jit/emit.h"
#include "accel/soft/jit/insn.h"
#include "accel/soft/jit/window.h"
#include "arch/x86/decode.h"

#define T0   H_R12
#define T1   H_R13
#define SD   H_R11
#define BASE H_R14
#define GSP  H_R15
/* BASE is the X86Cpu plus this: what is used most lies within a byte's displacement, and the low six bits are
 * WINDOW_SHIFT, so that BASE is the count of a SHRX, too. */
#define CPU_BIAS (offsetof(X86Cpu, regs) + 8 * 8 + 64 + WINDOW_SHIFT)
G_STATIC_ASSERT((offsetof(X86Cpu, regs) & 63) == 0 && WINDOW_SHIFT < 64);
static inline HostMem mem_cpu(uint64_t offset)
{
    return mem_base(BASE, (int64_t)offset - (int64_t)CPU_BIAS);
}

#define JIT_SLOTS      16
#define JIT_REGIONS    8
#define JIT_MAX_INSNS  64
#define JIT_MAX_GROUPS 32
#define JIT_IBTC_BITS  16
#define JIT_IBTC_SIZE  (1u << JIT_IBTC_BITS)
G_STATIC_ASSERT(JIT_IBTC_SIZE - 1 <= UINT16_MAX);

/* Modes that are not translated. */
#define MODE_NOT_TRANSLATED (MODE_TF | MODE_BP | MODE_AC | MODE_VM86)

/* Where code at a guest address is: by the low bits of the address, so that a multiple of the table's
 * alignment shifted right by three is turned into an index, times eight, by a move of 16 bits. What an
 * address drives out lies beside it. */
typedef struct IbtcTable {
    const uint8_t *code[JIT_IBTC_SIZE];
    uint64_t va[JIT_IBTC_SIZE];
} IbtcTable;
#define JIT_IBTC_ALIGN (8u << JIT_IBTC_BITS)
G_STATIC_ASSERT(JIT_IBTC_BITS == 16);

/* Why translated code came back to the loop. */
typedef enum JitExit {
    JIT_EXIT_LOOKUP,   /* cpu->rip is set */
    JIT_EXIT_IBTC,     /* the same, and the look-up table had no entry */
    JIT_EXIT_INDIRECT, /* an indirect branch, not done: exit_arg is the target, exit_info the rest */
    JIT_EXIT_LINK,     /* cpu->rip is set, JitArea.exit_arg is the link that was followed */
    JIT_EXIT_CAREFUL,  /* the block's careful variant is wanted: exit_arg is the JitCareful */
    JIT_EXIT_STEP,     /* the instruction at cpu->rip is the interpreter's */
    JIT_EXIT_CHANGED,  /* exit_info is not 0: see jit_block_scattered, exit_arg is some address in its code;
                          else: a block that checks itself found  other code: exit_arg is the block, cpu->rip
                          is  set */
    JIT_EXIT_POLL,     /* cpu->interrupt_poll was set */
    JIT_EXIT_FAR_WINDOWS, /* see jit_far_windows: cpu->rip is set, exit_arg is the block */
} JitExit;
#define JIT_EXITS (JIT_EXIT_FAR_WINDOWS + 1)

typedef enum JitIndirect { JIT_INDIRECT_JMP, JIT_INDIRECT_CALL, JIT_INDIRECT_RET } JitIndirect;

/* What is known of a loop: see loop.c. Loops share them; it only costs time. */
#define JIT_LOOPS 64
typedef struct JitLoop {
    uint32_t wait, planned, left;
} JitLoop;

typedef struct JitBlock JitBlock;

/* A direct jump to another page: it goes through JitHot.far, with flags and all registers as they are. What
 * is there holds as long as the tables of JitVcpu do, and for one guest address of its own page: JitSeen. */
typedef struct JitFar {
    const JitBlock *from;
    int32_t target; /* from where the page of `from` begins */
    bool in_reg;    /* the flags are in RFLAGS only */
    /* Where it led to the last time, in whichever address space: most often it does so again. Atomic; `to`
     * may be looked at only as long as Jit.epoch is `epoch`, before and behind. */
    const JitBlock *to;
    uint64_t epoch; /* Jit.epoch + 1; 0: nothing is known */
} JitFar;
#define JIT_FARS_REGION 32768u /* of each region's blocks */
#define JIT_FARS        (JIT_FARS_REGION * JIT_REGIONS)
#define JIT_FAR_INFO(n) ((uint32_t)(n) << 1 | 1) /* in T1, on the way; else that is of no such size */

/* Per vCPU, in X86Cpu.jit. */
typedef struct JitArea {
    uint64_t tmp[4];
    uint64_t site_save[3]; /* T0, rax and rcx, in a site thunk */
    uint64_t t1;           /* what T1 held, while a stack probe is refilled */
    uint64_t c_rsp;        /* the C stack at the entry */
    const uint8_t *target;
    void *exit_arg;
    uint32_t exit_reason;
    uint32_t
        exit_info; /* page offset of the branch | JitIndirect << 12 | RET's operand or CALL's length << 14 */
    uint16_t far_cc; /* what cpu->cc is to be, where a far jump's flags were in RFLAGS */
    uint32_t key;    /* of the running code, without KEY_CAREFUL */
    uint32_t context, table;
    bool windowed;                    /* SD is that of rsp's window */
    uint64_t kernel_lo, kernel_delta; /* stack_lo and stack_delta of other code, while that of windows runs */
    uint64_t save[16];                /* guest registers whose host registers a fast loop uses */
    uint32_t sites_used;              /* some of X86Cpu.jit_sites hold something */
    uint64_t drops;                   /* X86Mmu.drops, when sites were last right */
    uint64_t loop_count;
    JitLoop loops[JIT_LOOPS];
    uint64_t loop_delta[JIT_MAX_GROUPS];
    uint64_t slots[JIT_SLOTS]; /* deltas of access groups, within a block */
} JitArea;
G_STATIC_ASSERT(sizeof(JitArea) <= sizeof(((X86Cpu *)0)->jit));
/* Not canonical, so that an address for which the check passes by chance faults on the host. */
#define JIT_NO_STACK UINT64_C(0x8000000000000000)

/* The same, in X86Cpu.jit_hot: what is used most. */
typedef struct JitHot {
    uint64_t page_va;     /* guest address of the page whose code runs */
    uint64_t stack_lo;    /* a page that may be read and written with SD; JIT_NO_STACK: none */
    uint64_t stack_delta; /* what SD is, while C runs */
    uint64_t ibtc;        /* of the current key: an IbtcTable's address >> 3 */
    const uint8_t **far;  /* where far jumps lead for now, by JitFar's number; of the current key, too */
    uint64_t padding[2];  /* so that the X86Cpu ends with the table */
    /* By bits 40 to 47 of a user's address: host minus guest address of what is mapped for it there. Where
     * bits 48 to 63 are taken for more of the number, an address that is not canonical is found behind the
     * table, in X86Cpu's guard. */
    uint64_t windows[WINDOW_SLOTS];
} JitHot;
G_STATIC_ASSERT(sizeof(JitHot) == sizeof(((X86Cpu *)0)->jit_hot));
G_STATIC_ASSERT(X86_CPU_GUARD >= (sizeof(uint64_t) << (64 - WINDOW_SHIFT)));

static inline JitHot *jit_hot(X86Cpu *cpu)
{
    return (JitHot *)(void *)cpu->jit_hot;
}

static inline JitArea *jit_area(X86Cpu *cpu)
{
    return (JitArea *)(void *)cpu->jit;
}

/* A direct exit of a block within its page. */
typedef struct JitLink {
    JitBlock *from, *to;
    struct JitLink *next_in;  /* of the links to `to` */
    struct JitLink *next_out; /* of the links from `from` */
    uint8_t *site;            /* the rel32 (writable mapping) */
    uint8_t *stub;            /* what the rel32 leads to while unlinked (writable mapping) */
    uint16_t target;          /* page offset */
    bool in_reg, in_mem;      /* where the flags are */
    bool careful;             /* the target is the careful variant */
} JitLink;

/* A call-out: one instruction for the interpreter. */
typedef struct JitCallout {
    InterpOp ops[2] __attribute__((aligned(32)));
    InterpNative native;
    JitBlock *block;
    uint16_t offset; /* of the instruction in its page */
    uint8_t length;
    bool ends;  /* control goes on where cpu->rip says */
    bool light; /* its handler calls nothing that may use vector registers without x86_fpu_leave */
} JitCallout;

/* Behind a call of the refill or a site thunk and a five-byte jump to where to go on once it has helped;
 * behind it lies the code for when it does not. */
typedef struct __attribute__((packed)) JitRefill {
    uint16_t offset; /* of the instruction in its page */
    uint16_t limit;  /* the last place in a page where the bytes checked may begin */
    uint16_t site;   /* in X86Cpu.jit_sites */
    uint8_t write, flags;
} JitRefill;
enum {
    JIT_REFILL_CAREFUL = 1,
    JIT_REFILL_STACK = 2,
    JIT_REFILL_LOOP = 4, /* in a fast loop */
};

/* Behind a call of the careful thunk, wherever that ends. */
typedef uint16_t JitCareful __attribute__((aligned(1)));
#define JIT_CAREFUL_IN_MEM 0x8000u /* the flags are in cpu->cc; else they are dead */
/* The code from the jump to the call to it: where the link lies, once there is one. */
#define JIT_CAREFUL_SITE 9 /* bytes before the JitCareful: the jump's rel32 */
#define JIT_CAREFUL_STUB 5

/* Where a guest instruction's code begins, for faults. */
typedef struct JitPc {
    uint16_t host;        /* from the block's code */
    uint16_t offset : 12; /* page offset of the instruction */
    uint16_t in_reg : 1;  /* the flags are in RFLAGS, else in cpu->cc (or dead) */
    uint16_t fast : 1;    /* in the fast loop: registers are where JitBlock.fast_host says */
    uint16_t exit : 1;    /* no instruction of the block: where it goes on, for lockstep */
    int16_t rsp;          /* what is to be added to the guest's rsp */
} JitPc;
/* For lockstep. Flags: that it or what follows may look at; that the manual leaves undefined there. */
typedef struct JitPcFlags {
    uint16_t live, undefined;
} JitPcFlags;

/* A page of guest code, and what has happened to it. */
typedef struct JitPage {
    const uint8_t *host;
    JitBlock *blocks;   /* with code in it, through JitBlock.of_page */
    JitBlock *checking; /* the same of those that check themselves */
    int64_t since_ns;   /* of the writes that are counted */
    unsigned writes;    /* of late */
    bool often;         /* its blocks check themselves since since_ns; it is in Jit.often then */
    uint8_t relapses;   /* how often that was over and came again */
    bool has_split;     /* something in it is in Jit.split */
    bool has_scattered; /* something in it is in Jit.scattered */
    bool has_varying;   /* something in it is in Jit.varying */
    bool aliased;       /* run at two guest addresses of one address space: no far jumps from here */
} JitPage;

struct JitBlock {
    /* What a look-up wants lies in one cache line. */
    const uint8_t *page;   /* host address of the guest's page */
    const uint8_t *second; /* of the next one, where the block's only instruction goes on there; else NULL */
    uint32_t key;
    uint16_t offset, length;   /* in its page, bytes of guest code */
    const uint8_t *ibtc_entry; /* executable mapping: T0 is the guest address; flags in cpu->cc */
    const uint8_t *mem_entry, *mem_poll_entry;
    uint16_t count; /* guest instructions */
    bool stale, in_hash, checks_itself;
    uint16_t in_vain; /* how often a check of several accesses found them in two pages, since in_vain_since */
    uint64_t in_vain_since; /* TSC */
    int32_t far_windows;    /* so many accesses more may be in another window than the stack's: see there */
    const uint8_t *reg_entry, *reg_poll_entry;
    uint8_t *code; /* writable mapping */
    uint32_t code_size, cold_size;
    uint8_t *cold;       /* the same of what is seldom run */
    const uint8_t *gone; /* writable mapping: where mem_poll_entry leads once it is stale */
    /* The lists of its pages. */
    struct {
        JitPage *page;
        JitBlock *next, *previous;
    } of_page[2];
    JitLink *links; /* own exits */
    JitLink *incoming;
    JitPc *pcs;
    JitPcFlags *pc_flags; /* NULL without lockstep */
    unsigned pc_count;
    int8_t fast_host[16];   /* -1: in memory */
    uint16_t fast_borrowed; /* guest registers that are in JitArea.save meanwhile */
    uint16_t undefined;     /* flags, at some exit */
    const uint8_t *made_of; /* of a block that checks itself: the code */
    uint64_t va, runs;      /* -d out_asm: where it was when it was made, how often it was entered */
};

/* Blocks by page, offset and key. Looked up without the lock, between two looks at Jit.epoch: what is found
 * is there until the vCPU has seen the next one. Changed with the lock held. */
typedef struct JitHashEntry {
    uint64_t tag;    /* atomic: of page, offset and key; 0: free, 1: was in use */
    JitBlock *block; /* atomic */
} JitHashEntry;
typedef struct JitHash {
    unsigned bits;
    unsigned used;         /* entries that are not free */
    struct JitHash *older; /* those before, in which somebody may still look */
    JitHashEntry *entries;
} JitHash;

/* Memory that is given back as a whole, to be used again. */
typedef struct JitArena {
    GPtrArray *chunks; /* of void *, ARENA_CHUNK bytes each */
    unsigned next;     /* which of them comes next */
    unsigned fresh;    /* from this one on they are zero */
    uint8_t *p, *end;
} JitArena;

typedef struct JitRegion {
    uint8_t *start, *end, *used;                /* writable mapping */
    uint8_t *cold_start, *cold_end, *cold_used; /* of what is seldom run */
    uint8_t *ready, *cold_ready;                /* up to here the host has made its pages */
    GPtrArray *blocks;                          /* in the order of their addresses */
    JitArena arena;                             /* of its blocks, their links and call-outs */
    unsigned fars;                              /* of its JIT_FARS_REGION that are used */
    JitHash *old_hashes;                        /* to be freed once every vCPU has seen epoch */
    uint64_t epoch; /* of the eviction; every vCPU must have seen it before reuse */
} JitRegion;

typedef struct JitThunks {
    /* executable mapping */
    void (*enter)(X86Cpu *cpu, const uint8_t *code);
    /* writable mapping, for the assembler */
    uint8_t *leave, *ibtc_miss, *indirect, *link, *step, *poll, *changed, *refill, *callout, *callout_end,
        *chain, *fpu_load, *stale, *careful, *far, *far_windows;
    uint8_t *site[2][2]; /* by user, by write */
} JitThunks;

/* Under lockstep one vCPU runs at a time: those that want to, in the order in which they came. */
typedef struct JitTurn {
    GMutex lock;
    GCond passed;
    uint64_t next, serving;
    X86Cpu *holder; /* of the number that is served */
    bool over;      /* atomic: others have waited for long enough */
} JitTurn;

/* What all vCPUs of a machine share. */
typedef struct Jit {
    pthread_mutex_t lock;
    uint8_t *rw;
    intptr_t rx_delta; /* executable minus writable address */
    size_t size;
    JitThunks thunks;
    JitRegion regions[JIT_REGIONS];
    unsigned current;
    uint64_t turns; /* how often current changed */
    JitHash *hash;  /* atomic */
    unsigned block_count;
    GHashTable *pages;    /* host page -> JitPage */
    CodePages code_pages; /* those with blocks */
    guint pages_limit;    /* when to look for some that hold nothing */
    GPtrArray *often;     /* of JitPage *: those that are written often */
    unsigned often_count; /* atomic: of them */
    int64_t reviewed_ns;  /* atomic: when it was looked last whether that is over */
    GPtrArray *vcpus;     /* of JitVcpu * */
    /* Host addresses of guest code whose accesses often lie in two pages: translated with a check for each.
     */
    GHashTable *split;
    GHashTable *scattered; /* host addresses of guest instructions whose accesses change pages all the time */
    GHashTable *varying;   /* host addresses of guest instructions whose immediates are patched */
    JitFar *fars;          /* JIT_FARS */
    int far_fd; /* JIT_FARS_REGION times thunks.far: what tables of far jumps are before they are filled */
    uint64_t epoch; /* atomic */
    uint64_t code_bytes, cold_bytes, translated, insns, stale_count, evictions;
    uint64_t cycles; /* of the host's TSC, that translation took */
    bool elide, chain, loops, sites, tier, superblocks, lookahead, windows;
    unsigned next_site, next_loop;
    bool bmi2;          /* the host has it */
    unsigned max_insns; /* of a block */
    bool lockstep;
    unsigned lockstep_every; /* one block of so many is compared */
    JitTurn turn;
    unsigned stress; /* JIT_STRESS_* */
} Jit;

#define JIT_STRESS_EVICT   1u /* blocks become stale at random */
#define JIT_STRESS_FLUSH   2u /* the TLB is flushed at random */
#define JIT_STRESS_POLL    4u /* interrupts seem to be wanted all the time */
#define JIT_STRESS_WINDOWS 8u /* every process gets windows at once */

typedef struct JitLockstep JitLockstep;

/* How often a block is interpreted before it is translated: about where both have cost the same. */
#define JIT_COLD_RUNS 32
/* What is known of addresses of code that was interpreted, whatever code that was. */
#define JIT_PAST_BITS 14
typedef struct JitPast {
    uint32_t tag : 16;
    uint32_t hot : 1;    /* it was run so often that it was translated */
    uint32_t builds : 3; /* in a row, soon after each other */
    uint32_t when : 12;  /* of the last one */
} JitPast;

#define JIT_TABLES 24
#define JIT_FILLS  4096u
/* At which guest address a page of code is run, as far as a table of far jumps depends on it. */
#define JIT_SEEN     16384u
#define JIT_SEEN_MAX (JIT_SEEN / 4 * 3)
typedef struct JitSeen {
    const uint8_t *page; /* its address + JIT_SEEN_ALIASED: at several */
    uint64_t va;         /* of the page | JitVcpu.tables[].turn */
} JitSeen;
#define JIT_SEEN_ALIASED 1u

typedef struct JitVcpu {
    X86Cpu *cpu;
    Jit *jit;
    struct {
        IbtcTable *entries;
        uint32_t key;
        unsigned context; /* of the MMU */
        /* How many entries were filled, and where, as long as these are few. */
        unsigned fill_count;
        uint16_t fills[JIT_FILLS];
        const uint8_t **far; /* see JitHot.far */
        unsigned far_count;  /* the same for these */
        uint32_t far_fills[JIT_FILLS];
        JitSeen *seen; /* JIT_SEEN, by page, the next one where that is taken */
        unsigned seen_count;
        unsigned turn; /* 1 to 4095; others in `seen` are of former contents */
        uint64_t used; /* when, by `clock` */
    } tables[JIT_TABLES];
    unsigned table_count;
    uint64_t clock;
    uint64_t budget_tsc;   /* when jit_budget was filled last */
    bool look_at_requests; /* an instruction may have made deliverable what was pending */
    bool in_code;          /* atomic: it runs, or is about to run, translated code */
    uint64_t epoch_seen;   /* atomic */
    uint64_t lookups, steps, links, refills, refill_failures, fills;
    uint64_t exits[JIT_EXITS]; /* by JitExit */
    uint64_t callouts[X86_MNEMONIC_COUNT];
    JitLockstep *lockstep;
    Windows *windows; /* NULL: there are none */
    /* The block at careful_rip is to be the careful variant: the other one was left on the way to it. */
    uint64_t careful_rip;
    bool careful_next;
    uint32_t random; /* for stress */
    uint32_t tried,
        became_hot; /* blocks that were interpreted first, of late, and how many were then translated */
    uint32_t hot_again;
    JitPast past[1u << JIT_PAST_BITS];
} JitVcpu;

/* ---- thunks.c ---- */
bool jit_thunks_make(Jit *jit, Asm *a);

/* ---- translate.c ---- */
/* Translates the code at the page's offset for key. second: NULL, or the
 * next page for an instruction that lies in both. Called with the lock held, the page
 * protected, unless the block is to check itself. NULL: the first instruction is not to be translated (it
 * goes beyond the page), or no room
 * (*full). */
JitBlock *jit_translate(Jit *jit, X86Cpu *cpu, const JitPage *page, unsigned offset, const JitPage *second,
                        uint32_t key, bool check, bool *full);
/* Makes the look-up the way of a link whose target must not be linked to. false: no room. */
bool jit_emit_far_link(Jit *jit, JitLink *link);

/* ---- varying.c ---- */
/* A block that checks itself found other code: notes what of it may be left out of the check from now on. The
 * lock is held. */
void jit_note_varying(Jit *jit, JitPage *page, const JitBlock *b);

/* ---- dump.c ---- */
/* Which blocks ran most, to the log. No vCPU runs. */
void jit_dump_hot(const Jit *jit);

/* ---- cache.c ---- */
Jit *jit_new(size_t size, GError **error);
void jit_free(Jit *jit);
/* The block at cpu->rip, translated if need be; NULL: the interpreter's turn. May raise (fetch faults). */
JitBlock *jit_find(X86Cpu *cpu, JitVcpu *v, uint32_t key);
/* The host address of the code at cpu->rip; NULL: it is not in RAM. May raise. */
const uint8_t *jit_code_at(X86Cpu *cpu);
/* The block there, if it is made; else NULL. */
JitBlock *jit_find_made(X86Cpu *cpu, JitVcpu *v, uint32_t key, const uint8_t *host);
/* The same where it is there and its pages are in the instruction TLB; else NULL. Raises nothing, uses no
 * vector registers. */
JitBlock *jit_find_now(X86Cpu *cpu, const Jit *jit, uint32_t key);
/* The same where the jump led there the last time, too; else NULL. */
const JitBlock *jit_far_now(X86Cpu *cpu, const Jit *jit, const JitFar *far, uint32_t key);
void jit_far_note(const Jit *jit, JitFar *far, const JitBlock *to);
void jit_link_to(Jit *jit, JitLink *link, JitBlock *to);
/* The link of a way to a careful variant (to), made where it is followed for the first time; NULL: none. */
JitLink *jit_careful_link(Jit *jit, X86Cpu *cpu, const JitCareful *way, const JitBlock *to);
/* Zeroed memory that lives as long as the blocks of the current region; 64-byte aligned where align64 says
 * so. */
void *jit_alloc(Jit *jit, size_t size, bool align64);
/* From time to time: the blocks of pages that are written often no more need not check themselves. */
void jit_review_pages(Jit *jit, X86Cpu *cpu);
/* Pages of code were written: their blocks are stale. [any thread] */
void jit_page_written(Jit *jit, const uint8_t *host_page);
void jit_drop_all(Jit *jit);
/* A block that checks itself found other code than it was made of. */
void jit_block_changed(Jit *jit, JitBlock *block);
/* The access of the instruction at the page offset is scattered: the block whose code lies at this
 * (executable) address is to be made anew. */
void jit_block_scattered(Jit *jit, const void *executable, unsigned offset);
/* Forgets what the look-up tables hold; the vCPU is at a boundary. */
void jit_tables_drop(JitVcpu *v);
void jit_table_clear(JitVcpu *v, unsigned i);
void jit_table_far_clear(JitVcpu *v, unsigned i); /* its far jumps only */
/* Makes the parts of a table that is new; frees them. */
void jit_table_new(JitVcpu *v, unsigned i);
void jit_table_free(JitVcpu *v, unsigned i);
/* A page's code is run at two guest addresses of one address space: none of its blocks may jump far. false:
 * none could already. */
bool jit_page_aliased(Jit *jit, const uint8_t *host_page);
/* How many checks in vain are counted as one: to find the block takes time, and the lock. */
#define JIT_VAIN_STEP 8
/* A check in the block at this (executable) address was in vain because its accesses lie in two pages: where
 * that is usual, the block is made anew. */
void jit_checked_in_vain(Jit *jit, X86Cpu *cpu, const void *executable);
/* So many accesses may be in another window than the block expects (JitBlock.far_windows) before it is looked
 * at how long that took. */
#define JIT_FAR_WINDOWS 1000
/* That is so: the block is made anew, unless it took long. */
void jit_far_windows(Jit *jit, X86Cpu *cpu, JitBlock *b);
/* The block whose code is there. The lock is held. */
JitBlock *jit_block_at(Jit *jit, const uint8_t *executable);

/* Makes some block stale. The vCPU is at a boundary. */
void jit_evict_one(Jit *jit, X86Cpu *cpu, unsigned random);

/* ---- lockstep.c ---- */
/* How many rounds of a fast loop are compared at most. */
#define JIT_LOCKSTEP_ROUNDS 24
void jit_lockstep_init(JitVcpu *v);
void jit_lockstep_free(JitVcpu *v);
/* Whether the next block is to be compared. */
bool jit_lockstep_due(JitVcpu *v);
/* Runs the block at cpu->rip, compares and goes on as the interpreter did. */
void jit_lockstep_run(X86Cpu *cpu, JitVcpu *v, JitBlock *b);
/* Whether a call-out is to leave the block, undone. */
bool jit_lockstep_callout(X86Cpu *cpu);
uint64_t jit_lockstep_checked(const JitVcpu *v);
/* Around all that a vCPU executes, where jit->lockstep is set. */
void jit_turn_take(Jit *jit, X86Cpu *cpu);
void jit_turn_give(Jit *jit);

/* ---- exec.c ---- */
/* Makes what translated code relies on true again after anything that C did. */
void jit_area_refresh(X86Cpu *cpu, JitVcpu *v);
/* An indirect branch that found no entry. Raises what it raises. */
void jit_indirect_branch(X86Cpu *cpu);
/* Before a look-up: forgets what is about to go, and says so. */
void jit_epoch_check(X86Cpu *cpu, JitVcpu *v);
/* Host faults in this (executable) range are the guest's. false: too many ranges. */
bool jit_range_add(const void *start, size_t size);
void jit_range_remove(const void *start);
/* Called from generated code. */
int jit_refill(X86Cpu *cpu, uint64_t linear, const JitRefill *meta);
int jit_callout(X86Cpu *cpu, JitCallout *callout);
int jit_callout_end(X86Cpu *cpu, JitCallout *callout);
const uint8_t *jit_lookup(X86Cpu *cpu);
const uint8_t *jit_lookup_indirect(X86Cpu *cpu);
const uint8_t *jit_follow(X86Cpu *cpu, JitLink *link);
const uint8_t *jit_far(X86Cpu *cpu, uint64_t info);

/* What a block is known by in Jit.split. */
static inline gpointer jit_split_key(const uint8_t *code, uint32_t key)
{
    return (gpointer)((uintptr_t)code ^ (uintptr_t)(key & KEY_WINDOW ? 1 : 0) << 63);
}
static inline JitVcpu *jit_vcpu(X86Cpu *cpu)
{
    return ((Interp *)cpu->accel_data)->jit;
}
static inline uint8_t *jit_rw(const Jit *jit, const uint8_t *rx)
{
    return (uint8_t *)rx - jit->rx_delta;
}
static inline const uint8_t *jit_rx(const Jit *jit, const uint8_t *rw)
{
    return rw + jit->rx_delta;
}
/* An empty table: 0 is an address that is looked up in the first two entries. */
static inline void jit_table_init(IbtcTable *table)
{
    table->va[0] = table->va[1] = UINT64_MAX;
}
/* Where the code for an address is found; what was there before is in the entry beside it. */
static inline unsigned jit_ibtc_slot(uint64_t va)
{
    return va & (JIT_IBTC_SIZE - 1);
}
/* The same of the address in T0, to T1: what jit_ibtc_va and jit_ibtc_code want there. */
static inline void jit_emit_ibtc(Asm *a)
{
    a_mov_load(a, T1, mem_cpu(offsetof(X86Cpu, jit_hot) + offsetof(JitHot, ibtc)));
    a_byte(a, 0x66);
    a_op_reg(a, false, 0x8b, T1, T0); /* mov T1w, T0w */
}
static inline HostMem jit_ibtc_va(void)
{
    return mem_index(-1, T1, 3, offsetof(IbtcTable, va));
}
static inline HostMem jit_ibtc_code(void)
{
    return mem_index(-1, T1, 3, offsetof(IbtcTable, code));
}

#endif
