/* The PIIX4 power management function: see piix4_pm.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_ACPI_PIIX4_PM_H
#define RHEA_HW_ACPI_PIIX4_PM_H

#include "hw/pci/pci.h"

/* A PCI function, on PC boards at 01.3. Properties: "disable_s3", "disable_s4" (uint8), "s4_val";
 * "smm-enabled" (bool, on): off: no SMI is ever raised, and firmware finds nothing to set up;
 * "firmware-preset" (bool): every reset leaves the PM block decoded at PIIX4_PM_BASE with ACPI mode (SCI_EN)
 * on, as firmware does. */
#define TYPE_PIIX4_PM      "PIIX4_PM"
#define PIIX4_PM_BASE      0x600 /* PM1 event +0, control +4, timer +8 */
#define PIIX4_GPE0_BASE    0xafe0
#define PIIX4_GPE0_LENGTH  4
#define PIIX4_PCI_HOTPLUG  0xae00
#define PIIX4_SMI_COMMAND  0xb2
#define PIIX4_ACPI_ENABLE  0xf1
#define PIIX4_ACPI_DISABLE 0xf0
#define PIIX4_SCI_IRQ      9
/* SLP_TYP values of PM1 control, for the _Sx packages. */
#define PIIX4_SLP_TYP_S3 1
#define PIIX4_SLP_TYP_S4 2
#define PIIX4_SLP_TYP_S5 0

/* Where the PM block is decoded now; 0: nowhere. [any thread] */
uint16_t piix4_pm_base(Device *dev);
/* Raises a general purpose event (0 to 15). [any thread; takes the device's lock] */
void piix4_pm_raise_gpe(Device *dev, unsigned event);
/* Before realize: where the SCI goes; NULL: isa_irqs[9] of the env. Borrowed. */
void piix4_pm_set_sci(Device *dev, IrqLine *sci);

#endif
