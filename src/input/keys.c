/*
 * The table of keys. Sources: Linux' input-event-codes.h for numbers; IBM PS/2 Hardware Interface Technical
 * Reference (keyboard: scan code sets; controller: translation); Microsoft "Keyboard Scan Code Specification"
 * for the later keys; USB HID Usage Tables 1.12, chapter 10; X11's keysymdef.h for keysyms; QEMU's schema for
 * the names of QKeyCode. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "input/keys.h"

#include <glib.h>
#include <linux/input-event-codes.h>
#include <string.h>

/* clang-format off */
static const InputKey keys[] = {
    { KEY_ESC, "esc", 0x01, 0x08, 0x29 }, { KEY_1, "1", 0x02, 0x16, 0x1e }, { KEY_2, "2", 0x03, 0x1e, 0x1f },
    { KEY_3, "3", 0x04, 0x26, 0x20 }, { KEY_4, "4", 0x05, 0x25, 0x21 }, { KEY_5, "5", 0x06, 0x2e, 0x22 },
    { KEY_6, "6", 0x07, 0x36, 0x23 }, { KEY_7, "7", 0x08, 0x3d, 0x24 }, { KEY_8, "8", 0x09, 0x3e, 0x25 },
    { KEY_9, "9", 0x0a, 0x46, 0x26 }, { KEY_0, "0", 0x0b, 0x45, 0x27 }, { KEY_MINUS, "minus", 0x0c, 0x4e, 0x2d },
    { KEY_EQUAL, "equal", 0x0d, 0x55, 0x2e }, { KEY_BACKSPACE, "backspace", 0x0e, 0x66, 0x2a },
    { KEY_TAB, "tab", 0x0f, 0x0d, 0x2b }, { KEY_Q, "q", 0x10, 0x15, 0x14 }, { KEY_W, "w", 0x11, 0x1d, 0x1a },
    { KEY_E, "e", 0x12, 0x24, 0x08 }, { KEY_R, "r", 0x13, 0x2d, 0x15 }, { KEY_T, "t", 0x14, 0x2c, 0x17 },
    { KEY_Y, "y", 0x15, 0x35, 0x1c }, { KEY_U, "u", 0x16, 0x3c, 0x18 }, { KEY_I, "i", 0x17, 0x43, 0x0c },
    { KEY_O, "o", 0x18, 0x44, 0x12 }, { KEY_P, "p", 0x19, 0x4d, 0x13 },
    { KEY_LEFTBRACE, "bracket_left", 0x1a, 0x54, 0x2f }, { KEY_RIGHTBRACE, "bracket_right", 0x1b, 0x5b, 0x30 },
    { KEY_ENTER, "ret", 0x1c, 0x5a, 0x28 }, { KEY_LEFTCTRL, "ctrl", 0x1d, 0x11, 0xe0 },
    { KEY_A, "a", 0x1e, 0x1c, 0x04 }, { KEY_S, "s", 0x1f, 0x1b, 0x16 }, { KEY_D, "d", 0x20, 0x23, 0x07 },
    { KEY_F, "f", 0x21, 0x2b, 0x09 }, { KEY_G, "g", 0x22, 0x34, 0x0a }, { KEY_H, "h", 0x23, 0x33, 0x0b },
    { KEY_J, "j", 0x24, 0x3b, 0x0d }, { KEY_K, "k", 0x25, 0x42, 0x0e }, { KEY_L, "l", 0x26, 0x4b, 0x0f },
    { KEY_SEMICOLON, "semicolon", 0x27, 0x4c, 0x33 }, { KEY_APOSTROPHE, "apostrophe", 0x28, 0x52, 0x34 },
    { KEY_GRAVE, "grave_accent", 0x29, 0x0e, 0x35 }, { KEY_LEFTSHIFT, "shift", 0x2a, 0x12, 0xe1 },
    { KEY_BACKSLASH, "backslash", 0x2b, 0x5c, 0x31 }, { KEY_Z, "z", 0x2c, 0x1a, 0x1d },
    { KEY_X, "x", 0x2d, 0x22, 0x1b }, { KEY_C, "c", 0x2e, 0x21, 0x06 }, { KEY_V, "v", 0x2f, 0x2a, 0x19 },
    { KEY_B, "b", 0x30, 0x32, 0x05 }, { KEY_N, "n", 0x31, 0x31, 0x11 }, { KEY_M, "m", 0x32, 0x3a, 0x10 },
    { KEY_COMMA, "comma", 0x33, 0x41, 0x36 }, { KEY_DOT, "dot", 0x34, 0x49, 0x37 },
    { KEY_SLASH, "slash", 0x35, 0x4a, 0x38 }, { KEY_RIGHTSHIFT, "shift_r", 0x36, 0x59, 0xe5 },
    { KEY_KPASTERISK, "kp_multiply", 0x37, 0x7e, 0x55 }, { KEY_LEFTALT, "alt", 0x38, 0x19, 0xe2 },
    { KEY_SPACE, "spc", 0x39, 0x29, 0x2c }, { KEY_CAPSLOCK, "caps_lock", 0x3a, 0x14, 0x39 },
    { KEY_F1, "f1", 0x3b, 0x07, 0x3a }, { KEY_F2, "f2", 0x3c, 0x0f, 0x3b }, { KEY_F3, "f3", 0x3d, 0x17, 0x3c },
    { KEY_F4, "f4", 0x3e, 0x1f, 0x3d }, { KEY_F5, "f5", 0x3f, 0x27, 0x3e }, { KEY_F6, "f6", 0x40, 0x2f, 0x3f },
    { KEY_F7, "f7", 0x41, 0x37, 0x40 }, { KEY_F8, "f8", 0x42, 0x3f, 0x41 }, { KEY_F9, "f9", 0x43, 0x47, 0x42 },
    { KEY_F10, "f10", 0x44, 0x4f, 0x43 }, { KEY_NUMLOCK, "num_lock", 0x45, 0x76, 0x53 },
    { KEY_SCROLLLOCK, "scroll_lock", 0x46, 0x5f, 0x47 }, { KEY_KP7, "kp_7", 0x47, 0x6c, 0x5f },
    { KEY_KP8, "kp_8", 0x48, 0x75, 0x60 }, { KEY_KP9, "kp_9", 0x49, 0x7d, 0x61 },
    { KEY_KPMINUS, "kp_subtract", 0x4a, 0x84, 0x56 }, { KEY_KP4, "kp_4", 0x4b, 0x6b, 0x5c },
    { KEY_KP5, "kp_5", 0x4c, 0x73, 0x5d }, { KEY_KP6, "kp_6", 0x4d, 0x74, 0x5e },
    { KEY_KPPLUS, "kp_add", 0x4e, 0x7c, 0x57 }, { KEY_KP1, "kp_1", 0x4f, 0x69, 0x59 },
    { KEY_KP2, "kp_2", 0x50, 0x72, 0x5a }, { KEY_KP3, "kp_3", 0x51, 0x7a, 0x5b },
    { KEY_KP0, "kp_0", 0x52, 0x70, 0x62 }, { KEY_KPDOT, "kp_decimal", 0x53, 0x71, 0x63 },
    { KEY_102ND, "less", 0x56, 0x13, 0x64 }, { KEY_F11, "f11", 0x57, 0x56, 0x44 },
    { KEY_F12, "f12", 0x58, 0x5e, 0x45 }, { KEY_RO, "ro", 0x73, 0, 0x87 },
    { KEY_HIRAGANA, "hiragana", 0x77, 0, 0x93 }, { KEY_HENKAN, "henkan", 0x79, 0, 0x8a },
    { KEY_KATAKANAHIRAGANA, "katakanahiragana", 0x70, 0, 0x88 }, { KEY_MUHENKAN, "muhenkan", 0x7b, 0, 0x8b },
    { KEY_KPENTER, "kp_enter", 0xe01c, 0x79, 0x58 }, { KEY_RIGHTCTRL, "ctrl_r", 0xe01d, 0x58, 0xe4 },
    { KEY_KPSLASH, "kp_divide", 0xe035, 0x77, 0x54 }, { KEY_SYSRQ, "print", 0xe037, 0x57, 0x46 },
    { KEY_RIGHTALT, "alt_r", 0xe038, 0x39, 0xe6 }, { KEY_LINEFEED, "lf", 0x5b, 0, 0 },
    { KEY_HOME, "home", 0xe047, 0x6e, 0x4a }, { KEY_UP, "up", 0xe048, 0x63, 0x52 },
    { KEY_PAGEUP, "pgup", 0xe049, 0x6f, 0x4b }, { KEY_LEFT, "left", 0xe04b, 0x61, 0x50 },
    { KEY_RIGHT, "right", 0xe04d, 0x6a, 0x4f }, { KEY_END, "end", 0xe04f, 0x65, 0x4d },
    { KEY_DOWN, "down", 0xe050, 0x60, 0x51 }, { KEY_PAGEDOWN, "pgdn", 0xe051, 0x6d, 0x4e },
    { KEY_INSERT, "insert", 0xe052, 0x67, 0x49 }, { KEY_DELETE, "delete", 0xe053, 0x64, 0x4c },
    { KEY_MUTE, "audiomute", 0xe020, 0, 0x7f }, { KEY_VOLUMEDOWN, "volumedown", 0xe02e, 0, 0x81 },
    { KEY_VOLUMEUP, "volumeup", 0xe030, 0, 0x80 }, { KEY_POWER, "power", 0xe05e, 0, 0x66 },
    { KEY_KPEQUAL, "kp_equals", 0x59, 0, 0x67 }, { KEY_PAUSE, "pause", 0xe046, 0x62, 0x48 },
    { KEY_KPCOMMA, "kp_comma", 0x7e, 0, 0x85 }, { KEY_HANGEUL, "lang1", 0x72, 0, 0x90 },
    { KEY_HANJA, "lang2", 0x71, 0, 0x91 }, { KEY_YEN, "yen", 0x7d, 0, 0x89 },
    { KEY_LEFTMETA, "meta_l", 0xe05b, 0x8b, 0xe3 }, { KEY_RIGHTMETA, "meta_r", 0xe05c, 0x8c, 0xe7 },
    { KEY_COMPOSE, "compose", 0xe05d, 0x8d, 0x65 }, { KEY_STOP, "stop", 0xe068, 0, 0x78 },
    { KEY_AGAIN, "again", 0xe005, 0, 0x79 }, { KEY_PROPS, "props", 0xe006, 0, 0x76 },
    { KEY_UNDO, "undo", 0xe007, 0, 0x7a }, { KEY_FRONT, "front", 0xe00c, 0, 0x77 },
    { KEY_COPY, "copy", 0xe078, 0, 0x7c }, { KEY_OPEN, "open", 0xe064, 0, 0x74 },
    { KEY_PASTE, "paste", 0xe065, 0, 0x7d }, { KEY_FIND, "find", 0xe041, 0, 0x7e },
    { KEY_CUT, "cut", 0xe03c, 0, 0x7b }, { KEY_HELP, "help", 0xe075, 0, 0x75 },
    { KEY_MENU, "menu", 0xe01e, 0, 0 }, { KEY_CALC, "calculator", 0xe021, 0, 0 },
    { KEY_SLEEP, "sleep", 0xe05f, 0, 0 }, { KEY_WAKEUP, "wake", 0xe063, 0, 0 },
    { KEY_MAIL, "mail", 0xe06c, 0, 0 }, { KEY_BOOKMARKS, "ac_bookmarks", 0xe066, 0, 0 },
    { KEY_COMPUTER, "computer", 0xe06b, 0, 0 }, { KEY_BACK, "ac_back", 0xe06a, 0, 0 },
    { KEY_FORWARD, "ac_forward", 0xe069, 0, 0 }, { KEY_NEXTSONG, "audionext", 0xe019, 0, 0 },
    { KEY_PLAYPAUSE, "audioplay", 0xe022, 0, 0 }, { KEY_PREVIOUSSONG, "audioprev", 0xe010, 0, 0 },
    { KEY_STOPCD, "audiostop", 0xe024, 0, 0 }, { KEY_HOMEPAGE, "ac_home", 0xe032, 0, 0 },
    { KEY_REFRESH, "ac_refresh", 0xe067, 0, 0 }, { KEY_MEDIA, "mediaselect", 0xe06d, 0, 0 },
    { KEY_F13, "f13", 0x64, 0, 0x68 }, { KEY_F14, "f14", 0x65, 0, 0x69 }, { KEY_F15, "f15", 0x66, 0, 0x6a },
    { KEY_F16, "f16", 0x67, 0, 0x6b }, { KEY_F17, "f17", 0x68, 0, 0x6c }, { KEY_F18, "f18", 0x69, 0, 0x6d },
    { KEY_F19, "f19", 0x6a, 0, 0x6e }, { KEY_F20, "f20", 0x6b, 0, 0x6f }, { KEY_F21, "f21", 0x6c, 0, 0x70 },
    { KEY_F22, "f22", 0x6d, 0, 0x71 }, { KEY_F23, "f23", 0x6e, 0, 0x72 }, { KEY_F24, "f24", 0x76, 0, 0x73 },
};

