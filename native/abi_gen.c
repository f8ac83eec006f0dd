/*
 * abi_gen.c - prints native/abi.gen.ts: sizes, offsets and numbers of leveret.h
 * as this compiler lays them out. A build tool; not part of the library.
 */
#include <ctype.h>
#include <stddef.h>
#include <stdio.h>

#include <linux/audit.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "leveret.h"

/* snake_case -> camelCase, as the TypeScript side spells fields. */
static void print_camel(const char *name)
{
	for (const char *c = name; *c != '\0'; c++) {
		if (*c == '_' && c[1] != '\0')
			(void)putchar(toupper((unsigned char)*++c));
		else
			(void)putchar(*c);
	}
}

static void print_field(const char *name, size_t offset)
{
	(void)printf("  ");
	print_camel(name);
	(void)printf(": %zu,\n", offset);
}

#define OPEN(constant, type)                                                   \
	(void)printf("export const %s = {\n  bytes: %zu,\n", constant,         \
		     sizeof(struct type))
#define FIELD(type, field) print_field(#field, offsetof(struct type, field))
#define CLOSE()		   (void)printf("} as const;\n")
#define NUMBER(name, value)                                                    \
	(void)printf("export const %s = %llu;\n", name,                        \
		     (unsigned long long)(value))

#define STATE(name, call, type)                                                \
	(void)printf("  %s: { get: %d, set: %d, bytes: %zu },\n", name,        \
		     LV_GET_##call, LV_SET_##call, sizeof(struct type))

static void print_configs(void)
{
	OPEN("VM_CONFIG", lv_vm_config);
	FIELD(lv_vm_config, size);
	FIELD(lv_vm_config, vcpus);
	FIELD(lv_vm_config, memory_bytes);
	FIELD(lv_vm_config, low_limit);
	FIELD(lv_vm_config, high_base);
	FIELD(lv_vm_config, device_base);
	FIELD(lv_vm_config, flags);
	FIELD(lv_vm_config, power_port);
	FIELD(lv_vm_config, debug_port);
	FIELD(lv_vm_config, power_off);
	FIELD(lv_vm_config, reset);
	CLOSE();
	OPEN("REGION", lv_region);
	FIELD(lv_region, gpa);
	FIELD(lv_region, hva);
	FIELD(lv_region, len);
	CLOSE();
	OPEN("SERIAL_CONFIG", lv_serial_config);
	FIELD(lv_serial_config, size);
	FIELD(lv_serial_config, port);
	FIELD(lv_serial_config, gsi);
	FIELD(lv_serial_config, out_fd);
	FIELD(lv_serial_config, out_limit);
	CLOSE();
}

static void print_devices(void)
{
	OPEN("BLK_CONFIG", lv_blk_config);
	FIELD(lv_blk_config, size);
	FIELD(lv_blk_config, gsi);
	FIELD(lv_blk_config, fd);
	FIELD(lv_blk_config, flags);
	/* "bytes" is taken by the struct's own size. */
	(void)printf("  capacity: %zu,\n",
		     offsetof(struct lv_blk_config, bytes));
	FIELD(lv_blk_config, id);
	FIELD(lv_blk_config, queues);
	FIELD(lv_blk_config, limit);
	CLOSE();
	NUMBER("BLK_ID_BYTES", sizeof(((struct lv_blk_config *)0)->id));
	OPEN("LIMIT", lv_limit);
	FIELD(lv_limit, bytes_rate);
	FIELD(lv_limit, bytes_burst);
	FIELD(lv_limit, ops_rate);
	FIELD(lv_limit, ops_burst);
	CLOSE();
	OPEN("NET_CONFIG", lv_net_config);
	FIELD(lv_net_config, size);
	FIELD(lv_net_config, gsi);
	FIELD(lv_net_config, fd);
	FIELD(lv_net_config, flags);
	FIELD(lv_net_config, rx);
	FIELD(lv_net_config, tx);
	FIELD(lv_net_config, mac);
	FIELD(lv_net_config, mtu);
	FIELD(lv_net_config, name);
	CLOSE();
	NUMBER("NET_NAME_BYTES", sizeof(((struct lv_net_config *)0)->name));
	OPEN("BALLOON_CONFIG", lv_balloon_config);
	FIELD(lv_balloon_config, size);
	FIELD(lv_balloon_config, gsi);
	CLOSE();
	OPEN("BALLOON_STATS", lv_balloon_stats);
	FIELD(lv_balloon_stats, target_pages);
	FIELD(lv_balloon_stats, actual_pages);
	FIELD(lv_balloon_stats, guest);
	CLOSE();
	OPEN("CONSOLE_CONFIG", lv_console_config);
	FIELD(lv_console_config, size);
	FIELD(lv_console_config, gsi);
	FIELD(lv_console_config, out_fd);
	FIELD(lv_console_config, out_limit);
	CLOSE();
	OPEN("RNG_CONFIG", lv_rng_config);
	FIELD(lv_rng_config, size);
	FIELD(lv_rng_config, gsi);
	CLOSE();
	OPEN("VSOCK_CONFIG", lv_vsock_config);
	FIELD(lv_vsock_config, size);
	FIELD(lv_vsock_config, gsi);
	FIELD(lv_vsock_config, guest_cid);
	FIELD(lv_vsock_config, path);
	CLOSE();
	NUMBER("VSOCK_PATH_BYTES", sizeof(((struct lv_vsock_config *)0)->path));
}

static void print_results(void)
{
	OPEN("EVENT", lv_event);
	FIELD(lv_event, kind);
	FIELD(lv_event, vcpu);
	FIELD(lv_event, device);
	FIELD(lv_event, detail);
	FIELD(lv_event, value);
	FIELD(lv_event, error);
	FIELD(lv_event, time_ns);
	CLOSE();
	OPEN("VCPU_STATS", lv_vcpu_stats);
	FIELD(lv_vcpu_stats, exits_pio);
	FIELD(lv_vcpu_stats, exits_mmio);
	FIELD(lv_vcpu_stats, exits_intr);
	FIELD(lv_vcpu_stats, exits_other);
	CLOSE();
	OPEN("DEVICE_STATS", lv_device_stats);
	FIELD(lv_device_stats, notifies);
	FIELD(lv_device_stats, interrupts);
	FIELD(lv_device_stats, requests);
	FIELD(lv_device_stats, bytes_in);
	FIELD(lv_device_stats, bytes_out);
	FIELD(lv_device_stats, malformed);
	FIELD(lv_device_stats, dropped);
	FIELD(lv_device_stats, errors);
	FIELD(lv_device_stats, throttled);
	CLOSE();
}

static void print_numbers(void)
{
	NUMBER("ABI_VERSION", LV_ABI_VERSION);
	NUMBER("MAX_VCPUS", LV_MAX_VCPUS);
	NUMBER("MAX_DEVICES", LV_MAX_DEVICES);
	NUMBER("MAX_REGIONS", LV_MAX_REGIONS);
	NUMBER("VM_HUGE_PAGES", LV_VM_HUGE_PAGES);
	(void)printf("export const DEVICE = {\n  net: %d,\n  blk: %d,\n"
		     "  console: %d,\n  rng: %d,\n  balloon: %d,\n"
		     "  vsock: %d,\n} as const;\n",
		     LV_DEVICE_NET, LV_DEVICE_BLK, LV_DEVICE_CONSOLE,
		     LV_DEVICE_RNG, LV_DEVICE_BALLOON, LV_DEVICE_VSOCK);
	NUMBER("BLK_READ_ONLY", LV_BLK_READ_ONLY);
	NUMBER("NET_TAP", LV_NET_TAP);
	(void)printf("export const VCPU_STATE = {\n");
	STATE("regs", REGS, kvm_regs);
	STATE("sregs", SREGS, kvm_sregs);
	STATE("fpu", FPU, kvm_fpu);
	STATE("lapic", LAPIC, kvm_lapic_state);
	CLOSE();
	NUMBER("GET_SUPPORTED_CPUID", LV_GET_SUPPORTED_CPUID);
	NUMBER("SET_CPUID", LV_SET_CPUID);
	NUMBER("SET_MSRS", LV_SET_MSRS);
	NUMBER("TRANSLATE", LV_TRANSLATE);
	NUMBER("TRANSLATION_BYTES", sizeof(struct kvm_translation));
	NUMBER("CPUID_ENTRY_BYTES", sizeof(struct kvm_cpuid_entry2));
	NUMBER("MSR_ENTRY_BYTES", sizeof(struct kvm_msr_entry));
	(void)printf("export const CONFINE = {\n  process: %d,\n  vcpu: %d,\n"
		     "  io: %d,\n} as const;\n",
		     LV_CONFINE_PROCESS, LV_CONFINE_VCPU, LV_CONFINE_IO);
	(void)printf("export const DEVICE_FAULT = {\n  ringAddress: %d,\n"
		     "  availIndex: %d,\n  headIndex: %d,\n  nextIndex: %d,\n"
		     "  chainLength: %d,\n  descAddress: %d,\n"
		     "  descFlags: %d,\n  indirectTable: %d,\n} as const;\n",
		     LV_FAULT_RING_ADDRESS, LV_FAULT_AVAIL_INDEX,
		     LV_FAULT_HEAD_INDEX, LV_FAULT_NEXT_INDEX,
		     LV_FAULT_CHAIN_LENGTH, LV_FAULT_DESC_ADDRESS,
		     LV_FAULT_DESC_FLAGS, LV_FAULT_INDIRECT_TABLE);
	(void)printf("export const EVENT_KIND = {\n  powerOff: %d,\n"
		     "  reset: %d,\n  debug: %d,\n  vcpuFailed: %d,\n"
		     "  deviceFailed: %d,\n  hostFailed: %d,\n} as const;\n",
		     LV_EVENT_POWER_OFF, LV_EVENT_RESET, LV_EVENT_DEBUG,
		     LV_EVENT_VCPU_FAILED, LV_EVENT_DEVICE_FAILED,
		     LV_EVENT_HOST_FAILED);
}

/* What agent/vmm/seccomp.ts speaks of. */
/* clang-format off */
#define CALLS(C) \
	C(accept4) C(acct) C(add_key) C(adjtimex) C(bpf) C(brk) C(chroot) \
	C(clock_adjtime) C(clock_gettime) C(clock_settime) C(clone) \
	C(clone3) C(close) C(connect) C(delete_module) C(epoll_ctl) \
	C(epoll_pwait) C(epoll_pwait2) C(epoll_wait) C(execve) C(execveat) C(exit) \
	C(exit_group) C(fallocate) C(fanotify_init) C(fcntl) C(fdatasync) \
	C(finit_module) C(fork) C(fsconfig) C(fsmount) C(fsopen) C(fspick) \
	C(futex) C(getpid) C(getrandom) C(getsockopt) C(gettid) \
	C(init_module) C(io_uring_enter) C(io_uring_setup) C(ioctl) \
	C(ioperm) C(iopl) C(kcmp) C(kexec_file_load) C(kexec_load) \
	C(keyctl) C(madvise) C(mknod) C(mknodat) C(mmap) C(modify_ldt) \
	C(mount) C(mount_setattr) C(move_mount) C(mprotect) C(munmap) \
	C(name_to_handle_at) C(open_by_handle_at) C(open_tree) \
	C(perf_event_open) C(personality) C(pidfd_getfd) C(pivot_root) \
	C(poll) C(ppoll) C(pread64) C(preadv) C(preadv2) \
	C(process_vm_readv) C(process_vm_writev) C(ptrace) C(pwrite64) \
	C(pwritev) C(pwritev2) C(quotactl) C(read) C(readv) C(reboot) \
	C(recvfrom) C(recvmsg) C(request_key) C(restart_syscall) \
	C(rt_sigprocmask) C(rt_sigreturn) C(sched_yield) C(sendmsg) \
	C(sendto) C(setdomainname) C(sethostname) C(setns) C(setsockopt) \
	C(settimeofday) C(shutdown) C(socket) C(socketpair) C(swapoff) C(swapon) C(syslog) \
	C(tgkill) C(timerfd_settime) C(umount2) C(unlink) C(unshare) \
	C(userfaultfd) C(vfork) C(write) C(writev)
/* clang-format on */

static void print_seccomp(void)
{
#define CALL(name) print_field(#name, SYS_##name);
#define KERNEL(name)                                                           \
	(void)printf("  %s: %llu,\n", #name, (unsigned long long)(name))
	(void)printf("export const SYSCALL = {\n");
	CALLS(CALL)
	CLOSE();
	(void)printf("export const KERNEL = {\n");
	KERNEL(AF_UNIX);
	KERNEL(AUDIT_ARCH_X86_64);
	KERNEL(CLONE_NEWCGROUP);
	KERNEL(CLONE_NEWIPC);
	KERNEL(CLONE_NEWNET);
	KERNEL(CLONE_NEWNS);
	KERNEL(CLONE_NEWPID);
	KERNEL(CLONE_NEWUSER);
	KERNEL(CLONE_NEWUTS);
	KERNEL(CLONE_THREAD);
	KERNEL(KVM_RUN);
	KERNEL(PROT_EXEC);
	KERNEL(SECCOMP_RET_ALLOW);
	KERNEL(SECCOMP_RET_ERRNO);
	KERNEL(SECCOMP_RET_KILL_PROCESS);
	KERNEL(SECCOMP_RET_TRAP);
	KERNEL(SO_SNDBUF);
	KERNEL(TUNSETOFFLOAD);
	CLOSE();
}

int main(void)
{
	(void)printf("/**\n * Printed by native/abi_gen.c from leveret.h; made "
		     "by `bun native/build.ts --abi`.\n"
		     " * Offsets and sizes in bytes.\n */\n");
	print_numbers();
	print_configs();
	print_devices();
	print_results();
	print_seccomp();
	return fflush(stdout) == 0 ? 0 : 1;
}
