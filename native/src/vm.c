/*
 * vm.c - a VM's life: KVM handles, guest memory, vCPU state, start and stop.
 *
 *   created -> started -> stopped -> freed
 *
 * All of it on the caller's thread. lv_vm_stop may be called in any state and
 * again; after it nothing runs and the memory is still mapped.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "lv.h"

#define API_VERSION 12
/* Both lie in the gap under 4 GiB and stay out of RAM: Intel hosts without
 * unrestricted guest put a task state and an identity page table there. */
#define TSS_ADDR	  0xfffbd000ul
#define IDENTITY_MAP_ADDR 0xfffbc000ull
#define LOW_LIMIT_MAX	  0xfec00000ull /* the IOAPIC */
#define HIGH_BASE_MIN	  0x100000000ull
#define HIGH_BASE_MAX	  (1ull << 40)
#define MEMORY_MIN	  (1ull << 20)
#define MEMORY_MAX	  (64ull << 30)
#define CREATE_TRIES	  100
#define HUGE_PAGE	  (2ul << 20)
#define REGISTERS_BYTES	  (LV_MAX_DEVICES * sizeof(struct lv_registers))

static const uint32_t needed_caps[] = {
    KVM_CAP_IRQCHIP,   KVM_CAP_USER_MEMORY,    KVM_CAP_SET_TSS_ADDR,
    KVM_CAP_EXT_CPUID, KVM_CAP_MP_STATE,       KVM_CAP_IRQFD,
    KVM_CAP_IOEVENTFD, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_READONLY_MEM,
};

uint32_t lv_abi_version(void)
{
	return LV_ABI_VERSION;
}

int lv_ioctl(int fd, unsigned long request, void *arg)
{
	int result = (int)TEMP_FAILURE_RETRY(ioctl(fd, request, arg));

	return result < 0 ? -errno : result;
}

static int open_kvm(uint32_t *missing)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int error = 0;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, KVM_GET_API_VERSION, 0) != API_VERSION)
		error = -ENODEV;
	for (size_t i = 0; i < LV_LENGTH(needed_caps) && error == 0; i++) {
		if (ioctl(fd, KVM_CHECK_EXTENSION, needed_caps[i]) > 0)
			continue;
		if (missing != NULL)
			*missing = needed_caps[i];
		error = -ENOTSUP;
	}
	if (error == 0)
		return fd;
	(void)close(fd);
	return error;
}

int lv_kvm_probe(uint32_t *missing)
{
	int fd = open_kvm(missing);

	return fd < 0 ? fd : close(fd);
}

/* Whole pages, so many bytes of them. */
static bool pages(uint64_t bytes, uint64_t min, uint64_t max)
{
	return bytes % LV_PAGE == 0 && bytes >= min && bytes <= max;
}

static int check_config(const struct lv_vm_config *config)
{
	if (config->size != sizeof(*config) || config->vcpus == 0 ||
	    config->vcpus > LV_MAX_VCPUS ||
	    (config->flags & ~LV_VM_HUGE_PAGES) != 0 ||
	    (config->power_port != 0 && config->power_off == config->reset))
		return -EINVAL;
	if (!pages(config->memory_bytes, MEMORY_MIN, MEMORY_MAX) ||
	    !pages(config->low_limit, LV_PAGE, LOW_LIMIT_MAX) ||
	    !pages(config->high_base, HIGH_BASE_MIN, HIGH_BASE_MAX) ||
	    !pages(config->device_base, LV_PAGE, HIGH_BASE_MAX))
		return -EINVAL;
	return 0;
}

/* Of the memory file from `offset` on, aligned for the huge pages that the host
 * may have for it, in which KVM maps it, too: a boot has 600 page faults
 * instead of 24,000. */
