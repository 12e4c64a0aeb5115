/* What the files of the xHCI share; see xhci.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_USB_XHCI_INTERNAL_H
#define RHEA_HW_USB_XHCI_INTERNAL_H

#include "hw/pci/pci.h"
#include "hw/usb/usb.h"

#define XHCI_PORTS        4u /* USB 2 ports, which devices use; as many USB 3 ports follow, always empty */
#define XHCI_ALL_PORTS    8u
#define XHCI_SLOTS        64u
#define XHCI_INTERRUPTERS 16u
#define XHCI_ENDPOINTS    32u         /* by device context index; 0 is no endpoint */
#define XHCI_MAX_TD       256u        /* TRBs of a transfer descriptor */
#define XHCI_MAX_TRANSFER (16u << 20) /* its bytes */

/* 6.4.6: types of TRBs. */
enum {
    TRB_NORMAL = 1,
    TRB_SETUP = 2,
    TRB_DATA = 3,
    TRB_STATUS = 4,
    TRB_ISOCH = 5,
    TRB_LINK = 6,
    TRB_EVENT_DATA = 7,
    TRB_NOOP = 8,
    TRB_ENABLE_SLOT = 9,
    TRB_DISABLE_SLOT = 10,
    TRB_ADDRESS_DEVICE = 11,
    TRB_CONFIGURE_ENDPOINT = 12,
    TRB_EVALUATE_CONTEXT = 13,
    TRB_RESET_ENDPOINT = 14,
    TRB_STOP_ENDPOINT = 15,
    TRB_SET_DEQUEUE = 16,
    TRB_RESET_DEVICE = 17,
    TRB_NOOP_COMMAND = 23,
    TRB_TRANSFER_EVENT = 32,
    TRB_COMMAND_EVENT = 33,
    TRB_PORT_EVENT = 34,
    TRB_NEC_EVENT = 48,
    TRB_NEC_FIRMWARE = 49,
};
/* 6.4.5: completion codes. */
enum {
    CC_SUCCESS = 1,
    CC_DATA_BUFFER = 2,
    CC_BABBLE = 3,
    CC_TRANSACTION = 4,
    CC_TRB = 5,
    CC_STALL = 6,
    CC_NO_SLOTS = 9,
    CC_SLOT_NOT_ENABLED = 11,
    CC_ENDPOINT_NOT_ENABLED = 12,
    CC_SHORT_PACKET = 13,
    CC_PARAMETER = 17,
    CC_CONTEXT_STATE = 19,
    CC_STOPPED = 26,
};
#define TRB_CYCLE         1u
#define TRB_TOGGLE        2u /* of a link */
#define TRB_ISP           4u /* an event for a short packet */
#define TRB_CHAIN         0x10u
#define TRB_IOC           0x20u
#define TRB_IMMEDIATE     0x40u
#define TRB_BLOCK_ADDRESS 0x200u /* address device: no SET_ADDRESS */
#define TRB_DIR_IN        0x10000u
#define TRB_TYPE(control) ((control) >> 10 & 63)

enum { SLOT_DISABLED = 0, SLOT_DEFAULT = 1, SLOT_ADDRESSED = 2, SLOT_CONFIGURED = 3 };
enum { EP_DISABLED = 0, EP_RUNNING = 1, EP_HALTED = 2, EP_STOPPED = 3, EP_ERROR = 4 };

typedef struct XhciTrb {
    uint64_t parameter;
    uint32_t status, control;
    uint64_t address; /* where it was */
} XhciTrb;

typedef struct XhciEndpoint {
    uint8_t state, type;
    bool cycle;
    uint64_t dequeue;
    uint32_t done; /* bytes of the descriptor at dequeue that are moved already */
} XhciEndpoint;

typedef struct XhciSlot {
    bool enabled;
    uint8_t state, port; /* port from 1; 0: none yet */
    uint8_t interrupter;
    uint64_t context;
    XhciEndpoint endpoints[XHCI_ENDPOINTS];
} XhciSlot;

typedef struct XhciInterrupter {
    uint32_t iman, imod, erstsz;
    uint64_t erstba, erdp;
    uint64_t segment; /* of the event ring: its one segment */
    uint32_t size, at;
    bool cycle;
} XhciInterrupter;

typedef struct XhciState {
    PciDevice parent_obj;
    /* saved */
    uint32_t usbcmd, usbsts, dnctrl, config;
    uint64_t crcr, dcbaap, command_dequeue;
    bool command_cycle;
    uint32_t portsc[XHCI_ALL_PORTS];
    XhciSlot slots[XHCI_SLOTS + 1]; /* 0 is no slot */
    XhciInterrupter interrupters[XHCI_INTERRUPTERS];
    int64_t mfindex_base_ns;
    /* derived */
    bool firmware_preset;
    MemoryRegion mem;
    UsbBus *bus;
    bool busy; /* a transfer is under way: what it wakes waits for `kick` */
    BottomHalf *kick;
    uint64_t kicks[XHCI_PORTS]; /* endpoints by device context index that were woken */
} XhciState;
#define TYPE_XHCI "xhci" /* abstract */
#define XHCI(obj) OBJECT_CHECK(XhciState, obj, TYPE_XHCI)

/* ---- xhci.c ---- */
void xhci_host_error(XhciState *s, const char *what);
/* ---- xhci_ring.c ---- */
void xhci_event(XhciState *s, unsigned interrupter, uint64_t parameter, uint32_t status, uint32_t control);
void xhci_update_irq(XhciState *s);
/* The TRB at *address after links, if the driver wrote it; moves *address and *cycle behind it. */
bool xhci_fetch(XhciState *s, uint64_t *address, bool *cycle, XhciTrb *trb);
/* Works on an endpoint's ring for as long as its device does. */
void xhci_run_endpoint(XhciState *s, unsigned slot, unsigned endpoint);
/* Tells of the descriptor at the dequeue pointer that it ended half-way. */
void xhci_stop_event(XhciState *s, unsigned slot, unsigned endpoint);
UsbDevice *xhci_slot_device(XhciState *s, unsigned slot);
/* ---- xhci_slot.c ---- */
void xhci_run_commands(XhciState *s);
/* The state and dequeue pointer of an endpoint, to the driver's context. */
void xhci_write_endpoint(XhciState *s, unsigned slot, unsigned endpoint);
void xhci_slot_disable(XhciState *s, unsigned slot);

static inline bool xhci_read(XhciState *s, uint64_t address, void *buffer, size_t size)
{
    return address_space_read(s->parent_obj.dma_as, address, MEMTXATTRS_DMA, buffer, size) == MEMTX_OK;
}
static inline bool xhci_write(XhciState *s, uint64_t address, const void *buffer, size_t size)
{
    return address_space_write(s->parent_obj.dma_as, address, MEMTXATTRS_DMA, buffer, size) == MEMTX_OK;
}

#endif
