/*
 * leveret.h - the C shim under the VMM: file descriptors, threads, the KVM_RUN
 * loop, guest memory, virtqueues and device data paths. It has no policy: the
 * memory map, boot parameters, ACPI, CPUID and the device list are decided by
 * TypeScript (agent/vmm), which writes guest memory through a mapping.
 *
 * Contract of every function: returns >= 0, or -errno. Nothing prints, exits
 * or aborts. Argument structs begin with their own size (set by the caller to
 * sizeof) so that the ABI can grow; a smaller or larger size is -EINVAL. No
 * pointer passed in is kept after return. Functions that take a vm are called
 * from one thread (the JS main thread) unless said otherwise.
 *
 * Life: lv_vm_create -> lv_vm_region -> devices -> vCPU state
 * -> lv_vm_start -> lv_vm_next_event ... -> lv_vm_stop -> lv_vm_destroy.
 */
#ifndef LEVERET_H
#define LEVERET_H

#include <stdint.h>

#pragma GCC visibility push(default)

#define LV_ABI_VERSION 3u
#define LV_MAX_VCPUS   32u
#define LV_MAX_DEVICES 16u
#define LV_MAX_REGIONS 4u

struct lv_vm;

uint32_t lv_abi_version(void);

/* Opens /dev/kvm and checks API version 12 and the capabilities needed.
 * 0, or -ENOENT/-EACCES/-ENODEV (no usable KVM), -ENOTSUP (a capability lacks;
 * its number is written to *missing when not NULL). */
int lv_kvm_probe(uint32_t *missing);

struct lv_vm_config {
	uint32_t size;
	uint32_t vcpus;	       /* 1..LV_MAX_VCPUS */
	uint64_t memory_bytes; /* multiple of 4096, 1 MiB .. 64 GiB */
	uint64_t low_limit;    /* RAM below this gpa is region 0 (3 GiB) */
	uint64_t high_base;    /* the rest starts here (4 GiB) */
	uint64_t device_base;  /* LV_MAX_DEVICES pages outside RAM */
	uint32_t flags;	       /* LV_VM_* */
	/* ACPI's sleep and reset registers (0x600; 0 = none): a write of
	 * power_off (0x34) or reset (1) becomes LV_EVENT_POWER_OFF or
	 * LV_EVENT_RESET. Not asked for is port 0x64 <- 0xfe = reset (i8042).
	 */
	uint16_t power_port;
	/* One byte wide (0xf4; 0 = none): each write becomes LV_EVENT_DEBUG
	 * with the value and the monotonic time. Test guests end with it. */
	uint16_t debug_port;
	uint8_t power_off;
	uint8_t reset;
	uint8_t reserved[6];
};
#define LV_VM_HUGE_PAGES 1u /* memory in reserved pages of 2 MiB */

/* Creates the VM, irqchip, memory (memfd, MAP_SHARED, NORESERVE) and vCPUs.
 * With huge pages memory_bytes is a multiple of 2 MiB, and -ENOMEM says that
 * the host has too few of them. */
int lv_vm_create(const struct lv_vm_config *config, struct lv_vm **out);
/* Stops threads if needed, closes and frees everything. NULL is fine. */
void lv_vm_destroy(struct lv_vm *vm);

struct lv_region {
	uint64_t gpa;
	uint64_t len;
	uint8_t *hva; /* in this process */
};
/* -ENOENT past the last region. */
int lv_vm_region(struct lv_vm *vm, uint32_t index, struct lv_region *out);

/* vCPU state in the kernel's own structs (linux/kvm.h). len is exactly the
 * struct's, with the entries that its first u32 counts where it has any (256 at
 * most): kvm_regs, kvm_sregs, kvm_fpu, kvm_lapic_state, kvm_translation;
 * kvm_cpuid2, kvm_msrs. Returns what KVM does: LV_SET_MSRS the entries it took.
 * -EBUSY while the machine runs; after an event that ended it, no more. */
enum lv_vcpu_call {
	LV_GET_REGS = 0,
	LV_SET_REGS = 1,
	LV_GET_SREGS = 2,
	LV_SET_SREGS = 3,
	LV_GET_FPU = 4,
	LV_SET_FPU = 5,
	LV_GET_LAPIC = 6,
	LV_SET_LAPIC = 7,
	LV_GET_SUPPORTED_CPUID = 8, /* of the host; any vCPU */
	LV_SET_CPUID = 9,
	LV_SET_MSRS = 10,
	LV_TRANSLATE = 11,
};
int lv_vcpu_call(struct lv_vm *vm, uint32_t vcpu, uint32_t call, void *buf,
		 uint64_t len);

