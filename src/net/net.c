/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/net_internal.h"

#include "base/error.h"
#include "io/options.h"
#include "rhea_config.h"

#include <stdio.h>
#include <string.h>

struct NetRegistry {
    Loop *loop;
    FdTable *fds;
    GPtrArray *clients; /* of NetClient *, owned */
    GPtrArray *nics;    /* of NetNic *, borrowed */
};

static NetRegistry *property_registry; /* see net_property_set_registry */

static const NetClientType *const client_types[] = {
#ifdef CONFIG_SLIRP
    &net_client_user,
#endif
    &net_client_tap,
    &net_client_stream,
};

/* ---- queues ---- */

void net_queue_init(NetQueue *q)
{
    pthread_mutex_init(&q->lock, NULL);
    g_queue_init(&q->frames);
    q->refused = false;
}

void net_queue_destroy(NetQueue *q)
{
    g_queue_clear_full(&q->frames, (GDestroyNotify)g_bytes_unref);
    pthread_mutex_destroy(&q->lock);
}

bool net_queue_push(NetQueue *q, const struct iovec *iov, int iov_count)
{
    size_t size = 0;
    for (int i = 0; i < iov_count; i++) {
        size += iov[i].iov_len;
    }
    if (size > NET_MAX_FRAME) {
        return true; /* no such frame exists: dropped */
    }
    uint8_t *copy = g_malloc(MAX(size, 1u)), *p = copy;
    for (int i = 0; i < iov_count; i++) {
        memcpy(p, iov[i].iov_base, iov[i].iov_len);
        p += iov[i].iov_len;
    }
    pthread_mutex_lock(&q->lock);
    bool room = q->frames.length < NET_QUEUE_FRAMES;
    if (room) {
        g_queue_push_tail(&q->frames, g_bytes_new_take(copy, size));
    } else {
        q->refused = true;
    }
    pthread_mutex_unlock(&q->lock);
    if (!room) {
        g_free(copy);
    }
    return room;
}

GBytes *net_queue_pop(NetQueue *q)
{
    pthread_mutex_lock(&q->lock);
    GBytes *frame = g_queue_pop_head(&q->frames);
    pthread_mutex_unlock(&q->lock);
    return frame;
}

bool net_queue_take_refused(NetQueue *q)
{
    pthread_mutex_lock(&q->lock);
    bool refused = q->refused;
    q->refused = false;
    pthread_mutex_unlock(&q->lock);
    return refused;
}

/* ---- MAC addresses ---- */

bool net_parse_mac(const char *text, MacAddr *mac, GError **error)
{
    unsigned byte[6];
    int end = 0;
    bool ok = (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4],
                      &byte[5], &end) == 6 ||
               sscanf(text, "%2x-%2x-%2x-%2x-%2x-%2x%n", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4],
                      &byte[5], &end) == 6) &&
              text[end] == '\0' && end == 17;
    if (!ok) {
        return error_set(error, "'%s' is not a MAC address like 52:54:00:12:34:56", text);
    }
    for (int i = 0; i < 6; i++) {
        mac->a[i] = byte[i];
    }
    return true;
}

char *net_format_mac(const MacAddr *mac)
{
    const uint8_t *a = mac->a;
    return g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5]);
}

static bool mac_is_set(const MacAddr *mac)
{
    static const MacAddr zero;
    return memcmp(mac, &zero, sizeof(zero)) != 0;
}

void net_macaddr_default_if_unset(MacAddr *mac)
{
    if (mac_is_set(mac)) {
        return;
    }
    *mac = (MacAddr){ { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 } };
    for (guint i = 0; property_registry && i < property_registry->nics->len; i++) {
        const NetNic *nic = property_registry->nics->pdata[i];
        if (memcmp(&nic->mac, mac, sizeof(*mac)) == 0) {
            mac->a[5]++;
            i = -1; /* look at all again */
        }
    }
}

/* ---- the card ---- */

