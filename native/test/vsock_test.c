/* The socket device, virtio 1.2, 5.10, between a scripted guest driver and real
 * unix sockets. No thread: the test calls what the I/O thread would. */
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
static void pump(struct net *n)
{
	for (int i = 0; i < 100 && readable_now(n->w.device->poll_fd); i++)
		lv_device_poll(n->w.device);
}

static void give_buffer(struct net *n, uint32_t slot)
{
	put_desc(&n->w, RING(RX), slot, RX_AT(slot), RX_BYTES, WRITE, 0);
	offer(&n->w, RX, (uint16_t)slot);
}

static void ready(struct net *n)
{
	driver_ok(&n->w, 0);
	CHECK(get_status(&n->w) == 15);
	for (uint32_t i = 0; i < RX_BUFFERS; i++)
		give_buffer(n, i);
	lv_device_kick(n->w.device, RX);
	lv_device_kick(n->w.device, TX);
}

static void start(struct net *n)
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

static void stop(struct net *n)
{
	struct stat info;

	CHECK(get_status(&n->w) == 15);
	world_free(&n->w);
	CHECK(lstat(n->path, &info) < 0); /* the socket is gone */
	CHECK(rmdir(n->dir) == 0);
}

/* ---- the guest ---- */

static struct packet packet_of(const struct net *n, uint16_t op, uint32_t guest,
			       uint32_t host)
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
static void send_raw(struct net *n, const struct packet *packet,
		     uint32_t header_bytes, uint32_t payload_bytes)
{
	struct part parts[2] = {{TX_AT, header_bytes, 0},
				{TX_AT + 64, payload_bytes, 0}};

	memcpy(at(&n->w, TX_AT), packet, sizeof(*packet));
	(void)add_chain(&n->w, TX, parts, payload_bytes > 0 ? 2 : 1);
	lv_device_kick(n->w.device, TX);
	CHECK(take_used(&n->w, TX, NULL) == 0);
}

static void guest_sends(struct net *n, uint16_t op, uint32_t guest,
			uint32_t host, uint32_t flags)
{
	struct packet packet = packet_of(n, op, guest, host);

	packet.flags = flags;
	send_raw(n, &packet, sizeof(packet), 0);
}

static void guest_writes(struct net *n, uint32_t guest, uint32_t host,
			 const void *data, uint32_t len)
{
	struct packet packet = packet_of(n, RW, guest, host);

	packet.len = len;
	memcpy(at(&n->w, TX_AT + 64), data, len);
	send_raw(n, &packet, sizeof(packet), len);
}

/* Takes the next packet for the guest, if any, and gives its buffer back. */
static bool guest_takes(struct net *n)
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

static void expect(struct net *n, uint16_t op, uint32_t guest, uint32_t host)
{
	CHECK(guest_takes(n));
	CHECK(n->got.op == op);
	CHECK(n->got.dst_port == guest && n->got.src_port == host);
}

static void expect_nothing(struct net *n)
{
	CHECK(!guest_takes(n));
}

/* ---- the host ---- */

static int listen_on(struct net *n, uint32_t port)
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

static void unlisten(struct net *n, int fd, uint32_t port)
{
	char path[128];

	(void)close(fd);
	(void)snprintf(path, sizeof(path), "%s_%u", n->path, port);
	CHECK(unlink(path) == 0);
}

static int host_connects(struct net *n)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	CHECK(fd >= 0);
	(void)strcpy(address.sun_path, n->path);
	CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	return fd;
}

/* A guest connection from port 5000 to a listener at 1024, open. */
static int open_by_guest(struct net *n, int listener)
{
	int fd;

	guest_sends(n, REQUEST, 5000, 1024, 0);
	expect(n, RESPONSE, 5000, 1024);
	CHECK(n->got.buf_alloc == LV_VSOCK_BUF);
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	CHECK(fd >= 0);
	return fd;
}

static void check_closed(int fd)
{
	char byte;
	ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);

	CHECK(got == 0 || (got < 0 && errno == ECONNRESET));
	(void)close(fd);
}

static void check_reads(int fd, const char *text)
{
	char buf[64] = {0};

	CHECK(recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT) ==
	      (ssize_t)strlen(text));
	CHECK(strcmp(buf, text) == 0);
}

