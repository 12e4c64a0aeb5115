/* The virtual machine generation ID: see vmgenid.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_ACPI_VMGENID_H
#define RHEA_HW_ACPI_VMGENID_H

#include "object/object.h"

/* The present ID as text, which the caller frees; NULL with an error where the machine has no such device.
 * [main loop] */
char *vmgenid_query(Object *root, GError **error);

#endif
