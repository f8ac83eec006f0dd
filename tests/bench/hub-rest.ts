/**
 * Round trips of ops: a request through REST, its transaction, the op down the stream,
 * the agent's answer, and the stored state that ends a wait.
 */
import { AUTHORIZATION } from "../kit/token.ts";

const MACHINES = 400;
const WAIT_S = 30;

type Ask = (method: string, path: string, body?: unknown) => Promise<Response>;

/** Milliseconds of each round trip. Requests leave at the given rate, answered or not. */
export async function runRestOps(
  httpUrl: string,
  rate: number,
  seconds: number,
  say: (line: string) => void,
): Promise<number[]> {
  const ask: Ask = (method, path, body) =>
    fetch(`${httpUrl}${path}`, {
      method,
      headers: { ...AUTHORIZATION, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  const ids = await makeMachines(ask);
  const times: number[] = [];
  let refused = 0;
  const turn = async (id: string, verb: "stop" | "start"): Promise<void> => {
    const from = performance.now();
    const asked = await ask("POST", `/v1/machines/${id}/${verb}`, {});
    await asked.arrayBuffer();
    const state = verb === "stop" ? "stopped" : "started";
    const waited = await ask("GET", `/v1/machines/${id}/wait?state=${state}&timeout=${WAIT_S}`);
    await waited.arrayBuffer();
    if (asked.ok && waited.ok) times.push(performance.now() - from);
    else refused += 1;
  };
  const began = performance.now();
  const last = new Map<string, Promise<void>>();
  for (let number = 0; number < rate * seconds; number += 1) {
    const id = ids[number % ids.length] ?? "";
    const verb = Math.floor(number / ids.length) % 2 === 0 ? "stop" : "start";
    // One after the other on one machine; the next machine does not wait.
    last.set(
      id,
      (last.get(id) ?? Promise.resolve()).then(() => turn(id, verb)),
    );
    const due = began + (number * 1_000) / rate;
    if (due > performance.now()) await Bun.sleep(due - performance.now());
  }
  await Promise.all(last.values());
  const took = (performance.now() - began) / 1000;
  say(
    `${times.length} ops in ${took.toFixed(1)} s (${(times.length / took).toFixed(0)}/s), ${refused} refused`,
  );
  return times;
}

/** Started ones, each on whatever host it was placed. */
async function makeMachines(ask: Ask): Promise<string[]> {
  const ids: string[] = [];
  for (let number = 0; number < MACHINES; number += 1) {
    const reply = await ask("POST", "/v1/machines", { config: { image: "busybox" } });
    ids.push(((await reply.json()) as { id: string }).id);
  }
  for (const id of ids) {
    const waited = await ask("GET", `/v1/machines/${id}/wait?state=started&timeout=${WAIT_S}`);
    if (!waited.ok) throw new Error(`${id} did not start: ${await waited.text()}`);
  }
  return ids;
}
