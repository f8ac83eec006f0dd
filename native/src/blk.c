/*
 * blk.c - virtio block device (virtio 1.2, 5.2) over a file: positioned reads
 * and writes straight into guest memory, in order, on the I/O thread. Several
 * queues save the guest's CPUs a lock. What is discarded leaves the file.
 *
 * Framing is the driver's choice (2.7.4): the header may be split over
 * descriptors and the status byte is simply the last writable byte.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lv.h"

#define F_SEG_MAX      (1ull << 2)
#define F_RO	       (1ull << 5)
#define F_BLK_SIZE     (1ull << 6)
#define F_FLUSH	       (1ull << 9)
#define F_MQ	       (1ull << 12)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

#define SECTOR	       512u
#define SEG_MAX	       (LV_QUEUE_MAX - 2)
#define ID_BYTES       20u

#define ERASE_SEGS     16u
#define ERASE_SECTORS  (1u << 22)
#define ERASE_UNMAP    1u

enum {
	REQ_IN = 0,
	REQ_OUT = 1,
	REQ_FLUSH = 4,
	REQ_GET_ID = 8,
	REQ_DISCARD = 11,
	REQ_WRITE_ZEROES = 13,
};
enum { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPP = 2 };

struct header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};
_Static_assert(sizeof(struct header) == 16, "5.2.6");

struct blk {
	struct lv_device device;
	int fd;
	bool read_only;
	uint64_t sectors;
	char id[ID_BYTES];
	struct lv_limiter limiter;
	struct iovec iov[LV_QUEUE_MAX];
};

/* 5.2.4 */
struct config {
	uint64_t capacity;
	uint32_t size_max;
	uint32_t seg_max;
	uint32_t geometry;
	uint32_t blk_size;
	uint64_t topology;
	uint8_t writeback, unused;
	uint16_t queues;
	uint32_t discard_sectors, discard_segs, discard_alignment;
	uint32_t zeroes_sectors, zeroes_segs;
	uint8_t zeroes_may_unmap, padding[7];
};
_Static_assert(offsetof(struct config, zeroes_may_unmap) == 56, "5.2.4");

/* 5.2.6: what DISCARD and WRITE_ZEROES carry. */
struct segment {
	uint64_t sector;
	uint32_t sectors;
	uint32_t flags;
};
_Static_assert(sizeof(struct segment) == 16, "5.2.6");

