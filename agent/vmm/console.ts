/** console.log: the serial output of the guest's kernel, and its last words. */
import { closeFile, fileStatus, openFile, readAt } from "../../lib/libc.ts";
import { printable } from "./guest-channel.ts";

const TAIL_BYTES = 8 << 10;
const QUOTE_MAX_LENGTH = 200;

/** Empty for a new run; the caller closes it. */
export const openConsole = (path: string): number => openFile(path, "replace");

/**
 * The line that says why a kernel stopped when there is one, else the last line
 * with anything in it. "" when the file is missing or empty.
 */
export function lastConsoleLine(path: string): string {
  let fd: number;
  try {
    fd = openFile(path, "read");
  } catch {
    return ""; // it is a quotation, not worth a second error
  }
  try {
    const size = fileStatus(fd).bytes;
    const tail = new Uint8Array(Math.min(size, TAIL_BYTES));
    const got = readAt(fd, tail, size - tail.length);
    const lines = new TextDecoder()
      .decode(tail.subarray(0, got))
      .split("\n")
      .map((line) => printable(new TextEncoder().encode(line), QUOTE_MAX_LENGTH))
      .filter((line) => line !== "");
    const panic = lines.findLast((line) => line.includes("Kernel panic - not syncing"));
    return panic ?? lines.at(-1) ?? "";
  } finally {
    closeFile(fd);
  }
}
