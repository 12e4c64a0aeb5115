/*
 * The picture of a VGA: text, 16 and 4 colours in planes, 256 colours, and the linear modes of the Bochs
 * display interface. Sources: IBM VGA Technical Reference (CRT controller, attribute controller, graphics
 * controller), VBE 3.0 for the pixel formats. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/display/vga.h"

#include <string.h>

enum { GR_MODE = 5, GR_MISC = 6, MISC_GRAPHICS = 1 };
enum { SR_CLOCKING = 1, CLOCKING_BLANK = 0x20, CLOCKING_8_DOTS = 0x01, CLOCKING_HALF = 0x08, SR_FONT = 3 };
enum {
    AR_MODE = 0x10,
    AR_PLANES = 0x12,
    AR_PAN = 0x13,
    AR_COLOUR = 0x14,
    MODE_LINE = 0x04,
    MODE_BLINK = 0x08
};
enum {
    CR_H_END = 0x01,
    CR_OVERFLOW = 0x07,
    CR_MAX_SCAN = 0x09,
    CR_CURSOR_START = 0x0a,
    CR_CURSOR_END = 0x0b,
    CR_START_HIGH = 0x0c,
    CR_START_LOW = 0x0d,
    CR_CURSOR_HIGH = 0x0e,
    CR_CURSOR_LOW = 0x0f,
    CR_V_END = 0x12,
    CR_OFFSET = 0x13,
    CR_MODE = 0x17,
    CR_LINE_COMPARE = 0x18,
};

typedef struct Picture {
    const VgaRegisters *r;
    const uint8_t *memory;
    uint32_t mask; /* of its size */
    DisplaySurface *surface;
    uint32_t palette[256], attribute[16]; /* colours, looked up once for a picture */
} Picture;

static uint32_t palette_colour(const VgaRegisters *r, uint8_t index)
{
    const uint8_t *p = r->palette + 3 * index;

    if (r->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC) {
        return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
    }
    uint32_t colour = 0;
    for (int i = 0; i < 3; i++) {
        uint8_t six = p[i] & 63;
        colour = colour << 8 | (uint32_t)(six << 2 | six >> 4);
    }
    return colour;
}

/* The attribute controller's way from four bits to the palette. */
static uint32_t attribute_colour(const VgaRegisters *r, unsigned value)
{
    uint8_t entry = r->attribute[value & 15] & 63, select = r->attribute[AR_COLOUR];

    if (r->attribute[AR_MODE] & 0x80) {
        entry = (uint8_t)((entry & 15) | (select & 3) << 4);
    }
    return palette_colour(r, (uint8_t)(entry | (select & 0x0c) << 4));
}

static unsigned visible_lines(const VgaRegisters *r)
{
    unsigned overflow = r->crtc[CR_OVERFLOW];

    return 1 + (r->crtc[CR_V_END] | (overflow & 0x02) << 7 | (overflow & 0x40) << 3);
}

static unsigned start_address(const VgaRegisters *r)
{
    return (unsigned)r->crtc[CR_START_HIGH] << 8 | r->crtc[CR_START_LOW];
}

static void look_up_colours(Picture *p)
{
    for (unsigned i = 0; i < 256; i++) {
        p->palette[i] = palette_colour(p->r, (uint8_t)i);
    }
    for (unsigned i = 0; i < 16; i++) {
        p->attribute[i] = attribute_colour(p->r, i);
    }
}

static void fill(DisplaySurface *surface, uint32_t width, uint32_t height)
{
    display_surface_resize(surface, width, height);
    memset(surface->pixels, 0, (size_t)surface->width * surface->height * sizeof(uint32_t));
}

static uint32_t dword_at(const Picture *p, uint32_t cell)
{
    uint32_t value;

    memcpy(&value, p->memory + ((cell * 4) & p->mask & ~3u), 4);
    return value;
}

/* ---- text ---- */

typedef struct TextMode {
    unsigned columns, rows, width, height; /* of a character */
    uint32_t start, stride, cursor;
    uint32_t font[2]; /* cells; by bit 3 of the attribute */
    bool cursor_on;
} TextMode;

