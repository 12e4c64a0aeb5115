/*
 * What encrypted images are encrypted with: a block cipher in a mode, an initialisation vector for every
 * sector of 512 bytes, and hashes, over libnettle. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_FORMATS_CRYPTO_CIPHER_H
#define RHEA_BLOCK_FORMATS_CRYPTO_CIPHER_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRYPTO_SECTOR  512u
#define CRYPTO_MAX_KEY 64u /* bytes: AES-256 in XTS mode has two keys */

typedef enum CryptoAlg {
    CRYPTO_AES_128,
    CRYPTO_AES_192,
    CRYPTO_AES_256,
    CRYPTO_CAST5_128,
    CRYPTO_SERPENT_128,
    CRYPTO_SERPENT_192,
    CRYPTO_SERPENT_256,
    CRYPTO_TWOFISH_128,
    CRYPTO_TWOFISH_192,
    CRYPTO_TWOFISH_256,
    CRYPTO_ALG_COUNT
} CryptoAlg;
typedef enum CryptoMode { CRYPTO_ECB, CRYPTO_CBC, CRYPTO_XTS, CRYPTO_MODE_COUNT } CryptoMode;
typedef enum CryptoIv { CRYPTO_IV_PLAIN, CRYPTO_IV_PLAIN64, CRYPTO_IV_ESSIV, CRYPTO_IV_COUNT } CryptoIv;
typedef enum CryptoHash {
    CRYPTO_MD5,
    CRYPTO_SHA1,
    CRYPTO_SHA224,
    CRYPTO_SHA256,
    CRYPTO_SHA384,
    CRYPTO_SHA512,
    CRYPTO_RIPEMD160,
    CRYPTO_HASH_COUNT
} CryptoHash;

/* Loads the library; before all that follows but names. crypto_volume_new() does it itself. */
bool crypto_load(GError **error);

/* By these names: "aes-256", "xts", "plain64", "sha256". */
extern const char *const crypto_alg_names[];
extern const char *const crypto_mode_names[];
extern const char *const crypto_iv_names[];
extern const char *const crypto_hash_names[];
/* The number of a name in one of those lists; -1: it is not there. */
int crypto_name_find(const char *const *names, const char *name);

/* All that decides how a sector is encrypted, but for the key. */
typedef struct CryptoSpec {
    CryptoAlg alg;
    CryptoMode mode;
    CryptoIv iv;
    CryptoHash iv_hash; /* of CRYPTO_IV_ESSIV */
} CryptoSpec;
/* Bytes of key that it wants. */
size_t crypto_key_bytes(const CryptoSpec *spec);

/* Keys made ready. Not changed after it was made: any number of threads may use it at a time. */
typedef struct CryptoVolume CryptoVolume;
/* key_bytes must be what the spec wants. NULL with an error where the spec makes no sense. */
CryptoVolume *crypto_volume_new(const CryptoSpec *spec, const uint8_t *key, size_t key_bytes, GError **error);
void crypto_volume_free(CryptoVolume *volume); /* NULL is fine */
/* In place; bytes: whole sectors, the first of which is number `sector`. */
void crypto_volume_encrypt(const CryptoVolume *volume, uint64_t sector, uint8_t *buf, size_t bytes);
void crypto_volume_decrypt(const CryptoVolume *volume, uint64_t sector, uint8_t *buf, size_t bytes);

size_t crypto_hash_bytes(CryptoHash hash);
void crypto_pbkdf2(CryptoHash hash, const uint8_t *password, size_t password_bytes, const uint8_t *salt,
                   size_t salt_bytes, uint32_t iterations, uint8_t *out, size_t out_bytes);
/* How many iterations take that long on this machine, for a key of that size. */
uint64_t crypto_pbkdf2_measure(CryptoHash hash, size_t out_bytes, uint64_t milliseconds);
/* The anti-forensic splitter of LUKS: `stripes` pieces of key_bytes, none of which may be lost. */
bool crypto_af_split(CryptoHash hash, const uint8_t *key, size_t key_bytes, uint32_t stripes, uint8_t *out,
                     GError **error);
void crypto_af_merge(CryptoHash hash, const uint8_t *in, size_t key_bytes, uint32_t stripes, uint8_t *key);
bool crypto_random(uint8_t *buf, size_t bytes, GError **error);

#endif
