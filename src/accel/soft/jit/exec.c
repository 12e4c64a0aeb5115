/*
 * From C into translated code and back: the inner loop, what translated code calls, host faults.
 *
 * A host fault in translated code (SIGFPE of a division or of an unmasked vector exception, SIGSEGV of an
 * operand that is not aligned or not canonical) is an exception of the guest's instruction. The handler makes
 * the guest's state complete and leaves; the interpreter then executes the instruction and raises what there
 * is to raise. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/tcg.h"

#include "accel/soft/interp/native.h"
#include "accel/soft/jit/jit.h"
#include "base/error.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <ucontext.h>
#include <unistd.h>

/* ---- keys and tables ---- */

static uint32_t current_key(X86Cpu *cpu)
{
    const Windows *w = jit_vcpu(cpu)->windows;
    return cpu->mode | (w && cpu->cpl == 3 && windows_on(w) ? KEY_WINDOW : 0);
}

static uint64_t window_delta(X86Cpu *cpu, uint64_t linear)
{
    return jit_hot(cpu)->windows[linear >> WINDOW_SHIFT & (WINDOW_SLOTS - 1)];
}

static bool translatable(const X86Cpu *cpu)
{
    return (cpu->mode & MODE_CS64) && !(cpu->mode & MODE_NOT_TRANSLATED);
}

/* The look-up table of a mode and an address space. */
static unsigned table_for(JitVcpu *v, uint32_t key, unsigned context)
{
    unsigned oldest = 0;
    v->clock++;
    for (unsigned i = 0; i < v->table_count; i++) {
        if (v->tables[i].key == key && v->tables[i].context == context) {
            v->tables[i].used = v->clock;
            return i;
        }
        if (v->tables[i].used < v->tables[oldest].used) {
            oldest = i;
        }
    }
    x86_fpu_leave(v->cpu);
    unsigned i = v->table_count;
    if (i == JIT_TABLES) {
        i = oldest;
        jit_table_clear(v, i);
    } else {
        jit_table_new(v, i);
        v->table_count++;
    }
    v->tables[i].key = key;
    v->tables[i].context = context;
    v->tables[i].used = v->clock;
    return i;
}

/* Supervisor code is in every address space, with mappings that the MMU drops at a switch where they are not
 * global. */
static unsigned key_context(const X86Cpu *cpu)
{
    return cpu->cpl == 3 ? cpu->mmu->context : MMU_CONTEXT_ALL;
}

/* The MMU's word that instruction pages are gone. */
static void code_mapping_changed(X86Cpu *cpu, unsigned context, uint64_t linear, bool one_page)
{
    JitVcpu *v = jit_vcpu(cpu);
    JitArea *area = jit_area(cpu);

    x86_fpu_leave(cpu);
    for (unsigned i = 0; i < v->table_count; i++) {
        unsigned c = v->tables[i].context;
        /* Tables of MMU_CONTEXT_ALL are of supervisors. */
        if (context != MMU_CONTEXT_ALL && c != (context == MMU_CONTEXT_KERNEL ? MMU_CONTEXT_ALL : context)) {
            continue;
        }
        jit_table_clear(v, i);
    }
    area->key = 0;
}

/* The page's code is about to run at an address (of the page). Far jumps from it go to one place in an
 * address space, so that it may be run at no other one. false: it is, and its blocks are stale now. */
static bool page_seen(JitVcpu *v, X86Cpu *cpu, const uint8_t *page, uint64_t va)
{
    unsigned table = jit_area(cpu)->table;
    uint64_t turn = v->tables[table].turn;
    JitSeen *seen = v->tables[table].seen;
    unsigned n = (unsigned)((uintptr_t)page >> 12) % JIT_SEEN;

    for (; (seen[n].va & 4095) == turn; n = (n + 1) % JIT_SEEN) {
        if (((uintptr_t)seen[n].page & ~(uintptr_t)JIT_SEEN_ALIASED) == (uintptr_t)page) {
            if (G_LIKELY((seen[n].va ^ va) < 4096) || ((uintptr_t)seen[n].page & JIT_SEEN_ALIASED)) {
                return true;
            }
            x86_fpu_leave(cpu);
            seen[n].page += JIT_SEEN_ALIASED;
            return !jit_page_aliased(v->jit, page);
        }
    }
    if (++v->tables[table].seen_count > JIT_SEEN_MAX) {
        /* No more is known of those pages: nor may far jumps be from them. */
        x86_fpu_leave(cpu);
        jit_table_far_clear(v, table);
        return page_seen(v, cpu, page, va);
    }
    seen[n] = (JitSeen){ .page = page, .va = va | turn };
    return true;
}

static void table_fill(JitVcpu *v, X86Cpu *cpu, uint64_t rip, const JitBlock *b)
{
    const JitArea *area = jit_area(cpu);
    IbtcTable *table = v->tables[area->table].entries;
    unsigned slot = jit_ibtc_slot(rip), n = v->tables[area->table].fill_count;

    page_seen(v, cpu, b->page, rip & PAGE_MASK_4K);
    if (table->va[slot] != rip) { /* what was there is found there from now on */
        table->va[slot ^ 1] = table->va[slot];
        table->code[slot ^ 1] = table->code[slot];
    }
    table->va[slot] = rip;
    table->code[slot] = b->ibtc_entry;
    if (n < JIT_FILLS) {
        v->tables[area->table].fills[n] = (uint16_t)slot;
    }
    v->tables[area->table].fill_count += n <= JIT_FILLS;
    v->fills++;
}

