/*
 * A loop's worker threads: for host calls that block, where io_uring cannot be used. Threads come with the
 * work and leave when idle. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "loop/loop_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define IDLE_SECONDS 10

struct ThreadPool {
    pthread_mutex_t lock;
    pthread_cond_t work, gone;
    LoopIo *head, **tail;
    int threads, idle, min_threads, max_threads;
    bool stopping;
};

ssize_t loop_io_run(LoopIo *io)
{
    ssize_t n;

    if (io->work) {
        return io->work(io->opaque);
    }
    do {
        switch (io->op) {
        case LOOP_IO_READV:
            n = preadv(io->fd, io->iov, MIN(io->iov_count, 1024), io->offset);
            break;
        case LOOP_IO_WRITEV:
            n = pwritev2(io->fd, io->iov, MIN(io->iov_count, 1024), io->offset,
                         io->mode & LOOP_IO_STABLE ? RWF_DSYNC : 0);
            break;
        case LOOP_IO_FSYNC:
            n = fsync(io->fd);
            break;
        case LOOP_IO_FDATASYNC:
            n = fdatasync(io->fd);
            break;
        case LOOP_IO_FALLOCATE:
            n = fallocate(io->fd, io->mode, io->offset, io->length);
            break;
        default:
            return -EINVAL;
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static void give_back(LoopIo *io)
{
    Loop *loop = io->loop;

    io->next = __atomic_load_n(&loop->io_head, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&loop->io_head, &io->next, io, true, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED)) {}
    loop_wake(loop);
}

static void *pool_thread(void *opaque)
{
    ThreadPool *pool = opaque;

    pthread_setname_np(pthread_self(), "worker");
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        LoopIo *io;

        while (!pool->head && !pool->stopping) {
            struct timespec until;
            int ret;

            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec += IDLE_SECONDS;
            pool->idle++;
            ret = pthread_cond_timedwait(&pool->work, &pool->lock, &until);
            pool->idle--;
            if (ret == ETIMEDOUT && !pool->head && pool->threads > pool->min_threads) {
                goto out;
            }
        }
        io = pool->head;
        if (!io) {
            break;
        }
        pool->head = io->next;
        if (!pool->head) {
            pool->tail = &pool->head;
        }
        pthread_mutex_unlock(&pool->lock);
        io->result = loop_io_run(io);
        give_back(io);
        pthread_mutex_lock(&pool->lock);
    }
out:
    pool->threads--;
    pthread_cond_signal(&pool->gone);
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* With the lock held. */
static bool pool_spawn(ThreadPool *pool)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, old;
    int ret;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals belong to the main and vCPU threads */
    ret = pthread_create(&thread, &attr, pool_thread, pool);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    pool->threads += ret == 0;
    return ret == 0;
}

ThreadPool *thread_pool_new(int min_threads, int max_threads)
{
    ThreadPool *pool = g_new0(ThreadPool, 1);

    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->gone, NULL);
    pool->tail = &pool->head;
    thread_pool_set_limits(pool, min_threads, max_threads);
    return pool;
}

void thread_pool_set_limits(ThreadPool *pool, int min_threads, int max_threads)
{
    pthread_mutex_lock(&pool->lock);
    pool->max_threads = MAX(max_threads, 1);
    pool->min_threads = MIN(min_threads, pool->max_threads);
    while (pool->threads < pool->min_threads && pool_spawn(pool)) {}
    pthread_mutex_unlock(&pool->lock);
}

void thread_pool_submit(ThreadPool *pool, LoopIo *io)
{
    bool here = false;

    io->next = NULL;
    pthread_mutex_lock(&pool->lock);
    if (!pool->idle && pool->threads < pool->max_threads && !pool_spawn(pool) && !pool->threads) {
        here = true; /* no thread to be had: better late than never */
    } else {
        *pool->tail = io;
        pool->tail = &io->next;
        pthread_cond_signal(&pool->work);
    }
    pthread_mutex_unlock(&pool->lock);
    if (here) {
        io->result = loop_io_run(io);
        give_back(io);
    }
}

void thread_pool_free(ThreadPool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->work);
    while (pool->threads) {
        pthread_cond_wait(&pool->gone, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->gone);
    pthread_mutex_destroy(&pool->lock);
    g_free(pool);
}
