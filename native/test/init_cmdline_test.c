/* Words of the kernel command line. */
#include "../init/cmdline.c"
#include "init_test.h"

int main(void)
{
	CHECK(lv_cmdline_has("quiet leveret.hello reboot=a", "leveret.hello"));
	CHECK(lv_cmdline_has("leveret.hello", "leveret.hello"));
	CHECK(lv_cmdline_has("quiet leveret.hello\n", "leveret.hello"));
	CHECK(!lv_cmdline_has("quiet leveret.hellos", "leveret.hello"));
	CHECK(!lv_cmdline_has("xleveret.hello", "leveret.hello"));
	CHECK(lv_cmdline_has("leveret.hellox leveret.hello", "leveret.hello"));
	CHECK(!lv_cmdline_has("", "leveret.hello"));
	return init_test_failures != 0;
}