/* Copies of TLB entries are good until the MMU drops something. */
static void sites_check(X86Cpu *cpu)
{
    JitArea *area = jit_area(cpu);
    if (G_LIKELY(area->drops == cpu->mmu->drops)) {
        return;
    }
    area->drops = cpu->mmu->drops;
    if (area->sites_used) {
        mmu_note_replaced(cpu->mmu); /* what they led to may be in use until the next boundary */
        for (unsigned k = 0; k < 2; k++) {
            for (unsigned n = 0; n < G_N_ELEMENTS(cpu->jit_sites[k]); n++) {
                cpu->jit_sites[k][n].tag = JIT_NO_STACK;
                cpu->jit_sites[k][n].delta = 0;
            }
        }
        area->sites_used = 0;
    }
}

/* Whether a place or a window of this vCPU leads writes there. [any thread] */
static bool may_write(const X86Cpu *cpu, const uint8_t *low, const uint8_t *high)
{
    const JitVcpu *v = jit_vcpu((X86Cpu *)cpu);

    if (v->jit->lockstep || (v->windows && windows_may_write(v->windows, low, high))) {
        return true;
    }
    if (!__atomic_load_n(&jit_area((X86Cpu *)cpu)->sites_used, __ATOMIC_SEQ_CST)) {
        return false;
    }
    for (unsigned k = 0; k < 2; k++) {
        for (unsigned n = 1; n < G_N_ELEMENTS(cpu->jit_sites[k]); n += 2) {
            /* What is between two values is being filled from a TLB entry that was there when the TLB was
             * looked at, or is checked against the dirty bits. */
            uint64_t tag = __atomic_load_n(&cpu->jit_sites[k][n].tag, __ATOMIC_ACQUIRE);
            const uint8_t *host =
                (const uint8_t *)(uintptr_t)(tag +
                                             __atomic_load_n(&cpu->jit_sites[k][n].delta, __ATOMIC_ACQUIRE));
            if (tag != JIT_NO_STACK && host + 4096 > low && host < high) {
                return true;
            }
        }
    }
    return false;
}

static void stack_slot_check(X86Cpu *cpu)
{
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);
    if (area->windowed) {
        hot->stack_delta = window_delta(cpu, cpu->regs[R_RSP]);
        return;
    }
    sites_check(cpu);
    const TlbEntry *e = mmu_entry_now(cpu, hot->stack_lo);
    if (e->tag[MMU_WRITE] != hot->stack_lo || (uint64_t)e->addend != hot->stack_delta) {
        hot->stack_lo = JIT_NO_STACK;
    }
}

void jit_epoch_check(X86Cpu *cpu, JitVcpu *v)
{
    if (G_UNLIKELY(v->epoch_seen != __atomic_load_n(&v->jit->epoch, __ATOMIC_SEQ_CST))) {
        x86_fpu_leave(cpu);
        jit_tables_drop(v);
    }
}

void jit_area_refresh(X86Cpu *cpu, JitVcpu *v)
{
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);
    uint32_t key = current_key(cpu);
    unsigned context = key_context(cpu);

    if ((key & KEY_WINDOW) && !windows_refresh(v->windows)) {
        key &= ~KEY_WINDOW;
    }
    if (area->key != key || area->context != context) {
        if (area->windowed != !!(key & KEY_WINDOW)) {
            area->windowed = key & KEY_WINDOW;
            if (area->windowed) {
                area->kernel_lo = hot->stack_lo;
                area->kernel_delta = hot->stack_delta;
                hot->stack_lo = JIT_NO_STACK;
            } else {
                hot->stack_lo = area->kernel_lo;
                hot->stack_delta = area->kernel_delta;
            }
        }
        area->key = key;
        area->context = context;
        area->table = table_for(v, key, context);
        hot->ibtc = (uint64_t)(uintptr_t)v->tables[area->table].entries >> 3;
        hot->far = v->tables[area->table].far;
    }
    stack_slot_check(cpu);
    if (G_UNLIKELY(cpu->mmu->replaced)) {
        __atomic_store_n(&cpu->mmu->replaced, false, __ATOMIC_SEQ_CST); /* no block holds anything now */
    }
}

/* ---- what translated code calls ---- */

/* Fills the TLB for the page of linear. 0: probe once more. */
int jit_refill(X86Cpu *cpu, uint64_t linear, const JitRefill *meta)
{
    JitVcpu *v = jit_vcpu(cpu);
    JitHot *hot = jit_hot(cpu);
    MmuAccess access = meta->write ? MMU_WRITE : MMU_READ;
    uint64_t page = linear & PAGE_MASK_4K;
    const TlbEntry *e = mmu_entry_now(cpu, linear);

    v->refills++;
    if (linear - page > meta->limit) {
        v->refill_failures++;
        if (!(meta->flags & JIT_REFILL_CAREFUL) && v->refill_failures % JIT_VAIN_STEP == 0) {
            jit_checked_in_vain(v->jit, cpu, meta);
        }
        return 1;
    }
    if (e->tag[access] != page && !mmu_refill(cpu, linear, access)) {
        v->refill_failures++;
        return 1;
    }
    if (meta->flags & JIT_REFILL_STACK) {
        hot->stack_lo = page;
        hot->stack_delta = (uint64_t)e->addend;
    } else {
        stack_slot_check(cpu);
    }
    return 0;
}

