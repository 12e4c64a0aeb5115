/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver: the same on the host (over pipes) and in a guest (over the serial console), so that what is
 * compared was measured in the same way. Requests are lines of fields separated by tabs; each has one answer,
 * a line that begins with "@@": clock                              @@ clock MONOTONIC_NS run TIMEOUT_MS
 * ARGUMENT...         runs this very program with the arguments:  @@ run ok LINE-IT-PRINTED exec TIMEOUT_MS
 * STDIN OUT ARGV...  runs a program, standard input from STDIN ("-": nothing); the file OUT ("-": standard
 * output) is summed:  @@ exec ok NANOSECONDS CHECKSUM SIZE quit                               @@ quit
 * Failures: "@@ run timeout", "@@ run failed STATUS MESSAGE", the message being the end of standard error.
 */
#define _GNU_SOURCE
#include "driver.h"
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 4096, FIELDS = 64 };

/* Standard output and error of what runs, in the current directory. */
static const char out_name[] = ".bench-out", error_name[] = ".bench-error";

static void answer(int out, const char *text)
{
    size_t size = strlen(text);
    while (size > 0) {
        ssize_t n = write(out, text, size);
        if (n <= 0)
            return;
        text += n;
        size -= (size_t)n;
    }
}

static int open_as(int want, const char *name, int flags)
{
    int file = open(name, flags, 0644);
    if (file < 0 || dup2(file, want) < 0)
        return -1;
    if (file != want)
        close(file);
    return 0;
}

/* Returns the wait status, or -1 where the time was up (all of the child's process group is gone then). */
static int run_child(char **argv, const char *program, const char *in, uint64_t timeout_ms,
                     uint64_t *elapsed_ns)
{
    sigset_t child_ended, before;
    struct timespec timeout = { (time_t)(timeout_ms / 1000), (long)(timeout_ms % 1000) * 1000000 };
    int status = -1;

    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ended, &before);
    uint64_t began = bench_now_ns();
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (open_as(0, in, O_RDONLY) < 0 || open_as(1, out_name, O_WRONLY | O_CREAT | O_TRUNC) < 0 ||
            open_as(2, error_name, O_WRONLY | O_CREAT | O_TRUNC) < 0)
            _exit(126);
        execv(program, argv);
        fprintf(stderr, "%s: %s\n", program, strerror(errno));
        _exit(127);
    }
    if (child > 0) {
        setpgid(child, child);
        for (;;) {
            int signal_number = sigtimedwait(&child_ended, NULL, &timeout);
            if (waitpid(child, &status, WNOHANG) == child) {
                *elapsed_ns = bench_now_ns() - began;
                break;
            }
            uint64_t passed_ms = (bench_now_ns() - began) / 1000000;
            if ((signal_number < 0 && errno == EAGAIN) || passed_ms >= timeout_ms) {
                kill(-child, SIGKILL);
                waitpid(child, &status, 0);
                status = -1;
                break;
            }
            uint64_t left_ms = timeout_ms - passed_ms;
            timeout = (struct timespec){ (time_t)(left_ms / 1000), (long)(left_ms % 1000) * 1000000 };
        }
        kill(-child, SIGKILL); /* what it may have left behind */
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        sigtimedwait(&child_ended, NULL, &(struct timespec){ 0 });
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return status;
}

/* The end of a file as one line. */
static void tail(const char *name, char *to, size_t size)
{
    int file = open(name, O_RDONLY);
    struct stat about;
    ssize_t n = 0;

    if (file >= 0 && fstat(file, &about) == 0) {
        off_t from = about.st_size > (off_t)size - 1 ? about.st_size - (off_t)size + 1 : 0;
        n = pread(file, to, size - 1, from);
    }
    if (file >= 0)
        close(file);
    to[n > 0 ? n : 0] = 0;
    for (char *at = to; *at; at++)
        if (*at == '\n')
            *at = at[1] ? '|' : 0;
        else if (*at < ' ' || *at > '~')
            *at = '?';
}

static int sum_file(const char *name, uint64_t *checksum, uint64_t *size)
{
    static unsigned char buffer[65536];
    int file = open(name, O_RDONLY);

    *checksum = *size = 0;
    if (file < 0)
        return -1;
    for (;;) {
        size_t filled = 0;
        ssize_t n = 0;
        while (filled < sizeof buffer && (n = read(file, buffer + filled, sizeof buffer - filled)) > 0)
            filled += (size_t)n;
        *checksum = bench_mix_bytes(*checksum, buffer, filled);
        *size += filled;
        if (n <= 0) {
            close(file);
            return n < 0 ? -1 : 0;
        }
    }
}

