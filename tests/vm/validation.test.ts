/**
 * What a guest may do wrong, done by a guest on /dev/kvm: each ends in a named failure of
 * that one device, a count, or nothing; the machine goes on as far as its guest lets it,
 * and a reset makes the device as good as new. docs/guest-validation.md lists all items
 * and the tests over plain memory beside these.
 */
import { expect, test } from "bun:test";
import { deviceFault } from "../../agent/vmm/device-fault.ts";
import { DEVICE_FAULT } from "../../native/abi.gen.ts";
import type { DeviceStats, Vm } from "../../native/ffi.ts";
import { kinds, type Outcome, runGuest, SERIAL_LIMIT_BYTES, whyNoKvm } from "./bare-guest.ts";
import {
  AVAIL,
  awaitBits,
  clear,
  DATA,
  DESC,
  describe,
  DEVICE,
  type Entry,
  failed,
  INDIRECT,
  INDIRECT_DESC,
  negotiate,
  NEXT,
  notify,
  offer,
  out,
  outString,
  read32,
  readBack,
  register,
  rightUse,
  type Rings,
  setRings,
  start,
  status,
  USED,
  WRITE,
  write32,
  write64,
  write8,
  writeList,
} from "./bare-driver.ts";

const reason = whyNoKvm();
if (reason !== "") process.stderr.write(`tests/vm/validation: skipped: ${reason}\n`);
const kvmTest = test.skipIf(reason !== "");

const RAM_END = 16n << 20n;

function run(list: readonly Entry[], inspect: (outcome: Outcome) => void): Promise<void> {
  return runGuest(
    "script",
    {
      last: 1,
      prepare: (memory) => writeList(memory, list),
      // Not where machines have it: the guest's page tables are of the first GiB.
      deviceBase: DEVICE,
      equip: (vm: Vm) => vm.addRng({ gsi: 5 }),
    },
    inspect,
  );
}

/** The list ends in `fault` of the device; after a reset it serves again. */
async function breaks(list: readonly Entry[], fault: keyof typeof DEVICE_FAULT): Promise<void> {
  const whole = [...list, failed, ...rightUse(), read32(DEVICE + 0x070)];
  await run(whole, ({ events, memory, vm }) => {
    expect(kinds(events)).toEqual(["device_failed", "debug 1"]);
    expect(events[0]).toMatchObject({ device: 0, detail: DEVICE_FAULT[fault] });
    expect(deviceFault(events[0]?.detail ?? 0)).toMatch(/^[A-Z_]+, /);
    expect(readBack(memory, whole.length - 1)).toBe(15);
    expect(vm.deviceStats(0).malformed).toBeGreaterThanOrEqual(1);
    expect(vm.deviceStats(0).requests).toBe(1);
  });
}

/** The list is only counted: nothing is reported, and the device serves. */
async function counts(
  list: readonly Entry[],
  check: (stats: DeviceStats, memory: Outcome["memory"]) => void,
): Promise<void> {
  await run([...list, ...rightUse()], ({ events, memory, vm }) => {
    expect(kinds(events)).toEqual(["debug 1"]);
    expect(vm.deviceStats(0).requests).toBeGreaterThanOrEqual(1);
    check(vm.deviceStats(0), memory);
  });
}

const buffer = (gpa: bigint, length: number, flags = WRITE, next = 0): Entry[] => [
  ...start(),
  ...describe(0, gpa, length, flags, next),
  ...offer(0),
];

const table = (length: number, first: Entry[], features = INDIRECT_DESC): Entry[] => [
  ...start(features),
  ...first,
  ...describe(0, BigInt(DATA), length, INDIRECT),
  ...offer(0),
];
const inTable = (flags: number, next: number): Entry[] =>
  describe(0, BigInt(DATA) + 64n, 4, flags, next, DATA);

