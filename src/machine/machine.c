/* What every board has: the class list, -smp, RAM, CPUs, reset. SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/machine.h"

#include "arch/x86/cpuid.h"
#include "base/error.h"
#include "base/nearest.h"
#if __has_include("mem/memory_backend.h")
#include "mem/memory_backend.h"
#else /* until it is landed */
#define TYPE_MEMORY_BACKEND           "memory-backend"
#define memory_backend_block(backend) ((RamBlock *)NULL)
#endif
#include "object/property.h"

#include <string.h>

/* Of 1 TiB, 64 GiB stay for the holes below 4 GiB and above RAM. */
#define MAX_RAM_SIZE (UINT64_C(960) << 30)

/* ---- classes ---- */

GPtrArray *machine_class_list(void)
{
    return object_class_list(TYPE_MACHINE, false);
}

MachineClass *machine_class_find(const char *name, GError **error)
{
    GPtrArray *classes = machine_class_list();
    GPtrArray *names = g_ptr_array_new();
    MachineClass *found = NULL;

    for (guint i = 0; i < classes->len && !found; i++) {
        MachineClass *mc = classes->pdata[i];
        if (strcmp(mc->name, name) == 0 || g_strcmp0(mc->alias, name) == 0) {
            found = mc;
        }
        g_ptr_array_add(names, (void *)mc->name);
        if (mc->alias) {
            g_ptr_array_add(names, (void *)mc->alias);
        }
    }
    if (!found) {
        g_ptr_array_add(names, NULL);
        error_set(error, "unsupported machine type '%s'", name);
        if (nearest_match(name, (const char *const *)names->pdata)) {
            nearest_hint(error, name, (const char *const *)names->pdata);
        } else {
            error_append_hint(error, "Use -machine help to list supported machines");
        }
    }
    g_ptr_array_unref(names);
    g_ptr_array_unref(classes);
    return found;
}

MachineClass *machine_class_default(void)
{
    GPtrArray *classes = machine_class_list();
    MachineClass *found = NULL;

    for (guint i = 0; i < classes->len; i++) {
        MachineClass *mc = classes->pdata[i];
        if (mc->is_default) {
            found = mc;
        }
    }
    g_ptr_array_unref(classes);
    return found;
}

char *machine_help(void)
{
    GPtrArray *classes = machine_class_list();
    GString *out = g_string_new("Supported machines are:\n");

    for (guint i = 0; i < classes->len; i++) {
        const MachineClass *mc = classes->pdata[i];
        if (mc->alias) {
            g_string_append_printf(out, "%-20s %s (alias of %s)\n", mc->alias, mc->description, mc->name);
        }
        g_string_append_printf(out, "%-20s %s%s%s\n", mc->name, mc->description,
                               mc->is_default ? " (default)" : "",
                               mc->deprecation_reason ? " (deprecated)" : "");
    }
    g_ptr_array_unref(classes);
    return g_string_free(out, false);
}

void machine_append_compat(MachineClass *klass, GPtrArray *globals)
{
    for (const GlobalProperty *const *table = klass->compat_props; table && *table; table++) {
        for (const GlobalProperty *p = *table; p->driver; p++) {
            g_ptr_array_add(globals, (void *)p);
        }
    }
}

/* ---- -smp ---- */

bool machine_smp_complete(MachineSmp *smp, unsigned machine_max, const char *machine_name, GError **error)
{
    MachineSmp s = *smp;

    s.dies = MAX(s.dies, 1);
    if (!s.cpus && !s.max_cpus) {
        s.sockets = MAX(s.sockets, 1);
        s.cores = MAX(s.cores, 1);
        s.threads = MAX(s.threads, 1);
    } else {
        s.max_cpus = s.max_cpus ? s.max_cpus : s.cpus;
        if (!s.cores) {
            s.sockets = MAX(s.sockets, 1);
            s.threads = MAX(s.threads, 1);
            s.cores = s.max_cpus / ((uint64_t)s.sockets * s.dies * s.threads);
        } else if (!s.sockets) {
            s.threads = MAX(s.threads, 1);
            s.sockets = s.max_cpus / ((uint64_t)s.dies * s.cores * s.threads);
        }
        if (!s.threads) {
            s.threads = s.max_cpus / ((uint64_t)s.sockets * s.dies * s.cores);
        }
    }
    /* Each factor is at most 2^32 - 1: the product of four needs care. */
    unsigned __int128 product = (unsigned __int128)s.sockets * s.dies * s.cores * s.threads;
    uint64_t total = product > UINT32_MAX ? UINT32_MAX : (uint64_t)product;
    s.max_cpus = s.max_cpus ? s.max_cpus : total;
    s.cpus = s.cpus ? s.cpus : s.max_cpus;
    if (total != s.max_cpus) {
        return error_set(
            error,
            "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (%u) * dies (%u) * "
            "cores (%u) * threads (%u) != maxcpus (%u)",
            s.sockets, s.dies, s.cores, s.threads, s.max_cpus);
    }
    if (s.max_cpus < s.cpus) {
        return error_set(
            error,
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: sockets (%u) * dies (%u) "
            "* cores (%u) * threads (%u) == maxcpus (%u) < smp_cpus (%u)",
            s.sockets, s.dies, s.cores, s.threads, s.max_cpus, s.cpus);
    }
    if (s.max_cpus > machine_max) {
        return error_set(error, "Invalid SMP CPUs %u. The max CPUs supported by machine '%s' is %u",
                         s.max_cpus, machine_name, machine_max);
    }
    *smp = s;
    return true;
}

