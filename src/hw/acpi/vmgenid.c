/*
 * "vmgenid": a number in guest memory that changes when the machine goes on from a past state, so that a
 * guest renews what must not be used twice (random numbers, transaction IDs). Sources: Microsoft, "Virtual
 * Machine Generation ID" (2012); QEMU's documentation, docs/specs/vmgenid, for names and for where in the
 * page the number is.
 *
 * The guest learns the address from ACPI (method ADDR) and of a change from general purpose event 5. With
 * guid=auto each load of a saved state makes a new ID; one that the user gives is announced where the loaded
 * state has another.
 *
 * Threads: everything in the main loop. The address that firmware tells is in a file of fw_cfg, which saves
 * it. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/acpi/vmgenid.h"

#include "base/error.h"
#include "hw/acpi/acpi_part.h"
#include "hw/acpi/aml.h"
#include "hw/core/device.h"
#include "hw/firmware/fw_cfg.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(vmgenid_update, "gpa 0x%" G_GINT64_MODIFIER "x changed %d");

#define TYPE_VMGENID "vmgenid"
#define PAGE_FILE    "etc/vmgenid_guid"
#define ADDRESS_FILE "etc/vmgenid_addr"
/* Behind what a firmware could take for a table's header. */
enum { GUID_OFFSET = 40, GUID_SIZE = 16, GPE_CHANGED = 5, NOTIFY_CHANGED = 0x80 };

typedef struct VmGenId {
    Device parent_obj;
    char *guid_text;         /* property: "auto" or a UUID */
    uint8_t guid[GUID_SIZE]; /* in the order of its text */
    BottomHalf *loaded;
    AcpiPart part;
} VmGenId;
#define VMGENID(obj) OBJECT_CHECK(VmGenId, obj, TYPE_VMGENID)

/* ---- the number ---- */

static bool is_auto(const VmGenId *s)
{
    return !strcmp(s->guid_text, "auto");
}

static void renew(VmGenId *s)
{
    g_autofree char *text = g_uuid_string_random();
    property_parse_uuid(text, s->guid);
}

/* In memory the first three parts are little-endian. */
static void guid_to_memory(const uint8_t guid[GUID_SIZE], uint8_t out[GUID_SIZE])
{
    static const uint8_t order[GUID_SIZE] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
    for (unsigned i = 0; i < GUID_SIZE; i++) {
        out[i] = guid[order[i]];
    }
}

/* What firmware, or the board in its place, copies into guest memory at a start. */
static bool publish(VmGenId *s, GError **error)
{
    uint8_t page[ACPI_PART_PAGE_SIZE] = { 0 };
    guid_to_memory(s->guid, page + GUID_OFFSET);
    return fw_cfg_add_file(DEVICE(s)->env->fw_cfg, PAGE_FILE, page, sizeof(page), error);
}

/* A state was loaded: memory has the ID of its time. The address is the guest's: DMA reaches RAM only. */
static void after_load(void *opaque)
{
    VmGenId *s = opaque;
    const DeviceEnv *env = DEVICE(s)->env;
    uint8_t now[GUID_SIZE], old[GUID_SIZE];
    uint64_t gpa = 0;

    if (is_auto(s)) {
        renew(s);
        publish(s, NULL); /* the name is there already, so that it does not fail */
    }
    guid_to_memory(s->guid, now);
    fw_cfg_read_file(env->fw_cfg, ADDRESS_FILE, &gpa, sizeof(gpa));
    gpa = GUINT64_FROM_LE(gpa);
    bool changed = gpa &&
                   address_space_read(env->memory, gpa, MEMTXATTRS_DMA, old, sizeof(old)) == MEMTX_OK &&
                   memcmp(old, now, sizeof(now)) != 0;
    TRACE(vmgenid_update, gpa, changed);
    if (changed) {
        address_space_write(env->memory, gpa, MEMTXATTRS_DMA, now, sizeof(now));
        env->raise_gpe(env->gpe_device, GPE_CHANGED);
    }
}

/* ---- what ACPI tells of it ---- */

static void aml_address_method(GByteArray *a)
{
    AmlMark method = aml_method(a, "ADDR", 0, true);
    aml_name(a, "PAIR");
    AmlMark package = aml_package(a, 2);
    aml_integer(a, 0);
    aml_integer(a, 0);
    aml_end(a, package);
    AmlMark known = aml_if(a);
    aml_name_path(a, "VGIA");
    aml_byte(a, AML_ADD);
    aml_name_path(a, "VGIA");
    aml_integer(a, GUID_OFFSET);
    aml_byte(a, AML_INDEX);
    aml_name_path(a, "PAIR");
    aml_integer(a, 0);
    aml_byte(a, AML_NULL_NAME);
    aml_end(a, known);
    aml_byte(a, AML_RETURN);
    aml_name_path(a, "PAIR");
    aml_end(a, method);
}

static void aml_status_method(GByteArray *a)
{
    AmlMark method = aml_method(a, "_STA", 0, false);
    AmlMark known = aml_if(a);
    aml_name_path(a, "VGIA");
    aml_byte(a, AML_RETURN);
    aml_integer(a, 0x0f);
    aml_end(a, known);
    aml_byte(a, AML_RETURN);
    aml_integer(a, 0);
    aml_end(a, method);
}

