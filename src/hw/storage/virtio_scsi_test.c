/* virtio-scsi with a disk and a CD-ROM, as a driver sees them. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/block.h"
#include "hw/storage/scsi.h"
#include "hw/virtio/virtio_test.h"

#include <glib/gstdio.h>
#include <unistd.h>

#define REQUESTS 2
#define SENSE    96
#define BLOCKS   2048u
#define RESPONSE (12 + SENSE)

static VirtioTest t;
static BlockRegistry *blocks;
static char *image;
static Device *disk;

static void add_unit(const char *type, const char *drive, const char *target, const char *lun)
{
    GError *error = NULL;
    Device *dev = device_new_unattached(t.root, type, NULL);
    object_property_parse(OBJECT(dev), "drive", drive, &error);
    object_property_parse(OBJECT(dev), "scsi-id", target, &error);
    object_property_parse(OBJECT(dev), "lun", lun, &error);
    g_assert_no_error(error);
    device_realize(dev, bus_find(t.root, TYPE_SCSI_BUS, NULL, &error), NULL, &error);
    g_assert_no_error(error);
    disk = disk ? disk : dev;
}

static void setup(void)
{
    GError *error = NULL;
    vt_new(&t, "virtio-scsi-device");
    blocks = block_registry_new(t.loop, NULL);
    block_property_set_registry(blocks);
    int fd = g_file_open_tmp("rhea-scsi-XXXXXX", &image, &error);
    g_assert_cmpint(ftruncate(fd, BLOCKS * 512), ==, 0);
    close(fd);
    g_autofree char *text = g_strdup_printf("driver=file,node-name=d,filename=%s,discard=unmap", image);
    g_assert_true(blockdev_add_text(blocks, text, &error));
    g_assert_true(vt_realize(&t, &error));
    disk = NULL;
    add_unit("scsi-hd", "d", "3", "0");
    vt_start(&t, VIRTIO_BIT(1), 3);
}

static void teardown(void)
{
    device_unrealize(DEVICE(t.device));
    block_property_set_registry(NULL);
    device_unrealize(t.transport);
    irq_free(t.irq);
    object_unref(t.root);
    block_registry_free(blocks);
    t.root = object_root_new();
    vt_machine_free(&t);
    g_unlink(image);
    g_free(image);
}

/* Sends a command and gives the response's byte 11; the response is at *at. */
static unsigned send(unsigned target, unsigned lun, const uint8_t *cdb, unsigned cdb_size, uint32_t data,
                     uint32_t size, bool to_device, uint32_t *at)
{
    uint8_t head[51] = { 1, (uint8_t)target, (uint8_t)(lun >> 8 | 0x40), (uint8_t)lun };
    VtBuffer buffers[3];
    unsigned count = 0;
    memcpy(head + 19, cdb, cdb_size);
    *at = vt_alloc(&t, NULL, RESPONSE);
    buffers[count++] = (VtBuffer){ vt_alloc(&t, head, sizeof(head)), sizeof(head), false };
    if (size && to_device) {
        buffers[count++] = (VtBuffer){ data, size, false };
    }
    buffers[count++] = (VtBuffer){ *at, RESPONSE, true };
    if (size && !to_device) {
        buffers[count++] = (VtBuffer){ data, size, true };
    }
    vt_add(&t, REQUESTS, 0, buffers, count);
    vt_kick(&t, REQUESTS);
    vt_take(&t, REQUESTS, NULL);
    return (unsigned)vt_ram(&t, *at + 11, 1);
}

static void expect_status(uint32_t at, unsigned status, unsigned key, unsigned asc)
{
    g_assert_cmphex(vt_ram(&t, at + 10, 1), ==, status);
    if (status) {
        g_assert_cmpuint(vt_ram(&t, at, 4), ==, SCSI_SENSE_SIZE);
        g_assert_cmphex(vt_ram(&t, at + 12 + 2, 1), ==, key);
        g_assert_cmphex(vt_ram(&t, at + 12 + 12, 1), ==, asc);
    }
}

static void expect_good(const uint8_t *cdb, unsigned cdb_size, uint32_t data, uint32_t size, bool to_device)
{
    uint32_t at;
    g_assert_cmpuint(send(3, 0, cdb, cdb_size, data, size, to_device, &at), ==, 0);
    expect_status(at, 0, 0, 0);
}

