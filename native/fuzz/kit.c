/* kit.c - the driver of kit.h: how it starts a device, what it does then. */
#include "kit.h"

#define ACTIONS_MAX 96u
#define PARTS_MAX   8u

/* A ring's address, which is now and then no place for a ring. */
static uint64_t ring_address(struct fuzz *fuzz, uint64_t right, uint8_t twist)
{
	static const uint64_t wrong[] = {
	    RAM_BYTES - 16, RAM_BYTES,	    0xc0000000u, HIGH_GPA - 16,
	    HIGH_GPA,	    UINT64_MAX - 8, 1,		 0x10002,
	};

	if (twist < 0xf8)
		return right;
	return twist == 0xff ? take(&fuzz->script, 8) : wrong[twist & 7u];
}

static void set_address(struct lv_device *device, uint64_t offset,
			uint64_t address)
{
	reg_write(device, offset, (uint32_t)address);
	reg_write(device, offset + 4, (uint32_t)(address >> 32));
}

static void driver_start(struct fuzz *fuzz, bool again)
{
	struct lv_device *device = fuzz->device;
	uint8_t twist = take8(&fuzz->script);

	reg_write(device, 0x070, 0);
	/* The first time, all of it is zeros. */
	if (again)
		memset(at(&fuzz->mem, 0), 0, DATA);
	memset(fuzz->ring, 0, sizeof(fuzz->ring));
	reg_write(device, 0x070, 1);
	reg_write(device, 0x070, 3);
	reg_write(device, 0x024, 0);
	reg_write(device, 0x020, (uint32_t)fuzz->features);
	reg_write(device, 0x024, 1);
	reg_write(device, 0x020, (uint32_t)(fuzz->features >> 32));
	reg_write(device, 0x070, 11);
	for (uint32_t q = 0; q < device->queues; q++) {
		reg_write(device, 0x030, q);
		reg_write(device, 0x038, fuzz->num);
		set_address(device, 0x080, ring_address(fuzz, RING(q), twist));
		set_address(
		    device, 0x090,
		    ring_address(fuzz, AVAIL(q), (uint8_t)(twist + 0x10)));
		set_address(
		    device, 0x0a0,
		    ring_address(fuzz, USED(q), (uint8_t)(twist + 0x20)));
		/* A queue that the driver leaves out. */
		if (twist != 0x80 + q)
			reg_write(device, 0x044, 1);
		fuzz->ring[q].honest = twist < 0x80;
	}
	reg_write(device, 0x070, 15);
}

/* ---- queues ---- */

static void offer(struct fuzz *fuzz, uint32_t queue, uint16_t head)
{
	struct ring *ring = &fuzz->ring[queue];
	uint64_t slot = ring->avail % fuzz->num;

	poke16(&fuzz->mem, AVAIL(queue) + 4 + 2 * slot, head);
	poke16(&fuzz->mem, AVAIL(queue) + 2, ++ring->avail);
}

/* Room for count descriptors in a row, or num when there is none. */
static uint32_t find_free(const struct fuzz *fuzz, const struct ring *ring,
			  uint32_t count)
{
	for (uint32_t i = 0, start = ring->next_desc; i < fuzz->num; i++) {
		uint32_t first = (start + i) % fuzz->num;
		uint32_t run = 0;

		while (run < count && first + run < fuzz->num &&
		       ring->owner[first + run] == 0)
			run++;
		if (run == count)
			return first;
	}
	return fuzz->num;
}

static uint64_t data_address(struct fuzz *fuzz, uint32_t len)
{
	uint8_t which = take8(&fuzz->script);
	uint64_t gpa = DATA + which * 0xf0ull;

	if (which >= 0xf0 && len <= 0x2000)
		return HIGH_GPA + (which & 15u) * 64;
	/* Nearly always inside; what is longer than RAM cannot be. */
	if (len <= DATA_BYTES && gpa + len > DATA + DATA_BYTES)
		gpa = DATA + DATA_BYTES - len;
	return gpa;
}

/* One descriptor made wrong. All accounts end here: what the device writes or
 * gives away may be any queue's rings then. */