/* Executes one instruction by the interpreter's handler. 0: the block goes on behind it. */
int jit_callout(X86Cpu *cpu, JitCallout *callout)
{
    uint64_t rip = jit_hot(cpu)->page_va + callout->offset;

    cpu->rip = rip;
    cpu->current_op = NULL;
    if (G_UNLIKELY(jit_lockstep_callout(cpu))) {
        return 1;
    }
    jit_vcpu(cpu)->callouts[x86_forms[callout->ops[0].form].mnemonic]++;
    if (!callout->light) {
        x86_fpu_leave(cpu);
    }
    interp_run(cpu, callout->ops);
    ((Interp *)cpu->accel_data)->link_slot = NULL;
    cpu->current_op = NULL;
    if (callout->ends || cpu->rip != rip + callout->length || callout->block->stale) {
        return 1;
    }
    stack_slot_check(cpu);
    return 0;
}

static inline bool wants_attention(const X86Cpu *cpu)
{
    return __atomic_load_n(&cpu->interrupt_poll, __ATOMIC_RELAXED) || cpu->halted ||
           cpu->inhibit_interrupts || (cpu->rflags & FLAG_RF);
}

/* The same for one that control goes anywhere from. 0: on through the look-up table of cpu->rip. */
int jit_callout_end(X86Cpu *cpu, JitCallout *callout)
{
    jit_callout(cpu, callout);
    /* The instruction may have made deliverable what was pending. */
    if (__atomic_load_n(&cpu->interrupt_request, __ATOMIC_RELAXED)) {
        jit_vcpu(cpu)->look_at_requests = true;
        return 1;
    }
    if (!translatable(cpu) || wants_attention(cpu)) {
        return 1;
    }
    jit_epoch_check(cpu, jit_vcpu(cpu));
    jit_area_refresh(cpu, jit_vcpu(cpu));
    return 0;
}

/* Whether code that is seldom run may be interpreted without going back to the loop. */
static bool interprets_here(const Jit *jit)
{
    return jit->tier && jit->chain && !jit->stress;
}

/* Interprets what stands at cpu->rip as long as that is known and cold. The code to go on with; NULL: back to
 * the loop. May raise. */
static const uint8_t *run_cold_here(X86Cpu *cpu, JitVcpu *v, Block *b)
{
    Interp *d = cpu->accel_data;
    JitArea *area = jit_area(cpu);

    x86_fpu_leave(cpu);
    interp_run_counted(cpu, b);
    area->exit_reason = JIT_EXIT_LOOKUP;
    if (__atomic_load_n(&cpu->interrupt_request, __ATOMIC_RELAXED)) {
        v->look_at_requests = true;
        return NULL;
    }
    if (!translatable(cpu) || wants_attention(cpu)) {
        return NULL;
    }
    jit_epoch_check(cpu, v);
    jit_area_refresh(cpu, v);
    unsigned slot = jit_ibtc_slot(cpu->rip);
    for (unsigned n = 0; n < 2; n++) {
        const IbtcTable *table = v->tables[area->table].entries;
        if (table->va[slot ^ n] == cpu->rip) {
            d->link_slot = NULL;
            return table->code[slot ^ n];
        }
    }
    const JitBlock *found = d->link_slot ? NULL : jit_find_now(cpu, v->jit, area->key);
    if (!found) {
        return NULL;
    }
    v->lookups++;
    table_fill(v, cpu, cpu->rip, found);
    d->link_slot = NULL;
    return found->ibtc_entry;
}

/* The cold block at cpu->rip; NULL: there is none. */
static Block *cold_block_here(X86Cpu *cpu, const JitVcpu *v)
{
    Block *b = interprets_here(v->jit) ? interp_known_block(cpu) : NULL;
    return b && b->runs < JIT_COLD_RUNS ? b : NULL;
}

/* The code to go on with at cpu->rip; NULL: back to the loop. It is put into the look-up table, unless it was
 * a far jump. *found: the block of that code, where nothing was run meanwhile. May raise. */
static const uint8_t *lookup(X86Cpu *cpu, JitFar *far, const JitBlock **found)
{
    JitVcpu *v = jit_vcpu(cpu);
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);

    area->exit_reason = JIT_EXIT_IBTC;
    if (!v->jit->chain || v->jit->stress || area->key != current_key(cpu) ||
        area->context != key_context(cpu)) {
        return NULL;
    }
    v->lookups++;
    const JitBlock *b = far ? jit_far_now(cpu, v->jit, far, area->key) : NULL;
    if (!b) {
        b = jit_find_now(cpu, v->jit, area->key);
        if (!b) {
            Block *cold = cold_block_here(cpu, v);
            return cold ? run_cold_here(cpu, v, cold) : NULL;
        }
        if (far) {
            jit_far_note(v->jit, far, b);
        }
    }
    if (area->windowed) {
        hot->stack_delta = window_delta(cpu, cpu->regs[R_RSP]);
    }
    if (!far) {
        table_fill(v, cpu, cpu->rip, b);
    }
    *found = b;
    return b->ibtc_entry;
}

