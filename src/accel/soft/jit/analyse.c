/*
 * What a block is made of: decoding, which flags are needed where, which accesses are checked together.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/block.h"

/* How many instructions are looked at for dead flags where a block goes on. */
#define LOOKAHEAD 12

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

/* Whether the block goes on behind a branch, which becomes a way out in its middle: behind forward ones,
 * which compilers mostly lay out so that what is likely comes next. */
static bool goes_on_behind(const T *t, const TInsn *i)
{
    return i->kind == JIT_JCC && (int64_t)i->insn.imm > 0 && t->jit->superblocks && !t->check &&
           t->exits < MAX_EXITS - 2;
}

/* second: the host address of the next page, where the first instruction goes on there; it is the only one
 * then. */
void block_decode(T *t, const uint8_t *page, unsigned offset, const uint8_t *second)
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
        i->varies = false;
        i->memory.group = i->stack.group = -1;
        i->narrow = false;
        i->kind = status == X86_DECODE_OK ? jit_classify(&i->insn, t->key, &i->operands) : JIT_STEP;
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
        if (goes_on_behind(t, i)) {
            t->exits++;
            t->undefined_exits |= t->undefined_out;
            continue;
        }
        if (jit_ends_block(i->kind) || (i->kind == JIT_CALLOUT && (i->insn.form->attrs & X86_ATTR_END))) {
            break;
        }
    }
    t->next = (int32_t)offset;
    t->undefined_exits |= t->undefined_out;
    /* No interrupt comes between STI and what follows (HLT, often), which the next block's poll would let in.
     */
    TInsn *last = t->count ? &t->insns[t->count - 1] : NULL;
    if (last && last->kind == JIT_SYSTEM && last->insn.form->mnemonic == X86_STI) {
        last->kind = JIT_CALLOUT;
    }
}

void block_flags_of(const TInsn *i, unsigned *reads, unsigned *writes)
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

/* Flags that the code at the page offset may look at before it sets them, as far as some instructions show.
 * Accesses that fault on the way do not matter: the flags that a handler sees are those of code that is
 * never to use them. */
static unsigned live_at(T *t, const uint8_t *page, int64_t offset)
{
    Interp *d = t->cpu->accel_data;
    unsigned dead = 0;

    if (!t->jit->lookahead || t->check) {
        return FLAGS_ALL; /* what is there now may be something else soon */
    }
    for (unsigned n = 0; n < LOOKAHEAD && dead != FLAGS_ALL && offset >= 0 && offset < 4096; n++) {
        TInsn i;
        unsigned reads, writes;
        if (x86_decode(&d->decode_mode, page + offset, 4096 - (size_t)offset, &i.insn) != X86_DECODE_OK) {
            break;
        }
        i.kind = jit_kind_of(&i.insn, t->key); /* what it does to flags its operands do not change */
        offset += i.insn.length;
        if (i.kind == JIT_JMP || i.kind == JIT_CALL) {
            offset += (int64_t)i.insn.imm;
            continue;
        }
        if (jit_ends_block(i.kind)) {
            break;
        }
        block_flags_of(&i, &reads, &writes);
        if (reads & ~dead) {
            break;
        }
        dead |= writes;
    }
    return FLAGS_ALL & ~dead;
}

/* Flags that matter where the block's branches lead. */
static unsigned live_at_exit(T *t, const uint8_t *page, int64_t offset)
{
    unsigned live = live_at(t, page, offset);
    if (t->jit->lockstep && live != FLAGS_ALL && t->pc_count < MAX_EXITS) {
        t->pcs[t->pc_count] = (JitPc){ .offset = (uint16_t)offset & 4095, .exit = true };
        t->pc_flags[t->pc_count++] = (JitPcFlags){ .live = (uint16_t)live, .undefined = t->undefined_exits };
    }
    return live;
}

void block_liveness(T *t, const uint8_t *page)
{
    TInsn *last = &t->insns[t->count - 1];
    int64_t target = t->next + (int64_t)last->insn.imm;
    unsigned live = FLAGS_ALL;

    if (last->kind == JIT_JCC) {
        live = live_at_exit(t, page, t->next) | live_at_exit(t, page, target);
    } else if (last->kind == JIT_JMP || last->kind == JIT_CALL) {
        live = live_at_exit(t, page, target);
    } else if (!jit_ends_block(last->kind) && last->kind != JIT_CALLOUT) {
        live = live_at_exit(t, page, t->next);
    }
    for (unsigned k = t->count; k-- > 0;) {
        TInsn *i = &t->insns[k];
        unsigned reads, writes;
        block_flags_of(i, &reads, &writes);
        if (i->kind == JIT_JCC && i != last) {
            reads |= live_at_exit(t, page, i->offset + i->insn.length + (int64_t)i->insn.imm);
        }
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
            if ((int64_t)max - min <= (t->window ? WINDOW_SPAN : GROUP_SPAN)) {
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
    r->narrow[reg] = false;
}

/* The register that a move copies, and where to; -1: it is none. */
static int copied(const TInsn *i, unsigned *to)
{
    const X86Insn *insn = &i->insn;
    if (i->kind != JIT_COPY || insn->is_memory || insn->operand_size != 8 ||
        insn->form->mnemonic != X86_MOV || insn->form->operand_count != 2) {
        return -1;
    }
    bool to_rm =
        insn->form->operands[0].kind == X86_OPERAND_E && insn->form->operands[1].kind == X86_OPERAND_G;
    if (!to_rm &&
        (insn->form->operands[0].kind != X86_OPERAND_G || insn->form->operands[1].kind != X86_OPERAND_E)) {
        return -1;
    }
    *to = to_rm ? insn->rm : insn->reg;
    return to_rm ? insn->reg : insn->rm;
}

void block_analyse(T *t)
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
            i->narrow = t->window && index != X86_REG_NONE && r.narrow[index];
            if (i->narrow) {
                index = X86_REG_NONE; /* it does not lead out of the base's window */
            } else {
                offset += (int64_t)((uint64_t)(int64_t)r.adjust[index] << insn->scale);
            }
            add_access(t, &r, &i->memory, base, index, i->narrow ? 0 : insn->scale,
                       base == R_RSP && index == X86_REG_NONE, offset);
        }
        /* What the instruction does to registers. */
        int32_t amount = 0;
        int moved = i->varies ? -1 : jit_constant_move(insn, i->kind, &amount);
        uint32_t changed = jit_written_gprs(insn, i->kind, &i->operands) & 0xffff;
        uint32_t narrow = jit_narrow_gprs(insn, i->kind, &i->operands);
        unsigned to;
        int from = copied(i, &to);
        if (from >= 0 && r.narrow[from]) {
            narrow |= 1u << to;
        }
        for (; changed; changed &= changed - 1) {
            unsigned n = (unsigned)__builtin_ctz(changed);
            if ((int)n == moved && r.adjust[n] + (int64_t)amount < 1 << 28 &&
                r.adjust[n] + (int64_t)amount > -(1 << 28)) {
                r.adjust[n] += amount;
            } else {
                reg_changed(&r, n);
            }
            r.narrow[n] |= narrow >> n & 1;
        }
    }
    t->after = r;
}
