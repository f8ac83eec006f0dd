/*
 * devices.h - lv_<kind>_new: a device of a config that the compiler has looked
 * at, which lv_device_new cannot. *out is owned by the caller.
 */
#ifndef LV_DEVICES_H
#define LV_DEVICES_H

#include "../src/lv.h"

/* Registers for a new device; those of the one before stay. */
static inline struct lv_registers *registers_new(void)
{
	static _Alignas(LV_PAGE) struct lv_registers pages[2];
	static uint32_t count;
	struct lv_registers *regs = &pages[count++ % 2];

	memset(regs, 0, sizeof(*regs));
	return regs;
}

#define DEVICE(kind)                                                           \
	static inline int lv_##kind##_new(                                     \
	    const struct lv_##kind##_config *config, const struct lv_mem *mem, \
	    struct lv_events *events, struct lv_device **out)                  \
	{                                                                      \
		return lv_device_new(&lv_##kind##_ops, config,                 \
				     registers_new(), mem, events, out);       \
	}

DEVICE(balloon)
DEVICE(blk)
DEVICE(console)
DEVICE(net)
DEVICE(rng)
DEVICE(vsock)

#endif
