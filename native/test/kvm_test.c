/* The whole shim with a real-mode guest on /dev/kvm; 77 when it cannot open. */
#include <fcntl.h>
#include <linux/kvm.h>

#include "lv_test.h"

#define CODE	0x1000u
#define WAIT_MS 20000

static void make(struct lv_vm **vm, uint32_t vcpus)
{
	struct lv_vm_config config = {.size = sizeof(config),
				      .vcpus = vcpus,
				      .memory_bytes = 2u << 20,
				      .low_limit = 3ull << 30,
				      .high_base = 4ull << 30,
				      .device_base = 0xc0001000,
				      .power_port = 0x600,
				      .power_off = 0x34,
				      .reset = 1,
				      .debug_port = 0xf4};

	CHECK(lv_vm_create(&config, vm) == 0);
}

static void load(struct lv_vm *vm, const uint8_t *code, size_t len)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsp = 0x800};
	struct lv_region region;

	CHECK(lv_vm_region(vm, 0, &region) == 0);
	memcpy(region.hva + CODE, code, len);
	CHECK(lv_vcpu_call(vm, 0, LV_GET_SREGS, &sregs, sizeof(sregs)) == 0);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	CHECK(lv_vcpu_call(vm, 0, LV_SET_SREGS, &sregs, sizeof(sregs)) == 0);
	CHECK(lv_vcpu_call(vm, 0, LV_SET_REGS, &regs, sizeof(regs)) == 0);
}

static struct lv_event wait_event(struct lv_vm *vm)
{
	struct pollfd poller = {.fd = lv_vm_event_fd(vm), .events = POLLIN};
	struct lv_event event;

	while (lv_vm_next_event(vm, &event) == 0) {
		CHECK(poll(&poller, 1, WAIT_MS) == 1);
		lv_eventfd_drain(poller.fd);
	}
	return event;
}

