/*
 * init.h - what the parts of init offer one another.
 *
 * init is one thread. Functions return >= 0 or -errno; those that can fail for
 * a reason the host should show fill a struct lv_error (protocol error code and
 * a sentence that names the value) and return -1.
 */
#ifndef LV_INIT_H
#define LV_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

#ifndef LV_INIT_VERSION
#define LV_INIT_VERSION "0.1.0"
#endif

/* Output is cut into frames of at most this many bytes. */
#define LV_CHUNK_BYTES (32u << 10)
/* Room for one chunk and the small frames that may wait behind it. */
#define LV_OUT_BYTES	 (48u << 10)
#define LV_GROUPS_MAX	 256
#define LV_ARGUMENTS_MAX 4096
#define LV_MESSAGE_BYTES 512

struct lv_error {
	uint32_t code; /* LV_GUEST_ERROR_* */
	char text[LV_MESSAGE_BYTES];
};

/* Fills *error and returns -1, so that callers can `return lv_fail(...)`. */
int lv_fail(struct lv_error *error, uint32_t code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* cmdline.c: true when the word stands alone in a kernel command line, or
 * with options behind a comma, as those of console=. */
bool lv_cmdline_has(const char *cmdline, const char *word);

/* modules.c */
int lv_modules_load(const char *directory, const char *list);

/* mounts.c */
int lv_mount_early(void);
int lv_mount_root(struct lv_error *error);
void lv_mount_sync(int scratch);
int lv_loopback_up(void);

/* channel.c */
struct lv_channel {
	int fd;
	size_t out_start, out_end; /* bytes waiting in out */
	size_t in_start, in_end;   /* bytes not yet parsed in in */
	uint8_t out[LV_OUT_BYTES];
	uint8_t in[LV_GUEST_PAYLOAD_MAX_BYTES + LV_GUEST_HEADER_BYTES];
};

struct lv_frame {
	uint16_t type;
	uint32_t length;
	const uint8_t *payload; /* valid until the next lv_channel_read */
};

void lv_put16(uint8_t *at, uint16_t value);
void lv_put32(uint8_t *at, uint32_t value);
void lv_put64(uint8_t *at, uint64_t value);
uint16_t lv_get16(const uint8_t *at);
uint32_t lv_get32(const uint8_t *at);
uint64_t lv_get64(const uint8_t *at);

int lv_channel_connect(struct lv_channel *channel, int timeout_ms);
bool lv_channel_idle(const struct lv_channel *channel);
int lv_channel_queue(struct lv_channel *channel, uint16_t type,
		     const void *payload, size_t length);
int lv_channel_flush(struct lv_channel *channel);
int lv_channel_read(struct lv_channel *channel);
int lv_channel_next(struct lv_channel *channel, struct lv_frame *frame);
int lv_channel_error(struct lv_channel *channel, const struct lv_error *error);

/* run.c */
struct lv_run {
	char **argv; /* NULL terminated, at least one */
	char **env;  /* NULL terminated, room for one more */
	size_t argc, envc;
	char *cwd;	 /* "/" when the host gave none */
	char *user;	 /* "" when the host gave none */
	char *hostname;	 /* NULL when the host gave none */
	char **networks; /* NULL terminated, or NULL */
	size_t network_count;
	char *resolv; /* NULL when the image's is to be used */
	const uint8_t *seed;
	size_t seed_length;
	uint64_t clock_ns; /* 0 = not given */
};

int lv_run_parse(const uint8_t *payload, size_t length, struct lv_run *run);
void lv_run_free(struct lv_run *run);
const char *lv_env_get(char *const *env, const char *name);
int lv_run_add_home(struct lv_run *run, const char *home);
void lv_seed_and_clock(const struct lv_run *run);

/* network.c */
int lv_network_up(const char *order);
int lv_network_resolv(const char *text);

/* users.c */
struct lv_user {
	uid_t uid;
	gid_t gid;
	gid_t groups[LV_GROUPS_MAX];
	size_t group_count;
	char name[256]; /* "" when the uid has no passwd entry */
	char home[4096];
};

int lv_user_resolve(const char *spec, const char *passwd_path,
		    const char *group_path, struct lv_user *user,
		    struct lv_error *error);

/* process.c */
struct lv_process {
	pid_t pid;
	int out[2]; /* read ends of its standard output and error */
};

int lv_make_directories(const char *path);
int lv_process_spawn(const struct lv_run *run, const struct lv_user *user,
		     struct lv_process *process, struct lv_error *error);

/* supervise.c */
bool lv_supervise(struct lv_channel *channel, int *scratch);

/* power.c */
void lv_kill_all(void);
_Noreturn void lv_power_off(void);
_Noreturn void lv_restart(void);

/* main.c */
void lv_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t lv_now_ms(void);

#endif
