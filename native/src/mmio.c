/*
 * mmio.c - virtio over MMIO, version 2 (virtio 1.2, 4.2), common to all
 * devices.
 *
 *   0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK     (3.1.1)
 *
 * and nothing else: any other write of status is counted and ignored, except 0
 * (reset) and FAILED. Feature bits are taken in DRIVER, queue registers between
 * FEATURES_OK and DRIVER_OK. A ring that breaks the rules sets NEEDS_RESET,
 * stops the device and is reported once.
 *
 * Writes are handled on the vCPU thread under the device's lock; rings on the
 * I/O thread under the same lock, so a reset waits for I/O in flight. The
 * interrupt registers are atomics: acknowledging never waits for a disk.
 * Reads are the guest's own business (struct lv_registers).
 */
#include <stdlib.h>

#include "lv.h"

#define ISR_VRING      1u
#define ISR_CONFIG     2u
#define CONFIG_SPACE   0x100u
#define MAGIC	       0x74726976u /* "virt" */
#define VERSION	       2u
#define VENDOR	       0x5652564cu /* "LVRV" */

#define CHAIN_DRIVER   (LV_STATUS_ACKNOWLEDGE | LV_STATUS_DRIVER)
#define CHAIN_FEATURES (CHAIN_DRIVER | LV_STATUS_FEATURES_OK)
#define CHAIN_OK       (CHAIN_FEATURES | LV_STATUS_DRIVER_OK)

/* 4.2.2, what is written; struct lv_registers has what is read */
enum {
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_NUM = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = 0x050,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	/* Descriptors, and at 0x090 avail, at 0x0a0 used: the low halves; the
	 * high ones follow. */
	REG_QUEUE_ADDR = 0x080,
};

/* What is read there depends on what was written. */
static void show_selected(struct lv_device *device)
{
	uint32_t page = device->device_features_sel;
	bool present = device->queue_sel < device->queues;

	device->regs->device_features =
	    page > 1 ? 0 : (uint32_t)(device->features >> 32 * page);
	device->regs->queue_num_max = present ? LV_QUEUE_MAX : 0;
	device->regs->queue_ready =
	    present && device->queue[device->queue_sel].ready;
}

int lv_device_new(const struct lv_device_ops *ops, const void *config,
		  struct lv_registers *regs, const struct lv_mem *mem,
		  struct lv_events *events, struct lv_device **out)
{
	struct lv_device *device = calloc(1, ops->bytes);
	int error;

	if (device == NULL)
		return -ENOMEM;
	device->regs = regs;
	device->ops = ops;
	device->mem = mem;
	device->events = events;
	device->features = ops->features | LV_VIRTIO_F_VERSION_1 |
			   LV_VIRTIO_F_EVENT_IDX | LV_VIRTIO_F_INDIRECT_DESC;
	device->queues = ops->queues;
	device->poll_fd = -1;
	device->wake_ns = LV_NEVER;
	(void)pthread_mutex_init(&device->lock, NULL);
	/* Of all there may be: what could not be opened is no descriptor. */
	device->irq_fd = lv_eventfd_new();
	for (uint32_t i = 0; i < LV_QUEUES_MAX; i++)
		device->kick_fd[i] = -1;
	memcpy(regs->identity,
	       (const uint32_t[]){MAGIC, VERSION, ops->id, VENDOR},
	       sizeof(regs->identity));
	error = ops->init != NULL ? ops->init(device, config) : 0;
	if (error == 0)
		error = device->irq_fd;
	for (uint32_t i = 0; i < device->queues && error >= 0; i++)
		error = device->kick_fd[i] = lv_eventfd_new();
	if (error < 0) {
		ops->destroy(device);
		return error;
	}
	show_selected(device);
	*out = device;
	return 0;
}

void lv_device_free(struct lv_device *device)
{
	for (uint32_t i = 0; i < LV_QUEUES_MAX; i++)
		(void)close(device->kick_fd[i]);
	(void)close(device->irq_fd);
	(void)pthread_mutex_destroy(&device->lock);
	free(device);
}

