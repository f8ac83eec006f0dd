/* The network device, virtio 1.2, 5.1, over socketpairs: a datagram socket
 * stands for the TAP, a stream for the user-mode stack. */
#include <arpa/inet.h>
#include <sys/socket.h>

#include "../src/net.h"
#include "lv_test.h"

#define RX	0
#define TX	1
#define MRG	(1ull << 15)
#define BUFFERS (DATA + 0x20000)

struct link {
	struct world w;
	int host; /* the other end */
};

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 7};

static void start(struct link *l, int type, struct lv_limit tx,
		  uint64_t features)
{
	struct lv_net_config config = {
	    .size = sizeof(config),
	    .flags = type == SOCK_SEQPACKET ? LV_NET_TAP : 0,
	    .tx = tx,
	    .mtu = 1500,
	};
	int pair[2];

	CHECK(socketpair(AF_UNIX, type, 0, pair) == 0);
	memcpy(config.mac, mac, 6);
	config.fd = pair[0];
	l->host = pair[1];
	world_init(&l->w);
	CHECK(lv_net_new(&config, &l->w.mem, &l->w.events, &l->w.device) == 0);
	(void)close(pair[0]);
	driver_ok(&l->w, features);
}

static void stop(struct link *l)
{
	world_free(&l->w);
	(void)close(l->host);
}

/* A chain of one writable buffer for frames, number `index`. */
static void add_buffer(struct link *l, uint32_t index, uint32_t len)
{
	struct part part = {BUFFERS + index * 0x1000ull, len, WRITE};

	(void)add_chain(&l->w, RX, &part, 1);
}

static void make_frame(uint8_t *frame, uint32_t len, uint8_t seed)
{
	for (uint32_t i = 0; i < len; i++)
		frame[i] = (uint8_t)(seed + i * 3);
	memcpy(frame + 6, mac, 6);
}

static void host_sends(struct link *l, bool tap, const uint8_t *frame,
		       uint32_t len)
{
	uint8_t packet[4096] = {0};
	uint32_t head = tap ? LV_NET_HEADER : 4;

	if (!tap) {
		uint32_t prefix = htonl(len);

		memcpy(packet, &prefix, 4);
	}
	memcpy(packet + head, frame, len);
	CHECK(write(l->host, packet, head + len) == (ssize_t)(head + len));
}

static void v5_1_6_4_a_frame_is_spread_over_merged_buffers(int type)
{
	struct link l;
	uint8_t frame[1000];

	start(&l, type, (struct lv_limit){0}, MRG);
	make_frame(frame, sizeof(frame), 9);
	host_sends(&l, type == SOCK_SEQPACKET, frame, sizeof(frame));
	lv_device_poll(l.w.device);
	CHECK(used_index(&l.w, RX) == 0);
	/* 1012 bytes need three of 400; two are not enough. */
	add_buffer(&l, 0, 400);
	add_buffer(&l, 1, 400);
	lv_device_kick(l.w.device, RX);
	CHECK(used_index(&l.w, RX) == 0);
	add_buffer(&l, 2, 400);
	lv_device_kick(l.w.device, RX);
	CHECK(used_index(&l.w, RX) == 3);
	CHECK(take_used(&l.w, RX, NULL) == 400);
	CHECK(take_used(&l.w, RX, NULL) == 400);
	CHECK(take_used(&l.w, RX, NULL) == 212);
	CHECK(peek16(&l.w, BUFFERS + 10) == 3);
	CHECK(peek16(&l.w, BUFFERS) == 0);
	CHECK(memcmp(at(&l.w, BUFFERS + 12), frame, 388) == 0);
	CHECK(memcmp(at(&l.w, BUFFERS + 0x1000), frame + 388, 400) == 0);
	CHECK(memcmp(at(&l.w, BUFFERS + 0x2000), frame + 788, 212) == 0);
	CHECK(l.w.device->stats.bytes_in == 1000);
	CHECK(interrupted(&l.w));
	stop(&l);
}

static void v5_1_6_4_without_merging_a_frame_fits_or_is_dropped(void)
{
	struct link l;
	uint8_t frame[600];

	start(&l, SOCK_STREAM, (struct lv_limit){0}, 0);
	make_frame(frame, sizeof(frame), 1);
	add_buffer(&l, 0, 500);
	add_buffer(&l, 1, 700);
	host_sends(&l, false, frame, sizeof(frame));
	host_sends(&l, false, frame, sizeof(frame));
	lv_device_poll(l.w.device);
	CHECK(take_used(&l.w, RX, NULL) == 0);
	CHECK(take_used(&l.w, RX, NULL) == 612);
	CHECK(peek16(&l.w, BUFFERS + 0x1000 + 10) == 1);
	CHECK(l.w.device->stats.dropped == 1);
	stop(&l);
}

