/* registers.h - what the driver of a device reads. */
#ifndef LV_REGISTERS_H
#define LV_REGISTERS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define LV_PAGE 4096u

/* What the driver may read of the transport, virtio 1.2, 4.2.2: one page that
 * KVM maps read-only into the guest, so that reading it costs no exit. Reads
 * have no effect on a device, and nothing but the shim writes it. */
struct lv_registers {
	uint32_t identity[4]; /* magic, version, device, vendor */
	uint32_t device_features;
	uint32_t unused_014[8];
	uint32_t queue_num_max;
	uint32_t unused_038[3];
	uint32_t queue_ready;
	uint32_t unused_048[6];
	_Atomic uint32_t isr; /* InterruptStatus */
	uint32_t unused_064[3];
	_Atomic uint32_t status;
	uint32_t unused_074[34];
	_Atomic uint32_t generation; /* of config, 4.2.2.1 */
	uint8_t config[LV_PAGE - 0x100];
};
_Static_assert(offsetof(struct lv_registers, queue_num_max) == 0x034 &&
		   offsetof(struct lv_registers, queue_ready) == 0x044 &&
		   offsetof(struct lv_registers, isr) == 0x060 &&
		   offsetof(struct lv_registers, status) == 0x070 &&
		   offsetof(struct lv_registers, generation) == 0x0fc &&
		   sizeof(struct lv_registers) == LV_PAGE,
	       "4.2.2");

#endif
