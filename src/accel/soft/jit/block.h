/*
 * The translator's working state, for one block at a time. Private to this folder: translate.c,
 * analyse.c, access.c, system.c, loop.c.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_JIT_BLOCK_H
#define RHEA_ACCEL_SOFT_JIT_BLOCK_H

#include "accel/soft/jit/insn.h"
#include "accel/soft/jit/jit.h"

#include <stddef.h>

#define MAX_INSNS         JIT_MAX_INSNS
#define MAX_EXITS         8 /* of a block, with those in the middle */
#define MAX_GROUPS        JIT_MAX_GROUPS
#define GROUP_SPAN        1024
#define WINDOW_SPAN       (1 << 30) /* of a group that is in a window; see WINDOW_GUARD */
#define MAX_COLD          (MAX_INSNS * 4)
#define FLAGS_ALL         FLAGS_ARITH
#define TAG_OFFSET(write) ((write) ? 8 : 0)

#define CPU(field)  mem_cpu(offsetof(X86Cpu, field))
#define AREA(field) mem_cpu(offsetof(X86Cpu, jit) + offsetof(JitArea, field))
#define HOT(field)  mem_cpu(offsetof(X86Cpu, jit_hot) + offsetof(JitHot, field))
#define REG(n)      mem_cpu(offsetof(X86Cpu, regs) + 8u * (unsigned)(n))

G_STATIC_ASSERT(offsetof(TlbEntry, tag) == 0 && offsetof(TlbEntry, addend) == 24 && sizeof(TlbEntry) == 32);

typedef struct Group {
    uint8_t base, index, scale; /* as in X86Insn */
    bool stack;                 /* through SD */
    uint16_t base_version, index_version;
    int32_t min, max; /* of the offsets from where the base stood when its version began */
    bool write, checked, saved;
    /* Checked, in a window: it lies as far from here as the stack, so that SD is its distance; in the first
     * TiB. */
    bool near, low;
    uint8_t count, left, slot;
} Group;

/* One access of an instruction. */
typedef struct Access {
    int8_t group; /* -1: none */
    int32_t offset;
    uint16_t size;
    bool write;
} Access;

/* A register's history within the block: its version changes where it is set, adjust where it moves by a
 * constant. */
typedef struct RegTrack {
    uint16_t version[18];
    int32_t adjust[18];
    uint16_t next_version;
    bool narrow[18]; /* holds a number of 32 bits, signed or not, but for what adjust may add */
} RegTrack;

typedef struct TInsn {
    X86Insn insn;
    JitOperands operands;
    JitKind kind;
    uint16_t offset;                                    /* in the page */
    uint16_t live_after, live_before, undefined_before; /* flags */
    Access memory, stack;                               /* the ModRM operand's, and the implied one's */
    bool narrow;                                        /* the index register is */
    int16_t stack_disp;                                 /* from the guest's rsp at the instruction */
    bool fpu;
    bool varies; /* its immediate is read from the guest's code */
} TInsn;

/* Where the guest's flags are: neither: dead. */
typedef struct FlagState {
    bool in_reg, in_mem;
} FlagState;

typedef struct JitFast JitFast;

typedef struct Cold {
    enum {
        COLD_DONE,
        COLD_LOOP_OUT,
        COLD_PROBE,
        COLD_FAR_WINDOW,
        COLD_TAKEN,
        COLD_POLL,
        COLD_REG_ENTRY,
        COLD_INDIRECT,
        COLD_LINK,
        COLD_STRING
    } type;
    uint8_t *site; /* the jump that leads here */
    uint8_t *retry;
    HostMem m;             /* PROBE: what T0 is made of */
    bool add_tag;          /* PROBE: T0 is restored by adding the tag behind T1 */
    unsigned tag;          /* PROBE: of which tag (its offset in a TlbEntry) */
    const uint8_t *thunk;  /* PROBE: of a place that has a translation of its own; NULL: the refill thunk */
    bool keep_t1;          /* PROBE: T1 holds a delta that is needed afterwards */
    JitRefill meta;        /* PROBE */
    struct Cold *slow_way; /* PROBE: or a way that lies behind it */
    uint8_t *otherwise;    /* PROBE: where to go if it cannot be filled; NULL: the careful variant */
    int32_t target;        /* TAKEN; FAR_WINDOW: the offset of the instruction */
    uint8_t *slow[4];      /* STRING: the jumps that lead here */
    unsigned slow_count;
    JitLink *link;       /* LINK */
    int rsp;             /* INDIRECT, FAR_WINDOW: T.rsp */
    JitCallout *callout; /* STRING */
    const JitFast *fast; /* PROBE, LOOP_OUT, TAKEN: in the fast loop: put registers back */
    FlagState flags;
} Cold;

