/*
 * coalesce.c - fewer notifications and interrupts for a guest that has more to
 * ask than it waits for.
 *
 * What is answered at once interrupts a guest that is still filling its queue:
 * each request is a kick, an interrupt and its acknowledgement. So when a drain
 * has served something the queues stay as they are, without asking for a
 * notification, and the I/O thread looks at them between its other work:
 *
 *   drained -> polled -> drained …   a chain came within QUIET_NS
 *                \-> notified        none did: interrupt, and ask for kicks
 *
 * No answer waits longer than HOLD_NS for its interrupt, nor longer than
 * QUIET_NS once the guest is silent. A guest that waits for each answer, or for
 * few at a time, would pay that for little: it is worth it when WORTH chains
 * came without a kick, and each time it was not, twice as many drains, up to
 * SKIP_MAX, do without. So do those of a host whose CPU is the one that polls.
 * Nothing is polled while nothing is asked.
 *
 * All of it under the device's lock.
 */
#include "lv.h"

#define SKIP_MAX 63u
#define WORTH	 4u

bool lv_coalesce_poll(struct lv_device *device)
{
	struct lv_coalesce *it = &device->coalesce;

	if (!it->polls && it->skip > 0) {
		it->skip--;
		return false;
	}
	it->chain_ns = lv_now_ns();
	if (!it->polls)
		it->signal_ns = it->chain_ns;
	it->polls = true;
	return true;
}

bool lv_coalesce_tick(struct lv_device *device, uint64_t now_ns)
{
	struct lv_coalesce *it = &device->coalesce;
	bool quiet;

	for (uint32_t i = 0; it->polls && i < device->queues; i++)
		if (device->queue[i].ready &&
		    lv_queue_waits(device->queue + i)) {
			it->served++;
			lv_device_serve(device, i);
		}
	/* Either time may be later than now, which is as old as this loop. */
	quiet = now_ns >= it->chain_ns + LV_COALESCE_QUIET_NS;
	if (!it->polls ||
	    (!quiet && now_ns < it->signal_ns + LV_COALESCE_HOLD_NS))
		return it->polls;
	if (quiet) {
		it->skip = it->served < WORTH ? 2 * it->interval + 1 : 0;
		it->interval = it->skip &= SKIP_MAX;
		it->served = 0;
	}
	it->polls = false;
	it->signal_ns = now_ns;
	for (uint32_t i = 0; i < device->queues; i++) {
		if (quiet && device->active && device->queue[i].ready &&
		    lv_queue_rearm(device->queue + i))
			lv_eventfd_signal(device->kick_fd[i]);
		lv_device_signal(device, i);
	}
	return it->polls = !quiet;
}
