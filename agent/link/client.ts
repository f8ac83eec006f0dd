/**
 * Keeps the control stream open: dial, run it to its end, wait with full jitter,
 * dial again. `Canceled` is how a dead server looks from here, so every error is
 * worth another try unless our own signal fired.
 *
 *   Goodbye SUPERSEDED  another agent speaks for this host: try again, but slowly
 *   Goodbye SHUTDOWN    the control plane restarts: come back when it says, jittered
 *   Goodbye REJECTED    stop, run() throws; unless a join token lets us in anew
 *
 * With several addresses each attempt goes to the next one: a replica that stands
 * still takes connections and never answers.
 */
import { Backoff } from "../../lib/backoff.ts";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { Goodbye_Reason } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { AgentContext } from "../context.ts";
import { ControlSession, type LinkState, type StreamEnd } from "./session.ts";

const SUPERSEDED_RETRY_MS = 30_000;
const STABLE_MS = 5_000;

/** Runs until the signal aborts. Throws CONFIG_INVALID when the control plane rejects the host. */
export async function runLink(context: AgentContext, signal: AbortSignal): Promise<void> {
  const { clock, log } = context;
  const state: LinkState = { epoch: 0n };
  const backoff = new Backoff({
    baseMs: LIMITS.reconnectBaseMs,
    capMs: LIMITS.reconnectCapMs,
  });
  const addresses = context.config.controlPlaneAddr.split(",");
  // Not all hosts at the first replica.
  let at = Math.floor(Math.random() * addresses.length);
  while (!signal.aborted) {
    const controlPlaneAddr = addresses[at % addresses.length] ?? "";
    at += 1;
    // The sessions that a replica asks for are dialled to that replica as well.
    const config = { ...context.config, controlPlaneAddr };
    const session = new ControlSession({ ...context, config }, state);
    const began = clock.now();
    let end: StreamEnd = { welcomed: false, goodbye: null };
    try {
      await context.identity?.ensure(signal, controlPlaneAddr);
      end = await session.run(signal);
      log.info("the control stream has ended");
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof LvError && error.reason === "CONFIG_INVALID") throw error;
      const { reason, message } = LvError.from(error);
      log.warn({ reason, detail: message }, "the control stream broke");
    }
    // A stream that was welcomed and dropped at once is no success: no tight loop.
    if (session.welcomed && clock.now() - began > STABLE_MS) backoff.reset();
    const rejected = end.goodbye?.reason === Goodbye_Reason.REJECTED;
    if (rejected && (await context.identity?.joinAgain(signal, controlPlaneAddr)) === true)
      continue;
    const waitMs = delayAfter(end, backoff, log);
    await clock.sleep(waitMs, signal).catch(() => undefined);
  }
}

function delayAfter(end: StreamEnd, backoff: Backoff, log: AgentContext["log"]): number {
  const { goodbye } = end;
  const jittered = backoff.next();
  if (goodbye === null) return jittered;
  const after = Math.min(goodbye.reconnectAfterMs, LIMITS.reconnectCapMs);
  switch (goodbye.reason) {
    case Goodbye_Reason.REJECTED:
      throw new LvError(
        "CONFIG_INVALID",
        `The control plane refused this host: ${goodbye.message || "no reason given"}`,
      );
    case Goodbye_Reason.SUPERSEDED:
      log.error("another agent has connected as this host; only one can be right");
      return SUPERSEDED_RETRY_MS / 2 + (Math.random() * SUPERSEDED_RETRY_MS) / 2;
    case Goodbye_Reason.SHUTDOWN:
    case Goodbye_Reason.UNSPECIFIED:
      return after + jittered;
    default: {
      const rest: never = goodbye.reason;
      return rest;
    }
  }
}