/* Moves blk->iov[0 .. count) fully, or says why not. */
static int transfer(struct blk *blk, uint32_t count, uint64_t offset, bool in)
{
	struct iovec *iov = blk->iov;

	while (count > 0) {
		ssize_t done =
		    in ? preadv(blk->fd, iov, (int)count, (off_t)offset)
		       : pwritev(blk->fd, iov, (int)count, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (done == 0) /* shorter than its capacity: truncated */
			return -EIO;
		offset += (uint64_t)done;
		while (count > 0 && (size_t)done >= iov->iov_len) {
			done -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + done;
			iov->iov_len -= (size_t)done;
		}
	}
	return 0;
}

/* Whether [sector, sector + bytes) is whole sectors inside the disk. */
static bool in_range(const struct blk *blk, uint64_t sector, uint64_t bytes)
{
	return bytes % SECTOR == 0 && sector <= blk->sectors &&
	       bytes / SECTOR <= blk->sectors - sector;
}

static uint8_t do_in(struct blk *blk, const struct lv_chain *chain,
		     uint64_t sector, uint64_t bytes)
{
	uint32_t count;

	if (chain->readable_bytes != sizeof(struct header) ||
	    !in_range(blk, sector, bytes)) {
		LV_COUNT(&blk->device, malformed, 1);
		return STATUS_IOERR;
	}
	count = lv_iov_slice(blk->iov, chain->iov + chain->readable,
			     chain->writable, 0, bytes);
	if (transfer(blk, count, sector * SECTOR, true) < 0) {
		LV_COUNT(&blk->device, errors, 1);
		return STATUS_IOERR;
	}
	LV_COUNT(&blk->device, bytes_in, bytes);
	return STATUS_OK;
}

static uint8_t do_out(struct blk *blk, const struct lv_chain *chain,
		      uint64_t sector)
{
	uint64_t bytes = chain->readable_bytes - sizeof(struct header);
	uint32_t count;

	if (chain->writable_bytes != 1 || !in_range(blk, sector, bytes)) {
		LV_COUNT(&blk->device, malformed, 1);
		return STATUS_IOERR;
	}
	if (blk->read_only) {
		LV_COUNT(&blk->device, errors, 1);
		return STATUS_IOERR;
	}
	count = lv_iov_slice(blk->iov, chain->iov, chain->readable,
			     sizeof(struct header), bytes);
	if (transfer(blk, count, sector * SECTOR, false) < 0) {
		LV_COUNT(&blk->device, errors, 1);
		return STATUS_IOERR;
	}
	LV_COUNT(&blk->device, bytes_out, bytes);
	return STATUS_OK;
}

static uint8_t erase(struct blk *blk, const struct segment *segment,
		     uint32_t type)
{
	int mode = FALLOC_FL_PUNCH_HOLE;
	int result;

	/* A discard says nothing about what is read afterwards; WRITE_ZEROES
	 * gives its blocks back only when it may. */
	if (type == REQ_WRITE_ZEROES && (segment->flags & ERASE_UNMAP) == 0)
		mode = FALLOC_FL_ZERO_RANGE;
	if (segment->sectors == 0)
		return STATUS_OK;
	do
		result = fallocate(blk->fd, mode | FALLOC_FL_KEEP_SIZE,
				   (off_t)(segment->sector * SECTOR),
				   (off_t)segment->sectors * SECTOR);
	while (result < 0 && errno == EINTR);
	if (result == 0)
		return STATUS_OK;
	if (errno == EOPNOTSUPP)
		return STATUS_UNSUPP;
	LV_COUNT(&blk->device, errors, 1);
	return STATUS_IOERR;
}

static uint8_t do_erase(struct blk *blk, const struct lv_chain *chain,
			uint32_t type)
{
	uint64_t bytes = chain->readable_bytes - sizeof(struct header);
	uint32_t known = type == REQ_WRITE_ZEROES ? ERASE_UNMAP : 0;
	struct segment segment;
	uint8_t status = STATUS_OK;

	if (blk->read_only)
		return STATUS_IOERR;
	if (chain->writable_bytes != 1 || bytes % sizeof(segment) != 0 ||
	    bytes / sizeof(segment) > ERASE_SEGS) {
		LV_COUNT(&blk->device, malformed, 1);
		return STATUS_IOERR;
	}
	for (size_t at = sizeof(struct header);
	     at < chain->readable_bytes && status == STATUS_OK;
	     at += sizeof(segment)) {
		(void)lv_iov_read(chain->iov, chain->readable, at, &segment,
				  sizeof(segment));
		if ((segment.flags & ~known) != 0)
			return STATUS_UNSUPP; /* 5.2.6.2 */
		if (segment.sectors > ERASE_SECTORS ||
		    !in_range(blk, segment.sector,
			      (uint64_t)segment.sectors * SECTOR)) {
			LV_COUNT(&blk->device, malformed, 1);
			return STATUS_IOERR;
		}
		status = erase(blk, &segment, type);
	}
	return status;
}

static uint8_t do_flush(struct blk *blk)
{
	int result;

	if (blk->read_only)
		return STATUS_OK;
	do
		result = fdatasync(blk->fd);
	while (result < 0 && errno == EINTR);
	if (result == 0)
		return STATUS_OK;
	LV_COUNT(&blk->device, errors, 1);
	return STATUS_IOERR;
}

static uint8_t do_get_id(struct blk *blk, const struct lv_chain *chain,
			 uint64_t bytes)
{
	if (bytes < ID_BYTES) {
		LV_COUNT(&blk->device, malformed, 1);
		return STATUS_IOERR;
	}
	(void)lv_iov_write(chain->iov + chain->readable, chain->writable, 0,
			   blk->id, ID_BYTES);
	return STATUS_OK;
}

/* Bytes written into the chain, from its first writable byte on (2.7.8.2). */
static uint32_t handle(struct blk *blk, const struct lv_chain *chain)
{
	const struct iovec *in = chain->iov + chain->readable;
	struct header header;
	uint64_t data_bytes;
	uint64_t filled = 0;
	uint8_t status;

	if (chain->misordered || chain->readable_bytes < sizeof(header) ||
	    chain->writable_bytes < 1) {
		LV_COUNT(&blk->device, malformed, 1);
		return 0;
	}
	(void)lv_iov_read(chain->iov, chain->readable, 0, &header,
			  sizeof(header));
	data_bytes = chain->writable_bytes - 1;
	switch (header.type) {
	case REQ_IN:
		status = do_in(blk, chain, header.sector, data_bytes);
		filled = data_bytes;
		break;
	case REQ_OUT:
		status = do_out(blk, chain, header.sector);
		break;
	case REQ_FLUSH:
		status = do_flush(blk);
		break;
	case REQ_GET_ID:
		status = do_get_id(blk, chain, data_bytes);
		filled = ID_BYTES;
		break;
	case REQ_DISCARD:
	case REQ_WRITE_ZEROES:
		status = do_erase(blk, chain, header.type);
		break;
	default:
		status = STATUS_UNSUPP;
		break;
	}
	(void)lv_iov_write(in, chain->writable, (size_t)data_bytes, &status, 1);
	if (status == STATUS_OK && filled != data_bytes)
		return (uint32_t)filled;
	if (status != STATUS_OK && data_bytes > 0)
		return 0;
	return (uint32_t)data_bytes + 1;
}

static int64_t serve(struct lv_device *device, uint32_t queue,
		     const struct lv_chain *chain)
{
	struct blk *blk = (struct blk *)device;

	(void)queue;
	if (lv_device_throttle(device, &blk->limiter))
		return LV_LATER;
	lv_limiter_spend(&blk->limiter,
			 chain->readable_bytes + chain->writable_bytes);
	return handle(blk, chain);
}

static void notify(struct lv_device *device, uint32_t queue)
{
	lv_device_drain(device, queue, serve);
}

static void tick(struct lv_device *device, uint64_t now_ns)
{
	(void)now_ns;
	for (uint32_t i = 0; i < device->queues; i++)
		lv_device_drain(device, i, serve);
}

static void destroy(struct lv_device *device)
{
	struct blk *blk = (struct blk *)device;

	(void)close(blk->fd);
	lv_device_fini(device);
	free(blk);
}

static const struct lv_device_ops blk_ops = {
    .id = 2,
    .notify = notify,
    .tick = tick,
    .destroy = destroy,
};

int lv_blk_new(const struct lv_blk_config *config, const struct lv_mem *mem,
	       struct lv_events *events, struct lv_device **out)
{
	bool read_only = (config->flags & LV_BLK_READ_ONLY) != 0;
	uint64_t features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH;
	struct config space = {
	    .seg_max = SEG_MAX,
	    .blk_size = SECTOR,
	    .queues = (uint16_t)config->queues,
	    .discard_sectors = ERASE_SECTORS,
	    .discard_segs = ERASE_SEGS,
	    .discard_alignment = LV_PAGE / SECTOR,
	    .zeroes_sectors = ERASE_SECTORS,
	    .zeroes_segs = ERASE_SEGS,
	    .zeroes_may_unmap = 1,
	};
	struct blk *blk;
	int error;

	if ((config->flags & ~LV_BLK_READ_ONLY) != 0 ||
	    config->bytes > INT64_MAX || config->queues == 0 ||
	    config->queues > LV_QUEUES_MAX)
		return -EINVAL;
	features |= read_only ? F_RO : F_DISCARD | F_WRITE_ZEROES;
	if (config->queues > 1)
		features |= F_MQ;
	blk = calloc(1, sizeof(*blk));
	if (blk == NULL)
		return -ENOMEM;
	blk->fd = fcntl(config->fd, F_DUPFD_CLOEXEC, 3);
	if (blk->fd < 0) {
		error = -errno;
		goto fail_free;
	}
	blk->read_only = read_only;
	blk->sectors = config->bytes / SECTOR;
	memcpy(blk->id, config->id, ID_BYTES);
	lv_limiter_init(&blk->limiter, &config->limit);
	space.capacity = blk->sectors;
	memcpy(blk->device.config, &space, sizeof(space));
	blk->device.config_bytes = sizeof(space);
	error = lv_device_init(&blk->device, &blk_ops, config->queues, mem,
			       events, features);
	if (error < 0)
		goto fail_close;
	*out = &blk->device;
	return 0;
fail_close:
	(void)close(blk->fd);
fail_free:
	free(blk);
	return error;
}
