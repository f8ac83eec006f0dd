#include <string.h>

#include "init.h"

static bool separator(char c)
{
	return c == '\0' || c == ' ' || c == '\t' || c == '\n';
}

bool lv_cmdline_has(const char *cmdline, const char *word)
{
	size_t length = strlen(word);
	const char *at = cmdline;

	while ((at = strstr(at, word)) != NULL) {
		if ((at == cmdline || separator(at[-1])) &&
		    (separator(at[length]) || at[length] == ','))
			return true;
		at += length;
	}
	return false;
}
