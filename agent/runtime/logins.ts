/**
 * Registry passwords of ops, in memory only: the journal gets the op without them.
 *
 *   op comes with a login ─ strip ─► journal (registry and user name, no password)
 *                             └────► here, until the op has ended
 *   the agent starts anew: the op is run from the journal and waits here for its password;
 *   the control plane sends such ops again after every Hello
 */
import { clone } from "@bufbuild/protobuf";
import { abortReason } from "../../lib/clock.ts";
import { type Op, OpSchema } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Login } from "../images/types.ts";
import type { JournalOp } from "./journal.ts";

type Kept = PromiseWithResolvers<Login | null>;

export class Logins {
  readonly #byOp = new Map<string, Kept>();

  /** The op as it may be written down. `known`: what the journal has of it. */
  strip(op: Op, known?: JournalOp["state"]): Op {
    const { login } = op;
    if (known === "done" || known === "acked") return op;
    // One that came without waits for none: the login was taken back meanwhile.
    if (login === undefined) {
      this.#byOp.get(op.opId)?.resolve(null);
      return op;
    }
    const { registry, username, password } = login;
    this.#of(op.opId).resolve({ registry, username, password });
    const noted = clone(OpSchema, op);
    if (noted.login !== undefined) noted.login.password = "";
    return noted;
  }

  /** Null for an op without; waits for one that is known to have had it. */
  async of(op: Op, signal: AbortSignal): Promise<Login | null> {
    if (op.login === undefined) return null;
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    const onAbort = (): void => reject(abortReason(signal));
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      return await Promise.race([this.#of(op.opId).promise, aborted]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  forget(opId: string): void {
    this.#byOp.delete(opId);
  }

  #of(opId: string): Kept {
    const kept = this.#byOp.get(opId) ?? Promise.withResolvers<Login | null>();
    this.#byOp.set(opId, kept);
    return kept;
  }
}
