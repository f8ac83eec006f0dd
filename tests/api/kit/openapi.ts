/**
 * Says where a value differs from what /openapi.json promises. Covers the part of
 * JSON Schema that the document uses, and throws on a keyword it does not know,
 * so that nothing is passed unchecked.
 */
import { z } from "zod";

const Schema = z.record(z.string(), z.unknown());
type Schema = z.infer<typeof Schema>;

const Operation = z.object({
  security: z.array(z.record(z.string(), z.array(z.string()))).optional(),
  responses: z.record(
    z.string(),
    z.object({
      content: z.record(z.string(), z.object({ schema: Schema })).optional(),
    }),
  ),
});

export const Document = z.object({
  openapi: z.string(),
  paths: z.record(z.string(), z.record(z.string(), Operation)),
  components: z.object({ schemas: z.record(z.string(), Schema) }),
});
export type Document = z.infer<typeof Document>;

const KNOWN = new Set([
  "$ref",
  "additionalProperties",
  "allOf",
  "anyOf",
  "const",
  "default",
  "description",
  "enum",
  "example",
  "format",
  "items",
  "maxItems",
  "maxLength",
  "maximum",
  "minLength",
  "minimum",
  "pattern",
  "properties",
  "required",
  "type",
]);

export class Contract {
  readonly document: Document;

  constructor(document: unknown) {
    this.document = Document.parse(document);
  }

  /** Empty when the JSON body is what the document says of this answer. */
  check(method: string, route: string, status: number, body: unknown): string[] {
    const operation = this.document.paths[route]?.[method.toLowerCase()];
    if (operation === undefined) return [`${method} ${route} is not in the document`];
    const response = operation.responses[String(status)] ?? operation.responses["default"];
    if (response === undefined) return [`${method} ${route} does not promise ${status}`];
    const schema = response.content?.["application/json"]?.schema;
    if (schema === undefined) return [`${method} ${route} ${status} promises no JSON`];
    return this.#differences(schema, body, "body");
  }

  #differences(schema: Schema, value: unknown, at: string): string[] {
    for (const keyword of Object.keys(schema))
      if (!KNOWN.has(keyword)) throw new Error(`${at}: unknown keyword ${keyword}`);
    const reference = schema["$ref"];
    if (typeof reference === "string") {
      const name = reference.replace("#/components/schemas/", "");
      const target = this.document.components.schemas[name];
      if (target === undefined) throw new Error(`${at}: ${reference} is not in the document`);
      return this.#differences(target, value, at);
    }
    if (Array.isArray(schema["allOf"]))
      return schema["allOf"].flatMap((part) => this.#differences(Schema.parse(part), value, at));
    if (Array.isArray(schema["anyOf"])) {
      const tries = schema["anyOf"].map((part) => this.#differences(Schema.parse(part), value, at));
      return tries.some((found) => found.length === 0) ? [] : tries.flat();
    }
    return this.#plain(schema, value, at);
  }

  #plain(schema: Schema, value: unknown, at: string): string[] {
    const types = z.array(z.string()).parse([schema["type"] ?? []].flat());
    if (types.length > 0 && !types.some((type) => hasType(value, type)))
      return [`${at}: ${JSON.stringify(value)} is no ${types.join(" or ")}`];
    const found: string[] = [];
    const listed = schema["enum"];
    if (Array.isArray(listed) && !listed.includes(value) && value !== null)
      found.push(`${at}: ${JSON.stringify(value)} is none of ${listed.join(", ")}`);
    if ("const" in schema && schema["const"] !== value) found.push(`${at}: not the constant`);
    if (Array.isArray(value) && schema["items"] !== undefined) {
      const items = Schema.parse(schema["items"]);
      found.push(...value.flatMap((entry, n) => this.#differences(items, entry, `${at}[${n}]`)));
    } else if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      found.push(...this.#object(schema, value, at));
    }
    return found;
  }

  #object(schema: Schema, value: object, at: string): string[] {
    const found: string[] = [];
    const properties = z.record(z.string(), Schema).parse(schema["properties"] ?? {});
    const required = z.array(z.string()).parse(schema["required"] ?? []);
    for (const key of required) if (!(key in value)) found.push(`${at}.${key} is missing`);
    for (const [key, entry] of Object.entries(value)) {
      const known = properties[key];
      if (known !== undefined) found.push(...this.#differences(known, entry, `${at}.${key}`));
      else if (typeof schema["additionalProperties"] === "object")
        found.push(
          ...this.#differences(Schema.parse(schema["additionalProperties"]), entry, `${at}.${key}`),
        );
      // What the document does not name is a difference, allowed by JSON Schema or not.
      else found.push(`${at}.${key} is not in the document`);
    }
    return found;
  }
}

function hasType(value: unknown, type: unknown): boolean {
  switch (type) {
    case "null":
      return value === null;
    case "array":
      return Array.isArray(value);
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value);
    case "integer":
      return Number.isInteger(value);
    default:
      return typeof value === type;
  }
}
