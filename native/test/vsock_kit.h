/*
 * vsock_kit.h - a scripted guest driver and unix sockets around a socket
 * device. No thread: the test calls what the I/O thread would.
 */
#ifndef VSOCK_KIT_H
#define VSOCK_KIT_H

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "../src/vsock.h"
#include "lv_test.h"

#define RX	   0u
#define TX	   1u
#define CID	   7u
#define RX_BUFFERS 8u
#define RX_BYTES   4096u
#define RX_AT(i)   (DATA + 0x10000ull + (i)*0x2000ull)
#define TX_AT	   DATA
#define ALLOC	   262144u

enum {
	REQUEST = 1,
	RESPONSE,
	RST,
	SHUTDOWN,
	RW,
	CREDIT_UPDATE,
	CREDIT_REQUEST
};

struct packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

struct net {
	struct world w;
	char dir[32];
	char path[64];
	uint32_t alloc; /* what the guest says it has */
	uint32_t fwd;
	struct packet got;
	uint8_t data[RX_BYTES];
};

/* What the I/O thread does while the device has something to look at. */
static inline void pump(struct net *n)
{
	for (int i = 0; i < 100 && readable_now(n->w.device->poll_fd); i++)
		lv_device_poll(n->w.device);
}

static inline void give_buffer(struct net *n, uint32_t slot)
{
	put_desc(&n->w, RING(RX), slot, RX_AT(slot), RX_BYTES, WRITE, 0);
	offer(&n->w, RX, (uint16_t)slot);
}

static inline void ready(struct net *n)
{
	driver_ok(&n->w, 0);
	CHECK(get_status(&n->w) == 15);
	for (uint32_t i = 0; i < RX_BUFFERS; i++)
		give_buffer(n, i);
	lv_device_kick(n->w.device, RX);
	lv_device_kick(n->w.device, TX);
}

static inline void start(struct net *n)
{
	struct lv_vsock_config config = {.size = sizeof(config),
					 .guest_cid = CID};

	memset(n, 0, sizeof(*n));
	n->alloc = ALLOC;
	(void)strcpy(n->dir, "/tmp/lv-vsock-XXXXXX");
	CHECK(mkdtemp(n->dir) != NULL);
	(void)snprintf(n->path, sizeof(n->path), "%s/v.sock", n->dir);
	(void)strcpy(config.path, n->path);
	world_init(&n->w);
	CHECK(lv_vsock_new(&config, &n->w.mem, &n->w.events, &n->w.device) ==
	      0);
	ready(n);
}

static inline void stop(struct net *n)
{
	struct stat info;

	CHECK(get_status(&n->w) == 15);
	world_free(&n->w);
	CHECK(lstat(n->path, &info) < 0); /* the socket is gone */
	CHECK(rmdir(n->dir) == 0);
}

/* ---- the guest ---- */

static inline struct packet packet_of(const struct net *n, uint16_t op,
				      uint32_t guest, uint32_t host)
{
	return (struct packet){.src_cid = CID,
			       .dst_cid = 2,
			       .src_port = guest,
			       .dst_port = host,
			       .type = 1,
			       .op = op,
			       .buf_alloc = n->alloc,
			       .fwd_cnt = n->fwd};
}

/* Sends a packet; payload, when there is one, is in a descriptor of its own. */
static inline void send_raw(struct net *n, const struct packet *packet,
			    uint32_t header_bytes, uint32_t payload_bytes)
{
	struct part parts[2] = {{TX_AT, header_bytes, 0},
				{TX_AT + 64, payload_bytes, 0}};

	memcpy(at(&n->w, TX_AT), packet, sizeof(*packet));
	(void)add_chain(&n->w, TX, parts, payload_bytes > 0 ? 2 : 1);
	lv_device_kick(n->w.device, TX);
	CHECK(take_used(&n->w, TX, NULL) == 0);
}

static inline void guest_sends(struct net *n, uint16_t op, uint32_t guest,
			       uint32_t host, uint32_t flags)
{
	struct packet packet = packet_of(n, op, guest, host);

	packet.flags = flags;
	send_raw(n, &packet, sizeof(packet), 0);
}

static inline void guest_writes(struct net *n, uint32_t guest, uint32_t host,
				const void *data, uint32_t len)
{
	struct packet packet = packet_of(n, RW, guest, host);

	packet.len = len;
	memcpy(at(&n->w, TX_AT + 64), data, len);
	send_raw(n, &packet, sizeof(packet), len);
}

/* Takes the next packet for the guest, if any, and gives its buffer back. */
static inline bool guest_takes(struct net *n)
{
	uint32_t id, len;

	pump(n);
	if (used_index(&n->w, RX) == n->w.used[RX])
		return false;
	len = take_used(&n->w, RX, &id);
	CHECK(len >= sizeof(n->got));
	memcpy(&n->got, at(&n->w, RX_AT(id)), sizeof(n->got));
	CHECK(len == sizeof(n->got) + n->got.len);
	CHECK(n->got.src_cid == 2 && n->got.dst_cid == CID);
	CHECK(n->got.type == 1);
	memcpy(n->data, at(&n->w, RX_AT(id) + sizeof(n->got)), n->got.len);
	give_buffer(n, id);
	lv_device_kick(n->w.device, RX);
	return true;
}

static inline void expect(struct net *n, uint16_t op, uint32_t guest,
			  uint32_t host)
{
	CHECK(guest_takes(n));
	CHECK(n->got.op == op);
	CHECK(n->got.dst_port == guest && n->got.src_port == host);
}

static inline void expect_nothing(struct net *n)
{
	CHECK(!guest_takes(n));
}

/* ---- the host ---- */

static inline int listen_on(struct net *n, uint32_t port)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	CHECK(fd >= 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s_%u",
		       n->path, port);
	CHECK(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	CHECK(listen(fd, 2048) == 0);
	return fd;
}

static inline void unlisten(struct net *n, int fd, uint32_t port)
{
	char path[128];

	(void)close(fd);
	(void)snprintf(path, sizeof(path), "%s_%u", n->path, port);
	CHECK(unlink(path) == 0);
}

static inline int host_connects(struct net *n)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	CHECK(fd >= 0);
	(void)strcpy(address.sun_path, n->path);
	CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	return fd;
}

/* A guest connection from port 5000 to a listener at 1024, open. */
static inline int open_by_guest(struct net *n, int listener)
{
	int fd;

	guest_sends(n, REQUEST, 5000, 1024, 0);
	expect(n, RESPONSE, 5000, 1024);
	CHECK(n->got.buf_alloc == LV_VSOCK_BUF);
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	CHECK(fd >= 0);
	return fd;
}

static inline void check_closed(int fd)
{
	char byte;
	ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);

	CHECK(got == 0 || (got < 0 && errno == ECONNRESET));
	(void)close(fd);
}

static inline void check_reads(int fd, const char *text)
{
	char buf[64] = {0};

	CHECK(recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT) ==
	      (ssize_t)strlen(text));
	CHECK(strcmp(buf, text) == 0);
}

#endif
