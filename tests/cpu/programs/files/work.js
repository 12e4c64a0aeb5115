// SPDX-License-Identifier: GPL-2.0-or-later
// Programs that V8 optimises, has to give up on, and optimises again.
'use strict';
const crypto = require('crypto');
const digest = (value) => crypto.createHash('sha256').update(value).digest('hex').slice(0, 32);
let seed = 12345;
const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff);

function sieve(n) {
    const composite = new Uint8Array(n + 1);
    let count = 0;
    for (let i = 2; i <= n; i++) {
        if (!composite[i]) { count++; for (let j = i * i; j <= n; j += i) composite[j] = 1; }
    }
    return count;
}
function matrix(n) {
    const a = new Float64Array(n * n), b = new Float64Array(n * n), c = new Float64Array(n * n);
    for (let i = 0; i < n * n; i++) { a[i] = random() / 1e6; b[i] = random() / 1e7; }
    for (let i = 0; i < n; i++) for (let k = 0; k < n; k++) { const x = a[i * n + k]; for (let j = 0; j < n; j++) c[i * n + j] += x * b[k * n + j]; }
    return digest(Buffer.from(c.buffer));
}
// The same site sees more and more shapes: each makes what was optimised wrong.
function shapes() {
    const makers = [(i) => ({ v: i }), (i) => ({ a: 1, v: i + 0.5 }), (i) => ({ b: 2, c: 3, v: String(i) }), (i) => { const o = { v: i }; delete o.v; o.w = 1; o.v = -i; return o; },
        (i) => new (class { get v() { return i * 2; } })(), (i) => Object.create({ v: i }), (i) => ({ v: BigInt(i) })];
    const read = (o) => o.v;
    let out = '';
    for (let m = 0; m < makers.length; m++) {
        let sum = 0;
        for (let i = 0; i < 4000; i++) { const v = read(makers[i % (m + 1)](i)); sum = (sum * 31 + Number(v)) % 1000003; }
        out += sum + ' ';
    }
    return out;
}
function overflow() {
    const add = (a, b) => (a + b) | 0, product = (a, b) => a * b;
    let s = 0, p = 1;
    for (let i = 0; i < 30000; i++) { s = add(s, i * 65537); p = product(p % 65537, (i & 1023) + 1); }
    return [s, p, product(0x7fffffff, 0x7fffffff), product(-0, 5), 1 / product(0, -3)].join(' ');
}
function strings() {
    const words = [];
    for (let i = 0; i < 5000; i++) words.push(random().toString(36));
    const text = words.join(' ');
    return digest(text.replace(/([a-f])(\d+)/g, (_, a, b) => b + a.toUpperCase()).split(/\s+|(?<=z)/u).sort().join('|')) + ' ' + [...text.matchAll(/(\w)\1/g)].length;
}
function maps() {
    const map = new Map(), set = new Set(), object = {};
    for (let i = 0; i < 30000; i++) { const k = random() % 4096; map.set(k, (map.get(k) || 0) + i); set.add(k * 3 % 1000); object['k' + k % 300] = i; if (i % 7 === 0) map.delete(random() % 4096); }
    return digest(JSON.stringify([[...map].sort((a, b) => a[0] - b[0]), set.size, Object.entries(object)]));
}
function big() {
    let a = 1n, b = 1n;
    for (let i = 0; i < 2000; i++) [a, b] = [b, a + b];
    let f = 1n;
    for (let i = 1n; i <= 400n; i++) f *= i;
    return digest(a.toString() + f.toString(16) + (f / a).toString() + (f % b).toString() + BigInt.asIntN(64, f - a));
}
function floats() {
    let out = 0, text = [];
    for (let i = 1; i < 20000; i++) { out += Math.sin(i) * Math.exp(-i / 5000) + Math.atan2(i, 7) - Math.cbrt(i) + Math.log1p(i) + Math.hypot(i, 3) + Math.fround(i / 3) + (i % 2.7) + Math.pow(i, 0.37); if (i % 997 === 0) text.push(out.toString(), out.toFixed(5), out.toExponential(10), Math.round(out), Math.trunc(-out), Math.clz32(i), parseFloat(String(out / 3))); }
    return digest(text.join());
}
function exceptions() {
    let n = 0;
    const deep = (d) => { try { if (d === 0) throw new RangeError('end'); return deep(d - 1) + 1; } finally { n++; } };
    for (let i = 0; i < 2000; i++) { try { deep(i % 20); } catch (e) { n += e.message.length; } }
    try { (function forever() { return forever() + 1; })(); } catch (e) { n += e instanceof RangeError; }
    return n;
}
function* walk(n) { for (let i = 0; i < n; i++) { const got = yield i; if (got) i += got; } }
function generators() { let s = 0; const g = walk(50000); let r = g.next(); while (!r.done) { s = (s * 17 + r.value) % 999983; r = g.next(r.value % 5 === 0 ? 1 : 0); } return s; }
function evaluated() { let s = 0; for (let i = 0; i < 500; i++) s += new Function('x', `let t = 0; for (let k = 0; k < 50; k++) t += x * ${i} + k; return t;`)(i); return s; }
function garbage() { let keep = []; for (let i = 0; i < 60000; i++) { const o = { i, next: keep[i % 100], data: new Array(i % 10).fill(i) }; keep[i % 100] = i % 3 ? o : null; } let s = 0; for (const k of keep) for (let o = k, d = 0; o && d < 50; o = o.next, d++) s = (s * 7 + o.i + o.data.length) % 1000003; return s; }

for (const [name, f] of Object.entries({ sieve: () => sieve(300000), matrix: () => matrix(90), shapes, overflow, strings, maps, big, floats, exceptions, generators, evaluated, garbage })) {
    seed = 12345;
    const results = new Set();
    for (let i = 0; i < 3; i++) { seed = 12345; results.add(String(f())); }
    console.log(name, [...results].join(' DIFFERS '));
}
(async () => {
    let order = [];
    await Promise.all([1, 2, 3, 4].map(async (k) => { for (let i = 0; i < 50; i++) { await null; order.push(k * i % 11); } }));
    console.log('async', digest(order.join()));
    for (const level of [1, 6, 9]) { const z = require('zlib'); const data = Buffer.from(Array.from({ length: 100000 }, (_, i) => i * i % 251)); console.log('zlib', digest(z.deflateSync(data, { level })), z.inflateSync(z.deflateSync(data, { level })).equals(data), digest(z.brotliCompressSync(data.subarray(0, 20000)))); }
})();
