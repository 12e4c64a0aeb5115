/*
 * Operands in guest memory: their addresses, checks against the TLB, and where the flags are meanwhile.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/block.h"

/* ---- flags ---- */

/* From RFLAGS to cpu->cc. Clobbers T0. RFLAGS stay as they are. */
void block_flags_save(Asm *a)
{
    a_mov_reg(a, T0, H_RAX);
    a_bytes(a, "\x9f\x0f\x90\xc0\x66", 5); /* lahf; seto al; the prefix of a 16-bit mov */
    a_op_mem(a, false, 0x89, H_RAX, CPU(cc));
    a_mov_reg(a, H_RAX, T0);
}

/* From cpu->cc to RFLAGS. Clobbers nothing but tmp[3]. */
void block_flags_load(Asm *a)
{
    a_mov_store(a, AREA(tmp[3]), H_RAX);
    a_op_mem(a, false, 0x0fb7, H_RAX, CPU(cc));
    a_bytes(a, "\x04\x7f\x9e", 3); /* add al, 127; sahf */
    a_mov_load(a, H_RAX, AREA(tmp[3]));
}

void block_flags_release(T *t, unsigned live)
{
    if (live && !t->f.in_mem && t->f.in_reg) {
        block_flags_save(&t->a);
        t->f.in_mem = true;
    }
    t->f.in_reg = false;
    if (!live) {
        t->f.in_mem = false;
    }
}

void block_flags_want(T *t)
{
    if (!t->f.in_reg && t->f.in_mem) {
        block_flags_load(&t->a);
        t->f.in_reg = true;
    }
}

/* ---- addresses ---- */

void block_t1_release(T *t)
{
    if (t->t1_group >= 0) {
        Group *g = &t->groups[t->t1_group];
        if (g->left && !g->saved && !g->low) {
            if (t->slots < JIT_SLOTS) {
                g->slot = (uint8_t)t->slots++;
                a_mov_store(&t->a, mem_cpu(offsetof(X86Cpu, jit) + offsetof(JitArea, slots) + 8u * g->slot),
                            T1);
                g->saved = true;
            } else {
                g->checked = false; /* it is probed once more */
            }
        }
    }
    t->t1_group = -1;
}

/* The guest address of a memory operand as a host operand over the guest's registers, T0 at most (T1 is used
 * in between where use_t1 allows; returns false where it would be needed). segments: add FS's or GS's base.
 */
HostMem block_guest_address(T *t, const TInsn *i, bool segments)
{
    const X86Insn *insn = &i->insn;
    Asm *a = &t->a;
    HostMem m = { .base = -1, .index = -1, .scale = insn->scale, .disp = insn->disp };

    if (insn->base == X86_REG_RIP) {
        a_mov_load(a, T0, HOT(page_va));
        m.base = T0;
        m.disp += i->offset + insn->length;
    } else if (insn->base != X86_REG_NONE) {
        if (is_spilled(t, insn->base)) {
            a_mov_load(a, T0, REG(insn->base));
            m.base = T0;
        } else {
            m.base = (int8_t)host_reg(t, insn->base);
            m.disp += insn->base == R_RSP ? t->rsp : 0;
        }
    }
    if (insn->index != X86_REG_NONE) {
        if (!is_spilled(t, insn->index)) {
            m.index = (int8_t)host_reg(t, insn->index);
        } else if (m.base != T0) {
            a_mov_load(a, T0, REG(insn->index));
            m.index = T0;
        } else {
            block_t1_release(t);
            a_mov_load(a, T1, REG(insn->index));
            a_lea(a, T0, mem_index(T0, T1, insn->scale, insn->disp));
            m = mem_base(T0, 0);
        }
    }
    if (insn->address_size == 4) {
        a_op_mem(a, false, 0x8d, T0, m); /* lea T0d: cut to 32 bits */
        m = mem_base(T0, 0);
    }
    if (segments && insn->segment >= SEG_FS) {
        HostMem base =
            mem_cpu(offsetof(X86Cpu, segs) + sizeof(X86Segment) * insn->segment + offsetof(X86Segment, base));
        if (m.base < 0 && m.index < 0) {
            a_mov_load(a, T0, base);
            m = mem_base(T0, m.disp);
        } else if (t->window) {
            a_lea(a, T0, m);
            block_t1_release(t);
            a_mov_load(a, T1, base);
            m = mem_index(T0, T1, 0, 0);
            a_lea(a, T0, m);
            m = mem_base(T0, 0);
        } else {
            a_lea(a, T0, m);
            a_op_mem(a, true, 0x03, T0, base); /* add: RFLAGS are free here */
            m = mem_base(T0, 0);
        }
    }
    return m;
}