static bool text_mode(const VgaRegisters *r, TextMode *t)
{
    if ((r->dispi[DISPI_ENABLE] & DISPI_ENABLED) || (r->graphics[GR_MISC] & MISC_GRAPHICS)) {
        return false;
    }
    uint8_t font = r->sequencer[SR_FONT];
    unsigned map_b = (font & 3) | (font & 0x10) >> 2, map_a = (font >> 2 & 3) | (font & 0x20) >> 3;
    unsigned lines = visible_lines(r);

    *t = (TextMode){
        .columns = r->crtc[CR_H_END] + 1u,
        .width = r->sequencer[SR_CLOCKING] & CLOCKING_8_DOTS ? 8 : 9,
        .height = (r->crtc[CR_MAX_SCAN] & 31) + 1u,
        .start = start_address(r),
        .stride = r->crtc[CR_OFFSET] * 2u,
        .cursor = (uint32_t)r->crtc[CR_CURSOR_HIGH] << 8 | r->crtc[CR_CURSOR_LOW],
        .cursor_on = !(r->crtc[CR_CURSOR_START] & 0x20),
    };
    t->rows = MAX(lines / t->height, 1u);
    /* Fonts 0 to 3 at 16 KiB steps, 4 to 7 between them. */
    t->font[0] = (map_b & 3) * 0x4000u + (map_b >> 2) * 0x2000u;
    t->font[1] = (map_a & 3) * 0x4000u + (map_a >> 2) * 0x2000u;
    return true;
}

static void draw_character(const Picture *p, const TextMode *t, unsigned column, unsigned row, uint32_t cell,
                           bool blink_off, bool cursor)
{
    const VgaRegisters *r = p->r;
    uint8_t code = (uint8_t)cell, attribute = (uint8_t)(cell >> 8);
    bool blinks = r->attribute[AR_MODE] & MODE_BLINK;
    uint32_t front = p->attribute[attribute & 15];
    uint32_t back = p->attribute[attribute >> 4 & (blinks ? 7 : 15)];
    uint32_t font = t->font[attribute >> 3 & 1];
    unsigned first = r->crtc[CR_CURSOR_START] & 31, last = r->crtc[CR_CURSOR_END] & 31;

    if (blinks && (attribute & 0x80) && blink_off) {
        front = back;
    }
    for (unsigned y = 0; y < t->height; y++) {
        uint8_t bits = (uint8_t)(dword_at(p, font + code * 32u + y) >> 16);
        uint32_t *to =
            p->surface->pixels + (size_t)(row * t->height + y) * p->surface->width + column * t->width;
        bool ninth = (r->attribute[AR_MODE] & MODE_LINE) && code >= 0xc0 && code <= 0xdf && (bits & 1);
        bool solid = cursor && y >= first && y <= last;
        for (unsigned x = 0; x < t->width; x++) {
            bool on = solid || (x < 8 ? bits & (0x80u >> x) : ninth);
            to[x] = on ? front : back;
        }
    }
}

static void draw_text(const Picture *p, const TextMode *t, unsigned phase)
{
    fill(p->surface, t->columns * t->width, t->rows * t->height);
    for (unsigned row = 0; row < t->rows; row++) {
        for (unsigned column = 0; column < t->columns; column++) {
            uint32_t at = t->start + row * t->stride + column;
            bool cursor = t->cursor_on && at == t->cursor && phase == 0;
            draw_character(p, t, column, row, dword_at(p, at), phase != 0, cursor);
        }
    }
}

