/*
 * rng.c - virtio entropy device (virtio 1.2, 5.4): fills what the driver offers
 * from the host kernel's generator, at most 64 KiB a request.
 */
#include <sys/random.h>

#include "lv.h"

#define REQUEST_MAX_BYTES 65536u

static int64_t serve(struct lv_device *device, const struct lv_chain *chain)
{
	const struct iovec *iov = chain->iov;
	uint32_t done = 0;

	/* 5.4.6.1: buffers must be writable only. */
	if (chain->readable > 0 || chain->writable == 0)
		return LV_MALFORMED;
	for (uint32_t i = 0; i < chain->writable; i++) {
		size_t len = lv_min(iov[i].iov_len, REQUEST_MAX_BYTES - done);
		ssize_t got =
		    TEMP_FAILURE_RETRY(getrandom(iov[i].iov_base, len, 0));

		LV_COUNT(device, errors, got < 0);
		done += got > 0 ? (uint32_t)got : 0;
		if (got != (ssize_t)len) /* less than asked for is an answer */
			break;
	}
	LV_COUNT(device, bytes_in, done);
	return done;
}

const struct lv_device_ops lv_rng_ops = {
    .id = LV_DEVICE_RNG,
    .config_size = sizeof(struct lv_rng_config),
    .bytes = sizeof(struct lv_device),
    .queues = 1,
    .serve = {serve},
    .destroy = lv_device_free,
};
