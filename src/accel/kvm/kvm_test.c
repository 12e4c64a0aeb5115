/*
 * The accelerator "kvm" alone: one vCPU, 4 MiB of RAM, and machine code of our own, in flat 32-bit mode. What
 * needs the kernel's KVM is skipped where there is none. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm/kvm.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/system.h"
#include "base/error.h"
#include "mem/rcu.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RAM_BYTES (4u << 20)
#define CODE      0x10000u
#define IDT       0x20000u
#define GDT       0x21000u
#define STACK     0x30000u
#define DATA      0x100000u
#define MMIO      0xd0000000u
#define DONE_PORT 0xf4

typedef struct Rig {
    MemoryRegion root, ram, mmio, io_root, done;
    AddressSpace *memory, *io;
    ApicBus *bus;
    ClockSet *clocks;
    X86Cpu *cpu;
    Accel *accel;
    KvmAccel *kvm;
    uint8_t *host;
    uint32_t result;      /* what the guest wrote to DONE_PORT */
    unsigned mmio_writes; /* that reached the region's ops */
    uint64_t mmio_last;
    unsigned mmio_size;
    bool failed;
} Rig;

static uint64_t mmio_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0x1122334455667788u + offset;
}

static void mmio_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Rig *r = opaque;
    r->mmio_writes++;
    r->mmio_last = value;
    r->mmio_size = size;
}

static const MemoryRegionOps mmio_ops = { .read = mmio_read,
                                          .write = mmio_write,
                                          .valid = { .min = 1, .max = 8, .unaligned = true },
                                          .impl = { .min = 1, .max = 8, .unaligned = true } };

static uint64_t done_read(void *opaque, hwaddr offset, unsigned size)
{
    return 0x5a;
}

static void done_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Rig *r = opaque;
    r->result = (uint32_t)value;
    cpu_interrupt(r->cpu, CPU_INTERRUPT_EXIT);
}

static const MemoryRegionOps done_ops = { .read = done_read, .write = done_write };

static void on_reset(void *opaque)
{
    cpu_interrupt(((Rig *)opaque)->cpu, CPU_INTERRUPT_EXIT);
}

static void on_failed(void *opaque)
{
    ((Rig *)opaque)->failed = true;
}

static void on_signal(int n)
{
}

/* NULL, and the test is skipped: this host cannot do it. */
static Rig *rig_new(const char *irqchip, uint32_t ring)
{
    Rig *r = g_new0(Rig, 1);
    g_autoptr(GError) error = NULL;
    struct sigaction action = { .sa_handler = on_signal };

    sigaction(SIGUSR1, &action, NULL); /* what a vCPU's thread is kicked with */
    memory_region_init(&r->root, NULL, "system", UINT64_MAX);
    memory_region_init(&r->io_root, NULL, "io", 65536);
    g_assert_true(memory_region_init_ram(&r->ram, NULL, "ram", RAM_BYTES, &error));
    memory_region_add(&r->root, 0, &r->ram);
    memory_region_init_io(&r->mmio, NULL, &mmio_ops, r, "mmio", 4096, NULL);
    memory_region_add(&r->root, MMIO, &r->mmio);
    memory_region_init_io(&r->done, NULL, &done_ops, r, "done", 4, NULL);
    memory_region_add(&r->io_root, DONE_PORT, &r->done);
    r->memory = address_space_new(&r->root, "memory");
    r->io = address_space_new(&r->io_root, "io");
    r->host = r->ram.ram->host;
    r->bus = apic_bus_new();
    r->clocks = clock_set_new();
    r->accel = ACCEL(object_new_known(TYPE_KVM_ACCEL));
    r->kvm = (KvmAccel *)r->accel;
    r->kvm->irqchip_name = g_strdup(irqchip);
    r->kvm->ring_size = ring;
    if (!ACCEL_GET_CLASS(r->accel)->setup(r->accel, r->memory, r->bus, &error)) {
        g_test_skip(error->message);
        return r;
    }
    r->cpu = X86_CPU(object_new_known("max-" TYPE_X86_CPU));
    X86CpuEnv env = { .memory = r->memory,
                      .smram = r->memory,
                      .io = r->io,
                      .apic_bus = r->bus,
                      .clocks = r->clocks,
                      .request_reset = on_reset,
                      .failed = on_failed,
                      .opaque = r };
    g_assert_true(x86_cpu_realize(r->cpu, &env, &error));
    g_assert_true(ACCEL_GET_CLASS(r->accel)->vcpu_init(r->accel, r->cpu, &error));
    g_assert_no_error(error);
    return r;
}

