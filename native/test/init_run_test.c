/* The RUN frame's fields. */
#define _GNU_SOURCE
#include <stdarg.h>

#include "../init/channel.c"
#include "../init/run.c"
#include "init_test.h"

void lv_log(const char *format, ...)
{
	(void)format;
}

uint64_t lv_now_ms(void)
{
	return 0;
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

static void every_field_is_taken(void)
{
	uint8_t bytes[512], *at = bytes;
	struct lv_run run;

	at += put(at, LV_RUN_FIELD_ARGV, "sh");
	at += put(at, LV_RUN_FIELD_ARGV, "-c");
	at += put(at, LV_RUN_FIELD_ARGV, "");
	at += put(at, LV_RUN_FIELD_ENV, "PATHS=no");
	at += put(at, LV_RUN_FIELD_ENV, "PATH=/bin");
	at += put(at, LV_RUN_FIELD_CWD, "/work");
	at += put(at, LV_RUN_FIELD_USER, "app");
	at += put(at, LV_RUN_FIELD_HOSTNAME, "m1");
	at += put(at, LV_RUN_FIELD_NETWORK, "eth0 10.0.2.15/24 10.0.2.2");
	at += put(at, LV_RUN_FIELD_RESOLV, "nameserver 10.0.2.3\n");
	at += put(at, LV_RUN_FIELD_SEED, "entropy");
	at += put(at, 99, "of a newer host");
	at += put(at, LV_RUN_FIELD_CLOCK, "\1\0\0\0\0\0\0\0");
	at[-1] = 1;
	CHECK(lv_run_parse(bytes, (size_t)(at - bytes), &run) < 0);

	at -= 9;
	lv_put32(at + 4, 8);
	lv_put64(at + 8, 1700000000123456789u);
	at += 16;
	CHECK(lv_run_parse(bytes, (size_t)(at - bytes), &run) == 0);
	CHECK(run.argc == 3 && run.argv[3] == NULL);
	CHECK_TEXT(run.argv[0], "sh");
	CHECK_TEXT(run.argv[2], "");
	CHECK(run.envc == 2 && run.env[2] == NULL);
	CHECK_TEXT(lv_env_get(run.env, "PATH"), "/bin");
	CHECK(lv_env_get(run.env, "HOME") == NULL);
	CHECK_TEXT(run.cwd, "/work");
	CHECK(run.network_count == 1 && run.networks[1] == NULL);
	CHECK_TEXT(run.networks[0], "eth0 10.0.2.15/24 10.0.2.2");
	CHECK_TEXT(run.resolv, "nameserver 10.0.2.3\n");
	CHECK_TEXT(run.user, "app");
	CHECK_TEXT(run.hostname, "m1");
	CHECK(run.seed_length == 7 && memcmp(run.seed, "entropy", 7) == 0);
	CHECK(run.clock_ns == 1700000000123456789u);
	lv_run_free(&run);
}

static void what_is_left_out_has_a_default(void)
{
	uint8_t bytes[32];
	struct lv_run run;
	size_t length = put(bytes, LV_RUN_FIELD_ARGV, "true");

	CHECK(lv_run_parse(bytes, length, &run) == 0);
	CHECK_TEXT(run.cwd, "/");
	CHECK_TEXT(run.user, "");
	CHECK(run.hostname == NULL && run.env[0] == NULL);
	CHECK(run.seed_length == 0 && run.clock_ns == 0);
	lv_run_free(&run);
}

static void a_cut_or_empty_frame_is_refused(void)
{
	uint8_t bytes[64];
	struct lv_run run;
	size_t length = put(bytes, LV_RUN_FIELD_ARGV, "true");

	CHECK(lv_run_parse(bytes, 0, &run) == -EINVAL);
	for (size_t cut = 1; cut < length; cut++) {
		/* A heap copy of that size, so that ASan sees one byte over. */
		uint8_t *copy = malloc(cut);
		memcpy(copy, bytes, cut);
		CHECK(lv_run_parse(copy, cut, &run) == -EPROTO);
		free(copy);
	}
	lv_put32(bytes + 4, 0xffffffffu);
	CHECK(lv_run_parse(bytes, length, &run) == -EPROTO);
}

static void arguments_are_bounded(void)
{
	size_t count = LV_ARGUMENTS_MAX + 1;
	uint8_t *bytes = malloc(count * 9), *at = bytes;
	struct lv_run run;

	for (size_t i = 0; i < count; i++)
		at += put(at, LV_RUN_FIELD_ENV, "x");
	CHECK(lv_run_parse(bytes, count * 9, &run) == -E2BIG);
	at = bytes;
	at += put(at, LV_RUN_FIELD_ARGV, "x");
	CHECK(lv_run_parse(bytes, (count - 1) * 9, &run) == 0);
	CHECK(run.envc == LV_ARGUMENTS_MAX - 1);
	lv_run_free(&run);
	free(bytes);
}

int main(void)
{
	every_field_is_taken();
	what_is_left_out_has_a_default();
	a_cut_or_empty_frame_is_refused();
	arguments_are_bounded();
	return init_test_failures != 0;
}
