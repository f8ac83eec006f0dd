/*
 * vsock.c - virtio socket device (virtio 1.2, 5.10), stream sockets, entirely
 * in this process. vsock.h has the states of a connection; here are the table,
 * the guest's packets (tx queue) and those for it (rx queue): one is made when
 * there is a buffer for it, by the connection whose turn it is. Payload goes
 * between socket and guest memory without a copy; no packet is ever queued.
 */
#include <sys/epoll.h>
#include <sys/mman.h>

#include "vsock.h"

#define TIMEOUT_NS  5000000000ull
#define HOST_CID    2u
#define TYPE_STREAM 1u
#define PAYLOAD_MAX 65536u
#define WATCHED	    (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

enum { RX = 0, TX = 1, EVENT = 2, QUEUES = 3 };

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

/* ---- connections ---- */

struct lv_conn *lv_conn_new(struct lv_vsock *vsock, int fd,
			    enum lv_conn_state state, uint32_t guest_port,
			    uint32_t host_port)
{
	static const uint32_t most[] = {LV_VSOCK_CONNS, LV_VSOCK_KILLS};
	bool killed = fd < 0;
	struct lv_conn *conn = vsock->conn;

	if (vsock->count[killed] == most[killed]) {
		LV_COUNT(&vsock->device, dropped, 1);
		if (!killed)
			(void)close(fd);
		return NULL;
	}
	while (conn->state != LV_CONN_FREE)
		conn++;
	if (conn == vsock->conn + vsock->used)
		vsock->used++;
	vsock->count[killed]++;
	conn->vsock = vsock;
	conn->state = state;
	conn->fd = fd;
	conn->killed = killed;
	conn->pending = killed ? LV_OP_BIT(LV_OP_RST) : 0;
	conn->guest_port = guest_port;
	conn->host_port = host_port;
	conn->readable = true;
	if (killed || lv_epoll_add(vsock->device.poll_fd, fd, WATCHED,
				   (uint64_t)(conn - vsock->conn)) == 0)
		return conn;
	lv_conn_free(conn);
	return NULL;
}

void lv_conn_drop_buf(struct lv_conn *conn)
{
	if (conn->buf != NULL)
		(void)munmap(conn->buf, LV_VSOCK_BUF);
	conn->buf = NULL;
	conn->buf_len = 0;
}

static void close_host(struct lv_conn *conn)
{
	lv_vsock_flush_last(conn);
	if (conn->fd >= 0)
		(void)close(conn->fd);
	conn->fd = -1;
	lv_conn_drop_buf(conn);
}

void lv_conn_free(struct lv_conn *conn)
{
	struct lv_vsock *vsock = conn->vsock;

	close_host(conn);
	vsock->count[conn->killed]--;
	memset(conn, 0, sizeof(*conn));
	while (vsock->used > 0 &&
	       vsock->conn[vsock->used - 1].state == LV_CONN_FREE)
		vsock->used--;
}

struct lv_conn *lv_conn_find(struct lv_vsock *vsock, uint32_t guest_port,
			     uint32_t host_port)
{
	for (uint32_t i = 0; i < vsock->used; i++) {
		struct lv_conn *conn = &vsock->conn[i];

		if (conn->guest_port == guest_port &&
		    conn->host_port == host_port &&
		    conn->state >= LV_CONN_REQUESTED)
			return conn;
	}
	return NULL;
}

void lv_conn_abort(struct lv_conn *conn)
{
	if (conn->state < LV_CONN_REQUESTED) {
		lv_conn_free(conn);
		return;
	}
	close_host(conn);
	conn->state = LV_CONN_DEAD;
	conn->deadline_ns = 0;
	conn->pending = LV_OP_BIT(LV_OP_RST);
}

void lv_conn_deadline(struct lv_conn *conn)
{
	conn->deadline_ns = lv_now_ns() + TIMEOUT_NS;
	lv_device_wake(&conn->vsock->device, conn->deadline_ns);
}

void lv_conn_shut(struct lv_conn *conn, uint32_t flags)
{
	if (conn->state != LV_CONN_OPEN || (conn->shut & flags) == flags)
		return;
	conn->shut |= (uint8_t)flags;
	conn->pending |= LV_OP_BIT(LV_OP_SHUTDOWN);
	/* The guest answers a full shutdown with RST when it is done. */
	if (conn->shut == LV_SHUT_BOTH)
		lv_conn_deadline(conn);
}