static void v5_10_6_guest_connects_and_both_speak(void)
{
	struct net n;
	int listener, fd;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	guest_writes(&n, 5000, 1024, "hello", 5);
	check_reads(fd, "hello");
	CHECK(write(fd, "world!", 6) == 6);
	expect(&n, RW, 5000, 1024);
	CHECK(n.got.len == 6 && memcmp(n.data, "world!", 6) == 0);
	CHECK(n.got.fwd_cnt == 5);
	expect_nothing(&n);
	(void)close(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void nobody_listens(void)
{
	struct net n;

	start(&n);
	guest_sends(&n, REQUEST, 5000, 1024, 0);
	expect(&n, RST, 5000, 1024);
	expect_nothing(&n);
	stop(&n);
}

static void host_connects_by_line(void)
{
	struct net n;
	char line[32] = {0};
	uint32_t port;
	int fd;

	start(&n);
	fd = host_connects(&n);
	/* In pieces, and payload right behind the line. */
	CHECK(write(fd, "CONN", 4) == 4);
	expect_nothing(&n);
	CHECK(write(fd, "ECT 52\nearly", 12) == 12);
	CHECK(guest_takes(&n));
	CHECK(n.got.op == REQUEST && n.got.dst_port == 52);
	port = n.got.src_port;
	CHECK(port >= 1u << 30 && port < 1u << 31);
	guest_sends(&n, RESPONSE, 52, port, 0);
	CHECK(recv(fd, line, sizeof(line) - 1, MSG_DONTWAIT) > 0);
	CHECK((uint32_t)strtoul(line + 3, NULL, 10) == port);
	expect(&n, RW, 52, port);
	CHECK(n.got.len == 5 && memcmp(n.data, "early", 5) == 0);
	guest_writes(&n, 52, port, "answer", 6);
	check_reads(fd, "answer");
	(void)close(fd);
	stop(&n);
}

static void bad_lines_are_hung_up_on(void)
{
	static const char *const lines[] = {
	    "CONNECT \n",
	    "CONNECT x\n",
	    "connect 52\n",
	    "CONNECT 4294967296\n",
	    "CONNECT 52 \n",
	    "CONNECT -1\n",
	    "\n",
	    "CONNECT 00000000052\n",
	    "CONNECT 5222222222222222222222222222222222222222"};
	struct net n;

	start(&n);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		int fd = host_connects(&n);

		CHECK(write(fd, lines[i], strlen(lines[i])) > 0);
		pump(&n);
		expect_nothing(&n);
		check_closed(fd);
	}
	stop(&n);
}

static void the_guest_refuses_a_host(void)
{
	struct net n;
	int fd;

	start(&n);
	fd = host_connects(&n);
	CHECK(write(fd, "CONNECT 52\n", 11) == 11);
	CHECK(guest_takes(&n));
	guest_sends(&n, RST, 52, n.got.src_port, 0);
	check_closed(fd);
	expect_nothing(&n);
	stop(&n);
}

static void silence_times_out(void)
{
	struct net n;
	uint64_t later = lv_now_ns() + 60 * 1000000000ull;
	int mute, unanswered;

	start(&n);
	mute = host_connects(&n);
	unanswered = host_connects(&n);
	CHECK(write(unanswered, "CONNECT 52\n", 11) == 11);
	pump(&n);
	CHECK(n.w.device->wants_tick);
	lv_device_tick(n.w.device, lv_now_ns());
	CHECK(guest_takes(&n) && n.got.op == REQUEST);
	lv_device_tick(n.w.device, later);
	check_closed(mute);
	check_closed(unanswered);
	expect(&n, RST, 52, n.got.src_port);
	lv_device_tick(n.w.device, later);
	CHECK(!n.w.device->wants_tick);
	stop(&n);
}

static void v5_10_6_3_a_slow_host_reader_stops_the_guest_and_loses_nothing(void)
{
	static uint8_t chunk[1024], back[4096];
	struct net n;
	int listener, fd;
	uint32_t sent = 0, read_bytes = 0, told = 0;
	int room = 4096;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)) == 0);
	/* As much as credit allows, with nobody reading. */
	for (;;) {
		while (guest_takes(&n))
			told = n.got.fwd_cnt;
		if (sent - told > LV_VSOCK_BUF - sizeof(chunk))
			break;
		for (uint32_t i = 0; i < sizeof(chunk); i++)
			chunk[i] = (uint8_t)((sent + i) * 31 >> 3);
		guest_writes(&n, 5000, 1024, chunk, sizeof(chunk));
		sent += (uint32_t)sizeof(chunk);
		CHECK(sent < 16u << 20);
	}
	CHECK(sent > LV_VSOCK_BUF);
	/* The reader wakes: everything arrives in order, and credit returns. */
	while (read_bytes < sent) {
		ssize_t got = recv(fd, back, sizeof(back), MSG_DONTWAIT);

		if (got < 0) {
			CHECK(errno == EAGAIN);
			pump(&n);
			continue;
		}
		for (ssize_t i = 0; i < got; i++, read_bytes++)
			CHECK(back[i] == (uint8_t)(read_bytes * 31 >> 3));
	}
	while (guest_takes(&n))
		told = n.got.fwd_cnt;
	CHECK(sent - told < LV_VSOCK_BUF / 2);
	CHECK(n.w.device->stats.dropped == 0);
	guest_writes(&n, 5000, 1024, "end", 3);
	check_reads(fd, "end");
	(void)close(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void v5_10_6_3_a_slow_guest_stops_the_host(void)
{
	static uint8_t big[65536];
	struct net n;
	int listener, fd;
	uint32_t got = 0;

	start(&n);
	n.alloc = 1000;
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	CHECK(write(fd, big, sizeof(big)) == sizeof(big));
	while (guest_takes(&n) && n.got.op == RW)
		got += n.got.len;
	CHECK(got == 1000);
	CHECK(n.got.op == CREDIT_REQUEST);
	expect_nothing(&n);
	/* It asks once; each update frees exactly that much. */
	n.fwd = 600;
	guest_sends(&n, CREDIT_UPDATE, 5000, 1024, 0);
	while (guest_takes(&n) && n.got.op == RW)
		got += n.got.len;
	CHECK(got == 1600);
	/* A lie about what was consumed gives nothing. */
	n.fwd = 5000;
	guest_sends(&n, CREDIT_UPDATE, 5000, 1024, 0);
	while (guest_takes(&n))
		CHECK(n.got.op != RW);
	(void)close(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void v5_10_6_3_overrunning_credit_is_reset(void)
{
	static uint8_t chunk[60000];
	struct net n;
	int listener, fd;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	for (int i = 0; i < 100 && n.w.device->stats.malformed == 0; i++)
		guest_writes(&n, 5000, 1024, chunk, sizeof(chunk));
	CHECK(n.w.device->stats.malformed == 1);
	while (guest_takes(&n) && n.got.op != RST)
		continue;
	CHECK(n.got.op == RST);
	(void)close(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void guest_half_close_leaves_the_other_half(void)
{
	struct net n;
	char byte;
	int listener, fd;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	guest_writes(&n, 5000, 1024, "last", 4);
	guest_sends(&n, SHUTDOWN, 5000, 1024, 2);
	check_reads(fd, "last");
	CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) == 0);
	CHECK(write(fd, "reply", 5) == 5);
	expect(&n, RW, 5000, 1024);
	CHECK(n.got.len == 5);
	(void)close(fd);
	expect(&n, SHUTDOWN, 5000, 1024);
	CHECK(n.got.flags == 3);
	guest_sends(&n, RST, 5000, 1024, 0);
	expect_nothing(&n);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void host_half_close_leaves_the_other_half(void)
{
	struct net n;
	int listener, fd;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	CHECK(write(fd, "last", 4) == 4);
	CHECK(shutdown(fd, SHUT_WR) == 0);
	expect(&n, RW, 5000, 1024);
	expect(&n, SHUTDOWN, 5000, 1024);
	CHECK(n.got.flags == 2);
	guest_writes(&n, 5000, 1024, "still", 5);
	check_reads(fd, "still");
	guest_sends(&n, SHUTDOWN, 5000, 1024, 3);
	expect(&n, RST, 5000, 1024);
	check_closed(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void what_the_host_wrote_before_it_closed_arrives(void)
{
	struct net n;
	int listener, fd;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	CHECK(write(fd, "bye", 3) == 3);
	(void)close(fd);
	/* Meanwhile the guest still talks to the closed end. */
	guest_writes(&n, 5000, 1024, "anyone?", 7);
	CHECK(guest_takes(&n) && n.got.op == SHUTDOWN && n.got.flags == 1);
	CHECK(guest_takes(&n) && n.got.op == RW);
	CHECK(n.got.len == 3 && memcmp(n.data, "bye", 3) == 0);
	CHECK(guest_takes(&n) && n.got.op == SHUTDOWN && n.got.flags == 3);
	guest_sends(&n, RST, 5000, 1024, 0);
	expect_nothing(&n);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void what_the_guest_sent_before_it_closed_arrives(uint16_t op)
{
	static uint8_t chunk[32768], back[65536];
	struct net n;
	uint32_t sent = 0, got_bytes = 0;
	int listener, fd;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	/* Until some of it waits in the device. */
	while (((struct lv_vsock *)n.w.device)->conn[0]->buf_len == 0) {
		guest_writes(&n, 5000, 1024, chunk, sizeof(chunk));
		sent += (uint32_t)sizeof(chunk);
	}
	guest_sends(&n, op, 5000, 1024, 3);
	for (;;) {
		ssize_t got = recv(fd, back, sizeof(back), MSG_DONTWAIT);

		if (got == 0)
			break;
		if (got > 0)
			got_bytes += (uint32_t)got;
		else
			CHECK(errno == EAGAIN);
		pump(&n);
	}
	CHECK(got_bytes == sent);
	CHECK(((struct lv_vsock *)n.w.device)->conn_count <= 1);
	(void)close(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void malformed_packets(void)
{
	struct net n;
	struct packet packet;
	struct part wrong = {TX_AT, 64, WRITE};
	int listener, fd;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	packet = packet_of(&n, RW, 5000, 1024);
	send_raw(&n, &packet, 43, 0); /* short header */
	packet.len = 11;	      /* longer than its buffer */
	send_raw(&n, &packet, sizeof(packet), 10);
	packet.len = UINT32_MAX;
	send_raw(&n, &packet, sizeof(packet), 10);
	packet.len = 65537;
	send_raw(&n, &packet, sizeof(packet), 65537);
	packet.len = 0;
	packet.src_cid = CID + 1; /* spoofed */
	send_raw(&n, &packet, sizeof(packet), 0);
	packet.src_cid = CID;
	packet.dst_cid = 3; /* not us */
	send_raw(&n, &packet, sizeof(packet), 0);
	(void)add_chain(&n.w, TX, &wrong, 1); /* writable */
	lv_device_kick(n.w.device, TX);
	CHECK(take_used(&n.w, TX, NULL) == 0);
	CHECK(n.w.device->stats.malformed == 7);
	expect_nothing(&n);
	/* The connection is none the worse. */
	guest_writes(&n, 5000, 1024, "ok", 2);
	check_reads(fd, "ok");
	packet.dst_cid = 2;
	packet.type = 2; /* seqpacket, not offered */
	send_raw(&n, &packet, sizeof(packet), 0);
	expect(&n, RST, 5000, 1024);
	(void)close(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void wrong_operations_reset_the_connection(void)
{
	static const uint16_t ops[] = {0, 8, 0xffff, REQUEST, RESPONSE};
	struct net n;
	int listener;

	start(&n);
	listener = listen_on(&n, 1024);
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		int fd = open_by_guest(&n, listener);

		guest_sends(&n, ops[i], 5000, 1024, 0);
		expect(&n, RST, 5000, 1024);
		expect_nothing(&n);
		check_closed(fd);
	}
	/* For a connection that does not exist. */
	guest_writes(&n, 6000, 1024, "x", 1);
	expect(&n, RST, 6000, 1024);
	guest_sends(&n, RST, 6000, 1024, 0);
	expect_nothing(&n);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void the_1024th_connection_is_refused(void)
{
	struct net n;
	int *fds = calloc(LV_VSOCK_CONNS, sizeof(int));
	int listener, extra;

	CHECK(fds != NULL);
	start(&n);
	listener = listen_on(&n, 1024);
	for (uint32_t i = 0; i < LV_VSOCK_CONNS; i++) {
		guest_sends(&n, REQUEST, 10000 + i, 1024, 0);
		expect(&n, RESPONSE, 10000 + i, 1024);
		fds[i] = accept(listener, NULL, NULL);
		CHECK(fds[i] >= 0);
	}
	guest_sends(&n, REQUEST, 9999, 1024, 0);
	expect(&n, RST, 9999, 1024);
	extra = host_connects(&n);
	pump(&n);
	check_closed(extra);
	/* One leaves, one may come. */
	guest_sends(&n, SHUTDOWN, 10000, 1024, 3);
	expect(&n, RST, 10000, 1024);
	guest_sends(&n, REQUEST, 9999, 1024, 0);
	expect(&n, RESPONSE, 9999, 1024);
	for (uint32_t i = 0; i < LV_VSOCK_CONNS; i++)
		(void)close(fds[i]);
	unlisten(&n, listener, 1024);
	stop(&n);
	free(fds);
}

static void a_storm_of_resets_is_bounded(void)
{
	struct net n;
	uint32_t resets = 0;

	start(&n);
	/* The guest takes nothing; buffers run out, then the kill list. */
	for (uint32_t i = 0; i < 1000; i++)
		guest_sends(&n, REQUEST, i, 4242, 0);
	CHECK(n.w.device->stats.dropped == 1000 - RX_BUFFERS - LV_VSOCK_KILLS);
	while (guest_takes(&n))
		resets++;
	CHECK(resets == RX_BUFFERS + LV_VSOCK_KILLS);
	stop(&n);
}

static void v5_10_6_4_useless_receive_buffers_are_given_back(void)
{
	struct net n;
	uint32_t id;

	start(&n);
	set_status(&n.w, 0);
	driver_ok(&n.w, 0);
	put_desc(&n.w, RING(RX), 0, RX_AT(0), 44, WRITE, 0); /* too short */
	put_desc(&n.w, RING(RX), 1, RX_AT(1), 4096, 0, 0);   /* readable */
	put_desc(&n.w, RING(RX), 2, RX_AT(2), 4096, WRITE, 0);
	for (uint16_t i = 0; i < 3; i++)
		offer(&n.w, RX, i);
	guest_sends(&n, REQUEST, 1, 2, 0);
	CHECK(take_used(&n.w, RX, &id) == 0 && id == 0);
	CHECK(take_used(&n.w, RX, &id) == 0 && id == 1);
	CHECK(take_used(&n.w, RX, &id) == 44 && id == 2);
	CHECK(n.w.device->stats.malformed == 2);
	stop(&n);
}

static void reset_hangs_up(void)
{
	struct net n;
	int listener, fd, mute;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	mute = host_connects(&n);
	pump(&n);
	set_status(&n.w, 0);
	check_closed(fd);
	check_closed(mute);
	/* Without a driver, callers are turned away at once. */
	mute = host_connects(&n);
	pump(&n);
	check_closed(mute);
	ready(&n);
	fd = open_by_guest(&n, listener);
	(void)close(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

static void bad_configurations(void)
{
	struct lv_vsock_config config = {
	    .size = sizeof(config), .guest_cid = 2, .path = "/tmp/x"};
	struct world w;

	world_init(&w);
	CHECK(lv_vsock_new(&config, &w.mem, &w.events, &w.device) == -EINVAL);
	config.guest_cid = 3;
	memset(config.path, 'a', sizeof(config.path));
	CHECK(lv_vsock_new(&config, &w.mem, &w.events, &w.device) == -EINVAL);
	(void)strcpy(config.path, "/nonexistent/x");
	CHECK(lv_vsock_new(&config, &w.mem, &w.events, &w.device) == -ENOENT);
	/* Never removes what is not a socket. */
	(void)strcpy(config.path, "/tmp");
	CHECK(lv_vsock_new(&config, &w.mem, &w.events, &w.device) ==
	      -EADDRINUSE);
	world_free(&w);
}

int main(void)
{
	v5_10_6_guest_connects_and_both_speak();
	nobody_listens();
	host_connects_by_line();
	bad_lines_are_hung_up_on();
	the_guest_refuses_a_host();
	silence_times_out();
	v5_10_6_3_a_slow_host_reader_stops_the_guest_and_loses_nothing();
	v5_10_6_3_a_slow_guest_stops_the_host();
	v5_10_6_3_overrunning_credit_is_reset();
	guest_half_close_leaves_the_other_half();
	host_half_close_leaves_the_other_half();
	what_the_host_wrote_before_it_closed_arrives();
	what_the_guest_sent_before_it_closed_arrives(SHUTDOWN);
	what_the_guest_sent_before_it_closed_arrives(RST);
	malformed_packets();
	wrong_operations_reset_the_connection();
	the_1024th_connection_is_refused();
	a_storm_of_resets_is_bounded();
	v5_10_6_4_useless_receive_buffers_are_given_back();
	reset_hangs_up();
	bad_configurations();
	return 0;
}
