/* LUKS version 1 headers; see luks.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/formats/crypto/luks.h"

#include "base/error.h"
#include "object/secret.h"

#include <errno.h>
#include <string.h>

#define SLOT_ACTIVE   0x00ac71f3u
#define SLOT_INACTIVE 0x0000deadu
#define MIN_ITERATION 1000u
#define ERASE_PASSES  40
#define POOL_BYTES    (32u << 10) /* from here on it is worth a thread */

static const char magic[6] = { 'L', 'U', 'K', 'S', (char)0xba, (char)0xbe };

static uint32_t be32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT32_FROM_BE(v);
}

static void put32(uint8_t *p, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    memcpy(p, &v, sizeof(v));
}

int luks_probe(const uint8_t *head, size_t size, const char *filename)
{
    return size >= 8 && memcmp(head, magic, sizeof(magic)) == 0 && head[6] == 0 && head[7] == 1 ? 100 : 0;
}

/* ---- the bytes ---- */

/* Families of ciphers as LUKS names them; the key's size tells the rest. */
static const struct {
    const char *name;
    CryptoAlg first, last;
} families[] = { { "aes", CRYPTO_AES_128, CRYPTO_AES_256 },
                 { "cast5", CRYPTO_CAST5_128, CRYPTO_CAST5_128 },
                 { "serpent", CRYPTO_SERPENT_128, CRYPTO_SERPENT_256 },
                 { "twofish", CRYPTO_TWOFISH_128, CRYPTO_TWOFISH_256 } };

static bool text_field(const uint8_t *at, char out[33], const char *what, GError **error)
{
    if (!memchr(at, 0, 32)) {
        return error_set(error, "LUKS header %s is not NUL terminated", what);
    }
    g_strlcpy(out, (const char *)at, 33);
    for (char *c = out; *c; c++) {
        *c = g_ascii_isprint(*c) ? *c : '?'; /* it may come to a terminal */
    }
    return true;
}

static bool find_cipher(LuksHeader *h, const char *name, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(families); i++) {
        for (int alg = (int)families[i].first;
             strcmp(name, families[i].name) == 0 && alg <= (int)families[i].last; alg++) {
            h->spec.alg = (CryptoAlg)alg;
            if (crypto_key_bytes(&h->spec) == h->key_bytes) {
                return true;
            }
        }
        if (strcmp(name, families[i].name) == 0) {
            return error_set(error, "Algorithm '%s' with key size %u bytes not supported", name,
                             h->key_bytes);
        }
    }
    return error_set(error, "Algorithm '%s' not supported", name);
}

/* "xts-plain64", "cbc-essiv:sha256" */
static bool parse_mode(LuksHeader *h, const char *text, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, "-", 2);
    char *colon;
    int n;

    if (!parts[0] || !parts[1]) {
        return error_set(error, "Unexpected cipher mode string format '%s'", text);
    }
    colon = strchr(parts[1], ':');
    if (colon) {
        *colon++ = '\0';
    }
    n = crypto_name_find(crypto_mode_names, parts[0]);
    if (n < 0) {
        return error_set(error, "Cipher mode '%s' not supported", parts[0]);
    }
    h->spec.mode = (CryptoMode)n;
    n = crypto_name_find(crypto_iv_names, parts[1]);
    if (n < 0) {
        return error_set(error, "IV generator '%s' not supported", parts[1]);
    }
    h->spec.iv = (CryptoIv)n;
    if (h->spec.iv == CRYPTO_IV_ESSIV) {
        if (!colon) {
            return error_set(error, "Missing IV generator hash specification");
        }
        n = crypto_name_find(crypto_hash_names, colon);
        if (n < 0) {
            return error_set(error, "Hash algorithm '%s' not supported", colon);
        }
        h->spec.iv_hash = (CryptoHash)n;
    }
    return true;
}

static uint32_t material_sectors(uint32_t key_bytes, uint32_t stripes)
{
    return (key_bytes * stripes + CRYPTO_SECTOR - 1) / CRYPTO_SECTOR;
}

