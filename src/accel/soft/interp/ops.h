/*
 * What handlers share: access to registers, operands and memory, blocks and the ways from one operation to
 * the next. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_INTERP_OPS_H
#define RHEA_ACCEL_SOFT_INTERP_OPS_H

#include "accel/soft/interp/interp.h"
#include "arch/x86/flags.h"
#include "arch/x86/mmu.h"
#include "arch/x86/system.h"

/* In a block's mode: it is to run exactly one instruction (interrupt_poll is set, so that no link is
 * followed). */
#define INTERP_SINGLE (1u << 31)

typedef struct Block Block;

/* Lies behind a block's last operation where that is a direct branch or the end of the block. */
typedef struct InterpLink {
    Block *taken, *fall;        /* NULL: not known yet */
    bool taken_near, fall_near; /* in the same page, so that the link may be kept */
} InterpLink;
G_STATIC_ASSERT(sizeof(InterpLink) <= sizeof(InterpOp));
G_STATIC_ASSERT(sizeof(InterpOp) == 32);
G_STATIC_ASSERT(offsetof(X86Cpu, rip) == offsetof(X86Cpu, regs) + 8 * X86_REG_RIP);
G_STATIC_ASSERT(offsetof(X86Cpu, zero) == offsetof(X86Cpu, regs) + 8 * X86_REG_NONE);

struct Block {
    Block *hash_next;
    const uint8_t *host;  /* of its first byte, NULL once it is stale */
    const uint8_t *host2; /* of the second page, where its one instruction straddles */
    uint32_t mode;        /* MODE_* and INTERP_SINGLE */
    uint16_t length;      /* bytes of code */
    uint16_t count;       /* operations, without the link */
    uint32_t runs,
        when; /* where runs are counted: how often it was run, and when last; see Interp.run_limit */
    Block *page_next[2];
    InterpOp ops[] __attribute__((aligned(32)));
};

#define JUMP_BITS 13
typedef struct JumpEntry {
    uint64_t rip;
    Block *block;
    uint32_t mode;
} JumpEntry;

/* How instructions of a form and a shape of operands become operations; see bind.c. */
#define PLAN_BITS 11
typedef struct BindPlan {
    uint32_t key; /* 0: none */
    uint32_t flags;
    InterpHandler *handler;
} BindPlan;

/* How many pages there is code of, by a hash of their host addresses: 0 says that there is none. One thread
 * at a time changes it; any may look. Who adds a page does so before the look at its DIRTY_CODE bit that
 * tells whether the code is still what it was read as, and who writes to a page looks here after setting that
 * bit.
 */
#define CODE_PAGES_BITS 12
typedef struct CodePages {
    uint32_t count[1u << CODE_PAGES_BITS]; /* atomic */
} CodePages;
static inline uint32_t *code_pages_of(CodePages *c, const uint8_t *host)
{
    return &c->count[((uintptr_t)host >> 12) * UINT64_C(0x9e3779b97f4a7c15) >> (64 - CODE_PAGES_BITS)];
}
static inline void code_pages_count(CodePages *c, const uint8_t *host, int n)
{
    __atomic_fetch_add(code_pages_of(c, host), (uint32_t)n, __ATOMIC_SEQ_CST);
}
static inline bool code_pages_has(CodePages *c, const uint8_t *host)
{
    return __atomic_load_n(code_pages_of(c, host), __ATOMIC_SEQ_CST) != 0;
}

