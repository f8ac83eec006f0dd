/**
 * What a quickstart has started, in <cache>/quickstart/<pid>.json, so that the next
 * one can clear up after one that was killed. Processes are named by pid and start
 * time, so a pid that is somebody else's by now is left alone.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { stopLab } from "../lab/lab.ts";
import { cacheDir } from "../paths.ts";
import { endLeftoverVmms } from "./host.ts";
import { isAlive, nameProcess, stopProcess, type ProcessName } from "./process.ts";

const Name = z.object({ pid: z.int(), startTime: z.int() });
const Entry = z.object({
  owner: Name,
  runDir: z.string(),
  labName: z.string(),
  processes: z.array(Name),
});
type Entry = z.infer<typeof Entry>;

const STOP_GRACE_MS = 15_000;

const ledgerDir = (): string => join(cacheDir(), "quickstart");

/** The list of one quickstart; removed by dispose, when all of it is stopped. */
export class Ledger implements Disposable {
  readonly #path: string;
  readonly #entry: Entry;

  constructor(runDir: string, labName: string) {
    this.#path = join(ledgerDir(), `${process.pid}.json`);
    this.#entry = { owner: nameProcess(process.pid), runDir, labName, processes: [] };
    mkdirSync(ledgerDir(), { recursive: true });
    this.#write();
  }

  add(process: ProcessName): void {
    this.#entry.processes.push(process);
    this.#write();
  }

  #write(): void {
    writeFileSync(`${this.#path}.new`, JSON.stringify(this.#entry));
    renameSync(`${this.#path}.new`, this.#path);
  }

  [Symbol.dispose](): void {
    rmSync(this.#path, { force: true });
  }
}

/** Stops and removes what killed quickstarts have left. Returns how many there were. */
export async function clearLeftovers(): Promise<number> {
  let cleared = 0;
  for (const path of ledgerFiles()) {
    const entry = readEntry(path);
    if (entry !== null && isAlive(entry.owner)) continue;
    if (entry !== null) await clear(entry);
    rmSync(path, { force: true });
    cleared += 1;
  }
  return cleared;
}

/** Last started, first stopped; the agent before the machines it would look after. */
async function clear(entry: Entry): Promise<void> {
  for (const process of entry.processes.toReversed()) await stopProcess(process, STOP_GRACE_MS);
  await endLeftoverVmms(join(entry.runDir, "agent"));
  await stopLab(entry.labName);
  rmSync(entry.runDir, { recursive: true, force: true });
}

function ledgerFiles(): string[] {
  try {
    return readdirSync(ledgerDir())
      .filter((name) => name.endsWith(".json"))
      .map((name) => join(ledgerDir(), name));
  } catch {
    return []; // there never was a quickstart
  }
}

function readEntry(path: string): Entry | null {
  try {
    return Entry.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return null; // cut off or of another version: nothing in it can be trusted
  }
}
