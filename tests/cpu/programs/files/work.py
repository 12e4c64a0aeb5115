# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs whose results do not depend on what runs them."""
import hashlib
import json
import math
import re
import struct
import threading
import zlib

seed = 12345


def rnd():
    global seed
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return seed


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def queens(n, row=0, columns=0, left=0, right=0):
    if row == n:
        return 1
    found, free = 0, ((1 << n) - 1) & ~(columns | left | right)
    while free:
        bit = free & -free
        free ^= bit
        found += queens(n, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return found


def floats():
    s = 0.0
    for i in range(1, 60000):
        s += math.sin(i) / i + math.sqrt(i) - math.fmod(s, 3.3) + (i % 7) ** 0.5
        s = s if s < 1e6 else math.log(s)
    return s.hex()


def big():
    a, b = 1, 1
    for i in range(3000):
        a, b = b, a + b
    return digest(str(a * b // (a - 7)) + hex(pow(a, b % 10007, 2 ** 521 - 1)))


def objects():
    class Node:
        def __init__(self, value, link):
            self.value, self.link = value, link
    chains = [None] * 64
    for i in range(60000):
        chains[i % 64] = Node(rnd() % 1000, chains[i % 64] if i % 9 else None)
    total = 0
    for node in chains:
        while node:
            total, node = (total * 7 + node.value) % 1000003, node.link
    return total


def text():
    words = [format(rnd() % 50000, "x") for _ in range(20000)]
    count = {}
    for w in words:
        count[w[:2]] = count.get(w[:2], 0) + 1
    line = " ".join(words)
    return digest(json.dumps(count, sort_keys=True) + re.sub(r"([a-f])(\d)", r"\2\1", line)), len(re.findall(r"(\w)\1", line))


def packed():
    data = b"".join(struct.pack("<IhdQ", rnd(), rnd() % 30000 - 15000, rnd() / 7, rnd() << 20) for _ in range(5000))
    squeezed = zlib.compress(data, 6)
    return zlib.crc32(data), zlib.adler32(data), zlib.decompress(squeezed) == data


def threads():
    total, lock = [0], threading.Lock()

    def work(k):
        for i in range(5000):
            with lock:
                total[0] += i % (k + 1)
    all_of_them = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in all_of_them:
        t.start()
    for t in all_of_them:
        t.join()
    return total[0]


for f in (lambda: queens(8), floats, big, objects, text, packed, threads):
    seed = 12345
    print(f())
