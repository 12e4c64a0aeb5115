/*
 * Loops of one block, run a page at a time.
 *
 * Where a block's branch goes back to its own start, and the registers that address its operands stay or move
 * by a constant in each round, the checks of all rounds up to the end of the nearest page can be made at
 * once. The block's normal code runs the first round; its backward branch comes here. The preheader checks
 * every access group's first range against the TLB and computes how many rounds stay within all of the pages.
 * The fast loop then runs the same instructions with [base + delta] for their operands and counts the rounds
 * down. When the count is used up, control goes to the normal code for the round that crosses a page (which
 * also looks for interrupts), and so on.
 *
 * Deltas, the counter and the guest registers that otherwise live in memory get host registers of guest
 * registers that the block does not use; these wait in JitArea.save, and every way out puts them back
 * (loop_restore). A host fault in the fast loop finds them through JitBlock.fast_host.
 *
 * The flags are dead at the loop's top (or the block is not taken), so that the counter may use RFLAGS.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/block.h"

#define MAX_ROUNDS 1024 /* where no access moves: interrupts are looked for that often */
#define MAX_STRIDE 1024
/* A run of fewer rounds than this did not pay; so many backward branches pass before the next try. */
#define SHORT_ROUNDS 12
#define SHORT_WAIT   100

/* Small rounds are there several times, up to so many instructions, so that interrupts are looked for less
 * often. */
#define MAX_COPIED 32

#define STATE(f) mem_cpu(fast->state + offsetof(JitLoop, f))
#define SAVE(n)  mem_cpu(offsetof(X86Cpu, jit) + offsetof(JitArea, save) + 8u * (unsigned)(n))

/* How far a group moves in a round; false: not by a constant. */
static bool group_stride(const T *t, const Group *g, int64_t *stride)
{
    *stride = 0;
    if (g->base != X86_REG_NONE && g->base != X86_REG_RIP) {
        if (t->after.version[g->base] != 0 || g->base_version != 0) {
            return false;
        }
        *stride += t->after.adjust[g->base];
    }
    if (g->index != X86_REG_NONE) {
        if (t->after.version[g->index] != 0 || g->index_version != 0) {
            return false;
        }
        *stride += (int64_t)((uint64_t)(int64_t)t->after.adjust[g->index] << g->scale);
    }
    return *stride >= -MAX_STRIDE && *stride <= MAX_STRIDE;
}

static int take(uint16_t *pool)
{
    if (!*pool) {
        return -1;
    }
    int reg = __builtin_ctz(*pool);
    *pool &= (uint16_t) ~(1u << reg);
    return reg;
}

/* Whether T0 is needed within the round, where no register of it is in memory. */
static bool needs_scratch(const T *t, const TInsn *i, uint16_t written)
{
    const X86Insn *insn = &i->insn;

    if (i->kind == JIT_LEA) {
        return insn->base == X86_REG_RIP || insn->address_size != 8;
    }
    if (!insn->is_memory || i->kind != JIT_COPY) {
        return false;
    }
    return i->memory.group < 0 || i->operands.high_byte ||
           (insn->base < 16 && insn->index != X86_REG_NONE && (written >> insn->base & 1) &&
            (i->narrow || (written >> insn->index & 1)));
}

/* In windows a loop needs no count of rounds: an operand that moves by less than a window's surroundings in
 * each of them comes to lie there before it is past them. Its deltas stay where they are; nothing has to make
 * room for them. */
static bool plan_plain(T *t, JitFast *fast, const bool *groups_used, uint16_t written)
{
    static const int8_t homes[] = { T0, T1, SD };
    unsigned count = 0;

    for (unsigned k = 0; k < t->count; k++) {
        const TInsn *i = &t->insns[k];
        bool access = i->insn.is_memory && i->kind == JIT_COPY;
        if (needs_scratch(t, i, written) || (access && !groups_used[i->memory.group])) {
            return false;
        }
    }
    for (unsigned n = 0; n < t->group_count; n++) {
        if (groups_used[n]) {
            const Group *g = &t->groups[n];
            if (count == G_N_ELEMENTS(homes)) {
                return false;
            }
            fast->group[n] = homes[count++];
            fast->with_base[n] =
                g->base == X86_REG_NONE || g->base == X86_REG_RIP || !(written >> g->base & 1);
            fast->with_index[n] =
                !fast->with_base[n] && g->index != X86_REG_NONE && !(written >> g->index & 1);
        }
    }
    fast->counter = -1;
    fast->borrowed = count == G_N_ELEMENTS(homes) ? 1u << SD : 0;
    fast->plain = true;
    memcpy(t->b->fast_host, t->host, sizeof(t->host));
    t->b->fast_borrowed = 0;
    return true;
}

