/* rng.c - the entropy device. */
#include "kit.h"

static int make(struct fuzz *fuzz)
{
	static const struct lv_rng_config config = {.size = sizeof(config)};

	return lv_rng_new(&config, &fuzz->mem, &fuzz->events, &fuzz->device);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct target target = {.make = make, .filled = 1};

	return fuzz_device(&target, data, size);
}
