/** What a driver did wrong, as a name and a sentence: enum lv_device_fault, virtio 1.2, 2.7. */
import { DEVICE_FAULT } from "../../native/abi.gen.ts";

const FAULTS: Record<keyof typeof DEVICE_FAULT, string> = {
  ringAddress: "RING_ADDRESS, a ring is outside of RAM or not aligned",
  availIndex: "AVAIL_INDEX, its index of available chains jumped by more than the queue holds",
  headIndex: "HEAD_INDEX, a chain begins at a descriptor that there is not",
  nextIndex: "NEXT_INDEX, a chain goes on at a descriptor that there is not",
  chainLength: "CHAIN_LENGTH, a chain goes in circles or is longer than allowed",
  descAddress: "DESC_ADDRESS, a buffer is not in RAM",
  descFlags: "DESC_FLAGS, an indirect table was not negotiated or is in another one",
  indirectTable: "INDIRECT_TABLE, the length of an indirect table is wrong",
};

export function deviceFault(detail: number): string {
  for (const [name, text] of Object.entries(FAULTS))
    // The keys are those of the table.
    if (DEVICE_FAULT[name as keyof typeof DEVICE_FAULT] === detail) return text;
  return `fault ${detail}`;
}
