/*
 * virtq.c - the ring walker against a second one, written from the text of
 * virtio 1.2, 2.7 as plainly as it goes: same chains, same refusals, same
 * interrupts. The rings are whatever the input says.
 */
#include "kit.h"

#define STEPS_MAX 200u

struct buffer {
	uint64_t addr;
	uint32_t len;
	bool writable;
};

struct expected {
	int result;
	uint16_t head;
	uint32_t count;
	struct buffer buffer[LV_QUEUE_MAX];
};

struct model {
	struct lv_mem mem;
	uint32_t num;
	bool event_idx, indirect;
	uint16_t next_avail, next_used, told;
};

static struct desc read_desc(const struct model *m, uint64_t gpa)
{
	struct desc desc;

	memcpy(&desc, at(&m->mem, gpa), sizeof(desc));
	return desc;
}

static int refuse(enum lv_device_fault fault)
{
	return -(int)fault;
}

/* Appends a table's chain from `index` on; nested says it is an indirect one.
 */
static int collect(const struct model *m, uint64_t table, uint32_t entries,
		   uint32_t index, bool nested, struct expected *want)
{
	/* A chain in the ring is no longer than the ring, 2.7.5.2; one in a
	 * table no longer than there is room for. */
	uint32_t left = nested ? LV_QUEUE_MAX : m->num;

	for (;;) {
		struct desc desc;

		if (left-- == 0)
			return refuse(LV_FAULT_CHAIN_LENGTH);
		desc = read_desc(m, table + 16ull * index);
		if ((desc.flags & INDIRECT) != 0) {
			if (nested || !m->indirect || (desc.flags & NEXT) != 0)
				return refuse(LV_FAULT_DESC_FLAGS);
			if (desc.len == 0 || desc.len % 16 != 0)
				return refuse(LV_FAULT_INDIRECT_TABLE);
			if (lv_gpa(&m->mem, desc.addr, desc.len) == NULL)
				return refuse(LV_FAULT_DESC_ADDRESS);
			return collect(m, desc.addr, desc.len / 16, 0, true,
				       want);
		}
		if (desc.len > 0) {
			if (want->count == LV_QUEUE_MAX)
				return refuse(LV_FAULT_CHAIN_LENGTH);
			if (lv_gpa(&m->mem, desc.addr, desc.len) == NULL)
				return refuse(LV_FAULT_DESC_ADDRESS);
			want->buffer[want->count++] = (struct buffer){
			    desc.addr, desc.len, (desc.flags & WRITE) != 0};
		}
		if ((desc.flags & NEXT) == 0)
			return 1;
		if (desc.next >= entries)
			return refuse(LV_FAULT_NEXT_INDEX);
		index = desc.next;
	}
}

static void expect_pop(const struct model *m, struct expected *want)
{
	uint16_t idx = peek16(&m->mem, AVAIL(0) + 2);
	uint16_t waiting = (uint16_t)(idx - m->next_avail);

	want->count = 0;
	want->result = 0;
	if (waiting == 0)
		return;
	want->result = refuse(LV_FAULT_AVAIL_INDEX);
	if (waiting > m->num)
		return;
	want->head =
	    peek16(&m->mem, AVAIL(0) + 4 + 2ull * (m->next_avail % m->num));
	want->result = refuse(LV_FAULT_HEAD_INDEX);
	if (want->head >= m->num)
		return;
	want->result = collect(m, RING(0), m->num, want->head, false, want);
}

static void check_chain(const struct model *m, const struct lv_chain *chain,
			const struct expected *want)
{
	uint64_t bytes[2] = {0, 0};
	uint32_t count[2] = {0, 0};
	bool misordered = false;

	MUST(chain->head == want->head);
	for (uint32_t i = 0; i < want->count; i++) {
		const struct buffer *buffer = &want->buffer[i];

		if (!buffer->writable && count[1] > 0)
			misordered = true;
		count[buffer->writable]++;
		bytes[buffer->writable] += buffer->len;
		MUST(chain->iov[i].iov_base ==
		     lv_gpa(&m->mem, buffer->addr, buffer->len));
		MUST(chain->iov[i].iov_len == buffer->len);
	}
	MUST(chain->readable == count[0] && chain->writable == count[1]);
	MUST(chain->readable_bytes == bytes[0]);
	MUST(chain->writable_bytes == bytes[1]);
	MUST(chain->misordered == misordered);
}

/* 2.7.10.1: is the entry that the driver named among the new ones? */
static bool expect_signal(struct model *m)
{
	uint16_t event = peek16(&m->mem, AVAIL(0) + 4 + 2ull * m->num);
	bool named = false;
	bool any = m->told != m->next_used;

	for (; m->told != m->next_used; m->told++)
		named = named || m->told == event;
	if (!any || m->event_idx)
		return named;
	return (peek16(&m->mem, AVAIL(0)) & 1u) == 0;
}

