/* The entropy device, virtio 1.2, 5.4. */
#include "lv_test.h"

static void start(struct world *w)
{
	world_init(w);
	CHECK(lv_rng_new(NULL, &w->mem, &w->events, &w->device) == 0);
	driver_ok(w, 0);
}

static void fills_with_bytes_that_differ(void)
{
	struct world w;
	struct part part = {DATA, 64, WRITE};
	static const uint8_t zeros[64];
	uint8_t first[64];

	start(&w);
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(take_used(&w, 0, NULL) == 64);
	memcpy(first, at(&w, DATA), 64);
	CHECK(memcmp(first, zeros, 64) != 0);
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(memcmp(first, at(&w, DATA), 64) != 0);
	world_free(&w);
}

static void a_huge_request_gets_64_kib(void)
{
	struct world w;
	struct part parts[2] = {{DATA, 1000, WRITE},
				{DATA + 4096, 512 * 1024, WRITE}};
	uint64_t end = DATA + 4096 + 65536 - 1000;

	start(&w);
	(void)add_chain(&w, 0, parts, 2);
	lv_device_kick(w.device, 0);
	CHECK(take_used(&w, 0, NULL) == 65536);
	for (uint64_t i = 0; i < 4096; i++)
		CHECK(*at(&w, end + i) == 0);
	world_free(&w);
}

static void v5_4_6_1_readable_buffers_get_nothing(void)
{
	struct world w;
	struct part parts[2] = {{DATA, 8, 0}, {DATA + 64, 8, WRITE}};

	start(&w);
	(void)add_chain(&w, 0, parts, 2);
	(void)add_chain(&w, 0, parts, 1);
	lv_device_kick(w.device, 0);
	CHECK(take_used(&w, 0, NULL) == 0);
	CHECK(take_used(&w, 0, NULL) == 0);
	CHECK(w.device->stats.malformed == 2);
	CHECK(get_status(&w) == 15);
	world_free(&w);
}

int main(void)
{
	fills_with_bytes_that_differ();
	a_huge_request_gets_64_kib();
	v5_4_6_1_readable_buffers_get_nothing();
	return 0;
}
