import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OutputLogReader } from "./output-log-reader.ts";
import { OUTPUT_STREAM, OutputLogWriter } from "./output-log.ts";

let directory = "";
let path = "";
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "leveret-output-"));
  path = join(directory, "output.log");
});
afterEach(() => rmSync(directory, { recursive: true }));

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (data: Uint8Array): string => new TextDecoder().decode(data);

function drain(reader: OutputLogReader, maxBytes = 100): string[] {
  const found: string[] = [];
  for (let i = 0; i < 10_000; i += 1) {
    const records = reader.read(maxBytes);
    if (records.length === 0) return found;
    for (const record of records) found.push(`${record.sequence}:${text(record.data)}`);
  }
  throw new Error("the reader never came to an end");
}

test("what is appended is read once, with all its fields", () => {
  const reader = new OutputLogReader(path, 0);
  expect(reader.read(1000)).toEqual([]);
  const writer = OutputLogWriter.open(path, 10_000);
  expect(writer.append(OUTPUT_STREAM.stdout, 3, 1_700_000_000_123, bytes("one"))).toBe(1);
  expect(writer.append(OUTPUT_STREAM.stderr, 3, 1_700_000_000_124, bytes(""))).toBe(2);
  expect(reader.read(1000)).toEqual([
    { sequence: 1, stream: 1, incarnation: 3, timeMs: 1_700_000_000_123, data: bytes("one") },
    { sequence: 2, stream: 2, incarnation: 3, timeMs: 1_700_000_000_124, data: bytes("") },
  ]);
  expect(reader.read(1000)).toEqual([]);
  writer.append(1, 3, 5, bytes("two"));
  expect(drain(reader)).toEqual(["3:two"]);
  writer.close();
  reader.close();
});

test("the header is 32 bytes, little endian, in the documented order", () => {
  const writer = OutputLogWriter.open(path, 10_000);
  writer.append(2, 7, 258, bytes("ab"));
  writer.close();
  expect(readFileSync(path).toString("hex")).toBe(
    "02000000020000000100000000000000020100000000000007000000000000006162",
  );
});

test("a reader starts after the sequence it is given and respects maxBytes", () => {
  const writer = OutputLogWriter.open(path, 10_000);
  for (let i = 1; i <= 10; i += 1) writer.append(1, 1, i, bytes(`line ${i}`));
  const reader = new OutputLogReader(path, 4);
  expect(reader.read(13).map((record) => record.sequence)).toEqual([5, 6]);
  expect(reader.read(1).map((record) => record.sequence)).toEqual([7]);
  expect(drain(reader)).toEqual(["8:line 8", "9:line 9", "10:line 10"]);
  writer.close();
});

test("both files together stay within the limit and the newest records stay", () => {
  const writer = OutputLogWriter.open(path, 1_000);
  for (let i = 1; i <= 200; i += 1) {
    writer.append(1, 1, i, bytes(`line ${i}`));
    const older = existsSync(`${path}.1`) ? statSync(`${path}.1`).size : 0;
    expect(statSync(path).size + older).toBeLessThanOrEqual(1_000);
  }
  const found = drain(new OutputLogReader(path, 0));
  expect(found.length).toBeGreaterThan(10);
  expect(found.at(-1)).toBe("200:line 200");
  expect(found).toEqual(
    found.map((_, i) => `${201 - found.length + i}:line ${201 - found.length + i}`),
  );
  writer.close();
});

test("a reader that keeps up loses nothing over many rotations", () => {
  const writer = OutputLogWriter.open(path, 1_000);
  const reader = new OutputLogReader(path, 0);
  const found: string[] = [];
  for (let i = 1; i <= 500; i += 1) {
    writer.append(1, 1, i, bytes(`line ${i}`));
    if (i % 9 === 0) found.push(...drain(reader, 20));
  }
  found.push(...drain(reader, 20));
  expect(found).toEqual(Array.from({ length: 500 }, (_, i) => `${i + 1}:line ${i + 1}`));
  writer.close();
});

test("a reader that fell behind goes on in order with what is left", () => {
  const writer = OutputLogWriter.open(path, 1_000);
  const reader = new OutputLogReader(path, 0);
  writer.append(1, 1, 1, bytes("first"));
  expect(drain(reader)).toEqual(["1:first"]);
  for (let i = 2; i <= 300; i += 1) writer.append(1, 1, i, bytes(`line ${i}`));
  const sequences = drain(reader).map((line) => Number(line.split(":")[0]));
  expect(sequences).toEqual([...new Set(sequences)].toSorted((a, b) => a - b));
  expect(sequences.at(-1)).toBe(300);
  writer.close();
});

test("a half-written record is not read, and the next writer cuts it off", () => {
  let writer = OutputLogWriter.open(path, 10_000);
  writer.append(1, 1, 1, bytes("whole"));
  writer.append(1, 1, 2, bytes("broken off"));
  writer.close();
  truncateSync(path, statSync(path).size - 3);
  const reader = new OutputLogReader(path, 0);
  expect(drain(reader)).toEqual(["1:whole"]);
  writer = OutputLogWriter.open(path, 10_000);
  expect(writer.append(1, 2, 3, bytes("after"))).toBe(2);
  expect(drain(reader)).toEqual(["2:after"]);
  writer.close();
});

test("bytes that are no record end the readable part and are cut off", () => {
  let writer = OutputLogWriter.open(path, 10_000);
  writer.append(1, 1, 1, bytes("whole"));
  writer.close();
  appendFileSync(path, new Uint8Array(100).fill(0xff));
  expect(drain(new OutputLogReader(path, 0))).toEqual(["1:whole"]);
  writer = OutputLogWriter.open(path, 10_000);
  expect(writer.sequence).toBe(1);
  expect(statSync(path).size).toBe(37);
  writer.close();
});

test("sequences go on when a writer starts right after a rotation", () => {
  let writer = OutputLogWriter.open(path, 1_000);
  for (let i = 1; i <= 40; i += 1) writer.append(1, 1, i, bytes("x"));
  writer.close();
  truncateSync(path, 0);
  const last = new OutputLogReader(`${path}.1`, 0).read(10_000).at(-1)?.sequence ?? 0;
  expect(last).toBeGreaterThan(1);
  writer = OutputLogWriter.open(path, 1_000);
  expect(writer.append(1, 2, 1, bytes("y"))).toBe(last + 1);
  writer.close();
});

test("data longer than a record is stored as several", () => {
  const writer = OutputLogWriter.open(path, 1_000);
  const long = "0123456789".repeat(90);
  const reader = new OutputLogReader(path, 0);
  const last = writer.append(1, 1, 1, bytes(long));
  expect(last).toBe(2);
  expect(
    drain(reader)
      .map((line) => line.replace(/^\d+:/, ""))
      .join(""),
  ).toBe(long);
  writer.close();
});