static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;

    while ((1u << bits) < count) {
        bits++;
    }
    return bits;
}

/* APIC ids give each level of the topology whole bits, SDM vol. 3 9.9.1. */
static bool machine_make_slots(Machine *machine, GError **error)
{
    const MachineSmp *smp = &machine->smp;
    unsigned thread_bits = bits_for(smp->threads), core_bits = bits_for(smp->cores),
             die_bits = bits_for(smp->dies);

    machine->cpu_slots = g_new0(MachineCpuSlot, smp->max_cpus);
    for (unsigned i = 0; i < smp->max_cpus; i++) {
        MachineCpuSlot *slot = &machine->cpu_slots[i];
        unsigned core = i / smp->threads, die = core / smp->cores;
        slot->thread_id = i % smp->threads;
        slot->core_id = core % smp->cores;
        slot->die_id = die % smp->dies;
        slot->socket_id = die / smp->dies;
        uint64_t id = (((uint64_t)slot->socket_id << die_bits | slot->die_id) << core_bits | slot->core_id)
                          << thread_bits |
                      slot->thread_id;
        if (id >= 255) {
            return error_set(
                error,
                "this CPU topology needs APIC ids beyond 254: make cores and threads powers of two, or "
                "have fewer CPUs");
        }
        slot->apic_id = id;
    }
    return true;
}

/* ---- CPUs ---- */

static bool machine_find_cpu_type(Machine *machine, const char *model, GError **error)
{
    MachineClass *mc = MACHINE_GET_CLASS(machine);

    if (!model) {
        machine->cpu_type = g_strdup(mc->default_cpu_type);
        machine->cpu_features = g_strdup("");
        return true;
    }
    const char *comma = strchr(model, ',');
    g_autofree char *name = comma ? g_strndup(model, comma - model) : g_strdup(model);
    const char *meant = mc->latest_cpu_models ? x86_cpu_model_latest(name) : name;
    g_autofree char *type = g_strconcat(meant, "-x86_64-cpu", NULL);
    ObjectClass *klass = object_class_by_name(type);
    if (!klass || !object_class_cast(klass, TYPE_X86_CPU) || object_class_is_abstract(klass)) {
        GPtrArray *classes = object_class_list(TYPE_X86_CPU, false);
        GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
        for (guint i = 0; i < classes->len; i++) {
            char *known = g_strdup(object_class_get_name(classes->pdata[i]));
            char *suffix = strstr(known, "-x86_64-cpu");
            if (suffix) {
                *suffix = 0;
            }
            g_ptr_array_add(names, known);
        }
        g_ptr_array_add(names, NULL);
        error_set(error, "unable to find CPU model '%s'", name);
        nearest_hint(error, name, (const char *const *)names->pdata);
        g_ptr_array_unref(names);
        g_ptr_array_unref(classes);
        return false;
    }
    machine->cpu_type = g_steal_pointer(&type);
    machine->cpu_features = g_strdup(comma ? comma + 1 : "");
    return true;
}

static bool cpu_set_features(Object *cpu, const char *features, GError **error)
{
    g_auto(GStrv) list = g_strsplit(features, ",", -1);

    for (char **feature = list; *feature; feature++) {
        char *text = *feature;
        const char *value = "on";
        if (!*text) {
            continue;
        }
        if (*text == '+' || *text == '-') {
            value = *text == '+' ? "on" : "off";
            text++;
        }
        char *equals = strchr(text, '=');
        if (equals) {
            *equals = 0;
            value = equals + 1;
        }
        g_strdelimit(text, "_", '-');
        if (!object_property_parse(cpu, text, value, error)) {
            return false;
        }
    }
    return true;
}