static bool check_slots(const LuksHeader *h, GError **error)
{
    uint64_t need = material_sectors(h->key_bytes, LUKS_STRIPES);

    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        const LuksSlot *s = &h->slots[i];
        uint64_t start = s->offset_sectors, end = start + need;

        if (s->stripes != LUKS_STRIPES) {
            return error_set(error, "Keyslot %u is corrupted (stripes %u != %u)", i, s->stripes,
                             LUKS_STRIPES);
        }
        if (start < (LUKS_HEADER_BYTES + CRYPTO_SECTOR - 1) / CRYPTO_SECTOR) {
            return error_set(error, "Keyslot %u is overlapping with the LUKS header", i);
        }
        if (end > h->payload_sectors) {
            return error_set(error, "Keyslot %u is overlapping with the encrypted payload", i);
        }
        if (s->active && !s->iterations) {
            return error_set(error, "Keyslot %u iteration count is zero", i);
        }
        for (uint32_t j = i + 1; j < LUKS_SLOTS; j++) {
            uint64_t other = h->slots[j].offset_sectors;

            if (start < other + need && other < end) {
                return error_set(error, "Keyslots %u and %u are overlapping in the header", i, j);
            }
        }
    }
    return true;
}

bool luks_header_decode(LuksHeader *h, const uint8_t data[LUKS_HEADER_BYTES], GError **error)
{
    char cipher[33], mode[33], hash[33];
    int n;

    memset(h, 0, sizeof(*h));
    if (memcmp(data, magic, sizeof(magic)) != 0) {
        return error_set(error, "Volume is not in LUKS format");
    }
    if (data[6] != 0 || data[7] != 1) {
        return error_set(error, "LUKS version %u is not supported", data[6] << 8 | data[7]);
    }
    if (!crypto_load(error) || !text_field(data + 8, cipher, "cipher name", error) ||
        !text_field(data + 40, mode, "cipher mode", error) ||
        !text_field(data + 72, hash, "hash spec", error)) {
        return false;
    }
    h->payload_sectors = be32(data + 104);
    h->key_bytes = be32(data + 108);
    memcpy(h->digest, data + 112, 20);
    memcpy(h->digest_salt, data + 132, 32);
    h->digest_iterations = be32(data + 164);
    memcpy(h->uuid, data + 168, 40);
    for (char *c = h->uuid; *c; c++) {
        *c = g_ascii_isprint(*c) ? *c : '?';
    }
    if (h->payload_sectors < (LUKS_HEADER_BYTES + CRYPTO_SECTOR - 1) / CRYPTO_SECTOR) {
        return error_set(error, "LUKS payload is overlapping with the header");
    }
    if (!h->digest_iterations) {
        return error_set(error, "LUKS key iteration count is zero");
    }
    if (!h->key_bytes || h->key_bytes > CRYPTO_MAX_KEY) {
        return error_set(error, "LUKS header has a master key of %u bytes", h->key_bytes);
    }
    if (!parse_mode(h, mode, error) || !find_cipher(h, cipher, error)) {
        return false;
    }
    n = crypto_name_find(crypto_hash_names, hash);
    if (n < 0) {
        return error_set(error, "Hash algorithm '%s' not supported", hash);
    }
    h->hash = (CryptoHash)n;
    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        const uint8_t *at = data + 208 + (size_t)i * 48;
        uint32_t active = be32(at);

        if (active != SLOT_ACTIVE && active != SLOT_INACTIVE) {
            return error_set(error, "Keyslot %u state (active/disable) is corrupted", i);
        }
        h->slots[i].active = active == SLOT_ACTIVE;
        h->slots[i].iterations = be32(at + 4);
        memcpy(h->slots[i].salt, at + 8, 32);
        h->slots[i].offset_sectors = be32(at + 40);
        h->slots[i].stripes = be32(at + 44);
    }
    return check_slots(h, error);
}

