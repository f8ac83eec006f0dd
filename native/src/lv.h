/*
 * lv.h - what the shim's files share. Who owns what:
 *
 *   JS thread    lv_vm, everything before lv_vm_start and after lv_vm_stop
 *   vCPU threads their lv_vcpu; registers of devices (lv_device.lock, except
 * the interrupt registers, which are atomics), lv_serial.lock I/O thread rings
 * and device state, under lv_device.lock
 *
 * Lock order: lv_device.lock or lv_serial.lock, then lv_events.lock. Device
 * code knows guest memory only through struct lv_mem, so that tests run it over
 * plain memory without KVM.
 */
#ifndef LV_H
#define LV_H

#include <errno.h>
#include <linux/filter.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../leveret.h"
#include "registers.h"

#define LV_QUEUE_MAX	 256u
#define LV_QUEUES_MAX	 8u
#define LV_EVENTS_MAX	 64u
#define LV_NEVER	 UINT64_MAX /* of a time */
#define LV_SECOND_NS	 1000000000u

#define LV_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static inline uint64_t lv_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

typedef pthread_mutex_t *lv_guard;

static inline lv_guard lv_lock(pthread_mutex_t *mutex)
{
	(void)pthread_mutex_lock(mutex);
	return mutex;
}

static inline void lv_unlock(const lv_guard *mutex)
{
	(void)pthread_mutex_unlock(*mutex);
}

/* Held to the end of the block, whichever way that is left. */
#define LV_LOCKED(mutex)                                                       \
	__attribute__((cleanup(lv_unlock), unused)) lv_guard lv_locked =       \
	    lv_lock(mutex)

/* ---- descriptors (fd.c): one, or -errno ---- */

int lv_eventfd_new(void);
/* Wakes whoever reads the eventfd; a full counter is as good. */
void lv_eventfd_signal(int fd);
bool lv_eventfd_drain(int fd); /* whether there was anything */
int lv_fd_dup(int fd);
/* The flag belongs to the open file: every descriptor of it gets it. */
int lv_fd_unblock(int fd);
/* Has epoll say EPOLL* of fd with data. */
int lv_epoll_add(int epoll, int fd, uint32_t events, uint64_t data);
/* A new non-blocking unix socket that is bound to path or connected to it, as
 * how says; it fits an address. */
int lv_unix_open(const char *path,
		 int (*how)(int, const struct sockaddr *, socklen_t));

/* ---- guest memory (mem.c) ---- */

struct lv_mem {
	uint32_t count;
	struct lv_region region[LV_MAX_REGIONS];
};

/* Address of [gpa, gpa + len) when it lies inside one region, else NULL. */
void *lv_gpa(const struct lv_mem *mem, uint64_t gpa, uint64_t len);

/* Copies between a buffer and the readable or writable part of a chain, from
 * byte `offset` of it on; returns the bytes copied, fewer than len where it
 * ends. */
struct lv_chain;
size_t lv_chain_read(const struct lv_chain *chain, size_t offset, void *buf,
		     size_t len);
size_t lv_chain_write(const struct lv_chain *chain, size_t offset,
		      const void *buf, size_t len);
/* The part [offset, offset + len) of src as iovecs in dst (room for count);
 * returns how many. */
uint32_t lv_iov_slice(struct iovec *dst, const struct iovec *src,
		      uint32_t count, size_t offset, size_t len);

/* ---- events (event.c) ---- */

struct lv_events {
	pthread_mutex_t lock;
	int fd;
	uint32_t first, count;
	struct lv_event ring[LV_EVENTS_MAX];
};

int lv_events_init(struct lv_events *events);
void lv_events_free(struct lv_events *events);
/* Any thread. Stamps the time. */
void lv_events_post(struct lv_events *events, const struct lv_event *event);
int lv_events_take(struct lv_events *events, struct lv_event *out);

uint64_t lv_now_ns(void);

/* ---- split virtqueue (virtq.c; virtio 1.2, 2.7) ---- */

