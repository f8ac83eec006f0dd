import { expect, test } from "bun:test";
import type { VmmSpec } from "../../proto/vmm.ts";
import { parseSpec } from "./spec.ts";

const good: VmmSpec = {
  version: 1,
  machineId: "mch_1",
  incarnation: 2,
  cpus: 2,
  cpuTemplate: "baseline",
  memoryMib: 128,
  hugepages: true,
  kernelPath: "/k/vmlinux",
  initrdPath: null,
  kernelArgs: "",
  disks: [
    {
      path: "/d",
      readOnly: true,
      id: "root",
      limit: { bytesRate: 5, bytesBurst: 0, opsRate: 0, opsBurst: 0 },
    },
  ],
  networks: [
    {
      kind: "passt",
      name: "/m/passt.sock",
      mac: "02:00:00:00:00:01",
      mtu: 65_520,
      address: "10.0.2.15/24",
      gateway: "10.0.2.2",
      rx: { bytesRate: 1, bytesBurst: 2, opsRate: 3, opsBurst: 4 },
      tx: { bytesRate: 0, bytesBurst: 0, opsRate: 0, opsBurst: 0 },
    },
  ],
  process: { argv: ["/bin/true"], env: ["A=b"], cwd: "/", user: "", stopSignal: 15 },
  hostname: "m",
  resolvConf: "nameserver 10.0.2.3\n",
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
    ["cpus must be a whole number from 1 to 32, not 33", { cpus: 33 }],
    ["memoryMib must be even, for pages of 2 MiB, not 129", { memoryMib: 129 }],
    ['cpuTemplate must be host or baseline, not "T2"', { cpuTemplate: "T2" }],
    ["cpus must be a whole number from 1 to 32, not 1.5", { cpus: 1.5 }],
    ["memoryMib must be a whole number", { memoryMib: 0 }],
    ['kernelPath must be an absolute path, not "k"', { kernelPath: "k" }],
    ["initrdPath must be text", { initrdPath: 7 }],
    ["kernelArgs must be printable ASCII", { kernelArgs: "a\nb" }],
    ["disks must be a list of at most 10", { disks: Array.from({ length: 11 }, () => ({})) }],
    ["networks[0].kind must be", { networks: [{ kind: "bridge" }] }],
    ["networks[0].name must be an interface's name", { networks: [{ kind: "tap", name: "a/b" }] }],
    ["networks[0].mac must be an address", { networks: [{ ...good.networks[0], mac: "02:00" }] }],
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
