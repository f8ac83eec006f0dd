/* The block device, virtio 1.2, 5.2; each test with an io_uring and without. */
#include <fcntl.h>
#include <sys/stat.h>

#include "blk_kit.h"

static uint32_t without_ring; /* LV_BLK_NO_URING or 0 */

static uint8_t pattern(uint64_t offset)
{
	return (uint8_t)(offset * 7 + offset / 512);
}

/* `tail` bytes past the last sector are in the file but not on the disk. */
static void start(struct disk *d, uint32_t flags, uint64_t tail)
{
	struct lv_blk_config config = {.size = sizeof(config),
				       .flags = flags | without_ring,
				       .bytes = SECTORS * 512 + tail,
				       .queues = 2,
				       .id = "a-disk"};
	char path[] = "/tmp/lv-blk-XXXXXX";

	d->fd = mkstemp(path);
	CHECK(d->fd >= 0);
	CHECK(unlink(path) == 0);
	for (uint64_t i = 0; i < SECTORS * 512 + tail; i++) {
		uint8_t byte = pattern(i);

		CHECK(pwrite(d->fd, &byte, 1, (off_t)i) == 1);
	}
	config.fd = d->fd;
	world_init(&d->w);
	CHECK(lv_blk_new(&config, &d->w.mem, &d->w.events, &d->w.device) == 0);
	driver_ok(&d->w, 0);
}

/* Runs one chain; returns the status byte, used.len in *len. */
static uint8_t run(struct disk *d, uint32_t type, uint64_t sector,
		   const struct part *parts, uint32_t count, uint32_t *len)
{
	uint32_t used;

	put_header(d, type, sector);
	(void)add_chain(&d->w, 0, parts, count);
	serve(d, 0);
	used = take_used(&d->w, 0, NULL);
	if (len != NULL)
		*len = used;
	return *at(&d->w, STATUS);
}

/* header, one data buffer, status: as most drivers do it. */
static uint8_t simple(struct disk *d, uint32_t type, uint64_t sector,
		      uint32_t bytes, uint16_t flags, uint32_t *len)
{
	struct part parts[3] = {
	    {HEADER, 16, 0}, {BUFFER, bytes, flags}, {STATUS, 1, WRITE}};

	return run(d, type, sector, parts, 3, len);
}

static void v5_2_6_reads(void)
{
	struct disk d;
	uint32_t len;

	start(&d, LV_BLK_READ_ONLY, 100);
	CHECK(simple(&d, 0, 3, 4096, WRITE, &len) == STATUS_OK);
	CHECK(len == 4097);
	for (uint64_t i = 0; i < 4096; i++)
		CHECK(*at(&d.w, BUFFER + i) == pattern(3 * 512 + i));
	CHECK(simple(&d, 0, SECTORS - 1, 512, WRITE, NULL) == STATUS_OK);
	CHECK(simple(&d, 0, SECTORS, 0, WRITE, NULL) == STATUS_OK);
	CHECK(d.w.device->stats.bytes_in == 4608);
	stop(&d);
}

static void v5_2_6_writes_and_flushes(void)
{
	struct disk d;
	uint8_t byte;
	uint32_t len;

	start(&d, 0, 0);
	memset(at(&d.w, BUFFER), 0x5a, 1024);
	CHECK(simple(&d, 1, 5, 1024, 0, &len) == STATUS_OK);
	CHECK(len == 1);
	CHECK(pread(d.fd, &byte, 1, 5 * 512 - 1) == 1);
	CHECK(byte == pattern(5 * 512 - 1));
	CHECK(pread(d.fd, &byte, 1, 7 * 512 - 1) == 1 && byte == 0x5a);
	CHECK(pread(d.fd, &byte, 1, 7 * 512) == 1);
	CHECK(byte == pattern(7 * 512));
	CHECK(simple(&d, 4, 0, 0, 0, &len) == STATUS_OK);
	CHECK(len == 1);
	stop(&d);
}

