/*
 * supervise.c - one event loop from HELLO to the end of the machine.
 *
 *   WAIT_RUN --RUN--> RUNNING --process reaped--> DRAINING --EXIT--> ENDING
 *       \--cannot start: ERROR------------------------------------------^
 *   RUNNING --the guest's own poweroff or reboot--> DRAINING --> return
 *   any state --POWEROFF, channel lost, or ENDING for too long--> return
 *
 * The loop never blocks on the host: output is read from the pipes only while
 * nothing waits in the channel's buffer, so a slow host makes the process wait
 * and signals still get through. When the process has been reaped, exactly what
 * it left in the pipes is sent before EXIT: a daemon that keeps a pipe open, or
 * floods it, cannot hold the machine up. As PID 1 it reaps every orphan.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define ENDING_TIMEOUT_MS 30000u

enum state { WAIT_RUN, RUNNING, DRAINING, ENDING };

struct guest {
	struct lv_channel *channel;
	enum state state;
	int signals; /* signalfd: SIGCHLD, and what asks PID 1 for an end */
	int out[2];  /* -1 once at its end */
	int left[2]; /* DRAINING: bytes still to send */
	pid_t pid;
	int status;	  /* of waitpid, once reaped */
	int asked;	  /* the signal that asked for the end, or 0 */
	uint64_t ends_at; /* ENDING: power off then, whatever the host says */
};

static void end(struct guest *guest)
{
	guest->state = ENDING;
	guest->ends_at = lv_now_ms() + ENDING_TIMEOUT_MS;
}

static void fail(struct guest *guest, const struct lv_error *error)
{
	lv_log("%s", error->text);
	(void)lv_channel_error(guest->channel, error);
	end(guest);
}

/* A machine without its network still runs: its log says why. */
static void set_network(const struct lv_run *run)
{
	for (size_t i = 0; i < run->network_count; i++) {
		int result = lv_network_up(run->networks[i]);
		if (result < 0)
			lv_log("cannot set up the network \"%s\": %s",
			       run->networks[i], strerror(-result));
	}
	if (run->resolv != NULL) {
		int result = lv_network_resolv(run->resolv);
		if (result < 0)
			lv_log("cannot provide /etc/resolv.conf: %s",
			       strerror(-result));
	}
}

static int start(struct guest *guest, struct lv_run *run,
		 struct lv_error *error)
{
	struct lv_process process;
	struct lv_user user;

	lv_seed_and_clock(run);
	if (run->hostname != NULL &&
	    sethostname(run->hostname, strlen(run->hostname)) < 0)
		lv_log("cannot set the host name: %s", strerror(errno));
	set_network(run);
	if (lv_user_resolve(run->user, "/etc/passwd", "/etc/group", &user,
			    error) < 0)
		return -1;
	int result = lv_make_directories(run->cwd);
	if (result < 0)
		return lv_fail(
		    error, LV_GUEST_ERROR_CWD,
		    "Cannot make the working directory \"%.200s\": %s",
		    run->cwd, strerror(-result));
	if (lv_run_add_home(run, user.home) < 0)
		return lv_fail(error, LV_GUEST_ERROR_INTERNAL, "Out of memory");
	if (lv_process_spawn(run, &user, &process, error) < 0)
		return -1;
	guest->pid = process.pid;
	guest->out[0] = process.out[0];
	guest->out[1] = process.out[1];
	return 0;
}

static void on_run(struct guest *guest, const struct lv_frame *frame)
{
	uint8_t pid[4];
	struct lv_error error;
	struct lv_run run;

	if (guest->state != WAIT_RUN)
		return;
	int result = lv_run_parse(frame->payload, frame->length, &run);
	if (result < 0) {
		(void)lv_fail(&error, LV_GUEST_ERROR_INTERNAL,
			      "The host's RUN frame cannot be used: %s",
			      strerror(-result));
		fail(guest, &error);
		return;
	}
	if (start(guest, &run, &error) < 0) {
		fail(guest, &error);
	} else {
		guest->state = RUNNING;
		lv_put32(pid, (uint32_t)guest->pid);
		(void)lv_channel_queue(guest->channel, LV_GUEST_FRAME_STARTED,
				       pid, sizeof(pid));
	}
	lv_run_free(&run);
}

/* False ends the loop. */
static bool on_frame(struct guest *guest, const struct lv_frame *frame)
{
	switch (frame->type) {
	case LV_HOST_FRAME_RUN:
		on_run(guest, frame);
		return true;
	case LV_HOST_FRAME_SIGNAL:
		if (frame->length == 4 && guest->state == RUNNING) {
			uint32_t number = lv_get32(frame->payload);
			if (number > 0 && number < NSIG)
				(void)kill(-guest->pid, (int)number);
		}
		return true;
	case LV_HOST_FRAME_POWEROFF:
		return false;
	default:
		return true;
	}
}

static bool read_frames(struct guest *guest)
{
	struct lv_frame frame;
	int result = lv_channel_read(guest->channel);

	if (result < 0)
		return false;
	while ((result = lv_channel_next(guest->channel, &frame)) == 1)
		if (!on_frame(guest, &frame))
			return false;
	return result == 0;
}

/* What is in the pipes now is sent, and nothing that comes after. */
static void drain(struct guest *guest)
{
	guest->state = DRAINING;
	for (int i = 0; i < 2; i++)
		if (guest->out[i] < 0 ||
		    ioctl(guest->out[i], FIONREAD, &guest->left[i]) < 0)
			guest->left[i] = 0;
}

