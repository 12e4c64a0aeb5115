/*
 * The native side of the oracle: see native_run.h. One thread only; the handlers run on their own stack, and
 * touch no thread-local storage before the host's FS base is back. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "native_run.h"

#include <asm/ldt.h>
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define FRAME_MAGIC1 0x46505853u
#define FRAME_MAGIC2 0x46505845u
#define HOST_CS32    0x23 /* Linux: __USER32_CS, __USER_DS */
#define HOST_DS      0x2b
#define LDT_CODE16   0x07 /* entry 0, LDT, RPL 3 */
#define LDT_DATA     0x0f

/* Where the kernel says how large the extended state of a signal frame is: bytes 464 on of the legacy area
 * (struct _fpx_sw_bytes of the kernel's sigcontext.h). */
typedef struct FrameSwBytes {
    uint32_t magic1, extended_size;
    uint64_t xfeatures;
    uint32_t xstate_size, padding[7];
} FrameSwBytes;
#define FRAME_SW_OFFSET 464

static uint8_t *code_alias, *data_alias;
static ucontext_t template_uc;                               /* of a frame that the kernel made */
static uint8_t frame_fp[16384] __attribute__((aligned(64))); /* the extended state that goes in */
static uint8_t host_fp[16384] __attribute__((aligned(64)));  /* clean state to come back with */
static size_t fp_size;                                       /* including the trailing magic */
static ucontext_t run_uc __attribute__((aligned(16)));
static CaseOutcome *run_out; /* of the case that runs */
static volatile int running;
static bool has_segments;
static CaseLayout layout;
static const unsigned avx512_size[3] = { 64, 512, 1024 };

/* Used from assembly. */
uint64_t native_host_fs, native_host_gs, native_case_fs, native_case_gs, native_host_rsp;
extern const char native_resume[];
void native_enter(void *frame);
void native_handler_entry(int sig, siginfo_t *info, void *context);
void native_handler(int sig, siginfo_t *info, void *context);

__asm__(".text\n"
        ".type native_enter,@function\n"
        "native_enter:\n"
        "  push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "  mov %rsp, native_host_rsp(%rip)\n"
        "  push $0x202\n popfq\n" /* rt_sigreturn leaves ID and NT as they are */
        "  mov %rdi, %rsp\n"
        "  mov native_case_fs(%rip), %rax\n wrfsbase %rax\n"
        "  mov native_case_gs(%rip), %rax\n wrgsbase %rax\n"
        "  mov $15, %eax\n" /* rt_sigreturn */
        "  syscall\n"
        "  ud2\n"
        ".globl native_resume\n"
        "native_resume:\n"
        "  pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
        "  ret\n"
        ".type native_handler_entry,@function\n"
        "native_handler_entry:\n"
        "  pushfq\n andl $~0x40000, (%rsp)\n popfq\n" /* the case's AC */
        "  rdfsbase %rax\n mov %rax, native_case_fs(%rip)\n"
        "  rdgsbase %rax\n mov %rax, native_case_gs(%rip)\n"
        "  mov native_host_fs(%rip), %rax\n wrfsbase %rax\n"
        "  mov native_host_gs(%rip), %rax\n wrgsbase %rax\n"
        "  jmp native_handler\n");

static const int reg_order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

static int get_template(const ucontext_t *uc)
{
    const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;
    FrameSwBytes sw;
    memcpy(&sw, fp + FRAME_SW_OFFSET, sizeof(sw));
    if (sw.magic1 != FRAME_MAGIC1 || sw.extended_size > sizeof(frame_fp) ||
        sw.xstate_size < CASE_XSAVE_BASE) {
        return -1;
    }
    fp_size = sw.extended_size;
    memcpy(frame_fp, fp, fp_size);
    memcpy(host_fp, fp, fp_size);
    template_uc = *uc;
    return 0;
}

