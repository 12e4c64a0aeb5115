# Compressed streams are the same everywhere, and decompress to what they were made of.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
set -e
cat "$FILES"/*.i | head -c 2500000 >text
head -c 2500000 /usr/lib/x86_64-linux-gnu/libcrypto.so.3 >binary
seq 1 3 600000 >numbers
for file in text binary numbers; do
    for options in "zstd -q -1 -T1" "zstd -q -9 -T2" "zstd -q -13 --long=24 -T1" "xz -2 -T1" "xz -6 -T2" "gzip -n -1" "gzip -n -9" "bzip2 -1" "bzip2 -9"; do
        set -- $options
        program=$1
        shift
        $program "$@" -c <$file >packed
        sha256sum <packed
        $program -d -c <packed | cmp - $file
        $program -t <packed
    done
done
tar --sort=name --mtime=@0 --owner=0 --group=0 --exclude=__pycache__ -C /usr/lib/python3.11 -cf - json email unittest | tee archive | sha256sum
mkdir out
tar -C out -xf archive
diff -r --exclude=__pycache__ /usr/lib/python3.11/json out/json
md5sum binary; sha1sum binary; sha512sum binary; b2sum binary; cksum binary; cksum -a crc binary
sort -R --random-source=text numbers | sort -n | cmp - numbers
sort --parallel=2 -k1.2,1.4 -s numbers | sha256sum
base64 binary | base64 -d | cmp - binary
factor 18446744073709551557 1000000000000000000000007 18446744082299486207
