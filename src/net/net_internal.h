/*
 * What the kinds of network clients share with net.c. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_NET_NET_INTERNAL_H
#define RHEA_NET_NET_INTERNAL_H

#include "net/net.h"

#include <pthread.h>

/* Frames that wait in one direction of one client; more are dropped (in) or refused (out). */
#define NET_QUEUE_FRAMES 512

typedef struct NetClientType {
    const char *name;
    size_t state_size;
    /* Opens the host end as the type's branch of options says. On failure nothing is left behind. Main loop's
     * thread. */
    bool (*open)(NetClient *nc, const QapiNetdev *options, GError **error);
    void (*close)(NetClient *nc);
    /* Takes a frame (returns its size) or is busy (0; net_client_writable() follows). [any thread] */
    ssize_t (*send)(NetClient *nc, int queue, const struct iovec *iov, int iov_count);
    /* The card takes frames again: deliver what was kept. In the client's loop. */
    void (*accept_input)(NetClient *nc);
    bool (*set_vnet_header)(NetClient *nc, int header_bytes, GError **error); /* NULL: cannot */
    void (*set_offloads)(NetClient *nc, uint32_t offloads);
    void (*set_active_queues)(NetClient *nc, int queues); /* NULL: it has none of its own */
    void (*describe)(NetClient *nc, GString *out);        /* "net=10.0.2.0,restrict=off" */
} NetClientType;

struct NetClient {
    NetRegistry *registry;
    const NetClientType *type;
    char *id;
    NetNic *nic; /* borrowed; NULL: no card */
    bool link_down;
    bool has_vnet_header;
    uint32_t offloads; /* what this client can do */
    int queues;        /* pairs that a card may have; open may set it */
    BottomHalf *input_bh;
    void *state; /* the type's */
};

Loop *net_client_loop(NetClient *nc);
FdTable *net_client_fds(NetClient *nc);
/* Gives a frame to the card: its size (also where there is no card or the link is down), or 0: keep it and
 * stop. In the client's loop, with no lock held. */
ssize_t net_client_deliver(NetClient *nc, const struct iovec *iov, int iov_count);
/* The same for a client with queues of its own. */
ssize_t net_client_deliver_queue(NetClient *nc, int queue, const struct iovec *iov, int iov_count);
/* The option `queues` of a client: 1 to NET_MAX_QUEUES. */
bool net_client_set_queues(NetClient *nc, uint32_t queues, GError **error);
/* After send gave 0: calls the card's writable. In the client's loop, with no lock held. */
void net_client_writable(NetClient *nc);

/* A bounded queue of copied frames. [any thread] */
typedef struct NetQueue {
    pthread_mutex_t lock;
    GQueue frames; /* of GBytes * */
    bool refused;  /* somebody was sent away since the last net_queue_take_refused() */
} NetQueue;
void net_queue_init(NetQueue *q);
void net_queue_destroy(NetQueue *q);
/* false: full. */
bool net_queue_push(NetQueue *q, const struct iovec *iov, int iov_count);
GBytes *net_queue_pop(NetQueue *q); /* caller owns; NULL: empty */
bool net_queue_take_refused(NetQueue *q);

extern const NetClientType net_client_user, net_client_tap, net_client_stream;
/* user.c; a text for info usernet, and port forwards at run time. */
char *net_user_info(NetClient *nc);
bool net_user_forward(NetClient *nc, const char *rule, bool add, GError **error);

#endif
