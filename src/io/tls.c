/*
 * TLS with GnuTLS: see tls.h. File names in a credentials' directory are QEMU's (ca-cert.pem,
 * server-cert.pem, keys.psk, ...), so that one set serves both. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "io/tls.h"

#include "base/error.h"
#include "host/library.h"
#include "object/property.h"
#include "object/secret.h"
#include "rhea_config.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RECORD_BYTES   16384u
#define CERT_BYTES_MAX (1u << 20)

/* ---- the library ---- */

/* Loaded when the first credentials are made: linking it would cost every start milliseconds. */
/* clang-format off */
#define GNUTLS_SYMBOLS(X, P)                                                                         \
    X(P, anon_allocate_client_credentials) X(P, anon_allocate_server_credentials)                    \
    X(P, anon_free_client_credentials) X(P, anon_free_server_credentials)                            \
    X(P, anon_set_server_known_dh_params) X(P, bye) X(P, certificate_allocate_credentials)           \
    X(P, certificate_free_credentials) X(P, certificate_get_peers)                                   \
    X(P, certificate_server_set_request) X(P, certificate_set_known_dh_params)                       \
    X(P, certificate_set_x509_crl_file) X(P, certificate_set_x509_key_file2)                         \
    X(P, certificate_set_x509_trust_file) X(P, certificate_verification_status_print)                \
    X(P, certificate_verify_peers3) X(P, credentials_set) X(P, deinit) X(P, error_is_fatal)          \
    X(P, handshake) X(P, handshake_set_timeout) X(P, init) X(P, priority_set_direct)                 \
    X(P, psk_allocate_client_credentials) X(P, psk_allocate_server_credentials)                      \
    X(P, psk_free_client_credentials) X(P, psk_free_server_credentials)                              \
    X(P, psk_server_get_username) X(P, psk_set_client_credentials)                                   \
    X(P, psk_set_server_credentials_file) X(P, psk_set_server_known_dh_params)                       \
    X(P, record_get_direction) X(P, record_recv) X(P, record_send) X(P, server_name_set)             \
    X(P, strerror) X(P, transport_set_int2) X(P, x509_crt_deinit) X(P, x509_crt_get_activation_time) \
    X(P, x509_crt_get_dn2) X(P, x509_crt_get_expiration_time) X(P, x509_crt_import)                  \
    X(P, x509_crt_init) X(P, x509_crt_list_import)
/* clang-format on */
LIBRARY_TABLE(gnutls, gnutls_, GNUTLS_SYMBOLS, SONAME_GNUTLS, "libgnutls30", "TLS");

/* ---- credentials ---- */

static const char *const endpoint_names[] = { "client", "server" };
static const EnumLookup endpoint_lookup = { .name = "QCryptoTLSCredsEndpoint",
                                            .names = endpoint_names,
                                            .count = 2 };

struct TlsCreds {
    Object parent_obj;
    int endpoint; /* 1: server */
    char *dir, *priority, *username, *password_id;
    bool verify_peer, sanity_check;
    /* once complete */
    TlsKind kind;
    gnutls_certificate_credentials_t x509;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_psk_client_credentials_t psk_client;
    gnutls_anon_server_credentials_t anon_server;
    gnutls_anon_client_credentials_t anon_client;
};

#define COMMON_PROPERTIES                                                                                \
    PROP_ENUM("endpoint", TlsCreds, endpoint, endpoint_lookup, 0, "whose end of connections it is for"), \
        PROP_STR("dir", TlsCreds, dir, NULL, "where the files are"),                                     \
        PROP_BOOL("verify-peer", TlsCreds, verify_peer, true, "the other end must prove who it is"),     \
        PROP_STR("priority", TlsCreds, priority, NULL,                                                   \
                 "GnuTLS' priority string: protocols and ciphers allowed")

