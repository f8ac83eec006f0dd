/** Lists of entries as the kernel's structs hold them: kvm_cpuid2, kvm_msrs. */

/** The head: u32 count, u32 padding. */
export const LIST_BYTES = 8;

export function entryCount(entries: Uint8Array, size: number): number {
  if (entries.byteLength % size !== 0) {
    throw new RangeError(`${entries.byteLength} bytes are not a multiple of ${size}`);
  }
  return entries.byteLength / size;
}

/** kvm_cpuid2 or kvm_msrs of these entries. */
export function entryList(entries: Uint8Array, count: number): Uint8Array<ArrayBuffer> {
  const list = new Uint8Array(LIST_BYTES + entries.byteLength);
  new DataView(list.buffer).setUint32(0, count, true);
  list.set(entries, LIST_BYTES);
  return list;
}
