/*
 * ratelimit.c - token buckets over any times and sizes: what passed never comes
 * to more than the burst, the rate and one operation; who waits until the time
 * it was told goes ahead then; nobody waits without a reason. Beyond an hour it
 * is asked for again.
 */
#include "kit.h"

#define STEPS_MAX 100u
#define SECOND_NS 1000000000ull
#define HOUR_NS	  (3599 * SECOND_NS)

struct account {
	uint64_t rate, burst, spent, last;
};

static struct account account_of(uint64_t rate, uint64_t burst)
{
	struct account account = {.rate = rate, .burst = burst};

	if (rate >> 48 != 0)
		account.rate = 0;
	if (burst == 0 || burst >> 48 != 0)
		account.burst = rate;
	return account;
}

static void check(const struct account *account, uint64_t elapsed_ns)
{
	unsigned __int128 allowed =
	    (unsigned __int128)elapsed_ns * account->rate / SECOND_NS +
	    account->burst + account->last;

	if (account->rate != 0)
		MUST(account->spent <= allowed);
}

static uint64_t take_rate(struct script *script)
{
	uint8_t which = take8(script);

	return which < 0x40 ? 0 : take(script, which & 7u);
}

static uint64_t take_delay(struct script *script)
{
	uint8_t which = take8(script);

	return take(script, which & 3u) << (which >> 4 & 15u);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = {data, size};
	struct lv_limit limit = {take_rate(&script), take_rate(&script),
				 take_rate(&script), take_rate(&script)};
	struct account bytes = account_of(limit.bytes_rate, limit.bytes_burst);
	struct account ops = account_of(limit.ops_rate, limit.ops_burst);
	uint64_t start_ns = SECOND_NS + take(&script, 6);
	uint64_t now_ns = start_ns;
	struct lv_limiter limiter;

	lv_limiter_init(&limiter, &limit);
	/* The buckets begin full; from now on what comes in is counted. */
	MUST(lv_limiter_wait(&limiter, now_ns) == 0);
	for (uint32_t i = 0; i < STEPS_MAX && script.left > 0; i++) {
		uint8_t what = take8(&script);
		uint64_t until_ns;

		now_ns += take_delay(&script);
		until_ns = lv_limiter_wait(&limiter, now_ns);
		if (until_ns != 0) {
			MUST(bytes.rate != 0 || ops.rate != 0);
			MUST(until_ns > now_ns);
			if ((what & 1) == 0)
				continue;
			if (until_ns - now_ns >= HOUR_NS)
				break;
			now_ns = until_ns;
			MUST(lv_limiter_wait(&limiter, now_ns) == 0);
		}
		/* A chain is at most 256 times 4 GiB. */
		bytes.last = take(&script, what >> 5) & 0xffffffffffull;
		bytes.spent += bytes.last;
		ops.last = 1;
		ops.spent++;
		lv_limiter_spend(&limiter, bytes.last);
		check(&bytes, now_ns - start_ns);
		check(&ops, now_ns - start_ns);
	}
	return 0;
}
