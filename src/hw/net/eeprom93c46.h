/*
 * The serial EEPROM of network cards: 64 words of 16 bits on four wires (Microwire). Read only: the commands
 * that write, erase and unlock are taken in and do nothing. Source: data sheet of the 93C46.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_NET_EEPROM93C46_H
#define RHEA_HW_NET_EEPROM93C46_H

#include "vmstate/vmstate.h"

enum { EEPROM93C46_WORDS = 64 };

/* Embedded in a card's state, which saves it with eeprom93c46_vmstate. */
typedef struct Eeprom93c46 {
    uint16_t words[EEPROM93C46_WORDS];
    uint16_t in, out; /* the command that comes in, the word that goes out */
    uint8_t count;    /* bits of the command so far */
    bool clock, data; /* the clock as it was, the data line to the card */
} Eeprom93c46;

/* Drives chip select, clock and data in; returns data out. */
bool eeprom93c46_drive(Eeprom93c46 *e, bool select, bool clock, bool data);
/* As power-on leaves it; the words stay. */
void eeprom93c46_reset(Eeprom93c46 *e);

extern const VmState eeprom93c46_vmstate;

#endif