/* 16550A at a port base, byte wide, output appended to out_fd line by line, the
 * rest when the machine ends (a pipe or file; what is not a regular file gets
 * O_NONBLOCK; what does not fit is dropped and counted). */
struct lv_serial_config {
	uint32_t size;
	uint16_t port; /* 0x3f8 */
	uint16_t reserved;
	uint32_t gsi;	    /* 4 */
	int32_t out_fd;	    /* dup'ed by the shim; -1 = discard */
	uint64_t out_limit; /* bytes ever written to out_fd; 0 = no limit */
};
int lv_serial_add(struct lv_vm *vm, const struct lv_serial_config *config);

/* Token buckets: so much a second on average, `burst` at once. A rate of 0 is
 * no limit, a burst of 0 a second's worth. */
struct lv_limit {
	uint64_t bytes_rate, bytes_burst, ops_rate, ops_burst;
};

/* virtio-mmio v2 devices (virtio 1.2, 4.2), by virtio's own numbers. */
enum lv_device_kind {
	LV_DEVICE_NET = 1,
	LV_DEVICE_BLK = 2,
	LV_DEVICE_CONSOLE = 3,
	LV_DEVICE_RNG = 4,
	LV_DEVICE_BALLOON = 5,
	LV_DEVICE_VSOCK = 19,
};
/* How each struct lv_<kind>_config below begins. */
struct lv_device_config {
	uint32_t size;
	uint32_t gsi; /* < 24; an edge interrupt */
};
/* Returns the device's index, 0 for the first: how many pages of 4 KiB after
 * device_base its registers are. */
int lv_device_add(struct lv_vm *vm, uint32_t kind, const void *config);

struct lv_blk_config {
	uint32_t size;
	uint32_t gsi;
	int32_t fd;	 /* dup'ed; regular file or block device */
	uint32_t flags;	 /* LV_BLK_* */
	uint64_t bytes;	 /* capacity; a tail under 512 bytes is not exposed */
	char id[20];	 /* GET_ID, NUL padded */
	uint32_t queues; /* 1..8 */
	struct lv_limit limit;
};
#define LV_BLK_READ_ONLY 1u
#define LV_BLK_NO_URING	 2u /* as on a host that has none */

/* A TAP interface, opened with its vnet header (offloads both ways), or the
 * unix stream socket of a user-mode network stack, qemu's protocol: u32 length,
 * big endian, then the frame; no offloads. */
struct lv_net_config {
	uint32_t size;
	uint32_t gsi;
	int32_t fd;		/* dup'ed; -1 = open `name` */
	uint32_t flags;		/* LV_NET_* */
	struct lv_limit rx, tx; /* rx = into the guest */
	uint8_t mac[6];		/* frames from another address are dropped */
	uint16_t mtu;		/* 68..65535 */
	char name[104];		/* of the interface, or the socket's path */
};
#define LV_NET_TAP 1u /* else the socket */

/* One port, output only: bounded as the serial port's. */
struct lv_console_config {
	uint32_t size;
	uint32_t gsi;
	int32_t out_fd; /* dup'ed; -1 = discard */
	uint32_t reserved;
	uint64_t out_limit; /* bytes ever written to out_fd; 0 = no limit */
};

struct lv_rng_config {
	uint32_t size;
	uint32_t gsi;
};

/* Pages of 4 KiB: lv_balloon_set says how many the guest is to give back. It
 * may take them again when it runs out of memory; free ones it reports by
 * itself. */
struct lv_balloon_config {
	uint32_t size;
	uint32_t gsi;
};
int lv_balloon_set(struct lv_vm *vm, uint32_t device, uint32_t pages);

/* guest[] by tag (virtio 1.2, 5.5.6.3): swap in, swap out, major faults, minor
 * faults, free, total, available, caches, huge pages got, huge pages denied; as
 * of the call before, which asked the guest for new ones. */
#define LV_BALLOON_STATS 10
struct lv_balloon_stats {
	uint64_t target_pages, actual_pages, guest[LV_BALLOON_STATS];
};
int lv_balloon_stats(struct lv_vm *vm, uint32_t device,
		     struct lv_balloon_stats *out);

/* vsock with Firecracker's unix socket mapping: a guest connection to host
 * (CID 2) port P connects to "<path>_P"; a host process that connects to
 * <path> and writes "CONNECT <port>\n" gets "OK <host port>\n" and a stream to
 * the guest's port. */