static void flip(struct fuzz *fuzz, uint32_t index, struct desc *desc)
{
	struct script *script = &fuzz->script;

	for (uint32_t q = 0; q < LV_QUEUES_MAX; q++)
		fuzz->ring[q].honest = false;
	switch (take8(script) % 10) {
	case 0:
		desc->next = (uint16_t)take(script, 2);
		break;
	case 1:
		desc->flags |= NEXT;
		desc->next = (uint16_t)index;
		break;
	case 2:
		desc->addr = take(script, 8);
		break;
	case 3:
		desc->len = take32(script);
		break;
	case 4:
		desc->flags ^= WRITE;
		break;
	case 5:
		desc->flags = (uint16_t)take(script, 2);
		break;
	case 6:
		desc->addr = RAM_BYTES - take8(script);
		break;
	case 7:
		desc->addr = HIGH_GPA - take8(script);
		break;
	case 8:
		desc->len = 0;
		break;
	default:
		desc->flags |= INDIRECT;
		break;
	}
}

/* Puts the start of a request into the first readable parts. */
static void put_header(struct fuzz *fuzz, uint32_t queue,
		       const struct desc *parts, uint32_t count)
{
	uint8_t header[HEADER_MAX] = {0};
	uint32_t bytes = fuzz->target->header(fuzz, queue, header);
	uint32_t done = 0;

	for (uint32_t i = 0; i < count && done < bytes; i++) {
		uint32_t part = bytes - done;
		uint8_t *hva;

		if ((parts[i].flags & WRITE) != 0)
			continue;
		if (part > parts[i].len)
			part = parts[i].len;
		hva = lv_gpa(&fuzz->mem, parts[i].addr, part);
		if (hva != NULL)
			memcpy(hva, header + done, part);
		done += part;
	}
}

/* Parts with the directions that the queue is for, filled by the script. */
static uint32_t make_parts(struct fuzz *fuzz, uint32_t queue,
			   struct desc *parts)
{
	struct script *script = &fuzz->script;
	bool filled = (fuzz->target->filled >> queue & 1u) != 0;
	uint8_t shape = take8(script);
	uint32_t readable = shape & 3u;
	uint32_t writable = shape >> 2 & 3u;
	uint32_t count;

	if (filled && (shape & 0x80) == 0)
		readable = 0;
	else if (fuzz->target->header != NULL && readable == 0)
		readable = 1;
	count = readable + writable;
	if (count == 0)
		count = 1;
	for (uint32_t i = 0; i < count; i++) {
		parts[i].len = take_size(script);
		parts[i].addr = data_address(fuzz, parts[i].len);
		parts[i].flags = i >= readable ? WRITE : 0;
	}
	/* A header and a status of their own: what most requests have. */
	if ((shape & 0x40) == 0 && readable > 0)
		parts[0].len = fuzz->target->header_bytes;
	if ((shape & 0x20) != 0 && writable > 0)
		parts[count - 1].len = 1;
	return count;
}

static void link_parts(struct fuzz *fuzz, uint64_t table, uint32_t first,
		       struct desc *parts, uint32_t count)
{
	uint8_t twist = take8(&fuzz->script);

	for (uint32_t i = 0; i < count; i++) {
		if (i + 1 < count) {
			parts[i].flags |= NEXT;
			parts[i].next = (uint16_t)(first + i + 1);
		}
		if (twist >= 0xe0 && twist % count == i)
			flip(fuzz, first + i, &parts[i]);
		put_desc(&fuzz->mem, table, first + i, parts[i]);
	}
}

static void add_chain(struct fuzz *fuzz, uint32_t queue)
{
	struct ring *ring = &fuzz->ring[queue];
	struct desc parts[PARTS_MAX] = {0};
	uint32_t count = make_parts(fuzz, queue, parts);
	bool indirect = (take8(&fuzz->script) & 3u) == 3u &&
			(fuzz->features & LV_VIRTIO_F_INDIRECT_DESC) != 0;
	uint32_t wanted = indirect ? 1 : count;
	uint32_t head = find_free(fuzz, ring, wanted);
	uint64_t room = 1;

	if (head == fuzz->num)
		return;
	for (uint32_t i = 0; i < count; i++)
		room += (parts[i].flags & WRITE) != 0 ? parts[i].len : 0;
	if (fuzz->target->header != NULL)
		put_header(fuzz, queue, parts, count);
	if (indirect) {
		uint64_t table = TABLE(queue, head);

		if (head >= 16)
			return;
		link_parts(fuzz, table, 0, parts, count);
		put_desc(&fuzz->mem, RING(queue), head,
			 (struct desc){table, count * 16, INDIRECT, 0});
	} else {
		link_parts(fuzz, RING(queue), head, parts, count);
	}
	for (uint32_t i = 0; i < wanted; i++)
		ring->owner[head + i] = (uint16_t)(head + 1);
	ring->next_desc = (uint16_t)((head + wanted) % fuzz->num);
	ring->room[head] = room;
	offer(fuzz, queue, (uint16_t)head);
}

