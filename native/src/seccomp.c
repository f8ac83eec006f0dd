/*
 * seccomp.c - puts filters on threads. What they forbid is decided, and the
 * programs are written, in agent/vmm/seccomp.ts; the kernel keeps them and they
 * cannot be taken off again.
 *
 * A forbidden call traps. The handler says so in the words of proto/vmm.ts,
 * which the agent reads from vmm.log, and ends the process: a thread that was
 * taken over has nothing more to say.
 */
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "lv.h"

#define STATUS_VMM_FAULT 71

int lv_filter_install(const struct lv_filter *filter, unsigned int flags)
{
	struct sock_fprog program = {
	    .len = (unsigned short)filter->count,
	    .filter = (struct sock_filter *)(uintptr_t)filter->code,
	};
	long result;

	if (filter->count == 0)
		return 0;
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
	(void)!write(2, line, sizeof(line) - 1); /* unless it is closed */
	_exit(STATUS_VMM_FAULT);
}

int lv_vm_confine(struct lv_vm *vm, uint32_t who, const void *code,
		  uint32_t count)
{
	struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
	struct lv_filter process = {.count = 0};
	struct lv_filter *const filters[] = {
	    [LV_CONFINE_PROCESS] = &process,
	    [LV_CONFINE_VCPU] = &vm->vcpu_filter,
	    [LV_CONFINE_IO] = &vm->io.filter,
	};

	if (vm->started)
		return -EBUSY;
	if (who >= LV_LENGTH(filters) || count == 0 || count > LV_FILTER_MAX)
		return -EINVAL;
	filters[who]->count = count;
	memcpy(filters[who]->code, code, count * sizeof(struct sock_filter));
	if (who != LV_CONFINE_PROCESS)
		return 0;
	action.sa_sigaction = on_trap;
	(void)sigemptyset(&action.sa_mask);
	if (sigaction(SIGSYS, &action, NULL) < 0)
		return -errno;
	return lv_filter_install(&process, SECCOMP_FILTER_FLAG_TSYNC);
}
