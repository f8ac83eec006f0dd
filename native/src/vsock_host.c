/*
 * vsock_host.c - the host's side of vsock: Firecracker's mapping to unix
 * sockets. A guest that connects to port P gets "<path>_P"; a host process
 * connects to <path>, writes "CONNECT <port>\n" and reads "OK <port>\n".
 *
 * Sockets are watched edge-triggered in an epoll instance of the device, which
 * itself sits in the I/O thread's: so events are fetched under the device's
 * lock and none outlives a reset. The tag holds a generation, because one batch
 * may close a connection that a later event of it names.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vsock.h"

#define LINE_MAX_BYTES	32u
#define BATCH		64
#define BACKLOG		128
#define LISTENER_TAG	UINT64_MAX
#define HOST_PORT_FIRST 0x40000000u
#define HOST_PORT_END	0x80000000u

static int unix_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

int lv_vsock_listen(struct lv_vsock *vsock)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct epoll_event event = {.events = EPOLLIN,
				    .data.u64 = LISTENER_TAG};
	struct stat info;
	int error;
	int fd = unix_socket();

	if (fd < 0)
		return fd;
	memcpy(address.sun_path, vsock->path, strlen(vsock->path) + 1);
	/* A socket left behind by a killed process; nothing else is removed. */
	if (lstat(vsock->path, &info) == 0 && S_ISSOCK(info.st_mode))
		(void)unlink(vsock->path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		error = -errno;
		(void)close(fd);
		return error;
	}
	vsock->listen_fd = fd;
	if (chmod(vsock->path, 0600) < 0 || listen(fd, BACKLOG) < 0 ||
	    epoll_ctl(vsock->device.poll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		error = -errno;
		lv_vsock_unlisten(vsock);
		return error;
	}
	return 0;
}

void lv_vsock_unlisten(struct lv_vsock *vsock)
{
	if (vsock->listen_fd < 0)
		return;
	(void)close(vsock->listen_fd);
	(void)unlink(vsock->path);
	vsock->listen_fd = -1;
}

int lv_vsock_dial(const struct lv_vsock *vsock, uint32_t port)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int error;
	int fd;
	int len = snprintf(address.sun_path, sizeof(address.sun_path),
			   "%s_%" PRIu32, vsock->path, port);

	if (len < 0 || (size_t)len >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	fd = unix_socket();
	if (fd < 0)
		return fd;
	/* Never waits: a full backlog is EAGAIN, and the guest gets a RST. */
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		error = -errno;
		(void)close(fd);
		return error;
	}
	return fd;
}

int lv_vsock_watch(struct lv_vsock *vsock, struct lv_conn *conn)
{
	struct epoll_event event = {
	    .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
	    .data.u64 = (uint64_t)conn->generation << 32 | conn->index,
	};

	return epoll_ctl(vsock->device.poll_fd, EPOLL_CTL_ADD, conn->fd,
			 &event) < 0
		   ? -errno
		   : 0;
}

static void accept_all(struct lv_vsock *vsock)
{
	for (int i = 0; i < BACKLOG; i++) {
		struct lv_conn *conn;
		int fd = accept4(vsock->listen_fd, NULL, NULL,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) /* EAGAIN, or one that left again */
			return;
		/* Without a driver nobody can answer; the caller retries. */
		conn = vsock->device.active
			   ? lv_conn_new(vsock, fd, LV_CONN_HANDSHAKE)
			   : NULL;
		if (conn == NULL) {
			LV_COUNT(&vsock->device, dropped, 1);
			(void)close(fd);
		} else {
			lv_conn_deadline(vsock, conn);
		}
	}
}

/* "CONNECT <decimal port>\n" of len bytes. */
static bool parse_line(const char *line, size_t len, uint32_t *port)
{
	static const char verb[] = "CONNECT ";
	size_t at = sizeof(verb) - 1;
	uint64_t value = 0;

	if (len < sizeof(verb) + 1 || len > at + 11 ||
	    memcmp(line, verb, at) != 0)
		return false;
	for (; at < len - 1; at++) {
		if (line[at] < '0' || line[at] > '9')
			return false;
		value = value * 10 + (uint64_t)(line[at] - '0');
	}
	*port = (uint32_t)value;
	return value <= UINT32_MAX;
}

