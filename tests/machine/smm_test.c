/*
 * System management mode on the interpreter, with the parts of the board that it needs: the i440FX's SMRAM
 * and the PIIX4's APM port. Guest code relocates SMBASE, handles SMIs and comes back to every mode. Offsets
 * are AMD APM vol. 2 table 10-1, written out once more on purpose. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tests/machine/test_board.h"

#include "accel/soft/interp/interp.h"
#include "accel/soft/interp/native.h"
#include "arch/x86/apic.h"
#include "arch/x86/flags.h"
#include "arch/x86/mmu.h"
#include "arch/x86/segment.h"
#include "arch/x86/system.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/pci/i440fx.h"

/* Guest memory. */
#define CODE        0x20000u /* the program under test */
#define PAGES       0x10000u /* page tables, one page each */
#define PATCHES     0x7000u  /* count, then { offset, value } of 8 bytes each: what the handler changes */
#define SEEN        0x7800u  /* what the handler saw */
#define GDT         0x5000u
#define IDT         0x5800u
#define TSS         0x6000u
#define SMBASE      0xa0000u
#define RESET_BASE  0x30000u
#define ENTRY       0x8000u
#define PORT_PROBE  0xe1 /* remembers the registers */
#define PORT_FINISH 0xe2 /* ends the run */
#define PORT_EVENT  0xe3 /* what the test does in the middle of the guest's code */

/* Guest code as the assembler makes it: name to name_end. */
#define GUEST(name, bits, text)                                              \
    asm(".pushsection .rodata\n" #name ":\n.code" #bits "\n" text "\n" #name \
        "_end:\n.code64\n.popsection\n");                                    \
    extern const uint8_t name[] __attribute__((visibility("hidden")));       \
    extern const uint8_t name##_end[] __attribute__((visibility("hidden")))

/* Ports have one encoding in all modes: remember, SMI, remember, end. */
GUEST(probe_code, 64, "out %al, $0xe1; out %al, $0xb2; out %al, $0xe1; out %al, $0xe2");

/* The first handler, in ordinary memory. DS has base 0; CS has SMBASE. */
GUEST(relocate_handler, 16, "movl $0xa0000, %cs:0xff00; rsm");

/* The handler in SMRAM. Notes what SMM began with, does something in the middle, then changes the save area
 * as the list says. */
GUEST(handler, 16,
      "movl %eax, %cs:0x9000\n"
      "movl %ebp, %cs:0x9004; movl %ecx, %cs:0x9008; movl %edi, %cs:0x900c\n"
      "mov %cr0, %eax; mov %eax, 0x7800\n"
      "mov %cr4, %eax; mov %eax, 0x7804\n"
      "mov $0xc0000080, %ecx; rdmsr; mov %eax, 0x7808\n"
      "mov %dr7, %eax; mov %eax, 0x780c\n"
      "mov %cs, %ax; mov %ax, 0x7810\n"
      "incl 0x7814\n"
      "out %al, $0xe3\n"
      "mov 0x7000, %ecx\n"
      "mov $0x7008, %bp\n"
      "1: jecxz 2f\n"
      "mov %ds:(%bp), %di\n"
      "mov %ds:8(%bp), %eax; mov %eax, %cs:(%di)\n"
      "mov %ds:12(%bp), %eax; mov %eax, %cs:4(%di)\n"
      "add $16, %bp\n"
      "dec %ecx; jmp 1b\n"
      "2: rsm");

/* What PC firmware does, in real mode: an SMI at the reset SMBASE moves it; SMRAM is opened, filled (from
 * CS:0x100 here), closed and locked; the next SMI runs there. Ends with what is visible at 0xa8000 in EBX. */
GUEST(firmware, 16,
      "mov $0x80000b58, %eax; mov $0xcf8, %dx; out %eax, %dx\n"
      "mov $0x02000000, %eax; mov $0xcfc, %dx; out %eax, %dx\n" /* DEVACTB: APMC_EN */
      "mov $0x11, %al; out %al, $0xb2\n"
      "mov $0x80000070, %eax; mov $0xcf8, %dx; out %eax, %dx\n"
      "mov $0x4a, %al; mov $0xcfe, %dx; out %al, %dx\n" /* SMRAM: open, enabled */
      "mov $0xa000, %ax; mov %ax, %es; mov $0x100, %si; mov $0x8000, %di; mov $256, %cx\n"
      "cld; rep movsb %cs:(%si), %es:(%di)\n"
      "mov $0x1a, %al; mov $0xcfe, %dx; out %al, %dx\n" /* closed and locked */
      "mov $0x4a, %al; out %al, %dx\n"                  /* and not to be opened again */
      "mov %es:0x8000, %ebx\n"
      "mov $0x22, %al; out %al, $0xb2\n"
      "hlt");

typedef struct Snapshot {
    uint64_t regs[16];
    X86Segment segs[SEG_ALL];
    X86Table gdt, idt;
    uint64_t cr0, cr3, cr4, efer, dr6, dr7, rflags;
    uint32_t mode;
    uint8_t cpl;
    bool nmi_blocked, in_smm;
} Snapshot;

typedef struct Rig {
    TestBoard *board;
    MemoryRegion pci, smram_root, smram_view, probe, rom;
    AddressSpace *smram;
    Device *host, *pm;
    X86Cpu *cpu;
    Snapshot seen[4];
    unsigned seen_count, resets;
    void (*event)(struct Rig *r);
    unsigned events;
} Rig;

static void request_reset(void *opaque)
{
    ((Rig *)opaque)->resets++;
}

static void snapshot(Rig *r)
{
    X86Cpu *cpu = r->cpu;

    g_assert_cmpuint(r->seen_count, <, G_N_ELEMENTS(r->seen));
    Snapshot *s = &r->seen[r->seen_count++];
    memset(s, 0, sizeof(*s));
    memcpy(s->regs, cpu->regs, sizeof(s->regs));
    memcpy(s->segs, cpu->segs, sizeof(s->segs));
    s->gdt = cpu->gdt;
    s->idt = cpu->idt;
    s->cr0 = cpu->cr0;
    s->cr3 = cpu->cr3;
    s->cr4 = cpu->cr4;
    s->efer = cpu->efer;
    s->dr6 = cpu->dr[6];
    s->dr7 = cpu->dr[7];
    s->rflags = x86_get_rflags(cpu);
    s->mode = cpu->mode;
    s->cpl = cpu->cpl;
    s->nmi_blocked = cpu->nmi_blocked;
    s->in_smm = cpu->in_smm;
}

