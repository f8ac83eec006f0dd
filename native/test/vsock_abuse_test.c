/* The socket device, virtio 1.2, 5.10: flow control, limits and guests that do
 * not keep to the rules. */
#include "vsock_kit.h"

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

#define WORKERS 60u
#define ROUNDS	60000u

struct worker {
	int fd;
	/* Bytes of each direction: sent, received; and the credit returned. */
	uint32_t up, up_got, up_told, down, down_got;
};

/* What byte number `at` of a direction of a worker is. */
static uint8_t byte_of(uint32_t worker, uint32_t at)
{
	return (uint8_t)((at * 2654435761u >> 13) + worker * 7);
}

static void guest_takes_for(struct net *n, struct worker *workers)
{
	uint32_t i = n->got.dst_port - 7000;
	struct worker *worker = &workers[i];

	CHECK(i < WORKERS && n->got.src_port == 1024);
	CHECK(n->got.op == RW || n->got.op == CREDIT_UPDATE ||
	      n->got.op == CREDIT_REQUEST);
	worker->up_told = n->got.fwd_cnt;
	for (uint32_t at = 0; at < n->got.len; at++)
		CHECK(n->data[at] == byte_of(i, worker->down_got + at));
	worker->down_got += n->got.len;
}

/* Sends one, or says what the guest has taken, under the worker's credit. */
static void guest_works(struct net *n, struct worker *worker, uint32_t i,
			uint32_t len)
{
	static uint8_t chunk[65536];

	n->fwd = worker->down_got;
	if (worker->up - worker->up_told + len > LV_VSOCK_BUF) {
		guest_sends(n, CREDIT_REQUEST, 7000 + i, 1024, 0);
		return;
	}
	for (uint32_t at = 0; at < len; at++)
		chunk[at] = byte_of(i + WORKERS, worker->up + at);
	guest_writes(n, 7000 + i, 1024, chunk, len);
	worker->up += len;
}

static void host_reads(struct worker *worker, uint32_t i, uint32_t len)
{
	static uint8_t chunk[65536];
	ssize_t got = recv(worker->fd, chunk, len, MSG_DONTWAIT);

	CHECK(got > 0 || (got < 0 && errno == EAGAIN));
	for (ssize_t at = 0; at < got; at++, worker->up_got++)
		CHECK(chunk[at] == byte_of(i + WORKERS, worker->up_got));
}

static void host_writes(struct worker *worker, uint32_t i, uint32_t len)
{
	static uint8_t chunk[65536];
	ssize_t got;

	for (uint32_t at = 0; at < len; at++)
		chunk[at] = byte_of(i, worker->down + at);
	got = send(worker->fd, chunk, len, MSG_DONTWAIT);
	CHECK(got > 0 || (got < 0 && errno == EAGAIN));
	worker->down += got > 0 ? (uint32_t)got : 0;
}

/* In no order, in pieces of every size, and every byte arrives in its place. */
static void many_workers_both_ways(void)
{
	struct worker workers[WORKERS] = {0};
	uint32_t seed = 1;
	struct net n;
	int listener;

	start(&n);
	listener = listen_on(&n, 1024);
	for (uint32_t i = 0; i < WORKERS; i++) {
		guest_sends(&n, REQUEST, 7000 + i, 1024, 0);
		expect(&n, RESPONSE, 7000 + i, 1024);
		workers[i].fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
		CHECK(workers[i].fd >= 0);
	}
	for (uint32_t round = 0; round < ROUNDS; round++) {
		uint32_t i, len;

		seed = seed * 1664525u + 1013904223u;
		i = (seed >> 8) % WORKERS;
		len = 1 + (seed >> 16) % (1u << (seed >> 4) % 15);
		if ((seed >> 30 & 1) != 0) {
			guest_works(&n, &workers[i], i, len);
			continue;
		}
		host_reads(&workers[i], i, len);
		host_writes(&workers[i], i, len);
		if ((seed >> 31) != 0)
			while (guest_takes(&n))
				guest_takes_for(&n, workers);
	}
	for (uint32_t i = 0; i < WORKERS; i++) {
		struct worker *worker = &workers[i];

		CHECK(worker->up > LV_VSOCK_BUF && worker->down > ALLOC);
		while (worker->up_got < worker->up ||
		       worker->down_got < worker->down) {
			n.fwd = worker->down_got;
			guest_sends(&n, CREDIT_UPDATE, 7000 + i, 1024, 0);
			while (guest_takes(&n))
				guest_takes_for(&n, workers);
			host_reads(worker, i, 1000);
		}
	}
	for (uint32_t i = 0; i < WORKERS; i++)
		(void)close(workers[i].fd);
	CHECK(n.w.device->stats.dropped == 0);
	CHECK(n.w.device->stats.malformed == 0);
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
	v5_10_6_3_a_slow_host_reader_stops_the_guest_and_loses_nothing();
	v5_10_6_3_a_slow_guest_stops_the_host();
	v5_10_6_3_overrunning_credit_is_reset();
	many_workers_both_ways();
	malformed_packets();
	wrong_operations_reset_the_connection();
	the_1024th_connection_is_refused();
	a_storm_of_resets_is_bounded();
	v5_10_6_4_useless_receive_buffers_are_given_back();
	reset_hangs_up();
	bad_configurations();
	return 0;
}
