/*
 * The integer instructions in every form, size and mode: the handlers that specialised ones (hot.c) fall back
 * on. Order within a handler: addresses, loads and probes first, state last. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "accel/soft/interp/alu.h"
#include "accel/soft/interp/ops.h"

/* ---- operands by the table's description ---- */
static unsigned operand_bytes(const InterpOp *op, const X86Operand *o)
{
    switch (o->size) {
    case X86_SIZE_B:
        return 1;
    case X86_SIZE_W:
        return 2;
    case X86_SIZE_D:
    case X86_SIZE_DS:
        return 4;
    case X86_SIZE_Q:
        return 8;
    case X86_SIZE_Z:
        return op_size(op) == 2 ? 2 : 4;
    case X86_SIZE_Y:
        return op_size(op) == 8 ? 8 : 4;
    default:
        return op_size(op);
    }
}

/* Where an operand that is no immediate lives. */
typedef struct Place {
    bool memory;
    unsigned number; /* as reg_read wants it */
    uint64_t linear;
} Place;

static Place place_of(X86Cpu *cpu, const InterpOp *op, const X86Operand *o, unsigned size, bool write)
{
    Place p = { 0 };
    switch (o->kind) {
    case X86_OPERAND_E:
    case X86_OPERAND_M:
    case X86_OPERAND_R:
        if (op_is_memory(op)) {
            p.memory = true;
            p.linear = op_linear(cpu, op, size, write);
        } else {
            p.number = op->rm;
        }
        break;
    case X86_OPERAND_O:
        p.memory = true;
        p.linear = linear_address(cpu, op->segment, (uint64_t)op->imm, size, write);
        break;
    case X86_OPERAND_Z:
        p.number = op->rm;
        break;
    case X86_OPERAND_GPR: /* AL, CL, rAX ...: none of AH to BH */
        p.number = size == 1 ? o->number * 8u : o->number;
        break;
    case X86_OPERAND_B:
        p.number = op->index; /* bind.c puts vvvv there where rm is a register, else into imm */
        break;
    default:
        p.number = op->reg;
        break;
    }
    return p;
}

static uint64_t place_load(X86Cpu *cpu, const Place *p, unsigned size)
{
    return p->memory ? load(cpu, p->linear, size) : reg_read(cpu, p->number, size);
}

static void place_store(X86Cpu *cpu, const Place *p, uint64_t value, unsigned size)
{
    if (p->memory) {
        store(cpu, p->linear, value, size);
    } else {
        reg_write(cpu, p->number, value, size);
    }
}

static uint64_t operand_read(X86Cpu *cpu, const InterpOp *op, const X86Operand *o)
{
    if (o->kind == X86_OPERAND_I) {
        return (uint64_t)op->imm;
    }
    if (o->kind == X86_OPERAND_CONST) {
        return o->number;
    }
    unsigned size = operand_bytes(op, o);
    Place p = place_of(cpu, op, o, size, false);
    return place_load(cpu, &p, size);
}

/* ---- read, modify, write ---- */
typedef uint64_t AluFn(uint64_t a, uint64_t b, uint16_t *cc);

#define WRAP(bits, type, suffix, name)                                    \
    static uint64_t fn_##name##bits(uint64_t a, uint64_t b, uint16_t *cc) \
    {                                                                     \
        return alu_##name##bits((type)a, (type)b, cc);                    \
    }
#define WRAP_ALL(name)    \
    FOR_SIZES(WRAP, name) \
    static AluFn *const fns_##name[4] = { fn_##name##8, fn_##name##16, fn_##name##32, fn_##name##64 };
#define WRAP_WIDE(name)        \
    FOR_WIDE_SIZES(WRAP, name) \
    static AluFn *const fns_##name[4] = { NULL, fn_##name##16, fn_##name##32, fn_##name##64 };
#define WRAP_LONG(name)        \
    FOR_LONG_SIZES(WRAP, name) \
    static AluFn *const fns_##name[4] = { NULL, NULL, fn_##name##32, fn_##name##64 };
WRAP_ALL(add)
WRAP_ALL(or)
WRAP_ALL(adc)
WRAP_ALL(sbb)
WRAP_ALL(and)
WRAP_ALL(sub)
WRAP_ALL(xor)
WRAP_ALL(cmp)
WRAP_ALL(test)
WRAP_ALL(inc)
WRAP_ALL(dec)
WRAP_ALL(neg)
WRAP_ALL(not )
WRAP_ALL(rol)
WRAP_ALL(ror)
WRAP_ALL(rcl)
WRAP_ALL(rcr)
WRAP_ALL(shl)
WRAP_ALL(shr)
WRAP_ALL(sar)
WRAP_WIDE(bt)
WRAP_WIDE(bts)
WRAP_WIDE(btr)
WRAP_WIDE(btc)
WRAP_WIDE(bsf)
WRAP_WIDE(bsr)
WRAP_WIDE(tzcnt)
WRAP_WIDE(lzcnt)
WRAP_WIDE(popcnt)
WRAP_WIDE(imul)
WRAP_LONG(adcx)
WRAP_LONG(adox)
WRAP_LONG(blsr)
WRAP_LONG(blsmsk)
WRAP_LONG(blsi)
WRAP_LONG(andn)
WRAP_LONG(bextr)
WRAP_LONG(bzhi)

/* One atomic compare-and-exchange at any alignment. */
static bool host_cas(void *p, uint64_t *expected, uint64_t desired, unsigned size)
{
    bool done;
    uint64_t a = *expected;
    switch (size) {
    case 1:
        __asm__ volatile("lock cmpxchgb %b3, %2"
                         : "+a"(a), "=@ccz"(done), "+m"(*(uint8_t *)p)
                         : "q"(desired)
                         : "memory");
        break;
    case 2:
        __asm__ volatile("lock cmpxchgw %w3, %2"
                         : "+a"(a), "=@ccz"(done), "+m"(*(uint16_t *)p)
                         : "r"(desired)
                         : "memory");
        break;
    case 4:
        __asm__ volatile("lock cmpxchgl %k3, %2"
                         : "+a"(a), "=@ccz"(done), "+m"(*(uint32_t *)p)
                         : "r"(desired)
                         : "memory");
        break;
    default:
        __asm__ volatile("lock cmpxchgq %3, %2"
                         : "+a"(a), "=@ccz"(done), "+m"(*(uint64_t *)p)
                         : "r"(desired)
                         : "memory");
        break;
    }
    *expected = a;
    return done;
}

