/** Tars on disk, laid over each other as a build does it. */
import { LayeredWriter } from "../../../agent/images/emit.ts";
import { Flattener } from "../../../agent/images/flatten.ts";

/** Returns the image's size in bytes and the tree it was made of. */
export async function writeImage(
  path: string,
  tars: readonly string[],
): Promise<{ sizeBytes: number; flattener: Flattener }> {
  const flattener = new Flattener();
  const writer = new LayeredWriter(path, flattener, new AbortController().signal);
  try {
    for (const tar of tars) await writer.add({ path: tar, digest: "sha256:test" });
    return { sizeBytes: await writer.finish(), flattener };
  } finally {
    await writer.close();
  }
}