static void v2_7_4_any_framing(void)
{
	struct disk d;
	struct part in[6] = {{HEADER, 7, 0},
			     {HEADER + 7, 9, 0},
			     {BUFFER, 100, WRITE},
			     {HIGH_GPA, 900, WRITE},
			     {BUFFER + 100, 24, WRITE},
			     {STATUS, 1, WRITE}};
	/* Header and data in one buffer. */
	struct part out[2] = {{HEADER, 16 + 512, 0}, {STATUS, 1, WRITE}};
	uint8_t byte;

	start(&d, 0, 0);
	CHECK(run(&d, 0, 1, in, 6, NULL) == STATUS_OK);
	CHECK(*at(&d.w, BUFFER + 99) == pattern(512 + 99));
	CHECK(*at(&d.w, HIGH_GPA) == pattern(512 + 100));
	CHECK(*at(&d.w, HIGH_GPA + 899) == pattern(512 + 999));
	CHECK(*at(&d.w, BUFFER + 123) == pattern(512 + 1023));
	/* The status byte at the end of the data buffer. */
	in[4].len = 25;
	put_header(&d, 0, 1);
	(void)add_chain(&d.w, 0, in, 5);
	serve(&d, 0);
	CHECK(take_used(&d.w, 0, NULL) == 1025);
	CHECK(*at(&d.w, BUFFER + 124) == STATUS_OK);
	memset(at(&d.w, HEADER + 16), 0x33, 512);
	CHECK(run(&d, 1, 9, out, 2, NULL) == STATUS_OK);
	CHECK(pread(d.fd, &byte, 1, 9 * 512 + 511) == 1 && byte == 0x33);
	stop(&d);
}

static void v5_2_6_2_out_of_range(void)
{
	static const struct {
		uint64_t sector;
		uint32_t bytes;
	} wrong[] = {
	    {SECTORS, 512},    {SECTORS - 1, 1024},
	    {UINT64_MAX, 512}, {UINT64_MAX / 512, 512},
	    {1ull << 55, 512}, {0, 511},
	    {0, 513},
	};
	struct disk d;
	struct stat info;

	start(&d, 0, 100);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		CHECK(simple(&d, 0, wrong[i].sector, wrong[i].bytes, WRITE,
			     NULL) == STATUS_IOERR);
		CHECK(simple(&d, 1, wrong[i].sector, wrong[i].bytes, 0, NULL) ==
		      STATUS_IOERR);
	}
	CHECK(fstat(d.fd, &info) == 0);
	CHECK(info.st_size == SECTORS * 512 + 100);
	CHECK(d.w.device->stats.malformed == 14);
	stop(&d);
}

static void v5_2_6_2_a_read_only_disk_is_not_written(void)
{
	struct disk d;
	uint8_t byte;

	start(&d, LV_BLK_READ_ONLY, 0);
	memset(at(&d.w, BUFFER), 0xee, 512);
	CHECK(simple(&d, 1, 0, 512, 0, NULL) == STATUS_IOERR);
	CHECK(pread(d.fd, &byte, 1, 0) == 1 && byte == pattern(0));
	reg_write(&d.w, 0x014, 0);
	CHECK((reg_read(&d.w, 0x010) & 1u << 5) != 0);
	stop(&d);
}

static void wrong_direction(void)
{
	struct disk d;
	uint32_t len;

	start(&d, 0, 0);
	memset(at(&d.w, BUFFER), 0xee, 512);
	/* IN with a readable buffer, OUT with a writable one. */
	CHECK(simple(&d, 0, 0, 512, 0, NULL) == STATUS_IOERR);
	CHECK(simple(&d, 1, 0, 512, WRITE, NULL) == STATUS_IOERR);
	for (uint64_t i = 0; i < 512; i++)
		CHECK(*at(&d.w, BUFFER + i) == 0xee);
	/* 2.7.4.2: a readable descriptor behind a writable one. */
	struct part parts[3] = {
	    {HEADER, 16, 0}, {STATUS, 1, WRITE}, {BUFFER, 512, 0}};
	CHECK(run(&d, 1, 0, parts, 3, &len) == UNTOUCHED);
	CHECK(len == 0);
	stop(&d);
}

