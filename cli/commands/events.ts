/** `lev events` and `lev audit`: what happens, and who asked for it. */
import { Backoff } from "../../lib/backoff.ts";
import { systemClock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { AuditEntry, FeedEvent, MachineEventBody } from "../../proto/rest.ts";
import { errorFrom } from "../answers.ts";
import { Client, machinePath } from "../client.ts";
import { exactly, integer, parse, UsageError, type Command } from "../command.ts";
import { out } from "../output.ts";
import { table } from "../render.ts";

const PATIENCE_MS = 60_000;

export const events: Command = {
  summary: "what happens to machines, as it happens or of one so far",
  help: `usage: lev events [--json] [-f] [MACHINE]

With MACHINE what happened to it, oldest first; with -f, or without MACHINE, what
happens from now on, until Ctrl-C. --json: one object per line.
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      follow: { type: "boolean", short: "f" },
      json: { type: "boolean" },
    });
    const [machine, ...more] = positionals;
    if (more.length > 0) throw new UsageError(`"${more[0] ?? ""}" is one word too many`);
    const client = Client.fromEnvironment();
    const show = (event: MachineEventBody & { machine_id?: string }): Promise<void> =>
      out(values.json === true ? `${JSON.stringify(event)}\n` : `${eventLine(event)}\n`);
    if (machine !== undefined && values.follow !== true) {
      const past = await client.pages(`${machinePath(machine)}/events`, MachineEventBody);
      for (const event of past.toReversed()) await show(event);
      return 0;
    }
    for await (const event of follow(client, machine)) await show(event);
    return 0;
  },
};

/** Pure. */
export function eventLine(event: MachineEventBody & { machine_id?: string }): string {
  const words = [
    new Date(event.timestamp).toISOString(),
    event.machine_id,
    event.type,
    event.status,
    `by ${event.source}`,
    event.reason === null ? undefined : `${event.reason}:`,
    event.message ?? undefined,
  ];
  return words.filter((word) => word !== undefined).join("  ");
}

/** Each once, though the stream may break: the control plane goes on after the last id. */
async function* follow(client: Client, machine: string | undefined): AsyncGenerator<FeedEvent> {
  const query = machine === undefined ? "" : `?machine=${encodeURIComponent(machine)}`;
  const backoff = new Backoff({ baseMs: 200, capMs: 3_000 });
  let last: string | null = null;
  let failingSince: number | null = null;
  for (;;) {
    try {
      for await (const event of client.stream(`/v1/events${query}`, last)) {
        failingSince = null;
        backoff.reset();
        if (event.event === "error") throw errorFrom(500, event.data);
        if (event.event !== "event") continue;
        yield FeedEvent.parse(JSON.parse(event.data));
        last = event.id;
      }
    } catch (error) {
      if (error instanceof LvError && !error.retryable) throw error;
    }
    failingSince ??= systemClock.now();
    if (systemClock.now() - failingSince > PATIENCE_MS)
      throw new LvError("LINK_LOST", "The event stream was cut off and did not come back");
    await systemClock.sleep(backoff.next());
  }
}

export const audit: Command = {
  summary: "who asked for what",
  help: `usage: lev audit [--json] [-n COUNT]

Requests that changed something or tried to, newest first (default 50).
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      json: { type: "boolean" },
      count: { type: "string", short: "n" },
    });
    exactly(positionals, 0, "");
    const count = values.count === undefined ? 50 : integer("-n", values.count, 1, 500);
    const entries = await Client.fromEnvironment().call(
      "GET",
      `/v1/audit?limit=${count}`,
      AuditEntry.array(),
    );
    const rows = entries.map((entry) => [
      entry.time,
      entry.token_id,
      entry.method,
      entry.path,
      String(entry.status),
    ]);
    await out(
      values.json === true
        ? `${JSON.stringify(entries, null, 2)}\n`
        : table(["TIME", "TOKEN", "METHOD", "PATH", "STATUS"], rows),
    );
    return 0;
  },
};