void luks_header_encode(const LuksHeader *h, uint8_t data[LUKS_HEADER_BYTES])
{
    const char *family = "";
    g_autofree char *mode =
        h->spec.iv == CRYPTO_IV_ESSIV
            ? g_strdup_printf("%s-%s:%s", crypto_mode_names[h->spec.mode], crypto_iv_names[h->spec.iv],
                              crypto_hash_names[h->spec.iv_hash])
            : g_strdup_printf("%s-%s", crypto_mode_names[h->spec.mode], crypto_iv_names[h->spec.iv]);

    for (size_t i = 0; i < G_N_ELEMENTS(families); i++) {
        if (h->spec.alg >= families[i].first && h->spec.alg <= families[i].last) {
            family = families[i].name;
        }
    }
    memset(data, 0, LUKS_HEADER_BYTES);
    memcpy(data, magic, sizeof(magic));
    data[7] = 1;
    g_strlcpy((char *)data + 8, family, 32);
    g_strlcpy((char *)data + 40, mode, 32);
    g_strlcpy((char *)data + 72, crypto_hash_names[h->hash], 32);
    put32(data + 104, h->payload_sectors);
    put32(data + 108, h->key_bytes);
    memcpy(data + 112, h->digest, 20);
    memcpy(data + 132, h->digest_salt, 32);
    put32(data + 164, h->digest_iterations);
    memcpy(data + 168, h->uuid, strlen(h->uuid));
    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        uint8_t *at = data + 208 + (size_t)i * 48;

        put32(at, h->slots[i].active ? SLOT_ACTIVE : SLOT_INACTIVE);
        put32(at + 4, h->slots[i].iterations);
        memcpy(at + 8, h->slots[i].salt, 32);
        put32(at + 40, h->slots[i].offset_sectors);
        put32(at + 44, h->slots[i].stripes);
    }
}

/* ---- work that takes long ---- */

typedef struct Crypt {
    const CryptoVolume *volume;
    bool encrypt;
    uint64_t sector;
    uint8_t *buf;
    size_t bytes;
} Crypt;

static ssize_t do_crypt(void *opaque)
{
    Crypt *c = opaque;

    (c->encrypt ? crypto_volume_encrypt : crypto_volume_decrypt)(c->volume, c->sector, c->buf, c->bytes);
    return 0;
}

void crypto_run(const CryptoVolume *volume, bool encrypt, uint64_t sector, uint8_t *buf, size_t bytes)
{
    Crypt c = { volume, encrypt, sector, buf, bytes };

    if (bytes >= POOL_BYTES && in_coroutine() && loop_current()) {
        co_work(loop_current(), do_crypt, &c);
    } else {
        do_crypt(&c);
    }
}

typedef struct Derive {
    CryptoHash hash;
    const uint8_t *password, *salt;
    size_t password_bytes, out_bytes;
    uint32_t iterations;
    uint8_t *out;
    uint64_t milliseconds, measured; /* measure in place of deriving where milliseconds is not 0 */
} Derive;

static ssize_t do_derive(void *opaque)
{
    Derive *d = opaque;

    if (d->milliseconds) {
        d->measured = crypto_pbkdf2_measure(d->hash, d->out_bytes, d->milliseconds);
    } else {
        crypto_pbkdf2(d->hash, d->password, d->password_bytes, d->salt, 32, d->iterations, d->out,
                      d->out_bytes);
    }
    return 0;
}

static void derive(Derive *d)
{
    if (in_coroutine() && loop_current()) {
        co_work(loop_current(), do_derive, d);
    } else {
        do_derive(d);
    }
}

static uint32_t iterations_for(CryptoHash hash, size_t out_bytes, uint64_t milliseconds)
{
    Derive d = { .hash = hash, .out_bytes = out_bytes, .milliseconds = MAX(milliseconds, 1) };

    derive(&d);
    return (uint32_t)CLAMP(d.measured, MIN_ITERATION, LUKS_MAX_ITERATION);
}