void native_handler(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    if (!running) {
        if (sig == SIGUSR1) {
            get_template(uc);
            return;
        }
        /* A fault of the test program itself: let it die in the usual way. */
        signal(sig, SIG_DFL);
        return;
    }
    running = 0;
    const greg_t *g = uc->uc_mcontext.gregs;
    CaseOutcome *out = run_out;
    for (int i = 0; i < 16; i++) {
        out->state.regs[i] = (uint64_t)g[reg_order[i]];
    }
    out->state.rip = (uint64_t)g[REG_RIP];
    out->state.rflags = (uint64_t)g[REG_EFL];
    out->vector = (int)g[REG_TRAPNO];
    out->error_code = (uint32_t)g[REG_ERR];
    out->cr2 = (uint64_t)g[REG_CR2];
    if (sig == SIGTRAP && out->vector == 1) {
        out->vector = -1;
    }
    const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;
    memcpy(out->state.xsave, fp, CASE_XSAVE_BASE);
    uint64_t bv;
    memcpy(&bv, fp + 512, 8);
    if (!(bv & 1)) {
        memset(out->state.xsave, 0, 24);
        memset(out->state.xsave + 32, 0, 128);
        out->state.xsave[0] = 0x7f;
        out->state.xsave[1] = 0x03;
    }
    if (!(bv & 2)) {
        memset(out->state.xsave + 160, 0, 256);
    }
    if (!(bv & 4)) {
        memset(out->state.xsave + CASE_XSAVE_AVX, 0, 256);
    }
    if (layout.opmask) {
        const unsigned at[3] = { layout.opmask, layout.zmm_hi, layout.hi16 };
        for (unsigned i = 0; i < 3; i++) {
            if (bv >> (5 + i) & 1) {
                memcpy(out->state.xsave + at[i], fp + at[i], avx512_size[i]);
            } else {
                memset(out->state.xsave + at[i], 0, avx512_size[i]);
            }
        }
    }
    /* Go on behind native_enter, with the host's own state. */
    memcpy(uc->uc_mcontext.fpregs, host_fp, fp_size);
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)native_resume;
    uc->uc_mcontext.gregs[REG_RSP] = (greg_t)native_host_rsp;
    uc->uc_mcontext.gregs[REG_EFL] = 0x202;
    uc->uc_mcontext.gregs[REG_CSGSFS] = template_uc.uc_mcontext.gregs[REG_CSGSFS];
}

static bool map_pages(void)
{
    int fd = memfd_create("oracle", MFD_CLOEXEC);
    size_t size = (size_t)CASE_PAGE * (1 + CASE_DATA_PAGES);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        return false;
    }
    uint8_t *alias = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (alias == MAP_FAILED) {
        return false;
    }
    code_alias = alias;
    data_alias = alias + CASE_PAGE;
    if (mmap((void *)CASE_CODE_BASE, CASE_PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, fd,
             0) == MAP_FAILED) {
        return false;
    }
    static const int prot[CASE_DATA_PAGES] = { PROT_NONE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
                                               PROT_READ, PROT_NONE };
    for (unsigned i = 0; i < CASE_DATA_PAGES; i++) {
        if (prot[i] != PROT_NONE &&
            mmap((void *)(CASE_DATA_BASE + i * CASE_PAGE), CASE_PAGE, prot[i],
                 MAP_SHARED | MAP_FIXED_NOREPLACE, fd, (off_t)CASE_PAGE * (1 + i)) == MAP_FAILED) {
            return false;
        }
    }
    /* Touch everything: a page that is not there yet would be a fault that the kernel mends unseen, but
     * slowly. */
    memset(alias, 0, size);
    close(fd);
    return true;
}

/* Segments in the local descriptor table: 16-bit code, and data with a base and a limit. */
static void make_segments(void)
{
    struct user_desc code = { .entry_number = 0,
                              .base_addr = (unsigned)CASE_CODE_BASE,
                              .limit = 0xffff,
                              .contents = MODIFY_LDT_CONTENTS_CODE };
    struct user_desc data = { .entry_number = 1,
                              .base_addr = (unsigned)CASE_DATA_BASE,
                              .limit = CASE_PAGE * CASE_DATA_PAGES - 1,
                              .seg_32bit = 1,
                              .contents = MODIFY_LDT_CONTENTS_DATA };
    has_segments = syscall(SYS_modify_ldt, 1, &code, sizeof(code)) == 0 &&
                   syscall(SYS_modify_ldt, 1, &data, sizeof(data)) == 0;
}

static void find_layout(void)
{
    unsigned a, b, c, d, at[3], low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0xe6) != 0xe6) {
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        __cpuid_count(0xd, 5 + i, a, b, c, d);
        if (a != avx512_size[i] || b < CASE_XSAVE_BASE || b + a > CASE_XSAVE_SIZE) {
            return;
        }
        at[i] = b;
    }
    layout = (CaseLayout){ at[0], at[1], at[2] };
}

