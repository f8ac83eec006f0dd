/*
 * event.c - what C threads tell TypeScript: a bounded ring under a mutex and an
 * eventfd that wakes the reader. A guest can post debug events as fast as it
 * likes, so they never take the last place: an event that ends the machine
 * always finds room.
 */
#include <time.h>

#include "lv.h"

uint64_t lv_now_ns(void)
{
	struct timespec now = {0};

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * LV_SECOND_NS + (uint64_t)now.tv_nsec;
}

int lv_events_init(struct lv_events *events)
{
	*events = (struct lv_events){.fd = lv_eventfd_new()};
	(void)pthread_mutex_init(&events->lock, NULL);
	return events->fd < 0 ? events->fd : 0;
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
	uint32_t at;

	LV_LOCKED(&events->lock);
	if (events->count >= room)
		return;
	at = (events->first + events->count++) % LV_EVENTS_MAX;
	events->ring[at] = *event;
	events->ring[at].time_ns = lv_now_ns();
	lv_eventfd_signal(events->fd);
}

int lv_events_take(struct lv_events *events, struct lv_event *out)
{
	LV_LOCKED(&events->lock);
	if (events->count == 0)
		return 0;
	*out = events->ring[events->first];
	events->first = (events->first + 1) % LV_EVENTS_MAX;
	events->count--;
	return 1;
}