char *vga_text(const VgaRegisters *r, const uint8_t *memory, uint32_t size)
{
    /* Code page 437; what has no shape is a space. */
    static const char *const low[32] = { " ", "☺", "☻", "♥", "♦", "♣", "♠", "•", "◘", "○", "◙",
                                         "♂", "♀", "♪", "♫", "☼", "►", "◄", "↕", "‼", "¶", "§",
                                         "▬", "↨", "↑", "↓", "→", "←", "∟", "↔", "▲", "▼" };
    static const char *const high[129] = {
        "⌂", "Ç", "ü", "é", "â", "ä", "à", "å", "ç", "ê", "ë", "è", "ï", "î", "ì", "Ä", "Å", "É", "æ",
        "Æ", "ô", "ö", "ò", "û", "ù", "ÿ", "Ö", "Ü", "¢", "£", "¥", "₧", "ƒ", "á", "í", "ó", "ú", "ñ",
        "Ñ", "ª", "º", "¿", "⌐", "¬", "½", "¼", "¡", "«", "»", "░", "▒", "▓", "│", "┤", "╡", "╢", "╖",
        "╕", "╣", "║", "╗", "╝", "╜", "╛", "┐", "└", "┴", "┬", "├", "─", "┼", "╞", "╟", "╚", "╔", "╩",
        "╦", "╠", "═", "╬", "╧", "╨", "╤", "╥", "╙", "╘", "╒", "╓", "╫", "╪", "┘", "┌", "█", "▄", "▌",
        "▐", "▀", "α", "ß", "Γ", "π", "Σ", "σ", "µ", "τ", "Φ", "Θ", "Ω", "δ", "∞", "φ", "ε", "∩", "≡",
        "±", "≥", "≤", "⌠", "⌡", "÷", "≈", "°", "∙", "·", "√", "ⁿ", "²", "■", " ",
    };
    const Picture p = { .r = r, .memory = memory, .mask = size - 1 };
    TextMode t;

    if (!text_mode(r, &t)) {
        return NULL;
    }
    GString *out = g_string_new(NULL);
    for (unsigned row = 0; row < t.rows; row++) {
        g_autoptr(GString) line = g_string_new(NULL);
        for (unsigned column = 0; column < t.columns; column++) {
            uint8_t code = (uint8_t)dword_at(&p, t.start + row * t.stride + column);
            if (code < 32) {
                g_string_append(line, low[code]);
            } else if (code < 127) {
                g_string_append_c(line, (char)code);
            } else {
                g_string_append(line, high[code - 127]);
            }
        }
        g_strchomp(line->str);
        g_string_append_printf(out, "%s\n", line->str);
    }
    return g_string_free(out, false);
}

/* ---- graphics of the VGA itself ---- */

/* The pixel at x of a line that begins at a cell. */
static uint32_t planar_pixel(const Picture *p, uint32_t cell, unsigned x)
{
    const VgaRegisters *r = p->r;
    uint32_t planes = dword_at(p, cell + x / 8);
    unsigned bit = 7 - x % 8, value = 0;

    for (unsigned plane = 0; plane < 4; plane++) {
        value |= (planes >> (8 * plane + bit) & 1) << plane;
    }
    return p->attribute[value & r->attribute[AR_PLANES] & 15];
}

/* Four colours: pairs of bits, even pixels' bytes in planes 0 and 2, odd ones' in 1 and 3. */
static uint32_t cga_pixel(const Picture *p, uint32_t cell, unsigned x)
{
    uint32_t planes = dword_at(p, cell + x / 8);
    unsigned plane = x / 4 % 2, shift = 6 - 2 * (x % 4);
    unsigned low = planes >> (8 * plane + shift) & 3, high = planes >> (8 * (plane + 2) + shift) & 3;

    return p->attribute[(low | high << 2) & p->r->attribute[AR_PLANES] & 15];
}

static uint32_t chained_pixel(const Picture *p, uint32_t cell, unsigned x)
{
    return p->palette[p->memory[(cell * 4 + x) & p->mask]];
}

/* The cell at which scan line y begins: doubled scans, split screen, and the banks of old modes. */
static uint32_t line_start(const VgaRegisters *r, unsigned y, uint32_t stride)
{
    unsigned compare =
        r->crtc[CR_LINE_COMPARE] | (r->crtc[CR_OVERFLOW] & 0x10u) << 4 | (r->crtc[CR_MAX_SCAN] & 0x40u) << 3;
    unsigned repeat = (r->crtc[CR_MAX_SCAN] & 31) + 1u, start = start_address(r);

    if (r->crtc[CR_MAX_SCAN] & 0x80) {
        repeat *= 2;
    }
    if (y > compare) {
        y -= compare + 1;
        start = 0;
    }
    unsigned row = y / repeat, scan = y % repeat;
    if (!(r->crtc[CR_MODE] & 1)) { /* even and odd lines in banks of their own */
        repeat = MAX(repeat / 2, 1u);
        row = y / (2 * repeat);
        scan = y % (2 * repeat) / repeat;
        return start + row * stride + scan * (0x1000u << (r->crtc[CR_MODE] >> 6 & 1)); /* word or byte mode */
    }
    return start + row * stride;
}