static const Property x509_properties[] = {
    COMMON_PROPERTIES,
    PROP_BOOL("sanity-check", TlsCreds, sanity_check, true, "look at the certificates' dates at once"),
    PROP_STR("passwordid", TlsCreds, password_id, NULL, "the secret that the key's file is encrypted with"),
    PROP_END,
};
static const Property psk_properties[] = {
    COMMON_PROPERTIES,
    PROP_STR("username", TlsCreds, username, NULL, "the client's name (qemu)"),
    PROP_END,
};
static const Property anon_properties[] = { COMMON_PROPERTIES, PROP_END };

static bool is_server(const TlsCreds *c)
{
    return c->endpoint == 1;
}

/* The path of a file that must be there, or may (NULL without an error). Caller frees. */
static char *file_of(const TlsCreds *c, const char *name, bool required, GError **error)
{
    char *path = g_build_filename(c->dir, name, NULL);

    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        if (required) {
            error_set_errno(error, ENOENT, "Unable to access credentials %s", path);
        }
        g_clear_pointer(&path, g_free);
    }
    return path;
}

static bool check_dates(const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;
    gnutls_x509_crt_t certs[16];
    unsigned count = G_N_ELEMENTS(certs);
    time_t now = time(NULL);
    gsize size;
    bool ok = true;
    int ret;

    if (!g_file_get_contents(path, &text, &size, &why) || size > CERT_BYTES_MAX) {
        return error_set(error, "Unable to read certificate %s: %s", path,
                         why ? why->message : "it is too large");
    }
    ret = gnutls.x509_crt_list_import(
        certs, &count, &(gnutls_datum_t){ (unsigned char *)text, (unsigned)size }, GNUTLS_X509_FMT_PEM, 0);
    if (ret < 0) {
        return error_set(error, "Unable to import certificate %s: %s", path, gnutls.strerror(ret));
    }
    for (int i = 0; i < ret; i++) {
        if (ok && gnutls.x509_crt_get_expiration_time(certs[i]) < now) {
            ok = error_set(error, "The certificate %s has expired", path);
        } else if (ok && gnutls.x509_crt_get_activation_time(certs[i]) > now) {
            ok = error_set(error, "The certificate %s is not yet active", path);
        }
        gnutls.x509_crt_deinit(certs[i]);
    }
    return ok;
}

static Object *tree_root(Object *obj)
{
    while (obj->parent) {
        obj = obj->parent;
    }
    return obj;
}

static bool x509_complete(Object *obj, GError **error)
{
    TlsCreds *c = (TlsCreds *)obj;
    const char *side = is_server(c) ? "server" : "client";
    g_autofree char *cert_name = g_strconcat(side, "-cert.pem", NULL),
                    *key_name = g_strconcat(side, "-key.pem", NULL);
    g_autofree char *ca = NULL, *crl = NULL, *cert = NULL, *key = NULL, *password = NULL;
    int ret;

    c->kind = TLS_X509;
    if (!c->dir) {
        return error_set(error, "Missing 'dir' property value");
    }
    if (!library_load(&gnutls_library, error)) {
        return false;
    }
    ca = file_of(c, "ca-cert.pem", true, error);
    if (!ca) {
        return false;
    }
    crl = file_of(c, "ca-crl.pem", false, NULL);
    cert = file_of(c, cert_name, is_server(c), error);
    key = cert || is_server(c) ? file_of(c, key_name, true, error) : NULL;
    if ((is_server(c) && !cert) || ((cert || is_server(c)) && !key)) {
        return false;
    }
    if (c->sanity_check && (!check_dates(ca, error) || (cert && !check_dates(cert, error)))) {
        return false;
    }
    if (c->password_id) {
        const uint8_t *value;
        size_t size;

        if (!secret_value(tree_root(obj), c->password_id, &value, &size, error)) {
            return false;
        }
        password = g_strndup((const char *)value, size);
    }
    ret = gnutls.certificate_allocate_credentials(&c->x509);
    if (ret < 0) {
        return error_set(error, "Cannot allocate credentials: %s", gnutls.strerror(ret));
    }
    ret = gnutls.certificate_set_x509_trust_file(c->x509, ca, GNUTLS_X509_FMT_PEM);
    if (ret < 0) {
        return error_set(error, "Cannot load CA certificate '%s': %s", ca, gnutls.strerror(ret));
    }
    ret = crl ? gnutls.certificate_set_x509_crl_file(c->x509, crl, GNUTLS_X509_FMT_PEM) : 0;
    if (ret < 0) {
        return error_set(error, "Cannot load CRL '%s': %s", crl, gnutls.strerror(ret));
    }
    ret = cert ? gnutls.certificate_set_x509_key_file2(c->x509, cert, key, GNUTLS_X509_FMT_PEM, password, 0)
               : 0;
    if (password) {
        explicit_bzero(password, strlen(password));
    }
    if (ret < 0) {
        return error_set(error, "Cannot load certificate '%s' & key '%s': %s", cert, key,
                         gnutls.strerror(ret));
    }
    if (is_server(c)) {
        gnutls.certificate_set_known_dh_params(c->x509, GNUTLS_SEC_PARAM_MEDIUM);
    }
    return true;
}

