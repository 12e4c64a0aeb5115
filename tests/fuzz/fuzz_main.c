/*
 * Drives a fuzz target (LLVMFuzzerTestOneInput) where no fuzzing engine is linked: random inputs and
 * mutations of them, from a seed that is printed, so that a failure can be run again; or the files named on
 * the command line. fuzz_x [--seconds N] [--seed N] [--max-length N] [FILE...] The input at hand is kept in
 * memory and written to fuzz_x.crash by the sanitizers' death callback. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *current;
static size_t current_size;
static char crash_path[4096];

static void save_crash(int signal_number)
{
    static const char message[] = "fuzz: the input is in ";
    int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd >= 0) {
        bool kept = write(fd, current, current_size) == (ssize_t)current_size;
        close(fd);
        if (kept && write(STDERR_FILENO, message, sizeof(message) - 1) > 0 &&
            write(STDERR_FILENO, crash_path, strlen(crash_path)) > 0) {
            kept = write(STDERR_FILENO, "\n", 1) == 1;
        }
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void run(const uint8_t *data, size_t size)
{
    current = data;
    current_size = size;
    LLVMFuzzerTestOneInput(data, size);
}

/* A few mutations of a kept input, or a fresh one: flips, interesting values, copies within, truncation. */
static size_t next_input(GRand *rand, uint8_t *buffer, size_t size, size_t max)
{
    static const uint64_t interesting[] = { 0,          1,      0x7f,       0x80,       0xff,       0x7fff,
                                            0x8000,     0xffff, 0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX,
                                            UINT64_MAX, 16,     64,         4096 };
    if (size == 0 || g_rand_int_range(rand, 0, 4) == 0) {
        size = g_rand_int_range(rand, 0, max + 1);
        for (size_t i = 0; i < size; i++) {
            buffer[i] = g_rand_int(rand);
        }
        return size;
    }
    for (int n = g_rand_int_range(rand, 1, 9); n > 0; n--) {
        size_t at = g_rand_int_range(rand, 0, size);
        switch (g_rand_int_range(rand, 0, 4)) {
        case 0:
            buffer[at] ^= 1u << g_rand_int_range(rand, 0, 8);
            break;
        case 1:
            buffer[at] = g_rand_int(rand);
            break;
        case 2: {
            uint64_t value = interesting[g_rand_int_range(rand, 0, G_N_ELEMENTS(interesting))];
            size_t want = (size_t)1 << g_rand_int_range(rand, 0, 4); /* MIN would draw twice */
            size_t length = MIN(want, size - at);
            memcpy(buffer + at, &value, length);
            break;
        }
        default: {
            size_t from = g_rand_int_range(rand, 0, size);
            size_t want = g_rand_int_range(rand, 1, 32);
            size_t length = MIN(want, size - MAX(at, from));
            memmove(buffer + at, buffer + from, length);
        }
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    double seconds = 2;
    guint32 seed = g_random_int();
    size_t max = 4096;
    bool files = false;
    g_snprintf(crash_path, sizeof(crash_path), "%s.crash", argv[0]);
    signal(SIGABRT, save_crash);
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0) {
            seconds = g_ascii_strtod(argv[++i], NULL);
        } else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0) {
            seed = g_ascii_strtoull(argv[++i], NULL, 0);
        } else if (i + 1 < argc && strcmp(argv[i], "--max-length") == 0) {
            max = g_ascii_strtoull(argv[++i], NULL, 0);
        } else {
            g_autofree char *data = NULL;
            gsize length;
            GError *error = NULL;
            if (!g_file_get_contents(argv[i], &data, &length, &error)) {
                fprintf(stderr, "%s\n", error->message);
                return 2;
            }
            run((uint8_t *)data, length);
            files = true;
        }
    }
    if (files) {
        return 0;
    }
    g_autofree uint8_t *buffer = g_malloc0(max + 1);
    GRand *rand = g_rand_new_with_seed(seed);
    fprintf(stderr, "%s: seed %u, %g s\n", argv[0], seed, seconds);
    gint64 end = g_get_monotonic_time() + (gint64)(seconds * G_USEC_PER_SEC);
    size_t size = 0;
    guint64 count = 0;
    do {
        for (int i = 0; i < 16; i++, count++) {
            size = next_input(rand, buffer, size, max);
            run(buffer, size);
        }
    } while (g_get_monotonic_time() < end);
    fprintf(stderr, "%s: %" G_GUINT64_FORMAT " inputs\n", argv[0], count);
    g_rand_free(rand);
    return 0;
}
