/*
 * Fewer notifications (virtio 1.2, 2.7.10) and interrupts (2.7.7), by a block
 * device whose queue the I/O thread polls.
 */
#include "blk_kit.h"

#define AVAIL_EVENT(w) (RING_USED(0) + 4 + 8ull * (w)->num)
#define QUIET_NS       lv_blk_ops.coalesces.quiet_ns
#define HOLD_NS	       lv_blk_ops.coalesces.hold_ns
#define USED_EVENT(w)  (RING_AVAIL(0) + 4 + 2ull * (w)->num)

static void start(struct disk *d, uint64_t requests_per_second)
{
	struct lv_blk_config config = {
	    .size = sizeof(config),
	    .flags = LV_BLK_NO_URING,
	    .bytes = SECTORS * 512,
	    .queues = 1,
	    .limit = {.ops_rate = requests_per_second, .ops_burst = 1}};
	char path[] = "/tmp/lv-blk-XXXXXX";

	d->fd = config.fd = mkstemp(path);
	CHECK(d->fd >= 0 && unlink(path) == 0);
	CHECK(ftruncate(d->fd, SECTORS * 512) == 0);
	world_init(&d->w);
	CHECK(lv_blk_new(&config, &d->w.mem, &d->w.events, &d->w.device) == 0);
	driver_ok(&d->w, LV_VIRTIO_F_EVENT_IDX);
	lv_eventfd_drain(d->w.device->kick_fd[0]);
	d->w.device->coalesce.enabled = true;
	put_header(d, 0, 0);
}

/* A driver that has seen all answers wants to hear of the next. */
static void ask(struct disk *d)
{
	struct part parts[3] = {
	    {HEADER, 16, 0}, {BUFFER, 4096, WRITE}, {STATUS, 1, WRITE}};

	poke16(&d->w, USED_EVENT(&d->w), used_index(&d->w, 0));
	(void)add_chain(&d->w, 0, parts, 3);
}

static void ask_and_kick(struct disk *d)
{
	ask(d);
	serve(d, 0);
}

/* So long after something was last served; whether it is polled on. */
static bool tick(struct disk *d, uint64_t later_ns)
{
	uint64_t now_ns = d->w.device->coalesce.chain_ns + later_ns;
	uint64_t next_ns = lv_device_tick(d->w.device, now_ns);
	bool polls = d->w.device->coalesce.polls;

	CHECK(!polls || next_ns <= d->w.device->coalesce.chain_ns + QUIET_NS);
	return polls;
}

static void v2_7_10_what_follows_needs_no_kick(void)
{
	struct disk d;

	start(&d, 0);
	ask_and_kick(&d);
	CHECK(used_index(&d.w, 0) == 1);
	CHECK(peek16(&d.w, AVAIL_EVENT(&d.w)) == 0);
	for (uint16_t i = 2; i < 6; i++) {
		ask(&d);
		poke16(&d.w, USED_EVENT(&d.w), 0);
		CHECK(tick(&d, 0));
		CHECK(used_index(&d.w, 0) == i);
		CHECK(!interrupted(&d.w));
	}
	CHECK(!tick(&d, QUIET_NS));
	CHECK(interrupted(&d.w));
	CHECK(peek16(&d.w, AVAIL_EVENT(&d.w)) == 5);
	/* It was worth it, so it is done again. */
	ask_and_kick(&d);
	CHECK(!interrupted(&d.w));
	stop(&d);
}

static void v2_7_7_no_answer_waits_for_long(void)
{
	struct disk d;

	start(&d, 0);
	ask_and_kick(&d);
	CHECK(tick(&d, 0) && !interrupted(&d.w));
	d.w.device->coalesce.signal_ns =
	    d.w.device->coalesce.chain_ns - HOLD_NS;
	CHECK(tick(&d, 0) && interrupted(&d.w));
	CHECK(peek16(&d.w, AVAIL_EVENT(&d.w)) == 0);
	stop(&d);
}

static void who_waits_for_each_answer_has_it_at_once(void)
{
	struct disk d;
	uint32_t late = 0;

	start(&d, 0);
	for (uint32_t i = 0; i < 1000; i++) {
		ask_and_kick(&d);
		late += interrupted(&d.w) ? 0 : 1;
		CHECK(!tick(&d, QUIET_NS));
		(void)interrupted(&d.w);
		CHECK(peek16(&d.w, AVAIL_EVENT(&d.w)) == (uint16_t)(i + 1));
	}
	CHECK(late > 0 && late < 40);
	stop(&d);
}

static void v2_4_a_reset_ends_it(void)
{
	struct disk d;

	start(&d, 0);
	ask_and_kick(&d);
	set_status(&d.w, 0);
	CHECK(!tick(&d, QUIET_NS) && !interrupted(&d.w));
	driver_ok(&d.w, LV_VIRTIO_F_EVENT_IDX);
	stop(&d);
}

static void what_a_limit_keeps_waiting_is_not_polled(void)
{
	struct disk d;

	start(&d, 1);
	ask(&d);
	ask_and_kick(&d);
	CHECK(used_index(&d.w, 0) == 1);
	CHECK(!tick(&d, QUIET_NS) && interrupted(&d.w));
	lv_device_kick(d.w.device, 0);
	CHECK(!tick(&d, 0) && used_index(&d.w, 0) == 1);
	stop(&d);
}

int main(void)
{
	v2_7_10_what_follows_needs_no_kick();
	v2_7_7_no_answer_waits_for_long();
	who_waits_for_each_answer_has_it_at_once();
	v2_4_a_reset_ends_it();
	what_a_limit_keeps_waiting_is_not_polled();
	return 0;
}
