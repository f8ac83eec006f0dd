#include <stdarg.h>
#include <stdio.h>

#include "init.h"

int lv_fail(struct lv_error *error, uint32_t code, const char *format, ...)
{
	va_list arguments;

	error->code = code;
	va_start(arguments, format);
	(void)vsnprintf(error->text, sizeof(error->text), format, arguments);
	va_end(arguments);
	return -1;
}
