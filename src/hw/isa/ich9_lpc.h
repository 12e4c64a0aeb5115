/* The ICH9's LPC bridge: see ich9_lpc.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_ISA_ICH9_LPC_H
#define RHEA_HW_ISA_ICH9_LPC_H

#include "hw/pci/pci.h"

/* A PCI function, on boards at 1f.0. It brings the ISA bus "isa.0", routes the root bus's INTx, and has the
 * power management registers. Properties: "firmware-preset" (bool): every reset leaves what PC firmware does;
 * "smm-enabled" (bool, on): off: no SMI is raised, and firmware finds nothing to set up; "disable_s3",
 * "disable_s4", "s4_val" as the PIIX4's. */
#define TYPE_ICH9_LPC     "ICH9-LPC"
#define ICH9_PM_BASE      0x600 /* where firmware puts it: PM1 event +0, control +4, timer +8 */
#define ICH9_GPE0_OFFSET  0x20
#define ICH9_GPE0_LENGTH  16
#define ICH9_SMI_COMMAND  0xb2
#define ICH9_ACPI_ENABLE  0x02
#define ICH9_ACPI_DISABLE 0x03
#define ICH9_SCI_IRQ      9
#define ICH9_PIRQS        8
#define ICH9_PIRQ_GSI     16 /* PIRQ A's at the I/O APIC */
#define ICH9_RCBA         0xfed1c000u
#define ICH9_RCBA_SIZE    0x4000u

Bus *ich9_lpc_isa_bus(Device *dev);
/* The PIRQ (0 is A) that a slot's pin reaches on the root bus after a reset. */
unsigned ich9_default_pirq(unsigned slot, int pin);
/* The ISA interrupt that the preset gives a function's pin. */
uint8_t ich9_firmware_line(PciDevice *dev, int pin);
/* Where the power management block is decoded now; 0: nowhere. [any thread] */
uint16_t ich9_lpc_pm_base(Device *dev);
/* Raises or clears a general purpose event (0 to 63). [any thread; takes the device's lock] */
void ich9_lpc_set_gpe(Device *dev, unsigned event, bool on);

#endif
