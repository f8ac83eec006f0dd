/*
 * net.h - what the two halves of the network device share: net.c the queues,
 * net_host.c where frames go to and come from.
 */
#ifndef LV_NET_H
#define LV_NET_H

#include "lv.h"

#define LV_NET_HEADER	 12u	/* struct virtio_net_hdr_v1, 5.1.6 */
#define LV_NET_FRAME_MIN 14u	/* an Ethernet header */
#define LV_NET_FRAME_MAX 65550u /* 64 KiB of segments and their headers */

struct lv_net_host {
	int fd;
	bool tap, open;
	uint64_t features; /* for which offloads were set; 0 = not yet */
	/* What was read and not taken yet: in[start .. end). */
	uint8_t *in;
	uint32_t in_start, in_end;
	uint32_t frame; /* bytes of the one at in_start, with its header */
	/* The rest of a frame that the socket took in part. */
	uint8_t *out;
	uint32_t out_len;
	struct iovec iov[LV_QUEUE_MAX + 1];
};

int lv_net_host_open(struct lv_net_host *host,
		     const struct lv_net_config *config);
void lv_net_host_close(struct lv_net_host *host);
/* What the guest can take, once it is known (TUNSETOFFLOAD). */
void lv_net_host_offload(struct lv_net_host *host, uint64_t features);
/* The next frame, behind its 12-byte header: bytes with the header, 0 = none
 * now, or -errno when the other side is gone. It stays valid, and next, until
 * lv_net_host_take. */
int lv_net_host_peek(struct lv_net_host *host, uint8_t **frame);
void lv_net_host_take(struct lv_net_host *host);
/* Sends a chain's readable part, header first. 0, -EAGAIN = later, whole, or
 * -errno: this frame is lost. */
int lv_net_host_send(struct lv_net_host *host, const struct lv_chain *chain);

/* Sends what an earlier frame left; 0 when nothing is left any more. */
int lv_net_host_flush(struct lv_net_host *host);

#endif
