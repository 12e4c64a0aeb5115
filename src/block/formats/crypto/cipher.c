/* Ciphers, modes, hashes of encrypted images; see cipher.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/formats/crypto/cipher.h"

#include "base/error.h"
#include "host/library.h"
#include "rhea_config.h"

#include <errno.h>
#include <nettle/aes.h>
#include <nettle/cbc.h>
#include <nettle/hmac.h>
#include <nettle/nettle-meta.h>
#include <nettle/pbkdf2.h>
#include <nettle/xts.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define MAX_DIGEST 64u
#define MAX_BLOCK  16u

const char *const crypto_alg_names[] = { "aes-128",     "aes-192",     "aes-256",     "cast5-128",
                                         "serpent-128", "serpent-192", "serpent-256", "twofish-128",
                                         "twofish-192", "twofish-256", NULL };
const char *const crypto_mode_names[] = { "ecb", "cbc", "xts", NULL };
const char *const crypto_iv_names[] = { "plain", "plain64", "essiv", NULL };
const char *const crypto_hash_names[] = { "md5",    "sha1",   "sha224",    "sha256",
                                          "sha384", "sha512", "ripemd160", NULL };

/* Loaded with the first encrypted image. */
/* clang-format off */
#define NETTLE_SYMBOLS(X, P)                                                                        \
    X(P, aes128) X(P, aes192) X(P, aes256) X(P, cast128) X(P, serpent128) X(P, serpent192)          \
    X(P, serpent256) X(P, twofish128) X(P, twofish192) X(P, twofish256) X(P, md5) X(P, sha1)        \
    X(P, sha224) X(P, sha256) X(P, sha384) X(P, sha512) X(P, ripemd160) X(P, cbc_decrypt)           \
    X(P, cbc_encrypt) X(P, hmac_digest) X(P, hmac_set_key) X(P, hmac_update) X(P, pbkdf2)           \
    X(P, xts_decrypt_message) X(P, xts_encrypt_message)
/* clang-format on */
LIBRARY_TABLE(nettle, nettle_, NETTLE_SYMBOLS, SONAME_NETTLE, "libnettle8", "Encryption");

bool crypto_load(GError **error)
{
    return library_load(&nettle_library, error);
}

static const struct nettle_cipher *cipher_of(CryptoAlg alg)
{
    static const struct nettle_cipher **const ciphers[] = {
        &nettle.aes128,     &nettle.aes192,     &nettle.aes256,     &nettle.cast128,    &nettle.serpent128,
        &nettle.serpent192, &nettle.serpent256, &nettle.twofish128, &nettle.twofish192, &nettle.twofish256,
    };

    return *ciphers[alg];
}

static const struct nettle_hash *hash_named(CryptoHash hash)
{
    static const struct nettle_hash **const hashes[] = { &nettle.md5,      &nettle.sha1,   &nettle.sha224,
                                                         &nettle.sha256,   &nettle.sha384, &nettle.sha512,
                                                         &nettle.ripemd160 };

    return *hashes[hash];
}

