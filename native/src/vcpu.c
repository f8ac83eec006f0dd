/*
 * vcpu.c - vCPU threads: KVM_RUN until the machine ends.
 *
 * Leaving the guest: `stopping` is set, then kvm_run.immediate_exit, then the
 * thread gets SIGRTMIN+1 (handler without SA_RESTART). A kick that comes just
 * before KVM_RUN is not lost: immediate_exit makes it return at once, and it is
 * not cleared before the thread is known to wait, or not at all.
 *
 * A pause takes the same way out. KVM completes a pending port or MMIO access
 * before it heeds immediate_exit, so a vCPU parks only after that EINTR: then
 * all of its state is in its registers. Devices are paused by their locks,
 * which the pausing thread keeps.
 *
 * Whatever ends the machine (power off, reset, triple fault, failure) posts one
 * event and stops all vCPUs; the I/O thread goes on until lv_vm_stop.
 */
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "lv.h"

#define KICK_SIGNAL (SIGRTMIN + 1)

static void on_kick(int number)
{
	(void)number; /* its only work is to interrupt KVM_RUN */
}

/* gate_lock held. Never once threads may be gone. */
static void kick_all(struct lv_vm *vm)
{
	for (uint32_t i = 0; i < vm->vcpu_count; i++) {
		struct lv_vcpu *vcpu = &vm->vcpu[i];

		__atomic_store_n(&vcpu->run->immediate_exit, 1,
				 __ATOMIC_SEQ_CST);
		if (vcpu->started)
			(void)pthread_kill(vcpu->thread, KICK_SIGNAL);
	}
}

void lv_vm_halt(struct lv_vm *vm)
{
	LV_LOCKED(&vm->gate_lock);
	/* Pairs with the load in run(): a vCPU that misses immediate_exit sees
	 * stopping before it enters the guest again. */
	if (!atomic_exchange(&vm->stopping, true))
		kick_all(vm);
	(void)pthread_cond_broadcast(&vm->gate);
}

/* A vCPU that KVM let out: stays here while the machine is paused. */
static void park(struct lv_vm *vm)
{
	LV_LOCKED(&vm->gate_lock);
	vm->parked++;
	if (vm->paused)
		(void)pthread_cond_broadcast(&vm->gate);
	while (vm->paused && !vm->stopping)
		(void)pthread_cond_wait(&vm->gate, &vm->gate_lock);
	vm->parked--;
}

int lv_vm_pause(struct lv_vm *vm)
{
	if (!vm->started || vm->stopped || vm->paused)
		return -EBUSY;
	(void)pthread_mutex_lock(&vm->gate_lock);
	vm->paused = true;
	if (!vm->stopping)
		kick_all(vm);
	while (vm->parked < vm->vcpu_count && !vm->stopping)
		(void)pthread_cond_wait(&vm->gate, &vm->gate_lock);
	vm->paused = !vm->stopping; /* or it ended meanwhile */
	(void)pthread_mutex_unlock(&vm->gate_lock);
	if (!vm->paused)
		return -EBUSY;
	for (uint32_t i = 0; i < vm->device_count; i++)
		lv_device_hold(vm->device[i]);
	return 0;
}

int lv_vm_resume(struct lv_vm *vm)
{
	if (!vm->paused)
		return -EBUSY;
	for (uint32_t i = 0; i < vm->device_count; i++)
		(void)pthread_mutex_unlock(&vm->device[i]->lock);
	LV_LOCKED(&vm->gate_lock);
	vm->paused = false;
	for (uint32_t i = 0; i < vm->vcpu_count && !vm->stopping; i++) {
		/* Or the guest takes the pause for a hang of its CPU. */
		(void)ioctl(vm->vcpu[i].fd, KVM_KVMCLOCK_CTRL, 0);
		__atomic_store_n(&vm->vcpu[i].run->immediate_exit, 0,
				 __ATOMIC_SEQ_CST);
	}
	(void)pthread_cond_broadcast(&vm->gate);
	return 0;
}

