/* Of docs/guest-validation.md, what belongs to no device's own test and needs
 * more than a wrong list of a guest: races, and the largest that is right. */
#include <sys/socket.h>

#include "lv_test.h"

#define ROUNDS	 5000u
#define WAIT_MS	 20000
#define SEGMENTS 256u

/* Takes what is used until `count` came in all, sleeping as a driver does: the
 * event index first, then another look, then the interrupt. */
static void collect(struct world *w, uint16_t count)
{
	struct pollfd irq = {.fd = w->device->irq_fd, .events = POLLIN};

	while (w->used[0] != count) {
		uint32_t cause;

		poke16(w, RING_AVAIL(0) + 4 + 2ull * w->num, w->used[0]);
		atomic_thread_fence(memory_order_seq_cst);
		if (used_index(w, 0) != w->used[0]) {
			CHECK(take_used(w, 0, NULL) == 8);
			continue;
		}
		CHECK(poll(&irq, 1, WAIT_MS) == 1);
		lv_eventfd_drain(irq.fd);
		cause = reg_read(w, 0x060);
		CHECK((cause & ~1u) == 0);
		reg_write(w, 0x064, cause);
	}
}

/* 30, 2.7.7 and 4.2.2: a vCPU acknowledges while the I/O thread raises. A lost
 * interrupt would be one that is waited for in vain. */
static void v4_2_2_acknowledging_loses_no_interrupt(void)
{
	struct part part = {DATA, 8, WRITE};
	struct lv_io io = {0};
	struct world w;

	world_init(&w);
	CHECK(lv_rng_new(NULL, &w.mem, &w.events, &w.device) == 0);
	driver_ok(&w, LV_VIRTIO_F_EVENT_IDX);
	CHECK(lv_io_start(&io, &w.device, 1, &w.events) == 0);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		/* The second comes while the first is being acknowledged. */
		for (uint32_t j = 0; j <= i % 3; j++) {
			(void)add_chain(&w, 0, &part, 1);
			lv_eventfd_signal(w.device->kick_fd[0]);
		}
		collect(&w, w.avail[0]);
	}
	lv_io_stop(&io);
	CHECK(get_status(&w) == 15);
	CHECK(used_index(&w, 0) == w.avail[0]);
	reg_write(&w, 0x064, reg_read(&w, 0x060));
	CHECK(reg_read(&w, 0x060) == 0);
	world_free(&w);
}

/* 20, 5.1.6.2: as many pieces as a chain may have, the header among them. */
static void v5_1_6_2_a_frame_of_256_descriptors_is_sent(void)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
	struct lv_net_config config = {.size = sizeof(config),
				       .flags = LV_NET_TAP,
				       .mac = {2, 0, 0, 0, 0, 1},
				       .mtu = 1500};
	uint8_t got[2 * SEGMENTS];
	struct world w;
	int pair[2];

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	config.fd = pair[0];
	world_init(&w);
	CHECK(lv_net_new(&config, &w.mem, &w.events, &w.device) == 0);
	driver_ok(&w, LV_VIRTIO_F_INDIRECT_DESC);
	for (uint32_t i = 0; i < SEGMENTS; i++) {
		bool last = i + 1 == SEGMENTS;

		put_desc(&w, DATA, i, DATA + 0x4000 + i, 1,
			 (uint16_t)(last ? 0 : NEXT), (uint16_t)(i + 1));
		*at(&w, DATA + 0x4000 + i) = (uint8_t)(i < 12 ? 0 : i);
	}
	memcpy(at(&w, DATA + 0x4000 + 12 + 6), mac, sizeof(mac));
	put_desc(&w, RING(1), 0, DATA, SEGMENTS * 16, INDIRECT, 0);
	offer(&w, 1, 0);
	lv_device_kick(w.device, 1);
	CHECK(take_used(&w, 1, NULL) == 0);
	CHECK(recv(pair[1], got, sizeof(got), MSG_DONTWAIT) == SEGMENTS);
	CHECK(memcmp(got, at(&w, DATA + 0x4000), SEGMENTS) == 0);
	CHECK(get_status(&w) == 15);
	world_free(&w);
	(void)close(pair[0]);
	(void)close(pair[1]);
}

/* 21: connections without end, and nobody who reads what they are told: what is
 * owed to the guest is bounded, and the host's descriptors come back. */
static void a_storm_of_connections_is_bounded(void)
{
	struct lv_vsock_config config = {.size = sizeof(config),
					 .guest_cid = 7};
	struct {
		uint64_t src_cid, dst_cid;
		uint32_t src_port, dst_port, len;
		uint16_t type, op;
		uint32_t flags, buf_alloc, fwd_cnt;
	} __attribute__((packed)) packet = {.src_cid = 7,
					    .dst_cid = 2,
					    .dst_port = 1,
					    .type = 1,
					    .op = 1,
					    .buf_alloc = 4096};
	struct part part = {DATA, sizeof(packet), 0};
	char dir[] = "/tmp/lv-storm-XXXXXX";
	struct world w;
	int before, after;

	CHECK(mkdtemp(dir) != NULL);
	(void)snprintf(config.path, sizeof(config.path), "%s/v", dir);
	world_init(&w);
	CHECK(lv_vsock_new(&config, &w.mem, &w.events, &w.device) == 0);
	driver_ok(&w, 0);
	before = dup(0);
	CHECK(before >= 0 && close(before) == 0);
	for (uint32_t i = 0; i < 20000; i++) {
		packet.src_port = i;
		memcpy(at(&w, DATA), &packet, sizeof(packet));
		(void)add_chain(&w, 1, &part, 1);
		lv_device_kick(w.device, 1);
		CHECK(take_used(&w, 1, NULL) == 0);
	}
	CHECK(get_status(&w) == 15);
	CHECK(w.device->stats.dropped > 0);
	after = dup(0);
	CHECK(after == before && close(after) == 0);
	world_free(&w);
	CHECK(rmdir(dir) == 0);
}

int main(void)
{
	v4_2_2_acknowledging_loses_no_interrupt();
	v5_1_6_2_a_frame_of_256_descriptors_is_sent();
	a_storm_of_connections_is_bounded();
	return 0;
}