static void *map_memory(const struct lv_vm *vm, size_t len, off_t offset,
			int flags)
{
	uint8_t *all = mmap(NULL, len + HUGE_PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t skip = HUGE_PAGE - (uintptr_t)all % HUGE_PAGE;
	uint8_t *at;

	if (all == MAP_FAILED)
		return all;
	at = all + skip;
	(void)munmap(all, skip);
	if (skip < HUGE_PAGE)
		(void)munmap(at + len, HUGE_PAGE - skip);
	all = mmap(at, len, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED | flags, vm->mem_fd, offset);
	if (all == MAP_FAILED)
		(void)munmap(at, len);
	else
		(void)madvise(all, len, MADV_HUGEPAGE);
	return all;
}

/* One region at gpa, backed by the memory file from `offset` on. */
static int add_region(struct lv_vm *vm, uint64_t gpa, uint64_t len,
		      uint64_t offset, int flags)
{
	uint32_t slot = vm->mem.count;
	struct kvm_userspace_memory_region region = {
	    .slot = slot,
	    .guest_phys_addr = gpa,
	    .memory_size = len,
	};
	void *hva = map_memory(vm, len, (off_t)offset, flags);

	if (hva == MAP_FAILED)
		return -errno;
	/* A core file with a guest's memory in it helps nobody. */
	(void)madvise(hva, len, MADV_DONTDUMP);
	vm->mem.region[slot] = (struct lv_region){gpa, len, hva};
	vm->mem.count++;
	region.userspace_addr = (uintptr_t)hva;
	return lv_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int add_memory(struct lv_vm *vm, const struct lv_vm_config *config)
{
	bool huge = (config->flags & LV_VM_HUGE_PAGES) != 0;
	/* Of huge pages there are few: one that is missing is a SIGBUS. */
	int flags = huge ? 0 : MAP_NORESERVE;
	unsigned int kind = huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
	uint64_t low = lv_min(config->memory_bytes, config->low_limit);
	int error;

	vm->mem_fd = memfd_create("leveret-ram", MFD_CLOEXEC | kind);
	if (vm->mem_fd < 0)
		return -errno;
	if (ftruncate(vm->mem_fd, (off_t)config->memory_bytes) < 0)
		return -errno;
	error = add_region(vm, 0, low, 0, flags);
	if (error == 0 && low < config->memory_bytes)
		error = add_region(vm, config->high_base,
				   config->memory_bytes - low, low, flags);
	return error;
}

/* Reads go no further than these pages; a write leaves the guest as one to a
 * place without memory does (Linux, virt/kvm/api.rst, 4.35). One slot for all:
 * KVM keeps a change of memory waiting for what was plugged before it. */
static int add_registers(struct lv_vm *vm, uint64_t gpa)
{
	struct kvm_userspace_memory_region region = {
	    .slot = vm->mem.count,
	    .flags = KVM_MEM_READONLY,
	    .guest_phys_addr = gpa,
	    .memory_size = REGISTERS_BYTES,
	};
	void *pages = mmap(NULL, REGISTERS_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		return -errno;
	vm->registers = pages;
	region.userspace_addr = (uintptr_t)pages;
	return lv_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int create_vm_fd(struct lv_vm *vm)
{
	uint64_t identity = IDENTITY_MAP_ADDR;
	int tries = CREATE_TRIES;

	/* Bounded, unlike lv_ioctl: a signal storm must not hang us. */
	do
		vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	while (vm->fd < 0 && errno == EINTR && --tries > 0);
	if (vm->fd < 0)
		return -errno;
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDR) < 0)
		return -errno;
	return lv_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
}

static int create_vcpus(struct lv_vm *vm, uint32_t count)
{
	int bytes = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (bytes < (int)sizeof(struct kvm_run))
		return -ENODEV;
	vm->run_bytes = (size_t)bytes;
	for (uint32_t i = 0; i < count; i++) {
		struct lv_vcpu *vcpu = &vm->vcpu[i];

		vcpu->vm = vm;
		vcpu->id = i;
		vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, i);
		if (vcpu->fd < 0)
			return -errno;
		vm->vcpu_count++;
		vcpu->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE,
				 MAP_SHARED, vcpu->fd, 0);
		if (vcpu->run == MAP_FAILED)
			return -errno; /* which munmap will not take */
	}
	return 0;
}

