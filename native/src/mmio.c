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
 * Registers are handled on the vCPU thread under the device's lock; rings on
 * the I/O thread under the same lock, so a reset waits for I/O in flight. The
 * interrupt registers are atomics: acknowledging never waits for a disk.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lv.h"

#define ISR_VRING      1u
#define ISR_CONFIG     2u
#define CONFIG_SPACE   0x100u
#define VENDOR	       0x5652564cu /* "LVRV" */

#define CHAIN_DRIVER   (LV_STATUS_ACKNOWLEDGE | LV_STATUS_DRIVER)
#define CHAIN_FEATURES (CHAIN_DRIVER | LV_STATUS_FEATURES_OK)
#define CHAIN_OK       (CHAIN_FEATURES | LV_STATUS_DRIVER_OK)

/* 4.2.2 */
enum {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_NUM_MAX = 0x034,
	REG_QUEUE_NUM = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = 0x050,
	REG_INTERRUPT_STATUS = 0x060,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC = 0x080, /* low halves; the high ones follow */
	REG_QUEUE_AVAIL = 0x090,
	REG_QUEUE_USED = 0x0a0,
	REG_CONFIG_GENERATION = 0x0fc,
};

static uint32_t status_of(const struct lv_device *device)
{
	return atomic_load_explicit(&device->status, memory_order_acquire);
}

static void set_status(struct lv_device *device, uint32_t status)
{
	atomic_store_explicit(&device->status, status, memory_order_release);
}

int lv_device_init(struct lv_device *device, const struct lv_device_ops *ops,
		   uint32_t queues, const struct lv_mem *mem,
		   struct lv_events *events, uint64_t features)
{
	device->ops = ops;
	device->queues = 0;
	device->poll_events = EPOLLIN;
	device->mem = mem;
	device->events = events;
	device->features = features | LV_VIRTIO_F_VERSION_1 |
			   LV_VIRTIO_F_EVENT_IDX | LV_VIRTIO_F_INDIRECT_DESC;
	device->poll_fd = -1;
	(void)pthread_mutex_init(&device->lock, NULL);
	device->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	while (device->irq_fd >= 0 && device->queues < queues) {
		int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

		if (fd < 0)
			break;
		device->kick_fd[device->queues++] = fd;
	}
	if (device->queues == queues)
		return 0;
	lv_device_fini(device);
	return -EMFILE;
}

void lv_device_fini(struct lv_device *device)
{
	for (uint32_t i = 0; i < device->queues; i++)
		(void)close(device->kick_fd[i]);
	if (device->irq_fd >= 0)
		(void)close(device->irq_fd);
	(void)pthread_mutex_destroy(&device->lock);
}

void *lv_device_new(size_t bytes, const struct lv_device_ops *ops,
		    uint32_t queues, const struct lv_mem *mem,
		    struct lv_events *events, uint64_t features)
{
	struct lv_device *device = calloc(1, bytes);
	int error;

	if (device == NULL)
		return NULL;
	error = lv_device_init(device, ops, queues, mem, events, features);
	if (error == 0)
		return device;
	free(device);
	errno = -error;
	return NULL;
}

void lv_device_free(struct lv_device *device)
{
	lv_device_fini(device);
	free(device);
}

static void interrupt(struct lv_device *device, uint32_t cause)
{
	/* Pairs with the acquire of the guest's read of INTERRUPT_STATUS. */
	atomic_fetch_or_explicit(&device->isr, cause, memory_order_acq_rel);
	LV_COUNT(device, interrupts, 1);
	lv_eventfd_signal(device->irq_fd);
}

void lv_device_fail(struct lv_device *device, enum lv_device_fault fault)
{
	LV_COUNT(device, malformed, 1);
	device->active = false;
	/* 2.1.2: the driver learns of it by a configuration interrupt. */
	set_status(device, status_of(device) | LV_STATUS_NEEDS_RESET);
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
	result = lv_queue_pop(&device->queue[queue], device->mem, chain);
	if (result < 0)
		lv_device_fail(device, (enum lv_device_fault) - result);
	return result > 0;
}