const uint8_t *jit_lookup(X86Cpu *cpu)
{
    const JitBlock *found = NULL;
    return lookup(cpu, NULL, &found);
}

/* A far jump that leads nowhere yet. May raise. */
const uint8_t *jit_far(X86Cpu *cpu, uint64_t info)
{
    JitVcpu *v = jit_vcpu(cpu);
    JitHot *hot = jit_hot(cpu);
    unsigned number = (unsigned)(info >> 1) % JIT_FARS;
    JitFar *far = &v->jit->fars[number];
    const JitBlock *found = NULL;

    if (far->in_reg) {
        cpu->cc = jit_area(cpu)->far_cc;
    }
    cpu->rip = hot->page_va + (far->target & 4095);
    uint64_t source = hot->page_va - (uint64_t)(int64_t)(far->target & ~4095);
    const uint8_t *code = lookup(cpu, far, &found);
    if (found && page_seen(v, cpu, found->page, hot->page_va) && page_seen(v, cpu, far->from->page, source)) {
        unsigned table = jit_area(cpu)->table, n = v->tables[table].far_count;
        hot->far[number] = far->in_reg ? found->reg_poll_entry : found->mem_poll_entry;
        if (n < JIT_FILLS) {
            v->tables[table].far_fills[n] = number;
        }
        v->tables[table].far_count += n <= JIT_FILLS;
    }
    return code;
}

/* A far jump that has led to a block that is stale is to look it up the next time. */
static void far_gone(JitVcpu *v, X86Cpu *cpu, uint64_t info)
{
    const uint8_t *unknown = jit_rx(v->jit, v->jit->thunks.far);
    JitHot *hot = jit_hot(cpu);

    if ((info & 1) && info >> 1 < JIT_FARS && hot->far[info >> 1] != unknown) {
        x86_fpu_leave(cpu);
        pthread_mutex_lock(&v->jit->lock);
        const JitBlock *b = jit_block_at(v->jit, hot->far[info >> 1]);
        if (!b || b->stale) {
            hot->far[info >> 1] = unknown;
        }
        pthread_mutex_unlock(&v->jit->lock);
    }
}

/* A link that leads to no code yet: as jit_lookup does, or the loop finds its target. May raise. */
const uint8_t *jit_follow(X86Cpu *cpu, JitLink *link)
{
    JitVcpu *v = jit_vcpu(cpu);
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);

    cpu->rip = hot->page_va + link->target;
    Block *cold = link->careful ? NULL : cold_block_here(cpu, v);
    if (cold) {
        return run_cold_here(cpu, v, cold);
    }
    area->exit_reason = JIT_EXIT_LINK;
    area->exit_arg = link;
    return NULL;
}

/* The same behind an indirect branch that is yet to be done. May raise. */
const uint8_t *jit_lookup_indirect(X86Cpu *cpu)
{
    if (!jit_vcpu(cpu)->jit->chain) {
        jit_area(cpu)->exit_reason = JIT_EXIT_INDIRECT;
        return NULL;
    }
    jit_indirect_branch(cpu);
    return jit_lookup(cpu);
}

/* An indirect branch that found no entry. Raises what it raises. */
void jit_indirect_branch(X86Cpu *cpu)
{
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);
    uint64_t target = (uint64_t)(uintptr_t)area->exit_arg;
    unsigned extra = area->exit_info >> 14;

    cpu->rip = hot->page_va + (area->exit_info & 4095);
    cpu->current_op = NULL;
    if (!x86_is_canonical(target)) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    switch ((JitIndirect)((area->exit_info >> 12) & 3)) {
    case JIT_INDIRECT_CALL:
        x86_st64(cpu, cpu->regs[R_RSP] - 8, cpu->rip + extra);
        cpu->regs[R_RSP] -= 8;
        break;
    case JIT_INDIRECT_RET:
        cpu->regs[R_RSP] += 8 + extra;
        break;
    case JIT_INDIRECT_JMP:
        break;
    }
    cpu->rip = target;
}

/* ---- the loop ---- */

/* Between blocks: what may happen there at any time happens often. Whether b is not to be entered. */
static bool stress(X86Cpu *cpu, JitVcpu *v, const JitBlock *b)
{
    v->random = v->random * 1664525u + 1013904223u;
    unsigned random = v->random >> 8;
    if ((v->jit->stress & JIT_STRESS_POLL) && (random & 1)) {
        __atomic_store_n(&cpu->interrupt_poll, 1, __ATOMIC_SEQ_CST);
    }
    if ((v->jit->stress & JIT_STRESS_FLUSH) && (random >> 1 & 63) == 0) {
        mmu_flush(cpu, false);
        jit_area_refresh(cpu, v);
    }
    if ((v->jit->stress & JIT_STRESS_EVICT) && (random >> 7 & 255) == 0) {
        jit_evict_one(v->jit, cpu, random >> 15);
    }
    return b->stale;
}

static void block_left(X86Cpu *cpu, Jit *jit, const JitArea *area)
{
    x86_fpu_leave(cpu);
    if (area->exit_info) {
        jit_block_scattered(jit, area->exit_arg, area->exit_info - 1);
    } else {
        jit_block_changed(jit, area->exit_arg);
    }
}

