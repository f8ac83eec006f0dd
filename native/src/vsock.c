/*
 * vsock.c - virtio socket device (virtio 1.2, 5.10), stream sockets, entirely
 * in this process. vsock.h has the states of a connection; this file speaks
 * with the guest: packets from the tx queue are checked and acted upon, packets
 * for the guest are made when it offers a buffer, from the connection whose
 * turn it is. Nothing but at most LV_VSOCK_KILLS resets is queued as a packet.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vsock.h"

#define HOST_CID    2u
#define TYPE_STREAM 1u
#define PAYLOAD_MAX 65536u

enum {
	OP_REQUEST = 1,
	OP_RESPONSE = 2,
	OP_RST = 3,
	OP_SHUTDOWN = 4,
	OP_RW = 5,
	OP_CREDIT_UPDATE = 6,
	OP_CREDIT_REQUEST = 7,
};

/* 5.10.6 */
struct header {
	uint64_t src_cid;
	uint64_t dst_cid;
	uint32_t src_port;
	uint32_t dst_port;
	uint32_t len;
	uint16_t type;
	uint16_t op;
	uint32_t flags;
	uint32_t buf_alloc;
	uint32_t fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct header) == 44, "5.10.6");

static void kill_later(struct lv_vsock *vsock, uint32_t guest_port,
		       uint32_t host_port)
{
	if (vsock->kills == LV_VSOCK_KILLS) {
		LV_COUNT(&vsock->device, dropped, 1);
		return;
	}
	vsock->kill[vsock->kills].guest_port = guest_port;
	vsock->kill[vsock->kills].host_port = host_port;
	vsock->kills++;
}

/* ---- from the guest ---- */

static void open_from_guest(struct lv_vsock *vsock, const struct header *header)
{
	struct lv_conn *conn = NULL;
	int fd = -1;

	if (vsock->conn_count < LV_VSOCK_CONNS)
		fd = lv_vsock_dial(vsock, header->dst_port);
	if (fd >= 0) {
		conn = lv_conn_new(vsock, fd, LV_CONN_OPEN);
		if (conn == NULL)
			(void)close(fd);
	}
	if (conn == NULL) {
		LV_COUNT(&vsock->device, errors, 1);
		kill_later(vsock, header->src_port, header->dst_port);
		return;
	}
	conn->guest_port = header->src_port;
	conn->host_port = header->dst_port;
	conn->peer_alloc = header->buf_alloc;
	conn->peer_fwd = header->fwd_cnt;
	lv_conn_hash(vsock, conn);
	lv_conn_pend(vsock, conn, LV_PEND_RESPONSE);
}

static void take_data(struct lv_vsock *vsock, struct lv_conn *conn,
		      const struct header *header, const struct lv_chain *chain)
{
	struct iovec iov[LV_QUEUE_MAX];
	uint32_t count;

	/* More than the credit it was given, or after it said it was done. */
	if (header->len > LV_VSOCK_BUF - conn->buf_len ||
	    (conn->guest_shut & LV_SHUT_SEND) != 0) {
		LV_COUNT(&vsock->device, malformed, 1);
		lv_conn_abort(vsock, conn);
		return;
	}
	count = lv_iov_slice(iov, chain->iov, chain->readable,
			     sizeof(struct header), header->len);
	lv_vsock_deliver(vsock, conn, iov, count);
}

static void take_shutdown(struct lv_vsock *vsock, struct lv_conn *conn,
			  uint32_t flags)
{
	conn->guest_shut |= (uint8_t)(flags & LV_SHUT_BOTH);
	if ((conn->guest_shut & LV_SHUT_RCV) != 0)
		(void)shutdown(conn->fd, SHUT_RD);
	lv_conn_update(vsock, conn);
	lv_vsock_settle(vsock, conn);
}

static void take_rst(struct lv_vsock *vsock, struct lv_conn *conn)
{
	/* What the guest sent before still goes to the host. */
	if (conn->state == LV_CONN_OPEN && conn->buf_len > 0) {
		lv_conn_unhash(vsock, conn);
		conn->state = LV_CONN_LINGER;
		conn->pending = 0;
		conn->deadline_ns = 0;
		lv_conn_update(vsock, conn);
		return;
	}
	lv_conn_free(vsock, conn);
}

static void take_open(struct lv_vsock *vsock, struct lv_conn *conn,
		      const struct header *header, const struct lv_chain *chain)
{
	switch (header->op) {
	case OP_RW:
		take_data(vsock, conn, header, chain);
		return;
	case OP_SHUTDOWN:
		take_shutdown(vsock, conn, header->flags);
		return;
	case OP_CREDIT_UPDATE:
		return;
	case OP_CREDIT_REQUEST:
		lv_conn_pend(vsock, conn, LV_PEND_CREDIT);
		return;
	default:
		LV_COUNT(&vsock->device, malformed, 1);
		lv_conn_abort(vsock, conn);
	}
}

