/**
 * What the images of this host are called: reference → manifest, `<dir>/blobs/names.json`. A
 * reference names the image it was last resolved to, so a tag that moves takes its name along.
 * Only for people and for placement; a file that is lost or spoilt costs nothing but names.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { writeWhole } from "./durable.ts";

const NAMES_MAX = 10_000;
const File = z.record(z.string(), z.string());

export class ImageNames {
  readonly #path: string;
  #byName: Map<string, string> | null = null;
  #writing: Promise<void> = Promise.resolve();
  constructor(dir: string) {
    this.#path = join(dir, "blobs", "names.json");
  }

  /** Newest last. */
  async of(digest: string): Promise<string[]> {
    return [...(await this.#read())].filter(([, named]) => named === digest).map(([name]) => name);
  }

  /** True when that is news. */
  async set(reference: string, digest: string): Promise<boolean> {
    const names = await this.#read();
    if (names.get(reference) === digest) return false;
    names.delete(reference);
    names.set(reference, digest);
    for (const oldest of names.keys()) {
      if (names.size <= NAMES_MAX) break;
      names.delete(oldest);
    }
    await this.#write();
    return true;
  }

  async forget(digests: readonly string[]): Promise<void> {
    const names = await this.#read();
    const gone = [...names].filter(([, digest]) => digests.includes(digest));
    for (const [name] of gone) names.delete(name);
    if (gone.length > 0) await this.#write();
  }

  async #read(): Promise<Map<string, string>> {
    if (this.#byName !== null) return this.#byName;
    const text = await readFile(this.#path, "utf8").catch(() => "{}");
    // Who came second while the file was read shares the first one's map.
    this.#byName ??= new Map(Object.entries(parse(text)));
    return this.#byName;
  }

  /** One after the other: the last one written is the newest. */
  async #write(): Promise<void> {
    const text = JSON.stringify(Object.fromEntries(this.#byName ?? []));
    this.#writing = this.#writing.then(() => writeWhole(this.#path, text)).catch(() => undefined);
    await this.#writing;
  }
}

function parse(text: string): Record<string, string> {
  try {
    return File.parse(JSON.parse(text));
  } catch {
    return {}; // names come again with the next pulls
  }
}
