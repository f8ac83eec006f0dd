/*
 * mounts.c - from the initramfs to the image.
 *
 *   /lower    /dev/vda, squashfs or erofs, read-only: the image
 *   /scratch  /dev/vdb, ext4 (or a tmpfs when there is no second disk):
 *             upper/ and work/ of the overlay, kept between starts
 *   /merged   the overlay, moved onto / and entered by chroot
 *
 * The image's own files are left alone: the only thing made in it is a
 * mountpoint that it lacks. The mounts under the image are those of the OCI
 * runtime specification (config-linux.md, "Default Filesystems"), made after
 * the chroot so that a symlink in the image resolves inside the image.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

#define DISK_TIMEOUT_MS 30000u
#define VIRTIO_ID_BLOCK 2ul

#define SAFE		(MS_NOSUID | MS_NOEXEC | MS_NODEV)

struct mount_row {
	const char *target, *type;
	unsigned long flags;
	const char *data;
	bool required;
};

static const struct mount_row early[] = {
    {"/proc", "proc", SAFE, NULL, true},
    {"/sys", "sysfs", SAFE, NULL, true},
    {"/dev", "devtmpfs", MS_NOSUID, "mode=755", true},
};

static const struct mount_row inside[] = {
    {"/proc", "proc", SAFE, NULL, true},
    {"/sys", "sysfs", SAFE, NULL, true},
    {"/dev", "devtmpfs", MS_NOSUID, "mode=755", true},
    {"/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
     "newinstance,ptmxmode=0666,mode=0620,gid=5", false},
    {"/dev/shm", "tmpfs", SAFE, "mode=1777", false},
    {"/dev/mqueue", "mqueue", SAFE, NULL, false},
    {"/sys/fs/cgroup", "cgroup2", SAFE, NULL, false},
};

static int mount_rows(const struct mount_row *rows, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct mount_row *row = &rows[i];
		(void)mkdir(row->target, 0755);
		if (mount(row->type, row->target, row->type, row->flags,
			  row->data) == 0)
			continue;
		int error = errno;
		lv_log("cannot mount %s on %s: %s", row->type, row->target,
		       strerror(error));
		if (row->required)
			return -error;
	}
	return 0;
}

int lv_mount_early(void)
{
	return mount_rows(early, sizeof(early) / sizeof(early[0]));
}

/* Disks that the machine has, whether or not their driver is done with them. */
static int count_disks(void)
{
	char path[320], text[32];
	int count = 0;

	DIR *bus = opendir("/sys/bus/virtio/devices");
	if (bus == NULL)
		return 0;
	for (struct dirent *entry; (entry = readdir(bus)) != NULL;) {
		(void)snprintf(path, sizeof(path),
			       "/sys/bus/virtio/devices/%s/device",
			       entry->d_name);
		FILE *file = fopen(path, "re");
		if (file == NULL)
			continue;
		if (fgets(text, sizeof(text), file) != NULL &&
		    strtoul(text, NULL, 16) == VIRTIO_ID_BLOCK)
			count++;
		(void)fclose(file);
	}
	(void)closedir(bus);
	return count;
}

/* Woken by the kernel's uevents; the short poll covers one sent in between. */
static int wait_for_disk(const char *path)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
	uint64_t deadline = lv_now_ms() + DISK_TIMEOUT_MS;
	char event[4096];

	if (access(path, F_OK) == 0)
		return 0;
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
			NETLINK_KOBJECT_UEVENT);
	if (fd >= 0)
		(void)bind(fd, (struct sockaddr *)&address, sizeof(address));
	while (access(path, F_OK) != 0 && lv_now_ms() < deadline) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		(void)poll(&wait, 1, 50);
		while (fd >= 0 && recv(fd, event, sizeof(event), 0) > 0)
			;
	}
	if (fd >= 0)
		(void)close(fd);
	return access(path, F_OK) == 0 ? 0 : -ENODEV;
}

static int mount_lower(struct lv_error *error)
{
	if (wait_for_disk("/dev/vda") < 0)
		return lv_fail(
		    error, LV_GUEST_ERROR_ROOTFS,
		    "The image's disk /dev/vda did not appear in %u s",
		    DISK_TIMEOUT_MS / 1000u);
	if (mount("/dev/vda", "/lower", "squashfs", MS_RDONLY, NULL) == 0)
		return 0;
	int first = errno;
	if (mount("/dev/vda", "/lower", "erofs", MS_RDONLY, NULL) == 0)
		return 0;
	return lv_fail(error, LV_GUEST_ERROR_ROOTFS,
		       "Cannot mount /dev/vda as squashfs (%s) or erofs (%s)",
		       strerror(first), strerror(errno));
}

