/*
 * vsock.h - between vsock.c (the device, packets of the guest), vsock_rx.c
 * (packets for it), vsock_conn.c (the table) and vsock_host.c (unix sockets).
 * All of it runs under the device's lock.
 *
 *  host connects            guest connects
 *       |                        |
 *   HANDSHAKE --"CONNECT p"-> REQUESTED --RESPONSE--> OPEN <--connect()--'
 *                                                      |
 *     both halves closed, an error or a timeout -----> DEAD (RST waits for
 *     RST of the guest while its bytes wait ---------> LINGER    a buffer)
 *
 * Flow control, both ways by credit (virtio 1.2, 5.10.6.3): the guest may have
 * LV_VSOCK_BUF bytes here that the host's reader has not taken; we send no more
 * than the guest said it has room for. So a slow end stops the other one and
 * nothing is dropped.
 */
#ifndef LV_VSOCK_H
#define LV_VSOCK_H

#include "lv.h"

#define LV_VSOCK_BUF	     65536u
#define LV_VSOCK_CONNS	     1023u
#define LV_VSOCK_HASH	     256u
#define LV_VSOCK_KILLS	     128u
#define LV_VSOCK_TIMEOUT_NS  5000000000ull

#define LV_VSOCK_HOST_CID    2u
#define LV_VSOCK_TYPE_STREAM 1u
#define LV_VSOCK_PAYLOAD_MAX 65536u

enum {
	LV_OP_REQUEST = 1,
	LV_OP_RESPONSE = 2,
	LV_OP_RST = 3,
	LV_OP_SHUTDOWN = 4,
	LV_OP_RW = 5,
	LV_OP_CREDIT_UPDATE = 6,
	LV_OP_CREDIT_REQUEST = 7,
};

/* 5.10.6 */
struct lv_vsock_header {
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
_Static_assert(sizeof(struct lv_vsock_header) == 44, "5.10.6");

enum { LV_VQ_RX = 0, LV_VQ_TX = 1, LV_VQ_EVENT = 2 };

/* 5.10.6.5: SHUTDOWN flags */
#define LV_SHUT_RCV  1u
#define LV_SHUT_SEND 2u
#define LV_SHUT_BOTH 3u

enum lv_conn_state {
	LV_CONN_HANDSHAKE,
	LV_CONN_REQUESTED,
	LV_CONN_OPEN,
	LV_CONN_LINGER,
	LV_CONN_DEAD,
};

/* Packets that wait for a receive buffer of the guest. */
#define LV_PEND_RST	   1u
#define LV_PEND_REQUEST	   2u
#define LV_PEND_RESPONSE   4u
#define LV_PEND_SHUTDOWN   8u
#define LV_PEND_CREDIT	   16u
#define LV_PEND_ASK_CREDIT 32u

struct lv_conn {
	enum lv_conn_state state;
	int fd;
	uint32_t index;
	uint32_t generation;
	uint32_t guest_port;
	uint32_t host_port;

	uint32_t pending;
	bool queued;
	bool hashed;
	struct lv_conn *next, *prev; /* list of those with something to send */
	struct lv_conn *next_hash;

	/* To the guest. */
	uint32_t peer_alloc;
	uint32_t peer_fwd;
	uint32_t sent;
	bool asked_credit;
	bool readable; /* the socket may hold bytes */
	bool eof;      /* no more will come from the host */
	bool hup;      /* the host closed both halves */
	uint8_t shut;  /* LV_SHUT_* we tell the guest */

	/* From the guest. */
	uint32_t fwd;	    /* bytes handed to the host, wraps */
	uint32_t fwd_told;  /* what the guest knows of it */
	bool writable;	    /* the socket may have room */
	bool write_dead;    /* the host reads no more */
	bool write_closed;  /* shutdown(SHUT_WR) was done */
	uint8_t guest_shut; /* LV_SHUT_* the guest told us */
	uint8_t *buf;	    /* ring of LV_VSOCK_BUF, NULL while empty */
	uint32_t buf_first;
	uint32_t buf_len;

	uint64_t deadline_ns; /* 0 = none */
};

struct lv_vsock {
	struct lv_device device;
	uint64_t guest_cid;
	int listen_fd;
	uint32_t next_port;
	uint32_t generation;
	uint32_t conn_count;
	struct lv_conn *conn[LV_VSOCK_CONNS];
	struct lv_conn *hash[LV_VSOCK_HASH];
	struct lv_conn *head, *tail;
	/* RSTs for packets that belong to no connection. */
	uint32_t kills;
	struct {
		uint32_t guest_port, host_port;
	} kill[LV_VSOCK_KILLS];
	char path[sizeof(((struct lv_vsock_config *)0)->path)];
};

/* vsock_conn.c: the table and the sending list */
struct lv_conn *lv_conn_new(struct lv_vsock *vsock, int fd,
			    enum lv_conn_state state);
void lv_conn_free(struct lv_vsock *vsock, struct lv_conn *conn);
void lv_conn_free_all(struct lv_vsock *vsock);
struct lv_conn *lv_conn_find(struct lv_vsock *vsock, uint32_t guest_port,
			     uint32_t host_port);
void lv_conn_hash(struct lv_vsock *vsock, struct lv_conn *conn);
void lv_conn_unhash(struct lv_vsock *vsock, struct lv_conn *conn);
uint32_t lv_conn_credit(const struct lv_conn *conn);
/* Whether it has a packet for the guest; keeps it in the list while so. */
void lv_conn_update(struct lv_vsock *vsock, struct lv_conn *conn);
/* The same, and sends it to the end of the line. */
void lv_conn_rotate(struct lv_vsock *vsock, struct lv_conn *conn);
void lv_conn_pend(struct lv_vsock *vsock, struct lv_conn *conn, uint32_t what);
void lv_conn_deadline(struct lv_vsock *vsock, struct lv_conn *conn);
/* Closes the host's end at once and sends RST when the guest has room. */
void lv_conn_abort(struct lv_vsock *vsock, struct lv_conn *conn);
/* Adds LV_SHUT_* to what the guest is told. */
void lv_conn_shut(struct lv_vsock *vsock, struct lv_conn *conn, uint8_t flags);

/* vsock_rx.c: fills the guest's buffers while there is something to send */
void lv_vsock_serve_guest(struct lv_vsock *vsock);

/* vsock_host.c: unix sockets */
int lv_vsock_listen(struct lv_vsock *vsock);
void lv_vsock_unlisten(struct lv_vsock *vsock);
/* A socket connected to <path>_<port>, or -errno. */
int lv_vsock_dial(const struct lv_vsock *vsock, uint32_t port);
int lv_vsock_watch(struct lv_vsock *vsock, struct lv_conn *conn);
/* Handles what the sockets reported. */
void lv_vsock_host_events(struct lv_vsock *vsock);
/* The guest accepted: tells the host. False = aborted. */
bool lv_vsock_accepted(struct lv_vsock *vsock, struct lv_conn *conn);
/* Hands `len` bytes of the iovecs to the host or keeps them; the caller has
 * checked that there is room. May abort the connection. */
void lv_vsock_deliver(struct lv_vsock *vsock, struct lv_conn *conn,
		      const struct iovec *iov, uint32_t count);
/* Ends what can end once the guest's bytes are out. May free or abort. */
void lv_vsock_settle(struct lv_vsock *vsock, struct lv_conn *conn);

#endif
