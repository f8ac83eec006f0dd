/** The short verbs about one or many machines: ps, stop, start, rm, wait, inspect. */
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { MACHINE_STATES } from "../../proto/states.ts";
import { Machine } from "../../proto/rest.ts";
import { Client, machinePath } from "../client.ts";
import { exactly, integer, parse, UsageError, type Command } from "../command.ts";
import { err, out } from "../output.ts";
import { age, table } from "../render.ts";

const REF = "MACHINE is an id, a name or the unique beginning of an id.";
const REST_STATES = ["stopped", "failed", "destroyed"];

export const ps: Command = {
  summary: "list machines",
  help: `usage: lev ps [-a] [--json]

  -a, --all  those that are stopped or failed too
  --json     one JSON array, as the API gives it
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      all: { type: "boolean", short: "a" },
      json: { type: "boolean" },
    });
    exactly(positionals, 0, "");
    const all = await Client.fromEnvironment().machines();
    const shown = all.filter(
      (machine) => values.all === true || !REST_STATES.includes(machine.state),
    );
    await out(
      values.json === true ? `${JSON.stringify(shown, null, 2)}\n` : psTable(shown, Date.now()),
    );
    return 0;
  },
};

/** Pure. */
export function psTable(machines: Machine[], now: number): string {
  const rows = machines.map((machine) => [
    machine.id,
    machine.name,
    machine.config.image,
    machine.state,
    statusOf(machine),
    machine.host_name ?? "",
    age(machine.created_at, now),
  ]);
  return table(["ID", "NAME", "IMAGE", "STATE", "STATUS", "HOST", "AGE"], rows);
}

function statusOf(machine: Machine): string {
  if (machine.status_reason !== null) return machine.status_reason;
  return machine.exit_code === null ? "" : `exit ${machine.exit_code}`;
}

export const stop: Command = {
  summary: "stop machines",
  help: `usage: lev stop [-t SECONDS] MACHINE…

  -t, --timeout SECONDS  until the machine is killed (default: as it was created, 10)

${REF}
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, { timeout: { type: "string", short: "t" } });
    const timeout =
      values.timeout === undefined
        ? undefined
        : integer("--timeout", values.timeout, 0, LIMITS.stopTimeoutMaxMs / 1000);
    return forEach(positionals, async (client, ref) => {
      const { id } = await client.stop(ref, timeout);
      while ((await client.wait(id, REST_STATES, 60)) === null);
    });
  },
};

export const restart: Command = {
  summary: "stop machines and start them again",
  help: `usage: lev restart [-t SECONDS] MACHINE…

  -t, --timeout SECONDS  until the machine is killed (default: as it was created, 10)

${REF}
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, { timeout: { type: "string", short: "t" } });
    const body =
      values.timeout === undefined
        ? {}
        : { timeout: integer("--timeout", values.timeout, 0, LIMITS.stopTimeoutMaxMs / 1000) };
    return forEach(positionals, async (client, ref) => {
      const before = await client.machine(ref);
      const path = `${machinePath(before.id)}/restart`;
      await client.call("POST", path, Machine, { body });
      await untilNextRun(client, before);
    });
  },
};

/** The former run is "started" too: it is another instance that is waited for. */
async function untilNextRun(client: Client, before: Machine): Promise<void> {
  for (;;) {
    const now = await client.machine(before.id);
    const next = now.instance_id !== before.instance_id;
    if (next && ["started", ...REST_STATES].includes(now.state)) {
      if (now.state !== "failed") return;
      throw new LvError(
        "STATE_CONFLICT",
        `${now.name} failed: ${now.status_reason ?? ""}: ${now.status_message ?? ""}`,
      );
    }
    if (!next && now.restart_at === null && REST_STATES.includes(now.state))
      throw new LvError("STATE_CONFLICT", `${now.name} was stopped meanwhile`);
    // Ends by itself as soon as something changes, or after a second.
    await client
      .wait(before.id, next ? ["started", ...REST_STATES] : ["starting"], 1)
      .catch(ignoreUnreachable);
  }
}

/** The state is looked at anew in any case. */
function ignoreUnreachable(error: unknown): null {
  if (error instanceof LvError && error.reason === "STATE_CONFLICT") return null;
  throw error;
}

export const start: Command = {
  summary: "start machines that are stopped",
  help: `usage: lev start MACHINE…\n\n${REF}\n`,
  run: async (argv) =>
    forEach(parse(argv, {}).positionals, async (client, ref) => {
      const { id } = await client.start(ref);
      for (;;) {
        const machine = await client.wait(id, ["started", ...REST_STATES], 60);
        if (machine === null) continue;
        if (machine.state === "failed")
          throw new LvError(
            "STATE_CONFLICT",
            `${machine.name} failed: ${machine.status_reason ?? ""}: ${machine.status_message ?? ""}`,
          );
        return;
      }
    }),
};

export const rm: Command = {
  summary: "remove machines and their disks",
  help: `usage: lev rm [-f] [--abandon] MACHINE…

  -f, --force  stop those that run first
  --abandon    do not wait for a host that is away

${REF}
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      force: { type: "boolean", short: "f" },
      abandon: { type: "boolean" },
    });
    return forEach(positionals, async (client, ref) => {
      const machine = await client.machine(ref);
      if (values.abandon === true) {
        await client.call("DELETE", `${machinePath(machine.id)}?force=true`, Machine);
        return;
      }
      if (values.force !== true && !["created", "pending", ...REST_STATES].includes(machine.state))
        throw new LvError(
          "STATE_CONFLICT",
          `${machine.name} is ${machine.state}: stop it first, or rm -f`,
        );
      await client.remove(machine.id);
      while ((await client.wait(machine.id, ["destroyed"], 60)) === null);
    });
  },
};

