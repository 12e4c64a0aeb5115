/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cpubench: one static program that is all the small programs of `make bench-cpu`, their driver, and the
 * first process of the guest they run in. cpubench list                names, classes cpubench NAME [SCALE]
 * runs one; prints "NAME NANOSECONDS CHECKSUM [NOTE...]" cpubench parallel N NAME [SCALE]   N of it at a
 * time; prints the whole's time cpubench spin MILLISECONDS   computes for that long by CLOCK_MONOTONIC
 *   cpubench serve               runs what standard input asks for (driver.c)
 * As process 1 it makes the file systems ready and serves the serial console.
 */
#include "bench.h"
#include "driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const BenchProgram *const tables[] = {
    integer_programs, control_programs, memory_programs,  float_programs,  x87_programs,
    sse_programs,     avx2_programs,    special_programs, atomic_programs, code_programs,
    system_programs,  time_programs,    extra_programs,
};

static uint64_t started_ns, elapsed_ns;
static char note[200];

uint64_t bench_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void bench_start(void)
{
    __asm__ volatile("" : : : "memory");
    started_ns = bench_now_ns();
}

void bench_stop(void)
{
    __asm__ volatile("" : : : "memory");
    elapsed_ns += bench_now_ns() - started_ns;
}

void bench_note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note, sizeof note, format, arguments);
    va_end(arguments);
}

void bench_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("cpubench: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

void *bench_pages(size_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (pages == MAP_FAILED)
        bench_fail("no memory for %zu bytes", size);
    return pages;
}

static const BenchProgram *find(const char *name)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const BenchProgram *program = tables[i]; program->name; program++)
            if (!strcmp(program->name, name))
                return program;
    bench_fail("no program '%s'; cpubench list names them", name);
}

static uint64_t scaled(const BenchProgram *program, const char *scale)
{
    double factor = scale ? strtod(scale, NULL) : 1;
    double count = (double)program->count * factor;
    if (!(factor > 0) || count > 1e18)
        bench_fail("'%s' is not a scale", scale);
    return count < 1 ? 1 : (uint64_t)count;
}

/* Several processes that run the same; the time from the first's start to the last's end. */
static void run_parallel(unsigned n, const BenchProgram *program, const char *scale)
{
    uint64_t count = scaled(program, scale), began = bench_now_ns(), checksum = 0;
    int ends[2];

    if (n < 1 || n > 64 || pipe(ends) != 0)
        bench_fail("parallel: 1 to 64 processes");
    for (unsigned i = 0; i < n; i++) {
        pid_t child = fork();
        if (child < 0)
            bench_fail("fork failed");
        if (child == 0) {
            uint64_t result = program->run(count);
            _exit(write(ends[1], &result, sizeof result) == sizeof result ? 0 : 1);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        int status;
        uint64_t result;
        if (wait(&status) < 0 || status != 0)
            bench_fail("a process of %u failed", n);
        if (read(ends[0], &result, sizeof result) != sizeof result || (i && result != checksum))
            bench_fail("the processes computed different results");
        checksum = result;
    }
    printf("%s %llu %016llx processes=%u\n", program->name, (unsigned long long)(bench_now_ns() - began),
           (unsigned long long)checksum, n);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    if (getpid() == 1)
        return driver_init();
    if (!strcmp(name, "true"))
        return 0;
    if (!strcmp(name, "serve"))
        return driver_serve(0, 1);
    if (!strcmp(name, "list")) {
        for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
            for (const BenchProgram *program = tables[i]; program->name; program++)
                printf("%s %s\n", program->name, program->class);
        return 0;
    }
    if (!strcmp(name, "spin") && argc == 3) {
        uint64_t end = bench_now_ns() + strtoull(argv[2], NULL, 10) * 1000000;
        while (bench_now_ns() < end)
            ;
        return 0;
    }
    if (!strcmp(name, "parallel") && argc >= 4) {
        run_parallel((unsigned)strtoul(argv[2], NULL, 10), find(argv[3]), argc > 4 ? argv[4] : NULL);
        return 0;
    }
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: cpubench list | NAME [SCALE] | parallel N NAME [SCALE] | spin MS | serve\n");
        return 2;
    }
    const BenchProgram *program = find(name);
    uint64_t checksum = program->run(scaled(program, argc > 2 ? argv[2] : NULL));
    printf("%s %llu %016llx %s\n", name, (unsigned long long)elapsed_ns, (unsigned long long)checksum, note);
    return 0;
}
