/** As much ACPI Machine Language as the DSDT needs. ACPI 6.5, chapter 20. */
const encoder = new TextEncoder();

export function join(...parts: readonly (Uint8Array | readonly number[])[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

const u16 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const u32 = (value: number): number[] => [...u16(value), ...u16(value >>> 16)];

/** A PkgLength counts itself: 20.2.4. */
function packageLength(contentBytes: number): number[] {
  if (contentBytes + 1 < 0x40) return [contentBytes + 1];
  if (contentBytes + 2 < 0x1000) {
    const total = contentBytes + 2;
    return [0x40 | (total & 0xf), total >> 4];
  }
  const total = contentBytes + 3;
  return [0x80 | (total & 0xf), (total >> 4) & 0xff, total >> 12];
}

function packaged(opcode: readonly number[], content: Uint8Array): Uint8Array {
  return join(opcode, packageLength(content.length), content);
}

/** Four characters, or "\" and four for the root. */
const nameString = (name: string): Uint8Array => encoder.encode(name);

export const scope = (name: string, ...terms: readonly Uint8Array[]): Uint8Array =>
  packaged([0x10], join(nameString(name), ...terms));
export const device = (name: string, ...terms: readonly Uint8Array[]): Uint8Array =>
  packaged([0x5b, 0x82], join(nameString(name), ...terms));
export const named = (name: string, value: Uint8Array): Uint8Array =>
  join([0x08], nameString(name), value);

export const string = (text: string): Uint8Array => join([0x0d], encoder.encode(text), [0]);
export function integer(value: number): Uint8Array {
  if (value <= 1) return Uint8Array.of(value);
  if (value <= 0xff) return Uint8Array.of(0x0a, value);
  return value <= 0xffff ? join([0x0b], u16(value)) : join([0x0c], u32(value));
}
export const list = (...items: readonly Uint8Array[]): Uint8Array =>
  packaged([0x12], join([items.length], ...items));

/** Takes one argument, runs one at a time. */
export const method1 = (name: string, ...terms: readonly Uint8Array[]): Uint8Array =>
  packaged([0x14], join(nameString(name), [0x09], ...terms));
/** What is in it happens when the method's argument is `value`. */
export const whenArgument = (value: number, ...terms: readonly Uint8Array[]): Uint8Array =>
  packaged([0xa0], join([0x93, 0x68], integer(value), ...terms));
export const notify = (name: string, value: number): Uint8Array =>
  join([0x86], nameString(name), integer(value));

/** "PNP0501" as the compressed dword of 19.6.38. */
export function eisaId(id: string): Uint8Array {
  const letter = (i: number): number => id.charCodeAt(i) - 0x40;
  const first = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const second = Number.parseInt(id.slice(3), 16);
  return join([0x0c, first >> 8, first & 0xff, second >> 8, second & 0xff]);
}

/** A resource template: a buffer of descriptors with its end tag. */
export function resources(...descriptors: readonly Uint8Array[]): Uint8Array {
  const content = join(...descriptors, [0x79, 0]);
  return packaged([0x11], join(integer(content.length), content));
}
/** Memory32Fixed, read-write. */
export const memory32 = (base: number, bytes: number): Uint8Array =>
  join([0x86, 9, 0, 1], u32(base), u32(bytes));
/** Extended interrupt: consumer, edge, active high, exclusive. */
export const edgeInterrupt = (gsi: number): Uint8Array => join([0x89, 6, 0, 3, 1], u32(gsi));
/** I/O ports, 16-bit decode. */
export const ioPorts = (base: number, count: number): Uint8Array =>
  join([0x47, 1], u16(base), u16(base), [1, count]);
