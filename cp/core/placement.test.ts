import { expect, test } from "bun:test";
import { CANDIDATES, choose, NO_WISHES, type HostView } from "./placement.ts";

function host(id: string, changes: Partial<HostView> = {}): HostView {
  return {
    id,
    state: "ready",
    cordoned: false,
    quarantined: false,
    labels: { arch: "amd64" },
    capacity: { cpus: 4, memoryMib: 4096, diskMib: 10_000 },
    committed: { cpus: 0, memoryMib: 0, diskMib: 0 },
    ...changes,
  };
}
const need = { cpus: 1, memoryMib: 256, diskMib: 1024 };

test("the least loaded host comes first, and equal ones by id", () => {
  const busy = host("a", { committed: { cpus: 3, memoryMib: 0, diskMib: 0 } });
  expect(choose([busy, host("c"), host("b")], need).candidates).toEqual(["b", "c", "a"]);
});

test("load is that of the scarcest resource", () => {
  const memory = host("a", { committed: { cpus: 0, memoryMib: 3000, diskMib: 0 } });
  const cpu = host("b", { committed: { cpus: 1, memoryMib: 0, diskMib: 0 } });
  expect(choose([memory, cpu], need).candidates).toEqual(["b", "a"]);
});

test("hosts that are away or full are no candidates, and the list is bounded", () => {
  const hosts = Array.from({ length: 20 }, (_, i) => host(`h${i}`));
  expect(choose(hosts, need).candidates).toHaveLength(CANDIDATES);
  const away = host("x", { state: "disconnected" });
  const full = host("y", { committed: { cpus: 4, memoryMib: 0, diskMib: 0 } });
  expect(choose([away, full], need).candidates).toEqual([]);
});

test("a machine that fits exactly is taken", () => {
  const exact = { cpus: 4, memoryMib: 4096, diskMib: 10_000 };
  expect(choose([host("a")], exact).candidates).toEqual(["a"]);
  expect(choose([host("a")], { ...exact, diskMib: 10_001 }).candidates).toEqual([]);
});

test("a refusal names the need and counts the obstacles", () => {
  const large = { ...need, memoryMib: 64_000 };
  expect(choose([host("a")], large).refusal).toBe(
    "No host has room for 64000 MiB: 1 host: 1 memory",
  );
  const hosts = [host("a"), host("b", { state: "lost" })];
  expect(choose(hosts, large).refusal).toBe(
    "No host has room for 64000 MiB: 2 hosts: 1 memory, 1 lost",
  );
  expect(choose([host("a")], { ...need, cpus: 8 }).refusal).toBe(
    "No host has room for 8 CPUs: 1 host: 1 cpus",
  );
  expect(choose([], need).refusal).toStartWith("No host is registered");
});

test("every filter counts the hosts that it turns away", () => {
  const full = { committed: { cpus: 0, memoryMib: 4096, diskMib: 0 } };
  const hosts = [
    ...Array.from({ length: 7 }, (_, n) => host(`full-${n}`, full)),
    ...Array.from({ length: 3 }, (_, n) => host(`amd-${n}`)),
    ...Array.from({ length: 2 }, (_, n) => host(`cordoned-${n}`, { cordoned: true })),
  ].map((one) => (one.id.startsWith("full") ? { ...one, labels: { arch: "arm64" } } : one));
  const wishes = { ...NO_WISHES, labels: { arch: "arm64" } };
  expect(choose(hosts, need, wishes)).toEqual({
    candidates: [],
    refusal: "No host has room for 256 MiB: 12 hosts: 7 memory, 3 label arch=arm64, 2 cordoned",
  });
});

test("a host of the same group is out, one with the image comes first", () => {
  const hosts = [host("a"), host("b"), host("c", { quarantined: true }), host("d")];
  const wishes = { labels: {}, taken: new Set(["a"]), warm: new Set(["d"]) };
  expect(choose(hosts, need, wishes).candidates).toEqual(["d", "b"]);
});

test("warmth is worth less than a busy host costs", () => {
  const busy = host("a", { committed: { cpus: 3, memoryMib: 0, diskMib: 0 } });
  const wishes = { ...NO_WISHES, warm: new Set(["a"]) };
  expect(choose([busy, host("b")], need, wishes).candidates).toEqual(["b", "a"]);
});