static void ports_reach_their_devices(void)
{
	static const uint8_t code[] = {
	    0xba,
	    0xf8,
	    0x03, /* mov dx, 0x3f8 */
	    0xb0,
	    'h',
	    0xee, /* mov al, 'h'; out dx, al */
	    0xb0,
	    'i',
	    0xee, /* */
	    0xbe,
	    0x40,
	    0x10, /* mov si, 0x1040 */
	    0xb9,
	    0x03,
	    0x00, /* mov cx, 3 */
	    0xf3,
	    0x6e, /* rep outsb: "abc" */
	    /* mov ax, 0x0064; out dx, ax: a byte each to 0x3f8, 0x3f9 */
	    0xb8,
	    'd',
	    0x00,
	    0xef,
	    0x66,
	    0xef, /* out dx, eax: and to 0x3fa, 0x3fb */
	    0xba,
	    0x34,
	    0x12,
	    0xec, /* mov dx, 0x1234; in al, dx */
	    0xe6,
	    0xf4, /* out 0xf4, al: 0xff */
	    0xb0,
	    0x2a,
	    0xe6,
	    0xf4, /* mov al, 42; out 0xf4, al */
	    0xba,
	    0x00,
	    0x06, /* mov dx, 0x600 */
	    0xb0,
	    0x34,
	    0xee, /* mov al, 0x34; out dx, al */
	    0xf4, /* hlt */
	    [0x40] = 'a',
	    'b',
	    'c',
	};
	struct lv_serial_config serial = {
	    .size = sizeof(serial), .port = 0x3f8, .gsi = 4};
	struct lv_event event;
	struct lv_vm *vm;
	char text[16] = {0};
	int fds[2];

	make(&vm, 1);
	CHECK(pipe(fds) == 0);
	serial.out_fd = fds[1];
	CHECK(lv_serial_add(vm, &serial) == 0);
	CHECK(lv_serial_add(vm, &serial) == -EEXIST);
	load(vm, code, sizeof(code));
	CHECK(lv_vm_start(vm) == 0);
	CHECK(lv_vm_start(vm) == -EBUSY);
	event = wait_event(vm);
	CHECK(event.kind == LV_EVENT_DEBUG && event.value == 0xff);
	event = wait_event(vm);
	CHECK(event.kind == LV_EVENT_DEBUG && event.value == 42);
	CHECK(event.time_ns <= lv_now_ns());
	event = wait_event(vm);
	CHECK(event.kind == LV_EVENT_POWER_OFF);
	/* Out before the event, though no line ended. */
	CHECK(read(fds[0], text, sizeof(text)) == 7);
	CHECK(strcmp(text, "hiabcdd") == 0);
	CHECK(lv_vm_stop(vm) == 0);
	CHECK(lv_vm_stop(vm) == 0);
	lv_vm_destroy(vm);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

static void unmapped_memory_reads_all_ones(void)
{
	static const uint8_t code[] = {
	    0xb8, 0x00, 0xf0, 0x8e, 0xd8, /* mov ax, 0xf000; mov ds, ax */
	    0x31, 0xdb,			  /* xor bx, bx */
	    0x8a, 0x07,			  /* mov al, [bx] */
	    0xe6, 0xf4,			  /* out 0xf4, al */
	    0xf4,
	};
	struct lv_vm_config config = {.size = sizeof(config),
				      .vcpus = 1,
				      .memory_bytes = 1u << 20,
				      .low_limit = 0x80000,
				      .high_base = 4ull << 30,
				      .device_base = 0x90000,
				      .debug_port = 0xf4};
	struct lv_event event;
	struct lv_vm *vm;

	CHECK(lv_vm_create(&config, &vm) == 0);
	load(vm, code, sizeof(code));
	CHECK(lv_vm_start(vm) == 0);
	event = wait_event(vm);
	CHECK(event.kind == LV_EVENT_DEBUG && event.value == 0xff);
	lv_vm_destroy(vm);
}

static void a_device_answers_and_its_queue_is_kicked_in_the_kernel(void)
{
	static const uint8_t code[] = {
	    0xb8, 0x00, 0x90, 0x8e, 0xd8, /* mov ax, 0x9000; mov ds, ax */
	    0x66, 0xa1, 0x00, 0x00,	  /* mov eax, [0]: magic */
	    0xe6, 0xf4,			  /* out 0xf4, al */
	    0x66, 0x31, 0xc0,		  /* xor eax, eax */
	    0x66, 0xa3, 0x50, 0x00,	  /* mov [0x50], eax: notify 0 */
	    0xb0, 0x07, 0xe6, 0xf4,	  /* mov al, 7; out 0xf4, al */
	    0xf4,
	};
	struct lv_vm_config config = {.size = sizeof(config),
				      .vcpus = 1,
				      .memory_bytes = 1u << 20,
				      .low_limit = 0x80000,
				      .high_base = 4ull << 30,
				      .device_base = 0x90000,
				      .debug_port = 0xf4};
	struct lv_rng_config rng = {.size = sizeof(rng), .gsi = 5};
	struct lv_device_stats stats;
	struct lv_event event;
	struct lv_vm *vm;

	CHECK(lv_vm_create(&config, &vm) == 0);
	CHECK(lv_device_add(vm, LV_DEVICE_RNG, &rng) == 0);
	CHECK(lv_device_add(vm, LV_DEVICE_RNG, &rng) == -EEXIST);
	load(vm, code, sizeof(code));
	CHECK(lv_vm_start(vm) == 0);
	event = wait_event(vm);
	CHECK(event.value == 'v');
	event = wait_event(vm);
	CHECK(event.value == 7);
	CHECK(lv_vm_stop(vm) == 0);
	CHECK(lv_device_stats(vm, 0, &stats) == 0);
	CHECK(stats.notifies >= 1);
	CHECK(stats.malformed == 0);
	lv_vm_destroy(vm);
}

static void endings(void)
{
	/* lidt with an empty table, then an interrupt: triple fault. */
	static const uint8_t triple[] = {
	    0x0f, 0x01, 0x1e, 0x20, 0x10, 0xcc, [0x20] = 0, 0, 0, 0, 0, 0};
	static const uint8_t i8042[] = {0xb0, 0x11, 0xe6, 0x64, 0xb0,
					0xfe, 0xe6, 0x64, 0xf4};
	static const struct {
		const uint8_t *code;
		size_t len;
	} cases[] = {{triple, sizeof(triple)}, {i8042, sizeof(i8042)}};

	for (size_t i = 0; i < 2; i++) {
		struct lv_event event;
		struct lv_vm *vm;

		make(&vm, 1);
		load(vm, cases[i].code, cases[i].len);
		CHECK(lv_vm_start(vm) == 0);
		event = wait_event(vm);
		/* An emulator may give up at int3 instead of faulting. */
		CHECK(event.kind == LV_EVENT_RESET ||
		      (i == 0 && event.kind == LV_EVENT_VCPU_FAILED));
		lv_vm_destroy(vm);
	}
}

static void a_spinning_guest_is_stopped(uint32_t vcpus)
{
	static const uint8_t code[] = {0xb0, 1, 0xe6, 0xf4, 0xeb, 0xfe};
	struct lv_event event;
	struct lv_vcpu_stats stats;
	struct lv_vm *vm;

	make(&vm, vcpus);
	load(vm, code, sizeof(code));
	CHECK(lv_vm_start(vm) == 0);
	event = wait_event(vm);
	CHECK(event.kind == LV_EVENT_DEBUG);
	CHECK(lv_vm_stop(vm) == 0);
	CHECK(lv_vcpu_stats(vm, 0, &stats) == 0);
	CHECK(stats.exits_pio == 1);
	CHECK(lv_vcpu_stats(vm, vcpus, &stats) == -ENOENT);
	lv_vm_destroy(vm);
}

static void debug_flood_leaves_room_for_the_end(void)
{
	static const uint8_t code[] = {
	    0xb9, 0x2c, 0x01,	    /* mov cx, 300 */
	    0xe6, 0xf4, 0xe2, 0xfc, /* out 0xf4, al; loop */
	    0xb0, 0xfe, 0xe6, 0x64, 0xf4};
	struct pollfd poller;
	struct lv_event event = {0};
	struct lv_vm *vm;
	uint32_t count = 0;

	make(&vm, 1);
	load(vm, code, sizeof(code));
	CHECK(lv_vm_start(vm) == 0);
	/* The vCPU ends by itself; nobody reads until then. */
	CHECK(pthread_join(vm->vcpu[0].thread, NULL) == 0);
	vm->vcpu[0].started = false;
	poller = (struct pollfd){.fd = lv_vm_event_fd(vm), .events = POLLIN};
	CHECK(poll(&poller, 1, 0) == 1);
	while (lv_vm_next_event(vm, &event) == 1)
		count++;
	CHECK(count == LV_EVENTS_MAX);
	CHECK(event.kind == LV_EVENT_RESET);
	lv_vm_destroy(vm);
}

static void bad_arguments_are_refused(void)
{
	struct lv_vm_config config = {.size = sizeof(config),
				      .vcpus = 1,
				      .memory_bytes = 2u << 20,
				      .low_limit = 3ull << 30,
				      .high_base = 4ull << 30,
				      .device_base = 0xc0001000};
	struct lv_vm_config bad = config;
	struct lv_vm *vm;
	uint8_t regs[144] = {0};

	bad.size--;
	CHECK(lv_vm_create(&bad, &vm) == -EINVAL);
	bad = config;
	bad.vcpus = LV_MAX_VCPUS + 1;
	CHECK(lv_vm_create(&bad, &vm) == -EINVAL);
	bad = config;
	bad.memory_bytes += 512;
	CHECK(lv_vm_create(&bad, &vm) == -EINVAL);
	bad = config;
	bad.low_limit = 0xfff00000;
	CHECK(lv_vm_create(&bad, &vm) == -EINVAL);
	bad = config;
	bad.device_base = 0x1001000; /* RAM */
	bad.memory_bytes = 32u << 20;
	CHECK(lv_vm_create(&bad, &vm) == -EEXIST);
	bad.device_base += 1;
	CHECK(lv_vm_create(&bad, &vm) == -EINVAL);
	bad = config;
	bad.power_port = 0x600; /* one value cannot mean both */
	CHECK(lv_vm_create(&bad, &vm) == -EINVAL);
	make(&vm, 1);
	CHECK(lv_vcpu_call(vm, 0, LV_GET_REGS, regs, 143) == -EINVAL);
	CHECK(lv_vcpu_call(vm, 1, LV_GET_REGS, regs, 144) == -EINVAL);
	CHECK(lv_vcpu_call(vm, 0, LV_TRANSLATE + 1, regs, 144) == -EINVAL);
	CHECK(lv_vcpu_call(vm, 0, LV_SET_MSRS, regs, 7) == -EINVAL);
	CHECK(lv_vcpu_call(vm, 0, LV_SET_MSRS, regs, 8 + 16) == -EINVAL);
	memset(regs, 0xff, 8); /* more entries than bytes */
	CHECK(lv_vcpu_call(vm, 0, LV_SET_MSRS, regs, 8 + 16) == -EINVAL);
	CHECK(lv_vm_confine(vm, LV_CONFINE_IO + 1, regs, 1) == -EINVAL);
	CHECK(lv_vm_confine(vm, LV_CONFINE_IO, regs, 0) == -EINVAL);
	CHECK(lv_vm_confine(vm, LV_CONFINE_IO, regs, LV_FILTER_MAX + 1) ==
	      -EINVAL);
	lv_vm_destroy(vm);
	lv_vm_destroy(NULL);
}

int main(void)
{
	uint32_t missing = 0;
	int error = lv_kvm_probe(&missing);

	if (error < 0) {
		(void)fprintf(stderr, "/dev/kvm: %s\n", strerror(-error));
		return 77;
	}
	bad_arguments_are_refused();
	ports_reach_their_devices();
	unmapped_memory_reads_all_ones();
	a_device_answers_and_its_queue_is_kicked_in_the_kernel();
	endings();
	debug_flood_leaves_room_for_the_end();
	a_spinning_guest_is_stopped(1);
	a_spinning_guest_is_stopped(4);
	return 0;
}
