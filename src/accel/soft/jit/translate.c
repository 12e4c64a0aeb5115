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
#include "base/log.h"

#include <stdlib.h>

/* How far before a block the start of a loop may lie that the block ends. */
#define TIGHT_LOOP 256

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
    jit_emit_ibtc(a);
    a_op_mem(a, true, 0x39, T0, jit_ibtc_va());
    return a_jcc_forward(a, CC_NE);
}

static void emit_ibtc_jump(T *t)
{
    a_op_mem(&t->a, false, 0xff, 4, jit_ibtc_code());
}

/* An indirect branch whose target is in T0. Nothing of its effects is done on a miss: C does it then. */
static uint8_t *emit_indirect_probe(T *t, const TInsn *i, JitIndirect kind, unsigned extra)
{
    uint8_t *site = emit_ibtc_probe(t);
    Cold *c = block_add_cold(t);
    c->type = COLD_INDIRECT;
    c->site = site;
    c->target = (int32_t)(i->offset | (unsigned)kind << 12 | extra << 14);
    c->rsp = t->rsp;
    return site;
}

/* A rel32 that is written while others run it must not lie across a fetch block. prefix: opcode bytes before
 * it. */
static void align_site(Asm *a, unsigned prefix)
{
    unsigned at = (unsigned)((uintptr_t)a->p + prefix) & 15;
    static const char *const nops[] = { "\x90", "\x66\x90", "\x0f\x1f\x00" };
    if (at > 12) {
        a_bytes(a, nops[15 - at], 16 - at);
    }
}

static bool is_near(const T *t, int32_t target)
{
    return target >= 0 && target < 4096 && t->jit->chain && !(t->straddles && target == t->next);
}

/* A jump to a direct target in another page, which is looked up when it is followed first in an address
 * space: see JitFar. RFLAGS stay. false: by emit_lookup. */
static bool emit_far_jump(T *t, int32_t target, bool in_reg)
{
    Asm *a = &t->a;
    Jit *jit = t->jit;
    unsigned number = jit->regions[jit->current].fars + t->fars;

    if (t->no_far || number >= JIT_FARS_REGION) {
        return false;
    }
    number += jit->current * JIT_FARS_REGION;
    t->fars++;
    __atomic_store_n(&jit->fars[number].epoch, 0, __ATOMIC_SEQ_CST);
    jit->fars[number].from = t->b;
    jit->fars[number].target = target;
    jit->fars[number].in_reg = in_reg;
    if (target & ~4095) {
        a_mov_load(a, T0, HOT(page_va));
        a_lea(a, T0, mem_base(T0, target & ~4095));
        a_mov_store(a, HOT(page_va), T0);
    }
    a_mov_imm32(a, T1, JIT_FAR_INFO(number));
    a_mov_load(a, T0, HOT(far));
    a_op_mem(a, false, 0xff, 4, mem_base(T0, (int64_t)number * 8));
    return true;
}

/* Leaves for a target that is looked up each time. */
static void emit_lookup(T *t, int32_t target, FlagState f, unsigned live)
{
    Asm *a = &t->a;
    if (live && f.in_reg && !f.in_mem) {
        block_flags_save(a);
    }
    a_mov_load(a, T0, HOT(page_va));
    a_lea(a, T0, mem_base(T0, target));
    uint8_t *miss = emit_ibtc_probe(t);
    emit_ibtc_jump(t);
    if (!a->overflow) {
        a_bind_to(miss, t->jit->chain ? t->jit->thunks.ibtc_miss : t->jit->thunks.stale);
    }
}

static void emit_far(T *t, int32_t target, FlagState f, unsigned live)
{
    if (!emit_far_jump(t, target, live && f.in_reg && !f.in_mem)) {
        emit_lookup(t, target, f, live);
    }
}

static void emit_link_stub(T *t, JitLink *link)
{
    Asm *a = &t->a;
    link->stub = a->p;
    if (link->in_reg && !link->in_mem) {
        block_flags_save(a);
    }
    a_call(a, t->jit->thunks.link);
    a_u64(a, (uint64_t)(uintptr_t)link);
    if (!a->overflow) {
        a_bind_to(link->site, link->stub);
    }
}

/* A jump to a direct target in the page, which is looked up when it is followed first. */
static void emit_link_jump(T *t, int32_t target, FlagState f)
{
    JitLink *link = new_link(t, target, f, false);
    align_site(&t->a, 1);
    link->site = a_jmp_forward(&t->a);
    Cold *c = block_add_cold(t);
    c->type = COLD_LINK;
    c->link = link;
}

