/*
 * network.c - the guest's addresses, as the host orders them. There is no DHCP:
 * the host knows the answer, and a machine is up milliseconds earlier.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

#define INTERFACE_TIMEOUT_MS 5000u

static int set_address(int fd, unsigned long request, struct ifreq *ifr,
		       in_addr_t address)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
				 .sin_addr.s_addr = address};

	memcpy(&ifr->ifr_addr, &in, sizeof(in));
	return ioctl(fd, request, ifr) < 0 ? -errno : 0;
}

static int add_default_route(int fd, in_addr_t gateway)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};

	memcpy(&route.rt_dst, &to, sizeof(to));
	memcpy(&route.rt_genmask, &to, sizeof(to));
	to.sin_addr.s_addr = gateway;
	memcpy(&route.rt_gateway, &to, sizeof(to));
	return ioctl(fd, SIOCADDRT, &route) < 0 ? -errno : 0;
}

/* Its driver may still be at work. */
static int wait_for_interface(int fd, struct ifreq *ifr)
{
	uint64_t deadline = lv_now_ms() + INTERFACE_TIMEOUT_MS;

	while (ioctl(fd, SIOCGIFFLAGS, ifr) < 0) {
		if (errno != ENODEV || lv_now_ms() > deadline)
			return -errno;
		(void)poll(NULL, 0, 5);
	}
	return 0;
}

static int configure(int fd, struct ifreq *ifr, in_addr_t address,
		     unsigned prefix, in_addr_t gateway)
{
	in_addr_t mask = prefix == 0 ? 0 : htonl(~0u << (32 - prefix));
	int result = wait_for_interface(fd, ifr);

	if (result == 0)
		result = set_address(fd, SIOCSIFADDR, ifr, address);
	if (result == 0)
		result = set_address(fd, SIOCSIFNETMASK, ifr, mask);
	if (result == 0 && ioctl(fd, SIOCGIFFLAGS, ifr) < 0)
		result = -errno;
	ifr->ifr_flags |= IFF_UP;
	if (result == 0 && ioctl(fd, SIOCSIFFLAGS, ifr) < 0)
		result = -errno;
	return result == 0 ? add_default_route(fd, gateway) : result;
}

/* "eth0 10.0.2.15/24 10.0.2.2" */
int lv_network_up(const char *order)
{
	struct ifreq ifr = {0};
	char name[IFNAMSIZ], address[16], gateway[16];
	struct in_addr self, router;
	unsigned prefix;

	if (sscanf(order, "%15s %15[0-9.]/%2u %15s", name, address, &prefix,
		   gateway) != 4 ||
	    prefix > 32 || inet_pton(AF_INET, address, &self) != 1 ||
	    inet_pton(AF_INET, gateway, &router) != 1)
		return -EINVAL;
	memcpy(ifr.ifr_name, name, sizeof(name));
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int result = configure(fd, &ifr, self.s_addr, prefix, router.s_addr);
	(void)close(fd);
	return result;
}

static int write_file(const char *path, const char *text)
{
	size_t length = strlen(text);

	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	ssize_t done = write(fd, text, length);
	(void)close(fd);
	return done == (ssize_t)length ? 0 : -EIO;
}

/* Mounted over the image's file, whose content stays what it is. The file
 * lives in a tmpfs that only this mount keeps: it is hung up where all images
 * have a mountpoint, and taken down again. */
int lv_network_resolv(const char *text)
{
	static const char target[] = "/etc/resolv.conf";
	static const char place[] = "/dev/shm", source[] = "/dev/shm/resolv";

	(void)mkdir("/etc", 0755);
	int fd = open(target, O_RDONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	(void)close(fd);
	if (mount("resolv", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "mode=755,size=64k") < 0)
		return -errno;
	int result = write_file(source, text);
	if (result == 0 && mount(source, target, NULL, MS_BIND, NULL) < 0)
		result = -errno;
	(void)umount2(place, MNT_DETACH);
	return result;
}
