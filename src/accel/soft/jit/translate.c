/*
 * One block: decode, flags and access groups backwards and forwards, emit. See jit.h for the register
 * convention and the invariants.
 *
 * Access groups: accesses of a block whose addresses differ by constants (the same base and index registers,
 * not changed in between but by constants) are checked together, at the first one, for the whole range; the
 * later ones go straight to memory with the delta that the check found. Where the range check fails because
 * the range crosses a page or part of it is not plain memory, control goes on in the block's careful variant,
 * which checks each access.
 *
 * Flags: liveness is computed backwards. A probe needs RFLAGS; where the flags are live there they are first
 * saved to cpu->cc, and loaded again where an instruction reads them. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "accel/soft/jit/block.h"

#include <stdlib.h>

/* ---- registers ---- */

static inline bool is_spilled(const T *t, unsigned guest)
{
    return t->host[guest] < 0;
}
static inline int host_reg(const T *t, unsigned guest)
{
    return t->host[guest];
}

/* ---- flags ---- */

/* From RFLAGS to cpu->cc. Clobbers T0. RFLAGS stay as they are. */
static void emit_flags_save(Asm *a)
{
    a_mov_reg(a, T0, H_RAX);
    a_bytes(a, "\x9f\x0f\x90\xc0\x66", 5); /* lahf; seto al; the prefix of a 16-bit mov */
    a_op_mem(a, false, 0x89, H_RAX, CPU(cc));
    a_mov_reg(a, H_RAX, T0);
}

/* From cpu->cc to RFLAGS. Clobbers nothing but tmp[3]. */
static void emit_flags_load(Asm *a)
{
    a_mov_store(a, AREA(tmp[3]), H_RAX);
    a_op_mem(a, false, 0x0fb7, H_RAX, CPU(cc));
    a_bytes(a, "\x04\x7f\x9e", 3); /* add al, 127; sahf */
    a_mov_load(a, H_RAX, AREA(tmp[3]));
}

void block_flags_release(T *t, unsigned live)
{
    if (live && !t->f.in_mem && t->f.in_reg) {
        emit_flags_save(&t->a);
        t->f.in_mem = true;
    }
    t->f.in_reg = false;
    if (!live) {
        t->f.in_mem = false;
    }
}

static void flags_want(T *t)
{
    if (!t->f.in_reg && t->f.in_mem) {
        emit_flags_load(&t->a);
        t->f.in_reg = true;
    }
}

/* ---- decoding and analysis ---- */

static bool may_write_memory(const TInsn *i)
{
    bool write;

    switch (i->kind) {
    case JIT_PUSH:
    case JIT_SYSTEM:
    case JIT_STRING:
    case JIT_CALLOUT:
        return true;
    case JIT_COPY:
        return jit_memory_size(&i->insn, &write) && write;
    default:
        return false;
    }
}

/* Whether an instruction makes of flags something else than flags. */
static bool looks_at(const X86Insn *insn, unsigned flags)
{
    unsigned mnemonic = insn->form->mnemonic;
    return flags && (mnemonic == X86_PUSHF || mnemonic == X86_LAHF || (insn->form->flags_read & flags));
}

/* second: the host address of the next page, where the first instruction goes on there; it is the only one
 * then. */
static void decode(T *t, const uint8_t *page, unsigned offset, const uint8_t *second)
{
    Interp *d = t->cpu->accel_data;
    uint8_t across[X86_INSN_MAX];
    unsigned max_insns = second ? 1 : t->jit->max_insns, start = offset;
    const uint8_t *code = page + offset;

    if (second) {
        unsigned first = 4096 - offset;
        memcpy(across, page + offset, first);
        memcpy(across + first, second, X86_INSN_MAX - first);
        code = across;
    }
    if (t->check) {
        /* The code may be written meanwhile: what is translated and what is compared must be the same bytes.
         */
        memcpy(t->snapshot, code, second ? X86_INSN_MAX : MIN(4096 - offset, sizeof(t->snapshot)));
        code = t->snapshot;
    }

    d->decode_mode.code_size = 8;
    d->decode_mode.protected_mode = d->decode_mode.vex = true;
    while (t->count < max_insns && offset < 4096) {
        TInsn *i = &t->insns[t->count];
        size_t available = second ? X86_INSN_MAX : 4096 - offset;
        X86DecodeStatus status = x86_decode(&d->decode_mode, code + (offset - start), available, &i->insn);
        if (status == X86_DECODE_MORE) {
            t->straddles = true;
            break;
        }
        i->offset = (uint16_t)offset;
        i->memory.group = i->stack.group = -1;
        i->kind = status == X86_DECODE_OK ? jit_classify(&i->insn, t->key) : JIT_STEP;
        if (i->kind >= JIT_CALL && i->kind <= JIT_LOOP && (int64_t)i->insn.imm > INT32_MAX - 8192) {
            i->kind = JIT_STEP; /* targets are 32-bit displacements from the page */
        }
        i->undefined_before = t->undefined_out;
        if (t->jit->lockstep && t->count && status == X86_DECODE_OK && looks_at(&i->insn, t->undefined_out)) {
            break; /* it begins with the flags that the interpreter made */
        }
        if (i->kind == JIT_COPY) {
            unsigned defined = jit_flags_conditional(&i->insn) ? 0 : i->insn.form->flags_written;
            t->undefined_out =
                (uint16_t)((t->undefined_out & ~defined) | (i->insn.form->flags_undefined & FLAGS_ALL));
        }
        i->fpu = i->kind == JIT_COPY && jit_is_fpu(&i->insn);
        t->fpu |= i->fpu;
        t->count++;
        offset += i->insn.length;
        if (t->check && may_write_memory(i)) {
            break;
        }
        if (jit_ends_block(i->kind) || (i->kind == JIT_CALLOUT && (i->insn.form->attrs & X86_ATTR_END))) {
            break;
        }
    }
    t->next = (int32_t)offset;
    /* No interrupt comes between STI and what follows (HLT, often), which the next block's poll would let in.
     */
    TInsn *last = t->count ? &t->insns[t->count - 1] : NULL;
    if (last && last->kind == JIT_SYSTEM && last->insn.form->mnemonic == X86_STI) {
        last->kind = JIT_CALLOUT;
    }
}

static void flags_of(const TInsn *i, unsigned *reads, unsigned *writes)
{
    const X86Form *form = i->insn.form;

    *reads = *writes = 0;
    switch (i->kind) {
    case JIT_STRING:
    case JIT_CALLOUT:
    case JIT_STEP:
        *reads = FLAGS_ALL;
        return;
    case JIT_SYSTEM:
        if (form->mnemonic == X86_POPF) {
            *writes = FLAGS_ALL;
        } else if (form->mnemonic != X86_MOV_FROM_SEG && form->mnemonic != X86_SWAPGS &&
                   form->mnemonic != X86_PAUSE) {
            *reads = form->mnemonic == X86_PUSHF || form->mnemonic == X86_STI ? FLAGS_ALL : 0;
        }
        return;
    case JIT_COPY:
    case JIT_JCC:
    case JIT_LOOP:
        *reads = form->flags_read & FLAGS_ALL;
        /* What the manual leaves undefined may be lost, too. */
        *writes = (form->flags_written | form->flags_undefined) & FLAGS_ALL;
        if (jit_flags_conditional(&i->insn)) {
            *reads |= FLAGS_ALL;
            *writes = 0;
        }
        return;
    default:
        return;
    }
}

static void liveness(T *t)
{
    unsigned live = t->live_out;

    for (unsigned k = t->count; k-- > 0;) {
        TInsn *i = &t->insns[k];
        unsigned reads, writes;
        flags_of(i, &reads, &writes);
        i->live_after = (uint16_t)live;
        live = (live & ~writes) | reads;
        i->live_before = (uint16_t)live;
    }
    t->live_in = (uint16_t)live;
}

