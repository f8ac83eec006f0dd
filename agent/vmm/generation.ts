/**
 * VMGenID: 16 bytes that never repeat, and an event when they change. A guest that is
 * a copy of another reseeds its random numbers then (Linux since 5.18).
 */
import type { Vm } from "../../native/ffi.ts";
import { EVENT_GSI } from "./acpi.ts";
import { GuestMemory } from "./guest-memory.ts";
import { LAYOUT } from "./memory-map.ts";

/** Before the first instruction. */
export function writeGeneration(memory: GuestMemory): void {
  memory.write(LAYOUT.generationId, crypto.getRandomValues(new Uint8Array(16)));
}

/** While the guest runs, or is about to go on. */
export function renewGeneration(vm: Vm): void {
  writeGeneration(new GuestMemory(vm.regions));
  vm.pulse(EVENT_GSI);
}