/* The overlay shows the root directory of upper, so a new one takes the
 * image's owner, mode and times. */
static int make_upper(void)
{
	struct stat root;

	if (mkdir("/scratch/work", 0755) < 0 && errno != EEXIST)
		return -errno;
	if (mkdir("/scratch/upper", 0755) < 0)
		return errno == EEXIST ? 0 : -errno;
	if (stat("/lower", &root) < 0)
		return -errno;
	struct timespec times[2] = {root.st_atim, root.st_mtim};
	if (chown("/scratch/upper", root.st_uid, root.st_gid) < 0 ||
	    chmod("/scratch/upper", root.st_mode & 07777) < 0 ||
	    utimensat(AT_FDCWD, "/scratch/upper", times, 0) < 0)
		return -errno;
	return 0;
}

static int mount_scratch(struct lv_error *error)
{
	const char *kind = "tmpfs";

	if (count_disks() < 2) {
		if (mount("scratch", "/scratch", "tmpfs", 0, "mode=755") < 0)
			goto fail;
	} else {
		kind = "/dev/vdb as ext4";
		if (wait_for_disk("/dev/vdb") < 0) {
			errno = ENODEV;
			goto fail;
		}
		if (mount("/dev/vdb", "/scratch", "ext4", MS_NOATIME,
			  "discard") < 0)
			goto fail;
	}
	int result = make_upper();
	if (result == 0)
		return 0;
	errno = -result;
fail:
	return lv_fail(error, LV_GUEST_ERROR_ROOTFS,
		       "Cannot prepare the writable layer (%s): %s", kind,
		       strerror(errno));
}

/* devtmpfs has the nodes; these links are the OCI runtime's (config-linux.md,
 * "Dev symbolic links"). */
static void link_devices(void)
{
	static const char *const links[][2] = {
	    {"/proc/self/fd", "/dev/fd"},
	    {"/proc/self/fd/0", "/dev/stdin"},
	    {"/proc/self/fd/1", "/dev/stdout"},
	    {"/proc/self/fd/2", "/dev/stderr"},
	};

	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			lv_log("cannot link %s: %s", links[i][1],
			       strerror(errno));
}

static int enter(const char *root)
{
	static const char *const old[] = {"/dev", "/sys", "/proc"};

	for (size_t i = 0; i < sizeof(old) / sizeof(old[0]); i++)
		(void)umount2(old[i], MNT_DETACH);
	if (chdir(root) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 ||
	    chroot(".") < 0 || chdir("/") < 0)
		return -errno;
	return 0;
}

/* Returns a file descriptor of the writable layer, for lv_mount_sync. */
int lv_mount_root(struct lv_error *error)
{
	(void)mkdir("/lower", 0755);
	(void)mkdir("/scratch", 0755);
	(void)mkdir("/merged", 0755);
	if (mount_lower(error) < 0 || mount_scratch(error) < 0)
		return -1;
	if (mount("overlay", "/merged", "overlay", 0,
		  "lowerdir=/lower,upperdir=/scratch/upper,"
		  "workdir=/scratch/work") < 0)
		return lv_fail(error, LV_GUEST_ERROR_ROOTFS,
			       "Cannot mount the overlay: %s", strerror(errno));
	/* The way back to a mount that the chroot hides. */
	int scratch = open("/scratch", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = scratch < 0 ? -errno : enter("/merged");
	if (result < 0)
		return lv_fail(error, LV_GUEST_ERROR_ROOTFS,
			       "Cannot enter the image: %s", strerror(-result));
	result = mount_rows(inside, sizeof(inside) / sizeof(inside[0]));
	if (result < 0)
		return lv_fail(
		    error, LV_GUEST_ERROR_ROOTFS,
		    "Cannot mount /proc, /sys or /dev in the image: %s",
		    strerror(-result));
	link_devices();
	return scratch;
}

/* Nothing runs any more. The journal of the scratch disk would repair a cut,
 * but a clean disk mounts faster the next time. */
void lv_mount_sync(int scratch)
{
	(void)mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	if (scratch >= 0 && fchdir(scratch) == 0)
		(void)mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	sync();
}

int lv_loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo"};

	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int result = ioctl(fd, SIOCGIFFLAGS, &request);
	if (result == 0) {
		request.ifr_flags |= IFF_UP;
		result = ioctl(fd, SIOCSIFFLAGS, &request);
	}
	result = result < 0 ? -errno : 0;
	(void)close(fd);
	return result;
}