/* The controller's translation, for the bytes 0x00 to 0x7f of set 2. */
static const uint8_t translation[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};
/* clang-format on */

const InputKey *input_key_find(unsigned code)
{
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (keys[i].code == code) {
            return &keys[i];
        }
    }
    return NULL;
}

const InputKey *input_key_by_name(const char *name)
{
    if (strcmp(name, "sysrq") == 0) {
        name = "print"; /* one key with two labels */
    } else if (strcmp(name, "asterisk") == 0) {
        name = "kp_multiply";
    }
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (strcmp(keys[i].name, name) == 0) {
            return &keys[i];
        }
    }
    return NULL;
}

const InputKey *input_key_by_number(unsigned number)
{
    unsigned set1 = number & 0x80 ? 0xe000 | (number & 0x7f) : number;

    if (number == 0x54) {
        return input_key_find(KEY_SYSRQ); /* with Alt held, keyboards send that */
    }
    for (size_t i = 0; number < 0x100 && i < G_N_ELEMENTS(keys); i++) {
        if (keys[i].set1 == set1) {
            return &keys[i];
        }
    }
    return NULL;
}

uint8_t input_set1_of_set2(uint8_t byte)
{
    return byte < 128 ? translation[byte] : byte == 0x83 ? 0x41 : byte == 0x84 ? 0x54 : byte;
}

