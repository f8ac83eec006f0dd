/* vsock.c - packets of the guest and unix sockets of the host, both mostly
 * well-behaved. The ports that listen, and the directory, stay from run to run.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "kit.h"

#define GUEST_CID  7u
#define PEERS	   8u
#define PORT_FIRST 1024u

static char path[64];
static char dir[32];
static int listener[2] = {-1, -1};
static int peer[PEERS];

static void leave(void)
{
	char name[96];

	for (uint32_t i = 0; i < 2; i++) {
		(void)snprintf(name, sizeof(name), "%s_%u", path,
			       PORT_FIRST + i);
		(void)unlink(name);
	}
	(void)unlink(path);
	(void)rmdir(dir);
}

static int unix_socket(struct sockaddr_un *address, const char *suffix)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	(void)snprintf(address->sun_path, sizeof(address->sun_path), "%s%s",
		       path, suffix);
	return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static void enter(void)
{
	struct sockaddr_un address;

	/* In memory: a socket's name on a disk costs more than the whole run.
	 */
	(void)strcpy(dir, access("/dev/shm", W_OK) == 0
			      ? "/dev/shm/lv-fuzz-XXXXXX"
			      : "/tmp/lv-fuzz-XXXXXX");
	MUST(mkdtemp(dir) != NULL && atexit(leave) == 0);
	(void)snprintf(path, sizeof(path), "%s/v", dir);
	for (uint32_t i = 0; i < 2; i++) {
		char suffix[16];

		(void)snprintf(suffix, sizeof(suffix), "_%u", PORT_FIRST + i);
		listener[i] = unix_socket(&address, suffix);
		MUST(bind(listener[i], (struct sockaddr *)&address,
			  sizeof(address)) == 0);
		MUST(listen(listener[i], 16) == 0);
	}
	memset(peer, -1, sizeof(peer));
}

static int make(struct fuzz *fuzz)
{
	struct lv_vsock_config config = {.size = sizeof(config),
					 .guest_cid = GUEST_CID};

	if (listener[0] < 0)
		enter();
	(void)strcpy(config.path, path);
	return lv_vsock_new(&config, &fuzz->mem, &fuzz->events, &fuzz->device);
}

/* A packet of a few ports, so that it often belongs to a connection. */
static uint32_t header(struct fuzz *fuzz, uint32_t queue, uint8_t *out)
{
	static const uint32_t lens[] = {0, 0, 1, 20, 468, 1482, 4052, 65535};
	struct script *script = &fuzz->script;
	uint8_t which = take8(script);
	uint8_t op = take8(script);
	uint64_t cids[2] = {GUEST_CID, 2};
	uint32_t words[3] = {5000 + (which & 1u), PORT_FIRST + (which >> 1 & 1),
			     0};
	uint16_t kind[2] = {1, op % 8u};
	uint32_t rest[3] = {op >> 4 & 3u, 65536, 0};

	(void)queue;
	/* The first port that the host's own connections get. */
	if ((which & 4) != 0)
		words[1] = 0x40000000u + (which >> 3 & 1u);
	if (op % 8 == 5)
		words[2] = lens[op >> 5];
	if (which >= 0xf0)
		out[which & 7u] = 1;
	if (which >= 0xc0) {
		rest[1] = take32(script);
		rest[2] = take32(script);
	}
	if (which == 0xe0)
		cids[op & 1u] = take8(script);
	if (which == 0xe1)
		kind[0] = take8(script);
	if (which == 0xe2)
		words[2] = take32(script);
	memcpy(out, cids, sizeof(cids));
	memcpy(out + 16, words, sizeof(words));
	memcpy(out + 28, kind, sizeof(kind));
	memcpy(out + 32, rest, sizeof(rest));
	return 44;
}

static void put_peer(uint8_t slot, int fd)
{
	if (fd < 0)
		return;
	if (peer[slot] >= 0)
		(void)close(peer[slot]);
	peer[slot] = fd;
}

static void connect_host(struct fuzz *fuzz, uint8_t slot)
{
	static const char *const lines[] = {
	    "CONNECT 5000\n",
	    "CONNECT 5001\n",
	    "CONNECT 4294967295\n",
	    "CONNECT ",
	    "CONNECT 4294967296\n",
	    "GET / HTTP/1.1\r\n",
	    "\n",
	    "CONNECT 5000\nhello",
	};
	const char *line = lines[take8(&fuzz->script) % 8u];
	struct sockaddr_un address;
	int fd = unix_socket(&address, "");

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		(void)close(fd);
		return;
	}
	(void)send(fd, line, strlen(line), MSG_NOSIGNAL);
	put_peer(slot, fd);
}

static void host(struct fuzz *fuzz, uint8_t what)
{
	static uint8_t bytes[70000];
	uint8_t slot = take8(&fuzz->script) % PEERS;

	switch (what & 7u) {
	case 0:
	case 1:
		connect_host(fuzz, slot);
		break;
	case 2:
		put_peer(slot, accept4(listener[what >> 3], NULL, NULL,
				       SOCK_NONBLOCK | SOCK_CLOEXEC));
		break;
	case 3:
	case 4:
		(void)send(peer[slot], bytes,
			   take_size(&fuzz->script) % sizeof(bytes),
			   MSG_NOSIGNAL);
		break;
	case 5:
		(void)recv(peer[slot], bytes, sizeof(bytes), 0);
		break;
	case 6:
		(void)shutdown(peer[slot], (what >> 3) + (slot & 1));
		break;
	default:
		if (peer[slot] >= 0)
			(void)close(peer[slot]);
		peer[slot] = -1;
		break;
	}
}

static void end(struct fuzz *fuzz)
{
	(void)fuzz;
	for (uint32_t i = 0; i < PEERS; i++)
		if (peer[i] >= 0)
			(void)close(peer[i]);
	memset(peer, -1, sizeof(peer));
	for (uint32_t i = 0; i < 2; i++) {
		int fd;

		while ((fd = accept4(listener[i], NULL, NULL, SOCK_CLOEXEC)) >=
		       0)
			(void)close(fd);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct target target = {.make = make,
					     .header = header,
					     .header_bytes = 44,
					     .host = host,
					     .filled = 1,
					     .end = end};

	return fuzz_device(&target, data, size);
}
