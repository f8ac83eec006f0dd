/* net.c - frames both ways, over a socket pair: the stream of a user-mode
 * network, or datagrams that stand for a TAP. */
#include <fcntl.h>
#include <sys/socket.h>

#include "kit.h"

static int other = -1;
static bool tap;

static int make(struct fuzz *fuzz)
{
	uint8_t choice = take8(&fuzz->script);
	struct lv_net_config config = {
	    .size = sizeof(config),
	    .mac = {2, 0, 0, 0, 0, 1},
	    .mtu = 1500,
	};
	int pair[2];
	int error;

	tap = (choice & 1) != 0;
	config.flags = tap ? LV_NET_TAP : 0;
	if ((choice & 0x80) != 0) {
		config.rx.bytes_rate = take32(&fuzz->script);
		config.tx.ops_rate = take8(&fuzz->script);
	}
	MUST(socketpair(AF_UNIX,
			(tap ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC |
			    SOCK_NONBLOCK,
			0, pair) == 0);
	other = pair[1];
	config.fd = pair[0];
	error = lv_net_new(&config, &fuzz->mem, &fuzz->events, &fuzz->device);
	(void)close(pair[0]);
	return error;
}

/* The virtio header and the frame's addresses. */
static uint32_t header(struct fuzz *fuzz, uint32_t queue, uint8_t *out)
{
	uint8_t which = take8(&fuzz->script);

	(void)queue;
	for (uint32_t i = 0; which >= 0x80 && i < 12; i++)
		out[i] = take8(&fuzz->script);
	out[18] = 2;
	out[23] = which % 8 == 7 ? 2 : 1;
	return 26;
}

static void feed(struct fuzz *fuzz, uint8_t what)
{
	static uint8_t bytes[70000];
	uint32_t len = take_size(&fuzz->script) % 66000u;
	uint32_t told = len;

	if (tap) {
		(void)send(other, bytes, len, MSG_NOSIGNAL);
		return;
	}
	if ((what & 4) != 0)
		told = take_size(&fuzz->script);
	for (uint32_t i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(told >> (24 - 8 * i));
	/* Without its length now and then: the rest of a frame before. */
	if ((what & 8) != 0)
		(void)send(other, bytes + 4, len, MSG_NOSIGNAL);
	else
		(void)send(other, bytes, len + 4, MSG_NOSIGNAL);
}

static void host(struct fuzz *fuzz, uint8_t what)
{
	static uint8_t sink[70000];

	switch (what & 3u) {
	case 0:
	case 1:
		feed(fuzz, what);
		break;
	case 2:
		for (uint32_t i = 0; i < 4; i++)
			if (recv(other, sink, sizeof(sink), 0) <= 0)
				break;
		break;
	default:
		if (what == 15)
			(void)shutdown(other, SHUT_RDWR);
		break;
	}
}

static void end(struct fuzz *fuzz)
{
	(void)fuzz;
	(void)close(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct target target = {.make = make,
					     .header = header,
					     .header_bytes = 12,
					     .host = host,
					     .filled = 1,
					     .end = end};

	return fuzz_device(&target, data, size);
}
