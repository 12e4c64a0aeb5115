/*
 * Locks on image files, in the form that QEMU uses, so that both respect each other: one byte of the file for
 * each permission, locked for reading through the open file description. Byte 100 + n says "I use permission
 * n", byte 200 + n says "I do not let others use permission n". SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/protocols/lock.h"

#include "base/error.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PERM_READ, PERM_WRITE, PERM_WRITE_UNCHANGED, PERM_RESIZE, PERM_COUNT };
#define USED_BASE     100
#define UNSHARED_BASE 200
#define GONE_TRIES    100
#define GONE_WAIT_US  10000

static const char *const perm_names[PERM_COUNT] = { "consistent read", "write", "write unchanged", "resize" };

static bool has_lock(const char *pid, const char *fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/fdinfo/%s", pid, fd), *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) && strstr(text, "\nlock:");
}

/* "qemu-system-x86 (process 1234)" of another process that has the file open, best with a lock on it; NULL:
 * not to be seen (another user's, for instance). Caller frees. */
static char *find_holder(int fd)
{
    DIR *proc = opendir("/proc");
    struct dirent *p;
    struct stat want;
    char *found = NULL;
    bool locked = false, self = false;
    pid_t me = getpid();

    if (!proc || fstat(fd, &want) < 0) {
        if (proc) {
            closedir(proc);
        }
        return NULL;
    }
    while (!locked && (p = readdir(proc))) {
        g_autofree char *dir = NULL;
        DIR *fds;
        struct dirent *f;

        if (!g_ascii_isdigit(*p->d_name)) {
            continue;
        }
        dir = g_strdup_printf("/proc/%s/fd", p->d_name);
        fds = opendir(dir);
        while (fds && !locked && (f = readdir(fds))) {
            g_autofree char *path = g_strdup_printf("%s/%s", dir, f->d_name), *comm = NULL, *comm_path = NULL;
            struct stat st;

            if (*f->d_name == '.' || stat(path, &st) < 0 || st.st_dev != want.st_dev ||
                st.st_ino != want.st_ino) {
                continue;
            }
            if (atoi(p->d_name) == me) {
                self = self || (atoi(f->d_name) != fd && has_lock(p->d_name, f->d_name));
                continue;
            }
            locked = has_lock(p->d_name, f->d_name);
            if (!found || locked) {
                comm_path = g_strdup_printf("/proc/%s/comm", p->d_name);
                if (!g_file_get_contents(comm_path, &comm, NULL, NULL)) {
                    comm = g_strdup("?");
                }
                g_free(found);
                found = g_strdup_printf("%s (process %s)", g_strchomp(comm), p->d_name);
            }
        }
        if (fds) {
            closedir(fds);
        }
    }
    closedir(proc);
    if (self && !locked) {
        g_free(found);
        found = g_strdup("this very machine, which uses it twice");
    }
    return found;
}

static bool conflict(int fd, const char *what, int perm, bool others_use, GError **error)
{
    g_autofree char *holder = find_holder(fd);

    error_set(error, "%s is in use by %s: %s \"%s\"", what,
              holder ? holder : "another process that this user cannot see",
              others_use ? "it already has the permission" : "it does not share the permission",
              perm_names[perm]);
    error_append_hint(
        error, "Stop that process, or give both of them share-rw=on (for a cluster file system), or use a "
               "copy of the image.");
    return false;
}

static int set_byte(int fd, off_t at, short type)
{
    struct flock fl = { .l_whence = SEEK_SET, .l_start = at, .l_len = 1, .l_type = type };

    return fcntl(fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

/* Whether another open file has a lock on the byte. */
static bool byte_taken(int fd, off_t at)
{
    struct flock fl = { .l_whence = SEEK_SET, .l_start = at, .l_len = 1, .l_type = F_WRLCK };

    return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

/* The same, for good. The host ends a killed program's I/O after the program is gone, and only then its
 * locks: whoever starts the next one at once must not be told that somebody uses the image. So what nobody
 * can be seen to hold may go by itself. */
static bool byte_held(int fd, off_t at)
{
    for (int tries = 0; byte_taken(fd, at); tries++) {
        g_autofree char *holder = find_holder(fd);

        if (holder || tries == GONE_TRIES) {
            return true;
        }
        g_usleep(GONE_WAIT_US);
    }
    return false;
}

/* Locks the bytes of what `want` has and `have` has not. */
static int lock_more(int fd, off_t base, unsigned want, unsigned have)
{
    int ret = 0;

    for (int i = 0; i < PERM_COUNT && !ret; i++) {
        if ((want & ~have) & 1u << i) {
            ret = set_byte(fd, base + i, F_RDLCK);
        }
    }
    return ret;
}

static void unlock_rest(int fd, off_t base, unsigned have, unsigned keep)
{
    for (int i = 0; i < PERM_COUNT; i++) {
        if ((have & ~keep) & 1u << i) {
            set_byte(fd, base + i, F_UNLCK);
        }
    }
}

bool block_lock_prepare(BlockLock *lock, int fd, const char *what, unsigned perm, unsigned shared,
                        GError **error)
{
    unsigned unshared = ~shared & BLOCK_PERM_ALL;
    int ret;

    lock->tried_used = lock->used | perm;
    lock->tried_unshared = lock->unshared | unshared;
    ret = lock_more(fd, USED_BASE, perm, lock->used);
    ret = ret ? ret : lock_more(fd, UNSHARED_BASE, unshared, lock->unshared);
    if (ret == -EINVAL || ret == -ENOLCK || ret == -ENOSYS || ret == -EOPNOTSUPP || ret == -EBADF) {
        return true; /* a file system without locks */
    }
    if (ret) {
        block_lock_abort(lock, fd);
        return error_set_errno(error, -ret, "%s: cannot lock the image", what);
    }
    for (int i = 0; i < PERM_COUNT; i++) {
        bool not_shared = ((perm & ~lock->used) & 1u << i) && byte_held(fd, UNSHARED_BASE + i);
        bool in_use = ((unshared & ~lock->unshared) & 1u << i) && byte_held(fd, USED_BASE + i);

        if (not_shared || in_use) {
            conflict(fd, what, i, in_use, error);
            block_lock_abort(lock, fd);
            return false;
        }
    }
    return true;
}

void block_lock_commit(BlockLock *lock, int fd, unsigned perm, unsigned shared)
{
    unsigned unshared = ~shared & BLOCK_PERM_ALL;

    unlock_rest(fd, USED_BASE, lock->tried_used | lock->used, perm);
    unlock_rest(fd, UNSHARED_BASE, lock->tried_unshared | lock->unshared, unshared);
    *lock = (BlockLock){ .used = perm, .unshared = unshared };
}

void block_lock_abort(BlockLock *lock, int fd)
{
    unlock_rest(fd, USED_BASE, lock->tried_used, lock->used);
    unlock_rest(fd, UNSHARED_BASE, lock->tried_unshared, lock->unshared);
    lock->tried_used = lock->tried_unshared = 0;
}

void block_lock_move(BlockLock *lock, int new_fd)
{
    lock_more(new_fd, USED_BASE, lock->used, 0);
    lock_more(new_fd, UNSHARED_BASE, lock->unshared, 0);
}
