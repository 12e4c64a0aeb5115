# OpenSSL's own tests, where tree.sh was told to build them: the results of each test program.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 900
[ -d /opt/openssl ] || { echo "not built"; exit 0; }
cd /opt/openssl/test || exit 1
export OPENSSL_CONF=/opt/openssl/apps/openssl.cnf
run() {
    "$@" >/work/tmp/test.log 2>&1
    status=$?
    echo "$(basename "$*") $status"
    if [ $status != 0 ]; then echo "== $*"; tail -n 40 /work/tmp/test.log; fi >&2
}
for data in recipes/30-test_evp_data/*.txt; do run ./evp_test -config default-and-legacy.cnf "$data"; done
for program in sanitytest sha_test ectest exptest bntest rsa_test rsa_mp_test dsatest dhtest poly1305_internal_test \
    chacha_internal_test curve448_internal_test modes_internal_test siphash_internal_test sm2_internal_test \
    sm4_internal_test aesgcmtest ideatest hmactest destest lhash_test asn1_internal_test bio_enc_test \
    constant_time_test ecdsatest ffc_internal_test igetest packettest rc4test sparse_array_test; do
    [ -x ./$program ] && run ./$program
done
for data in recipes/10-test_bn_data/*.txt; do run ./bntest "$data"; done
