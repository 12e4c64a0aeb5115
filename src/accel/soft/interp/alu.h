/*
 * Integer arithmetic with its flags, done by the host's own instructions: each function takes operands and
 * cpu->cc (arch/x86/flags.h) and returns the result, as an AluFn. What the manual leaves undefined is what
 * this host does. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_ACCEL_SOFT_INTERP_ALU_H
#define RHEA_ACCEL_SOFT_INTERP_ALU_H

#include "arch/x86/flags.h"

#include <stdint.h>

#define SAVE_FLAGS "\n\tlahf\n\tseto %%al"
/* AX to flags: AL is 0 or 1, and 1 + 127 overflows. */
#define LOAD_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"

#define FOR_SIZES(M, ...)             \
    M(8, uint8_t, "b", __VA_ARGS__)   \
    M(16, uint16_t, "w", __VA_ARGS__) \
    M(32, uint32_t, "l", __VA_ARGS__) \
    M(64, uint64_t, "q", __VA_ARGS__)

#define DEFINE_BINARY(bits, type, suffix, name)                                         \
    static inline type alu_##name##bits(type a, type b, uint16_t *cc)                   \
    {                                                                                   \
        uint32_t f;                                                                     \
        __asm__(#name suffix " %2, %0" SAVE_FLAGS : "+r"(a), "=&a"(f) : "r"(b) : "cc"); \
        *cc = (uint16_t)f;                                                              \
        return a;                                                                       \
    }
FOR_SIZES(DEFINE_BINARY, add)
FOR_SIZES(DEFINE_BINARY, or)
FOR_SIZES(DEFINE_BINARY, and)
FOR_SIZES(DEFINE_BINARY, sub)
FOR_SIZES(DEFINE_BINARY, xor)

#define DEFINE_CARRY(bits, type, suffix, name)                                                          \
    static inline type alu_##name##bits(type a, type b, uint16_t *cc)                                   \
    {                                                                                                   \
        uint32_t f = *cc;                                                                               \
        __asm__("btl $8, %1\n\t" #name suffix " %2, %0" SAVE_FLAGS : "+r"(a), "+a"(f) : "r"(b) : "cc"); \
        *cc = (uint16_t)f;                                                                              \
        return a;                                                                                       \
    }
FOR_SIZES(DEFINE_CARRY, adc)
FOR_SIZES(DEFINE_CARRY, sbb)

#define DEFINE_COMPARE(bits, type, suffix, name)                                       \
    static inline type alu_##name##bits(type a, type b, uint16_t *cc)                  \
    {                                                                                  \
        uint32_t f;                                                                    \
        __asm__(#name suffix " %2, %1" SAVE_FLAGS : "=&a"(f) : "r"(a), "r"(b) : "cc"); \
        *cc = (uint16_t)f;                                                             \
        return a;                                                                      \
    }
FOR_SIZES(DEFINE_COMPARE, cmp)
FOR_SIZES(DEFINE_COMPARE, test)

/* INC and DEC keep CF. */
#define DEFINE_STEP(bits, type, suffix, name)                                                \
    static inline type alu_##name##bits(type a, type b, uint16_t *cc)                        \
    {                                                                                        \
        uint32_t f = *cc;                                                                    \
        (void)b;                                                                             \
        __asm__("btl $8, %1\n\t" #name suffix " %0" SAVE_FLAGS : "+r"(a), "+a"(f) : : "cc"); \
        *cc = (uint16_t)f;                                                                   \
        return a;                                                                            \
    }
FOR_SIZES(DEFINE_STEP, inc)
FOR_SIZES(DEFINE_STEP, dec)
FOR_SIZES(DEFINE_STEP, neg)

#define DEFINE_NOT(bits, type, suffix, name)                       \
    static inline type alu_not##bits(type a, type b, uint16_t *cc) \
    {                                                              \
        (void)b;                                                   \
        (void)cc;                                                  \
        return (type)~a;                                           \
    }
FOR_SIZES(DEFINE_NOT, not )

/* A count of zero leaves the flags alone, rotates leave some: the host does it all, starting from the guest's
 * flags. */
#define DEFINE_SHIFT(bits, type, suffix, name)                                                               \
    static inline type alu_##name##bits(type a, type b, uint16_t *cc)                                        \
    {                                                                                                        \
        uint32_t f = *cc;                                                                                    \
        __asm__(LOAD_FLAGS #name suffix " %%cl, %0" SAVE_FLAGS : "+r"(a), "+a"(f) : "c"((uint8_t)b) : "cc"); \
        *cc = (uint16_t)f;                                                                                   \
        return a;                                                                                            \
    }
FOR_SIZES(DEFINE_SHIFT, rol)
FOR_SIZES(DEFINE_SHIFT, ror)
FOR_SIZES(DEFINE_SHIFT, rcl)
FOR_SIZES(DEFINE_SHIFT, rcr)
FOR_SIZES(DEFINE_SHIFT, shl)
FOR_SIZES(DEFINE_SHIFT, shr)
FOR_SIZES(DEFINE_SHIFT, sar)

#define FOR_WIDE_SIZES(M, ...)        \
    M(16, uint16_t, "w", __VA_ARGS__) \
    M(32, uint32_t, "l", __VA_ARGS__) \
    M(64, uint64_t, "q", __VA_ARGS__)

/* Bit tests: the other flags keep what the host leaves in them. */
#define DEFINE_BIT(bits, type, suffix, name)                                                      \
    static inline type alu_##name##bits(type a, type b, uint16_t *cc)                             \
    {                                                                                             \
        uint32_t f = *cc;                                                                         \
        __asm__(LOAD_FLAGS #name suffix " %2, %0" SAVE_FLAGS : "+r"(a), "+a"(f) : "r"(b) : "cc"); \
        *cc = (uint16_t)f;                                                                        \
        return a;                                                                                 \
    }
FOR_WIDE_SIZES(DEFINE_BIT, bt)
FOR_WIDE_SIZES(DEFINE_BIT, bts)
FOR_WIDE_SIZES(DEFINE_BIT, btr)
FOR_WIDE_SIZES(DEFINE_BIT, btc)

/* a is the old destination, which BSF and BSR keep when b is zero. */
FOR_WIDE_SIZES(DEFINE_BIT, bsf)
FOR_WIDE_SIZES(DEFINE_BIT, bsr)
FOR_WIDE_SIZES(DEFINE_BIT, tzcnt)
FOR_WIDE_SIZES(DEFINE_BIT, lzcnt)
FOR_WIDE_SIZES(DEFINE_BIT, popcnt)
FOR_WIDE_SIZES(DEFINE_BIT, imul)

#define FOR_LONG_SIZES(M, ...)        \
    M(32, uint32_t, "l", __VA_ARGS__) \
    M(64, uint64_t, "q", __VA_ARGS__)
FOR_LONG_SIZES(DEFINE_BIT, adcx)
FOR_LONG_SIZES(DEFINE_BIT, adox)
FOR_LONG_SIZES(DEFINE_BIT, blsr)
FOR_LONG_SIZES(DEFINE_BIT, blsmsk)
FOR_LONG_SIZES(DEFINE_BIT, blsi)

/* Three operands: dest = a op b. */
#define DEFINE_BMI(bits, type, suffix, name)                          \
    static inline type alu_##name##bits(type a, type b, uint16_t *cc) \
    {                                                                 \
        uint32_t f = *cc;                                             \
        type r;                                                       \
        __asm__(LOAD_FLAGS #name suffix " %3, %2, %0" SAVE_FLAGS      \
                : "=&r"(r), "+a"(f)                                   \
                : "r"(a), "r"(b)                                      \
                : "cc");                                              \
        *cc = (uint16_t)f;                                            \
        return r;                                                     \
    }
FOR_LONG_SIZES(DEFINE_BMI, andn)

/* AT&T order of these is count, source, destination: a = source, b = control. */
#define DEFINE_BMI_CONTROL(bits, type, suffix, name)                  \
    static inline type alu_##name##bits(type a, type b, uint16_t *cc) \
    {                                                                 \
        uint32_t f = *cc;                                             \
        type r;                                                       \
        __asm__(LOAD_FLAGS #name suffix " %3, %2, %0" SAVE_FLAGS      \
                : "=&r"(r), "+a"(f)                                   \
                : "r"(a), "r"(b)                                      \
                : "cc");                                              \
        *cc = (uint16_t)f;                                            \
        return r;                                                     \
    }
FOR_LONG_SIZES(DEFINE_BMI_CONTROL, bextr)
FOR_LONG_SIZES(DEFINE_BMI_CONTROL, bzhi)

#define DEFINE_DOUBLE_SHIFT(bits, type, suffix, name)                                \
    static inline type alu_##name##bits(type a, type b, uint8_t count, uint16_t *cc) \
    {                                                                                \
        uint32_t f = *cc;                                                            \
        __asm__(LOAD_FLAGS #name suffix " %%cl, %2, %0" SAVE_FLAGS                   \
                : "+r"(a), "+a"(f)                                                   \
                : "r"(b), "c"(count)                                                 \
                : "cc");                                                             \
        *cc = (uint16_t)f;                                                           \
        return a;                                                                    \
    }
FOR_WIDE_SIZES(DEFINE_DOUBLE_SHIFT, shld)
FOR_WIDE_SIZES(DEFINE_DOUBLE_SHIFT, shrd)

#endif
