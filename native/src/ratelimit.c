/*
 * ratelimit.c - token buckets. An operation goes ahead when both buckets hold
 * anything at all and may overdraw them: what it costs is often known only
 * afterwards, and the debt delays the next one. Nothing is lost: a device
 * leaves in the queue what has to wait, and asks to be woken.
 */
#include "lv.h"

/* What is due later than this is asked for again: a clock's arithmetic. */
#define WAIT_MAX_NS 3600000000000ull /* an hour */

static void bucket_init(struct lv_bucket *bucket, uint64_t rate, uint64_t burst)
{
	/* Beyond 2^48 a second nothing is a limit; sums cannot overflow. */
	bucket->rate = rate >> 48 != 0 ? 0 : rate;
	bucket->burst = burst == 0 || burst >> 48 != 0 ? rate : burst;
	bucket->tokens = (int64_t)bucket->burst;
	bucket->filled_ns = 0;
}

void lv_limiter_init(struct lv_limiter *limiter, const struct lv_limit *limit)
{
	bucket_init(&limiter->bytes, limit->bytes_rate, limit->bytes_burst);
	bucket_init(&limiter->ops, limit->ops_rate, limit->ops_burst);
}

static uint64_t bucket_wait(struct lv_bucket *bucket, uint64_t now_ns)
{
	unsigned __int128 fresh, wait_ns;
	int64_t room = (int64_t)bucket->burst - bucket->tokens;

	if (bucket->rate == 0)
		return 0;
	fresh = (unsigned __int128)(now_ns - bucket->filled_ns) * bucket->rate;
	/* The time of a token's part stays on the clock. */
	bucket->filled_ns =
	    now_ns - (uint64_t)(fresh % LV_SECOND_NS) / bucket->rate;
	fresh /= LV_SECOND_NS;
	/* A debt may be larger than the burst, and time pays all of it. */
	bucket->tokens += fresh < (uint64_t)room ? (int64_t)fresh : room;
	if (bucket->tokens > 0)
		return 0;
	wait_ns = (unsigned __int128)(1 - bucket->tokens);
	wait_ns = (wait_ns * LV_SECOND_NS + bucket->rate - 1) / bucket->rate;
	return bucket->filled_ns +
	       (wait_ns < WAIT_MAX_NS ? (uint64_t)wait_ns : WAIT_MAX_NS);
}

uint64_t lv_limiter_wait(struct lv_limiter *limiter, uint64_t now_ns)
{
	uint64_t bytes_ns = bucket_wait(&limiter->bytes, now_ns);
	uint64_t ops_ns = bucket_wait(&limiter->ops, now_ns);

	return bytes_ns > ops_ns ? bytes_ns : ops_ns;
}

void lv_limiter_spend(struct lv_limiter *limiter, uint64_t bytes)
{
	if (limiter->bytes.rate != 0)
		limiter->bytes.tokens -= (int64_t)bytes;
	if (limiter->ops.rate != 0)
		limiter->ops.tokens--;
}

bool lv_device_throttle(struct lv_device *device, struct lv_limiter *limiter)
{
	uint64_t until_ns;

	if ((limiter->bytes.rate | limiter->ops.rate) == 0)
		return false;
	until_ns = lv_limiter_wait(limiter, lv_now_ns());
	if (until_ns == 0)
		return false;
	LV_COUNT(device, throttled, 1);
	lv_device_wake(device, until_ns);
	return true;
}
