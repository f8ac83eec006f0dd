/* Three bytes to the debug port, a line to the serial port as one string
 * instruction, a byte of it the plain way, the end on the debug port. */
#include "guest.h"

start:
	debug	$1
	debug	$2
	debug	$3
	cld
	leaq	text(%rip), %rsi
	movl	$(text_end - text), %ecx
	movw	$PORT_SERIAL, %dx
	rep	outsb
	movb	$'\n', %al
	outb	%al, %dx
	debug	$42
	end

text:	.ascii	"hello from the guest"
text_end:
