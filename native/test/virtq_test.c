/* The ring walker and its refusals, through an entropy device: it does nothing
 * with a chain but fill it. */
#include "lv_test.h"

#define IDX LV_VIRTIO_F_EVENT_IDX
#define IND LV_VIRTIO_F_INDIRECT_DESC

static void start(struct world *w, uint64_t features)
{
	world_init(w);
	CHECK(lv_rng_new(NULL, &w->mem, &w->events, &w->device) == 0);
	driver_ok(w, features);
	CHECK(get_status(w) == 15);
	lv_device_kick(w->device, 0);
	(void)interrupted(w);
}

static void serves_chains_across_index_wrap(void)
{
	struct world w;

	start(&w, 0);
	for (uint32_t i = 0; i < 70000; i++) {
		struct part part = {DATA, 8, WRITE};
		uint32_t id;
		uint16_t head = add_chain(&w, 0, &part, 1);

		lv_device_kick(w.device, 0);
		CHECK(take_used(&w, 0, &id) == 8);
		CHECK(id == head);
	}
	world_free(&w);
}

static void v2_7_5_2_loop_ends_the_device(uint16_t length)
{
	struct world w;

	start(&w, 0);
	for (uint16_t i = 0; i < length; i++)
		put_desc(&w, RING(0), i, DATA, 4, WRITE | NEXT,
			 (uint16_t)((i + 1) % length));
	offer(&w, 0, 0);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_CHAIN_LENGTH);
	CHECK(used_index(&w, 0) == 0);
	world_free(&w);
}

static void a_chain_as_long_as_the_ring_is_served(void)
{
	struct world w;
	struct part parts[16];

	start(&w, 0);
	for (uint32_t i = 0; i < 16; i++)
		parts[i] = (struct part){DATA + 16ull * i, 16, WRITE};
	(void)add_chain(&w, 0, parts, 16);
	lv_device_kick(w.device, 0);
	CHECK(take_used(&w, 0, NULL) == 256);
	world_free(&w);
}

static void v2_7_13_3_avail_index_jump_ends_the_device(void)
{
	struct world w;

	start(&w, 0);
	poke16(&w, RING_AVAIL(0) + 2, 17);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_AVAIL_INDEX);
	/* Dead until reset: nothing more happens, nothing more is reported. */
	lv_device_kick(w.device, 0);
	CHECK(readable_now(w.events.fd));
	CHECK(used_index(&w, 0) == 0);
	world_free(&w);
}

static void v2_7_6_head_out_of_range_ends_the_device(void)
{
	struct world w;

	start(&w, 0);
	offer(&w, 0, 16);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_HEAD_INDEX);
	world_free(&w);
}

static void v2_7_5_next_out_of_range_ends_the_device(void)
{
	struct world w;

	start(&w, 0);
	put_desc(&w, RING(0), 0, DATA, 4, WRITE | NEXT, 16);
	offer(&w, 0, 0);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_NEXT_INDEX);
	world_free(&w);
}

static void buffer_outside_ram_ends_the_device(uint64_t addr, uint32_t len)
{
	struct world w;

	start(&w, 0);
	put_desc(&w, RING(0), 0, addr, len, WRITE, 0);
	offer(&w, 0, 0);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_DESC_ADDRESS);
	world_free(&w);
}

static void zero_length_descriptors_are_skipped(void)
{
	struct world w;
	struct part parts[3] = {
	    {UINT64_MAX, 0, WRITE}, {DATA, 4, WRITE}, {0, 0, WRITE}};

	start(&w, 0);
	(void)add_chain(&w, 0, parts, 3);
	lv_device_kick(w.device, 0);
	CHECK(take_used(&w, 0, NULL) == 4);
	/* Nothing but empty ones: completed, with nothing in it. */
	(void)add_chain(&w, 0, parts, 1);
	lv_device_kick(w.device, 0);
	CHECK(take_used(&w, 0, NULL) == 0);
	CHECK(get_status(&w) == 15);
	world_free(&w);
}

static void v2_7_5_3_indirect_not_negotiated_ends_the_device(void)
{
	struct world w;

	start(&w, 0);
	put_desc(&w, DATA, 0, DATA + 64, 4, WRITE, 0);
	put_desc(&w, RING(0), 0, DATA, 16, INDIRECT, 0);
	offer(&w, 0, 0);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_DESC_FLAGS);
	world_free(&w);
}