bool loop_plan(T *t, unsigned offset, JitFast *fast)
{
    const TInsn *last = &t->insns[t->count - 1];
    uint16_t read = 0, written = 0, own = 0;
    bool groups_used[MAX_GROUPS] = { false };

    if (!t->jit->loops || t->careful || !(t->jit->chain || t->jit->lockstep) || t->live_in ||
        last->kind != JIT_JCC || last->offset + last->insn.length + (int64_t)last->insn.imm != offset) {
        return false;
    }
    memset(fast, 0, sizeof(*fast));
    memset(fast->group, -1, sizeof(fast->group));
    bool any = false;
    for (unsigned k = 0; k < t->count; k++) {
        const TInsn *i = &t->insns[k];
        if (i->kind != JIT_COPY && i->kind != JIT_LEA && i->kind != JIT_NOP && i->kind != JIT_JCC) {
            return false;
        }
        read |= (uint16_t)jit_read_gprs(&i->insn, i->kind, &i->operands);
        written |= (uint16_t)jit_written_gprs(&i->insn, i->kind, &i->operands);
        if (i->kind == JIT_COPY && i->insn.is_memory) {
            int64_t stride;
            if (i->memory.group >= 0 && group_stride(t, &t->groups[i->memory.group], &stride)) {
                groups_used[i->memory.group] = true;
                any = true;
            } else {
                fast->scratch = true;
            }
        }
    }
    if (t->window && (written >> R_RSP & 1)) {
        return false;
    }
    own = read | written;
    fast->written = written;
    if (!any && !(own & JIT_SPILLED)) {
        return false; /* nothing to gain */
    }
    if (t->window && !(own & JIT_SPILLED) && plan_plain(t, fast, groups_used, written)) {
        return true;
    }
    memset(fast->group, -1, sizeof(fast->group));
    /* Host registers to lend: of guest registers that the block does not use. */
    uint16_t pool = 0;
    for (unsigned g = 0; g < 16; g++) {
        if (!jit_is_spilled(g) && !(own >> g & 1)) {
            pool |= (uint16_t)(1u << jit_home[g]);
        }
    }
    /* What does not fit makes T0 and T1 scratch registers, as they are elsewhere. */
    unsigned wanted = 1;
    for (unsigned g = 0; g < t->group_count; g++) {
        wanted += groups_used[g];
    }
    wanted += (unsigned)__builtin_popcount(own & JIT_SPILLED);
    for (unsigned k = 0; k < t->count; k++) {
        const X86Insn *insn = &t->insns[k].insn;
        bool moving =
            insn->is_memory && insn->base < 16 && insn->index != X86_REG_NONE && (written >> insn->base & 1);
        if (moving || (insn->is_memory && t->insns[k].operands.high_byte) || t->insns[k].kind == JIT_LEA) {
            fast->scratch = true;
        }
    }
    if (!fast->scratch) {
        pool |= 1u << SD; /* a refill brings it back */
    }
    uint16_t all = pool;
    if (!fast->scratch && wanted <= (unsigned)__builtin_popcount(pool) + 2) {
        pool |= 1u << T0 | 1u << T1;
    } else {
        fast->scratch = true;
    }
    fast->counter = take(&pool);
    if (fast->counter < 0) {
        return false;
    }
    for (unsigned n = 0; n < t->group_count; n++) {
        if (groups_used[n]) {
            const Group *g = &t->groups[n];
            int reg = take(&pool);
            if (reg < 0) {
                return false;
            }
            fast->group[n] = (int8_t)reg;
            fast->with_base[n] =
                g->base == X86_REG_NONE || g->base == X86_REG_RIP || !(written >> g->base & 1);
        }
    }
    memcpy(t->b->fast_host, t->host, sizeof(t->host));
    for (unsigned g = 0; g < 16; g++) {
        if (own & JIT_SPILLED & 1u << g) {
            t->b->fast_host[g] = (int8_t)take(&pool);
        }
    }
    fast->borrowed = (uint16_t)(all & ~pool);
    t->b->fast_borrowed = 0;
    for (unsigned g = 0; g < 16; g++) {
        if (!jit_is_spilled(g) && (fast->borrowed >> jit_home[g] & 1)) {
            t->b->fast_host[g] = -1;
            t->b->fast_borrowed |= (uint16_t)(1u << g);
        }
    }
    return true;
}

