/*
 * "vmcoreinfo": a guest's kernel says where its crash note is, so that a dump of guest memory can be read.
 * Source: QEMU's documentation, docs/specs/vmcoreinfo.
 *
 * The guest writes the file "etc/vmcoreinfo" of fw_cfg, which also saves it; what stands there are this
 * device's properties. There is no command that makes dumps: memory comes from `pmemsave`. Threads: the main
 * loop. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/firmware/fw_cfg.h"

#define TYPE_VMCOREINFO "vmcoreinfo"
#define VMCOREINFO_FILE "etc/vmcoreinfo"
enum { FORMAT_NONE = 0, FORMAT_ELF = 1 };

/* The file, little-endian. */
typedef struct __attribute__((packed)) VmcoreinfoFile {
    uint16_t host_format, guest_format;
    uint32_t size;
    uint64_t paddr;
} VmcoreinfoFile;

typedef struct VmcoreinfoState {
    Device parent_obj;
} VmcoreinfoState;

/* What the guest has written; false: nothing. */
static bool get_note(Device *dev, VmcoreinfoFile *file)
{
    return dev->realized && fw_cfg_read_file(dev->env->fw_cfg, VMCOREINFO_FILE, file, sizeof(*file)) &&
           GUINT16_FROM_LE(file->guest_format) != FORMAT_NONE;
}

static bool get_format(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    VmcoreinfoFile file;
    uint64_t format = get_note(DEVICE(obj), &file) ? GUINT16_FROM_LE(file.guest_format) : FORMAT_NONE;
    return visit_uint64(v, name, &format, error);
}

static bool get_address(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    VmcoreinfoFile file;
    uint64_t address = get_note(DEVICE(obj), &file) ? GUINT64_FROM_LE(file.paddr) : 0;
    return visit_uint64(v, name, &address, error);
}

static bool get_size(Object *obj, Visitor *v, const char *name, void *opaque, GError **error)
{
    VmcoreinfoFile file;
    uint64_t size = get_note(DEVICE(obj), &file) ? GUINT32_FROM_LE(file.size) : 0;
    return visit_uint64(v, name, &size, error);
}

static bool vmcoreinfo_realize(Device *dev, GError **error)
{
    const VmcoreinfoFile first = { .host_format = GUINT16_TO_LE(FORMAT_ELF) };
    if (!dev->env || !dev->env->fw_cfg) {
        return error_set(error, "%s needs fw_cfg, which this machine has not", TYPE_VMCOREINFO);
    }
    if (!fw_cfg_add_writable_file(dev->env->fw_cfg, VMCOREINFO_FILE, &first, sizeof(first), error)) {
        error_append_hint(error, "A machine has one %s at most.", TYPE_VMCOREINFO);
        return false;
    }
    return true;
}

static void add_number(ObjectClass *klass, const char *name, PropertyAccessor *get, const char *description)
{
    object_property_set_description(object_class_property_add(klass, name, "uint64", get, NULL, NULL),
                                    description);
}

static void vmcoreinfo_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = vmcoreinfo_realize;
    dc->category = "Misc";
    dc->user_creatable = true;
    dc->hotpluggable = false;
    add_number(klass, "note-format", get_format, "of the guest's note: 1 is ELF, 0: there is none");
    add_number(klass, "note-address", get_address, "guest physical address of the note");
    add_number(klass, "note-size", get_size, "bytes of the note");
}

static const TypeInfo vmcoreinfo_info = {
    .name = TYPE_VMCOREINFO,
    .parent = TYPE_DEVICE,
    .description = "where a guest's crash note is",
    .instance_size = sizeof(VmcoreinfoState),
    .class_init = vmcoreinfo_class_init,
};
TYPE_REGISTER(vmcoreinfo_info);
