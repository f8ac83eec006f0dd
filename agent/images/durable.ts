/** Files that are complete under their name or not there at all. */
import { randomUUID } from "node:crypto";
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

/** The mark of a temporary name; what bears it belongs to a build that is under way or dead. */
export const TEMPORARY = ".tmp-";

export function temporaryName(path: string): string {
  return `${path}${TEMPORARY}${randomUUID()}`;
}

/** Writes under a temporary name, then fsync, rename and fsync of the directory. */
export async function writeDurably(path: string, bytes: Uint8Array | string): Promise<void> {
  const temporary = temporaryName(path);
  try {
    const file = await open(temporary, "wx", 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await renameDurably(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** `from` must be synced already. */
export async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to);
  const directory = await open(dirname(to), "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
