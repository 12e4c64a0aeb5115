/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `openssl speed` measures, over a fixed amount of data and with a result that can be compared. It uses
 * Debian's libcrypto.so.3 without its development package: the few functions are declared here as their
 * manual pages say. crypto sha256|aes|chacha|bignum COUNT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Cipher Cipher;
typedef struct Context Context;
typedef struct Number Number;

const Cipher *EVP_aes_128_gcm(void);
const Cipher *EVP_chacha20(void);
Context *EVP_CIPHER_CTX_new(void);
int EVP_EncryptInit_ex(Context *, const Cipher *, void *engine, const unsigned char *key,
                       const unsigned char *iv);
int EVP_EncryptUpdate(Context *, unsigned char *out, int *length, const unsigned char *in, int in_length);
unsigned char *SHA256(const unsigned char *data, size_t size, unsigned char *digest);
Number *BN_new(void);
void *BN_CTX_new(void);
Number *BN_bin2bn(const unsigned char *bytes, int size, Number *to);
int BN_bn2binpad(const Number *, unsigned char *to, int size);
int BN_mod_exp(Number *result, const Number *base, const Number *power, const Number *modulus, void *context);

enum { SIZE = 16384 };

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "crypto: %s failed\n", what);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static unsigned char data[SIZE], out[SIZE + 64], key[64];
    const char *what = argc == 3 ? argv[1] : "";
    long count = argc == 3 ? atol(argv[2]) : 0;
    int length = 0;

    for (unsigned i = 0; i < SIZE; i++)
        data[i] = (unsigned char)(i * 167 + (i >> 8) * 13 + 41);
    if (!strcmp(what, "sha256")) {
        for (long i = 0; i < count; i++) {
            SHA256(data, SIZE, out);
            memcpy(data + i % 500 * 32, out, 32);
        }
        length = 32;
    } else if (!strcmp(what, "aes") || !strcmp(what, "chacha")) {
        Context *context = EVP_CIPHER_CTX_new();
        check(
            EVP_EncryptInit_ex(context, what[0] == 'a' ? EVP_aes_128_gcm() : EVP_chacha20(), NULL, key, key),
            "EVP_EncryptInit_ex");
        for (long i = 0; i < count; i++)
            check(EVP_EncryptUpdate(context, out, &length, data, SIZE), "EVP_EncryptUpdate");
    } else if (!strcmp(what, "bignum")) {
        /* 2048 bits: x = x^power mod (odd modulus), as an RSA signature without its remainders' theorem */
        data[255] |= 1;
        data[0] |= 0x80;
        Number *modulus = BN_bin2bn(data, 256, NULL), *power = BN_bin2bn(data + 1000, 256, NULL);
        Number *x = BN_bin2bn(data + 2001, 200, NULL);
        void *context = BN_CTX_new();
        check(modulus && power && x && context, "BN_bin2bn");
        for (long i = 0; i < count; i++)
            check(BN_mod_exp(x, x, power, modulus, context), "BN_mod_exp");
        length = BN_bn2binpad(x, out, 256);
    } else {
        fprintf(stderr, "usage: crypto sha256|aes|chacha|bignum COUNT\n");
        return 2;
    }
    check(length > 0 && fwrite(out, (size_t)length, 1, stdout) == 1, "the output");
    return 0;
}
