/*
 * LUKS (version 1) images: a header, and behind it a disk whose every sector is encrypted. Requests are whole
 * sectors; data is (de)encrypted in a buffer of its own, in the pool of threads where it is much.
 *
 * The header is read when the image is opened, and changed only by amend (passwords) in the control plane, so
 * requests look at what never changes. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/crypto/luks.h"
#include "block/formats/blocks.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

#define PIECE (1u << 20) /* bytes in a buffer at a time */

typedef struct LuksNode {
    BlockNode node;
    LuksHeader h;
    CryptoVolume *volume; /* NULL: opened without its key, to be looked at only */
    uint64_t payload;
    char *key_secret;
} LuksNode;

/* ---- opening ---- */

typedef struct Call {
    LuksNode *l;
    GError **error;
    bool ok;
} Call;

static bool load(LuksNode *l, GError **error)
{
    uint8_t key[CRYPTO_MAX_KEY];
    const uint8_t *password;
    uint64_t size = block_size(l->node.file);
    size_t bytes;

    if (!luks_load(&l->h, l->node.file, 0, error)) {
        return false;
    }
    l->node.encrypted = true;
    l->payload = (uint64_t)l->h.payload_sectors * CRYPTO_SECTOR;
    if (size < l->payload) {
        return error_set(error, "%s: the file ends before the encrypted disk begins", l->node.what);
    }
    l->node.size = (size - l->payload) & ~(uint64_t)(CRYPTO_SECTOR - 1);
    if (l->node.open_flags & BLOCK_OPEN_NO_IO) {
        return true;
    }
    if (!luks_secret(l->node.graph, l->key_secret, "", &password, &bytes, error) ||
        !luks_unlock(&l->h, l->node.file, 0, password, bytes, key, error)) {
        return false;
    }
    l->volume = crypto_volume_new(&l->h.spec, key, l->h.key_bytes, error);
    explicit_bzero(key, sizeof(key));
    return l->volume != NULL;
}

static void load_entry(void *opaque)
{
    Call *c = opaque;

    c->ok = load(c->l, c->error);
}

static bool luks_open(BlockNode *node, QapiBlockdevOptions *options, GError **error)
{
    const QapiBlockdevOptionsLuks *o = options->u_luks;
    Call call = { (LuksNode *)node, error, false };

    call.l->key_secret = g_strdup(o->key_secret);
    if (!block_child_open(node, "file", BLOCK_ROLE_IMAGE, &node->file, options, o->file, error)) {
        return false;
    }
    block_run(node->graph, load_entry, &call);
    return call.ok;
}

static void luks_close(BlockNode *node)
{
    LuksNode *l = (LuksNode *)node;

    crypto_volume_free(l->volume);
    l->volume = NULL;
    g_clear_pointer(&l->key_secret, g_free);
}

static bool luks_reopen_prepare(BlockReopen *reopen, GError **error)
{
    return true;
}

static void luks_reopen_commit(BlockReopen *reopen)
{
    LuksNode *l = (LuksNode *)reopen->node;

    g_free(l->key_secret);
    l->key_secret = g_strdup(reopen->options->u_luks->key_secret);
}

static void luks_refresh_limits(BlockNode *node)
{
    node->limits.request_alignment = MAX(node->limits.request_alignment, CRYPTO_SECTOR);
}

static int64_t luks_get_length(BlockNode *node)
{
    LuksNode *l = (LuksNode *)node;
    BlockNode *file = node->file->node;
    int64_t n = file->driver->get_length ? file->driver->get_length(file) : (int64_t)file->size;

    return n < 0                     ? n
           : n < (int64_t)l->payload ? 0
                                     : (n - (int64_t)l->payload) & ~(int64_t)(CRYPTO_SECTOR - 1);
}

/* ---- requests ---- */