const CaseLayout *native_layout(void)
{
    return &layout;
}

bool native_has_segments(void)
{
    return has_segments;
}

const char *native_setup(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1) || !(getauxval(AT_HWCAP2) & 2)) {
        return "the host does not let programs write the FS base";
    }
    __cpuid_count(0xd, 2, a, b, c, d);
    if (a != 256 || b != CASE_XSAVE_AVX) {
        return "the host has no AVX state at the usual place";
    }
    find_layout();
    if (!map_pages()) {
        return "the test's fixed addresses cannot be mapped";
    }
    static uint8_t stack[65536] __attribute__((aligned(64)));
    stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
    sigaltstack(&ss, NULL);
    __asm__ volatile("rdfsbase %0" : "=r"(native_host_fs));
    __asm__ volatile("rdgsbase %0" : "=r"(native_host_gs));
    make_segments();
    struct sigaction sa = { .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
    sa.sa_sigaction = native_handler_entry;
    static const int signals[] = { SIGUSR1, SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE };
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        sigaction(signals[i], &sa, NULL);
    }
    raise(SIGUSR1);
    if (!fp_size) {
        return "the kernel's signal frame is not as expected";
    }
    /* Until a hypervisor below this host has seen each page, faults may say "not present": write to the
     * read-only one. */
    static CaseState state = { .rip = CASE_CODE_BASE, .rflags = 0x202 };
    static CaseOutcome outcome;
    static const uint8_t store[] = { 0x88, 0x00 }; /* mov [rax], al */
    memcpy(state.xsave, host_fp, 512);
    memcpy(code_alias, store, sizeof(store));
    state.regs[0] = CASE_DATA_BASE + 3 * CASE_PAGE;
    for (int i = 0; i < 100 && outcome.error_code != 7; i++) {
        native_run(&state, CASE_64, &outcome);
    }
    return outcome.vector == 14 ? NULL : "stepping one instruction does not work";
}

uint8_t *native_code(void)
{
    return code_alias;
}

uint8_t *native_data(void)
{
    return data_alias;
}

void native_run(const CaseState *in, CaseMode mode, CaseOutcome *out)
{
    run_uc = template_uc;
    greg_t *g = run_uc.uc_mcontext.gregs;
    for (int i = 0; i < 16; i++) {
        g[reg_order[i]] = (greg_t)in->regs[i];
    }
    g[REG_RIP] = (greg_t)in->rip;
    g[REG_EFL] = (greg_t)(in->rflags | 0x100);
    uint16_t ds = HOST_DS;
    if (mode != CASE_64) {
        uint64_t sel = (uint64_t)g[REG_CSGSFS];
        sel = (sel & ~UINT64_C(0xffff)) | (mode == CASE_16 ? LDT_CODE16 : HOST_CS32);
        g[REG_CSGSFS] = (greg_t)sel;
    }
    if (mode == CASE_16) {
        g[REG_RIP] -= (greg_t)CASE_CODE_BASE;
    }
    if (case_mode_segmented(mode)) {
        ds = LDT_DATA;
    }
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(ds));
    FrameSwBytes sw;
    memcpy(&sw, host_fp + FRAME_SW_OFFSET, sizeof(sw));
    memcpy(frame_fp, in->xsave, 416);
    memcpy(frame_fp + CASE_XSAVE_AVX, in->xsave + CASE_XSAVE_AVX, 256);
    memset(frame_fp + 512, 0, 64);
    frame_fp[512] = 7;
    if (layout.opmask) {
        const unsigned at[3] = { layout.opmask, layout.zmm_hi, layout.hi16 };
        for (unsigned i = 0; i < 3; i++) {
            memcpy(frame_fp + at[i], in->xsave + at[i], avx512_size[i]);
        }
        frame_fp[512] |= 0xe0;
    }
    run_uc.uc_mcontext.fpregs = (void *)frame_fp;
    native_case_fs = in->fs_base;
    native_case_gs = in->gs_base;
    run_out = out;
    running = 1;
    native_enter(&run_uc);
    if (mode == CASE_16) {
        out->state.rip += CASE_CODE_BASE;
    }
    out->state.fs_base = native_case_fs;
    out->state.gs_base = native_case_gs;
}