void lv_device_signal(struct lv_device *device, uint32_t queue)
{
	if (device->active && device->queue[queue].ready &&
	    lv_queue_should_signal(&device->queue[queue]))
		interrupt(device, ISR_VRING);
}

void lv_device_configure(struct lv_device *device, uint32_t offset,
			 const void *value, uint32_t len)
{
	memcpy(device->config + offset, value, len);
	atomic_fetch_add(&device->generation, 1);
	if (device->active)
		interrupt(device, ISR_CONFIG);
}

static void reset(struct lv_device *device)
{
	device->active = false;
	device->wake_ns = 0;
	if (device->ops->reset != NULL)
		device->ops->reset(device);
	memset(device->queue, 0, sizeof(device->queue));
	device->device_features_sel = 0;
	device->driver_features_sel = 0;
	device->queue_sel = 0;
	device->driver_features = 0;
	atomic_store(&device->isr, 0);
	set_status(device, 0);
}

static void activate(struct lv_device *device)
{
	uint64_t features = device->driver_features;

	set_status(device, CHAIN_OK);
	device->active = true;
	for (uint32_t i = 0; i < device->queues; i++) {
		enum lv_device_fault fault;

		if (!device->queue[i].ready)
			continue;
		fault =
		    lv_queue_start(&device->queue[i], device->mem,
				   (features & LV_VIRTIO_F_EVENT_IDX) != 0,
				   (features & LV_VIRTIO_F_INDIRECT_DESC) != 0);
		if (fault != LV_FAULT_NONE) {
			lv_device_fail(device, fault);
			return;
		}
	}
	/* A driver may fill a queue before DRIVER_OK: look at all of them. */
	for (uint32_t i = 0; i < device->queues; i++)
		lv_eventfd_signal(device->kick_fd[i]);
}

/* The status after this one; 3.1.1 knows no other way. */
static uint32_t next_status(uint32_t status)
{
	switch (status) {
	case 0:
		return LV_STATUS_ACKNOWLEDGE;
	case LV_STATUS_ACKNOWLEDGE:
		return CHAIN_DRIVER;
	case CHAIN_DRIVER:
		return CHAIN_FEATURES;
	case CHAIN_FEATURES:
		return CHAIN_OK;
	default:
		return status;
	}
}