typedef struct Interp Interp;
struct Interp {
    X86Cpu *cpu;
    Block **link_slot; /* to be filled by the next look-up */
    /* Where that is not 0, blocks in the modes for which mode & count_mask is count_mode count their runs,
     * and one that has run so often leads back to the caller of interp_run_counted: it is to be translated. A
     * run after RUN_GAP other ones counts for count_return. */
    uint32_t run_limit, count_mask, count_mode, count_return;
    uint32_t runs; /* of all of them */
    X86DecodeMode decode_mode;
    JumpEntry jump[1 << JUMP_BITS];
    BindPlan plans[1 << PLAN_BITS];
    /* Block cache: cache.c. */
    Block **hash;
    unsigned hash_bits, block_count;
    struct Chunk *chunks, *spare_chunks;
    size_t chunk_bytes, cache_limit;
    int64_t flush_ns;              /* of the last flush, in the thread's CPU time */
    int64_t trim_ns, trim_busy_ns; /* when interp_cache_trim last looked, and the CPU time then */
    GHashTable *pages;             /* host page -> PageBlocks */
    CodePages code_pages;          /* the same pages */
    const uint8_t *last_key;       /* which of them was wanted last; NULL: none */
    struct PageBlocks *last_page;
    Block *scratch; /* of code that cannot be cached */
    MemoryListener memory_listener, smram_listener;
    RamListener ram_listener;
    GHashTable *rams; /* RamBlock -> how many sections show it */
    /* Pages written by other threads, under lock. */
    pthread_mutex_t lock;
    GArray *written; /* of const uint8_t * (host pages) */
    bool drop_all;
    bool uncached;    /* somebody else writes guest memory unseen: no decoded code is kept */
    bool event_taken; /* the instruction was a software interrupt: no single-step trap behind it */
    uint64_t built, flushes, invalidated;
    /* The translator (accel/soft/jit), where there is one: its part of the vCPU; what runs translated code
     * from cpu->rip on and returns between two instructions; what hears of a page of code that was written
     * (NULL: of many) [any thread]. */
    void *jit;
    void (*run_translated)(X86Cpu *cpu);
    void (*translated_left)(X86Cpu *cpu); /* an exception ended run_translated */
    void (*page_written)(Interp *d, const uint8_t *host_page);
    void (*between)(
        X86Cpu *cpu); /* between two instructions, soon after interrupt_poll was set; NULL: nothing */
#ifdef INTERP_TRAMPOLINE
    const InterpOp *resume;
#endif
};

/* cache.c */
Block *interp_find_block(X86Cpu *cpu, bool single); /* may raise */
/* The one at cpu->rip, where host is its code's address, and which lies in one page; NULL: there is none. For
 * 64-bit code. */
Block *interp_block_at(X86Cpu *cpu, const uint8_t *host);
/* Makes it, where there is none; may raise. */
Block *interp_new_block(X86Cpu *cpu, const uint8_t *host);
/* Before the page's bytes are decoded: every later write to it is reported. Waits for other vCPUs. */
void interp_page_protect(X86Cpu *cpu, const CodePage *page);
/* Whether a page whose DIRTY_CODE bit is clear may still be written unnoticed, or this vCPU may still hold a
 * write translation of it, so that interp_page_protect is not to be left out. */
bool interp_protect_pending(const X86Cpu *cpu, const CodePage *page);
void interp_cache_init(X86Cpu *cpu, Interp *d);
void interp_cache_free(Interp *d);
void interp_cache_process(Interp *d); /* CPU_INTERRUPT_CODE */
void interp_cache_flush(Interp *d);
/* Called as the vCPU goes to sleep: gives the memory back where it has slept most of the time of late. */
void interp_cache_trim(Interp *d);
/* exec.c: runs operations until the block is left; blocks from cpu->rip on; one instruction there
 * (interrupt_poll is set behind it). */
void interp_run(X86Cpu *cpu, const InterpOp *op);
void interp_run_blocks(X86Cpu *cpu);
void interp_run_one(X86Cpu *cpu);
/* Runs the block at cpu->rip, and whatever follows, until something wants attention, a block has run often
 * enough or what comes next is not known. */
#define RUN_GAP 512u
/* The block at cpu->rip, if that needs no look-up; else NULL. Raises nothing. */
Block *interp_known_block(X86Cpu *cpu);
void interp_run_counted(X86Cpu *cpu, Block *b);
/* Behind a raised exception: makes cpu->rip the instruction's address. */
void interp_recover(X86Cpu *cpu);
/* features.c: which rows of the table this CPU has. */
void interp_decode_features(const X86Cpu *cpu, X86DecodeMode *mode);

/* Memory that lives until the whole cache is flushed. 32-byte aligned; never fails (aborts as GLib does). */
void *interp_cache_alloc(Interp *d, size_t size);

/* bind.c: fills op from insn. Returns whether the operation ends the block. */
/* native: room for what an instruction of the host needs; NULL: taken from the cache. */
bool interp_bind(X86Cpu *cpu, const X86Insn *insn, InterpOp *op, unsigned offset, unsigned page_offset,
                 InterpNative *native);
/* hot.c: a specialised handler or NULL. */
InterpHandler *interp_hot_handler(X86Cpu *cpu, const X86Insn *insn, InterpOp *op);
/* Joins op with the one before it, if there is a handler for the pair; false: not joined. */
bool interp_hot_fuse(InterpOp *previous, const InterpOp *op);
/* generic.c, branch.c, string.c, sysops.c: handlers of every form by mnemonic. */
extern InterpHandler *interp_generic[X86_FORM_COUNT];
void interp_generic_init(void);
InterpHandler *interp_integer_handler(const X86Form *form);
InterpHandler *interp_branch_handler(const X86Form *form);
InterpHandler *interp_string_handler(const X86Form *form);
InterpHandler *interp_system_handler(const X86Form *form);
InterpHandler interp_h_ud, interp_h_gp0, interp_h_end, interp_h_stale, interp_h_native, interp_h_nop,
    interp_h_count;
