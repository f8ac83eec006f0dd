/* Registers of the MMIO transport, virtio 1.2, 4.2. */
#include "lv_test.h"

static void start(struct world *w)
{
	struct lv_blk_config config = {
	    .size = sizeof(config), .bytes = 8192, .queues = 1};
	FILE *file = tmpfile();

	CHECK(file != NULL);
	config.fd = fileno(file);
	world_init(w);
	CHECK(lv_blk_new(&config, &w->mem, &w->events, &w->device) == 0);
	(void)fclose(file);
}

static uint64_t malformed(const struct world *w)
{
	return w->device->stats.malformed;
}

static void v4_2_2_identity(void)
{
	struct world w;

	start(&w);
	CHECK(reg_read(&w, 0x000) == 0x74726976);
	CHECK(reg_read(&w, 0x004) == 2);
	CHECK(reg_read(&w, 0x008) == 2);
	CHECK(reg_read(&w, 0x034) == 256);
	reg_write(&w, 0x014, 1);
	CHECK((reg_read(&w, 0x010) & 1) == 1); /* VERSION_1 */
	reg_write(&w, 0x014, 2);
	CHECK(reg_read(&w, 0x010) == 0);
	CHECK(malformed(&w) == 0);
	world_free(&w);
}

static void v2_1_1_status_goes_in_order_only(void)
{
	static const uint32_t wrong[] = {2, 3, 4, 8, 11, 15, 7, 0x101};
	struct world w;

	start(&w);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		set_status(&w, wrong[i]);
		CHECK(get_status(&w) == 0);
	}
	CHECK(malformed(&w) == sizeof(wrong) / sizeof(wrong[0]));
	set_status(&w, 1);
	set_status(&w, 11);
	CHECK(get_status(&w) == 1);
	set_status(&w, 3);
	set_status(&w, 15);
	CHECK(get_status(&w) == 3);
	set_features(&w, LV_VIRTIO_F_VERSION_1);
	set_status(&w, 11);
	set_status(&w, 3); /* never backwards */
	CHECK(get_status(&w) == 11);
	set_status(&w, 0x80 | 11); /* FAILED stays until reset */
	CHECK(get_status(&w) == 0x8b);
	set_status(&w, 15);
	CHECK(get_status(&w) == 0x8b);
	set_status(&w, 0);
	CHECK(get_status(&w) == 0);
	world_free(&w);
}

static void v3_1_1_unknown_or_missing_features_are_refused(void)
{
	struct world w;

	start(&w);
	set_status(&w, 1);
	set_status(&w, 3);
	set_features(&w, 0); /* no VERSION_1 */
	set_status(&w, 11);
	CHECK(get_status(&w) == 3);
	set_features(&w, LV_VIRTIO_F_VERSION_1 | 1ull << 40);
	set_status(&w, 11);
	CHECK(get_status(&w) == 3);
	set_features(&w, LV_VIRTIO_F_VERSION_1);
	set_status(&w, 11);
	CHECK(get_status(&w) == 11);
	/* Too late to change them. */
	reg_write(&w, 0x024, 0);
	reg_write(&w, 0x020, 0xffffffff);
	CHECK(w.device->driver_features == LV_VIRTIO_F_VERSION_1);
	world_free(&w);
}

static void v4_2_2_2_queue_sizes(void)
{
	static const uint32_t wrong[] = {0, 3, 257, 512, 0x80000000u};
	struct world w;

	start(&w);
	negotiate(&w, 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		reg_write(&w, 0x038, wrong[i]);
		reg_write(&w, 0x044, 1);
		CHECK(reg_read(&w, 0x044) == 0);
	}
	reg_write(&w, 0x038, 256);
	reg_write(&w, 0x044, 1);
	CHECK(reg_read(&w, 0x044) == 1);
	/* No second queue: reads say 0, writes are lost. */
	reg_write(&w, 0x030, 1);
	CHECK(reg_read(&w, 0x034) == 0);
	reg_write(&w, 0x038, 16);
	reg_write(&w, 0x044, 1);
	CHECK(reg_read(&w, 0x044) == 0);
	world_free(&w);
}

