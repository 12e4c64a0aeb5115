/* The ICH9's SMBus controller: see ich9_smb.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_ACPI_ICH9_SMB_H
#define RHEA_HW_ACPI_ICH9_SMB_H

/* A PCI function, on boards at 1f.3. Properties: "memory-size" (what its EEPROMs tell), "firmware-preset"
 * (bool): it comes out of reset switched on. */
#define TYPE_ICH9_SMB "ICH9-SMB"

#endif
