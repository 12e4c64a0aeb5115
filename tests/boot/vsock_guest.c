/* Runs in a Linux guest: 4 MiB to the host's port 5000 and back, then one connection to port 6000, which is
 * answered with what comes. SPDX-License-Identifier: GPL-2.0-or-later */
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOTAL (4u << 20)

static uint8_t sent[TOTAL], came[TOTAL];

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int to_host(void)
{
    struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 5000 };
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
    size_t out = 0, in = 0;
    for (size_t i = 0; i < TOTAL; i++) {
        sent[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    connect(fd, (struct sockaddr *)&host, sizeof(host));
    while (in < TOTAL) {
        struct pollfd p = { .fd = fd, .events = POLLIN | (out < TOTAL ? POLLOUT : 0) };
        if (poll(&p, 1, 60000) <= 0) {
            return fail("vsock: poll");
        }
        if ((p.revents & POLLOUT) && out < TOTAL) {
            ssize_t n = send(fd, sent + out, TOTAL - out, MSG_NOSIGNAL);
            out += n > 0 ? (size_t)n : 0;
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t n = recv(fd, came + in, TOTAL - in, 0);
            if (n == 0) {
                return fail("vsock: the host has closed");
            }
            in += n > 0 ? (size_t)n : 0;
        }
    }
    close(fd);
    if (memcmp(sent, came, TOTAL) != 0) {
        puts("vsock: other bytes came back");
        return 1;
    }
    printf("vsock: %u bytes to the host and back\n", TOTAL);
    return 0;
}

static int nobody_there(void)
{
    struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 5001 };
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    int refused = connect(fd, (struct sockaddr *)&host, sizeof(host)) != 0;
    close(fd);
    return refused ? 0 : fail("vsock: port 5001 took a connection");
}

static int from_host(void)
{
    struct sockaddr_vm any = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 6000 };
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&any, sizeof(any)) || listen(listener, 4)) {
        return fail("vsock: listen");
    }
    puts("vsock: listening");
    fflush(stdout);
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) {
        return fail("vsock: accept");
    }
    ssize_t n;
    while ((n = recv(fd, came, 65536, 0)) > 0) {
        for (ssize_t done = 0; done < n;) {
            ssize_t part = send(fd, came + done, (size_t)(n - done), MSG_NOSIGNAL);
            if (part <= 0) {
                return fail("vsock: send");
            }
            done += part;
        }
    }
    close(fd);
    return n == 0 ? 0 : fail("vsock: recv");
}

int main(void)
{
    int failed = to_host();
    fflush(stdout);
    return failed || nobody_there() || from_host();
}
