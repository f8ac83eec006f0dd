/*
 * kit.h - what the fuzz targets share: a guest made of plain memory whose
 * driver is played by the input.
 *
 * An input is a script. Its first bytes choose features and sizes, the rest is
 * a list of actions (kit.c): offer a chain, kick, poll, let time pass, touch a
 * register, scribble into memory, reset. Nearly all of it is what a driver may
 * do, so that the devices' code is reached; flips make the odd one wrong.
 *
 * While the driver of a queue has broken no rule, what the device gives back is
 * held against what was offered: only chains that wait, each once, never more
 * bytes than they had room for. Writes outside of RAM meet a page that is not
 * there, or AddressSanitizer.
 */
#ifndef FUZZ_KIT_H
#define FUZZ_KIT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/lv.h"
#include "../test/devices.h"

#define RAM_BYTES  0x20000u
#define HIGH_GPA   0x100000000ull
#define HIGH_BYTES 0x8000u
/* Indirect tables: a long one, and one per queue and head. */
#define LONG_TABLE     (HIGH_GPA + 0x2800)
#define LONG_MAX       300u
#define TABLE(q, head) (HIGH_GPA + 0x4000 + ((q)*16ull + (head)) * 0x80)
#define RING(q)	       ((q)*0x2000ull)
#define AVAIL(q)       (RING(q) + 0x1000)
#define USED(q)	       (RING(q) + 0x1400)
#define DATA	       0x10000ull
#define DATA_BYTES     0x10000u

#define NEXT	       1u
#define WRITE	       2u
#define INDIRECT       4u

/* What must never be: says where, and ends the run as a finding. */
#define MUST(condition)                                                        \
	do {                                                                   \
		if (!(condition)) {                                            \
			(void)fprintf(stderr, "%s:%d: %s: not so: %s\n",       \
				      __FILE__, __LINE__, __func__,            \
				      #condition);                             \
			abort();                                               \
		}                                                              \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the input ---- */

struct script {
	const uint8_t *at;
	size_t left;
};

/* The next bytes of the input, little endian; zeros after its end. */
uint64_t take(struct script *script, uint32_t bytes);
static inline uint8_t take8(struct script *script)
{
	return (uint8_t)take(script, 1);
}
static inline uint32_t take32(struct script *script)
{
	return (uint32_t)take(script, 4);
}
/* One of a list, or a number of the input's own making. */
uint32_t take_size(struct script *script);

/* ---- the guest ---- */

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

/* What the driver knows of a queue. */
struct ring {
	uint16_t avail;
	uint16_t used;
	uint16_t next_desc;
	bool honest; /* no rule was broken since the reset */
	/* By head: bytes the device may write, plus 1; 0 = not offered. */
	uint64_t room[LV_QUEUE_MAX];
	/* By descriptor: its chain's head plus 1; 0 = free. */
	uint16_t owner[LV_QUEUE_MAX];
};

struct fuzz;

struct target {
	/* Makes fuzz->device of the script's first bytes. */
	int (*make)(struct fuzz *fuzz);
	/* The start of a request; returns its bytes. NULL = none. */
	uint32_t (*header)(struct fuzz *fuzz, uint32_t queue, uint8_t *out);
	uint32_t header_bytes; /* that most requests begin with */
	/* Something happens on the host's side. NULL = nothing. */
	void (*host)(struct fuzz *fuzz, uint8_t what);
	/* Queues whose chains the device fills: bit per queue. */
	uint32_t filled;
	/* Chains of a queue that it may keep while nothing is under way. */
	uint32_t held;
	/* After the last action, before the device goes. NULL = nothing. */
	void (*end)(struct fuzz *fuzz);
};
#define HEADER_MAX 64u

struct fuzz {
	const struct target *target;
	struct script script;
	struct lv_mem mem;
	struct lv_events events;
	struct lv_device *device;
	uint64_t features;
	uint32_t num;
	struct ring ring[LV_QUEUES_MAX];
};

/* Guest memory of zeros, between pages that are not there. */
void memory_reset(struct lv_mem *mem);
uint8_t *at(const struct lv_mem *mem, uint64_t gpa);
void poke16(const struct lv_mem *mem, uint64_t gpa, uint16_t value);
uint16_t peek16(const struct lv_mem *mem, uint64_t gpa);
uint32_t peek32(const struct lv_mem *mem, uint64_t gpa);
void put_desc(const struct lv_mem *mem, uint64_t table, uint32_t index,
	      struct desc desc);

void reg_write(struct lv_device *device, uint64_t offset, uint32_t value);
uint32_t reg_read(struct lv_device *device, uint64_t offset);

/* Plays an input against a fresh device of the target. */
int fuzz_device(const struct target *target, const uint8_t *data, size_t size);
/* Takes what the device gave back and holds it against what it was given. */
void check_queues(struct fuzz *fuzz);

#endif
