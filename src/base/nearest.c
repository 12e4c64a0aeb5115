/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/nearest.h"

#include "base/error.h"

#include <string.h>

/* Names longer than this are not compared: input is a user's, but may be anything. */
#define MAX_NAME 64

static unsigned edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    unsigned row[3][MAX_NAME + 1];
    unsigned *before = row[0], *last = row[1], *now = row[2];
    for (size_t j = 0; j <= b_length; j++) {
        last[j] = j;
    }
    for (size_t i = 1; i <= a_length; i++) {
        now[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            unsigned cost = g_ascii_tolower(a[i - 1]) != g_ascii_tolower(b[j - 1]);
            now[j] = MIN(MIN(last[j] + 1, now[j - 1] + 1), last[j - 1] + cost);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                now[j] = MIN(now[j], before[j - 2] + 1);
            }
        }
        unsigned *free_row = before;
        before = last;
        last = now;
        now = free_row;
    }
    return last[b_length];
}

const char *nearest_match(const char *name, const char *const *known)
{
    size_t length = strlen(name);
    if (length > MAX_NAME) {
        return NULL;
    }
    const char *best = NULL;
    unsigned best_distance = 0;
    for (; *known; known++) {
        size_t known_length = strlen(*known);
        if (known_length > MAX_NAME) {
            continue;
        }
        unsigned distance = edit_distance(name, length, *known, known_length);
        /* A name that merely begins like a known one ("virtio-blk" for "virtio-blk-pci") is meant too. */
        if (length >= 4 && g_str_has_prefix(*known, name)) {
            distance = MIN(distance, 1u);
        }
        if (!best || distance < best_distance) {
            best = *known;
            best_distance = distance;
        }
    }
    return best && best_distance <= MAX(1u, length / 3) ? best : NULL;
}

void nearest_hint(GError **error, const char *name, const char *const *known)
{
    const char *match = nearest_match(name, known);
    if (match) {
        error_append_hint(error, "Did you mean '%s'?", match);
    }
}
