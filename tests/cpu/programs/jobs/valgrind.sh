# Another translator of machine code, in this one: what it runs and what it finds.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
set -e
seq 1 20000 >data
valgrind --tool=none -q sha256sum data
valgrind --tool=none -q gzip -n -c data | sha256sum
valgrind --tool=none -q --smc-check=all luajit -e 'local s = 0 for i = 1, 300000 do s = (s * 31 + i) % 1000003 end print(s)'
valgrind --tool=none -q sqlite3 :memory: 'with recursive r(i) as (select 1 union all select i + 1 from r where i < 3000) select sum(i * i), count(*) from r;'
valgrind --tool=memcheck -q --error-exitcode=9 openssl dgst -sha512 -r data
cat >bad.c <<'C'
#include <stdlib.h>
int main(int argc, char **argv) { char *p = malloc(8); free(argc > 5 ? argv : (void *)p); return p[argc]; }
C
gcc -O0 -g bad.c -o bad
valgrind --tool=memcheck --error-exitcode=9 ./bad 2>&1 | grep -c 'Invalid read' || true
