/*
 * USB: a controller's bus with its root ports, devices, and packets between them. Source: Universal Serial
 * Bus Specification 2.0, chapters 8 and 9.
 *
 * A device answers a packet at once: done, not yet (NAK), or refused (STALL). Who said "not yet" calls
 * usb_wakeup() when it has something; controllers that do not poll try again then.
 *
 * Threads: everything under the controller's HomeLock (UsbBus.home), from a vCPU's thread or the main loop's.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_USB_USB_H
#define RHEA_HW_USB_USB_H

#include "hw/core/device.h"

#define TYPE_USB_BUS    "usb-bus"
#define TYPE_USB_DEVICE "usb-device" /* abstract */

#define USB_MAX_PORTS   16
#define USB_CONTROL_MAX 4096 /* bytes of a control transfer */
#define USB_SETUP_SIZE  8

typedef enum UsbSpeed { USB_SPEED_LOW, USB_SPEED_FULL, USB_SPEED_HIGH } UsbSpeed;
typedef enum UsbPid { USB_PID_OUT = 0xe1, USB_PID_IN = 0x69, USB_PID_SETUP = 0x2d } UsbPid;
typedef enum UsbStatus { USB_OK, USB_NAK, USB_STALL } UsbStatus;

typedef struct UsbDevice UsbDevice;
typedef struct UsbDeviceClass UsbDeviceClass;
typedef struct UsbBus UsbBus;

/* A part of a transfer. A device that gives USB_NAK may have moved some bytes (`actual`) already: the
 * controller goes on with the rest. USB_OK with less than size is the short packet that ends a transfer. */
typedef struct UsbPacket {
    UsbPid pid;
    uint8_t endpoint; /* 0 to 15 */
    uint8_t *data;
    uint32_t size, actual;
} UsbPacket;

typedef struct UsbSetup {
    uint8_t request_type, request;
    uint16_t value, index, length;
} UsbSetup;

/* What a controller does for its ports. The home lock is held. */
typedef struct UsbBusOps {
    void (*attached)(void *opaque, unsigned port);
    void (*detached)(void *opaque, unsigned port);
    void (*wakeup)(void *opaque, unsigned port, unsigned endpoint, bool in);
} UsbBusOps;

struct UsbBus {
    Bus parent_obj;
    const UsbBusOps *ops;
    void *opaque;
    HomeLock *home;
    UsbSpeed max_speed;
    unsigned port_count;
    UsbDevice *ports[USB_MAX_PORTS]; /* NULL: empty */
};
#define USB_BUS(obj) OBJECT_CHECK(UsbBus, obj, TYPE_USB_BUS)

/* What a device tells of itself; blobs are as chapter 9.6 has them. */
typedef struct UsbDescriptors {
    const uint8_t *device; /* 18 bytes */
    const uint8_t *configuration;
    uint16_t configuration_size;
    const char *const *strings; /* from number 1 on; NULL-terminated */
} UsbDescriptors;

typedef enum UsbControlState { USB_CONTROL_IDLE, USB_CONTROL_DATA, USB_CONTROL_STALLED } UsbControlState;

struct UsbDevice {
    Device parent_obj;
    /* from properties */
    char *port_name;
    char *serial;
    /* saved */
    uint8_t address, configuration;
    bool remote_wakeup;
    uint32_t halted; /* bit n: OUT endpoint n, bit 16 + n: IN endpoint n */
    /* Of a control transfer that comes packet by packet. */
    uint8_t control_state;
    uint8_t setup[USB_SETUP_SIZE];
    uint8_t control[USB_CONTROL_MAX];
    uint32_t control_size, control_at;
    /* derived */
    UsbBus *bus;
    unsigned port;
    UsbSpeed speed;
    bool attached;
};

struct UsbDeviceClass {
    DeviceClass parent_class;
    UsbSpeed speed; /* the fastest that it knows; it has slower ones, too */
    bool (*realize)(UsbDevice *dev, GError **error);
    void (*unrealize)(UsbDevice *dev);
    const UsbDescriptors *(*descriptors)(UsbDevice *dev);
    /* To what a bus reset leaves. */
    void (*reset)(UsbDevice *dev);
    /* The driver chose a configuration, or none (0). May be NULL. */
    void (*configured)(UsbDevice *dev);
    /* Requests beyond the standard ones: data has length bytes of room (IN) or of data (OUT); sets *actual.
     */
    UsbStatus (*control)(UsbDevice *dev, const UsbSetup *setup, uint8_t *data, uint32_t *actual);
    /* Packets of endpoints but 0. */
    UsbStatus (*transfer)(UsbDevice *dev, UsbPacket *packet);
    /* The driver cleared an endpoint's halt. May be NULL. */
    void (*halt_cleared)(UsbDevice *dev, unsigned endpoint, bool in);
};
#define USB_DEVICE(obj)           OBJECT_CHECK(UsbDevice, obj, TYPE_USB_DEVICE)
#define USB_DEVICE_CLASS(klass)   ((UsbDeviceClass *)(klass))
#define USB_DEVICE_GET_CLASS(obj) OBJECT_GET_CLASS(UsbDeviceClass, obj)

/* A device's state table embeds it: VMS_STRUCT(parent_obj, State, usb_device_vmstate). */
extern const VmState usb_device_vmstate;

/* ---- for controllers ---- */
UsbBus *usb_bus_new(Device *owner, const DeviceEnv *env, unsigned port_count, UsbSpeed max_speed,
                    const UsbBusOps *ops, void *opaque, HomeLock *home);
/* The device at a port, or that of an address among the ports of mask; NULL: none. Borrowed. */
UsbDevice *usb_bus_port(UsbBus *bus, unsigned port);
/* A bus reset at its port. */
void usb_device_bus_reset(UsbDevice *dev);
UsbStatus usb_device_packet(UsbDevice *dev, UsbPacket *packet);
/* A whole control transfer: data is read or written as its direction says; *actual is how much. */
UsbStatus usb_device_control(UsbDevice *dev, const uint8_t setup[USB_SETUP_SIZE], uint8_t *data,
                             uint32_t *actual);

/* ---- for devices ---- */
/* An endpoint that said "not yet" has something. */
void usb_wakeup(UsbDevice *dev, unsigned endpoint, bool in);
/* The next packets of that endpoint are refused, until the driver clears it. */
void usb_device_halt(UsbDevice *dev, unsigned endpoint, bool in);

#endif
