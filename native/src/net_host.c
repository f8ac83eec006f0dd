/*
 * net_host.c - the host's side of a network device, never blocking.
 *
 *   TAP     one frame a read or write, with the 12-byte virtio header, which
 *           the kernel checks and fills: checksums and segments pass through
 *   socket  qemu's stream protocol: u32 length, big endian, frame; the header
 *           is ours alone
 *
 * The socket is read in large pieces. The header of a frame in the middle of
 * such a piece is put over the bytes before it, which have been taken by then.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "net.h"

#define PREFIX	 4u
#define HEAD	 (LV_NET_HEADER - PREFIX)
#define IN_BYTES (HEAD + 4 * (PREFIX + LV_NET_FRAME_MAX))

static int open_tap(const char *name)
{
	struct ifreq request = {.ifr_flags =
				    IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int header = LV_NET_HEADER;
	int fd, error;

	if (strlen(name) >= IFNAMSIZ)
		return -ENAMETOOLONG;
	memcpy(request.ifr_name, name, strlen(name));
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0 &&
	    ioctl(fd, TUNSETVNETHDRSZ, &header) == 0)
		return fd;
	error = -errno;
	(void)close(fd);
	return error;
}

int lv_net_host_open(struct lv_net_host *host,
		     const struct lv_net_config *config)
{
	host->tap = (config->flags & LV_NET_TAP) != 0;
	if (config->fd >= 0)
		host->fd = lv_fd_dup(config->fd);
	else
		host->fd = host->tap ? open_tap(config->name)
				     : lv_unix_open(config->name, connect);
	if (host->fd < 0)
		return host->fd;
	host->open = true;
	host->in_start = HEAD;
	host->in_end = HEAD;
	host->in = malloc(IN_BYTES);
	host->out = malloc(PREFIX + LV_NET_FRAME_MAX);
	/* What is open is closed by the owner. */
	if (host->in == NULL || host->out == NULL)
		return -ENOMEM;
	return lv_fd_unblock(host->fd);
}

void lv_net_host_close(struct lv_net_host *host)
{
	(void)close(host->fd);
	free(host->in);
	free(host->out);
}

void lv_net_host_offload(struct lv_net_host *host, uint64_t features)
{
	/* GUEST_CSUM, GUEST_TSO4 and GUEST_TSO6 are bits 1, 7 and 8 there; bits
	 * 0, 1 and 2 here. */
	uint64_t offload = (features >> 1 & TUN_F_CSUM) |
			   (features >> 6 & (TUN_F_TSO4 | TUN_F_TSO6));

	if (!host->tap || host->features == features)
		return;
	host->features = features;
	/* What is no TAP (a test's socket) has nothing to be told. */
	(void)ioctl(host->fd, TUNSETOFFLOAD, offload);
}

/* Reads more; bytes, 0 = none now, -errno = the other side is gone. */
static int fill(struct lv_net_host *host)
{
	uint32_t left = host->in_end - host->in_start;
	ssize_t got;

	if (host->in_start > HEAD) {
		memmove(host->in + HEAD, host->in + host->in_start, left);
		host->in_start = HEAD;
		host->in_end = HEAD + left;
	}
	got = TEMP_FAILURE_RETRY(
	    read(host->fd, host->in + host->in_end, IN_BYTES - host->in_end));
	if (got < 0 && errno == EAGAIN)
		return 0;
	if (got <= 0)
		return got < 0 ? -errno : -EPIPE;
	host->in_end += (uint32_t)got;
	return (int)got;
}

int lv_net_host_peek(struct lv_net_host *host, uint8_t **frame)
{
	*frame = host->in + host->in_start;
	if (host->tap) {
		uint32_t have = host->in_end - host->in_start;

		return have > 0 ? (int)have : fill(host);
	}
	while (host->frame == 0) {
		uint32_t have = host->in_end - host->in_start;
		uint32_t length = 0;
		int got;

		if (have >= PREFIX) {
			memcpy(&length, host->in + host->in_start, PREFIX);
			length = ntohl(length);
			if (length < LV_NET_FRAME_MIN ||
			    length > LV_NET_FRAME_MAX)
				return -EPROTO;
		}
		if (length > 0 && have - PREFIX >= length) {
			host->frame = length + LV_NET_HEADER;
			memset(host->in + host->in_start - HEAD, 0,
			       LV_NET_HEADER);
			break;
		}
		got = fill(host);
		if (got <= 0)
			return got;
	}
	*frame = host->in + host->in_start - HEAD;
	return (int)host->frame;
}

void lv_net_host_take(struct lv_net_host *host)
{
	if (host->tap)
		host->in_start = host->in_end = HEAD;
	else
		host->in_start += host->frame - HEAD;
	host->frame = 0;
}

int lv_net_host_flush(struct lv_net_host *host)
{
	while (host->out_len > 0) {
		ssize_t sent = TEMP_FAILURE_RETRY(
		    send(host->fd, host->out, host->out_len, MSG_NOSIGNAL));

		if (sent < 0)
			return -errno;
		host->out_len -= (uint32_t)sent;
		memmove(host->out, host->out + sent, host->out_len);
	}
	return 0;
}

static int send_stream(struct lv_net_host *host, const struct lv_chain *chain)
{
	uint32_t bytes = (uint32_t)chain->readable_bytes - LV_NET_HEADER;
	uint32_t prefix = htonl(bytes);
	struct msghdr message = {.msg_iov = host->iov};
	int error = lv_net_host_flush(host);
	ssize_t sent;

	if (error < 0)
		return error;
	host->iov[0] = (struct iovec){&prefix, PREFIX};
	message.msg_iovlen =
	    1 + lv_iov_slice(host->iov + 1, chain->iov, chain->readable,
			     LV_NET_HEADER, bytes);
	sent = TEMP_FAILURE_RETRY(sendmsg(host->fd, &message, MSG_NOSIGNAL));
	if (sent < 0)
		return -errno;
	host->out_len = PREFIX + bytes - (uint32_t)sent;
	if (host->out_len > 0) {
		memcpy(host->out, &prefix, PREFIX);
		(void)lv_chain_read(chain, LV_NET_HEADER, host->out + PREFIX,
				    bytes);
		memmove(host->out, host->out + sent, host->out_len);
	}
	return 0;
}

int lv_net_host_send(struct lv_net_host *host, const struct lv_chain *chain)
{
	if (!host->tap)
		return send_stream(host, chain);
	/* A full TAP loses frames, as a full wire does. */
	return TEMP_FAILURE_RETRY(
		   writev(host->fd, chain->iov, (int)chain->readable)) < 0
		   ? -EIO
		   : 0;
}