int crypto_name_find(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

size_t crypto_key_bytes(const CryptoSpec *spec)
{
    return cipher_of(spec->alg)->key_size * (spec->mode == CRYPTO_XTS ? 2 : 1);
}

/* ---- sectors ---- */

struct CryptoVolume {
    CryptoSpec spec;
    const struct nettle_cipher *cipher, *iv_cipher;
    void *encrypt, *decrypt; /* contexts */
    void *tweak;             /* XTS: of the second key; ESSIV: of the hashed key */
};

/* The cipher of the same family whose key is a digest of that size. */
static const struct nettle_cipher *essiv_cipher(CryptoAlg alg, size_t digest)
{
    CryptoAlg first = alg >= CRYPTO_TWOFISH_128   ? CRYPTO_TWOFISH_128
                      : alg >= CRYPTO_SERPENT_128 ? CRYPTO_SERPENT_128
                                                  : CRYPTO_AES_128;

    if (alg == CRYPTO_CAST5_128) {
        return digest == 16 ? cipher_of(alg) : NULL;
    }
    for (int i = 0; i < 3; i++) {
        if (cipher_of((CryptoAlg)(first + i))->key_size == digest) {
            return cipher_of((CryptoAlg)(first + i));
        }
    }
    return NULL;
}

static void hash_of(CryptoHash hash, const void *a, size_t a_bytes, const void *b, size_t b_bytes,
                    uint8_t *out, size_t out_bytes)
{
    const struct nettle_hash *h = hash_named(hash);
    g_autofree void *context = g_malloc0(h->context_size);

    h->init(context);
    h->update(context, a_bytes, a);
    h->update(context, b_bytes, b);
    h->digest(context, out_bytes, out);
    explicit_bzero(context, h->context_size);
}

CryptoVolume *crypto_volume_new(const CryptoSpec *spec, const uint8_t *key, size_t key_bytes, GError **error)
{
    const struct nettle_cipher *c;
    CryptoVolume *v;

    if (!crypto_load(error)) {
        return NULL;
    }
    c = cipher_of(spec->alg);
    if (key_bytes != crypto_key_bytes(spec)) {
        error_set(error, "Cipher '%s' in mode '%s' wants a key of %zu bytes, not %zu",
                  crypto_alg_names[spec->alg], crypto_mode_names[spec->mode], crypto_key_bytes(spec),
                  key_bytes);
        return NULL;
    }
    if (spec->mode == CRYPTO_XTS && c->block_size != 16) {
        error_set(error, "Cipher '%s' with blocks of %u bytes cannot be used in XTS mode",
                  crypto_alg_names[spec->alg], c->block_size);
        return NULL;
    }
    v = g_new0(CryptoVolume, 1);
    v->spec = *spec;
    v->cipher = c;
    v->encrypt = g_malloc0(c->context_size);
    v->decrypt = g_malloc0(c->context_size);
    c->set_encrypt_key(v->encrypt, key);
    c->set_decrypt_key(v->decrypt, key);
    if (spec->mode == CRYPTO_XTS) {
        v->tweak = g_malloc0(c->context_size);
        c->set_encrypt_key(v->tweak, key + c->key_size);
    }
    if (spec->iv == CRYPTO_IV_ESSIV && spec->mode != CRYPTO_ECB) {
        size_t digest = crypto_hash_bytes(spec->iv_hash);
        uint8_t salt[MAX_DIGEST];

        v->iv_cipher = spec->mode == CRYPTO_XTS ? NULL : essiv_cipher(spec->alg, digest);
        if (!v->iv_cipher) {
            error_set(error, "IV generator essiv:%s does not go with cipher '%s' in mode '%s'",
                      crypto_hash_names[spec->iv_hash], crypto_alg_names[spec->alg],
                      crypto_mode_names[spec->mode]);
            crypto_volume_free(v);
            return NULL;
        }
        hash_of(spec->iv_hash, key, key_bytes, NULL, 0, salt, digest);
        v->tweak = g_malloc0(v->iv_cipher->context_size);
        v->iv_cipher->set_encrypt_key(v->tweak, salt);
        explicit_bzero(salt, sizeof(salt));
    }
    return v;
}

static void context_free(void *context, size_t size)
{
    if (context) {
        explicit_bzero(context, size);
        g_free(context);
    }
}

void crypto_volume_free(CryptoVolume *v)
{
    if (v) {
        context_free(v->encrypt, v->cipher->context_size);
        context_free(v->decrypt, v->cipher->context_size);
        context_free(v->tweak, v->iv_cipher ? v->iv_cipher->context_size : v->cipher->context_size);
        g_free(v);
    }
}

static void make_iv(const CryptoVolume *v, uint64_t sector, uint8_t iv[MAX_BLOCK])
{
    uint64_t number = GUINT64_TO_LE(v->spec.iv == CRYPTO_IV_PLAIN ? sector & UINT32_MAX : sector);

    memset(iv, 0, MAX_BLOCK);
    memcpy(iv, &number, sizeof(number));
    if (v->iv_cipher) {
        v->iv_cipher->encrypt(v->tweak, v->iv_cipher->block_size, iv, iv);
    }
}

static void crypt_sector(const CryptoVolume *v, bool encrypt, uint64_t sector, uint8_t *buf)
{
    const struct nettle_cipher *c = v->cipher;
    uint8_t iv[MAX_BLOCK];

    switch (v->spec.mode) {
    case CRYPTO_XTS:
        make_iv(v, sector, iv);
        if (encrypt) {
            nettle.xts_encrypt_message(v->encrypt, v->tweak, c->encrypt, iv, CRYPTO_SECTOR, buf, buf);
        } else {
            nettle.xts_decrypt_message(v->decrypt, v->tweak, c->decrypt, c->encrypt, iv, CRYPTO_SECTOR, buf,
                                       buf);
        }
        break;
    case CRYPTO_CBC:
        make_iv(v, sector, iv);
        if (encrypt) {
            nettle.cbc_encrypt(v->encrypt, c->encrypt, c->block_size, iv, CRYPTO_SECTOR, buf, buf);
        } else {
            nettle.cbc_decrypt(v->decrypt, c->decrypt, c->block_size, iv, CRYPTO_SECTOR, buf, buf);
        }
        break;
    default:
        if (encrypt) {
            c->encrypt(v->encrypt, CRYPTO_SECTOR, buf, buf);
        } else {
            c->decrypt(v->decrypt, CRYPTO_SECTOR, buf, buf);
        }
        break;
    }
}

void crypto_volume_encrypt(const CryptoVolume *v, uint64_t sector, uint8_t *buf, size_t bytes)
{
    for (size_t at = 0; at + CRYPTO_SECTOR <= bytes; at += CRYPTO_SECTOR) {
        crypt_sector(v, true, sector + at / CRYPTO_SECTOR, buf + at);
    }
}

void crypto_volume_decrypt(const CryptoVolume *v, uint64_t sector, uint8_t *buf, size_t bytes)
{
    for (size_t at = 0; at + CRYPTO_SECTOR <= bytes; at += CRYPTO_SECTOR) {
        crypt_sector(v, false, sector + at / CRYPTO_SECTOR, buf + at);
    }
}

/* ---- keys from passwords ---- */

size_t crypto_hash_bytes(CryptoHash hash)
{
    return hash_named(hash)->digest_size;
}

typedef struct Hmac {
    const struct nettle_hash *hash;
    uint8_t *outer, *inner, *state;
} Hmac;

static void hmac_update_of(void *context, size_t bytes, const uint8_t *data)
{
    Hmac *m = context;

    nettle.hmac_update(m->state, m->hash, bytes, data);
}

static void hmac_digest_of(void *context, size_t bytes, uint8_t *out)
{
    Hmac *m = context;

    nettle.hmac_digest(m->outer, m->inner, m->state, m->hash, bytes, out);
}

void crypto_pbkdf2(CryptoHash hash, const uint8_t *password, size_t password_bytes, const uint8_t *salt,
                   size_t salt_bytes, uint32_t iterations, uint8_t *out, size_t out_bytes)
{
    const struct nettle_hash *h = hash_named(hash);
    g_autofree uint8_t *room = g_malloc0((size_t)h->context_size * 3);
    Hmac m = { h, room, room + h->context_size, room + (size_t)h->context_size * 2 };

    nettle.hmac_set_key(m.outer, m.inner, m.state, h, password_bytes, password);
    nettle.pbkdf2(&m, hmac_update_of, hmac_digest_of, h->digest_size, MAX(iterations, 1), salt_bytes, salt,
                  out_bytes, out);
    explicit_bzero(room, (size_t)h->context_size * 3);
}

static int64_t cpu_time_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint64_t crypto_pbkdf2_measure(CryptoHash hash, size_t out_bytes, uint64_t milliseconds)
{
    static const uint8_t text[32] = "how fast is this machine";
    uint8_t out[CRYPTO_MAX_KEY];
    uint32_t n = 1024;

    for (;;) {
        int64_t start = cpu_time_ns(), took;

        crypto_pbkdf2(hash, text, sizeof(text), text, sizeof(text), n, out, MIN(out_bytes, sizeof(out)));
        took = MAX(cpu_time_ns() - start, 1);
        if (took >= 30000000 || n >= 1u << 26) {
            double each = (double)took / n;

            return (uint64_t)MIN((double)milliseconds * 1e6 / each, (double)UINT32_MAX);
        }
        n *= 2;
    }
}

/* One pass of the splitter's diffusion: each digest-sized piece becomes the hash of its number and itself. */
static void diffuse(CryptoHash hash, uint8_t *block, size_t bytes)
{
    size_t digest = crypto_hash_bytes(hash);

    for (size_t at = 0, i = 0; at < bytes; at += digest, i++) {
        uint32_t number = GUINT32_TO_BE((uint32_t)i);
        size_t n = MIN(digest, bytes - at);

        hash_of(hash, &number, sizeof(number), block + at, n, block + at, n);
    }
}

static void mix(uint8_t *block, const uint8_t *with, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        block[i] ^= with[i];
    }
}