struct lv_queue {
	/* As the driver wrote them. */
	uint32_t num;
	bool ready;
	uint64_t addr[3]; /* of the three rings below */
	/* Set by lv_queue_start, NULL before. */
	const uint8_t *desc;
	uint8_t *avail;
	uint8_t *used;
	bool event_idx, indirect;
	uint16_t next_avail, next_used, signalled;
};

/* One descriptor chain, every buffer checked to be in RAM. Zero-length
 * descriptors are left out. The readable part is iov[0 .. readable). */
struct lv_chain {
	uint32_t queue; /* of its device */
	uint16_t head;
	bool misordered; /* a readable descriptor after a writable one (2.7.4.2)
			  */
	uint32_t readable, writable;
	uint64_t readable_bytes, writable_bytes;
	struct iovec iov[LV_QUEUE_MAX];
};

/* Resolves the rings. LV_FAULT_NONE or LV_FAULT_RING_ADDRESS. */
enum lv_device_fault lv_queue_start(struct lv_queue *queue,
				    const struct lv_mem *mem, bool event_idx,
				    bool indirect);
/* 1 = *chain filled, 0 = nothing waits, < 0 = -(enum lv_device_fault). */
int lv_queue_pop(struct lv_queue *queue, const struct lv_mem *mem,
		 struct lv_chain *chain);
/* Gives the chain of the last pop back, unused. */
void lv_queue_undo(struct lv_queue *queue);
void lv_queue_push(struct lv_queue *queue, uint16_t head, uint32_t len);
/* The two halves of push, for chains that must appear all at once. */
void lv_queue_fill(struct lv_queue *queue, uint16_t head, uint32_t len);
void lv_queue_publish(struct lv_queue *queue);
bool lv_queue_waits(const struct lv_queue *queue); /* a chain, to be popped */
/* Asks for a notification; true when a chain came meanwhile (pop again). */
bool lv_queue_rearm(struct lv_queue *queue);
/* Whether the driver wants an interrupt for what was pushed since the last. */
bool lv_queue_should_signal(struct lv_queue *queue);

/* ---- virtio-mmio transport (mmio.c; virtio 1.2, 4.2) ---- */

#define LV_VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define LV_VIRTIO_F_EVENT_IDX	  (1ull << 29)
#define LV_VIRTIO_F_VERSION_1	  (1ull << 32)

#define LV_STATUS_ACKNOWLEDGE	  1u
#define LV_STATUS_DRIVER	  2u
#define LV_STATUS_DRIVER_OK	  4u
#define LV_STATUS_FEATURES_OK	  8u
#define LV_STATUS_NEEDS_RESET	  64u
#define LV_STATUS_FAILED	  128u

struct lv_device;

/* What a chain came to: >= 0 = served, that many bytes were written into it. */
#define LV_LATER     (-1) /* not now: it stays in the queue, the drain ends */
#define LV_HELD	     (-2) /* taken; it is pushed by other means */
#define LV_MALFORMED (-3) /* counted, and given back unused */
typedef int64_t lv_serve(struct lv_device *device,
			 const struct lv_chain *chain);

/* A kind of device. All are called with the device's lock held. */
struct lv_device_ops {
	uint32_t id;
	uint32_t config_size; /* of its struct lv_<kind>_config */
	size_t bytes;	      /* of its own struct, which a device begins */
	uint32_t queues;      /* unless init says how many */
	uint32_t
	    space_writes;  /* where the driver sets a u32 of config; 0 = none */
	uint64_t features; /* beside the transport's and init's */
	/* Of zeros. It first of all marks what destroy closes as not open: a
	 * device whose init failed is destroyed. NULL when it does nothing. */
	int (*init)(struct lv_device *device, const void *config);
	/* Chains wait in a queue. I/O thread. NULL when draining it is all; by
	 * whom says serve, NULL = they stay. */
	void (*notify)(struct lv_device *device, uint32_t queue);
	lv_serve *serve[4];
	/* For coalesce.c: which queues may be polled, bit by bit, and how long
	 * an answer may wait for its interrupt: when nothing comes, at all. */
	struct {
		uint32_t queues, quiet_ns, hold_ns;
	} coalesces;
	uint32_t poll_events; /* EPOLL*, beside EPOLLIN */
	/* They came from poll_fd. I/O thread. */
	void (*poll)(struct lv_device *device);
	/* It is wake_ns. */
	void (*tick)(struct lv_device *device);
	/* Finish what the host works on. NULL when nothing is. Any thread. */
	void (*settle)(struct lv_device *device);
	/* The guest is gone and what it sent was served: nothing follows. JS
	 * thread, after the I/O thread. NULL when there is nothing to do. */
	void (*finish)(struct lv_device *device);
	/* The driver reset the device: forget all guest state. Any thread.
	 * NULL when there is none. */
	void (*reset)(struct lv_device *device);
	/* Frees the device itself. */
	void (*destroy)(struct lv_device *device);
};

