/*
 * vsock_host.c - the host's side of vsock: Firecracker's mapping to unix
 * sockets. A guest that connects to port P gets "<path>_P"; a host process
 * connects to <path>, writes "CONNECT <port>\n" and reads "OK <port>\n".
 *
 * Sockets are watched edge-triggered in an epoll instance of the device, which
 * itself sits in the I/O thread's: so events are fetched under the device's
 * lock and none outlives a reset. They are fetched one by one: handling one may
 * close a connection that another of the same batch would name.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "vsock.h"

#define LISTENER	UINT64_MAX
#define DIGITS_MAX	10u
#define LINE_MAX_BYTES	32u
#define EVENTS_AT_ONCE	64
#define BACKLOG		128
#define HOST_PORT_FIRST 0x40000000u /* and as many of them */

/* ---- the guest's bytes ---- */

/* The host took n of them, or nobody will. */
static void advance(struct lv_conn *conn, uint32_t n)
{
	conn->fwd += n;
	/* Before the guest runs dry, and not for every packet. */
	if (conn->state == LV_CONN_OPEN &&
	    conn->fwd - conn->fwd_told >= LV_VSOCK_BUF / 2)
		conn->pending |= LV_OP_BIT(LV_OP_CREDIT_UPDATE);
}

static void drop_bytes(struct lv_conn *conn, uint32_t n)
{
	LV_COUNT(&conn->vsock->device, dropped, n);
	advance(conn, n);
}

/* How many the socket took. When the host reads no more, what waits is dropped;
 * but what it wrote may still wait, so the other half goes on: the guest only
 * learns that sending is over. */
static uint32_t send_some(struct lv_conn *conn, struct iovec *iov,
			  uint32_t count)
{
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t done;

	done = TEMP_FAILURE_RETRY(
	    sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT));
	if (done >= 0) {
		LV_COUNT(&conn->vsock->device, bytes_out, (uint64_t)done);
		advance(conn, (uint32_t)done);
		return (uint32_t)done;
	}
	if (errno != EAGAIN) {
		drop_bytes(conn, conn->buf_len);
		conn->buf_len = 0;
		lv_conn_shut(conn, LV_SHUT_RCV);
	}
	return 0;
}

static void flush(struct lv_conn *conn)
{
	uint32_t done = 1;

	while (conn->buf_len > 0 && done > 0) {
		struct iovec iov = {conn->buf, conn->buf_len};

		done = send_some(conn, &iov, 1);
		conn->buf_len -= done; /* 0 when it is dropped */
		memmove(conn->buf, conn->buf + done, conn->buf_len);
	}
	if (conn->buf_len == 0)
		lv_conn_drop_buf(conn);
}

void lv_vsock_flush_last(struct lv_conn *conn)
{
	int most = INT_MAX; /* the kernel makes it twice the host's bound */

	if (conn->buf_len == 0)
		return;
	(void)setsockopt(conn->fd, SOL_SOCKET, SO_SNDBUF, &most, sizeof(most));
	flush(conn);
	LV_COUNT(&conn->vsock->device, dropped, conn->buf_len);
}

void lv_vsock_deliver(struct lv_conn *conn, const struct lv_chain *chain,
		      uint32_t offset, uint32_t len)
{
	struct iovec iov[LV_QUEUE_MAX];
	uint32_t done = 0;

	/* Behind what waits already; the socket says when it has room again. */
	if (conn->buf_len == 0 && len > 0 && (conn->shut & LV_SHUT_RCV) == 0)
		done = send_some(conn, iov,
				 lv_iov_slice(iov, chain->iov, chain->readable,
					      offset, len));
	if ((conn->shut & LV_SHUT_RCV) != 0) {
		drop_bytes(conn, len - done);
		return;
	}
	if (done == len)
		return;
	/* malloc may look at the host's processors, which this thread must not.
	 */
	if (conn->buf == NULL)
		conn->buf = mmap(NULL, LV_VSOCK_BUF, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (conn->buf == MAP_FAILED) {
		conn->buf = NULL;
		LV_COUNT(&conn->vsock->device, errors, 1);
		lv_conn_abort(conn);
		return;
	}
	conn->buf_len += (uint32_t)lv_chain_read(
	    chain, offset + done, conn->buf + conn->buf_len, len - done);
}

/* ---- unix sockets ---- */

int lv_vsock_listen(struct lv_vsock *vsock)
{
	struct stat info;

	vsock->device.poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (vsock->device.poll_fd < 0)
		return -errno;
	/* A socket left behind by a killed process; nothing else is removed. */
	if (lstat(vsock->path, &info) == 0 && S_ISSOCK(info.st_mode))
		(void)unlink(vsock->path);
	vsock->listen_fd = lv_unix_open(vsock->path, bind);
	if (vsock->listen_fd < 0)
		return vsock->listen_fd;
	if (chmod(vsock->path, 0600) < 0 ||
	    listen(vsock->listen_fd, BACKLOG) < 0)
		return -errno;
	return lv_epoll_add(vsock->device.poll_fd, vsock->listen_fd, EPOLLIN,
			    LISTENER);
}

void lv_vsock_unlisten(struct lv_vsock *vsock)
{
	if (vsock->listen_fd >= 0) {
		(void)close(vsock->listen_fd);
		(void)unlink(vsock->path);
	}
	(void)close(vsock->device.poll_fd);
}

int lv_vsock_dial(const struct lv_vsock *vsock, uint32_t port)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int len =
	    snprintf(path, sizeof(path), "%s_%" PRIu32, vsock->path, port);

	if (len < 0 || (size_t)len >= sizeof(path))
		return -ENAMETOOLONG;
	/* Never waits: a full backlog is EAGAIN, and the guest gets a RST. */
	return lv_unix_open(path, connect);
}

