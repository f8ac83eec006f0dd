import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  beginReadAt,
  closeFile,
  fileExists,
  fileStatus,
  openFile,
  openIfThere,
  readAt,
  readText,
  removeFile,
  renameFile,
  replaceText,
  settleReadings,
  truncateFile,
  writeSome,
} from "./libc.ts";
import { ERRNO, SystemError } from "./system-error.ts";

let directory = "";
let path = "";
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "leveret-libc-"));
  path = join(directory, "ä file");
});
afterEach(() => rmSync(directory, { recursive: true }));

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** What `work` throws, which must be a SystemError. */
function failure(work: () => unknown): SystemError {
  try {
    work();
  } catch (error) {
    if (error instanceof SystemError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

test("a file is made for its owner, written, read at any place, cut and closed", () => {
  const fd = openFile(path, "append");
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(writeSome(fd, bytes("hello "))).toBe(6);
  expect(writeSome(fd, bytes("world"))).toBe(5);
  const into = new Uint8Array(8);
  expect(readAt(fd, into.subarray(0, 5), 6)).toBe(5);
  expect(new TextDecoder().decode(into.subarray(0, 5))).toBe("world");
  // Less at the end of the file only.
  expect(readAt(fd, into, 9)).toBe(2);
  expect(readAt(fd, into, 100)).toBe(0);
  truncateFile(fd, 5);
  expect(fileStatus(fd)).toMatchObject({ kind: "file", bytes: 5 });
  closeFile(fd);
  expect(failure(() => fileStatus(fd)).code).toBe("EBADF");
  expect(readFileSync(path, "utf8")).toBe("hello");
});

test("what is opened anew is empty, what is updated is not", () => {
  writeFileSync(path, "old");
  closeFile(openFile(path, "update"));
  expect(readText(path)).toBe("old");
  closeFile(openFile(path, "replace"));
  expect(readText(path)).toBe("");
});

test("text of any length is read, of files without a size, too", () => {
  for (const length of [0, 1, 4_095, 4_096, 4_097, 100_000]) {
    const text = "é".repeat(length);
    writeFileSync(path, text);
    expect(readText(path)).toBe(text);
  }
  expect(readText("/proc/self/stat").startsWith(`${process.pid} (`)).toBe(true);
});

test("what is no file is told apart", () => {
  const zero = openFile("/dev/zero", "read");
  expect(fileStatus(zero)).toMatchObject({ kind: "other", major: 1, minor: 5 });
  closeFile(zero);
  const folder = openFile(directory, "read");
  expect(fileStatus(folder).kind).toBe("other");
  closeFile(folder);
});

test("a text is replaced whole, and the old one stays when it cannot be", () => {
  replaceText(path, "one");
  replaceText(path, "two");
  expect(readFileSync(path, "utf8")).toBe("two");
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(readdirSync(directory)).toHaveLength(1);
  const nowhere = join(directory, "no", "file");
  expect(failure(() => replaceText(nowhere, "x")).code).toBe("ENOENT");
  expect(failure(() => replaceText(join(directory, "x".repeat(5_000)), "x")).code).toBe(
    "ENAMETOOLONG",
  );
  expect(readFileSync(path, "utf8")).toBe("two");
});

test("what is missing is no error where that is an answer, and one where it is not", () => {
  expect(fileExists(path)).toBe(false);
  expect(openIfThere(path)).toBe(null);
  removeFile(path);
  const error = failure(() => openFile(path, "read"));
  expect(error).toMatchObject({ code: "ENOENT", errno: ERRNO.ENOENT, call: `open ${path}` });
  expect(error.message).toBe(`open ${path}: ENOENT (2)`);
  expect(failure(() => renameFile(path, `${path}2`)).code).toBe("ENOENT");
  writeFileSync(path, "");
  expect(fileExists(path)).toBe(true);
  removeFile(path);
  expect(fileExists(path)).toBe(false);
  expect(openIfThere(directory)).toBe(null);
  symlinkSync("/dev/zero", `${path}-link`);
  expect(openIfThere(`${path}-link`)).toBe(null);
  expect(Bun.spawnSync(["mkfifo", `${path}-pipe`]).exitCode).toBe(0);
  expect(openIfThere(`${path}-pipe`)).toBe(null);
  expect(failure(() => removeFile(directory)).code).toBe("EISDIR");
  expect(failure(() => openIfThere(join("/proc/self/stat", "x"))).code).toBe("ENOTDIR");
});

test("readings that go on beside their caller have all that there is in the end", () => {
  const content = crypto.getRandomValues(new Uint8Array(60_000));
  const whole = Buffer.concat(Array.from({ length: 50 }, () => content));
  writeFileSync(path, whole);
  const fd = openFile(path, "read");
  const into = new Uint8Array(whole.length);
  const third = whole.length / 3;
  const readings = [0, 1, 2].map((i) =>
    beginReadAt(fd, into.subarray(i * third, (i + 1) * third), i * third),
  );
  // What only a thread still uses stays.
  Bun.gc(true);
  expect(readings.map((finish) => finish())).toEqual([third, third, third]);
  expect(Buffer.compare(into, whole)).toBe(0);
  expect(readings.map((finish) => finish())).toEqual([third, third, third]);
  // As readAt at and past the end, and of nothing.
  expect(beginReadAt(fd, into.subarray(0, 100), whole.length - 40)()).toBe(40);
  expect(beginReadAt(fd, into.subarray(0, 100), whole.length + 40)()).toBe(0);
  expect(beginReadAt(fd, into.subarray(0, 0), 0)()).toBe(0);
  closeFile(fd);
});

test("what cannot be read says so when it is asked for", () => {
  const fd = openFile(directory, "read");
  const finish = beginReadAt(fd, new Uint8Array(10), 0);
  expect(failure(finish).code).toBe("EISDIR");
  expect(failure(finish).code).toBe("EISDIR");
  closeFile(fd);
  expect(failure(beginReadAt(fd, new Uint8Array(10), 0)).code).toBe("EBADF");
});

test("memory of readings that were settled is not written to any more", () => {
  writeFileSync(path, new Uint8Array(8 << 20).fill(1));
  const fd = openFile(path, "read");
  const into = new Uint8Array(8 << 20);
  const readings = [beginReadAt(fd, into, 0), beginReadAt(fd, into, 0)];
  settleReadings();
  into.fill(2);
  closeFile(fd);
  expect(readings.map((finish) => finish())).toEqual([into.length, into.length]);
  expect(into.every((byte) => byte === 2)).toBe(true);
});

test("a full disk is said", () => {
  const full = openFile("/dev/full", "update");
  expect(failure(() => writeSome(full, bytes("x"))).errno).toBe(ERRNO.ENOSPC);
  closeFile(full);
});

test("a name with a NUL is refused, not cut", () => {
  writeFileSync(path, "");
  expect(failure(() => openFile(`${path}\0x`, "read")).code).toBe("EINVAL");
  expect(failure(() => removeFile(`${path}\0x`)).code).toBe("EINVAL");
  expect(fileExists(path)).toBe(true);
});

test("no descriptor is inherited", () => {
  const fd = openFile("/dev/null", "read");
  expect(readText(`/proc/self/fdinfo/${fd}`)).toMatch(/^flags:\s*02100000$/m);
  closeFile(fd);
});