struct lv_coalesce {
	bool enabled;	   /* by whoever calls lv_device_tick when it says */
	bool polls;	   /* some queues: no kick and no interrupt meanwhile */
	uint32_t skip;	   /* drains to do without */
	uint64_t moved;	   /* bytes, when it began to poll */
	uint64_t chain_ns; /* a queue was last served */
	uint64_t signal_ns; /* interrupts were last sent */
};

struct lv_device {
	pthread_mutex_t lock;
	struct lv_registers *regs; /* not its own */
	const struct lv_device_ops *ops;
	const struct lv_mem *mem;
	struct lv_events *events;
	uint32_t index;
	uint64_t features; /* offered */
	uint32_t queues;
	int irq_fd;
	int kick_fd[LV_QUEUES_MAX];
	int poll_fd;	  /* -1 = none */
	uint64_t wake_ns; /* call tick then, or LV_NEVER */
	uint64_t now_ns;  /* of the last tick */

	/* Registers that the driver writes. */
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint64_t driver_features;
	struct lv_queue queue[LV_QUEUES_MAX];
	bool active; /* DRIVER_OK and no fault */
	bool reported;
	struct lv_coalesce coalesce;

	struct lv_device_stats stats; /* any thread, by LV_COUNT */
};

/* Counters are u64s that stand alone: no order, and no lock to read them. */
#define LV_ADD(counter, n)                                                     \
	((void)__atomic_fetch_add(&(counter), (n), __ATOMIC_RELAXED))
#define LV_COUNT(device, field, n) LV_ADD((device)->stats.field, n)

/* Makes a device, without KVM, of its struct lv_<kind>_config and a page of
 * zeroes; *out is owned by the caller, who ends it with ops->destroy. */
int lv_device_new(const struct lv_device_ops *ops, const void *config,
		  struct lv_registers *regs, const struct lv_mem *mem,
		  struct lv_events *events, struct lv_device **out);
/* The common half of ops->destroy. */
void lv_device_free(struct lv_device *device);
/* A write of len bytes at base + offset. vCPU threads. */
void lv_mmio_write(struct lv_device *device, uint64_t offset,
		   const uint8_t *data, uint32_t len);
/* Has the I/O thread look at every queue. As ops->tick, too. */
void lv_device_kick_all(struct lv_device *device);
/* I/O thread: calls ops when the device is active; _serve has the lock. */
void lv_device_serve(struct lv_device *device, uint32_t queue);
void lv_device_kick(struct lv_device *device, uint32_t queue);
void lv_device_poll(struct lv_device *device);
/* Lets nothing touch the guest's memory any more; the lock is held after it. */
void lv_device_hold(struct lv_device *device);
/* Returns when it wants to be called again, or LV_NEVER. */
uint64_t lv_device_tick(struct lv_device *device, uint64_t now_ns);

/* For ops: calls tick then, or earlier. */
void lv_device_wake(struct lv_device *device, uint64_t at_ns);
/* For ops: pop that turns a ring fault into NEEDS_RESET; false = stop. */
bool lv_device_pop(struct lv_device *device, uint32_t queue,
		   struct lv_chain *chain);
/* Serves what waits in a queue, a budget's worth at a time, then signals. */
void lv_device_drain(struct lv_device *device, uint32_t queue, lv_serve *serve);
/* Writes a part of config and tells the driver (2.5). Lock held. */
void lv_device_configure(struct lv_device *device, uint32_t offset,
			 const void *value, uint32_t len);
