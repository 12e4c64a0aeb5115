/*
 * The accelerator "tcg": interpreter and translator. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/soft/jit/tcg.h"
#include "accel/accel.h"
#include "accel/soft/interp/native.h"
#include "accel/soft/jit/jit.h"
#include "base/error.h"
#include "object/property.h"

#define DEFAULT_SIZE_MIB 128u
#define MIN_SIZE_MIB     8u
#define MAX_SIZE_MIB     2000u /* jumps reach 2 GiB */

typedef struct TcgAccel {
    Accel parent_obj;
    GMutex lock;
    GPtrArray *vcpus; /* of X86Cpu * */
    Jit *jit;
    bool use_jit, elide, chain, loops, sites, tier, superblocks, lookahead, windows, lockstep;
    uint32_t size_mib, max_insns, lockstep_every;
    char *stress;
} TcgAccel;

static void tcg_instance_init(Object *obj)
{
    TcgAccel *tcg = (TcgAccel *)obj;
    g_mutex_init(&tcg->lock);
    tcg->vcpus = g_ptr_array_new();
    tcg->use_jit = tcg->elide = tcg->chain = tcg->loops = tcg->sites = tcg->tier = true;
    tcg->superblocks = tcg->lookahead = tcg->windows = true;
    tcg->size_mib = DEFAULT_SIZE_MIB;
    tcg->max_insns = JIT_MAX_INSNS;
    tcg->lockstep_every = 1;
}

static void tcg_instance_finalize(Object *obj)
{
    TcgAccel *tcg = (TcgAccel *)obj;
    if (tcg->jit) {
        jit_free(tcg->jit);
    }
    g_ptr_array_unref(tcg->vcpus);
    g_mutex_clear(&tcg->lock);
}

/* evict, flush, poll, windows, joined by '+'. */
static bool parse_stress(const char *text, unsigned *stress, GError **error)
{
    char **words = g_strsplit(text ? text : "", "+", -1);
    bool ok = true;
    *stress = 0;
    for (unsigned i = 0; words[i] && ok; i++) {
        if (strcmp(words[i], "evict") == 0) {
            *stress |= JIT_STRESS_EVICT;
        } else if (strcmp(words[i], "flush") == 0) {
            *stress |= JIT_STRESS_FLUSH;
        } else if (strcmp(words[i], "poll") == 0) {
            *stress |= JIT_STRESS_POLL;
        } else if (strcmp(words[i], "windows") == 0) {
            *stress |= JIT_STRESS_WINDOWS;
        } else {
            ok = false;
            error_set(
                error,
                "-accel tcg: stress=%s: '%s' is not one of evict, flush, poll and windows (joined by '+')",
                text, words[i]);
        }
    }
    g_strfreev(words);
    return ok;
}

static bool tcg_setup(Accel *accel, AddressSpace *memory, ApicBus *apic_bus, GError **error)
{
    TcgAccel *tcg = (TcgAccel *)accel;
    if (!native_init(error)) {
        return false;
    }
    unsigned stress;
    if (tcg->max_insns < 1 || tcg->max_insns > JIT_MAX_INSNS) {
        error_set(error, "-accel tcg: max-insns=%u: a block has 1 to %u instructions", tcg->max_insns,
                  JIT_MAX_INSNS);
        return false;
    }
    if (tcg->size_mib == 0) {
        tcg->size_mib = DEFAULT_SIZE_MIB; /* as QEMU takes it */
    }
    if (tcg->size_mib < MIN_SIZE_MIB || tcg->size_mib > MAX_SIZE_MIB) {
        error_set(error, "-accel tcg: tb-size=%u: code memory has %u to %u MiB; 0 is the default of %u",
                  tcg->size_mib, MIN_SIZE_MIB, MAX_SIZE_MIB, DEFAULT_SIZE_MIB);
        return false;
    }
    if (tcg->lockstep && !tcg->use_jit) {
        error_set(error, "-accel tcg: lockstep=on compares translated code, which jit=off does not make");
        return false;
    }
    if (!parse_stress(tcg->stress, &stress, error)) {
        return false;
    }
    if (tcg->use_jit) {
        tcg->jit = jit_new((size_t)tcg->size_mib << 20, error);
        if (!tcg->jit) {
            return false;
        }
        tcg->jit->elide = tcg->elide;
        tcg->jit->chain = tcg->chain;
        tcg->jit->loops = tcg->loops;
        tcg->jit->sites = tcg->sites;
        tcg->jit->tier = tcg->tier && !tcg->lockstep;
        tcg->jit->superblocks = tcg->superblocks;
        tcg->jit->lookahead = tcg->lookahead;
        tcg->jit->windows = tcg->windows && tcg->jit->bmi2 && !tcg->lockstep;
        tcg->jit->max_insns = tcg->max_insns;
        tcg->jit->lockstep = tcg->lockstep;
        tcg->jit->lockstep_every = tcg->lockstep_every;
        tcg->jit->stress = stress;
        if (tcg->lockstep) {
            tcg->jit->chain = false; /* each block comes back */
        }
    }
    return true;
}

