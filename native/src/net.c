/*
 * net.c - virtio network device (virtio 1.2, 5.1): one pair of queues.
 *
 * The host's descriptor is watched edge-triggered, so a frame that finds no
 * buffer of the guest waits where it is without waking anybody; the guest's
 * next buffers, or the limiter's clock, take it up again. A frame is spread
 * over as many chains as it needs when the driver takes that (MRG_RXBUF), and
 * those chains appear in the used ring together: Linux counts them at once.
 */
#include <sys/epoll.h>

#include "net.h"

/* CSUM, and what the guest and the host can take: TSO4 and TSO6 each. */
#define OFFLOADS    (3ull << 0 | 3ull << 7 | 3ull << 11)
#define F_MTU	    (1ull << 3)
#define F_MAC	    (1ull << 5)
#define F_MRG_RXBUF (1ull << 15)
#define F_STATUS    (1ull << 16)

#define LINK_UP	    1u
#define MAC_BYTES   6u
#define MTU_MIN	    68u
#define NUM_BUFFERS 10u /* its offset in the header */

enum { RX = 0, TX = 1 };

struct net {
	struct lv_device device;
	struct lv_net_host host;
	struct lv_limiter rx, tx;
	uint8_t mac[MAC_BYTES];
};

/* 5.1.4 */
struct config {
	uint8_t mac[MAC_BYTES];
	uint16_t status;
	uint16_t pairs;
	uint16_t mtu;
};
_Static_assert(sizeof(struct config) == 12, "5.1.4");

/* The other side is gone: the guest sees its cable pulled. */
static void unplug(struct net *net)
{
	net->host.open = false;
	LV_COUNT(&net->device, errors, 1);
	lv_device_configure(&net->device, offsetof(struct config, status),
			    &(uint16_t){0}, sizeof(uint16_t));
}

/* One more for a frame of which others hold a part. */
static bool next_chain(struct lv_device *device, struct lv_chain *chain)
{
	/* Asked for while all there is counts as taken: the driver tells of the
	 * next one, not of these. */
	do
		if (lv_device_pop(device, RX, chain))
			return true;
	while (device->active && lv_queue_rearm(&device->queue[RX]));
	return false;
}

/* The host's next frame into this chain, and as many more as it needs. */
static int64_t deliver(struct lv_device *device, const struct lv_chain *first)
{
	struct net *net = (struct net *)device;
	struct lv_queue *queue = &device->queue[RX];
	bool merge = (device->driver_features & F_MRG_RXBUF) != 0;
	const struct lv_chain *chain = first;
	struct lv_chain rest;
	struct {
		uint16_t head;
		uint32_t len;
	} used[LV_QUEUE_MAX];
	uint32_t done = 0, part = 0;
	uint16_t count = 0;
	uint8_t *frame;
	int bytes = lv_net_host_peek(&net->host, &frame);
	uint32_t len = (uint32_t)bytes;

	if (bytes < 0)
		unplug(net);
	if (bytes <= 0 || lv_device_throttle(device, &net->rx))
		return LV_LATER;
	for (;; chain = &rest) {
		part = (uint32_t)lv_chain_write(chain, 0, frame + done,
						len - done);
		used[count].head = chain->head;
		used[count++].len = part;
		done += part;
		if (done == len || !merge || part == 0 || count == queue->num)
			break;
		if (!next_chain(device, &rest)) {
			while (--count > 0) /* the first is not ours to undo */
				lv_queue_undo(queue);
			return LV_LATER;
		}
	}
	if (done < len) {
		/* Too small for it for good: dropped, at the price of its
		 * buffers. */
		LV_COUNT(device, dropped, 1);
		for (uint16_t i = 0; i < count; i++)
			used[i].len = 0;
	} else {
		(void)lv_chain_write(first, NUM_BUFFERS, &count, sizeof(count));
		LV_COUNT(device, bytes_in, len - LV_NET_HEADER);
	}
	for (uint16_t i = 0; i < count; i++)
		lv_queue_fill(queue, used[i].head, used[i].len);
	lv_queue_publish(queue);
	lv_net_host_take(&net->host);
	lv_limiter_spend(&net->rx, len);
	return LV_HELD;
}

