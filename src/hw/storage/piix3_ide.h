/* The IDE controller of the PIIX3: see piix3_ide.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_STORAGE_PIIX3_IDE_H
#define RHEA_HW_STORAGE_PIIX3_IDE_H

#include "hw/pci/pci.h"

#define TYPE_PIIX3_IDE "piix3-ide"

#endif
