/* The commands of rhea-io. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_IMG_IO_H
#define RHEA_IMG_IO_H

#include "img/tool.h"

typedef struct IoSession {
    ImgTool *tool;
    ImgDisk *disk; /* NULL: no image is open */
    bool read_only, image_opts, misalign, quit;
    int in_flight; /* aio_read and aio_write that are not done */
} IoSession;

typedef struct IoOpen {
    bool read_only, snapshot, copy_on_read, force_share;
    ImgCache cache;
    const char *discard, *aio; /* NULL: not given */
} IoOpen;

/* filename and options (may be NULL; consumed) as the open command has them. False: reported. */
bool io_open(IoSession *session, const char *filename, const IoOpen *how, json_object *options);
/* Waits for what is under way and closes the image, if there is one. */
void io_close(IoSession *session);
/* Runs one line. False: it failed, and said so. */
bool io_command(IoSession *session, const char *line);
/* One line for each command. */
void io_print_commands(void);

#endif
