/*
 * mmio.c - any access to the registers of a device, of any width, held against
 * the order that virtio 1.2 prescribes (2.1, 3.1.1, 4.2.2).
 */
#include "kit.h"

#define STEPS_MAX 200u
#define RUNS                                                                   \
	(LV_STATUS_ACKNOWLEDGE | LV_STATUS_DRIVER | LV_STATUS_FEATURES_OK |    \
	 LV_STATUS_DRIVER_OK)

struct seen {
	uint32_t status;
	uint64_t driver_features;
	uint64_t malformed;
	struct {
		uint32_t num;
		bool ready;
		uint64_t desc, avail, used;
	} queue[LV_QUEUES_MAX];
};

static struct lv_device *make(uint8_t choice, const struct lv_mem *mem,
			      struct lv_events *events)
{
	static const struct lv_rng_config rng = {.size = sizeof(rng)};
	static const struct lv_balloon_config balloon = {.size =
							     sizeof(balloon)};
	struct lv_device *device = NULL;

	MUST(((choice & 1) != 0 ? lv_balloon_new(&balloon, mem, events, &device)
				: lv_rng_new(&rng, mem, events, &device)) == 0);
	return device;
}

static void look(struct lv_device *device, struct seen *seen)
{
	memset(seen, 0, sizeof(*seen));
	seen->status = reg_read(device, 0x070);
	seen->driver_features = device->driver_features;
	seen->malformed = device->stats.malformed;
	for (uint32_t q = 0; q < device->queues; q++) {
		const struct lv_queue *queue = &device->queue[q];

		seen->queue[q].num = queue->num;
		seen->queue[q].ready = queue->ready;
		seen->queue[q].desc = queue->addr[0];
		seen->queue[q].avail = queue->addr[1];
		seen->queue[q].used = queue->addr[2];
	}
}

/* The one status that may follow, NEEDS_RESET and FAILED aside. */
static uint32_t after(uint32_t status)
{
	switch (status) {
	case 0:
		return LV_STATUS_ACKNOWLEDGE;
	case LV_STATUS_ACKNOWLEDGE:
		return LV_STATUS_ACKNOWLEDGE | LV_STATUS_DRIVER;
	case LV_STATUS_ACKNOWLEDGE | LV_STATUS_DRIVER:
		return RUNS & ~LV_STATUS_DRIVER_OK;
	default:
		return RUNS;
	}
}

static void check_order(const struct lv_device *device,
			const struct seen *before, const struct seen *now)
{
	const uint32_t ends = LV_STATUS_NEEDS_RESET | LV_STATUS_FAILED;
	uint32_t old = before->status & ~ends;
	uint32_t new = now->status & ~ends;

	MUST(new == old || new == 0 || new == after(old));
	/* Nothing but a reset takes an end back. */
	if (now->status != 0)
		MUST((before->status & ends & ~now->status) == 0);
	if (device->active)
		MUST(now->status == RUNS);
	if ((now->status & LV_STATUS_FEATURES_OK) != 0) {
		MUST((now->driver_features & ~device->features) == 0);
		MUST((now->driver_features & LV_VIRTIO_F_VERSION_1) != 0);
	}
	/* 2.2.1: no feature after FEATURES_OK. */
	if ((old & LV_STATUS_FEATURES_OK) != 0 && now->status != 0)
		MUST(now->driver_features == before->driver_features);
	/* Rings move between FEATURES_OK and DRIVER_OK only. */
	if (old != (RUNS & ~LV_STATUS_DRIVER_OK) && now->status != 0)
		MUST(memcmp(now->queue, before->queue, sizeof(now->queue)) ==
		     0);
	for (uint32_t q = 0; q < LV_QUEUES_MAX; q++) {
		uint32_t num = now->queue[q].num;

		MUST(num <= LV_QUEUE_MAX && (num & (num - 1)) == 0);
		MUST(num != 0 || !now->queue[q].ready);
		if (now->status == 0)
			MUST(num == 0 && now->queue[q].desc == 0);
	}
}

/* 4.2.2: what is read is that of the page and the queue that were selected. */
static void check_selected(struct lv_device *device)
{
	uint32_t page = device->device_features_sel;
	uint32_t queue = device->queue_sel;
	bool present = queue < device->queues;

	MUST(reg_read(device, 0x010) ==
	     (page < 2 ? (uint32_t)(device->features >> 32 * page) : 0));
	MUST(reg_read(device, 0x034) == (present ? LV_QUEUE_MAX : 0));
	MUST(reg_read(device, 0x044) ==
	     (present && device->queue[queue].ready ? 1 : 0));
}

static void check_constants(struct lv_device *device)
{
	MUST(reg_read(device, 0x000) == 0x74726976);
	MUST(reg_read(device, 0x004) == 2);
	MUST(reg_read(device, 0x008) == device->ops->id);
	check_selected(device);
}

static uint64_t take_offset(struct script *script)
{
	static const uint16_t offsets[] = {
	    0x014, 0x020, 0x024, 0x030, 0x038, 0x044, 0x050, 0x064,
	    0x070, 0x070, 0x070, 0x080, 0x084, 0x090, 0x094, 0x0a0,
	    0x0a4, 0x0fc, 0x100, 0x104, 0x010, 0x034, 0x060, 0x108,
	};
	uint8_t which = take8(script);

	return which < 0xe0 ? offsets[which % 24u] : take(script, 2) & 0xfffu;
}

static uint32_t take_value(struct script *script, const struct seen *seen)
{
	static const uint32_t addresses[] = {0,	      0x1000,  0x1400,
					     DATA,    0x2000,  0x3000,
					     0x3fff8, 0x20000, 0xc0000000};
	uint8_t which = take8(script);

	if (which < 0x60)
		return after(seen->status & 15u);
	if (which < 0xa0)
		return which & 31u;
	if (which < 0xc0)
		return 1u << (which & 15u);
	if (which < 0xe0)
		return addresses[which % 9u];
	return take32(script);
}

static void step(struct lv_device *device, struct script *script,
		 struct seen *seen)
{
	static const uint32_t widths[] = {4, 4, 4, 4, 4, 1, 2, 8};
	uint8_t what = take8(script);
	uint32_t width = widths[what >> 3 & 7u];
	uint64_t offset = take_offset(script);
	uint8_t data[8] = {0};

	if ((what & 7) == 7) {
		lv_device_kick(device, what >> 6 & (device->queues - 1));
		return;
	}
	for (uint32_t i = 0; i < 2; i++) {
		uint32_t value = take_value(script, seen);

		memcpy(data + 4ull * i, &value, sizeof(value));
		if (width != 8)
			break;
	}
	lv_mmio_write(device, offset, data, width);
	if (offset < 0x100 && (width != 4 || offset % 4 != 0))
		MUST(device->stats.malformed > seen->malformed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct lv_events events;
	static bool ready;
	struct script script = {data, size};
	struct lv_device *device;
	struct lv_event event;
	struct seen before, now;
	struct lv_mem mem;
	uint32_t failed = 0;

	if (!ready)
		MUST(lv_events_init(&events) == 0);
	ready = true;
	memory_reset(&mem);
	device = make(take8(&script), &mem, &events);
	look(device, &before);
	for (uint32_t i = 0; i < STEPS_MAX && script.left > 0; i++) {
		step(device, &script, &before);
		look(device, &now);
		check_order(device, &before, &now);
		before = now;
	}
	check_constants(device);
	device->ops->destroy(device);
	while (lv_events_take(&events, &event) == 1)
		failed++;
	MUST(failed <= 1);
	lv_eventfd_drain(events.fd);
	return 0;
}
