// SPDX-License-Identifier: GPL-2.0-or-later
// Workers that count in shared memory: atomics, futexes, messages.
'use strict';
const { Worker, isMainThread, workerData, parentPort } = require('worker_threads');
const WORKERS = 4, ROUNDS = 30000;
if (isMainThread) {
    const shared = new SharedArrayBuffer(64);
    const cells = new Int32Array(shared);
    let left = WORKERS, sum = 0;
    for (let k = 0; k < WORKERS; k++) {
        const w = new Worker(__filename, { workerData: { shared, k } });
        w.on('message', (m) => { sum += m; });
        w.on('exit', () => { if (--left === 0) console.log('threads', cells[0], cells[1], cells[2], sum); });
    }
} else {
    const cells = new Int32Array(workerData.shared);
    let own = 0;
    for (let i = 0; i < ROUNDS; i++) {
        Atomics.add(cells, 0, 1);
        for (;;) { const v = Atomics.load(cells, 1); if (Atomics.compareExchange(cells, 1, v, v + 2) === v) break; }
        if (i % 50 === 0) { // a lock that is slept for
            while (Atomics.compareExchange(cells, 3, 0, 1) !== 0) Atomics.wait(cells, 3, 1, 50);
            cells[2]++;
            Atomics.store(cells, 3, 0);
            Atomics.notify(cells, 3, 1);
        }
        own += i & 3;
    }
    parentPort.postMessage(own);
}
