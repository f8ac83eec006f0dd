/* The socket device, virtio 1.2, 5.10: connections from both sides, their data
 * and their ends. */
#include "vsock_kit.h"

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
	CHECK(n.w.device->wake_ns != LV_NEVER);
	(void)lv_device_tick(n.w.device, lv_now_ns());
	CHECK(guest_takes(&n) && n.got.op == REQUEST);
	(void)lv_device_tick(n.w.device, later);
	check_closed(mute);
	check_closed(unanswered);
	expect(&n, RST, 52, n.got.src_port);
	(void)lv_device_tick(n.w.device, later);
	CHECK(n.w.device->wake_ns == LV_NEVER);
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
	while (((struct lv_vsock *)n.w.device)->conn[0].buf_len == 0) {
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
	CHECK(((struct lv_vsock *)n.w.device)->count[0] <= 1);
	(void)close(fd);
	unlisten(&n, listener, 1024);
	stop(&n);
}

enum gone { DRIVER_RESETS, VM_STOPS };

/* As lv_io_stop. */
static void finish(struct net *n)
{
	LV_LOCKED(&n->w.device->lock);
	n->w.device->ops->finish(n->w.device);
}

static void what_waited_when_the_guest_went_arrives(enum gone gone)
{
	static uint8_t chunk[32768], back[65536];
	const struct lv_conn *conn;
	struct net n;
	uint32_t sent = 0, got_bytes = 0, len;
	int listener, fd;
	ssize_t got;

	start(&n);
	listener = listen_on(&n, 1024);
	fd = open_by_guest(&n, listener);
	unlisten(&n, listener, 1024);
	conn = ((struct lv_vsock *)n.w.device)->conn;
	/* Until the socket is full and as much waits in the device as may. */
	while ((len = LV_VSOCK_BUF - conn->buf_len) > 0) {
		len = (uint32_t)lv_min(len, sizeof(chunk));
		guest_writes(&n, 5000, 1024, chunk, len);
		sent += len;
	}
	if (gone == VM_STOPS)
		finish(&n);
	else
		set_status(&n.w, 0);
	while ((got = recv(fd, back, sizeof(back), MSG_DONTWAIT)) > 0)
		got_bytes += (uint32_t)got;
	CHECK(got == 0);
	CHECK(got_bytes == sent);
	(void)close(fd);
	if (gone == DRIVER_RESETS)
		ready(&n);
	stop(&n);
}

int main(void)
{
	v5_10_6_guest_connects_and_both_speak();
	nobody_listens();
	host_connects_by_line();
	bad_lines_are_hung_up_on();
	the_guest_refuses_a_host();
	silence_times_out();
	guest_half_close_leaves_the_other_half();
	host_half_close_leaves_the_other_half();
	what_the_host_wrote_before_it_closed_arrives();
	what_the_guest_sent_before_it_closed_arrives(SHUTDOWN);
	what_the_guest_sent_before_it_closed_arrives(RST);
	what_waited_when_the_guest_went_arrives(DRIVER_RESETS);
	what_waited_when_the_guest_went_arrives(VM_STOPS);
	return 0;
}