static uint64_t host_read(const void *p, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, p, size);
    return value;
}

/* memory[linear] = fn(memory[linear], b): one atomic operation where locked; returns the old value. Faults
 * before anything changes. The flags are set through cc. */
static uint64_t memory_modify(X86Cpu *cpu, uint64_t linear, unsigned size, bool locked, AluFn *fn, uint64_t b,
                              uint16_t *cc)
{
    void *host = x86_rmw_pointer(cpu, linear, size);
    uint16_t flags = *cc;
    if (host) {
        uint64_t old = host_read(host, size), result;
        if (locked) {
            uint64_t seen;
            do {
                seen = old;
                flags = *cc;
                result = fn(old, b, &flags);
            } while (!host_cas(host, &old, result, size));
            old = seen;
        } else {
            result = fn(old, b, &flags);
            memcpy(host, &result, size);
        }
        *cc = flags;
        return old;
    }
    x86_probe(cpu, linear, size, MMU_WRITE);
    if (locked) {
        mmu_lock_slow_begin(cpu);
    }
    uint64_t old = load(cpu, linear, size);
    uint64_t result = fn(old, b, &flags);
    store(cpu, linear, result, size);
    if (locked) {
        mmu_lock_slow_end(cpu);
    }
    *cc = flags;
    return old;
}