uint8_t input_set2_of_set1(uint8_t byte)
{
    if (byte == 0x41) {
        return 0x83; /* F7; 0x02 translates to it, too */
    }
    for (unsigned i = 0; i < 128; i++) {
        if (translation[i] == byte) {
            return (uint8_t)i;
        }
    }
    return byte;
}

/* ---- keysyms ---- */

/* The characters of a US keyboard's keys, without and with shift. */
static const struct {
    uint16_t code;
    char plain, shifted;
} characters[] = {
    { KEY_1, '1', '!' },           { KEY_2, '2', '@' },          { KEY_3, '3', '#' },
    { KEY_4, '4', '$' },           { KEY_5, '5', '%' },          { KEY_6, '6', '^' },
    { KEY_7, '7', '&' },           { KEY_8, '8', '*' },          { KEY_9, '9', '(' },
    { KEY_0, '0', ')' },           { KEY_MINUS, '-', '_' },      { KEY_EQUAL, '=', '+' },
    { KEY_LEFTBRACE, '[', '{' },   { KEY_RIGHTBRACE, ']', '}' }, { KEY_SEMICOLON, ';', ':' },
    { KEY_APOSTROPHE, '\'', '"' }, { KEY_GRAVE, '`', '~' },      { KEY_BACKSLASH, '\\', '|' },
    { KEY_COMMA, ',', '<' },       { KEY_DOT, '.', '>' },        { KEY_SLASH, '/', '?' },
    { KEY_SPACE, ' ', ' ' },
};

