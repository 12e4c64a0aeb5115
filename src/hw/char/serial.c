/*
 * "isa-serial": a 16550A (uart16550.c) at one of the four places that PCs have for one.
 * Source: IBM PC/AT Technical Reference, serial/parallel adapter; SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/char/serial.h"

#include "base/error.h"
#include "hw/char/uart16550.h"

#define MAX_ISA_SERIAL 4

typedef struct SerialState {
    Device parent_obj;
    /* saved */
    Uart16550 uart;
    /* derived and configured */
    IrqLine *irq;
    uint32_t index, iobase, irq_number;
} SerialState;
#define SERIAL(obj) OBJECT_CHECK(SerialState, obj, TYPE_ISA_SERIAL)

static void serial_set_irq(Device *dev, bool level)
{
    irq_set(SERIAL(dev)->irq, level);
}

static void serial_reset(Device *dev)
{
    uart16550_reset(&SERIAL(dev)->uart);
}

static uint32_t next_index(Device *dev)
{
    uint32_t used = 0;
    for (guint i = 0; dev->bus && i < dev->bus->children->len; i++) {
        SerialState *other = object_dynamic_cast(dev->bus->children->pdata[i], TYPE_ISA_SERIAL);
        if (other && other->index < MAX_ISA_SERIAL) {
            used |= 1u << other->index;
        }
    }
    uint32_t index = 0;
    while (used & (1u << index)) {
        index++;
    }
    return index;
}

static bool serial_realize(Device *dev, GError **error)
{
    static const uint16_t bases[MAX_ISA_SERIAL] = { 0x3f8, 0x2f8, 0x3e8, 0x2e8 };
    static const uint8_t irqs[MAX_ISA_SERIAL] = { 4, 3, 4, 3 };
    SerialState *s = SERIAL(dev);
    if (s->index == UINT32_MAX) {
        s->index = next_index(dev);
    }
    if (s->index >= MAX_ISA_SERIAL) {
        return error_set(error, "Max. supported number of ISA serial ports is %d.", MAX_ISA_SERIAL);
    }
    s->iobase = s->iobase == UINT32_MAX ? bases[s->index] : s->iobase;
    s->irq_number = s->irq_number == UINT32_MAX ? irqs[s->index] : s->irq_number;
    if (!isa_get_irq(dev, s->irq_number, &s->irq, error) ||
        !uart16550_realize(&s->uart, dev, serial_set_irq, error)) {
        return false;
    }
    if (!isa_map_port(dev, &s->uart.ports, s->iobase, error)) {
        uart16550_unrealize(&s->uart);
        return false;
    }
    uart16550_connect(&s->uart);
    return true;
}

static void serial_unrealize(Device *dev)
{
    SerialState *s = SERIAL(dev);
    memory_region_del(dev->env->system_io, &s->uart.ports);
    uart16550_unrealize(&s->uart);
}

static const Property serial_properties[] = {
    PROP_UINT32("index", SerialState, index, UINT32_MAX, "0 to 3: which of the standard ports"),
    PROP_UINT32("iobase", SerialState, iobase, UINT32_MAX, "first I/O port"),
    PROP_UINT32("irq", SerialState, irq_number, UINT32_MAX, "ISA interrupt"),
    PROP_TYPED("chardev", SerialState, uart.chr, property_type_chardev, "host end of the line"),
    PROP_END,
};

static const VmStateField serial_fields[] = {
    VMS_STRUCT(uart, SerialState, uart16550_vmstate),
    VMS_END,
};
static const VmState serial_vmstate = {
    .name = TYPE_ISA_SERIAL,
    .version = 1,
    .minimum_version = 1,
    .fields = serial_fields,
};

static void serial_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = serial_realize;
    dc->unrealize = serial_unrealize;
    dc->reset = serial_reset;
    dc->vmstate = &serial_vmstate;
    dc->category = "Input";
    dc->user_creatable = true;
    object_class_add_properties(klass, serial_properties);
}

static const TypeInfo serial_info = {
    .name = TYPE_ISA_SERIAL,
    .parent = TYPE_ISA_DEVICE,
    .description = "16550A serial port",
    .instance_size = sizeof(SerialState),
    .class_init = serial_class_init,
};
TYPE_REGISTER(serial_info);
