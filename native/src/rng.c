/*
 * rng.c - virtio entropy device (virtio 1.2, 5.4): fills what the driver offers
 * from the host kernel's generator, at most 64 KiB a request.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "lv.h"

#define REQUEST_MAX_BYTES 65536u

static uint32_t fill(struct lv_device *device, const struct lv_chain *chain)
{
	const struct iovec *iov = chain->iov + chain->readable;
	uint32_t done = 0;

	for (uint32_t i = 0; i < chain->writable; i++) {
		size_t at = 0;

		while (at < iov[i].iov_len && done < REQUEST_MAX_BYTES) {
			size_t want = iov[i].iov_len - at;
			ssize_t got;

			if (want > REQUEST_MAX_BYTES - done)
				want = REQUEST_MAX_BYTES - done;
			got =
			    getrandom((uint8_t *)iov[i].iov_base + at, want, 0);
			if (got < 0 && errno == EINTR)
				continue;
			if (got <= 0) {
				LV_COUNT(device, errors, 1);
				return done;
			}
			at += (size_t)got;
			done += (uint32_t)got;
		}
	}
	return done;
}

static int64_t serve(struct lv_device *device, uint32_t queue,
		     const struct lv_chain *chain)
{
	uint32_t len;

	(void)queue;
	/* 5.4.6.1: buffers must be writable only. */
	if (chain->readable > 0 || chain->writable == 0) {
		LV_COUNT(device, malformed, 1);
		return 0;
	}
	len = fill(device, chain);
	LV_COUNT(device, bytes_in, len);
	return len;
}

static void notify(struct lv_device *device, uint32_t queue)
{
	lv_device_drain(device, queue, serve);
}

static void destroy(struct lv_device *device)
{
	lv_device_fini(device);
	free(device);
}

static const struct lv_device_ops rng_ops = {
    .id = 4,
    .notify = notify,
    .destroy = destroy,
};

int lv_rng_new(const struct lv_rng_config *config, const struct lv_mem *mem,
	       struct lv_events *events, struct lv_device **out)
{
	struct lv_device *device = calloc(1, sizeof(*device));
	int error;

	(void)config;
	if (device == NULL)
		return -ENOMEM;
	error = lv_device_init(device, &rng_ops, 1, mem, events, 0);
	if (error < 0) {
		free(device);
		return error;
	}
	*out = device;
	return 0;
}