typedef struct T {
    Asm a, cold_asm; /* where code goes, and what of it is seldom run */
    Jit *jit;
    X86Cpu *cpu;
    JitBlock *b;
    uint32_t key;
    bool careful;
    TInsn insns[MAX_INSNS];
    unsigned count;
    Group groups[MAX_GROUPS];
    unsigned group_count, slots;
    Cold cold[MAX_COLD];
    unsigned cold_count;
    FlagState f;
    /* At t0_at, and nowhere else, T0 holds the guest's register t0_guest. */
    const uint8_t *t0_at;
    int t0_guest;
    int t1_group;  /* whose delta T1 holds; -1 */
    int16_t rsp;   /* what is yet to be added to the guest's rsp, with windows */
    bool touched;  /* the stack was accessed, with windows */
    unsigned fars; /* JitFar's that it has taken of its region's */
    bool no_far;
    bool fpu;       /* the block uses vector or x87 registers */
    bool too_many;  /* out-of-line parts: fewer instructions would do */
    bool check;     /* the block checks itself */
    bool window;    /* operands are in windows */
    bool all_near;  /* all that the process has are as far away as that of the stack */
    bool no_near;   /* nothing is expected of where they are */
    bool sites;     /* accesses get places in X86Cpu.jit_sites */
    bool scattered; /* some instruction of the page is in Jit.scattered */
    bool varying;   /* some instruction varies */
    bool straddles; /* what follows the block lies in two pages */
    uint16_t live_in, live_out, undefined_out;
    uint16_t undefined_exits;             /* flags, at some exit */
    unsigned exits;                       /* branches in the middle */
    uint8_t snapshot[MAX_INSNS * 16];     /* of a block that checks itself: the code it is made of */
    uint64_t varies[MAX_INSNS * 16 / 64]; /* a bit for each of its bytes: not to be compared */
    int8_t host[16];                      /* where the guest's general registers are; -1: in memory */
    /* What the guest's registers will hold when the block is run just now, of those in `known`. */
    uint64_t now[16];
    uint32_t known;
    RegTrack after; /* what the block did to them */
    JitFast *fast;  /* while the fast loop is emitted */
    int32_t next;   /* page offset behind the last instruction */
    JitPc pcs[2 * MAX_INSNS + MAX_EXITS];
    JitPcFlags pc_flags[2 * MAX_INSNS + MAX_EXITS]; /* of lockstep */
    unsigned pc_count;
    uint32_t body_end; /* where the out-of-line parts begin */
} T;

/* ---- translate.c ---- */
void block_emit_insn(T *t, unsigned k);
void block_emit_exit(T *t, int32_t target);
Cold *block_add_cold(T *t);

static inline bool is_spilled(const T *t, unsigned guest)
{
    return t->host[guest] < 0;
}
static inline int host_reg(const T *t, unsigned guest)
{
    return t->host[guest];
}
static inline bool mem_uses(const HostMem *m, int reg)
{
    return m->base == reg || m->index == reg;
}

/* ---- analyse.c ---- */
/* Fills insns. second: the host address of the next page, where the first instruction goes on there; it is
 * the only one then. */
void block_decode(T *t, const uint8_t *page, unsigned offset, const uint8_t *second);
/* Which of FLAGS_ALL an instruction reads, and which it defines or leaves undefined. */
void block_flags_of(const TInsn *i, unsigned *reads, unsigned *writes);
/* Backwards from live_out: live_before and live_after of each instruction, live_in. */
void block_liveness(T *t, const uint8_t *page);
/* Finds the access groups. */
void block_analyse(T *t);