Cold *block_add_cold(T *t)
{
    if (t->cold_count == MAX_COLD) {
        t->a.overflow = t->too_many = true;
        return &t->cold[0];
    }
    Cold *c = &t->cold[t->cold_count++];
    memset(c, 0, sizeof(*c));
    return c;
}

Cold *block_probe_cold(T *t, const TInsn *i, uint8_t *retry, unsigned span, bool write, bool stack)
{
    Cold *c = block_add_cold(t);
    c->type = COLD_PROBE;
    c->retry = retry;
    c->flags = t->f;
    c->fast = t->fast;
    c->meta = (JitRefill){
        .offset = i->offset,
        .limit = (uint16_t)(4096 - span),
        .write = write,
        .flags = (uint8_t)((t->careful ? JIT_REFILL_CAREFUL : 0) | (stack ? JIT_REFILL_STACK : 0) |
                           (t->fast ? JIT_REFILL_LOOP : 0)),
    };
    c->tag = TAG_OFFSET(write);
    return c;
}

/* Base and index both live in memory. */
static bool is_spilled_pair(const T *t, const TInsn *i)
{
    return i->insn.base < 16 && i->insn.index < 16 && is_spilled(t, i->insn.base) &&
           is_spilled(t, i->insn.index);
}

/* Where the TLB's entry for the address in a register is: T1. Changes the flags. */
void block_tlb_entry(T *t, unsigned address)
{
    Asm *a = &t->a;
    if (t->jit->bmi2) {
        a_rorx(a, T1, address, 7);
    } else {
        a_mov_reg(a, T1, address);
        a_shr_imm(a, true, T1, 7);
    }
    a_alu_imm(a, false, 4, T1, (TLB_SIZE - 1) << 5);
    a_op_mem(a, true, 0x03, T1, CPU(tlb));
}

/* Whether T0 in the operand holds no more than a register of the guest's, or the page of the code: it is
 * loaded again sooner than computed back. */
static bool is_just_loaded(const T *t, const TInsn *i, const HostMem *m)
{
    const X86Insn *insn = &i->insn;
    return i->kind != JIT_LEAVE && insn->address_size == 8 && insn->segment < SEG_FS &&
           !is_spilled_pair(t, i) &&
           (insn->base == X86_REG_RIP || (m->base == T0 && insn->base < 16 && is_spilled(t, insn->base)) ||
            (m->base != T0 && m->index == T0 && insn->index < 16 && is_spilled(t, insn->index)));
}

/* Checks [*m + adjust, + span) and leaves host minus guest address in T1. *m may change: it is what the
 * access is to use (with T1 as index or base). */
static void emit_probe(T *t, const TInsn *i, HostMem *m, int32_t adjust, unsigned span, bool write,
                       uint8_t *retry)
{
    Asm *a = &t->a;
    bool uses_t0 = mem_uses(m, T0);
    HostMem start = *m;
    Cold *c = block_probe_cold(t, i, retry, span, write, false);

    start.disp += adjust;
    c->m = start;
    if (t->sites && !(t->scattered && g_hash_table_contains(t->jit->scattered, t->b->page + i->offset))) {
        /* The page that this place saw last; behind it the TLB. */
        unsigned user = (t->key >> MODE_CPL_SHIFT & 3) == 3;
        /* Places share slots, but readers' and writers' never: what may be read only is not to be written. */
        unsigned n = (t->jit->next_site++ * 2 + write) % G_N_ELEMENTS(t->cpu->jit_sites[0]);
        uint64_t slot = offsetof(X86Cpu, jit_sites) + sizeof(t->cpu->jit_sites[0]) * user +
                        sizeof(t->cpu->jit_sites[0][0]) * n;
        c->thunk = t->jit->thunks.site[user][write];
        c->meta.site = (uint16_t)n;
        if (uses_t0) {
            a_lea(a, T0, c->m);
            a_mov_reg(a, T1, T0);
            c->m = mem_base(T0, 0);
            *m = mem_base(T0, -(int64_t)adjust);
        } else {
            a_lea(a, T1, c->m);
        }
        a_op_mem(a, true, 0x2b, T1, mem_cpu(slot));
        a_alu_imm(a, true, 7, T1, (int32_t)(4096 - span));
        c->site = a_jcc_forward(a, CC_A);
        a_mov_load(a, T1, mem_cpu(slot + 8));
        c->retry = a->p;
        return;
    }
    bool plain = start.index < 0 && start.disp == 0 && start.base != T0;
    if (plain) {
        a_mov_reg(a, T0, (unsigned)start.base);
    } else {
        a_lea(a, T0, start);
    }
    c->add_tag = uses_t0;
    block_tlb_entry(t, plain ? (unsigned)start.base : T0);
    a_op_mem(a, true, 0x2b, T0, mem_base(T1, TAG_OFFSET(write)));
    a_alu_imm(a, true, 7, T0, (int32_t)(4096 - span));
    c->site = a_jcc_forward(a, CC_A);
    if (uses_t0 && is_just_loaded(t, i, m)) {
        a_mov_load(a, T0,
                   i->insn.base == X86_REG_RIP ? HOT(page_va)
                   : m->base == T0             ? REG(i->insn.base)
                                               : REG(i->insn.index));
    } else if (uses_t0) {
        a_op_mem(a, true, 0x03, T0, mem_base(T1, TAG_OFFSET(write)));
        *m = mem_base(T0, -(int64_t)adjust);
    }
    a_mov_load(a, T1, mem_base(T1, offsetof(TlbEntry, addend)));
}