/* The key of a user in "user:hex" lines; caller frees. */
static char *psk_lookup(const char *path, const char *username, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;
    g_auto(GStrv) lines = NULL;
    size_t n = strlen(username);

    if (!g_file_get_contents(path, &text, NULL, &why)) {
        error_set(error, "Cannot open PSK file '%s': %s", path, why->message);
        return NULL;
    }
    lines = g_strsplit(text, "\n", -1);
    explicit_bzero(text, strlen(text));
    for (size_t i = 0; lines[i]; i++) {
        if (strncmp(lines[i], username, n) == 0 && lines[i][n] == ':') {
            return g_strdup(g_strchomp(lines[i] + n + 1));
        }
    }
    error_set(error, "Username %s not found in PSK file %s", username, path);
    return NULL;
}

static bool psk_complete(Object *obj, GError **error)
{
    TlsCreds *c = (TlsCreds *)obj;
    g_autofree char *path = NULL, *key = NULL;
    int ret;

    c->kind = TLS_PSK;
    if (!c->dir) {
        return error_set(error, "Missing 'dir' property value");
    }
    if (is_server(c) && c->username) {
        return error_set(error, "username should not be set when endpoint=server");
    }
    path = file_of(c, "keys.psk", true, error);
    if (!path || !library_load(&gnutls_library, error)) {
        return false;
    }
    if (is_server(c)) {
        ret = gnutls.psk_allocate_server_credentials(&c->psk_server);
        ret = ret < 0 ? ret : gnutls.psk_set_server_credentials_file(c->psk_server, path);
        ret = ret < 0 ? ret : gnutls.psk_set_server_known_dh_params(c->psk_server, GNUTLS_SEC_PARAM_MEDIUM);
    } else {
        const char *user = tls_creds_username(c);

        key = psk_lookup(path, user, error);
        if (!key) {
            return false;
        }
        ret = gnutls.psk_allocate_client_credentials(&c->psk_client);
        ret = ret < 0
                  ? ret
                  : gnutls.psk_set_client_credentials(
                        c->psk_client, user, &(gnutls_datum_t){ (unsigned char *)key, (unsigned)strlen(key) },
                        GNUTLS_PSK_KEY_HEX);
        explicit_bzero(key, strlen(key));
    }
    return ret >= 0 || error_set(error, "Cannot use PSK file '%s': %s", path, gnutls.strerror(ret));
}

