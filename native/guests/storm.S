/* Faults without end: each undefined instruction is handled by returning to it.
 * Says so once, with 1 on the debug port, after the first 1000. */
#include "guest.h"

#define IDT 0x300000

start:
	/* Vector 6, a 64-bit interrupt gate in the code segment of the boot tables. */
	movl	$IDT + 6 * 16, %edi
	movl	$handler, %eax
	movw	%ax, (%rdi)
	movw	$8, 2(%rdi)
	movw	$0x8e00, 4(%rdi)
	shrl	$16, %eax
	movw	%ax, 6(%rdi)
	movl	$0, 8(%rdi)
	movl	$0, 12(%rdi)
	movl	$0x400000, %esp
	lidt	table(%rip)
	movl	$1000, %ebx
	ud2

handler:
	decl	%ebx
	jnz	1f
	debug	$1
1:	iretq

	.balign	16
table:	.word	16 * 16 - 1
	.quad	IDT
