/* balloon.c - pages that a guest gives back, and its statistics. */
#include "kit.h"

static int make(struct fuzz *fuzz)
{
	static const struct lv_balloon_config config = {.size = sizeof(config)};

	return lv_balloon_new(&config, &fuzz->mem, &fuzz->events,
			      &fuzz->device);
}

/* Page numbers, mostly of data, or statistics. */
static uint32_t header(struct fuzz *fuzz, uint32_t queue, uint8_t *out)
{
	struct script *script = &fuzz->script;
	uint8_t which = take8(script);
	uint32_t count = which & 7u;

	if (queue == 2) {
		for (uint32_t i = 0; i < count && i < 6; i++) {
			out[10 * i] = take8(script);
			out[10 * i + 2] = take8(script);
		}
		return count * 10 < HEADER_MAX ? count * 10 : HEADER_MAX;
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t page = 16 + (take8(script) & 15u);

		/* Rings stay: a driver that gives them away is no driver. */
		if (which >= 0xe0)
			page = take32(script) | 0x20;
		memcpy(out + 4ull * i, &page, sizeof(page));
	}
	return count * 4;
}

static void host(struct fuzz *fuzz, uint8_t what)
{
	struct lv_balloon_stats stats;

	if ((what & 1) != 0)
		lv_balloon_read(fuzz->device, &stats);
	else
		lv_balloon_resize(fuzz->device, take32(&fuzz->script));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Reported pages come as room for the device; statistics are kept until
	 * somebody asks for the next. */
	static const struct target target = {.make = make,
					     .header = header,
					     .header_bytes = 16,
					     .host = host,
					     .filled = 8,
					     .held = 1};

	return fuzz_device(&target, data, size);
}
