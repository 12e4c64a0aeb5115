// SPDX-License-Identifier: GPL-2.0-or-later
// WebAssembly modules, put together here: loops of integers and of floating point, memory, calls through a table, SIMD, traps.
'use strict';
const leb = (n) => { const out = []; for (;;) { const b = n & 0x7f; n >>= 7; if ((n === 0 && !(b & 0x40)) || (n === -1 && (b & 0x40))) { out.push(b); return out; } out.push(b | 0x80); } };
const uleb = (n) => { const out = []; do { let b = n & 0x7f; n >>>= 7; if (n) b |= 0x80; out.push(b); } while (n); return out; };
const section = (id, body) => [id, ...uleb(body.length), ...body];
const vector = (items) => [...uleb(items.length), ...items.flat()];
const name = (s) => [...uleb(s.length), ...Buffer.from(s)];
const I32 = 0x7f, I64 = 0x7e, F64 = 0x7c, F32 = 0x7d, V128 = 0x7b;
// functions: [name, [parameters], [results], [locals], code]
function build(functions) {
    const types = vector(functions.map(([, p, r]) => [0x60, ...vector(p.map((t) => [t])), ...vector(r.map((t) => [t]))]));
    return new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
        ...section(1, types), ...section(3, vector(functions.map((_, i) => uleb(i)))), ...section(4, [1, 0x70, 0, ...uleb(functions.length)]), ...section(5, [1, 0, 1]),
        ...section(7, vector([...functions.map(([n], i) => [...name(n), 0, ...uleb(i)]), [...name('memory'), 2, 0]])),
        ...section(9, [1, 0, 0x41, 0, 0x0b, ...vector(functions.map((_, i) => uleb(i)))]),
        ...section(10, vector(functions.map(([, , , locals, code]) => { const body = [...vector(locals.map((t) => [1, t])), ...code, 0x0b]; return [...uleb(body.length), ...body]; })))]);
}
const get = (i) => [0x20, i], set = (i) => [0x21, i], i32 = (n) => [0x41, ...leb(n)], i64 = (n) => [0x42, ...leb(n)];
const f64 = (x) => [0x44, ...new Uint8Array(new Float64Array([x]).buffer)];
// loop { body; local = local - 1; br_if local }
const times = (local, body) => [0x03, 0x40, ...body, ...get(local), ...i32(1), 0x6b, 0x22, local, 0x0d, 0, 0x0b];
const functions = [
    // (n) -> i32: x = x * 1664525 + rotl(x, 7) ^ n
    ['integers', [I32], [I32], [I32], [...i32(12345), ...set(1), ...times(0, [...get(1), ...i32(1664525), 0x6c, ...get(1), ...i32(7), 0x77, 0x6a, ...get(0), 0x73, ...get(1), 0x67, 0x6a, ...get(1), 0x69, 0x6a, ...set(1)]), ...get(1)]],
    // (n) -> i64 with division, remainder, shifts
    ['longs', [I32], [I64], [I64], [...i64(987654321), ...set(1), ...times(0, [...get(1), ...i64(6364136), 0x7e, ...get(0), 0xac, 0x7c, ...get(1), ...get(0), 0xad, 0x80, 0x85, ...get(1), ...get(0), 0xac, 0x81, 0x7c, ...get(1), ...get(0), 0xad, 0x88, 0x85, ...get(1), ...get(0), 0xad, 0x8a, 0x7c, ...set(1)]), ...get(1)]],
    // (n) -> f64: sqrt, floor, nearest, min, copysign, conversion
    ['doubles', [I32], [F64], [F64], [...f64(0.5), ...set(1), ...times(0, [...get(1), ...f64(1.25), 0xa2, ...get(0), 0xb7, 0xa0, 0x9f, ...get(1), 0x9c, 0xa1, ...get(1), 0x9e, ...f64(3.5), 0xa4, 0xa0, ...get(0), 0xb8, 0xa6, 0x99, ...set(1)]), ...get(1)]],
    // (n) -> i32: bytes, halves and words of memory, at addresses that are not aligned
    ['bytes', [I32], [I32], [I32], [...times(0, [...get(0), ...i32(0xfff), 0x71, ...get(1), ...get(0), 0x6a, 0x36, 0, 3, ...get(1), ...get(0), ...i32(0xffe), 0x71, 0x2d, 0, 1, 0x6a, ...get(0), ...i32(0xffd), 0x71, 0x2e, 0, 0, 0x73, ...i32(5), 0x77, ...get(0), ...i32(0xff0), 0x71, 0x28, 0, 0, 0x6a, ...set(1)]), ...get(1)]],
    // (n) -> i32: through the table, functions 0 and 3 by turns, type 0
    ['indirect', [I32], [I32], [I32], [...times(0, [...get(0), ...i32(15), 0x71, ...i32(1), 0x6a, ...get(0), ...i32(1), 0x71, ...i32(3), 0x6c, 0x11, 0, 0, ...get(1), 0x6a, ...i32(3), 0x77, ...set(1)]), ...get(1)]],
    // (n) -> i32: fibonacci, calls
    ['fib', [I32], [I32], [], [...get(0), ...i32(2), 0x48, 0x04, I32, ...get(0), 0x05, ...get(0), ...i32(1), 0x6b, 0x10, 5, ...get(0), ...i32(2), 0x6b, 0x10, 5, 0x6a, 0x0b]],
    // (n) -> i32: i8x16, i16x8, i32x4, f32x4 operations and a shuffle
    ['simd', [I32], [I32], [V128, V128], [0xfd, 12, 1, 2, 3, 4, 55, 66, 77, 88, 99, 111, 122, 133, 144, 155, 166, 177, ...set(1), ...times(0, [...get(0), 0xfd, 17, ...get(1), 0xfd, ...uleb(174), ...get(1), 0xfd, ...uleb(149), ...get(0), 0xfd, 15, 0xfd, 110, ...get(1), 0xfd, 81, ...get(1), ...get(1), 0xfd, 13, 3, 18, 1, 16, 7, 22, 5, 20, 11, 26, 9, 24, 15, 30, 13, 28, 0xfd, ...uleb(174), ...set(1)]),
        ...get(1), 0xfd, 27, 0, ...get(1), 0xfd, 27, 1, 0x73, ...get(1), 0xfd, 27, 2, 0x6a, ...get(1), 0xfd, 27, 3, 0x73]],
    // traps: by zero, out of memory, no integer
    ['divide', [I32], [I32], [], [...i32(7), ...get(0), 0x6d]],
    ['far', [I32], [I32], [], [...get(0), 0x28, 2, 0]],
    ['truncate', [F64], [I32], [], [...get(0), 0xaa]],
    ['forever', [I32], [I32], [], [...get(0), 0x10, 10, ...i32(1), 0x6a]],
];
(async () => {
    const { instance } = await WebAssembly.instantiate(build(functions));
    const f = instance.exports;
    for (const n of ['integers', 'longs', 'doubles', 'bytes', 'indirect', 'simd']) {
        for (const rounds of [1, 10, 1000, 100000, 400000]) console.log(n, rounds, String(f[n](rounds)));
    }
    console.log('fib', f.fib(27));
    console.log('memory', require('crypto').createHash('sha256').update(Buffer.from(new Uint8Array(f.memory.buffer))).digest('hex'));
    for (const [n, args] of [['divide', [0, 3, -7]], ['far', [0, 65532, 65533, 70000, -4, 0x7ffffff0]], ['truncate', [1.5, -2.9, NaN, 1e10, -2147483648.9]], ['forever', [1]]]) {
        for (const a of args) for (let i = 0; i < (n === 'forever' ? 3 : 50); i++) {
            let r;
            try { r = f[n](a); } catch (e) { r = e.constructor.name + ': ' + e.message; }
            if (i === 0) console.log(n, a, r);
        }
    }
})();