static void machine_cpu_wants_reset(void *opaque)
{
    Machine *machine = opaque;

    machine->config.vm->request_reset(machine->config.vm->opaque, SHUTDOWN_GUEST_RESET);
}

static void machine_cpu_failed(void *opaque)
{
    Machine *machine = opaque;

    machine->config.vm->internal_error(machine->config.vm->opaque);
}

bool machine_add_cpu(Machine *machine, unsigned index, AddressSpace *smram, GError **error)
{
    MachineCpuSlot *slot = &machine->cpu_slots[index];
    Object *obj = object_new(machine->cpu_type, error);

    if (!obj) {
        return false;
    }
    X86Cpu *cpu = X86_CPU(obj);
    const AccelClass *accel = ACCEL_GET_CLASS(machine->config.accel);
    X86CpuEnv env = {
        .memory = machine->memory,
        .smram = smram ? smram : machine->memory,
        .io = machine->io,
        .apic_bus = machine->apic_bus,
        .clocks = machine->config.clocks,
        .main_loop = machine->config.loop,
        .request_reset = machine_cpu_wants_reset,
        .failed = machine_cpu_failed,
        .opaque = machine,
    };
    cpu->index = index;
    cpu->apic_id = slot->apic_id;
    cpu->socket_id = slot->socket_id;
    cpu->die_id = slot->die_id;
    cpu->core_id = slot->core_id;
    cpu->thread_id = slot->thread_id;
    cpu->sockets = machine->smp.sockets;
    cpu->dies = machine->smp.dies;
    cpu->cores = machine->smp.cores;
    cpu->threads = machine->smp.threads;
    if (!object_apply_globals(obj, machine->config.globals, error) ||
        !cpu_set_features(obj, machine->cpu_features, error) ||
        !object_property_add_child(container_get(machine->config.root, "/machine/unattached"), "device[*]",
                                   obj, error)) {
        object_unref(obj);
        return false;
    }
    object_unref(obj); /* the tree keeps it */
    if (!x86_cpu_realize(cpu, &env, error)) {
        return false;
    }
    if (accel->vcpu_init && !accel->vcpu_init(machine->config.accel, cpu, error)) {
        return false;
    }
    if (!vcpu_set_add(machine->config.vcpus, cpu, error)) {
        return false;
    }
    slot->cpu = cpu;
    return true;
}

/* ---- RAM ---- */

static bool aliases_ram(Accel *accel)
{
    const AccelClass *class = accel ? ACCEL_GET_CLASS(accel) : NULL;
    return class && class->aliases_ram && class->aliases_ram(accel);
}

static bool machine_make_ram(Machine *machine, GError **error)
{
    MachineClass *mc = MACHINE_GET_CLASS(machine);
    const MachineConfig *config = &machine->config;
    RamBlock *block;

    machine->ram_size = config->ram_size ? config->ram_size : mc->default_ram_size;
    if (!mc->no_cpus && machine->ram_size > MAX_RAM_SIZE) {
        return error_set(
            error, "machine '%s' takes at most %" PRIu64 " GiB of memory: its CPUs have 40 address bits",
            mc->name, MAX_RAM_SIZE >> 30);
    }
    if (machine->memory_backend) {
        Object *objects = container_get(config->root, "/objects");
        Object *backend = object_resolve_path_component(objects, machine->memory_backend);
        if (!backend) {
            return error_set(error, "Memory backend '%s' not found", machine->memory_backend);
        }
        if (!object_dynamic_cast(backend, TYPE_MEMORY_BACKEND)) {
            return error_set(error, "'%s' is no memory backend but a %s", machine->memory_backend,
                             object_get_typename(backend));
        }
        block = ram_block_ref(memory_backend_block(backend));
        if (config->ram_size && block->size != config->ram_size) {
            ram_block_unref(block);
            return error_set(error, "Machine memory size does not match the size of the memory backend");
        }
        machine->ram_size = block->size;
    } else {
        if (!machine->ram_size) {
            return true;
        }
        const RamBlockOptions options = {
            .size = machine->ram_size,
            .path = config->mem_path,
            .prealloc = config->mem_prealloc,
            .prealloc_threads = 1,
            .alias = aliases_ram(config->accel),
            .merge = machine->mem_merge,
            .no_dump = !machine->dump_guest_core,
        };
        block = ram_block_new(mc->default_ram_id ? mc->default_ram_id : "ram", &options, error);
        if (!block) {
            return false;
        }
    }
    memory_region_init_ram_from_block(&machine->ram, machine, block->id, block);
    return true;
}

