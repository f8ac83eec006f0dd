/**
 * The agent's side of `bench image`: an image store in a process of its own, so that its memory
 * and its written bytes can be told from the benchmark's. One reference per line on stdin, one
 * JSON line back.
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { ImageStore } from "../../agent/images/builder.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";

export type ChildReply = {
  seconds: number;
  writtenBytes: number;
  peakMib: number;
  sizeBytes: number;
  error: string | null;
};

const field = (file: string, name: string): number =>
  Number(
    new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(readFileSync(file, "utf8"))?.[1] ?? Number.NaN,
  );
const written = (): number => field("/proc/self/io", "write_bytes");

const [dir = ""] = process.argv.slice(2);
const config = { mirrors: [], insecure: [] };
const store = new ImageStore({ dir, config, log: silentLog(), clock: systemClock });

// As an agent does when it has connected: its worker runs before the first machine comes.
await store.list();
process.stdout.write("ready\n");
for await (const line of createInterface({ input: process.stdin })) {
  const before = written();
  const started = performance.now();
  let sizeBytes = 0;
  let error: string | null = null;
  try {
    // Ten machines at once where the line says so: "10 reference".
    const [count = "1", reference = ""] = line.split(" ");
    const all = Array.from({ length: Number(count) }, () => store.ensure(reference));
    sizeBytes = (await Promise.all(all))[0]?.sizeBytes ?? 0;
  } catch (thrown) {
    error = String(thrown);
  }
  const reply: ChildReply = {
    seconds: (performance.now() - started) / 1000,
    writtenBytes: written() - before,
    peakMib: field("/proc/self/status", "VmHWM") / 1024,
    sizeBytes,
    error,
  };
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
await store.close();