static void accept_all(struct lv_vsock *vsock)
{
	for (int i = 0; i < BACKLOG; i++) {
		struct lv_conn *conn;
		int fd = accept4(vsock->listen_fd, NULL, NULL,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) /* EAGAIN, or one that left again */
			return;
		conn = lv_conn_new(vsock, fd, LV_CONN_HANDSHAKE, 0, 0);
		/* Without a driver nobody can answer; the caller retries. */
		if (conn != NULL && !vsock->device.active)
			lv_conn_free(conn);
		else if (conn != NULL)
			lv_conn_deadline(conn);
	}
}

/* One that the guest's port has no connection with; there are more ports than
 * connections. */
static uint32_t pick_port(struct lv_vsock *vsock, uint32_t guest_port)
{
	uint32_t port;

	do
		port = HOST_PORT_FIRST + vsock->ports++ % HOST_PORT_FIRST;
	while (lv_conn_find(vsock, guest_port, port) != NULL);
	return port;
}

/* "CONNECT <decimal port>\n": how long that is, 0 for anything else. */
static size_t parse_line(const char *line, uint32_t *port)
{
	static const char verb[] = "CONNECT ";
	const char *number = line + sizeof(verb) - 1;
	size_t digits;
	uint64_t value;

	if (strncmp(line, verb, sizeof(verb) - 1) != 0)
		return 0;
	digits = strspn(number, "0123456789");
	value = strtoull(number, NULL, 10);
	*port = (uint32_t)value;
	if (digits == 0 || digits > DIGITS_MAX || number[digits] != '\n' ||
	    value > UINT32_MAX)
		return 0;
	return sizeof(verb) + digits;
}

static void handshake(struct lv_conn *conn)
{
	char line[LINE_MAX_BYTES + 1] = {0};
	/* Looks first, so that what follows the line stays in the socket. */
	ssize_t got = recv(conn->fd, line, LINE_MAX_BYTES, MSG_PEEK);
	size_t len;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* The rest is on its way, unless it is closed or too long. */
	if (got > 0 && got < (ssize_t)LINE_MAX_BYTES &&
	    memchr(line, '\n', (size_t)got) == NULL)
		return;
	len = parse_line(line, &conn->guest_port);
	if (len == 0 || recv(conn->fd, line, len, 0) != (ssize_t)len) {
		lv_conn_free(conn);
		return;
	}
	conn->host_port = pick_port(conn->vsock, conn->guest_port);
	conn->state = LV_CONN_REQUESTED;
	conn->pending = LV_OP_BIT(LV_OP_REQUEST);
	lv_conn_deadline(conn);
}

void lv_vsock_accepted(struct lv_conn *conn)
{
	char line[LINE_MAX_BYTES];
	int len =
	    snprintf(line, sizeof(line), "OK %" PRIu32 "\n", conn->host_port);

	conn->state = LV_CONN_OPEN;
	conn->deadline_ns = 0;
	/* The socket is fresh: it has room, or its reader is gone. */
	if (send(conn->fd, line, (size_t)len, MSG_NOSIGNAL) != len)
		lv_conn_abort(conn);
}

static void handle(struct lv_conn *conn, uint32_t events)
{
	bool hup = (events & (EPOLLHUP | EPOLLERR)) != 0;

	if (conn->state == LV_CONN_HANDSHAKE) {
		handshake(conn);
	} else if (conn->state == LV_CONN_REQUESTED && hup) {
		lv_conn_abort(conn);
	} else {
		conn->readable |= hup || (events & ~(uint32_t)EPOLLOUT) != 0;
		conn->hup |= hup;
		if (hup && (conn->shut & LV_SHUT_SEND) != 0)
			lv_conn_shut(conn, LV_SHUT_BOTH);
		flush(conn);
		lv_conn_settle(conn);
	}
}

void lv_vsock_host_events(struct lv_vsock *vsock)
{
	struct epoll_event event;

	for (int i = 0; i < EVENTS_AT_ONCE; i++) {
		if (epoll_wait(vsock->device.poll_fd, &event, 1, 0) != 1)
			return;
		if (event.data.u64 == LISTENER)
			accept_all(vsock);
		else
			handle(&vsock->conn[event.data.u64], event.events);
	}
}