static void key_digest(const LuksHeader *h, const uint8_t *key, uint8_t digest[20])
{
    Derive d = { .hash = h->hash,
                 .password = key,
                 .password_bytes = h->key_bytes,
                 .salt = h->digest_salt,
                 .iterations = h->digest_iterations,
                 .out = digest,
                 .out_bytes = 20 };

    derive(&d);
}

/* ---- slots ---- */

bool luks_load(LuksHeader *h, BlockChild *file, uint64_t base, GError **error)
{
    uint8_t data[LUKS_HEADER_BYTES] = { 0 };
    uint64_t size = block_size(file);
    int ret;

    if (base > size || size - base < LUKS_HEADER_BYTES) {
        return error_set(error, "The file is too small for a LUKS header");
    }
    ret = blk_pread(file, base, sizeof(data), data, 0);
    return ret >= 0 ? luks_header_decode(h, data, error)
                    : error_set_errno(error, -ret, "Unable to read LUKS header");
}

/* The key in the slot with that password into key. 1: it is; 0: not with that password; -1: an error. */
static int try_slot(const LuksHeader *h, uint32_t n, BlockChild *file, uint64_t base, const uint8_t *password,
                    size_t password_bytes, uint8_t *key, GError **error)
{
    const LuksSlot *slot = &h->slots[n];
    size_t split_bytes = (size_t)h->key_bytes * slot->stripes,
           room = (size_t)material_sectors(h->key_bytes, slot->stripes) * CRYPTO_SECTOR;
    uint8_t derived[CRYPTO_MAX_KEY], digest[20];
    uint64_t at = base + (uint64_t)slot->offset_sectors * CRYPTO_SECTOR, size = block_size(file);
    CryptoVolume *volume;
    uint8_t *split;
    int ret;
    Derive d = { .hash = h->hash,
                 .password = password,
                 .password_bytes = password_bytes,
                 .salt = slot->salt,
                 .iterations = slot->iterations,
                 .out = derived,
                 .out_bytes = h->key_bytes };

    if (!slot->active) {
        return 0;
    }
    if (slot->iterations > LUKS_MAX_ITERATION || h->digest_iterations > LUKS_MAX_ITERATION) {
        error_set(error,
                  "Keyslot %u asks for %u iterations to make its key, which is more than this program does",
                  n, MAX(slot->iterations, h->digest_iterations));
        return -1;
    }
    if (at > size || size - at < split_bytes) {
        error_set(error, "Keyslot %u lies behind the end of the file", n);
        return -1;
    }
    split = g_malloc0(room);
    ret = blk_pread(file, at, MIN(room, size - at), split, 0);
    if (ret < 0) {
        g_free(split);
        error_set_errno(error, -ret, "Failed to read key material");
        return -1;
    }
    derive(&d);
    volume = crypto_volume_new(&h->spec, derived, h->key_bytes, error);
    if (volume) {
        /* Whole sectors: the last one may go on behind the material. */
        crypto_run(volume, false, 0, split, room);
        crypto_af_merge(h->hash, split, h->key_bytes, slot->stripes, key);
        key_digest(h, key, digest);
        ret = memcmp(digest, h->digest, sizeof(digest)) == 0;
        crypto_volume_free(volume);
    } else {
        ret = -1;
    }
    explicit_bzero(derived, sizeof(derived));
    explicit_bzero(split, room);
    g_free(split);
    return ret;
}

bool luks_unlock(const LuksHeader *h, BlockChild *file, uint64_t base, const uint8_t *password,
                 size_t password_bytes, uint8_t *key, GError **error)
{
    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        int ret = try_slot(h, i, file, base, password, password_bytes, key, error);

        if (ret) {
            return ret > 0;
        }
    }
    explicit_bzero(key, h->key_bytes);
    return error_set(error, "Invalid password, cannot unlock any keyslot");
}

static bool write_header(const LuksHeader *h, BlockChild *file, uint64_t base, GError **error)
{
    uint8_t data[LUKS_HEADER_BYTES];
    int ret;

    luks_header_encode(h, data);
    ret = blk_pwrite(file, base, sizeof(data), data, 0);
    ret = ret < 0 ? ret : blk_flush(file);
    return ret >= 0 || error_set_errno(error, -ret, "Unable to write encryption header");
}

