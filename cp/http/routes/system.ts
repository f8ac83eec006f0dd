/** What operators and developers read: metrics, the document and its page. */
import { guard } from "../auth.ts";
import type { App } from "../deps.ts";
import type { Metrics } from "../metrics.ts";
import { referencePage } from "../reference.ts";
import { createRoute, failure, z } from "../schemas.ts";

const metricsRoute = createRoute({
  method: "get",
  path: "/metrics",
  summary: "Measurements in Prometheus' text format",
  responses: {
    200: { description: "Text", content: { "text/plain": { schema: z.string() } } },
    default: failure,
  },
  ...guard("fleet_read"),
});

const docs = createRoute({
  method: "get",
  path: "/docs",
  summary: "This reference; a browser may send the token as the password of Basic",
  responses: {
    200: { description: "A page", content: { "text/html": { schema: z.string() } } },
    default: failure,
  },
  ...guard("read"),
});

const PAGE_HEADERS = {
  // The page has a style of its own and nothing else that a browser would run or fetch.
  "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
  "x-content-type-options": "nosniff",
};

/** `document` is asked for each time: routes may be added after this call. */
export function systemRoutes(app: App, metrics: Metrics, document: () => unknown): void {
  app.openapi(metricsRoute, async (c) =>
    c.text(await metrics.text(), 200, { "content-type": metrics.contentType }),
  );
  app.openapi(docs, (c) => c.html(referencePage(document()), 200, PAGE_HEADERS));
}
