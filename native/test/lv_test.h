/*
 * lv_test.h - guest memory without a VM and a small virtio driver, for tests of
 * device code. Addresses: rings at fixed places per queue, buffers from DATA
 * on.
 */
#ifndef LV_TEST_H
#define LV_TEST_H

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/lv.h"
#include "devices.h"

#define RAM_BYTES	  (1u << 20)
#define HIGH_GPA	  0x100000000ull
#define HIGH_BYTES	  65536u
#define RING(queue)	  (0x1000ull + (queue)*0x4000ull)
#define RING_AVAIL(queue) (RING(queue) + 0x2000)
#define RING_USED(queue)  (RING(queue) + 0x3000)
#define DATA		  0x20000ull

#define NEXT		  1u
#define WRITE		  2u
#define INDIRECT	  4u

#define CHECK(condition)                                                       \
	do {                                                                   \
		if (!(condition)) {                                            \
			(void)fprintf(stderr, "%s:%d: %s: not so: %s\n",       \
				      __FILE__, __LINE__, __func__,            \
				      #condition);                             \
			exit(1);                                               \
		}                                                              \
	} while (0)

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

struct world {
	struct lv_mem mem;
	struct lv_events events;
	struct lv_device *device;
	uint32_t num;
	uint16_t avail[LV_QUEUES_MAX];
	uint16_t used[LV_QUEUES_MAX];
	uint16_t free_desc[LV_QUEUES_MAX];
};

static inline void world_init(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->num = 16;
	w->mem.count = 2;
	w->mem.region[0].gpa = 0;
	w->mem.region[0].len = RAM_BYTES;
	w->mem.region[1].gpa = HIGH_GPA;
	w->mem.region[1].len = HIGH_BYTES;
	/* Separate allocations: AddressSanitizer sees any byte beyond. */
	for (uint32_t i = 0; i < 2; i++) {
		void *hva = aligned_alloc(LV_PAGE, w->mem.region[i].len);

		CHECK(hva != NULL);
		memset(hva, 0, w->mem.region[i].len);
		w->mem.region[i].hva = hva;
	}
	CHECK(lv_events_init(&w->events) == 0);
}

static inline void world_free(struct world *w)
{
	if (w->device != NULL)
		w->device->ops->destroy(w->device);
	lv_events_free(&w->events);
	free(w->mem.region[0].hva);
	free(w->mem.region[1].hva);
}

static inline uint8_t *at(const struct world *w, uint64_t gpa)
{
	uint8_t *hva = lv_gpa(&w->mem, gpa, 1);

	CHECK(hva != NULL);
	return hva;
}

static inline void poke16(const struct world *w, uint64_t gpa, uint16_t value)
{
	/* Release, as a driver that moves an index: the I/O thread may watch.
	 */
	atomic_store_explicit((_Atomic uint16_t *)(void *)at(w, gpa), value,
			      memory_order_release);
}

static inline uint16_t peek16(const struct world *w, uint64_t gpa)
{
	return atomic_load_explicit((_Atomic uint16_t *)(void *)at(w, gpa),
				    memory_order_acquire);
}

static inline uint32_t peek32(const struct world *w, uint64_t gpa)
{
	uint32_t value;

	memcpy(&value, at(w, gpa), sizeof(value));
	return value;
}

/* ---- registers ---- */

/* As a guest's load: whole, while the I/O thread may be writing. */
static inline uint32_t reg_read(struct world *w, uint64_t offset)
{
	const uint32_t *words = (const uint32_t *)w->device->regs;

	CHECK(offset % sizeof(*words) == 0);
	return __atomic_load_n(&words[offset / sizeof(*words)],
			       __ATOMIC_SEQ_CST);
}

static inline void reg_write(struct world *w, uint64_t offset, uint32_t value)
{
	lv_mmio_write(w->device, offset, (const uint8_t *)&value, 4);
}

static inline uint32_t get_status(struct world *w)
{
	return reg_read(w, 0x070);
}

static inline void set_status(struct world *w, uint32_t status)
{
	reg_write(w, 0x070, status);
}

static inline void set_features(struct world *w, uint64_t features)
{
	reg_write(w, 0x024, 0);
	reg_write(w, 0x020, (uint32_t)features);
	reg_write(w, 0x024, 1);
	reg_write(w, 0x020, (uint32_t)(features >> 32));
}

static inline void set_ring(struct world *w, uint32_t queue, uint64_t desc,
			    uint64_t avail, uint64_t used)
{
	reg_write(w, 0x030, queue);
	reg_write(w, 0x038, w->num);
	reg_write(w, 0x080, (uint32_t)desc);
	reg_write(w, 0x084, (uint32_t)(desc >> 32));
	reg_write(w, 0x090, (uint32_t)avail);
	reg_write(w, 0x094, (uint32_t)(avail >> 32));
	reg_write(w, 0x0a0, (uint32_t)used);
	reg_write(w, 0x0a4, (uint32_t)(used >> 32));
	reg_write(w, 0x044, 1);
}

/* From any state to FEATURES_OK. */
static inline void negotiate(struct world *w, uint64_t features)
{
	set_status(w, 0);
	set_status(w, 1);
	set_status(w, 3);
	set_features(w, features | LV_VIRTIO_F_VERSION_1);
	set_status(w, 11);
	CHECK(get_status(w) == 11);
}

/* From any state to a device that runs with all its queues. */
static inline void driver_ok(struct world *w, uint64_t features)
{
	memset(at(w, 0), 0, DATA);
	negotiate(w, features);
	for (uint32_t q = 0; q < w->device->queues; q++) {
		set_ring(w, q, RING(q), RING_AVAIL(q), RING_USED(q));
		w->avail[q] = 0;
		w->used[q] = 0;
		w->free_desc[q] = 0;
	}
	set_status(w, 15);
}

/* ---- queues ---- */

/* The guest writes while the device reads: no race of ours. */
__attribute__((no_sanitize("thread"))) static inline void
put_desc(const struct world *w, uint64_t table, uint32_t index, uint64_t addr,
	 uint32_t len, uint16_t flags, uint16_t next)
{
	struct desc desc = {addr, len, flags, next};

	memcpy(at(w, table + 16 * index), &desc, sizeof(desc));
}

/* Makes a head available, whatever it says. */
static inline void offer(struct world *w, uint32_t queue, uint16_t head)
{
	uint16_t slot = (uint16_t)(w->avail[queue] % w->num);

	poke16(w, RING_AVAIL(queue) + 4 + 2ull * slot, head);
	poke16(w, RING_AVAIL(queue) + 2, ++w->avail[queue]);
}

struct part {
	uint64_t addr;
	uint32_t len;
	uint16_t flags; /* WRITE or 0 */
};

/* Lays the parts out as a chain of fresh descriptors and offers it. The ring is
 * filled from the start again when a chain would not fit. */
static inline uint16_t add_chain(struct world *w, uint32_t queue,
				 const struct part *parts, uint32_t count)
{
	uint16_t head;

	if (w->free_desc[queue] + count > w->num)
		w->free_desc[queue] = 0;
	head = w->free_desc[queue];
	for (uint32_t i = 0; i < count; i++) {
		bool last = i + 1 == count;

		put_desc(w, RING(queue), head + i, parts[i].addr, parts[i].len,
			 (uint16_t)(parts[i].flags | (last ? 0 : NEXT)),
			 (uint16_t)(last ? 0 : head + i + 1));
	}
	w->free_desc[queue] = (uint16_t)(head + count);
	offer(w, queue, head);
	return head;
}

static inline uint16_t used_index(const struct world *w, uint32_t queue)
{
	return peek16(w, RING_USED(queue) + 2);
}

/* Takes the next used element; fails the test when there is none. */
static inline uint32_t take_used(struct world *w, uint32_t queue, uint32_t *id)
{
	uint64_t entry;

	CHECK(used_index(w, queue) != w->used[queue]);
	entry = RING_USED(queue) + 4 + 8ull * (w->used[queue] % w->num);
	w->used[queue]++;
	if (id != NULL)
		*id = peek32(w, entry);
	return peek32(w, entry + 4);
}

static inline bool readable_now(int fd)
{
	struct pollfd poller = {.fd = fd, .events = POLLIN};

	return poll(&poller, 1, 0) == 1;
}

/* Whether the device interrupted since the last call. */
static inline bool interrupted(struct world *w)
{
	bool yes = readable_now(w->device->irq_fd);

	if (yes)
		lv_eventfd_drain(w->device->irq_fd);
	return yes;
}

/* The device is in NEEDS_RESET and said why, once. */
static inline void check_failed(struct world *w, enum lv_device_fault fault)
{
	struct lv_event event;

	CHECK((get_status(w) & LV_STATUS_NEEDS_RESET) != 0);
	CHECK((reg_read(w, 0x060) & 2) != 0);
	CHECK(lv_events_take(&w->events, &event) == 1);
	CHECK(event.kind == LV_EVENT_DEVICE_FAILED);
	CHECK(event.detail == fault);
	CHECK(lv_events_take(&w->events, &event) == 0);
}

#endif
