/*
 * leveret-jail - puts one VMM process into its jail and executes it there.
 *
 *   parent: close what was inherited, make the machine's interface, join the
 *           cgroup, unshare, fork
 *     child (PID 1 of its namespace): root of its own, limits, ids, exec
 *     parent: prints the child's pid as the host sees it, tells it the child
 *             through LEVERET_HOST_PID, leaves; the VMM belongs to init then
 *
 * Everything happens before any thread exists, which is why it is a program of
 * its own and not a part of the VMM. It trusts its arguments: the agent, which
 * is root, wrote them; what it must not trust is the machine's directory, which
 * an earlier run of the machine could write to.
 *
 * usage: leveret-jail --uid N --dir DIR --kvm DEVICE --file-bytes N
 *                     [--cgroup DIR] [--tap BRIDGE]
 *                     [--file SOURCE [--at TARGET]]... --
 * PROGRAM ARG...
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jail.h"

#define STATUS_VMM_FAULT 71
#define NAMESPACES                                                             \
	(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |            \
	 CLONE_NEWUTS | CLONE_NEWCGROUP)

void fail(const char *what, ...)
{
	int error = errno;
	char text[300];
	va_list args;

	va_start(args, what);
	(void)vsnprintf(text, sizeof(text), what, args);
	va_end(args);
	for (char *c = text; *c != '\0'; c++)
		if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
			*c = '?';
	(void)dprintf(2,
		      "{\"reason\":\"VMM_FAULT\",\"message\":"
		      "\"Cannot make the machine's jail: %s: %s\"}\n",
		      text, strerror(error));
	_exit(STATUS_VMM_FAULT);
}

static unsigned long long number(const char *text)
{
	char *end = NULL;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno == 0 && end != text && *end == '\0')
		return value;
	errno = EINVAL;
	fail("argument %s", text);
}

static void add_file(struct jail *jail, const char *source)
{
	struct jail_file *file = &jail->file[jail->count];

	if (jail->count == JAIL_FILES_MAX) {
		errno = E2BIG;
		fail("more than %d files", JAIL_FILES_MAX);
	}
	file->source = source;
	file->target = source;
	jail->count++;
}

static void parse(struct jail *jail, int argc, char **argv)
{
	int i = 1;

	for (; i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2) {
		char *value = argv[i + 1];

		if (strcmp(argv[i], "--uid") == 0)
			jail->uid = (uid_t)number(value);
		else if (strcmp(argv[i], "--dir") == 0)
			jail->dir = value;
		else if (strcmp(argv[i], "--kvm") == 0)
			jail->kvm = value;
		else if (strcmp(argv[i], "--tap") == 0)
			jail->bridge = value;
		else if (strcmp(argv[i], "--cgroup") == 0)
			jail->cgroup = value;
		else if (strcmp(argv[i], "--file-bytes") == 0)
			jail->file_bytes = number(value);
		else if (strcmp(argv[i], "--file") == 0)
			add_file(jail, value);
		else if (strcmp(argv[i], "--at") == 0 && jail->count > 0)
			jail->file[jail->count - 1].target = value;
		else
			break;
	}
	if (i + 1 < argc && strcmp(argv[i], "--") == 0 && jail->uid != 0 &&
	    jail->dir != NULL && jail->kvm != NULL) {
		jail->argv = &argv[i + 1];
		return;
	}
	errno = EINVAL;
	fail("usage: argument %d", i);
}

static void join_cgroup(const char *dir)
{
	char path[300];
	int fd;

	if (dir == NULL)
		return;
	(void)snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		fail("join the cgroup %s", dir);
	(void)close(fd);
}

static void enter(struct jail *jail, const int *pipe_fds)
{
	char host_pid[40] = "LEVERET_HOST_PID=";
	char *env[] = {
	    host_pid,
	    (char *)(uintptr_t) "LEVERET_SHIM=/lib/libleveret.so",
	    (char *)(uintptr_t) "DO_NOT_TRACK=1",
	    NULL,
	};
	size_t at = strlen(host_pid);
	ssize_t got;

	(void)close(pipe_fds[1]);
	got = read(pipe_fds[0], host_pid + at, sizeof(host_pid) - at - 1);
	if (got <= 0)
		fail("hear from the parent");
	(void)close(pipe_fds[0]);
	make_root(jail);
	drop_rights(jail);
	(void)execve(jail->argv[0], jail->argv, env);
	fail("execute %s", jail->argv[0]);
}

int main(int argc, char **argv)
{
	struct jail jail = {0};
	int pipe_fds[2];
	pid_t pid;

	if (close_range(3, ~0u, 0) < 0)
		fail("close what was inherited");
	(void)umask(077);
	parse(&jail, argc, argv);
	if (jail.bridge != NULL)
		make_tap(&jail);
	join_cgroup(jail.cgroup);
	if (unshare(NAMESPACES) < 0)
		fail("make namespaces");
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		fail("make a pipe");
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		/* Whoever reads our standard output reads to its end. */
		if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
			fail("open /dev/null");
		enter(&jail, pipe_fds);
	}
	if (dprintf(pipe_fds[1], "%d", pid) < 0 || dprintf(1, "%d\n", pid) < 0)
		fail("tell the process's id");
	return 0;
}