/* ---- life ---- */

bool machine_init(Machine *machine, const MachineConfig *config, GError **error)
{
    MachineClass *mc = MACHINE_GET_CLASS(machine);
    const AccelClass *accel = ACCEL_GET_CLASS(config->accel);

    machine->config = *config;
    machine->smp = config->smp;
    memory_region_init(&machine->system_memory, machine, "system", UINT64_MAX);
    memory_region_init(&machine->system_io, machine, "io", 65536);
    machine->memory = address_space_new(&machine->system_memory, "memory");
    machine->io = address_space_new(&machine->system_io, "I/O");
    machine->apic_bus = apic_bus_new();
    machine->built = true;
    machine->env = (DeviceEnv){
        .memory = machine->memory,
        .io = machine->io,
        .system_memory = &machine->system_memory,
        .system_io = &machine->system_io,
        .apic_bus = machine->apic_bus,
        .clocks = config->clocks,
        .loop = config->loop,
        .vm = config->vm,
        .root = config->root,
        .firmware_dirs = config->firmware_dirs,
        .displays = config->displays,
        .inputs = config->inputs,
        .acpi_parts = g_ptr_array_new(),
    };
    /* libvirt and the monitor look for these even where they are empty. */
    container_get(config->root, "/machine/peripheral");
    container_get(config->root, "/machine/peripheral-anon");
    container_get(config->root, "/machine/unattached");
    if (machine->usb && !MACHINE_GET_CLASS(machine)->has_usb) {
        return error_set(error, "machine '%s' has no USB controller for usb=on",
                         MACHINE_GET_CLASS(machine)->name);
    }
    if (machine->dtb) {
        return error_set(error, "machine option 'dtb': PCs have no device tree");
    }
    if (!mc->no_cpus) {
        if (!machine_smp_complete(&machine->smp, mc->max_cpus, mc->name, error) ||
            !machine_make_slots(machine, error) ||
            !machine_find_cpu_type(machine, config->cpu_model, error)) {
            return false;
        }
    }
    if (!machine_make_ram(machine, error)) {
        return false;
    }
    if (accel->setup && !accel->setup(config->accel, machine->memory, machine->apic_bus, error)) {
        return false;
    }
    /* The caller's strings do not outlive this call. */
    if (mc->init && !mc->init(machine, error)) {
        return false;
    }
    machine->config.cpu_model = machine->config.mem_path = machine->config.uuid = machine->config.rtc_base =
        NULL;
    return true;
}

bool machine_ready(Machine *machine, GError **error)
{
    MachineClass *mc = MACHINE_GET_CLASS(machine);

    return !mc->ready || mc->ready(machine, error);
}

void machine_reset(Machine *machine)
{
    MachineClass *mc = MACHINE_GET_CLASS(machine);

    device_reset_all(machine->config.root);
    for (unsigned i = 0; machine->cpu_slots && i < machine->smp.max_cpus; i++) {
        if (machine->cpu_slots[i].cpu) {
            x86_cpu_reset(machine->cpu_slots[i].cpu, false);
        }
    }
    if (mc->reset) {
        mc->reset(machine);
    }
}

static Device *last_device(Object *container)
{
    GPtrArray *list = object_property_list(container);
    Device *found = NULL;

    for (guint n = list->len; n-- > 0 && !found;) {
        const ObjectProperty *p = list->pdata[n];
        found = p->child ? object_dynamic_cast(p->child, TYPE_DEVICE) : NULL;
    }
    g_ptr_array_unref(list);
    return found;
}

