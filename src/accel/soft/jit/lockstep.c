/*
 * Lockstep (-accel tcg,lockstep=on): every translated block is compared with the interpreter.
 *
 * A block runs translated; what it wrote is noted and taken back, the registers too; then the interpreter
 * executes instructions one by one until registers, flags that are live, vector registers and memory are what
 * the block left. Where they never become so, guest code, host code and both states are printed, and the
 * process ends. What has effects outside RAM (call-outs, exceptions) ends the compared part and is executed
 * once, by the interpreter.
 *
 * Writes are found by page: no write tag is in the TLB when either of the two begins, so that the first write
 * to a page passes mmu_install or the slow path, which tell (X86Mmu.write_watch), and the page is copied.
 * Chaining is off, ways to careful variants included, so that the code that runs is that of one block: what
 * is compared at its end are the flags that count there, for this block. A fast loop (loop.c) leaves the
 * block after some rounds.
 *
 * What others write to a page meanwhile would be taken for the block's, and be taken back: vCPUs take turns
 * (JitTurn). Devices do not; those that write to RAM just then may be taken for the block.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/native.h"
#include "accel/soft/jit/jit.h"
#include "arch/x86/flags.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAGES_MAX    320
#define PAGES_ENOUGH 100
#define TAGS_MAX     64
#define XSAVE_USED   2688 /* up to the last of AVX-512's components, wherever the host has them */

typedef enum Phase { PHASE_NONE, PHASE_TRANSLATED, PHASE_INTERPRETED } Phase;

typedef struct Page {
    uint8_t *host;
    bool full; /* after is what the translated code left */
    uint8_t before[4096], after[4096];
} Page;

/* What is compared. */
typedef struct Image {
    uint64_t regs[16], rip, rflags, kernel_gs_base, cr2;
    uint16_t cc;
    bool inhibit_interrupts, inhibit_debug;
    int index;
    X86Segment segs[SEG_ALL];
    uint8_t xsave[XSAVE_USED];
} Image;

struct JitLockstep {
    Phase phase;
    Page *pages;
    unsigned page_count;
    bool overflow; /* more pages than there is room for: not compared */
    struct {
        TlbEntry *entry;
        uint64_t none;
    } tags[TAGS_MAX];
    unsigned tag_count;
    bool many_tags;
    bool left; /* a call-out was reached */
    Image start, translated;
    Image interpreted;       /* as it was where the translated code had left, the last time it came there */
    unsigned interpreted_at; /* after so many instructions; 0: it never came there */
    struct {
        unsigned page; /* by its number + 1; 0: all were the same then */
        int at;
        uint8_t bytes[32];
    } differed;
    uint64_t checked, skipped, turns;
    uint32_t random;
};

/* ---- memory ---- */