/* Puts the master key into slot n under a password; the material first, then the header. */
static bool fill_slot(LuksHeader *h, uint32_t n, BlockChild *file, uint64_t base, const uint8_t *password,
                      size_t password_bytes, const uint8_t *key, uint64_t iter_time_ms, GError **error)
{
    LuksSlot *slot = &h->slots[n];
    size_t room = (size_t)material_sectors(h->key_bytes, slot->stripes) * CRYPTO_SECTOR;
    g_autofree uint8_t *split = g_malloc0(room);
    uint8_t derived[CRYPTO_MAX_KEY];
    CryptoVolume *volume;
    LuksSlot old = *slot;
    bool ok;
    int ret;
    Derive d = { .hash = h->hash,
                 .password = password,
                 .password_bytes = password_bytes,
                 .salt = slot->salt,
                 .out = derived,
                 .out_bytes = h->key_bytes };

    if (!crypto_random(slot->salt, sizeof(slot->salt), error) ||
        !crypto_af_split(h->hash, key, h->key_bytes, slot->stripes, split, error)) {
        *slot = old;
        return false;
    }
    d.iterations = slot->iterations = iterations_for(h->hash, h->key_bytes, iter_time_ms);
    derive(&d);
    volume = crypto_volume_new(&h->spec, derived, h->key_bytes, error);
    explicit_bzero(derived, sizeof(derived));
    ok = volume != NULL;
    if (ok) {
        crypto_run(volume, true, 0, split, room);
        ret = blk_pwrite(file, base + (uint64_t)slot->offset_sectors * CRYPTO_SECTOR, room, split, 0);
        ret = ret < 0 ? ret : blk_flush(file);
        ok = ret >= 0 || error_set_errno(error, -ret, "Unable to write key material");
    }
    crypto_volume_free(volume);
    slot->active = true;
    ok = ok && write_header(h, file, base, error);
    if (!ok) {
        *slot = old;
    }
    return ok;
}

/* The header first, so that nobody tries it any more; then the material, again and again. */
static bool erase_slot(LuksHeader *h, uint32_t n, BlockChild *file, uint64_t base, GError **error)
{
    LuksSlot *slot = &h->slots[n];
    size_t bytes = (size_t)material_sectors(h->key_bytes, slot->stripes) * CRYPTO_SECTOR;
    g_autofree uint8_t *garbage = g_malloc(bytes);
    int ret = 0;

    slot->active = false;
    slot->iterations = 0;
    memset(slot->salt, 0, sizeof(slot->salt));
    if (!write_header(h, file, base, error)) {
        return false;
    }
    for (int i = 0; i < ERASE_PASSES && ret >= 0; i++) {
        if (!crypto_random(garbage, bytes, error)) {
            return false;
        }
        ret = blk_pwrite(file, base + (uint64_t)slot->offset_sectors * CRYPTO_SECTOR, bytes, garbage, 0);
        ret = ret < 0 ? ret : blk_flush(file);
    }
    return ret >= 0 || error_set_errno(error, -ret, "Unable to erase keyslot");
}

/* ---- making ---- */

static uint32_t slot_step(uint32_t key_bytes)
{
    return (material_sectors(key_bytes, LUKS_STRIPES) + 7) & ~7u; /* whole pages */
}

uint64_t luks_create_payload(const LuksCreate *create)
{
    uint32_t step = slot_step((uint32_t)crypto_key_bytes(&create->spec));

    return LUKS_SLOTS_OFFSET + (uint64_t)step * LUKS_SLOTS * CRYPTO_SECTOR;
}

