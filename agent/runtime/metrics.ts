/**
 * What a VMM process has counted, and what the host's kernel says of it. The VMM's own
 * words are checked and bounded: its guest may own it.
 */
import { readFileSync } from "node:fs";
import { LIMITS } from "../../lib/limits.ts";
import type { VmmMetrics } from "../../proto/vmm.ts";

/** Of 2 and more kinds that this agent knows, with room for those of a newer VMM. */
const DEVICES_MAX = 32;
const KIND = /^[a-z][a-z0-9]{0,15}$/;
const MICROSECONDS_PER_TICK = 10_000; // USER_HZ is 100 on every Linux
const PAGE_BYTES = 4_096;

export type RunMetrics = VmmMetrics & { cpuUs: number; residentBytes: number };

type Fields = Record<string, unknown>;

const isRecord = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The named counters; null when one of them is none. */
function counters<K extends string>(value: unknown, keys: readonly K[]): Record<K, number> | null {
  if (!isRecord(value)) return null;
  const found: Partial<Record<K, number>> = {};
  for (const key of keys) {
    const number = value[key];
    if (typeof number !== "number" || !Number.isSafeInteger(number) || number < 0) return null;
    found[key] = number;
  }
  // Every key was set above.
  return found as Record<K, number>;
}

const VCPU = ["exitsPio", "exitsMmio", "exitsIntr", "exitsOther"] as const;
const TRAFFIC = ["notifies", "interrupts", "requests", "bytesIn", "bytesOut"] as const;
const DEVICE = [...TRAFFIC, "throttled", "malformed", "dropped", "errors"] as const;
const BALLOON = ["target", "actual", "free", "available"] as const;

/** Null for anything that is not proto/vmm.ts's VmmMetrics. */
export function parseMetrics(value: unknown): VmmMetrics | null {
  if (!isRecord(value)) return null;
  const { vcpus, devices, balloon } = value;
  if (!Array.isArray(vcpus) || vcpus.length > LIMITS.cpusMax) return null;
  if (!Array.isArray(devices) || devices.length > DEVICES_MAX) return null;
  const metrics: VmmMetrics = { vcpus: [], devices: [] };
  for (const entry of vcpus) {
    const vcpu = counters(entry, VCPU);
    if (vcpu === null) return null;
    metrics.vcpus.push(vcpu);
  }
  for (const entry of devices) {
    const device = counters(entry, DEVICE);
    const kind = isRecord(entry) ? entry["kind"] : null;
    if (device === null || typeof kind !== "string" || !KIND.test(kind)) return null;
    metrics.devices.push({ kind, ...device });
  }
  if (balloon === undefined) return metrics;
  const stats = counters(balloon, BALLOON);
  return stats === null ? null : { ...metrics, balloon: stats };
}

/** proc(5), /proc/<pid>/stat (fields 14, 15, 24). Zeros when the process is gone. */
export function usageOf(pid: number): { cpuUs: number; residentBytes: number } {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return { cpuUs: 0, residentBytes: 0 }; // it ended meanwhile
  }
  // Field 2 is "(comm)", and comm may hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const field = (number: number): number => Number(fields[number - 3] ?? 0);
  return {
    cpuUs: (field(14) + field(15)) * MICROSECONDS_PER_TICK,
    residentBytes: field(24) * PAGE_BYTES,
  };
}
