/*
 * mem.c - the only way from a guest-physical address to a pointer.
 */
#include "lv.h"

void *lv_gpa(const struct lv_mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t end;

	if (__builtin_add_overflow(gpa, len, &end))
		return NULL;
	for (uint32_t i = 0; i < mem->count; i++) {
		uint64_t base = mem->region[i].gpa;

		if (gpa >= base && gpa - base < mem->region[i].len &&
		    end - base <= mem->region[i].len)
			return mem->region[i].hva + (gpa - base);
	}
	return NULL;
}

uint32_t lv_iov_slice(struct iovec *dst, const struct iovec *src,
		      uint32_t count, size_t offset, size_t len)
{
	uint32_t used = 0;

	for (uint32_t i = 0; i < count && len > 0; i++) {
		size_t skip = lv_min(offset, src[i].iov_len);
		size_t part = lv_min(src[i].iov_len - skip, len);

		offset -= skip;
		if (part == 0)
			continue;
		dst[used].iov_base = (uint8_t *)src[i].iov_base + skip;
		dst[used++].iov_len = part;
		len -= part;
	}
	return used;
}

/* Copies len bytes at `offset` of the iovecs to or from buf. */
static size_t copy(const struct iovec *iov, uint32_t count, size_t offset,
		   uint8_t *buf, size_t len, bool write)
{
	size_t done = 0;

	for (uint32_t i = 0; i < count && done < len; i++) {
		size_t skip = lv_min(offset, iov[i].iov_len);
		size_t part = lv_min(iov[i].iov_len - skip, len - done);
		uint8_t *at = (uint8_t *)iov[i].iov_base + skip;

		offset -= skip;
		if (write)
			memcpy(at, buf + done, part);
		else
			memcpy(buf + done, at, part);
		done += part;
	}
	return done;
}

size_t lv_chain_read(const struct lv_chain *chain, size_t offset, void *buf,
		     size_t len)
{
	return copy(chain->iov, chain->readable, offset, buf, len, false);
}

size_t lv_chain_write(const struct lv_chain *chain, size_t offset,
		      const void *buf, size_t len)
{
	/* Not written to: the cast is for the sake of one loop. */
	return copy(chain->iov + chain->readable, chain->writable, offset,
		    (uint8_t *)(uintptr_t)buf, len, true);
}
