/*
 * main.c - PID 1 of a Leveret guest, in the order things happen.
 *
 * It is started by the kernel from the initramfs, loads the modules, connects
 * to the VMM, says HELLO, mounts the image and serves until the power goes. It
 * never exits: the kernel would panic. What goes wrong before the channel is
 * there is said on the console, which the VMM quotes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define CONNECT_TIMEOUT_MS 30000

void lv_log(const char *format, ...)
{
	char line[LV_MESSAGE_BYTES + 64];
	va_list arguments;

	int used = snprintf(line, sizeof(line), "leveret-init: ");
	va_start(arguments, format);
	used += vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format,
			  arguments);
	va_end(arguments);
	if ((size_t)used > sizeof(line) - 2)
		used = (int)sizeof(line) - 2;
	line[used] = '\n';
	if (write(2, line, (size_t)used + 1) < 0)
		return; /* no console: nobody to tell */
}

uint64_t lv_now_ms(void)
{
	struct timespec now = {0};

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

/* The kernel opens /dev/console for us when the initramfs has the node, and a
 * driver of its own for what the node stands for. */
static void open_console(void)
{
	if (fcntl(2, F_GETFD) >= 0)
		return;
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 2)
		fd = dup(fd);
}

static void read_cmdline(char *cmdline, size_t size)
{
	cmdline[0] = '\0';
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t got = read(fd, cmdline, size - 1);
	(void)close(fd);
	cmdline[got > 0 ? got : 0] = '\0';
}

/* A line that a stopwatch outside can see, asked for by the command line. */
static void say_hello(const char *cmdline)
{
	static const char hello[] = "leveret-init " LV_INIT_VERSION "\n";

	if (lv_cmdline_has(cmdline, "leveret.hello") &&
	    write(2, hello, sizeof(hello) - 1) < 0)
		lv_log("cannot write to the console: %s", strerror(errno));
}

int main(void)
{
	static struct lv_channel channel;
	static char cmdline[4096];
	int scratch = -1;
	bool restart = false;

	if (getpid() != 1) {
		(void)fprintf(stderr, "init: it runs as PID 1 of a guest\n");
		return 2;
	}
	int result = lv_mount_early();
	read_cmdline(cmdline, sizeof(cmdline));
	if (lv_cmdline_has(cmdline, "console=hvc0"))
		(void)lv_modules_load("/modules", "console");
	open_console();
	say_hello(cmdline);
	if (result == 0) {
		(void)lv_modules_load("/modules", "order");
		(void)lv_loopback_up();
		result = lv_channel_connect(&channel, CONNECT_TIMEOUT_MS);
		if (result == 0)
			restart = lv_supervise(&channel, &scratch);
		else
			lv_log("cannot reach the host by vsock: %s",
			       strerror(-result));
	}
	lv_kill_all();
	lv_mount_sync(scratch);
	if (restart)
		lv_restart();
	lv_power_off();
}
