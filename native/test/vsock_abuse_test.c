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
	malformed_packets();
	wrong_operations_reset_the_connection();
	the_1024th_connection_is_refused();
	a_storm_of_resets_is_bounded();
	v5_10_6_4_useless_receive_buffers_are_given_back();
	reset_hangs_up();
	bad_configurations();
	return 0;
}