static void interrupt(struct lv_device *device, uint32_t cause)
{
	device->regs->isr |= cause;
	LV_COUNT(device, interrupts, 1);
	lv_eventfd_signal(device->irq_fd);
}

void lv_device_fail(struct lv_device *device, enum lv_device_fault fault)
{
	LV_COUNT(device, malformed, 1);
	device->active = false;
	/* 2.1.2: the driver learns of it by a configuration interrupt. */
	device->regs->status |= LV_STATUS_NEEDS_RESET;
	interrupt(device, ISR_CONFIG);
	if (!device->reported) {
		struct lv_event event = {
		    .kind = LV_EVENT_DEVICE_FAILED,
		    .device = device->index,
		    .detail = fault,
		};

		device->reported = true;
		lv_events_post(device->events, &event);
	}
}

bool lv_device_pop(struct lv_device *device, uint32_t queue,
		   struct lv_chain *chain)
{
	int result;

	if (!device->active || !device->queue[queue].ready)
		return false;
	chain->queue = queue;
	result = lv_queue_pop(&device->queue[queue], device->mem, chain);
	if (result < 0)
		lv_device_fail(device, (enum lv_device_fault) - result);
	return result > 0;
}

void lv_device_signal(struct lv_device *device, uint32_t queue)
{
	if (device->active && device->queue[queue].ready &&
	    !device->coalesce.polls &&
	    lv_queue_should_signal(&device->queue[queue]))
		interrupt(device, ISR_VRING);
}

void lv_device_configure(struct lv_device *device, uint32_t offset,
			 const void *value, uint32_t len)
{
	memcpy(device->regs->config + offset, value, len);
	device->regs->generation++;
	if (device->active)
		interrupt(device, ISR_CONFIG);
}

static void reset(struct lv_device *device)
{
	device->active = device->coalesce.polls = false;
	device->wake_ns = LV_NEVER;
	if (device->ops->reset != NULL)
		device->ops->reset(device);
	memset(device->queue, 0, sizeof(device->queue));
	device->device_features_sel = 0;
	device->driver_features_sel = 0;
	device->queue_sel = 0;
	device->driver_features = 0;
	device->regs->isr = 0;
	device->regs->status = 0;
}

static void activate(struct lv_device *device)
{
	bool event_idx = (device->driver_features & LV_VIRTIO_F_EVENT_IDX) != 0;
	bool indirect =
	    (device->driver_features & LV_VIRTIO_F_INDIRECT_DESC) != 0;

	device->regs->status = CHAIN_OK;
	device->active = true;
	for (uint32_t i = 0; i < device->queues; i++) {
		struct lv_queue *queue = &device->queue[i];

		if (queue->ready &&
		    lv_queue_start(queue, device->mem, event_idx, indirect) !=
			LV_FAULT_NONE) {
			lv_device_fail(device, LV_FAULT_RING_ADDRESS);
			return;
		}
	}
	/* A driver may fill a queue before DRIVER_OK. */
	lv_device_kick_all(device);
}

/* Whether 3.1.1 knows this way from a status to another. */
static bool follows(uint32_t from, uint32_t to)
{
	static const uint8_t chain[] = {0, LV_STATUS_ACKNOWLEDGE, CHAIN_DRIVER,
					CHAIN_FEATURES, CHAIN_OK};

	for (size_t i = 1; i < sizeof(chain); i++)
		if (chain[i - 1] == from)
			return chain[i] == to;
	return false;
}

static bool write_status(struct lv_device *device, uint32_t value)
{
	uint32_t old = device->regs->status;
	/* A driver that writes back what it read keeps NEEDS_RESET set. */
	uint32_t from = old & ~LV_STATUS_NEEDS_RESET;
	uint32_t to = value & ~LV_STATUS_NEEDS_RESET;
	uint64_t features = device->driver_features;

	if (value == 0) {
		reset(device);
	} else if ((to & LV_STATUS_FAILED) != 0) {
		device->active = false;
		device->regs->status = old | LV_STATUS_FAILED;
	} else if (from == to) {
		return true; /* Linux writes it again when nothing changed. */
	} else if (!follows(from, to) ||
		   /* 3.1.1 step 6: a refusal reads back without the bit. */
		   (to == CHAIN_FEATURES &&
		    ((features & ~device->features) != 0 ||
		     (features & LV_VIRTIO_F_VERSION_1) == 0))) {
		return false;
	} else if (to == CHAIN_OK) {
		activate(device);
	} else {
		device->regs->status = to;
	}
	return true;
}