/* A chain of very many small parts, in a table or in the ring. Too long for
 * most queues, which a driver may well try. */
static void add_long(struct fuzz *fuzz, uint32_t queue)
{
	struct script *script = &fuzz->script;
	uint8_t what = take8(script);
	bool indirect = (what & 1) != 0;
	uint32_t most = indirect ? LONG_MAX : fuzz->num;
	uint32_t count = 1 + (uint32_t)take(script, 2) % most;
	uint64_t table = indirect ? LONG_TABLE : RING(queue);

	/* Which of them are free is not looked at. */
	fuzz->ring[queue].honest = false;
	for (uint32_t i = 0; i < count; i++) {
		bool last = i + 1 == count;
		struct desc desc = {
		    .addr = DATA + i,
		    .len = what >> 4,
		    .flags = (uint16_t)((what & 2u) | (last ? 0 : NEXT)),
		    .next = (uint16_t)(i + 1),
		};

		/* A table at the end of a chain in the ring. */
		if (last && !indirect && (what & 8) != 0)
			desc = (struct desc){LONG_TABLE, LONG_MAX * 16,
					     INDIRECT, 0};
		put_desc(&fuzz->mem, table, i, desc);
	}
	if (indirect)
		put_desc(&fuzz->mem, RING(queue), 0,
			 (struct desc){table, count * 16, INDIRECT, 0});
	offer(fuzz, queue, 0);
}

static void take_used(struct fuzz *fuzz, uint32_t queue)
{
	struct ring *ring = &fuzz->ring[queue];
	uint64_t slot = ring->used % fuzz->num;
	uint32_t id = peek32(&fuzz->mem, USED(queue) + 4 + 8 * slot);
	uint32_t len = peek32(&fuzz->mem, USED(queue) + 8 + 8 * slot);

	MUST(id < fuzz->num);
	MUST(ring->room[id] != 0);
	MUST(len < ring->room[id]);
	ring->room[id] = 0;
	ring->used++;
	for (uint32_t i = id; i < fuzz->num && ring->owner[i] == id + 1; i++)
		ring->owner[i] = 0;
}

void check_queues(struct fuzz *fuzz)
{
	struct lv_device *device = fuzz->device;

	for (uint32_t q = 0; q < device->queues; q++) {
		struct ring *ring = &fuzz->ring[q];
		const struct lv_queue *queue = &device->queue[q];

		if (!device->active || !queue->ready)
			continue;
		/* What was popped is given back or held, and no more. */
		MUST((uint16_t)(queue->next_avail - queue->next_used) <=
		     (fuzz->target->held < queue->num ? fuzz->target->held
						      : queue->num));
		if (!ring->honest)
			continue;
		while (ring->used != peek16(&fuzz->mem, USED(q) + 2)) {
			MUST(ring->used != ring->avail);
			take_used(fuzz, q);
		}
	}
}

/* ---- the actions ---- */

static void poke(struct fuzz *fuzz)
{
	uint64_t gpa = take(&fuzz->script, 2) * 2;
	uint16_t value = (uint16_t)take(&fuzz->script, 2);

	poke16(&fuzz->mem, gpa, value);
	/* Rings lie below DATA; data is the driver's to write at any time, but
	 * for tables, which lie in the other region. */
	if (gpa < DATA)
		fuzz->ring[gpa / 0x2000].honest = false;
}

