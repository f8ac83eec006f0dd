/* An exception without an interrupt table is a triple fault. */
#include "guest.h"

start:
	debug	$1
	lidt	nothing(%rip)
	ud2
	debug	$2
	end

nothing:
	.word	0
	.quad	0