/* Puts something into the rings: mostly a chain as a driver would. */
static void scribble(struct model *m, struct script *script)
{
	uint8_t what = take8(script);
	uint32_t index = take8(script) % m->num;
	uint64_t table = (what & 0x40) != 0 ? HIGH_GPA + (what & 1u) : RING(0);
	struct desc desc = {
	    .addr = DATA + take8(script) * 16ull,
	    .len = take_size(script),
	    .flags = what & 3u,
	    .next = take8(script),
	};

	if (what >= 0xf0)
		desc.addr = take(script, 8);
	if (what >= 0xe8)
		desc.flags = (uint16_t)take(script, 2);
	if ((what & 0x3c) == 0x3c) {
		desc.flags = INDIRECT;
		desc.addr = HIGH_GPA + (what & 1u);
		desc.len = 16u * (take8(script) & 31u) + (what >> 7);
	}
	if ((what & 0x80) == 0)
		desc.next %= (uint16_t)m->num;
	put_desc(&m->mem, table, index, desc);
}

/* Many in a row, which go on in a table, or around. */
static void scribble_run(struct model *m, struct script *script)
{
	uint8_t what = take8(script);
	bool inside = (what & 1) != 0;
	uint32_t most = inside ? 300 : m->num;
	uint32_t count = 1 + (uint32_t)take(script, 2) % most;

	for (uint32_t i = 0; i < count; i++) {
		struct desc desc = {.addr = DATA + i,
				    .len = what >> 4,
				    .flags = NEXT | (what & 2u),
				    .next = (uint16_t)(i + 1)};

		if (i + 1 == count)
			desc =
			    (what & 4) != 0
				? (struct desc){HIGH_GPA, 300 * 16, INDIRECT, 0}
				: (struct desc){DATA, 1, WRITE, 0};
		put_desc(&m->mem, inside ? HIGH_GPA : RING(0), i, desc);
	}
}

static void offer(struct model *m, struct script *script)
{
	uint16_t idx = peek16(&m->mem, AVAIL(0) + 2);
	uint8_t what = take8(script);
	uint16_t head =
	    what < 0xf8 ? (uint16_t)(what % m->num) : (uint16_t)take(script, 2);

	poke16(&m->mem, AVAIL(0) + 4 + 2ull * (idx % m->num), head);
	poke16(&m->mem, AVAIL(0) + 2,
	       (uint16_t)(idx + (what == 0xf7 ? take8(script) : 1)));
}

static void pop(struct model *m, struct lv_queue *queue, uint8_t what)
{
	static struct lv_chain chain;
	static struct expected want;

	expect_pop(m, &want);
	MUST(lv_queue_pop(queue, &m->mem, &chain) == want.result);
	if (want.result != 1) {
		MUST(queue->next_avail == m->next_avail);
		return;
	}
	check_chain(m, &chain, &want);
	if ((what & 0x80) != 0) {
		lv_queue_undo(queue);
		return;
	}
	m->next_avail++;
	m->next_used++;
	lv_queue_push(queue, chain.head, what);
	MUST(peek16(&m->mem, USED(0) + 2) == m->next_used);
	MUST(peek32(&m->mem, USED(0) + 4 +
				 8ull * ((uint16_t)(m->next_used - 1) %
					 m->num)) == chain.head);
}

static void step(struct model *m, struct lv_queue *queue, struct script *script)
{
	uint8_t what = take8(script);
	bool more;

	switch (what % 8) {
	case 0 ... 2:
		if (what >= 0xe0)
			scribble_run(m, script);
		else
			scribble(m, script);
		break;
	case 3:
		offer(m, script);
		break;
	case 4:
	case 5:
		pop(m, queue, what);
		break;
	case 6:
		more = peek16(&m->mem, AVAIL(0) + 2) != m->next_avail;
		MUST(lv_queue_rearm(queue) == more);
		if (m->event_idx)
			MUST(peek16(&m->mem, USED(0) + 4 + 8ull * m->num) ==
			     m->next_avail);
		break;
	default:
		if (what >= 0x80)
			poke16(&m->mem, AVAIL(0) + 4 + 2ull * m->num,
			       (uint16_t)(m->told + (what >> 3 & 7u)));
		else
			poke16(&m->mem, AVAIL(0), what >> 3 & 1u);
		MUST(lv_queue_should_signal(queue) == expect_signal(m));
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = {data, size};
	uint8_t choice = take8(&script);
	struct model m = {.num = 1u << (choice & 15u) % 9u,
			  .event_idx = (choice & 0x10) != 0,
			  .indirect = (choice & 0x20) != 0};
	struct lv_queue queue = {
	    .num = m.num, .ready = true, .addr = {RING(0), AVAIL(0), USED(0)}};

	memory_reset(&m.mem);
	MUST(lv_queue_start(&queue, &m.mem, m.event_idx, m.indirect) ==
	     LV_FAULT_NONE);
	for (uint32_t i = 0; i < STEPS_MAX && script.left > 0; i++)
		step(&m, &queue, &script);
	return 0;
}