static void short_header_or_missing_status_is_completed_empty(void)
{
	struct disk d;
	struct part header[2] = {{HEADER, 15, 0}, {STATUS, 1, WRITE}};
	struct part status[2] = {{HEADER, 16, 0}, {BUFFER, 512, 0}};
	uint32_t len;

	start(&d, 0, 0);
	CHECK(run(&d, 0, 0, header, 2, &len) == UNTOUCHED && len == 0);
	CHECK(run(&d, 1, 0, status, 2, &len) == UNTOUCHED && len == 0);
	CHECK(run(&d, 0, 0, status, 1, &len) == UNTOUCHED && len == 0);
	CHECK(run(&d, 0, 0, header + 1, 1, &len) == UNTOUCHED && len == 0);
	CHECK(d.w.device->stats.malformed == 4);
	stop(&d);
}

static void v5_2_6_get_id(void)
{
	struct disk d;
	uint32_t len;

	start(&d, 0, 0);
	CHECK(simple(&d, 8, 0, 20, WRITE, &len) == STATUS_OK);
	CHECK(len == 21);
	CHECK(strcmp((char *)at(&d.w, BUFFER), "a-disk") == 0);
	CHECK(simple(&d, 8, 0, 19, WRITE, NULL) == STATUS_IOERR);
	CHECK(simple(&d, 8, 0, 512, WRITE, &len) == STATUS_OK && len == 20);
	stop(&d);
}

static void unknown_requests_are_unsupported(void)
{
	struct disk d;

	start(&d, 0, 0);
	CHECK(simple(&d, 12, 0, 16, 0, NULL) == STATUS_UNSUPP);
	CHECK(simple(&d, 0xffffffff, 0, 512, WRITE, NULL) == STATUS_UNSUPP);
	stop(&d);
}

static void a_truncated_file_is_an_io_error(void)
{
	struct disk d;

	start(&d, LV_BLK_READ_ONLY, 0);
	CHECK(ftruncate(d.fd, 1024) == 0);
	CHECK(simple(&d, 0, 1, 1024, WRITE, NULL) == STATUS_IOERR);
	CHECK(d.w.device->stats.errors == 1);
	CHECK(simple(&d, 0, 1, 512, WRITE, NULL) == STATUS_OK);
	stop(&d);
}

static void the_io_thread_serves_kicks(void)
{
	struct disk d;
	struct part parts[3] = {
	    {HEADER, 16, 0}, {BUFFER, 512, WRITE}, {STATUS, 1, WRITE}};
	struct lv_io io = {0};
	struct pollfd irq;

	start(&d, 0, 0);
	irq = (struct pollfd){.fd = d.w.device->irq_fd, .events = POLLIN};
	CHECK(lv_io_start(&io, &d.w.device, 1, &d.w.events) == 0);
	put_header(&d, 0, 0);
	(void)add_chain(&d.w, 0, parts, 3);
	lv_eventfd_signal(d.w.device->kick_fd[0]);
	CHECK(poll(&irq, 1, 10000) == 1);
	CHECK(take_used(&d.w, 0, NULL) == 513);
	/* Offered without a kick: taken when the thread ends. */
	(void)add_chain(&d.w, 0, parts, 3);
	lv_io_stop(&io);
	CHECK(take_used(&d.w, 0, NULL) == 513);
	stop(&d);
}

static uint8_t erase(struct disk *d, uint32_t type, uint64_t sector,
		     uint32_t sectors, uint32_t flags)
{
	struct part parts[3] = {
	    {HEADER, 16, 0}, {BUFFER, 16, 0}, {STATUS, 1, WRITE}};
	uint32_t rest[2] = {sectors, flags};

	memcpy(at(&d->w, BUFFER), &sector, 8);
	memcpy(at(&d->w, BUFFER + 8), rest, 8);
	return run(d, type, 0, parts, 3, NULL);
}

static blkcnt_t blocks(const struct disk *d)
{
	struct stat info;

	CHECK(fstat(d->fd, &info) == 0);
	CHECK(info.st_size == SECTORS * 512);
	return info.st_blocks;
}

