/* The ICH9's SATA controller: see ahci.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_STORAGE_AHCI_H
#define RHEA_HW_STORAGE_AHCI_H

/* A PCI function with six buses of one drive each: "ide.0" to "ide.5" where it has no id, else "ID.0" to
 * "ID.5".
 */
#define TYPE_ICH9_AHCI "ich9-ahci"

#endif
