import { expect, test } from "bun:test";
import { chooseKvm, virtualizationFlag } from "./kvm.ts";
import { isAlive, nameProcess, run, startTimeOf, stopProcess, tail } from "./process.ts";

test("a /dev/kvm that opens on a CPU without VMX or SVM is no host for Debian's kernel", () => {
  const opens = { deviceError: null };
  expect(chooseKvm("", { ...opens, cpuFlag: null })).toBe("lab");
  expect(chooseKvm("", { ...opens, cpuFlag: "svm" })).toBe("direct");
  expect(chooseKvm("", { deviceError: "EACCES", cpuFlag: "vmx" })).toBe("lab");
  expect(chooseKvm("direct", { ...opens, cpuFlag: null })).toBe("direct");
  expect(() => chooseKvm("yes", { ...opens, cpuFlag: null })).toThrow("LEVERET_KVM");
});

test("the CPU's flags are words, not parts of words", () => {
  expect(virtualizationFlag("model : svm\nflags\t\t: fpu svm_lock vme\n")).toBe(null);
  expect(virtualizationFlag("flags\t\t: fpu vmx vme\n")).toBe("vmx");
});

test("a process is stopped by pid and start time, by force if need be", async () => {
  const child = Bun.spawn(["sh", "-c", 'trap "" TERM; echo up; while :; do read -r x; done'], {
    stdin: "pipe",
    stdout: "pipe",
  });
  const first = await child.stdout.getReader().read();
  expect(Buffer.from(first.value ?? []).toString()).toBe("up\n");
  const name = nameProcess(child.pid);
  expect(isAlive(name)).toBe(true);
  expect(isAlive({ ...name, startTime: name.startTime + 1 })).toBe(false);
  await stopProcess(name, 50);
  expect(isAlive(name)).toBe(false);
  expect(startTimeOf(child.pid)).toBe(null);
  await stopProcess(name, 50);
  expect(await child.exited).toBe(137);
});

test("output and code of a child; a program that is not there is TOOL_MISSING", async () => {
  const result = await run(["sh", "-c", "cat; echo err >&2; exit 3"], { input: "in" });
  expect(result).toEqual({ code: 3, stdout: "in", stderr: "err\n" });
  expect(await run(["leveret-no-such-program"]).catch(String)).toContain("not installed");
});

test("the tail of a text is its last lines", () => {
  expect(tail("a\nb\nc\n", 2)).toBe(":\n  b\n  c");
  expect(tail("")).toBe("");
});
