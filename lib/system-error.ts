/** Of Linux, include/uapi/asm-generic/errno.h: those that our code tells apart. */
export const ERRNO = {
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  EINVAL: 22,
  ENOSPC: 28,
  ELOOP: 40,
  ENOTSUP: 95,
  EINPROGRESS: 115,
} as const;

/** A call of the shim or of the C library failed; `errno` is positive, as in errno.h. */
export class SystemError extends Error {
  override readonly name = "SystemError";
  readonly call: string;
  readonly errno: number;
  /** "ENOENT" */
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
  // Loaded when something fails: a VMM process does without node's modules (libc.ts).
  const { constants } = process.getBuiltinModule("node:os");
  for (const [name, value] of Object.entries(constants.errno)) if (value === errno) return name;
  return "errno";
}