/* Sends the queue's interrupt when the driver wants one. */
void lv_device_signal(struct lv_device *device, uint32_t queue);
void lv_device_fail(struct lv_device *device, enum lv_device_fault fault);
/* Fewer interrupts (coalesce.c): something was served, is the queue polled now
 * instead of rearmed? And lv_device_tick's part. */
bool lv_coalesce_poll(struct lv_device *device, uint32_t queue);
uint64_t lv_coalesce_tick(struct lv_device *device, uint64_t now_ns);
/* After this many chains of a drain the queue kicks itself and lets others go
 * first. */
#define LV_DRAIN_BUDGET 256u

/* ---- token buckets (ratelimit.c) ---- */

struct lv_bucket {
	uint64_t rate, burst; /* per second; rate 0 = no limit */
	int64_t tokens;
	uint64_t filled_ns;
};

struct lv_limiter {
	struct lv_bucket bytes, ops;
};

void lv_limiter_init(struct lv_limiter *limiter, const struct lv_limit *limit);
/* 0 = go ahead, and tell lv_limiter_spend what it was; else when to ask again.
 * One operation may overdraw: its size need not be known before. */
uint64_t lv_limiter_wait(struct lv_limiter *limiter, uint64_t now_ns);
void lv_limiter_spend(struct lv_limiter *limiter, uint64_t bytes);
/* For a device: true = wait, which was counted and wake_ns set. */
bool lv_device_throttle(struct lv_device *device, struct lv_limiter *limiter);

/* ---- the devices, each in the file of its name ---- */

extern const struct lv_device_ops lv_balloon_ops, lv_blk_ops, lv_console_ops,
    lv_net_ops, lv_rng_ops, lv_vsock_ops;
/* Any thread. */
void lv_balloon_resize(struct lv_device *device, uint32_t pages);
void lv_balloon_read(struct lv_device *device, struct lv_balloon_stats *out);

/* ---- io_uring (uring.c) ---- */

#define LV_URING_MAX 64u /* requests, queued or in flight; the owner counts */

struct lv_uring {
	int fd; /* -1 = none; readable when something is done */
	uint8_t *rings;
	size_t bytes;
	struct io_uring_sqe *sqes;
	const struct io_uring_cqe *cqes;
	_Atomic uint32_t *sq_tail, *cq_head, *cq_tail;
	uint32_t cq_mask;
	uint32_t tail, head; /* ours; what the kernel sees are the above */
	uint32_t queued, in_flight;
};

/* -errno, and fd is -1, where the kernel has none for us. */
int lv_uring_init(struct lv_uring *ring, int file);
void lv_uring_free(struct lv_uring *ring);
/* Of the file: READV or FSYNC; user_data comes back as the tag. What it points
 * to may go once it is submitted. */
void lv_uring_queue(struct lv_uring *ring, const struct io_uring_sqe *sqe);
void lv_uring_submit(struct lv_uring *ring);
/* Gives back what the kernel did not take; false = nothing (more). */
bool lv_uring_undo(struct lv_uring *ring, uint64_t *tag);
/* What is done; false = nothing (more). */
bool lv_uring_take(struct lv_uring *ring, uint64_t *tag, int32_t *result);
/* Waits until something is done, when something is in flight. */
void lv_uring_wait(const struct lv_uring *ring);

/* ---- what a guest says (output.c) ---- */

#define LV_LINE 256u

struct lv_output {
	int fd;	       /* -1 = discard */
	uint64_t left; /* UINT64_MAX = no limit */
	uint64_t dropped;
	uint32_t len;
	uint8_t line[LV_LINE];
};

/* Dups fd (-1 = discard). limit: bytes ever written to it, 0 = none. To be
 * freed also when it fails. */
int lv_output_init(struct lv_output *output, int fd, uint64_t limit);
void lv_output_free(struct lv_output *output);
/* Writes at the end of a line, or when it is too long. */
void lv_output_put(struct lv_output *output, uint8_t byte);
void lv_output_flush(struct lv_output *output);

