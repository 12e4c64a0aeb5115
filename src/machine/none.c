/* A machine with nothing on it, for tools that only ask questions. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/machine.h"

#include "base/error.h"

static bool none_init(Machine *machine, GError **error)
{
    if (machine->kernel) {
        return error_set(error, "machine 'none' does not start kernels");
    }
    if (machine->ram_size) {
        memory_region_add(&machine->system_memory, 0, &machine->ram);
    }
    return true;
}

static void none_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);

    mc->name = "none";
    mc->description = "empty machine";
    mc->init = none_init;
    mc->max_cpus = 1;
    mc->no_cpus = mc->no_serial = true;
    mc->default_ram_id = "ram";
    mc->default_ram_size = 0;
}

static const TypeInfo none_info = {
    .name = "none" MACHINE_TYPE_SUFFIX,
    .parent = TYPE_MACHINE,
    .class_init = none_class_init,
};
TYPE_REGISTER(none_info);