bool loop_operand(T *t, const TInsn *i, HostMem *m)
{
    const X86Insn *insn = &i->insn;
    int n = i->memory.group;
    const JitFast *fast = t->fast;

    if (n < 0 || fast->group[n] < 0) {
        return false;
    }
    int reg = fast->group[n];
    int64_t disp = insn->disp;
    int index = -1;
    if (insn->base == X86_REG_RIP) {
        disp += i->offset + insn->length;
    }
    if (fast->with_index[n] && t->host[insn->base] >= 0) {
        *m = mem_index(t->host[insn->base], reg, 0, disp);
        return true;
    }
    if (insn->index != X86_REG_NONE) {
        index = t->host[insn->index];
        if (index < 0) {
            a_mov_load(&t->a, T0, REG(insn->index));
            index = T0;
        }
    }
    if (fast->with_base[n]) {
        *m = (HostMem){
            .base = (int8_t)reg, .index = (int8_t)index, .scale = insn->scale, .disp = (int32_t)disp
        };
        return true;
    }
    int base = t->host[insn->base];
    if (index >= 0) {
        if (base < 0) {
            return false;
        }
        a_lea(&t->a, T0, mem_index(base, index, insn->scale, disp));
        *m = mem_index(T0, reg, 0, 0);
        return true;
    }
    if (base < 0) {
        a_mov_load(&t->a, T0, REG(insn->base));
        base = T0;
    }
    *m = mem_index(base, reg, 0, disp);
    return true;
}

void loop_restore(T *t, const JitFast *fast, bool used_up)
{
    Asm *a = &t->a;

    if (fast->plain) {
    } else if (used_up) {
        a_mov_mem_imm32(a, STATE(left), 0);
    } else {
        a_op_mem(a, false, 0x89, (unsigned)fast->counter, STATE(left));
    }
    for (unsigned g = 0; g < 16; g++) {
        int host = t->b->fast_host[g];
        if (jit_is_spilled(g) && host >= 0 && (fast->written >> g & 1)) {
            a_mov_store(a, REG(g), (unsigned)host);
        }
    }
    for (unsigned g = 0; g < 16; g++) {
        if (t->b->fast_borrowed >> g & 1) {
            a_mov_load(a, (unsigned)jit_home[g], SAVE(g));
        }
    }
    if (fast->borrowed >> SD & 1) {
        if (t->window) {
            block_window_delta(t, GSP, SD, SD);
        } else {
            a_mov_load(a, SD, HOT(stack_delta));
        }
    }
}

/* The linear address of the group's first byte at the start of a round: T0. */
static void group_start(T *t, const Group *g)
{
    Asm *a = &t->a;
    HostMem m = { .base = -1, .index = -1, .scale = g->scale, .disp = g->min };

    if (g->base == X86_REG_RIP) {
        a_mov_load(a, T0, HOT(page_va));
        m.base = T0;
    } else if (g->base != X86_REG_NONE) {
        m.base = t->host[g->base];
        if (m.base < 0) {
            a_mov_load(a, T0, REG(g->base));
            m.base = T0;
        }
    }
    if (g->index != X86_REG_NONE) {
        m.index = t->host[g->index];
        if (m.index < 0) {
            a_mov_load(a, T1, REG(g->index));
            m.index = T1;
        }
    }
    a_lea(a, T0, m);
}

