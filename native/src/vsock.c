/*
 * vsock.c - virtio socket device (virtio 1.2, 5.10), stream sockets, entirely
 * in this process. vsock.h has the states of a connection; this file takes what
 * the guest sends: packets from the tx queue are checked and acted upon.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vsock.h"

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

static void open_from_guest(struct lv_vsock *vsock,
			    const struct lv_vsock_header *header)
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
		      const struct lv_vsock_header *header,
		      const struct lv_chain *chain)
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
			     sizeof(struct lv_vsock_header), header->len);
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
		      const struct lv_vsock_header *header,
		      const struct lv_chain *chain)
{
	switch (header->op) {
	case LV_OP_RW:
		take_data(vsock, conn, header, chain);
		return;
	case LV_OP_SHUTDOWN:
		take_shutdown(vsock, conn, header->flags);
		return;
	case LV_OP_CREDIT_UPDATE:
		return;
	case LV_OP_CREDIT_REQUEST:
		lv_conn_pend(vsock, conn, LV_PEND_CREDIT);
		return;
	default:
		LV_COUNT(&vsock->device, malformed, 1);
		lv_conn_abort(vsock, conn);
	}
}

static void take_conn(struct lv_vsock *vsock, struct lv_conn *conn,
		      const struct lv_vsock_header *header,
		      const struct lv_chain *chain)
{
	if (header->op == LV_OP_RST) {
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
		   header->op == LV_OP_RESPONSE) {
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
	struct lv_vsock_header header;
	struct lv_conn *conn;

	if (lv_iov_read(chain->iov, chain->readable, 0, &header,
			sizeof(header)) != sizeof(header) ||
	    header.len > LV_VSOCK_PAYLOAD_MAX ||
	    header.len > chain->readable_bytes - sizeof(header) ||
	    /* 5.10.6.4.1: a spoofed source, or not for us */
	    header.src_cid != vsock->guest_cid ||
	    header.dst_cid != LV_VSOCK_HOST_CID) {
		LV_COUNT(&vsock->device, malformed, 1);
		return;
	}
	if (header.type != LV_VSOCK_TYPE_STREAM) {
		LV_COUNT(&vsock->device, malformed, 1);
		kill_later(vsock, header.src_port, header.dst_port);
		return;
	}
	conn = lv_conn_find(vsock, header.src_port, header.dst_port);
	if (conn != NULL)
		take_conn(vsock, conn, &header, chain);
	else if (header.op == LV_OP_REQUEST)
		open_from_guest(vsock, &header);
	else if (header.op != LV_OP_RST)
		kill_later(vsock, header.src_port, header.dst_port);
}

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
		lv_vsock_serve_guest(vsock);
}

static void poll_host(struct lv_device *device)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;

	lv_vsock_host_events(vsock);
	if (device->active && device->queue[LV_VQ_RX].ready)
		lv_vsock_serve_guest(vsock);
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
		lv_vsock_serve_guest(vsock);
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

	if (config->guest_cid <= LV_VSOCK_HOST_CID ||
	    config->guest_cid > UINT32_MAX || len == 0 ||
	    len == sizeof(config->path))
		return -EINVAL;
	vsock = calloc(1, sizeof(*vsock));
	if (vsock == NULL)
		return -ENOMEM;
	error = lv_device_init(&vsock->device, &vsock_ops, 3, mem, events, 0);
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
