/*
 * channel.c - frames over vsock, never blocking.
 *
 * Out: frames are appended whole to `out` and written as the host takes them.
 * The caller reads more of the process's output only while `out` is empty, so
 * a slow host fills the pipe and the process waits: nothing is dropped.
 * In: bytes collect in `in` until a frame is whole; the host is trusted, but
 * no length of its is used before it is checked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "init.h"

void lv_put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

void lv_put32(uint8_t *at, uint32_t value)
{
	lv_put16(at, (uint16_t)value);
	lv_put16(at + 2, (uint16_t)(value >> 16));
}

void lv_put64(uint8_t *at, uint64_t value)
{
	lv_put32(at, (uint32_t)value);
	lv_put32(at + 4, (uint32_t)(value >> 32));
}

uint16_t lv_get16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t lv_get32(const uint8_t *at)
{
	return lv_get16(at) | (uint32_t)lv_get16(at + 2) << 16;
}

uint64_t lv_get64(const uint8_t *at)
{
	return lv_get32(at) | (uint64_t)lv_get32(at + 4) << 32;
}

static int connect_once(int timeout_ms)
{
	struct sockaddr_vm address = {
	    .svm_family = AF_VSOCK,
	    .svm_cid = VMADDR_CID_HOST,
	    .svm_port = LV_GUEST_PORT,
	};
	int error = 0;
	socklen_t size = sizeof(error);

	int fd =
	    socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	error = errno;
	if (error == EINPROGRESS) {
		struct pollfd wait = {.fd = fd, .events = POLLOUT};
		if (poll(&wait, 1, timeout_ms) == 1 &&
		    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 &&
		    error == 0)
			return fd;
		error = error == 0 || error == EINPROGRESS ? ETIMEDOUT : error;
	}
	(void)close(fd);
	return -error;
}

/* The transport's driver may still be probing (ENODEV) and the host's listener
 * may come late (ECONNRESET), so a refusal is asked again until the deadline.
 */
int lv_channel_connect(struct lv_channel *channel, int timeout_ms)
{
	const struct timespec pause = {.tv_nsec = 5000000};
	uint64_t deadline = lv_now_ms() + (uint64_t)timeout_ms;
	int fd;

	channel->out_start = channel->out_end = 0;
	channel->in_start = channel->in_end = 0;
	while ((fd = connect_once(2000)) < 0 && lv_now_ms() < deadline)
		(void)nanosleep(&pause, NULL);
	channel->fd = fd;
	return fd < 0 ? fd : 0;
}

bool lv_channel_idle(const struct lv_channel *channel)
{
	return channel->out_start == channel->out_end;
}

/* Appends one frame, or -ENOBUFS when what waits leaves no room for it. */
int lv_channel_queue(struct lv_channel *channel, uint16_t type,
		     const void *payload, size_t length)
{
	if (lv_channel_idle(channel))
		channel->out_start = channel->out_end = 0;
	if (length > sizeof(channel->out) - LV_GUEST_HEADER_BYTES ||
	    channel->out_end >
		sizeof(channel->out) - LV_GUEST_HEADER_BYTES - length)
		return -ENOBUFS;
	uint8_t *at = channel->out + channel->out_end;
	lv_put32(at, (uint32_t)length);
	lv_put16(at + 4, type);
	lv_put16(at + 6, 0);
	if (length > 0)
		memcpy(at + LV_GUEST_HEADER_BYTES, payload, length);
	channel->out_end += LV_GUEST_HEADER_BYTES + length;
	return 0;
}

/* Writes what the socket takes: 1 = all of it, 0 = some is left, or -errno. */
int lv_channel_flush(struct lv_channel *channel)
{
	while (!lv_channel_idle(channel)) {
		ssize_t sent =
		    send(channel->fd, channel->out + channel->out_start,
			 channel->out_end - channel->out_start, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EAGAIN ? 0 : -errno;
		channel->out_start += (size_t)sent;
	}
	return 1;
}

/* Reads once: bytes read, 0 = nothing yet, -ENOTCONN at the end, or -errno. */
int lv_channel_read(struct lv_channel *channel)
{
	size_t left = channel->in_end - channel->in_start;

	memmove(channel->in, channel->in + channel->in_start, left);
	channel->in_start = 0;
	channel->in_end = left;
	ssize_t got = recv(channel->fd, channel->in + left,
			   sizeof(channel->in) - left, 0);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (got == 0)
		return -ENOTCONN;
	channel->in_end += (size_t)got;
	return (int)got;
}

/* 1 and *frame filled, 0 when none is whole, -EPROTO for a length over the
 * bound (the stream cannot be followed any further). */
int lv_channel_next(struct lv_channel *channel, struct lv_frame *frame)
{
	const uint8_t *at = channel->in + channel->in_start;
	size_t have = channel->in_end - channel->in_start;

	if (have < LV_GUEST_HEADER_BYTES)
		return 0;
	uint32_t length = lv_get32(at);
	if (length > LV_GUEST_PAYLOAD_MAX_BYTES)
		return -EPROTO;
	if (have - LV_GUEST_HEADER_BYTES < length)
		return 0;
	frame->type = lv_get16(at + 4);
	frame->length = length;
	frame->payload = at + LV_GUEST_HEADER_BYTES;
	channel->in_start += LV_GUEST_HEADER_BYTES + length;
	return 1;
}

int lv_channel_error(struct lv_channel *channel, const struct lv_error *error)
{
	uint8_t payload[4 + LV_MESSAGE_BYTES];
	size_t length = strnlen(error->text, sizeof(error->text));

	lv_put32(payload, error->code);
	memcpy(payload + 4, error->text, length);
	return lv_channel_queue(channel, LV_GUEST_FRAME_ERROR, payload,
				4 + length);
}
