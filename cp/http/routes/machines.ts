import { LIMITS } from "../../../lib/limits.ts";
import { LvError } from "../../../proto/errors.ts";
import { CreateMachineRequest, Machine, StopMachineRequest } from "../../../proto/rest.ts";
import { MACHINE_STATES, type MachineState } from "../../../proto/states.ts";
import { listEvents } from "../../db/queries/events.ts";
import { listMachines } from "../../db/queries/machines.ts";
import { createMachine } from "../../ops/create-machine.ts";
import { destroyMachine } from "../../ops/destroy-machine.ts";
import { findMachine } from "../../ops/find.ts";
import { startMachine } from "../../ops/start-machine.ts";
import { restartMachine, stopMachine, type StopRequest } from "../../ops/stop-machine.ts";
import { waitForState } from "../../ops/wait.ts";
import { guard } from "../auth.ts";
import type { Context } from "hono";
import type { App, Env, HttpDeps } from "../deps.ts";
import {
  createRoute,
  failure,
  json,
  LeaseNonce,
  machineResponse,
  MachineRef,
  nonce,
  z,
} from "../schemas.ts";
import { nextPage, Page, page } from "../pages.ts";
import { checkSize } from "../sizes.ts";
import { eventView, viewMachine, viewMachines } from "../view.ts";

const EVENTS_SHOWN = 50;

const create = createRoute({
  method: "post",
  path: "/v1/machines",
  summary: "Create a machine and start it",
  request: {
    headers: z.object({
      "idempotency-key": z.string().min(1).max(256).optional().meta({
        description: "The same key with the same body returns the machine of the first call",
      }),
    }),
    body: { required: true, content: { "application/json": { schema: CreateMachineRequest } } },
  },
  responses: {
    201: json(Machine, "The machine; `pending` or `failed` with NO_CAPACITY when no host has room"),
    default: failure,
  },
  ...guard("write"),
});

const List = z
  .object({
    state: z.string().optional().meta({ description: "One or more states, separated by commas" }),
    name: z.string().max(LIMITS.nameMaxLength).optional(),
  })
  .extend(Page.shape);

const list = createRoute({
  method: "get",
  path: "/v1/machines",
  summary: "Machines, newest first; destroyed ones only when asked for",
  request: { query: List },
  responses: { 200: page(Machine, "Machines"), default: failure },
  ...guard("read"),
});

const get = createRoute({
  method: "get",
  path: "/v1/machines/{id}",
  summary: "One machine with its newest events",
  request: { params: MachineRef },
  responses: { 200: machineResponse, default: failure },
  ...guard("read"),
});

const start = createRoute({
  method: "post",
  path: "/v1/machines/{id}/start",
  summary: "Start a machine that is at rest",
  request: { params: MachineRef, headers: LeaseNonce },
  responses: { 200: machineResponse, default: failure },
  ...guard("write"),
});

const stop = createRoute({
  method: "post",
  path: "/v1/machines/{id}/stop",
  summary: "Stop a machine",
  request: {
    params: MachineRef,
    headers: LeaseNonce,
    body: { required: false, content: { "application/json": { schema: StopMachineRequest } } },
  },
  responses: { 200: machineResponse, default: failure },
  ...guard("write"),
});

const restart = createRoute({
  method: "post",
  path: "/v1/machines/{id}/restart",
  summary: "Stop a machine, if it runs, and start it again",
  request: {
    params: MachineRef,
    headers: LeaseNonce,
    body: { required: false, content: { "application/json": { schema: StopMachineRequest } } },
  },
  responses: { 200: machineResponse, default: failure },
  ...guard("write"),
});

const destroy = createRoute({
  method: "delete",
  path: "/v1/machines/{id}",
  summary: "Stop a machine and remove all it has",
  request: {
    params: MachineRef,
    headers: LeaseNonce,
    query: z.object({
      force: z.enum(["true", "false", "1", "0", ""]).optional().meta({
        description:
          "Do not wait for a host that is away; should it come back, it removes the machine",
      }),
    }),
  },
  responses: { 200: machineResponse, default: failure },
  ...guard("write"),
});

const Wait = z.object({
  state: z.string().default("started").meta({
    description: "One or more states, separated by commas; any of them ends the wait",
  }),
  timeout: z.coerce
    .number()
    .min(0)
    .max(LIMITS.waitMaxMs / 1000)
    .default(60)
    .meta({ description: "Seconds" }),
});