const FAULTS: [string, Entry[], keyof typeof DEVICE_FAULT][] = [
  ...(
    [
      ["unaligned descriptors", { desc: BigInt(DESC) + 8n }],
      ["unaligned available ring", { avail: BigInt(AVAIL) + 1n }],
      ["unaligned used ring", { used: BigInt(USED) + 2n }],
      ["descriptors over the end of RAM", { desc: RAM_END - 16n }],
      ["used ring over the end of RAM", { used: RAM_END - 16n }],
      ["rings in the MMIO hole", { desc: 0xc0000000n }],
      ["rings that overflow 2^64", { avail: (1n << 64n) - 2n }],
    ] satisfies [string, Rings][]
  ).map(([what, rings]): [string, Entry[], keyof typeof DEVICE_FAULT] => [
    `2 (2.7.1): ${what}`,
    start(0, rings),
    "ringAddress",
  ]),
  [
    "3 (2.7.13.3): available index jumps past the size",
    [...start(), ...offer(0, 17)],
    "availIndex",
  ],
  ["4 (2.7.6): head beyond the size", [...start(), ...offer(16)], "headIndex"],
  ["5 (2.7.5): next beyond the size", buffer(BigInt(DATA), 4, WRITE | NEXT, 16), "nextIndex"],
  ["6 (2.7.5.2): chain that is its own next", buffer(BigInt(DATA), 4, WRITE | NEXT), "chainLength"],
  [
    "6 (2.7.5.2): chain of two that go in circles",
    [
      ...start(),
      ...describe(0, BigInt(DATA), 4, WRITE | NEXT, 1),
      ...describe(1, BigInt(DATA), 4, WRITE | NEXT, 0),
      ...offer(0),
    ],
    "chainLength",
  ],
  ["9 (2.7.5): circle of empty descriptors", buffer(0n, 0, NEXT), "chainLength"],
  ["10 (2.7.5.3): table that was not negotiated", table(16, inTable(WRITE, 0), 0), "descFlags"],
  ["10 (2.7.5.3): table within a table", table(16, inTable(INDIRECT, 0)), "descFlags"],
  ["10 (2.7.5.3): table of 24 bytes", table(24, inTable(WRITE, 0)), "indirectTable"],
  ["10 (2.7.5.3): table of no bytes", table(0, []), "indirectTable"],
  ["7 (2.7.5.3): table that goes in circles", table(32, inTable(WRITE | NEXT, 0)), "chainLength"],
  ["11: buffer over the end of RAM", buffer(RAM_END - 4n, 8), "descAddress"],
  ["11: buffer from below to above the 3 GiB hole", buffer(0xbffffffcn, 8), "descAddress"],
  ["11: buffer on the device's own registers", buffer(BigInt(DEVICE), 4), "descAddress"],
  ["11: buffer that overflows 2^64", buffer((1n << 64n) - 4n, 8), "descAddress"],
];
for (const [what, list, fault] of FAULTS)
  kvmTest(`${what}: ${deviceFault(DEVICE_FAULT[fault]).split(",")[0]}`, async () =>
    breaks(list, fault),
  );

kvmTest("1 (4.2.2.2): a queue size of 0, 3 or 512 makes no queue", async () => {
  const tries = [0, 3, 512].flatMap((size) => [
    ...negotiate(),
    ...setRings({ size }),
    read32(DEVICE + 0x044),
  ]);
  await counts(tries, (stats, memory) => {
    const reads = tries.flatMap(([what], i) => (what === 4 ? [readBack(memory, i)] : []));
    expect(reads).toEqual([0, 0, 0]);
    expect(stats.malformed).toBeGreaterThanOrEqual(3);
  });
});

kvmTest("8 (5.4.6.1): a readable buffer where a writable one is due is counted", async () => {
  const list = [...buffer(BigInt(DATA), 64, 0), awaitBits(USED, 0x10000), read32(USED + 8)];
  await counts(list, (stats, memory) => {
    expect(readBack(memory, list.length - 1)).toBe(0);
    expect(stats.malformed).toBe(1);
  });
});

kvmTest("12 (2.1.1): a status out of order is ignored and counted", async () => {
  const list = [status(0), status(15), status(11), status(2), read32(DEVICE + 0x070)];
  await counts(list, (stats, memory) => {
    expect(readBack(memory, list.length - 1)).toBe(0);
    expect(stats.malformed).toBe(3);
  });
});

kvmTest("13 (2.2.1): features after FEATURES_OK are ignored and counted", async () => {
  await counts([...negotiate(), register(0x024, 0), register(0x020, -1)], (stats) =>
    expect(stats.malformed).toBe(1),
  );
});

kvmTest("14 (4.2.2.2): a queue that is moved after DRIVER_OK stays", async () => {
  const move = [register(0x080, 0), register(0x044, 0), register(0x038, 8)];
  const use = [...describe(0, BigInt(DATA), 64, WRITE), ...offer(0), awaitBits(USED, 0x10000)];
  await counts([...start(), ...move, ...use], (stats) => {
    expect(stats.malformed).toBe(3);
    expect(stats.requests).toBe(2);
  });
});

