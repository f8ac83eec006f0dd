import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeCpio, type CpioEntry } from "./cpio.ts";
import { buildInitramfs } from "./initramfs.ts";

const work = mkdtempSync(join(tmpdir(), "leveret-cpio-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));

const busybox = Bun.which("busybox");

function cpio(archive: Uint8Array, ...argv: string[]): string {
  const result = Bun.spawnSync(["busybox", "cpio", ...argv], { stdin: archive, cwd: work });
  expect(result.exitCode).toBe(0);
  return result.stdout.toString();
}

test.skipIf(busybox === null)("busybox cpio unpacks what writeCpio wrote", () => {
  const entries: CpioEntry[] = [{ kind: "directory", path: "d", mode: 0o750 }];
  for (let bytes = 0; bytes < 9; bytes += 1) {
    const data = Buffer.alloc(bytes, `${bytes}`);
    entries.push({ kind: "file", path: `d/${"n".repeat(bytes + 1)}`, mode: 0o640, data });
  }
  cpio(writeCpio(entries), "-id");
  expect(statSync(join(work, "d")).mode & 0o7777).toBe(0o750);
  for (let bytes = 0; bytes < 9; bytes += 1) {
    const path = join(work, "d", "n".repeat(bytes + 1));
    expect(readFileSync(path, "utf8")).toBe(`${bytes}`.repeat(bytes));
    expect(statSync(path).mode & 0o7777).toBe(0o640);
  }
});

test.skipIf(busybox === null)("an initramfs has init, the console and the modules in order", () => {
  mkdirSync(join(work, "i"));
  const modules = [
    { file: "b.ko", data: Buffer.from("BB") },
    { file: "a.ko", data: Buffer.from("A") },
  ];
  const ofConsole = [...modules.slice(0, 1), { file: "c.ko", data: Buffer.from("C") }];
  const archive = buildInitramfs(Buffer.from("#!init"), modules, ofConsole);
  const names = ["dev", "dev/console", "init", "modules", "modules/b.ko", "modules/a.ko"];
  const rest = ["modules/c.ko", "modules/order", "modules/console"];
  expect(cpio(archive, "-t").trim().split("\n")).toEqual([...names, ...rest]);
  expect(cpio(archive, "-tv")).toMatch(/crw------- .* dev\/console/);
  // The two numbers of the device are the tenth and eleventh field of its header.
  const header = Buffer.from(archive).toString("latin1").split("dev/console")[0]?.slice(-110);
  expect(header?.slice(6 + 9 * 8, 6 + 11 * 8)).toBe("0000000500000001");
  cpio(archive, "-id", "init", "modules/order", "modules/console");
  expect(readFileSync(join(work, "modules/order"), "utf8")).toBe("b.ko\na.ko\n");
  expect(readFileSync(join(work, "modules/console"), "utf8")).toBe("b.ko\nc.ko\n");
  expect(statSync(join(work, "init")).mode & 0o7777).toBe(0o755);
});

test("the same entries give the same bytes", () => {
  const init = Buffer.from("x");
  expect(buildInitramfs(init, [])).toEqual(buildInitramfs(init, []));
});