static const struct {
    uint32_t keysym;
    uint16_t code;
} keysyms[] = {
    { 0xff08, KEY_BACKSPACE }, { 0xff09, KEY_TAB },        { 0xfe20, KEY_TAB },
    { 0xff0a, KEY_LINEFEED },  { 0xff0d, KEY_ENTER },      { 0xff13, KEY_PAUSE },
    { 0xff6b, KEY_PAUSE },     { 0xff14, KEY_SCROLLLOCK }, { 0xff15, KEY_SYSRQ },
    { 0xff61, KEY_SYSRQ },     { 0xff1b, KEY_ESC },        { 0xff50, KEY_HOME },
    { 0xff51, KEY_LEFT },      { 0xff52, KEY_UP },         { 0xff53, KEY_RIGHT },
    { 0xff54, KEY_DOWN },      { 0xff55, KEY_PAGEUP },     { 0xff56, KEY_PAGEDOWN },
    { 0xff57, KEY_END },       { 0xff63, KEY_INSERT },     { 0xff67, KEY_COMPOSE },
    { 0xff7f, KEY_NUMLOCK },   { 0xff8d, KEY_KPENTER },    { 0xff95, KEY_KP7 },
    { 0xff96, KEY_KP4 },       { 0xff97, KEY_KP8 },        { 0xff98, KEY_KP6 },
    { 0xff99, KEY_KP2 },       { 0xff9a, KEY_KP9 },        { 0xff9b, KEY_KP3 },
    { 0xff9c, KEY_KP1 },       { 0xff9d, KEY_KP5 },        { 0xff9e, KEY_KP0 },
    { 0xff9f, KEY_KPDOT },     { 0xffaa, KEY_KPASTERISK }, { 0xffab, KEY_KPPLUS },
    { 0xffac, KEY_KPCOMMA },   { 0xffad, KEY_KPMINUS },    { 0xffae, KEY_KPDOT },
    { 0xffaf, KEY_KPSLASH },   { 0xffb0, KEY_KP0 },        { 0xffb1, KEY_KP1 },
    { 0xffb2, KEY_KP2 },       { 0xffb3, KEY_KP3 },        { 0xffb4, KEY_KP4 },
    { 0xffb5, KEY_KP5 },       { 0xffb6, KEY_KP6 },        { 0xffb7, KEY_KP7 },
    { 0xffb8, KEY_KP8 },       { 0xffb9, KEY_KP9 },        { 0xffbd, KEY_KPEQUAL },
    { 0xffe1, KEY_LEFTSHIFT }, { 0xffe2, KEY_RIGHTSHIFT }, { 0xffe3, KEY_LEFTCTRL },
    { 0xffe4, KEY_RIGHTCTRL }, { 0xffe5, KEY_CAPSLOCK },   { 0xffe7, KEY_LEFTMETA },
    { 0xffe8, KEY_RIGHTMETA }, { 0xffe9, KEY_LEFTALT },    { 0xffea, KEY_RIGHTALT },
    { 0xfe03, KEY_RIGHTALT },  { 0xff7e, KEY_RIGHTALT },   { 0xffeb, KEY_LEFTMETA },
    { 0xffec, KEY_RIGHTMETA }, { 0xffff, KEY_DELETE },
};

static const InputKey *character_key(char c, bool *shift)
{
    for (size_t i = 0; i < G_N_ELEMENTS(characters); i++) {
        if (c == characters[i].plain || c == characters[i].shifted) {
            *shift = c != characters[i].plain;
            return input_key_find(characters[i].code);
        }
    }
    char name[2] = { g_ascii_tolower(c), 0 };
    *shift = g_ascii_isupper(c);
    return g_ascii_isalpha(c) ? input_key_by_name(name) : NULL;
}

const InputKey *input_key_by_keysym(uint32_t keysym, bool *printable, bool *shift)
{
    *printable = keysym >= 0x20 && keysym < 0x7f;
    if (*printable) {
        return character_key((char)keysym, shift);
    }
    if (keysym >= 0xffbe && keysym <= 0xffd5) { /* F1 to F24 */
        g_autofree char *name = g_strdup_printf("f%u", keysym - 0xffbd);
        return input_key_by_name(name);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(keysyms); i++) {
        if (keysyms[i].keysym == keysym) {
            return input_key_find(keysyms[i].code);
        }
    }
    return NULL;
}