static void rig_free(Rig *r)
{
    if (r->cpu) {
        ACCEL_GET_CLASS(r->accel)->vcpu_destroy(r->accel, r->cpu);
    }
    ACCEL_GET_CLASS(r->accel)->teardown(r->accel);
    if (r->cpu) {
        x86_cpu_unrealize(r->cpu);
        object_unref(OBJECT(r->cpu));
    }
    object_unref(OBJECT(r->accel));
    apic_bus_free(r->bus);
    clock_set_free(r->clocks);
    address_space_free(r->memory);
    address_space_free(r->io);
    MemoryRegion *regions[] = { &r->ram, &r->mmio, &r->done, &r->root, &r->io_root };
    for (size_t i = 0; i < G_N_ELEMENTS(regions); i++) {
        memory_region_destroy(regions[i]);
    }
    g_free(r);
}

/* The guest's memory from a gate that leads to it. */
static void set_gate(Rig *r, unsigned vector, uint32_t handler)
{
    uint32_t gate[2] = { 0x08u << 16 | (handler & 0xffff), (handler & 0xffff0000) | 0x8e00 };
    memcpy(r->host + IDT + vector * 8, gate, sizeof(gate));
}

/* Flat 32-bit protected mode, as a boot loader leaves it. */
static void set_flat(Rig *r)
{
    static const uint64_t gdt[] = { 0, 0x00cf9b000000ffffu, 0x00cf93000000ffffu };
    X86Cpu *cpu = r->cpu;
    uint32_t flags = DESC_P | DESC_S | DESC_B | DESC_G | DESC_A | DESC_W;

    memcpy(r->host + GDT, gdt, sizeof(gdt));
    cpu->gdt = (X86Table){ GDT, sizeof(gdt) - 1 };
    cpu->idt = (X86Table){ IDT, 0x7ff };
    for (int i = SEG_ES; i <= SEG_GS; i++) {
        bool code = i == SEG_CS;
        cpu->segs[i] = (X86Segment){ code ? 8 : 16, flags | (code ? DESC_CODE : 0), UINT32_MAX, 0 };
    }
    cpu->cr0 |= CR0_PE;
    cpu->cpl = 0;
    cpu->rip = CODE;
    cpu->regs[R_RSP] = STACK;
    cpu->rflags = FLAG_ONE;
    x86_update_mode(cpu);
}

/* Runs until the guest writes to DONE_PORT, or its vCPU has nothing to do any more. */
static void go(Rig *r)
{
    cpu_interrupt_clear(r->cpu, CPU_INTERRUPT_EXIT);
    kvm_vcpu_exec(r->accel, r->cpu);
    kvm_vcpu_sync(r->accel, r->cpu);
    g_assert_false(r->failed);
}

static void run_code(Rig *r, const void *code, size_t size)
{
    memcpy(r->host + CODE, code, size);
    set_flat(r);
    go(r);
}
#define RUN(r, ...)                              \
    do {                                         \
        const uint8_t code_[] = { __VA_ARGS__ }; \
        run_code(r, code_, sizeof(code_));       \
    } while (0)
#define LE32(v) (uint8_t)(v), (uint8_t)((v) >> 8), (uint8_t)((v) >> 16), (uint8_t)((v) >> 24)
#define DONE    0xe7, DONE_PORT /* out DONE_PORT, eax */

static const char *const irqchips[] = { "off", "split", "on" };

/* ---- without KVM ---- */

static void refuse(const char *device, const char *cause)
{
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(kvm_open(device, &error), ==, -1);
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, cause));
}

static void test_refusals(void)
{
    refuse("/nowhere/kvm", "does not exist");
    refuse("/dev/null", "is no KVM device");
}

static void test_properties(void)
{
    static const struct {
        const char *irqchip;
        uint32_t ring;
    } wrong[] = { { "maybe", 0 }, { "split", 1000 }, { "split", 512 }, { "split", 1u << 31 } };

    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        Rig *r = rig_new(wrong[i].irqchip, wrong[i].ring);
        g_assert_null(r->cpu);
        rig_free(r);
    }
}

/* ---- registers ---- */