static GByteArray *make_aml(guint *address_at)
{
    GByteArray *a = g_byte_array_new();
    aml_name(a, "\\VGIA");
    aml_byte(a, AML_DWORD_PREFIX);
    *address_at = a->len;
    for (int i = 0; i < 4; i++) {
        aml_byte(a, 0);
    }
    AmlMark scope = aml_scope(a, "\\_SB_");
    AmlMark device = aml_device(a, "VGEN");
    aml_name_string(a, "_HID", "QEMUVGID"); /* what guests' drivers have known it by */
    aml_name_string(a, "_CID", "VM_Gen_Counter");
    aml_name_string(a, "_DDN", "VM_Gen_Counter");
    aml_status_method(a);
    aml_address_method(a);
    aml_end(a, device);
    aml_end(a, scope);
    scope = aml_scope(a, "\\_GPE");
    g_autofree char *name = g_strdup_printf("_E%02X", GPE_CHANGED);
    AmlMark method = aml_method(a, name, 0, false);
    aml_byte(a, AML_NOTIFY);
    aml_name_path(a, "\\_SB_.VGEN");
    aml_integer(a, NOTIFY_CHANGED);
    aml_end(a, method);
    aml_end(a, scope);
    return a;
}

/* ---- life ---- */

static bool vmgenid_realize(Device *dev, GError **error)
{
    VmGenId *s = VMGENID(dev);
    const DeviceEnv *env = dev->env;
    const uint64_t nowhere = 0;

    if (!env || !env->memory || !env->fw_cfg || !env->acpi_parts || !env->raise_gpe) {
        return error_set(error,
                         "%s needs fw_cfg and general purpose events of ACPI, which this machine has not",
                         TYPE_VMGENID);
    }
    if (is_auto(s)) {
        renew(s);
    } else if (!property_parse_uuid(s->guid_text, s->guid)) {
        return error_set(error, "Property '%s.guid' is '%s', which is neither a UUID nor 'auto'",
                         TYPE_VMGENID, s->guid_text);
    }
    if (!fw_cfg_add_writable_file(env->fw_cfg, ADDRESS_FILE, &nowhere, sizeof(nowhere), error)) {
        error_append_hint(error, "A machine has one %s at most.", TYPE_VMGENID);
        return false;
    }
    if (!publish(s, error)) {
        return false;
    }
    s->part = (AcpiPart){ .page_file = PAGE_FILE, .address_file = ADDRESS_FILE, .told = GUID_OFFSET };
    s->part.aml = make_aml(&s->part.address_at);
    g_ptr_array_add(env->acpi_parts, &s->part);
    s->loaded = bh_new(env->loop, after_load, s, NULL);
    return true;
}

static void vmgenid_unrealize(Device *dev)
{
    VmGenId *s = VMGENID(dev);
    bh_free(s->loaded);
    s->loaded = NULL;
    g_ptr_array_remove(dev->env->acpi_parts, &s->part);
    g_clear_pointer(&s->part.aml, g_byte_array_unref);
}

static bool find_vmgenid(Object *child, void *opaque)
{
    VmGenId **found = opaque;
    if (!object_dynamic_cast(child, TYPE_VMGENID) || !DEVICE(child)->realized) {
        return true;
    }
    *found = VMGENID(child);
    return false;
}

char *vmgenid_query(Object *root, GError **error)
{
    VmGenId *s = NULL;
    object_child_foreach(root, true, find_vmgenid, &s);
    if (!s) {
        error_set(error, "VM Generation ID device not found");
        error_append_hint(error, "Give the machine one with -device %s.", TYPE_VMGENID);
        return NULL;
    }
    const uint8_t *g = s->guid;
    return g_strdup_printf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", g[0], g[1],
                           g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11], g[12], g[13], g[14],
                           g[15]);
}

static const Property vmgenid_properties[] = {
    PROP_STR("guid", VmGenId, guid_text, "auto",
             "the generation ID; auto: a new one at each start and each load of a state"),
    PROP_END,
};

/* The rest of the machine has yet to be loaded. */
static bool vmgenid_post_load(void *opaque, int version, GError **error)
{
    bh_schedule(VMGENID(opaque)->loaded);
    return true;
}

static const VmStateField vmgenid_fields[] = { VMS_END };
static const VmState vmgenid_vmstate = {
    .name = TYPE_VMGENID, .version = 1, .fields = vmgenid_fields, .post_load = vmgenid_post_load
};

static void vmgenid_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = vmgenid_realize;
    dc->unrealize = vmgenid_unrealize;
    dc->vmstate = &vmgenid_vmstate;
    dc->category = "Misc";
    dc->user_creatable = true;
    dc->hotpluggable = false;
    object_class_add_properties(klass, vmgenid_properties);
}

static const TypeInfo vmgenid_info = {
    .name = TYPE_VMGENID,
    .parent = TYPE_DEVICE,
    .description = "virtual machine generation ID",
    .instance_size = sizeof(VmGenId),
    .class_init = vmgenid_class_init,
};
TYPE_REGISTER(vmgenid_info);