static void jump_to(Asm *a, unsigned cc, const uint8_t *target)
{
    uint8_t *site = a_jcc_forward(a, cc);
    if (!a->overflow) {
        a_bind_to(site, target);
    }
}

static void out(T *t, uint8_t *site, const JitFast *fast, uint8_t *to)
{
    Cold *c = block_add_cold(t);
    c->type = COLD_LOOP_OUT;
    c->site = site;
    c->fast = fast;
    c->retry = to;
}

void loop_emit_plain(T *t, const JitFast *plan)
{
    static __thread JitFast kept; /* the cold code comes later */
    Asm *a = &t->a;
    JitFast *fast = &kept;

    kept = *plan;
    for (unsigned n = t->group_count; n-- > 0;) { /* that in T0 last */
        const Group *g = &t->groups[n];
        if (fast->group[n] < 0) {
            continue;
        }
        unsigned to = (unsigned)fast->group[n];
        group_start(t, g);
        block_window_delta(t, T0, T0, to);
        if (fast->with_base[n] && g->base == X86_REG_RIP) {
            a_op_mem(a, true, 0x03, to, HOT(page_va));
        } else if (fast->with_base[n] && g->base != X86_REG_NONE) {
            a_op_reg(a, true, 0x03, to, (unsigned)t->host[g->base]);
        } else if (fast->with_index[n]) {
            a_lea(a, to, mem_index((int)to, t->host[g->index], g->scale, 0));
        }
    }
    a_align(a, 16);
    fast->top = a->p;
    a_op_mem(a, false, 0x83, 7, CPU(interrupt_poll));
    a_byte(a, 0);
    out(t, a_jcc_forward(a, CC_NE), fast, jit_rw(t->jit, t->b->mem_poll_entry));
    t->fast = fast;
    fast->copies = MAX_COPIED / t->count;
    do {
        fast->copies -= fast->copies > 0;
        t->f = (FlagState){ 0 };
        t->t1_group = -1;
        for (unsigned k = 0; k < t->count && !a->overflow; k++) {
            block_emit_insn(t, k);
        }
    } while (fast->copies > 0 && !a->overflow);
    t->fast = NULL;
}

