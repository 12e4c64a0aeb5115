/*
 * Source: VESA Enhanced EDID Standard, release A revision 2 (EDID 1.4), chapter 3; VESA CVT 1.2 for the
 * reduced blanking. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/display/edid.h"

#include <glib.h>
#include <stdbool.h>
#include <string.h>

enum {
    MAKER = 8,
    PRODUCT = 10,
    WEEK = 16,
    YEAR = 17,
    VERSION = 18,
    INPUT = 20,
    SIZE_CM = 21,
    GAMMA = 23,
    FEATURES = 24
};
enum {
    CHROMATICITY = 25,
    ESTABLISHED = 35,
    STANDARD = 38,
    DESCRIPTORS = 54,
    DESCRIPTOR_SIZE = 18,
    EXTENSIONS = 126,
    CHECKSUM = 127
};
enum { TAG_NAME = 0xfc, TAG_RANGE = 0xfd, TAG_DUMMY = 0x10 };
enum {
    H_BLANK = 160,
    H_FRONT = 48,
    H_SYNC = 32,
    V_FRONT = 3,
    V_SYNC = 6,
    V_BLANK_US = 460,
    FRAME_US = 16667,
    REFRESH_HZ = 60
};
#define MAX_SIDE      4095u
#define MAX_CLOCK_10K 0xffffu
#define DPI           96

static uint32_t millimetres(uint32_t pixels)
{
    return pixels * 254 / (DPI * 10);
}

/* 3.10.2; false: the mode does not fit. */
static bool put_timing(uint8_t *d, uint32_t width, uint32_t height)
{
    if (!width || !height || width > MAX_SIDE || height > MAX_SIDE) {
        return false;
    }
    uint32_t v_blank = MAX(height * V_BLANK_US / (FRAME_US - V_BLANK_US) + 1, V_FRONT + V_SYNC + 6u);
    uint64_t clock = (uint64_t)(width + H_BLANK) * (height + v_blank) * REFRESH_HZ / 10000;
    if (clock > MAX_CLOCK_10K) {
        return false;
    }
    uint32_t wide_mm = millimetres(width), high_mm = millimetres(height);
    d[0] = (uint8_t)clock;
    d[1] = (uint8_t)(clock >> 8);
    d[2] = (uint8_t)width;
    d[3] = (uint8_t)H_BLANK;
    d[4] = (uint8_t)(width >> 8 << 4 | H_BLANK >> 8);
    d[5] = (uint8_t)height;
    d[6] = (uint8_t)v_blank;
    d[7] = (uint8_t)(height >> 8 << 4 | v_blank >> 8);
    d[8] = H_FRONT;
    d[9] = H_SYNC;
    d[10] = V_FRONT << 4 | V_SYNC;
    d[12] = (uint8_t)wide_mm;
    d[13] = (uint8_t)high_mm;
    d[14] = (uint8_t)(wide_mm >> 8 << 4 | high_mm >> 8);
    d[17] = 0x1a; /* separate syncs, horizontal positive */
    return true;
}

static void put_text(uint8_t *d, uint8_t tag, const char *text)
{
    d[3] = tag;
    memset(d + 5, ' ', 13);
    memcpy(d + 5, text, strlen(text));
    d[5 + strlen(text)] = '\n';
}

/* 3.9: width in eights less 31, the ratio, the rate less 60. */
static void put_standard(uint8_t *to)
{
    static const uint8_t modes[8][2] = {
        { 1920 / 8 - 31, 3 << 6 }, { 1680 / 8 - 31, 0 << 6 }, { 1600 / 8 - 31, 1 << 6 },
        { 1440 / 8 - 31, 0 << 6 }, { 1280 / 8 - 31, 2 << 6 }, { 1280 / 8 - 31, 0 << 6 },
        { 1280 / 8 - 31, 3 << 6 }, { 1024 / 8 - 31, 1 << 6 },
    };
    memcpy(to, modes, sizeof(modes));
}

void edid_fill(uint8_t edid[EDID_SIZE], uint32_t width, uint32_t height)
{
    static const uint8_t head[] = { 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0 };
    static const uint8_t srgb[] = { 0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54 };
    uint8_t *d = edid + DESCRIPTORS, sum = 0;

    memset(edid, 0, EDID_SIZE);
    memcpy(edid, head, sizeof(head));
    edid[MAKER] = ('R' - '@') << 2 | ('H' - '@') >> 3; /* "RHE", five bits a letter */
    edid[MAKER + 1] = (uint8_t)(('H' - '@') << 5 | ('E' - '@'));
    edid[PRODUCT] = 1;
    edid[YEAR] = 2026 - 1990;
    edid[VERSION] = 1;
    edid[VERSION + 1] = 4;
    edid[INPUT] = 0xa5; /* digital, 8 bits a colour, DisplayPort */
    edid[SIZE_CM] = (uint8_t)MIN(millimetres(width) / 10, 255u);
    edid[SIZE_CM + 1] = (uint8_t)MIN(millimetres(height) / 10, 255u);
    edid[GAMMA] = 220 - 100;
    edid[FEATURES] = 0x06; /* sRGB; the first timing is the preferred one */
    memcpy(edid + CHROMATICITY, srgb, sizeof(srgb));
    edid[ESTABLISHED] = 0x21;     /* 640x480 and 800x600 at 60 Hz */
    edid[ESTABLISHED + 1] = 0x08; /* 1024x768 at 60 Hz */
    put_standard(edid + STANDARD);
    if (!put_timing(d, width, height)) {
        put_timing(d, 1024, 768);
    }
    put_text(d + DESCRIPTOR_SIZE, TAG_NAME, "Rhea monitor");
    uint8_t *range = d + 2 * DESCRIPTOR_SIZE;
    const uint8_t limits[] = {
        50, 125, 30, 160, 255, 1, '\n', ' ', ' ', ' ', ' ', ' ', ' '
    }; /* Hz, kHz, tens of MHz */
    range[3] = TAG_RANGE;
    memcpy(range + 5, limits, sizeof(limits));
    d[3 * DESCRIPTOR_SIZE + 3] = TAG_DUMMY;
    for (unsigned i = 0; i < CHECKSUM; i++) {
        sum = (uint8_t)(sum + edid[i]);
    }
    edid[CHECKSUM] = (uint8_t)-sum;
}
