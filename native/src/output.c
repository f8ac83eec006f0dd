/*
 * output.c - what a guest says on a serial port or console. It is gathered
 * until the end of a line and written non-blocking; what does not fit, or
 * passes the limit, is dropped and counted: a guest can fill neither the host's
 * disk nor its patience. The owner's lock is held.
 */
#include <sys/stat.h>

#include "lv.h"

int lv_output_init(struct lv_output *output, int fd, uint64_t limit)
{
	struct stat info;

	memset(output, 0, sizeof(*output));
	output->left = limit == 0 ? UINT64_MAX : limit;
	output->fd = fd < 0 ? -1 : lv_fd_dup(fd);
	if (fd < 0)
		return 0;
	if (output->fd < 0)
		return output->fd;
	if (fstat(output->fd, &info) < 0)
		return -errno;
	/* A full pipe must not stop the guest. */
	return S_ISREG(info.st_mode) ? 0 : lv_fd_unblock(output->fd);
}

void lv_output_free(struct lv_output *output)
{
	lv_output_flush(output);
	if (output->fd >= 0)
		(void)close(output->fd);
	output->fd = -1;
}

void lv_output_flush(struct lv_output *output)
{
	uint32_t end = (uint32_t)lv_min(output->len, output->left);
	uint32_t at = 0;

	while (output->fd >= 0 && at < end) {
		ssize_t done = TEMP_FAILURE_RETRY(
		    write(output->fd, output->line + at, end - at));

		if (done <= 0)
			break;
		at += (uint32_t)done;
	}
	if (output->left != UINT64_MAX)
		output->left -= at;
	output->dropped += output->len - at;
	output->len = 0;
}

void lv_output_put(struct lv_output *output, uint8_t byte)
{
	output->line[output->len++] = byte;
	if (byte == '\n' || output->len == LV_LINE)
		lv_output_flush(output);
}
