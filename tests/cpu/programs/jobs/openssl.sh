# The openssl program: digests, ciphers, keys, signatures; its self-made keys are checked against themselves only.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
set -e
seq 1 200000 >data
for digest in md5 sha1 sha224 sha256 sha384 sha512 sha512-256 sha3-256 sha3-512 shake128 shake256 blake2b512 blake2s256 sm3 ripemd160; do
    openssl dgst -"$digest" -r data || echo "no $digest"
    openssl dgst -"$digest" -hmac key -r data || echo "no hmac $digest"
done
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
iv=0f0e0d0c0b0a09080706050403020100
for cipher in aes-128-cbc aes-256-cbc aes-128-ctr aes-256-ctr aes-192-ecb aes-256-cfb aes-256-ofb chacha20 camellia-256-cbc aria-256-ctr sm4-ctr; do
    openssl enc -"$cipher" -K $key -iv $iv -in data -out enc 2>/dev/null || { echo "no $cipher"; continue; }
    sha256sum <enc
    openssl enc -d -"$cipher" -K $key -iv $iv -in enc | cmp - data
done
openssl enc -aes-256-cbc -pbkdf2 -iter 20000 -S 0102030405060708 -pass pass:word -in data | sha256sum
openssl kdf -keylen 32 -kdfopt pass:word -kdfopt salt:salt -kdfopt n:16384 -kdfopt r:8 -kdfopt p:1 SCRYPT
for bits in 1024 2048 3072; do
    openssl genrsa -out rsa$bits.pem $bits 2>/dev/null
    openssl rsa -in rsa$bits.pem -check -noout
    openssl rsa -in rsa$bits.pem -pubout -out pub.pem 2>/dev/null
    openssl dgst -sha256 -sign rsa$bits.pem -out sig data
    openssl dgst -sha256 -verify pub.pem -signature sig data
done
for curve in prime256v1 secp384r1 secp521r1 brainpoolP256r1 secp256k1; do
    openssl ecparam -name $curve -genkey -noout -out ec.pem
    openssl ec -in ec.pem -pubout -out pub.pem 2>/dev/null
    for i in 1 2 3 4 5; do
        openssl dgst -sha256 -sign ec.pem -out sig data
        openssl dgst -sha256 -verify pub.pem -signature sig data
    done
    openssl pkeyutl -derive -inkey ec.pem -peerkey pub.pem | wc -c
done
for kind in ed25519 ed448 x25519 x448; do
    openssl genpkey -algorithm $kind -out a.pem
    openssl pkey -in a.pem -pubout -out a.pub
    case $kind in
    ed*) openssl pkeyutl -sign -rawin -inkey a.pem -in "$FILES/soak_guest.c" -out sig
         openssl pkeyutl -verify -rawin -pubin -inkey a.pub -sigfile sig -in "$FILES/soak_guest.c" ;;
    x*) openssl genpkey -algorithm $kind -out b.pem
        openssl pkey -in b.pem -pubout -out b.pub
        [ "$(openssl pkeyutl -derive -inkey a.pem -peerkey b.pub | sha256sum)" = \
          "$(openssl pkeyutl -derive -inkey b.pem -peerkey a.pub | sha256sum)" ] && echo "$kind agrees" ;;
    esac
done
# Signed with a fixed key: the same signature everywhere.
openssl dgst -sha512 -sign "$FILES/rsa.pem" data | sha256sum
openssl prime -generate -bits 512 | xargs openssl prime | grep -c 'is prime'
# Each size and alignment that the assembly has a path of its own for.
for size in 1 15 16 17 63 64 65 127 128 129 255 256 257 511 512 513 1023 1024 4095 4096 65537; do
    head -c $size data >part
    openssl enc -aes-128-ctr -K ${key%????????????????????????????????} -iv $iv -in part | sha256sum
    openssl enc -chacha20 -K $key -iv $iv -in part | sha256sum
    openssl dgst -sha256 -r part
    openssl mac -macopt hexkey:$key -in part poly1305
    openssl mac -macopt hexkey:${key%????????????????????????????????} -macopt cipher:AES-128-CBC -in part CMAC
    openssl mac -macopt hexkey:$key -macopt hexiv:000102030405060708090a0b -macopt cipher:AES-256-GCM -in part GMAC
done
openssl speed -seconds 1 -evp aes-256-gcm >/dev/null
openssl speed -seconds 1 -evp chacha20-poly1305 >/dev/null
openssl speed -seconds 1 rsa2048 ecdsap256 >/dev/null