static void ring_refused(uint64_t desc, uint64_t avail, uint64_t used)
{
	struct world w;

	start(&w);
	negotiate(&w, 0);
	set_ring(&w, 0, desc, avail, used);
	set_status(&w, 15);
	check_failed(&w, LV_FAULT_RING_ADDRESS);
	CHECK(interrupted(&w));
	/* A kick does not touch the ring. */
	lv_device_kick(w.device, 0);
	world_free(&w);
}

static void v2_7_1_ring_addresses(void)
{
	/* 16 entries: 256, 38 and 134 bytes. */
	ring_refused(RING(0) + 8, RING_AVAIL(0), RING_USED(0));
	ring_refused(RING(0), RING_AVAIL(0) + 1, RING_USED(0));
	ring_refused(RING(0), RING_AVAIL(0), RING_USED(0) + 2);
	ring_refused(RAM_BYTES - 240, RING_AVAIL(0), RING_USED(0));
	ring_refused(RING(0), RAM_BYTES - 36, RING_USED(0));
	ring_refused(RING(0), RING_AVAIL(0), RAM_BYTES - 132);
	ring_refused(0xc0000000u, RING_AVAIL(0), RING_USED(0));
	ring_refused(RING(0), UINT64_MAX - 1, RING_USED(0));
	ring_refused(RING(0), RING_AVAIL(0), UINT64_MAX - 3);
	ring_refused(HIGH_GPA - 16, RING_AVAIL(0), RING_USED(0));
}

static void rings_may_end_where_ram_ends(void)
{
	struct world w;

	start(&w);
	negotiate(&w, 0);
	set_ring(&w, 0, HIGH_GPA + HIGH_BYTES - 256, RAM_BYTES - 38,
		 HIGH_GPA + 4);
	set_status(&w, 15);
	CHECK(get_status(&w) == 15);
	lv_device_kick(w.device, 0);
	world_free(&w);
}

static void queues_are_fixed_after_driver_ok(void)
{
	struct world w;

	start(&w);
	driver_ok(&w, 0);
	reg_write(&w, 0x038, 8);
	reg_write(&w, 0x080, 0xdeadbee0);
	reg_write(&w, 0x044, 0);
	CHECK(w.device->queue[0].num == 16);
	CHECK(w.device->queue[0].addr[0] == RING(0));
	CHECK(reg_read(&w, 0x044) == 1);
	CHECK(malformed(&w) == 3);
	world_free(&w);
}

static void v4_2_2_2_a_ready_queue_is_not_reprogrammed(void)
{
	struct world w;

	start(&w);
	negotiate(&w, 0);
	set_ring(&w, 0, RING(0), RING_AVAIL(0), RING_USED(0));
	reg_write(&w, 0x038, 8);
	reg_write(&w, 0x0a0, 0);
	CHECK(w.device->queue[0].num == 16);
	CHECK(w.device->queue[0].addr[2] == RING_USED(0));
	reg_write(&w, 0x044, 0);
	reg_write(&w, 0x038, 8);
	CHECK(w.device->queue[0].num == 8);
	world_free(&w);
}

static void queue_registers_are_closed_before_features_ok(void)
{
	struct world w;

	start(&w);
	set_ring(&w, 0, RING(0), RING_AVAIL(0), RING_USED(0));
	CHECK(w.device->queue[0].num == 0 && !w.device->queue[0].ready);
	set_status(&w, 1);
	set_status(&w, 3);
	set_ring(&w, 0, RING(0), RING_AVAIL(0), RING_USED(0));
	CHECK(w.device->queue[0].num == 0 && !w.device->queue[0].ready);
	world_free(&w);
}

static void notify_of_absent_queue_or_too_early_is_ignored(void)
{
	struct world w;

	start(&w);
	reg_write(&w, 0x050, 0);
	CHECK(!readable_now(w.device->kick_fd[0]));
	lv_device_kick(w.device, 0);
	negotiate(&w, 0);
	lv_device_kick(w.device, 0);
	/* DRIVER_OK without a ready queue is allowed and does nothing. */
	set_status(&w, 15);
	CHECK(get_status(&w) == 15);
	lv_device_kick(w.device, 0);
	reg_write(&w, 0x050, 1);
	reg_write(&w, 0x050, 0xffffffff);
	CHECK(malformed(&w) == 3);
	world_free(&w);
}

