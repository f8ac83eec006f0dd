/**
 * The errors of the whole product. Every failure a person or a program can meet
 * has a reason from this table; the table says how it looks at each boundary.
 * `message` is for the caller and names the value and the action; `meta` and
 * `cause` go to the log only, once, where the error becomes a reply.
 */
import { Code, ConnectError } from "@connectrpc/connect";

type Row = { grpc: Code; http: number; retryable: boolean };

const row = (grpc: Code, http: number, retryable = false): Row => ({ grpc, http, retryable });

export const REASONS = {
  BAD_REQUEST: row(Code.InvalidArgument, 400),
  UNAUTHENTICATED: row(Code.Unauthenticated, 401),
  PERMISSION_DENIED: row(Code.PermissionDenied, 403),
  NOT_FOUND: row(Code.NotFound, 404),
  MACHINE_NOT_FOUND: row(Code.NotFound, 404),
  HOST_NOT_FOUND: row(Code.NotFound, 404),
  NAME_TAKEN: row(Code.AlreadyExists, 409),
  NAME_AMBIGUOUS: row(Code.FailedPrecondition, 409),
  IDEMPOTENCY_MISMATCH: row(Code.FailedPrecondition, 409),
  VERSION_MISMATCH: row(Code.FailedPrecondition, 412),
  LEASE_HELD: row(Code.FailedPrecondition, 409),
  STATE_CONFLICT: row(Code.FailedPrecondition, 409),
  SUPERSEDED: row(Code.Aborted, 409),
  QUOTA_EXCEEDED: row(Code.ResourceExhausted, 403),
  NO_CAPACITY: row(Code.ResourceExhausted, 422),
  LIMIT_EXCEEDED: row(Code.ResourceExhausted, 429, true),
  WAIT_TIMEOUT: row(Code.DeadlineExceeded, 408, true),
  TIMEOUT: row(Code.DeadlineExceeded, 504, true),
  CANCELLED: row(Code.Canceled, 499),
  LINK_LOST: row(Code.Unavailable, 503, true),
  HOST_UNAVAILABLE: row(Code.Unavailable, 503, true),
  DATABASE_UNAVAILABLE: row(Code.Unavailable, 503, true),
  SHUTTING_DOWN: row(Code.Unavailable, 503, true),
  UNIMPLEMENTED: row(Code.Unimplemented, 501),
  CONFIG_INVALID: row(Code.InvalidArgument, 400),
  IMAGE_REFERENCE_INVALID: row(Code.InvalidArgument, 400),
  IMAGE_NOT_FOUND: row(Code.NotFound, 404),
  IMAGE_PLATFORM_MISSING: row(Code.FailedPrecondition, 422),
  IMAGE_UNAUTHORIZED: row(Code.PermissionDenied, 422),
  IMAGE_CORRUPT: row(Code.DataLoss, 422),
  IMAGE_UNSUPPORTED: row(Code.FailedPrecondition, 422),
  IMAGE_TOO_LARGE: row(Code.ResourceExhausted, 422),
  IMAGE_IN_USE: row(Code.FailedPrecondition, 409),
  REGISTRY_UNAVAILABLE: row(Code.Unavailable, 503, true),
  KERNEL_NOT_FOUND: row(Code.NotFound, 422),
  KERNEL_INVALID: row(Code.InvalidArgument, 422),
  KVM_MISSING: row(Code.FailedPrecondition, 503),
  DISK_FULL: row(Code.ResourceExhausted, 507, true),
  TOOL_MISSING: row(Code.FailedPrecondition, 503),
  VMM_FAULT: row(Code.Internal, 500),
  GUEST_FAULT: row(Code.Aborted, 422),
  GUEST_INIT_TIMEOUT: row(Code.DeadlineExceeded, 504),
  EXEC_FAILED: row(Code.InvalidArgument, 422),
  INTERNAL: row(Code.Internal, 500),
} as const satisfies Record<string, Row>;

export type Reason = keyof typeof REASONS;

/** True for a string that is a row of the table; wire input is checked with it. */
export function isReason(value: string): value is Reason {
  return Object.hasOwn(REASONS, value);
}

export class LvError extends Error {
  readonly reason: Reason;
  readonly meta: Record<string, unknown>;
  constructor(
    reason: Reason,
    message: string,
    options: { meta?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = "LvError";
    this.reason = reason;
    this.meta = options.meta ?? {};
  }

  get httpStatus(): number {
    return REASONS[this.reason].http;
  }

  get retryable(): boolean {
    return REASONS[this.reason].retryable;
  }

  toConnect(): ConnectError {
    return new ConnectError(
      this.message,
      REASONS[this.reason].grpc,
      { "leveret-reason": this.reason },
      [],
      this,
    );
  }

  /** Total: whatever was thrown becomes an LvError; what is unknown is INTERNAL. */
  static from(thrown: unknown): LvError {
    if (thrown instanceof LvError) return thrown;
    if (thrown instanceof ConnectError) {
      const named = thrown.metadata.get("leveret-reason") ?? "";
      const reason = isReason(named) ? named : fromCode(thrown.code);
      return new LvError(reason, thrown.rawMessage, { cause: thrown });
    }
    if (thrown instanceof Error && thrown.name === "AbortError")
      return new LvError("CANCELLED", "The operation was cancelled", { cause: thrown });
    if (thrown instanceof Error && "code" in thrown && thrown.code === "ENOSPC")
      return new LvError("DISK_FULL", "The disk is full", { cause: thrown });
    return new LvError("INTERNAL", "Internal error; the log of this process has the details", {
      cause: thrown,
    });
  }
}

function fromCode(code: Code): Reason {
  switch (code) {
    case Code.Canceled:
    case Code.Unavailable:
      return "LINK_LOST";
    case Code.DeadlineExceeded:
      return "TIMEOUT";
    case Code.Unauthenticated:
      return "UNAUTHENTICATED";
    case Code.PermissionDenied:
      return "PERMISSION_DENIED";
    case Code.InvalidArgument:
      return "BAD_REQUEST";
    case Code.NotFound:
      return "NOT_FOUND";
    case Code.ResourceExhausted:
      return "LIMIT_EXCEEDED";
    case Code.Unimplemented:
      return "UNIMPLEMENTED";
    case Code.Unknown:
    case Code.AlreadyExists:
    case Code.FailedPrecondition:
    case Code.Aborted:
    case Code.OutOfRange:
    case Code.Internal:
    case Code.DataLoss:
      return "INTERNAL";
    default: {
      const rest: never = code;
      return rest;
    }
  }
}
