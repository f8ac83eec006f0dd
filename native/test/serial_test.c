/* The 16550A, register by register as Linux's 8250 driver uses it. */
#include <fcntl.h>
#include <sys/stat.h>

#include "lv_test.h"

static void start(struct lv_serial *serial, int fd, uint64_t limit)
{
	struct lv_serial_config config = {.size = sizeof(config),
					  .port = 0x3f8,
					  .out_fd = fd,
					  .out_limit = limit};

	CHECK(lv_serial_init(serial, &config) == 0);
}

static int temporary(void)
{
	char path[] = "/tmp/lv-serial-XXXXXX";
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	CHECK(unlink(path) == 0);
	return fd;
}

static void put(struct lv_serial *serial, const char *text)
{
	for (; *text != '\0'; text++)
		lv_serial_write(serial, 0, (uint8_t)*text);
}

static void check_file(int fd, const char *expected)
{
	char text[1024] = {0};

	CHECK(pread(fd, text, sizeof(text) - 1, 0) ==
	      (ssize_t)strlen(expected));
	CHECK(strcmp(text, expected) == 0);
}

static bool irq(struct lv_serial *serial)
{
	bool yes = readable_now(serial->irq_fd);

	if (yes)
		lv_eventfd_drain(serial->irq_fd);
	return yes;
}

static void reset_values(void)
{
	struct lv_serial serial;

	start(&serial, -1, 0);
	CHECK(lv_serial_read(&serial, 1) == 0);
	CHECK(lv_serial_read(&serial, 2) == 1);
	CHECK(lv_serial_read(&serial, 3) == 3);
	CHECK(lv_serial_read(&serial, 4) == 8);
	CHECK(lv_serial_read(&serial, 5) == 0x60);
	CHECK(lv_serial_read(&serial, 6) == 0xb0);
	lv_serial_free(&serial);
}

static void lines_come_out_whole_and_the_rest_at_the_flush(void)
{
	struct lv_serial serial;
	int fd = temporary();

	start(&serial, fd, 0);
	put(&serial, "hello\nwor");
	check_file(fd, "hello\n");
	lv_serial_flush(&serial);
	check_file(fd, "hello\nwor");
	lv_serial_free(&serial);
	(void)close(fd);
}

static void output_ends_at_the_limit(void)
{
	struct lv_serial serial;
	int fd = temporary();

	start(&serial, fd, 8);
	put(&serial, "12345\n12345\n12345\n");
	check_file(fd, "12345\n12");
	CHECK(serial.output.dropped == 10);
	lv_serial_free(&serial);
	(void)close(fd);
}

static void a_full_pipe_drops_and_never_blocks(void)
{
	struct lv_serial serial;
	int fds[2];

	CHECK(pipe(fds) == 0);
	start(&serial, fds[1], 0);
	for (int i = 0; i < 200000; i++)
		put(&serial, "x\n");
	CHECK(serial.output.dropped > 0);
	lv_serial_free(&serial);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

static void divisor_latch(void)
{
	struct lv_serial serial;

	start(&serial, -1, 0);
	lv_serial_write(&serial, 3, 0x83);
	CHECK(lv_serial_read(&serial, 0) == 12);
	lv_serial_write(&serial, 0, 0x34);
	lv_serial_write(&serial, 1, 0x12);
	CHECK(lv_serial_read(&serial, 0) == 0x34);
	CHECK(lv_serial_read(&serial, 1) == 0x12);
	lv_serial_write(&serial, 3, 3);
	CHECK(lv_serial_read(&serial, 1) == 0);
	CHECK(serial.output.len == 0);
	lv_serial_free(&serial);
}

static void loopback_sends_nothing_and_turns_the_modem_lines(void)
{
	struct lv_serial serial;
	int fd = temporary();

	start(&serial, fd, 0);
	lv_serial_write(&serial, 4, 0x10 | 0x0a); /* RTS, OUT2 */
	CHECK(lv_serial_read(&serial, 6) == (0x10 | 0x80));
	put(&serial, "test\n");
	lv_serial_write(&serial, 4, 0x0b);
	CHECK(lv_serial_read(&serial, 6) == 0xb0);
	put(&serial, "heard\n");
	check_file(fd, "heard\n");
	CHECK(lv_serial_read(&serial, 0) == 0);
	lv_serial_free(&serial);
	(void)close(fd);
}

static void a_fifo_makes_it_a_16550a(void)
{
	struct lv_serial serial;

	start(&serial, -1, 0);
	lv_serial_write(&serial, 2, 1);
	CHECK(lv_serial_read(&serial, 2) == (0xc0 | 1));
	lv_serial_write(&serial, 2, 0);
	CHECK(lv_serial_read(&serial, 2) == 1);
	lv_serial_free(&serial);
}

static void transmitter_interrupts(void)
{
	struct lv_serial serial;

	start(&serial, -1, 0);
	CHECK(!irq(&serial));
	lv_serial_write(&serial, 1, 2); /* silicon raises THRE at 0 -> 1 */
	CHECK(irq(&serial));
	CHECK(lv_serial_read(&serial, 2) == 2);
	CHECK(lv_serial_read(&serial, 2) == 1); /* reading took it */
	lv_serial_write(&serial, 1, 2);
	CHECK(!irq(&serial));
	lv_serial_write(&serial, 0, 'x');
	CHECK(irq(&serial));
	lv_serial_write(&serial, 1, 0);
	CHECK(lv_serial_read(&serial, 2) == 1);
	lv_serial_free(&serial);
}

static void read_only_and_absent_registers(void)
{
	struct lv_serial serial;

	start(&serial, -1, 0);
	lv_serial_write(&serial, 5, 0xff);
	lv_serial_write(&serial, 6, 0xff);
	lv_serial_write(&serial, 8, 0xff);
	CHECK(lv_serial_read(&serial, 5) == 0x60);
	CHECK(lv_serial_read(&serial, 6) == 0xb0);
	CHECK(lv_serial_read(&serial, 8) == 0xff);
	lv_serial_write(&serial, 7, 0x5a);
	CHECK(lv_serial_read(&serial, 7) == 0x5a);
	lv_serial_free(&serial);
}

int main(void)
{
	reset_values();
	lines_come_out_whole_and_the_rest_at_the_flush();
	output_ends_at_the_limit();
	a_full_pipe_drops_and_never_blocks();
	divisor_latch();
	loopback_sends_nothing_and_turns_the_modem_lines();
	a_fifo_makes_it_a_16550a();
	transmitter_interrupts();
	read_only_and_absent_registers();
	return 0;
}