/* dest = fn(dest, source) for two-operand forms. */
static void binary(X86Cpu *cpu, const InterpOp *op, AluFn *const fns[4])
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &form->operands[0]);
    AluFn *fn = fns[__builtin_ctz(size)];
    uint64_t b = form->operand_count > 1 ? operand_read(cpu, op, &form->operands[1]) : 0;
    uint16_t cc = cpu->cc;
    if (form->operands[0].access == X86_ACCESS_R) {
        uint64_t a = operand_read(cpu, op, &form->operands[0]);
        fn(a, b, &cc);
    } else {
        Place p = place_of(cpu, op, &form->operands[0], size, true);
        if (p.memory) {
            memory_modify(cpu, p.linear, size, op->flags & OP_LOCK, fn, b, &cc);
        } else {
            uint64_t a = reg_read(cpu, p.number, size);
            reg_write(cpu, p.number, fn(a, b, &cc), size);
        }
    }
    cpu->cc = cc;
}
#define BINARY(name)                 \
    HANDLER(g_##name)                \
    {                                \
        binary(cpu, op, fns_##name); \
        NEXT();                      \
    }
BINARY(add)
BINARY(or)
BINARY(adc)
BINARY(sbb)
BINARY(and)
BINARY(sub)
BINARY(xor)
BINARY(cmp)
BINARY(test)
BINARY(inc)
BINARY(dec)
BINARY(neg)
BINARY(not )
BINARY(rol)
BINARY(ror)
BINARY(rcl)
BINARY(rcr)
BINARY(shl)
BINARY(shr)
BINARY(sar)
BINARY(adcx)
BINARY(adox)

/* A source of zero leaves the destination alone, the upper half of a 32-bit one too. */
static void bit_scan(X86Cpu *cpu, const InterpOp *op, AluFn *const fns[4])
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t source = operand_read(cpu, op, &op_form(op)->operands[1]);
    uint64_t result = fns[__builtin_ctz(size)](0, source, &cpu->cc);
    if (source & size_mask(size)) {
        reg_write(cpu, op->reg, result, size);
    }
}
HANDLER(g_bsf)
{
    bit_scan(cpu, op, fns_bsf);
    NEXT();
}
HANDLER(g_bsr)
{
    bit_scan(cpu, op, fns_bsr);
    NEXT();
}

/* dest = fn(source): the old destination goes in as a, for nothing but the host's false dependency. */
#define UNARY_TO(name)                                                                 \
    HANDLER(g_##name)                                                                  \
    {                                                                                  \
        const X86Form *form = op_form(op);                                             \
        cpu->current_op = op;                                                          \
        unsigned size = operand_bytes(op, &form->operands[0]);                         \
        uint64_t b = operand_read(cpu, op, &form->operands[1]);                        \
        {                                                                              \
            uint16_t cc = cpu->cc;                                                     \
            reg_write(cpu, op->reg, fns_##name[__builtin_ctz(size)](0, b, &cc), size); \
            cpu->cc = cc;                                                              \
        }                                                                              \
        NEXT();                                                                        \
    }
UNARY_TO(tzcnt)
UNARY_TO(lzcnt)
UNARY_TO(popcnt)

/* VEX forms: vvvv is in the low byte of imm, an immediate in the byte above. */
static unsigned op_vvvv(const InterpOp *op)
{
    return (unsigned)(op->imm & 15);
}
#define UNARY_VVVV(name)                                                                   \
    HANDLER(g_##name)                                                                      \
    {                                                                                      \
        const X86Form *form = op_form(op);                                                 \
        cpu->current_op = op;                                                              \
        unsigned size = operand_bytes(op, &form->operands[0]);                             \
        uint64_t b = operand_read(cpu, op, &form->operands[1]);                            \
        {                                                                                  \
            uint16_t cc = cpu->cc;                                                         \
            reg_write(cpu, op_vvvv(op), fns_##name[__builtin_ctz(size)](0, b, &cc), size); \
            cpu->cc = cc;                                                                  \
        }                                                                                  \
        NEXT();                                                                            \
    }
UNARY_VVVV(blsr)
UNARY_VVVV(blsmsk)
UNARY_VVVV(blsi)

/* G = fn(first, second) where one of them is vvvv. */
#define TERNARY_VVVV(name, vvvv_first)                                                                 \
    HANDLER(g_##name)                                                                                  \
    {                                                                                                  \
        const X86Form *form = op_form(op);                                                             \
        cpu->current_op = op;                                                                          \
        unsigned size = operand_bytes(op, &form->operands[0]);                                         \
        uint64_t e = operand_read(cpu, op, &form->operands[vvvv_first ? 2 : 1]);                       \
        uint64_t v = reg_read(cpu, op_vvvv(op), size);                                                 \
        {                                                                                              \
            uint16_t cc = cpu->cc;                                                                     \
            uint64_t r = fns_##name[__builtin_ctz(size)](vvvv_first ? v : e, vvvv_first ? e : v, &cc); \
            reg_write(cpu, op->reg, r, size);                                                          \
            cpu->cc = cc;                                                                              \
        }                                                                                              \
        NEXT();                                                                                        \
    }
TERNARY_VVVV(andn, true)
TERNARY_VVVV(bextr, false)
TERNARY_VVVV(bzhi, false)

#define PURE(name, form_e_index, expression)                               \
    HANDLER(g_##name)                                                      \
    {                                                                      \
        const X86Form *form = op_form(op);                                 \
        cpu->current_op = op;                                              \
        unsigned size = operand_bytes(op, &form->operands[0]);             \
        uint64_t e = operand_read(cpu, op, &form->operands[form_e_index]); \
        uint64_t v = reg_read(cpu, op_vvvv(op), size);                     \
        unsigned n = (unsigned)v & (size * 8 - 1);                         \
        uint64_t r;                                                        \
        (void)n;                                                           \
        (void)v;                                                           \
        expression;                                                        \
        reg_write(cpu, op->reg, r, size);                                  \
        NEXT();                                                            \
    }
PURE(shlx, 1, r = e << n)
PURE(shrx, 1, r = e >> n)
PURE(sarx, 1, r = size == 8 ? (uint64_t)((int64_t)e >> n) : (uint64_t)((int32_t)e >> n))
PURE(pdep, 2, __asm__("pdepq %2, %1, %0" : "=r"(r) : "r"(v), "r"(e)))
PURE(pext, 2, __asm__("pextq %2, %1, %0" : "=r"(r) : "r"(v), "r"(e)))
HANDLER(g_rorx)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &form->operands[0]);
    uint64_t e = operand_read(cpu, op, &form->operands[1]);
    unsigned n = (unsigned)(op->imm >> 8) & (size * 8 - 1);
    uint64_t r = n ? (e >> n) | (e << (size * 8 - n)) : e;
    reg_write(cpu, op->reg, r, size);
    NEXT();
}
HANDLER(g_mulx)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &form->operands[0]);
    uint64_t e = operand_read(cpu, op, &form->operands[2]);
    unsigned __int128 product = (unsigned __int128)e * reg_read(cpu, R_RDX, size);
    if (size == 4) {
        product = (product & UINT32_MAX) | (product >> 32) << 64;
    }
    reg_write(cpu, op_vvvv(op), (uint64_t)product, size); /* the high half wins where both are the same */
    reg_write(cpu, op->reg, (uint64_t)(product >> 64), size);
    NEXT();
}

/* ---- multiplication and division ---- */
HANDLER(g_imul2)
{
    binary(cpu, op, fns_imul);
    NEXT();
}
HANDLER(g_imul3)
{
    { /* a scope of its own: else its locals keep NEXT() from being a jump */
        cpu->current_op = op;
        unsigned size = op_size(op);
        uint64_t a = operand_read(cpu, op, &op_form(op)->operands[1]);
        uint16_t cc = cpu->cc;
        reg_write(cpu, op->reg, fns_imul[__builtin_ctz(size)](a, (uint64_t)op->imm, &cc), size);
        cpu->cc = cc;
    }
    NEXT();
}

#define HOST_MUL(name)                                                                            \
    static void host_##name(uint64_t a, uint64_t b, unsigned size, uint64_t *low, uint64_t *high, \
                            uint16_t *cc)                                                         \
    {                                                                                             \
        uint64_t l = a, h = 0;                                                                    \
        bool of, sf, zf, pf;                                                                      \
        switch (size) {                                                                           \
        case 1:                                                                                   \
            __asm__(#name "b %b5"                                                                 \
                    : "+a"(l), "=@cco"(of), "=@ccs"(sf), "=@ccz"(zf), "=@ccp"(pf)                 \
                    : "q"(b)                                                                      \
                    : "cc");                                                                      \
            break;                                                                                \
        case 2:                                                                                   \
            __asm__(#name "w %w6"                                                                 \
                    : "+a"(l), "=&d"(h), "=@cco"(of), "=@ccs"(sf), "=@ccz"(zf), "=@ccp"(pf)       \
                    : "r"(b)                                                                      \
                    : "cc");                                                                      \
            break;                                                                                \
        case 4:                                                                                   \
            __asm__(#name "l %k6"                                                                 \
                    : "+a"(l), "=&d"(h), "=@cco"(of), "=@ccs"(sf), "=@ccz"(zf), "=@ccp"(pf)       \
                    : "r"(b)                                                                      \
                    : "cc");                                                                      \
            break;                                                                                \
        default:                                                                                  \
            __asm__(#name "q %6"                                                                  \
                    : "+a"(l), "=&d"(h), "=@cco"(of), "=@ccs"(sf), "=@ccz"(zf), "=@ccp"(pf)       \
                    : "r"(b)                                                                      \
                    : "cc");                                                                      \
            break;                                                                                \
        }                                                                                         \
        *low = l;                                                                                 \
        *high = h;                                                                                \
        *cc = (uint16_t)((*cc & CC_AF) | 0x200 | (of ? CC_OF | CC_CF : 0) | (sf ? CC_SF : 0) |    \
                         (zf ? CC_ZF : 0) | (pf ? CC_PF : 0));                                    \
    }
HOST_MUL(mul)
HOST_MUL(imul)

static void multiply(X86Cpu *cpu, const InterpOp *op, bool is_signed)
{
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &op_form(op)->operands[0]);
    uint64_t b = operand_read(cpu, op, &op_form(op)->operands[0]), low, high;
    (is_signed ? host_imul : host_mul)(cpu->regs[R_RAX], b, size, &low, &high, &cpu->cc);
    if (size == 1) {
        reg_write(cpu, R_RAX, low, 2);
    } else {
        reg_write(cpu, R_RAX, low, size);
        reg_write(cpu, R_RDX, high, size);
    }
}
HANDLER(g_mul)
{
    multiply(cpu, op, false);
    NEXT();
}
HANDLER(g_imul1)
{
    multiply(cpu, op, true);
    NEXT();
}

HANDLER(g_div)
{
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &op_form(op)->operands[0]);
    uint64_t divisor = operand_read(cpu, op, &op_form(op)->operands[0]);
    if (divisor == 0) {
        x86_raise(cpu, EXC_DE);
    }
    if (size == 1) {
        uint16_t dividend = *reg16(cpu, R_RAX);
        unsigned quotient = dividend / (unsigned)divisor;
        if (quotient > 0xff) {
            x86_raise(cpu, EXC_DE);
        }
        *reg16(cpu, R_RAX) = (uint16_t)(quotient | (dividend % (unsigned)divisor) << 8);
    } else {
        uint64_t high = reg_read(cpu, R_RDX, size), low = reg_read(cpu, R_RAX, size);
        if (high >= divisor) {
            x86_raise(cpu, EXC_DE);
        }
        if (size == 8) {
            __asm__("divq %2" : "+a"(low), "+d"(high) : "r"(divisor) : "cc");
            cpu->regs[R_RAX] = low;
            cpu->regs[R_RDX] = high;
        } else {
            uint64_t dividend = high << (size * 8) | low;
            reg_write(cpu, R_RAX, dividend / divisor, size);
            reg_write(cpu, R_RDX, dividend % divisor, size);
        }
    }
    NEXT();
}

