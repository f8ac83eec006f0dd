/*
 * uring.c - one io_uring for one file, by system calls.
 *
 * The ring can do less than a thread that is under a filter: it reads and syncs
 * that file and nothing else, for whoever gets to write into it (restrictions,
 * set before it is enabled, and a fixed file). It must be made before
 * io_uring_setup is given up; after that io_uring_enter is all it needs.
 *
 * Under the owner's lock any thread may take what is done; only one submits.
 */
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lv.h"

static int restrict_to(int ring, int file)
{
	struct io_uring_restriction allowed[] = {
	    {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
	    {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC},
	    {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED,
	     .sqe_flags = IOSQE_FIXED_FILE},
	};

	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &file,
		    1) < 0 ||
	    syscall(SYS_io_uring_register, ring, IORING_REGISTER_RESTRICTIONS,
		    allowed, LV_LENGTH(allowed)) < 0 ||
	    syscall(SYS_io_uring_register, ring, IORING_REGISTER_ENABLE_RINGS,
		    NULL, 0) < 0)
		return -errno;
	return 0;
}

static void *map(int fd, size_t bytes, uint64_t what)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_POPULATE, fd, (off_t)what);

	return at == MAP_FAILED ? NULL : at;
}

int lv_uring_init(struct lv_uring *ring, int file)
{
	struct io_uring_params params = {.flags = IORING_SETUP_R_DISABLED};
	size_t sq_end;
	int error;

	memset(ring, 0, sizeof(*ring));
	ring->fd = (int)syscall(SYS_io_uring_setup, LV_URING_MAX, &params);
	if (ring->fd < 0)
		return -errno;
	/* Both rings are in one mapping since 5.4; the completions end it. */
	ring->bytes = params.cq_off.cqes +
		      params.cq_entries * sizeof(struct io_uring_cqe);
	sq_end = params.sq_off.array + LV_URING_MAX * sizeof(uint32_t);
	ring->bytes = sq_end > ring->bytes ? sq_end : ring->bytes;
	ring->rings = map(ring->fd, ring->bytes, IORING_OFF_SQ_RING);
	ring->sqes =
	    map(ring->fd, LV_URING_MAX * sizeof(*ring->sqes), IORING_OFF_SQES);
	error = ring->rings == NULL || ring->sqes == NULL
		    ? -ENOMEM
		    : restrict_to(ring->fd, file);
	if (error < 0) {
		lv_uring_free(ring);
		return error;
	}
	ring->sq_tail = (void *)(ring->rings + params.sq_off.tail);
	ring->cq_head = (void *)(ring->rings + params.cq_off.head);
	ring->cq_tail = (void *)(ring->rings + params.cq_off.tail);
	ring->cqes = (void *)(ring->rings + params.cq_off.cqes);
	ring->cq_mask = params.cq_entries - 1;
	for (uint32_t i = 0; i < LV_URING_MAX; i++)
		((uint32_t *)(void *)(ring->rings + params.sq_off.array))[i] =
		    i;
	return 0;
}

void lv_uring_free(struct lv_uring *ring)
{
	if (ring->fd < 0)
		return;
	if (ring->rings != NULL)
		(void)munmap(ring->rings, ring->bytes);
	if (ring->sqes != NULL)
		(void)munmap(ring->sqes, LV_URING_MAX * sizeof(*ring->sqes));
	(void)close(ring->fd);
	ring->fd = -1;
}

void lv_uring_queue(struct lv_uring *ring, const struct io_uring_sqe *sqe)
{
	struct io_uring_sqe *slot = &ring->sqes[ring->tail++ % LV_URING_MAX];

	*slot = *sqe;
	slot->fd = 0; /* the one fixed file */
	slot->flags = IOSQE_FIXED_FILE;
	ring->queued++;
}

void lv_uring_submit(struct lv_uring *ring)
{
	/* Pairs with the kernel's acquire when it is entered, and only then. */
	atomic_store_explicit(ring->sq_tail, ring->tail, memory_order_release);
	while (ring->queued > 0) {
		long taken = TEMP_FAILURE_RETRY(syscall(
		    SYS_io_uring_enter, ring->fd, ring->queued, 0, 0, NULL, 0));

		if (taken <= 0)
			return;
		ring->queued -= (uint32_t)taken;
		ring->in_flight += (uint32_t)taken;
	}
}

bool lv_uring_undo(struct lv_uring *ring, uint64_t *tag)
{
	if (ring->queued == 0)
		return false;
	/* The kernel hears of it with the next submit, before it looks. */
	*tag = ring->sqes[--ring->tail % LV_URING_MAX].user_data;
	ring->queued--;
	return true;
}

bool lv_uring_take(struct lv_uring *ring, uint64_t *tag, int32_t *result)
{
	const struct io_uring_cqe *cqe =
	    &ring->cqes[ring->head & ring->cq_mask];

	/* Pairs with the kernel's release: the entry is whole, and so is what
	 * was read into the guest. */
	if (ring->head ==
	    atomic_load_explicit(ring->cq_tail, memory_order_acquire))
		return false;
	*tag = cqe->user_data;
	*result = cqe->res;
	/* Pairs with the kernel's acquire: the entry may be used again. */
	atomic_store_explicit(ring->cq_head, ++ring->head,
			      memory_order_release);
	ring->in_flight--;
	return true;
}

void lv_uring_wait(const struct lv_uring *ring)
{
	struct pollfd poller = {.fd = ring->fd, .events = POLLIN};

	/* Cut short by a signal, the caller looks and comes again. */
	if (ring->in_flight > 0)
		(void)poll(&poller, 1, -1);
}
