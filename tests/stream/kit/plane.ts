/** A control plane on a database of its own, on free ports, with short periods. */
import { sql } from "drizzle-orm";
import { silentLog } from "../../../lib/log.ts";
import type { Machine } from "../../../proto/rest.ts";
import { startControlPlane, type ControlPlane, type Overrides } from "../../../cp/server.ts";
import { AUTHORIZATION, TEST_TOKEN } from "../../kit/token.ts";
import { createDatabase } from "../../kit/postgres.ts";
import { until } from "../../kit/until.ts";

export async function startPlane(overrides: Overrides = {}): Promise<ControlPlane> {
  return startControlPlane({
    env: {},
    log: silentLog(),
    outboxPollMs: 50,
    reconcileMs: 50,
    ...overrides,
    config: {
      httpPort: 0,
      grpcPort: 0,
      insecureLink: true,
      bootstrapToken: TEST_TOKEN,
      databaseUrl: overrides.config?.databaseUrl ?? (await createDatabase()),
      ...overrides.config,
    },
  });
}

export type Reply = { status: number; body: unknown };

/** In this process or in another. */
type Reachable = Pick<ControlPlane, "httpUrl">;

export async function call(
  plane: Reachable,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Reply> {
  const response = await fetch(`${plane.httpUrl}${path}`, {
    method,
    headers: {
      ...AUTHORIZATION,
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: await response.json() };
}

export async function machineOf(plane: Reachable, id: string): Promise<Machine> {
  const { body } = await call(plane, "GET", `/v1/machines/${id}`);
  return body as Machine;
}

/** Waits until the machine, as the API shows it, is in the state. */
export function untilState(
  plane: Reachable,
  id: string,
  state: Machine["state"],
): Promise<Machine> {
  return until(`${id} to be ${state}`, async () => {
    const machine = await machineOf(plane, id);
    return machine.state === state ? machine : null;
  });
}

/** Waits until it is written that the op's host has journalled it. */
export async function untilAcked(plane: ControlPlane, opId: string): Promise<void> {
  await until(`the Ack of ${opId} to be written`, async () => {
    const rows = await plane.deps.database.db.execute(
      sql`select 1 from ops where id = ${opId} and state = 'acked'`,
    );
    return rows.length === 1;
  });
}

export async function createMachine(
  plane: Reachable,
  body: { name?: string; guest?: Record<string, unknown> } = {},
  headers: Record<string, string> = {},
): Promise<Machine> {
  const { name, guest = {} } = body;
  const reply = await call(
    plane,
    "POST",
    "/v1/machines",
    {
      ...(name === undefined ? {} : { name }),
      config: { image: "busybox", guest },
      on_no_capacity: "fail",
    },
    headers,
  );
  if (reply.status !== 201) throw new Error(`create answered ${JSON.stringify(reply)}`);
  return reply.body as Machine;
}