bool net_nic_init(NetNic *nic, const NetNicOps *ops, void *opaque, HomeLock *lock, const MacAddr *mac,
                  const char *model, const char *name, GError **error)
{
    nic->registry = property_registry;
    nic->ops = ops;
    nic->opaque = opaque;
    nic->lock = lock;
    nic->mac = *mac;
    nic->model = g_strdup(model);
    nic->want_write = 0;
    if (name) {
        nic->name = g_strdup(name);
    } else {
        /* "MODEL.N", the first that is free */
        for (unsigned n = 0; !nic->name; n++) {
            nic->name = g_strdup_printf("%s.%u", model, n);
            for (guint i = 0; nic->registry && i < nic->registry->nics->len; i++) {
                if (strcmp(((NetNic *)nic->registry->nics->pdata[i])->name, nic->name) == 0) {
                    g_clear_pointer(&nic->name, g_free);
                    break;
                }
            }
        }
    }
    if (nic->registry) {
        g_ptr_array_add(nic->registry->nics, nic);
    }
    net_nic_accept_input(nic, 0);
    return true;
}

void net_nic_deinit(NetNic *nic)
{
    if (nic->registry) {
        g_ptr_array_remove(nic->registry->nics, nic);
        nic->registry = NULL;
    }
    if (nic->client) {
        if (nic->client->nic == nic) {
            nic->client->nic = NULL;
        }
        nic->client = NULL;
    }
    nic->ops = NULL;
    g_clear_pointer(&nic->flows, g_free);
    g_clear_pointer(&nic->model, g_free);
    g_clear_pointer(&nic->name, g_free);
}

void net_nic_set_mac(NetNic *nic, const MacAddr *mac)
{
    nic->mac = *mac;
}

int net_nic_queues(const NetNic *nic)
{
    return nic->client ? nic->client->queues : 1;
}

/* ---- flows and queues ---- */

#define FLOWS 256

/* A number that both directions of a connection have: of the addresses and ports of IPv4 and IPv6. */
static unsigned flow_of(const uint8_t *frame, size_t size)
{
    size_t at = 14, addresses, address_bytes, ports;
    uint32_t hash = 0;
    if (size >= 18 && frame[12] == 0x81 && frame[13] == 0) {
        at += 4;
    }
    if (size < at + 20) {
        return 0;
    }
    if (frame[at - 2] == 0x08 && frame[at - 1] == 0) {
        addresses = at + 12;
        address_bytes = 8;
        ports = at + 4u * (frame[at] & 15);
    } else if (frame[at - 2] == 0x86 && frame[at - 1] == 0xdd) {
        addresses = at + 8;
        address_bytes = 32;
        ports = at + 40;
    } else {
        return 0;
    }
    for (size_t i = 0; i < address_bytes && addresses + i < size; i++) {
        hash += frame[addresses + i] * (i % 4 * 2 + 1u);
    }
    for (size_t i = 0; i < 4 && ports + i < size; i++) {
        hash += frame[ports + i] * (i % 2 * 30 + 7u);
    }
    return (hash ^ hash >> 8) % FLOWS;
}

/* The flow's place in nic->flows, or NULL where there is nothing to choose from. */
static uint8_t *flow_slot(NetNic *nic, const struct iovec *iov, int iov_count)
{
    uint8_t head[14 + 4 + 60 + 4];
    size_t size = 0, skip = (size_t)nic->header_bytes;
    if (__atomic_load_n(&nic->active_queues, __ATOMIC_ACQUIRE) <= 1 || !nic->flows) {
        return NULL;
    }
    for (int i = 0; i < iov_count && size < sizeof(head); i++) {
        size_t drop = MIN(skip, iov[i].iov_len), part = MIN(iov[i].iov_len - drop, sizeof(head) - size);
        memcpy(head + size, (const uint8_t *)iov[i].iov_base + drop, part);
        skip -= drop;
        size += part;
    }
    return &nic->flows[flow_of(head, size)];
}

static int queue_for(NetNic *nic, const struct iovec *iov, int iov_count)
{
    uint8_t *slot = flow_slot(nic, iov, iov_count);
    if (!slot) {
        return 0;
    }
    int active = __atomic_load_n(&nic->active_queues, __ATOMIC_RELAXED);
    int queue = __atomic_load_n(slot, __ATOMIC_RELAXED);
    /* One that the guest began spreads as its number falls. */
    return queue && queue <= active ? queue - 1 : (int)((size_t)(slot - nic->flows) % (size_t)MAX(active, 1));
}

