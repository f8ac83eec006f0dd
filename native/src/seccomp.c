/*
 * seccomp.c - what the process may still ask of the kernel once a guest runs.
 *
 *   all threads  a list of what nobody here ever needs (deny, TSYNC): programs,
 *		  mounts, namespaces, other processes, sockets but AF_UNIX
 *   I/O, vCPU    beyond that, only what their work needs, ioctls by number,
 *		  never executable memory
 *
 * A forbidden call traps. The handler says so in the words of proto/vmm.ts,
 * which the agent reads from vmm.log, and ends the process: a thread that was
 * taken over has nothing more to say. Filters are built here at start; the
 * kernel keeps them and they cannot be taken off again.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lv.h"

#define FILTER_MAX	 320u
#define STATUS_VMM_FAULT 71
#define X32_BIT		 0x40000000u
#define TUNSETOFFLOAD	 0x400454d0u
#define NAMESPACE_FLAGS                                                        \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |         \
	 CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

#define ARG(n)	 ((uint32_t)offsetof(struct seccomp_data, args[n]))
#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof((a)[0])))

#define ALLOW	 ((uint32_t)SECCOMP_RET_ALLOW)
#define TRAP	 ((uint32_t)SECCOMP_RET_TRAP)
#define MISSING	 ((uint32_t)SECCOMP_RET_ERRNO | ENOSYS)

/* Tables: one name a line would hide the code. */
/* clang-format off */
static const uint32_t denied[] = {
	SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_ptrace,
	SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_getfd, SYS_kcmp,
	SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree,
	SYS_move_mount, SYS_fsopen, SYS_fsmount, SYS_fsconfig, SYS_fspick,
	SYS_mount_setattr, SYS_unshare, SYS_setns, SYS_open_by_handle_at,
	SYS_name_to_handle_at, SYS_bpf, SYS_userfaultfd, SYS_perf_event_open,
	SYS_io_uring_setup, SYS_init_module, SYS_finit_module,
	SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load, SYS_reboot,
	SYS_swapon, SYS_swapoff, SYS_acct, SYS_iopl, SYS_ioperm, SYS_modify_ldt,
	SYS_keyctl, SYS_add_key, SYS_request_key, SYS_settimeofday,
	SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_syslog,
	SYS_quotactl, SYS_mknod, SYS_mknodat, SYS_sethostname,
	SYS_setdomainname, SYS_personality, SYS_fanotify_init, SYS_socketpair,
};

/* What both kinds of thread need: to wake others, to free what they hold, to
 * let go of a device's connections at its reset, to end. */
static const uint32_t both[] = {
	SYS_read, SYS_write, SYS_close, SYS_futex, SYS_madvise, SYS_munmap,
	SYS_brk, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_exit, SYS_exit_group,
	SYS_clock_gettime, SYS_getpid, SYS_gettid, SYS_tgkill, SYS_sched_yield,
	SYS_restart_syscall, SYS_epoll_ctl, SYS_sendto, SYS_sendmsg,
	SYS_shutdown, SYS_io_uring_enter, SYS_poll, SYS_timerfd_settime,
};

static const uint32_t io_only[] = {
	SYS_epoll_wait, SYS_epoll_pwait, SYS_readv, SYS_writev, SYS_pread64,
	SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2,
	SYS_fdatasync, SYS_fallocate, SYS_accept4, SYS_connect, SYS_recvfrom,
	SYS_recvmsg, SYS_getsockopt, SYS_fcntl, SYS_unlink, SYS_getrandom,
	SYS_ppoll,
};
/* clang-format on */

static const uint32_t vcpu_ioctls[] = {KVM_RUN, KVM_GET_REGS, KVM_GET_SREGS,
				       KVM_TRANSLATE, TUNSETOFFLOAD};
static const uint32_t io_ioctls[] = {TUNSETOFFLOAD};
static const uint32_t unix_only[] = {AF_UNIX};
static const uint32_t none[] = {0};
static const uint32_t thread_only[] = {CLONE_THREAD};

struct filter {
	uint32_t len;
	struct sock_filter code[FILTER_MAX];
};

static void emit(struct filter *filter, uint32_t code, uint32_t k, uint32_t yes,
		 uint32_t no)
{
	if (filter->len < FILTER_MAX)
		filter->code[filter->len] = (struct sock_filter){
		    .code = (uint16_t)code,
		    .jt = (uint8_t)yes,
		    .jf = (uint8_t)no,
		    .k = k,
		};
	filter->len++; /* a filter that is too long is refused by install() */
}

static void verdict(struct filter *filter, uint32_t what)
{
	emit(filter, BPF_RET | BPF_K, what, 0, 0);
}