/* A place that misses so often within so many cycles (some milliseconds) is scattered. */
#define SITE_BUDGET 20000u
#define SITE_CYCLES (UINT64_C(1) << 24)

static void fill_budgets(X86Cpu *cpu, JitVcpu *v)
{
    uint64_t now = __builtin_ia32_rdtsc();
    if (now - v->budget_tsc > SITE_CYCLES) {
        v->budget_tsc = now;
        for (unsigned k = 0; k < 2; k++) {
            for (unsigned n = 0; n < G_N_ELEMENTS(cpu->jit_budget[k]); n++) {
                cpu->jit_budget[k][n] = SITE_BUDGET;
            }
        }
    }
}

/* ---- code that is not worth translating yet ---- */

/* Code that is decoded anew as often as this, with less than so many cycles (0.4 ms) in between, lies beside
 * what it writes or is patched all the time: translated code can do without the page's protection. */
#define REBUILDS       7
#define REBUILD_CYCLES 20 /* log2 */

static JitPast *past_of(JitVcpu *v, const uint8_t *host)
{
    uint64_t hash = (uint64_t)(uintptr_t)host * UINT64_C(0x9e3779b97f4a7c15);
    JitPast *past = &v->past[hash >> (64 - JIT_PAST_BITS)];
    uint32_t tag = (uint32_t)(hash >> (48 - JIT_PAST_BITS)) & 0xffff;

    if (past->tag != tag) {
        *past = (JitPast){ .tag = tag };
    }
    return past;
}

/* Where so much of the code of late became hot, new code is translated at once: to interpret it first costs
 * as much. One address in PROBES is interpreted nevertheless, so that it is known when that is over. */
#define BET_PERCENT 35u
#define BET_MIN     256u
#define BET_MAX     1024u
#define PROBES      8u
/* Code that was hot at its address has to show it once more, one time in so many. */
#define HOT_AGAIN 4u

static bool is_likely_hot(JitVcpu *v, const JitPast *past)
{
    if (v->tried >= BET_MIN && v->became_hot * 100 >= v->tried * BET_PERCENT && past->tag % PROBES != 0) {
        return true;
    }
    if (++v->tried >= BET_MAX) {
        v->tried /= 2;
        v->became_hot /= 2;
    }
    return false;
}

/* Whether code that is not decoded at present is to be translated at once. */
static bool is_worth_it(JitVcpu *v, const uint8_t *host)
{
    JitPast *past = past_of(v, host);
    uint32_t now = (uint32_t)(__builtin_ia32_rdtsc() >> REBUILD_CYCLES) & 0xfff;

    if (past->hot) {
        past->hot = ++v->hot_again % HOT_AGAIN != 0;
        return true;
    }
    if (((now - past->when) & 0xfff) > 1) {
        past->builds = 0;
    }
    past->when = now & 0xfff;
    if (past->builds == REBUILDS) {
        return true;
    }
    past->builds++;
    return is_likely_hot(v, past);
}

typedef enum ColdEnd { COLD_GO_ON, COLD_LOOK, COLD_WARM } ColdEnd;

/* Interprets the block at cpu->rip and what follows, unless it is WARM: to be translated. LOOK: there is
 * something to look at before what comes next. */
static ColdEnd run_cold(X86Cpu *cpu, JitVcpu *v, const uint8_t *host, Block *b)
{
    if (!b && is_worth_it(v, host)) {
        return COLD_WARM;
    }
    x86_fpu_leave(cpu);
    if (!b) {
        b = interp_new_block(cpu, host);
    }
    if (b->runs >= JIT_COLD_RUNS) {
        past_of(v, host)->hot = 1;
        v->became_hot++;
        return COLD_WARM;
    }
    interp_run_counted(cpu, b);
    return __atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST) ? COLD_LOOK : COLD_GO_ON;
}

static void open_windows_at_once(X86Cpu *cpu, JitVcpu *v)
{
    if (G_UNLIKELY(v->jit->stress & JIT_STRESS_WINDOWS) && v->windows && cpu->cpl == 3) {
        x86_fpu_leave(cpu);
        windows_sample(v->windows, true);
    }
}

