/* The console, virtio 1.2, 5.3: one port that only speaks. */
#include "lv_test.h"

#define RX 0
#define TX 1

static int start(struct world *w, uint64_t limit)
{
	char path[] = "/tmp/lv-console-XXXXXX";
	struct lv_console_config config = {.size = sizeof(config),
					   .out_limit = limit};
	int fd = mkstemp(path);

	CHECK(fd >= 0 && unlink(path) == 0);
	config.out_fd = fd;
	world_init(w);
	CHECK(lv_console_new(&config, &w->mem, &w->events, &w->device) == 0);
	driver_ok(w, 0);
	return fd;
}

static void say(struct world *w, const char *text)
{
	struct part part = {DATA, (uint32_t)strlen(text), 0};

	memcpy(at(w, DATA), text, part.len);
	(void)add_chain(w, TX, &part, 1);
	lv_device_kick(w->device, TX);
	CHECK(take_used(w, TX, NULL) == 0);
}

static void check_file(int fd, const char *expected)
{
	char text[1024] = {0};

	CHECK(pread(fd, text, sizeof(text) - 1, 0) ==
	      (ssize_t)strlen(expected));
	CHECK(strcmp(text, expected) == 0);
}

static void stop(struct world *w, int fd)
{
	CHECK(get_status(w) == 15);
	world_free(w);
	(void)close(fd);
}

static void v5_3_6_lines_come_out_whole_and_the_rest_at_the_end(void)
{
	struct world w;
	int fd = start(&w, 0);

	say(&w, "hello\nwor");
	check_file(fd, "hello\n");
	say(&w, "ld\nlast words");
	check_file(fd, "hello\nworld\n");
	lv_device_hold(w.device);
	(void)pthread_mutex_unlock(&w.device->lock);
	check_file(fd, "hello\nworld\nlast words");
	CHECK(w.device->stats.bytes_out == 22);
	CHECK(w.device->stats.dropped == 0);
	stop(&w, fd);
}

static void a_request_in_pieces(void)
{
	struct part parts[3] = {
	    {DATA, 2, 0}, {DATA + 100, 1, 0}, {DATA + 5000, 2, 0}};
	struct world w;
	int fd = start(&w, 0);

	memcpy(at(&w, DATA), "ab", 2);
	memcpy(at(&w, DATA + 100), "c", 1);
	memcpy(at(&w, DATA + 5000), "d\n", 2);
	(void)add_chain(&w, TX, parts, 3);
	lv_device_kick(w.device, TX);
	check_file(fd, "abcd\n");
	stop(&w, fd);
}

static void output_ends_at_the_limit(void)
{
	struct world w;
	int fd = start(&w, 8);

	say(&w, "12345\n12345\n12345\n");
	check_file(fd, "12345\n12");
	CHECK(w.device->stats.dropped == 10);
	stop(&w, fd);
}

static void a_flood_is_cut_and_counted(void)
{
	/* The same half a MiB many times over. */
	struct part parts[8];
	struct world w;
	int fd = start(&w, 100000);

	memset(at(&w, DATA), 'x', 512 * 1024);
	for (uint32_t i = 0; i < 8; i++)
		parts[i] = (struct part){DATA, 512 * 1024, 0};
	(void)add_chain(&w, TX, parts, 8);
	(void)add_chain(&w, TX, parts, 8);
	lv_device_kick(w.device, TX);
	CHECK(lseek(fd, 0, SEEK_END) == 100000);
	CHECK(w.device->stats.dropped == 2 * 8 * 512 * 1024 - 100000);
	stop(&w, fd);
}

static void a_full_pipe_drops_and_never_blocks(void)
{
	struct lv_console_config config = {.size = sizeof(config)};
	struct world w;
	int fds[2];

	CHECK(pipe(fds) == 0);
	config.out_fd = fds[1];
	world_init(&w);
	CHECK(lv_console_new(&config, &w.mem, &w.events, &w.device) == 0);
	driver_ok(&w, 0);
	for (int i = 0; i < 100000; i++)
		say(&w, "xxxxxxxxx\n");
	CHECK(w.device->stats.dropped > 0);
	stop(&w, fds[0]);
	(void)close(fds[1]);
}

static void v5_3_6_1_buffers_of_the_wrong_way(void)
{
	struct part wrong[2] = {{DATA, 3, 0}, {DATA + 64, 8, WRITE}};
	struct part input = {DATA, 64, WRITE};
	struct world w;
	int fd = start(&w, 0);

	memcpy(at(&w, DATA), "ok\n", 3);
	(void)add_chain(&w, TX, wrong, 2);
	lv_device_kick(w.device, TX);
	CHECK(take_used(&w, TX, NULL) == 0);
	CHECK(w.device->stats.malformed == 1);
	check_file(fd, "ok\n");
	/* Nobody types: buffers for input are not used. */
	(void)add_chain(&w, RX, &input, 1);
	lv_device_kick(w.device, RX);
	CHECK(used_index(&w, RX) == 0);
	stop(&w, fd);
}

static void a_bad_descriptor_is_refused(void)
{
	struct lv_console_config config = {.size = sizeof(config),
					   .out_fd = 1000000};
	struct world w;

	world_init(&w);
	CHECK(lv_console_new(&config, &w.mem, &w.events, &w.device) == -EBADF);
	config.out_fd = -1;
	CHECK(lv_console_new(&config, &w.mem, &w.events, &w.device) == 0);
	driver_ok(&w, 0);
	say(&w, "to nobody\n");
	CHECK(w.device->stats.dropped == 10);
	world_free(&w);
}

int main(void)
{
	v5_3_6_lines_come_out_whole_and_the_rest_at_the_end();
	a_request_in_pieces();
	output_ends_at_the_limit();
	a_flood_is_cut_and_counted();
	a_full_pipe_drops_and_never_blocks();
	v5_3_6_1_buffers_of_the_wrong_way();
	a_bad_descriptor_is_refused();
	return 0;
}