HANDLER(g_idiv)
{
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &op_form(op)->operands[0]), bits = size * 8;
    uint64_t raw = operand_read(cpu, op, &op_form(op)->operands[0]);
    __int128 divisor = (int64_t)(raw << (64 - bits)) >> (64 - bits), dividend;
    if (divisor == 0) {
        x86_raise(cpu, EXC_DE);
    }
    if (size == 1) {
        dividend = (int16_t)*reg16(cpu, R_RAX);
    } else if (size == 8) {
        dividend = (__int128)((unsigned __int128)cpu->regs[R_RDX] << 64 | cpu->regs[R_RAX]);
    } else {
        uint64_t both = reg_read(cpu, R_RDX, size) << bits | reg_read(cpu, R_RAX, size);
        dividend = (int64_t)(both << (64 - 2 * bits)) >> (64 - 2 * bits);
    }
    if (size == 8 && dividend == (__int128)((unsigned __int128)1 << 127) && divisor == -1) {
        x86_raise(cpu, EXC_DE);
    }
    __int128 quotient = dividend / divisor, remainder = dividend % divisor;
    __int128 limit = (__int128)1 << (bits - 1);
    if (quotient >= limit || quotient < -limit) {
        x86_raise(cpu, EXC_DE);
    }
    if (size == 1) {
        *reg16(cpu, R_RAX) = (uint16_t)(((unsigned)quotient & 0xff) | ((unsigned)remainder & 0xff) << 8);
    } else {
        reg_write(cpu, R_RAX, (uint64_t)quotient, size);
        reg_write(cpu, R_RDX, (uint64_t)remainder, size);
    }
    NEXT();
}

/* ---- decimal adjustment (none of it exists in 64-bit mode, so none on this host); SDM vol. 2 ---- */
static void set_szp(X86Cpu *cpu, uint8_t value, uint32_t cf, uint32_t af)
{
    uint32_t f =
        cf | af | (value & FLAG_SF) | (value ? 0 : FLAG_ZF) | (__builtin_parity(value) ? 0 : FLAG_PF);
    x86_set_arith(cpu, f);
}
HANDLER(g_daa)
{
    uint8_t *al = reg8(cpu, 0), old = *al;
    uint32_t f = x86_get_arith(cpu), cf = 0, af = 0;
    if ((old & 0xf) > 9 || (f & FLAG_AF)) {
        *al = (uint8_t)(*al + 6);
        af = FLAG_AF;
    }
    if (old > 0x99 || (f & FLAG_CF)) {
        *al = (uint8_t)(*al + 0x60);
        cf = FLAG_CF;
    }
    set_szp(cpu, *al, cf, af);
    NEXT();
}
HANDLER(g_das)
{
    uint8_t *al = reg8(cpu, 0), old = *al;
    uint32_t f = x86_get_arith(cpu), cf = 0, af = 0;
    if ((old & 0xf) > 9 || (f & FLAG_AF)) {
        cf = (f & FLAG_CF) | (old < 6 ? FLAG_CF : 0);
        *al = (uint8_t)(*al - 6);
        af = FLAG_AF;
    }
    if (old > 0x99 || (f & FLAG_CF)) {
        *al = (uint8_t)(*al - 0x60);
        cf = FLAG_CF;
    }
    set_szp(cpu, *al, cf, af);
    NEXT();
}
static void ascii_adjust(X86Cpu *cpu, int sign)
{
    uint16_t *ax = reg16(cpu, R_RAX);
    uint32_t f = x86_get_arith(cpu), carry = 0;
    if ((*ax & 0xf) > 9 || (f & FLAG_AF)) {
        *ax = (uint16_t)(*ax + sign * 0x106);
        carry = FLAG_CF | FLAG_AF;
    }
    *ax &= 0xff0f;
    set_szp(cpu, (uint8_t)*ax, carry & FLAG_CF, carry & FLAG_AF);
}
HANDLER(g_aaa)
{
    ascii_adjust(cpu, 1);
    NEXT();
}
HANDLER(g_aas)
{
    ascii_adjust(cpu, -1);
    NEXT();
}
HANDLER(g_aam)
{
    uint8_t base = (uint8_t)op->imm, al = *reg8(cpu, 0);
    if (base == 0) {
        cpu->current_op = op;
        x86_raise(cpu, EXC_DE);
    }
    *reg16(cpu, R_RAX) = (uint16_t)((al / base) << 8 | al % base);
    set_szp(cpu, al % base, 0, 0);
    NEXT();
}
HANDLER(g_aad)
{
    uint16_t *ax = reg16(cpu, R_RAX);
    uint8_t result = (uint8_t)((*ax & 0xff) + (*ax >> 8) * (uint8_t)op->imm);
    *ax = result;
    set_szp(cpu, result, 0, 0);
    NEXT();
}

/* ---- double shifts and bits ---- */
/* What a write of one datum would raise: #AC comes before #PF. */
static void probe_datum(X86Cpu *cpu, uint64_t linear, unsigned size)
{
    if (G_UNLIKELY(cpu->mode & MODE_AC) && (linear & (size - 1))) {
        x86_raise_error(cpu, EXC_AC, 0);
    }
    x86_probe(cpu, linear, size, MMU_WRITE);
}

