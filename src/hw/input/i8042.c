/*
 * The PC's keyboard controller with a PS/2 keyboard and mouse at its ports. Sources: Intel 8042 as in the IBM
 * PC/AT Technical Reference; IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
 * Controller" and the chapters on keyboard and mouse.
 *
 * The devices are in ps2.c; they take input from src/input. Left out on purpose: the controller's internal
 * RAM beyond the command byte, password security, the serial lines' test mode.
 *
 * Threads: ports in vCPUs' threads, input and the repeat timer in the main loop's, under the HomeLock.
 *
 * Invariant: obf says that `data` holds an unread byte, and from_aux whose it is; irq1 and irq12 are up
 * exactly while it does and the command byte enables them. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/input/i8042.h"

#include "hw/input/ps2.h"
#include "trace/trace.h"

TRACE_EVENT(i8042_command, "command 0x%02x");
TRACE_EVENT(i8042_data_write, "value 0x%02x for command 0x%02x");
TRACE_EVENT(i8042_data_read, "value 0x%02x aux %d");

enum { DATA_PORT = 0x60, COMMAND_PORT = 0x64, KEYBOARD_IRQ = 1, MOUSE_IRQ = 12 };
enum {
    STATUS_OBF = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_COMMAND = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX = 0x20
};
enum {
    MODE_KBD_INT = 0x01,
    MODE_AUX_INT = 0x02,
    MODE_SYSTEM = 0x04,
    MODE_KBD_OFF = 0x10,
    MODE_AUX_OFF = 0x20,
    MODE_TRANSLATE = 0x40,
};
enum { OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_OBF = 0x10, OUT_AUX_OBF = 0x20 };
enum {
    CMD_READ_MODE = 0x20,
    CMD_WRITE_MODE = 0x60,
    CMD_AUX_DISABLE = 0xa7,
    CMD_AUX_ENABLE = 0xa8,
    CMD_AUX_TEST = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_KBD_TEST = 0xab,
    CMD_KBD_DISABLE = 0xad,
    CMD_KBD_ENABLE = 0xae,
    CMD_READ_INPUT = 0xc0,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_WRITE_KBD_BUFFER = 0xd2,
    CMD_WRITE_AUX_BUFFER = 0xd3,
    CMD_WRITE_AUX = 0xd4,
    CMD_A20_OFF = 0xdd,
    CMD_A20_ON = 0xdf,
    CMD_PULSE = 0xf0, /* to 0xff: the low bits name output lines to pulse low */
};
typedef struct I8042State {
    Device parent_obj;
    /* saved */
    uint8_t mode, output, write_command;
    uint8_t data;
    bool obf, from_aux;
    bool translating_break; /* the last byte of the keyboard was 0xf0, which the translation keeps back */
    Ps2Keyboard keyboard;
    Ps2Mouse mouse;
    /* derived */
    MemoryRegion data_io, command_io;
    InputHandler *keyboard_input, *mouse_input;
    IrqLine *keyboard_irq, *mouse_irq, *a20;
} I8042State;
#define I8042(obj) OBJECT_CHECK(I8042State, obj, TYPE_I8042)

/* ---- the output buffer ---- */
static void update_irqs(I8042State *s)
{
    s->output =
        s->obf ? s->output | (s->from_aux ? OUT_AUX_OBF : OUT_OBF) : s->output & ~(OUT_OBF | OUT_AUX_OBF);
    irq_set(s->keyboard_irq, s->obf && !s->from_aux && (s->mode & MODE_KBD_INT));
    irq_set(s->mouse_irq, s->obf && s->from_aux && (s->mode & MODE_AUX_INT));
}

/* The next byte of the keyboard as the guest reads it. */
static bool take_from_keyboard(I8042State *s, uint8_t *byte)
{
    if (s->mode & MODE_KBD_OFF || !ps2_queue_take(&s->keyboard.queue, byte)) {
        return false;
    }
    if (!(s->mode & MODE_TRANSLATE)) {
        return true;
    }
    if (*byte == 0xf0) {
        s->translating_break = true;
        if (!ps2_queue_take(&s->keyboard.queue, byte)) {
            return false;
        }
    }
    *byte = input_set1_of_set2(*byte) | (s->translating_break ? 0x80 : 0);
    s->translating_break = false;
    return true;
}

/* Moves the next byte of a device into the empty buffer. */
static void fill_buffer(I8042State *s)
{
    if (!s->obf && take_from_keyboard(s, &s->data)) {
        s->obf = true;
        s->from_aux = false;
    } else if (!s->obf && !(s->mode & MODE_AUX_OFF)) {
        ps2_mouse_flush(&s->mouse);
        if (ps2_queue_take(&s->mouse.queue, &s->data)) {
            s->obf = s->from_aux = true;
        }
    }
    update_irqs(s);
}

