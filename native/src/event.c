/*
 * event.c - what C threads tell TypeScript: a bounded ring under a mutex and an
 * eventfd that wakes the reader. A guest can post debug events as fast as it
 * likes, so they never take the last place: an event that ends the machine
 * always finds room.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "lv.h"

uint64_t lv_now_ns(void)
{
	struct timespec now = {0};

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void lv_eventfd_signal(int fd)
{
	uint64_t one = 1;

	(void)TEMP_FAILURE_RETRY(write(fd, &one, sizeof(one)));
}

bool lv_eventfd_drain(int fd)
{
	uint64_t value;

	return TEMP_FAILURE_RETRY(read(fd, &value, sizeof(value))) > 0;
}

int lv_events_init(struct lv_events *events)
{
	memset(events, 0, sizeof(*events));
	events->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	(void)pthread_mutex_init(&events->lock, NULL);
	return events->fd < 0 ? -errno : 0;
}

void lv_events_free(struct lv_events *events)
{
	(void)close(events->fd);
	(void)pthread_mutex_destroy(&events->lock);
}

void lv_events_post(struct lv_events *events, const struct lv_event *event)
{
	uint32_t room =
	    event->kind == LV_EVENT_DEBUG ? LV_EVENTS_MAX - 1 : LV_EVENTS_MAX;
	bool posted = false;

	(void)pthread_mutex_lock(&events->lock);
	if (events->count < room) {
		uint32_t at = (events->first + events->count) % LV_EVENTS_MAX;

		events->ring[at] = *event;
		events->ring[at].time_ns = lv_now_ns();
		events->count++;
		posted = true;
	}
	(void)pthread_mutex_unlock(&events->lock);
	if (posted)
		lv_eventfd_signal(events->fd);
}

int lv_events_take(struct lv_events *events, struct lv_event *out)
{
	int taken = 0;

	(void)pthread_mutex_lock(&events->lock);
	if (events->count > 0) {
		*out = events->ring[events->first];
		events->first = (events->first + 1) % LV_EVENTS_MAX;
		events->count--;
		taken = 1;
	}
	(void)pthread_mutex_unlock(&events->lock);
	return taken;
}
