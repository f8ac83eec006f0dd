import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseStatus, readLastError, readStatus } from "./vmm-files.ts";

const GOOD = { machineId: "m", incarnation: 1, pid: 2, pidStartTime: 3, phase: "running" };

describe("a VMM's status", () => {
  test("is taken with its optional parts", () => {
    const full = { ...GOOD, phase: "ended", exitCode: 7, exitSignal: 0, bootUs: 9, endedAtMs: 1 };
    expect(parseStatus(full, "m")).toMatchObject({ phase: "ended", exitCode: 7, bootUs: 9 });
  });

  for (const value of [
    null,
    [],
    "text",
    { ...GOOD, machineId: "another" },
    { ...GOOD, phase: "flying" },
    { ...GOOD, incarnation: -1 },
    { ...GOOD, pid: "2" },
    { ...GOOD, exitCode: 1.5 },
    { ...GOOD, exitCode: Number.NaN },
  ])
    test(`is refused when it is ${JSON.stringify(value)}`, () => {
      expect(parseStatus(value, "m")).toBeNull();
    });

  test("an unknown reason is a fault of the VMM", () => {
    expect(parseStatus({ ...GOOD, reason: "BECAUSE" }, "m")?.reason).toBe("VMM_FAULT");
  });
});

describe("what a dead VMM left", () => {
  let dir = "";
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "lev-files-"));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  test("nothing", () => {
    expect(readStatus(dir, "m")).toBeNull();
    expect(readLastError(dir)).toEqual({
      reason: "VMM_FAULT",
      message: "The VMM process ended without a word",
    });
  });

  test("half a status", () => {
    writeFileSync(join(dir, "status.json"), JSON.stringify(GOOD).slice(0, 20));
    expect(readStatus(dir, "m")).toBeNull();
  });

  test("a last line of the contract, after noise", () => {
    writeFileSync(
      join(dir, "vmm.log"),
      `${"x".repeat(9_000)}\n{"reason":"KVM_MISSING","message":"no"}\n`,
    );
    expect(readLastError(dir)).toEqual({ reason: "KVM_MISSING", message: "no" });
  });

  test("a last line of somebody else", () => {
    writeFileSync(join(dir, "vmm.log"), "panic: oh\n");
    expect(readLastError(dir)).toEqual({
      reason: "VMM_FAULT",
      message: "The VMM process ended and said: panic: oh",
    });
  });
});
