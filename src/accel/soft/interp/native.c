/*
 * The stub generator: see native.h. Encodings after SDM vol. 2 chapter 2.
 *
 * Host registers in a stub: rdi image, rsi reg offset, rdx vvvv offset, rcx rm offset, r8 memory operand, r9
 * NativeArgs, [rsp+8] is4 offset; vector operands: reg xmm1, vvvv xmm2, rm xmm3, is4 xmm4, implied xmm0;
 * general operand: rax. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/interp/native.h"

#include "base/error.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

/* Enough for every form of the table with every immediate: about 90,000 stubs of MMX to AVX, 160,000 of
 * AVX-512, of at most 256 and mostly less than 100 bytes. Memory is taken as they are made. */
#define REGION_SIZE (48u << 20)
#define STUB_MAX    256u
#define HOST_MXCSR  0x1f80u
#define HOST_FCW    0x37fu

enum { X_IMPLIED, X_REG, X_VVVV, X_RM, X_IS4 };
enum { G_AX, G_CX, G_DX, G_BX, G_SP, G_BP, G_SI, G_DI };

static pthread_mutex_t region_lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *region_rw, *region_rx;
static size_t region_used;
static GHashTable *stubs; /* of uint64_t[2] keys */
static struct sigaction previous_sigfpe;

/* ---- SIGFPE ---- */

static void sigfpe_handler(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    if (region_rx && rip - (uintptr_t)region_rx < REGION_SIZE) {
        /* Return the vector from the stub. Its stack holds nothing but the return address at an instruction
         * that can get here (invariant 4). What a SIMD exception leaves in MXCSR goes into the guest's image;
         * #MF has changed nothing. */
        uint8_t *image = (uint8_t *)uc->uc_mcontext.gregs[REG_RDI];
        uint64_t *sp = (uint64_t *)uc->uc_mcontext.gregs[REG_RSP];
        if (uc->uc_mcontext.gregs[REG_TRAPNO] == 19) {
            uint32_t mxcsr = uc->uc_mcontext.fpregs->mxcsr;
            memcpy(image + XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
        }
        uc->uc_mcontext.fpregs->mxcsr = HOST_MXCSR;
        uc->uc_mcontext.fpregs->cwd = HOST_FCW;
        uc->uc_mcontext.fpregs->swd = 0;
        uc->uc_mcontext.fpregs->ftw = 0;
        uc->uc_mcontext.gregs[REG_RAX] = uc->uc_mcontext.gregs[REG_TRAPNO];
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)*sp;
        uc->uc_mcontext.gregs[REG_RSP] = (greg_t)(sp + 1);
        return;
    }
    if (previous_sigfpe.sa_flags & SA_SIGINFO) {
        previous_sigfpe.sa_sigaction(sig, info, context);
    } else if (previous_sigfpe.sa_handler != SIG_DFL && previous_sigfpe.sa_handler != SIG_IGN) {
        previous_sigfpe.sa_handler(sig);
    } else {
        signal(SIGFPE, SIG_DFL); /* the fault repeats and ends the process */
    }
}

/* ---- the region ---- */

static guint key_hash(gconstpointer p)
{
    const uint64_t *k = p;
    uint64_t h = (k[0] ^ (k[1] * UINT64_C(0x9e3779b97f4a7c15))) * UINT64_C(0xff51afd7ed558ccd);
    return (guint)(h >> 32);
}

static gboolean key_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, 16) == 0;
}