void machine_fini(Machine *machine)
{
    MachineClass *mc = MACHINE_GET_CLASS(machine);
    const AccelClass *accel = machine->config.accel ? ACCEL_GET_CLASS(machine->config.accel) : NULL;

    if (!machine->built) {
        return;
    }
    machine->built = false;
    /* What users added first, then the board's own; last made, first gone. */
    static const char *const places[] = { "/machine/peripheral", "/machine/peripheral-anon",
                                          "/machine/unattached" };
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        Object *container = container_get(machine->config.root, places[i]);
        Device *dev;
        while ((dev = last_device(container))) { /* anew each time: a bus takes its devices along */
            if (dev->realized) {
                device_unrealize(dev);
            }
            object_unparent(OBJECT(dev));
        }
    }
    machine->rtc = NULL;
    machine->fw_cfg = NULL;
    g_clear_pointer(&machine->env.acpi_parts, g_ptr_array_unref);
    for (unsigned i = 0; machine->cpu_slots && i < machine->smp.max_cpus; i++) {
        X86Cpu *cpu = machine->cpu_slots[i].cpu;
        if (cpu) {
            if (accel && accel->vcpu_destroy) {
                accel->vcpu_destroy(machine->config.accel, cpu);
            }
            x86_cpu_unrealize(cpu);
            machine->cpu_slots[i].cpu = NULL;
        }
    }
    if (accel && accel->teardown) {
        accel->teardown(machine->config.accel);
    }
    if (mc->fini) {
        mc->fini(machine);
    }
}

static void machine_instance_finalize(Object *obj)
{
    Machine *machine = MACHINE(obj);

    /* Devices and CPUs, its children, are gone, and so are the regions and spaces of the derived types. */
    address_space_free(machine->memory);
    address_space_free(machine->io);
    memory_region_destroy(&machine->ram);
    memory_region_destroy(&machine->system_memory);
    memory_region_destroy(&machine->system_io);
    apic_bus_free(machine->apic_bus);
    g_free(machine->cpu_slots);
    g_free(machine->cpu_type);
    g_free(machine->cpu_features);
}

static const Property machine_properties[] = {
    PROP_STR("kernel", Machine, kernel, NULL, "Linux kernel image file"),
    PROP_STR("initrd", Machine, initrd, NULL, "Linux initial ramdisk file"),
    PROP_STR("append", Machine, append, NULL, "Linux kernel command line"),
    PROP_STR("dtb", Machine, dtb, NULL, "Linux kernel device tree file"),
    PROP_STR("firmware", Machine, firmware, NULL, "Firmware image"),
    PROP_STR("memory-backend", Machine, memory_backend, NULL,
             "id of the memory backend that is the machine's RAM"),
    PROP_STR("boot-order", Machine, boot_order, NULL, "order of boot devices"),
    PROP_STR("boot-once", Machine, boot_once, NULL, "order of boot devices at the first start"),
    PROP_BOOL("boot-menu", Machine, boot_menu, false, "firmware offers a boot menu"),
    PROP_BOOL("boot-strict", Machine, boot_strict, false, "boot from nothing but what has a bootindex"),
    PROP_INT32("boot-splash-time", Machine, boot_splash_time, -1, "ms that the boot menu waits for a key"),
    PROP_INT32("boot-reboot-timeout", Machine, boot_reboot_timeout, -1,
               "ms after which a machine that found nothing to boot starts again"),
    PROP_STR("option-roms", Machine, option_roms, NULL, "files of option ROMs, a line each"),
    PROP_STR("smbios", Machine, smbios, NULL, "what -smbios said, as JSON"),
    PROP_BOOL("dump-guest-core", Machine, dump_guest_core, true, "include guest memory in a core dump"),
    PROP_BOOL("mem-merge", Machine, mem_merge, true, "let the host merge equal pages"),
    PROP_BOOL("usb", Machine, usb, false, "add a USB controller"),
    PROP_BOOL("graphics", Machine, graphics, true, "the machine has a display"),
    PROP_BOOL("suppress-vmdesc", Machine, suppress_vmdesc, false,
              "leave the description out of migration streams"),
    PROP_END,
};

static void machine_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);

    object_class_add_properties(klass, machine_properties);
    mc->max_cpus = 1;
    mc->numa_mem_supported = true;
    mc->default_ram_size = 128 << 20;
    mc->default_disk_interface = "none";
}

static void machine_class_base_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);

    /* These belong to one version alone. */
    mc->name = mc->alias = mc->description = mc->deprecation_reason = NULL;
    mc->is_default = false;
}

static const TypeInfo machine_info = {
    .name = TYPE_MACHINE,
    .parent = TYPE_OBJECT,
    .description = "a board",
    .instance_size = sizeof(Machine),
    .class_size = sizeof(MachineClass),
    .abstract = true,
    .class_init = machine_class_init,
    .class_base_init = machine_class_base_init,
    .instance_finalize = machine_instance_finalize,
};
TYPE_REGISTER(machine_info);