static bool anon_complete(Object *obj, GError **error)
{
    TlsCreds *c = (TlsCreds *)obj;
    int ret;

    c->kind = TLS_ANON;
    if (!library_load(&gnutls_library, error)) {
        return false;
    }
    if (is_server(c)) {
        ret = gnutls.anon_allocate_server_credentials(&c->anon_server);
        ret = ret < 0 ? ret : gnutls.anon_set_server_known_dh_params(c->anon_server, GNUTLS_SEC_PARAM_MEDIUM);
    } else {
        ret = gnutls.anon_allocate_client_credentials(&c->anon_client);
    }
    return ret >= 0 || error_set(error, "Cannot allocate credentials: %s", gnutls.strerror(ret));
}

static void creds_finalize(Object *obj)
{
    TlsCreds *c = (TlsCreds *)obj;

    g_clear_pointer(&c->x509, gnutls.certificate_free_credentials);
    g_clear_pointer(&c->psk_server, gnutls.psk_free_server_credentials);
    g_clear_pointer(&c->psk_client, gnutls.psk_free_client_credentials);
    g_clear_pointer(&c->anon_server, gnutls.anon_free_server_credentials);
    g_clear_pointer(&c->anon_client, gnutls.anon_free_client_credentials);
}

static const UserCreatableOps x509_ops = { .complete = x509_complete },
                              psk_ops = { .complete = psk_complete },
                              anon_ops = { .complete = anon_complete };

static void x509_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, x509_properties);
    user_creatable_class_set(klass, &x509_ops);
}

static void psk_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, psk_properties);
    user_creatable_class_set(klass, &psk_ops);
}

static void anon_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, anon_properties);
    user_creatable_class_set(klass, &anon_ops);
}

#define TYPE_TLS_CREDS "tls-creds"
static const TypeInfo creds_info = {
    .name = TYPE_TLS_CREDS,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(TlsCreds),
    .instance_finalize = creds_finalize,
    .abstract = true,
};
TYPE_REGISTER(creds_info);

static const TypeInfo x509_info = {
    .name = "tls-creds-x509",
    .parent = TYPE_TLS_CREDS,
    .description = "TLS with certificates",
    .instance_size = sizeof(TlsCreds),
    .class_init = x509_class_init,
    .interfaces = (const char *const[]){ TYPE_USER_CREATABLE, NULL },
};
TYPE_REGISTER(x509_info);

static const TypeInfo psk_info = {
    .name = "tls-creds-psk",
    .parent = TYPE_TLS_CREDS,
    .description = "TLS with keys that both ends know",
    .instance_size = sizeof(TlsCreds),
    .class_init = psk_class_init,
    .interfaces = (const char *const[]){ TYPE_USER_CREATABLE, NULL },
};
TYPE_REGISTER(psk_info);

static const TypeInfo anon_info = {
    .name = "tls-creds-anon",
    .parent = TYPE_TLS_CREDS,
    .description = "TLS between ends that do not know each other",
    .instance_size = sizeof(TlsCreds),
    .class_init = anon_class_init,
    .interfaces = (const char *const[]){ TYPE_USER_CREATABLE, NULL },
};
TYPE_REGISTER(anon_info);

TlsCreds *tls_creds_find(Object *root, const char *id, bool server, GError **error)
{
    Object *obj = root ? object_resolve_path_component(container_get(root, "/objects"), id) : NULL;
    TlsCreds *c = object_dynamic_cast(obj, TYPE_TLS_CREDS);

    if (!obj) {
        error_set(error, "No TLS credentials with id '%s'", id);
        return NULL;
    }
    if (!c) {
        error_set(error, "Object with id '%s' is not TLS credentials", id);
        return NULL;
    }
    if (is_server(c) != server) {
        error_set(error, "Expecting TLS credentials with a %s endpoint", server ? "server" : "client");
        return NULL;
    }
    return c;
}

TlsKind tls_creds_kind(const TlsCreds *c)
{
    return c->kind;
}

const char *tls_creds_dir(const TlsCreds *c)
{
    return c->dir;
}

const char *tls_creds_username(const TlsCreds *c)
{
    return c->username ? c->username : "qemu";
}

