/** The hub's end of a control stream as an iterable, for a link that has no network. */
import type { HandlerContext } from "@connectrpc/connect";
import { ControlStream } from "../../cp/hub/control.ts";
import { Queue } from "../../cp/hub/queue.ts";
import type { HubParts } from "../../cp/hub/service.ts";
import { LIMITS } from "../../lib/limits.ts";
import type { AgentFrame, HubFrame } from "../../proto/gen/leveret/v1/agent_pb.js";

export async function* serveControl(
  parts: HubParts,
  frames: AsyncIterable<AgentFrame>,
  { signal }: HandlerContext,
): AsyncGenerator<HubFrame> {
  const down = new Queue<HubFrame>(LIMITS.hubQueueFrames);
  let failure: Error | undefined;
  const control = new ControlStream(parts, null, {
    send: (frame) => down.push(frame),
    end: (error) => {
      failure ??= error;
      down.close();
    },
    abort: () => down.close(),
  });
  const read = async (): Promise<void> => {
    try {
      for await (const frame of frames) control.frame(frame);
      control.halfClosed();
    } catch {
      // The connection broke, for both directions.
      down.close();
    }
  };
  const onAbort = (): void => down.close();
  signal.addEventListener("abort", onAbort, { once: true });
  void read();
  try {
    yield* down;
    if (failure !== undefined) throw failure;
  } finally {
    signal.removeEventListener("abort", onAbort);
    control.closed();
  }
}
