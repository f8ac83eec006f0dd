/*
 * console.c - virtio console (virtio 1.2, 5.3) with one port and no input: its
 * buffers for input stay where they are. hvc0 is faster than the serial port,
 * which takes two exits for each byte; but it comes up later.
 */
#include "lv.h"

/* Of one request; Linux sends 16 bytes at a time, a program up to 32 KiB. */
#define REQUEST_MAX_BYTES 65536u

enum { TX = 1, QUEUES = 2 };

struct console {
	struct lv_device device;
	struct lv_output output;
};

static int64_t take_text(struct lv_device *device, const struct lv_chain *chain)
{
	struct lv_output *output = &((struct console *)device)->output;
	uint64_t len = lv_min(chain->readable_bytes, REQUEST_MAX_BYTES);
	uint64_t dropped = output->dropped;
	uint8_t text[LV_LINE];

	/* 5.3.6.1: the transmit queue has no writable buffers. */
	if (chain->writable > 0)
		LV_COUNT(device, malformed, 1);
	for (uint64_t at = 0; at < len; at += sizeof(text)) {
		size_t got = lv_chain_read(chain, at, text,
					   lv_min(sizeof(text), len - at));

		for (size_t i = 0; i < got; i++)
			lv_output_put(output, text[i]);
	}
	LV_COUNT(device, bytes_out, len);
	LV_COUNT(device, dropped,
		 output->dropped - dropped + chain->readable_bytes - len);
	return 0;
}

/* What waits for the end of its line may be a guest's last words. */
static void settle(struct lv_device *device)
{
	lv_output_flush(&((struct console *)device)->output);
}

static void destroy(struct lv_device *device)
{
	lv_output_free(&((struct console *)device)->output);
	lv_device_free(device);
}

static int init(struct lv_device *device, const void *from)
{
	const struct lv_console_config *config = from;

	return lv_output_init(&((struct console *)device)->output,
			      config->out_fd, config->out_limit);
}

const struct lv_device_ops lv_console_ops = {
    .id = LV_DEVICE_CONSOLE,
    .config_size = sizeof(struct lv_console_config),
    .bytes = sizeof(struct console),
    .queues = QUEUES,
    .init = init,
    .serve = {[TX] = take_text},
    .settle = settle,
    .destroy = destroy,
};