static bool tcg_vcpu_init(Accel *accel, X86Cpu *cpu, GError **error)
{
    TcgAccel *tcg = (TcgAccel *)accel;
    interp_vcpu_init(cpu);
    if (tcg->jit) {
        jit_vcpu_init(tcg->jit, cpu);
    }
    g_mutex_lock(&tcg->lock);
    g_ptr_array_add(tcg->vcpus, cpu);
    g_mutex_unlock(&tcg->lock);
    return true;
}

static void tcg_vcpu_destroy(Accel *accel, X86Cpu *cpu)
{
    TcgAccel *tcg = (TcgAccel *)accel;
    g_mutex_lock(&tcg->lock);
    g_ptr_array_remove(tcg->vcpus, cpu);
    g_mutex_unlock(&tcg->lock);
    jit_vcpu_destroy(cpu);
    interp_vcpu_destroy(cpu);
}

static void tcg_vcpu_exec(Accel *accel, X86Cpu *cpu)
{
    Jit *jit = ((TcgAccel *)accel)->jit;
    bool lockstep = jit && jit->lockstep;

    if (jit) {
        jit_thread_enter(cpu);
    }
    if (lockstep) {
        jit_turn_take(jit, cpu);
    }
    interp_vcpu_exec(cpu);
    if (lockstep) {
        jit_turn_give(jit);
    }
}

/* The instructions that went to the interpreter most. */
static void append_callouts(GString *text, const JitVcpu *v)
{
    uint64_t below = UINT64_MAX;
    for (unsigned n = 0; n < 24; n++) {
        unsigned most = 0;
        for (unsigned m = 1; m < X86_MNEMONIC_COUNT; m++) {
            if (v->callouts[m] < below && v->callouts[m] > (most ? v->callouts[most] : 0)) {
                most = m;
            }
        }
        if (!most) {
            break;
        }
        below = v->callouts[most];
        g_string_append_printf(text, "%s%s %" G_GUINT64_FORMAT,
                               n ? ", " : "        call-outs: ", x86_mnemonic_names[most], below);
    }
    g_string_append_c(text, '\n');
}

/* Counters are read while the vCPUs run: each is a word, and they need not agree. */
static char *tcg_info(Accel *accel)
{
    TcgAccel *tcg = (TcgAccel *)accel;
    GString *text = g_string_new(NULL);
    if (tcg->jit) {
        const Jit *jit = tcg->jit;
        g_string_append_printf(
            text,
            "translator: %u blocks; %" G_GUINT64_FORMAT " made of %" G_GUINT64_FORMAT
            " instructions in %" G_GUINT64_FORMAT " + %" G_GUINT64_FORMAT " KiB, %" G_GUINT64_FORMAT
            " made stale, %" G_GUINT64_FORMAT " regions evicted; %" G_GUINT64_FORMAT
            " million cycles, %" G_GUINT64_FORMAT " cycles for each instruction\n",
            jit->block_count, jit->translated, jit->insns, jit->code_bytes / 1024, jit->cold_bytes / 1024,
            jit->stale_count, jit->evictions, jit->cycles / 1000000, jit->cycles / MAX(jit->insns, 1u));
    }
    g_mutex_lock(&tcg->lock);
    for (guint i = 0; i < tcg->vcpus->len; i++) {
        const X86Cpu *cpu = tcg->vcpus->pdata[i];
        const Interp *d = cpu->accel_data;
        const JitVcpu *v = d->jit;
        g_string_append_printf(
            text,
            "CPU #%u: interpreter: %u blocks in %zu KiB; %" G_GUINT64_FORMAT " built, %" G_GUINT64_FORMAT
            " made stale by writes, %" G_GUINT64_FORMAT " flushes\n",
            cpu->index, __atomic_load_n(&d->block_count, __ATOMIC_RELAXED),
            __atomic_load_n(&d->chunk_bytes, __ATOMIC_RELAXED) / 1024,
            __atomic_load_n(&d->built, __ATOMIC_RELAXED), __atomic_load_n(&d->invalidated, __ATOMIC_RELAXED),
            __atomic_load_n(&d->flushes, __ATOMIC_RELAXED));
        if (v) {
            g_string_append_printf(
                text,
                "        look-ups %" G_GUINT64_FORMAT ", links %" G_GUINT64_FORMAT
                ", entries %" G_GUINT64_FORMAT ", refills %" G_GUINT64_FORMAT " (%" G_GUINT64_FORMAT
                " in vain), steps %" G_GUINT64_FORMAT ", interpreted blocks %u\n",
                v->lookups, v->links, v->fills, v->refills, v->refill_failures, v->steps, d->runs);
            static const char *const names[] = { "look-up", "table",   "indirect", "link",       "careful",
                                                 "step",    "changed", "poll",     "far-windows" };
            g_string_append(text, "        exits:");
            for (unsigned k = 0; k < G_N_ELEMENTS(names); k++) {
                g_string_append_printf(text, " %s %" G_GUINT64_FORMAT, names[k], v->exits[k]);
            }
            g_string_append_c(text, '\n');
            if (v->windows) {
                WindowCounts c;
                windows_counts(v->windows, &c);
                g_string_append_printf(
                    text,
                    "        windows: %" G_GUINT64_FORMAT " processes, %u pages; %" G_GUINT64_FORMAT
                    " mapped, %" G_GUINT64_FORMAT " faults, %" G_GUINT64_FORMAT
                    " looked at again, %" G_GUINT64_FORMAT " dropped; given up %" G_GUINT64_FORMAT " times\n",
                    c.spaces, c.pages, c.mapped, c.faults, c.checked, c.dropped, c.given_up);
            }
            if (v->lockstep) {
                g_string_append_printf(text, "        compared blocks: %" G_GUINT64_FORMAT "\n",
                                       jit_lockstep_checked(v));
            }
            append_callouts(text, v);
        }
    }
    g_mutex_unlock(&tcg->lock);
    return g_string_free(text, FALSE);
}

