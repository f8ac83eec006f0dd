/* The balloon, virtio 1.2, 5.5. Guest memory here is not the VM's memory file:
 * what leaves it reads as zeros all the same. */
#include <sys/mman.h>

#include "lv_test.h"

#define INFLATE	 0
#define STATS	 2
#define REPORT	 3
#define F_STATS	 2ull
#define F_REPORT 32ull
#define PAGES	 (DATA + 0x10000)

/* Region 0 over a mapping, so that there is something to give back. */
static void start(struct world *w, uint64_t features)
{
	world_init(w);
	free(w->mem.region[0].hva);
	w->mem.region[0].hva = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(w->mem.region[0].hva != MAP_FAILED);
	CHECK(lv_balloon_new(NULL, &w->mem, &w->events, &w->device) == 0);
	driver_ok(w, features);
	memset(at(w, PAGES), 0x55, 0x10000);
}

static void stop(struct world *w)
{
	CHECK(get_status(w) == 15);
	CHECK(munmap(w->mem.region[0].hva, RAM_BYTES) == 0);
	w->mem.region[0].hva = NULL;
	world_free(w);
}

static void send_pfns(struct world *w, const uint32_t *pfns, uint32_t count)
{
	struct part part = {DATA, count * 4, 0};

	memcpy(at(w, DATA), pfns, count * 4ul);
	(void)add_chain(w, INFLATE, &part, 1);
	lv_device_kick(w->device, INFLATE);
	CHECK(take_used(w, INFLATE, NULL) == 0);
}

static void v5_5_6_inflated_pages_go_back(void)
{
	uint32_t base = (uint32_t)(PAGES / LV_PAGE);
	/* A run upwards, one downwards, one alone. */
	uint32_t pfns[] = {base,     base + 1, base + 2, base + 6,
			   base + 5, base + 4, base + 9};
	struct world w;

	start(&w, 0);
	send_pfns(&w, pfns, 7);
	for (uint32_t i = 0; i < 16; i++) {
		bool gone = i <= 2 || (i >= 4 && i <= 6) || i == 9;

		CHECK(*at(&w, PAGES + i * LV_PAGE) == (gone ? 0 : 0x55));
		CHECK(*at(&w, PAGES + (i + 1) * LV_PAGE - 1) ==
		      (gone ? 0 : 0x55));
	}
	CHECK(w.device->stats.bytes_out == 7 * LV_PAGE);
	CHECK(w.device->stats.malformed == 0);
	stop(&w);
}

static void pages_that_are_no_ram_are_counted(void)
{
	uint32_t pfns[] = {RAM_BYTES / LV_PAGE, UINT32_MAX, 0x80000,
			   (uint32_t)(PAGES / LV_PAGE)};
	struct part odd = {DATA, 5, 0}, many = {DATA, 4100, 0};
	struct world w;

	start(&w, 0);
	send_pfns(&w, pfns, 4);
	CHECK(w.device->stats.malformed == 3);
	CHECK(*at(&w, PAGES) == 0);
	(void)add_chain(&w, INFLATE, &odd, 1);
	(void)add_chain(&w, INFLATE, &many, 1);
	lv_device_kick(w.device, INFLATE);
	CHECK(w.device->stats.malformed == 5);
	stop(&w);
}

static void v5_5_6_7_reported_pages_go_back(bool stats)
{
	struct part parts[2] = {{PAGES, 2 * LV_PAGE, WRITE},
				{PAGES + 3 * LV_PAGE + 1, LV_PAGE, WRITE}};
	uint32_t queue = stats ? REPORT : REPORT - 1;
	struct world w;

	start(&w, F_REPORT | (stats ? F_STATS : 0));
	(void)add_chain(&w, queue, parts, 2);
	lv_device_kick(w.device, queue);
	CHECK(take_used(&w, queue, NULL) == 0);
	CHECK(*at(&w, PAGES + LV_PAGE) == 0);
	CHECK(*at(&w, PAGES + 2 * LV_PAGE) == 0x55);
	CHECK(*at(&w, PAGES + 4 * LV_PAGE) == 0x55);
	CHECK(w.device->stats.malformed == 1);
	stop(&w);
}

static void v5_5_6_3_statistics_come_when_asked_for(void)
{
	/* Free, then a tag that nobody knows. */
	static const uint8_t bytes[20] = {4, 0, 0, 0x10, [10] = 77, [12] = 1};
	struct part part = {DATA, sizeof(bytes), 0};
	struct lv_balloon_stats stats;
	struct world w;

	start(&w, F_STATS);
	memcpy(at(&w, DATA), bytes, sizeof(bytes));
	(void)add_chain(&w, STATS, &part, 1);
	lv_device_kick(w.device, STATS);
	CHECK(used_index(&w, STATS) == 0);
	/* A second buffer while one is held is against the rules. */
	(void)add_chain(&w, STATS, &part, 1);
	lv_device_kick(w.device, STATS);
	CHECK(w.device->stats.malformed == 1);
	lv_balloon_read(w.device, &stats);
	CHECK(stats.guest[4] == 0x1000);
	CHECK(used_index(&w, STATS) == 2);
	lv_balloon_read(w.device, &stats);
	CHECK(used_index(&w, STATS) == 2);
	stop(&w);
}

static void v5_5_4_the_target_is_announced_and_the_answer_taken(void)
{
	struct lv_balloon_stats stats;
	struct world w;

	start(&w, 0);
	lv_balloon_resize(w.device, 512);
	CHECK((reg_read(&w, 0x060) & 2) != 0);
	CHECK(reg_read(&w, 0x0fc) == 1);
	CHECK(reg_read(&w, 0x100) == 512);
	reg_write(&w, 0x104, 500);
	reg_write(&w, 0x100, 1);
	lv_balloon_read(w.device, &stats);
	CHECK(stats.target_pages == 512 && stats.actual_pages == 500);
	CHECK(w.device->stats.malformed == 1);
	stop(&w);
}

int main(void)
{
	v5_5_6_inflated_pages_go_back();
	pages_that_are_no_ram_are_counted();
	v5_5_6_7_reported_pages_go_back(true);
	v5_5_6_7_reported_pages_go_back(false);
	v5_5_6_3_statistics_come_when_asked_for();
	v5_5_4_the_target_is_announced_and_the_answer_taken();
	return 0;
}