/* The controller's own answer goes before whatever a device has. */
static void answer(I8042State *s, uint8_t byte, bool as_aux)
{
    s->data = byte;
    s->obf = true;
    s->from_aux = as_aux;
    update_irqs(s);
}

/* ---- input ---- */
static void keyboard_event(void *opaque, const InputEvent *event)
{
    I8042State *s = opaque;
    ps2_keyboard_key(&s->keyboard, event->code, event->value);
}

static void mouse_event(void *opaque, const InputEvent *event)
{
    I8042State *s = opaque;
    ps2_mouse_event(&s->mouse, event);
}

static void input_changed(void *opaque)
{
    fill_buffer(opaque);
}

static const InputHandlerOps keyboard_ops = { "PS/2 keyboard", 1u << INPUT_KEY, keyboard_event,
                                              input_changed };
static const InputHandlerOps mouse_ops = { "PS/2 mouse", 1u << INPUT_REL | 1u << INPUT_BUTTON, mouse_event,
                                           input_changed };

/* Its lamps: scroll, num, caps from bit 0, as INPUT_LED_... */
static void leds_changed(I8042State *s)
{
    input_handler_set_leds(s->keyboard_input, s->keyboard.leds);
}

/* ---- the controller ---- */
static void request_reset(I8042State *s)
{
    const VmServices *vm = s->parent_obj.env->vm;
    if (vm && vm->request_reset) {
        vm->request_reset(vm->opaque, SHUTDOWN_GUEST_RESET);
    }
}

static void write_output(I8042State *s, uint8_t value)
{
    uint8_t old = s->output;
    s->output = (value & ~(OUT_OBF | OUT_AUX_OBF)) | (s->output & (OUT_OBF | OUT_AUX_OBF));
    if ((old ^ value) & OUT_A20) {
        irq_set(s->a20, value & OUT_A20);
    }
    if (!(value & OUT_RESET)) {
        request_reset(s);
    }
}

static void command(I8042State *s, uint8_t value)
{
    s->write_command = 0;
    switch (value) {
    case CMD_READ_MODE:
        answer(s, s->mode, false);
        break;
    case CMD_WRITE_MODE:
    case CMD_WRITE_OUTPUT:
    case CMD_WRITE_KBD_BUFFER:
    case CMD_WRITE_AUX_BUFFER:
    case CMD_WRITE_AUX:
        s->write_command = value;
        break;
    case CMD_AUX_DISABLE:
        s->mode |= MODE_AUX_OFF;
        break;
    case CMD_AUX_ENABLE:
        s->mode &= ~MODE_AUX_OFF;
        break;
    case CMD_AUX_TEST:
    case CMD_KBD_TEST:
        answer(s, 0, false);
        break;
    case CMD_SELF_TEST:
        s->mode |= MODE_SYSTEM;
        answer(s, 0x55, false);
        break;
    case CMD_KBD_DISABLE:
        s->mode |= MODE_KBD_OFF;
        break;
    case CMD_KBD_ENABLE:
        s->mode &= ~MODE_KBD_OFF;
        break;
    case CMD_READ_INPUT:
        answer(s, 0x80, false); /* keyboard not locked */
        break;
    case CMD_READ_OUTPUT:
        answer(s, s->output, false);
        break;
    case CMD_A20_OFF:
    case CMD_A20_ON:
        write_output(s, value == CMD_A20_ON ? s->output | OUT_A20 : s->output & ~OUT_A20);
        break;
    default:
        if (value >= CMD_PULSE && !(value & OUT_RESET)) {
            request_reset(s);
        }
        break;
    }
    fill_buffer(s);
}

static void data_written(I8042State *s, uint8_t value)
{
    uint8_t for_command = s->write_command;
    TRACE(i8042_data_write, value, for_command);
    s->write_command = 0;
    switch (for_command) {
    case CMD_WRITE_MODE:
        s->mode = value;
        break;
    case CMD_WRITE_OUTPUT:
        write_output(s, value);
        break;
    case CMD_WRITE_KBD_BUFFER:
    case CMD_WRITE_AUX_BUFFER:
        answer(s, value, for_command == CMD_WRITE_AUX_BUFFER);
        break;
    case CMD_WRITE_AUX:
        ps2_mouse_write(&s->mouse, value);
        s->mode &= ~MODE_AUX_OFF;
        break;
    default:
        ps2_keyboard_write(&s->keyboard, value);
        leds_changed(s);
        s->mode &= ~MODE_KBD_OFF; /* a byte for the keyboard opens its line */
        break;
    }
    fill_buffer(s);
}

/* ---- ports ---- */
static uint64_t data_read(void *opaque, hwaddr offset, unsigned size)
{
    I8042State *s = opaque;
    uint8_t value = s->data;
    TRACE(i8042_data_read, value, s->from_aux);
    if (s->obf) {
        s->obf = false;
        update_irqs(s); /* the line falls between two bytes, for edges */
        fill_buffer(s);
    }
    return value;
}

