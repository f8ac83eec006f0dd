/** Mutations of JSON as a tree: a value somewhere becomes another, goes, or comes twice. */
import type { Random } from "./mutate.ts";

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const DEPTH_MAX = 12;

const VALUES: Json[] = [
  null,
  true,
  false,
  0,
  -0,
  1,
  -1,
  64,
  65,
  0.5,
  1e308,
  2 ** 31,
  2 ** 32,
  2 ** 53 - 1,
  2 ** 53,
  -(2 ** 53),
  "",
  "/",
  "/a/../b",
  "a\0b",
  "é\ud800",
  "x".repeat(5_000),
  "__proto__",
  [],
  {},
  [[]],
  [null],
  Array.from({ length: 20 }, () => ({})),
];

const isObject = (value: Json): value is { [key: string]: Json } =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function mutateText(text: string, random: Random): string {
  const at = random(text.length + 1);
  const put =
    ["\0", "é", "/", ":", "-", " ", "\n", "9", "x".repeat(random(5_000))][random(9)] ?? "";
  return random(3) === 0 ? text.slice(0, at) : text.slice(0, at) + put + text.slice(at);
}

function mutateLeaf(value: Json, random: Random): Json {
  if (random(3) === 0) return VALUES[random(VALUES.length)] ?? null;
  if (typeof value === "number")
    return [value + 1, value - 1, -value, value * 2 ** random(40), value + 0.5][random(5)] ?? 0;
  if (typeof value === "string") return mutateText(value, random);
  return VALUES[random(VALUES.length)] ?? null;
}

function mutateValue(value: Json, random: Random, depth: number): Json {
  const isTree = Array.isArray(value) || isObject(value);
  if (!isTree || depth > DEPTH_MAX || random(12) === 0) return mutateLeaf(value, random);
  if (Array.isArray(value)) {
    const index = random(value.length + 1);
    const item = value[index];
    if (item === undefined || random(6) === 0) return [...value, ...value, null].slice(0, 40);
    if (random(6) === 0) return value.toSpliced(index, 1);
    return value.with(index, mutateValue(item, random, depth + 1));
  }
  const keys = Object.keys(value);
  const key = keys[random(keys.length)] ?? "id";
  if (random(8) === 0) return Object.fromEntries(Object.entries(value).filter(([k]) => k !== key));
  if (random(16) === 0) return { ...value, [`${key}_`]: value[key] ?? null };
  return { ...value, [key]: mutateValue(value[key] ?? null, random, depth + 1) };
}

/** A changed copy; what is no JSON becomes some. */
export function mutateJson(bytes: Uint8Array, random: Random): Uint8Array {
  let value: Json = null;
  try {
    // What parses is JSON.
    value = JSON.parse(new TextDecoder().decode(bytes)) as Json;
  } catch {
    // An input that bytes were changed in: it begins anew.
    value = VALUES[random(VALUES.length)] ?? null;
  }
  for (let i = 1 + random(3); i > 0; i -= 1) value = mutateValue(value, random, 0);
  return new TextEncoder().encode(JSON.stringify(value));
}