static uint64_t double_shift(unsigned size, bool left, uint64_t a, uint64_t b, uint8_t count, uint16_t *cc)
{
    switch (size) {
    case 2:
        return left ? alu_shld16((uint16_t)a, (uint16_t)b, count, cc)
                    : alu_shrd16((uint16_t)a, (uint16_t)b, count, cc);
    case 4:
        return left ? alu_shld32((uint32_t)a, (uint32_t)b, count, cc)
                    : alu_shrd32((uint32_t)a, (uint32_t)b, count, cc);
    default:
        return left ? alu_shld64(a, b, count, cc) : alu_shrd64(a, b, count, cc);
    }
}
static void shift_double(X86Cpu *cpu, const InterpOp *op, bool left)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t b = reg_read(cpu, op->reg, size);
    uint8_t count = (uint8_t)operand_read(cpu, op, &form->operands[2]);
    Place p = place_of(cpu, op, &form->operands[0], size, true);
    if (p.memory) {
        probe_datum(cpu, p.linear, size);
    }
    uint64_t a = place_load(cpu, &p, size);
    uint16_t cc = cpu->cc;
    uint64_t r = double_shift(size, left, a, b, count, &cc);
    place_store(cpu, &p, r, size);
    cpu->cc = cc;
}
HANDLER(g_shld)
{
    shift_double(cpu, op, true);
    NEXT();
}
HANDLER(g_shrd)
{
    shift_double(cpu, op, false);
    NEXT();
}

/* With a register as bit offset, memory operands reach beyond the addressed one. */
static void bit_operation(X86Cpu *cpu, const InterpOp *op, AluFn *const fns[4])
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = op_size(op);
    AluFn *fn = fns[__builtin_ctz(size)];
    bool by_register = form->operands[1].kind == X86_OPERAND_G;
    bool write = form->operands[0].access != X86_ACCESS_R;
    uint64_t bit = by_register ? reg_read(cpu, op->reg, size) : (uint64_t)op->imm;
    uint16_t cc = cpu->cc;
    if (!op_is_memory(op)) {
        uint64_t r = fn(reg_read(cpu, op->rm, size), bit & (size * 8 - 1), &cc);
        if (write) {
            reg_write(cpu, op->rm, r, size);
        }
        cpu->cc = cc;
        return;
    }
    uint64_t ea = op_effective(cpu, op);
    if (by_register) {
        int64_t offset = (int64_t)(bit << (64 - size * 8)) >> (64 - size * 8);
        ea += (uint64_t)((offset >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * (int64_t)size);
        ea &= address_mask(op);
    }
    bit &= size * 8 - 1;
    uint64_t linear = linear_address(cpu, op->segment, ea, size, write);
    if (write) {
        memory_modify(cpu, linear, size, op->flags & OP_LOCK, fn, bit, &cc);
    } else {
        fn(load(cpu, linear, size), bit, &cc);
    }
    cpu->cc = cc;
}
#define BIT_HANDLER(name)                   \
    HANDLER(g_##name)                       \
    {                                       \
        bit_operation(cpu, op, fns_##name); \
        NEXT();                             \
    }
BIT_HANDLER(bt)
BIT_HANDLER(bts)
BIT_HANDLER(btr)
BIT_HANDLER(btc)

HANDLER(g_crc32)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &form->operands[1]);
    uint64_t source = operand_read(cpu, op, &form->operands[1]), crc = *reg32(cpu, op->reg);
    switch (size) {
    case 1:
        __asm__("crc32b %b1, %k0" : "+r"(crc) : "r"(source));
        break;
    case 2:
        __asm__("crc32w %w1, %k0" : "+r"(crc) : "r"(source));
        break;
    case 4:
        __asm__("crc32l %k1, %k0" : "+r"(crc) : "r"(source));
        break;
    default:
        __asm__("crc32q %1, %0" : "+r"(crc) : "r"(source));
        break;
    }
    *reg64(cpu, op->reg) = (uint32_t)crc;
    NEXT();
}
HANDLER(g_bswap)
{
    switch (op_size(op)) {
    case 2:
        *reg16(cpu, op->rm) = 0; /* undefined; processors clear it */
        break;
    case 4:
        *reg64(cpu, op->rm) = __builtin_bswap32(*reg32(cpu, op->rm));
        break;
    default:
        *reg64(cpu, op->rm) = __builtin_bswap64(*reg64(cpu, op->rm));
        break;
    }
    NEXT();
}
static uint64_t swap_bytes(uint64_t value, unsigned size)
{
    return __builtin_bswap64(value) >> (64 - size * 8);
}
HANDLER(g_movbe)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = op_size(op);
    if (form->operands[0].kind == X86_OPERAND_G) {
        reg_write(cpu, op->reg, swap_bytes(load(cpu, op_linear(cpu, op, size, false), size), size), size);
    } else {
        store(cpu, op_linear(cpu, op, size, true), swap_bytes(reg_read(cpu, op->reg, size), size), size);
    }
    NEXT();
}

/* ---- moves ---- */
HANDLER(g_mov)
{
    { /* a scope of its own: else its locals keep NEXT() from being a jump */
        const X86Form *form = op_form(op);
        cpu->current_op = op;
        unsigned size = operand_bytes(op, &form->operands[0]);
        uint64_t value = operand_read(cpu, op, &form->operands[1]);
        Place p = place_of(cpu, op, &form->operands[0], size, true);
        place_store(cpu, &p, value, size);
    }
    NEXT();
}
HANDLER(g_movsx)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned from = operand_bytes(op, &form->operands[1]);
    uint64_t value = operand_read(cpu, op, &form->operands[1]);
    value = (uint64_t)((int64_t)(value << (64 - from * 8)) >> (64 - from * 8));
    reg_write(cpu, op->reg, value, op_size(op));
    NEXT();
}
HANDLER(g_movzx)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    reg_write(cpu, op->reg, operand_read(cpu, op, &form->operands[1]), op_size(op));
    NEXT();
}
HANDLER(g_lea)
{
    reg_write(cpu, op->reg, op_effective(cpu, op), op_size(op));
    NEXT();
}
static uint64_t second(uint64_t a, uint64_t b, uint16_t *cc)
{
    (void)a;
    (void)cc;
    return b;
}
HANDLER(g_xchg) /* memory: always locked */
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &form->operands[0]);
    Place p = place_of(cpu, op, &form->operands[0], size, true);
    Place q = place_of(cpu, op, &form->operands[1], size, true);
    uint64_t b = reg_read(cpu, q.number, size), a;
    if (p.memory) {
        uint16_t unused = 0;
        a = memory_modify(cpu, p.linear, size, true, second, b, &unused);
    } else {
        a = reg_read(cpu, p.number, size);
        reg_write(cpu, p.number, b, size);
    }
    reg_write(cpu, q.number, a, size);
    NEXT();
}
HANDLER(g_cmov)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    uint64_t value = operand_read(cpu, op, &form->operands[1]); /* may fault though the condition is false */
    unsigned size = op_size(op);
    if (!x86_condition(cpu->cc, form->opcode & 15)) {
        value = reg_read(cpu, op->reg, size);
    }
    reg_write(cpu, op->reg, value, size);
    NEXT();
}
HANDLER(g_setcc)
{
    { /* a scope of its own: else its locals keep NEXT() from being a jump */
        const X86Form *form = op_form(op);
        cpu->current_op = op;
        Place p = place_of(cpu, op, &form->operands[0], 1, true);
        place_store(cpu, &p, x86_condition(cpu->cc, form->opcode & 15), 1);
    }
    NEXT();
}
HANDLER(g_cbw)
{
    switch (op_size(op)) {
    case 2:
        *reg16(cpu, R_RAX) = (uint16_t)(int8_t)*reg8(cpu, 0);
        break;
    case 4:
        *reg64(cpu, R_RAX) = (uint32_t)(int16_t)*reg16(cpu, R_RAX);
        break;
    default:
        *reg64(cpu, R_RAX) = (uint64_t)(int32_t)*reg32(cpu, R_RAX);
        break;
    }
    NEXT();
}
HANDLER(g_cwd)
{
    unsigned size = op_size(op);
    reg_write(cpu, R_RDX, (reg_read(cpu, R_RAX, size) >> (size * 8 - 1)) & 1 ? UINT64_MAX : 0, size);
    NEXT();
}
HANDLER(g_xlat)
{
    cpu->current_op = op;
    uint64_t ea = (cpu->regs[R_RBX] + *reg8(cpu, 0)) & address_mask(op);
    *reg8(cpu, 0) = x86_ld8(cpu, linear_address(cpu, op->segment, ea, 1, false));
    NEXT();
}

