import { expect, test } from "bun:test";
import type { VmmSpec } from "../../proto/vmm.ts";
import { parseSpec } from "./spec.ts";

const good: VmmSpec = {
  version: 1,
  machineId: "mch_1",
  incarnation: 2,
  cpus: 2,
  memoryMib: 128,
  kernelPath: "/k/vmlinux",
  initrdPath: null,
  kernelArgs: "",
  disks: [{ path: "/d", readOnly: true, id: "root" }],
  process: { argv: ["/bin/true"], env: ["A=b"], cwd: "/", user: "", stopSignal: 15 },
  hostname: "m",
  outputLimitBytes: 1 << 20,
  initTimeoutMs: 1000,
};

test("a good spec comes back as it is", () => {
  expect(parseSpec(JSON.stringify(good))).toEqual(good);
  const initrdPath = "/k/initrd";
  expect(parseSpec(JSON.stringify({ ...good, initrdPath, later: 1 })).initrdPath).toBe(initrdPath);
});

test("each wrong field is named with what was found", () => {
  const cases: [string, object][] = [
    ["version must be 1, not 2", { version: 2 }],
    ["cpus must be a whole number from 1 to 8, not 9", { cpus: 9 }],
    ["cpus must be a whole number from 1 to 8, not 1.5", { cpus: 1.5 }],
    ["memoryMib must be a whole number", { memoryMib: 0 }],
    ['kernelPath must be an absolute path, not "k"', { kernelPath: "k" }],
    ["initrdPath must be text", { initrdPath: 7 }],
    ["kernelArgs must be printable ASCII", { kernelArgs: "a\nb" }],
    ["disks must be a list of at most 14", { disks: Array.from({ length: 15 }, () => ({})) }],
    ["disks[0].readOnly must be true or false", { disks: [{ path: "/d", readOnly: 1, id: "" }] }],
    [
      "disks[0].id must be text of at most 20",
      { disks: [{ path: "/d", readOnly: true, id: "x".repeat(21) }] },
    ],
    ["process must be an object, not null", { process: null }],
    [
      "process.argv must be a list with the program first",
      { process: { ...good.process, argv: [] } },
    ],
    ["process.env[0] must be text", { process: { ...good.process, env: ["A=\0"] } }],
    [
      "process.stopSignal must be a whole number from 1 to 64",
      { process: { ...good.process, stopSignal: 0 } },
    ],
    ["outputLimitBytes must be", { outputLimitBytes: 1 }],
  ];
  for (const [message, change] of cases)
    expect(() => parseSpec(JSON.stringify({ ...good, ...change }))).toThrow(message);
});

test("what is no spec at all is refused", () => {
  for (const text of ["", "[]", "null", "7", "{"])
    expect(() => parseSpec(text)).toThrow(/spec\.json/);
});