static void reap(struct guest *guest)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != guest->pid || guest->state != RUNNING)
			continue;
		guest->status = status;
		drain(guest);
	}
}

/*
 * busybox's halt, poweroff and reboot send PID 1 SIGUSR1, SIGUSR2 and SIGTERM.
 * They are read before the SIGCHLD of a process that left at once: signals
 * that are pending together come in the order of their numbers.
 */
static void on_signals(struct guest *guest)
{
	struct signalfd_siginfo info;

	while (read(guest->signals, &info, sizeof(info)) > 0) {
		if (info.ssi_signo == SIGCHLD || guest->state != RUNNING)
			continue;
		guest->asked = (int)info.ssi_signo;
		drain(guest);
	}
	reap(guest);
}

static void close_pipe(struct guest *guest, int i)
{
	(void)close(guest->out[i]);
	guest->out[i] = -1;
	guest->left[i] = 0;
}

/* Moves at most one chunk of one stream; the caller knows that the channel's
 * buffer is empty. True when something was moved or closed. */
static bool pump(struct guest *guest, int i)
{
	uint8_t chunk[LV_CHUNK_BYTES];
	size_t want = sizeof(chunk);

	if (guest->state == DRAINING && (size_t)guest->left[i] < want)
		want = (size_t)guest->left[i];
	if (guest->out[i] < 0 || want == 0)
		return false;
	ssize_t got = read(guest->out[i], chunk, want);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got <= 0) {
		close_pipe(guest, i);
		return true;
	}
	if (guest->state == DRAINING)
		guest->left[i] -= (int)got;
	(void)lv_channel_queue(guest->channel,
			       i == 0 ? LV_GUEST_FRAME_STDOUT
				      : LV_GUEST_FRAME_STDERR,
			       chunk, (size_t)got);
	return true;
}

static void send_exit(struct guest *guest)
{
	int number = WIFSIGNALED(guest->status) ? WTERMSIG(guest->status) : 0;
	int code = number != 0 ? 128 + number : WEXITSTATUS(guest->status);
	uint8_t payload[8];

	lv_put32(payload, (uint32_t)code);
	lv_put32(payload + 4, (uint32_t)number);
	(void)lv_channel_queue(guest->channel, LV_GUEST_FRAME_EXIT, payload,
			       sizeof(payload));
	end(guest);
}

/* Sends as much as the host takes: false when the channel is lost, or empty
 * and the end was asked for. */
static bool push(struct guest *guest)
{
	for (;;) {
		int result = lv_channel_flush(guest->channel);
		if (result <= 0)
			return result == 0;
		if (guest->state != RUNNING && guest->state != DRAINING)
			return true;
		bool moved = false;
		for (int i = 0; i < 2 && lv_channel_flush(guest->channel) == 1;
		     i++)
			moved = pump(guest, i) || moved;
		if (moved || !lv_channel_idle(guest->channel))
			continue;
		if (guest->state == RUNNING)
			return true;
		if (guest->asked != 0)
			return false;
		send_exit(guest);
	}
}

static int wait_events(struct guest *guest, struct pollfd events[4])
{
	bool idle = lv_channel_idle(guest->channel);
	int timeout = -1;

	events[0] =
	    (struct pollfd){.fd = guest->channel->fd,
			    .events = (short)(POLLIN | (idle ? 0 : POLLOUT))};
	events[1] = (struct pollfd){.fd = guest->signals, .events = POLLIN};
	for (int i = 0; i < 2; i++)
		events[2 + i] = (struct pollfd){
		    .fd = idle && guest->state == RUNNING ? guest->out[i] : -1,
		    .events = POLLIN};
	if (guest->state == ENDING) {
		uint64_t now = lv_now_ms();
		if (now >= guest->ends_at)
			return -ETIMEDOUT;
		timeout = (int)(guest->ends_at - now);
	}
	return poll(events, 4, timeout) < 0 && errno != EINTR ? -errno : 0;
}

static void send_hello(struct lv_channel *channel)
{
	uint8_t payload[16] = {0};
	struct timespec now;

	if (clock_gettime(CLOCK_BOOTTIME, &now) == 0)
		lv_put64(payload + 8, (uint64_t)now.tv_sec * 1000000u +
					  (uint64_t)now.tv_nsec / 1000u);
	lv_put32(payload, LV_GUEST_PROTOCOL);
	(void)lv_channel_queue(channel, LV_GUEST_FRAME_HELLO, payload,
			       sizeof(payload));
	(void)lv_channel_flush(channel);
}

/* Returns when the machine is to be powered off, or rebooted: true. *scratch
 * becomes the file descriptor of the writable layer, -1 while there is none. */
bool lv_supervise(struct lv_channel *channel, int *scratch)
{
	static const int numbers[] = {SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM};
	struct guest guest = {.channel = channel, .out = {-1, -1}, .pid = -1};
	struct pollfd events[4];
	struct lv_error error;
	sigset_t signals;

	(void)sigemptyset(&signals);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		(void)sigaddset(&signals, numbers[i]);
	(void)sigprocmask(SIG_BLOCK, &signals, NULL);
	guest.signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	/* HELLO goes first, so that the host makes RUN while disks mount. */
	send_hello(channel);
	*scratch = lv_mount_root(&error);
	if (*scratch < 0)
		fail(&guest, &error);
	while (push(&guest) && wait_events(&guest, events) == 0) {
		if (events[1].revents != 0)
			on_signals(&guest);
		if (events[0].revents != 0 && !read_frames(&guest))
			break;
	}
	return guest.asked == SIGTERM;
}
