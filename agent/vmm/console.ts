/** console.log: the serial output of the guest's kernel, and its last words. */
import { closeSync, openSync, readSync } from "node:fs";
import { fstatSync } from "node:fs";
import { printable } from "./guest-channel.ts";

const TAIL_BYTES = 8 << 10;
const QUOTE_MAX_LENGTH = 200;

/** Empty for a new run; the caller closes it. */
export const openConsole = (path: string): number => openSync(path, "w", 0o600);

/**
 * The line that says why a kernel stopped when there is one, else the last line
 * with anything in it. "" when the file is missing or empty.
 */
export function lastConsoleLine(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch {
    return ""; // it is a quotation, not worth a second error
  }
  try {
    const size = fstatSync(fd).size;
    const tail = new Uint8Array(Math.min(size, TAIL_BYTES));
    const got = readSync(fd, tail, 0, tail.length, size - tail.length);
    const lines = new TextDecoder()
      .decode(tail.subarray(0, got))
      .split("\n")
      .map((line) => printable(new TextEncoder().encode(line), QUOTE_MAX_LENGTH))
      .filter((line) => line !== "");
    const panic = lines.findLast((line) => line.includes("Kernel panic - not syncing"));
    return panic ?? lines.at(-1) ?? "";
  } finally {
    closeSync(fd);
  }
}
