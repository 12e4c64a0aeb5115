# SPDX-License-Identifier: GPL-2.0-or-later
"""The real programs of `make bench-cpu`: Debian's own, taken from the host, with data that is made here.

Each runs in a directory that holds `data/`, on the host and in a guest alike, and what it writes is compared. The sizes
are for about 0.2 s natively. What a guest needs of the host (programs, their libraries, modules of python and perl) is
found with ldd and by asking the interpreters.
"""
import pathlib
import random
import re
import shutil
import subprocess

PACKAGES = "openssl libssl3 perl sqlite3 zstd xz-utils bzip2 bc mawk python3 gzip tar gcc binutils"
CRYPTO = "./crypto"  # tests/bench/cpu/crypto.c, in the working directory


class Real:
    def __init__(self, name, argv, stdin="-", out="-"):
        self.name, self.argv, self.stdin, self.out = name, argv, stdin, out


PYTHON = ["/usr/bin/python3", "-I", "-S", "-B"]
PROGRAMS = [
    Real("openssl_sha256", [CRYPTO, "sha256", "16000"]),
    Real("openssl_aes", [CRYPTO, "aes", "30000"]),
    Real("openssl_chacha", [CRYPTO, "chacha", "40000"]),
    Real("openssl_bignum", [CRYPTO, "bignum", "70"]),
    Real("gcc", ["/usr/bin/gcc", "-O2", "-S", "-o", "out.s", "data/source.i"], out="out.s"),
    Real("as", ["/usr/bin/as", "-o", "out.o", "data/source.s"], out="out.o"),
    Real("python_float", [*PYTHON, "data/float.py"]),
    Real("python_int", [*PYTHON, "data/int.py"]),
    Real("python_text", [*PYTHON, "data/text.py"]),
    Real("perl", ["/usr/bin/perl", "data/words.pl", "data/half", "data/half"]),
    Real("sqlite", ["/usr/bin/sqlite3", "-batch", ":memory:"], stdin="data/script.sql"),
    Real("sh_loop", ["/usr/bin/dash", "data/loop.sh"]),
    Real("bc", ["/usr/bin/bc", "-q", "-l"], stdin="data/script.bc"),
    Real("awk", ["/usr/bin/mawk", "-f", "data/script.awk"] + ["data/text"] * 4),
    Real("sed", ["/usr/bin/sed", "-E", "-f", "data/script.sed", "data/half"]),
    Real("grep", ["/usr/bin/grep", "-n", "-E", "(ka|lo)[a-m]+ri.*([aeiou])\\2|^to.*mi$"] + ["data/text"] * 10),
    Real("sort", ["/usr/bin/sort", "data/lines"]),
    Real("tar", ["/usr/bin/tar", "-cf", "out.tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0",
                 "--numeric-owner"] + ["data/tree"] * 30, out="out.tar"),
    Real("gzip", ["/usr/bin/gzip", "-n", "-3", "-c", "data/text"]),
    Real("bzip2", ["/usr/bin/bzip2", "-c", "data/half", "data/half"]),
    Real("xz", ["/usr/bin/xz", "-T1", "-2", "-c", "data/half"]),
    Real("zstd", ["/usr/bin/zstd", "-q", "--single-thread", "-8", "-c", "data/text"]),
    Real("unzstd", ["/usr/bin/zstd", "-q", "-d", "-c"] + ["data/text.zst"] * 24),
    Real("sha256sum", ["/usr/bin/sha256sum"] + ["data/text"] * 12),
]

SCRIPTS = {
    "float.py": """
def energy(n):
    x, y, vx, vy, total = 1.0, 0.0, 0.0, 0.9, 0.0
    for i in range(n):
        r2 = x * x + y * y
        f = -1.0 / (r2 * r2 ** 0.5)
        vx += f * x * 0.001
        vy += f * y * 0.001
        x += vx * 0.001
        y += vy * 0.001
        total += 0.5 * (vx * vx + vy * vy) - 1.0 / r2 ** 0.5
    return total
print(repr(energy(480000)))
""",
    "int.py": """
def collatz(limit):
    best = 0
    lengths = {1: 1}
    for start in range(2, limit):
        n, steps, path = start, 0, []
        while n not in lengths:
            path.append(n)
            n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps = lengths[n]
        for value in reversed(path):
            steps += 1
            lengths[value] = steps
        best = max(best, (steps, start), key=lambda x: x) if best else (steps, start)
    return best
print(collatz(90000))
print(pow(3, 20001) % 10 ** 40, sum(i * i % 7 for i in range(300000)))
""",
    "text.py": """
import re
text = open("data/half").read()
counts = {}
for word in text.split():
    counts[word] = counts.get(word, 0) + 1
top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:50]
print(top)
print(len(re.findall(r"\\b[aeiou]\\w*([a-z])\\1", text)))
print(len(text.title().replace("Ka", "-").upper()), "".join(sorted(set(text))).strip())
""",
    "words.pl": """
use strict;
my (%count, $pairs, $joined);
while (<>) {
    for my $word (split) { $count{$word}++; }
    $pairs++ while /([aeiou])[a-z]\\1/g;
    s/(ka|to)(\\w+)/$2$1/g;
    $joined += length;
}
my @top = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
printf "%d %d %d %s\\n", scalar(@top), $pairs, $joined, join(",", @top[0 .. 20]);
""",
    "script.sql": """
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INT, amount INT, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70000)
INSERT INTO orders SELECT i, i * 7919 % 997, i * 104729 % 10007, 'note ' || (i * 31 % 1009) FROM n;
CREATE INDEX by_customer ON orders(customer, amount);
SELECT customer, count(*), sum(amount), max(note) FROM orders GROUP BY customer ORDER BY 3 DESC LIMIT 20;
SELECT count(*) FROM orders a JOIN orders b ON a.customer = b.id WHERE b.amount > 5000;
UPDATE orders SET amount = amount + 1 WHERE customer % 3 = 0;
SELECT sum(amount), count(DISTINCT note) FROM orders WHERE note LIKE '%7%';
""",
    "loop.sh": """
i=0 sum=0 text=
while [ $i -lt 60000 ]; do
    sum=$(((sum * 31 + i) % 1000003))
    case $sum in
    *7) text=x$sum ;;
    1*|2*) text=${text%?} ;;
    esac
    i=$((i + 1))
done
echo $sum $text
""",
    "script.bc": "scale=500\n4*a(1)\ne(1)\ns=1\nfor(i=1;i<800;i++){s*=i}\ns\n",
    "script.awk": """
{ words += NF; for (i = 1; i <= NF; i += 3) length_of[length($i)]++; if ($1 ~ /^[k-t]/) starts[substr($1, 1, 2)] += NR }
END { for (n = 1; n < 40; n++) printf "%d ", length_of[n]; print words, starts["ka"], starts["to"] }
""",
    "script.sed": "s/([aeiou])([a-z])/\\2\\1/g\ns/^(.*) ([a-z]+)$/\\2 \\1/\n/ka.*to/d\ny/abc/xyz/\n",
}