static int luks_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          uint64_t from, unsigned flags)
{
    LuksNode *l = (LuksNode *)node;
    uint64_t room = MIN(bytes, PIECE);
    uint8_t *buf = l->volume ? block_buffer_try(node->file, room) : NULL;
    int ret = buf ? 0 : l->volume ? -ENOMEM : -EPERM;

    while (bytes && ret >= 0) {
        uint64_t n = MIN(bytes, room);

        ret = block_co_pread(node->file, l->payload + offset, n, buf, 0);
        if (ret >= 0) {
            crypto_run(l->volume, false, offset / CRYPTO_SECTOR, buf, n);
            block_vec_write(vec, from, buf, n);
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    if (buf) {
        g_aligned_free(buf);
    }
    return ret < 0 ? ret : 0;
}

static int luks_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           uint64_t from, unsigned flags)
{
    LuksNode *l = (LuksNode *)node;
    uint64_t room = MIN(bytes, PIECE);
    uint8_t *buf = l->volume ? block_buffer_try(node->file, room) : NULL;
    int ret = buf ? 0 : l->volume ? -ENOMEM : -EPERM;

    while (bytes && ret >= 0) {
        uint64_t n = MIN(bytes, room);

        block_vec_read(vec, from, buf, n);
        crypto_run(l->volume, true, offset / CRYPTO_SECTOR, buf, n);
        ret = block_co_pwrite(node->file, l->payload + offset, n, buf, flags & BLOCK_REQ_FUA);
        offset += n;
        from += n;
        bytes -= n;
    }
    if (buf) {
        g_aligned_free(buf);
    }
    return ret < 0 ? ret : 0;
}

/* Holes of the file read as anything but zeroes: all of it is data. */
static int luks_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes,
                                BlockStatus *st)
{
    LuksNode *l = (LuksNode *)node;

    *st = (BlockStatus){ .flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_OFFSET_VALID,
                         .bytes = bytes,
                         .map = l->payload + offset,
                         .file = node->file->node };
    return 0;
}

static int luks_co_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc,
                            unsigned flags, GError **error)
{
    LuksNode *l = (LuksNode *)node;
    int ret;

    if (size > BLOCK_MAX_SIZE - l->payload) {
        error_set(error, "The requested file size is too large");
        return -EFBIG;
    }
    ret = block_co_truncate(node->file, size + l->payload, exact, prealloc, 0, error);
    if (!ret) {
        block_node_set_size(node, size & ~(uint64_t)(CRYPTO_SECTOR - 1));
    }
    return ret;
}

/* ---- what it is ---- */

static json_object *luks_specific_info(BlockNode *node)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "type", json_object_new_string("luks"));
    json_object_object_add(o, "data", luks_info(&((LuksNode *)node)->h));
    return o;
}

static bool luks_get_info(BlockNode *node, BlockInfo *info, GError **error)
{
    return block_node_info(node->file->node, info, error);
}

/* ---- making ---- */

static const BlockOption luks_create_table[] = {
    { "size", BLOCK_OPTION_SIZE, "Virtual disk size", NULL, false },
    { "key-secret", BLOCK_OPTION_STRING, "ID of the secret that provides the keyslot passphrase", NULL,
      false },
    { "cipher-alg", BLOCK_OPTION_STRING, "Name of encryption cipher algorithm", NULL, false },
    { "cipher-mode", BLOCK_OPTION_STRING, "Name of encryption cipher mode", NULL, false },
    { "ivgen-alg", BLOCK_OPTION_STRING, "Name of IV generator algorithm", NULL, false },
    { "ivgen-hash-alg", BLOCK_OPTION_STRING, "Name of IV generator hash algorithm", NULL, false },
    { "hash-alg", BLOCK_OPTION_STRING, "Name of encryption hash algorithm", NULL, false },
    { "iter-time", BLOCK_OPTION_NUMBER, "Time to spend in PBKDF in milliseconds", NULL, true },
    { "state", BLOCK_OPTION_STRING, "Select new state of affected keyslots (active/inactive)", NULL, true,
      true },
    { "keyslot", BLOCK_OPTION_NUMBER, "Select a single keyslot to modify explicitly", NULL, true, true },
    { "old-secret", BLOCK_OPTION_STRING, "Select all keyslots that match this password", NULL, true, true },
    { "new-secret", BLOCK_OPTION_STRING, "New secret to set in the matching keyslots. Empty string to erase",
      NULL, true, true },
    { NULL, 0, NULL, NULL, false },
};