/* The accumulator holds the number from here to the end; other ABIs die. */
static void begin(struct filter *filter)
{
	filter->len = 0;
	emit(filter, BPF_LD | BPF_W | BPF_ABS,
	     (uint32_t)offsetof(struct seccomp_data, arch), 0, 0);
	emit(filter, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	verdict(filter, (uint32_t)SECCOMP_RET_KILL_PROCESS);
	emit(filter, BPF_LD | BPF_W | BPF_ABS,
	     (uint32_t)offsetof(struct seccomp_data, nr), 0, 0);
	emit(filter, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
	verdict(filter, TRAP);
}

static void each(struct filter *filter, const uint32_t *numbers, uint32_t count,
		 uint32_t what)
{
	for (uint32_t i = 0; i < count; i++) {
		emit(filter, BPF_JMP | BPF_JEQ | BPF_K, numbers[i], 0, 1);
		verdict(filter, what);
	}
}

/* `number` is allowed when (argument & mask) is one of `values`, else traps.
 * The low half is all there is of an int, a request or a flag. */
static void argument(struct filter *filter, uint32_t number, uint32_t arg,
		     uint32_t mask, const uint32_t *values, uint32_t count)
{
	emit(filter, BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3 + 2 * count);
	emit(filter, BPF_LD | BPF_W | BPF_ABS, arg, 0, 0);
	emit(filter, BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
	each(filter, values, count, ALLOW);
	verdict(filter, TRAP);
}

static int install(const struct filter *filter, unsigned int flags)
{
	struct sock_fprog program = {
	    .len = (unsigned short)filter->len,
	    .filter = (struct sock_filter *)(uintptr_t)filter->code,
	};
	long result;

	if (filter->len > FILTER_MAX)
		return -E2BIG;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (result > 0)
		return -EBUSY; /* a thread that cannot be synchronised */
	return result < 0 ? -errno : 0;
}

/* Async-signal-safe: a thread may be anywhere when it traps. */
static void on_trap(int signal, siginfo_t *info, void *context)
{
	char line[] = "{\"reason\":\"VMM_FAULT\",\"message\":"
		      "\"The VMM made the forbidden system call ####\"}\n";
	char *digit = strrchr(line, '#');
	int number = info->si_syscall & 0xffff;

	(void)signal;
	(void)context;
	for (; *digit == '#'; digit--, number /= 10)
		*digit = (char)('0' + number % 10);
	if (write(2, line, sizeof(line) - 1) < 0)
		_exit(STATUS_VMM_FAULT); /* the log is closed: so be it */
	_exit(STATUS_VMM_FAULT);
}

int lv_vm_confine(struct lv_vm *vm)
{
	struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
	const uint32_t clone3 = SYS_clone3;
	struct filter filter;
	int error;

	if (vm->started)
		return -EBUSY;
	action.sa_sigaction = on_trap;
	(void)sigemptyset(&action.sa_mask);
	if (sigaction(SIGSYS, &action, NULL) < 0)
		return -errno;
	begin(&filter);
	each(&filter, denied, COUNT(denied), TRAP);
	/* Its flags are in memory, where no filter can look: libc falls back to
	 * clone, which makes threads and nothing else. */
	each(&filter, &clone3, 1, MISSING);
	argument(&filter, SYS_clone, ARG(0), CLONE_THREAD | NAMESPACE_FLAGS,
		 thread_only, 1);
	argument(&filter, SYS_socket, ARG(0), ~0u, unix_only, 1);
	verdict(&filter, ALLOW);
	error = install(&filter, SECCOMP_FILTER_FLAG_TSYNC);
	vm->io.confined = error == 0;
	return error;
}

int lv_confine_thread(bool vcpu)
{
	struct filter filter;

	begin(&filter);
	if (vcpu)
		/* First, since it is what nearly every call is. */
		argument(&filter, SYS_ioctl, ARG(1), ~0u, vcpu_ioctls,
			 COUNT(vcpu_ioctls));
	else
		argument(&filter, SYS_ioctl, ARG(1), ~0u, io_ioctls,
			 COUNT(io_ioctls));
	each(&filter, both, COUNT(both), ALLOW);
	if (!vcpu) {
		each(&filter, io_only, COUNT(io_only), ALLOW);
		argument(&filter, SYS_socket, ARG(0), ~0u, unix_only, 1);
	}
	argument(&filter, SYS_mmap, ARG(2), PROT_EXEC, none, 1);
	argument(&filter, SYS_mprotect, ARG(2), PROT_EXEC, none, 1);
	verdict(&filter, TRAP);
	return install(&filter, 0);
}
