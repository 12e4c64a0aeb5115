/*
 * What the PC boards share: ISA devices, what firmware would have left in memory, properties, versions. They
 * differ only by tables of compatibility properties. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "machine/pc.h"

#include "base/error.h"
#include "hw/input/i8042.h"
#include "hw/isa/i8257.h"
#include "hw/isa/isa.h"
#include "hw/misc/port92.h"
#include "object/property.h"

/* In segment 0xf000, where PC firmware has always had them. */
#define TIMER_HANDLER 0xfea5
#define DUMMY_HANDLER 0xff53

const char *pc_preset(X86Machine *x86)
{
    return x86->firmware ? "off" : "on";
}

Device *pc_new_pci(X86Machine *x86, const char *type, const char *addr, GError **error)
{
    Machine *machine = MACHINE(x86);
    Device *dev = device_new_unattached(machine->config.root, type, NULL);

    if (!object_apply_globals(OBJECT(dev), machine->config.globals, error) ||
        !object_property_parse(OBJECT(dev), "addr", addr, error) ||
        !object_property_parse(OBJECT(dev), "multifunction", "on", error) ||
        !object_property_parse(OBJECT(dev), "firmware-preset", pc_preset(x86), error)) {
        return NULL;
    }
    return dev;
}

bool pc_init_isa(PcMachine *pc, Bus *isa, GError **error)
{
    X86Machine *x86 = X86_MACHINE(pc);
    Machine *machine = MACHINE(pc);

    if (pc->i8042) {
        Device *kbd = device_new_unattached(machine->config.root, TYPE_I8042, NULL);
        i8042_set_a20(kbd, x86->a20);
        if (!device_realize(kbd, isa, NULL, error)) {
            return false;
        }
    }
    Device *port92 = device_new_unattached(machine->config.root, TYPE_PORT92, NULL);
    port92_set_a20(port92, x86->a20);
    return device_realize(port92, isa, NULL, error) &&
           x86_machine_add_device(x86, TYPE_I8257, isa, error, NULL) &&
           x86_machine_init_serial(x86, isa, error);
}

/* ---- a start without firmware ---- */
void pc_write_vectors(Machine *machine)
{
    static const uint8_t timer_handler[] = {
        0x50, 0x1e,                   /* push ax; push ds */
        0xb8, 0x40, 0x00, 0x8e, 0xd8, /* mov ax, 0x40; mov ds, ax */
        0x66, 0xff, 0x06, 0x6c, 0x00, /* inc dword [0x6c] */
        0xb0, 0x20, 0xe6, 0x20,       /* mov al, 0x20; out 0x20, al */
        0x1f, 0x58, 0xcf,             /* pop ds; pop ax; iret */
    };
    static const uint8_t iret = 0xcf;
    uint32_t vectors[256];

    for (int i = 0; i < 256; i++) {
        vectors[i] = 0xf0000000u | (i == 8 ? TIMER_HANDLER : DUMMY_HANDLER);
    }
    address_space_write(machine->memory, 0, MEMTXATTRS_NONE, vectors, sizeof(vectors));
    address_space_write(machine->memory, 0xf0000 + DUMMY_HANDLER, MEMTXATTRS_NONE, &iret, 1);
    address_space_write(machine->memory, 0xf0000 + TIMER_HANDLER, MEMTXATTRS_NONE, timer_handler,
                        sizeof(timer_handler));
    if (X86_MACHINE(machine)->pic_dev) {
        address_space_store(machine->io, 0x21, 1, 0xfa,
                            MEMTXATTRS_NONE); /* all masked but timer and cascade */
    }
}

/* ---- the type ---- */
static void pc_fini(Machine *machine)
{
    x86_machine_fini(X86_MACHINE(machine));
}

static const Property pc_properties[] = {
    PROP_STR("pflash0", PcMachine, parent_obj.pflash[0], NULL, "drive or block node of the firmware's flash"),
    PROP_STR("pflash1", PcMachine, parent_obj.pflash[1], NULL, "drive or block node of its variables' flash"),
    PROP_BOOL("hpet", PcMachine, hpet, true, "high precision event timer"),
    PROP_BOOL("i8042", PcMachine, i8042, true, "keyboard controller"),
    PROP_BOOL("smbus", PcMachine, smbus, true, "SMBus controller (q35; i440FX always has its)"),
    PROP_BOOL("sata", PcMachine, sata, true, "SATA controller (i440FX has none)"),
    PROP_ENUM("vmport", PcMachine, vmport, on_off_auto_lookup, ON_OFF_AUTO_AUTO,
              "VMware's I/O port (accepted; not modelled)"),
    PROP_END,
};

static void pc_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);

    object_class_add_properties(klass, pc_properties);
    mc->fini = pc_fini;
    mc->default_ram_id = "pc.ram";
    mc->default_nic = true;
    mc->has_usb = true;
    mc->default_nic_model = "virtio-net-pci";
    mc->default_disk_interface = "ide";
}

static void pc_instance_finalize(Object *obj)
{
    memory_region_destroy(&PC_MACHINE(obj)->pci_memory);
}

static const TypeInfo pc_info = {
    .name = TYPE_PC_MACHINE,
    .parent = TYPE_X86_MACHINE,
    .description = "PC",
    .instance_size = sizeof(PcMachine),
    .abstract = true,
    .class_init = pc_class_init,
    .instance_finalize = pc_instance_finalize,
};
TYPE_REGISTER(pc_info);

/* ---- versions ---- */

/* What 8.1 changed, turned back. */
const GlobalProperty pc_compat_8_0[] = {
    { .driver = "virtio-net-device", .property = "host_uso", .value = "off", .optional = true },
    { .driver = "virtio-net-device", .property = "guest_uso4", .value = "off", .optional = true },
    { .driver = "virtio-net-device", .property = "guest_uso6", .value = "off", .optional = true },
    { .driver = "pci-device", .property = "x-pcie-err-unc-mask", .value = "off", .optional = true },
    { .driver = NULL },
};

/* What 8.0 changed: nothing that is modelled here. */
const GlobalProperty pc_compat_7_2[] = {
    { .driver = NULL },
};

void pc_version_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = MACHINE_CLASS(klass);
    const PcVersion *version = data;

    mc->name = version->name;
    mc->alias = version->alias;
    mc->description = version->description;
    mc->is_default = version->is_default;
    mc->compat_props = version->compat;
    mc->init = version->init;
    mc->ready = version->ready;
    mc->reset = version->reset;
}
