/* Does what a list at 0x200000 says, so that a test writes a driver, and a wrong one,
 * as a list. An entry is u64 what, u64 address, u64 value:
 *   0 end, with 1 on the debug port     1, 2, 3 write value in 1, 4 or 8 bytes
 *   4 read 4 bytes into the entry       5 out value to a port, 1 byte; 6, 2; 7, 4
 *   8 rep outsb of value bytes of zeros 9 read until one of value's bits is set
 *   10 rep stosb of value zeros
 * The reads of 9 are bounded: 2 on the debug port says that nothing came. */
#include "guest.h"

#define LIST 0x200000
#define READS_MAX 2000000

start:
	movl	$LIST, %ebx
next:	movl	(%rbx), %eax
	movq	8(%rbx), %rdx
	movq	16(%rbx), %rcx
	cmpl	$0, %eax
	je	done
	cmpl	$1, %eax
	je	write1
	cmpl	$2, %eax
	je	write4
	cmpl	$3, %eax
	je	write8
	cmpl	$4, %eax
	je	read4
	cmpl	$5, %eax
	je	out1
	cmpl	$6, %eax
	je	out2
	cmpl	$7, %eax
	je	out4
	cmpl	$8, %eax
	je	string
	cmpl	$9, %eax
	je	await
	cmpl	$10, %eax
	je	clear
	jmp	late
step:	addq	$24, %rbx
	jmp	next

write1:	movb	%cl, (%rdx)
	jmp	step
write4:	movl	%ecx, (%rdx)
	jmp	step
write8:	movq	%rcx, (%rdx)
	jmp	step
read4:	movl	(%rdx), %eax
	movl	%eax, 16(%rbx)
	jmp	step
out1:	movb	%cl, %al
	outb	%al, %dx
	jmp	step
out2:	movw	%cx, %ax
	outw	%ax, %dx
	jmp	step
out4:	movl	%ecx, %eax
	outl	%eax, %dx
	jmp	step
string:	movl	$0x500000, %esi
	rep outsb
	jmp	step
clear:	movq	%rdx, %rdi
	xorl	%eax, %eax
	rep stosb
	jmp	step
await:	movl	$READS_MAX, %edi
1:	movl	(%rdx), %eax
	testl	%ecx, %eax
	jnz	step
	pause
	decl	%edi
	jnz	1b
late:	debug	$2
	end
done:	debug	$1
	end
