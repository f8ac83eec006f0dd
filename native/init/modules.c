/*
 * modules.c - loads the kernel modules of the initramfs, in the order that the
 * package's builder resolved from their dependencies. A kernel with its drivers
 * built in has no list, and that is fine. There are two lists, which share
 * some: what the virtio console needs, and what every guest does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init.h"

static int load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	/* Loaded for the other list. */
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return -errno;
	long result = syscall(SYS_finit_module, fd, "", 0);
	int error = result < 0 && errno != EEXIST ? -errno : 0;
	(void)close(fd);
	/* Its pages would stay in RAM for as long as the guest lives. */
	(void)unlink(path);
	return error;
}

/* Returns how many were loaded; what fails is logged, and the step that needs
 * it then fails with the better message. */
int lv_modules_load(const char *directory, const char *list)
{
	char path[512], name[256];
	int loaded = 0;

	(void)snprintf(path, sizeof(path), "%s/%s", directory, list);
	FILE *order = fopen(path, "re");
	if (order == NULL)
		return 0;
	while (fgets(name, sizeof(name), order) != NULL) {
		name[strcspn(name, "\n")] = '\0';
		if (name[0] == '\0')
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", directory, name);
		int error = load(path);
		if (error < 0)
			lv_log("cannot load module %s: %s", name,
			       strerror(-error));
		else
			loaded++;
	}
	(void)fclose(order);
	return loaded;
}
