/*
 * process.c - starts the image's process.
 *
 * The child reports a failed step through a pipe that a successful exec closes,
 * so that the parent knows "started" from "could not start" without guessing.
 * Its standard output and error are pipes that belong to the image's user:
 * without that, a process that is not root could not open /dev/stdout.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

#define DEFAULT_PATH                                                           \
	"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define OPEN_FILES_SOFT 65536
#define OPEN_FILES_HARD 1048576

enum stage { STAGE_SETUP, STAGE_CWD, STAGE_EXEC };

struct report {
	int32_t stage, error;
};

int lv_make_directories(const char *path)
{
	char buffer[PATH_MAX];
	struct stat status;

	int length = snprintf(buffer, sizeof(buffer), "%s", path);
	if (length < 0 || (size_t)length >= sizeof(buffer))
		return -ENAMETOOLONG;
	for (char *at = buffer + 1;; at++) {
		if (*at != '/' && *at != '\0')
			continue;
		char kept = *at;
		*at = '\0';
		if (mkdir(buffer, 0755) < 0 && errno != EEXIST)
			return -errno;
		if (kept == '\0')
			break;
		*at = kept;
	}
	if (stat(path, &status) < 0)
		return -errno;
	return S_ISDIR(status.st_mode) ? 0 : -ENOTDIR;
}

/* Never returns on success. As a shell: a file that may not be run is
 * remembered, and the search goes on. Unlike execvp(3) there is no detour
 * through /bin/sh for a file that has no known format. */
static int execute(const struct lv_run *run)
{
	char path[PATH_MAX];
	const char *name = run->argv[0];
	int result = -ENOENT;

	if (strchr(name, '/') != NULL) {
		(void)execve(name, run->argv, run->env);
		return -errno;
	}
	const char *at = lv_env_get(run->env, "PATH");
	if (at == NULL)
		at = DEFAULT_PATH;
	for (; name[0] != '\0'; at++) {
		int length = (int)strcspn(at, ":");
		int size = snprintf(path, sizeof(path), "%.*s%s%s", length, at,
				    length == 0 ? "./" : "/", name);
		if (size > 0 && (size_t)size < sizeof(path)) {
			(void)execve(path, run->argv, run->env);
			if (errno != ENOENT && errno != ENOTDIR)
				result = -errno;
			if (result != -ENOENT && result != -EACCES)
				return result;
		}
		at += length;
		if (*at == '\0')
			break;
	}
	return result;
}

static void set_limits(void)
{
	struct rlimit files = {OPEN_FILES_SOFT, OPEN_FILES_HARD};
	struct rlimit core = {0, RLIM_INFINITY};

	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		lv_log("cannot raise the open files limit: %s",
		       strerror(errno));
	(void)setrlimit(RLIMIT_CORE, &core);
}

static int take_stdio(int out, int err)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 ||
	    dup2(err, 2) < 0)
		return -errno;
	return 0;
}

static int become(const struct lv_user *user)
{
	if (setgroups(user->group_count, user->groups) < 0 ||
	    setresgid(user->gid, user->gid, user->gid) < 0 ||
	    setresuid(user->uid, user->uid, user->uid) < 0)
		return -errno;
	return 0;
}

_Noreturn static void child(const struct lv_run *run,
			    const struct lv_user *user, int out, int err,
			    int report_fd)
{
	struct report report = {STAGE_SETUP, 0};
	sigset_t none;

	(void)setsid();
	(void)umask(022);
	set_limits();
	for (int number = 1; number < NSIG; number++)
		(void)signal(number, SIG_DFL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	report.error = take_stdio(out, err);
	if (report.error == 0 && chdir(run->cwd) < 0) {
		report.stage = STAGE_CWD;
		report.error = -errno;
	}
	if (report.error == 0)
		report.error = become(user);
	if (report.error == 0) {
		report.stage = STAGE_EXEC;
		report.error = execute(run);
	}
	if (write(report_fd, &report, sizeof(report)) < 0)
		_exit(126);
	_exit(127);
}

static int explain(const struct lv_run *run, const struct report *report,
		   struct lv_error *error)
{
	const char *why = strerror(-report->error);
	const char *name = run->argv[0];

	if (report->stage == STAGE_CWD)
		return lv_fail(
		    error, LV_GUEST_ERROR_CWD,
		    "Cannot enter the working directory \"%.200s\": %s",
		    run->cwd, why);
	if (report->stage != STAGE_EXEC)
		return lv_fail(error, LV_GUEST_ERROR_INTERNAL,
			       "Cannot prepare the process: %s", why);
	if (report->error != -ENOENT && report->error != -ENOTDIR)
		return lv_fail(error, LV_GUEST_ERROR_EXEC_DENIED,
			       "Cannot execute \"%.200s\": %s", name, why);
	if (strchr(name, '/') == NULL)
		return lv_fail(
		    error, LV_GUEST_ERROR_EXEC_NOT_FOUND,
		    "Cannot execute \"%.200s\": it is not in the image's PATH",
		    name);
	return lv_fail(error, LV_GUEST_ERROR_EXEC_NOT_FOUND,
		       "Cannot execute \"%.200s\": %s", name,
		       access(name, F_OK) == 0
			   ? "its interpreter is not in the image"
			   : why);
}

static void close_all(int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			(void)close(fds[i]);
}

/* Pipe ends in order: out read, out write, err read, err write, report read,
 * report write. */
static int open_pipes(int fds[6], const struct lv_user *user)
{
	for (size_t i = 0; i < 6; i++)
		fds[i] = -1;
	for (size_t i = 0; i < 6; i += 2)
		if (pipe2(fds + i, O_CLOEXEC) < 0)
			return -errno;
	if (fchown(fds[1], user->uid, user->gid) < 0 ||
	    fchown(fds[3], user->uid, user->gid) < 0 ||
	    fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0 ||
	    fcntl(fds[2], F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

int lv_process_spawn(const struct lv_run *run, const struct lv_user *user,
		     struct lv_process *process, struct lv_error *error)
{
	struct report report;
	ssize_t got;
	int fds[6];

	int result = open_pipes(fds, user);
	pid_t pid = result < 0 ? -1 : fork();
	if (pid < 0) {
		result = result < 0 ? result : -errno;
		close_all(fds, 6);
		return lv_fail(error, LV_GUEST_ERROR_INTERNAL,
			       "Cannot start a process: %s", strerror(-result));
	}
	if (pid == 0)
		child(run, user, fds[1], fds[3], fds[5]);
	(void)close(fds[1]);
	(void)close(fds[3]);
	(void)close(fds[5]);
	do
		got = read(fds[4], &report, sizeof(report));
	while (got < 0 && errno == EINTR);
	(void)close(fds[4]);
	if (got == (ssize_t)sizeof(report)) {
		(void)waitpid(pid, NULL, 0);
		(void)close(fds[0]);
		(void)close(fds[2]);
		return explain(run, &report, error);
	}
	process->pid = pid;
	process->out[0] = fds[0];
	process->out[1] = fds[2];
	return 0;
}