bool luks_format(LuksHeader *h, const LuksCreate *create, BlockChild *file, uint64_t base,
                 const uint8_t *password, size_t password_bytes, GError **error)
{
    uint8_t key[CRYPTO_MAX_KEY], uuid[16];
    CryptoVolume *volume;
    bool ok;

    memset(h, 0, sizeof(*h));
    h->spec = create->spec;
    h->hash = create->hash;
    h->key_bytes = (uint32_t)crypto_key_bytes(&h->spec);
    h->payload_sectors = (uint32_t)(luks_create_payload(create) / CRYPTO_SECTOR);
    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        h->slots[i].offset_sectors = LUKS_SLOTS_OFFSET / CRYPTO_SECTOR + i * slot_step(h->key_bytes);
        h->slots[i].stripes = LUKS_STRIPES;
    }
    if (!crypto_random(key, h->key_bytes, error) || !crypto_random(h->digest_salt, 32, error) ||
        !crypto_random(uuid, sizeof(uuid), error)) {
        return false;
    }
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    for (int i = 0, at = 0; i < 16; i++) {
        at += g_snprintf(h->uuid + at, (gulong)(sizeof(h->uuid) - (size_t)at), "%s%02x",
                         i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
    }
    /* Whether cipher, mode and IV go together is told before anything is written. */
    volume = crypto_volume_new(&h->spec, key, h->key_bytes, error);
    ok = volume != NULL;
    crypto_volume_free(volume);
    if (ok) {
        h->digest_iterations = MAX(iterations_for(h->hash, 20, create->iter_time_ms) / 8, MIN_ITERATION);
        key_digest(h, key, h->digest);
        ok = fill_slot(h, 0, file, base, password, password_bytes, key, create->iter_time_ms, error);
    }
    explicit_bzero(key, sizeof(key));
    return ok;
}

/* ---- options ---- */

static const char *option(json_object *options, const char *prefix, const char *name)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);
    json_object *value;

    return json_object_object_get_ex(options, key, &value) && value ? json_object_get_string(value) : NULL;
}

static bool named(json_object *options, const char *prefix, const char *name, const char *const *names,
                  int *value, GError **error)
{
    const char *text = option(options, prefix, name);
    int n = text ? crypto_name_find(names, text) : *value;

    if (n < 0) {
        g_autofree char *all = g_strjoinv(", ", (char **)(void *)names);

        error_set(error, "Parameter '%s%s' does not accept value '%s'", prefix, name, text);
        error_append_hint(error, "Accepted values: %s.", all);
        return false;
    }
    *value = n;
    return true;
}

bool luks_create_options(LuksCreate *create, json_object *options, const char *prefix, GError **error)
{
    int alg = CRYPTO_AES_256, mode = CRYPTO_XTS, iv = CRYPTO_IV_PLAIN64, iv_hash = CRYPTO_SHA256,
        hash = CRYPTO_SHA256;
    const char *time = option(options, prefix, "iter-time");
    CryptoVolume *volume;
    uint8_t key[CRYPTO_MAX_KEY] = { 0 };

    if (!crypto_load(error) || !named(options, prefix, "cipher-alg", crypto_alg_names, &alg, error) ||
        !named(options, prefix, "cipher-mode", crypto_mode_names, &mode, error) ||
        !named(options, prefix, "ivgen-alg", crypto_iv_names, &iv, error) ||
        !named(options, prefix, "ivgen-hash-alg", crypto_hash_names, &iv_hash, error) ||
        !named(options, prefix, "hash-alg", crypto_hash_names, &hash, error)) {
        return false;
    }
    *create = (LuksCreate){ .spec = { (CryptoAlg)alg, (CryptoMode)mode, (CryptoIv)iv, (CryptoHash)iv_hash },
                            .hash = (CryptoHash)hash,
                            .iter_time_ms = time ? g_ascii_strtoull(time, NULL, 10) : LUKS_ITER_TIME_MS };
    if (!create->iter_time_ms || create->iter_time_ms > 600000) {
        return error_set(error, "%siter-time must be between 1 and 600000 milliseconds", prefix);
    }
    volume = crypto_volume_new(&create->spec, key, crypto_key_bytes(&create->spec), error);
    crypto_volume_free(volume);
    return volume != NULL;
}

