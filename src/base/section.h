/*
 * Registration as data: an object file puts pointers into a linker section, and one loop reads them.
 * Libraries are linked whole (src/meson.build), or the entries would be lost. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_BASE_SECTION_H
#define RHEA_BASE_SECTION_H

/* SECTION_ENTRY(rhea_types, const TypeInfo, my_info); adds &my_info to section rhea_types. */
#define SECTION_ENTRY(section_name, type, object) \
    static type *const section_name##_entry_##object __attribute__((used, section(#section_name))) = &(object)

/* In the one file that reads a section: SECTION_DECLARE(rhea_types, const TypeInfo); */
#define SECTION_DECLARE(section_name, type)                                                  \
    extern type *const __start_##section_name[] __attribute__((weak, visibility("hidden"))); \
    extern type *const __stop_##section_name[] __attribute__((weak, visibility("hidden")))

#define SECTION_FOREACH(section_name, type, it) \
    for (type *const *it = __start_##section_name; it < __stop_##section_name; it++)

#endif