/* Leaves the block for a direct target. */
void block_emit_exit(T *t, int32_t target)
{

    if (!is_near(t, target)) {
        emit_far(t, target, t->f, t->live_out);
        return;
    }
    emit_link_jump(t, target, t->f);
}

/* Jcc, LOOP: the taken way goes through a stub behind the block. */
static void emit_taken(T *t, uint8_t *site, int32_t target)
{
    Cold *c = block_add_cold(t);
    c->type = COLD_TAKEN;
    c->site = site;
    c->target = target;
    c->flags = t->f;
    c->fast = t->fast;
}

/* A branch in the middle of the block. */
static void emit_side_exit(T *t, const TInsn *i)
{
    Asm *a = &t->a;
    align_site(a, 2);
    a_byte(a, 0x0f);
    a_byte(a, 0x80 | (i->insn.form->opcode & 15));
    a_u32(a, 0);
    emit_taken(t, a->p - 4, i->offset + i->insn.length + (int32_t)i->insn.imm);
}

static void emit_step(T *t, unsigned offset)
{
    Asm *a = &t->a;
    a_mov_load(a, T0, HOT(page_va));
    a_lea(a, T0, mem_base(T0, offset));
    a_jmp(a, t->jit->thunks.step);
}

/* ---- instructions ---- */

static void swap_reg_and_rm(JitOperands *o)
{
    JitOperands was = *o;
    o->reg = was.rm;
    o->rm = was.reg;
    o->reg_gpr = was.rm_gpr;
    o->rm_gpr = was.reg_gpr;
    for (unsigned k = 0; k < 2; k++) {
        o->byte[k] = was.byte[1 - k];
        o->reads[k] = was.reads[1 - k];
        o->writes[k] = was.writes[1 - k];
    }
}

/* Register operands that live in memory are used there, where the instruction can. *insn and *o become those
 * of the instruction with a memory operand. What writes less than eight bytes of a register is not done so:
 * four bytes clear the others, and fewer would hold up whoever reads all eight. */
static bool use_in_memory(const T *t, X86Insn *insn, JitOperands *o)
{
    unsigned map = insn->form->map;
    uint8_t *opcode = &insn->bytes[insn->opcode_offset];

    if (!jit_takes_memory(insn) || o->high_byte || !o->rm_gpr) {
        return false;
    }
    bool reg_spilled = o->reg_gpr && is_spilled(t, (unsigned)o->reg);
    bool rm_spilled = is_spilled(t, (unsigned)o->rm);
    if (reg_spilled && !rm_spilled && map == 0 && insn->form->space == X86_SPACE_LEGACY) {
        if (*opcode < 0x40 || (*opcode >= 0x88 && *opcode <= 0x8b)) {
            if (o->writes[0] && (o->byte[0] || insn->operand_size != 8)) {
                return false;
            }
            *opcode ^= 2; /* the direction */
        } else if ((*opcode & ~1u) != 0x84) {
            return false;
        }
        swap_reg_and_rm(o);
        return true;
    }
    return rm_spilled && !(o->writes[1] && (o->byte[1] || insn->operand_size != 8));
}

/* XOR or SUB of a register with itself. */
static bool is_zero_idiom(const X86Insn *insn)
{
    unsigned opcode = insn->bytes[insn->opcode_offset];
    return insn->form->space == X86_SPACE_LEGACY && insn->form->map == 0 && insn->reg == insn->rm &&
           insn->operand_size >= 4 && (opcode == 0x29 || opcode == 0x2b || opcode == 0x31 || opcode == 0x33);
}

