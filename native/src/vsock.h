/*
 * vsock.h - between vsock.c (the device, packets from and to the guest) and
 * vsock_host.c (unix sockets). All of it runs under the device's lock.
 *
 *  host connects            guest connects
 *       |                        |
 *   HANDSHAKE --"CONNECT p"-> REQUESTED --RESPONSE--> OPEN <--connect()--'
 *                                                      |
 *     both halves closed, an error or a timeout -----> DEAD (RST waits for
 *     RST of the guest while its bytes wait ---------> LINGER    a buffer)
 *
 * A packet of the guest that belongs to nothing makes a connection that is DEAD
 * from the start. What a connection has to send follows from its fields, so
 * there is no list to keep: sending and searching look at every slot in use,
 * the lowest ones.
 *
 * Flow control, both ways by credit (virtio 1.2, 5.10.6.3): the guest may have
 * LV_VSOCK_BUF bytes here that the host's reader has not taken; we send no more
 * than the guest said it has room for. So a slow end stops the other one and
 * nothing is dropped. When the guest is gone, or has reset the device, what
 * still waits here goes into the sockets at once (lv_vsock_flush_last).
 */
#ifndef LV_VSOCK_H
#define LV_VSOCK_H

#include "lv.h"

#define LV_VSOCK_BUF   65536u
#define LV_VSOCK_CONNS 1023u
#define LV_VSOCK_KILLS 128u /* DEAD from the start */

enum lv_vsock_op {
	LV_OP_REQUEST = 1,
	LV_OP_RESPONSE = 2,
	LV_OP_RST = 3,
	LV_OP_SHUTDOWN = 4,
	LV_OP_RW = 5,
	LV_OP_CREDIT_UPDATE = 6,
	LV_OP_CREDIT_REQUEST = 7,
};
#define LV_OP_BIT(op) (1u << (op))

/* 5.10.6.5: SHUTDOWN flags, as the sender of the packet means them */
#define LV_SHUT_RCV  1u
#define LV_SHUT_SEND 2u
#define LV_SHUT_BOTH 3u

enum lv_conn_state {
	LV_CONN_FREE,
	LV_CONN_HANDSHAKE,
	LV_CONN_LINGER,
	LV_CONN_REQUESTED, /* from here on known to the guest */
	LV_CONN_OPEN,
	LV_CONN_DEAD,
};

struct lv_conn {
	struct lv_vsock *vsock;
	enum lv_conn_state state;
	int fd; /* -1 = none */
	uint32_t guest_port, host_port;
	uint32_t pending;     /* LV_OP_BITs of packets that wait for a buffer */
	uint64_t deadline_ns; /* 0 = none */
	bool killed;	      /* DEAD from the start */

	/* To the guest. */
	bool readable; /* the socket may hold bytes */
	bool hup;      /* the host closed both halves */
	bool asked_credit;
	uint8_t shut; /* LV_SHUT_* we tell the guest */
	uint32_t peer_alloc, peer_fwd, sent;

	/* From the guest. */
	uint8_t guest_shut; /* LV_SHUT_* the guest told us */
	bool write_closed;  /* shutdown(SHUT_WR) was done */
	uint32_t fwd;	    /* bytes handed to the host, wraps */
	uint32_t fwd_told;  /* what the guest knows of it */
	uint8_t *buf;	    /* LV_VSOCK_BUF for what the socket did not take */
	uint32_t buf_len;
};

struct lv_vsock {
	struct lv_device device;
	uint64_t guest_cid;
	int listen_fd;
	uint32_t ports;	   /* that hosts were given, wraps */
	uint32_t count[2]; /* of connections, of those DEAD from the start */
	uint32_t used;	   /* slots behind it are free */
	uint32_t turn;	   /* the slot that may send next */
	struct lv_conn conn[LV_VSOCK_CONNS + LV_VSOCK_KILLS];
	char path[sizeof(((struct lv_vsock_config *)0)->path)];
};

/* vsock.c. The lowest free slot. Takes fd over and watches it; with -1 it is
 * DEAD and an RST to send. NULL when there are too many; fd is closed then. */
struct lv_conn *lv_conn_new(struct lv_vsock *vsock, int fd,
			    enum lv_conn_state state, uint32_t guest_port,
			    uint32_t host_port);
void lv_conn_free(struct lv_conn *conn);
/* Of those that the guest knows. */
struct lv_conn *lv_conn_find(struct lv_vsock *vsock, uint32_t guest_port,
			     uint32_t host_port);
/* Closes the host's end at once; when the guest has room, it gets an RST and
 * the connection is freed. One that it does not know is freed now. */
void lv_conn_abort(struct lv_conn *conn);
/* What the socket did not take. */
void lv_conn_drop_buf(struct lv_conn *conn);
void lv_conn_deadline(struct lv_conn *conn);
/* Adds LV_SHUT_* to what the guest of an open one is told. */
void lv_conn_shut(struct lv_conn *conn, uint32_t flags);
/* Ends what can end once the guest's bytes are out. */
void lv_conn_settle(struct lv_conn *conn);

/* vsock_host.c */
int lv_vsock_listen(struct lv_vsock *vsock);
void lv_vsock_unlisten(struct lv_vsock *vsock);
/* A socket connected to <path>_<port>, or -errno. */
int lv_vsock_dial(const struct lv_vsock *vsock, uint32_t port);
/* Handles what the sockets reported. */
void lv_vsock_host_events(struct lv_vsock *vsock);
/* The guest accepted: tells the host. */
void lv_vsock_accepted(struct lv_conn *conn);
/* No more comes and the socket closes: it gets room for what waits, and the
 * reader finds that there, however late it comes. */
void lv_vsock_flush_last(struct lv_conn *conn);
/* Hands len bytes of the chain to the host or keeps them; there is room for
 * them. */
void lv_vsock_deliver(struct lv_conn *conn, const struct lv_chain *chain,
		      uint32_t offset, uint32_t len);

#endif
