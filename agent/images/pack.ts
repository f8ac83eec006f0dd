/**
 * The other direction: a directory of files becomes an OCI image layout of one gzip layer,
 * which skopeo or oras can push. Extended attributes are not taken along.
 */
import { createReadStream, createWriteStream } from "node:fs";
import { lstat, mkdir, readdir, readlink, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { LvError } from "../../proto/errors.ts";
import { PLATFORM } from "./manifest.ts";
import { tarEnd, tarHeader, tarPadding, toByteString, type TarItem } from "./tar-writer.ts";
import type { ImageConfig } from "./types.ts";

export type PackedImage = { digest: string; sizeBytes: number };

/**
 * Writes the layout into `output` (made when missing, must hold no image yet) under the tag
 * "latest". Owners become 0:0 unless `keepOwners`. Throws BAD_REQUEST for what tar cannot hold.
 */
export async function packRootfs(
  rootfs: string,
  output: string,
  config: Partial<ImageConfig>,
  options: { keepOwners?: boolean } = {},
): Promise<PackedImage> {
  const blobs = join(output, "blobs", "sha256");
  await mkdir(blobs, { recursive: true });
  const layer = await packLayer(rootfs, blobs, options.keepOwners === true);
  const configBlob = await putJson(blobs, imageConfig(config, layer.diffId));
  const manifest = await putJson(blobs, {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: { mediaType: "application/vnd.oci.image.config.v1+json", ...configBlob },
    layers: [
      {
        mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
        digest: layer.digest,
        size: layer.size,
      },
    ],
  });
  const descriptor = {
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    ...manifest,
    platform: PLATFORM,
    annotations: { "org.opencontainers.image.ref.name": "latest" },
  };
  await writeFile(
    join(output, "index.json"),
    JSON.stringify({ schemaVersion: 2, manifests: [descriptor] }),
  );
  await writeFile(join(output, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  return { digest: manifest.digest, sizeBytes: layer.size };
}

function imageConfig(config: Partial<ImageConfig>, diffId: string): object {
  return {
    ...PLATFORM,
    config: {
      Env: config.env ?? ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      ...(config.entrypoint == null ? {} : { Entrypoint: config.entrypoint }),
      ...(config.cmd == null ? {} : { Cmd: config.cmd }),
      ...(config.user === undefined ? {} : { User: config.user }),
      ...(config.workingDir === undefined ? {} : { WorkingDir: config.workingDir }),
      ...(config.stopSignal === undefined ? {} : { StopSignal: config.stopSignal }),
    },
    rootfs: { type: "layers", diff_ids: [diffId] },
  };
}

async function putJson(blobs: string, value: object): Promise<{ digest: string; size: number }> {
  const bytes = Buffer.from(JSON.stringify(value));
  const hex = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
  await writeFile(join(blobs, hex), bytes);
  return { digest: `sha256:${hex}`, size: bytes.length };
}

async function packLayer(
  rootfs: string,
  blobs: string,
  keepOwners: boolean,
): Promise<{ digest: string; size: number; diffId: string }> {
  const plain = new Bun.CryptoHasher("sha256");
  const packed = new Bun.CryptoHasher("sha256");
  let size = 0;
  const part = join(blobs, "layer.part");
  await pipeline(
    Readable.from(tarOf(rootfs, keepOwners)),
    watchBytes((chunk) => plain.update(chunk)),
    createGzip({ level: 6 }),
    watchBytes((chunk) => {
      packed.update(chunk);
      size += chunk.length;
    }),
    createWriteStream(part),
  );
  const hex = packed.digest("hex");
  await rename(part, join(blobs, hex));
  return { digest: `sha256:${hex}`, size, diffId: `sha256:${plain.digest("hex")}` };
}

function watchBytes(see: (chunk: Buffer) => void): Transform {
  return new Transform({
    transform(chunk: Buffer, _encoding, done): void {
      see(chunk);
      done(null, chunk);
    },
  });
}

/** Parents before children, names sorted, the first name of a hard link group carries the data. */
async function* tarOf(rootfs: string, keepOwners: boolean): AsyncGenerator<Uint8Array> {
  const links = new Map<string, string>();
  const todo = [""];
  for (let path = todo.pop(); path !== undefined; path = todo.pop()) {
    const full = join(rootfs, path);
    const stats = await lstat(full);
    const inode = `${stats.dev}:${stats.ino}`;
    const known = links.get(inode);
    const item: TarItem = {
      name: path === "" ? "." : toByteString(path),
      kind: kindOf(stats, full),
      mode: stats.mode & 0o7777,
      uid: keepOwners ? stats.uid : 0,
      gid: keepOwners ? stats.gid : 0,
      mtime: Math.floor(stats.mtimeMs / 1000),
    };
    if (item.kind === "directory") {
      const names = (await readdir(full)).sort().reverse();
      todo.push(...names.map((name) => (path === "" ? name : `${path}/${name}`)));
      yield tarHeader(item);
    } else if (known !== undefined) {
      yield tarHeader({ ...item, kind: "hardlink", linkName: known });
    } else {
      if (stats.nlink > 1) links.set(inode, item.name);
      if (item.kind === "symlink") item.linkName = toByteString(await readlink(full));
      if (item.kind === "file") item.size = stats.size;
      if (item.kind === "char" || item.kind === "block") {
        // The C library's split of a dev_t, within what tar can say.
        item.major = (stats.rdev >>> 8) & 0xfff;
        item.minor = (stats.rdev & 0xff) | ((stats.rdev >>> 12) & 0xfff00);
      }
      yield tarHeader(item);
      if (item.kind === "file") yield* fileBytes(full, stats.size);
    }
  }
  yield tarEnd();
}

function kindOf(stats: Awaited<ReturnType<typeof lstat>>, path: string): TarItem["kind"] {
  if (stats.isFile()) return "file";
  if (stats.isDirectory()) return "directory";
  if (stats.isSymbolicLink()) return "symlink";
  if (stats.isCharacterDevice()) return "char";
  if (stats.isBlockDevice()) return "block";
  if (stats.isFIFO()) return "fifo";
  throw new LvError("BAD_REQUEST", `Cannot pack "${path}": a socket has no place in an image`);
}

async function* fileBytes(path: string, size: number): AsyncGenerator<Uint8Array> {
  let done = 0;
  for await (const chunk of createReadStream(path)) {
    done += (chunk as Buffer).length;
    yield chunk as Buffer;
  }
  if (done !== size)
    throw new LvError("BAD_REQUEST", `Cannot pack "${path}": it changed while it was read`);
  yield tarPadding(size);
}