bool tls_creds_verify_peer(const TlsCreds *c)
{
    return c->verify_peer;
}

/* ---- sessions ---- */

struct TlsSession {
    TlsCreds *creds; /* counted */
    gnutls_session_t session;
    char *hostname, *peer;
    bool established;
    uint8_t *record; /* what gnutls.record_send() wants to be called with again */
    size_t record_bytes;
};

TlsSession *tls_session_new(TlsCreds *creds, int fd, const char *hostname, GError **error)
{
    static const char *const more[] = {
        [TLS_X509] = "", [TLS_PSK] = ":+ECDHE-PSK:+DHE-PSK:+PSK", [TLS_ANON] = ":+ANON-ECDH:+ANON-DH"
    };
    g_autofree char *priority =
        g_strconcat(creds->priority ? creds->priority : "NORMAL", more[creds->kind], NULL);
    TlsSession *s = g_new0(TlsSession, 1);
    const char *bad = NULL;
    int ret = gnutls.init(&s->session, (is_server(creds) ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
                                           GNUTLS_NO_SIGNAL);

    s->creds = creds;
    object_ref(OBJECT(creds));
    s->hostname = g_strdup(hostname);
    s->record = g_malloc(RECORD_BYTES);
    if (ret < 0) {
        s->session = NULL;
    } else {
        ret = gnutls.priority_set_direct(s->session, priority, &bad);
    }
    if (ret < 0) {
        error_set(error, "Unable to set TLS session priority '%s': %s", priority, gnutls.strerror(ret));
        tls_session_free(s);
        return NULL;
    }
    switch (creds->kind) {
    case TLS_X509:
        ret = gnutls.credentials_set(s->session, GNUTLS_CRD_CERTIFICATE, creds->x509);
        if (is_server(creds)) {
            gnutls.certificate_server_set_request(s->session, creds->verify_peer ? GNUTLS_CERT_REQUEST
                                                                                 : GNUTLS_CERT_IGNORE);
        } else if (hostname) {
            gnutls.server_name_set(s->session, GNUTLS_NAME_DNS, hostname, strlen(hostname));
        }
        break;
    case TLS_PSK:
        ret =
            gnutls.credentials_set(s->session, GNUTLS_CRD_PSK,
                                   is_server(creds) ? (void *)creds->psk_server : (void *)creds->psk_client);
        break;
    case TLS_ANON:
        ret = gnutls.credentials_set(s->session, GNUTLS_CRD_ANON,
                                     is_server(creds) ? (void *)creds->anon_server
                                                      : (void *)creds->anon_client);
        break;
    }
    if (ret < 0) {
        error_set(error, "Cannot set session credentials: %s", gnutls.strerror(ret));
        tls_session_free(s);
        return NULL;
    }
    gnutls.transport_set_int2(s->session, fd, fd);
    gnutls.handshake_set_timeout(s->session, 0);
    return s;
}

void tls_session_free(TlsSession *s)
{
    if (!s) {
        return;
    }
    if (s->session) {
        if (s->established) {
            gnutls.bye(s->session, GNUTLS_SHUT_WR);
        }
        gnutls.deinit(s->session);
    }
    object_unref(OBJECT(s->creds));
    explicit_bzero(s->record, RECORD_BYTES);
    g_free(s->record);
    g_free(s->hostname);
    g_free(s->peer);
    g_free(s);
}

static bool check_certificate(TlsSession *s, GError **error)
{
    const gnutls_datum_t *chain;
    unsigned count = 0, status = 0;
    gnutls_x509_crt_t cert;
    gnutls_datum_t name = { 0 };
    int ret;

    if (!s->creds->verify_peer) {
        return true;
    }
    if (!is_server(s->creds) && !s->hostname) {
        return error_set(error, "No hostname for certificate validation");
    }
    ret = gnutls.certificate_verify_peers3(s->session, s->hostname, &status);
    if (ret < 0) {
        return error_set(error,
                         is_server(s->creds) && ret == GNUTLS_E_NO_CERTIFICATE_FOUND
                             ? "No certificate was found: the client must show one"
                             : "Verify failed: %s",
                         gnutls.strerror(ret));
    }
    if (status) {
        gnutls_datum_t text = { 0 };

        gnutls.certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
        error_set(error, "%s", text.data ? g_strchomp((char *)text.data) : "The certificate is not trusted");
        free(text.data);
        return false;
    }
    chain = gnutls.certificate_get_peers(s->session, &count);
    if (!chain || !count) {
        return error_set(error, "No certificate peers");
    }
    if (gnutls.x509_crt_init(&cert) < 0) {
        return error_set(error, "Failed to initialize certificate");
    }
    ret = gnutls.x509_crt_import(cert, chain, GNUTLS_X509_FMT_DER);
    ret = ret < 0 ? ret : gnutls.x509_crt_get_dn2(cert, &name);
    if (ret >= 0) {
        s->peer = g_strndup((char *)name.data, name.size);
    }
    free(name.data);
    gnutls.x509_crt_deinit(cert);
    return ret >= 0 || error_set(error, "Cannot get client distinguished name: %s", gnutls.strerror(ret));
}

int tls_handshake(TlsSession *s, bool *wants_write, GError **error)
{
    int ret;

    do {
        ret = gnutls.handshake(s->session);
    } while (ret < 0 && ret != GNUTLS_E_AGAIN && !gnutls.error_is_fatal(ret));
    *wants_write = gnutls.record_get_direction(s->session) == 1;
    if (ret == GNUTLS_E_AGAIN) {
        return 0;
    }
    if (ret < 0) {
        error_set(error, "TLS handshake failed: %s", gnutls.strerror(ret));
        return -1;
    }
    s->established = true;
    if (s->creds->kind == TLS_PSK && is_server(s->creds)) {
        s->peer = g_strdup(gnutls.psk_server_get_username(s->session));
    }
    return s->creds->kind == TLS_X509 && !check_certificate(s, error) ? -1 : 1;
}

static ssize_t error_number(ssize_t ret)
{
    switch (ret) {
    case GNUTLS_E_AGAIN:
        return -EAGAIN;
    case GNUTLS_E_INTERRUPTED:
        return -EINTR;
    case GNUTLS_E_PREMATURE_TERMINATION:
        return -ECONNRESET;
    default:
        return -EIO;
    }
}

ssize_t tls_recv(TlsSession *s, void *buf, size_t size)
{
    ssize_t n;

    do {
        n = gnutls.record_recv(s->session, buf, size);
    } while (n < 0 && n != GNUTLS_E_AGAIN && n != GNUTLS_E_INTERRUPTED && n != GNUTLS_E_REHANDSHAKE &&
             !gnutls.error_is_fatal((int)n));
    return n < 0 ? error_number(n) : n;
}

ssize_t tls_sendv(TlsSession *s, const struct iovec *iov, int count)
{
    ssize_t n;

    /* One record at a time. After -EAGAIN the caller comes with the same bytes, and more behind them perhaps.
     */
    for (int i = 0; !s->record_bytes && i < count; i++) {
        size_t room = RECORD_BYTES;

        for (; i < count && room; i++) {
            size_t part = MIN(room, iov[i].iov_len);

            memcpy(s->record + (RECORD_BYTES - room), iov[i].iov_base, part);
            room -= part;
        }
        s->record_bytes = RECORD_BYTES - room;
    }
    if (!s->record_bytes) {
        return 0;
    }
    n = gnutls.record_send(s->session, s->record, s->record_bytes);
    if (n < 0) {
        return error_number(n);
    }
    s->record_bytes = 0;
    return n;
}

const char *tls_peer_name(const TlsSession *s)
{
    return s->peer;
}
