/* Ports of the test machine; tests/vm/direct.test.ts has the same numbers. */
#define PORT_DEBUG 0xf4
#define PORT_SERIAL 0x3f8
#define PORT_POWER 0x600
#define POWER_OFF 0x34

/* RAM of the test machine ends below both. */
#define UNMAPPED_GPA 0x20000000
#define UNMAPPED_PORT 0x1234

	.code64
	.text
	.globl start

/* One byte to the debug port; clobbers rax. */
	.macro debug value
	movb	\value, %al
	outb	%al, $PORT_DEBUG
	.endm

/* Nothing wakes a guest with interrupts off. */
	.macro end
9:	hlt
	jmp	9b
	.endm