static void indirect(uint64_t table, uint32_t len, uint16_t flags,
		     uint16_t entry_flags, uint16_t entry_next,
		     enum lv_device_fault fault)
{
	struct world w;

	start(&w, IND);
	put_desc(&w, DATA, 0, DATA + 64, 4, entry_flags, entry_next);
	put_desc(&w, DATA, 1, DATA + 68, 4, WRITE, 0);
	put_desc(&w, RING(0), 0, table, len, flags, 1);
	offer(&w, 0, 0);
	lv_device_kick(w.device, 0);
	if (fault == LV_FAULT_NONE)
		CHECK(take_used(&w, 0, NULL) == 8);
	else
		check_failed(&w, fault);
	world_free(&w);
}

static void v2_7_5_3_indirect_tables(void)
{
	uint16_t more = WRITE | NEXT;

	indirect(DATA, 32, INDIRECT, more, 1, LV_FAULT_NONE);
	/* The table's own WRITE flag means nothing. */
	indirect(DATA, 32, INDIRECT | WRITE, more, 1, LV_FAULT_NONE);
	indirect(DATA, 32, INDIRECT | NEXT, more, 1, LV_FAULT_DESC_FLAGS);
	indirect(DATA, 32, INDIRECT, INDIRECT, 1, LV_FAULT_DESC_FLAGS);
	indirect(DATA, 31, INDIRECT, more, 1, LV_FAULT_INDIRECT_TABLE);
	indirect(DATA, 0, INDIRECT, more, 1, LV_FAULT_INDIRECT_TABLE);
	indirect(DATA, 32, INDIRECT, more, 2, LV_FAULT_NEXT_INDEX);
	indirect(DATA, 32, INDIRECT, more, 0, LV_FAULT_CHAIN_LENGTH);
	indirect(RAM_BYTES - 16, 32, INDIRECT, more, 1, LV_FAULT_DESC_ADDRESS);
}

static void indirect_table_may_be_unaligned_and_longer_than_the_ring(void)
{
	struct world w;
	uint64_t table = DATA + 1;

	start(&w, IND);
	for (uint16_t i = 0; i < 200; i++)
		put_desc(&w, table, i, DATA + 0x4000 + i, 1,
			 (uint16_t)(i == 199 ? WRITE : WRITE | NEXT),
			 (uint16_t)(i + 1));
	put_desc(&w, RING(0), 0, table, 200 * 16, INDIRECT, 0);
	offer(&w, 0, 0);
	lv_device_kick(w.device, 0);
	CHECK(take_used(&w, 0, NULL) == 200);
	world_free(&w);
}

static void indirect_chain_beyond_the_cap_ends_the_device(void)
{
	struct world w;

	start(&w, IND);
	for (uint16_t i = 0; i < 300; i++)
		put_desc(&w, DATA, i, DATA + 0x4000 + i, 1,
			 (uint16_t)(i == 299 ? WRITE : WRITE | NEXT),
			 (uint16_t)(i + 1));
	put_desc(&w, RING(0), 0, DATA, 300 * 16, INDIRECT, 0);
	offer(&w, 0, 0);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_CHAIN_LENGTH);
	world_free(&w);
}

static void v2_7_10_used_event_decides_about_interrupts(void)
{
	struct world w;
	struct part part = {DATA, 4, WRITE};

	start(&w, IDX);
	poke16(&w, RING_AVAIL(0) + 4 + 2 * 16, 1); /* tell me at the 2nd */
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(!interrupted(&w));
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(interrupted(&w));
	CHECK(reg_read(&w, 0x060) == 1);
	reg_write(&w, 0x064, 1);
	CHECK(reg_read(&w, 0x060) == 0);
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(!interrupted(&w));
	world_free(&w);
}

static void v2_7_10_avail_event_asks_for_the_next_chain(void)
{
	struct world w;
	struct part part = {DATA, 4, WRITE};

	start(&w, IDX);
	(void)add_chain(&w, 0, &part, 1);
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(peek16(&w, RING_USED(0) + 4 + 8 * 16) == 2);
	world_free(&w);
}