struct lv_vsock_config {
	uint32_t size;
	uint32_t gsi;
	uint64_t guest_cid; /* >= 3 */
	char path[104];	    /* NUL terminated; "<path>_<port>" < 108 bytes */
};

/* Seccomp programs (count struct sock_filter each, at most LV_FILTER_MAX),
 *which agent/vmm/seccomp.ts writes. Before lv_vm_start.
 *
 *   PROCESS  taken on at once and for good by every thread (TSYNC), as is the
 *	      handler of SIGSYS: a call that traps ends the process with status
 *	      71 and a line of JSON on standard error
 *   VCPU, IO kept, and taken on by such threads beside it when they start */
enum lv_confined {
	LV_CONFINE_PROCESS = 0,
	LV_CONFINE_VCPU = 1,
	LV_CONFINE_IO = 2,
};
#define LV_FILTER_MAX 256u
int lv_vm_confine(struct lv_vm *vm, uint32_t who, const void *code,
		  uint32_t count);

/* One edge on an interrupt line. */
int lv_vm_pulse(struct lv_vm *vm, uint32_t gsi);

/* Starts the I/O thread and the vCPU threads. Once only. */
int lv_vm_start(struct lv_vm *vm);
/* Kicks the vCPUs out of the guest, stops and joins all threads. Idempotent. */
int lv_vm_stop(struct lv_vm *vm);

/* Holds every vCPU outside the guest and every device between two requests;
 * returns when they are. Interrupts and timers wait. -EBUSY when the machine
 * does not run or is paused. */
int lv_vm_pause(struct lv_vm *vm);
/* -EBUSY when it is not paused. lv_vm_stop needs no resume before it. */
int lv_vm_resume(struct lv_vm *vm);

/* A non-blocking eventfd that becomes readable when events wait. It belongs to
 * the vm; TypeScript reads it with Bun.file(fd).stream(). */
int lv_vm_event_fd(struct lv_vm *vm);

enum lv_event_kind {
	LV_EVENT_NONE = 0,
	LV_EVENT_POWER_OFF = 1,
	LV_EVENT_RESET = 2,	  /* reset register, i8042 or triple fault */
	LV_EVENT_DEBUG = 3,	  /* value = the byte written */
	LV_EVENT_VCPU_FAILED = 4, /* detail = KVM exit reason, value = suberror
				     or hardware reason, errno in error */
	LV_EVENT_DEVICE_FAILED = 5, /* device = index by order of creation,
				       detail = enum lv_device_fault */
	LV_EVENT_HOST_FAILED = 6,   /* error = errno of a host call */
};

enum lv_device_fault {
	LV_FAULT_NONE = 0,
	LV_FAULT_RING_ADDRESS = 1, /* ring outside RAM or unaligned */
	LV_FAULT_AVAIL_INDEX = 2,  /* avail.idx jumped by more than the size */
	LV_FAULT_HEAD_INDEX = 3,   /* head >= queue size */
	LV_FAULT_NEXT_INDEX = 4,   /* next >= queue size */
	LV_FAULT_CHAIN_LENGTH = 5, /* loop, or longer than the queue */
	LV_FAULT_DESC_ADDRESS = 6, /* buffer outside RAM */
	LV_FAULT_DESC_FLAGS = 7,   /* nested or not negotiated INDIRECT */
	LV_FAULT_INDIRECT_TABLE = 8, /* length not a multiple of 16, or 0 */
};

struct lv_event {
	uint32_t kind;
	uint32_t vcpu;
	uint32_t device;
	uint32_t detail;
	uint64_t value;
	int32_t error;
	uint32_t reserved;
	uint64_t time_ns; /* CLOCK_MONOTONIC */
};
/* 1 and *out filled, 0 when none waits. At most 64 are kept; the first fatal
 * one is never dropped. */
int lv_vm_next_event(struct lv_vm *vm, struct lv_event *out);

/* Counters, all monotonic. */
struct lv_vcpu_stats {
	uint64_t exits_pio, exits_mmio, exits_intr, exits_other;
};
int lv_vcpu_stats(struct lv_vm *vm, uint32_t vcpu, struct lv_vcpu_stats *out);
struct lv_device_stats {
	uint64_t notifies, interrupts, requests, bytes_in, bytes_out, malformed,
	    dropped, errors, throttled;
};
int lv_device_stats(struct lv_vm *vm, uint32_t device,
		    struct lv_device_stats *out);

#pragma GCC visibility pop

#endif
