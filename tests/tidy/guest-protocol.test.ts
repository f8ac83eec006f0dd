/** proto/guest.ts is the contract of the guest's channel; init repeats its numbers in C. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as guest from "../../proto/guest.ts";
import packageJson from "../../package.json" with { type: "json" };

const INIT = join(import.meta.dir, "../../native/init");

/** "execNotFound" → "EXEC_NOT_FOUND" */
const upper = (name: string): string => name.replace(/[A-Z]/g, "_$&").toUpperCase();

function table(prefix: string, rows: Record<string, number>): [string, number][] {
  return Object.entries(rows).map(([name, value]) => [`LV_${prefix}_${upper(name)}`, value]);
}

/** Every `#define LV_NAME number` of the header. */
function defines(): Map<string, number> {
  const found = new Map<string, number>();
  const text = readFileSync(join(INIT, "protocol.h"), "utf8");
  for (const [, name, value, shift] of text.matchAll(
    /^#define (LV_\w+)\s+\(?(\d+)u(?: << (\d+)\))?$/gm,
  ))
    found.set(name ?? "", Number(value) * 2 ** Number(shift ?? 0));
  return found;
}

test("protocol.h holds the numbers of proto/guest.ts and no others", () => {
  const expected = new Map<string, number>([
    ["LV_GUEST_PORT", guest.GUEST_PORT],
    ["LV_GUEST_PROTOCOL", guest.GUEST_PROTOCOL],
    ["LV_GUEST_HEADER_BYTES", guest.GUEST_HEADER_BYTES],
    ["LV_GUEST_PAYLOAD_MAX_BYTES", guest.GUEST_PAYLOAD_MAX_BYTES],
    ...table("GUEST_FRAME", guest.GUEST_FRAME),
    ...table("HOST_FRAME", guest.HOST_FRAME),
    ...table("RUN_FIELD", guest.RUN_FIELD),
    ...table("GUEST_ERROR", guest.GUEST_ERROR),
  ]);
  expect(Object.fromEntries(defines())).toEqual(Object.fromEntries(expected));
});

test("init says the version of package.json", () => {
  const text = readFileSync(join(INIT, "init.h"), "utf8");
  expect(/#define LV_INIT_VERSION "(.+)"/.exec(text)?.[1]).toBe(packageJson.version);
});
