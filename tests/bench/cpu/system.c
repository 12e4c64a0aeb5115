/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Class "system": what an operating system does for its programs. */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int ok, const char *what)
{
    if (!ok)
        bench_fail("%s: %s", what, strerror(errno));
}

static void wait_well(pid_t child)
{
    int status;
    must(waitpid(child, &status, 0) == child, "waitpid");
    if (status != 0)
        bench_fail("a child ended with status %#x", (unsigned)status);
}

static uint64_t run_getppid(uint64_t count)
{
    uint64_t same = 0;
    long parent = syscall(SYS_getppid);

    bench_start();
    for (uint64_t i = 0; i < count; i++)
        same += syscall(SYS_getppid) == parent;
    bench_stop();
    return same;
}

/* Two processes on one CPU pass it to and fro. */
static uint64_t run_yield(uint64_t count)
{
    volatile int *done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(done != MAP_FAILED, "mmap");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        while (!*done)
            sched_yield();
        _exit(0);
    }
    bench_start();
    for (uint64_t i = 0; i < count; i++)
        sched_yield();
    bench_stop();
    *done = 1;
    wait_well(child);
    return 1;
}

static uint64_t run_pipe_pingpong(uint64_t count)
{
    int there[2], back[2];
    uint64_t sum = 0;
    unsigned char byte = 1;

    must(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1) {
            byte = (unsigned char)(byte * 5 + 1);
            if (write(back[1], &byte, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        must(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "pipe");
        sum = bench_mix(sum, byte);
    }
    bench_stop();
    close(there[1]);
    wait_well(child);
    return sum;
}

static uint64_t run_pipe_bulk(uint64_t count)
{
    enum { CHUNK = 65536 };
    int ends[2];
    unsigned char *chunk = bench_pages(CHUNK);
    uint64_t sum = 0, total = 0;

    must(pipe(ends) == 0, "pipe");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        close(ends[0]);
        for (uint64_t i = 0; i < count; i++) {
            memcpy(chunk + i % 1000 * 8, &i, 8);
            for (size_t done = 0; done < CHUNK;) {
                ssize_t n = write(ends[1], chunk + done, CHUNK - done);
                if (n <= 0)
                    _exit(1);
                done += (size_t)n;
            }
        }
        _exit(0);
    }
    close(ends[1]);
    bench_start();
    for (;;) {
        ssize_t n = read(ends[0], chunk, CHUNK);
        must(n >= 0, "read");
        if (n == 0)
            break;
        total += (uint64_t)n;
    }
    bench_stop();
    for (unsigned i = 0; i < CHUNK; i++)
        sum += chunk[i] != 0;
    wait_well(child);
    return total + (sum > 0);
}

static uint64_t run_file_io(uint64_t count)
{
    enum { BLOCK = 4096, BLOCKS = 256 };
    unsigned char *block = bench_pages(BLOCK);
    char name[] = "bench-file-XXXXXX";
    uint64_t sum = 0, seed = 109;
    int file = mkstemp(name);

    must(file >= 0, "mkstemp");
    unlink(name);
    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        for (unsigned i = 0; i < BLOCKS; i++) {
            memcpy(block, &i, 4);
            memcpy(block + 8, &round, 8);
            must(pwrite(file, block, BLOCK, (off_t)i * BLOCK) == BLOCK, "write");
        }
        for (unsigned i = 0; i < BLOCKS; i++) {
            off_t from = (off_t)(bench_random(&seed) % BLOCKS * BLOCK);
            must(pread(file, block, BLOCK, from) == BLOCK, "read");
            sum = bench_mix(sum, *(uint32_t *)block);
        }
        must(ftruncate(file, 0) == 0, "truncate");
    }
    bench_stop();
    close(file);
    return sum;
}

static uint64_t run_open_stat(uint64_t count)
{
    char directory[64], path[96], nothing[96];
    struct stat about;
    uint64_t sum = 0;

    snprintf(directory, sizeof directory, "bench-directory-%d", (int)getpid());
    snprintf(path, sizeof path, "%s/file", directory);
    snprintf(nothing, sizeof nothing, "%s/nothing", directory);
    must(mkdir(directory, 0755) == 0, "mkdir");
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        int file = open(path, O_RDWR | O_CREAT, 0644);
        must(file >= 0, "open");
        must(fstat(file, &about) == 0, "fstat");
        sum += (uint64_t)about.st_size;
        close(file);
        must(stat(directory, &about) == 0, "stat");
        sum += S_ISDIR(about.st_mode);
        sum += stat(nothing, &about) == 0;
    }
    bench_stop();
    unlink(path);
    rmdir(directory);
    return sum;
}

static volatile uint64_t signals_seen;

static void on_signal(int number)
{
    (void)number;
    signals_seen++;
}

static uint64_t run_signals(uint64_t count)
{
    struct sigaction action = { .sa_handler = on_signal };

    must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
    bench_start();
    for (uint64_t i = 0; i < count; i++)
        raise(SIGUSR1);
    bench_stop();
    return signals_seen;
}

static uint64_t run_fork(uint64_t count)
{
    bench_pages(1 << 20); /* something to copy */
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0)
            _exit(0);
        wait_well(child);
    }
    bench_stop();
    return count;
}

static uint64_t run_fork_exec(uint64_t count)
{
    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            execl("/proc/self/exe", "cpubench", "true", (char *)NULL);
            _exit(127);
        }
        wait_well(child);
    }
    bench_stop();
    return count;
}

static uint64_t run_page_faults(uint64_t count)
{
    enum { SIZE = 4 << 20 };
    uint64_t sum = 0;

    bench_start();
    for (uint64_t round = 0; round < count; round++) {
        unsigned char *pages = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(pages != MAP_FAILED, "mmap");
        madvise(pages, SIZE, MADV_NOHUGEPAGE);
        for (unsigned i = 0; i < SIZE; i += 4096) {
            sum += pages[i + 1];
            pages[i] = (unsigned char)round;
        }
        munmap(pages, SIZE);
    }
    bench_stop();
    return sum;
}

static uint64_t run_mprotect(uint64_t count)
{
    volatile unsigned char *pages = bench_pages(16 * 4096);
    uint64_t sum = 0;

    bench_start();
    for (uint64_t i = 0; i < count; i++) {
        unsigned char *page = (unsigned char *)pages + i % 14 * 4096 + 4096;
        must(mprotect(page, 4096, PROT_READ) == 0, "mprotect");
        sum += *(volatile unsigned char *)page;
        must(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
        *(volatile unsigned char *)page = (unsigned char)i;
    }
    bench_stop();
    return sum;
}

const BenchProgram system_programs[] = {
    { "getppid", "system", run_getppid, 910000 },
    { "yield", "system", run_yield, 48000 },
    { "pipe_pingpong", "system", run_pipe_pingpong, 39000 },
    { "pipe_bulk", "system", run_pipe_bulk, 13000 },
    { "file_io", "system", run_file_io, 260 },
    { "open_stat", "system", run_open_stat, 36000 },
    { "signals", "system", run_signals, 70000 },
    { "fork", "system", run_fork, 1900 },
    { "fork_exec", "system", run_fork_exec, 430 },
    { "page_faults", "system", run_page_faults, 77 },
    { "mprotect", "system", run_mprotect, 36000 },
    { 0 },
};
