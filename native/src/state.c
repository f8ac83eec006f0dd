/*
 * state.c - a vCPU's state in the kernel's own structs, and what is counted.
 */
#include <linux/kvm.h>

#include "lv.h"

#define ENTRIES_MAX 256u
#define CPUID_ENTRY sizeof(struct kvm_cpuid_entry2)

static const struct {
	unsigned long request; /* with the bytes of its struct in it */
	size_t entry;	       /* bytes of each entry behind that */
} calls[] = {
    [LV_GET_REGS] = {KVM_GET_REGS, 0},
    [LV_SET_REGS] = {KVM_SET_REGS, 0},
    [LV_GET_SREGS] = {KVM_GET_SREGS, 0},
    [LV_SET_SREGS] = {KVM_SET_SREGS, 0},
    [LV_GET_FPU] = {KVM_GET_FPU, 0},
    [LV_SET_FPU] = {KVM_SET_FPU, 0},
    [LV_GET_LAPIC] = {KVM_GET_LAPIC, 0},
    [LV_SET_LAPIC] = {KVM_SET_LAPIC, 0},
    [LV_GET_SUPPORTED_CPUID] = {KVM_GET_SUPPORTED_CPUID, CPUID_ENTRY},
    [LV_SET_CPUID] = {KVM_SET_CPUID2, CPUID_ENTRY},
    [LV_SET_MSRS] = {KVM_SET_MSRS, sizeof(struct kvm_msr_entry)},
    [LV_TRANSLATE] = {KVM_TRANSLATE, 0},
};

int lv_vcpu_call(struct lv_vm *vm, uint32_t vcpu, uint32_t call, void *buf,
		 uint64_t len)
{
	uint32_t count = 0;
	uint64_t fixed;

	if (vcpu >= vm->vcpu_count || call >= LV_LENGTH(calls))
		return -EINVAL;
	fixed = _IOC_SIZE(calls[call].request);
	if (calls[call].entry > 0 && len >= fixed)
		memcpy(&count, buf, sizeof(count));
	if (count > ENTRIES_MAX || len != fixed + count * calls[call].entry)
		return -EINVAL;
	/* While its thread runs, a vCPU's state is not to be had. */
	if (vm->started && !vm->stopped && !vm->paused && !vm->stopping)
		return -EBUSY;
	return lv_ioctl(call == LV_GET_SUPPORTED_CPUID ? vm->kvm_fd
						       : vm->vcpu[vcpu].fd,
			calls[call].request, buf);
}

/* Copies a struct of counters (LV_ADD). */
static void read_counters(void *out, const void *counters, size_t bytes)
{
	for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
		((uint64_t *)out)[i] = __atomic_load_n(
		    (const uint64_t *)counters + i, __ATOMIC_RELAXED);
}

int lv_vcpu_stats(struct lv_vm *vm, uint32_t index, struct lv_vcpu_stats *out)
{
	if (index >= vm->vcpu_count)
		return -ENOENT;
	read_counters(out, &vm->vcpu[index].stats, sizeof(*out));
	return 0;
}

int lv_device_stats(struct lv_vm *vm, uint32_t index,
		    struct lv_device_stats *out)
{
	if (index >= vm->device_count)
		return -ENOENT;
	read_counters(out, &vm->device[index]->stats, sizeof(*out));
	return 0;
}