const wait = createRoute({
  method: "get",
  path: "/v1/machines/{id}/wait",
  summary: "Wait until the machine is in a state",
  request: { params: MachineRef, query: Wait },
  responses: { 200: machineResponse, default: failure },
  ...guard("read"),
});

export function machineRoutes(app: App, deps: HttpDeps): void {
  app.openapi(create, async (c) => {
    const { name, config, on_no_capacity } = c.req.valid("json");
    checkSize(config);
    const key = c.req.valid("header")["idempotency-key"];
    const idempotency =
      key === undefined ? undefined : { key, requestHash: hash({ name, config, on_no_capacity }) };
    const row = await createMachine(deps, {
      projectId: projectId(c),
      name,
      config,
      idempotency,
      onNoCapacity: on_no_capacity,
    });
    return c.json(await viewMachine(deps, row), 201);
  });

  app.openapi(list, async (c) => {
    const { state, name, limit, cursor } = c.req.valid("query");
    const rows = await listMachines(deps.database.db, {
      projectId: projectId(c),
      limit,
      ...(cursor === undefined ? {} : { cursor }),
      ...(state === undefined ? {} : { states: [...parseStates(state)] }),
      ...(name === undefined ? {} : { name }),
    });
    nextPage(c, rows, limit, (row) => row.id);
    return c.json(await viewMachines(deps, rows), 200);
  });

  app.openapi(get, async (c) => {
    const row = await findMachine(deps, projectId(c), c.req.valid("param").id);
    const events = await listEvents(deps.database.db, row.id, EVENTS_SHOWN);
    return c.json({ ...(await viewMachine(deps, row)), events: events.map(eventView) }, 200);
  });

  app.openapi(start, async (c) => {
    const { id } = await findMachine(deps, projectId(c), c.req.valid("param").id);
    return c.json(await viewMachine(deps, await startMachine(deps, id, nonce(c))), 200);
  });

  app.openapi(stop, async (c) => {
    const { id } = await findMachine(deps, projectId(c), c.req.valid("param").id);
    const request = stopOf(c.req.valid("json"));
    return c.json(await viewMachine(deps, await stopMachine(deps, id, request, nonce(c))), 200);
  });

  app.openapi(restart, async (c) => {
    const { id } = await findMachine(deps, projectId(c), c.req.valid("param").id);
    const request = stopOf(c.req.valid("json"));
    return c.json(await viewMachine(deps, await restartMachine(deps, id, request, nonce(c))), 200);
  });

  app.openapi(destroy, async (c) => {
    const force = ["true", "1", ""].includes(c.req.valid("query").force ?? "false");
    const { id } = await findMachine(deps, projectId(c), c.req.valid("param").id);
    return c.json(
      await viewMachine(deps, await destroyMachine(deps, id, { force, nonce: nonce(c) })),
      200,
    );
  });

  app.openapi(wait, async (c) => {
    const { state, timeout } = c.req.valid("query");
    const wanted = parseStates(state);
    const { id } = await findMachine(deps, projectId(c), c.req.valid("param").id);
    const ended = AbortSignal.any([c.req.raw.signal, deps.shutdown]);
    const row = await waitForState(deps, id, wanted, timeout * 1000, ended);
    return c.json(await viewMachine(deps, row), 200);
  });
}

/** Without a body the validator hands on nothing at all. */
function stopOf(body: z.infer<typeof StopMachineRequest> | undefined): StopRequest {
  return { signal: body?.signal, timeoutSeconds: body?.timeout };
}

function projectId(c: Context<Env>): string {
  return c.get("principal").projectId;
}

function parseStates(text: string): Set<MachineState> {
  const states = new Set<MachineState>();
  for (const word of text.split(",")) {
    const state = MACHINE_STATES.find((known) => known === word.trim());
    if (state === undefined)
      throw new LvError(
        "BAD_REQUEST",
        `state: "${word.slice(0, 40)}" is none of ${MACHINE_STATES.join(", ")}`,
      );
    states.add(state);
  }
  return states;
}

function hash(value: unknown): string {
  return new Bun.CryptoHasher("sha256").update(JSON.stringify(value)).digest("hex");
}
