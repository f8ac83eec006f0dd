/* blk_kit.h - what the tests of the block device share. */
#ifndef BLK_KIT_H
#define BLK_KIT_H

#include <pthread.h>

#include "lv_test.h"

#define SECTORS	      64u
#define HEADER	      DATA
#define BUFFER	      (DATA + 0x1000)
#define STATUS	      (DATA + 0x10000)
#define STATUS_OK     0
#define STATUS_IOERR  1
#define STATUS_UNSUPP 2
#define UNTOUCHED     0x77

struct disk {
	struct world w;
	int fd;
};

static void stop(struct disk *d)
{
	CHECK(get_status(&d->w) == 15);
	world_free(&d->w);
	(void)close(d->fd);
}

/* Serves a queue, and has what the ring took come back. */
static void serve(struct disk *d, uint32_t queue)
{
	lv_device_kick(d->w.device, queue);
	lv_device_hold(d->w.device);
	CHECK(pthread_mutex_unlock(&d->w.device->lock) == 0);
}

static void put_header(struct disk *d, uint32_t type, uint64_t sector)
{
	uint32_t head[2] = {type, 0};

	memcpy(at(&d->w, HEADER), head, 8);
	memcpy(at(&d->w, HEADER + 8), &sector, 8);
	*at(&d->w, STATUS) = UNTOUCHED;
}

#endif
