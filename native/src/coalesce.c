/*
 * coalesce.c - fewer notifications and interrupts for a guest that moves much.
 *
 * What is answered at once interrupts a guest that is still filling its queue:
 * each request is a kick, an interrupt and its acknowledgement. So when a drain
 * has served something the queue stays as it is, without asking for a
 * notification, and the I/O thread sleeps a little and looks again:
 *
 *   drained -> polled -> drained ...   something came within quiet_ns
 *                \-> notified          nothing did: interrupt, ask for kicks
 *
 * No answer waits longer than hold_ns for its interrupt, nor longer than
 * quiet_ns once nothing comes. A guest that waits for each answer, or for
 * little at a time, would pay that for nothing: when fewer than WORTH bytes
 * were moved without a kick, the next SKIP drains do without. Nothing is polled
 * while nothing is asked.
 *
 * Of a network only the transmit queue is polled. Its receive queue asks for
 * buffers as ever, and frames wake the thread; their interrupts wait, too.
 *
 * All of it under the device's lock.
 */
#include "lv.h"

#define SKIP  31u
#define WORTH (16u << 10)

static uint64_t moved(const struct lv_device *device)
{
	return device->stats.bytes_in + device->stats.bytes_out;
}

static bool is_polled(const struct lv_device *device, uint32_t queue)
{
	return (device->ops->coalesces.queues >> queue & 1) != 0 &&
	       device->queue[queue].ready;
}

bool lv_coalesce_poll(struct lv_device *device, uint32_t queue)
{
	struct lv_coalesce *it = &device->coalesce;

	if (!it->polls && it->skip > 0)
		it->skip--;
	else if (it->enabled) {
		it->chain_ns = lv_now_ns();
		if (!it->polls) {
			it->signal_ns = it->chain_ns;
			it->moved = moved(device);
		}
		it->polls = true;
	}
	return it->polls && is_polled(device, queue);
}

uint64_t lv_coalesce_tick(struct lv_device *device, uint64_t now_ns)
{
	struct lv_coalesce *it = &device->coalesce;
	uint64_t quiet_ns, hold_ns;
	bool quiet;

	for (uint32_t i = 0; it->polls && i < device->queues; i++)
		if (is_polled(device, i) && lv_queue_waits(device->queue + i))
			lv_device_serve(device, i);
	quiet_ns = it->chain_ns + device->ops->coalesces.quiet_ns;
	hold_ns = it->signal_ns + device->ops->coalesces.hold_ns;
	quiet = now_ns >= quiet_ns;
	if (!it->polls || (!quiet && now_ns < hold_ns))
		return lv_min(device->wake_ns,
			      it->polls ? lv_min(quiet_ns, hold_ns) : LV_NEVER);
	if (quiet)
		it->skip = moved(device) - it->moved < WORTH ? SKIP : 0;
	it->polls = false;
	it->signal_ns = now_ns;
	for (uint32_t i = 0; i < device->queues; i++) {
		if (quiet && device->active && is_polled(device, i) &&
		    lv_queue_rearm(device->queue + i))
			lv_eventfd_signal(device->kick_fd[i]);
		lv_device_signal(device, i);
	}
	it->polls = !quiet;
	return lv_min(device->wake_ns, quiet ? LV_NEVER : quiet_ns);
}
