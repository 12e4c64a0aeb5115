/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_DRIVER_H
#define BENCH_DRIVER_H

/* Serves requests from one descriptor, answers to the other, until the end of input or "quit"; 0. See
 * driver.c. */
int driver_serve(int in, int out);

/* Process 1 of the guest: mounts, opens the console, serves it, and switches the machine off. */
int driver_init(void);

#endif
