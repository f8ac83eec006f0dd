import { expect, test } from "bun:test";
import { age, bytes, duration, table } from "./render.ts";

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