static void fill_registers(X86Cpu *cpu)
{
    for (int i = 0; i < 16; i++) {
        cpu->regs[i] = 0x0123456789abcdefu * (unsigned)(i + 1);
    }
    for (unsigned i = 160; i < 160 + 256; i++) {
        cpu->xsave[i] = (uint8_t)(i * 7); /* XMM */
    }
    cpu->cr2 = 0x1234000;
    cpu->dr[0] = 0x7000;
    cpu->star = 0x0023001000000000u;
    cpu->lstar = 0xffffffff81000000u;
    cpu->fmask = 0x47700;
    cpu->kernel_gs_base = 0x7f0012345000u;
    cpu->sysenter_eip = 0xc0001000;
    cpu->pat = 0x0007040600070406u;
}

static void compare_registers(const X86Cpu *a, const X86Cpu *b)
{
    g_assert_cmpmem(a->regs, sizeof(a->regs), b->regs, sizeof(b->regs));
    g_assert_cmpmem(a->xsave, 28, b->xsave, 28);
    g_assert_cmpmem(a->xsave + 160, 256, b->xsave + 160, 256);
    g_assert_cmpmem(a->segs, sizeof(a->segs), b->segs, sizeof(b->segs));
    g_assert_cmpuint(a->rip, ==, b->rip);
    g_assert_cmpuint(a->cr0, ==, b->cr0);
    g_assert_cmpuint(a->cr2, ==, b->cr2);
    g_assert_cmpuint(a->cr3, ==, b->cr3);
    g_assert_cmpuint(a->cr4, ==, b->cr4);
    g_assert_cmpuint(a->efer, ==, b->efer);
    g_assert_cmpuint(a->dr[0], ==, b->dr[0]);
    g_assert_cmpuint(a->star, ==, b->star);
    g_assert_cmpuint(a->lstar, ==, b->lstar);
    g_assert_cmpuint(a->fmask, ==, b->fmask);
    g_assert_cmpuint(a->kernel_gs_base, ==, b->kernel_gs_base);
    g_assert_cmpuint(a->sysenter_eip, ==, b->sysenter_eip);
    g_assert_cmpuint(a->pat, ==, b->pat);
    g_assert_cmpuint(a->mode, ==, b->mode);
}

static void test_registers(gconstpointer irqchip)
{
    Rig *r = rig_new(irqchip, 0);
    GError *error = NULL;

    if (r->cpu) {
        X86Cpu *cpu = r->cpu;
        set_flat(r);
        fill_registers(cpu);
        g_autofree X86Cpu *before = g_memdup2(cpu, sizeof(*cpu));
        g_assert_true(kvm_state_put(kvm_vcpu(cpu), &error));
        memset(cpu->regs, 0, sizeof(cpu->regs));
        memset(cpu->xsave, 0, X86_XSAVE_SIZE);
        memset(cpu->segs, 0, sizeof(cpu->segs));
        cpu->lstar = cpu->pat = cpu->cr2 = cpu->rip = 0;
        g_assert_true(kvm_state_get(kvm_vcpu(cpu), &error));
        compare_registers(before, cpu);
    }
    rig_free(r);
}

/* ---- accesses ---- */

static void test_accesses(gconstpointer irqchip)
{
    Rig *r = rig_new(irqchip, 0);

    if (r->cpu) {
        RUN(r, 0xb8, LE32(0x01020304), 0xa3, LE32(MMIO + 8), DONE); /* mov [MMIO + 8], eax */
        g_assert_cmpuint(r->mmio_writes, ==, 1);
        g_assert_cmpuint(r->mmio_last, ==, 0x01020304);
        g_assert_cmpuint(r->mmio_size, ==, 4);
        RUN(r, 0xb0, 0x77, 0xa2, LE32(MMIO + 3), DONE); /* mov [MMIO + 3], al */
        g_assert_cmpuint(r->mmio_last, ==, 0x77);
        g_assert_cmpuint(r->mmio_size, ==, 1);
        RUN(r, 0xa1, LE32(MMIO + 4), DONE); /* mov eax, [MMIO + 4] */
        g_assert_cmpuint(r->result, ==, 0x5566778cu);
        RUN(r, 0x31, 0xc0, 0xe4, DONE_PORT, DONE); /* in al, DONE_PORT */
        g_assert_cmpuint(r->result, ==, 0x5a);
        g_assert_cmpuint(r->cpu->rip, ==, CODE + 6); /* the access was completed */
    }
    rig_free(r);
}

