/* Reads of ports and addresses that nobody decodes give all ones in every width,
 * writes go nowhere. Ends with 1 on the debug port, or the number of the read that
 * gave something else. */
#include "guest.h"

	.macro expect number, value, register
	movb	\number, %bl
	cmp	\value, \register
	jne	wrong
	.endm

start:
	movw	$UNMAPPED_PORT, %dx
	movl	$0x5a5a5a5a, %eax
	outb	%al, %dx
	outw	%ax, %dx
	outl	%eax, %dx
	xorl	%eax, %eax
	inb	%dx, %al
	expect	$0x11, $0xff, %al
	xorl	%eax, %eax
	inw	%dx, %ax
	expect	$0x12, $0xffff, %ax
	xorl	%eax, %eax
	inl	%dx, %eax
	expect	$0x13, $0xffffffff, %eax

	movl	$UNMAPPED_GPA, %edi
	movb	%al, (%rdi)
	movl	%eax, 4(%rdi)
	movq	%rax, 8(%rdi)
	movb	1(%rdi), %al
	expect	$0x21, $0xff, %al
	movw	2(%rdi), %ax
	expect	$0x22, $0xffff, %ax
	xorl	%eax, %eax
	movl	4(%rdi), %eax
	expect	$0x23, $0xffffffff, %eax
	xorl	%eax, %eax
	movq	8(%rdi), %rax
	expect	$0x24, $-1, %rax
	debug	$1
	end
wrong:
	debug	%bl
	end