static bool tcg_aliases_ram(Accel *accel)
{
    const TcgAccel *tcg = (TcgAccel *)accel;
    return tcg->use_jit && tcg->windows && !tcg->lockstep;
}

static void tcg_vcpu_kick(Accel *accel, X86Cpu *cpu)
{
    __atomic_store_n(&cpu->interrupt_poll, 1, __ATOMIC_SEQ_CST);
}

static const Property tcg_properties[] = {
    PROP_BOOL("jit", TcgAccel, use_jit, true, "translate code; off: interpret all of it"),
    PROP_BOOL("elide", TcgAccel, elide, true, "check accesses of a block together"),
    PROP_BOOL("loops", TcgAccel, loops, true, "check the accesses of loops a page at a time"),
    PROP_BOOL("sites", TcgAccel, sites, true, "keep the last page of each access beside the TLB"),
    PROP_BOOL("tier", TcgAccel, tier, true, "interpret code that has run a few times only"),
    PROP_BOOL("superblocks", TcgAccel, superblocks, true, "go on in a block behind forward branches"),
    PROP_BOOL("windows", TcgAccel, windows, true, "map the memory of processes that run for long"),
    PROP_BOOL("lookahead", TcgAccel, lookahead, true, "look for flags that are dead where a block goes on"),
    PROP_BOOL("chain", TcgAccel, chain, true, "go from block to block without a look-up in C"),
    PROP_UINT32("tb-size", TcgAccel, size_mib, DEFAULT_SIZE_MIB,
                "memory for translated code, in MiB (touched as it is used); 0: the default"),
    PROP_UINT32("max-insns", TcgAccel, max_insns, JIT_MAX_INSNS, "instructions of a block, at most"),
    PROP_BOOL("lockstep", TcgAccel, lockstep, false,
              "compare each block with the interpreter; vCPUs take turns"),
    PROP_UINT32("lockstep-every", TcgAccel, lockstep_every, 1, "compare one block of so many"),
    PROP_STR("stress", TcgAccel, stress, NULL,
             "evict, flush, poll, windows (joined by '+'): do that at random"),
    PROP_END,
};

static void tcg_class_init(ObjectClass *klass, const void *class_data)
{
    AccelClass *accel = (AccelClass *)klass;
    accel->name = "tcg";
    accel->alias = "soft";
    accel->setup = tcg_setup;
    accel->vcpu_init = tcg_vcpu_init;
    accel->vcpu_destroy = tcg_vcpu_destroy;
    accel->vcpu_exec = tcg_vcpu_exec;
    accel->vcpu_kick = tcg_vcpu_kick;
    accel->aliases_ram = tcg_aliases_ram;
    accel->info = tcg_info;
    object_class_add_properties(klass, tcg_properties);
}

static const TypeInfo tcg_accel_info = {
    .name = "tcg-accel",
    .parent = TYPE_ACCEL,
    .description = "the software CPU",
    .instance_size = sizeof(TcgAccel),
    .instance_init = tcg_instance_init,
    .instance_finalize = tcg_instance_finalize,
    .class_init = tcg_class_init,
};
TYPE_REGISTER(tcg_accel_info);
