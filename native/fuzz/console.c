/* console.c - hvc0: no more comes out than went in, and never past the limit.
 */
#include <sys/mman.h>

#include "kit.h"

static int out = -1;
static uint64_t limit;

static int make(struct fuzz *fuzz)
{
	struct lv_console_config config = {.size = sizeof(config)};
	uint8_t choice = take8(&fuzz->script);

	if (out < 0)
		out = memfd_create("out", MFD_CLOEXEC);
	MUST(out >= 0 && ftruncate(out, 0) == 0);
	MUST(lseek(out, 0, SEEK_SET) == 0);
	limit = (choice & 15u) * 100u;
	config.out_limit = limit;
	config.out_fd = (choice & 0x80) != 0 ? -1 : out;
	return lv_console_new(&config, &fuzz->mem, &fuzz->events,
			      &fuzz->device);
}

/* Text with the ends of lines here and there. */
static uint32_t header(struct fuzz *fuzz, uint32_t queue, uint8_t *bytes)
{
	uint8_t count = take8(&fuzz->script) % HEADER_MAX;

	(void)queue;
	memset(bytes, 'x', HEADER_MAX);
	for (uint32_t i = 0; i < 4 && count > 0; i++)
		bytes[take8(&fuzz->script) % count] = i == 0 ? '\n' : '\0';
	return count;
}

static void end(struct fuzz *fuzz)
{
	uint64_t sent = fuzz->device->stats.bytes_out;
	off_t came = lseek(out, 0, SEEK_END);

	MUST(came >= 0 && (uint64_t)came <= sent);
	if (limit != 0)
		MUST((uint64_t)came <= limit);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct target target = {.make = make,
					     .header = header,
					     .header_bytes = 20,
					     .filled = 1,
					     .end = end};

	return fuzz_device(&target, data, size);
}
