/*
 * serial.c - 16550A, as much of it as Linux's 8250 driver and early consoles
 * use. Registers are handled on the vCPU thread under the serial's own lock.
 *
 * Output is gathered until the end of a line and written non-blocking; what
 * does not fit, or passes the limit, is dropped and counted: a guest can fill
 * neither the host's disk nor its patience.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lv.h"

enum {
	REG_DATA = 0, /* divisor low when DLAB */
	REG_IER = 1,  /* divisor high when DLAB */
	REG_IIR_FCR = 2,
	REG_LCR = 3,
	REG_MCR = 4,
	REG_LSR = 5,
	REG_MSR = 6,
	REG_SCR = 7,
};

#define IER_RDI		1u
#define IER_THRI	2u
#define IIR_NONE	1u
#define IIR_THRI	2u
#define IIR_RDI		4u
#define IIR_FIFO	0xc0u
#define FCR_ENABLE	1u
#define FCR_CLEAR_INPUT 2u
#define LCR_DLAB	0x80u
#define MCR_LOOP	0x10u
#define LSR_DATA	1u
#define LSR_IDLE	0x60u /* THRE and TEMT: output is instant */
#define MSR_READY	0xb0u /* DCD, DSR, CTS */

int lv_serial_init(struct lv_serial *serial,
		   const struct lv_serial_config *config)
{
	struct stat info;
	int error;

	memset(serial, 0, sizeof(*serial));
	serial->port = config->port;
	serial->out_left =
	    config->out_limit == 0 ? UINT64_MAX : config->out_limit;
	serial->mcr = 0x08;
	serial->lcr = 0x03;
	serial->lsr = LSR_IDLE;
	serial->divisor = 0x000c;
	serial->out_fd = -1;
	if (config->out_fd >= 0) {
		serial->out_fd = fcntl(config->out_fd, F_DUPFD_CLOEXEC, 3);
		if (serial->out_fd < 0)
			return -errno;
		if (fstat(serial->out_fd, &info) < 0) {
			error = errno;
			goto fail;
		}
		/* A full pipe must not stop the guest. The flag belongs to the
		 * open file, so the caller's descriptor gets it too. */
		if (!S_ISREG(info.st_mode) &&
		    fcntl(serial->out_fd, F_SETFL,
			  fcntl(serial->out_fd, F_GETFL) | O_NONBLOCK) < 0) {
			error = errno;
			goto fail;
		}
	}
	serial->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (serial->irq_fd < 0) {
		error = errno;
		goto fail;
	}
	error = pthread_mutex_init(&serial->lock, NULL);
	if (error == 0)
		return 0;
	(void)close(serial->irq_fd);
fail:
	if (serial->out_fd >= 0)
		(void)close(serial->out_fd);
	return -error;
}

