/*
 * virtq.c - split virtqueue, device side (virtio 1.2, 2.7). The driver may
 * write the rings at any moment, so each index is loaded once and each
 * descriptor copied once, and only the copies are checked and used.
 */
#include "lv.h"

#define DESC_BYTES	     16u
#define DESC_F_NEXT	     1u
#define DESC_F_WRITE	     2u
#define DESC_F_INDIRECT	     4u
#define AVAIL_F_NO_INTERRUPT 1u

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
_Static_assert(sizeof(struct desc) == DESC_BYTES, "2.7.5");

/* Ring layout, 2.7.6 and 2.7.8: u16 flags, u16 idx, entries, u16 event. */
static _Atomic uint16_t *ring_u16(uint8_t *ring, size_t offset)
{
	return (_Atomic uint16_t *)(void *)(ring + offset);
}

static uint16_t load(uint8_t *ring, size_t offset)
{
	return atomic_load_explicit(ring_u16(ring, offset),
				    memory_order_relaxed);
}

static uint16_t avail_idx(const struct lv_queue *queue)
{
	/* Pairs with the driver's write barrier before it moves idx: the
	 * entries and descriptors behind idx are complete. */
	return atomic_load_explicit(ring_u16(queue->avail, 2),
				    memory_order_acquire);
}

enum lv_device_fault lv_queue_start(struct lv_queue *queue,
				    const struct lv_mem *mem, bool event_idx,
				    bool indirect)
{
	uint64_t n = queue->num;

	if (n == 0 || n > LV_QUEUE_MAX || (n & (n - 1)) != 0 ||
	    queue->addr[0] % 16 != 0 || queue->addr[1] % 2 != 0 ||
	    queue->addr[2] % 4 != 0)
		return LV_FAULT_RING_ADDRESS;
	queue->desc = lv_gpa(mem, queue->addr[0], DESC_BYTES * n);
	queue->avail = lv_gpa(mem, queue->addr[1], 6 + 2 * n);
	queue->used = lv_gpa(mem, queue->addr[2], 6 + 8 * n);
	if (queue->desc == NULL || queue->avail == NULL || queue->used == NULL)
		return LV_FAULT_RING_ADDRESS;
	queue->event_idx = event_idx;
	queue->indirect = indirect;
	queue->next_avail = queue->next_used = queue->signalled = 0;
	return LV_FAULT_NONE;
}

static void copy_desc(struct desc *out, const uint8_t *table, uint32_t index)
{
	memcpy(out, table + (size_t)index * DESC_BYTES, sizeof(*out));
	/* The copy is what gets checked: the compiler must not read again. */
	__asm__ volatile("" : : : "memory");
}

static enum lv_device_fault add_buffer(struct lv_chain *chain,
				       const struct lv_mem *mem,
				       const struct desc *desc)
{
	struct iovec *iov = chain->iov + chain->readable + chain->writable;

	if (desc->len == 0)
		return LV_FAULT_NONE;
	if (iov == chain->iov + LV_QUEUE_MAX)
		return LV_FAULT_CHAIN_LENGTH;
	iov->iov_base = lv_gpa(mem, desc->addr, desc->len);
	iov->iov_len = desc->len;
	if (iov->iov_base == NULL)
		return LV_FAULT_DESC_ADDRESS;
	if ((desc->flags & DESC_F_WRITE) != 0) {
		chain->writable++;
		chain->writable_bytes += desc->len;
	} else {
		chain->misordered |= chain->writable > 0;
		chain->readable++;
		chain->readable_bytes += desc->len;
	}
	return LV_FAULT_NONE;
}

/* 2.7.5.3: a table holds no table, has no successor, and its own flags other
 * than INDIRECT mean nothing. */
static enum lv_device_fault check_table(const struct desc *desc, bool allowed)
{
	if (!allowed || (desc->flags & DESC_F_NEXT) != 0)
		return LV_FAULT_DESC_FLAGS;
	if (desc->len == 0 || desc->len % DESC_BYTES != 0)
		return LV_FAULT_INDIRECT_TABLE;
	return LV_FAULT_NONE;
}