static void emit_copy(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;
    JitOperands o = i->operands;
    HostMem m = { .base = -1, .index = -1 };
    unsigned reads, writes, touched = (insn->form->flags_written | insn->form->flags_undefined) & FLAGS_ALL;

    block_flags_of(i, &reads, &writes);
    X86Insn other;
    bool in_memory = false;
    if (insn->is_memory) {
        if (t->window && (reads | (touched ? i->live_after & ~writes : 0))) {
            block_flags_want(t); /* wherever the instruction faults from here on, they are where JitPc says */
        }
        m = block_checked_operand(t, i);
    } else if (o.spilled) {
        other = *insn;
        in_memory = use_in_memory(t, &other, &o);
        if (in_memory) {
            m = REG(o.rm);
            insn = &other;
        } else if (is_zero_idiom(insn)) {
            o.reads[0] = o.reads[1] = false;
        }
    }
    /* Guest registers that live in memory get a scratch register each. */
    int scratch[2] = { T0, T1 }, guest[2] = { -1, -1 };
    unsigned used = 0, first_free = 0;
    unsigned spilled = 0;
    for (unsigned k = 0; k < 3; k++) {
        int number = k == 0 ? o.reg : k == 1 ? o.rm : o.vvvv;
        bool gpr = k == 0 ? o.reg_gpr : k == 1 ? o.rm_gpr && !in_memory : o.vvvv_gpr;
        bool high = o.byte[k] && o.legacy_byte && number >= 4;
        spilled += gpr && !high && is_spilled(t, (unsigned)number);
    }
    if (spilled) {
        if (insn->is_memory) {
            if (mem_uses(&m, T0) && mem_uses(&m, T1)) {
                block_t1_release(t);
                a_lea(a, T0, m);
                m = mem_base(T0, 0);
            }
            if (mem_uses(&m, T0)) {
                first_free = 1;
                block_t1_release(t);
            } else if (insn->form->mnemonic == X86_MULX) {
                block_t1_release(t); /* both may be outputs, which are written behind the access */
            }
        } else if (spilled > 1) {
            block_t1_release(t);
        }
    }
    if (insn->is_memory && o.high_byte) {
        a_lea(a, T0, m);
        m = mem_base(T0, 0);
    }
    int *roles[3] = { &o.reg, &o.rm, &o.vvvv };
    bool is_gpr[3] = { o.reg_gpr, o.rm_gpr && !in_memory, o.vvvv_gpr };
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
        unsigned to = (unsigned)scratch[(s + first_free) & 1];
        if (reads_gpr[s] && !(to == T0 && t->t0_at == a->p && t->t0_guest == guest[s])) {
            a_mov_load(a, to, REG(guest[s]));
        }
    }
    /* Flags that the instruction reads or leaves alone must be there. */
    if ((reads | (touched ? i->live_after & ~writes : 0)) && !t->f.in_reg) {
        block_flags_want(t);
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
        jit_emit(a, insn, &o, insn->is_memory || in_memory ? &m : NULL);
    }
    for (unsigned s = 0; s < used; s++) {
        if (writes_gpr[s]) {
            a_mov_store(a, REG(guest[s]), (unsigned)scratch[(s + first_free) & 1]);
            if (used == 1 && !first_free) {
                t->t0_at = a->p;
                t->t0_guest = guest[s];
            }
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
        HostMem m = block_checked_operand(t, i);
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

    if (t->window) {
        return;
    }
    if (!checked) {
        a_mov_store(&t->a, AREA(tmp[2]), T0);
    }
    block_stack_check(t, i, &i->stack, mem_base(GSP, -8));
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
        a_mov_store(a, block_stack_operand(t, i), T0);
        block_stack_move(t, -8);
        return;
    }
    block_stack_check(t, i, &i->stack, mem_base(GSP, -8));
    HostMem top = block_stack_operand(t, i);
    if (insn->imm_size) {
        a_op_mem(a, true, 0xc7, 0, top);
        a_u32(a, (uint32_t)insn->imm);
    } else if (!is_spilled(t, insn->rm)) {
        a_mov_store(a, top, (unsigned)host_reg(t, insn->rm));
    } else {
        load_t0(t, i);
        a_mov_store(a, top, T0);
    }
    block_stack_move(t, -8);
}

static void emit_pop(T *t, TInsn *i)
{
    Asm *a = &t->a;

    block_stack_check(t, i, &i->stack, mem_base(GSP, 0));
    if (is_spilled(t, i->insn.rm)) {
        a_mov_load(a, T0, block_stack_operand(t, i));
        a_mov_store(a, REG(i->insn.rm), T0);
    } else {
        a_mov_load(a, (unsigned)host_reg(t, i->insn.rm), block_stack_operand(t, i));
        if (i->insn.rm == R_RSP) {
            t->rsp = 0;
            return;
        }
    }
    block_stack_move(t, 8);
}