/* Ends a run: cpu->rip becomes the address behind the operation before it. */
InterpHandler interp_h_stop;
/* Goes on at cpu->rip if that needs no look-up that may raise, else leaves the block. */
void interp_jump(X86Cpu *cpu);
void interp_link(X86Cpu *cpu, Block **slot, bool near_target);

#ifdef INTERP_TRAMPOLINE
#define TAIL(next_op)                                    \
    do {                                                 \
        ((Interp *)cpu->accel_data)->resume = (next_op); \
        return;                                          \
    } while (0)
#else
#define TAIL(next_op)                        \
    do {                                     \
        const InterpOp *tail_op = (next_op); \
        tail_op->handler(cpu, tail_op);      \
        return;                              \
    } while (0)
#endif
#define NEXT()        TAIL(op + 1)
#define HANDLER(name) static void name(X86Cpu *cpu, const InterpOp *op)

/* ---- registers ---- */
static inline uint64_t *reg64(X86Cpu *cpu, unsigned n)
{
    return (uint64_t *)((char *)cpu + offsetof(X86Cpu, regs)) + n;
}
static inline uint64_t reg_value(const X86Cpu *cpu, unsigned n)
{
    return ((const uint64_t *)((const char *)cpu + offsetof(X86Cpu, regs)))[n];
}
static inline uint32_t *reg32(X86Cpu *cpu, unsigned n)
{
    return (uint32_t *)reg64(cpu, n);
}
static inline uint16_t *reg16(X86Cpu *cpu, unsigned n)
{
    return (uint16_t *)reg64(cpu, n);
}
/* n is the byte's offset. */
static inline uint8_t *reg8(X86Cpu *cpu, unsigned n)
{
    return (uint8_t *)cpu + offsetof(X86Cpu, regs) + n;
}
static inline uint64_t reg_read(X86Cpu *cpu, unsigned n, unsigned size)
{
    switch (size) {
    case 1:
        return *reg8(cpu, n);
    case 2:
        return *reg16(cpu, n);
    case 4:
        return *reg32(cpu, n);
    default:
        return *reg64(cpu, n);
    }
}
static inline void reg_write(X86Cpu *cpu, unsigned n, uint64_t value, unsigned size)
{
    switch (size) {
    case 1:
        *reg8(cpu, n) = (uint8_t)value;
        break;
    case 2:
        *reg16(cpu, n) = (uint16_t)value;
        break;
    case 4:
        *reg64(cpu, n) = (uint32_t)value;
        break;
    default:
        *reg64(cpu, n) = value;
        break;
    }
}

/* ---- the operation's own data ---- */
static inline unsigned op_size(const InterpOp *op)
{
    return 1u << (op->flags & 3);
}
static inline unsigned op_address_size(const InterpOp *op)
{
    return 1u << ((op->flags >> OP_ADDRESS_SHIFT) & 3);
}
static inline const X86Form *op_form(const InterpOp *op)
{
    return &x86_forms[op->form];
}
static inline bool op_is_memory(const InterpOp *op)
{
    return op->rm == 0xff;
}
static inline uint64_t size_mask(unsigned size)
{
    return ~UINT64_C(0) >> (64 - size * 8);
}
static inline uint64_t address_mask(const InterpOp *op)
{
    return size_mask(op_address_size(op));
}
/* rip wraps with the code's size; 16-bit code may lie beyond 64 KiB where its segment does (system management
 * mode begins so). */
static inline uint64_t ip_mask(const X86Cpu *cpu, uint64_t ip)
{
    if (cpu->mode & MODE_CS64) {
        return ip;
    }
    return cpu->mode & MODE_CS32 || cpu->segs[SEG_CS].limit > UINT16_MAX ? (uint32_t)ip : (uint16_t)ip;
}
static inline uint64_t op_rip(const X86Cpu *cpu, const InterpOp *op)
{
    return cpu->rip + op->offset;
}
static inline uint64_t op_next_rip(const X86Cpu *cpu, const InterpOp *op)
{
    return ip_mask(cpu, cpu->rip + op->offset + op->length);
}