void lv_conn_settle(struct lv_conn *conn)
{
	if (conn->buf_len > 0)
		return;
	if (conn->state == LV_CONN_LINGER)
		lv_conn_free(conn);
	if (conn->state != LV_CONN_OPEN ||
	    (conn->guest_shut & LV_SHUT_SEND) == 0)
		return;
	if (conn->guest_shut == LV_SHUT_BOTH) {
		lv_conn_abort(conn);
		return;
	}
	if (!conn->write_closed)
		(void)shutdown(conn->fd, SHUT_WR);
	conn->write_closed = true;
	/* Nothing can come from either side: the guest gets time to close. */
	if ((conn->shut & LV_SHUT_SEND) != 0 && conn->deadline_ns == 0)
		lv_conn_deadline(conn);
}

/* ---- from the guest ---- */

static void refuse(struct lv_vsock *vsock, const struct header *header)
{
	(void)lv_conn_new(vsock, -1, LV_CONN_DEAD, header->src_port,
			  header->dst_port);
}

static void open_from_guest(struct lv_vsock *vsock, const struct header *header)
{
	struct lv_conn *conn = NULL;
	int fd = -1;

	if (vsock->count[0] < LV_VSOCK_CONNS)
		fd = lv_vsock_dial(vsock, header->dst_port);
	if (fd >= 0)
		conn = lv_conn_new(vsock, fd, LV_CONN_OPEN, header->src_port,
				   header->dst_port);
	if (conn == NULL) {
		LV_COUNT(&vsock->device, errors, 1);
		refuse(vsock, header);
		return;
	}
	conn->peer_alloc = header->buf_alloc;
	conn->peer_fwd = header->fwd_cnt;
	conn->pending = LV_OP_BIT(LV_OP_RESPONSE);
}

static void take_rst(struct lv_conn *conn)
{
	if (conn->state != LV_CONN_OPEN || conn->buf_len == 0) {
		lv_conn_free(conn);
		return;
	}
	/* What the guest sent before still goes to the host. */
	conn->state = LV_CONN_LINGER;
	conn->pending = 0;
	conn->deadline_ns = 0;
}

/* False for a packet that the connection may not get. */
static bool take_op(struct lv_conn *conn, const struct header *header,
		    const struct lv_chain *chain)
{
	if (header->op == LV_OP_RST)
		take_rst(conn);
	if (conn->state < LV_CONN_REQUESTED || conn->state == LV_CONN_DEAD)
		return true; /* gone, or the guest did not see our RST yet */
	if (conn->state == LV_CONN_REQUESTED) {
		if (header->op == LV_OP_RESPONSE)
			lv_vsock_accepted(conn);
		return header->op == LV_OP_RESPONSE;
	}
	switch (header->op) {
	case LV_OP_RW:
		/* More than its credit, or after it said it was done. */
		if (header->len > LV_VSOCK_BUF - conn->buf_len ||
		    (conn->guest_shut & LV_SHUT_SEND) != 0)
			return false;
		lv_vsock_deliver(conn, chain, sizeof(*header), header->len);
		return true;
	case LV_OP_SHUTDOWN:
		conn->guest_shut |= (uint8_t)(header->flags & LV_SHUT_BOTH);
		if ((conn->guest_shut & LV_SHUT_RCV) != 0)
			(void)shutdown(conn->fd, SHUT_RD);
		lv_conn_settle(conn);
		return true;
	case LV_OP_CREDIT_REQUEST:
		conn->pending |= LV_OP_BIT(LV_OP_CREDIT_UPDATE);
		return true;
	default:
		return header->op == LV_OP_CREDIT_UPDATE;
	}
}