static uint64_t port_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0;
}

static void port_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Rig *r = opaque;

    switch (PORT_PROBE + offset) {
    case PORT_PROBE:
        snapshot(r);
        break;
    case PORT_FINISH:
        cpu_interrupt(r->cpu, CPU_INTERRUPT_EXIT);
        break;
    case PORT_EVENT:
        r->events++;
        if (r->event) {
            r->event(r);
        }
        break;
    }
}

static const MemoryRegionOps port_ops = {
    .read = port_read,
    .write = port_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

static void smram_write(Rig *r, uint64_t gpa, const void *from, size_t size)
{
    g_assert_cmpint(address_space_write(r->smram, gpa, MEMTXATTRS_NONE, from, size), ==, MEMTX_OK);
}

/* From the save area; offset as in the table, 0xfe00 to 0xffff. */
static uint64_t saved(Rig *r, unsigned offset, unsigned size)
{
    uint64_t value = 0;

    g_assert_cmpint(address_space_read(r->smram, r->cpu->smbase + offset, MEMTXATTRS_NONE, &value, size), ==,
                    MEMTX_OK);
    return value;
}

/* Asks the handler to change the save area. */
static void patch(Rig *r, unsigned offset, uint64_t value)
{
    uint32_t count = (uint32_t)test_read(r->board, PATCHES, 4);

    test_write(r->board, PATCHES + 8 + count * 16, 8, offset);
    test_write(r->board, PATCHES + 16 + count * 16, 8, value);
    test_write(r->board, PATCHES, 4, count + 1);
}

static void config_write(Rig *r, unsigned devfn, unsigned reg, uint8_t value)
{
    test_out(r->board, 0xcf8, 4, 0x80000000u | devfn << 8 | (reg & 0xfc));
    test_outb(r->board, 0xcfc + (reg & 3), value);
}

static Rig *rig_new(const char *smm_enabled)
{
    Rig *r = g_new0(Rig, 1);
    TestBoard *b = r->board = test_board_new();
    GError *error = NULL;

    memory_region_init(&r->pci, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&b->memory_root, 0, &r->pci, -1);
    memory_region_init(&r->smram_root, NULL, "smram", UINT64_MAX);
    memory_region_init_alias(&r->smram_view, NULL, "system-in-smm", &b->memory_root, 0, UINT64_MAX);
    memory_region_add(&r->smram_root, 0, &r->smram_view);
    r->smram = address_space_new(&r->smram_root, "cpu-smm");
    r->host = device_new_unattached(b->root, TYPE_I440FX_HOST, NULL);
    i440fx_set_memory(r->host, &b->ram, &r->pci, &r->smram_root);
    g_assert_true(device_realize(r->host, NULL, &b->env, &error));
    device_reset(r->host);
    r->pm = test_board_add(b, TYPE_PIIX4_PM, BUS(i440fx_bus(r->host)), "addr", "1.3", "smm-enabled",
                           smm_enabled, NULL);
    memory_region_init_io(&r->probe, NULL, &port_ops, r, "probe", 3, NULL);
    memory_region_add(&b->io_root, PORT_PROBE, &r->probe);
    /* HLT at the reset vector. */
    g_assert_true(memory_region_init_rom(&r->rom, NULL, "bios", 0x1000, &error));
    memset(r->rom.ram->host, 0xf4, 0x1000);
    memory_region_add(&b->memory_root, 0xfffff000, &r->rom);
    g_assert_true(native_init(&error));
    r->cpu = X86_CPU(object_new_known("max-" TYPE_X86_CPU));
    X86CpuEnv env = { .memory = b->memory,
                      .smram = r->smram,
                      .io = b->io,
                      .apic_bus = b->apic_bus,
                      .clocks = b->clocks,
                      .request_reset = request_reset,
                      .opaque = r };
    g_assert_true(x86_cpu_realize(r->cpu, &env, &error));
    g_assert_no_error(error);
    interp_vcpu_init(r->cpu);
    mmu_process_pending(r->cpu);
    return r;
}

static void rig_free(Rig *r)
{
    TestBoard *b = r->board;

    interp_vcpu_destroy(r->cpu);
    x86_cpu_unrealize(r->cpu);
    object_unref(OBJECT(r->cpu));
    memory_region_del(&b->io_root, &r->probe);
    memory_region_destroy(&r->probe);
    memory_region_del(&b->memory_root, &r->rom);
    memory_region_destroy(&r->rom);
    device_unrealize_all(b->root);
    address_space_free(r->smram);
    memory_region_del(&r->smram_root, &r->smram_view);
    memory_region_destroy(&r->smram_view);
    memory_region_destroy(&r->smram_root);
    memory_region_del(&b->memory_root, &r->pci);
    test_board_free(b);
    memory_region_destroy(&r->pci);
    g_free(r);
}

typedef enum Mode { REAL16, PROTECTED32, USER32, VM86, COMPATIBILITY32, LONG64, USER64, MODE_COUNT } Mode;
static const char *const mode_names[MODE_COUNT] = { "real",          "32-bit", "32-bit user", "virtual-8086",
                                                    "compatibility", "64-bit", "64-bit user" };

static X86Segment segment(uint16_t selector, uint64_t base, uint32_t limit, uint32_t attr)
{
    return (X86Segment){ .selector = selector, .attr = attr | DESC_P, .limit = limit, .base = base };
}

/* Everything that the save area holds has a value of its own. */
static void set_mode(Rig *r, Mode mode)
{
    X86Cpu *cpu = r->cpu;
    bool lma = mode >= COMPATIBILITY32, user = mode == USER32 || mode == VM86 || mode == USER64;
    bool is_long = mode == LONG64 || mode == USER64;
    uint32_t dpl = user ? 3u << DESC_DPL_SHIFT : 0, rpl = user ? 3 : 0;
    uint32_t data = DESC_S | DESC_W | DESC_A | dpl, code = DESC_S | DESC_CODE | DESC_R | DESC_A | dpl;

    x86_cpu_reset(cpu, false);
    cpu->interrupt_request = 0;
    for (unsigned i = 0; i < 16; i++) {
        cpu->regs[i] = UINT64_C(0x1010101010101010) * (i + 1);
    }
    if (mode == REAL16 || mode == VM86) {
        for (int i = 0; i < SEG_COUNT; i++) {
            cpu->segs[i] = segment((uint16_t)(0x100 + i), (0x100u + (unsigned)i) << 4, 0xffff, data);
        }
        cpu->segs[SEG_CS] = segment(CODE >> 4, CODE, 0xffff, mode == VM86 ? data : code);
        cpu->rip = 0;
    } else {
        for (int i = 0; i < SEG_COUNT; i++) {
            uint64_t base = i == SEG_FS || i == SEG_GS ? 0x1234000u * (unsigned)i : 0;
            cpu->segs[i] = segment((uint16_t)((8 + 8 * i) | rpl), is_long ? base << 16 : base, UINT32_MAX,
                                   data | DESC_B | DESC_G | DESC_AVL);
        }
        cpu->segs[SEG_CS] =
            segment((uint16_t)(0x80 | rpl), 0, UINT32_MAX, code | DESC_G | (is_long ? DESC_L : DESC_B));
        cpu->rip = CODE;
    }
    cpu->segs[SEG_LDTR] = segment(0x88, 0x4000, 0x1f, 2u << DESC_TYPE_SHIFT);
    /* An I/O bitmap that allows all. */
    cpu->segs[SEG_TR] = segment(0x90, TSS, 0x68 + 0x100, 11u << DESC_TYPE_SHIFT);
    test_write(r->board, TSS + 0x66, 2, 0x68);
    cpu->gdt = (X86Table){ GDT, 0xff };
    cpu->idt = (X86Table){ mode == REAL16 ? 0 : IDT, 0x7ff };
    /* One 2 MiB page (of three levels or four) or, with 32-bit paging, one of 4 MiB, identically mapped. */
    test_write(r->board, PAGES, 8, (PAGES + 0x1000) | 7);
    test_write(r->board, PAGES + 0x1000, 8, (PAGES + 0x2000) | 7);
    test_write(r->board, PAGES + 0x2000, 8, 0xe7);
    test_write(r->board, PAGES + 0x3000, 4, 0xe7);
    cpu->cr0 =
        CR0_ET | CR0_NE | CR0_MP | CR0_WP | (mode != REAL16 ? CR0_PE : 0) | (mode > PROTECTED32 ? CR0_PG : 0);
    cpu->cr3 = lma ? PAGES : PAGES + 0x3000;
    cpu->cr4 = CR4_OSFXSR | CR4_DE | (lma ? CR4_PAE | CR4_PCIDE : CR4_PSE);
    cpu->efer = lma ? EFER_SCE | EFER_NXE | EFER_LME | EFER_LMA : EFER_SCE;
    cpu->dr[6] = 0xffff0ff2;
    cpu->dr[7] = 0x00f00400;
    cpu->cpl = user ? 3 : 0;
    x86_set_rflags(cpu, FLAG_ONE | FLAG_CF | FLAG_SF | FLAG_DF | FLAG_ID | FLAG_IOPL |
                            (mode == VM86 ? FLAG_VM : 0));
    x86_update_mode(cpu);
    mmu_flush(cpu, false);
}

static void load_code(Rig *r, const uint8_t *code, const uint8_t *end)
{
    address_space_write(r->board->memory, CODE, MEMTXATTRS_NONE, code, (size_t)(end - code));
}

/* As a vCPU's thread does, until the guest ends the run or sleeps. */
static void run(Rig *r)
{
    X86Cpu *cpu = r->cpu;

    for (unsigned i = 0; !(cpu->interrupt_request & CPU_INTERRUPT_EXIT); i++) {
        g_assert_cmpuint(i, <, 100); /* a reason to go on that nothing comes of */
        if (cpu->halted) {
            x86_handle_interrupts(cpu);
            if (cpu->halted && !x86_has_work(cpu)) {
                break;
            }
        }
        interp_vcpu_exec(cpu);
    }
    cpu_interrupt_clear(cpu, CPU_INTERRUPT_EXIT);
}

/* With SMBASE and the handler in SMRAM, as firmware leaves them, and SMIs from the APM port. */
static Rig *rig_ready(void)
{
    Rig *r = rig_new("on");

    config_write(r, 0, 0x72, 0x0a);
    config_write(r, PCI_DEVFN(1, 3), 0x5b, 0x02);
    smram_write(r, SMBASE + ENTRY, handler, (size_t)(handler_end - handler));
    return r;
}

static void use_mode(Rig *r, Mode mode)
{
    set_mode(r, mode);
    r->cpu->smbase = SMBASE;
    r->seen_count = r->events = r->resets = 0;
    test_write(r->board, PATCHES, 8, 0);
    test_write(r->board, SEEN + 0x14, 4, 0);
}

static uint32_t handler_runs(Rig *r)
{
    return (uint32_t)test_read(r->board, SEEN + 0x14, 4);
}

static void run_code(Rig *r, Mode mode, const uint8_t *code, const uint8_t *end)
{
    use_mode(r, mode);
    load_code(r, code, end);
    run(r);
}

static void test_firmware(void)
{
    Rig *r = rig_new("on");
    X86Cpu *cpu = r->cpu;

    address_space_write(r->board->memory, RESET_BASE + ENTRY, MEMTXATTRS_NONE, relocate_handler,
                        (size_t)(relocate_handler_end - relocate_handler));
    set_mode(r, REAL16);
    load_code(r, firmware, firmware_end);
    address_space_write(r->board->memory, CODE + 0x100, MEMTXATTRS_NONE, handler,
                        (size_t)(handler_end - handler));
    test_write(r->board, PATCHES, 8, 0);
    test_write(r->board, SEEN + 0x14, 4, 0);
    g_assert_cmphex(cpu->smbase, ==, RESET_BASE);
    run(r);
    g_assert_true(cpu->halted);
    g_assert_cmpuint(r->resets, ==, 0);
    g_assert_cmphex(cpu->smbase, ==, SMBASE);
    g_assert_cmpuint(handler_runs(r), ==, 1);
    g_assert_false(cpu->in_smm);
    g_assert_cmphex(test_inb(r->board, 0xb2), ==, 0x22);
    /* SMRAM is shut: what the guest saw there was PCI's nothing. */
    g_assert_cmphex((uint32_t)cpu->regs[R_RBX], ==, UINT32_MAX);
    uint32_t shut = (uint32_t)test_read(r->board, SMBASE + ENTRY, 4);
    g_assert_cmphex(shut, ==, UINT32_MAX);
    /* INIT keeps SMBASE, reset does not. */
    x86_cpu_reset(cpu, true);
    g_assert_cmphex(cpu->smbase, ==, SMBASE);
    x86_cpu_reset(cpu, false);
    g_assert_cmphex(cpu->smbase, ==, RESET_BASE);
    rig_free(r);
}

static uint32_t table_attr(uint32_t attr)
{
    return (attr >> 8 & 0xff) | (attr >> 12 & 0xf00);
}

static void check_segment(Rig *r, unsigned offset, const X86Segment *s)
{
    g_assert_cmphex(saved(r, offset, 2), ==, s->selector);
    g_assert_cmphex(saved(r, offset + 2, 2), ==, table_attr(s->attr));
    g_assert_cmphex(saved(r, offset + 4, 4), ==, s->limit);
    g_assert_cmphex(saved(r, offset + 8, 8), ==, s->base);
}

static void check_same(const Snapshot *a, const Snapshot *b)
{
    for (unsigned i = 0; i < 16; i++) {
        g_assert_cmphex(a->regs[i], ==, b->regs[i]);
    }
    for (unsigned i = 0; i < SEG_ALL; i++) {
        g_assert_cmphex(a->segs[i].selector, ==, b->segs[i].selector);
        g_assert_cmphex(a->segs[i].attr, ==, b->segs[i].attr);
        g_assert_cmphex(a->segs[i].limit, ==, b->segs[i].limit);
        g_assert_cmphex(a->segs[i].base, ==, b->segs[i].base);
    }
    g_assert_cmphex(a->gdt.base, ==, b->gdt.base);
    g_assert_cmphex(a->gdt.limit, ==, b->gdt.limit);
    g_assert_cmphex(a->idt.base, ==, b->idt.base);
    g_assert_cmphex(a->idt.limit, ==, b->idt.limit);
    g_assert_cmphex(a->cr0, ==, b->cr0);
    g_assert_cmphex(a->cr3, ==, b->cr3);
    g_assert_cmphex(a->cr4, ==, b->cr4);
    g_assert_cmphex(a->efer, ==, b->efer);
    g_assert_cmphex(a->dr6, ==, b->dr6);
    g_assert_cmphex(a->dr7, ==, b->dr7);
    g_assert_cmphex(a->rflags, ==, b->rflags);
    g_assert_cmphex(a->mode, ==, b->mode);
    g_assert_cmpuint(a->cpl, ==, b->cpl);
    g_assert_cmpint(a->nmi_blocked, ==, b->nmi_blocked);
    g_assert_cmpint(a->in_smm, ==, b->in_smm);
}

/* In SMM: how it begins (AMD APM vol. 2 table 10-3). */
static void check_inside(Rig *r)
{
    X86Cpu *cpu = r->cpu;

    g_assert_true(cpu->in_smm);
    g_assert_true(cpu->nmi_blocked);
    g_assert_cmpuint(cpu->cpl, ==, 0);
    g_assert_cmphex(x86_get_rflags(cpu) & ~(uint64_t)FLAGS_ARITH, ==, FLAG_ONE);
    g_assert_cmphex(cpu->segs[SEG_CS].base, ==, SMBASE);
    g_assert_cmphex(cpu->segs[SEG_CS].limit, ==, UINT32_MAX);
    for (int i = 0; i < SEG_COUNT; i++) {
        if (i != SEG_CS) {
            g_assert_cmphex(cpu->segs[i].selector, ==, 0);
            g_assert_cmphex(cpu->segs[i].base, ==, 0);
            g_assert_cmphex(cpu->segs[i].limit, ==, UINT32_MAX);
        }
    }
    /* Not touched. */
    g_assert_cmphex(cpu->gdt.base, ==, GDT);
    g_assert_cmphex(cpu->segs[SEG_TR].selector, ==, 0x90);
    g_assert_cmphex(cpu->dr[6], ==, 0xffff0ff2);
}

/* From each mode into SMM and back: the save area, the mode in between, and the same registers behind it. */
static void test_modes(void)
{
    Rig *r = rig_ready();

    for (Mode mode = REAL16; mode < MODE_COUNT; mode++) {
        g_test_message("%s", mode_names[mode]);
        r->event = check_inside;
        run_code(r, mode, probe_code, probe_code_end);
        g_assert_cmpuint(r->resets, ==, 0);
        g_assert_cmpuint(handler_runs(r), ==, 1);
        g_assert_cmpuint(r->events, ==, 1);
        g_assert_cmpuint(r->seen_count, ==, 2);
        const Snapshot *s = &r->seen[0];
        check_same(s, &r->seen[1]);
        g_assert_false(s->in_smm);

        static const uint16_t segments[SEG_ALL] = { 0xfe00, 0xfe10, 0xfe20, 0xfe30,
                                                    0xfe40, 0xfe50, 0xfe70, 0xfe90 };
        for (unsigned i = 0; i < SEG_ALL; i++) {
            check_segment(r, segments[i], &s->segs[i]);
        }
        g_assert_cmphex(saved(r, 0xfe64, 2), ==, s->gdt.limit);
        g_assert_cmphex(saved(r, 0xfe68, 8), ==, s->gdt.base);
        g_assert_cmphex(saved(r, 0xfe84, 2), ==, s->idt.limit);
        g_assert_cmphex(saved(r, 0xfe88, 8), ==, s->idt.base);
        g_assert_cmphex(saved(r, 0xfec8, 1), ==, 0); /* no I/O restart */
        g_assert_cmphex(saved(r, 0xfec9, 1), ==, 0); /* was not halted */
        g_assert_cmphex(saved(r, 0xfed0, 8), ==, s->efer);
        g_assert_cmphex(saved(r, 0xfefc, 4), ==, 0x00020064);
        g_assert_cmphex(saved(r, 0xff00, 4), ==, SMBASE);
        g_assert_cmphex(saved(r, 0xff48, 8), ==, s->cr4);
        g_assert_cmphex(saved(r, 0xff50, 8), ==, s->cr3);
        g_assert_cmphex(saved(r, 0xff58, 8), ==, s->cr0);
        g_assert_cmphex(saved(r, 0xff60, 8), ==, s->dr7);
        g_assert_cmphex(saved(r, 0xff68, 8), ==, s->dr6);
        g_assert_cmphex(saved(r, 0xff70, 8), ==, s->rflags);
        /* Right behind the OUT that raised it. */
        g_assert_cmphex(saved(r, 0xff78, 8), ==, (mode == REAL16 || mode == VM86 ? 0 : CODE) + 4);
        static const uint8_t order[16] = { R_R15, R_R14, R_R13, R_R12, R_R11, R_R10, R_R9,  R_R8,
                                           R_RDI, R_RSI, R_RBP, R_RSP, R_RBX, R_RDX, R_RCX, R_RAX };
        for (unsigned i = 0; i < 16; i++) {
            g_assert_cmphex(saved(r, 0xff80 + i * 8, 8), ==, s->regs[order[i]]);
        }
        /* What the handler itself saw. */
        g_assert_cmphex(test_read(r->board, SEEN, 4), ==,
                        s->cr0 & ~(uint64_t)(CR0_PE | CR0_PG | CR0_TS | CR0_EM));
        g_assert_cmphex(test_read(r->board, SEEN + 4, 4), ==, 0);      /* CR4 */
        g_assert_cmphex(test_read(r->board, SEEN + 8, 4), ==, 0);      /* EFER */
        g_assert_cmphex(test_read(r->board, SEEN + 12, 4), ==, 0x400); /* DR7 */
        g_assert_cmphex(test_read(r->board, SEEN + 16, 2), ==, SMBASE >> 4);
    }
    rig_free(r);
}

/* Behind the SMI: the new registers are there, and the program goes on elsewhere. */
GUEST(resume_code, 64,
      "out %al, $0xb2\n"
      "ud2\n"
      ".org resume_code + 0x40\n"
      "mov %rax, 0x7900; mov %r15, 0x7908; pushf; popq 0x7910; mov %gs, 0x7918; out %al, $0xe2");

static void test_modified_registers(void)
{
    Rig *r = rig_ready();

    use_mode(r, LONG64);
    load_code(r, resume_code, resume_code_end);
    r->cpu->regs[R_RSP] = 0x4f00;
    patch(r, 0xfff8, UINT64_C(0xfedcba9876543210));
    patch(r, 0xff80, UINT64_C(0x0123456789abcdef));
    patch(r, 0xff78, CODE + 0x40);
    patch(r, 0xff70, FLAG_ONE | FLAG_ZF | FLAG_IF);
    patch(r, 0xfe50, UINT64_C(0xffffffff0c9300a8)); /* GS: selector, attributes, limit */
    run(r);
    g_assert_cmpuint(r->resets, ==, 0);
    g_assert_cmphex(test_read(r->board, 0x7900, 8), ==, UINT64_C(0xfedcba9876543210));
    g_assert_cmphex(test_read(r->board, 0x7908, 8), ==, UINT64_C(0x0123456789abcdef));
    g_assert_cmphex(test_read(r->board, 0x7910, 8), ==, FLAG_ONE | FLAG_ZF | FLAG_IF);
    g_assert_cmphex(test_read(r->board, 0x7918, 2), ==, 0xa8);
    g_assert_cmphex(r->cpu->segs[SEG_GS].attr, ==, DESC_P | DESC_S | DESC_W | DESC_A | DESC_B | DESC_G);

    /* Into another mode than it came from: the save area says real mode. */
    use_mode(r, LONG64);
    load_code(r, probe_code, probe_code_end);
    patch(r, 0xff58, CR0_ET);
    patch(r, 0xff48, 0);
    patch(r, 0xfed0, 0);
    patch(r, 0xff78, 4);
    patch(r, 0xfe10, UINT64_C(0x0000ffff009b0000) | CODE >> 4);
    patch(r, 0xfe18, CODE);
    run(r);
    g_assert_cmpuint(r->resets, ==, 0);
    g_assert_cmpuint(r->seen_count, ==, 2);
    g_assert_cmphex(r->seen[1].mode & (MODE_PE | MODE_LMA | MODE_CS64 | MODE_CS32), ==, 0);
    g_assert_cmphex(r->seen[1].segs[SEG_CS].base, ==, CODE);

    /* A canonical form is kept to, and LMA follows from CR0.PG and EFER.LME. */
    use_mode(r, PROTECTED32);
    load_code(r, probe_code, probe_code_end);
    patch(r, 0xfe48, UINT64_C(0x1234800000000000)); /* FS base */
    patch(r, 0xfed0, EFER_LME | EFER_LMA);
    patch(r, 0xff70, FLAG_ONE | (UINT64_C(0xffff) << 48));
    run(r);
    g_assert_cmpuint(r->resets, ==, 0);
    g_assert_cmphex(r->seen[1].segs[SEG_FS].base, ==, UINT64_C(0xffff800000000000));
    g_assert_cmphex(r->seen[1].efer, ==, EFER_LME);
    g_assert_cmphex(r->seen[1].rflags, ==, FLAG_ONE);
    rig_free(r);
}

/* Handlers that leave real mode; RSM comes out of protected and 64-bit mode. GDT: 8 is 32-bit code, 16 is
 * data, 24 is 64-bit code. */
GUEST(handler_protected, 16,
      "lgdtl %cs:0x8000 + (2f - handler_protected)\n"
      "mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
      "ljmpl $8, $0xa8000 + (1f - handler_protected)\n"
      ".code32\n"
      "1: mov $16, %eax; mov %eax, %ds; mov %eax, %ss; mov $0x4000, %esp; push %eax\n"
      "incl 0x7814; out %al, $0xe1; rsm\n"
      "2: .short 0x1f; .long 0x5000");
GUEST(handler_long, 16,
      "lgdtl %cs:0x8000 + (2f - handler_long)\n"
      "mov $0x20, %eax; mov %eax, %cr4\n"
      "mov $0x10000, %eax; mov %eax, %cr3\n"
      "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr\n"
      "mov %cr0, %eax; or $0x80000001, %eax; mov %eax, %cr0\n"
      "ljmpl $24, $0xa8000 + (1f - handler_long)\n"
      ".code64\n"
      "1: incl 0x7814; out %al, $0xe1; rsm\n"
      "2: .short 0x1f; .long 0x5000");

static void test_handler_modes(void)
{
    static const struct {
        const uint8_t *code, *end;
        uint32_t mode;
    } handlers[] = {
        { handler_protected, handler_protected_end, MODE_PE | MODE_CS32 | MODE_SMM },
        { handler_long, handler_long_end, MODE_PE | MODE_LMA | MODE_CS64 | MODE_SMM },
    };
    Rig *r = rig_ready();

    test_write(r->board, GDT + 8, 8, UINT64_C(0x00cf9b000000ffff));
    test_write(r->board, GDT + 16, 8, UINT64_C(0x00cf93000000ffff));
    test_write(r->board, GDT + 24, 8, UINT64_C(0x00af9b000000ffff));
    for (unsigned i = 0; i < G_N_ELEMENTS(handlers); i++) {
        for (Mode mode = REAL16; mode < MODE_COUNT; mode++) {
            g_test_message("handler %u, %s", i, mode_names[mode]);
            smram_write(r, SMBASE + ENTRY, handlers[i].code, (size_t)(handlers[i].end - handlers[i].code));
            run_code(r, mode, probe_code, probe_code_end);
            g_assert_cmpuint(r->resets, ==, 0);
            g_assert_cmpuint(r->seen_count, ==, 3);
            g_assert_cmphex(r->seen[1].mode & (MODE_PE | MODE_LMA | MODE_CS64 | MODE_CS32 | MODE_SMM), ==,
                            handlers[i].mode);
            g_assert_cmpuint(r->seen[1].cpl, ==, 0);
            check_same(&r->seen[0], &r->seen[2]);
        }
    }
    rig_free(r);
}

/* ---- NMI ---- */

GUEST(nmi_handler, 16, "incw %cs:0x7f00; out %al, $0xe1; iret");
/* In real mode, where SMM's interrupt table is the interrupted program's. */
GUEST(nmi_code, 16, "out %al, $0xb2; nop; nop; out %al, $0xe2");

#define NMI_HANDLER 0x3000u
#define NMI_COUNT   0x7f00u

static void nmi_ready(Rig *r)
{
    use_mode(r, REAL16);
    r->cpu->segs[SEG_SS].base = 0;
    r->cpu->segs[SEG_SS].selector = 0;
    r->cpu->regs[R_RSP] = 0x2f00;
    load_code(r, nmi_code, nmi_code_end);
    address_space_write(r->board->memory, NMI_HANDLER, MEMTXATTRS_NONE, nmi_handler,
                        (size_t)(nmi_handler_end - nmi_handler));
    test_write(r->board, 2 * 4, 4, NMI_HANDLER);
    test_write(r->board, NMI_COUNT, 2, 0);
}

static void three_nmis(Rig *r)
{
    cpu_nmi(r->cpu);
    cpu_nmi(r->cpu);
    cpu_nmi(r->cpu);
    g_assert_cmpuint(test_read(r->board, NMI_COUNT, 2), ==, 0);
}

static void test_nmi_waits(void)
{
    Rig *r = rig_ready();

    nmi_ready(r);
    r->event = three_nmis;
    run(r);
    g_assert_cmpuint(handler_runs(r), ==, 1);
    /* One is latched in SMM, and comes right behind RSM. */
    g_assert_cmpuint(test_read(r->board, NMI_COUNT, 2), ==, 1);
    g_assert_cmpuint(r->seen_count, ==, 1);
    g_assert_false(r->seen[0].in_smm);
    g_assert_cmphex(test_read(r->board, 0x2f00 - 6, 2), ==, 2); /* IP behind the OUT */
    g_assert_false(r->cpu->nmi_blocked);
    rig_free(r);
}

/* The SMI comes while an NMI is handled: RSM goes back to where NMIs are blocked. */
GUEST(nmi_with_smi, 16, "incw %cs:0x7f00; out %al, $0xb2; out %al, $0xe1; iret");
GUEST(two_nops, 16, "nop; nop; out %al, $0xe2");

static void one_nmi(Rig *r)
{
    r->event = NULL;
    cpu_nmi(r->cpu);
}

static void test_nmi_stays_blocked(void)
{
    Rig *r = rig_ready();

    nmi_ready(r);
    load_code(r, two_nops, two_nops_end);
    address_space_write(r->board->memory, NMI_HANDLER, MEMTXATTRS_NONE, nmi_with_smi,
                        (size_t)(nmi_with_smi_end - nmi_with_smi));
    r->event = one_nmi; /* a second one, in SMM */
    cpu_nmi(r->cpu);
    run(r);
    g_assert_cmpuint(handler_runs(r), ==, 2);
    g_assert_cmpuint(test_read(r->board, NMI_COUNT, 2), ==, 2);
    g_assert_cmpuint(r->seen_count, ==, 2);
    g_assert_true(r->seen[0].nmi_blocked);                            /* behind RSM, ahead of IRET */
    g_assert_cmphex(r->seen[0].regs[R_RSP] & 0xffff, ==, 0x2f00 - 6); /* not nested */
    g_assert_cmphex(r->seen[1].regs[R_RSP] & 0xffff, ==, 0x2f00 - 6);
    g_assert_false(r->cpu->nmi_blocked);
    rig_free(r);
}

/* IRET inside SMM lets NMIs in (SDM vol. 3 31.8); RSM restores what was outside. */
GUEST(handler_iret, 16,
      "xor %ax, %ax; mov %ax, %ss; mov $0x2800, %sp\n"
      "out %al, $0xe3\n"
      "pushf; push %cs; push $0x8000 + (1f - handler_iret); iret\n"
      "1: incl 0x7814; rsm");

static void test_nmi_in_smm(void)
{
    Rig *r = rig_ready();

    smram_write(r, SMBASE + ENTRY, handler_iret, (size_t)(handler_iret_end - handler_iret));
    nmi_ready(r);
    r->event = one_nmi;
    run(r);
    g_assert_cmpuint(handler_runs(r), ==, 1);
    g_assert_cmpuint(test_read(r->board, NMI_COUNT, 2), ==, 1);
    g_assert_cmpuint(r->seen_count, ==, 1);
    g_assert_true(r->seen[0].in_smm);
    g_assert_false(r->cpu->nmi_blocked);
    rig_free(r);
}

/* ---- HLT ---- */

GUEST(halt_code, 64, "hlt; incl 0x7900; hlt; incl 0x7900; out %al, $0xe2");

static void test_halt(void)
{
    Rig *r = rig_ready();
    X86Cpu *cpu = r->cpu;

    use_mode(r, LONG64);
    load_code(r, halt_code, halt_code_end);
    test_write(r->board, 0x7900, 4, 0);
    run(r);
    g_assert_true(cpu->halted);
    cpu_interrupt(cpu, CPU_INTERRUPT_SMI);
    g_assert_true(x86_has_work(cpu));
    run(r);
    /* The handler left the field alone: back into HLT. */
    g_assert_cmpuint(handler_runs(r), ==, 1);
    g_assert_cmphex(saved(r, 0xfec9, 1), ==, 1);
    g_assert_cmphex(saved(r, 0xff78, 8), ==, CODE + 1);
    g_assert_true(cpu->halted);
    g_assert_false(cpu->in_smm);
    g_assert_cmpuint(test_read(r->board, 0x7900, 4), ==, 0);
    /* The field cleared: on behind HLT. The I/O restart field, which this revision does not have, does
     * nothing. */
    patch(r, 0xfec8, 0xff);
    cpu_interrupt(cpu, CPU_INTERRUPT_SMI);
    run(r);
    g_assert_cmpuint(handler_runs(r), ==, 2);
    g_assert_cmpuint(test_read(r->board, 0x7900, 4), ==, 1);
    g_assert_true(cpu->halted); /* the second HLT */
    g_assert_cmphex(cpu->rip, ==, CODE + 9);
    rig_free(r);
}

/* The field set where no HLT was: HLT it is, until an interrupt. */
static void test_halt_invented(void)
{
    Rig *r = rig_ready();

    use_mode(r, LONG64);
    load_code(r, probe_code, probe_code_end);
    patch(r, 0xfec8, 0x100);
    run(r);
    g_assert_true(r->cpu->halted);
    g_assert_cmpuint(r->seen_count, ==, 1);
    rig_free(r);
}

/* HLT in SMM: other SMIs, INIT and NMI wait for an RSM that does not come; nothing spins meanwhile. */
GUEST(handler_halts, 16, "out %al, $0xe3; hlt; rsm");

static void everything(Rig *r)
{
    cpu_interrupt(r->cpu, CPU_INTERRUPT_SMI | CPU_INTERRUPT_INIT);
    cpu_nmi(r->cpu);
}

static void test_halt_in_smm(void)
{
    Rig *r = rig_ready();

    smram_write(r, SMBASE + ENTRY, handler_halts, (size_t)(handler_halts_end - handler_halts));
    use_mode(r, LONG64);
    load_code(r, probe_code, probe_code_end);
    r->event = everything;
    run(r);
    g_assert_true(r->cpu->halted);
    g_assert_true(r->cpu->in_smm);
    g_assert_false(x86_has_work(r->cpu));
    rig_free(r);
}

/* ---- what waits in SMM ---- */

static void another_smi(Rig *r)
{
    r->event = NULL;
    cpu_interrupt(r->cpu, CPU_INTERRUPT_SMI);
    cpu_interrupt(r->cpu, CPU_INTERRUPT_SMI);
}

static void init_signal(Rig *r)
{
    cpu_interrupt(r->cpu, CPU_INTERRUPT_INIT);
}

static void test_latched(void)
{
    Rig *r = rig_ready();
    X86Cpu *cpu = r->cpu;

    /* SMIs are not nested, and one of them is kept. */
    use_mode(r, LONG64);
    load_code(r, probe_code, probe_code_end);
    r->event = another_smi;
    run(r);
    g_assert_cmpuint(handler_runs(r), ==, 2);
    g_assert_cmphex(saved(r, 0xff78, 8), ==, CODE + 4); /* no instruction between the two */
    check_same(&r->seen[0], &r->seen[1]);

    /* INIT resets what RSM went back to. */
    use_mode(r, LONG64);
    load_code(r, probe_code, probe_code_end);
    r->event = init_signal;
    cpu_interrupt(cpu, CPU_INTERRUPT_SMI);
    run(r);
    g_assert_true(cpu->halted);
    g_assert_cmpuint(handler_runs(r), ==, 1);
    g_assert_cmpuint(r->seen_count, ==, 0);
    g_assert_false(cpu->in_smm);
    g_assert_cmphex(cpu->segs[SEG_CS].selector, ==, 0xf000);
    g_assert_cmphex(cpu->smbase, ==, SMBASE);
    rig_free(r);
}

/* The instruction behind STI or a load of SS belongs to it; the save area could not say so. */
static void test_shadow(void)
{
    Rig *r = rig_ready();

    use_mode(r, LONG64);
    load_code(r, halt_code + 1, halt_code_end); /* incl; hlt */
    r->cpu->inhibit_interrupts = true;
    cpu_interrupt(r->cpu, CPU_INTERRUPT_SMI);
    g_assert_false(x86_handle_interrupts(r->cpu));
    run(r);
    g_assert_cmpuint(handler_runs(r), ==, 1);
    g_assert_cmphex(saved(r, 0xff78, 8), ==, CODE + 7);
    g_assert_cmphex(saved(r, 0xfec9, 1), ==, 0);
    rig_free(r);
}

/* SMI as an interrupt message, as another CPU sends it. */
static void test_smi_by_apic(void)
{
    Rig *r = rig_ready();
    const ApicMessage smi = { .destination = 0, .mode = APIC_SMI, .assert_ = true };

    use_mode(r, LONG64);
    load_code(r, halt_code, halt_code_end);
    run(r);
    apic_bus_deliver(r->board->apic_bus, &smi);
    run(r);
    g_assert_cmpuint(handler_runs(r), ==, 1);
    rig_free(r);
}

static void test_no_smm(void)
{
    Rig *r = rig_new("off");

    /* Firmware sees SMIs set up already (DEVACTB), and none comes. */
    test_out(r->board, 0xcf8, 4, 0x80000b58);
    g_assert_cmphex(test_in(r->board, 0xcfc, 4), ==, 0x02000000);
    set_mode(r, LONG64);
    load_code(r, probe_code, probe_code_end);
    run(r);
    g_assert_cmpuint(r->seen_count, ==, 2);
    g_assert_cmphex(test_read(r->board, RESET_BASE + 0xfefc, 4), ==, 0);
    rig_free(r);
}

static void test_apm_disabled(void)
{
    Rig *r = rig_ready();

    config_write(r, PCI_DEVFN(1, 3), 0x5b, 0);
    run_code(r, LONG64, probe_code, probe_code_end);
    g_assert_cmpuint(r->seen_count, ==, 2);
    g_assert_cmpuint(handler_runs(r), ==, 0);
    rig_free(r);
}

/* The A20 gate is no business of SMM's. */
static void test_a20(void)
{
    Rig *r = rig_ready();

    address_space_write(r->board->memory, 0x130000 + ENTRY, MEMTXATTRS_NONE, relocate_handler,
                        (size_t)(relocate_handler_end - relocate_handler));
    use_mode(r, REAL16);
    load_code(r, probe_code, probe_code_end);
    r->cpu->smbase = 0x130000;
    x86_cpu_set_a20(r->cpu, false);
    test_write(r->board, 0x3fefc, 4, 0);
    run(r);
    g_assert_cmpuint(r->seen_count, ==, 2);
    g_assert_cmphex(r->cpu->smbase, ==, SMBASE);
    g_assert_cmphex(test_read(r->board, 0x13fefc, 4), ==, 0x20064);
    g_assert_cmphex(test_read(r->board, 0x3fefc, 4), ==, 0);
    x86_cpu_set_a20(r->cpu, true);
    rig_free(r);
}

/* ---- what must not be ---- */

GUEST(rsm_code, 64, "rsm; out %al, $0xe2");
GUEST(ud_handler, 64, "out %al, $0xe1; out %al, $0xe2");

static void test_rsm_outside(void)
{
    Rig *r = rig_ready();
    X86Cpu *cpu = r->cpu;

    use_mode(r, LONG64);
    load_code(r, rsm_code, rsm_code_end);
    address_space_write(r->board->memory, CODE + 0x800, MEMTXATTRS_NONE, ud_handler,
                        (size_t)(ud_handler_end - ud_handler));
    test_write(r->board, GDT + 24, 8, UINT64_C(0x00af9b000000ffff));
    test_write(r->board, IDT + EXC_UD * 16, 8, UINT64_C(0x00028e0000180800));
    test_write(r->board, IDT + EXC_UD * 16 + 8, 8, 0);
    cpu->regs[R_RSP] = 0x4f00;
    run(r);
    g_assert_cmpuint(r->resets, ==, 0);
    g_assert_cmpuint(r->seen_count, ==, 1);
    g_assert_cmphex(r->seen[0].regs[R_RSP], ==, 0x4f00 - 40);
    g_assert_cmphex(test_read(r->board, 0x4f00 - 40, 8), ==, CODE); /* a fault: RIP of RSM itself */
    rig_free(r);
}

static void test_shutdown(void)
{
    static const struct {
        const char *what;
        Mode mode;
        unsigned offset;
        uint64_t value;
    } flaws[] = {
        { "CR0: PG without PE", LONG64, 0xff58, CR0_PG | CR0_ET },
        { "CR0: NW without CD", LONG64, 0xff58, CR0_PG | CR0_PE | CR0_ET | CR0_NW },
        { "CR0: bit 32", LONG64, 0xff58, UINT64_C(0x100000000) | CR0_PG | CR0_PE | CR0_ET },
        { "CR3: more than physical addresses", LONG64, 0xff50, UINT64_C(1) << 62 },
        { "CR4: reserved bit", LONG64, 0xff48, CR4_PAE | 1u << 31 },
        { "CR4: long mode without PAE", LONG64, 0xff48, CR4_OSFXSR },
        { "CR4: PCIDE outside long mode", PROTECTED32, 0xff48, CR4_PAE | CR4_PCIDE },
        { "EFER: reserved bit", LONG64, 0xfed0, EFER_LME | EFER_LMA | UINT64_C(1) << 40 },
        { "CS: L and D", LONG64, 0xfe10, UINT64_C(0xffffffff0e9b0080) },
        { "DR6", LONG64, 0xff68, UINT64_C(1) << 32 },
        { "DR7", LONG64, 0xff60, UINT64_C(1) << 63 },
    };
    Rig *r = rig_ready();
    X86Cpu *cpu = r->cpu;

    for (unsigned i = 0; i < G_N_ELEMENTS(flaws); i++) {
        g_test_message("%s", flaws[i].what);
        use_mode(r, flaws[i].mode);
        load_code(r, probe_code, probe_code_end);
        patch(r, flaws[i].offset, flaws[i].value);
        run(r);
        g_assert_cmpuint(handler_runs(r), ==, 1);
        g_assert_cmpuint(r->seen_count, ==, 1);
        g_assert_cmpuint(r->resets, ==, 1);
        g_assert_true(cpu->shutdown);
        g_assert_true(cpu->halted);
        /* Interrupts of no kind help. */
        everything(r);
        g_assert_false(x86_has_work(cpu));
        run(r);
        g_assert_true(cpu->shutdown);
    }
    rig_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/smm/firmware", test_firmware);
    g_test_add_func("/smm/modes", test_modes);
    g_test_add_func("/smm/modified-registers", test_modified_registers);
    g_test_add_func("/smm/handler-modes", test_handler_modes);
    g_test_add_func("/smm/nmi-waits", test_nmi_waits);
    g_test_add_func("/smm/nmi-stays-blocked", test_nmi_stays_blocked);
    g_test_add_func("/smm/nmi-in-smm", test_nmi_in_smm);
    g_test_add_func("/smm/halt", test_halt);
    g_test_add_func("/smm/halt-invented", test_halt_invented);
    g_test_add_func("/smm/halt-in-smm", test_halt_in_smm);
    g_test_add_func("/smm/latched", test_latched);
    g_test_add_func("/smm/shadow", test_shadow);
    g_test_add_func("/smm/smi-by-apic", test_smi_by_apic);
    g_test_add_func("/smm/no-smm", test_no_smm);
    g_test_add_func("/smm/apm-disabled", test_apm_disabled);
    g_test_add_func("/smm/a20", test_a20);
    g_test_add_func("/smm/rsm-outside", test_rsm_outside);
    g_test_add_func("/smm/shutdown", test_shutdown);
    return g_test_run();
}
