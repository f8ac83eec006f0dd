import { expect, test } from "bun:test";
import { baselineCheck, hugepagesCheck, sharedHugePagesCheck } from "./doctor.ts";

const FLAGS =
  "fpu pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand " +
  "fsgsbase bmi1 avx2 smep bmi2 erms adx smap xsaveopt lahf_lm abm rdtscp vmx";

test("a processor is told whether machines of the baseline template can run on it", () => {
  const cpuinfo = (flags: string): string => `processor\t: 0\nflags\t\t: ${flags}\nbugs\t\t:\n`;
  expect(baselineCheck(cpuinfo(FLAGS)).state).toBe("ok");
  const old = baselineCheck(cpuinfo(FLAGS.replace(" avx2", "").replace(" adx", "")));
  expect(old).toMatchObject({ state: "note", detail: "without avx2, adx" });
  expect(baselineCheck("").detail).toMatch(/^without pni, .*, …$/);
});

test("pages of 2 MiB that are promised to somebody are not free", () => {
  const meminfo = (free: number, reserved: number): string =>
    `HugePages_Total:      64\nHugePages_Free:       ${free}\nHugePages_Rsvd:        ${reserved}\nHugepagesize:       2048 kB\n`;
  expect(hugepagesCheck(meminfo(40, 8))).toMatchObject({ state: "ok", detail: "32 of 64 free" });
  expect(hugepagesCheck(meminfo(8, 8)).state).toBe("note");
  expect(hugepagesCheck("")).toMatchObject({ state: "note", detail: "none free" });
});

test("a host that denies guests huge pages is told what it costs", () => {
  expect(sharedHugePagesCheck("always [advise] never deny")).toMatchObject({ state: "ok" });
  expect(sharedHugePagesCheck("always advise [never] deny")).toMatchObject({ state: "ok" });
  expect(sharedHugePagesCheck("always advise never [deny]")).toMatchObject({ state: "note" });
  expect(sharedHugePagesCheck("").detail).toBe("the kernel has none");
});
