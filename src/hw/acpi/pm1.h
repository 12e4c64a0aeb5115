/*
 * The fixed hardware of ACPI machines: PM1 event and control blocks and the PM timer (ACPI specification 6.4,
 * chapter 4.8.3), which the PIIX4 and the ICH9 have in common. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_ACPI_PM1_H
#define RHEA_HW_ACPI_PM1_H

#include "hw/core/device.h"

#define ACPI_PM1_BLOCK_SIZE 12 /* events at +0, control at +4, timer at +8 */
/* SLP_TYP values of PM1 control, for the _Sx packages. */
#define ACPI_SLP_TYP_S5 0
#define ACPI_SLP_TYP_S3 1
#define ACPI_SLP_TYP_S4 2
#define ACPI_SCI_EN     0x0001u

typedef struct AcpiPm1 {
    /* saved */
    uint16_t status, enable, control;
    uint64_t timer_half; /* how often bit 23 had toggled when TMR_STS was cleared last */
    Timer overflow;
    /* properties of the owner */
    uint8_t disable_s3, disable_s4, s4_val;
    /* derived */
    Device *dev;
    void (*changed)(void *opaque); /* the SCI may have to change; the device's lock is held */
    void *opaque;
    MemoryRegion block, timer_io;
} AcpiPm1;

/* At realize: the registers go to the start of `container`, and the power button is taken. */
void acpi_pm1_init(AcpiPm1 *pm1, Device *dev, MemoryRegion *container, void (*changed)(void *opaque),
                   void *opaque);
void acpi_pm1_destroy(AcpiPm1 *pm1, MemoryRegion *container);
/* acpi_mode: SCI_EN is on at once. */
void acpi_pm1_reset(AcpiPm1 *pm1, bool acpi_mode);
void acpi_pm1_set_mode(AcpiPm1 *pm1, bool acpi_mode);
/* Whether PM1's own events ask for an interrupt; arms the timer for the next one. */
bool acpi_pm1_pending(AcpiPm1 *pm1);

#define ACPI_PM1_PROPERTIES(state, field)                                              \
    PROP_UINT8("disable_s3", state, field.disable_s3, 0, "1: no suspend to RAM"),      \
        PROP_UINT8("disable_s4", state, field.disable_s4, 0, "1: no suspend to disk"), \
        PROP_UINT8("s4_val", state, field.s4_val, ACPI_SLP_TYP_S4, "SLP_TYP of suspend to disk")

extern const VmState acpi_pm1_vmstate;

#endif
