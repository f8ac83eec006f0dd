/*
 * power.c - the end of the machine. Everything is on the disk before the power
 * goes, whichever way it goes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

/* The VMM's sleep control register and the value for S5 (leveret.h). */
#define POWER_PORT	0x600
#define POWER_OFF	0x34
#define KILL_TIMEOUT_MS 5000u

/* A process in uninterruptible sleep may stay; the bound is for that one. */
void lv_kill_all(void)
{
	uint64_t deadline = lv_now_ms() + KILL_TIMEOUT_MS;

	(void)kill(-1, SIGKILL);
	while (lv_now_ms() < deadline) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);
		if (pid < 0 && errno == ECHILD)
			break;
		if (pid == 0)
			(void)poll(NULL, 0, 1);
	}
}

static void sysrq_off(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "o", 1) == 1)
		(void)poll(NULL, 0, 1000); /* it is done by a kernel worker */
	(void)close(fd);
}

/*
 * The port comes first: it is the register behind ACPI's S5, the disks are
 * clean, and the kernel's own way shuts every device down before it writes the
 * same byte. It cannot be the last resort either, because without ACPI the
 * kernel halts the CPU in reboot(2) and does not come back.
 */
_Noreturn void lv_power_off(void)
{
	if (iopl(3) == 0)
		outb(POWER_OFF, POWER_PORT);
	sysrq_off();
	(void)reboot(RB_POWER_OFF);
	(void)reboot(RB_AUTOBOOT);
	for (;;)
		(void)pause();
}

/* For a guest that asked for it: the VMM tells the two apart. */
_Noreturn void lv_restart(void)
{
	(void)reboot(RB_AUTOBOOT);
	lv_power_off();
}
