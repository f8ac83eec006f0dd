/*
 * drop.c - from root to nobody in particular, in the order that works: what
 * needs a capability first, Landlock last, since it needs no_new_privs.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/securebits.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jail.h"

#define FILES_MAX     4096
#define PROCESSES_MAX 256

/* Rights newer than the headers this is built with. */
#define FS_REFER     (1ull << 13)
#define FS_TRUNCATE  (1ull << 14)
#define FS_IOCTL_DEV (1ull << 15)
#define FS_ABI_1     ((1ull << 13) - 1)

static void limit(int resource, rlim_t value)
{
	struct rlimit both = {.rlim_cur = value, .rlim_max = value};

	if (setrlimit(resource, &both) < 0)
		fail("set resource limit %d", resource);
}

static void allow(int ruleset, const char *path, uint64_t rights)
{
	struct landlock_path_beneath_attr rule = {
	    .allowed_access = rights,
	    .parent_fd = open(path, O_PATH | O_CLOEXEC),
	};

	if (rule.parent_fd < 0 ||
	    syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH,
		    &rule, 0) < 0)
		fail("allow %s in Landlock", path);
	(void)close(rule.parent_fd);
}

/* What the mounts say already, said again by another part of the kernel. */
static void restrict_files(const struct jail *jail)
{
	struct landlock_ruleset_attr attr = {.handled_access_fs = FS_ABI_1};
	int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0,
			       LANDLOCK_CREATE_RULESET_VERSION);
	uint64_t read =
	    LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
	uint64_t write = LANDLOCK_ACCESS_FS_WRITE_FILE;
	uint64_t make = LANDLOCK_ACCESS_FS_REMOVE_FILE |
			LANDLOCK_ACCESS_FS_MAKE_REG |
			LANDLOCK_ACCESS_FS_MAKE_SOCK;
	int ruleset;

	if (abi < 1)
		return; /* not in this kernel: the mounts have to do */
	if (abi >= 2)
		attr.handled_access_fs |= FS_REFER;
	if (abi >= 3) {
		attr.handled_access_fs |= FS_TRUNCATE;
		make |= FS_TRUNCATE;
	}
	if (abi >= 5) {
		attr.handled_access_fs |= FS_IOCTL_DEV;
		write |= FS_IOCTL_DEV;
	}
	ruleset =
	    (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (ruleset < 0)
		fail("make a Landlock ruleset");
	allow(ruleset, "/", read | LANDLOCK_ACCESS_FS_EXECUTE);
	allow(ruleset, "/dev", read | write);
	allow(ruleset, jail->dir, read | LANDLOCK_ACCESS_FS_WRITE_FILE | make);
	if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		fail("enter Landlock");
	(void)close(ruleset);
}

void drop_rights(const struct jail *jail)
{
	static const unsigned long bits =
	    SECBIT_NOROOT | SECBIT_NOROOT_LOCKED |
	    SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
	    SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
	static const char name[] = "machine";

	if (sethostname(name, sizeof(name) - 1) < 0)
		fail("set the host name");
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, FILES_MAX);
	limit(RLIMIT_NPROC, PROCESSES_MAX);
	if (jail->file_bytes > 0)
		limit(RLIMIT_FSIZE, jail->file_bytes);
	for (unsigned long cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
			fail("drop capability %lu", cap);
	if (prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) < 0)
		fail("set the secure bits");
	if (setgroups(0, NULL) < 0 ||
	    setresgid(jail->uid, jail->uid, jail->uid) < 0 ||
	    setresuid(jail->uid, jail->uid, jail->uid) < 0)
		fail("become user %u", jail->uid);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail("give up new privileges");
	restrict_files(jail);
}
