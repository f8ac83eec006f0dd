/*
 * run.c - what the host wants run: the RUN frame, and the entropy and wall
 * clock that come with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/random.h>

#include "init.h"

#define SEED_MAX_BYTES 512u

static int append(char ***list, size_t *count, const uint8_t *at, size_t length)
{
	if (*count >= LV_ARGUMENTS_MAX)
		return -E2BIG;
	/* One slot for the value, one for the NULL, one for a HOME to add. */
	char **grown = realloc(*list, (*count + 3) * sizeof(char *));
	if (grown == NULL)
		return -ENOMEM;
	*list = grown;
	char *text = strndup((const char *)at, length);
	if (text == NULL)
		return -ENOMEM;
	grown[(*count)++] = text;
	grown[*count] = NULL;
	return 0;
}

static int replace(char **text, const uint8_t *at, size_t length)
{
	char *copy = strndup((const char *)at, length);

	if (copy == NULL)
		return -ENOMEM;
	free(*text);
	*text = copy;
	return 0;
}

static int parse_field(struct lv_run *run, uint16_t field, const uint8_t *at,
		       size_t length)
{
	switch (field) {
	case LV_RUN_FIELD_ARGV:
		return append(&run->argv, &run->argc, at, length);
	case LV_RUN_FIELD_ENV:
		return append(&run->env, &run->envc, at, length);
	case LV_RUN_FIELD_CWD:
		return length == 0 ? 0 : replace(&run->cwd, at, length);
	case LV_RUN_FIELD_USER:
		return replace(&run->user, at, length);
	case LV_RUN_FIELD_HOSTNAME:
		return length == 0 ? 0 : replace(&run->hostname, at, length);
	case LV_RUN_FIELD_NETWORK:
		return append(&run->networks, &run->network_count, at, length);
	case LV_RUN_FIELD_RESOLV:
		return length == 0 ? 0 : replace(&run->resolv, at, length);
	case LV_RUN_FIELD_SEED:
		run->seed = at;
		run->seed_length =
		    length < SEED_MAX_BYTES ? length : SEED_MAX_BYTES;
		return 0;
	case LV_RUN_FIELD_CLOCK:
		if (length != 8)
			return -EPROTO;
		run->clock_ns = lv_get64(at);
		return 0;
	default:
		return 0; /* of a newer host; what we need is checked below */
	}
}

/* Copies everything but the seed, which stays in the payload. On failure what
 * was taken so far is freed. */
int lv_run_parse(const uint8_t *payload, size_t length, struct lv_run *run)
{
	size_t at = 0;
	int result = 0;

	memset(run, 0, sizeof(*run));
	run->cwd = strdup("/");
	run->user = strdup("");
	run->env = calloc(2, sizeof(char *));
	if (run->cwd == NULL || run->user == NULL || run->env == NULL)
		result = -ENOMEM;
	while (result == 0 && at < length) {
		if (length - at < 8 ||
		    lv_get32(payload + at + 4) > length - at - 8) {
			result = -EPROTO;
			break;
		}
		uint32_t size = lv_get32(payload + at + 4);
		result = parse_field(run, lv_get16(payload + at),
				     payload + at + 8, size);
		at += 8 + (size_t)size;
	}
	if (result == 0 && run->argc == 0)
		result = -EINVAL;
	if (result < 0)
		lv_run_free(run);
	return result;
}

void lv_run_free(struct lv_run *run)
{
	for (size_t i = 0; i < run->argc; i++)
		free(run->argv[i]);
	for (size_t i = 0; i < run->envc; i++)
		free(run->env[i]);
	for (size_t i = 0; i < run->network_count; i++)
		free(run->networks[i]);
	free(run->networks);
	free(run->resolv);
	free(run->argv);
	free(run->env);
	free(run->cwd);
	free(run->user);
	free(run->hostname);
	memset(run, 0, sizeof(*run));
}

const char *lv_env_get(char *const *env, const char *name)
{
	size_t length = strlen(name);

	for (; *env != NULL; env++)
		if (strncmp(*env, name, length) == 0 && (*env)[length] == '=')
			return *env + length + 1;
	return NULL;
}

/* The slot that lv_run_parse kept free takes HOME. */
int lv_run_add_home(struct lv_run *run, const char *home)
{
	static const char name[] = "HOME=";

	if (lv_env_get(run->env, "HOME") != NULL)
		return 0;
	size_t length = strlen(home);
	char *text = malloc(sizeof(name) + length);
	if (text == NULL)
		return -ENOMEM;
	memcpy(text, name, sizeof(name) - 1);
	memcpy(text + sizeof(name) - 1, home, length + 1);
	run->env[run->envc++] = text;
	run->env[run->envc] = NULL;
	return 0;
}

static int add_entropy(const uint8_t *seed, size_t length)
{
	/* struct rand_pool_info, whose buffer is an array of u32. */
	uint32_t request[2 + SEED_MAX_BYTES / 4] = {(uint32_t)length * 8,
						    (uint32_t)length};

	memcpy(request + 2, seed, length);
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int result = 0;
	if (ioctl(fd, RNDADDENTROPY, request) < 0 ||
	    ioctl(fd, RNDRESEEDCRNG) < 0)
		result = -errno;
	(void)close(fd);
	return result;
}

void lv_seed_and_clock(const struct lv_run *run)
{
	if (run->seed_length > 0) {
		int result = add_entropy(run->seed, run->seed_length);
		if (result < 0)
			lv_log("cannot add entropy: %s", strerror(-result));
	}
	if (run->clock_ns > 0) {
		struct timespec now = {
		    .tv_sec = (time_t)(run->clock_ns / 1000000000u),
		    .tv_nsec = (long)(run->clock_ns % 1000000000u),
		};
		if (clock_settime(CLOCK_REALTIME, &now) < 0)
			lv_log("cannot set the clock: %s", strerror(errno));
	}
}
