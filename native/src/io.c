/*
 * io.c - the one thread that serves all devices of a VM.
 *
 *   epoll: stop eventfd, a kick eventfd per queue (KVM writes it when the guest
 *   notifies), poll_fd of devices that have one.
 *
 * It never blocks but in epoll and in the host's file I/O, and never takes the
 * processor from whoever wakes it (SCHED_BATCH). When asked to stop,
 * which happens after the vCPUs are gone, it serves every queue once more:
 * what the guest sent before it ended arrives.
 */
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include "lv.h"

#define BATCH	   16
#define ROUNDS_MAX 32u

enum { TAG_STOP = 0, TAG_POLL = 1, TAG_KICK = 2 };

static uint64_t tag(uint32_t kind, uint32_t device)
{
	return (uint64_t)kind << 32 | device;
}

int lv_thread_start(pthread_t *thread, void *(*run)(void *), void *arg)
{
	static const int faults[] = {SIGSEGV, SIGBUS,  SIGILL, SIGFPE,
				     SIGTRAP, SIGABRT, SIGSYS};
	sigset_t block, old;
	int error;

	/* The host process's signals are for its own threads; faults of this
	 * one must reach whoever reports crashes. */
	(void)sigfillset(&block);
	for (size_t i = 0; i < LV_LENGTH(faults); i++)
		(void)sigdelset(&block, faults[i]);
	error = pthread_sigmask(SIG_SETMASK, &block, &old);
	if (error != 0)
		return -error;
	error = pthread_create(thread, NULL, run, arg);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -error;
}

/* Calls the ticks that are due; returns how long epoll may sleep. */
static struct timespec tick(const struct lv_io *io)
{
	uint64_t now_ns = lv_now_ns();
	uint64_t wake_ns = LV_NEVER;

	for (uint32_t i = 0; i < io->count; i++)
		wake_ns =
		    lv_min(wake_ns, lv_device_tick(io->devices[i], now_ns));
	wake_ns -= lv_min(wake_ns, now_ns);
	return (struct timespec){(time_t)(wake_ns / LV_SECOND_NS),
				 (long)(wake_ns % LV_SECOND_NS)};
}

/* A device may take a part and kick itself for the rest, within bounds. */
static void serve_last(struct lv_device *device)
{
	bool more = true;

	for (uint32_t round = 0; more && round < ROUNDS_MAX; round++) {
		for (uint32_t q = 0; q < device->queues; q++)
			lv_device_kick(device, q);
		if (device->poll_fd >= 0)
			lv_device_poll(device);
		lv_device_hold(device);
		(void)pthread_mutex_unlock(&device->lock);
		more = false;
		for (uint32_t q = 0; q < device->queues; q++)
			more |= lv_eventfd_drain(device->kick_fd[q]);
	}
}

/* false = it was the word to stop. */
static bool serve(struct lv_io *io, uint64_t data)
{
	uint32_t kind = (uint32_t)(data >> 32);
	uint32_t device = (uint32_t)data;

	if (kind == TAG_POLL)
		lv_device_poll(io->devices[device]);
	else if (kind != TAG_STOP)
		lv_device_kick(io->devices[device], kind - TAG_KICK);
	for (uint32_t i = 0; kind == TAG_STOP && i < io->count; i++)
		serve_last(io->devices[i]);
	return kind != TAG_STOP;
}

static void *run(void *arg)
{
	struct lv_io *io = arg;
	struct epoll_event ready[BATCH];
	struct lv_event event = {.kind = LV_EVENT_HOST_FAILED};
	struct sched_param param = {0};
	int count;

	/* A thread that wakes it goes on: the guest fills its queues first, and
	 * one wake-up serves them all. It sleeps for microseconds (coalesce.c).
	 * Where that is refused it is only slower. */
	(void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &param);
	(void)prctl(PR_SET_TIMERSLACK, 1ul);
	count = lv_filter_install(&io->filter, 0);
	while (count >= 0) {
		struct timespec wait = tick(io);

		count = epoll_pwait2(io->epoll_fd, ready, BATCH, &wait, NULL);
		if (count < 0) /* EINTR: io_uring's work on our behalf */
			count = errno == EINTR ? 0 : -errno;
		for (int i = 0; i < count; i++)
			if (!serve(io, ready[i].data.u64))
				return NULL;
	}
	event.error = -count;
	lv_events_post(io->events, &event);
	return NULL;
}

static int watch_device(struct lv_io *io, uint32_t index)
{
	struct lv_device *device = io->devices[index];
	int error = 0;

	device->coalesce.enabled = device->ops->coalesces.queues != 0;
	for (uint32_t q = 0; q < device->queues && error == 0; q++)
		error = lv_epoll_add(io->epoll_fd, device->kick_fd[q], EPOLLIN,
				     tag(TAG_KICK + q, index));
	if (error == 0 && device->poll_fd >= 0)
		error = lv_epoll_add(io->epoll_fd, device->poll_fd,
				     EPOLLIN | device->ops->poll_events,
				     tag(TAG_POLL, index));
	return error;
}

int lv_io_start(struct lv_io *io, struct lv_device **devices, uint32_t count,
		struct lv_events *events)
{
	int error;

	io->devices = devices;
	io->count = count;
	io->events = events;
	io->stop_fd = lv_eventfd_new();
	io->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	error = io->epoll_fd < 0 ? -errno
				 : lv_epoll_add(io->epoll_fd, io->stop_fd,
						EPOLLIN, tag(TAG_STOP, 0));
	for (uint32_t i = 0; i < count && error == 0; i++)
		error = watch_device(io, i);
	if (error == 0)
		error = lv_thread_start(&io->thread, run, io);
	io->running = error == 0;
	return error;
}

void lv_io_stop(struct lv_io *io)
{
	if (io->running) {
		lv_eventfd_signal(io->stop_fd);
		(void)pthread_join(io->thread, NULL);
	}
	for (uint32_t i = 0; i < io->count; i++) {
		struct lv_device *device = io->devices[i];

		LV_LOCKED(&device->lock);
		if (device->ops->finish != NULL)
			device->ops->finish(device);
	}
	(void)close(io->stop_fd);
	(void)close(io->epoll_fd);
}