static int64_t take_packet(struct lv_device *device,
			   const struct lv_chain *chain)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;
	struct header header;
	struct lv_conn *conn;
	bool good = true;

	if (lv_chain_read(chain, 0, &header, sizeof(header)) !=
		sizeof(header) ||
	    header.len > PAYLOAD_MAX ||
	    header.len > chain->readable_bytes - sizeof(header) ||
	    /* 5.10.6.4.1: a spoofed source, or not for us */
	    header.src_cid != vsock->guest_cid || header.dst_cid != HOST_CID)
		return LV_MALFORMED;
	conn = lv_conn_find(vsock, header.src_port, header.dst_port);
	if (conn != NULL) {
		conn->peer_alloc = header.buf_alloc;
		conn->peer_fwd = header.fwd_cnt;
		good =
		    header.type == TYPE_STREAM && take_op(conn, &header, chain);
		if (!good)
			lv_conn_abort(conn);
	} else if (header.op == LV_OP_REQUEST && header.type == TYPE_STREAM) {
		open_from_guest(vsock, &header);
	} else if (header.op != LV_OP_RST) {
		good = header.type == TYPE_STREAM;
		refuse(vsock, &header);
	}
	LV_COUNT(device, malformed, good ? 0 : 1);
	return 0;
}

/* ---- to the guest ---- */

static uint32_t credit(const struct lv_conn *conn)
{
	/* Counters wrap (5.10.6.3). A guest that lies gets no credit. */
	uint32_t flight = conn->sent - conn->peer_fwd;

	return flight < conn->peer_alloc ? conn->peer_alloc - flight : 0;
}

static bool wants_data(const struct lv_conn *conn)
{
	return conn->state == LV_CONN_OPEN && conn->readable &&
	       (conn->shut & LV_SHUT_SEND) == 0 &&
	       (conn->guest_shut & LV_SHUT_RCV) == 0 &&
	       (credit(conn) > 0 || !conn->asked_credit);
}

/* The next in turn that has a packet for the guest, or NULL. */
static struct lv_conn *next_conn(struct lv_vsock *vsock)
{
	for (uint32_t i = 0; i < vsock->used; i++) {
		uint32_t slot = (vsock->turn + i) % vsock->used;
		struct lv_conn *conn = &vsock->conn[slot];

		if (conn->pending == 0 && !wants_data(conn))
			continue;
		vsock->turn = slot + 1;
		return conn;
	}
	return NULL;
}

/* Reads from the socket into the chain behind the header. Bytes, or 0. */
static uint32_t read_host(struct lv_conn *conn, const struct lv_chain *chain)
{
	struct iovec iov[LV_QUEUE_MAX];
	uint32_t count = lv_iov_slice(iov, chain->iov, chain->writable,
				      sizeof(struct header),
				      lv_min(credit(conn), PAYLOAD_MAX));
	ssize_t got;

	got = TEMP_FAILURE_RETRY(readv(conn->fd, iov, (int)count));
	if (got > 0) {
		conn->sent += (uint32_t)got;
		LV_COUNT(&conn->vsock->device, bytes_in, (uint64_t)got);
		return (uint32_t)got;
	}
	conn->readable = false;
	if (got == 0 || errno != EAGAIN) {
		/* What the guest sends may still be wanted. */
		lv_conn_shut(conn, conn->hup || got < 0 ? LV_SHUT_BOTH
							: LV_SHUT_SEND);
		lv_conn_settle(conn);
	}
	return 0;
}

/* Which packet a connection sends next; 0 = none after all. */
static uint16_t next_op(struct lv_conn *conn, const struct lv_chain *chain,
			uint32_t *len)
{
	static const uint16_t order[] = {LV_OP_RST,	 LV_OP_REQUEST,
					 LV_OP_RESPONSE, LV_OP_RW,
					 LV_OP_SHUTDOWN, LV_OP_CREDIT_UPDATE};

	for (size_t i = 0; i < LV_LENGTH(order); i++) {
		if (order[i] == LV_OP_RW && wants_data(conn)) {
			/* Asks once when there is none. */
			conn->asked_credit = credit(conn) == 0;
			if (conn->asked_credit)
				return LV_OP_CREDIT_REQUEST;
			*len = read_host(conn, chain);
			if (*len > 0)
				return LV_OP_RW;
		}
		if ((conn->pending & LV_OP_BIT(order[i])) != 0) {
			conn->pending &= ~LV_OP_BIT(order[i]);
			return order[i];
		}
	}
	return 0;
}