static void take_conn(struct lv_vsock *vsock, struct lv_conn *conn,
		      const struct header *header, const struct lv_chain *chain)
{
	if (header->op == OP_RST) {
		take_rst(vsock, conn);
		return;
	}
	conn->peer_alloc = header->buf_alloc;
	conn->peer_fwd = header->fwd_cnt;
	if (conn->state == LV_CONN_OPEN) {
		/* It may be DEAD now, but being known to the guest not freed.
		 */
		take_open(vsock, conn, header, chain);
		lv_conn_update(vsock, conn);
	} else if (conn->state == LV_CONN_REQUESTED &&
		   header->op == OP_RESPONSE) {
		conn->state = LV_CONN_OPEN;
		conn->deadline_ns = 0;
		if (lv_vsock_accepted(vsock, conn))
			lv_conn_update(vsock, conn);
	} else if (conn->state == LV_CONN_REQUESTED) {
		LV_COUNT(&vsock->device, malformed, 1);
		lv_conn_abort(vsock, conn);
	}
	/* DEAD: the guest did not see our RST yet. */
}

static void take_packet(struct lv_vsock *vsock, const struct lv_chain *chain)
{
	struct header header;
	struct lv_conn *conn;

	if (lv_iov_read(chain->iov, chain->readable, 0, &header,
			sizeof(header)) != sizeof(header) ||
	    header.len > PAYLOAD_MAX ||
	    header.len > chain->readable_bytes - sizeof(header) ||
	    /* 5.10.6.4.1: a spoofed source, or not for us */
	    header.src_cid != vsock->guest_cid || header.dst_cid != HOST_CID) {
		LV_COUNT(&vsock->device, malformed, 1);
		return;
	}
	if (header.type != TYPE_STREAM) {
		LV_COUNT(&vsock->device, malformed, 1);
		kill_later(vsock, header.src_port, header.dst_port);
		return;
	}
	conn = lv_conn_find(vsock, header.src_port, header.dst_port);
	if (conn != NULL)
		take_conn(vsock, conn, &header, chain);
	else if (header.op == OP_REQUEST)
		open_from_guest(vsock, &header);
	else if (header.op != OP_RST)
		kill_later(vsock, header.src_port, header.dst_port);
}

/* ---- to the guest ---- */

static void put_header(const struct lv_vsock *vsock, struct lv_chain *chain,
		       struct header *header)
{
	header->src_cid = HOST_CID;
	header->dst_cid = vsock->guest_cid;
	header->type = TYPE_STREAM;
	(void)lv_iov_write(chain->iov + chain->readable, chain->writable, 0,
			   header, sizeof(*header));
}