void net_nic_set_active_queues(NetNic *nic, int queues)
{
    NetClient *nc = nic->client;
    if (queues > 1 && !nic->flows && !(nc && nc->type->set_active_queues)) {
        nic->flows = g_new0(uint8_t, FLOWS); /* stays, for those who look without a lock */
    }
    __atomic_store_n(&nic->active_queues, queues, __ATOMIC_RELEASE);
    if (nc && nc->type->set_active_queues) {
        nc->type->set_active_queues(nc, queues);
    }
}

bool net_nic_link_up(const NetNic *nic)
{
    const NetClient *nc = __atomic_load_n(&nic->client, __ATOMIC_ACQUIRE);
    return !__atomic_load_n(&nic->link_down, __ATOMIC_RELAXED) &&
           !(nc && __atomic_load_n(&nc->link_down, __ATOMIC_RELAXED));
}

static size_t iov_size(const struct iovec *iov, int iov_count)
{
    size_t size = 0;
    for (int i = 0; i < iov_count; i++) {
        size += iov[i].iov_len;
    }
    return size;
}

ssize_t net_nic_send(NetNic *nic, int queue, const struct iovec *iov, int iov_count)
{
    NetClient *nc = __atomic_load_n(&nic->client, __ATOMIC_ACQUIRE);
    if (!nc || !net_nic_link_up(nic)) {
        return (ssize_t)iov_size(iov, iov_count);
    }
    uint8_t *slot = flow_slot(nic, iov, iov_count);
    if (slot) {
        __atomic_store_n(slot, (uint8_t)(queue + 1), __ATOMIC_RELAXED);
    }
    ssize_t taken = nc->type->send(nc, queue, iov, iov_count);
    if (taken == 0) {
        __atomic_fetch_or(&nic->want_write, 1u << queue, __ATOMIC_SEQ_CST);
    }
    return taken;
}

void net_nic_accept_input(NetNic *nic, int queue)
{
    NetClient *nc = __atomic_load_n(&nic->client, __ATOMIC_ACQUIRE);
    if (nc) {
        bh_schedule(nc->input_bh);
    }
}

bool net_nic_has_vnet_header(const NetNic *nic)
{
    return nic->client && nic->client->has_vnet_header;
}

uint32_t net_nic_offloads(const NetNic *nic)
{
    return nic->client ? nic->client->offloads : 0;
}

bool net_nic_set_vnet_header(NetNic *nic, int header_bytes, GError **error)
{
    NetClient *nc = nic->client;
    if (header_bytes == 0 && !(nc && nc->has_vnet_header)) {
        return true;
    }
    if (!nc || !nc->type->set_vnet_header || !nc->has_vnet_header) {
        return error_set(error, "Network back end '%s' carries no virtio-net header", nc ? nc->id : "(none)");
    }
    nic->header_bytes = header_bytes;
    return nc->type->set_vnet_header(nc, header_bytes, error);
}

void net_nic_set_offloads(NetNic *nic, uint32_t offloads)
{
    if (nic->client && nic->client->type->set_offloads) {
        nic->client->type->set_offloads(nic->client, offloads);
    }
}

/* ---- the client's side ---- */

Loop *net_client_loop(NetClient *nc)
{
    return nc->registry->loop;
}

FdTable *net_client_fds(NetClient *nc)
{
    return nc->registry->fds;
}

bool net_client_set_queues(NetClient *nc, uint32_t queues, GError **error)
{
    if (queues < 1 || queues > NET_MAX_QUEUES) {
        return error_set(error, "netdev '%s': 'queues' must be between 1 and %d", nc->id, NET_MAX_QUEUES);
    }
    nc->queues = (int)queues;
    return true;
}

ssize_t net_client_deliver(NetClient *nc, const struct iovec *iov, int iov_count)
{
    return net_client_deliver_queue(nc, nc->nic ? queue_for(nc->nic, iov, iov_count) : 0, iov, iov_count);
}