SOURCE_FUNCTION = """
struct item_N { int key, count; struct item_N *next; };
static int table_N[64];
int find_N(struct item_N *list, int key, int *steps)
{
    for (; list; list = list->next) {
        ++*steps;
        if (list->key == key + N)
            return list->count;
    }
    return -N;
}
void spread_N(const unsigned char *text, long size)
{
    for (long i = 0; i < size; i++) {
        switch (text[i] & 7) {
        case 0: table_N[text[i] >> 2]++; break;
        case 3: table_N[i & 63] -= N; break;
        case 5: table_N[(i * 7 + N) & 63] ^= text[i]; break;
        default: table_N[0] += text[i] * 3;
        }
    }
}
double mean_N(const double *x, int n, double low)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] < low ? low : x[i] * N;
    return n ? sum / n : low;
}
"""


def make_text(size):
    """Lines of made-up words whose frequencies fall as those of a language do."""
    chance = random.Random(20240607)
    syllables = [c + v for c in "kltmnrsdpv" for v in "aeiou"]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(4000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    lines, total = [], 0
    while total < size:
        line = " ".join(chance.choices(words, weights, k=chance.randint(3, 14)))
        lines.append(line)
        total += len(line) + 1
    return lines


def make_data(data, source_dir):
    """Fills the directory `data`; the compiler's input is one of the benchmark's own files."""
    shutil.rmtree(data, ignore_errors=True)
    (data / "tree").mkdir(parents=True)
    lines = make_text(4 << 20)
    text = "\n".join(lines) + "\n"
    (data / "text").write_text(text)
    (data / "half").write_text(text[:len(text) // 4])
    chance = random.Random(7)
    (data / "lines").write_text("".join(f"{chance.choice(lines)[:30]} {chance.randrange(10 ** 9)}\n"
                                        for _ in range(270000)))
    for number in range(600):
        folder = data / "tree" / f"folder{number % 20}"
        folder.mkdir(exist_ok=True)
        (folder / f"file{number}").write_text(text[number * 1000:number * 1000 + chance.randrange(12000)])
    for name, script in SCRIPTS.items():
        (data / name).write_text(script)
    subprocess.run(["/usr/bin/gcc", "-E", "-P", "-o", data / "source.i", source_dir / "integer.c"], check=True)
    generated = data / "generated.c"
    generated.write_text("".join(re.sub(r"\bN\b|(?<=_)N\b", str(n), SOURCE_FUNCTION) for n in range(1, 1500)))
    subprocess.run(["/usr/bin/gcc", "-O2", "-S", "-o", data / "source.s", generated], check=True)
    generated.unlink()
    subprocess.run(["/usr/bin/zstd", "-q", "-f", "-9", data / "text", "-o", data / "text.zst"], check=True)


def output(argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def host_files(crypto):
    """Every file of the host that the programs open: absolute paths."""
    programs = {real.argv[0] for real in PROGRAMS if real.argv[0].startswith("/")}
    compiler = output(["/usr/bin/gcc", "-print-prog-name=cc1"]).strip()
    files = programs | {compiler}
    for program in sorted(files) + [str(crypto)]:
        files |= set(re.findall(r"(/\S+) \(0x", output(["ldd", program])))
    modules = output([*PYTHON, "-c", "import re, sys, encodings.utf_8, encodings.ascii, encodings.latin_1, codecs, io, "
                      "os, site\nfor m in list(sys.modules.values()):\n"
                      "    f = getattr(m, '__file__', None)\n    if f: print(f)\n    c = getattr(m, '__cached__', None)\n"
                      "    if c: print(c)"])
    files |= {line for line in modules.split() if pathlib.Path(line).exists()}
    modules = output(["/usr/bin/perl", "-e", "use strict; print join(\"\\n\", values %INC)"])
    files |= set(modules.split())
    return sorted(files)


def copy_into(root, files):
    """Copies host files below `root` at the paths they are asked for by, whatever links lead there."""
    for path in files:
        # /bin, /lib and /lib64 are links into /usr, as on the host.
        target = root / re.sub(r"^/(bin|sbin|lib|lib32|lib64)/", r"/usr/\1/", path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