static bool pick_port(struct lv_vsock *vsock, struct lv_conn *conn)
{
	for (uint32_t i = 0; i <= LV_VSOCK_CONNS; i++) {
		uint32_t port = vsock->next_port++;

		if (vsock->next_port == HOST_PORT_END)
			vsock->next_port = HOST_PORT_FIRST;
		if (lv_conn_find(vsock, conn->guest_port, port) == NULL) {
			conn->host_port = port;
			return true;
		}
	}
	return false;
}

static void read_line(struct lv_vsock *vsock, struct lv_conn *conn)
{
	char line[LINE_MAX_BYTES];
	/* Looks first, so that what follows the line stays in the socket. */
	ssize_t got = recv(conn->fd, line, sizeof(line), MSG_PEEK);
	const char *end;
	size_t len;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	end = got > 0 ? memchr(line, '\n', (size_t)got) : NULL;
	if (end == NULL) {
		/* A closed or overlong one; else the rest is on its way. */
		if (got <= 0 || (size_t)got == sizeof(line))
			lv_conn_free(vsock, conn);
		return;
	}
	len = (size_t)(end - line) + 1;
	if (!parse_line(line, len, &conn->guest_port) ||
	    recv(conn->fd, line, len, 0) != (ssize_t)len ||
	    !pick_port(vsock, conn)) {
		lv_conn_free(vsock, conn);
		return;
	}
	conn->state = LV_CONN_REQUESTED;
	lv_conn_hash(vsock, conn);
	lv_conn_deadline(vsock, conn);
	lv_conn_pend(vsock, conn, LV_PEND_REQUEST);
}

bool lv_vsock_accepted(struct lv_vsock *vsock, struct lv_conn *conn)
{
	char line[LINE_MAX_BYTES];
	int len =
	    snprintf(line, sizeof(line), "OK %" PRIu32 "\n", conn->host_port);

	/* The socket is fresh: it has room, or its reader is gone. */
	if (send(conn->fd, line, (size_t)len, MSG_NOSIGNAL) != len) {
		lv_conn_abort(vsock, conn);
		return false;
	}
	return true;
}

/* The host took n bytes of the guest. */
static void advance(struct lv_vsock *vsock, struct lv_conn *conn, uint32_t n)
{
	conn->fwd += n;
	/* Before the guest runs dry, and not for every packet. */
	if (conn->state == LV_CONN_OPEN &&
	    conn->fwd - conn->fwd_told >= LV_VSOCK_BUF / 2)
		lv_conn_pend(vsock, conn, LV_PEND_CREDIT);
}

/* The host reads no more. What it wrote may still wait, so the other half goes
 * on: the guest only learns that sending is over. */
static void stop_writing(struct lv_vsock *vsock, struct lv_conn *conn)
{
	uint32_t lost = conn->buf_len;

	LV_COUNT(&vsock->device, dropped, lost);
	conn->write_dead = true;
	free(conn->buf);
	conn->buf = NULL;
	conn->buf_len = 0;
	if (conn->state == LV_CONN_OPEN)
		lv_conn_shut(vsock, conn, LV_SHUT_RCV);
	advance(vsock, conn, lost);
}

/* Bytes sent, 0 when the socket is full or its reader gone. */
static uint32_t send_some(struct lv_vsock *vsock, struct lv_conn *conn,
			  struct iovec *iov, uint32_t count)
{
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t done;

	do
		done = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (done < 0 && errno == EINTR);
	if (done >= 0) {
		LV_COUNT(&vsock->device, bytes_out, (uint64_t)done);
		return (uint32_t)done;
	}
	conn->writable = false;
	if (errno != EAGAIN)
		stop_writing(vsock, conn);
	return 0;
}

