/*
 * The event loop against real processes: a forked child is init with a socket
 * pair for vsock and no disks, this process is the host. Needs root, as init
 * has it (setgroups): 77 without.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../init/channel.c"
#include "../init/error.c"
#include "../init/network.c"
#include "../init/process.c"
#include "../init/run.c"
#include "../init/supervise.c"
#include "../init/users.c"
#include "init_test.h"

#define TIMEOUT_S  20
#define TEXT_BYTES (4u << 20)
#define RESTART	   3 /* our child's exit code for it */

void lv_log(const char *format, ...)
{
	(void)format;
}

uint64_t lv_now_ms(void)
{
	struct timespec now = {0};

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static bool no_disk;

int lv_mount_root(struct lv_error *error)
{
	if (no_disk)
		return lv_fail(error, LV_GUEST_ERROR_ROOTFS, "no disk");
	return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

struct host {
	int fd;
	pid_t init;
	uint8_t payload[LV_GUEST_PAYLOAD_MAX_BYTES + 1];
	size_t length;
};

static struct host host;
static struct lv_channel guest_channel;

static void start_init(void)
{
	struct timeval limit = {.tv_sec = TIMEOUT_S};
	int pair[2], small = 8192;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	(void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	(void)setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &limit,
			 sizeof(limit));
	(void)fcntl(pair[0], F_SETFL, O_NONBLOCK);
	host.init = fork();
	if (host.init == 0) {
		int scratch;
		(void)close(pair[1]);
		guest_channel.fd = pair[0];
		_exit(lv_supervise(&guest_channel, &scratch) ? RESTART : 0);
	}
	(void)close(pair[0]);
	host.fd = pair[1];
}

static void receive(void *at, size_t length)
{
	if (length > 0 &&
	    recv(host.fd, at, length, MSG_WAITALL) != (ssize_t)length) {
		(void)fprintf(stderr, "no frame came\n");
		(void)kill(host.init, SIGKILL);
		exit(1);
	}
}

/* The next frame's type; its payload is in host, NUL terminated. */
static uint16_t next(void)
{
	uint8_t header[8];

	receive(header, sizeof(header));
	host.length = lv_get32(header);
	if (host.length > LV_GUEST_PAYLOAD_MAX_BYTES)
		exit(1);
	receive(host.payload, host.length);
	host.payload[host.length] = 0;
	return lv_get16(header + 4);
}

static void send_frame(uint16_t type, const uint8_t *payload, size_t length)
{
	uint8_t header[8] = {0};

	lv_put32(header, (uint32_t)length);
	lv_put16(header + 4, type);
	CHECK(send(host.fd, header, 8, MSG_NOSIGNAL) == 8);
	if (length > 0)
		CHECK(send(host.fd, payload, length, MSG_NOSIGNAL) ==
		      (ssize_t)length);
}

static size_t put(uint8_t *at, uint16_t field, const char *text)
{
	size_t length = strlen(text);

	lv_put16(at, field);
	lv_put16(at + 2, 0);
	lv_put32(at + 4, (uint32_t)length);
	memcpy(at + 8, text, length);
	return 8 + length;
}

static void send_run(const char *const *argv, const char *user, const char *cwd)
{
	static uint8_t bytes[65536];
	uint8_t *at = bytes;

	for (; *argv != NULL; argv++)
		at += put(at, LV_RUN_FIELD_ARGV, *argv);
	at += put(at, LV_RUN_FIELD_ENV, "PATH=/nowhere:/usr/bin:/bin");
	at += put(at, LV_RUN_FIELD_ENV, "GREETING=hello");
	at += put(at, LV_RUN_FIELD_USER, user);
	at += put(at, LV_RUN_FIELD_CWD, cwd);
	send_frame(LV_HOST_FRAME_RUN, bytes, (size_t)(at - bytes));
}

/* Starts a shell script and checks what comes before its output. */
static void run_script(const char *script, const char *user, const char *cwd)
{
	const char *argv[] = {"sh", "-c", script, NULL};

	start_init();
	CHECK(next() == LV_GUEST_FRAME_HELLO && host.length == 16);
	CHECK(lv_get32(host.payload) == LV_GUEST_PROTOCOL);
	CHECK(lv_get64(host.payload + 8) > 0);
	send_run(argv, user, cwd);
	CHECK(next() == LV_GUEST_FRAME_STARTED && host.length == 4);
}

static void end_init(void)
{
	int status = -1;

	send_frame(LV_HOST_FRAME_POWEROFF, NULL, 0);
	(void)alarm(TIMEOUT_S);
	CHECK(waitpid(host.init, &status, 0) == host.init && status == 0);
	(void)alarm(0);
	(void)close(host.fd);
}

struct result {
	char out[TEXT_BYTES], err[4096];
	size_t out_length, err_length;
	uint32_t code, signal;
};

static struct result result;

static void collect(void)
{
	uint16_t type;

	result.out_length = result.err_length = 0;
	while ((type = next()) != LV_GUEST_FRAME_EXIT) {
		bool out = type == LV_GUEST_FRAME_STDOUT;
		CHECK(out || type == LV_GUEST_FRAME_STDERR);
		CHECK(host.length > 0 && host.length <= LV_CHUNK_BYTES);
		size_t *length = out ? &result.out_length : &result.err_length;
		size_t room = out ? sizeof(result.out) : sizeof(result.err);
		/* A flood's tail is of no interest. */
		size_t take = host.length < room - 1 - *length
				  ? host.length
				  : room - 1 - *length;
		memcpy((out ? result.out : result.err) + *length, host.payload,
		       take);
		*length += take;
	}
	result.out[result.out_length] = '\0';
	result.err[result.err_length] = '\0';
	result.code = lv_get32(host.payload);
	result.signal = lv_get32(host.payload + 4);
}

static void output_comes_before_the_exit_code(void)
{
	run_script("echo out; echo err >&2; exit 7", "", "/");
	collect();
	CHECK_TEXT(result.out, "out\n");
	CHECK_TEXT(result.err, "err\n");
	CHECK(result.code == 7 && result.signal == 0);
	end_init();
}

static void a_killed_process_says_its_signal(void)
{
	run_script("kill -9 $$", "", "/");
	collect();
	CHECK(result.code == 137 && result.signal == 9);
	end_init();
}

static void user_environment_and_directory_are_set(void)
{
	char cwd[] = "/tmp/lv-init-XXXXXX", deep[64], expected[256];

	if (mkdtemp(cwd) == NULL)
		abort();
	(void)chmod(cwd, 0755);
	(void)snprintf(deep, sizeof(deep), "%s/a/b", cwd);
	run_script("pwd; id -u; id -g; id -G; echo $HOME $GREETING; umask;"
		   "echo stdout >/dev/stdout; read line || echo no input",
		   "12345:23456", deep);
	collect();
	(void)snprintf(expected, sizeof(expected),
		       "%s\n12345\n23456\n23456\n/ hello\n0022\nstdout\n"
		       "no input\n",
		       deep);
	CHECK_TEXT(result.out, expected);
	CHECK_TEXT(result.err, "");
	end_init();
	(void)rmdir(deep);
	*strrchr(deep, '/') = '\0';
	(void)rmdir(deep);
	(void)rmdir(cwd);
}

static void a_signal_reaches_the_process_group(void)
{
	uint8_t number[4];

	run_script("trap 'echo got it; exit 3' TERM; echo ready;"
		   "sleep 1000 & wait",
		   "", "/");
	CHECK(next() == LV_GUEST_FRAME_STDOUT);
	lv_put32(number, SIGTERM);
	send_frame(LV_HOST_FRAME_SIGNAL, number, sizeof(number));
	collect();
	CHECK_TEXT(result.out, "got it\n");
	CHECK(result.code == 3 && result.signal == 0);
	end_init();
}

/* The script goes on, as one that waits for the power to go does, or ends at
 * once: neither is an exit of the process, and what it had said comes. */
static void an_end_that_the_guest_asks_for_is_no_exit(void)
{
	static const struct {
		const char *script;
		int code;
	} cases[] = {
	    {"echo bye; kill -USR2 $PPID", 0},
	    {"echo bye; kill -USR1 $PPID; exec sleep 5", 0},
	    {"echo bye; kill -TERM $PPID", RESTART},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int status = -1;
		run_script(cases[i].script, "", "/");
		CHECK(next() == LV_GUEST_FRAME_STDOUT && host.length == 4);
		CHECK(recv(host.fd, host.payload, 1, 0) == 0);
		(void)alarm(TIMEOUT_S);
		CHECK(waitpid(host.init, &status, 0) == host.init);
		CHECK(WIFEXITED(status) &&
		      WEXITSTATUS(status) == cases[i].code);
		(void)alarm(0);
		(void)close(host.fd);
	}
}

static void a_daemon_that_keeps_the_pipe_does_not_hold_up_the_exit(void)
{
	run_script("setsid sleep 1000 & echo $!", "", "/");
	collect();
	CHECK(result.code == 0);
	int pid = atoi(result.out);
	CHECK(pid > 1 && kill(pid, SIGKILL) == 0);
	end_init();
}

static void a_daemon_that_floods_the_pipe_does_not_hold_up_the_exit(void)
{
	run_script("echo first; setsid yes & echo $! >&2; seq 20000 >/dev/null",
		   "", "/");
	collect();
	CHECK(strncmp(result.out, "first\n", 6) == 0);
	int pid = atoi(result.err);
	CHECK(pid > 1 && kill(pid, SIGKILL) == 0);
	end_init();
}

static void a_slow_host_loses_no_byte(void)
{
	char *at = result.out;

	run_script("seq 1 300000; echo end >&2", "", "/");
	collect();
	CHECK(result.out_length == 1988895);
	for (long i = 1; i <= 300000; i++) {
		if (strtol(at, &at, 10) != i || *at++ != '\n') {
			CHECK(!"the numbers are in order");
			break;
		}
	}
	CHECK_TEXT(result.err, "end\n");
	end_init();
}

static void expect_error(const char *const *argv, const char *user,
			 const char *cwd, uint32_t code, const char *text)
{
	start_init();
	CHECK(next() == LV_GUEST_FRAME_HELLO);
	send_run(argv, user, cwd);
	CHECK(next() == LV_GUEST_FRAME_ERROR);
	CHECK(lv_get32(host.payload) == code);
	if (strstr((const char *)host.payload + 4, text) == NULL) {
		(void)fprintf(stderr, "\"%s\" lacks \"%s\"\n", host.payload + 4,
			      text);
		init_test_failures++;
	}
	end_init();
}

static void what_cannot_start_says_why(void)
{
	const char *missing[] = {"no-such-program", NULL};
	const char *missing_path[] = {"/no/such/program", NULL};
	const char *denied[] = {"/etc/passwd", NULL};
	const char *empty[] = {"", NULL};
	const char *fine[] = {"true", NULL};

	expect_error(missing, "", "/", LV_GUEST_ERROR_EXEC_NOT_FOUND,
		     "\"no-such-program\"");
	expect_error(missing_path, "", "/", LV_GUEST_ERROR_EXEC_NOT_FOUND,
		     "\"/no/such/program\": No such file");
	expect_error(empty, "", "/", LV_GUEST_ERROR_EXEC_NOT_FOUND, "\"\"");
	expect_error(denied, "", "/", LV_GUEST_ERROR_EXEC_DENIED,
		     "\"/etc/passwd\": Permission denied");
	expect_error(fine, "ghost-of-nobody", "/", LV_GUEST_ERROR_USER,
		     "\"ghost-of-nobody\"");
	expect_error(fine, "", "/dev/null/x", LV_GUEST_ERROR_CWD,
		     "\"/dev/null/x\"");
}

static void a_root_that_cannot_be_mounted_is_an_error(void)
{
	const char *argv[] = {"true", NULL};

	no_disk = true;
	start_init();
	no_disk = false;
	CHECK(next() == LV_GUEST_FRAME_HELLO);
	CHECK(next() == LV_GUEST_FRAME_ERROR);
	CHECK(lv_get32(host.payload) == LV_GUEST_ERROR_ROOTFS);
	send_run(argv, "", "/"); /* it crossed the error and is ignored */
	end_init();
}

static void a_lost_host_ends_the_machine(void)
{
	int status = -1;

	run_script("echo $$; exec sleep 1000", "", "/");
	CHECK(next() == LV_GUEST_FRAME_STDOUT);
	int pid = atoi((const char *)host.payload);
	(void)close(host.fd);
	(void)alarm(TIMEOUT_S);
	CHECK(waitpid(host.init, &status, 0) == host.init && status == 0);
	(void)alarm(0);
	/* lv_kill_all is main's, after the loop. */
	CHECK(pid > 1 && kill(pid, SIGKILL) == 0);
}

int main(void)
{
	if (geteuid() != 0) {
		(void)printf("init_supervise_test needs root\n");
		return 77;
	}
	output_comes_before_the_exit_code();
	a_killed_process_says_its_signal();
	user_environment_and_directory_are_set();
	a_signal_reaches_the_process_group();
	an_end_that_the_guest_asks_for_is_no_exit();
	a_daemon_that_keeps_the_pipe_does_not_hold_up_the_exit();
	a_daemon_that_floods_the_pipe_does_not_hold_up_the_exit();
	a_slow_host_loses_no_byte();
	what_cannot_start_says_why();
	a_root_that_cannot_be_mounted_is_an_error();
	a_lost_host_ends_the_machine();
	return init_test_failures != 0;
}