uint8_t *loop_emit(T *t, JitFast *fast, uint8_t *normal)
{
    static __thread JitFast kept; /* the cold code comes later */
    Asm *a = &t->a;

    kept = *fast;
    fast = &kept;
    a_align(a, 16);
    uint8_t *preheader = a->p;
    /* Not before its time; not where the last run was short. */
    fast->state = (uint32_t)(offsetof(X86Cpu, jit) + offsetof(JitArea, loops) +
                             sizeof(((JitArea *)0)->loops[0]) * (t->jit->next_loop++ % JIT_LOOPS));
    if (!t->jit->lockstep) {
        a_op_mem(a, false, 0x83, 5, STATE(wait));
        a_byte(a, 1);
        jump_to(a, CC_NS, normal);
        a_op_mem(a, false, 0x8b, T0, STATE(planned));
        a_op_mem(a, false, 0x2b, T0, STATE(left));
        a_alu_imm(a, false, 7, T0, SHORT_ROUNDS);
        uint8_t *worth = a_jcc_forward(a, CC_AE);
        a_mov_mem_imm32(a, STATE(wait), SHORT_WAIT);
        a_mov_mem_imm32(a, STATE(planned), INT32_MAX);
        a_mov_mem_imm32(a, STATE(left), 0);
        a_jmp(a, normal);
        a_bind(a, worth);
        a_mov_mem_imm32(a, STATE(wait), 0);
    }
    a_op_mem(a, true, 0xc7, 0, AREA(loop_count)); /* mov qword, imm32 */
    a_u32(a, t->jit->lockstep ? JIT_LOCKSTEP_ROUNDS : MAX_ROUNDS);
    for (unsigned n = 0; n < t->group_count; n++) {
        const Group *g = &t->groups[n];
        int64_t stride;
        if (fast->group[n] < 0) {
            continue;
        }
        unsigned tag = g->write ? 8 : 0;
        unsigned span = (unsigned)(g->max - g->min);
        group_stride(t, g, &stride);
        uint8_t *retry = a->p;
        group_start(t, g);
        if (t->window) {
            block_window_delta(t, T0, T1, T1); /* as far as it gets in MAX_ROUNDS, too */
            goto found;
        }
        block_tlb_entry(t, T0);
        a_op_mem(a, true, 0x2b, T0, mem_base(T1, tag));
        a_alu_imm(a, true, 7, T0, (int32_t)(4096 - span));
        Cold *c = block_add_cold(t);
        c->type = COLD_PROBE;
        c->site = a_jcc_forward(a, CC_A);
        c->retry = retry;
        c->add_tag = true;
        c->otherwise = normal;
        c->tag = tag;
        c->meta = (JitRefill){ .limit = (uint16_t)(4096 - span), .write = g->write };
        if (stride) {
            /* Bytes left in the direction, over the stride, and this round. */
            uint64_t step = (uint64_t)(stride > 0 ? stride : -stride);
            if (stride > 0) {
                a_op_reg(a, false, 0xf7, 3, T0); /* neg */
                a_alu_imm(a, false, 0, T0, (int32_t)(4096 - span));
            }
            if ((step & (step - 1)) == 0) {
                if (step > 1) {
                    a_shr_imm(a, false, T0, (unsigned)__builtin_ctzll(step));
                }
            } else {
                a_op_reg(a, false, 0x69, T0, T0);
                a_u32(a, (uint32_t)(65536 / step));
                a_shr_imm(a, false, T0, 16);
            }
            a_alu_imm(a, false, 0, T0, 1);
            a_op_mem(a, true, 0x3b, T0, AREA(loop_count));
            a_op_mem(a, true, 0x0f47, T0, AREA(loop_count)); /* cmova */
            a_mov_store(a, AREA(loop_count), T0);
        }
        a_mov_load(a, T1, mem_base(T1, offsetof(TlbEntry, addend)));
    found:
        if (fast->with_base[n] && g->base == X86_REG_RIP) {
            a_op_mem(a, true, 0x03, T1, HOT(page_va));
        } else if (fast->with_base[n] && g->base != X86_REG_NONE) {
            if (t->host[g->base] < 0) {
                a_op_mem(a, true, 0x03, T1, REG(g->base));
            } else {
                a_op_reg(a, true, 0x03, T1, (unsigned)t->host[g->base]);
            }
        }
        a_mov_store(a, mem_cpu(offsetof(X86Cpu, jit) + offsetof(JitArea, loop_delta) + 8u * n), T1);
    }
    /* Registers change hands. */
    for (unsigned g = 0; g < 16; g++) {
        if (t->b->fast_borrowed >> g & 1) {
            a_mov_store(a, SAVE(g), (unsigned)jit_home[g]);
        }
    }
    for (unsigned g = 0; g < 16; g++) {
        if (jit_is_spilled(g) && t->b->fast_host[g] >= 0) {
            a_mov_load(a, (unsigned)t->b->fast_host[g], REG(g));
        }
    }
    for (unsigned n = 0; n < t->group_count; n++) {
        if (fast->group[n] >= 0) {
            a_mov_load(a, (unsigned)fast->group[n],
                       mem_cpu(offsetof(X86Cpu, jit) + offsetof(JitArea, loop_delta) + 8u * n));
        }
    }
    a_mov_load(a, (unsigned)fast->counter, AREA(loop_count));
    a_op_mem(a, false, 0x89, (unsigned)fast->counter, STATE(planned));
    a_align(a, 16);
    fast->top = a->p;
    a_alu_imm(a, false, 5, (unsigned)fast->counter, 1);
    out(t, a_jcc_forward(a, CC_B), fast, normal);
    int8_t host[16];
    memcpy(host, t->host, sizeof(host));
    memcpy(t->host, t->b->fast_host, sizeof(host));
    t->fast = fast;
    t->f = (FlagState){ 0 };
    t->t1_group = -1;
    for (unsigned k = 0; k < t->count && !a->overflow; k++) {
        block_emit_insn(t, k);
    }
    t->fast = NULL;
    memcpy(t->host, host, sizeof(host));
    return preheader;
}