bool crypto_af_split(CryptoHash hash, const uint8_t *key, size_t key_bytes, uint32_t stripes, uint8_t *out,
                     GError **error)
{
    uint8_t block[CRYPTO_MAX_KEY] = { 0 };
    size_t last = (size_t)(stripes - 1) * key_bytes;

    if (!crypto_random(out, last, error)) {
        return false;
    }
    for (uint32_t i = 0; i < stripes - 1; i++) {
        mix(block, out + (size_t)i * key_bytes, key_bytes);
        diffuse(hash, block, key_bytes);
    }
    memcpy(out + last, key, key_bytes);
    mix(out + last, block, key_bytes);
    explicit_bzero(block, sizeof(block));
    return true;
}

void crypto_af_merge(CryptoHash hash, const uint8_t *in, size_t key_bytes, uint32_t stripes, uint8_t *key)
{
    memset(key, 0, key_bytes);
    for (uint32_t i = 0; i < stripes - 1; i++) {
        mix(key, in + (size_t)i * key_bytes, key_bytes);
        diffuse(hash, key, key_bytes);
    }
    mix(key, in + (size_t)(stripes - 1) * key_bytes, key_bytes);
}

bool crypto_random(uint8_t *buf, size_t bytes, GError **error)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = getrandom(buf + done, bytes - done, 0);

        if (n < 0 && errno != EINTR) {
            return error_set_errno(error, errno, "The host gives no random bytes");
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}
