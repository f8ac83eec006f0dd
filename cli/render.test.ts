import { expect, test } from "bun:test";
import { age, bytes, duration, progressLine, table } from "./render.ts";

test("columns line up and nothing trails", () => {
  expect(
    table(
      ["ID", "NAME"],
      [
        ["a", "long"],
        ["bbb", ""],
      ],
    ),
  ).toBe("ID   NAME\na    long\nbbb\n");
});

test("durations in a person's units", () => {
  const cases: [number, string][] = [
    [0.85, "850 µs"],
    [12.34, "12.3 ms"],
    [850, "850 ms"],
    [1250, "1.25 s"],
    [59_940, "59.9 s"],
    [125_000, "2 m 05 s"],
    [11_040_000, "3 h 04 m"],
    [5 * 86_400_000, "5 d"],
  ];
  for (const [ms, text] of cases) expect(duration(ms)).toBe(text);
});

test("sizes in binary units", () => {
  expect([512, 3482, 120 << 20, 64 * 2 ** 30].map(bytes)).toEqual([
    "512 B",
    "3.4 KiB",
    "120 MiB",
    "64.0 GiB",
  ]);
});

test("an age never goes below zero, whatever the clocks say", () => {
  expect(age("2026-01-01T00:00:10.000Z", Date.parse("2026-01-01T00:00:00.000Z"))).toBe("0 s");
  expect(age("2026-01-01T00:00:00.000Z", Date.parse("2026-01-01T00:02:05.400Z"))).toBe("2 m 05 s");
  expect(age(null, 0)).toBe("");
});

test("a pull's line has what is known of it", () => {
  const nothing = {
    phase: "resolving" as const,
    bytes_done: 0,
    bytes_total: 0,
    layers: 0,
    layers_done: 0,
    queue_position: 0,
    bytes_per_second: 0,
  };
  expect(progressLine("app", nothing, true)).toBe("lev: resolving app");
  const queued = { ...nothing, phase: "queued" as const, queue_position: 2 };
  expect(progressLine("app", queued, true)).toBe("lev: queued app: 2 in the queue of its host");
  const half = {
    ...nothing,
    phase: "pulling" as const,
    bytes_done: 15 << 20,
    bytes_total: 30 << 20,
    layers: 5,
    layers_done: 2,
    bytes_per_second: 5 << 20,
  };
  expect(progressLine("app", half, true)).toBe(
    "lev: pulling app [==========>         ] 50 % of 30.0 MiB, 2 of 5 layers, 5.0 MiB/s, 3.00 s left",
  );
  const whole = { ...half, bytes_done: 30 << 20 };
  expect(progressLine("app", whole, false)).toBe(
    "lev: pulling app 100 % of 30.0 MiB, 2 of 5 layers, 5.0 MiB/s",
  );
});