static void run_loop(X86Cpu *cpu)
{
    JitVcpu *v = jit_vcpu(cpu);
    Jit *jit = v->jit;
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);
    bool first = true;
    JitLink *link = NULL;
    const JitCareful *way = NULL;    /* to a careful variant */
    bool fill = false, cold = false; /* cold: interpreted code ran just now, or translated code found none */

    v->look_at_requests = false;
    fill_budgets(cpu, v);

    for (;;) {
        if (!translatable(cpu)) {
            x86_fpu_leave(cpu);
            if (first) {
                interp_run_blocks(cpu);
            }
            return;
        }
        /* Not on the way to a careful variant: from its start on, the block would come to the same end. */
        if (!first && !way && !(link && link->careful) && (wants_attention(cpu) || v->look_at_requests)) {
            return;
        }
        first = false;
        open_windows_at_once(cpu, v);
        uint32_t key = current_key(cpu);
        bool careful = way || (link && link->careful) || (v->careful_next && v->careful_rip == cpu->rip);
        v->careful_next = false;
        uint64_t seen = v->epoch_seen;
        jit_epoch_check(cpu, v);
        const uint8_t *host = jit_code_at(cpu);
        JitBlock *b = NULL;
        if (host && !careful && jit->tier) {
            /* Behind a cold block there is often another one. */
            Block *cold_block = cold ? interp_block_at(cpu, host) : NULL;
            if (!cold_block || cold_block->runs >= JIT_COLD_RUNS) {
                b = jit_find_made(cpu, v, key, host);
                cold_block = b || cold ? cold_block : interp_block_at(cpu, host);
            }
            cold = false;
            if (!b) {
                ColdEnd end = run_cold(cpu, v, host, cold_block);
                if (end == COLD_LOOK) {
                    return;
                }
                if (end == COLD_GO_ON) {
                    cold = true;
                    link = NULL;
                    fill = false;
                    continue;
                }
            }
        }
        if (!b && host) {
            b = jit_find(cpu, v, key | (careful ? KEY_CAREFUL : 0));
        }
        if (!b) {
            v->steps++;
            x86_fpu_leave(cpu);
            interp_run_one(cpu);
            return;
        }
        jit_area_refresh(cpu, v);
        if (area->key != key) { /* its windows were closed */
            link = NULL;
            way = NULL;
            fill = false;
            continue;
        }
        if (v->epoch_seen != seen) {
            link = NULL; /* its block's memory may be somebody else's by now */
            way = NULL;
        }
        if (way) {
            link = jit_careful_link(jit, cpu, way, b);
            way = NULL;
        }
        if (link) {
            if (b->second) {
                x86_fpu_leave(cpu); /* what makes the far link is not light */
            }
            pthread_mutex_lock(&jit->lock);
            if (!link->from->stale && b->page == link->from->page && b->offset == link->target) {
                jit_link_to(jit, link, b);
                v->links++;
            }
            pthread_mutex_unlock(&jit->lock);
        }
        if (G_UNLIKELY(!page_seen(v, cpu, b->page, cpu->rip & PAGE_MASK_4K))) {
            link = NULL;
            continue; /* for a block without far jumps */
        }
        if (fill && !careful) {
            table_fill(v, cpu, cpu->rip, b);
        }
        if (G_UNLIKELY(jit->stress) && stress(cpu, v, b)) {
            return;
        }
        if (G_UNLIKELY(jit->lockstep) && (careful || jit_lockstep_due(v))) {
            jit_lockstep_run(cpu, v, b);
            return;
        }
        link = NULL;
        fill = false;
        hot->page_va = cpu->rip & PAGE_MASK_4K;
        ((Interp *)cpu->accel_data)->link_slot = NULL; /* what was interpreted before leads here */
        jit->thunks.enter(cpu, b->mem_entry);
        v->exits[area->exit_reason]++;
        switch ((JitExit)area->exit_reason) {
        case JIT_EXIT_LOOKUP:
            cold = true;
            break;
        case JIT_EXIT_INDIRECT:
            jit_indirect_branch(cpu);
            fill = true;
            break;
        case JIT_EXIT_IBTC:
            fill = cold = true;
            break;
        case JIT_EXIT_LINK:
            link = area->exit_arg;
            break;
        case JIT_EXIT_STEP:
            v->steps++;
            x86_fpu_leave(cpu);
            interp_run_one(cpu);
            return;
        case JIT_EXIT_CAREFUL:
            way = area->exit_arg;
            cpu->rip = hot->page_va + (*way & 4095);
            break;
        case JIT_EXIT_CHANGED:
            block_left(cpu, jit, area);
            break;
        case JIT_EXIT_FAR_WINDOWS:
            jit_far_windows(jit, cpu, area->exit_arg);
            break;
        case JIT_EXIT_POLL:
            far_gone(v, cpu, (uint64_t)(uintptr_t)area->exit_arg);
            jit_review_pages(jit, cpu);
            if (v->windows && cpu->cpl == 3) {
                x86_fpu_leave(cpu);
                windows_sample(v->windows, false);
            }
            return;
        }
    }
}

static void run_translated(X86Cpu *cpu)
{
    JitVcpu *v = jit_vcpu(cpu);

    __atomic_store_n(&v->in_code, true, __ATOMIC_SEQ_CST);
    run_loop(cpu);
    __atomic_store_n(&v->in_code, false, __ATOMIC_RELEASE);
}

static void translated_left(X86Cpu *cpu)
{
    __atomic_store_n(&jit_vcpu(cpu)->in_code, false, __ATOMIC_RELEASE);
}

/* ---- host faults ---- */

#define PAGE_FAULT_TRAP  14
#define PAGE_FAULT_WRITE 2

static __thread X86Cpu *running_cpu;
static struct sigaction previous_segv, previous_fpe, previous_bus;

