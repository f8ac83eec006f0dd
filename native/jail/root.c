/*
 * root.c - the jail's root: a tmpfs with directories, three devices, a /proc of
 * processes only, and mounts of exactly the files named.
 *
 * Sources are taken as detached mounts (open_tree) before anything is covered
 * or moved, so it does not matter where they lie, and no path of theirs is
 * walked twice. Only the machine's directory is writable; nothing in it can be
 * executed, be a device or carry a set-uid bit.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "jail.h"

/* Any directory that every host has; what is below it is not needed. */
#define STAGE "/proc"

static int detach(const char *path, int flags)
{
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, path,
				OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);

	if (tree < 0)
		fail("open %s", path);
	return tree;
}

/* The directories above the last part of ./path. */
static void make_parents(const char *path)
{
	char copy[4096];

	if (snprintf(copy, sizeof(copy), ".%s", path) >= (int)sizeof(copy)) {
		errno = ENAMETOOLONG;
		fail("make %.100s", path);
	}
	for (char *slash = strchr(copy + 2, '/'); slash != NULL;
	     slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			fail("make directory %s", copy);
		*slash = '/';
	}
}

static void attach(const struct jail_file *file, uint64_t attributes)
{
	struct mount_attr attr = {
	    .attr_set = attributes | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
	};
	struct stat info;
	char path[4096];
	int fd;

	if (fstat(file->tree, &info) < 0)
		fail("look at %s", file->source);
	make_parents(file->target);
	(void)snprintf(path, sizeof(path), ".%s", file->target);
	if (S_ISDIR(info.st_mode)) {
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			fail("make directory %s", path);
	} else {
		fd = open(path, O_CREAT | O_WRONLY | O_NOFOLLOW | O_CLOEXEC,
			  0444);
		if (fd < 0)
			fail("make %s", path);
		(void)close(fd);
	}
	if (syscall(SYS_mount_setattr, file->tree, "", AT_EMPTY_PATH, &attr,
		    sizeof(attr)) < 0)
		fail("restrict the mount of %s", file->source);
	if (syscall(SYS_move_mount, file->tree, "", AT_FDCWD, path,
		    MOVE_MOUNT_F_EMPTY_PATH) < 0)
		fail("mount %s", file->source);
	(void)close(file->tree);
}

/* chmod and chown go by path: umask and the caller's ids stay out of it. */
static void make_device(const char *path, dev_t number, uid_t owner)
{
	if (mknod(path, S_IFCHR | 0600, number) < 0 ||
	    chmod(path, owner == 0 ? 0666 : 0600) < 0 ||
	    chown(path, owner, owner) < 0)
		fail("make device %s", path);
}

static void make_devices(const struct jail *jail, dev_t kvm)
{
	if (mkdir("dev", 0755) < 0)
		fail("make /dev");
	make_device("dev/null", makedev(1, 3), 0);
	make_device("dev/urandom", makedev(1, 9), 0);
	make_device("dev/kvm", kvm, jail->uid);
}

void make_root(struct jail *jail)
{
	struct jail_file dir = {.source = jail->dir, .target = jail->dir};
	struct stat kvm;

	(void)umask(0);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("make mounts private");
	if (stat(jail->kvm, &kvm) < 0)
		fail("look at %s", jail->kvm);
	dir.tree = detach(jail->dir, AT_SYMLINK_NOFOLLOW);
	for (size_t i = 0; i < jail->count; i++)
		jail->file[i].tree =
		    detach(jail->file[i].source, AT_SYMLINK_NOFOLLOW);
	if (mount("leveret", STAGE, "tmpfs", MS_NOSUID,
		  "mode=755,size=256k,nr_inodes=512") < 0 ||
	    chdir(STAGE) < 0)
		fail("make a root");
	attach(&dir, MOUNT_ATTR_NOEXEC);
	for (size_t i = 0; i < jail->count; i++)
		attach(&jail->file[i], MOUNT_ATTR_RDONLY);
	make_devices(jail, kvm.st_rdev);
	if (mkdir("proc", 0555) < 0 ||
	    mount("proc", "proc", "proc",
		  MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "hidepid=invisible,subset=pid") < 0)
		fail("mount /proc");
	/* pivot_root(2): the old root ends up on top of the new, and goes. */
	if (syscall(SYS_pivot_root, ".", ".") < 0 ||
	    umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		fail("change the root");
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID,
		  NULL) < 0)
		fail("make the root read-only");
	(void)umask(077);
}
