/* Writes the header of a qcow2 image. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/formats/qcow2/qcow2.h"

#include <errno.h>

int qcow2_write_header(Qcow2Node *s)
{
    uint8_t *data;
    int ret = -EINVAL;

    if (!s->node.file) {
        return -EIO;
    }
    data = block_buffer_try(s->node.file, s->g.cluster_size);
    if (!data) {
        return -ENOMEM;
    }
    /* Extensions move when one of them grows, and the backing name with them: the whole cluster is the
     * header's. */
    if (qcow2_header_encode(&s->h, data, s->g.cluster_size, NULL)) {
        ret = blk_pwrite(s->node.file, 0, s->g.cluster_size, data, 0);
    }
    g_aligned_free(data);
    return ret;
}