ssize_t net_client_deliver_queue(NetClient *nc, int queue, const struct iovec *iov, int iov_count)
{
    NetNic *nic = nc->nic;
    ssize_t size = (ssize_t)iov_size(iov, iov_count);
    if (!nic || !nic->ops || !net_nic_link_up(nic)) {
        return size;
    }
    bool locked = nic->lock && home_lock_enter(nic->lock);
    ssize_t taken = 0;
    if (!nic->ops->can_receive || nic->ops->can_receive(nic->opaque, queue)) {
        taken = nic->ops->receive(nic->opaque, queue, iov, iov_count);
    }
    if (locked) {
        home_unlock(nic->lock);
    }
    return taken < 0 ? size : taken; /* a card that cannot take it at all drops it */
}

void net_client_writable(NetClient *nc)
{
    NetNic *nic = nc->nic;
    if (!nic || !nic->ops) {
        return;
    }
    uint32_t waiting = __atomic_exchange_n(&nic->want_write, 0, __ATOMIC_SEQ_CST);
    if (!waiting || !nic->ops->writable) {
        return;
    }
    bool locked = nic->lock && home_lock_enter(nic->lock);
    for (int queue = 0; queue < NET_MAX_QUEUES; queue++) {
        if (waiting >> queue & 1) {
            nic->ops->writable(nic->opaque, queue);
        }
    }
    if (locked) {
        home_unlock(nic->lock);
    }
}

static void client_input(void *opaque)
{
    NetClient *nc = opaque;
    nc->type->accept_input(nc);
}

/* ---- the registry ---- */

NetRegistry *net_registry_new(Loop *loop, FdTable *fds)
{
    NetRegistry *reg = g_new0(NetRegistry, 1);
    reg->loop = loop;
    reg->fds = fds;
    reg->clients = g_ptr_array_new();
    reg->nics = g_ptr_array_new();
    return reg;
}

static void client_free(NetClient *nc)
{
    NetNic *nic = nc->nic;
    if (nic) {
        bool locked = nic->lock && home_lock_enter(nic->lock);
        __atomic_store_n(&nic->client, NULL, __ATOMIC_RELEASE);
        nc->nic = NULL;
        nic->link_down = true;
        if (nic->ops && nic->ops->link_changed) {
            nic->ops->link_changed(nic->opaque, false);
        }
        if (locked) {
            home_unlock(nic->lock);
        }
    }
    bh_free(nc->input_bh);
    nc->type->close(nc);
    g_free(nc->state);
    g_free(nc->id);
    g_free(nc);
}

void net_registry_free(NetRegistry *reg)
{
    if (!reg) {
        return;
    }
    for (guint i = 0; i < reg->clients->len; i++) {
        client_free(reg->clients->pdata[i]);
    }
    if (property_registry == reg) {
        property_registry = NULL;
    }
    g_ptr_array_unref(reg->clients);
    g_ptr_array_unref(reg->nics);
    g_free(reg);
}

void net_property_set_registry(NetRegistry *reg)
{
    property_registry = reg;
}

const char *const *net_client_types(void)
{
    static const char *names[G_N_ELEMENTS(client_types) + 1];
    for (size_t i = 0; i < G_N_ELEMENTS(client_types); i++) {
        names[i] = client_types[i]->name;
    }
    return names;
}

NetClient *net_client_find(NetRegistry *reg, const char *id)
{
    for (guint i = 0; i < reg->clients->len; i++) {
        NetClient *nc = reg->clients->pdata[i];
        if (strcmp(nc->id, id) == 0) {
            return nc;
        }
    }
    return NULL;
}

const char *net_client_id(const NetClient *client)
{
    return client->id;
}

NetNic *net_client_nic(const NetClient *client)
{
    return client->nic;
}

static const NetClientType *find_type(const char *name, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(client_types); i++) {
        if (strcmp(client_types[i]->name, name) == 0) {
            return client_types[i];
        }
    }
    g_autofree char *known = g_strjoinv(", ", (char **)net_client_types());
    error_set(error, "netdev type '%s' is not supported", name);
    error_append_hint(error, "Supported: %s.", known);
    return NULL;
}