static bool write_status(struct lv_device *device, uint32_t value)
{
	uint32_t old = status_of(device);
	/* A driver that writes back what it read keeps NEEDS_RESET set. */
	uint32_t from = old & ~LV_STATUS_NEEDS_RESET;
	uint32_t to = value & ~LV_STATUS_NEEDS_RESET;
	uint64_t features = device->driver_features;

	if (value == 0) {
		reset(device);
	} else if ((to & LV_STATUS_FAILED) != 0) {
		device->active = false;
		set_status(device, old | LV_STATUS_FAILED);
	} else if (from == to) {
		return true; /* Linux writes it again when nothing changed. */
	} else if (to != next_status(from) ||
		   /* 3.1.1 step 6: a refusal reads back without the bit. */
		   (to == CHAIN_FEATURES &&
		    ((features & ~device->features) != 0 ||
		     (features & LV_VIRTIO_F_VERSION_1) == 0))) {
		return false;
	} else if (to == CHAIN_OK) {
		activate(device);
	} else {
		set_status(device, to);
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
	bool high = (offset & 4) != 0;
	struct lv_queue *queue;

	if (status_of(device) != CHAIN_FEATURES ||
	    device->queue_sel >= device->queues)
		return false;
	queue = &device->queue[device->queue_sel];
	if (offset == REG_QUEUE_READY) {
		queue->ready = value == 1 && queue->num != 0;
		return value == 0 || queue->ready;
	}
	/* 4.2.2.2: not while the queue is ready. */
	if (queue->ready)
		return false;
	if (offset == REG_QUEUE_NUM) {
		bool good = value != 0 && value <= LV_QUEUE_MAX &&
			    (value & (value - 1)) == 0;

		/* A refused size leaves a queue that cannot become ready. */
		queue->num = good ? value : 0;
		return good;
	}
	switch (offset & ~4ull) {
	case REG_QUEUE_DESC:
		return write_half(&queue->desc_addr, high, value);
	case REG_QUEUE_AVAIL:
		return write_half(&queue->avail_addr, high, value);
	case REG_QUEUE_USED:
		return write_half(&queue->used_addr, high, value);
	default:
		return false;
	}
}

static bool write_driver_features(struct lv_device *device, uint32_t value)
{
	if (status_of(device) != CHAIN_DRIVER)
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
	    (status_of(device) & LV_STATUS_DRIVER_OK) == 0)
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

static uint32_t read_register(struct lv_device *device, uint64_t offset,
			      bool *known)
{
	uint32_t selected = device->queue_sel;

	*known = true;
	switch (offset) {
	case REG_MAGIC:
		return 0x74726976; /* "virt" */
	case REG_VERSION:
		return 2;
	case REG_DEVICE_ID:
		return device->ops->id;
	case REG_VENDOR_ID:
		return VENDOR;
	case REG_DEVICE_FEATURES:
		return device->device_features_sel > 1
			   ? 0
			   : (uint32_t)(device->features >>
					32 * device->device_features_sel);
	case REG_QUEUE_NUM_MAX:
		return selected < device->queues ? LV_QUEUE_MAX : 0;
	case REG_QUEUE_READY:
		return selected < device->queues &&
		       device->queue[selected].ready;
	case REG_CONFIG_GENERATION:
		return atomic_load(&device->generation);
	default:
		*known = false;
		return 0;
	}
}

void lv_mmio_read(struct lv_device *device, uint64_t offset, uint8_t *data,
		  uint32_t len)
{
	uint32_t value;
	bool known = true;

	memset(data, 0, len);
	if (offset >= CONFIG_SPACE) {
		uint64_t at = offset - CONFIG_SPACE;

		for (uint32_t i = 0; i < len && at + i < device->config_bytes;
		     i++)
			data[i] = device->config[at + i];
		return;
	}
	/* 4.2.2.2: 32-bit aligned accesses only. */
	if (len != 4 || offset % 4 != 0) {
		LV_COUNT(device, malformed, 1);
		return;
	}
	if (offset == REG_INTERRUPT_STATUS) {
		value =
		    atomic_load_explicit(&device->isr, memory_order_acquire);
	} else if (offset == REG_STATUS) {
		value = status_of(device);
	} else {
		(void)pthread_mutex_lock(&device->lock);
		value = read_register(device, offset, &known);
		(void)pthread_mutex_unlock(&device->lock);
	}
	if (!known)
		LV_COUNT(device, malformed, 1);
	memcpy(data, &value, sizeof(value));
}

void lv_mmio_write(struct lv_device *device, uint64_t offset,
		   const uint8_t *data, uint32_t len)
{
	uint32_t value;
	bool good;

	/* Little of a configuration is the driver's to write. */
	if (device->config_writable != 0 && len == 4 &&
	    offset == CONFIG_SPACE + device->config_writable) {
		(void)pthread_mutex_lock(&device->lock);
		memcpy(device->config + device->config_writable, data, len);
		(void)pthread_mutex_unlock(&device->lock);
		return;
	}
	if (offset >= CONFIG_SPACE || len != 4 || offset % 4 != 0) {
		LV_COUNT(device, malformed, 1);
		return;
	}
	memcpy(&value, data, sizeof(value));
	if (offset == REG_INTERRUPT_ACK) {
		atomic_fetch_and_explicit(&device->isr, ~value,
					  memory_order_acq_rel);
		return;
	}
	(void)pthread_mutex_lock(&device->lock);
	good = write_register(device, offset, value);
	(void)pthread_mutex_unlock(&device->lock);
	if (!good)
		LV_COUNT(device, malformed, 1);
}