bool luks_secret(BlockGraph *graph, const char *id, const char *prefix, const uint8_t **value, size_t *size,
                 GError **error)
{
    if (!id) {
        return error_set(error, "Parameter '%skey-secret' is required for cipher", prefix);
    }
    if (!block_graph_objects(graph)) {
        return error_set(error, "No secret with id '%s'", id);
    }
    return secret_value(block_graph_objects(graph), id, value, size, error);
}

/* ---- changing passwords ---- */

typedef struct Change {
    LuksHeader *h;
    BlockChild *file;
    uint64_t base;
    BlockGraph *graph;
    const char *prefix;
    bool force;
} Change;

static unsigned count_active(const LuksHeader *h)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        n += h->slots[i].active;
    }
    return n;
}

static bool add_password(Change *c, json_object *options, int64_t slot, const char *key_secret,
                         GError **error)
{
    const char *new_secret = option(options, c->prefix, "new-secret"),
               *time = option(options, c->prefix, "iter-time");
    uint8_t key[CRYPTO_MAX_KEY];
    const uint8_t *password;
    size_t bytes;
    bool ok;

    if (!new_secret) {
        return error_set(error, "'new-secret' is required to activate a keyslot");
    }
    if (option(options, c->prefix, "old-secret")) {
        return error_set(error, "'old-secret' must not be given when activating keyslots");
    }
    if (slot < 0) {
        for (slot = 0; slot < LUKS_SLOTS && c->h->slots[slot].active; slot++) {}
        if (slot == LUKS_SLOTS) {
            return error_set(error, "Can't add a keyslot - all keyslots are in use");
        }
    }
    if (c->h->slots[slot].active && !c->force) {
        return error_set(error, "Refusing to overwrite active keyslot %d - please erase it first", (int)slot);
    }
    if (!luks_secret(c->graph, key_secret, c->prefix, &password, &bytes, error) ||
        !luks_unlock(c->h, c->file, c->base, password, bytes, key, error) ||
        !luks_secret(c->graph, new_secret, c->prefix, &password, &bytes, error)) {
        return false;
    }
    ok = fill_slot(c->h, (uint32_t)slot, c->file, c->base, password, bytes, key,
                   time ? g_ascii_strtoull(time, NULL, 10) : LUKS_ITER_TIME_MS, error);
    explicit_bzero(key, sizeof(key));
    return ok;
}

static bool erase_by_slot(Change *c, int64_t slot, const uint8_t *old, size_t old_bytes, GError **error)
{
    uint8_t key[CRYPTO_MAX_KEY];
    int ret;

    if (old) {
        ret = try_slot(c->h, (uint32_t)slot, c->file, c->base, old, old_bytes, key, error);
        explicit_bzero(key, sizeof(key));
        if (ret <= 0) {
            return ret < 0
                       ? false
                       : error_set(
                             error,
                             "Given keyslot %d doesn't contain the given old password for erase operation",
                             (int)slot);
        }
    }
    if (!c->force && !c->h->slots[slot].active) {
        return error_set(error, "Given keyslot %d is already erased (inactive) ", (int)slot);
    }
    if (!c->force && count_active(c->h) == 1) {
        return error_set(
            error,
            "Attempt to erase the only active keyslot %d which will erase all the data in the image "
            "irreversibly - refusing operation",
            (int)slot);
    }
    return erase_slot(c->h, (uint32_t)slot, c->file, c->base, error);
}

static bool erase_by_password(Change *c, const uint8_t *old, size_t old_bytes, GError **error)
{
    uint8_t key[CRYPTO_MAX_KEY];
    unsigned matches = 0;
    bool match[LUKS_SLOTS];

    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        int ret = try_slot(c->h, i, c->file, c->base, old, old_bytes, key, error);

        if (ret < 0) {
            return false;
        }
        match[i] = ret;
        matches += match[i];
    }
    explicit_bzero(key, sizeof(key));
    if (!matches) {
        return error_set(error, "No keyslots match given (old) password for erase operation");
    }
    if (!c->force && matches == count_active(c->h)) {
        return error_set(error,
                         "All the active keyslots match the (old) password that was given and erasing them "
                         "will erase all the data in the image irreversibly - refusing operation");
    }
    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        if (match[i] && !erase_slot(c->h, i, c->file, c->base, error)) {
            return false;
        }
    }
    return true;
}