/* Reads from the socket into the chain behind the header. Bytes, or 0. */
static uint32_t read_host(struct lv_vsock *vsock, struct lv_conn *conn,
			  const struct lv_chain *chain)
{
	struct iovec iov[LV_QUEUE_MAX];
	uint64_t room = chain->writable_bytes - sizeof(struct header);
	uint32_t count;
	ssize_t got;

	if (room > lv_conn_credit(conn))
		room = lv_conn_credit(conn);
	if (room > PAYLOAD_MAX)
		room = PAYLOAD_MAX;
	if (room == 0)
		return 0;
	count = lv_iov_slice(iov, chain->iov + chain->readable, chain->writable,
			     sizeof(struct header), room);
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
			const struct lv_chain *chain, struct header *header)
{
	static const struct {
		uint32_t bit;
		uint16_t op;
	} order[] = {
	    {LV_PEND_SHUTDOWN, OP_SHUTDOWN},
	    {LV_PEND_CREDIT, OP_CREDIT_UPDATE},
	    {LV_PEND_ASK_CREDIT, OP_CREDIT_REQUEST},
	};

	if ((conn->pending & LV_PEND_RST) != 0)
		return OP_RST;
	if ((conn->pending & LV_PEND_REQUEST) != 0) {
		conn->pending &= ~LV_PEND_REQUEST;
		return OP_REQUEST;
	}
	if ((conn->pending & LV_PEND_RESPONSE) != 0) {
		conn->pending &= ~LV_PEND_RESPONSE;
		return OP_RESPONSE;
	}
	if (conn->state == LV_CONN_OPEN && conn->readable && !conn->eof &&
	    (conn->guest_shut & LV_SHUT_RCV) == 0) {
		header->len = read_host(vsock, conn, chain);
		if (header->len > 0)
			return OP_RW;
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
	struct header header = {
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
	if (header.op == OP_SHUTDOWN)
		header.flags = conn->shut;
	put_header(vsock, chain, &header);
	/* Any packet carries the credit (5.10.6.3). */
	conn->fwd_told = conn->fwd;
	conn->pending &= ~LV_PEND_CREDIT;
	if (header.op == OP_RST) {
		lv_conn_free(vsock, conn);
	} else {
		lv_conn_rotate(vsock, conn);
	}
	return (uint32_t)sizeof(header) + header.len;
}

static uint32_t send_kill(struct lv_vsock *vsock, struct lv_chain *chain)
{
	struct header header = {.op = OP_RST};

	vsock->kills--;
	header.src_port = vsock->kill[vsock->kills].host_port;
	header.dst_port = vsock->kill[vsock->kills].guest_port;
	put_header(vsock, chain, &header);
	return sizeof(header);
}

static void serve_guest(struct lv_vsock *vsock)
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
		    chain.writable_bytes <= sizeof(struct header)) {
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

/* ---- device ---- */

static void drain_tx(struct lv_vsock *vsock)
{
	struct lv_device *device = &vsock->device;
	struct lv_queue *queue = &device->queue[LV_VQ_TX];
	struct lv_chain chain;
	uint32_t budget = LV_DRAIN_BUDGET;

	do {
		while (budget > 0 && lv_device_pop(device, LV_VQ_TX, &chain)) {
			budget--;
			LV_COUNT(device, requests, 1);
			take_packet(vsock, &chain);
			lv_queue_push(queue, chain.head, 0);
		}
		if (budget == 0)
			lv_eventfd_signal(device->kick_fd[LV_VQ_TX]);
	} while (budget > 0 && device->active && lv_queue_rearm(queue));
	lv_device_signal(device, LV_VQ_TX);
}

static void notify(struct lv_device *device, uint32_t queue)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;

	if (queue == LV_VQ_TX)
		drain_tx(vsock);
	if (queue != LV_VQ_EVENT)
		serve_guest(vsock);
}

static void poll_host(struct lv_device *device)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;

	lv_vsock_host_events(vsock);
	if (device->active && device->queue[LV_VQ_RX].ready)
		serve_guest(vsock);
}

static void tick(struct lv_device *device, uint64_t now_ns)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;

	device->wants_tick = false;
	for (uint32_t i = 0; i < LV_VSOCK_CONNS; i++) {
		struct lv_conn *conn = vsock->conn[i];

		if (conn == NULL || conn->deadline_ns == 0)
			continue;
		if (now_ns >= conn->deadline_ns) {
			LV_COUNT(device, errors, 1);
			lv_conn_abort(vsock, conn);
		} else {
			device->wants_tick = true;
		}
	}
	if (device->active && device->queue[LV_VQ_RX].ready)
		serve_guest(vsock);
}

static void reset(struct lv_device *device)
{
	lv_conn_free_all((struct lv_vsock *)device);
}

static void destroy(struct lv_device *device)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;

	lv_conn_free_all(vsock);
	lv_vsock_unlisten(vsock);
	(void)close(device->poll_fd);
	lv_device_fini(device);
	free(vsock);
}

static const struct lv_device_ops vsock_ops = {
    .id = 19,
    .queues = 3,
    .notify = notify,
    .poll = poll_host,
    .tick = tick,
    .reset = reset,
    .destroy = destroy,
};

int lv_vsock_new(const struct lv_vsock_config *config, const struct lv_mem *mem,
		 struct lv_events *events, struct lv_device **out)
{
	struct lv_vsock *vsock;
	size_t len = strnlen(config->path, sizeof(config->path));
	int error;

	if (config->guest_cid <= HOST_CID || config->guest_cid > UINT32_MAX ||
	    len == 0 || len == sizeof(config->path))
		return -EINVAL;
	vsock = calloc(1, sizeof(*vsock));
	if (vsock == NULL)
		return -ENOMEM;
	error = lv_device_init(&vsock->device, &vsock_ops, mem, events, 0);
	if (error < 0)
		goto fail_free;
	vsock->guest_cid = config->guest_cid;
	vsock->next_port = 1u << 30;
	vsock->listen_fd = -1;
	memcpy(vsock->path, config->path, len);
	memcpy(vsock->device.config, &vsock->guest_cid, sizeof(uint64_t));
	vsock->device.config_bytes = sizeof(uint64_t);
	vsock->device.poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (vsock->device.poll_fd < 0) {
		error = -errno;
		goto fail_device;
	}
	error = lv_vsock_listen(vsock);
	if (error < 0)
		goto fail_epoll;
	*out = &vsock->device;
	return 0;
fail_epoll:
	(void)close(vsock->device.poll_fd);
fail_device:
	lv_device_fini(&vsock->device);
fail_free:
	free(vsock);
	return error;
}
