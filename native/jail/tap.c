/*
 * tap.c - the machine's network interface: made, put on the host's bridge and
 * switched on before the host's network is left behind. What stays of it is a
 * file descriptor, TAP_FD, which the VMM inherits. The interface lives as long
 * as that, so nothing has to be taken back, whoever crashes.
 *
 * On the bridge it is isolated: frames go between the machine and the host, and
 * to no other machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "jail.h"

/* struct virtio_net_hdr_v1. */
#define VNET_HEADER 12

static void isolate(const char *name)
{
	char path[80];
	int fd;

	(void)snprintf(path, sizeof(path), "/sys/class/net/%s/brport/isolated",
		       name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1", 1) != 1)
		fail("isolate %s on its bridge", name);
	(void)close(fd);
}

/* A bridge without an address of its own takes the lowest of its ports', and
 * its machines would lose it each time that a lower one came: all of ours have
 * the highest there is for one host (IEEE 802, 8.2). */
static void set_address(int control, struct ifreq tap)
{
	static const unsigned char highest[] = {0xfe, 0xff, 0xff,
						0xff, 0xff, 0xff};

	tap.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(tap.ifr_hwaddr.sa_data, highest, sizeof(highest));
	if (ioctl(control, SIOCSIFHWADDR, &tap) < 0)
		fail("give %s its address", tap.ifr_name);
}

/* The interface is named for the machine's user: no other machine has it. */
void make_tap(const struct jail *jail)
{
	struct ifreq tap = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	struct ifreq bridge = {0};
	int header = VNET_HEADER;
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (strlen(jail->bridge) >= IFNAMSIZ) {
		errno = ENAMETOOLONG;
		fail("use the bridge %.40s", jail->bridge);
	}
	memcpy(bridge.ifr_name, jail->bridge, strlen(jail->bridge));
	(void)snprintf(tap.ifr_name, sizeof(tap.ifr_name), "lv%u", jail->uid);
	if (fd != TAP_FD || control < 0)
		fail("open /dev/net/tun");
	if (ioctl(fd, TUNSETIFF, &tap) < 0 ||
	    ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
		fail("make the interface %s", tap.ifr_name);
	set_address(control, tap);
	bridge.ifr_ifindex = (int)if_nametoindex(tap.ifr_name);
	if (ioctl(control, SIOCBRADDIF, &bridge) < 0)
		fail("put %s on the bridge %s", tap.ifr_name, jail->bridge);
	isolate(tap.ifr_name);
	if (ioctl(control, SIOCGIFFLAGS, &tap) < 0)
		fail("look at %s", tap.ifr_name);
	tap.ifr_flags |= IFF_UP;
	if (ioctl(control, SIOCSIFFLAGS, &tap) < 0)
		fail("switch %s on", tap.ifr_name);
	(void)close(control);
}