/* FILD from device memory: no KVM's emulator has it. */
static void test_rescue(gconstpointer irqchip)
{
    Rig *r = rig_new(irqchip, 0);

    if (r->cpu) {
        RUN(r, 0xdb, 0xe3, 0xdb, 0x05, LE32(MMIO), 0xdb, 0x1d, LE32(DATA), 0xa1, LE32(DATA), DONE);
        g_assert_cmpuint(r->result, ==, 0x55667788u);
        g_assert_cmpuint(kvm_vcpu(r->cpu)->rescued, >=, 1);
        g_assert_cmpuint(ACCEL_GET_CLASS(r->accel)->rescued(r->accel), ==, kvm_vcpu(r->cpu)->rescued);
    }
    rig_free(r);
}

/* ---- notifiers ---- */

static uint64_t count_of(EventNotifier *e)
{
    uint64_t value = 0;
    return read(e->fd, &value, sizeof(value)) == sizeof(value) ? value : 0;
}

/* Ten writes, that many exits that handed out an access to memory. */
static uint64_t exits_of_ten_writes(Rig *r, uint32_t address)
{
    uint64_t before = kvm_vcpu(r->cpu)->mmio_exits;
    RUN(r, 0xb9, LE32(10), 0xb8, LE32(7), 0xa3, LE32(address), 0xe2, 0xf9, DONE); /* loop */
    return kvm_vcpu(r->cpu)->mmio_exits - before;
}

static void test_doorbell(gconstpointer irqchip)
{
    Rig *r = rig_new(irqchip, 0);
    EventNotifier any, seven;

    if (r->cpu) {
        g_assert_true(event_notifier_init(&any, NULL));
        g_assert_true(event_notifier_init(&seven, NULL));
        g_assert_cmpuint(exits_of_ten_writes(r, MMIO + 16), ==, 10);
        memory_region_add_eventfd(&r->mmio, 16, 0, false, 0, &any);
        memory_region_add_eventfd(&r->mmio, 32, 4, true, 7, &seven);
        memory_region_add_eventfd(&r->mmio, 48, 4, true, 8, &seven);
        g_assert_cmpint(r->kvm->doorbells, ==, 3);
        r->mmio_writes = 0;
        g_assert_cmpuint(exits_of_ten_writes(r, MMIO + 16), ==, 0);
        g_assert_cmpuint(exits_of_ten_writes(r, MMIO + 32), ==, 0);
        g_assert_cmpuint(r->mmio_writes, ==, 0);
        g_assert_cmpuint(count_of(&any), ==, 10);
        g_assert_cmpuint(count_of(&seven), ==, 10);
        g_assert_cmpuint(exits_of_ten_writes(r, MMIO + 48), ==, 10); /* another value */
        g_assert_cmpuint(r->mmio_writes, ==, 10);
        /* The region moves, and its doorbells do. */
        memory_region_set_address(&r->mmio, MMIO + 0x1000);
        g_assert_cmpuint(exits_of_ten_writes(r, MMIO + 0x1010), ==, 0);
        g_assert_cmpuint(count_of(&any), ==, 10);
        memory_region_del_eventfd(&r->mmio, 16, 0, false, 0, &any);
        g_assert_cmpuint(exits_of_ten_writes(r, MMIO + 0x1010), ==, 10);
        memory_region_del_eventfd(&r->mmio, 32, 4, true, 7, &seven);
        memory_region_del_eventfd(&r->mmio, 48, 4, true, 8, &seven);
        g_assert_cmpint(r->kvm->doorbells, ==, 0);
        memory_rcu_synchronize();
        event_notifier_destroy(&any);
        event_notifier_destroy(&seven);
    }
    rig_free(r);
}

static void test_port_doorbell(gconstpointer irqchip)
{
    Rig *r = rig_new(irqchip, 0);
    MemoryRegion ports;
    EventNotifier e;

    if (r->cpu) {
        g_assert_true(event_notifier_init(&e, NULL));
        memory_region_init_io(&ports, NULL, &mmio_ops, r, "ports", 16, NULL);
        memory_region_add(&r->io_root, 0x300, &ports);
        memory_region_add_eventfd(&ports, 0, 1, false, 0, &e);
        uint64_t before = kvm_vcpu(r->cpu)->io_exits;
        RUN(r, 0x66, 0xba, 0x00, 0x03, 0xee, 0xee, DONE);             /* mov dx, 0x300; out dx, al, twice */
        g_assert_cmpuint(kvm_vcpu(r->cpu)->io_exits - before, ==, 1); /* DONE */
        g_assert_cmpuint(count_of(&e), ==, 2);
        memory_region_destroy(&ports);
        g_assert_cmpint(r->kvm->doorbells, ==, 0);
        event_notifier_destroy(&e);
    }
    rig_free(r);
}