static void receive(struct net *net)
{
	if (net->host.open)
		lv_device_drain(&net->device, RX, deliver);
}

static int64_t transmit(struct lv_device *device, const struct lv_chain *chain)
{
	struct net *net = (struct net *)device;
	uint8_t source[MAC_BYTES];
	int error;

	if (chain->writable > 0 ||
	    chain->readable_bytes < LV_NET_HEADER + LV_NET_FRAME_MIN ||
	    chain->readable_bytes > LV_NET_HEADER + LV_NET_FRAME_MAX)
		return LV_MALFORMED;
	if (lv_device_throttle(device, &net->tx))
		return LV_LATER;
	/* Whatever a neighbour thinks of a source address is not for the guest
	 * to choose. It may change the frame after this look, so this keeps
	 * mistakes in, not attacks: those are the host's filter's business. */
	(void)lv_chain_read(chain, LV_NET_HEADER + MAC_BYTES, source,
			    MAC_BYTES);
	if (memcmp(source, net->mac, MAC_BYTES) != 0 || !net->host.open) {
		LV_COUNT(device, dropped, 1);
		return 0;
	}
	error = lv_net_host_send(&net->host, chain);
	if (error == -EAGAIN)
		return LV_LATER;
	if (error < 0) {
		LV_COUNT(device, errors, 1);
		return 0;
	}
	lv_limiter_spend(&net->tx, chain->readable_bytes);
	LV_COUNT(device, bytes_out, chain->readable_bytes - LV_NET_HEADER);
	return 0;
}

static void notify(struct lv_device *device, uint32_t queue)
{
	struct net *net = (struct net *)device;

	lv_net_host_offload(&net->host, device->driver_features);
	if (queue == RX)
		receive(net);
	else
		lv_device_drain(device, TX, transmit);
}

/* Something came, or there is room again. */
static void poll(struct lv_device *device)
{
	receive((struct net *)device);
	if (lv_net_host_flush(&((struct net *)device)->host) != -EAGAIN)
		lv_device_drain(device, TX, transmit);
}

static void destroy(struct lv_device *device)
{
	lv_net_host_close(&((struct net *)device)->host);
	lv_device_free(device);
}

static int init(struct lv_device *device, const void *from)
{
	const struct lv_net_config *config = from;
	struct net *net = (struct net *)device;
	struct config space = {
	    .status = LINK_UP, .pairs = 1, .mtu = config->mtu};
	int error;

	net->host.fd = -1;
	if ((config->flags & ~LV_NET_TAP) != 0 || config->mtu < MTU_MIN ||
	    memchr(config->name, 0, sizeof(config->name)) == NULL)
		return -EINVAL;
	if ((config->flags & LV_NET_TAP) != 0)
		device->features |= OFFLOADS;
	lv_limiter_init(&net->rx, &config->rx);
	lv_limiter_init(&net->tx, &config->tx);
	memcpy(net->mac, config->mac, MAC_BYTES);
	memcpy(space.mac, config->mac, MAC_BYTES);
	memcpy(device->regs->config, &space, sizeof(space));
	error = lv_net_host_open(&net->host, config);
	device->poll_fd = net->host.fd;
	return error;
}

const struct lv_device_ops lv_net_ops = {
    .id = LV_DEVICE_NET,
    .config_size = sizeof(struct lv_net_config),
    .bytes = sizeof(struct net),
    .queues = 2,
    .features = F_MAC | F_MTU | F_STATUS | F_MRG_RXBUF,
    .init = init,
    .notify = notify,
    .coalesces = {1u << TX, 100000, 300000},
    .poll_events = EPOLLOUT | EPOLLET,
    .poll = poll,
    .tick = poll,
    .destroy = destroy,
};