int lv_vm_create(const struct lv_vm_config *config, struct lv_vm **out)
{
	struct lv_vm *vm;
	int error = check_config(config);

	if (error < 0)
		return error;
	vm = calloc(1, sizeof(*vm));
	if (vm == NULL)
		return -ENOMEM;
	vm->config = *config;
	vm->fd = -1;
	vm->mem_fd = -1;
	(void)pthread_mutex_init(&vm->gate_lock, NULL);
	(void)pthread_cond_init(&vm->gate, NULL);
	error = lv_events_init(&vm->events);
	vm->kvm_fd = open_kvm(NULL);
	if (error == 0)
		error = vm->kvm_fd < 0 ? vm->kvm_fd : create_vm_fd(vm);
	/* Memory first: after the chips set up their routing, KVM keeps the
	 * next change of memory waiting for a grace period, 5 ms. */
	if (error == 0)
		error = add_memory(vm, config);
	if (error == 0)
		error = add_registers(vm, config->device_base);
	if (error == 0)
		error = lv_ioctl(vm->fd, KVM_CREATE_IRQCHIP, NULL);
	if (error == 0)
		error = create_vcpus(vm, config->vcpus);
	if (error < 0) {
		lv_vm_destroy(vm);
		return error;
	}
	*out = vm;
	return 0;
}

void lv_vm_destroy(struct lv_vm *vm)
{
	if (vm == NULL)
		return;
	(void)lv_vm_stop(vm);
	for (uint32_t i = 0; i < vm->vcpu_count; i++) {
		(void)munmap(vm->vcpu[i].run, vm->run_bytes);
		(void)close(vm->vcpu[i].fd);
	}
	lv_board_free(vm);
	(void)close(vm->fd);
	/* After the VM is closed, so that it never runs on unmapped memory. */
	for (uint32_t i = 0; i < vm->mem.count; i++)
		(void)munmap(vm->mem.region[i].hva, vm->mem.region[i].len);
	if (vm->registers != NULL)
		(void)munmap(vm->registers, REGISTERS_BYTES);
	(void)close(vm->mem_fd);
	(void)close(vm->kvm_fd);
	lv_events_free(&vm->events);
	(void)pthread_cond_destroy(&vm->gate);
	(void)pthread_mutex_destroy(&vm->gate_lock);
	free(vm);
}

int lv_vm_region(struct lv_vm *vm, uint32_t index, struct lv_region *out)
{
	if (index >= vm->mem.count)
		return -ENOENT;
	*out = vm->mem.region[index];
	return 0;
}

int lv_vm_start(struct lv_vm *vm)
{
	int error;

	if (vm->started)
		return -EBUSY;
	/* Paused until all threads exist. */
	vm->started = vm->paused = true;
	for (uint32_t i = 0; i < vm->device_count; i++)
		lv_device_hold(vm->device[i]);
	error = lv_io_start(&vm->io, vm->device, vm->device_count, &vm->events);
	for (uint32_t i = 0; i < vm->vcpu_count && error == 0; i++)
		error = lv_vcpu_start(&vm->vcpu[i]);
	if (error == 0)
		return lv_vm_resume(vm);
	(void)lv_vm_stop(vm);
	return error;
}

int lv_vm_stop(struct lv_vm *vm)
{
	if (!vm->started || vm->stopped)
		return 0;
	/* Before the pause ends: threads that wait then leave unrun. And before
	 * the joins: nobody kicks a thread after this returns. */
	lv_vm_halt(vm);
	(void)lv_vm_resume(vm);
	for (uint32_t i = 0; i < vm->vcpu_count; i++) {
		if (vm->vcpu[i].started)
			(void)pthread_join(vm->vcpu[i].thread, NULL);
	}
	lv_io_stop(&vm->io);
	if (vm->has_serial)
		lv_serial_flush(&vm->serial);
	vm->stopped = true;
	return 0;
}

int lv_vm_event_fd(struct lv_vm *vm)
{
	return vm->events.fd;
}

int lv_vm_next_event(struct lv_vm *vm, struct lv_event *out)
{
	return lv_events_take(&vm->events, out);
}