/* ---- 16550A (serial.c) ---- */

struct lv_serial {
	pthread_mutex_t lock;
	uint16_t port;
	int irq_fd;
	bool empty; /* the transmitter is, and the driver shall hear of it */
	uint8_t divisor[2];
	uint8_t reg[8]; /* those that read as they were written */
	struct lv_output output;
};

/* Dups out_fd (-1 = discard) and opens irq_fd. */
int lv_serial_init(struct lv_serial *serial,
		   const struct lv_serial_config *config);
void lv_serial_free(struct lv_serial *serial);
uint8_t lv_serial_read(struct lv_serial *serial, uint16_t reg);
void lv_serial_write(struct lv_serial *serial, uint16_t reg, uint8_t value);
/* Writes out what waits for the end of its line. */
void lv_serial_flush(struct lv_serial *serial);

/* ---- seccomp (seccomp.c) ---- */

struct lv_filter {
	uint32_t count; /* 0 = none */
	struct sock_filter code[LV_FILTER_MAX];
};

/* The calling thread takes it on, or with SECCOMP_FILTER_FLAG_TSYNC all do. */
int lv_filter_install(const struct lv_filter *filter, unsigned int flags);

/* ---- I/O thread (io.c) ---- */

struct lv_io {
	pthread_t thread;
	bool running;
	struct lv_filter filter;
	int epoll_fd, stop_fd;
	uint32_t count;
	struct lv_device **devices;
	struct lv_events *events;
};

int lv_io_start(struct lv_io *io, struct lv_device **devices, uint32_t count,
		struct lv_events *events);
/* Lets the thread take what the guest had already queued, then joins it; after
 * lv_io_start, also when that failed. */
void lv_io_stop(struct lv_io *io);

/* ---- threads ---- */

/* pthread_create with every asynchronous signal blocked in the new thread. */
int lv_thread_start(pthread_t *thread, void *(*run)(void *), void *arg);

/* ---- the machine (vm.c, vcpu.c, board.c) ---- */

struct kvm_run;

struct lv_vcpu {
	struct lv_vm *vm;
	uint32_t id;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool started;
	struct lv_vcpu_stats stats;
};

struct lv_vm {
	int kvm_fd, fd, mem_fd;
	size_t run_bytes;
	struct lv_mem mem;
	struct lv_events events;
	uint32_t vcpu_count;
	struct lv_vcpu vcpu[LV_MAX_VCPUS];
	uint32_t device_count;
	struct lv_device *device[LV_MAX_DEVICES];
	struct lv_registers *registers; /* of LV_MAX_DEVICES */
	uint32_t gsi_used;		/* bit per GSI */
	struct lv_vm_config config;
	bool has_serial, started, stopped;
	struct lv_serial serial;
	struct lv_io io;
	struct lv_filter vcpu_filter;
	/* The gate that holds vCPU threads while the machine is paused, as it
	 * is until all of them exist; its lock also keeps kicks apart from
	 * joins.
	 */
	pthread_mutex_t gate_lock;
	pthread_cond_t gate;
	uint32_t parked;       /* vCPUs that wait for the end of the pause */
	bool paused;	       /* under gate_lock, as is parked */
	_Atomic bool stopping; /* written under gate_lock */
};

int lv_ioctl(int fd, unsigned long request, void *arg);
int lv_vcpu_start(struct lv_vcpu *vcpu);
/* Tells every vCPU to leave the guest for good. Any thread. */
void lv_vm_halt(struct lv_vm *vm);
/* The machine is over: lets its output out, halts it, posts why. vCPU threads.
 */
void lv_vm_end(struct lv_vcpu *vcpu, struct lv_event why);
/* A byte to or from a port. vCPU threads. */
void lv_board_out(struct lv_vcpu *vcpu, uint16_t port, uint8_t byte);
uint8_t lv_board_in(struct lv_vm *vm, uint16_t port);
void lv_board_mmio(struct lv_vm *vm, uint64_t gpa, uint8_t *data, uint32_t len,
		   bool write);
void lv_board_free(struct lv_vm *vm);

#endif