/* [m] with the delta in a register. */
static HostMem with_delta_in(T *t, HostMem m, unsigned delta)
{
    if (m.index < 0 && m.base >= 0) {
        m.index = (int8_t)delta;
        m.scale = 0;
        return m;
    }
    if (m.base < 0) {
        m.base = (int8_t)delta;
        return m;
    }
    a_lea(&t->a, T0, m);
    return mem_index(T0, (int)delta, 0, 0);
}

static HostMem with_delta(T *t, HostMem m)
{
    return with_delta_in(t, m, T1);
}

/* The address of an operand if the block is run just now, as far as that is known; nothing of it that is
 * narrow. */
static bool address_now(const T *t, const TInsn *i, uint64_t *linear)
{
    const X86Insn *insn = &i->insn;

    *linear = (uint64_t)(int64_t)insn->disp;
    if (insn->segment >= SEG_FS || insn->address_size != 8) {
        return false;
    }
    if (insn->base == X86_REG_RIP) {
        *linear += (t->cpu->rip & PAGE_MASK_4K) + i->offset + insn->length;
    } else if (insn->base != X86_REG_NONE) {
        if (!(t->known >> insn->base & 1)) {
            return false;
        }
        *linear += t->now[insn->base];
    }
    if (insn->index != X86_REG_NONE && !i->narrow) {
        if (!(t->known >> insn->index & 1)) {
            return false;
        }
        *linear += t->now[insn->index] << insn->scale;
    }
    return true;
}

#define NULL_PAGES 65536u

/* Where an operand in a window is expected: as far away as the stack, in the first TiB, anywhere. */
typedef enum Expected { ANYWHERE, NEAR, LOW } Expected;

/* By where it is if the block is run now, and where that is not known, by what the process has. */
static Expected where_expected(const T *t, const TInsn *i)
{
    const X86Insn *insn = &i->insn;
    uint64_t linear;

    if (t->no_near || t->fast || insn->segment >= SEG_FS || insn->address_size != 8) {
        return ANYWHERE;
    }
    if (t->all_near) {
        return NEAR;
    }
    if (!address_now(t, i, &linear)) {
        return ANYWHERE;
    }
    if (windows_near(linear, t->cpu->regs[R_RSP])) {
        return NEAR;
    }
    /* It is a null pointer just now, perhaps. */
    return linear >> WINDOW_SHIFT == 0 && linear >= NULL_PAGES && insn->base != X86_REG_RIP ? LOW : ANYWHERE;
}

void block_forget_near(T *t)
{
    for (unsigned n = 0; n < t->group_count; n++) {
        t->groups[n].checked &= !t->groups[n].near;
    }
}

/* What the operand's eight bytes are now, as far as that is known. */
static bool peek(const T *t, const TInsn *i, uint64_t *value)
{
    uint64_t linear;
    MmuLook look;

    if (i->narrow || !address_now(t, i, &linear) || (linear & 4095) > 4088 ||
        !mmu_look(t->cpu, linear, MMU_READ, &look)) {
        return false;
    }
    memcpy(value, look.host + (linear - look.linear), sizeof(*value));
    return true;
}