static void fail(int out, const char *what, int status)
{
    char message[600], line[800];
    if (status == -1) {
        snprintf(line, sizeof line, "@@ %s timeout\n", what);
    } else {
        tail(error_name, message, sizeof message);
        snprintf(line, sizeof line, "@@ %s failed %#x %s\n", what, (unsigned)status, message);
    }
    answer(out, line);
}

static void serve_run(int out, char **fields)
{
    char line[700], text[600], *argv[FIELDS + 1] = { "cpubench" };
    uint64_t elapsed_ns = 0;

    for (unsigned i = 0; fields[i]; i++)
        argv[i + 1] = fields[i + 1];
    int status = run_child(argv, "/proc/self/exe", "/dev/null", strtoull(fields[0], NULL, 10), &elapsed_ns);
    if (status != 0) {
        fail(out, "run", status);
        return;
    }
    tail(out_name, text, sizeof text);
    snprintf(line, sizeof line, "@@ run ok %s\n", text);
    answer(out, line);
}

static void serve_exec(int out, char **fields)
{
    char line[200];
    uint64_t elapsed_ns = 0, checksum, size;
    const char *in = strcmp(fields[1], "-") ? fields[1] : "/dev/null";
    const char *result = strcmp(fields[2], "-") ? fields[2] : out_name;

    int status = run_child(fields + 3, fields[3], in, strtoull(fields[0], NULL, 10), &elapsed_ns);
    if (status != 0) {
        fail(out, "exec", status);
        return;
    }
    if (sum_file(result, &checksum, &size) < 0) {
        snprintf(line, sizeof line, "@@ exec failed 0 %s: %s\n", result, strerror(errno));
    } else {
        snprintf(line, sizeof line, "@@ exec ok %llu %016llx %llu\n", (unsigned long long)elapsed_ns,
                 (unsigned long long)checksum, (unsigned long long)size);
    }
    answer(out, line);
    unlink(result);
}

int driver_serve(int in, int out)
{
    static char buffer[LINE];
    size_t filled = 0;

    clearenv();
    setenv("PATH", "/usr/bin:/bin", 1);
    setenv("LC_ALL", "C", 1);
    setenv("HOME", "/", 1);
    setenv("TMPDIR", ".", 1);
    setenv("PYTHONHASHSEED", "0", 1);
    setenv("PERL_HASH_SEED", "0", 1);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        char *end = memchr(buffer, '\n', filled);
        if (!end) {
            ssize_t n = filled < LINE ? read(in, buffer + filled, LINE - filled) : 0;
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                return 0;
            filled += (size_t)n;
            continue;
        }
        char line[LINE], *fields[FIELDS + 1], text[80];
        size_t length = (size_t)(end - buffer);
        memcpy(line, buffer, length);
        line[length] = 0;
        filled -= length + 1;
        memmove(buffer, end + 1, filled);

        unsigned n = 0;
        for (char *at = line; at && n < FIELDS;) {
            fields[n++] = at;
            at = strchr(at, '\t');
            if (at)
                *at++ = 0;
        }
        fields[n] = NULL;
        if (!strcmp(fields[0], "clock")) {
            snprintf(text, sizeof text, "@@ clock %llu\n", (unsigned long long)bench_now_ns());
            answer(out, text);
        } else if (!strcmp(fields[0], "quit")) {
            answer(out, "@@ quit\n");
            return 0;
        } else if (!strcmp(fields[0], "run") && n >= 3) {
            serve_run(out, fields + 1);
        } else if (!strcmp(fields[0], "exec") && n >= 5) {
            serve_exec(out, fields + 1);
        } else {
            answer(out, "@@ what\n");
        }
    }
}

static void mount_at(const char *type, const char *where)
{
    mkdir(where, 0755);
    if (mount(type, where, type, 0, NULL) != 0 && errno != EBUSY)
        fprintf(stderr, "cpubench: %s on %s: %s\n", type, where, strerror(errno));
}

int driver_init(void)
{
    struct termios settings;

    mount_at("devtmpfs", "/dev");
    mount_at("proc", "/proc");
    mount_at("sysfs", "/sys");
    mount_at("tmpfs", "/tmp");
    mount_at("tmpfs", "/dev/shm");
    int console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    if (console >= 0 && tcgetattr(console, &settings) == 0) {
        cfmakeraw(&settings);
        settings.c_oflag |= OPOST | ONLCR; /* kernel messages look right beside */
        tcsetattr(console, TCSANOW, &settings);
        for (int i = 0; i < 3; i++)
            dup2(console, i);
        if (chdir("/work") == 0) {
            answer(1, "@@ ready\n");
            driver_serve(0, 1);
        } else {
            fprintf(stderr, "cpubench: no directory /work\n");
        }
    }
    sync();
    reboot(RB_POWER_OFF);
    return 1;
}