static void test_disk(void)
{
    static const uint8_t ready[6] = { 0 }, inquiry[] = { 0x12, 0, 0, 0, 36, 0 },
                         serial[] = { 0x12, 1, 0, 0, 64, 0 }, capacity[10] = { 0x25 },
                         luns[] = { 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0 },
                         write[] = { 0x2a, 0, 0, 0, 0, 5, 0, 0, 2, 0 },
                         read[] = { 0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0 },
                         beyond[] = { 0x28, 0, 0, 0, 7, 255, 0, 0, 2, 0 }, flush[10] = { 0x35 },
                         unknown[] = { 0x1f, 0, 0, 0, 0, 0 }, sense[] = { 3, 0, 0, 0, 18, 0 },
                         mode[] = { 0x1a, 0, 8, 0, 64, 0 };
    uint32_t at, data;
    setup();
    data = vt_alloc(&t, NULL, 1024);
    /* The first command is told of power-on. */
    g_assert_cmpuint(send(3, 0, ready, 6, 0, 0, false, &at), ==, 0);
    expect_status(at, 2, 6, 0x29);
    expect_good(ready, 6, 0, 0, false);
    expect_good(inquiry, 6, data, 36, false);
    g_assert_cmphex(vt_ram(&t, data, 1), ==, 0);
    g_assert_cmphex(vt_ram(&t, data + 8, 4), ==, 0x554d4551); /* "QEMU" */
    expect_good(serial, 6, data, 64, false);
    g_assert_cmphex(vt_ram(&t, data + 3, 4), ==, 0x83800006); /* six pages: 00, 80, 83 ... */
    expect_good(capacity, 10, data, 8, false);
    g_assert_cmphex(vt_ram(&t, data, 4), ==, 0xff070000); /* 2047, big-endian */
    expect_good(luns, 12, data, 64, false);
    g_assert_cmphex(vt_ram(&t, data, 4), ==, 0x08000000);
    for (unsigned i = 0; i < 1024; i += 4) {
        vt_set_ram(&t, data + i, 4, i * 0x1234567u);
    }
    expect_good(write, 10, data, 1024, true);
    expect_good(flush, 10, 0, 0, false);
    g_autofree char *content = NULL;
    gsize size;
    g_assert_true(g_file_get_contents(image, &content, &size, NULL));
    for (unsigned i = 0; i < 1024; i += 4) {
        g_assert_cmphex(*(uint32_t *)(content + 5 * 512 + i), ==, i * 0x1234567u);
    }
    uint32_t copy = vt_alloc(&t, NULL, 1024);
    expect_good(read, 10, copy, 1024, false);
    g_assert_cmphex(vt_ram(&t, copy + 1020, 4), ==, 1020 * 0x1234567u);
    /* Less room than blocks: the residual tells. */
    g_assert_cmpuint(send(3, 0, read, 10, copy, 512, false, &at), ==, 0);
    expect_status(at, 0, 0, 0);
    g_assert_cmpuint(vt_ram(&t, at + 4, 4), ==, 0);
    g_assert_cmpuint(send(3, 0, inquiry, 6, copy, 100, false, &at), ==, 0);
    g_assert_cmpuint(vt_ram(&t, at + 4, 4), ==, 64);
    send(3, 0, beyond, 10, copy, 1024, false, &at);
    expect_status(at, 2, 5, 0x21);
    send(3, 0, unknown, 6, 0, 0, false, &at);
    expect_status(at, 2, 5, 0x20);
    expect_good(sense, 6, data, 18, false);
    g_assert_cmphex(vt_ram(&t, data + 12, 1), ==, 0x20);
    expect_good(mode, 6, data, 64, false);
    g_assert_cmphex(vt_ram(&t, data + 12, 1), ==, 8); /* the caching page behind a block descriptor */
    g_assert_cmphex(vt_ram(&t, data + 14, 1) & 4, ==, 4);
    teardown();
}

static void test_zeroes(void)
{
    uint8_t unmap[] = { 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0 }, same[16] = { 0x93, 1, [9] = 4, [13] = 2 },
            list[40] = { 0, 38, 0, 32 };
    uint32_t at, data;
    setup();
    send(3, 0, (uint8_t[6]){ 0 }, 6, 0, 0, false, &at);
    list[15] = 10;  /* block 10, ... */
    list[19] = 3;   /* three of them */
    list[31] = 100; /* and none at 100 */
    data = vt_alloc(&t, list, sizeof(list));
    uint8_t pattern[512], write[] = { 0x2a, 0, 0, 0, 0, 11, 0, 0, 1, 0 };
    memset(pattern, 0x55, sizeof(pattern));
    expect_good(write, 10, vt_alloc(&t, pattern, 512), 512, true);
    expect_good(unmap, 10, data, sizeof(list), true);
    g_autofree char *content = NULL;
    g_assert_true(g_file_get_contents(image, &content, NULL, NULL));
    g_assert_cmphex((uint8_t)content[11 * 512], ==, 0);
    list[19] = 255;
    list[14] = 8; /* beyond the end */
    data = vt_alloc(&t, list, sizeof(list));
    send(3, 0, unmap, 10, data, sizeof(list), true, &at);
    expect_status(at, 2, 5, 0x21);
    expect_good(same, 16, 0, 0, false);
    same[10] = 0xff;
    send(3, 0, same, 16, 0, 0, false, &at);
    expect_status(at, 2, 5, 0x21);
    teardown();
}