static const char *text_option(json_object *o, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(o, name, &value) && value ? json_object_get_string(value) : NULL;
}

static bool write_image(BlockGraph *graph, const char *filename, json_object *options,
                        const LuksCreate *create, uint64_t size, GError **error)
{
    const char *secret = text_option(options, "key-secret"), *mode = text_option(options, "preallocation");
    int prealloc = mode ? enum_parse(&qapi_PreallocMode_lookup, mode, error) : QAPI_PREALLOC_MODE_OFF;
    uint64_t payload = luks_create_payload(create);
    const uint8_t *password;
    BlockChild *root;
    LuksHeader h;
    size_t bytes;
    bool ok;

    if (prealloc < 0 || !luks_secret(graph, secret, "", &password, &bytes, error)) {
        return false;
    }
    root = blocks_create_file(graph, filename, options, error);
    if (!root) {
        return false;
    }
    ok = blk_truncate(root, payload + size, false, (QapiPreallocMode)prealloc, 0, error) &&
         luks_format(&h, create, root, 0, password, bytes, error);
    block_root_free(root);
    return ok;
}

static bool luks_co_create_named(BlockGraph *graph, const char *filename, json_object *options,
                                 GError **error)
{
    json_object *value;
    LuksCreate create;
    uint64_t size = json_object_object_get_ex(options, "size", &value) ? json_object_get_uint64(value) : 0;

    if (!luks_create_options(&create, options, "", error)) {
        return false;
    }
    size = (size + CRYPTO_SECTOR - 1) & ~(uint64_t)(CRYPTO_SECTOR - 1);
    if (size > BLOCK_MAX_SIZE - luks_create_payload(&create)) {
        return error_set(error, "The requested file size is too large");
    }
    return write_image(graph, filename, options, &create, size, error);
}

static bool luks_co_measure(BlockGraph *graph, json_object *options, BlockNode *source, BlockMeasure *measure,
                            GError **error)
{
    json_object *value;
    uint64_t size = source ? source->size : 0;
    LuksCreate create;

    if (!source && json_object_object_get_ex(options, "size", &value)) {
        size = json_object_get_uint64(value);
    }
    if (!luks_create_options(&create, options, "", error)) {
        return false;
    }
    size = (size + CRYPTO_SECTOR - 1) & ~(uint64_t)(CRYPTO_SECTOR - 1);
    measure->required = measure->fully_allocated = size + luks_create_payload(&create);
    return true;
}

static bool luks_co_amend(BlockNode *node, json_object *options, bool force,
                          void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque,
                          GError **error)
{
    LuksNode *l = (LuksNode *)node;

    return luks_amend(&l->h, node->file, 0, node->graph, options, "", l->key_secret, force, error);
}

static const BlockDriver luks_driver = {
    .name = "luks",
    .instance_size = sizeof(LuksNode),
    .probe = luks_probe,
    .open = luks_open,
    .close = luks_close,
    .reopen_prepare = luks_reopen_prepare,
    .reopen_commit = luks_reopen_commit,
    .refresh_limits = luks_refresh_limits,
    .get_length = luks_get_length,
    .get_info = luks_get_info,
    .get_specific_info = luks_specific_info,
    .co_preadv = luks_co_preadv,
    .co_pwritev = luks_co_pwritev,
    .co_block_status = luks_co_block_status,
    .co_truncate = luks_co_truncate,
    .co_amend = luks_co_amend,
    .co_create = blocks_co_create,
    .co_create_named = luks_co_create_named,
    .create_options = luks_create_table,
    .co_measure = luks_co_measure,
};
BLOCK_DRIVER(luks_driver);