static void touch_register(struct fuzz *fuzz, uint8_t action)
{
	static const uint16_t offsets[] = {
	    0x000, 0x004, 0x008, 0x00c, 0x010, 0x014, 0x020, 0x024, 0x030,
	    0x034, 0x038, 0x044, 0x050, 0x060, 0x064, 0x070, 0x080, 0x084,
	    0x090, 0x094, 0x0a0, 0x0a4, 0x0fc, 0x100, 0x104, 0x108, 0x13c,
	};
	static const uint8_t widths[] = {4, 4, 4, 4, 4, 1, 2, 8};
	struct script *script = &fuzz->script;
	uint8_t which = take8(script);
	uint64_t offset = which < 0xf0 ? offsets[which % 27u] : take(script, 2);
	uint32_t width = widths[action >> 4 & 7u];
	uint8_t data[8] = {0};

	data[0] = take8(script);
	if (which % 8 == 7)
		data[1] = take8(script);
	/* A driver that resets, or moves a ring, has begun anew. */
	if (offset != 0x064 && offset != 0x050)
		for (uint32_t q = 0; q < LV_QUEUES_MAX; q++)
			fuzz->ring[q].honest = false;
	lv_mmio_write(fuzz->device, offset, data, width);
}

static void act(struct fuzz *fuzz)
{
	static const uint32_t delays_ms[] = {0, 1, 500, 6000};
	struct lv_device *device = fuzz->device;
	uint8_t action = take8(&fuzz->script);
	uint32_t queue = (action >> 4) % device->queues;

	switch (action & 15u) {
	case 0 ... 5:
		add_chain(fuzz, queue);
		break;
	case 6 ... 8:
		lv_device_kick(device, queue);
		break;
	case 9:
		/* As the I/O thread does: only what has a descriptor. */
		if (device->poll_fd >= 0)
			lv_device_poll(device);
		break;
	case 10:
		(void)lv_device_tick(device,
				     lv_now_ns() + delays_ms[action >> 4 & 3u] *
						       1000000ull);
		break;
	case 11:
		touch_register(fuzz, action);
		break;
	case 12:
		poke(fuzz);
		break;
	case 13:
		if (action >= 0xc0)
			driver_start(fuzz, true);
		else
			add_long(fuzz, queue);
		break;
	default:
		if (fuzz->target->host != NULL)
			fuzz->target->host(fuzz, action >> 4);
		break;
	}
	check_queues(fuzz);
}

/* Of one device, at most one failure is told, and by name. */
static void check_events(struct fuzz *fuzz)
{
	struct lv_event event;
	uint32_t failed = 0;

	while (lv_events_take(&fuzz->events, &event) == 1) {
		MUST(event.kind == LV_EVENT_DEVICE_FAILED);
		MUST(event.detail >= LV_FAULT_RING_ADDRESS &&
		     event.detail <= LV_FAULT_INDIRECT_TABLE);
		failed++;
	}
	MUST(failed <= 1);
	lv_eventfd_drain(fuzz->events.fd);
}

int fuzz_device(const struct target *target, const uint8_t *data, size_t size)
{
	static const uint32_t nums[] = {1, 2, 4, 8, 16, 32, 128, 256};
	static struct fuzz fuzz;
	uint8_t choice;

	if (fuzz.target == NULL)
		MUST(lv_events_init(&fuzz.events) == 0);
	fuzz.target = target;
	fuzz.script = (struct script){data, size};
	memory_reset(&fuzz.mem);
	choice = take8(&fuzz.script);
	fuzz.num = nums[choice & 7u];
	if (target->make(&fuzz) < 0)
		return 0;
	fuzz.features = fuzz.device->features;
	if ((choice & 0x08) != 0)
		fuzz.features &= ~LV_VIRTIO_F_EVENT_IDX;
	if ((choice & 0x10) != 0)
		fuzz.features &= ~LV_VIRTIO_F_INDIRECT_DESC;
	if ((choice & 0x20) != 0)
		fuzz.features &= ~0xffffffull | take(&fuzz.script, 3);
	fuzz.device->coalesce.enabled =
	    (choice & 0x40) != 0 && fuzz.device->ops->coalesces.queues != 0;
	driver_start(&fuzz, false);
	for (uint32_t i = 0; i < ACTIONS_MAX && fuzz.script.left > 0; i++)
		act(&fuzz);
	/* What is left of it is served before the device goes. */
	for (uint32_t q = 0; q < fuzz.device->queues; q++)
		lv_device_kick(fuzz.device, q);
	check_queues(&fuzz);
	if (target->end != NULL)
		target->end(&fuzz);
	fuzz.device->ops->destroy(fuzz.device);
	check_events(&fuzz);
	return 0;
}