static void v5_1_6_2_sends(int type)
{
	struct link l;
	uint8_t frame[700], got[1024];
	uint32_t head = type == SOCK_SEQPACKET ? LV_NET_HEADER : 4;
	/* The header split over descriptors, the frame too. */
	struct part parts[4] = {{DATA, 5, 0},
				{DATA + 5, 7 + 14, 0},
				{DATA + 26, 300, 0},
				{DATA + 326, 386, 0}};

	start(&l, type, (struct lv_limit){0}, 0);
	make_frame(frame, sizeof(frame), 3);
	memset(at(&l.w, DATA), 0, 12);
	memcpy(at(&l.w, DATA + 12), frame, sizeof(frame));
	(void)add_chain(&l.w, TX, parts, 4);
	lv_device_kick(l.w.device, TX);
	CHECK(take_used(&l.w, TX, NULL) == 0);
	CHECK(read(l.host, got, sizeof(got)) == (ssize_t)(head + 700));
	CHECK(memcmp(got + head, frame, 700) == 0);
	if (type == SOCK_STREAM)
		CHECK(got[2] == 700 >> 8 && got[3] == (700 & 0xff));
	CHECK(l.w.device->stats.bytes_out == 700);
	stop(&l);
}

static void broken_frames_are_counted_and_not_sent(void)
{
	struct link l;
	struct part shorts[1] = {{DATA, 12 + 13, 0}};
	struct part longs[2] = {{DATA, 12, 0}, {DATA + 12, 65551, 0}};
	struct part wrong[2] = {{DATA, 100, 0}, {DATA + 200, 100, WRITE}};
	struct part whole[1] = {{DATA, 100, 0}};

	start(&l, SOCK_SEQPACKET, (struct lv_limit){0}, 0);
	(void)add_chain(&l.w, TX, shorts, 1);
	(void)add_chain(&l.w, TX, longs, 2);
	(void)add_chain(&l.w, TX, wrong, 2);
	lv_device_kick(l.w.device, TX);
	CHECK(used_index(&l.w, TX) == 3);
	CHECK(l.w.device->stats.malformed == 3);
	/* Another machine's address as the source. */
	memset(at(&l.w, DATA), 0, 100);
	(void)add_chain(&l.w, TX, whole, 1);
	lv_device_kick(l.w.device, TX);
	CHECK(used_index(&l.w, TX) == 4);
	CHECK(l.w.device->stats.dropped == 1);
	CHECK(!readable_now(l.host));
	CHECK(get_status(&l.w) == 15);
	stop(&l);
}

/* Frames of 64 KiB into a socket that nobody reads: those that do not fit stay
 * in the queue, and every byte comes out in order once somebody does. */
static void a_full_socket_holds_frames_back(void)
{
	enum { FRAMES = 8, BYTES = 60000 };
	struct link l;
	struct part part = {DATA, 12 + BYTES, 0};
	uint32_t left = FRAMES * (BYTES + 4), small = 32768;
	uint8_t *got = malloc(left);
	ssize_t at_once;
	uint32_t have = 0;

	CHECK(got != NULL);
	start(&l, SOCK_STREAM, (struct lv_limit){0}, 0);
	CHECK(setsockopt(l.host, SOL_SOCKET, SO_RCVBUF, &small,
			 sizeof(small)) == 0);
	make_frame(at(&l.w, DATA + 12), BYTES, 5);
	for (uint32_t i = 0; i < FRAMES; i++)
		(void)add_chain(&l.w, TX, &part, 1);
	lv_device_kick(l.w.device, TX);
	CHECK(used_index(&l.w, TX) < FRAMES);
	while (have < left) {
		at_once = read(l.host, got + have, left - have);
		CHECK(at_once > 0);
		have += (uint32_t)at_once;
		lv_device_poll(l.w.device);
	}
	CHECK(used_index(&l.w, TX) == FRAMES);
	for (uint32_t i = 0; i < FRAMES; i++) {
		const uint8_t *frame = got + i * (BYTES + 4);
		uint32_t prefix;

		memcpy(&prefix, frame, 4);
		CHECK(ntohl(prefix) == BYTES);
		CHECK(memcmp(frame + 4, at(&l.w, DATA + 12), BYTES) == 0);
	}
	CHECK(!readable_now(l.host));
	free(got);
	stop(&l);
}

