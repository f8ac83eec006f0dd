import { constants } from "node:os";

/** A call of the shim failed; `errno` is positive, as in errno.h. */
export class ShimError extends Error {
  override readonly name = "ShimError";
  readonly call: string;
  readonly errno: number;
  readonly code: string;

  constructor(call: string, errno: number, detail = "") {
    const code = errnoName(errno);
    super(`${call}: ${code} (${errno})${detail === "" ? "" : `: ${detail}`}`);
    this.call = call;
    this.errno = errno;
    this.code = code;
  }
}

function errnoName(errno: number): string {
  for (const [name, value] of Object.entries(constants.errno)) if (value === errno) return name;
  return "errno";
}
