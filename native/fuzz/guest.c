/* guest.c - the input, byte by byte, and the guest's memory and registers. */
#include <sys/mman.h>
#include <sys/random.h>

#include "kit.h"

/* In place of the C library's (Makefile): an input that finds something finds
 * it again, and half of a run of the rng is not the kernel's cipher. */
ssize_t __wrap_getrandom(void *into, size_t bytes, unsigned int flags)
{
	(void)flags;
	memset(into, 0xa5, bytes);
	return (ssize_t)bytes;
}

uint64_t take(struct script *script, uint32_t bytes)
{
	uint64_t value = 0;

	for (uint32_t i = 0; i < bytes && script->left > 0; i++) {
		value |= (uint64_t)*script->at++ << (8 * i);
		script->left--;
	}
	return value;
}

uint32_t take_size(struct script *script)
{
	static const uint32_t sizes[] = {
	    0,	 1,   4,   8,	 10,   11,   12,   16,	 20,	26,    44,
	    45,	 64,  100, 512,	 513,  1024, 1526, 4096, 8192,	10240, 16384,
	    512, 512, 512, 4096, 4096, 44,   256,  1514, 65535,
	};
	uint8_t which = take8(script);

	if (which < 0xf0)
		return sizes[which % (sizeof(sizes) / sizeof(sizes[0]))];
	return which < 0xfc ? (uint32_t)take(script, 2) : take32(script);
}

/* ---- memory ---- */

static uint8_t *map_region(uint64_t bytes)
{
	uint8_t *all = mmap(NULL, bytes + 2 * LV_PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("ram", MFD_CLOEXEC);

	/* A file, as a machine's RAM is: so pages can be given back. */
	MUST(all != MAP_FAILED && fd >= 0);
	MUST(ftruncate(fd, (off_t)bytes) == 0);
	MUST(mmap(all + LV_PAGE, bytes, PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
	(void)close(fd);
	return all + LV_PAGE;
}

void memory_reset(struct lv_mem *mem)
{
	static uint8_t *low, *high;

	if (low == NULL) {
		low = map_region(RAM_BYTES);
		high = map_region(HIGH_BYTES);
	}
	memset(low, 0, RAM_BYTES);
	memset(high, 0, HIGH_BYTES);
	*mem = (struct lv_mem){
	    .count = 2,
	    .region = {{0, RAM_BYTES, low}, {HIGH_GPA, HIGH_BYTES, high}},
	};
}

uint8_t *at(const struct lv_mem *mem, uint64_t gpa)
{
	uint8_t *hva = lv_gpa(mem, gpa, 1);

	MUST(hva != NULL);
	return hva;
}

void poke16(const struct lv_mem *mem, uint64_t gpa, uint16_t value)
{
	memcpy(at(mem, gpa), &value, sizeof(value));
}

uint16_t peek16(const struct lv_mem *mem, uint64_t gpa)
{
	uint16_t value;

	memcpy(&value, at(mem, gpa), sizeof(value));
	return value;
}

uint32_t peek32(const struct lv_mem *mem, uint64_t gpa)
{
	uint32_t value;

	memcpy(&value, at(mem, gpa), sizeof(value));
	return value;
}

void put_desc(const struct lv_mem *mem, uint64_t table, uint32_t index,
	      struct desc desc)
{
	memcpy(at(mem, table + 16ull * index), &desc, sizeof(desc));
}

/* ---- registers ---- */

uint32_t reg_read(struct lv_device *device, uint64_t offset)
{
	uint32_t value;

	memcpy(&value, (const uint8_t *)(device->regs) + offset, 4);
	return value;
}

void reg_write(struct lv_device *device, uint64_t offset, uint32_t value)
{
	lv_mmio_write(device, offset, (const uint8_t *)&value, 4);
}
