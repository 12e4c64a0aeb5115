/*
 * Encryption of qcow2: LUKS (its header lies in clusters of the image, sectors are numbered as they lie in
 * the file) and, of old images, AES (the password itself is the key, sectors are numbered as the guest sees
 * them). Guest data and VM state are encrypted; tables, names and compressed clusters are not.
 *
 * 1. Requests that touch data are whole sectors of 512 bytes (qcow2_open turns any_alignment off).
 * 2. A cluster that was never written reads as anything but zeroes: take_clusters() calls none fresh, and
 * nobody asks the file whether it has zeroes there.
 * 3. What goes to the file and into the journal is encrypted before: qcow2_keep_data() never sees plain text.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include "block/formats/crypto/luks.h"

#include <errno.h>
#include <string.h>

#define PIECE (1u << 20)

static bool open_aes(Qcow2Node *s, GError **error)
{
    static const CryptoSpec spec = { CRYPTO_AES_128, CRYPTO_CBC, CRYPTO_IV_PLAIN64, CRYPTO_SHA256 };
    uint8_t key[16] = { 0 };
    const uint8_t *password;
    size_t bytes;

    if (!luks_secret(s->node.graph, s->key_secret, "encrypt.", &password, &bytes, error)) {
        return false;
    }
    memcpy(key, password, MIN(bytes, sizeof(key)));
    s->crypt = crypto_volume_new(&spec, key, sizeof(key), error);
    s->crypt_by_guest = true;
    explicit_bzero(key, sizeof(key));
    return s->crypt != NULL;
}

static bool load_luks(Qcow2Node *s, GError **error)
{
    if (!s->h.has_crypto) {
        return error_set(error, "CRYPTO header extension missing for LUKS encryption method");
    }
    s->luks = g_new0(LuksHeader, 1);
    if (s->h.crypto_size < LUKS_HEADER_BYTES ||
        !luks_load(s->luks, s->node.file, s->h.crypto_offset, error)) {
        return (error && *error) || error_set(error, "The image's encryption header is too small");
    }
    if ((uint64_t)s->luks->payload_sectors * CRYPTO_SECTOR > s->h.crypto_size) {
        return error_set(error,
                         "The image's encryption header needs %u sectors and has %" G_GUINT64_FORMAT " bytes",
                         s->luks->payload_sectors, s->h.crypto_size);
    }
    return true;
}

static bool open_luks(Qcow2Node *s, GError **error)
{
    uint8_t key[CRYPTO_MAX_KEY];
    const uint8_t *password;
    size_t bytes;

    if (!luks_secret(s->node.graph, s->key_secret, "encrypt.", &password, &bytes, error) ||
        !luks_unlock(s->luks, s->node.file, s->h.crypto_offset, password, bytes, key, error)) {
        return false;
    }
    s->crypt = crypto_volume_new(&s->luks->spec, key, s->luks->key_bytes, error);
    explicit_bzero(key, sizeof(key));
    return s->crypt != NULL;
}

bool qcow2_encrypt_open(Qcow2Node *s, GError **error)
{
    bool look_only = s->node.open_flags & (BLOCK_OPEN_NO_IO | BLOCK_OPEN_CHECK);
    const char *header = s->h.crypt_method == 1 ? "aes" : "luks";

    if (!s->h.crypt_method) {
        return !s->key_format ||
               error_set(error, "No encryption in image header, but options specified format '%s'",
                         s->key_format);
    }
    if (s->key_format && strcmp(s->key_format, header) != 0) {
        return error_set(error, "Header reported '%s' encryption format but options specify '%s'", header,
                         s->key_format);
    }
    s->node.encrypted = true;
    s->node.any_alignment = false;
    if (s->h.crypt_method == 2 && !load_luks(s, error)) {
        return false;
    }
    if (look_only) { /* no data is read or written */
        return true;
    }
    return s->h.crypt_method == 1 ? open_aes(s, error) : open_luks(s, error);
}

void qcow2_encrypt_close(Qcow2Node *s)
{
    crypto_volume_free(s->crypt);
    s->crypt = NULL;
    g_clear_pointer(&s->luks, g_free);
    s->crypt_by_guest = false;
}

json_object *qcow2_encrypt_info(Qcow2Node *s)
{
    json_object *o = s->luks ? luks_info(s->luks) : json_object_new_object();

    json_object_object_add(o, "format", json_object_new_string(s->h.crypt_method == 1 ? "aes" : "luks"));
    return o;
}

/* ---- data ---- */

static uint64_t sector_of(const Qcow2Node *s, uint64_t guest, uint64_t host)
{
    return (s->crypt_by_guest ? guest : host) / CRYPTO_SECTOR;
}

void qcow2_encrypt(Qcow2Node *s, uint64_t guest, uint64_t host, uint8_t *buf, uint64_t bytes)
{
    crypto_run(s->crypt, true, sector_of(s, guest, host), buf, bytes);
}

int qcow2_read_encrypted(Qcow2Node *s, uint64_t guest, uint64_t host, uint64_t bytes, const BlockVec *vec,
                         uint64_t from)
{
    BlockChild *child = qcow2_data(s);
    uint64_t skip = host % CRYPTO_SECTOR, room;
    uint8_t *buf;
    int ret = 0;

    host -= skip; /* a disk may end inside a sector */
    guest -= skip;
    bytes += skip;
    room = MIN((bytes + CRYPTO_SECTOR - 1) & ~(uint64_t)(CRYPTO_SECTOR - 1), PIECE);
    buf = block_buffer_try(child, room);
    if (!buf) {
        return -ENOMEM;
    }
    while (bytes && ret >= 0) {
        uint64_t n = MIN(bytes, room), whole = (n + CRYPTO_SECTOR - 1) & ~(uint64_t)(CRYPTO_SECTOR - 1);
        uint64_t size = block_size(child), there = host < size ? MIN(whole, size - host) : 0;

        memset(buf + there, 0, whole - there);
        ret = there ? block_co_pread(child, host, there, buf, 0) : 0;
        if (ret >= 0) {
            crypto_run(s->crypt, false, sector_of(s, guest, host), buf, whole);
            block_vec_write(vec, from, buf + skip, n - skip);
        }
        from += n - skip;
        skip = 0;
        guest += n;
        host += n;
        bytes -= n;
    }
    g_aligned_free(buf);
    return ret < 0 ? ret : 0;
}

/* ---- changing ---- */

static bool has_any(json_object *options, const char *const *names)
{
    for (; *names; names++) {
        if (json_object_object_get_ex(options, *names, NULL)) {
            return true;
        }
    }
    return false;
}

bool qcow2_encrypt_amend(Qcow2Node *s, json_object *options, bool force, GError **error)
{
    static const char *const names[] = { "encrypt.state",      "encrypt.keyslot",   "encrypt.old-secret",
                                         "encrypt.new-secret", "encrypt.iter-time", NULL };

    if (!has_any(options, names)) {
        return true;
    }
    if (!s->luks) {
        return error_set(error,
                         "Only LUKS encryption options can be amended for qcow2 with an encryption format");
    }
    return luks_amend(s->luks, s->node.file, s->h.crypto_offset, s->node.graph, options, "encrypt.",
                      s->key_secret, force, error);
}