static unsigned manage(uint32_t subtype, unsigned target, unsigned lun)
{
    uint8_t request[24] = {
        0, 0, 0, 0, (uint8_t)subtype, 0, 0, 0, 1, (uint8_t)target, (uint8_t)(0x40 | lun >> 8), (uint8_t)lun
    };
    uint32_t response = vt_alloc(&t, NULL, 1);
    VtBuffer buffers[] = { { vt_alloc(&t, request, 24), 24, false }, { response, 1, true } };
    vt_set_ram(&t, response, 1, 0x77);
    vt_add(&t, 0, 0, buffers, 2);
    vt_kick(&t, 0);
    vt_take(&t, 0, NULL);
    return (unsigned)vt_ram(&t, response, 1);
}

static void test_addresses(void)
{
    static const uint8_t ready[6] = { 0 }, inquiry[] = { 0x12, 0, 0, 0, 36, 0 };
    uint32_t at, data;
    setup();
    data = vt_alloc(&t, NULL, 64);
    g_assert_cmpuint(send(4, 0, ready, 6, 0, 0, false, &at), ==, 3); /* no such target */
    g_assert_cmpuint(send(3, 1, inquiry, 6, data, 36, false, &at), ==, 0);
    g_assert_cmphex(vt_ram(&t, data, 1), ==, 0x7f);
    g_assert_cmpuint(send(3, 1, ready, 6, 0, 0, false, &at), ==, 0);
    expect_status(at, 2, 5, 0x25);
    g_assert_cmpuint(manage(5, 3, 0), ==, 0);
    g_assert_cmpuint(manage(5, 4, 0), ==, 3);
    g_assert_cmpuint(manage(5, 3, 7), ==, 12);
    g_assert_cmpuint(manage(6, 3, 0), ==, 0);
    g_assert_cmpuint(manage(99, 3, 0), ==, 11);
    send(3, 0, ready, 6, 0, 0, false, &at); /* the reset is told */
    expect_status(at, 2, 6, 0x29);
    /* A unit that goes is told of, too. */
    uint32_t event = vt_alloc(&t, NULL, 16);
    vt_add(&t, 1, 0, &(VtBuffer){ event, 16, true }, 1);
    vt_kick(&t, 1);
    device_unplug_done(disk);
    vt_take(&t, 1, NULL);
    g_assert_cmpuint(vt_ram(&t, event, 4), ==, 1);
    g_assert_cmpuint(vt_ram(&t, event + 5, 1), ==, 3);
    g_assert_cmpuint(vt_ram(&t, event + 12, 4), ==, 2);
    g_assert_cmpuint(send(3, 0, ready, 6, 0, 0, false, &at), ==, 3);
    teardown();
}

/* Chains without room for command or response break the device, which tells so. */
static void test_hostile(void)
{
    setup();
    uint32_t small = vt_alloc(&t, NULL, 8);
    vt_add(&t, REQUESTS, 0, &(VtBuffer){ small, 8, false }, 1);
    vt_kick(&t, REQUESTS);
    vt_settle(&t);
    g_assert_cmphex(vt_read(&t, 0x070) & VIRTIO_STATUS_NEEDS_RESET, ==, VIRTIO_STATUS_NEEDS_RESET);
    vt_start(&t, 0, 3);
    address_space_store(t.as, VT_MMIO + 0x100 + 20, 4, 0xffffffff, MEMTXATTRS_NONE); /* sense data of 4 GiB */
    address_space_store(t.as, VT_MMIO + 0x100 + 24, 4, 0xffffffff, MEMTXATTRS_NONE);
    g_assert_cmpuint(vt_config(&t, 20, 4), ==, 252);
    g_assert_cmpuint(vt_config(&t, 24, 4), ==, 32);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-scsi/disk", test_disk);
    g_test_add_func("/virtio-scsi/zeroes", test_zeroes);
    g_test_add_func("/virtio-scsi/addresses", test_addresses);
    g_test_add_func("/virtio-scsi/hostile", test_hostile);
    return g_test_run();
}
