/*
 * serial.c - 16550A, as much of it as Linux's 8250 driver and early consoles
 * use: it sends, and nothing ever arrives. Registers are handled on the vCPU
 * thread under the serial's own lock.
 */
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

#define IER_THRI   2u
#define IIR_NONE   1u
#define IIR_THRI   2u
#define IIR_FIFO   0xc0u
#define FCR_ENABLE 1u
#define LCR_DLAB   0x80u
#define MCR_LOOP   0x10u
#define LSR_IDLE   0x60u /* THRE and TEMT: output is instant */
#define MSR_READY  0xb0u /* DCD, DSR, CTS */

int lv_serial_init(struct lv_serial *serial,
		   const struct lv_serial_config *config)
{
	int error;

	*serial = (struct lv_serial){
	    .port = config->port,
	    .divisor = {12},
	    .reg = {[REG_LCR] = 0x03, [REG_MCR] = 0x08},
	    .irq_fd = lv_eventfd_new(),
	};
	(void)pthread_mutex_init(&serial->lock, NULL);
	error =
	    lv_output_init(&serial->output, config->out_fd, config->out_limit);
	if (error == 0 && serial->irq_fd < 0)
		error = serial->irq_fd;
	if (error < 0)
		lv_serial_free(serial);
	return error;
}

void lv_serial_flush(struct lv_serial *serial)
{
	LV_LOCKED(&serial->lock);
	lv_output_flush(&serial->output);
}

void lv_serial_free(struct lv_serial *serial)
{
	lv_output_free(&serial->output);
	(void)close(serial->irq_fd);
	(void)pthread_mutex_destroy(&serial->lock);
}

static bool has(const struct lv_serial *serial, uint16_t reg, uint8_t bit)
{
	return (serial->reg[reg] & bit) != 0;
}

/* The transmitter is empty, which the driver may want to hear. */
static void raise_empty(struct lv_serial *serial)
{
	serial->empty = has(serial, REG_IER, IER_THRI);
	if (serial->empty)
		lv_eventfd_signal(serial->irq_fd);
}

/* Reading the cause takes it back. */
static uint8_t read_iir(struct lv_serial *serial)
{
	uint8_t cause = serial->empty ? IIR_THRI : IIR_NONE;

	serial->empty = false;
	return has(serial, REG_IIR_FCR, FCR_ENABLE) ? cause | IIR_FIFO : cause;
}

static uint8_t read_msr(const struct lv_serial *serial)
{
	uint8_t mcr = serial->reg[REG_MCR];

	if ((mcr & MCR_LOOP) == 0)
		return MSR_READY;
	/* DTR -> DSR, RTS -> CTS, OUT1 -> RI, OUT2 -> DCD */
	return (uint8_t)((mcr & 1u) << 5 | (mcr & 2u) << 3 | (mcr & 4u) << 4 |
			 (mcr & 8u) << 4);
}

uint8_t lv_serial_read(struct lv_serial *serial, uint16_t reg)
{
	LV_LOCKED(&serial->lock);
	if (reg <= REG_IER && has(serial, REG_LCR, LCR_DLAB))
		return serial->divisor[reg];
	switch (reg) {
	case REG_IIR_FCR:
		return read_iir(serial);
	case REG_LSR:
		return LSR_IDLE;
	case REG_MSR:
		return read_msr(serial);
	default:
		return reg <= REG_SCR ? serial->reg[reg] : 0xff;
	}
}

void lv_serial_write(struct lv_serial *serial, uint16_t reg, uint8_t value)
{
	bool asked;

	LV_LOCKED(&serial->lock);
	asked = has(serial, REG_IER, IER_THRI);
	if (reg <= REG_IER && has(serial, REG_LCR, LCR_DLAB)) {
		serial->divisor[reg] = value;
	} else if (reg == REG_DATA) {
		if (!has(serial, REG_MCR, MCR_LOOP))
			lv_output_put(&serial->output, value);
		raise_empty(serial);
	} else if (reg == REG_IER) {
		serial->reg[REG_IER] = value & 0x0f;
		/* Silicon says so when it is asked, but once. */
		if (!asked || !has(serial, REG_IER, IER_THRI))
			raise_empty(serial);
	} else if (reg == REG_MCR) {
		serial->reg[REG_MCR] = value & 0x1f;
	} else if (reg < REG_LSR || reg == REG_SCR) {
		serial->reg[reg] = value;
	}
}