NetClient *net_client_add(NetRegistry *reg, const QapiNetdev *options, GError **error)
{
    const NetClientType *type = find_type(enum_name(&qapi_NetClientDriver_lookup, options->type), error);
    if (!type) {
        return NULL;
    }
    if (!options_id_ok(options->id)) {
        error_set(error, "Parameter 'id' expects an identifier, not '%s'", options->id);
        return NULL;
    }
    if (net_client_find(reg, options->id)) {
        error_set(error, "Duplicate ID '%s' for netdev", options->id);
        return NULL;
    }
    NetClient *nc = g_new0(NetClient, 1);
    nc->registry = reg;
    nc->type = type;
    nc->id = g_strdup(options->id);
    nc->queues = 1;
    nc->state = g_malloc0(type->state_size);
    nc->input_bh = bh_new(reg->loop, client_input, nc, NULL);
    if (!type->open(nc, options, error)) {
        bh_free(nc->input_bh);
        g_free(nc->state);
        g_free(nc->id);
        g_free(nc);
        return NULL;
    }
    g_ptr_array_add(reg->clients, nc);
    return nc;
}

NetClient *net_client_add_text(NetRegistry *reg, const char *text, GError **error)
{
    QapiNetdev *options = NULL;
    if (!qapi_option_netdev(text, &options, error)) {
        return NULL;
    }
    NetClient *nc = net_client_add(reg, options, error);
    qapi_Netdev_free(options);
    return nc;
}

bool net_client_remove(NetRegistry *reg, const char *id, GError **error)
{
    NetClient *nc = net_client_find(reg, id);
    if (!nc) {
        return error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    }
    g_ptr_array_remove(reg->clients, nc);
    client_free(nc);
    return true;
}

static void tell_link(NetNic *nic)
{
    if (nic && nic->ops && nic->ops->link_changed) {
        bool locked = nic->lock && home_lock_enter(nic->lock);
        nic->ops->link_changed(nic->opaque, net_nic_link_up(nic));
        if (locked) {
            home_unlock(nic->lock);
        }
        net_nic_accept_input(nic, 0);
    }
}

bool net_set_link(NetRegistry *reg, const char *name, bool up, GError **error)
{
    for (guint i = 0; i < reg->nics->len; i++) {
        NetNic *nic = reg->nics->pdata[i];
        if (strcmp(nic->name, name) == 0) {
            __atomic_store_n(&nic->link_down, !up, __ATOMIC_RELAXED);
            tell_link(nic);
            return true;
        }
    }
    NetClient *nc = net_client_find(reg, name);
    if (!nc) {
        return error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", name);
    }
    __atomic_store_n(&nc->link_down, !up, __ATOMIC_RELAXED);
    tell_link(nc->nic);
    return true;
}

char *net_info(NetRegistry *reg)
{
    GString *out = g_string_new(NULL);
    for (guint i = 0; i < reg->nics->len; i++) {
        const NetNic *nic = reg->nics->pdata[i];
        g_autofree char *mac = net_format_mac(&nic->mac);
        g_string_append_printf(out, "%s: index=0,type=nic,model=%s,macaddr=%s%s\n", nic->name, nic->model,
                               mac, net_nic_link_up(nic) ? "" : ",link=down");
        if (nic->client) {
            g_string_append_printf(out, " \\ %s: index=0,type=%s,", nic->client->id, nic->client->type->name);
            nic->client->type->describe(nic->client, out);
            g_string_append_c(out, '\n');
        }
    }
    for (guint i = 0; i < reg->clients->len; i++) {
        NetClient *nc = reg->clients->pdata[i];
        if (!nc->nic) {
            g_string_append_printf(out, "%s: index=0,type=%s,", nc->id, nc->type->name);
            nc->type->describe(nc, out);
            g_string_append_c(out, '\n');
        }
    }
    return g_string_free(out, FALSE);
}

#ifdef CONFIG_SLIRP
static NetClient *find_user(NetRegistry *reg, const char *id, GError **error)
{
    NetClient *found = NULL;
    for (guint i = 0; i < reg->clients->len; i++) {
        NetClient *nc = reg->clients->pdata[i];
        if (nc->type == &net_client_user && (!id || strcmp(nc->id, id) == 0)) {
            if (found) {
                error_set(error, "There are several user networks: name one");
                return NULL;
            }
            found = nc;
        }
    }
    if (!found) {
        error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "User network '%s' not found", id ? id : "");
    }
    return found;
}
#endif

