/*
 * balloon.c - virtio memory balloon (virtio 1.2, 5.5): what the guest does not
 * need goes back to the host, as the host asks (inflate) or of itself (free
 * page reporting). Freed pages read as zeros when the guest takes them again,
 * which it does not expect.
 *
 * Statistics come when the host asks for the last ones: only then is the
 * driver's buffer given back to be filled anew.
 */
#include <sys/mman.h>

#include "lv.h"

#define F_STATS_VQ	 (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_REPORTING	 (1ull << 5)

#define PFNS_MAX	 1024u /* of one chain; Linux sends 256 */
#define ACTUAL		 4u    /* offset in config, 5.5.4 */

enum { STATS = 2, QUEUES = 4 }; /* after inflate and deflate */

struct balloon {
	struct lv_device device;
	bool holds_stats;
	uint16_t stats_head;
	struct lv_balloon_stats stats;
	uint32_t pfns[PFNS_MAX];
};

/* 5.5.6.3, packed. */
struct stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static void give_back(struct balloon *balloon, void *hva, uint64_t len)
{
	/* Of the memory file, or of memory that is no file's. */
	if (madvise(hva, len, MADV_REMOVE) < 0 &&
	    madvise(hva, len, MADV_DONTNEED) < 0) {
		LV_COUNT(&balloon->device, errors, 1);
		return;
	}
	LV_COUNT(&balloon->device, bytes_out, len);
}

static int64_t inflate(struct lv_device *device, const struct lv_chain *chain)
{
	struct balloon *balloon = (struct balloon *)device;
	size_t count = chain->readable_bytes / sizeof(uint32_t);
	size_t next;

	if (chain->writable > 0 || count > PFNS_MAX ||
	    chain->readable_bytes % sizeof(uint32_t) != 0)
		return LV_MALFORMED;
	(void)lv_chain_read(chain, 0, balloon->pfns, count * sizeof(uint32_t));
	for (size_t i = 0; i < count; i = next) {
		uint64_t gpa = (uint64_t)balloon->pfns[i] * LV_PAGE;
		uint64_t len = LV_PAGE;
		void *hva;

		/* Neighbours in one go, upwards or downwards. */
		for (next = i + 1; next < count; next++, len += LV_PAGE) {
			uint64_t at = (uint64_t)balloon->pfns[next] * LV_PAGE;

			if (at + LV_PAGE == gpa)
				gpa = at;
			else if (at != gpa + len)
				break;
		}
		hva = lv_gpa(device->mem, gpa, len);
		if (hva == NULL)
			LV_COUNT(device, malformed, 1);
		else
			give_back(balloon, hva, len);
	}
	return 0;
}

/* The guest just touches what it wants back. */
static int64_t deflate(struct lv_device *device, const struct lv_chain *chain)
{
	LV_COUNT(device, bytes_in,
		 chain->readable_bytes / sizeof(uint32_t) * LV_PAGE);
	return 0;
}

static int64_t report(struct lv_device *device, const struct lv_chain *chain)
{
	const struct iovec *iov = chain->iov + chain->readable;

	for (uint32_t i = 0; i < chain->writable; i++) {
		if (((uintptr_t)iov[i].iov_base | iov[i].iov_len) % LV_PAGE !=
		    0)
			LV_COUNT(device, malformed, 1);
		else
			give_back((struct balloon *)device, iov[i].iov_base,
				  iov[i].iov_len);
	}
	return 0;
}

static int64_t take_stats(struct lv_device *device,
			  const struct lv_chain *chain)
{
	struct balloon *balloon = (struct balloon *)device;
	struct stat stat;
	size_t at = 0;

	/* Linux leaves no gap where the statistics would be. */
	if ((device->driver_features & F_STATS_VQ) == 0)
		return report(device, chain);
	if (balloon->holds_stats)
		return LV_MALFORMED;
	/* As many as there are kinds, however long the buffer is. */
	for (uint32_t i = 0; i < LV_BALLOON_STATS; i++, at += sizeof(stat)) {
		if (lv_chain_read(chain, at, &stat, sizeof(stat)) <
		    sizeof(stat))
			break;
		if (stat.tag < LV_BALLOON_STATS)
			balloon->stats.guest[stat.tag] = stat.value;
	}
	balloon->holds_stats = true;
	balloon->stats_head = chain->head;
	return LV_HELD;
}

static void reset(struct lv_device *device)
{
	((struct balloon *)device)->holds_stats = false;
}

const struct lv_device_ops lv_balloon_ops = {
    .id = LV_DEVICE_BALLOON,
    .config_size = sizeof(struct lv_balloon_config),
    .bytes = sizeof(struct balloon),
    .queues = QUEUES,
    .space_writes = ACTUAL,
    .features = F_STATS_VQ | F_DEFLATE_ON_OOM | F_REPORTING,
    .serve = {inflate, deflate, take_stats, report},
    .reset = reset,
    .destroy = lv_device_free,
};

void lv_balloon_resize(struct lv_device *device, uint32_t pages)
{
	LV_LOCKED(&device->lock);
	lv_device_configure(device, 0, &pages, sizeof(pages));
}

void lv_balloon_read(struct lv_device *device, struct lv_balloon_stats *out)
{
	struct balloon *balloon = (struct balloon *)device;
	uint32_t pages[2];

	LV_LOCKED(&device->lock);
	memcpy(pages, device->regs->config, sizeof(pages));
	*out = balloon->stats;
	out->target_pages = pages[0];
	out->actual_pages = pages[1];
	if (balloon->holds_stats && device->active) {
		balloon->holds_stats = false;
		lv_queue_push(&device->queue[STATS], balloon->stats_head, 0);
		lv_device_signal(device, STATS);
	}
}