static void v5_2_6_discard_gives_blocks_back(void)
{
	struct disk d;
	blkcnt_t before;
	uint8_t byte = 1;

	start(&d, 0, 0);
	before = blocks(&d);
	CHECK(erase(&d, 11, 8, 16, 0) == STATUS_OK);
	CHECK(blocks(&d) < before);
	CHECK(pread(d.fd, &byte, 1, 8 * 512) == 1 && byte == 0);
	CHECK(pread(d.fd, &byte, 1, 8 * 512 - 1) == 1);
	CHECK(byte == pattern(8 * 512 - 1));
	CHECK(pread(d.fd, &byte, 1, 24 * 512) == 1);
	CHECK(byte == pattern(24 * 512));
	/* WRITE_ZEROES keeps the blocks unless it may unmap. */
	before = blocks(&d);
	CHECK(erase(&d, 13, 24, 8, 0) == STATUS_OK);
	CHECK(pread(d.fd, &byte, 1, 24 * 512) == 1 && byte == 0);
	CHECK(blocks(&d) == before);
	CHECK(erase(&d, 13, 24, 8, 1) == STATUS_OK);
	CHECK(blocks(&d) < before);
	CHECK(erase(&d, 11, 0, 0, 0) == STATUS_OK);
	stop(&d);
}

static void v5_2_6_2_wrong_erasures_change_nothing(void)
{
	struct part parts[3] = {
	    {HEADER, 16, 0}, {BUFFER, 24, 0}, {STATUS, 1, WRITE}};
	struct disk d;
	blkcnt_t before;

	start(&d, 0, 0);
	before = blocks(&d);
	CHECK(erase(&d, 11, 0, 8, 1) == STATUS_UNSUPP);
	CHECK(erase(&d, 13, 0, 8, 2) == STATUS_UNSUPP);
	CHECK(erase(&d, 11, SECTORS - 1, 2, 0) == STATUS_IOERR);
	CHECK(erase(&d, 11, UINT64_MAX, 2, 0) == STATUS_IOERR);
	CHECK(erase(&d, 13, 0, UINT32_MAX, 0) == STATUS_IOERR);
	CHECK(run(&d, 11, 0, parts, 3, NULL) == STATUS_IOERR);
	parts[1].len = 17 * 16;
	CHECK(run(&d, 11, 0, parts, 3, NULL) == STATUS_IOERR);
	CHECK(d.w.device->stats.malformed == 5);
	CHECK(blocks(&d) == before);
	stop(&d);
	start(&d, LV_BLK_READ_ONLY, 0);
	CHECK(erase(&d, 11, 0, 8, 0) == STATUS_IOERR);
	stop(&d);
}

static void v5_2_5_every_queue_serves(void)
{
	struct part parts[3] = {
	    {HEADER, 16, 0}, {BUFFER, 512, WRITE}, {STATUS, 1, WRITE}};
	struct disk d;

	start(&d, 0, 0);
	CHECK(d.w.device->regs->config[34] == 2);
	put_header(&d, 0, 1);
	(void)add_chain(&d.w, 1, parts, 3);
	serve(&d, 1);
	CHECK(take_used(&d.w, 1, NULL) == 513);
	CHECK(used_index(&d.w, 0) == 0);
	CHECK(*at(&d.w, BUFFER) == pattern(512));
	stop(&d);
}

static void with_any(void)
{
	v5_2_6_reads();
	v5_2_6_writes_and_flushes();
	v2_7_4_any_framing();
	v5_2_6_2_out_of_range();
	v5_2_6_2_a_read_only_disk_is_not_written();
	wrong_direction();
	short_header_or_missing_status_is_completed_empty();
	v5_2_6_get_id();
	unknown_requests_are_unsupported();
	a_truncated_file_is_an_io_error();
	the_io_thread_serves_kicks();
	v5_2_6_discard_gives_blocks_back();
	v5_2_6_2_wrong_erasures_change_nothing();
	v5_2_5_every_queue_serves();
}

int main(void)
{
	with_any();
	without_ring = LV_BLK_NO_URING;
	with_any();
	return 0;
}
