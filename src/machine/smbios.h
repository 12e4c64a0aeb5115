/* SMBIOS tables of the PC (DMTF DSP0134 3.0) for firmware to place. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MACHINE_SMBIOS_H
#define RHEA_MACHINE_SMBIOS_H

#include "machine/machine.h"

/* Checks one -smbios option: {"type": "1", "serial": "...", ...}; a repeated key is a list. */
bool smbios_check_options(json_object *options, GError **error);
/* Builds the structures for a machine, with what machine->smbios says: *count of them, the largest one's size
 * in *largest. Caller owns; NULL on error. */
GByteArray *smbios_build(const Machine *machine, unsigned *count, unsigned *largest, GError **error);
/* The same as fw_cfg's files etc/smbios/. */
bool smbios_publish(Machine *machine, GError **error);

#endif