/* ---- access.c ---- */
/* From RFLAGS to cpu->cc, which changes T0; and back. */
void block_flags_save(Asm *a);
void block_flags_load(Asm *a);
/* RFLAGS are wanted for something else; live: which flags are needed afterwards. T0 must be free. */
void block_flags_release(T *t, unsigned live);
/* The flags are wanted in RFLAGS. */
void block_flags_want(T *t);
/* T1 is wanted for something else. */
void block_t1_release(T *t);
/* Where the TLB's entry for the address in a register is: T1. Changes the flags. */
void block_tlb_entry(T *t, unsigned address);
/* SD changes: what was found to be as far away as the stack may not be any more. */
void block_forget_near(T *t);
/* Behind an instruction: what is known of registers (T.now). */
void block_follow(T *t, const TInsn *i);
/* The distance to the window of the address in a register, in `to`; scratch may be the same. RFLAGS stay. */
void block_window_delta(T *t, unsigned address, unsigned scratch, unsigned to);
HostMem block_guest_address(T *t, const TInsn *i, bool segments);
Cold *block_probe_cold(T *t, const TInsn *i, uint8_t *retry, unsigned span, bool write, bool stack);
/* Makes m, an address made of the guest's stack pointer or frame pointer, one that SD may be added to. */
void block_stack_check(T *t, const TInsn *i, Access *access, HostMem m);
HostMem block_stack_operand(T *t, const TInsn *i);
/* Adds to the guest's rsp, or to what is yet to be added. RFLAGS stay. */
void block_stack_move(T *t, int amount);
/* The host operand of an instruction's explicit memory operand, checked. */
HostMem block_checked_operand(T *t, TInsn *i);

/* ---- system.c ---- */
void block_emit_callout(T *t, TInsn *i);
void block_emit_string(T *t, TInsn *i);
void block_emit_system(T *t, TInsn *i);
/* Behind something that may have put the vector registers into cpu->xsave. */
void block_emit_fpu_check(T *t);

/* ---- varying.c ---- */
/* Sets `varies` where that is known of the instructions, whose block begins at the page offset. */
void block_find_varying(T *t, const uint8_t *page, unsigned offset);
void block_emit_varying(T *t, const TInsn *i, const uint8_t *page);

/* ---- dump.c ---- */
/* Writes the block that was just made to the log (-d in_asm, out_asm). */
void jit_dump_block(const T *t);

/* ---- loop.c ---- */
/* How a loop of one block runs fast: see there. */
struct JitFast {
    int8_t group[MAX_GROUPS]; /* the host register that holds a group's delta, or base and delta; -1: none */
    bool with_base[MAX_GROUPS];  /* the base register is added to it */
    bool with_index[MAX_GROUPS]; /* else the index register is, scaled */
    int counter;
    uint16_t borrowed; /* host registers that hold something else than the guest's register of that number */
    uint16_t written;  /* guest registers that the block writes */
    bool scratch;      /* T0 and T1 are free for probes */
    bool plain;      /* in windows, with deltas in registers that nobody else needs: the block's only code */
    unsigned copies; /* of the round that are yet to come, before the one that goes back to the top */
    uint8_t *top;
    uint32_t state; /* where its JitLoop lies in X86Cpu */
};
/* Whether the block is a loop that can run fast; fills fast. */
bool loop_plan(T *t, unsigned offset, JitFast *fast);
/* The whole block where it is plain: the jumps that lead out of it come behind. */
void loop_emit_plain(T *t, const JitFast *fast);
/* Emits it; returns where the loop's backward branch is to go. */
uint8_t *loop_emit(T *t, JitFast *fast, uint8_t *normal);
/* The host operand of an access in the fast loop; false: it is to be checked as usual. */
bool loop_operand(T *t, const TInsn *i, HostMem *m);
/* Puts registers back where they belong, at a way out; leaves RFLAGS alone. used_up: the planned rounds are
 * done. */
void loop_restore(T *t, const JitFast *fast, bool used_up);

#endif
