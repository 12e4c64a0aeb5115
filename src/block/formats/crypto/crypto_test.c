/* Tests of ciphers against published values, and of LUKS headers and images. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/formats/crypto/luks.h"

#include "base/error.h"
#include "object/object.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void from_hex(const char *hex, uint8_t *out)
{
    for (size_t i = 0; hex[2 * i]; i++) {
        out[i] = (uint8_t)(g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]));
    }
}

static void expect_hex(const uint8_t *have, const char *hex)
{
    uint8_t want[64];

    g_assert_cmpuint(strlen(hex), <=, 128);
    from_hex(hex, want);
    g_assert_cmpmem(have, strlen(hex) / 2, want, strlen(hex) / 2);
}

/* RFC 6070, and RFC 7914 chapter 11. */
static void test_pbkdf2(void)
{
    uint8_t out[64];

    g_assert_true(crypto_load(NULL));
    crypto_pbkdf2(CRYPTO_SHA1, (const uint8_t *)"password", 8, (const uint8_t *)"salt", 4, 2, out, 20);
    expect_hex(out, "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
    crypto_pbkdf2(CRYPTO_SHA1, (const uint8_t *)"passwordPASSWORDpassword", 24,
                  (const uint8_t *)"saltSALTsaltSALTsaltSALTsaltSALTsalt", 36, 4096, out, 25);
    expect_hex(out, "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038");
    crypto_pbkdf2(CRYPTO_SHA256, (const uint8_t *)"passwd", 6, (const uint8_t *)"salt", 4, 1, out, 32);
    expect_hex(out, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc");
    g_assert_cmpuint(crypto_pbkdf2_measure(CRYPTO_SHA256, 32, 100), >, 1000);
}

/* IEEE 1619, vector 4 (AES-128, data unit 0) and the beginning of vector 10 (AES-256, data unit 0xff). */
static void test_xts(void)
{
    CryptoSpec spec = { CRYPTO_AES_128, CRYPTO_XTS, CRYPTO_IV_PLAIN64, CRYPTO_SHA256 };
    uint8_t key[64], buf[512], plain[512];
    g_autoptr(GError) error = NULL;
    CryptoVolume *v;

    for (size_t i = 0; i < sizeof(plain); i++) {
        plain[i] = (uint8_t)i;
    }
    from_hex("2718281828459045235360287471352631415926535897932384626433832795", key);
    v = crypto_volume_new(&spec, key, 32, &error);
    g_assert_no_error(error);
    memcpy(buf, plain, sizeof(buf));
    crypto_volume_encrypt(v, 0, buf, sizeof(buf));
    expect_hex(buf, "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c");
    crypto_volume_decrypt(v, 0, buf, sizeof(buf));
    g_assert_cmpmem(buf, sizeof(buf), plain, sizeof(plain));
    crypto_volume_free(v);

    spec.alg = CRYPTO_AES_256;
    from_hex("2718281828459045235360287471352662497757247093699959574966967627"
             "3141592653589793238462643383279502884197169399375105820974944592",
             key);
    v = crypto_volume_new(&spec, key, 64, &error);
    g_assert_no_error(error);
    memcpy(buf, plain, sizeof(buf));
    crypto_volume_encrypt(v, 0xff, buf, sizeof(buf));
    expect_hex(buf, "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
    crypto_volume_free(v);
}

/* Every cipher comes back, differs from sector to sector, and nonsense is refused. */
static void test_ciphers(void)
{
    for (int alg = 0; alg < CRYPTO_ALG_COUNT; alg++) {
        for (int mode = 0; mode < CRYPTO_MODE_COUNT; mode++) {
            CryptoSpec spec = { (CryptoAlg)alg, (CryptoMode)mode, CRYPTO_IV_PLAIN64, CRYPTO_SHA256 };
            uint8_t key[64] = "a key of some bytes that are not all the same, and long enough.", buf[1024],
                    plain[1024] = { 1, 2, 3 };
            g_autoptr(GError) error = NULL;
            CryptoVolume *v = crypto_volume_new(&spec, key, crypto_key_bytes(&spec), &error);

            if (alg == CRYPTO_CAST5_128 && mode == CRYPTO_XTS) {
                g_assert_null(v);
                g_assert_nonnull(error);
                continue;
            }
            g_assert_no_error(error);
            memcpy(plain + 512, plain, 512);
            memcpy(buf, plain, sizeof(buf));
            crypto_volume_encrypt(v, 7, buf, sizeof(buf));
            g_assert_cmpint(memcmp(buf, plain, 16), !=, 0);
            g_assert_true((memcmp(buf, buf + 512, 512) == 0) == (mode == CRYPTO_ECB));
            crypto_volume_decrypt(v, 8, buf + 512, 512);
            crypto_volume_decrypt(v, 7, buf, 512);
            g_assert_cmpmem(buf, sizeof(buf), plain, sizeof(plain));
            crypto_volume_free(v);
        }
    }
    CryptoSpec essiv = { CRYPTO_AES_256, CRYPTO_CBC, CRYPTO_IV_ESSIV, CRYPTO_SHA512 };
    uint8_t key[32] = { 0 };
    g_autoptr(GError) error = NULL;

    g_assert_null(crypto_volume_new(&essiv, key, 32, &error)); /* no AES has a key of 64 bytes */
    g_assert_nonnull(error);
    g_clear_error(&error);
    g_assert_null(crypto_volume_new(&essiv, key, 16, &error));
    g_assert_nonnull(strstr(error->message, "wants a key of 32 bytes"));
}

static void test_splitter(void)
{
    g_assert_true(crypto_load(NULL));
    for (int hash = 0; hash < CRYPTO_HASH_COUNT; hash++) {
        uint8_t key[64], back[64], split[64 * 100];

        g_assert_true(crypto_random(key, sizeof(key), NULL));
        g_assert_true(crypto_af_split((CryptoHash)hash, key, 64, 100, split, NULL));
        crypto_af_merge((CryptoHash)hash, split, 64, 100, back);
        g_assert_cmpmem(key, 64, back, 64);
        split[1234] ^= 1; /* one bit lost is all lost */
        crypto_af_merge((CryptoHash)hash, split, 64, 100, back);
        g_assert_cmpint(memcmp(key, back, 64), !=, 0);
    }
}

/* ---- headers ---- */

static LuksHeader sample(void)
{
    LuksHeader h = { .spec = { CRYPTO_SERPENT_256, CRYPTO_CBC, CRYPTO_IV_ESSIV, CRYPTO_SHA256 },
                     .hash = CRYPTO_RIPEMD160,
                     .payload_sectors = 4096,
                     .key_bytes = 32,
                     .digest_iterations = 1234,
                     .uuid = "123e4567-e89b-42d3-a456-426614174000" };

    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        h.slots[i] = (LuksSlot){ i == 3, i == 3 ? 5000 : 0, 8 + i * 256, LUKS_STRIPES, { (uint8_t)i } };
    }
    return h;
}

static void test_header(void)
{
    LuksHeader h = sample(), back;
    uint8_t data[LUKS_HEADER_BYTES];
    g_autoptr(GError) error = NULL;

    luks_header_encode(&h, data);
    g_assert_cmpint(luks_probe(data, sizeof(data), NULL), ==, 100);
    g_assert_true(luks_header_decode(&back, data, &error));
    g_assert_no_error(error);
    g_assert_cmpint(back.spec.alg, ==, h.spec.alg);
    g_assert_cmpint(back.spec.iv, ==, CRYPTO_IV_ESSIV);
    g_assert_cmpint(back.hash, ==, CRYPTO_RIPEMD160);
    g_assert_cmpstr(back.uuid, ==, h.uuid);
    g_assert_true(back.slots[3].active && !back.slots[2].active);
    g_assert_cmpuint(back.slots[3].iterations, ==, 5000);
    g_assert_cmpuint(back.slots[7].offset_sectors, ==, 8 + 7 * 256);
}

static void expect_bad(size_t at, size_t bytes, uint32_t value, const char *why)
{
    LuksHeader h = sample();
    uint8_t data[LUKS_HEADER_BYTES];
    g_autoptr(GError) error = NULL;

    luks_header_encode(&h, data);
    for (size_t i = 0; i < bytes; i++) {
        data[at + i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
    }
    g_assert_false(luks_header_decode(&h, data, &error));
    g_assert_nonnull(strstr(error->message, why));
}

static void test_bad_headers(void)
{
    expect_bad(0, 1, 'X', "not in LUKS format");
    expect_bad(6, 2, 2, "version 2 is not supported");
    expect_bad(8, 4, 0x41414141, "Algorithm 'AAAAent' not supported");
    expect_bad(40, 4, 0x7878782d, "Cipher mode 'xxx' not supported");
    expect_bad(72, 4, 0x6d643939, "Hash algorithm");
    expect_bad(104, 4, 1, "overlapping with the header");
    expect_bad(104, 4, 1000, "overlapping with the encrypted payload");
    expect_bad(108, 4, 0, "master key of 0 bytes");
    expect_bad(108, 4, 0xffffffff, "master key of 4294967295 bytes");
    expect_bad(108, 4, 20, "key size 20 bytes not supported");
    expect_bad(164, 4, 0, "iteration count is zero");
    expect_bad(208, 4, 5, "Keyslot 0 state");
    expect_bad(208 + 40, 4, 1, "Keyslot 0 is overlapping with the LUKS header");
    expect_bad(208 + 40, 4, 300, "Keyslots 0 and 1 are overlapping");
    expect_bad(208 + 40, 4, 0xfffffff0, "Keyslot 0 is overlapping with the encrypted payload");
    expect_bad(208 + 44, 4, 4001, "Keyslot 0 is corrupted (stripes 4001 != 4000)");
    expect_bad(208 + 3 * 48 + 4, 4, 0, "Keyslot 3 iteration count is zero");
}

/* ---- images ---- */

static Loop *loop;
static BlockGraph *graph;
static Object *root_object;
static char *dir, *path;

static void add_secret(const char *id, const char *value)
{
    g_autofree char *text = g_strdup_printf("secret,id=%s,data=%s", id, value);
    g_autoptr(GError) error = NULL;

    g_assert_true(user_creatable_add_text(root_object, text, &error));
    g_assert_no_error(error);
}

static BlockChild *open_with(const char *driver, const char *secret, GError **error)
{
    json_object *o = json_object_new_object();
    BlockNode *node;

    json_object_object_add(o, "driver", json_object_new_string(driver));
    json_object_object_add(o, "read-only", json_object_new_boolean(false));
    if (secret) {
        json_object_object_add(o, strcmp(driver, "luks") == 0 ? "key-secret" : "encrypt.key-secret",
                               json_object_new_string(secret));
    }
    node = block_node_open_image(graph, path, o, 0, error);
    json_object_put(o);
    return node ? block_root_new(node, "test",
                                 BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE,
                                 BLOCK_PERM_ALL, NULL, NULL, error)
                : NULL;
}

static void make(const char *driver, const char *options)
{
    g_auto(GStrv) parts = g_strsplit(options, ",", -1);
    json_object *o = json_object_new_object();
    g_autoptr(GError) error = NULL;

    for (char **p = parts; *p; p++) {
        char *eq = strchr(*p, '=');

        *eq++ = 0;
        json_object_object_add(o, *p, json_object_new_string(eq));
    }
    block_image_create(graph, driver, path, 1 << 20, o, false, &error);
    g_assert_no_error(error);
    json_object_put(o);
}

typedef struct Amend {
    BlockNode *node;
    json_object *options;
    bool force, ok;
    GError *error;
} Amend;

static void amend_entry(void *opaque)
{
    Amend *a = opaque;

    a->ok = a->node->driver->co_amend(a->node, a->options, a->force, NULL, NULL, &a->error);
}

/* NULL: it went well; or the message, which the caller frees. */
static char *amend(const char *driver, const char *secret, const char *options, bool force)
{
    const char *prefix = strcmp(driver, "luks") == 0 ? "" : "encrypt.";
    g_auto(GStrv) parts = g_strsplit(options, ",", -1);
    g_autoptr(GError) error = NULL;
    BlockChild *root = open_with(driver, secret, &error);
    Amend a = { root->node, json_object_new_object(), force, false, NULL };
    char *message;

    g_assert_no_error(error);
    for (char **p = parts; *p; p++) {
        char *eq = strchr(*p, '=');
        g_autofree char *name = NULL;

        *eq++ = 0;
        name = g_strconcat(prefix, *p, NULL);
        json_object_object_add(a.options, name, json_object_new_string(eq));
    }
    block_run(graph, amend_entry, &a);
    g_assert_true(a.ok == !a.error);
    message = a.error ? g_strdup(a.error->message) : NULL;
    g_clear_error(&a.error);
    json_object_put(a.options);
    block_root_free(root);
    return message;
}

static void expect_opens(const char *driver, const char *secret, bool opens)
{
    g_autoptr(GError) error = NULL;
    BlockChild *root = open_with(driver, secret, &error);

    if (opens) {
        g_assert_no_error(error);
        block_root_free(root);
    } else {
        g_assert_null(root);
        g_assert_nonnull(strstr(error->message, "Invalid password, cannot unlock any keyslot"));
    }
}

static void test_image(gconstpointer data)
{
    const char *driver = data;
    g_autofree uint8_t *buf = g_malloc(100000), *back = g_malloc(100000);
    g_autofree char *options = g_strdup_printf(
        "%s%skey-secret=s0,%siter-time=1", strcmp(driver, "luks") == 0 ? "" : "encrypt.format=luks,",
        strcmp(driver, "luks") == 0 ? "" : "encrypt.", strcmp(driver, "luks") == 0 ? "" : "encrypt.");
    g_autofree char *bytes = NULL, *message = NULL;
    g_autoptr(GError) error = NULL;
    BlockChild *root;
    gsize size;

    memset(buf, 0x5a, 100000);
    make(driver, options);
    g_assert_null(open_with(driver, NULL, &error));
    g_assert_nonnull(strstr(error->message, "key-secret' is required for cipher"));
    g_clear_error(&error);
    expect_opens(driver, "s1", false);
    root = open_with(driver, "s0", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(block_size(root), ==, 1 << 20);
    /* Of any place and length; what is around stays. */
    g_assert_cmpint(blk_pwrite(root, 1000, 77777, buf, 0), ==, 0);
    g_assert_cmpint(blk_pwrite(root, 70001, 3, "abc", 0), ==, 0);
    memcpy(buf + 69001, "abc", 3);
    g_assert_cmpint(blk_pread(root, 1000, 77777, back, 0), ==, 0);
    g_assert_cmpmem(back, 77777, buf, 77777);
    block_root_free(root);
    /* Nothing of it can be read in the file. */
    g_assert_true(g_file_get_contents(path, &bytes, &size, NULL));
    g_assert_null(memmem(bytes, size, buf, 64));
    root = open_with(driver, "s0", &error);
    g_assert_no_error(error);
    g_assert_cmpint(blk_pread(root, 1000, 77777, back, 0), ==, 0);
    g_assert_cmpmem(back, 77777, buf, 77777);
    block_root_free(root);

    /* Passwords come and go. */
    g_assert_null(amend(driver, "s0", "state=active,new-secret=s1,iter-time=1", false));
    g_assert_null(amend(driver, "s1", "state=active,new-secret=s2,iter-time=1,keyslot=5", false));
    expect_opens(driver, "s2", true);
    message = amend(driver, "s1", "state=active,new-secret=s2,iter-time=1,keyslot=5", false);
    g_assert_cmpstr(message, ==, "Refusing to overwrite active keyslot 5 - please erase it first");
    g_assert_null(amend(driver, "s1", "state=inactive,old-secret=s0", false));
    expect_opens(driver, "s0", false);
    g_assert_null(amend(driver, "s1", "state=inactive,keyslot=5", false));
    expect_opens(driver, "s2", false);
    g_free(message);
    message = amend(driver, "s1", "state=inactive,old-secret=s1", false);
    g_assert_nonnull(strstr(message, "All the active keyslots match"));
    g_free(message);
    message = amend(driver, "s1", "state=active,new-secret=s1,keyslot=8", false);
    g_assert_nonnull(strstr(message, "Invalid keyslot 8"));
    g_free(message);
    message = amend(driver, "s1", "state=inactive", false);
    g_assert_nonnull(strstr(message, "either explicit keyslot index or the password"));
    root = open_with(driver, "s1", &error);
    g_assert_no_error(error);
    g_assert_cmpint(blk_pread(root, 1000, 77777, back, 0), ==, 0);
    g_assert_cmpmem(back, 77777, buf, 77777);
    block_root_free(root);
}

/* The old way of qcow2: the password is the key, and a wrong one is not noticed. */
static void test_aes(void)
{
    g_autofree uint8_t *zero = g_malloc0(65536);
    uint8_t buf[4096], back[4096];
    g_autoptr(GError) error = NULL;
    BlockChild *root;

    memset(buf, 7, sizeof(buf));
    make("qcow2", "encrypt.format=aes,encrypt.key-secret=s0");
    root = open_with("qcow2", "s0", &error);
    g_assert_no_error(error);
    g_assert_cmpint(blk_pwrite(root, 512, sizeof(buf), buf, 0), ==, 0);
    g_assert_cmpint(blk_pread(root, 512, sizeof(buf), back, 0), ==, 0);
    g_assert_cmpmem(back, sizeof(back), buf, sizeof(buf));
    g_assert_cmpint(blk_pwrite(root, 65536, 65536, zero, BLOCK_REQ_WRITE_COMPRESSED), ==, -ENOTSUP);
    block_root_free(root);
    root = open_with("qcow2", "s1", &error);
    g_assert_no_error(error);
    g_assert_cmpint(blk_pread(root, 512, sizeof(buf), back, 0), ==, 0);
    g_assert_cmpint(memcmp(back, buf, sizeof(buf)), !=, 0);
    block_root_free(root);
}

/* A header that asks for minutes of work, or lies behind the file's end, is refused at once. */
static void test_hostile(void)
{
    uint8_t many[4] = { 0xff, 0xff, 0xff, 0xff };
    g_autoptr(GError) error = NULL;
    int fd;

    make("luks", "key-secret=s0,iter-time=1");
    fd = open(path, O_RDWR);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, many, 4, 208 + 4), ==, 4);
    g_assert_null(open_with("luks", "s0", &error));
    g_assert_nonnull(strstr(error->message, "asks for 4294967295 iterations"));
    g_clear_error(&error);
    g_assert_cmpint(ftruncate(fd, 100000), ==, 0);
    g_assert_null(open_with("luks", "s0", &error));
    g_assert_nonnull(strstr(error->message, "ends before the encrypted disk begins"));
    g_clear_error(&error);
    g_assert_cmpint(ftruncate(fd, 100), ==, 0);
    g_assert_null(open_with("luks", "s0", &error));
    g_assert_nonnull(strstr(error->message, "too small for a LUKS header"));
    close(fd);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    loop = loop_new(NULL, NULL);
    loop_make_current(loop);
    root_object = object_new(TYPE_CONTAINER, NULL);
    graph = block_graph_new(loop, NULL);
    block_graph_set_objects(graph, root_object);
    dir = g_dir_make_tmp("rhea-luks-XXXXXX", NULL);
    path = g_build_filename(dir, "image", NULL);
    add_secret("s0", "first");
    add_secret("s1", "second");
    add_secret("s2", "third");
    g_test_add_func("/crypto/pbkdf2", test_pbkdf2);
    g_test_add_func("/crypto/xts", test_xts);
    g_test_add_func("/crypto/ciphers", test_ciphers);
    g_test_add_func("/crypto/splitter", test_splitter);
    g_test_add_func("/luks/header", test_header);
    g_test_add_func("/luks/bad-headers", test_bad_headers);
    g_test_add_data_func("/luks/image", "luks", test_image);
    g_test_add_data_func("/luks/qcow2", "qcow2", test_image);
    g_test_add_func("/luks/aes", test_aes);
    g_test_add_func("/luks/hostile", test_hostile);
    ret = g_test_run();
    block_graph_free(graph);
    object_unref(root_object);
    loop_make_current(NULL);
    loop_free(loop);
    unlink(path);
    rmdir(dir);
    g_free(path);
    g_free(dir);
    return ret;
}
