/*
 * board.c - what the guest finds at ports and addresses, and how devices reach
 * KVM: an ioeventfd per queue (a notify never leaves the kernel), an irqfd per
 * interrupt. Reads of nothing give all-ones, writes to nothing are lost, as on
 * a real bus.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lv.h"

#define QUEUE_NOTIFY  0x50u
#define INTERRUPT_ACK 0x64u
#define ISR_USED      1u
#define GSI_MAX	      24u
#define I8042_PORT    0x64u
#define I8042_RESET   0xfeu
#define SERIAL_PORTS  8u

static bool serial_at(const struct lv_vm *vm, uint32_t port)
{
	return vm->has_serial && port >= vm->serial.port &&
	       port < vm->serial.port + SERIAL_PORTS;
}

void lv_board_out(struct lv_vcpu *vcpu, uint16_t port, uint32_t value,
		  uint32_t size)
{
	struct lv_vm *vm = vcpu->vm;
	uint8_t byte = (uint8_t)value;

	if (serial_at(vm, port)) {
		/* The bus splits wider accesses into bytes at port, port + 1…
		 */
		for (uint32_t i = 0; i < size && serial_at(vm, port + i); i++)
			lv_serial_write(&vm->serial,
					(uint16_t)(port + i - vm->serial.port),
					(uint8_t)(value >> (8 * i)));
	} else if (port == 0) {
		return; /* what the next two are when there is none */
	} else if (port == vm->config.debug_port) {
		struct lv_event event = {
		    .kind = LV_EVENT_DEBUG, .vcpu = vcpu->id, .value = byte};

		lv_events_post(&vm->events, &event);
	} else if (port == vm->config.power_port) {
		if (byte == vm->config.power_off)
			lv_vm_end(vcpu, LV_EVENT_POWER_OFF, 0, 0, 0);
		else if (byte == vm->config.reset)
			lv_vm_end(vcpu, LV_EVENT_RESET, 0, 0, 0);
	} else if (port == I8042_PORT && byte == I8042_RESET) {
		lv_vm_end(vcpu, LV_EVENT_RESET, 0, 0, 0);
	}
}

uint32_t lv_board_in(struct lv_vm *vm, uint16_t port, uint32_t size)
{
	uint32_t value = UINT32_MAX;

	if (port != 0 && port == vm->config.power_port)
		return 0; /* sleep status: nothing woke us */
	for (uint32_t i = 0; i < size && serial_at(vm, port + i); i++) {
		uint32_t at = port + i - vm->serial.port;

		value &= ~(0xffu << (8 * i));
		value |= (uint32_t)lv_serial_read(&vm->serial, (uint16_t)at)
			 << (8 * i);
	}
	return value;
}

void lv_board_mmio(struct lv_vm *vm, uint64_t gpa, uint8_t *data, uint32_t len,
		   bool write)
{
	for (uint32_t i = 0; i < vm->device_count; i++) {
		struct lv_device *device = vm->device[i];

		if (gpa < device->base || gpa - device->base >= LV_PAGE)
			continue;
		if (write)
			lv_mmio_write(device, gpa - device->base, data, len);
		else
			lv_mmio_read(device, gpa - device->base, data, len);
		return;
	}
	if (!write)
		memset(data, 0xff, len);
}

static int connect_irq(struct lv_vm *vm, int fd, uint32_t gsi)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = gsi};

	return lv_ioctl(vm->fd, KVM_IRQFD, &irqfd);
}

int lv_vm_pulse(struct lv_vm *vm, uint32_t gsi)
{
	struct kvm_irq_level line = {.irq = gsi, .level = 1};
	int error;

	if (gsi >= GSI_MAX)
		return -EINVAL;
	error = lv_ioctl(vm->fd, KVM_IRQ_LINE, &line);
	line.level = 0;
	return error < 0 ? error : lv_ioctl(vm->fd, KVM_IRQ_LINE, &line);
}

/* A write of value to a register goes no further than KVM, which signals fd. */
static int connect_register(struct lv_vm *vm, const struct lv_device *device,
			    uint32_t offset, uint32_t value, int fd)
{
	struct kvm_ioeventfd write = {
	    .datamatch = value,
	    .addr = device->base + offset,
	    .len = 4,
	    .fd = fd,
	    .flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
	};

	return lv_ioctl(vm->fd, KVM_IOEVENTFD, &write);
}

/* "I have seen the used buffers" (virtio 1.2, 4.2.2) is for nobody: the bit
 * stays set, which says no more than the interrupt itself does, and each costs
 * an exit less. KVM keeps the eventfd, which nobody reads. */