static int find_group(T *t, const RegTrack *r, unsigned base, unsigned index, unsigned scale, bool stack,
                      int32_t offset, unsigned size)
{
    for (unsigned g = t->group_count; g-- > 0;) {
        Group *group = &t->groups[g];
        if (group->base == base && group->index == index && group->scale == scale && group->stack == stack &&
            group->base_version == r->version[base] && group->index_version == r->version[index]) {
            int32_t min = MIN(group->min, offset), max = MAX(group->max, offset + (int32_t)size);
            if (max - min <= GROUP_SPAN) {
                group->min = min;
                group->max = max;
                return (int)g;
            }
        }
    }
    if (t->group_count == MAX_GROUPS) {
        return -1;
    }
    t->groups[t->group_count] = (Group){
        .base = (uint8_t)base,
        .index = (uint8_t)index,
        .scale = (uint8_t)scale,
        .stack = stack,
        .base_version = r->version[base],
        .index_version = r->version[index],
        .min = offset,
        .max = offset + (int32_t)size,
        .write = stack,
    };
    return (int)t->group_count++;
}

static void add_access(T *t, const RegTrack *r, Access *access, unsigned base, unsigned index, unsigned scale,
                       bool stack, int64_t offset)
{
    if (offset < -(1 << 30) || offset > 1 << 30) {
        return; /* so that displacements cannot overflow */
    }
    int g = find_group(t, r, base, index, scale, stack, (int32_t)offset, access->size);
    if (g < 0) {
        return;
    }
    access->group = (int8_t)g;
    access->offset = (int32_t)offset;
    t->groups[g].count++;
    t->groups[g].left++;
    t->groups[g].write |= access->write;
}

static void reg_changed(RegTrack *r, unsigned reg)
{
    r->version[reg] = ++r->next_version;
    r->adjust[reg] = 0;
}

static void analyse(T *t)
{
    RegTrack r = { .next_version = 1 };

    for (unsigned k = 0; k < t->count; k++) {
        TInsn *i = &t->insns[k];
        const X86Insn *insn = &i->insn;
        bool memory = false;
        if (i->kind == JIT_STEP || i->kind == JIT_CALLOUT || i->kind == JIT_STRING) {
            for (unsigned n = 0; n < 18; n++) {
                reg_changed(&r, n);
            }
            continue;
        }
        int disp = 0, size = 0;
        switch (i->kind) {
        case JIT_SYSTEM:
            if (insn->form->mnemonic == X86_PUSHF) {
                disp = -8, size = 8;
            } else if (insn->form->mnemonic == X86_POPF) {
                size = 8;
            }
            break;
        case JIT_PUSH:
        case JIT_CALL:
        case JIT_CALL_IND:
            disp = -8, size = 8;
            break;
        case JIT_POP:
        case JIT_RET:
            size = 8;
            break;
        default:
            break;
        }
        if (size) {
            i->stack = (Access){ .group = -1, .size = (uint16_t)size, .write = true };
            i->stack_disp = (int16_t)disp;
            add_access(t, &r, &i->stack, R_RSP, X86_REG_NONE, 0, true, (int64_t)r.adjust[R_RSP] + disp);
        }
        if (i->kind == JIT_LEAVE) {
            i->memory = (Access){ .group = -1, .size = 8, .write = false };
            add_access(t, &r, &i->memory, R_RBP, X86_REG_NONE, 0, true, r.adjust[R_RBP]);
        } else if (i->kind != JIT_LEA && i->kind != JIT_NOP && insn->is_memory) {
            memory = true;
            bool write;
            i->memory.size = (uint16_t)jit_memory_size(insn, &write);
            i->memory.write = write;
        }
        if (memory && insn->address_size == 8 && insn->segment < SEG_FS) {
            int64_t offset = insn->disp;
            unsigned base = insn->base, index = insn->index;
            if (base == X86_REG_RIP) {
                offset += i->offset + insn->length;
            } else {
                offset += r.adjust[base];
            }
            offset += (int64_t)((uint64_t)(int64_t)r.adjust[index] << insn->scale);
            add_access(t, &r, &i->memory, base, index, insn->scale, base == R_RSP && index == X86_REG_NONE,
                       offset);
        }
        /* What the instruction does to registers. */
        int32_t amount;
        int moved = jit_constant_move(insn, i->kind, &amount);
        uint32_t changed = jit_written_gprs(insn, i->kind);
        for (unsigned n = 0; n < 16; n++) {
            if (changed >> n & 1) {
                if ((int)n == moved && r.adjust[n] + (int64_t)amount < 1 << 28 &&
                    r.adjust[n] + (int64_t)amount > -(1 << 28)) {
                    r.adjust[n] += amount;
                } else {
                    reg_changed(&r, n);
                }
            }
        }
    }
    t->after = r;
}

/* ---- addresses ---- */

static void t1_release(T *t)
{
    if (t->t1_group >= 0) {
        Group *g = &t->groups[t->t1_group];
        if (g->left && !g->saved) {
            if (t->slots < JIT_SLOTS) {
                g->slot = (uint8_t)t->slots++;
                a_mov_store(&t->a, mem_gs(offsetof(X86Cpu, jit) + offsetof(JitArea, slots) + 8u * g->slot),
                            T1);
                g->saved = true;
            } else {
                g->checked = false; /* it is probed once more */
            }
        }
    }
    t->t1_group = -1;
}

static bool mem_uses(const HostMem *m, int reg)
{
    return m->base == reg || m->index == reg;
}

/* The guest address of a memory operand as a host operand over the guest's registers, T0 at most (T1 is used
 * in between where use_t1 allows; returns false where it would be needed). segments: add FS's or GS's base.
 */
