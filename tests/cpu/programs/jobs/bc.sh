# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
set -e
bc -l <<'B'
scale=700; 4*a(1)
e(1)
scale=200; s(1)^2+c(1)^2
2^4423-1
define f(n){if(n<2)return 1;return n*f(n-1)}
f(400)
B
for n in 1000000016000000063 2305843009213693951 18446744073709551615 1208925819614629174706189; do factor $n; done
seq 1 100000 | awk '{ s += sin($1) * sqrt($1); p = (p * 31 + $1) % 1000003 } END { printf "%.12f %d\n", s, p }'
