/* serial.c - the 16550's registers. What comes out is what went in, up to the
 * limit; nothing a guest writes makes it wait or come to more. */
#include <sys/mman.h>

#include "kit.h"

#define STEPS_MAX 600u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int out = -1;
	struct script script = {data, size};
	uint8_t choice = take8(&script);
	struct lv_serial_config config = {.size = sizeof(config),
					  .port = 0x3f8,
					  .gsi = 4,
					  .out_limit = choice % 8u * 20ull};
	struct lv_serial serial;
	uint64_t sent = 0;
	off_t came;

	if (out < 0)
		out = memfd_create("out", MFD_CLOEXEC);
	MUST(out >= 0 && ftruncate(out, 0) == 0);
	MUST(lseek(out, 0, SEEK_SET) == 0);
	config.out_fd = (choice & 0x80) != 0 ? -1 : out;
	MUST(lv_serial_init(&serial, &config) == 0);
	for (uint32_t i = 0; i < STEPS_MAX && script.left > 0; i++) {
		uint8_t what = take8(&script);
		uint16_t reg = what & 15u;

		if ((what & 0x80) != 0) {
			(void)lv_serial_read(&serial, reg);
			continue;
		}
		if (reg == 0)
			sent++;
		/* Most bytes are text, and lines end. */
		lv_serial_write(&serial, (what & 0x40) != 0 ? 0 : reg,
				take8(&script));
		if ((what & 0x40) != 0 && reg != 0)
			sent++;
	}
	lv_serial_free(&serial);
	came = lseek(out, 0, SEEK_END);
	MUST(came >= 0 && (uint64_t)came <= sent);
	if (config.out_limit != 0)
		MUST((uint64_t)came <= config.out_limit);
	return 0;
}
