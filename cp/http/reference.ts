/** The API's reference as one page, out of its own document: no script, nothing from elsewhere. */
import { z } from "zod";

const Parameter = z.object({
  name: z.string(),
  in: z.string(),
  required: z.boolean().optional(),
  description: z.string().optional(),
  schema: z.unknown().optional(),
});
const Body = z.object({
  content: z.record(z.string(), z.object({ schema: z.unknown() })).optional(),
});
const Operation = z.object({
  summary: z.string().optional(),
  description: z.string().optional(),
  security: z.array(z.record(z.string(), z.array(z.string()))).optional(),
  parameters: z.array(Parameter).optional(),
  requestBody: Body.optional(),
  responses: z.record(z.string(), Body.extend({ description: z.string() })),
});
const Document = z.object({
  info: z.object({ title: z.string(), version: z.string(), description: z.string() }),
  paths: z.record(z.string(), z.record(z.string(), Operation)),
  components: z.object({ schemas: z.record(z.string(), z.unknown()) }),
});
type Operation = z.infer<typeof Operation>;

const STYLE = `body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #ccd4dc}h3{font:600 15px ui-monospace,monospace}
code,pre{font:13px ui-monospace,monospace}pre{background:#f3f5f7;padding:.7rem;overflow:auto;border-radius:4px}
table{border-collapse:collapse}td{padding:.15rem 1rem .15rem 0;vertical-align:top}.verb{color:#0b6}.need{color:#678}
@media(prefers-color-scheme:dark){body{background:#12171c;color:#d6dde4}pre{background:#1b232b}}`;

/** Throws when the document is not one of ours. */
export function referencePage(document: unknown): string {
  const { info, paths, components } = Document.parse(document);
  const routes = Object.entries(paths).map(([path, operations]) =>
    Object.entries(operations)
      .map(([method, operation]) => routeSection(method, path, operation))
      .join(""),
  );
  const schemas = Object.entries(components.schemas).map(
    ([name, schema]) => `<h3 id="${escape(name)}">${escape(name)}</h3>${code(schema)}`,
  );
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${escape(info.title)} API</title>
<meta name="viewport" content="width=device-width"><style>${STYLE}</style></head><body>
<h1>${escape(info.title)} API ${escape(info.version)}</h1><p>${escape(info.description)}</p>
<p>Every request needs <code>Authorization: Bearer lvt_…</code>. The document itself: <a href="/openapi.json">/openapi.json</a>.</p>
<h2>Routes</h2>${routes.join("")}<h2>Shapes</h2>${schemas.join("")}</body></html>`;
}

function routeSection(method: string, path: string, operation: Operation): string {
  const need = operation.security?.[0]?.["token"]?.[0];
  const rows = (operation.parameters ?? []).map(
    (one) =>
      `<tr><td><code>${escape(one.name)}</code></td><td>${escape(one.in)}${one.required === true ? ", required" : ""}</td><td>${escape(one.description ?? "")}</td></tr>`,
  );
  const answers = Object.entries(operation.responses).map(
    ([status, { description, content }]) =>
      `<tr><td>${escape(status)}</td><td>${escape(description)}</td><td>${shape(content)}</td></tr>`,
  );
  const body = operation.requestBody?.content;
  return `<section><h3><span class="verb">${method.toUpperCase()}</span> ${escape(path)}</h3>
<p>${escape(operation.summary ?? "")} <span class="need">${need === undefined ? "No token." : `Needs: ${escape(need)}.`}</span></p>
${operation.description === undefined ? "" : `<p>${escape(operation.description)}</p>`}
${rows.length === 0 ? "" : `<table>${rows.join("")}</table>`}
${body === undefined ? "" : `<p>Body: ${shape(body)}</p>`}
<table>${answers.join("")}</table></section>`;
}

/** A link to the shape that has a name, the schema itself otherwise. */
function shape(content: z.infer<typeof Body>["content"]): string {
  return Object.entries(content ?? {})
    .map(([type, { schema }]) => {
      const name = /"#\/components\/schemas\/(\w+)"/.exec(JSON.stringify(schema) ?? "")?.[1];
      if (name === undefined) return `${escape(type)} ${code(schema)}`;
      const list = JSON.stringify(schema).includes('"array"') ? " list" : "";
      return `<a href="#${escape(name)}">${escape(name)}</a>${list}`;
    })
    .join(" ");
}

function code(value: unknown): string {
  return `<pre>${escape(JSON.stringify(value, null, 2) ?? "")}</pre>`;
}

function escape(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}
