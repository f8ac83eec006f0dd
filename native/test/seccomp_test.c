/* What the filters of vCPU and I/O threads let through (seccomp.c). */
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lv_test.h"

struct call {
	long number;
	long args[4];
	bool vcpu; /* allowed to each kind of thread */
	bool io;
};

#define X32  0x40000000L
#define EXEC (PROT_READ | PROT_EXEC)

static const struct call calls[] = {
    {SYS_write, {-1}, true, true},
    {SYS_getpid, {0}, true, true},
    {SYS_ioctl, {-1, KVM_RUN}, true, false},
    {SYS_ioctl, {-1, KVM_GET_REGS}, true, false},
    {SYS_ioctl, {-1, KVM_SET_REGS}, false, false},
    {SYS_ioctl, {-1, KVM_CREATE_VM}, false, false},
    {SYS_preadv, {-1}, false, true},
    {SYS_accept4, {-1}, false, true},
    {SYS_socket, {AF_UNIX, SOCK_STREAM}, false, true},
    {SYS_socket, {AF_INET, SOCK_STREAM}, false, false},
    {SYS_mmap, {0, 0, PROT_READ}, true, true},
    {SYS_mmap, {0, 0, EXEC}, false, false},
    {SYS_mprotect, {0, 0, EXEC}, false, false},
    {SYS_open, {0, O_RDONLY}, false, false},
    {SYS_openat, {AT_FDCWD, 0, O_RDONLY}, false, false},
    {SYS_execve, {0}, false, false},
    {SYS_clone, {SIGCHLD}, false, false},
    {SYS_ptrace, {0}, false, false},
    {SYS_prctl, {0}, false, false},
    {SYS_seccomp, {0}, false, false},
    {X32 | SYS_getpid, {0}, false, false},
};

/* Whether a thread of that kind survives the call. */
static bool survives(const struct call *call, bool vcpu)
{
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (child == 0) {
		/* A sanitizer's own handler would make calls of its own. */
		(void)signal(SIGSYS, SIG_DFL);
		if (lv_confine_thread(vcpu) < 0)
			_exit(2);
		(void)syscall(call->number, call->args[0], call->args[1],
			      call->args[2], call->args[3]);
		syscall(SYS_exit_group, 0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	if (WIFEXITED(status))
		CHECK(WEXITSTATUS(status) == 0);
	else
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	return WIFEXITED(status);
}

int main(void)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (survives(&calls[i], true) != calls[i].vcpu ||
		    survives(&calls[i], false) != calls[i].io) {
			(void)fprintf(stderr, "call %zu (%ld)\n", i,
				      calls[i].number);
			return 1;
		}
	}
	return 0;
}
