/**
 * planKernel over any file: it refuses with KERNEL_INVALID, or its plan loads each byte
 * of a segment once, from inside the file, to between 1 MiB and 3 GiB, and no segment
 * over another.
 */
import { VmmError } from "../../../agent/vmm/errors.ts";
import { GuestMemory } from "../../../agent/vmm/guest-memory.ts";
import { type FileReader, loadSegments, planKernel } from "../../../agent/vmm/kernel-image.ts";
import { LAYOUT, PAGE_BYTES } from "../../../agent/vmm/memory-map.ts";
import type { FuzzTarget } from "../engine.ts";
import { must } from "../must.ts";

type Plan = ReturnType<typeof planKernel>;

function reader(data: Uint8Array): FileReader {
  return {
    path: "input",
    bytes: data.length,
    read: (at, into) => {
      const end = at + into.length;
      must(Number.isSafeInteger(at) && at >= 0 && end <= data.length, "a read outside the file");
      into.set(data.subarray(at, end));
    },
  };
}

function checkPlan(plan: Plan, data: Uint8Array): void {
  const sorted = plan.segments.toSorted((a, b) => a.gpa - b.gpa);
  let end: number = LAYOUT.highMemory;
  for (const { gpa, offset, fileBytes, memoryBytes } of sorted) {
    must(gpa >= end, "a segment over another one or too low");
    end = gpa + memoryBytes;
    must(end <= LAYOUT.lowLimit && end <= plan.end, "a segment that ends too high");
    must(fileBytes <= memoryBytes && offset + fileBytes <= data.length, "bytes outside the file");
  }
  must(plan.entry >= LAYOUT.highMemory && plan.entry < plan.end, "an entry that is nowhere");
}

/** RAM that is never touched beyond what is asked of it; the window is one for all runs. */
const ram = new ArrayBuffer(1 << 16);

function checkLoad(plan: Plan, data: Uint8Array): void {
  for (const segment of plan.segments) {
    if (segment.fileBytes > ram.byteLength - 2 * PAGE_BYTES) continue;
    const base = segment.gpa - (segment.gpa % PAGE_BYTES);
    const memory = new GuestMemory([{ gpa: base, len: ram.byteLength, view: ram }]);
    new Uint8Array(ram).fill(0, 0, segment.fileBytes + 2 * PAGE_BYTES);
    loadSegments({ segments: [segment] }, reader(data), memory);
    const loaded = new Uint8Array(ram, segment.gpa - base, segment.fileBytes);
    const wanted = data.subarray(segment.offset, segment.offset + segment.fileBytes);
    must(Buffer.compare(loaded, wanted) === 0, "other bytes than the file's");
  }
}

function fuzz(data: Uint8Array): string {
  let plan: Plan;
  try {
    plan = planKernel(reader(data));
  } catch (error) {
    if (error instanceof VmmError && error.reason === "KERNEL_INVALID") return error.message;
    throw error;
  }
  checkPlan(plan, data);
  checkLoad(plan, data);
  return `${plan.format} of ${"s".repeat(plan.segments.length)}`;
}

/** A program header's type and flags. */
const LOAD = new Uint8Array([1, 0, 0, 0, 5, 0, 0, 0]);
const HEADER_MAGIC = new TextEncoder().encode("HdrS");

export const target: FuzzTarget = { fuzz, json: false, words: [LOAD, HEADER_MAGIC] };
