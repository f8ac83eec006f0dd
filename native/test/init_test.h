/* The few words every init test is written in. */
#ifndef INIT_TEST_H
#define INIT_TEST_H

#include <stdio.h>
#include <string.h>

static int init_test_failures;

#define CHECK(condition)                                                       \
	do {                                                                   \
		if (!(condition)) {                                            \
			(void)fprintf(stderr, "%s:%d: %s\n", __FILE__,         \
				      __LINE__, #condition);                   \
			init_test_failures++;                                  \
		}                                                              \
	} while (0)

#define CHECK_TEXT(actual, expected) CHECK(strcmp((actual), (expected)) == 0)

#endif
