/* A disk that takes its time: what the block device has in flight (blk.c,
 * uring.c). */
#include "blk_kit.h"

/* A disk on which every read waits until the other end is written to. */
static void start_slow(struct disk *d, int pipes[2])
{
	struct lv_blk_config config = {.size = sizeof(config),
				       .flags = LV_BLK_READ_ONLY,
				       .bytes = SECTORS * 512,
				       .queues = 1};

	CHECK(pipe(pipes) == 0);
	d->fd = pipes[0];
	config.fd = d->fd;
	world_init(&d->w);
	d->w.num = LV_QUEUE_MAX;
	CHECK(lv_blk_new(&config, &d->w.mem, &d->w.events, &d->w.device) == 0);
	driver_ok(&d->w, 0);
	put_header(d, 0, 0);
}

static void read_sectors(struct disk *d, uint32_t count)
{
	struct part parts[3] = {
	    {HEADER, 16, 0}, {BUFFER, 512, WRITE}, {STATUS, 1, WRITE}};

	for (uint32_t i = 0; i < count; i++)
		(void)add_chain(&d->w, 0, parts, 3);
	lv_device_kick(d->w.device, 0);
	CHECK(used_index(&d->w, 0) == 0);
}

static void write_sectors(int fd, uint32_t count)
{
	uint8_t sector[512];

	memset(sector, 0x5a, sizeof(sector));
	for (uint32_t i = 0; i < count; i++)
		CHECK(write(fd, sector, sizeof(sector)) == sizeof(sector));
}

static void v2_7_13_more_than_the_ring_has_ends_the_device(void)
{
	struct disk d;
	int pipes[2];

	start_slow(&d, pipes);
	read_sectors(&d, 1);
	/* No more wait than there are entries, but one is in flight. */
	poke16(&d.w, RING_AVAIL(0) + 2, LV_QUEUE_MAX + 1);
	lv_device_kick(d.w.device, 0);
	check_failed(&d.w, LV_FAULT_AVAIL_INDEX);
	write_sectors(pipes[1], 1);
	driver_ok(&d.w, 0);
	stop(&d);
	(void)close(pipes[1]);
}

static void *reset_and_reuse(void *arg)
{
	struct disk *d = arg;

	set_status(&d->w, 0);
	memset(at(&d->w, BUFFER), UNTOUCHED, 512);
	*at(&d->w, STATUS) = UNTOUCHED;
	return NULL;
}

static void v2_4_after_a_reset_no_read_lands_in_memory(void)
{
	struct pollfd rest;
	struct disk d;
	int pipes[2];
	pthread_t thread;

	start_slow(&d, pipes);
	read_sectors(&d, 3);
	CHECK(pthread_create(&thread, NULL, reset_and_reuse, &d) == 0);
	write_sectors(pipes[1], 3);
	CHECK(pthread_join(thread, NULL) == 0);
	rest = (struct pollfd){.fd = pipes[0], .events = POLLIN};
	CHECK(poll(&rest, 1, 0) == 0); /* all three were read */
	for (uint64_t i = 0; i < 512; i++)
		CHECK(*at(&d.w, BUFFER + i) == UNTOUCHED);
	CHECK(*at(&d.w, STATUS) == UNTOUCHED);
	/* And the device serves again. */
	driver_ok(&d.w, 0);
	put_header(&d, 0, 0);
	read_sectors(&d, 1);
	write_sectors(pipes[1], 1);
	serve(&d, 0);
	CHECK(take_used(&d.w, 0, NULL) == 513);
	CHECK(*at(&d.w, BUFFER) == 0x5a);
	stop(&d);
	(void)close(pipes[1]);
}

/* Until as many came back, as the I/O thread would. */
static void wait_used(struct disk *d, uint32_t count)
{
	struct pollfd fds[2] = {
	    {.fd = d->w.device->poll_fd, .events = POLLIN},
	    {.fd = d->w.device->kick_fd[0], .events = POLLIN}};

	while (used_index(&d->w, 0) < count) {
		CHECK(poll(fds, 2, 10000) > 0);
		if ((fds[0].revents & POLLIN) != 0)
			lv_device_poll(d->w.device);
		if ((fds[1].revents & POLLIN) != 0)
			lv_device_kick(d->w.device, 0);
	}
}

static void more_requests_than_the_ring_holds(void)
{
	uint32_t count = LV_URING_MAX + 20;
	struct disk d;
	int pipes[2];

	start_slow(&d, pipes);
	read_sectors(&d, count);
	write_sectors(pipes[1], 1);
	wait_used(&d, 1);
	CHECK(interrupted(&d.w));
	write_sectors(pipes[1], count - 1);
	wait_used(&d, count);
	for (uint32_t i = 0; i < count; i++)
		CHECK(take_used(&d.w, 0, NULL) == 513);
	CHECK(d.w.device->stats.bytes_in == count * 512ull);
	stop(&d);
	(void)close(pipes[1]);
}

static void what_is_in_flight_at_the_end_is_waited_for(void)
{
	struct disk d;
	int pipes[2];

	start_slow(&d, pipes);
	read_sectors(&d, 5);
	write_sectors(pipes[1], 4);
	CHECK(close(pipes[1]) == 0); /* the last one finds the end */
	stop(&d);
}

static void a_short_read_of_the_ring_is_no_success(void)
{
	struct disk d;
	int pipes[2];

	start_slow(&d, pipes);
	read_sectors(&d, 1);
	CHECK(write(pipes[1], "x", 1) == 1);
	CHECK(close(pipes[1]) == 0);
	wait_used(&d, 1);
	CHECK(*at(&d.w, STATUS) == STATUS_IOERR);
	CHECK(d.w.device->stats.errors == 1);
	stop(&d);
}

static bool ring_works(void)
{
	struct lv_uring ring;

	if (lv_uring_init(&ring, 0) < 0)
		return false;
	lv_uring_free(&ring);
	return true;
}

int main(void)
{
	if (!ring_works()) {
		(void)fprintf(stderr, "the kernel gives no io_uring\n");
		return 77;
	}
	v2_4_after_a_reset_no_read_lands_in_memory();
	v2_7_13_more_than_the_ring_has_ends_the_device();
	more_requests_than_the_ring_holds();
	what_is_in_flight_at_the_end_is_waited_for();
	a_short_read_of_the_ring_is_no_success();
	return 0;
}
