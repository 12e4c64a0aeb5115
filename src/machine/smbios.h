/* SMBIOS tables of the PC (DMTF DSP0134 3.0) for firmware to place. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MACHINE_SMBIOS_H
#define RHEA_MACHINE_SMBIOS_H

#include "machine/machine.h"

/* Builds the structures for a machine: *count of them, the largest one's size in *largest. Caller owns. */
GByteArray *smbios_build(const Machine *machine, unsigned *count, unsigned *largest);
/* The same as fw_cfg's files etc/smbios/. */
bool smbios_publish(Machine *machine, GError **error);

#endif