void lv_vm_end(struct lv_vcpu *vcpu, struct lv_event why)
{
	struct lv_vm *vm = vcpu->vm;

	why.vcpu = vcpu->id;
	if (vm->has_serial)
		lv_serial_flush(&vm->serial);
	/* First, so that whoever reads the event may have the vCPU's state. */
	lv_vm_halt(vm);
	lv_events_post(&vm->events, &why);
}

static void fail(struct lv_vcpu *vcpu, int error)
{
	lv_vm_end(vcpu, (struct lv_event){.kind = LV_EVENT_VCPU_FAILED,
					  .error = error});
}

/* `rep ins` and `rep outs` come as one exit with count > 1. The bus splits
 * wider accesses into bytes at port, port + 1… */
static void handle_pio(struct lv_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint32_t bytes = run->io.count * run->io.size;

	for (uint32_t i = 0; i < bytes; i++) {
		uint16_t port = (uint16_t)(run->io.port + i % run->io.size);

		if (run->io.direction == KVM_EXIT_IO_OUT)
			lv_board_out(vcpu, port, data[i]);
		else
			data[i] = lv_board_in(vcpu->vm, port);
	}
}

static void handle_other(struct lv_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct lv_event event = {
	    .kind = LV_EVENT_VCPU_FAILED,
	    .detail = run->exit_reason,
	};

	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN: /* triple fault */
		event.kind = LV_EVENT_RESET;
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		event.value = run->system_event.type;
		if (event.value == KVM_SYSTEM_EVENT_SHUTDOWN)
			event.kind = LV_EVENT_POWER_OFF;
		else if (event.value == KVM_SYSTEM_EVENT_RESET)
			event.kind = LV_EVENT_RESET;
		break;
	case KVM_EXIT_FAIL_ENTRY:
	case KVM_EXIT_UNKNOWN: /* which has it in the same place */
		event.value = run->fail_entry.hardware_entry_failure_reason;
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		event.value = run->internal.suberror;
		break;
	}
	lv_vm_end(vcpu, event);
}

static void handle_exit(struct lv_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		LV_ADD(vcpu->stats.exits_pio, 1);
		handle_pio(vcpu);
		return;
	case KVM_EXIT_MMIO:
		LV_ADD(vcpu->stats.exits_mmio, 1);
		lv_board_mmio(vcpu->vm, run->mmio.phys_addr, run->mmio.data,
			      run->mmio.len, run->mmio.is_write != 0);
		return;
	case KVM_EXIT_INTR:
		LV_ADD(vcpu->stats.exits_intr, 1);
		return;
	default:
		LV_ADD(vcpu->stats.exits_other, 1);
		handle_other(vcpu);
	}
}

static void *run(void *arg)
{
	struct lv_vcpu *vcpu = arg;
	struct lv_vm *vm = vcpu->vm;
	sigset_t kick;
	int error;

	(void)sigemptyset(&kick);
	(void)sigaddset(&kick, KICK_SIGNAL);
	(void)pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	park(vm); /* until all of them exist */
	error = lv_filter_install(&vm->vcpu_filter, 0);
	if (error < 0)
		fail(vcpu, -error);
	while (!vm->stopping) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
			handle_exit(vcpu);
		} else if (errno == EINTR) {
			LV_ADD(vcpu->stats.exits_intr, 1);
			park(vm);
		} else if (errno == EAGAIN) {
			/* A halted AP was woken without a SIPI. */
			(void)sched_yield();
		} else {
			fail(vcpu, errno);
		}
	}
	return NULL;
}

int lv_vcpu_start(struct lv_vcpu *vcpu)
{
	struct sigaction action = {.sa_handler = on_kick};
	int error;

	(void)sigemptyset(&action.sa_mask);
	if (sigaction(KICK_SIGNAL, &action, NULL) < 0)
		return -errno;
	error = lv_thread_start(&vcpu->thread, run, vcpu);
	if (error == 0)
		vcpu->started = true;
	return error;
}
