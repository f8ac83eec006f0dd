/** Changing what a machine is, and who may: config, metadata, lease. */
import { LvError } from "../../../proto/errors.ts";
import {
  Lease,
  LeaseRequest,
  MachineConfig,
  Metadata,
  MetadataValue,
  PatchMachineRequest,
  ReplaceMachineRequest,
} from "../../../proto/rest.ts";
import { findMachine } from "../../ops/find.ts";
import { releaseLease, showLease, takeLease } from "../../ops/lease.ts";
import { mergePatch, updateMachine } from "../../ops/update-machine.ts";
import type { MachineRow } from "../../db/schema/machines.ts";
import type { Context } from "hono";
import { guard } from "../auth.ts";
import type { App, Env, HttpDeps } from "../deps.ts";
import { fromIssues } from "../errors.ts";
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
import { checkSize } from "../sizes.ts";
import { viewMachine } from "../view.ts";

const Guards = LeaseNonce.extend({
  "if-match": z
    .string()
    .regex(/^(\*|"?\d{1,10}"?)$/, "expected the machine's version")
    .optional()
    .meta({ description: "The version that the change is meant for; another one is refused" }),
});

const patch = createRoute({
  method: "patch",
  path: "/v1/machines/{id}",
  summary: "Change parts of the config (RFC 7396); it holds from the next start on",
  request: {
    params: MachineRef,
    headers: Guards,
    body: { required: true, content: { "application/json": { schema: PatchMachineRequest } } },
  },
  responses: { 200: machineResponse, default: failure },
  ...guard("write"),
});

const replace = createRoute({
  method: "post",
  path: "/v1/machines/{id}",
  summary: "Replace the whole config; it holds from the next start on",
  request: {
    params: MachineRef,
    headers: Guards,
    body: { required: true, content: { "application/json": { schema: ReplaceMachineRequest } } },
  },
  responses: { 200: machineResponse, default: failure },
  ...guard("write"),
});

const getMetadata = createRoute({
  method: "get",
  path: "/v1/machines/{id}/metadata",
  summary: "The machine's metadata",
  request: { params: MachineRef },
  responses: { 200: json(Metadata, "Metadata"), default: failure },
  ...guard("read"),
});

const MetadataRef = MachineRef.extend({
  key: z
    .string()
    .min(1)
    .max(256)
    .meta({ param: { name: "key", in: "path" } }),
});

const setMetadata = createRoute({
  method: "post",
  path: "/v1/machines/{id}/metadata/{key}",
  summary: "Set one value of the metadata",
  request: {
    params: MetadataRef,
    headers: LeaseNonce,
    body: { required: true, content: { "application/json": { schema: MetadataValue } } },
  },
  responses: { 200: json(Metadata, "All of the metadata"), default: failure },
  ...guard("write"),
});

const deleteMetadata = createRoute({
  method: "delete",
  path: "/v1/machines/{id}/metadata/{key}",
  summary: "Remove one value of the metadata",
  request: { params: MetadataRef, headers: LeaseNonce },
  responses: { 200: json(Metadata, "All of the metadata"), default: failure },
  ...guard("write"),
});

const lease = createRoute({
  method: "post",
  path: "/v1/machines/{id}/lease",
  summary: "Keep others from changing the machine for a while",
  request: {
    params: MachineRef,
    headers: LeaseNonce,
    body: { required: false, content: { "application/json": { schema: LeaseRequest } } },
  },
  responses: { 201: json(Lease, "The lease with its nonce"), default: failure },
  ...guard("write"),
});

const getLease = createRoute({
  method: "get",
  path: "/v1/machines/{id}/lease",
  summary: "Who has the machine leased",
  request: { params: MachineRef },
  responses: { 200: json(Lease, "The lease, without its nonce"), default: failure },
  ...guard("read"),
});

const unlease = createRoute({
  method: "delete",
  path: "/v1/machines/{id}/lease",
  summary: "Give the lease back",
  request: { params: MachineRef, headers: LeaseNonce },
  responses: { 200: machineResponse, default: failure },
  ...guard("write"),
});

export function machineConfigRoutes(app: App, deps: HttpDeps): void {
  const find = (c: Context<Env>, id: string): Promise<MachineRow> =>
    findMachine(deps, c.get("principal").projectId, id);
  const metadata = async (
    c: Context<Env>,
    id: string,
    change: (metadata: Record<string, string>) => Record<string, string>,
  ): Promise<Record<string, string>> => {
    const row = await find(c, id);
    const changed = await updateMachine(deps, row.id, { nonce: nonce(c) }, (config) =>
      validConfig({ ...config, metadata: change(config.metadata) }),
    );
    return changed.config.metadata;
  };

  app.openapi(patch, async (c) => {
    const { id } = await find(c, c.req.valid("param").id);
    const { config } = c.req.valid("json");
    const row = await updateMachine(
      deps,
      id,
      { nonce: nonce(c), version: versionOf(c.req.valid("header")["if-match"]) },
      (now) => validConfig(mergePatch(now, config)),
    );
    return c.json(await viewMachine(deps, row), 200);
  });

  app.openapi(replace, async (c) => {
    const { id } = await find(c, c.req.valid("param").id);
    const { config } = c.req.valid("json");
    checkSize(config);
    const guarded = { nonce: nonce(c), version: versionOf(c.req.valid("header")["if-match"]) };
    const row = await updateMachine(deps, id, guarded, () => config);
    return c.json(await viewMachine(deps, row), 200);
  });

  app.openapi(getMetadata, async (c) =>
    c.json((await find(c, c.req.valid("param").id)).config.metadata, 200),
  );

  app.openapi(setMetadata, async (c) => {
    const { id, key } = c.req.valid("param");
    const { value } = c.req.valid("json");
    return c.json(await metadata(c, id, (now) => ({ ...now, [key]: value })), 200);
  });

  app.openapi(deleteMetadata, async (c) => {
    const { id, key } = c.req.valid("param");
    const without = (now: Record<string, string>) =>
      Object.fromEntries(Object.entries(now).filter(([known]) => known !== key));
    return c.json(await metadata(c, id, without), 200);
  });

  app.openapi(lease, async (c) => {
    const { id } = await find(c, c.req.valid("param").id);
    const body: z.input<typeof LeaseRequest> = c.req.valid("json") ?? {};
    const made = await takeLease(deps, id, {
      owner: c.get("principal").tokenId,
      ttlS: body.ttl ?? 60,
      description: body.description ?? null,
      nonce: nonce(c),
    });
    return c.json(made, 201);
  });

  app.openapi(getLease, async (c) =>
    c.json(await showLease(deps, await find(c, c.req.valid("param").id)), 200),
  );

  app.openapi(unlease, async (c) => {
    const row = await find(c, c.req.valid("param").id);
    await releaseLease(deps, row.id, nonce(c));
    return c.json(await viewMachine(deps, row), 200);
  });
}

function versionOf(ifMatch: string | undefined): number | undefined {
  return ifMatch === undefined || ifMatch === "*" ? undefined : Number(ifMatch.replaceAll('"', ""));
}

/** Throws BAD_REQUEST. */
function validConfig(value: unknown): MachineConfig {
  const parsed = MachineConfig.safeParse(value);
  if (!parsed.success) {
    const error = fromIssues(parsed.error);
    throw new LvError("BAD_REQUEST", `config: ${error.message}`);
  }
  checkSize(parsed.data);
  return parsed.data;
}
