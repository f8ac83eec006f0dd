/* Writes its own address to the first word of every 2 MiB between the addresses
 * that the test left at 0x8000 and 0x8008, reads all back, and reports 1, or 2
 * when one differs. The VMM reads the words too. */
#include "guest.h"

start:
	movq	0x8008, %rcx
	movq	0x8000, %rdi
1:	cmpq	%rcx, %rdi
	jae	2f
	movq	%rdi, (%rdi)
	addq	$0x200000, %rdi
	jmp	1b
2:	movq	0x8000, %rdi
3:	cmpq	%rcx, %rdi
	jae	4f
	cmpq	%rdi, (%rdi)
	jne	wrong
	addq	$0x200000, %rdi
	jmp	3b
4:	debug	$1
	end
wrong:
	debug	$2
	end
