/*
 * mem.c - the only way from a guest-physical address to a pointer.
 */
#include <string.h>

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
		size_t part = src[i].iov_len;

		if (offset >= part) {
			offset -= part;
			continue;
		}
		part -= offset;
		if (part > len)
			part = len;
		dst[used].iov_base = (uint8_t *)src[i].iov_base + offset;
		dst[used].iov_len = part;
		used++;
		len -= part;
		offset = 0;
	}
	return used;
}

size_t lv_iov_read(const struct iovec *iov, uint32_t count, size_t offset,
		   void *buf, size_t len)
{
	size_t done = 0;

	for (uint32_t i = 0; i < count && done < len; i++) {
		size_t part = iov[i].iov_len;

		if (offset >= part) {
			offset -= part;
			continue;
		}
		part -= offset;
		if (part > len - done)
			part = len - done;
		memcpy((uint8_t *)buf + done,
		       (const uint8_t *)iov[i].iov_base + offset, part);
		done += part;
		offset = 0;
	}
	return done;
}

size_t lv_iov_write(const struct iovec *iov, uint32_t count, size_t offset,
		    const void *buf, size_t len)
{
	size_t done = 0;

	for (uint32_t i = 0; i < count && done < len; i++) {
		size_t part = iov[i].iov_len;

		if (offset >= part) {
			offset -= part;
			continue;
		}
		part -= offset;
		if (part > len - done)
			part = len - done;
		memcpy((uint8_t *)iov[i].iov_base + offset,
		       (const uint8_t *)buf + done, part);
		done += part;
		offset = 0;
	}
	return done;
}
