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
	/* With options, as Linux takes them and agent/vmm/devices.ts. */
	CHECK(lv_cmdline_has("console=hvc0,115200 quiet", "console=hvc0"));
	CHECK(lv_cmdline_has("quiet console=hvc0,115200n8", "console=hvc0"));
	CHECK(!lv_cmdline_has("console=hvc01,115200", "console=hvc0"));
	CHECK(!lv_cmdline_has("earlyconsole=hvc0,9600", "console=hvc0"));
	return init_test_failures != 0;
}