static void a_lying_or_lost_socket_pulls_the_cable(bool lies)
{
	struct link l;

	start(&l, SOCK_STREAM, (struct lv_limit){0}, MRG);
	add_buffer(&l, 0, 2000);
	CHECK(l.w.device->regs->config[6] == 1);
	if (lies)
		CHECK(write(l.host, "\xff\xff\xff\xff", 4) == 4);
	else
		CHECK(shutdown(l.host, SHUT_RDWR) == 0);
	lv_device_poll(l.w.device);
	CHECK(l.w.device->regs->config[6] == 0);
	CHECK(reg_read(&l.w, 0x0fc) == 1);
	CHECK((reg_read(&l.w, 0x060) & 2) != 0);
	lv_device_poll(l.w.device);
	CHECK(l.w.device->stats.errors == 1);
	CHECK(get_status(&l.w) == 15);
	stop(&l);
}

static void the_limit_delays_and_loses_nothing(void)
{
	struct lv_limit two = {.ops_rate = 1000, .ops_burst = 2};
	struct part part = {DATA, 12 + 60, 0};
	struct link l;
	uint64_t wake_ns;

	start(&l, SOCK_SEQPACKET, two, 0);
	make_frame(at(&l.w, DATA + 12), 60, 1);
	for (int i = 0; i < 4; i++)
		(void)add_chain(&l.w, TX, &part, 1);
	lv_device_kick(l.w.device, TX);
	CHECK(used_index(&l.w, TX) >= 2);
	for (int i = 0; used_index(&l.w, TX) < 4; i++) {
		CHECK(i < 1000);
		wake_ns = l.w.device->wake_ns;
		CHECK(wake_ns != LV_NEVER);
		while (lv_now_ns() < wake_ns)
			continue;
		(void)lv_device_tick(l.w.device, lv_now_ns());
	}
	CHECK(l.w.device->stats.throttled > 0);
	stop(&l);
}

static void bytes_are_limited_on_average(void)
{
	struct lv_limit limit = {.bytes_rate = 1000000, .bytes_burst = 5000};
	struct lv_limiter limiter;
	uint64_t now_ns = 1;
	uint64_t bytes = 0;

	lv_limiter_init(&limiter, &limit);
	while (now_ns < 2000000000u) {
		uint64_t until_ns = lv_limiter_wait(&limiter, now_ns);

		if (until_ns != 0) {
			CHECK(until_ns > now_ns);
			now_ns = until_ns;
			continue;
		}
		lv_limiter_spend(&limiter, 1500);
		bytes += 1500;
	}
	CHECK(bytes > 1990000 && bytes < 2010000);
}

static void v2_7_7_frames_that_follow_share_an_interrupt(void)
{
	struct link l;
	uint8_t frame[600];
	uint64_t now_ns;

	start(&l, SOCK_SEQPACKET, (struct lv_limit){0}, LV_VIRTIO_F_EVENT_IDX);
	l.w.device->coalesce.enabled = true;
	make_frame(frame, sizeof(frame), 1);
	for (uint16_t i = 1; i < 3; i++) {
		add_buffer(&l, i, 700);
		host_sends(&l, true, frame, sizeof(frame));
		lv_device_poll(l.w.device);
		CHECK(used_index(&l.w, RX) == i && !interrupted(&l.w));
	}
	/* It still asks for a buffer, which no clock looks for. */
	host_sends(&l, true, frame, sizeof(frame));
	lv_device_poll(l.w.device);
	CHECK(peek16(&l.w, RING_USED(RX) + 4 + 8ull * l.w.num) == 2);
	now_ns = l.w.device->coalesce.chain_ns;
	now_ns = lv_device_tick(l.w.device, now_ns);
	CHECK(!interrupted(&l.w));
	CHECK(lv_device_tick(l.w.device, now_ns) == LV_NEVER);
	CHECK(interrupted(&l.w));
	stop(&l);
}

int main(void)
{
	static const int types[] = {SOCK_SEQPACKET, SOCK_STREAM};

	for (int i = 0; i < 2; i++) {
		v5_1_6_4_a_frame_is_spread_over_merged_buffers(types[i]);
		v5_1_6_2_sends(types[i]);
		a_lying_or_lost_socket_pulls_the_cable(i == 0);
	}
	v5_1_6_4_without_merging_a_frame_fits_or_is_dropped();
	broken_frames_are_counted_and_not_sent();
	a_full_socket_holds_frames_back();
	the_limit_delays_and_loses_nothing();
	bytes_are_limited_on_average();
	v2_7_7_frames_that_follow_share_an_interrupt();
	return 0;
}
