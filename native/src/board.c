/*
 * board.c - what the guest finds at ports and addresses, and how devices reach
 * KVM: a page for what is read of each (no exit), an ioeventfd per queue (a
 * notify never leaves the kernel), an irqfd per interrupt. Reads of nothing
 * give all-ones, writes to nothing are lost, as on a real bus.
 */
#include <linux/kvm.h>

#include "lv.h"

#define QUEUE_NOTIFY  0x50u
#define INTERRUPT_ACK 0x64u
#define ISR_USED      1u
#define GSI_MAX	      24u
#define I8042_PORT    0x64u
#define I8042_RESET   0xfeu
#define SERIAL_PORTS  8u

static bool serial_at(const struct lv_vm *vm, uint16_t port)
{
	return vm->has_serial && port >= vm->serial.port &&
	       port < vm->serial.port + SERIAL_PORTS;
}

void lv_board_out(struct lv_vcpu *vcpu, uint16_t port, uint8_t byte)
{
	struct lv_vm *vm = vcpu->vm;
	struct lv_event event = {.vcpu = vcpu->id};

	if (serial_at(vm, port)) {
		lv_serial_write(&vm->serial, port - vm->serial.port, byte);
	} else if (port != 0 && port == vm->config.debug_port) {
		event.kind = LV_EVENT_DEBUG;
		event.value = byte;
		lv_events_post(&vm->events, &event);
		return;
	} else if (port != 0 && port == vm->config.power_port) {
		if (byte == vm->config.power_off)
			event.kind = LV_EVENT_POWER_OFF;
		else if (byte == vm->config.reset)
			event.kind = LV_EVENT_RESET;
	} else if (port == I8042_PORT && byte == I8042_RESET) {
		event.kind = LV_EVENT_RESET;
	}
	if (event.kind != LV_EVENT_NONE)
		lv_vm_end(vcpu, event);
}

uint8_t lv_board_in(struct lv_vm *vm, uint16_t port)
{
	if (serial_at(vm, port))
		return lv_serial_read(&vm->serial, port - vm->serial.port);
	if (port != 0 && port == vm->config.power_port)
		return 0; /* sleep status: nothing woke us */
	return 0xff;
}

void lv_board_mmio(struct lv_vm *vm, uint64_t gpa, uint8_t *data, uint32_t len,
		   bool write)
{
	uint64_t index = (gpa - vm->config.device_base) / LV_PAGE;

	if (!write)
		memset(data, 0xff, len);
	else if (index < vm->device_count)
		lv_mmio_write(vm->device[index], gpa % LV_PAGE, data, len);
}

static int connect_irq(struct lv_vm *vm, int fd, uint32_t gsi)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = gsi};
	int error;

	if (gsi >= GSI_MAX)
		return -EINVAL;
	if ((vm->gsi_used & 1u << gsi) != 0)
		return -EEXIST;
	error = lv_ioctl(vm->fd, KVM_IRQFD, &irqfd);
	if (error >= 0)
		vm->gsi_used |= 1u << gsi;
	return error;
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
	    .addr = vm->config.device_base + (uint64_t)device->index * LV_PAGE +
		    offset,
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
	int fd = lv_eventfd_new();
	int error =
	    fd < 0 ? fd
		   : connect_register(vm, device, INTERRUPT_ACK, ISR_USED, fd);

	(void)close(fd);
	return error;
}

/* Takes the device over, also when it fails. Returns its index. */
static int plug(struct lv_vm *vm, struct lv_device *device, uint32_t gsi)
{
	int error;

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
	vm->device[vm->device_count] = device;
	return (int)vm->device_count++;
}

int lv_device_add(struct lv_vm *vm, uint32_t kind, const void *config)
{
	static const struct lv_device_ops *const kinds[] = {
	    &lv_balloon_ops, &lv_blk_ops, &lv_console_ops,
	    &lv_net_ops,     &lv_rng_ops, &lv_vsock_ops};
	const struct lv_device_ops *ops = NULL;
	struct lv_device_config place; /* they all begin with it */
	struct lv_device *device = NULL;
	int error;

	if (vm->started || vm->device_count == LV_MAX_DEVICES)
		return vm->started ? -EBUSY : -ENOSPC;
	memcpy(&place, config, sizeof(place));
	for (size_t i = 0; i < LV_LENGTH(kinds); i++)
		if (kinds[i]->id == kind)
			ops = kinds[i];
	if (ops == NULL || place.size != ops->config_size)
		return -EINVAL;
	error = lv_device_new(ops, config, &vm->registers[vm->device_count],
			      &vm->mem, &vm->events, &device);
	return error < 0 ? error : plug(vm, device, place.gsi);
}

int lv_serial_add(struct lv_vm *vm, const struct lv_serial_config *config)
{
	int error;

	if (config->size != sizeof(*config) ||
	    config->port > UINT16_MAX - SERIAL_PORTS)
		return -EINVAL;
	if (vm->started || vm->has_serial)
		return vm->started ? -EBUSY : -EEXIST;
	error = lv_serial_init(&vm->serial, config);
	if (error < 0)
		return error;
	error = connect_irq(vm, vm->serial.irq_fd, config->gsi);
	if (error < 0)
		lv_serial_free(&vm->serial);
	vm->has_serial = error >= 0;
	return error;
}

static bool is_balloon(const struct lv_vm *vm, uint32_t index)
{
	return index < vm->device_count &&
	       vm->device[index]->ops == &lv_balloon_ops;
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
