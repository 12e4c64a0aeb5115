/*
 * Keys: one table of what each is called and which codes it has. A key's number is Linux' (KEY_... of
 * linux/input-event-codes.h). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_INPUT_KEYS_H
#define RHEA_INPUT_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Numbers are below this. */
#define INPUT_KEY_COUNT 256u

typedef struct InputKey {
    uint16_t code;    /* KEY_... */
    const char *name; /* as QMP's QKeyCode has it */
    uint16_t set1;    /* scan code of set 1: 0xe0xx with the prefix; KEY_PAUSE and KEY_SYSRQ are special */
    uint8_t set3;     /* scan code of set 3; 0: none */
    uint8_t hid;      /* usage of USB's keyboard page; 0: none */
} InputKey;

/* NULL: no such key. */
const InputKey *input_key_find(unsigned code);
const InputKey *input_key_by_name(const char *name);
/* By the number that QMP's send-key and VNC's extended key message use: set 1 with 0x80 for the prefix. */
const InputKey *input_key_by_number(unsigned number);
/* The key that has an X11 keysym's character on a US keyboard. shift: whether it takes the shift key to type
 * it; for a key without a character left alone. NULL: none. */
const InputKey *input_key_by_keysym(uint32_t keysym, bool *printable, bool *shift);
/* Set 2 of a byte of set 1 below 0x80, by what the keyboard controller's translation would make of it. */
uint8_t input_set2_of_set1(uint8_t byte);
/* The keyboard controller's translation of a byte of set 2 (without the 0xf0 prefix) to set 1. */
uint8_t input_set1_of_set2(uint8_t byte);

#endif