static void chains_offered_before_driver_ok_are_kicked(void)
{
	struct world w;

	start(&w);
	driver_ok(&w, 0);
	CHECK(readable_now(w.device->kick_fd[0]));
	world_free(&w);
}

static void v4_2_2_2_wrong_widths_are_refused(void)
{
	static const uint32_t widths[] = {1, 2, 8};
	uint8_t data[8];
	struct world w;

	start(&w);
	for (size_t i = 0; i < 3; i++) {
		memset(data, 1, sizeof(data));
		lv_mmio_write(w.device, 0x070, data, widths[i]);
		CHECK(get_status(&w) == 0);
	}
	CHECK(malformed(&w) == 3);
	/* A register that does not exist reads 0. */
	CHECK(reg_read(&w, 0x0c4) == 0);
	world_free(&w);
}

static void configuration_is_never_written(void)
{
	struct world w;

	start(&w);
	CHECK(reg_read(&w, 0x100) == 16); /* sectors */
	CHECK(reg_read(&w, 0x100 + 20) == 512);
	CHECK(reg_read(&w, 0xffc) == 0);
	reg_write(&w, 0x100, 99);
	CHECK(reg_read(&w, 0x100) == 16);
	CHECK(malformed(&w) == 1);
	world_free(&w);
}

static void v2_4_reset_clears_everything(void)
{
	struct world w;

	start(&w);
	driver_ok(&w, 0);
	atomic_store(&w.device->regs->isr, 1);
	set_status(&w, 0);
	CHECK(get_status(&w) == 0);
	CHECK(reg_read(&w, 0x060) == 0);
	CHECK(reg_read(&w, 0x044) == 0);
	CHECK(w.device->queue[0].addr[0] == 0);
	CHECK(w.device->driver_features == 0);
	/* A late kick finds nothing to do. */
	lv_device_kick(w.device, 0);
	world_free(&w);
}

static void *reset_again_and_again(void *arg)
{
	struct world *w = arg;

	for (int i = 0; i < 300; i++)
		set_status(w, 0);
	return NULL;
}

static void reset_while_io_runs_is_safe(void)
{
	struct world w;
	struct part parts[3] = {
	    {DATA, 16, 0}, {DATA + 512, 4096, WRITE}, {DATA + 8192, 1, WRITE}};
	pthread_t thread;
	struct lv_io io = {0};

	start(&w);
	CHECK(lv_io_start(&io, &w.device, 1, &w.events) == 0);
	for (int i = 0; i < 50; i++) {
		CHECK(pthread_create(&thread, NULL, reset_again_and_again,
				     &w) == 0);
		for (int j = 0; j < 20; j++) {
			set_status(&w, 1);
			set_status(&w, 3);
			set_features(&w, LV_VIRTIO_F_VERSION_1);
			set_status(&w, 11);
			set_ring(&w, 0, RING(0), RING_AVAIL(0), RING_USED(0));
			set_status(&w, 15);
			(void)add_chain(&w, 0, parts, 3);
			lv_eventfd_signal(w.device->kick_fd[0]);
		}
		CHECK(pthread_join(thread, NULL) == 0);
	}
	lv_io_stop(&io);
	set_status(&w, 0);
	CHECK(get_status(&w) == 0);
	world_free(&w);
}

int main(void)
{
	v4_2_2_identity();
	v2_1_1_status_goes_in_order_only();
	v3_1_1_unknown_or_missing_features_are_refused();
	v4_2_2_2_queue_sizes();
	v2_7_1_ring_addresses();
	rings_may_end_where_ram_ends();
	queues_are_fixed_after_driver_ok();
	v4_2_2_2_a_ready_queue_is_not_reprogrammed();
	queue_registers_are_closed_before_features_ok();
	notify_of_absent_queue_or_too_early_is_ignored();
	chains_offered_before_driver_ok_are_kicked();
	v4_2_2_2_wrong_widths_are_refused();
	configuration_is_never_written();
	v2_4_reset_clears_everything();
	reset_while_io_runs_is_safe();
	return 0;
}