static bool recover(ucontext_t *uc)
{
    X86Cpu *cpu = running_cpu;
    JitVcpu *v = jit_vcpu(cpu);
    Jit *jit = v->jit;
    greg_t *g = uc->uc_mcontext.gregs;
    const uint8_t *pc = (const uint8_t *)(uintptr_t)g[REG_RIP];
    /* This thread was in translated code, so that it does not hold the lock. */
    pthread_mutex_lock(&jit->lock);
    const JitBlock *b = jit_block_at(jit, pc);
    pthread_mutex_unlock(&jit->lock);
    if (!b) {
        return false;
    }
    uint32_t at = (uint32_t)(jit_rw(jit, pc) - b->code);
    unsigned n = 0;
    while (n + 1 < b->pc_count && b->pcs[n + 1].host <= at) {
        n++;
    }
    /* Where translated code has the guest's registers now, and where it has them outside a fast loop. */
    static const int host_gregs[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                        REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                        REG_R12, REG_R13, REG_R14, REG_R15 };
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);
    if (b->pcs[n].fast) {
        uint64_t value[16];
        for (unsigned r = 0; r < 16; r++) {
            value[r] = b->fast_host[r] >= 0               ? (uint64_t)g[host_gregs[b->fast_host[r]]]
                       : (b->fast_borrowed >> r & 1) != 0 ? area->save[r]
                                                          : cpu->regs[r];
        }
        for (unsigned r = 0; r < 16; r++) {
            if (jit_is_spilled(r)) {
                cpu->regs[r] = value[r];
            } else {
                g[host_gregs[jit_home[r]]] = (greg_t)value[r];
            }
        }
        g[REG_R11] = (greg_t)hot->stack_delta;
    }
    g[REG_R15] += b->pcs[n].rsp;
    if (b->pcs[n].in_reg) {
        x86_set_arith(cpu, (uint32_t)g[REG_EFL] & FLAGS_ARITH);
    }
    uint64_t rip = hot->page_va + b->pcs[n].offset;
    g[REG_R12] = (greg_t)rip;
    g[REG_RIP] = (greg_t)(uintptr_t)jit_rx(jit, jit->thunks.step);
    return true;
}

static void pass_on(const struct sigaction *previous, int sig, siginfo_t *info, void *context)
{
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(sig, info, context);
    } else if (previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
        previous->sa_handler(sig);
    } else {
        signal(sig, SIG_DFL); /* the fault repeats and ends the process */
    }
}

/* Where translated code may be; read in the handler, before thread-local storage is known to be there. */
#define MAX_RANGES 16
static struct {
    uintptr_t start, size;
} ranges[MAX_RANGES];

