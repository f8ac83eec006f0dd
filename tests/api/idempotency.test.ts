/** Keys of requests that take longer than a dead process's key is kept. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Hono } from "hono";
import { sql } from "drizzle-orm";
import type { Env } from "../../cp/http/deps.ts";
import { errorResponse } from "../../cp/http/errors.ts";
import { idempotent } from "../../cp/http/idempotency.ts";
import { DEFAULT_PROJECT, RequestId } from "../../proto/ids.ts";
import { ErrorBody } from "../../proto/rest.ts";
import { until } from "../kit/until.ts";
import { type Api, startApi } from "./kit/api.ts";

let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api[Symbol.asyncDispose]());

test("a request that is still handled keeps its key, however long it takes", async () => {
  const abandonedS = 0.5;
  const gate = Promise.withResolvers<void>();
  let handled = 0;
  const app = new Hono<Env>();
  app.use(async (c, next) => {
    c.set("requestId", RequestId.create());
    const who = { tokenId: "tok_1", scope: "write", fleet: true } as const;
    c.set("principal", { ...who, projectId: DEFAULT_PROJECT });
    await next();
  });
  app.use(idempotent(api.deps, abandonedS));
  app.onError((error, c) => errorResponse(error, c.get("requestId"), api.deps.log));
  app.post("/slow", async (c) => {
    handled += 1;
    await gate.promise;
    return c.json({ handled });
  });
  const ask = async (): Promise<Response> =>
    app.request("/slow", { method: "POST", headers: { "idempotency-key": "slow" } });
  const first = ask();
  const now = async (): Promise<number> => {
    const [row] = await api.database.db.execute<{ now: number }>(
      sql`select extract(epoch from now())::float8 as now`,
    );
    return row?.now ?? 0;
  };
  const began = await now();
  const late = async (): Promise<boolean> => (await now()) > began + 2 * abandonedS;
  await until("more time than the dead have", late);
  const second = await ask();
  expect(ErrorBody.parse(await second.json()).error.reason).toBe("STATE_CONFLICT");
  gate.resolve();
  expect(await (await first).json()).toEqual({ handled: 1 });
  const third = await ask();
  expect(third.headers.get("idempotent-replayed")).toBe("true");
  expect(handled).toBe(1);
});