static void draw_graphics(const Picture *p)
{
    const VgaRegisters *r = p->r;
    unsigned shift = r->graphics[GR_MODE] >> 5 & 3, lines = visible_lines(r);
    bool half = (r->sequencer[SR_CLOCKING] & CLOCKING_HALF) || shift >= 2;
    unsigned width = (r->crtc[CR_H_END] + 1u) * 8, height = lines;
    uint32_t stride = r->crtc[CR_OFFSET] * 2u;
    unsigned x_divider = half ? 2 : 1;

    fill(p->surface, width, height);
    for (unsigned y = 0; y < p->surface->height; y++) {
        uint32_t cell = line_start(r, y, stride);
        uint32_t *to = p->surface->pixels + (size_t)y * p->surface->width;
        for (unsigned x = 0; x < p->surface->width; x++) {
            unsigned at = x / x_divider;
            to[x] = shift >= 2   ? chained_pixel(p, cell, at)
                    : shift == 1 ? cga_pixel(p, cell, at)
                                 : planar_pixel(p, cell, at);
        }
    }
}

/* ---- linear modes ---- */

static uint32_t linear_pixel(const Picture *p, uint64_t at, unsigned bytes)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint32_t)p->memory[(at + i) & p->mask] << (8 * i);
    }
    switch (p->r->dispi[DISPI_BPP]) {
    case 8:
        return p->palette[value & 0xff];
    case 15:
        return (value >> 10 & 31) * 255 / 31 << 16 | (value >> 5 & 31) * 255 / 31 << 8 |
               (value & 31) * 255 / 31;
    case 16:
        return (value >> 11 & 31) * 255 / 31 << 16 | (value >> 5 & 63) * 255 / 63 << 8 |
               (value & 31) * 255 / 31;
    default:
        return value & 0xffffff;
    }
}

static void draw_linear(const Picture *p)
{
    const uint16_t *d = p->r->dispi;
    unsigned bytes = MIN((d[DISPI_BPP] + 7u) / 8, 4u);
    uint64_t pitch = (uint64_t)MAX(d[DISPI_VIRTUAL_WIDTH], d[DISPI_XRES]) * bytes;

    fill(p->surface, d[DISPI_XRES], d[DISPI_YRES]);
    if (d[DISPI_BPP] == 4) {
        uint32_t stride = MAX(d[DISPI_VIRTUAL_WIDTH], d[DISPI_XRES]) / 8u;
        for (unsigned y = 0; y < p->surface->height; y++) {
            uint32_t cell = (y + d[DISPI_Y_OFFSET]) * stride + d[DISPI_X_OFFSET] / 8u;
            for (unsigned x = 0; x < p->surface->width; x++) {
                p->surface->pixels[(size_t)y * p->surface->width + x] = planar_pixel(p, cell, x);
            }
        }
        return;
    }
    for (unsigned y = 0; y < p->surface->height; y++) {
        uint64_t at = (y + (uint64_t)d[DISPI_Y_OFFSET]) * pitch + (uint64_t)d[DISPI_X_OFFSET] * bytes;
        uint32_t *to = p->surface->pixels + (size_t)y * p->surface->width;
        for (unsigned x = 0; x < p->surface->width; x++) {
            to[x] = linear_pixel(p, at + (uint64_t)x * bytes, bytes);
        }
    }
}

void vga_draw(const VgaRegisters *r, const uint8_t *memory, uint32_t size, unsigned phase,
              DisplaySurface *surface)
{
    Picture p = { .r = r, .memory = memory, .mask = size - 1, .surface = surface };
    TextMode t;

    look_up_colours(&p);
    if (r->dispi[DISPI_ENABLE] & DISPI_ENABLED) {
        draw_linear(&p);
    } else if ((r->sequencer[SR_CLOCKING] & CLOCKING_BLANK) || !r->attribute_on || !r->crtc[CR_H_END]) {
        fill(surface, 640, 480);
    } else if (text_mode(r, &t)) {
        draw_text(&p, &t, phase);
    } else {
        draw_graphics(&p);
    }
}
