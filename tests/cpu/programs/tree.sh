#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes the tree in which programs_test.py runs its jobs: Debian's packages, unpacked and not configured.
#   tree.sh [-s] DIRECTORY
# Leaves DIRECTORY/tree and DIRECTORY/tree.ext4 (the same, as a disk). -s: with OpenSSL's own test programs, built from
# Debian's sources (some minutes of the processor). Nothing is done where that is there and newer than this script.
set -eu
with_tests=
if [ "${1-}" = -s ]; then
    with_tests=yes
    shift
fi
[ $# = 1 ] || { echo "usage: $0 [-s] DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)

packages=dash,bash,coreutils,sed,grep,findutils,diffutils,mawk,tar,util-linux,libc-bin,procps,base-files,base-passwd
packages=$packages,gcc,libc6-dev,openssl,zstd,xz-utils,gzip,bzip2,bc,perl,sqlite3,ffmpeg,stress-ng,valgrind
packages=$packages,python3,libpython3.11-testsuite,python3-numpy,python3-pytest,python3-hypothesis,pypy3
packages=$packages,nodejs,openjdk-17-jdk-headless,luajit,sbcl

changed=
if [ ! "$out/tree.made" -nt "$0" ]; then
    echo "programs: unpacking Debian packages in $out/tree" >&2
    rm -rf "$out/tree" "$out/tree.made"
    mmdebstrap --quiet --variant=extract --include="$packages" bookworm "$out/tree" >&2
    cp "$out/tree/usr/share/base-passwd/passwd.master" "$out/tree/etc/passwd"
    cp "$out/tree/usr/share/base-passwd/group.master" "$out/tree/etc/group"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$out/tree/etc/hosts"
    mkdir -p "$out/tree/work" "$out/tree/var/tmp"
    ln -s mawk "$out/tree/usr/bin/awk"
    # Cut: what no job reads.
    rm -rf "$out/tree/usr/share/doc" "$out/tree/usr/share/locale" "$out/tree/usr/share/man" "$out/tree/var/cache/apt"
    : >"$out/tree.made"
    changed=yes
fi
if [ -n "$with_tests" ] && [ ! -d "$out/tree/opt/openssl" ]; then
    echo "programs: building OpenSSL's tests" >&2
    mkdir -p "$out/source"
    cd "$out/source"
    # Debian's changes do not matter here: upstream's archive is enough.
    url=$(apt-get source --print-uris -qq openssl | sed -n "s/^'\([^']*orig\.tar\.[a-z0-9]*\)'.*/\1/p" | head -n 1)
    [ -n "$url" ] || { echo "$0: apt knows no source of openssl: add deb-src lines" >&2; exit 1; }
    [ -e openssl.orig.tar ] || { apt-get source -qq --download-only -o APT::Sandbox::User=root openssl >&2 || true
                                 mv openssl_*.orig.tar.?z openssl.orig.tar; }
    mkdir -p openssl
    tar -C openssl --strip-components=1 -xf openssl.orig.tar
    cd openssl
    ./Configure linux-x86_64 no-shared no-module >configure.log
    programs=$(cd test && ls *test.c | sed 's/\.c$//' | grep -E '^(evp_|bn|ec|exp|rsa_|rsa_mp_|dsa|dh|sha_|hmac|des|idea|rc4|sanity|lhash_|bio_enc_|ecdsa|igetest|packet|constant_time_|aesgcm|sparse_array_|(poly1305|chacha|curve448|modes|siphash|sm2|sm4|ffc|asn1)_internal_)test$|^(igetest|ectest)$' | sed 's,^,test/,')
    # shellcheck disable=SC2086
    make -s -j"${JOBS:-1}" build_generated libcrypto.a libssl.a providers/liblegacy.a >make.log
    # shellcheck disable=SC2086
    make -s -j"${JOBS:-1}" $programs >>make.log
    mkdir -p "$out/tree/opt/openssl.new/test/recipes" "$out/tree/opt/openssl.new/apps"
    # shellcheck disable=SC2086
    cp $programs test/default.cnf test/default-and-legacy.cnf "$out/tree/opt/openssl.new/test/"
    cp -r test/recipes/30-test_evp_data test/recipes/10-test_bn_data "$out/tree/opt/openssl.new/test/recipes/"
    cp apps/openssl.cnf "$out/tree/opt/openssl.new/apps/"
    mv "$out/tree/opt/openssl.new" "$out/tree/opt/openssl"
    changed=yes
fi
if [ -n "$changed" ] || [ ! -e "$out/tree.ext4" ]; then
    echo "programs: making $out/tree.ext4" >&2
    rm -f "$out/tree.ext4"
    size=$(($(du -sm "$out/tree" | cut -f1) * 5 / 4 + 128))
    mkfs.ext4 -q -F -O ^has_journal -d "$out/tree" "$out/tree.ext4.new" "${size}M" >/dev/null
    mv "$out/tree.ext4.new" "$out/tree.ext4"
fi
