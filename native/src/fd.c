/*
 * fd.c - descriptors of the host, made and used the same way everywhere: closed
 * on exec, and never blocking.
 */
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/un.h>

#include "lv.h"

int lv_eventfd_new(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

void lv_eventfd_signal(int fd)
{
	uint64_t one = 1;

	(void)TEMP_FAILURE_RETRY(write(fd, &one, sizeof(one)));
}

bool lv_eventfd_drain(int fd)
{
	uint64_t value;

	return TEMP_FAILURE_RETRY(read(fd, &value, sizeof(value))) > 0;
}

int lv_fd_dup(int fd)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return own < 0 ? -errno : own;
}

int lv_fd_unblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int lv_epoll_add(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int lv_unix_open(const char *path,
		 int (*how)(int, const struct sockaddr *, socklen_t))
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error;

	if (fd < 0)
		return -errno;
	memcpy(address.sun_path, path, strlen(path));
	if (how(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	error = -errno;
	(void)close(fd);
	return error;
}
