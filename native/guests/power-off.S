/* ACPI S5 by hand: SLP_EN | 5 << 2 to the sleep control register. */
#include "guest.h"

start:
	debug	$1
	movw	$PORT_POWER, %dx
	movb	$POWER_OFF, %al
	outb	%al, %dx
	end
