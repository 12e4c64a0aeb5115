/*
 * fw_cfg: how firmware and kernels learn about the machine (QEMU's fw_cfg specification: selectors, the file
 * directory, and the DMA interface). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_FIRMWARE_FW_CFG_H
#define RHEA_HW_FIRMWARE_FW_CFG_H

#include "hw/core/device.h"

typedef struct FwCfg FwCfg;
#define TYPE_FW_CFG_IO "fw_cfg_io" /* a sysbus-like device at ports 0x510, 0x511, DMA at 0x514 */
#define FW_CFG(obj)    OBJECT_CHECK(FwCfg, obj, TYPE_FW_CFG_IO)

/* Items by selector; data is copied. Before the guest runs. */
void fw_cfg_add_bytes(FwCfg *s, uint16_t key, const void *data, size_t length);
void fw_cfg_add_u16(FwCfg *s, uint16_t key, uint16_t value);
void fw_cfg_add_u32(FwCfg *s, uint16_t key, uint32_t value);
void fw_cfg_add_u64(FwCfg *s, uint16_t key, uint64_t value);
void fw_cfg_add_string(FwCfg *s, uint16_t key, const char *value);
/* A named file (at most 55 characters); data is copied. Re-adding a name replaces its content. */
bool fw_cfg_add_file(FwCfg *s, const char *name, const void *data, size_t length, GError **error);
/* The same for a file that the guest may write, of 1 to FW_CFG_WRITABLE_MAX bytes: a reset gives it its first
 * content again, and it is part of this device's saved state. A name that is there already is an error. */
#define FW_CFG_WRITABLE_MAX 4096u
bool fw_cfg_add_writable_file(FwCfg *s, const char *name, const void *data, size_t length, GError **error);
/* What such a file holds now; false: there is none of that name and length. [any thread; takes the device's
 * lock] */
bool fw_cfg_read_file(FwCfg *s, const char *name, void *buffer, size_t length);
/* Writes such a file, which is there, as firmware would: for boards that start without one. */
void fw_cfg_write_file(FwCfg *s, const char *name, const void *data, size_t length);

/* Content that is made anew whenever the guest selects a file that is there already: `make` gives at most as
 * many bytes as the file has (zeros follow), or NULL: it stays as it is. Called in a vCPU's thread with the
 * device's lock held; it must take none but leaf locks. */
typedef GByteArray *FwCfgMake(void *opaque, const char *name);
void fw_cfg_set_make(FwCfg *s, const char *name, FwCfgMake *make, void *opaque);

#define FW_CFG_SIGNATURE      0x00
#define FW_CFG_ID             0x01
#define FW_CFG_UUID           0x02
#define FW_CFG_RAM_SIZE       0x03
#define FW_CFG_NOGRAPHIC      0x04
#define FW_CFG_NB_CPUS        0x05
#define FW_CFG_MACHINE_ID     0x06
#define FW_CFG_KERNEL_ADDR    0x07
#define FW_CFG_KERNEL_SIZE    0x08
#define FW_CFG_KERNEL_CMDLINE 0x09
#define FW_CFG_INITRD_ADDR    0x0a
#define FW_CFG_INITRD_SIZE    0x0b
#define FW_CFG_BOOT_DEVICE    0x0c
#define FW_CFG_NUMA           0x0d
#define FW_CFG_BOOT_MENU      0x0e
#define FW_CFG_MAX_CPUS       0x0f
#define FW_CFG_KERNEL_ENTRY   0x10
#define FW_CFG_KERNEL_DATA    0x11
#define FW_CFG_INITRD_DATA    0x12
#define FW_CFG_CMDLINE_ADDR   0x13
#define FW_CFG_CMDLINE_SIZE   0x14
#define FW_CFG_CMDLINE_DATA   0x15
#define FW_CFG_SETUP_ADDR     0x16
#define FW_CFG_SETUP_SIZE     0x17
#define FW_CFG_SETUP_DATA     0x18
#define FW_CFG_FILE_DIR       0x19
#define FW_CFG_ACPI_TABLES    0x8000
#define FW_CFG_SMBIOS         0x8001
#define FW_CFG_IRQ0_OVERRIDE  0x8002
#define FW_CFG_HPET           0x8004

#endif