/* ---- memory ---- */
static inline uint64_t op_effective(const X86Cpu *cpu, const InterpOp *op)
{
    uint64_t ea =
        reg_value(cpu, op->base) + (reg_value(cpu, op->index) << op->scale) + (uint64_t)(int64_t)op->disp;
    if (G_UNLIKELY(op->flags & OP_DISP_WRAPPED)) {
        ea += UINT64_C(1) << 32;
    }
    return ea & address_mask(op);
}
/* The linear address of segment:offset with all checks (canonical form is the mmu's business). */
static inline uint64_t linear_address(X86Cpu *cpu, unsigned segment, uint64_t offset, unsigned size,
                                      bool write)
{
    if (G_LIKELY(cpu->mode & MODE_CS64)) {
        return segment >= SEG_FS ? offset + cpu->segs[segment].base : offset;
    }
    if ((cpu->mode & MODE_FLAT) && segment < SEG_FS && offset + size <= UINT64_C(0x100000000)) {
        return offset;
    }
    return x86_linear(cpu, (int)segment, offset, size, write);
}
static inline uint64_t op_linear(X86Cpu *cpu, const InterpOp *op, unsigned size, bool write)
{
    return linear_address(cpu, op->segment, op_effective(cpu, op), size, write);
}
static inline uint64_t load(X86Cpu *cpu, uint64_t linear, unsigned size)
{
    switch (size) {
    case 1:
        return x86_ld8(cpu, linear);
    case 2:
        return x86_ld16(cpu, linear);
    case 4:
        return x86_ld32(cpu, linear);
    default:
        return x86_ld64(cpu, linear);
    }
}
static inline void store(X86Cpu *cpu, uint64_t linear, uint64_t value, unsigned size)
{
    switch (size) {
    case 1:
        x86_st8(cpu, linear, (uint8_t)value);
        break;
    case 2:
        x86_st16(cpu, linear, (uint16_t)value);
        break;
    case 4:
        x86_st32(cpu, linear, (uint32_t)value);
        break;
    default:
        x86_st64(cpu, linear, value);
        break;
    }
}

/* ---- the stack ---- */
static inline uint64_t stack_mask(const X86Cpu *cpu)
{
    if (cpu->mode & MODE_CS64) {
        return UINT64_MAX;
    }
    return cpu->mode & MODE_SS32 ? UINT32_MAX : UINT16_MAX;
}
static inline uint64_t stack_linear(X86Cpu *cpu, uint64_t offset, unsigned size, bool write)
{
    return linear_address(cpu, SEG_SS, offset & stack_mask(cpu), size, write);
}
static inline void stack_set(X86Cpu *cpu, uint64_t value)
{
    uint64_t mask = stack_mask(cpu);
    cpu->regs[R_RSP] = (cpu->regs[R_RSP] & ~mask) | (value & mask);
}
static inline void push(X86Cpu *cpu, uint64_t value, unsigned size)
{
    uint64_t sp = cpu->regs[R_RSP] - size;
    store(cpu, stack_linear(cpu, sp, size, true), value, size);
    stack_set(cpu, sp);
}
/* Reads the top; the caller moves the pointer when nothing can fault any more. */
static inline uint64_t stack_top(X86Cpu *cpu, unsigned size)
{
    return load(cpu, stack_linear(cpu, cpu->regs[R_RSP], size, false), size);
}
static inline uint64_t pop(X86Cpu *cpu, unsigned size)
{
    uint64_t value = stack_top(cpu, size);
    stack_set(cpu, cpu->regs[R_RSP] + size);
    return value;
}

/* ---- going on ---- */
static inline bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}
static inline bool interrupt_wanted(const X86Cpu *cpu)
{
    return G_UNLIKELY(__atomic_load_n(&cpu->interrupt_poll, __ATOMIC_RELAXED) != 0);
}
/* Direct transfer over a link's slot. */
#define FOLLOW(slot, near_flag, new_rip)                           \
    do {                                                           \
        InterpLink *link_ = (InterpLink *)(op + 1);                \
        Block *target_ = link_->slot;                              \
        cpu->rip = (new_rip);                                      \
        if (G_LIKELY(target_ != NULL) && !interrupt_wanted(cpu)) { \
            TAIL(target_->ops);                                    \
        }                                                          \
        interp_link(cpu, &link_->slot, link_->near_flag);          \
        return;                                                    \
    } while (0)
#define JUMP_TO(new_rip)      \
    do {                      \
        cpu->rip = (new_rip); \
        interp_jump(cpu);     \
        return;               \
    } while (0)

#endif
