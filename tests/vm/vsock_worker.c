/*
 * vsock_worker.c - runs in a guest. `workers COUNT PORT BYTES` opens COUNT
 * connections to the host at once; each sends its number and a blob, and checks
 * the blob that it gets meanwhile. `echo COUNT PORT` listens and gives back
 * what COUNT connections send. `pour COUNT PORT` opens COUNT connections to the
 * host, sends on each as long as it is taken and says how much that was. `dial
 * COUNT PORT BYTES PATH` runs on the host: COUNT connections to that port by
 * way of the socket at PATH, each of which gets back the blob it sends. Ends
 * with 0 when every byte was in its place.
 */
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK	 30000
#define STUCK_MS 300

/* The test's own generator makes the same bytes. */
static void fill(uint32_t *state, uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		*state = *state * 1664525u + 1013904223u;
		bytes[i] = (uint8_t)(*state >> 24);
	}
}

static int write_all(int fd, const uint8_t *bytes, size_t len)
{
	while (len > 0) {
		ssize_t done = write(fd, bytes, len);

		if (done <= 0)
			return -1;
		bytes += done;
		len -= (size_t)done;
	}
	return 0;
}

static int send_blob(int fd, uint32_t seed, uint32_t bytes)
{
	static uint8_t chunk[CHUNK];
	uint32_t state = seed;

	for (uint32_t at = 0; at < bytes; at += CHUNK) {
		uint32_t part = bytes - at < CHUNK ? bytes - at : CHUNK;

		fill(&state, chunk, part);
		if (write_all(fd, chunk, part) < 0)
			return 2;
	}
	return shutdown(fd, SHUT_WR) == 0 ? 0 : 3;
}

static int check_blob(int fd, uint32_t seed, uint32_t bytes)
{
	static uint8_t chunk[CHUNK], expected[CHUNK];
	uint32_t state = seed;
	uint32_t total = 0;
	ssize_t got;

	while ((got = read(fd, chunk, sizeof(chunk))) > 0) {
		fill(&state, expected, (size_t)got);
		if (memcmp(chunk, expected, (size_t)got) != 0)
			return 4;
		total += (uint32_t)got;
	}
	return got == 0 && total == bytes ? 0 : 5;
}

static int wait_all(void)
{
	int failed = 0;
	int status;

	while (wait(&status) > 0)
		if (status != 0)
			failed = WEXITSTATUS(status) + 10;
	return failed;
}

static int work(struct sockaddr_vm address, uint32_t number, uint32_t bytes)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	int result;

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return 6;
	if (write_all(fd, (const uint8_t *)&number, sizeof(number)) < 0)
		return 1;
	if (fork() == 0)
		_exit(send_blob(fd, number, bytes));
	result = check_blob(fd, number + 1000000, bytes);
	return result != 0 ? result : wait_all();
}

static int echo_one(int fd)
{
	static uint8_t chunk[CHUNK];
	ssize_t got;

	while ((got = read(fd, chunk, sizeof(chunk))) > 0)
		if (write_all(fd, chunk, (size_t)got) < 0)
			return 7;
	return got == 0 ? 0 : 8;
}

static int echo(struct sockaddr_vm address, uint32_t count)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	address.svm_cid = VMADDR_CID_ANY;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, 128) < 0)
		return 9;
	(void)printf("listening\n");
	(void)fflush(stdout);
	for (uint32_t i = 0; i < count; i++) {
		int peer = accept(fd, NULL, NULL);

		if (fork() == 0)
			_exit(echo_one(peer));
		(void)close(peer);
	}
	return wait_all();
}

/* The host does not read: what it has room for is the end of it. */
static int pour(struct sockaddr_vm address)
{
	static uint8_t chunk[CHUNK];
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	struct pollfd room = {.fd = fd, .events = POLLOUT};
	uint32_t state = 0, total = 0;
	size_t at = CHUNK;

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return 6;
	while (poll(&room, 1, STUCK_MS) == 1) {
		ssize_t done;

		if (at == CHUNK)
			fill(&state, chunk, CHUNK);
		at %= CHUNK;
		done = send(fd, chunk + at, CHUNK - at, MSG_DONTWAIT);
		at += done > 0 ? (size_t)done : 0;
		total += done > 0 ? (uint32_t)done : 0;
	}
	(void)printf("%u\n", total);
	return fflush(stdout) == 0 ? 0 : 1;
}

static int dial(const char *path, uint32_t port, uint32_t seed, uint32_t bytes)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char line[32];
	int result;
	size_t len = 0;

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return 11;
	if (dprintf(fd, "CONNECT %u\n", port) < 0)
		return 12;
	do
		if (len == sizeof(line) || read(fd, line + len, 1) != 1)
			return 13;
	while (line[len++] != '\n');
	if (len < 4 || memcmp(line, "OK ", 3) != 0)
		return 14;
	if (fork() == 0)
		_exit(send_blob(fd, seed, bytes));
	result = check_blob(fd, seed, bytes);
	return result != 0 ? result : wait_all();
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = {.svm_family = AF_VSOCK,
				      .svm_cid = VMADDR_CID_HOST};
	uint32_t count, bytes;

	if (argc < 4)
		return 64;
	count = (uint32_t)strtoul(argv[2], NULL, 10);
	address.svm_port = (uint32_t)strtoul(argv[3], NULL, 10);
	if (strcmp(argv[1], "echo") == 0)
		return echo(address, count);
	bytes = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 0;
	for (uint32_t i = 0; i < count; i++)
		if (fork() == 0)
			_exit(argc == 4 ? pour(address)
			      : argc == 5
				  ? work(address, i, bytes)
				  : dial(argv[5], address.svm_port, i, bytes));
	return wait_all();
}
