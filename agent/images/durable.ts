/**
 * Files that are complete under their name or not there at all. What can be fetched again and is
 * checked by its digest when it is used needs no fsync: after a power cut it is wrong or missing,
 * and both are found out. Images are not checked when they are used and are synced.
 */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, open, readdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

/** `<path>.tmp-<pid>-<uuid>`: the process tells whether somebody still writes to it. */
const TEMPORARY = /\.tmp-(\d+)-/;

export function temporaryName(path: string): string {
  return `${path}.tmp-${process.pid}-${randomUUID()}`;
}

/**
 * Removes temporary files of dead processes from a folder, which it makes, and those of this one:
 * for a builder that has not begun to write. Another process may be loading an image.
 */
export async function removeAbandoned(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  for (const name of await readdir(dir)) {
    const pid = TEMPORARY.exec(name)?.[1];
    if (pid === undefined) continue;
    const isOthers = Number(pid) !== process.pid && existsSync(`/proc/${pid}`);
    if (!isOthers) await rm(join(dir, name), { force: true });
  }
}

/** Writes under a temporary name, then renames: whole or not there, but for a power cut. */
export async function writeWhole(path: string, bytes: Uint8Array | string): Promise<void> {
  const temporary = temporaryName(path);
  try {
    await writeFile(temporary, bytes, { flag: "wx", mode: 0o600 });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** As writeWhole, with fsync of the file before and of the directory after the rename. */
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
async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to);
  await syncDirectory(dirname(to));
}

/** What was renamed in it stays renamed. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