static bool write_half(uint64_t *whole, bool high, uint32_t value)
{
	memcpy((uint8_t *)whole + (high ? 4 : 0), &value, sizeof(value));
	return true;
}

static bool write_queue(struct lv_device *device, uint64_t offset,
			uint32_t value)
{
	struct lv_queue *queue =
	    &device->queue[device->queue_sel % LV_QUEUES_MAX];
	uint64_t at = offset - REG_QUEUE_ADDR;

	if (device->regs->status != CHAIN_FEATURES ||
	    device->queue_sel >= device->queues)
		return false;
	if (offset == REG_QUEUE_READY) {
		queue->ready = value == 1 && queue->num != 0;
		return value == 0 || queue->ready;
	}
	/* 4.2.2.2: not while the queue is ready. */
	if (queue->ready)
		return false;
	if (offset == REG_QUEUE_NUM) {
		/* A refused size leaves a queue that cannot become ready. */
		queue->num = value <= LV_QUEUE_MAX && (value & (value - 1)) == 0
				 ? value
				 : 0;
		return queue->num != 0;
	}
	if (offset < REG_QUEUE_ADDR || at >= sizeof(queue->addr) * 2 ||
	    (at & 11) != 0)
		return false;
	return write_half(&queue->addr[at / 16], (at & 4) != 0, value);
}

static bool write_driver_features(struct lv_device *device, uint32_t value)
{
	if (device->regs->status != CHAIN_DRIVER)
		return false;
	if (device->driver_features_sel > 1)
		return value == 0; /* pages that hold no bit of ours */
	return write_half(&device->driver_features,
			  device->driver_features_sel == 1, value);
}

/* Only when no ioeventfd took the write: a value that names no queue. */
static bool write_notify(struct lv_device *device, uint32_t value)
{
	if (value >= device->queues ||
	    (device->regs->status & LV_STATUS_DRIVER_OK) == 0)
		return false;
	lv_eventfd_signal(device->kick_fd[value]);
	return true;
}

static bool write_register(struct lv_device *device, uint64_t offset,
			   uint32_t value)
{
	switch (offset) {
	case REG_DEVICE_FEATURES_SEL:
		device->device_features_sel = value;
		return true;
	case REG_DRIVER_FEATURES:
		return write_driver_features(device, value);
	case REG_DRIVER_FEATURES_SEL:
		device->driver_features_sel = value;
		return true;
	case REG_QUEUE_SEL:
		device->queue_sel = value;
		return true;
	case REG_QUEUE_NOTIFY:
		return write_notify(device, value);
	case REG_STATUS:
		return write_status(device, value);
	default:
		return write_queue(device, offset, value);
	}
}

void lv_mmio_write(struct lv_device *device, uint64_t offset,
		   const uint8_t *data, uint32_t len)
{
	uint32_t writes = device->ops->space_writes;
	uint32_t value = 0;
	bool good = false;

	memcpy(&value, data, lv_min(len, sizeof(value)));
	if (len == 4 && offset == REG_INTERRUPT_ACK) {
		device->regs->isr &= ~value;
		return;
	}
	LV_LOCKED(&device->lock);
	if (len == 4 && offset < CONFIG_SPACE) {
		good = write_register(device, offset, value);
	} else if (len == 4 && writes != 0 && offset == CONFIG_SPACE + writes) {
		/* Little of a configuration is the driver's to write. */
		memcpy(device->regs->config + writes, data, len);
		good = true;
	}
	if (!good)
		LV_COUNT(device, malformed, 1);
	show_selected(device);
}
