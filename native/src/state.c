/*
 * state.c - a vCPU's state and counters, in the kernel's own structs.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "lv.h"

#define CPUID_MAX 256u
#define MSRS_MAX  256u

_Static_assert(sizeof(struct kvm_cpuid_entry2) == 40, "abi");
_Static_assert(sizeof(struct kvm_msr_entry) == 16, "abi");

static int state_request(uint32_t what, bool set, uint64_t len,
			 unsigned long *request)
{
	static const struct {
		unsigned long get, set;
		uint64_t len;
	} table[] = {
	    [LV_STATE_REGS] = {KVM_GET_REGS, KVM_SET_REGS,
			       sizeof(struct kvm_regs)},
	    [LV_STATE_SREGS] = {KVM_GET_SREGS, KVM_SET_SREGS,
				sizeof(struct kvm_sregs)},
	    [LV_STATE_FPU] = {KVM_GET_FPU, KVM_SET_FPU, sizeof(struct kvm_fpu)},
	    [LV_STATE_LAPIC] = {KVM_GET_LAPIC, KVM_SET_LAPIC,
				sizeof(struct kvm_lapic_state)},
	};

	if (what >= sizeof(table) / sizeof(table[0]) || len != table[what].len)
		return -EINVAL;
	*request = set ? table[what].set : table[what].get;
	return 0;
}

/* While its thread runs, a vCPU's state is not to be had. */
static int idle_vcpu(const struct lv_vm *vm, uint32_t vcpu)
{
	if (vcpu >= vm->vcpu_count)
		return -EINVAL;
	return vm->started && !vm->stopped && !vm->paused ? -EBUSY : 0;
}

int lv_vcpu_get(struct lv_vm *vm, uint32_t vcpu, uint32_t what, void *buf,
		uint64_t len)
{
	unsigned long request;
	int error = idle_vcpu(vm, vcpu);

	if (error == 0)
		error = state_request(what, false, len, &request);
	return error < 0 ? error : lv_ioctl(vm->vcpu[vcpu].fd, request, buf);
}

int lv_vcpu_set(struct lv_vm *vm, uint32_t vcpu, uint32_t what, const void *buf,
		uint64_t len)
{
	unsigned long request;
	int error = idle_vcpu(vm, vcpu);

	if (error == 0)
		error = state_request(what, true, len, &request);
	return error < 0 ? error
			 : lv_ioctl(vm->vcpu[vcpu].fd, request,
				    (void *)(uintptr_t)buf);
}

int lv_cpuid_supported(struct lv_vm *vm, void *entries, uint32_t capacity)
{
	struct kvm_cpuid2 *list;
	int result;

	if (capacity == 0 || capacity > CPUID_MAX)
		return -EINVAL;
	list = calloc(1, sizeof(*list) + capacity * sizeof(list->entries[0]));
	if (list == NULL)
		return -ENOMEM;
	list->nent = capacity;
	result = lv_ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, list);
	if (result >= 0) {
		memcpy(entries, list->entries,
		       list->nent * sizeof(list->entries[0]));
		result = (int)list->nent;
	}
	free(list);
	return result;
}

int lv_vcpu_set_cpuid(struct lv_vm *vm, uint32_t vcpu, const void *entries,
		      uint32_t count)
{
	struct kvm_cpuid2 *list;
	int result = idle_vcpu(vm, vcpu);

	if (result < 0)
		return result;
	if (count == 0 || count > CPUID_MAX)
		return -EINVAL;
	list = calloc(1, sizeof(*list) + count * sizeof(list->entries[0]));
	if (list == NULL)
		return -ENOMEM;
	list->nent = count;
	memcpy(list->entries, entries, count * sizeof(list->entries[0]));
	result = lv_ioctl(vm->vcpu[vcpu].fd, KVM_SET_CPUID2, list);
	free(list);
	return result;
}

int lv_vcpu_set_msrs(struct lv_vm *vm, uint32_t vcpu, const void *entries,
		     uint32_t count)
{
	struct kvm_msrs *list;
	int result = idle_vcpu(vm, vcpu);

	if (result < 0)
		return result;
	if (count == 0 || count > MSRS_MAX)
		return -EINVAL;
	list = calloc(1, sizeof(*list) + count * sizeof(list->entries[0]));
	if (list == NULL)
		return -ENOMEM;
	list->nmsrs = count;
	memcpy(list->entries, entries, count * sizeof(list->entries[0]));
	result = lv_ioctl(vm->vcpu[vcpu].fd, KVM_SET_MSRS, list);
	free(list);
	if (result < 0)
		return result;
	/* KVM stops at the first it refuses and returns how many it took. */
	return (uint32_t)result == count ? 0 : -EIO;
}

int lv_vcpu_stats(struct lv_vm *vm, uint32_t index, struct lv_vcpu_stats *out)
{
	const struct lv_vcpu *vcpu;

	if (index >= vm->vcpu_count)
		return -ENOENT;
	vcpu = &vm->vcpu[index];
	*out = (struct lv_vcpu_stats){
	    .exits_pio = vcpu->exits.pio,
	    .exits_mmio = vcpu->exits.mmio,
	    .exits_intr = vcpu->exits.intr,
	    .exits_other = vcpu->exits.other,
	};
	return 0;
}