kvmTest("15: a notify before DRIVER_OK, or of a queue that there is not, is nothing", async () => {
  await counts([status(0), notify(), notify(1), notify(0xffff), ...negotiate(), notify()], (s) =>
    expect(s.requests).toBe(1),
  );
});

kvmTest("16 (2.4): resets while requests are served leave a device that serves", async () => {
  const busy = [...start(), ...describe(0, BigInt(DATA), 65_536, WRITE), ...offer(0), status(0)];
  await counts(Array.from({ length: 20 }, () => busy).flat(), (stats) =>
    expect(stats.malformed).toBe(0),
  );
});

kvmTest("17, 18 (4.2.2.2): registers of the wrong width are refused and counted", async () => {
  const wrong = [write8(DEVICE + 0x070, 1), write64(DEVICE + 0x070, 1n), write8(DEVICE + 0x150, 1)];
  await counts([status(0), ...wrong, read32(DEVICE + 0xffc)], (stats, memory) => {
    expect(readBack(memory, 4)).toBe(0);
    expect(stats.malformed).toBeGreaterThanOrEqual(3);
  });
});

kvmTest("22 (5.4.6): a request for all of memory gets 64 KiB", async () => {
  const list = [...buffer(0x800000n, 0x800000), awaitBits(USED, 0x10000), read32(USED + 8)];
  await counts(list, (stats, memory) => {
    expect(readBack(memory, list.length - 1)).toBe(65_536);
    expect(stats.bytesIn).toBeLessThanOrEqual(65_536 + 64);
  });
});

kvmTest("24: a serial flood by strings of all widths ends at the limit", async () => {
  const flood = Array.from({ length: 8 }, () => [
    outString(0x3f8, 4_096),
    out(2, 0x3f8, 0x4141),
    out(4, 0x3f8, 0x41414141),
  ]).flat();
  await run(flood, ({ events, serial }) => {
    expect(kinds(events)).toEqual(["debug 1"]);
    expect(serial.length).toBeLessThanOrEqual(SERIAL_LIMIT_BYTES);
    expect(serial.length).toBeGreaterThan(0);
  });
});

kvmTest("24: what an i8042 would not understand does nothing", async () => {
  const garbage = [0, 0x20, 0x60, 0xaa, 0xd1, 0xf0, 0xff].flatMap((value) => [
    out(1, 0x64, value),
    out(1, 0x60, 0xfe),
    out(2, 0x60, 0xfefe),
  ]);
  await run(garbage, ({ events }) => expect(kinds(events)).toEqual(["debug 1"]));
});

kvmTest("25: writes to every 2 MiB that nobody decodes go nowhere", async () => {
  const wild = Array.from({ length: 64 }, (_, i) => write32(0x20000000 + i * 0x200000, -1));
  await run([...wild, out(4, 0x1234, -1), ...rightUse()], ({ events, vm }) => {
    expect(kinds(events)).toEqual(["debug 1"]);
    expect(vm.vcpuStats(0).exitsMmio).toBeGreaterThanOrEqual(64);
  });
});

kvmTest("28: a guest that wipes the boot tables it was given only loses them", async () => {
  // The zero page, the command line, ACPI and RSDP; page tables from 0x9000 on stay.
  const wipe = [clear(0x7000, 0x1000), clear(0x20000, 0xe0000)];
  await run([...wipe, ...rightUse()], ({ events }) => expect(kinds(events)).toEqual(["debug 1"]));
});

kvmTest("28, 29: a guest that wipes its page tables ends by itself", async () => {
  const list = [clear(0x9000, 0x4000), write32(0x1000_0000, 0), write32(0x3000_0000, 0)];
  await run(list, ({ events }) => {
    expect(["reset", "vcpu_failed"]).toContain(events.at(-1)?.kind ?? "");
    expect(events).toHaveLength(1);
  });
});

kvmTest("29: a storm of undefined instructions is stopped like any guest", async () => {
  await runGuest("storm", { last: 1 }, ({ events }) => expect(kinds(events)).toEqual(["debug 1"]));
});

kvmTest("a machine that breaks its device leaves its neighbour alone", async () => {
  const wrong = [...start(), ...offer(16), failed];
  const right = Array.from({ length: 20 }, rightUse).flat();
  await Promise.all([
    run(wrong, ({ events }) => expect(kinds(events)).toEqual(["device_failed", "debug 1"])),
    run(right, ({ events, vm }) => {
      expect(kinds(events)).toEqual(["debug 1"]);
      expect(vm.deviceStats(0)).toMatchObject({ requests: 20, malformed: 0 });
    }),
  ]);
});
