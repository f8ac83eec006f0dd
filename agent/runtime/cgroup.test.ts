import { expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../lib/log.ts";
import { Cgroups } from "./cgroup.ts";

/** A directory where the mount would be: the files are what counts. */
function mount(controllers: string): string {
  const dir = mkdtempSync(join(tmpdir(), "lev-cgroup-"));
  writeFileSync(join(dir, "cgroup.controllers"), `${controllers}\n`);
  return dir;
}

test("a machine's group has the limits of the controllers that are there", () => {
  const root = mount("cpuset cpu memory");
  try {
    const groups = Cgroups.open(silentLog(), null, root);
    const dir = groups?.make({ machineId: "mch_1", cpus: 2, memoryMib: 128 }) ?? "";
    expect(dir).toBe(join(root, "leveret", "mch_1"));
    expect(readFileSync(join(dir, "cpu.max"), "utf8")).toBe("250000 100000");
    expect(readFileSync(join(dir, "memory.max"), "utf8")).toBe(String((128 + 96) * 2 ** 20));
    expect(existsSync(join(dir, "pids.max"))).toBe(false);
  } finally {
    rmSync(root, { recursive: true });
  }
});

test("a process of the pool has next to no share of the processors, and its machine a whole one", () => {
  const root = mount("cpu");
  try {
    const groups = Cgroups.open(silentLog(), null, root);
    const limits = { cpus: 1, memoryMib: 64 };
    const waiting = groups?.make({ ...limits, machineId: "pol_1" }, true) ?? "";
    expect(readFileSync(join(waiting, "cpu.weight"), "utf8")).toBe("1");
    const running = groups?.make({ ...limits, machineId: "mch_1" }) ?? "";
    expect(existsSync(join(running, "cpu.weight"))).toBe(false);
  } finally {
    rmSync(root, { recursive: true });
  }
});

test("the disk that machines are on is limited by name, where the kernel can", () => {
  const cases: [string, string | null, string | null][] = [
    ["io memory", "259:0", "259:0 rbps=1048576 wiops=100"],
    ["io memory", null, null],
    ["memory", "259:0", null],
  ];
  for (const [controllers, device, written] of cases) {
    const root = mount(controllers);
    try {
      const max = "rbps=1048576 wiops=100";
      const groups = Cgroups.open(silentLog(), { device, max }, root);
      const dir = groups?.make({ machineId: "mch_1", cpus: 1, memoryMib: 64 }) ?? "";
      const path = join(dir, "io.max");
      expect(existsSync(path) ? readFileSync(path, "utf8") : null).toBe(written);
    } finally {
      rmSync(root, { recursive: true });
    }
  }
});

test("groups that nobody is in are removed, at the end and after a crash", () => {
  const root = mount("");
  try {
    mkdirSync(join(root, "leveret", "old"), { recursive: true });
    mkdirSync(join(root, "leveret", "busy", "inside"), { recursive: true });
    const groups = Cgroups.open(silentLog(), null, root);
    expect(existsSync(join(root, "leveret", "old"))).toBe(false);
    expect(existsSync(join(root, "leveret", "busy"))).toBe(true);
    const dir = groups?.make({ machineId: "mch_2", cpus: 1, memoryMib: 64 }) ?? "";
    groups?.remove("mch_2");
    groups?.remove("mch_2");
    expect(existsSync(dir)).toBe(false);
  } finally {
    rmSync(root, { recursive: true });
  }
});

test("a host without cgroup v2 has none", () => {
  expect(Cgroups.open(silentLog(), null, "/nonexistent/cgroup")).toBeNull();
});
