/** The two sides of `bench image`: our store in a child, and skopeo + umoci + mksquashfs in a shell. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { ChildReply } from "./image-child.ts";

export type Sample = { seconds: number; writtenMib: number; peakMib: number };

/** An image store in a process of its own over `dir`. */
export class OurStore implements AsyncDisposable {
  readonly #child: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly #lines: AsyncGenerator<string>;
  constructor(dir: string) {
    this.#child = Bun.spawn([process.execPath, join(import.meta.dir, "image-child.ts"), dir], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    this.#lines = linesOf(this.#child.stdout);
  }

  /** The agent runs already when a machine asks for its image. */
  async ready(): Promise<void> {
    if ((await this.#lines.next()).value !== "ready")
      throw new Error("the image store did not start");
  }

  async pull(reference: string, waiters = 1): Promise<Sample> {
    void this.#child.stdin.write(`${waiters} ${reference}\n`);
    await this.#child.stdin.flush();
    const line = (await this.#lines.next()).value as string | undefined;
    if (line === undefined) throw new Error("the image store ended");
    const reply = JSON.parse(line) as ChildReply;
    if (reply.error !== null) throw new Error(reply.error);
    return {
      seconds: reply.seconds,
      writtenMib: reply.writtenBytes / 2 ** 20,
      peakMib: reply.peakMib,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stdin.end();
    await this.#child.exited;
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      yield text.slice(0, end);
      text = text.slice(end + 1);
    }
  }
}

/** The shell waits for its children, so the kernel adds their bytes to its own. */
const PEER = `
set -e
skopeo copy --quiet --insecure-policy --src-tls-verify=false "docker://$REF" "oci:$DIR/oci:latest"
umoci unpack --image "$DIR/oci:latest" "$DIR/bundle" >/dev/null 2>&1
mksquashfs "$DIR/bundle/rootfs" "$DIR/image.squashfs" -comp zstd -Xcompression-level 1 -no-progress -quiet >/dev/null
cat /proc/$$/io >"$DIR/io"
`;

export async function pullPeer(reference: string, dir: string): Promise<Sample> {
  const started = performance.now();
  const child = Bun.spawn(["sh", "-c", PEER], {
    env: { ...process.env, REF: reference, DIR: dir, TMPDIR: dir },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  const errors = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`the peer failed: ${errors.slice(-2000)}`);
  const seconds = (performance.now() - started) / 1000;
  const io = readFileSync(join(dir, "io"), "utf8");
  const written = Number(/^write_bytes: (\d+)/m.exec(io)?.[1]);
  rmSync(dir, { recursive: true, force: true });
  return { seconds, writtenMib: written / 2 ** 20, peakMib: Number.NaN };
}