static void emit_lea(T *t, TInsn *i)
{
    Asm *a = &t->a;
    const X86Insn *insn = &i->insn;
    unsigned size = insn->operand_size;
    HostMem m;

    if (insn->address_size == 4) {
        m = block_guest_address(t, i, false); /* leaves T0 */
    } else {
        m = block_guest_address(t, i, false);
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
    if (insn->reg == R_RSP) {
        t->rsp = 0;
    }
    if (spilled) {
        a_mov_store(a, REG(insn->reg), T0);
    }
}

/* The guest's rsp is to be what it says. RFLAGS stay. */
static void flush_rsp(T *t)
{
    if (t->rsp) {
        a_lea(&t->a, GSP, mem_base(GSP, t->rsp));
        t->rsp = 0;
    }
}

static void emit_return_address(T *t, TInsn *i, unsigned scratch)
{
    Asm *a = &t->a;
    a_mov_load(a, scratch, HOT(page_va));
    a_lea(a, scratch, mem_base((int)scratch, i->offset + i->insn.length));
    a_mov_store(a, block_stack_operand(t, i), scratch);
    block_stack_move(t, -8);
    flush_rsp(t);
}

/* Before an instruction that needs RFLAGS for itself and may fault afterwards. */
static void release_flags_for(T *t, unsigned live)
{
    block_flags_release(t, live);
    t->pcs[t->pc_count - 1].in_reg = false;
}

/* Whether an instruction may come where the guest's rsp is yet to be moved (T.rsp). */
static bool leaves_rsp(const TInsn *i)
{
    const X86Insn *insn = &i->insn;
    const JitOperands *o = &i->operands;

    switch (i->kind) {
    case JIT_NOP:
    case JIT_LEA:
    case JIT_POP:
    case JIT_LEAVE:
    case JIT_CALL:
    case JIT_RET:
        return true;
    case JIT_PUSH:
        return insn->is_memory || insn->imm_size || insn->rm != R_RSP;
    case JIT_CALL_IND:
        return insn->is_memory || insn->rm != R_RSP;
    case JIT_COPY:
        return !(o->reg_gpr && o->reg == R_RSP) && !(o->rm_gpr && o->rm == R_RSP) &&
               !(o->vvvv_gpr && o->vvvv == R_RSP);
    default:
        return false;
    }
}

/* Whether the block accesses the stack behind this instruction, whatever its branches do. */
static bool touches_stack_behind(const T *t, unsigned k)
{
    for (k++; k < t->count && t->insns[k].kind != JIT_JCC; k++) {
        const TInsn *i = &t->insns[k];
        if (i->stack.group >= 0 || (i->memory.group >= 0 && t->groups[i->memory.group].stack)) {
            return true;
        }
        if (i->kind != JIT_COPY && i->kind != JIT_LEA && i->kind != JIT_NOP) {
            return false;
        }
    }
    return false;
}

#define MAX_ABSORBED 8192
#define MAX_MOVE     65536 /* of the stack pointer, in one instruction */

/* Whether SD has to be looked up behind the instruction, since rsp may be in another window. What pushes and
 * pops touches each page on its way, so that it cannot get past what surrounds a window; and so do constant
 * moves in blocks that access the stack whenever they are run. */
static bool moves_stack(const T *t, unsigned k)
{
    const TInsn *i = &t->insns[k];
    int32_t amount;

    switch (i->kind) {
    case JIT_COPY:
    case JIT_LEA:
        if (!(jit_written_gprs(&i->insn, i->kind, &i->operands) >> R_RSP & 1)) {
            return false;
        }
        return i->varies || jit_constant_move(&i->insn, i->kind, &amount) != R_RSP || amount > MAX_MOVE ||
               amount < -MAX_MOVE || !(t->touched || touches_stack_behind(t, k));
    case JIT_POP:
        return i->insn.rm == R_RSP;
    default:
        return i->kind == JIT_LEAVE;
    }
}

/* Whether ADD or SUB of rsp is done with the pushes and pops around it. */
static bool is_absorbed(const T *t, unsigned k)
{
    const TInsn *i = &t->insns[k];
    int32_t amount;
    return t->window && i->kind == JIT_COPY && !i->varies && !i->live_after &&
           jit_constant_move(&i->insn, i->kind, &amount) == R_RSP && amount <= MAX_ABSORBED &&
           amount >= -MAX_ABSORBED && t->rsp <= MAX_ABSORBED && t->rsp >= -MAX_ABSORBED && !moves_stack(t, k);
}

void block_emit_insn(T *t, unsigned k)
{
    TInsn *i = &t->insns[k];
    const X86Insn *insn = &i->insn;
    Asm *a = &t->a;
    int32_t next = i->offset + insn->length;

    bool absorbed = is_absorbed(t, k);
    if (!absorbed && !leaves_rsp(i)) {
        flush_rsp(t);
    }
    size_t host = (size_t)(a->p - t->b->code);
    if (host > UINT16_MAX) {
        a->overflow = t->too_many = true;
    }
    if (t->jit->lockstep) {
        t->pc_flags[t->pc_count] = (JitPcFlags){ .live = i->live_before, .undefined = i->undefined_before };
    }
    t->pcs[t->pc_count++] = (JitPc){ .host = (uint16_t)host,
                                     .offset = i->offset,
                                     .in_reg = t->f.in_reg,
                                     .fast = t->fast != NULL,
                                     .rsp = t->rsp };
    switch (i->kind) {
    case JIT_NOP:
        break;
    case JIT_COPY:
        if (absorbed) {
            int32_t amount;
            jit_constant_move(insn, i->kind, &amount);
            t->rsp = (int16_t)(t->rsp + amount);
            t->f = (FlagState){ 0 };
            if (t->known) {
                block_follow(t, i);
            }
            return;
        }
        if (i->varies) {
            block_emit_varying(t, i, t->b->page);
        } else {
            emit_copy(t, i);
        }
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
        if (t->window) {
            block_t1_release(t);
            block_window_delta(t, H_RBP, T1, T1);
            a_mov_load(a, T0, mem_index(H_RBP, T1, 0, 0));
            a_lea(a, GSP, mem_base(H_RBP, 8));
            a_mov_reg(a, H_RBP, T0);
            t->rsp = 0;
            break;
        }
        block_stack_check(t, i, &i->memory, mem_base(H_RBP, 0));
        a_mov_load(a, T0, mem_index(H_RBP, SD, 0, 0));
        a_lea(a, GSP, mem_base(H_RBP, 8));
        a_mov_reg(a, H_RBP, T0);
        break;
    case JIT_CALL:
        block_stack_check(t, i, &i->stack, mem_base(GSP, -8));
        if (!t->window) {
            release_flags_for(t, i->live_after);
        }
        emit_return_address(t, i, T0);
        block_emit_exit(t, next + (int32_t)insn->imm);
        break;
    case JIT_CALL_IND:
        release_flags_for(t, t->live_out);
        load_t0(t, i);
        stack_check_keeping_t0(t, i);
        emit_indirect_probe(t, i, JIT_INDIRECT_CALL, insn->length);
        if (t->jit->chain) {
            a_mov_load(a, T1, jit_ibtc_code());
            a_mov_store(a, AREA(target), T1);
            emit_return_address(t, i, T1);
            a_op_mem(a, false, 0xff, 4, AREA(target));
        }
        break;
    case JIT_RET:
        release_flags_for(t, t->live_out);
        block_stack_check(t, i, &i->stack, mem_base(GSP, 0));
        a_mov_load(a, T0, block_stack_operand(t, i));
        emit_indirect_probe(t, i, JIT_INDIRECT_RET, (unsigned)insn->imm);
        a_lea(a, GSP, mem_base(GSP, 8 + (int64_t)insn->imm + t->rsp));
        t->rsp = 0;
        emit_ibtc_jump(t);
        break;
    case JIT_JMP:
        block_emit_exit(t, next + (int32_t)insn->imm);
        break;
    case JIT_JMP_IND:
        release_flags_for(t, t->live_out);
        load_t0(t, i);
        emit_indirect_probe(t, i, JIT_INDIRECT_JMP, 0);
        emit_ibtc_jump(t);
        break;
    case JIT_JCC:
        block_flags_want(t);
        if (k + 1 < t->count) {
            emit_side_exit(t, i);
            break;
        }
        if (t->fast && t->fast->copies > 0) {
            align_site(a, 2);
            a_byte(a, 0x0f);
            a_byte(a, 0x80 | ((insn->form->opcode & 15) ^ 1));
            a_u32(a, 0);
            emit_taken(t, a->p - 4, next);
            break;
        }
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
        block_flags_want(t);
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
        block_emit_callout(t, i);
        if (!(insn->form->attrs & X86_ATTR_END) && t->fpu) {
            for (unsigned n = k + 1; n < t->count; n++) {
                if (t->insns[n].fpu) {
                    block_emit_fpu_check(t);
                    break;
                }
            }
        }
        break;
    case JIT_STRING:
        block_emit_string(t, i);
        break;
    case JIT_SYSTEM:
        block_emit_system(t, i);
        break;
    case JIT_STEP:
        block_flags_release(t, FLAGS_ALL);
        emit_step(t, i->offset);
        break;
    }
    if (t->window && moves_stack(t, k)) {
        block_window_delta(t, GSP, T0, SD);
        block_forget_near(t);
    }
    if (t->known) {
        block_follow(t, i);
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
        if (i->kind == JIT_CALLOUT || i->kind == JIT_STEP || i->kind == JIT_STRING || i->kind == JIT_SYSTEM) {
            return false;
        }
        if (!t->window &&
            (i->stack.group >= 0 || (i->insn.is_memory && i->kind != JIT_LEA && i->kind != JIT_NOP) ||
             i->kind == JIT_LEAVE)) {
            return false;
        }
        block_flags_of(i, &reads, &writes);
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
    a_op_reg(a, true, 0x81, 4, T0); /* and T0, -4096: seven bytes, see patch_entry in cache.c */
    a_u32(a, 0xfffff000);
    a_mov_store(a, HOT(page_va), T0);
    b->mem_poll_entry = jit_rx(jit, a->p); /* five bytes up to an address that is a multiple of 16 */
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
        block_flags_load(a);
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

/* Counts the entry; leaves RFLAGS alone. */
static void emit_count(T *t)
{
    Asm *a = &t->a;
    a_mov_imm64(a, T1, (uint64_t)(uintptr_t)&t->b->runs);
    a_mov_load(a, T0, mem_base(T1, 0));
    a_lea(a, T0, mem_base(T0, 1));
    a_mov_store(a, mem_base(T1, 0), T0);
}

/* Compares the guest's code with what it is now. RFLAGS are free, and T0 and T1. */
static bool varies_at(const T *t, unsigned at)
{
    return t->varying && (t->varies[at / 64] >> (at % 64) & 1);
}

static void emit_check(T *t, const uint8_t *page, const uint8_t *second, const uint8_t *changed)
{
    Asm *a = &t->a;
    unsigned offset = t->b->offset, left = t->b->length;
    const uint8_t *code = page + offset, *expected = t->snapshot;

    while (left) {
        unsigned part = second && offset + left > 4096 ? 4096 - offset : left;
        a_mov_imm64(a, T0, (uint64_t)(uintptr_t)code);
        for (unsigned k = 0; k < part;) {
            if (varies_at(t, k)) { /* which a block in two pages has not */
                k++;
                continue;
            }
            unsigned size = 1;
            if (part - k >= 4 && !varies_at(t, k + 1) && !varies_at(t, k + 2) && !varies_at(t, k + 3)) {
                size = 4;
            }
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

/* Whether an out-of-line part is run often. */
static bool is_warm(const T *t, const Cold *c)
{
    switch (c->type) {
    case COLD_TAKEN:
        return !is_near(t, c->target);
    case COLD_LOOP_OUT:
    case COLD_REG_ENTRY:
        return true;
    default:
        return false;
    }
}

/* Leaves for the block's careful variant, from the instruction at the page offset on: see JitCareful. */
static void emit_careful(T *t, int offset, bool flags_in_mem)
{
    Asm *a = &t->a;
    JitCareful way = (JitCareful)((unsigned)offset | (flags_in_mem ? JIT_CAREFUL_IN_MEM : 0));

    align_site(a, 1);
    a_jmp(a, a->p + 5);
    a_call(a, t->jit->thunks.careful);
    a_bytes(a, &way, sizeof(way));
}

static void emit_cold(T *t, bool warm)
{
    Asm *a = &t->a;
    Jit *jit = t->jit;

    for (unsigned k = 0; k < t->cold_count; k++) {
        Cold *c = &t->cold[k];
        if (a->overflow) {
            return;
        }
        if (is_warm(t, c) != warm) {
            continue;
        }
        switch (c->type) {
        case COLD_DONE:
            break;
        case COLD_LINK:
            emit_link_stub(t, c->link);
            break;
        case COLD_FAR_WINDOW:
            a_bind(a, c->site);
            if (c->rsp) {
                a_lea(a, GSP, mem_base(GSP, c->rsp));
            }
            a_mov_imm64(a, T1, (uint64_t)(uintptr_t)t->b);
            a_op_mem(a, false, 0x83, 5, mem_base(T1, offsetof(JitBlock, far_windows)));
            a_byte(a, 1);
            uint8_t *too_many = a_jcc_forward(a, CC_S);
            emit_careful(t, c->target, c->flags.in_mem);
            a_bind(a, too_many);
            a_mov_load(a, T0, HOT(page_va));
            a_lea(a, T0, mem_base(T0, c->target));
            a_jmp(a, jit->thunks.far_windows);
            break;
        case COLD_PROBE:
            a_bind(a, c->site);
            if (c->thunk) {
                if (c->m.base != T0 || c->m.index >= 0 || c->m.disp) {
                    a_lea(a, T0, c->m);
                }
            } else if (c->add_tag) {
                a_op_mem(a, true, 0x03, T0, mem_base(T1, c->tag));
            } else {
                a_lea(a, T0, c->m);
            }
            if (c->keep_t1) {
                a_mov_store(a, AREA(t1), T1);
            }
            a_call(a, c->thunk ? c->thunk : jit->thunks.refill);
            uint8_t *again = a_jmp_forward(a);
            if (!c->keep_t1 && !a->overflow) {
                a_bind_to(again, c->retry);
            }
            a_bytes(a, &c->meta, sizeof(c->meta));
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
                emit_careful(t, c->meta.offset, c->flags.in_mem);
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
            if (c->fast) {
                /* Out of the fast loop. */
                a_bind(a, c->site);
                loop_restore(t, c->fast, false);
                if (is_near(t, c->target)) {
                    emit_link_jump(t, c->target, c->flags);
                } else {
                    emit_far(t, c->target, c->flags, t->live_out);
                }
            } else if (is_near(t, c->target)) {
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
            t->b->gone = a->p;
            a_mov_load(a, T0, HOT(page_va));
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
                block_emit_fpu_check(t);
            }
            a_jmp(a, c->retry);
            break;
        case COLD_INDIRECT:
            a_bind(a, c->site);
            if (jit->chain) { /* the entry beside it */
                a_alu_imm(a, true, 6, T1, 1);
                a_op_mem(a, true, 0x39, T0, jit_ibtc_va());
                uint8_t *there = a_jcc_forward(a, CC_E);
                if (!a->overflow) {
                    a_bind_to(there, c->site + 4);
                }
            }
            if (c->rsp) {
                a_lea(a, GSP, mem_base(GSP, c->rsp));
            }
            a_mov_mem_imm32(a, AREA(exit_info), (uint32_t)c->target);
            a_jmp(a, jit->thunks.indirect);
            break;
        case COLD_REG_ENTRY:
            /* The flags are in RFLAGS, and the way in wants them in cpu->cc. */
            t->b->reg_poll_entry = jit_rx(jit, a->p);
            block_flags_save(a);
            a_jmp(a, jit_rw(jit, t->b->mem_poll_entry));
            if (!t->b->reg_entry) {
                t->b->reg_entry = jit_rx(jit, a->p);
                block_flags_save(a);
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
    a_mov_load(a, T0, HOT(page_va));
    a_lea(a, T0, mem_base(T0, offset));
    a_jmp(a, t->jit->thunks.stale);
    return way;
}

/* Whether the block ends a round of a small loop, as far as one block shows. Only there a place's own page is
 * looked at before the TLB: a loop waits for the TLB's answer in each round, while elsewhere the pages change
 * so often that the misses cost more. */
static bool in_tight_loop(const T *t, unsigned offset)
{
    const TInsn *last = &t->insns[t->count - 1];
    int64_t target = last->offset + last->insn.length + (int64_t)last->insn.imm;
    return (last->kind == JIT_JCC || last->kind == JIT_JMP || last->kind == JIT_LOOP) &&
           target <= last->offset && target >= (int64_t)offset - TIGHT_LOOP;
}

JitBlock *jit_translate(Jit *jit, X86Cpu *cpu, const JitPage *first_page, unsigned offset,
                        const JitPage *second_page, uint32_t key, bool check, bool *full)
{
    const uint8_t *page = first_page->host, *second = second_page ? second_page->host : NULL;
    static GPrivate scratch = G_PRIVATE_INIT(g_free); /* goes with its thread */
    JitRegion *region = &jit->regions[jit->current];
    T *t = g_private_get(&scratch);
    uint64_t start = __builtin_ia32_rdtsc();

    *full = false;
    if (!t) {
        t = g_new(T, 1);
        g_private_set(&scratch, t);
    }
    memset(t, 0, offsetof(T, insns));
    t->count = t->group_count = t->slots = t->cold_count = t->pc_count = 0;
    t->f = (FlagState){ 0 };
    t->t1_group = -1;
    t->t0_at = NULL;
    t->rsp = 0;
    t->touched = false;
    t->fars = 0;
    t->no_far = !jit->chain || jit->lockstep || first_page->aliased;
    t->fpu = t->straddles = false;
    t->check = check;
    t->too_many = false;
    t->undefined_out = t->undefined_exits = 0;
    t->exits = 0;
    t->fast = NULL;
    for (int g = 0; g < 16; g++) {
        t->host[g] = jit_home[g];
    }
    t->jit = jit;
    t->cpu = cpu;
    t->key = key;
    t->window = key & KEY_WINDOW;
    bool split =
        first_page->has_split && g_hash_table_contains(jit->split, jit_split_key(page + offset, key));
    t->careful = (key & KEY_CAREFUL) || !jit->elide || (!t->window && split);
    t->known = 0;
    t->no_near = !t->window || t->careful || split;
    if (!t->no_near) {
        t->all_near = windows_near(cpu->rip, cpu->regs[R_RSP]) &&
                      windows_all_near(jit_vcpu(cpu)->windows, cpu->regs[R_RSP]);
        memcpy(t->now, cpu->regs, sizeof(t->now));
        t->known = t->all_near ? 0 : 0xffff;
    }
    t->scattered = first_page->has_scattered;
    t->varying = false;
    t->live_out = FLAGS_ALL;
    t->a = (Asm){ .p = region->used, .end = region->end };
    t->cold_asm = (Asm){ .p = region->cold_used, .end = region->cold_end };
    block_decode(t, page, offset, second);
    if (t->count == 0) {
        return NULL;
    }
    if (check && !second && first_page->has_varying) {
        block_find_varying(t, page, offset);
    }
    t->sites = jit->sites && (!jit->chain || in_tight_loop(t, offset));
    block_liveness(t, page);
    block_analyse(t);
    JitBlock *b = t->b = jit_alloc(jit, sizeof(JitBlock), true);
    b->page = page;
    b->second = second;
    b->checks_itself = check;
    b->key = key;
    b->offset = (uint16_t)offset;
    b->length = (uint16_t)((unsigned)t->next - offset);
    b->far_windows = JIT_FAR_WINDOWS;
    b->count = (uint16_t)t->count;
    uint8_t *changed = t->a.p;
    if (check) {
        uint8_t *made_of = jit_alloc(jit, b->length, false);
        memcpy(made_of, t->snapshot, b->length);
        b->made_of = made_of;
        a_mov_mem_imm32(&t->a, AREA(exit_info), 0);
        a_mov_imm64(&t->a, T1, (uint64_t)(uintptr_t)b);
        a_mov_load(&t->a, T0, HOT(page_va));
        a_lea(&t->a, T0, mem_base(T0, offset));
        a_jmp(&t->a, jit->thunks.changed);
    }
    emit_entries(t, offset);
    if (G_UNLIKELY(log_mask & LOG_OUT_ASM)) {
        b->va = cpu->rip;
        emit_count(t);
    }
    if (check) {
        emit_check(t, page, second, changed);
    }
    const TInsn *last = &t->insns[t->count - 1];
    JitFast fast = { 0 };
    bool loop = !t->a.overflow && !t->varying && loop_plan(t, offset, &fast);
    if (fast.plain) {
        loop_emit_plain(t, &fast);
    }
    for (unsigned k = 0; k < t->count && !t->a.overflow && !fast.plain; k++) {
        block_emit_insn(t, k);
    }
    if (!t->a.overflow && loop && !fast.plain) {
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
        flush_rsp(t);
        block_emit_exit(t, t->next);
    }
    t->body_end = (uint32_t)(t->a.p - b->code);
    emit_cold(t, true);
    uint8_t *hot_end = t->a.p;
    t->cold_asm.overflow = t->a.overflow;
    t->a = t->cold_asm;
    emit_cold(t, false);
    if (t->a.overflow) {
        if (t->too_many && t->count > 1) {
            unsigned limit = jit->max_insns;
            jit->max_insns = t->count / 2;
            b = jit_translate(jit, cpu, first_page, offset, second_page, key, check, full);
            jit->max_insns = limit;
            return b;
        }
        *full = true;
        return NULL;
    }
    b->code_size = (uint32_t)(hot_end - b->code);
    b->cold = region->cold_used;
    b->cold_size = (uint32_t)(t->a.p - b->cold);
    b->pcs = jit_alloc(jit, t->pc_count * sizeof(JitPc), false);
    memcpy(b->pcs, t->pcs, t->pc_count * sizeof(JitPc));
    b->pc_count = t->pc_count;
    if (jit->lockstep) {
        b->pc_flags = jit_alloc(jit, t->pc_count * sizeof(JitPcFlags), false);
        memcpy(b->pc_flags, t->pc_flags, t->pc_count * sizeof(JitPcFlags));
    }
    b->undefined = t->undefined_exits;
    region->used = hot_end;
    region->cold_used = t->a.p;
    region->fars += t->fars;
    jit->code_bytes += b->code_size;
    jit->cold_bytes += b->cold_size;
    jit->translated++;
    jit->insns += t->count;
    jit->cycles += __builtin_ia32_rdtsc() - start;
    if (G_UNLIKELY(log_mask & (LOG_IN_ASM | LOG_OUT_ASM))) {
        jit_dump_block(t);
    }
    return b;
}

bool jit_emit_far_link(Jit *jit, JitLink *link)
{
    JitRegion *region = &jit->regions[jit->current];
    Asm a = { .p = region->used, .end = region->end };
    T t = { .a = a, .jit = jit };

    a_align(&t.a, 16);
    uint8_t *start = t.a.p;
    emit_lookup(&t, link->target, (FlagState){ link->in_reg, link->in_mem }, FLAGS_ALL);
    if (t.a.overflow) {
        return false;
    }
    region->used = t.a.p;
    link->stub = start;
    return true;
}