/* ---- the stack ---- */
HANDLER(g_push)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    push(cpu, operand_read(cpu, op, &op_form(op)->operands[0]), size);
    NEXT();
}
HANDLER(g_pop)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t value = stack_top(cpu, size), old = cpu->regs[R_RSP];
    if (form->operands[0].kind == X86_OPERAND_E && op_is_memory(op)) {
        /* The address is computed with the pointer already moved; a fault puts it back. */
        stack_set(cpu, old + size);
        uint64_t ea = op_effective(cpu, op);
        cpu->regs[R_RSP] = old;
        store(cpu, linear_address(cpu, op->segment, ea, size, true), value, size);
        stack_set(cpu, old + size);
    } else {
        stack_set(cpu, old + size);
        reg_write(cpu, op->rm, value, size);
    }
    NEXT();
}
HANDLER(g_pusha)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t sp = cpu->regs[R_RSP];
    /* All eight are checked before the first is written. */
    uint64_t linear[8];
    for (unsigned i = 0; i < 8; i++) {
        linear[i] = stack_linear(cpu, sp - (i + 1) * size, size, true);
        probe_datum(cpu, linear[i], size);
    }
    for (unsigned i = 0; i < 8; i++) {
        store(cpu, linear[i], reg_read(cpu, i, size), size);
    }
    stack_set(cpu, sp - 8 * size);
    NEXT();
}
HANDLER(g_popa)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t sp = cpu->regs[R_RSP], value[8];
    for (unsigned i = 0; i < 8; i++) {
        value[i] = load(cpu, stack_linear(cpu, sp + i * size, size, false), size);
    }
    for (unsigned i = 0; i < 8; i++) {
        if (7 - i != R_RSP) {
            reg_write(cpu, 7 - i, value[i], size);
        }
    }
    stack_set(cpu, sp + 8 * size);
    NEXT();
}
HANDLER(g_enter)
{
    cpu->current_op = op;
    unsigned size = op_size(op), level = (unsigned)(op->imm >> 16) & 31;
    uint64_t frame_bytes = (uint64_t)op->imm & 0xffff, sp = cpu->regs[R_RSP], bp = cpu->regs[R_RBP];
    uint64_t frame = sp - size;
    uint64_t first = stack_linear(cpu, frame, size, true);
    /* Everything is looked at before the first word is written. */
    uint64_t sources[32], places[32];
    probe_datum(cpu, first, size);
    for (unsigned i = 1; i <= level; i++) {
        if (i < level) {
            sources[i] = stack_linear(cpu, bp - i * size, size, false);
            load(cpu, sources[i], size);
        }
        places[i] = stack_linear(cpu, frame - i * size, size, true);
        probe_datum(cpu, places[i], size);
    }
    uint64_t new_sp = frame - (uint64_t)level * size - frame_bytes;
    probe_datum(cpu, stack_linear(cpu, new_sp, size, true), size);
    store(cpu, first, reg_read(cpu, R_RBP, size), size);
    for (unsigned i = 1; i <= level; i++) {
        /* Frames may overlap: in the processor's order. */
        store(cpu, places[i], i < level ? load(cpu, sources[i], size) : frame, size);
    }
    reg_write(cpu, R_RBP, frame, size);
    stack_set(cpu, new_sp);
    NEXT();
}
HANDLER(g_leave)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t frame = cpu->regs[R_RBP];
    uint64_t value = load(cpu, stack_linear(cpu, frame, size, false), size);
    stack_set(cpu, frame + size);
    reg_write(cpu, R_RBP, value, size);
    NEXT();
}

/* ---- flags ---- */
HANDLER(g_sahf)
{
    cpu->cc = (uint16_t)((cpu->cc & CC_OF) | (*reg16(cpu, R_RAX) & 0xd500) | 0x200);
    NEXT();
}
HANDLER(g_lahf)
{
    *reg8(cpu, 1) = (uint8_t)(((cpu->cc >> 8) & 0xd5) | 2);
    NEXT();
}
HANDLER(g_cmc)
{
    cpu->cc ^= CC_CF;
    NEXT();
}
HANDLER(g_clc)
{
    cpu->cc &= (uint16_t)~CC_CF;
    NEXT();
}
HANDLER(g_stc)
{
    cpu->cc |= CC_CF;
    NEXT();
}
HANDLER(g_cld)
{
    cpu->rflags &= ~(uint64_t)FLAG_DF;
    NEXT();
}
HANDLER(g_std)
{
    cpu->rflags |= FLAG_DF;
    NEXT();
}
/* Not in the manual, but in every processor. */
HANDLER(g_salc)
{
    *reg8(cpu, 0) = x86_get_cf(cpu) ? 0xff : 0;
    NEXT();
}