export const wait: Command = {
  summary: "wait for a machine's state; prints its exit code",
  help: `usage: lev wait [--state STATE,…] [--timeout SECONDS] MACHINE

  --state    default stopped,failed,destroyed
  --timeout  give up after so long, with exit code 1 (default: never)

${REF}
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      state: { type: "string" },
      timeout: { type: "string" },
    });
    const [ref = ""] = exactly(positionals, 1, "MACHINE");
    const states = parseStates(values.state);
    const limit =
      values.timeout === undefined ? null : integer("--timeout", values.timeout, 0, 86_400);
    const machine = await waitFor(Client.fromEnvironment(), ref, states, limit);
    await out(`${machine.exit_code ?? machine.state}\n`);
    return 0;
  },
};

function parseStates(text: string | undefined): string[] {
  const states = text === undefined ? REST_STATES : text.split(",");
  const unknown = states.find((state) => !MACHINE_STATES.some((known) => known === state));
  if (unknown !== undefined)
    throw new UsageError(`"${unknown}" is no state; there are ${MACHINE_STATES.join(", ")}`);
  return states;
}

async function waitFor(
  client: Client,
  ref: string,
  states: string[],
  limitSeconds: number | null,
): Promise<Machine> {
  const deadline = limitSeconds === null ? Infinity : Date.now() + limitSeconds * 1000;
  for (;;) {
    const left = Math.max(0, Math.ceil((deadline - Date.now()) / 1000));
    const machine = await client.wait(ref, states, Math.min(60, left));
    if (machine !== null) return machine;
    if (Date.now() >= deadline)
      throw new LvError(
        "WAIT_TIMEOUT",
        `${ref} was not ${states.join(" or ")} after ${limitSeconds} s`,
      );
  }
}

export const inspect: Command = {
  summary: "everything about a machine, as JSON",
  help: `usage: lev inspect MACHINE…\n\n${REF}\n`,
  run: async (argv) => {
    const { positionals } = parse(argv, {});
    if (positionals.length === 0) throw new UsageError("MACHINE is missing");
    const client = Client.fromEnvironment();
    for (const ref of positionals)
      await out(`${JSON.stringify(await client.machine(ref), null, 2)}\n`);
    return 0;
  },
};

/** Each in turn; prints what was named; the first error does not keep the others from their turn. */
async function forEach(
  refs: string[],
  work: (client: Client, ref: string) => Promise<void>,
): Promise<number> {
  if (refs.length === 0) throw new UsageError("MACHINE is missing");
  const client = Client.fromEnvironment();
  let code = 0;
  for (const ref of refs) {
    try {
      await work(client, ref);
      await out(`${ref}\n`);
    } catch (thrown) {
      const error = LvError.from(thrown);
      await err(`lev: ${error.reason}: ${error.message}\n`);
      code = 1;
    }
  }
  return code;
}
