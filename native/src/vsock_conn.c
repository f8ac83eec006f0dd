/*
 * vsock_conn.c - the connections of a vsock device: table, lookup by ports, and
 * the list of those that have a packet for the guest, served in turn.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "vsock.h"

static uint32_t bucket(uint32_t guest_port, uint32_t host_port)
{
	/* Ports are often consecutive; Knuth's multiplier spreads them. */
	return ((guest_port * 2654435761u) ^ host_port) % LV_VSOCK_HASH;
}

struct lv_conn *lv_conn_new(struct lv_vsock *vsock, int fd,
			    enum lv_conn_state state)
{
	struct lv_conn *conn;
	uint32_t index = 0;

	if (vsock->conn_count == LV_VSOCK_CONNS)
		return NULL;
	while (vsock->conn[index] != NULL)
		index++;
	conn = calloc(1, sizeof(*conn));
	if (conn == NULL)
		return NULL;
	conn->state = state;
	conn->fd = fd;
	conn->index = index;
	/* Never all ones, so that no tag equals the listener's. */
	conn->generation = vsock->generation++ & 0x7fffffffu;
	conn->readable = true;
	conn->writable = true;
	if (lv_vsock_watch(vsock, conn) < 0) {
		free(conn);
		return NULL;
	}
	vsock->conn[index] = conn;
	vsock->conn_count++;
	return conn;
}

static void unlist(struct lv_vsock *vsock, struct lv_conn *conn)
{
	if (!conn->queued)
		return;
	if (conn->prev != NULL)
		conn->prev->next = conn->next;
	else
		vsock->head = conn->next;
	if (conn->next != NULL)
		conn->next->prev = conn->prev;
	else
		vsock->tail = conn->prev;
	conn->next = NULL;
	conn->prev = NULL;
	conn->queued = false;
}

void lv_conn_free(struct lv_vsock *vsock, struct lv_conn *conn)
{
	unlist(vsock, conn);
	lv_conn_unhash(vsock, conn);
	if (conn->fd >= 0)
		(void)close(conn->fd);
	vsock->conn[conn->index] = NULL;
	vsock->conn_count--;
	free(conn->buf);
	free(conn);
}

void lv_conn_free_all(struct lv_vsock *vsock)
{
	for (uint32_t i = 0; i < LV_VSOCK_CONNS; i++)
		if (vsock->conn[i] != NULL)
			lv_conn_free(vsock, vsock->conn[i]);
	vsock->kills = 0;
}

struct lv_conn *lv_conn_find(struct lv_vsock *vsock, uint32_t guest_port,
			     uint32_t host_port)
{
	struct lv_conn *conn = vsock->hash[bucket(guest_port, host_port)];

	while (conn != NULL &&
	       (conn->guest_port != guest_port || conn->host_port != host_port))
		conn = conn->next_hash;
	return conn;
}

void lv_conn_hash(struct lv_vsock *vsock, struct lv_conn *conn)
{
	uint32_t at = bucket(conn->guest_port, conn->host_port);

	conn->next_hash = vsock->hash[at];
	vsock->hash[at] = conn;
	conn->hashed = true;
}

void lv_conn_unhash(struct lv_vsock *vsock, struct lv_conn *conn)
{
	struct lv_conn **at =
	    &vsock->hash[bucket(conn->guest_port, conn->host_port)];

	if (!conn->hashed)
		return;
	while (*at != conn)
		at = &(*at)->next_hash;
	*at = conn->next_hash;
	conn->hashed = false;
}

uint32_t lv_conn_credit(const struct lv_conn *conn)
{
	/* Counters wrap (5.10.6.3). A guest that lies gets no credit. */
	uint32_t flight = conn->sent - conn->peer_fwd;

	return flight < conn->peer_alloc ? conn->peer_alloc - flight : 0;
}

static bool wants_data(const struct lv_conn *conn)
{
	return conn->state == LV_CONN_OPEN && conn->readable && !conn->eof &&
	       (conn->guest_shut & LV_SHUT_RCV) == 0;
}

void lv_conn_update(struct lv_vsock *vsock, struct lv_conn *conn)
{
	bool work = conn->pending != 0;

	if (wants_data(conn)) {
		if (lv_conn_credit(conn) > 0) {
			conn->asked_credit = false;
			work = true;
		} else if (!conn->asked_credit) {
			conn->asked_credit = true;
			conn->pending |= LV_PEND_ASK_CREDIT;
			work = true;
		}
	}
	if (!work) {
		unlist(vsock, conn);
	} else if (!conn->queued) {
		conn->prev = vsock->tail;
		if (vsock->tail != NULL)
			vsock->tail->next = conn;
		else
			vsock->head = conn;
		vsock->tail = conn;
		conn->queued = true;
	}
}

void lv_conn_rotate(struct lv_vsock *vsock, struct lv_conn *conn)
{
	unlist(vsock, conn);
	lv_conn_update(vsock, conn);
}

void lv_conn_pend(struct lv_vsock *vsock, struct lv_conn *conn, uint32_t what)
{
	conn->pending |= what;
	lv_conn_update(vsock, conn);
}

void lv_conn_deadline(struct lv_vsock *vsock, struct lv_conn *conn)
{
	conn->deadline_ns = lv_now_ns() + LV_VSOCK_TIMEOUT_NS;
	vsock->device.wants_tick = true;
}

void lv_conn_abort(struct lv_vsock *vsock, struct lv_conn *conn)
{
	if (!conn->hashed) {
		/* The guest does not know it, or not any more. */
		lv_conn_free(vsock, conn);
		return;
	}
	if (conn->fd >= 0)
		(void)close(conn->fd);
	conn->fd = -1;
	free(conn->buf);
	conn->buf = NULL;
	conn->buf_len = 0;
	conn->state = LV_CONN_DEAD;
	conn->deadline_ns = 0;
	conn->pending = LV_PEND_RST;
	lv_conn_update(vsock, conn);
}

void lv_conn_shut(struct lv_vsock *vsock, struct lv_conn *conn, uint8_t flags)
{
	if ((conn->shut & flags) == flags)
		return;
	conn->shut |= flags;
	/* The guest answers a full shutdown with RST when it is done. */
	if (conn->shut == LV_SHUT_BOTH)
		lv_conn_deadline(vsock, conn);
	lv_conn_pend(vsock, conn, LV_PEND_SHUTDOWN);
}