static int swallow_acks(struct lv_vm *vm, const struct lv_device *device)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	int error =
	    fd < 0 ? -errno
		   : connect_register(vm, device, INTERRUPT_ACK, ISR_USED, fd);

	(void)close(fd);
	return error;
}

static int check_gsi(const struct lv_vm *vm, uint32_t gsi)
{
	if (gsi >= GSI_MAX)
		return -EINVAL;
	return (vm->gsi_used & 1u << gsi) != 0 ? -EEXIST : 0;
}

/* Whether a device may sit at base with that interrupt. Where another one sits,
 * KVM refuses its registers: -EEXIST. */
static int check_place(const struct lv_vm *vm, uint64_t base, uint32_t gsi)
{
	if (vm->started)
		return -EBUSY;
	if (vm->device_count == LV_MAX_DEVICES)
		return -ENOSPC;
	if (base % LV_PAGE != 0 || base > UINT64_MAX - LV_PAGE ||
	    lv_gpa(&vm->mem, base, 1) != NULL)
		return -EINVAL;
	return check_gsi(vm, gsi);
}

/* Takes the device over, also when it fails; error is its constructor's.
 * Returns its index. */
static int plug(struct lv_vm *vm, struct lv_device *device, int error,
		uint64_t base, uint32_t gsi)
{
	if (error < 0)
		return error;
	device->base = base;
	device->index = vm->device_count;
	error = connect_irq(vm, device->irq_fd, gsi);
	if (error >= 0)
		error = swallow_acks(vm, device);
	for (uint32_t q = 0; q < device->queues && error >= 0; q++)
		error = connect_register(vm, device, QUEUE_NOTIFY, q,
					 device->kick_fd[q]);
	if (error < 0) {
		/* Closing its eventfds undoes irqfds; a VM whose device could
		 * not be plugged is only good for lv_vm_destroy. */
		device->ops->destroy(device);
		return error;
	}
	vm->gsi_used |= 1u << gsi;
	vm->device[vm->device_count] = device;
	return (int)vm->device_count++;
}

#define ADD_DEVICE(kind)                                                       \
	int lv_##kind##_add(struct lv_vm *vm,                                  \
			    const struct lv_##kind##_config *config)           \
	{                                                                      \
		struct lv_device *device = NULL;                               \
		int error = -EINVAL;                                           \
                                                                               \
		if (config->size == sizeof(*config))                           \
			error = check_place(vm, config->base, config->gsi);    \
		if (error == 0)                                                \
			error = lv_##kind##_new(config, &vm->mem, &vm->events, \
						&device);                      \
		return plug(vm, device, error, config->base, config->gsi);     \
	}

ADD_DEVICE(balloon)
ADD_DEVICE(blk)
ADD_DEVICE(console)
ADD_DEVICE(net)
ADD_DEVICE(rng)
ADD_DEVICE(vsock)

int lv_serial_add(struct lv_vm *vm, const struct lv_serial_config *config)
{
	int error;

	if (config->size != sizeof(*config) ||
	    config->port > UINT16_MAX - SERIAL_PORTS)
		return -EINVAL;
	if (vm->started)
		return -EBUSY;
	if (vm->has_serial)
		return -EEXIST;
	error = check_gsi(vm, config->gsi);
	if (error < 0)
		return error;
	error = lv_serial_init(&vm->serial, config);
	if (error < 0)
		return error;
	error = connect_irq(vm, vm->serial.irq_fd, config->gsi);
	if (error < 0) {
		lv_serial_free(&vm->serial);
		return error;
	}
	vm->gsi_used |= 1u << config->gsi;
	vm->has_serial = true;
	return 0;
}

static bool is_balloon(const struct lv_vm *vm, uint32_t index)
{
	return index < vm->device_count &&
	       vm->device[index]->ops->id == LV_BALLOON_ID;
}

int lv_balloon_set(struct lv_vm *vm, uint32_t index, uint32_t pages)
{
	if (!is_balloon(vm, index))
		return -ENOENT;
	lv_balloon_resize(vm->device[index], pages);
	return 0;
}

int lv_balloon_stats(struct lv_vm *vm, uint32_t index,
		     struct lv_balloon_stats *out)
{
	if (!is_balloon(vm, index))
		return -ENOENT;
	lv_balloon_read(vm->device[index], out);
	return 0;
}

void lv_board_free(struct lv_vm *vm)
{
	while (vm->device_count > 0) {
		struct lv_device *device = vm->device[--vm->device_count];

		device->ops->destroy(device);
	}
	if (vm->has_serial)
		lv_serial_free(&vm->serial);
	vm->has_serial = false;
}