static void flush_line(struct lv_serial *serial)
{
	uint32_t at = 0;
	uint32_t end = serial->line_len;

	if (end > serial->out_left)
		end = (uint32_t)serial->out_left;
	while (serial->out_fd >= 0 && at < end) {
		ssize_t done =
		    write(serial->out_fd, serial->line + at, end - at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			break;
		at += (uint32_t)done;
		if (serial->out_left != UINT64_MAX)
			serial->out_left -= (uint64_t)done;
	}
	serial->dropped += serial->line_len - at;
	serial->line_len = 0;
}

void lv_serial_flush(struct lv_serial *serial)
{
	(void)pthread_mutex_lock(&serial->lock);
	flush_line(serial);
	(void)pthread_mutex_unlock(&serial->lock);
}

void lv_serial_free(struct lv_serial *serial)
{
	lv_serial_flush(serial);
	if (serial->out_fd >= 0)
		(void)close(serial->out_fd);
	(void)close(serial->irq_fd);
	(void)pthread_mutex_destroy(&serial->lock);
}

static void raise_irq(struct lv_serial *serial, uint8_t cause)
{
	serial->pending |= cause;
	lv_eventfd_signal(serial->irq_fd);
}

static void push_input(struct lv_serial *serial, uint8_t value)
{
	uint32_t at;

	if (serial->fifo_count == LV_SERIAL_FIFO) {
		serial->dropped++;
		return;
	}
	at = (serial->fifo_first + serial->fifo_count) % LV_SERIAL_FIFO;
	serial->fifo[at] = value;
	serial->fifo_count++;
	serial->lsr |= LSR_DATA;
	if ((serial->ier & IER_RDI) != 0)
		raise_irq(serial, IIR_RDI);
}

static uint8_t pop_input(struct lv_serial *serial)
{
	uint8_t value = 0;

	if (serial->fifo_count > 0) {
		value = serial->fifo[serial->fifo_first];
		serial->fifo_first = (serial->fifo_first + 1) % LV_SERIAL_FIFO;
		serial->fifo_count--;
	}
	if (serial->fifo_count == 0) {
		serial->lsr &= (uint8_t)~LSR_DATA;
		serial->pending &= (uint8_t)~IIR_RDI;
	}
	return value;
}

static void write_data(struct lv_serial *serial, uint8_t value)
{
	if ((serial->mcr & MCR_LOOP) != 0) {
		push_input(serial, value);
	} else {
		serial->line[serial->line_len++] = value;
		if (value == '\n' || serial->line_len == LV_SERIAL_LINE)
			flush_line(serial);
	}
	/* The byte has left at once, so the register is empty again. */
	if ((serial->ier & IER_THRI) != 0)
		raise_irq(serial, IIR_THRI);
}

static void write_ier(struct lv_serial *serial, uint8_t value)
{
	uint8_t old = serial->ier;

	serial->ier = value & 0x0f;
	if ((serial->ier & IER_THRI) == 0)
		serial->pending &= (uint8_t)~IIR_THRI;
	else if ((old & IER_THRI) == 0)
		raise_irq(serial, IIR_THRI);
	if ((serial->ier & IER_RDI) == 0)
		serial->pending &= (uint8_t)~IIR_RDI;
	else if ((old & IER_RDI) == 0 && serial->fifo_count > 0)
		raise_irq(serial, IIR_RDI);
}

static uint8_t read_iir(struct lv_serial *serial)
{
	uint8_t cause = IIR_NONE;

	if ((serial->pending & IIR_RDI) != 0) {
		cause = IIR_RDI;
	} else if ((serial->pending & IIR_THRI) != 0) {
		cause = IIR_THRI;
		serial->pending &= (uint8_t)~IIR_THRI;
	}
	return (serial->fcr & FCR_ENABLE) != 0 ? cause | IIR_FIFO : cause;
}

static uint8_t read_msr(const struct lv_serial *serial)
{
	uint8_t mcr = serial->mcr;

	if ((mcr & MCR_LOOP) == 0)
		return MSR_READY;
	/* DTR -> DSR, RTS -> CTS, OUT1 -> RI, OUT2 -> DCD */
	return (uint8_t)((mcr & 1u) << 5 | (mcr & 2u) << 3 | (mcr & 4u) << 4 |
			 (mcr & 8u) << 4);
}

uint8_t lv_serial_read(struct lv_serial *serial, uint16_t reg)
{
	bool dlab;
	uint8_t value = 0xff;

	(void)pthread_mutex_lock(&serial->lock);
	dlab = (serial->lcr & LCR_DLAB) != 0;
	switch (reg) {
	case REG_DATA:
		value = dlab ? (uint8_t)serial->divisor : pop_input(serial);
		break;
	case REG_IER:
		value = dlab ? (uint8_t)(serial->divisor >> 8) : serial->ier;
		break;
	case REG_IIR_FCR:
		value = read_iir(serial);
		break;
	case REG_LCR:
		value = serial->lcr;
		break;
	case REG_MCR:
		value = serial->mcr;
		break;
	case REG_LSR:
		value = serial->lsr;
		break;
	case REG_MSR:
		value = read_msr(serial);
		break;
	case REG_SCR:
		value = serial->scr;
		break;
	default:
		break;
	}
	(void)pthread_mutex_unlock(&serial->lock);
	return value;
}

static void write_fcr(struct lv_serial *serial, uint8_t value)
{
	serial->fcr = value;
	if ((value & FCR_CLEAR_INPUT) != 0) {
		serial->fifo_count = 0;
		serial->lsr &= (uint8_t)~LSR_DATA;
		serial->pending &= (uint8_t)~IIR_RDI;
	}
}

void lv_serial_write(struct lv_serial *serial, uint16_t reg, uint8_t value)
{
	bool dlab;

	(void)pthread_mutex_lock(&serial->lock);
	dlab = (serial->lcr & LCR_DLAB) != 0;
	switch (reg) {
	case REG_DATA:
		if (dlab)
			serial->divisor =
			    (uint16_t)((serial->divisor & 0xff00u) | value);
		else
			write_data(serial, value);
		break;
	case REG_IER:
		if (dlab)
			serial->divisor = (uint16_t)((serial->divisor & 0xffu) |
						     (unsigned)value << 8);
		else
			write_ier(serial, value);
		break;
	case REG_IIR_FCR:
		write_fcr(serial, value);
		break;
	case REG_LCR:
		serial->lcr = value;
		break;
	case REG_MCR:
		serial->mcr = value & 0x1f;
		break;
	case REG_SCR:
		serial->scr = value;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
	(void)pthread_mutex_unlock(&serial->lock);
}