/* ---- atomic exchanges ---- */
HANDLER(g_cmpxchg)
{
    const X86Form *form = op_form(op);
    cpu->current_op = op;
    unsigned size = operand_bytes(op, &form->operands[0]);
    Place p = place_of(cpu, op, &form->operands[0], size, true);
    uint64_t accumulator = reg_read(cpu, R_RAX, size), b = reg_read(cpu, op->reg, size), old;
    if (p.memory) {
        void *host = x86_rmw_pointer(cpu, p.linear, size);
        if (host) {
            old = accumulator;
            host_cas(host, &old, b, size);
            old &= size_mask(size);
        } else {
            x86_probe(cpu, p.linear, size, MMU_WRITE);
            mmu_lock_slow_begin(cpu);
            old = load(cpu, p.linear, size);
            store(cpu, p.linear, old == accumulator ? b : old, size);
            mmu_lock_slow_end(cpu);
        }
    } else {
        old = reg_read(cpu, p.number, size);
        if (old == accumulator) {
            reg_write(cpu, p.number, b, size);
        }
    }
    fns_cmp[__builtin_ctz(size)](accumulator, old, &cpu->cc);
    if (old != accumulator) {
        reg_write(cpu, R_RAX, old, size);
    }
    NEXT();
}
HANDLER(g_xadd)
{
    { /* a scope of its own: else its locals keep NEXT() from being a jump */
        const X86Form *form = op_form(op);
        cpu->current_op = op;
        unsigned size = operand_bytes(op, &form->operands[0]);
        Place p = place_of(cpu, op, &form->operands[0], size, true);
        uint64_t b = reg_read(cpu, op->reg, size), old;
        uint16_t cc = cpu->cc;
        AluFn *fn = fns_add[__builtin_ctz(size)];
        if (p.memory) {
            old = memory_modify(cpu, p.linear, size, op->flags & OP_LOCK, fn, b, &cc);
            reg_write(cpu, op->reg, old, size);
        } else {
            old = reg_read(cpu, p.number, size);
            uint64_t sum = fn(old, b, &cc);
            reg_write(cpu, op->reg, old, size);
            reg_write(cpu, p.number, sum, size);
        }
        cpu->cc = cc;
    }
    NEXT();
}
static void set_zf(X86Cpu *cpu, bool set)
{
    cpu->cc = (uint16_t)((cpu->cc & ~CC_ZF) | (set ? CC_ZF : 0));
}
HANDLER(g_cmpxchg8b)
{
    cpu->current_op = op;
    uint64_t linear = op_linear(cpu, op, 8, true);
    uint64_t expected = (uint64_t)*reg32(cpu, R_RDX) << 32 | *reg32(cpu, R_RAX);
    uint64_t desired = (uint64_t)*reg32(cpu, R_RCX) << 32 | *reg32(cpu, R_RBX), old = expected;
    void *host = x86_rmw_pointer(cpu, linear, 8);
    if (host) {
        host_cas(host, &old, desired, 8);
    } else {
        x86_probe(cpu, linear, 8, MMU_WRITE);
        mmu_lock_slow_begin(cpu);
        old = load(cpu, linear, 8);
        store(cpu, linear, old == expected ? desired : old, 8);
        mmu_lock_slow_end(cpu);
    }
    if (old != expected) {
        *reg64(cpu, R_RAX) = (uint32_t)old;
        *reg64(cpu, R_RDX) = old >> 32;
    }
    set_zf(cpu, old == expected);
    NEXT();
}
HANDLER(g_cmpxchg16b)
{
    cpu->current_op = op;
    uint64_t linear = op_linear(cpu, op, 16, true);
    if (linear & 15) {
        x86_raise_error(cpu, EXC_GP, 0);
    }
    uint64_t low = cpu->regs[R_RAX], high = cpu->regs[R_RDX];
    bool done;
    void *host = x86_rmw_pointer(cpu, linear, 16);
    if (host) {
        __asm__ volatile("lock cmpxchg16b %3"
                         : "+a"(low), "+d"(high), "=@ccz"(done), "+m"(*(unsigned __int128 *)host)
                         : "b"(cpu->regs[R_RBX]), "c"(cpu->regs[R_RCX])
                         : "memory");
    } else {
        x86_probe(cpu, linear, 16, MMU_WRITE);
        mmu_lock_slow_begin(cpu);
        uint64_t old_low = load(cpu, linear, 8), old_high = load(cpu, linear + 8, 8);
        done = old_low == low && old_high == high;
        store(cpu, linear, done ? cpu->regs[R_RBX] : old_low, 8);
        store(cpu, linear + 8, done ? cpu->regs[R_RCX] : old_high, 8);
        mmu_lock_slow_end(cpu);
        low = old_low;
        high = old_high;
    }
    if (!done) {
        cpu->regs[R_RAX] = low;
        cpu->regs[R_RDX] = high;
    }
    set_zf(cpu, done);
    NEXT();
}

/* ---- odds and ends ---- */
static void random_number(X86Cpu *cpu, const InterpOp *op, bool seed)
{
    uint64_t value;
    bool ok;
    if (seed) {
        __asm__ volatile("rdseed %0" : "=r"(value), "=@ccc"(ok));
    } else {
        __asm__ volatile("rdrand %0" : "=r"(value), "=@ccc"(ok));
    }
    unsigned size = op_size(op);
    reg_write(cpu, op->rm, ok ? value : 0, size);
    x86_set_arith(cpu, ok ? FLAG_CF : 0);
}
HANDLER(g_rdrand)
{
    random_number(cpu, op, false);
    NEXT();
}
HANDLER(g_rdseed)
{
    random_number(cpu, op, true);
    NEXT();
}
HANDLER(g_bound)
{
    cpu->current_op = op;
    unsigned size = op_size(op);
    uint64_t linear = op_linear(cpu, op, size, false);
    int64_t index, low, high;
    if (size == 2) {
        index = (int16_t)*reg16(cpu, op->reg);
        low = (int16_t)load(cpu, linear, 2);
        high = (int16_t)load(cpu, op_linear(cpu, op, 4, false) + 2, 2);
    } else {
        index = (int32_t)*reg32(cpu, op->reg);
        low = (int32_t)load(cpu, linear, 4);
        high = (int32_t)load(cpu, op_linear(cpu, op, 8, false) + 4, 4);
    }
    if (index < low || index > high) {
        x86_raise(cpu, EXC_BR);
    }
    NEXT();
}
HANDLER(g_arpl)
{
    { /* a scope of its own: else its locals keep NEXT() from being a jump */
        cpu->current_op = op;
        const X86Form *form = op_form(op);
        Place p = place_of(cpu, op, &form->operands[0], 2, true);
        uint16_t dest = (uint16_t)place_load(cpu, &p, 2), source = *reg16(cpu, op->reg);
        bool raised = (dest & 3) < (source & 3);
        if (raised) {
            place_store(cpu, &p, (dest & ~3u) | (source & 3), 2);
        }
        set_zf(cpu, raised);
    }
    NEXT();
}
HANDLER(g_lfence)
{
    __asm__ volatile("lfence" ::: "memory");
    NEXT();
}
HANDLER(g_mfence)
{
    __asm__ volatile("mfence" ::: "memory");
    NEXT();
}
HANDLER(g_sfence)
{
    __asm__ volatile("sfence" ::: "memory");
    NEXT();
}
/* Memory is coherent, so only the faults remain; CLFLUSH is a byte load to them. */
HANDLER(g_clflush)
{
    cpu->current_op = op;
    x86_probe(cpu, op_linear(cpu, op, 1, false), 1, MMU_READ);
    NEXT();
}

