import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readAuthFile } from "./registry-auth.ts";

const dir = mkdtempSync(join(tmpdir(), "lev-auth-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function write(content: string, mode = 0o600): string {
  const path = join(dir, "auth.json");
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

const auths = (value: object): string => JSON.stringify({ auths: value });
const pair = (text: string): object => ({ auth: btoa(text) });

describe("readAuthFile", () => {
  test("reads what docker login writes", () => {
    const path = write(
      auths({
        "https://index.docker.io/v1/": pair("hub:p:with:colons"),
        "reg.example:5000": pair("u:p"),
        "other.example": { username: "v", password: "q" },
      }),
    );
    expect(readAuthFile(path)).toEqual({
      "docker.io": { username: "hub", password: "p:with:colons" },
      "reg.example:5000": { username: "u", password: "p" },
      "other.example": { username: "v", password: "q" },
    });
  });

  const bad: [string, string, number, RegExp][] = [
    ["a file others may read", auths({}), 0o640, /open to others \(mode 0640\)/],
    ["a file others may write", auths({}), 0o602, /open to others/],
    ["what is not JSON", "{hunter2", 0o600, /is not JSON/],
    ["another shape", "[]", 0o600, /has no "auths"/],
    ["an entry without a password", auths({ h: { username: "hunter2" } }), 0o600, /for "h"/],
    ["an identity token", auths({ h: { identitytoken: "hunter2" } }), 0o600, /identity token/],
  ];
  for (const [what, content, mode, message] of bad)
    test(`refuses ${what}, without a word of its content`, () => {
      const path = write(content, mode);
      expect(() => readAuthFile(path)).toThrow(message);
      expect(() => readAuthFile(path)).not.toThrow(/hunter2/);
    });

  test("refuses a file that is not there", () => {
    expect(() => readAuthFile(join(dir, "none"))).toThrow(/cannot be read/);
  });
});
