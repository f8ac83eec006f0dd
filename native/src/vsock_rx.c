/*
 * vsock_rx.c - packets for the guest (the rx queue). One is made when the guest
 * offers a buffer, from the connection whose turn it is; payload goes from the
 * socket straight into the guest's memory. Nothing but at most LV_VSOCK_KILLS
 * resets is queued as a packet.
 */
#include <errno.h>
#include <sys/uio.h>

#include "vsock.h"

static void put_header(const struct lv_vsock *vsock, struct lv_chain *chain,
		       struct lv_vsock_header *header)
{
	header->src_cid = LV_VSOCK_HOST_CID;
	header->dst_cid = vsock->guest_cid;
	header->type = LV_VSOCK_TYPE_STREAM;
	(void)lv_iov_write(chain->iov + chain->readable, chain->writable, 0,
			   header, sizeof(*header));
}

/* Reads from the socket into the chain behind the header. Bytes, or 0. */
static uint32_t read_host(struct lv_vsock *vsock, struct lv_conn *conn,
			  const struct lv_chain *chain)
{
	struct iovec iov[LV_QUEUE_MAX];
	uint64_t room = chain->writable_bytes - sizeof(struct lv_vsock_header);
	uint32_t count;
	ssize_t got;

	if (room > lv_conn_credit(conn))
		room = lv_conn_credit(conn);
	if (room > LV_VSOCK_PAYLOAD_MAX)
		room = LV_VSOCK_PAYLOAD_MAX;
	if (room == 0)
		return 0;
	count = lv_iov_slice(iov, chain->iov + chain->readable, chain->writable,
			     sizeof(struct lv_vsock_header), room);
	do
		got = readv(conn->fd, iov, (int)count);
	while (got < 0 && errno == EINTR);
	if (got > 0) {
		conn->sent += (uint32_t)got;
		LV_COUNT(&vsock->device, bytes_in, (uint64_t)got);
		return (uint32_t)got;
	}
	conn->readable = false;
	if (got < 0 && errno == EAGAIN)
		return 0;
	/* The end, clean or not; what the guest sends may still be wanted. */
	conn->eof = true;
	lv_conn_shut(vsock, conn,
		     conn->hup || got < 0 ? LV_SHUT_BOTH : LV_SHUT_SEND);
	lv_vsock_settle(vsock, conn);
	return 0;
}

/* Which packet a connection sends next; 0 = none after all. */
static uint16_t next_op(struct lv_vsock *vsock, struct lv_conn *conn,
			const struct lv_chain *chain,
			struct lv_vsock_header *header)
{
	static const struct {
		uint32_t bit;
		uint16_t op;
	} order[] = {
	    {LV_PEND_SHUTDOWN, LV_OP_SHUTDOWN},
	    {LV_PEND_CREDIT, LV_OP_CREDIT_UPDATE},
	    {LV_PEND_ASK_CREDIT, LV_OP_CREDIT_REQUEST},
	};

	if ((conn->pending & LV_PEND_RST) != 0)
		return LV_OP_RST;
	if ((conn->pending & LV_PEND_REQUEST) != 0) {
		conn->pending &= ~LV_PEND_REQUEST;
		return LV_OP_REQUEST;
	}
	if ((conn->pending & LV_PEND_RESPONSE) != 0) {
		conn->pending &= ~LV_PEND_RESPONSE;
		return LV_OP_RESPONSE;
	}
	if (conn->state == LV_CONN_OPEN && conn->readable && !conn->eof &&
	    (conn->guest_shut & LV_SHUT_RCV) == 0) {
		header->len = read_host(vsock, conn, chain);
		if (header->len > 0)
			return LV_OP_RW;
	}
	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		if ((conn->pending & order[i].bit) == 0)
			continue;
		conn->pending &= ~order[i].bit;
		return order[i].op;
	}
	return 0;
}

/* One packet of conn into the chain. Bytes, or 0 and the chain is unused. */
static uint32_t send_packet(struct lv_vsock *vsock, struct lv_conn *conn,
			    struct lv_chain *chain)
{
	struct lv_vsock_header header = {
	    .src_port = conn->host_port,
	    .dst_port = conn->guest_port,
	    .buf_alloc = LV_VSOCK_BUF,
	    .fwd_cnt = conn->fwd,
	};

	header.op = next_op(vsock, conn, chain, &header);
	if (header.op == 0) {
		lv_conn_update(vsock, conn);
		return 0;
	}
	if (header.op == LV_OP_SHUTDOWN)
		header.flags = conn->shut;
	put_header(vsock, chain, &header);
	/* Any packet carries the credit (5.10.6.3). */
	conn->fwd_told = conn->fwd;
	conn->pending &= ~LV_PEND_CREDIT;
	if (header.op == LV_OP_RST) {
		lv_conn_free(vsock, conn);
	} else {
		lv_conn_rotate(vsock, conn);
	}
	return (uint32_t)sizeof(header) + header.len;
}

static uint32_t send_kill(struct lv_vsock *vsock, struct lv_chain *chain)
{
	struct lv_vsock_header header = {.op = LV_OP_RST};

	vsock->kills--;
	header.src_port = vsock->kill[vsock->kills].host_port;
	header.dst_port = vsock->kill[vsock->kills].guest_port;
	put_header(vsock, chain, &header);
	return sizeof(header);
}

void lv_vsock_serve_guest(struct lv_vsock *vsock)
{
	struct lv_device *device = &vsock->device;
	struct lv_queue *queue = &device->queue[LV_VQ_RX];
	struct lv_chain chain;
	uint32_t budget = LV_DRAIN_BUDGET;

	while (vsock->kills > 0 || vsock->head != NULL) {
		uint32_t len;

		if (budget-- == 0) {
			lv_eventfd_signal(device->kick_fd[LV_VQ_RX]);
			break;
		}
		if (!lv_device_pop(device, LV_VQ_RX, &chain)) {
			/* Out of buffers: wait for a notify, unless one came.
			 */
			if (!device->active || !queue->ready ||
			    !lv_queue_rearm(queue))
				break;
			continue;
		}
		/* 5.10.6.4: room for a header and something behind it. */
		if (chain.readable > 0 ||
		    chain.writable_bytes <= sizeof(struct lv_vsock_header)) {
			LV_COUNT(device, malformed, 1);
			lv_queue_push(queue, chain.head, 0);
			continue;
		}
		len = vsock->kills > 0
			  ? send_kill(vsock, &chain)
			  : send_packet(vsock, vsock->head, &chain);
		if (len == 0)
			lv_queue_undo(queue);
		else
			lv_queue_push(queue, chain.head, len);
	}
	lv_device_signal(device, LV_VQ_RX);
}