InterpHandler *interp_integer_handler(const X86Form *form)
{
    switch (form->mnemonic) {
    case X86_ADD:
        return g_add;
    case X86_OR:
        return g_or;
    case X86_ADC:
        return g_adc;
    case X86_SBB:
        return g_sbb;
    case X86_AND:
        return g_and;
    case X86_SUB:
        return g_sub;
    case X86_XOR:
        return g_xor;
    case X86_CMP:
        return g_cmp;
    case X86_TEST:
        return g_test;
    case X86_INC:
        return g_inc;
    case X86_DEC:
        return g_dec;
    case X86_NEG:
        return g_neg;
    case X86_NOT:
        return g_not;
    case X86_ROL:
        return g_rol;
    case X86_ROR:
        return g_ror;
    case X86_RCL:
        return g_rcl;
    case X86_RCR:
        return g_rcr;
    case X86_SHL:
        return g_shl;
    case X86_SHR:
        return g_shr;
    case X86_SAR:
        return g_sar;
    case X86_BSF:
        return g_bsf;
    case X86_BSR:
        return g_bsr;
    case X86_TZCNT:
        return g_tzcnt;
    case X86_LZCNT:
        return g_lzcnt;
    case X86_POPCNT:
        return g_popcnt;
    case X86_ADCX:
        return g_adcx;
    case X86_ADOX:
        return g_adox;
    case X86_ANDN:
        return g_andn;
    case X86_BLSR:
        return g_blsr;
    case X86_BLSMSK:
        return g_blsmsk;
    case X86_BLSI:
        return g_blsi;
    case X86_BEXTR:
        return g_bextr;
    case X86_BZHI:
        return g_bzhi;
    case X86_MULX:
        return g_mulx;
    case X86_PDEP:
        return g_pdep;
    case X86_PEXT:
        return g_pext;
    case X86_RORX:
        return g_rorx;
    case X86_SARX:
        return g_sarx;
    case X86_SHLX:
        return g_shlx;
    case X86_SHRX:
        return g_shrx;
    case X86_MUL:
        return g_mul;
    case X86_IMUL1:
        return g_imul1;
    case X86_IMUL2:
        return g_imul2;
    case X86_IMUL3:
        return g_imul3;
    case X86_DIV:
        return g_div;
    case X86_IDIV:
        return g_idiv;
    case X86_DAA:
        return g_daa;
    case X86_DAS:
        return g_das;
    case X86_AAA:
        return g_aaa;
    case X86_AAS:
        return g_aas;
    case X86_AAM:
        return g_aam;
    case X86_AAD:
        return g_aad;
    case X86_SHLD:
        return g_shld;
    case X86_SHRD:
        return g_shrd;
    case X86_BT:
        return g_bt;
    case X86_BTS:
        return g_bts;
    case X86_BTR:
        return g_btr;
    case X86_BTC:
        return g_btc;
    case X86_CRC32:
        return g_crc32;
    case X86_BSWAP:
        return g_bswap;
    case X86_MOVBE:
        return g_movbe;
    case X86_MOV:
    case X86_MOVNTI:
        return g_mov;
    case X86_MOVSX:
    case X86_MOVSXD:
        return g_movsx;
    case X86_MOVZX:
        return g_movzx;
    case X86_LEA:
        return g_lea;
    case X86_XCHG:
    case X86_XCHG_AX:
        return g_xchg;
    case X86_CBW:
        return g_cbw;
    case X86_CWD:
        return g_cwd;
    case X86_XLAT:
        return g_xlat;
    case X86_PUSH:
        return g_push;
    case X86_POP:
        return g_pop;
    case X86_PUSHA:
        return g_pusha;
    case X86_POPA:
        return g_popa;
    case X86_ENTER:
        return g_enter;
    case X86_LEAVE:
        return g_leave;
    case X86_SAHF:
        return g_sahf;
    case X86_LAHF:
        return g_lahf;
    case X86_CMC:
        return g_cmc;
    case X86_CLC:
        return g_clc;
    case X86_STC:
        return g_stc;
    case X86_CLD:
        return g_cld;
    case X86_STD:
        return g_std;
    case X86_SALC:
        return g_salc;
    case X86_CMPXCHG:
        return g_cmpxchg;
    case X86_XADD:
        return g_xadd;
    case X86_CMPXCHG8B:
        return g_cmpxchg8b;
    case X86_CMPXCHG16B:
        return g_cmpxchg16b;
    case X86_RDRAND:
        return g_rdrand;
    case X86_RDSEED:
        return g_rdseed;
    case X86_BOUND:
        return g_bound;
    case X86_ARPL:
        return g_arpl;
    case X86_LFENCE:
        return g_lfence;
    case X86_MFENCE:
        return g_mfence;
    case X86_SFENCE:
        return g_sfence;
    case X86_CLFLUSH:
        return g_clflush;
    case X86_NOP:
    case X86_ENDBR:
    case X86_PREFETCH:
        return interp_h_nop;
    default:
        break;
    }
    if (form->map == 1 && (form->opcode & 0xf0) == 0x40) {
        return g_cmov;
    }
    if (form->map == 1 && (form->opcode & 0xf0) == 0x90) {
        return g_setcc;
    }
    return NULL;
}
