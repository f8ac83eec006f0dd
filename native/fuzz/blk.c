/* blk.c - requests of the block device, over a file in memory. */
#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kit.h"

#define DISK_BYTES   65536u
#define DISK_SECTORS (DISK_BYTES / 512)
#define WAIT_MS	     5000

static int disk = -1;
static uint8_t *content;
static bool read_only;
static uint32_t sectors;

static void open_disk(void)
{
	disk = memfd_create("disk", MFD_CLOEXEC);
	MUST(disk >= 0 && ftruncate(disk, DISK_BYTES) == 0);
	content =
	    mmap(NULL, DISK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, disk, 0);
	MUST(content != MAP_FAILED);
}

static int make(struct fuzz *fuzz)
{
	uint8_t choice = take8(&fuzz->script);
	struct lv_blk_config config = {
	    .size = sizeof(config),
	    .bytes = DISK_BYTES - (choice & 1u) * 300u,
	    .id = "fuzz",
	    .queues = 1 + (choice >> 2 & 3u),
	};

	if (disk < 0)
		open_disk();
	memset(content, 0x5a, DISK_BYTES);
	read_only = (choice & 2) != 0;
	sectors = (uint32_t)(config.bytes / 512);
	config.flags = read_only ? LV_BLK_READ_ONLY : 0;
	/* A ring takes longer to make than the rest of a run. */
	if ((choice & 0x70) != 0x70)
		config.flags |= LV_BLK_NO_URING;
	config.fd = disk;
	if ((choice & 0x80) != 0) {
		config.limit.bytes_rate = take32(&fuzz->script);
		config.limit.ops_rate = take8(&fuzz->script);
		config.limit.ops_burst = take8(&fuzz->script);
	}
	return lv_blk_new(&config, &fuzz->mem, &fuzz->events, &fuzz->device);
}

static uint32_t header(struct fuzz *fuzz, uint32_t queue, uint8_t *out)
{
	static const uint32_t types[] = {0, 0, 1, 1, 4, 8, 11, 13};
	uint8_t which = take8(&fuzz->script);
	uint32_t type = which < 0xf0 ? types[which & 7u] : take8(&fuzz->script);
	uint64_t sector = take8(&fuzz->script);
	uint32_t bytes = 16;

	(void)queue;
	/* Around the last one. */
	if (sector >= 0xc0)
		sector = DISK_SECTORS - 4 + (sector & 7u);
	if (which >= 0x80 && which < 0x90)
		sector = take(&fuzz->script, 8);
	memcpy(out, &type, sizeof(type));
	memcpy(out + 8, &sector, sizeof(sector));
	/* Segments of an erasure. */
	for (uint32_t i = 0; type > 8 && i < (which >> 4 & 3u); i++) {
		uint64_t first = take8(&fuzz->script);
		uint32_t rest[2] = {take8(&fuzz->script), which >> 3 & 1u};

		memcpy(out + bytes, &first, sizeof(first));
		memcpy(out + bytes + 8, rest, sizeof(rest));
		bytes += 16;
	}
	return bytes;
}

/* What was taken and is not given back yet. */
static bool is_busy(const struct lv_device *device)
{
	for (uint32_t q = 0; device->active && q < device->queues; q++)
		if (device->queue[q].next_avail != device->queue[q].next_used)
			return true;
	return false;
}

/* Every request comes to its end; the file has the size it had, and a read-only
 * one what was in it. */
static void end(struct fuzz *fuzz)
{
	struct lv_device *device = fuzz->device;
	struct pollfd done = {.fd = device->poll_fd, .events = POLLIN};
	struct stat info;

	while (is_busy(device)) {
		/* libFuzzer looks at its clock by a signal. */
		MUST(done.fd >= 0 &&
		     TEMP_FAILURE_RETRY(poll(&done, 1, WAIT_MS)) == 1);
		lv_device_poll(device);
		check_queues(fuzz);
	}
	MUST(fstat(disk, &info) == 0 && info.st_size == DISK_BYTES);
	/* Half a sector at its end is not the guest's. */
	for (uint32_t i = sectors * 512; i < DISK_BYTES; i++)
		MUST(content[i] == 0x5a);
	for (uint32_t i = 0; read_only && i < DISK_BYTES; i += LV_PAGE)
		MUST(content[i] == 0x5a && content[i + LV_PAGE - 1] == 0x5a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* As many as its ring has requests for. */
	static const struct target target = {.make = make,
					     .header = header,
					     .header_bytes = 16,
					     .held = 64,
					     .end = end};

	return fuzz_device(&target, data, size);
}