static void flush(struct lv_vsock *vsock, struct lv_conn *conn)
{
	while (conn->buf_len > 0 && conn->writable) {
		uint32_t part = LV_VSOCK_BUF - conn->buf_first;
		struct iovec iov;
		uint32_t done;

		if (part > conn->buf_len)
			part = conn->buf_len;
		iov.iov_base = conn->buf + conn->buf_first;
		iov.iov_len = part;
		done = send_some(vsock, conn, &iov, 1);
		if (done == 0)
			return;
		conn->buf_first = (conn->buf_first + done) % LV_VSOCK_BUF;
		conn->buf_len -= done;
		advance(vsock, conn, done);
	}
	if (conn->buf_len == 0) {
		free(conn->buf);
		conn->buf = NULL;
		conn->buf_first = 0;
	}
}

void lv_vsock_deliver(struct lv_vsock *vsock, struct lv_conn *conn,
		      const struct iovec *iov, uint32_t count)
{
	struct iovec direct[LV_QUEUE_MAX];
	uint32_t len = 0;
	uint32_t done = 0;

	for (uint32_t i = 0; i < count; i++)
		len += (uint32_t)iov[i].iov_len;
	if (conn->buf_len == 0 && conn->writable && !conn->write_dead &&
	    len > 0) {
		memcpy(direct, iov, count * sizeof(*iov));
		done = send_some(vsock, conn, direct, count);
	}
	if (conn->write_dead) {
		LV_COUNT(&vsock->device, dropped, len);
		advance(vsock, conn, len);
		return;
	}
	advance(vsock, conn, done);
	if (done == len)
		return;
	if (conn->buf == NULL)
		conn->buf = malloc(LV_VSOCK_BUF);
	if (conn->buf == NULL) {
		LV_COUNT(&vsock->device, errors, 1);
		lv_conn_abort(vsock, conn);
		return;
	}
	while (done < len) {
		uint32_t at = (conn->buf_first + conn->buf_len) % LV_VSOCK_BUF;
		uint32_t part = LV_VSOCK_BUF - at;

		if (part > len - done)
			part = len - done;
		(void)lv_iov_read(iov, count, done, conn->buf + at, part);
		conn->buf_len += part;
		done += part;
	}
}

void lv_vsock_settle(struct lv_vsock *vsock, struct lv_conn *conn)
{
	if (conn->buf_len > 0)
		return;
	if (conn->state == LV_CONN_LINGER) {
		lv_conn_free(vsock, conn);
		return;
	}
	if (conn->state != LV_CONN_OPEN)
		return;
	if (conn->guest_shut == LV_SHUT_BOTH) {
		lv_conn_abort(vsock, conn);
		return;
	}
	if ((conn->guest_shut & LV_SHUT_SEND) != 0 && !conn->write_closed) {
		conn->write_closed = true;
		(void)shutdown(conn->fd, SHUT_WR);
	}
	/* Nothing can come from either side: the guest gets time to close. */
	if (conn->eof && (conn->guest_shut & LV_SHUT_SEND) != 0 &&
	    conn->deadline_ns == 0)
		lv_conn_deadline(vsock, conn);
}

static void handle_event(struct lv_vsock *vsock, struct lv_conn *conn,
			 uint32_t events)
{
	if (conn->state == LV_CONN_HANDSHAKE) {
		read_line(vsock, conn);
		return;
	}
	if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
		conn->hup = true;
		if (conn->state == LV_CONN_REQUESTED) {
			/* Gone before the guest answered. */
			lv_conn_abort(vsock, conn);
			return;
		}
		if (conn->eof && conn->state == LV_CONN_OPEN)
			lv_conn_shut(vsock, conn, LV_SHUT_BOTH);
	}
	if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
		conn->readable = true;
	if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
		conn->writable = true;
		flush(vsock, conn);
	}
	lv_conn_update(vsock, conn);
	lv_vsock_settle(vsock, conn);
}

void lv_vsock_host_events(struct lv_vsock *vsock)
{
	struct epoll_event ready[BATCH];
	int count = epoll_wait(vsock->device.poll_fd, ready, BATCH, 0);

	for (int i = 0; i < count; i++) {
		uint64_t tag = ready[i].data.u64;
		uint32_t index = (uint32_t)tag;
		struct lv_conn *conn;

		if (tag == LISTENER_TAG) {
			accept_all(vsock);
			continue;
		}
		conn = vsock->conn[index];
		if (conn != NULL && conn->generation == tag >> 32)
			handle_event(vsock, conn, ready[i].events);
	}
}