char *net_info_usernet(NetRegistry *reg)
{
    GString *out = g_string_new(NULL);
#ifdef CONFIG_SLIRP
    for (guint i = 0; i < reg->clients->len; i++) {
        NetClient *nc = reg->clients->pdata[i];
        if (nc->type == &net_client_user) {
            g_autofree char *text = net_user_info(nc);
            g_string_append_printf(out, "Hub -1 (%s):\n%s", nc->id, text);
        }
    }
#endif
    return g_string_free(out, FALSE);
}

static bool forward(NetRegistry *reg, const char *id, const char *rule, bool add, GError **error)
{
#ifdef CONFIG_SLIRP
    NetClient *nc = find_user(reg, id, error);
    return nc && net_user_forward(nc, rule, add, error);
#else
    return error_set(error, "User networks are not built in: libslirp was missing");
#endif
}

bool net_hostfwd_add(NetRegistry *reg, const char *id, const char *rule, GError **error)
{
    return forward(reg, id, rule, true, error);
}

bool net_hostfwd_remove(NetRegistry *reg, const char *id, const char *rule, GError **error)
{
    return forward(reg, id, rule, false, error);
}

/* ---- checksums ---- */

bool net_finish_checksum(uint8_t *frame, size_t size, uint16_t csum_start, uint16_t csum_offset)
{
    if (csum_start > size || (size_t)csum_start + csum_offset + 2 > size) {
        return false;
    }
    /* The field holds the pseudo header's sum already: RFC 1071 over all from start gives the rest. */
    uint64_t sum = 0;
    for (size_t i = csum_start; i < size; i++) {
        sum += (i - csum_start) & 1 ? frame[i] : (uint64_t)frame[i] << 8;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    uint16_t result = ~sum;
    if (result == 0) {
        result = 0xffff; /* zero means "none" to UDP, and both are the same number */
    }
    frame[csum_start + csum_offset] = result >> 8;
    frame[csum_start + csum_offset + 1] = result & 0xff;
    return true;
}

/* ---- property types ---- */

static bool mac_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                    GError **error)
{
    g_autofree char *text = net_format_mac(field);
    return visit_str(v, name, &text, error);
}

static bool mac_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                    GError **error)
{
    g_autofree char *text = NULL;
    MacAddr mac;
    if (!visit_str(v, name, &text, error)) {
        return false;
    }
    if (!net_parse_mac(text, &mac, error)) {
        error_prefix(error, "Property '%s.%s': ", object_get_typename(obj), name);
        return false;
    }
    if (mac.a[0] & 1) {
        return error_set(error, "Property '%s.%s': '%s' is a multicast address", object_get_typename(obj),
                         name, text);
    }
    *(MacAddr *)field = mac;
    return true;
}

const PropertyType property_type_macaddr = { .name = "str", .get = mac_get, .set = mac_set };

static bool netdev_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                       GError **error)
{
    const NetNic *nic = field;
    g_autofree char *id = g_strdup(nic->client ? nic->client->id : "");
    return visit_str(v, name, &id, error);
}

static bool netdev_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                       GError **error)
{
    NetNic *nic = field;
    g_autofree char *id = NULL;
    if (!visit_str(v, name, &id, error)) {
        return false;
    }
    NetClient *nc = property_registry ? net_client_find(property_registry, id) : NULL;
    if (!nc) {
        error_set(error, "Property '%s.%s' can't find value '%s'", object_get_typename(obj), name, id);
        if (property_registry && property_registry->clients->len == 0) {
            error_append_hint(error, "There is no -netdev yet: -netdev user,id=%s", id);
        }
        return false;
    }
    if (nc->nic && nc->nic != nic) {
        return error_set(error, "Property '%s.%s' can't take value '%s', it's in use",
                         object_get_typename(obj), name, id);
    }
    if (nic->client) {
        nic->client->nic = NULL;
    }
    nic->client = nc;
    nc->nic = nic;
    return true;
}

static void netdev_release(Object *obj, const Property *prop, void *field)
{
    net_nic_deinit(field);
}

const PropertyType property_type_netdev = {
    .name = "str",
    .get = netdev_get,
    .set = netdev_set,
    .release = netdev_release,
};