/* What the instruction puts into a register, as far as that is known. */
static bool result_now(const T *t, const TInsn *i, unsigned *to, uint64_t *value)
{
    const X86Insn *insn = &i->insn;
    bool reg_known = insn->reg < 16 && (t->known >> insn->reg & 1);
    bool rm_known = !insn->is_memory && insn->rm < 16 && (t->known >> insn->rm & 1);

    if ((i->kind != JIT_LEA && i->kind != JIT_COPY) || insn->form->space != X86_SPACE_LEGACY ||
        insn->form->map != 0 || insn->operand_size != 8 || i->varies) {
        return false;
    }
    if (i->kind == JIT_LEA) {
        *to = insn->reg;
        return !i->narrow && address_now(t, i, value);
    }
    switch (insn->form->opcode) {
    case 0x8b:
        *to = insn->reg;
        *value = rm_known ? t->now[insn->rm] : 0;
        return rm_known || (insn->is_memory && peek(t, i, value));
    case 0x89:
        *to = insn->rm;
        *value = reg_known ? t->now[insn->reg] : 0;
        return reg_known && !insn->is_memory;
    case 0x01:
    case 0x03:
        *to = insn->form->opcode == 0x01 ? insn->rm : insn->reg;
        *value = reg_known && rm_known ? t->now[insn->reg] + t->now[insn->rm] : 0;
        return reg_known && rm_known;
    default:
        return false;
    }
}

void block_follow(T *t, const TInsn *i)
{
    uint32_t written = jit_written_gprs(&i->insn, i->kind, &i->operands) & 0xffff;
    int32_t amount;
    uint64_t value;
    unsigned to;

    if (!written) {
        return;
    }
    int moved = i->varies ? -1 : jit_constant_move(&i->insn, i->kind, &amount);
    if (moved >= 0) {
        t->now[moved] += (uint64_t)(int64_t)amount;
        t->known &= ~written | 1u << moved;
        return;
    }
    bool known = result_now(t, i, &to, &value);
    t->known &= ~written;
    if (known) {
        t->now[to] = value;
        t->known |= 1u << to;
    }
}

void block_window_delta(T *t, unsigned address, unsigned scratch, unsigned to)
{
    Asm *a = &t->a;
    HostMem m = HOT(windows);

    a_rorx(a, scratch, address, WINDOW_SHIFT);
    a_op_reg(a, false, 0x0fb6, to,
             scratch); /* movzx to, the low byte; from another register it has no latency */
    m.index = (int8_t)to;
    m.scale = 3;
    a_mov_load(a, to, m);
}

/* The operand in its window. RFLAGS stay. */
static HostMem window_operand(T *t, TInsn *i, Group *g)
{
    Asm *a = &t->a;
    bool first = !g || t->careful || !g->checked, keep = g && !t->careful && g->count > 1, low = false;

    if (first || is_spilled_pair(t, i)) {
        block_t1_release(t);
    }
    HostMem m = block_guest_address(t, i, true);
    if (!first && g->near) {
        g->left--;
        return with_delta_in(t, m, SD);
    }
    if (!first) {
        g->left--;
        if (t->t1_group != i->memory.group) {
            block_t1_release(t);
            a_mov_load(a, T1,
                       g->low ? HOT(windows[0])
                              : mem_cpu(offsetof(X86Cpu, jit) + offsetof(JitArea, slots) + 8u * g->slot));
            t->t1_group = i->memory.group;
        }
        return with_delta(t, m);
    }
    block_t1_release(t);
    if (m.base < 0 && (m.index < 0 || i->narrow)) {
        a_mov_load(a, T1,
                   mem_cpu(offsetof(X86Cpu, jit_hot) + offsetof(JitHot, windows) +
                           8u * ((uint64_t)(int64_t)m.disp >> WINDOW_SHIFT & (WINDOW_SLOTS - 1))));
    } else {
        if (m.index >= 0 && !i->narrow) {
            a_lea(a, T0, m);
            m = mem_base(T0, 0);
        }
        /* By all of the bits above 40: where the address is not canonical, this faults behind the table,
         * before the instruction has done anything. */
        HostMem delta = HOT(windows);
        a_shrx(a, T1, (unsigned)m.base, BASE);
        delta.index = T1;
        delta.scale = 3;
        Expected where = i->live_before && t->f.in_reg && !t->f.in_mem ? ANYWHERE : where_expected(t, i);
        if (where != ANYWHERE) {
            /* What waits for the operand does not wait for its distance. */
            block_flags_release(t, i->live_before);
            if (where == NEAR) {
                a_op_mem(a, true, 0x39, SD, delta);
            } else {
                a_op_reg(a, true, 0x85, T1, T1);
            }
            Cold *c = block_add_cold(t);
            c->type = COLD_FAR_WINDOW;
            c->site = a_jcc_forward(a, CC_NE);
            c->target = i->offset;
            c->rsp = t->rsp;
            c->flags = t->f;
        }
        if (where == NEAR) {
            if (keep) {
                g->checked = g->near = true;
                g->left--;
            }
            return with_delta_in(t, m, SD);
        }
        low = where == LOW;
        a_mov_load(a, T1, low ? HOT(windows[0]) : delta);
    }
    if (keep) {
        g->checked = true;
        g->near = false;
        g->low = low;
        g->left--;
        g->saved = false;
        t->t1_group = i->memory.group;
    }
    return with_delta(t, m);
}

