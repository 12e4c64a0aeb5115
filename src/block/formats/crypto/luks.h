/*
 * LUKS version 1 headers: as images of their own (formats/luks.c) and inside qcow2. The format is described
 * in cryptsetup's "LUKS1 On-Disk Format Specification" 1.2.3.
 *
 * A header lies at `base` of a file: 592 bytes, then eight places for key material from byte 4096 on, then
 * the payload. A place holds the master key, split and encrypted with a key that comes from a password. What
 * a file says is hostile: luks_load() checks all of it. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_FORMATS_CRYPTO_LUKS_H
#define RHEA_BLOCK_FORMATS_CRYPTO_LUKS_H

#include "block/formats/crypto/cipher.h"
#include "block/graph/graph.h"

#define LUKS_HEADER_BYTES  592u
#define LUKS_SLOTS         8u
#define LUKS_STRIPES       4000u
#define LUKS_SLOTS_OFFSET  4096u
#define LUKS_ITER_TIME_MS  2000u
#define LUKS_MAX_ITERATION (1u << 28) /* more takes minutes to open: refused */

typedef struct LuksSlot {
    bool active;
    uint32_t iterations, offset_sectors, stripes;
    uint8_t salt[32];
} LuksSlot;

typedef struct LuksHeader {
    CryptoSpec spec;
    CryptoHash hash;
    uint32_t payload_sectors, key_bytes, digest_iterations;
    uint8_t digest[20], digest_salt[32];
    char uuid[41];
    LuksSlot slots[LUKS_SLOTS];
} LuksHeader;

/* What `create` may be told. */
typedef struct LuksCreate {
    CryptoSpec spec;
    CryptoHash hash;
    uint64_t iter_time_ms;
} LuksCreate;

bool luks_header_decode(LuksHeader *h, const uint8_t data[LUKS_HEADER_BYTES], GError **error);
void luks_header_encode(const LuksHeader *h, uint8_t data[LUKS_HEADER_BYTES]);
int luks_probe(const uint8_t *head, size_t size, const char *filename);

/* ---- the rest does I/O: in a coroutine ---- */
bool luks_load(LuksHeader *h, BlockChild *file, uint64_t base, GError **error);
/* Tries all slots. key: h->key_bytes. */
bool luks_unlock(const LuksHeader *h, BlockChild *file, uint64_t base, const uint8_t *password,
                 size_t password_bytes, uint8_t *key, GError **error);
/* Where the payload of a new header begins, in bytes. */
uint64_t luks_create_payload(const LuksCreate *create);
/* A new header with one password, in a place that reads as zeroes and may be written to that length. */
bool luks_format(LuksHeader *h, const LuksCreate *create, BlockChild *file, uint64_t base,
                 const uint8_t *password, size_t password_bytes, GError **error);

/* Changes of passwords: options "state", "keyslot", "old-secret", "new-secret" and "iter-time" of a dict with
 * that prefix; password: one that opens the image (of secret "key-secret"). */
bool luks_amend(LuksHeader *h, BlockChild *file, uint64_t base, BlockGraph *graph, json_object *options,
                const char *prefix, const char *key_secret, bool force, GError **error);
/* Reads -o's names with the prefix ("encrypt." or "") into create. */
bool luks_create_options(LuksCreate *create, json_object *options, const char *prefix, GError **error);
/* What query-block and info tell. */
json_object *luks_info(const LuksHeader *h);

/* The value of secret `id`; prefix names the option for the message where id is NULL. */
bool luks_secret(BlockGraph *graph, const char *id, const char *prefix, const uint8_t **value, size_t *size,
                 GError **error);
/* (De/en)crypts where that takes long in the pool of threads. In a coroutine or not. */
void crypto_run(const CryptoVolume *volume, bool encrypt, uint64_t sector, uint8_t *buf, size_t bytes);

#endif
