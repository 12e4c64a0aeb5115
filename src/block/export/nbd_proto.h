/*
 * The NBD protocol's numbers, as its specification names them (NetworkBlockDevice/nbd, doc/proto.md).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_EXPORT_NBD_PROTO_H
#define RHEA_BLOCK_EXPORT_NBD_PROTO_H

#include <stdint.h>

#define NBD_MAGIC                  UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC           UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC     UINT64_C(0x3e889045565a9)
#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu

#define NBD_DEFAULT_PORT    10809
#define NBD_MAX_NAME        4096u
#define NBD_MAX_REQUEST     (32u << 20) /* of data in one request */
#define NBD_MAX_OPTION_DATA (NBD_MAX_NAME * 16u)

enum { /* handshake flags, both directions */
       NBD_FLAG_FIXED_NEWSTYLE = 1u << 0,
       NBD_FLAG_NO_ZEROES = 1u << 1,
};

enum { /* transmission flags */
       NBD_FLAG_HAS_FLAGS = 1u << 0,
       NBD_FLAG_READ_ONLY = 1u << 1,
       NBD_FLAG_SEND_FLUSH = 1u << 2,
       NBD_FLAG_SEND_FUA = 1u << 3,
       NBD_FLAG_SEND_TRIM = 1u << 5,
       NBD_FLAG_SEND_WRITE_ZEROES = 1u << 6,
       NBD_FLAG_SEND_DF = 1u << 7,
       NBD_FLAG_CAN_MULTI_CONN = 1u << 8,
       NBD_FLAG_SEND_CACHE = 1u << 10,
       NBD_FLAG_SEND_FAST_ZERO = 1u << 11,
};

enum { /* options */
       NBD_OPT_EXPORT_NAME = 1,
       NBD_OPT_ABORT = 2,
       NBD_OPT_LIST = 3,
       NBD_OPT_STARTTLS = 5,
       NBD_OPT_INFO = 6,
       NBD_OPT_GO = 7,
       NBD_OPT_STRUCTURED_REPLY = 8,
       NBD_OPT_LIST_META_CONTEXT = 9,
       NBD_OPT_SET_META_CONTEXT = 10,
};

enum { /* replies to options */
       NBD_REP_ACK = 1,
       NBD_REP_SERVER = 2,
       NBD_REP_INFO = 3,
       NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR(n)              ((1u << 31) + (n))
#define NBD_REP_ERR_UNSUP           NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY          NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID         NBD_REP_ERR(3)
#define NBD_REP_ERR_TLS_REQD        NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN         NBD_REP_ERR(6)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERR(8)
#define NBD_REP_ERR_TOO_BIG         NBD_REP_ERR(9)

enum { NBD_INFO_EXPORT = 0, NBD_INFO_NAME = 1, NBD_INFO_DESCRIPTION = 2, NBD_INFO_BLOCK_SIZE = 3 };

enum { /* commands */
       NBD_CMD_READ = 0,
       NBD_CMD_WRITE = 1,
       NBD_CMD_DISC = 2,
       NBD_CMD_FLUSH = 3,
       NBD_CMD_TRIM = 4,
       NBD_CMD_CACHE = 5,
       NBD_CMD_WRITE_ZEROES = 6,
       NBD_CMD_BLOCK_STATUS = 7,
};

enum { /* flags of commands */
       NBD_CMD_FLAG_FUA = 1u << 0,
       NBD_CMD_FLAG_NO_HOLE = 1u << 1,
       NBD_CMD_FLAG_DF = 1u << 2,
       NBD_CMD_FLAG_REQ_ONE = 1u << 3,
       NBD_CMD_FLAG_FAST_ZERO = 1u << 4,
};

enum { /* structured replies */
       NBD_REPLY_FLAG_DONE = 1u << 0,
       NBD_REPLY_TYPE_NONE = 0,
       NBD_REPLY_TYPE_OFFSET_DATA = 1,
       NBD_REPLY_TYPE_OFFSET_HOLE = 2,
       NBD_REPLY_TYPE_BLOCK_STATUS = 5,
       NBD_REPLY_TYPE_ERROR = (1 << 15) + 1,
};

enum { /* error numbers on the wire */
       NBD_EPERM = 1,
       NBD_EIO = 5,
       NBD_ENOMEM = 12,
       NBD_EINVAL = 22,
       NBD_ENOSPC = 28,
       NBD_EOVERFLOW = 75,
       NBD_ENOTSUP = 95,
       NBD_ESHUTDOWN = 108,
};

enum { NBD_STATE_HOLE = 1u << 0, NBD_STATE_ZERO = 1u << 1 }; /* base:allocation */
enum { NBD_STATE_DIRTY = 1u << 0 };                          /* qemu:dirty-bitmap:NAME */

static inline void nbd_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void nbd_put32(uint8_t *p, uint32_t v)
{
    nbd_put16(p, (uint16_t)(v >> 16));
    nbd_put16(p + 2, (uint16_t)v);
}
static inline void nbd_put64(uint8_t *p, uint64_t v)
{
    nbd_put32(p, (uint32_t)(v >> 32));
    nbd_put32(p + 4, (uint32_t)v);
}
static inline uint16_t nbd_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}
static inline uint32_t nbd_get32(const uint8_t *p)
{
    return (uint32_t)nbd_get16(p) << 16 | nbd_get16(p + 2);
}
static inline uint64_t nbd_get64(const uint8_t *p)
{
    return (uint64_t)nbd_get32(p) << 32 | nbd_get32(p + 4);
}

#endif
