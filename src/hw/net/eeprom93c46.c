/* The serial EEPROM of network cards. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/net/eeprom93c46.h"

#include "base/error.h"

enum { COMMAND_BITS = 9, ADDRESS_BITS = 6, COMMAND_READ = 6 }; /* with the start bit */

void eeprom93c46_reset(Eeprom93c46 *e)
{
    e->in = e->out = 0;
    e->count = 0;
    e->clock = false;
    e->data = true;
}

bool eeprom93c46_drive(Eeprom93c46 *e, bool select, bool clock, bool data)
{
    bool rises = clock && !e->clock;

    e->clock = clock;
    if (!select) {
        e->in = e->out = 0;
        e->count = 0;
        e->data = true; /* not busy */
    } else if (rises && e->count < COMMAND_BITS) {
        if (e->count || data) { /* zeros before the start bit are no command */
            e->in = (uint16_t)(e->in << 1 | data);
            e->count++;
        }
        if (e->count == COMMAND_BITS) {
            bool read = e->in >> ADDRESS_BITS == COMMAND_READ;
            e->out = read ? e->words[e->in & (EEPROM93C46_WORDS - 1)] : UINT16_MAX;
            e->data = !read; /* a zero leads the word */
        }
    } else if (rises) {
        e->data = e->out & 0x8000;
        e->out = (uint16_t)(e->out << 1);
    }
    return e->data;
}

static bool eeprom_post_load(void *opaque, int version, GError **error)
{
    Eeprom93c46 *e = opaque;

    if (e->count > COMMAND_BITS) {
        e->count = 0;
        return error_set(error, "a command of the EEPROM has at most %d bits", COMMAND_BITS);
    }
    return true;
}

static const VmStateField eeprom_fields[] = {
    VMS_UINT16(words, Eeprom93c46),
    VMS_UINT16(in, Eeprom93c46),
    VMS_UINT16(out, Eeprom93c46),
    VMS_UINT8(count, Eeprom93c46),
    VMS_BOOL(clock, Eeprom93c46),
    VMS_BOOL(data, Eeprom93c46),
    VMS_END,
};
const VmState eeprom93c46_vmstate = { .name = "eeprom93c46",
                                      .version = 1,
                                      .minimum_version = 1,
                                      .fields = eeprom_fields,
                                      .post_load = eeprom_post_load };