void block_stack_check(T *t, const TInsn *i, Access *access, HostMem m)
{
    if (t->window) {
        return; /* SD is right wherever rsp is */
    }
    Group *g = access->group >= 0 ? &t->groups[access->group] : NULL;
    int32_t adjust = 0;
    unsigned span = access->size;
    Asm *a = &t->a;

    if (g && !t->careful) {
        g->left--;
        if (g->checked) {
            return;
        }
        adjust = g->min - access->offset;
        span = (unsigned)(g->max - g->min);
    }
    /* There is one stack slot: what is checked now may move it. */
    for (unsigned n = 0; n < t->group_count; n++) {
        t->groups[n].checked &= !t->groups[n].stack;
    }
    if (g && !t->careful) {
        g->checked = true;
    }
    block_flags_release(t, i->live_before);
    uint8_t *retry = a->p;
    m.disp += adjust;
    a_lea(a, T0, m);
    a_op_mem(a, true, 0x2b, T0, HOT(stack_lo));
    a_alu_imm(a, true, 7, T0, (int32_t)(4096 - span));
    Cold *c = block_probe_cold(t, i, retry, span, true, true);
    c->m = m;
    c->keep_t1 = t->t1_group >= 0;
    c->site = a_jcc_forward(a, CC_A);
}

HostMem block_stack_operand(T *t, const TInsn *i)
{
    t->touched = true;
    return mem_index(GSP, SD, 0, i->stack_disp + t->rsp);
}

void block_stack_move(T *t, int amount)
{
    if (t->window) {
        t->rsp = (int16_t)(t->rsp + amount);
    } else {
        a_lea(&t->a, GSP, mem_base(GSP, amount));
    }
}

/* The host operand of an instruction's explicit memory operand, checked. */
HostMem block_checked_operand(T *t, TInsn *i)
{
    Access *access = &i->memory;
    Group *g = access->group >= 0 ? &t->groups[access->group] : NULL;
    HostMem fast;

    if (t->fast) {
        if (loop_operand(t, i, &fast)) {
            return fast;
        }
        g = NULL;
    }
    if (g && g->stack) {
        HostMem m = mem_base(GSP, i->insn.disp + t->rsp);
        block_stack_check(t, i, access, m);
        t->touched = true;
        if (i->narrow) {
            m = block_guest_address(t, i, false);
            a_lea(&t->a, T0, m);
            m = mem_base(T0, 0);
        }
        m.index = SD;
        return m;
    }
    if (t->window) {
        return window_operand(t, i, g);
    }
    if (is_spilled_pair(t, i)) {
        block_t1_release(
            t); /* guest_address needs it; where no slot is left the group has to be checked once more */
    }
    bool first = !g || t->careful || !g->checked;
    if (first) {
        block_flags_release(t, i->live_before);
        block_t1_release(t);
    }
    uint8_t *retry = t->a.p;
    HostMem m = block_guest_address(t, i, true);
    if (first) {
        int32_t adjust = 0;
        unsigned span = access->size;
        bool write = access->write;
        if (g && !t->careful && g->count > 1) {
            adjust = g->min - access->offset;
            span = (unsigned)(g->max - g->min);
            write = g->write;
            g->checked = true;
        }
        emit_probe(t, i, &m, adjust, span, write, retry);
        t->t1_group = -1;
        if (g && g->checked) {
            g->left--;
            g->saved = false;
            t->t1_group = access->group;
        }
        return with_delta(t, m);
    }
    g->left--;
    if (t->t1_group != access->group) {
        block_t1_release(t);
        a_mov_load(&t->a, T1, mem_cpu(offsetof(X86Cpu, jit) + offsetof(JitArea, slots) + 8u * g->slot));
        t->t1_group = access->group;
    }
    return with_delta(t, m);
}