/* Where vector registers may be live. */
static void copy_page(uint8_t *to, const uint8_t *from)
{
    size_t n = 4096 / 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void write_watch(X86Cpu *cpu, uint8_t *host, TlbEntry *entry, uint64_t none)
{
    JitLockstep *l = jit_vcpu(cpu)->lockstep;

    if (entry) {
        if (l->tag_count < TAGS_MAX) {
            l->tags[l->tag_count].entry = entry;
            l->tags[l->tag_count++].none = none;
        } else {
            l->many_tags = true;
        }
    }
    if (l->phase == PHASE_NONE) {
        return;
    }
    for (unsigned i = 0; i < l->page_count; i++) {
        if (l->pages[i].host == host) {
            return;
        }
    }
    if (l->page_count == PAGES_MAX) {
        l->overflow = true;
        return;
    }
    if (l->page_count == PAGES_ENOUGH) {
        __atomic_store_n(&cpu->interrupt_poll, 1,
                         __ATOMIC_SEQ_CST); /* long string instructions stop for that */
    }
    Page *page = &l->pages[l->page_count++];
    page->host = host;
    page->full = false;
    copy_page(page->before, host);
}

static void tags_drop(X86Cpu *cpu, JitLockstep *l)
{
    if (l->many_tags) {
        mmu_flush(cpu, false);
    } else {
        for (unsigned i = 0; i < l->tag_count; i++) {
            l->tags[i].entry->tag[MMU_WRITE] = l->tags[i].none;
        }
    }
    l->tag_count = 0;
    l->many_tags = false;
    cpu->mmu->drops++;
}

/* Keeps what the translated code wrote, and takes it back. */
static void pages_undo(JitLockstep *l)
{
    for (unsigned i = 0; i < l->page_count; i++) {
        Page *page = &l->pages[i];
        copy_page(page->after, page->host);
        page->full = true;
        for (unsigned k = 0; k < 4096; k += 8) {
            uint64_t was, is;
            memcpy(&was, page->before + k, 8);
            memcpy(&is, page->after + k, 8);
            if (was != is) {
                memcpy(page->host + k, &was, 8);
            }
        }
    }
}

/* The first offset at which the interpreter's page differs; -1: none. Accessed and dirty bits of page-table
 * entries come from walks, of which there are fewer the second time. */
static int page_differs(const Page *page)
{
    const uint8_t *expected = page->full ? page->after : page->before;
    if (memcmp(expected, page->host, 4096) == 0) {
        return -1;
    }
    for (int k = 0; k < 4096; k += 8) {
        uint64_t a, b;
        memcpy(&a, expected + k, 8);
        memcpy(&b, page->host + k, 8);
        if ((a ^ b) & ~UINT64_C(0x60)) {
            return k;
        }
    }
    return -1;
}

/* ---- registers ---- */

static void image_take(const X86Cpu *cpu, Image *m)
{
    memcpy(m->regs, cpu->regs, sizeof(m->regs));
    m->rip = cpu->rip;
    m->rflags = cpu->rflags;
    m->kernel_gs_base = cpu->kernel_gs_base;
    m->cr2 = cpu->cr2;
    m->cc = cpu->cc;
    m->inhibit_interrupts = cpu->inhibit_interrupts;
    m->inhibit_debug = cpu->inhibit_debug;
    m->index = cpu->mmu->index;
    memcpy(m->segs, cpu->segs, sizeof(m->segs));
    memcpy(m->xsave, cpu->xsave, sizeof(m->xsave));
}

static void image_put(X86Cpu *cpu, const Image *m)
{
    memcpy(cpu->regs, m->regs, sizeof(m->regs));
    cpu->rip = m->rip;
    cpu->rflags = m->rflags;
    cpu->kernel_gs_base = m->kernel_gs_base;
    cpu->cr2 = m->cr2;
    cpu->cc = m->cc;
    cpu->inhibit_interrupts = m->inhibit_interrupts;
    cpu->inhibit_debug = m->inhibit_debug;
    memcpy(cpu->segs, m->segs, sizeof(m->segs));
    memcpy(cpu->xsave, m->xsave, sizeof(m->xsave));
    mmu_select(cpu, (MmuIndex)m->index);
}

static bool vectors_same(const uint8_t *a, const uint8_t *b)
{
    if (memcmp(a, b, XSAVE_FOP) != 0 || memcmp(a + XSAVE_MXCSR, b + XSAVE_MXCSR, 4) != 0 ||
        memcmp(a + XSAVE_XMM, b + XSAVE_XMM, 256) != 0 ||
        memcmp(a + XSAVE_AVX, b + XSAVE_AVX, XSAVE_USED - XSAVE_AVX) != 0) {
        return false;
    }
    for (unsigned i = 0; i < 8; i++) {
        if (memcmp(a + XSAVE_ST + i * 16, b + XSAVE_ST + i * 16, 10) != 0) {
            return false;
        }
    }
    return true;
}

static uint32_t flags_of(uint16_t cc)
{
    return ((uint32_t)cc >> 8 & (FLAGS_ARITH & 0xff)) | (cc & 1 ? FLAG_OF : 0);
}

/* Which flags the code behind the place where the block was left may look at. */
static uint32_t live_flags(const JitBlock *b, const X86Cpu *cpu, uint64_t rip)
{
    uint64_t start = jit_hot((X86Cpu *)cpu)->page_va;
    uint64_t offset = rip - start;
    for (unsigned exit = 0; exit < 2; exit++) {
        for (unsigned k = 0; k < b->pc_count && !b->pcs[k].fast; k++) {
            if (b->pcs[k].offset == offset && b->pcs[k].exit == exit) {
                return b->pc_flags[k].live & ~(uint32_t)b->pc_flags[k].undefined;
            }
        }
    }
    return FLAGS_ARITH & ~(uint32_t)b->undefined;
}

static const char *difference(const X86Cpu *cpu, JitLockstep *l, const Image *m, uint32_t live)
{
    l->differed.page = 0;
    if (cpu->rip != m->rip) {
        return "rip";
    }
    if (memcmp(cpu->regs, m->regs, sizeof(m->regs)) != 0) {
        return "registers";
    }
    if ((flags_of(cpu->cc) ^ flags_of(m->cc)) & live) {
        return "flags";
    }
    if (cpu->rflags != m->rflags) {
        return "RFLAGS";
    }
    if (cpu->kernel_gs_base != m->kernel_gs_base || cpu->segs[SEG_GS].base != m->segs[SEG_GS].base ||
        cpu->segs[SEG_FS].base != m->segs[SEG_FS].base || cpu->mmu->index != m->index) {
        return "segment bases or rights";
    }
    if (!vectors_same(cpu->xsave, m->xsave)) {
        return "vector or x87 registers";
    }
    for (unsigned i = 0; i < l->page_count; i++) {
        int at = page_differs(&l->pages[i]);
        if (at >= 0) {
            l->differed.page = i + 1;
            l->differed.at = MIN(at, 4096 - (int)sizeof(l->differed.bytes));
            memcpy(l->differed.bytes, l->pages[i].host + l->differed.at, sizeof(l->differed.bytes));
            return "memory";
        }
    }
    return NULL;
}

/* ---- the report ---- */

static void print_bytes(const char *what, const uint8_t *bytes, unsigned n)
{
    fprintf(stderr, "%s:", what);
    for (unsigned i = 0; i < n; i++) {
        fprintf(stderr, "%s%02x", i % 32 ? " " : "\n  ", bytes[i]);
    }
    fputc('\n', stderr);
}

static void print_image(const char *what, const Image *m, const Image *other)
{
    static const char names[16][4] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    fprintf(stderr, "%s: rip %016lx flags %03x rflags %lx index %d\n ", what, (unsigned long)m->rip,
            flags_of(m->cc), (unsigned long)m->rflags, m->index);
    for (unsigned i = 0; i < 16; i++) {
        fprintf(stderr, " %s%s %016lx%s", m->regs[i] != other->regs[i] ? "*" : "", names[i],
                (unsigned long)m->regs[i], i % 4 == 3 ? "\n " : "");
    }
    for (unsigned i = 0; i < 16; i++) {
        uint64_t v[4];
        memcpy(v, m->xsave + XSAVE_XMM + i * 16, 16);
        memcpy(v + 2, m->xsave + XSAVE_AVX + i * 16, 16);
        bool differs = memcmp(v, other->xsave + XSAVE_XMM + i * 16, 16) != 0 ||
                       memcmp(v + 2, other->xsave + XSAVE_AVX + i * 16, 16) != 0;
        if (differs) {
            fprintf(stderr, " *ymm%u %016lx%016lx%016lx%016lx\n ", i, (unsigned long)v[3],
                    (unsigned long)v[2], (unsigned long)v[1], (unsigned long)v[0]);
        }
    }
    fprintf(stderr, " mxcsr %08x x87", *(const uint32_t *)(const void *)(m->xsave + XSAVE_MXCSR));
    for (unsigned i = 0; i < 6; i += 2) {
        fprintf(stderr, " %04x", *(const uint16_t *)(const void *)(m->xsave + i));
    }
    fputc('\n', stderr);
}

static G_NORETURN void report(X86Cpu *cpu, JitLockstep *l, const JitBlock *b, const char *what,
                              unsigned steps)
{
    const JitArea *area = jit_area(cpu);
    Image *now = &l->interpreted;

    if (!l->interpreted_at) {
        image_take(cpu, now);
        l->interpreted_at = steps;
    }
    fprintf(stderr, "lockstep: translated code does not do what the interpreter does: %s\n", what);
    uint8_t code[4096 + X86_INSN_MAX];
    unsigned first = MIN(b->length, 4096u - b->offset);
    memcpy(code, b->page + b->offset, first);
    if (b->second) {
        memcpy(code + first, b->second, b->length - first);
    }
    print_bytes("guest code", code, b->length);
    fprintf(stderr, "host code at %p\n", (const void *)jit_rx(jit_vcpu(cpu)->jit, b->code));
    print_bytes("host code", b->code, b->code_size);
    for (unsigned k = 0; k < b->pc_count; k++) {
        fprintf(stderr, "  instruction at +%03x: host +%x%s\n", b->pcs[k].offset, b->pcs[k].host,
                b->pcs[k].fast   ? " (loop)"
                : b->pcs[k].exit ? " (way out)"
                                 : "");
    }
    if (l->differed.page) {
        const Page *page = &l->pages[l->differed.page - 1];
        fprintf(stderr, "page %p%s differs first at +%03x\n", (void *)page->host,
                page->full ? "" : " (interpreter only)", l->differed.at);
        print_bytes("before", page->before + l->differed.at, 32);
        print_bytes("translated", (page->full ? page->after : page->before) + l->differed.at, 32);
        print_bytes("interpreted", l->differed.bytes, 32);
    }
    print_image("before", &l->start, &l->start);
    print_image("translated", &l->translated, now);
    print_image("interpreted", now, &l->translated);
    /* Last what matters most: ends of long outputs are what is kept. */
    fprintf(stderr, "the interpreter was there after %u of %u instructions; flags that count: %03x\n",
            l->interpreted_at, steps, live_flags(b, cpu, l->translated.rip));
    fprintf(stderr,
            "lockstep: %s: block at %016lx (%u instructions, key %x%s), left by exit %u; %lu blocks before\n",
            what, (unsigned long)l->start.rip, b->count, b->key & ~KEY_CAREFUL,
            b->key & KEY_CAREFUL ? ", careful" : "", area->exit_reason, (unsigned long)l->checked);
    fflush(stderr);
    _exit(EXIT_FAILURE);
}

/* ---- a block ---- */

bool jit_lockstep_callout(X86Cpu *cpu)
{
    JitLockstep *l = jit_vcpu(cpu)->lockstep;
    if (!l || l->phase != PHASE_TRANSLATED) {
        return false;
    }
    l->left = true;
    return true;
}

static bool interpret(X86Cpu *cpu, JitLockstep *l, const JitBlock *b)
{
    sigjmp_buf fault;
    sigjmp_buf *outer = cpu->fault_return;
    uint32_t live = live_flags(b, cpu, l->translated.rip);
    /* Volatile: they outlive a jump. */
    const char *volatile what = NULL;
    volatile unsigned steps = 0;
    unsigned limit = (b->count + 1u) * (JIT_LOCKSTEP_ROUNDS + 3);

    l->interpreted_at = 0;
    cpu->fault_return = &fault;
    if (sigsetjmp(fault, 0)) {
        interp_recover(cpu);
        what = "it raised an exception";
    } else {
        for (uint64_t at = cpu->rip - 1;;) {
            if (cpu->rip == l->translated.rip) {
                what = difference(cpu, l, &l->translated, live);
                if (!what) {
                    break;
                }
                image_take(cpu, &l->interpreted);
                l->interpreted_at = steps;
            }
            if (steps == limit) {
                what = what ? what : "it never comes there";
                break;
            }
            /* The parts of a repeated string instruction count once. */
            steps += cpu->rip != at;
            at = cpu->rip;
            cpu->inhibit_interrupts = false; /* that was for this one */
            interp_run_one(cpu);
        }
    }
    cpu->fault_return = outer;
    l->phase = PHASE_NONE;
    if (what && !l->overflow) {
        report(cpu, l, b, what, steps);
    }
    return !what;
}

void jit_lockstep_run(X86Cpu *cpu, JitVcpu *v, JitBlock *b)
{
    JitLockstep *l = v->lockstep;
    JitArea *area = jit_area(cpu);
    JitHot *hot = jit_hot(cpu);
    bool step = false, careful = false;

    x86_fpu_leave(cpu);
    l->phase = PHASE_NONE;
    tags_drop(cpu, l);
    jit_area_refresh(cpu, v);
    image_take(cpu, &l->start);
    l->page_count = 0;
    l->overflow = l->left = false;
    hot->page_va = cpu->rip & PAGE_MASK_4K;
    uint64_t page_va = hot->page_va;
    l->phase = PHASE_TRANSLATED;
    v->jit->thunks.enter(cpu, b->mem_entry);
    x86_fpu_leave(cpu);
    switch ((JitExit)area->exit_reason) {
    case JIT_EXIT_LINK:
        cpu->rip = page_va + ((const JitLink *)area->exit_arg)->target;
        break;
    case JIT_EXIT_CAREFUL:
        cpu->rip = page_va + (*(const JitCareful *)area->exit_arg & 4095);
        careful = true;
        break;
    case JIT_EXIT_INDIRECT:
        if (x86_is_canonical((uint64_t)(uintptr_t)area->exit_arg)) {
            jit_indirect_branch(cpu);
        } else {
            cpu->rip = page_va + (area->exit_info & 4095);
            step = true;
        }
        break;
    case JIT_EXIT_STEP:
        step = true;
        break;
    case JIT_EXIT_FAR_WINDOWS: /* there are no windows */
    case JIT_EXIT_CHANGED:     /* nothing was done */
        l->phase = PHASE_NONE;
        pages_undo(l);
        image_put(cpu, &l->start);
        tags_drop(cpu, l);
        if (area->exit_info) {
            jit_block_scattered(v->jit, area->exit_arg, area->exit_info - 1);
        } else {
            jit_block_changed(v->jit, area->exit_arg);
        }
        return;
    case JIT_EXIT_LOOKUP:
    case JIT_EXIT_IBTC:
    case JIT_EXIT_POLL:
        break;
    }
    step |= l->left;
    l->phase = PHASE_NONE;
    pages_undo(l);
    image_take(cpu, &l->translated);
    image_put(cpu, &l->start);
    tags_drop(cpu, l);
    l->phase = PHASE_INTERPRETED;
    if (interpret(cpu, l, b)) {
        l->checked++;
        v->careful_rip = cpu->rip;
        v->careful_next = careful;
        if (step) {
            cpu->inhibit_interrupts = false;
            interp_run_one(cpu);
        }
    } else {
        l->skipped++; /* the interpreter is right, wherever it came to */
    }
}

/* ---- turns ---- */

/* How long a vCPU goes on while others wait. */
#define TURN_US 1000

void jit_turn_take(Jit *jit, X86Cpu *cpu)
{
    JitTurn *t = &jit->turn;

    g_mutex_lock(&t->lock);
    for (uint64_t number = t->next++; t->serving != number;) {
        if (!g_cond_wait_until(&t->passed, &t->lock, g_get_monotonic_time() + TURN_US) && t->holder) {
            __atomic_store_n(&t->over, true, __ATOMIC_RELEASE);
            __atomic_store_n(&t->holder->interrupt_poll, 1, __ATOMIC_SEQ_CST);
        }
    }
    t->holder = cpu;
    g_mutex_unlock(&t->lock);
}

void jit_turn_give(Jit *jit)
{
    JitTurn *t = &jit->turn;

    g_mutex_lock(&t->lock);
    t->holder = NULL;
    __atomic_store_n(&t->over, false, __ATOMIC_RELEASE);
    t->serving++;
    g_cond_broadcast(&t->passed);
    g_mutex_unlock(&t->lock);
}

/* Passes the turn on where others have waited for long enough. */
static void turn_pass(X86Cpu *cpu)
{
    Jit *jit = jit_vcpu(cpu)->jit;

    if (__atomic_load_n(&jit->turn.over, __ATOMIC_ACQUIRE)) {
        x86_fpu_leave(cpu);
        bool was = mmu_suspend(cpu);
        jit_turn_give(jit);
        jit_turn_take(jit, cpu);
        mmu_resume(cpu, was);
    }
}

bool jit_lockstep_due(JitVcpu *v)
{
    JitLockstep *l = v->lockstep;
    if (!l) {
        return false;
    }
    if (v->careful_next) {
        return true;
    }
    if (v->jit->lockstep_every <= 1) {
        return true;
    }
    l->random = l->random * 1664525u + 1013904223u;
    return (l->random >> 8) % v->jit->lockstep_every == 0;
}

void jit_lockstep_init(JitVcpu *v)
{
    JitLockstep *l = v->lockstep = g_new0(JitLockstep, 1);
    l->pages = g_new(Page, PAGES_MAX);
    l->random = 1;
    l->many_tags = true; /* whatever there is */
    v->cpu->mmu->write_watch = write_watch;
    ((Interp *)v->cpu->accel_data)->between = turn_pass;
}

void jit_lockstep_free(JitVcpu *v)
{
    if (v->lockstep) {
        v->cpu->mmu->write_watch = NULL;
        ((Interp *)v->cpu->accel_data)->between = NULL;
        g_free(v->lockstep->pages);
        g_free(v->lockstep);
        v->lockstep = NULL;
    }
}

uint64_t jit_lockstep_checked(const JitVcpu *v)
{
    return v->lockstep ? v->lockstep->checked : 0;
}