/* From a head on, in the ring's table or, from there, an indirect one. */
static enum lv_device_fault walk(const struct lv_queue *queue,
				 const struct lv_mem *mem,
				 struct lv_chain *chain)
{
	enum lv_device_fault fault;
	const uint8_t *table = queue->desc;
	uint32_t entries = queue->num;
	uint32_t hops = queue->num;
	bool indirect = queue->indirect; /* and not inside of one */
	struct desc desc = {.next = chain->head};

	/* The bound is also what ends a loop (2.7.5.2). */
	for (; hops > 0; hops--) {
		copy_desc(&desc, table, desc.next);
		if ((desc.flags & DESC_F_INDIRECT) == 0) {
			fault = add_buffer(chain, mem, &desc);
			if (fault != LV_FAULT_NONE ||
			    (desc.flags & DESC_F_NEXT) == 0)
				return fault;
			if (desc.next >= entries)
				return LV_FAULT_NEXT_INDEX;
			continue;
		}
		fault = check_table(&desc, indirect);
		if (fault != LV_FAULT_NONE)
			return fault;
		table = lv_gpa(mem, desc.addr, desc.len);
		if (table == NULL)
			return LV_FAULT_DESC_ADDRESS;
		entries = desc.len / DESC_BYTES;
		indirect = false;
		desc.next = 0;
		/* Linux may fill a table beyond the ring's size; our room is
		 * the cap. */
		hops = LV_QUEUE_MAX + 1;
	}
	return LV_FAULT_CHAIN_LENGTH;
}

int lv_queue_pop(struct lv_queue *queue, const struct lv_mem *mem,
		 struct lv_chain *chain)
{
	uint16_t idx = avail_idx(queue);
	size_t slot = queue->next_avail % queue->num;
	enum lv_device_fault fault;

	if (idx == queue->next_avail)
		return 0;
	/* 2.7.13: the ring holds what waits, and what we have of it already. */
	if ((uint16_t)(idx - queue->next_used) > queue->num)
		return -(int)LV_FAULT_AVAIL_INDEX;
	chain->head = load(queue->avail, 4 + 2 * slot);
	if (chain->head >= queue->num)
		return -(int)LV_FAULT_HEAD_INDEX;
	chain->misordered = false;
	chain->readable = chain->writable = 0;
	chain->readable_bytes = chain->writable_bytes = 0;
	fault = walk(queue, mem, chain);
	if (fault != LV_FAULT_NONE)
		return -(int)fault;
	queue->next_avail++;
	return 1;
}

void lv_queue_undo(struct lv_queue *queue)
{
	queue->next_avail--;
}

void lv_queue_fill(struct lv_queue *queue, uint16_t head, uint32_t len)
{
	uint32_t slot = queue->next_used % queue->num;
	uint32_t entry[2] = {head, len};

	memcpy(queue->used + 4 + 8 * (size_t)slot, entry, sizeof(entry));
	queue->next_used++;
}

void lv_queue_publish(struct lv_queue *queue)
{
	/* Pairs with the driver's read barrier after it loads idx: it sees the
	 * entry and everything written into the buffers. */
	atomic_store_explicit(ring_u16(queue->used, 2), queue->next_used,
			      memory_order_release);
}

void lv_queue_push(struct lv_queue *queue, uint16_t head, uint32_t len)
{
	lv_queue_fill(queue, head, len);
	lv_queue_publish(queue);
}

bool lv_queue_waits(const struct lv_queue *queue)
{
	return avail_idx(queue) != queue->next_avail;
}

bool lv_queue_rearm(struct lv_queue *queue)
{
	if (queue->event_idx)
		atomic_store_explicit(
		    ring_u16(queue->used, 4 + 8 * (size_t)queue->num),
		    queue->next_avail, memory_order_relaxed);
	/* Pairs with the driver's full barrier between its idx and its read of
	 * avail_event: one of us sees the other's write, so no wake-up is lost.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	return lv_queue_waits(queue);
}

bool lv_queue_should_signal(struct lv_queue *queue)
{
	uint16_t old = queue->signalled;
	uint16_t now = queue->next_used;
	uint16_t event;

	if (old == now)
		return false;
	queue->signalled = now;
	/* Pairs with the driver's full barrier between its used_event (or
	 * flags) and its read of used.idx. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!queue->event_idx)
		return (load(queue->avail, 0) & AVAIL_F_NO_INTERRUPT) == 0;
	event = load(queue->avail, 4 + 2 * (size_t)queue->num);
	/* 2.7.10: did idx pass used_event? */
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}
