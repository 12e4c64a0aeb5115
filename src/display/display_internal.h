/* What the files of src/display share. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_DISPLAY_DISPLAY_INTERNAL_H
#define RHEA_DISPLAY_DISPLAY_INTERNAL_H

#include "display/display.h"

void display_registry_add_mirror(DisplayRegistry *reg, DisplayMirror *mirror);
void display_registry_remove_mirror(DisplayRegistry *reg, DisplayMirror *mirror);
/* Its console is about to be freed: the mirror shows what it has. */
void display_mirror_console_gone(DisplayMirror *mirror, DisplayConsole *console);

#endif