/* ---- interrupts ---- */

/* mov dword [SVR], 0x1ff: the local APIC takes messages from now on. */
static void enable_apic(Rig *r)
{
    RUN(r, 0xc7, 0x05, LE32(0xfee000f0), LE32(0x1ff), DONE);
}

/* sti; jmp $: what comes ends it, with its vector in eax. */
static void wait_for_vector(Rig *r, unsigned vector)
{
    const uint8_t handler[] = { 0xb8, LE32(vector), DONE, 0xeb, 0xfe };

    memcpy(r->host + CODE + 0x1000, handler, sizeof(handler));
    set_gate(r, vector, CODE + 0x1000);
    r->result = 0;
    RUN(r, 0xfb, 0xeb, 0xfe);
    g_assert_cmpuint(r->result, ==, vector);
}

static void *send_soon(void *opaque)
{
    Rig *r = opaque;

    g_usleep(50000);
    ApicRoute *route = apic_bus_route_new(r->bus);
    g_assert_nonnull(route);
    for (unsigned vector = 0x50; vector <= 0x51; vector++) { /* the route's message changes */
        for (unsigned i = 0; i < 3; i++) {
            g_assert_true(apic_bus_route_send(r->bus, route, 0xfee00000u, vector));
        }
    }
    return route;
}

static void test_route(gconstpointer irqchip)
{
    Rig *r = rig_new(irqchip, 0);

    if (r->cpu) {
        enable_apic(r);
        g_autoptr(GThread) thread = g_thread_new("send", send_soon, r);
        set_gate(r, 0x50, CODE + 0x2000);
        /* It ends its interrupt, or 0x51, of the same class, would wait. */
        memcpy(r->host + CODE + 0x2000, (const uint8_t[]){ 0xc7, 0x05, LE32(0xfee000b0), LE32(0), 0xcf }, 11);
        wait_for_vector(r, 0x51);
        ApicRoute *route = g_thread_join(g_steal_pointer(&thread));
        apic_bus_route_free(r->bus, route);
        for (unsigned i = 0; i < r->kvm->message_routes; i++) {
            g_assert_false(r->kvm->route_used[i]);
        }
    }
    rig_free(r);
}

static void test_routes_end(void)
{
    Rig *r = rig_new("split", 0);

    if (r->cpu) {
        g_autoptr(GPtrArray) routes = g_ptr_array_new();
        ApicRoute *route;
        while (routes->len < 900 && (route = apic_bus_route_new(r->bus))) {
            g_ptr_array_add(routes, route);
        }
        g_assert_cmpuint(routes->len, >, 100);
        for (guint i = 0; i < routes->len; i++) {
            apic_bus_route_free(r->bus, routes->pdata[i]);
        }
    }
    rig_free(r);
}

/* ---- controllers in the kernel ---- */

static void test_pic(void)
{
    Rig *r = rig_new("on", 0);

    if (r->cpu) {
        const X86Chips *chips = apic_bus_chips(r->bus);
        PicChip out[2] = { { .imr = 0xa5,
                             .isr = 0x10,
                             .elcr = 0x08,
                             .vector_base = 0x20,
                             .lowest = 3,
                             .special_mask = true },
                           { .vector_base = 0x28,
                             .lowest = 7,
                             .init_step = PIC_INIT_ICW3,
                             .wants_icw4 = true } },
                in[2];
        g_assert_true(chips->pic_put(chips->opaque, out));
        g_assert_true(chips->pic_get(chips->opaque, in));
        g_assert_cmpmem(out, sizeof(out), in, sizeof(in));
        /* Its interrupt arrives, through LINT0. */
        PicChip ready[2] = { { .vector_base = 0x20, .lowest = 7 },
                             { .imr = 0xff, .vector_base = 0x28, .lowest = 7 } };
        g_assert_true(chips->pic_put(chips->opaque, ready));
        chips->pic_input(chips->opaque, 4, true);
        wait_for_vector(r, 0x24);
        g_assert_true(chips->pic_get(chips->opaque, in));
        g_assert_cmpuint(in[0].isr, ==, 0x10);
        g_assert_cmpuint(in[0].inputs, ==, 0x10);
    }
    rig_free(r);
}