static void v2_7_7_no_interrupt_flag_is_honoured(void)
{
	struct world w;
	struct part part = {DATA, 4, WRITE};

	start(&w, 0);
	poke16(&w, RING_AVAIL(0), 1);
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(!interrupted(&w));
	poke16(&w, RING_AVAIL(0), 0);
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(interrupted(&w));
	world_free(&w);
}

static void reset_revives_a_failed_device(void)
{
	struct world w;
	struct part part = {DATA, 4, WRITE};

	start(&w, 0);
	offer(&w, 0, 99);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_HEAD_INDEX);
	driver_ok(&w, 0);
	CHECK(get_status(&w) == 15);
	(void)add_chain(&w, 0, &part, 1);
	lv_device_kick(w.device, 0);
	CHECK(take_used(&w, 0, NULL) == 4);
	world_free(&w);
}

static void a_loop_of_empty_descriptors_ends_the_device(void)
{
	struct world w;

	start(&w, 0);
	put_desc(&w, RING(0), 0, DATA, 0, WRITE | NEXT, 1);
	put_desc(&w, RING(0), 1, DATA, 0, WRITE | NEXT, 0);
	offer(&w, 0, 0);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_CHAIN_LENGTH);
	world_free(&w);
}

static void a_device_that_fails_again_is_not_reported_again(void)
{
	struct world w;
	struct lv_event event;

	start(&w, 0);
	offer(&w, 0, 99);
	lv_device_kick(w.device, 0);
	check_failed(&w, LV_FAULT_HEAD_INDEX);
	driver_ok(&w, 0);
	offer(&w, 0, 99);
	lv_device_kick(w.device, 0);
	CHECK((get_status(&w) & LV_STATUS_NEEDS_RESET) != 0);
	CHECK(lv_events_take(&w.events, &event) == 0);
	world_free(&w);
}

static void addresses_do_not_wrap(void)
{
	struct world w;

	world_init(&w);
	CHECK(lv_gpa(&w.mem, 4096, UINT64_MAX - 4095) == NULL);
	CHECK(lv_gpa(&w.mem, 4096, UINT64_MAX) == NULL);
	CHECK(lv_gpa(&w.mem, 0, RAM_BYTES) == w.mem.region[0].hva);
	CHECK(lv_gpa(&w.mem, 0, RAM_BYTES + 1ull) == NULL);
	CHECK(lv_gpa(&w.mem, RAM_BYTES, 0) == NULL);
	world_free(&w);
}

int main(void)
{
	addresses_do_not_wrap();
	a_loop_of_empty_descriptors_ends_the_device();
	a_device_that_fails_again_is_not_reported_again();
	serves_chains_across_index_wrap();
	v2_7_5_2_loop_ends_the_device(1);
	v2_7_5_2_loop_ends_the_device(2);
	a_chain_as_long_as_the_ring_is_served();
	v2_7_13_3_avail_index_jump_ends_the_device();
	v2_7_6_head_out_of_range_ends_the_device();
	v2_7_5_next_out_of_range_ends_the_device();
	buffer_outside_ram_ends_the_device(RAM_BYTES - 4, 8);
	buffer_outside_ram_ends_the_device(RAM_BYTES, 1);
	buffer_outside_ram_ends_the_device(0xc0000000u, 4);
	buffer_outside_ram_ends_the_device(HIGH_GPA - 4, 8);
	buffer_outside_ram_ends_the_device(HIGH_GPA + HIGH_BYTES - 1, 2);
	buffer_outside_ram_ends_the_device(UINT64_MAX - 3, 8);
	buffer_outside_ram_ends_the_device(0, UINT32_MAX);
	zero_length_descriptors_are_skipped();
	v2_7_5_3_indirect_not_negotiated_ends_the_device();
	v2_7_5_3_indirect_tables();
	indirect_table_may_be_unaligned_and_longer_than_the_ring();
	indirect_chain_beyond_the_cap_ends_the_device();
	v2_7_10_used_event_decides_about_interrupts();
	v2_7_10_avail_event_asks_for_the_next_chain();
	v2_7_7_no_interrupt_flag_is_honoured();
	reset_revives_a_failed_device();
	return 0;
}
