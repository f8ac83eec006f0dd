/* Frames: layout, partial reads, partial writes, bounds. */
#define _GNU_SOURCE
#include <fcntl.h>

#include "../init/channel.c"
#include "../init/error.c"
#include "init_test.h"

uint64_t lv_now_ms(void)
{
	return 0;
}

static struct lv_channel channel;

static void reset(int fd)
{
	memset(&channel, 0, sizeof(channel));
	channel.fd = fd;
}

static void a_frame_has_the_layout_of_the_protocol(void)
{
	static const uint8_t expected[] = {3, 0, 0,   0,   4,  0,
					   0, 0, 'a', 'b', 'c'};

	reset(-1);
	CHECK(lv_channel_queue(&channel, LV_GUEST_FRAME_STDERR, "abc", 3) == 0);
	CHECK(channel.out_end == sizeof(expected));
	CHECK(memcmp(channel.out, expected, sizeof(expected)) == 0);
}

static void numbers_are_little_endian(void)
{
	uint8_t bytes[8];

	lv_put64(bytes, 0x1122334455667788u);
	CHECK(bytes[0] == 0x88 && bytes[7] == 0x11);
	CHECK(lv_get64(bytes) == 0x1122334455667788u);
	CHECK(lv_get32(bytes) == 0x55667788u && lv_get16(bytes) == 0x7788u);
	lv_put32(bytes, 0xfffffffeu);
	CHECK(lv_get32(bytes) == 0xfffffffeu);
}

static void a_full_buffer_refuses_a_frame_whole(void)
{
	static uint8_t chunk[LV_CHUNK_BYTES];

	reset(-1);
	CHECK(lv_channel_queue(&channel, 3, chunk, sizeof(chunk)) == 0);
	size_t end = channel.out_end;
	CHECK(lv_channel_queue(&channel, 3, chunk, sizeof(chunk)) == -ENOBUFS);
	CHECK(channel.out_end == end);
	CHECK(lv_channel_queue(&channel, 5, chunk, 8) == 0);
	CHECK(lv_channel_queue(&channel, 3, chunk, LV_OUT_BYTES) == -ENOBUFS);
}

static void an_error_frame_carries_code_and_text(void)
{
	struct lv_error error;

	reset(-1);
	CHECK(lv_fail(&error, LV_GUEST_ERROR_CWD, "no %s", "way") == -1);
	CHECK(lv_channel_error(&channel, &error) == 0);
	CHECK(lv_get32(channel.out) == 10);
	CHECK(lv_get32(channel.out + 8) == LV_GUEST_ERROR_CWD);
	CHECK(memcmp(channel.out + 12, "no way", 6) == 0);
}

static void frames_are_found_however_they_are_cut(void)
{
	uint8_t stream[64] = {0};
	struct lv_frame frame;
	int pair[2];

	lv_put32(stream, 5);
	lv_put16(stream + 4, LV_HOST_FRAME_RUN);
	memcpy(stream + 8, "hello", 5);
	lv_put16(stream + 17, LV_HOST_FRAME_POWEROFF);
	for (size_t cut = 1; cut < 21; cut++) {
		CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0,
				 pair) == 0);
		reset(pair[0]);
		int seen = 0;
		for (size_t at = 0; at < 21; at += cut) {
			size_t size = 21 - at < cut ? 21 - at : cut;
			CHECK(send(pair[1], stream + at, size, 0) ==
			      (ssize_t)size);
			CHECK(lv_channel_read(&channel) == (int)size);
			while (lv_channel_next(&channel, &frame) == 1) {
				CHECK(frame.type ==
				      (seen == 0 ? LV_HOST_FRAME_RUN
						 : LV_HOST_FRAME_POWEROFF));
				CHECK(frame.length == (seen == 0 ? 5u : 0u));
				CHECK(seen == 1 ||
				      memcmp(frame.payload, "hello", 5) == 0);
				seen++;
			}
		}
		CHECK(seen == 2);
		CHECK(lv_channel_read(&channel) == 0);
		(void)close(pair[1]);
		CHECK(lv_channel_read(&channel) == -ENOTCONN);
		(void)close(pair[0]);
	}
}

static void a_length_over_the_bound_ends_the_stream(void)
{
	struct lv_frame frame;

	reset(-1);
	lv_put32(channel.in, LV_GUEST_PAYLOAD_MAX_BYTES + 1);
	channel.in_end = 8;
	CHECK(lv_channel_next(&channel, &frame) == -EPROTO);
	lv_put32(channel.in, LV_GUEST_PAYLOAD_MAX_BYTES);
	CHECK(lv_channel_next(&channel, &frame) == 0);
	channel.in_end = sizeof(channel.in);
	CHECK(lv_channel_next(&channel, &frame) == 1);
	CHECK(channel.in_start == channel.in_end);
}

static void a_slow_reader_gets_every_byte_in_order(void)
{
	static uint8_t chunk[LV_CHUNK_BYTES], got[4096];
	int pair[2], small = 4096;
	uint8_t next = 0;
	size_t total = 0;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	(void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	reset(pair[0]);
	for (size_t i = 0; i < sizeof(chunk); i++)
		chunk[i] = (uint8_t)i;
	CHECK(lv_channel_queue(&channel, 3, chunk, sizeof(chunk)) == 0);
	int flushed = lv_channel_flush(&channel);
	CHECK(flushed == 0);
	while (total < sizeof(chunk) + 8) {
		ssize_t count = recv(pair[1], got, sizeof(got), 0);
		if (count < 0) {
			flushed = lv_channel_flush(&channel);
			CHECK(flushed >= 0);
			if (flushed < 0)
				break;
			continue;
		}
		for (ssize_t i = 0; i < count; i++, total++)
			if (total >= 8)
				CHECK(got[i] == next++);
	}
	CHECK(lv_channel_flush(&channel) == 1 && lv_channel_idle(&channel));
	(void)close(pair[1]);
	CHECK(lv_channel_queue(&channel, 3, chunk, 1) == 0);
	CHECK(lv_channel_flush(&channel) == -EPIPE);
	(void)close(pair[0]);
}

int main(void)
{
	a_frame_has_the_layout_of_the_protocol();
	numbers_are_little_endian();
	a_full_buffer_refuses_a_frame_whole();
	an_error_frame_carries_code_and_text();
	frames_are_found_however_they_are_cut();
	a_length_over_the_bound_ends_the_stream();
	a_slow_reader_gets_every_byte_in_order();
	return init_test_failures != 0;
}