static HostMem guest_address(T *t, const TInsn *i, bool segments)
{
    const X86Insn *insn = &i->insn;
    Asm *a = &t->a;
    HostMem m = { .base = -1, .index = -1, .scale = insn->scale, .disp = insn->disp };

    if (insn->base == X86_REG_RIP) {
        a_mov_load(a, T0, AREA(page_va));
        m.base = T0;
        m.disp += i->offset + insn->length;
    } else if (insn->base != X86_REG_NONE) {
        if (is_spilled(t, insn->base)) {
            a_mov_load(a, T0, REG(insn->base));
            m.base = T0;
        } else {
            m.base = (int8_t)host_reg(t, insn->base);
        }
    }
    if (insn->index != X86_REG_NONE) {
        if (!is_spilled(t, insn->index)) {
            m.index = (int8_t)host_reg(t, insn->index);
        } else if (m.base != T0) {
            a_mov_load(a, T0, REG(insn->index));
            m.index = T0;
        } else {
            t1_release(t);
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
            mem_gs(offsetof(X86Cpu, segs) + sizeof(X86Segment) * insn->segment + offsetof(X86Segment, base));
        if (m.base < 0 && m.index < 0) {
            a_mov_load(a, T0, base);
            m = mem_base(T0, m.disp);
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

static Cold *probe_cold(T *t, const TInsn *i, uint8_t *retry, unsigned span, bool write, bool stack)
{
    Cold *c = block_add_cold(t);
    c->type = COLD_PROBE;
    c->retry = retry;
    c->flags = t->f;
    c->fast = t->fast;
    c->meta = (JitRefill){
        .offset = i->offset, .span = (uint16_t)span, .write = write, .careful = t->careful, .stack = stack
    };
    return c;
}

/* Checks [*m + adjust, + span) and leaves host minus guest address in T1. *m may change: it is what the
 * access is to use (with T1 as index or base). */
static void emit_probe(T *t, const TInsn *i, HostMem *m, int32_t adjust, unsigned span, bool write,
                       uint8_t *retry)
{
    Asm *a = &t->a;
    bool uses_t0 = mem_uses(m, T0);
    HostMem start = *m;
    Cold *c = probe_cold(t, i, retry, span, write, false);

    start.disp += adjust;
    c->m = start;
    c->meta.pad = (uint8_t)TAG_OFFSET(write);
    if (t->jit->sites && !g_hash_table_contains(t->jit->scattered, t->b->page + i->offset)) {
        /* The page that this place saw last; behind it the TLB. */
        unsigned user = (t->key >> MODE_CPL_SHIFT & 3) == 3;
        /* Places share slots, but readers' and writers' never: what may be read only is not to be written. */
        unsigned n = (t->jit->next_site++ * 2 + write) % G_N_ELEMENTS(t->cpu->jit_sites[0]);
        c->site_slot = (int32_t)(offsetof(X86Cpu, jit_sites) + sizeof(t->cpu->jit_sites[0]) * user +
                                 sizeof(t->cpu->jit_sites[0][0]) * n);
        c->user = user;
        c->budget = (int32_t)(offsetof(X86Cpu, jit_budget) + sizeof(t->cpu->jit_budget[0]) * user +
                              sizeof(uint32_t) * n);
        if (uses_t0) {
            a_lea(a, T0, c->m);
            a_mov_reg(a, T1, T0);
            c->m = mem_base(T0, 0);
            *m = mem_base(T0, -(int64_t)adjust);
        } else {
            a_lea(a, T1, c->m);
        }
        a_op_mem(a, true, 0x2b, T1, mem_gs((uint64_t)c->site_slot));
        a_alu_imm(a, true, 7, T1, (int32_t)(4096 - span));
        c->site = a_jcc_forward(a, CC_A);
        a_mov_load(a, T1, mem_gs((uint64_t)c->site_slot + 8));
        c->back = a->p;
        return;
    }
    if (uses_t0) {
        a_lea(a, T0, start);
        a_mov_reg(a, T1, T0);
        c->add_tag = true;
    } else {
        a_lea(a, T1, start);
        a_mov_reg(a, T0, T1);
    }
    a_shr_imm(a, true, T1, 7);
    a_alu_imm(a, false, 4, T1, (TLB_SIZE - 1) << 5);
    a_op_mem(a, true, 0x03, T1, CPU(tlb));
    a_op_mem(a, true, 0x2b, T0, mem_base(T1, TAG_OFFSET(write)));
    a_alu_imm(a, true, 7, T0, (int32_t)(4096 - span));
    c->site = a_jcc_forward(a, CC_A);
    if (uses_t0) {
        a_op_mem(a, true, 0x03, T0, mem_base(T1, TAG_OFFSET(write)));
        *m = mem_base(T0, -(int64_t)adjust);
    }
    a_mov_load(a, T1, mem_base(T1, offsetof(TlbEntry, addend)));
}

/* [m] with the delta in T1. */
static HostMem with_delta(T *t, HostMem m)
{
    if (m.index < 0 && m.base >= 0) {
        m.index = T1;
        m.scale = 0;
        return m;
    }
    if (m.base < 0) {
        m.base = T1;
        return m;
    }
    a_lea(&t->a, T0, m);
    return mem_index(T0, T1, 0, 0);
}

static void stack_check(T *t, const TInsn *i, Access *access, HostMem m)
{
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
    a_op_mem(a, true, 0x2b, T0, AREA(stack_lo));
    a_alu_imm(a, true, 7, T0, (int32_t)(4096 - span));
    Cold *c = probe_cold(t, i, retry, span, true, true);
    c->m = m;
    c->keep_t1 = t->t1_group >= 0;
    c->site = a_jcc_forward(a, CC_A);
}

static HostMem stack_operand(const TInsn *i)
{
    return mem_index(GSP, SD, 0, i->stack_disp);
}

/* Base and index both live in memory. */
static bool is_spilled_pair(const T *t, const TInsn *i)
{
    return i->insn.base < 16 && i->insn.index < 16 && is_spilled(t, i->insn.base) &&
           is_spilled(t, i->insn.index);
}

/* The host operand of an instruction's explicit memory operand, checked. */
static HostMem checked_operand(T *t, TInsn *i)
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
        HostMem m = mem_base(GSP, i->insn.disp);
        stack_check(t, i, access, m);
        m.index = SD;
        return m;
    }
    if (is_spilled_pair(t, i)) {
        t1_release(
            t); /* guest_address needs it; where no slot is left the group has to be checked once more */
    }
    bool first = !g || t->careful || !g->checked;
    if (first) {
        block_flags_release(t, i->live_before);
        t1_release(t);
    }
    uint8_t *retry = t->a.p;
    HostMem m = guest_address(t, i, true);
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
        t1_release(t);
        a_mov_load(&t->a, T1, mem_gs(offsetof(X86Cpu, jit) + offsetof(JitArea, slots) + 8u * g->slot));
        t->t1_group = access->group;
    }
    return with_delta(t, m);
}

/* ---- exits ---- */

static JitLink *new_link(T *t, int32_t target, FlagState f, bool careful)
{
    JitLink *link = jit_alloc(t->jit, sizeof(JitLink), false);
    link->from = t->b;
    link->target = (uint16_t)target;
    link->in_reg = f.in_reg;
    link->in_mem = f.in_mem;
    link->careful = careful;
    link->next_out = t->b->links;
    t->b->links = link;
    return link;
}

/* Finds the entry for the guest address in T0: T1. Returns the jump of a miss. The flags are in cpu->cc or
 * dead. */
static uint8_t *emit_ibtc_probe(T *t)
{
    Asm *a = &t->a;
    if (!t->jit->chain) {
        return a_jmp_forward(a);
    }
    a_op_reg(a, false, 0x69, T1, T0); /* imul T1d, T0d, HASH */
    a_u32(a, JIT_IBTC_HASH);
    a_shr_imm(a, false, T1, 32 - JIT_IBTC_BITS - 4);
    a_alu_imm(a, false, 4, T1, (JIT_IBTC_SIZE - 1) << 4);
    a_op_mem(a, true, 0x03, T1, AREA(ibtc));
    a_op_mem(a, true, 0x39, T0, mem_base(T1, 0));
    return a_jcc_forward(a, CC_NE);
}

static void emit_ibtc_jump(T *t)
{
    a_op_mem(&t->a, false, 0xff, 4, mem_base(T1, offsetof(IbtcEntry, code)));
}

/* An indirect branch whose target is in T0. Nothing of its effects is done on a miss: C does it then. */
static uint8_t *emit_indirect_probe(T *t, const TInsn *i, JitIndirect kind, unsigned extra)
{
    uint8_t *site = emit_ibtc_probe(t);
    Cold *c = block_add_cold(t);
    c->type = COLD_INDIRECT;
    c->site = site;
    c->target = (int32_t)(i->offset | (unsigned)kind << 12 | extra << 14);
    return site;
}

/* A rel32 that is written while others run it must not lie across a fetch block. prefix: opcode bytes before
 * it. */
static void align_site(Asm *a, unsigned prefix)
{
    while ((((uintptr_t)a->p + prefix) & 15) > 12) {
        a_byte(a, 0x90);
    }
}

static bool is_near(const T *t, int32_t target)
{
    return target >= 0 && target < 4096 && t->jit->chain && !(t->straddles && target == t->next);
}

static void emit_far(T *t, int32_t target, FlagState f, unsigned live)
{
    Asm *a = &t->a;
    if (live && f.in_reg && !f.in_mem) {
        emit_flags_save(a);
    }
    a_mov_load(a, T0, AREA(page_va));
    a_lea(a, T0, mem_base(T0, target));
    uint8_t *miss = emit_ibtc_probe(t);
    emit_ibtc_jump(t);
    if (!a->overflow) {
        a_bind_to(miss, t->jit->thunks.ibtc_miss);
    }
}

static void emit_link_stub(T *t, JitLink *link)
{
    Asm *a = &t->a;
    link->stub = a->p;
    if (link->in_reg && !link->in_mem) {
        emit_flags_save(a);
    }
    a_call(a, t->jit->thunks.link);
    a_u64(a, (uint64_t)(uintptr_t)link);
    if (!a->overflow) {
        a_bind_to(link->site, link->stub);
    }
}

/* Leaves the block for a direct target. */
void block_emit_exit(T *t, int32_t target)
{
    Asm *a = &t->a;
    if (!is_near(t, target)) {
        emit_far(t, target, t->f, t->live_out);
        return;
    }
    JitLink *link = new_link(t, target, t->f, false);
    align_site(a, 1);
    link->site = a_jmp_forward(a);
    emit_link_stub(t, link);
}

/* Jcc, LOOP: the taken way goes through a stub behind the block. */
static void emit_taken(T *t, uint8_t *site, int32_t target)
{
    Cold *c = block_add_cold(t);
    c->type = COLD_TAKEN;
    c->site = site;
    c->target = target;
    c->flags = t->f;
}

static void emit_step(T *t, unsigned offset)
{
    Asm *a = &t->a;
    a_mov_load(a, T0, AREA(page_va));
    a_lea(a, T0, mem_base(T0, offset));
    a_jmp(a, t->jit->thunks.step);
}

/* ---- instructions ---- */

static void emit_copy(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;
    JitOperands o;
    HostMem m = { .base = -1, .index = -1 };
    unsigned reads, writes, touched = (insn->form->flags_written | insn->form->flags_undefined) & FLAGS_ALL;

    jit_operands(insn, &o);
    flags_of(i, &reads, &writes);
    if (insn->is_memory) {
        m = checked_operand(t, i);
    }
    /* Guest registers that live in memory get a scratch register each. */
    int scratch[2] = { T0, T1 }, guest[2] = { -1, -1 };
    unsigned used = 0, first_free = 0;
    unsigned spilled = 0;
    for (unsigned k = 0; k < 3; k++) {
        int number = k == 0 ? o.reg : k == 1 ? o.rm : o.vvvv;
        bool gpr = k == 0 ? o.reg_gpr : k == 1 ? o.rm_gpr : o.vvvv_gpr;
        bool high = o.byte[k] && o.legacy_byte && number >= 4;
        spilled += gpr && !high && is_spilled(t, (unsigned)number);
    }
    if (spilled) {
        if (insn->is_memory) {
            if (mem_uses(&m, T0) && mem_uses(&m, T1)) {
                t1_release(t);
                a_lea(a, T0, m);
                m = mem_base(T0, 0);
            }
            if (mem_uses(&m, T0)) {
                first_free = 1;
                t1_release(t);
            }
        } else if (spilled > 1) {
            t1_release(t);
        }
    }
    if (insn->is_memory && o.high_byte) {
        a_lea(a, T0, m);
        m = mem_base(T0, 0);
    }
    int *roles[3] = { &o.reg, &o.rm, &o.vvvv };
    bool is_gpr[3] = { o.reg_gpr, o.rm_gpr, o.vvvv_gpr };
    bool reads_gpr[2] = { false, false }, writes_gpr[2] = { false, false };
    for (unsigned k = 0; k < 3; k++) {
        if (!is_gpr[k]) {
            continue;
        }
        unsigned g = (unsigned)*roles[k];
        if (o.byte[k] && o.legacy_byte && g >= 4) {
            continue; /* AH and its like stay as they are */
        }
        if (!is_spilled(t, g)) {
            *roles[k] = host_reg(t, g);
            continue;
        }
        unsigned s = 0;
        while (s < used && guest[s] != (int)g) {
            s++;
        }
        if (s == used) {
            guest[used++] = (int)g;
        }
        reads_gpr[s] |= o.reads[k];
        writes_gpr[s] |= o.writes[k];
        *roles[k] = scratch[(s + first_free) & 1];
    }
    for (unsigned s = 0; s < used; s++) {
        if (reads_gpr[s]) {
            a_mov_load(a, (unsigned)scratch[(s + first_free) & 1], REG(guest[s]));
        }
    }
    /* Flags that the instruction reads or leaves alone must be there. */
    if ((reads | (touched ? i->live_after & ~writes : 0)) && !t->f.in_reg) {
        flags_want(t);
    }
    if (o.high_byte && insn->is_memory) {
        /* xchg of the two low bytes, so that the encoding may have a REX prefix */
        unsigned low = (unsigned)o.reg & 3;
        a_byte(a, 0x86);
        a_byte(a, 0xc0 | low << 3 | (low + 4));
        o.reg = (int)low;
        jit_emit(a, insn, &o, &m);
        a_byte(a, 0x86);
        a_byte(a, 0xc0 | low << 3 | (low + 4));
    } else {
        if (t->pc_count && !a->overflow) {
            t->pcs[t->pc_count - 1].in_reg = t->f.in_reg;
        }
        jit_emit(a, insn, &o, insn->is_memory ? &m : NULL);
    }
    for (unsigned s = 0; s < used; s++) {
        if (writes_gpr[s]) {
            a_mov_store(a, REG(guest[s]), (unsigned)scratch[(s + first_free) & 1]);
        }
    }
    if (touched) {
        t->f = (FlagState){ .in_reg = true };
    }
}

/* Loads the operand of PUSH, CALL or JMP into T0. */
static void load_t0(T *t, TInsn *i)
{
    Asm *a = &t->a;
    if (i->insn.is_memory) {
        HostMem m = checked_operand(t, i);
        a_mov_load(a, T0, m);
    } else if (is_spilled(t, i->insn.rm)) {
        a_mov_load(a, T0, REG(i->insn.rm));
    } else {
        a_mov_reg(a, T0, (unsigned)host_reg(t, i->insn.rm));
    }
}

/* Checks the stack for what is in T0 meanwhile. There is one stack slot, so this comes behind an explicit
 * operand's check, which may be for another page of the stack. */
static void stack_check_keeping_t0(T *t, TInsn *i)
{
    const Access *access = &i->stack;
    bool checked = !t->careful && access->group >= 0 && t->groups[access->group].checked;

    if (!checked) {
        a_mov_store(&t->a, AREA(tmp[2]), T0);
    }
    stack_check(t, i, &i->stack, mem_base(GSP, -8));
    if (!checked) {
        a_mov_load(&t->a, T0, AREA(tmp[2]));
    }
}

static void emit_push(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;

    if (insn->is_memory) {
        load_t0(t, i);
        stack_check_keeping_t0(t, i);
        a_mov_store(a, stack_operand(i), T0);
        a_lea(a, GSP, mem_base(GSP, -8));
        return;
    }
    stack_check(t, i, &i->stack, mem_base(GSP, -8));
    HostMem top = stack_operand(i);
    if (insn->imm_size) {
        a_op_mem(a, true, 0xc7, 0, top);
        a_u32(a, (uint32_t)insn->imm);
    } else if (!is_spilled(t, insn->rm)) {
        a_mov_store(a, top, (unsigned)host_reg(t, insn->rm));
    } else {
        load_t0(t, i);
        a_mov_store(a, top, T0);
    }
    a_lea(a, GSP, mem_base(GSP, -8));
}

static void emit_pop(T *t, TInsn *i)
{
    Asm *a = &t->a;

    stack_check(t, i, &i->stack, mem_base(GSP, 0));
    if (is_spilled(t, i->insn.rm)) {
        a_mov_load(a, T0, stack_operand(i));
        a_mov_store(a, REG(i->insn.rm), T0);
    } else {
        a_mov_load(a, (unsigned)host_reg(t, i->insn.rm), stack_operand(i));
        if (i->insn.rm == R_RSP) {
            return;
        }
    }
    a_lea(a, GSP, mem_base(GSP, 8));
}

static void emit_lea(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;
    unsigned size = insn->operand_size;
    HostMem m;

    if (insn->address_size == 4) {
        m = guest_address(t, i, false); /* leaves T0 */
    } else {
        m = guest_address(t, i, false);
    }
    bool spilled = is_spilled(t, insn->reg);
    unsigned to = spilled ? T0 : (unsigned)host_reg(t, insn->reg);
    if (size == 2) {
        if (spilled) {
            a_lea(a, T0, m);
            a_byte(a, 0x66);
            a_op_mem(a, false, 0x89, T0, REG(insn->reg));
            return;
        }
        a_byte(a, 0x66);
    }
    a_op_mem(a, size == 8, 0x8d, to, m);
    if (spilled) {
        a_mov_store(a, REG(insn->reg), T0);
    }
}

static void emit_return_address(T *t, TInsn *i, unsigned scratch)
{
    Asm *a = &t->a;
    a_mov_load(a, scratch, AREA(page_va));
    a_lea(a, scratch, mem_base((int)scratch, i->offset + i->insn.length));
    a_mov_store(a, stack_operand(i), scratch);
    a_lea(a, GSP, mem_base(GSP, -8));
}

static JitCallout *new_callout(T *t, const TInsn *i)
{
    const X86Insn *insn = &i->insn;
    JitCallout *c = jit_alloc(t->jit, sizeof(JitCallout), true);

    c->block = t->b;
    c->offset = i->offset;
    c->length = insn->length;
    interp_bind(t->cpu, insn, &c->ops[0], 0, i->offset, &c->native);
    c->ops[1].handler = interp_h_stop;
    c->ops[1].offset = insn->length;
    c->ends = insn->form->attrs & X86_ATTR_END;
    c->light = jit_is_light(insn);
    return c;
}

static void emit_callout(T *t, TInsn *i)
{
    Asm *a = &t->a;

    block_flags_release(t, i->live_before);
    t1_release(t);
    JitCallout *c = new_callout(t, i);
    a_call(a, c->ends && t->jit->chain ? t->jit->thunks.callout_end : t->jit->thunks.callout);
    a_u64(a, (uint64_t)(uintptr_t)c);
    t->f = (FlagState){ .in_mem = true };
    for (unsigned g = 0; g < t->group_count; g++) {
        t->groups[g].checked = false; /* what was checked may have changed */
    }
}

/* How many elements fit between reg and the end of its page: T0; the delta of the page: T1. Returns what is
 * done where the page is not in the TLB, or the first element crosses its end; the caller says where to go in
 * vain. */
static Cold *emit_run_probe(T *t, TInsn *i, unsigned reg, unsigned shift, bool write)
{
    Asm *a = &t->a;
    Cold *c = probe_cold(t, i, a->p, 1u << shift, write, false);
    c->m = mem_base((int)reg, 0);
    a_mov_reg(a, T1, reg);
    a_shr_imm(a, true, T1, 7);
    a_alu_imm(a, false, 4, T1, (TLB_SIZE - 1) << 5);
    a_op_mem(a, true, 0x03, T1, CPU(tlb));
    a_mov_reg(a, T0, reg);
    a_op_mem(a, true, 0x2b, T0, mem_base(T1, TAG_OFFSET(write)));
    a_alu_imm(a, true, 7, T0, 4096 - (1 << shift));
    c->site = a_jcc_forward(a, CC_A);
    a_op_reg(a, false, 0xf7, 3, T0); /* neg */
    a_alu_imm(a, false, 0, T0, 4096);
    if (shift) {
        a_shr_imm(a, false, T0, shift);
    }
    a_mov_load(a, T1, mem_base(T1, offsetof(TlbEntry, addend)));
    return c;
}

/* cmp T0, m; cmova T0, m */
static void emit_minimum(Asm *a, HostMem m)
{
    a_op_mem(a, true, 0x3b, T0, m);
    a_op_mem(a, true, 0x0f47, T0, m);
}

static Cold *string_cold(T *t, TInsn *i, uint8_t *const slow[], unsigned n, uint8_t *retry)
{
    Cold *c = block_add_cold(t);
    c->type = COLD_STRING;
    memcpy(c->slow, slow, n * sizeof(*slow));
    c->slow_count = n;
    c->retry = retry;
    c->callout = new_callout(t, i);
    return c;
}

/* STOS and MOVS upwards, in runs that end where a page ends; everything else by the interpreter. Between runs
 * the registers are right, and interrupts are let in. */
static void emit_string(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;
    bool movs = insn->form->mnemonic == X86_MOVS, rep = insn->prefixes & (X86_INSN_REP | X86_INSN_REPNE);
    unsigned shift =
        insn->form->operands[0].size == X86_SIZE_B ? 0 : (unsigned)__builtin_ctz(insn->operand_size);
    uint8_t *slow[1], *none = NULL;
    Cold *probes[2] = { NULL, NULL };

    block_flags_release(t, i->live_before);
    t1_release(t);
    a_op_mem(a, false, 0xf6, 0, mem_gs(offsetof(X86Cpu, rflags) + 1)); /* test byte [rflags+1], DF */
    a_byte(a, FLAG_DF >> 8);
    slow[0] = a_jcc_forward(a, CC_NE);
    uint8_t *again = a->p;
    if (rep) {
        a_op_reg(a, true, 0x85, H_RCX, H_RCX);
        none = a_jcc_forward(a, CC_E);
    }
    if (movs) {
        probes[1] = emit_run_probe(t, i, H_RSI, shift, false);
        a_mov_store(a, AREA(tmp[0]), T0);
        a_mov_store(a, AREA(tmp[1]), T1);
    }
    probes[0] = emit_run_probe(t, i, H_RDI, shift, true);
    if (rep) {
        if (movs) {
            emit_minimum(a, AREA(tmp[0]));
        }
        a_op_reg(a, true, 0x3b, T0, H_RCX);
        a_op_reg(a, true, 0x0f47, T0, H_RCX);
        a_op_reg(a, true, 0x2b, H_RCX, T0); /* what is left */
        a_mov_store(a, AREA(tmp[2]), H_RCX);
        a_mov_reg(a, H_RCX, T0);
    }
    if (movs) {
        a_mov_load(a, T0, AREA(tmp[1]));
        a_op_reg(a, true, 0x03, H_RSI, T0);
    }
    a_op_reg(a, true, 0x03, H_RDI, T1);
    if (rep) {
        a_byte(a, 0xf3);
    }
    if (insn->operand_size == 2 && shift) {
        a_byte(a, 0x66);
    }
    if (shift == 3) {
        a_byte(a, 0x48);
    }
    a_byte(a, (movs ? 0xa4u : 0xaau) | (shift ? 1u : 0));
    a_op_reg(a, true, 0x2b, H_RDI, T1);
    if (movs) {
        a_op_reg(a, true, 0x2b, H_RSI, T0);
    }
    if (rep) {
        a_mov_load(a, H_RCX, AREA(tmp[2]));
        a_op_reg(a, true, 0x85, H_RCX, H_RCX);
        uint8_t *done = a_jcc_forward(a, CC_E);
        a_op_mem(a, false, 0x83, 7, CPU(interrupt_poll));
        a_byte(a, 0);
        uint8_t *more = a_jcc_forward(a, CC_E);
        if (!a->overflow) {
            a_bind_to(more, again);
        }
        a_mov_load(a, T0, AREA(page_va));
        a_lea(a, T0, mem_base(T0, i->offset));
        a_jmp(a, t->jit->thunks.poll);
        a_bind(a, done);
        a_bind(a, none);
    }
    /* Emitted behind the probes' own cold code. */
    Cold *way = string_cold(t, i, slow, 1, a->p);
    for (unsigned k = 0; k < 2; k++) {
        if (probes[k]) {
            probes[k]->slow_way = way;
        }
    }
    t->f.in_reg = false;
    for (unsigned g = 0; g < t->group_count; g++) {
        t->groups[g].checked = false;
    }
}

/* ---- instructions of the system, as far as they need no C ---- */

static void forget_groups(T *t)
{
    t1_release(t);
    for (unsigned g = 0; g < t->group_count; g++) {
        t->groups[g].checked = false;
    }
}

/* op dword gs:[rflags], imm: 1 or, 4 and */
static void emit_rflags(T *t, unsigned op, uint32_t imm)
{
    a_op_mem(&t->a, false, 0x81, op, CPU(rflags));
    a_u32(&t->a, imm);
}

/* What is pending is delivered at once where interrupts are allowed now: the slow way sees to it. */
static uint8_t *emit_test_pending(T *t)
{
    a_op_mem(&t->a, false, 0x83, 7, CPU(interrupt_request));
    a_byte(&t->a, 0);
    return a_jcc_forward(&t->a, CC_NE);
}

static void emit_pushf(T *t, TInsn *i)
{
    Asm *a = &t->a;

    stack_check(t, i, &i->stack, mem_base(GSP, -8));
    flags_want(t);
    if (i->live_after && !t->f.in_mem) {
        emit_flags_save(a);
        t->f.in_mem = true;
    }
    a_bytes(a, "\x9c\x41\x5c", 3); /* pushfq; pop T0 */
    a_alu_imm(a, false, 4, T0, FLAGS_ALL);
    a_op_mem(a, true, 0x0b, T0, CPU(rflags));
    a_alu_imm(a, true, 4, T0, (int32_t) ~(uint32_t)(FLAG_RF | FLAG_VM));
    t->f.in_reg = false;
    a_mov_store(a, stack_operand(i), T0);
    a_lea(a, GSP, mem_base(GSP, -8));
}

/* POPF where of the flags outside the arithmetic ones only IF and DF change. */
static void emit_popf(T *t, TInsn *i)
{
    Asm *a = &t->a;
    bool may_if = t->key & MODE_IOPL_OK;
    uint32_t mine = FLAG_DF | (may_if ? FLAG_IF : 0);
    uint32_t other =
        FLAG_TF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    uint8_t *slow[2];

    stack_check(t, i, &i->stack, mem_base(GSP, 0));
    block_flags_release(t, 0);
    t1_release(t);
    a_mov_load(a, T0, stack_operand(i));
    a_mov_reg(a, T1, T0);
    a_op_mem(a, false, 0x33, T1, CPU(rflags));
    a_op_reg(a, false, 0xf7, 0, T1); /* test T1d, other */
    a_u32(a, other);
    slow[0] = a_jcc_forward(a, CC_NE);
    unsigned n = 1;
    if (may_if) {
        a_op_reg(a, false, 0xf7, 0, T0);
        a_u32(a, FLAG_IF);
        uint8_t *off = a_jcc_forward(a, CC_E);
        slow[n++] = emit_test_pending(t);
        a_bind(a, off);
    }
    emit_rflags(t, 4, ~mine);
    a_mov_reg(a, T1, T0);
    a_alu_imm(a, false, 4, T1, (int32_t)mine);
    a_op_mem(a, false, 0x09, T1, CPU(rflags));
    /* cpu->cc: AH's layout in the high byte, OF in the low one */
    a_mov_reg(a, T1, T0);
    a_shr_imm(a, false, T1, 11);
    a_alu_imm(a, false, 4, T1, 1);
    a_op_reg(a, false, 0x0fb6, T0, T0); /* movzx T0d, T0b */
    a_shl_imm(a, false, T0, 8);
    a_op_reg(a, false, 0x0b, T1, T0);
    a_byte(a, 0x66);
    a_op_mem(a, false, 0x89, T1, CPU(cc));
    a_lea(a, GSP, mem_base(GSP, 8));
    string_cold(t, i, slow, n, a->p);
    t->f = (FlagState){ .in_mem = true };
}

static void emit_system(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;
    uint8_t *slow[1];

    switch (insn->form->mnemonic) {
    case X86_CLI:
        block_flags_release(t, i->live_before);
        emit_rflags(t, 4, ~FLAG_IF);
        break;
    case X86_STI:
        block_flags_release(t, i->live_before);
        t1_release(t);
        slow[0] = emit_test_pending(t);
        emit_rflags(t, 1, FLAG_IF);
        string_cold(t, i, slow, 1, a->p);
        break;
    case X86_CLD:
        block_flags_release(t, i->live_before);
        emit_rflags(t, 4, ~FLAG_DF);
        break;
    case X86_STD:
        block_flags_release(t, i->live_before);
        emit_rflags(t, 1, FLAG_DF);
        break;
    case X86_STAC:
    case X86_CLAC: {
        bool set = insn->form->mnemonic == X86_STAC;
        block_flags_release(t, i->live_before);
        forget_groups(t);
        if (set) {
            emit_rflags(t, 1, FLAG_AC);
        } else {
            emit_rflags(t, 4, ~FLAG_AC);
        }
        MmuIndex index = set ? MMU_KERNEL_AC : MMU_KERNEL;
        a_mov_load(a, T0, CPU(mmu));
        a_mov_mem_imm32(a, mem_base(T0, offsetof(X86Mmu, index)), index);
        a_mov_load(a, T1, mem_base(T0, offsetof(X86Mmu, table) + 8u * index));
        a_mov_store(a, CPU(tlb), T1);
        break;
    }
    case X86_SWAPGS: {
        HostMem base =
            mem_gs(offsetof(X86Cpu, segs) + sizeof(X86Segment) * SEG_GS + offsetof(X86Segment, base));
        t1_release(t);
        a_mov_load(a, T0, base);
        a_mov_load(a, T1, CPU(kernel_gs_base));
        a_mov_store(a, base, T1);
        a_mov_store(a, CPU(kernel_gs_base), T0);
        break;
    }
    case X86_MOV_FROM_SEG: {
        HostMem selector =
            mem_gs(offsetof(X86Cpu, segs) + sizeof(X86Segment) * insn->reg + offsetof(X86Segment, selector));
        if (is_spilled(t, insn->rm)) {
            a_op_mem(a, false, 0x0fb7, T0, selector);
            a_mov_store(a, REG(insn->rm), T0);
        } else {
            a_op_mem(a, false, 0x0fb7, (unsigned)host_reg(t, insn->rm), selector);
        }
        break;
    }
    case X86_PAUSE:
        a_bytes(a, "\xf3\x90", 2);
        break;
    case X86_PUSHF:
        emit_pushf(t, i);
        break;
    case X86_POPF:
        emit_popf(t, i);
        break;
    }
}

static void emit_fpu_check(T *t)
{
    Asm *a = &t->a;
    a_op_mem(a, false, 0x83, 7, CPU(fpu_stale));
    a_byte(a, 0);
    a_bytes(a, "\x74\x05", 2); /* je over the call */
    a_call(a, t->jit->thunks.fpu_load);
}

void block_emit_insn(T *t, unsigned k)
{
    TInsn *i = &t->insns[k];
    const X86Insn *insn = &i->insn;
    Asm *a = &t->a;
    int32_t next = i->offset + insn->length;

    t->pcs[t->pc_count++] = (JitPc){ .host = (uint32_t)(a->p - t->b->code),
                                     .offset = i->offset,
                                     .in_reg = t->f.in_reg,
                                     .fast = t->fast != NULL,
                                     .live = i->live_before,
                                     .undefined = i->undefined_before };
    switch (i->kind) {
    case JIT_NOP:
        break;
    case JIT_COPY:
        emit_copy(t, i);
        break;
    case JIT_LEA:
        emit_lea(t, i);
        break;
    case JIT_PUSH:
        emit_push(t, i);
        break;
    case JIT_POP:
        emit_pop(t, i);
        break;
    case JIT_LEAVE:
        stack_check(t, i, &i->memory, mem_base(H_RBP, 0));
        a_mov_load(a, T0, mem_index(H_RBP, SD, 0, 0));
        a_lea(a, GSP, mem_base(H_RBP, 8));
        a_mov_reg(a, H_RBP, T0);
        break;
    case JIT_CALL:
        stack_check(t, i, &i->stack, mem_base(GSP, -8));
        emit_return_address(t, i, T0);
        block_emit_exit(t, next + (int32_t)insn->imm);
        break;
    case JIT_CALL_IND:
        block_flags_release(t, t->live_out);
        load_t0(t, i);
        stack_check_keeping_t0(t, i);
        emit_indirect_probe(t, i, JIT_INDIRECT_CALL, insn->length);
        if (t->jit->chain) {
            a_mov_load(a, T1, mem_base(T1, offsetof(IbtcEntry, code)));
            a_mov_store(a, AREA(target), T1);
            emit_return_address(t, i, T1);
            a_op_mem(a, false, 0xff, 4, AREA(target));
        }
        break;
    case JIT_RET:
        block_flags_release(t, t->live_out);
        stack_check(t, i, &i->stack, mem_base(GSP, 0));
        a_mov_load(a, T0, stack_operand(i));
        emit_indirect_probe(t, i, JIT_INDIRECT_RET, (unsigned)insn->imm);
        a_lea(a, GSP, mem_base(GSP, 8 + (int64_t)insn->imm));
        emit_ibtc_jump(t);
        break;
    case JIT_JMP:
        block_emit_exit(t, next + (int32_t)insn->imm);
        break;
    case JIT_JMP_IND:
        block_flags_release(t, t->live_out);
        load_t0(t, i);
        emit_indirect_probe(t, i, JIT_INDIRECT_JMP, 0);
        emit_ibtc_jump(t);
        break;
    case JIT_JCC:
        flags_want(t);
        if (t->fast) {
            a_byte(a, 0x0f);
            a_byte(a, 0x80 | (insn->form->opcode & 15));
            a_u32(a, 0);
            if (!a->overflow) {
                a_bind_to(a->p - 4, t->fast->top);
            }
            loop_restore(t, t->fast, false);
            block_emit_exit(t, next);
            break;
        }
        align_site(a, 2);
        a_byte(a, 0x0f);
        a_byte(a, 0x80 | (insn->form->opcode & 15));
        a_u32(a, 0);
        emit_taken(t, a->p - 4, next + (int32_t)insn->imm);
        block_emit_exit(t, next);
        break;
    case JIT_LOOP: {
        flags_want(t);
        align_site(a, insn->address_size == 4 ? 6 : 5);
        if (insn->address_size == 4) {
            a_byte(a, 0x67);
        }
        a_byte(a, insn->form->opcode);
        a_byte(a, 2);
        a_bytes(a, "\xeb\x05", 2); /* not taken: over the next jump */
        uint8_t *site = a_jmp_forward(a);
        emit_taken(t, site, next + (int32_t)insn->imm);
        block_emit_exit(t, next);
        break;
    }
    case JIT_CALLOUT:
        emit_callout(t, i);
        if (!(insn->form->attrs & X86_ATTR_END) && t->fpu) {
            for (unsigned n = k + 1; n < t->count; n++) {
                if (t->insns[n].fpu) {
                    emit_fpu_check(t);
                    break;
                }
            }
        }
        break;
    case JIT_STRING:
        emit_string(t, i);
        break;
    case JIT_SYSTEM:
        emit_system(t, i);
        break;
    case JIT_STEP:
        block_flags_release(t, FLAGS_ALL);
        emit_step(t, i->offset);
        break;
    }
}

/* ---- entries ---- */

/* Whether the block wants the flags in RFLAGS at its start. */
static bool wants_flags_in_reg(const T *t)
{
    if (t->fpu || t->check) {
        return false; /* the check at its start needs them */
    }
    for (unsigned k = 0; k < t->count; k++) {
        const TInsn *i = &t->insns[k];
        unsigned reads, writes;
        if (i->kind == JIT_CALLOUT || i->kind == JIT_STEP || i->kind == JIT_STRING || i->kind == JIT_SYSTEM ||
            i->stack.group >= 0 || (i->insn.is_memory && i->kind != JIT_LEA && i->kind != JIT_NOP) ||
            i->kind == JIT_LEAVE) {
            return false;
        }
        flags_of(i, &reads, &writes);
        if (reads || writes) {
            return true;
        }
    }
    JitKind last = t->insns[t->count - 1].kind;
    return last != JIT_RET && last != JIT_JMP_IND && last != JIT_CALL_IND;
}

static void emit_entries(T *t, unsigned offset)
{
    Asm *a = &t->a;
    Jit *jit = t->jit;
    JitBlock *b = t->b;
    bool reg = t->live_in && wants_flags_in_reg(t);

    a_align(a, 16);
    b->code = a->p;
    b->ibtc_entry = jit_rx(jit, a->p);
    a_op_reg(a, true, 0x81, 4, T0); /* and T0, -4096: seven bytes, see jit_block_patch */
    a_u32(a, 0xfffff000);
    a_mov_store(a, AREA(page_va), T0);
    b->mem_poll_entry = jit_rx(jit, a->p);
    a_op_mem(a, t->fpu, 0x83, 7,
             CPU(interrupt_poll)); /* with vector code fpu_stale, too, which lies behind it */
    a_byte(a, 0);
    Cold *c = block_add_cold(t);
    c->type = COLD_POLL;
    c->target = (int32_t)offset;
    c->site = a_jcc_forward(a, CC_NE);
    c->retry = a->p;
    b->mem_entry = t->fpu ? b->mem_poll_entry : jit_rx(jit, a->p);
    if (reg) {
        emit_flags_load(a);
        t->f.in_reg = true;
        t->f.in_mem = false; /* entered through reg_entry it is not */
        b->reg_entry = jit_rx(jit, a->p);
    } else if (t->live_in) {
        t->f.in_mem = true;
        Cold *e = block_add_cold(t);
        e->type = COLD_REG_ENTRY;
    } else {
        b->reg_entry = b->mem_entry;
        b->reg_poll_entry = b->mem_poll_entry;
    }
    if (reg) {
        Cold *e = block_add_cold(t);
        e->type = COLD_REG_ENTRY;
    }
}

/* Compares the guest's code with what it is now. RFLAGS are free, and T0 and T1. */
static void emit_check(T *t, const uint8_t *page, const uint8_t *second, const uint8_t *changed)
{
    Asm *a = &t->a;
    unsigned offset = t->b->offset, left = t->b->length;
    const uint8_t *code = page + offset, *expected = t->snapshot;

    while (left) {
        unsigned part = second && offset + left > 4096 ? 4096 - offset : left;
        a_mov_imm64(a, T0, (uint64_t)(uintptr_t)code);
        for (unsigned k = 0; k < part;) {
            unsigned size = part - k >= 4 ? 4 : 1;
            a_op_mem(a, false, size == 4 ? 0x81 : 0x80, 7, mem_base(T0, k));
            if (size == 4) {
                uint32_t v;
                memcpy(&v, expected + k, 4);
                a_u32(a, v);
            } else {
                a_byte(a, expected[k]);
            }
            k += size;
            uint8_t *site = a_jcc_forward(a, CC_NE);
            if (!a->overflow) {
                a_bind_to(site, changed);
            }
        }
        left -= part;
        expected += part;
        code = second;
        offset = 0;
    }
}

static void emit_cold(T *t)
{
    Asm *a = &t->a;
    Jit *jit = t->jit;

    for (unsigned k = 0; k < t->cold_count; k++) {
        Cold *c = &t->cold[k];
        if (a->overflow) {
            return;
        }
        switch (c->type) {
        case COLD_DONE:
            break;
        case COLD_PROBE:
            a_bind(a, c->site);
            if (c->site_slot) {
                /* The TLB; T0 stays the address where the access needs it. */
                bool keep_t0 = c->m.base == T0 && c->m.index < 0 && c->m.disp == 0;
                a_lea(a, T1, c->m);
                if (!keep_t0) {
                    a_mov_reg(a, T0, T1);
                }
                a_shr_imm(a, true, T1, 7);
                a_alu_imm(a, false, 4, T1, (TLB_SIZE - 1) << 5);
                a_op_mem(a, true, 0x03, T1, CPU(tlb));
                a_op_mem(a, true, 0x2b, T0, mem_base(T1, c->meta.pad));
                a_alu_imm(a, true, 7, T0, (int32_t)(4096 - c->meta.span));
                uint8_t *miss = a_jcc_forward(a, CC_A);
                if (keep_t0) {
                    a_op_mem(a, true, 0x03, T0, mem_base(T1, c->meta.pad));
                    a_mov_store(a, AREA(tmp[3]), T0);
                }
                a_mov_load(a, T0, mem_base(T1, c->meta.pad));
                a_mov_load(a, T1, mem_base(T1, offsetof(TlbEntry, addend)));
                uint8_t *user_half = NULL;
                /* A place that goes from page to page all the time does better without. */
                a_op_mem(a, false, 0x83, 5, mem_gs((uint64_t)c->budget));
                a_byte(a, 1);
                uint8_t *spent = c->fast ? NULL : a_jcc_forward(a, CC_E);
                if (!c->user) {
                    /* What SMAP lets through now it may not later. */
                    a_op_reg(a, true, 0x85, T0, T0);
                    user_half = a_jcc_forward(a, CC_NS);
                }
                a_mov_store(a, mem_gs((uint64_t)c->site_slot), T0);
                a_mov_store(a, mem_gs((uint64_t)c->site_slot + 8), T1);
                a_mov_mem_imm32(a, AREA(sites_used), 1);
                if (user_half) {
                    a_bind(a, user_half);
                }
                if (keep_t0) {
                    a_mov_load(a, T0, AREA(tmp[3]));
                }
                a_jmp(a, c->back);
                if (spent) {
                    a_bind(a, spent);
                    a_mov_mem_imm32(a, AREA(exit_info), c->meta.offset + 1u);
                    a_mov_imm64(a, T1, (uint64_t)(uintptr_t)t->b);
                    a_mov_load(a, T0, AREA(page_va));
                    a_lea(a, T0, mem_base(T0, c->meta.offset));
                    a_jmp(a, jit->thunks.changed);
                }
                a_bind(a, miss);
                c->add_tag = true;
            }
            if (c->add_tag) {
                a_op_mem(a, true, 0x03, T0, mem_base(T1, c->meta.pad));
            } else {
                a_lea(a, T0, c->m);
            }
            if (c->keep_t1) {
                a_mov_store(a, AREA(t1), T1);
            }
            a_call(a, jit->thunks.refill);
            a_bytes(a, &c->meta, sizeof(c->meta));
            uint8_t *again = a_jmp_forward(a);
            if (!c->keep_t1 && !a->overflow) {
                a_bind_to(again, c->retry);
            }
            if (c->fast) {
                loop_restore(t, c->fast, false);
            }
            if (c->slow_way) {
                Cold *way = c->slow_way;
                if (way->slow_count < G_N_ELEMENTS(way->slow)) {
                    way->slow[way->slow_count++] = a_jmp_forward(a);
                }
            } else if (c->otherwise) {
                a_jmp(a, c->otherwise);
            } else if (t->careful) {
                emit_step(t, c->meta.offset);
            } else {
                JitLink *link = new_link(t, c->meta.offset, (FlagState){ .in_mem = c->flags.in_mem }, true);
                align_site(a, 1);
                link->site = a_jmp_forward(a);
                emit_link_stub(t, link);
            }
            if (c->keep_t1) {
                a_bind(a, again);
                a_mov_load(a, T1, AREA(t1));
                a_jmp(a, c->retry);
            }
            break;
        case COLD_LOOP_OUT:
            a_bind(a, c->site);
            loop_restore(t, c->fast, true);
            a_jmp(a, c->retry);
            break;
        case COLD_TAKEN:
            if (is_near(t, c->target)) {
                JitLink *link = new_link(t, c->target, c->flags, false);
                link->site = c->site;
                emit_link_stub(t, link);
            } else {
                a_bind(a, c->site);
                emit_far(t, c->target, c->flags, t->live_out);
            }
            break;
        case COLD_POLL:
            a_bind(a, c->site);
            if (t->fpu) {
                /* Perhaps only the registers are to be loaded. */
                a_op_mem(a, false, 0x83, 7, CPU(interrupt_poll));
                a_byte(a, 0);
                uint8_t *poll = a_jcc_forward(a, CC_NE);
                a_call(a, jit->thunks.fpu_load);
                a_jmp(a, c->retry);
                a_bind(a, poll);
            }
            a_mov_load(a, T0, AREA(page_va));
            a_lea(a, T0, mem_base(T0, c->target));
            a_jmp(a, jit->thunks.poll);
            break;
        case COLD_STRING:
            for (unsigned n = 0; n < c->slow_count; n++) {
                a_bind(a, c->slow[n]);
            }
            if (c->callout->ends) {
                a_call(a, jit->chain ? jit->thunks.callout_end : jit->thunks.callout);
                a_u64(a, (uint64_t)(uintptr_t)c->callout);
                break;
            }
            a_call(a, jit->thunks.callout);
            a_u64(a, (uint64_t)(uintptr_t)c->callout);
            if (t->fpu) {
                emit_fpu_check(t);
            }
            a_jmp(a, c->retry);
            break;
        case COLD_INDIRECT:
            a_bind(a, c->site);
            a_mov_mem_imm32(a, AREA(exit_info), (uint32_t)c->target);
            a_jmp(a, jit->thunks.indirect);
            break;
        case COLD_REG_ENTRY:
            /* The flags are in RFLAGS, and the way in wants them in cpu->cc. */
            t->b->reg_poll_entry = jit_rx(jit, a->p);
            emit_flags_save(a);
            a_jmp(a, jit_rw(jit, t->b->mem_poll_entry));
            if (!t->b->reg_entry) {
                t->b->reg_entry = jit_rx(jit, a->p);
                emit_flags_save(a);
                a_jmp(a, jit_rw(jit, t->b->mem_entry));
            }
            break;
        }
    }
}

/* Where a round of a loop goes on outside the fast loop. */
static uint8_t *loop_way_on(T *t, unsigned offset)
{
    Asm *a = &t->a;
    if (!t->jit->lockstep) {
        return jit_rw(t->jit, t->b->mem_poll_entry);
    }
    uint8_t *way = a->p;
    a_mov_load(a, T0, AREA(page_va));
    a_lea(a, T0, mem_base(T0, offset));
    a_jmp(a, t->jit->thunks.ibtc_miss);
    return way;
}

JitBlock *jit_translate(Jit *jit, X86Cpu *cpu, const uint8_t *page, unsigned offset, const uint8_t *second,
                        uint32_t key, bool check, bool *full)
{
    static GPrivate scratch = G_PRIVATE_INIT(g_free); /* goes with its thread */
    JitRegion *region = &jit->regions[jit->current];
    T *t = g_private_get(&scratch);

    *full = false;
    if (!t) {
        t = g_new(T, 1);
        g_private_set(&scratch, t);
    }
    memset(t, 0, offsetof(T, insns));
    t->count = t->group_count = t->slots = t->cold_count = t->pc_count = 0;
    t->f = (FlagState){ 0 };
    t->t1_group = -1;
    t->fpu = t->straddles = false;
    t->check = check;
    t->too_many = false;
    t->undefined_out = 0;
    t->fast = NULL;
    for (int g = 0; g < 16; g++) {
        t->host[g] = (int8_t)(g == R_RSP ? GSP : g >= 12 ? -1 : g);
    }
    t->jit = jit;
    t->cpu = cpu;
    t->key = key;
    t->careful = (key & KEY_CAREFUL) || !jit->elide || g_hash_table_contains(jit->split, page + offset);
    t->live_out = FLAGS_ALL;
    t->a = (Asm){ .p = region->used, .end = region->end };
    decode(t, page, offset, second);
    if (t->count == 0) {
        return NULL;
    }
    liveness(t);
    analyse(t);
    JitBlock *b = t->b = jit_alloc(jit, sizeof(JitBlock), false);
    b->page = page;
    b->second = second;
    b->checks_itself = check;
    b->key = key;
    b->offset = (uint16_t)offset;
    b->length = (uint16_t)((unsigned)t->next - offset);
    b->count = (uint16_t)t->count;
    uint8_t *changed = t->a.p;
    if (check) {
        a_mov_mem_imm32(&t->a, AREA(exit_info), 0);
        a_mov_imm64(&t->a, T1, (uint64_t)(uintptr_t)b);
        a_mov_load(&t->a, T0, AREA(page_va));
        a_lea(&t->a, T0, mem_base(T0, offset));
        a_jmp(&t->a, jit->thunks.changed);
    }
    emit_entries(t, offset);
    if (check) {
        emit_check(t, page, second, changed);
    }
    for (unsigned k = 0; k < t->count && !t->a.overflow; k++) {
        block_emit_insn(t, k);
    }
    const TInsn *last = &t->insns[t->count - 1];
    JitFast fast;
    if (!t->a.overflow && loop_plan(t, offset, &fast)) {
        uint8_t *back = loop_emit(t, &fast, loop_way_on(t, offset));
        for (unsigned k = 0; k < t->cold_count; k++) {
            if (t->cold[k].type == COLD_TAKEN && t->cold[k].target == (int32_t)offset && !t->a.overflow) {
                a_bind_to(t->cold[k].site, back);
                t->cold[k].type = COLD_DONE;
            }
        }
    }
    if (!jit_ends_block(last->kind) &&
        !(last->kind == JIT_CALLOUT && (last->insn.form->attrs & X86_ATTR_END))) {
        block_emit_exit(t, t->next);
    }
    emit_cold(t);
    if (t->a.overflow) {
        if (t->too_many && t->count > 1) {
            unsigned limit = jit->max_insns;
            jit->max_insns = t->count / 2;
            b = jit_translate(jit, cpu, page, offset, second, key, check, full);
            jit->max_insns = limit;
            return b;
        }
        *full = true;
        return NULL;
    }
    b->code_size = (uint32_t)(t->a.p - b->code);
    b->pcs = jit_alloc(jit, t->pc_count * sizeof(JitPc), false);
    memcpy(b->pcs, t->pcs, t->pc_count * sizeof(JitPc));
    b->pc_count = t->pc_count;
    b->undefined = t->undefined_out;
    region->used = t->a.p;
    jit->code_bytes += b->code_size;
    jit->translated++;
    jit->insns += t->count;
    return b;
}

bool jit_emit_far_link(Jit *jit, JitLink *link)
{
    JitRegion *region = &jit->regions[jit->current];
    Asm a = { .p = region->used, .end = region->end };
    T t = { .a = a, .jit = jit };

    a_align(&t.a, 16);
    uint8_t *start = t.a.p;
    emit_far(&t, link->target, (FlagState){ link->in_reg, link->in_mem }, FLAGS_ALL);
    if (t.a.overflow) {
        return false;
    }
    region->used = t.a.p;
    link->stub = start;
    return true;
}
