# gcc compiles and assembles what the preprocessor made of some of Rhea's own files, some thousand lines each.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
set -e
for source in "$FILES"/*.i; do
    name=$(basename "$source" .i)
    gcc -O2 -g -c "$source" -o "$name.o"
    sha256sum "$name.o"
done
gcc -O3 -march=x86-64-v4 -S "$FILES/decode.i" -o v4.s
sha256sum v4.s
gcc -O1 -fsanitize=undefined -S "$FILES/varying.i" -o sanitized.s
sha256sum sanitized.s
gcc -O2 -static -pthread "$FILES/soak_guest.c" -o program -lm
./program work
