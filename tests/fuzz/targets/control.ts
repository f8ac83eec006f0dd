/**
 * A line on the control socket: none, or a request with an action of the table and
 * numbers in their bounds, which is the same request when it is sent again.
 */
import { isAction } from "../../../agent/vmm/actions.ts";
import { parseRequest } from "../../../agent/vmm/control.ts";
import type { FuzzTarget } from "../engine.ts";
import { must } from "../must.ts";

const decoder = new TextDecoder();

function fuzz(data: Uint8Array): string {
  const request = parseRequest(decoder.decode(data));
  if (request === null) return "none";
  must(isAction(request.action), "an unknown action");
  for (const [key, value] of Object.entries(request))
    if (key !== "action") must(Number.isSafeInteger(value) && Number(value) >= 0, `a wrong ${key}`);
  const text = JSON.stringify(request);
  must(JSON.stringify(parseRequest(text)) === text, "another request when it is read again");
  return Object.keys(request).join() + request.action;
}

const words = ["id", "action", "stop", "kill", "constructor", "__proto__"].map((word) =>
  new TextEncoder().encode(`"${word}"`),
);

export const target: FuzzTarget = { fuzz, json: true, words };
