/*
 * The command line of rhea-system-x86_64: QEMU's options, from one table that also makes --help, the man
 * page, shell completions and query-command-line-options. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_VM_OPTIONS_H
#define RHEA_VM_OPTIONS_H

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

typedef enum OptionId {
    OPT_H,
    OPT_VERSION,
    OPT_PRINT_MAN,
    OPT_PRINT_COMPLETION,
    OPT_MACHINE,
    OPT_ACCEL,
    OPT_CPU,
    OPT_SMP,
    OPT_M,
    OPT_MEM_PATH,
    OPT_MEM_PREALLOC,
    OPT_NAME,
    OPT_UUID,
    OPT_BOOT,
    OPT_RTC,
    OPT_GLOBAL,
    OPT_OVERCOMMIT,
    OPT_NODEFAULTS,
    OPT_NO_USER_CONFIG,
    OPT_NO_ACPI,
    OPT_NO_HPET,
    OPT_ENABLE_KVM,
    OPT_ADD_FD,
    OPT_SMBIOS,
    OPT_FW_CFG,
    OPT_DRIVE,
    OPT_BLOCKDEV,
    OPT_DEVICE,
    OPT_OBJECT,
    OPT_NETDEV,
    OPT_NIC,
    OPT_NET,
    OPT_CHARDEV,
    OPT_SERIAL,
    OPT_PARALLEL,
    OPT_MONITOR,
    OPT_QMP,
    OPT_QMP_PRETTY,
    OPT_MON,
    OPT_NOGRAPHIC,
    OPT_DISPLAY,
    OPT_VGA,
    OPT_VNC,
    OPT_USB,
    OPT_USBDEVICE,
    OPT_AUDIODEV,
    OPT_KEYMAP,
    OPT_ECHR,
    OPT_KERNEL,
    OPT_APPEND,
    OPT_INITRD,
    OPT_DTB,
    OPT_STOPPED,
    OPT_INCOMING,
    OPT_LOADVM,
    OPT_GDB,
    OPT_GDB_SHORT,
    OPT_DAEMONIZE,
    OPT_PIDFILE,
    OPT_NO_REBOOT,
    OPT_NO_SHUTDOWN,
    OPT_ACTION,
    OPT_WATCHDOG_ACTION,
    OPT_SANDBOX,
    OPT_MSG,
    OPT_D,
    OPT_LOGFILE,
    OPT_TRACE,
    OPT_HDA,
    OPT_HDB,
    OPT_HDC,
    OPT_HDD,
    OPT_CDROM,
    OPT_FDA,
    OPT_FDB,
    OPT_BIOS,
    OPT_DATA_DIR,
    OPT_OPTION_ROM,
    OPT_IGNORED,
    OPT_UNSUPPORTED,
} OptionId;

typedef struct OptionInfo {
    const char *name;     /* without the dash */
    const char *argument; /* as shown; NULL: takes none */
    const char *section;
    const char *help;
    OptionId id;
    const char *keys; /* "a,b,c": the keys of its key=value form, for completion and introspection; or NULL */
    const char *unsupported; /* of OPT_UNSUPPORTED: why and what instead */
} OptionInfo;

typedef struct Option {
    const OptionInfo *info;
    const char *argument; /* borrowed from argv; NULL where it takes none */
} Option;

typedef struct Options {
    GArray *list; /* of Option, in the order given */
} Options;

/* Reads argv. An unknown option is an error that names the nearest one. NULL on error. */
Options *cmdline_parse(int argc, char **argv, GError **error);
void cmdline_free(Options *options);
bool cmdline_has(const Options *options, OptionId id);
/* The last one's argument, or NULL. */
const char *cmdline_last(const Options *options, OptionId id);

/* Texts made from the table; the caller frees. */
char *cmdline_help(void);
char *cmdline_man_page(void);
char *cmdline_bash_completion(void);
json_object *cmdline_introspect(void);

/* Values. A bare number of -m is in MiB. */
bool cmdline_parse_size(const char *text, uint64_t default_unit, uint64_t *size, GError **error);
/* Refuses keys of a dict that are not in a comma-separated list; the error names the nearest. */
bool cmdline_check_keys(json_object *dict, const char *keys, GError **error);
/* A key's text or NULL. Borrowed from the dict. */
const char *cmdline_get(json_object *dict, const char *key);
bool cmdline_get_bool(json_object *dict, const char *key, bool fallback, bool *value, GError **error);
bool cmdline_get_uint(json_object *dict, const char *key, uint64_t fallback, uint64_t max, uint64_t *value,
                      GError **error);

#endif