static void test_ioapic(void)
{
    Rig *r = rig_new("on", 0);

    if (r->cpu) {
        const X86Chips *chips = apic_bus_chips(r->bus);
        IoapicChip out = { .id = 5, .select = 0x12 }, in = { 0 };
        for (unsigned i = 0; i < X86_IOAPIC_PINS; i++) {
            out.redir[i] = 1ull << 16;
        }
        out.redir[9] = 0x61 | 1ull << 15; /* level-triggered, to CPU 0 */
        g_assert_true(chips->ioapic_put(chips->opaque, &out, 0xfec00000u));
        g_assert_true(chips->ioapic_get(chips->opaque, &in));
        g_assert_cmpmem(out.redir, sizeof(out.redir), in.redir, sizeof(in.redir));
        g_assert_cmpuint(in.id, ==, 5);
        g_assert_cmpuint(in.select, ==, 0x12);
        enable_apic(r);
        chips->ioapic_input(chips->opaque, 9, true);
        wait_for_vector(r, 0x61);
        g_assert_true(chips->ioapic_get(chips->opaque, &in));
        g_assert_cmphex(in.redir[9], ==, out.redir[9] | 1ull << 14); /* it waits for an EOI */
    }
    rig_free(r);
}

static void test_pit(void)
{
    Rig *r = rig_new("on", 0);

    if (r->cpu) {
        const X86Chips *chips = apic_bus_chips(r->bus);
        if (!chips->pit_create(chips->opaque)) {
            g_test_skip("this kernel's KVM has no 8254");
            rig_free(r);
            return;
        }
        /* Its ticks go through the 8259, which has to be ready for the first one. */
        PicChip ready[2] = { { .imr = 0xfe, .vector_base = 0x20, .lowest = 7 },
                             { .imr = 0xff, .vector_base = 0x28, .lowest = 7 } };
        g_assert_true(chips->pic_put(chips->opaque, ready));
        PitChip out = { .now_ns = 1000000000, .speaker_data = true }, in = { .now_ns = 1000000000 };
        for (unsigned i = 0; i < 3; i++) {
            out.channel[i] =
                (PitChannel){ .count = 10000 + i, .mode = 2, .rw = 3, .gate = i != 2, .loaded = true };
        }
        out.channel[1].latched = 1;
        out.channel[1].latch = 0x12;
        out.channel[2].write_high = true;
        out.channel[2].write_low = 0x34;
        g_assert_true(chips->pit_put(chips->opaque, &out));
        g_assert_true(chips->pit_get(chips->opaque, &in));
        for (unsigned i = 0; i < 3; i++) {
            const PitChannel *a = &out.channel[i], *b = &in.channel[i];
            g_assert_cmpuint(a->count, ==, b->count);
            g_assert_cmpuint(a->mode, ==, b->mode);
            g_assert_cmpuint(a->rw, ==, b->rw);
            g_assert_cmpint(a->gate, ==, b->gate);
            g_assert_true(b->loaded);
            g_assert_cmpuint(a->latched, ==, b->latched);
            g_assert_cmpint(a->write_high, ==, b->write_high);
            g_assert_cmpint(b->start_ns, <=, in.now_ns);
            g_assert_cmpint(b->start_ns, >, in.now_ns - 900000000);
        }
        g_assert_cmpuint(in.channel[1].latch, ==, 0x12);
        g_assert_cmpuint(in.channel[2].write_low, ==, 0x34);
        g_assert_true(in.speaker_data);
        wait_for_vector(r, 0x20); /* it ticks */
    }
    rig_free(r);
}

/* ---- what the guest has written ---- */

static uint64_t dirty_pages(Rig *r, uint32_t first, uint32_t count)
{
    uint64_t set = 0;

    for (uint32_t i = 0; i < count; i++) {
        set |= (uint64_t)ram_test_and_clear_dirty(r->ram.ram, first + i * 4096ull, 4096, DIRTY_DISPLAY) << i;
    }
    return set;
}

/* mov [DATA + 0x3000], eax; mov [DATA + 0x5000], eax */
#define TWO_WRITES 0xa3, LE32(DATA + 0x3000), 0xa3, LE32(DATA + 0x5000), DONE