bool native_init(GError **error)
{
    bool ok = false;
    pthread_mutex_lock(&region_lock);
    if (region_rx) {
        ok = true;
        goto out;
    }
    int fd = memfd_create("rhea-native", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, REGION_SIZE) < 0) {
        error_set_errno(error, errno, "Cannot make memory for native stubs");
        if (fd >= 0) {
            close(fd);
        }
        goto out;
    }
    void *rw = mmap(NULL, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *rx = mmap(NULL, REGION_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    int saved_errno = errno;
    close(fd);
    if (rw == MAP_FAILED || rx == MAP_FAILED) {
        error_set_errno(error, saved_errno, "Cannot map executable memory for native stubs");
        goto out;
    }
    struct sigaction sa = { .sa_sigaction = sigfpe_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigemptyset(&sa.sa_mask);
    sigaction(SIGFPE, &sa, &previous_sigfpe);
    stubs = g_hash_table_new_full(key_hash, key_equal, g_free, NULL);
    region_rw = rw;
    region_rx = rx;
    ok = true;
out:
    pthread_mutex_unlock(&region_lock);
    return ok;
}

size_t native_size(void)
{
    pthread_mutex_lock(&region_lock);
    size_t size = region_used;
    pthread_mutex_unlock(&region_lock);
    return size;
}

bool native_contains(uint64_t address)
{
    return region_rx && address - (uint64_t)(uintptr_t)region_rx < REGION_SIZE;
}

/* ---- emitting ---- */

typedef struct Emit {
    uint8_t code[STUB_MAX];
    unsigned n;
} Emit;

static void emit_bytes(Emit *e, const void *bytes, unsigned n)
{
    g_assert(e->n + n <= STUB_MAX);
    memcpy(e->code + e->n, bytes, n);
    e->n += n;
}
#define EMIT(e, ...) emit_bytes(e, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void emit32(Emit *e, uint32_t v)
{
    emit_bytes(e, &v, 4);
}

/* movups between xmm and [rdi + index + disp]: 0F 10 or 0F 11. */
static void emit_movups(Emit *e, bool store, unsigned xmm, unsigned index, uint32_t disp)
{
    EMIT(e, 0x0f, (uint8_t)(store ? 0x11 : 0x10), (uint8_t)(0x84 | xmm << 3), (uint8_t)(index << 3 | G_DI));
    emit32(e, disp);
}

/* vmovups xmm, [rdi+index+disp] or back: VEX.128.0F.WIG 10 and 11. */
static void emit_vmovups(Emit *e, bool store, unsigned xmm, unsigned index, uint32_t disp)
{
    EMIT(e, 0xc5, 0xf8, (uint8_t)(store ? 0x11 : 0x10), (uint8_t)(0x84 | xmm << 3),
         (uint8_t)(index << 3 | G_DI));
    emit32(e, disp);
}

/* vinsertf128 ymm, ymm, [rdi+index+AVX], 1 */
static void emit_load_high(Emit *e, unsigned ymm, unsigned index)
{
    EMIT(e, 0xc4, 0xe3, (uint8_t)(0x05 | (~ymm & 15) << 3), 0x18, (uint8_t)(0x84 | ymm << 3),
         (uint8_t)(index << 3 | G_DI));
    emit32(e, XSAVE_AVX);
    EMIT(e, 1);
}

/* vextractf128 [rdi+index+AVX], ymm, 1 */
static void emit_store_high(Emit *e, unsigned ymm, unsigned index)
{
    EMIT(e, 0xc4, 0xe3, 0x7d, 0x19, (uint8_t)(0x84 | ymm << 3), (uint8_t)(index << 3 | G_DI));
    emit32(e, XSAVE_AVX);
    EMIT(e, 1);
}

static void emit_load_vec(Emit *e, const NativeForm *f, unsigned xmm, unsigned index)
{
    if (f->vex) {
        emit_vmovups(e, false, xmm, index, XSAVE_XMM);
        if (f->l) {
            emit_load_high(e, xmm, index);
        }
    } else {
        emit_movups(e, false, xmm, index, XSAVE_XMM);
    }
}

static void emit_store_vec(Emit *e, const NativeForm *f, unsigned xmm, unsigned index)
{
    if (f->vex) {
        /* Whatever the vector length, a VEX instruction that writes a vector register defines all of it. */
        emit_vmovups(e, true, xmm, index, XSAVE_XMM);
        emit_store_high(e, xmm, index);
    } else {
        emit_movups(e, true, xmm, index, XSAVE_XMM);
    }
}

/* mov between a 64-bit register (rax to rdi) and [r9+disp8]. */
static void emit_arg(Emit *e, bool store, unsigned reg, unsigned disp)
{
    EMIT(e, 0x49, (uint8_t)(store ? 0x89 : 0x8b), (uint8_t)(0x41 | reg << 3), (uint8_t)disp);
}

static void emit_insn(Emit *e, const NativeForm *f)
{
    unsigned reg = 0, rm = 0, vvvv = 0;
    switch (f->reg_kind) {
    case NATIVE_VEC:
        reg = X_REG;
        break;
    case NATIVE_MMX:
    case NATIVE_EXT:
        reg = f->reg & 7;
        break;
    default:
        break;
    }
    bool mem = f->rm_kind == NATIVE_MEM;
    switch (f->rm_kind) {
    case NATIVE_VEC:
        rm = X_RM;
        break;
    case NATIVE_MMX:
    case NATIVE_ST:
        rm = f->rm & 7;
        break;
    default:
        break;
    }
    if (f->vvvv_kind == NATIVE_VEC) {
        vvvv = X_VVVV;
    }
    bool has_modrm = f->rm_kind != NATIVE_NONE;
    uint8_t modrm = (uint8_t)((mem ? 0 : 0xc0) | reg << 3 | rm); /* memory: [r8], which is rm 0 with B */
    if (f->vex) {
        EMIT(e, 0xc4, (uint8_t)(0xc0 | (mem ? 0 : 0x20) | f->map),
             (uint8_t)(f->w << 7 | (~vvvv & 15) << 3 | f->l << 2 |
                       (f->prefix == 0x66   ? 1
                        : f->prefix == 0xf3 ? 2
                        : f->prefix == 0xf2 ? 3
                                            : 0)));
    } else {
        if (f->prefix) {
            EMIT(e, f->prefix);
        }
        uint8_t rex = (uint8_t)(0x40 | (f->w ? 8 : 0) | (mem ? 1 : 0));
        if (rex != 0x40) {
            EMIT(e, rex);
        }
        if (f->map >= 1) {
            EMIT(e, 0x0f);
        }
        if (f->map >= 2) {
            EMIT(e, (uint8_t)(f->map == 2 ? 0x38 : 0x3a));
        }
    }
    EMIT(e, f->opcode);
    if (has_modrm) {
        EMIT(e, modrm);
    }
    if (f->has_imm) {
        EMIT(e, (uint8_t)(f->flags & NATIVE_IS4 ? (X_IS4 << 4 | (f->imm & 15)) : f->imm));
    }
}

static void emit_stub(Emit *e, const NativeForm *f)
{
    bool x87 = f->flags & NATIVE_X87;
    bool uses_gpr = f->reg_kind == NATIVE_GPR || f->rm_kind == NATIVE_GPR;
    /* FXRSTOR and FXSAVE are quicker, but take the vector registers, too: where the form has none, these stay
     * as they are. */
    bool legacy = f->reg_kind != NATIVE_VEC && f->rm_kind != NATIVE_VEC;
    if (x87 && legacy) {
        EMIT(e, 0x48, 0x0f, 0xae, 0x0f); /* fxrstor64 [rdi] */
    } else if (x87) {
        /* mov byte [rdi+512], 7; mov eax, 1; xor edx, edx; xrstor64 [rdi]: only the x87 component */
        EMIT(e, 0xc6, 0x87);
        emit32(e, XSAVE_HEADER);
        EMIT(e, 7, 0xb8, 1, 0, 0, 0, 0x31, 0xd2, 0x48, 0x0f, 0xae, 0x2f);
    }
    if (f->reg_kind == NATIVE_VEC) {
        emit_load_vec(e, f, X_REG, G_SI);
    }
    if (f->vvvv_kind == NATIVE_VEC) {
        emit_load_vec(e, f, X_VVVV, G_DX);
    }
    if (f->rm_kind == NATIVE_VEC) {
        emit_load_vec(e, f, X_RM, G_CX);
    }
    if (f->flags & NATIVE_IS4) {
        EMIT(e, 0x48, 0x8b, 0x44, 0x24, 0x08); /* mov rax, [rsp+8] */
        emit_load_vec(e, f, X_IS4, G_AX);
    }
    if (f->flags & NATIVE_IN_XMM0) {
        EMIT(e, 0x31, 0xc0); /* xor eax, eax: register 0 */
        emit_load_vec(e, f, X_IMPLIED, G_AX);
    }
    if (f->flags & NATIVE_FP) {
        EMIT(e, 0x0f, 0xae, 0x57, XSAVE_MXCSR); /* ldmxcsr [rdi+24] */
    }
    if (uses_gpr) {
        emit_arg(e, false, G_AX, offsetof(NativeArgs, gpr));
    }
    if (f->flags & NATIVE_IN_AX_DX) {
        emit_arg(e, false, G_AX, offsetof(NativeArgs, ax));
        emit_arg(e, false, G_DX, offsetof(NativeArgs, dx));
    }
    if (f->flags & NATIVE_IN_FLAGS) {
        EMIT(e, 0x41, 0xff, 0x71, offsetof(NativeArgs, flags), 0x9d); /* push [r9+flags]; popfq */
    }
    emit_insn(e, f);
    if (f->flags & NATIVE_OUT_FLAGS) {
        EMIT(e, 0x9c, 0x41, 0x8f, 0x41, offsetof(NativeArgs, flags)); /* pushfq; pop [r9+flags] */
    }
    if (f->flags & NATIVE_OUT_CX) {
        emit_arg(e, true, G_CX, offsetof(NativeArgs, cx));
    }
    if (f->flags & NATIVE_FP) {
        EMIT(e, 0x0f, 0xae, 0x5f, XSAVE_MXCSR); /* stmxcsr [rdi+24] */
    }
    if (uses_gpr && (f->reg_kind == NATIVE_GPR ? f->flags & NATIVE_OUT_REG : f->flags & NATIVE_OUT_RM)) {
        emit_arg(e, true, G_AX, offsetof(NativeArgs, gpr));
    }
    if (f->reg_kind == NATIVE_VEC && (f->flags & NATIVE_OUT_REG)) {
        emit_store_vec(e, f, X_REG, G_SI);
    }
    if (f->vvvv_kind == NATIVE_VEC && (f->flags & NATIVE_OUT_VVVV)) {
        emit_store_vec(e, f, X_VVVV, G_DX);
    }
    if (f->rm_kind == NATIVE_VEC && (f->flags & NATIVE_OUT_RM)) {
        emit_store_vec(e, f, X_RM, G_CX);
    }
    if (f->flags & NATIVE_OUT_XMM0) {
        EMIT(e, 0x31, 0xc0);
        emit_store_vec(e, f, X_IMPLIED, G_AX);
    }
    if (x87 && legacy) {
        /* fxsave64 [rdi]; fninit; mov dword [rdi+28], 0xffff: the guest's MXCSR_MASK, not the host's */
        EMIT(e, 0x48, 0x0f, 0xae, 0x07, 0xdb, 0xe3, 0xc7, 0x47, XSAVE_MXCSR_MASK, 0xff, 0xff, 0, 0);
    } else if (x87) {
        /* mov eax, 1; xor edx, edx; xsave64 [rdi]; fninit */
        EMIT(e, 0xb8, 1, 0, 0, 0, 0x31, 0xd2, 0x48, 0x0f, 0xae, 0x27, 0xdb, 0xe3);
    }
    if ((f->flags & NATIVE_FP) || (x87 && legacy)) {
        /* mov dword [rsp-8], HOST_MXCSR; ldmxcsr [rsp-8] */
        EMIT(e, 0xc7, 0x44, 0x24, 0xf8);
        emit32(e, HOST_MXCSR);
        EMIT(e, 0x0f, 0xae, 0x54, 0x24, 0xf8);
    }
    if (f->vex) {
        EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
    }
    EMIT(e, 0x31, 0xc0, 0xc3); /* xor eax, eax; ret */
}

static void make_key(const NativeForm *f, uint64_t key[2])
{
    bool reg_part = f->reg_kind == NATIVE_EXT || f->reg_kind == NATIVE_MMX;
    bool rm_part = f->rm_kind == NATIVE_ST || f->rm_kind == NATIVE_MMX;
    uint8_t imm = f->has_imm ? (f->flags & NATIVE_IS4 ? f->imm & 15 : f->imm) : 0;
    key[0] = (uint64_t)f->map | (uint64_t)f->opcode << 8 | (uint64_t)f->prefix << 16 |
             (uint64_t)f->vex << 24 | (uint64_t)f->l << 25 | (uint64_t)f->w << 26 |
             (uint64_t)f->has_imm << 27 | (uint64_t)(reg_part ? f->reg & 7 : 0) << 32 |
             (uint64_t)(rm_part ? f->rm & 7 : 0) << 40 | (uint64_t)imm << 48;
    key[1] = (uint64_t)f->flags | (uint64_t)f->reg_kind << 32 | (uint64_t)f->vvvv_kind << 40 |
             (uint64_t)f->rm_kind << 48;
}

/* The stub of a key, made by emit_form(e, form) at first use. */
static void *stub_for(const uint64_t key[2], void (*emit_form)(Emit *e, const void *form), const void *form)
{
    pthread_mutex_lock(&region_lock);
    void *stub = g_hash_table_lookup(stubs, key);
    if (!stub) {
        Emit e = { .n = 0 };
        emit_form(&e, form);
        unsigned room = (e.n + 15) & ~15u;
        if (region_used + room <= REGION_SIZE) {
            memcpy(region_rw + region_used, e.code, e.n);
            memset(region_rw + region_used + e.n, 0xcc, room - e.n);
            stub = region_rx + region_used;
            region_used += room;
            g_hash_table_insert(stubs, g_memdup2(key, 16), stub);
        }
    }
    pthread_mutex_unlock(&region_lock);
    return stub;
}

static void emit_native(Emit *e, const void *form)
{
    emit_stub(e, form);
}

NativeStub *native_stub(const NativeForm *form)
{
    uint64_t key[2];
    make_key(form, key);
    return (NativeStub *)stub_for(key, emit_native, form);
}

/* ---- AVX-512 ----
 * rdi image, rsi NativeEvexArgs; vector operands: reg zmm1, vvvv zmm2, rm zmm3; masks: EVEX.aaa k1, reg k2,
 * vvvv k3, rm k4; general operand: rax. */

enum { K_EVEX = 1, K_REG, K_VVVV, K_RM };

/* vmovups zmm, [rsi + 64 * slot] or back. */
static void emit_zmm(Emit *e, bool store, unsigned zmm, unsigned slot)
{
    EMIT(e, 0x62, 0xf1, 0x7c, 0x48, (uint8_t)(store ? 0x11 : 0x10), (uint8_t)(0x40 | zmm << 3 | G_SI),
         (uint8_t)slot);
}

/* kmovq k, [rsi + offset] or back. */
static void emit_kmov(Emit *e, bool store, unsigned k, size_t offset)
{
    EMIT(e, 0xc4, 0xe1, 0xf8, (uint8_t)(store ? 0x91 : 0x90), (uint8_t)(0x80 | k << 3 | G_SI));
    emit32(e, (uint32_t)offset);
}

/* mov rax, [rsi + offset] or back. */
static void emit_rax(Emit *e, bool store, size_t offset)
{
    EMIT(e, 0x48, (uint8_t)(store ? 0x89 : 0x8b), 0x80 | G_SI);
    emit32(e, (uint32_t)offset);
}

static unsigned evex_number(uint8_t kind, unsigned vector, unsigned mask)
{
    return kind == NATIVE_E_VEC ? vector : kind == NATIVE_E_MASK ? mask : G_AX;
}

static void emit_evex_insn(Emit *e, const NativeEvexForm *f)
{
    unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0;
    unsigned reg = f->reg_kind == NATIVE_E_DIGIT ? f->digit : evex_number(f->reg_kind, X_REG, K_REG);
    unsigned vvvv = f->vvvv_kind == NATIVE_E_NONE ? 0 : evex_number(f->vvvv_kind, X_VVVV, K_VVVV);
    if (f->evex) {
        EMIT(e, 0x62, (uint8_t)(0xf0 | f->map), (uint8_t)(f->w << 7 | (~vvvv & 15) << 3 | 4 | pp),
             (uint8_t)(f->z << 7 | f->ll << 5 | f->b << 4 | 8 | (f->masked ? K_EVEX : 0)));
    } else {
        EMIT(e, 0xc4, (uint8_t)(0xe0 | f->map), (uint8_t)(f->w << 7 | (~vvvv & 15) << 3 | f->ll << 2 | pp));
    }
    EMIT(e, f->opcode);
    if (f->rm_kind == NATIVE_E_MEM) {
        EMIT(e, (uint8_t)(0x80 | reg << 3 | G_SI));
        emit32(e, offsetof(NativeEvexArgs, rm));
    } else {
        EMIT(e, (uint8_t)(0xc0 | reg << 3 | evex_number(f->rm_kind, X_RM, K_RM)));
    }
    if (f->has_imm) {
        EMIT(e, f->imm);
    }
}

static void emit_evex_stub(Emit *e, const void *form)
{
    const NativeEvexForm *f = form;
    const uint8_t kinds[3] = { f->reg_kind, f->vvvv_kind, f->rm_kind };
    static const size_t masks[3] = { offsetof(NativeEvexArgs, reg_mask), offsetof(NativeEvexArgs, vvvv_mask),
                                     offsetof(NativeEvexArgs, rm_mask) };
    bool gpr = f->reg_kind == NATIVE_E_GPR || f->rm_kind == NATIVE_E_GPR;
    for (unsigned i = 0; i < 3; i++) {
        if (kinds[i] == NATIVE_E_VEC) {
            emit_zmm(e, false, X_REG + i, i);
        } else if (kinds[i] == NATIVE_E_MASK) {
            emit_kmov(e, false, K_REG + i, masks[i]);
        }
    }
    if (f->masked) {
        emit_kmov(e, false, K_EVEX, offsetof(NativeEvexArgs, mask));
    }
    if (gpr) {
        emit_rax(e, false, offsetof(NativeEvexArgs, gpr));
    }
    if (f->flags & NATIVE_E_FP) {
        EMIT(e, 0x0f, 0xae, 0x57, XSAVE_MXCSR); /* ldmxcsr [rdi+24] */
    }
    emit_evex_insn(e, f);
    if (f->flags & NATIVE_E_OUT_FLAGS) {
        EMIT(e, 0x9c, 0x8f, 0x80 | G_SI); /* pushfq; pop [rsi+flags] */
        emit32(e, offsetof(NativeEvexArgs, flags));
    }
    if (f->flags & NATIVE_E_FP) {
        EMIT(e, 0x0f, 0xae, 0x5f, XSAVE_MXCSR); /* stmxcsr [rdi+24] */
        /* mov dword [rsp-8], HOST_MXCSR; ldmxcsr [rsp-8] */
        EMIT(e, 0xc7, 0x44, 0x24, 0xf8);
        emit32(e, HOST_MXCSR);
        EMIT(e, 0x0f, 0xae, 0x54, 0x24, 0xf8);
    }
    for (unsigned i = 0; i < 3; i++) {
        if (!(f->flags & 1u << i)) {
            continue;
        }
        if (kinds[i] == NATIVE_E_VEC) {
            emit_zmm(e, true, X_REG + i, i);
        } else if (kinds[i] == NATIVE_E_MASK) {
            emit_kmov(e, true, K_REG + i, masks[i]);
        } else if (kinds[i] == NATIVE_E_GPR) {
            emit_rax(e, true, offsetof(NativeEvexArgs, gpr));
        }
    }
    EMIT(e, 0xc5, 0xf8, 0x77, 0x31, 0xc0, 0xc3); /* vzeroupper; xor eax, eax; ret */
}

NativeEvexStub *native_evex_stub(const NativeEvexForm *f)
{
    uint64_t key[2] = { (uint64_t)f->map | (uint64_t)f->opcode << 8 | (uint64_t)f->prefix << 16 |
                            (uint64_t)f->ll << 24 | (uint64_t)f->w << 26 | (uint64_t)f->b << 27 |
                            (uint64_t)f->z << 28 | (uint64_t)f->masked << 29 | (uint64_t)f->has_imm << 30 |
                            (uint64_t)f->evex << 31 | (uint64_t)(f->has_imm ? f->imm : 0) << 32 |
                            (uint64_t)f->digit << 40,
                        /* The top bit tells these keys from make_key()'s. */
                        (uint64_t)f->flags | (uint64_t)f->reg_kind << 8 | (uint64_t)f->vvvv_kind << 16 |
                            (uint64_t)f->rm_kind << 24 | UINT64_C(1) << 63 };
    return (NativeEvexStub *)stub_for(key, emit_evex_stub, f);
}
