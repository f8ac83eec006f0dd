/** How a VMM process fails: the reason for people, the exit code for the supervisor. */
import type { Reason } from "../../proto/errors.ts";
import { VMM_EXIT } from "../../proto/vmm.ts";

export type ExitCode = (typeof VMM_EXIT)[keyof typeof VMM_EXIT];

export class VmmError extends Error {
  override readonly name = "VmmError";
  readonly reason: Reason;
  readonly exitCode: ExitCode;

  constructor(reason: Reason, exitCode: ExitCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause });
    this.reason = reason;
    this.exitCode = exitCode;
  }
}

/** The errno name of a node or shim error ("ENOENT"), or "". */
export function errorCode(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string"
    ? error.code
    : "";
}

export const errorText = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

/**
 * Total: whatever the building of a machine threw, as a VmmError. The shim's
 * errors are recognised by their `call`, so this file needs no bun:ffi.
 */
export function toVmmError(error: unknown): VmmError {
  if (error instanceof VmmError) return error;
  const code = errorCode(error);
  const call =
    error instanceof Error && "call" in error && typeof error.call === "string" ? error.call : "";
  if (call === "lv_kvm_probe")
    return new VmmError("KVM_MISSING", VMM_EXIT.kvmMissing, kvmMissingText(code, error), error);
  if (code === "ENOMEM")
    return new VmmError(
      "NO_CAPACITY",
      VMM_EXIT.noCapacity,
      `The host has no memory left for this machine (${errorText(error)})`,
      error,
    );
  return new VmmError("VMM_FAULT", VMM_EXIT.vmmFault, errorText(error), error);
}

function kvmMissingText(code: string, error: unknown): string {
  switch (code) {
    case "ENOENT":
      return "Cannot open /dev/kvm: there is none (kvm is not loaded, or virtualisation is off)";
    case "EACCES":
    case "EPERM":
      return "Cannot open /dev/kvm: permission denied (run as root or join the group kvm)";
    default:
      return `Cannot use /dev/kvm: ${errorText(error)}`;
  }
}
