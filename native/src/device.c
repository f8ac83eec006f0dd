/*
 * device.c - how the I/O thread comes to a device: its queues, its descriptor,
 * its clock, each under the device's lock.
 */
#include "lv.h"

void lv_device_drain(struct lv_device *device, uint32_t queue, lv_serve *serve)
{
	struct lv_queue *ring = &device->queue[queue];
	uint32_t budget = LV_DRAIN_BUDGET;
	struct lv_chain chain;
	int64_t done = 0;
	bool polled;

	if (!device->active || !ring->ready)
		return;
	do {
		while (budget > 0 && lv_device_pop(device, queue, &chain)) {
			done = serve(device, &chain);
			if (done == LV_LATER) {
				lv_queue_undo(ring);
				break;
			}
			budget--;
			LV_COUNT(device, requests, 1);
			if (done == LV_MALFORMED)
				LV_COUNT(device, malformed, 1);
			if (done != LV_HELD)
				lv_queue_push(ring, chain.head,
					      done < 0 ? 0 : (uint32_t)done);
		}
		if (budget == 0)
			lv_eventfd_signal(device->kick_fd[queue]);
		polled =
		    budget < LV_DRAIN_BUDGET && lv_coalesce_poll(device, queue);
	} while (done != LV_LATER && budget > 0 && device->active && !polled &&
		 lv_queue_rearm(ring));
	lv_device_signal(device, queue);
}

void lv_device_kick_all(struct lv_device *device)
{
	for (uint32_t i = 0; i < device->queues; i++)
		lv_eventfd_signal(device->kick_fd[i]);
}

void lv_device_serve(struct lv_device *device, uint32_t queue)
{
	const struct lv_device_ops *ops = device->ops;

	if (!device->active || !device->queue[queue].ready)
		return;
	if (ops->notify != NULL)
		ops->notify(device, queue);
	else if (ops->serve[queue] != NULL)
		lv_device_drain(device, queue, ops->serve[queue]);
}

void lv_device_kick(struct lv_device *device, uint32_t queue)
{
	lv_eventfd_drain(device->kick_fd[queue]);
	LV_LOCKED(&device->lock);
	LV_COUNT(device, notifies, 1);
	lv_device_serve(device, queue);
}

void lv_device_poll(struct lv_device *device)
{
	LV_LOCKED(&device->lock);
	if (device->ops->poll != NULL)
		device->ops->poll(device);
}

void lv_device_hold(struct lv_device *device)
{
	(void)pthread_mutex_lock(&device->lock);
	if (device->ops->settle != NULL)
		device->ops->settle(device);
}

void lv_device_wake(struct lv_device *device, uint64_t at_ns)
{
	device->wake_ns = lv_min(device->wake_ns, at_ns);
}

uint64_t lv_device_tick(struct lv_device *device, uint64_t now_ns)
{
	LV_LOCKED(&device->lock);
	if (device->wake_ns <= now_ns) {
		device->wake_ns = LV_NEVER;
		device->now_ns = now_ns;
		device->ops->tick(device);
	}
	return lv_coalesce_tick(device, now_ns);
}