static void data_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    data_written(opaque, value);
}

static uint64_t status_read(void *opaque, hwaddr offset, unsigned size)
{
    I8042State *s = opaque;
    return STATUS_UNLOCKED | (s->mode & MODE_SYSTEM ? STATUS_SYSTEM : 0) |
           (s->write_command ? STATUS_COMMAND : 0) | (s->obf ? STATUS_OBF : 0) |
           (s->obf && s->from_aux ? STATUS_AUX : 0);
}

static void command_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    TRACE(i8042_command, (unsigned)value);
    command(opaque, value);
}

static const MemoryRegionOps data_ops = {
    .read = data_read,
    .write = data_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};
static const MemoryRegionOps command_ops = {
    .read = status_read,
    .write = command_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- life ---- */
static void i8042_reset(Device *dev)
{
    I8042State *s = I8042(dev);
    /* As PC firmware leaves it after its self test. */
    s->mode = MODE_KBD_INT | MODE_AUX_INT | MODE_SYSTEM | MODE_TRANSLATE;
    s->output = OUT_RESET | OUT_A20 | 0xcc;
    s->write_command = s->data = 0;
    s->obf = s->from_aux = s->translating_break = false;
    ps2_keyboard_reset(&s->keyboard);
    ps2_mouse_reset(&s->mouse);
    leds_changed(s);
    update_irqs(s);
    irq_raise(s->a20);
}

static bool i8042_realize(Device *dev, GError **error)
{
    I8042State *s = I8042(dev);
    if (!isa_get_irq(dev, KEYBOARD_IRQ, &s->keyboard_irq, error) ||
        !isa_get_irq(dev, MOUSE_IRQ, &s->mouse_irq, error)) {
        return false;
    }
    memory_region_init_io(&s->data_io, s, &data_ops, s, "i8042-data", 1, &dev->lock);
    memory_region_init_io(&s->command_io, s, &command_ops, s, "i8042-cmd", 1, &dev->lock);
    if (!isa_map_port(dev, &s->data_io, DATA_PORT, error)) {
        memory_region_destroy(&s->data_io);
        memory_region_destroy(&s->command_io);
        return false;
    }
    memory_region_add(dev->env->system_io, COMMAND_PORT, &s->command_io);
    ps2_keyboard_init(&s->keyboard, dev->env, &dev->lock, input_changed, s);
    s->mouse_input = input_handler_new(dev->env->inputs, &mouse_ops, s, &dev->lock, true);
    s->keyboard_input = input_handler_new(dev->env->inputs, &keyboard_ops, s, &dev->lock, true);
    return true;
}

static void i8042_unrealize(Device *dev)
{
    I8042State *s = I8042(dev);
    input_handler_free(s->keyboard_input);
    input_handler_free(s->mouse_input);
    s->keyboard_input = s->mouse_input = NULL;
    ps2_keyboard_fini(&s->keyboard);
    memory_region_del(dev->env->system_io, &s->data_io);
    memory_region_del(dev->env->system_io, &s->command_io);
    memory_region_destroy(&s->data_io);
    memory_region_destroy(&s->command_io);
}

void i8042_set_a20(Device *dev, IrqLine *a20)
{
    I8042(dev)->a20 = a20;
}

static bool i8042_post_load(void *opaque, int version, GError **error)
{
    leds_changed(opaque);
    return true;
}

static const VmStateField i8042_fields[] = {
    VMS_UINT8(mode, I8042State),
    VMS_UINT8(output, I8042State),
    VMS_UINT8(write_command, I8042State),
    VMS_UINT8(data, I8042State),
    VMS_BOOL(obf, I8042State),
    VMS_BOOL(from_aux, I8042State),
    VMS_BOOL(translating_break, I8042State),
    VMS_STRUCT(keyboard, I8042State, ps2_keyboard_vmstate),
    VMS_STRUCT(mouse, I8042State, ps2_mouse_vmstate),
    VMS_END,
};
static const VmState i8042_vmstate = {
    .name = "i8042",
    .version = 1,
    .minimum_version = 1,
    .fields = i8042_fields,
    .post_load = i8042_post_load,
};

static void i8042_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = i8042_realize;
    dc->unrealize = i8042_unrealize;
    dc->reset = i8042_reset;
    dc->vmstate = &i8042_vmstate;
    dc->category = "Input";
}

static const TypeInfo i8042_info = {
    .name = TYPE_I8042,
    .parent = TYPE_ISA_DEVICE,
    .description = "keyboard controller",
    .instance_size = sizeof(I8042State),
    .class_init = i8042_class_init,
};
TYPE_REGISTER(i8042_info);