/* One packet of conn into the chain. Bytes, or 0 and the chain is unused. */
static uint32_t send_packet(struct lv_conn *conn, const struct lv_chain *chain)
{
	uint32_t len = 0;
	uint16_t op = next_op(conn, chain, &len);
	struct header header = {
	    .src_cid = HOST_CID,
	    .dst_cid = conn->vsock->guest_cid,
	    .src_port = conn->host_port,
	    .dst_port = conn->guest_port,
	    .len = len,
	    .type = TYPE_STREAM,
	    .op = op,
	    .flags = op == LV_OP_SHUTDOWN ? conn->shut : 0,
	    .buf_alloc = LV_VSOCK_BUF,
	    .fwd_cnt = conn->fwd,
	};

	if (op == 0)
		return 0;
	(void)lv_chain_write(chain, 0, &header, sizeof(header));
	/* Any packet carries the credit (5.10.6.3). */
	conn->fwd_told = conn->fwd;
	conn->pending &= ~LV_OP_BIT(LV_OP_CREDIT_UPDATE);
	if (op == LV_OP_RST)
		lv_conn_free(conn);
	return (uint32_t)sizeof(header) + len;
}

static int64_t give_packet(struct lv_device *device,
			   const struct lv_chain *chain)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;
	struct lv_conn *conn;
	uint32_t len = 0;

	/* 5.10.6.4: room for a header and something behind it. */
	if (chain->readable > 0 ||
	    chain->writable_bytes <= sizeof(struct header))
		return LV_MALFORMED;
	while (len == 0 && (conn = next_conn(vsock)) != NULL)
		len = send_packet(conn, chain);
	return len > 0 ? (int64_t)len : LV_LATER;
}

/* ---- the device ---- */

static void notify(struct lv_device *device, uint32_t queue)
{
	if (queue == TX)
		lv_device_drain(device, TX, take_packet);
	if (queue != EVENT)
		lv_device_drain(device, RX, give_packet);
}

static void poll_host(struct lv_device *device)
{
	lv_vsock_host_events((struct lv_vsock *)device);
	lv_device_drain(device, RX, give_packet);
}

static void tick(struct lv_device *device)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;

	/* Downwards, as freeing one may lower the end. */
	for (uint32_t i = vsock->used; i-- > 0;) {
		struct lv_conn *conn = &vsock->conn[i];

		if (conn->deadline_ns != 0 &&
		    device->now_ns >= conn->deadline_ns) {
			LV_COUNT(device, errors, 1);
			lv_conn_abort(conn);
		}
		if (conn->deadline_ns != 0)
			lv_device_wake(device, conn->deadline_ns);
	}
	lv_device_drain(device, RX, give_packet);
}

static void reset(struct lv_device *device)
{
	struct lv_vsock *vsock = (struct lv_vsock *)device;

	while (vsock->used > 0)
		lv_conn_free(&vsock->conn[vsock->used - 1]);
}

static void destroy(struct lv_device *device)
{
	reset(device);
	lv_vsock_unlisten((struct lv_vsock *)device);
	lv_device_free(device);
}

static int init(struct lv_device *device, const void *from)
{
	const struct lv_vsock_config *config = from;
	struct lv_vsock *vsock = (struct lv_vsock *)device;
	size_t len = strnlen(config->path, sizeof(config->path));

	vsock->listen_fd = -1;
	if (config->guest_cid <= HOST_CID || config->guest_cid > UINT32_MAX ||
	    len == 0 || len == sizeof(config->path))
		return -EINVAL;
	vsock->guest_cid = config->guest_cid;
	memcpy(vsock->path, config->path, len);
	memcpy(device->regs->config, &vsock->guest_cid,
	       sizeof(vsock->guest_cid));
	return lv_vsock_listen(vsock);
}

const struct lv_device_ops lv_vsock_ops = {
    .id = LV_DEVICE_VSOCK,
    .config_size = sizeof(struct lv_vsock_config),
    .bytes = sizeof(struct lv_vsock),
    .queues = QUEUES,
    .init = init,
    .notify = notify,
    .poll = poll_host,
    .tick = tick,
    .finish = reset,
    .reset = reset,
    .destroy = destroy,
};