static bool in_translated_code(const ucontext_t *uc)
{
    uintptr_t pc = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    for (unsigned i = 0; i < MAX_RANGES; i++) {
        if (pc - __atomic_load_n(&ranges[i].start, __ATOMIC_RELAXED) <
            __atomic_load_n(&ranges[i].size, __ATOMIC_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

bool jit_range_add(const void *start, size_t size)
{
    for (unsigned i = 0; i < MAX_RANGES; i++) {
        uintptr_t none = 0;
        if (__atomic_compare_exchange_n(&ranges[i].start, &none, (uintptr_t)start, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
            __atomic_store_n(&ranges[i].size, size, __ATOMIC_RELEASE);
            return true;
        }
    }
    return false;
}

void jit_range_remove(const void *start)
{
    for (unsigned i = 0; i < MAX_RANGES; i++) {
        if (ranges[i].start == (uintptr_t)start) {
            __atomic_store_n(&ranges[i].size, 0, __ATOMIC_SEQ_CST);
            __atomic_store_n(&ranges[i].start, 0, __ATOMIC_SEQ_CST);
        }
    }
}

/* Of an operand in a window whose page is not there yet. */
static bool fill_window(int sig, const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    Windows *w = jit_vcpu(running_cpu)->windows;

    return sig == SIGSEGV && w && jit_area(running_cpu)->windowed && g[REG_TRAPNO] == PAGE_FAULT_TRAP &&
           windows_fault(w, (uintptr_t)g[REG_CR2], g[REG_ERR] & PAGE_FAULT_WRITE);
}

__attribute__((no_stack_protector)) static void fault_handler(int sig, siginfo_t *info, void *context)
{
    if (!in_translated_code(context) || (!fill_window(sig, context) && !recover(context))) {
        pass_on(sig == SIGSEGV  ? &previous_segv
                : sig == SIGBUS ? &previous_bus
                                : &previous_fpe,
                sig, info, context);
    }
}

static void install_handlers(void)
{
    static gsize once;
    if (g_once_init_enter(&once)) {
        struct sigaction sa = { .sa_sigaction = fault_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
        sigemptyset(&sa.sa_mask);
        sigaction(SIGSEGV, &sa, &previous_segv);
        sigaction(SIGBUS, &sa, &previous_bus);
        sigaction(SIGFPE, &sa, &previous_fpe);
        g_once_init_leave(&once, 1);
    }
}

/* ---- life ---- */

static void page_written(Interp *d, const uint8_t *host_page)
{
    Jit *jit = ((JitVcpu *)d->jit)->jit;
    if (host_page) {
        jit_page_written(jit, host_page);
    } else {
        jit_drop_all(jit);
    }
}

void jit_vcpu_init(Jit *jit, X86Cpu *cpu)
{
    Interp *d = cpu->accel_data;
    JitVcpu *v = g_new0(JitVcpu, 1);
    JitArea *area = jit_area(cpu);

    install_handlers();
    v->cpu = cpu;
    v->jit = jit;
    *area = (JitArea){ 0 };
    *jit_hot(cpu) = (JitHot){ .stack_lo = JIT_NO_STACK };
    for (unsigned k = 0; k < 2; k++) {
        for (unsigned n = 0; n < G_N_ELEMENTS(cpu->jit_sites[k]); n++) {
            cpu->jit_sites[k][n].tag = JIT_NO_STACK;
        }
    }
    cpu->fpu_stale = 1;
    pthread_mutex_lock(&jit->lock);
    g_ptr_array_add(jit->vcpus, v);
    pthread_mutex_unlock(&jit->lock);
    d->jit = v;
    if (jit->tier) {
        d->run_limit = JIT_COLD_RUNS;
        d->count_return = JIT_COLD_RUNS / 2;
        d->count_mask = MODE_CS64 | MODE_NOT_TRANSLATED | INTERP_SINGLE;
        d->count_mode = MODE_CS64;
    }
    if (jit->lockstep) {
        jit_lockstep_init(v);
    }
    if (jit->windows) {
        v->windows = windows_new(cpu);
    }
    d->page_written = page_written;
    d->run_translated = run_translated;
    d->translated_left = translated_left;
    cpu->mmu->code_mapping_changed = code_mapping_changed;
    mmu_copies_set(cpu, may_write);
}

void jit_vcpu_destroy(X86Cpu *cpu)
{
    Interp *d = cpu->accel_data;
    JitVcpu *v = d->jit;
    if (!v) {
        return;
    }
    mmu_copies_set(cpu, NULL);
    pthread_mutex_lock(&v->jit->lock);
    g_ptr_array_remove(v->jit->vcpus, v);
    pthread_mutex_unlock(&v->jit->lock);
    for (unsigned i = 0; i < v->table_count; i++) {
        jit_table_free(v, i);
    }
    jit_lockstep_free(v);
    windows_free(v->windows);
    d->jit = NULL;
    d->run_translated = NULL;
    d->translated_left = NULL;
    cpu->mmu->code_mapping_changed = NULL;
    d->page_written = NULL;
    d->run_limit = 0;
    g_free(v);
}

bool jit_step_one(X86Cpu *cpu)
{
    sigjmp_buf fault;
    JitVcpu *v = jit_vcpu(cpu);
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);
    uint64_t rip = cpu->rip;
    uint32_t request = __atomic_load_n(&cpu->interrupt_request, __ATOMIC_SEQ_CST);

    if (request & CPU_INTERRUPT_CODE) {
        interp_cache_process(cpu->accel_data);
    }
    if (request & CPU_INTERRUPT_TLB) {
        mmu_process_pending(cpu);
    }
    cpu->inhibit_interrupts = false;
    __atomic_store_n(&cpu->interrupt_poll, 0, __ATOMIC_SEQ_CST);
    bool ok = true, careful = false;
    __atomic_store_n(&cpu->executing, true, __ATOMIC_SEQ_CST);
    cpu->fault_return = &fault;
    if (sigsetjmp(fault, 0)) {
        interp_recover(cpu);
        ok = false;
    } else {
        for (;;) {
            if (!translatable(cpu)) {
                x86_fpu_leave(cpu);
                interp_run_one(cpu);
                break;
            }
            jit_epoch_check(cpu, v);
            open_windows_at_once(cpu, v);
            JitBlock *b = jit_find(cpu, v, current_key(cpu) | (careful ? KEY_CAREFUL : 0));
            if (!b) {
                x86_fpu_leave(cpu);
                interp_run_one(cpu);
                break;
            }
            jit_area_refresh(cpu, v);
            if (area->key != current_key(cpu)) {
                continue;
            }
            hot->page_va = rip & PAGE_MASK_4K;
            if (!page_seen(v, cpu, b->page, hot->page_va)) {
                continue; /* for a block without far jumps */
            }
            v->jit->thunks.enter(cpu, b->mem_entry);
            if (area->exit_reason == JIT_EXIT_CAREFUL && !careful) {
                careful = true;
                continue;
            }
            if (area->exit_reason == JIT_EXIT_CHANGED) {
                block_left(cpu, v->jit, area);
                continue;
            }
            if (area->exit_reason == JIT_EXIT_FAR_WINDOWS) {
                jit_far_windows(v->jit, cpu, area->exit_arg);
                continue;
            }
            if (area->exit_reason == JIT_EXIT_POLL) {
                __atomic_store_n(&cpu->interrupt_poll, 0, __ATOMIC_SEQ_CST);
                continue;
            }
            if (area->exit_reason == JIT_EXIT_STEP) {
                x86_fpu_leave(cpu);
                interp_run_one(cpu);
            } else if (area->exit_reason == JIT_EXIT_INDIRECT) {
                jit_indirect_branch(cpu);
            }
            break;
        }
    }
    cpu->fault_return = NULL;
    x86_fpu_leave(cpu);
    __atomic_store_n(&cpu->executing, false, __ATOMIC_SEQ_CST);
    return ok;
}

void jit_single(Jit *jit)
{
    jit->chain = false;
    jit->max_insns = 1;
    jit->lookahead = false; /* all flags are looked at */
}

bool jit_windows(Jit *jit)
{
    jit->windows = jit->bmi2;
    jit->stress |= JIT_STRESS_WINDOWS;
    return jit->windows;
}

void jit_thread_enter(X86Cpu *cpu)
{
    running_cpu = cpu;
}