static void test_dirty_log(gconstpointer ring)
{
    Rig *r = rig_new("split", GPOINTER_TO_UINT(ring));

    if (r->cpu) {
        RUN(r, TWO_WRITES); /* before anybody logs */
        memory_region_set_log(&r->ram, true, DIRTY_DISPLAY);
        g_assert_cmphex(dirty_pages(r, DATA, 16), ==, 0xffff); /* all may have been written */
        g_assert_cmphex(dirty_pages(r, DATA, 16), ==, 0);
        for (unsigned round = 0; round < 3; round++) {
            RUN(r, TWO_WRITES);
            g_assert_cmphex(dirty_pages(r, DATA, 16), ==, 0x28);
            g_assert_cmphex(dirty_pages(r, DATA, 16), ==, 0);
        }
        /* Another client has them still. */
        g_assert_true(ram_test_and_clear_dirty(r->ram.ram, DATA + 0x3000, 4096, DIRTY_MIGRATION));
        g_assert_true(r->ram.ram->dirty[(DATA + 0x5000) >> RAM_PAGE_BITS] & 1u << DIRTY_MIGRATION);
        RUN(r, TWO_WRITES);
        ram_sync_dirty(r->ram.ram, 0, RAM_BYTES); /* asking takes nothing away */
        g_assert_cmphex(dirty_pages(r, DATA, 16), ==, 0x28);
        RUN(r, TWO_WRITES);
        memory_region_set_log(&r->ram, false, DIRTY_DISPLAY); /* what was logged is not lost */
        g_assert_cmphex(dirty_pages(r, DATA, 16), ==, 0x28);
        RUN(r, TWO_WRITES);
        g_assert_cmphex(dirty_pages(r, DATA, 16), ==, 0);
    }
    rig_free(r);
}

/* More pages than a small ring has entries for, three times. */
static void test_ring_full(void)
{
    Rig *r = rig_new("split", 1024);

    if (r->cpu) {
        memory_region_set_log(&r->ram, true, DIRTY_DISPLAY);
        for (unsigned round = 0; round < 3; round++) {
            ram_test_and_clear_dirty(r->ram.ram, 0, RAM_BYTES, DIRTY_DISPLAY);
            /* mov edi, DATA; mov ecx, 700; again: mov [edi], eax; add edi, 4096; loop again */
            RUN(r, 0xbf, LE32(DATA), 0xb9, LE32(700), 0x89, 0x07, 0x81, 0xc7, LE32(4096), 0xe2, 0xf6, DONE);
            for (unsigned page = 0; page < 700; page++) {
                g_assert_true(
                    ram_test_and_clear_dirty(r->ram.ram, DATA + page * 4096ull, 4096, DIRTY_DISPLAY));
            }
            g_assert_false(ram_test_and_clear_dirty(r->ram.ram, DATA + 700 * 4096ull, 4096, DIRTY_DISPLAY));
        }
    }
    rig_free(r);
}

static void add_for_each(const char *name, void (*fn)(gconstpointer irqchip), unsigned first)
{
    for (unsigned i = first; i < G_N_ELEMENTS(irqchips); i++) {
        g_autofree char *path = g_strdup_printf("/kvm/%s/%s", name, irqchips[i]);
        g_test_add_data_func(path, irqchips[i], fn);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/kvm/refusals", test_refusals);
    g_test_add_func("/kvm/properties", test_properties);
    add_for_each("registers", test_registers, 0);
    add_for_each("accesses", test_accesses, 0);
    add_for_each("rescue", test_rescue, 0);
    add_for_each("doorbell", test_doorbell, 0);
    add_for_each("port-doorbell", test_port_doorbell, 0);
    add_for_each("route", test_route, 1);
    g_test_add_func("/kvm/routes-end", test_routes_end);
    g_test_add_func("/kvm/pic", test_pic);
    g_test_add_func("/kvm/ioapic", test_ioapic);
    g_test_add_func("/kvm/pit", test_pit);
    g_test_add_data_func("/kvm/dirty-log/bitmap", GUINT_TO_POINTER(0), test_dirty_log);
    g_test_add_data_func("/kvm/dirty-log/ring", GUINT_TO_POINTER(1024), test_dirty_log);
    g_test_add_func("/kvm/ring-full", test_ring_full);
    return g_test_run();
}