static bool erase_passwords(Change *c, json_object *options, int64_t slot, GError **error)
{
    const char *old_secret = option(options, c->prefix, "old-secret");
    const uint8_t *old = NULL;
    size_t bytes = 0;

    if (option(options, c->prefix, "new-secret")) {
        return error_set(error, "'new-secret' must not be given when erasing keyslots");
    }
    if (option(options, c->prefix, "iter-time")) {
        return error_set(error, "'iter-time' must not be given when erasing keyslots");
    }
    if (old_secret && !luks_secret(c->graph, old_secret, c->prefix, &old, &bytes, error)) {
        return false;
    }
    return slot >= 0 ? erase_by_slot(c, slot, old, bytes, error)
           : old     ? erase_by_password(c, old, bytes, error)
                     : error_set(error, "To erase keyslot(s), either explicit keyslot index or the password "
                                            "currently contained in them must be given");
}

bool luks_amend(LuksHeader *h, BlockChild *file, uint64_t base, BlockGraph *graph, json_object *options,
                const char *prefix, const char *key_secret, bool force, GError **error)
{
    Change c = { h, file, base, graph, prefix, force };
    const char *state = option(options, prefix, "state"), *number = option(options, prefix, "keyslot");
    int64_t slot = number ? g_ascii_strtoll(number, NULL, 10) : -1;

    if (number && (slot < 0 || slot >= LUKS_SLOTS)) {
        return error_set(error, "Invalid keyslot %s specified, must be between 0 and %u", number,
                         LUKS_SLOTS - 1);
    }
    if (!state) {
        return error_set(error, "Parameter '%sstate' is missing", prefix);
    }
    if (strcmp(state, "active") == 0) {
        return add_password(&c, options, slot, key_secret, error);
    }
    if (strcmp(state, "inactive") == 0) {
        return erase_passwords(&c, options, slot, error);
    }
    error_set(error, "Parameter '%sstate' does not accept value '%s'", prefix, state);
    error_append_hint(error, "Accepted values: active, inactive.");
    return false;
}

/* ---- telling ---- */

static void add_text(json_object *o, const char *name, const char *value)
{
    json_object_object_add(o, name, json_object_new_string(value));
}

json_object *luks_info(const LuksHeader *h)
{
    json_object *o = json_object_new_object(), *slots = json_object_new_array();

    add_text(o, "cipher-alg", crypto_alg_names[h->spec.alg]);
    add_text(o, "cipher-mode", crypto_mode_names[h->spec.mode]);
    add_text(o, "ivgen-alg", crypto_iv_names[h->spec.iv]);
    if (h->spec.iv == CRYPTO_IV_ESSIV) {
        add_text(o, "ivgen-hash-alg", crypto_hash_names[h->spec.iv_hash]);
    }
    add_text(o, "hash-alg", crypto_hash_names[h->hash]);
    json_object_object_add(o, "payload-offset",
                           json_object_new_int64((int64_t)h->payload_sectors * CRYPTO_SECTOR));
    json_object_object_add(o, "master-key-iters", json_object_new_int64(h->digest_iterations));
    add_text(o, "uuid", h->uuid);
    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        const LuksSlot *s = &h->slots[i];
        json_object *slot = json_object_new_object();

        json_object_object_add(slot, "active", json_object_new_boolean(s->active));
        if (s->active) {
            json_object_object_add(slot, "iters", json_object_new_int64(s->iterations));
            json_object_object_add(slot, "stripes", json_object_new_int64(s->stripes));
        }
        json_object_object_add(slot, "key-offset",
                               json_object_new_int64((int64_t)s->offset_sectors * CRYPTO_SECTOR));
        json_object_array_add(slots, slot);
    }
    json_object_object_add(o, "slots", slots);
    return o;
}
