#!/bin/sh
# PID 1 of the lab. Turns the initramfs into a host that shares the outside's
# root file system read-only over 9p: insert modules, mount, network, then hand
# over to busybox init, which keeps the command server running (inittab) and
# reaps orphans. Every failure ends in a power-off with its line on the console,
# so that `lev lab up` sees QEMU leave instead of waiting for its deadline.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /host
/bin/busybox --install -s /bin

die() {
	echo "leveret-lab: failed: $*" >/dev/console
	poweroff -f
}

mount -t proc proc /proc || die "mount /proc"
mount -t sysfs sys /sys || die "mount /sys"
mount -t devtmpfs dev /dev || die "mount /dev"
while read -r module; do
	insmod "/modules/$module" || die "insmod $module"
done </modules/order

# The whole tree of the outside. cache=loose is safe because nothing in here
# writes to it; it is what makes Bun start in a fraction of a second.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=1048576,cache=loose \
	root /host || die "mount the outside's root over 9p"

for word in $(cat /proc/cmdline); do
	case $word in
	leveret.run=*) run=${word#leveret.run=} ;;
	esac
done
cp "/host$run/boot.env" /etc/boot.env || die "read $run/boot.env"
. /etc/boot.env

# A checkout or a cache under /tmp or /run would vanish under the tmpfs below:
# bind it aside first and put it back at its own place.
number=0
echo "$keep" | while read -r path; do
	[ -n "$path" ] || continue
	number=$((number + 1))
	mkdir -p "/keep/$number"
	mount --bind "/host$path" "/keep/$number" || die "keep $path"
done
mount -t tmpfs -o mode=1777 tmp /host/tmp || die "mount /tmp"
mount -t tmpfs -o mode=755 run /host/run || die "mount /run"
number=0
echo "$keep" | while read -r path; do
	[ -n "$path" ] || continue
	number=$((number + 1))
	mkdir -p "/host$path"
	mount --move "/keep/$number" "/host$path" || die "put back $path"
done

mkdir -p /host/run/leveret /host/run/tmp
chmod 1777 /host/run/tmp
mount -t ext4 /dev/vda /host/run/leveret || die "mount the writable disk"
mount --bind /proc /host/proc
mount --bind /sys /host/sys
mount --bind /dev /host/dev
mkdir -p /host/dev/pts /host/dev/shm
mount -t devpts devpts /host/dev/pts
mount -t tmpfs -o mode=1777 shm /host/dev/shm
mount -t cgroup2 cgroup2 /host/sys/fs/cgroup
# For perf, which counts what KVM does.
mount -t tracefs tracefs /host/sys/kernel/tracing
[ -c /dev/kvm ] || die "no /dev/kvm: does this QEMU emulate SVM?"
[ -c /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }

hostname lab
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0 || die "no eth0"
ip link set eth0 up
ip route add default via 10.0.2.2
echo "nameserver 10.0.2.3" >/host/run/resolv.conf
# Where /etc/resolv.conf is a link into /run there is nothing to bind over.
[ -L /host/etc/resolv.conf ] || [ ! -f /host/etc/resolv.conf ] ||
	mount --bind /host/run/resolv.conf /host/etc/resolv.conf

# Raw, or the line discipline would echo requests and edit their bytes.
stty -F /dev/ttyS1 raw -echo || die "no second serial port"

# As passt's manual has it: what its socket has no room for, it drops.
echo 16777216 >/proc/sys/net/core/rmem_max
echo 16777216 >/proc/sys/net/core/wmem_max

cat >/etc/inittab <<INIT
::respawn:/bin/serve
::ctrlaltdel:/bin/poweroff -f
INIT
cat >/bin/serve <<SERVE
#!/bin/sh
. /etc/boot.env
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME="\$home" TMPDIR=/run/tmp LEVERET_CACHE_DIR="\$cache"
# Moved over / in a mount namespace of its own, not only chrooted into: a process in a
# chroot may make no user namespace, and passt does.
exec unshare -m sh -c 'cd /host && mount --move /host / && exec chroot . "\$@"' serve \\
	"\$bun" "\$checkout/cli/lab/exec-server.ts" "\$ready" "\$checkout"
SERVE
chmod +x /bin/serve
exec /bin/busybox init
